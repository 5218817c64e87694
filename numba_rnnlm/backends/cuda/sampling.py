"""Sampling an id from a row of scores, one block per row.

Sums are float64, as on the CPU, because with many rare symbols float32 sums would select another symbol.
"""

from math import ceil, exp

import numpy as np

from .device import SIMULATED, cuda, inline
from .intrinsics import bits
from .launch import DOUBLE, DOUBLES, FLOAT, FLOATS, INT, INTS, THREADS, kernel
from .losses import WARP, WARPS, larger, plus, reduction

ONE = 0x3F800000  # the bits of the largest weight
PARTS = 8 if SIMULATED else THREADS  # parts of a row whose sums _find computes first


@inline
def _smaller(a, b):
    return min(a, b)


_largest, _first, _sum = (reduction(THREADS, combine) for combine in (larger, _smaller, plus))


@inline
def _mass(weights, row, columns, least, counting, totals):
    """The sum, or with ``counting`` the number, of a row's weights whose bits are at least ``least``."""
    total = np.float64(0)
    for j in range(cuda.threadIdx.x, columns, THREADS):
        weight = weights[row + j]
        if bits(weight) >= least:
            total += np.float64(1) if counting else np.float64(weight)
    return _sum(total, totals)


@inline
def _keep(weights, row, columns, enough, counting, peaks, totals, ranks):
    """Keep the fewest largest weights of a row whose sum, or with ``counting`` whose number, is ``enough``; set the others to zero.

    Weights are not negative, so they have the order of their bits, and bisection over the bits finds the smallest weight to keep. Ties
    go to the lower ids.
    """
    tid = cuda.threadIdx.x
    low, high = np.uint32(0), np.uint32(ONE + 1)  # weights >= low are enough, weights >= high are not
    while high - low > np.uint32(1):
        middle = np.uint32((low + high) // np.uint32(2))
        if _mass(weights, row, columns, middle, counting, totals) >= enough:
            low = middle
        else:
            high = middle
    least = np.float32(0)
    for j in range(tid, columns, THREADS):
        if bits(weights[row + j]) <= low:
            least = max(least, weights[row + j])
    least = _largest(least, peaks)
    missing = enough - _mass(weights, row, columns, high, counting, totals)
    stay = np.int32(ceil(missing if counting else missing / np.float64(least)))  # how many of the weights equal to the smallest to keep
    size = (columns + THREADS - 1) // THREADS  # each thread owns a part of the row, and counts the equal weights before it
    first, last = tid * size, min(columns, (tid + 1) * size)
    equals = np.int32(0)
    for j in range(first, last):
        if bits(weights[row + j]) == low:
            equals += np.int32(1)
    ranks[tid] = equals
    cuda.syncthreads()
    rank = np.int32(0)
    for part in range(tid):
        rank += ranks[part]
    for j in range(first, last):
        if bits(weights[row + j]) == low:
            if rank >= stay:
                weights[row + j] = np.float32(0)
            rank += np.int32(1)
        elif bits(weights[row + j]) < low:
            weights[row + j] = np.float32(0)
    cuda.syncthreads()


@inline
def _find(weights, row, columns, number, parts):
    """The first index at which a row's cumulative weight exceeds the fraction ``number`` of the total; valid in thread 0."""
    tid, size = cuda.threadIdx.x, (columns + PARTS - 1) // PARTS
    for part in range(tid // WARP, PARTS, WARPS):  # each warp sums parts of the row
        total = np.float64(0)
        for j in range(part * size + tid % WARP, min(columns, (part + 1) * size), WARP):
            total += np.float64(weights[row + j])
        for step in (16, 8, 4, 2, 1):
            total += cuda.shfl_xor_sync(0xFFFFFFFF, total, step)
        if tid % WARP == 0:
            parts[part] = total
    cuda.syncthreads()
    picked = np.int32(0)
    if tid == 0:
        wanted, reached = np.float64(0), np.float64(0)
        for part in range(PARTS):
            wanted += parts[part]
        wanted *= number
        for part in range(PARTS):
            if reached + parts[part] <= wanted:
                reached += parts[part]
                if parts[part] > np.float64(0):
                    picked = np.int32(min(columns, (part + 1) * size) - 1)
            else:
                for j in range(part * size, min(columns, (part + 1) * size)):
                    if weights[row + j] > np.float32(0) and reached <= wanted:
                        reached += np.float64(weights[row + j])
                        picked = np.int32(j)
                if reached > wanted:
                    break
        while picked > 0 and weights[row + picked] == np.float32(0):  # part sums round differently: take the last nonzero weight
            picked -= np.int32(1)
    return picked


@kernel(FLOATS, INTS, DOUBLES, INTS, INT, FLOAT, INT, DOUBLE)
def choose(scores, ids, numbers, banned, columns, warmth, top_k, top_p):
    """Replace each -1 in ids with the id that numbers[i] picks from row i of scores, which is overwritten. ``top_k`` 1 ignores numbers."""
    peaks = cuda.shared.array(WARPS, np.float32)
    places = cuda.shared.array(WARPS, np.int32)
    totals = cuda.shared.array(WARPS, np.float64)
    ranks = cuda.shared.array(THREADS, np.int32)
    parts = cuda.shared.array(PARTS, np.float64)
    n, tid = cuda.blockIdx.x, cuda.threadIdx.x
    if ids[n] >= 0:
        return
    row = np.int64(n) * columns
    for j in range(tid, banned.size, THREADS):
        scores[row + banned[j]] = np.float32(-np.inf)
    cuda.syncthreads()
    peak = np.float32(-np.inf)
    for j in range(tid, columns, THREADS):
        peak = max(peak, scores[row + j])
    peak = _largest(peak, peaks)
    if top_k == 1:
        picked = np.int32(columns - 1)
        for j in range(tid, columns, THREADS):
            if scores[row + j] == peak:
                picked = min(picked, np.int32(j))
        picked = _first(picked, places)
    else:
        for j in range(tid, columns, THREADS):
            scores[row + j] = exp((scores[row + j] - peak) * warmth)
        if 0 < top_k < columns:
            _keep(scores, row, columns, np.float64(top_k), True, peaks, totals, ranks)
        if top_p < np.float64(1):
            total = _mass(scores, row, columns, np.uint32(0), False, totals)
            _keep(scores, row, columns, top_p * total, False, peaks, totals, ranks)
        cuda.syncthreads()
        picked = _find(scores, row, columns, numbers[n], parts)
    if tid == 0:
        ids[n] = picked
