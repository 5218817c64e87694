"""Adds to Numba's CUDA simulator what it lacks: warps, poisoned shared memory, and speed.

The simulator runs a block as operating-system threads that poll one another; a block of 256 takes half a second. Here
threads are coroutines that switch where threads of a block or warp synchronise, always in the same order: failures are
reproducible, and threads that do not reach the same barrier are detected.

New shared memory is NaN, which exposes values read before they are written.
"""

import operator
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np

from ...errors import BackendError

try:
    from greenlet import getcurrent, greenlet
except ImportError as error:
    raise BackendError(
        'the simulator of GPU kernels needs greenlet: pip install "numba-rnnlm[test]", or unset NUMBA_ENABLE_CUDASIM.'
    ) from error

from numba.cuda.simulator import kernel, kernelapi
from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

__all__ = ["FakeCUDAArray", "exchange"]

WARP = 32


class Handed(list[Any]):
    """The values of all lanes of a warp; ``made`` is a result that the first lane computed for all."""

    made: Any = None

    def __init__(self) -> None:
        super().__init__([None] * WARP)


class Thread(greenlet):
    """One CUDA thread, with the attributes that the simulator expects of ``threading.current_thread()``."""

    def __init__(self, function: Any, block: "Block", block_point: Any, thread_point: Any) -> None:
        super().__init__(function)
        self.block = block
        self.blockIdx, self.threadIdx = kernelapi.Dim3(*block_point), kernelapi.Dim3(*thread_point)
        self.thread_id = thread_point[0]

    def syncthreads(self) -> None:
        self.parent.switch("block")

    def syncthreads_or(self, value: Any) -> int:
        self.block.votes[self.thread_id] = bool(value)
        self.syncthreads()
        found = int(self.block.votes.any())
        self.syncthreads()
        return found


class Block(kernel.BlockManager):  # type: ignore[misc]
    """Runs the threads of a block in turn, warp by warp, from one barrier to the next."""

    def run(self, block_point: Any, *arguments: Any) -> None:
        size = self._block_dim[0]
        self.votes = np.zeros(size, bool)
        self.handed = [Handed() for _ in range(-(-size // WARP))]
        threads = [Thread(self._f, self, block_point, (i, 0, 0)) for i in range(size)]
        first = True
        while threads:
            places = set()
            for start in range(0, size, WARP):
                warp = threads[start : start + WARP]
                at = {thread.switch(*(arguments if first else ())) for thread in warp}
                while at == {"warp"}:
                    at = {thread.switch() for thread in warp}
                places |= at
            if len(places) > 1:
                raise AssertionError(f"threads of a block wait at different barriers: {places}; None is the end of the kernel.")
            if places == {None}:
                return
            first = False


def exchange(value: Any) -> tuple[Handed, int]:
    """Exchange a value with the warp; returns the values of all lanes, and the number of this lane."""
    thread: Any = getcurrent()
    number, lane = divmod(thread.thread_id, WARP)
    values = thread.block.handed[number]
    values[lane] = value
    thread.parent.switch("warp")
    if thread.block.handed[number] is values:  # the first lane to continue starts the next exchange
        thread.block.handed[number] = Handed()
    return values, lane


def _shared_array(self: Any, shape: Any, dtype: Any, alignment: int | None = None) -> np.ndarray:
    real = np.dtype(dtype if isinstance(dtype, (type, np.dtype)) else str(dtype))
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


def _shfl_xor(self: Any, mask: int, value: Any, lanes: int) -> Any:
    values, lane = exchange(value)
    return values[lane ^ lanes]


_launch = kernel.FakeCUDAKernel.__call__
_replaced: list[tuple[dict[str, Any], Any]] = []  # modules whose ``cuda`` this launch has replaced, and the originals


def _call(self: Any, *arguments: Any) -> Any:
    """Call a device function, or launch a kernel.

    Numba replaces a module's ``cuda`` at every call of a device function; here it is replaced once per launch.
    """
    if self._device or kernel._kernel_context:
        names, cuda = self.fn.__globals__, kernel._get_kernel_context()
        if names.get("cuda", cuda) is not cuda:
            _replaced.append((names, names["cuda"]))
            names["cuda"] = cuda
        return self.fn(*arguments)
    try:
        return _launch(self, *arguments)
    finally:
        while _replaced:
            names, cuda = _replaced.pop()
            names["cuda"] = cuda


for owner, name, value in (
    (kernel, "BlockManager", Block),
    (kernel.FakeCUDAKernel, "__call__", _call),
    (kernel, "FakeWithinKernelCUDAArray", operator.attrgetter("_ary")),  # it wraps elements for records, which our kernels do not use
    (kernelapi, "threading", SimpleNamespace(current_thread=getcurrent)),
    (kernelapi.FakeCUDAShared, "array", _shared_array),
    (kernelapi.FakeCUDAModule, "shfl_xor_sync", _shfl_xor),
):
    setattr(owner, name, value)
