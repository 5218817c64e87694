"""A report that cannot be written never ends the work that it is about."""

import errno
import io
import os
import sys
import warnings

import numpy as np
import pytest
from models import fit, untrained

from numba_rnnlm import Sequential, reports
from numba_rnnlm.callbacks import EarlyStopping, ModelCheckpoint
from numba_rnnlm.layers import LSTM, Dense, Embedding
from numba_rnnlm.progress import Progress
from numba_rnnlm.reports import is_stuck, is_terminal, put, report, warn


class OnlyWrite:
    """A replacement for standard output such as some host programs install."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text


class Broken(io.StringIO):
    """A stream whose methods all raise."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def _fail(self, *arguments):
        raise self.error

    write = flush = isatty = fileno = _fail


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


FAILING = {
    "none": (lambda: None, "it is closed"),
    "closed": (closed, "I/O operation on closed file"),
    "full": (lambda: Broken(OSError(errno.ENOSPC, "No space left on device")), "No space left on device"),
    "hung up": (lambda: Broken(OSError(errno.EIO, "Input/output error")), "Input/output error"),
    "gone": (lambda: Broken(BrokenPipeError(errno.EPIPE, "Broken pipe")), "Broken pipe"),
    "would block": (lambda: Broken(BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")), "Resource temporarily unavailable"),
    "a widget of the host": (lambda: Broken(RuntimeError("")), "RuntimeError"),
    "no stream": (object, "'object' object has no attribute 'write'"),
    "characters": (lambda: io.TextIOWrapper(io.BytesIO(), "ascii"), "'ascii' codec can't encode"),
}
failing = pytest.mark.parametrize(("stream", "reason"), FAILING.values(), ids=FAILING)


@failing
def test_the_other_stream_gets_one_message(stream, reason, monkeypatch):
    monkeypatch.setattr(reports, "_failed", ())
    err = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream())
    monkeypatch.setattr(sys, "stderr", err)
    for _ in range(3):
        report("épsilon\n")
    text = err.getvalue()
    assert text.startswith("numba_rnnlm: cannot write reports to standard output (" + reason) and text.count("\n") == 1


@failing
@pytest.mark.parametrize("verbose", [0, 1, 2])
def test_fit_continues(stream, reason, verbose, monkeypatch):
    monkeypatch.setattr(sys, "stdout", stream())
    monkeypatch.setattr(sys, "stderr", stream())
    want = fit(untrained(), verbose=0).network_.weights()
    model = fit(untrained(), verbose=verbose)
    for name, array in model.network_.weights().items():
        np.testing.assert_array_equal(array, want[name])


@failing
def test_a_sequential_model_with_callbacks_continues(stream, reason, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "stdout", stream())
    monkeypatch.setattr(sys, "stderr", stream())
    model = Sequential([Embedding(5, 4), LSTM(3), Dense(5, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    x = np.arange(20).reshape(10, 2) % 5
    watching = [EarlyStopping("loss", patience=1, min_delta=9, verbose=1), ModelCheckpoint(tmp_path / "m.npz", verbose=1)]
    assert model.fit(x, x[:, 0], epochs=3, callbacks=watching).epoch == [0, 1]
    model.evaluate(x, x[:, 0], verbose=1)
    model.predict(x, verbose=1)
    assert (tmp_path / "m.npz").exists()


def test_an_object_with_only_a_write_method_gets_all_reports(monkeypatch):
    stream = OnlyWrite()
    monkeypatch.setattr(sys, "stdout", stream)
    fit(untrained(), verbose=2)
    assert stream.text.startswith("optimizer adam") and "\nepoch 2/2  loss " in stream.text


def test_a_stream_that_recovers_gets_the_rest(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    shown = Progress(2)
    write, shown.stream.write = stream.write, Broken(OSError(errno.ENOSPC, "full"))._fail
    shown.line("one")
    shown.stream.write = write
    shown.line("two")
    assert stream.getvalue() == "two\n"


def test_broken_streams_are_not_terminals():
    for make, _ in FAILING.values():
        assert is_terminal(make()) is False
    assert is_terminal(OnlyWrite()) is False


@failing
def test_a_warning_that_cannot_be_shown_becomes_a_report(stream, reason, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream())
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *rest: sys.stderr.write(f"warning: {message}\n")  # like Python's own showwarning, in place of pytest's
        warn("something")
        fit(untrained(), streams=50)
    assert reason == FAILING["characters"][1] or "numba_rnnlm: warning: something (it could not be shown as a warning: " in sys.stdout.getvalue()


def test_a_warning_turned_into_an_error_is_raised():
    with warnings.catch_warnings(), pytest.raises(UserWarning, match="something"):
        warnings.simplefilter("error")
        warn("something")


def test_a_pipe_that_is_full_is_stuck():
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with open(reading, "rb") as reader, open(writing, "w") as writer:
        assert not is_stuck(writer, 0) and put(writer, "a line\n", 0) == ""
        while not is_stuck(writer, 0):
            os.write(writing, bytes(4096))
        assert put(writer, "a line\n", 0) == "nobody reads it"
        os.set_blocking(reading, False)
        while reader.read(1 << 16):
            pass
        assert put(writer, "a line\n", 0) == ""
    assert not is_stuck(io.StringIO(), 0) and not is_stuck(None, 0)
