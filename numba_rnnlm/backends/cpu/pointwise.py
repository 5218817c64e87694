"""Activations of dense layers, and dropout: element by element or row by row, in place."""

import numpy as np

from ...portable import FAST, drelu, dsigmoid, dtanh, exp, random_bits, relu, sigmoid, tanh
from .kernels import kernel


@kernel
def apply_tanh(x, first, last):
    for j in range(first, last):
        x[j] = tanh(x[j])


@kernel
def apply_relu(x, first, last):
    for j in range(first, last):
        x[j] = relu(x[j])


@kernel
def apply_sigmoid(x, first, last):
    for j in range(first, last):
        x[j] = sigmoid(x[j])


@kernel
def tanh_backward(y, dy, first, last):
    for j in range(first, last):
        dy[j] *= dtanh(y[j])


@kernel
def relu_backward(y, dy, first, last):
    for j in range(first, last):
        dy[j] *= drelu(y[j])


@kernel
def sigmoid_backward(y, dy, first, last):
    for j in range(first, last):
        dy[j] *= dsigmoid(y[j])


@kernel
def softmax_backward(y, dy, first, last):
    """dy[i] ← y[i] ⊙ (dy[i] - Σ y[i] dy[i]) for rows i."""
    for i in range(first, last):
        total = y[i, 0] * dy[i, 0]
        for j in range(1, y.shape[1]):
            total += y[i, j] * dy[i, j]
        for j in range(y.shape[1]):
            dy[i, j] = y[i, j] * (dy[i, j] - total)


@kernel(fastmath=FAST | {"reassoc"})
def log_softmax(x, exponentiate, first, last):
    """Rows of x: logits → log-probabilities, or probabilities if ``exponentiate``."""
    for i in range(first, last):
        row = x[i]
        peak = row[0]
        for j in range(1, row.size):
            peak = max(peak, row[j])
        total = type(peak)(0)
        for j in range(row.size):
            total += exp(row[j] - peak)
        shift = peak + np.log(total)
        if exponentiate:
            for j in range(row.size):
                row[j] = exp(row[j] - shift)
        else:
            for j in range(row.size):
                row[j] -= shift


@kernel
def dropout(x, out, key, threshold, scale, first, last):
    """out[j] = x[j] · scale, or 0 where the random number of element j is below the threshold."""
    for j in range(first, last):
        keep = (random_bits(key, np.uint64(j)) >> np.uint64(32)) >= threshold
        out[j] = x[j] * scale if keep else type(x[j])(0)
