"""The quasi-recurrent layer."""

from dataclasses import KW_ONLY, dataclass, field

import numpy as np

from ..arguments import checked
from ..backends.ops import Array, Ops, Shape
from ..cells import Cell
from ..errors import expect_one_of, take_plain_values
from .initializers import glorot
from .layer import Layer, Run
from .recurrent import Recurrent, flat


@checked
@dataclass(frozen=True)
class QRNN(Recurrent):
    """Quasi-recurrent layer with fo-pooling (Bradbury et al. 2017); its gates see a window of inputs. See :class:`Recurrent`.

    ::

        n = tanh(W x_t + V x_{t-1} + b)     f, o = σ(W x_t + V x_{t-1} + b)
        c_t = f ⊙ c_{t-1} + (1 - f) ⊙ n     h_t = o ⊙ c_t

    Weights: ``W`` (D, 3·H), with a window of 2 also ``V`` (D, 3·H), and ``b`` (3, H). State: ``s`` (N, 2, H), with a window of 2 also the last
    input ``x`` (N, D), so that segments of a stream are read as one.

    Parameters
    ----------
    units, return_sequences
        As in :class:`Recurrent`.
    window
        How many inputs the gates see: 1 or 2.

    Examples
    --------
    >>> QRNN(128, return_sequences=True, window=2).parameters((20, 32, 64))
    {'W': (64, 384), 'V': (64, 384), 'b': (3, 128)}
    """

    cell: str | Cell = field(init=False, default="qrnn")
    window: int = 2
    _: KW_ONLY

    def __post_init__(self) -> None:
        take_plain_values(self, ("window",))
        expect_one_of("QRNN: window", self.window, (1, 2))
        super().__post_init__()

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        shapes = super().parameters(shape)
        return {"W": shapes["W"], "V": shapes["W"], "b": shapes["b"]} if self.window == 2 else shapes

    def state(self, shape: Shape) -> dict[str, Shape]:
        return super().state(shape) | ({"x": shape[1:]} if self.window == 2 else {})

    def activations(self, shape: Shape, training: bool) -> dict[str, Shape]:
        found = super().activations(shape, training)
        if self.window == 2:
            found |= {"before": shape[1:]} | ({"shifted": (max(shape[0] - 1, 0), *shape[1:])} if training else {})
        return found

    def initialize(self, shape: Shape, random: np.random.Generator) -> dict[str, np.ndarray]:
        weights = super().initialize(shape, random)
        if self.window == 2:
            both = glorot(random, 2 * shape[-1], 3 * self.units)
            weights |= {"W": both[: shape[-1]], "V": both[shape[-1] :]}
        return weights

    def forward(self, ops: Ops, run: Run, x: Array) -> Array:
        z = run.a["z"]
        self.project(ops, run, x, flat(z))
        if self.window == 2:
            before, last = run.a["before"], run.m["x"]
            ops.copy(last, before)
            ops.project(before, run.p["V"], None, flat(z[:1]), add=True)
            if len(x) > 1:
                ops.project(x[:-1], run.p["V"], None, flat(z[1:]), add=True)
            ops.copy(x[-1], last)
        return self.loop(ops, run)

    def backward(self, ops: Ops, run: Run, x: Array, dy: Array) -> Array | None:
        dx = super().backward(ops, run, x, dy)
        if self.window == 2:
            dz, shifted = run.a["z"], run.a["shifted"]
            ops.project_backward(run.a["before"], run.p["V"], flat(dz[:1]), None, run.g["V"], None, add=run.adds(ops, "V"))
            if len(x) > 1:
                ops.project_backward(x[:-1], run.p["V"], flat(dz[1:]), shifted, run.g["V"], None, add=True)
                ops.add(shifted, run.a["dx"][:-1])
        return dx

    def matrices(self) -> tuple[str, ...]:
        return ("W", "V") if self.window == 2 else ("W",)

    def over(self, lower: Layer, names: tuple[str, str], shape: Shape) -> Layer | None:
        return super().over(lower, names, shape) if self.window == 1 else None
