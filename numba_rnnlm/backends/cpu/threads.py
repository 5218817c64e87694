"""A pool of Python threads for kernels that release the GIL.

The caller works too: with two threads there is one worker. Workers never wait for one another, so any
number of Python threads may use one pool at once. After ``fork`` the child starts workers of its own.
"""

import os
import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from queue import SimpleQueue
from typing import Any

from ...errors import ConfigError

VARIABLE = "NUMBA_RNNLM_NUM_THREADS"
WORTHWHILE = 3_000_000  # multiply-adds, about 60 microseconds: twice what a worker takes to wake up


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


class Pool:
    """``threads`` threads, the caller among them."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._start()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._start)

    def _start(self) -> None:
        self._jobs: SimpleQueue[Any] = SimpleQueue()
        self._workers: list[threading.Thread] = []
        self._lock = threading.Lock()

    def parts(self, work: int) -> int:
        """How many threads a job of ``work`` multiply-adds is worth."""
        return max(1, min(self.threads, work // WORTHWHILE))

    def run(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> None:
        """Call ``function`` once for each tuple of arguments; return when all are done."""
        if len(calls) == 1:
            function(*calls[0])
            return
        if len(self._workers) < len(calls) - 1:
            self._grow(len(calls) - 1)
        done: SimpleQueue[BaseException | None] = SimpleQueue()
        for arguments in calls[1:]:
            self._jobs.put((function, arguments, done))
        failure: BaseException | None = None
        try:
            function(*calls[0])
        except BaseException as error:  # the others still write into the caller's arrays: wait, then raise
            failure = error
        for _ in calls[1:]:
            failure = done.get() or failure
        if failure is not None:
            raise failure

    def _grow(self, workers: int) -> None:
        with self._lock:
            while len(self._workers) < workers:
                worker = threading.Thread(target=_work, args=(self._jobs,), daemon=True, name="numba_rnnlm")
                worker.start()
                self._workers.append(worker)


def _work(jobs: "SimpleQueue[Any]") -> None:
    while True:
        function, arguments, done = jobs.get()
        try:
            function(*arguments)
            done.put(None)
        except BaseException as error:
            done.put(error)
        del function, arguments, done  # no array is kept alive by an idle worker
