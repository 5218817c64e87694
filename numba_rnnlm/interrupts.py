"""Signals during training: the first one ends it cleanly, the second one immediately.

Ctrl-C (SIGINT), the signals of a scheduler, ``timeout`` or a closing terminal (SIGTERM, SIGHUP), and the warnings of batch systems
(SIGXCPU: processor time is running out; SIGUSR1) are handled alike:

=============================================  =======================================================================
during                                         the first signal
=============================================  =======================================================================
reading a corpus, preparing                    stops immediately: nothing has been learned yet
compiling, before the first update             stops after the kernel is compiled (:func:`postponed`)
training                                       completes the current update, writes the checkpoint and ends the epoch:
                                               validates, adds a row to the history, restores the best weights
validating                                     completes the validation; then as during training
writing a checkpoint                           completes the file; then as during training
evaluating and saving after training (the      waits until the model is saved
command line)
=============================================  =======================================================================

A second signal stops all of these immediately; a file that was being written is removed, and the file that it would have replaced remains.

Afterwards the signal has its usual effect. In Python, the handlers of the host program are restored and the signal is raised again, which
means ``KeyboardInterrupt`` for Ctrl-C, a call of the host's handler, or the end of the process; unless :class:`Interrupts` was told to
return. The command line saves the model and exits with 128 + the number of the signal.

Ignored signals remain ignored (SIGHUP under ``nohup``, SIGINT in a shell's background job), and handlers that the host program has set in
C are not replaced, because Python could not restore them. Threads other than the main one receive no signals.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, Self

from .arguments import checked
from .errors import expect_flag, expect_one_of
from .reports import is_stuck

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGXCPU", "SIGUSR1", "SIGBREAK")  # those that the system has
THEN = ("raise", "return")
NOTICE = b"\ninterrupted: finishing cleanly; a second signal stops immediately and loses unsaved progress\n"


class Interrupted(KeyboardInterrupt):
    """A signal stopped the work immediately.

    Attributes
    ----------
    number
        Number of the signal.
    """

    def __init__(self, number: int, *arguments: object) -> None:
        super().__init__(*arguments)
        self.number = number


@checked
class Interrupts:
    """Records signals within the ``with`` in place of their usual effect. It may be entered again while it is open.

    Parameters
    ----------
    then
        What to do at the end of the ``with`` if there was a signal: "raise" it again, or "return".
    notice
        Print a notice to standard error on the first signal.

    Attributes
    ----------
    number
        Number of the first signal; 0 if there was none.
    waiting
        Whether the first signal waits for a clean end. False until :meth:`wait`; until then a signal raises :class:`Interrupted`.
    """

    def __init__(self, then: str = "raise", notice: bool = False) -> None:
        expect_one_of("on_interrupt", then, THEN)
        expect_flag("notice", notice)
        self.then, self.notice = then, notice
        self.number, self.waiting = 0, False
        self._depth = 0
        self._recording_only = True  # while handlers are being replaced
        self._hosts: dict[int, Any] = {}

    def is_set(self) -> bool:
        """Whether the work should end."""
        return self.number != 0

    def wait(self) -> None:
        """Let the first signal wait for a clean end from now on, because there is progress to lose.

        Raises
        ------
        Interrupted
            A signal came earlier and its exception was lost: C code that calls Python may be unable to propagate an exception.
        """
        if self.number:
            raise Interrupted(self.number)
        self.waiting = True

    def __enter__(self) -> Self:
        self._depth += 1
        if self._depth == 1:
            self._recording_only = True
            self._hosts = _take(self._note)
            self._recording_only = False
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._depth -= 1
        if self._depth:
            return
        self._recording_only = True
        hosts, self._hosts = self._hosts, {}
        _put_back(hosts)
        if self.number in hosts and self.then == "raise":
            signal.raise_signal(self.number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        first = self.number == 0
        self.number = self.number or number
        if self._recording_only:
            return
        if not first or not self.waiting:
            raise Interrupted(number)
        if self.notice:
            with contextlib.suppress(Exception):  # standard error may be closed, or an object of the host program
                if not is_stuck(sys.stderr, 0):
                    os.write(sys.stderr.fileno(), NOTICE)  # not print(), which the handler may have interrupted


@contextlib.contextmanager
def postponed(notify: Callable[[], None]) -> Iterator[None]:
    """Postpone signals that arrive within the ``with`` until its end, and call ``notify`` for each when it arrives.

    The compiler needs this: LLVM calls Python, and an exception that a handler raises there is lost, or leaves LLVM's objects incomplete,
    which may crash the process.
    """
    arrived: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        arrived.append(number)
        notify()

    hosts = _take(note)
    try:
        yield
    finally:
        _put_back(hosts)
        for number in arrived:
            signal.raise_signal(number)


def _take(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Install a handler for all signals whose handlers may be replaced, and return the previous handlers. Does nothing outside the main
    thread."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    hosts = {number: signal.getsignal(number) for number in _signals()}
    pythons = 0  # the C handler that calls handlers in Python
    try:
        for number in sorted(hosts, key=lambda number: callable(hosts[number])):
            if callable(hosts[number]) and pythons and _c_handler(number) != pythons:
                del hosts[number]  # C code has replaced the handler that Python remembers
                continue
            signal.signal(number, handler)
            pythons = _c_handler(number)
    except BaseException:  # raised by a handler that has not been replaced yet
        _put_back(hosts)
        raise
    return hosts


def _put_back(hosts: dict[int, Any]) -> None:
    try:
        for number, handler in hosts.items():
            signal.signal(number, handler)
    except BaseException:  # raised by a handler that has already been restored
        _put_back(hosts)
        raise


def _signals() -> list[int]:
    """The signals whose handlers may be replaced: those that are neither ignored nor have a handler in C."""
    numbers = [int(getattr(signal, name)) for name in NAMES if hasattr(signal, name)]
    return [number for number in numbers if _is_pythons(number)]


def _is_pythons(number: int) -> bool:
    """Whether this signal has its default action or a handler in Python."""
    handler = signal.getsignal(number)
    if handler in (None, signal.SIG_IGN):
        return False
    if handler is signal.SIG_DFL:  # as far as Python knows
        return not _c_handler(number)
    return True


def _c_handler(number: int) -> int:
    """The address of the handler that the system would call; 0 for the default action, or if it cannot be determined.

    Python does not notice handlers that C code sets after startup (``faulthandler``, MPI or a Java virtual machine, for example).
    """
    try:
        ask = ctypes.pythonapi.PyOS_getsig
    except AttributeError:  # not CPython
        return 0
    ask.restype, ask.argtypes = ctypes.c_void_p, [ctypes.c_int]
    return ask(number) or 0
