"""Layers with a loop over time, one for all cells."""

from dataclasses import KW_ONLY, dataclass, field
from typing import Annotated, ClassVar, Literal

import numpy as np

from .. import cells
from ..arguments import Only, checked, hidden
from ..backends.ops import Array, Ops, Shape
from ..cells import Cell
from ..errors import ConfigError, ShapeError, expect_flag, expect_number, expect_one_of, take_plain_values
from .layer import Lookup, Run, glorot, orthogonal
from .options import WEIGHTS, Glorot, TakesVectors, Zeros


@checked
@dataclass(frozen=True)
class Recurrent(TakesVectors):
    """A sequence of vectors through a recurrent cell.

    Weights: ``W`` (D, gₓ·H) from the input, ``U`` (H, gₕ·H) from the state, ``b`` (G, H), gates in the
    order of the cell's slots; gₓ and gₕ count the slots that see the input and the state. State: ``s``
    (N, S, H).

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
        return {
            "W": (shape[-1], (x1 - x0) * self.units),
            "U": (self.units, (h1 - h0) * self.units),
            "b": (len(cell.gates), self.units),
        }

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

    def lookup_activations(self, symbols: int, shape: Shape, training: bool) -> dict[str, Shape]:
        """The same, where the input is a :class:`~.layer.Lookup` in a table of so many rows."""
        arrays = self.activations(shape, training) | {"table": (symbols, len(cells.get(self.cell).gates) * self.units)}
        return {name: size for name, size in arrays.items() if name != "dx"}

    def initialize(self, shape: Shape, random: np.random.Generator) -> dict[str, np.ndarray]:
        shapes, gates = self.parameters(shape), list(cells.get(self.cell).gates)
        bias = np.zeros(shapes["b"])
        if "f" in gates:
            bias[gates.index("f")] = self.forget_bias
        return {"W": glorot(random, *shapes["W"]), "U": orthogonal(random, *shapes["U"]), "b": bias}

    def bias(self, ops: Ops, run: Run) -> Array:
        """(G, H), a row for each gate."""
        return run.p["b"]

    def forward(self, ops: Ops, run: Run, x: Array | Lookup) -> Array:
        cell = cells.get(self.cell)
        z, s, y = run.a["z"], run.a["s"], run.a["y"]
        steps, streams, gates, hidden = z.shape
        ops.copy(run.m["s"], s[0])
        first, bias = cell.window("x")[0] * hidden, self.bias(ops, run)
        if isinstance(x, Lookup):
            table = run.a["table"]
            ops.project(x.table, run.p["W"], bias, table, first=first)
            ops.gather(table, x.ids, z.reshape(steps, streams, gates * hidden))
        else:
            rows = z.reshape(steps * streams, gates * hidden)
            ops.project(x, run.p["W"], bias, rows, first=first)
        ops.recur(cell, run.p["U"], z, s)
        ops.copy(s[-1], run.m["s"])
        ops.copy(s[1:, :, 0] if self.return_sequences else s[-1, :, 0], y)
        return y

    def backward(self, ops: Ops, run: Run, x: Array | Lookup, dy: Array) -> Array | None:
        cell = cells.get(self.cell)
        z, s, d = run.a["z"], run.a["s"], run.a["d"]
        steps, streams, gates, hidden = z.shape
        ops.fill(d, 0)
        if not self.return_sequences:
            ops.copy(dy, d[:, 0])
        ops.recur_backward(cell, run.p["U"], z, s, dy if self.return_sequences else None, d, run.g["U"])
        rows = z.reshape(steps * streams, gates * hidden)
        first, db = cell.window("x")[0] * hidden, run.g["b"][:gates]
        if isinstance(x, Lookup):
            table = run.a["table"]
            ops.fill(table, 0)
            ops.scatter_add(x.ids, z.reshape(steps, streams, gates * hidden), table)
            ops.project_backward(x.table, run.p["W"], table, x.gradient, run.g["W"], db, first=first)
            return None
        ops.project_backward(x, run.p["W"], rows, run.a["dx"], run.g["W"], db, first=first)
        return run.a["dx"]


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
        total = run.a["bias"]
        ops.copy(run.p["b"][:4], total)
        ops.add(run.p["b"][4:], total[1:3])
        return total

    def backward(self, ops: Ops, run: Run, x: Array | Lookup, dy: Array) -> Array | None:
        dx = super().backward(ops, run, x, dy)
        ops.copy(run.g["b"][1:3], run.g["b"][4:])
        return dx


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
