"""The time loop, generic over cells. A thread owns streams [n0, n1) through all of time: no barrier inside."""

from numba.extending import overload

from .kernels import RowsType
from .linear import accumulate, accumulate_unpacked
from .team import parallel

CHAIN = 64  # steps whose gradients of a cell's weights are added in one chain, in the weights' precision


def forward_row(cell, z, prev, next, w):
    """One step of one stream: z (G, H), prev (S, H) → next (S, H). w (K, H), of which a cell without weights sees nothing."""
    cell.forward(z, prev, next, *cell.with_weights(w), 0, 1)


def backward_row(cell, z, prev, next, d, w, dw):
    """The step back: z becomes the gradient of the sums, d (S, H) that of prev; that of w is added to dw."""
    weights = (*cell.with_weights(w), *cell.with_weights(dw))
    cell.backward(z, prev, next, d, *weights, 0, 1)


# Start and stride must be literal constants where a row is called: passed on as arguments, the loop gathers.
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

    u (H, g·H) and its packed form, which is empty when few steps make packing a loss; the state is added to
    ``slots`` = (first, last) of z, which are none in a scan. z (T, N, G, H): sums → activations. s (T+1, N, S, H): s[0] → s[1:].
    w (K, H). From step lengths[n] on, stream n keeps its states; if there are no lengths, none does.
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
    """Back-propagation through time; ``packed`` is the transpose of U, or nothing in a scan.

    z (T, N, G, H): activations → gradients of the sums. dy (T, N, H): gradient of every h_t, or (0, N, H)
    when only the last one is seen. d (N, S, H): gradient of the final state → of the initial one. To sums (⌈T / CHAIN⌉, N, K, H)
    the gradients of w are added: a chain for each stream and CHAIN steps, so that threads share none.
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
