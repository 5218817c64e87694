"""Vectors that depend on the step are added to the input, because attention alone does not know the order of steps."""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Literal

import numpy as np

from ..arguments import checked, hidden
from ..backends.ops import Array, Ops, Shape
from ..errors import ShapeError, expect_number
from .layer import Run
from .options import WEIGHTS, TakesVectors

MOST_STEPS = 2**24  # counted exactly in float32


@dataclass(frozen=True)
class Positions(TakesVectors):
    """y_t = x_t + P_t. A stream counts its steps: its state is ``read`` (N)."""

    def output(self, shape: Shape) -> Shape:
        if len(shape) != 3:
            raise ShapeError(f"{type(self).__name__} takes sequences of vectors, got an input with {len(shape)} axes; a recurrent layer in front "
                             "of it needs return_sequences=True.")
        return shape

    def state(self, shape: Shape) -> dict[str, Shape]:
        return {"read": (shape[1],)}

    def activations(self, shape: Shape, training: bool) -> dict[str, Shape]:
        return {"y": shape, "starts": (shape[1],), "more": (shape[1],)}

    def rows(self, ops: Ops, run: Run, size: int) -> Array:
        """P"""
        raise NotImplementedError

    def forward(self, ops: Ops, run: Run, x: Array) -> Array:
        y, starts, more, read = run.a["y"], run.a["starts"], run.a["more"], run.m["read"]
        ops.copy(x, y)
        ops.copy(read, starts)
        ops.add_positions(self.rows(ops, run, x.shape[-1]), starts, y)
        ops.fill(more, len(x))
        ops.add(more, read)
        return y

    def backward(self, ops: Ops, run: Run, x: Array, dy: Array) -> Array:
        return dy


@checked
@dataclass(frozen=True)
class PositionEmbedding(Positions):
    """Add a learned vector for each position (Gehring et al. 2017). Weights: ``W`` (sequence_length, D).

    In a stream, positions go on from segment to segment: the state ``read`` (N) counts the steps. All steps from sequence_length - 1 on get the last
    vector, so in an endless stream the positions soon say nothing; SinusoidalPosition goes further, and rotary attention has no end.

    Parameters
    ----------
    sequence_length
        The number of positions with a vector of their own.
    input_shape, input_dim
        On the first layer: (steps or None, features) of the vectors, or the features alone.

    Examples
    --------
    >>> PositionEmbedding(100).parameters((20, 32, 64))
    {'W': (100, 64)}
    """

    sequence_length: int
    _: KW_ONLY
    initializer: Annotated[Literal["glorot_uniform"], WEIGHTS] = hidden("glorot_uniform")

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_number("PositionEmbedding: sequence_length", self.sequence_length, 1, MOST_STEPS, whole=True)

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        return {"W": (self.sequence_length, shape[-1])}

    def initialize(self, shape: Shape, random: np.random.Generator) -> dict[str, np.ndarray]:
        limit = np.sqrt(6 / (self.sequence_length + shape[-1]))
        return {"W": random.uniform(-limit, limit, (self.sequence_length, shape[-1]))}

    def rows(self, ops: Ops, run: Run, size: int) -> Array:
        return run.p["W"]

    def backward(self, ops: Ops, run: Run, x: Array, dy: Array) -> Array:
        ops.add_positions_backward(dy, run.a["starts"], run.g["W"], add=run.adds(ops, "W"))
        return dy


@checked
@dataclass(frozen=True)
class SinusoidalPosition(Positions):
    """Add sines and cosines of the position (Vaswani et al. 2017).

    ::

        P_t,2i = sin(t / max_wavelength^(2i/D))      P_t,2i+1 = cos(t / max_wavelength^(2i/D))

    In a stream, positions go on from segment to segment: the state ``read`` (N) counts the steps. All steps from longest - 1 on get the last vector.

    Parameters
    ----------
    max_wavelength
        Of the slowest wave, divided by 2π.
    longest
        The number of positions with a vector of their own; they take longest · D numbers of memory.
    input_shape, input_dim
        On the first layer: (steps or None, features) of the vectors, or the features alone.

    Examples
    --------
    >>> SinusoidalPosition().output((20, 32, 64))
    (20, 32, 64)
    """

    max_wavelength: float = 10_000.0
    _: KW_ONLY
    longest: int = 10_000

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_number("SinusoidalPosition: max_wavelength", self.max_wavelength, 1, 1e9)
        expect_number("SinusoidalPosition: longest", self.longest, 1, MOST_STEPS, whole=True)

    def rows(self, ops: Ops, run: Run, size: int) -> Array:
        if "rows" not in run.memo:
            waves = float(self.max_wavelength) ** (-(np.arange(size) // 2 * 2) / size)
            angles = np.arange(self.longest)[:, np.newaxis] * waves
            run.memo["rows"] = ops.upload(np.where(np.arange(size) % 2, np.cos(angles), np.sin(angles)))
        rows: Array = run.memo["rows"]
        return rows
