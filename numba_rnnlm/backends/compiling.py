"""Tells the user what a process is waiting for while kernels are compiled: once, within a second, with what it costs."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator

from numba.core.compiler_lock import global_compiler_lock

from .cache import Store

LATE = 0.8  # seconds of compiling before anything is said


class Notice:
    """Counts the time that goes into compilations, which may lie within one another, and speaks once when it is long."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told = self._postponed = False
        self._spent = 0.0  # seconds, in compilations that have ended
        self._depth = 0
        self._begun = 0.0
        self._timer = threading.Timer(0, self._tell)

    def begin(self, store: Store) -> None:
        """A kernel for this store is about to be compiled."""
        with self._lock:
            self._depth += 1
            if self._depth == 1 and not self._told:
                self._begun = time.monotonic()
                self._timer = threading.Timer(max(0.0, LATE - self._spent), self._tell, [store])
                self._timer.daemon = True
                self._timer.start()

    def end(self) -> None:
        """The kernel is ready, or it cannot be compiled."""
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                self._timer.cancel()
                self._spent += time.monotonic() - self._begun

    @contextlib.contextmanager
    def around(self, store: Store) -> Iterator[None]:
        """From :meth:`begin` to :meth:`end`."""
        self.begin(store)
        try:
            yield
        finally:
            self.end()

    def postpone(self) -> None:
        """Report that a signal waits until the kernel is compiled, if the user has already seen the notice about the compiler."""
        if self._told and self._depth and not self._postponed:
            self._postponed = True
            with contextlib.suppress(Exception):  # the signal may have interrupted a write to the same stream
                logging.getLogger("numba_rnnlm").warning("numba_rnnlm: interrupted: ending when the compiler has completed this kernel")

    def silence(self) -> None:
        """The user has asked for compilation and need not be told."""
        self._told = True

    def _tell(self, store: Store) -> None:
        with self._lock:
            if self._told or not self._depth:
                return
            self._told = True
        if store.writable and not store.failure:
            text = (f"compiling kernels that are not stored yet, 10 to 30 seconds or, on a busy processor, longer; they will be in {store.writable.parent} "
                    "(numba-rnnlm warmup compiles ahead of time)")  # fmt: skip
        else:
            text = "compiling kernels, 10 to 30 seconds or, on a busy processor, longer, in every process"
        logging.getLogger("numba_rnnlm").warning("numba_rnnlm: %s", text)


notice = Notice()


def _hold() -> None:
    """A fork waits for the kernel that another thread compiles: its lock would never be free in the child."""
    global_compiler_lock.acquire()  # type: ignore[no-untyped-call]
    notice._lock.acquire()


def _let_go() -> None:
    notice._lock.release()
    global_compiler_lock.release()  # type: ignore[no-untyped-call]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold, after_in_parent=_let_go, after_in_child=_let_go)
