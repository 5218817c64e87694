"""Optimisers: the numbers that they pass to their rule, clipping, and the update of all weights."""

import json
from dataclasses import dataclass
from math import inf, nan
from types import SimpleNamespace

import numpy as np
import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st
from strategies import floats

from numba_rnnlm import backends, optimizers, rules
from numba_rnnlm.arena import Arena, Layout
from numba_rnnlm.cells import CELLS
from numba_rnnlm.errors import ConfigError, DivergenceError, ModelFileError
from numba_rnnlm.optimizers import (
    KNOWN,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Lion,
    Optimizer,
    RMSprop,
    describe,
    get,
    keras,
    pytorch,
    rebuild,
)
from numba_rnnlm.training.updater import Updater

OPTIMIZERS = KNOWN  # Keras's under their own names, PyTorch's as pytorch.name
SAME = {"learning_rate": 0.1}  # a rate at which steps are larger than rounding errors
REFERENCE = backends.get("reference")  # float64
limits = st.floats(0.01, 10)


def updater(optimizer, gradient=None, start=None, **gradients):
    """The updater of a network whose weights start at 0 and have these gradients: one weight, or several by name."""
    gradients = gradients or {"w": gradient}
    layout = Layout({name: array.shape for name, array in gradients.items()})

    def arena(arrays):
        arena = Arena(layout, REFERENCE.empty((layout.size,)))
        REFERENCE.fill(arena.flat, 0)
        for name, values in arrays.items():
            REFERENCE.copy(values, arena[name])
        return arena

    network = SimpleNamespace(changed=lambda: None, ops=REFERENCE, gradients=arena(gradients), parameters=arena({} if start is None else {"w": start}))
    return Updater(network, optimizer)


def change(optimizer, gradient, rate=None):
    """How far one update moves the weights, and the norm that it returns."""
    one = updater(optimizer, gradient)
    norm = one.update(rate)
    return one.network.parameters["w"], norm


@pytest.mark.parametrize("clipped", [lambda limit: SGD(0.5, global_clipnorm=limit), lambda limit: pytorch.SGD(0.5, clip_norm=limit)])
@given(random=strategies.generators, size=strategies.sizes, limit=limits)
def test_the_whole_gradient_is_scaled_to_its_norm_limit(clipped, random, size, limit):
    gradient = floats(random, size)
    length = np.sqrt((gradient**2).sum())
    moved, norm = change(clipped(limit), gradient)
    assert norm == pytest.approx(length)  # before clipping
    np.testing.assert_allclose(moved, -0.5 * gradient * min(1, limit / length), rtol=1e-12)


@given(strategies.generators, strategies.sizes, strategies.sizes, limits)
def test_clipnorm_scales_the_gradient_of_each_variable(random, first, second, limit):
    one = updater(SGD(0.5, clipnorm=limit), a=(a := floats(random, first)), b=(b := floats(random, second)))
    assert one.update() == pytest.approx(np.sqrt((a**2).sum() + (b**2).sum()))
    for name, gradient in (("a", a), ("b", b)):
        want = -0.5 * gradient * min(1, limit / np.sqrt((gradient**2).sum()))
        np.testing.assert_allclose(one.network.parameters[name], want, rtol=1e-12)


@pytest.mark.parametrize("clipped", [lambda limit: SGD(0.5, clipvalue=limit), lambda limit: pytorch.SGD(0.5, clip_value=limit)])
@given(random=strategies.generators, size=strategies.sizes, limit=limits)
def test_each_element_is_clipped(clipped, random, size, limit):
    gradient = floats(random, size)
    moved, _ = change(clipped(limit), gradient)
    np.testing.assert_allclose(moved, -0.5 * gradient.clip(-limit, limit), rtol=1e-12)


def test_the_norm_is_clipped_before_the_elements():
    moved, norm = change(pytorch.SGD(1, clip_norm=1, clip_value=0.7), np.array([3.0, 4.0]))
    assert norm == 5
    np.testing.assert_allclose(moved, [-0.6, -0.7])


def test_keras_optimizers_accept_one_kind_of_clipping():
    with pytest.raises(ConfigError, match=r"Adam got clipnorm=1 and global_clipnorm=2, expected at most one of them\."):
        Adam(clipnorm=1, global_clipnorm=2)


@pytest.mark.parametrize("name", OPTIMIZERS)
@given(random=strategies.generators, size=strategies.sizes)
def test_none_and_zero_clip_nothing(name, random, size):
    gradient = 100 * floats(random, size)
    want, _ = change(OPTIMIZERS[name](**SAME), gradient)
    for limit in ("clip_norm", "clip_value") if "pytorch" in name else ("clipnorm", "clipvalue", "global_clipnorm"):
        for off in (0, None, 1e9):
            np.testing.assert_array_equal(change(OPTIMIZERS[name](**SAME, **{limit: off}), gradient)[0], want)


def test_clipping_a_gradient_of_zero_does_not_divide_by_zero():
    for optimizer in (SGD(clipnorm=1), SGD(global_clipnorm=1), pytorch.SGD(clip_norm=1)):
        moved, norm = change(optimizer, np.zeros(3))
        assert norm == 0
        np.testing.assert_array_equal(moved, 0)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_rate_of_a_schedule_replaces_the_optimizers_own(name):
    gradient = np.array([1.0, -2.0])
    np.testing.assert_array_equal(
        change(OPTIMIZERS[name](learning_rate=0.1), gradient, rate=0.3)[0],
        change(OPTIMIZERS[name](learning_rate=0.3), gradient)[0],
    )
    np.testing.assert_array_equal(change(OPTIMIZERS[name](), gradient, rate=0)[0], 0)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_a_gradient_that_is_not_finite_changes_nothing(name, bad):
    for limit in ("clip_norm", "clip_value") if "pytorch" in name else ("clipnorm", "clipvalue", "global_clipnorm"):
        one = updater(OPTIMIZERS[name](**{limit: 1.0}), np.array([1.0, bad, 2.0]), start=np.ones(3))
        with pytest.raises(DivergenceError, match="gradient is not finite"):
            one.update()
        np.testing.assert_array_equal(one.network.parameters["w"], 1)
        np.testing.assert_array_equal(one.moments, one.optimizer.start)
        assert one.steps == 0


@pytest.mark.parametrize("optimizer", [Adam(0.1), AdamW(0.1, 0.0), Adam(0.1, amsgrad=True), pytorch.Adam(0.1), pytorch.AdamW(0.1, 0.0)])
@given(random=strategies.generators, size=strategies.sizes)
def test_adam_moves_by_the_rate_from_the_first_update_on(optimizer, random, size):
    gradient = random.choice([-3.0, -0.1, 0.1, 3.0], size)
    one = updater(optimizer, gradient)
    for step in (1, 2, 3):
        one.update()
        assert one.steps == step
        np.testing.assert_allclose(one.network.parameters["w"], -0.1 * step * np.sign(gradient), rtol=1e-3)


def test_weight_decay_is_part_of_pytorchs_gradient_except_in_adamw():
    start, gradient = np.array([2.0, -3.0]), np.array([1.0, 1.0])
    for optimizer, want in (
        (pytorch.SGD(learning_rate=0.1, weight_decay=0.5), start - 0.1 * (gradient + 0.5 * start)),
        (pytorch.Adam(learning_rate=0.1, weight_decay=0.5), start - 0.1 * np.sign(gradient + 0.5 * start)),
        (pytorch.AdamW(learning_rate=0.1, weight_decay=0.5), start * (1 - 0.1 * 0.5) - 0.1 * np.sign(gradient)),
    ):
        one = updater(optimizer, gradient, start)
        one.update()
        np.testing.assert_allclose(one.network.parameters["w"], want, rtol=1e-6)


@pytest.mark.parametrize("name", keras.OPTIMIZERS)
def test_weight_decay_is_decoupled_in_all_of_keras(name):
    start, gradient = np.array([2.0, -3.0]), np.array([1.0, 1.0])
    moved, _ = change(keras.OPTIMIZERS[name](learning_rate=0.1, weight_decay=0.0), gradient)
    one = updater(keras.OPTIMIZERS[name](learning_rate=0.1, weight_decay=0.5), gradient, start)
    one.update()
    np.testing.assert_allclose(one.network.parameters["w"], start * (1 - 0.1 * 0.5) + moved, rtol=1e-12)


@pytest.mark.parametrize("kind", [SGD, pytorch.SGD])
def test_momentum_accumulates(kind):
    for nesterov, want in ((False, [-1, -2.5, -4.25]), (True, [-1.5, -3.25, -5.125])):
        one = updater(kind(learning_rate=1, momentum=0.5, nesterov=nesterov), np.array([1.0]))
        seen = []
        for _ in want:
            one.update()
            seen.append(one.network.parameters["w"][0])
        assert seen == want


def test_velocities_include_the_rate_in_keras_but_not_in_pytorch():
    for optimizer, want in ((SGD(momentum=0.5), -1 - 0.5 - 0.1), (pytorch.SGD(momentum=0.5), -1 - 0.1 * 1.5)):
        one = updater(optimizer, np.array([1.0]))
        one.update(rate=1.0)
        one.update(rate=0.1)
        assert one.network.parameters["w"][0] == pytest.approx(want)


def test_nadam_schedules_its_momentum_for_ten_thousand_updates():
    nadam = keras.Nadam(beta_1=0.999)
    product = np.cumprod(0.999 * (1 - 0.5 * 0.96 ** np.arange(1, 10_001)))
    for step in (1, 2, 998, 999, 1000, 1001, 10_000):
        assert nadam._product(step) == pytest.approx(product[step - 1], rel=1e-10)


@pytest.mark.parametrize("name", keras.OPTIMIZERS)
def test_get(name):
    kind = keras.OPTIMIZERS[name]
    assert get(name) == get(name.upper()) == kind()
    mine = kind(learning_rate=0.125)
    assert get(mine) is mine
    assert kind().name == kind(name="mine").name == name


@dataclass(frozen=True)
class Half(Optimizer):
    """SGD at half the rate."""

    learning_rate: float = 0.5
    part: float = 0.5

    @property
    def rule(self):
        return rules.SGD

    def hyper(self, step, rate):
        return (1.0, 0.0, self.part * rate)


@dataclass(frozen=True)
class Noted(Half):
    """The same, with a field for a note."""

    note: tuple[int, ...] = ()


@pytest.mark.parametrize("name", KNOWN)
def test_an_optimizer_is_described_and_rebuilt(name):
    one = KNOWN[name](learning_rate=np.float64(0.125))
    described = json.loads(json.dumps(describe(one)))
    assert described["class"] == name
    assert rebuild(described, {}, "") == one


def test_a_custom_optimizer_is_named_but_not_imported():
    moved, _ = change(Half(), np.array([4.0]))
    assert moved == -1
    described = json.loads(json.dumps(describe(Half(part=0.25))))
    assert described == {"class": "Half", "own": True, "rule": "sgd", "learning_rate": 0.5, "part": 0.25}
    assert rebuild(described, {"Half": Half}, "") == Half(part=0.25)
    with pytest.raises(ModelFileError, match=r"the optimizer is 'Half', a custom class, which the file names but does not contain; do so\."):
        rebuild(described, {}, "do so")
    with pytest.raises(ConfigError, match=r"'Half' is 3, expected a subclass of numba_rnnlm.optimizers.Optimizer"):
        rebuild(described, {"Half": 3}, "")
    with pytest.raises(ModelFileError, match=r"'Half' had the rule 'adam', but the given class has 'sgd': it is a different optimiser of the same name"):
        rebuild(described | {"rule": "adam"}, {"Half": Half}, "")
    with pytest.raises(ConfigError, match=r"Half cannot be constructed from learning_rate, whole: .*unexpected keyword"):
        rebuild({"class": "Half", "own": True, "rule": "sgd", "learning_rate": 0.5, "whole": 1}, {"Half": Half}, "")
    more = Half()
    object.__setattr__(more, "hidden", 1)
    with pytest.raises(ConfigError, match=r"Half has attributes besides its fields \(learning_rate, part\), so it cannot be rebuilt from them"):
        describe(more)
    assert describe(Adam(np.array(0.25)))["learning_rate"] == 0.25
    with pytest.raises(ConfigError, match=r"Noted.note is \(1, 2\), which cannot be saved; expected a number, a str or None"):
        describe(Noted(note=(1, 2)))


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ("adamax", "optimizer is 'adamax', expected one of 'sgd', 'rmsprop'"),
        (None, r"optimizer is None, expected a name such as 'adam'"),
        (Adam, r"expected a name .* or for example numba_rnnlm.optimizers.Adam\(learning_rate=1e-3\)"),
    ],
)
def test_get_rejects_invalid_optimizers(optimizer, message):
    with pytest.raises(ConfigError, match=message):
        get(optimizer)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        *((kind, name, -1) for kind in OPTIMIZERS.values() for name in ("learning_rate", "weight_decay")),
        *((kind, name, "1") for kind in keras.OPTIMIZERS.values() for name in ("learning_rate", "clipnorm", "clipvalue", "global_clipnorm")),
        *((kind, name, "1") for kind in pytorch.OPTIMIZERS.values() for name in ("learning_rate", "clip_norm", "clip_value")),
        (SGD, "momentum", 1.0),
        (SGD, "momentum", -0.1),
        (RMSprop, "rho", 1),
        (RMSprop, "epsilon", -1e-7),
        (Adagrad, "epsilon", nan),
        (Adam, "beta_1", 1.0),
        (AdamW, "beta_2", 1.5),
        (AdamW, "weight_decay", None),
        (Adagrad, "initial_accumulator_value", -0.1),
        (Lion, "beta_1", 0),
    ],
)
def test_invalid_numbers_are_rejected(kind, name, value):
    with pytest.raises(ConfigError, match=f"{name} is {value!r}, expected a number"):
        kind(**{name: value})


@pytest.mark.parametrize("name", pytorch.OPTIMIZERS)
def test_every_cell_has_a_default_rate(name):
    assert set(pytorch.DEFAULT_RATES) == set(pytorch.OPTIMIZERS)
    rates = [pytorch.default_rate(name, cell) for cell in CELLS]
    assert min(rates) > 0
    assert pytorch.default_rate(name, "a custom cell") == min(rates)


@pytest.mark.parametrize(("kind", "flag"), [(SGD, "nesterov"), (RMSprop, "centered"), (Adam, "amsgrad"), (pytorch.SGD, "nesterov")])
def test_a_flag_is_true_or_false(kind, flag):
    with pytest.raises(ConfigError, match=f"{flag} is 'False', expected one of True, False"):
        kind(**{flag: "False"})


def test_the_name_argument_is_accepted_and_ignored():
    assert Adam(name="adam") == Adam()


def test_the_public_classes_are_keras_optimizers():
    assert set(keras.OPTIMIZERS.values()) == {getattr(optimizers, kind.__name__) for kind in keras.OPTIMIZERS.values()}
