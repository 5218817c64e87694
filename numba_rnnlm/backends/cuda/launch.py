"""How a kernel is compiled, and how it is launched in a few microseconds.

Numba's own launch adds several microseconds for every array (NVIDIA/numba-cuda#703); a training step has dozens of
launches. Here the arguments are packed by one call of ``struct`` and handed to the driver.
"""

import ctypes
import struct
import threading
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from ...errors import BackendError
from . import kept
from .arrays import DeviceArray
from .device import SIMULATED, cuda, types

if SIMULATED:
    from .simulator import FakeCUDAArray

THREADS = 256  # of a block, where nothing speaks for another number
STREAM = 1  # CUDA's legacy default stream: what other libraries use unless told otherwise, so all work is in order
OPT_IN = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
WITHOUT_ASKING = 48 << 10  # bytes of shared memory of a block

# What a kernel takes, as Numba names it: flat arrays of float32, float64, int32, uint32; numbers.
FLOATS, DOUBLES, INTS, COUNTS = (types.Array(t, 1, "C") for t in (types.float32, types.float64, types.int32, types.uint32))
INT, LONG, FLOAT, KEY = types.int32, types.int64, types.float32, types.uint64

# As the driver takes it: eight bytes each.
_PACK = {INT: "i4x", LONG: "q", FLOAT: "f4x", KEY: "Q"} | dict.fromkeys((FLOATS, DOUBLES, INTS, COUNTS), "7q")
_SCALAR = {INT: np.int32, LONG: np.int64, FLOAT: np.float32, KEY: np.uint64}


class Kernel:
    """A function of threads, compiled when it is first launched.

    Parameters
    ----------
    function
        What one thread does.
    takes
        The type of each argument, by the names above; ``(FLOAT, n)`` is a tuple of n of them.
    """

    def __init__(self, function: Callable[..., None], takes: Sequence[Any]) -> None:
        self.function, self.takes, self.name = function, tuple(takes), function.__name__
        self.dispatcher = cuda.jit(function)
        self._lock = threading.Lock()
        self._handle: int | None = None
        self._shared = WITHOUT_ASKING

    def __call__(self, grid: Any, threads: int, *arguments: Any, shared: int = 0) -> None:
        """Put it on the stream: ``grid`` blocks of ``threads`` threads with ``shared`` bytes of shared memory."""
        x, y, z = (*grid, 1, 1)[:3] if isinstance(grid, tuple) else (grid, 1, 1)
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
                raise BackendError(f'backend="cuda": an array of 2³¹ elements or more came to {self.name} ({error}); reduce the '
                                   "streams (the batch), the steps or the vocabulary.") from error
            if self._cooperative:
                code = _driver().cuLaunchCooperativeKernel(
                    self._handle, x, y, z, threads, 1, 1, shared, STREAM, self._pointers)
            else:
                code = _driver().cuLaunchKernel(self._handle, x, y, z, threads, 1, 1, shared, STREAM, self._pointers, None)
        if code:
            raise BackendError(f'backend="cuda": launching {self.name} on {(x, y, z)} blocks failed: {_error(code)}.')

    def resident(self, threads: int, shared: int) -> int:
        """How many of its blocks the device runs at once."""
        if SIMULATED:
            return 1
        if self._handle is None:
            self._prepare()
        if shared > self._shared:
            self._opt_in(shared)
        blocks = ctypes.c_int()
        _check(_driver().cuOccupancyMaxActiveBlocksPerMultiprocessor(ctypes.byref(blocks), self._handle, threads, shared),
               "asking for the occupancy")
        return blocks.value * processors()

    def signature(self) -> tuple[Any, ...]:
        """The types of its arguments, Numba's."""
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
            capability = cuda.get_current_device().compute_capability
            code = kept.load(self.function, self.takes, capability)
            if code is None:
                compiled = self.dispatcher.compile(self.signature())
                code = kept.Code(compiled.entry_name, bool(compiled.cooperative), compiled._codelibrary.get_cubin().code)
                kept.store(code, self.function, self.takes, capability)
            self._cooperative = code.cooperative
            self._handle = _load(code)

    def _opt_in(self, shared: int) -> None:
        with self._lock:
            shared = max(shared, self._shared)  # another thread may have asked for more
            code = _driver().cuKernelSetAttribute(OPT_IN, shared, self._handle, cuda.get_current_device().id)
            if code:
                raise BackendError(f"{self.name} needs {shared} bytes of shared memory in a block: {_error(code)}.")
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
        with _simulator:  # it runs one kernel at a time
            self.dispatcher[grid, threads, 0, shared](*given)


_simulator = threading.Lock()


def kernel(*takes: Any) -> Callable[[Callable[..., None]], Kernel]:
    """Make a :class:`Kernel` of a function."""
    return lambda function: Kernel(function, takes)


def blocks(size: int, threads: int = THREADS) -> int:
    """Blocks for a loop over ``size`` elements in strides of the grid: enough to fill the device, no more."""
    return min(-(-size // threads), 8 * processors())


@cache
def processors() -> int:
    """Multiprocessors of the device."""
    return 1 if SIMULATED else int(cuda.get_current_device().MULTIPROCESSOR_COUNT)


@cache
def shared_limit() -> int:
    """Bytes of shared memory that one block may ask for."""
    return 227 << 10 if SIMULATED else int(cuda.get_current_device().MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)


_bound = threading.local()


def _driver() -> Any:
    """The CUDA driver, with the device's primary context current in this thread."""
    try:
        return _bound.library
    except AttributeError:
        cuda.current_context()
        _bound.library = _library()
        return _bound.library


@cache
def _library() -> Any:
    library = ctypes.WinDLL("nvcuda.dll") if hasattr(ctypes, "WinDLL") else ctypes.CDLL("libcuda.so.1")
    launch = [ctypes.c_void_p, *[ctypes.c_uint] * 7, ctypes.c_void_p, ctypes.c_void_p]
    library.cuLaunchKernel.argtypes = [*launch, ctypes.c_void_p]
    library.cuLaunchCooperativeKernel.argtypes = launch
    library.cuKernelSetAttribute.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
    library.cuLibraryLoadData.argtypes = [
        ctypes.c_void_p, ctypes.c_char_p, *[ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint] * 2
    ]
    library.cuLibraryGetKernel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p]
    library.cuOccupancyMaxActiveBlocksPerMultiprocessor.argtypes = [
        ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
    ]
    library.cuMemcpyHtoD_v2.argtypes = [ctypes.c_uint64, ctypes.c_void_p, ctypes.c_size_t]
    library.cuMemcpyDtoH_v2.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_size_t]
    library.cuMemcpyDtoDAsync_v2.argtypes = [ctypes.c_uint64, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p]
    library.cuMemsetD32Async.argtypes = [ctypes.c_uint64, ctypes.c_uint, ctypes.c_size_t, ctypes.c_void_p]
    return library


def _load(code: "kept.Code") -> int:
    """The handle by which the driver launches this kernel."""
    library, found = ctypes.c_void_p(), ctypes.c_void_p()
    nothing = (None, None, 0)
    _check(_driver().cuLibraryLoadData(ctypes.byref(library), code.cubin, *nothing, *nothing), "loading a kernel")
    _check(_driver().cuLibraryGetKernel(ctypes.byref(found), library, code.entry.encode()), "finding a kernel")
    assert found.value is not None
    return found.value


def _error(code: int) -> str:
    text = ctypes.c_char_p()
    _driver().cuGetErrorString(code, ctypes.byref(text))
    return text.value.decode() if text.value else f"error {code}"


def _check(code: int, doing: str) -> None:
    if code:
        raise BackendError(f'backend="cuda": {doing} failed: {_error(code)}.')


# Moving memory. A download waits for all that was put on the stream before it.


def to_device(source: np.ndarray, target: DeviceArray) -> None:
    if SIMULATED:
        target.host[...] = source
    elif source.nbytes:
        _check(_driver().cuMemcpyHtoD_v2(target.address, source.ctypes.data, source.nbytes), "an upload")


def to_host(source: DeviceArray) -> np.ndarray:
    if SIMULATED:
        return np.array(source.host)
    target = np.empty(source.shape, source.dtype)
    if target.nbytes:
        _check(_driver().cuMemcpyDtoH_v2(target.ctypes.data, source.address, target.nbytes), "a download")
    return target


def on_device(source: DeviceArray, target: DeviceArray) -> None:
    """Copy between two contiguous arrays of the same size."""
    if SIMULATED:
        target.host[...] = source.host.reshape(target.shape)
    elif source.size:
        size = source.size * source.dtype.itemsize
        _check(_driver().cuMemcpyDtoDAsync_v2(target.address, source.address, size, STREAM), "a copy")


def fill(target: DeviceArray, value: float) -> None:
    """Every element of a contiguous array of 4-byte elements ← value."""
    assert target.is_contiguous, "only a contiguous array is filled"
    if SIMULATED:
        target.host[...] = value
    elif target.size:
        bits = int(np.array(value, target.dtype).view(np.uint32))
        _check(_driver().cuMemsetD32Async(target.address, bits, target.size, STREAM), "a fill")
