"""Activations, dropout, sums and products, element by element."""

import numpy as np
from numba.extending import overload

from ...portable import exp, fma, log, random_bits
from . import sums
from .kernels import kernel
from .team import parallel


@parallel
def add(part, bounds, x, out, scale):
    first, last = bounds[part, 0], bounds[part, 1]
    source, target = x[first:last], out[first:last]
    for j in range(target.size):
        target[j] = fma(scale, source[j], target[j])


@parallel
def add_columns(part, bounds, x, out, scale, begin):
    """Columns ``begin`` … of the array that has more of them."""
    width = min(x.shape[1], out.shape[1])
    read, write = begin if x.shape[1] > width else 0, begin if out.shape[1] > width else 0
    for i in range(bounds[part, 0], bounds[part, 1]):
        source, target = x[i, read : read + width], out[i, write : write + width]
        for j in range(width):
            target[j] = fma(scale, source[j], target[j])


def value(f, x):
    """An activation of one number."""
    return f.value(x)


def slope(f, x):
    """Its derivative, from the output or the input."""
    return f.slope(x)


@overload(value, inline="always")
def _value(f, x):
    function = f.row("value")
    return lambda f, x: function(x)


@overload(slope, inline="always")
def _slope(f, x):
    function = f.row("slope")
    return lambda f, x: function(x)


@parallel
def activate(part, bounds, f, x):
    first, last = bounds[part, 0], bounds[part, 1]
    part = x[first:last]
    for j in range(part.size):
        part[j] = value(f, part[j])


@parallel
def activate_backward(part, bounds, f, y, dy):
    first, last = bounds[part, 0], bounds[part, 1]
    values, gradients = y[first:last], dy[first:last]
    for j in range(values.size):
        gradients[j] *= slope(f, values[j])


@parallel
def multiply(part, bounds, x, y, out, add):
    first, last = bounds[part, 0], bounds[part, 1]
    left, right, target = x[first:last], y[first:last], out[first:last]
    if add:
        for j in range(target.size):
            target[j] = fma(left[j], right[j], target[j])
    else:
        for j in range(target.size):
            target[j] = left[j] * right[j]


@parallel
def softmax_backward(part, bounds, y, dy):
    """dy[i] ← y[i] ⊙ (dy[i] - Σ y[i] dy[i]) for rows i."""
    first, last = bounds[part, 0], bounds[part, 1]
    for i in range(first, last):
        outputs, gradients = y[i], dy[i]
        total = sums.dot(outputs, gradients)
        for j in range(outputs.size):
            gradients[j] = outputs[j] * (gradients[j] - total)


@kernel
def softmax_row(row, exponentials):
    """Logits → probabilities; ``exponentials`` is scratch of the same size."""
    peak = sums.largest(row)
    for j in range(row.size):
        row[j] -= peak  # separately from the logarithm, which next to a huge peak would be rounded away
        exponentials[j] = exp(row[j])
    rest = log(sums.total(exponentials))
    for j in range(row.size):
        row[j] = exp(row[j] - rest)


@parallel
def softmax(part, bounds, x, scratch):
    """Rows of x: logits → probabilities; scratch (parts, columns or more)."""
    for i in range(bounds[part, 0], bounds[part, 1]):
        softmax_row(x[i], scratch[part, : x.shape[1]])


@parallel
def dropout(part, bounds, x, out, key, threshold, scale):
    """out[j] = x[j] · scale, or 0 where the random number of element j is below the threshold."""
    first, last = bounds[part, 0], bounds[part, 1]
    values, part = x[first:last], out[first:last]
    for j in range(part.size):
        keep = (random_bits(key, np.uint64(first + j)) >> np.uint64(32)) >= threshold
        part[j] = values[j] * scale if keep else type(scale)(0)
