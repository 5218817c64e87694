"""One symbol after the other without Python in between: the network, the drawing, the next symbol.

A thread owns some units of every layer, with all their gates: an element of a cell touches its own column alone, so the
threads meet once a layer. What a block of units needs of the matrices is packed in the order in which it is read.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...portable import fma
from .. import Stage
from ..quantisation import round_to_int8
from . import sampling
from .barrier import meet, new_barrier
from .kernels import kernel
from .packing import pack_panel
from .recurrence import forward_row
from .simd import VECTORS, lanes, multiply_panel
from .team import parallel
from .threads import cut, split
from .workspace import aligned

TABLE_ROWS = 1024  # of a vocabulary: up to here the first layer's projections are computed for every symbol beforehand
SHARE = 1 << 17  # bytes of weights that are worth a second thread
WORK = 1 << 20  # multiply-adds that are

Array = np.ndarray

# Columns of the tables that the kernel walks along.
# A stage: x, h and s are where its input, its output and its states lie in ``values``; what a step reads while another
# thread writes has two places that take turns, "turn" apart.
RECURRENT, INPUTS, UNITS, X, X_TURN, H, H_TURN, S, S_TURN, BIAS = range(10)
# A block of its units: where its panels of W and U begin, and their scales.
FIRST, COLUMNS, AT_W, AT_U, W_SCALE, U_SCALE = range(6)


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
    x_first, x_last, h_first, h_last, slots, states = shape
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
    size, place = states * columns, row[S] + first * streams * states
    for n in range(streams):
        old, new = place + (1 - turn) * row[S_TURN] + n * size, place + turn * row[S_TURN] + n * size
        forward_row(
            cell, z[n * slots * columns : (n + 1) * slots * columns].reshape(slots, columns),
            values[old : old + size].reshape(states, columns), values[new : new + size].reshape(states, columns),
        )  # fmt: skip
        _copy(values, new, values, row[H] + turn * row[H_TURN] + n * units + first, columns)


@kernel(linked=True)
def _step(cell, shape, stages, blocks, shares, packed, scales, bias, table, ids, values, z, sums, turn, last, part, parts,
          barrier):
    """The first ``last`` stages' answer to ids (N)."""
    for stage in range(last):
        row = stages[stage]
        for index in range(shares[stage, part], shares[stage, part + 1]):
            block = blocks[index]
            if row[RECURRENT]:
                _recurrent_block(cell, shape, row, block, packed, scales, bias, table, ids, values, z, sums, turn)
            else:
                start = row[H] + block[FIRST]
                for n in range(ids.size):
                    _copy(bias, row[BIAS] + block[FIRST], values, start + n * row[UNITS], block[COLUMNS])
                _multiply(values, row[X] + turn * row[X_TURN], row[INPUTS], ids.size, packed, block[AT_W], values, start,
                          row[UNITS], block[COLUMNS], scales, block[W_SCALE], sums)
        meet(barrier, parts)


@parallel
def write(part, bounds, cell, shape, stages, blocks, shares, packed, scales, bias, table, embedding, values, ids, given,
          written, temperature, top_k, top_p, seeds, banned, position, turn, fresh, zs, all_sums, all_weights, barrier):
    """written (T, N) ← given, or where that is -1 what is drawn. The last ids are not yet read by the network.

    ``fresh``: nothing comes before the first of these positions that was not read; otherwise ids (N) do.
    """
    first, last, parts = bounds[part, 0], bounds[part, 1], bounds.shape[0]
    z, sums, weights = zs[part], all_sums[part], all_weights[part, : stages[stages.shape[0] - 1, UNITS]]
    head = stages[stages.shape[0] - 1]
    width = embedding.shape[1]
    for t in range(given.shape[0]):
        if t > 0 or not fresh:
            drawn = False
            for n in range(given.shape[1]):
                drawn |= given[t, n] < 0
            _step(cell, shape, stages, blocks, shares, packed, scales, bias, table, ids, values, z, sums, turn,
                  stages.shape[0] - (0 if drawn else 1), part, parts, barrier)
            turn = 1 - turn
        for n in range(first, last):
            picked = given[t, n]
            if picked < 0:
                start = head[H] + n * head[UNITS]
                picked = sampling.choose(values[start : start + head[UNITS]], banned, temperature, top_k, top_p,
                                         sampling.uniform(seeds[n], position + t), weights)
            ids[n] = written[t, n] = picked
            _copy(embedding[picked], 0, values, stages[0, X] + n * width, width)
        meet(barrier, parts)


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
        self.shape = (*self.cell.window("x"), *self.cell.window("h"), len(self.cell.gates), len(self.cell.states))
        self.kind = np.dtype(np.int8 if weights == "int8" else np.float32)
        self.is_exact = self.kind == ops.factor
        symbols = embedding.shape[0]
        first = stages[0]
        self.table = np.empty(0, np.float32)
        if first.cell is not None and symbols <= TABLE_ROWS:
            self.table = ops.empty((symbols, len(self.cell.gates) * first.units))
            W = round_to_int8(first.W) if self.kind == np.int8 else first.W
            ops.project(embedding, W, first.b, self.table, first=self.shape[0] * first.units)
        self.bias = np.concatenate([
            np.zeros(stage.units, np.float32) if stage.b is None else stage.b.reshape(-1) for stage in stages
        ])  # fmt: skip
        self._pack()

    def _pack(self) -> None:
        """Blocks of units, thread by thread, and behind one another what each takes of the matrices."""
        count = lanes(self.bias)
        blocks: list[tuple[int, ...]] = []
        shares: list[list[int]] = []
        matrices, size, scales = [], 0, 0
        for index, stage in enumerate(self.stages):
            entries: dict[str, list[tuple[int, ...]]] = {"W": [], "U": []}
            ranges = split(stage.units, self.ops.threads, count)
            ranges += [(stage.units, stage.units)] * (self.ops.threads - len(ranges))
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
        self.blocks, self.shares = np.array(blocks, np.int64), np.array(shares, np.int64)
        self.packed = aligned((size,), self.kind)
        self.scales = np.empty(scales if self.kind == np.int8 else 0, np.float32)
        for matrix, strides, k, table in matrices:
            bounds = cut(len(table), self.ops.pool.parts(20 * matrix.size))
            panels = self.ops.workspace.take("panels", (len(bounds), k * VECTORS * count), np.float32)
            self.ops.pool.run(pack_blocks, bounds, matrix.reshape(-1), *strides, k, table[:, :2].copy(), table[:, 2].copy(),
                              self.packed, self.scales, table[:, 3].copy(), panels)

    def _panels(self, index: int) -> list[tuple[str, int]]:
        """Which matrices of a stage are read at each step, and how many panels a block of units takes of each."""
        x_first, x_last, h_first, h_last, _, _ = self.shape
        if self.stages[index].cell is None:
            return [("W", 1)]
        looked_up = index == 0 and self.table.size > 0
        return [*([] if looked_up else [("W", x_last - x_first)]), ("U", h_last - h_first)]

    def start(self, states: Sequence[Array], logits: Array | None, streams: int, position: int) -> "Decoding":
        """See :meth:`numba_rnnlm.backends.Ops.decoder`."""
        return Decoding(self, states, logits, streams, position)


class Decoding:
    """Some streams on their way."""

    def __init__(
        self, decoder: Decoder, states: Sequence[Array], logits: Array | None, streams: int, position: int
    ) -> None:
        self.decoder, self.position, self.turn, self.fresh = decoder, position, 1, True
        slots, kinds = decoder.shape[4:]
        size = streams * decoder.embedding.shape[1]
        rows, x, bias = [], (0, 0), 0
        for stage in decoder.stages:
            recurrent, units = stage.cell is not None, stage.units
            h, turned = size, streams * units
            s = h + (2 if recurrent else 1) * turned
            size = s + (2 * kinds * turned if recurrent else 0)
            rows.append((recurrent, stage.inputs("W"), units, *x, h, turned if recurrent else 0, s, kinds * turned, bias))
            x, bias = (h, turned if recurrent else 0), bias + (slots if recurrent else 1) * units
        self.rows = np.array(rows, np.int64)
        self.values = aligned((size,), np.float32)
        self.values[:] = 0
        given = iter(states)
        for index, row in enumerate(self.rows):
            if row[RECURRENT]:
                self._set_state(index, row, next(given))
        if logits is not None:
            head = self.rows[-1]
            self.values[head[H] : head[H] + logits.size] = logits.reshape(-1)
        self.ids = np.zeros(streams, np.int32)

    def _set_state(self, index: int, row: Array, state: Array) -> None:
        """state (N, S, H): where the next step looks for what came before, block by block, and h also as a whole."""
        streams, kinds, units = state.shape
        before = 1 - self.turn
        start = row[H] + before * row[H_TURN]
        self.values[start : start + streams * units] = state[:, 0].reshape(-1)
        first, last = self.decoder.shares[index, [0, -1]]
        for block in self.decoder.blocks[first:last]:
            start = row[S] + before * row[S_TURN] + block[FIRST] * streams * kinds
            part = state[:, :, block[FIRST] : block[FIRST] + block[COLUMNS]]
            self.values[start : start + part.size] = part.reshape(-1)

    def write(
        self, given: Array, seeds: Array, temperature: float, top_k: int, top_p: float, banned: Array
    ) -> Array:
        """The next ids (T, N): those of ``given`` (T, N), or where that is -1 drawn; stream n draws with seeds[n]."""
        decoder, ops = self.decoder, self.decoder.ops
        steps, streams = given.shape
        parts = max(1, min(
            ops.threads, decoder.packed.nbytes // SHARE + decoder.packed.size * (streams - 1) // WORK
        ))  # fmt: skip
        parts = ops.threads if parts > 1 else 1
        shares = decoder.shares if parts > 1 else decoder.shares[:, [0, -1]].copy()
        barrier, written = new_barrier(), np.empty(given.shape, np.int32)
        slots, count, vocabulary = decoder.shape[4], lanes(decoder.bias), decoder.stages[-1].units
        borders = split(streams, parts)
        borders += [(streams, streams)] * (parts - len(borders))
        z = ops.workspace.take("z", (parts, streams * slots * VECTORS * count), np.float32)
        sums = ops.workspace.take("sums", (parts, streams * VECTORS * count), np.float32)
        weights = ops.workspace.take("weights", (parts, vocabulary), np.float32)
        ops.pool.gang(
            write, np.array(borders), decoder.cell, decoder.shape, self.rows, decoder.blocks, shares, decoder.packed,
            decoder.scales, decoder.bias, decoder.table.reshape(-1), decoder.embedding, self.values, self.ids, given, written,
            temperature, top_k, top_p, seeds, banned, self.position, self.turn, self.fresh, z, sums, weights, barrier)
        self.turn = (self.turn + steps - self.fresh) % 2
        self.fresh = False
        self.position += steps
        return written
