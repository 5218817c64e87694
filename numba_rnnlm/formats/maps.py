"""A layer's weights in the arrays of another library: its names, its order of gates, its shapes. They are data, read in both directions."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeVar

import numpy as np

from ..backends.ops import Shape
from ..errors import ConfigError, ShapeError, expect_shape
from ..layers import Layer
from ..layers.layer import above, below

T = TypeVar("T")
Weights = dict[str, np.ndarray]


class Entry(NamedTuple):
    """An array of the other library, and the array of ours with the same numbers.

    Both consist of blocks, one for each gate. Ours are columns of a matrix, or rows of a bias (G, H).

    Parameters
    ----------
    name, ours
        The array there and here. Several there may share one here, such as two biases.
    blocks
        Our blocks, in our order. By default, the array is a single block.
    order
        The blocks that the other array consists of, in its order. A minus sign negates one: σ(-x) = 1 - σ(x) is the same gate with the
        opposite meaning. A block that occurs again, here or in another entry, is a sum there: reading adds, writing puts zeros into the second.
    transposed
        Whether the matrix is transposed there, and its blocks are rows.
    shape
        What a bias there is reshaped to, from its blocks one behind the other. By default, an array has as many axes as ours.
    """

    name: str
    ours: str
    blocks: str = "all"
    order: str = "all"
    transposed: bool = False
    shape: tuple[int, ...] | None = None


Map = Iterable[Entry]  # one for each weight that a layer can have, or several
Find = Callable[[Layer, Iterable[str]], Map]  # the map of a layer with weights of these names


def to_theirs(layer: Layer, weights: Mapping[str, np.ndarray], find: Find) -> Weights:
    """The weights of a layer as the other library has them. A layer made of layers has the names of these in front, as in ours.

    Raises
    ------
    ConfigError
        A weight is not in the map.
    """
    found, own = Weights(), _own(layer, weights)
    for name, part in layer.within().items():
        found |= above(name, to_theirs(part, below(weights, name), find))
    return found | _write(_entries(layer, own, find), own)


def from_theirs(layer: Layer, shapes: Mapping[str, Shape], arrays: Mapping[str, np.ndarray], find: Find) -> Weights:
    """The weights of a layer, of these shapes, out of the other library's arrays: the opposite of :func:`to_theirs`.

    Raises
    ------
    ConfigError
        A weight is not in the map.
    ShapeError
        An array is missing or left over, or has another shape.
    """
    found, own, theirs = Weights(), _own(layer, shapes), _own(layer, arrays)
    for name, part in layer.within().items():
        found |= above(name, from_theirs(part, below(shapes, name), below(arrays, name), find))
    entries = _entries(layer, own, find)
    expected = _write(entries, stand_ins(own))
    if set(theirs) != set(expected):
        raise ShapeError(f"{type(layer).__name__} has the arrays {', '.join(sorted(theirs))}, expected {', '.join(sorted(expected)) or 'none'}.")
    for name, array in expected.items():
        expect_shape(f"{type(layer).__name__}: {name}", theirs[name].shape, array.shape)
    return found | _read(entries, own, theirs)


def stand_ins(shapes: Mapping[str, Shape]) -> Weights:
    """Arrays of these shapes that take no memory."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


def _entries(layer: Layer, names: Iterable[str], find: Find) -> list[Entry]:
    """The map of the weights that the layer has. Raises :class:`ConfigError` if one is not in it."""
    names = list(names)
    entries = [entry for entry in find(layer, names) if entry.ours in names]
    if unknown := sorted(set(names) - {entry.ours for entry in entries}):
        raise ConfigError(f"{type(layer).__name__} has the weights {', '.join(unknown)}, which have no counterpart in the other library.")
    return entries


def _own(layer: Layer, arrays: Mapping[str, T]) -> dict[str, T]:
    """What belongs to the layer itself, and not to the layers within it."""
    inner = layer.within()
    return {name: array for name, array in arrays.items() if name.partition("/")[0] not in inner}


def _write(entries: Map, weights: Mapping[str, np.ndarray]) -> Weights:
    """Our blocks in their arrays."""
    found, written = Weights(), set[tuple[str, str]]()
    for entry in entries:
        array, names, parts = weights[entry.ours], entry.blocks.split(), []
        ours = array if entry.shape is None else array.reshape(-1)
        blocks = dict(zip(names, np.split(ours, len(names), axis=-1), strict=True))
        for part in entry.order.split():
            name = part.removeprefix("-")
            block = np.zeros_like(blocks[name]) if (entry.ours, name) in written else blocks[name]
            parts.append(block if part == name else -block)
            written.add((entry.ours, name))
        array = _joined(parts)
        found[entry.name] = array.reshape(entry.shape) if entry.shape is not None else array.T if entry.transposed else array
    return found


def _read(entries: Map, shapes: Mapping[str, Shape], arrays: Mapping[str, np.ndarray]) -> Weights:
    """Our arrays out of their blocks."""
    found = dict[str, Weights]()
    for entry in entries:
        array, order = arrays[entry.name], entry.order.split()
        theirs = array.reshape(-1) if entry.shape is not None else array.T if entry.transposed else array
        blocks = found.setdefault(entry.ours, Weights())
        for part, block in zip(order, np.split(theirs, len(order), axis=-1), strict=True):
            name = part.removeprefix("-")
            block = block if part == name else -block
            blocks[name] = blocks[name] + block if name in blocks else block
    ours = {entry.ours: entry.blocks.split() for entry in entries}
    return {name: _joined([found[name][block] for block in order]).reshape(shapes[name]) for name, order in ours.items()}


def _joined(blocks: list[np.ndarray]) -> np.ndarray:
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=-1)
