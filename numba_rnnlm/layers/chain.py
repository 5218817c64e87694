"""Layers one behind the other, as one layer."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

import numpy as np

from ..backends.ops import Array, Ops, Shape
from ..errors import ShapeError
from .layer import Layer, Run, above


class Step(NamedTuple):
    """A layer of a chain, or one that does the work of two neighbours and then has both names, and the shape of its input."""

    names: tuple[str, ...]
    place: int
    layer: Layer
    shape: Shape


@dataclass(frozen=True)
class Chain(Layer):
    """Each layer takes what the one before returns.

    Parameters
    ----------
    layers
        In their order. Without any, the output is the input.
    joins
        Whether two neighbours may be computed as one layer (:meth:`~.layer.Layer.over`).

    Examples
    --------
    >>> from numba_rnnlm.layers import GRU, Dense, Embedding
    >>> chain = Chain((Embedding(100, 8), GRU(16), Dense(10)))
    >>> chain.names, chain.output((20, 32))
    (('embedding', 'gru', 'dense'), (32, 10))
    """

    layers: tuple[Layer, ...]
    joins: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """The kinds of the layers, numbered where there are several of one."""
        names: dict[str, None] = {}
        numbers = defaultdict[str, Iterator[int]](lambda: count(1))
        for layer in self.layers:
            name = layer.kind
            while name in names:
                name = f"{layer.kind}_{next(numbers[layer.kind])}"
            names[name] = None
        return tuple(names)

    def inputs(self, shape: Shape) -> list[tuple[str, Layer, Shape]]:
        """Each layer with its name and the shape of its input."""
        found: list[tuple[str, Layer, Shape]] = []
        for name, layer in zip(self.names, self.layers, strict=True):
            if layer.ids is not None and found:
                raise ShapeError(f"{type(layer).__name__} takes ids, so it can only be the first layer.")
            found.append((name, layer, shape))
            shape = layer.output(shape)
        return found

    def work(self, shape: Shape) -> list[Step]:
        """The layers in the order of their work, neighbours as one where that is cheaper."""
        found: list[Step] = []
        for index, (name, layer, size) in enumerate(self.inputs(shape)):
            joined = None
            if found and self.joins and len(found[-1].names) == 1:
                lower = found[-1]
                joined = layer.over(lower.layer, (lower.names[0], name), lower.shape)
            if joined is None:
                found.append(Step((name,), index, layer, size))
            else:
                found[-1] = Step((lower.names[0], name), index, joined, lower.shape)
        return found

    def output(self, shape: Shape) -> Shape:
        for _, layer, size in self.inputs(shape):
            shape = layer.output(size)
        return shape

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        return {key: size for name, layer, at in self.inputs(shape) for key, size in above(name, layer.parameters(at)).items()}

    def state(self, shape: Shape) -> dict[str, Shape]:
        return {key: size for name, layer, at in self.inputs(shape) for key, size in above(name, layer.state(at)).items()}

    def activations(self, shape: Shape, training: bool) -> dict[str, Shape]:
        found: dict[str, Shape] = {}
        for names, _, layer, size in self.work(shape):
            arrays = layer.activations(size, training)
            found |= above(names[0], arrays) if len(names) == 1 else arrays
        return found

    def initialize(self, shape: Shape, random: np.random.Generator) -> dict[str, np.ndarray]:
        return {key: value for name, layer, at in self.inputs(shape) for key, value in above(name, layer.initialize(at, random)).items()}

    def forward(self, ops: Ops, run: Run, x: Array) -> Array:
        steps: list[Step] = run.memo.get("steps") or self.work(x.shape)
        seen: list[Any] = []
        run.memo |= {"steps": steps, "inputs": seen}
        for names, index, layer, _ in steps:
            for name in names:
                part = run.begin(name, index)
            seen.append(x)
            x = layer.forward(ops, part if len(names) == 1 else run, x)
        return x

    def backward(self, ops: Ops, run: Run, x: Array, dy: Array) -> Array | None:
        gradient: Array | None = dy
        for (names, _, layer, _), seen in zip(reversed(run.memo["steps"]), reversed(run.memo["inputs"]), strict=True):
            gradient = layer.backward(ops, run.part(names[0]) if len(names) == 1 else run, seen, gradient)
        return gradient

    @property
    def ids(self) -> int | None:
        return self.layers[0].ids if self.layers else None

    @property
    def steps(self) -> int | None:
        return self.layers[0].steps if self.layers else None

    def within(self) -> Mapping[str, Layer]:
        return dict(zip(self.names, self.layers, strict=True))

    def matrices(self) -> tuple[str, ...]:
        return tuple(f"{name}/{key}" for name, layer in self.within().items() for key in layer.matrices())

    def ties(self, shape: Shape) -> dict[str, Shape]:
        return {key: size for name, layer, at in self.inputs(shape) for key, size in above(name, layer.ties(at)).items()}
