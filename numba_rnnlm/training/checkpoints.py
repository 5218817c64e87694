"""Checkpoints: the whole state of a training, written now and then."""

import time
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from ..errors import ModelFileError
from ..reports import warn
from .position import Position

Groups = Mapping[str, Iterable[tuple[str, np.ndarray]]]  # named arrays: weights, good, state, moments/0, …


class Checkpoints:
    """Writes checkpoints.

    Parameters
    ----------
    write
        Takes the position and the arrays of a training. May raise :class:`ModelFileError`.
    every
        Seconds between two checkpoints.

    Attributes
    ----------
    written
        Whether one was written.
    """

    def __init__(self, write: Callable[[Position, Groups], None], every: float) -> None:
        self.write, self.every, self.last = write, every, time.monotonic()
        self.written = False

    def due(self) -> bool:
        """Whether it is time for the next one."""
        return time.monotonic() - self.last >= self.every

    def keep(self, at: Position, groups: Groups, first: bool = False) -> None:
        """Write one. If it cannot be written, a warning says so, and the one before stays; the ``first`` one raises."""
        try:
            self.write(at, groups)
            self.written = True
        except (ModelFileError, MemoryError) as error:
            if first:
                raise
            warn(f"no checkpoint was written, training continues: {str(error) or 'there is no memory for it'}")
        self.last = time.monotonic()
