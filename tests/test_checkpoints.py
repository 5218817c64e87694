"""Checkpoints: a stopped training continues as if it had not been stopped, and the same training gives the same bytes."""

import contextlib
import errno
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from functools import cache
from math import nan
from pathlib import Path

import numpy as np
import pytest
from checks import HANG, ROUNDS, assert_same_bits, examples, without_notice
from hypothesis import given
from hypothesis import strategies as st
from models import LINES, fit, untrained

import numba_rnnlm
from numba_rnnlm import LanguageModel, Sequential, runs
from numba_rnnlm.backends.cpu import threads
from numba_rnnlm.cli import main
from numba_rnnlm.config import OPTIMIZERS, REDUCTIONS, SCHEDULES
from numba_rnnlm.errors import ConfigError, CorpusError, DivergenceError, ModelFileError, TrainingError
from numba_rnnlm.formats.native import open_model, read_about
from numba_rnnlm.language_model import evaluating
from numba_rnnlm.layers import LSTM, Dense, Embedding
from numba_rnnlm.training.checkpoints import Checkpoints
from numba_rnnlm.training.clock import Clock
from numba_rnnlm.training.loop import MOST_SKIPPED, Trainer
from numba_rnnlm.training.position import Position

TEXT = LINES * 8
VALID = "that question is not the question\nto be that\n" * 3
PER_EPOCH = 5  # updates per epoch
UPDATES = 3 * PER_EPOCH
BEGAN = ("; a run continues with the settings that it began with. To change them, train on from its weights: load it and fit, or "
         "train --from.")
ALWAYS = {"checkpoint_every": 1e-6}  # after every update
HOME = os.pathsep.join(filter(None, [str(Path(numba_rnnlm.__file__).parents[1]), os.environ.get("PYTHONPATH")]))


def train(model=None, corpus=TEXT, valid=None, **options):
    """Train for 15 updates."""
    return fit(untrained() if model is None else model, corpus, valid, **{"epochs": 3} | options)


def content(model, folder):
    """The bytes of the model's file."""
    path = Path(folder) / "content.npz"
    model.save(path)
    data = path.read_bytes()
    path.unlink()
    return data


class Stopped(Exception):
    """An exception that the library does not know."""


@contextlib.contextmanager
def before(updates, act):
    """Call ``act`` with the trainer before each of these updates, counted from 0 over all epochs."""
    step = Trainer._step

    def acting(self, *arguments):
        if (self.at.epoch - 1) * self.task.batches_per_epoch + self.at.batch in updates:
            act(self)
        step(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_step", acting)
        yield


@contextlib.contextmanager
def stopping(update):
    """Raise :class:`Stopped` before this update of the training within the ``with``."""
    def stop(trainer):
        raise Stopped

    with contextlib.suppress(Stopped), before({update}, stop):
        yield


def interrupted(path, update, **options):
    """Write the checkpoint of a run that is stopped before this update."""
    with stopping(update):
        train(checkpoint=path, **ALWAYS, **options)
        raise AssertionError("it was not stopped")
    return path


@cache
def left(update, **options):
    """The bytes of such a checkpoint, computed once for all tests."""
    with tempfile.TemporaryDirectory() as folder:
        return interrupted(Path(folder, "run.npz"), update, **options).read_bytes()


def stopped(path, update=8, **options):
    """Write a copy of such a checkpoint."""
    path.write_bytes(left(update, **options))
    return path


def change(path, about=lambda about: about, members=lambda members: members):
    """Write a file again with a changed header or changed members."""
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    header = about(json.loads(arrays.pop("about").tobytes()))
    np.savez(path, about=np.frombuffer(json.dumps(header).encode(), np.uint8), **members(arrays))


# Resuming gives the same bytes


KINDS = st.fixed_dictionaries({
    "cell": st.sampled_from(["lstm", "gru", "tanh", "relu"]), "layers": st.integers(1, 2), "tied": st.booleans(),
    "dropout": st.sampled_from([0.0, 0.4]),
})
TRAININGS = st.fixed_dictionaries({
    "valid": st.sampled_from([None, VALID]), "patience": st.sampled_from([None, 1, 2]), "clip_value": st.sampled_from([None, 0.01]),
    "reduction": st.sampled_from(REDUCTIONS), "warmup": st.sampled_from([0.0, 0.5]), "weight_decay": st.sampled_from([None, 0.1]),
    "not_finite": st.sampled_from(["stop", "skip"]), "decay_after": st.integers(1, 2), "validate_every": st.sampled_from([None, 1, 2, 3]),
})


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@examples(3)
@given(
    kind=KINDS, options=TRAININGS, momentum=st.sampled_from([0.0, 0.9]), earlier=st.booleans(),
    stops=st.lists(st.integers(1, UPDATES - 1), min_size=1, max_size=3, unique=True).map(sorted), gap=st.integers(1, 3),
)
def test_a_stopped_run_resumes_to_the_same_bytes(
    tmp_path_factory, optimizer, schedule, kind, options, momentum, earlier, stops, gap
):
    folder = tmp_path_factory.mktemp("run")
    path = folder / "run.npz"
    options = {**options, "optimizer": optimizer, "schedule": schedule} | ({"momentum": momentum} if optimizer == "sgd" else {})

    def model(here=None):
        """A new model, or a trained one; resuming does not depend on either."""
        new = untrained(**kind)
        return train(new, epochs=1) if earlier and here is None else new

    want = content(train(model(), **options), folder)
    calls = itertools.count(1)
    for stop in [*stops, None]:
        here = path if path.exists() else None
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            patch.setattr(Checkpoints, "due", lambda self: next(calls) % gap == 0)
            warnings.filterwarnings("ignore", "the run .* had ended")  # because of patience
            with stopping(stop):
                one = train(model(here), checkpoint=path, resume=here, **options)
    assert content(one, folder) == want
    assert os.listdir(folder) == ["run.npz"]


@pytest.mark.parametrize("every", [1e-6, 0.01, "1h"])
@pytest.mark.parametrize("valid", [None, VALID])
def test_writing_checkpoints_does_not_change_the_result(every, valid, tmp_path):
    plain, saving = untrained(dropout=0.3), untrained(dropout=0.3)
    for epochs in (3, 2):  # and continuing
        train(plain, valid=valid, epochs=epochs)
        train(saving, valid=valid, epochs=epochs, checkpoint=tmp_path / "run.npz", checkpoint_every=every)
    assert content(saving, tmp_path) == content(plain, tmp_path)


def test_a_run_may_resume_with_another_checkpoint_and_backend(tmp_path):
    first = stopped(tmp_path / "first.npz", 7)
    first_bytes = first.read_bytes()
    with stopping(12):
        train(untrained(threads=2), checkpoint=tmp_path / "second.npz", resume=str(first), **ALWAYS)
    assert first.read_bytes() == first_bytes
    one = train(untrained(threads=1), resume=os.fsencode(tmp_path / "second.npz"), verbose=2)
    assert content(one, tmp_path) == content(train(), tmp_path)


def test_time_before_the_stop_counts(tmp_path):
    path = stopped(tmp_path / "run.npz", 2 * PER_EPOCH + 2, max_seconds=1000)

    def later(about):
        about["run"]["position"]["seconds"] += 1000
        return about

    change(path, later)
    history = train(resume=path, max_seconds=1000).history_
    assert history["tokens"] == [len(TEXT) - 1, len(TEXT) - 1, 2 * 4 * 16]


def test_runs_on_ids_and_all_kinds_of_text_resume(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    path = stopped(tmp_path / "run.npz", corpus=text)
    assert content(train(resume=path), tmp_path) == content(train(), tmp_path)

    def of_ids():
        return untrained(tokenizer=None, vocabulary_size=7)

    ids = [number**2 % 7 for number in range(len(TEXT))]
    path.unlink()
    interrupted(path, 8, model=of_ids(), corpus=ids)
    want = content(train(of_ids(), ids), tmp_path)
    for kind in (np.int64, np.uint8):
        assert content(train(of_ids(), np.array(ids, kind), resume=path), tmp_path) == want


# Ctrl-C


@pytest.fixture
def handler():
    """The handler of Ctrl-C, which each test must restore."""
    mine = signal.getsignal(signal.SIGINT)
    yield mine
    assert signal.getsignal(signal.SIGINT) is mine


@pytest.mark.parametrize("update", [0, 1, PER_EPOCH - 1, PER_EPOCH, 2 * PER_EPOCH + 1, UPDATES - 1])
@pytest.mark.parametrize("valid", [None, VALID])
def test_ctrl_c_leaves_a_checkpoint(handler, update, valid, tmp_path):
    path = tmp_path / "run.npz"
    with before({update}, lambda trainer: signal.raise_signal(signal.SIGINT)):
        usable = train(valid=valid, checkpoint=path, on_interrupt="return")
    assert len(usable.history_["epoch"]) == update // PER_EPOCH + 1
    assert len(usable.generate("to be", 5, seed=1)) == 5
    assert read_about(path)["run"]["position"]["updates"] == update + 1  # no update is repeated
    resumed = train(valid=valid, resume=path)
    assert len(resumed.history_["epoch"]) == 3
    assert content(resumed, tmp_path) == content(train(valid=valid), tmp_path)


@pytest.mark.parametrize(("epoch", "patience"), [(1, None), (2, 2), (3, None), (2, 1), (3, 1)])
def test_ctrl_c_while_validating(handler, epoch, patience, tmp_path, monkeypatch):
    path, losses = tmp_path / "run.npz", [1.0, 2.0, 3.0]

    def judge(interrupted):
        """Make validation worse from epoch to epoch, and interrupt it in one of them."""
        def total_loss(network, batches):
            place = len(judged.history_["epoch"])
            if place + 1 == interrupted:
                signal.raise_signal(signal.SIGINT)
            return losses[place], 1

        monkeypatch.setattr(evaluating, "total_loss", total_loss)

    for resume, interrupted in ((None, None), (None, epoch), (path, None)):
        judge(interrupted)
        judged = untrained()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "the run .* had ended")
            train(judged, valid=VALID, patience=patience, checkpoint=path, resume=resume, on_interrupt="return")
        if resume is None and interrupted is None:
            want = content(judged, tmp_path)
    assert content(judged, tmp_path) == want


# Processes that end midway


def process(*arguments, **options):
    """Run the command line in its own process."""
    return subprocess.Popen(
        [sys.executable, "-m", "numba_rnnlm", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": HOME}, **options,
    )


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    """Arguments of a run of about two seconds, and the bytes of its model."""
    folder = tmp_path_factory.mktemp("long")
    (folder / "text.txt").write_text(LINES * 200)
    (folder / "valid.txt").write_text(VALID * 20)
    arguments = [
        "train", folder / "text.txt", "--valid", folder / "valid.txt", "--hidden", 32, "--layers", 2, "--dropout", 0.2,
        "--streams", 8, "--steps", 16, "--epochs", 12, "--threads", 1,
    ]
    run = process(*arguments, "--out", folder / "whole.npz", "--verbose", 0)
    out, err = run.communicate(timeout=HANG)
    assert (out, without_notice(err), run.returncode) == (b"", b"", 0)
    return arguments, (folder / "whole.npz").read_bytes()


def version(path):
    """A value that changes whenever the file is replaced."""
    with contextlib.suppress(FileNotFoundError):
        found = path.stat()
        return found.st_ino, found.st_mtime_ns


def test_any_number_of_kills(long_run, tmp_path):
    arguments, want = long_run
    moments, kills, most = random.Random(ROUNDS), 0, 8 * ROUNDS
    checkpoint, out = tmp_path / "run.npz", tmp_path / "model.npz"

    def start():
        resume = ["--resume", checkpoint] if checkpoint.exists() else []
        return process(*arguments, "--verbose", 0, "--out", out, "--checkpoint", checkpoint, "--checkpoint-every", "0.02s", *resume)

    while True:
        before, run = version(checkpoint), start()
        if kills < most:
            while run.poll() is None and version(checkpoint) == before:
                time.sleep(0.001)
            with contextlib.suppress(subprocess.TimeoutExpired):
                run.wait(moments.uniform(0, 0.2))
            run.kill()
        output = run.communicate(timeout=HANG)
        if run.returncode == -signal.SIGKILL:
            kills += 1
            LanguageModel.load(checkpoint)
        else:  # the run is complete: compare, and start again
            assert run.returncode == 0 and b"Traceback" not in output[1]
            assert out.read_bytes() == want
            if kills >= most:
                break
            checkpoint.unlink()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_another_process_resumes_after_a_signal(number, long_run, tmp_path):
    arguments, want = long_run
    checkpoint, out = tmp_path / "run.npz", tmp_path / "model.npz"
    run = process(*arguments, "--out", out, "--checkpoint", checkpoint, "--checkpoint-every", "1h")
    assert any(line.startswith(b"epoch 2") for line in run.stdout)
    run.send_signal(number)
    output, err = run.communicate(timeout=HANG)
    assert run.returncode == 128 + number and b"Traceback" not in err and b"stopped: interrupted" in output
    assert f"numba-rnnlm: interrupted, the model is saved in {str(out)!r}\n".encode() in err
    assert b"resume continues from the checkpoint" in output
    assert len(LanguageModel.load(out).generate("to be", 5)) == 5
    assert out.read_bytes() != want
    run = process("train", arguments[1], "--valid", arguments[3], "--threads", 1, "--out", out, "--resume", checkpoint)
    output, err = run.communicate(timeout=HANG)
    assert run.returncode == 0 and without_notice(err) == b""
    assert out.read_bytes() == want


# A checkpoint is a model file


@pytest.mark.parametrize("valid", [None, VALID])
def test_a_checkpoint_is_a_model(valid, tmp_path, monkeypatch):
    path, weights = tmp_path / "run.npz", []
    monkeypatch.setattr(evaluating, "total_loss", lambda network, batches: (weights.append(network.weights()), 1.0)[1:] * 2)
    with stopping(2 * PER_EPOCH + 2):  # all epochs are equally good, so the first one is the best
        train(valid=valid, checkpoint=path, **ALWAYS)
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    latest = {name.removeprefix("weights/"): array for name, array in arrays.items() if name.startswith("weights/")}
    groups = {name.rsplit("/", 2)[0] for name in arrays if name != "about"}
    assert groups == {"weights", "good", "state", "moments/0", "moments/1"}
    model = LanguageModel.load(path)
    assert_same_bits(model.network_.weights(), latest if valid is None else weights[0])
    assert len(model.generate("to be", 7, seed=1)) == 7
    assert model.history_["epoch"] == [1, 2]
    monkeypatch.undo()
    fit(model, epochs=1)
    assert model.history_["epoch"] == [1, 2, 3]


def test_before_the_first_validation_the_model_has_the_latest_weights(tmp_path):
    path = stopped(tmp_path / "run.npz", 3, valid=VALID)
    with open_model(path) as file:
        assert_same_bits(LanguageModel.load(path).network_.weights(), file.group("weights"))


def test_info_and_from_accept_a_checkpoint(tmp_path, capsys):
    path = stopped(tmp_path / "run.npz", valid=VALID)
    text, out = tmp_path / "text.txt", tmp_path / "out.npz"
    text.write_text(TEXT)
    assert main(["info", str(path)]) == 0
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    at = read_about(path)["run"]["position"]
    assert "epochs trained 1" in rows
    assert f"checkpoint epoch 2 of 3, {at['batch']} batches into it; {at['updates']} updates in 0:00" in rows
    assert f"its model the best epoch so far; train CORPUS --resume {path} continues the training" in rows
    assert main(["train", str(text), "--from", str(path), "--out", str(out), "--epochs", "1", "--streams", "4", "--verbose", "0"]) == 0
    assert LanguageModel.load(out).history_["epoch"] == [1, 2]
    path.unlink()
    train(checkpoint=path)
    assert main(["info", str(path)]) == 0
    assert "ended: all epochs are done; " in capsys.readouterr().out


# Finished runs


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "all epochs are done"),
        ({"valid": VALID}, "all epochs are done"),
        ({"patience": 1, "optimizer": "sgd", "learning_rate": 1e-30}, "no better for 1 epoch"),
        ({"max_seconds": 1e-9}, "the 1e-09 seconds are over"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value,
)
def test_resuming_a_finished_run(options, reason, tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    want = content(train(checkpoint=path, **options), tmp_path)
    before = path.read_bytes()
    monkeypatch.setattr(Trainer, "_step", None)  # no update may be made
    with pytest.warns(UserWarning) as caught:
        again = train(checkpoint=path, resume=path, **options)
    (warning,) = caught
    assert str(warning.message) == (
        f"the run in {str(path)!r} had ended ({reason}); nothing was left to do. Its model can be trained on from its weights: "
        "load it and fit, or train --from."
    )
    assert warning.filename == str(Path(__file__).with_name("models.py"))  # the caller of fit
    assert content(again, tmp_path) == want
    assert path.read_bytes() == before
    assert content(LanguageModel.load(path), tmp_path) == want


# Runs with more epochs than planned


LASTING = ("constant", "plateau", "zaremba")


@pytest.mark.parametrize("schedule", LASTING)
@pytest.mark.parametrize("valid", [None, VALID])
@pytest.mark.parametrize("stop", [None, 0, 3, PER_EPOCH, 2 * PER_EPOCH - 1])
def test_a_run_may_have_more_epochs(schedule, valid, stop, tmp_path):
    path, options = tmp_path / "run.npz", {"schedule": schedule, "valid": valid, "decay_after": 1, "validate_every": 2}
    want = content(train(epochs=4, **options), tmp_path)
    if stop is None:
        train(epochs=2, checkpoint=path, **options)
    else:
        stopped(path, stop, epochs=2, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert content(train(epochs=3, checkpoint=path, resume=path, **options), tmp_path) == content(train(epochs=3, **options), tmp_path)
        assert content(train(epochs=4, checkpoint=path, resume=path, **options), tmp_path) == want
    with pytest.warns(UserWarning, match="had ended"):
        assert content(train(epochs=4, resume=path, **options), tmp_path) == want


@pytest.mark.parametrize("schedule", LASTING)
@pytest.mark.parametrize("update", [0, 3, PER_EPOCH, 2 * PER_EPOCH + 1])
def test_a_run_that_ran_out_of_time_may_be_given_more(schedule, update, tmp_path, monkeypatch):
    path, options = tmp_path / "run.npz", {"schedule": schedule, "decay_after": 1}
    with monkeypatch.context() as patch:
        updates = [0]
        step = Trainer._step
        patch.setattr(Trainer, "_step", lambda self, group: (step(self, group), updates.__setitem__(0, self.at.updates)))
        patch.setattr(Clock, "is_over", lambda self: updates[0] == update)
        train(checkpoint=path, max_seconds=9, **options)
    assert runs.read_run(path).at.ended == "the 9 seconds are over"
    again = train(resume=path, max_seconds="1d", **options)
    assert again.history_["epoch"][-1] == 3 and sum(again.history_["tokens"]) == 3 * (len(TEXT) - 1)
    if schedule != "plateau":  # plateau has seen one more report
        assert_same_bits(again.network_.weights(), train(**options).network_.weights())
    with pytest.warns(UserWarning, match="had ended"):
        train(resume=path, max_seconds=1e-9, **options)


def test_more_epochs_do_not_help_after_early_stopping(tmp_path):
    path, options = tmp_path / "run.npz", {"patience": 1, "optimizer": "sgd", "learning_rate": 1e-30, "schedule": "constant"}
    want = content(train(epochs=8, checkpoint=path, **options), tmp_path)
    with pytest.warns(UserWarning, match=r"had ended \(no better for 1 epoch\); nothing was left to do"):
        assert train(epochs=9, resume=path, **options).history_["epoch"] == [1, 2]
    assert content(LanguageModel.load(path), tmp_path) == want


@pytest.mark.parametrize("options", [{"schedule": "linear"}, {"schedule": "cosine"}, {"schedule": "constant", "warmup": 0.25}], ids=str)
@pytest.mark.parametrize(("name", "value", "had"), [("epochs", 4, "has 3"), ("max_seconds", 9.0, "was started without it")])
def test_a_run_with_a_planned_end_cannot_be_extended(options, name, value, had, tmp_path):
    path = stopped(tmp_path / "run.npz", **options)
    plan = options["schedule"] + " schedule" + " with a warmup of 0.25" * ("warmup" in options)
    refused(path, ConfigError, f"{name} is {value}, but the run in {{}} {had}, for which its {plan} was planned; only a constant, plateau or "
            "zaremba schedule without warmup can be extended. To train on from its weights: load it and fit, or train --from {} --epochs N "
            "--out NEW.npz.",
            **options, **{name: value})


def test_fewer_epochs_than_already_trained(tmp_path):
    options = {"schedule": "constant"}
    path = stopped(tmp_path / "run.npz", 2 * PER_EPOCH + 1, **options)
    refused(path, ConfigError, "epochs is 2, but the run in {} is in epoch 3 already; give 3 or more.", epochs=2, **options)
    path = stopped(tmp_path / "run.npz", PER_EPOCH + 1, **options)
    assert content(train(epochs=2, resume=path, **options), tmp_path) == content(train(epochs=2, **options), tmp_path)


# Checkpoints that cannot be resumed


@pytest.mark.parametrize(
    ("name", "value", "other"),
    [
        ("cell", "lstm", "gru"), ("hidden", 12, 13), ("layers", 1, 2), ("dropout", 0.0, 0.1), ("tied", False, True),
        ("tokenizer", "char", "word"), ("min_count", 1, 2), ("seed", 1, 2), ("initializer", "glorot", "uniform"),
    ],
)
def test_another_model(name, value, other, tmp_path):
    path = stopped(tmp_path / "run.npz")
    refused(path, ConfigError, f"{name} is {other!r}, but the run in {{}} has {value!r}{BEGAN}", untrained(**{name: other}))


@pytest.mark.parametrize(
    ("name", "value", "other"),
    [
        ("streams", 4, 5), ("steps", 16, 8), ("optimizer", "adam", "sgd"), ("learning_rate", None, 0.1),
        ("schedule", "linear", "cosine"), ("warmup", 0.0, 0.1), ("clip_norm", None, 1.0), ("patience", None, 3),
        ("reduction", "mean", "sum_time"), ("validate_every", None, 2), ("not_finite", "stop", "skip"),
    ],
)
def test_another_training(name, value, other, tmp_path):
    path = stopped(tmp_path / "run.npz")
    had = "was started without it" if value is None else f"has {value!r}"
    refused(path, ConfigError, f"{name} is {other!r}, but the run in {{}} {had}{BEGAN}", **{name: other})


@pytest.mark.parametrize(
    ("began", "options", "message"),
    [
        (None, {"corpus": TEXT.replace("question", "quotient")}, "the corpus text is not that of the run in {}"),
        (None, {"corpus": TEXT[:-1]}, "the corpus text is not that of the run in {}"),
        (None, {"valid": VALID}, "the run in {} has no valid text and one was given here"),
        (VALID, {"valid": None}, "the run in {} has a valid text and none was given here"),
        (VALID, {"valid": VALID[:-1]}, "the valid text is not that of the run in {}"),
    ],
)
def test_other_texts(began, options, message, tmp_path):
    path = stopped(tmp_path / "run.npz", valid=began)
    refused(path, CorpusError, f"{message}; a run continues with the texts that it began with.", **{"valid": began} | options)


def refused(path, kind, words, model=None, **options):
    """Assert that resuming raises this error, in whose words ``{}`` stands for the file, and that it leaves the file unchanged."""
    file = path.read_bytes() if path.exists() else None
    with pytest.raises(kind) as caught:
        train(model, resume=path, **options)
    message = str(caught.value)
    if words.endswith("..."):
        assert message.startswith(words[:-3].replace("{}", repr(str(path))))
    else:
        assert message == words.replace("{}", repr(str(path)))
    assert "\n" not in message
    assert (path.read_bytes() if path.exists() else None) == file


@pytest.mark.parametrize(
    ("group", "options"),
    [("", {"epochs": 4}), ("", {"corpus": TEXT[:-1]}), ("", {"valid": VALID}), ("state", {}), ("moments", {}), ("weights", {})],
    ids=["epochs", "corpus", "valid", "state", "moments", "weights"],
)
def test_an_error_leaves_the_model_unchanged(group, options, tmp_path):
    path, model = stopped(tmp_path / "run.npz"), train(untrained(), LINES * 2, epochs=1)
    change(path, members=lambda members: {name: array for name, array in members.items() if not group or not name.startswith(group)})
    learned = content(model, tmp_path)
    with pytest.raises((ConfigError, CorpusError, ModelFileError)):
        train(model, resume=path, **options)
    assert content(model, tmp_path) == learned


def test_a_resumed_run_appends_to_its_log(tmp_path):
    path, options = tmp_path / "run.npz", {"valid": VALID, "validate_every": 2}
    train(log=tmp_path / "whole.csv", **options)
    for stop in (1, 4, 8, 11):
        with stopping(stop):
            train(checkpoint=path, checkpoint_every="1h" if stop == 8 else 1e-6, resume=path, log=tmp_path / "log.csv", **options)
    train(resume=path, log=os.fsencode(tmp_path / "log.csv"), **options)
    rows = [[line.split(",")[1:10] for line in (tmp_path / name).read_text().splitlines()] for name in ("whole.csv", "log.csv")]
    assert rows[0] == rows[1] and len(rows[0]) == 1 + 9  # although some updates were made twice


def test_files_that_are_not_checkpoints(tmp_path):
    path = tmp_path / "run.npz"
    refused(path, ModelFileError, "there is no model file {}.")
    train().save(path)
    refused(path, ModelFileError, "{} is a model, but no checkpoint: it does not say where its training stood. To train on from "
            "its weights, load it and fit, or train --from.")
    sequential = Sequential([Embedding(5, 4), LSTM(3, return_sequences=True), Dense(5, activation="softmax")])
    sequential.compile("adam", "sparse_categorical_crossentropy")
    sequential.fit(np.zeros((2, 4), int), np.zeros((2, 4), int), verbose=0)
    path.unlink()
    sequential.save(path)
    refused(path, ModelFileError, "{} ...")
    path.write_text(TEXT)
    refused(path, ModelFileError, "{} is not a numba_rnnlm model file: it is not a zip archive.")


@pytest.mark.parametrize("group", ["good", "state", "moments/0", "moments/1", "weights"])
def test_missing_arrays_and_wrong_shapes(group, tmp_path):
    path = tmp_path / "run.npz"

    def others(members):
        return {name: array for name, array in members.items() if not name.startswith(group)}

    def reshaped(members):
        return {name: np.zeros((2, *array.shape), np.float32) if name.startswith(group) else array for name, array in members.items()}

    def all_but_one(members):
        del members[next(name for name in members if name.startswith(group))]
        return members

    stopped(path, valid=VALID)
    change(path, members=others)
    refused(path, ModelFileError, f"{{}} is damaged: it has no arrays {group!r}.", valid=VALID)
    for damage in (reshaped, all_but_one):
        stopped(path, valid=VALID)
        change(path, members=damage)
        refused(path, ModelFileError, "{} is damaged: it...", valid=VALID)  # either a part does not fit or a group is missing


WRONG = {int: (-1, "1", 1.0, True, None, []), float: (-0.5, "1", True, []), str: (3, None, ["all epochs are done"])}
IMPOSSIBLE = [
    ("epoch", 0), ("epoch", 99), ("epoch", 10**400), ("batch", PER_EPOCH + 1), ("divisor", 0.0), ("divisor", None), ("trained", 3),
    ("updates", 10**400), ("skipped", 10**400), ("tokens", 10**400), ("colour", 1),
]


@pytest.mark.parametrize(
    ("name", "value"),
    [(item.name, value) for item in fields(Position) for value in (*WRONG[type(item.default)], "missing")] + IMPOSSIBLE,
    ids=lambda value: str(value)[:9],
)
def test_an_impossible_position(name, value, tmp_path):
    path = stopped(tmp_path / "run.npz")

    def moved(about):
        if value == "missing":
            del about["run"]["position"][name]
        else:
            about["run"]["position"][name] = value
        return about

    change(path, moved)
    refused(path, ModelFileError, "{} is damaged: its parts do not fit together (...")


@pytest.mark.parametrize(("part", "name", "value"), [
    ("model", "layers", "own"), ("model", "dropout", 1e308), ("model", "initializer", 0), ("model", "tokenizer", []), ("model", "seed", -1),
    ("model", "seed", 1.5), ("model", "vocabulary_size", 9),
    ("model", "cell", "elsewhere"), ("run", "precision", "float16"), ("training", "epochs", [[]]), ("training", "schedule", "\x0elinear"),
    ("training", "optimizer", {"own": True, "rule": "sgd"}), ("training", "optimizer", {"class": []}), ("training", "optimizer", {}),
])  # fmt: skip
def test_invalid_settings_mean_a_damaged_file(part, name, value, tmp_path):
    path = stopped(tmp_path / "run.npz")

    def damaged(about):
        {"model": about["config"], "run": about["run"], "training": about["run"]["config"]}[part][name] = value
        return about

    change(path, damaged)
    with pytest.raises(ModelFileError, match=rf"run.npz' is damaged: its parts do not fit together \({name} (is|goes with) "):
        LanguageModel.settings_of_run(path)


@pytest.mark.parametrize("key", ["config", "texts", "position"])
@pytest.mark.parametrize("value", ["missing", None, 3, [], "x", {}], ids=str)
def test_a_run_with_a_damaged_part(key, value, tmp_path):
    path = stopped(tmp_path / "run.npz")

    def damaged(about):
        about["run"][key] = value
        if value == "missing":
            del about["run"][key]
        return about

    change(path, damaged)
    if value == {} and key == "config":  # equivalent to omitting all settings
        refused(path, ConfigError, "epochs is 3, but the run in {} was started without it, for which its linear schedule was planned; ...")
    elif value in ([], {}) and key == "texts":
        refused(path, CorpusError, "the run in {} has no corpus text and one was given here; a run continues with the texts that it began with.")
    else:
        refused(path, ModelFileError, "{} is damaged: its parts do not fit together (...")


@pytest.mark.parametrize("part", np.linspace(0, 1, 20, endpoint=False))
def test_a_truncated_checkpoint(part, tmp_path):
    path = stopped(tmp_path / "run.npz")
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    refused(path, ModelFileError, "{} ...")


# On another device

H100 = "cuda, float32, NVIDIA H100 80GB HBM3 with 132 multiprocessors"
MOVED = (f"the training so far was computed on {H100!r} and continues on 'cpu, float32': the result is as valid, but its last bits "
         "differ from those of a training that stays on one of them.")


def computed_on(path, rounding):
    """Change the device that the checkpoint was computed on, as recorded in the file."""
    def moved(about):
        about["run"]["rounding"] = rounding
        if rounding == "missing":
            del about["run"]["rounding"]
        return about

    change(path, moved)
    return path


def warned(path, tmp_path, **options):
    """The warnings when a training resumes from this checkpoint; asserts that it gives the same bytes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = train(resume=path, **options)
    assert content(model, tmp_path) == content(train(), tmp_path)
    assert all(Path(warning.filename).name == "models.py" for warning in caught)  # the caller of fit
    return [str(warning.message) for warning in caught]


def test_resuming_on_another_device_causes_one_warning(tmp_path):
    path = computed_on(stopped(tmp_path / "run.npz"), H100)
    assert warned(path, tmp_path, checkpoint=path, **ALWAYS) == [MOVED]
    assert read_about(path)["run"]["rounding"] == "cpu, float32"
    start = "the run in {!r} had ended"
    (ended,) = warned(computed_on(path, H100), tmp_path)  # nothing more is computed
    assert ended.startswith(start.format(str(path)))


@pytest.mark.parametrize("rounding", ["cpu, float32", "missing", None])
def test_no_warning_if_the_device_is_the_same_or_unknown(rounding, tmp_path):
    assert warned(computed_on(stopped(tmp_path / "run.npz"), rounding), tmp_path) == []


def test_no_warning_before_the_first_update(tmp_path):
    assert warned(computed_on(stopped(tmp_path / "run.npz", 0), H100), tmp_path) == []


@pytest.mark.parametrize("rounding", [3, [], True])
def test_a_damaged_name_of_a_device(rounding, tmp_path):
    refused(computed_on(stopped(tmp_path / "run.npz"), rounding), ModelFileError,
            f"{{}} is damaged: its parts do not fit together (the rounding is {rounding!r}).")


def test_info_shows_the_device_of_a_run(tmp_path, capsys):
    assert main(["info", str(computed_on(stopped(tmp_path / "run.npz"), H100))]) == 0
    assert f"computed on {H100}" in " ".join(capsys.readouterr().out.split())
    assert main(["info", str(computed_on(stopped(tmp_path / "run.npz"), "missing"))]) == 0
    assert "computed on" not in " ".join(capsys.readouterr().out.split())


# Validation that fails


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_after_a_failed_validation_the_run_resumes_to_the_same_bytes(epoch, tmp_path, monkeypatch):
    path, want = tmp_path / "run.npz", content(train(valid=VALID), tmp_path)
    calls, measure = itertools.count(1), evaluating.total_loss

    def total_loss(network, batches):
        if next(calls) == epoch:
            raise MemoryError("Unable to allocate 3 GiB")
        return measure(network, batches)

    monkeypatch.setattr(evaluating, "total_loss", total_loss)
    model = untrained()
    with pytest.raises(TrainingError, match=f"validation failed in epoch {epoch}, .*; resume continues from the checkpoint."):
        train(model, valid=VALID, checkpoint=path, checkpoint_every="1h")
    assert len(model.history_["epoch"]) == epoch - 1 and len(model.generate("to be", 5)) == 5
    assert read_about(path)["run"]["position"]["updates"] == epoch * PER_EPOCH
    assert content(train(valid=VALID, resume=path), tmp_path) == want


def test_a_validation_that_fails_again_keeps_the_weights_of_the_checkpoint(tmp_path, monkeypatch):
    path, measure = tmp_path / "run.npz", evaluating.total_loss
    for failing in (2, 1):
        calls, model = itertools.count(1), untrained()

        def total_loss(network, batches):
            if next(calls) == failing:  # noqa: B023
                raise MemoryError("Unable to allocate 3 GiB")
            return measure(network, batches)

        with monkeypatch.context() as patch:
            patch.setattr(evaluating, "total_loss", total_loss)
            with pytest.raises(TrainingError, match="The model has the weights of the best epoch so far"):
                train(model, valid=VALID, checkpoint=path, resume=path)
        assert model.history_["epoch"] == [1] and model.evaluate(VALID).nats_per_token == model.validation_.nats_per_token
    assert content(train(valid=VALID, resume=path), tmp_path) == content(train(valid=VALID), tmp_path)


def test_the_command_line_saves_the_model_after_a_failed_validation(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT)
    Path("held.txt").write_text(VALID)
    calls, measure = itertools.count(1), evaluating.total_loss

    def total_loss(network, batches):
        if next(calls) == 2:
            raise MemoryError("Unable to allocate 3 GiB")
        return measure(network, batches)

    monkeypatch.setattr(evaluating, "total_loss", total_loss)
    assert main(["train", "text.txt", "--valid", "held.txt", "--epochs", "3", "--hidden", "8", "--layers", "1", "--streams", "4", "--steps", "16",
                 "--verbose", "0"]) == 3
    assert capsys.readouterr().err == (
        "numba-rnnlm: error: validation failed in epoch 2, after 10 updates: Unable to allocate 3 GiB. The model has the weights of the best "
        "epoch so far. The model is saved in 'model.npz'.\n")
    assert LanguageModel.load("model.npz").history_["epoch"] == [1]


# Paths that cannot be written


@pytest.mark.parametrize("broken", ["os.fsync", "os.replace", "_write_member"])
def test_a_full_disk(broken, tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    want = content(train(valid=VALID), tmp_path)

    def fail(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        monkeypatch.context() as patch,
        before({PER_EPOCH + 2}, lambda trainer: patch.setattr(f"numba_rnnlm.formats.native.{broken}", fail)),
        pytest.warns(UserWarning) as caught,
    ):
        model = train(valid=VALID, checkpoint=path, **ALWAYS)
    assert {str(warning.message) for warning in caught} == {
        f"no checkpoint was written, training continues: cannot write {str(path)!r}: No space left on device. Existing files "
        "were not changed; choose a folder that exists, is writable and has enough space."
    }
    assert content(model, tmp_path) == want
    assert os.listdir(tmp_path) == ["run.npz"]
    position = read_about(path)["run"]["position"]
    assert (position["epoch"], position["batch"]) == (2, 2)
    assert content(train(valid=VALID, resume=path), tmp_path) == want


def test_a_missing_folder(tmp_path, capsys, monkeypatch):
    path = tmp_path / "missing" / "run.npz"
    model = untrained()
    with pytest.raises(ModelFileError, match=r"cannot write '.*run.npz': No such file or directory. Existing files were not changed; "):
        train(model, checkpoint=path)
    assert model.tokenizer_ is None  # nothing was trained
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    monkeypatch.setattr(LanguageModel, "fit_config", None)  # the error comes before it
    assert main(["train", str(text), "--checkpoint", str(path), "--out", str(tmp_path / "out.npz")]) == 1
    assert capsys.readouterr().err == (
        f"numba-rnnlm: error: cannot write {str(path)!r}: No such file or directory. Choose a folder that exists and is "
        "writable.\n"
    )


def test_the_error_of_a_second_thread_names_the_process(tmp_path):
    path, began, over = tmp_path / "run.npz", threading.Event(), threading.Event()

    def hold(trainer):
        began.set()
        over.wait(HANG)

    with before({8}, hold), ThreadPoolExecutor(1) as pool:
        first = pool.submit(train, checkpoint=path, **ALWAYS)
        assert began.wait(HANG)
        data = path.read_bytes()
        with pytest.raises(ModelFileError, match=rf"is being written by process {os.getpid()} on host .*, since 20.*another checkpoint"):
            train(untrained(seed=2), checkpoint=path)
        assert path.read_bytes() == data
        over.set()
    assert content(first.result(), tmp_path) == content(train(), tmp_path)
    assert os.listdir(tmp_path) == ["run.npz"]


def test_writing_does_not_change_the_umask(tmp_path, monkeypatch):
    """The umask belongs to the process: changing it would give files of other threads the wrong mode."""
    monkeypatch.setattr(os, "umask", None)
    train(checkpoint=tmp_path / "run.npz", **ALWAYS).save(tmp_path / "model.npz")


# Losses and gradients that are not finite


def spoil(what):
    """Make the next update's loss or one of its gradients NaN."""
    def act(trainer):
        network = trainer.network
        train = network.differentiate

        def spoiled(*arguments):
            del network.differentiate  # later updates are correct again
            losses = train(*arguments)
            if what == "gradient":
                network.gradients["lstm/U"][1, 2] = nan
            return losses * nan if what == "loss" else losses

        network.differentiate = spoiled

    return act


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_an_update_that_is_not_finite_is_skipped(what, capsys, tmp_path):
    path, places = tmp_path / "run.npz", {2, 3, 8}
    options = {"not_finite": "skip", "schedule": "constant", "learning_rate": 0.01, "valid": VALID}
    with before(places, spoil(what)):
        model = train(verbose=2, **options)
        for stop in (4, 9):
            path.unlink(missing_ok=True)
            capsys.readouterr()
            interrupted(path, stop, **options)
            position = read_about(path)["run"]["position"]
            assert (position["skipped"], position["updates"]) == {4: (2, 2), 9: (3, 6)}[stop]
            assert position["in_a_row"] == {4: 2, 9: 1}[stop]
            assert content(train(resume=path, verbose=2, **options), tmp_path) == content(model, tmp_path)
            printed = [line for line in capsys.readouterr().out.splitlines() if "skipped" in line]
            assert printed == [f"update 7 is skipped: the {what} is not finite; the learning rate is halved"][: stop == 4]
    assert model.history_["learning_rate"] == [0.01 / 4, 0.01 / 8, 0.01 / 8]
    assert model.history_["tokens"][1:] == [len(TEXT) - 1 - 4 * 16, len(TEXT) - 1]
    assert all(np.isfinite(model.history_[column]).all() for column in ("loss", "valid_loss", "gradient_norm"))
    assert all(np.isfinite(array).all() for array in model.network_.weights().values())


@pytest.mark.parametrize("places", [{2}, {3, 4}, {PER_EPOCH + 1}], ids=str)
def test_a_skipped_update_changes_no_weight_and_resets_the_streams(places, tmp_path):
    arrays = []
    for update in (min(places), max(places) + 1):
        with before(places, spoil("gradient")), open_model(interrupted(tmp_path / f"{update}.npz", update, not_finite="skip")) as file:
            arrays.append({group: file.group(group) for group in file.groups})
    first, second = arrays
    assert any(array.any() for array in first["state"].values())
    assert not any(array.any() for array in second["state"].values())
    assert_same_bits(second["good"], first["good"])
    if len(places) == 1:
        for group in ("weights", "moments/0", "moments/1"):
            assert_same_bits(second[group], first[group])
    else:  # several in a row: the last good weights are restored
        assert_same_bits(second["weights"], first["good"])
        assert not any(array.any() for moment in ("moments/0", "moments/1") for array in second[moment].values())


@pytest.mark.parametrize("made", [lambda path: train(checkpoint=path, **ALWAYS), stopped, lambda path: train().save(path)],
                         ids=["ended", "stopped", "model"])
def test_which_files_a_checkpoint_replaces(made, tmp_path):
    path = tmp_path / "run.npz"
    made(path)
    before = path.read_bytes()
    if made is stopped:
        words = f"{str(path)!r} is the checkpoint of a run that has not ended (epoch 2 of 3, 3 batches into it); continue with resume="
    else:
        words = f"{str(path)!r} is a model file; a checkpoint would take its place. Give the checkpoint a name of its own."
    if "run" in read_about(path) and made is not stopped:
        train(checkpoint=path)
        return
    with pytest.raises(ModelFileError) as caught:
        train(checkpoint=path)
    assert str(caught.value).startswith(words)
    assert path.read_bytes() == before


def test_the_same_command_starts_and_resumes_a_run(tmp_path, capsys):
    path, want = tmp_path / "run.npz", content(train(), tmp_path)
    with stopping(7):
        train(checkpoint=path, resume=path, verbose=2, **ALWAYS)
        raise AssertionError("it was not stopped")
    assert f"there is no {path} yet: this is the beginning of the run" in capsys.readouterr().out
    assert content(train(checkpoint=path, resume=path, verbose=2), tmp_path) == want
    assert f"going on from {path}: epoch 2 of 3, 2 batches into it; 7 updates so far" in capsys.readouterr().out
    with pytest.warns(UserWarning, match="had ended"):
        train(checkpoint=path, resume=path, verbose=2)
    assert "so far" not in capsys.readouterr().out


def test_continuing_a_run_that_had_ended_is_reported(tmp_path, capsys):
    path = tmp_path / "run.npz"
    train(epochs=1, schedule="constant", checkpoint=path)
    train(epochs=2, schedule="constant", resume=path, verbose=2)
    assert f"{path} had ended (all epochs are done), and is continued; 5 updates so far" in capsys.readouterr().out


@pytest.mark.parametrize("same", ["./run.npz", "folder/../run.npz", "link.npz"])
def test_paths_are_compared_as_files(same, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("link.npz").symlink_to("run.npz")
    want = content(train(), tmp_path)
    with stopping(7):
        train(checkpoint="run.npz", resume=same, **ALWAYS)  # starts the run
    assert content(train(checkpoint="run.npz", resume=same), tmp_path) == want


def test_a_checkpoint_that_could_not_be_replaced_is_an_error_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "_step", None)
    monkeypatch.setattr(os, "replace", lambda *arguments: os.stat(tmp_path / "nothing"))
    model = untrained()
    with pytest.raises(ModelFileError, match=r"cannot write '.*run.npz': No such file or directory. Existing files were not changed; "):
        train(model, checkpoint=tmp_path / "run.npz")
    assert model.tokenizer_ is None and os.listdir(tmp_path) == []


def test_a_checkpoint_is_written_before_the_first_update(tmp_path):
    path = tmp_path / "run.npz"
    with stopping(1):
        train(checkpoint=path, checkpoint_every="1h")
        raise AssertionError("it was not stopped")
    assert content(train(resume=path), tmp_path) == content(train(), tmp_path)


def test_a_link_remains_a_link(tmp_path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "run.npz").symlink_to(tmp_path / "scratch" / "real.npz")
    train(checkpoint=tmp_path / "run.npz")
    assert (tmp_path / "run.npz").is_symlink()
    assert LanguageModel.load(tmp_path / "scratch" / "real.npz").history_["epoch"] == [1, 2, 3]


@pytest.mark.parametrize("steps", [6, 16])  # 14 and 5 updates per epoch
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_too_many_skipped_updates_end_the_training(what, steps):
    with before(range(2, 999), spoil(what)), pytest.raises(
        DivergenceError, match=f"after 2 updates: the {what} is not finite"
    ):
        train(not_finite="skip", steps=steps, epochs=9)
    with before(range(2, 2 + MOST_SKIPPED), spoil(what)):
        model = train(not_finite="skip", steps=steps, epochs=9)
    assert model.history_["epoch"][-1] == 9


@pytest.mark.parametrize("place", [0, 2, PER_EPOCH])
def test_stopping_names_the_gradient(place):
    with before({place}, spoil("gradient")), pytest.raises(
        DivergenceError, match=f"after {place} updates: the gradient is not finite.*'lstm/U'"
    ):
        train()


# The command line


@pytest.fixture
def cli_run(tmp_path, monkeypatch, capsys):
    """Change to a folder with text.txt and run.npz, the checkpoint of a stopped run; returns the model of the complete run."""
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(TEXT)
    Path("held.txt").write_text(VALID)
    flags = ["--cell", "gru", "--hidden", "8", "--layers", "1", "--dropout", "0.3", "--seed", "5", "--streams", "4", "--steps", "16",
             "--epochs", "3", "--optimizer", "rmsprop", "--verbose", "0"]
    assert main(["train", "text.txt", "--out", "whole.npz", *flags]) == 0
    with stopping(8):
        main(["train", "text.txt", "--checkpoint", "run.npz", "--checkpoint-every", "1e-6", "--out", "never.npz", *flags])
    assert not Path("never.npz").exists()
    capsys.readouterr()
    return Path("whole.npz").read_bytes()


def test_resume_takes_its_settings_from_the_checkpoint(cli_run, capsys):
    assert main(["train", "text.txt", "--resume", "run.npz", "--out", "out.npz"]) == 0
    assert Path("out.npz").read_bytes() == cli_run
    assert capsys.readouterr().out.startswith("optimizer rmsprop, ")
    assert main(["train", "text.txt", "--resume", "run.npz", "--checkpoint", "run.npz", "--out", "out.npz", "--hidden", "8",
                 "--precision", "float32", "--optimizer", "rmsprop", "--verbose", "0"]) == 0
    assert Path("out.npz").read_bytes() == cli_run
    assert main(["train", "text.txt", "--resume", "run.npz", "--out", "out.npz", "--verbose", "0"]) == 0
    _, err = capsys.readouterr()
    assert err.startswith("numba-rnnlm: warning: the run in 'run.npz' had ended (all epochs are done); nothing was left to do.")
    assert Path("out.npz").read_bytes() == cli_run


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--hidden", "9"], "--hidden is 9, but the run in 'run.npz' has 8" + BEGAN),
        (["--learning-rate", "0.5"], "--learning-rate is 0.5, but the run in 'run.npz' was started without it" + BEGAN),
        (["--optimizer", "adam"], "--optimizer is 'adam', but the run in 'run.npz' has 'rmsprop'" + BEGAN),
        (["--seed", "6"], "--seed is 6, but the run in 'run.npz' has 5" + BEGAN),
        (["--valid", "held.txt"], "--validation-split is 0.0, but the run in 'run.npz' has 0.05" + BEGAN),
        (["--resume", "none.npz"], "there is no checkpoint 'none.npz' to resume from; --checkpoint none.npz --resume none.npz starts a run, and continues it when the command is repeated."),
        (["--resume", "whole.npz"], "'whole.npz' is a model, but no checkpoint: it does not say where its training stood. To train on "
         "from its weights, load it and fit, or train --from."),
        (["--checkpoint", "out.npz"], "--checkpoint is 'out.npz', and --out is the same file; give it a name of its own."),
        (["--checkpoint", "text.txt"], "--checkpoint is 'text.txt', and CORPUS is the same file; give it a name of its own."),
        (["--checkpoint", "./text.txt"], "--checkpoint is 'text.txt', and CORPUS is the same file; give it a name of its own."),
        (["--checkpoint", "held.txt"], "--checkpoint: cannot write 'held.txt': the existing file is not a model that this numba_rnnlm can read, and is "
         "not overwritten; choose another name, or delete it."),
        (["--checkpoint-every", "3s"], "--checkpoint-every is '3s', but checkpoint is not set; give the name of a file."),
        (["--checkpoint", "whole.npz"], "'whole.npz' is a model file; a checkpoint would take its place. Give the checkpoint a name "
         "of its own."),
        (["--checkpoint-every", "soon"], "--checkpoint-every is 'soon', expected a duration such as '30s', '5min', '2h', '1h30m' or a number of "
         "seconds above 0."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_on_the_command_line(cli_run, flags, message, capsys):
    before = {name: Path(name).read_bytes() for name in sorted(os.listdir())}
    assert main(["train", "text.txt", "--resume", "run.npz", "--out", "out.npz", "--verbose", "0", *flags]) == (
        2 if message.startswith("--") and "is not a model" not in message else 1)
    assert capsys.readouterr() == ("", f"numba-rnnlm: error: {message}\n")
    assert {name: Path(name).read_bytes() for name in sorted(os.listdir())} == before


@pytest.mark.parametrize("part", ["config", "run"])
def test_unknown_settings(cli_run, part, capsys):
    change("run.npz", lambda about: {**about, "config": {**about["config"], "colour": 1}} if part == "config" else {
        **about, "run": {**about["run"], "config": {**about["run"]["config"], "colour": 1}}
    })
    assert main(["train", "text.txt", "--resume", "run.npz", "--out", "out.npz"]) == 1
    assert "run.npz" in capsys.readouterr().err


# The same training gives the same bytes


@pytest.mark.parametrize("options", [{}, {"cell": "gru", "layers": 2, "dropout": 0.4, "tied": True}], ids=["lstm", "gru"])
def test_any_number_of_threads_and_any_source_give_the_same_bytes(options, tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "WORTHWHILE", 1)  # even the smallest job is split among all threads
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    files = {
        content(train(untrained(threads=number, **options), source, VALID), tmp_path)
        for number in (1, 2, 3) for source in (TEXT, path, str(path)) for _ in range(2)
    }
    assert len(files) == 1
    assert content(train(untrained(**options | {"seed": 2}), TEXT, VALID), tmp_path) not in files


def test_any_kind_of_ids_gives_the_same_weights():
    ids = [number**3 % 11 for number in range(len(TEXT))]
    sources = [ids, tuple(ids), np.array(ids), np.array(ids, np.uint8), np.array(ids * 2)[: len(ids)], np.repeat(ids, 2)[::2]]
    first, *others = (train(untrained(tokenizer=None, vocabulary_size=11), source).network_.weights() for source in sources)
    for other in others:
        assert_same_bits(other, first)


def test_validation_does_not_change_training():
    plain, judged = train(untrained(dropout=0.3)), train(untrained(dropout=0.3), valid=LINES)
    assert np.argmin(judged.history_["valid_loss"]) == 2  # so the best weights are the last ones
    assert_same_bits(judged.network_.weights(), plain.network_.weights())
    assert judged.history_["loss"] == plain.history_["loss"]


@pytest.mark.parametrize("number", [1, 2])
def test_eight_threads_use_a_model_while_a_ninth_trains_another(number, tmp_path):
    train(untrained(threads=number, layers=2)).save(tmp_path / "model.npz")
    model = LanguageModel.load(tmp_path / "model.npz", threads=number)
    prompts = ["to be", "", "that is the", "question\n", "not to", "t", "be or not", "the question is"]

    def use(index):
        """Use texts of different lengths in each thread, and so passes of different shapes."""
        prompt = prompts[index]
        return [
            (model.generate(prompt, 20 + index, seed=index), model.score([prompt, *prompts[:index]]).tolist(),
             model.evaluate(LINES * (index + 1)), model.generate(prompts[index:], 5, seed=index, weights="int8"))
            for _ in range(3)
        ]

    alone, trained_alone = [use(index) for index in range(8)], train(untrained(threads=number), epochs=12)
    model = LanguageModel.load(tmp_path / "model.npz", threads=number)  # no network or pass has been created yet
    meeting = threading.Barrier(9)

    def meet(act, *arguments):
        meeting.wait()
        return act(*arguments)

    with ThreadPoolExecutor(9) as pool:
        training = pool.submit(meet, lambda: train(untrained(threads=number), epochs=12))
        together = [pool.submit(meet, use, index) for index in range(8)]
    assert [one.result() for one in together] == alone
    assert content(training.result(), tmp_path) == content(trained_alone, tmp_path)
