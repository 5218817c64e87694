"""The heads that a Dense layer may be: softmax over symbols, or sigmoids."""

from dataclasses import dataclass
from typing import ClassVar

from ..backends.ops import Array, Ops, Shape
from .layer import Head, Run


class Affine:
    """Scores x W + b, with W (D, V), or the first layer's table (V, D) if ``tied``, and b (V) if there is one."""

    tied: bool

    def scores(self, ops: Ops, run: Run, x: Array, out: Array) -> None:
        """out (…, V) ← x W + b"""
        ops.project(x, run.p["W"], run.p.get("b"), out, transposed=self.tied)

    def scores_backward(self, ops: Ops, run: Run, x: Array, dout: Array) -> Array:
        """Gradient of the scores → dx; run.g ← gradients of W and b."""
        dx = run.a["dx"]
        ops.project_backward(x, run.p["W"], dout, dx, run.g["W"], run.g.get("b"), transposed=self.tied, add=run.adds(ops, "W", "b"))
        return dx


@dataclass(frozen=True)
class Softmax(Affine, Head):
    """One symbol of V: -log softmax(x W + b)[target]. The scores of a whole batch are never in memory at once."""

    symbols: int
    tied: bool = False
    targets: ClassVar[str] = "ids"

    def losses(self, ops: Ops, run: Run, x: Array, targets: Array, out: Array) -> None:
        ops.cross_entropy(x.reshape(-1, x.shape[-1]), run.p["W"], run.p.get("b"), targets, out, transposed=self.tied)

    def losses_backward(self, ops: Ops, run: Run, x: Array, targets: Array, scale: float, out: Array) -> Array:
        dx, width = run.a["dx"], x.shape[-1]
        ops.cross_entropy_backward(
            x.reshape(-1, width), run.p["W"], run.p.get("b"), targets, scale, out, dx.reshape(-1, width), run.g["W"], run.g.get("b"),
            transposed=self.tied, add=run.adds(ops, "W", "b"),
        )
        return dx


@dataclass(frozen=True)
class Sigmoid(Affine, Head):
    """V numbers from 0 to 1: the mean over V of the binary cross-entropy of σ(x W + b)."""

    symbols: int
    tied: bool = False
    targets: ClassVar[str] = "numbers"

    def loss_activations(self, shape: Shape, training: bool) -> dict[str, Shape]:
        return {"y": (*shape[:-1], self.symbols)} | super().loss_activations(shape, training)

    def losses(self, ops: Ops, run: Run, x: Array, targets: Array, out: Array) -> None:
        ops.binary_cross_entropy(self._scores(ops, run, x), targets, out)

    def losses_backward(self, ops: Ops, run: Run, x: Array, targets: Array, scale: float, out: Array) -> Array:
        y = self._scores(ops, run, x)
        ops.binary_cross_entropy_backward(y, targets, scale, out)
        return self.scores_backward(ops, run, x, y)

    def _scores(self, ops: Ops, run: Run, x: Array) -> Array:
        y = run.a["y"].reshape(-1, self.symbols)
        self.scores(ops, run, x, y)
        return y


HEADS: dict[str, type[Softmax] | type[Sigmoid]] = {"softmax": Softmax, "sigmoid": Sigmoid}  # by the activation of a Dense layer
