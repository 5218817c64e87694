"""Tells the user, once and within a second, that the process is waiting for the compiler, and how long that takes."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator

from numba.core.compiler_lock import global_compiler_lock

from .cache import Store

LATE = 0.8  # seconds of compiling before the notice


class Notice:
    """Adds up the time spent in compilations, which may nest, and logs one notice when it gets long."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told = self._postponed = False
        self._spent = 0.0  # seconds in finished compilations
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
        """The kernel is ready, or its compilation failed."""
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                self._timer.cancel()
                self._spent += time.monotonic() - self._begun

    @contextlib.contextmanager
    def around(self, store: Store) -> Iterator[None]:
        """:meth:`begin` on entry, :meth:`end` on exit."""
        self.begin(store)
        try:
            yield
        finally:
            self.end()

    def postpone(self) -> None:
        """Report that a signal has to wait for the compiler, if the user has already seen the notice."""
        if self._told and self._depth and not self._postponed:
            self._postponed = True
            with contextlib.suppress(Exception):  # the signal may have interrupted a write to the same stream
                logging.getLogger("numba_rnnlm").warning("numba_rnnlm: interrupted: ending when the compiler has completed this kernel")

    def silence(self) -> None:
        """No notice: the user has asked for compilation."""
        self._told = True

    def _tell(self, store: Store) -> None:
        with self._lock:
            if self._told or not self._depth:
                return
            self._told = True
        if store.writable and not store.failure:
            text = (f"compiling kernels that are not stored yet (10 to 30 seconds, longer on a busy processor); they will be stored in {store.writable.parent} "
                    "(numba-rnnlm warmup compiles ahead of time)")  # fmt: skip
        else:
            text = "compiling kernels (10 to 30 seconds in every process, longer on a busy processor)"
        logging.getLogger("numba_rnnlm").warning("numba_rnnlm: %s", text)


notice = Notice()


def _hold() -> None:
    """Before a fork, wait for other threads to finish compiling: the child would inherit a lock that nobody releases."""
    global_compiler_lock.acquire()  # type: ignore[no-untyped-call]
    notice._lock.acquire()


def _let_go() -> None:
    notice._lock.release()
    global_compiler_lock.release()  # type: ignore[no-untyped-call]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold, after_in_parent=_let_go, after_in_child=_let_go)
