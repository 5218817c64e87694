"""What happens at the events of a training besides learning."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ModelFileError
from ..reports import warn
from .history import Row
from .position import Position

if TYPE_CHECKING:
    from .loop import Trainer

Groups = Mapping[str, Iterable[tuple[str, np.ndarray]]]


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


class Checkpoints:
    """Writes the whole state of a training now and then.

    Parameters
    ----------
    write
        Takes the position, and groups of named arrays: weights, good, state, moments/0, … May raise :class:`ModelFileError`.
    every
        Seconds between two of them.
    """

    def __init__(self, write: Callable[[Position, Groups], None], every: float) -> None:
        self.write, self.every, self.last = write, every, time.monotonic()
        self.written = False  # by this training

    def due(self) -> bool:
        """Whether it is time for the next one."""
        return time.monotonic() - self.last >= self.every

    def begin(self, trainer: "Trainer") -> None:
        """Write the first one. If that fails, so does the training, before it begins; later ones are lost with a warning."""
        self._write(trainer)

    def end_batch(self, trainer: "Trainer") -> None:
        """Write one after an update, if it is time."""
        if self.due():
            trainer.settle()
            self.keep(trainer)

    def keep(self, trainer: "Trainer") -> None:
        """Write one now."""
        try:
            self._write(trainer)
        except (ModelFileError, MemoryError) as error:
            warn(f"no checkpoint was written, training continues: {str(error) or 'there is no memory for it'}")

    def _write(self, trainer: "Trainer") -> None:
        try:
            with trainer.clock.longest("keeping"):
                self.write(trainer.position(), trainer.groups())
                self.written = True
        finally:
            self.last = time.monotonic()
