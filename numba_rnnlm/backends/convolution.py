"""Which steps a convolution multiplies with which element of its kernel, for all backends."""

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple


class Tap(NamedTuple):
    """Steps ``first`` … ``last`` - 1 of the output see x[phase::stride][step + shift] times W[k]."""

    k: int
    phase: int
    first: int
    last: int
    shift: int

    @property
    def turned(self) -> "Tap":
        """The tap of the gradient of x[phase::stride], which sees the gradient of the output."""
        return Tap(self.k, 0, self.first + self.shift, self.last + self.shift, -self.shift)

    def rows(self, streams: int, starts: Sequence[int] = (0,)) -> tuple[int, int, int, int]:
        """(k, first, last, shift) in rows, where a step is a row for each stream, and phases start at these steps."""
        return self.k, self.first * streams, self.last * streams, (starts[self.phase] + self.shift) * streams


@lru_cache(4096)
def taps(steps: int, outputs: int, kernel: int, stride: int, dilation: int, before: int) -> tuple[Tap, ...]:
    """A tap for each element of the kernel; ``steps`` is the length of x.

    With the steps of x in order of their phase, their number modulo the stride, the outputs of a tap and what they see are both
    contiguous.

    Examples
    --------
    >>> taps(5, 5, 2, stride=1, dilation=1, before=1)
    (Tap(k=0, phase=0, first=1, last=5, shift=-1), Tap(k=1, phase=0, first=0, last=5, shift=0))
    """
    found = []
    for k in range(kernel):
        shift, phase = divmod(k * dilation - before, stride)
        last = max(0, min(outputs, len(range(phase, steps, stride)) - shift))
        found.append(Tap(k, phase, min(max(0, -shift), last), last, shift))
    return tuple(found)


def phase_starts(steps: int, stride: int) -> list[int]:
    """Where the steps of each phase begin if they are in its order, and their end.

    Examples
    --------
    >>> phase_starts(5, 2)
    [0, 3, 5]
    """
    return [0, *accumulate(len(range(phase, steps, stride)) for phase in range(stride))]
