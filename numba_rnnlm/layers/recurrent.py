"""Layers with a loop over time, one for all cells."""

from dataclasses import KW_ONLY, dataclass, field
from math import prod
from typing import Annotated, ClassVar, Literal

import numpy as np

from .. import cells
from ..arguments import Only, checked, hidden
from ..backends.ops import Array, Ops, Shape
from ..cells import Cell
from ..errors import ConfigError, ShapeError, expect_flag, expect_number, expect_one_of, take_plain_values
from .initializers import diagonal, glorot, orthogonal
from .layer import Layer, Run, above
from .options import WEIGHTS, Glorot, TakesVectors, Zeros


@checked
@dataclass(frozen=True)
class Recurrent(TakesVectors):
    """A sequence of vectors through a recurrent cell.

    Weights: ``W`` (D, gₓ·H) from the input, ``U`` (H, gₕ·H) from the state, ``b`` (G, H), gates in the
    order of the cell's slots; gₓ and gₕ count the slots that see the input and the state. There is no ``U`` if no slot sees the state, and
    ``w`` (K, H) if the cell has vectors of weights. A slot that sees the input itself ("=", see :class:`~numba_rnnlm.cells.Cell`) has no columns
    in ``W`` if D = H. State: ``s`` (N, S, H).

    Parameters
    ----------
    units
        H, the size of the state.
    return_sequences
        Hand on the state after every step (T, N, H), or only after the last one (N, H).
    cell
        Name of the cell, see :mod:`numba_rnnlm.cells`, or a :class:`~numba_rnnlm.cells.Cell`. The layer keeps the cell that has the name
        when the layer is made.
    forget_bias
        Initial bias of a slot named ``f``.
    input_shape, input_dim
        On the first layer: (steps or None, features) of the vectors, or the features alone.

    Examples
    --------
    >>> Recurrent(128, cell="gru").parameters((20, 32, 64))
    {'W': (64, 384), 'U': (128, 384), 'b': (4, 128)}
    """

    units: int
    return_sequences: bool = False
    cell: str | Cell = "lstm"
    forget_bias: float = 1.0
    OWN_CELLS: ClassVar[tuple[str, ...]] = ()  # those that a layer named after its cell may have; of others any
    _: KW_ONLY
    use_bias: Annotated[Literal[True], Only("every cell has biases")] = hidden(True)
    kernel_initializer: Glorot = hidden("glorot_uniform")
    recurrent_initializer: Annotated[Literal["orthogonal"], WEIGHTS] = hidden("orthogonal")
    bias_initializer: Zeros = hidden("zeros")
    dropout: Annotated[float, Only("put a Dropout layer in front")] = hidden(0.0)
    recurrent_dropout: Annotated[float, Only("dropout is between layers only, by Dropout layers")] = hidden(0.0)
    return_state: Annotated[Literal[False], Only("return_sequences=True hands on the outputs after every step")] = hidden(False)
    go_backwards: Annotated[Literal[False], Only("turn the sequences round before: x[:, ::-1]")] = hidden(False)
    stateful: Annotated[Literal[False], Only("every example starts from a zero state; LanguageModel carries the state along")] = hidden(False)
    unroll: Annotated[Literal[False], Only("the loop over time is compiled as it is")] = hidden(False)

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_number(f"{type(self).__name__}: units", self.units, 1, whole=True)
        name, own = type(self).__name__, type(self).OWN_CELLS
        expect_flag(f"{name}: return_sequences", self.return_sequences)
        expect_number(f"{name}: forget_bias", self.forget_bias, -100, 100)
        object.__setattr__(self, "cell", cells.held(self.cell))
        if own and self.cell not in own:
            raise ConfigError(f"{name}: cell is {getattr(self.cell, 'name', self.cell)!r}, expected {own[0]!r}; Recurrent(units, cell=...) takes any "
                              "cell.")

    def output(self, shape: Shape) -> Shape:
        if len(shape) != 3:
            raise ShapeError(f"{type(self).__name__} takes sequences (streams, steps, features), got an input with "
                             f"{len(shape)} axes. Put an Embedding in front of ids, and give a recurrent layer below "
                             "another one return_sequences=True.")
        return (*shape[:2], self.units) if self.return_sequences else (shape[1], self.units)

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        cell = cells.get(self.cell)
        (x0, x1), (h0, h1) = cell.window("x"), cell.window("h")
        shapes: dict[str, Shape] = {"W": (shape[-1], (x1 - x0 - (self._skip(shape[-1]) is not None)) * self.units)}
        if h0 < h1:
            shapes["U"] = self.units, (h1 - h0) * self.units
        if cell.weights:
            shapes["w"] = len(cell.weights), self.units
        return shapes | {"b": (len(cell.gates), self.units)}

    def state(self, shape: Shape) -> dict[str, Shape]:
        return {"s": (shape[1], len(cells.get(self.cell).states), self.units)}

    def activations(self, shape: Shape, training: bool) -> dict[str, Shape]:
        cell = cells.get(self.cell)
        steps, streams, _ = shape
        arrays = {
            "z": (steps, streams, len(cell.gates), self.units),
            "s": (steps + 1, streams, len(cell.states), self.units),
            "y": self.output(shape),
        }
        if training:
            arrays |= {"d": self.state(shape)["s"], "dx": shape}
        return arrays

    def initialize(self, shape: Shape, random: np.random.Generator) -> dict[str, np.ndarray]:
        shapes, cell = self.parameters(shape), cells.get(self.cell)
        gates = list(cell.gates)
        drawn = {"W": glorot, "U": orthogonal, "w": diagonal}
        weights = {name: drawn[name](random, *size) if name in drawn else np.zeros(size) for name, size in shapes.items()}
        for row, name in enumerate(cell.weights):
            if name in cell.initial:
                weights["w"][row] = random.uniform(*cell.initial[name], self.units)
        if "f" in gates:
            weights["b"][gates.index("f")] = self.forget_bias
        return weights

    def forward(self, ops: Ops, run: Run, x: Array) -> Array:
        self.project(ops, run, x, flat(run.a["z"]))
        return self.loop(ops, run)

    def backward(self, ops: Ops, run: Run, x: Array, dy: Array) -> Array | None:
        self.loop_backward(ops, run, dy)
        self.project_backward(ops, run, x, flat(run.a["z"]), run.a["dx"])
        return run.a["dx"]

    def bias(self, ops: Ops, run: Run) -> Array:
        """(G, H), a row for each gate."""
        return run.p["b"]

    def project(self, ops: Ops, run: Run, x: Array, z: Array) -> None:
        """z (M, G·H) ← sums of the gates of x (M, D), without what the state contributes."""
        ops.project(x, run.p["W"], self.bias(ops, run), z, first=self._first)
        if (skip := self._skip(x.shape[-1])) is not None:
            ops.add(x, z, first=skip * self.units)

    def project_backward(self, ops: Ops, run: Run, x: Array, dz: Array, dx: Array) -> None:
        """dx, and the gradients of W and b, from those of the sums dz (M, G·H)."""
        gates = run.a["z"].shape[2]
        ops.project_backward(x, run.p["W"], dz, dx, run.g["W"], run.g["b"][:gates], first=self._first, add=run.adds(ops, "W", "b"))
        if (skip := self._skip(x.shape[-1])) is not None:
            ops.add(dz, dx, first=skip * self.units)

    def loop(self, ops: Ops, run: Run) -> Array:
        """The steps over time, from the sums of x; → y"""
        z, s, y = run.a["z"], run.a["s"], run.a["y"]
        ops.copy(run.m["s"], s[0])
        ops.recur(cells.get(self.cell), run.p.get("U"), z, s, run.p.get("w"))
        ops.copy(s[-1], run.m["s"])
        ops.copy(s[1:, :, 0] if self.return_sequences else s[-1, :, 0], y)
        return y

    def loop_backward(self, ops: Ops, run: Run, dy: Array) -> None:
        """z ← gradients of the sums, and the gradient of U."""
        d = run.a["d"]
        ops.fill(d, 0)
        if not self.return_sequences:
            ops.copy(dy, d[:, 0])
        ops.recur_backward(cells.get(self.cell), run.p.get("U"), run.a["z"], run.a["s"], dy if self.return_sequences else None, d,
                           run.g.get("U"), run.p.get("w"), run.g.get("w"), add=run.adds(ops, "U", "w"))

    @property
    def _first(self) -> int:
        """The first column of the sums that sees the input."""
        return cells.get(self.cell).window("x")[0] * self.units

    def _skip(self, features: int) -> int | None:
        """The slot that sees the input itself, if it has so many features; None if there is none, or W projects it."""
        first, last = cells.get(self.cell).window("=")
        return first if first < last and features == self.units else None

    @property
    def kind(self) -> str:
        return cells.get(self.cell).name if type(self) is Recurrent else super().kind

    def matrices(self) -> tuple[str, ...]:
        return ("W", "U") if cells.get(self.cell).window("h")[1] else ("W",)

    def over(self, lower: Layer, names: tuple[str, str], shape: Shape) -> Layer | None:
        table = lower.table(shape)
        return OverTable(lower, self, names) if table is not None and 2 * table[0] <= prod(shape) else None


@dataclass(frozen=True)
class OverTable(Layer):
    """A recurrent layer over an embedding with far fewer symbols than there are ids: every symbol's projection is computed, and looked up.

    Parameters
    ----------
    lower, upper
        The embedding, or another layer with a :meth:`~.layer.Layer.table`; and the recurrent layer.
    names
        Theirs.
    """

    lower: Layer
    upper: Recurrent
    names: tuple[str, str]

    def output(self, shape: Shape) -> Shape:
        return self.upper.output(self.lower.output(shape))

    def activations(self, shape: Shape, training: bool) -> dict[str, Shape]:
        arrays, table = self.upper.activations(self.lower.output(shape), training), self.lower.table(shape)
        assert table is not None
        arrays["table"] = (table[0], prod(arrays["z"][2:]))
        arrays.pop("dx", None)
        return above(self.names[1], arrays)

    def forward(self, ops: Ops, run: Run, x: Array) -> Array:
        lower, upper = map(run.part, self.names)
        table, z = upper.a["table"], upper.a["z"]
        self.upper.project(ops, upper, lower.p["W"], table)
        ops.gather(table, x, z.reshape(*z.shape[:2], table.shape[1]))
        return self.upper.loop(ops, upper)

    def backward(self, ops: Ops, run: Run, x: Array, dy: Array) -> None:
        lower, upper = map(run.part, self.names)
        table, z, gradient = upper.a["table"], upper.a["z"], lower.g["W"]
        self.upper.loop_backward(ops, upper, dy)
        ops.fill(table, 0)
        ops.scatter_add(x, z.reshape(*z.shape[:2], table.shape[1]), table)
        adds = lower.adds(ops, "W")
        found = ops.empty(gradient.shape) if adds else gradient
        self.upper.project_backward(ops, upper, lower.p["W"], table, found)
        if adds:
            ops.add(found, gradient)


def flat(z: Array) -> Array:
    """(T, N, G, H) as rows (T·N, G·H)."""
    steps, streams, gates, hidden = z.shape
    return z.reshape(steps * streams, gates * hidden)


@dataclass(frozen=True)
class Gated(Recurrent):
    """What the layers with gates take from Keras."""

    _: KW_ONLY
    activation: Annotated[Literal["tanh"], Only("only SimpleRNN has a choice")] = hidden("tanh")
    recurrent_activation: Annotated[Literal["sigmoid"], Only("the gates have no choice")] = hidden("sigmoid")


@checked
@dataclass(frozen=True)
class LSTM(Gated):
    """Long short-term memory (Hochreiter and Schmidhuber 1997). See :class:`Recurrent`.

    Examples
    --------
    >>> LSTM(64, return_sequences=True).output((20, 32, 100))
    (20, 32, 64)
    """

    cell: str | Cell = "lstm"
    OWN_CELLS: ClassVar[tuple[str, ...]] = ("lstm",)
    _: KW_ONLY
    unit_forget_bias: Annotated[Literal[True], Only("forget_bias=0.0 starts without")] = hidden(True)


@checked
@dataclass(frozen=True)
class GRU(Gated):
    """Gated recurrent unit (Cho et al. 2014), reset after the product: Keras's default. See :class:`Recurrent`.

    As in Keras, the reset and the update gate have two biases, of the input and of the state: ``b`` is (6, H), the rows of
    the second ones for r and u at its end. Only their sum counts, but both are trained, so that it moves twice as far.

    Examples
    --------
    >>> GRU(128).parameters((20, 32, 64))["b"]
    (6, 128)
    """

    cell: str | Cell = "gru"
    OWN_CELLS: ClassVar[tuple[str, ...]] = ("gru",)
    _: KW_ONLY
    reset_after: Annotated[Literal[True], Only("the variant that resets before the product is not implemented")] = hidden(True)

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        return super().parameters(shape) | {"b": (6, self.units)}

    def activations(self, shape: Shape, training: bool) -> dict[str, Shape]:
        return super().activations(shape, training) | {"bias": (4, self.units)}

    def bias(self, ops: Ops, run: Run) -> Array:
        self._add_up(ops, run.p["b"], run.a["bias"])
        return run.a["bias"]

    @staticmethod
    def _add_up(ops: Ops, b: Array, total: Array) -> None:
        """total (4, H) ← both biases of each slot of b (6, H)"""
        ops.copy(b[:4], total)
        ops.add(b[4:], total[1:3])

    def project_backward(self, ops: Ops, run: Run, x: Array, dz: Array, dx: Array) -> None:
        super().project_backward(ops, run, x, dz, dx)
        ops.copy(run.g["b"][1:3], run.g["b"][4:])


@checked
@dataclass(frozen=True)
class SimpleRNN(Recurrent):
    """The simple recurrent layer (Elman 1990): h' = f(x W + h U + b). See :class:`Recurrent`.

    Parameters
    ----------
    units, return_sequences
        As in :class:`Recurrent`.
    activation
        f: "tanh", "relu" or "sigmoid".

    Examples
    --------
    >>> SimpleRNN(32, activation="relu").cell
    'relu'
    """

    cell: str | Cell = field(init=False, default="tanh")
    activation: str = "tanh"

    def __post_init__(self) -> None:
        take_plain_values(self, ("activation",))
        expect_one_of("SimpleRNN: activation", self.activation, ("tanh", "relu", "sigmoid"))
        object.__setattr__(self, "cell", self.activation)
        super().__post_init__()
