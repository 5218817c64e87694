"""The scalar mathematics: accuracy, edge cases, and machine instructions."""

import math
import re

import needs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import float32, intp, njit
from strategies import RULES, keys

from numba_rnnlm import portable
from numba_rnnlm.cells import CELLS
from numba_rnnlm.portable import random_bits, stream_key


@njit(error_model="numpy")
def _apply(x, exps, tanhs, sigmoids, logs, logs1p):
    for j in range(x.size):
        exps[j] = portable.exp(x[j])
    for j in range(x.size):
        tanhs[j] = portable.tanh(x[j])
    for j in range(x.size):
        sigmoids[j] = portable.sigmoid(x[j])
    for j in range(x.size):
        logs[j] = portable.log(x[j])
    for j in range(x.size):
        logs1p[j] = portable.log1p(x[j])


NAMES = "exp", "tanh", "sigmoid", "log", "log1p"


def apply(x):
    """Apply each function to each element, compiled for its dtype."""
    results = {name: np.empty_like(x) for name in NAMES}
    _apply(x, *results.values())
    return results


def exact(x):
    """The same in the next wider float type: float64, or long double if the platform has one."""
    with np.errstate(all="ignore"):
        x = x.astype(np.float64 if x.dtype == np.float32 else np.longdouble)
        small = np.exp(-abs(x))
        return {"exp": np.exp(x), "tanh": np.tanh(x), "sigmoid": np.where(x < 0, small, 1) / (1 + small), "log": np.log(x),
                "log1p": np.log1p(x)}  # fmt: skip


def units_off(got, want):
    """Errors in units in the last place of the expected values; handles infinities and NaN, and counts smallest denormals as one."""
    with np.errstate(over="ignore", invalid="ignore"):
        nearest = want.astype(got.dtype)
        unit = np.spacing(np.maximum(abs(nearest), np.nextafter(got.dtype.type(0), got.dtype.type(1))))
        off = abs(got.astype(want.dtype) - want) / unit.astype(want.dtype)
    return np.where((got == nearest) | (np.isnan(got) & np.isnan(nearest)), 0, np.where(np.isfinite(off), off, np.inf))


def every(stride):
    """Every ``stride``-th float32 of each sign, including denormal numbers, infinity and NaN."""
    return np.arange(0, 2**32, stride, np.uint64).astype(np.uint32).view(np.float32)


FLOATS = every(4099)  # a million
# Maximum errors over every float32 (every_float.py): exp 1.054, tanh 1.952, sigmoid 1.520; over every 64th: log 0.50.
MOST = {"exp": 1.1, "tanh": 2, "sigmoid": 1.6, "log": 0.6, "log1p": 0.6}


@pytest.mark.parametrize("name", NAMES)
def test_float32_is_accurate_everywhere(name):
    x = FLOATS[~(FLOATS < 0)] if name == "log1p" else FLOATS
    assert units_off(apply(x)[name], exact(x)[name]).max() <= MOST[name]


@pytest.mark.parametrize("name", NAMES)
@needs.long_double
def test_float64_is_accurate_everywhere(name):
    random = np.random.default_rng(0)
    x = np.concatenate([random.uniform(-750, 750, 20_000), random.standard_normal(20_000), FLOATS[::50].astype(np.float64),
                        np.exp(random.uniform(-745, 709, 20_000)), [5e-324, 1e-310, 1e308, np.inf, -np.inf, np.nan, 0]])  # fmt: skip
    x = abs(x) if name == "log1p" else x
    assert units_off(apply(x)[name], exact(x)[name]).max() <= 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_functions_are_monotonic_and_odd(dtype):
    """Results never decrease between neighbouring numbers, tested in many places; every_float.py tests all."""
    random = np.random.default_rng(0)
    starts = np.concatenate([random.uniform(-110, 90, 300), random.standard_normal(300), np.log(2) * np.arange(-40, 40) / 2])
    integer = np.int32 if dtype == np.float32 else np.int64
    bits = abs(starts).astype(dtype).view(integer)[:, None] + np.arange(1000, dtype=integer)
    x = bits.view(dtype).reshape(-1)
    found = apply(x), apply(-x)
    for name in ("exp", "tanh", "sigmoid"):
        rising, falling = (each[name].reshape(bits.shape) for each in found)
        assert (rising[:, 1:] >= rising[:, :-1]).all() and (falling[:, 1:] <= falling[:, :-1]).all()
    np.testing.assert_array_equal(found[0]["tanh"], -found[1]["tanh"])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exp_below_zero_equals_exp(dtype):
    @njit(error_model="numpy")
    def both(x, first, second):
        for j in range(x.size):
            first[j], second[j] = portable.exp(x[j]), portable.exp_below_zero(x[j])

    x = -abs(np.concatenate([FLOATS[::16], np.random.default_rng(0).uniform(0, 760, 50_000)]).astype(dtype))
    first, second = np.empty_like(x), np.empty_like(x)
    both(x, first, second)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 67])  # a scalar loop, and vectors with a remainder
def test_edges(dtype, size):
    def at(value):
        return [result[-1] for result in apply(np.full(size, value, dtype)).values()]

    assert np.isnan(at(np.nan)).all()
    assert at(0) == [1, 0, 0.5, -np.inf, 0]
    assert math.copysign(1, at(-0.0)[1]) == -1
    for value in (1e3, 3e38, np.inf):
        assert at(value)[:3] == [np.inf, 1, 1]
        assert at(-value)[:3] == [0, -1, 0]
        assert np.isnan(at(-value)[3])
    assert at(np.inf)[3:] == [np.inf, np.inf]
    assert at(-20)[2] == pytest.approx(2.0611536181902037e-9, rel=float(2 * np.finfo(dtype).eps))


def test_with_the_compiler_disabled():
    for T in (float, np.float32, np.float64):
        assert portable.exp(T(0.5)) == T(math.exp(0.5))
        assert portable.exp(T(1000)) == math.inf
        assert portable.exp(T(-1000)) == 0
        assert portable.tanh(T(0.5)) == T(math.tanh(0.5)) and portable.exp_below_zero(T(-0.5)) == T(math.exp(-0.5))
        assert portable.sigmoid(T(-30)) == pytest.approx(math.exp(-30)) and portable.sigmoid(T(30)) == pytest.approx(1)
        assert type(portable.exp(T(1))) is type(portable.tanh(T(1))) is T
        assert math.isnan(portable.exp(T(math.nan)))
        assert portable.fma(T(2), T(3), T(4)) == 10 and portable.log1p(T(0)) == 0
        assert portable.log(T(1)) == 0 and portable.log(T(0)) == -math.inf and math.isnan(portable.log(T(-1)))
        assert type(portable.fma(T(1), T(1), T(1))) is type(portable.log(T(1))) is type(portable.log1p(T(1))) is T


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(st.floats(-6, 6, width=32))
def test_derivatives_as_functions_of_outputs(dtype, x):
    y = np.tanh(x)
    assert portable.dtanh(dtype(y)) == pytest.approx(1 - y * y, abs=1e-6)
    y = 1 / (1 + np.exp(-x))
    assert portable.dsigmoid(dtype(y)) == pytest.approx(y * (1 - y), abs=1e-6)
    assert portable.relu(dtype(x)) == max(x, 0)
    assert portable.drelu(dtype(max(x, 0))) == (x > 0)


# Random numbers


def test_random_bits_are_splitmix64():
    assert [int(random_bits(np.uint64(1234567), np.uint64(index))) for index in range(5)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@given(keys, keys)
def test_random_bits_equal_integer_arithmetic(key, index):
    mask = 2**64 - 1
    z = (key + (index + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    assert int(random_bits(np.uint64(key), np.uint64(index))) == z ^ (z >> 31)


@given(keys, st.integers(0, 2**32), st.integers(0, 2**32))
def test_stream_key_chains_random_bits(seed, step, layer):
    key = 0
    for counter in (seed, step, layer):
        key = int(random_bits(np.uint64(key), np.uint64(counter)))
    assert stream_key(seed, step, layer) == key


def test_stream_keys_differ():
    counters = [(seed, step, layer) for seed in range(20) for step in range(20) for layer in range(5)]
    assert len({stream_key(*each) for each in counters}) == len(counters)


# Instructions

vector, matrix = float32[::1], float32[:, ::1]
ROWS = {
    **{f"{cell.name} forward": (cell.forward, (matrix,) * (4 if cell.weights else 3)) for cell in CELLS.values()},
    **{f"{cell.name} backward": (cell.backward, (matrix,) * (6 if cell.weights else 4)) for cell in CELLS.values()},
    **{rule.name: (rule.row, (vector, vector, matrix, vector)) for rule in RULES.values()},
}


def doubles(compiled, *signature):
    """The lines of a function's code that use float64."""
    compiled.compile(signature)
    return re.findall(r".*\bdouble\b.*", compiled.inspect_llvm(compiled.signatures[-1]))


@pytest.mark.parametrize("name", ROWS)
def test_float32_rows_use_no_float64(name):
    row, arrays = ROWS[name]
    assert doubles(row, *arrays, intp, intp) == []


def test_float32_mathematics_uses_no_float64():
    def gates(x, exps, tanhs, sigmoids):
        for j in range(x.size):
            exps[j], tanhs[j], sigmoids[j] = portable.exp(x[j]), portable.tanh(x[j]), portable.sigmoid(x[j])

    assert doubles(njit(error_model="numpy")(gates), *(vector,) * 4) == []


@pytest.mark.parametrize("name", ROWS)
def test_no_system_functions_and_no_fast_math(name):
    """Both would make the bits depend on the processor or the system."""
    row, arrays = ROWS[name]
    row.compile((*arrays, intp, intp))
    code = row.inspect_llvm(row.signatures[-1])
    assert not re.search(r"\b(fast|contract|reassoc|nnan|nsz|arcp|afn)\b (float|double|<)", code)
    called = set(re.findall(r"call [^@]*(?:float|double)(?: noundef)? @([\w.]+)\(", code))
    assert called <= {"llvm.fmuladd.f32", "llvm.copysign.f32", "llvm.fabs.f32", "llvm.sqrt.f32", "sqrtf"}  # the same bits on every system


def test_a_bare_literal_would_be_detected():
    def halve(x, start):
        for j in range(start, x.size):
            x[j] = 0.1 * x[j]

    assert doubles(njit(halve), vector, intp) != []
