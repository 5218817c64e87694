"""Losses of rows of logits; gradients overwrite the logits."""

import numpy as np

from ...portable import exp, log, log1p
from . import sums
from .team import parallel


@parallel
def softmax_cross_entropy(part, bounds, logits, targets, losses, scale, gradient):
    """losses[i] = -log softmax(logits[i])[targets[i]]; targets of -1 have zero loss and gradient.

    The logits are overwritten; with ``gradient``, by scale · (softmax(logits[i]) - onehot(targets[i])).
    """
    first, last = bounds[part, 0], bounds[part, 1]
    columns = logits.shape[1]
    for i in range(first, last):
        row, target = logits[i], targets[i]
        if target < 0:
            losses[i] = 0
            if gradient:
                for j in range(columns):
                    row[j] = 0
            continue
        peak, wanted = sums.largest(row), row[target]
        for j in range(columns):
            row[j] = exp(row[j] - peak)
        total = sums.total(row)
        if gradient:
            factor = scale / total
            for j in range(columns):
                row[j] *= factor
            row[target] -= scale
        losses[i] = log(total) + (peak - wanted)


@parallel
def sigmoid_cross_entropy(part, bounds, logits, targets, losses, scale, gradient):
    """losses[i] = mean over j of the binary cross-entropy of sigmoid(logits[i, j]) and targets[i, j].

    Computed as max(x, 0) - x t + log(1 + exp(-|x|)), which never overflows. With ``gradient``, logits
    become scale · (sigmoid(logits) - targets) / columns.
    """
    first, last = bounds[part, 0], bounds[part, 1]
    columns = logits.shape[1]
    for i in range(first, last):
        row, wanted = logits[i], targets[i]
        loss = np.float64(0)  # float32 would lose more with every column
        one, width = type(row[0])(1), type(row[0])(columns)
        for j in range(columns):
            x = row[j]
            small = exp(-abs(x))
            loss += max(x, type(x)(0)) - x * wanted[j] + log1p(small)
            if gradient:
                positive = one / (one + small)
                y = positive if x >= 0 else small * positive
                row[j] = scale * (y - wanted[j]) / width
        losses[i] = loss / columns
