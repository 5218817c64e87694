"""What the compiler finds out about a row function: the types in which it computes, and what it calls."""

import inspect
import os
from typing import Any

import numpy as np
from numba import float32, float64, int64
from numba.core.types import NumberClass

PACKAGE = f"{__package__.partition('.')[0]}."
EXACT = {"sqrt", "fabs", "absolute", "negative", "sign", "copysign", "maximum", "minimum", "fmax", "fmin", "floor", "ceil", "trunc", "isnan", "isinf", "isfinite"}
OPERATIONS = ("binop", "inplace_binop", "unary", "call")


def imprecision(row: Any) -> str:
    """Why a row function, given float32, does not compute the same float32 everywhere; empty if it does.

    It also looks at the functions that this one calls, except those of the library. Where Numba compiles nothing (NUMBA_DISABLE_JIT), nothing
    is found.

    Examples
    --------
    >>> from numba_rnnlm.portable import portable
    >>> @portable
    ... def forward(z, prev, next, start, stride):
    ...     for j in range(start, next[0].size, stride):
    ...         next[0][j] = 0.5 * z[0][j]
    >>> imprecision(forward).partition(" in line ")[0]
    'computes in float64'
    """
    if not hasattr(row, "compile"):
        return ""
    arrays = len(inspect.signature(row.py_func).parameters) - 2  # the last two arguments are start and stride
    return _imprecision(row, (float32[:, ::1],) * arrays + (int64, int64))


def _imprecision(function: Any, arguments: tuple[Any, ...]) -> str:
    function.compile(arguments)
    found = function.overloads[arguments].type_annotation
    for expression, signature in found.calltypes.items():
        if getattr(expression, "op", "") not in OPERATIONS:
            continue
        line = f"line {expression.loc.line} of {os.path.basename(expression.loc.filename)}"
        called = found.typemap[expression.func.name] if expression.op == "call" else None
        key: Any = getattr(called, "typing_key", None)
        dispatcher = getattr(called, "dispatcher", None)
        if dispatcher is not None and not dispatcher.py_func.__module__.startswith(PACKAGE):
            if reason := _imprecision(dispatcher, signature.args):
                return reason
        elif (isinstance(key, np.ufunc) or getattr(key, "__module__", "") == "math") and key.__name__ not in EXACT:
            return (f"calls {key.__name__} of {'NumPy' if isinstance(key, np.ufunc) else 'math'} in {line}, whose last bits are others on another computer or "
                    "a GPU; numba_rnnlm.portable has exp, exp_below_zero, tanh, sigmoid and log")
        elif signature.return_type == float64 and not isinstance(called, NumberClass):
            return (f"computes in float64 in {line} although its arrays are float32, mostly because of a number such as 0.5, which is a float64 for "
                    "Numba; write T(0.5), with T = type(x) of an element x")
    return ""
