"""The CPU: Numba kernels on a thread pool. Results are bit for bit the same for any number of threads."""

import sys
from collections.abc import Sequence
from functools import cache
from math import fsum, sqrt
from typing import Any

import numpy as np

from ...activations import POINTWISE
from ...cells import Cell
from ...errors import BackendError, expect_number, expect_one_of
from ...fingerprint import of_modules
from ...memory import Space, host_memory
from ...rules import Rule
from .. import MOST_THREADS
from ..convolution import phase_starts, taps
from ..ops import Choice, Step
from . import attention, convolution, kernels, lookup, losses, norms, pointwise, recurrence, sampling, simd, update
from .decoding import Decoder
from .linear import FEW_ROWS, PACKING, STEPS, TALL, Matrix, add_rows, matrix, multiply, shares, zeros
from .packing import pack
from .processors import default_threads
from .threads import Pool, blocks, cut, split
from .workspace import Workspace, aligned

kernels.CODE.append(of_modules(module for name, module in sorted(sys.modules.items()) if name.startswith(f"{__name__}.")))

LOGITS = 1 << 22  # elements: at most 16 MB of float32 logits exist at any time

Array = np.ndarray
Shape = tuple[int, ...]

_EVERYWHERE = np.empty(0, np.int32)  # lengths that end no stream

_pool = cache(Pool)


class Backend:
    """See :class:`numba_rnnlm.backends.ops.Ops` for what each verb does."""

    name = "cpu"

    def __init__(self, dtype: Any = None, threads: int | None = None, precision: str = "float32") -> None:
        self.dtype = np.dtype(dtype or np.float32)
        expect_one_of("dtype", self.dtype.name, ("float32", "float64"))
        self.precision = precision
        if precision == "tf32":
            raise BackendError('precision is "tf32", which needs a GPU; backend="cpu" accepts "float32" and "bf16".')
        if precision == "bf16" and (self.dtype != np.float32 or not simd.HAS_BF16):
            raise BackendError('precision is "bf16", which needs float32 weights and a processor with AVX512_BF16 '
                               '(see numba-rnnlm info); use precision="float32".')
        self.factor = np.dtype(np.int32) if precision == "bf16" else self.dtype  # the type that B is packed in
        self.threads = default_threads() if threads is None else threads
        expect_number("threads", self.threads, 1, MOST_THREADS, whole=True)
        self.pool = _pool(int(self.threads))
        self.workspace = Workspace()

    def __reduce__(self) -> Any:
        return Backend, (self.dtype.name, self.threads, self.precision)  # threads cannot be pickled

    def rounding(self) -> str:
        return f"{self.name}, {'float64' if self.dtype == np.float64 else self.precision}"  # not on the processor: docs/kernels.md

    # arrays

    def memory(self, held: int = 0) -> Space:
        return host_memory()

    def empty(self, shape: Shape) -> Array:
        return aligned(shape, self.dtype)

    def upload(self, array: Array) -> Array:
        return np.ascontiguousarray(array, np.int32 if array.dtype.kind in "iub" else self.dtype)

    def download(self, array: Array) -> Array:
        return np.array(array)

    def copy(self, source: Array, out: Array) -> None:
        out[...] = source

    def fill(self, out: Array, value: float) -> None:
        self._elementwise(update.fill, out.size, out.reshape(-1), out.dtype.type(value))

    def add(self, x: Array, out: Array, scale: float = 1.0, first: int = 0) -> None:
        if x.size == out.size:
            self._elementwise(pointwise.add, out.size, x.reshape(-1), out.reshape(-1), self.dtype.type(scale))
            return
        x, out = x.reshape(-1, x.shape[-1]), out.reshape(-1, out.shape[-1])
        self._elementwise(pointwise.add_columns, len(x), x, out, self.dtype.type(scale), first, each=min(x.shape[1], out.shape[1]))

    def reverse(self, x: Array, lengths: Array | None, out: Array) -> None:
        steps, streams, _ = x.shape
        lengths = np.full(streams, steps, np.int32) if lengths is None else lengths
        self._elementwise(lookup.reverse, steps, x, lengths, out, each=x.size // max(steps, 1))

    # lookup

    def gather(self, table: Array, ids: Array, out: Array) -> None:
        rows = out.reshape(-1, out.shape[-1])
        self._elementwise(lookup.gather, rows.shape[0], table, ids.reshape(-1), rows, each=rows.shape[1])

    def scatter_add(self, ids: Array, rows: Array, table: Array) -> None:
        width = table.shape[1]
        self._elementwise(lookup.scatter_add, width, table, ids.reshape(-1), rows.reshape(-1, width), each=ids.size)

    def add_positions(self, table: Array, starts: Array, out: Array) -> None:
        self._elementwise(lookup.add_positions, len(out), table, starts, out, each=out.size // max(len(out), 1))

    def add_positions_backward(self, dout: Array, starts: Array, dtable: Array, add: bool = False) -> None:
        width = dtable.shape[1]
        self._elementwise(lookup.add_positions_backward, width, dtable, starts, dout, add, each=dout.size // width)

    # linear

    def project(
        self, x: Array, W: Array, b: Array | None, out: Array, first: int = 0, transposed: bool = False, add: bool = False
    ) -> None:
        columns, width = W.shape[0] if transposed else W.shape[1], out.shape[-1]
        weights = matrix(W).T if transposed else matrix(W)
        if add:
            if b is not None:
                out.reshape(-1, width)[...] += b.reshape(-1)
            self._multiply(matrix(x), weights, matrix(out, first, columns))
            return
        start = zeros(out)
        if b is not None:
            start = Matrix(b.reshape(-1), first, out.size // width, columns, 0, 1)  # the bias for every row
        for edge, last in ((0, first), (first + columns, width)):  # slots that x is not projected into
            if edge < last:
                bias = 0 if b is None else b.reshape(-1)[edge:last]
                out.reshape(-1, width)[:, edge:last] = bias
        self._multiply(matrix(x), weights, matrix(out, first, columns), start)

    def project_backward(
        self, x: Array, W: Array, dout: Array, dx: Array | None, dW: Array, db: Array | None,
        first: int = 0, transposed: bool = False, add: bool = False,
    ) -> None:
        columns = W.shape[0] if transposed else W.shape[1]
        dz = matrix(dout, first, columns)
        self._add_gradient(matrix(x), dz, dW, 0, dz.rows, transposed, add)
        if db is not None:
            self._add_rows(dout, db, True, add)
        if dx is not None:
            self._input_gradient(dz, W, dx, transposed)

    def _input_gradient(self, dz: Matrix, W: Array, dx: Array, transposed: bool) -> None:
        weights = matrix(W)
        self._multiply(dz, weights if transposed else weights.T, matrix(dx), zeros(dx), in_blocks=True)

    def _add_gradient(self, x: Matrix, dz: Matrix, dW: Array, first: int, rows: int, transposed: bool, add: bool) -> None:
        """Accumulate dW, or dWᵀ if ``transposed``, over one chunk of ``rows`` rows, which starts at row ``first``.

        The sum does not depend on the chunks: it adds blocks of STEPS rows in order, each summed as one chain, to zero or, with
        ``add``, to dW.
        """
        a, b = (dz, x) if transposed else (x, dz)
        last = first + x.rows
        head = min(last, max(STEPS, -(-first // STEPS) * STEPS))  # end of the block that the previous chunk began
        tail = last if last == rows else max(head, last // STEPS * STEPS)  # start of the block that the next chunk ends
        for begin, end in ((first, head), (head, tail), (tail, last)):
            if begin == end and not (begin == last == 0):
                continue
            left, right = a.part(begin - first, end - first).T, b.part(begin - first, end - first)
            if end <= STEPS and not add:
                self._multiply(left, right, matrix(dW), zeros(dW) if begin == 0 else None)
            elif begin % STEPS == 0 and (end % STEPS == 0 or end == rows):
                self._multiply(left, right, matrix(dW), in_blocks=True)
            else:
                block = self.workspace.take("block", (dW.size,), self.dtype).reshape(dW.shape)
                self._multiply(left, right, matrix(block), zeros(dW) if begin % STEPS == 0 else None)
                if end % STEPS == 0 or end == rows:
                    dW += block

    def _multiply(self, a: Matrix, b: Matrix, c: Matrix, d: Matrix | None = None, in_blocks: bool = False) -> None:
        multiply(self.pool, self.workspace, a, b, c, d, self.factor, in_blocks)

    def _add_rows(self, rows: Array, total: Array, first: bool, add: bool) -> None:
        """total = sum of the rows of all calls since the ``first``, plus, with ``add``, what total held before that."""
        width = rows.shape[-1]
        height = rows.size // width
        sums = self.workspace.take("column sums", (width,), np.float64)
        self.pool.run(add_rows, cut(width, self.pool.parts(rows.size), 16), rows.reshape(-1), height, width, sums, total.reshape(-1), first, add)

    # convolution

    def convolve(
        self, x: Array, W: Array, b: Array | None, out: Array, stride: int = 1, dilation: int = 1, before: int = 0, groups: int = 1
    ) -> None:
        phases, starts = self._phases(x, stride)
        found = [tap.rows(x.shape[1], starts) for tap in taps(len(x), len(out), len(W), stride, dilation, before)]
        self._shifted_products(found, phases, W, b, out, groups)

    def convolve_backward(
        self, x: Array, W: Array, dout: Array, dx: Array | None, dW: Array, db: Array | None,
        stride: int = 1, dilation: int = 1, before: int = 0, groups: int = 1, add: bool = False,
    ) -> None:
        phases, starts = self._phases(x, stride)
        streams, found = x.shape[1], taps(len(x), len(dout), len(W), stride, dilation, before)
        self._shifted_gradients([tap.rows(streams, starts) for tap in found], phases, dout, dW, groups, add)
        if db is not None:
            self._add_rows(dout, db, True, add)
        if dx is None:
            return
        for phase in range(stride):
            turned = [tap.turned.rows(streams) for tap in found if tap.phase == phase]
            part = dx if stride == 1 else self._like("phase", dx[phase::stride])
            self._shifted_products(turned, dout, W, None, part, groups, transposed=True)
            if stride > 1:
                dx[phase::stride] = part

    def _shifted_products(
        self, found: Sequence[tuple[int, int, int, int]], x: Array, W: Array, b: Array | None, out: Array, groups: int, transposed: bool = False
    ) -> None:
        """Rows of out ← b + the sum of shifted rows of x times W[k], or W[k]ᵀ if ``transposed``."""
        inputs, width = W.shape[1:]
        filters = width // groups
        k, n = (filters, inputs) if transposed else (inputs, filters)
        rows = out.size // out.shape[-1]
        work = rows * len(found) * k * n * groups
        if rows <= FEW_ROWS and groups == 1 and self.factor == self.dtype:  # packing W would cost more than it saves
            out[...] = 0 if b is None else b
            for tap, first, last, shift in found:
                weights = matrix(W[tap]).T if transposed else matrix(W[tap])
                self._multiply(matrix(x).part(first + shift, last + shift), weights, matrix(out).part(first, last))
            return
        bounds, _ = shares(rows, n, self.pool.parts(work), simd.lanes(out))
        panels, pairs = self._packing(len(bounds), len(found), k, TALL)
        self.pool.run(
            convolution.shifted_products, bounds, np.array(found, np.int64).reshape(-1, 4), x.reshape(-1), x.shape[-1], k,
            W.reshape(-1), inputs * width, filters, *((1, width) if transposed else (width, 1)), n, groups,
            np.empty(0, self.dtype) if b is None else b, out.reshape(-1), out.shape[-1], panels, pairs)

    def _shifted_gradients(self, found: Sequence[tuple[int, int, int, int]], x: Array, dout: Array, dW: Array, groups: int, add: bool) -> None:
        """dW[k] ← or += the product of shifted rows of x, transposed, and rows of dout."""
        inputs, filters = dW.shape[1], dW.shape[2] // groups
        rows = dout.size // dout.shape[-1]
        bounds, height = shares(inputs, filters, self.pool.parts(rows * dW.size), simd.lanes(dW))
        panels, pairs = self._packing(len(bounds), 1, convolution.DEEP, height)
        sums = self.workspace.take("sums", (len(bounds), len(found) * height * simd.VECTORS * simd.lanes(dW)), self.dtype)
        self.pool.run(
            convolution.shifted_gradients, bounds, np.array(found, np.int64).reshape(-1, 4), x.reshape(-1), x.shape[-1], inputs,
            dout.reshape(-1), dout.shape[-1], filters, groups, rows, dW.reshape(-1), dW[0].size, panels, pairs, sums, add)

    def _packing(self, parts: int, panels: int, steps: int, rows: int) -> tuple[Array, Array]:
        """Scratch of each part for so many packed panels, and for so many rows of rounded factors, which is empty if nothing is rounded."""
        rounded = self.factor == np.int32
        steps = (steps + 1) // 2 if rounded else steps
        return (self.workspace.take("panels", (parts, panels * steps * simd.VECTORS * simd.lanes(np.empty(0, self.dtype))), self.factor),
                self.workspace.take("pairs", (parts, steps * rows if rounded else 0), np.int32))

    def pool_steps(self, x: Array, out: Array, kind: str, size: int, stride: int, before: int = 0) -> None:
        x, out = _flat(x), _flat(out)
        rows, columns = out.shape
        parts = self.pool.parts(out.size * min(size, len(x)))
        bounds = blocks(rows, columns, min(parts, rows), parts if rows < parts else 1)
        scratch = self.workspace.take("pooled", (len(bounds), columns), np.float64)
        self.pool.run(convolution.pool, bounds, x, out, kind == "mean", size, stride, before, scratch)

    def pool_steps_backward(
        self, x: Array, out: Array, dout: Array, dx: Array, kind: str, size: int, stride: int, before: int = 0
    ) -> None:
        x, out, dout, dx = map(_flat, (x, out, dout, dx))
        columns = x.shape[1]
        bounds = cut(columns, self.pool.parts(out.size * min(size, len(x))), 16)
        scratch = self.workspace.take("pooled", (len(bounds), columns), np.float64)
        self.pool.run(convolution.pool_backward, bounds, x, out, dout, dx, kind == "mean", size, stride, before, scratch)

    def _phases(self, x: Array, stride: int) -> tuple[Array, list[int]]:
        """x with its steps in the order of their number modulo the stride, and where each of these phases starts."""
        starts = phase_starts(len(x), stride)
        if stride == 1:
            return x, starts
        phases = self._like("phases", x)
        for phase in range(stride):
            phases[starts[phase] : starts[phase + 1]] = x[phase::stride]
        return phases, starts

    def _like(self, name: str, array: Array) -> Array:
        """A buffer of the shape of this array."""
        return self.workspace.take(name, (array.size,), self.dtype).reshape(array.shape)

    # time

    def recur(
        self, cell: Cell, U: Array | None, z: Array, s: Array, w: Array | None = None, lengths: Array | None = None
    ) -> None:
        steps, streams, _, hidden = z.shape
        w, lengths = self._rows(w, hidden), _EVERYWHERE if lengths is None else lengths
        if U is None:
            self.pool.run(recurrence.scan, self._scan_bounds(z), cell, w, lengths, z, s)
            return
        few = steps * streams <= PACKING and self.factor == self.dtype
        packed = np.empty(0, self.factor) if few else self._pack(U, U.shape[0], U.shape[1], U.shape[1], 1)
        bounds = self._streams(z, U)
        self.pool.run(recurrence.recur, bounds, cell, U, packed, self._pairs(bounds, U.shape[0]), cell.window("h"), w, lengths, z, s)

    def recur_backward(
        self, cell: Cell, U: Array | None, z: Array, s: Array, dy: Array | None, d: Array, dU: Array | None,
        w: Array | None = None, dw: Array | None = None, lengths: Array | None = None, add: bool = False,
    ) -> None:
        steps, streams, gates, hidden = z.shape
        slots = cell.window("h")
        dy = np.empty((0, streams, hidden), self.dtype) if dy is None else dy
        w, lengths = self._rows(w, hidden), _EVERYWHERE if lengths is None else lengths
        sums = np.zeros((-(-steps // recurrence.CHAIN), streams, *w.shape), self.dtype)
        if U is None:
            self.pool.run(recurrence.scan_backward, self._scan_bounds(z), cell, w, lengths, z, s, dy, d, sums)
        else:
            packed, bounds = self._pack(U, U.shape[1], U.shape[0], 1, U.shape[1]), self._streams(z, U)
            self.pool.run(recurrence.recur_backward, bounds, cell, packed, self._pairs(bounds, U.shape[1]), slots, w, lengths, z, s, dy, d, sums)
        if dw is not None:
            self._add_rows(sums.reshape(-1, w.size), dw, True, add)
        if U is not None and dU is not None:
            previous = matrix(s[:-1].reshape(steps * streams, -1), 0, hidden)
            dz = matrix(z.reshape(steps * streams, gates * hidden), slots[0] * hidden, U.shape[1])
            self._multiply(previous.T, dz, matrix(dU), None if add else zeros(dU), in_blocks=True)

    def _rows(self, rows: Array | None, width: int) -> Array:
        """The array, or an empty one (0, width) for None."""
        return np.empty((0, width), self.dtype) if rows is None else rows

    def _streams(self, z: Array, U: Array) -> Array:
        """Range of streams of each part of a time loop."""
        steps, streams = z.shape[:2]
        return cut(streams, self.pool.parts(steps * streams * U.size))

    def _scan_bounds(self, z: Array) -> Array:
        """Range of streams and of units of each part of a scan: of units where there are fewer streams than threads."""
        _, streams, _, hidden = z.shape
        parts = self.pool.parts(z.size * 8)
        return blocks(streams, hidden, min(parts, streams), parts if streams < parts else 1)

    def _pack(self, b: Array, k: int, n: int, step_stride: int, column_stride: int) -> Array:
        """b (k, n) packed into panels for the register tile."""
        width = simd.VECTORS * simd.lanes(b)
        panels = -(-n // width)
        lines = (k + 1) // 2 if self.factor == np.int32 else k
        packed = self.workspace.take("packed", (panels * lines * width,), self.factor)
        self.pool.run(pack, cut(panels, self.pool.parts(k * n * PACKING)),
                      b.reshape(-1), 0, step_stride, column_stride, k, n, packed)
        return packed

    def _pairs(self, bounds: Array, k: int) -> Array:
        """Scratch for the rounded factors of each part's rows; empty if factors are not rounded."""
        rows = int((bounds[:, 1] - bounds[:, 0]).max()) if self.factor == np.int32 else 0
        return self.workspace.take("pairs", (len(bounds), rows * ((k + 1) // 2)), np.int32)

    # attention

    def attend(
        self, q: Array, k: Array, v: Array, out: Array, sums: Array, heads: int = 1, scale: float = 1.0, causal: bool = False, window: int = 0,
        held: Array | None = None, w: Array | None = None, rate: float = 0.0, key: int = 0,
    ) -> None:
        (steps, streams, width), reach = q.shape, k.shape[0]
        parts = self.pool.parts(steps * reach * streams * (width + v.shape[2]) // (1 + causal))
        bounds = attention.forward_parts(streams * heads, steps, reach, causal, window, parts)
        self.pool.run(attention.attend, bounds, q, k, v, out, sums, heads, self.dtype.type(scale), causal, window,
                      *self._attention(heads, q, v, held, w, rate, key, len(bounds), backward=False))

    def attend_backward(
        self, q: Array, k: Array, v: Array, out: Array, sums: Array, dout: Array, dq: Array, dk: Array, dv: Array, heads: int = 1,
        scale: float = 1.0, causal: bool = False, window: int = 0, held: Array | None = None, w: Array | None = None, dw: Array | None = None,
        rate: float = 0.0, key: int = 0, add: bool = False,
    ) -> None:
        (steps, streams, width), reach = q.shape, k.shape[0]
        parts = self.pool.parts(steps * reach * streams * (3 * width + 2 * v.shape[2]) // (1 + causal))
        bounds = attention.backward_parts(streams * heads, steps, reach, causal, window, parts)
        held, w, *rest = self._attention(heads, q, v, held, w, rate, key, len(bounds), backward=True)
        rows = np.zeros((streams, -(-reach // attention.KEYS), w.size), self.dtype)
        self.pool.run(attention.attend_backward, bounds, q, k, v, out, sums, dout, dq, dk, dv, heads, self.dtype.type(scale), causal, window,
                      held, w, rows, *rest)
        if dw is not None:
            self._add_rows(rows, dw, True, add)

    def _attention(
        self, heads: int, q: Array, v: Array, held: Array | None, w: Array | None, rate: float, key: int, parts: int, backward: bool
    ) -> tuple[Any, ...]:
        """What both kernels receive in the end: held, w, key, threshold and factor of dropout, and scratch for each part."""
        size = attention.scratch(q.shape[2] // heads, v.shape[2] // heads, backward)
        nothing, real = np.empty(0, self.dtype), self.dtype.type
        return (nothing if held is None else held, nothing if w is None else w, np.uint64(key), np.uint64(round(rate * 2**32)),
                real(1 / (1 - rate)), self.workspace.take("attention", (parts, size), self.dtype))

    # pointwise

    def activate(self, activation: str, x: Array) -> None:
        if activation == "softmax":
            rows = x.reshape(-1, x.shape[-1])
            bounds = cut(rows.shape[0], self.pool.parts(rows.size * 16))
            scratch = self.workspace.take("exponentials", (len(bounds), rows.shape[1]), self.dtype)
            self.pool.run(pointwise.softmax, bounds, rows, scratch)
        elif activation != "linear":
            self._elementwise(pointwise.activate, x.size, POINTWISE[activation], x.reshape(-1), each=8)

    def activate_backward(self, activation: str, y: Array, dy: Array) -> None:
        if activation == "softmax":
            rows = y.reshape(-1, y.shape[-1])
            self._elementwise(
                pointwise.softmax_backward, rows.shape[0], rows, dy.reshape(rows.shape), each=rows.shape[1] * 4
            )
        elif activation != "linear":
            f = POINTWISE[activation]
            self._elementwise(pointwise.activate_backward, y.size, f, y.reshape(-1), dy.reshape(-1), each=8 if f.of_input else 1)

    def multiply(self, x: Array, y: Array, out: Array, add: bool = False) -> None:
        self._elementwise(pointwise.multiply, out.size, x.reshape(-1), y.reshape(-1), out.reshape(-1), add)

    def normalize(
        self, x: Array, gain: Array | None, offset: Array | None, epsilon: float, centred: bool, out: Array, stats: Array
    ) -> None:
        gain, offset = self._vector(gain), self._vector(offset)
        self._elementwise(norms.normalize, len(x), x, gain, offset, self.dtype.type(epsilon), centred, out, stats, each=x.shape[1] * 4)

    def normalize_backward(
        self, x: Array, gain: Array | None, centred: bool, stats: Array, dout: Array, dx: Array, dgain: Array | None, doffset: Array | None,
        add: bool = False,
    ) -> None:
        chains, width = -(-len(x) // norms.CHAIN), x.shape[1]
        bounds = cut(chains, self.pool.parts(x.size * 8))
        gradients = [self.workspace.take(name, (chains * width,), self.dtype).reshape(chains, width) for name in ("gains", "offsets")]
        scratch = self.workspace.take("normal", (len(bounds), width), self.dtype)
        self.pool.run(norms.normalize_backward, bounds, x, self._vector(gain), centred, stats, dout, dx, scratch, *gradients)
        for rows, total in zip(gradients, (dgain, doffset), strict=True):
            if total is not None:
                self._add_rows(rows, total, True, add)

    def _vector(self, vector: Array | None) -> Array:
        """The array, or an empty one for None."""
        return np.empty(0, self.dtype) if vector is None else vector

    def dropout(self, x: Array, out: Array, rate: float, key: int) -> None:
        real = self.dtype.type
        threshold = np.uint64(round(rate * 2**32))
        self._elementwise(
            pointwise.dropout, x.size, x.reshape(-1), out.reshape(-1), np.uint64(key), threshold, real(1 / (1 - rate)),
            each=8,
        )

    # loss

    def cross_entropy(
        self, x: Array, W: Array, b: Array | None, targets: Array, losses: Array, transposed: bool = False
    ) -> None:
        for rows, logits in self._logits(x, W, b, transposed):
            self._cross_entropy_rows(logits, targets[rows], losses[rows], 0.0, False)

    def cross_entropy_backward(
        self, x: Array, W: Array, b: Array | None, targets: Array, scale: float, losses: Array,
        dx: Array, dW: Array, db: Array | None, transposed: bool = False, add: bool = False,
    ) -> None:
        for rows, logits in self._logits(x, W, b, transposed):
            self._cross_entropy_rows(logits, targets[rows], losses[rows], scale, True)
            dz = matrix(logits)
            self._add_gradient(matrix(x[rows]), dz, dW, rows.start, x.shape[0], transposed, add)
            if db is not None:
                self._add_rows(logits, db, rows.start == 0, add)
            self._input_gradient(dz, W, dx[rows], transposed)

    def _logits(self, x: Array, W: Array, b: Array | None, transposed: bool) -> Any:
        """(rows, their logits) in chunks of nearly equal size that share one buffer."""
        vocabulary = W.shape[0] if transposed else W.shape[1]
        chunks = -(-x.shape[0] // max(1, LOGITS // vocabulary))
        parts = split(x.shape[0], chunks)
        for first, last in parts:
            logits = self.workspace.take("logits", ((last - first) * vocabulary,), self.dtype).reshape(-1, vocabulary)
            self.project(x[first:last], W, b, logits, transposed=transposed)
            yield slice(first, last), logits

    def _cross_entropy_rows(
        self, logits: Array, targets: Array, rows: Array, scale: float, gradient: bool
    ) -> None:
        self._elementwise(
            losses.softmax_cross_entropy, rows.size, logits, targets, rows, self.dtype.type(scale), gradient,
            each=logits.shape[1] * 16,
        )

    def binary_cross_entropy(self, logits: Array, targets: Array, losses: Array) -> None:
        self._binary(logits, targets, losses, 0.0, False)

    def binary_cross_entropy_backward(self, logits: Array, targets: Array, scale: float, losses: Array) -> None:
        self._binary(logits, targets, losses, scale, True)

    def _binary(self, logits: Array, targets: Array, rows: Array, scale: float, gradient: bool) -> None:
        width = logits.shape[-1]
        self._elementwise(
            losses.sigmoid_cross_entropy, rows.size, logits.reshape(-1, width), targets.reshape(-1, width), rows,
            self.dtype.type(scale), gradient, each=width * 32,
        )

    # decoding

    def choose(self, scores: Array, choice: Choice, numbers: np.ndarray, ids: Array) -> None:
        streams, symbols = scores.shape
        bounds = cut(streams, self.pool.parts(scores.size * 16))
        weights = self.workspace.take("weights", (len(bounds), symbols), np.float32)
        self.pool.run(sampling.choose_rows, bounds, scores, ids, numbers, tuple(choice), weights)

    def decoder(self, table: Array | None, steps: Sequence[Step], weights: str) -> Decoder | None:
        return Decoder(self, table, steps, weights) if self.dtype == np.float32 else None

    # update

    def norm(self, x: Array) -> float:
        sums = np.empty(-(-x.size // update.BLOCK), np.float64)
        self._elementwise(update.sum_of_squares, sums.size, x, sums, each=update.BLOCK)
        return sqrt(fsum(sums))

    def update(self, rule: Rule, p: Array, g: Array, m: Array, h: np.ndarray) -> None:
        self.pool.run(update.update, cut(p.size, self.pool.parts(p.size * 8), 16), rule, p, g, m, h.astype(self.dtype))

    def _elementwise(self, function: Any, size: int, *arguments: Any, each: int = 1) -> None:
        """Run a kernel over range(size), split among threads; ``each`` is the work per index."""
        self.pool.run(function, cut(size, self.pool.parts(size * each)), *arguments)


def _flat(array: Array) -> Array:
    """(T, N, D) as a matrix with a row for each step."""
    return array.reshape(len(array), array.shape[1] * array.shape[2])
