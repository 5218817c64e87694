"""A recorded step as tables of numbers, which the compiled loop works through.

Instructions that belong to units, products and cells, are divided among threads by units, and attention by streams and heads. All others are
cheap, and the leader's alone. Instructions that are divided in the same way and need nothing of other units follow one another without waiting.

What a stream carries along as a window of its last steps is not moved from step to step: the window is a ring, each row of which is stored
twice, a period apart, so that the rows in view are always neighbours, and only where they begin moves.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ...cells import Cell
from ..ops import Shape, Step
from .recording import Call, NotRecorded, Recorder, Traced

# Operations
PRODUCT, CELL, ATTEND, COPY, FILL, ADD, MULTIPLY, ACTIVATE, SOFTMAX, NORMALIZE, POSITIONS, KEEP = range(12)

# Columns of an instruction. An operand has three: its place, and how far it moves with each step, modulo a period. A period of 1 stands for an
# array in ``values`` that does not move, one of 0 for an array in ``constants``.
OP, SHARE = 0, 1
OUT, A, B, C, D = (2 + 3 * index for index in range(5))
OWN = 17  # the first column that means something else for each operation
COLUMNS = 30
# Element by element: sizes of three loops, the innermost over neighbours; strides of the outer two for OUT, A, B; an option
D0, D1, D2, OUT0, OUT1, A0, A1, B0, B1, FLAG = range(OWN, OWN + 10)
# Products: ROWS inputs are multiplied with SLOTS matrices of UNITS columns each. START says where the sums start: from the output (KEPT), from zero, or
# from the bias C. The taps FIRST_TAP … LAST_TAP - 1 are the places of the inputs, K features each. Rows of the input are X_LD apart, those of the output LD.
# TABLE is the place of the precomputed products of all symbols, or -1.
ROWS, UNITS, SLOTS, START, FIRST_TAP, LAST_TAP, K, X_LD, LD, TABLE = range(OWN, OWN + 10)
KEPT, ZERO, BIAS = range(3)
# Cells: OUT are the next states, A the previous ones, B the sums, C the weight vectors; the number of the cell, of sums and of states.
NUMBER, SUMS, STATES = OWN + 9, OWN + 10, OWN + 11
# Attention of one query: A, B, C are q, k, v, D how many earlier keys exist (or -1); HELD: whether there is D
HEADS, SIZE, DEPTH, KEYS, WINDOW, Q_LD, K_LD, V_LD, HELD, WEIGHTS_AT, SUMS_AT = range(OWN, OWN + 11)

TILE = 128  # keys at a time

# Kinds of phases
SINGLE, OF_UNITS, OF_PAIRS, BY_VERBS = range(4)

Array = np.ndarray
Operand = tuple[int, int, int]


class Product(NamedTuple):
    """A matrix b (k, ·) whose columns first … are multiplied: ``units`` for each of so many slots."""

    b: Array
    strides: tuple[int, int]  # elements from row to row, and from column to column
    first: int
    k: int
    units: int
    slots: int
    tabled: tuple[Array, Array | None, bool] | None  # (W, b, transposed) where the product is of the network's input alone


@dataclass
class Instruction:
    """A row of the table.

    Attributes
    ----------
    reads, writes
        The arrays that it uses and changes.
    whole
        Inputs of which every unit needs all columns; of the others, a unit needs its own column only.
    """

    op: int
    reads: Sequence[Array]
    writes: Sequence[Array]
    whole: Sequence[Array] = ()
    columns: dict[int, int] = field(default_factory=dict)
    numbers: tuple[float, float] = (0.0, 0.0)
    product: Product | None = None
    taps: Sequence[Operand] = ()


class Ring(NamedTuple):
    """The window (period, N, F) of a state (N, period - 1, F): where it was recorded, and where the 2 · period rows are."""

    start: int
    place: int
    period: int
    shape: tuple[int, int]

    @property
    def row(self) -> int:
        """Elements of a row."""
        return prod(self.shape)


class Constants:
    """Arrays that do not differ from step to step, one behind the other; of several with the same numbers only one."""

    def __init__(self) -> None:
        self._places: dict[bytes, int] = {}
        self._arrays: list[Array] = []
        self._size = 0
        self._flat = np.empty(0, np.float32)

    def place(self, array: Array) -> int:
        """Where this array begins."""
        key = hashlib.sha256(array.tobytes()).digest()
        if key not in self._places:
            self._places[key] = self._size
            self._arrays.append(array)
            self._size += array.size
        return self._places[key]

    @property
    def flat(self) -> Array:
        if self._flat.size != self._size:
            self._flat = np.concatenate([array.reshape(-1) for array in self._arrays])
        return self._flat


class Program(NamedTuple):
    """What the loop works through, for one number of streams.

    Attributes
    ----------
    rows, taps, numbers
        Of the instructions: their columns, the inputs of products, two floats for each.
    phases
        (first instruction, last, kind, number of pairs) of each; see :func:`phases`.
    head
        The first phase that computes scores, which are not needed for a symbol that is known.
    scores
        Where they are in ``values``.
    divided
        (units, matrix or None) of each instruction that is divided by units.
    size, fixed
        Of ``values``, which begins with the input, and (place, elements) of what it holds from the beginning on, other than zeros.
    states, rings
        Where what streams carry is, by name: (place, shape), or a window.
    verbs
        The steps that are run by the verbs, by the index of their phase: (step, place of its input, place of its output).
    scratch, tall
        Elements of scratch that an instruction needs; the rows of the tallest product.
    """

    rows: Array
    taps: Array
    numbers: Array
    phases: Array
    head: int
    scores: int
    divided: list[tuple[int, Product | None]]
    size: int
    fixed: list[tuple[int, Array]]
    states: dict[str, tuple[int, Shape]]
    rings: dict[str, Ring]
    verbs: dict[int, tuple[Step, int, int]]
    scratch: int
    tall: int


def build(steps: Sequence[Step], streams: int, width: int, constants: Constants, cells: list[Cell], activations: list[str], ops: Any, rounds: bool) -> Program:
    """Record the steps of a network on an input of so many features; of ids, if there are none.

    ``cells`` and ``activations`` are those that have numbers; new ones are appended. With ``rounds``, products are of rounded matrices.
    """
    recorder = Recorder(ops)
    lowering = Lowering(recorder, constants, cells, activations)
    x: Traced | None = recorder.varying((streams, width)) if width else None
    states = {name: recorder.varying((streams, *shape)) for step in steps for name, shape in step.states.items()}
    table: list[Instruction] = []
    found: list[tuple[int, int, int, int]] = []
    verbs: dict[int, tuple[Step, int, int]] = {}
    pending: list[Instruction] = []

    def flush() -> None:
        for kind, group in phases(pending):
            pairs = streams * group[0].columns[HEADS] if kind == OF_PAIRS else 0
            found.append((len(table), len(table) + len(group), kind, pairs))
            table.extend(group)
        pending.clear()

    lowering.input = None if x is None else x.array
    for step in steps:
        if step is steps[-1]:
            flush()
            head = len(found)
        recorded = None if x is None else lowering.recorded(step, streams, x, states, rounds)
        if recorded is not None:
            x, instructions = recorded
            pending += instructions
            continue
        inputs = 0
        if x is not None:
            given = recorder.varying((streams, step.inputs))
            pending += lowering.copied(x, given)
            inputs = lowering.fixed(given)
        flush()
        x = recorder.varying((streams, step.units))
        verbs[len(found)] = step, inputs, lowering.fixed(x)
        found.append((len(table), len(table), BY_VERBS, 0))
    flush()
    assert x is not None
    rows, taps, divided = np.zeros((len(table), COLUMNS), np.int64), list[Operand](), list[tuple[int, Product | None]]()
    for index, each in enumerate(table):
        if each.op in (PRODUCT, CELL):
            each.columns[SHARE] = len(divided)
            divided.append((each.columns[UNITS], each.product))
        if each.op == PRODUCT:
            each.columns |= {FIRST_TAP: len(taps), LAST_TAP: len(taps) + len(each.taps)}
            taps += each.taps
        rows[index, OP] = each.op
        for column, value in each.columns.items():
            rows[index, column] = value
    return Program(
        rows, np.array(taps, np.int64).reshape(-1, 3), np.array([each.numbers for each in table], np.float32).reshape(-1, 2),
        np.array(found, np.int64), head, lowering.fixed(x), divided, recorder.size, recorder.constants(),
        {name: (lowering.fixed(state), state.shape) for name, state in states.items() if name not in lowering.rings and state.size},
        lowering.rings, verbs, lowering.scratch, max([1, *(each.columns[ROWS] for each in table if each.op == PRODUCT)]))


class Lowering:
    """From calls of verbs to instructions.

    Parameters
    ----------
    recorder
        Its arrays.
    constants
        Where arrays that do not differ are put.
    cells, activations
        Those that have numbers so far; new ones are appended.
    """

    def __init__(self, recorder: Recorder, constants: Constants, cells: list[Cell], activations: list[str]) -> None:
        self.recorder, self.constants, self.cells, self.activations = recorder, constants, cells, activations
        self.rings: dict[str, Ring] = {}
        self.input: Array | None = None
        self.scratch = 1

    def recorded(
        self, step: Step, streams: int, x: Traced, states: Mapping[str, Traced], rounds: bool
    ) -> tuple[Traced, list[Instruction]] | None:
        """The output of a step, and its instructions; None if it is to be run by the verbs."""
        recorder, mark, rings, kinds = self.recorder, self.recorder.mark(), dict(self.rings), (len(self.cells), len(self.activations))
        try:
            y = step.start(recorder, streams, states)(x)
            if not isinstance(y, Traced) or not y.array.flags.c_contiguous:
                raise NotRecorded
            calls = self._find_rings(recorder.lasting(mark), {name: states[name].array for name in step.states})
            found = [instruction for call in calls for instruction in getattr(self, f"_{call.verb}")(call)]
            exact = [each.product.b for each in found if each.product is not None and not any(_within(each.product.b, W) for W in step.matrices)]
            if rounds and exact:
                raise NotRecorded  # it multiplies by a matrix that is not to be rounded
        except NotRecorded:
            recorder.forget(mark)
            self.rings = rings
            del self.cells[kinds[0] :], self.activations[kinds[1] :]
            return None
        _share_units(found)
        return y, found

    def copied(self, x: Traced, out: Traced) -> list[Instruction]:
        """Instructions that copy an array."""
        return self._copy(Call("copy", {"source": x.array, "out": out.array}, [x.array], [out.array]))

    def fixed(self, traced: Traced) -> int:
        """Where an array is that does not move."""
        place, _, period = self.operand(traced.array)
        assert period == 1, "an array that moves, or is none of the recorder's"
        return place

    # Operands

    def operand(self, array: Array) -> Operand:
        """An operand that may also be among the constants."""
        place = self.recorder.place(array)
        if place is None:
            return self.constant(array), 0, 0
        for ring in self.rings.values():
            if ring.start <= place < ring.start + ring.period * ring.row:
                return ring.place + ring.row + place - ring.start, ring.row, ring.period
        return place, 0, 1

    def inside(self, array: Array) -> Operand:
        """An operand that must be in ``values``."""
        if self.recorder.place(array) is None:
            raise NotRecorded
        return self.operand(array)

    def constant(self, array: Array) -> int:
        """Where an array is among the constants."""
        self.expect_constant(array)
        return self.constants.place(array)

    def expect_constant(self, array: Array) -> None:
        """Raise :class:`NotRecorded` if an array differs from step to step, or is not contiguous."""
        if self.recorder.varies(array) or not array.flags.c_contiguous:
            raise NotRecorded

    # Windows that are carried along

    def _find_rings(self, calls: Sequence[Call], states: Mapping[str, Array]) -> list[Call]:
        """The calls without those that move a window from step to step; instead, one "keep" for each window."""
        calls = list(calls)
        for name, state in states.items():
            touching = [index for index, call in enumerate(calls) if _meet([state], [*call.reads, *call.writes])]
            if state.ndim != 3 or state.shape[1] < 2 or not state.size or len(touching) != 2 or any(calls[index].verb != "copy" for index in touching):
                continue
            (first, last), rows = (calls[index] for index in touching), state.swapaxes(0, 1)
            if not (_same(first.source, rows) and _same(last.out, rows) and first.out.flags.c_contiguous and last.source.flags.c_contiguous):
                continue
            start, row, period = self.recorder.place(first.out), state.shape[0] * state.shape[2], state.shape[1] + 1
            if start is None or self.recorder.place(last.source) != start + row:
                continue
            window = _spread(first.out, period * row)
            written = [(index, array) for index, call in enumerate(calls) if index not in touching for array in call.writes if _meet([array], [window])]
            if any(index > touching[1] or _meet([array], [window[:-row]]) for index, array in written):
                continue
            place = self.recorder.place(self.recorder.varying((2 * period, row)).array)
            assert place is not None
            self.rings[name] = Ring(start, place, period, (state.shape[0], state.shape[2]))
            calls[touching[1]] = Call("keep", {"row": window[-row:]}, [window[-row:]], [window[-row:]])
            del calls[touching[0]]
        return calls

    # Verbs

    def _elementwise(self, op: int, call: Call, out: Array, *arrays: Array, flag: int = 0, numbers: tuple[float, float] = (0, 0)) -> list[Instruction]:
        shape, strides = _loops(out, *arrays)
        columns = dict(zip((D0, D1, D2), shape, strict=True)) | {FLAG: flag}
        for place, (outer, inner), array, steps in zip((OUT, A, B), ((OUT0, OUT1), (A0, A1), (B0, B1)), (out, *arrays), strides, strict=False):
            columns |= _at(place, self.operand(array)) | {outer: steps[0], inner: steps[1]}
        return [Instruction(op, call.reads, call.writes, columns=columns, numbers=numbers)]

    def _copy(self, call: Call) -> list[Instruction]:
        return self._elementwise(COPY, call, call.out, call.source)

    def _fill(self, call: Call) -> list[Instruction]:
        return self._elementwise(FILL, call, call.out, numbers=(call.value, 0))

    def _add(self, call: Call) -> list[Instruction]:
        return self._elementwise(ADD, call, call.out, call.x, numbers=(call.scale, 0))

    def _multiply(self, call: Call) -> list[Instruction]:
        return self._elementwise(MULTIPLY, call, call.out, call.x, call.y, flag=call.add)

    def _activate(self, call: Call) -> list[Instruction]:
        if call.activation == "softmax":
            x = _matrix(call.x)
            self.scratch = max(self.scratch, x.shape[1])
            return [Instruction(SOFTMAX, call.reads, call.writes, columns=_at(OUT, self.operand(x)) | {D0: len(x), OUT0: _stride(x), D2: x.shape[1]})]
        if call.activation not in self.activations:
            self.activations.append(call.activation)
        return self._elementwise(ACTIVATE, call, call.x, flag=self.activations.index(call.activation))

    def _keep(self, call: Call) -> list[Instruction]:
        return [Instruction(KEEP, call.reads, call.writes, columns=_at(OUT, self.operand(call.row)) | {D2: call.row.size})]

    def _normalize(self, call: Call) -> list[Instruction]:
        columns = _at(OUT, self.operand(call.out)) | _at(A, self.inside(call.x)) | _at(D, self.inside(call.stats))
        columns |= {D0: len(call.x), D2: call.x.shape[1], OUT0: _stride(call.out), A0: _stride(call.x), FLAG: int(call.centred)}
        for place, vector in ((B, call.gain), (C, call.offset)):
            columns |= _at(place, (-1 if vector is None else self.constant(vector), 0, 0))
        return [Instruction(NORMALIZE, call.reads, call.writes, columns=columns, numbers=(call.epsilon, 0))]

    def _add_positions(self, call: Call) -> list[Instruction]:
        columns = _at(OUT, self.operand(call.out)) | _at(A, self.inside(call.starts)) | _at(B, (self.constant(call.table), 0, 0))
        if len(call.out) != 1 or not call.out.flags.c_contiguous:
            raise NotRecorded
        columns |= {D0: call.out.shape[1], D1: len(call.table), D2: call.out.shape[2]}
        return [Instruction(POSITIONS, call.reads, call.writes, columns=columns)]

    def _project(self, call: Call) -> list[Instruction]:
        x, W, out, before = _matrix(call.x), call.W, _matrix(call.out), []
        self.expect_constant(W)
        columns = W.shape[0 if call.transposed else 1]
        if columns < out.shape[1] and not call.add:  # all columns get the bias
            before = self._start(call, out)
        elif columns < out.shape[1] and call.b is not None:
            raise NotRecorded
        start = KEPT if call.add or before else ZERO if call.b is None else BIAS
        if call.add and call.b is not None:
            raise NotRecorded
        strides = (1, W.shape[1]) if call.transposed else (W.shape[1], 1)
        tabled = (W, call.b, call.transposed) if start != KEPT and self.input is not None and _same(x, _matrix(self.input)) else None
        product = Product(W, strides, 0, x.shape[1], columns, 1, tabled)
        return [*before, self._product(x, product, out[:, call.first : call.first + columns], start, call.b, [self.inside(x)], len(x), _stride(x))]

    def _start(self, call: Call, out: Array) -> list[Instruction]:
        """Rows of ``out`` ← the bias, or zero."""
        if call.b is None:
            return self._elementwise(FILL, call._replace(reads=[]), out)
        columns = _at(OUT, self.operand(out)) | _at(A, (self.constant(call.b), 0, 0))
        columns |= {D0: 1, D1: len(out), D2: out.shape[1], OUT1: _stride(out)}
        return [Instruction(COPY, [], call.writes, columns=columns)]

    def _product(
        self, x: Array, product: Product, out: Array, start: int, bias: Array | None, taps: list[Operand], rows: int, x_ld: int
    ) -> Instruction:
        columns = _at(OUT, self.operand(out)) | {ROWS: rows, UNITS: product.units, SLOTS: 1, START: start, K: product.k // max(1, len(taps)), X_LD: x_ld,
                                                 LD: _stride(out), TABLE: -1}
        if start == BIAS:
            assert bias is not None
            columns |= _at(C, (self.constant(bias), 0, 0))
        return Instruction(PRODUCT, [x, out], [out], [x], columns, product=product, taps=taps)

    def _convolve(self, call: Call) -> list[Instruction]:
        x, W, out, found = call.x, call.W, call.out, list[Instruction]()
        self.expect_constant(W)
        if not x.flags.c_contiguous or not out.flags.c_contiguous:
            raise NotRecorded
        inputs, width = W.shape[1:]
        units = width // call.groups
        for t in range(len(out)):
            places = [(k, t * call.stride + k * call.dilation - call.before) for k in range(len(W))]
            places = [(k, place) for k, place in places if 0 <= place < len(x)]
            ks = [k for k, _ in places]
            for group in range(call.groups):
                seen, columns = slice(group * inputs, (group + 1) * inputs), slice(group * units, (group + 1) * units)
                matrix = W[ks[0] : ks[-1] + 1] if ks else W[:0]  # taps are neighbours
                product = Product(matrix, (width, 1), group * units, len(ks) * inputs, units, 1, None)
                bias = None if call.b is None else call.b[columns]
                taps = [self.inside(x[place, :, seen]) for _, place in places]
                found.append(self._product(x, product, out[t][:, columns], ZERO if bias is None else BIAS, bias, taps, x.shape[1], x.shape[2]))
        return found

    def _recur(self, call: Call) -> list[Instruction]:
        cell, U, z, s = call.cell, call.U, call.z, call.s
        streams, gates, units = z.shape[1:]
        if cell not in self.cells:
            self.cells.append(cell)
        sums, found = z.reshape(streams, gates * units), []
        if U is not None:
            self.expect_constant(U)
            (first, last), h = cell.window("h"), s[0, :, 0]
            product = Product(U, (U.shape[1], 1), 0, units, U.shape[1], 1, None)
            found.append(self._product(h, product, sums[:, first * units : last * units], KEPT, None, [self.inside(h)], streams, _stride(h)))
        columns = _at(OUT, self.operand(s[1])) | _at(A, self.inside(s[0])) | _at(B, self.inside(z)) | {
            ROWS: streams, UNITS: units, NUMBER: self.cells.index(cell), SUMS: gates, STATES: s.shape[2]}
        columns |= _at(C, (-1 if call.w is None else self.constant(call.w), 0, 0))
        return [*found, Instruction(CELL, [z, s[0]], [s[1], z], columns=columns)]

    def _attend(self, call: Call) -> list[Instruction]:
        q, k, v = call.q, call.k, call.v
        if not all(array.flags.c_contiguous for array in (q, k, v, call.out, call.sums)):
            raise NotRecorded
        columns = _at(OUT, self.operand(call.out)) | _at(A, self.inside(q)) | _at(B, self.inside(k)) | _at(C, self.inside(v))
        columns |= _at(D, (-1, 0, 0) if call.held is None else self.inside(call.held))
        columns |= {HEADS: call.heads, SIZE: q.shape[2] // call.heads, DEPTH: v.shape[2] // call.heads, KEYS: len(k), WINDOW: call.window,
                    Q_LD: q.shape[2], K_LD: q.shape[1] * q.shape[2], V_LD: v.shape[1] * v.shape[2], HELD: int(call.held is not None),
                    WEIGHTS_AT: -1 if call.w is None else self.constant(call.w), SUMS_AT: self.operand(call.sums)[0]}
        self.scratch = max(self.scratch, TILE + q.shape[2])
        return [Instruction(ATTEND, call.reads, call.writes, columns=columns, numbers=(call.scale, 0))]


def _share_units(instructions: Sequence[Instruction]) -> None:
    """Products into the sums of a cell are divided among threads as the cell is: by its units, of all slots."""
    for index, cell in enumerate(instructions):
        if cell.op == CELL:
            z, units = cell.reads[0], cell.columns[UNITS]
            for earlier in reversed(instructions[:index]):
                if any(np.may_share_memory(array, z) for array in earlier.writes):
                    if earlier.op == PRODUCT and earlier.product is not None and earlier.product.units % units == 0:
                        slots = earlier.product.units // units
                        earlier.product = earlier.product._replace(units=units, slots=slots)
                        earlier.columns |= {UNITS: units, SLOTS: slots}
                    elif earlier.op == CELL:
                        break


def phases(instructions: Iterable[Instruction]) -> list[tuple[int, list[Instruction]]]:
    """(kind, instructions) of neighbours between which no thread has to wait for another."""
    found: list[tuple[int, list[Instruction]]] = []
    for each in instructions:
        kind, group = found[-1] if found else (None, [])
        if each.op == ATTEND:
            found.append((OF_PAIRS, [each]))
        elif kind == OF_UNITS and each.op in (PRODUCT, CELL) and all(_goes_on(each, other) for other in group):
            group.append(each)
        elif each.op == PRODUCT:
            found.append((OF_UNITS, [each]))
        elif kind == OF_UNITS and not any(_conflict(each, other) for other in group):  # it goes before the group
            if len(found) > 1 and found[-2][0] == SINGLE:
                found[-2][1].append(each)
            else:
                found.insert(len(found) - 1, (SINGLE, [each]))
        elif kind == SINGLE:
            group.append(each)
        else:
            found.append((SINGLE, [each]))
    return found


def _goes_on(each: Instruction, other: Instruction) -> bool:
    """Whether a thread may compute its units of ``each`` right after its units of ``other``, without waiting for other threads."""
    units = each.columns[UNITS]
    if units != other.columns[UNITS] or _meet(each.whole, other.writes) or _meet(each.writes, other.whole):
        return False
    apart = [_distance(mine, theirs) % units for mine in (*each.reads, *each.writes) for theirs in other.writes if np.may_share_memory(mine, theirs)]
    return not any(apart)


def _distance(array: Array, other: Array) -> int:
    """Elements between the beginnings of two arrays."""
    return int(abs(array.__array_interface__["data"][0] - other.__array_interface__["data"][0]) // array.itemsize)


def _conflict(each: Instruction, other: Instruction) -> bool:
    return _meet(each.writes, [*other.reads, *other.writes]) or _meet(each.reads, other.writes)


def _meet(some: Sequence[Array], others: Sequence[Array]) -> bool:
    return any(np.may_share_memory(one, two) for one in some for two in others)


def _at(place: int, operand: Operand) -> dict[int, int]:
    return dict(zip(range(place, place + 3), operand, strict=True))


def _same(array: Array, other: Array) -> bool:
    """Whether both are the same view."""
    return array.__array_interface__ == other.__array_interface__


def _within(array: Array, whole: Array) -> bool:
    """Whether an array is a part of another."""
    first, start = (each.__array_interface__["data"][0] for each in (array, whole))
    return bool(start <= first and first + array.nbytes <= start + whole.nbytes)


def _spread(array: Array, size: int) -> Array:
    """The first ``size`` elements of the memory that begins with this array."""
    return np.lib.stride_tricks.as_strided(array, (size,), (array.itemsize,))


def _matrix(array: Array) -> Array:
    """The last axis as columns, the others as rows. Raises :class:`NotRecorded` if that is no view."""
    found = array.reshape(-1, array.shape[-1])
    if not np.may_share_memory(found, array) or found.strides[1] != array.itemsize:
        raise NotRecorded
    return found


def _stride(array: Array) -> int:
    """Elements from row to row."""
    return array.strides[0] // array.itemsize


def _loops(*arrays: Array) -> tuple[list[int], list[list[int]]]:
    """Sizes of three loops over arrays of equal size, the innermost over neighbours, and the strides of each array."""
    shape = next((array.shape for array in arrays if not array.flags.c_contiguous), arrays[0].shape)
    views = []
    for array in arrays:
        view = array.reshape(shape) if array.shape != shape else array
        if not np.may_share_memory(view, array):
            raise NotRecorded
        views.append(view)
    dims = [(size, [view.strides[axis] // view.itemsize for view in views]) for axis, size in enumerate(shape) if size > 1]
    merged: list[tuple[int, list[int]]] = []
    for size, strides in dims:
        if merged and all(outer == inner * size for outer, inner in zip(merged[-1][1], strides, strict=True)):
            merged[-1] = merged[-1][0] * size, strides
        else:
            merged.append((size, strides))
    if not merged or any(stride != 1 for stride in merged[-1][1]):
        merged.append((1, [1] * len(arrays)))
    if len(merged) > 3:
        raise NotRecorded
    merged = [(1, [0] * len(arrays))] * (3 - len(merged)) + merged
    return [size for size, _ in merged], [[strides[index] for _, strides in merged[:2]] for index in range(len(arrays))]
