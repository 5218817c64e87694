"""Hypothesis profiles, the backends under test, and conditions on which a session fails although its tests have passed."""

import os
import signal
from pathlib import Path

import models
import needs
import pytest
import words
from hypothesis import settings
from hypothesis.database import DirectoryBasedExampleDatabase

from numba_rnnlm import backends, cells, interrupts
from numba_rnnlm.backends.compiling import notice
from numba_rnnlm.backends.cpu import team, threads

FOUND = os.environ.get("NUMBA_RNNLM_EXAMPLES") or Path.home() / ".cache" / "numba_rnnlm_examples"  # the failing examples of .ci/nightly

settings.register_profile("local", max_examples=20, deadline=None)  # the first call compiles a kernel
settings.register_profile("ci", settings.get_profile("local"), derandomize=True, database=None)
settings.register_profile("nightly", max_examples=500, deadline=None, derandomize=False, print_blob=True,
                          database=DirectoryBasedExampleDatabase(FOUND), suppress_health_check=())  # fmt: skip
settings.register_profile("simulated", max_examples=5, deadline=None, derandomize=True)
settings.load_profile("simulated" if backends.SIMULATED else "ci" if os.environ.get("CI") else "local")


def available_backends() -> list[tuple[str, str]]:
    """(backend, dtype) of all backends that run here; some support only one dtype."""
    only = {"reference": "float64", "cuda": "float32"}
    return [
        (name, dtype)
        for name in backends.available()
        for dtype in ("float32", "float64")
        if dtype == only.get(name, dtype)
    ]


@pytest.fixture(scope="session", params=available_backends(), ids="-".join)
def ops(request):
    """Every available backend, with every dtype that it supports."""
    name, dtype = request.param
    return backends.get(name, dtype, threads=2)


@pytest.fixture(scope="session", params=[each for each in available_backends() if each[0] != "reference"], ids="-".join)
def compiled(request):
    """Every backend other than the reference, to be compared with it."""
    name, dtype = request.param
    return backends.get(name, dtype, threads=2)


@pytest.fixture(scope="session", params=["float32", "float64"])
def cpu(request):
    """The CPU backend, for tests of what only it guarantees."""
    return backends.get("cpu", request.param, threads=2)


@pytest.fixture(scope="module")
def every_thread():
    """Split even the smallest job among all threads, even if that is slower."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threads, "WORTHWHILE", 1)
        patch.setattr(team, "WINDOW", 1 << 60)
        for pool in threads.pools:
            pool.board[team.JUDGED] = 1 << 60
        yield


@pytest.fixture(scope="module", autouse=True)
def _left_as_it_was():
    yield
    assert set(cells.CELLS) == cells.BUILT_IN, "a test has registered a cell that others find"
    assert not (changed := models.changed()), f"a test has changed a model that others share: trained({changed[0]!r})"


def pytest_configure(config):
    config.option.loadscopereorder = False  # pytest-xdist would start with the longest files, whose processes compile the same kernels
    for name in interrupts.NAMES:  # they may be ignored, as in a background job or under nohup, and trainings do not replace ignored signals
        if signal.getsignal(number := getattr(signal, name, signal.SIGINT)) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    words.watch()
    notice.silence()  # it depends on the speed of the computer; tests with separate processes check it


_skipped: set[str] = set()


def pytest_runtest_logreport(report):
    if report.skipped:
        _skipped.add(report.longrepr[2].removeprefix("Skipped: "))


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Collect the records of a pytest-xdist worker that has ended."""
    words.add(getattr(node, "workeroutput", {}).get("words", []))


def pytest_sessionfinish(session, exitstatus):
    """Fail the session if a test was skipped for any reason but the known ones, or if all tests passed but some error of the library was never
    raised, or its message never read."""
    if worker := getattr(session.config, "workeroutput", None):
        worker["words"] = words.read()
        return
    everything = session.config.args == session.config.getini("testpaths") and not session.config.option.keyword
    if unexpected := _skipped - needs.REASONS:
        print("\nskipped for reasons that are not in needs.py:", *unexpected, sep="\n  ")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if exitstatus == 0 and everything and not backends.SIMULATED and (unread := words.unread()):
        print("\nno test reads the words of:", *unread, sep="\n  ")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
