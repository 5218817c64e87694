"""Decoding in a compiled loop: run the network, draw a symbol, feed it back, without returning to Python.

The network's step is recorded once (:mod:`.recording`) and becomes tables of instructions (:mod:`.program`) that the loop works through. Each
thread owns some units of every product and cell, with all their slots, so threads wait for one another only where a layer needs all units of the
one below. The parts of the matrices that a block of units needs are packed in reading order.

A layer that cannot be recorded runs through the verbs: the compiled loop stops before it and resumes after it.
"""

import threading
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ...cells import Cell
from ..ops import Choice, Step, Streams
from ..quantisation import round_to_int8
from . import instructions, sampling
from .instructions import Parts, divided, paired
from .kernels import kernel
from .packing import pack_panel
from .program import CELL, OF_PAIRS, OF_UNITS, OP, PRODUCT, SHARE, TABLE, Constants, Product, Program, build
from .simd import VECTORS, lanes
from .sleeping import clock, look
from .team import (
    CAUTION,
    JOINED,
    LEAVE,
    arrive,
    crowded,
    dismiss,
    follow,
    gather,
    give,
    join,
    meaning,
    members,
    parallel,
)
from .threads import cut, split
from .workspace import aligned

TABLE_ROWS = 1024  # for vocabularies up to this size, products of the input vectors of all symbols are precomputed
BYTES = 1 << 17  # bytes of weights that justify another thread
WORK = 1 << 20  # multiply-adds of further streams that justify another thread
WARM = 2  # symbols timed on one thread before a gang is tried
SHORT = 100_000  # nanoseconds; drawing for less than this is not worth waking others
WINDOW = 16  # symbols after which a gang must have been faster than one thread
GAIN = 10  # by at least a tenth
PATIENCE = 50_000  # nanoseconds that the leader waits for the others, beyond the time of its own share
READY = 1_000, 100_000  # least and most nanoseconds that the leader waits for others to join; in between, 1/16 of a symbol's time

Array = np.ndarray

# Measurements in nanoseconds: a symbol on one thread, and how many were timed; the gang's latest symbols, and how many;
# the time that gangs have lost, and the time spent on one thread since.
ALONE, TIMED, TOGETHER, SYMBOLS, LOST, SINCE, MEASURED = range(7)
START, STOP, KIND, COUNT = range(4)  # columns of a phase


@kernel
def _units(parts, rows, first, last, share, of, taps, blocks, shares, packed, scales, constants, table, ids, values, sums, time):
    """A phase's instructions of units: part ``share`` of ``of``."""
    most = shares.shape[1] - 1
    for index in range(first, last):
        row = rows[index]
        for at in range(shares[row[SHARE], most * share // of], shares[row[SHARE], most * (share + 1) // of]):
            divided(parts, row, taps, blocks[at], packed, scales, constants, table, ids, values, sums, time)


@kernel
def _leader(parts, rows, numbers, first, last, taps, blocks, shares, packed, scales, constants, table, ids, values, sums, scratch, time):
    """A phase's instructions of the leader."""
    for index in range(first, last):
        row = rows[index]
        if row[OP] == CELL:
            for at in range(shares[row[SHARE], 0], shares[row[SHARE], shares.shape[1] - 1]):
                divided(parts, row, taps, blocks[at], packed, scales, constants, table, ids, values, sums, time)
        else:
            instructions.alone(parts, row, numbers[index], constants, values, scratch, time)


@kernel
def _any_drawn(given):
    drawn = False
    for n in range(given.size):
        drawn |= given[n] < 0
    return drawn


@kernel
def _note(measured, span, fewest, most):
    """Record the time of a symbol whose layers ran on ``fewest`` to ``most`` members; returns whether a gang should continue."""
    if most == 1:
        usual = measured[ALONE]
        if measured[TIMED] == 0 or span < usual:
            measured[ALONE] = span
        else:  # grow slowly, because most slower symbols were interrupted
            measured[ALONE] += min(span - usual, usual) // 8
        measured[TIMED] += 1
    elif fewest > 1:
        measured[TOGETHER] += span
        measured[SYMBOLS] += 1
        if measured[SYMBOLS] == WINDOW:
            together, alone = measured[TOGETHER], measured[ALONE] * WINDOW
            measured[TOGETHER] = measured[SYMBOLS] = 0
            if together > alone - alone // GAIN:
                measured[LOST] += together - (alone - alone // GAIN)
                return False
    return True


@parallel(gang=True)
def write(part, bounds, parts_of, board, slot, phases, rows, taps, numbers, blocks, shares, packed, scales, constants, table, embedding, values, ids,
          given, written, choice, seeds, positions, time, seen, begin, end, head, scores, symbols, all_scratch, all_sums, all_weights, measured,
          ready, patience):
    """written (T, N) ← given (T, N), or a drawn symbol where given is -1, for steps ``begin`` … ``end`` - 1.

    A step is one phase or, after the last phase, drawing; its units, pairs or streams are divided among the gang. The network reads
    the vectors of ids (N), the previous symbols, at the beginning of ``values``; if it has ``seen`` them before this call, the first step is
    drawing. Phases from ``head`` on are left out where nothing is drawn.
    The leader dismisses the gang when it has cost more waiting than it has gained, gains nothing, or another caller needs the
    processors.
    """
    count, streams = phases.shape[0], given.shape[1]
    temperature, top_k, top_p, banned = choice
    width = embedding.shape[1]
    leads, gang, rank = part <= 0, part == 0, 0
    step, order, arrivals, fewest, most = begin, 0, 0, 1 << 30, 0
    began = clock()
    alone_since = began
    if not leads:
        rank = join(board, slot)
    elif gang:
        look(board, slot + JOINED, bounds.shape[0] - 1, ready)
    while True:
        parts = 1
        if leads:
            if step == end:
                break
            if gang and crowded(board):
                gang, alone_since = False, clock()
                dismiss(board, slot)
            if gang:
                parts = members(board, slot)
        else:
            order = follow(board, slot, order)
            if order == LEAVE:
                return
            step, parts = meaning(order)
        t, index = step // (count + 1), step % (count + 1)
        if leads:
            if head <= index < count and not _any_drawn(given[t]):
                step += 1
                continue
            if index == count:
                parts = min(parts, streams)
            elif phases[index, KIND] == OF_UNITS:
                fewest, most = min(fewest, parts), max(most, parts)
            elif phases[index, KIND] == OF_PAIRS:
                parts = min(parts, phases[index, COUNT])
            else:
                parts = 1
            if parts > 1:
                give(board, slot, step, parts)
        if rank < parts:
            share = clock()
            scratch, sums, weights = all_scratch[rank], all_sums[rank], all_weights[rank, :symbols]
            if index < count:
                now, first, last = time + t - seen, phases[index, START], phases[index, STOP]
                if phases[index, KIND] == OF_UNITS:
                    _units(parts_of, rows, first, last, rank, parts, taps, blocks, shares, packed, scales, constants, table, ids, values, sums, now)
                elif phases[index, KIND] == OF_PAIRS:
                    pairs = phases[index, COUNT]
                    paired(parts_of, rows[first], numbers[first], pairs * rank // parts, pairs * (rank + 1) // parts, constants, values, scratch, now)
                else:
                    _leader(parts_of, rows, numbers, first, last, taps, blocks, shares, packed, scales, constants, table, ids, values, sums, scratch, now)
            else:
                for n in range(streams * rank // parts, streams * (rank + 1) // parts):
                    picked = given[t, n]
                    if picked < 0:
                        start = scores + n * symbols
                        picked = sampling.choose(values[start : start + symbols], banned, temperature, top_k, top_p,
                                                 sampling.uniform(seeds[n], positions[n] + t), weights)
                    ids[n] = written[t, n] = picked
                    line, vector = embedding[picked], values[n * width : (n + 1) * width]
                    for j in range(width):
                        vector[j] = line[j]
            if not leads:
                arrive(board, slot)
        if leads:
            if parts > 1:
                arrivals += parts - 1
                lost = gather(board, slot, arrivals, patience + clock() - share)
                if lost > 0:
                    # Dismiss the gang if this is more than it has gained in the current window.
                    lost = measured[TOGETHER] + clock() - began - measured[ALONE] * (measured[SYMBOLS] + 1)
                    if lost > 0:
                        measured[LOST] += lost
                        measured[TOGETHER] = measured[SYMBOLS] = 0
                        gang, alone_since = False, clock()
                        dismiss(board, slot)
            if index == count:
                now = clock()
                if begin < step and _any_drawn(given[t]) and not _note(measured, now - began, fewest, most) and gang:
                    gang, alone_since = False, now
                    dismiss(board, slot)
                began, fewest, most = now, 1 << 30, 0
            step += 1
    if not gang:
        measured[SINCE] += clock() - alone_since


@parallel
def pack_blocks(part, bounds, b, step_stride, column_stride, k, columns, places, packed, scales, scale_places, panels):
    """Pack columns (first, count) of b (k, ·) to packed[places[i]:]; if packed is int8, quantised with one scale per column."""
    panel = panels[part]
    for i in range(bounds[part, 0], bounds[part, 1]):
        start, count = columns[i, 0], columns[i, 1]
        if scales.size:
            width = lanes(b) * pack_panel(b, start * column_stride, step_stride, column_stride, k, count, panel, 0)
            largest = scales[scale_places[i] : scale_places[i] + count]
            largest[:] = 0
            for s in range(k):
                line = panel[s * width : s * width + count]
                for j in range(count):
                    largest[j] = max(largest[j], abs(line[j]))
            for s in range(k):
                line, out = panel[s * width : (s + 1) * width], packed[places[i] + s * width : places[i] + (s + 1) * width]
                for j in range(width):
                    top = largest[j] if j < count else np.float32(0)
                    out[j] = np.int8(np.rint(line[j] * (np.float32(127) / top))) if top > 0 else np.int8(0)
            for j in range(count):
                largest[j] /= np.float32(127)
        else:
            pack_panel(b, start * column_stride, step_stride, column_stride, k, count, packed, places[i])


class Layout(NamedTuple):
    """Blocks of units, ordered by member of a gang, and the parts of the matrices that each block needs, in the same order."""

    blocks: Array
    shares: Array
    packed: Array
    scales: Array


class Decoder:
    """A network's weights, packed for decoding.

    Parameters
    ----------
    ops
        The backend.
    table
        The input vectors (V, D); None if the first step takes ids.
    steps
        The layers above the table; the last one computes scores.
    weights
        "float32" or "int8": matrices as 8-bit integers with one scale per column. Embeddings, biases and states remain
        float32.
    """

    def __init__(self, ops: Any, table: Array | None, steps: Sequence[Step], weights: str) -> None:
        self.ops, self.steps = ops, steps
        self.embedding = np.empty((steps[-1].units, 0), np.float32) if table is None else table.copy()
        self.measured: dict[int, Array] = {}  # number of streams → measurements
        self.kind = np.dtype(np.int8 if weights == "int8" else np.float32)
        self.exact = bool(self.kind == ops.factor)
        self.cells, self.activations, self.constants = list[Cell](), list[str](), Constants()
        self._lock = threading.RLock()  # Python threads may begin texts at the same time; both caches below share the constants
        self._programs: dict[int, Program] = {}  # keyed by number of streams
        self._layouts: dict[int, Layout] = {}  # keyed by number of members
        self.tables, self.table = dict[int, int](), np.empty(0, np.float32)
        one = self.program(1)
        self.recorded = [all(step is not other for other, *_ in one.verbs.values()) for step in steps]
        self.parts = Parts(self.cells, self.activations, {int(op) for op in one.rows[:, OP]})
        self._project([product for _, product in one.divided])
        self._look_up(one)
        self.size = sum(product.k * product.slots * units for index, (units, product) in enumerate(one.divided)
                        if product is not None and index not in self.tables)
        self.layout(1)

    def program(self, streams: int) -> Program:
        """The instructions for this many streams."""
        with self._lock:
            if streams not in self._programs:
                program = build(self.steps, streams, self.embedding.shape[1], self.constants, self.cells, self.activations, self.ops, self.kind == np.int8)
                self._look_up(program)
                self._programs[streams] = program
            return self._programs[streams]

    def _project(self, products: Sequence[Product | None]) -> None:
        """If the vocabulary is small, compute the products of all symbols with the matrices that multiply input vectors only."""
        found = [self.table]
        for index, product in enumerate(products if len(self.embedding) <= TABLE_ROWS else []):
            if product is not None and product.tabled is not None:
                W, b, transposed = product.tabled
                if self.kind == np.int8:
                    W = np.ascontiguousarray(round_to_int8(W.T).T) if transposed else round_to_int8(W)
                projected = self.ops.empty((len(self.embedding), product.slots * product.units))
                self.ops.project(self.embedding, W, b, projected, transposed=transposed)
                self.tables[index] = sum(array.size for array in found)
                found.append(projected.reshape(-1))
        self.table = np.concatenate(found)

    def _look_up(self, program: Program) -> None:
        """Let the products that are precomputed be looked up."""
        for index, place in self.tables.items():
            program.rows[(program.rows[:, SHARE] == index) & (program.rows[:, OP] == PRODUCT), TABLE] = place

    def members(self, streams: int) -> int:
        """How many threads may be worthwhile for this many streams; measurements decide whether they are."""
        work = self.size * self.kind.itemsize // BYTES + self.size * (streams - 1) // WORK
        return self.ops.threads if work > 1 else 1

    def layout(self, streams: int) -> Layout:
        """The weights for this many streams, packed so that each member reads its own blocks in order."""
        members = self.members(streams)
        with self._lock:
            if members not in self._layouts:
                self._layouts[members] = self._pack(members)
            return self._layouts[members]

    def _pack(self, members: int) -> Layout:
        count = lanes(self.embedding)
        blocks: list[tuple[int, ...]] = []
        shares: list[list[int]] = []
        matrices, size, scales = list[tuple[Product, Array]](), 0, 0
        for index, (units, product) in enumerate(self.program(1).divided):
            packed = None if index in self.tables else product
            entries: list[tuple[int, ...]] = []
            ranges = split(units, members, count)
            ranges += [(units, units)] * (members - len(ranges))
            share = [len(blocks)]
            for begin, end in ranges:
                for first in range(begin, end, VECTORS * count):
                    columns = min(VECTORS * count, end - first)
                    blocks.append((first, columns, size, scales))
                    for slot in range(packed.slots if packed else 0):
                        assert packed is not None
                        entries.append((packed.first + slot * units + first, columns, size, scales))
                        size += -(-columns // count) * count * packed.k
                        scales += columns
                share.append(len(blocks))
            shares.append(share)
            if packed is not None:
                matrices.append((packed, np.array(entries, np.int64)))
        layout = Layout(np.array(blocks, np.int64).reshape(-1, 4), np.array(shares, np.int64).reshape(-1, members + 1), aligned((size,), self.kind),
                        np.empty(scales if self.kind == np.int8 else 0, np.float32))
        for product, table in matrices:
            bounds = cut(len(table), self.ops.pool.parts(20 * product.b.size))
            panels = self.ops.workspace.take("panels", (len(bounds), product.k * VECTORS * count), np.float32)
            self.ops.pool.run(pack_blocks, bounds, product.b.reshape(-1), *product.strides, product.k, table[:, :2].copy(), table[:, 2].copy(),
                              layout.packed, layout.scales, table[:, 3].copy(), panels)
        return layout

    def start(self, streams: Streams) -> "Decoding":
        return Decoding(self, streams)


class Decoding:
    """See :class:`numba_rnnlm.backends.ops.Decoding`."""

    def __init__(self, decoder: Decoder, streams: Streams) -> None:
        self.decoder, self.ids, self.positions = decoder, streams.ids.astype(np.int32), streams.positions.astype(np.int64)
        self.time = 0  # steps of the network so far, with which windows have moved
        self.seen = False  # whether the network has read ``ids``, so that scores are available
        self.before: dict[str, Array] = {}  # what was carried before that, but for windows
        self._lay_out(len(self.ids))
        for name, array in streams.state.items():
            if name in self.program.rings:
                self._rows(name)[1 : array.shape[1] + 1] = array.swapaxes(0, 1)
                self._rows(name)[array.shape[1] + 2 :] = array.swapaxes(0, 1)
            elif array.size:
                self._plain(name)[...] = array

    def _lay_out(self, streams: int) -> None:
        """Create ``values``, with a state of zeros and the vectors of the last symbols."""
        decoder = self.decoder
        self.layout, self.program = decoder.layout(streams), decoder.program(streams)
        self.measured = decoder.measured.setdefault(streams, np.zeros(MEASURED, np.int64))
        self.values = aligned((self.program.size,), np.float32, zeros=True)
        for place, array in self.program.fixed:
            self.values[place : place + array.size] = array
        vectors = decoder.embedding[self.ids]
        self.values[: vectors.size] = vectors.reshape(-1)
        self.verbs = {phase: self._by_verbs(streams, *which) for phase, which in self.program.verbs.items()}

    def _by_verbs(self, streams: int, step: Step, inputs: int, outputs: int) -> Callable[[], None]:
        """A step that is run by the verbs, from and to ``values``."""
        x = self.values[inputs : inputs + streams * step.inputs].reshape(1, streams, -1) if step.inputs else self.ids[np.newaxis]
        y = self.values[outputs : outputs + streams * step.units].reshape(streams, -1)
        state = {name: self._plain(name) if prod(shape) else np.empty((streams, *shape), np.float32) for name, shape in step.states.items()}
        forward = step.start(self.decoder.ops, streams, state, self.decoder.kind == np.int8)

        def run() -> None:
            y[...] = forward(x).reshape(y.shape)

        return run

    def _plain(self, name: str) -> Array:
        """What is carried under a name, if it is no window: (N, …)."""
        place, shape = self.program.states[name]
        return self.values[place : place + prod(shape)].reshape(shape)

    def _rows(self, name: str) -> Array:
        """The rows of a window, twice: (2 · period, N, F)."""
        ring = self.program.rings[name]
        return self.values[ring.place : ring.place + 2 * ring.period * ring.row].reshape(-1, *ring.shape)

    def _window(self, name: str) -> Array:
        """What is carried as a window (N, period - 1, F), without the newest row if the network has seen ``ids``."""
        period = self.program.rings[name].period
        first = (self.time - 1) % period + 2 - self.seen
        return self._rows(name)[first : first + period - 1].swapaxes(0, 1)

    def _scores(self) -> Array:
        """(N, V)"""
        first, shape = self.program.scores, (len(self.ids), self.decoder.steps[-1].units)
        return self.values[first : first + prod(shape)].reshape(shape)

    def read(self, ids: Array) -> None:
        self.draw(ids, Choice(), np.zeros(len(self.ids), np.uint64))

    def scores(self) -> Array:
        if not self.seen:
            self.before = {name: self._plain(name).copy() for name in self.program.states}
            nothing = np.full((1, len(self.ids)), -1, np.int32)
            self._run(nothing, nothing, Choice(), np.zeros(len(self.ids), np.uint64), 0, len(self.program.phases))
            self.time, self.seen = self.time + 1, True
        return self._scores()

    def draw(self, given: Array, choice: Choice, seeds: Array) -> Array:
        count, written, phases = len(given), np.empty(given.shape, np.int32), len(self.program.phases)
        if count:
            self._run(np.ascontiguousarray(given, np.int32), written, choice, seeds, phases if self.seen else 0, count * (phases + 1))
            self.time, self.positions = self.time + count - self.seen, self.positions + count
            self.before, self.seen = {}, False
        return written

    def _run(self, given: Array, written: Array, choice: Choice, seeds: Array, begin: int, end: int) -> None:
        """Steps ``begin`` … ``end`` - 1 of :func:`write`: phases in its loop, other layers through the verbs."""
        phases = len(self.program.phases)
        places = [*self.verbs, phases + 1 + min(self.verbs, default=end)]
        while begin < end:
            t, phase = divmod(begin, phases + 1)
            if phase in self.verbs:
                if phase < self.program.head or (given[t] < 0).any():
                    self.verbs[phase]()
                begin += 1
            else:
                stop = min(end, t * (phases + 1) + next(place for place in places if place > phase))
                self._loop(given, written, choice, seeds, begin, stop)
                begin = stop

    def _loop(self, given: Array, written: Array, choice: Choice, seeds: Array, begin: int, end: int) -> None:
        decoder, program, ops, measured, ready = self.decoder, self.program, self.decoder.ops, self.measured, 0
        parts, symbols = self.layout.shares.shape[1] - 1, decoder.steps[-1].units
        short = measured[ALONE] * ((end - begin + 1) // (len(program.phases) + 1)) < SHORT
        if short or measured[TIMED] < WARM or CAUTION * measured[LOST] > measured[SINCE]:
            parts = 1
        if parts > 1:
            measured[LOST] = measured[SINCE] = 0
            ready = min(max(int(measured[ALONE]) // 16, READY[0]), READY[1])
        scratch = ops.workspace.take("scratch", (parts, program.scratch), np.float32)
        sums = ops.workspace.take("sums", (parts, program.tall * VECTORS * lanes(self.values)), np.float32)
        weights = ops.workspace.take("weights", (parts, symbols), np.float32)
        ops.pool.lead(
            write, parts, decoder.parts, program.phases, program.rows, program.taps, program.numbers, *self.layout, decoder.constants.flat,
            decoder.table, decoder.embedding, self.values, self.ids, given, written, tuple(choice), seeds, self.positions, self.time, self.seen,
            begin, end, program.head, program.scores, symbols, scratch, sums, weights, measured, ready, PATIENCE)

    def take(self, rows: Array) -> None:
        scores, plain = self._scores()[rows], {name: self._plain(name)[rows] for name in self.program.states}
        windows = {name: self._rows(name)[:, rows] for name in self.program.rings}
        self.ids, self.positions = self.ids[rows], self.positions[rows]
        self._lay_out(len(rows))
        for name, array in plain.items():
            self._plain(name)[...] = array
        for name, array in windows.items():
            self._rows(name)[...] = array
        self._scores()[...] = scores
        self.before = {name: array[rows] for name, array in self.before.items()}

    def streams(self) -> Streams:
        program, streams = self.program, len(self.ids)
        state = {name: np.empty((streams, *shape), np.float32) for step in self.decoder.steps for name, shape in step.states.items()}
        state |= {name: (self.before[name] if self.seen else self._plain(name)).copy() for name in program.states}
        state |= {name: self._window(name).copy() for name in program.rings}
        return Streams(state, self.ids.copy(), self.positions)
