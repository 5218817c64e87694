"""A pool of threads for kernels in parts. Results do not depend on how many there are.

The caller works too: with two threads there is one worker. Any number of Python threads may use one pool at once. After
``fork`` the child starts workers of its own.
"""

import itertools
import os
import threading
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from queue import SimpleQueue
from typing import Any

import numpy as np

from ...errors import ConfigError
from . import team

VARIABLE = "NUMBA_RNNLM_NUM_THREADS"
WORTHWHILE = 100_000  # multiply-adds, about 2 microseconds: twice what it takes to hand them to a worker that is awake


def default_threads() -> int:
    """The environment variable NUMBA_RNNLM_NUM_THREADS, or the processors that this process may use."""
    text = os.environ.get(VARIABLE, "").strip()
    if text:
        if not text.isdigit() or int(text) < 1:
            raise ConfigError(f"{VARIABLE} is {text!r}, expected a whole number of at least 1.")
        return int(text)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def split(size: int, parts: int, unit: int = 1) -> list[tuple[int, int]]:
    """Cut range(size) into at most ``parts`` even pieces, none empty, inner borders on multiples of ``unit``."""
    units = -(-size // unit)
    parts = max(1, min(parts, units))
    borders = [min(size, units * part // parts * unit) for part in range(parts + 1)]
    return list(pairwise(borders))


@cache
def cut(size: int, parts: int, unit: int = 1) -> np.ndarray:
    """:func:`split` as the bounds of a kernel's parts."""
    return np.array(split(size, parts, unit), np.int64)


class Pool:
    """``threads`` threads, the caller among them."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._start()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._start)

    def _start(self) -> None:
        self._board = team.new_board()
        self._calls: SimpleQueue[None] = SimpleQueue()  # each wakes a worker up
        self._workers: list[threading.Thread] = []
        self._asleep, self._awake = 0, False  # how many sleep; whether none may
        self._lock, self._one_gang = threading.Lock(), threading.Lock()
        self._slots = threading.local()
        self._numbers = itertools.count()

    def parts(self, work: int) -> int:
        """How many threads a job of ``work`` multiply-adds is worth."""
        return max(1, min(self.threads, work // WORTHWHILE))

    def run(self, kernel: Callable[..., Any], bounds: np.ndarray, *arguments: Any) -> None:
        """Run all parts of a kernel; return when all are done."""
        if len(bounds) > 1:
            if not self._workers:
                self._grow()
            if self._asleep:
                self._wake()
        try:
            slot = self._slots.number
        except AttributeError:
            slot = self._slots.number = team.slot(next(self._numbers))
        kernel(self._board, slot, bounds, *arguments)

    def gang(self, kernel: Callable[..., Any], bounds: np.ndarray, *arguments: Any) -> None:
        """:meth:`run` for parts that wait for one another, at most as many as there are threads.

        One gang at a time: two would each hold some of the workers and wait for the others.
        """
        with self._one_gang:
            self._awake = len(bounds) > 1
            if self._awake:  # first that, then the calls: a worker that is about to sleep finds one and looks again
                self._grow()
                for _ in range(len(self._workers) - self._calls.qsize()):
                    self._calls.put(None)
            try:
                kernel(self._board, team.GANG, bounds, *arguments)
            finally:
                self._awake = False

    def _wake(self) -> None:
        with self._lock:
            for _ in range(self._asleep - self._calls.qsize()):  # the others have been called already
                self._calls.put(None)

    def _grow(self) -> None:
        with self._lock:
            if not self._workers:
                team.serve(self._board, 0)  # compiled before there is a second thread
            while len(self._workers) < self.threads - 1:
                worker = threading.Thread(
                    target=self._work, args=(self._board, self._calls), daemon=True, name="numba_rnnlm"
                )
                worker.start()
                self._workers.append(worker)

    def _work(self, board: np.ndarray, calls: "SimpleQueue[None]") -> None:
        while True:
            team.serve(board, team.ROUNDS)
            if self._awake:
                continue
            with self._lock:
                self._asleep += 1
            calls.get()
            with self._lock:
                self._asleep -= 1
