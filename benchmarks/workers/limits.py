"""Peak rates of this computer: multiply-adds, and reading memory."""

import time
from collections.abc import Callable, Sequence
from threading import Thread
from typing import Any

import numpy as np
from numba import njit

from numba_rnnlm.backends.cpu.linear import accumulate
from numba_rnnlm.backends.cpu.simd import ROWS, VECTOR_BYTES, VECTORS
from numba_rnnlm.backends.cpu.threads import split

PANEL_BYTES = 16 * 1024  # size of packed B; together with A and C it fits into an L1 cache of 32 KB
TILES = 4  # rows of tiles that use the panel
TILE_ROUNDS = 20_000
READ_BYTES = 1 << 33  # bytes per dispatch, so many that waking the threads does not matter


@njit(nogil=True)
def _multiply(a, packed, c, m, k, n, scratch, rounds):
    for _ in range(rounds):
        accumulate(a, 0, k, m, packed, k, n, c, 0, n, scratch)


@njit(nogil=True)
def _read(data, rounds):
    """Sum of integers, which may be added in any order, so that the loop vectorises."""
    total = 0
    for _ in range(rounds):
        for j in range(data.size):
            total += data[j]
    return total


def multiply_adds(threads: int) -> float:
    """Floating-point operations per second of the register tile with data in L1 cache, on all threads at once."""
    n = VECTORS * VECTOR_BYTES // 4
    k, m = PANEL_BYTES // (4 * n), TILES * ROWS
    scratch = np.empty(0, np.int32)  # used only for bfloat16
    calls = [
        (_random(m * k), _random(k * n), np.zeros(m * n, np.float32), m, k, n, scratch, TILE_ROUNDS)
        for _ in range(threads)
    ]
    return 2.0 * m * k * n * TILE_ROUNDS * threads / _seconds(_multiply, calls)


def read(threads: int, size: int) -> float:
    """Mean seconds in which all threads together read ``size`` bytes, when they do so repeatedly."""
    data = np.ones(size // 8, np.int64)
    rounds = max(1, READ_BYTES // size)
    calls = [(data[first:last], rounds) for first, last in split(data.size, threads, 64)]
    return _seconds(_read, calls) / rounds


def _random(size: int) -> np.ndarray:
    return np.random.default_rng(6).uniform(-0.1, 0.1, size).astype(np.float32)


def _seconds(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> float:
    """Seconds of all calls together, each in its own thread; a short call before them compiles the function."""
    function(*calls[0][:-1], 1)
    threads = [Thread(target=function, args=arguments) for arguments in calls[1:]]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    function(*calls[0])
    for thread in threads:
        thread.join()
    return time.perf_counter() - start
