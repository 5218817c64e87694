"""y = g(x W + b), and the losses that belong to its g."""

from dataclasses import KW_ONLY, dataclass

import numpy as np

from ..arguments import checked, hidden
from ..backends.ops import ACTIVATIONS, Array, Ops, Shape
from ..errors import ConfigError, ShapeError, expect_flag, expect_number, expect_one_of
from .layer import Run, glorot
from .options import Glorot, TakesVectors, Zeros


@checked
@dataclass(frozen=True)
class Dense(TakesVectors):
    """A fully connected layer on each vector of the input. Weights: ``W`` (D, units), ``b`` (units).

    Parameters
    ----------
    units
        Size of the output.
    activation
        None or "linear", "softmax", "sigmoid", "tanh" or "relu".
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

    def state(self, shape: Shape) -> dict[str, Shape]:
        return {}

    def activations(self, shape: Shape, training: bool) -> dict[str, Shape]:
        return {"y": self.output(shape)} | ({"dx": shape} if training else {})

    def initialize(self, shape: Shape, random: np.random.Generator) -> dict[str, np.ndarray]:
        return {
            name: glorot(random, *size) if name == "W" else np.zeros(size)
            for name, size in self.parameters(shape).items()
        }

    def forward(self, ops: Ops, run: Run, x: Array) -> Array:
        y = run.a["y"]
        self.logits(ops, run, x, y)
        ops.activate(self.activation or "linear", y)
        return y

    def backward(self, ops: Ops, run: Run, x: Array, dy: Array) -> Array:
        ops.activate_backward(self.activation or "linear", run.a["y"], dy)
        ops.project_backward(
            x, run.p["W"], dy, run.a["dx"], run.g["W"], run.g.get("b"), transposed=self.tied
        )
        return run.a["dx"]

    def logits(self, ops: Ops, run: Run, x: Array, out: Array) -> None:
        """out (…, units) ← x W + b, before the activation."""
        ops.project(x, run.p["W"], run.p.get("b"), out, transposed=self.tied)

    # As the last layer under a loss, the activation and the loss are one operation.

    @property
    def loss(self) -> str:
        """The loss that this layer ends in: cross-entropy of softmax or of sigmoid outputs."""
        losses = {"softmax": "categorical_crossentropy", "sigmoid": "binary_crossentropy"}
        if self.activation not in losses:
            raise ConfigError(f"the last layer is Dense with activation {self.activation!r}; training needs "
                              "activation='softmax' (with cross-entropy) or 'sigmoid' (with binary cross-entropy).")
        return losses[self.activation]

    def loss_activations(self, shape: Shape, training: bool) -> dict[str, Shape]:
        """The arrays of :meth:`losses`: softmax needs no room for its outputs."""
        logits = {} if self.activation == "softmax" else {"y": self.output(shape)}
        return logits | ({"dx": shape} if training else {})

    def losses(self, ops: Ops, run: Run, x: Array, targets: Array, losses: Array) -> None:
        """losses (M) of each vector of x; targets (M) ids for softmax, (M, units) for sigmoid."""
        if self.loss == "categorical_crossentropy":
            rows = x.reshape(-1, x.shape[-1])
            ops.cross_entropy(rows, run.p["W"], run.p.get("b"), targets, losses, transposed=self.tied)
        else:
            y = run.a["y"].reshape(-1, self.units)
            self.logits(ops, run, x, y)
            ops.binary_cross_entropy(y, targets, losses)

    def losses_backward(self, ops: Ops, run: Run, x: Array, targets: Array, scale: float, losses: Array) -> Array:
        """The same, and the gradients of scale · Σ losses; → dx."""
        dx = run.a["dx"]
        if self.loss == "categorical_crossentropy":
            width = x.shape[-1]
            ops.cross_entropy_backward(
                x.reshape(-1, width), run.p["W"], run.p.get("b"), targets, scale, losses,
                dx.reshape(-1, width), run.g["W"], run.g.get("b"), transposed=self.tied,
            )
        else:
            y = run.a["y"].reshape(-1, self.units)
            self.logits(ops, run, x, y)
            ops.binary_cross_entropy_backward(y, targets, scale, losses)
            ops.project_backward(x, run.p["W"], y, dx, run.g["W"], run.g.get("b"), transposed=self.tied)
        return dx


