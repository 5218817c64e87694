"""The simple recurrent network (Elman 1990): h' = f(W_xh x + W_hh h + b_h), f = tanh, ReLU or sigmoid."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ..portable import drelu, dsigmoid, dtanh, portable, relu, sigmoid, tanh
from .cell import Cell


def _simple(name: str, f: Any, df: Any, equation: Callable[[np.ndarray], np.ndarray]) -> Cell:
    """A cell with activation f; its derivative df is a function of f's output."""

    @portable
    def forward(z, prev, next, start, stride):
        a, h = z[0], next[0]
        for j in range(start, h.size, stride):
            a[j] = f(a[j])
            h[j] = a[j]

    @portable
    def backward(z, prev, next, d, start, stride):
        a, dh = z[0], d[0]
        for j in range(start, dh.size, stride):
            a[j] = dh[j] * df(a[j])
            dh[j] = type(dh[j])(0)

    return Cell(name, {"a": "xh"}, ("h",), lambda z, prev: equation(z), forward, backward)


TANH = _simple("tanh", tanh, dtanh, np.tanh)
RELU = _simple("relu", relu, drelu, lambda z: np.where(z.real > 0, z, 0))
SIGMOID = _simple("sigmoid", sigmoid, dsigmoid, lambda z: 0.5 * np.tanh(0.5 * z) + 0.5)
