"""Minimal gated recurrent unit (Feng et al. 2024, "Were RNNs all we needed?"): neither gate nor candidate sees the state.

::

    u = σ(W x + b)      n = W x + b
    h' = (1 - u) ⊙ h + u ⊙ n
"""

import numpy as np

from ..portable import dsigmoid, portable, sigmoid
from .cell import Cell


def _equations(z: np.ndarray, prev: np.ndarray) -> np.ndarray:
    u, n = z
    u = 0.5 * np.tanh(0.5 * u) + 0.5
    return np.asarray((1 - u) * prev + u * n)


@portable
def _forward(z, prev, next, start, stride):
    u, n, h, h_prev = z[0], z[1], next[0], prev[0]
    for j in range(start, h.size, stride):
        u[j] = sigmoid(u[j])
        h[j] = h_prev[j] + u[j] * (n[j] - h_prev[j])


@portable
def _backward(z, prev, next, d, start, stride):
    u, n, h_prev, dh = z[0], z[1], prev[0], d[0]
    for j in range(start, dh.size, stride):
        uj, dj = u[j], dh[j]
        u[j] = dj * (n[j] - h_prev[j]) * dsigmoid(uj)
        n[j] = dj * uj
        dh[j] = dj * (type(uj)(1) - uj)


MINGRU = Cell("mingru", {"u": "x", "n": "x"}, ("h",), _equations, _forward, _backward)
