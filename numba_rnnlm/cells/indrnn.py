"""Independently recurrent network (Li et al. 2018): each unit sees its own state only, through a weight u of its own.

::

    h' = relu(W x + b + u ⊙ h)

u starts between 0 and 1, so that some units remember for a step and others for hundreds.
"""

import numpy as np

from ..portable import drelu, portable, relu
from .cell import Cell


def _equations(z: np.ndarray, prev: np.ndarray, w: np.ndarray) -> np.ndarray:
    a = z + w * prev
    return np.where(a.real > 0, a, 0)


@portable
def _forward(z, prev, next, w, start, stride):
    a, h, h_prev, u = z[0], next[0], prev[0], w[0]
    for j in range(start, h.size, stride):
        h[j] = relu(a[j] + u[j] * h_prev[j])


@portable
def _backward(z, prev, next, d, w, dw, start, stride):
    a, h, h_prev, dh, u, du = z[0], next[0], prev[0], d[0], w[0], dw[0]
    for j in range(start, h.size, stride):
        a[j] = dh[j] * drelu(h[j])
        dh[j] = a[j] * u[j]
        du[j] += a[j] * h_prev[j]


INDRNN = Cell("indrnn", {"a": "x"}, ("h",), _equations, _forward, _backward, weights=("u",), initial={"u": (0, 1)})
