"""The update rules of optimisers, element by element; schedules, clipping policies and loops over layers are elsewhere.

A rule gets the weights ``p`` (n,), their gradient ``g`` (n,), its moments ``m`` (M, n) and a few numbers
``h``: ``h[0]`` scales the gradient, ``h[1]`` is the limit for the magnitude of its elements, and the others are named by
``Rule.hyper``. Every rule supports two kinds of weight decay: ``shrink`` multiplies the weight (decoupled decay), and ``decay`` times
the weight is added to the gradient (an L2 penalty).

One row function serves Keras and PyTorch where they differ only in numbers: the place of ε (``inner``: under the root, ``outer``: outside
it), and whether a velocity includes the learning rate. ``1 - β`` is passed as a separate number (``fresh``), because computing it in
float32 would lose five digits.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from .portable import Rows, portable


@portable
def _gradient(p, g, h):
    """The gradient after scaling and clipping, plus that of the L2 penalty."""
    x, most = g * h[0], h[1]
    x = -most if x < -most else x
    x = most if x > most else x
    return x + h[3] * p


@portable
def _sgd(p, g, m, h, start, stride):
    shrink, rate = h[2], h[4]
    for j in range(start, p.size, stride):
        p[j] = shrink * p[j] - rate * _gradient(p[j], g[j], h)


@portable
def _momentum(p, g, m, h, start, stride):
    shrink, momentum, gain, along, ahead = h[2], h[4], h[5], h[6], h[7]
    v = m[0]
    for j in range(start, p.size, stride):
        x = _gradient(p[j], g[j], h)
        v[j] = momentum * v[j] + gain * x
        p[j] = shrink * p[j] - (along * v[j] + ahead * x)


@portable
def _rmsprop(p, g, m, h, start, stride):
    shrink, rate, rho, fresh, inner, outer = h[2], h[4], h[5], h[6], h[7], h[8]
    v = m[0]
    for j in range(start, p.size, stride):
        x = _gradient(p[j], g[j], h)
        v[j] = rho * v[j] + fresh * x * x
        p[j] = shrink * p[j] - rate * x / (math.sqrt(v[j] + inner) + outer)


@portable
def _rmsprop_centred(p, g, m, h, start, stride):
    shrink, rate, rho, fresh, epsilon, momentum, centred = h[2], h[4], h[5], h[6], h[7], h[8], h[9]
    v, mean, velocity = m[0], m[1], m[2]
    for j in range(start, p.size, stride):
        x = _gradient(p[j], g[j], h)
        v[j] = rho * v[j] + fresh * x * x
        mean[j] = rho * mean[j] + fresh * x
        velocity[j] = momentum * velocity[j] + rate * x / math.sqrt(v[j] - centred * mean[j] * mean[j] + epsilon)
        p[j] = shrink * p[j] - velocity[j]


@portable
def _adagrad(p, g, m, h, start, stride):
    shrink, rate, inner, outer = h[2], h[4], h[5], h[6]
    v = m[0]
    for j in range(start, p.size, stride):
        x = _gradient(p[j], g[j], h)
        v[j] += x * x
        p[j] = shrink * p[j] - rate * x / (math.sqrt(v[j] + inner) + outer)


@portable
def _adadelta(p, g, m, h, start, stride):
    shrink, rate, rho, fresh, epsilon = h[2], h[4], h[5], h[6], h[7]
    v, w = m[0], m[1]
    for j in range(start, p.size, stride):
        x = _gradient(p[j], g[j], h)
        v[j] = rho * v[j] + fresh * x * x
        step = x * (math.sqrt(w[j] + epsilon) / math.sqrt(v[j] + epsilon))
        w[j] = rho * w[j] + fresh * step * step
        p[j] = shrink * p[j] - rate * step


@portable
def _adam(p, g, m, h, start, stride):
    shrink, beta1, fresh1, beta2, fresh2 = h[2], h[4], h[5], h[6], h[7]
    along, ahead, root, epsilon = h[8], h[9], h[10], h[11]
    v, w = m[0], m[1]
    for j in range(start, p.size, stride):
        x = _gradient(p[j], g[j], h)
        v[j] = beta1 * v[j] + fresh1 * x
        w[j] = beta2 * w[j] + fresh2 * x * x
        p[j] = shrink * p[j] - (along * v[j] + ahead * x) / (math.sqrt(w[j]) * root + epsilon)


@portable
def _amsgrad(p, g, m, h, start, stride):
    shrink, beta1, fresh1, beta2, fresh2 = h[2], h[4], h[5], h[6], h[7]
    along, root, epsilon = h[8], h[10], h[11]
    v, w, largest = m[0], m[1], m[2]
    for j in range(start, p.size, stride):
        x = _gradient(p[j], g[j], h)
        v[j] = beta1 * v[j] + fresh1 * x
        w[j] = beta2 * w[j] + fresh2 * x * x
        largest[j] = w[j] if w[j] > largest[j] else largest[j]
        p[j] = shrink * p[j] - along * v[j] / (math.sqrt(largest[j]) * root + epsilon)


@portable
def _lion(p, g, m, h, start, stride):
    shrink, rate, beta1, fresh1, beta2, fresh2 = h[2], h[4], h[5], h[6], h[7], h[8]
    zero = type(rate)(0)
    v = m[0]
    for j in range(start, p.size, stride):
        x = _gradient(p[j], g[j], h)
        direction = beta1 * v[j] + fresh1 * x
        v[j] = beta2 * v[j] + fresh2 * x
        p[j] = shrink * p[j] - (rate if direction > zero else -rate if direction < zero else zero)


@portable
def _scale(p, g, m, h, start, stride):
    for j in range(start, p.size, stride):
        p[j] *= h[0]


@dataclass(frozen=True, eq=False)
class Rule(Rows):
    """The update rule of an optimiser.

    Parameters
    ----------
    name
        Name of the rule.
    moments
        M, the number of moments per weight.
    hyper
        Names of ``h[2:]``.
    row
        Row function ``(p, g, m, h, start, stride)``, which updates the elements ``start``, ``start + stride``, …
    """

    name: str
    moments: int
    hyper: tuple[str, ...]
    row: Callable[..., None]

    def rows(self) -> dict[str, Callable[..., None]]:
        return {"row": self.row}


_ADAM = ("shrink", "decay", "beta1", "fresh1", "beta2", "fresh2", "along", "ahead", "root", "epsilon")

SGD = Rule("sgd", 0, ("shrink", "decay", "rate"), _sgd)
MOMENTUM = Rule("momentum", 1, ("shrink", "decay", "momentum", "gain", "along", "ahead"), _momentum)
RMSPROP = Rule("rmsprop", 1, ("shrink", "decay", "rate", "rho", "fresh", "inner", "outer"), _rmsprop)
RMSPROP_CENTRED = Rule("rmsprop_centred", 3, ("shrink", "decay", "rate", "rho", "fresh", "epsilon", "momentum", "centred"),
                       _rmsprop_centred)
ADAGRAD = Rule("adagrad", 1, ("shrink", "decay", "rate", "inner", "outer"), _adagrad)
ADADELTA = Rule("adadelta", 2, ("shrink", "decay", "rate", "rho", "fresh", "epsilon"), _adadelta)
ADAM = Rule("adam", 2, _ADAM, _adam)
AMSGRAD = Rule("amsgrad", 3, _ADAM, _amsgrad)
LION = Rule("lion", 1, ("shrink", "decay", "rate", "beta1", "fresh1", "beta2", "fresh2"), _lion)
SCALE = Rule("scale", 0, (), _scale)  # clips the gradient of one variable; p is that gradient
