"""What may be drawn, and with which random numbers."""

from collections.abc import Sequence

import numpy as np

from ..backends.ops import Choice
from ..config import SamplingConfig
from ..portable import stream_key


def choice_of(config: SamplingConfig, banned: Sequence[int] = ()) -> Choice:
    """How a configuration draws, from all symbols but those that are banned; of the types that kernels are compiled for."""
    return Choice(float(config.temperature), int(config.top_k), float(config.top_p), np.array(banned, np.int64))


def uniform(seeds: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The random numbers (N) in [0, 1) for the symbols at these positions (N) of texts with these seeds (N), uint64.

    It is the top 53 bits of :func:`~numba_rnnlm.portable.stream_key` (seed, position), and depends on nothing else, so a text written in
    two calls equals the same text written in one.

    Examples
    --------
    >>> uniform(np.array([7, 7], np.uint64), np.array([0, 1])).round(4)
    array([0.9154, 0.3945])
    """
    return np.asarray((stream_key(seeds, positions.astype(np.uint64)) >> np.uint64(11)) / 2**53)
