"""Sums in lanes are accurate and in the documented order; sums over many rows are accurate, and in the same order for any number of threads."""

import numpy as np
import pytest
import strategies
from checks import assert_same_bits, call, examples
from hypothesis import given
from hypothesis import strategies as st
from strategies import floats, unwritten

from numba_rnnlm import backends
from numba_rnnlm.backends.cpu import sums
from numba_rnnlm.backends.cpu.kernels import kernel

sizes = st.integers(1, 5 * sums.LANES + 3)
every_real = pytest.mark.parametrize("real", [np.float32, np.float64])


@kernel(entry=True)
def apply(x, y, least, out):
    out[0], out[1], out[2] = sums.total(x), sums.dot(x, y), sums.largest(x)
    out[3], out[4], out[5] = sums.wide_total(x), sums.squares(x), sums.above(x, least)
    out[6] = sums.spread(x, least)


def found(x, y, least):
    out = np.empty(7)
    apply(x, y, x.dtype.type(least), out)
    return out


def in_lanes(terms):
    """The sum in the documented order, in the precision of the terms."""
    lanes = np.zeros(sums.LANES, terms.dtype)
    for first in range(0, terms.size, sums.LANES):
        part = terms[first : first + sums.LANES]
        lanes[: part.size] += part
    while lanes.size > 1:
        lanes = lanes[: lanes.size // 2] + lanes[lanes.size // 2 :]
    return lanes[0]


@every_real
@given(random=strategies.generators, size=sizes)
def test_sums_in_the_documented_order(real, random, size):
    x, y = floats(random, size).astype(real), floats(random, size).astype(real)
    wide = x.astype(np.float64)
    total, dot, largest, wide_total, squares, above, spread = found(x, y, 0.3)
    assert total == in_lanes(x) and wide_total == in_lanes(wide) and largest == x.max()
    assert above == in_lanes(np.where(x >= real(0.3), wide, 0))
    # A fused multiply-add: in float32 almost always the rounded float64 result.
    np.testing.assert_allclose(dot, (wide * y).sum(), rtol=1e-5 if real == np.float32 else 1e-13, atol=1e-5 if real == np.float32 else 1e-13)
    np.testing.assert_allclose(spread, ((x - real(0.3)).astype(np.float64) ** 2).sum(), rtol=1e-5 if real == np.float32 else 1e-13)
    np.testing.assert_allclose(squares, (wide * wide).sum(), rtol=1e-13)


@every_real
@given(random=strategies.generators, size=sizes, data=st.data())
def test_infinities_and_nan_propagate(real, random, size, data):
    x = floats(random, size).astype(real)
    at = data.draw(st.integers(0, size - 1))
    x[at] = np.inf
    assert (found(x, x, 0)[[0, 1, 2, 3, 4, 5]] == np.inf).all()
    x[at] = np.nan
    total, dot, _, wide_total, squares, _, spread = found(x, x, 0)
    assert np.isnan([total, dot, wide_total, squares, spread]).all()


def test_nothing_beyond_the_end_is_read():
    memory = np.full(3 * sums.LANES, np.nan, np.float32)
    for size in range(1, 2 * sums.LANES):
        memory[:size] = 1
        assert found(memory[:size], memory[:size], 0).tolist() == [size, size, 1, size, size, size, size]


def test_many_terms_are_summed_accurately():
    """A hundred thousand rows: far more accurate than one chain."""
    x = np.random.default_rng(0).random(100_000, np.float32)
    assert abs(found(x, x, 0)[0] / x.sum(dtype=np.float64) - 1) <= 1e-6


UNIT = 2.0**-24  # the maximum relative error of one float32 rounding
many = st.floats(np.log(2), np.log(100_000)).map(lambda power: round(np.exp(power)))


def numbers(random, kind, *shape):
    """Float32 numbers as float64. Equal numbers are the hardest case: roundings of a chain go in the same direction for long."""
    x = {"equal": np.full(shape, random.random()), "positive": random.random(shape), "normal": random.standard_normal(shape),
         "shifted": random.standard_normal(shape) + 10}[kind]  # fmt: skip
    return x.astype(np.float32).astype(np.float64)


def lost(got, want, size):
    return float((abs(got - want) / size).max() / UNIT)


kinds = st.sampled_from(["equal", "positive", "normal", "shifted"])


@examples(25)
@given(random=strategies.generators, kind=kinds, rows=many, inputs=st.integers(1, 9), transposed=st.booleans())
def test_gradients_over_many_rows_are_accurate(random, kind, rows, inputs, transposed):
    """Of a bias and of a matrix: the error is at most 4 times that of PyTorch 2.13 (MKL) for a matrix of 100,000 rows.

    That is, relative to the sum of absolute values, 6.2 float32 roundings, or 102 for equal numbers (the worst of 150 pairs; ours 157). A
    single chain has errors of 335 and over 10,000.
    """
    x, dout = numbers(random, kind, rows, inputs), numbers(random, kind, rows, 5)
    shape = (5, inputs) if transposed else (inputs, 5)
    arguments = {"x": x, "W": np.zeros(shape), "dout": dout, "dx": None, "dW": unwritten(*shape), "db": unwritten(5), "transposed": transposed}
    got, again = (call(backends.get("cpu", np.float32, threads), "project_backward", arguments) for threads in (1, 3))
    assert_same_bits(got, again)
    dW = got["dW"].T if transposed else got["dW"]
    assert lost(dW, x.T @ dout, abs(x).T @ abs(dout)) <= 4 * (102 if kind == "equal" else 6.2)
    assert lost(got["db"], dout.sum(0), abs(dout).sum(0)) <= 4


@pytest.mark.parametrize("chunk", [40, 512, 700, 1500])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("add", [False, True])
def test_gradients_do_not_depend_on_chunks_of_logits(monkeypatch, chunk, transposed, add):
    """Not even if a chunk ends in the middle of a block of rows; and the sum over many chunks is accurate."""
    rows = 20_000
    x = numbers(np.random.default_rng(0), "positive", rows, 3)
    shape = (9, 3) if transposed else (3, 9)
    arguments = {"x": x, "W": np.zeros(shape), "b": np.zeros(9), "targets": np.zeros(rows, np.int64), "scale": 1.0, "losses": unwritten(rows),
                 "dx": unwritten(rows, 3), "dW": np.ones(shape), "db": np.ones(9), "transposed": transposed, "add": add}  # fmt: skip
    whole, want = (call(ops, "cross_entropy_backward", arguments) for ops in (backends.get("cpu"), backends.get("reference")))
    monkeypatch.setattr(backends.cpu, "LOGITS", 9 * chunk)
    assert_same_bits(call(backends.get("cpu"), "cross_entropy_backward", arguments), whole)
    assert lost(whole["dW"], want["dW"], abs(want["dW"])) <= 64 and lost(whole["db"], want["db"], abs(want["db"])) <= 64


@examples(10)
@given(random=strategies.generators, kind=kinds, columns=many)
def test_losses_over_many_columns_are_accurate(random, kind, columns):
    x, targets = numbers(random, kind, 2, columns), random.integers(0, 2, (2, columns)).astype(np.float64)
    arguments = {"logits": x, "targets": targets, "losses": unwritten(2)}
    got, want = (call(ops, "binary_cross_entropy", arguments)["losses"] for ops in (backends.get("cpu"), backends.get("reference")))
    assert lost(got, want, abs(want)) <= 4
    arguments = {"activation": "softmax", "x": x}
    got, want = (np.log(call(ops, "activate", arguments)["x"], dtype=np.float64) for ops in (backends.get("cpu"), backends.get("reference")))
    assert lost(got, want, abs(want).max() + 1) <= 4  # errors of the logarithm: 4, of exp: 2 units in the last place
