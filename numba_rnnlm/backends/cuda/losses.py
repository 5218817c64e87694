"""Softmax and losses of rows of logits; gradients overwrite the logits. Each row is processed by a warp or a block."""

from functools import cache
from math import exp, log, log1p

import numpy as np

from .device import cuda, inline
from .launch import FLOAT, FLOATS, INT, INTS, THREADS, Kernel

WARP = 32
WARPS = THREADS // WARP
CHAIN = 16  # terms that a lane adds in one chain; the chains' sums form a second one
SHORT = 1024  # most columns for which a warp, not a block, processes a row


@inline
def larger(a, b):
    return max(a, b)


@inline
def plus(a, b):
    return a + b


def reduction(lanes, combine):
    """A function that combines a row's values over its ``lanes`` in a fixed order, and returns the result to each lane.

    Its argument ``shared`` has WARPS elements of the values' type.
    """

    @inline
    def reduce(value, shared):
        for step in (16, 8, 4, 2, 1):
            value = combine(value, cuda.shfl_xor_sync(0xFFFFFFFF, value, step))
        if lanes > WARP:
            warp = cuda.threadIdx.x // WARP
            cuda.syncthreads()  # all threads have read the previous reduction's values
            if cuda.threadIdx.x % WARP == 0:
                shared[warp] = value
            cuda.syncthreads()
            value = shared[0]
            for other in range(1, lanes // WARP):
                value = combine(value, shared[other])
        return value

    return reduce


def lanes(columns: int) -> int:
    """Threads that share a row of this many columns."""
    return WARP if columns <= SHORT else THREADS


def grid(rows: int, columns: int) -> int:
    """Blocks of THREADS threads for this many rows."""
    return -(-rows * lanes(columns) // THREADS)


@cache
def softmax_cross_entropy(width: int, gradient: bool) -> Kernel:
    """losses[i] = -log softmax(logits[i])[targets[i]]. Targets of -1 have zero loss and gradient; targets beyond the columns
    have loss NaN.

    With ``gradient``, logits[i] becomes scale · (softmax(logits[i]) - onehot(targets[i])).
    """
    largest, total = reduction(width, larger), reduction(width, plus)

    def cross_entropy(logits, targets, losses, scale, rows, columns):
        shared = cuda.shared.array(WARPS, np.float32)
        row, lane = cuda.grid(1) // width, cuda.threadIdx.x % width
        inside = row < rows  # lanes outside must take part in the reductions too
        row = min(row, rows - 1)
        base = np.int64(row) * columns
        target = targets[row]
        peak = logits[base + min(lane, columns - 1)]
        for j in range(lane + width, columns, width):
            peak = max(peak, logits[base + j])
        peak = largest(peak, shared)
        sum_ = np.float32(0)
        for j in range(lane, columns, width):
            sum_ += exp(logits[base + j] - peak)
        sum_ = total(sum_, shared)
        if inside:
            if lane == max(target, 0) % width:  # the lane that overwrites the target's logit reads it first
                loss = np.float32(0)
                if target >= columns:
                    loss = np.float32(np.nan)
                elif target >= 0:
                    loss = log(sum_) + peak - logits[base + target]
                losses[row] = loss
            if gradient:
                factor = scale / sum_ if target >= 0 else np.float32(0)
                for j in range(lane, columns, width):
                    if target < 0:
                        logits[base + j] = np.float32(0)
                    else:
                        value = exp(logits[base + j] - peak) * factor
                        logits[base + j] = value - scale if j == target else value

    return Kernel(cross_entropy, (FLOATS, INTS, FLOATS, FLOAT, INT, INT))


@cache
def softmax(width: int) -> Kernel:
    """Rows of x: logits → probabilities."""
    largest, total = reduction(width, larger), reduction(width, plus)

    def normalize(x, rows, columns):
        shared = cuda.shared.array(WARPS, np.float32)
        row, lane = cuda.grid(1) // width, cuda.threadIdx.x % width
        inside = row < rows
        base = np.int64(min(row, rows - 1)) * columns
        peak = x[base + min(lane, columns - 1)]
        for j in range(lane + width, columns, width):
            peak = max(peak, x[base + j])
        peak = largest(peak, shared)
        sum_ = np.float32(0)
        for j in range(lane, columns, width):
            sum_ += exp(x[base + j] - peak)
        rest = log(total(sum_, shared))
        if inside:
            for j in range(lane, columns, width):
                x[base + j] = exp(x[base + j] - peak - rest)

    return Kernel(normalize, (FLOATS, INT, INT))


@cache
def softmax_backward(width: int) -> Kernel:
    """dy[i] ← y[i] ⊙ (dy[i] - Σ y[i] dy[i])"""
    total = reduction(width, plus)

    def differentiate(y, dy, rows, columns):
        shared = cuda.shared.array(WARPS, np.float32)
        row, lane = cuda.grid(1) // width, cuda.threadIdx.x % width
        inside = row < rows
        base = np.int64(min(row, rows - 1)) * columns
        sum_ = np.float32(0)
        for j in range(lane, columns, width):
            sum_ += y[base + j] * dy[base + j]
        sum_ = total(sum_, shared)
        if inside:
            for j in range(lane, columns, width):
                dy[base + j] = y[base + j] * (dy[base + j] - sum_)

    return Kernel(differentiate, (FLOATS, FLOATS, INT, INT))


@cache
def sigmoid_cross_entropy(width: int, gradient: bool) -> Kernel:
    """losses[i] = mean over j of max(x, 0) - x t + log(1 + exp(-|x|)), the binary cross-entropy of sigmoid(x) and t.

    With ``gradient``, logits become scale · (sigmoid(logits) - targets) / columns.
    """
    total = reduction(width, plus)

    def cross_entropy(logits, targets, losses, scale, rows, columns):
        shared = cuda.shared.array(WARPS, np.float32)
        row, lane = cuda.grid(1) // width, cuda.threadIdx.x % width
        inside = row < rows
        row = min(row, rows - 1)
        base = np.int64(row) * columns
        one, zero, number = np.float32(1), np.float32(0), np.float32(columns)
        sum_ = zero
        for first in range(lane, columns, CHAIN * width):
            chain = zero
            for j in range(first, min(columns, first + CHAIN * width), width):
                x = logits[base + j]
                chain += max(x, zero) - x * targets[base + j] + log1p(exp(-abs(x)))
            sum_ += chain
        sum_ = total(sum_, shared)
        if inside:
            if lane == 0:
                losses[row] = sum_ / number
            if gradient:
                for j in range(lane, columns, width):
                    x = logits[base + j]
                    small = exp(-abs(x))
                    positive = one / (one + small)
                    y = positive if x >= zero else small * positive
                    logits[base + j] = scale * (y - targets[base + j]) / number

    return Kernel(cross_entropy, (FLOATS, FLOATS, FLOATS, FLOAT, INT, INT))
