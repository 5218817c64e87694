"""Symbols outside the vocabulary are counted, reported, and scored by policy; compared with a direct computation from single tokens."""

import io
import json
import warnings
from collections import Counter
from math import log

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from models import LINES, fit, trained, untrained

from numba_rnnlm import LanguageModel
from numba_rnnlm.cli import main
from numba_rnnlm.config import UnknownConfig
from numba_rnnlm.errors import ConfigError, CorpusError
from numba_rnnlm.scoring import judge
from numba_rnnlm.text import CharTokenizer, WordTokenizer, encode_sentence, most_frequent, packed, read_corpus
from numba_rnnlm.text.unknown import UnknownCounter

NEW = ["to", "be", "that", "zebra", "né", "中文", "<unk>", " ", "  ", "\t", "\n", "x"]
texts = st.lists(st.sampled_from(NEW), max_size=25).map(" ".join) | st.text(st.sampled_from("to be\n zé中<unk>"), max_size=40)
penalties = st.floats(0, 20)
every_tokenizer = pytest.mark.parametrize("tokenizer", ["char", "word", "byte"])
every_policy = pytest.mark.parametrize("unknown", ["exclude", "penalize"])
quiet = pytest.mark.filterwarnings("ignore:.*not in the model's vocabulary")
pytestmark = quiet


def spelled(token):
    """The number of characters that are penalized."""
    return len(token.token) if token.oov and token.token != "<unk>" else 0


def chunks(text):
    """Words and newlines, each with the white space before it; independent of the library's implementation."""
    found, space = [], ""
    for character in text:
        if character == "\n":
            found.append(space + character)
            space = ""
        elif character.isspace():
            space += character
        elif found and not space and not found[-1].endswith("\n"):
            found[-1] += character
        else:
            found.append(space + character)
            space = ""
    return found


# Sentences


@every_tokenizer
@given(text=texts, bos=st.booleans(), eos=st.booleans(), penalty=penalties)
def test_each_policy_sums_over_the_tokens_of_a_sentence(tokenizer, text, bos, eos, penalty):
    model = trained(tokenizer)
    tokens = model.full_scores(text, bos, eos)
    p, oov = np.array([token.log_probability for token in tokens]), np.array([token.oov for token in tokens], bool)
    length = np.array([spelled(token) for token in tokens])
    assert model.score(text, bos, eos, unknown="exclude") == pytest.approx(p[~oov].sum())
    assert model.score(text, bos, eos, unknown="penalize", penalty=penalty) == pytest.approx((p - penalty * length).sum())
    assert model.score(text, bos, eos, unknown="penalize") == pytest.approx((p - log(100) * length).sum())
    assert model.full_scores(text, bos, eos, unknown="exclude") == [token for token in tokens if not token.oov]
    penalized = model.full_scores(text, bos, eos, unknown="penalize", penalty=penalty)
    assert [token._replace(log_probability=0) for token in penalized] == [token._replace(log_probability=0) for token in tokens]
    assert [token.log_probability for token in penalized] == pytest.approx((p - penalty * length).tolist())


def test_penalize_makes_unknown_words_score_lower():
    model = fit(untrained(tokenizer="word", max_vocabulary=4), epochs=8)  # <unk> is frequent
    good, bad = "to be be to", "to be qqqqq zzzz"
    assert model.score(bad) > model.score(good)
    assert model.score(bad, unknown="penalize") < model.score(good, unknown="penalize")


@given(st.integers(0, 20), st.data())
def test_judge_applies_each_policy(size, data):
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    scores, unknown = -random.random(size), random.random(size) < 0.4
    lengths = random.integers(1, 9, size) * unknown
    for config, want in ((UnknownConfig(), scores), (UnknownConfig("exclude"), scores[~unknown]),
                         (UnknownConfig("penalize", 3), scores - 3 * lengths)):
        found, counted = judge(scores, unknown, lengths, config)
        np.testing.assert_array_equal(found, want)
        assert counted.sum() == len(want)


@every_policy
def test_ids_have_no_characters(unknown):
    model = trained("char")
    ids = model.tokenizer_.encode("to x be\n")
    if unknown == "exclude":
        tokens = model.full_scores(ids)
        assert model.score(ids, unknown=unknown) == pytest.approx(sum(token.log_probability for token in tokens if not token.oov))
        found = model.evaluate(ids, unknown=unknown)
        assert (found.tokens, found.oov, found.characters) == (6, 1, None)
        return
    for measure in (model.score, model.full_scores, model.evaluate, model.perplexity):
        with pytest.raises(ConfigError, match="unknown='penalize' counts the characters of unknown symbols, but ids have none"):
            measure(ids, unknown=unknown)


def test_invalid_policies_are_rejected():
    model = trained("char")
    for measure in (model.score, model.full_scores, model.evaluate, model.perplexity, model.bits_per_character):
        with pytest.raises(ConfigError, match="unknown is 'skip', expected one of 'count', 'exclude', 'penalize'"):
            measure("to be\n", unknown="skip")
        with pytest.raises(ConfigError, match="penalty is 3 with unknown='count'"):
            measure("to be\n", penalty=3)


# Corpora


@every_tokenizer
@pytest.mark.parametrize("bos", [False, True])
@given(text=texts, size=st.integers(1, 9), penalty=penalties)
def test_each_policy_sums_over_the_tokens_of_a_corpus(tokenizer, bos, text, size, penalty):
    model, text = trained(tokenizer), text + "\n"
    tokens = model.full_scores(text, bos=bos, eos=False)
    assume(any(not token.oov for token in tokens))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "CHUNK", size)
        excluded = model.evaluate(text, bos=bos, unknown="exclude")
        penalized = model.evaluate(text, bos=bos, unknown="penalize", penalty=penalty)
        plain = model.evaluate(text, bos=bos)
    known = [token for token in tokens if not token.oov]
    assert excluded.tokens == len(known) and excluded.oov == penalized.oov == plain.oov == len(tokens) - len(known)
    assert excluded.nats == pytest.approx(-sum(token.log_probability for token in known), rel=1e-5)
    assert penalized.nats == pytest.approx(plain.nats + penalty * sum(map(spelled, tokens)), rel=1e-5)
    assert (penalized.tokens, penalized.characters, penalized.bytes) == (plain.tokens, plain.characters, plain.bytes)
    ids = model.tokenizer_.encode(text)
    pieces = chunks(text) if tokenizer == "word" else list(text) if tokenizer == "char" else []
    left_out = "".join(piece for piece, id in list(zip(pieces, ids, strict=tokenizer != "byte"))[not bos :] if id == model.tokenizer_.unknown)
    assert (excluded.characters, excluded.bytes) == (plain.characters - len(left_out), plain.bytes - len(left_out.encode()))
    assert model.perplexity(text, bos=bos, unknown="exclude") == excluded.perplexity
    if excluded.characters:
        assert model.bits_per_character(text, bos, "exclude") == excluded.bits_per_character


@pytest.mark.parametrize("streams", [1, 20])
def test_policies_do_not_depend_on_the_number_of_streams(streams, monkeypatch):
    monkeypatch.setattr("numba_rnnlm.language_model.evaluating.EVALUATION_STREAMS", streams)
    text = (LINES + "the zebra sees\n") * 500
    model = trained("word")
    found, plain = model.evaluate(text, unknown="exclude"), model.evaluate(text)
    assert found.oov == plain.oov == 500 * 2 == plain.tokens - found.tokens
    assert plain.characters - found.characters == 500 * len(" zebra sees")
    assert model.evaluate(text, unknown="penalize", penalty=1).nats == pytest.approx(plain.nats + 500 * len("zebrasees"))


def test_an_evaluation_prints_its_policy():
    model = trained("word")
    assert str(model.evaluate("to see or not\n")).endswith(", 1 not in the vocabulary")
    assert str(model.evaluate("to see or not\n", unknown="exclude")).endswith("3 tokens after the first, 1 not in the vocabulary left out")
    assert str(model.evaluate("to see or not\n", unknown="penalize")).endswith("1 not in the vocabulary penalized")


@pytest.mark.parametrize(("source", "bos"), [("x中y", True), ("tx中y", False), (np.array([3, 0, 0]), False)])
def test_excluding_every_token_is_an_error(source, bos):
    model = trained("char")
    source = source + "中" * 2000 if isinstance(source, str) else source
    with pytest.raises(CorpusError, match=r"all that is scored of (text|ids) is not in the vocabulary, and unknown='exclude' leaves it out"):
        model.evaluate(source, bos=bos, unknown="exclude")


@given(st.lists(st.sampled_from(["the", "cow", "<unk>", "<eos>", "né", "中文"]), min_size=1, max_size=12),
       st.lists(st.sampled_from([" ", "\n", "\t ", " \n", "\x0c"]), min_size=12, max_size=12), st.integers(1, 9))
def test_counts_of_unknown_symbols_do_not_depend_on_the_pieces(words, spaces, size):
    tokenizer = WordTokenizer.learn(["the dog"])
    text = "".join(word + space for word, space in zip(words, spaces, strict=False)) + "\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "CHUNK", size)
        read = read_corpus(text, tokenizer)
    places = read.ids == 0
    pieces = [piece for piece, unknown in zip(chunks(text), places, strict=True) if unknown]
    assert read.missing.symbols == Counter(word for word in words if word not in ("the", "<unk>", "<eos>"))
    assert (read.missing.tokens, read.missing.characters) == (len(pieces), len("".join(pieces)))
    assert read.missing.bytes == len("".join(pieces).encode())
    first = pieces[0] if places[0] else ""
    assert read.scored.missing.characters == read.missing.characters - len(first)
    assert read.scored.missing.tokens == read.missing.tokens - bool(first) == read.scored.unknown
    assert read.scored.missing.spelled == read.missing.spelled - (0 if "<unk>" in first else len(first.strip()))


def test_surrogates_and_astral_characters_are_counted_one_by_one():
    text = "to\ud800\udc00😀😀\n"
    counter = UnknownCounter(CharTokenizer.learn(["to"]))
    assert [ids.tolist() for ids in counter.encode([text])] == [[3, 2, 0, 0, 0, 0, 1]]
    assert counter.all().symbols == Counter("\ud800\udc00😀😀")
    sentence = encode_sentence(counter.tokenizer, text, bos=False, eos=False)
    assert sentence.spelled.tolist() == [0, 0, 1, 1, 1, 1, 0] and list(sentence.symbols) == ["\ud800", "\udc00", "😀", "😀"]


def test_the_most_frequent_symbols_are_named():
    assert most_frequent({"b": 2, "a": 2, "c": 1000}) == "'c' (1,000 times), 'a' (2 times), 'b' (2 times)"
    assert most_frequent({"a" * 21: 1, "b" * 20: 1}) == f"'{'a' * 20}'... (once), '{'b' * 20}' (once)"
    assert most_frequent({f"w{number}": 1 for number in range(9)}).endswith("'w4' (once) and 4 more")


# Warnings

KNOWN = LINES * 20


def messages(caught):
    return [str(one.message) for one in caught if "not in the model's vocabulary" in str(one.message)]


def with_unknown(part):
    """A text with this fraction of unknown characters."""
    count = round(part * len(KNOWN) / (1 - part))
    return KNOWN + "é" * count


@pytest.mark.parametrize(("part", "warned"), [(0.0, False), (0.005, False), (0.02, True), (0.5, True)])
def test_more_than_one_percent_causes_a_warning(part, warned):
    model, text = trained("char"), with_unknown(part)
    for measure in (model.evaluate, model.perplexity, model.bits_per_character, lambda text: model.score(text.split("\n"))):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            measure(text)
        assert len(messages(caught)) == warned
        for one in caught:
            assert one.filename == __file__ and "'é' (" in str(one.message) and "unknown='exclude' leaves them out" in str(one.message)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for policy in ("exclude", "penalize"):
            model.evaluate(text, unknown=policy)
            model.score(text, unknown=policy)
        model.full_scores(text[:100])
        model.score(model.tokenizer_.encode(text))
        trained("byte").evaluate(text)
    assert not messages(caught)


def test_unknown_symbols_in_the_validation_text_cause_a_warning(capsys):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(untrained(), valid=with_unknown(0.1), epochs=1)
        fit(untrained(), valid=with_unknown(0.005), epochs=1, verbose=2)
    (message,) = messages(caught)
    assert "(10%), 'é' (" in message and "to compare models, evaluate with unknown='exclude' or unknown='penalize'" in message
    assert "text has symbols that are not in the model's vocabulary and count as <unk>: " in capsys.readouterr().out


def test_a_limited_vocabulary_causes_no_warning():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = fit(untrained(tokenizer="word", max_vocabulary=9), LINES * 20, valid=LINES * 3, epochs=1)
        assert model.evaluate(LINES).oov == 1
        model.score(LINES)
        literal = fit(untrained(tokenizer="word"), "to <unk> or not\n" * 40, valid="to <unk> or\n", epochs=1)
        assert literal.evaluate("<unk> to <unk>\n").oov == 1
        literal.score("to <unk>")
        assert not messages(caught)
        model.evaluate("the zebra sees a cow\n" + LINES)
    assert len(messages(caught)) == 1


# The command line, in this process


@pytest.fixture(scope="module")
def word(tmp_path_factory):
    path = tmp_path_factory.mktemp("unknown") / "word.npz"
    trained("word").save(path)
    return str(path)


def scored(word, monkeypatch, capsys, data, *flags):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data.encode())))
    assert main(["score", word, *flags]) == 0
    return capsys.readouterr()


LINES_TO_SCORE = "to be or not\nto see or hear\nto <unk>\n"


@pytest.mark.parametrize(("flags", "options", "what"), [
    ([], {}, "were scored as <unk>, which may be more probable than they are: 'hear' (once), 'see' (once); --counts shows how many each line "
             "has, --unknown exclude leaves them out, --unknown penalize adds the cost of spelling them.\n"),
    (["--unknown", "exclude"], {"unknown": "exclude"}, "were left out: 'hear' (once), 'see' (once).\n"),
    (["--unknown=penalize", "--penalty=2"], {"unknown": "penalize", "penalty": 2.0},
     "were penalized by 2.000 nats per character: 'hear' (once), 'see' (once).\n"),
])
def test_score_reports_unknown_symbols_in_its_last_line(word, monkeypatch, capsys, flags, options, what):
    lines = LINES_TO_SCORE.splitlines()
    model = LanguageModel.load(word)
    out, err = scored(word, monkeypatch, capsys, LINES_TO_SCORE, "--counts", *flags)
    rows = [row.split("\t") for row in out.splitlines()]
    assert [float(score) for score, _, _ in rows] == pytest.approx(model.score(lines, **options).tolist(), abs=1e-5)
    assert [int(count) for _, count, _ in rows] == [len(model.full_scores(line, **options)) for line in lines]
    assert [oov for _, _, oov in rows] == ["0", "2", "1"]
    assert err == f"numba-rnnlm: 2 of 13 tokens, in 1 of 3 lines, are not in the vocabulary and {what}"
    out, err = scored(word, monkeypatch, capsys, LINES_TO_SCORE, "--json", "--per-token", *flags)
    for line, row in zip(lines, map(json.loads, out.splitlines()), strict=True):
        want = model.full_scores(line, **options)
        assert (row["tokens"], row["oov"]) == (len(want), sum(token.oov for token in model.full_scores(line)))
        assert row["log_probability"] == pytest.approx(sum(token.log_probability for token in want), abs=1e-5)
        assert [oov for _, _, oov in row["scores"]] == [token.oov for token in want]
    out, _ = scored(word, monkeypatch, capsys, LINES_TO_SCORE, "--per-token", *flags)
    assert [row.split("\t")[0] for row in out.splitlines() if row] == [token.token for line in lines for token in model.full_scores(line, **options)]


def test_score_reports_nothing_if_all_symbols_are_known(word, monkeypatch, capsys):
    for data in ("to be or not\n", "to <unk>\n"):
        assert scored(word, monkeypatch, capsys, data).err == ""


def test_counts_and_per_token_exclude_each_other(word, capsys):
    assert main(["score", word, "--counts", "--per-token"]) == 2
    assert "--counts prints numbers per line, --per-token prints lines per token" in capsys.readouterr().err


@pytest.mark.parametrize(("flags", "options", "label"), [
    ([], {}, "not in the vocabulary"), (["--unknown", "exclude"], {"unknown": "exclude"}, "not in the vocabulary, left out"),
    (["--unknown", "penalize", "--penalty", "3"], {"unknown": "penalize", "penalty": 3}, "not in the vocabulary, penalized"),
])
def test_eval_applies_the_policy(word, tmp_path, capsys, flags, options, label):
    (tmp_path / "text").write_text(LINES_TO_SCORE)
    found = LanguageModel.load(word).evaluate(tmp_path / "text", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["eval", word, str(tmp_path / "text"), *flags]) == 0
    out, err = capsys.readouterr()
    rows = dict(line.rsplit(maxsplit=1) for line in out.splitlines())
    assert (rows["perplexity"], rows[label]) == (f"{found.perplexity:.4f}", "3")
    assert ("warning: " in err and "--unknown exclude leaves them out, and --unknown penalize adds" in err) == (not flags)
    assert main(["eval", word, str(tmp_path / "text"), "--json", *flags]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["nats_per_token"], report["oov"], report["unknown"]) == (found.nats_per_token, 3, options.get("unknown", "count"))


@pytest.mark.parametrize("command", ["score", "eval"])
def test_a_penalty_without_penalize_is_an_error(word, tmp_path, capsys, command):
    (tmp_path / "text").write_text(LINES_TO_SCORE)
    assert main([command, word, str(tmp_path / "text"), "--penalty", "3"]) == 2
    assert "error: --penalty is 3.0 with --unknown count; only --unknown penalize has one.\n" in capsys.readouterr().err
