"""Activations of dense layers, and dropout: element by element or row by row, in place."""

import numpy as np

from ...portable import FAST, drelu, dsigmoid, dtanh, exp, random_bits, relu, sigmoid, tanh
from .team import parallel


@parallel
def apply_tanh(part, bounds, x):
    first, last = bounds[part, 0], bounds[part, 1]
    part = x[first:last]
    for j in range(part.size):
        part[j] = tanh(part[j])


@parallel
def apply_relu(part, bounds, x):
    first, last = bounds[part, 0], bounds[part, 1]
    part = x[first:last]
    for j in range(part.size):
        part[j] = relu(part[j])


@parallel
def apply_sigmoid(part, bounds, x):
    first, last = bounds[part, 0], bounds[part, 1]
    part = x[first:last]
    for j in range(part.size):
        part[j] = sigmoid(part[j])


@parallel
def tanh_backward(part, bounds, y, dy):
    first, last = bounds[part, 0], bounds[part, 1]
    outputs, gradients = y[first:last], dy[first:last]
    for j in range(outputs.size):
        gradients[j] *= dtanh(outputs[j])


@parallel
def relu_backward(part, bounds, y, dy):
    first, last = bounds[part, 0], bounds[part, 1]
    outputs, gradients = y[first:last], dy[first:last]
    for j in range(outputs.size):
        gradients[j] *= drelu(outputs[j])


@parallel
def sigmoid_backward(part, bounds, y, dy):
    first, last = bounds[part, 0], bounds[part, 1]
    outputs, gradients = y[first:last], dy[first:last]
    for j in range(outputs.size):
        gradients[j] *= dsigmoid(outputs[j])


@parallel
def softmax_backward(part, bounds, y, dy):
    """dy[i] ← y[i] ⊙ (dy[i] - Σ y[i] dy[i]) for rows i."""
    first, last = bounds[part, 0], bounds[part, 1]
    for i in range(first, last):
        outputs, gradients = y[i], dy[i]
        total = outputs[0] * gradients[0]
        for j in range(1, outputs.size):
            total += outputs[j] * gradients[j]
        for j in range(outputs.size):
            gradients[j] = outputs[j] * (gradients[j] - total)


@parallel(fastmath=FAST | {"reassoc"})
def log_softmax(part, bounds, x, exponentiate):
    """Rows of x: logits → log-probabilities, or probabilities if ``exponentiate``."""
    first, last = bounds[part, 0], bounds[part, 1]
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


@parallel
def dropout(part, bounds, x, out, key, threshold, scale):
    """out[j] = x[j] · scale, or 0 where the random number of element j is below the threshold."""
    first, last = bounds[part, 0], bounds[part, 1]
    values, part = x[first:last], out[first:last]
    for j in range(part.size):
        keep = (random_bits(key, np.uint64(first + j)) >> np.uint64(32)) >= threshold
        part[j] = values[j] * scale if keep else type(scale)(0)
