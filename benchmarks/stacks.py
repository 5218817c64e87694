"""Language models other than plain recurrent ones, as lists of layers in the form of ``train --body``, between an embedding and a softmax."""

from typing import Any, NamedTuple

Body = list[dict[str, Any]]


class Stack(NamedTuple):
    """Vocabulary, size of the embedding, and the layers between them."""

    vocabulary: int
    embedding: int
    body: Body


def _norm(kind: str = "LayerNormalization") -> dict[str, Any]:
    return {"class": kind}


def _recurrent(cell: str, units: int) -> dict[str, Any]:
    return {"class": "Recurrent", "units": units, "return_sequences": True, "cell": cell}


def _residual(*layers: dict[str, Any]) -> dict[str, Any]:
    return {"class": "Residual", "layers": list(layers)}


def _convolution(filters: int, dilation: int, activation: str | None) -> dict[str, Any]:
    return {"class": "Conv1D", "filters": filters, "kernel_size": 3, "padding": "causal", "dilation_rate": dilation, "activation": activation}


def _head(size: int, window: int) -> Body:
    """A layer of the SHA-RNN with attention (Merity 2019)."""
    attention = {"class": "SingleHeadAttention", "window": window}
    wide = {"class": "FeedForward", "units": 4 * size, "activation": "gelu_sigmoid", "fold": True}
    return [{"class": "Add", "branches": [[_norm()], [_norm(), attention]]}, {"class": "Add", "branches": [[_norm()], [_norm(), wide]]}]


STACKS = {
    "convolutions": Stack(65, 128, [layer for level in range(4) for layer in (
        _residual(_convolution(128, 2**level, "relu"), _convolution(128, 2**level, "relu")), {"class": "Activation", "activation": "relu"})]),
    "transformer": Stack(65, 128, [layer for _ in range(4) for layer in (
        _residual(_norm(), {"class": "MultiHeadAttention", "num_heads": 4, "key_dim": 32, "use_causal_mask": True, "window": 256}),
        _residual(_norm(), {"class": "FeedForward", "units": 512}))]),
    "one head": Stack(65, 256, [_norm(), _recurrent("lstm", 256), *_head(256, 256), _norm(), _recurrent("lstm", 256)]),
    "minGRU": Stack(65, 256, [_residual(_norm("RMSNormalization"), _recurrent("mingru", 256)) for _ in range(4)]),
    "SRU": Stack(65, 256, [_recurrent("sru", 256) for _ in range(4)]),
    "QRNN": Stack(65, 128, [_convolution(128, 1, "relu"), *({"class": "QRNN", "units": 256, "return_sequences": True} for _ in range(3)), _norm()]),
}
