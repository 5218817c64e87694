"""A thread pool that runs the parts of a kernel. Results do not depend on the number of threads.

The caller works too: two threads are the caller and one worker. Any number of Python threads may use one pool at once. After
a ``fork``, the child starts its own workers.
"""

import itertools
import os
import threading
import weakref
from collections.abc import Callable
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numba import config

from . import team

WORTHWHILE = 100_000  # multiply-adds, about 2 microseconds: twice the cost of handing them to an awake worker
KEPT = 4096  # cached splits; bounded, because a serving process sees ever new sizes


def split(size: int, parts: int, unit: int = 1) -> list[tuple[int, int]]:
    """Split range(size) into at most ``parts`` even, non-empty ranges, with inner borders at multiples of ``unit``."""
    units = -(-size // unit)
    parts = max(1, min(parts, units))
    borders = [min(size, units * part // parts * unit) for part in range(parts + 1)]
    return list(pairwise(borders))


@lru_cache(KEPT)
def cut(size: int, parts: int, unit: int = 1) -> np.ndarray:
    """:func:`split` as the bounds of a kernel's parts (parts, 2)."""
    return np.array(split(size, parts, unit), np.int64)


@lru_cache(KEPT)
def blocks(rows: int, columns: int, down: int, across: int) -> np.ndarray:
    """(first row, last, first column, last) of each block of a matrix that is cut ``down`` and ``across`` into so many ranges; lines of a cache
    are not cut."""
    return np.array([(*row, *column) for row in split(rows, down) for column in split(columns, across, 16)], np.int64)


class Pool:
    """``threads`` threads, including the caller. The workers end when the pool is garbage collected."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._start()
        pools.add(self)

    def _start(self) -> None:
        self.board = team.new_board(self.threads)
        self._workers: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._slots = threading.local()
        self._numbers = itertools.count()

    def parts(self, work: int) -> int:
        """How many threads a job of ``work`` multiply-adds is worth."""
        return max(1, min(self.threads, work // WORTHWHILE))

    def run(self, kernel: Callable[..., Any], bounds: np.ndarray, *arguments: Any) -> None:
        """Run all parts of a kernel; return when all are done."""
        kernel(self.board, self._slot(len(bounds)), bounds, *arguments)

    def lead(self, kernel: Callable[..., Any], parts: int, first: Any, *arguments: Any) -> None:
        """Run a gang kernel with at most ``parts`` members. It also receives board and slot, after its first argument."""
        slot = self._slot(parts)
        kernel(self.board, slot, _bounds(parts), first, self.board, slot, *arguments)

    def _slot(self, parts: int) -> int:
        """This Python thread's slot on the board. Workers are started on the first call with something for them to do."""
        if parts > 1 and not self._workers and not config.DISABLE_JIT:  # type: ignore[attr-defined]
            self._grow()
        try:
            number: int = self._slots.number
        except AttributeError:
            number = self._slots.number = team.slot(next(self._numbers))
        return number

    def _grow(self) -> None:
        with self._lock:
            if self._workers:
                return
            closed = team.new_board(1)
            team.close(closed)
            team.serve(closed)  # compile it before there is a second thread
            self._workers = [
                threading.Thread(target=team.serve, args=(self.board,), daemon=True, name="numba_rnnlm")
                for _ in range(self.threads - 1)
            ]
            for worker in self._workers:
                worker.start()
            # Not at exit: sleeping workers simply end with the process, but woken ones would try to take the GIL while
            # Python shuts down.
            weakref.finalize(self, team.close, self.board).atexit = False


pools: "weakref.WeakSet[Pool]" = weakref.WeakSet()  # all that exist


@cache
def _bounds(parts: int) -> np.ndarray:
    """Placeholder bounds of a gang, which splits its work step by step."""
    return np.zeros((parts, 2), np.int64)


def _start_all() -> None:
    for pool in list(pools):
        pool._start()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_all)
