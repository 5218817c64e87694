"""Gated recurrent unit (Cho et al. 2014) with the reset gate applied after the product, as in cuDNN.

::

    r, u = σ(W x + U h + b)         m = U h + b_m        n = tanh(W x + b_n + r ⊙ m)
    h' = (1 - u) ⊙ n + u ⊙ h

PyTorch calls u "z"; Keras's default (``reset_after=True``) is the same cell. Slots in the order m r u n:
those that see the state come first, those that see the input last.
"""

import numpy as np

from ..portable import dsigmoid, dtanh, portable, sigmoid, tanh
from .cell import Cell


def _equations(z: np.ndarray, prev: np.ndarray) -> np.ndarray:
    m, r, u, n = z
    (h,) = prev
    r, u = 0.5 * np.tanh(0.5 * r) + 0.5, 0.5 * np.tanh(0.5 * u) + 0.5
    return np.stack([(1 - u) * np.tanh(n + r * m) + u * h])


@portable
def _forward(z, prev, next, start, stride):
    m, r, u, n = z[0], z[1], z[2], z[3]
    h, h_prev = next[0], prev[0]
    for j in range(start, h.size, stride):
        r[j] = sigmoid(r[j])
    for j in range(start, h.size, stride):
        u[j] = sigmoid(u[j])
    for j in range(start, h.size, stride):
        n[j] = tanh(n[j] + r[j] * m[j])
    for j in range(start, h.size, stride):
        h[j] = n[j] + u[j] * (h_prev[j] - n[j])


@portable
def _backward(z, prev, next, d, start, stride):
    m, r, u, n = z[0], z[1], z[2], z[3]
    h_prev, dh = prev[0], d[0]
    for j in range(start, dh.size, stride):
        mj, rj, uj, nj, dj = m[j], r[j], u[j], n[j], dh[j]
        dn = dj * (type(uj)(1) - uj) * dtanh(nj)
        n[j] = dn
        m[j] = dn * rj
        r[j] = dn * mj * dsigmoid(rj)
        u[j] = dj * (h_prev[j] - nj) * dsigmoid(uj)
        dh[j] = dj * uj


GRU = Cell("gru", {"m": "h", "r": "xh", "u": "xh", "n": "x"}, ("h",), _equations, _forward, _backward)
