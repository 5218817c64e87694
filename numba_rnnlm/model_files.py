"""Model files of every kind: opened as what they are expected to be, and the layers that they describe."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from .backends.ops import Ops
from .cells import Cell
from .display import clean
from .errors import ConfigError, ModelFileError, expect_kind, shown
from .formats.native import ModelFile, open_model
from .layers import GRU, LAYERS, Layer
from .layers.description import cells_named, rebuild_all
from .network import Graph
from .optimizers import Optimizer
from .recognition import cells_of_file


class Kind(NamedTuple):
    """A kind of file.

    Attributes
    ----------
    load
        What loads it.
    with_cell
        The call that loads it with a custom cell ``{cell}``.
    layers
        Finds the descriptions of its layers in its header; None if there are none.
    """

    load: str
    with_cell: str = ""
    layers: Callable[[Mapping[str, Any]], Any] = lambda about: None


KINDS = {
    "language_model": Kind("LanguageModel.load", "LanguageModel.load(path, cell={cell})", lambda about: about["config"].get("body")),
    "sequential": Kind("Sequential.load", "Sequential.load(path, cells=[{cell}])", lambda about: about["layers"]),
    "state": Kind("TextState.load"),
}


class Custom(NamedTuple):
    """What is not part of the library, by the names that files use."""

    classes: dict[str, type]
    cells: dict[str, Cell]


class Loaded(NamedTuple):
    """A model file, read.

    Attributes
    ----------
    name, about
        Its path and its header.
    groups
        Group → arrays by name.
    layers
        The layers that the header describes; None if it describes none.
    cells
        The custom cells that the header names, by name.
    """

    name: str
    about: dict[str, Any]
    groups: dict[str, dict[str, np.ndarray]]
    layers: list[Layer] | None
    cells: dict[str, Cell]


def load(
    path: str | os.PathLike[str], kind: str, ops: Ops, cells: Sequence[Cell], custom: Custom,
    groups: Callable[[ModelFile], Iterable[str]],
) -> Loaded:
    """Read the file of a model.

    Parameters
    ----------
    path, kind
        The file, and the kind that it must be.
    ops
        The backend on which the model will compute.
    cells
        Custom cells to use, whatever the file says that they compute.
    custom
        Custom layers, and the cells to recognise.
    groups
        The groups of arrays to read from the file.

    Raises
    ------
    ModelFileError
        The file is missing, damaged, or of another kind; or it names a cell or a layer that is not known.
    """
    with open_kind(path, kind) as file:
        name, about = file.name, file.about
        arrays = {group: file.group(group) for group in groups(file)}
    with fitting(name):
        described = KINDS[kind].layers(about)
        named = cells_named([about.get("config"), described], {**custom.classes, **LAYERS})
        found = cells_of_file(name, about, named, cells, custom.cells, ops, KINDS[kind].with_cell)
        layers = None if described is None else rebuild_all(name, described, custom.classes, found)
    return Loaded(name, about, arrays, layers, found)


def custom_in(custom_objects: Any) -> Custom:
    """The argument ``custom_objects`` of a ``load``. Raises :class:`ConfigError` unless it maps names to classes and cells."""
    what = "a mapping of names to classes of layers or optimizers, or to cells, such as {'Mine': Mine}"
    found = Custom({}, {})
    if custom_objects is None:
        return found
    expect_kind("custom_objects", custom_objects, Mapping, what)  # type: ignore[type-abstract]
    for name, value in custom_objects.items():
        if isinstance(value, Cell) and name == value.name:
            found.cells[name] = value
        elif isinstance(name, str) and isinstance(value, type) and issubclass(value, Layer | Optimizer):
            found.classes[name] = value
        elif isinstance(value, Cell):
            raise ConfigError(f"custom_objects has {shown(name)}: {shown(value)}, expected a cell under its own name; dataclasses.replace(cell, name=...) "
                              "gives it another name.")
        else:
            raise ConfigError(f"custom_objects has {shown(name)}: {shown(value)}, expected {what}.")
    return found


@contextmanager
def open_kind(path: str | os.PathLike[str], kind: str) -> Iterator[ModelFile]:
    """:func:`~.formats.native.open_model` for a file of this kind. Raises :class:`ModelFileError` at another one."""
    with open_model(path) as file:
        expect_kind_of_file(kind, file.name, file.about)
        yield file


def expect_kind_of_file(kind: str, name: str, about: Mapping[str, Any]) -> None:
    """Raise :class:`ModelFileError` if the file with this header is of another kind."""
    if (found := about.get("kind")) != kind:
        how = f"; load it in Python, with {KINDS[found].load}" if isinstance(found, str) and found in KINDS else ""
        raise ModelFileError(f"{name!r} holds a {found!r}, expected a {kind!r}{how}.")


@contextmanager
def fitting(name: str) -> Iterator[None]:
    """Turn the errors of code that puts the parts of a file together into a :class:`ModelFileError`: the file is damaged."""
    try:
        yield
    except ModelFileError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise ModelFileError(f"{name!r} is damaged: its parts do not fit together ({error}).") from clean(error)


def second_biases(graph: Graph, arrays: Mapping[str, np.ndarray], moments: bool) -> dict[str, np.ndarray]:
    """Arrays from a file, in which a GRU may still have one bias for each gate: the second one is 0, its ``moments`` are the first's."""
    found = dict(arrays)
    for name, layer in zip(graph.names, graph.layers, strict=True):
        b = found.get(f"{name}/b")
        if isinstance(layer, GRU) and b is not None and b.shape == (4, layer.units):
            found[f"{name}/b"] = np.concatenate([b, b[1:3] if moments else np.zeros_like(b[1:3])])
    return found
