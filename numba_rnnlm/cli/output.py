"""What the commands write to standard output: text in UTF-8, bytes as they are."""

import codecs
import io
import sys
from collections.abc import Callable

from ..display import printable
from ..reports import is_terminal


def set_encodings() -> None:
    """UTF-8 for files and pipes, whatever the locale is; a terminal keeps its own encoding, with escapes for what that lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            encoding = None if is_terminal(stream) else "utf-8"
            stream.reconfigure(encoding=encoding, errors="backslashreplace")


class Writer:
    """Writes to standard output at once: text, or bytes, which a terminal shows as text.

    A terminal shows escapes in place of control characters; files and pipes get everything as it is.
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
        """End the line, but not in a file or a pipe of bytes, which gets these and nothing else."""
        if kind is bytes:
            sys.stdout.write(self.decoder.decode(b"", final=True))
        if kind is str or self.raw is None:
            sys.stdout.write("\n")
        sys.stdout.flush()
