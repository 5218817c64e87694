"""A language model's training on the streams of a corpus: truncated back-propagation through time."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..backends.ops import Array
from ..optimizers import Optimizer, pytorch, rebuild
from ..portable import stream_key
from ..text import segments, segments_per_epoch
from .plan import Plan
from .task import Batch


class StreamTask:
    """Predict the next symbol, in parallel streams whose state runs on from batch to batch.

    Parameters
    ----------
    ids
        (n,) the corpus.
    config
        ``streams``, ``steps`` and ``reduction``: the loss that is differentiated is the mean over the tokens of an update, or with
        "sum_time" the sum over time averaged over streams.
    seed
        Of the dropout masks.
    validate
        Mean loss in nats per token on held-out text, or None.
    """

    carries, scored = True, False

    def __init__(self, ids: np.ndarray, config: Plan, seed: int, validate: Callable[[], float] | None = None) -> None:
        self.ids, self.streams, self.steps, self.seed, self.validate = ids, config.streams, config.steps, seed, validate
        self.is_mean = config.reduction == "mean"
        self.batches_per_epoch = segments_per_epoch(len(ids), config.streams, config.steps)

    @property
    def measures(self) -> bool:
        return self.validate is not None

    def batches(self, epoch: int, first: int) -> Iterator[Batch]:
        for inputs, targets in segments(self.ids, self.streams, self.steps, first=first):
            yield Batch(inputs, targets.reshape(-1), int((targets >= 0).sum()))

    def key(self, epoch: int, batch: int, number: int) -> int:
        return int(stream_key(self.seed, epoch, batch))

    def scale(self, group: Sequence[Batch]) -> float:
        return 1 / (sum(batch.rows for batch in group) if self.is_mean else self.streams * len(group))

    def note(self, batch: Batch, scores: Array | None) -> None:
        """There is no metric but the loss."""

    def metrics(self) -> dict[str, float]:
        return {}

    def begin(self) -> None:
        """Nothing is counted."""

    def measure(self) -> dict[str, float]:
        assert self.validate is not None  # it `measures`
        return {"val_loss": self.validate()}


def make_optimizer(config: Plan, cell: str) -> Optimizer:
    """The optimiser of a configuration: by a name PyTorch's, where no rate or norm is given with those at which the cell trains.

    Or the one that :func:`~numba_rnnlm.optimizers.describe` told of.
    """
    if not isinstance(config.optimizer, str):
        return rebuild(config.optimizer, {}, "give it in Python: fit(..., optimizer=..., resume=...)")
    size = config.steps if config.reduction == "sum_time" else 1  # of the gradient, compared with that of the mean
    rate, clip_norm = config.learning_rate, config.clip_norm
    if rate is None:
        rate = pytorch.default_rate(config.optimizer, cell) / (size if config.optimizer == "sgd" else 1)
    if clip_norm is None:
        clip_norm = float(size)
    options: dict[str, Any] = {"momentum": config.momentum} if config.optimizer == "sgd" else {}
    if config.weight_decay is not None:
        options["weight_decay"] = config.weight_decay
    return pytorch.OPTIMIZERS[config.optimizer](
        learning_rate=rate, clip_norm=clip_norm, clip_value=config.clip_value, **options
    )
