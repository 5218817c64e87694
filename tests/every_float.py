"""exp, tanh and the sigmoid at every float32: the maximum error, monotonicity, symmetry of tanh, and NaN.

Takes two minutes per function; the test suite checks a sample (test_portable.py)::

    python tests/every_float.py [exp] [tanh] [sigmoid]

Prints for each function its maximum error in units in the last place against float64 and where it occurs, the number of neighbours at which it
decreases, the number of x for which f(-x) differs from -f(x), and the number of NaN that became a number.
"""

import sys

import numpy as np
from numba import njit

from numba_rnnlm import portable

NAMES = "exp", "tanh", "sigmoid"
CHUNK = 1 << 22
INFINITE = 0x7F800000  # the bits of infinity: larger bit patterns are NaN


@njit(error_model="numpy")
def apply(x, out, function):
    if function == 0:
        for j in range(x.size):
            out[j] = portable.exp(x[j])
    elif function == 1:
        for j in range(x.size):
            out[j] = portable.tanh(x[j])
    else:
        for j in range(x.size):
            out[j] = portable.sigmoid(x[j])


@njit(error_model="numpy")
def worst(got, want):
    """(maximum error in units in the last place of the nearest float32, its index); smallest denormals count as one."""
    most, at = 0.0, 0
    for j in range(got.size):
        nearest = np.float32(want[j])
        if got[j] != nearest:
            exponent = max((np.float32(abs(nearest)).view(np.int32) >> 23) - 150, -149)
            off = abs(np.float64(got[j]) - want[j]) * np.int64((1023 - exponent) << 52).view(np.float64)
            if not off <= most:
                most, at = off, j
    return most, at


def exact(x, function):
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64)
        if function == 0:
            return np.exp(wide)
        if function == 1:
            return np.tanh(wide)
        small = np.exp(-abs(wide))
        return np.where(wide < 0, small, 1) / (1 + small)


def main(names):
    for function, name in enumerate(NAMES):
        if names and name not in names:
            continue
        most, where, falls, uneven, lost = 0.0, 0.0, 0, 0, 0
        last = {1: None, -1: None}
        for first in range(0, 1 << 31, CHUNK):
            bits = np.arange(first, first + CHUNK, dtype=np.uint32)
            number = bits <= INFINITE
            results = {}
            for sign in (1, -1):
                x = (bits | np.uint32(0 if sign == 1 else 1 << 31)).view(np.float32)
                got = np.empty_like(x)
                apply(x, got, function)
                lost += int((~np.isnan(got[~number])).sum())
                x, got = x[number], got[number]
                results[sign] = got
                if not x.size:
                    continue
                off, at = worst(got, exact(x, function))
                if off > most:
                    most, where = off, x[at]
                steps = got if last[sign] is None else np.concatenate([[last[sign]], got])
                falls += int((sign * steps[1:] < sign * steps[:-1]).sum())
                last[sign] = got[-1]
            if name == "tanh":
                uneven += int((results[1].view(np.int32) ^ results[-1].view(np.int32) != -(1 << 31)).sum())
        print(f"{name:8} {most:.3f} at {where!r}, falls {falls}, odd but for {uneven}, NaN lost {lost}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
