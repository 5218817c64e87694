"""A stack of layers: names and shapes, no numbers."""

import re
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from ..arena import Layout
from ..backends.ops import Ops, Shape
from ..errors import ConfigError, ShapeError, shown
from ..layers import Layer
from ..layers.chain import Chain
from ..layers.layer import Head, above
from ..memory import expect_memory

Mode = Literal["predict", "score", "loss", "train"]  # what a pass computes: outputs, scores of what follows, losses, and gradients, too


NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*")  # matches what a file can call a weight or a state
LONGEST_NAME = 500


class Graph:
    """Layers, one behind the other, with names for their weights. Holds no numbers.

    Parameters
    ----------
    layers
        The first takes ids, as an :class:`~numba_rnnlm.layers.Embedding` does, or vectors.
    features
        Size of the input vectors, if it takes vectors.
    steps
        Length of the sequences, if known. It counts only if a layer flattens them, because then the sizes of weights depend on it.

    Attributes
    ----------
    steps
        The only length of the sequences that the layers take; None if they take any, 0 if it is not known yet.
    names
        Of the layers.
    layout
        Names and shapes of the weights.
    ties
        Names of weights that have no array of their own → the weight whose array they share.

    Examples
    --------
    >>> from numba_rnnlm.layers import Dense, Embedding, LSTM
    >>> graph = Graph([Embedding(100, 8), LSTM(16), Dense(100, "softmax")])
    >>> graph.names, graph.layout["lstm/U"]
    (('embedding', 'lstm', 'dense'), (16, 64))
    """

    def __init__(self, layers: Sequence[Layer], features: int | None = None, steps: int | None = None) -> None:
        if not layers:
            raise ConfigError("the model has no layers; add at least one.")
        self.layers = tuple(layers)
        self.chain = Chain(self.layers)
        self.names = self.chain.names
        self.takes_ids = self.chain.ids is not None
        if not self.takes_ids and features is None:
            raise ConfigError("the first layer is not an Embedding: the size of the input vectors must be known.")
        self.features = features
        self.ties = self._ties()
        if self.ties:
            self.chain = Chain(self.layers, joins=False)
        self.body = Chain(self.layers[:-1], joins=not self.ties)  # all layers but the last one, which a loss takes as a head
        self.steps = self.chain.steps
        if self.steps is None and self.chain.flattens:
            self.steps = steps or 0
        self.layout = Layout(self.chain.parameters(self.input(self.steps or 0, 1)))
        self._state = self.chain.state(self.input(0, 1))
        _expect_names((*self.layout, *self._state))
        # The weights are drawn or read on the host, whatever backend computes with them.
        expect_memory(self.layout.size, "the weights of this model", "the units, the layers or the vocabulary")

    def _ties(self) -> dict[str, str]:
        shape = self.input(0, 1)
        table = self.layers[0].table(shape)
        found = {}
        for name, layer, size in self.chain.inputs(shape):
            for key, (symbols, width) in layer.ties(size).items():
                if table != (symbols, width):
                    raise ConfigError(f"a tied {type(layer).__name__} layer of {symbols} units on {width} features needs an "
                                      f"Embedding({symbols}, {width}) as the first layer.")
                found[f"{name}/{key}"] = f"{self.names[0]}/W"
        return found

    def input(self, steps: int, streams: int) -> Shape:
        """Shape of an input of so many steps and streams."""
        return (steps, streams) if self.takes_ids else (steps, streams, self.features or 0)

    def output(self, shape: Shape) -> Shape:
        """Shape of the output for an input of this shape."""
        self._expect_steps(shape)
        return self.chain.output(shape)

    def _expect_steps(self, shape: Shape) -> None:
        """Raise :class:`ShapeError` for another length than that which the weights are for."""
        if self.chain.flattens and self.steps and shape[0] != self.steps:
            raise ShapeError(f"the sequences have {shape[0]} steps, expected {self.steps}: the weights behind the Flatten are for so many.")

    @property
    def head(self) -> Head:
        """The last layer as one that a loss can be put on. Raises :class:`ConfigError` if it is none."""
        head = self.layers[-1].head()
        if head is None:
            raise ConfigError(f"the last layer is {shown(self.layers[-1])}; to train, end the model with "
                              "Dense(..., activation='softmax') or Dense(..., activation='sigmoid').")
        return head

    def initialize(self, seed: int) -> dict[str, np.ndarray]:
        """Starting weights by name, float64; each layer draws from a generator of its own."""
        weights: dict[str, np.ndarray] = {}
        for index, (name, layer, shape) in enumerate(self.chain.inputs(self.input(self.steps or 0, 1))):
            weights |= above(name, layer.initialize(shape, np.random.default_rng([seed, index])))
        return weights

    def state(self, streams: int) -> Layout:
        """What so many streams carry from one segment to the next; the first axis of each array is the stream."""
        return Layout({name: (streams, *shape[1:]) for name, shape in self._state.items()})

    def activations(self, shape: Shape, mode: Mode) -> Layout:
        """The arrays that a pass over an input of this shape works in."""
        self._expect_steps(shape)
        if mode == "predict":
            return Layout(self.chain.activations(shape, False))
        arrays = self.body.activations(shape, mode == "train")
        if mode != "score":
            arrays |= above(self.names[-1], self.head.loss_activations(self.body.output(shape), mode == "train"))
        return Layout(arrays)

    def expect_memory_for_training(self, ops: Ops, steps: int, streams: int, moments: int, held: int = 0) -> None:
        """Raise :class:`ConfigError` unless all that a training holds, ``held`` elements of it already, fits into the backend's memory."""
        copies, item = 3 + moments, ops.dtype.itemsize  # weights, gradients, the weights to go back to
        expect_memory(copies * self.layout.size + self.activations(self.input(steps, streams), "train").size,
                      f"this training ({copies} times the {self.layout.size / 1e6:,.1f} million weights, and the activations of "
                      f"{streams} streams × {steps} steps)", "the streams, the steps or the units", item, ops.memory(held * item))


def _expect_names(names: Iterable[str]) -> None:
    """Raise :class:`ConfigError` unless a file can hold arrays with these names."""
    for name in names:
        if not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
            raise ConfigError(f"a layer has an array named {shown(name)}, expected letters, digits, '_', '-' and '.', at most {LONGEST_NAME} of them, "
                              "and '/' between the names of a layer and of its array.")
