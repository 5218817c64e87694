"""The simple recurrent network (Elman 1990): h' = f(W_xh x + W_hh h + b_h), f = tanh, ReLU or sigmoid."""

import numpy as np

from ..portable import drelu, dsigmoid, dtanh, portable, relu, sigmoid, tanh
from .cell import Cell


@portable
def _tanh_forward(z, prev, next, start, stride):
    a, h = z[0], next[0]
    for j in range(start, h.size, stride):
        a[j] = tanh(a[j])
        h[j] = a[j]


@portable
def _tanh_backward(z, prev, next, d, start, stride):
    a, dh = z[0], d[0]
    for j in range(start, dh.size, stride):
        a[j] = dh[j] * dtanh(a[j])
        dh[j] = type(dh[j])(0)


@portable
def _relu_forward(z, prev, next, start, stride):
    a, h = z[0], next[0]
    for j in range(start, h.size, stride):
        a[j] = relu(a[j])
        h[j] = a[j]


@portable
def _relu_backward(z, prev, next, d, start, stride):
    a, dh = z[0], d[0]
    for j in range(start, dh.size, stride):
        a[j] = dh[j] * drelu(a[j])
        dh[j] = type(dh[j])(0)


@portable
def _sigmoid_forward(z, prev, next, start, stride):
    a, h = z[0], next[0]
    for j in range(start, h.size, stride):
        a[j] = sigmoid(a[j])
        h[j] = a[j]


@portable
def _sigmoid_backward(z, prev, next, d, start, stride):
    a, dh = z[0], d[0]
    for j in range(start, dh.size, stride):
        a[j] = dh[j] * dsigmoid(a[j])
        dh[j] = type(dh[j])(0)


TANH = Cell(
    "tanh", {"a": "xh"}, ("h",), lambda z, prev: np.tanh(z), _tanh_forward, _tanh_backward
)
RELU = Cell(
    "relu", {"a": "xh"}, ("h",), lambda z, prev: np.where(z.real > 0, z, 0), _relu_forward, _relu_backward
)
SIGMOID = Cell(
    "sigmoid", {"a": "xh"}, ("h",), lambda z, prev: 0.5 * np.tanh(0.5 * z) + 0.5, _sigmoid_forward, _sigmoid_backward
)
