"""The training loop: epochs, batches, updates, reports, and what ends them."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from math import inf, isfinite
from typing import Any

import numpy as np

from ..arena import Arena
from ..backends.ops import Array, Ops
from ..config import TrainingConfig
from ..errors import ConfigError, DivergenceError, TrainingError, plain
from ..interrupts import Interrupts
from ..network import Network, State
from .checkpoints import Checkpoints
from .clock import Clock
from .history import Row
from .position import Position
from .schedules import Schedule
from .task import Batch, Task
from .updater import Updater
from .warmup import compile_kernels

INTERRUPTED, ALL_DONE = "interrupted", "all epochs are done"  # why a training ends
MOST_SKIPPED = 10  # updates in a row: more will not help


class Watcher:
    """Override what you need; each method is called with the training. One that wants to end it calls ``trainer.stop(reason)``."""

    def begin(self, trainer: "Trainer") -> None:
        """The kernels are ready, nothing was trained yet."""

    def begin_epoch(self, trainer: "Trainer") -> None:
        """Before the first batch of an epoch, or of what is left of it."""

    def begin_batch(self, trainer: "Trainer") -> None:
        """Before a batch."""

    def end_batch(self, trainer: "Trainer") -> None:
        """A batch was learned from. A device may still be computing: ``trainer.settle()`` waits."""

    def report(self, trainer: "Trainer", row: Row, improved: bool) -> None:
        """The training was measured: at the end of an epoch, or within one."""

    def note(self, trainer: "Trainer", text: str) -> None:
        """Something is to be said of an update."""

    def end_epoch(self, trainer: "Trainer", row: Row) -> None:
        """An epoch is over, or cut short; ``row`` is its last report."""

    def end(self, trainer: "Trainer") -> None:
        """Nothing more is trained."""


@dataclass
class Issued:
    """An update that may still be computed: its batches, and what waits for its loss and its norm."""

    group: Sequence[Batch]
    first: int
    rate: float
    rate_now: float
    scores: Sequence[Array | None]
    result: Callable[[], tuple[float, float]]


@dataclass
class Trainer:
    """One call of ``fit``.

    Parameters
    ----------
    network
        What is trained, in place.
    task
        Its batches, and how it is measured.
    updater
        Changes the weights.
    epochs
        The number of the last epoch.
    config
        ``accumulate``, ``validate_every``, ``patience``, ``max_seconds``, ``not_finite`` and the schedule.
    at
        Where the training begins.
    keeps_best
        Whether the network has the weights of the best report on held-out data in the end, instead of the last ones.
    checkpoints
        Where the state is kept while the training runs, or None.
    watchers
        Called at the events of the training, in their order.
    interrupted
        Notes the signals that end it.
    foresee
        From ``max_seconds``, of which it may use a little, to the seconds that the first validation will take, so that time is left for it.
        Later ones are expected to take as long as the longest so far.
    clipping
        How a user clips the norm of the gradient, for advice.

    Notes
    -----
    A report is made at the end of each epoch, and after every ``validate_every`` updates within it. The reported loss is the mean over
    what is counted, whatever scale the task gives to what is differentiated.
    """

    network: Network
    task: Task
    updater: Updater
    epochs: int
    config: TrainingConfig
    at: Position = field(default_factory=Position)
    keeps_best: bool = True
    checkpoints: Checkpoints | None = None
    watchers: list[Watcher] = field(default_factory=list)
    interrupted: Interrupts = field(default_factory=Interrupts)
    foresee: Callable[[float], float] | None = None
    clipping: str = "clip_norm=1"

    def __post_init__(self) -> None:
        self.clock = Clock(self.config.max_seconds)
        self.schedule = Schedule(self.config, self.updater.optimizer.learning_rate)
        self.state: State | None = None
        self.good = Arena(self.network.graph.layout, self.network.snapshot())  # the weights to go back to
        self.issued: deque[Issued] = deque()
        self.stopped, self.first = "", self.at.updates
        self.began_at = 0.0  # epochs that were done when this call began
        self.closing = False  # whether the last checkpoint of an interrupted training is written

    # What a checkpoint holds

    def position(self) -> Position:
        """Where the training stands, for a checkpoint."""
        return replace(self.at, divisor=self.schedule.divisor)

    def groups(self) -> dict[str, Iterator[tuple[str, np.ndarray]]]:
        """The arrays of the training by their groups and names."""
        download = self.network.ops.download
        state = self._carried() if self.task.carries else {}
        arenas = {"weights": self.network.parameters, "good": self.good, "state": state, **self.updater.arenas()}
        return {group: ((name, download(array)) for name, array in arena.items()) for group, arena in arenas.items()}

    def resume(
        self, at: Position, arrays: Callable[[str], Mapping[str, np.ndarray]], rounding: Any = None, extended: bool = False
    ) -> None:
        """Stand where the training stood that wrote a checkpoint; ``arrays`` has its groups by their names. For ``rounding``
        see :meth:`~.updater.Updater.resume`. If the training had ended and is now ``extended``, it may have something left to do.

        Raises
        ------
        ValueError
            If it cannot have stood there.
        """
        network = self.network
        if not (1 <= at.epoch <= self.epochs + 1 and at.batch <= self.task.batches_per_epoch):
            raise ValueError(f"epoch {at.epoch} of {self.epochs}, batch {at.batch} of {self.task.batches_per_epoch}")
        network.load(self.good, arrays("good"))
        network.set_weights(arrays("weights"))
        if self.task.carries:
            network.load(self._carried(), arrays("state"))
        for name, moment in self.updater.arenas().items():
            network.load(moment, arrays(name))
        self.at, self.schedule.divisor = at, at.divisor
        if at.ended and extended:
            self.at = replace(at, ended=self._over())
        self.updater.resume(at.updates, rounding)

    # The loop

    def run(self) -> None:
        """Train; afterwards the network has the weights of its best report on held-out data, if it keeps those, else its last.

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
                    compile_kernels(self.network, self.updater.optimizer.rule)
                    self._foresee()
                self.interrupted.wait()
                if not self.at.ended:
                    try:
                        self._train()
                    except (MemoryError, OSError, _MeasuringFailed) as error:
                        if self.at.updates == self.first:
                            raise
                        raise self._failed(error) from (error.__cause__ or error)
            finally:  # whatever ended it, a second signal too
                if self.is_measured():
                    self.network.restore(self.good.flat)

    def stop(self, reason: str) -> None:
        """End the training after the update in progress, or the report; the first reason counts."""
        self.stopped = self.stopped or reason

    def is_measured(self) -> bool:
        """Whether held-out data has said which weights are the best."""
        return self.keeps_best and self.task.measures and self.at.best < inf

    def _train(self) -> None:
        for watcher in self.watchers:
            watcher.begin(self)
        self._keep(first=True)  # if a callback has raised an error, or this cannot be written, no run has begun
        self.clock.begin(self.at)
        self.began_at = self.at.epoch - 1 + self.at.batch / self.task.batches_per_epoch
        if self.interrupted.is_set():
            self.stop(INTERRUPTED)
        while not self.stopped and self.at.epoch <= self.epochs:
            try:
                row = self._epoch()
            except DivergenceError as error:
                raise self._diverged(error) from error
            for watcher in self.watchers if row else ():
                watcher.end_epoch(self, row)
            if not self.stopped:
                self.schedule.end_epoch(self.at.epoch)
                self.at.next_epoch()
                self.stop(self._out_of_patience())
            if not self.stopped and self.interrupted.is_set():
                self._keep()
                self.stop(INTERRUPTED)
        if self.stopped != INTERRUPTED:  # which may be resumed
            self.at.ended = self.stopped or ALL_DONE
        for watcher in self.watchers:
            watcher.end(self)
        if self.at.ended:
            self._keep()

    def _epoch(self) -> Row:
        """What is left of one pass over the data, or what the time allows of it; → its last report, empty if there was none."""
        at, every = self.at, (self.config.validate_every or 0) * self.config.accumulate
        if at.batch == 0 and self.state is not None:
            self.state.clear()
        self.clock.begin_report(at)
        for watcher in self.watchers:
            watcher.begin_epoch(self)
        batches = self.task.batches(at.epoch, at.batch)
        while group := list(islice(batches, self.config.accumulate)):
            # Before the next update, so that the end of an epoch is reported once, and a resumed run makes the report that is due.
            if every and at.batch and at.batch % every == 0:
                self._report()
                self.stop(self._out_of_patience() or INTERRUPTED * self.interrupted.is_set())
            if self.clock.is_over():
                self.stop(self._time_is_over())
            if self.stopped:
                break
            with self.clock.last("stepping"):
                self._step(group)
                at.batch += len(group)
                self.clock.look(at)
            for watcher in self.watchers:
                watcher.end_batch(self)
            if self.interrupted.is_set():
                self.stop(INTERRUPTED)
                break
            if self.checkpoints is not None and self.checkpoints.due():
                self.settle()
                self._keep()
        if self.interrupted.is_set() and self.stopped in ("", INTERRUPTED):
            self.settle()
            self._keep()
            self.closing = True  # what follows only closes the epoch: a resumed run continues here
        return self._report()

    def _report(self) -> Row:
        """Measure what has been learned since the last report of this epoch, if anything has; judge it, and tell the watchers."""
        self.settle()
        at, row = self.at, dict[str, float]()
        self.clock.look(at)
        if at.tokens == 0:  # there was no time, or every update was skipped
            return row
        if names := self.network.not_finite(self.network.parameters):
            raise DivergenceError(f"weight {names[0]!r} is not finite")
        row = {"epoch": self.epochs_done(), **self.means(), "learning_rate": at.learning_rate, "gradient_norm": at.gradient_norm, "tokens": float(at.tokens),
               "tokens_per_second": at.tokens / max(at.epoch_seconds, 1e-9), "updates": float(at.updates)}
        if self.task.measures:
            with self.clock.longest("validating"):
                row |= self._measured()
            if not isfinite(row["val_loss"]):
                raise DivergenceError("the validation loss is not finite")
        row["seconds"] = self.clock.since_report
        improved = at.judge(row.get("val_loss", row["loss"]))
        if improved or not self.keeps_best:
            self.network.snapshot(into=self.good.flat)
        self.schedule.judge(improved)
        for watcher in self.watchers:
            watcher.report(self, row, improved)
        at.nats, at.tokens, at.epoch_seconds = 0.0, 0, 0.0
        self.task.begin()
        self.clock.begin_report(at)
        self.clock.look(at)
        return row

    def _measured(self) -> dict[str, float]:
        try:
            return self.task.measure()
        except Exception as error:  # whatever it is, what was learned before must not be lost
            raise _MeasuringFailed from error

    def means(self) -> dict[str, float]:
        """Loss and metrics since the last report of this epoch; empty if nothing was learned from."""
        sums = {"loss": self.at.nats, **self.task.metrics()} if self.at.tokens else {}
        return {name: total / self.at.tokens for name, total in sums.items()}

    def epochs_done(self) -> float:
        """How many times the data was learned from, in all trainings of this model."""
        return self.at.trained + self.at.epoch - 1 + self.at.batch / self.task.batches_per_epoch

    def done(self) -> float:
        """The part of the planned training that is over, by its updates or its time."""
        return max((self.at.epoch - 1 + self.at.batch / self.task.batches_per_epoch) / self.epochs, self.clock.done())

    def _over(self) -> str:
        """Why nothing is left to do, if that is so."""
        if self.at.epoch > self.epochs:
            return ALL_DONE
        limit = self.config.max_seconds
        return self._out_of_patience() or ("" if limit is None or self.at.seconds < limit else self._time_is_over())

    def _out_of_patience(self) -> str:
        if self.config.patience is None or self.at.waited < self.config.patience:
            return ""
        what = "report" if self.config.validate_every else "epoch"
        return f"no better for {self.at.waited} {what}{'s' * (self.at.waited != 1)}"

    def _time_is_over(self) -> str:
        return f"the {plain(self.config.max_seconds or 0)} seconds are over"

    def _foresee(self) -> None:
        """Estimate how long a validation takes. Raises :class:`ConfigError` if ``max_seconds`` leaves no time for anything else."""
        limit = self.config.max_seconds
        if limit is None or self.foresee is None:
            return
        with self.clock.counted(self.at):
            self.clock.foreseen = self.foresee(limit)
        if self.clock.foreseen >= limit and not self.at.updates:
            raise ConfigError(f"max_seconds is {plain(limit)}, but a validation alone takes about "
                              f"{plain(float(f'{self.clock.foreseen:.2g}'))} seconds here; give more time, or a shorter validation text.")

    # Updates

    def _step(self, group: Sequence[Batch]) -> None:
        """One update of the weights by some batches. A device computes it while Python continues, one update behind."""
        for watcher in self.watchers:
            watcher.begin_batch(self)
        self.issued.append(self._issue(group, self.at.batch, self.schedule.rate(self.done())))
        self.settle(left=self.updater.behind)

    def _issue(self, group: Sequence[Batch], first: int, rate: float) -> Issued:
        network, ops, at = self.network, self.network.ops, self.at
        scale, losses, scores = self.task.scale(group), list[Array](), list[Array | None]()
        for index, batch in enumerate(group):
            number = at.updates + at.skipped + len(self.issued)
            key = self.task.key(at.trained + at.epoch, first + index, number * self.config.accumulate + index)
            x = ops.upload(batch.x)
            scores.append(ops.empty(network.graph.output(x.shape)) if self.task.scored else None)
            found = network.differentiate(x, ops.upload(batch.targets), self._state_for(batch), scale, key, scores[-1], index > 0)
            losses.append(found if len(group) == 1 else _copied(ops, found))
        rate_now = rate * 0.5**at.skipped
        return Issued(group, first, rate, rate_now, scores, self.updater.start(_joined(ops, losses), rate_now))

    def _carried(self) -> State:
        """What the streams carry from batch to batch."""
        if self.state is None:
            self.state = self.network.state(self.task.streams)
        return self.state

    def _state_for(self, batch: Batch) -> State:
        return self._carried() if self.task.carries else self.network.state(batch.x.shape[1])

    def settle(self, left: int = 0) -> None:
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
                    self.issued.append(self._issue(again.group, again.first, again.rate))
                continue
            at.nats, at.tokens = at.nats + loss, at.tokens + sum(batch.rows for batch in issued.group)
            at.gradient_norm, at.learning_rate = norm, issued.rate_now
            at.updates, at.in_a_row = at.updates + 1, 0
            for batch, scores in zip(issued.group, issued.scores, strict=True):
                self.task.note(batch, scores)

    def _skip(self, error: DivergenceError, tell: bool) -> None:
        """Go on without this update; ``tell`` which gradients were not finite, if they are still there and this is the end."""
        network, config, at = self.network, self.config, self.at
        if config.not_finite == "stop" or at.in_a_row == MOST_SKIPPED:
            names = ", ".join(map(repr, network.not_finite(network.gradients))) if tell else ""
            where = f" (NaN or infinity in the gradients of {names})" if names else ""
            raise DivergenceError(f"{error}{where}") from error
        at.skipped, at.in_a_row = at.skipped + 1, at.in_a_row + 1
        if self.state is not None:  # it may hold what went wrong
            self.state.clear()
        told = f"update {at.updates + 1} is skipped: {error}; the learning rate is halved"
        if at.in_a_row > 1:  # then the weights themselves have gone wrong
            network.restore(self.good.flat)
            self.updater.forget()
            told += ", and the last good weights are restored"
        for watcher in self.watchers:
            watcher.note(self, told)

    # Endings

    def _keep(self, first: bool = False) -> None:
        """Write a checkpoint, if there are any."""
        if self.checkpoints is not None and not self.closing:
            with self.clock.longest("keeping"):
                self.checkpoints.keep(self.position(), self.groups(), first)

    @property
    def was_written(self) -> bool:
        """Whether there is a checkpoint of this training."""
        return self.checkpoints is not None and self.checkpoints.written

    def outcome(self) -> str:
        """Which weights an ended training leaves, and whether it can be resumed, in words behind the reason."""
        best = f"; the best {'report' if self.config.validate_every else 'epoch'}'s weights are kept" if self.keeps_best and self.task.measures else ""
        resumes = self.stopped == INTERRUPTED and self.was_written
        return best + ("; resume continues from the checkpoint" if resumes else "")

    def _failed(self, error: Exception) -> TrainingError:
        """The training cannot continue: leave what it has come to."""
        validating = isinstance(error, _MeasuringFailed)
        if validating:  # between two updates: the checkpoint stands before the validation
            self._keep()
        what, cause = ("validation", error.__cause__) if validating else ("training", error)
        return TrainingError(
            f"{what} failed in epoch {self.at.epoch}, after {self.at.updates} updates: {str(cause).removesuffix('.') or type(cause).__name__}. "
            f"The model has the weights of {'the best epoch so far' if self.is_measured() else 'the last update'}"
            + ("; resume continues from the checkpoint." if self.was_written else ".")
        )

    def _diverged(self, error: DivergenceError) -> DivergenceError:
        at = self.at
        self.network.restore(self.good.flat)
        kept = "the best epoch so far" if self.keeps_best and at.best < inf else "the last whole epoch" if at.best < inf else "before the training"
        return DivergenceError(
            f"training diverged in epoch {at.epoch}, after {at.updates} updates: {error}. The weights of {kept} "
            f"are restored. Try a learning rate below {plain(self.updater.optimizer.learning_rate)}, "
            + (f"or gradient clipping ({self.clipping})." if self.config.not_finite == "skip" else
               f"gradient clipping ({self.clipping}), or not_finite='skip'.")
        )


def _copied(ops: Ops, array: Array) -> Array:
    out = ops.empty(array.shape)
    ops.copy(array, out)
    return out


def _joined(ops: Ops, parts: Sequence[Array]) -> Array:
    """One row behind the other, as one row."""
    if len(parts) == 1:
        return parts[0]
    out, first = ops.empty((sum(part.shape[0] for part in parts),)), 0
    for part in parts:
        ops.copy(part, out[first : first + part.shape[0]])
        first += part.shape[0]
    return out


class _MeasuringFailed(Exception):
    """A validation raised an error, its cause."""
