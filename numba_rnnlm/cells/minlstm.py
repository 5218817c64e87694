"""Minimal long short-term memory (Feng et al. 2024, "Were RNNs all we needed?"): no gate sees the state.

::

    f, i = σ(W x + b)      n = W x + b
    h' = (f ⊙ h + i ⊙ n) / (f + i)

The share of the old state, f / (f + i), is computed as σ(log f - log i): where both gates are nearly closed, the quotient would be 0 / 0.
"""

import numpy as np

from ..portable import exp_below_zero, portable, sigmoid
from .cell import Cell


def _equations(z: np.ndarray, prev: np.ndarray) -> np.ndarray:
    f, i, n = z
    keep = 0.5 * np.tanh(0.5 * (_log_sigmoid(f) - _log_sigmoid(i))) + 0.5
    return np.asarray(keep * prev + (1 - keep) * n)


def _log_sigmoid(z: np.ndarray) -> np.ndarray:
    below = np.where(z.real > 0, -z, z)
    return np.where(z.real > 0, 0, z) - np.log1p(np.exp(below))


@portable
def _shares(f, i):
    """(f, i) / (f + i) of the gates with these sums: numerators and denominator are scaled by e to the least of f, i and 0."""
    zero = type(f)(0)
    least = f if f < i else i  # comparisons rather than min(), so that NaN stays NaN
    least = zero if least > zero else least
    keep = exp_below_zero(least) + exp_below_zero(least - i)
    take = exp_below_zero(least) + exp_below_zero(least - f)
    return keep / (keep + take), take / (keep + take)


@portable
def _forward(z, prev, next, start, stride):
    f, i, n, h, h_prev = z[0], z[1], z[2], next[0], prev[0]
    for j in range(start, h.size, stride):
        keep, take = _shares(f[j], i[j])
        h[j] = keep * h_prev[j] + take * n[j]


@portable
def _backward(z, prev, next, d, start, stride):
    f, i, n, h_prev, dh = z[0], z[1], z[2], prev[0], d[0]
    for j in range(start, dh.size, stride):
        keep, take = _shares(f[j], i[j])
        dj = dh[j]
        change = dj * (h_prev[j] - n[j]) * keep * take
        f[j] = change * sigmoid(-f[j])
        i[j] = -change * sigmoid(-i[j])
        n[j] = dj * take
        dh[j] = dj * keep


MINLSTM = Cell("minlstm", {"f": "x", "i": "x", "n": "x"}, ("h",), _equations, _forward, _backward)
