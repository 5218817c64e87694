"""Tells the user what a process is waiting for while kernels are compiled: once, within a second, with what it costs."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from .cache import Store

LATE = 0.8  # seconds of compiling before anything is said

_log = logging.getLogger("numba_rnnlm")
_lock = threading.Lock()
_told = False
_spent = 0.0  # seconds, in compilations that have ended
_depth = 0  # of compilations within one another
_begun = 0.0
_timer: threading.Timer | None = None


def begin(store: Store) -> None:
    """A kernel for this store is about to be compiled."""
    global _depth, _begun, _timer
    with _lock:
        _depth += 1
        if _depth == 1 and not _told:
            _begun = time.monotonic()
            _timer = threading.Timer(max(0.0, LATE - _spent), _tell, [store])
            _timer.daemon = True
            _timer.start()


@contextmanager
def told(store: Store) -> Iterator[None]:
    """Around a compilation: :func:`begin` and :func:`end`."""
    begin(store)
    try:
        yield
    finally:
        end()


def expected() -> None:
    """The user has asked for it and need not be told."""
    global _told
    _told = True


def end() -> None:
    """The kernel is ready."""
    global _depth, _spent
    with _lock:
        _depth = max(0, _depth - 1)
        if _depth == 0 and _timer is not None:
            _timer.cancel()
            _spent += time.monotonic() - _begun


def _tell(store: Store) -> None:
    global _told
    with _lock:
        if _told or not _depth:
            return
        _told = True
    if store.writable:
        _log.warning("numba_rnnlm: compiling kernels, some 10 seconds the first time; they are stored in %s (numba-rnnlm warmup compiles "
                     "them ahead of time)", store.writable.parent)  # fmt: skip
    else:
        _log.warning("numba_rnnlm: compiling kernels, some 10 seconds in every process, because they cannot be stored: %s; set "
                     "NUMBA_CACHE_DIR to a folder that you can write", store.problem)  # fmt: skip
