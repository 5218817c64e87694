"""Training and measuring on examples that know nothing of one another: the work of Sequential's fit and evaluate."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from ..backends.ops import Shape
from ..callbacks import Callback, Logs
from ..errors import ConfigError, DivergenceError, plain
from ..interrupts import Interrupts
from ..layers import Layer
from ..network import Network
from ..optimizers import Optimizer, Updater
from ..portable import stream_key
from ..progress import Progress, duration
from ..training import compile_kernels
from .arrays import Examples, swap

LOSSES = {  # and the activation of the last layer that each belongs to
    "categorical_crossentropy": "softmax",
    "sparse_categorical_crossentropy": "softmax",
    "binary_crossentropy": "sigmoid",
}
TARGETS = {"softmax": "ids", "sigmoid": "numbers"}  # of the head
METRICS = {"accuracy": None, "acc": None, "binary_accuracy": "sigmoid"}  # and the activation that some of them need


@dataclass(frozen=True)
class Compiled:
    """What Sequential.compile was told."""

    optimizer: Optimizer
    loss: str
    metrics: tuple[str, ...]

    def check(self, last: Layer) -> None:
        """Raise :class:`ConfigError` unless the loss belongs to this last layer."""
        activation, head = LOSSES[self.loss], last.head()
        if head is None or head.targets != TARGETS[activation]:
            raise ConfigError(f"loss={self.loss!r} needs a last layer Dense(..., activation={activation!r}), "
                              f"the last layer is {last!r}.")
        for metric in self.metrics:
            if METRICS[metric] not in (None, activation):
                raise ConfigError(f"metric {metric!r} is of a last layer with activation={METRICS[metric]!r}, this one has "
                                  f"{activation!r}; expected 'accuracy'.")


class Means:
    """Loss and metrics, averaged over the rows of all batches so far."""

    def __init__(self, metrics: Sequence[str]) -> None:
        self.hits = dict.fromkeys(metrics, 0.0)
        self.loss, self.rows = 0.0, 0

    def logs(self, prefix: str = "") -> dict[str, float]:
        """By their names."""
        return {prefix + name: value / self.rows for name, value in self.values().items()}

    def values(self) -> dict[str, float]:
        """Their sums by their names."""
        return {"loss": self.loss, **self.hits}


def hits(metric: str, logits: np.ndarray, targets: np.ndarray) -> float:
    """The sum of a metric over all rows of logits (M, F); targets are ids (M), or numbers (M, F)."""
    if targets.dtype.kind == "i":
        return float((logits.argmax(-1) == targets).sum())
    if metric == "binary_accuracy" or logits.shape[-1] == 1:  # a probability above 1/2 is a logit above 0
        return float(((logits > 0) == targets).mean(-1).sum())
    return float((logits.argmax(-1) == targets.argmax(-1)).sum())


def run_batch(network: Network, batch: Examples, means: Means, key: int | None = None) -> None:
    """Add a batch to the means; with a key (of the dropout masks), also leave the gradients of its mean loss."""
    ops = network.ops
    x = ops.upload(swap(batch.x))
    shape: Shape = network.graph.output(x.shape)
    targets = swap(batch.y) if len(shape) == 3 else batch.y
    are_ids = targets.dtype.kind == "i"
    targets = targets.reshape(-1 if are_ids else (-1, shape[-1]))
    state, logits = network.state(len(batch)), ops.empty(shape) if means.hits else None
    rows = int(np.prod(shape[:-1]))
    if key is None:
        losses = network.losses(x, ops.upload(targets), state, logits)
    else:
        losses = network.differentiate(x, ops.upload(targets), state, 1 / rows, key, logits)
    means.rows += rows
    means.loss += float(ops.download(losses).sum(dtype=np.float64))
    if logits is not None:
        scores = ops.download(logits).reshape(-1, shape[-1])
        for metric in means.hits:
            means.hits[metric] += hits(metric, scores, targets)


def measure(network: Network, examples: Examples, metrics: Sequence[str], batch_size: int, progress: Progress) -> Means:
    """Loss and accuracy on examples."""
    means = Means(metrics)
    for first in range(0, len(examples), batch_size):
        run_batch(network, examples[first : first + batch_size], means)
        if progress.due():
            progress.show(f"{min(first + batch_size, len(examples))}/{len(examples)} examples - {line(means.logs())}")
    return means


def line(logs: Logs) -> str:
    """The values as text."""
    return " - ".join(f"{name}: {value:.4f}" for name, value in logs.items())


@dataclass
class Fitting:
    """One call of ``fit``.

    Parameters
    ----------
    model
        The front door, for its callbacks; they may set its ``stop_training``.
    network, updater, compiled
        What is trained, in place, and how.
    examples, held_out
        What it learns, and what it is validated on.
    batch_size, first, epochs
        Examples between updates; the first epoch and the one to stop before.
    seed
        Of the order of the examples and the dropout masks.
    shuffle
        Whether each epoch has an order of its own.
    callbacks, progress
        Who is told.
    interrupted
        Notes the signals that end it.
    """

    model: Any
    network: Network
    updater: Updater
    compiled: Compiled
    examples: Examples
    held_out: Examples | None
    batch_size: int
    first: int
    epochs: int
    seed: int
    shuffle: bool
    callbacks: Sequence[Callback]
    progress: Progress
    interrupted: Interrupts

    def run(self) -> None:
        """Train.

        Raises
        ------
        DivergenceError
            If the loss, a gradient or a weight is no longer finite; the weights are back as they were after the
            last whole epoch.
        """
        good, logs = self.network.snapshot(), dict[str, float]()
        steps = -(-len(self.examples) // self.batch_size)
        names = list(Means(self.compiled.metrics).values())
        measured = names + [f"val_{name}" for name in names if self.held_out is not None]
        params = {"epochs": self.epochs, "steps": steps, "verbose": self.progress.verbose, "metrics": measured}
        self.updater.begin()
        compile_kernels(self.network, self.compiled.optimizer.rule)
        self.interrupted.wait()
        for callback in self.callbacks:
            callback.set_model(self.model)
            callback.set_params(params)
            callback.on_train_begin({})
        self.started = time.monotonic()
        for epoch in [] if self.interrupted.is_set() else range(self.first, self.epochs):
            for callback in self.callbacks:
                callback.on_epoch_begin(epoch, {})
            started = time.monotonic()
            try:
                logs = self._epoch(epoch)
            except DivergenceError as error:
                self.network.restore(good)
                raise DivergenceError(
                    f"training diverged in epoch {epoch + 1}, after {self.updater.steps} updates: {error}. The weights "
                    "from before this epoch are restored. Try a learning rate below "
                    f"{plain(self.compiled.optimizer.learning_rate)}, or gradient clipping (clipnorm=1 in the optimizer)."
                ) from error
            if self.held_out is not None:
                means = measure(self.network, self.held_out, self.compiled.metrics, self.batch_size, Progress(0))
                logs |= means.logs("val_")
            seconds = time.monotonic() - started
            self.progress.line(f"Epoch {epoch + 1}/{self.epochs} - {seconds:.1f}s - {line(logs)}")
            for callback in self.callbacks:
                callback.on_epoch_end(epoch, logs)
            if self.interrupted.is_set():
                self.progress.line("stopped: interrupted")
            if self.interrupted.is_set() or self.model.stop_training:
                break
            self.network.snapshot(into=good)
        for callback in self.callbacks:
            callback.on_train_end(logs)

    def _epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the examples, shorter if interrupted."""
        count = len(self.examples)
        order = np.arange(count)
        if self.shuffle:
            np.random.default_rng([self.seed, epoch]).shuffle(order)
        means = Means(self.compiled.metrics)
        for step, first in enumerate(range(0, count, self.batch_size)):
            for callback in self.callbacks:
                callback.on_train_batch_begin(step, {})
            batch = self.examples[order[first : first + self.batch_size]]
            run_batch(self.network, batch, means, stream_key(self.seed, self.updater.steps))
            if not isfinite(means.loss):
                raise DivergenceError("the loss is not finite")
            try:
                self.updater.update()
            except DivergenceError as error:
                names = ", ".join(map(repr, self.network.not_finite(self.network.gradients)))
                raise DivergenceError(f"{error} (NaN or infinity in the gradients of {names})") from error
            for callback in self.callbacks:
                callback.on_train_batch_end(step, means.logs())
            if self.progress.due():
                self._show(epoch, min(first + self.batch_size, count), means)
            if self.interrupted.is_set():
                break
        if spoiled := self.network.not_finite(self.network.parameters):
            raise DivergenceError(f"weight {spoiled[0]!r} is not finite")
        return means.logs()

    def _show(self, epoch: int, done: int, means: Means) -> None:
        part = epoch - self.first + done / len(self.examples)
        left = (time.monotonic() - self.started) * (self.epochs - self.first - part) / part
        self.progress.show(
            f"Epoch {epoch + 1}/{self.epochs} - {-(-done // self.batch_size)}/{-(-len(self.examples) // self.batch_size)} "
            f"batches - {line(means.logs())} - {duration(left)} left"
        )
