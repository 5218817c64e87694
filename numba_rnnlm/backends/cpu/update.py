"""The weight update, sums of squares for the gradient norm, and fill."""

from numba.extending import overload

from . import sums
from .kernels import RowsType
from .team import parallel

BLOCK = 1 << 14  # elements per partial sum of the norm: fixed, so that the norm does not depend on the threads


def update_row(rule, p, g, m, h):
    """Apply the rule to one range of the weights."""
    rule.row(p, g, m, h, 0, 1)


@overload(update_row, inline="always")
def _update_row(rule, p, g, m, h):
    if isinstance(rule, RowsType):
        row = rule.row("row")
        return lambda rule, p, g, m, h: row(p, g, m, h, 0, 1)
    return None


@parallel
def update(part, bounds, rule, p, g, m, h):
    """Update p[first:last] by the rule; m (M, size) are its moments, h its hyperparameters."""
    first, last = bounds[part, 0], bounds[part, 1]
    update_row(rule, p[first:last], g[first:last], m[:, first:last], h)


@parallel
def sum_of_squares(part, bounds, x, totals):
    """totals[i] = Σ x² of block i, in float64."""
    first, last = bounds[part, 0], bounds[part, 1]
    for block in range(first, last):
        totals[block] = sums.squares(x[block * BLOCK : min(x.size, (block + 1) * BLOCK)])


@parallel
def fill(part, bounds, x, value):
    first, last = bounds[part, 0], bounds[part, 1]
    part = x[first:last]
    for j in range(part.size):
        part[j] = value
