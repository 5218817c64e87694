"""The weight update, and the gradient norm that guards it."""

from functools import cache
from math import sqrt

import numpy as np

from ...rules import Rule
from .device import SIMULATED, cuda
from .launch import DOUBLE, DOUBLES, FLOAT, FLOATS, LONG, THREADS, Kernel, kernel

BATCH = 8
LARGEST = np.float32(3.4028235e38)
SCALE, GO, STOPPED = 0, 1, 2  # elements of a guard: scale of the gradient, whether to update, whether an update has been stopped
GUARD = 3
LANES = 8
ROWS = 2 * LANES
PARTS = 2 if SIMULATED else 256  # partial sums of the norm, the same on every device, so that the norm does not depend on it


@cache
def update(rule: Rule) -> Kernel:
    """p, m ← rule(p, g, m, h): each thread passes one element at a time to the rule's row, in registers.

    A non-empty ``guard`` replaces h[0], the scale of the gradient, and decides whether to update at all.
    """
    row, moments, numbers = rule.row, rule.moments, 2 + len(rule.hyper)
    room = max(moments, 1)

    def move(p, g, m, h, guard, size):
        own_p = cuda.local.array(1, np.float32)
        own_g = cuda.local.array(1, np.float32)
        own_m = cuda.local.array((room, 1), np.float32)
        own_h = cuda.local.array(numbers, np.float32)
        for k in range(numbers):
            own_h[k] = h[k]
        last = size
        if guard.size:
            own_h[0] = guard[SCALE]
            if guard[GO] == 0:
                last = 0
        for j in range(cuda.grid(1), last, cuda.gridsize(1)):
            own_p[0] = p[j]
            own_g[0] = g[j]
            for k in range(moments):
                own_m[k, 0] = m[k * size + j]
            row(own_p, own_g, own_m, own_h, 0, 1)
            p[j] = own_p[0]
            for k in range(moments):
                m[k * size + j] = own_m[k, 0]

    return Kernel(move, (FLOATS, FLOATS, FLOATS, (FLOAT, numbers), FLOATS, LONG))


@kernel(FLOATS, DOUBLES, LONG)
def sum_of_squares(x, sums, size):
    """sums[i] = Σ x² of the i-th part, in float64 because it may overflow float32. NaN and infinity propagate."""
    shared = cuda.shared.array(THREADS, np.float64)
    batch = cuda.local.array(BATCH, np.float32)
    total = np.float64(0)
    for first in range(cuda.grid(1), size, cuda.gridsize(1) * BATCH):
        for i in range(BATCH):  # issue all loads before the first sum
            j = first + i * cuda.gridsize(1)
            batch[i] = x[j] if j < size else np.float32(0)
        for i in range(BATCH):
            total += np.float64(batch[i]) * np.float64(batch[i])
    shared[cuda.threadIdx.x] = total
    cuda.syncthreads()
    step = THREADS // 2
    while step > 0:
        if cuda.threadIdx.x < step:
            shared[cuda.threadIdx.x] += shared[cuda.threadIdx.x + step]
        cuda.syncthreads()
        step //= 2
    if cuda.threadIdx.x == 0:
        sums[cuda.blockIdx.x] = shared[0]


@kernel(DOUBLES, FLOATS, LONG, DOUBLE, FLOATS)
def judge(sums, losses, count, clip, guard):
    """Fill the guard of an update from the sums of squares of the gradient and the losses; runs as one block.

    The scale clips the norm to ``clip``. A norm or loss that is not finite stops this update and all later ones.
    """
    rows = cuda.shared.array(ROWS, np.float64)
    tid = cuda.threadIdx.x
    bad = 0
    for j in range(tid, count, THREADS):
        if not abs(losses[j]) <= LARGEST:
            bad = 1
    if tid < ROWS:  # in NumPy's order for 256 numbers, so that the norm equals the host's
        total = np.float64(0)
        for j in range(tid // LANES * (PARTS // 2) + tid % LANES, (tid // LANES + 1) * (PARTS // 2), LANES):
            total += sums[j]
        rows[tid] = total
    stop = cuda.syncthreads_or(bad)
    if tid == 0:
        total = np.float64(0)
        for half in range(0, ROWS, LANES):
            total += ((rows[half] + rows[half + 1]) + (rows[half + 2] + rows[half + 3])) + (
                (rows[half + 4] + rows[half + 5]) + (rows[half + 6] + rows[half + 7]))
        norm = sqrt(total)
        one = np.float64(1)
        guard[SCALE] = np.float32(min(one, clip / norm) if norm > np.float64(0) else one)
        fine = stop == 0 and guard[STOPPED] == 0 and norm <= np.float64(1.0e300)
        guard[GO] = np.float32(1) if fine else np.float32(0)
        guard[STOPPED] = np.float32(0) if fine else np.float32(1)
