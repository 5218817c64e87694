"""Machine code of GPU kernels on disk: found again, never stale, never half."""

from pathlib import Path

import pytest

from numba_rnnlm import rules
from numba_rnnlm.cells import CELLS, Cell

pytestmark = pytest.mark.device

CAPABILITY = (9, 0)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The module, with a folder of its own."""
    from numba_rnnlm.backends.cuda import kept

    monkeypatch.setattr(kept, "cache_folder", lambda: tmp_path)
    return kept


@pytest.fixture
def kernels():
    from numba_rnnlm.backends.cuda import linear, losses, recurrence, update

    return [
        linear.set_rows, linear.add_rows, losses.log_softmax(32, False), losses.log_softmax(32, True),
        linear.tensor_product("tf32", False, False, True, 4, 3), linear.tensor_product("tf32", False, False, True, 4, 2), linear.tensor_product("bf16", False, False, True, 4, 3),
        linear.float32_product(True, False, True, 4, 3), linear.float32_product(True, False, True, 2, 3),
        *(recurrence.forward_kernel(cell, 16, 1, "tf32") for cell in CELLS.values()),
        *(update.update(rule) for rule in (rules.SGD, rules.ADAM)),
    ]  # fmt: skip


def test_what_was_stored_is_found(kept, kernels):
    codes = [kept.Code(f"entry{number}", bytes([number, 10, 13, 0])) for number in range(len(kernels))]
    for code, kernel in zip(codes, kernels, strict=True):
        assert kept.load(kernel.function, kernel.takes, CAPABILITY) is None
        kept.store(code, kernel.function, kernel.takes, CAPABILITY)
    for code, kernel in zip(codes, kernels, strict=True):
        assert kept.load(kernel.function, kernel.takes, CAPABILITY) == code
        assert kept.load(kernel.function, kernel.takes, (8, 0)) is None


def test_an_edited_cell_is_another_kernel(kept):
    from numba_rnnlm.backends.cuda import recurrence

    gru = CELLS["gru"]
    other = Cell("gru", gru.gates, gru.states, gru.equations, CELLS["tanh"].forward, gru.backward)
    paths = {kept._path(recurrence.forward_row(cell).function, (), CAPABILITY) for cell in (gru, other)}
    assert len(paths) == 2


def test_an_edit_after_the_import_is_for_the_next_process(kept, kernels, monkeypatch):
    """Else what was compiled before would be found under the name of what is written now."""
    path = kept._path(kernels[0].function, (), CAPABILITY)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "edited")
    assert kept._path(kernels[0].function, (), CAPABILITY) == path


@pytest.mark.parametrize("damage", [lambda whole: b"", lambda whole: whole[:-1], lambda whole: whole[:-1] + b"x",
                                    lambda whole: whole[:20], lambda whole: b"\xff" + whole,
                                    lambda whole: whole.replace(b"entry", b"other")])  # fmt: skip
def test_a_damaged_file_is_not_used(kept, kernels, damage):
    kernel = kernels[0]
    kept.store(kept.Code("entry", b"code"), kernel.function, kernel.takes, CAPABILITY)
    path = kept._path(kernel.function, kernel.takes, CAPABILITY)
    path.write_bytes(damage(path.read_bytes()))
    assert kept.load(kernel.function, kernel.takes, CAPABILITY) is None


def test_a_folder_that_cannot_be_written_does_no_harm(kept, kernels, tmp_path):
    (tmp_path / "cuda").write_text("a file where the folder should be")
    kept.store(kept.Code("entry", b"code"), kernels[0].function, kernels[0].takes, CAPABILITY)
    assert kept.load(kernels[0].function, kernels[0].takes, CAPABILITY) is None
