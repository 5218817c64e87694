"""A layer's weights in Keras's shapes and order, and back."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from ..errors import ConfigError, ModelFileError, expect_path, shown
from ..layers import GRU, Layer, Recurrent
from ..network import Graph

Weights = dict[str, np.ndarray]


def expect_our_file(path: str | os.PathLike[str]) -> None:
    """Raise :class:`ConfigError` for a file that by its name would be one of Keras's, :class:`ModelFileError` for what is no path."""
    name = expect_path("path", path, error=ModelFileError)
    if name.lower().endswith((".h5", ".keras")):
        raise ConfigError(f"path is {shown(name)}, expected a name such as 'model.npz': the file is not one of Keras's. "
                          "get_weights() gives arrays that set_weights() of the same layers takes in Keras.")


def to_keras(layer: Layer, weights: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """What ``get_weights()`` of the same layer returns in Keras; of a layer made of layers, their weights in turn.

    A layer that Keras does not have gives its weights in the order of its ``parameters``.

    Examples
    --------
    >>> from numba_rnnlm.layers import GRU
    >>> gru, shapes = GRU(4), GRU(4).parameters((1, 1, 3))
    >>> [array.shape for array in to_keras(gru, {name: np.zeros(shape) for name, shape in shapes.items()})]
    [(3, 12), (4, 12), (2, 12)]
    """
    found: list[np.ndarray] = []
    for part, names in _parts(layer, weights):
        own = {_short(name): weights[name] for name in names}
        if isinstance(part, GRU):
            own = _gru_to_keras(own)
        elif isinstance(part, Recurrent):
            own["b"] = own["b"].reshape(-1)
        found += own.values()
    return found


def from_keras(layer: Layer, names: Iterable[str], arrays: Sequence[np.ndarray]) -> Weights:
    """The weights by our ``names``; ``arrays`` are as :func:`to_keras` returns them."""
    found, rest = Weights(), list(arrays)
    for part, own in _parts(layer, names):
        taken, rest = rest[: len(own)], rest[len(own) :]
        values = dict(zip(map(_short, own), taken, strict=True))
        if isinstance(part, GRU):
            values = _gru_from_keras(values)
        elif isinstance(part, Recurrent):
            values["b"] = values["b"].reshape(-1, part.units)
        found |= {name: values[_short(name)] for name in own}
    return found


def _short(name: str) -> str:
    return name.rpartition("/")[2]


def _parts(layer: Layer, names: Iterable[str]) -> Iterator[tuple[Layer, list[str]]]:
    """The layer, or the layers that it is made of, each with the names of its own weights."""
    left = list(names)
    for part, inner in layer.within().items():
        below = [name for name in left if name.startswith(f"{part}/")]
        left = [name for name in left if name not in below]
        for found, own in _parts(inner, [name.removeprefix(f"{part}/") for name in below]):
            yield found, [f"{part}/{name}" for name in own]
    if left:
        yield layer, left


def _gru_to_keras(weights: Weights) -> Weights:
    """Our gates in W are r u n and in U m r u, Keras's in both z r h; its biases are of the input, then of the state."""
    m, r, u, n, second_r, second_u = weights["b"]
    bias = np.concatenate([u, r, n, second_u, second_r, m])
    return {"W": _blocks(weights["W"], 1, 0, 2), "U": _blocks(weights["U"], 2, 1, 0), "b": bias.reshape(2, -1)}


def _gru_from_keras(weights: Weights) -> Weights:
    (zx, rx, hx), (zh, rh, hh) = weights["b"].reshape(2, 3, -1)
    return {"W": _blocks(weights["W"], 1, 0, 2), "U": _blocks(weights["U"], 2, 1, 0), "b": np.stack([hh, rx, zx, hx, rh, zh])}


def second_biases(graph: Graph, arrays: Mapping[str, np.ndarray], moments: bool) -> dict[str, np.ndarray]:
    """Arrays from a file, where a GRU may still have one bias for each gate: the second one is 0, its ``moments`` are the first's."""
    found = dict(arrays)
    for name, layer in zip(graph.names, graph.layers, strict=True):
        b = found.get(f"{name}/b")
        if isinstance(layer, GRU) and b is not None and b.shape == (4, layer.units):
            found[f"{name}/b"] = np.concatenate([b, b[1:3] if moments else np.zeros_like(b[1:3])])
    return found


def _blocks(columns: np.ndarray, *order: int) -> np.ndarray:
    """The blocks of columns, one a gate, in another order."""
    parts = np.split(columns, len(order), axis=1)
    return np.concatenate([parts[index] for index in order], axis=1)
