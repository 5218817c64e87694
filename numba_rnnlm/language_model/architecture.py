"""The network of a language model: its layers, and the weights that it starts from."""

from collections.abc import Callable, Sequence

import numpy as np

from ..cells import Cell
from ..config import ModelConfig
from ..errors import ConfigError, ShapeError, shown
from ..layers import Activation, Add, CharacterEmbedding, Conv1D, Dense, Dropout, Embedding, Layer, Recurrent, Residual
from ..layers.chain import Chain
from ..network import Graph


def build(
    config: ModelConfig, cell: str | Cell | None = None, body: Sequence[Layer] | None = None, symbols: Sequence[str] | None = None
) -> Graph:
    """The language model of this configuration: embedding, the layers of its architecture, softmax over the vocabulary.

    ``cell`` is the cell of the configured name; left out, the one that is registered. ``body`` are layers in place of those of the architecture.
    ``symbols`` are those of the vocabulary, in the order of their ids, for an architecture that spells them.

    Examples
    --------
    >>> build(ModelConfig(vocabulary_size=50, hidden=32, embedding=16, layers=1)).names
    ('embedding', 'lstm', 'dense')
    """
    if config.vocabulary_size is None:
        raise ConfigError("vocabulary_size is not known; give it, or train on text.")
    layers: list[Layer] = [_first(config, symbols)]
    body = BODIES[config.architecture](config, cell or config.cell) if body is None else body
    for layer in body:
        if not layer.causal:
            raise ConfigError(f"{shown(layer)} {layer.why_not_causal}.")
    layers += body
    shape = Chain(tuple(layers)).output((1, 1))
    if len(shape) != 3:
        raise ShapeError("the body of a language model returns a vector for every step, so its last recurrent layer needs return_sequences=True.")
    if config.tied and shape[-1] != config.embedding:
        layers.append(Dense(config.embedding, use_bias=False))
    layers.append(Dense(config.vocabulary_size, "softmax", tied=config.tied))
    return Graph(layers)


def _first(config: ModelConfig, symbols: Sequence[str] | None) -> Layer:
    """The layer that turns ids into vectors."""
    assert config.vocabulary_size is not None
    if config.architecture == "char-cnn":
        spelled = symbols or [str(id) for id in range(config.vocabulary_size)]  # without a vocabulary only the layers behind it count
        return CharacterEmbedding(spelled, size=config.embedding)
    # Inputs of unit size teach the layers above them much sooner than small ones; a matrix that is also the
    # output layer must start small.
    return Embedding(config.vocabulary_size, config.embedding, standard_deviation=0.1 if config.tied else 1.0)


# The layers between embedding and output, by the name of the architecture


def _recurrent(config: ModelConfig, cell: str | Cell) -> list[Layer]:
    """Recurrent layers, with dropout before each of them and behind the last one (Zaremba et al. 2014)."""
    layers: list[Layer] = []
    for _ in range(config.layers):
        layers += [*_dropout(config), Recurrent(config.hidden, True, cell, config.forget_bias)]
    return layers + _dropout(config)


def _recurrent_on_characters(config: ModelConfig, cell: str | Cell) -> list[Layer]:
    """The same without dropout on the words' vectors (Kim et al. 2016)."""
    return _recurrent(config, cell)[len(_dropout(config)) :]


def _convolutions(config: ModelConfig, cell: str | Cell) -> list[Layer]:
    """Residual blocks of two causal convolutions; each block sees twice as far as the one before (Bai et al. 2018, without weight normalisation)."""
    layers: list[Layer] = []
    size = config.embedding
    for level in range(config.layers):
        block: list[Layer] = []
        for _ in range(2):
            block += [Conv1D(config.hidden, config.kernel, padding="causal", dilation_rate=2**level, activation="relu"), *_dropout(config)]
        layers += [Residual(block) if size == config.hidden else Add([block, Dense(config.hidden)]), Activation("relu")]
        size = config.hidden
    return layers


def _dropout(config: ModelConfig) -> list[Layer]:
    return [Dropout(config.dropout)] if config.dropout else []


BODIES: dict[str, Callable[[ModelConfig, str | Cell], list[Layer]]] = {
    "rnn": _recurrent, "char-cnn": _recurrent_on_characters, "tcn": _convolutions,
}


def initial_weights(graph: Graph, config: ModelConfig, seed: int) -> dict[str, np.ndarray]:
    """Starting weights by the configuration's initialiser."""
    if config.initializer == "glorot":
        return graph.initialize(seed)
    random = np.random.default_rng(seed)
    scale = config.initializer_scale
    return {name: random.uniform(-scale, scale, shape) for name, shape in graph.layout.items()}
