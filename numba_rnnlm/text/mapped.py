"""Reads memory-mapped arrays (``numpy.memmap``) without keeping their pages in memory."""

import mmap
from collections.abc import Iterator

import numpy as np

READ = 8 * 2**20  # bytes to read at a time
LARGE = 2 * 2**20  # bytes of a large page: the system may map that much when one byte is read


def give_back(piece: np.ndarray) -> None:
    """Free the pages of ``piece`` if it is a contiguous part of a mapped file; the next access reads them again."""
    memory, mode = piece.base, getattr(piece, "mode", None)
    while isinstance(memory, np.ndarray):
        memory, mode = memory.base, getattr(memory, "mode", mode)
    # A copy-on-write map ("c") is left alone: its changes are in no file and would be lost.
    if isinstance(memory, mmap.mmap) and mode in ("r", "r+", "w+") and hasattr(mmap, "MADV_DONTNEED"):
        first = piece.ctypes.data - np.frombuffer(memory, np.uint8).ctypes.data
        start = max(0, first // LARGE - 1) * LARGE
        memory.madvise(mmap.MADV_DONTNEED, start, first + piece.nbytes + LARGE - start)


def pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the array piece by piece in constant memory."""
    size = max(1, READ // array.itemsize)
    for start in range(0, len(array), size):
        piece = array[start : start + size]
        yield piece
        give_back(piece)
