"""y = g(x W + b)"""

from dataclasses import KW_ONLY, dataclass

import numpy as np

from ..activations import needs_input
from ..arguments import checked, hidden
from ..backends.ops import ACTIVATIONS, Array, Ops, Shape
from ..errors import ShapeError, expect_flag, expect_number, expect_one_of
from .heads import HEADS, Affine
from .initializers import glorot
from .layer import Head, Run
from .options import Glorot, TakesVectors, Zeros


@checked
@dataclass(frozen=True)
class Dense(Affine, TakesVectors):
    """A fully connected layer on each vector of the input. Weights: ``W`` (D, units), ``b`` (units).

    Parameters
    ----------
    units
        Size of the output.
    activation
        None or "linear", "softmax", "sigmoid", "tanh", "relu", "silu", "gelu_tanh" or "gelu_sigmoid".
    use_bias
        Add b.
    tied
        Share the matrix of the embedding, (units, D), instead of having one (Press and Wolf 2017).
    input_shape, input_dim
        On the first layer: (steps or None, features) of the vectors, or the features alone.

    Examples
    --------
    >>> Dense(10, activation="softmax").parameters((32, 64))
    {'W': (64, 10), 'b': (10,)}
    """

    units: int
    activation: str | None = None
    use_bias: bool = True
    tied: bool = False
    _: KW_ONLY
    kernel_initializer: Glorot = hidden("glorot_uniform")
    bias_initializer: Zeros = hidden("zeros")

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_number("Dense: units", self.units, 1, whole=True)
        expect_one_of("Dense: activation", self.activation, (None, *ACTIVATIONS))
        expect_flag("Dense: use_bias", self.use_bias)
        expect_flag("Dense: tied", self.tied)

    def output(self, shape: Shape) -> Shape:
        if len(shape) not in (2, 3):
            raise ShapeError(f"Dense takes vectors, got an input with {len(shape)} axes.")
        return (*shape[:-1], self.units)

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        weights: dict[str, Shape] = {} if self.tied else {"W": (shape[-1], self.units)}
        return weights | ({"b": (self.units,)} if self.use_bias else {})

    def activations(self, shape: Shape, training: bool) -> dict[str, Shape]:
        size = self.output(shape)
        return {"y": size} | ({"dx": shape} if training else {}) | ({"z": size} if training and needs_input(self.activation) else {})

    def initialize(self, shape: Shape, random: np.random.Generator) -> dict[str, np.ndarray]:
        return {name: glorot(random, *size) if name == "W" else np.zeros(size) for name, size in self.parameters(shape).items()}

    def forward(self, ops: Ops, run: Run, x: Array) -> Array:
        y = run.a["y"]
        self.scores(ops, run, x, y)
        if "z" in run.a:
            ops.copy(y, run.a["z"])
        ops.activate(self.activation or "linear", y)
        return y

    def backward(self, ops: Ops, run: Run, x: Array, dy: Array) -> Array:
        ops.activate_backward(self.activation or "linear", run.a["z" if needs_input(self.activation) else "y"], dy)
        return self.scores_backward(ops, run, x, dy)

    def matrices(self) -> tuple[str, ...]:
        return ("W",)

    def ties(self, shape: Shape) -> dict[str, Shape]:
        return {"W": (self.units, shape[-1])} if self.tied else {}

    def head(self) -> Head | None:
        kind = HEADS.get(self.activation or "linear")
        return None if kind is None else kind(self.units, self.tied)
