"""Stateful test of a run: however it is stopped and resumed, it gives the same bytes as an uninterrupted run; and calls that fail change no file."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from checks import HANG, without_notice
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from machines import Stopped, before_update, explore, stop

from numba_rnnlm import LanguageModel, runs
from numba_rnnlm.errors import ConfigError, CorpusError, ModelFileError, TrainingError
from numba_rnnlm.language_model import evaluating, fitting
from numba_rnnlm.storage import locked
from numba_rnnlm.training import checkpoints, clock
from numba_rnnlm.training.checkpoints import Checkpoints
from numba_rnnlm.training.loop import Trainer

TEXT = "to be or not to be\n" * 3
VALID = "be or not\nto be so\n"
PER_EPOCH = 6  # updates per epoch
LASTING = ("constant", "plateau", "zaremba")  # schedules with which runs can be extended
MOST = 5  # maximum number of epochs
MANY = 100  # examples; with more, each also kills a process, which takes more than a second

KINDS = st.fixed_dictionaries({"cell": st.sampled_from(["lstm", "gru"]), "dropout": st.sampled_from([0.0, 0.4]), "tied": st.booleans()})
TRAININGS = st.fixed_dictionaries({
    "schedule": st.sampled_from(["linear", *LASTING]), "optimizer": st.sampled_from(["adam", "sgd"]), "momentum": st.just(0.9),
    "validate_every": st.sampled_from([None, 2]), "patience": st.sampled_from([None, None, 1]), "valid": st.booleans(),
    "decay_after": st.just(1), "max_seconds": st.sampled_from([None, None, 8.0]),
})  # fmt: skip
UPDATES = st.integers(0, 2 * PER_EPOCH)
OTHERS = [  # settings that differ from the run's: of the model, of fit
    ({"hidden": 4}, {}), ({"cell": "tanh"}, {}), ({"seed": 2}, {}), ({"dropout": 0.1}, {}), ({"tokenizer": "word"}, {}), ({}, {"learning_rate": 0.1}),
    ({}, {"streams": 3}), ({}, {"decay_after": 2}), ({}, {"corpus": TEXT[:-1]}), ({}, {"valid": VALID * 2}), ({}, {"corpus": "\n"}),
]  # fmt: skip


class Clock:
    """A clock on which every update takes a second and everything else no time, so that time limits are reproducible."""

    def __init__(self):
        self.now = 0.0

    def watch(self, patch):
        step = Trainer._step

        def stepping(trainer, *arguments):
            step(trainer, *arguments)
            self.now += 1

        patch.setattr(Trainer, "_step", stepping)
        patch.setattr(clock.Clock, "reserve", lambda clock: 0.0)
        for module in (clock, checkpoints):
            patch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))


def fit(model, options, epochs, **others):
    options = {"corpus": TEXT, **options, "epochs": epochs, **others}
    corpus, valid = options.pop("corpus"), options.pop("valid")
    if options["optimizer"] != "sgd":
        del options["momentum"]
    valid = VALID if valid is True else valid or None
    with pytest.MonkeyPatch.context() as patch:
        Clock().watch(patch)
        return model.fit(corpus, valid, **{"streams": 2, "steps": 5, "verbose": 0} | options)


def made(kind, **others):
    return LanguageModel(**{"hidden": 3, "layers": 1, "embedding": 3, "threads": 1, **kind} | others)


@contextlib.contextmanager
def keeping(gap):
    """A checkpoint after every ``gap`` updates."""
    calls = itertools.count(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "due", lambda self: next(calls) % gap == 0)
        yield


@contextlib.contextmanager
def failing_validation(number):
    """Make the validation with this number, counted from 1, run out of memory."""
    measure, calls = evaluating.total_loss, itertools.count(1)

    def total_loss(network, batches):
        if next(calls) == number:
            raise MemoryError("no memory")
        return measure(network, batches)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "foresee", lambda *arguments: 0.0)  # it would be counted too
        patch.setattr(evaluating, "total_loss", total_loss)
        yield


class Runs(RuleBasedStateMachine):
    """One run, whose checkpoint is at ``path`` once it has begun."""

    folder: Any = None

    @initialize(kind=KINDS, options=TRAININGS, epochs=st.integers(1, 2))
    def begin(self, kind, options, epochs):
        for left in self.folder.iterdir():
            left.unlink()
        self.kind, self.options, self.epochs = kind, options, epochs
        self.path, self.killed, self.kills, self.wholes = self.folder / "run.npz", False, False, {}

    def whole(self, epochs):
        """The result of an uninterrupted run with this number of epochs."""
        if epochs not in self.wholes:
            self.wholes[epochs] = self.content(fit(made(self.kind), self.options, epochs))
        return self.wholes[epochs]

    def content(self, model):
        path = self.folder / "content"
        model.save(path)
        found = path.read_bytes()
        path.unlink()
        return found

    def fit(self, epochs=None, **others):
        return fit(made(self.kind), self.options, epochs or self.epochs, **{"checkpoint": self.path, "resume": self.path} | others)

    def has_begun(self):
        return self.path.exists()

    @property
    def position(self):
        return runs.read_run(self.path).at

    def is_over(self, path):
        """Whether the run in this file is finished."""
        if not path.exists():
            return False
        run = runs.read_run(path)
        return bool(run.at.ended) and (run.training["epochs"] == self.epochs or run.at.ended.startswith("no better"))

    def rejected(self, error, call):
        """Check that the call raises an error and changes no file."""
        before = self.files()
        with pytest.raises(error) as caught:
            call()
        assert str(caught.value)
        assert self.files() == before

    def files(self):
        """All files except leftovers of killed processes."""
        return {path.name: path.read_bytes() for path in self.folder.iterdir() if path == self.path or not self.killed}

    @invariant()
    def nothing_is_left_over(self):
        assert set(self.files()) <= {self.path.name}

    def teardown(self):
        if hasattr(self, "path"):  # the run has begun
            self.to_the_end(1, 3)

    # Continuing

    @rule(threads=st.sampled_from([1, 2]), gap=st.integers(1, 5))
    def to_the_end(self, threads, gap):
        before = self.path.read_bytes() if self.is_over(self.path) else None
        with keeping(gap):
            model = fit(made(self.kind, threads=threads), self.options, self.epochs, checkpoint=self.path, resume=self.path)
        assert self.content(model) == self.whole(self.epochs)
        assert self.position.ended and before in (None, self.path.read_bytes())
        if runs.read_run(self.path).training["epochs"] == self.epochs:  # otherwise it had stopped early before
            assert self.content(LanguageModel.load(self.path)) == self.whole(self.epochs)
        self.killed = self.killed and before is not None

    @rule(update=UPDATES, how=st.sampled_from(["throw", "return", "raise"]), gap=st.integers(1, 5), elsewhere=st.booleans())
    def stopped(self, update, how, gap, elsewhere):
        """Stop before an update, if the run gets there; write to this file or to another one, which is then resumed."""
        origin, self.path = self.path, self.folder / ("other.npz" if elsewhere and self.path.name == "run.npz" else "run.npz")
        old = origin.read_bytes() if origin.exists() else None
        ended = self.is_over(origin)
        act = stop if how == "throw" else lambda trainer: signal.raise_signal(signal.SIGINT)
        try:
            with before_update(update, act), keeping(gap):
                self.fit(resume=origin if old is not None else None, on_interrupt="raise" if how == "raise" else "return")
        except (Stopped, KeyboardInterrupt):
            pass
        if ended:  # nothing remained to be done or written
            assert origin.read_bytes() == old
            self.path = origin
        elif origin != self.path and old is not None:
            assert origin.read_bytes() == old
            origin.unlink()
        self.killed = self.killed and ended
        LanguageModel.load(self.path).score("to be")

    @precondition(lambda self: self.options["valid"])
    @rule(call=st.integers(1, 3))
    def validation_fails(self, call):
        for number in (call, 1):  # the second failure is immediate if a report is due
            model = made(self.kind)
            with failing_validation(number):
                try:
                    fit(model, self.options, self.epochs, checkpoint=self.path, resume=self.path)
                except TrainingError as error:
                    assert str(error).startswith("validation failed in epoch") and str(error).endswith("; resume continues from the checkpoint.")
            model.score("to be")
        self.killed = False

    @precondition(lambda self: settings.default.max_examples > MANY and not self.kills)
    @rule(update=UPDATES)
    def killed_in_a_process(self, update):
        arguments = json.dumps([str(self.path), self.kind, self.options, self.epochs, update])
        run = subprocess.run([sys.executable, __file__, arguments], capture_output=True, timeout=HANG,
                             env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
        assert run.returncode in (0, -signal.SIGKILL) and b"Traceback" not in without_notice(run.stderr)
        self.killed, self.kills = True, True

    @precondition(has_begun)
    @rule()
    def extended(self):
        if self.options["schedule"] not in LASTING:
            self.rejected(ConfigError, lambda: self.fit(self.epochs + 1))
        elif self.epochs < MOST and self.options["max_seconds"] is None:  # a run that is out of time has made a report
            self.epochs += 1

    # Reading

    @precondition(has_begun)
    @rule()
    def read_as_a_model(self):
        before = self.path.read_bytes()
        model = LanguageModel.load(self.path)
        model.score("to be")
        fit(model, {**self.options, "schedule": "constant"}, 1)
        assert self.path.read_bytes() == before

    @precondition(has_begun)
    @rule()
    def shorter_without_a_checkpoint(self):
        before, epochs = self.path.read_bytes(), self.epochs - 1
        if epochs and self.options["max_seconds"] is None and self.options["schedule"] in LASTING:
            done = self.position.epoch - (self.position.batch == 0)
            if epochs < done:
                self.rejected(ConfigError, lambda: self.fit(epochs, checkpoint=None))
            elif not self.position.ended:
                assert self.content(self.fit(epochs, checkpoint=None)) == self.whole(epochs)
        assert self.path.read_bytes() == before

    # Errors

    @precondition(has_begun)
    @rule(other=st.sampled_from(OTHERS))
    def other_settings(self, other):
        of_model, of_fit = other
        self.rejected((ConfigError, CorpusError), lambda: fit(made(self.kind, **of_model), self.options, self.epochs, checkpoint=self.path,
                                                              resume=self.path, **of_fit))

    @precondition(has_begun)
    @rule(part=st.floats(0, 0.999), how=st.sampled_from(["cut", "zeros", "text", "model", "other run"]))
    def another_file(self, part, how):
        """Replace the checkpoint, or damage it."""
        mine = self.path.read_bytes()
        place = int(part * len(mine))
        if how in ("cut", "zeros"):
            self.path.write_bytes(mine[:place] + (bytes(len(mine) - place) if how == "zeros" else b""))
        elif how == "text":
            self.path.write_text(TEXT)
        elif how == "model":
            LanguageModel.load(self.path).save(self.path, replace_run=True)
        else:
            self.path.unlink()
            fit(made(self.kind, seed=3), self.options, self.epochs, checkpoint=self.path)
        if self.path.read_bytes() != mine:
            self.rejected((ModelFileError, ConfigError), self.fit)
            if how != "other run":
                self.rejected(ModelFileError, lambda: self.fit(resume=None))
        self.path.write_bytes(mine)

    @precondition(has_begun)
    @rule()
    def a_second_job(self):
        with locked(str(self.path)):
            self.rejected(ModelFileError, self.fit)
        if not self.position.ended:
            self.rejected(ModelFileError, lambda: self.fit(resume=None))


def test_runs(tmp_path):
    class Here(Runs):
        folder = tmp_path

    explore(Here)


if __name__ == "__main__":  # the process to kill
    path, kind, options, epochs, update = json.loads(sys.argv[1])
    with before_update(update, lambda trainer: os.kill(os.getpid(), signal.SIGKILL)), keeping(1):
        fit(made(kind), options, epochs, checkpoint=path, resume=path)
