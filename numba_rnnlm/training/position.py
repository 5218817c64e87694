"""Where a training stands."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from math import inf
from typing import Any

from .history import number

MOST = 2**53  # of what a training counts: a float still holds it exactly
LIMITS = {"best": (0, inf), "gradient_norm": (0, 1e300), "divisor": (1, 1e300)}  # of a saved position; others: 0 to MOST


@dataclass(eq=False, repr=False)
class Best:
    """The best of some values, of which a smaller one is better.

    Attributes
    ----------
    best, waited
        The best value, infinity if there is none; how many have come since.

    Examples
    --------
    >>> watched = Best()
    >>> [watched.judge(value, min_delta=0.1) for value in (2.0, 1.95, 1.5, 1.7)], watched.best, watched.waited
    ([True, False, True, False], 1.5, 1)
    """

    best: float = inf
    waited: int = 0

    def judge(self, value: float, min_delta: float = 0.0) -> bool:
        """Note a value; → whether it is the best so far, by more than ``min_delta``. NaN never is."""
        improved = value < self.best - min_delta
        self.best, self.waited = (value, 0) if improved else (self.best, self.waited + 1)
        return improved


@dataclass(kw_only=True)
class Position(Best):
    """Where a training stands: everything about it but its history and its arrays.

    Attributes
    ----------
    trained
        Epochs of earlier trainings of this model.
    epoch, batch
        The current epoch, from 1, and how many of its batches are done.
    nats, tokens, gradient_norm, learning_rate, epoch_seconds
        Since the last report of that epoch: the summed loss, how many targets it was summed over, the last norm and rate, seconds.
    updates, skipped, in_a_row
        Updates of the weights; updates left out because a number was not finite, and how many of these came last.
    divisor
        What the schedule divides the rate by.
    best, waited
        As in :class:`Best`, of the losses of reports.
    seconds
        How long the training has taken.
    ended
        Why it is over; empty while it is not.
    """

    trained: int = 0
    epoch: int = 1
    batch: int = 0
    nats: float = 0.0
    tokens: int = 0
    gradient_norm: float = 0.0
    learning_rate: float = 0.0
    epoch_seconds: float = 0.0
    updates: int = 0
    skipped: int = 0
    in_a_row: int = 0
    divisor: float = 1.0
    seconds: float = 0.0
    ended: str = ""

    def next_epoch(self) -> None:
        """Stand at the beginning of the next epoch."""
        self.epoch, self.batch, self.nats, self.tokens, self.epoch_seconds = self.epoch + 1, 0, 0.0, 0, 0.0

    def about(self) -> dict[str, Any]:
        """For a file's header."""
        return {**asdict(self), "best": number(self.best)}


def read_position(saved: Mapping[str, Any]) -> Position:
    """A position out of a header. Raises ValueError if it is none."""
    if set(saved) != {item.name for item in fields(Position)}:
        raise ValueError(f"the position is {saved!r}")
    at = Position(**saved)
    at = replace(at, best=inf if at.best is None else at.best)
    for item in fields(Position):
        value = getattr(at, item.name)
        kind: type[Any] = type(item.default)
        least, most = LIMITS.get(item.name, (0, MOST))
        if type(value) is not kind or (kind is not str and not least <= value <= most):
            raise ValueError(f"{item.name} is {value!r}")
    return at
