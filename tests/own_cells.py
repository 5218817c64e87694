"""Custom cells: a state multiplied by a vector, and a matrix combined with vectors.

They pass the same checks as the library's cells, without being registered.
"""

import numpy as np

from numba_rnnlm.cells import CELLS, Cell
from numba_rnnlm.portable import dsigmoid, dtanh, portable, sigmoid, tanh


def logistic(z):
    return 0.5 * np.tanh(0.5 * z) + 0.5


# Independently recurrent (Li et al. 2018), with tanh, which has no kink: h' = tanh(W x + b + u ⊙ h)


@portable
def ind_rnn_forward(z, prev, next, w, start, stride):
    a, h, h_prev, u = z[0], next[0], prev[0], w[0]
    for j in range(start, h.size, stride):
        h[j] = tanh(a[j] + u[j] * h_prev[j])


@portable
def ind_rnn_backward(z, prev, next, d, w, dw, start, stride):
    a, h, h_prev, dh, u, du = z[0], next[0], prev[0], d[0], w[0], dw[0]
    for j in range(start, h.size, stride):
        a[j] = dh[j] * dtanh(h[j])
        du[j] += a[j] * h_prev[j]
        dh[j] = a[j] * u[j]


IND_RNN = Cell("ind_rnn", {"a": "x"}, ("h",), lambda z, prev, w: np.tanh(z + w * prev), ind_rnn_forward, ind_rnn_backward, weights=("u",))


# LSTM with peepholes (Gers, Schraudolph, Schmidhuber 2002): i and f see c, o sees c'


@portable
def peephole_forward(z, prev, next, w, start, stride):
    i, f, g, o = z[0], z[1], z[2], z[3]
    h, c, c_prev, p, q, r = next[0], next[1], prev[1], w[0], w[1], w[2]
    for j in range(start, h.size, stride):
        i[j] = sigmoid(i[j] + p[j] * c_prev[j])
    for j in range(start, h.size, stride):
        f[j] = sigmoid(f[j] + q[j] * c_prev[j])
    for j in range(start, h.size, stride):
        g[j] = tanh(g[j])
        c[j] = f[j] * c_prev[j] + i[j] * g[j]
    for j in range(start, h.size, stride):
        o[j] = sigmoid(o[j] + r[j] * c[j])
        h[j] = o[j] * tanh(c[j])


@portable
def peephole_backward(z, prev, next, d, w, dw, start, stride):
    i, f, g, o = z[0], z[1], z[2], z[3]
    c, c_prev, dh, dc, p, q, r, dp, dq, dr = next[1], prev[1], d[0], d[1], w[0], w[1], w[2], dw[0], dw[1], dw[2]
    for j in range(start, dh.size, stride):
        y, oj = tanh(c[j]), o[j]
        o[j] = dh[j] * y * dsigmoid(oj)
        dr[j] += o[j] * c[j]
        dc[j] += dh[j] * oj * dtanh(y) + o[j] * r[j]
        dh[j] = type(y)(0)
    for j in range(start, dh.size, stride):
        ij, fj, gj = i[j], f[j], g[j]
        i[j] = dc[j] * gj * dsigmoid(ij)
        f[j] = dc[j] * c_prev[j] * dsigmoid(fj)
        g[j] = dc[j] * ij * dtanh(gj)
        dp[j] += i[j] * c_prev[j]
        dq[j] += f[j] * c_prev[j]
        dc[j] = dc[j] * fj + i[j] * p[j] + f[j] * q[j]


def peephole_equations(z, prev, w):
    c = prev[1]
    i, f, g = logistic(z[0] + w[0] * c), logistic(z[1] + w[1] * c), np.tanh(z[2])
    c = f * c + i * g
    return np.stack([logistic(z[3] + w[2] * c) * np.tanh(c), c])


PEEPHOLE = Cell("peephole", dict.fromkeys("ifgo", "xh"), ("h", "c"), peephole_equations, peephole_forward, peephole_backward,
                weights=("p_i", "p_f", "p_o"))  # fmt: skip

OWN = {cell.name: cell for cell in (IND_RNN, PEEPHOLE)}
EVERY = {**CELLS, PEEPHOLE.name: PEEPHOLE}
LOOPS = {name: cell for name, cell in CELLS.items() if cell.window("h")[1]}  # those with a matrix for the state; the others are scans
