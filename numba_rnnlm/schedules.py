"""Learning rates over time."""

from math import cos, pi

from .config import TrainingConfig


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

    def end_epoch(self, epoch: int, improved: bool) -> None:
        """Note that epoch number ``epoch`` (from 1) is over and whether validation was the best so far."""
        kind = self.config.schedule
        if (kind == "plateau" and not improved) or (kind == "zaremba" and epoch >= self.config.decay_after):
            self.divisor *= self.config.decay_factor
