"""Reports: what is shown about work in progress. A report that cannot be written is lost, and the work continues.

Standard output and standard error may be missing (``sys.stdout is None`` under ``pythonw``), closed, full, a pipe that nobody
reads, a terminal that is stopped or has hung up, or an object of the host program with no more than ``write``. None of that may end a
training of a week. What a command was asked for (a generated text, scores) is data and not a report: there an error is an error.
"""

import select
import sys
import warnings
from typing import Any

from . import display

PATIENCE = 5.0  # seconds to wait for whoever reads a stream

_told: Any = ()  # the last stream whose loss was told


def put(stream: Any, text: str, patience: float | None = None) -> str:
    """Write and flush; → why that was not possible, "" if it was.

    With ``patience``, wait no more than so many seconds for whoever reads the stream.
    """
    if stream is None:
        return "it is closed"
    if patience is not None and is_stuck(stream, patience):
        return "nobody reads it"
    try:
        stream.write(text)
        if hasattr(stream, "flush"):
            stream.flush()
    except Exception as error:  # the stream may be an object of the host program, which may raise anything
        return getattr(error, "strerror", None) or str(error) or type(error).__name__
    return ""


def report(text: str, stream: Any = None, control: str = "") -> None:
    """Show a text, by default on standard output, with escapes for its control characters; ``control`` goes in front as it is.

    If it cannot be written, the other standard stream is told, once for each stream.

    Examples
    --------
    >>> report("epoch 1\\n")
    epoch 1
    """
    global _told
    stream = sys.stdout if stream is None else stream
    reason = put(stream, control + display.printable(text), 0 if _told is stream else PATIENCE)
    if reason and _told is not stream:
        _told = stream
        name, other = ("standard error", sys.stdout) if stream is sys.stderr else ("standard output", sys.stderr)
        put(other, f"numba_rnnlm: cannot write reports to {name} ({reason}): they are lost, the work continues\n", 0)


def is_stuck(stream: Any, patience: float) -> bool:
    """Whether a line would still wait after so many seconds: a pipe that is full, a terminal that is stopped (Ctrl-S)."""
    if not hasattr(select, "poll"):
        return False
    try:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
        return not poll.poll(1000 * patience)
    except Exception:  # it is no file of the system
        return False


def is_terminal(stream: Any) -> bool:
    """Whether somebody watches this stream live."""
    try:
        return bool(stream.isatty())
    except Exception:  # None, closed, or an object that knows no such question
        return False


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """:func:`warnings.warn` at the line of the program that uses the library, but it never ends the work.

    Where standard error is closed, Python's own raises an error; here the warning is lost. One that the user has turned into an
    error is raised.
    """
    message = display.message(message)
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in ("numba_rnnlm", "numba"):
        level, frame = level + 1, frame.f_back
    try:
        warnings.warn(message, category, stacklevel=level)
    except Warning:
        raise
    except Exception as error:  # of the stream, or of the host program's own showwarning
        report(f"numba_rnnlm: warning: {message} (it could not be shown as a warning: {error})\n")
