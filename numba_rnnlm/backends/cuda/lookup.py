"""Rows of a table by their ids, and the gradients back into the table."""

import numpy as np

from .device import cuda, divided
from .launch import FLOATS, INT, INTS, THREADS, kernel

COLUMNS, LANES = 32, 8  # of a block that adds rows: each lane adds every 8th of those that it finds


@kernel(FLOATS, INTS, FLOATS, INT, INT, INT)
def gather(table, ids, out, symbols, columns, size):
    """out[i] = table[ids[i]], rows of ``columns`` elements; NaN for an id that the table of ``symbols`` rows does not have."""
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        row, column = divided(e, columns)
        id = ids[row]
        out[e] = table[np.int64(id) * columns + column] if 0 <= id < symbols else np.float32(np.nan)


@kernel(FLOATS, INTS, FLOATS, INT, INT, INT, INT)
def scatter_add(table, ids, rows, symbols, count, columns, by_id):
    """table[ids[i]] += rows[i], without atomic sums: the same bits in every run. Ids that the table does not have add nothing.

    A block owns 32 columns of one id, and looks through all ids for it, as many at once as it has threads. The block's number is the id, or, where
    the table is longer than the list, a place in the list: then the first place of an id owns it.
    """
    sums = cuda.shared.array((LANES, COLUMNS), np.float32)
    found = cuda.shared.array(THREADS, np.int32)
    tid = cuda.threadIdx.x
    x, y = tid % COLUMNS, tid // COLUMNS
    column = cuda.blockIdx.y * COLUMNS + x
    wanted = np.int32(cuda.blockIdx.x)
    start = 0
    earlier = 0
    if not by_id:
        start = cuda.blockIdx.x
        wanted = ids[start]
        for i in range(tid, start, THREADS):
            if ids[i] == wanted:
                earlier = 1
    if cuda.syncthreads_or(earlier) == 0:
        own = np.float32(0)
        for first in range(start, count, THREADS):
            here = 1 if first + tid < count and ids[first + tid] == wanted else 0
            found[tid] = here
            if cuda.syncthreads_or(here) != 0 and column < columns:
                for k in range(y, THREADS, LANES):
                    if found[k] != 0:
                        own += rows[np.int64(first + k) * columns + column]
            cuda.syncthreads()
        sums[y, x] = own
        cuda.syncthreads()
        if y == 0 and column < columns:
            own = sums[0, x]
            for lane in range(1, LANES):
                own += sums[lane, x]
            table[np.int64(wanted) * columns + column] += own
