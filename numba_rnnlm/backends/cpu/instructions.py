"""The instructions of a recorded step, compiled: see :mod:`.program`. Only those that a network has are compiled into its loop."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numba.extending import overload

from ...activations import POINTWISE
from ...cells import Cell
from ...portable import Rows, exp_below_zero, fma, log, tanh
from . import norms, pointwise, program
from . import sums as lanewise
from .kernels import kernel
from .linear import accumulate_unpacked
from .program import (
    A0,
    A1,
    ACTIVATE,
    ADD,
    B0,
    B1,
    BIAS,
    COPY,
    D0,
    D1,
    D2,
    DEPTH,
    FILL,
    FIRST_TAP,
    FLAG,
    HEADS,
    HELD,
    K_LD,
    KEEP,
    KEPT,
    KEYS,
    LAST_TAP,
    LD,
    MULTIPLY,
    NORMALIZE,
    NUMBER,
    OP,
    OUT,
    OUT0,
    OUT1,
    POSITIONS,
    Q_LD,
    ROWS,
    SIZE,
    SLOTS,
    SOFTMAX,
    START,
    STATES,
    SUMS,
    SUMS_AT,
    TABLE,
    TILE,
    UNITS,
    V_LD,
    WEIGHTS_AT,
    WINDOW,
    A,
    B,
    C,
    D,
    K,
)  # fmt: skip
from .simd import lanes, multiply_panel

# A block of units: its first unit, how many, and where its panels and their scales begin; -1 without panels.
FIRST, WIDTH, AT, SCALE = range(4)


class Parts(Rows):
    """What differs from network to network in the compiled loop: its cells, activations and operations."""

    def __init__(self, cells: Sequence[Cell], activations: Sequence[str], operations: Iterable[int]) -> None:
        self.cells, self.activations, self.operations = tuple(cells), tuple(activations), tuple(sorted(operations))
        self.name = " ".join([*(cell.name for cell in self.cells), *self.activations, *map(str, self.operations)])

    def rows(self) -> dict[str, Callable[..., None]]:
        cells = {f"cell {number}": cell.forward for number, cell in enumerate(self.cells)}
        return cells | {name: POINTWISE[name].value for name in self.activations}


@kernel
def place(row, column, time):
    """Where an operand is at this step."""
    return row[column] + (time % row[column + 2] * row[column + 1] if row[column + 2] > 1 else 0)


# Products


@kernel
def _write(source, first, target, start, columns):
    line, out = source[first : first + columns], target[start : start + columns]
    for j in range(columns):
        out[j] = line[j]


@kernel(linked=True)
def product(row, taps, block, packed, scales, constants, table, ids, values, sums, time):
    """A product's columns of one block of units, of all slots."""
    rows, units, columns, ld, k = row[ROWS], row[UNITS], block[WIDTH], row[LD], row[K]
    out, at, scale = place(row, OUT, time) + block[FIRST], block[AT], block[SCALE]
    count = lanes(values)
    vectors = (columns + count - 1) // count
    mask = columns - (vectors - 1) * count
    for slot in range(row[SLOTS]):
        column = slot * units + block[FIRST]
        for n in range(rows):
            start = out + n * ld
            if row[TABLE] >= 0:
                _write(table, row[TABLE] + ids[n] * row[SLOTS] * units + column, values, start, columns)
            elif row[START] == BIAS:
                _write(constants, row[C] + column, values, start, columns)
            elif row[START] != KEPT:
                values[start : start + columns] = 0
        if row[TABLE] < 0:
            if scales.size:
                width = vectors * count
                sums[: rows * width] = 0
                for tap in range(row[FIRST_TAP], row[LAST_TAP]):
                    multiply_panel(vectors, values, place(taps[tap], 0, time), row[program.X_LD], 1, rows, packed, at, k, sums, 0, width, sums, 0, width, mask)
                    at += k * width
                factors = scales[scale : scale + columns]
                for n in range(rows):
                    target, line = values[out + n * ld : out + n * ld + columns], sums[n * width : n * width + columns]
                    for j in range(columns):
                        target[j] = fma(factors[j], line[j], target[j])
            else:
                for tap in range(row[FIRST_TAP], row[LAST_TAP]):
                    multiply_panel(vectors, values, place(taps[tap], 0, time), row[program.X_LD], 1, rows, packed, at, k, values, out, ld, values, out, ld, mask)
                    at += k * vectors * count
            scale += columns
        out += units


# Cells


def _forward(parts, number, z, z_at, prev, prev_at, next, next_at, w, w_at, hidden, h0, h1):
    """Units h0 … h1 - 1 of one stream through a cell; the rows begin at these indices of flat arrays."""
    cell = parts.cells[number]

    def rows(array, at, names):
        return array[at : at + len(names) * hidden].reshape(len(names), hidden)[:, h0:h1]

    cell.forward(rows(z, z_at, cell.gates), rows(prev, prev_at, cell.states), rows(next, next_at, cell.states),
                 *cell.with_weights(rows(w, max(w_at, 0), cell.weights)), 0, 1)


@overload(_forward, inline="always")
def _forward_of(parts, number, z, z_at, prev, prev_at, next, next_at, w, w_at, hidden, h0, h1):
    """Generate one call per cell, each guarded by a test of its number."""
    lines, scope = ["def forward(parts, number, z, z_at, prev, prev_at, next, next_at, w, w_at, hidden, h0, h1):"], {}
    for index, cell in enumerate(parts.rows.cells):
        scope[f"row{index}"] = cell.forward
        rows = [("z", cell.gates), ("prev", cell.states), ("next", cell.states), *([("w", cell.weights)] if cell.weights else [])]
        slices = ["(" + "".join(f"{name}[{name}_at + {k} * hidden + h0 : {name}_at + {k} * hidden + h1], " for k in range(len(names))) + ")"
                  for name, names in rows]
        lines.append(f"    {f'if number == {index}: ' if len(parts.rows.cells) > 1 else ''}row{index}({', '.join(slices)}, 0, 1)")
    exec("\n".join([*lines, "    return"]), scope)
    return scope["forward"]


@kernel(linked=True)
def cell(parts, row, block, constants, values, time):
    """A cell's step for one block of units."""
    units, first = row[UNITS], block[FIRST]
    next, prev, z = place(row, OUT, time), place(row, A, time), place(row, B, time)
    states, sums = row[STATES] * units, row[SUMS] * units
    for n in range(row[ROWS]):
        _forward(parts, row[NUMBER], values, z + n * sums, values, prev + n * states, values, next + n * states, constants, row[C], units, first,
                 first + block[WIDTH])


# Attention


@kernel
def _scores(row, constants, values, head, query, k, s0, lines, line):
    """Scores of a query and the keys from s0 on; ``line`` is scratch of the size of a key."""
    for s in range(lines.size):
        key = values[k + (s0 + s) * row[K_LD] : k + (s0 + s) * row[K_LD] + query.size]
        if row[WEIGHTS_AT] >= 0:
            for j in range(query.size):
                line[j] = tanh(query[j] + key[j])
            start = row[WEIGHTS_AT] + head * query.size
            lines[s] = lanewise.dot(line, constants[start : start + query.size])
        else:
            lines[s] = lanewise.dot(query, key)


@kernel(linked=True)
def attend(row, numbers, first, last, constants, values, scratch, time):
    """The output of one query for pairs ``first`` … ``last`` - 1 of a stream and a head; all keys in view lie one behind the other.

    Keys and values are read some at a time, with a running maximum and sum, because they may be one array: it is read from memory once.
    """
    heads, size, depth, keys, scale = row[HEADS], row[SIZE], row[DEPTH], row[KEYS], numbers[0]
    q, k, v, out = place(row, A, time), place(row, B, time), place(row, C, time), place(row, OUT, time)
    line = scratch[TILE : TILE + size]
    for pair in range(first, last):
        n, head = pair // heads, pair % heads
        begin = keys - row[WINDOW] if 0 < row[WINDOW] < keys else 0
        if row[HELD]:
            begin = max(begin, keys - 1 - int(min(values[place(row, D, time) + n], np.float32(keys - 1))))
        start, result_at = n * row[Q_LD] + head * size, out + pair * depth
        query, result = values[q + start : q + start + size], values[result_at : result_at + depth]
        for j in range(depth):
            result[j] = 0
        peak = total = np.float32(0)
        for s0 in range(begin, keys, TILE):
            count = min(TILE, keys - s0)
            lines = scratch[:count]
            _scores(row, constants, values, head, query, k + start, s0, lines, line)
            top = lanewise.largest(lines)
            if total == 0:
                peak = top
            elif not top <= peak:  # also where top is NaN, so that the result is NaN
                shrink = exp_below_zero((peak - top) * scale)
                total *= shrink
                peak = top
                for j in range(depth):
                    result[j] *= shrink
            for j in range(count):
                lines[j] = exp_below_zero((lines[j] - peak) * scale)
            total += lanewise.total(lines)
            accumulate_unpacked(scratch, 0, 0, 1, values, v + s0 * row[V_LD] + pair * depth, row[V_LD], count, depth, values, result_at, depth)
        for j in range(depth):
            result[j] *= np.float32(1) / total
        values[row[SUMS_AT] + pair] = log(total) + peak * scale


# Instructions of the leader


@kernel(linked=True)
def copy(row, numbers, constants, values, scratch, time):
    out, at = place(row, OUT, time), place(row, A, time)
    for i in range(row[D0]):
        for j in range(row[D1]):
            _write(constants if row[A + 2] == 0 else values, at + i * row[A0] + j * row[A1], values, out + i * row[OUT0] + j * row[OUT1], row[D2])


@kernel(linked=True)
def fill(row, numbers, constants, values, scratch, time):
    out = place(row, OUT, time)
    for i in range(row[D0]):
        for j in range(row[D1]):
            start = out + i * row[OUT0] + j * row[OUT1]
            values[start : start + row[D2]] = numbers[0]


@kernel(linked=True)
def add(row, numbers, constants, values, scratch, time):
    out, at, scale, source = place(row, OUT, time), place(row, A, time), numbers[0], constants if row[A + 2] == 0 else values
    for i in range(row[D0]):
        for j in range(row[D1]):
            first, start = at + i * row[A0] + j * row[A1], out + i * row[OUT0] + j * row[OUT1]
            x, target = source[first : first + row[D2]], values[start : start + row[D2]]
            for c in range(target.size):
                target[c] = fma(scale, x[c], target[c])


@kernel(linked=True)
def multiply(row, numbers, constants, values, scratch, time):
    out, a, b = place(row, OUT, time), place(row, A, time), place(row, B, time)
    left, right = constants if row[A + 2] == 0 else values, constants if row[B + 2] == 0 else values
    for i in range(row[D0]):
        for j in range(row[D1]):
            first, second, start = a + i * row[A0] + j * row[A1], b + i * row[B0] + j * row[B1], out + i * row[OUT0] + j * row[OUT1]
            x, y, target = left[first : first + row[D2]], right[second : second + row[D2]], values[start : start + row[D2]]
            if row[FLAG]:
                for c in range(target.size):
                    target[c] = fma(x[c], y[c], target[c])
            else:
                for c in range(target.size):
                    target[c] = x[c] * y[c]


@kernel(linked=True)
def keep(row, numbers, constants, values, scratch, time):
    """Store the newest row of a window where it will be in view until the period is over."""
    out = place(row, OUT, time)
    _write(values, out, values, out - row[OUT + 1] * row[OUT + 2], row[D2])


@kernel(linked=True)
def softmax(row, numbers, constants, values, scratch, time):
    out = place(row, OUT, time)
    for i in range(row[D0]):
        pointwise.softmax_row(values[out + i * row[OUT0] : out + i * row[OUT0] + row[D2]], scratch[: row[D2]])


@kernel(linked=True)
def normalize(row, numbers, constants, values, scratch, time):
    out, at, stats, size = place(row, OUT, time), place(row, A, time), place(row, D, time), row[D2]
    gain = constants[row[B] : row[B] + size] if row[B] >= 0 else constants[:0]
    offset = constants[row[C] : row[C] + size] if row[C] >= 0 else constants[:0]
    for i in range(row[D0]):
        x, y = values[at + i * row[A0] : at + i * row[A0] + size], values[out + i * row[OUT0] : out + i * row[OUT0] + size]
        norms.normalize_row(x, gain, offset, numbers[0], row[FLAG] != 0, y, values[stats + 2 * i : stats + 2 * i + 2])


@kernel(linked=True)
def positions(row, numbers, constants, values, scratch, time):
    out, at, size = place(row, OUT, time), place(row, A, time), row[D2]
    for n in range(row[D0]):
        step = int(min(values[at + n], np.float32(row[D1] - 1)))
        line, target = constants[row[B] + step * size : row[B] + (step + 1) * size], values[out + n * size : out + (n + 1) * size]
        for j in range(size):
            target[j] += line[j]


@kernel(linked=True)
def activate(parts, row, values, time):
    out = place(row, OUT, time)
    for i in range(row[D0]):
        for j in range(row[D1]):
            start = out + i * row[OUT0] + j * row[OUT1]
            _activate(parts, row[FLAG], values[start : start + row[D2]])


def _activate(parts, number, line):
    function = POINTWISE[parts.activations[number]].value
    for j in range(line.size):
        line[j] = function(line[j])


@overload(_activate, inline="always")
def _activate_of(parts, number, line):
    lines, scope = ["def activate(parts, number, line):"], {}
    for index, name in enumerate(parts.rows.activations):
        scope[f"f{index}"] = POINTWISE[name].value
        lines += [f"    if number == {index}:", "        for j in range(line.size):", f"            line[j] = f{index}(line[j])"]
    exec("\n".join([*lines, "    return"]), scope)
    return scope["activate"]


_LEADERS = {COPY: copy, FILL: fill, ADD: add, MULTIPLY: multiply, SOFTMAX: softmax, NORMALIZE: normalize, POSITIONS: positions, KEEP: keep}


def alone(parts, row, numbers, constants, values, scratch, time):
    """An instruction of the leader other than a cell."""
    if row[OP] == ACTIVATE:
        activate(parts, row, values, time)
    else:
        _LEADERS[row[OP]](row, numbers, constants, values, scratch, time)


@overload(alone, inline="always")
def _alone(parts, row, numbers, constants, values, scratch, time):
    lines, scope = ["def alone(parts, row, numbers, constants, values, scratch, time):", "    operation = row[0]"], {"activate": activate}
    for operation in parts.rows.operations:
        if operation == ACTIVATE:
            lines.append(f"    if operation == {ACTIVATE}: activate(parts, row, values, time)")
        elif operation in _LEADERS:
            scope[f"run{operation}"] = _LEADERS[operation]
            lines.append(f"    if operation == {operation}: run{operation}(row, numbers, constants, values, scratch, time)")
    exec("\n".join([*lines, "    return"]), scope)
    return scope["alone"]


def divided(parts, row, taps, block, packed, scales, constants, table, ids, values, sums, time):
    """An instruction of units, for one block of them."""
    if row[OP] == program.CELL:
        cell(parts, row, block, constants, values, time)
    else:
        product(row, taps, block, packed, scales, constants, table, ids, values, sums, time)


@overload(divided, inline="always")
def _divided(parts, row, taps, block, packed, scales, constants, table, ids, values, sums, time):
    if not parts.rows.cells:
        return lambda parts, row, taps, block, packed, scales, constants, table, ids, values, sums, time: product(
            row, taps, block, packed, scales, constants, table, ids, values, sums, time)

    def run(parts, row, taps, block, packed, scales, constants, table, ids, values, sums, time):
        if row[OP] == program.CELL:
            cell(parts, row, block, constants, values, time)
        else:
            product(row, taps, block, packed, scales, constants, table, ids, values, sums, time)

    return run


def paired(parts, row, numbers, first, last, constants, values, scratch, time):
    """Attention for some pairs of a stream and a head."""
    attend(row, numbers, first, last, constants, values, scratch, time)


@overload(paired, inline="always")
def _paired(parts, row, numbers, first, last, constants, values, scratch, time):
    if program.ATTEND in parts.rows.operations:
        return lambda parts, row, numbers, first, last, constants, values, scratch, time: attend(
            row, numbers, first, last, constants, values, scratch, time)
    return lambda parts, row, numbers, first, last, constants, values, scratch, time: None
