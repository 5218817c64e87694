"""Attention in tiles of queries × keys, with a running maximum and sum (Milakov and Gimelshein 2018; Dao et al. 2022).

A pair is a stream and a head. Rows of one head are far apart in memory, so keys and values are packed into panels for the register tile;
queries are read in place. Every query sees one range of keys, so tiles that none of their queries sees are skipped.

Results do not depend on the number of threads: a block of queries is one part's, with tiles that begin where its first query begins to see.
In the backward pass, each element of dq is a chain over keys, and each of dk and dv a chain over queries, whatever the tiles.
"""

from functools import lru_cache

import numpy as np

from ...portable import exp_below_zero, log, random_bits, tanh
from . import sums as lanewise
from .kernels import kernel
from .packing import pack_panel
from .simd import VECTOR_BYTES, VECTORS, lanes, multiply_panel
from .team import parallel
from .threads import KEPT

QUERIES = 120  # whole register tiles; not more than KEYS
KEYS = 128  # whole panels
FUSED, OF_KEYS, OF_QUERIES = 0, 1, 2  # what a part of the backward pass computes: all gradients of pairs, or those of blocks of keys, or of queries
MOST_LANES = VECTORS * VECTOR_BYTES  # more than a panel has


def scratch(keys: int, values: int, backward: bool) -> int:
    """Elements that a part works with, for heads of these sizes."""
    tile = QUERIES * KEYS
    wide = -(-max(keys, values) // MOST_LANES) * MOST_LANES
    if backward:
        return MOST_LANES + 2 * tile + 4 * KEYS * wide
    return MOST_LANES + tile + KEYS * wide + 2 * QUERIES


@lru_cache(KEPT)
def forward_parts(pairs: int, steps: int, reach: int, causal: bool, window: int, parts: int) -> np.ndarray:
    """Blocks of queries, numbered through all pairs, for each part."""
    return _cut(np.tile(_keys_seen(steps, reach, causal, window), pairs), parts)


@lru_cache(KEPT)
def backward_parts(pairs: int, steps: int, reach: int, causal: bool, window: int, parts: int) -> np.ndarray:
    """(first unit, last, kind) of each part. Gradients of keys apart from those of queries take 7 products for each tile instead of 5."""
    if 5 * -(-pairs // parts) * parts <= 7 * pairs:
        return np.insert(_cut(np.ones(pairs), parts), 2, FUSED, axis=1)
    seen = steps - np.maximum(np.arange(0, reach, KEYS) - (reach - steps), 0) if causal else np.full(-(-reach // KEYS), steps)
    by_keys, by_queries = _limited(seen, window, KEYS), _keys_seen(steps, reach, causal, window)
    return np.concatenate([np.insert(_cut(np.tile(by_keys, pairs), parts), 2, OF_KEYS, axis=1),
                           np.insert(_cut(np.tile(by_queries, pairs), parts), 2, OF_QUERIES, axis=1)])


def _keys_seen(steps: int, reach: int, causal: bool, window: int) -> np.ndarray:
    """About how many keys each block of queries sees."""
    last = np.minimum(np.arange(0, steps, QUERIES) + QUERIES, steps)
    return _limited(last + (reach - steps) if causal else np.full(len(last), reach), window, QUERIES)


def _limited(seen: np.ndarray, window: int, block: int) -> np.ndarray:
    return np.asarray(np.maximum(np.minimum(seen, window + block) if window else seen, 1))


def _cut(work: np.ndarray, parts: int) -> np.ndarray:
    """Ranges of units with nearly equal work, none empty."""
    done = np.cumsum(work)
    borders = np.searchsorted(done, done[-1] * np.arange(1, parts) / parts) + 1
    borders = np.unique([0, *borders, len(work)])
    return np.stack([borders[:-1], borders[1:]], axis=1).astype(np.int64)


@kernel
def _first(n, shift, held):
    """The first key that exists for stream n."""
    return shift - int(min(held[n], type(held[n])(shift))) if held.size and shift > 0 else 0


@kernel
def _range(t, s0, columns, first, shift, causal, window):
    """The columns of the tile of keys from s0 that query t sees; of an empty range, the second is not larger."""
    begin, end = first, s0 + columns
    if causal:
        end = min(end, shift + t + 1)
    if window:
        begin = max(begin, shift + t + 1 - window)
    return max(0, begin - s0), end - s0


@kernel
def _queries(s0, s1, t0, t1, shift, causal, window):
    """Those of the queries t0 … t1 - 1 that may see one of the keys s0 … s1 - 1."""
    if causal:
        t0 = max(t0, s0 - shift)
    if window:
        t1 = min(t1, s1 - 1 + window - shift)
    return t0, t1


@kernel
def _scores(q, iq, ldq, t0, rows, kt, s0, columns, size, shift, causal, window, zeros, tile):
    """tile ← q kᵀ, with the keys packed in kt; elements that none of a panel's queries sees are not written."""
    count = lanes(tile)
    width = VECTORS * count
    for p in range(0, columns, width):
        wide = min(width, columns - p)
        vectors = (wide + count - 1) // count
        a, b = _queries(s0 + p, s0 + p + wide, t0, t0 + rows, shift, causal, window)
        if a < b:
            multiply_panel(vectors, q, iq + a * ldq, ldq, 1, b - a, kt, p * size, size, zeros, 0, 0,
                           tile, (a - t0) * KEYS + p, KEYS, wide - (vectors - 1) * count)


@kernel
def _pack_keys(k, ik, ldk, columns, size, packed):
    """Keys as columns."""
    width = VECTORS * lanes(packed)
    for p in range(0, columns, width):
        pack_panel(k, ik + p * ldk, 1, ldk, size, min(width, columns - p), packed, p * size)


@kernel
def _pack_rows(x, ix, ldx, rows, size, packed):
    """Rows as lines."""
    width = VECTORS * lanes(packed)
    for p in range(0, size, width):
        pack_panel(x, ix + p, ldx, 1, rows, min(width, size - p), packed, p * rows)


@kernel
def _add_product(a, ia, row_stride, step_stride, m, packed, steps, size, c, ic, ldc):
    """c (m, size) += a (m, steps) times rows of :func:`_pack_rows`."""
    count = lanes(c)
    width = VECTORS * count
    for p in range(0, size, width):
        wide = min(width, size - p)
        vectors = (wide + count - 1) // count
        multiply_panel(vectors, a, ia, row_stride, step_stride, m, packed, p * steps, steps, c, ic + p, ldc, c, ic + p, ldc,
                       wide - (vectors - 1) * count)


@kernel
def _additive_scores(q, iq, ldq, t0, rows, k, ik, ldk, s0, columns, first, shift, causal, window, w, line, tile):
    """tile ← Σ w tanh(q + k)"""
    size = w.size
    sums = line[:size]
    for r in range(rows):
        begin, end = _range(t0 + r, s0, columns, first, shift, causal, window)
        query = q[iq + (t0 + r) * ldq : iq + (t0 + r) * ldq + size]
        for c in range(begin, end):
            row = k[ik + (s0 + c) * ldk : ik + (s0 + c) * ldk + size]
            for d in range(size):
                sums[d] = tanh(query[d] + row[d])
            tile[r * KEYS + c] = lanewise.dot(sums, w)


@kernel
def _drop(row, element, key, threshold, keep):
    """Dropout of a row of weights, whose first is number ``element``."""
    for j in range(row.size):
        row[j] = row[j] * keep if (random_bits(key, element + np.uint64(j)) >> np.uint64(32)) >= threshold else type(keep)(0)


@kernel
def _clear(row):
    for j in range(row.size):
        row[j] = 0


@parallel
def attend(part, bounds, q, k, v, out, sums, heads, scale, causal, window, held, w, key, threshold, keep, scratches):
    """out (T, N, A·V) ← softmax(scale · q kᵀ) v, sums (T, N, A) ← logarithms of the sums of the softmax.

    The part's bounds are blocks of queries, numbered through all pairs. w (A·K): for additive scores; otherwise empty.
    """
    steps, streams, width = q.shape
    reach, shift = k.shape[0], k.shape[0] - steps
    size, depth = width // heads, v.shape[2] // heads
    ldq, ldv = streams * width, streams * v.shape[2]
    flat_q, flat_k, flat_v, flat_out, flat_sums = q.reshape(-1), k.reshape(-1), v.reshape(-1), out.reshape(-1), sums.reshape(-1)
    blocks = (steps + QUERIES - 1) // QUERIES
    own = scratches[part]
    zeros, tile, rest = own[:MOST_LANES], own[MOST_LANES : MOST_LANES + QUERIES * KEYS], own[MOST_LANES + QUERIES * KEYS :]
    peaks, totals, packed = rest[:QUERIES], rest[QUERIES : 2 * QUERIES], rest[2 * QUERIES :]
    _clear(zeros)
    for unit in range(bounds[part, 0], bounds[part, 1]):
        pair, t0 = unit // blocks, unit % blocks * QUERIES
        n, head = pair // heads, pair % heads
        rows = min(QUERIES, steps - t0)
        iq, iv = n * width + head * size, n * v.shape[2] + head * depth
        vector = w[head * size : (head + 1) * size]
        first = _first(n, shift, held)
        begin = max(first, shift + t0 + 1 - window) if window else first
        end = min(reach, shift + t0 + rows) if causal else reach
        for r in range(rows):
            totals[r] = 0
            _clear(flat_out[iv + (t0 + r) * ldv : iv + (t0 + r) * ldv + depth])
        for s0 in range(begin, end, KEYS):
            columns = min(KEYS, end - s0)
            if w.size:
                _additive_scores(flat_q, iq, ldq, t0, rows, flat_k, iq, ldq, s0, columns, first, shift, causal, window, vector, packed, tile)
            else:
                _pack_keys(flat_k, iq + s0 * ldq, ldq, columns, size, packed)
                _scores(flat_q, iq, ldq, t0, rows, packed, s0, columns, size, shift, causal, window, zeros, tile)
            a, b = _queries(s0, s0 + columns, t0, t0 + rows, shift, causal, window)
            for t in range(a, b):
                r = t - t0
                c0, c1 = _range(t, s0, columns, first, shift, causal, window)
                line = tile[r * KEYS : r * KEYS + columns]
                if c0 >= c1:
                    _clear(line)
                    continue
                seen = line[c0:c1]
                peak = lanewise.largest(seen)
                if totals[r] > 0 and peak <= peaks[r]:
                    peak = peaks[r]
                elif totals[r] > 0:
                    shrink = exp_below_zero((peaks[r] - peak) * scale)
                    totals[r] *= shrink
                    result = flat_out[iv + t * ldv : iv + t * ldv + depth]
                    for j in range(depth):
                        result[j] *= shrink
                peaks[r] = peak
                for j in range(seen.size):
                    seen[j] = exp_below_zero((seen[j] - peak) * scale)
                totals[r] += lanewise.total(seen)
                if threshold:
                    _drop(seen, np.uint64((pair * steps + t) * reach + s0 + c0), key, threshold, keep)
                _clear(line[:c0])
                _clear(line[c1:])
            if a < b:
                _pack_rows(flat_v, iv + s0 * ldv, ldv, columns, depth, packed)
                _add_product(tile, (a - t0) * KEYS, KEYS, 1, b - a, packed, columns, depth, flat_out, iv + a * ldv, ldv)
        for r in range(rows):
            t = t0 + r
            place = (t * streams + n) * heads + head
            if totals[r] > 0:
                flat_sums[place] = log(totals[r]) + peaks[r] * scale
                result = flat_out[iv + t * ldv : iv + t * ldv + depth]
                factor = type(scale)(1) / totals[r]
                for j in range(depth):
                    result[j] *= factor
            else:
                flat_sums[place] = 0


@parallel
def attend_backward(part, bounds, q, k, v, out, sums, dout, dq, dk, dv, heads, scale, causal, window, held, w, dw, key, threshold, keep, scratches):
    """dq, dk, dv ← gradients, and dw (N, blocks of keys, A·K) those of w for additive scores, of each stream and block of keys.

    The part's bounds are (first unit, last, kind); see :func:`backward_parts`.
    """
    steps, reach, kind = q.shape[0], k.shape[0], bounds[part, 2]
    length, block = (reach, KEYS) if kind == OF_KEYS else (steps, QUERIES)
    blocks = 1 if kind == FUSED else (length + block - 1) // block
    for pair in range(bounds[part, 0] // blocks, (bounds[part, 1] + blocks - 1) // blocks):
        first, last = max(0, bounds[part, 0] - pair * blocks) * block, min(length, (bounds[part, 1] - pair * blocks) * block)
        k0, k1 = (first, last) if kind == OF_KEYS else (0, reach)
        q0, q1 = (first, last) if kind == OF_QUERIES else (0, steps)
        _differentiate(pair, k0, k1, q0, q1, kind != OF_QUERIES, kind != OF_KEYS, q, k, v, out, sums, dout, dq, dk, dv, heads, scale, causal,
                       window, held, w, dw, key, threshold, keep, scratches[part])


@kernel(linked=True)
def _differentiate(pair, k0, k1, q0, q1, of_keys, of_queries, q, k, v, out, sums, dout, dq, dk, dv, heads, scale, causal, window, held, w, dw,
                   key, threshold, keep, own):
    """The gradients of one pair's keys k0 … k1 - 1 from all its queries, and those of its queries q0 … q1 - 1 from all its keys."""
    steps, streams, width = q.shape
    reach, shift = k.shape[0], k.shape[0] - steps
    size, depth = width // heads, v.shape[2] // heads
    ldq, ldv = streams * width, streams * v.shape[2]
    flat_q, flat_k, flat_v, flat_out, flat_sums = q.reshape(-1), k.reshape(-1), v.reshape(-1), out.reshape(-1), sums.reshape(-1)
    flat_dout, flat_dq, flat_dk, flat_dv = dout.reshape(-1), dq.reshape(-1), dk.reshape(-1), dv.reshape(-1)
    n, head = pair // heads, pair % heads
    iq, iv = n * width + head * size, n * v.shape[2] + head * depth
    vector = w[head * size : (head + 1) * size]
    first = _first(n, shift, held)
    cells = QUERIES * KEYS
    wide = (max(size, depth) + MOST_LANES - 1) // MOST_LANES * MOST_LANES
    zeros, tile, slopes = own[:MOST_LANES], own[MOST_LANES : MOST_LANES + cells], own[MOST_LANES + cells : MOST_LANES + 2 * cells]
    rest = own[MOST_LANES + 2 * cells :]
    panels = KEYS * wide
    kt, vt, rows_of_k, packed = rest[:panels], rest[panels : 2 * panels], rest[2 * panels : 3 * panels], rest[3 * panels :]
    _clear(zeros)
    if of_queries:
        for t in range(q0, q1):
            _clear(flat_dq[iq + t * ldq : iq + t * ldq + size])
    for s0 in range(k0, k1, KEYS):
        columns = min(KEYS, k1 - s0)
        if of_keys:
            for s in range(s0, s0 + columns):
                _clear(flat_dk[iq + s * ldq : iq + s * ldq + size])
                _clear(flat_dv[iv + s * ldv : iv + s * ldv + depth])
        a, b = _queries(s0, s0 + columns, q0, q1, shift, causal, window)
        if a >= b or s0 + columns <= first:
            continue
        if w.size == 0:
            _pack_keys(flat_k, iq + s0 * ldq, ldq, columns, size, kt)
            if of_queries:
                _pack_rows(flat_k, iq + s0 * ldq, ldq, columns, size, rows_of_k)
        _pack_keys(flat_v, iv + s0 * ldv, ldv, columns, depth, vt)
        for t0 in range(a, b, QUERIES):
            rows = min(QUERIES, b - t0)
            if w.size:
                _additive_scores(flat_q, iq, ldq, t0, rows, flat_k, iq, ldq, s0, columns, first, shift, causal, window, vector, packed, tile)
            else:
                _scores(flat_q, iq, ldq, t0, rows, kt, s0, columns, size, shift, causal, window, zeros, tile)
            _scores(flat_dout, iv, ldv, t0, rows, vt, s0, columns, depth, shift, causal, window, zeros, slopes)
            for r in range(rows):
                t = t0 + r
                c0, c1 = _range(t, s0, columns, first, shift, causal, window)
                line, slope = tile[r * KEYS : r * KEYS + columns], slopes[r * KEYS : r * KEYS + columns]
                if c0 >= c1:
                    _clear(line)
                    _clear(slope)
                    continue
                mean = lanewise.dot(flat_out[iv + t * ldv : iv + t * ldv + depth], flat_dout[iv + t * ldv : iv + t * ldv + depth])
                whole = flat_sums[(t * streams + n) * heads + head]
                seen, change = line[c0:c1], slope[c0:c1]
                if threshold:
                    _drop(change, np.uint64((pair * steps + t) * reach + s0 + c0), key, threshold, keep)
                for j in range(seen.size):
                    weight = exp_below_zero(seen[j] * scale - whole)
                    change[j] = weight * (change[j] - mean) * scale
                    seen[j] = weight
                if threshold:
                    _drop(seen, np.uint64((pair * steps + t) * reach + s0 + c0), key, threshold, keep)
                for rim in (line[:c0], line[c1:], slope[:c0], slope[c1:]):
                    _clear(rim)
            if of_keys:
                _pack_rows(flat_dout, iv + t0 * ldv, ldv, rows, depth, packed)
                _add_product(tile, 0, 1, KEYS, columns, packed, rows, depth, flat_dv, iv + s0 * ldv, ldv)
            if w.size:
                _additive_slopes(of_keys, of_queries, flat_q, iq, ldq, t0, rows, flat_k, s0, columns, first, shift, causal, window, vector, slopes,
                                 flat_dq, flat_dk, dw[n, s0 // KEYS, head * size : (head + 1) * size])
                continue
            if of_keys:
                _pack_rows(flat_q, iq + t0 * ldq, ldq, rows, size, packed)
                _add_product(slopes, 0, 1, KEYS, columns, packed, rows, size, flat_dk, iq + s0 * ldq, ldq)
            if of_queries:
                _add_product(slopes, 0, KEYS, 1, rows, rows_of_k, columns, size, flat_dq, iq + t0 * ldq, ldq)


@kernel
def _additive_slopes(of_keys, of_queries, q, iq, ldq, t0, rows, k, s0, columns, first, shift, causal, window, w, slopes, dq, dk, dw):
    """Adds the gradients of q, k and w in Σ w tanh(q + k), from those of the scores."""
    size = w.size
    for r in range(rows):
        begin, end = _range(t0 + r, s0, columns, first, shift, causal, window)
        at = iq + (t0 + r) * ldq
        query, dquery = q[at : at + size], dq[at : at + size]
        for c in range(begin, end):
            at = iq + (s0 + c) * ldq
            row, drow, slope = k[at : at + size], dk[at : at + size], slopes[r * KEYS + c]
            for d in range(size):
                h = tanh(query[d] + row[d])
                change = slope * w[d] * (type(slope)(1) - h * h)
                if of_keys:
                    drow[d] += change
                    dw[d] += slope * h
                if of_queries:
                    dquery[d] += change
