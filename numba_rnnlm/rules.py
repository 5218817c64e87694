"""Optimisers' rules: how one element of the weights moves. No schedule, no clipping policy, no loop over layers.

A rule sees the weights ``p`` (n,), their gradient ``g`` (n,), its moments ``m`` (M, n) and a few numbers
``h``: ``h[0]`` scales the gradient, ``h[1]`` is the largest size of an element of it, the rest is the rule's
own, listed in its docstring.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from .portable import Rows, portable


@portable
def _clipped(g, h):
    x, most = g * h[0], h[1]
    x = -most if x < -most else x
    return most if x > most else x


@portable
def _sgd(p, g, m, h, start, stride):
    rate, decay = h[2], h[3]
    for j in range(start, p.size, stride):
        p[j] -= rate * (_clipped(g[j], h) + decay * p[j])


@portable
def _momentum(p, g, m, h, start, stride):
    rate, decay, momentum = h[2], h[3], h[4]
    v = m[0]
    for j in range(start, p.size, stride):
        v[j] = momentum * v[j] + _clipped(g[j], h) + decay * p[j]
        p[j] -= rate * v[j]


@portable
def _rmsprop(p, g, m, h, start, stride):
    rate, decay, rho, epsilon = h[2], h[3], h[4], h[5]
    one = type(rate)(1)
    v = m[0]
    for j in range(start, p.size, stride):
        x = _clipped(g[j], h) + decay * p[j]
        v[j] = rho * v[j] + (one - rho) * x * x
        p[j] -= rate * x / (math.sqrt(v[j]) + epsilon)


@portable
def _adagrad(p, g, m, h, start, stride):
    rate, decay, epsilon = h[2], h[3], h[4]
    v = m[0]
    for j in range(start, p.size, stride):
        x = _clipped(g[j], h) + decay * p[j]
        v[j] += x * x
        p[j] -= rate * x / (math.sqrt(v[j]) + epsilon)


@portable
def _adam(p, g, m, h, start, stride):
    rate, shrink, decay, beta1, beta2, root, epsilon = h[2], h[3], h[4], h[5], h[6], h[7], h[8]
    one = type(rate)(1)
    v, w = m[0], m[1]
    for j in range(start, p.size, stride):
        x = _clipped(g[j], h) + decay * p[j]
        v[j] = beta1 * v[j] + (one - beta1) * x
        w[j] = beta2 * w[j] + (one - beta2) * x * x
        p[j] = shrink * p[j] - rate * v[j] / (math.sqrt(w[j]) * root + epsilon)


@dataclass(frozen=True, eq=False)
class Rule(Rows):
    """One optimiser's update of one element.

    Parameters
    ----------
    name
        Of the rule.
    moments
        Arrays as long as the weights that the rule keeps.
    hyper
        Names of ``h[2:]``.
    row
        Row function ``(p, g, m, h, start, stride)``.
    """

    name: str
    moments: int
    hyper: tuple[str, ...]
    row: Callable[..., None]

    def rows(self) -> dict[str, Callable[..., None]]:
        return {"row": self.row}


SGD = Rule("sgd", 0, ("rate", "decay"), _sgd)
MOMENTUM = Rule("momentum", 1, ("rate", "decay", "momentum"), _momentum)
RMSPROP = Rule("rmsprop", 1, ("rate", "decay", "rho", "epsilon"), _rmsprop)
ADAGRAD = Rule("adagrad", 1, ("rate", "decay", "epsilon"), _adagrad)
ADAM = Rule("adam", 2, ("rate", "shrink", "decay", "beta1", "beta2", "root", "epsilon"), _adam)
