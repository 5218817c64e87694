"""Compiles kernels and launches them in a few microseconds.

Numba's own launch adds several microseconds per array (NVIDIA/numba-cuda#703), and a training step has dozens of
launches. Here one call of ``struct`` packs the arguments for the driver.
"""

import ctypes
import gc
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...errors import BackendError
from ...interrupts import postponed
from ...memory import Space, host_memory
from ..compiling import notice
from . import driver, kept
from .arrays import DeviceArray, Memory
from .device import SIMULATED, cuda, types

if SIMULATED:
    from .simulator import FakeCUDAArray

THREADS = 256  # default block size
OPT_IN = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
LOCAL = 3  # CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES
WITHOUT_ASKING = 48 << 10  # bytes of shared memory that a block may use without opting in
RESERVED = 1 << 10  # bytes of shared memory that CUDA reserves per block
UNREADABLE = {200, 209, 218, 222, 223}  # invalid image, no image for this device, invalid or newer PTX, JIT disabled

# Argument types of kernels, as Numba's types: flat arrays of float32, float64, int32, uint32; numbers.
FLOATS, DOUBLES, INTS, COUNTS = (types.Array(t, 1, "C") for t in (types.float32, types.float64, types.int32, types.uint32))
INT, LONG, FLOAT, DOUBLE, KEY = types.int32, types.int64, types.float32, types.float64, types.uint64

# Their struct formats for the driver, in units of eight bytes.
_PACK = {INT: "i4x", LONG: "q", FLOAT: "f4x", DOUBLE: "d", KEY: "Q"} | dict.fromkeys((FLOATS, DOUBLES, INTS, COUNTS), "7q")
_SCALAR = {INT: np.int32, LONG: np.int64, FLOAT: np.float32, DOUBLE: np.float64, KEY: np.uint64}


class Kernel:
    """A CUDA kernel, compiled on its first launch.

    Parameters
    ----------
    function
        The work of one thread.
    takes
        Types of the arguments, by the names above; ``(FLOAT, n)`` is a tuple of n floats.
    cooperative
        Whether blocks wait for one another: then a launch fails unless all of them can run at once.
    """

    def __init__(self, function: Callable[..., None], takes: Sequence[Any], cooperative: bool = False) -> None:
        self.function, self.takes, self.name = function, tuple(takes), function.__name__
        self.cooperative = cooperative
        self.dispatcher = cuda.jit(function)
        self._lock = threading.Lock()
        self._handle: int | None = None
        self._shared = WITHOUT_ASKING

    def __call__(self, grid: Any, threads: int, *arguments: Any, shared: int = 0) -> None:
        """Queue a launch of ``grid`` blocks of ``threads`` threads with ``shared`` bytes of shared memory."""
        x, y, z = (*grid, 1, 1)[:3] if type(grid) is tuple else (grid, 1, 1)
        if x * y * z == 0:
            return
        if SIMULATED:
            self._simulate((x, y, z), threads, arguments, shared)
            return
        if self._handle is None:
            self._prepare()
        if shared > self._shared:
            self._opt_in(shared)
        values: list[Any] = []
        for argument in arguments:
            if type(argument) is DeviceArray:
                values += argument.packed
            elif type(argument) is tuple:
                values += argument
            else:
                values.append(argument)
        with self._lock:
            try:
                self._packer.pack_into(self._buffer, 0, *values)
            except struct.error as error:
                raise BackendError(f'backend="cuda": {self.name} was given an array of 2³¹ elements or more ({error}); reduce the '
                                   "streams (the batch), the steps or the vocabulary.") from error
            except OverflowError as error:
                raise BackendError(f'backend="cuda": {self.name} was given a number beyond float32\'s 3.4e38 ({error}).') from error
            if self.cooperative:
                code = driver.call("cuLaunchCooperativeKernel", self._handle, x, y, z, threads, 1, 1, shared, driver.STREAM,
                                   self._pointers)
            else:
                code = driver.call("cuLaunchKernel", self._handle, x, y, z, threads, 1, 1, shared, driver.STREAM, self._pointers, None)
        if code:
            raise driver.problem(code, f"launching {self.name} on {(x, y, z)} blocks")

    def resident(self, threads: int, shared: int) -> int:
        """How many blocks of this kernel the device runs at once."""
        if SIMULATED:
            return 1
        if self._handle is None:
            self._prepare()
        if shared > self._shared:
            self._opt_in(shared)
        blocks = ctypes.c_int()
        driver.check(driver.call("cuOccupancyMaxActiveBlocksPerMultiprocessor", ctypes.byref(blocks), self._handle, threads,
                                 shared), "asking for the occupancy")
        return blocks.value * processors()

    def spilled(self) -> int:
        """Bytes per thread that do not fit into registers and spill to device memory."""
        if SIMULATED:
            return 0
        if self._handle is None:
            self._prepare()
        found = ctypes.c_int()
        driver.check(driver.call("cuKernelGetAttribute", ctypes.byref(found), LOCAL, self._handle, driver.number()),
                     f"asking for the memory of {self.name}")
        return found.value

    def signature(self) -> tuple[Any, ...]:
        """Numba's types of the arguments."""
        return tuple(types.UniTuple(*kind) if isinstance(kind, tuple) else kind for kind in self.takes)

    def _prepare(self) -> None:
        with self._lock:
            if self._handle is not None:
                return
            kinds = [kind if isinstance(kind, tuple) else (kind, 1) for kind in self.takes]
            self._packer = struct.Struct("<" + "".join(_PACK[kind] * times for kind, times in kinds))
            self._buffer = ctypes.create_string_buffer(self._packer.size)
            slots = range(ctypes.addressof(self._buffer), ctypes.addressof(self._buffer) + self._packer.size, 8)
            self._pointers = (ctypes.c_void_p * len(slots))(*slots)
            capability = driver.capability()
            code = kept.load(self.function, self.takes, capability)
            handle = code and _load(code)  # None if this driver cannot load code compiled for another
            if handle is None:
                with postponed(notice.postpone), driver.current(), notice.around(kept.store()):
                    compiled = self.dispatcher.compile(self.signature())
                code = kept.Code(compiled.entry_name, compiled._codelibrary.get_cubin().code)
                kept.save(code, self.function, self.takes, capability)
                handle = _load(code)
            if handle is None:
                raise BackendError(f'backend="cuda": the driver does not load {self.name} as compiled here; update the driver.')
            self._handle = handle

    def _opt_in(self, shared: int) -> None:
        with self._lock:
            shared = max(shared, self._shared)  # another thread may have requested more
            code = driver.call("cuKernelSetAttribute", OPT_IN, shared, self._handle, driver.number())
            driver.check(code, f"asking for {shared} bytes of shared memory in a block of {self.name}")
            self._shared = shared

    def _simulate(self, grid: tuple[int, int, int], threads: int, arguments: Sequence[Any], shared: int) -> None:
        given: list[Any] = []
        for kind, argument in zip(self.takes, arguments, strict=True):
            if isinstance(argument, DeviceArray):
                assert argument.is_contiguous, f"{self.name} takes flat arrays"
                given.append(FakeCUDAArray(argument.reshape(-1).host))
            elif isinstance(argument, tuple):
                given.append(tuple(_SCALAR[kind[0]](value) for value in argument))
            else:
                given.append(_SCALAR[kind](argument))
        with _simulator:  # one kernel at a time
            self.dispatcher[grid, threads, 0, shared](*given)


_simulator = threading.Lock()


def kernel(*takes: Any) -> Callable[[Callable[..., None]], Kernel]:
    """Decorator that makes a :class:`Kernel` of a function."""
    return lambda function: Kernel(function, takes)


def blocks(size: int, threads: int = THREADS) -> int:
    """Number of blocks for a grid-stride loop over ``size`` elements: no more than fill the device."""
    return min(-(-size // threads), 8 * processors())


def processors() -> int:
    """Multiprocessors of the device."""
    return 1 if SIMULATED else driver.attribute("MULTIPROCESSOR_COUNT")


def model() -> str:
    """The device as far as results depend on it: the number of multiprocessors decides how products and time loops are split."""
    return "the simulator" if SIMULATED else f"{driver.name()} with {processors()} multiprocessors"


def shared_limit() -> int:
    """Bytes of shared memory that a block may request."""
    return 227 << 10 if SIMULATED else driver.attribute("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN")


def cooperative() -> bool:
    """Whether the device supports cooperative launches, whose blocks may wait for one another."""
    return SIMULATED or bool(driver.attribute("COOPERATIVE_LAUNCH"))


def most_resident(shared: int) -> int:
    """Upper bound on the blocks with this much shared memory that the device runs at once."""
    if SIMULATED:
        return 1 << 20
    return processors() * (driver.attribute("MAX_SHARED_MEMORY_PER_MULTIPROCESSOR") // (shared + RESERVED))


def _load(code: "kept.Code") -> int | None:
    """The driver's handle for this kernel, or None if it cannot load the code."""
    library, found = ctypes.c_void_p(), ctypes.c_void_p()
    nothing = (None, None, 0)
    result = driver.call("cuLibraryLoadData", ctypes.byref(library), code.cubin, *nothing, *nothing)
    if result in UNREADABLE:
        return None
    driver.check(result, "loading a kernel")
    driver.check(driver.call("cuLibraryGetKernel", ctypes.byref(found), library, code.entry.encode()), "finding a kernel")
    return found.value


# Copies. A download waits for all work queued before it.


def memory(held: int) -> Space:
    """Memory available to arrays, including the ``held`` bytes that existing ones occupy.

    First releases all unused memory: a finished training may be waiting for the garbage collector in a reference cycle.
    """
    if SIMULATED:
        return host_memory()
    gc.collect()
    Memory.release_spares()
    return Space(driver.free_memory() + held, "the device has {} free for it")


def to_device(source: np.ndarray, target: DeviceArray) -> None:
    if SIMULATED:
        target.host[...] = source
    elif source.nbytes:
        driver.to_device(source, target.address)


def to_device_soon(source: np.ndarray, target: DeviceArray, staging: "driver.Staging") -> None:
    """An upload that does not wait: ``source`` may be changed on return, and later launches see the copy."""
    if SIMULATED:
        target.host[...] = source
    elif source.nbytes:
        view, give_back = staging.take(source.nbytes)
        view[...] = np.frombuffer(source, np.uint8)
        driver.to_device_soon(view.ctypes.data, target.address, source.nbytes)
        give_back()


def to_host_soon(sources: Sequence[DeviceArray], staging: "driver.Staging") -> Callable[[], list[np.ndarray]]:
    """Start downloads of contiguous arrays; returns a function that waits for them and returns them."""
    if SIMULATED:
        arrays = [np.array(source.host) for source in sources]
        return lambda: arrays
    sizes = [source.size * source.dtype.itemsize for source in sources]
    view, give_back = staging.take(sum(sizes))
    at = 0
    for source, size in zip(sources, sizes, strict=True):
        driver.to_host_soon(source.address, view.ctypes.data + at, size)
        at += size
    wait = give_back()
    kinds = [(source.shape, source.dtype) for source in sources]

    def arrive() -> list[np.ndarray]:
        wait()
        ends = np.cumsum(sizes)
        return [view[end - size : end].view(dtype).reshape(shape).copy() for end, size, (shape, dtype) in zip(ends, sizes, kinds, strict=True)]

    return arrive


def to_host(source: DeviceArray) -> np.ndarray:
    if SIMULATED:
        return np.array(source.host)
    target = np.empty(source.shape, source.dtype)
    if target.nbytes:
        driver.to_host(source.address, target)
    return target


def on_device(source: DeviceArray, target: DeviceArray) -> None:
    """Copy between two contiguous arrays of the same size."""
    if SIMULATED:
        target.host[...] = source.host.reshape(target.shape)
    elif source.size:
        driver.on_device(source.address, target.address, source.size * source.dtype.itemsize)


def fill(target: DeviceArray, value: float) -> None:
    """Every element of a contiguous array of 4-byte elements ← value."""
    assert target.is_contiguous, "fill needs a contiguous array"
    if SIMULATED:
        target.host[...] = value
    elif target.size:
        driver.fill(target.address, int(np.array(value, target.dtype).view(np.uint32)), target.size)
