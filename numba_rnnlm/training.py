"""Training a language model: truncated back-propagation through time, epoch by epoch."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, exp, inf, isfinite, nan
from typing import Any

import numpy as np

from .arena import Arena
from .errors import ConfigError, DivergenceError, ModelFileError, TrainingError, plain
from .interrupts import Interrupts
from .network import Network
from .optimizers import Optimizer, Updater, pytorch, rebuild
from .plan import Plan
from .portable import stream_key
from .progress import Progress, duration
from .reports import warn
from .rules import Rule
from .schedules import Schedule

Batch = tuple[np.ndarray, np.ndarray]  # inputs and targets, both (T, N) ids
History = dict[str, list[float]]
Row = Mapping[str, float]  # one report: COLUMNS, and the updates so far

COLUMNS = ("epoch", "loss", "perplexity", "valid_loss", "valid_perplexity", "learning_rate", "gradient_norm",
           "tokens", "tokens_per_second", "seconds")
INTERRUPTED, ALL_DONE = "interrupted", "all epochs are done"  # why a training ends
MOST_SKIPPED = 10  # updates in a row: more will not help
CLOCK_COLUMNS = ("tokens_per_second", "seconds")  # these differ between two equal trainings


def perplexity(nats: float) -> float:
    """exp(nats), infinity where that overflows."""
    return exp(nats) if nats < 700 else inf


def _brief(value: float) -> str:
    """A perplexity for a line: that of a diverging training may have a hundred digits."""
    return f"{value:.2f}" if value < 1e7 else f"{value:.3g}"


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


@dataclass
class Position:
    """Where a training stands: everything about it but its history and its arrays.

    Attributes
    ----------
    trained
        Epochs of earlier trainings of this model.
    epoch, batch
        The epoch it is in, from 1, and how many of its batches are done.
    nats, tokens, gradient_norm, learning_rate, epoch_seconds
        Since the last report of that epoch: the summed loss, what it was summed over, the last norm and rate, how long it has taken.
    updates, skipped, in_a_row
        Of the weights; those left out because a number was not finite, and how many of these came last.
    divisor
        What the schedule divides the rate by.
    best, waited
        The loss of the best report, infinity if there is none; reports since.
    seconds
        How long it has taken.
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
    best: float = inf
    waited: int = 0
    seconds: float = 0.0
    ended: str = ""


@dataclass
class Checkpoints:
    """Keeps the whole state of a training now and then.

    Parameters
    ----------
    write
        Takes the position, and groups of named arrays: weights, good, state, moments/0, … May raise :class:`ModelFileError`.
    every
        Seconds between two of them.
    """

    write: Callable[[Position, Mapping[str, Iterable[tuple[str, np.ndarray]]]], None]
    every: float
    last: float = field(default_factory=time.monotonic)

    def due(self) -> bool:
        """Whether it is time for the next one."""
        return time.monotonic() - self.last >= self.every


@dataclass
class Issued:
    """An update that may still be computed: its batch, and what waits for its loss and its norm."""

    batch: int
    inputs: np.ndarray
    targets: np.ndarray
    rate: float
    tokens: int
    rate_now: float
    result: Callable[[], tuple[float, float]]


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
        Starts an epoch at the batch of this number: yields its (inputs, targets), streams running on from batch to batch.
    batches_per_epoch
        How many those are.
    validate
        Mean loss in nats per token on held-out text, or None.
    seed
        Of the dropout masks.
    history
        Where each report is noted: at the end of each epoch, and every ``validate_every`` updates within it.
    checkpoints
        Where its state is kept while it runs, or None.
    interrupted
        Notes the signals that end it.
    watchers
        Called with each report.
    foresee
        From ``max_seconds``, of which it may use a little, to the seconds that the first ``validate`` will take, so that time is left for it.
        Later ones are expected to take as long as the longest so far.
    saving
        Seconds that the caller needs, within ``max_seconds``, to save the model.

    Notes
    -----
    The loss that is differentiated is the mean over the tokens of a batch, or with
    ``reduction="sum_time"`` the sum over time averaged over streams. What is reported is always the mean
    in nats per token.
    """

    network: Network
    config: Plan
    optimizer: Optimizer
    batches: Callable[[int], Iterable[Batch]]
    batches_per_epoch: int
    validate: Callable[[], float] | None
    seed: int
    history: History
    checkpoints: Checkpoints | None = None
    interrupted: Interrupts = field(default_factory=Interrupts)
    watchers: Sequence[Callable[[Row], None]] = ()
    foresee: Callable[[float], float] | None = None
    saving: float = 0.0
    progress: Progress = field(init=False)

    def __post_init__(self) -> None:
        self.progress = Progress(self.config.verbose)
        self.updater = Updater(self.network, self.optimizer)
        self.schedule = Schedule(self.config, self.optimizer.learning_rate)
        self.at = Position(ceil(self.history["epoch"][-1]) if self.history["epoch"] else 0)
        self.state = self.network.state(self.config.streams)
        self.good = self.network.snapshot()
        self.issued: deque[Issued] = deque()
        self.kept = False  # a checkpoint
        self.validating = self.keeping = self.stepping = 0.0  # seconds that a validation, a checkpoint and an update take
        self.foreseen = 0.0  # as long as no validation was measured
        if self.validate is not None:
            self.validate = _telling_failures(self.validate)

    def resume(
        self, at: Position, arrays: Callable[[str], Mapping[str, np.ndarray]], rounding: Any = None, extended: bool = False
    ) -> None:
        """Stand where the training stood that wrote a checkpoint; ``arrays`` has its groups by their names. For ``rounding``
        see :meth:`~numba_rnnlm.optimizers.Updater.resume`. If the training had ended and is now ``extended``, it may have something left
        to do.

        Raises
        ------
        ValueError
            If it cannot have stood there.
        """
        network, last = self.network, self.history["epoch"][-1] if self.history["epoch"] else 0
        if not (1 <= at.epoch <= self.config.epochs + 1 and at.batch <= self.batches_per_epoch
                and at.trained <= ceil(last) and last <= self._epochs_done(at)):
            raise ValueError(f"epoch {at.epoch} of {self.config.epochs}, batch {at.batch} of {self.batches_per_epoch}, after "
                             f"{at.trained} earlier epochs")
        network.load(Arena(network.graph.layout, self.good), arrays("good"))
        network.load(network.parameters, arrays("weights"))
        network.load(self.state, arrays("state"))
        for name, moment in self.updater.arenas().items():
            network.load(moment, arrays(name))
        self.at, self.schedule.divisor = at, at.divisor
        if at.ended and extended:
            self.at = replace(at, ended=self._over())
        self.updater.resume(at.updates, rounding)

    def run(self) -> None:
        """Train; afterwards the network has the weights of its best epoch on validation, else its last.

        Raises
        ------
        DivergenceError
            If the loss, a gradient or a weight became NaN or infinite; the last good weights are back.
        TrainingError
            If a validation failed, or memory ran out after the first update; the network has what it would have had at its end.
            The checkpoint continues from there.
        ModelFileError
            If the first checkpoint cannot be written; nothing was trained.
        """
        with self.interrupted:
            try:
                if not self.at.ended:
                    self.updater.begin()
                    compile_kernels(self.network, self.optimizer.rule)
                    self._foresee()
                    self._keep(first=True)  # a checkpoint that cannot be written fails here, before the training, and an interrupted run can be resumed
                self.interrupted.wait()
                if not self.at.ended:
                    try:
                        self._train()
                    except (MemoryError, OSError, _ValidationFailed) as error:
                        if not self.at.updates:
                            raise
                        raise self._failed(error) from (error.__cause__ or error)
            finally:  # whatever ended it, a second signal too
                if self._is_measured():
                    self.network.restore(self.good)

    def _failed(self, error: Exception) -> TrainingError:
        """The training cannot continue: leave what it has come to."""
        validating = isinstance(error, _ValidationFailed)
        if validating:  # between two updates: the checkpoint stands before the validation
            self._keep()
        what, cause = ("validation", error.__cause__) if validating else ("training", error)
        return TrainingError(
            f"{what} failed in epoch {self.at.epoch}, after {self.at.updates} updates: {str(cause) or type(cause).__name__}. "
            f"The model has the weights of {'the best epoch so far' if self._is_measured() else 'the last update'}"
            + ("; resume continues from the checkpoint." if self.kept else ".")
        )

    def _is_measured(self) -> bool:
        """Whether a validation has said which weights are the best."""
        return self.validate is not None and self.at.best < inf

    def _train(self) -> None:
        config, stopped = self.config, ""
        self.began = time.monotonic() - self.at.seconds
        while not stopped and self.at.epoch <= config.epochs:
            try:
                stopped = self._epoch()
            except DivergenceError as error:
                raise self._diverged(error) from error
            if not stopped:
                self.schedule.end_epoch(self.at.epoch)
                self.at = replace(self.at, epoch=self.at.epoch + 1, batch=0, nats=0.0, tokens=0, epoch_seconds=0.0)
                stopped = self._out_of_patience()
            if not stopped and self.interrupted.is_set():
                self._keep()
                stopped = INTERRUPTED
        if stopped:
            best = "report" if config.validate_every else "epoch"
            self.progress.line(f"stopped: {stopped}" + (f"; the best {best}'s weights are kept" if self.validate else "")
                               + ("; resume continues from the checkpoint" if stopped == INTERRUPTED and self.kept else ""))
        if stopped != INTERRUPTED:  # which may go on
            self.at = replace(self.at, ended=stopped or ALL_DONE)
            self._keep()

    def _epoch(self) -> str:
        """What is left of one pass over the text, or what the time allows of it; → why the training ends within it, if it does."""
        at, every, stopped = self.at, self.config.validate_every, ""
        if at.batch == 0:
            self.network.ops.fill(self.state.flat, 0)
        self.since = time.monotonic() - at.epoch_seconds
        for inputs, targets in self.batches(at.batch):
            # Before the next update, so that the end of an epoch is reported once, and a resumed run makes the report that is due.
            if every and at.batch and at.batch % every == 0:
                self._report()
                stopped = self._out_of_patience() or INTERRUPTED * self.interrupted.is_set()
            stopped = stopped or self._out_of_time()
            if stopped:
                break
            started = time.monotonic()
            self._step(inputs, targets, self.schedule.rate(self._done()))
            at.batch += 1
            self._look_at_the_clock()
            self.stepping = time.monotonic() - started
            if self.progress.due():
                self._show()
            if self.interrupted.is_set():
                stopped = INTERRUPTED
                break
            if self.checkpoints is not None and self.checkpoints.due():
                self._settle()
                self._keep()
        if self.interrupted.is_set() and stopped in ("", INTERRUPTED):
            self._settle()
            self._keep()
            self.checkpoints = None  # what follows only closes the epoch: going on starts here
        self._report()
        return stopped

    def _report(self) -> None:
        """Measure, note and show what has been learned since the last report of this epoch, if anything has; and judge it."""
        self._settle()
        self._look_at_the_clock()
        at = self.at
        if at.tokens == 0:  # there was no time, or every update was skipped
            return
        if names := self.network.not_finite(self.network.parameters):
            raise DivergenceError(f"weight {names[0]!r} is not finite")
        mean = at.nats / at.tokens
        row = {"epoch": self._epochs_done(at), "loss": mean, "perplexity": perplexity(mean), "learning_rate": at.learning_rate,
               "gradient_norm": at.gradient_norm, "tokens": float(at.tokens),
               "tokens_per_second": at.tokens / max(at.epoch_seconds, 1e-9)}
        if self.validate is not None:
            started = time.monotonic()
            row["valid_loss"] = self.validate()
            self.validating = max(self.validating, time.monotonic() - started)
            if not isfinite(row["valid_loss"]):
                raise DivergenceError("the validation loss is not finite")
            row["valid_perplexity"] = perplexity(row["valid_loss"])
        row["seconds"] = time.monotonic() - self.since
        judged = row.get("valid_loss", row["loss"])
        improved = judged < at.best
        if improved:
            self.network.snapshot(into=self.good)
        row = {column: row.get(column, nan) for column in COLUMNS}
        for column, value in row.items():
            self.history[column].append(value)
        self._tell(row, improved)
        self.schedule.judge(improved)
        at.best, at.waited = min(at.best, judged), 0 if improved else at.waited + 1
        at.nats, at.tokens = 0.0, 0
        self.since = time.monotonic()
        self._look_at_the_clock()
        for watch in self.watchers:
            watch({**row, "updates": float(at.updates)})

    def _epochs_done(self, at: Position) -> float:
        """How many times the text was read, in all trainings of this model."""
        return at.trained + at.epoch - 1 + at.batch / self.batches_per_epoch

    def _done(self) -> float:
        """The part of the planned training that is over, by its updates or its time."""
        done = (self.at.epoch - 1 + self.at.batch / self.batches_per_epoch) / self.config.epochs
        if self.config.max_seconds is not None:
            done = max(done, (time.monotonic() - self.began) / max(self.config.max_seconds - self._reserve(), 1e-9))
        return done

    def _over(self) -> str:
        """Why nothing is left to do, if that is so."""
        if self.at.epoch > self.config.epochs:
            return ALL_DONE
        limit = self.config.max_seconds
        return self._out_of_patience() or ("" if limit is None or self.at.seconds < limit else _time_is_over(limit))

    def _out_of_patience(self) -> str:
        if self.config.patience is None or self.at.waited < self.config.patience:
            return ""
        what = "report" if self.config.validate_every else "epoch"
        return f"no better for {self.at.waited} {what}{'s' * (self.at.waited != 1)}"

    def _out_of_time(self) -> str:
        limit = self.config.max_seconds
        if limit is None or time.monotonic() - self.began < limit - self._reserve():
            return ""
        return _time_is_over(limit)

    def _reserve(self) -> float:
        """Seconds that an update takes and what may follow it: two checkpoints (one may be due), a validation, saving the model."""
        return self.stepping + 2 * self.keeping + (self.validating or self.foreseen) + self.saving

    def _foresee(self) -> None:
        """Estimate how long a validation takes. Raises :class:`ConfigError` if ``max_seconds`` leaves no time for anything else."""
        limit = self.config.max_seconds
        if limit is None or self.validate is None or self.foresee is None:
            return
        started = time.monotonic()
        self.foreseen = self.foresee(limit)
        self.at.seconds += time.monotonic() - started
        if self.foreseen >= limit and not self.at.updates:
            raise ConfigError(f"max_seconds is {plain(limit)}, but a validation alone takes about {plain(float(f'{self.foreseen:.2g}'))} seconds "
                              "here; give more time, or a shorter validation text.")

    def _look_at_the_clock(self) -> None:
        now = time.monotonic()
        self.at.epoch_seconds, self.at.seconds = now - self.since, now - self.began

    def _step(self, inputs: np.ndarray, targets: np.ndarray, rate: float) -> None:
        """One update of the weights by one batch. A device computes it while Python continues, one update behind."""
        self.issued.append(self._issue(self.at.batch, inputs, targets, rate))
        self._settle(left=self.updater.behind)

    def _issue(self, batch: int, inputs: np.ndarray, targets: np.ndarray, rate: float) -> "Issued":
        network, config, at = self.network, self.config, self.at
        tokens = int((targets >= 0).sum())
        scale = 1 / tokens if config.reduction == "mean" else 1 / config.streams
        key = stream_key(self.seed, at.trained + at.epoch, batch)
        losses = network.differentiate(
            network.ops.upload(inputs), network.ops.upload(targets.reshape(-1)), self.state, scale, key
        )
        rate_now = rate * 0.5**at.skipped
        return Issued(batch, inputs, targets, rate, tokens, rate_now, self.updater.start(losses, rate_now))

    def _settle(self, left: int = 0) -> None:
        """Note what the issued updates came to, all but the last ``left``.

        One whose numbers are not finite changed nothing, and those behind it on the device neither: they are issued again.
        """
        at = self.at
        while len(self.issued) > left:
            issued = self.issued.popleft()
            try:
                loss, norm = issued.result()
            except DivergenceError as error:
                later, self.updater.steps = list(self.issued), at.updates
                self.issued.clear()
                self._skip(error, tell=not later)
                for again in later:
                    self.issued.append(self._issue(again.batch, again.inputs, again.targets, again.rate))
                continue
            at.nats, at.tokens, at.gradient_norm, at.learning_rate = (
                at.nats + loss, at.tokens + issued.tokens, norm, issued.rate_now)
            at.updates, at.in_a_row = at.updates + 1, 0

    def _skip(self, error: DivergenceError, tell: bool) -> None:
        """Go on without this update; ``tell`` which gradients were not finite, if they are still there and this is the end."""
        network, config, at = self.network, self.config, self.at
        if config.not_finite == "stop" or at.in_a_row == MOST_SKIPPED:
            names = ", ".join(map(repr, network.not_finite(network.gradients))) if tell else ""
            raise DivergenceError(f"{error}" + f" (NaN or infinity in the gradients of {names})" * bool(names)) from error
        at.skipped, at.in_a_row = at.skipped + 1, at.in_a_row + 1
        network.ops.fill(self.state.flat, 0)  # it may hold what went wrong
        told = f"update {at.updates + 1} is skipped: {error}; the learning rate is halved"
        if at.in_a_row > 1:  # then the weights themselves have gone wrong
            network.restore(self.good)
            self.updater.forget()
            told += ", and the last good weights are restored"
        self.progress.line(told)

    def _keep(self, first: bool = False) -> None:
        """Write a checkpoint, if there are any. One that cannot be written is lost, but for the first."""
        if self.checkpoints is None:
            return
        started, self.at.divisor = time.monotonic(), self.schedule.divisor
        arenas = {"weights": self.network.parameters, "good": Arena(self.network.graph.layout, self.good),
                  "state": self.state, **self.updater.arenas()}
        download = self.network.ops.download
        try:
            self.checkpoints.write(self.at, {
                group: ((name, download(array)) for name, array in arena.items()) for group, arena in arenas.items()
            })
            self.kept = True
        except (ModelFileError, MemoryError) as error:
            if first:
                raise
            warn(f"no checkpoint was written, training continues: {str(error) or 'there is no memory for it'}")
        self.checkpoints.last = time.monotonic()
        self.keeping = max(self.keeping, self.checkpoints.last - started)

    def _diverged(self, error: DivergenceError) -> DivergenceError:
        at = self.at
        self.network.restore(self.good)
        kept = "before the training" if at.best == inf else "the best epoch so far"
        return DivergenceError(
            f"training diverged in epoch {at.epoch}, after {at.updates} updates: {error}. The weights of {kept} "
            f"are restored. Try a learning rate below {plain(self.optimizer.learning_rate)}, "
            + ("or gradient clipping (clip_norm=1)." if self.config.not_finite == "skip" else
               "gradient clipping (clip_norm=1), or not_finite='skip'.")
        )

    def _show(self) -> None:
        at, epochs = self.at, self.config.epochs
        part = at.batch / self.batches_per_epoch
        left = at.seconds / max(1e-9, at.epoch - 1 + part) * (epochs - at.epoch + 1 - part)
        if self.config.max_seconds is not None:
            left = min(left, self.config.max_seconds - at.seconds)
        loss = at.nats / max(at.tokens, 1)
        self.progress.show(
            f"{self._numbered(at.epoch)}  {part:4.0%}  loss {loss:.4f}  perplexity {_brief(perplexity(loss))}  "
            f"{at.tokens / max(at.epoch_seconds, 1e-9):,.0f} tokens/s  {duration(left)} left"
        )

    def _numbered(self, epoch: float) -> str:
        number = f"epoch {epoch:.{2 * (epoch % 1 > 0)}f}"
        return number if self.config.max_seconds else f"{number}/{self.config.epochs}"

    def _tell(self, row: Row, improved: bool) -> None:
        text = f"{self._numbered(row['epoch'] - self.at.trained)}  loss {row['loss']:.4f}  perplexity {_brief(row['perplexity'])}"
        if self.validate is not None:
            text += f"  valid loss {row['valid_loss']:.4f}  perplexity {_brief(row['valid_perplexity'])}"
            text += " *" if improved else "  "
        self.progress.line(f"{text}  {row['tokens_per_second']:,.0f} tokens/s  {row['seconds']:.1f} s")


def _time_is_over(limit: float) -> str:
    return f"the {plain(limit)} seconds are over"


def new_history() -> History:
    """An empty history: a list per column, an entry per epoch."""
    return {column: [] for column in COLUMNS}


def compile_kernels(network: Network, rule: Rule) -> None:
    """Make every kernel of a training step and of a validation ready, on batches too small to matter and without changing
    a weight.

    So no time limit and no speed counts the compiler.
    """
    graph, ops = network.graph, network.ops
    for streams in (2, 1):  # a few rows, as the end of a text may be, go through kernels of their own
        shape = graph.input(graph.chain.steps or 3, streams)
        output = graph.output(shape)
        x = ops.upload(np.zeros(shape, np.int32 if graph.takes_ids else np.float32))
        ids = graph.head.targets == "ids"
        targets = ops.upload(np.zeros(output[:-1], np.int32).reshape(-1) if ids else np.zeros((int(np.prod(output[:-1])), output[-1]), np.float32))
        if streams > 1:
            network.differentiate(x, targets, network.state(streams), 0.0, 0)
        else:
            network.losses(x, targets, network.state(streams))
    ops.norm(network.gradients.flat)
    p, g, m = ops.empty((16,)), ops.empty((16,)), ops.empty((rule.moments, 16))
    for array in (p, g, m):
        ops.fill(array, 0)
    ops.update(rule, p, g, m, np.ones(2 + len(rule.hyper)))


class _ValidationFailed(Exception):
    """A validation raised an error, its cause."""


def _telling_failures(validate: Callable[[], float]) -> Callable[[], float]:
    def validated() -> float:
        try:
            return validate()
        except Exception as error:  # whatever it is, what was learned before must not be lost
            raise _ValidationFailed from error

    return validated
