"""Simple recurrent unit (Lei et al. 2018, "Simple recurrent units for highly parallelizable recurrence").

::

    f, r = σ(W x + v ⊙ c + b)      n = W x + b
    c' = f ⊙ c + (1 - f) ⊙ n       h' = r ⊙ c' + (1 - r) ⊙ x

The x of the highway connection is the input itself if it has as many features as the layer has units, otherwise W x + b.
"""

import numpy as np

from ..portable import dsigmoid, portable, sigmoid
from .cell import Cell


def _equations(z: np.ndarray, prev: np.ndarray, w: np.ndarray) -> np.ndarray:
    n, f, r, x = z
    _, c = prev
    f, r = 0.5 * np.tanh(0.5 * (f + w[0] * c)) + 0.5, 0.5 * np.tanh(0.5 * (r + w[1] * c)) + 0.5
    c = f * c + (1 - f) * n
    return np.stack([r * c + (1 - r) * x, c])


@portable
def _forward(z, prev, next, w, start, stride):
    n, f, r, x = z[0], z[1], z[2], z[3]
    h, c, c_prev, v_f, v_r = next[0], next[1], prev[1], w[0], w[1]
    for j in range(start, h.size, stride):
        f[j] = sigmoid(f[j] + v_f[j] * c_prev[j])
    for j in range(start, h.size, stride):
        r[j] = sigmoid(r[j] + v_r[j] * c_prev[j])
    for j in range(start, h.size, stride):
        c[j] = n[j] + f[j] * (c_prev[j] - n[j])
    for j in range(start, h.size, stride):
        h[j] = x[j] + r[j] * (c[j] - x[j])


@portable
def _backward(z, prev, next, d, w, dw, start, stride):
    n, f, r, x = z[0], z[1], z[2], z[3]
    c, c_prev, dh, dc = next[1], prev[1], d[0], d[1]
    v_f, v_r, dv_f, dv_r = w[0], w[1], dw[0], dw[1]
    for j in range(start, dh.size, stride):
        rj, dj = r[j], dh[j]
        r[j] = dj * (c[j] - x[j]) * dsigmoid(rj)
        x[j] = dj * (type(rj)(1) - rj)
        dc[j] += dj * rj
        dh[j] = type(dj)(0)
    for j in range(start, dh.size, stride):
        fj, dj = f[j], dc[j]
        f[j] = dj * (c_prev[j] - n[j]) * dsigmoid(fj)
        n[j] = dj * (type(fj)(1) - fj)
        dc[j] = dj * fj + f[j] * v_f[j] + r[j] * v_r[j]
    for j in range(start, dh.size, stride):
        dv_f[j] += f[j] * c_prev[j]
        dv_r[j] += r[j] * c_prev[j]


SRU = Cell("sru", {"n": "x", "f": "x", "r": "x", "x": "="}, ("h", "c"), _equations, _forward, _backward, weights=("v_f", "v_r"))
