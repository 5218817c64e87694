"""Where threads that run one kernel together wait for one another.

They must all be running: :meth:`.threads.Pool.gang` starts them so.
"""

import numpy as np

from .atomics import LINE, add, offer, pause, read, write
from .kernels import kernel

PATIENCE = 2000  # looks, some 30 microseconds, before the processor is offered to another thread


def new_barrier() -> np.ndarray:
    """Arrivals, and on a line of its own how often all have met."""
    return np.zeros(2 * LINE, np.int64)


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
            offer()
        pause()
