"""A stack of layers, and the same stack at work with its numbers on one machine."""

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from math import isfinite, prod
from typing import Any

import numpy as np

from . import cells
from .arena import Arena, Layout
from .backends.ops import Array, Ops, Shape, Stage
from .backends.quantisation import round_to_int8
from .cells import Cell
from .config import ModelConfig
from .errors import ConfigError, ShapeError, as_array
from .layers import Dense, Dropout, Embedding, Layer, Recurrent, Run
from .memory import expect_memory
from .portable import stream_key
from .recognition import difference, own_cells, records

KEPT_PASSES = 64  # shapes of input whose views are kept; the least recently used go first


class Model:
    """Layers, one behind the other, with names for their weights. Holds no numbers.

    Parameters
    ----------
    layers
        The first takes ids if it is an :class:`~numba_rnnlm.layers.Embedding`, else vectors.
    features
        Size of the input vectors, where there is no embedding.

    Examples
    --------
    >>> from numba_rnnlm.layers import Dense, Embedding, LSTM
    >>> model = Model([Embedding(100, 8), LSTM(16), Dense(100, "softmax")])
    >>> model.names, model.layout["lstm/U"]
    (('embedding', 'lstm', 'dense'), (16, 64))
    """

    def __init__(self, layers: Sequence[Layer], features: int | None = None) -> None:
        if not layers:
            raise ConfigError("the model has no layers; add at least one.")
        if any(isinstance(layer, Embedding) for layer in layers[1:]):
            raise ShapeError("an Embedding takes ids, so it can only be the first layer.")
        self.layers = tuple(layers)
        self.names = _names(self.layers)
        if sum(getattr(layer, "tied", False) for layer in layers) > 1:
            raise ConfigError("two layers are tied to the embedding; only one can be.")
        self.takes_ids = isinstance(self.layers[0], Embedding)
        if not self.takes_ids and features is None:
            raise ConfigError("the first layer is not an Embedding: the size of the input vectors must be known.")
        self.features = features
        shapes: dict[str, Shape] = {}
        for name, layer, shape in self.inputs(self.input(0, 1)):
            if getattr(layer, "tied", False):
                self._check_tied(layer, shape)
            shapes |= {f"{name}/{key}": size for key, size in layer.parameters(shape).items()}
        self.layout = Layout(shapes)
        # They are drawn or read on the host, whatever computes with them.
        expect_memory(self.layout.size, "the weights of this model", "the units, the layers or the vocabulary")

    def input(self, steps: int, streams: int) -> Shape:
        """Shape of such an input."""
        return (steps, streams) if self.takes_ids else (steps, streams, self.features or 0)

    def inputs(self, shape: Shape) -> list[tuple[str, Layer, Shape]]:
        """Each layer with its name and the shape of its input."""
        found = []
        for name, layer in zip(self.names, self.layers, strict=True):
            found.append((name, layer, shape))
            shape = layer.output(shape)
        return found

    def _check_tied(self, layer: Any, shape: Shape) -> None:
        first = self.layers[0]
        if not isinstance(first, Embedding) or (layer.units, shape[-1]) != (first.input_dim, first.output_dim):
            raise ConfigError(
                f"a tied Dense layer of {layer.units} units on {shape[-1]} features needs an "
                f"Embedding({layer.units}, {shape[-1]}) as the first layer."
            )

    def activations(self, shape: Shape, training: bool) -> list[dict[str, Shape]]:
        """Each layer's arrays for an input of this shape.

        Where a recurrent layer stands on an embedding with far fewer rows than there are ids, it gets a
        :class:`~numba_rnnlm.layers.layer.Lookup`. (A tied layer adds to the table's gradient, which must then be one of rows.)
        """
        inputs = self.inputs(shape)
        found = [layer.activations(size, training) for _, layer, size in inputs]
        embedding, *above = self.layers
        if isinstance(embedding, Embedding) and 2 * embedding.input_dim <= prod(shape) and above:
            recurrent = above[0]
            if isinstance(recurrent, Recurrent) and not any(getattr(layer, "tied", False) for layer in above):
                found[:2] = {}, recurrent.lookup_activations(embedding.input_dim, inputs[1][2], training)
        return found

    def buffers(self, shape: Shape, mode: str) -> Layout:
        """What a pass over an input of this shape computes in; for the modes see :class:`_Pass`."""
        training, inputs = mode == "train", self.inputs(shape)
        used = len(inputs) if mode == "predict" else len(inputs) - 1
        shapes: dict[str, Shape] = {}
        for name, arrays in zip(self.names[:used], self.activations(shape, training), strict=False):
            shapes |= {f"{name}/{key}": value for key, value in arrays.items()}
        if mode in ("loss", "train"):
            name, _, size = inputs[-1]
            shapes |= {f"{name}/{key}": value for key, value in self.head.loss_activations(size, training).items()}
        return Layout(shapes)

    def expect_memory_for_training(self, ops: Ops, steps: int, streams: int, moments: int, held: int = 0) -> None:
        """Raise :class:`ConfigError` unless all that a training holds, ``held`` elements of it already, fits into the backend's memory."""
        copies, item = 3 + moments, ops.dtype.itemsize  # weights, gradients, the weights to go back to
        expect_memory(copies * self.layout.size + self.buffers(self.input(steps, streams), "train").size,
                      f"this training ({copies} times the {self.layout.size / 1e6:,.1f} million weights, and the activations of "
                      f"{streams} streams × {steps} steps)", "the streams, the steps or the units", item, ops.memory(held * item))

    def output(self, shape: Shape) -> Shape:
        """Shape of the output for an input of this shape."""
        _, layer, last = self.inputs(shape)[-1]
        return layer.output(last)

    @property
    def head(self) -> Dense:
        """The last layer, as one that a loss can be put on."""
        head = self.layers[-1]
        if not isinstance(head, Dense):
            raise ConfigError(f"the last layer is {type(head).__name__}; to train, end the model with "
                              "Dense(..., activation='softmax') or Dense(..., activation='sigmoid').")
        return head

    def initialize(self, seed: int) -> dict[str, np.ndarray]:
        """Starting weights by name, float64; each layer draws from a generator of its own."""
        weights: dict[str, np.ndarray] = {}
        for index, (name, layer, shape) in enumerate(self.inputs(self.input(0, 1))):
            values = layer.initialize(shape, np.random.default_rng([seed, index]))
            weights |= {f"{name}/{key}": value for key, value in values.items()}
        return weights

    def state_layout(self, streams: int) -> Layout:
        """What ``streams`` streams carry from one segment to the next."""
        shapes: dict[str, Shape] = {}
        for name, layer, shape in self.inputs(self.input(0, streams)):
            shapes |= {f"{name}/{key}": size for key, size in layer.state(shape).items()}
        return Layout(shapes)

    def scope(self, arena: Arena, name: str, layer: Layer) -> dict[str, Array]:
        """One layer's arrays; tying is one name used twice."""
        arrays = arena.scope(name)
        if getattr(layer, "tied", False) and f"{self.names[0]}/W" in arena:
            arrays["W"] = arena[f"{self.names[0]}/W"]
        return arrays


def _names(layers: Sequence[Layer]) -> tuple[str, ...]:
    counts: dict[str, int] = {}
    names = []
    for layer in layers:
        name = cells.get(layer.cell).name if type(layer) is Recurrent else type(layer).__name__.lower()
        counts[name] = counts.get(name, 0) + 1
        names.append(name if counts[name] == 1 else f"{name}_{counts[name] - 1}")
    return tuple(names)


def build(config: ModelConfig, cell: str | Cell | None = None) -> Model:
    """The language model of this configuration: embedding, recurrent layers, softmax over the vocabulary.

    ``cell`` is the cell of the configured name; left out, the one that is registered.

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
    dropout: list[Layer] = [Dropout(config.dropout)] if config.dropout else []
    for _ in range(config.layers):
        layers += [*dropout, Recurrent(config.hidden, True, cell or config.cell, config.forget_bias)]
    layers += dropout
    if config.tied and config.hidden != config.embedding:
        layers.append(Dense(config.embedding, use_bias=False))
    layers.append(Dense(config.vocabulary_size, "softmax", tied=config.tied))
    return Model(layers)


def initial_weights(model: Model, config: ModelConfig, seed: int) -> dict[str, np.ndarray]:
    """Starting weights by the configuration's initialiser."""
    if config.initializer == "glorot":
        return model.initialize(seed)
    random = np.random.default_rng(seed)
    scale = config.initializer_scale
    return {name: random.uniform(-scale, scale, shape) for name, shape in model.layout.items()}


class Network:
    """A model with its numbers on one machine.

    Parameters
    ----------
    model
        The layers.
    ops
        The machine.
    weights
        Every weight by its name.
    """

    def __init__(self, model: Model, ops: Ops, weights: Mapping[str, np.ndarray]) -> None:
        self.model, self.ops = model, ops
        _expect_weights(weights, model.layout, ops.dtype)  # before memory is taken for them
        expect_memory(model.layout.size, "the weights of this model", "the units, the layers or the vocabulary", ops.dtype.itemsize,
                      ops.memory())
        flat = ops.empty((model.layout.size,))
        ops.fill(flat, 0)
        self.parameters = Arena(model.layout, flat)
        self.version = 0  # of the weights: whoever changes them counts on
        self.set_weights(weights)
        self._gradients: Arena | None = None
        self._decoders: dict[str, tuple[int, Any]] = {}
        self._buffers = threading.local()  # each Python thread computes in buffers of its own

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model, "ops": self.ops, "weights": self.weights(), "cells": records(self.ops, self.model.layers)}

    def __deepcopy__(self, memo: dict[int, Any]) -> "Network":
        return Network(self.model, copy.deepcopy(self.ops, memo), self.weights())

    def __setstate__(self, state: dict[str, Any]) -> None:
        kept = state.pop("cells")
        for name, cell in own_cells(state["model"].layers).items():
            if differs := difference(state["ops"], cell, kept[name]):
                raise ConfigError(f"the pickled model has another cell named {name!r} than the one that is registered here: {differs}. Register "
                                  "the cell that it was trained with.")
        self.__init__(**state)  # type: ignore[misc]

    @property
    def gradients(self) -> Arena:
        """As the parameters; made when first asked for."""
        if self._gradients is None:
            flat = self.ops.empty((self.model.layout.size,))
            self.ops.fill(flat, 0)
            self._gradients = Arena(self.model.layout, flat)
        return self._gradients

    @property
    def held(self) -> int:
        """Elements of the arrays that a training would use, too: weights, gradients, this thread's activations."""
        arrays = [self.parameters.flat, self._buffers.__dict__.get("room"), self._gradients and self._gradients.flat]
        return sum(array.size for array in arrays if array is not None)

    def weights(self) -> dict[str, np.ndarray]:
        """Copies of all weights by name."""
        return {name: self.ops.download(array) for name, array in self.parameters.items()}

    def rounded(self) -> "Network":
        """A copy with every matrix above the embedding as whole numbers of 8 bits times a scale for each of its columns.

        The embedding is rounded only if a layer is tied to it.
        """
        weights, embedding = self.weights(), f"{self.model.names[0]}/W"
        for name in weights:
            if name.endswith(("/W", "/U")) and name != embedding:
                weights[name] = round_to_int8(weights[name])
        if any(getattr(layer, "tied", False) for layer in self.model.layers):
            weights[embedding] = round_to_int8(weights[embedding].T).T
        return Network(self.model, self.ops, weights)

    def set_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Overwrite all weights."""
        self.load(self.parameters, weights)

    def load(self, arena: Arena, arrays: Mapping[str, np.ndarray]) -> None:
        """Overwrite the weights, or another arena on this machine, by arrays of the same names and shapes."""
        _expect_weights(arrays, arena.layout, self.ops.dtype)
        for name, array in arena.items():
            self.ops.copy(self.ops.upload(np.asarray(arrays[name], self.ops.dtype)), array)
        self.version += 1

    def snapshot(self, into: Array | None = None) -> Array:
        """All weights as one buffer on this machine: a new one, or an earlier snapshot that is overwritten."""
        flat = self.parameters.flat
        snapshot = self.ops.empty(flat.shape) if into is None else into
        self.ops.copy(flat, snapshot)
        return snapshot

    def restore(self, snapshot: Array) -> None:
        """The weights of a :meth:`snapshot` again."""
        self.ops.copy(snapshot, self.parameters.flat)
        self.version += 1

    def not_finite(self, arena: Arena) -> list[str]:
        """The names of the arrays that hold NaN or infinity."""
        return [name for name, array in arena.items() if not isfinite(self.ops.norm(array.reshape(-1)))]

    def state(self, streams: int) -> Arena:
        """A fresh state, all zero, for this many streams."""
        layout = self.model.state_layout(streams)
        flat = self.ops.empty((layout.size,))
        self.ops.fill(flat, 0)
        return Arena(layout, flat)

    def predict(self, x: Array, state: Arena) -> Array:
        """The output of the last layer, (T, N, F) or (N, F). The state moves on; the result is overwritten later."""
        return self._pass(x.shape, "predict").forward(x, state, None)

    def logits(self, x: Array, state: Arena) -> Array:
        """Logits (N, V) of what follows the last step of x (T, N). The state moves on."""
        run = self._pass(x.shape, "next")
        hidden = run.forward(x, state, None)
        out = run.extra["logits"]
        self.model.head.logits(self.ops, run.head, hidden[-1], out)
        return out

    def decoder(self, weights: str) -> Any:
        """This machine's copy of the weights for writing, made anew when they have changed; None if it has none."""
        kept: dict[str, tuple[int, Any]] = self._decoders
        if weights not in kept or kept[weights][0] != self.version:
            version, stages = self.version, _stages(self)
            kept[weights] = version, (stages or None) and self.ops.decoder(self.parameters[f"{self.model.names[0]}/W"], stages, weights)
        return kept[weights][1]

    def losses(self, x: Array, targets: Array, state: Arena, logits: Array | None = None) -> Array:
        """The loss of every row (T·N) of targets, in nats; 0 where the target is -1. The state moves on.

        ``logits``, of the shape of the output, if given, receives what the losses were computed from.
        """
        run = self._pass(x.shape, "loss")
        hidden = run.forward(x, state, None)
        if logits is not None:
            self.model.head.logits(self.ops, run.head, hidden, logits)
        losses = run.extra["losses"]
        self.model.head.losses(self.ops, run.head, hidden, targets, losses)
        return losses

    def train(
        self, x: Array, targets: Array, state: Arena, scale: float, key: int, logits: Array | None = None
    ) -> Array:
        """:meth:`losses`, and ``gradients`` ← gradients of scale · Σ losses. ``key`` draws the dropout masks."""
        if self.model.takes_ids:  # rows are added to its gradient, if a tied layer has not set it; all others are set
            self.ops.fill(self.gradients[f"{self.model.names[0]}/W"], 0)
        run = self._pass(x.shape, "train")
        hidden = run.forward(x, state, key)
        if logits is not None:
            self.model.head.logits(self.ops, run.head, hidden, logits)
        losses = run.extra["losses"]
        run.backward(self.model.head.losses_backward(self.ops, run.head, hidden, targets, scale, losses))
        return losses

    def _pass(self, shape: Shape, mode: str) -> "_Pass":
        key = (tuple(shape), mode)
        passes: OrderedDict[tuple[Shape, str], _Pass] = self._buffers.__dict__.setdefault("passes", OrderedDict())
        if key not in passes:
            while len(passes) >= KEPT_PASSES:
                passes.popitem(last=False)
            passes[key] = _Pass(self, key[0], mode, self._room)
        passes.move_to_end(key)
        return passes[key]

    def _room(self, size: int, what: str) -> Array:
        """Memory for the activations of a pass: the same for all, because each is over before the next begins."""
        buffers = self._buffers.__dict__
        if "room" not in buffers or buffers["room"].size < size:
            buffers["passes"].clear()
            buffers.pop("room", None)  # the smaller one is free before the larger one is asked for
            expect_memory(size, what, "the streams (the batch), the steps or the units", self.ops.dtype.itemsize, self.ops.memory())
            buffers["room"] = self.ops.empty((size,))
        return buffers["room"][:size]


def _stages(network: Network) -> list[Stage]:
    """The layers above the embedding as a decoder takes them; none if it cannot."""
    model, stages = network.model, []
    if not model.takes_ids:
        return []
    for name, layer, _ in model.inputs(model.input(1, 1))[1:]:
        p = model.scope(network.parameters, name, layer)
        if isinstance(layer, Recurrent) and layer.return_sequences and type(layer).bias is Recurrent.bias:
            stages.append(Stage(cells.get(layer.cell), p["W"], p["U"], p["b"]))
        elif isinstance(layer, Dense) and (layer is model.layers[-1] or layer.activation in (None, "linear")):
            stages.append(Stage(None, p["W"], None, p.get("b"), layer.tied))
        elif not isinstance(layer, Dropout):
            return []
    return stages


def _expect_weights(weights: Mapping[str, np.ndarray], layout: Layout, dtype: np.dtype[Any]) -> None:
    if set(weights) != set(layout):
        odd = sorted(set(weights) ^ set(layout))
        raise ShapeError(f"the weights are {sorted(weights)}, expected {sorted(layout)}: see {odd[0]!r}.")
    for name, shape in layout.items():
        if np.shape(weights[name]) != shape:
            raise ShapeError(f"weight {name!r} is {np.shape(weights[name])}, expected {shape}.")
        kind = as_array(f"weight {name!r}", weights[name]).dtype
        if not np.can_cast(kind, dtype, "same_kind"):
            raise ShapeError(f"weight {name!r} is an array of {kind}, expected numbers of {dtype}.")


class _Pass:
    """The arrays of one shape of input, and the order in which the layers use them.

    Modes: "predict" runs all layers; "next", "loss" and "train" leave the last one to its caller.
    """

    def __init__(self, network: Network, shape: Shape, mode: str, room: Callable[[int, str], Array]) -> None:
        model, ops = network.model, network.ops
        self.model, self.ops = model, ops
        training = mode == "train"
        inputs = model.inputs(shape)
        body = inputs if mode == "predict" else inputs[:-1]
        extra: dict[str, Shape] = {}
        *_, size = inputs[-1]
        if mode == "next":
            extra["logits"] = (size[-2], model.head.units)
        elif mode in ("loss", "train"):
            extra["losses"] = (int(np.prod(size[:-1])),)
        layout, extra_layout = model.buffers(shape, mode), Layout(extra)
        activations = Arena(layout, room(layout.size, f"the activations of {shape[1]} streams × {shape[0]} steps"))
        self.extra = Arena(extra_layout, ops.empty((extra_layout.size,)))
        runs = [
            Run(
                model.scope(network.parameters, name, layer),
                model.scope(network.gradients, name, layer) if training else {},
                {},
                activations.scope(name),
            )
            for name, layer, _ in inputs
        ]
        self.head = runs[-1]
        self.body = [(name, layer, run) for (name, layer, _), run in zip(body, runs, strict=False)]
        self._seen: list[Array] = []

    def forward(self, x: Array, state: Arena, key: int | None) -> Array:
        self._seen = []
        for index, (name, layer, run) in enumerate(self.body):
            run.m = state.scope(name)
            run.key = None if key is None else stream_key(key, index)
            self._seen.append(x)
            x = layer.forward(self.ops, run, x)
        return x

    def backward(self, dy: Array) -> None:
        gradient: Array | None = dy
        for (_, layer, run), x in zip(reversed(self.body), reversed(self._seen), strict=True):
            gradient = layer.backward(self.ops, run, x, gradient)
