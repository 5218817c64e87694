"""Activations, dropout, sums, products and copies, element by element."""

from functools import cache

import numpy as np

from ...activations import POINTWISE
from ...portable import fma, random_bits
from .device import cuda, divided
from .launch import FLOAT, FLOATS, INT, KEY, LONG, Kernel, kernel


@cache
def activation(name: str) -> Kernel:
    """x ← activation(x)"""
    f = POINTWISE[name].value

    def activate(x, size):
        for j in range(cuda.grid(1), size, cuda.gridsize(1)):
            x[j] = f(x[j])

    return Kernel(activate, (FLOATS, LONG))


@cache
def derivative(name: str) -> Kernel:
    """dy ← dy · activation'(x), from y or from x"""
    df = POINTWISE[name].slope

    def differentiate(y, dy, size):
        for j in range(cuda.grid(1), size, cuda.gridsize(1)):
            dy[j] *= df(y[j])

    return Kernel(differentiate, (FLOATS, FLOATS, LONG))


@kernel(FLOATS, FLOATS, FLOAT, LONG)
def add(x, out, scale, size):
    """out[j] += scale · x[j]"""
    for j in range(cuda.grid(1), size, cuda.gridsize(1)):
        out[j] = fma(scale, x[j], out[j])


@kernel(FLOATS, FLOATS, FLOATS, INT, LONG)
def multiply(x, y, out, add, size):
    """out[j] = x[j] · y[j], plus out[j] with ``add``"""
    for j in range(cuda.grid(1), size, cuda.gridsize(1)):
        out[j] = fma(x[j], y[j], out[j]) if add else x[j] * y[j]


@kernel(FLOATS, INT, FLOATS, INT, FLOAT, INT, INT)
def add_columns(x, x_columns, out, out_columns, scale, first, size):
    """Rows of x to rows of out; columns ``first`` … of the one that has more of them."""
    width = min(x_columns, out_columns)
    read, write = first if x_columns > width else 0, first if out_columns > width else 0
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        i, j = divided(e, width)
        at = i * out_columns + write + j
        out[at] = fma(scale, x[i * x_columns + read + j], out[at])


@kernel(FLOATS, FLOATS, KEY, KEY, FLOAT, LONG)
def dropout(x, out, key, threshold, scale, size):
    """out[j] = x[j] · scale, or 0 where the random number of element j is below the threshold."""
    for j in range(cuda.grid(1), size, cuda.gridsize(1)):
        keep = (random_bits(key, np.uint64(j)) >> np.uint64(32)) >= threshold
        out[j] = x[j] * scale if keep else np.float32(0)


@kernel(FLOATS, INT, INT, INT, FLOATS, INT, INT, INT, INT, INT, INT)
def copy(source, plane, row, column, out, out_plane, out_row, out_column, rows, columns, size):
    """out ← source, both (planes, rows, columns) with strides."""
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        line, k = divided(e, columns)
        i, j = divided(line, rows)
        out[i * out_plane + j * out_row + k * out_column] = source[i * plane + j * row + k * column]
