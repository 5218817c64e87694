"""Matrix products of any shape and orientation on the register tile."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ...portable import fma
from .kernels import kernel
from .packing import factors, pack_panel
from .simd import VECTOR_BYTES, VECTORS, lanes, multiply_panel, prefetch
from .team import parallel
from .threads import KEPT, Pool, cut
from .workspace import Workspace

STEPS = 512  # inner dimension packed at once: a panel of 128 KB stays in L2
TALL = 120  # rows whose sums are added at once: whole tiles that stay in L1
FEW_ROWS = 4  # up to this many rows, packing B costs more than it saves
PACKING = 6  # cost of packing one element of B, in multiply-adds (measured)


class Matrix(NamedTuple):
    """A 2-D view of a contiguous array, any window in either orientation, which kernels receive as its fields.

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

    def part(self, first: int, last: int) -> "Matrix":
        """Rows first … last - 1."""
        return self._replace(offset=self.offset + first * self.row_stride, rows=last - first)


_ZEROS = {np.dtype(real): np.zeros(VECTORS * VECTOR_BYTES, real) for real in (np.float32, np.float64)}


def zeros(like: np.ndarray) -> Matrix:
    """A matrix of zeros of any size."""
    return Matrix(_ZEROS[like.dtype], 0, 0, 0, 0, 0)


def matrix(array: np.ndarray, first: int = 0, columns: int | None = None) -> Matrix:
    """The last axis of a contiguous ``array`` as columns, the others as rows; or a window of the columns."""
    width = array.shape[-1]
    rows = array.size // width
    return Matrix(array.reshape(-1), first, rows, width if columns is None else columns, width, 1)


@kernel(linked=True)
def accumulate(a, ia, row_stride, m, packed, k, n, c, ic, ldc, scratch):
    """c[:m, :n] += a[:m, :k] B, with all of B (k, n) packed by :func:`pack`; scratch as for :func:`factors`."""
    count = lanes(packed)
    width = VECTORS * count
    left, il, left_row, left_step, steps = factors(a, ia, row_stride, 1, m, k, packed, scratch)
    for p in range((n + width - 1) // width):
        columns = min(width, n - p * width)
        vectors = (columns + count - 1) // count
        start = ic + p * width
        multiply_panel(vectors, left, il, left_row, left_step, m, packed, p * steps * width, steps, c, start, ldc,
                       c, start, ldc, columns - (vectors - 1) * count)


@kernel(linked=True)
def accumulate_unpacked(a, ia, row_stride, m, b, ib, ldb, k, n, c, ic, ldc):
    """c[:m, :n] += a[:m, :k] b[:k, :n] for a few rows, where packing b would cost more than the product."""
    for i in range(m):
        row = a[ia + i * row_stride : ia + i * row_stride + k]
        out = c[ic + i * ldc : ic + i * ldc + n]
        whole = k - k % 4
        for s in range(0, whole, 4):  # four rows of b per pass over c, still one chain in the order of k
            x0, x1, x2, x3 = row[s], row[s + 1], row[s + 2], row[s + 3]
            start = ib + s * ldb
            b0, b1 = b[start : start + n], b[start + ldb : start + ldb + n]
            b2, b3 = b[start + 2 * ldb : start + 2 * ldb + n], b[start + 3 * ldb : start + 3 * ldb + n]
            for j in range(n):
                out[j] = fma(x3, b3[j], fma(x2, b2[j], fma(x1, b1[j], fma(x0, b0[j], out[j]))))
        for s in range(whole, k):
            x = row[s]
            line = b[ib + s * ldb : ib + s * ldb + n]
            for j in range(n):
                out[j] = fma(x, line[j], out[j])


@kernel(linked=True)
def accumulate_transposed(a, ia, row_stride, m, b, ib, ldb, k, n, c, ic, ldc):
    """c[:m, :n] += a[:m, :k] b[:n, :k]ᵀ for a few rows: four dot products at a time, each one chain."""
    for i in range(m):
        row = a[ia + i * row_stride : ia + i * row_stride + k]
        out = c[ic + i * ldc : ic + i * ldc + n]
        whole = n - n % 4
        for j in range(0, whole, 4):
            start = ib + j * ldb
            b0, b1 = b[start : start + k], b[start + ldb : start + ldb + k]
            b2, b3 = b[start + 2 * ldb : start + 2 * ldb + k], b[start + 3 * ldb : start + 3 * ldb + k]
            t0, t1, t2, t3 = out[j], out[j + 1], out[j + 2], out[j + 3]
            for s in range(k):
                x = row[s]
                t0 = fma(x, b0[s], t0)
                t1 = fma(x, b1[s], t1)
                t2 = fma(x, b2[s], t2)
                t3 = fma(x, b3[s], t3)
            out[j], out[j + 1], out[j + 2], out[j + 3] = t0, t1, t2, t3
        for j in range(whole, n):
            line = b[ib + j * ldb : ib + j * ldb + k]
            total = out[j]
            for s in range(k):
                total = fma(row[s], line[s], total)
            out[j] = total


@kernel
def add_product(vectors, a, ia, row_stride, step_stride, m, packed, steps, c, ic, ldc, columns, sums):
    """c[:m, :columns] += a[:m, :steps] times a packed panel. The product's sums start from zero, the last row of ``sums``."""
    count = lanes(c)
    width = VECTORS * count
    zero = TALL * width
    for first in range(0, m, TALL):
        rows = min(TALL, m - first)
        for i in range(rows):
            for j in range(0, columns, 16):  # arrives while the block is computed; each row may be on another page
                prefetch(c, ic + (first + i) * ldc + j)
        multiply_panel(vectors, a, ia + first * row_stride, row_stride, step_stride, rows, packed, 0, steps,
                       sums, zero, 0, sums, 0, width, columns - (vectors - 1) * count)
        for i in range(rows):
            start = ic + (first + i) * ldc
            line, out = sums[i * width : i * width + columns], c[start : start + columns]
            for j in range(columns):
                out[j] += line[j]


@parallel
def packed_product(part, bounds, a, ia, row_stride, step_stride, b, ib, b_step, b_column, k, d, begin, ldd, d_column,
                   c, ic, ldc, panels, pairs, sums, adds):
    """c[r0:r1, c0:c1] = d[r0:r1, c0:c1] + a[r0:r1, :k] b[:k, c0:c1], where the limits are the part's bounds.

    Each part has a row of ``panels`` for a packed panel of b, and of ``pairs`` for rounded elements of a. Sums are chains over all
    of k or, if ``sums`` is not empty, chains of STEPS that are added up. ``adds``: d is c.
    """
    r0, r1, c0, c1 = bounds[part, 0], bounds[part, 1], bounds[part, 2], bounds[part, 3]
    packed, scratch = panels[part], pairs[part]
    count = lanes(c)
    width = VECTORS * count
    ia += r0 * row_stride
    for first in range(0, max(k, 1), STEPS):
        left, il, left_row, left_step, steps = factors(
            a, ia + first * step_stride, row_stride, step_stride, r1 - r0, min(STEPS, k - first), packed, scratch)
        for j in range(c0, c1, width):
            columns = min(width, c1 - j)
            vectors = pack_panel(b, ib + first * b_step + j * b_column, b_step, b_column, min(STEPS, k - first), columns,
                                 packed, 0)
            out, mask = ic + r0 * ldc + j, columns - (vectors - 1) * count
            if sums.size and (first > 0 or adds):
                add_product(vectors, left, il, left_row, left_step, r1 - r0, packed, steps, c, out, ldc, columns, sums[part])
            elif first == 0:
                multiply_panel(vectors, left, il, left_row, left_step, r1 - r0, packed, 0, steps,
                               d, begin + r0 * ldd + j * d_column, ldd, c, out, ldc, mask)
            else:
                multiply_panel(vectors, left, il, left_row, left_step, r1 - r0, packed, 0, steps, c, out, ldc,
                               c, out, ldc, mask)


@parallel
def unpacked_product(part, bounds, a, ia, row_stride, m, b, ib, b_step, b_column, k, d, begin, ldd, d_column, c, ic, ldc):
    """The same for a few rows, without packing b. The part's bounds are columns."""
    c0, c1 = bounds[part, 0], bounds[part, 1]
    for i in range(m):
        row, start = c[ic + i * ldc + c0 : ic + i * ldc + c1], begin + i * ldd + c0 * d_column
        if d_column:
            source = d[start : start + row.size]
            for j in range(row.size):
                row[j] = source[j]
        else:
            row[:] = d[start]
    if b_column == 1:
        accumulate_unpacked(a, ia, row_stride, m, b, ib + c0, b_step, k, c1 - c0, c, ic + c0, ldc)
    else:
        accumulate_transposed(a, ia, row_stride, m, b, ib + c0 * b_column, b_column, k, c1 - c0, c, ic + c0, ldc)


def multiply(
    pool: Pool, workspace: Workspace, a: Matrix, b: Matrix, c: Matrix, d: Matrix | None = None,
    factor: np.dtype | None = None, in_blocks: bool = False,
) -> None:
    """c (m, n) = d + a (m, k) b (k, n), or c += a b without d; c's columns are contiguous.

    ``factor`` is the type that b is packed in; int32 holds pairs of bfloat16. With ``in_blocks`` a sum adds up chains of STEPS, which
    loses less precision for large k; otherwise each sum is one chain, as in every other kernel.
    """
    m, k, n = a.rows, a.columns, b.columns
    adds = d is None
    d = c if d is None else d
    in_blocks = in_blocks and (adds or k > STEPS)
    work = m * k * n
    factor = factor or c.data.dtype
    if m <= FEW_ROWS and a.column_stride == 1 and factor == c.data.dtype and not in_blocks:
        pool.run(unpacked_product, cut(n, pool.parts(work), lanes(c.data)),
                 a.data, a.offset, a.row_stride, m, b.data, b.offset, b.row_stride, b.column_stride, k,
                 d.data, d.offset, d.row_stride, d.column_stride, c.data, c.offset, c.row_stride)
        return
    bounds, rows = shares(m, n, pool.parts(work), lanes(c.data))
    rounded = factor == np.int32
    steps = (min(k, STEPS) + 1) // 2 if rounded else min(k, STEPS)
    panels = workspace.take("panels", (len(bounds), steps * VECTORS * lanes(c.data)), factor)
    pairs = workspace.take("pairs", (len(bounds), steps * rows if rounded else 0), np.int32)
    sums = workspace.take("sums", (len(bounds), (TALL + 1) * VECTORS * lanes(c.data) if in_blocks else 0), c.data.dtype)
    if in_blocks:
        sums[:, TALL * VECTORS * lanes(c.data) :] = 0
    pool.run(packed_product, bounds,
             a.data, a.offset, a.row_stride, a.column_stride, b.data, b.offset, b.row_stride, b.column_stride, k,
             d.data, d.offset, d.row_stride, d.column_stride, c.data, c.offset, c.row_stride, panels, pairs,
             sums, adds)


@lru_cache(KEPT)
def shares(m: int, n: int, threads: int, unit: int) -> tuple[np.ndarray, int]:
    """(first row, last, first column, last) of each part, and the maximum number of rows of a part: split by rows, where each part packs all
    of b, or by columns, where it packs only its own, whichever gives the slowest thread less work."""
    by_rows, by_columns = cut(m, threads, 1), cut(n, threads, unit)
    rows = int((by_rows[:, 1] - by_rows[:, 0]).max())
    row_cost = (rows + PACKING) * n
    column_cost = (m + PACKING) * (by_columns[:, 1] - by_columns[:, 0]).max()
    if row_cost < column_cost:
        return np.array([(first, last, 0, n) for first, last in by_rows]), rows
    return np.array([(0, m, first, last) for first, last in by_columns]), m


@parallel
def add_rows(part, bounds, c, rows, columns, sums, total, first, add):
    """Add column j of c (rows, columns) to sums[j], and set total[j] to it. The part's bounds are columns.

    ``sums`` (columns) are float64, one chain in the order of rows, because float32 would lose more with every row. On the ``first`` call
    they start from zero or, with ``add``, from ``total``.
    """
    c0, c1 = bounds[part, 0], bounds[part, 1]
    own, out = sums[c0:c1], total[c0:c1]
    if first:
        for j in range(own.size):
            own[j] = out[j] if add else 0
    whole = rows - rows % 4
    for i in range(0, whole, 4):  # four rows per pass over the sums
        start = i * columns + c0
        row0, row1 = c[start : start + own.size], c[start + columns : start + columns + own.size]
        start += 2 * columns
        row2, row3 = c[start : start + own.size], c[start + columns : start + columns + own.size]
        for j in range(own.size):
            own[j] = own[j] + row0[j] + row1[j] + row2[j] + row3[j]
    for i in range(whole, rows):
        row = c[i * columns + c0 : i * columns + c1]
        for j in range(own.size):
            own[j] += row[j]
    for j in range(own.size):
        out[j] = own[j]
