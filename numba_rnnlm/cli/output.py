"""Writes to standard output: text as UTF-8, bytes unchanged."""

import codecs
import io
import sys
from collections.abc import Callable

from ..display import printable
from ..reports import is_terminal


def set_encodings() -> None:
    """Use UTF-8 for files and pipes, whatever the locale. A terminal keeps its encoding; characters that it lacks are escaped."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            encoding = None if is_terminal(stream) else "utf-8"
            stream.reconfigure(encoding=encoding, errors="backslashreplace")


class Writer:
    """Writes text or bytes to standard output without buffering; on a terminal, bytes are decoded.

    On a terminal, control characters are escaped; files and pipes get the data unchanged.
    """

    def __init__(self) -> None:
        self.shown: Callable[[str], str] = printable if is_terminal(sys.stdout) else str
        self.raw = None if is_terminal(sys.stdout) or not hasattr(sys.stdout, "buffer") else sys.stdout.buffer
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def write(self, data: str | bytes) -> None:
        if isinstance(data, str):
            sys.stdout.write(self.shown(data))
        elif self.raw is None:
            sys.stdout.write(self.shown(self.decoder.decode(data)))
        else:
            self.raw.write(data)
        sys.stdout.flush()

    def end(self, kind: type) -> None:
        """Write a final newline, except after bytes in a file or a pipe, where nothing may be added to the data."""
        if kind is bytes:
            sys.stdout.write(self.decoder.decode(b"", final=True))
        if kind is str or self.raw is None:
            sys.stdout.write("\n")
        sys.stdout.flush()
