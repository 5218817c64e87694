"""Arrays in device memory: a pointer, a shape and strides, with views that are cheap for the host."""

from math import prod
from typing import Any, ClassVar

import numpy as np

from ...errors import BackendError, ShapeError
from . import driver
from .device import SIMULATED

POOLED, SPARES = 1 << 18, 16  # largest block that is pooled for reuse, in bytes, and how many of each size

Shape = tuple[int, ...]


class Memory:
    """A block of device memory, freed with the last array that uses it. In the simulator it is a NumPy array.

    Small blocks are pooled for reuse at the same size, because freeing memory waits for the device. Reuse is safe: all work is on one
    stream, so pending reads of a block come before the next writes.
    """

    bytes: np.ndarray | None
    spare: ClassVar[dict[int, list[int]]] = {}  # size → addresses

    def __init__(self, size: int) -> None:
        self.size = max(8, -(-size // 8) * 8)
        self.bytes, self.address = None, 0
        if SIMULATED:
            self.bytes = np.full(self.size, 0xFF, np.uint8)  # NaN until written
        else:
            try:
                self.address = self.spare[self.size].pop()
            except (KeyError, IndexError):
                self.address = driver.allocate(self.size)

    @classmethod
    def release_spares(cls) -> None:
        """Free the pooled blocks."""
        for addresses in list(cls.spare.values()):
            while addresses:
                driver.release(addresses.pop())

    def __del__(self) -> None:
        if not self.address:
            return
        kept = self.spare.setdefault(self.size, [])
        if self.size <= POOLED and len(kept) < SPARES:
            kept.append(self.address)
        else:
            driver.release(self.address)


class Foreign:
    """Memory of another library, kept alive by ``owner``."""

    def __init__(self, address: int, owner: Any) -> None:
        self.bytes, self.address, self.owner = None, address, owner


class DeviceArray:
    """An n-dimensional view of device memory.

    Parameters
    ----------
    memory
        The memory that holds it.
    offset
        Elements from the start of ``memory``.
    shape, strides
        In elements.
    dtype
        Type of the elements.
    """

    __slots__ = ("address", "dtype", "memory", "ndim", "offset", "packed", "shape", "size", "strides")

    def __init__(self, memory: Any, offset: int, shape: Shape, strides: Shape, dtype: np.dtype[Any]) -> None:
        self.memory, self.offset, self.shape, self.strides, self.dtype = memory, offset, shape, strides, dtype
        self.size, self.ndim = prod(shape), len(shape)
        item = dtype.itemsize
        self.address: int = memory.address + offset * item  # of the first element
        # Numba's argument struct of a flat array: meminfo, parent, size, item size, address, shape, strides.
        self.packed = (0, 0, self.size, item, self.address, self.size, item)

    @classmethod
    def new(cls, shape: Shape, dtype: np.dtype[Any]) -> "DeviceArray":
        """An uninitialised array."""
        return cls(Memory(prod(shape) * dtype.itemsize), 0, shape, contiguous(shape), dtype)

    @property
    def is_contiguous(self) -> bool:
        step = 1
        for length, stride in zip(self.shape[::-1], self.strides[::-1], strict=True):
            if stride != step and length > 1:
                return self.size == 0
            step *= length
        return True

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> "DeviceArray":
        """Indexing as in NumPy, by integers and slices with step 1."""
        indices = index if isinstance(index, tuple) else (index,)
        offset, shape, strides = self.offset, [], []
        for part, length, stride in zip(indices, self.shape, self.strides, strict=False):
            if isinstance(part, slice):
                start, stop, step = part.indices(length)
                if step != 1:
                    raise ShapeError(f"a device array can only be sliced with step 1, not {step}; download it first.")
                offset += start * stride
                shape.append(max(0, stop - start))
                strides.append(stride)
            else:
                if not -length <= part < length:
                    raise IndexError(f"index {part} is out of bounds for an axis of size {length}")
                offset += part % length * stride
        axes = len(indices)
        if axes > self.ndim:
            raise IndexError(f"{axes} indices for an array of {self.ndim} axes")
        return DeviceArray(
            self.memory, offset, (*shape, *self.shape[axes:]), (*strides, *self.strides[axes:]), self.dtype
        )

    def reshape(self, *shape: Any) -> "DeviceArray":
        """The same elements in another shape; the array must be contiguous."""
        if shape == (-1,):
            if self.ndim == 1:
                return self
            shape = (self.size,)
        wanted = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else tuple(shape)
        if -1 in wanted:
            known = prod(length for length in wanted if length != -1)
            wanted = tuple(self.size // max(known, 1) if length == -1 else length for length in wanted)
        if prod(wanted) != self.size or not self.is_contiguous:
            raise ShapeError(f"a device array of shape {self.shape} cannot be seen as {wanted}.")
        return DeviceArray(self.memory, self.offset, wanted, contiguous(wanted), self.dtype)

    def swapaxes(self, first: int, second: int) -> "DeviceArray":
        """The same elements with two axes exchanged."""
        order = list(range(self.ndim))
        order[first], order[second] = second, first
        shape, strides = (tuple(each[axis] for axis in order) for each in (self.shape, self.strides))
        return DeviceArray(self.memory, self.offset, shape, strides, self.dtype)

    @property
    def host(self) -> np.ndarray:
        """A NumPy view of the simulator's memory."""
        flat = self.memory.bytes.view(self.dtype)[self.offset :]
        item = self.dtype.itemsize
        return np.lib.stride_tricks.as_strided(flat, self.shape, tuple(item * stride for stride in self.strides))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if SIMULATED:
            raise AttributeError("the simulator's memory is not on a device")
        return {
            "shape": self.shape, "typestr": self.dtype.str, "data": (self.address, False), "version": 3, "stream": 1,
            "strides": None if self.is_contiguous else tuple(self.dtype.itemsize * stride for stride in self.strides),
        }

    def __array__(self, *arguments: Any, **options: Any) -> np.ndarray:
        raise TypeError("this array is on the device; use ops.download(array) to get a NumPy array.")

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype.name})"


def contiguous(shape: Shape) -> Shape:
    """Strides, in elements, of a C-contiguous array."""
    strides, step = [], 1
    for length in reversed(shape):
        strides.append(step)
        step *= length
    return tuple(reversed(strides))


def foreign(producer: Any) -> DeviceArray:
    """A view, not a copy, of another library's array, which must be contiguous and on our device.

    Waits for the library's pending writes, unless it declares that it uses our stream. The library must synchronise later writes
    itself.
    """
    about = producer.__cuda_array_interface__
    shape, dtype, address = tuple(about["shape"]), np.dtype(about["typestr"]), about["data"][0]
    strides = about.get("strides")
    if strides is not None and tuple(strides) != tuple(dtype.itemsize * stride for stride in contiguous(shape)):
        raise ShapeError(f"the array on the device, {shape}, is not contiguous; hand over a contiguous copy.")
    if not dtype.isnative or about.get("mask") is not None or address % dtype.itemsize:
        raise BackendError(f'backend="cuda": the array on the device, {shape} of {about["typestr"]}, is byte-swapped, masked or not '
                           "aligned; hand over a plain copy.")
    if prod(shape):
        driver.expect_ours(address)
    silent = about.get("version", 0) < 3 and "stream" not in about  # version 3 added "stream"
    if silent or about.get("stream") not in (None, driver.STREAM):
        driver.synchronize()
    return DeviceArray(Foreign(address, producer), 0, shape, contiguous(shape), dtype)
