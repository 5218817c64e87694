"""Activations of dense layers, and dropout: element by element or row by row, in place."""

import numpy as np

from ...portable import FAST, drelu, dsigmoid, dtanh, exp, random_bits, relu, sigmoid, tanh
from .kernels import kernel


@kernel
def apply_tanh(x, first, last):
    part = x[first:last]
    for j in range(part.size):
        part[j] = tanh(part[j])


@kernel
def apply_relu(x, first, last):
    part = x[first:last]
    for j in range(part.size):
        part[j] = relu(part[j])


@kernel
def apply_sigmoid(x, first, last):
    part = x[first:last]
    for j in range(part.size):
        part[j] = sigmoid(part[j])


@kernel
def tanh_backward(y, dy, first, last):
    outputs, gradients = y[first:last], dy[first:last]
    for j in range(outputs.size):
        gradients[j] *= dtanh(outputs[j])


@kernel
def relu_backward(y, dy, first, last):
    outputs, gradients = y[first:last], dy[first:last]
    for j in range(outputs.size):
        gradients[j] *= drelu(outputs[j])


@kernel
def sigmoid_backward(y, dy, first, last):
    outputs, gradients = y[first:last], dy[first:last]
    for j in range(outputs.size):
        gradients[j] *= dsigmoid(outputs[j])


@kernel
def softmax_backward(y, dy, first, last):
    """dy[i] ← y[i] ⊙ (dy[i] - Σ y[i] dy[i]) for rows i."""
    for i in range(first, last):
        outputs, gradients = y[i], dy[i]
        total = outputs[0] * gradients[0]
        for j in range(1, outputs.size):
            total += outputs[j] * gradients[j]
        for j in range(outputs.size):
            gradients[j] = outputs[j] * (gradients[j] - total)


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
            row[j] -= peak  # now, not with log(total): next to a huge peak that would be rounded away
            total += exp(row[j])
        rest = np.log(total)
        if exponentiate:
            for j in range(row.size):
                row[j] = exp(row[j] - rest)
        else:
            for j in range(row.size):
                row[j] -= rest


@kernel
def dropout(x, out, key, threshold, scale, first, last):
    """out[j] = x[j] · scale, or 0 where the random number of element j is below the threshold."""
    values, part = x[first:last], out[first:last]
    for j in range(part.size):
        keep = (random_bits(key, np.uint64(first + j)) >> np.uint64(32)) >= threshold
        part[j] = values[j] * scale if keep else type(scale)(0)
