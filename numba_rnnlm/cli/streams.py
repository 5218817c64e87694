"""The standard streams of a process whose surroundings may have closed, filled or dropped them.

Reports (of ``train``, warnings, errors) are written through :mod:`numba_rnnlm.reports`, which never fails. What a command was asked
for is data: where it cannot be written, the command fails.
"""

import contextlib
import errno
import os
import sys
from typing import BinaryIO

from ..errors import CorpusError
from ..reports import put

CLOSED = ((0, "stdin", "r", os.O_WRONLY), (1, "stdout", "w", os.O_RDONLY), (2, "stderr", "w", os.O_RDONLY))


def fill() -> None:
    """Give the numbers of closed standard streams to the null device, so that no model file gets one of them.

    It is opened the wrong way round: using such a stream is still an error.
    """
    for number, name, mode, access in CLOSED:
        try:
            os.fstat(number)
        except OSError as error:
            if error.errno != errno.EBADF:
                continue
            os.open(os.devnull, access)  # the lowest number that is free: this one
            if getattr(sys, name) is None:
                setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 (until the process ends)


def standard_input() -> BinaryIO:
    """The bytes of standard input. Raises :class:`CorpusError` where there is none."""
    if sys.stdin is None:
        raise CorpusError("standard input is closed; give the name of a file, or something to read.")
    return sys.stdin.buffer


def problem_of_output() -> str:
    """Why what was printed has not arrived, "" if it has."""
    return put(sys.stdout, "")


def settle() -> None:
    """Drop what could not be written, so that Python does not try again when it ends and complain."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and put(stream, ""):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)
                stream.flush()
