"""Dropout between layers (Srivastava et al. 2014; between recurrent layers: Zaremba et al. 2014)."""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated

from ..arguments import Only, checked, hidden
from ..backends.ops import Array, Ops, Shape
from ..errors import expect_number
from .layer import Run
from .options import TakesVectors


@checked
@dataclass(frozen=True)
class Dropout(TakesVectors):
    """While training, set a random part of the values to zero and scale up the rest.

    The mask comes from a counter-based generator of (seed, step, layer, element): the same on every
    backend, for any number of threads, and drawn again by the backward pass instead of being stored.

    Parameters
    ----------
    rate
        The part that is dropped, 0 ≤ rate < 1.
    input_shape, input_dim
        On the first layer: (steps or None, features) of the vectors, or the features alone.

    Examples
    --------
    >>> Dropout(0.5).output((20, 32, 64))
    (20, 32, 64)
    """

    rate: float
    _: KW_ONLY
    noise_shape: Annotated[None, Only("every value is dropped by itself")] = hidden(None)
    seed: Annotated[None, Only("the seed of the model decides the masks: Sequential(seed=...)")] = hidden(None)

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_number("Dropout: rate", self.rate, 0, 0.999)

    def activations(self, shape: Shape, training: bool) -> dict[str, Shape]:
        return {"y": shape} if training else {}

    def forward(self, ops: Ops, run: Run, x: Array) -> Array:
        if run.key is None or self.rate == 0:
            return x
        ops.dropout(x, run.a["y"], self.rate, run.key)
        return run.a["y"]

    def backward(self, ops: Ops, run: Run, x: Array, dy: Array) -> Array:
        if run.key is not None and self.rate > 0:
            ops.dropout(dy, dy, self.rate, run.key)
        return dy
