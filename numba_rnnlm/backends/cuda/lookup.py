"""Embedding lookup, its gradient, and reversal of time steps."""

import numpy as np

from .device import cuda, divided
from .launch import FLOATS, INT, INTS, THREADS, kernel

WARP = 32
COLUMNS, LANES = WARP, THREADS // WARP  # in a block that adds rows, each lane adds those that one warp finds


@kernel(FLOATS, INTS, FLOATS, INT, INT, INT)
def gather(table, ids, out, symbols, columns, size):
    """out[i] = table[ids[i]], rows of ``columns`` elements; NaN for ids outside the ``symbols`` rows of the table."""
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        row, column = divided(e, columns)
        id = ids[row]
        out[e] = table[np.int64(id) * columns + column] if 0 <= id < symbols else np.float32(np.nan)


@kernel(FLOATS, INTS, FLOATS, INT, INT, INT, INT)
def scatter_add(table, ids, rows, symbols, count, columns, by_id):
    """table[ids[i]] += rows[i] without atomics, so that every run gives the same bits. Ids outside the table add nothing.

    A block owns 32 columns of one id. It searches all ids for its own, THREADS at a time: each warp encodes its matches as the bits
    of a word, and a lane adds the rows of one word. The block's number is the id or, if the table is longer than the list, a
    position in the list; then the first position of an id owns it.
    """
    sums = cuda.shared.array((LANES, COLUMNS), np.float32)
    words = cuda.shared.array(LANES, np.uint32)
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
    if not 0 <= wanted < symbols:
        earlier = 1
    if cuda.syncthreads_or(earlier) == 0:
        own = np.float32(0)
        for first in range(start, count, THREADS):
            here = np.int32(0)
            if first + tid < count and ids[first + tid] == wanted:
                here = np.int32(1) << np.int32(x)
            for step in (16, 8, 4, 2, 1):
                here = np.int32(here | cuda.shfl_xor_sync(0xFFFFFFFF, here, step))
            if x == 0:
                words[y] = here
            cuda.syncthreads()
            word = words[y]
            while word != 0:
                k = cuda.ffs(word) - 1
                word = np.uint32(word & np.uint32(word - np.uint32(1)))
                if column < columns:
                    own += rows[np.int64(first + y * WARP + k) * columns + column]
            cuda.syncthreads()
        sums[y, x] = own
        cuda.syncthreads()
        if y == 0 and column < columns:
            own = sums[0, x]
            for lane in range(1, LANES):
                own += sums[lane, x]
            table[np.int64(wanted) * columns + column] += own


@kernel(FLOATS, INTS, FLOATS, INT, INT, INT, INT)
def reverse(x, lengths, out, steps, streams, columns, size):
    """out (T, N, F) ← x with the first lengths[n] steps of each stream reversed; all steps if ``lengths`` is empty."""
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        row, column = divided(e, columns)
        t, n = divided(row, streams)
        length = lengths[n] if lengths.size else steps
        if t < length:
            t = length - 1 - t
        out[e] = x[(np.int64(t) * streams + n) * columns + column]


@kernel(FLOATS, FLOATS, FLOATS, INT, INT, INT, INT)
def add_positions(table, starts, out, length, columns, streams, size):
    """out[t, n] += table[starts[n] + t], or the last row beyond the end; rows of ``columns`` elements."""
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        row, column = divided(e, columns)
        t, n = divided(row, streams)
        place = min(np.int64(min(starts[n], np.float32(length - 1))) + t, length - 1)
        out[e] += table[np.int64(place) * columns + column]


@kernel(FLOATS, FLOATS, FLOATS, INT, INT, INT, INT, INT, INT)
def add_positions_backward(table, starts, dout, length, columns, steps, streams, size, keep):
    """table[starts[n] + t] ← or += dout[t, n], or the last row beyond the end. A thread sums an element of the table."""
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        place, column = divided(e, columns)
        own = table[e] if keep else np.float32(0)
        for n in range(streams):
            first = place - np.int64(min(starts[n], np.float32(length - 1)))
            end = steps if place == length - 1 else min(first + 1, steps)
            for t in range(max(first, 0), end):
                own += dout[(np.int64(t) * streams + n) * columns + column]
        table[e] = own
