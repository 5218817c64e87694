"""Rows of a table by their ids, and the gradients back into the table."""

from .kernels import kernel


@kernel
def gather(table, ids, out, first, last):
    """out[i] = table[ids[i]] for i in [first, last)."""
    for i in range(first, last):
        source, row = table[ids[i]], out[i]
        for j in range(row.size):
            row[j] = source[j]


@kernel
def scatter_add(table, ids, rows, first, last):
    """table[ids[i], first:last] += rows[i, first:last], in the order of i: the same bits for any split."""
    for i in range(ids.size):
        target, row = table[ids[i], first:last], rows[i, first:last]
        for j in range(row.size):
            target[j] += row[j]
