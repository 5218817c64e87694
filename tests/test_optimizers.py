"""Optimisers: the numbers that they give their rule, clipping, and the update of all weights."""

from math import inf, nan
from types import SimpleNamespace

import numpy as np
import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st
from strategies import floats

from numba_rnnlm import backends
from numba_rnnlm.arena import Arena, Layout
from numba_rnnlm.cells import CELLS
from numba_rnnlm.errors import ConfigError, DivergenceError
from numba_rnnlm.optimizers import (
    DEFAULT_RATES,
    OPTIMIZERS,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    RMSprop,
    Updater,
    default_rate,
    get,
)

REFERENCE = backends.get("reference")  # float64
limits = st.floats(0.01, 10)


def updater(optimizer, gradient, start=None):
    """Of a network that is one weight, of the size of ``gradient``."""
    layout = Layout({"w": gradient.shape})

    def arena(values):
        arena = Arena(layout, REFERENCE.empty((layout.size,)))
        REFERENCE.fill(arena.flat, 0)
        REFERENCE.copy(values, arena["w"])
        return arena

    network = SimpleNamespace(
        version=0, ops=REFERENCE, gradients=arena(gradient), parameters=arena(np.zeros_like(gradient) if start is None else start)
    )
    return Updater(network, optimizer)


def change(optimizer, gradient, rate=None):
    """By what one update moves the weights, and the norm that it returns."""
    one = updater(optimizer, gradient)
    norm = one.update(rate)
    return one.network.parameters["w"], norm


@given(strategies.generators, strategies.sizes, limits)
def test_clipnorm_shortens_the_whole_gradient(random, size, limit):
    gradient = floats(random, size)
    length = np.sqrt((gradient**2).sum())
    moved, norm = change(SGD(learning_rate=0.5, clipnorm=limit), gradient)
    assert norm == pytest.approx(length)  # before clipping
    np.testing.assert_allclose(moved, -0.5 * gradient * min(1, limit / length), rtol=1e-12)


@given(strategies.generators, strategies.sizes, limits)
def test_clipvalue_cuts_each_element(random, size, limit):
    gradient = floats(random, size)
    moved, _ = change(SGD(learning_rate=0.5, clipvalue=limit), gradient)
    np.testing.assert_allclose(moved, -0.5 * gradient.clip(-limit, limit), rtol=1e-12)


def test_the_norm_is_clipped_before_the_elements():
    moved, norm = change(SGD(learning_rate=1, clipnorm=1, clipvalue=0.7), np.array([3.0, 4.0]))
    assert norm == 5
    np.testing.assert_allclose(moved, [-0.6, -0.7])


@pytest.mark.parametrize("name", OPTIMIZERS)
@given(random=strategies.generators, size=strategies.sizes)
def test_none_and_zero_clip_nothing(name, random, size):
    gradient = 100 * floats(random, size)
    want, _ = change(OPTIMIZERS[name](), gradient)
    for off in ({"clipnorm": 0}, {"clipvalue": 0}, {"clipnorm": None, "clipvalue": None}, {"clipnorm": 1e9}):
        np.testing.assert_array_equal(change(OPTIMIZERS[name](**off), gradient)[0], want)


def test_a_gradient_of_zero_is_not_divided_by():
    moved, norm = change(SGD(clipnorm=1), np.zeros(3))
    assert norm == 0
    np.testing.assert_array_equal(moved, 0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_rate_of_a_schedule_takes_the_place_of_the_optimizers(name):
    gradient = np.array([1.0, -2.0])
    np.testing.assert_array_equal(
        change(OPTIMIZERS[name](learning_rate=0.1), gradient, rate=0.3)[0],
        change(OPTIMIZERS[name](learning_rate=0.3), gradient)[0],
    )
    np.testing.assert_array_equal(change(OPTIMIZERS[name](), gradient, rate=0)[0], 0)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_a_gradient_that_is_not_finite_changes_nothing(name, bad):
    one = updater(OPTIMIZERS[name](clipnorm=1.0, clipvalue=1.0), np.array([1.0, bad, 2.0]), start=np.ones(3))
    with pytest.raises(DivergenceError, match="gradient is not finite"):
        one.update()
    np.testing.assert_array_equal(one.network.parameters["w"], 1)
    np.testing.assert_array_equal(one.moments, 0)
    assert one.steps == 0


@pytest.mark.parametrize("optimizer", [Adam(learning_rate=0.1), AdamW(learning_rate=0.1, weight_decay=0.0)])
@given(random=strategies.generators, size=strategies.sizes)
def test_adam_moves_by_the_rate_from_the_first_update_on(optimizer, random, size):
    gradient = random.choice([-3.0, -0.1, 0.1, 3.0], size)
    one = updater(optimizer, gradient)
    for step in (1, 2, 3):
        one.update()
        assert one.steps == step
        np.testing.assert_allclose(one.network.parameters["w"], -0.1 * step * np.sign(gradient), rtol=1e-3)


def test_weight_decay_is_in_the_gradient_but_adamws_is_not():
    start, gradient = np.array([2.0, -3.0]), np.array([1.0, 1.0])
    for optimizer, want in (
        (SGD(learning_rate=0.1, weight_decay=0.5), start - 0.1 * (gradient + 0.5 * start)),
        (Adam(learning_rate=0.1, weight_decay=0.5), start - 0.1 * np.sign(gradient + 0.5 * start)),
        (AdamW(learning_rate=0.1, weight_decay=0.5), start * (1 - 0.1 * 0.5) - 0.1 * np.sign(gradient)),
    ):
        one = updater(optimizer, gradient, start)
        one.update()
        np.testing.assert_allclose(one.network.parameters["w"], want, rtol=1e-6)


def test_momentum_gathers_speed():
    one = updater(SGD(learning_rate=1, momentum=0.5), np.array([1.0]))
    seen = []
    for _ in range(3):
        one.update()
        seen.append(one.network.parameters["w"][0])
    assert seen == [-1, -2.5, -4.25]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_get(name):
    kind = OPTIMIZERS[name]
    assert get(name) == get(name.upper()) == kind()
    mine = kind(learning_rate=0.125)
    assert get(mine) is mine
    assert kind.name == name


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ("adamax", "optimizer is 'adamax', expected one of 'sgd', 'rmsprop'"),
        (None, r"optimizer is None, expected a name such as 'adam'"),
        (Adam, r"expected a name .* or for example numba_rnnlm.optimizers.Adam\(learning_rate=1e-3\)"),
    ],
)
def test_get_refuses(optimizer, message):
    with pytest.raises(ConfigError, match=message):
        get(optimizer)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        *((kind, name, -1) for kind in OPTIMIZERS.values() for name in ("learning_rate", "weight_decay")),
        *((kind, name, "1") for kind in OPTIMIZERS.values() for name in ("learning_rate", "clipnorm", "clipvalue")),
        (SGD, "momentum", 1.0),
        (SGD, "momentum", -0.1),
        (RMSprop, "rho", 1),
        (RMSprop, "epsilon", -1e-7),
        (Adagrad, "epsilon", nan),
        (Adam, "beta_1", 1.0),
        (AdamW, "beta_2", 1.5),
    ],
)
def test_impossible_numbers_are_refused(kind, name, value):
    with pytest.raises(ConfigError, match=f"{name} is {value!r}, expected a number"):
        kind(**{name: value})


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_cell_has_a_default_rate(name):
    assert set(DEFAULT_RATES) == set(OPTIMIZERS)
    rates = [default_rate(name, cell) for cell in CELLS]
    assert min(rates) > 0
    assert default_rate(name, "a cell of my own") == min(rates)
