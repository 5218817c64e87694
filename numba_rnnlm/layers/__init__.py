"""Layers, with Keras's names and defaults."""

from collections.abc import Callable

from ..suggestions import LAYERS as _INSTEAD
from .attention import AdditiveAttention, Attention, AttentionPooling, MultiHeadAttention, SingleHeadAttention
from .characters import CharacterEmbedding
from .convolution import Conv1D
from .dense import Dense
from .dropout import Dropout
from .embedding import Embedding
from .layer import Layer, Run
from .norms import LayerNormalization, RMSNormalization
from .pointwise import Activation, FeedForward, Highway
from .pooling import AveragePooling1D, Flatten, GlobalAveragePooling1D, GlobalMaxPooling1D, MaxPooling1D
from .positions import PositionEmbedding, SinusoidalPosition
from .qrnn import QRNN
from .recurrent import GRU, LSTM, Recurrent, SimpleRNN
from .wrappers import Add, Concat, Residual

LAYERS: dict[str, type] = {
    kind.__name__: kind for kind in (
        Embedding, CharacterEmbedding, Recurrent, SimpleRNN, LSTM, GRU, QRNN, Conv1D, MaxPooling1D, AveragePooling1D, GlobalMaxPooling1D,
        GlobalAveragePooling1D, Flatten, Dense, Dropout, Activation, LayerNormalization, RMSNormalization, Highway, FeedForward, MultiHeadAttention,
        SingleHeadAttention, Attention, AdditiveAttention, AttentionPooling, PositionEmbedding, SinusoidalPosition,
        Residual, Concat, Add)
}

check: Callable[..., None]  # of numba_rnnlm.checking.layer, set by the package

__all__ = [
    "GRU", "LAYERS", "LSTM", "QRNN", "Activation", "Add", "AdditiveAttention", "Attention", "AttentionPooling", "AveragePooling1D",
    "CharacterEmbedding", "Concat", "Conv1D", "Dense", "Dropout", "Embedding", "FeedForward", "Flatten", "GlobalAveragePooling1D",
    "GlobalMaxPooling1D", "Highway", "Layer", "LayerNormalization", "MaxPooling1D", "MultiHeadAttention", "PositionEmbedding", "RMSNormalization", "Recurrent",
    "Residual", "Run", "SimpleRNN", "SingleHeadAttention", "SinusoidalPosition", "check",
]


def __getattr__(name: str) -> type:
    if name in _INSTEAD:  # not AttributeError: "from numba_rnnlm.layers import name" would drop its message
        raise ImportError(f"numba_rnnlm.layers has no {name}; {_INSTEAD[name]}.")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
