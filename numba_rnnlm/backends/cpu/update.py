"""The weight update, the norm that guards it, and plain filling."""

import numpy as np
from numba.extending import overload

from .kernels import RowsType
from .team import parallel

BLOCK = 1 << 14  # elements of one partial sum of the norm: fixed, so the sum does not depend on the threads


def update_row(rule, p, g, m, h):
    """One stretch of the weights."""
    rule.row(p, g, m, h, 0, 1)


@overload(update_row, inline="always")
def _update_row(rule, p, g, m, h):
    if isinstance(rule, RowsType):
        row = rule.row("row")
        return lambda rule, p, g, m, h: row(p, g, m, h, 0, 1)
    return None


@parallel
def update(part, bounds, rule, p, g, m, h):
    """p[first:last] moves by the rule; m (M, size) are its moments, h its numbers."""
    first, last = bounds[part, 0], bounds[part, 1]
    update_row(rule, p[first:last], g[first:last], m[:, first:last], h)


@parallel(fastmath={"contract", "reassoc"})  # NaN and infinity must come through: this sum guards the training
def sum_of_squares(part, bounds, x, sums):
    """sums[i] = Σ x² of block i, in float64."""
    first, last = bounds[part, 0], bounds[part, 1]
    for block in range(first, last):
        total = 0.0
        part = x[block * BLOCK : min(x.size, (block + 1) * BLOCK)]
        for j in range(part.size):
            value = np.float64(part[j])  # float() would leave float32 as it is
            total += value * value
        sums[block] = total


@parallel
def fill(part, bounds, x, value):
    first, last = bounds[part, 0], bounds[part, 1]
    part = x[first:last]
    for j in range(part.size):
        part[j] = value
