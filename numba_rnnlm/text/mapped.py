"""Arrays that are files, as ``numpy.memmap``: what was read of them does not stay in memory."""

import mmap
from collections.abc import Iterator

import numpy as np

READ = 8 * 2**20  # bytes that are read at once
LARGE = 2 * 2**20  # bytes: the system may map as many where one is read


def give_back(piece: np.ndarray) -> None:
    """Where ``piece`` is a contiguous part of a mapped file, free the memory of its pages; when needed they are read again."""
    memory, mode = piece.base, getattr(piece, "mode", None)
    while isinstance(memory, np.ndarray):
        memory, mode = memory.base, getattr(memory, "mode", mode)
    # Changes to a copy-on-write map ("c") are in no file: they would be lost.
    if isinstance(memory, mmap.mmap) and mode in ("r", "r+", "w+") and hasattr(mmap, "MADV_DONTNEED"):
        first = piece.ctypes.data - np.frombuffer(memory, np.uint8).ctypes.data
        start = max(0, first // LARGE - 1) * LARGE
        memory.madvise(mmap.MADV_DONTNEED, start, first + piece.nbytes + LARGE - start)


def pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    """The array from its beginning to its end; memory does not grow with it."""
    size = max(1, READ // array.itemsize)
    for start in range(0, len(array), size):
        piece = array[start : start + size]
        yield piece
        give_back(piece)
