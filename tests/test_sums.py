"""Sums in lanes: right, and in the order that is promised."""

import numpy as np
import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st
from strategies import floats

from numba_rnnlm.backends.cpu import sums
from numba_rnnlm.backends.cpu.kernels import kernel

sizes = st.integers(1, 5 * sums.LANES + 3)
every_real = pytest.mark.parametrize("real", [np.float32, np.float64])


@kernel(entry=True)
def apply(x, y, least, out):
    out[0], out[1], out[2] = sums.total(x), sums.dot(x, y), sums.largest(x)
    out[3], out[4], out[5] = sums.wide_total(x), sums.squares(x), sums.above(x, least)


def found(x, y, least):
    out = np.empty(6)
    apply(x, y, x.dtype.type(least), out)
    return out


def in_lanes(terms):
    """The sum in the order that is promised, in the terms' own precision."""
    lanes = np.zeros(sums.LANES, terms.dtype)
    for first in range(0, terms.size, sums.LANES):
        part = terms[first : first + sums.LANES]
        lanes[: part.size] += part
    while lanes.size > 1:
        lanes = lanes[: lanes.size // 2] + lanes[lanes.size // 2 :]
    return lanes[0]


@every_real
@given(random=strategies.generators, size=sizes)
def test_sums_in_their_order(real, random, size):
    x, y = floats(random, size).astype(real), floats(random, size).astype(real)
    wide = x.astype(np.float64)
    total, dot, largest, wide_total, squares, above = found(x, y, 0.3)
    assert total == in_lanes(x) and wide_total == in_lanes(wide) and largest == x.max()
    assert above == in_lanes(np.where(x >= real(0.3), wide, 0))
    # A product and a sum in one rounding: in float32 what float64 makes of it, nearly always.
    np.testing.assert_allclose(dot, (wide * y).sum(), rtol=1e-5 if real == np.float32 else 1e-13, atol=1e-5 if real == np.float32 else 1e-13)
    np.testing.assert_allclose(squares, (wide * wide).sum(), rtol=1e-13)


@every_real
@given(random=strategies.generators, size=sizes, data=st.data())
def test_what_is_not_finite_comes_through(real, random, size, data):
    x = floats(random, size).astype(real)
    at = data.draw(st.integers(0, size - 1))
    x[at] = np.inf
    assert (found(x, x, 0)[[0, 1, 2, 3, 4, 5]] == np.inf).all()
    x[at] = np.nan
    total, dot, _, wide_total, squares, _ = found(x, x, 0)
    assert np.isnan([total, dot, wide_total, squares]).all()


def test_nothing_behind_the_end_is_read():
    memory = np.full(3 * sums.LANES, np.nan, np.float32)
    for size in range(1, 2 * sums.LANES):
        memory[:size] = 1
        assert found(memory[:size], memory[:size], 0).tolist() == [size, size, 1, size, size, size]


def test_many_terms_lose_little():
    """A hundred thousand rows: nearer to the truth than one chain by far."""
    x = np.random.default_rng(0).random(100_000, np.float32)
    assert abs(found(x, x, 0)[0] / x.sum(dtype=np.float64) - 1) <= 1e-6
