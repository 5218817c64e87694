"""Quasi-recurrent network with fo-pooling (Bradbury et al. 2017): gates see inputs only, and the state is an average of them.

::

    n = tanh(W x + b)      f, o = σ(W x + b)
    c' = f ⊙ c + (1 - f) ⊙ n      h' = o ⊙ c'

The layer :class:`~numba_rnnlm.layers.QRNN` computes the sums from a window of inputs. In pytorch-qrnn, F is 1 - f.
"""

import numpy as np

from ..portable import dsigmoid, dtanh, portable, sigmoid, tanh
from .cell import Cell


def _equations(z: np.ndarray, prev: np.ndarray) -> np.ndarray:
    n, f, o = np.tanh(z[0]), _logistic(z[1]), _logistic(z[2])
    c = f * prev[1] + (1 - f) * n
    return np.stack([o * c, c])


def _logistic(z: np.ndarray) -> np.ndarray:
    return 0.5 * np.tanh(0.5 * z) + 0.5


@portable
def _forward(z, prev, next, start, stride):
    n, f, o = z[0], z[1], z[2]
    h, c, c_prev = next[0], next[1], prev[1]
    for j in range(start, h.size, stride):
        n[j] = tanh(n[j])
    for j in range(start, h.size, stride):
        f[j] = sigmoid(f[j])
    for j in range(start, h.size, stride):
        o[j] = sigmoid(o[j])
    for j in range(start, h.size, stride):
        c[j] = n[j] + f[j] * (c_prev[j] - n[j])
    for j in range(start, h.size, stride):
        h[j] = o[j] * c[j]


@portable
def _backward(z, prev, next, d, start, stride):
    n, f, o = z[0], z[1], z[2]
    c, c_prev, dh, dc = next[1], prev[1], d[0], d[1]
    for j in range(start, dh.size, stride):
        oj, dj = o[j], dh[j]
        o[j] = dj * c[j] * dsigmoid(oj)
        dc[j] += dj * oj
        dh[j] = type(dj)(0)
    for j in range(start, dh.size, stride):
        nj, fj, dj = n[j], f[j], dc[j]
        n[j] = dj * (type(fj)(1) - fj) * dtanh(nj)
        f[j] = dj * (c_prev[j] - nj) * dsigmoid(fj)
        dc[j] = dj * fj


QRNN = Cell("qrnn", {"n": "x", "f": "x", "o": "x"}, ("h", "c"), _equations, _forward, _backward)
