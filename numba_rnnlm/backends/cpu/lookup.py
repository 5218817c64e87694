"""Rows of a table by their ids, and the gradients back into the table."""

from .kernels import kernel


@kernel
def gather(table, ids, out, first, last):
    """out[i] = table[ids[i]] for i in [first, last)."""
    width = table.shape[1]
    for i in range(first, last):
        for j in range(width):
            out[i, j] = table[ids[i], j]


@kernel
def scatter_add(table, ids, rows, first, last):
    """table[ids[i], first:last] += rows[i, first:last], in the order of i: the same bits for any split."""
    for i in range(ids.size):
        for j in range(first, last):
            table[ids[i], j] += rows[i, j]
