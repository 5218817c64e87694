"""Buffers for intermediate results, reused from call to call: page faults of new memory cost more than the computation."""

import threading
from math import prod
from typing import Any

import numpy as np

ALIGNMENT = 64  # bytes


def aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """A new uninitialised array that begins on a cache line."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    array: np.ndarray = memory[start : start + size].view(dtype).reshape(shape)
    return array


class Workspace(threading.local):
    """Buffers by name; each Python thread has its own."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[Any, ...], np.ndarray] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An uninitialised array, valid until the next call with this name. Rows of a matrix are padded to whole cache lines."""
        key = name, np.dtype(dtype)
        *rows, width = shape
        stride = -(-width // ALIGNMENT) * ALIGNMENT if rows else width
        size = prod(rows) * stride
        held = self._arrays.get(key)
        if held is None or held.size < size:
            held = self._arrays[key] = aligned((size,), dtype)
        return held[:size].reshape(*rows, stride)
