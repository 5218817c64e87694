"""The weight update, and the norm that guards it."""

from functools import cache

import numpy as np

from ...rules import Rule
from .device import SIMULATED, cuda
from .launch import DOUBLES, FLOAT, FLOATS, LONG, THREADS, Kernel, kernel

BATCH = 8
PARTS = 2 if SIMULATED else 256  # partial sums of the norm, on whatever device: the sum does not depend on it


@cache
def update(rule: Rule) -> Kernel:
    """p, m ← rule(p, g, m, h): each thread lends the rule's row one element at a time, in registers."""
    row, moments, numbers = rule.row, rule.moments, 2 + len(rule.hyper)
    room = max(moments, 1)

    def move(p, g, m, h, size):
        own_p = cuda.local.array(1, np.float32)
        own_g = cuda.local.array(1, np.float32)
        own_m = cuda.local.array((room, 1), np.float32)
        for j in range(cuda.grid(1), size, cuda.gridsize(1)):
            own_p[0] = p[j]
            own_g[0] = g[j]
            for k in range(moments):
                own_m[k, 0] = m[k * size + j]
            row(own_p, own_g, own_m, h, 0, 1)
            p[j] = own_p[0]
            for k in range(moments):
                m[k * size + j] = own_m[k, 0]

    return Kernel(move, (FLOATS, FLOATS, FLOATS, (FLOAT, numbers), LONG))


@kernel(FLOATS, DOUBLES, LONG)
def sum_of_squares(x, sums, size):
    """sums[i] = Σ x² of the i-th part, in float64: a sum of squares overflows float32. NaN and infinity come through."""
    shared = cuda.shared.array(THREADS, np.float64)
    batch = cuda.local.array(BATCH, np.float32)
    total = np.float64(0)
    for first in range(cuda.grid(1), size, cuda.gridsize(1) * BATCH):
        for i in range(BATCH):  # all on their way before the first is added
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
