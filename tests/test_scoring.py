"""Perplexity and log-probabilities: every token is scored once, given all tokens before it."""

from itertools import pairwise
from math import e, exp, inf, log

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from models import LINES, trained, untrained

from numba_rnnlm import scoring
from numba_rnnlm.backends.cpu import threads
from numba_rnnlm.errors import ConfigError, CorpusError, ShapeError, VocabularyError
from numba_rnnlm.language_model import evaluating
from numba_rnnlm.scoring import Evaluation, log_probabilities
from numba_rnnlm.text import packed, sources

pytestmark = pytest.mark.filterwarnings("ignore:.*not in the model's vocabulary")

ANY = LINES + "x¿中"  # known and unknown symbols
sentences = st.text(st.sampled_from(sorted(set(ANY))), max_size=9) | st.text(st.sampled_from("ab t\n"), max_size=200)


def teacher_forced(model, ids):
    """Log-probability of each id but the first, computed step by step with a float64 softmax."""
    network = model.network_
    state, found = network.state(1), []
    for before, after in pairwise(ids):
        logits = network.ops.download(network.scores(network.ops.upload(np.array([[before]])), state))[0]
        logits = logits.astype(np.float64) - logits.max()
        found.append(logits[after] - np.log(np.exp(logits).sum()))
    return np.array(found)


# Sentences


@pytest.mark.parametrize("tokenizer", ["char", "word", "byte"])
@given(text=sentences, bos=st.booleans(), eos=st.booleans())
def test_full_scores_equal_teacher_forcing(tokenizer, text, bos, eos):
    model = trained(tokenizer)
    symbols = model.tokenizer_
    read = text.removesuffix("\n") if eos else text  # its newline is the one that eos adds
    ids = [symbols.line_end] * bos + symbols.encode(read).tolist() + [symbols.line_end] * eos
    scores = model.full_scores(text, bos, eos)
    unknown = iter(symbol for _, symbol in symbols.unknown_symbols(text))
    shown = [next(unknown, "<unk>") if id == symbols.unknown else symbols.symbol(id) for id in ids]
    if "<unk>" not in text:
        assert [score.token for score in scores] == shown[1:]
    assert [score.oov for score in scores] == [id == symbols.unknown for id in ids[1:]]
    np.testing.assert_allclose([score.log_probability for score in scores], teacher_forced(model, ids), atol=1e-5)
    total = model.score(text, bos, eos)
    assert isinstance(total, float)
    assert total == pytest.approx(sum(score.log_probability for score in scores))


def test_ids_are_scored_unchanged():
    model = trained("char")
    ids = model.tokenizer_.encode("to x be")
    scores = model.full_scores(ids)
    assert [score.token for score in scores] == ids[1:].tolist()
    assert [score.oov for score in scores] == [False, False, True, False, False, False]
    text = model.full_scores("to x be", bos=False, eos=False)
    assert [score.log_probability for score in scores] == [score.log_probability for score in text]
    assert model.score(ids) == model.score(ids.tolist()) == model.score("to x be", bos=False, eos=False)
    other = trained(None)
    assert other.full_scores([1, 4])[0].oov is False
    assert other.score([1, 4, 9]) == pytest.approx(teacher_forced(other, [1, 4, 9]).sum(), abs=1e-5)


def test_probabilities_are_below_one():
    model = trained("char")
    assert model.score("", bos=False, eos=False) == model.score("t", bos=False, eos=False) == 0
    assert model.full_scores("", bos=False) == []
    assert len(model.full_scores("")) == 1
    assert model.score([]).shape == (0,)


@given(st.lists(sentences, min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_order_and_batches_do_not_change_the_bits(texts, random):
    model = trained("char")
    alone = [model.score(text) for text in texts]
    assert model.score(texts).tolist() == alone
    order = list(range(len(texts)))
    random.shuffle(order)
    assert model.score([texts[index] for index in order]).tolist() == [alone[index] for index in order]
    assert model.score(tuple(texts)).tolist() == alone


@pytest.mark.parametrize("options", [{"threads": 1}, {"threads": 3}])
def test_more_sentences_than_fit_into_a_batch(options, monkeypatch):
    monkeypatch.setattr(threads, "WORTHWHILE", 1)
    model = untrained(cell="lstm", layers=2, hidden=33, tokenizer=None, vocabulary_size=50, **options)
    random = np.random.default_rng(1)
    rows = [random.integers(0, 50, size) for size in random.integers(1, 200, 150)]
    totals = model.score(rows)
    assert totals.tolist() == [model.score(row) for row in rows]
    assert totals[:3] == pytest.approx([teacher_forced(model, row).sum() for row in rows[:3]], rel=1e-5)
    monkeypatch.setattr(scoring, "STEPS", 7)
    monkeypatch.setattr(scoring, "SENTENCES", 11)
    assert model.score(rows).tolist() == totals.tolist()


def test_log_probabilities_of_empty_sentences():
    network = trained(None).network_
    found = log_probabilities(network, [np.array([], np.int32), np.array([1, 2, 3]), np.array([3])])
    assert [len(scores) for scores in found] == [0, 2, 0]
    assert log_probabilities(network, []) == []


@pytest.mark.parametrize(
    ("tokenizer", "sentence", "error", "message"),
    [
        (None, "text", ShapeError, "the model has no tokenizer: give an array of ids"),
        (None, np.array([0.5]), ShapeError, "sentence has dtype float64, expected integers"),
        (None, np.array([np.nan]), ShapeError, "sentence has dtype float64"),
        (None, np.zeros((2, 2), int), ShapeError, r"sentence has type ndarray and shape \(2, 2\), expected a 1-D array"),
        (None, [1, 11], VocabularyError, r"sentence\[1\] is 11, expected 0 to 10"),
        (None, [-1], VocabularyError, r"sentence\[0\] is -1"),
        (None, [[1], [2, -3]], VocabularyError, r"sentence\[1\] is -3"),
        (None, np.array([], int), ShapeError, "sentence is empty, expected at least one id"),
        (None, None, ShapeError, "sentence is None, expected"),
        ("char", 3, ShapeError, "sentence has type int"),
        ("char", ["one", 3.0], ShapeError, "sentence 1 is 3.0, expected a str, bytes, or an array of ids"),
        ("char", np.array(["one", None]), ShapeError, "sentence 1 is None"),
        ("char", [["one", "two"]], ShapeError, "sentence is a list of str, expected one text"),
        ("char", [[[1], [1, 2]]], ShapeError, r"sentence is \[\[1\], \[1, 2\]\], expected"),
    ],
)
def test_invalid_sentences(tokenizer, sentence, error, message):
    with pytest.raises(error, match=message):
        trained(tokenizer).score(sentence)


# Corpora


@pytest.mark.parametrize("tokenizer", ["char", "word", "byte"])
@given(text=st.text(st.sampled_from(sorted(set(ANY))), max_size=300))
def test_evaluate_agrees_with_score_on_short_texts(tokenizer, text):
    model = trained(tokenizer)
    text = "to be\n" + text
    tokens = model.full_scores(text, bos=False, eos=False)
    found = model.evaluate(text)
    assert found.tokens == len(tokens) == len(model.tokenizer_.encode(text)) - 1
    assert found.nats == pytest.approx(-sum(token.log_probability for token in tokens), rel=1e-5)
    assert found.oov == sum(token.oov for token in tokens)
    assert model.perplexity(text) == found.perplexity
    assert model.bits_per_character(text) == found.bits_per_character


def after_first(tokenizer, text):
    """The text after its first token, in bytes."""
    if tokenizer == "byte":
        return text.encode()[1:]
    if tokenizer == "char":
        return text[1:].encode()
    text = text.lstrip(" \t")
    return (text[1:] if text.startswith("\n") else text.removeprefix(text.split()[0])).encode()


@pytest.mark.parametrize("tokenizer", ["char", "word", "byte"])
@pytest.mark.parametrize("bos", [False, True])
@given(text=st.text(st.sampled_from(sorted({*ANY, "\t"})), max_size=60), size=st.integers(1, 9))
@example(text="a", size=9)  # "a\n": two tokens, one of which is scored
@example(text="¿", size=9)
@example(text="  \t to be", size=2)
def test_counts_cover_the_scored_tokens(tokenizer, bos, text, size):
    model, text = trained(tokenizer), text + "\n"
    symbols = model.tokenizer_.encode(text)
    assume(bos or len(symbols) > 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "CHUNK", size)
        found = model.evaluate(text, bos=bos)
    tokens = model.full_scores(text, bos=bos, eos=False)
    assert found.tokens == len(tokens) == len(symbols) - (not bos)
    assert found.nats == pytest.approx(-sum(token.log_probability for token in tokens), rel=1e-5)
    assert found.oov == sum(token.oov for token in tokens)
    scored = text.encode() if bos else after_first(tokenizer, text)
    assert (found.bytes, found.characters) == (len(scored), len(scored.decode(errors="ignore")))
    assert found.bits_per_character == pytest.approx(found.nats / log(2) / len(scored.decode(errors="ignore")))
    assert found.bits_per_byte == pytest.approx(found.nats / log(2) / len(scored))
    assert model.perplexity(text, bos=bos) == found.perplexity
    assert model.bits_per_character(text, bos=bos) == found.bits_per_character
    assert (" after the first," in str(found)) == (not bos)


@pytest.mark.parametrize("tokenizer", ["char", "word", "byte"])
@given(sentence=sentences.filter(lambda sentence: "\n" not in sentence))
def test_evaluate_and_score_give_the_same_perplexity(tokenizer, sentence):
    model = trained(tokenizer)
    tokens = len(model.full_scores(sentence))
    assert model.perplexity(sentence + "\n", bos=True) == pytest.approx(exp(-model.score(sentence) / tokens), rel=1e-5)
    if tokens > 1:
        inner = model.score(sentence, bos=False)
        assert model.perplexity(sentence + "\n") == pytest.approx(exp(-inner / (tokens - 1)), rel=1e-5)


def test_one_symbol_can_be_scored_with_bos(tmp_path):
    model = trained("char")
    assert model.evaluate("\n", bos=True).tokens == len(model.full_scores("")) == 1
    with pytest.raises(CorpusError, match="expected at least 2"):
        model.evaluate("\n")
    (tmp_path / "empty").write_text("")
    for bos in (False, True):
        with pytest.raises(CorpusError, match="contains no symbols, expected some text"):
            model.evaluate(tmp_path / "empty", bos=bos)


def test_bos_requires_text():
    for tokenizer in (None, "char"):
        with pytest.raises(ConfigError, match="bos=True puts a newline in front of a text, but the corpus is ids"):
            trained(tokenizer).evaluate([1, 4, 9], bos=True)
    with pytest.raises(ConfigError, match="bos is 'yes', expected one of True, False"):
        trained("char").evaluate("a\n", bos="yes")


def test_bytes_in_which_no_character_begins(tmp_path):
    (tmp_path / "bytes").write_bytes("é".encode())
    found = trained("byte").evaluate(tmp_path / "bytes")
    assert (found.tokens, found.bytes, found.characters, found.bits_per_character) == (1, 1, 0, None)
    with pytest.raises(ShapeError, match=r"no character begins in the bytes that are scored; see evaluate\(\.\.\.\)\.bits_per_byte"):
        trained("byte").bits_per_character(tmp_path / "bytes")
    assert trained("byte").evaluate(tmp_path / "bytes", bos=True).characters == 1


def test_a_long_text_with_bos(monkeypatch):
    model, text = trained("char"), LINES * 400
    monkeypatch.setattr(packed, "CHUNK", 1000)
    monkeypatch.setattr(sources, "MEMORY_BYTES", 100)  # stores the ids on disk
    found, without = model.evaluate(text, bos=True), model.evaluate(text)
    assert (found.tokens, found.characters) == (len(text), len(text))
    assert (without.tokens, without.characters) == (len(text) - 1, len(text) - 1)
    assert found.nats == pytest.approx(without.nats - model.score(text[0], eos=False), rel=1e-3)


@pytest.mark.parametrize("size", [1999, 2000, 5000, 41_001])
def test_every_token_counts_once_for_any_number_of_streams(size, monkeypatch):
    model = trained("word")
    random = np.random.default_rng(size)
    ids = random.integers(0, model.tokenizer_.size, size)
    found = {}
    for streams in (1, 3, 20):
        monkeypatch.setattr(evaluating, "EVALUATION_STREAMS", streams)
        found[streams] = model.evaluate(ids)
        assert found[streams].tokens == size - 1
        assert found[streams].oov == (ids[1:] == 0).sum()
        assert found[streams].characters is None
        assert found[streams].nats == pytest.approx(found[1].nats, rel=1e-5)  # with streams that start without context: 3e-5
    assert (found[20].nats == found[1].nats) == (size < 4000)  # shorter texts use one stream


def test_evaluate_of_a_long_text_equals_teacher_forcing():
    model = trained("char")
    random = np.random.default_rng(1)
    text = "".join(LINES[start : start + 40] for start in random.integers(0, 30, 300)) + "\n"
    want = -teacher_forced(model, model.tokenizer_.encode(text)).sum()
    assert model.evaluate(text).nats == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize(("backend", "tolerance"), [("cpu", 1e-6), ("reference", 1e-14)])
@pytest.mark.parametrize("size", [2, 11, 1000])
def test_a_uniform_model_has_the_perplexity_of_its_vocabulary(backend, tolerance, size):
    model = untrained(tokenizer=None, vocabulary_size=size, backend=backend)
    model.network_.set_weights({name: 0 * weight for name, weight in model.network_.weights().items()})
    ids = np.random.default_rng(size).integers(0, size, 100)
    assert model.perplexity(ids) == pytest.approx(size, rel=tolerance)
    assert model.score(ids) == pytest.approx(-99 * log(size), rel=tolerance)


def test_unknown_symbols_are_counted_and_scored_as_unknown():
    model = trained("char")
    found = model.evaluate("to bxxe\n¿中\n")
    assert (found.oov, found.tokens, found.characters, found.bytes) == (4, 10, 10, 13)
    unknown = {model.score(f"to be {symbol}", eos=False) for symbol in "x¿中"}
    assert len(unknown) == 1
    assert trained("byte").evaluate("¿中\n").oov == 0
    assert trained("word").evaluate("to see or not to see\n").oov == 2


def test_an_unknown_first_symbol_counts_if_it_is_scored():
    assert trained("char").evaluate("xt\n").oov == 0
    assert trained("char").evaluate("xt\n", bos=True).oov == 1
    assert trained("char").evaluate([0, 1, 0]).oov == 1


def test_training_improves_predictions():
    assert trained("char").perplexity(LINES) < untrained_perplexity(trained("char")) / 2


def untrained_perplexity(model):
    ids = model.tokenizer_.encode(LINES)
    return untrained(tokenizer=None, vocabulary_size=model.tokenizer_.size).perplexity(ids)


def test_a_corpus_of_ids_has_no_characters():
    model = trained(None)
    found = model.evaluate([1, 4, 9, 5])
    assert (found.characters, found.bytes, found.bits_per_character, found.bits_per_byte) == (None,) * 4
    with pytest.raises(ShapeError, match=r"a corpus of ids has no characters; see evaluate\(\.\.\.\)\.bits_per_token"):
        model.bits_per_character([1, 4, 9, 5])


@pytest.mark.parametrize("corpus", [[3], np.array([3], np.uint8)])
def test_a_single_token_cannot_be_predicted(corpus):
    with pytest.raises(CorpusError, match="expected at least 2"):
        trained(None).perplexity(corpus)
    with pytest.raises(CorpusError, match="expected at least 2"):
        trained("char").perplexity("\n")


@given(
    st.floats(0, 1e6), st.integers(1, 10**6), st.integers(1, 10**6), st.integers(1, 10**6)
)
def test_the_units_of_an_evaluation(nats, tokens, characters, size):
    found = Evaluation(nats, tokens, 0, characters, size)
    assert found.nats_per_token == nats / tokens
    assert found.bits_per_token == pytest.approx(nats / log(2) / tokens)
    assert found.perplexity == pytest.approx(2**found.bits_per_token if nats / tokens < 700 else inf)
    assert found.bits_per_character * characters == pytest.approx(nats / log(2))
    assert found.bits_per_byte * size == pytest.approx(nats / log(2))


def test_an_evaluation_as_text():
    assert Evaluation(nats=10.0, tokens=10).perplexity == pytest.approx(e)
    assert Evaluation(nats=8 * log(2), tokens=4, characters=2, bytes=16).bits_per_character == pytest.approx(4)
    assert Evaluation(nats=8 * log(2), tokens=4, characters=2, bytes=16).bits_per_byte == pytest.approx(0.5)
    assert Evaluation(nats=699.0, tokens=1).perplexity == exp(699)
    assert Evaluation(nats=1e5, tokens=1).perplexity == inf
