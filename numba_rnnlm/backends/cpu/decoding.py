"""One symbol after the other without Python in between: the network, the drawing, the next symbol.

A thread owns some units of every layer, with all their gates: an element of a cell touches its own column alone, so the
threads meet once a layer. What a block of units needs of the matrices is packed in the order in which it is read.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...portable import fma
from ..ops import Choice, Stage, Streams
from ..quantisation import round_to_int8
from . import sampling
from .kernels import kernel
from .packing import pack_panel
from .recurrence import forward_row
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

TABLE_ROWS = 1024  # of a vocabulary: up to here the first layer's projections are computed for every symbol beforehand
SHARE = 1 << 17  # bytes of weights from which on a second thread is tried
WORK = 1 << 20  # multiply-adds from which on it is
WARM = 2  # symbols that are timed alone before that
SHORT = 100_000  # nanoseconds of what is to be written, up to which it is not worth while to wake others up
WINDOW = 16  # symbols after which a gang must have been faster than one thread,
GAIN = 10  # by a tenth
PATIENCE = 50_000  # nanoseconds that the leader waits for the others, beyond the time of its own share
READY = 1_000, 100_000  # nanoseconds that it waits for them to come, at least and at most; between them a sixteenth of a symbol

Array = np.ndarray

# Columns of the tables that the kernel walks along.
# A stage: x, h and s are where its input, its output and its states lie in ``values``; what a step reads while another
# thread writes has two places that take turns, "turn" apart.
RECURRENT, INPUTS, UNITS, X, X_TURN, H, H_TURN, S, S_TURN, BIAS = range(10)
# A block of its units: where its panels of W and U begin, and their scales.
FIRST, COLUMNS, AT_W, AT_U, W_SCALE, U_SCALE = range(6)
# What was measured, in nanoseconds: a symbol on one thread, and how many were timed; the last symbols of gangs, and how many;
# what gangs have lost, and what was written alone since.
ALONE, TIMED, TOGETHER, SYMBOLS, LOST, SINCE, MEASURED = range(7)


@kernel
def _multiply(values, x, inputs, m, packed, at, z, iz, ldz, columns, scales, scale_at, sums):
    """z (m, columns) += x (m, inputs) B for one packed panel, scaled column by column if it is int8."""
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
def _recurrent_block(cell, shape, row, block, packed, scales, bias, table, ids, values, z, sums, turn):
    """A recurrent layer's step for one block of units."""
    x_first, x_last, h_first, h_last, slots, states, weights = shape
    streams, units, first, columns = ids.size, row[UNITS], block[FIRST], block[COLUMNS]
    for n in range(streams):
        for slot in range(slots):
            start = (n * slots + slot) * columns
            if block[AT_W] < 0:
                _copy(table, (ids[n] * slots + slot) * units + first, z, start, columns)
            else:
                _copy(bias, row[BIAS] + slot * units + first, z, start, columns)
    at, scale = block[AT_W], block[W_SCALE]
    for slot in range(x_first, x_last if at >= 0 else x_first):
        at, scale = _multiply(values, row[X] + turn * row[X_TURN], row[INPUTS], streams, packed, at, z, slot * columns,
                              slots * columns, columns, scales, scale, sums)
    at, scale = block[AT_U], block[U_SCALE]
    for slot in range(h_first, h_last):
        at, scale = _multiply(values, row[H] + (1 - turn) * row[H_TURN], units, streams, packed, at, z, slot * columns,
                              slots * columns, columns, scales, scale, sums)
    start = row[BIAS] + slots * units
    w = bias[start : start + weights * units].reshape(weights, units)[:, first : first + columns]
    size, place = states * columns, row[S] + first * streams * states
    for n in range(streams):
        old, new = place + (1 - turn) * row[S_TURN] + n * size, place + turn * row[S_TURN] + n * size
        forward_row(
            cell, z[n * slots * columns : (n + 1) * slots * columns].reshape(slots, columns),
            values[old : old + size].reshape(states, columns), values[new : new + size].reshape(states, columns), w,
        )  # fmt: skip
        _copy(values, new, values, row[H] + turn * row[H_TURN] + n * units + first, columns)


@kernel(linked=True)
def _layer(cell, shape, row, first, last, blocks, packed, scales, bias, table, ids, values, z, sums, turn):
    """A layer's step for some blocks of its units."""
    for index in range(first, last):
        block = blocks[index]
        if row[RECURRENT]:
            _recurrent_block(cell, shape, row, block, packed, scales, bias, table, ids, values, z, sums, turn)
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
    """Note the time of a symbol whose layers had so many members; → whether a gang continues."""
    if most == 1:
        usual = measured[ALONE]
        if measured[TIMED] == 0 or span < usual:
            measured[ALONE] = span
        else:  # it grows slowly: most of what is slower was interrupted
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
def write(part, bounds, cell, board, slot, shape, stages, blocks, shares, packed, scales, bias, table, embedding, values, ids,
          given, written, choice, seeds, positions, turn, seen, begin, end, zs, all_sums, all_weights, measured, ready, patience):
    """written (T, N) ← given, or where that is -1 what is drawn, from step ``begin`` to before step ``end``.

    A step is a layer, or behind the last of them the drawing; its units or streams are cut among the members of the gang. The first
    layer reads ids (N), which were written before; if the network has ``seen`` those before this call, the first step is a drawing.
    The leader sends the others away when they keep it waiting for longer than they have gained, gain nothing, or another caller needs
    the processors.
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
                _layer(cell, shape, stages[stage], shares[stage, shared * rank // parts],
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
                    # More than the gang has gained lately?
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
    """Columns (first, how many) of b (k, ·) to packed[places[i]:]; as int8 with a scale each, if packed is that."""
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
    """Blocks of units, member by member of a gang, and behind one another what each takes of the matrices."""

    blocks: Array
    shares: Array
    packed: Array
    scales: Array


class Decoder:
    """A network's weights, packed for one symbol after the other.

    Parameters
    ----------
    ops
        The backend.
    embedding
        (V, D)
    stages
        The layers above it.
    weights
        "float32", or "int8": each column of a matrix as whole numbers with a scale of its own. Vectors of symbols, biases and
        states stay as they are.
    """

    def __init__(self, ops: Any, embedding: Array, stages: Sequence[Stage], weights: str) -> None:
        self.ops, self.embedding = ops, embedding.copy()
        self.stages = list(stages)
        self.cell = next(stage.cell for stage in stages if stage.cell is not None)
        self.shape = (*self.cell.window("x"), *self.cell.window("h"), len(self.cell.gates), len(self.cell.states), len(self.cell.weights))
        self.measured: dict[int, Array] = {}  # by the number of streams
        self.kind = np.dtype(np.int8 if weights == "int8" else np.float32)
        self.exact = bool(self.kind == ops.factor)
        symbols = embedding.shape[0]
        first = stages[0]
        self.table = np.empty(0, np.float32)
        if first.cell is not None and symbols <= TABLE_ROWS:
            self.table = ops.empty((symbols, len(self.cell.gates) * first.units))
            W = round_to_int8(first.W) if self.kind == np.int8 else first.W
            ops.project(embedding, W, first.b, self.table, first=self.shape[0] * first.units)
        vectors = [vector for stage in stages for vector in (np.zeros(stage.units, np.float32) if stage.b is None else stage.b, stage.w)]
        self.bias = np.concatenate([vector.reshape(-1) for vector in vectors if vector is not None])
        self.size = sum(
            slots * stage.inputs(name) * stage.units
            for index, stage in enumerate(self.stages) for name, slots in self._panels(index)
        )  # fmt: skip
        self._layouts: dict[int, Layout] = {}
        self.layout(1)

    def members(self, streams: int) -> int:
        """How many threads may be worth while for so many streams; what they gain is measured."""
        work = self.size * self.kind.itemsize // SHARE + self.size * (streams - 1) // WORK
        return self.ops.threads if work > 1 else 1

    def layout(self, streams: int) -> Layout:
        """The weights as the members read them: one reads whole blocks where several have parts of one."""
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
            entries: dict[str, list[tuple[int, ...]]] = {name: [] for name, _ in self._panels(index)}
            ranges = split(stage.units, members, count)
            ranges += [(stage.units, stage.units)] * (members - len(ranges))
            share = [len(blocks)]
            for begin, end in ranges:
                for first in range(begin, end, VECTORS * count):
                    columns = min(VECTORS * count, end - first)
                    places = {"W": (-1, 0), "U": (-1, 0)}
                    for name, slots in self._panels(index):
                        places[name] = (size, scales)
                        for slot in range(slots):
                            entries[name].append((slot * stage.units + first, columns, size, scales))
                            size += -(-columns // count) * count * stage.inputs(name)
                            scales += columns
                    blocks.append((first, columns, places["W"][0], places["U"][0], places["W"][1], places["U"][1]))
                share.append(len(blocks))
            shares.append(share)
            for name, _ in self._panels(index):
                matrix = getattr(stage, name)
                strides = (1, matrix.shape[1]) if stage.transposed else (matrix.shape[1], 1)
                matrices.append((matrix, strides, stage.inputs(name), np.array(entries[name], np.int64)))
        layout = Layout(np.array(blocks, np.int64), np.array(shares, np.int64), aligned((size,), self.kind),
                        np.empty(scales if self.kind == np.int8 else 0, np.float32))
        for matrix, strides, k, table in matrices:
            bounds = cut(len(table), self.ops.pool.parts(20 * matrix.size))
            panels = self.ops.workspace.take("panels", (len(bounds), k * VECTORS * count), np.float32)
            self.ops.pool.run(pack_blocks, bounds, matrix.reshape(-1), *strides, k, table[:, :2].copy(), table[:, 2].copy(),
                              layout.packed, layout.scales, table[:, 3].copy(), panels)
        return layout

    def _panels(self, index: int) -> list[tuple[str, int]]:
        """Which matrices of a stage are read at each step, and how many panels a block of units takes of each."""
        x_first, x_last, h_first, h_last, *_ = self.shape
        if self.stages[index].cell is None:
            return [("W", 1)]
        looked_up = index == 0 and self.table.size > 0
        panels = [] if looked_up else [("W", x_last - x_first)]
        return panels if h_first == h_last else [*panels, ("U", h_last - h_first)]

    def start(self, streams: Streams) -> "Decoding":
        return Decoding(self, streams)


class Decoding:
    """See :class:`numba_rnnlm.backends.ops.Decoding`."""

    def __init__(self, decoder: Decoder, streams: Streams) -> None:
        self.decoder, self.ids, self.positions = decoder, streams.ids.astype(np.int32), streams.positions.astype(np.int64)
        self.turn = 1  # the place that the next step writes to: what came before is in the other one
        self.seen = False  # whether the network has seen ``ids``, so that the scores are there
        self._lay_out(len(self.ids))
        for index, stage in self._recurrent():
            self._set_state(index, 1 - self.turn, streams.state[stage.state])
        self._look_up()

    def _lay_out(self, streams: int) -> None:
        """Where everything lies in ``values``, which are zero."""
        decoder = self.decoder
        self.layout = decoder.layout(streams)
        self.measured = decoder.measured.setdefault(streams, np.zeros(MEASURED, np.int64))
        slots, kinds, weights = decoder.shape[4:]
        size = streams * decoder.embedding.shape[1]
        rows, x, bias = [], (0, 0), 0
        for stage in decoder.stages:
            recurrent, units = stage.cell is not None, stage.units
            h, turned = size, streams * units
            s = h + (2 if recurrent else 1) * turned
            size = s + (2 * kinds * turned if recurrent else 0)
            rows.append((recurrent, stage.inputs("W"), units, *x, h, turned if recurrent else 0, s, kinds * turned, bias))
            x, bias = (h, turned if recurrent else 0), bias + (slots + weights if recurrent else 1) * units
        self.rows = np.array(rows, np.int64)
        self.values = aligned((size,), np.float32)
        self.values[:] = 0

    def _look_up(self) -> None:
        """The vectors of the last symbols."""
        vectors = self.decoder.embedding[self.ids]
        self.values[: vectors.size] = vectors.reshape(-1)

    def _recurrent(self) -> Iterator[tuple[int, Stage]]:
        return ((index, stage) for index, stage in enumerate(self.decoder.stages) if stage.cell is not None)

    def _blocks(self, index: int, turn: int) -> Iterator[tuple[slice, Array]]:
        """The states of a layer at this turn: units, and their states (N, S, units)."""
        row, streams, kinds = self.rows[index], len(self.ids), self.decoder.shape[5]
        first, last = self.layout.shares[index, [0, -1]]
        for block in self.layout.blocks[first:last]:
            start, size = row[S] + turn * row[S_TURN] + block[FIRST] * streams * kinds, streams * kinds * block[COLUMNS]
            units = slice(block[FIRST], block[FIRST] + block[COLUMNS])
            yield units, self.values[start : start + size].reshape(streams, kinds, block[COLUMNS])

    def _set_state(self, index: int, turn: int, state: Array) -> None:
        """state (N, S, H): block by block, and h also as a whole."""
        row = self.rows[index]
        start = row[H] + turn * row[H_TURN]
        self.values[start : start + state[:, 0].size] = state[:, 0].reshape(-1)
        for units, part in self._blocks(index, turn):
            part[:] = state[:, :, units]

    def _state(self, index: int, turn: int) -> Array:
        """(N, S, H)"""
        return np.concatenate([part for _, part in self._blocks(index, turn)], 2)

    def _scores(self) -> Array:
        head = self.rows[-1]
        return self.values[head[H] : head[H] + len(self.ids) * head[UNITS]].reshape(len(self.ids), head[UNITS])

    def read(self, ids: Array) -> None:
        self.draw(ids, Choice(), np.zeros(ids.shape[1], np.uint64))

    def scores(self) -> Array:
        if not self.seen:
            nothing = np.full((1, len(self.ids)), -1, np.int32)
            self._run(nothing, nothing, Choice(), np.zeros(len(self.ids), np.uint64), 0, len(self.rows))
            self.turn, self.seen = 1 - self.turn, True
        return self._scores()

    def draw(self, given: Array, choice: Choice, seeds: Array) -> Array:
        steps, written, layers = len(given), np.empty(given.shape, np.int32), len(self.rows)
        if steps == 0:
            return written
        self._run(np.ascontiguousarray(given, np.int32), written, choice, seeds, layers if self.seen else 0, steps * (layers + 1))
        self.turn = (self.turn + steps - self.seen) % 2
        self.positions = self.positions + steps
        self.seen = False
        return written

    def _run(self, given: Array, written: Array, choice: Choice, seeds: Array, begin: int, end: int) -> None:
        """The steps from ``begin`` to before ``end``: see :func:`write`."""
        decoder, ops, measured, ready = self.decoder, self.decoder.ops, self.measured, 0
        streams, parts = len(self.ids), self.layout.shares.shape[1] - 1
        short = measured[ALONE] * ((end - begin + 1) // (len(self.rows) + 1)) < SHORT
        if short or measured[TIMED] < WARM or CAUTION * measured[LOST] > measured[SINCE]:
            parts = 1
        if parts > 1:
            measured[LOST] = measured[SINCE] = 0
            ready = min(max(int(measured[ALONE]) // 16, READY[0]), READY[1])
        slots, count = decoder.shape[4], lanes(decoder.bias)
        z = ops.workspace.take("z", (parts, streams * slots * VECTORS * count), np.float32)
        sums = ops.workspace.take("sums", (parts, streams * VECTORS * count), np.float32)
        weights = ops.workspace.take("weights", (parts, decoder.stages[-1].units), np.float32)
        ops.pool.lead(
            write, parts, decoder.cell, decoder.shape, self.rows, *self.layout, decoder.bias, decoder.table.reshape(-1),
            decoder.embedding, self.values, self.ids, given, written, tuple(choice), seeds, self.positions, self.turn, self.seen,
            begin, end, z, sums, weights, measured, ready, PATIENCE)

    def take(self, rows: Array) -> None:
        states = [[self._state(index, turn)[rows] for turn in range(2)] for index, _ in self._recurrent()]
        scores = self._scores()[rows]
        self.ids, self.positions = self.ids[rows], self.positions[rows]
        self._lay_out(len(rows))
        for (index, _), turns in zip(self._recurrent(), states, strict=True):
            for turn, state in enumerate(turns):
                self._set_state(index, turn, state)
        self._scores()[:] = scores
        self._look_up()

    def streams(self) -> Streams:
        before = self.turn if self.seen else 1 - self.turn
        state = {stage.state: self._state(index, before) for index, stage in self._recurrent()}
        return Streams(state, self.ids.copy(), self.positions)
