"""Packs the factors of a product for the register tile: B into panels, and both into bfloat16 if they are rounded.

Two bfloat16 factors that are neighbours in k share one int32. Kernels recognise rounded factors by a packed B of type int32.
"""

import numpy as np
from numba import types
from numba.extending import overload

from ...portable import portable
from .kernels import kernel
from .simd import VECTORS, lanes, prefetch, transpose
from .team import parallel

AHEAD = 8  # prefetch distance, in lines of B
TURNED = 32  # steps transposed at once before they are paired


@portable
def _bfloat16(x):
    """The upper half of a float32, rounded to nearest, ties to even, as a uint32. NaN stays NaN."""
    bits = np.float32(x).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.uint32(0x7FC0) if (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000) else rounded


@portable
def _pair(first, second):
    """Two neighbouring factors in k, rounded to bfloat16, in one int32."""
    return np.uint32(_bfloat16(first) | (_bfloat16(second) << np.uint32(16))).view(np.int32)


# Inner loops run over slices from zero: Numba wraps negative indices around, and a loop with that check does not vectorise.


@kernel
def _pair_neighbours(source, k, out):
    """out[s] = the pair source[2 s], source[2 s + 1], padded with zero if k is odd."""
    for s in range(k // 2):
        out[s] = _pair(source[2 * s], source[2 * s + 1])
    if k % 2:
        out[k // 2] = np.int32(_bfloat16(source[k - 1]))


@kernel
def _pair_lines(a, first, distance, n, out):
    """out[j] = the pair a[first + j], a[first + distance + j]; if distance is 0, the second is zero."""
    lower = a[first : first + n]
    if distance:
        upper = a[first + distance : first + distance + n]
        for j in range(n):
            out[j] = _pair(lower[j], upper[j])
    else:
        for j in range(n):
            out[j] = np.int32(_bfloat16(lower[j]))


def paired(packed):
    """Whether the array holds pairs of bfloat16."""
    return packed.dtype == np.int32


@overload(paired, inline="always")
def _paired(packed):
    return (lambda packed: True) if packed.dtype == types.int32 else (lambda packed: False)


@kernel
def lines(k, packed):
    """Lines of a panel for k steps."""
    return (k + 1) // 2 if paired(packed) else k


def factors(a, ia, row_stride, step_stride, m, k, packed, scratch):
    """A in the form the tile reads: (array, offset, row_stride, step_stride, steps). Pairs go to ``scratch``."""
    if paired(packed):
        return _paired_factors(a, ia, row_stride, step_stride, m, k, scratch)
    return a, ia, row_stride, step_stride, k


@overload(factors, inline="always")
def _factors(a, ia, row_stride, step_stride, m, k, packed, scratch):
    if packed.dtype == types.int32:
        return lambda a, ia, row_stride, step_stride, m, k, packed, scratch: _paired_factors(
            a, ia, row_stride, step_stride, m, k, scratch)
    return lambda a, ia, row_stride, step_stride, m, k, packed, scratch: (a, ia, row_stride, step_stride, k)


@kernel
def _paired_factors(a, ia, row_stride, step_stride, m, k, scratch):
    steps = (k + 1) // 2
    if step_stride == 1:
        for i in range(m):
            _pair_neighbours(a[ia + i * row_stride : ia + i * row_stride + k], k, scratch[i * steps : (i + 1) * steps])
        return scratch, 0, steps, 1, steps
    for s in range(steps):
        distance = step_stride if 2 * s + 1 < k else 0
        _pair_lines(a, ia + 2 * s * step_stride, distance, m, scratch[s * m : (s + 1) * m])
    return scratch, 0, 1, m, steps


@kernel
def _pack_lines(b, ib, step_stride, k, columns, packed, ip, panel):
    """Pack a window of columns, line by line."""
    for i in range(k):
        start = ib + i * step_stride
        for j in range(0, columns, 16):  # hardware prefetchers stop at page borders, and each line may be on another page
            prefetch(b, start + AHEAD * step_stride + j)
        source, line = b[start : start + columns], packed[ip + i * panel : ip + (i + 1) * panel]
        for j in range(columns):
            line[j] = source[j]
        for j in range(columns, panel):
            line[j] = 0


@kernel
def _pack_columns(b, ib, column_stride, k, columns, packed, ip, panel):
    """Pack a transposed matrix, in square blocks of one vector length."""
    count = lanes(packed)
    whole, steps = columns - columns % count, k - k % count
    for first in range(0, steps, count):
        for j in range(0, whole, count):
            transpose(b, ib + first + j * column_stride, column_stride, packed, ip + first * panel + j, panel)
    for j in range(columns):
        done = steps if j < whole else 0
        source = b[ib + done + j * column_stride : ib + k + j * column_stride]
        for i in range(source.size):
            packed[ip + (done + i) * panel + j] = source[i]
    for i in range(k if panel > columns else 0):
        line = packed[ip + i * panel + columns : ip + (i + 1) * panel]
        for j in range(line.size):
            line[j] = 0


@kernel
def _pack_paired_lines(b, ib, step_stride, k, columns, packed, ip, panel):
    for i in range((k + 1) // 2):
        start = ib + 2 * i * step_stride
        for j in range(0, columns, 16):
            prefetch(b, start + AHEAD * step_stride + j)
            prefetch(b, start + (AHEAD + 1) * step_stride + j)
        line = packed[ip + i * panel : ip + (i + 1) * panel]
        _pair_lines(b, start, step_stride if 2 * i + 1 < k else 0, columns, line)
        for j in range(columns, panel):
            line[j] = 0


@kernel
def _pack_paired_columns(b, ib, column_stride, k, columns, packed, ip, panel, block):
    """Transpose a few steps at a time into ``block``, which stays in L1, and pair them from there."""
    for first in range(0, k, TURNED):
        steps = min(TURNED, k - first)
        _pack_columns(b, ib + first, column_stride, steps, columns, block, 0, panel)
        for i in range((steps + 1) // 2):
            start = ip + (first // 2 + i) * panel
            distance = panel if 2 * i + 1 < steps else 0
            _pair_lines(block, 2 * i * panel, distance, panel, packed[start : start + panel])


def _pack_any(b, ib, step_stride, column_stride, k, columns, packed, ip, panel):
    if paired(packed):
        _pack_pairs(b, ib, step_stride, column_stride, k, columns, packed, ip, panel)
    else:
        _pack_floats(b, ib, step_stride, column_stride, k, columns, packed, ip, panel)


@overload(_pack_any, inline="always")
def _pack_any_of(b, ib, step_stride, column_stride, k, columns, packed, ip, panel):
    pack = _pack_pairs if packed.dtype == types.int32 else _pack_floats
    return lambda b, ib, step_stride, column_stride, k, columns, packed, ip, panel: pack(
        b, ib, step_stride, column_stride, k, columns, packed, ip, panel)


@kernel
def _pack_floats(b, ib, step_stride, column_stride, k, columns, packed, ip, panel):
    if column_stride == 1:
        _pack_lines(b, ib, step_stride, k, columns, packed, ip, panel)
    else:
        _pack_columns(b, ib, column_stride, k, columns, packed, ip, panel)


@kernel(allocates=True)
def _pack_pairs(b, ib, step_stride, column_stride, k, columns, packed, ip, panel):
    if column_stride == 1:
        _pack_paired_lines(b, ib, step_stride, k, columns, packed, ip, panel)
    else:
        block = np.empty(TURNED * panel, b.dtype)
        _pack_paired_columns(b, ib, column_stride, k, columns, packed, ip, panel, block)


@kernel(linked=True)
def pack_panel(b, ib, step_stride, column_stride, k, columns, packed, ip):
    """Copy b[:k, :columns] to packed[ip:], each line zero-padded to whole vectors; returns the vectors per line.

    One of the strides is 1. If packed is int32, two steps of k make one line of pairs.
    """
    count = lanes(packed)
    vectors = (columns + count - 1) // count
    _pack_any(b, ib, step_stride, column_stride, k, columns, packed, ip, vectors * count)
    return vectors


@parallel
def pack(part, bounds, b, ib, step_stride, column_stride, k, n, packed):
    """Pack panels [first, last) of b (k, n), each at ``panel index · lines · VECTORS · lanes`` of ``packed``."""
    first, last = bounds[part, 0], bounds[part, 1]
    width = VECTORS * lanes(packed)
    for p in range(first, last):
        columns = min(width, n - p * width)
        pack_panel(b, ib + p * width * column_stride, step_stride, column_stride, k, columns, packed,
                   p * lines(k, packed) * width)
