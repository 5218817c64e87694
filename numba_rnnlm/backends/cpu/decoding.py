"""Decoding in a compiled loop: run the network, draw a symbol, feed it back, without returning to Python.

Each thread owns some units of every layer, with all their gates. An element of a cell depends on its own column only, so
threads synchronise once per layer. The parts of the matrices that a block of units needs are packed in reading order.

A layer that is not a stage runs through the verbs: the compiled loop stops before it and resumes after it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from ...cells import Cell
from ...portable import Rows, fma
from ..ops import Choice, Stage, Step, Streams
from ..quantisation import round_to_int8
from . import sampling
from .kernels import kernel
from .packing import pack_panel
from .simd import VECTORS, lanes, multiply_panel
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

TABLE_ROWS = 1024  # for vocabularies up to this size, the first layer's projections of all symbols are precomputed
SHARE = 1 << 17  # bytes of weights that justify another thread
WORK = 1 << 20  # multiply-adds of further streams that justify another thread
WARM = 2  # symbols timed on one thread before a gang is tried
SHORT = 100_000  # nanoseconds; drawing for less than this is not worth waking others
WINDOW = 16  # symbols after which a gang must have been faster than one thread
GAIN = 10  # by at least a tenth
PATIENCE = 50_000  # nanoseconds that the leader waits for the others, beyond the time of its own share
READY = 1_000, 100_000  # least and most nanoseconds that the leader waits for others to join; in between, 1/16 of a symbol's time

Array = np.ndarray

# Columns of the kernel's tables.
# A stage: X, H and S are the offsets of its input, output and states in ``values``. Data that one thread reads while another
# writes is double buffered; the two buffers are X_TURN, H_TURN or S_TURN apart.
RECURRENT, INPUTS, UNITS, X, X_TURN, H, H_TURN, S, S_TURN, BIAS = range(10)
# A recurrent stage also has: the index of its cell, and the cell's windows and numbers of slots, states and weight vectors.
KIND, X_FIRST, X_LAST, H_FIRST, H_LAST, SLOTS, STATES, WEIGHTS = range(10, 18)
# A block of a stage's units: offsets of its panels of W and U, and of their scales.
FIRST, COLUMNS, AT_W, AT_U, W_SCALE, U_SCALE = range(6)
# Measurements in nanoseconds: a symbol on one thread, and how many were timed; the gang's latest symbols, and how many;
# the time that gangs have lost, and the time spent on one thread since.
ALONE, TIMED, TOGETHER, SYMBOLS, LOST, SINCE, MEASURED = range(7)


class Cells(Rows):
    """The cells of a network as one object; its rows "0", "1", … are compiled into the loop."""

    def __init__(self, cells: Iterable[Cell]) -> None:
        self.cells = tuple(cells)
        self.name = " ".join(cell.name for cell in self.cells)

    def rows(self) -> dict[str, Callable[..., None]]:
        return {str(kind): cell.forward for kind, cell in enumerate(self.cells)}

    def row(self, cell: Cell | None) -> tuple[int, ...]:
        """The columns KIND … WEIGHTS of a stage with this cell; zeros for None."""
        if cell is None:
            return (0,) * 8
        return self.cells.index(cell), *cell.window("x"), *cell.window("h"), len(cell.gates), len(cell.states), len(cell.weights)


def _forward(cells, kind, z, prev, next, w):
    """One step of one stream through cell number ``kind``: z (G, columns), prev (S, columns), w (K, columns) → next (S, columns)."""
    cell = cells.cells[kind]
    cell.forward(z, prev, next, *cell.with_weights(w), 0, 1)


@overload(_forward, inline="always")
def _forward_of(cells, kind, z, prev, next, w):
    """Generate one call per cell, each guarded by a test of ``kind``."""
    lines, scope = ["def forward(cells, kind, z, prev, next, w):"], {}
    for number, cell in enumerate(cells.rows.cells):
        scope[f"row{number}"] = cell.forward
        lines.append(f"    {'if kind == ' + str(number) + ': ' if len(cells.rows.cells) > 1 else ''}row{number}(z, prev, next, {'w, ' if cell.weights else ''}0, 1)")
    exec("\n".join([*lines, "    return"]), scope)
    return scope["forward"]


@kernel
def _multiply(values, x, inputs, m, packed, at, z, iz, ldz, columns, scales, scale_at, sums):
    """z (m, columns) += x (m, inputs) B for one packed panel; int8 panels are scaled by column. Returns the next at, scale_at."""
    count = lanes(z)
    vectors = (columns + count - 1) // count
    mask = columns - (vectors - 1) * count
    if scales.size:
        width = vectors * count
        sums[: m * width] = 0
        multiply_panel(vectors, values, x, inputs, 1, m, packed, at, inputs, sums, 0, width, sums, 0, width, mask)
        scale = scales[scale_at : scale_at + columns]
        for row in range(m):
            out, line = z[iz + row * ldz : iz + row * ldz + columns], sums[row * width : row * width + columns]
            for j in range(columns):
                out[j] = fma(scale[j], line[j], out[j])
    else:
        multiply_panel(vectors, values, x, inputs, 1, m, packed, at, inputs, z, iz, ldz, z, iz, ldz, mask)
    return at + inputs * vectors * count, scale_at + columns


@kernel
def _copy(source, first, target, start, columns):
    line, out = source[first : first + columns], target[start : start + columns]
    for j in range(columns):
        out[j] = line[j]


@kernel(linked=True)
def _recurrent_block(cells, row, block, packed, scales, bias, table, ids, values, z, sums, turn):
    """A recurrent layer's step for one block of units."""
    streams, units, slots, states, weights, first, columns = ids.size, row[UNITS], row[SLOTS], row[STATES], row[WEIGHTS], block[FIRST], block[COLUMNS]
    for n in range(streams):
        for slot in range(slots):
            start = (n * slots + slot) * columns
            if block[AT_W] < 0:
                _copy(table, (ids[n] * slots + slot) * units + first, z, start, columns)
            else:
                _copy(bias, row[BIAS] + slot * units + first, z, start, columns)
    at, scale = block[AT_W], block[W_SCALE]
    for slot in range(row[X_FIRST], row[X_LAST] if at >= 0 else row[X_FIRST]):
        at, scale = _multiply(values, row[X] + turn * row[X_TURN], row[INPUTS], streams, packed, at, z, slot * columns,
                              slots * columns, columns, scales, scale, sums)
    at, scale = block[AT_U], block[U_SCALE]
    for slot in range(row[H_FIRST], row[H_LAST]):
        at, scale = _multiply(values, row[H] + (1 - turn) * row[H_TURN], units, streams, packed, at, z, slot * columns,
                              slots * columns, columns, scales, scale, sums)
    start = row[BIAS] + slots * units
    w = bias[start : start + weights * units].reshape(weights, units)[:, first : first + columns]
    size, place = states * columns, row[S] + first * streams * states
    for n in range(streams):
        old, new = place + (1 - turn) * row[S_TURN] + n * size, place + turn * row[S_TURN] + n * size
        _forward(
            cells, row[KIND], z[n * slots * columns : (n + 1) * slots * columns].reshape(slots, columns),
            values[old : old + size].reshape(states, columns), values[new : new + size].reshape(states, columns), w,
        )  # fmt: skip
        _copy(values, new, values, row[H] + turn * row[H_TURN] + n * units + first, columns)


@kernel(linked=True)
def _layer(cells, row, first, last, blocks, packed, scales, bias, table, ids, values, z, sums, turn):
    """A layer's step for blocks ``first`` … ``last`` - 1."""
    for index in range(first, last):
        block = blocks[index]
        if row[RECURRENT]:
            _recurrent_block(cells, row, block, packed, scales, bias, table, ids, values, z, sums, turn)
        else:
            start = row[H] + block[FIRST]
            for n in range(ids.size):
                _copy(bias, row[BIAS] + block[FIRST], values, start + n * row[UNITS], block[COLUMNS])
            _multiply(values, row[X] + turn * row[X_TURN], row[INPUTS], ids.size, packed, block[AT_W], values, start,
                      row[UNITS], block[COLUMNS], scales, block[W_SCALE], sums)


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
def write(part, bounds, cells, board, slot, stages, blocks, shares, packed, scales, bias, table, embedding, values, ids,
          given, written, choice, seeds, positions, turn, seen, begin, end, zs, all_sums, all_weights, measured, ready, patience):
    """written (T, N) ← given (T, N), or a drawn symbol where given is -1, for steps ``begin`` … ``end`` - 1.

    A step is one layer or, after the last layer, drawing; its units or streams are divided among the gang. The first layer reads
    ids (N), the previous symbols; if the network has ``seen`` them before this call, the first step is drawing.
    The leader dismisses the gang when it has cost more waiting than it has gained, gains nothing, or another caller needs the
    processors.
    """
    layers, streams, shared = stages.shape[0], given.shape[1], shares.shape[1] - 1
    temperature, top_k, top_p, banned = choice
    head = stages[layers - 1]
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
        t, stage = step // (layers + 1), step % (layers + 1)
        if leads:
            if stage == layers - 1 and not _any_drawn(given[t]):
                step += 1
                continue
            if stage == layers:
                parts = min(parts, streams)
            else:
                fewest, most = min(fewest, parts), max(most, parts)
            if parts > 1:
                give(board, slot, step, parts)
        if rank < parts:
            share = clock()
            z, sums, weights = zs[rank], all_sums[rank], all_weights[rank, : head[UNITS]]
            if stage < layers:
                _layer(cells, stages[stage], shares[stage, shared * rank // parts],
                       shares[stage, shared * (rank + 1) // parts], blocks, packed, scales, bias, table, ids, values, z, sums,
                       (turn + t - seen) % 2)
            else:
                for n in range(streams * rank // parts, streams * (rank + 1) // parts):
                    picked = given[t, n]
                    if picked < 0:
                        start = head[H] + n * head[UNITS]
                        picked = sampling.choose(values[start : start + head[UNITS]], banned, temperature, top_k, top_p,
                                                 sampling.uniform(seeds[n], positions[n] + t), weights)
                    ids[n] = written[t, n] = picked
                    _copy(embedding[picked], 0, values, stages[0, X] + n * width, width)
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
            if stage == layers:
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


def cell_of(stage: Stage | Step) -> Cell | None:
    """The cell of a recurrent stage, else None."""
    return stage.cell if isinstance(stage, Stage) else None


def vectors_of(stage: Stage | Step) -> Array:
    """A stage's biases followed by its cell's weight vectors; empty for a step."""
    if not isinstance(stage, Stage):
        return np.empty(0, np.float32)
    vectors = [np.zeros(stage.units, np.float32) if stage.b is None else stage.b, stage.w]
    return np.concatenate([vector.reshape(-1) for vector in vectors if vector is not None])


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
        The input vectors (V, D) of the first stage; None if that is a step, which takes ids.
    stages
        The layers above the table.
    weights
        "float32" or "int8": matrices as 8-bit integers with one scale per column. Embeddings, biases and states remain
        float32.
    """

    def __init__(self, ops: Any, table: Array | None, stages: Sequence[Stage | Step], weights: str) -> None:
        self.ops, self.stages = ops, stages
        self.embedding = np.empty((stages[-1].units, 0), np.float32) if table is None else table.copy()
        self.cells = Cells(dict.fromkeys(cell for stage in stages if (cell := cell_of(stage))))
        self.measured: dict[int, Array] = {}  # number of streams → measurements
        self.kind = np.dtype(np.int8 if weights == "int8" else np.float32)
        self.exact = bool(self.kind == ops.factor)
        self.table = self._projected(table)
        self.bias = np.concatenate([np.empty(0, np.float32), *(vectors_of(stage) for stage in stages)])
        self.size = sum(slots * k * stage.units for index, stage in enumerate(stages) for _, slots, k in self._panels(index))
        self._layouts: dict[int, Layout] = {}  # keyed by number of members
        self._places: dict[int, tuple[Array, int]] = {}  # keyed by number of streams
        self.layout(1)

    def _projected(self, table: Array | None) -> Array:
        """The first layer's projection of every symbol, if that layer is recurrent and the vocabulary small; else empty."""
        first = self.stages[0]
        if table is None or len(table) > TABLE_ROWS or not isinstance(first, Stage) or first.cell is None:
            return np.empty(0, np.float32)
        projected: Array = self.ops.empty((len(table), len(first.cell.gates) * first.units))
        W = round_to_int8(first.W) if self.kind == np.int8 else first.W
        self.ops.project(table, W, first.b, projected, first=first.cell.window("x")[0] * first.units)
        return projected

    def members(self, streams: int) -> int:
        """How many threads may be worthwhile for this many streams; measurements decide whether they are."""
        work = self.size * self.kind.itemsize // SHARE + self.size * (streams - 1) // WORK
        return self.ops.threads if work > 1 else 1

    def layout(self, streams: int) -> Layout:
        """The weights for this many streams, packed so that each member reads its own blocks in order."""
        members = self.members(streams)
        if members not in self._layouts:
            self._layouts[members] = self._pack(members)
        return self._layouts[members]

    def _pack(self, members: int) -> Layout:
        count = lanes(self.bias)
        blocks: list[tuple[int, ...]] = []
        shares: list[list[int]] = []
        matrices, size, scales = [], 0, 0
        for index, stage in enumerate(self.stages):
            entries: dict[str, list[tuple[int, ...]]] = {name: [] for name, _, _ in self._panels(index)}
            ranges = split(stage.units, members, count) if isinstance(stage, Stage) else []
            ranges += [(stage.units, stage.units)] * (members - len(ranges))
            share = [len(blocks)]
            for begin, end in ranges:
                for first in range(begin, end, VECTORS * count):
                    columns = min(VECTORS * count, end - first)
                    places = {"W": (-1, 0), "U": (-1, 0)}
                    for name, slots, k in self._panels(index):
                        places[name] = (size, scales)
                        for slot in range(slots):
                            entries[name].append((slot * stage.units + first, columns, size, scales))
                            size += -(-columns // count) * count * k
                            scales += columns
                    blocks.append((first, columns, places["W"][0], places["U"][0], places["W"][1], places["U"][1]))
                share.append(len(blocks))
            shares.append(share)
            for name, _, k in self._panels(index):
                assert isinstance(stage, Stage)  # only these have panels
                matrix = getattr(stage, name)
                strides = (1, matrix.shape[1]) if stage.transposed else (matrix.shape[1], 1)
                matrices.append((matrix, strides, k, np.array(entries[name], np.int64)))
        layout = Layout(np.array(blocks, np.int64).reshape(-1, 6), np.array(shares, np.int64), aligned((size,), self.kind),
                        np.empty(scales if self.kind == np.int8 else 0, np.float32))
        for matrix, strides, k, table in matrices:
            bounds = cut(len(table), self.ops.pool.parts(20 * matrix.size))
            panels = self.ops.workspace.take("panels", (len(bounds), k * VECTORS * count), np.float32)
            self.ops.pool.run(pack_blocks, bounds, matrix.reshape(-1), *strides, k, table[:, :2].copy(), table[:, 2].copy(),
                              layout.packed, layout.scales, table[:, 3].copy(), panels)
        return layout

    def _panels(self, index: int) -> list[tuple[str, int, int]]:
        """(name, panels per block of units, rows) of each matrix of a stage that is read at every step."""
        stage = self.stages[index]
        if not isinstance(stage, Stage):
            return []
        if stage.cell is None:
            return [("W", 1, stage.inputs)]
        (x_first, x_last), (h_first, h_last) = stage.cell.window("x"), stage.cell.window("h")
        looked_up = index == 0 and self.table.size > 0
        panels = [] if looked_up else [("W", x_last - x_first, stage.inputs)]
        return panels if h_first == h_last else [*panels, ("U", h_last - h_first, stage.units)]

    def places(self, streams: int) -> tuple[Array, int]:
        """The table of the stages, with offsets into a buffer for ``values``, and the size of that buffer."""
        if streams not in self._places:
            size = streams * self.embedding.shape[1]
            rows, x, bias = [], (0, 0), 0
            for stage in self.stages:
                units, cell = stage.units, cell_of(stage)
                h, turned, turns, kinds = size, streams * units, 1 if cell is None else 2, 0 if cell is None else len(cell.states)
                s = h + turns * turned
                size = s + turns * kinds * turned
                rows.append((cell is not None, stage.inputs, units, *x, h, turned if cell else 0, s, kinds * turned, bias, *self.cells.row(cell)))
                x, bias = (h, turned if cell else 0), bias + vectors_of(stage).size
            self._places[streams] = np.array(rows, np.int64), size
        return self._places[streams]

    def start(self, streams: Streams) -> "Decoding":
        return Decoding(self, streams)


class Decoding:
    """See :class:`numba_rnnlm.backends.ops.Decoding`."""

    def __init__(self, decoder: Decoder, streams: Streams) -> None:
        self.decoder, self.ids, self.positions = decoder, streams.ids.astype(np.int32), streams.positions.astype(np.int64)
        self.turn = 1  # the buffer that the next step writes to; the previous step's is 1 - turn
        self.seen = False  # whether the network has read ``ids``, so that scores are available
        self._lay_out(len(self.ids))
        if streams.state:
            for index, name in self._states():
                self._set_state(index, 1 - self.turn, streams.state[name])
        self._start_steps(streams.state)

    def _lay_out(self, streams: int) -> None:
        """Create ``values``: zeros, except for the vectors of the last symbols."""
        decoder = self.decoder
        self.layout, (self.rows, size) = decoder.layout(streams), decoder.places(streams)
        self.measured = decoder.measured.setdefault(streams, np.zeros(MEASURED, np.int64))
        self.values = aligned((size,), np.float32)
        self.values[:] = 0
        vectors = decoder.embedding[self.ids]
        self.values[: vectors.size] = vectors.reshape(-1)

    def _states(self) -> list[tuple[int, str]]:
        """(index, name of the state) of each recurrent stage."""
        return [(index, stage.state) for index, stage in enumerate(self.decoder.stages) if isinstance(stage, Stage) and stage.cell]

    def _blocks(self, index: int, turn: int) -> Iterator[tuple[slice, Array]]:
        """(range of units, their states (N, S, units)) of each block of a stage."""
        row, streams = self.rows[index], len(self.ids)
        first, last = self.layout.shares[index, [0, -1]]
        for block in self.layout.blocks[first:last]:
            shape = streams, row[STATES], block[COLUMNS]
            start = row[S] + turn * row[S_TURN] + block[FIRST] * streams * row[STATES]
            yield slice(block[FIRST], block[FIRST] + block[COLUMNS]), self.values[start : start + prod(shape)].reshape(shape)

    def _set_state(self, index: int, turn: int, state: Array) -> None:
        """Store state (N, S, H) block by block, and h also as one array, as the layers read it."""
        start = self.rows[index, H] + turn * self.rows[index, H_TURN]
        self.values[start : start + state[:, 0].size] = state[:, 0].reshape(-1)
        for units, part in self._blocks(index, turn):
            part[:] = state[:, :, units]

    def _state(self, index: int, turn: int) -> Array:
        """The state (N, S, H) of a stage."""
        return np.concatenate([part for _, part in self._blocks(index, turn)], 2)

    def _start_steps(self, state: Mapping[str, Array]) -> None:
        """Start the steps from copies of these arrays."""
        steps = [(index, stage) for index, stage in enumerate(self.decoder.stages) if not isinstance(stage, Stage)]
        self.state = {name: self.decoder.ops.empty((len(self.ids), *shape)) for _, step in steps for name, shape in step.states.items()}
        for name, array in self.state.items():
            array[:] = state.get(name, 0)
        self.before = self.state  # the steps' state before they read ``ids``
        self.steps = {index: step.start(len(self.ids), self.state) for index, step in steps}

    def _outputs(self, index: int, turn: int = 0) -> Array:
        """The outputs (N, units) of a stage."""
        row, streams = self.rows[index], len(self.ids)
        start = row[H] + turn * row[H_TURN]
        return self.values[start : start + streams * row[UNITS]].reshape(streams, row[UNITS])

    def read(self, ids: Array) -> None:
        self.draw(ids, Choice(), np.zeros(len(self.ids), np.uint64))

    def scores(self) -> Array:
        if not self.seen:
            self.before = {name: array.copy() for name, array in self.state.items()}
            nothing = np.full((1, len(self.ids)), -1, np.int32)
            self._run(nothing, nothing, Choice(), np.zeros(len(self.ids), np.uint64), 0, len(self.rows))
            self.turn, self.seen = 1 - self.turn, True
        return self._outputs(-1)

    def draw(self, given: Array, choice: Choice, seeds: Array) -> Array:
        count, written, layers = len(given), np.empty(given.shape, np.int32), len(self.rows)
        if count:
            self._run(np.ascontiguousarray(given, np.int32), written, choice, seeds, layers if self.seen else 0, count * (layers + 1))
            self.turn, self.positions = (self.turn + count - self.seen) % 2, self.positions + count
            self.before, self.seen = self.state, False
        return written

    def _run(self, given: Array, written: Array, choice: Choice, seeds: Array, begin: int, end: int) -> None:
        """Steps ``begin`` … ``end`` - 1 of :func:`write`: stages in its loop, other layers through the verbs."""
        layers = len(self.rows)
        places = [*self.steps, layers + 1 + min(self.steps, default=end)]
        while begin < end:
            t, stage = divmod(begin, layers + 1)
            if stage in self.steps:
                if stage < layers - 1 or (given[t] < 0).any():
                    self._step(stage, (self.turn + t - self.seen) % 2)
                begin += 1
            else:
                stop = min(end, t * (layers + 1) + next(place for place in places if place > stage))
                self._loop(given, written, choice, seeds, begin, stop)
                begin = stop

    def _step(self, index: int, turn: int) -> None:
        """Run a layer through the verbs."""
        row = self.rows[index]
        start, x = row[X] + turn * row[X_TURN], self.ids
        if row[INPUTS]:
            x = self.values[start : start + len(self.ids) * row[INPUTS]]
        y = self.steps[index](x.reshape(1, len(self.ids), -1) if row[INPUTS] else x[np.newaxis])
        self._outputs(index)[:] = y.reshape(len(self.ids), -1)

    def _loop(self, given: Array, written: Array, choice: Choice, seeds: Array, begin: int, end: int) -> None:
        decoder, ops, measured, ready = self.decoder, self.decoder.ops, self.measured, 0
        streams, parts = len(self.ids), self.layout.shares.shape[1] - 1
        short = measured[ALONE] * ((end - begin + 1) // (len(self.rows) + 1)) < SHORT
        if short or measured[TIMED] < WARM or CAUTION * measured[LOST] > measured[SINCE]:
            parts = 1
        if parts > 1:
            measured[LOST] = measured[SINCE] = 0
            ready = min(max(int(measured[ALONE]) // 16, READY[0]), READY[1])
        slots, count = int(self.rows[:, SLOTS].max()), lanes(decoder.bias)
        z = ops.workspace.take("z", (parts, streams * slots * VECTORS * count), np.float32)
        sums = ops.workspace.take("sums", (parts, streams * VECTORS * count), np.float32)
        weights = ops.workspace.take("weights", (parts, decoder.stages[-1].units), np.float32)
        ops.pool.lead(
            write, parts, decoder.cells, self.rows, *self.layout, decoder.bias, decoder.table.reshape(-1), decoder.embedding, self.values,
            self.ids, given, written, tuple(choice), seeds, self.positions, self.turn, self.seen, begin, end, z, sums, weights, measured, ready,
            PATIENCE)

    def take(self, rows: Array) -> None:
        states = [[self._state(index, turn)[rows] for turn in range(2)] for index, _ in self._states()]
        scores, before = self._outputs(-1)[rows], {name: array[rows] for name, array in self.before.items()}
        self.ids, self.positions = self.ids[rows], self.positions[rows]
        self._lay_out(len(rows))
        for (index, _), turns in zip(self._states(), states, strict=True):
            for turn, state in enumerate(turns):
                self._set_state(index, turn, state)
        self._outputs(-1)[:] = scores
        self._start_steps({name: array[rows] for name, array in self.state.items()})
        self.before = before if self.seen else self.state

    def streams(self) -> Streams:
        before = self.turn if self.seen else 1 - self.turn
        state = {name: self._state(index, before) for index, name in self._states()} | {name: array.copy() for name, array in self.before.items()}
        return Streams(state, self.ids.copy(), self.positions)
