"""Scalar mathematics that vectorises on CPUs and compiles for GPUs: no loops, no arrays, nothing specific to a backend.

All functions are generic in the float type. A bare float literal would promote float32 code to float64, so
constants are written ``type(x)(0.5)``.
"""

import hashlib
import inspect
import math
import sys
from collections.abc import Callable
from functools import cached_property
from reprlib import repr as shorten
from types import FunctionType
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.core.registry import cpu_target
from numba.extending import intrinsic, overload

from . import fingerprint

CODE = fingerprint.of_modules([sys.modules[__name__]])


def portable(function: Any) -> Any:
    """Compile ``function`` so that any kernel of any backend may inline it."""
    # Private options of Numba: no reference counting of arrays, no C entry point.
    options: dict[str, Any] = {"_nrt": False, "no_cfunc_wrapper": True}
    return njit(error_model="numpy", nogil=True, forceinline=True, **options)(named(function))


def fault(function: Any) -> str:
    """Explain why no backend can compile this function; empty if it can, as far as can be determined without compiling."""
    if config.DISABLE_JIT:  # type: ignore[attr-defined]
        return ""
    if not hasattr(function, "py_func"):
        what = f"the plain function {function.__name__!r}" if isinstance(function, FunctionType) else shorten(function)
        return f"is {what}, expected a function with the decorator @numba_rnnlm.portable.portable"
    used = inspect.getclosurevars(function.py_func)
    for name, value in {**used.globals, **used.nonlocals}.items():
        if isinstance(value, FunctionType) and value.__module__ != __name__ and not _implemented(value):
            return f"calls the plain function {name!r}, expected one with the decorator @numba_rnnlm.portable.portable"
    return ""


def _implemented(function: FunctionType) -> bool:
    """Whether Numba has an overload for a plain function."""
    cpu_target.typing_context.refresh()
    try:
        cpu_target.typing_context.resolve_value_type(function)
    except ValueError:
        return False
    return True


def named(function: Any) -> Any:
    """Append a digest of a function's code to its qualified name, and return the function.

    The compiler names machine code by the qualified name and a counter that starts at zero in each process. Two functions with the
    same name, for example made by one factory for several cells, could otherwise be confused in cached code.
    """
    function.__qualname__ += f".{fingerprint.of_body(function)}"
    return function


class Rows:
    """A set of row functions, each of which processes a row of elements: a cell, or the update rule of an optimiser.

    The loops of a backend are generic over row functions. ``key`` identifies them by name and by a digest of all their code, so
    that machine code cached for one version of a row function is never used for another.
    """

    name: str

    def rows(self) -> dict[str, Callable[..., None]]:
        """The row functions, by the names under which the loops call them."""
        raise NotImplementedError

    @cached_property
    def key(self) -> str:
        return self.current_key()

    def current_key(self) -> str:
        """The current value of ``key``; it differs from ``key`` if a global that the row functions use has changed since."""
        parts = [CODE, *(fingerprint.of_function(row, known=__name__) for row in self.rows().values())]
        unknown = fingerprint.ONLY_HERE if any(fingerprint.ONLY_HERE in part for part in parts) else ""
        return f"{self.name}:{hashlib.sha256(''.join(parts).encode()).hexdigest()[:16]}{unknown}"


def fma(x: Any, y: Any, z: Any) -> Any:
    """x y + z, rounded once on processors that support it."""
    return type(x)(x * y + z)


@intrinsic
def _fused(typingctx, x, y, z):
    def codegen(context, builder, signature, args):
        kind = context.get_value_type(signature.return_type)
        name = f"llvm.fmuladd.{'f32' if signature.return_type == types.float32 else 'f64'}"
        function = builder.module.globals.get(name) or ir.Function(builder.module, ir.FunctionType(kind, [kind] * 3), name)
        return builder.call(function, args)

    return x(x, x, x), codegen


@overload(fma, inline="always")
def _fma(x, y, z):
    return lambda x, y, z: _fused(x, y, z)


@portable
def quotient(x, y):
    """x / y for 1 <= y <= 2 and |x| <= y; a GPU has a shorter sequence, with bit-identical results, for such numbers."""
    return x / y


# We implement exp, tanh, sigmoid and log ourselves in both precisions, because the functions of system libraries differ and most do not
# vectorise. e^x = 2^n e^r with |r| <= ln(2)/2 (Cody and Waite); e^r - 1 is a polynomial, which keeps its precision near zero.


def exp(x: Any) -> Any:
    """e^x within 2 units in the last place, including denormal results. NaN gives NaN."""
    return type(x)(math.inf if x >= 709.79 else math.exp(x))


def exp_below_zero(x: Any) -> Any:
    """e^x for x <= 0, with the same result as :func:`exp`. NaN gives NaN."""
    return exp(x)


def tanh(x: Any) -> Any:
    """Hyperbolic tangent, within 2 units in the last place for any x. NaN gives NaN."""
    return type(x)(math.tanh(x))


def log(x: Any) -> Any:
    """Natural logarithm, within 1 unit in the last place: -inf for zero, NaN for negative numbers."""
    return type(x)(math.log(x) if x > 0 else -math.inf if x == 0 else math.nan)


def log1p(x: Any) -> Any:
    """log(1 + x) for x >= 0, within 2 units in the last place."""
    return type(x)(math.log1p(x))


@portable
def _reduced_float32(x):
    """(e^r - 1, n) with x = n ln(2) + r."""
    T = type(x)
    sum_ = fma(x, T(1.4426950408889634), T(12582912))  # 1.5 * 2^23: the sum has no fraction bits, and its last bits are n
    n = sum_ - T(12582912)
    r = fma(n, T(-1.42860677e-06), fma(n, T(-0.693145752), x))  # ln(2) in two parts, the first one of 12 bits
    p = fma(T(1.388252233911821e-3), r, T(8.366515179438646e-3))
    p = fma(p, r, T(4.166719968832235e-2))
    p = fma(p, r, T(1.6666543660948657e-1))
    p = fma(p, r, T(4.999999815494167e-1))
    return fma(p * r, r, r), np.int32(np.float32(sum_).view(np.int32) - np.int32(0x4B400000))


@portable
def _reduced_float64(x):
    T = type(x)
    n = fma(x, T(1.4426950408889634), T(6755399441055744)) - T(6755399441055744)  # 1.5 * 2^52
    r = fma(n, T(-1.9082149292705877e-10), fma(n, T(-0.6931471803691238), x))
    p = fma(T(1 / 6227020800), r, T(1 / 479001600))  # Taylor series; the first omitted term is below 2^-54
    p = fma(p, r, T(1 / 39916800))
    p = fma(p, r, T(1 / 3628800))
    p = fma(p, r, T(1 / 362880))
    p = fma(p, r, T(1 / 40320))
    p = fma(p, r, T(1 / 5040))
    p = fma(p, r, T(1 / 720))
    p = fma(p, r, T(1 / 120))
    p = fma(p, r, T(1 / 24))
    p = fma(p, r, T(1 / 6))
    p = fma(p, r, T(1 / 2))
    return fma(p * r, r, r), np.int64(n)


@portable
def _power_float32(n):
    return np.int32((n + np.int32(127)) << np.int32(23)).view(np.float32)


@portable
def _power_float64(n):
    return np.int64((n + np.int64(1023)) << np.int64(52)).view(np.float64)


# e^x for x <= 0 needs only one power of 2; multiplying by the constant makes the result denormal where necessary.


@portable
def _exp_below_zero_float32(x):
    T = type(x)
    x = T(-105) if x < T(-105) else x
    q, n = _reduced_float32(x)
    return (q + T(1)) * _power_float32(n + np.int32(64)) * T(5.421010862427522e-20)  # 2^-64


@portable
def _exp_below_zero_float64(x):
    T = type(x)
    x = T(-746) if x < T(-746) else x
    q, n = _reduced_float64(x)
    return (q + T(1)) * _power_float64(n + np.int64(512)) * T(7.458340731200207e-155)  # 2^-512


@portable
def _exp_float32(x):
    T = type(x)
    x = T(90) if x > T(90) else x  # a comparison rather than min(), so that NaN stays NaN
    x = T(-105) if x < T(-105) else x
    q, n = _reduced_float32(x)
    half = n >> np.int32(1)  # 2^n as two factors, whose product can be infinite or denormal
    return (q + T(1)) * _power_float32(half) * _power_float32(n - half)


@portable
def _exp_float64(x):
    T = type(x)
    x = T(710) if x > T(710) else x
    x = T(-746) if x < T(-746) else x
    q, n = _reduced_float64(x)
    half = n >> np.int64(1)
    return (q + T(1)) * _power_float64(half) * _power_float64(n - half)


# tanh -|x| = t / (t + 2) with t = e^(-2 |x|) - 1


@portable
def _tanh_float32(x):
    T = type(x)
    y = T(-2) * abs(x)
    y = T(-40) if y < T(-40) else y
    q, n = _reduced_float32(y)
    power = _power_float32(n)
    return math.copysign(_tanh_below_zero(fma(power, q, power - T(1))), x)


@portable
def _tanh_float64(x):
    T = type(x)
    y = T(-2) * abs(x)
    y = T(-80) if y < T(-80) else y
    q, n = _reduced_float64(y)
    power = _power_float64(n)
    return math.copysign(_tanh_below_zero(fma(power, q, power - T(1))), x)


@portable
def _tanh_below_zero(t):
    T = type(t)
    y = quotient(t, t + T(2))
    # Correct the rounding errors of the sum and the quotient: t - 2 y is exact, and 2 / (t + 2) is 1 - y.
    left = fma(-y, t, fma(T(-2), y, t))
    return fma(left, fma(T(-0.5), y, T(0.5)), y)


@portable
def _log_float64(x):
    # x = 2^k (1 + f) with 1 + f between √(1/2) and √2; log(1 + f) is a series in s = f / (2 + f).
    T = type(x)
    tiny = x < T(2.2250738585072014e-308)
    scale = T(18014398509481984) if tiny else T(1)  # 2^54
    bits = np.float64(x * scale).view(np.int64) + np.int64(0x3FF0000000000000 - 0x3FE6A09E667F3BCD)
    k = T((bits >> np.int64(52)) - np.int64(1023)) - (T(54) if tiny else T(0))
    f = np.int64((bits & np.int64(0xFFFFFFFFFFFFF)) + np.int64(0x3FE6A09E667F3BCD)).view(np.float64) - T(1)
    s = f / (T(2) + f)
    z = s * s
    p = fma(T(0.1479819860511658591), z, T(0.1531383769920937332))
    p = fma(p, z, T(0.1818357216161805012))
    p = fma(p, z, T(0.2222219843214978396))
    p = fma(p, z, T(0.2857142874366239149))
    p = fma(p, z, T(0.3999999999940941908))
    p = fma(p, z, T(0.6666666666666735130))
    half = T(0.5) * f * f
    found = k * T(0.6931471803691238) - ((half - fma(s, half + p * z, k * T(1.9082149292705877e-10))) - f)
    found = x if x == T(math.inf) else found
    return found if x > T(0) else T(-math.inf) if x == T(0) else T(math.nan)


@overload(exp, inline="always")
def _exp(x):
    return (lambda x: _exp_float32(x)) if x == types.float32 else (lambda x: _exp_float64(x))


@overload(exp_below_zero, inline="always")
def _exp_below_zero(x):
    return (lambda x: _exp_below_zero_float32(x)) if x == types.float32 else (lambda x: _exp_below_zero_float64(x))


@overload(tanh, inline="always")
def _tanh(x):
    return (lambda x: _tanh_float32(x)) if x == types.float32 else (lambda x: _tanh_float64(x))


@overload(log, inline="always")
def _log(x):
    if x == types.float32:
        return lambda x: np.float32(_log_float64(np.float64(x)))  # float64 is not slower, and makes the result exact
    return lambda x: _log_float64(x)


@portable
def _log1p_float64(x):
    T = type(x)
    y = T(1) + x
    rest = (x - (y - T(1))) / y  # corrects the rounding error of the sum
    return _log_float64(y) + (rest if y < T(math.inf) else T(0))


@overload(log1p, inline="always")
def _log1p(x):
    if x == types.float32:
        return lambda x: np.float32(_log1p_float64(np.float64(x)))
    return lambda x: _log1p_float64(x)


@portable
def sigmoid(x):
    """1 / (1 + exp(-x)), within 2 units in the last place for any x. NaN gives NaN."""
    T = type(x)
    small = exp_below_zero(-abs(x))
    y = quotient(small, T(1) + small)
    # The sum 1 + small was rounded, so the result might not be monotonic. Since y is between small / 2 and small, the residual
    # small - y (1 + small) is computed with one rounding only, and corrects y.
    y = fma(fma(-y, small, small - y), T(1) - y, y)
    return T(1) - y if x >= T(0) else y


@portable
def relu(x):
    """max(x, 0). NaN gives NaN."""
    return type(x)(0) if x < type(x)(0) else x


@portable
def dtanh(y):
    """Derivative of tanh as a function of its output."""
    return type(y)(1) - y * y


@portable
def dsigmoid(y):
    """Derivative of the sigmoid as a function of its output."""
    return y * (type(y)(1) - y)


@portable
def drelu(y):
    """Derivative of ReLU as a function of its output."""
    return type(y)(1) if y > type(y)(0) else type(y)(0)


@portable
def random_bits(key, index):
    """Element ``index`` of the stream ``key``, 64 random bits from SplitMix64 (Steele, Lea, Flood 2014).

    The generator is counter-based: every element can be computed on its own, so a dropout mask is the same on every
    backend and for any number of threads. Both arguments and the result are uint64.
    """
    z = key + (index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def stream_key(*counters: Any) -> Any:
    """Mix integers (seed, step, layer, …) into one 64-bit key for :func:`random_bits`; or arrays of uint64 into an array of keys."""
    mask = 0xFFFFFFFFFFFFFFFF
    key: Any = 0
    for counter in counters:
        z = (key + (counter + 1) * 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        key = z ^ (z >> 31)
    return key
