"""Drawing one symbol: the reference draws from the right distribution, and every backend picks what the reference picks."""

import numpy as np
import pytest
import strategies
from checks import from_python
from conftest import available_backends
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import many

from numba_rnnlm import backends
from numba_rnnlm.backends import SIMULATED
from numba_rnnlm.backends.cpu import sampling, sums
from numba_rnnlm.backends.ops import Choice
from numba_rnnlm.config import SamplingConfig
from numba_rnnlm.decoding.choice import choice_of, uniform
from numba_rnnlm.portable import stream_key

REFERENCE = backends.get("reference")
FAST = [each for each in available_backends() if not (SIMULATED and each[0] == "cuda")]  # the simulator draws three symbols a second
largest = 1 - 2**-53  # the largest random number
scores = st.lists(st.floats(-4, 4), min_size=1, max_size=12).map(np.array)
apart = scores.map(lambda values: np.round(64 * values) / 64)  # equal, or different in float32 too
temperatures = st.floats(0.3, 5)
found_in, summed, drawn = from_python(sampling._find), from_python(sums.wide_total), from_python(sampling.uniform)


@pytest.fixture(scope="module", params=FAST, ids="-".join)
def fast(request):
    """The backends that can draw many symbols per second."""
    name, dtype = request.param
    return backends.get(name, dtype, threads=2)


def pick(ops, rows, choice, numbers):
    """The ids that numbers pick from rows of scores (N, V), or all from the same row (V)."""
    numbers = np.array(numbers, np.float64)
    rows = np.broadcast_to(rows, (len(numbers), np.shape(rows)[-1]))
    ids = ops.upload(np.full(len(numbers), -1, np.int32))
    ops.choose(ops.upload(np.array(rows, np.float64)), choice, numbers, ids)
    return ops.download(ids).tolist()


def frequencies(ops, values, choice, numbers=2000):
    """Frequency of each id when numbers are spread evenly over [0, 1), and the tolerance of the frequencies."""
    picked = pick(ops, values, choice, (np.arange(numbers) + 0.5) / numbers)
    return np.bincount(picked, minlength=len(values)) / numbers, 1 / numbers + 1e-6


def distribution(values, choice):
    """The expected probabilities, from the definition, symbol by symbol."""
    weights = np.exp(values / choice.temperature - (values / choice.temperature).max())
    ranked = sorted(range(len(values)), key=lambda id: (-values[id], id))[: choice.top_k or None]
    total, reached, kept = sum(weights[id] for id in ranked), 0.0, []
    for id in ranked:
        if kept and reached / total >= choice.top_p:
            break
        assume(abs(reached / total - choice.top_p) > 1e-6)
        reached += weights[id]
        kept.append(id)
    wanted = np.zeros(len(values))
    wanted[kept] = weights[kept] / weights[kept].sum()
    return wanted


@given(apart, temperatures, st.integers(0, 14), st.sampled_from([1.0]) | st.floats(0.01, 1))
def test_symbols_are_drawn_from_the_softmax_of_those_that_are_left(fast, values, temperature, top_k, top_p):
    choice = Choice(temperature, top_k, top_p)
    wanted = distribution(values, choice)
    found, off = frequencies(fast, values, choice)
    np.testing.assert_allclose(found, wanted, atol=off)
    assert not found[wanted == 0].any()


@given(
    random=strategies.generators, size=st.integers(1, many(3 * sampling.BLOCK + 5)), spread=st.sampled_from([1, 8]),
    temperature=temperatures, top_k=st.sampled_from([0]) | st.integers(1, 900), top_p=st.sampled_from([1.0]) | st.floats(0.01, 1),
)  # fmt: skip
def test_every_backend_picks_the_same_as_the_reference(compiled, random, size, spread, temperature, top_k, top_p):
    """Except for numbers and values of top_p that are closer to a border than float32 resolves."""
    rows = np.round(64 * spread * random.standard_normal((3 if SIMULATED else 21, size))) / 64
    banned = random.choice(size, random.integers(0, max(1, min(3, size - 1))), replace=False)
    numbers, near = [0.0, *random.random(len(rows) - 1)], (-1e-6, 0, 1e-6)
    found = pick(compiled, rows, Choice(temperature, top_k, top_p, banned), numbers)
    for row, number, id in zip(rows, numbers, found, strict=True):
        choices = [Choice(temperature, top_k, top_p if top_p == 1 else min(1, top_p + off), banned) for off in near]
        nearby = [min(max(number + off, 0), largest) for off in near]
        assert id in {picked for choice in choices for picked in pick(REFERENCE, row, choice, nearby)}


@given(random=strategies.generators)
def test_given_ids_are_kept(ops, random):
    rows, numbers, given = random.standard_normal((4, 5)), random.random(4), np.array([-1, 3, -1, 0], np.int32)
    ids = ops.upload(given.copy())
    ops.choose(ops.upload(rows), Choice(), numbers, ids)
    np.testing.assert_array_equal(ops.download(ids), np.where(given < 0, pick(ops, rows, Choice(), numbers), given))


@given(apart, st.floats(0, largest))
def test_temperature_zero_and_a_single_candidate_pick_the_most_probable(ops, values, number):
    for choice in (Choice(0.0), Choice(top_k=1), Choice(top_p=1e-9), Choice(0.0, top_k=3, top_p=0.5)):
        assert pick(ops, values, choice, [number]) == [int(np.argmax(values))]


def test_scores_with_equal_exponentials_are_still_ordered(ops):
    for choice in (Choice(0.0), Choice(top_k=1)):
        assert pick(ops, np.array([-1e-17, 0.0]), choice, [0.0]) == [1]


@given(st.integers(1, 6), st.integers(1, 6))
def test_ties_go_to_the_lower_ids(fast, size, top_k):
    found, _ = frequencies(fast, np.zeros(size), Choice(top_k=top_k))
    assert np.flatnonzero(found).tolist() == list(range(min(size, top_k)))


@pytest.mark.parametrize("size", [300, 1000])
def test_many_ties_go_to_the_lower_ids(ops, size):
    """More than a block has threads, so that each thread owns several."""
    values = np.zeros(size)
    values[size - 5] = 1
    numbers = [0.0, 0.9, largest]
    assert pick(ops, values, Choice(top_k=101), numbers) == pick(REFERENCE, np.r_[np.zeros(100), np.full(size - 105, -np.inf), 1.0], Choice(), numbers)
    share = (np.e + 150.5) / (np.e + size - 1)
    assert pick(ops, values, Choice(top_p=share), numbers) == pick(REFERENCE, np.r_[np.zeros(151), np.full(size - 156, -np.inf), 1.0], Choice(), numbers)


@given(scores, st.data(), temperatures)
def test_a_banned_symbol_is_never_drawn(fast, values, data, temperature):
    banned = np.array(sorted(data.draw(st.sets(st.integers(0, len(values) - 1), max_size=len(values) - 1))), np.int64)
    for choice in (Choice(temperature), Choice(0.0), Choice(top_k=3), Choice(top_p=0.5), Choice(top_p=1e-9)):
        assert not set(banned.tolist()).intersection(pick(fast, values, choice._replace(banned=banned), [0.0, 0.5, largest]))


def test_temperature_may_be_extreme(fast):
    values = np.array([1.0, 3.0, 2.0])
    for heat in (1e-300, 1e-45, 1e-38, 1e-6):
        assert set(pick(fast, values, Choice(heat), [1e-9, 0.5, 0.999])) == {1}
        assert pick(fast, np.zeros(2), Choice(heat), [0.0, 0.999]) == [0, 1]
    found, off = frequencies(fast, values, Choice(1000.0))
    np.testing.assert_allclose(found, 1 / 3, atol=off + 2e-3)
    assert pick(fast, np.array([1e30, -1e30, 0]), Choice(), [0.999]) == [0]


@pytest.mark.parametrize("heat", [1e-4, 3e-5, 1e-6])
def test_a_temperature_near_zero_is_not_zero(fast, heat):
    """The ratio of two probabilities follows the definition even if the scores are very close."""
    near = 2.0 ** np.round(np.log2(heat))
    wanted = 1 / (1 + np.exp(-near / heat))
    found, off = frequencies(fast, np.array([1.0, 1 - near]) if near > 2**-20 else np.array([0.0, -near]), Choice(heat))
    np.testing.assert_allclose(found, [wanted, 1 - wanted], atol=off)


@pytest.mark.parametrize("size", [sampling.BLOCK - 1, sampling.BLOCK, sampling.BLOCK + 1, 2 * sampling.BLOCK + 7])
def test_every_symbol_of_a_long_row_is_found(ops, size):
    numbers = (np.arange(size) + 0.5) / size
    some = slice(None, None, size // 3 if SIMULATED else None)
    assert pick(ops, np.zeros(size), Choice(), numbers[some]) == np.arange(size)[some].tolist()
    for only in (0, sampling.BLOCK - 2, size - 1):  # all other blocks are empty
        banned = np.delete(np.arange(size), only)
        assert set(pick(ops, np.zeros(size), Choice(banned=banned), [0.0, 0.5, largest])) == {only}


@pytest.mark.parametrize("size", [4, 2 * sampling.BLOCK])
def test_a_number_on_a_border_picks_the_symbol_after_it(ops, size):
    """Equal weights are summed without rounding."""
    ids = np.arange(0, size, 101 if SIMULATED and size > 4 else 1)
    assert pick(ops, np.zeros(size), Choice(), ids / size) == ids.tolist()


def test_a_number_beyond_the_sum_does_not_pick_a_banned_symbol():
    """The CPU sums blocks of weights in another order than the total, so the largest number may lie beyond the sum of the blocks."""
    random, size, reached = np.random.default_rng(0), 2 * sampling.BLOCK, 0
    for _ in range(100):
        weights = np.exp(-40 * random.random(size)).astype(np.float32)
        weights[-4:] = 1, 0, 0, 0
        blocks = sum(summed(weights[first : first + sampling.BLOCK]) for first in range(0, size, sampling.BLOCK))
        reached += largest * summed(weights) >= blocks
        assert found_in(weights, largest) == size - 4
    assert reached > 5  # this did happen


@pytest.mark.parametrize("random", [np.random.default_rng(seed) for seed in range(3)])
def test_a_number_beyond_the_sum_does_not_pick_a_banned_symbol_on_any_backend(ops, random):
    for _ in range(1 if SIMULATED else 30):
        values = -40 * random.random(600)
        values[-4:] = 0, -np.inf, -np.inf, -np.inf
        assert pick(ops, values, Choice(), [largest]) == [596]


# Random numbers


@given(strategies.generators, st.integers(1, 5))
def test_the_random_number_is_the_top_bits_of_seed_and_position(random, size):
    seeds, positions = random.integers(0, 2**64, size, np.uint64), random.integers(0, 10**9, size)
    want = [(stream_key(seed, position) >> 11) / 2**53 for seed, position in zip(seeds.tolist(), positions.tolist(), strict=True)]
    assert uniform(seeds, positions).tolist() == want
    assert [drawn(seed, int(position)) for seed, position in zip(seeds, positions, strict=True)] == want
    assert all(0 <= number < 1 for number in want)


def test_the_random_numbers_are_uniform():
    many, one = np.arange(10_000), np.full(10_000, 7)
    for numbers in (uniform(one.astype(np.uint64), many), uniform(many.astype(np.uint64), one)):
        counts = np.histogram(numbers, bins=10, range=(0, 1))[0]
        assert abs(counts - 1000).max() < 150  # five standard deviations
        assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.05


def test_a_choice_has_the_types_of_kernels():
    choice = choice_of(SamplingConfig(temperature=1, top_k=3, top_p=1), (4, 2))
    assert [type(value) for value in choice] == [float, int, float, np.ndarray] and choice.banned.dtype == np.int64
    assert [*choice[:3], choice.banned.tolist()] == [1.0, 3, 1.0, [4, 2]]
