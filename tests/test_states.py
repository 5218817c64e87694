"""What has been read, in any pieces, copied, taken and saved: all continues as if the text had been read at once."""

import dataclasses
import json
import pickle
import re
import threading
from pathlib import Path

import numpy as np
import pytest
import strategies
from checks import HANG, TOLERANCE, error, run_python
from hypothesis import given
from hypothesis import strategies as st
from models import fit, trained, untrained
from own_layers import Trace
from strategies import floats

import numba_rnnlm
from numba_rnnlm import (
    ConfigError,
    LanguageModel,
    ModelFileError,
    Sequential,
    ShapeError,
    TextState,
    VocabularyError,
    backends,
    cells,
)
from numba_rnnlm.backends.ops import Choice
from numba_rnnlm.callbacks import ModelCheckpoint
from numba_rnnlm.decoding import read
from numba_rnnlm.decoding.write import decoder_of, fresh
from numba_rnnlm.errors import GenerationError
from numba_rnnlm.layers import GRU, LSTM, Concat, Dense, Dropout, Embedding, Recurrent, Residual, SimpleRNN
from numba_rnnlm.network import Graph, Network

SIZE = 3 if backends.SIMULATED else 20  # maximum units of a layer
MOST = 4 if backends.SIMULATED else 12  # maximum steps of a text
TOKENIZERS = {"char": "to be ", "word": "to be or", "byte": "né to ", None: [3, 9, 4, 1]}
every_tokenizer = pytest.mark.parametrize("tokenizer", TOKENIZERS)
every_kind = pytest.mark.parametrize("weights", ["float32", "int8"])


# Networks of any layers


@st.composite
def networks(draw, ops):
    """Any stack of layers on this backend, and its number of symbols."""
    V, sizes = draw(st.integers(2, 12)), st.integers(1, SIZE)
    D = draw(sizes)
    first = draw(st.sampled_from([Embedding(V, D), Concat([Embedding(V, D), [Embedding(V, 2), GRU(2, return_sequences=True)]])]))
    width, layers = first.output((1, 1))[-1], [first]
    for _ in range(draw(st.integers(0, 3))):
        units = draw(sizes)
        layers.append(draw(st.sampled_from([
            LSTM(units, return_sequences=True), GRU(units, return_sequences=True), SimpleRNN(units, return_sequences=True, activation="relu"),
            Dense(units, "tanh"), Dense(units), Dropout(0.5), Trace(),
            Residual([Dense(units, "tanh"), LSTM(width, return_sequences=True)]), Residual(Dense(width)),
            Concat([LSTM(units, return_sequences=True), [Dense(2, "sigmoid")], Trace()]),
        ])))  # fmt: skip
        width = layers[-1].output((1, 1, width))[-1]
    graph, random = Graph([*layers, Dense(V, "softmax")]), draw(strategies.generators)
    return Network(graph, ops, {name: floats(random, *shape) / np.sqrt(shape[0]) for name, shape in graph.layout.items()}), V


@given(data=st.data(), random=strategies.generators, N=st.integers(1, 4), T=st.integers(1, MOST))
def test_a_text_may_be_read_in_any_pieces(ops, data, random, N, T):
    """With copies that go other ways, streams taken several times and in another order, and scores asked for in between."""
    network, V = data.draw(networks(ops))
    ids, rows = random.integers(0, V, (T, N)).astype(np.int32), np.arange(N)
    want = ops.download(network.scores(ops.upload(ids), network.state(N)))
    streams, _ = fresh([*ids.T])
    going, at = decoder_of(network, "float32").start(streams), 1
    while at < T:
        action, end = data.draw(st.sampled_from(["read", "read", "draw", "scores", "take", "copy", "network"])), data.draw(st.integers(at, T))
        if action == "read":
            going.read(ids[at:end, rows])
        elif action == "draw":  # what is given is read
            going.draw(ids[at:end, rows], Choice(), np.zeros(len(rows), np.uint64))
        elif action == "network":  # by as many steps at once as can be
            going = decoder_of(network, "float32").start(read(network, [ids[at:end, row] for row in rows], start=going.streams()))
        elif action == "scores":
            going.scores()
        elif action == "take":
            taken = random.integers(0, len(rows), data.draw(st.integers(1, 4)))
            going.take(taken)
            rows = rows[taken]
        else:
            before = going.streams()
            going.read(random.integers(0, V, (2, len(rows))).astype(np.int32))
            going = decoder_of(network, "float32").start(before)
        at = end if action in ("read", "draw", "network") else at
    assert error(ops.download(going.scores()), want[rows]) <= TOLERANCE[ops.dtype.name]
    assert going.streams().positions.tolist() == [T] * len(rows)


@given(data=st.data(), random=strategies.generators, lengths=st.lists(st.integers(1, MOST), min_size=1, max_size=3))
def test_texts_of_any_lengths_are_read_side_by_side_as_each_alone(ops, data, random, lengths):
    network, V = data.draw(networks(ops))
    texts = [random.integers(0, V, length).astype(np.int32) for length in lengths]
    together, more = read(network, texts), [random.integers(0, V, size).astype(np.int32) for size in random.integers(0, 4, len(texts))]
    continued = read(network, more, start=together)
    for number, text in enumerate(texts):
        for found, whole in ((together, text), (continued, np.concatenate([text, more[number]]))):
            alone = read(network, [whole])
            assert (found.ids[number], found.positions[number]) == (whole[-1], len(whole)) == (alone.ids[0], alone.positions[0])
            for name, array in alone.state.items():
                assert error(found.state[name][number], array[0]) <= TOLERANCE[ops.dtype.name]


# Language models


def pieces_of(text, tokenizer):
    """A prompt cut into pieces that a tokenizer reads as it reads the whole."""
    if tokenizer == "word":
        return [word + " " for word in text.split()[:-1]] + [text.split()[-1]]
    return [text[:1], text[1:3], text[3:]]


def read_in_pieces(model, pieces, **options):
    state = None
    for piece in pieces:
        state = model.read(piece, state, **options)
    return state


def same(one, other):
    return np.array_equal(one, other) and type(one) is type(other)


@every_tokenizer
@every_kind
def test_generating_from_a_state_is_generating_from_its_text(tokenizer, weights):
    model, text = trained(tokenizer), TOKENIZERS[tokenizer]
    for state in (model.read(text, weights=weights), read_in_pieces(model, pieces_of(text, tokenizer), weights=weights)):
        for options in ({"seed": 3}, {"temperature": 0.0}, {"seed": 1, "top_k": 3, "top_p": 0.9, "temperature": 0.7}):
            want = model.generate(text, 20, weights=weights, **options)
            assert same(model.generate(state=state, length=20, weights=weights, **options), want)
            assert list(model.stream(state=state, length=20, weights=weights, **options)) == list(model.stream(text, 20, weights=weights, **options))


@every_tokenizer
def test_a_prompt_is_read_behind_the_state(tokenizer):
    model, text = trained(tokenizer), TOKENIZERS[tokenizer]
    *front, last = pieces_of(text, tokenizer)
    assert same(model.generate(last, 20, seed=1, state=read_in_pieces(model, front)), model.generate(text, 20, seed=1))


@every_kind
def test_many_texts_are_continued_like_each_alone(weights):
    model, texts = trained("char"), ["to be", "or", "that is the question\nto"]
    states = model.read(texts, weights=weights)
    want = model.generate(texts, 9, seed=5, weights=weights)
    assert model.generate(state=states, length=9, seed=5, weights=weights) == want
    assert [model.generate(state=states.take(n), length=9, seed=5 + n, weights=weights) for n in range(3)] == want
    assert model.generate(state=states.take([2, 0, 2]), length=9, seed=5, weights=weights) == model.generate(
        [texts[2], texts[0], texts[2]], 9, seed=5, weights=weights)
    one = model.read("to be", weights=weights)
    assert model.generate([" or", "", " not"], 9, seed=5, weights=weights, state=one) == model.generate(
        ["to be or", "to be", "to be not"], 9, seed=5, weights=weights)
    assert model.generate([" or", "", " not"], 9, seed=5, weights=weights, state=states) == model.generate(
        [f"{text}{more}" for text, more in zip(texts, [" or", "", " not"], strict=True)], 9, seed=5, weights=weights)


def test_what_follows_is_given_as_what_was_read():
    model = trained("byte")
    for text in ("to be", b"to be", np.array([10, 116, 111])):
        state = model.read(text)
        assert same(model.generate(state=state, length=5, seed=1), model.generate(text, 5, seed=1))
        assert isinstance(model.generate(state=state, length=5, as_bytes=True), bytes)
        assert isinstance(model.generate(" or", 5, state=state), str)
        assert isinstance(model.generate(b" or", 5, state=state), bytes)


def test_a_character_of_several_bytes_may_be_cut_anywhere():
    text = "né 中文 😀\n"
    model = fit(untrained(tokenizer="byte", hidden=64, embedding=32), text * 20, epochs=100, streams=2, steps=20)
    whole = text.encode()
    for cut in range(1, len(whole)):
        state = model.read(whole[:cut])
        want = list(model.stream(whole[:cut], 12, temperature=0))
        assert list(model.stream(state=state, length=12, temperature=0)) == want
    state = model.read(b"\xe4\xb8", state=model.read("\n"))
    assert model.generate(state=state, length=1, temperature=0).decode(errors="replace") == "\ufffd"
    assert model.generate("", 1, temperature=0, state=model.read("", state=state)) == model.generate(state=state, length=1, temperature=0)


def test_words_behind_white_space_have_none_in_front():
    model = fit(untrained(tokenizer="word", hidden=32), epochs=200)
    for text in ("to be or", "to be or ", "to be or not to be\n"):
        assert model.generate(state=model.read(text), length=2, temperature=0) == model.generate(text, 2, temperature=0)
    assert model.generate(state=model.read(" ", state=model.read("to be or")), length=1, temperature=0) == "not"


@pytest.mark.parametrize("tokenizer", ["char", "word", "byte"])
@pytest.mark.parametrize("eos", [True, False])
def test_scores_behind_a_state_are_those_behind_its_text(tokenizer, eos):
    model, front, sentences = trained(tokenizer), "to be or ", ["not to be", "that", "be question", "to be or not to be that is the question"]
    size = len(model.tokenizer_.encode(front))
    state = model.read(front)
    for sentence in sentences:
        want = model.full_scores(front + sentence, eos=eos)[size:]
        assert model.full_scores(sentence, eos=eos, state=state) == want
        assert np.isclose(model.score(sentence, eos=eos, state=state), sum(token.log_probability for token in want), atol=1e-9)
    many = model.full_scores(sentences, eos=eos, state=state)
    assert many == [model.full_scores(front + sentence, eos=eos)[size:] for sentence in sentences]
    fronts = model.read([front, "", "that is ", "be "])
    got = model.score(sentences, eos=eos, state=fronts)
    for sentence, score, number in zip(sentences, got, range(4), strict=True):
        assert np.isclose(score, model.score(sentence, eos=eos, state=fronts.take(number)), rtol=0, atol=1e-12)
    assert np.isclose(got[1], model.score(sentences[1], eos=eos), rtol=0, atol=1e-12)  # behind a line end, as any sentence
    assert model.score([sentences[0]] * 4, eos=eos, state=fronts).std() > 0  # equal sentences behind other texts


def test_scores_of_ids_behind_a_state():
    model = trained(None)
    assert model.full_scores([4, 1], state=model.read([3, 9])) == model.full_scores([3, 9, 4, 1])[1:]
    assert model.score([[4, 1], [0]], state=model.read([3, 9])).tolist() == [
        model.score([4, 1], state=model.read([3, 9])), model.score([0], state=model.read([3, 9]))]


@pytest.mark.parametrize("policy", [{"unknown": "exclude"}, {"unknown": "penalize", "penalty": 2.0}])
def test_unknown_symbols_behind_a_state_count_as_the_policy_says(policy):
    model = trained("char")
    state = model.read("to x", unknown="unk")
    got = model.full_scores("xyb", state=state, **policy)
    want = model.full_scores("to xxyb", **policy)
    assert got == want[-len(got) :]
    assert len(got) == (2 if policy["unknown"] == "exclude" else 4)


@every_tokenizer
@every_kind
def test_the_next_tokens_are_the_most_probable_ones(tokenizer, weights):
    model, text = trained(tokenizer), TOKENIZERS[tokenizer]
    state = model.read(text, weights=weights)
    found = model.next_token(state, k=10**6)
    assert np.isclose(sum(np.exp(score) for _, score in found), 1)
    scores = [score for _, score in found]
    assert scores == sorted(scores, reverse=True) and len(found) == model.network_.graph.head.symbols
    assert model.next_token(state, k=3) == found[:3] and len(model.next_token(state)) == min(10, len(found))
    if weights == "float32":
        for id in (1, 4):
            token = model.full_scores([id], state=state)[0]
            name = model.tokenizer_.symbol(id) if model.tokenizer_ else id
            assert np.isclose(dict(found)[name], token.log_probability, atol=1e-5)
    assert model.next_token(model.read([text, text]), k=2) == [model.next_token(model.read(text), k=2)] * 2


def test_nothing_changes_a_state():
    model = trained("char")
    state, text = model.read(["to be", "or not"]), "that"
    before = pickle.dumps(state)
    copy, one = state.copy(), state.take(0)
    model.generate(state=state, length=5)
    model.generate(["a", "b"], 5, state=state)
    model.read(["a", "b"], state=state)
    model.score([text, text], state=state)
    model.next_token(state)
    list(model.stream(text, 5, state=one))
    state.positions[:] = 0
    state.arrays["lstm/s"][:] = 0
    assert pickle.dumps(state) == before
    for array in copy.streams.state.values():
        array[:] = 0
    assert pickle.dumps(state) == before


def test_what_a_state_tells():
    model = trained("char")
    one, many = model.read("to be"), model.read(["", "to", "be or"])
    assert (repr(one), repr(many), len(one), len(many)) == ("<TextState of 1 text>", "<TextState of 3 texts>", 1, 3)
    assert (one.positions.tolist(), many.positions.tolist()) == ([6], [1, 3, 6])
    assert {name: array.shape for name, array in many.arrays.items()} == {"lstm/s": (3, 2, 12)}
    assert not many.arrays["lstm/s"][0].any() and many.arrays["lstm/s"][1].any()
    assert many.take([]).positions.size == 0 and model.generate(state=many.take([])) == []
    assert len(model.read([])) == 0 and len(many.take(np.array([2, 2]))) == 2
    assert model.read("").positions.tolist() == [1]  # a line end, as in front of every text
    assert model.read("to be", state=one).positions.tolist() == [11]


def test_several_threads_continue_one_state():
    model = trained("char")
    state, found = model.read("to be"), {}
    want = {seed: model.generate("to be", 30, seed=seed) for seed in range(8)}
    readers = [threading.Thread(target=lambda seed: found.update({seed: model.generate(state=state, length=30, seed=seed)}), args=(seed,))
               for seed in want]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(HANG)
    assert found == want


# Refusals


def scaled(model, factor=0.5):
    model.network_.set_weights({name: factor * array for name, array in model.network_.weights().items()})
    return model


OTHER = "the state belongs to other weights than the model's: another model has read it, or the model has been trained since"


@pytest.mark.parametrize("other", [
    lambda model: fit(model, epochs=1),
    scaled,
    lambda model: fit(untrained(seed=2)),
    lambda model: fit(untrained(cell="gru")),
    lambda model: fit(untrained(layers=2)),
], ids=["trained", "set_weights", "another seed", "another cell", "another size"])
def test_other_weights_refuse_a_state(other):
    model = fit(untrained())
    state = model.read("to be")
    model.generate(state=state, length=1)
    changed = other(model)
    for use in (lambda: changed.generate(state=state), lambda: changed.stream(state=state), lambda: changed.score("to", state=state),
                lambda: changed.full_scores("to", state=state), lambda: changed.next_token(state), lambda: changed.read("to", state)):
        with pytest.raises(ConfigError, match=OTHER):
            use()


def test_layers_without_weights_of_their_own_are_told_apart():
    graphs = [Graph([Embedding(5, 3), Dense(3, activation), Dense(5, "softmax")]) for activation in ("tanh", "relu")]
    weights = graphs[0].initialize(1)
    digests = {Network(graph, backends.get(name), weights).digest() for graph in graphs for name in ("cpu", "reference")}
    assert len(digests) == 2


def test_a_copy_and_other_threads_continue_a_state():
    model = fit(untrained())
    state, want = model.read("to be"), model.generate("to be", 9, seed=1)
    assert pickle.loads(pickle.dumps(model)).generate(state=state, length=9, seed=1) == want
    assert model.set_params(threads=2).generate(state=state, length=9, seed=1) == want
    model.set_params(backend="reference")
    assert np.isclose(model.score(" or", state=state), model.score("to be or") - model.score("to be", eos=False), atol=1e-4)
    scaled(scaled(model, 0.5), 2.0)  # the same weights again
    assert np.allclose(*([score for _, score in model.next_token(one)] for one in (state, model.read("to be"))), atol=1e-4)


def test_weights_that_change_while_a_text_is_read(monkeypatch):
    model = fit(untrained())
    monkeypatch.setattr(Network, "read", lambda network, x, state: network.changed())
    with pytest.raises(GenerationError, match="the weights of the model have changed while it was reading; read again"):
        model.read("to be or")


STATE = "state is .*, expected what model.read or TextState.load returned"


@pytest.mark.parametrize(("use", "error", "message"), [
    (lambda model, one, many: model.generate(state="to be"), ConfigError, STATE),
    (lambda model, one, many: model.next_token(None), ConfigError, STATE),
    (lambda model, one, many: model.generate(state=one, weights="int8"), ConfigError,
     "the state was read with weights='float32', which are other numbers than those of weights='int8'; use the former, or"),
    (lambda model, one, many: model.score("to", state=model.read("to", weights="int8")), ConfigError, "the state was read with weights='int8'"),
    (lambda model, one, many: model.read("to", one, weights="int8"), ConfigError, "the state was read with weights='float32'"),
    (lambda model, one, many: model.read("to", weights="int4"), ConfigError, "weights is 'int4', expected one of 'float32', 'int8'"),
    (lambda model, one, many: model.score("to", bos=False, state=one), ConfigError, "bos=False leaves out the first token, but behind a state it is"),
    (lambda model, one, many: model.score("to", state=many), ShapeError,
     r"the state is of 2 texts, and one came to continue them; give a list with one for each, or state.take\(n\)"),
    (lambda model, one, many: model.stream(state=many), ShapeError, "the state is of 2 texts, and one came"),
    (lambda model, one, many: model.generate(["a"] * 3, state=many), ShapeError, "the state is of 2 texts, and 3 came"),
    (lambda model, one, many: model.next_token(one, k=0), ConfigError, "k is 0, expected a whole number of at least 1"),
    (lambda model, one, many: model.read("to be x", one), VocabularyError, "the prompt has 'x' at position 6, which the training text"),
    (lambda model, one, many: model.read([], one, unknown="skip"), ConfigError, "unknown is 'skip', expected one of 'error', 'unk'"),
    (lambda model, one, many: many.take(2), ConfigError, "the number of a text is 2, expected a whole number of at least 0 and at most 1"),
    (lambda model, one, many: many.take([0, "1"]), ConfigError, "the number of a text is '1', expected a whole number"),
    (lambda model, one, many: many.take("01"), ConfigError, r"rows is '01', expected a number, or numbers such as \[0, 0, 1\]"),
    (lambda model, one, many: one.take(), ConfigError, "TextState.take: missing a required argument: 'rows'"),
])  # fmt: skip
def test_impossible_uses_are_refused(use, error, message):
    model = trained("char")
    with pytest.raises(error, match=message):
        use(model, model.read("to be"), model.read(["to be", "or"]))


# Files


def test_a_saved_state_continues_to_the_same_bits(tmp_path):
    path, model = str(tmp_path / "state.npz"), trained("word")
    for state in (model.read("to be "), model.read(["to be", "or not "]), model.read("to be", weights="int8"), model.read([]), model.read([[5, 2], [1]])):
        state.save(path)
        loaded = TextState.load(path)
        assert pickle.dumps(loaded) == pickle.dumps(state)
    model.read("to be").save(path)
    first = (tmp_path / "state.npz").read_bytes()
    model.read("to be").save(path)
    assert (tmp_path / "state.npz").read_bytes() == first


PROGRAM = """
import json, sys
import numpy as np
from numba_rnnlm import LanguageModel, TextState
model = LanguageModel.load({model!r}, threads=1)
told = json.load(open({told!r}))
for name, weights, text, score in told:
    state = TextState.load(name)
    found = model.generate(state=state, length=50, seed=7, weights=weights)
    assert (found if isinstance(found, str) else found.tolist()) == text, (found, text)
    if weights == "float32":
        assert model.score([5, 1, 0], state=state).hex() == score
"""


@every_tokenizer
def test_another_process_continues_a_saved_state(tokenizer, tmp_path):
    model, text, told = trained(tokenizer), TOKENIZERS[tokenizer], []
    model.save(tmp_path / "model.npz")
    for weights in ("float32", "int8"):
        name, state = str(tmp_path / f"{weights}.npz"), model.read(text, weights=weights)
        state.save(name)
        want = model.generate(text, 50, seed=7, weights=weights)
        told.append([name, weights, want if isinstance(want, str) else want.tolist(),
                     model.score([5, 1, 0], state=state).hex() if weights == "float32" else None])
    (tmp_path / "told.json").write_text(json.dumps(told))
    run_python(PROGRAM.format(model=str(tmp_path / "model.npz"), told=str(tmp_path / "told.json")))


def test_nothing_continues_a_text_by_nothing():
    model = trained("word")
    for space in ("", " "):
        state = model.read(f"to be{space}")
        want = model.generate(state=state, length=5, seed=1)
        for nothing in ("", b""):
            assert model.generate(state=model.read(nothing, state=state), length=5, seed=1) == (want if nothing == "" else want.encode())
            assert model.generate(nothing, state=state, length=5, seed=1) == (want if nothing == "" else want.encode())


def test_a_state_is_refused_by_another_cell_of_the_same_name():
    def model_with(cell):
        model = LanguageModel(cell, hidden=4, layers=1, embedding=3, tokenizer=None, vocabulary_size=5, seed=1)
        model.network_.set_weights({name: np.full(array.shape, 0.5) for name, array in model.network_.weights().items()})
        return model

    state = model_with(dataclasses.replace(cells.TANH, name="mine")).read([1, 2])
    assert len(model_with(dataclasses.replace(cells.TANH, name="mine")).next_token(state)) == 5
    with pytest.raises(ConfigError, match="the state belongs to other weights than the model's"):
        model_with(dataclasses.replace(cells.RELU, name="mine")).next_token(state)
    with pytest.raises(ConfigError, match="the state belongs to other weights than the model's"):  # its equations contradict what it computes
        model_with(dataclasses.replace(cells.TANH, name="mine", forward=cells.SIGMOID.forward)).next_token(state)
    model = LanguageModel(body=[Recurrent(3, True, dataclasses.replace(kind, name="mine")) for kind in (cells.TANH, cells.RELU)],
                          embedding=3, tokenizer=None, vocabulary_size=5, seed=1)  # no file tells these cells apart, but a state does not name them
    assert len(model.next_token(model.read([1, 2]))) == 5
    cells.CELLS.pop("mine")


def test_a_file_is_replaced_by_its_own_kind_only(tmp_path):
    model, path = trained("char"), tmp_path / "file.npz"
    state = model.read("to be")
    path.touch()
    state.save(path)
    model.read("or").save(path)
    assert TextState.load(path).positions.tolist() == [3]
    model.save(tmp_path / "model.npz")
    sequential = Sequential([Embedding(4, 3), GRU(2), Dense(4, "softmax")])
    sequential.save(tmp_path / "sequential.npz")
    files = {"language_model": (model.save, tmp_path / "model.npz"), "sequential": (sequential.save, tmp_path / "sequential.npz"),
             "state": (state.save, path)}
    for kind, (save, _) in files.items():
        for other, (_, there) in files.items():
            before = there.read_bytes()
            if kind == other:
                save(there)
            else:
                with pytest.raises(ModelFileError, match=f"it is a file of the kind '{other}', and is not replaced by a '{kind}'; choose another name"):
                    save(there)
                assert there.read_bytes() == before
    for front_end, there in ((model, path), (sequential, tmp_path / "model.npz")):
        checkpoint = ModelCheckpoint(there)
        checkpoint.set_model(front_end)
        with pytest.raises(ModelFileError, match="is not replaced by a"):
            checkpoint.on_train_begin({})
    path.write_text("something else")
    with pytest.raises(ModelFileError, match="the existing file is not a model that this numba_rnnlm can read, and is not overwritten"):
        state.save(path)
    with pytest.raises(ModelFileError, match=r"holds a 'language_model', expected a 'state'; load it in Python, with LanguageModel\.load"):
        TextState.load(tmp_path / "model.npz")
    state.save(tmp_path / "state.npz")
    with pytest.raises(ModelFileError, match=r"holds a 'state', expected a 'language_model'; load it in Python, with TextState\.load"):
        LanguageModel.load(tmp_path / "state.npz")
    with pytest.raises(ModelFileError, match=r"holds a 'state', expected a 'sequential'; load it in Python, with TextState\.load"):
        Sequential.load(tmp_path / "state.npz")
    with pytest.raises(ModelFileError, match="there is no model file"):
        TextState.load(tmp_path / "missing.npz")


def changed(path, **arrays):
    """The file with other members; None removes one."""
    with np.load(path, allow_pickle=False) as file:
        held = dict(file)
    held |= {name.replace("__", "/"): array for name, array in arrays.items()}
    np.savez(path, **{name: array for name, array in held.items() if array is not None})


def header(path, **entries):
    with np.load(path, allow_pickle=False) as file:
        about = json.loads(bytes(file["about"])) | entries
    changed(path, about=np.frombuffer(json.dumps(about).encode(), np.uint8))


@pytest.mark.parametrize("damage", [
    lambda path: changed(path, streams__tails=None),
    lambda path: changed(path, streams__kinds=None),
    lambda path: changed(path, streams__kinds=np.array([0.0, 3.0])),
    lambda path: changed(path, streams__kinds=np.array(0.0)),
    lambda path: changed(path, streams__positions=np.array([0.0, 1.0])),
    lambda path: changed(path, streams__positions=np.array([1.5, 1.0])),
    lambda path: changed(path, streams__positions=np.array([np.nan, 1.0])),
    lambda path: changed(path, streams__positions=np.array([1.0, 2.0, 3.0])),
    lambda path: changed(path, streams__spaced=np.array([2.0, 0.0])),
    lambda path: changed(path, streams__tails=np.full((2, 4), -1.0)),
    lambda path: changed(path, streams__tails=np.array([[1.0, -1.0, 1.0, 1.0]] * 2)),
    lambda path: changed(path, streams__tails=np.full((2, 4), 2.0**31)),
    lambda path: changed(path, streams__tails=np.ones((2, 3))),
    lambda path: changed(path, state__lstm__s=np.zeros((3, 2, 12), np.float32)),
    lambda path: changed(path, state__lstm__s=np.zeros((), np.float32)),
    lambda path: header(path, many=False),
    lambda path: header(path, many=1),
    lambda path: header(path, weights="int4"),
    lambda path: header(path, digest=None),
])  # fmt: skip
def test_damaged_files_are_refused(damage, tmp_path):
    path = tmp_path / "state.npz"
    trained("char").read(["to be", "or"]).save(path)
    damage(path)
    with pytest.raises(ModelFileError, match="damaged"):
        TextState.load(path)


@pytest.mark.parametrize("damage", [
    lambda path: changed(path, state__lstm__s=np.zeros((2, 2, 11), np.float32)),
    lambda path: changed(path, state__lstm__s=None),
    lambda path: changed(path, state__other__s=np.zeros((2, 2, 12), np.float32)),
    lambda path: changed(path, streams__tails=np.full((2, 4), 1e6)),
    lambda path: header(path, digest="0" * 64),
])  # fmt: skip
def test_what_does_not_fit_the_model_is_refused_by_the_model(damage, tmp_path):
    path, model = tmp_path / "state.npz", trained("char")
    model.read(["to be", "or"]).save(path)
    damage(path)
    with pytest.raises(ConfigError, match=OTHER):
        model.generate(state=TextState.load(path), length=1)


def test_a_model_with_layers_of_its_own_continues_a_state(tmp_path):
    ids = np.cumsum(np.random.default_rng(0).integers(0, 3, 2000)) % 11
    model = LanguageModel(tokenizer=None, vocabulary_size=11, embedding=6, seed=1,
                          body=[Dense(9, "tanh"), Residual(LSTM(9, return_sequences=True)), GRU(7, return_sequences=True), Trace()])
    model.network_.set_weights({name: 2 * array for name, array in model.network_.weights().items()})
    state = model.read(ids[:30], state=model.read(ids[30:50]))
    whole = np.concatenate([ids[30:50], ids[:30]])
    for weights in ("float32", "int8"):
        state = model.read(ids[:30], state=model.read(ids[30:50], weights=weights), weights=weights)
        assert same(model.generate(state=state, length=30, seed=1, weights=weights), model.generate(whole, 30, seed=1, weights=weights))
    assert set(state.arrays) == {"residual/lstm/s", "gru/s", "trace/trace"}


# The page about states


def test_the_listings_run(tmp_path, monkeypatch, capsys):
    page = Path(numba_rnnlm.__file__).parents[1] / "docs" / "states.md"
    fit(untrained(tokenizer="byte"), epochs=1).save(tmp_path / "model.npz")
    monkeypatch.chdir(tmp_path)
    scope = {}
    for listing in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        exec(listing, scope)
    assert capsys.readouterr().out
    assert scope["text"] == scope["model"].generate("ROMEO:\n", length=100, seed=1)
    assert scope["texts"] == [scope["model"].generate(name, length=100, seed=seed) for name, seed in (("ROMEO:\n", 1), ("JULIET:\n", 2))]
    assert len(scope["likely"]) == 5 and scope["both"].positions.tolist() == [9, 8, 8]
