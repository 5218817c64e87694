"""Progress reports of long operations."""

import io
import os
import shutil
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numba_rnnlm import progress
from numba_rnnlm.progress import EVERY, PLAIN_EVERY, Progress, duration

CLEAR = "\r\x1b[K"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


@given(st.integers(0, 10**6))
def test_duration_can_be_parsed_back(seconds):
    parts = [int(part) for part in duration(seconds).split(":")]
    assert all(part < 60 for part in parts[1:])
    assert sum(part * 60**power for power, part in enumerate(reversed(parts))) == seconds


def test_duration_rounds_and_is_never_negative():
    assert (duration(59.4), duration(59.6), duration(-3)) == ("0:59", "1:00", "0:00")


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_silent(stream, clock):
    shown = Progress(0, stream())
    clock.seconds = 1e6
    assert not shown.due()
    shown.show("epoch 1")
    shown.line("done")
    assert shown.stream.getvalue() == ""


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_only_permanent_lines(stream, clock):
    shown = Progress(2, stream())
    clock.seconds = 1e6
    assert not shown.due()
    shown.show("epoch 1, half of it")
    shown.line("epoch 1")
    assert shown.stream.getvalue() == "epoch 1\n"


def test_a_live_line_is_replaced_and_then_erased(monkeypatch):
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((10, 24)))
    shown = Progress(1, Terminal())
    shown.line("start")
    shown.show("one")
    shown.show("0123456789 does not fit")
    shown.line("end")
    shown.line("more")
    assert shown.stream.getvalue() == f"start\n{CLEAR}one{CLEAR}012345678{CLEAR}end\nmore\n"


def test_without_a_terminal_lines_are_plain():
    shown = Progress(1, io.StringIO())
    shown.show("one")
    shown.line("end")
    assert shown.stream.getvalue() == "one\nend\n"


@pytest.mark.parametrize(("stream", "wait"), [(Terminal, EVERY), (io.StringIO, PLAIN_EVERY)])
def test_updates_are_due_at_intervals(stream, wait, clock):
    shown = Progress(1, stream())
    for tell in (shown.show, shown.line):
        assert not shown.due()
        clock.seconds += wait * 0.9
        assert not shown.due()
        clock.seconds += wait * 0.2
        assert shown.due()
        tell("x")


def test_standard_output_is_the_default(capsys):
    Progress(1).line("here")
    assert capsys.readouterr().out == "here\n"
