"""Keras's side of a layer's weights."""

import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..backends.ops import Shape
from ..errors import ConfigError, ModelFileError, expect_path, shown
from ..layers import GRU, Attention, Conv1D, Dense, Embedding, Layer, MultiHeadAttention, Recurrent
from .maps import Entry, Map, Weights, from_theirs, stand_ins, to_theirs

# Without blocks, gates are in the same order: those of Keras's LSTM, i f c o, are our i f g o.
MAPS: dict[type[Layer], Map] = {
    Embedding: [Entry("embeddings", "W")],
    Dense: [Entry("kernel", "W"), Entry("bias", "b")],
    Conv1D: [Entry("kernel", "W"), Entry("bias", "b")],
    Attention: [Entry("scale", "scale", shape=()), Entry("concat_score_weight", "concat_score_weight", shape=())],
    Recurrent: [Entry("kernel", "W"), Entry("recurrent_kernel", "U"), Entry("w", "w"), Entry("bias", "b", shape=(-1,))],
    GRU: [  # Keras's gates z r h are our u r n; r' and u' are the second biases, of the state
        Entry("kernel", "W", "r u n", "u r n"),
        Entry("recurrent_kernel", "U", "m r u", "u r m"),
        Entry("bias", "b", "m r u n r' u'", "u r n u' r' m", shape=(2, -1)),
    ],
}


def _heads(layer: Layer) -> Map:
    """Keras's kernels have an axis of heads."""
    assert isinstance(layer, MultiHeadAttention)
    heads = layer.num_heads
    for theirs, ours, size in (("query", "q", layer.key_dim), ("key", "k", layer.key_dim), ("value", "v", layer.value_dim or layer.key_dim)):
        yield Entry(f"{theirs}/kernel", f"W{ours}", shape=(-1, heads, size))
        yield Entry(f"{theirs}/bias", f"b{ours}", shape=(heads, size))
    yield Entry("attention_output/kernel", "Wo", shape=(heads, layer.value_dim or layer.key_dim, -1))
    yield Entry("attention_output/bias", "bo")


def to_keras(layer: Layer, weights: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """What ``get_weights()`` of the same layer returns in Keras; of a layer made of layers, their weights in turn.

    What Keras does not have keeps its shape, in the order of the layer's ``parameters``.

    Examples
    --------
    >>> from numba_rnnlm.layers import GRU
    >>> gru, shapes = GRU(4), GRU(4).parameters((1, 1, 3))
    >>> [array.shape for array in to_keras(gru, {name: np.zeros(shape) for name, shape in shapes.items()})]
    [(3, 12), (4, 12), (2, 12)]
    """
    return list(to_theirs(layer, weights, _map).values())


def from_keras(layer: Layer, shapes: Mapping[str, Shape], arrays: Sequence[np.ndarray]) -> Weights:
    """The weights of these shapes by our names; ``arrays`` are as :func:`to_keras` returns them."""
    names = to_theirs(layer, stand_ins(shapes), _map)
    return from_theirs(layer, shapes, dict(zip(names, arrays, strict=True)), _map)


def _map(layer: Layer, names: Iterable[str]) -> Map:
    """The map of the layer's class; what it does not have keeps its name and shape."""
    if isinstance(layer, MultiHeadAttention):
        return list(_heads(layer))
    entries = list(next((MAPS[kind] for kind in type(layer).__mro__ if kind in MAPS), ()))
    known = {entry.ours for entry in entries}
    return entries + [Entry(name, name) for name in names if name not in known]


def expect_our_file(path: str | os.PathLike[str]) -> None:
    """Raise :class:`ConfigError` for a file that by its name would be one of Keras's, :class:`ModelFileError` for what is no path."""
    name = expect_path("path", path, error=ModelFileError)
    if name.lower().endswith((".h5", ".keras")):
        raise ConfigError(f"path is {shown(name)}, expected a name such as 'model.npz': the file is not one of Keras's. "
                          "get_weights() gives arrays that set_weights() of the same layers takes in Keras.")
