"""The contract of a layer: three tables and two verbs. Nothing is stored on a layer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from ..backends.ops import Array, Ops, Shape


@dataclass
class Run:
    """The arrays one layer works with in one pass, by their short names.

    Attributes
    ----------
    p, g
        Parameters and their gradients.
    m
        State ("memory") that is carried from segment to segment.
    a
        Activations, and the gradients that backward hands down.
    key
        Of the random numbers of this layer in this step; None when not training.
    """

    p: Mapping[str, Array]
    g: Mapping[str, Array]
    m: Mapping[str, Array]
    a: Mapping[str, Array]
    key: int | None = None


class Lookup(NamedTuple):
    """Vectors that are rows of a table and not looked up yet: x (T, N, D) = table (V, D)[ids (T, N)].

    Where there are fewer rows than ids, it is cheaper to multiply the table with a matrix than x.
    """

    ids: Array
    table: Array
    gradient: Array | None  # of the table, when training


class Layer(Protocol):
    """What every layer answers. ``shape`` is always the shape of the layer's input.

    (T, N) ids, (T, N, D) a sequence of vectors, or (N, D) one vector a stream.
    """

    def output(self, shape: Shape) -> Shape:
        """Shape of what comes out."""

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        """Names and shapes of the weights; T and N do not matter."""

    def state(self, shape: Shape) -> dict[str, Shape]:
        """Names and shapes of what is carried from one segment to the next."""

    def activations(self, shape: Shape, training: bool) -> dict[str, Shape]:
        """Names and shapes of the arrays that the verbs write."""

    def initialize(self, shape: Shape, random: np.random.Generator) -> dict[str, np.ndarray]:
        """Starting values of the weights, float64."""

    def forward(self, ops: Ops, run: Run, x: Array) -> Array:
        """x → y"""

    def backward(self, ops: Ops, run: Run, x: Array, dy: Array) -> Array | None:
        """dy → dx (None where the input is ids); run.g ← gradients of the weights. May overwrite dy.

        The gradient of an embedding's matrix is added to: a tied layer above may have set it.
        """


def glorot(random: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Uniform within ±√(6 / (rows + columns)) (Glorot and Bengio 2010)."""
    limit = np.sqrt(6 / (rows + columns))
    return random.uniform(-limit, limit, (rows, columns))


def orthogonal(random: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Orthonormal rows (or columns, if there are fewer): random signs and a Hartley transform, three times.

    Orthogonal recurrent weights keep gradients alive (Saxe, McClelland, Ganguli 2014); the construction is
    that of Yu et al. 2016, "Orthogonal random features", with a transform that exists for every size. It
    needs no matrix product, whose library would take all processors for a moment.
    """
    size = max(rows, columns)
    q = np.eye(min(rows, columns), size)
    for _ in range(3):
        spectrum = np.fft.fft(q * random.choice([-1.0, 1.0], size))
        q = (spectrum.real - spectrum.imag) / np.sqrt(size)
    return q if rows <= columns else q.T
