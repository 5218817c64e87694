"""Faults of the environment at every point of a training: each leaves a model or a checkpoint, or comes before the training begins."""

import contextlib
import errno
import fcntl
import io
import os
import random
import signal
import sys
import traceback
from functools import partial
from pathlib import Path

import pytest
from checks import ROUNDS

from numba_rnnlm import LanguageModel
from numba_rnnlm.cli import main
from numba_rnnlm.interrupts import NAMES
from numba_rnnlm.storage import lock, writing
from numba_rnnlm.training.loop import Trainer

TRAININGS = 200 * ROUNDS  # with faults
ERRORS = [errno.ENOSPC, errno.EIO, errno.EPIPE, errno.EINTR, errno.EBADF]
SIGNALS = [int(getattr(signal, name)) for name in NAMES if hasattr(signal, name)]
TRAIN = ["train", "t.txt", "--valid", "v.txt", "--hidden", "6", "--layers", "1", "--embedding", "4", "--streams", "4", "--steps", "16",
         "--epochs", "2", "--backend", "cpu", "--threads", "1", "--verbose", "2", "--out", "m.npz"]
SAVING = ["--checkpoint", "run.npz", "--checkpoint-every", "1e-6"]  # after every update


class Faults:
    """Counts the requests of a training to the system, and makes one of them fail, or all from that one on. It counts requests to the
    standard streams and to the disk separately."""

    def __init__(self, number=-1, code=errno.ENOSPC, for_good=False):
        self.number, self.code, self.for_good, self.seen = number, code, for_good, []

    def __call__(self, name, act, *arguments, **options):
        place = len(self.seen)
        self.seen.append(name)
        if self.for_good and place > self.number >= 0:
            fails = name.startswith("std") == self.seen[self.number].startswith("std")
        else:
            fails = place == self.number
        if fails:
            if self.code == errno.EBADF and "std" in name:
                raise ValueError("I/O operation on closed file.")
            raise OSError(self.code, os.strerror(self.code))
        return act(*arguments, **options)


class File:
    """A file or a stream whose writes may fail."""

    def __init__(self, file, faults, name):
        self._file, self._faults, self._name = file, faults, name

    def write(self, data):
        return self._faults(f"{self._name}.write", self._file.write, data)

    def flush(self):
        return self._faults(f"{self._name}.flush", self._file.flush)

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()


@contextlib.contextmanager
def failing(faults):
    """Inject faults into everything that the library writes through."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("open", "fsync", "replace", "unlink", "posix_fallocate", "fchmod"):
            act = getattr(os, name) if name != "fsync" else os.fstat  # which is fast
            patch.setattr(os, name, partial(faults, name, act))
        patch.setattr(fcntl, "flock", partial(faults, "flock", fcntl.flock))
        for module in (writing, lock):
            patch.setattr(module, "open", lambda *arguments: File(open(*arguments), faults, "file"), raising=False)  # noqa: SIM115
        patch.setattr(sys, "stdout", File(out, faults, "stdout"))
        patch.setattr(sys, "stderr", File(err, faults, "stderr"))
        yield out, err


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A folder with the texts, and the bytes of the model that is trained on them."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "t.txt").write_text("to be or not to be\nthat is the question\n" * 6)
    (folder / "v.txt").write_text("that question is not the question\n" * 3)
    with contextlib.chdir(folder):
        with failing(Faults()):
            assert main(TRAIN) == 0
        return folder, Path("m.npz").read_bytes()


@pytest.fixture
def here(texts, tmp_path, monkeypatch):
    """Change to a new folder; returns the bytes of the model that the training should give."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))  # the last resort for saving a model
    return texts[1]


def clear(folder):
    """Remove everything but the texts."""
    for name in os.listdir():
        if os.path.isfile(name):
            os.unlink(name)
    for name in ("t.txt", "v.txt"):
        os.link(folder / name, name)


def trained(faults, *options):
    """(exit code, updates, standard error) of one training."""
    updates = []
    step = Trainer._step
    with failing(faults) as (_, err), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_step", lambda self, *arguments: (updates.append(1), step(self, *arguments)))
        code = main([*TRAIN, *options])
    return code, len(updates), err.getvalue()


def continued():
    """The bytes of the model after resuming from the checkpoint."""
    with contextlib.redirect_stderr(io.StringIO()):  # warns if the run has finished
        assert main(["train", "t.txt", "--valid", "v.txt", "--resume", "run.npz", "--out", "again.npz", "--verbose", "0", "--threads", "1"]) == 0
    return Path("again.npz").read_bytes()


def judge(code, updates, err, want, saving):
    """Check that there is a model or a checkpoint that resumes to the same bytes, or that an error came before training began."""
    if code == 0:
        assert Path("m.npz").read_bytes() == want
    elif updates:
        models = [path.read_bytes() for path in Path().glob("m*.npz")]
        assert want in models or (saving and continued() == want), (code, err)
    else:
        assert code == 1 and not Path("m.npz").exists()
    if saving and updates:
        assert continued() == want
    with writing.replacing("last.npz"):
        pass
    assert not [name for name in os.listdir() if name.startswith(writing.PREFIX)]  # removed by a later writer


@pytest.mark.parametrize("saving", [False, True], ids=["alone", "checkpoint"])
@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for_good"])
def test_any_write_may_fail(saving, for_good, texts, here):
    options = SAVING * saving
    clear(texts[0])
    counted = Faults()
    assert trained(counted, *options)[0] == 0
    places = range(len(counted.seen))
    assert {"open", "fsync", "replace", "flock", "posix_fallocate", "file.write", "file.flush", "stdout.write"} <= set(counted.seen)
    part = max(1, len(places) * 8 // TRAININGS)
    for place in places[random.Random(saving).randrange(part) :: part]:
        clear(texts[0])
        faults = Faults(place, ERRORS[place // part % len(ERRORS)], for_good)
        code, updates, err = trained(faults, *options)
        what = f"{counted.seen[place]} ({place})"
        assert code in (0, 1, 3), what
        if code and not for_good:
            assert err.count("numba-rnnlm: error: ") == 1, what
        if updates and (not for_good or counted.seen[place].startswith("std")):  # only that line or that checkpoint is lost
            assert code == 0 and Path("m.npz").read_bytes() == here, what
        if for_good and code and updates and not saving:  # no more writes succeed
            assert "error: cannot write 'm.npz'" in err
        else:
            judge(code, updates, err, here, saving)


def in_a_child(act, *arguments):
    """Run this in a forked process; return its exit code, or minus the signal that ended it."""
    child = os.fork()
    if not child:
        with open("output", "w") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
            try:
                code = act(*arguments)
            except BaseException:
                traceback.print_exc()
                code = 99
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def train_with_signals(number, moments, options, counter=None):
    """Train, and send the signal at these function calls; without any, count the calls."""
    calls = 0

    def called(frame, event, argument):
        nonlocal calls
        calls += 1
        if calls in moments:
            signal.raise_signal(number)

    for each in SIGNALS:
        signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)
    sys.setprofile(called)
    try:
        return main([*TRAIN, *options])
    finally:
        sys.setprofile(None)
        if counter:
            Path(counter).write_text(str(calls))


@pytest.mark.parametrize("saving", [False, True], ids=["alone", "checkpoint"])
@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
def test_any_signal_at_any_moment(saving, times, texts, here):
    options = SAVING * saving
    clear(texts[0])
    assert in_a_child(train_with_signals, 0, (), options, "calls") == 0
    last, drawn = int(Path("calls").read_text()), random.Random(times)
    for round in range(max(1, TRAININGS // 8)):
        clear(texts[0])
        number = SIGNALS[round % len(SIGNALS)]
        moments = sorted(drawn.randrange(last) for _ in range(times))
        code = in_a_child(train_with_signals, number, moments, options)
        output = Path("output").read_text()
        assert code in (0, 128 + number, -number) and "Traceback" not in output, (number, moments, code, output)
        began = "epoch 1/2" in output or "stopped: interrupted" in output
        if code == 0:
            assert Path("m.npz").read_bytes() == here
        elif code > 0 and began and times == 1:
            assert LanguageModel.load("m.npz").history_["epoch"], output
        if saving and Path("run.npz").exists():
            assert continued() == here, (number, moments, code, output)
        else:
            assert not (saving and began), output
        assert code < 0 or not [name for name in os.listdir() if name.startswith(writing.PREFIX)], output
        with lock.locked("run.npz"):  # the lock is free, whatever files are left
            pass
        assert not Path("run.npz.lock").exists()
