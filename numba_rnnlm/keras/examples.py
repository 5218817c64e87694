"""Training and measuring on examples that know nothing of one another: the work of Sequential's fit and evaluate."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod

import numpy as np

from ..backends.ops import Array
from ..network import Graph, Network
from ..portable import stream_key
from ..progress import Progress, duration
from ..training.history import Row
from ..training.loop import Trainer, Watcher
from ..training.task import Batch
from .arrays import Examples, swap
from .compiled import hits

Logs = Mapping[str, float]


def batch_of(graph: Graph, examples: Examples) -> Batch:
    """Some examples with time in front."""
    x = swap(examples.x)
    shape = graph.output(x.shape)
    targets = swap(examples.y) if len(shape) == 3 else examples.y
    return Batch(x, targets.reshape(-1 if targets.dtype.kind == "i" else (-1, shape[-1])), prod(shape[:-1]))


class Counted:
    """Sums of metrics."""

    def __init__(self, network: Network, metrics: Sequence[str]) -> None:
        self.network, self.hits = network, dict.fromkeys(metrics, 0.0)

    def scores(self, batch: Batch) -> Array | None:
        """Memory for the scores of a batch; None where no metric needs them."""
        return self.network.ops.empty(self.network.graph.output(batch.x.shape)) if self.hits else None

    def note(self, batch: Batch, scores: Array | None) -> None:
        """Count a batch."""
        if scores is not None:
            values = self.network.ops.download(scores)
            for metric in self.hits:
                self.hits[metric] += hits(metric, values.reshape(-1, values.shape[-1]), batch.targets)


def measure(network: Network, examples: Examples, metrics: Sequence[str], batch_size: int, progress: Progress) -> dict[str, float]:
    """Mean loss and metrics on examples."""
    ops, counted, loss, rows = network.ops, Counted(network, metrics), 0.0, 0
    means = dict[str, float]()
    for first in range(0, len(examples), batch_size):
        batch = batch_of(network.graph, examples[first : first + batch_size])
        scores = counted.scores(batch)
        losses = network.losses(ops.upload(batch.x), ops.upload(batch.targets), network.state(batch.x.shape[1]), scores)
        loss, rows = loss + float(ops.download(losses).sum(dtype=np.float64)), rows + batch.rows
        counted.note(batch, scores)
        means = {"loss": loss / rows, **{name: total / rows for name, total in counted.hits.items()}}
        if progress.due():
            progress.show(f"{min(first + batch_size, len(examples))}/{len(examples)} examples - {line(means)}")
    return means


class ExampleTask:
    """Learn examples, in batches that each start from a zero state.

    Parameters
    ----------
    network
        What learns them.
    examples, held_out
        What is learned, and what is measured, or None.
    metrics
        Names.
    batch_size
        Examples of a batch; the last one may have fewer.
    shuffle
        Whether to shuffle the examples in each epoch.
    seed
        Of the order and the dropout masks.
    """

    carries = False

    def __init__(
        self, network: Network, examples: Examples, held_out: Examples | None, metrics: Sequence[str], batch_size: int, shuffle: bool, seed: int
    ) -> None:
        self.network, self.examples, self.held_out = network, examples, held_out
        self.names, self.batch_size, self.shuffle, self.seed = tuple(metrics), batch_size, shuffle, seed
        self.batches_per_epoch = -(-len(examples) // batch_size)
        self.streams = min(batch_size, len(examples))
        self.scored, self.measures = bool(metrics), held_out is not None
        self.begin()

    def batches(self, epoch: int, first: int) -> Iterator[Batch]:
        count = len(self.examples)
        order = np.arange(count)
        if self.shuffle:
            np.random.default_rng([self.seed, epoch - 1]).shuffle(order)
        for start in range(first * self.batch_size, count, self.batch_size):
            yield batch_of(self.network.graph, self.examples[order[start : start + self.batch_size]])

    def key(self, epoch: int, batch: int, number: int) -> int:
        return int(stream_key(self.seed, number))

    def scale(self, group: Sequence[Batch]) -> float:
        return 1 / sum(batch.rows for batch in group)

    def note(self, batch: Batch, scores: Array | None) -> None:
        self.counted.note(batch, scores)

    def metrics(self) -> dict[str, float]:
        return dict(self.counted.hits)

    def begin(self) -> None:
        self.counted = Counted(self.network, self.names)

    def resume(self, hits: Mapping[str, float]) -> None:
        """Count on from these sums of metrics. Raises ValueError if they are of others."""
        if set(hits) != set(self.names) or not all(isinstance(value, float) for value in hits.values()):
            raise ValueError(f"the sums of metrics are {hits}")
        self.counted.hits = {name: hits[name] for name in self.names}

    def digests(self) -> dict[str, str | None]:
        """What tells these examples from others."""
        return {"examples": self.examples.digest(), "held out": None if self.held_out is None else self.held_out.digest()}

    def measure(self) -> dict[str, float]:
        assert self.held_out is not None  # it `measures`
        return {f"val_{name}": value for name, value in measure(self.network, self.held_out, self.names, self.batch_size, Progress(0)).items()}


class Lines(Watcher):
    """Keras's lines: a live one, and one that stays for each epoch."""

    def __init__(self, progress: Progress, names: Callable[[Row], Logs]) -> None:
        self.progress, self.names = progress, names

    def end_batch(self, trainer: Trainer) -> None:
        if not self.progress.due():
            return
        trainer.settle()
        at, part = trainer.at, trainer.at.epoch - 1 + trainer.at.batch / trainer.task.batches_per_epoch
        left = at.seconds * (trainer.epochs - part) / max(part - trainer.began_at, 1e-9)
        self.progress.show(f"Epoch {at.epoch}/{trainer.epochs} - {at.batch}/{trainer.task.batches_per_epoch} batches - "
                           f"{line(trainer.means())} - {duration(left)} left")

    def report(self, trainer: Trainer, row: Row, improved: bool) -> None:
        done, batches = trainer.at.batch, trainer.task.batches_per_epoch
        part = f" - {done}/{batches} batches" * (done < batches)  # the epoch was cut short
        self.progress.line(f"Epoch {trainer.at.epoch}/{trainer.epochs}{part} - {row['seconds']:.1f}s - {line(self.names(row))}")

    def note(self, trainer: Trainer, text: str) -> None:
        self.progress.line(text)

    def end(self, trainer: Trainer) -> None:
        if trainer.stopped:
            self.progress.line(f"stopped: {trainer.stopped}{trainer.outcome()}")


def line(logs: Logs) -> str:
    """The values as text."""
    return " - ".join(f"{name}: {value:.4f}" for name, value in logs.items())
