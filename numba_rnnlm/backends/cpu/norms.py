"""Rows with zero mean and unit variance, or unit mean square (Ba, Kiros, Hinton 2016; Zhang and Sennrich 2019)."""

from math import sqrt

from ...portable import fma
from . import sums
from .kernels import kernel
from .team import parallel

CHAIN = 64  # rows over which gradients of gain and offset are summed in one chain


@kernel
def normalize_row(row, gain, offset, epsilon, centred, y, stats):
    """One row; it stays in L1 from its mean to its result. Empty gain or offset: there is none."""
    size, zero, one = type(epsilon)(row.size), type(epsilon)(0), type(epsilon)(1)
    mean = sums.total(row) / size if centred else zero
    scale = one / type(epsilon)(sqrt(sums.spread(row, mean) / size + epsilon))
    stats[0], stats[1] = mean, scale
    if gain.size and offset.size:
        for j in range(row.size):
            y[j] = fma((row[j] - mean) * scale, gain[j], offset[j])
    elif gain.size:
        for j in range(row.size):
            y[j] = (row[j] - mean) * scale * gain[j]
    elif offset.size:
        for j in range(row.size):
            y[j] = fma(row[j] - mean, scale, offset[j])
    else:
        for j in range(row.size):
            y[j] = (row[j] - mean) * scale


@parallel
def normalize(part, bounds, x, gain, offset, epsilon, centred, out, stats):
    for i in range(bounds[part, 0], bounds[part, 1]):
        normalize_row(x[i], gain, offset, epsilon, centred, out[i], stats[i])


@parallel
def normalize_backward(part, bounds, x, gain, centred, stats, dout, dx, scratch, dgains, doffsets):
    """dx from a row's gradient and its two means; gradients of gain and offset are added to row i // CHAIN of dgains and doffsets.

    The part's bounds are such chains of rows; scratch (parts, F or more).
    """
    rows = x.shape[0]
    for chain in range(bounds[part, 0], bounds[part, 1]):
        dgain, doffset = dgains[chain], doffsets[chain]
        dgain[:] = 0
        doffset[:] = 0
        for i in range(chain * CHAIN, min(rows, (chain + 1) * CHAIN)):
            row, dy, slope, normal = x[i], dout[i], dx[i], scratch[part, : x.shape[1]]
            mean, scale = stats[i, 0], stats[i, 1]
            size = type(mean)(row.size)
            if gain.size:
                for j in range(row.size):
                    normal[j] = (row[j] - mean) * scale
                    slope[j] = dy[j] * gain[j]
            else:
                for j in range(row.size):
                    normal[j] = (row[j] - mean) * scale
                    slope[j] = dy[j]
            for j in range(row.size):
                dgain[j] = fma(dy[j], normal[j], dgain[j])
                doffset[j] += dy[j]
            level = sums.total(slope) / size if centred else size - size
            along = sums.dot(slope, normal) / size
            for j in range(row.size):
                slope[j] = scale * (slope[j] - fma(normal[j], along, level))
