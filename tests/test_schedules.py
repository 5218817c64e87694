"""Learning rate schedules."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from numba_rnnlm.config import SCHEDULES, TrainingConfig
from numba_rnnlm.training.schedules import Schedule, can_be_extended

rates = st.floats(1e-6, 100)
parts = st.floats(0, 1)
warmups = st.sampled_from([0.0]) | st.floats(0.01, 0.99)
every_schedule = pytest.mark.parametrize("kind", SCHEDULES)


def schedule(kind, base=1.0, **options):
    return Schedule(TrainingConfig(schedule=kind, **options), base)


@every_schedule
@given(base=rates, warmup=warmups, first=parts, second=parts)
def test_the_rate_rises_during_warmup_only(kind, base, warmup, first, second):
    first, second = sorted((first, second))
    at = schedule(kind, base, warmup=warmup).rate
    assert 0 <= at(first) <= base
    if second < warmup:
        assert at(first) == pytest.approx(base * first / warmup)
        assert at(first) <= at(second)
    if first >= warmup:
        assert at(first) >= at(second)


@every_schedule
@given(base=rates, warmup=warmups)
def test_ends(kind, base, warmup):
    at = schedule(kind, base, warmup=warmup).rate
    assert at(0.0) == (base if warmup == 0 else 0)
    assert at(warmup) == pytest.approx(base)
    assert at(1.0) == pytest.approx(0 if kind in ("linear", "cosine") else base)
    assert at(1.5) == at(1.0)  # there are more batches than planned


@given(base=rates, warmup=warmups, part=parts)
def test_linear_and_cosine_are_symmetric_about_half_the_rate(base, warmup, part):
    middle, width = (1 + warmup) / 2, (1 - warmup) / 2 * part
    for kind in ("linear", "cosine"):
        at = schedule(kind, base, warmup=warmup).rate
        assert at(middle) == pytest.approx(base / 2)
        assert at(middle - width) + at(middle + width) == pytest.approx(base)


@given(part=parts)
def test_linear_is_linear(part):
    assert schedule("linear").rate(part) == pytest.approx(1 - part)


def test_cosine_is_flat_at_both_ends():
    at = schedule("cosine").rate
    assert at(0.25) == pytest.approx(0.5 + 0.5**1.5)  # (1 + cos(π/4)) / 2
    assert 1 - at(0.01) < 0.001
    assert at(0.99) < 0.001


@given(base=rates, part=parts, warmup=warmups, judged=st.lists(st.booleans(), max_size=8), factor=st.floats(1.1, 10))
def test_plateau_divides_after_an_epoch_without_improvement(base, part, warmup, judged, factor):
    assume(part >= warmup)
    plan = schedule("plateau", base, decay_factor=factor, warmup=warmup)
    for epoch, improved in enumerate(judged, start=1):
        plan.judge(improved)
        plan.end_epoch(epoch)
    assert plan.rate(part) == pytest.approx(base / factor ** judged.count(False))


def test_zaremba_divides_after_the_epochs_at_the_full_rate():
    plan = schedule("zaremba")
    found = []
    for epoch in range(1, 14):
        found.append(plan.rate((epoch - 0.5) / 13))
        plan.judge(improved=epoch % 2 == 0)
        plan.end_epoch(epoch)
    assert found == [1, 1, 1, 1, *(0.5**power for power in range(1, 10))]

    plan = schedule("zaremba", 20.0, decay_factor=1.15, decay_after=14)  # the large model of Zaremba et al. 2014
    for epoch in range(1, 55):
        plan.end_epoch(epoch)
    assert plan.rate(1.0) == pytest.approx(20 / 1.15**41)


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine"])
@given(part=parts, improved=st.booleans())
def test_other_schedules_ignore_validation(kind, part, improved):
    plan = schedule(kind)
    before = plan.rate(part)
    plan.judge(improved)
    plan.end_epoch(7)
    assert plan.rate(part) == before


@every_schedule
@given(done=parts, longer=st.floats(1, 10), warmup=warmups)
def test_a_training_can_be_extended_if_earlier_rates_stay_the_same(kind, done, longer, warmup):
    config = TrainingConfig(schedule=kind, warmup=warmup)
    plan = Schedule(config, 1.0)
    if can_be_extended(config.schedule, config.warmup):
        assert plan.rate(done / longer) == plan.rate(done)
    else:
        assert plan.rate(0.75) != plan.rate(0.5) or plan.rate(warmup / 2) != plan.rate(warmup)
