"""What a backend offers: its verbs, the arrays that they take, and how symbols are read and drawn one after the other.

Letters, for all shapes in this package: T time steps, N streams, D inputs, H hidden units, G gate slots,
S states, V vocabulary; M = rows of any kind, usually T·N. ``dx`` is the gradient of ``x``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..cells import Cell
from ..memory import Space
from ..rules import Rule

Array = Any  # what `empty` returns: a NumPy array on a CPU, a device array elsewhere
Shape = tuple[int, ...]

PRECISIONS = ("float32", "tf32", "bf16")
ACTIVATIONS = ("linear", "softmax", "sigmoid", "tanh", "relu")


class Stage(NamedTuple):
    """A layer as a compiled decoder takes it: recurrent, or with ``cell=None`` x W + b, W (units, inputs) if ``transposed``.

    ``state`` is the name of a recurrent layer's array (N, S, H) in the network's state.
    """

    cell: Cell | None
    W: Array
    U: Array | None
    b: Array | None
    transposed: bool = False
    w: Array | None = None
    state: str = ""

    @property
    def units(self) -> int:
        """Size of the output."""
        if self.cell is not None:
            assert self.b is not None  # every cell has biases
            return int(self.b.shape[-1])
        return int(self.W.shape[0 if self.transposed else 1])

    @property
    def inputs(self) -> int:
        """Size of the input."""
        return int(self.W.shape[1 if self.transposed else 0])


class Step(Protocol):
    """A layer that is no :class:`Stage`: a compiled decoder runs it by the verbs, one symbol at a time."""

    @property
    def inputs(self) -> int:
        """Size of the input; 0 of a first layer, which takes ids."""

    @property
    def units(self) -> int:
        """Size of the output."""

    @property
    def states(self) -> Mapping[str, Shape]:
        """What each stream carries: names of its arrays in the network's state, and their shapes behind the axis of the streams."""

    def start(self, streams: int, state: Mapping[str, Array]) -> Callable[[Array], Array]:
        """What makes N vectors of ``units`` of x (1, N, inputs), or of ids (1, N). The arrays of the state move on."""


class Choice(NamedTuple):
    """Which symbols may be drawn from scores, and how.

    Parameters
    ----------
    temperature
        What scores are divided by; 0 always takes the most probable symbol.
    top_k
        Only the k most probable symbols; 0 is all. Of equals, the first ones.
    top_p
        Only the most probable symbols that together reach this probability, after ``top_k``.
    banned
        Ids (B) that are never drawn.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    banned: np.ndarray = np.empty(0, np.int64)


class Streams(NamedTuple):
    """Where some streams are: plain values, which any backend takes.

    Attributes
    ----------
    state
        The network's state before it has seen the last symbol of each stream: name → (N, …). Without any array it is zero.
    ids
        These last symbols (N).
    positions
        How many symbols each stream has read (N), the last one among them.
    """

    state: Mapping[str, np.ndarray]
    ids: np.ndarray
    positions: np.ndarray

    def take(self, rows: np.ndarray) -> "Streams":
        """These streams, in this order; one may be taken several times."""
        return Streams({name: array[rows] for name, array in self.state.items()}, self.ids[rows], self.positions[rows])

    @staticmethod
    def joined(parts: "Sequence[Streams]") -> "Streams":
        """The streams of all parts, side by side."""
        state = {name: np.concatenate([part.state[name] for part in parts]) for name in parts[0].state}
        return Streams(state, np.concatenate([part.ids for part in parts]), np.concatenate([part.positions for part in parts]))


class Decoding(Protocol):
    """N streams on their way, one symbol after the other."""

    def read(self, ids: np.ndarray) -> None:
        """Read ids (T, N)."""

    def scores(self) -> Array:
        """Scores (N, V) of what follows, on the backend; valid until the next call."""

    def draw(self, given: np.ndarray, choice: Choice, seeds: np.ndarray) -> np.ndarray:
        """The next ids (T, N): those of ``given`` (T, N), or where that is -1 drawn.

        The number that draws a stream's symbol is that of its seed (N) and its position: see :func:`numba_rnnlm.decoding.choice.uniform`.
        """

    def take(self, rows: np.ndarray) -> None:
        """Continue with these streams, in this order; one may be taken several times."""

    def streams(self) -> Streams:
        """Where they are."""


class Decoder(Protocol):
    """A network's weights, as they are read for one symbol after the other.

    Attributes
    ----------
    exact
        Whether it computes what the verbs do, to the bit, so that they may read what is known beforehand.
    """

    exact: bool

    def start(self, streams: Streams) -> Decoding:
        """Set out from here."""


class Ops(Protocol):
    """Every verb of a backend. Inputs first, outputs last; outputs are preallocated unless said otherwise.

    Arrays are contiguous, in ``dtype``; ids and targets are int32. A target of -1 is not counted.
    """

    name: str
    dtype: np.dtype[Any]
    threads: int

    def rounding(self) -> str:
        """What the last bits of its results depend on, to be read and compared: where it is equal, results are."""

    # arrays
    def memory(self, held: int = 0) -> Space:
        """What arrays may take, including the ``held`` bytes that the caller's have."""

    def empty(self, shape: Shape) -> Array:
        """A new array, unwritten, aligned to 64 bytes."""

    def upload(self, array: np.ndarray) -> Array:
        """A NumPy array on this machine: floats in ``dtype``, whole numbers in int32."""

    def download(self, array: Array) -> np.ndarray:
        """The array as NumPy's (a copy)."""

    def copy(self, source: Array, out: Array) -> None:
        """out ← source, of equal size."""

    def fill(self, out: Array, value: float) -> None:
        """Every element ← value."""

    def add(self, x: Array, out: Array, scale: float = 1.0) -> None:
        """out += scale · x, of equal size and both contiguous."""

    def reverse(self, x: Array, lengths: Array | None, out: Array) -> None:
        """out (T, N, F) ← x with the first lengths[n] steps of each stream in reverse order, and the others as they are.

        lengths (N) int32, or None for T everywhere. ``out`` must not be x. It is its own inverse, and its own backward pass.
        """

    # lookup
    def gather(self, table: Array, ids: Array, out: Array) -> None:
        """out (…, D) ← table (V, D)[ids (…)]"""

    def scatter_add(self, ids: Array, rows: Array, table: Array) -> None:
        """table (V, D)[ids (…)] += rows (…, D), in the order of the ids."""

    # linear
    def project(
        self, x: Array, W: Array, b: Array | None, out: Array, first: int = 0, transposed: bool = False, add: bool = False
    ) -> None:
        """out (M, F) ← b (F) everywhere; its columns from ``first`` on += x (M, D) W (D, K); W is (K, D) if transposed.

        With ``add`` both are added to what out holds.
        """

    def project_backward(
        self, x: Array, W: Array, dout: Array, dx: Array | None, dW: Array, db: Array | None,
        first: int = 0, transposed: bool = False, add: bool = False,
    ) -> None:
        """dx, unless None, dW and db ← gradients of x, W and b; with ``add``, dW and db += theirs."""

    # time
    def recur(
        self, cell: Cell, U: Array | None, z: Array, s: Array, w: Array | None = None, lengths: Array | None = None
    ) -> None:
        """h_t = cell(z_t + h_{t-1} U). z (T, N, G, H): sums → what recur_backward needs; s (T+1, N, S, H): s[0] → s[1:].

        U (H, g·H) for the g slots that see the state; None if none does, and the loop is a scan. w (K, H): the cell's vectors of weights, None
        if it has none. lengths (N) int32, each within 0 … T, or None for T everywhere: a stream that has ended keeps its states,
        s[t+1, n] = s[t, n] for t >= lengths[n], whatever its sums are.
        """

    def recur_backward(
        self, cell: Cell, U: Array | None, z: Array, s: Array, dy: Array | None, d: Array, dU: Array | None,
        w: Array | None = None, dw: Array | None = None, lengths: Array | None = None, add: bool = False,
    ) -> None:
        """z → gradients of the sums. dy (T, N, H): gradients of all h_t = s[t+1, :, 0], or None if only the final state is seen.
        d (N, S, H): gradient of the final state → of the initial one. dU, dw ← gradients of U and w, or with ``add`` += them.

        U, w and lengths are those of :meth:`recur`. A stream that has ended has no gradient of its sums; d goes through it unchanged, and dy of
        its steps counts: what is above sees the state that it keeps.
        """

    # pointwise
    def activate(self, activation: str, x: Array) -> None:
        """x (M, F) ← activation(x)"""

    def activate_backward(self, activation: str, y: Array, dy: Array) -> None:
        """dy: gradient of the output y → gradient of the input."""

    def dropout(self, x: Array, out: Array, rate: float, key: int) -> None:
        """out ← x / (1 - rate) where random_bits(key, element) keeps the element, else 0."""

    # loss
    def cross_entropy(
        self, x: Array, W: Array, b: Array | None, targets: Array, losses: Array, transposed: bool = False
    ) -> None:
        """losses (M) ← -log softmax(x W + b)[targets], never holding all M·V logits."""

    def cross_entropy_backward(
        self, x: Array, W: Array, b: Array | None, targets: Array, scale: float, losses: Array,
        dx: Array, dW: Array, db: Array | None, transposed: bool = False, add: bool = False,
    ) -> None:
        """The same, and the gradients of scale · Σ losses: dx, dW and db ← …; with ``add``, dW and db += …"""

    def binary_cross_entropy(self, logits: Array, targets: Array, losses: Array) -> None:
        """losses (M) ← mean over F of the binary cross-entropy of sigmoid(logits (M, F)) and targets (M, F)."""

    def binary_cross_entropy_backward(self, logits: Array, targets: Array, scale: float, losses: Array) -> None:
        """The same, and logits ← gradient of scale · Σ losses."""

    # decoding
    def choose(self, scores: Array, choice: Choice, numbers: np.ndarray, ids: Array) -> None:
        """ids (N) ← where they are -1, the symbol that numbers[n] in [0, 1) picks from softmax(scores[n] / temperature).

        It is the first one up to which the probabilities of those that may be drawn sum to more than the number. scores (N, V) are used
        up; numbers (N) are float64 on the host.
        """

    def decoder(self, table: Array | None, stages: Sequence[Stage | Step], weights: str) -> Decoder | None:
        """A copy of these weights, laid out to be read one symbol after the other, as "float32" or "int8"; None where the verbs are the way
        to do that. table (V, D) has the vectors that the first stage takes; without it, the first one is a step that takes ids."""

    # update
    def norm(self, x: Array) -> float:
        """Euclidean norm of x (size); NaN and infinity come through."""

    def update(self, rule: Rule, p: Array, g: Array, m: Array, h: np.ndarray) -> None:
        """p, m ← rule(p (size), g (size), m (moments, size), h): see :mod:`numba_rnnlm.rules`."""
