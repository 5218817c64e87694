"""Where a training's batches come from, and how it is measured."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from ..backends.ops import Array


class Batch(NamedTuple):
    """What one forward and backward pass learns from.

    Attributes
    ----------
    x
        (T, N) ids, or (T, N, D) vectors.
    targets
        (M) ids, of which -1 is not counted, or (M, V) numbers.
    rows
        How many rows of the targets count.
    """

    x: np.ndarray
    targets: np.ndarray
    rows: int


class Task(Protocol):
    """What is learned: a corpus in streams, or examples in batches.

    Attributes
    ----------
    batches_per_epoch
        How many batches :meth:`batches` yields from the first one on.
    streams
        The most streams of a batch.
    measures
        Whether there is held-out data.
    carries
        Whether the state runs on from batch to batch of an epoch; otherwise each batch starts from zero.
    scored
        Whether :meth:`note` wants the scores of each batch.
    """

    @property
    def batches_per_epoch(self) -> int: ...
    @property
    def streams(self) -> int: ...
    @property
    def measures(self) -> bool: ...
    @property
    def carries(self) -> bool: ...
    @property
    def scored(self) -> bool: ...

    def batches(self, epoch: int, first: int) -> Iterator[Batch]:
        """The batches of epoch 1, 2, … from number ``first`` on."""

    def key(self, epoch: int, batch: int, number: int) -> int:
        """Of the dropout masks of a batch: its number within its epoch, which counts on from earlier trainings, and within the training."""

    def scale(self, group: Sequence[Batch]) -> float:
        """The factor of the summed loss of these batches, by which one update learns."""

    def note(self, batch: Batch, scores: Array | None) -> None:
        """Count a batch that was learned from, for :meth:`metrics`."""

    def metrics(self) -> dict[str, float]:
        """Sums since the last call of :meth:`begin`, other than the loss, by name."""

    def begin(self) -> None:
        """Begin to count anew."""

    def measure(self) -> dict[str, float]:
        """The mean loss, val_loss, and metrics on held-out data."""
