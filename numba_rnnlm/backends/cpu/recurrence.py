"""The time loop, generic over cells. Each thread owns a range of streams for all time steps, so no barriers are needed."""

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


@parallel
def recur(part, bounds, cell, u, packed, scratch, slots, w, lengths, z, s):
    """h_t = cell(z_t + h_{t-1} U).

    u (H, g·H) and ``packed``, its packed form, which is empty if there are too few steps to repay packing; h u is added to
    ``slots`` = (first, last) of z, an empty range in a scan. z (T, N, G, H): sums → activations. s (T+1, N, S, H): s[0] → s[1:].
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
        elif width:
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
    """Backpropagation through time; ``packed`` is the transpose of U, or empty in a scan.

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
        if width:
            accumulate(flat_z, ((t * streams + n0) * gates + first) * hidden, gates * hidden, n1 - n0, packed, width,
                       hidden, flat_d, n0 * states * hidden, states * hidden, scratch[part])
