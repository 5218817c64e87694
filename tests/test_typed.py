"""The public interface: the names at the top of the package, and the types that type checkers see."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import numpy as np
import pytest
import typed
from models import LINES, fit, untrained

import numba_rnnlm
from numba_rnnlm import callbacks, config, errors, language_model, optimizers
from numba_rnnlm.arguments import only
from numba_rnnlm.keras import sequential
from numba_rnnlm.layers import LAYERS, Layer

ROOT = Path(__file__).parents[1]
LISTINGS = {path.name: re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
            for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}


# Names


def test_every_error_can_be_imported_from_the_top():
    family = {name: value for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, errors.LanguageModelError)}
    assert len(family) >= 10
    assert family.items() <= {name: getattr(numba_rnnlm, name) for name in numba_rnnlm.__all__}.items()


def test_the_public_names_are_intended():
    names = {name for name, value in vars(numba_rnnlm).items() if not name.startswith("_") and not isinstance(value, ModuleType)}
    modules = {"callbacks", "cells", "layers", "optimizers"}
    assert set(numba_rnnlm.__all__) == names | modules | {"__version__"}
    assert numba_rnnlm.Cell is numba_rnnlm.cells.Cell


# Types


def is_of(value: Any, kind: Any) -> bool:
    """Whether a value exactly matches a type annotation: True is not an int, and np.float64 is not a float."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin in (Union, UnionType):
        return any(is_of(value, part) for part in parts)
    if origin is list:
        return type(value) is list and all(is_of(item, parts[0]) for item in value)
    if origin is dict:
        return type(value) is dict and all(is_of(key, parts[0]) and is_of(item, parts[1]) for key, item in value.items())
    if origin is Iterator:
        return isinstance(value, Iterator) and all(is_of(item, parts[0]) for item in value)
    if origin is np.ndarray:
        return type(value) is np.ndarray and value.dtype.type is get_args(parts[1])[0]
    return type(value) in LAYERS.values() if kind is Layer else type(value) is kind


@pytest.fixture
def checked(monkeypatch):
    """The number of calls of assert_type, each of which checks a value."""
    kinds = []

    def look(value, kind):
        kinds.append(kind)
        assert is_of(value, kind), f"{value!r} is no {kind}"
        return value

    monkeypatch.setattr(typed, "assert_type", look)
    return kinds


def test_a_model_of_text_returns_the_annotated_types(checked, tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text(LINES, encoding="ascii")
    for flag in (False, True):
        model = fit(untrained(), LINES * 8)
        typed.texts(model, path, flag)
    assert len(checked) > 80


def test_a_model_of_ids_returns_the_annotated_types(checked):
    typed.ids(fit(untrained(tokenizer=None, vocabulary_size=11), np.arange(400) % 11))
    assert len(checked) == 5


def test_a_sequential_and_a_cell_return_the_annotated_types(checked, tmp_path):
    for flag in (False, True):
        typed.examples(tmp_path / "model.npz", flag)
    typed.own_cell()
    assert len(checked) > 20


@pytest.mark.parametrize("call", typed.REFUSED, ids=lambda call: str(call.__code__.co_firstlineno))
def test_calls_rejected_by_type_checkers_raise_errors(call):
    with pytest.raises(numba_rnnlm.LanguageModelError) as error:
        call()
    assert len(str(error.value)) > 20


@pytest.mark.parametrize(("value", "kind"), [
    (True, int), (np.float64(1), float), (1, str | None), ([1, "a"], list[int]), ((1,), list[int]), ({"a": 1}, dict[str, float]),
    (iter(["a"]), Iterator[bytes]), (["a"], Iterator[str]), (np.zeros(1, np.float32), typed.Floats), ([0.0], typed.Floats),
])  # fmt: skip
def test_is_of_detects_other_types(value, kind):
    assert not is_of(value, kind)


@pytest.mark.parametrize("name", [name for name, listings in LISTINGS.items() if listings])
def test_type_checkers_read_the_listings(name):
    program = {line.strip() for line in inspect.getsource(typed).splitlines()}
    modules = {line.split(" import ")[0] for line in program if " import " in line}
    for listing in LISTINGS[name]:
        for line in listing.splitlines():
            code = re.sub(r"\s+#.*", "", line).strip()
            assert not code or code in program or code.split(" import ")[0] in modules, f"{code} is not in tests/typed.py"


def test_the_listings_of_the_file_format_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = fit(untrained(), LINES * 8)
    model.save("model.npz")
    read, write = LISTINGS["file-format.md"]
    exec(read, {})
    assert capsys.readouterr().out == f"language_model {model.get_params()['cell']} {model.network_.weights()['embedding/W'].shape}\n"
    exec(write, changed := {})
    weights, saved = changed["model"].network_.weights(), model.network_.weights()
    saved["dense/b"][0] -= 1
    assert all(np.array_equal(weights[name], saved[name]) for name in saved)


def test_there_are_listings():
    assert sum(map(len, LISTINGS.values())) >= 4


# Signatures


def test_overloads_share_the_arguments_of_the_function():
    """Type checkers compare types of common names, but do not notice a missing name."""
    for function in (language_model.LanguageModel.generate, language_model.LanguageModel.stream):
        parameters = inspect.signature(function).parameters.values()
        keywords = {one.name: one.annotation for one in parameters if one.kind is one.KEYWORD_ONLY and one.name not in ("as_bytes", "state")}
        assert keywords == config.Sampling.__annotations__


def test_help_shows_arguments_with_one_allowed_value():
    made = [*LAYERS.values(), *optimizers.OPTIMIZERS.values(), callbacks.EarlyStopping, callbacks.ModelCheckpoint]
    called = [getattr(sequential.Sequential, name) for name in ("compile", "fit", "evaluate", "predict")]
    for one in made + called:
        marked = [item for item in inspect.signature(one).parameters.values() if only(item.annotation)]
        assert marked, one
        for item in marked:  # a value, and a type that allows no other as far as possible
            kind = get_args(item.annotation)[0]
            assert item.kind is item.KEYWORD_ONLY
            assert kind is type(item.default) if kind in (float, type(None)) else get_args(kind) == (item.default,)


def test_every_argument_with_one_value_is_marked():
    """Without the mark, another value would be accepted and ignored."""
    for one in vars(sequential.Sequential).values():
        for item in inspect.signature(one).parameters.values() if inspect.isfunction(one) else ():
            assert get_origin(item.annotation) is not Literal and item.annotation is not None
