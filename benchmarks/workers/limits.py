"""What this machine can do at most: multiply and add, and read memory."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba import njit

from numba_rnnlm.backends.cpu import simd
from numba_rnnlm.backends.cpu.threads import Pool, split

PANEL_BYTES = 16 * 1024  # of packed B: with A and C beside it, it stays in a first-level cache of 32 KB
TILES = 4  # rows of tiles that go over the panel
TILE_ROUNDS = 20_000
READ_BYTES = 1 << 30  # in one dispatch, so that waking the threads does not count


@njit(nogil=True)
def _multiply(a, packed, c, m, k, n, rounds):
    for _ in range(rounds):
        simd.accumulate(a, 0, k, m, packed, k, n, c, 0, n)


@njit(nogil=True)
def _read(data, rounds):
    """Adding whole numbers takes one cycle; eight places at once, so that no sum waits and memory is always asked."""
    part = data.size // 8
    d0, d1, d2, d3 = data[:part], data[part : 2 * part], data[2 * part : 3 * part], data[3 * part : 4 * part]
    d4, d5, d6, d7 = data[4 * part : 5 * part], data[5 * part : 6 * part], data[6 * part : 7 * part], data[7 * part : 8 * part]
    total = 0
    for _ in range(rounds):
        for j in range(part):
            total ^= (d0[j] + d1[j]) + (d2[j] + d3[j]) + ((d4[j] + d5[j]) + (d6[j] + d7[j]))
        total += 1
    return total


def multiply_adds(threads: int) -> float:
    """Floating-point operations a second of the register tile in first-level cache, on all threads at once."""
    n = simd.VECTORS * simd.VECTOR_BYTES // 4
    k, m = PANEL_BYTES // (4 * n), TILES * simd.ROWS
    calls = [
        (_random(m * k), _random(k * n), np.zeros(m * n, np.float32), m, k, n, TILE_ROUNDS) for _ in range(threads)
    ]
    return 2.0 * m * k * n * TILE_ROUNDS * threads / _seconds(threads, _multiply, calls)


def read(threads: int, size: int) -> float:
    """Seconds in which all threads together read ``size`` bytes once, of those that read them again and again."""
    data = np.ones(size // 8, np.int64)
    rounds = max(1, READ_BYTES // size)
    calls = [(data[first:last], rounds) for first, last in split(data.size, threads, 64)]
    return _seconds(threads, _read, calls) / rounds


def _random(size: int) -> np.ndarray:
    return np.random.default_rng(6).uniform(-0.1, 0.1, size).astype(np.float32)


def _seconds(threads: int, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> float:
    """Of one dispatch; a short one before it compiles and wakes the threads."""
    pool = Pool(threads)
    pool.run(function, [(*arguments[:-1], 1) for arguments in calls])
    start = time.perf_counter()
    pool.run(function, calls)
    return time.perf_counter() - start
