"""The specification: NumPy in float64, slow and obvious. It shares no code with the backends it is compared to.

Cells run from their ``equations`` and are differentiated by complex step (Squire and Trapp 1998):
f'(x) = Im f(x + ih) / h, exact to rounding, because no nearby numbers are subtracted.
"""

from collections.abc import Iterator, Sequence
from math import prod
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..cells import Cell
from ..memory import Space, host_memory
from ..rules import Rule
from .ops import Choice, Step

STEP = 1e-30

Array = np.ndarray
Shape = tuple[int, ...]


class Backend:
    """See :class:`numba_rnnlm.backends.ops.Ops` for what each verb does."""

    name = "reference"
    dtype: np.dtype[Any] = np.dtype(np.float64)
    threads = 1

    def __init__(self, dtype: Any = None, threads: int | None = None) -> None:
        """Always float64 on one thread; both arguments are ignored."""

    def rounding(self) -> str:
        return self.name

    def memory(self, held: int = 0) -> Space:
        return host_memory()

    def empty(self, shape: Shape) -> Array:
        return np.full(shape, np.nan)  # exposes a value read before it is written

    def upload(self, array: Array) -> Array:
        return np.array(array, np.int32 if array.dtype.kind in "iub" else np.float64)

    def download(self, array: Array) -> Array:
        return np.array(array)

    def copy(self, source: Array, out: Array) -> None:
        out[...] = source

    def fill(self, out: Array, value: float) -> None:
        out[...] = value

    def add(self, x: Array, out: Array, scale: float = 1.0, first: int = 0) -> None:
        if x.size == out.size:
            out += scale * x.reshape(out.shape)
        else:
            source, target = x.reshape(-1, x.shape[-1]), out.reshape(-1, out.shape[-1])
            width = min(source.shape[1], target.shape[1])
            wide = slice(first, first + width)
            target[:, wide if target.shape[1] > width else slice(None)] += scale * source[:, wide if source.shape[1] > width else slice(None)]

    def reverse(self, x: Array, lengths: Array | None, out: Array) -> None:
        out[...] = x
        for n in range(x.shape[1]):
            length = x.shape[0] if lengths is None else lengths[n]
            out[:length, n] = x[:length, n][::-1]

    def gather(self, table: Array, ids: Array, out: Array) -> None:
        out[...] = table[ids]

    def scatter_add(self, ids: Array, rows: Array, table: Array) -> None:
        np.add.at(table, ids, rows)

    def add_positions(self, table: Array, starts: Array, out: Array) -> None:
        for t in range(len(out)):
            out[t] += table[_positions(starts, t, table)]

    def add_positions_backward(self, dout: Array, starts: Array, dtable: Array, add: bool = False) -> None:
        if not add:
            dtable[...] = 0
        for t in range(len(dout)):
            np.add.at(dtable, _positions(starts, t, dtable), dout[t])

    def project(
        self, x: Array, W: Array, b: Array | None, out: Array, first: int = 0, transposed: bool = False, add: bool = False
    ) -> None:
        weights = W.T if transposed else W
        rows = out.reshape(-1, out.shape[-1])
        _put(0 if b is None else b.reshape(-1), rows, add)
        rows[:, first : first + weights.shape[1]] += x.reshape(-1, x.shape[-1]) @ weights

    def project_backward(
        self, x: Array, W: Array, dout: Array, dx: Array | None, dW: Array, db: Array | None,
        first: int = 0, transposed: bool = False, add: bool = False,
    ) -> None:
        weights = W.T if transposed else W
        rows = dout.reshape(-1, dout.shape[-1])
        dz = rows[:, first : first + weights.shape[1]]
        dweights = x.reshape(-1, x.shape[-1]).T @ dz
        _put(dweights.T if transposed else dweights, dW, add)
        if db is not None:
            _put(rows.sum(0).reshape(db.shape), db, add)
        if dx is not None:
            dx[...] = (dz @ weights.T).reshape(dx.shape)

    def convolve(
        self, x: Array, W: Array, b: Array | None, out: Array, stride: int = 1, dilation: int = 1, before: int = 0, groups: int = 1
    ) -> None:
        out[...] = 0 if b is None else b
        for t, k, s in _taps(x, W, out, stride, dilation, before):
            for inputs, filters in _groups(x, W, groups):
                out[t, :, filters] += x[s, :, inputs] @ W[k][:, filters]

    def convolve_backward(
        self, x: Array, W: Array, dout: Array, dx: Array | None, dW: Array, db: Array | None,
        stride: int = 1, dilation: int = 1, before: int = 0, groups: int = 1, add: bool = False,
    ) -> None:
        dweights, dinputs = np.zeros(W.shape), np.zeros(x.shape)
        for t, k, s in _taps(x, W, dout, stride, dilation, before):
            for inputs, filters in _groups(x, W, groups):
                dweights[k][:, filters] += x[s, :, inputs].T @ dout[t, :, filters]
                dinputs[s, :, inputs] += dout[t, :, filters] @ W[k][:, filters].T
        _put(dweights, dW, add)
        if db is not None:
            _put(dout.sum((0, 1)), db, add)
        if dx is not None:
            dx[...] = dinputs

    def pool_steps(self, x: Array, out: Array, kind: str, size: int, stride: int, before: int = 0) -> None:
        for t, steps in enumerate(_windows(x, out, size, stride, before)):
            if kind == "mean":
                out[t] = x[steps].sum(0) / max(len(x[steps]), 1)
            else:
                out[t] = _picked(x[steps], x[steps].real.argmax(0)) if len(x[steps]) else 0

    def pool_steps_backward(
        self, x: Array, out: Array, dout: Array, dx: Array, kind: str, size: int, stride: int, before: int = 0
    ) -> None:
        dx[...] = 0
        for t, steps in enumerate(_windows(x, out, size, stride, before)):
            if not len(x[steps]):
                continue
            if kind == "mean":
                dx[steps] += dout[t] / len(x[steps])
            else:
                first = x[steps].argmax(0)
                np.put_along_axis(dx[steps], first[np.newaxis], _picked(dx[steps], first) + dout[t], 0)

    def recur(
        self, cell: Cell, U: Array | None, z: Array, s: Array, w: Array | None = None, lengths: Array | None = None
    ) -> None:
        first, last = cell.window("h")
        for t in range(z.shape[0]):
            if U is not None:
                z[t, :, first:last] += (s[t, :, 0] @ U).reshape(z.shape[1], last - first, -1)
            s[t + 1] = _columns(cell.equations(_slots(z[t]), _slots(s[t]), *cell.with_weights(w)))
            s[t + 1] = np.where(_ended(lengths, t), s[t], s[t + 1])

    def recur_backward(
        self, cell: Cell, U: Array | None, z: Array, s: Array, dy: Array | None, d: Array, dU: Array | None,
        w: Array | None = None, dw: Array | None = None, lengths: Array | None = None, add: bool = False,
    ) -> None:
        first, last = cell.window("h")
        for gradient in (dU, dw):
            if gradient is not None and not add:
                gradient[...] = 0
        for t in reversed(range(z.shape[0])):
            if dy is not None:
                d[:, 0] += dy[t]
            ended = _ended(lengths, t)
            sums, upstream = (_slots(np.where(ended, 0, array)) for array in (z[t], d))
            points = [point.astype(complex) for point in (sums, _slots(s[t]), *cell.with_weights(w))]
            dz, dprevious, *dweights = (_slopes(cell, points, rows, upstream) for rows in points)
            z[t], d[...] = _columns(dz), np.where(ended, d, _columns(dprevious))
            if dw is not None:
                dw += dweights[0].sum(1)  # over streams
            if U is not None and dU is not None:
                through = z[t, :, first:last].reshape(z.shape[1], -1)
                d[:, 0] += through @ U.T
                dU += s[t, :, 0].T @ through

    def attend(
        self, q: Array, k: Array, v: Array, out: Array, sums: Array, heads: int = 1, scale: float = 1.0, causal: bool = False, window: int = 0,
        held: Array | None = None, w: Array | None = None, rate: float = 0.0, key: int = 0,
    ) -> None:
        seen = _seen(len(q), len(k), q.shape[1], causal, window, held)
        for n, (Q, K, V, O, W) in _heads(heads, q, k, v, out, w):
            weights, logs = _softmax(np.where(seen[n // heads], scale * _scores(Q, K, W), -np.inf))
            O[...] = (_factors(n, seen, rate, key) * weights) @ V
            sums[:, n // heads, n % heads] = logs

    def attend_backward(
        self, q: Array, k: Array, v: Array, out: Array, sums: Array, dout: Array, dq: Array, dk: Array, dv: Array, heads: int = 1,
        scale: float = 1.0, causal: bool = False, window: int = 0, held: Array | None = None, w: Array | None = None, dw: Array | None = None,
        rate: float = 0.0, key: int = 0, add: bool = False,
    ) -> None:
        seen = _seen(len(q), len(k), q.shape[1], causal, window, held)
        if dw is not None and not add:
            dw[...] = 0
        for n, (Q, K, V, dO, dQ, dK, dV, W, dW) in _heads(heads, q, k, v, dout, dq, dk, dv, w, dw):
            weights, _ = _softmax(np.where(seen[n // heads], scale * _scores(Q, K, W), -np.inf))
            factors = _factors(n, seen, rate, key)
            dV[...] = (factors * weights).T @ dO
            dweights = factors * (dO @ V.T)
            dscores = scale * weights * (dweights - (weights * dweights).sum(1, keepdims=True))
            if W is None:
                dQ[...], dK[...] = dscores @ K, dscores.T @ Q
            else:
                h = np.tanh(Q[:, np.newaxis] + K)
                dsums = dscores[..., np.newaxis] * W * (1 - h**2)
                dQ[...], dK[...] = dsums.sum(1), dsums.sum(0)
                if dW is not None:
                    dW += (dscores[..., np.newaxis] * h).sum((0, 1))

    def activate(self, activation: str, x: Array) -> None:
        if activation == "softmax":
            self._log_softmax(x)
            x[...] = np.exp(x)
        elif activation == "tanh":
            x[...] = np.tanh(x)
        elif activation == "relu":
            x[...] = np.maximum(x, 0)
        elif activation == "sigmoid":
            x[...] = _sigmoid(x)
        elif activation != "linear":
            x[...] = _gated(activation, x)

    def activate_backward(self, activation: str, y: Array, dy: Array) -> None:
        if activation == "softmax":
            dy[...] = y * (dy - (y * dy).sum(-1, keepdims=True))
        elif activation == "tanh":
            dy *= 1 - y * y
        elif activation == "relu":
            dy *= y > 0
        elif activation == "sigmoid":
            dy *= y * (1 - y)
        elif activation != "linear":
            dy *= _gated(activation, y + STEP * 1j).imag / STEP  # y is the input

    def multiply(self, x: Array, y: Array, out: Array, add: bool = False) -> None:
        out[...] = (out if add else 0) + x * y

    def normalize(
        self, x: Array, gain: Array | None, offset: Array | None, epsilon: float, centred: bool, out: Array, stats: Array
    ) -> None:
        mean = x.mean(-1, keepdims=True) if centred else np.zeros((len(x), 1))
        scale = 1 / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + epsilon)
        stats[...] = np.hstack([mean, scale])
        out[...] = (x - mean) * scale * (1 if gain is None else gain) + (0 if offset is None else offset)

    def normalize_backward(
        self, x: Array, gain: Array | None, centred: bool, stats: Array, dout: Array, dx: Array, dgain: Array | None, doffset: Array | None,
        add: bool = False,
    ) -> None:
        mean, scale = stats[:, :1], stats[:, 1:]
        normal, slope = (x - mean) * scale, dout * (1 if gain is None else gain)
        if dgain is not None:
            _put((dout * normal).sum(0), dgain, add)
        if doffset is not None:
            _put(dout.sum(0), doffset, add)
        dx[...] = scale * (slope - (slope.mean(-1, keepdims=True) if centred else 0) - normal * (slope * normal).mean(-1, keepdims=True))

    def _log_softmax(self, x: Array) -> None:
        x -= x.max(-1, keepdims=True)
        x -= np.log(np.exp(x).sum(-1, keepdims=True))

    def dropout(self, x: Array, out: Array, rate: float, key: int) -> None:
        out[...] = np.where(_kept(0, x.shape, rate, key), x / (1 - rate), 0)

    def cross_entropy(
        self, x: Array, W: Array, b: Array | None, targets: Array, losses: Array, transposed: bool = False
    ) -> None:
        logits = np.empty((x.shape[0], W.shape[0] if transposed else W.shape[1]))
        self.project(x, W, b, logits, transposed=transposed)
        self._log_softmax(logits)
        rows = np.arange(len(targets))
        losses[...] = np.where(targets >= 0, -logits[rows, targets], 0)

    def cross_entropy_backward(
        self, x: Array, W: Array, b: Array | None, targets: Array, scale: float, losses: Array,
        dx: Array, dW: Array, db: Array | None, transposed: bool = False, add: bool = False,
    ) -> None:
        self.cross_entropy(x, W, b, targets, losses, transposed)
        dlogits = np.empty((x.shape[0], W.shape[0] if transposed else W.shape[1]))
        self.project(x, W, b, dlogits, transposed=transposed)
        self.activate("softmax", dlogits)
        dlogits[np.arange(len(targets)), targets] -= 1
        dlogits *= scale * (targets >= 0)[:, np.newaxis]
        self.project_backward(x, W, dlogits, dx, dW, db, transposed=transposed, add=add)

    def binary_cross_entropy(self, logits: Array, targets: Array, losses: Array) -> None:
        terms = np.maximum(logits, 0) - logits * targets + np.log1p(np.exp(-abs(logits)))
        losses[...] = terms.mean(-1).reshape(losses.shape)

    def binary_cross_entropy_backward(self, logits: Array, targets: Array, scale: float, losses: Array) -> None:
        self.binary_cross_entropy(logits, targets, losses)
        logits[...] = scale * (_sigmoid(logits) - targets) / logits.shape[-1]

    def choose(self, scores: Array, choice: Choice, numbers: np.ndarray, ids: Array) -> None:
        scores[:, choice.banned] = -np.inf
        for n in np.flatnonzero(ids < 0):
            ids[n] = _drawn(scores[n], choice, numbers[n])

    def decoder(self, table: Array | None, steps: Sequence[Step], weights: str) -> None:
        """None: each step is a forward pass."""

    def norm(self, x: Array) -> float:
        return float(np.sqrt((x * x).sum()))

    def update(self, rule: Rule, p: Array, g: Array, m: Array, h: np.ndarray) -> None:
        scale, limit, *numbers = h
        n = SimpleNamespace(**dict(zip(rule.hyper, numbers, strict=True)))
        if rule.name == "scale":
            p *= scale
            return
        x = np.clip(g * scale, -limit, limit) + n.decay * p
        if rule.name == "sgd":
            step = n.rate * x
        elif rule.name == "momentum":
            m[0] = n.momentum * m[0] + n.gain * x
            step = n.along * m[0] + n.ahead * x
        elif rule.name == "rmsprop":
            m[0] = n.rho * m[0] + n.fresh * x**2
            step = n.rate * x / (np.sqrt(m[0] + n.inner) + n.outer)
        elif rule.name == "rmsprop_centred":
            m[0] = n.rho * m[0] + n.fresh * x**2
            m[1] = n.rho * m[1] + n.fresh * x
            m[2] = n.momentum * m[2] + n.rate * x / np.sqrt(m[0] - n.centred * m[1] ** 2 + n.epsilon)
            step = m[2]
        elif rule.name == "adagrad":
            m[0] += x**2
            step = n.rate * x / (np.sqrt(m[0] + n.inner) + n.outer)
        elif rule.name == "adadelta":
            m[0] = n.rho * m[0] + n.fresh * x**2
            change = x * np.sqrt(m[1] + n.epsilon) / np.sqrt(m[0] + n.epsilon)
            m[1] = n.rho * m[1] + n.fresh * change**2
            step = n.rate * change
        elif rule.name in ("adam", "amsgrad"):
            m[0] = n.beta1 * m[0] + n.fresh1 * x
            m[1] = n.beta2 * m[1] + n.fresh2 * x**2
            if rule.name == "adam":
                step = (n.along * m[0] + n.ahead * x) / (np.sqrt(m[1]) * n.root + n.epsilon)
            else:
                m[2] = np.maximum(m[2], m[1])
                step = n.along * m[0] / (np.sqrt(m[2]) * n.root + n.epsilon)
        elif rule.name == "lion":
            step = n.rate * np.sign(n.beta1 * m[0] + n.fresh1 * x)
            m[0] = n.beta2 * m[0] + n.fresh2 * x
        else:
            raise NotImplementedError(f"the reference does not implement the rule {rule.name!r}; add it here, in NumPy.")
        p[...] = n.shrink * p - step


def _kept(first: int, shape: Shape, rate: float, key: int) -> Array:
    """Whether dropout keeps elements of this shape, the first of which has this number."""
    index = np.arange(first + 1, first + prod(shape) + 1, dtype=np.uint64)
    bits = np.uint64(key) + index * np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits = bits ^ (bits >> np.uint64(31))
    return ((bits >> np.uint64(32)) >= np.uint64(round(rate * 2**32))).reshape(shape)


def _positions(starts: Array, t: int, table: Array) -> Array:
    return np.asarray(np.minimum(np.real(starts).astype(int) + t, len(table) - 1))


def _heads(heads: int, *arrays: Array | None) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Views of each pair of a stream and a head: (…, N, A·K) → (…, K), and of vectors (A·K) → (K)."""
    streams = next(array.shape[1] for array in arrays if array is not None)
    for n in range(streams * heads):
        parts = []
        for array in arrays:
            size = 0 if array is None else array.shape[-1] // heads
            columns = slice(n % heads * size, (n % heads + 1) * size)
            parts.append(None if array is None else array[columns] if array.ndim == 1 else array[:, n // heads, columns])
        yield n, tuple(parts)


def _seen(steps: int, reach: int, streams: int, causal: bool, window: int, held: Array | None) -> Array:
    """Whether query t of a stream sees key s (N, T, S)."""
    query, key = np.arange(steps)[:, np.newaxis] + reach - steps, np.arange(reach)
    seen = np.ones((streams, steps, reach), bool)
    if causal:
        seen &= key <= query
    if window:
        seen &= key > query - window
    if held is not None:
        seen &= key >= reach - steps - np.real(held)[:, np.newaxis, np.newaxis]
    return seen


def _scores(q: Array, k: Array, w: Array | None) -> Array:
    """(T, K), (S, K) → (T, S)"""
    return np.asarray(q @ k.T if w is None else np.tanh(q[:, np.newaxis] + k) @ w)


def _softmax(scores: Array) -> tuple[Array, Array]:
    """Weights of the rows, and the logarithms of their sums; zero for rows of -inf."""
    peaks = scores.real.max(1, initial=-np.inf)
    peaks[peaks == -np.inf] = 0
    powers = np.exp(scores - peaks[:, np.newaxis])
    totals = powers.sum(1)
    totals[totals == 0] = 1
    return powers / totals[:, np.newaxis], np.log(totals) + peaks


def _factors(n: int, seen: Array, rate: float, key: int) -> Array:
    """What dropout multiplies the weights of a pair by."""
    steps, reach = seen.shape[1:]
    factors: Array = _kept(n * steps * reach, (steps, reach), rate, key) / (1 - rate)
    return factors


def _drawn(scores: Array, choice: Choice, number: float) -> int:
    if choice.temperature == 0:
        return int(scores.argmax())
    weights = np.exp((scores - scores.max()) / choice.temperature)
    if choice.top_k or choice.top_p < 1:
        order = np.argsort(-scores, kind="stable")  # ties go to the lower ids
    if choice.top_k:
        weights[order[choice.top_k :]] = 0
    if choice.top_p < 1:
        mass = np.cumsum(weights[order])
        kept = int(np.searchsorted(mass, choice.top_p * mass[-1])) + 1
        weights[order[kept:]] = 0
    mass = np.cumsum(weights)
    return int(np.searchsorted(mass, number * mass[-1], side="right"))


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * np.tanh(0.5 * x) + 0.5)


def _gated(activation: str, x: Array) -> Array:
    """x times the sigmoid of a function of x."""
    inside = {"silu": x, "gelu_sigmoid": 1.702 * x, "gelu_tanh": np.sqrt(8 / np.pi) * (x + 0.044715 * x**3)}[activation]
    return np.asarray(x * _sigmoid(inside))


def _taps(x: Array, W: Array, out: Array, stride: int, dilation: int, before: int) -> Iterator[tuple[int, int, int]]:
    """(t, k, s) for each step t of the output and element k of the kernel: it sees step s of x."""
    for t in range(len(out)):
        for k in range(len(W)):
            if 0 <= (s := t * stride + k * dilation - before) < len(x):
                yield t, k, s


def _groups(x: Array, W: Array, groups: int) -> Iterator[tuple[slice, slice]]:
    """The columns of x and of the result that belong together."""
    D, F = x.shape[-1] // groups, W.shape[-1] // groups
    for g in range(groups):
        yield slice(g * D, (g + 1) * D), slice(g * F, (g + 1) * F)


def _windows(x: Array, out: Array, size: int, stride: int, before: int) -> Iterator[slice]:
    """The steps of x that each step of the output sees."""
    for t in range(len(out)):
        first = t * stride - before
        yield slice(max(first, 0), max(first + size, 0))


def _picked(steps: Array, places: Array) -> Array:
    """steps (S, …)[places (…)]"""
    found: Array = np.take_along_axis(steps, places[np.newaxis], 0)[0]
    return found


def _put(values: Array | float, out: Array, add: bool) -> None:
    """out ← values, or with ``add`` out += values."""
    out[...] = values + out if add else values


def _slopes(cell: Cell, points: list[Array], rows: Array, upstream: Array) -> Array:
    """Gradient (rows, N, H) of Σ upstream · equations(*points) with respect to ``rows``, which is one of the points."""
    found = []
    for row in rows:
        row += 1j * STEP
        found.append((cell.equations(*points).imag / STEP * upstream).sum(0))
        row -= 1j * STEP
    return np.stack(found)


def _ended(lengths: Array | None, t: int) -> Array:
    """Whether each stream has ended before step t, broadcastable to (N, S, H)."""
    return np.reshape(False if lengths is None else lengths <= t, (-1, 1, 1))


def _slots(rows: Array) -> Array:
    """(N, G, H) → (G, N, H), the layout of a cell's equations."""
    return np.swapaxes(rows, 0, 1)


def _columns(slots: Array) -> Array:
    return np.swapaxes(slots, 0, 1)
