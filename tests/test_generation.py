"""Generation: the correct distribution, the same text for the same seed, and no symbols outside the training text."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import LINES, fit, trained, untrained

from numba_rnnlm.decoding import verbs
from numba_rnnlm.errors import ConfigError, CorpusError, GenerationError, ShapeError, VocabularyError
from numba_rnnlm.language_model import prompts

seeds = st.integers(0, 2**63 - 1)
lengths = st.integers(0, 12)
PROMPTS = {"char": "to b", "word": "to be or", "byte": "not", None: [3, 9]}
IDS = {"char": [3, 4], "word": [1], "byte": [110, 111], None: [3, 9]}
every_tokenizer = pytest.mark.parametrize("tokenizer", PROMPTS)


# Many symbols


@pytest.mark.parametrize(
    ("tokenizer", "prompt"), [*IDS.items(), ("char", PROMPTS["char"]), ("word", PROMPTS["word"])]
)
@given(
    first=lengths, second=lengths, seed=seeds,
    options=st.sampled_from([
        {}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.8}, {"temperature": 0}, {"weights": "int8"},
    ]),
)  # fmt: skip
def test_generating_in_two_calls_gives_the_same_text(tokenizer, prompt, first, second, seed, options):
    model = trained(tokenizer)

    def resume(prompt, length):
        generated = model.generate(prompt, length, seed=seed, **options)
        return prompt + generated if isinstance(prompt, str) else [*prompt, *generated.tolist()]

    assert resume(resume(prompt, first), second) == resume(prompt, first + second)


@every_tokenizer
@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_prompts_in_a_list_are_continued_independently(tokenizer, weights):
    model, prompt = trained(tokenizer), PROMPTS[tokenizer]
    prompts = [prompt, prompt[:2], prompt + prompt[::-1]] if tokenizer != "word" else ["to be or", "to", "the question"]
    got = model.generate(prompts, 12, seed=7, weights=weights)
    want = [model.generate(one, 12, seed=7 + n, weights=weights) for n, one in enumerate(prompts)]
    assert [list(ids) for ids in got] == [list(ids) for ids in want]
    assert model.generate([], weights=weights) == []


@every_tokenizer
@given(length=lengths, seed=seeds)
def test_the_pieces_of_a_stream_join_to_the_text(tokenizer, length, seed):
    model, prompt = trained(tokenizer), PROMPTS[tokenizer]
    pieces = list(model.stream(prompt, length, seed=seed))
    generated = model.generate(prompt, length, seed=seed)
    if tokenizer is None:
        assert pieces == generated.tolist()
        assert generated.dtype == np.int32
    else:
        assert "".join(pieces) == generated
        assert all(pieces)
    if tokenizer in ("char", None):
        assert len(generated) == length


def test_the_stream_delivers_symbols_immediately():
    model = trained("char")
    model.generate("to", 1)  # compiles the kernels
    tracemalloc.start()
    stream = model.stream("to", length=10**9, seed=1)
    assert len("".join(next(stream) for _ in range(5))) == 5
    assert tracemalloc.get_traced_memory()[1] < 1e7  # and needs memory only for the symbols generated so far
    tracemalloc.stop()


def test_other_seeds_and_temperatures_give_other_texts():
    model = trained("char")
    texts = {model.generate("to", 40, seed=seed, temperature=heat) for seed in range(5) for heat in (0.7, 1.0)}
    assert len(texts) == 10


def test_without_a_seed_each_call_draws_a_new_one(monkeypatch):
    model, drawn = trained("char"), iter([5, 6])
    monkeypatch.setattr(prompts.secrets, "randbits", lambda bits: next(drawn) if bits == 63 else None)
    texts = [model.generate("to", 30) for _ in range(2)]
    assert texts == [model.generate("to", 30, seed=seed) for seed in (5, 6)]
    assert texts[0] != texts[1]


def test_temperature_zero_repeats_the_most_probable_symbol():
    model = trained("char")
    greedy = model.generate("to b", 30, temperature=0)
    assert greedy == model.generate("to b", 30, top_k=1, seed=3) == model.generate("to b", 30, temperature=0, seed=9)
    text = "to b"
    for symbol in greedy:
        candidates = [known for known in model.tokenizer_.vocabulary.symbols if len(known) == 1]
        assert symbol == max(candidates, key=lambda known: model.score(text + known, eos=False))
        text += symbol


def test_drawn_symbols_follow_the_models_distribution():
    model = trained("char")
    scores = {symbol: model.score("to b" + symbol, eos=False) - model.score("to b", eos=False)
              for symbol in sorted(set(LINES))}
    drawn = [model.generate("to b", 1, seed=seed) for seed in range(2000)]
    total = sum(map(np.exp, scores.values()))  # <unk> is never generated
    for symbol, score in scores.items():
        wanted = np.exp(score) / total
        assert abs(drawn.count(symbol) / 2000 - wanted) < 5 * np.sqrt(wanted / 2000) + 1e-3


@pytest.mark.parametrize("size", [63, 64, 65, 150])
@pytest.mark.parametrize("stretch", [1, 7])
def test_a_long_prompt_may_be_read_in_pieces_of_any_size(size, stretch, monkeypatch):
    model = trained("char")
    prompt = (LINES * 5)[:size]
    want = model.generate(prompt, 20, seed=1)
    monkeypatch.setattr(verbs, "STEPS", stretch)
    assert model.generate(prompt, 20, seed=1) == want


def test_all_of_a_long_prompt_counts():
    model = untrained(cell="lstm", tokenizer=None, vocabulary_size=11)
    weights = model.network_.weights()
    model.network_.set_weights({name: 3 * weight for name, weight in weights.items()})
    prompt = np.arange(150) ** 2 % 11
    texts = {tuple(model.generate(np.r_[first, prompt[size:]], 20, seed=1)) for size in (0, 50, 149) for first in (1, 2)}
    assert len(texts) > 3


def test_streams_of_one_model_do_not_affect_each_other():
    model = trained("char")
    want = [model.generate(prompt, 10, seed=1) for prompt in ("to", "be")]
    pairs = list(zip(*(model.stream(prompt, 10, seed=1) for prompt in ("to", "be")), strict=True))
    assert ["".join(pieces) for pieces in zip(*pairs, strict=True)] == want


# Unknown symbols, and other symbols


@every_tokenizer
def test_length_zero(tokenizer):
    generated = trained(tokenizer).generate(PROMPTS[tokenizer], 0)
    assert generated == "" if tokenizer else generated.shape == (0,)


@pytest.mark.parametrize("tokenizer", ["char", "word", "byte"])
def test_without_a_prompt_the_model_starts_a_new_line(tokenizer):
    model = trained(tokenizer)
    assert model.generate(length=20, seed=1) == model.generate("", length=20, seed=1)
    line_end = np.array([model.tokenizer_.line_end])
    assert model.generate(length=20, seed=1) == model.tokenizer_.decode(model.generate(line_end, 20, seed=1))


def loves_unknown():
    """A model that predicts ``<unk>`` almost with certainty."""
    model = fit(untrained(), epochs=1)
    weights = model.network_.weights()
    weights["dense/b"][model.tokenizer_.unknown] = 50
    model.network_.set_weights(weights)
    return model


def test_the_unknown_symbol_is_never_generated():
    model = loves_unknown()
    assert model.full_scores("x")[0].log_probability > -1e-6
    for options in ({"temperature": 0}, {"seed": 1}, {"seed": 1, "top_k": 1}, {"seed": 1, "top_p": 0.1},
                    {"seed": 1, "weights": "int8"}):
        assert "\N{REPLACEMENT CHARACTER}" not in model.generate("to", 50, **options)
        assert model.tokenizer_.unknown not in model.generate(model.tokenizer_.encode("to"), 50, **options)


def test_ids_without_a_tokenizer_have_no_unknown_symbol():
    model = untrained(tokenizer=None, vocabulary_size=3)
    assert set(model.generate([1], 100, seed=1)) == {0, 1, 2}


@pytest.mark.parametrize(
    ("tokenizer", "prompt", "symbol", "position"), [("char", "to bé x", "é", 4), ("word", "to see or hear", "see", 3)]
)
def test_unknown_symbols_of_a_prompt_are_named_or_read_as_unknown(tokenizer, prompt, symbol, position):
    model = trained(tokenizer)
    message = f"the prompt has '{symbol}' at position {position}, which the training text does not have; .* unknown='unk'"
    with pytest.raises(VocabularyError, match=message):
        model.generate(prompt)
    with pytest.raises(VocabularyError, match=message):
        model.stream(prompt)  # raises immediately, not at the first symbol
    generated = model.generate(prompt, 10, seed=1, unknown="unk")
    known = prompt.replace(symbol, "ü").replace("hear", "smell").replace("x", "y")
    assert generated == model.generate(known, 10, seed=1, unknown="unk")


def test_bytes_are_never_unknown():
    assert len(trained("byte").generate("é中😀", 5, temperature=0)) == 5


def test_words_are_separated():
    model = fit(untrained(tokenizer="word", hidden=32), epochs=200)
    prompt = "to be or not to be"
    assert model.generate(prompt, 7, temperature=0) == "\nthat is the question\nto"
    assert model.generate("to be or", 1, temperature=0) == " not"
    assert model.generate(prompt + "\n", 2, temperature=0) == "that is"
    assert trained("word").generate(length=1, temperature=0, top_k=1)[0] != " "
    assert list(model.stream(prompt, 3, temperature=0)) == ["\n", "that", " is"]


def test_multi_byte_characters_are_delivered_whole():
    text = "né 中文 😀\n"
    model = fit(untrained(tokenizer="byte", hidden=64, embedding=32), text * 20, epochs=100, streams=2, steps=20)
    generated = (text * 3).encode()[1:]
    for size in range(2 * len(text.encode())):
        pieces = list(model.stream("中文 😀\nn", size, temperature=0))
        assert "".join(pieces) == generated[:size].decode(errors="replace")
        assert all(pieces)


@pytest.mark.parametrize(
    ("tokenizer", "arguments", "error", "message"),
    [
        (None, {}, ShapeError, r"the model has no tokenizer: the prompt must be an array of ids, such as np.array\(\[0\]\)"),
        (None, {"prompt": "text"}, ShapeError, "the model has no tokenizer"),
        (None, {"prompt": np.array([], int)}, ShapeError, "prompt is empty, expected at least one id"),
        (None, {"prompt": np.array([0.5])}, ShapeError, "prompt has dtype float64, expected integers"),
        (None, {"prompt": np.array([np.nan])}, ShapeError, "prompt has dtype float64"),
        (None, {"prompt": np.array([[1, 2]])}, ShapeError, r"prompt has type ndarray and shape \(1, 2\)"),
        (None, {"prompt": [1, 11]}, VocabularyError, r"prompt\[1\] is 11, expected 0 to 10"),
        ("char", {"prompt": [-1]}, VocabularyError, r"prompt\[0\] is -1"),
        ("char", {"prompt": None}, ShapeError, "prompt is None, expected a 1-D array"),
        (None, {"prompt": b"to"}, ShapeError, "the model has no tokenizer"),
        (None, {"prompt": [1], "as_bytes": True}, ConfigError, "as_bytes=True returns bytes, but the model has no tokenizer"),
        ("char", {"prompt": b"to\xff"}, CorpusError, "The prompt is not UTF-8: the byte at offset 2 is 0xff"),
        ("char", {"as_bytes": "yes"}, ConfigError, "as_bytes is 'yes', expected one of True, False"),
        ("char", {"length": -1}, ConfigError, "length is -1, expected a whole number of at least 0"),
        ("char", {"length": 2.5}, ConfigError, "length is 2.5"),
        ("char", {"temperature": -1}, ConfigError, "temperature is -1"),
        ("char", {"temperature": float("nan")}, ConfigError, "temperature is nan"),
        ("char", {"top_k": -1}, ConfigError, "top_k is -1"),
        ("char", {"top_p": 0}, ConfigError, "top_p is 0, expected a number above 0 and at most 1"),
        ("char", {"top_p": 1.5}, ConfigError, "top_p is 1.5"),
        ("char", {"seed": "1"}, ConfigError, "seed is '1'"),
        ("char", {"weights": "int4"}, ConfigError, "weights is 'int4', expected one of 'float32', 'int8'"),
        ("char", {"unknown": "skip"}, ConfigError, "unknown is 'skip', expected one of 'error', 'unk'"),
    ],
)
def test_invalid_arguments_are_rejected(tokenizer, arguments, error, message):
    with pytest.raises(error, match=message):
        trained(tokenizer).generate(**arguments)
    with pytest.raises(error, match=message):
        trained(tokenizer).stream(**arguments)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("change", [
    lambda model: fit(model, epochs=1),
    lambda model: model.network_.set_weights({name: 2 * array for name, array in model.network_.weights().items()}),
], ids=["fit", "set_weights"])
def test_a_text_is_never_generated_by_two_versions_of_a_model(backend, begun, change):
    model = fit(untrained(backend=backend))
    expected, stream = model.generate("to", 5, seed=1), model.stream("to", 10**6, seed=1)
    if begun:
        assert next(stream) == expected[0]
    change(model)
    with pytest.raises(GenerationError) as caught:
        list(stream)
    assert str(caught.value) == (
        "the weights of the model have changed since this text was begun; begin again, or train a copy, copy.deepcopy(model), while this "
        "model generates.")


def test_a_change_that_does_not_affect_the_weights_does_not_end_a_text():
    model = fit(untrained())
    expected, stream = model.generate("to", 400, seed=1), model.stream("to", 400, seed=1)
    text = next(stream)
    model.set_params(threads=2)
    with pytest.raises(CorpusError):
        fit(model, "\n")
    assert text + "".join(stream) == expected
