"""GPU machine code cached on disk: it is found again, and stale or damaged files are never used."""

import pytest
from numba import config
from own_cells import LOOPS

from numba_rnnlm import rules
from numba_rnnlm.cells import CELLS, Cell

pytestmark = pytest.mark.device

CAPABILITY = (9, 0)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The module, with a cache folder of its own."""
    from numba_rnnlm.backends.cuda import kept

    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    kept.store.cache_clear()
    yield kept
    kept.store.cache_clear()


@pytest.fixture
def kernels():
    from numba_rnnlm.backends.cuda import linear, losses, recurrence, update

    return [
        linear.set_rows, linear.add_rows, losses.softmax(32), losses.softmax(256),
        linear.tensor_product("tf32", False, False, True, 4, 3), linear.tensor_product("tf32", False, False, True, 4, 2), linear.tensor_product("bf16", False, False, True, 4, 3),
        linear.float32_product(True, False, True, 4, 3), linear.float32_product(True, False, True, 2, 3),
        *(recurrence.forward_kernel(cell, 16, 1, "tf32") for cell in LOOPS.values()),
        *(update.update(rule) for rule in (rules.SGD, rules.ADAM)),
    ]  # fmt: skip


def test_saved_code_is_found(kept, kernels):
    codes = [kept.Code(f"entry{number}", bytes([number, 10, 13, 0])) for number in range(len(kernels))]
    for code, kernel in zip(codes, kernels, strict=True):
        assert kept.load(kernel.function, kernel.takes, CAPABILITY) is None
        kept.save(code, kernel.function, kernel.takes, CAPABILITY)
    for code, kernel in zip(codes, kernels, strict=True):
        assert kept.load(kernel.function, kernel.takes, CAPABILITY) == code
        assert kept.load(kernel.function, kernel.takes, (8, 0)) is None


def test_an_edited_cell_is_another_kernel(kept):
    from numba_rnnlm.backends.cuda import recurrence

    gru = CELLS["gru"]
    other = Cell("gru", gru.gates, gru.states, gru.equations, CELLS["tanh"].forward, gru.backward)
    names = {kept._name(recurrence.forward_rows(cell).function, (), CAPABILITY) for cell in (gru, other)}
    assert len(names) == 2


@pytest.mark.parametrize("damage", [lambda whole: b"", lambda whole: whole[:-1], lambda whole: whole[:-1] + b"x",
                                    lambda whole: whole[:20], lambda whole: b"\xff" + whole,
                                    lambda whole: whole.replace(b"entry", b"other")])  # fmt: skip
def test_a_damaged_file_is_not_used(kept, kernels, damage):
    kernel = kernels[0]
    kept.save(kept.Code("entry", b"code"), kernel.function, kernel.takes, CAPABILITY)
    path = kept.store().writable / kept._name(kernel.function, kernel.takes, CAPABILITY)
    path.write_bytes(damage(path.read_bytes()))
    assert kept.load(kernel.function, kernel.takes, CAPABILITY) is None


def test_a_folder_that_cannot_be_written_is_harmless(kept, kernels, tmp_path, monkeypatch):
    (tmp_path / "numba_rnnlm").write_text("a file where the folder should be")
    monkeypatch.setenv("HOME", str(tmp_path / "numba_rnnlm"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.warns(RuntimeWarning, match="compiled kernels are not stored: .*is not a folder"):
        kept.save(kept.Code("entry", b"code"), kernels[0].function, kernels[0].takes, CAPABILITY)
    assert kept.load(kernels[0].function, kernels[0].takes, CAPABILITY) is None
