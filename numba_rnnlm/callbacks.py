"""What can watch a :class:`~numba_rnnlm.Sequential` learn, with Keras's names."""

import csv
import os
from collections.abc import Callable, Mapping
from math import inf
from typing import Any

import numpy as np

from .errors import ConfigError, expect_number, expect_one_of

Logs = Mapping[str, float]
Path = str | os.PathLike[str]


class Callback:
    """Override what you need. Setting ``self.model.stop_training = True`` ends the training after the epoch.

    Attributes
    ----------
    model
        The model that is trained.

    Examples
    --------
    >>> class Halve(Callback):
    ...     def on_epoch_end(self, epoch, logs):
    ...         self.model.stop_training = logs["loss"] < 0.5
    """

    model: Any = None

    def set_model(self, model: Any) -> None:
        """Called first, by ``fit``."""
        self.model = model

    def on_train_begin(self) -> None:
        """Before the first epoch."""

    def on_train_end(self) -> None:
        """After the last epoch."""

    def on_epoch_begin(self, epoch: int) -> None:
        """Before epoch 0, 1, …"""

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        """After epoch 0, 1, …; logs: loss, accuracy, val_loss, val_accuracy, as far as they were measured."""


class History(Callback):
    """What ``fit`` returns.

    Attributes
    ----------
    epoch
        Numbers of the epochs, from 0.
    history
        loss, accuracy, val_loss, val_accuracy, as far as they were measured → a value for each epoch.
    """

    def __init__(self) -> None:
        self.epoch: list[int] = []
        self.history: dict[str, list[float]] = {}

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        self.epoch.append(epoch)
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)


class LambdaCallback(Callback):
    """Functions as a callback; each takes what the method of the same name takes.

    Examples
    --------
    >>> callback = LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, logs["loss"]))
    >>> callback.on_epoch_end(0, {"loss": 1.5})
    0 1.5
    """

    def __init__(
        self,
        on_epoch_begin: Callable[[int], Any] | None = None,
        on_epoch_end: Callable[[int, Logs], Any] | None = None,
        on_train_begin: Callable[[], Any] | None = None,
        on_train_end: Callable[[], Any] | None = None,
    ) -> None:
        ...


class _Watch(Callback):
    """Notices when a value is better than ever."""

    def __init__(self, monitor: str, mode: str, min_delta: float = 0.0) -> None:
        expect_one_of("mode", mode, ("auto", "min", "max"))
        expect_number("min_delta", min_delta, 0)
        self.monitor, self.min_delta = monitor, min_delta
        self.sign = -1 if mode == "max" or (mode == "auto" and monitor.endswith(("acc", "accuracy"))) else 1
