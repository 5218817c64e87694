"""Pooling over time: a thread for each element, so that no sum depends on which thread comes first."""

import numpy as np

from .device import cuda, divided
from .launch import FLOATS, INT, kernel

CHAIN = 32  # steps that are added in one chain; the chains' sums form a second one


@kernel(FLOATS, INT, FLOATS, INT, INT, INT, INT, INT, INT)
def pool(x, steps, out, columns, mean, size, stride, before, elements):
    """out[t] ← the mean or the largest of x[t·stride - before], …, ``size`` steps of ``columns`` elements; 0 where there is none."""
    for e in range(cuda.grid(1), elements, cuda.gridsize(1)):
        t, column = divided(e, columns)
        first = max(t * stride - before, 0)
        last = min(t * stride - before + size, steps)
        found = np.float32(0)
        if mean:
            for begin in range(first, last, CHAIN):
                chain = np.float32(0)
                for s in range(begin, min(begin + CHAIN, last)):
                    chain += x[np.int64(s) * columns + column]
                found += chain
            found = found / np.float32(max(last - first, 1))
        else:
            for s in range(first, last):
                value = x[np.int64(s) * columns + column]
                if s == first or value > found or value != value:  # NaN wins
                    found = value
        out[e] = found


@kernel(FLOATS, INT, FLOATS, INT, FLOATS, FLOATS, INT, INT, INT, INT, INT, INT)
def pool_backward(x, steps, out, outputs, dout, dx, columns, mean, size, stride, before, elements):
    """dx ← gradient of x: each element adds up what the steps of the output that see it give to it."""
    for e in range(cuda.grid(1), elements, cuda.gridsize(1)):
        s, column = divided(e, columns)
        value = x[e]
        total = np.float32(0)
        end = min((s + before) // stride + 1, outputs)
        for t in range(max(s + before - size + stride, 0) // stride, end):
            first = max(t * stride - before, 0)
            last = min(t * stride - before + size, steps)
            at = np.int64(t) * columns + column
            if mean:
                total += dout[at] / np.float32(last - first)
            elif value == out[at] or value != value:
                earlier = first
                while earlier < s:  # the gradient goes to the first step that has the maximum
                    other = x[np.int64(earlier) * columns + column]
                    if other == out[at] or other != other:
                        break
                    earlier += 1
                if earlier == s:
                    total += dout[at]
        dx[e] = total
