"""Matrix products of any shape and orientation, with tiles prefetched into shared memory.

There are two inner loops: float32 on the ordinary cores, where each thread sums a square, and TF32 or bfloat16 on the tensor
cores, where each warp sums a grid of 16 × 8 fragments. A small result with a long inner dimension is split along that dimension, and
the partial products are added in a fixed order: equal bits in every run. In float32, an inner dimension that exceeds the longest
allowed chains of all parts is multiplied in pieces, one launch each.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from .arrays import DeviceArray
from .device import cuda, divided, inline
from .intrinsics import (
    add_products,
    bf16,
    commit,
    copy1,
    copy2,
    copy4,
    mma_bf16,
    mma_tf32,
    near,
    near4,
    put,
    tf32,
    wait_copies,
)
from .launch import FLOATS, INT, LONG, THREADS, Kernel, blocks, kernel, processors, shared_limit

STEPS = 32  # inner dimension of a tile; 16 in float32, whose loop body is longer
STAGES = (3, 2)  # tiles in shared memory: one in use and two being copied, or one if a block has less memory
BATCH = 8  # elements of the result that a thread reads before it writes them
LEAST = 4 * STEPS  # smallest part of the inner dimension worth splitting off
LONGEST = 64 * STEPS  # longest chain of float32 sums, because longer chains lose more precision
MOST = 65_535  # CUDA's limit on the grid's y dimension

TAKES = (FLOATS, LONG, INT, FLOATS, LONG, INT, FLOATS, LONG, INT, INT, INT, INT, INT, FLOATS, INT)


class Matrix(NamedTuple):
    """A 2-D view: element (i, j) is ``data[offset + i * stride + j]``, with i and j exchanged if ``transposed``."""

    data: DeviceArray
    offset: int
    rows: int
    columns: int
    stride: int
    transposed: bool = False

    @property
    def T(self) -> "Matrix":
        return Matrix(self.data, self.offset, self.columns, self.rows, self.stride, not self.transposed)

    def part(self, first: int, last: int) -> "Matrix":
        """Rows first … last - 1."""
        return self._replace(offset=self.offset + first * (1 if self.transposed else self.stride), rows=last - first)

    def columns_part(self, first: int, last: int) -> "Matrix":
        """Columns first … last - 1."""
        return self.T.part(first, last).T

    @property
    def width(self) -> int:
        """How many neighbours can be copied at once, given the alignment of rows."""
        start = self.stride | (self.data.address // 4 + self.offset)
        return 4 if start % 4 == 0 else 2 if start % 2 == 0 else 1


def matrix(array: DeviceArray, first: int = 0, columns: int | None = None) -> Matrix:
    """The last axis of a contiguous ``array`` as columns, the others as rows; or a window of the columns."""
    width = array.shape[-1]
    return Matrix(array, first, array.size // width, width if columns is None else columns, width)


@inline
def _between(value, most):
    return min(max(value, 0), most)


def _tile_loader(rows, columns, stride, threads, width, turned):
    """A function that starts copying a window of a matrix to shared memory, with zeros outside the matrix.

    Each copy moves ``width`` neighbours in memory. With ``turned``, the tile is transposed.
    """
    width = 1 if turned else width
    across = columns // width  # copies of one row
    down = threads // across  # rows that the block copies at once
    rounds = rows // down

    @inline
    def load(shared, base, x, x0, ld, row, column, last_row, last_column):
        r, c = cuda.threadIdx.x // across, cuda.threadIdx.x % across * width
        count = _between(last_column - column - c, width)
        source = x0 + np.int64(row + r) * ld + column + c
        target = base + (c * stride + r if turned else r * stride + c)
        for i in range(rounds):
            n = count if row + r + i * down < last_row else 0
            if width == 4:
                copy4(shared, target, x, source, n)
            elif width == 2:
                copy2(shared, target, x, source, n)
            else:
                copy1(shared, target, x, source, n)
            source += down * ld
            target += down if turned else down * stride

    return load


def _pair_loader(load_a, load_b, turned_a, turned_b, steps, stages, stage, size_a):
    """A function that starts copying tile ``t`` of A and of B."""

    @inline
    def start(shared, t, a, a0, lda, b, b0, ldb, row, column, first, m, n, last):
        step, base = first + t * steps, t % stages * stage
        if turned_a:
            load_a(shared, base, a, a0, lda, step, row, last, m)
        else:
            load_a(shared, base, a, a0, lda, row, step, m, last)
        if turned_b:
            load_b(shared, base + size_a, b, b0, ldb, column, step, n, last)
        else:
            load_b(shared, base + size_a, b, b0, ldb, step, column, last, n)

    return start


def _tile_writer(size, stride, threads):
    """A function that sets c, or adds to it, from the square of sums in shared memory, plus the bias. Partial products follow each other."""

    down = threads // size  # rows that the block writes at once
    rounds = size // (down * BATCH)

    @inline
    def store(shared, c, c0, ldc, row, column, m, n, bias, keep):
        old = cuda.local.array(BATCH, np.float32)
        first, x = cuda.threadIdx.x // size, cuda.threadIdx.x % size
        base = c0 + np.int64(cuda.blockIdx.z) * m * n + column + x  # z is the part
        inside = column + x < n
        plus = bias[column + x] if bias.size and inside else np.float32(0)
        for i in range(rounds):
            y = first + i * BATCH * down
            for j in range(BATCH):  # issue all loads before the first store
                old[j] = plus
                if keep and inside and row + y + j * down < m:
                    old[j] += c[base + np.int64(row + y + j * down) * ldc]
            for j in range(BATCH):
                if inside and row + y + j * down < m:
                    c[base + np.int64(row + y + j * down) * ldc] = near(shared, (y + j * down) * stride + x) + old[j]

    return store


class Product(Kernel):
    """A kernel that computes squares of ``size`` × ``size`` with blocks of ``threads`` threads."""

    def __init__(self, function: Any, threads: int, size: int, shared: int) -> None:
        super().__init__(function, TAKES)
        self.threads, self.size, self.shared = threads, size, shared


@cache
def tensor_product(precision: str, turned_a: bool, turned_b: bool, wide: bool, width: int, stages: int) -> Product:
    """C (m, n) ← or += A (m, k) B (k, n) on the tensor cores; see :func:`multiply`."""
    brain = precision == "bf16"
    mma = mma_bf16 if brain else mma_tf32
    size = 128 if wide else 64  # of the square of C that a block computes
    across = 4 if wide else 2  # warps side by side; there are two rows of them
    warps = 2 * across
    row_tiles, column_tiles = size // 32, size // across // 8
    threads = 32 * warps
    # Tiles have the same orientation in shared memory as in memory: k runs along rows or across them.
    along, over = STEPS + 4, size + 8
    stride_a, stride_b = (over if turned_a else along), (along if turned_b else over)
    size_a, size_b = (STEPS * over if turned_a else size * along), (size * along if turned_b else STEPS * over)
    stage = size_a + size_b
    load_a = _tile_loader(STEPS if turned_a else size, size if turned_a else STEPS, stride_a, threads, width, False)
    load_b = _tile_loader(size if turned_b else STEPS, STEPS if turned_b else size, stride_b, threads, width, False)
    start = _pair_loader(load_a, load_b, turned_a, turned_b, STEPS, stages, stage, size_a)
    store = _tile_writer(size, over, threads)

    def product(a, a0, lda, b, b0, ldb, c, c0, ldc, m, n, k, chunk, bias, keep):
        shared = cuda.shared.array(0, np.float32, alignment=16)
        sums = cuda.local.array((row_tiles, column_tiles, 4), np.float32)
        fa = cuda.local.array((row_tiles, 8), np.uint32)
        fb = cuda.local.array((column_tiles, 4), np.uint32)
        warp, lane = cuda.threadIdx.x // 32, cuda.threadIdx.x % 32
        g, q = lane // 4, lane % 4
        row, column = cuda.blockIdx.y * size, cuda.blockIdx.x * size
        first = cuda.blockIdx.z * chunk
        last = min(k, first + chunk)
        tiles = (last - first + STEPS - 1) // STEPS
        my_row, my_column = warp // across * (16 * row_tiles), warp % across * (8 * column_tiles)
        for i in range(row_tiles):
            for j in range(column_tiles):
                for k4 in range(4):
                    sums[i, j, k4] = np.float32(0)
        for t in range(stages - 1):
            if t < tiles:
                start(shared, t, a, a0, lda, b, b0, ldb, row, column, first, m, n, last)
            commit()
        for t in range(tiles):
            wait_copies(stages - 2)
            cuda.syncthreads()
            if t + stages - 1 < tiles:
                start(shared, t + stages - 1, a, a0, lda, b, b0, ldb, row, column, first, m, n, last)
            commit()
            base = t % stages * stage
            # Any assignment of k to lanes works if it is the same for A and B; this one has no bank conflicts.
            for k16 in range(0, STEPS, 16):
                for i in range(row_tiles):
                    for half in range(2):
                        r = my_row + 16 * i + 8 * half + g
                        at = base + ((k16 + q) * stride_a + r if turned_a else r * stride_a + k16 + q)
                        next_a = 4 * stride_a if turned_a else 4
                        e, f, o, p = near(shared, at), near(shared, at + next_a), near(shared, at + 2 * next_a), near(shared, at + 3 * next_a)
                        if brain:
                            fa[i, half], fa[i, half + 2] = bf16(e, f), bf16(o, p)
                        else:
                            fa[i, half], fa[i, half + 2], fa[i, half + 4], fa[i, half + 6] = tf32(e), tf32(f), tf32(o), tf32(p)
                for j in range(column_tiles):
                    r = my_column + 8 * j + g
                    at = base + size_a + (r * stride_b + k16 + q if turned_b else (k16 + q) * stride_b + r)
                    next_b = 4 if turned_b else 4 * stride_b
                    e, f, o, p = near(shared, at), near(shared, at + next_b), near(shared, at + 2 * next_b), near(shared, at + 3 * next_b)
                    if brain:
                        fb[j, 0], fb[j, 1] = bf16(e, f), bf16(o, p)
                    else:
                        fb[j, 0], fb[j, 1], fb[j, 2], fb[j, 3] = tf32(e), tf32(f), tf32(o), tf32(p)
                for i in range(row_tiles):
                    for j in range(column_tiles):
                        d0, d1, d2, d3 = sums[i, j, 0], sums[i, j, 1], sums[i, j, 2], sums[i, j, 3]
                        d0, d1, d2, d3 = mma(fa[i, 0], fa[i, 1], fa[i, 2], fa[i, 3], fb[j, 0], fb[j, 1], d0, d1, d2, d3)
                        if not brain:
                            d0, d1, d2, d3 = mma(fa[i, 4], fa[i, 5], fa[i, 6], fa[i, 7], fb[j, 2], fb[j, 3], d0, d1, d2, d3)
                        sums[i, j, 0], sums[i, j, 1], sums[i, j, 2], sums[i, j, 3] = d0, d1, d2, d3
        cuda.syncthreads()
        for i in range(row_tiles):
            for j in range(column_tiles):
                for k4 in range(4):
                    at = (my_row + 16 * i + g + k4 // 2 * 8) * over + my_column + 8 * j + 2 * q + k4 % 2
                    put(shared, at, sums[i, j, k4])
        cuda.syncthreads()
        store(shared, c, c0, ldc, row, column, m, n, bias, keep)

    return Product(product, threads, size, 4 * max(stages * stage, size * over))


@cache
def float32_product(turned_a: bool, turned_b: bool, wide: bool, width: int, stages: int) -> Product:
    """The same in float32: every element is one chain of fused multiply-adds in the order of k."""
    size = 128 if wide else 64
    groups = size // 64  # of 4 rows and of 4 columns that a thread sums: 4 × 4 or 8 × 8
    side, steps = 4 * groups, STEPS // 2
    stride = size + 4
    stage = 2 * steps * stride
    # In shared memory k always runs across the rows, so that the factors of four sums are one access.
    load_a = _tile_loader(steps if turned_a else size, size if turned_a else steps, stride, THREADS, width, not turned_a)
    load_b = _tile_loader(size if turned_b else steps, steps if turned_b else size, stride, THREADS, width, turned_b)
    start = _pair_loader(load_a, load_b, turned_a, turned_b, steps, stages, stage, steps * stride)
    store = _tile_writer(size, stride, THREADS)

    def product(a, a0, lda, b, b0, ldb, c, c0, ldc, m, n, k, chunk, bias, keep):
        shared = cuda.shared.array(0, np.float32, alignment=16)
        sums = cuda.local.array((side, side), np.float32)
        fa = cuda.local.array(side, np.float32)
        fb = cuda.local.array(side, np.float32)
        down, right = cuda.threadIdx.x // 16 * 4, cuda.threadIdx.x % 16 * 4
        row, column = cuda.blockIdx.y * size, cuda.blockIdx.x * size
        first = cuda.blockIdx.z * chunk
        last = min(k, first + chunk)
        tiles = (last - first + steps - 1) // steps
        for i in range(side):
            for j in range(side):
                sums[i, j] = np.float32(0)
        for t in range(stages - 1):
            if t < tiles:
                start(shared, t, a, a0, lda, b, b0, ldb, row, column, first, m, n, last)
            commit()
        for t in range(tiles):
            wait_copies(stages - 2)
            cuda.syncthreads()
            if t + stages - 1 < tiles:
                start(shared, t + stages - 1, a, a0, lda, b, b0, ldb, row, column, first, m, n, last)
            commit()
            base = t % stages * stage
            for e in range(steps):
                for group in range(groups):
                    at = base + e * stride + 64 * group
                    fa[4 * group], fa[4 * group + 1], fa[4 * group + 2], fa[4 * group + 3] = near4(shared, at + down)
                    fb[4 * group], fb[4 * group + 1], fb[4 * group + 2], fb[4 * group + 3] = near4(shared, at + steps * stride + right)
                add_products(sums, fa, fb)
        cuda.syncthreads()
        for i in range(side):
            for j in range(side):
                put(shared, (i // 4 * 64 + down + i % 4) * stride + j // 4 * 64 + right + j % 4, sums[i, j])
        cuda.syncthreads()
        store(shared, c, c0, ldc, row, column, m, n, bias, keep)

    return Product(product, THREADS, size, 4 * max(stages * stage, size * stride))


@kernel(FLOATS, INT, FLOATS, LONG, INT, INT, INT, FLOATS, INT)
def add_parts(parts, count, c, c0, ldc, m, n, bias, keep):
    """c (m, n) ← or += the sum of ``count`` partial products (m, n), in their order, and the bias."""
    size = np.int64(m) * n
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        total = parts[e]
        for part in range(1, count):
            total += parts[part * size + e]
        y, x = divided(e, n)
        if bias.size:
            total += bias[x]
        at = c0 + y * ldc + x
        if keep:
            total += c[at]
        c[at] = total


@kernel(FLOATS, INT, FLOATS, INT, INT)
def set_rows(c, columns, bias, size, keep):
    """Each row of c (size / columns, columns) ← or += the bias, or zero."""
    for e in range(cuda.grid(1), size, cuda.gridsize(1)):
        value = bias[divided(e, columns)[1]] if bias.size else np.float32(0)
        c[e] = c[e] + value if keep else value


COLUMNS, LANES = 32, 32  # shape of a block that sums columns; each lane adds every 32nd row
CHAIN = 32  # rows that a lane adds in one chain; the chains' sums form a second one
PADDED = COLUMNS + 1


@kernel(FLOATS, INT, INT, FLOATS, INT)
def add_rows(c, rows, columns, total, keep):
    """total (columns) ← or += the sum of the rows of c (rows, columns), in a fixed order."""
    sums = cuda.shared.array((LANES, PADDED), np.float32)
    x, y = cuda.threadIdx.x % COLUMNS, cuda.threadIdx.x // COLUMNS
    column = cuda.blockIdx.x * COLUMNS + x
    own = np.float32(0)
    if column < columns:
        for first in range(y, rows, CHAIN * LANES):
            chain = np.float32(0)
            for row in range(first, min(rows, first + CHAIN * LANES), LANES):
                chain += c[np.int64(row) * columns + column]
            own += chain
    sums[y, x] = own
    cuda.syncthreads()
    if y == 0 and column < columns:
        own = sums[0, x]
        for lane in range(1, LANES):
            own += sums[lane, x]
        total[column] = own + total[column] if keep else own


@cache
def nothing() -> DeviceArray:
    """The empty array that kernels receive for an optional argument."""
    return DeviceArray.new((0,), np.dtype(np.float32))


def pick(precision: str, a: Matrix, b: Matrix, wide: bool) -> Product:
    """The kernel for these orientations, with as many stages as fit into shared memory. Their number does not change the bits."""
    width = min(a.width, b.width)
    if precision == "float32" and b.transposed and not a.transposed:
        width = 1  # both are transposed during the copy, element by element
    for stages in STAGES:
        kind = (a.transposed, b.transposed, wide, width, stages)
        product = float32_product(*kind) if precision == "float32" else tensor_product(precision, *kind)
        if product.shared <= shared_limit():
            break
    return product


def multiply(
    precision: str, workspace: Callable[[int], DeviceArray], a: Matrix, b: Matrix, c: Matrix, keep: bool, bias: DeviceArray | None = None
) -> None:
    """c (m, n) ← a (m, k) b (k, n) plus the bias (n), plus the old c if ``keep``.

    ``workspace(size)`` returns a buffer for partial products.
    """
    m, k, n = a.rows, a.columns, b.columns
    if m == 0 or n == 0:
        return
    wide = -(-m // 128) * -(-n // 128) * 4 >= 3 * processors()
    product = pick(precision, a, b, wide)
    size = product.size
    down, right = -(-m // size), -(-n // size)
    if down > MOST:
        half = down // 2 * size
        for first, last in ((0, half), (half, m)):
            multiply(precision, workspace, a.part(first, last), b, c.part(first, last), keep, bias)
        return
    parts = max(1, min(processors() // (down * right), k // LEAST))
    longest = parts * LONGEST
    if precision == "float32" and k > longest:
        for first in range(0, k, longest):
            last = min(k, first + longest)
            multiply(precision, workspace, a.columns_part(first, last), b.part(first, last), c, keep or first > 0, bias if first == 0 else None)
        return
    chunk = -(-k // (parts * STEPS)) * STEPS
    parts = max(1, -(-k // chunk)) if k else 1
    none = nothing()
    bias = none if bias is None else bias
    operands = (a.data, a.offset, a.stride, b.data, b.offset, b.stride)
    launch = (right, down, parts), product.threads
    shared = product.shared
    if parts == 1:
        product(*launch, *operands, c.data, c.offset, c.stride, m, n, k, chunk, bias, keep, shared=shared)
        return
    room = workspace(parts * m * n)
    product(*launch, *operands, room, 0, n, m, n, k, chunk, none, False, shared=shared)
    add_parts(blocks(m * n), THREADS, room, parts, c.data, c.offset, c.stride, m, n, bias, keep)
