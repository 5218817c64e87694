"""A vector for each symbol."""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Literal

import numpy as np

from ..arguments import Only, checked, hidden
from ..backends.ops import Array, Ops, Shape
from ..errors import ShapeError, expect_number, take_plain_values
from .layer import Arrays, Run
from .options import KerasLayer


@checked
@dataclass(frozen=True)
class Embedding(KerasLayer):
    """Turn ids (T, N) into vectors (T, N, output_dim). The table is ``W`` (input_dim, output_dim).

    Parameters
    ----------
    input_dim
        Number of symbols: ids are 0 … input_dim - 1.
    output_dim
        Size of a vector.
    input_length
        Length of the sequences, if it is to be checked; as in Keras, otherwise without effect.
    standard_deviation
        Of the starting table, drawn from a normal distribution; None: uniform in ±0.05, as in Keras.

    Examples
    --------
    >>> Embedding(1000, 64).parameters((20, 32))
    {'W': (1000, 64)}
    """

    input_dim: int
    output_dim: int
    input_length: int | None = None
    standard_deviation: float | None = None
    _: KW_ONLY
    mask_zero: Annotated[Literal[False], Only("id 0 is a symbol as any other")] = hidden(False)
    embeddings_initializer: Annotated[Literal["uniform"], Only("standard_deviation draws from a normal distribution")] = hidden("uniform")
    input_shape: Annotated[None, Only("input_length checks the length")] = hidden(None)

    def __post_init__(self) -> None:
        take_plain_values(self, ("input_dim", "output_dim", "input_length", "standard_deviation"))
        expect_number("Embedding: input_dim", self.input_dim, 1, 2**31 - 1, whole=True)
        expect_number("Embedding: output_dim", self.output_dim, 1, whole=True)
        if self.input_length is not None:
            expect_number("Embedding: input_length", self.input_length, 1, whole=True)
        if self.standard_deviation is not None:
            expect_number("Embedding: standard_deviation", self.standard_deviation, 0, 1000, open_low=True)

    def output(self, shape: Shape) -> Shape:
        if len(shape) != 2:
            raise ShapeError(f"Embedding takes ids (streams, steps), got an input with {len(shape)} axes; "
                             "it can only be the first layer.")
        if self.input_length is not None and shape[0] > 0 and shape[0] != self.input_length:
            raise ShapeError(f"the sequences have {shape[0]} steps, expected input_length={self.input_length}.")
        return (*shape, self.output_dim)

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        return {"W": (self.input_dim, self.output_dim)}

    def activations(self, shape: Shape, training: bool) -> dict[str, Shape]:
        return {"y": self.output(shape)}

    def initialize(self, shape: Shape, random: np.random.Generator) -> dict[str, np.ndarray]:
        shape = (self.input_dim, self.output_dim)
        if self.standard_deviation is None:
            return {"W": random.uniform(-0.05, 0.05, shape)}
        return {"W": random.normal(0, self.standard_deviation, shape)}

    def forward(self, ops: Ops, run: Run, x: Array) -> Array:
        ops.gather(run.p["W"], x, run.a["y"])
        return run.a["y"]

    def backward(self, ops: Ops, run: Run, x: Array, dy: Array) -> None:
        if not run.adds(ops, "W"):
            ops.fill(run.g["W"], 0)
        ops.scatter_add(x, dy, run.g["W"])

    @property
    def ids(self) -> int:
        return self.input_dim

    @property
    def steps(self) -> int | None:
        return self.input_length

    def vectors(self, ops: Ops, p: Arrays) -> Array:
        return p["W"]

    def table(self, shape: Shape) -> Shape:
        return self.input_dim, self.output_dim
