"""Drawing symbols from a model, one after the other, the state carried along: the cost of each is constant."""

from collections.abc import Iterator, Sequence

import numpy as np

from .config import SamplingConfig
from .model import Network
from .portable import stream_key

STEPS = 64  # of a prompt that are computed at once


def uniform(seed: int, position: int) -> float:
    """The random number in [0, 1) for the symbol at ``position`` of a text: the top 53 bits of
    :func:`~numba_rnnlm.portable.stream_key` (seed, position).

    It depends on nothing else, so a text written in two calls equals the same text written in one.
    """
    return (stream_key(seed, position) >> 11) / 2**53


def choose(logits: np.ndarray, config: SamplingConfig, number: float) -> int:
    """The id that ``number`` in [0, 1) picks from the distribution softmax(logits / temperature).

    Parameters
    ----------
    logits
        (V,); -inf is never picked.
    config
        Temperature 0 takes the largest; ``top_k`` and then ``top_p`` narrow the choice.
    number
        Uniform in [0, 1).

    Examples
    --------
    >>> choose(np.log([0.5, 0.3, 0.2]), SamplingConfig(), 0.6)
    1
    """
    logits = np.asarray(logits, np.float64)
    if config.temperature == 0:
        return int(logits.argmax())
    weights = np.exp((logits - logits.max()) / config.temperature)
    if config.top_k or config.top_p < 1:
        order = np.argsort(-logits, kind="stable")  # of equals, the first ids stay
    if config.top_k:
        weights[order[config.top_k :]] = 0
    if config.top_p < 1:
        mass = np.cumsum(weights[order])
        kept = int(np.searchsorted(mass, config.top_p * mass[-1])) + 1
        weights[order[kept:]] = 0
    mass = np.cumsum(weights)
    return int(np.searchsorted(mass, number * mass[-1], side="right"))


def generate(
    network: Network, prompt: np.ndarray, config: SamplingConfig, seed: int, banned: Sequence[int] = ()
) -> Iterator[int]:
    """Yield ``config.length`` ids that follow ``prompt`` (at least one id); those in ``banned`` are never drawn."""
    ops, state = network.ops, network.state(1)
    ids = np.asarray(prompt, np.int32).reshape(-1, 1)
    logits = None
    for start in range(0, len(ids), STEPS):
        logits = network.logits(ops.upload(ids[start : start + STEPS]), state)
    for position in range(len(ids), len(ids) + config.length):
        row = ops.download(logits)[0]
        row[list(banned)] = -np.inf
        picked = choose(row, config, uniform(seed, position))
        yield picked
        logits = network.logits(ops.upload(np.array([[picked]])), state)
