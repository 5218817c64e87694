"""Layers that normalise each vector."""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np

from ..arguments import Only, checked, hidden
from ..backends.ops import Array, Ops, Shape
from ..errors import expect_flag, expect_number
from .layer import Run
from .options import WEIGHTS, TakesVectors, Zeros

Ones = Annotated[Literal["ones"], WEIGHTS]


@dataclass(frozen=True)
class Normalization(TakesVectors):
    """y = (x - m) / √(mean of (x - m)² + ε) ⊙ gain + offset for each vector x (F)."""

    CENTRED: ClassVar[bool]
    epsilon: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_number(f"{type(self).__name__}: epsilon", self.epsilon, 0, 1e6, open_low=True)

    def weights(self) -> dict[str, float]:
        """Names of the vectors (F), and their starting values."""
        raise NotImplementedError

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        return dict.fromkeys(self.weights(), shape[-1:])

    def activations(self, shape: Shape, training: bool) -> dict[str, Shape]:
        return {"y": shape, "stats": (*shape[:-1], 2)} | ({"dx": shape} if training else {})

    def initialize(self, shape: Shape, random: np.random.Generator) -> dict[str, np.ndarray]:
        return {name: np.full(shape[-1:], value) for name, value in self.weights().items()}

    def forward(self, ops: Ops, run: Run, x: Array) -> Array:
        y, stats, p = run.a["y"], run.a["stats"], run.p
        ops.normalize(_rows(x), p.get("gamma"), p.get("beta"), self.epsilon, self.CENTRED, _rows(y), _rows(stats))
        return y

    def backward(self, ops: Ops, run: Run, x: Array, dy: Array) -> Array:
        dx, g = run.a["dx"], run.g
        ops.normalize_backward(_rows(x), run.p.get("gamma"), self.CENTRED, _rows(run.a["stats"]), _rows(dy), _rows(dx), g.get("gamma"), g.get("beta"),
                               add=run.adds(ops, *self.weights()))
        return dx


@checked
@dataclass(frozen=True)
class LayerNormalization(Normalization):
    """Zero mean and unit variance for each vector (Ba, Kiros, Hinton 2016).

    ::

        y = (x - mean(x)) / √(variance(x) + ε) ⊙ gamma + beta

    Weights: ``gamma`` (F), if ``scale``, and ``beta`` (F), if ``center``.

    Parameters
    ----------
    epsilon
        ε, added to the variance (mean of squares, not divided by F - 1).
    center
        Add beta, which starts at 0.
    scale
        Multiply with gamma, which starts at 1.
    input_shape, input_dim
        On the first layer: (steps or None, features) of the vectors, or the features alone.

    Examples
    --------
    >>> LayerNormalization().parameters((20, 32, 64))
    {'gamma': (64,), 'beta': (64,)}
    """

    CENTRED: ClassVar[bool] = True
    epsilon: float = 1e-3
    center: bool = True
    scale: bool = True
    _: KW_ONLY
    axis: Annotated[Literal[-1], Only("each vector is normalised by itself")] = hidden(-1)
    rms_scaling: Annotated[Literal[False], Only("RMSNormalization does that")] = hidden(False)
    beta_initializer: Zeros = hidden("zeros")
    gamma_initializer: Ones = hidden("ones")

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_flag("LayerNormalization: center", self.center)
        expect_flag("LayerNormalization: scale", self.scale)

    def weights(self) -> dict[str, float]:
        return ({"gamma": 1.0} if self.scale else {}) | ({"beta": 0.0} if self.center else {})


@checked
@dataclass(frozen=True)
class RMSNormalization(Normalization):
    """Unit mean square for each vector (Zhang and Sennrich 2019).

    ::

        y = x / √(mean(x²) + ε) ⊙ gamma

    Weights: ``gamma`` (F), which starts at 1.

    Parameters
    ----------
    epsilon
        ε, added to the mean square.
    input_shape, input_dim
        On the first layer: (steps or None, features) of the vectors, or the features alone.

    Examples
    --------
    >>> RMSNormalization().parameters((20, 32, 64))
    {'gamma': (64,)}
    """

    CENTRED: ClassVar[bool] = False
    epsilon: float = 1e-6
    _: KW_ONLY
    axis: Annotated[Literal[-1], Only("each vector is normalised by itself")] = hidden(-1)

    def weights(self) -> dict[str, float]:
        return {"gamma": 1.0}


def _rows(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])
