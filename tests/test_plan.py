"""The values of epochs, streams and steps that are chosen by default."""

import warnings
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import LINES, untrained

from numba_rnnlm import LanguageModel
from numba_rnnlm.cli import main
from numba_rnnlm.config import TrainingConfig
from numba_rnnlm.demo import documentation
from numba_rnnlm.formats.native import read_about
from numba_rnnlm.runs import read_run
from numba_rnnlm.text import segments_per_epoch, streams_that_fit
from numba_rnnlm.training.loop import Trainer
from numba_rnnlm.training.plan import FEW, MOST_STREAMS, OPEN, STEPS, plan, told

lengths = st.one_of(st.integers(2, 5000), st.integers(2, 10**12))
counts = st.integers(1, 1000)
maybe = st.none() | counts


def chosen(tokens, **given):
    found = plan(TrainingConfig(**given), tokens)
    return found.epochs, found.streams, found.steps


def updates(found, tokens):
    return found.epochs * segments_per_epoch(tokens, found.streams, found.steps)


@pytest.mark.parametrize(
    ("tokens", "wanted"),
    [
        (0, (500, 1, 1)), (2, (500, 1, 1)), (300, (29, 1, 17)), (2_500, (10, 1, 50)), (35_000, (10, 4, 50)), (100_000, (10, 7, 50)),
        (1_000_000, (10, 25, 50)), (10_000_000, (3, 79, 50)), (100_000_000, (1, 100, 50)), (10**9, (1, 100, 50)),
    ],
)
def test_the_rule(tokens, wanted):
    assert chosen(tokens) == wanted


@given(one=lengths, other=lengths)
def test_a_longer_text_gets_larger_updates_and_not_more_epochs(one, other):
    short, long = (plan(TrainingConfig(), tokens) for tokens in sorted((one, other)))
    assert short.streams <= long.streams <= MOST_STREAMS and short.steps <= long.steps <= STEPS and short.epochs >= long.epochs >= 1


@given(tokens=lengths, epochs=maybe, streams=maybe, steps=maybe)
def test_given_values_never_change(tokens, epochs, streams, steps):
    given = {"epochs": epochs, "streams": streams, "steps": steps}
    config = TrainingConfig(**given, patience=3, learning_rate=0.5)
    found = plan(config, tokens)
    for name, value in given.items():
        assert value in (None, getattr(found, name)) and getattr(found, name) >= 1
    assert found.to_dict() == {**config.to_dict(), **{name: getattr(found, name) for name in OPEN}}
    assert plan(found, 10 * tokens) == found  # everything has been chosen


@given(tokens=lengths, steps=maybe)
def test_the_chosen_values_fit_the_text(tokens, steps):
    found = plan(TrainingConfig(), tokens)
    assert streams_that_fit(tokens, found.streams, found.steps) == found.streams
    assert updates(found, tokens) >= 450
    found = plan(TrainingConfig(steps=steps), tokens)
    assert found.streams == 1 or found.streams * found.steps <= 1.25 * tokens**0.5


@given(tokens=st.integers(10_000, 10**12))
def test_longer_texts_get_some_thousand_updates(tokens):
    assert updates(plan(TrainingConfig(), tokens), tokens) >= 0.9 * FEW


@pytest.mark.parametrize(
    ("given", "note"),
    [
        ({}, []),
        ({"steps": 10}, []),
        ({"streams": 50}, ["note: only 140 updates; a good model usually needs a few thousand: give more epochs, or fewer streams or steps"]),
    ],
)
def test_few_updates_are_reported(given, note):
    config, tokens = TrainingConfig(**given), 33_183
    found = plan(config, tokens)
    first, *rest = told(config, found, tokens, updates(found, tokens))
    left_open = ", ".join(name for name in OPEN if name not in given)
    assert first.startswith(f"33,183 tokens: epochs 10, streams {found.streams}, steps {found.steps}, ")
    assert first.endswith(f" updates ({left_open} chosen from the size of the text)")
    assert rest == note


def test_a_short_text_is_reported():
    _, note = told(TrainingConfig(), plan(TrainingConfig(), 900), 900, 480)
    assert note == "note: only 480 updates, because the text is short; a good model usually needs a few thousand"


def test_nothing_is_chosen_if_everything_is_given(capsys):
    untrained().fit(LINES * 8, epochs=2, streams=4, steps=16)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "320 tokens: epochs 2, streams 4, steps 16, 10 updates"
    assert lines[2].startswith("note: only 10 updates; a good model usually needs a few thousand: give more epochs")
    assert [line for line in lines if "note" in line] == lines[2:3]


@pytest.mark.parametrize("tokens", [2, 3, 50])
def test_a_text_of_two_tokens_trains_without_a_warning(tokens):
    model = LanguageModel(hidden=2, layers=1, embedding=2, tokenizer=None, vocabulary_size=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit([1, 0] * (tokens // 2) + [1] * (tokens % 2), verbose=0)
    assert len(model.history_["epoch"]) == chosen(tokens)[0]
    assert model.history_["tokens"][-1] == tokens - 1


def test_a_resumed_run_keeps_its_plan(tmp_path, monkeypatch):
    class Stopped(Exception):
        pass

    def stop(self, *arguments):
        if self.at.updates == 30:
            raise Stopped
        step(self, *arguments)

    path, text, step = tmp_path / "run.npz", LINES * 8, Trainer._step
    whole = untrained().fit(text, verbose=0)
    monkeypatch.setattr(Trainer, "_step", stop)
    with pytest.raises(Stopped):
        untrained().fit(text, verbose=0, checkpoint=path, checkpoint_every=1e-6)
    monkeypatch.undo()
    planned = dict(zip(OPEN, chosen(len(text)), strict=True))
    assert {name: read_about(path)["run"]["config"][name] for name in OPEN} == planned
    assert read_run(path).completed(TrainingConfig(epochs=3)) == replace(TrainingConfig(), **planned | {"epochs": 3})
    monkeypatch.setattr("numba_rnnlm.language_model.fitting.plan", lambda config, tokens: plan(config, 9 * tokens))  # as if a later version had another rule
    again = untrained().fit(text, verbose=0, resume=path)
    for name, weights in whole.network_.weights().items():
        assert (weights == again.network_.weights()[name]).all()
    same = untrained().fit(text, verbose=0, resume=path, **planned)
    assert same.history_["loss"] == again.history_["loss"] == whole.history_["loss"]


def test_all_defaults_learn_a_text_of_9_kilobytes(tmp_path, capsys):
    """With 50 streams for every text, this training ends at perplexity 16, on the held-out text too."""
    training, _ = documentation()
    for name, part in (("text", training[:9_000]), ("held_out", training[9_000:11_000])):
        (tmp_path / name).write_text(part, encoding="utf-8")
    assert main(["train", str(tmp_path / "text"), "--valid", str(tmp_path / "held_out"), "--out", str(tmp_path / "model.npz")]) == 0
    told = "9,000 tokens: epochs 10, streams 2, steps 50, 900 updates (epochs, streams, steps chosen from"
    assert told in capsys.readouterr().out
    history = LanguageModel.load(tmp_path / "model.npz").history_
    assert history["perplexity"][-1] < 4 and min(history["valid_perplexity"]) < 8


def test_the_help_describes_the_rule(capsys):
    assert main(["train", "--help"]) == 0
    assert " ".join(capsys.readouterr().out.split()).count("chosen from the size of the text") == 2
