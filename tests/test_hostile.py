"""Any untrusted file or text is either read correctly or rejected with a message.

:mod:`fuzz` damages thousands of files in a separate process with little memory; the other tests here make statements about each file.
"""

import json
import os
import subprocess
import sys
import tempfile
from datetime import date
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from checks import HANG, call
from fuzz import work
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from models import as_read, fit, untrained, words_of

import numba_rnnlm
from numba_rnnlm import LanguageModel, backends
from numba_rnnlm.config import TextConfig
from numba_rnnlm.errors import CorpusError
from numba_rnnlm.text import learn_tokenizer, read_corpus

TOKENIZERS = ("char", "word", "byte")
TESTS = Path(__file__).parent
CASES = int(os.environ.get("NUMBA_RNNLM_FUZZ_CASES", "1500"))  # number of model files; a third as many texts
FIRST = 10_000 * date.today().toordinal()  # the number of the first case, which changes every day

# Files


@pytest.mark.parametrize(("kind", "cases"), [("models", CASES), ("corpora", CASES // 3), ("line", 1)])
def test_fuzzed_files_are_read_or_rejected(kind, cases, tmp_path, capsys):
    paths = os.pathsep.join(map(str, (Path(numba_rnnlm.__file__).parents[1], TESTS)))
    done = subprocess.run(
        [sys.executable, "-m", "fuzz", kind, "--cases", str(cases), "--first", str(FIRST), "--processes", "2", "--failures", str(tmp_path)],
        capture_output=True, text=True, timeout=HANG + CASES, cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths},
    )  # fmt: skip
    with capsys.disabled():  # prints the number of the first case, by which the run can be repeated on another day
        print("\nfuzzing:", done.stdout.strip(), end=" ", flush=True)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}the files are in {tmp_path}"
    figures = json.loads(done.stdout.splitlines()[-1])
    assert (figures["cases"], figures["failures"], figures["read"] + figures["rejected"]) == (cases, 0, cases)
    assert min(figures["read"], figures["rejected"]) > cases / 20 or (kind, figures["read"]) == ("line", 1)  # both outcomes occur


def test_work_is_linear_in_the_length_of_a_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grown = {name: work.growth(count) for name, count in work.ways()}
    assert {name: times for name, times in grown.items() if times > work.LARGEST} == {}
    assert min(grown[name] for name in ("lines whole, scored", "spaces in pieces, evaluated", "files in a folder, evaluated")) > 2  # the counter works


# Texts

TEXTS = {
    "lone surrogates": "a\ud800b \udfff\n\udc80\ud83d\n",
    "line ends of other systems": "one\r\ntwo\r\n\rthree\n\r",
    "byte order marks": "\ufeffone \ufeff two\n\ufeff\n",
    "nul": "a\0b \0\n\0\0\n",
    "emoji": "👩🏽‍🚀 🏳️‍🌈 🇩🇪🇯🇵 👍🏿\n1️⃣ 👨‍👩‍👧‍👦\n",
    "right to left": "שלום עולם\nمرحبا \u202eabc\u202c\u2066x\u2069 \u200f\n",
    "combining marks": "e\u0301\u0323 o\u0308\u0304 \u0301\n" + "Z" + "\u0335\u0300" * 100 + "\n",
    "white space": "a\u2028b\u2029c\x85d\x1ce\x1df\x1eg\x1fh\x0bi\x0cj\xa0k\u2003l\u3000m\u200bn\tp q\n \u2028 \n\x85\n",
    "ends of planes": "\uffff\ufffe \U0001ffff\U0010ffff\n\U00010000\n",
    "names of symbols": "<unk> <eos> unk\n<unk>\n",
}
any_text = st.text(st.characters(exclude_categories=()), min_size=1, max_size=40)


@cache
def folder():
    return tempfile.TemporaryDirectory()


def results(model, text):
    """The model's results for this text, and what it generates."""
    lines, read = text.split("\n"), as_read(text, model.tokenizer_.name)
    found = [model.score(lines).tolist(), model.full_scores(text), model.evaluate(text), model.generate(length=8, seed=1),
            model.generate(text, length=8, seed=2, unknown="unk"), model.generate(lines, length=3, seed=3, unknown="unk")]  # fmt: skip
    assert np.isfinite(found[0]).all() and found[2].tokens == len(model.tokenizer_.encode(read)) - 1
    assert len(found[1]) == found[2].tokens + 1 + (not read.endswith("\n"))  # includes the first token and a newline
    return found


def check_training_and_saving(tokenizer, text, corpus):
    """Train a model on this corpus, which contains that text, and check that saving and loading do not change its results."""
    model = fit(untrained(hidden=3, embedding=2, tokenizer=tokenizer), corpus, epochs=1, streams=1, steps=50)
    found = results(model, text)
    path = Path(folder().name) / "model.npz"
    model.save(path)
    loaded = LanguageModel.load(path)
    assert loaded.tokenizer_ == model.tokenizer_
    assert results(loaded, text) == found
    text = as_read(text, tokenizer)
    ids = model.tokenizer_.encode(text)
    decoded = text
    if tokenizer == "word":  # decoding restores no white space but newlines
        decoded = "\n".join(" ".join(words_of(line)) for line in text.split("\n"))
    if tokenizer == "byte":
        assert bytes(ids.tolist()) == text.encode("utf-8", "surrogatepass")
    elif tokenizer == "char" or "<" not in text:
        assert model.tokenizer_.decode(ids) == decoded


@pytest.mark.filterwarnings("ignore:.* of the symbols of .* count as <unk>", "ignore:.* carriage returns ", "ignore:.* bytes that are zero")
@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_any_text_can_be_trained_on_and_scored(text, tokenizer, tmp_path):
    check_training_and_saving(tokenizer, text, text)
    path = tmp_path / "text.txt"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    if tokenizer != "byte" and "\ud800" in text:
        with pytest.raises(CorpusError, match=r"is not UTF-8: the byte at offset 1 is 0xed.*tokenizer='byte'"):
            untrained(tokenizer=tokenizer).fit(path, verbose=0)
        return
    check_training_and_saving(tokenizer, text, path)
    assert (read_corpus(path, learn_tokenizer(path, TextConfig(tokenizer))).ids.tolist()
            == read_corpus(text, learn_tokenizer(text, TextConfig(tokenizer))).ids.tolist())


@pytest.mark.filterwarnings("ignore:.* carriage returns ", "ignore:.* bytes that are zero")
@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@given(text=any_text)
def test_any_drawn_text_can_be_trained_on_and_scored(tokenizer, text):
    text = text + "\n\n"
    check_training_and_saving(tokenizer, text, text)


@pytest.mark.filterwarnings("ignore:.* not in the model's vocabulary", "ignore:.* bytes that are zero")
@pytest.mark.parametrize("tokenizer", ["char", "word"])
@given(text=any_text)
def test_a_model_reads_unseen_text(tokenizer, text):
    results(known(tokenizer), text + "\n\n")


@cache
def known(tokenizer):
    return fit(untrained(hidden=3, embedding=2, tokenizer=tokenizer), epochs=1)


# Numbers

LARGEST = float(np.finfo(np.float32).max)
HUGE = float(np.float32(3e38))
elements = st.floats(-HUGE, HUGE, width=32) | st.floats(-100, 100, width=32) | st.sampled_from([HUGE, -HUGE, 0])
logits = arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 40)), elements=elements)


def assert_right(got, want):
    """Check that values are accurate, and finite wherever float32 can represent them: logits can differ by more than the largest float32."""
    assert not np.isnan(got).any() and np.isfinite(got[abs(want) < 0.999 * LARGEST]).all()
    np.testing.assert_allclose(np.clip(got, -LARGEST, LARGEST), np.clip(want, -LARGEST, LARGEST), rtol=1e-6, atol=1e-5)


def both(verb, result, **arguments):
    """The result of a verb on the CPU in float32, and that of the reference."""
    both = backends.get("cpu", "float32", threads=2), backends.get("reference")
    return (call(ops, verb, arguments)[result] for ops in both)


@given(logits)
@example(np.full((2, 5), HUGE, np.float32))
@example(np.full((2, 33), -HUGE, np.float32))
@example(np.array([[HUGE, 1, HUGE], [-HUGE, 0, 0]], np.float32))
def test_softmax_of_any_finite_logits(x):
    assert_right(*both("activate", "x", activation="softmax", x=x))


@given(x=logits, data=st.data())
def test_the_loss_of_any_finite_logits(x, data):
    targets = np.array(data.draw(st.lists(st.integers(-1, x.shape[1] - 1), min_size=len(x), max_size=len(x))), np.int32)
    assert_right(*losses(x, targets))


@pytest.mark.parametrize("columns", [1, 2, 5, 16, 33])
@pytest.mark.parametrize("value", [HUGE, -HUGE, 1e4, 0])
def test_the_loss_of_equal_logits(columns, value):
    got, want = losses(np.full((2, columns), value, np.float32), np.array([0, columns - 1], np.int32))
    np.testing.assert_allclose(want, np.log(columns), atol=1e-12)
    assert_right(got, want)


def losses(x, targets):
    one = np.eye(x.shape[1], dtype=np.float32)  # makes x the logits
    return both("cross_entropy", "losses", x=x, W=one, b=None, targets=targets, losses=np.zeros(len(x)))
