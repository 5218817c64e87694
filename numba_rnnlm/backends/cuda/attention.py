"""Attention in tiles of 32 queries × 32 keys, with a running maximum and sum (Milakov and Gimelshein 2018; Dao et al. 2022).

A block owns a tile of queries, or of keys, of one stream and head, and visits the tiles of the other side in order. Each warp owns rows of the tile,
so sums over a row are shuffles. Outputs are sums in global memory that only their block touches; heads may have any size.
"""

from math import exp, log

import numpy as np

from ...portable import random_bits, tanh
from .device import cuda, divided, inline
from .launch import FLOAT, FLOATS, INT, KEY, LONG, THREADS, kernel
from .losses import WARP, larger, plus, reduction

TILE = WARP
WARPS = THREADS // WARP
ROWS = TILE // WARPS  # rows of a tile that a warp owns: every WARPS-th
PADDED = TILE + 1

_largest, _total = reduction(WARP, larger), reduction(WARP, plus)

SHAPE = (INT,) * 8  # steps, reach, streams, heads, size, depth, whether causal, window
OPTIONS = (FLOAT, FLOATS, FLOATS, KEY, KEY, FLOAT)  # scale, held, w, and the key, threshold and factor of dropout


@inline
def _load(shared, x, start, stride, rows, columns):
    """shared ← rows × columns elements of x, and zeros around them."""
    column, y = cuda.threadIdx.x % WARP, cuda.threadIdx.x // WARP
    for i in range(ROWS):
        row = y + i * WARPS
        inside = row < rows and column < columns
        shared[row, column] = x[start + np.int64(row) * stride + column] if inside else np.float32(0)


@inline
def _products(q, iq, k, ik, stride, queries, keys, size, w, iw, left, right, scores):
    """scores[i] ← q · k, or Σ w tanh(q + k), of the thread's rows i and its column."""
    column, y = cuda.threadIdx.x % WARP, cuda.threadIdx.x // WARP
    for i in range(ROWS):
        scores[i] = np.float32(0)
    for d0 in range(0, size, TILE):
        cuda.syncthreads()
        wide = min(TILE, size - d0)
        _load(left, q, iq + d0, stride, queries, wide)
        _load(right, k, ik + d0, stride, keys, wide)
        cuda.syncthreads()
        for d in range(wide):
            other = right[column, d]
            if w.size:
                weight = w[iw + d0 + d]
                for i in range(ROWS):
                    scores[i] += weight * tanh(left[y + i * WARPS, d] + other)
            else:
                for i in range(ROWS):
                    scores[i] += left[y + i * WARPS, d] * other


@inline
def _sees(t, s, steps, reach, first, causal, window):
    place = t + reach - steps
    return t < steps and first <= s < reach and (s <= place or not causal) and (s > place - window or not window)


@inline
def _first(n, steps, reach, held):
    """The first key that exists for stream n."""
    if held.size and reach > steps:
        return np.int32(reach - steps - np.int32(min(held[n], np.float32(reach - steps))))
    return np.int32(0)


@inline
def _kept(pair, t, s, steps, reach, key, threshold):
    element = (np.uint64(pair) * np.uint64(steps) + np.uint64(t)) * np.uint64(reach) + np.uint64(s)
    return (random_bits(key, element) >> np.uint64(32)) >= threshold


@kernel(*(FLOATS,) * 5, *SHAPE, *OPTIONS)
def attend(q, k, v, out, sums, steps, reach, streams, heads, size, depth, causal, window, scale, held, w, key, threshold, keep):
    """out ← softmax(scale · q kᵀ) v, sums ← logarithms of the sums of the softmax. Block: pair · tiles + tile of queries."""
    left = cuda.shared.array((TILE, PADDED), np.float32)
    right = cuda.shared.array((TILE, PADDED), np.float32)
    weights = cuda.shared.array((TILE, PADDED), np.float32)
    scores = cuda.local.array(ROWS, np.float32)
    peaks = cuda.local.array(ROWS, np.float32)
    totals = cuda.local.array(ROWS, np.float32)
    shrinks = cuda.local.array(ROWS, np.float32)
    column, y = cuda.threadIdx.x % WARP, cuda.threadIdx.x // WARP
    pair, tile = divided(cuda.blockIdx.x, (steps + TILE - 1) // TILE)
    n, head = divided(pair, heads)
    t0 = tile * TILE
    queries = min(TILE, steps - t0)
    ldq, ldv = np.int64(streams) * heads * size, np.int64(streams) * heads * depth
    iq, iv = np.int64(pair) * size, np.int64(pair) * depth
    first = _first(n, steps, reach, held)
    begin, end = first, reach
    if window:
        begin = max(begin, reach - steps + t0 + 1 - window)
    if causal:
        end = min(end, reach - steps + t0 + queries)
    for i in range(ROWS):
        peaks[i] = np.float32(0)
        totals[i] = np.float32(0)
        row = y + i * WARPS
        for d in range(column, depth if row < queries else 0, WARP):
            out[iv + (t0 + row) * ldv + d] = np.float32(0)
    for s0 in range(begin, end, TILE):
        keys = min(TILE, end - s0)
        _products(q, iq + t0 * ldq, k, iq + s0 * ldq, ldq, queries, keys, size, w, head * size, left, right, scores)
        s = s0 + column
        for i in range(ROWS):
            t = t0 + y + i * WARPS
            sees = _sees(t, s, steps, reach, first, causal, window)
            score = scores[i] * scale
            peak = _largest(score if sees else np.float32(-np.inf), peaks)
            shrinks[i] = np.float32(1)
            weight = np.float32(0)
            if peak > np.float32(-np.inf):
                if totals[i] > np.float32(0):
                    peak = max(peak, peaks[i])
                    shrinks[i] = exp(peaks[i] - peak)
                peaks[i] = peak
                if sees:
                    weight = exp(score - peak)
            totals[i] = totals[i] * shrinks[i] + _total(weight, peaks)
            if threshold:
                weight = weight * keep if _kept(pair, t, s, steps, reach, key, threshold) else np.float32(0)
            weights[y + i * WARPS, column] = weight
        for d0 in range(0, depth, TILE):
            cuda.syncthreads()
            wide = min(TILE, depth - d0)
            _load(right, v, iv + s0 * ldv + d0, ldv, keys, wide)
            cuda.syncthreads()
            for i in range(ROWS):
                row = y + i * WARPS
                if row < queries and column < wide:
                    at = iv + (t0 + row) * ldv + d0 + column
                    total = out[at] * shrinks[i]
                    for c in range(keys):
                        total += weights[row, c] * right[c, column]
                    out[at] = total
    for i in range(ROWS):
        row = y + i * WARPS
        if row < queries:
            seen = totals[i] > np.float32(0)
            factor = np.float32(1) / totals[i] if seen else np.float32(0)
            for d in range(column, depth, WARP):
                out[iv + (t0 + row) * ldv + d] *= factor
            if column == 0:
                sums[(np.int64(t0 + row) * streams + n) * heads + head] = log(totals[i]) + peaks[i] if seen else np.float32(0)


@kernel(FLOATS, FLOATS, FLOATS, INT, LONG)
def row_products(a, b, out, columns, rows):
    """out[i] = Σ_j a[i, j] b[i, j]. A warp sums a row."""
    unused = cuda.local.array(1, np.float32)
    column = cuda.threadIdx.x % WARP
    for row in range(cuda.grid(1) // WARP, rows, cuda.gridsize(1) // WARP):
        own = np.float32(0)
        for j in range(column, columns, WARP):
            own += a[np.int64(row) * columns + j] * b[np.int64(row) * columns + j]
        own = _total(own, unused)
        if column == 0:
            out[row] = own


@inline
def _slopes(q, k, v, dout, sums, means, pair, n, head, t0, s0, steps, reach, streams, heads, size, depth, causal, window, scale, first, w, key,
            threshold, keep, left, right, scores, weights, slopes):
    """weights, slopes (queries × keys) ← the weights after dropout, and the gradients of the scores."""
    column, y = cuda.threadIdx.x % WARP, cuda.threadIdx.x // WARP
    ldq, ldv = np.int64(streams) * heads * size, np.int64(streams) * heads * depth
    iq, iv = np.int64(pair) * size, np.int64(pair) * depth
    queries, keys = min(TILE, steps - t0), min(TILE, reach - s0)
    s = s0 + column
    _products(q, iq + t0 * ldq, k, iq + s0 * ldq, ldq, queries, keys, size, w, head * size, left, right, scores)
    for i in range(ROWS):
        row = y + i * WARPS
        weight = np.float32(0)
        if _sees(t0 + row, s, steps, reach, first, causal, window):
            weight = exp(scores[i] * scale - sums[(np.int64(t0 + row) * streams + n) * heads + head])
        weights[row, column] = weight
    _products(dout, iv + t0 * ldv, v, iv + s0 * ldv, ldv, queries, keys, depth, w[:0], 0, left, right, scores)
    for i in range(ROWS):
        row = y + i * WARPS
        weight, slope = weights[row, column], np.float32(0)
        if _sees(t0 + row, s, steps, reach, first, causal, window):
            change = scores[i]
            if threshold:
                factor = keep if _kept(pair, t0 + row, s, steps, reach, key, threshold) else np.float32(0)
                change *= factor
                weights[row, column] = weight * factor
            slope = weight * (change - means[(np.int64(t0 + row) * streams + n) * heads + head]) * scale
        slopes[row, column] = slope
    cuda.syncthreads()


@kernel(*(FLOATS,) * 9, *SHAPE, *OPTIONS)
def attend_keys(q, k, v, dout, sums, means, dk, dv, dw, steps, reach, streams, heads, size, depth, causal, window, scale, held, w, key, threshold,
                keep):
    """dk, dv ← gradients, and dw (N, tiles of keys, A·K) those of w from each tile. Block: pair · tiles + tile of keys."""
    left = cuda.shared.array((TILE, PADDED), np.float32)
    right = cuda.shared.array((TILE, PADDED), np.float32)
    weights = cuda.shared.array((TILE, PADDED), np.float32)
    slopes = cuda.shared.array((TILE, PADDED), np.float32)
    scores = cuda.local.array(ROWS, np.float32)
    column, y = cuda.threadIdx.x % WARP, cuda.threadIdx.x // WARP
    tiles = (reach + TILE - 1) // TILE
    pair, tile = divided(cuda.blockIdx.x, tiles)
    n, head = divided(pair, heads)
    s0 = tile * TILE
    keys = min(TILE, reach - s0)
    ldq, ldv = np.int64(streams) * heads * size, np.int64(streams) * heads * depth
    iq, iv = np.int64(pair) * size, np.int64(pair) * depth
    idw = (np.int64(n) * tiles + tile) * heads * size + head * size
    first = _first(n, steps, reach, held)
    begin, end = 0, steps
    if causal:
        begin = max(0, s0 - reach + steps)
    if window:
        end = min(end, s0 + keys - 1 + window - reach + steps)
    if s0 + keys <= first:
        end = begin
    for i in range(ROWS):
        row = y + i * WARPS
        if row < keys:
            for d in range(column, size, WARP):
                dk[iq + (s0 + row) * ldq + d] = np.float32(0)
            for d in range(column, depth, WARP):
                dv[iv + (s0 + row) * ldv + d] = np.float32(0)
    for d in range(cuda.threadIdx.x, size if w.size else 0, THREADS):
        dw[idw + d] = np.float32(0)
    for t0 in range(begin, end, TILE):
        queries = min(TILE, steps - t0)
        _slopes(q, k, v, dout, sums, means, pair, n, head, t0, s0, steps, reach, streams, heads, size, depth, causal, window, scale, first, w, key,
                threshold, keep, left, right, scores, weights, slopes)
        for d0 in range(0, depth, TILE):
            cuda.syncthreads()
            _load(right, dout, iv + t0 * ldv + d0, ldv, queries, min(TILE, depth - d0))
            cuda.syncthreads()
            for i in range(ROWS):
                row = y + i * WARPS
                if row < keys and d0 + column < depth:
                    at = iv + (s0 + row) * ldv + d0 + column
                    total = dv[at]
                    for r in range(queries):
                        total += weights[r, row] * right[r, column]
                    dv[at] = total
        for d0 in range(0, size, TILE):
            cuda.syncthreads()
            _load(right, q, iq + t0 * ldq + d0, ldq, queries, min(TILE, size - d0))
            cuda.syncthreads()
            inside = d0 + column < size
            own = np.float32(0)
            for i in range(ROWS):
                row = y + i * WARPS
                if row < keys and inside:
                    at = iq + (s0 + row) * ldq + d0 + column
                    total = dk[at]
                    if w.size:
                        for r in range(queries):
                            h = tanh(right[r, column] + k[at])
                            total += slopes[r, row] * w[head * size + d0 + column] * (np.float32(1) - h * h)
                            own += slopes[r, row] * h
                    else:
                        for r in range(queries):
                            total += slopes[r, row] * right[r, column]
                    dk[at] = total
            if w.size:
                left[y, column] = own
                cuda.syncthreads()
                if y == 0 and inside:
                    total = dw[idw + d0 + column]
                    for other in range(WARPS):
                        total += left[other, column]
                    dw[idw + d0 + column] = total


@kernel(*(FLOATS,) * 7, *SHAPE, *OPTIONS)
def attend_queries(q, k, v, dout, sums, means, dq, steps, reach, streams, heads, size, depth, causal, window, scale, held, w, key, threshold, keep):
    """dq ← gradients. Block: pair · tiles + tile of queries."""
    left = cuda.shared.array((TILE, PADDED), np.float32)
    right = cuda.shared.array((TILE, PADDED), np.float32)
    weights = cuda.shared.array((TILE, PADDED), np.float32)
    slopes = cuda.shared.array((TILE, PADDED), np.float32)
    scores = cuda.local.array(ROWS, np.float32)
    column, y = cuda.threadIdx.x % WARP, cuda.threadIdx.x // WARP
    pair, tile = divided(cuda.blockIdx.x, (steps + TILE - 1) // TILE)
    n, head = divided(pair, heads)
    t0 = tile * TILE
    queries = min(TILE, steps - t0)
    ldq = np.int64(streams) * heads * size
    iq = np.int64(pair) * size
    first = _first(n, steps, reach, held)
    begin, end = first, reach
    if window:
        begin = max(begin, reach - steps + t0 + 1 - window)
    if causal:
        end = min(end, reach - steps + t0 + queries)
    for i in range(ROWS):
        row = y + i * WARPS
        for d in range(column, size if row < queries else 0, WARP):
            dq[iq + (t0 + row) * ldq + d] = np.float32(0)
    for s0 in range(begin, end, TILE):
        keys = min(TILE, reach - s0)
        _slopes(q, k, v, dout, sums, means, pair, n, head, t0, s0, steps, reach, streams, heads, size, depth, causal, window, scale, first, w, key,
                threshold, keep, left, right, scores, weights, slopes)
        for d0 in range(0, size, TILE):
            cuda.syncthreads()
            _load(right, k, iq + s0 * ldq + d0, ldq, keys, min(TILE, size - d0))
            cuda.syncthreads()
            for i in range(ROWS):
                row = y + i * WARPS
                if row < queries and d0 + column < size:
                    at = iq + (t0 + row) * ldq + d0 + column
                    total = dq[at]
                    if w.size:
                        for c in range(keys):
                            h = tanh(q[at] + right[c, column])
                            total += slopes[row, c] * w[head * size + d0 + column] * (np.float32(1) - h * h)
                    else:
                        for c in range(keys):
                            total += slopes[row, c] * right[c, column]
                    dq[at] = total
