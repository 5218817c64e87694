"""Progress reports: a live line on a terminal, plain lines elsewhere."""

import shutil
import sys
import time
from typing import TextIO

from .display import one_line
from .reports import is_terminal, report

EVERY = 0.2  # seconds between updates of the live line
PLAIN_EVERY = 30.0  # seconds between plain lines within an epoch
ERASE = "\r\x1b[K"  # erases the live line


def duration(seconds: float) -> str:
    """Format seconds as m:ss or h:mm:ss.

    Examples
    --------
    >>> duration(75), duration(3700)
    ('1:15', '1:01:40')
    """
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress:
    """Prints a temporary line, which the next line replaces, and permanent lines. Lines that cannot be written are dropped
    (see :mod:`numba_rnnlm.reports`).

    Parameters
    ----------
    verbose
        0 prints nothing; 1 updates a live line on a terminal, or prints a plain line now and then elsewhere; 2 prints permanent lines only.
    stream
        The stream to print to; standard output by default.
    """

    def __init__(self, verbose: int, stream: TextIO | None = None) -> None:
        self.stream = sys.stdout if stream is None else stream
        self.verbose = verbose
        self.live = verbose == 1 and is_terminal(self.stream)
        self._shown = time.monotonic()
        self._drawn = False

    def due(self) -> bool:
        """Whether it is time to update the temporary line; check this before composing one."""
        if self.verbose != 1:
            return False
        return time.monotonic() - self._shown >= (EVERY if self.live else PLAIN_EVERY)

    def show(self, text: str) -> None:
        """Print a temporary line."""
        self._shown, text = time.monotonic(), one_line(text)
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            report(text[:width], self.stream, control=ERASE)
            self._drawn = True
        elif self.verbose == 1:
            report(text + "\n", self.stream)

    def line(self, text: str) -> None:
        """Print a permanent line."""
        self._shown = time.monotonic()
        if self._drawn:
            report("", self.stream, control=ERASE)
            self._drawn = False
        if self.verbose:
            report(one_line(text) + "\n", self.stream)
