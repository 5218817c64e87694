"""A graph with its numbers on a backend."""

import copy
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping
from math import isfinite
from typing import Any

import numpy as np

from ..arena import Arena, Layout
from ..backends import get
from ..backends.ops import Array, Decoder, Ops, Shape
from ..backends.quantisation import round_to_int8
from ..cells import BUILT_IN
from ..errors import ConfigError, ShapeError, as_array
from ..layers.description import cells_within, describe
from ..layers.layer import Arrays, Layer, below
from ..memory import expect_memory
from ..recognition import computed, difference, own_cells, probed, records
from .graph import Graph, Mode
from .passes import Pass, Scores, Step
from .state import State
from .vectors import Vectors, computes_vectors

KEPT_PASSES = 64  # shapes of input whose views stay; the least recently used go first


class Network:
    """A graph with its numbers on a backend.

    Parameters
    ----------
    graph
        The layers.
    ops
        The backend.
    weights
        Every weight by its name.

    Attributes
    ----------
    parameters
        The weights on the backend, by name.
    version
        Counts the changes of the weights.
    """

    def __init__(self, graph: Graph, ops: Ops, weights: Mapping[str, np.ndarray]) -> None:
        self.graph, self.ops = graph, ops
        _expect_weights(weights, graph.layout, ops.dtype)  # before memory is taken for them
        expect_memory(graph.layout.size, "the weights of this model", "the units, the layers or the vocabulary", ops.dtype.itemsize,
                      ops.memory())
        self.parameters = self._zeros()
        self.version = 0
        self.set_weights(weights)
        self._vectors = Vectors(graph, ops, self._with_ties(self.parameters)) if computes_vectors(graph.layers[0]) else None
        self._digest = -1, ""
        self._gradients: Arena | None = None
        self._decoders: dict[str, tuple[int, Decoder | None]] = {}
        self._buffers = threading.local()  # each Python thread computes in buffers of its own

    def __getstate__(self) -> dict[str, Any]:
        return {"graph": self.graph, "ops": self.ops, "weights": self.weights(), "cells": records(self.ops, self.graph.layers)}

    def __deepcopy__(self, memo: dict[int, Any]) -> "Network":
        return Network(self.graph, copy.deepcopy(self.ops, memo), self.weights())

    def __setstate__(self, state: dict[str, Any]) -> None:
        recorded = state.pop("cells")
        for name, cell in own_cells(state["graph"].layers).items():
            if differs := difference(state["ops"], cell, recorded[name]):
                raise ConfigError(f"the pickled model has another cell named {name!r} than the one that is registered here: {differs}. Register "
                                  "the cell that it was trained with.")
        vars(self).update(vars(Network(**state)))

    def _zeros(self) -> Arena:
        flat = self.ops.empty((self.graph.layout.size,))
        self.ops.fill(flat, 0)
        return Arena(self.graph.layout, flat)

    @property
    def gradients(self) -> Arena:
        """Of the weights, by name; allocated when first asked for."""
        if self._gradients is None:
            self._gradients = self._zeros()
        return self._gradients

    @property
    def held(self) -> int:
        """Elements of the arrays that a training would use, too: weights, gradients, this thread's activations."""
        arrays = [self.parameters.flat, self._buffers.__dict__.get("memory"), self._gradients and self._gradients.flat]
        return sum(array.size for array in arrays if array is not None)

    def weights(self) -> dict[str, np.ndarray]:
        """Copies of all weights by name."""
        return {name: self.ops.download(array) for name, array in self.parameters.items()}

    def rounded(self) -> "Network":
        """A copy whose matrices are whole numbers of 8 bits times a scale for each column.

        An embedding's table is no factor of a product, and stays as it is unless a layer is tied to it.
        """
        weights = self.weights()
        for name in self.graph.chain.matrices():
            owner = self.graph.ties.get(name, name)
            weights[owner] = self._rounded(name, weights[owner])
        return Network(self.graph, self.ops, weights)

    def digest(self) -> str:
        """SHA-256 of the layers and of their weights as float32: equal for networks that compute the same, on whatever backend."""
        version, found = self._digest
        if version != self.version:
            version, hashed = self.version, hashlib.sha256(repr([describe(layer) for layer in self.graph.layers]).encode())
            for cell in cells_within(self.graph.layers):
                if cell.name not in BUILT_IN:
                    hashed.update(repr((probed(get("reference"), cell), computed(cell))).encode())  # the same numbers for every backend
            for name, array in self.parameters.items():
                hashed.update(name.encode() + np.ascontiguousarray(self.ops.download(array), np.float32).tobytes())
            found = hashed.hexdigest()
            self._digest = version, found
        return found

    def set_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Overwrite all weights."""
        self.load(self.parameters, weights)
        self.changed()

    def changed(self) -> None:
        """Note that the weights have changed. Whoever changes them elsewhere than here calls this."""
        self.version += 1

    def load(self, arena: Arena, arrays: Mapping[str, np.ndarray]) -> None:
        """Overwrite an arena on this backend by arrays of the same names and shapes."""
        _expect_weights(arrays, arena.layout, self.ops.dtype)
        for name, array in arena.items():
            self.ops.copy(self.ops.upload(np.asarray(arrays[name], self.ops.dtype)), array)

    def snapshot(self, into: Array | None = None) -> Array:
        """All weights as one buffer on this backend: a new one, or an earlier snapshot that is overwritten."""
        flat = self.parameters.flat
        snapshot = self.ops.empty(flat.shape) if into is None else into
        self.ops.copy(flat, snapshot)
        return snapshot

    def restore(self, snapshot: Array) -> None:
        """The weights of a :meth:`snapshot` again."""
        self.ops.copy(snapshot, self.parameters.flat)
        self.changed()

    def not_finite(self, arena: Arena) -> list[str]:
        """The names of the arrays that hold NaN or infinity."""
        return [name for name, array in arena.items() if not isfinite(self.ops.norm(array.reshape(-1)))]

    def state(self, streams: int) -> State:
        """A fresh state, all zero, for this many streams."""
        return State(self.ops, self.graph.state(streams))

    def predict(self, x: Array, state: State) -> Array:
        """The output of the last layer, (T, N, F) or (N, F). The state moves on; the result is overwritten later."""
        return self._pass(x.shape, "predict").forward(x, state, None)

    def read(self, x: Array, state: State) -> None:
        """The state moves on behind x (T, N); what follows is not computed."""
        self._pass(x.shape, "score").forward(x, state, None)

    def scores(self, x: Array, state: State) -> Array:
        """Scores (N, V) of what follows the last step of x (T, N). The state moves on; the result is overwritten later."""
        work = self._pass(x.shape, "score")
        hidden = work.forward(x, state, None)
        out = work.results["scores"]
        self.graph.head.scores(self.ops, work.last, hidden[-1] if hidden.ndim == 3 else hidden, out)
        return out

    def losses(self, x: Array, targets: Array, state: State, scores: Array | None = None) -> Array:
        """The loss of every row (T·N) of targets, in nats; 0 where the target is -1. The state moves on.

        ``scores``, of the shape of the output, if given, receives what the losses were computed from.
        """
        work = self._pass(x.shape, "loss")
        hidden = work.forward(x, state, None)
        if scores is not None:
            self.graph.head.scores(self.ops, work.last, hidden, scores)
        losses = work.results["losses"]
        self.graph.head.losses(self.ops, work.last, hidden, targets, losses)
        return losses

    def differentiate(
        self, x: Array, targets: Array, state: State, scale: float, key: int, scores: Array | None = None, add: bool = False
    ) -> Array:
        """:meth:`losses`, and ``gradients`` ← gradients of scale · Σ losses; with ``add``, they are added to what is there.

        ``key`` draws the dropout masks.
        """
        work = self._pass(x.shape, "train")
        hidden = work.forward(x, state, key)
        if scores is not None:
            self.graph.head.scores(self.ops, work.last, hidden, scores)
        work.begin_gradients(add)
        losses = work.results["losses"]
        work.backward(x, self.graph.head.losses_backward(self.ops, work.last, hidden, targets, scale, losses))
        return losses

    def decoder(self, weights: str) -> Decoder | None:
        """This backend's copy of the weights for generation, made again when they have changed; None if it has none."""
        if weights not in self._decoders or self._decoders[weights][0] != self.version:
            version, (table, steps) = self.version, self._steps()
            self._decoders[weights] = version, self.ops.decoder(table, steps, weights)
        return self._decoders[weights][1]

    def _steps(self) -> tuple[Array | None, list[Step]]:
        """The first layer's table, if it has one, and the other layers as a decoder sees them."""
        graph, p = self.graph, self._with_ties(self.parameters)
        layers = graph.chain.inputs(graph.input(1, 1))
        if (table := graph.layers[0].vectors(self.ops, below(p, graph.names[0]))) is not None:
            del layers[0]
        return table, [self._step(name, layer, shape, below(p, name)) for name, layer, shape in layers]

    def _step(self, name: str, layer: Layer, shape: Shape, own: Arrays) -> Step:
        def rounded() -> Arrays:
            return {**own, **{key: self.ops.upload(self._rounded(f"{name}/{key}", self.ops.download(own[key]))) for key in layer.matrices()}}

        return Step(Scores(self.graph.head, layer) if name == self.graph.names[-1] else layer, name, own, rounded, shape)

    def _rounded(self, name: str, matrix: np.ndarray) -> np.ndarray:
        """A matrix as whole numbers of 8 bits times a scale for each column; a product takes the table of a tie transposed."""
        if name in self.graph.ties:
            return round_to_int8(matrix.T).T
        return round_to_int8(matrix.reshape(-1, matrix.shape[-1])).reshape(matrix.shape)  # a kernel's column is a filter

    def _with_ties(self, arena: Arena) -> Arrays:
        """The arrays by all names, those of ties, too."""
        return {**arena, **{name: arena[shared] for name, shared in self.graph.ties.items()}}

    def _pass(self, shape: Shape, mode: Mode) -> Pass:
        key = (tuple(shape), mode)
        passes: OrderedDict[tuple[Shape, str], Pass] = self._buffers.__dict__.setdefault("passes", OrderedDict())
        if key not in passes:
            while len(passes) >= KEPT_PASSES:
                passes.popitem(last=False)
            gradients = self._with_ties(self.gradients) if mode == "train" else {}
            graph, parameters = self.graph, self._with_ties(self.parameters)
            if mode != "train" and self._vectors is not None:
                graph, parameters = self._vectors.graph, self._vectors.parameters
            passes[key] = Pass(graph, self.ops, parameters, gradients, key[0], mode, self._memory)
        if mode != "train" and self._vectors is not None:
            self._vectors.update(self.version)
        passes.move_to_end(key)
        return passes[key]

    def _memory(self, size: int, what: str) -> Array:
        """Memory for the activations of a pass: the same for all, because each is over before the next begins."""
        buffers = self._buffers.__dict__
        if "memory" not in buffers or buffers["memory"].size < size:
            buffers["passes"].clear()
            buffers.pop("memory", None)  # the smaller one is freed before the larger one is allocated
            expect_memory(size, what, "the streams (the batch), the steps or the units", self.ops.dtype.itemsize, self.ops.memory())
            buffers["memory"] = self.ops.empty((size,))
        return buffers["memory"][:size]


def _expect_weights(weights: Mapping[str, np.ndarray], layout: Layout, dtype: np.dtype[Any]) -> None:
    if set(weights) != set(layout):
        odd = sorted(set(weights) ^ set(layout))
        raise ShapeError(f"the weights are {sorted(weights)}, expected {sorted(layout)}: see {odd[0]!r}.")
    for name, shape in layout.items():
        if np.shape(weights[name]) != shape:
            raise ShapeError(f"weight {name!r} is {np.shape(weights[name])}, expected {shape}.")
        array = as_array(f"weight {name!r}", weights[name])
        if not np.can_cast(array.dtype, dtype, "same_kind"):
            raise ShapeError(f"weight {name!r} is an array of {array.dtype}, expected numbers of {dtype}.")
