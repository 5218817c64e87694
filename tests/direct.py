"""Direct implementations of the simplest verbs in float64, independent of the reference, which could share a mistake with what it tests."""

import math

import numpy as np

BITS = 2**64 - 1


def copy(source, out):
    return {"out": source}


def fill(out, value):
    return {"out": np.full(out.shape, value)}


def add(x, out, scale, first):
    if x.shape[1] > out.shape[1]:
        return {"out": out + scale * x[:, first : first + out.shape[1]]}
    return {"out": out + scale * np.pad(x, ((0, 0), (first, out.shape[1] - first - x.shape[1])))}


def reverse(x, lengths, out):
    steps = np.arange(len(x))[:, np.newaxis]
    lengths = np.full(x.shape[1], len(x)) if lengths is None else lengths
    order = np.where(steps < lengths, lengths - 1 - steps, steps)
    return {"out": np.take_along_axis(x, order[..., np.newaxis], 0)}


def gather(table, ids, out):
    return {"out": np.array([[table[id] for id in row] for row in ids])}


def scatter_add(ids, rows, table):
    return {"table": table + np.einsum("tnv,tnd->vd", ids[..., np.newaxis] == np.arange(len(table)), rows)}


def add_positions(table, starts, out):
    rows = [[table[min(int(start) + t, len(table) - 1)] for start in starts] for t in range(len(out))]
    return {"out": out + np.array(rows)}


def add_positions_backward(dout, starts, dtable, add):
    places = np.minimum(np.arange(len(dout))[:, np.newaxis] + starts, len(dtable) - 1)
    found = np.einsum("tnl,tnd->ld", places[..., np.newaxis] == np.arange(len(dtable)), dout)
    return {"dtable": found + (dtable if add else 0)}


def attend(q, k, v, out, sums, heads, scale, causal, window, held, w, rate, key):
    T, N, _ = q.shape
    result, logs = np.zeros(out.shape), np.zeros(sums.shape)
    K, V = q.shape[2] // heads, v.shape[2] // heads
    for n, a, t in np.ndindex(N, heads, T):
        place, own, columns = len(k) - T + t, slice(a * K, (a + 1) * K), slice(a * V, (a + 1) * V)
        first = 0 if held is None else max(0, len(k) - T - int(held[n]))
        keys = range(max(first, place + 1 - window if window else 0), min(len(k), place + 1) if causal else len(k))
        if keys:
            seen = slice(keys[0], keys[-1] + 1)
            scores = scale * (k[seen, n, own] @ q[t, n, own] if w is None else np.tanh(k[seen, n, own] + q[t, n, own]) @ w[own])
            logs[t, n, a] = np.logaddexp.reduce(scores)
            weights = np.exp(scores - logs[t, n, a]) / (1 - rate)
            if rate:
                numbers = (((n * heads + a) * T + t) * len(k) + s for s in keys)
                weights *= [random_bits(key, number) >> 32 >= round(rate * 2**32) for number in numbers]
            result[t, n, columns] = weights @ v[seen, n, columns]
    return {"out": result, "sums": logs}


def product(x, W, b, transposed):
    """x W + b"""
    return np.einsum("md,kd->mk" if transposed else "md,dk->mk", x, W) + (0 if b is None else b)


def project(x, W, b, out, first, transposed, add):
    padded = np.pad(product(x, W, None, transposed), [(0, 0), (first, 0)])
    padded = np.pad(padded, [(0, 0), (0, out.shape[1] - padded.shape[1])])
    return {"out": padded + (0 if b is None else b) + (out if add else 0)}


def multiply(x, y, out, add):
    return {"out": x * y + (out if add else 0)}


def normalize(x, gain, offset, epsilon, centred, out, stats):
    means = [math.fsum(row) / len(row) if centred else 0 for row in x]
    scales = [(math.fsum((value - mean) ** 2 for value in row) / len(row) + epsilon) ** -0.5 for row, mean in zip(x, means, strict=True)]
    stats = np.stack([means, scales], 1)
    return {"out": (x - stats[:, :1]) * stats[:, 1:] * (1 if gain is None else gain) + (0 if offset is None else offset), "stats": stats}


def convolve(x, W, b, out, stride, dilation, before, groups):
    """Zeros around x, and a matrix that holds the kernel of each group and zeros."""
    S, K = len(x), len(W)
    span = (len(out) - 1) * stride + (K - 1) * dilation + 1
    padded = np.pad(x, ((before, max(0, span - before - S)), (0, 0), (0, 0)))
    inputs, filters = W.shape[1], W.shape[2] // groups
    whole = W * (np.arange(groups).repeat(filters) == np.arange(groups)[:, np.newaxis])[:, np.newaxis, np.newaxis]
    whole = whole.transpose(1, 0, 2, 3).reshape(K, groups * inputs, -1)
    windows = [padded[t * stride : t * stride + (K - 1) * dilation + 1 : dilation] for t in range(len(out))]
    total = np.einsum("tknd,kdf->tnf", np.reshape(windows, (len(out), K, *x.shape[1:])), whole)
    return {"out": total + (0 if b is None else b)}


def pool_steps(x, out, kind, size, stride, before):
    found = np.zeros(out.shape)
    for t in range(len(out)):
        steps = [x[s] for s in range(t * stride - before, t * stride - before + size) if 0 <= s < len(x)]
        if steps:
            found[t] = np.max(steps, 0) if kind == "max" else np.mean(steps, 0)
    return {"out": found}


def probabilities(row):
    """Softmax: each probability is one over the sum of all quotients."""
    return [1 / math.fsum(math.exp(other - logit) for other in row) for logit in row]


def cross_entropy(x, W, b, targets, losses, transposed):
    rows = [probabilities(row) for row in product(x, W, b, transposed)]
    return {"losses": np.array([-math.log(row[target]) if target >= 0 else 0 for row, target in zip(rows, targets, strict=True)])}


def binary_cross_entropy(logits, targets, losses):
    wrong = np.where(targets == 1, -logits, logits)  # positive if the prediction is wrong
    return {"losses": np.logaddexp(0, wrong).sum(1) / logits.shape[1]}


def dropout(x, out, rate, key):
    keep = [random_bits(key, index) >> 32 >= round(rate * 2**32) for index in range(x.size)]
    return {"out": np.where(np.reshape(keep, x.shape), x / (1 - rate), 0)}


def random_bits(key, index):
    """SplitMix64 in Python integers."""
    z = (key + (index + 1) * 0x9E3779B97F4A7C15) & BITS
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & BITS
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & BITS
    return z ^ z >> 31


def norm(x):
    return {"result": math.hypot(*x)}


VERBS = {verb.__name__: verb for verb in (
    copy, fill, add, reverse, gather, scatter_add, add_positions, add_positions_backward, attend, project, convolve, pool_steps, cross_entropy, binary_cross_entropy, dropout, norm)}  # fmt: skip
