"""Test cases for the checks of a layer: a layer with an input, weights and a state."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from .. import backends
from ..arena import Arena, Layout
from ..backends import complex_step
from ..backends.complex_step import STEP
from ..backends.ops import Array, Ops, Shape
from ..errors import CheckError, shown
from ..layers import Layer, Run
from ..layers.layer import Head
from .comparing import Arrays, floats

KEY = 1234  # random key of a training step
SCALE = 0.5  # factor of the losses


class Case:
    """A layer with random inputs. Backends get copies, because an upload may share memory with its source.

    Parameters
    ----------
    layer, shape
        The layer, and the shape of its input.
    random
        Draws all numbers.

    Attributes
    ----------
    x, weights, state, dy
        The input, the weights by name, the state left by earlier steps, and the gradient of the output.
    sequences
        Whether the first axis of the input is time and the second the streams.
    """

    def __init__(self, layer: Layer, shape: Shape, random: np.random.Generator) -> None:
        self.layer, self.shape, self.random = layer, shape, random
        self.sequences = layer.ids is not None or len(shape) == 3

    def __str__(self) -> str:
        axes = ("steps", "streams", "features") if self.sequences else ("streams", "features")
        return f"{shown(self.layer)}, input ({', '.join(axes[: len(self.shape)])}) = {self.shape}"

    @cached_property
    def x(self) -> np.ndarray:
        return self._draw()

    def _draw(self) -> np.ndarray:
        ids = self.layer.ids
        return floats(self.random, *self.shape) if ids is None else self.random.integers(0, ids, self.shape)

    @cached_property
    def weights(self) -> dict[str, np.ndarray]:
        start = self.layer.initialize(self.shape, self.random)
        sizes = self.layer.parameters(self.shape) | self.layer.ties(self.shape)
        drawn = {name: start.get(name, 0) + floats(self.random, *size) / 4 for name, size in sizes.items()}
        return {name: array.astype(np.float32).astype(np.float64) for name, array in drawn.items()}

    @cached_property
    def state(self) -> dict[str, np.ndarray]:
        fresh = {name: np.zeros(size) for name, size in self.layer.state(self.shape).items()}
        return self.states(self.forward(backends.get("reference"), self._draw(), fresh)) if fresh else {}

    @cached_property
    def dy(self) -> np.ndarray:
        return floats(self.random, *self.layer.output(self.shape))

    def forward(
        self, ops: Ops, x: np.ndarray | None = None, state: Arrays | None = None, weights: Arrays | None = None, training: bool = False,
        key: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Description → array: the output and the new state."""
        x = self.x if x is None else x
        run = self._run(ops, x.shape, training, weights, state)
        run.key = key
        return self._results(ops, run, self.layer.forward(ops, run, ops.upload(x.copy())))

    def given(self) -> dict[str, np.ndarray]:
        """Description → array: what the layer must leave unchanged."""
        return {"the input": self.x} | {f"the weight {name!r}": array for name, array in self.weights.items()}

    def given_after(self, ops: Ops) -> dict[str, np.ndarray]:
        """:meth:`given`, after ``forward`` outside of training."""
        run, x = self._run(ops, self.shape, False), ops.upload(self.x.copy())
        self.layer.forward(ops, run, x)
        return self._given(ops, run, x)

    def backward(self, ops: Ops, held: Arrays | None = None, written: Collection[str] = ()) -> dict[str, np.ndarray]:
        """Description → array: all results of a training step.

        The gradients of the weights start as ``held``; those named in ``written`` count as written by another layer in this step.
        """
        run = self._run(ops, self.shape, True)
        run.key = KEY
        run.g = {name: ops.upload(np.zeros(array.shape) if held is None else held[name].copy()) for name, array in self.weights.items()}
        run.written.update(id(run.g[name]) for name in written)
        x = ops.upload(self.x.copy())
        found = self._results(ops, run, self.layer.forward(ops, run, x))
        dx = self.layer.backward(ops, run, x, ops.upload(self.dy.copy()))
        if self.layer.ids is None:
            if dx is None or tuple(dx.shape) != self.shape:
                raise CheckError(f"{self}: backward returns {'None' if dx is None else f'an array of the shape {tuple(dx.shape)}'}, expected the "
                                 "gradient of the input, which has the input's shape.")
            found["the gradient of the input"] = ops.download(dx)
        elif dx is not None:
            raise CheckError(f"{self}: backward returns an array, expected None, since ids have no gradient.")
        return found | self._given(ops, run, x) | {gradient_of(name): ops.download(array) for name, array in run.g.items()}

    def slopes(self, of: str, along: np.ndarray) -> np.ndarray:
        """dy times the derivative of the output along a direction in this weight, or in the input if ``of`` is ""."""
        step, x, weights = 1j * STEP * along, self.x, dict(self.weights)
        if of:
            weights[of] = weights[of] + step
        else:
            x = x + step
        y = self.forward(complex_step.Backend(), x, weights=weights, training=True, key=KEY)["the output"]
        return np.asarray(self.dy * y.imag / STEP)

    def states(self, results: Arrays) -> dict[str, np.ndarray]:
        """The state among these results: name → array."""
        return {name: results[f"the state {name!r}"] for name in self.layer.state(self.shape)}

    def _run(self, ops: Ops, shape: Shape, training: bool, weights: Arrays | None = None, state: Arrays | None = None) -> Run:
        layout = Layout(self.layer.activations(shape, training))
        p = {name: ops.upload(array.copy()) for name, array in (self.weights if weights is None else weights).items()}
        run = Run(p, {}, Arena(layout, ops.empty((layout.size,))))
        run.m = {name: ops.upload(array.copy()) for name, array in (self.state if state is None else state).items()}
        return run

    def _given(self, ops: Ops, run: Run, x: Array) -> dict[str, np.ndarray]:
        return {"the input": ops.download(x)} | {f"the weight {name!r}": ops.download(array) for name, array in run.p.items()}

    def _results(self, ops: Ops, run: Run, y: Array) -> dict[str, np.ndarray]:
        return {"the output": ops.download(y)} | {f"the state {name!r}": ops.download(array) for name, array in run.m.items()}


@dataclass(frozen=True, repr=False)
class Losses(Layer):
    """A layer whose output is the losses of a head, for targets that depend only on the shape of the input."""

    layer: Layer

    def __repr__(self) -> str:
        return f"the losses of {self.layer}"

    @property
    def _head(self) -> Head:
        head = self.layer.head()
        assert head is not None
        return head

    def output(self, shape: Shape) -> Shape:
        return (prod(shape[:-1]),)

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        return self.layer.parameters(shape)

    def ties(self, shape: Shape) -> dict[str, Shape]:
        return self.layer.ties(shape)

    def initialize(self, shape: Shape, random: np.random.Generator) -> dict[str, np.ndarray]:
        return self.layer.initialize(shape, random)

    def activations(self, shape: Shape, training: bool) -> dict[str, Shape]:
        return {"losses": self.output(shape)} | self._head.loss_activations(shape, training)

    def forward(self, ops: Ops, run: Run, x: Array) -> Array:
        self._head.losses(ops, run, x, self._targets(ops, x.shape), run.a["losses"])
        return run.a["losses"]

    def backward(self, ops: Ops, run: Run, x: Array, dy: Array) -> Array:
        return self._head.losses_backward(ops, run, x, self._targets(ops, x.shape), SCALE, run.a["losses"])

    def _targets(self, ops: Ops, shape: Shape) -> Array:
        random, vectors, symbols = np.random.default_rng(0), *self.output(shape), self._head.symbols
        numbers = self._head.targets == "numbers"
        return ops.upload(random.integers(0, 2, (vectors, symbols)).astype(float) if numbers else random.integers(-1, symbols, vectors))


class LossCase(Case):
    """A case whose outputs are losses, all with the same weight."""

    @cached_property
    def dy(self) -> np.ndarray:
        return np.full(self.layer.output(self.shape), SCALE)


def gradient_of(name: str) -> str:
    """Description of the gradient of a weight among the results."""
    return f"the gradient of the weight {name!r}"
