"""The scalar mathematics: how near to the truth, what at the edges, which instructions."""

import math
import re

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
def _apply(x, exps, tanhs, sigmoids):
    for j in range(x.size):
        exps[j] = portable.exp(x[j])
    for j in range(x.size):
        tanhs[j] = portable.tanh(x[j])
    for j in range(x.size):
        sigmoids[j] = portable.sigmoid(x[j])


def apply(x):
    """exp, tanh and sigmoid of each element, compiled for its dtype."""
    results = [np.empty_like(x) for _ in range(3)]
    _apply(x, *results)
    return results


def every(stride):
    """Every ``stride``-th finite float32, of either sign."""
    bits = np.arange(0, 2**32, stride, np.uint64).astype(np.uint32).view(np.float32)
    return bits[np.isfinite(bits)]


FLOATS = every(4099)  # a million, from denormal numbers up to 3e38


def test_exp_of_float32():
    x = FLOATS[(FLOATS >= -87) & (FLOATS <= 88.3)]
    want = np.exp(x.astype(np.float64))
    assert (abs(apply(x)[0] - want) / want).max() <= 8.5e-8  # measured: 8.43e-8


def test_tanh_of_float32():
    with np.errstate(under="ignore"):
        want = np.tanh(FLOATS.astype(np.float64))
    got = apply(FLOATS)[1]
    assert abs(got - want).max() <= 2.9e-7  # measured: 2.81e-7
    normal = abs(FLOATS) > 1e-35  # below, a product on the way is denormal
    assert (abs(got - want)[normal] / abs(want[normal])).max() <= 3e-7  # measured: 2.88e-7
    assert abs(got).max() <= 1
    np.testing.assert_array_equal(apply(-FLOATS)[1], -got)


def test_sigmoid_of_float32():
    got = apply(FLOATS)[2]
    assert abs(got - (0.5 * np.tanh(0.5 * FLOATS.astype(np.float64)) + 0.5)).max() <= 1.7e-7  # measured: 1.65e-7
    assert 0 <= got.min() < got.max() <= 1


def test_everything_in_float64():
    x = FLOATS[abs(FLOATS) < 700].astype(np.float64)
    for got, want in zip(apply(x), (np.exp(x), np.tanh(x), 0.5 * np.tanh(0.5 * x) + 0.5), strict=True):
        assert (abs(got - want) <= 1e-15 * want.clip(0.1) + 1e-15 * abs(want)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 67])  # alone, and in vectors with a rest
def test_edges(dtype, size):
    def at(value):
        return [result[-1] for result in apply(np.full(size, value, dtype))]

    assert np.isnan(at(np.nan)).all()
    assert at(0) == [1, 0, 0.5]
    assert math.copysign(1, at(-0.0)[1]) == -1
    for value in (1e3, 3e38, np.inf):
        exp, tanh, sigmoid = at(value)
        assert exp > 2.4e38  # infinity in float64, the largest power that it can build in float32
        assert 1 - 3e-7 <= tanh <= 1
        assert 1 - 2e-7 <= sigmoid <= 1
        exp, tanh, sigmoid = at(-value)
        assert 0 <= exp < 1.2e-38
        assert -1 <= tanh <= -1 + 3e-7
        assert 0 <= sigmoid <= 2e-7


def test_with_the_compiler_off():
    for T in (float, np.float32, np.float64):
        assert portable.exp(T(0.5)) == T(math.exp(0.5))
        assert portable.exp(T(1000)) == math.inf
        assert portable.exp(T(-1000)) == 0
        assert portable.tanh(T(0.5)) == T(math.tanh(0.5))
        assert type(portable.exp(T(1))) is type(portable.tanh(T(1))) is T
        assert math.isnan(portable.exp(T(math.nan)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(st.floats(-6, 6, width=32))
def test_derivatives_from_outputs(dtype, x):
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
def test_random_bits_are_those_of_whole_numbers(key, index):
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
    **{f"{cell.name} forward": (cell.forward, (matrix,) * 3) for cell in CELLS.values()},
    **{f"{cell.name} backward": (cell.backward, (matrix,) * 4) for cell in CELLS.values()},
    **{rule.name: (rule.row, (vector, vector, matrix, vector)) for rule in RULES.values()},
}


def doubles(compiled, *signature):
    """The lines of a function's code that speak of float64."""
    compiled.compile(signature)
    return re.findall(r".*\bdouble\b.*", compiled.inspect_llvm(compiled.signatures[-1]))


@pytest.mark.parametrize("name", ROWS)
def test_no_float64_in_a_row_of_float32(name):
    row, arrays = ROWS[name]
    assert doubles(row, *arrays, intp, intp) == []


def test_no_float64_in_the_mathematics_of_float32():
    assert doubles(njit(_apply.py_func), *(vector,) * 4) == []


def test_a_bare_literal_would_show():
    def halve(x, start):
        for j in range(start, x.size):
            x[j] = 0.1 * x[j]

    assert doubles(njit(halve), vector, intp) != []
