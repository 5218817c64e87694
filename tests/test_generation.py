"""Writing: the right distribution, the same text for the same seed, nothing that was never seen."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import strategies
from checks import from_python
from hypothesis import assume, example, given
from hypothesis import strategies as st
from models import LINES, fit, trained, untrained

from numba_rnnlm import generation, language_model
from numba_rnnlm.backends.cpu import sampling, sums
from numba_rnnlm.config import SamplingConfig
from numba_rnnlm.errors import ConfigError, CorpusError, GenerationError, ShapeError, VocabularyError
from numba_rnnlm.generation import choose, uniform

chosen, drawn = from_python(sampling.choose), from_python(sampling.uniform)
found_in, summed = from_python(sampling._find), from_python(sums.wide_total)
largest = 1 - 2**-53  # number that is drawn
logits = st.lists(st.floats(-4, 4), min_size=1, max_size=12).map(np.array)
apart = logits.map(lambda values: np.round(64 * values) / 64)  # equal, or so far apart that float32 sees it
temperatures = st.floats(0.3, 5)
seeds = st.integers(0, 2**63 - 1)
lengths = st.integers(0, 12)
PROMPTS = {"char": "to b", "word": "to be or", "byte": "not", None: [3, 9]}
IDS = {"char": [3, 4], "word": [1], "byte": [110, 111], None: [3, 9]}
every_tokenizer = pytest.mark.parametrize("tokenizer", PROMPTS)


def choose_on_the_cpu(values, config, number, banned=()):
    """``choose`` by the kernel that decoders draw with."""
    row, scratch = np.array(values, np.float32), np.empty(len(values), np.float32)
    return chosen(
        row, np.array(banned, np.int64), config.temperature, config.top_k, config.top_p, number, scratch
    )  # fmt: skip


every_choose = pytest.mark.parametrize("choose", [choose, choose_on_the_cpu])


def frequencies(choose, values, config, numbers=2000):
    """How often each id is picked by numbers spread evenly over [0, 1)."""
    picked = [choose(values, config, (number + 0.5) / numbers) for number in range(numbers)]
    return np.bincount(picked, minlength=len(values)) / numbers


def distribution(values, temperature, top_k, top_p):
    """What should be drawn from: the definition, symbol by symbol."""
    weights = np.exp(values / temperature - (values / temperature).max())
    ranked = sorted(range(len(values)), key=lambda id: (-values[id], id))[: top_k or None]
    total, reached, kept = sum(weights[id] for id in ranked), 0.0, []
    for id in ranked:
        if kept and reached / total >= top_p:
            break
        assume(abs(reached / total - top_p) > 1e-6)
        reached += weights[id]
        kept.append(id)
    wanted = np.zeros(len(values))
    wanted[kept] = weights[kept] / weights[kept].sum()
    return wanted


# One symbol


@every_choose
@given(apart, temperatures, st.integers(0, 14), st.sampled_from([1.0]) | st.floats(0.01, 1))
def test_choose_draws_from_the_softmax_of_those_that_are_left(choose, values, temperature, top_k, top_p):
    found = frequencies(choose, values, SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p))
    wanted = distribution(values, temperature, top_k, top_p)
    np.testing.assert_allclose(found, wanted, atol=1 / 2000 + 1e-6)
    assert not found[wanted == 0].any()


@given(logits, st.floats(0, 1, exclude_max=True))
@example(np.array([-1e-17, 0.0]), 0.0)  # their exponentials are equal
def test_no_temperature_and_one_candidate_take_the_most_probable(values, number):
    check_the_most_probable(choose, values, number)


@given(apart, st.floats(0, 1, exclude_max=True))
def test_the_kernel_does_so_too(values, number):
    check_the_most_probable(choose_on_the_cpu, values, number)


def check_the_most_probable(choose, values, number):
    want = int(np.argmax(values))
    assert choose(values, SamplingConfig(temperature=0), number) == want
    assert choose(values, SamplingConfig(top_k=1), number) == want
    assert choose(values, SamplingConfig(top_p=1e-9), number) == want
    assert choose(values, SamplingConfig(temperature=0, top_k=3, top_p=0.5), number) == want


@every_choose
@given(st.integers(1, 6), st.integers(1, 6))
def test_of_equals_the_first_are_kept(choose, size, top_k):
    found = frequencies(choose, np.zeros(size), SamplingConfig(top_k=top_k))
    assert np.flatnonzero(found).tolist() == list(range(min(size, top_k)))


@given(logits, st.data(), temperatures)
def test_a_symbol_of_no_probability_is_never_drawn(values, data, temperature):
    banned = sorted(data.draw(st.sets(st.integers(0, len(values) - 1), max_size=len(values) - 1)))
    barred = values.copy()
    barred[banned] = -np.inf
    for number in (0.0, 0.5, largest):
        for options in ({"temperature": temperature}, {"temperature": 0}, {"top_k": 3}, {"top_p": 0.5}, {"top_p": 1e-9}):
            config = SamplingConfig(**options)
            assert choose(barred, config, number) not in banned
            assert choose_on_the_cpu(values, config, number, banned) not in banned


@every_choose
def test_temperature_may_be_extreme(choose):
    values = np.array([1.0, 3.0, 2.0])
    for heat in (1e-300, 1e-45, 1e-38, 1e-6):
        assert {choose(values, SamplingConfig(temperature=heat), number) for number in (1e-9, 0.5, 0.999)} == {1}
        assert [choose(np.zeros(2), SamplingConfig(temperature=heat), number) for number in (0.0, 0.999)] == [0, 1]
    np.testing.assert_allclose(frequencies(choose, values, SamplingConfig(temperature=1000)), 1 / 3, atol=2e-3)
    assert choose(np.array([1e30, -1e30, 0], np.float32), SamplingConfig(), 0.999) == 0


@given(
    random=strategies.generators, size=st.integers(1, 3 * sampling.BLOCK + 5), spread=st.sampled_from([1, 8]),
    temperature=temperatures, top_k=st.sampled_from([0]) | st.integers(1, 900), top_p=st.sampled_from([1.0]) | st.floats(0.01, 1),
)  # fmt: skip
def test_the_kernel_picks_what_choose_picks(random, size, spread, temperature, top_k, top_p):
    """But for numbers and for masses of top_p that are nearer to a border than float32 sees."""
    values, near = np.round(64 * spread * random.standard_normal(size)) / 64, (-1e-6, 0, 1e-6)
    config = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p)
    nearby = [config] if top_p == 1 else [replace(config, top_p=min(1, top_p + off)) for off in near]
    for number in [0.0, *random.random(20)]:
        found = choose_on_the_cpu(values, config, number)
        if found != choose(values, config, number):
            numbers = [min(max(number + off, 0), 1 - 2**-53) for off in near]
            assert found in {choose(values, config, number) for config in nearby for number in numbers}


@pytest.mark.parametrize("size", [sampling.BLOCK - 1, sampling.BLOCK, sampling.BLOCK + 1, 2 * sampling.BLOCK + 7])
def test_the_kernel_finds_every_symbol_of_a_long_row(size):
    config, numbers = SamplingConfig(), (np.arange(size) + 0.5) / size
    assert [choose_on_the_cpu(np.zeros(size), config, number) for number in numbers] == list(range(size))
    for only in (0, sampling.BLOCK - 2, size - 1):  # nothing in the blocks before and behind
        banned = np.delete(np.arange(size), only)
        assert {choose_on_the_cpu(np.zeros(size), config, number, banned) for number in (0.0, 0.5, largest)} == {only}


@every_choose
@pytest.mark.parametrize("size", [4, 2 * sampling.BLOCK])
def test_a_number_on_a_border_belongs_to_the_symbol_behind_it(choose, size):
    """Of equals, whose weights are summed without rounding."""
    assert [choose(np.zeros(size), SamplingConfig(), number / size) for number in range(size)] == list(range(size))


@every_choose
@pytest.mark.parametrize("heat", [1e-4, 3e-5, 1e-6])
def test_a_temperature_near_zero_still_is_one(choose, heat):
    """What the next symbol is less probable by is what the definition says, however near its logit is."""
    near = 2.0 ** np.round(np.log2(heat))
    wanted = 1 / (1 + np.exp(-near / heat))
    found = frequencies(choose, np.array([1.0, 1 - near]) if near > 2**-20 else np.array([0.0, -near]), SamplingConfig(temperature=heat))
    np.testing.assert_allclose(found, [wanted, 1 - wanted], atol=1 / 2000 + 1e-6)


def test_a_number_behind_all_sums_is_no_banned_symbol():
    """Blocks of weights are summed in another order than all of them, and the largest number may fall behind their sum."""
    random, size, reached = np.random.default_rng(0), 2 * sampling.BLOCK, 0
    for _ in range(100):
        weights = np.exp(-40 * random.random(size)).astype(np.float32)
        weights[-4:] = 1, 0, 0, 0
        blocks = sum(summed(weights[first : first + sampling.BLOCK]) for first in range(0, size, sampling.BLOCK))
        reached += largest * summed(weights) >= blocks
        assert found_in(weights, largest) == size - 4
    assert reached > 5  # times


def test_choose_leaves_the_logits_alone():
    values = np.array([1.0, 2.0, 3.0])
    choose(values, SamplingConfig(top_k=1, top_p=0.5), 0.5)
    assert values.tolist() == [1, 2, 3]


@given(seeds, st.integers(0, 10**9))
def test_the_random_number_depends_on_seed_and_position_only(seed, position):
    number = uniform(seed, position)
    assert 0 <= number < 1
    assert number == uniform(seed, position)
    assert number not in (uniform(seed, position + 1), uniform((seed + 1) % 2**63, position))


@given(strategies.keys, st.integers(0, 10**9))
def test_the_kernels_random_number_is_the_same(seed, position):
    assert drawn(np.uint64(seed), position) == uniform(seed, position)


def test_the_random_numbers_are_uniform():
    for numbers in ([uniform(7, position) for position in range(10_000)], [uniform(seed, 7) for seed in range(10_000)]):
        counts = np.histogram(numbers, bins=10, range=(0, 1))[0]
        assert abs(counts - 1000).max() < 150  # five standard deviations
        assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.05


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
def test_written_in_two_calls_it_is_the_same(tokenizer, prompt, first, second, seed, options):
    model = trained(tokenizer)

    def go_on(prompt, length):
        written = model.generate(prompt, length, seed=seed, **options)
        return prompt + written if isinstance(prompt, str) else [*prompt, *written.tolist()]

    assert go_on(go_on(prompt, first), second) == go_on(prompt, first + second)


@every_tokenizer
@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_each_of_a_list_of_prompts_is_continued_as_it_would_be_alone(tokenizer, weights):
    model, prompt = trained(tokenizer), PROMPTS[tokenizer]
    prompts = [prompt, prompt[:2], prompt + prompt[::-1]] if tokenizer != "word" else ["to be or", "to", "the question"]
    got = model.generate(prompts, 12, seed=7, weights=weights)
    want = [model.generate(one, 12, seed=7 + n, weights=weights) for n, one in enumerate(prompts)]
    assert [list(ids) for ids in got] == [list(ids) for ids in want]
    assert model.generate([], weights=weights) == []


@every_tokenizer
@given(length=lengths, seed=seeds)
def test_the_stream_adds_up(tokenizer, length, seed):
    model, prompt = trained(tokenizer), PROMPTS[tokenizer]
    pieces = list(model.stream(prompt, length, seed=seed))
    written = model.generate(prompt, length, seed=seed)
    if tokenizer is None:
        assert pieces == written.tolist()
        assert written.dtype == np.int32
    else:
        assert "".join(pieces) == written
        assert all(pieces)
    if tokenizer in ("char", None):
        assert len(written) == length


def test_the_stream_is_as_early_as_it_can_be():
    model = trained("char")
    model.generate("to", 1)  # compiled
    tracemalloc.start()
    stream = model.stream("to", length=10**9, seed=1)
    assert len("".join(next(stream) for _ in range(5))) == 5
    assert tracemalloc.get_traced_memory()[1] < 1e7  # and takes no more memory than what it has written
    tracemalloc.stop()


def test_other_seeds_and_temperatures_write_other_texts():
    model = trained("char")
    texts = {model.generate("to", 40, seed=seed, temperature=heat) for seed in range(5) for heat in (0.7, 1.0)}
    assert len(texts) == 10


def test_without_a_seed_each_call_draws_one(monkeypatch):
    model, drawn = trained("char"), iter([5, 6])
    monkeypatch.setattr(language_model.secrets, "randbits", lambda bits: next(drawn) if bits == 63 else None)
    texts = [model.generate("to", 30) for _ in range(2)]
    assert texts == [model.generate("to", 30, seed=seed) for seed in (5, 6)]
    assert texts[0] != texts[1]


def test_the_most_probable_symbol_again_and_again():
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
    total = sum(map(np.exp, scores.values()))  # <unk> is left out
    for symbol, score in scores.items():
        wanted = np.exp(score) / total
        assert abs(drawn.count(symbol) / 2000 - wanted) < 5 * np.sqrt(wanted / 2000) + 1e-3


@pytest.mark.parametrize("size", [63, 64, 65, 150])
@pytest.mark.parametrize("stretch", [1, 7])
def test_a_long_prompt_may_be_read_in_any_stretches(size, stretch, monkeypatch):
    model = trained("char")
    prompt = (LINES * 5)[:size]
    want = model.generate(prompt, 20, seed=1)
    monkeypatch.setattr(generation, "STEPS", stretch)
    assert model.generate(prompt, 20, seed=1) == want


def test_all_of_a_long_prompt_counts():
    model = untrained(cell="lstm", tokenizer=None, vocabulary_size=11)
    weights = model.network_.weights()
    model.network_.set_weights({name: 3 * weight for name, weight in weights.items()})
    prompt = np.arange(150) ** 2 % 11
    texts = {tuple(model.generate(np.r_[first, prompt[size:]], 20, seed=1)) for size in (0, 50, 149) for first in (1, 2)}
    assert len(texts) > 3


def test_streams_of_one_model_do_not_disturb_each_other():
    model = trained("char")
    want = [model.generate(prompt, 10, seed=1) for prompt in ("to", "be")]
    pairs = list(zip(*(model.stream(prompt, 10, seed=1) for prompt in ("to", "be")), strict=True))
    assert ["".join(pieces) for pieces in zip(*pairs, strict=True)] == want


# Symbols


@every_tokenizer
def test_no_length(tokenizer):
    written = trained(tokenizer).generate(PROMPTS[tokenizer], 0)
    assert written == "" if tokenizer else written.shape == (0,)


@pytest.mark.parametrize("tokenizer", ["char", "word", "byte"])
def test_without_a_prompt_a_new_line_begins(tokenizer):
    model = trained(tokenizer)
    assert model.generate(length=20, seed=1) == model.generate("", length=20, seed=1)
    line_end = np.array([model.tokenizer_.line_end])
    assert model.generate(length=20, seed=1) == model.tokenizer_.decode(model.generate(line_end, 20, seed=1))


def loves_unknown():
    """A model that holds ``<unk>`` for all but certain."""
    model = fit(untrained(), epochs=1)
    weights = model.network_.weights()
    weights["dense/b"][model.tokenizer_.unknown] = 50
    model.network_.set_weights(weights)
    return model


def test_the_unknown_symbol_is_never_written():
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
        model.stream(prompt)  # at once, not with the first symbol
    written = model.generate(prompt, 10, seed=1, unknown="unk")
    known = prompt.replace(symbol, "ü").replace("hear", "smell").replace("x", "y")
    assert written == model.generate(known, 10, seed=1, unknown="unk")


def test_bytes_are_never_unknown():
    assert len(trained("byte").generate("é中😀", 5, temperature=0)) == 5


def test_words_are_set_apart():
    model = fit(untrained(tokenizer="word", hidden=32), epochs=200)
    prompt = "to be or not to be"
    assert model.generate(prompt, 7, temperature=0) == "\nthat is the question\nto"
    assert model.generate("to be or", 1, temperature=0) == " not"
    assert model.generate(prompt + "\n", 2, temperature=0) == "that is"
    assert trained("word").generate(length=1, temperature=0, top_k=1)[0] != " "
    assert list(model.stream(prompt, 3, temperature=0)) == ["\n", "that", " is"]


def test_characters_of_several_bytes_come_whole():
    text = "né 中文 😀\n"
    model = fit(untrained(tokenizer="byte", hidden=64, embedding=32), text * 20, epochs=100, streams=2, steps=20)
    written = (text * 3).encode()[1:]
    for size in range(2 * len(text.encode())):
        pieces = list(model.stream("中文 😀\nn", size, temperature=0))
        assert "".join(pieces) == written[:size].decode(errors="replace")
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
def test_impossible_wishes_are_refused(tokenizer, arguments, error, message):
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
def test_one_text_is_never_of_two_models(backend, begun, change):
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


def test_a_text_outlives_a_change_that_leaves_its_weights_alone():
    model = fit(untrained())
    expected, stream = model.generate("to", 400, seed=1), model.stream("to", 400, seed=1)
    text = next(stream)
    model.set_params(threads=2)
    with pytest.raises(CorpusError):
        fit(model, "\n")
    assert text + "".join(stream) == expected
