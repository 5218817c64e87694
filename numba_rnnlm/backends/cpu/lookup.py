"""Embedding lookup, its gradient, and reversal of time steps."""

from .team import parallel


@parallel
def gather(part, bounds, table, ids, out):
    """out[i] = table[ids[i]] for i in [first, last)."""
    first, last = bounds[part, 0], bounds[part, 1]
    for i in range(first, last):
        source, row = table[ids[i]], out[i]
        for j in range(row.size):
            row[j] = source[j]


@parallel
def scatter_add(part, bounds, table, ids, rows):
    """table[ids[i], first:last] += rows[i, first:last], in the order of i: parts split the columns, so bits do not depend on them."""
    first, last = bounds[part, 0], bounds[part, 1]
    for i in range(ids.size):
        target, row = table[ids[i], first:last], rows[i, first:last]
        for j in range(row.size):
            target[j] += row[j]


@parallel
def reverse(part, bounds, x, lengths, out):
    """out[t, n] = x[lengths[n] - 1 - t, n] for the first lengths[n] steps, x[t, n] after them. The part's bounds are steps."""
    first, last = bounds[part, 0], bounds[part, 1]
    for t in range(first, last):
        for n in range(lengths.size):
            source, row = x[lengths[n] - 1 - t if t < lengths[n] else t, n], out[t, n]
            for j in range(row.size):
                row[j] = source[j]


@parallel
def add_positions(part, bounds, table, starts, out):
    """out[t, n] += table[starts[n] + t], or the last row beyond the end. The part's bounds are steps."""
    last = table.shape[0] - 1
    for t in range(bounds[part, 0], bounds[part, 1]):
        for n in range(out.shape[1]):
            row, target = table[min(int(min(starts[n], last)) + t, last)], out[t, n]
            for j in range(target.size):
                target[j] += row[j]


@parallel
def add_positions_backward(part, bounds, table, starts, dout, add):
    """table[starts[n] + t] += dout[t, n], or the last row beyond the end; table ← 0 before, unless ``add``. The part's bounds are columns."""
    first, end, last = bounds[part, 0], bounds[part, 1], table.shape[0] - 1
    for i in range(0 if add else table.shape[0]):
        for j in range(first, end):
            table[i, j] = 0
    for t in range(dout.shape[0]):
        for n in range(dout.shape[1]):
            target, row = table[min(int(min(starts[n], last)) + t, last), first:end], dout[t, n, first:end]
            for j in range(target.size):
                target[j] += row[j]
