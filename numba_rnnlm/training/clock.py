"""The time that a training has taken, and that what is left of it will take."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from .position import Position


class Clock:
    """Seconds of a training, and whether the next part of it still fits into a limit.

    Parameters
    ----------
    limit
        Seconds that the training may take, or None.
    saving
        Seconds of them that the caller needs to save the model.

    Attributes
    ----------
    stepping, validating, keeping
        Seconds that the last update took, and the longest validation and checkpoint.
    foreseen
        Seconds that a validation is expected to take while none was measured.
    """

    def __init__(self, limit: float | None, saving: float = 0.0) -> None:
        self.limit, self.saving = limit, saving
        self.stepping = self.validating = self.keeping = self.foreseen = 0.0
        self.began = self.since = time.monotonic()

    def begin(self, at: Position) -> None:
        """Count on from the seconds that the training has taken."""
        self.began = time.monotonic() - at.seconds

    def begin_report(self, at: Position) -> None:
        """Count on from the seconds since the last report."""
        self.since = time.monotonic() - at.epoch_seconds

    def look(self, at: Position) -> None:
        """Note how long the training has taken."""
        now = time.monotonic()
        at.epoch_seconds, at.seconds = now - self.since, now - self.began

    @contextmanager
    def counted(self, at: Position) -> Iterator[None]:
        """Add what this takes to the seconds of a training that has not begun."""
        started = time.monotonic()
        yield
        at.seconds += time.monotonic() - started

    @property
    def since_report(self) -> float:
        """Seconds since the last report."""
        return time.monotonic() - self.since

    @contextmanager
    def longest(self, part: str) -> Iterator[None]:
        """Note how long ``part`` takes, if it has never taken longer."""
        started = time.monotonic()
        yield
        setattr(self, part, max(getattr(self, part), time.monotonic() - started))

    @contextmanager
    def last(self, part: str) -> Iterator[None]:
        """Note how long ``part`` takes."""
        started = time.monotonic()
        yield
        setattr(self, part, time.monotonic() - started)

    def done(self) -> float:
        """The part of the time that is over, from 0 to 1; 0 without a limit."""
        if self.limit is None:
            return 0.0
        return (time.monotonic() - self.began) / max(self.limit - self.reserve(), 1e-9)

    def is_over(self) -> bool:
        """Whether there is no time for another update and what may follow it."""
        return self.limit is not None and time.monotonic() - self.began >= self.limit - self.reserve()

    def reserve(self) -> float:
        """Seconds that an update takes and what may follow it: two checkpoints (one may be due), a validation, saving the model."""
        return self.stepping + 2 * self.keeping + (self.validating or self.foreseen) + self.saving
