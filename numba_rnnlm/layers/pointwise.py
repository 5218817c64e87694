"""Layers that compute with each vector by itself: activations, highway connections, feed-forward networks."""

from dataclasses import KW_ONLY, dataclass

import numpy as np

from ..activations import POINTWISE, needs_input
from ..arguments import checked, hidden
from ..backends.ops import ACTIVATIONS, Array, Ops, Shape
from ..errors import ShapeError, expect_flag, expect_number, expect_one_of
from .dense import Dense
from .initializers import glorot
from .layer import Run, above, below
from .options import Glorot, TakesVectors


@checked
@dataclass(frozen=True)
class Activation(TakesVectors):
    """y = g(x), element by element; softmax over the features.

    Parameters
    ----------
    activation
        g: "linear", "softmax", "sigmoid", "tanh", "relu", "silu", "gelu_tanh" or "gelu_sigmoid".
    input_shape, input_dim
        On the first layer: (steps or None, features) of the vectors, or the features alone.

    Examples
    --------
    >>> Activation("relu").output((20, 32, 64))
    (20, 32, 64)
    """

    activation: str

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_one_of("Activation: activation", self.activation, ACTIVATIONS)

    def activations(self, shape: Shape, training: bool) -> dict[str, Shape]:
        return {"y": shape}

    def forward(self, ops: Ops, run: Run, x: Array) -> Array:
        ops.copy(x, run.a["y"])
        ops.activate(self.activation, run.a["y"])
        return run.a["y"]

    def backward(self, ops: Ops, run: Run, x: Array, dy: Array) -> Array:
        ops.activate_backward(self.activation, x if needs_input(self.activation) else run.a["y"], dy)
        return dy


@checked
@dataclass(frozen=True)
class Highway(TakesVectors):
    """A gate decides, element by element, between the input and a layer of it (Srivastava, Greff, Schmidhuber 2015).

    ::

        t = σ(x T + c)      y = t ⊙ f(x W + b) + (1 - t) ⊙ x

    Weights: ``W``, ``T`` (F, F), ``b``, ``c`` (F).

    Parameters
    ----------
    activation
        f: "relu", "tanh", "sigmoid" or "linear".
    gate_bias
        Starting value of c; negative, so that at first most of the input is carried through.
    input_shape, input_dim
        On the first layer: (steps or None, features) of the vectors, or the features alone.

    Examples
    --------
    >>> Highway().parameters((20, 32, 64))
    {'W': (64, 64), 'b': (64,), 'T': (64, 64), 'c': (64,)}
    """

    activation: str = "relu"
    gate_bias: float = -2.0
    _: KW_ONLY
    kernel_initializer: Glorot = hidden("glorot_uniform")

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_one_of("Highway: activation", self.activation, ("relu", "tanh", "sigmoid", "linear"))
        expect_number("Highway: gate_bias", self.gate_bias, -100, 100)

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        matrix, vector = (shape[-1], shape[-1]), (shape[-1],)
        return {"W": matrix, "b": vector, "T": matrix, "c": vector}

    def activations(self, shape: Shape, training: bool) -> dict[str, Shape]:
        return dict.fromkeys(("y", "gate", "layer", "difference", *(("dx", "dlayer") if training else ())), shape)

    def initialize(self, shape: Shape, random: np.random.Generator) -> dict[str, np.ndarray]:
        size = shape[-1]
        return {"W": glorot(random, size, size), "b": np.zeros(size), "T": glorot(random, size, size), "c": np.full(size, float(self.gate_bias))}

    def forward(self, ops: Ops, run: Run, x: Array) -> Array:
        p, y, gate, layer, difference = run.p, *(run.a[name] for name in ("y", "gate", "layer", "difference"))
        ops.project(x, p["T"], p["c"], gate)
        ops.activate("sigmoid", gate)
        ops.project(x, p["W"], p["b"], layer)
        ops.activate(self.activation, layer)
        ops.copy(layer, difference)
        ops.add(x, difference, -1)
        ops.copy(x, y)
        ops.multiply(gate, difference, y, add=True)
        return y

    def backward(self, ops: Ops, run: Run, x: Array, dy: Array) -> Array:
        p, g, dx, gate, layer, dgate, dlayer = run.p, run.g, *(run.a[name] for name in ("dx", "gate", "layer", "difference", "dlayer"))
        ops.multiply(dy, dgate, dgate)
        ops.multiply(dy, gate, dlayer)
        ops.add(dlayer, dy, -1)  # dy is now the gradient of the input that is carried through
        ops.activate_backward("sigmoid", gate, dgate)
        ops.activate_backward(self.activation, layer, dlayer)
        ops.project_backward(x, p["T"], dgate, dx, g["T"], g["c"], add=run.adds(ops, "T", "c"))
        ops.add(dy, dx)
        ops.project_backward(x, p["W"], dlayer, gate, g["W"], g["b"], add=run.adds(ops, "W", "b"))
        ops.add(gate, dx)
        return dx

    def matrices(self) -> tuple[str, ...]:
        return ("W", "T")


@checked
@dataclass(frozen=True)
class FeedForward(TakesVectors):
    """Two layers for each vector, a wide one and one of the size of the input: y = f(x W + b) V + c.

    With ``fold`` there is no second matrix: the wide vector is cut into pieces of the size of the input, which are added (the "boom" of Merity
    2019).

    Weights: ``W`` (F, units), ``b`` (units); without ``fold`` also ``V`` (units, F), ``c`` (F).

    Parameters
    ----------
    units
        Size of the wide layer; with ``fold`` a multiple of F.
    activation
        f, as in :class:`Dense`.
    fold
        Add pieces instead of projecting.
    input_shape, input_dim
        On the first layer: (steps or None, features) of the vectors, or the features alone.

    Examples
    --------
    >>> FeedForward(256).parameters((20, 32, 64))["V"], list(FeedForward(256, fold=True).parameters((20, 32, 64)))
    ((256, 64), ['W', 'b'])
    """

    units: int
    activation: str = "gelu_tanh"
    fold: bool = False
    _: KW_ONLY
    kernel_initializer: Glorot = hidden("glorot_uniform")

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_number("FeedForward: units", self.units, 1, whole=True)
        expect_one_of("FeedForward: activation", self.activation, ("linear", *POINTWISE))
        expect_flag("FeedForward: fold", self.fold)

    @property
    def _wide(self) -> Dense:
        return Dense(self.units, self.activation)

    def output(self, shape: Shape) -> Shape:
        if self.fold and self.units % shape[-1]:
            raise ShapeError(f"FeedForward: units is {self.units}, expected a multiple of the {shape[-1]} features of the input, because fold adds pieces "
                             "of that size.")
        return shape

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        found = self._wide.parameters(shape)
        return found if self.fold else found | {"V": (self.units, shape[-1]), "c": shape[-1:]}

    def activations(self, shape: Shape, training: bool) -> dict[str, Shape]:
        wide = self._wide.activations(shape, training)
        found = above("wide", wide) | {"y": shape}
        return found | {"dwide": wide["y"]} if training else found

    def initialize(self, shape: Shape, random: np.random.Generator) -> dict[str, np.ndarray]:
        found = self._wide.initialize(shape, random)
        return found if self.fold else found | {"V": glorot(random, self.units, shape[-1]), "c": np.zeros(shape[-1])}

    def forward(self, ops: Ops, run: Run, x: Array) -> Array:
        wide, y = self._wide.forward(ops, self._inner(run), x), run.a["y"]
        if self.fold:
            ops.fill(y, 0)
            for first in range(0, self.units, x.shape[-1]):
                ops.add(wide, y, first=first)
        else:
            ops.project(wide, run.p["V"], run.p["c"], y)
        return y

    def backward(self, ops: Ops, run: Run, x: Array, dy: Array) -> Array:
        wide, dwide = run.a["wide/y"], run.a["dwide"]
        if self.fold:
            ops.fill(dwide, 0)
            for first in range(0, self.units, x.shape[-1]):
                ops.add(dy, dwide, first=first)
        else:
            ops.project_backward(wide, run.p["V"], dy, dwide, run.g["V"], run.g["c"], add=run.adds(ops, "V", "c"))
        return self._wide.backward(ops, self._inner(run), x, dwide)

    def _inner(self, run: Run) -> Run:
        """The arrays of the wide layer, whose weights are this layer's."""
        if "wide" not in run.memo:
            run.memo["wide"] = Run(run.p, run.g, below(run.a, "wide"), run.written)
        inner: Run = run.memo["wide"]
        return inner

    def matrices(self) -> tuple[str, ...]:
        return ("W",) if self.fold else ("W", "V")
