"""What Numba's CUDA simulator lacks: warps, and shared memory that every thread of a block agrees on.

The simulator runs a block as Python threads. Its shared.array is an unlocked get-or-create, so two threads may
get different arrays; here it is locked, and new memory is NaN, so that a value used before it is written shows.
The operations of a warp meet at a barrier of its threads.
"""

import sys
import threading
from typing import Any

import numpy as np
from numba.cuda.simulator import kernelapi

WARP = 32

sys.setswitchinterval(1e-4)  # blocks wait for one another's threads all the time; the default is 50 times as long

_lock = threading.RLock()


def _shared_array(self: Any, shape: Any, dtype: Any, alignment: int | None = None) -> np.ndarray:
    real = np.dtype(dtype if isinstance(dtype, (type, np.dtype)) else str(dtype))
    with _lock:
        if shape == 0:
            dynamic = self._dynshared
            if not getattr(self, "_poisoned", False):
                dynamic.view(np.uint8).fill(0xFF)
                self._poisoned = True
            return np.frombuffer(dynamic.data, real, dynamic.size // real.itemsize)
        frame = sys._getframe(1)
        key = frame.f_code.co_filename, frame.f_lineno
        if key not in self._allocations:
            memory = np.empty(shape, real)
            memory.view(np.uint8).fill(0xFF)
            self._allocations[key] = memory
        found: np.ndarray = self._allocations[key]
        return found


class _Warp:
    def __init__(self, threads: int) -> None:
        self.barrier, self.values = threading.Barrier(threads), [None] * WARP


def exchange(value: Any) -> tuple[list[Any], int]:
    """Hand in a value; → those of all lanes of this warp, and the number of this lane."""
    thread: Any = threading.current_thread()
    number, lane = divmod(thread.thread_id, WARP)
    block = thread._manager
    with _lock:
        warps = block.__dict__.setdefault("warps", {})
        if number not in warps:
            warps[number] = _Warp(min(WARP, int(np.prod(block._block_dim)) - WARP * number))
    warp = warps[number]
    warp.values[lane] = value
    warp.barrier.wait()
    values = list(warp.values)
    warp.barrier.wait()
    return values, lane


def _shfl_xor(self: Any, mask: int, value: Any, lanes: int) -> Any:
    values, lane = exchange(value)
    return values[lane ^ lanes]


kernelapi.FakeCUDAShared.array = _shared_array
kernelapi.FakeCUDAModule.syncwarp = lambda self, mask=0xFFFFFFFF: exchange(None)
kernelapi.FakeCUDAModule.shfl_xor_sync = _shfl_xor
