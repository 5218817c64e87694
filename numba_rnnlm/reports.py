"""Prints reports about work in progress. A report that cannot be written is dropped, and the work continues.

Standard output and standard error may be missing (``sys.stdout is None`` under ``pythonw``), closed, full, a pipe without a reader, a
terminal that is stopped or has hung up, or an object of the host program with only a ``write`` method. None of this may end a training
that has run for a week. The output that a command was asked for (generated text, scores) is data, not a report: failing to write it is
an error.
"""

import select
import sys
import warnings
from typing import Any

from . import display

PATIENCE = 5.0  # seconds to wait for the reader of a stream

_failed: Any = ()  # the last stream whose failure was reported


def put(stream: Any, text: str, patience: float | None = None) -> str:
    """Write and flush. Returns the reason if that failed, otherwise "".

    ``patience`` is the maximum number of seconds to wait for the reader of the stream.
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
    """Print a text, by default to standard output, with its control characters escaped; ``control`` is printed before it, unescaped.

    If that fails, the other standard stream gets a message, once per stream.

    Examples
    --------
    >>> report("epoch 1\\n")
    epoch 1
    """
    global _failed
    stream = sys.stdout if stream is None else stream
    reason = put(stream, control + display.printable(text), 0 if _failed is stream else PATIENCE)
    if reason and _failed is not stream:
        _failed = stream
        name, other = ("standard error", sys.stdout) if stream is sys.stderr else ("standard output", sys.stderr)
        put(other, f"numba_rnnlm: cannot write reports to {name} ({reason}); continuing without them\n", 0)


def is_stuck(stream: Any, patience: float) -> bool:
    """Whether a write would still block after this many seconds, for example on a full pipe or a stopped terminal (Ctrl-S)."""
    if not hasattr(select, "poll"):
        return False
    try:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
        return not poll.poll(1000 * patience)
    except Exception:  # the stream is not a file of the operating system
        return False


def is_terminal(stream: Any) -> bool:
    """Whether this stream is a terminal."""
    try:
        return bool(stream.isatty())
    except Exception:  # None, closed, or an object without this method
        return False


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Like :func:`warnings.warn`, at the line of the program that uses the library, but a warning that cannot be shown raises no error.

    ``warnings.warn`` itself raises if standard error is closed. Warnings that the user has turned into errors are still raised.
    """
    message = display.message(message)
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in ("numba_rnnlm", "numba"):
        level, frame = level + 1, frame.f_back
    try:
        warnings.warn(message, category, stacklevel=level)
    except Warning:
        raise
    except Exception as error:  # from the stream, or from the host program's showwarning
        report(f"numba_rnnlm: warning: {message} (it could not be shown as a warning: {error})\n")
