"""Buffers for intermediate results, reused from call to call: page faults of new memory cost more than the computation."""

import threading
from math import prod
from typing import Any

import numpy as np

ALIGNMENT = 64  # bytes
KEPT_VIEWS = 1024  # shapes whose views are kept


def aligned(shape: tuple[int, ...], dtype: Any, zeros: bool = False) -> np.ndarray:
    """A new array that begins on a cache line: uninitialised, or of zeros, which take no memory before they are touched."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = (np.zeros if zeros else np.empty)(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    array: np.ndarray = memory[start : start + size].view(dtype).reshape(shape)
    return array


class Workspace(threading.local):
    """Buffers by name; each Python thread has its own."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[str, Any], np.ndarray] = {}
        self._views: dict[tuple[str, Any, tuple[int, ...]], np.ndarray] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An uninitialised array, valid until the next call with this name. Rows of a matrix are padded to whole cache lines."""
        view = self._views.get((name, dtype, shape))
        if view is None:
            view = self._views[name, dtype, shape] = self._view(name, shape, np.dtype(dtype))
        return view

    def _view(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        *rows, width = shape
        stride = -(-width // ALIGNMENT) * ALIGNMENT if rows else width
        size = prod(rows) * stride
        held = self._arrays.get((name, dtype))
        if len(self._views) >= KEPT_VIEWS:
            self._views.clear()
        if held is None or held.size < size:
            for key in [key for key in self._views if key[0] == name]:  # they would keep the smaller array
                del self._views[key]
            held = self._arrays[name, dtype] = aligned((size,), dtype)
        return held[:size].reshape(*rows, stride)
