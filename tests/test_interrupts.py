"""Signals: the effect of the first and the second one, and what the handlers of the host program see."""

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
    """Check after each test that all handlers have been restored."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    after = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == before


@pytest.fixture
def host(monkeypatch):
    """Record the signals for which handlers of the host program are called."""
    called = []
    before = {number: signal.signal(number, lambda number, frame: called.append(number)) for number in SIGNALS}
    yield called
    for number, handler in before.items():
        signal.signal(number, handler)


@every_signal
def test_the_first_signal_is_recorded_and_then_has_its_usual_effect(number, host):
    with Interrupts() as found:
        found.wait()
        signal.raise_signal(number)
        assert (found.number, found.is_set(), host) == (number, True, [])
    assert host == [number]


@every_signal
def test_return_suppresses_the_usual_effect(number, host):
    with Interrupts("return") as found:
        found.wait()
        signal.raise_signal(number)
    assert found.is_set() and host == []


def test_without_a_signal_nothing_happens(host):
    with Interrupts() as found:
        pass
    assert not found.is_set() and host == []


@every_signal
@pytest.mark.parametrize("then", ["raise", "return"])
def test_before_wait_a_signal_stops_immediately(number, then, host):
    with pytest.raises(Interrupted) as caught, Interrupts(then):
        signal.raise_signal(number)
        raise AssertionError("the work continued")
    assert caught.value.number == number and host == [number] * (then == "raise")


@pytest.mark.parametrize("second", SIGNALS[:2])
def test_the_second_signal_stops_immediately(second, host):
    with pytest.raises(Interrupted) as caught, Interrupts() as found:
        found.wait()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(second)
        raise AssertionError("the work continued")
    assert caught.value.number == second and host == [signal.SIGTERM]


def test_ctrl_c_finally_raises_keyboard_interrupt():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for waiting in (False, True):
        with pytest.raises(KeyboardInterrupt), Interrupts() as found:
            if waiting:
                found.wait()
            signal.raise_signal(signal.SIGINT)


def test_when_entered_again_only_the_outer_exit_ends_it(host):
    with Interrupts() as found:
        with found:
            found.wait()
            signal.raise_signal(signal.SIGTERM)
        assert host == []
    assert host == [signal.SIGTERM]


def test_nested_interrupts_pass_the_signal_on(host):
    with Interrupts() as outer:
        outer.wait()
        with Interrupts() as inner:
            inner.wait()
            signal.raise_signal(signal.SIGTERM)
            assert not outer.is_set()
        assert outer.is_set() and host == []
    assert host == [signal.SIGTERM]


@every_signal
def test_ignored_signals_remain_ignored(number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with Interrupts() as found:
            assert signal.getsignal(number) is signal.SIG_IGN
            signal.raise_signal(number)
        assert not found.is_set()
    finally:
        signal.signal(number, before)


def test_a_handler_set_in_c_is_not_replaced(tmp_path):
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
            assert "test_a_handler_set_in_c" in file.read()
        finally:
            faulthandler.unregister(number)


def test_a_handler_in_c_that_replaced_one_in_python_is_not_replaced(host, tmp_path):
    number = signal.SIGUSR1
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # so that Python's own C handler becomes known
    with open(tmp_path / "stacks", "w") as file:
        faulthandler.register(number, file)
        try:
            before = interrupts._c_handler(number)
            with Interrupts():
                assert interrupts._c_handler(number) == before
        finally:
            faulthandler.unregister(number)
            signal.signal(signal.SIGTERM, lambda number, frame: None)


def test_a_handler_unknown_to_python_is_not_replaced(monkeypatch):
    """signal.getsignal returns None for a handler that was set before Python started."""
    asked = signal.getsignal
    monkeypatch.setattr(signal, "getsignal", lambda number: None if number == signal.SIGTERM else asked(number))
    mine = asked(signal.SIGTERM)
    with Interrupts():
        assert asked(signal.SIGTERM) is mine and asked(signal.SIGINT) is not mine


def test_other_threads_do_not_replace_handlers(host):
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


def test_the_notice_is_printed_once(host, capfd):
    with Interrupts("return", notice=True) as found:
        found.wait()
        signal.raise_signal(signal.SIGTERM)
    assert capfd.readouterr().err == interrupts.NOTICE.decode()


def test_on_interrupt_must_be_raise_or_return():
    with pytest.raises(ConfigError) as caught:
        fit(untrained(), on_interrupt="stop")
    assert str(caught.value) == "on_interrupt is 'stop', expected one of 'raise', 'return'."


# The compiler


def compiled_here():
    """A kernel that this process has neither compiled nor loaded yet."""

    @kernel(entry=True)
    def halved(x):
        for i in range(len(x)):
            x[i] *= np.float32(0.5)

    return halved


class Signalling:
    """Raises signals within the ``with``, at the calls of Python functions with these numbers, or in functions of these names."""

    def __init__(self, moments=(), names=(), numbers=(signal.SIGINT,)):
        self.moments, self.names, self.numbers, self.calls, self.sent = moments, names, numbers, 0, 0

    def _called(self, frame, event, argument):
        if event == "call" and frame.f_code is not Signalling.__exit__.__code__:
            self.calls += 1
            if self.calls in self.moments or frame.f_code.co_name in self.names:
                self.sent += 1
                for number in self.numbers:
                    signal.raise_signal(number)

    def __enter__(self):
        sys.setprofile(self._called)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A kernel cache of its own."""
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    store = Store("cpu-0")
    monkeypatch.setattr(kernels, "store", lambda: store)
    return store


def test_a_signal_during_compilation_is_raised_when_the_kernel_is_ready(stored):
    """LLVM calls Python for the code that it has compiled and that is cached. Numba and ctypes ignore exceptions that a handler raises there."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for _ in ("compiled", "loaded"):
        run, x = compiled_here(), np.ones(3, np.float32)
        with pytest.raises(KeyboardInterrupt), Signalling(names={"_raw_object_cache_notify", "_raw_object_cache_getbuffer"}) as signals:
            run(x)
        assert signals.sent and x.tolist() == [1, 1, 1]
        run(x)
        assert x.tolist() == [0.5, 0.5, 0.5]
        assert len(list(stored.writable.iterdir())) == 1


@pytest.mark.parametrize("how", ["compiled", "loaded"])
def test_a_signal_at_any_moment_of_compilation(how, stored):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    drawn, calls, raised = random.Random(how), [], 0
    for _ in range(3 + 12 * ROUNDS):
        run, x = compiled_here(), np.ones(3, np.float32)
        moments = {drawn.randrange(1, calls[2])} if len(calls) > 2 else ()  # the first runs initialise Numba and fill the cache
        try:
            with Signalling(moments) as signals:
                run(x)
        except KeyboardInterrupt:
            raised += 1
        else:
            assert not signals.sent
        calls.append(signals.calls)
        run(x)
        assert x.tolist() in ([0.5] * 3, [0.25] * 3)
        if how == "compiled":
            shutil.rmtree(stored.writable)
    assert raised > 6 * ROUNDS, calls


def test_signals_during_compilation_are_raised_in_order(host, stored):
    run, x = compiled_here(), np.ones(1, np.float32)
    with Signalling(names={"_raw_object_cache_notify"}, numbers=SIGNALS) as signals:
        run(x)
    assert host == SIGNALS * signals.sent and x == 0.5


def test_all_handlers_are_restored_even_if_one_raises(monkeypatch):
    """The first handler that is restored may raise before the others are restored."""
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


def test_an_exception_that_was_lost_is_raised_by_wait():
    with pytest.raises(Interrupted), Interrupts("return") as found:
        with contextlib.suppress(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        found.wait()


@pytest.mark.parametrize("logged", [True, False])
def test_a_log_message_explains_why_ctrl_c_waits_for_the_compiler(logged, caplog):
    notice = Notice()
    notice._told = logged
    with notice.around(Store("cpu-0")):
        notice.postpone()
        notice.postpone()
    notice.postpone()
    assert caplog.messages == ["numba_rnnlm: interrupted: ending when the compiler has completed this kernel"] * logged


# fit


@every_signal
def test_an_interrupted_fit_keeps_its_progress_and_calls_the_hosts_handler(number, host, monkeypatch):
    step, model = Trainer._step, untrained()

    def interrupted(self, *arguments):
        step(self, *arguments)
        if self.at.epoch == 2:
            signal.raise_signal(number)
            assert host == []

    monkeypatch.setattr(Trainer, "_step", interrupted)
    assert fit(model, epochs=9) is model and host == [number]
    assert model.history_["epoch"] == [1, 1.2] and len(model.generate("to", 5)) == 5


def test_ctrl_c_ends_a_loop_of_trainings(monkeypatch):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    step, models = Trainer._step, []
    monkeypatch.setattr(Trainer, "_step", lambda self, *arguments: (step(self, *arguments), signal.raise_signal(signal.SIGINT)))
    with pytest.raises(KeyboardInterrupt):
        for seed in range(3):
            models.append(untrained(seed=seed))
            fit(models[-1], epochs=9)
    (model,) = models
    assert model.history_["epoch"] == [0.2]


def test_a_signal_while_reading_the_text_stops_immediately(host, monkeypatch, tmp_path):
    monkeypatch.setattr("numba_rnnlm.language_model.fitting.learn_tokenizer", lambda *arguments: signal.raise_signal(signal.SIGTERM))
    model = untrained()
    with pytest.raises(Interrupted):
        fit(model, checkpoint=tmp_path / "run.npz")
    assert host == [signal.SIGTERM] and model.tokenizer_ is None and not os.listdir(tmp_path)


def test_a_signal_from_another_process_at_any_time(host):
    """Like a signal from a scheduler."""
    model = untrained()
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM))
    began = time.monotonic()
    timer.start()
    try:
        fit(model, LINES * 8, epochs=100_000)
    except Interrupted:  # the signal came before training began
        assert time.monotonic() - began >= 0.05
    timer.join()
    assert host == [signal.SIGTERM]
