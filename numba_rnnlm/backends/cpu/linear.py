"""Matrix products of any shape and orientation on the register tile."""

from typing import NamedTuple

import numpy as np

from .kernels import kernel
from .simd import VECTORS, accumulate_transposed, accumulate_unpacked, lanes, multiply_panel, pack_panel
from .threads import Pool, split

STEPS = 512  # of the inner dimension that are packed at once: a panel of 128 KB stays in the second-level cache
FEW_ROWS = 4  # up to here packing B costs more than it saves
PACKING = 18  # the cost of packing one element of B, in multiply-adds of a row (measured)


class Matrix(NamedTuple):
    """A 2-D view of a contiguous array that kernels take apart: any window, either orientation.

    ``data`` is flat; element (i, j) is ``data[offset + i * row_stride + j * column_stride]``.
    """

    data: np.ndarray
    offset: int
    rows: int
    columns: int
    row_stride: int
    column_stride: int

    @property
    def T(self) -> "Matrix":
        return Matrix(self.data, self.offset, self.columns, self.rows, self.column_stride, self.row_stride)


def matrix(array: np.ndarray, first: int = 0, columns: int | None = None) -> Matrix:
    """The last axis of a contiguous ``array`` as columns, the others as rows; or a window of the columns."""
    width = array.shape[-1]
    rows = array.size // width
    return Matrix(array.reshape(-1), first, rows, width if columns is None else columns, width, 1)


@kernel
def _multiply(a, ia, row_stride, step_stride, b, ib, b_step, b_column, k, c, ic, ldc, r0, r1, c0, c1):
    """c[r0:r1, c0:c1] += a[r0:r1, :k] b[:k, c0:c1]"""
    count = lanes(c)
    width = VECTORS * count
    packed = np.empty(min(k, STEPS) * width, c.dtype)
    for first in range(0, k, STEPS):
        steps = min(STEPS, k - first)
        for j in range(c0, c1, width):
            columns = min(width, c1 - j)
            vectors = pack_panel(b, ib + first * b_step + j * b_column, b_step, b_column, steps, columns, packed, 0)
            multiply_panel(vectors, a, ia + r0 * row_stride + first * step_stride, row_stride, step_stride, r1 - r0,
                           packed, 0, steps, c, ic + r0 * ldc + j, ldc, columns - (vectors - 1) * count)


@kernel
def _multiply_unpacked(a, ia, row_stride, m, b, ib, b_step, b_column, k, c, ic, ldc, c0, c1):
    """The same for a few rows: b is read where it lies."""
    if b_column == 1:
        accumulate_unpacked(a, ia, row_stride, m, b, ib + c0, b_step, k, c1 - c0, c, ic + c0, ldc)
    else:
        accumulate_transposed(a, ia, row_stride, m, b, ib + c0 * b_column, b_column, k, c1 - c0, c, ic + c0, ldc)


def multiply(pool: Pool, a: Matrix, b: Matrix, c: Matrix) -> None:
    """c (m, n) += a (m, k) b (k, n); c's columns are contiguous."""
    m, k, n = a.rows, a.columns, b.columns
    work = m * k * n
    if m <= FEW_ROWS and a.column_stride == 1:
        pool.run(_multiply_unpacked, [
            (a.data, a.offset, a.row_stride, m, b.data, b.offset, b.row_stride, b.column_stride, k,
             c.data, c.offset, c.row_stride, first, last)
            for first, last in split(n, pool.parts(work), lanes(c.data))])
        return
    threads = pool.parts(work)
    by_rows, by_columns = split(m, threads, 1), split(n, threads, lanes(c.data))
    # Cut where the slowest thread has least to do: whole rows pack all of b, whole columns only their own.
    row_cost = (max(last - first for first, last in by_rows) + PACKING) * n
    column_cost = (m + PACKING) * max(last - first for first, last in by_columns)
    if row_cost < column_cost:
        blocks = [(first, last, 0, n) for first, last in by_rows]
    else:
        blocks = [(0, m, first, last) for first, last in by_columns]
    pool.run(_multiply, [
        (a.data, a.offset, a.row_stride, a.column_stride, b.data, b.offset, b.row_stride, b.column_stride, k,
         c.data, c.offset, c.row_stride, *block) for block in blocks])


@kernel
def set_rows(c, b, columns, r0, r1):
    """Each row of c (rows, columns) becomes b (columns)."""
    for i in range(r0, r1):
        row = c[i * columns : (i + 1) * columns]
        for j in range(columns):
            row[j] = b[j]


@kernel
def add_rows(c, rows, columns, total, c0, c1):
    """total[j] += sum of column j of c (rows, columns), for j in [c0, c1)."""
    sums = total[c0:c1]
    for i in range(rows):
        row = c[i * columns + c0 : i * columns + c1]
        for j in range(sums.size):
            sums[j] += row[j]
