"""A layer's weights in Keras's shapes and order, and back."""

import os
from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import ConfigError, ModelFileError, expect_path, shown
from ..layers import GRU, Layer, Recurrent
from ..model import Model

Weights = dict[str, np.ndarray]


def expect_our_file(path: str | os.PathLike[str]) -> None:
    """Raise :class:`ConfigError` for a file that by its name would be one of Keras's, :class:`ModelFileError` for what is no path."""
    name = expect_path("path", path, error=ModelFileError)
    if name.lower().endswith((".h5", ".keras")):
        raise ConfigError(f"path is {shown(name)}, expected a name such as 'model.npz': the file is not one of Keras's. "
                          "get_weights() gives arrays that set_weights() of the same layers takes in Keras.")


def to_keras(layer: Layer, weights: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """What ``get_weights()`` of the same layer is in Keras.

    Examples
    --------
    >>> from numba_rnnlm.layers import GRU
    >>> gru, shapes = GRU(4), GRU(4).parameters((1, 1, 3))
    >>> [array.shape for array in to_keras(gru, {name: np.zeros(shape) for name, shape in shapes.items()})]
    [(3, 12), (4, 12), (2, 12)]
    """
    if not isinstance(layer, Recurrent):
        return [weights[name] for name in ("W", "b") if name in weights]
    W, U, b = weights["W"], weights["U"], weights["b"]
    if layer.cell == "gru":  # W r u n → z r h; U m r u → z r h
        m, r, u, n, second_r, second_u = b
        bias = np.concatenate([u, r, n, second_u, second_r, m])
        return [_blocks(W, 1, 0, 2), _blocks(U, 2, 1, 0), bias.reshape(2, -1)]
    return [W, U, b.reshape(-1)]


def from_keras(layer: Layer, arrays: Sequence[np.ndarray]) -> Weights:
    """The weights by our names; ``arrays`` have the shapes of :func:`to_keras`."""
    if not isinstance(layer, Recurrent):
        names = ("b",) if getattr(layer, "tied", False) else ("W", "b")
        return dict(zip(names, arrays, strict=False))
    W, U, b = arrays
    if layer.cell == "gru":
        (zx, rx, hx), (zh, rh, hh) = b.reshape(2, 3, -1)
        return {"W": _blocks(W, 1, 0, 2), "U": _blocks(U, 2, 1, 0), "b": np.stack([hh, rx, zx, hx, rh, zh])}
    return {"W": W, "U": U, "b": b.reshape(-1, layer.units)}


def second_biases(model: Model, arrays: Mapping[str, np.ndarray], moments: bool) -> dict[str, np.ndarray]:
    """Arrays from a file, where a GRU may still have one bias for each gate: the second one is 0, its ``moments`` are the first's."""
    found = dict(arrays)
    for name, layer in zip(model.names, model.layers, strict=True):
        b = found.get(f"{name}/b")
        if isinstance(layer, GRU) and b is not None and b.shape == (4, layer.units):
            found[f"{name}/b"] = np.concatenate([b, b[1:3] if moments else np.zeros_like(b[1:3])])
    return found


def _blocks(columns: np.ndarray, *order: int) -> np.ndarray:
    """The blocks of columns, one a gate, in another order."""
    parts = np.split(columns, len(order), axis=1)
    return np.concatenate([parts[index] for index in order], axis=1)
