"""What streams carry from one segment to the next."""

from typing import Self

import numpy as np

from ..arena import Arena, Layout
from ..backends.ops import Ops


class State(Arena):
    """Arrays by name on a backend; the first axis of each is the stream.

    Parameters
    ----------
    ops
        The backend.
    layout
        Names and shapes.
    """

    def __init__(self, ops: Ops, layout: Layout) -> None:
        super().__init__(layout, ops.empty((layout.size,)))
        self.ops = ops
        ops.fill(self.flat, 0)

    def copy(self) -> Self:
        """The same numbers in arrays of their own."""
        other = type(self)(self.ops, self.layout)
        self.ops.copy(self.flat, other.flat)
        return other

    def take(self, rows: np.ndarray) -> "State":
        """The state of these streams, in this order; one may be taken several times."""
        shapes = {name: (len(rows), *shape[1:]) for name, shape in self.layout.items()}
        other, ids = State(self.ops, Layout(shapes)), self.ops.upload(np.asarray(rows, np.int32))
        for name, array in self.items():
            if array.size and len(rows):
                self.ops.gather(array.reshape(array.shape[0], -1), ids, other[name].reshape(len(rows), -1))
        return other

    def clear(self, rows: np.ndarray | None = None) -> None:
        """Let these streams, or all, begin anew."""
        if rows is None:
            self.ops.fill(self.flat, 0)
            return
        for array in self.values():
            for row in rows.tolist():
                self.ops.fill(array[row], 0)

    def arrays(self) -> dict[str, np.ndarray]:
        """Copies as NumPy's arrays, by name."""
        return {name: self.ops.download(array) for name, array in self.items()}
