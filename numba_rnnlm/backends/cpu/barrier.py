"""Where threads that run one kernel together wait for one another.

They must all be running: :meth:`.threads.Pool.gang` starts them so.
"""

import numpy as np

from .atomics import LINE, add, offer, pause, read, write
from .kernels import kernel

_OPEN = 2 * LINE
PATIENCE = 2000  # looks, some 30 microseconds, before the processor is offered to another thread


def new_barrier() -> np.ndarray:
    """Arrivals, on a line of its own how often all have met, and on another whether nobody is waited for any more."""
    return np.zeros(3 * LINE, np.int64)


def open_barrier(barrier: np.ndarray) -> None:
    """Let everybody go, now and from now on."""
    barrier[_OPEN] = 1


@kernel
def meet(barrier, threads):
    """Return when all ``threads`` have come here."""
    met = read(barrier, LINE)
    if add(barrier, 0, 1) == threads - 1:
        write(barrier, 0, 0)
        add(barrier, LINE, 1)
        return
    looks = 0
    while read(barrier, LINE) == met:
        looks += 1
        if looks % PATIENCE == 0:
            if read(barrier, _OPEN):
                return
            offer()
        pause()
