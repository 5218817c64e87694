"""Handles standard streams that are closed, full or disconnected.

Reports (progress of ``train``, warnings, errors) go through :mod:`numba_rnnlm.reports`, which never fails. The output that a command was
asked for is data: if it cannot be written, the command fails.
"""

import contextlib
import errno
import os
import sys
from typing import BinaryIO

from ..errors import CorpusError
from ..reports import put

CLOSED = ((0, "stdin", "r", os.O_WRONLY), (1, "stdout", "w", os.O_RDONLY), (2, "stderr", "w", os.O_RDONLY))


def open_missing() -> None:
    """Open the null device in place of closed standard streams, so that no model file gets one of their descriptors.

    It is opened in the opposite mode, so that using the stream still raises an error.
    """
    for number, name, mode, access in CLOSED:
        try:
            os.fstat(number)
        except OSError as error:
            if error.errno != errno.EBADF:
                continue
            os.open(os.devnull, access)  # gets the lowest free descriptor, which is `number`
            if getattr(sys, name) is None:
                setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 (open until the process ends)


def standard_input() -> BinaryIO:
    """The binary stream of standard input. Raises :class:`CorpusError` if it is closed."""
    if sys.stdin is None:
        raise CorpusError("standard input is closed; give the name of a file, or redirect standard input.")
    return sys.stdin.buffer


def problem_of_output() -> str:
    """Why the output could not be written; "" if it was."""
    return put(sys.stdout, "")


def discard_unwritten() -> None:
    """Discard output that could not be written, so that Python does not try again at exit and print an error."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and put(stream, ""):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)
                stream.flush()
