"""Arrays that are files, as ``numpy.memmap``: what was read of them does not stay in memory."""

import mmap
from collections.abc import Iterator
from contextlib import suppress

import numpy as np

READ = 8 * 2**20  # bytes that are read before their pages are given back: each time the system walks through all of them


def give_back(array: np.ndarray) -> None:
    """Where ``array`` is a mapped file, free the memory of its pages; the file is read again where they are needed.

    From then on its pages are small ones: of large ones, 2 MB for each stream would stay.
    """
    memory, mode = array.base, getattr(array, "mode", None)
    while isinstance(memory, np.ndarray):
        memory, mode = memory.base, getattr(memory, "mode", mode)
    # Changes to a copy-on-write map ("c") are in no file: they would be lost.
    if isinstance(memory, mmap.mmap) and mode in ("r", "r+", "w+") and hasattr(mmap, "MADV_DONTNEED"):
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            with suppress(OSError):  # of a system that has no large ones
                memory.madvise(mmap.MADV_NOHUGEPAGE)
        memory.madvise(mmap.MADV_DONTNEED)


def pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    """The array from its beginning to its end; memory does not grow with it."""
    size = max(1, READ // array.itemsize)
    for start in range(0, len(array), size):
        yield array[start : start + size]
        give_back(array)
