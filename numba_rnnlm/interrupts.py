"""Signals during a training: the first one ends it cleanly, the second one at once.

Ctrl-C (SIGINT), what a scheduler, ``timeout`` or a closing terminal sends (SIGTERM, SIGHUP), and the warnings of batch systems
(SIGXCPU: the processor time is nearly over; SIGUSR1) are handled alike:

=============================================  =======================================================================
what is going on                               what the first signal does
=============================================  =======================================================================
reading a corpus, preparing                    stops at once: nothing was learned yet
compiling, before the first update             the kernel is completed (:func:`postponed`), then it stops
training                                       the update in progress is completed, the checkpoint written, the
                                               epoch closed: validated, noted in the history, the best weights kept
validating                                     the validation is completed; then as during training
writing a checkpoint                           the file is completed; then as during training
measuring and saving after the training (the   waits until the model is saved
command line)
=============================================  =======================================================================

A second signal stops all of these at once; a file that was being written is removed, the one that it would have replaced stays.

Afterwards the signal has its own consequence. In Python the handlers of the host program are back and the signal is raised
again: ``KeyboardInterrupt`` for Ctrl-C, a call of the host's handler, or the end of the process; unless :class:`Interrupts` was
asked to return. The command line saves the model and exits with 128 + the signal's number.

A signal that is ignored stays ignored (SIGHUP under ``nohup``, SIGINT of a shell's background job), and a handler that the host
program has set in C is left alone: Python could not put it back. Threads other than the main one receive no signals.
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

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGXCPU", "SIGUSR1", "SIGBREAK")  # as far as the system has them
THEN = ("raise", "return")
NOTICE = b"\ninterrupted: ending cleanly; once more stops at once and loses what no file has\n"


class Interrupted(KeyboardInterrupt):
    """A signal stopped the work at once.

    Attributes
    ----------
    number
        Of the signal.
    """

    def __init__(self, number: int, *arguments: object) -> None:
        super().__init__(*arguments)
        self.number = number


@checked
class Interrupts:
    """Within ``with``, signals are noted here instead of having their consequence. It may be entered again while it is open.

    Parameters
    ----------
    then
        What follows at the end of the ``with`` if there was a signal: "raise" it again, or "return".
    notice
        Answer the first one on standard error.

    Attributes
    ----------
    number
        Of the first signal; 0 if there was none.
    waiting
        Whether the first signal waits for a clean end: after :meth:`wait`. Before, it raises :class:`Interrupted`.
    """

    def __init__(self, then: str = "raise", notice: bool = False) -> None:
        expect_one_of("on_interrupt", then, THEN)
        expect_flag("notice", notice)
        self.then, self.notice = then, notice
        self.number, self.waiting = 0, False
        self._depth = 0
        self._only_noting = True  # while handlers change
        self._hosts: dict[int, Any] = {}

    def is_set(self) -> bool:
        """Whether the work should end."""
        return self.number != 0

    def wait(self) -> None:
        """From here on there is something to lose: the first signal waits for a clean end.

        Raises
        ------
        Interrupted
            If a signal came earlier and its exception was lost: C code that calls Python may be unable to pass an exception on.
        """
        if self.number:
            raise Interrupted(self.number)
        self.waiting = True

    def __enter__(self) -> Self:
        self._depth += 1
        if self._depth == 1:
            self._only_noting = True
            self._hosts = _take(self._note)
            self._only_noting = False
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._depth -= 1
        if self._depth:
            return
        self._only_noting = True
        hosts, self._hosts = self._hosts, {}
        _put_back(hosts)
        if self.number in hosts and self.then == "raise":
            signal.raise_signal(self.number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        first = self.number == 0
        self.number = self.number or number
        if self._only_noting:
            return
        if not first or not self.waiting:
            raise Interrupted(number)
        if self.notice:
            with contextlib.suppress(Exception):  # standard error may be closed, or an object of the host program
                if not is_stuck(sys.stderr, 0):
                    os.write(sys.stderr.fileno(), NOTICE)  # not print: the handler may have interrupted one


@contextlib.contextmanager
def postponed(told: Callable[[], None]) -> Iterator[None]:
    """Within ``with``, signals are noted, and ``told`` is called; at its end they are raised again, in their order.

    The compiler needs this: LLVM calls Python, and an exception that a handler raises there is lost, or leaves LLVM's objects incomplete,
    which may crash the process.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        told()

    hosts = _take(note)
    try:
        yield
    finally:
        _put_back(hosts)
        for number in came:
            signal.raise_signal(number)


def _take(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Install a handler for all signals that may be taken; return the previous handlers. Outside the main thread, none is taken."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    hosts = {number: signal.getsignal(number) for number in _signals()}
    pythons = 0  # what the system calls for a handler in Python
    try:
        for number in sorted(hosts, key=lambda number: callable(hosts[number])):
            if callable(hosts[number]) and pythons and _c_handler(number) != pythons:
                del hosts[number]  # C has replaced the handler that Python remembers
                continue
            signal.signal(number, handler)
            pythons = _c_handler(number)
    except BaseException:  # raised by a handler that is not replaced yet
        _put_back(hosts)
        raise
    return hosts


def _put_back(hosts: dict[int, Any]) -> None:
    try:
        for number, handler in hosts.items():
            signal.signal(number, handler)
    except BaseException:  # raised by a handler that is already back
        _put_back(hosts)
        raise


def _signals() -> list[int]:
    """The signals that may be taken: not those that are ignored, nor those whose handlers were set in C."""
    numbers = [int(getattr(signal, name)) for name in NAMES if hasattr(signal, name)]
    return [number for number in numbers if _is_pythons(number)]


def _is_pythons(number: int) -> bool:
    """Whether this signal has its default action, or a handler in Python."""
    handler = signal.getsignal(number)
    if handler in (None, signal.SIG_IGN):
        return False
    if handler is signal.SIG_DFL:  # as far as Python knows
        return not _c_handler(number)
    return True


def _c_handler(number: int) -> int:
    """The address of the handler that the system would call; 0 for the default action, or if that cannot be found out.

    Python does not notice handlers that were set in C after it has started (by ``faulthandler``, MPI or a Java machine, say).
    """
    try:
        ask = ctypes.pythonapi.PyOS_getsig
    except AttributeError:  # another Python than CPython
        return 0
    ask.restype, ask.argtypes = ctypes.c_void_p, [ctypes.c_int]
    return ask(number) or 0
