"""Rows with zero mean and unit variance, or unit mean square. Each row is processed by a warp or a block."""

from functools import cache
from math import sqrt

import numpy as np

from .device import cuda
from .launch import FLOAT, FLOATS, INT, Kernel, kernel
from .linear import CHAIN, COLUMNS, LANES, PADDED
from .losses import WARPS, plus, reduction


@cache
def normalize(width: int) -> Kernel:
    """Rows of x; see :meth:`numba_rnnlm.backends.ops.Ops.normalize`. Empty gain or offset: there is none."""
    total = reduction(width, plus)

    def normalized(x, gain, offset, epsilon, centred, out, stats, rows, columns):
        shared = cuda.shared.array(WARPS, np.float32)
        row, lane = cuda.grid(1) // width, cuda.threadIdx.x % width
        inside = row < rows  # lanes outside must take part in the reductions too
        row = min(row, rows - 1)
        base = np.int64(row) * columns
        mean = np.float32(0)
        if centred:
            for j in range(lane, columns, width):
                mean += x[base + j]
            mean = total(mean, shared) / np.float32(columns)
        square = np.float32(0)
        for j in range(lane, columns, width):
            square += (x[base + j] - mean) * (x[base + j] - mean)
        scale = np.float32(1) / np.float32(sqrt(total(square, shared) / np.float32(columns) + epsilon))
        if inside:
            if lane == 0:
                stats[2 * row] = mean
                stats[2 * row + 1] = scale
            for j in range(lane, columns, width):
                y = (x[base + j] - mean) * scale
                if gain.size:
                    y *= gain[j]
                if offset.size:
                    y += offset[j]
                out[base + j] = y

    return Kernel(normalized, (FLOATS, FLOATS, FLOATS, FLOAT, INT, FLOATS, FLOATS, INT, INT))


@cache
def normalize_backward(width: int) -> Kernel:
    """dx from the gradient of each row and its two means."""
    total = reduction(width, plus)

    def differentiate(x, gain, centred, stats, dout, dx, rows, columns):
        shared = cuda.shared.array(WARPS, np.float32)
        row, lane = cuda.grid(1) // width, cuda.threadIdx.x % width
        inside = row < rows
        row = min(row, rows - 1)
        base = np.int64(row) * columns
        mean, scale = stats[2 * row], stats[2 * row + 1]
        level, along = np.float32(0), np.float32(0)
        for j in range(lane, columns, width):
            slope = dout[base + j] * gain[j] if gain.size else dout[base + j]
            level += slope
            along += slope * (x[base + j] - mean) * scale
        along = total(along, shared) / np.float32(columns)
        level = total(level, shared) / np.float32(columns) if centred else np.float32(0)
        if inside:
            for j in range(lane, columns, width):
                slope = dout[base + j] * gain[j] if gain.size else dout[base + j]
                dx[base + j] = scale * (slope - level - (x[base + j] - mean) * scale * along)

    return Kernel(differentiate, (FLOATS, FLOATS, INT, FLOATS, FLOATS, FLOATS, INT, INT))


@kernel(FLOATS, FLOATS, FLOATS, INT, INT, FLOATS, FLOATS, INT)
def gradients(x, stats, dout, rows, columns, dgain, doffset, keep):
    """dgain and doffset (columns) ← or += sums over rows, in a fixed order. An empty one is not computed."""
    gains = cuda.shared.array((LANES, PADDED), np.float32)
    offsets = cuda.shared.array((LANES, PADDED), np.float32)  # on a line of its own: the simulator identifies shared arrays by their lines
    lane, y = cuda.threadIdx.x % COLUMNS, cuda.threadIdx.x // COLUMNS
    column = cuda.blockIdx.x * COLUMNS + lane
    gain, offset = np.float32(0), np.float32(0)
    if column < columns:
        for first in range(y, rows, CHAIN * LANES):
            gain_chain, offset_chain = np.float32(0), np.float32(0)
            for row in range(first, min(rows, first + CHAIN * LANES), LANES):
                dy = dout[np.int64(row) * columns + column]
                gain_chain += dy * (x[np.int64(row) * columns + column] - stats[2 * row]) * stats[2 * row + 1]
                offset_chain += dy
            gain += gain_chain
            offset += offset_chain
    gains[y, lane], offsets[y, lane] = gain, offset
    cuda.syncthreads()
    if y == 0 and column < columns:
        gain, offset = gains[0, lane], offsets[0, lane]
        for other in range(1, LANES):
            gain += gains[other, lane]
            offset += offsets[other, lane]
        if dgain.size:
            dgain[column] = gain + dgain[column] if keep else gain
        if doffset.size:
            doffset[column] = offset + doffset[column] if keep else offset
