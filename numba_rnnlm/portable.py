"""Scalar mathematics that vectorises on a CPU and compiles on a GPU: no loop, no array, no machine.

Everything is generic in the float type. A bare float literal would promote float32 code to float64, so
constants are written ``type(x)(0.5)``. Where float32 takes a polynomial that vectorises, float64 (used by
tests) takes the accurate function of ``math``.
"""

import hashlib
import inspect
import math
import sys
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

from .errors import ConfigError

FAST = frozenset({"contract", "nnan", "nsz", "arcp"})  # keeps the order of sums; NaN is caught by the strict norm


def portable(function: Any) -> Any:
    """Compile ``function`` so that any kernel of any backend may inline it."""
    options: dict[str, Any] = {"_nrt": False}  # no counting of references to arrays: a private option of Numba's
    flags = set(FAST - {"nnan"})  # which would let a comparison that decides a clamp be turned round: NaN would be the bound
    return njit(fastmath=flags, error_model="numpy", nogil=True, forceinline=True, **options)(function)


class Rows:
    """Functions over rows of elements that a backend's loops are generic over: a cell, an optimiser's rule.

    ``key`` names the rows and carries a digest of all that they are made of, so that machine code cached for
    one version of a row is never used for another.
    """

    name: str

    def rows(self) -> dict[str, Callable[..., None]]:
        """The row functions by the names that the loops call them."""
        raise NotImplementedError

    @cached_property
    def key(self) -> str:
        parts = [inspect.getsource(sys.modules[__name__])]
        for row in self.rows().values():
            parts += ingredients(row)
        return f"{self.name}:{hashlib.sha256(''.join(parts).encode()).hexdigest()[:16]}"


def ingredients(function: Any) -> list[str]:
    """The source of a row and of the functions it calls, and the constants that they take from outside."""
    function = getattr(function, "py_func", function)
    if function.__module__ == __name__:
        return [function.__name__]  # the module is part of every key
    try:
        parts = [inspect.getsource(function)]
    except OSError as error:
        raise ConfigError(
            f"the source of {function.__name__!r} cannot be read, and a kernel is kept by it; write the function in a "
            "file or a notebook."
        ) from error
    outside = inspect.getclosurevars(function)
    for name, value in sorted({**outside.globals, **outside.nonlocals}.items()):
        if hasattr(value, "py_func") or inspect.isfunction(value):
            parts += ingredients(value)
        elif not inspect.ismodule(value):
            parts.append(f"{name}={value!r}")
    return parts


def exp(x: Any) -> Any:
    """e to the x; within 2e-7 relative in float32. NaN stays NaN."""
    return type(x)(math.inf if x >= 709 else math.exp(x))


def tanh(x: Any) -> Any:
    """Hyperbolic tangent; within 3e-7 in float32."""
    return type(x)(math.tanh(x))


@portable
def _exp_float32(x):
    # Cody and Waite's reduction to |r| <= ln(2)/2, then the polynomial of Cephes' expf (S. Moshier).
    T = type(x)
    x = T(88.3762) if x > T(88.3762) else x  # min and max of a GPU would drop NaN
    x = T(-87.3365) if x < T(-87.3365) else x
    n = x * T(1.44269504088896341) + T(12582912) - T(12582912)  # 1.5 · 2²³: the sum has no room for a fraction
    r = x - n * T(0.693359375)
    r = r + n * T(2.12194440e-4)
    p = T(1.9875691500e-4)
    p = p * r + T(1.3981999507e-3)
    p = p * r + T(8.3334519073e-3)
    p = p * r + T(4.1665795894e-2)
    p = p * r + T(1.6666665459e-1)
    p = p * r + T(5.0000001201e-1)
    p = p * r * r + r + T(1)
    return p * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)


@portable
def _tanh_float32(x):
    # The rational approximation of Eigen's generic_fast_tanh_float: odd degree 13 over even degree 6.
    T = type(x)
    x = T(-7.9) if x < T(-7.9) else x  # min and max of a GPU would drop NaN
    x = T(7.9) if x > T(7.9) else x
    y = x * x
    p = T(-2.76076847742355e-16)
    p = p * y + T(2.00018790482477e-13)
    p = p * y + T(-8.60467152213735e-11)
    p = p * y + T(5.12229709037114e-08)
    p = p * y + T(1.48572235717979e-05)
    p = p * y + T(6.37261928875436e-04)
    p = p * y + T(4.89352455891786e-03)
    q = T(1.19825839466702e-06)
    q = q * y + T(1.18534705686654e-04)
    q = q * y + T(2.26843463243900e-03)
    q = q * y + T(4.89352518554385e-03)
    return x * p / q


@overload(exp, inline="always")
def _exp(x):
    return (lambda x: _exp_float32(x)) if x == types.float32 else (lambda x: math.exp(x))


@overload(tanh, inline="always")
def _tanh(x):
    return (lambda x: _tanh_float32(x)) if x == types.float32 else (lambda x: math.tanh(x))


@portable
def sigmoid(x):
    """1 / (1 + exp(-x)), without overflow on either side."""
    half = type(x)(0.5)
    return half * tanh(half * x) + half


@portable
def relu(x):
    """max(x, 0). NaN stays NaN."""
    zero = type(x)(0)
    return zero if x < zero else x


@portable
def dtanh(y):
    """Derivative of tanh, from its output."""
    return type(y)(1) - y * y


@portable
def dsigmoid(y):
    """Derivative of the sigmoid, from its output."""
    return y * (type(y)(1) - y)


@portable
def drelu(y):
    """Derivative of ReLU, from its output."""
    return type(y)(1) if y > type(y)(0) else type(y)(0)


@portable
def random_bits(key, index):
    """The 64 random bits number ``index`` of the stream ``key``: SplitMix64 (Steele, Lea, Flood 2014).

    A counter-based generator: any element can be drawn alone, so a dropout mask is the same on every
    machine and for any number of threads. Both arguments and the result are uint64.
    """
    z = key + (index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def stream_key(*counters: int) -> int:
    """Mix whole numbers (seed, step, layer, …) into one 64-bit key for :func:`random_bits`."""
    mask = 0xFFFFFFFFFFFFFFFF
    key = 0
    for counter in counters:
        z = (key + (counter + 1) * 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        key = z ^ (z >> 31)
    return key
