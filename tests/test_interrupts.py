"""Signals: what the first and the second one do, and what the host program has of them."""

import contextlib
import faulthandler
import os
import random
import shutil
import signal
import sys
import threading
import time

import numpy as np
import pytest
from checks import ROUNDS
from models import LINES, fit, untrained
from numba import config

from numba_rnnlm import interrupts
from numba_rnnlm.backends.cache import Store
from numba_rnnlm.backends.compiling import Notice
from numba_rnnlm.backends.cpu import kernels
from numba_rnnlm.backends.cpu.kernels import kernel
from numba_rnnlm.errors import ConfigError
from numba_rnnlm.interrupts import NAMES, Interrupted, Interrupts
from numba_rnnlm.training.loop import Trainer

SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
every_signal = pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)


@pytest.fixture(autouse=True)
def _handlers():
    """After each test all handlers are as they were."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    after = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == before


@pytest.fixture
def host(monkeypatch):
    """The signals that handlers of the host program have been called with."""
    called = []
    before = {number: signal.signal(number, lambda number, frame: called.append(number)) for number in SIGNALS}
    yield called
    for number, handler in before.items():
        signal.signal(number, handler)


@every_signal
def test_the_first_signal_is_noted_and_then_has_its_consequence(number, host):
    with Interrupts() as found:
        found.wait()
        signal.raise_signal(number)
        assert (found.number, found.is_set(), host) == (number, True, [])
    assert host == [number]


@every_signal
def test_it_may_be_asked_to_return(number, host):
    with Interrupts("return") as found:
        found.wait()
        signal.raise_signal(number)
    assert found.is_set() and host == []


def test_without_a_signal_nothing_follows(host):
    with Interrupts() as found:
        pass
    assert not found.is_set() and host == []


@every_signal
@pytest.mark.parametrize("then", ["raise", "return"])
def test_before_there_is_anything_to_lose_it_stops_at_once(number, then, host):
    with pytest.raises(Interrupted) as caught, Interrupts(then):
        signal.raise_signal(number)
        raise AssertionError("it went on")
    assert caught.value.number == number and host == [number] * (then == "raise")


@pytest.mark.parametrize("second", SIGNALS[:2])
def test_the_second_signal_stops_at_once(second, host):
    with pytest.raises(Interrupted) as caught, Interrupts() as found:
        found.wait()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(second)
        raise AssertionError("it went on")
    assert caught.value.number == second and host == [signal.SIGTERM]


def test_ctrl_c_is_a_keyboard_interrupt_in_the_end():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for waiting in (False, True):
        with pytest.raises(KeyboardInterrupt), Interrupts() as found:
            if waiting:
                found.wait()
            signal.raise_signal(signal.SIGINT)


def test_entered_again_it_is_the_outer_one_that_ends_it(host):
    with Interrupts() as found:
        with found:
            found.wait()
            signal.raise_signal(signal.SIGTERM)
        assert host == []
    assert host == [signal.SIGTERM]


def test_one_within_another_hands_the_signal_on(host):
    with Interrupts() as outer:
        outer.wait()
        with Interrupts() as inner:
            inner.wait()
            signal.raise_signal(signal.SIGTERM)
            assert not outer.is_set()
        assert outer.is_set() and host == []
    assert host == [signal.SIGTERM]


@every_signal
def test_what_is_ignored_stays_ignored(number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with Interrupts() as found:
            assert signal.getsignal(number) is signal.SIG_IGN
            signal.raise_signal(number)
        assert not found.is_set()
    finally:
        signal.signal(number, before)


def test_a_handler_that_was_set_in_c_is_left_alone(tmp_path):
    """Python believes that the signal has its default action."""
    number = signal.SIGUSR1
    assert signal.getsignal(number) == signal.SIG_DFL
    with open(tmp_path / "stacks", "w+") as file:
        faulthandler.register(number, file)
        try:
            before = interrupts._c_handler(number)
            with Interrupts() as found:
                assert interrupts._c_handler(number) == before
                signal.raise_signal(number)
            assert interrupts._c_handler(number) == before and not found.is_set()
            file.seek(0)
            assert "test_a_handler_that_was_set_in_c" in file.read()
        finally:
            faulthandler.unregister(number)


def test_a_handler_in_c_that_has_replaced_one_of_python_is_left_alone(host, tmp_path):
    number = signal.SIGUSR1
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # by which Python's own handler is known
    with open(tmp_path / "stacks", "w") as file:
        faulthandler.register(number, file)
        try:
            before = interrupts._c_handler(number)
            with Interrupts():
                assert interrupts._c_handler(number) == before
        finally:
            faulthandler.unregister(number)
            signal.signal(signal.SIGTERM, lambda number, frame: None)


def test_a_handler_that_python_does_not_know_is_left_alone(monkeypatch):
    """So signal.getsignal tells of one that was there before Python."""
    asked = signal.getsignal
    monkeypatch.setattr(signal, "getsignal", lambda number: None if number == signal.SIGTERM else asked(number))
    mine = asked(signal.SIGTERM)
    with Interrupts():
        assert asked(signal.SIGTERM) is mine and asked(signal.SIGINT) is not mine


def test_in_another_thread_signals_are_left_alone(host):
    found = []

    def work():
        with Interrupts() as one:
            found.append((one.is_set(), signal.getsignal(signal.SIGTERM)))

    mine = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(False, mine)]


@pytest.mark.parametrize("stream", [None, "closed", object()], ids=["none", "closed", "object"])
def test_the_notice_never_raises(stream, host, monkeypatch, tmp_path):
    if stream == "closed":
        stream = open(tmp_path / "closed", "w")  # noqa: SIM115
        stream.close()
    monkeypatch.setattr("sys.stderr", stream)
    with Interrupts("return", notice=True) as found:
        found.wait()
        signal.raise_signal(signal.SIGTERM)
    assert found.is_set()


def test_the_notice_answers_once(host, capfd):
    with Interrupts("return", notice=True) as found:
        found.wait()
        signal.raise_signal(signal.SIGTERM)
    assert capfd.readouterr().err == interrupts.NOTICE.decode()


def test_other_words_than_raise_and_return():
    with pytest.raises(ConfigError) as caught:
        fit(untrained(), on_interrupt="stop")
    assert str(caught.value) == "on_interrupt is 'stop', expected one of 'raise', 'return'."


# The compiler


def compiled_here():
    """A kernel that this process has neither compiled nor loaded."""

    @kernel(entry=True)
    def halved(x):
        for i in range(len(x)):
            x[i] *= np.float32(0.5)

    return halved


class Signalling:
    """Within ``with``, signals come at these calls of Python functions, or in functions of these names."""

    def __init__(self, moments=(), names=(), numbers=(signal.SIGINT,)):
        self.moments, self.names, self.numbers, self.calls, self.came = moments, names, numbers, 0, 0

    def _called(self, frame, event, argument):
        if event == "call" and frame.f_code is not Signalling.__exit__.__code__:
            self.calls += 1
            if self.calls in self.moments or frame.f_code.co_name in self.names:
                self.came += 1
                for number in self.numbers:
                    signal.raise_signal(number)

    def __enter__(self):
        sys.setprofile(self._called)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A store of its own."""
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    store = Store("cpu-0")
    monkeypatch.setattr(kernels, "store", lambda: store)
    return store


def test_a_signal_in_the_compiler_is_raised_when_the_kernel_is_ready(stored):
    """LLVM calls Python for what it has compiled and for what is stored. Numba and ctypes ignore what a handler raises there."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for _ in ("compiled", "loaded"):
        run, x = compiled_here(), np.ones(3, np.float32)
        with pytest.raises(KeyboardInterrupt), Signalling(names={"_raw_object_cache_notify", "_raw_object_cache_getbuffer"}) as signals:
            run(x)
        assert signals.came and x.tolist() == [1, 1, 1]
        run(x)
        assert x.tolist() == [0.5, 0.5, 0.5]
        assert len(list(stored.writable.iterdir())) == 1


@pytest.mark.parametrize("how", ["compiled", "loaded"])
def test_a_signal_at_any_moment_until_a_kernel_is_ready(how, stored):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    drawn, calls, raised = random.Random(how), [], 0
    for _ in range(3 + 12 * ROUNDS):
        run, x = compiled_here(), np.ones(3, np.float32)
        moments = {drawn.randrange(1, calls[2])} if len(calls) > 2 else ()  # the first ones prepare Numba, and fill the store
        try:
            with Signalling(moments) as signals:
                run(x)
        except KeyboardInterrupt:
            raised += 1
        else:
            assert not signals.came
        calls.append(signals.calls)
        run(x)
        assert x.tolist() in ([0.5] * 3, [0.25] * 3)
        if how == "compiled":
            shutil.rmtree(stored.writable)
    assert raised > 6 * ROUNDS, calls


def test_signals_in_the_compiler_come_in_their_order(host, stored):
    run, x = compiled_here(), np.ones(1, np.float32)
    with Signalling(names={"_raw_object_cache_notify"}, numbers=SIGNALS) as signals:
        run(x)
    assert host == SIGNALS * signals.came and x == 0.5


def test_a_handler_that_raises_leaves_no_other_in_place(monkeypatch):
    """The first that is put back may raise before the others are."""
    put, raised = signal.signal, []

    def signal_once_back(number, handler):
        before = put(number, handler)
        if handler is signal.default_int_handler and not raised:
            raised.append(number)
            signal.raise_signal(number)
        return before

    signal.signal(signal.SIGINT, signal.default_int_handler)
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(KeyboardInterrupt), interrupts.postponed(lambda: None):
        monkeypatch.setattr(signal, "signal", signal_once_back)
    assert raised and [signal.getsignal(number) for number in SIGNALS] == before


def test_what_was_raised_and_lost_is_raised_where_the_work_begins():
    with pytest.raises(Interrupted), Interrupts("return") as found:
        with contextlib.suppress(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        found.wait()


@pytest.mark.parametrize("told", [True, False])
def test_who_waits_for_the_compiler_is_told_why_ctrl_c_does_nothing_yet(told, caplog):
    notice = Notice()
    notice._told = told
    with notice.around(Store("cpu-0")):
        notice.postpone()
        notice.postpone()
    notice.postpone()
    assert caplog.messages == ["numba_rnnlm: interrupted: ending when the compiler has completed this kernel"] * told


# fit


@every_signal
def test_fit_keeps_what_it_has_learned_and_calls_the_hosts_handler(number, host, monkeypatch):
    step, model = Trainer._step, untrained()

    def interrupted(self, *arguments):
        step(self, *arguments)
        if self.at.epoch == 2:
            signal.raise_signal(number)
            assert host == []

    monkeypatch.setattr(Trainer, "_step", interrupted)
    assert fit(model, epochs=9) is model and host == [number]
    assert model.history_["epoch"] == [1, 1.2] and len(model.generate("to", 5)) == 5


def test_a_loop_over_settings_does_not_go_on_after_ctrl_c(monkeypatch):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    step, models = Trainer._step, []
    monkeypatch.setattr(Trainer, "_step", lambda self, *arguments: (step(self, *arguments), signal.raise_signal(signal.SIGINT)))
    with pytest.raises(KeyboardInterrupt):
        for seed in range(3):
            models.append(untrained(seed=seed))
            fit(models[-1], epochs=9)
    (model,) = models
    assert model.history_["epoch"] == [0.2]


def test_while_the_text_is_read_it_stops_at_once(host, monkeypatch, tmp_path):
    monkeypatch.setattr("numba_rnnlm.language_model.learn_tokenizer", lambda *arguments: signal.raise_signal(signal.SIGTERM))
    model = untrained()
    with pytest.raises(Interrupted):
        fit(model, checkpoint=tmp_path / "run.npz")
    assert host == [signal.SIGTERM] and model.tokenizer_ is None and not os.listdir(tmp_path)


def test_from_another_process_at_any_time(host):
    """As a scheduler sends it."""
    model = untrained()
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM))
    began = time.monotonic()
    timer.start()
    try:
        fit(model, LINES * 8, epochs=100_000)
    except Interrupted:  # it came before the training began
        assert time.monotonic() - began >= 0.05
    timer.join()
    assert host == [signal.SIGTERM]
