"""Extending a vocabulary: known symbols keep their probabilities, new ones are learned, and the run can be resumed like any other."""

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from checks import HANG, assert_same_bits
from hypothesis import given
from hypothesis import strategies as st
from models import LINES, fit, trained, untrained

import numba_rnnlm
from numba_rnnlm import LanguageModel
from numba_rnnlm.cells import CELLS
from numba_rnnlm.cli import main
from numba_rnnlm.errors import ConfigError
from numba_rnnlm.text import CharTokenizer, WordTokenizer

NEW = {"char": "zwölf Boxkämpfer\n", "word": "twelve boxers chase the question\n"}
NO_STEP = {"learning_rate": 1e-30, "epochs": 1}  # weights that do not change
SIZES = [{"tied": False}, {"tied": True, "hidden": 6}, {"tied": True, "hidden": 12}, {"initializer": "uniform"}, {"layers": 2, "dropout": 0.2}]
every_tokenizer = pytest.mark.parametrize("tokenizer", ["char", "word"])


def grown(model, text, valid=None, **options):
    return fit(model, text, valid, **{"extend_vocabulary": True} | options)


def logits(model, ids):
    network, state = model.network_, model.network_.state(1)
    return np.array([network.ops.download(network.scores(network.ops.upload(np.array([[id]])), state))[0] for id in ids], np.float64)


def softmax(values):
    values = np.exp(values - values.max(-1, keepdims=True))
    return values / values.sum(-1, keepdims=True)


@every_tokenizer
@pytest.mark.parametrize("options", SIZES, ids=str)
def test_known_symbols_keep_their_probabilities(tokenizer, options):
    model = fit(untrained(tokenizer=tokenizer, **options), epochs=5)
    size, text = model.tokenizer_.size, NEW[tokenizer] * 30
    before, score, weights = logits(model, range(size)), model.score(LINES), model.network_.weights()
    history = list(model.history_["epoch"])
    assert grown(model, text, **NO_STEP) is model
    new = model.tokenizer_.size - size
    assert new == len(set(text if tokenizer == "char" else text.split()) - {*model.tokenizer_.vocabulary.symbols[:size]}) > 0
    assert model.history_["epoch"] == [*history, 6]
    after = softmax(logits(model, range(size)))
    old = softmax(before)
    np.testing.assert_allclose(after[:, 1:size], old[:, 1:], rtol=1e-4)
    np.testing.assert_allclose(after[:, size:], np.repeat(after[:, :1], new, 1), rtol=1e-5)
    np.testing.assert_allclose(after[:, :1] + after[:, size:].sum(1, keepdims=True), old[:, :1], rtol=1e-4)
    assert model.score(LINES) == pytest.approx(score, rel=1e-5)
    for name, values in model.network_.weights().items():
        if name.startswith(("embedding", f"{model.network_.graph.names[-1]}")):
            continue
        np.testing.assert_array_equal(values, weights[name])
    np.testing.assert_array_equal(model.network_.weights()["embedding/W"][:size], weights["embedding/W"])


@pytest.mark.parametrize("initializer", ["glorot", "uniform"])
def test_new_vectors_are_initialised_like_those_of_a_new_model(initializer):
    model = fit(untrained(initializer=initializer))
    size = model.tokenizer_.size
    grown(model, NEW["char"] * 30, **NO_STEP)
    fresh = untrained(initializer=initializer, tokenizer=None, vocabulary_size=model.tokenizer_.size).network_.weights()
    np.testing.assert_array_equal(model.network_.weights()["embedding/W"][size:], fresh["embedding/W"][size:])


@pytest.mark.parametrize("cell", list(CELLS))
def test_every_cell_learns_the_new_symbols(cell):
    text = "to be or not to bé\n" * 30
    known = fit(untrained(cell=cell), epochs=3)
    with pytest.warns(UserWarning, match="extend_vocabulary=True gives them rows of their own"):
        fit(known, text, epochs=1)
    model = grown(fit(untrained(cell=cell), epochs=3), text, epochs=25, learning_rate=0.02)
    assert model.evaluate(text).oov == 0 and model.history_["loss"][-1] < 0.3 * model.history_["loss"][3]
    assert "é" in model.generate("to be or not to b", 200, seed=1)


@every_tokenizer
def test_min_count_and_max_vocabulary_apply_to_new_symbols(tokenizer):
    text, rare = {"char": ("kééßßß\n" * 4 + "ø\n", "ø"), "word": ("cow dog dog owl owl owl\n" * 4 + "emu\n", "emu")}[tokenizer]
    model = fit(untrained(tokenizer=tokenizer, min_count=2))
    size = model.tokenizer_.size
    grown(model, text, epochs=1, streams=1, steps=4)
    assert rare not in model.tokenizer_ and model.tokenizer_.size == size + 3
    model = fit(untrained(tokenizer=tokenizer, max_vocabulary=size + 1))
    with pytest.warns(UserWarning, match="has symbols that are not in the model's vocabulary") as caught:
        grown(model, text, epochs=1, streams=1, steps=4)
    assert model.tokenizer_.size == size + 1
    assert model.tokenizer_.vocabulary.symbols[-1] == {"char": "ß", "word": "owl"}[tokenizer]
    assert not any("extend_vocabulary" in str(one.message) for one in caught)  # no useless advice
    symbols = model.tokenizer_.vocabulary.symbols
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        grown(model, text, epochs=1, streams=1, steps=4)
    assert model.tokenizer_.vocabulary.symbols == symbols


@given(st.text(st.characters(), max_size=20), st.text(st.characters(), max_size=40))
def test_known_symbols_keep_their_ids(first, second):
    for kind in (CharTokenizer, WordTokenizer):
        tokenizer = kind.learn([first])
        larger = tokenizer.extended(kind.count([second]))
        assert larger.vocabulary.symbols[: tokenizer.size] == tokenizer.vocabulary.symbols
        assert set(larger.vocabulary.symbols) == {*tokenizer.vocabulary.symbols, *kind.learn([second]).vocabulary.symbols}
        assert not list(larger.unknown_symbols(second))


def test_a_first_training_and_bytes_need_no_extension():
    for tokenizer in ("char", "word", "byte"):
        plain, asked = fit(untrained(tokenizer=tokenizer)), grown(untrained(tokenizer=tokenizer), LINES * 8)
        assert_same_bits(asked.network_.weights(), plain.network_.weights())
    assert grown(asked, "中文\n" * 30).tokenizer_.size == 256


@pytest.mark.parametrize("model", [lambda: untrained(tokenizer=None, vocabulary_size=11), lambda: fit(untrained())], ids=["ids", "char"])
def test_ids_have_no_new_symbols(model):
    with pytest.raises(ConfigError, match="extend_vocabulary=True takes new symbols from a text, but the corpus is ids; leave it out"):
        grown(model(), [1, 2] * 50)


def test_a_failed_fit_does_not_change_the_vocabulary(tmp_path):
    model = fit(untrained())
    tokenizer, weights = model.tokenizer_, model.network_.weights()
    with pytest.raises(numba_rnnlm.errors.CorpusError, match="missing"):
        grown(model, NEW["char"] * 30, tmp_path / "missing")
    assert model.tokenizer_ is tokenizer
    assert_same_bits(model.network_.weights(), weights)


@every_tokenizer
def test_an_extended_model_can_be_saved_and_loaded(tokenizer, tmp_path):
    model = grown(fit(untrained(tokenizer=tokenizer, tied=True)), NEW[tokenizer] * 30)
    model.save(tmp_path / "m.npz")
    other = LanguageModel.load(tmp_path / "m.npz")
    assert other.tokenizer_ == model.tokenizer_ and other.score(NEW[tokenizer]) == model.score(NEW[tokenizer])
    assert other.generate("the", 20, seed=1, unknown="unk") == model.generate("the", 20, seed=1, unknown="unk")
    more = grown(other, "¿ und noch was ?\n" * 20)
    assert more.evaluate("¿ und noch was ?\n").oov == 0


def test_new_symbols_are_reported(capsys):
    grown(fit(untrained()), "to be or nét, nét, nö\n" * 20, verbose=2)
    assert "\nthe vocabulary has grown by 3 to 18 symbols: ',' (40 times), 'é' (40 times), 'ö' (20 times)\n" in capsys.readouterr().out


# Runs


@pytest.mark.parametrize("tied", [False, True])
def test_a_resumed_run_with_an_extended_vocabulary_gives_the_same_bytes(tied, tmp_path, monkeypatch):
    fit(untrained(tied=tied)).save(tmp_path / "start.npz")
    text, options = NEW["char"] * 40, {"epochs": 4, "streams": 2, "steps": 10, "verbose": 0, "extend_vocabulary": True, "valid": NEW["char"]}

    def run(name, **more):
        model = LanguageModel.load(tmp_path / "start.npz").fit(text, checkpoint=tmp_path / f"{name}.npz", **options, **more)
        model.save(tmp_path / f"{name}-model.npz")
        return (tmp_path / f"{name}-model.npz").read_bytes()

    whole = run("whole")
    write, calls = numba_rnnlm.language_model.fitting.write_model, []

    def stop(*arguments):
        write(*arguments)
        calls.append(arguments)
        if len(calls) == 3:
            raise RuntimeError("stopped")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stopped"):
        patch.setattr(numba_rnnlm.language_model.fitting, "write_model", stop)
        run("part", checkpoint_every=1e-6)
    assert run("part", checkpoint_every=1e-6, resume=tmp_path / "part.npz") == whole
    settings = LanguageModel.settings_of_run(tmp_path / "part.npz")[1]
    assert settings["extend_vocabulary"] is True


# The command line, in separate processes

BRIEF = ["--streams", "4", "--steps", "10", "--validation-split", "0", "--backend", "cpu"]


def process(*arguments, **options):
    home = str(Path(numba_rnnlm.__file__).parents[1])
    return subprocess.Popen([sys.executable, "-m", "numba_rnnlm", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env={**os.environ, "PYTHONPATH": home, **options.pop("env", {})}, **options)


@pytest.fixture
def start(tmp_path):
    trained("char").save(tmp_path / "char.npz")
    (tmp_path / "new.txt").write_text("to be ör not to bé\nthat is the quéstion\n" * 30, encoding="utf-8")
    return tmp_path


def test_training_on_new_symbols_causes_a_warning(start):
    run = process("train", start / "new.txt", "--from", start / "char.npz", "--out", start / "out.npz", "--epochs", 1, "--verbose", 0, *BRIEF)
    _, err = run.communicate(timeout=HANG)
    assert run.returncode == 0
    line = next(line for line in err.decode().splitlines() if "warning: " in line)
    assert line.endswith("has symbols that are not in the model's vocabulary and count as <unk>: 90 of 1,200 (7.5%), 'é' (60 times), 'ö' (30 times). "
                         "<unk> is easy to predict, so the loss says little; --extend-vocabulary gives them rows of their own.")
    assert LanguageModel.load(start / "out.npz").tokenizer_.size == trained("char").tokenizer_.size


def test_train_extends_the_vocabulary_and_is_killed_and_resumed(start, capsys):
    options = [start / "new.txt", "--from", start / "char.npz", "--extend-vocabulary", "--verbose", "2", *BRIEF]
    assert main(["train", *map(str, options), "--epochs", "60", "--out", str(start / "whole.npz")]) == 0
    out, err = capsys.readouterr()
    assert "warning" not in err and "\nthe vocabulary has grown by 2 to 17 symbols: 'é' (60 times), 'ö' (30 times)\n" in out
    run = [*options, "--epochs", 60, "--out", start / "part.npz", "--checkpoint", start / "run.npz", "--checkpoint-every", "0.02s",
           "--resume", start / "run.npz"]
    killed = process("train", *run)
    assert any(line.startswith(b"epoch 2") for line in killed.stdout)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=HANG)
    assert (start / "run.npz").exists() and not (start / "part.npz").exists()
    resumed = process("train", *run)
    assert resumed.communicate(timeout=HANG) and resumed.returncode == 0
    assert (start / "part.npz").read_bytes() == (start / "whole.npz").read_bytes()
