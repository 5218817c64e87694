"""Sampling an id from a row of scores."""

import numpy as np

from ...portable import exp, random_bits
from . import sums
from .kernels import kernel
from .team import parallel

BLOCK = 256  # weights that _find adds or skips at once


@kernel
def uniform(seed, position):
    """The random number in [0, 1) of a position: see :func:`numba_rnnlm.decoding.choice.uniform`."""
    bits = random_bits(random_bits(np.uint64(0), np.uint64(seed)), np.uint64(position))
    return np.float64(bits >> np.uint64(11)) / np.float64(2**53)


@kernel
def _mass(weights, least):
    """(sum, count) of the weights that are at least ``least``."""
    count = 0
    for j in range(weights.size):
        count += 1 if weights[j] >= least else 0
    return sums.above(weights, least), count


@kernel
def _keep(weights, most, mass):
    """Keep the fewest largest weights that are ``most`` in number or sum to at least ``mass``; set the others to zero.

    Weights are not negative, so they have the order of their bits, and bisection over the bits finds the smallest weight to
    keep without sorting. Ties go to the lower ids.
    """
    low, high = 0, np.int64(np.float32(sums.largest(weights)).view(np.int32)) + 1  # weights >= low are enough, weights >= high are not
    while high - low > 1:
        middle = (low + high) // 2
        total, count = _mass(weights, np.int32(middle).view(np.float32))
        if total >= mass or count >= most:
            low = middle
        else:
            high = middle
    least = np.int32(low).view(np.float32)
    total, count = _mass(weights, np.int32(high).view(np.float32))
    for j in range(weights.size):
        if weights[j] == least and (total < mass and count < most):
            total += np.float64(least)
            count += 1
        elif weights[j] <= least:
            weights[j] = 0


@kernel
def _find(weights, part):
    """The first index at which the cumulative weight exceeds the fraction ``part`` of the total."""
    wanted, last = part * sums.wide_total(weights), 0
    reached = 0.0
    for first in range(0, weights.size, BLOCK):
        block = weights[first : first + BLOCK]
        total = sums.wide_total(block)
        if reached + total > wanted:
            for j in range(block.size):
                if block[j] > 0:
                    last = first + j
                    reached += np.float64(block[j])
                    if reached > wanted:
                        return last
        else:
            if total > 0:
                last = first + block.size - 1
            reached += total
    while weights[last] == 0:  # block sums round differently from the total: take the last nonzero weight
        last -= 1
    return last


@kernel(linked=True)
def choose(logits, banned, temperature, top_k, top_p, number, weights):
    """The id that ``number`` in [0, 1) picks: see :meth:`numba_rnnlm.backends.ops.Ops.choose`. weights (V) is scratch."""
    for index in banned:
        logits[index] = -np.inf
    peak = sums.largest(logits)
    if temperature == 0 or top_k == 1:
        for j in range(logits.size):
            if logits[j] == peak:
                return j
    warmth = np.float32(min(1 / temperature, 1e30))  # infinity times a difference of zero would be NaN
    for j in range(logits.size):
        weights[j] = exp((logits[j] - peak) * warmth)
    if top_k > 0 and top_k < weights.size:
        _keep(weights, top_k, np.inf)
    if top_p < 1:
        _keep(weights, weights.size + 1, top_p * sums.wide_total(weights))
    return _find(weights, number)


@parallel
def choose_rows(part, bounds, scores, ids, numbers, choice, weights):
    """Replace each -1 in ids (N) with an id drawn from scores (N, V)."""
    temperature, top_k, top_p, banned = choice
    for n in range(bounds[part, 0], bounds[part, 1]):
        if ids[n] < 0:
            ids[n] = choose(scores[n], banned, temperature, top_k, top_p, numbers[n], weights[part, : scores.shape[1]])
