"""Training: updates, how it ends, which weights it keeps, what it reports."""

import signal
import threading
from dataclasses import dataclass, replace
from itertools import count, islice
from math import ceil, cos, exp, inf, isnan, log, nan, pi
from types import SimpleNamespace

import numpy as np
import pytest
from checks import assert_close, assert_same_bits, examples
from hypothesis import given
from hypothesis import strategies as st
from models import fit, untrained

from numba_rnnlm import LanguageModel, Sequential, backends, memory, optimizers, rules, runs
from numba_rnnlm.config import OPTIMIZERS, SCHEDULES, CheckpointConfig, ModelConfig, TrainingConfig
from numba_rnnlm.errors import ConfigError, DivergenceError, ModelFileError, TrainingError
from numba_rnnlm.interrupts import Interrupts
from numba_rnnlm.language_model.architecture import build, initial_weights
from numba_rnnlm.layers import LSTM, Dense, Embedding
from numba_rnnlm.network import Network
from numba_rnnlm.optimizers import Optimizer, pytorch
from numba_rnnlm.progress import Progress
from numba_rnnlm.scoring import total_loss
from numba_rnnlm.text import segments
from numba_rnnlm.training import checkpoints, loop
from numba_rnnlm.training import clock as clock_module
from numba_rnnlm.training.history import COLUMNS, new_history, perplexity
from numba_rnnlm.training.loop import Trainer, Watcher
from numba_rnnlm.training.position import Position
from numba_rnnlm.training.reports import Reports
from numba_rnnlm.training.streams import StreamTask, make_optimizer
from numba_rnnlm.training.task import Batch
from numba_rnnlm.training.updater import Updater
from numba_rnnlm.training.warmup import compile_kernels

V, N, T, BATCHES = 7, 2, 4, 6  # symbols, streams, steps, batches per epoch
IDS = np.arange(1 + BATCHES * N * T) ** 2 % V


def network(seed=1, ops=None, **options):
    config = ModelConfig(
        **{"cell": "tanh", "hidden": 8, "layers": 1, "embedding": 4, "vocabulary_size": V, "dropout": 0.0} | options
    )
    model = build(config)
    return Network(model, ops or backends.get("cpu", threads=1), initial_weights(model, config, seed))


def batches():
    return segments(IDS, N, T)


class Stream(StreamTask):
    """A task whose batches come from ``read``."""

    def __init__(self, config, seed, validate, read):
        super().__init__(IDS, config, seed, validate)
        self.read = read

    def batches(self, epoch, first):
        for inputs, targets in islice(self.read(), first, None):
            yield Batch(inputs, targets.reshape(-1), int((targets >= 0).sum()))


def trainer(on=None, validate=None, read=batches, seed=1, history=None, **options):
    """A trainer; by default, three epochs of plain SGD."""
    config = TrainingConfig(
        **{
            "epochs": 3, "streams": N, "steps": T, "optimizer": "sgd", "learning_rate": 0.5, "schedule": "constant",
            "verbose": 0,
        } | options
    )  # fmt: skip
    net, history = on or network(), history or new_history()
    task = Stream(config, seed, validate, read)
    at = Position(trained=ceil(history["epoch"][-1]) if history["epoch"] else 0)
    made = Trainer(net, task, Updater(net, make_optimizer(config, "tanh")), config.epochs, config, at, interrupted=Interrupts("return"),
                   watchers=[Reports(history, Progress(config.verbose))])
    made.history = history
    return made


class Judge:
    """A validation that returns given losses, and records the weights at each call."""

    def __init__(self, network, losses):
        self.network, self.losses, self.seen = network, iter(losses), []

    def __call__(self):
        self.seen.append(self.network.weights())
        return next(self.losses)


def spoil(monkeypatch, network, values):
    """Replace the losses of some updates: update, counted from 1 → value."""
    train, calls = network.differentiate, count(1)

    def spoiled(inputs, targets, state, scale, *more):
        losses = train(inputs, targets, state, scale, *more)
        if scale == 0:  # only compiles kernels
            return losses
        update = next(calls)
        return losses * 0 + values[update] if update in values else losses

    monkeypatch.setattr(network, "differentiate", spoiled)


# Updates


def sgd(w, g, m, step, rate):
    m[0] = 0.9 * m[0] + g
    return w - rate * m[0]


def rmsprop(w, g, m, step, rate):
    m[0] = 0.9 * m[0] + 0.1 * g**2
    return w - rate * g / (np.sqrt(m[0]) + 1e-7)


def adagrad(w, g, m, step, rate):
    m[0] += g**2
    return w - rate * g / (np.sqrt(m[0]) + 1e-7)


def adam(w, g, m, step, rate):
    m[:] = 0.9 * m[0] + 0.1 * g, 0.999 * m[1] + 0.001 * g**2
    return w - rate * m[0] / (1 - 0.9**step) / (np.sqrt(m[1] / (1 - 0.999**step)) + 1e-8)


def adamw(w, g, m, step, rate):
    return adam(w * (1 - 0.01 * rate), g, m, step, rate)


UPDATES = {one.__name__: one for one in (sgd, rmsprop, adagrad, adam, adamw)}
WARMUP = 0.25
FACTORS = {  # schedule → factor of the rate in an epoch (from 0), when a fraction of the training is done
    "constant": lambda epoch, done: 1, "linear": lambda epoch, done: (1 - done) / (1 - WARMUP),
    "cosine": lambda epoch, done: (1 + cos(pi * (done - WARMUP) / (1 - WARMUP))) / 2,
    "plateau": lambda epoch, done: (1, 1, 1 / 2)[epoch], "zaremba": lambda epoch, done: (1, 1 / 2, 1 / 4)[epoch],
}  # fmt: skip


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_updates_follow_the_optimizer_and_the_schedule(optimizer, schedule):
    """Compares all weights after each of three epochs, the first of which is the best, with the equations in float64."""
    net, plain = (network(ops=backends.get("reference")) for _ in range(2))
    judge = Judge(net, [1.0, 2.0, 3.0])
    one = trainer(net, judge, optimizer=optimizer, schedule=schedule, learning_rate=None, warmup=WARMUP, decay_after=1,
                  **{"momentum": 0.9} if optimizer == "sgd" else {})
    one.run()
    w, step = plain.parameters.flat, 0
    m = np.zeros((2, w.size))
    for epoch, seen in enumerate(judge.seen):
        state = plain.state(N)
        for batch, (inputs, targets) in enumerate(batches()):
            done, step = (epoch + batch / BATCHES) / 3, step + 1
            rate = pytorch.default_rate(optimizer, "tanh") * (done / WARMUP if done < WARMUP else FACTORS[schedule](epoch, done))
            plain.differentiate(inputs, targets.reshape(-1), state, 1 / targets.size, 0)
            g = np.array(plain.gradients.flat)
            norm = np.sqrt((g**2).sum())
            w[:] = UPDATES[optimizer](w, g / max(norm, 1), m, step, rate)
        assert_close(seen, plain.weights(), 1e-9)
        assert one.history["gradient_norm"][epoch] == pytest.approx(norm) and one.history["learning_rate"][epoch] == pytest.approx(rate)


def test_the_rate_follows_the_schedule():
    one = trainer(schedule="linear", epochs=2, warmup=0.25, learning_rate=1.0)
    one.run()
    last = [5 / 12, 11 / 12]  # fraction of the training at the last update of each epoch
    assert one.history["learning_rate"] == pytest.approx([(1 - part) / 0.75 for part in last])

    one = trainer(schedule="plateau", epochs=4, validate=iter([3.0, 2.0, 2.5, 1.0]).__next__, learning_rate=1.0)
    one.run()
    assert one.history["learning_rate"] == [1, 1, 1, 0.5]


@pytest.mark.parametrize("tied", [False, True])
def test_compiling_kernels_runs_training_and_validation_and_changes_nothing(tied):
    one = trainer(network(tied=tied, dropout=0.5))
    before, rows = one.network.weights(), set()
    ops, project = one.network.ops, one.network.ops.project

    def noting(x, W, b, out, **options):
        rows.add(out.size // out.shape[-1])
        project(x, W, b, out, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "project", noting)
        compile_kernels(one.network, one.updater.optimizer.rule)
    assert min(rows) <= 4 < max(rows)  # there is a separate kernel for few rows
    assert_same_bits(one.network.weights(), before)
    assert not one.network.gradients.flat.any()  # the scale was zero


def test_history_has_a_row_per_epoch():
    one = trainer(validate=lambda: 1.5)
    one.run()
    history = one.history
    assert tuple(history) == COLUMNS
    assert {len(values) for values in history.values()} == {3}
    assert history["epoch"] == [1, 2, 3]
    assert history["tokens"] == [len(IDS) - 1] * 3
    assert history["perplexity"] == [exp(loss) for loss in history["loss"]]
    assert history["valid_perplexity"] == [exp(1.5)] * 3
    assert min(history["gradient_norm"]) > 0
    one = trainer()
    one.run()
    assert all(map(isnan, one.history["valid_loss"] + one.history["valid_perplexity"]))


def test_the_state_is_carried_through_an_epoch_and_reset_for_the_next():
    one = trainer(learning_rate=1e-30, epochs=2)  # too small to change float32 weights
    nats, tokens = total_loss(one.network, batches())
    one.run()
    assert one.history["loss"] == pytest.approx([nats / tokens] * 2, rel=1e-6)


def test_dropout_masks_differ_between_epochs_and_depend_on_the_seed():
    def losses(seed):
        one = trainer(network(dropout=0.5), learning_rate=1e-30, seed=seed)
        one.run()
        return one.history["loss"]

    assert len(set(losses(1))) == 3
    assert losses(1) == losses(1)
    assert losses(1) != losses(2)


def test_no_two_updates_share_their_masks(monkeypatch):
    one, keys = trainer(), []
    train = one.network.differentiate

    def noting(inputs, targets, state, scale, key, *more):
        if scale > 0:  # 0 only compiles kernels
            keys.append(key)
        return train(inputs, targets, state, scale, key, *more)

    monkeypatch.setattr(one.network, "differentiate", noting)
    one.run()
    trainer(one.network, history=one.history).run()
    assert len(keys) == len(set(keys)) == 6 * BATCHES


def test_training_again_continues():
    whole = trainer(network(dropout=0.3), epochs=4)
    whole.run()
    first = trainer(network(dropout=0.3), epochs=2)
    first.run()
    second = trainer(first.network, history=first.history, epochs=2)
    second.run()
    assert second.history["epoch"] == [1, 2, 3, 4]
    assert second.history["loss"] == whole.history["loss"]
    assert_same_bits(second.network.weights(), whole.network.weights())


@pytest.mark.parametrize("rate", [0.1, None])
def test_the_sum_over_time_is_the_mean_times_the_steps(rate):
    mean = trainer(learning_rate=None if rate is None else rate * T, clip_norm=0)
    total = trainer(learning_rate=rate, clip_norm=0, reduction="sum_time")
    for one in (mean, total):
        one.run()
    np.testing.assert_allclose(total.history["loss"], mean.history["loss"], rtol=1e-5)  # the mean is always reported
    np.testing.assert_allclose(total.history["gradient_norm"], np.multiply(mean.history["gradient_norm"], T), rtol=1e-4)
    if rate:
        assert total.history["learning_rate"] == [rate] * 3


@pytest.mark.parametrize(("name", "limit"), [("clip_norm", 0.01), ("clip_value", 0.001)])
def test_clipping(name, limit):
    one = trainer(epochs=1, read=lambda: [next(batches())], learning_rate=1.0, **{"clip_norm": 0, name: limit})
    before = one.network.weights()
    one.run()
    moved = np.concatenate([(after - before[key]).ravel() for key, after in one.network.weights().items()])
    size = np.sqrt((moved**2).sum()) if name == "clip_norm" else abs(moved).max()
    assert one.history["gradient_norm"][0] > 0.1
    assert size == pytest.approx(limit, rel=1e-4)


@pytest.mark.parametrize("reduction", ["mean", "sum_time"])
@given(accumulate=st.integers(1, 8))
def test_gradients_of_several_batches_make_one_update(reduction, accumulate):
    """Compared with plain SGD on gradients added by hand; the last update of an epoch may have fewer batches."""
    net, plain = network(), network()
    one = trainer(net, epochs=2, accumulate=accumulate, reduction=reduction, clip_norm=0, learning_rate=0.1, validate_every=1)
    one.run()
    w, rows = plain.parameters.flat, []
    for _ in range(2):
        state, left = plain.state(N), list(batches())
        while left:
            group, left = left[:accumulate], left[accumulate:]
            total = np.zeros(w.size)
            for inputs, targets in group:
                plain.differentiate(inputs, targets.reshape(-1), state, 1.0, 0)
                total += plain.gradients.flat
            total /= N * T * len(group) if reduction == "mean" else N * len(group)
            rows.append(float(np.sqrt((total**2).sum())))
            w -= (0.1 * total).astype(np.float32)
    np.testing.assert_allclose(one.history["gradient_norm"], rows, rtol=1e-4)
    assert one.at.updates == len(rows) == 2 * ceil(BATCHES / accumulate)
    assert_close(net.weights(), plain.weights(), 1e-5)


# How training ends


def test_the_best_weights_are_kept():
    net = network()
    judge = Judge(net, [3.0, 1.0, 2.0, 1.0, 4.0])
    one = trainer(net, judge, epochs=5)
    one.run()
    assert_same_bits(net.weights(), judge.seen[1])  # the first of two equally good epochs
    assert one.history["valid_loss"] == [3, 1, 2, 1, 4]


def test_without_validation_the_last_weights_are_kept(monkeypatch):
    one, two = trainer(), trainer(validate=iter([1.0, 2.0, 3.0]).__next__)
    for each in (one, two):
        spoil(monkeypatch, each.network, {2 * BATCHES + 1: 1e6})  # changes the reported loss, not the gradient
    for each in (one, two):
        each.run()
    assert one.history["loss"] == two.history["loss"]
    again = trainer(two.network, epochs=2)  # continues from the best epoch, the first
    again.run()
    assert_same_bits(again.network.weights(), one.network.weights())


def test_patience(capsys):
    net = network()
    judge = Judge(net, [3.0, 2.0, 2.5, 1.0, 1.5, 1.0, 0.5])
    one = trainer(net, judge, epochs=7, patience=2, verbose=2)
    one.run()
    assert one.history["valid_loss"] == [3, 2, 2.5, 1, 1.5, 1]
    assert_same_bits(net.weights(), judge.seen[3])
    printed = capsys.readouterr().out.splitlines()
    assert [" * " in line for line in printed[:-1]] == [True, True, False, True, False, False]
    assert printed[-1] == "stopped: no better for 2 epochs; the best epoch's weights are kept"


def test_patience_with_the_training_loss():
    one = trainer(learning_rate=1e-30, epochs=9, patience=3)
    one.run()
    assert one.history["epoch"] == [1, 2, 3, 4]


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=0.0)
    for module in (clock_module, checkpoints):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


@pytest.mark.parametrize(("limit", "tokens"), [(10, [48, 24]), (7, [48]), (1, [])])
def test_max_seconds(clock, limit, tokens, capsys):
    def read():
        for batch in batches():
            clock.seconds += 1
            yield batch

    one = trainer(read=read, epochs=100, max_seconds=limit, schedule="linear", learning_rate=1.0, verbose=2)
    before = one.network.weights()
    one.run()
    assert one.history["tokens"] == tokens
    assert capsys.readouterr().out.endswith(f"stopped: the {limit} seconds are over\n")
    if tokens:
        assert one.history["learning_rate"][-1] == pytest.approx(1 - sum(tokens) / (N * T) / limit)
        assert one.history["seconds"] == [6, 4][: len(tokens)]
        assert one.history["tokens_per_second"][0] == N * T
    else:
        assert_same_bits(one.network.weights(), before)


@examples(60)
@given(
    step=st.floats(0.1, 5), validation=st.floats(0, 100), writing=st.floats(0, 20), saving=st.floats(0, 20), room=st.floats(0, 300),
    every=st.sampled_from([None, 1, 4, 5]), checkpoint_every=st.sampled_from([1.0, 30.0, 1e9]), known=st.booleans(),
)
def test_max_seconds_includes_validation_and_saving(step, validation, writing, saving, room, every, checkpoint_every, known):
    now = SimpleNamespace(seconds=0.0)

    def lasting(seconds, result=None):
        now.seconds += seconds
        return result

    with pytest.MonkeyPatch.context() as patch:
        for module in (clock_module, checkpoints):
            patch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now.seconds))
        one_step = Trainer._step
        patch.setattr(Trainer, "_step", lambda self, *batch: lasting(step, one_step(self, *batch)))
        limit = validation + saving + 2 * writing + step + room
        one = trainer(validate=lambda: lasting(validation, 1.0), epochs=1000, max_seconds=limit, validate_every=every)
        one.clock.saving = saving
        one.foresee = (lambda limit: validation) if known else None
        one.checkpoints = checkpoints.Checkpoints(lambda at, groups: lasting(writing), checkpoint_every)
        one.run()
    started = writing  # the first checkpoint
    assert len(one.history["epoch"]) >= 1 and one.at.ended.endswith("are over")
    if known:
        assert now.seconds - started + saving <= limit * (1 + 1e-9)
        # It stops no earlier than necessary for another update, with all that may follow it.
        assert now.seconds - started >= limit - 2 * (validation + saving + 2 * writing + step)


def test_max_seconds_shorter_than_a_validation_is_refused():
    one = trainer(validate=lambda: 1.0, max_seconds="1m")
    one.foresee = lambda limit: 75.25
    with pytest.raises(ConfigError, match=r"max_seconds is 60, but a validation alone takes about 75 seconds here; give more time, or a shorter"):
        one.run()
    assert one.history["epoch"] == []


class Watching(Watcher):
    """Records the reports."""

    def __init__(self, rows):
        self.rows = rows

    def report(self, trainer, row, improved):
        self.rows.append(row)


@pytest.mark.parametrize("every", [1, 2, 4, 5, BATCHES, 100])
def test_reports_within_an_epoch(every, capsys):
    watched, whole = [], trainer()
    whole.run()
    one = trainer(validate=(1 / number for number in count(1)).__next__, validate_every=every, verbose=2)
    one.watchers = [*one.watchers, Watching(watched)]
    one.run()
    within = [*range(every, BATCHES, every), BATCHES]
    history = one.history
    assert history["epoch"] == [epoch + batch / BATCHES for epoch in range(3) for batch in within]
    assert [row["updates"] for row in watched] == [epoch * BATCHES + batch for epoch in range(3) for batch in within]
    assert [row["epoch"] for row in watched] == history["epoch"] and {len(values) for values in history.values()} == {3 * len(within)}
    assert_same_bits(one.network.weights(), whole.network.weights())
    tokens = np.reshape(history["tokens"], (3, -1))
    assert (tokens.sum(axis=1) == len(IDS) - 1).all()
    sums = (np.reshape(history["loss"], (3, -1)) * tokens).sum(axis=1) / (len(IDS) - 1)
    np.testing.assert_allclose(sums, whole.history["loss"], rtol=1e-12)  # the training is unchanged
    shown = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert shown[len(within) - 1] == "1/3" and (every >= BATCHES or shown[0] == f"{every / BATCHES:.2f}/3")


def test_the_best_weights_may_be_those_of_a_report_within_an_epoch():
    net = network()
    judge = Judge(net, [3.0, 1.0, 2.0, 2.5, 1.5, 1.75])
    one = trainer(net, judge, validate_every=4)
    one.run()
    assert len(judge.seen) == 6
    assert_same_bits(net.weights(), judge.seen[1])


def test_patience_counts_reports(capsys):
    net = network()
    judge = Judge(net, [3.0, 2.0, 2.5, 2.25, 9.0])
    one = trainer(net, judge, epochs=7, patience=2, validate_every=2, verbose=2)
    one.run()
    assert one.history["epoch"] == [2 / BATCHES, 4 / BATCHES, 1, 1 + 2 / BATCHES]
    assert_same_bits(net.weights(), judge.seen[1])
    assert capsys.readouterr().out.endswith("stopped: no better for 2 reports; the best report's weights are kept\n")


@pytest.mark.parametrize(("schedule", "rates"), [("plateau", [1, 1, 0.5, 0.5]), ("zaremba", [1, 1, 0.5, 0.5]), ("constant", [1] * 4)])
def test_plateau_follows_reports_and_zaremba_epochs(schedule, rates):
    one = trainer(validate=iter([3.0, 4.0, 2.0, 1.0]).__next__, epochs=2, validate_every=3, schedule=schedule, decay_after=1, learning_rate=1.0)
    one.run()
    assert one.history["learning_rate"] == rates


def test_an_interrupt_in_a_report_within_an_epoch_ends_after_it(handler):
    losses = iter([3.0, 2.0])

    def validate():
        signal.raise_signal(signal.SIGINT)
        return next(losses)

    one = trainer(validate=validate, validate_every=2, epochs=9)
    one.run()
    assert one.history["epoch"] == [2 / BATCHES] and one.at.tokens == 0
    again = trainer(one.network, history=one.history, epochs=1)  # starts a new epoch
    again.run()
    assert one.history["epoch"] == [2 / BATCHES, 2]


def test_an_interval_whose_updates_were_all_skipped_is_not_reported(monkeypatch):
    net = network()
    spoil(monkeypatch, net, {3: nan, 4: nan})
    one = trainer(net, validate_every=2, epochs=1, not_finite="skip")
    one.run()
    assert one.history["epoch"] == [2 / BATCHES, 1]


def interrupting(places):
    """Batches that raise SIGINT at these positions, counted from 0."""
    positions = count()

    def read():
        for batch in batches():
            if next(positions) in places:
                signal.raise_signal(signal.SIGINT)
            yield batch

    return read


@pytest.fixture
def handler():
    """The handler of SIGINT, which must be restored after each test."""
    mine = signal.getsignal(signal.SIGINT)
    yield mine
    assert signal.getsignal(signal.SIGINT) is mine


def test_an_interrupt_closes_the_epoch(handler, capsys):
    net = network()
    judge = Judge(net, [2.0, 1.0, 0.5])
    one = trainer(net, judge, read=interrupting({BATCHES + 1}), epochs=9, verbose=2)
    one.run()
    assert one.history["tokens"] == [BATCHES * N * T, 2 * N * T]
    assert one.history["valid_loss"] == [2, 1]
    assert_same_bits(net.weights(), judge.seen[1])
    assert capsys.readouterr().out.endswith("stopped: interrupted; the best epoch's weights are kept\n")


def test_an_interrupt_while_validating_ends_after_it(handler):
    def validate():
        signal.raise_signal(signal.SIGINT)
        return 1.0

    one = trainer(validate=validate, epochs=9)
    one.run()
    assert one.history["tokens"] == [BATCHES * N * T]


def test_a_second_interrupt_stops_at_once(handler):
    def validate():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("it continued")

    one = trainer(validate=validate)
    with pytest.raises(KeyboardInterrupt):
        one.run()


def test_after_an_interrupt_of_fit_the_model_is_usable(handler, monkeypatch):
    trained = None
    model = untrained()
    evaluate = loop.Trainer._epoch

    def epoch(self):
        nonlocal trained
        trained = self
        if self.at.epoch == 2:
            signal.raise_signal(signal.SIGINT)
        return evaluate(self)

    monkeypatch.setattr(loop.Trainer, "_epoch", epoch)
    fit(model, epochs=9, on_interrupt="return")
    assert model.history_["epoch"] == [1, pytest.approx(1 + 1 / trained.task.batches_per_epoch)]
    assert len(model.generate("to", length=5, seed=1)) == 5


def test_training_in_a_thread_leaves_signals_alone(handler):
    handlers = set()

    def validate():
        handlers.add(signal.getsignal(signal.SIGINT))
        return 1.0

    one = trainer(validate=validate)
    thread = threading.Thread(target=one.run)
    thread.start()
    thread.join()
    assert one.history["epoch"] == [1, 2, 3]
    assert handlers == {handler}


# Failures


class Fails:
    """A function that raises ``error`` at call ``number``, counted from 1."""

    def __init__(self, error, number, value=1.0):
        self.error, self.number, self.value, self.calls = error, number, value, 0

    def __call__(self, *arguments):
        self.calls += 1
        if self.calls == self.number:
            raise self.error
        return self.value


@pytest.mark.parametrize(("error", "words"), [
    (MemoryError("Unable to allocate 3 GiB"), "Unable to allocate 3 GiB"), (MemoryError(), "MemoryError"),
    (OSError(5, "Input/output error"), "[Errno 5] Input/output error"), (ValueError("no"), "no"),
], ids=repr)  # fmt: skip
def test_a_failing_validation_keeps_the_best_epoch(error, words):
    net = network()
    judge = Judge(net, [1.0, 2.0])
    one = trainer(net, Fails(error, 3), epochs=9)
    checked, one.task.validate = one.task.validate, lambda: (checked(), judge())[1]
    with pytest.raises(TrainingError) as caught:
        one.run()
    assert str(caught.value) == (f"validation failed in epoch 3, after {3 * BATCHES} updates: {words}. The model has the weights of the best "
                                 "epoch so far.")
    assert caught.value.__cause__ is error
    assert_same_bits(net.weights(), judge.seen[0])
    assert one.history["epoch"] == [1, 2]


def test_a_failing_first_validation_keeps_the_weights_of_the_last_update():
    net, same = network(), trainer(epochs=1)
    with pytest.raises(TrainingError, match=r"in epoch 1, after 6 updates: MemoryError. The model has the weights of the last update"):
        trainer(net, Fails(MemoryError(), 1)).run()
    same.run()
    assert_same_bits(net.weights(), same.network.weights())


def test_running_out_of_memory_in_an_update(monkeypatch):
    one, net = trainer(epochs=2), network()
    one.run()
    train = net.differentiate
    monkeypatch.setattr(net, "differentiate", lambda *arguments: train(*arguments) if fails() else None)
    fails = Fails(MemoryError("no memory"), 2 * BATCHES + 2)  # one more call compiles
    with pytest.raises(TrainingError, match=f"training failed in epoch 3, after {2 * BATCHES} updates: no memory. The model has the weights of"):
        trainer(net, epochs=3).run()
    assert_same_bits(net.weights(), one.network.weights())


def test_running_out_of_memory_before_the_first_update_raises_memory_error(monkeypatch):
    net = network()
    train = net.differentiate
    monkeypatch.setattr(net, "differentiate", lambda *arguments: train(*arguments) if fails() else None)
    fails = Fails(MemoryError("no memory"), 2)
    with pytest.raises(MemoryError, match="no memory"):
        trainer(net).run()


# Divergence


@pytest.mark.parametrize("value", [nan, inf])
@pytest.mark.parametrize(("update", "epoch", "kept"), [(1, 1, "before the training"), (9, 2, "the best epoch so far")])
def test_a_loss_that_is_not_finite_restores_the_last_good_weights(handler, monkeypatch, update, epoch, kept, value):
    net = network()
    judge = Judge(net, [1.0, 0.5])
    start = net.weights()
    one = trainer(net, judge, learning_rate=0.25)
    spoil(monkeypatch, net, {update: value})
    with pytest.raises(DivergenceError) as caught:
        one.run()
    assert str(caught.value) == (
        f"training diverged in epoch {epoch}, after {update - 1} updates: the loss is not finite. The weights of "
        f"{kept} are restored. Try a learning rate below 0.25, gradient clipping (clip_norm=1), or not_finite='skip'."
    )
    assert_same_bits(net.weights(), judge.seen[0] if judge.seen else start)
    assert len(one.history["epoch"]) == epoch - 1


def test_the_best_weights_are_the_good_ones_not_the_last(monkeypatch):
    net = network()
    judge = Judge(net, [1.0, 2.0])
    spoil(monkeypatch, net, {2 * BATCHES + 3: nan})
    with pytest.raises(DivergenceError):
        trainer(net, judge).run()
    assert_same_bits(net.weights(), judge.seen[0])


def test_without_validation_the_best_epoch_is_that_with_the_lowest_training_loss(monkeypatch):
    net, want = network(), trainer(epochs=1)
    want.run()
    spoil(monkeypatch, net, {BATCHES + 3: 1e6, 2 * BATCHES + 3: nan})
    with pytest.raises(DivergenceError, match="The weights of the best epoch so far are restored"):
        trainer(net).run()
    assert_same_bits(net.weights(), want.network.weights())


def test_a_gradient_that_is_not_finite(monkeypatch):
    one = trainer()
    before = one.network.weights()
    monkeypatch.setattr(one.network.ops, "norm", lambda x: inf)
    with pytest.raises(DivergenceError, match="after 0 updates: the gradient is not finite"):
        one.run()
    assert_same_bits(one.network.weights(), before)


def test_a_weight_that_the_last_update_made_infinite(monkeypatch):
    one = trainer(epochs=1)
    before, update, calls = one.network.weights(), one.updater.update, count(1)

    def overflowing(rate):
        norm = update(rate)
        if next(calls) == BATCHES:
            one.network.parameters["dense/W"][0, 0] = inf
        return norm

    monkeypatch.setattr(one.updater, "update", overflowing)
    with pytest.raises(DivergenceError, match=f"epoch 1, after {BATCHES} updates: weight '.*' is not finite"):
        one.run()
    assert_same_bits(one.network.weights(), before)


def test_a_validation_that_is_not_finite():
    net = network()
    judge = Judge(net, [1.0, nan])
    with pytest.raises(DivergenceError, match=r"in epoch 2, .*: the validation loss is not finite"):
        trainer(net, judge).run()
    assert_same_bits(net.weights(), judge.seen[0])


@pytest.mark.filterwarnings("error")
def test_a_learning_rate_that_is_far_too_high():
    model = fit(untrained(cell="relu"), epochs=1)
    before, good = model.network_.weights(), model.perplexity("to be\n")
    with pytest.raises(DivergenceError, match="Try a learning rate below 1,000,000, gradient clipping"):
        fit(model, epochs=5, optimizer="sgd", learning_rate=1e6, clip_norm=0)
    assert_same_bits(model.network_.weights(), before)
    assert model.perplexity("to be\n") == good


# Output


def test_a_silent_training_prints_nothing(capsys):
    trainer(verbose=0).run()
    assert capsys.readouterr() == ("", "")


def test_one_line_per_epoch(capsys, clock):
    one = trainer(verbose=2, epochs=2)
    one.run()
    first, second = capsys.readouterr().out.splitlines()
    loss = one.history["loss"][1]
    assert first.startswith("epoch 1/2  loss ")
    assert second.startswith(f"epoch 2/2  loss {loss:.4f}  perplexity {exp(loss):.2f}  ")


def test_the_progress_line_within_an_epoch(monkeypatch, clock):
    shown = []
    monkeypatch.setattr(Progress, "due", lambda self: True)
    monkeypatch.setattr(Progress, "show", lambda self, text: shown.append(text))

    def read():
        for batch in batches():
            clock.seconds += 10
            yield batch

    trainer(read=read, epochs=2).run()
    assert len(shown) == 2 * BATCHES
    assert shown[2].startswith("epoch 1/2   50%  loss ")
    assert shown[2].endswith("  1 tokens/s  1:30 left")  # 3 of 12 batches of 8 tokens took 30 seconds
    assert shown[-1].endswith("0:00 left")

    shown.clear()
    trainer(read=read, epochs=2, max_seconds=60).run()
    assert shown[1].endswith("0:40 left")


def test_perplexity_is_infinite_where_it_overflows():
    assert perplexity(log(10)) == pytest.approx(10)
    assert perplexity(1e4) == inf


# Memory


@pytest.fixture
def container(tmp_path, monkeypatch):
    """Set a container's memory limit in bytes."""

    def limit(count):
        path = tmp_path / "memory.max"
        path.write_text(f"{count}\n")
        monkeypatch.setattr(memory, "CONTAINER_LIMITS", (str(tmp_path / "none"), str(path)))

    return limit


def test_a_training_that_does_not_fit_into_memory_is_refused(container):
    size = network().graph.layout.size
    for optimizer, copies in (("sgd", 3), ("adam", 5)):
        model = LanguageModel("tanh", hidden=8, layers=1, embedding=4, vocabulary_size=V, tokenizer=None)
        container(4 * copies * size)
        with pytest.raises(ConfigError, match=rf"this training \({copies} times the 0\.0 million weights, and the activations of 2 "
                                              rf"streams × 4 steps\) would take 0\.0 GB, this machine has 0\.0 GB; reduce the streams"):
            model.fit(IDS, streams=N, steps=T, epochs=1, optimizer=optimizer, verbose=0)
        container("max")
        model.fit(IDS, streams=N, steps=T, epochs=1, optimizer=optimizer, verbose=0)


def test_a_training_that_only_a_larger_computer_could_hold(container):
    container(8 * 10**9)
    model = LanguageModel(hidden=10_000, layers=2, tokenizer=None, vocabulary_size=100)
    with pytest.raises(ConfigError, match=r"would take .* GB, this machine has 8\.0 GB; reduce the"):
        model.fit(np.arange(100), streams=1, steps=5, verbose=0)


# Optimisers as objects

@dataclass(frozen=True)
class Own(Optimizer):
    """Plain SGD under another name."""

    @property
    def rule(self):
        return rules.SGD

    def hyper(self, step, rate):
        return (1.0, 0.0, rate)


def fitted(path=None, **options):
    model = LanguageModel(hidden=5, layers=1, embedding=3, seed=2, backend="cpu")
    settings = {"epochs": 2, "streams": 3, "steps": 7, "verbose": 0, "checkpoint": path} | options
    return model.fit("to be or not to be\n" * 8, **settings)


def test_optimizer_objects_equal_optimizers_by_name():
    for name, numbers, options in (
        ("adam", {"clip_norm": 1.0}, {}), ("sgd", {"momentum": 0.5, "clip_norm": 1.0}, {"momentum": 0.5}),
        ("adamw", {"weight_decay": 0.1, "clip_value": 0.2, "clip_norm": 0.0}, {"weight_decay": 0.1, "clip_value": 0.2, "clip_norm": 0}),
    ):
        one = fitted(optimizer=pytorch.OPTIMIZERS[name](learning_rate=0.05, **numbers))
        other = fitted(optimizer=name, learning_rate=0.05, **options)
        assert_same_bits(one.network_.weights(), other.network_.weights())
    assert_same_bits(fitted(optimizer=Own(0.5)).network_.weights(), fitted(optimizer="sgd", learning_rate=0.5, clip_norm=0).network_.weights())


@pytest.mark.parametrize("optimizer", [optimizers.Adam(0.01, clipnorm=0.1), optimizers.Lion(0.01), Own(0.5)], ids=lambda one: type(one).__name__)
def test_a_run_with_an_optimizer_object_is_resumed(optimizer, tmp_path):
    path = tmp_path / "run.npz"
    whole = fitted(optimizer=optimizer, epochs=4)

    def stop(trainer, *batch, step=loop.Trainer._step):
        if trainer.at.epoch == 3:
            raise KeyboardInterrupt
        step(trainer, *batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Trainer, "_step", stop)
        with pytest.raises(KeyboardInterrupt):
            fitted(path, optimizer=optimizer, epochs=4, checkpoint_every="0.000001s")
    other = replace(optimizer, learning_rate=0.02)
    with pytest.raises(ConfigError, match=r"optimizer\['learning_rate'\] is 0.02, but the run in .* has .*; a run continues with the settings"):
        fitted(path, optimizer=other, epochs=4, resume=path)
    again = fitted(path, optimizer=optimizer, epochs=4, resume=path)
    assert_same_bits(again.network_.weights(), whole.network_.weights())


def test_a_run_with_a_custom_optimizer_needs_its_class(tmp_path):
    config = TrainingConfig(optimizer=optimizers.describe(Own(0.5)))
    with pytest.raises(ModelFileError, match=r"the optimizer is 'Own', a custom class, .*; give it in Python: fit\(\.\.\., optimizer="):
        make_optimizer(config, "lstm")


@pytest.mark.parametrize("name", ["learning_rate", "momentum", "weight_decay", "clip_norm", "clip_value"])
def test_hyperparameters_beside_an_optimizer_object_are_refused(name):
    with pytest.raises(ConfigError, match=rf"{name} is 0.5 beside an optimizer that is an object; give it to the object\."):
        fitted(optimizer=Own(0.5), **{name: 0.5})


@dataclass(frozen=True)
class Faulty(Own):
    """Own, with one wrong attribute or result."""

    fault: str = ""

    @property
    def rule(self):
        return "sgd" if self.fault == "rule" else super().rule

    @property
    def limits(self):
        return {"limits": (1, 2, 3), "negative": optimizers.Limits(whole=-1.0)}.get(self.fault, super().limits)

    def hyper(self, step, rate):
        return {"few": (1.0, 0.0), "many": (1.0, 0.0, rate, 1.0), "none": None, "text": (1.0, 0.0, "1")}.get(self.fault, super().hyper(step, rate))


@pytest.mark.parametrize(("fault", "message"), [
    *((fault, "Faulty.hyper gave .*, expected 3 numbers: shrink, decay, rate") for fault in ("few", "many", "none", "text")),
    ("rule", "Faulty.rule is 'sgd', expected one of numba_rnnlm.rules"), ("limits", r"Faulty.limits is \(1, 2, 3\), expected"),
    ("negative", "whole is -1.0, expected a number"),
])  # fmt: skip
def test_custom_optimizers_are_checked(fault, message):
    with pytest.raises(ConfigError, match=message):
        fitted(optimizer=Faulty(0.5, fault=fault))
    model = Sequential([Embedding(3, 2), LSTM(2), Dense(3, "softmax")])
    with pytest.raises(ConfigError, match=message):
        model.compile(Faulty(0.5, fault=fault), "sparse_categorical_crossentropy")


@pytest.mark.parametrize("optimizer", [{"class_name": "Adam"}, "ADAM", None, optimizers.Adam])
def test_other_objects_than_optimizers_are_refused(optimizer):
    with pytest.raises(ConfigError, match=r"optimizer is .*, expected one of 'sgd', 'rmsprop'"):
        fitted(optimizer=optimizer)


@pytest.mark.parametrize("told", [{"class": "foo"}, {"class": "adam", "wrong": 1}, {"class": "adam", "beta_1": 3}])
def test_a_run_with_an_unknown_optimizer_is_damaged(told, tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "_train", lambda self: self._keep(first=True))
        fitted(path, optimizer=optimizers.Adam(0.1))
    edited = runs.read_run(path)
    edited.training["optimizer"] = told
    monkeypatch.setattr(runs, "read_run", lambda name: edited)
    config = TrainingConfig(**{**edited.training, "verbose": 0})
    with pytest.raises(ModelFileError, match=r"run.npz' is damaged: its parts do not fit together"):
        LanguageModel(hidden=5, layers=1, embedding=3, seed=2, backend="cpu").fit_config(
            "to be or not to be\n" * 8, None, config, CheckpointConfig(resume=str(path)))
