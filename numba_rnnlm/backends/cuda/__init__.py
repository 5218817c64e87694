"""An NVIDIA GPU: Numba kernels on one stream.

Every run on the same GPU model gives the same bits: no sum depends on which thread comes first. How products and time loops
are split depends on the number of multiprocessors and on shared memory, so another model rounds differently.
"""

import sys
import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import isfinite, sqrt
from typing import Any

import numpy as np

from ...cells import Cell
from ...errors import ConfigError, expect_one_of
from ...fingerprint import of_modules
from ...memory import Space
from ...reports import warn
from ...rules import Rule
from ..convolution import phase_starts, taps
from ..ops import PRECISIONS, Choice, Step
from . import (
    attention,
    device,
    driver,
    kept,
    launch,
    linear,
    lookup,
    losses,
    norms,
    pointwise,
    pooling,
    recurrence,
    sampling,
    update,
)
from .arrays import DeviceArray, foreign
from .driver import Refused
from .launch import THREADS, blocks
from .linear import Matrix, matrix

kept.CODE.append(of_modules(module for name, module in sorted(sys.modules.items()) if name.startswith(f"{__name__}.")))

SMALL = 1 << 18  # bytes up to which an upload is asynchronous
LOGITS = 1 << 24  # elements: at most 64 MB of logits exist at any time

Shape = tuple[int, ...]


class Backend:
    """See :class:`numba_rnnlm.backends.ops.Ops` for what each verb does.

    Work is queued on CUDA's default stream and runs while Python continues; ``download`` and ``norm`` wait for it.
    """

    name = "cuda"
    dtype = np.dtype(np.float32)
    threads = 1  # on the host

    def __init__(self, dtype: Any = None, threads: int | None = None, precision: str = "float32") -> None:
        if np.dtype(dtype or np.float32) != self.dtype:
            raise ConfigError(f'dtype is {np.dtype(dtype).name!r}, backend="cuda" expects \'float32\'; float64 is for '
                              'backend="cpu" and "reference".')
        expect_one_of("precision", precision, PRECISIONS)
        self.precision = precision
        self._rooms = threading.local()

    def __reduce__(self) -> Any:
        return Backend, (None, None, self.precision)

    def rounding(self) -> str:
        return f"{self.name}, {self.precision}, {launch.model()}"

    # arrays

    def memory(self, held: int = 0) -> Space:
        return launch.memory(held)

    def empty(self, shape: Shape) -> DeviceArray:
        return DeviceArray.new(shape, self.dtype)

    def upload(self, array: Any) -> DeviceArray:
        if isinstance(array, DeviceArray):
            return array
        if hasattr(array, "__cuda_array_interface__"):
            found = foreign(array)
            expect_one_of("dtype of an array on the device", found.dtype.name, ("float32", "int32"))
            return found
        array = np.asarray(array)
        source = np.ascontiguousarray(array, np.int32 if array.dtype.kind in "iub" else self.dtype)
        target = DeviceArray.new(array.shape, source.dtype)
        if source.nbytes <= SMALL:
            launch.to_device_soon(source, target, self._staging())
        else:
            launch.to_device(source, target)
        return target

    def download(self, array: DeviceArray) -> np.ndarray:
        if not array.is_contiguous:
            plain = DeviceArray.new(array.shape, array.dtype)
            self.copy(array, plain)
            array = plain
        return launch.to_host(array)

    def copy(self, source: DeviceArray, out: DeviceArray) -> None:
        if source.is_contiguous and out.is_contiguous:
            launch.on_device(source, out)
            return
        if source.ndim > 3:
            for part in range(len(source)):
                self.copy(source[part], out[part])
            return
        (planes, rows, columns), strides, out_strides = _three_axes(source.shape, source.strides, out.strides)
        pointwise.copy(blocks(source.size), THREADS, _flat(source), *strides, _flat(out), *out_strides, rows, columns,
                       planes * rows * columns)

    def fill(self, out: DeviceArray, value: float) -> None:
        launch.fill(out, value)

    def add(self, x: DeviceArray, out: DeviceArray, scale: float = 1.0, first: int = 0) -> None:
        if x.size == out.size:
            pointwise.add(blocks(out.size), THREADS, x, out, scale, out.size)
            return
        size = min(x.size, out.size)
        pointwise.add_columns(blocks(size), THREADS, x, x.shape[-1], out, out.shape[-1], scale, first, size)

    def reverse(self, x: DeviceArray, lengths: DeviceArray | None, out: DeviceArray) -> None:
        lookup.reverse(blocks(x.size), THREADS, x, _or_nothing(lengths), out, *x.shape, x.size)

    def _room(self, name: str, size: int, dtype: Any = np.float32) -> DeviceArray:
        """A buffer for intermediate results, reused by later calls; each Python thread has its own."""
        rooms: dict[str, dict[int, DeviceArray]] = self._rooms.__dict__.setdefault("arrays", {})
        views = rooms.get(name, {})  # size → view; the largest is the whole buffer
        if size in views:
            return views[size]
        most = max(views, default=0)
        if not views or most < size:
            views.clear()  # free the smaller buffer before allocating the larger one
            rooms[name] = {size: DeviceArray.new((size,), np.dtype(dtype))}
        else:
            views[size] = views[most][:size]
        return rooms[name][size]

    def _staging(self) -> driver.Staging:
        staging: driver.Staging = self._rooms.__dict__.setdefault("staging", driver.Staging())
        return staging

    # lookup

    def gather(self, table: DeviceArray, ids: DeviceArray, out: DeviceArray) -> None:
        lookup.gather(blocks(out.size), THREADS, table, ids, out, *table.shape, out.size)

    def scatter_add(self, ids: DeviceArray, rows: DeviceArray, table: DeviceArray) -> None:
        symbols, columns = table.shape
        by_id = symbols <= ids.size
        grid = (symbols if by_id else ids.size), -(-columns // lookup.COLUMNS)
        lookup.scatter_add(grid, lookup.COLUMNS * lookup.LANES, table, ids, rows, symbols, ids.size, columns, by_id)

    def add_positions(self, table: DeviceArray, starts: DeviceArray, out: DeviceArray) -> None:
        lookup.add_positions(blocks(out.size), THREADS, table, starts, out, *table.shape, out.shape[1], out.size)

    def add_positions_backward(self, dout: DeviceArray, starts: DeviceArray, dtable: DeviceArray, add: bool = False) -> None:
        lookup.add_positions_backward(blocks(dtable.size), THREADS, dtable, starts, dout, *dtable.shape, *dout.shape[:2], dtable.size, add)

    # linear

    def project(
        self, x: DeviceArray, W: DeviceArray, b: DeviceArray | None, out: DeviceArray, first: int = 0,
        transposed: bool = False, add: bool = False,
    ) -> None:
        columns = W.shape[0] if transposed else W.shape[1]
        weights = matrix(W).T if transposed else matrix(W)
        whole = columns == out.shape[-1]
        if not whole and (b is not None or not add):
            linear.set_rows(blocks(out.size), THREADS, out, out.shape[-1], _or_nothing(b), out.size, add)
        self._multiply(matrix(x), weights, matrix(out, first, columns), keep=add or not whole, bias=b if whole else None)

    def project_backward(
        self, x: DeviceArray, W: DeviceArray, dout: DeviceArray, dx: DeviceArray | None, dW: DeviceArray,
        db: DeviceArray | None, first: int = 0, transposed: bool = False, add: bool = False,
    ) -> None:
        columns = W.shape[0] if transposed else W.shape[1]
        dz, inputs, weights = matrix(dout, first, columns), matrix(x), matrix(W)
        if dz.rows == 0:
            for gradient in (dW, db):
                if gradient is not None and not add:
                    self.fill(gradient, 0)
            return
        if transposed:
            self._multiply(dz.T, inputs, matrix(dW), keep=add)
        else:
            self._multiply(inputs.T, dz, matrix(dW), keep=add)
        if db is not None:
            width = dout.shape[-1]
            self._add_rows(dout, dout.size // width, width, db, add)
        if dx is not None:
            self._multiply(dz, weights if transposed else weights.T, matrix(dx), keep=False)

    def _add_rows(self, rows: DeviceArray, count: int, width: int, total: DeviceArray, add: bool) -> None:
        linear.add_rows(-(-width // linear.COLUMNS), linear.COLUMNS * linear.LANES, rows, count, width, total, add)

    def _multiply(self, a: Matrix, b: Matrix, c: Matrix, keep: bool, bias: DeviceArray | None = None) -> None:
        linear.multiply(self.precision, lambda size: self._room("products", size), a, b, c, keep, bias)

    # convolution

    def convolve(
        self, x: DeviceArray, W: DeviceArray, b: DeviceArray | None, out: DeviceArray,
        stride: int = 1, dilation: int = 1, before: int = 0, groups: int = 1,
    ) -> None:
        phases, starts = self._phases(x, stride)
        linear.set_rows(blocks(out.size), THREADS, out, out.shape[-1], _or_nothing(b), out.size, False)
        inputs, filters = W.shape[1], W.shape[2] // groups
        for tap in taps(len(x), len(out), len(W), stride, dilation, before):
            k, first, last, shift = tap.rows(x.shape[1], starts)
            for g in range(groups):
                seen = matrix(phases, g * inputs, inputs).part(first + shift, last + shift)
                self._multiply(seen, matrix(W[k], g * filters, filters), matrix(out, g * filters, filters).part(first, last), keep=True)

    def convolve_backward(
        self, x: DeviceArray, W: DeviceArray, dout: DeviceArray, dx: DeviceArray | None, dW: DeviceArray, db: DeviceArray | None,
        stride: int = 1, dilation: int = 1, before: int = 0, groups: int = 1, add: bool = False,
    ) -> None:
        phases, starts = self._phases(x, stride)
        inputs, filters = W.shape[1], W.shape[2] // groups
        dphases = self._room("gradients of phases", x.size).reshape(x.shape) if dx is not None and stride > 1 else dx
        if not add:
            self.fill(dW, 0)
        if dphases is not None:
            self.fill(dphases, 0)
        for tap in taps(len(x), len(dout), len(W), stride, dilation, before):
            k, first, last, shift = tap.rows(x.shape[1], starts)
            for g in range(groups if first < last else 0):
                seen = matrix(phases, g * inputs, inputs).part(first + shift, last + shift)
                dz = matrix(dout, g * filters, filters).part(first, last)
                self._multiply(seen.T, dz, matrix(dW[k], g * filters, filters), keep=True)
                if dphases is not None:
                    weights = matrix(W[k], g * filters, filters)
                    self._multiply(dz, weights.T, matrix(dphases, g * inputs, inputs).part(first + shift, last + shift), keep=True)
        if db is not None:
            self._add_rows(dout, dout.size // dout.shape[-1], dout.shape[-1], db, add)
        if dx is not None and dphases is not None and stride > 1:
            for phase in range(stride):
                self.copy(dphases[starts[phase] : starts[phase + 1]], _every(dx, phase, stride))

    def _phases(self, x: DeviceArray, stride: int) -> tuple[DeviceArray, list[int]]:
        """x with its steps in the order of their number modulo the stride, and where each of these phases starts."""
        starts = phase_starts(len(x), stride)
        if stride == 1:
            return x, starts
        phases = self._room("phases", x.size).reshape(x.shape)
        for phase in range(stride):
            self.copy(_every(x, phase, stride), phases[starts[phase] : starts[phase + 1]])
        return phases, starts

    def pool_steps(self, x: DeviceArray, out: DeviceArray, kind: str, size: int, stride: int, before: int = 0) -> None:
        columns = x.shape[1] * x.shape[2]
        pooling.pool(blocks(out.size), THREADS, x, len(x), out, columns, kind == "mean", size, stride, before, out.size)

    def pool_steps_backward(
        self, x: DeviceArray, out: DeviceArray, dout: DeviceArray, dx: DeviceArray, kind: str, size: int, stride: int, before: int = 0
    ) -> None:
        columns = x.shape[1] * x.shape[2]
        pooling.pool_backward(blocks(x.size), THREADS, x, len(x), out, len(out), dout, dx, columns, kind == "mean", size, stride, before, x.size)

    # time

    def explain(self, cell: Cell, streams: int, hidden: int) -> dict[str, str]:
        """How a time loop of this size runs on this device, and why: a sentence each for "forward" and "backward"."""
        told = {}
        for name in ("forward", "backward"):
            backward = name == "backward"
            plan = self._plan(cell, streams, hidden, backward)
            spilled = recurrence.kernel(plan, cell, self.precision, backward).spilled()
            told[name] = plan.reason + f"; slowed down: {spilled} bytes a thread do not fit into registers" * bool(spilled)
        return told

    def _take_barrier(self, plan: recurrence.Plan) -> tuple[DeviceArray, int]:
        """Counters of arrivals, one per group, and their current value: they are never reset, because that would be a launch.

        They are removed here and put back after a successful launch, because after a failed or interrupted one their values
        are unknown.
        """
        counters: dict[int, tuple[DeviceArray, int]] = self._rooms.__dict__.setdefault("barriers", {})
        if plan.groups in counters:
            return counters.pop(plan.groups)
        fresh = DeviceArray.new((plan.groups * recurrence.APART,), np.dtype(np.uint32))
        launch.fill(fresh, 0)
        return fresh, 0

    def _give_barrier(self, plan: recurrence.Plan, barrier: DeviceArray, arrivals: int) -> None:
        self._rooms.__dict__["barriers"][plan.groups] = barrier, arrivals % 2**32

    def _plan(self, cell: Cell, streams: int, hidden: int, backward: bool, ending: bool = False) -> recurrence.Plan:
        key = (cell, streams, hidden, self.precision, backward, ending)
        if key not in _plans:
            _plans[key] = recurrence.plan(*key)
        return _plans[key]

    def _refused(self, cell: Cell, streams: int, hidden: int, backward: bool, ending: bool, error: Refused) -> None:
        """Run this size step by step from now on: the device runs fewer blocks at once than its attributes promise.

        This happens when processes share a device by percentages (CUDA MPS). The bits differ from those of a single launch.
        """
        warn(f"{error} The time loop of {streams} streams and {hidden} units runs step by step instead, several times slower.",
             RuntimeWarning)
        _plans[cell, streams, hidden, self.precision, backward, ending] = recurrence.step_by_step(f"a launch was refused ({error})")

    def recur(
        self, cell: Cell, U: DeviceArray | None, z: DeviceArray, s: DeviceArray, w: DeviceArray | None = None,
        lengths: DeviceArray | None = None,
    ) -> None:
        steps, streams, _, hidden = z.shape
        if steps == 0:
            return
        w, lengths = _or_nothing(w), _or_nothing(lengths)
        ending = lengths.size > 0
        plan = self._plan(cell, streams, hidden, False, ending)
        if U is None or not plan.persistent:
            self._recur_stepwise(cell, U, z, s, w, lengths)
            return
        kernel = recurrence.kernel(plan, cell, self.precision, False, ending)
        exchange = self._room("exchange", 2 * plan.streams * plan.width)
        barrier, earlier = self._take_barrier(plan)
        try:
            for t0, t1, together in _segments(steps):
                kernel((plan.slices, plan.groups), THREADS, U, z, s, exchange, barrier, earlier, streams, hidden, t0, t1,
                       together, w, lengths, shared=plan.shared)
        except Refused as error:
            self._refused(cell, streams, hidden, False, ending, error)
            self._recur_stepwise(cell, U, z, s, w, lengths)
            return
        self._give_barrier(plan, barrier, earlier + _segments(steps)[0][2] * (steps + 1) * plan.slices)

    def recur_backward(
        self, cell: Cell, U: DeviceArray | None, z: DeviceArray, s: DeviceArray, dy: DeviceArray | None, d: DeviceArray,
        dU: DeviceArray | None, w: DeviceArray | None = None, dw: DeviceArray | None = None, lengths: DeviceArray | None = None,
        add: bool = False,
    ) -> None:
        steps, streams, gates, hidden = z.shape
        if steps == 0:
            for gradient in (dU, dw):
                if gradient is not None and not add:
                    self.fill(gradient, 0)
            return
        rows, width = -(-steps // recurrence.CHAIN) * streams, len(cell.weights) * hidden
        sums = self._room("gradients of w", rows * width)
        self.fill(sums, 0)
        arrays = z, s, _or_nothing(dy), d, _or_nothing(w), sums, _or_nothing(lengths)
        if U is None or not self._recur_backward_together(cell, U, *arrays):
            self._recur_backward_stepwise(cell, U, *arrays)
        if dw is not None:
            self._add_rows(sums, rows, width, dw, add)
        if U is not None and dU is not None:
            previous = Matrix(s, 0, steps * streams, hidden, s.shape[2] * hidden)
            dz = Matrix(z, cell.window("h")[0] * hidden, steps * streams, U.shape[1], gates * hidden)
            self._multiply(previous.T, dz, matrix(dU), keep=add)

    def _recur_backward_together(
        self, cell: Cell, U: DeviceArray, z: DeviceArray, s: DeviceArray, dy: DeviceArray, d: DeviceArray, w: DeviceArray,
        sums: DeviceArray, lengths: DeviceArray,
    ) -> bool:
        """Run all steps in one launch; returns whether that was possible."""
        steps, streams, _, hidden = z.shape
        ending = lengths.size > 0
        plan = self._plan(cell, streams, hidden, True, ending)
        if not plan.persistent:
            return False
        kernel = recurrence.kernel(plan, cell, self.precision, True, ending)
        shares = self._room("shares", 2 * plan.streams * plan.slices * plan.width)
        barrier, earlier = self._take_barrier(plan)
        try:
            for t0, t1, together in reversed(_segments(steps)):
                kernel((plan.slices, plan.groups), THREADS, U, z, s, dy, d, shares, barrier, earlier, streams, hidden,
                       steps, t0, t1, together, w, sums, lengths, shared=plan.shared)
        except Refused as error:
            self._refused(cell, streams, hidden, True, ending, error)
            return False
        self._give_barrier(plan, barrier, earlier + _segments(steps)[0][2] * steps * plan.slices)
        return True

    def _recur_stepwise(
        self, cell: Cell, U: DeviceArray | None, z: DeviceArray, s: DeviceArray, w: DeviceArray, lengths: DeviceArray
    ) -> None:
        """Step by step, or all steps at once in a scan."""
        steps, streams, gates, hidden = z.shape
        states, first = s.shape[2], cell.window("h")[0]
        rows = recurrence.forward_rows(cell, lengths.size > 0)
        for t0, t1 in [(0, steps)] if U is None else pairwise(range(steps + 1)):
            if U is not None:
                h = Matrix(s[t0], 0, streams, hidden, states * hidden)
                sums = Matrix(z[t0], first * hidden, streams, U.shape[1], gates * hidden)
                self._multiply(h, matrix(U), sums, keep=True)
            rows(blocks(streams * hidden), THREADS, z, s, w, lengths, streams, hidden, t0, t1)

    def _recur_backward_stepwise(
        self, cell: Cell, U: DeviceArray | None, z: DeviceArray, s: DeviceArray, dy: DeviceArray, d: DeviceArray, w: DeviceArray,
        sums: DeviceArray, lengths: DeviceArray,
    ) -> None:
        steps, streams, gates, hidden = z.shape
        states, first = s.shape[2], cell.window("h")[0]
        rows = recurrence.backward_rows(cell, lengths.size > 0)
        dh = Matrix(d, 0, streams, hidden, states * hidden)
        for t0, t1 in [(0, steps)] if U is None else reversed(list(pairwise(range(steps + 1)))):
            rows(blocks(streams * hidden), THREADS, z, s, dy, d, w, sums, lengths, streams, hidden, t0, t1)
            if U is not None:
                dz = Matrix(z[t0], first * hidden, streams, U.shape[1], gates * hidden)
                self._multiply(dz, matrix(U).T, dh, keep=True)

    # attention

    def attend(
        self, q: DeviceArray, k: DeviceArray, v: DeviceArray, out: DeviceArray, sums: DeviceArray, heads: int = 1, scale: float = 1.0,
        causal: bool = False, window: int = 0, held: DeviceArray | None = None, w: DeviceArray | None = None, rate: float = 0.0, key: int = 0,
    ) -> None:
        steps, streams, _ = q.shape
        attention.attend(streams * heads * -(-steps // attention.TILE), THREADS, q, k, v, out, sums, *_sizes(q, k, v, heads), causal, window,
                         scale, _or_nothing(held), _or_nothing(w), key, round(rate * 2**32), 1 / (1 - rate))

    def attend_backward(
        self, q: DeviceArray, k: DeviceArray, v: DeviceArray, out: DeviceArray, sums: DeviceArray, dout: DeviceArray, dq: DeviceArray,
        dk: DeviceArray, dv: DeviceArray, heads: int = 1, scale: float = 1.0, causal: bool = False, window: int = 0,
        held: DeviceArray | None = None, w: DeviceArray | None = None, dw: DeviceArray | None = None, rate: float = 0.0, key: int = 0,
        add: bool = False,
    ) -> None:
        steps, streams, width = q.shape
        tiles = -(-k.shape[0] // attention.TILE)
        means, parts = self._room("means", sums.size), self._room("gradients of w", streams * tiles * width if w is not None else 0)
        attention.row_products(blocks(sums.size * losses.WARP), THREADS, out, dout, means, v.shape[2] // heads, sums.size)
        given = q, k, v, dout, sums, means
        options = (*_sizes(q, k, v, heads), causal, window, scale, _or_nothing(held), _or_nothing(w), key, round(rate * 2**32), 1 / (1 - rate))
        attention.attend_keys(streams * heads * tiles, THREADS, *given, dk, dv, parts, *options)
        attention.attend_queries(streams * heads * -(-steps // attention.TILE), THREADS, *given, dq, *options)
        if dw is not None:
            self._add_rows(parts, streams * tiles, width, dw, add)

    # pointwise

    def activate(self, activation: str, x: DeviceArray) -> None:
        if activation == "softmax":
            columns = x.shape[-1]
            rows = x.size // columns
            losses.softmax(losses.lanes(columns))(losses.grid(rows, columns), THREADS, x, rows, columns)
        elif activation != "linear":
            pointwise.activation(activation)(blocks(x.size), THREADS, x, x.size)

    def activate_backward(self, activation: str, y: DeviceArray, dy: DeviceArray) -> None:
        if activation == "softmax":
            columns = y.shape[-1]
            rows = y.size // columns
            kernel = losses.softmax_backward(losses.lanes(columns))
            kernel(losses.grid(rows, columns), THREADS, y, dy, rows, columns)
        elif activation != "linear":
            pointwise.derivative(activation)(blocks(y.size), THREADS, y, dy, y.size)

    def multiply(self, x: DeviceArray, y: DeviceArray, out: DeviceArray, add: bool = False) -> None:
        pointwise.multiply(blocks(out.size), THREADS, x, y, out, add, out.size)

    def normalize(
        self, x: DeviceArray, gain: DeviceArray | None, offset: DeviceArray | None, epsilon: float, centred: bool, out: DeviceArray,
        stats: DeviceArray,
    ) -> None:
        kernel = norms.normalize(losses.lanes(x.shape[1]))
        kernel(losses.grid(*x.shape), THREADS, x, _or_nothing(gain), _or_nothing(offset), epsilon, centred, out, stats, *x.shape)

    def normalize_backward(
        self, x: DeviceArray, gain: DeviceArray | None, centred: bool, stats: DeviceArray, dout: DeviceArray, dx: DeviceArray,
        dgain: DeviceArray | None, doffset: DeviceArray | None, add: bool = False,
    ) -> None:
        rows, columns = x.shape
        kernel = norms.normalize_backward(losses.lanes(columns))
        kernel(losses.grid(rows, columns), THREADS, x, _or_nothing(gain), centred, stats, dout, dx, rows, columns)
        if dgain is not None or doffset is not None:
            norms.gradients(-(-columns // linear.COLUMNS), linear.COLUMNS * linear.LANES, x, stats, dout, rows, columns, _or_nothing(dgain),
                            _or_nothing(doffset), add)

    def dropout(self, x: DeviceArray, out: DeviceArray, rate: float, key: int) -> None:
        pointwise.dropout(blocks(x.size), THREADS, x, out, key, round(rate * 2**32), 1 / (1 - rate), x.size)

    # loss

    def cross_entropy(
        self, x: DeviceArray, W: DeviceArray, b: DeviceArray | None, targets: DeviceArray, losses: DeviceArray,
        transposed: bool = False,
    ) -> None:
        for rows, logits in self._logits(x, W, b, transposed):
            self._cross_entropy_rows(logits, targets[rows], losses[rows], 0.0, False)

    def cross_entropy_backward(
        self, x: DeviceArray, W: DeviceArray, b: DeviceArray | None, targets: DeviceArray, scale: float,
        losses: DeviceArray, dx: DeviceArray, dW: DeviceArray, db: DeviceArray | None, transposed: bool = False,
        add: bool = False,
    ) -> None:
        for rows, logits in self._logits(x, W, b, transposed):
            self._cross_entropy_rows(logits, targets[rows], losses[rows], scale, True)
            self.project_backward(x[rows], W, logits, dx[rows], dW, db, transposed=transposed, add=add or rows.start > 0)

    def _logits(self, x: DeviceArray, W: DeviceArray, b: DeviceArray | None, transposed: bool) -> Any:
        """(rows, their logits) in chunks that share one buffer; zero rows give one empty chunk."""
        vocabulary = W.shape[0] if transposed else W.shape[1]
        most = max(1, LOGITS // vocabulary)
        rows = x.shape[0]
        buffer = self._room("logits", min(most, rows) * vocabulary)
        for start in range(0, max(rows, 1), most):
            count = min(most, rows - start)
            logits = buffer[: count * vocabulary].reshape(count, vocabulary)
            self.project(x[start : start + count], W, b, logits, transposed=transposed)
            yield slice(start, start + count), logits

    def _cross_entropy_rows(
        self, logits: DeviceArray, targets: DeviceArray, row_losses: DeviceArray, scale: float, gradient: bool
    ) -> None:
        rows, columns = logits.shape
        kernel = losses.softmax_cross_entropy(losses.lanes(columns), gradient)
        kernel(losses.grid(rows, columns), THREADS, logits, targets, row_losses, scale, rows, columns)

    def binary_cross_entropy(self, logits: DeviceArray, targets: DeviceArray, losses: DeviceArray) -> None:
        self._binary(logits, targets, losses, 0.0, False)

    def binary_cross_entropy_backward(
        self, logits: DeviceArray, targets: DeviceArray, scale: float, losses: DeviceArray
    ) -> None:
        self._binary(logits, targets, losses, scale, True)

    def _binary(
        self, logits: DeviceArray, targets: DeviceArray, row_losses: DeviceArray, scale: float, gradient: bool
    ) -> None:
        columns = logits.shape[-1]
        rows = logits.size // columns
        kernel = losses.sigmoid_cross_entropy(losses.lanes(columns), gradient)
        kernel(losses.grid(rows, columns), THREADS, logits, targets, row_losses, scale, rows, columns)

    # decoding

    def choose(self, scores: DeviceArray, choice: Choice, numbers: np.ndarray, ids: DeviceArray) -> None:
        streams, symbols = scores.shape
        here = DeviceArray.new((streams,), np.dtype(np.float64))
        launch.to_device_soon(np.ascontiguousarray(numbers, np.float64), here, self._staging())
        warmth, top_k = 0.0, 1
        if choice.temperature > 0:  # infinity times a difference of zero would be NaN
            warmth, top_k = min(1 / choice.temperature, 1e30), min(choice.top_k, symbols)
        sampling.choose(streams, THREADS, scores, ids, here, self.upload(choice.banned), symbols, warmth, top_k, choice.top_p)

    def decoder(self, table: DeviceArray | None, steps: Sequence[Step], weights: str) -> None:
        """None: each step is a forward pass."""

    # update

    def norm(self, x: DeviceArray) -> float:
        sums = self._room("sums", update.PARTS, np.float64)
        update.sum_of_squares(update.PARTS, THREADS, x, sums, x.size)
        return sqrt(float(launch.to_host(sums).sum()))

    def update(self, rule: Rule, p: DeviceArray, g: DeviceArray, m: DeviceArray, h: np.ndarray) -> None:
        numbers = tuple(float(number) for number in h)
        update.update(rule)(blocks(p.size), THREADS, p, g, m, numbers, linear.nothing(), p.size)

    def update_if_finite(
        self, rule: Rule, p: DeviceArray, g: DeviceArray, m: DeviceArray, h: np.ndarray, clip: float, losses: DeviceArray
    ) -> Callable[[], tuple[np.ndarray, float]]:
        """Queue an :meth:`update` with g clipped to norm ``clip``, which does nothing if the norm or a loss is not finite.

        Returns a function that waits and returns the losses and the norm. After a non-finite update, all later updates do
        nothing until the outcome of a non-finite one has been fetched.
        """
        guard = self._guard()
        sums = self._room("sums", update.PARTS, np.float64)
        update.sum_of_squares(update.PARTS, THREADS, g, sums, g.size)
        update.judge(1, THREADS, sums, losses, losses.size, clip, guard)
        update.update(rule)(blocks(p.size), THREADS, p, g, m, tuple(float(number) for number in h), guard, p.size)
        arrive = launch.to_host_soon([losses, sums], self._staging())

        def outcome() -> tuple[np.ndarray, float]:
            each, squares = arrive()
            norm = sqrt(float(squares.sum()))
            if not (np.isfinite(each).all() and isfinite(norm)):
                self.fill(guard, 0)
            return each, norm

        return outcome

    def _guard(self) -> DeviceArray:
        rooms = self._rooms.__dict__
        if "guard" not in rooms:
            rooms["guard"] = DeviceArray.new((update.GUARD,), self.dtype)
            self.fill(rooms["guard"], 0)
        guard: DeviceArray = rooms["guard"]
        return guard


_plans: dict[tuple[Cell, int, int, str, bool, bool], recurrence.Plan] = {}


def _segments(steps: int) -> list[tuple[int, int, bool]]:
    """(first step, last step + 1, whether blocks wait for each other) of each launch of a time loop.

    The simulator runs one block after another, so no block can wait for another: each step is a launch there, plus one without
    steps that distributes the initial state (forward) or adds the last shares (backward).
    """
    if not device.SIMULATED:
        return [(0, steps, True)]
    return [(0, 0, False), *((t, t + 1, False) for t in range(steps))]


def _sizes(q: DeviceArray, k: DeviceArray, v: DeviceArray, heads: int) -> tuple[int, ...]:
    """Steps, reach, streams, heads, and sizes of a key and of a value."""
    return *q.shape[:1], k.shape[0], q.shape[1], heads, q.shape[2] // heads, v.shape[2] // heads


def _or_nothing(array: DeviceArray | None) -> DeviceArray:
    return linear.nothing() if array is None else array


def _every(array: DeviceArray, first: int, step: int) -> DeviceArray:
    """array[first::step]"""
    length = len(range(first, len(array), step))
    strides = (array.strides[0] * step, *array.strides[1:])
    return DeviceArray(array.memory, array.offset + first * array.strides[0], (length, *array.shape[1:]), strides, array.dtype)


def _flat(array: DeviceArray) -> DeviceArray:
    """The memory from the first to the last element of a strided array, as a flat array."""
    reach = 1 + sum((length - 1) * stride for length, stride in zip(array.shape, array.strides, strict=True))
    return DeviceArray(array.memory, array.offset, (reach if array.size else 0,), (1,), array.dtype)


def _three_axes(shape: Shape, *strides: Shape) -> tuple[Shape, ...]:
    """Shape and strides, padded on the left with axes of length 1 to three axes."""
    lead = 3 - len(shape)
    return (*[1] * lead, *shape), *((*[0] * lead, *each) for each in strides)
