"""The network of a language model: its layers, and the weights that it starts from."""

from collections.abc import Sequence

import numpy as np

from ..cells import Cell
from ..config import ModelConfig
from ..errors import ConfigError, ShapeError, shown
from ..layers import Dense, Dropout, Embedding, Layer, Recurrent
from ..layers.chain import Chain
from ..network import Graph


def build(config: ModelConfig, cell: str | Cell | None = None, body: Sequence[Layer] | None = None) -> Graph:
    """The language model of this configuration: embedding, recurrent layers, softmax over the vocabulary.

    ``cell`` is the cell of the configured name; left out, the one that is registered. ``body`` are the layers in place of the recurrent ones.

    Examples
    --------
    >>> build(ModelConfig(vocabulary_size=50, hidden=32, embedding=16, layers=1)).names
    ('embedding', 'lstm', 'dense')
    """
    if config.vocabulary_size is None:
        raise ConfigError("vocabulary_size is not known; give it, or train on text.")
    # Inputs of unit size teach the layers above them much sooner than small ones; a matrix that is also the
    # output layer must start small.
    deviation = 0.1 if config.tied else 1.0
    layers: list[Layer] = [Embedding(config.vocabulary_size, config.embedding, standard_deviation=deviation)]
    if body is None:
        dropout: list[Layer] = [Dropout(config.dropout)] if config.dropout else []
        body = [layer for _ in range(config.layers) for layer in (*dropout, Recurrent(config.hidden, True, cell or config.cell, config.forget_bias))]
        body += dropout
    for layer in body:
        if not layer.causal:
            raise ConfigError(f"{shown(layer)} sees later steps, which a language model is to predict; use it in a Sequential.")
    layers += body
    shape = Chain(tuple(layers)).output((1, 1))
    if len(shape) != 3:
        raise ShapeError("the body of a language model returns a vector for every step, so its last recurrent layer needs return_sequences=True.")
    if config.tied and shape[-1] != config.embedding:
        layers.append(Dense(config.embedding, use_bias=False))
    layers.append(Dense(config.vocabulary_size, "softmax", tied=config.tied))
    return Graph(layers)


def initial_weights(graph: Graph, config: ModelConfig, seed: int) -> dict[str, np.ndarray]:
    """Starting weights by the configuration's initialiser."""
    if config.initializer == "glorot":
        return graph.initialize(seed)
    random = np.random.default_rng(seed)
    scale = config.initializer_scale
    return {name: random.uniform(-scale, scale, shape) for name, shape in graph.layout.items()}
