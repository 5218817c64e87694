"""Layers as plain values, as a model file names them, and back."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from math import isfinite
from typing import Any

from ..arguments import SAVED
from ..cells import Cell, get
from ..errors import ConfigError, ModelFileError, plain_value, shown
from . import LAYERS
from .layer import Layer, walk
from .recurrent import Recurrent

Description = dict[str, Any]

MOST_LAYERS = 1000


def describe(layer: Layer) -> Description:
    """The class of a layer and its arguments, ready for JSON; a cell by its name.

    Raises
    ------
    ConfigError
        The class has the name of a layer of the library, or is no frozen dataclass, or an argument is not a number, a text, None, a layer, a cell or a
        list or tuple of these.

    Examples
    --------
    >>> from numba_rnnlm.layers import Dense, Residual
    >>> describe(Residual([Dense(4)]))["layers"][0]["units"]
    4
    """
    kind = type(layer)
    if LAYERS.get(kind.__name__, kind) is not kind:
        raise ConfigError(f"the class {kind.__module__}.{kind.__qualname__} has the name of a layer of the library, and a file would load that "
                          "one; give the class another name.")
    if not is_dataclass(layer) or not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise ConfigError(f"the class {kind.__module__}.{kind.__qualname__} is no frozen dataclass, but a file describes a layer by the fields that are "
                          "its arguments, and a model counts on them to stay the same; write @dataclass(frozen=True) in front of the class.")
    values = {field.name: getattr(layer, field.name) for field in fields(layer) if field.init and field.metadata.get(SAVED, True)}
    described = {name: _plain(f"{kind.__name__}: {name}", value) for name, value in values.items()}
    if isinstance(layer, Recurrent) and "cell" in described:
        described["cell"] = get(layer.cell).name
    return {"class": kind.__name__, **described}


def _plain(what: str, value: Any) -> Any:
    value = plain_value(value)
    if isinstance(value, Layer):
        return describe(value)
    if isinstance(value, Cell):
        return {"cell": value.name}
    if isinstance(value, (list, tuple)):
        return [_plain(what, item) for item in value]
    if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and isfinite(value)):
        return value
    raise ConfigError(f"{what} is {shown(value)}, which a model file cannot hold: an argument of a layer is a finite number, a text, None, a layer, "
                      "a cell, or a tuple of these.")


def expect_describable(layers: Sequence[Layer]) -> None:
    """Raise :class:`ConfigError` unless a model of these layers can be saved and loaded again."""
    if (count := sum(1 for _ in walk(layers))) > MOST_LAYERS:
        raise ConfigError(f"the model has {count:,} layers, expected at most {MOST_LAYERS:,}.")
    for layer in layers:
        describe(layer)


def cells_within(layers: Iterable[Layer]) -> Iterator[Cell]:
    """All cells that are arguments of these layers, and of the layers within them."""
    for layer in walk(layers):
        yield from (value for argument in vars(layer).values() for value in _items(argument) if isinstance(value, Cell))


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _items(item)
    else:
        yield value


def rebuild(told: Mapping[str, Any], classes: Mapping[str, type], cells: Mapping[str, Cell]) -> Layer:
    """The layer that :func:`describe` described: of these classes, with these cells where it names one of them. Lists become tuples.

    Raises
    ------
    KeyError
        If a class is none of these.
    """
    values = {name: _rebuilt(value, classes, cells) for name, value in told.items() if name != "class"}
    kind = classes[told["class"]]
    if issubclass(kind, Recurrent) and "cell" in values:
        values["cell"] = cells.get(values["cell"], values["cell"])
    layer: Layer = kind(**values)
    return layer


def _rebuilt(value: Any, classes: Mapping[str, type], cells: Mapping[str, Cell]) -> Any:
    if isinstance(value, Mapping):
        return rebuild(value, classes, cells) if "class" in value else cells.get(value["cell"]) or get(value["cell"])
    return tuple(_rebuilt(item, classes, cells) for item in value) if isinstance(value, list) else value


def cells_named(described: Any, classes: Mapping[str, type]) -> Iterator[str]:
    """The names of the cells in a description, or in a list of them."""
    for one in descriptions(described):
        kind = classes.get(one["class"]) if "class" in one else Recurrent
        if "cell" in one and isinstance(kind, type) and issubclass(kind, Recurrent):
            yield one["cell"]


def descriptions(value: Any) -> Iterator[Mapping[str, Any]]:
    """All mappings in this value, nested ones too: descriptions of layers, and of cells that are arguments of layers."""
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
        if "class" in one and one["class"] not in classes:
            raise ModelFileError(f"{file!r} has a layer of the class {shown(one['class'])}, which is not known here; load it in "
                                 "Python, with custom_objects={name: class}.")
    return [rebuild(one, classes, cells) for one in described]
