"""Arrays in the device's memory: a pointer, a shape, strides, and views that cost the host little."""

from math import prod
from typing import Any, ClassVar

import numpy as np

from ...errors import BackendError, ShapeError
from . import driver
from .device import SIMULATED

POOLED, SPARES = 1 << 18, 16  # bytes of a piece that is kept for the next, and how many of each size

Shape = tuple[int, ...]


class Memory:
    """A piece of device memory, freed with the last array on it. The simulator's is NumPy's.

    Small pieces are kept for the next of the same size: freeing one waits for the device. All work is on one stream, so what
    still reads such a piece comes before what is written to it next.
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
        """Free what is kept for the next."""
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
    """Memory that another library holds, as its ``__cuda_array_interface__`` tells; kept alive by ``owner``."""

    def __init__(self, address: int, owner: Any) -> None:
        self.bytes, self.address, self.owner = None, address, owner


class DeviceArray:
    """An n-dimensional view of device memory.

    Parameters
    ----------
    memory
        What it lies in.
    offset
        Elements from the beginning of ``memory``.
    shape, strides
        In elements.
    dtype
        Of the elements.
    """

    __slots__ = ("address", "dtype", "memory", "ndim", "offset", "packed", "shape", "size", "strides")

    def __init__(self, memory: Any, offset: int, shape: Shape, strides: Shape, dtype: np.dtype[Any]) -> None:
        self.memory, self.offset, self.shape, self.strides, self.dtype = memory, offset, shape, strides, dtype
        self.size, self.ndim = prod(shape), len(shape)
        item = dtype.itemsize
        self.address: int = memory.address + offset * item  # of the first element
        # What a kernel takes for a flat array: no object, no parent, size, item size, address, shape, strides.
        self.packed = (0, 0, self.size, item, self.address, self.size, item)

    @classmethod
    def new(cls, shape: Shape, dtype: np.dtype[Any]) -> "DeviceArray":
        """Unwritten memory of this shape."""
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
        """Whole numbers and slices with step 1, as NumPy has them."""
        indices = index if isinstance(index, tuple) else (index,)
        offset, shape, strides = self.offset, [], []
        for part, length, stride in zip(indices, self.shape, self.strides, strict=False):
            if isinstance(part, slice):
                start, stop, step = part.indices(length)
                if step != 1:
                    raise ShapeError(f"an array on the device is sliced with step 1, not {step}; download it first.")
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
        """The same elements in another shape; only of a contiguous array."""
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

    @property
    def host(self) -> np.ndarray:
        """The simulator's memory, as a view."""
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
        raise TypeError("this array lies on the device: ops.download(array) brings it to NumPy.")

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
    """An array of another library, seen where it lies, and as it is when it is read: it must be contiguous, on our device.

    What the library is still writing is waited for, unless it says that its stream is ours. What it writes later it must
    put in order itself.
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
    silent = about.get("version", 0) < 3 and "stream" not in about  # before version 3 nothing was said of streams
    if silent or about.get("stream") not in (None, driver.STREAM):
        driver.synchronize()
    return DeviceArray(Foreign(address, producer), 0, shape, contiguous(shape), dtype)
