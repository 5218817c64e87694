"""Long short-term memory (Hochreiter and Schmidhuber 1997), with the forget gate of Gers, Schmidhuber and Cummins (2000).

::

    i, f, o = σ(W x + U h + b)      g = tanh(W x + U h + b)
    c' = f ⊙ c + i ⊙ g              h' = o ⊙ tanh(c')

Slots in the order i f g o, as in PyTorch, cuDNN and Keras.
"""

import numpy as np

from ..portable import dsigmoid, dtanh, portable, sigmoid, tanh
from .cell import Cell


def _equations(z: np.ndarray, prev: np.ndarray) -> np.ndarray:
    i, f, g, o = z
    _, c = prev
    c = _logistic(f) * c + _logistic(i) * np.tanh(g)
    return np.stack([_logistic(o) * np.tanh(c), c])


def _logistic(z: np.ndarray) -> np.ndarray:
    return 0.5 * np.tanh(0.5 * z) + 0.5


@portable
def _forward(z, prev, next, start, stride):
    # One short loop per gate, because a single long loop does not vectorise.
    i, f, g, o = z[0], z[1], z[2], z[3]
    h, c, c_prev = next[0], next[1], prev[1]
    for j in range(start, h.size, stride):
        i[j] = sigmoid(i[j])
    for j in range(start, h.size, stride):
        f[j] = sigmoid(f[j])
    for j in range(start, h.size, stride):
        g[j] = tanh(g[j])
    for j in range(start, h.size, stride):
        o[j] = sigmoid(o[j])
    for j in range(start, h.size, stride):
        c[j] = f[j] * c_prev[j] + i[j] * g[j]
    for j in range(start, h.size, stride):
        h[j] = o[j] * tanh(c[j])


@portable
def _backward(z, prev, next, d, start, stride):
    i, f, g, o = z[0], z[1], z[2], z[3]
    c, c_prev, dh, dc = next[1], prev[1], d[0], d[1]
    for j in range(start, dh.size, stride):
        y = tanh(c[j])
        dc[j] += dh[j] * o[j] * dtanh(y)
        o[j] = dh[j] * y * dsigmoid(o[j])
        dh[j] = type(y)(0)
    for j in range(start, dh.size, stride):
        ij, fj, gj = i[j], f[j], g[j]
        i[j] = dc[j] * gj * dsigmoid(ij)
        f[j] = dc[j] * c_prev[j] * dsigmoid(fj)
        g[j] = dc[j] * ij * dtanh(gj)
        dc[j] = dc[j] * fj


LSTM = Cell(
    "lstm", {"i": "xh", "f": "xh", "g": "xh", "o": "xh"}, ("h", "c"), _equations, _forward, _backward
)
