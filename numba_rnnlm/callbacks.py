"""Callbacks for :class:`~numba_rnnlm.Sequential`, with Keras's names."""

import csv
import inspect
import io
import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from math import inf, nan
from typing import Annotated, Any, Literal

import numpy as np

from .arguments import Only, checked
from .errors import (
    ConfigError,
    ModelFileError,
    expect_flag,
    expect_items,
    expect_number,
    expect_one_of,
    expect_path,
    expect_text,
    shown,
)
from .formats.keras import expect_our_file
from .paths import is_empty, regular
from .reports import report, warn
from .runs import expect_ended
from .storage import expect_room
from .training.history import Row, number
from .training.loop import Trainer, Watcher
from .training.position import Best

BEST_SO_FAR = Only("values are compared with the best so far")
WEIGHT_BYTES = 4  # a saved model stores float32
LONGEST_LINE = 10_000  # most bytes of a line of a log
Logs = Mapping[str, float]
Path = str | os.PathLike[str]


class Callback:
    """Base class: override the methods you need. Setting ``self.model.stop_training = True`` ends training after the epoch.

    ``logs`` holds those of loss, accuracy, val_loss and val_accuracy that the last epoch measured; before the first epoch it is empty.
    After a batch it holds the means of the epoch so far.

    Attributes
    ----------
    model
        The model being trained.
    params
        epochs, steps (batches per epoch) and verbose of this ``fit``, and metrics, the names in ``logs`` after an epoch.

    Examples
    --------
    >>> class GoodEnough(Callback):
    ...     def on_epoch_end(self, epoch, logs):
    ...         self.model.stop_training = logs["loss"] < 0.5
    """

    model: Any = None
    params: Any = None

    def set_model(self, model: Any) -> None:
        """Called first by ``fit``."""
        self.model = model

    def set_params(self, params: Mapping[str, Any]) -> None:
        """Called second."""
        self.params = params

    def on_train_begin(self, logs: Logs) -> None:
        """Before the first epoch."""

    def on_train_end(self, logs: Logs) -> None:
        """After the last epoch."""

    def on_epoch_begin(self, epoch: int, logs: Logs) -> None:
        """Before epoch 0, 1, …"""

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """After epoch 0, 1, …"""

    def on_train_batch_begin(self, batch: int, logs: Logs) -> None:
        """Before batch 0, 1, … of the epoch."""
        self.on_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Logs) -> None:
        """After the update of batch 0, 1, … of the epoch."""
        self.on_batch_end(batch, logs)

    def on_batch_begin(self, batch: int, logs: Logs) -> None:
        """Keras's older name of :meth:`on_train_batch_begin`."""

    def on_batch_end(self, batch: int, logs: Logs) -> None:
        """Keras's older name of :meth:`on_train_batch_end`."""


def read_callbacks(callbacks: Any) -> list[Callback]:
    """None, a callback or several, as a list. Raises :class:`ConfigError` for anything else, and for ``on_…`` methods that are never called."""
    known = [name for name in dir(Callback) if name.startswith("on_")]
    what = "objects of numba_rnnlm.callbacks"
    found: list[Any] = [callbacks] if isinstance(callbacks, Callback) else [] if callbacks is None else expect_items("callbacks", callbacks, what)
    for callback in found:
        if not isinstance(callback, Callback):
            raise ConfigError(f"callbacks holds {shown(callback)}, expected {what}.")
        for name in dir(callback):
            if name.startswith("on_") and name not in known:
                raise ConfigError(f"{type(callback).__name__} has {name}, which is never called; "
                                  f"expected some of {', '.join(known)}.")
    return found


class Stoppable:
    """A front end whose training callbacks can end."""

    _stop_training = False

    @property
    def stop_training(self) -> bool:
        """Whether the training ends after this epoch."""
        return self._stop_training

    @stop_training.setter
    def stop_training(self, value: bool) -> None:
        expect_flag("stop_training", value)
        self._stop_training = bool(value)


class Called(Watcher):
    """The watcher that calls callbacks.

    Parameters
    ----------
    model
        The model that callbacks see, whose ``stop_training`` they may set.
    callbacks
        The callbacks, in calling order.
    params
        See :attr:`Callback.params`.
    """

    def __init__(self, model: Any, callbacks: Iterable[Callback], params: Mapping[str, Any]) -> None:
        self.model, self.callbacks, self.params, self.logs = model, list(callbacks), params, dict[str, float]()
        for callback in self.callbacks:  # now: if one does not fit, nothing has been written
            callback.set_model(model)
            callback.set_params(params)

    def begin(self, trainer: Trainer) -> None:
        for callback in self.callbacks:
            callback.on_train_begin({})

    def begin_epoch(self, trainer: Trainer) -> None:
        for callback in self.callbacks:
            callback.on_epoch_begin(trainer.at.epoch - 1, {})

    def begin_batch(self, trainer: Trainer) -> None:
        for callback in self.callbacks:
            callback.on_train_batch_begin(trainer.at.batch // trainer.config.accumulate, {})

    def end_batch(self, trainer: Trainer) -> None:
        if self.callbacks:
            trainer.settle()
        for callback in self.callbacks:
            callback.on_train_batch_end((trainer.at.batch - 1) // trainer.config.accumulate, trainer.means())

    def end_epoch(self, trainer: Trainer, row: Row) -> None:
        self.logs = self.named(row)
        for callback in self.callbacks:
            callback.on_epoch_end(trainer.at.epoch - 1, self.logs)
        if self.model.stop_training:
            trainer.stop("a callback has set stop_training")

    def end(self, trainer: Trainer) -> None:
        for callback in self.callbacks:
            callback.on_train_end(self.logs)

    def named(self, row: Row) -> dict[str, float]:
        """The values of a report that are passed to callbacks."""
        return {name: row[name] for name in self.params["metrics"] if name in row}


@checked
class History(Callback):
    """The measured values of each epoch; ``fit`` returns it.

    Attributes
    ----------
    epoch
        Numbers of the epochs, from 0.
    history
        Name (loss, accuracy, val_loss, val_accuracy) → one value per epoch. Holds only what was measured.
    """

    def __init__(self) -> None:
        self.epoch: list[int] = []
        self.history: dict[str, list[float]] = {}

    def about(self) -> dict[str, list[float | None]]:
        """The history in JSON types, for a file's header."""
        return {name: [number(value) for value in values] for name, values in self.history.items()}

    def resume(self, saved: Mapping[str, Any]) -> None:
        """Continue the history of a file's header. Raises ValueError if it is malformed."""
        epochs, values = saved["epoch"], saved["values"]
        columns = [epochs, *values.values()]
        if not all(isinstance(column, list) and len(column) == len(epochs) for column in columns) or not all(
            isinstance(value, (int, float, type(None))) for column in columns for value in column
        ):
            raise ValueError("the history is not a table")
        self.epoch = [int(epoch) for epoch in epochs]
        order = sorted(values, key=self.params["metrics"].index)  # as without the interruption: a header is sorted by name
        self.history = {name: [nan if value is None else float(value) for value in values[name]] for name in order}

    def __repr__(self) -> str:
        last = "".join(f", {name}: {values[-1]:.4f}" for name, values in self.history.items())
        return f"<History of {len(self.epoch)} epochs{last}>"

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        self.epoch.append(epoch)
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)


def _expect_function_like(name: str, function: Any) -> None:
    """Raise :class:`ConfigError` now, rather than after an epoch, unless a function accepts the arguments of the method of this name."""
    taken = list(inspect.signature(getattr(Callback, name)).parameters)[1:]
    if not callable(function):
        raise ConfigError(f"{name} is {shown(function)}, expected a function of {' and '.join(taken)}.")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some functions written in C have no signature
        return
    try:
        signature.bind(*taken)
    except TypeError:
        raise ConfigError(f"{name} is a function of {str(signature)[:100]}, expected one of {' and '.join(taken)}.") from None


@checked
class LambdaCallback(Callback):
    """A callback made of functions, each with the arguments of the method of its name.

    Examples
    --------
    >>> callback = LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, logs["loss"]))
    >>> callback.on_epoch_end(0, {"loss": 1.5})
    0 1.5
    """

    def __init__(
        self,
        on_epoch_begin: Callable[[int, Logs], Any] | None = None,
        on_epoch_end: Callable[[int, Logs], Any] | None = None,
        on_train_begin: Callable[[Logs], Any] | None = None,
        on_train_end: Callable[[Logs], Any] | None = None,
        on_train_batch_begin: Callable[[int, Logs], Any] | None = None,
        on_train_batch_end: Callable[[int, Logs], Any] | None = None,
    ) -> None:
        given = {"on_epoch_begin": on_epoch_begin, "on_epoch_end": on_epoch_end,
                 "on_train_begin": on_train_begin, "on_train_end": on_train_end,
                 "on_train_batch_begin": on_train_batch_begin, "on_train_batch_end": on_train_batch_end}
        for name, function in given.items():
            if function is not None:
                _expect_function_like(name, function)
        self.__dict__.update({name: function for name, function in given.items() if function is not None})


@checked
class CSVLogger(Callback):
    """Writes a CSV file with one line per epoch: its number, then its values in alphabetical order.

    Training does not start if the file cannot be opened, or exists and is not such a log from its first line to its last. A line that
    cannot be written later is lost, with a warning.

    Parameters
    ----------
    path
        The file. An existing log is overwritten, or continued with ``append``.
    separator
        Character between columns.
    """

    def __init__(self, path: Path, separator: str = ",", append: bool = False) -> None:
        self.path, self.separator, self.append = expect_path("path", path, "log.csv"), separator, append
        expect_flag("append", append)
        try:
            csv.writer(io.StringIO(), delimiter=separator)
            separator.encode()
        except (TypeError, ValueError):  # ValueError: a lone surrogate or, from Python 3.13 on, a special character
            raise ConfigError(f"separator is {shown(separator)}, expected one character such as ',' or ';'.") from None
        if separator in '\r\n"':
            raise ConfigError(f"separator is {separator!r}, which has a special meaning in a CSV file, expected a character such as ',' or ';'.")

    def on_train_begin(self, logs: Logs) -> None:
        try:
            self._expect_log()
            with open(self.path, "a" if self.append else "w", encoding="utf-8", opener=regular) as file:
                self._titled = file.tell() > 0
        except OSError as error:
            raise ModelFileError(f"CSVLogger cannot write {self.path!r}: {error.strerror}.") from error

    def _expect_log(self) -> None:
        """Raise :class:`ConfigError` if another kind of file would be overwritten."""
        separator, number = re.escape(self.separator), "[-+.0-9aefin]*"  # nan and inf too; a last line may be truncated
        title, row = (re.compile(pattern) for pattern in (rf"epoch({separator}\w+)+", rf"[0-9]+({separator}{number})*"))
        try:
            with open(self.path, "rb", opener=regular) as file:
                lines = (line.decode("utf-8", "replace").rstrip("\r\n") for line in iter(partial(file.readline, LONGEST_LINE), b""))
                if is_empty(file.fileno()) or (title.fullmatch(next(lines, "")) and all(map(row.fullmatch, lines))):
                    return
        except FileNotFoundError:
            return
        raise ConfigError(f"CSVLogger's file is {os.fsdecode(self.path)!r}, which exists and is not a log with the separator {self.separator!r}; it is "
                          "left unchanged. Give the log another name.")

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        names = sorted(logs)
        try:
            with open(self.path, "a", encoding="utf-8", newline="", opener=regular) as file:
                writer = csv.writer(file, delimiter=self.separator)
                if not self._titled:
                    writer.writerow(["epoch", *names])
                writer.writerow([epoch, *(logs[name] for name in names)])
        except OSError as error:
            warn(f"CSVLogger lost the line of epoch {epoch} in {self.path!r}: {error.strerror}.")
            return
        self._titled = True


class _Watch(Callback, Best):
    """Knows whether a value is the best so far. A value that should be large is judged by its negative."""

    def __init__(self, monitor: str, mode: str, min_delta: float = 0) -> None:
        expect_one_of("mode", mode, ("auto", "min", "max"))
        expect_text("monitor", monitor, "val_loss")
        min_delta = expect_number("min_delta", min_delta, 0)
        super().__init__()
        self.monitor, self.min_delta = monitor, min_delta
        self.sign = -1 if mode == "max" or (mode == "auto" and monitor.endswith(("accuracy", "acc"))) else 1

    def expect_measured(self, names: Iterable[str]) -> None:
        """Raise :class:`ConfigError` if the monitored value is not among these."""
        if self.monitor not in (measured := list(names)):
            raise ConfigError(
                f"{type(self).__name__} watches {shown(self.monitor)}, but this training measures {', '.join(measured)}. "
                "val_… needs validation data (validation_data, valid or validation_split); accuracy needs a Sequential with compile(metrics=['accuracy'])."
            )

    def set_params(self, params: Mapping[str, Any]) -> None:
        super().set_params(params)
        self.expect_measured(params["metrics"])

    def better(self, logs: Logs) -> bool:
        self.expect_measured(logs)
        return self.judge(self.sign * logs[self.monitor], self.min_delta)


@checked
class EarlyStopping(_Watch):
    """Stop when a value no longer improves.

    Parameters
    ----------
    monitor
        "val_loss", "loss", "val_accuracy" or "accuracy".
    min_delta
        Improvements of this much or less do not count.
    patience
        Stop after this many epochs in a row without improvement (0 is the same as 1).
    verbose
        1 reports when it stops.
    mode
        Whether lower ("min") or higher ("max") is better; "auto" means "max" for accuracies.
    restore_best_weights
        Restore the weights of the best epoch when training ends.
    """

    def __init__(
        self, monitor: str = "val_loss", min_delta: float = 0, patience: int = 0, verbose: int = 0, mode: str = "auto",
        restore_best_weights: bool = False, *, baseline: Annotated[None, BEST_SO_FAR] = None,
        start_from_epoch: Annotated[Literal[0], Only("every epoch counts")] = 0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        patience = expect_number("patience", patience, 0, whole=True)
        expect_one_of("verbose", verbose, (0, 1, 2))
        expect_flag("restore_best_weights", restore_best_weights)
        self.patience, self.restore_best_weights, self.verbose = patience, restore_best_weights, verbose

    def on_train_begin(self, logs: Logs) -> None:
        self.best, self.waited = inf, 0
        self.best_weights: list[np.ndarray] | None = None

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        if self.better(logs):
            if self.restore_best_weights:
                self.best_weights = self.model.get_weights()
        elif self.waited >= self.patience:
            self.model.stop_training = True
            if self.verbose:
                report(f"Epoch {epoch + 1}: early stopping\n")

    def on_train_end(self, logs: Logs) -> None:
        if self.best_weights is not None:
            self.model.set_weights(self.best_weights)


class _AnyNumber(dict[str, float]):
    """A mapping that has a number for every name."""

    def __missing__(self, name: str) -> float:
        return 0.5


@checked
class ModelCheckpoint(_Watch):
    """Save the model after each epoch.

    Training does not start if the folder is missing, read-only or too small, or if a file must not be replaced, such as a text or the
    checkpoint of an unfinished run. A model that cannot be written later is lost, with a warning.

    Parameters
    ----------
    filepath
        The file; may contain ``{epoch}`` (from 1) and names of values, as in ``"model-{epoch:02}-{val_loss:.2f}.npz"``.
    monitor, mode
        As in :class:`EarlyStopping`.
    verbose
        1 reports each saved file.
    save_best_only
        Save only after an epoch that is the best so far.
    """

    def __init__(
        self, filepath: Path, monitor: str = "val_loss", verbose: int = 0, save_best_only: bool = False, mode: str = "auto", *,
        save_weights_only: Annotated[Literal[False], Only("the file is the whole model")] = False,
        save_freq: Annotated[Literal["epoch"], Only("the model is saved after epochs")] = "epoch",
        initial_value_threshold: Annotated[None, BEST_SO_FAR] = None,
    ) -> None:
        super().__init__(monitor, mode)
        expect_one_of("verbose", verbose, (0, 1, 2))
        expect_flag("save_best_only", save_best_only)
        self.path, self.save_best_only, self.verbose = expect_path("filepath", filepath, "model-{epoch:02}.npz"), save_best_only, verbose
        expect_our_file(self.path)
        self._named(_AnyNumber(epoch=1), "values such as val_loss")

    def set_params(self, params: Mapping[str, Any]) -> None:
        Callback.set_params(self, params)
        self._named({"epoch": 1, **dict.fromkeys(params["metrics"], 0.5)}, ", ".join(params["metrics"]))
        if "{" not in self.path:  # now: if it must not be replaced, nothing has been written
            expect_ended(self.path, self.model.file_kind)
        if self.save_best_only:
            self.expect_measured(params["metrics"])

    def _named(self, values: Mapping[str, float], names: str) -> str:
        """The path with these values filled in. Raises :class:`ConfigError` if it names others."""
        try:
            return self.path.format_map(values)
        except Exception as error:  # a format may ask for any attribute of a number
            raise ConfigError(f"filepath is {shown(self.path)}; in braces it may name epoch, {names}.") from error

    def on_train_begin(self, logs: Logs) -> None:
        folder = os.path.dirname(self.path)
        if "{" not in folder:
            if "{" not in self.path:
                expect_ended(self.path, self.model.file_kind)
            expect_room([(os.path.join(folder, "a model"), WEIGHT_BYTES * sum(np.size(array) for array in self.model.get_weights()))])

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        if self.save_best_only and not self.better(logs):
            return
        path = self._named({"epoch": epoch + 1, **logs}, ", ".join(logs))
        try:
            self.model.save(path)
        except ModelFileError as error:
            warn(f"no checkpoint was written, training continues: {error}")
            return
        if self.verbose:
            report(f"Epoch {epoch + 1}: saved {path}\n")
