"""Checks of a cell."""

from collections.abc import Callable

import numpy as np

from .. import backends
from ..arguments import checked
from ..backends.inspection import imprecision
from ..backends.ops import Ops
from ..cells import Cell
from ..errors import CheckError, expect_kind
from ..layers import Recurrent
from ..recognition import step
from . import layer
from .comparing import TOLERANCE, calls, compiled, expect_close, expect_finite, floats

STREAMS, UNITS = 3, 7
FOREIGN = 9.0  # value of columns that a row function must not touch
LARGE = 1000.0  # a sum or state whose exponential overflows
FORWARD = "Compare forward with the equations."
BACKWARD = "Compare backward with the derivative of the equations, which must also hold for complex numbers: no abs, and comparisons of z.real only."

Rows = dict[str, np.ndarray]


@checked
def check(cell: Cell, *, verbose: bool = False) -> None:
    """Check that your own cell computes its equations and their derivative, on all backends, in single steps and in a layer.

    Its row functions are compared with ``equations`` forward and backward, must not read or write other columns than their own, must compute
    in float32 if their arrays are float32, and must give finite results for large numbers. Then :func:`numba_rnnlm.layers.check` checks a :class:`~numba_rnnlm.layers.Recurrent` layer of
    this cell. The cell need not be registered.

    Parameters
    ----------
    cell
        The cell.
    verbose
        Print a line for each passed check.

    Raises
    ------
    CheckError
        For the first check that fails. The message says what differs, where, by how much, and where to look.

    Examples
    --------
    >>> from numba_rnnlm import cells
    >>> cells.check(cells.GRU)
    """
    expect_kind("cell", cell, Cell, "a numba_rnnlm.cells.Cell")
    case = Case(cell, UNITS, np.random.default_rng(0))
    for what, expect in CHECKS.items():
        with calls(f"{cell}: checking that {what}", "The traceback shows the line."):
            expect(case)
        if verbose:
            print(f"cell {cell.name!r}: {what}")
    layer.check(Recurrent(UNITS, return_sequences=True, cell=cell), verbose=verbose)


class Case:
    """A cell with random inputs for one step of a few streams.

    Parameters
    ----------
    cell, units
        The cell and its number of units, H.
    random
        Draws all numbers.

    Attributes
    ----------
    z, prev, w, d
        Arguments for :func:`~numba_rnnlm.recognition.step`.
    """

    def __init__(self, cell: Cell, units: int, random: np.random.Generator) -> None:
        self.cell, self.units = cell, units
        slots, states = len(cell.gates), len(cell.states)
        self.z, self.prev, self.d = (floats(random, STREAMS, rows, units) for rows in (slots, states, states))
        self.w = floats(random, len(cell.weights), units)

    def computed(self, ops: Ops, scale: float = 1.0) -> Rows:
        """Description → array: the results of a backend. The reference computes them from the equations."""
        return self._named(**step(ops, self.cell, scale * self.z, scale * self.prev, self.w, self.d))

    def in_python(self, start: int = 0, stride: int = 1) -> Rows:
        """Results of the row functions run as plain Python on columns start, start + stride, …; all others hold FOREIGN."""
        foreign = np.arange(self.units) % stride != start
        z, prev, d, w, new, dw = (np.where(foreign, FOREIGN, array) for array in (
            self.z, self.prev, self.d, self.w, np.full(self.prev.shape, np.nan), np.zeros(self.w.shape)))
        forward, backward = (getattr(row, "py_func", row) for row in (self.cell.forward, self.cell.backward))
        for n in range(STREAMS):
            forward(z[n], prev[n], new[n], *self.cell.with_weights(w), start, stride)
            backward(z[n], prev[n], new[n], d[n], *self.cell.with_weights(w), *self.cell.with_weights(dw), start, stride)
        return self._named(new, d, z, dw)

    def _named(self, next: np.ndarray, d: np.ndarray, z: np.ndarray, w: np.ndarray | None = None) -> Rows:
        cell = self.cell
        found = {f"the new state {name!r}": next[:, index] for index, name in enumerate(cell.states)}
        found |= {f"the gradient of the previous state {name!r}": d[:, index] for index, name in enumerate(cell.states)}
        found |= {f"the gradient of the sum of the slot {name!r}": z[:, index] for index, name in enumerate(cell.gates)}
        return found | ({} if w is None else {f"the gradient of the weights {name!r}": w[index] for index, name in enumerate(cell.weights)})


def equations(case: Case) -> None:
    points = [np.swapaxes(rows, 0, 1) for rows in (case.z, case.prev)]
    with np.errstate(all="ignore"):  # reported below
        found = np.asarray(case.cell.equations(*points, *case.cell.with_weights(case.w)))
    if found.shape != points[1].shape:
        raise CheckError(f"{case.cell}: equations returns the shape {found.shape}, expected (states, streams, units), {points[1].shape}.")
    expect_finite(f"{case.cell}, of sums and states of about 1", {"what equations returns": found}, "Look for a division by zero, or the logarithm or root of a "
                  "negative number.")


def rows(case: Case) -> None:
    _expect_equal(f"{case.cell}, run as plain Python", case.in_python(), case.computed(backends.get("reference")))


def columns(case: Case, stride: int = 2) -> None:
    wanted = case.computed(backends.get("reference"))
    for start in range(stride):
        found, own = case.in_python(start, stride), np.arange(case.units) % stride == start
        where = f"{case.cell}, with start={start} and stride={stride}"
        foreign = {name: np.full(array.shape, FOREIGN)[..., ~own] for name, array in found.items()}
        expect_close(f"{where}, of columns that are not its own", {name: array[..., ~own] for name, array in found.items()}, foreign,
                     "A row function writes the columns range(start, H, stride) only.", 0)
        _expect_equal(where, {name: array[..., own] for name, array in found.items()}, {name: array[..., own] for name, array in wanted.items()})


def types(case: Case) -> None:
    for row, function in case.cell.rows().items():
        if reason := imprecision(function):
            raise CheckError(f"{case.cell}: {row} {reason}.")


def everywhere(case: Case) -> None:
    wanted = case.computed(backends.get("reference"))
    for ops in compiled():
        _expect_equal(f"{case.cell}, backend {ops.name!r}", case.computed(ops), wanted, TOLERANCE[ops.dtype.name])


def finite(case: Case) -> None:
    for ops in compiled():
        for name, array in case.computed(ops, LARGE).items():
            if not np.isfinite(array).all():
                raise CheckError(f"{case.cell}, backend {ops.name!r}: {name} is not finite for sums and states of about {LARGE:g}. exp(x) overflows; "
                                 "sigmoid, tanh and exp_below_zero of numba_rnnlm.portable do not.")


def _expect_equal(where: str, got: Rows, want: Rows, tolerance: float = TOLERANCE["float64"]) -> None:
    for name, wanted in want.items():
        expect_close(where, got, {name: wanted}, BACKWARD if "gradient" in name else FORWARD, tolerance)


CHECKS: dict[str, Callable[[Case], None]] = {
    "its equations return its states": equations,
    "its row functions are its equations and their derivative": rows,
    "its row functions keep to their columns": columns,
    "its row functions compute in the type of their arrays": types,
    "all backends compute its equations": everywhere,
    "large numbers do not overflow": finite,
}
