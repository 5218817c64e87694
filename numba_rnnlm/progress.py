"""What long work shows: a live line on a terminal, plain lines elsewhere."""

import shutil
import sys
import time
from typing import TextIO

from .display import one_line
from .reports import is_terminal, report

EVERY = 0.2  # seconds between two pictures of the live line
PLAIN_EVERY = 30.0  # seconds between two plain lines within an epoch
ERASE = "\r\x1b[K"  # the live line


def duration(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss.

    Examples
    --------
    >>> duration(75), duration(3700)
    ('1:15', '1:01:40')
    """
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress:
    """Shows lines that replace one another, and lines that stay. What cannot be written is lost: see :mod:`numba_rnnlm.reports`.

    Parameters
    ----------
    verbose
        0 nothing; 1 live line on a terminal, now and then a plain line elsewhere; 2 only lines that stay.
    stream
        Where to; standard output by default.
    """

    def __init__(self, verbose: int, stream: TextIO | None = None) -> None:
        self.stream = sys.stdout if stream is None else stream
        self.verbose = verbose
        self.live = verbose == 1 and is_terminal(self.stream)
        self._shown = time.monotonic()
        self._drawn = False

    def due(self) -> bool:
        """Whether it is time for the next picture: ask before composing one."""
        if self.verbose != 1:
            return False
        return time.monotonic() - self._shown >= (EVERY if self.live else PLAIN_EVERY)

    def show(self, text: str) -> None:
        """A line that the next one replaces."""
        self._shown, text = time.monotonic(), one_line(text)
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            report(text[:width], self.stream, control=ERASE)
            self._drawn = True
        elif self.verbose == 1:
            report(text + "\n", self.stream)

    def line(self, text: str) -> None:
        """A line that stays."""
        self._shown = time.monotonic()
        if self._drawn:
            report("", self.stream, control=ERASE)
            self._drawn = False
        if self.verbose:
            report(one_line(text) + "\n", self.stream)
