"""The CUDA driver, called through ctypes in the context of one device, and its errors as exceptions.

A process computes on one device: the one that is current when the first array or kernel is created (``CUDA_VISIBLE_DEVICES``
selects among several). Other libraries or threads may make another device current, so each call checks, and
restores that one afterwards.
"""

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from ...errors import BackendError
from . import device
from .device import SIMULATED, cuda

STREAM = 1  # CUDA's legacy default stream, which other libraries use by default, so that all work is in order
OUT_OF_MEMORY = 2
REFUSED = {720, 801}  # a cooperative launch with more blocks than the device runs at once, or unsupported
LOST = {700, 702, *range(714, 720), 999}  # a kernel failed, and its context is unusable
PAGE = 1 << 12
WITHOUT_TIMES = 2  # CU_EVENT_DISABLE_TIMING
DEVICE_OF_POINTER = 9  # CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL


class Refused(BackendError):
    """The device cannot run all blocks of a cooperative launch at once."""


def problem(code: int, doing: str) -> BackendError:
    """The exception for a result code of the driver."""
    if code == OUT_OF_MEMORY:
        return BackendError(f'backend="cuda": the device has no memory left for {doing}; reduce the streams (the batch), the steps '
                            "or the units.")
    if code in LOST:
        return BackendError(f'backend="cuda": {doing} failed because a kernel failed before it in this process '
                            f"({_text(code)}), and the device accepts no more work from it. Start the process again, and resume training from its "
                            "last checkpoint; with CUDA_LAUNCH_BLOCKING=1 the error names the kernel.")
    kind = Refused if code in REFUSED else BackendError
    return kind(f'backend="cuda": {doing} failed: {_text(code)}.')


def check(code: int, doing: str) -> None:
    """Raise the exception for a result code, unless it is 0."""
    if code:
        raise problem(code, doing)


class _Here(threading.local):
    """Where the driver writes the current context of this thread."""

    def __init__(self) -> None:
        self.context = ctypes.c_void_p()
        self.reference = ctypes.byref(self.context)


_here = _Here()


def call(function: str, *arguments: Any) -> int:
    """Call a driver function with our device's context current in this thread; returns its result code."""
    library = _library()
    library.cuCtxGetCurrent(_here.reference)
    if _here.context.value == _ours()[1] and not device.forked():
        return getattr(library, function)(*arguments)  # type: ignore[no-any-return]
    with current():
        return getattr(library, function)(*arguments)  # type: ignore[no-any-return]


@contextmanager
def current() -> Iterator[Any]:
    """Make our device current in this thread and restore the previous one afterwards. Yields Numba's object of the device."""
    if device.forked():
        raise BackendError(f'backend="cuda": {device.FORKED}')
    library, (found, ours) = _library(), _ours()
    check(library.cuCtxPushCurrent_v2(ours), "making the device current")
    try:
        yield found
    finally:
        library.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


@cache
def attribute(name: str) -> int:
    """An attribute of our device, named as in CUDA without ``CU_DEVICE_ATTRIBUTE_``."""
    with current() as found:
        return int(getattr(found, name))


def number() -> int:
    """CUDA's number of our device in this process."""
    return int(_ours()[0].id)


@cache
def name() -> str:
    """Name of our device; a partition of a shared device has its own name."""
    return device.name(_ours()[0])


@cache
def capability() -> tuple[int, int]:
    """Compute capability of our device."""
    major, minor = _ours()[0].compute_capability
    return int(major), int(minor)


@cache
def _ours() -> tuple[Any, int]:
    """Numba's object of our device, and the handle of its primary context."""
    if device.forked():
        raise BackendError(f'backend="cuda": {device.FORKED}')
    here = ctypes.c_void_p()
    found = cuda.current_context().device
    check(_library().cuCtxGetCurrent(ctypes.byref(here)), "asking for the current device")
    assert here.value is not None
    return found, here.value


@cache
def _library() -> Any:
    library = ctypes.WinDLL("nvcuda.dll") if hasattr(ctypes, "WinDLL") else ctypes.CDLL("libcuda.so.1")
    launch = [ctypes.c_void_p, *[ctypes.c_uint] * 7, ctypes.c_void_p, ctypes.c_void_p]
    library.cuLaunchKernel.argtypes = [*launch, ctypes.c_void_p]
    library.cuLaunchCooperativeKernel.argtypes = launch
    library.cuKernelGetAttribute.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
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
    library.cuMemcpyHtoDAsync_v2.argtypes = [ctypes.c_uint64, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
    library.cuMemcpyDtoHAsync_v2.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p]
    library.cuMemAllocHost_v2.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    library.cuMemFreeHost.argtypes = [ctypes.c_void_p]
    library.cuEventCreate.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.cuEventRecord.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    library.cuEventSynchronize.argtypes = [ctypes.c_void_p]
    library.cuPointerGetAttribute.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64]
    library.cuCtxPushCurrent_v2.argtypes = [ctypes.c_void_p]
    return library


def _text(code: int) -> str:
    text = ctypes.c_char_p()
    if not SIMULATED:
        _library().cuGetErrorString(code, ctypes.byref(text))
    return text.value.decode() if text.value else f"error {code}"


# Memory


_allocated: dict[int, Any] = {}  # address → Numba's owner object, which frees the memory when deleted


def allocate(size: int) -> int:
    """The address of ``size`` bytes on our device."""
    with current():
        try:
            owner = cuda.current_context().memalloc(size)
        except cuda.cudadrv.driver.CudaAPIError as error:
            raise problem(int(error.code), f"{size / 1e9:.2f} GB" if error.code == OUT_OF_MEMORY else "asking for memory") from error
    address = int(owner.device_ctypes_pointer.value)
    _allocated[address] = owner
    return address


def release(address: int) -> None:
    """Free the memory at this address."""
    _allocated.pop(address, None)


def free_memory() -> int:
    """Free bytes of our device's memory, after Numba's pending deallocations."""
    with current():
        context = cuda.current_context()
        context.deallocations.clear()
        return int(context.get_memory_info().free)


def to_device(source: np.ndarray, address: int) -> None:
    """Copy a contiguous array to ``address``."""
    check(call("cuMemcpyHtoD_v2", address, source.ctypes.data, source.nbytes), "an upload")


def to_host(address: int, target: np.ndarray) -> None:
    """Fill a contiguous array from ``address``, after all work queued before."""
    check(call("cuMemcpyDtoH_v2", target.ctypes.data, address, target.nbytes), "a download")


def to_device_soon(source: int, address: int, size: int) -> None:
    """Start copying ``size`` bytes of pinned memory to ``address``."""
    check(call("cuMemcpyHtoDAsync_v2", address, source, size, STREAM), "an upload")


def to_host_soon(address: int, target: int, size: int) -> None:
    """Start copying ``size`` bytes from ``address`` to pinned memory."""
    if size:
        check(call("cuMemcpyDtoHAsync_v2", target, address, size, STREAM), "a download")


class Staging:
    """Ring of pinned buffers for asynchronous copies; a buffer is reused when its last copy has finished.

    Each thread has its own. Pinned memory is held until the process ends.
    """

    PLACES = 8

    def __init__(self) -> None:
        self._places: list[tuple[np.ndarray, ctypes.c_void_p] | None] = [None] * self.PLACES
        self._next = 0

    def take(self, size: int) -> tuple[np.ndarray, Callable[[], Callable[[], None]]]:
        """``size`` free bytes, and a function to call once their copies have been started.

        That function returns another, which waits for the copies. The bytes are reused after PLACES further calls.
        """
        number = self._next
        self._next = (number + 1) % self.PLACES
        place = self._places[number]
        if place is not None:
            check(call("cuEventSynchronize", place[1]), "waiting for a copy")
        if place is None or place[0].size < size:
            event, address = place[1] if place else _event(), ctypes.c_void_p()
            room = -(-size // PAGE) * PAGE
            check(call("cuMemAllocHost_v2", ctypes.byref(address), room), "asking for pinned memory")
            assert address.value is not None
            whole = np.ctypeslib.as_array((ctypes.c_uint8 * room).from_address(address.value))
            if place is not None:
                check(call("cuMemFreeHost", place[0].ctypes.data), "giving back pinned memory")
            place = self._places[number] = whole, event
        view, event = place[0][:size], place[1]

        def started() -> Callable[[], None]:
            check(call("cuEventRecord", event, STREAM), "marking a copy")
            return lambda: check(call("cuEventSynchronize", event), "waiting for a copy")

        return view, started


def _event() -> ctypes.c_void_p:
    event = ctypes.c_void_p()
    check(call("cuEventCreate", ctypes.byref(event), WITHOUT_TIMES), "making an event")
    return event


def on_device(source: int, target: int, size: int) -> None:
    """Start copying ``size`` bytes within the device."""
    check(call("cuMemcpyDtoDAsync_v2", target, source, size, STREAM), "a copy")


def fill(address: int, bits: int, count: int) -> None:
    """Set ``count`` elements of 4 bytes."""
    check(call("cuMemsetD32Async", address, bits, count, STREAM), "a fill")


def expect_ours(address: int) -> None:
    """Raise :class:`BackendError` unless the address lies in our device's memory."""
    where = ctypes.c_int(-1)
    call("cuPointerGetAttribute", ctypes.byref(where), DEVICE_OF_POINTER, address)
    ours = number()
    if where.value != ours:
        raise BackendError(f'backend="cuda": the array is on device {where.value}, but this process computes on device {ours}; copy it '
                           "there, or choose the device with CUDA_VISIBLE_DEVICES.")


def synchronize() -> None:
    """Wait for all work on all streams."""
    check(call("cuCtxSynchronize"), "waiting for another library's stream")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=device.note_fork)
