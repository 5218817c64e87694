"""Learning rates over time."""

from math import cos, pi

from ..arguments import checked
from ..config import TrainingConfig
from ..errors import expect_kind, expect_number

SLOWEST = 1e300  # the largest divisor: in float32 the rate is zero long before


@checked
class Schedule:
    """The learning rate at each update.

    Parameters
    ----------
    config
        ``schedule``, ``warmup``, ``decay_factor``, ``decay_after``.
    base
        The full learning rate.

    Examples
    --------
    >>> schedule = Schedule(TrainingConfig(schedule="linear", warmup=0.2), base=1.0)
    >>> [round(schedule.rate(progress), 3) for progress in (0.1, 0.2, 0.6, 1.0)]
    [0.5, 1.0, 0.5, 0.0]
    """

    def __init__(self, config: TrainingConfig, base: float) -> None:
        expect_kind("config", config, TrainingConfig, "a TrainingConfig")
        expect_number("base", base, 0)
        self.config, self.base = config, base
        self.divisor = 1.0

    def rate(self, progress: float) -> float:
        """The rate at this part, 0 to 1, of the planned training."""
        kind, warmup = self.config.schedule, self.config.warmup
        if progress < warmup:
            return self.base / self.divisor * progress / warmup
        left = (1 - min(progress, 1.0)) / (1 - warmup) if warmup < 1 else 1.0
        if kind == "linear":
            return self.base * left
        if kind == "cosine":
            return self.base * 0.5 * (1 - cos(pi * left))
        return self.base / self.divisor

    def judge(self, improved: bool) -> None:
        """Note whether a report was the best so far."""
        if self.config.schedule == "plateau" and not improved:
            self.divisor = min(self.divisor * self.config.decay_factor, SLOWEST)

    def end_epoch(self, epoch: int) -> None:
        """Note that epoch number ``epoch`` (from 1) is over."""
        if self.config.schedule == "zaremba" and epoch >= self.config.decay_after:
            self.divisor = min(self.divisor * self.config.decay_factor, SLOWEST)


def can_be_extended(schedule: str, warmup: float) -> bool:
    """Whether the rates so far would have been the same in a longer training."""
    return schedule in ("constant", "plateau", "zaremba") and warmup == 0
