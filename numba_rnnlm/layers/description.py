"""Layers as plain values, as a model file names them, and back."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from ..cells import Cell
from ..errors import ModelFileError, shown
from . import LAYERS
from .layer import Layer

Description = dict[str, Any]

MOST_LAYERS = 1000


def describe(layer: Layer) -> Description:
    """The class of a layer and its arguments, ready for JSON; a cell by its name.

    Examples
    --------
    >>> from numba_rnnlm.layers import Dense, Residual
    >>> describe(Residual([Dense(4)]))["layers"][0]["units"]
    4
    """
    values = {field.name: getattr(layer, field.name) for field in fields(layer) if field.init and field.repr}  # type: ignore[arg-type]
    return {"class": type(layer).__name__, **{name: _plain(value) for name, value in values.items()}}


def _plain(value: Any) -> Any:
    if isinstance(value, Layer):
        return describe(value)
    if isinstance(value, Cell):
        return value.name
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def rebuild(told: Mapping[str, Any], classes: Mapping[str, type], cells: Mapping[str, Cell]) -> Layer:
    """The layer that :func:`describe` described: of these classes, with these cells where it names one of them.

    Raises
    ------
    KeyError
        If a class is none of these.
    """
    values = {name: _rebuilt(value, classes, cells) for name, value in told.items() if name != "class"}
    if "cell" in values:
        values["cell"] = cells.get(values["cell"], values["cell"])
    layer: Layer = classes[told["class"]](**values)
    return layer


def _rebuilt(value: Any, classes: Mapping[str, type], cells: Mapping[str, Cell]) -> Any:
    if isinstance(value, Mapping):
        return rebuild(value, classes, cells)
    return [_rebuilt(item, classes, cells) for item in value] if isinstance(value, list) else value


def descriptions(value: Any) -> Iterator[Mapping[str, Any]]:
    """All descriptions of layers in this one, or in a list of them, those within layers too."""
    if isinstance(value, Mapping):
        yield value
        for inner in value.values():
            yield from descriptions(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from descriptions(inner)


def rebuild_all(file: str, described: Sequence[Any], custom: Mapping[str, type], cells: Mapping[str, Cell]) -> list[Layer]:
    """The layers that a file describes: the library's, and those of the classes in ``custom``.

    Raises
    ------
    ModelFileError
        If a class is not known.
    ValueError
        If they are too many.
    """
    everything = list(descriptions(described))
    if len(everything) > MOST_LAYERS:
        raise ValueError(f"it has {len(everything):,} layers, expected at most {MOST_LAYERS:,}")
    classes = {**custom, **LAYERS}
    for one in everything:
        if one["class"] not in classes:
            raise ModelFileError(f"{file!r} has a layer of the class {shown(one['class'])}, which is not known here; load with "
                                 "custom_objects={name: class}.")
    return [rebuild(one, classes, cells) for one in described]
