"""Training a language model: truncated back-propagation through time, epoch by epoch."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import exp, inf, isfinite
from typing import Any

import numpy as np

from .config import TrainingConfig
from .errors import DivergenceError
from .model import Network
from .optimizers import OPTIMIZERS, Optimizer, Updater, default_rate
from .portable import stream_key
from .progress import Progress, duration
from .rules import Rule
from .schedules import Schedule

Batch = tuple[np.ndarray, np.ndarray]  # inputs and targets, both (T, N) ids
History = dict[str, list[float]]

COLUMNS = ("epoch", "loss", "perplexity", "valid_loss", "valid_perplexity", "learning_rate", "gradient_norm",
           "tokens", "tokens_per_second", "seconds")
CLOCK_COLUMNS = ("tokens_per_second", "seconds")  # these differ between two equal trainings


def perplexity(nats: float) -> float:
    """exp(nats), infinity where that overflows."""
    return exp(nats) if nats < 700 else inf


def make_optimizer(config: TrainingConfig, cell: str) -> Optimizer:
    """The optimiser of a configuration; where it names no rate or norm, those at which the cell trains."""
    size = config.steps if config.reduction == "sum_time" else 1  # of the gradient, compared with that of the mean
    rate, clip_norm = config.learning_rate, config.clip_norm
    if rate is None:
        rate = default_rate(config.optimizer, cell) / (size if config.optimizer == "sgd" else 1)
    if clip_norm is None:
        clip_norm = float(size)
    options: dict[str, Any] = {"momentum": config.momentum} if config.optimizer == "sgd" else {}
    if config.weight_decay is not None:
        options["weight_decay"] = config.weight_decay
    return OPTIMIZERS[config.optimizer](
        learning_rate=rate, clipnorm=clip_norm, clipvalue=config.clip_value, **options
    )


@dataclass
class Trainer:
    """One call of ``fit``.

    Parameters
    ----------
    network
        What is trained, in place.
    config
        How.
    optimizer
        From :func:`make_optimizer`.
    batches
        Starts an epoch: yields its (inputs, targets), streams running on from batch to batch.
    batches_per_epoch
        How many those are.
    validate
        Mean loss in nats per token on held-out text, or None.
    seed
        Of the dropout masks.
    history
        Where each epoch is noted.

    Notes
    -----
    The loss that is differentiated is the mean over the tokens of a batch, or with
    ``reduction="sum_time"`` the sum over time averaged over streams. What is reported is always the mean
    in nats per token.
    """

    network: Network
    config: TrainingConfig
    optimizer: Optimizer
    batches: Callable[[], Iterable[Batch]]
    batches_per_epoch: int
    validate: Callable[[], float] | None
    seed: int
    history: History
    progress: Progress = field(init=False)

    def __post_init__(self) -> None:
        self.progress = Progress(self.config.verbose)
        self.updater = Updater(self.network, self.optimizer)
        self.schedule = Schedule(self.config, self.optimizer.learning_rate)
        self.best = inf
        self.good = self.network.snapshot()
        self.stopped = ""
        self.trained = int(self.history["epoch"][-1]) if self.history["epoch"] else 0

    def run(self) -> None:
        """Train; afterwards the network has the weights of its best epoch on validation, else its last.

        Raises
        ------
        DivergenceError
            If the loss, a gradient or a weight became NaN or infinite; the last good weights are back.
        """
        config = self.config
        waited = 0
        with interrupts(notice=self.config.verbose > 0) as interrupted:
            self.interrupted = interrupted
            compile_kernels(self.network, self.optimizer.rule, self.progress)
            self.started = time.monotonic()
            for epoch in range(1, config.epochs + 1):
                try:
                    measured = self._epoch(epoch)
                except DivergenceError as error:
                    raise self._diverged(epoch, error) from error
                if measured is None:
                    break
                row = {"epoch": float(self.trained + epoch), **measured}
                judged = row.get("valid_loss", row["loss"])
                improved = judged < self.best
                if improved:
                    self.network.snapshot(into=self.good)
                self.best = min(self.best, judged)
                for column in COLUMNS:
                    self.history[column].append(row.get(column, float("nan")))
                self._report(epoch, row, improved)
                self.schedule.end_epoch(epoch, improved)
                waited = 0 if improved else waited + 1
                if config.patience is not None and waited >= config.patience:
                    self.stopped = f"no better for {waited} {'epoch' if waited == 1 else 'epochs'}"
                if interrupted.is_set():
                    self.stopped = "interrupted"
                if self.stopped:
                    break
        if self.validate is not None:
            self.network.restore(self.good)
        if self.stopped:
            self.progress.line(f"stopped: {self.stopped}"
                               + ("; the best epoch's weights are kept" if self.validate else ""))

    def _epoch(self, epoch: int) -> dict[str, float] | None:
        """One pass over the text, or what the time allows of it; None if that is nothing."""
        network, config = self.network, self.config
        state = network.state(config.streams)
        total, count, norm, rate, started = 0.0, 0, 0.0, 0.0, time.monotonic()
        for index, (inputs, targets) in enumerate(self.batches()):
            done = (epoch - 1 + index / self.batches_per_epoch) / config.epochs
            if config.max_seconds is not None:
                elapsed = time.monotonic() - self.started
                if elapsed >= config.max_seconds:
                    self.stopped = f"the {config.max_seconds:g} seconds are over"
                    break
                done = max(done, elapsed / config.max_seconds)
            rate = self.schedule.rate(done)
            tokens = int((targets >= 0).sum())
            scale = 1 / tokens if config.reduction == "mean" else 1 / config.streams
            key = stream_key(self.seed, self.trained + epoch, index)
            losses = network.train(
                network.ops.upload(inputs), network.ops.upload(targets.reshape(-1)), state, scale, key
            )
            loss = float(network.ops.download(losses).sum(dtype=np.float64))
            _expect_finite("the loss", loss)
            norm = self.updater.update(rate)
            total, count = total + loss, count + tokens
            if self.progress.due():
                self._show(epoch, index + 1, total / count, count / (time.monotonic() - started), started)
            if self.interrupted.is_set():
                break
        if count == 0:
            return None
        _expect_finite("a weight", network.ops.norm(network.parameters.flat))
        seconds = time.monotonic() - started
        mean = total / count
        row = {"loss": mean, "perplexity": perplexity(mean), "learning_rate": rate, "gradient_norm": norm,
               "tokens": float(count), "tokens_per_second": count / max(seconds, 1e-9)}
        if self.validate is not None:
            row["valid_loss"] = self.validate()
            _expect_finite("the validation loss", row["valid_loss"])
            row["valid_perplexity"] = perplexity(row["valid_loss"])
        row["seconds"] = time.monotonic() - started
        return row

    def _diverged(self, epoch: int, error: DivergenceError) -> DivergenceError:
        self.network.restore(self.good)
        kept = "before the training" if epoch == 1 else "the best epoch so far"
        return DivergenceError(
            f"training diverged in epoch {epoch}, after {self.updater.steps} updates: {error}. The weights of {kept} "
            f"are restored. Try a learning rate below {self.optimizer.learning_rate:g}, or gradient clipping "
            "(clip_norm=1)."
        )

    def _show(self, epoch: int, done: int, loss: float, speed: float, started: float) -> None:
        part = done / self.batches_per_epoch
        elapsed = time.monotonic() - self.started
        left = elapsed / max(1e-9, epoch - 1 + part) * (self.config.epochs - epoch + 1 - part)
        if self.config.max_seconds is not None:
            left = min(left, self.config.max_seconds - elapsed)
        self.progress.show(
            f"{self._numbered(epoch)}  {part:4.0%}  loss {loss:.4f}  perplexity {perplexity(loss):.2f}  "
            f"{speed:,.0f} tokens/s  {duration(left)} left"
        )

    def _numbered(self, epoch: int) -> str:
        return f"epoch {epoch}" if self.config.max_seconds else f"epoch {epoch}/{self.config.epochs}"

    def _report(self, epoch: int, row: dict[str, float], improved: bool) -> None:
        text = f"{self._numbered(epoch)}  loss {row['loss']:.4f}  perplexity {row['perplexity']:.2f}"
        if "valid_loss" in row:
            text += f"  valid loss {row['valid_loss']:.4f}  perplexity {row['valid_perplexity']:.2f}"
            text += " *" if improved else "  "
        self.progress.line(f"{text}  {row['tokens_per_second']:,.0f} tokens/s  {row['seconds']:.1f} s")


def _expect_finite(name: str, value: float) -> None:
    if not isfinite(value):
        raise DivergenceError(f"{name} is not finite")


def new_history() -> History:
    """An empty history: a list per column, an entry per epoch."""
    return {column: [] for column in COLUMNS}


def compile_kernels(network: Network, rule: Rule, progress: Progress) -> None:
    """Make every kernel of a training step and of a validation ready, on batches too small to matter and without changing
    a weight.

    So no time limit and no speed counts the compiler; if it takes long, ``progress`` says what is going on.
    """
    model, ops = network.model, network.ops
    late = threading.Timer(1.0, progress.line, ["compiling kernels, once per machine ..."])
    late.start()
    try:
        for streams in (2, 1):  # a few rows, as the end of a text may be, go through kernels of their own
            shape = model.input(getattr(model.layers[0], "input_length", None) or 3, streams)
            output = model.output(shape)
            x = ops.upload(np.zeros(shape, np.int32 if model.takes_ids else np.float32))
            ids = model.head.activation == "softmax"
            targets = ops.upload(np.zeros(output[:-1], np.int32).reshape(-1) if ids else np.zeros(output, np.float32))
            if streams > 1:
                network.train(x, targets, network.state(streams), 0.0, 0)
            else:
                network.losses(x, targets, network.state(streams))
        ops.norm(network.gradients.flat)
        p, g, m = ops.empty((16,)), ops.empty((16,)), ops.empty((rule.moments, 16))
        for array in (p, g, m):
            ops.fill(array, 0)
        ops.update(rule, p, g, m, np.ones(2 + len(rule.hyper)))
    finally:
        late.cancel()


@contextmanager
def interrupts(notice: bool = False) -> Iterator[threading.Event]:
    """The first Ctrl-C sets the event, so that training ends cleanly; the second one interrupts at once.

    With ``notice`` the first one is answered on standard error.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def note(number: int, frame: Any) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()
        if notice:  # not print: the handler may have interrupted one
            os.write(2, b"\ninterrupted: ending cleanly; Ctrl-C again stops at once and loses the training\n")

    previous = signal.signal(signal.SIGINT, note)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, previous)
