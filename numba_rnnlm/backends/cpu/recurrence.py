"""The time loop, generic over cells. Each thread owns a range of streams for all time steps, so no barriers are needed.

A scan, whose slots do not see the state, has no product: there a thread may also own a range of units, so that one stream is enough for all
threads.
"""

from typing import Any

from numba.extending import overload

from .kernels import RowsType
from .linear import accumulate, accumulate_unpacked
from .team import parallel

CHAIN = 64  # steps over which gradients of a cell's weights are summed in one chain in the weights' precision


def forward_row(cell, z, prev, next, w):
    """One step of one stream: z (G, H), prev (S, H) → next (S, H); w (K, H) is ignored by cells without weights."""
    cell.forward(z, prev, next, *cell.with_weights(w), 0, 1)


def backward_row(cell, z, prev, next, d, w, dw):
    """The backward step: z becomes the gradient of the sums, d (S, H) that of prev; the gradient of w is added to dw."""
    weights = (*cell.with_weights(w), *cell.with_weights(dw))
    cell.backward(z, prev, next, d, *weights, 0, 1)


# Start and stride must be literals in the call of a row: as variables they make the loop use gathers.
@overload(forward_row, inline="always")
def _forward_row(cell, z, prev, next, w):
    if isinstance(cell, RowsType):
        row = cell.row("forward")
        if cell.rows.weights:
            return lambda cell, z, prev, next, w: row(z, prev, next, w, 0, 1)
        return lambda cell, z, prev, next, w: row(z, prev, next, 0, 1)
    return None


@overload(backward_row, inline="always")
def _backward_row(cell, z, prev, next, d, w, dw):
    if isinstance(cell, RowsType):
        row = cell.row("backward")
        if cell.rows.weights:
            return lambda cell, z, prev, next, d, w, dw: row(z, prev, next, d, w, dw, 0, 1)
        return lambda cell, z, prev, next, d, w, dw: row(z, prev, next, d, 0, 1)
    return None


# A scan passes each row as a tuple of slices of these units, which are contiguous, as a block of a matrix is not.
_ROWS = {"z": "gates", "prev": "states", "next": "states", "d": "states", "w": "weights", "dw": "weights"}


def _sliced(row: str) -> Any:
    """The overload of a function that calls the cell's ``row`` with units h0 … h1 of flat arrays, of which each row begins at a given index."""
    names = {"forward": ("z", "prev", "next", "w"), "backward": ("z", "prev", "next", "d", "w", "dw")}[row]
    arguments = ", ".join(f"{name}, {name}_at" for name in names)

    def of(cell: Any) -> Any:
        function, lines = cell.row(row), []
        for name in names:
            count = len(getattr(cell.rows, _ROWS[name]))
            if count or _ROWS[name] != "weights":
                lines.append("(" + "".join(f"{name}[{name}_at + {k} * hidden + h0 : {name}_at + {k} * hidden + h1], " for k in range(count)) + ")")
        scope = {"row": function}
        exec(f"def sliced(cell, {arguments}, hidden, h0, h1):\n    row({', '.join(lines)}, 0, 1)", scope)
        return scope["sliced"]

    return of


def forward_slice(cell, z, z_at, prev, prev_at, next, next_at, w, w_at, hidden, h0, h1):
    """:func:`forward_row` for units h0 … h1 - 1; the rows begin at these indices of flat arrays."""
    forward_row(cell, *(_block(array, at, count, hidden, h0, h1) for array, at, count in (
        (z, z_at, cell.gates), (prev, prev_at, cell.states), (next, next_at, cell.states), (w, w_at, cell.weights))))


def backward_slice(cell, z, z_at, prev, prev_at, next, next_at, d, d_at, w, w_at, dw, dw_at, hidden, h0, h1):
    """:func:`backward_row`, likewise."""
    backward_row(cell, *(_block(array, at, count, hidden, h0, h1) for array, at, count in (
        (z, z_at, cell.gates), (prev, prev_at, cell.states), (next, next_at, cell.states), (d, d_at, cell.states), (w, w_at, cell.weights),
        (dw, dw_at, cell.weights))))


def _block(array, at, rows, hidden, h0, h1):
    return array[at : at + len(rows) * hidden].reshape(len(rows), hidden)[:, h0:h1]


@overload(forward_slice, inline="always")
def _forward_slice(cell, z, z_at, prev, prev_at, next, next_at, w, w_at, hidden, h0, h1):
    return _sliced("forward")(cell) if isinstance(cell, RowsType) else None


@overload(backward_slice, inline="always")
def _backward_slice(cell, z, z_at, prev, prev_at, next, next_at, d, d_at, w, w_at, dw, dw_at, hidden, h0, h1):
    return _sliced("backward")(cell) if isinstance(cell, RowsType) else None


@parallel
def scan(part, bounds, cell, w, lengths, z, s):
    """h_t = cell(z_t): :func:`recur` without a product. The part's bounds are streams and units."""
    n0, n1, h0, h1 = bounds[part, 0], bounds[part, 1], bounds[part, 2], bounds[part, 3]
    steps, streams, gates, hidden = z.shape
    states = s.shape[2]
    flat_z, flat_s, flat_w = z.reshape(-1), s.reshape(-1), w.reshape(-1)
    for t in range(steps):
        for n in range(n0, n1):
            before, after = (t * streams + n) * states * hidden, ((t + 1) * streams + n) * states * hidden
            if lengths.size == 0 or t < lengths[n]:
                forward_slice(cell, flat_z, (t * streams + n) * gates * hidden, flat_s, before, flat_s, after, flat_w, 0, hidden, h0, h1)
            else:
                for k in range(states):
                    for j in range(h0, h1):
                        s[t + 1, n, k, j] = s[t, n, k, j]


@parallel
def scan_backward(part, bounds, cell, w, lengths, z, s, dy, d, sums):
    """:func:`recur_backward` without a product. The part's bounds are streams and units."""
    n0, n1, h0, h1 = bounds[part, 0], bounds[part, 1], bounds[part, 2], bounds[part, 3]
    steps, streams, gates, hidden = z.shape
    states, weights = s.shape[2], w.shape[0]
    flat_z, flat_s, flat_d, flat_w, flat_sums = z.reshape(-1), s.reshape(-1), d.reshape(-1), w.reshape(-1), sums.reshape(-1)
    for t in range(steps - 1, -1, -1):
        for n in range(n0, n1):
            if dy.shape[0]:
                source, target = dy[t, n, h0:h1], d[n, 0, h0:h1]
                for j in range(source.size):
                    target[j] += source[j]
            before, after = (t * streams + n) * states * hidden, ((t + 1) * streams + n) * states * hidden
            if lengths.size == 0 or t < lengths[n]:
                backward_slice(cell, flat_z, (t * streams + n) * gates * hidden, flat_s, before, flat_s, after, flat_d, n * states * hidden,
                               flat_w, 0, flat_sums, (t // CHAIN * streams + n) * weights * hidden, hidden, h0, h1)
            else:
                for k in range(gates):
                    for j in range(h0, h1):
                        z[t, n, k, j] = 0


@parallel
def recur(part, bounds, cell, u, packed, scratch, slots, w, lengths, z, s):
    """h_t = cell(z_t + h_{t-1} U).

    u (H, g·H) and ``packed``, its packed form, which is empty if there are too few steps to repay packing; h u is added to
    ``slots`` = (first, last) of z. z (T, N, G, H): sums → activations. s (T+1, N, S, H): s[0] → s[1:].
    w (K, H). Stream n keeps its states from step lengths[n] on; empty ``lengths`` means T everywhere.
    """
    n0, n1 = bounds[part, 0], bounds[part, 1]
    steps, streams, gates, hidden = z.shape
    states = s.shape[2]
    first, width = slots[0], (slots[1] - slots[0]) * hidden
    flat_u, flat_z, flat_s = u.reshape(-1), z.reshape(-1), s.reshape(-1)
    for t in range(steps):
        h, out = (t * streams + n0) * states * hidden, ((t * streams + n0) * gates + first) * hidden
        if packed.size:
            accumulate(flat_s, h, states * hidden, n1 - n0, packed, hidden, width, flat_z, out, gates * hidden,
                       scratch[part])
        else:
            accumulate_unpacked(flat_s, h, states * hidden, n1 - n0, flat_u, 0, width, hidden, width, flat_z, out,
                                gates * hidden)
        for n in range(n0, n1):
            if lengths.size == 0 or t < lengths[n]:
                forward_row(cell, z[t, n], s[t, n], s[t + 1, n], w)
            else:
                for k in range(states):
                    for j in range(hidden):
                        s[t + 1, n, k, j] = s[t, n, k, j]


@parallel
def recur_backward(part, bounds, cell, packed, scratch, slots, w, lengths, z, s, dy, d, sums):
    """Backpropagation through time; ``packed`` is the transpose of U.

    z (T, N, G, H): activations → gradients of the sums. dy (T, N, H): gradient of every h_t, or (0, N, H) if only the
    final state is used. d (N, S, H): gradient of the final state → of the initial one. Gradients of w are added to
    sums (⌈T / CHAIN⌉, N, K, H), separately for each stream and CHAIN steps, so that no two threads share a sum.
    """
    n0, n1 = bounds[part, 0], bounds[part, 1]
    steps, streams, gates, hidden = z.shape
    states = s.shape[2]
    first, width = slots[0], (slots[1] - slots[0]) * hidden
    flat_z, flat_d = z.reshape(-1), d.reshape(-1)
    for t in range(steps - 1, -1, -1):
        for n in range(n0, n1):
            if dy.shape[0]:
                for j in range(hidden):
                    d[n, 0, j] += dy[t, n, j]
            if lengths.size == 0 or t < lengths[n]:
                backward_row(cell, z[t, n], s[t, n], s[t + 1, n], d[n], w, sums[t // CHAIN, n])
            else:
                for k in range(gates):
                    for j in range(hidden):
                        z[t, n, k, j] = 0
        accumulate(flat_z, ((t * streams + n0) * gates + first) * hidden, gates * hidden, n1 - n0, packed, width,
                   hidden, flat_d, n0 * states * hidden, states * hidden, scratch[part])
