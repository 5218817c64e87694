"""The interface of a backend: its verbs, the arrays they accept, and decoding one symbol at a time.

Shapes in this package: T time steps, N streams, D inputs, H hidden units, G gate slots, S states, V vocabulary,
M rows of any kind, usually T·N. ``dx`` is the gradient of ``x``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..activations import POINTWISE
from ..cells import Cell
from ..memory import Space
from ..rules import Rule

Array = Any  # what `empty` returns: a NumPy array on the CPU, otherwise a device array
Shape = tuple[int, ...]

PRECISIONS = ("float32", "tf32", "bf16")
ACTIVATIONS = ("linear", "softmax", *POINTWISE)
POOLS = ("max", "mean")


class Step(Protocol):
    """A layer as a decoder sees it, which runs it for one symbol at a time."""

    @property
    def inputs(self) -> int:
        """Size of the input; 0 for a first layer, which takes ids."""

    @property
    def units(self) -> int:
        """Size of the output."""

    @property
    def states(self) -> Mapping[str, Shape]:
        """State carried per stream: array names in the network's state, and shapes without the stream axis."""

    @property
    def matrices(self) -> Sequence[Array]:
        """The weights that are rounded to int8."""

    def start(self, ops: "Ops", streams: int, state: Mapping[str, Array], rounded: bool = False) -> Callable[[Array], Array]:
        """A function from x (1, N, inputs), or ids (1, N), to N vectors of ``units``, by the verbs of ``ops``; it updates ``state`` in place.

        With ``rounded``, it computes with rounded matrices.
        """


class Choice(NamedTuple):
    """How symbols are drawn from scores, and which ones.

    Parameters
    ----------
    temperature
        Scores are divided by it; 0 always picks the most probable symbol.
    top_k
        Keep the k most probable symbols; 0 keeps all. Ties go to the lower ids.
    top_p
        Then keep the smallest set of most probable symbols whose probabilities sum to at least this.
    banned
        Ids (B) that are never drawn.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    banned: np.ndarray = np.empty(0, np.int64)


class Streams(NamedTuple):
    """Snapshot of N streams as NumPy arrays, which any backend can continue from.

    Attributes
    ----------
    state
        The network's state before it reads the last symbol of each stream: name → (N, …). An empty mapping means zeros.
    ids
        The last symbols (N).
    positions
        Number of symbols that each stream has read (N), including the last.
    """

    state: Mapping[str, np.ndarray]
    ids: np.ndarray
    positions: np.ndarray

    def take(self, rows: np.ndarray) -> "Streams":
        """These streams, in this order; repeats are allowed."""
        return Streams({name: array[rows] for name, array in self.state.items()}, self.ids[rows], self.positions[rows])

    @staticmethod
    def joined(parts: "Sequence[Streams]") -> "Streams":
        """The streams of all parts in one batch."""
        state = {name: np.concatenate([part.state[name] for part in parts]) for name in parts[0].state}
        return Streams(state, np.concatenate([part.ids for part in parts]), np.concatenate([part.positions for part in parts]))


class Decoding(Protocol):
    """N streams being decoded, one symbol at a time."""

    def read(self, ids: np.ndarray) -> None:
        """Read ids (T, N)."""

    def scores(self) -> Array:
        """Scores (N, V) of the next symbol, on the backend; valid until the next call."""

    def draw(self, given: np.ndarray, choice: Choice, seeds: np.ndarray) -> np.ndarray:
        """The next ids (T, N): those of ``given`` (T, N), drawn where ``given`` is -1.

        The random number for a symbol depends only on the stream's seed (N) and position: see
        :func:`numba_rnnlm.decoding.choice.uniform`.
        """

    def take(self, rows: np.ndarray) -> None:
        """Continue with these streams, in this order; repeats are allowed."""

    def streams(self) -> Streams:
        """A snapshot of the streams, to continue from later."""


class Decoder(Protocol):
    """A network's weights, laid out for decoding one symbol at a time.

    Attributes
    ----------
    exact
        Whether it matches the verbs bit for bit, so that a forward pass may read the prompt.
    """

    exact: bool

    def start(self, streams: Streams) -> Decoding:
        """Continue from these streams."""


class Ops(Protocol):
    """Every verb of a backend. Inputs come first, outputs last; outputs are preallocated unless stated otherwise.

    Arrays are contiguous, in ``dtype``; ids and targets are int32. Targets of -1 are ignored.
    """

    name: str
    dtype: np.dtype[Any]
    threads: int

    def rounding(self) -> str:
        """Describes what the last bits of results depend on: backends with equal descriptions give equal results."""

    # arrays
    def memory(self, held: int = 0) -> Space:
        """Memory available to arrays, including the ``held`` bytes that the caller's arrays occupy."""

    def empty(self, shape: Shape) -> Array:
        """A new uninitialised array, aligned to 64 bytes."""

    def upload(self, array: np.ndarray) -> Array:
        """Copy a NumPy array to the backend: floats as ``dtype``, integers as int32."""

    def download(self, array: Array) -> np.ndarray:
        """Copy to a NumPy array."""

    def copy(self, source: Array, out: Array) -> None:
        """out ← source, of equal size."""

    def fill(self, out: Array, value: float) -> None:
        """Every element ← value."""

    def add(self, x: Array, out: Array, scale: float = 1.0, first: int = 0) -> None:
        """out += scale · x, of equal size; or, where one has more columns, to or from its columns ``first`` … only."""

    def reverse(self, x: Array, lengths: Array | None, out: Array) -> None:
        """out (T, N, F) ← x (T, N, F) with the first lengths[n] steps of each stream reversed and the rest unchanged.

        lengths (N) int32, or None for T everywhere. ``out`` must not alias x. It is its own inverse and its own backward pass.
        """

    # lookup
    def gather(self, table: Array, ids: Array, out: Array) -> None:
        """out (…, D) ← table (V, D)[ids (…)]"""

    def scatter_add(self, ids: Array, rows: Array, table: Array) -> None:
        """table (V, D)[ids (…)] += rows (…, D), in the order of the ids."""

    def add_positions(self, table: Array, starts: Array, out: Array) -> None:
        """out[t, n] (T, N, D) += table (L, D)[min(starts[n] + t, L - 1)]; starts (N) are whole floats, not negative."""

    def add_positions_backward(self, dout: Array, starts: Array, dtable: Array, add: bool = False) -> None:
        """dtable ← gradient of the table of :meth:`add_positions`; with ``add``, it is added to instead."""

    # linear
    def project(
        self, x: Array, W: Array, b: Array | None, out: Array, first: int = 0, transposed: bool = False, add: bool = False
    ) -> None:
        """out (M, F) ← b (F), or 0; then columns first … first+K of out += x (M, D) W (D, K). W is (K, D) if transposed.

        With ``add``, both terms are added to the existing out.
        """

    def project_backward(
        self, x: Array, W: Array, dout: Array, dx: Array | None, dW: Array, db: Array | None,
        first: int = 0, transposed: bool = False, add: bool = False,
    ) -> None:
        """dx, dW, db ← gradients of x, W, b (dx and db may be None); with ``add``, dW and db are added to instead."""

    # convolution
    def convolve(
        self, x: Array, W: Array, b: Array | None, out: Array, stride: int = 1, dilation: int = 1, before: int = 0, groups: int = 1
    ) -> None:
        """out[t] ← b + Σ_k x[t·stride + k·dilation - before] W[k], for x (S, N, D), W (K, D / groups, F), b (F) and out (T, N, F).

        Steps of x outside of 0 … S-1 count as zero. Columns of x, and of W and out, are cut into ``groups`` equal parts; part g of
        the result sees part g of x.
        """

    def convolve_backward(
        self, x: Array, W: Array, dout: Array, dx: Array | None, dW: Array, db: Array | None,
        stride: int = 1, dilation: int = 1, before: int = 0, groups: int = 1, add: bool = False,
    ) -> None:
        """dx, dW, db ← gradients of x, W, b (dx and db may be None); with ``add``, dW and db are added to instead."""

    def pool_steps(self, x: Array, out: Array, kind: str, size: int, stride: int, before: int = 0) -> None:
        """out[t] ← the largest ("max") or the mean ("mean") of x[t·stride - before], …, ``size`` steps, for each column of x (S, N, D).

        Steps outside of 0 … S-1 are left out; where none is left, the result is 0. out is (T, N, D).
        """

    def pool_steps_backward(
        self, x: Array, out: Array, dout: Array, dx: Array, kind: str, size: int, stride: int, before: int = 0
    ) -> None:
        """dx ← gradient of x; that of a maximum goes to the first step that has it. out is what :meth:`pool_steps` has written."""

    # time
    def recur(
        self, cell: Cell, U: Array | None, z: Array, s: Array, w: Array | None = None, lengths: Array | None = None
    ) -> None:
        """h_t = cell(z_t + h_{t-1} U): from s[0], fills s[1:] of the states s (T+1, N, S, H).

        z (T, N, G, H) holds the sums, and is overwritten with what recur_backward needs. U is (H, g·H) for the g slots that see
        the state, None if there are none: then the loop is a scan. w (K, H): the cell's weight vectors, None if it has none.
        lengths (N) int32, each within 0 … T, or None for T everywhere: a stream that has ended keeps its states,
        s[t+1, n] = s[t, n] for t >= lengths[n], whatever its sums are.
        """

    def recur_backward(
        self, cell: Cell, U: Array | None, z: Array, s: Array, dy: Array | None, d: Array, dU: Array | None,
        w: Array | None = None, dw: Array | None = None, lengths: Array | None = None, add: bool = False,
    ) -> None:
        """Replaces z with the gradients of the sums, and d (N, S, H), the gradient of the final state, with that of the initial state.

        dy (T, N, H): gradients of all h_t = s[t+1, :, 0], or None if only the final state is used. dU, dw ← gradients of U
        and w; with ``add``, they are added to instead. U, w and lengths are those of :meth:`recur`. After a stream has ended, its sums
        have zero gradient and d passes through unchanged; dy still counts, because the layer above reads the state it keeps.
        """

    # attention
    def attend(
        self, q: Array, k: Array, v: Array, out: Array, sums: Array, heads: int = 1, scale: float = 1.0, causal: bool = False, window: int = 0,
        held: Array | None = None, w: Array | None = None, rate: float = 0.0, key: int = 0,
    ) -> None:
        """out[t] = Σ_s softmax_s(scale · score(q[t], k[s])) v[s] for each stream and head; scores are never stored for all t and s at once.

        q (T, N, A·K), k (S, N, A·K), v (S, N, A·V), out (T, N, A·V) with A ``heads``. score(q, k) is q · k or, with w (A·K), Σ w tanh(q + k)
        (Bahdanau et al. 2015). ``scale`` is positive. sums (T, N, A) ← log Σ_s exp(scale · score), which the backward pass needs.

        ``causal``: query t stands at key S - T + t, and sees no keys after it. ``window`` > 0: it sees no key more than window - 1 before that
        place. held (N) floats, not negative: of the first S - T keys, only the last held[n] exist for stream n; None: all do. A query that
        sees no key has the output 0.

        ``rate``: a weight is dropped where random_bits(key, ((n A + head) T + t) S + s) says so, and divided by 1 - rate elsewhere.
        """

    def attend_backward(
        self, q: Array, k: Array, v: Array, out: Array, sums: Array, dout: Array, dq: Array, dk: Array, dv: Array, heads: int = 1,
        scale: float = 1.0, causal: bool = False, window: int = 0, held: Array | None = None, w: Array | None = None, dw: Array | None = None,
        rate: float = 0.0, key: int = 0, add: bool = False,
    ) -> None:
        """dq, dk, dv, dw ← gradients of q, k, v, w from dout, that of out; with ``add``, dw is added to instead. The rest as in :meth:`attend`."""

    # pointwise
    def activate(self, activation: str, x: Array) -> None:
        """x (M, F) ← activation(x)"""

    def activate_backward(self, activation: str, y: Array, dy: Array) -> None:
        """Replaces dy, the gradient of the output y, with the gradient of the input. Where the activation is ``of_input``, y is the input."""

    def multiply(self, x: Array, y: Array, out: Array, add: bool = False) -> None:
        """out ← x ⊙ y, all of equal size; with ``add``, out += x ⊙ y."""

    def normalize(
        self, x: Array, gain: Array | None, offset: Array | None, epsilon: float, centred: bool, out: Array, stats: Array
    ) -> None:
        """out (M, F) ← (x - mean) / √(mean of (x - mean)² + ε) · gain + offset for each row of x (M, F); gain and offset (F) or None.

        Without ``centred``, the mean is not subtracted. stats (M, 2) ← what is subtracted from each row, and what it is multiplied with.
        """

    def normalize_backward(
        self, x: Array, gain: Array | None, centred: bool, stats: Array, dout: Array, dx: Array, dgain: Array | None, doffset: Array | None,
        add: bool = False,
    ) -> None:
        """dx, dgain, doffset ← gradients of :meth:`normalize` (dgain and doffset may be None); with ``add``, the last two are added to instead."""

    def dropout(self, x: Array, out: Array, rate: float, key: int) -> None:
        """out ← x / (1 - rate) where random_bits(key, element) keeps the element, else 0."""

    # loss
    def cross_entropy(
        self, x: Array, W: Array, b: Array | None, targets: Array, losses: Array, transposed: bool = False
    ) -> None:
        """losses (M) ← -log softmax(x W + b)[targets], without ever storing all M·V logits."""

    def cross_entropy_backward(
        self, x: Array, W: Array, b: Array | None, targets: Array, scale: float, losses: Array,
        dx: Array, dW: Array, db: Array | None, transposed: bool = False, add: bool = False,
    ) -> None:
        """The same, and dx, dW, db ← gradients of scale · Σ losses; with ``add``, dW and db are added to instead."""

    def binary_cross_entropy(self, logits: Array, targets: Array, losses: Array) -> None:
        """losses (M) ← mean over F of the binary cross-entropy of sigmoid(logits (M, F)) and targets (M, F)."""

    def binary_cross_entropy_backward(self, logits: Array, targets: Array, scale: float, losses: Array) -> None:
        """The same, and logits ← gradient of scale · Σ losses."""

    # decoding
    def choose(self, scores: Array, choice: Choice, numbers: np.ndarray, ids: Array) -> None:
        """Replaces each -1 in ids (N) with a symbol drawn from softmax(scores[n] / temperature) by numbers[n] in [0, 1).

        It is the first symbol at which the cumulative probability of the symbols left by ``choice`` exceeds the number.
        scores (N, V) are overwritten; numbers (N) are float64 on the host.
        """

    def decoder(self, table: Array | None, steps: Sequence[Step], weights: str) -> Decoder | None:
        """A copy of these weights for decoding, as "float32" or "int8"; None if this backend decodes through the verbs.

        table (V, D) holds the input vectors of the first step; without it, the first step takes ids.
        """

    # update
    def norm(self, x: Array) -> float:
        """Euclidean norm of x (size); NaN and infinity propagate."""

    def update(self, rule: Rule, p: Array, g: Array, m: Array, h: np.ndarray) -> None:
        """p, m ← rule(p (size), g (size), m (moments, size), h): see :mod:`numba_rnnlm.rules`."""
