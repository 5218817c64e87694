"""Language models of every architecture train, are saved, resumed, extended, scored and generated from."""

from dataclasses import replace

import numpy as np
import pytest
from checks import TOLERANCE, assert_close

from numba_rnnlm import LanguageModel, backends
from numba_rnnlm.config import SIZES, ModelConfig
from numba_rnnlm.errors import ConfigError, ShapeError
from numba_rnnlm.language_model.architecture import build
from numba_rnnlm.layers import LSTM, Add, CharacterEmbedding, Conv1D, Dense, SingleHeadAttention
from numba_rnnlm.network import Graph, Network

LINES = "the cat sees the dog\nthe dog hears a catfish\na fish is dogged\n"
SMALL = {"hidden": 8, "layers": 2, "embedding": 6, "window": 5, "tokenizer": "word", "dropout": 0.2, "seed": 3}
every_architecture = pytest.mark.parametrize("architecture", SIZES)


def trained(architecture, **options):
    return LanguageModel(architecture=architecture, **SMALL | options).fit(LINES * 8, epochs=2, streams=4, steps=9, verbose=0)


@every_architecture
def test_a_model_is_saved_continued_and_generated_from(architecture, tmp_path):
    model = trained(architecture)
    model.save(tmp_path / "model.npz")
    again = LanguageModel.load(tmp_path / "model.npz")
    assert again.get_params() == model.get_params() and again.generate("the cat", 30, seed=1) == model.generate("the cat", 30, seed=1)
    np.testing.assert_array_equal(again.score(LINES.splitlines()), model.score(LINES.splitlines()))
    state = model.read("the cat ")
    assert model.generate(state=state, length=20, seed=2) == model.generate("the cat ", length=20, seed=2)
    assert len(model.generate("the", 5, weights="int8", seed=1).split()) <= 5
    for one in (model, again):
        one.fit(LINES * 8, epochs=1, streams=4, steps=9, verbose=0)
    np.testing.assert_array_equal(np.concatenate([a.ravel() for a in model.get_weights()]), np.concatenate([a.ravel() for a in again.get_weights()]))


@every_architecture
def test_it_learns(architecture):
    model = LanguageModel(architecture=architecture, **SMALL | {"hidden": 24, "dropout": 0.0}).fit(LINES * 20, epochs=40, streams=4, steps=9, verbose=0)
    assert model.perplexity(LINES) < 2 and "dog" in model.generate("the cat sees the", 1, temperature=0)


@every_architecture
def test_the_vocabulary_is_extended(architecture):
    model = trained(architecture).fit(LINES + "a dogfish barks\n", epochs=1, streams=2, steps=9, verbose=0, extend_vocabulary=True)
    assert model.evaluate("a dogfish barks\n").oov == 0


@pytest.mark.parametrize("ops", [backends.get("cpu"), backends.get("cpu", np.float64)], ids=["float32", "float64"])
def test_vectors_that_are_looked_up_are_those_of_the_training(ops):
    """After each change of the weights, also where other passes have begun before."""
    words, random = [*"abcdefgh", "é" * 9, ""], np.random.default_rng(0)
    graph = Graph([CharacterEmbedding(words, 4, (1, 2, 3), 2, longest=12), LSTM(5, True), Dense(len(words), "softmax")])
    network = Network(graph, ops, graph.initialize(0))
    x, targets = ops.upload(random.integers(0, len(words), (7, 3))), ops.upload(random.integers(0, len(words), 21))
    for round in range(3):
        got = ops.download(network.losses(x, targets, network.state(3)))
        want = ops.download(network.differentiate(x, targets, network.state(3), 1.0, 0))
        assert_close({"losses": got}, {"losses": want}, TOLERANCE[ops.dtype.name])
        assert_close({"scores": ops.download(network.scores(x, network.state(3)))},
                     {"scores": ops.download(Network(graph, ops, network.weights()).scores(x, network.state(3)))}, 0)
        network.set_weights(graph.initialize(round + 1))


def test_the_table_of_many_words_is_computed_in_parts(monkeypatch):
    ops, layer = backends.get("cpu"), CharacterEmbedding([f"word {number}" for number in range(50)], 4, (1, 2), 3)
    p = {name: ops.upload(array) for name, array in layer.initialize((1, 1), np.random.default_rng(0)).items()}
    whole = layer.vectors(ops, p)
    monkeypatch.setattr("numba_rnnlm.layers.characters.AT_ONCE", 7)
    np.testing.assert_array_equal(layer.vectors(ops, p), whole)


@pytest.mark.parametrize("longest", [3, 65])
def test_a_word_has_the_same_vector_in_any_company(longest):
    """Words are padded to the longest one of a batch, but a pooled maximum does not depend on how much padding there is."""
    ops, words = backends.get("cpu", np.float32), ["a", "word", "of", "considerable-length", "é", ""]
    layer, random = CharacterEmbedding(words, 4, (1, 3, 5), 3, longest=longest), np.random.default_rng(0)
    p = {name: ops.upload(random.standard_normal(shape)) for name, shape in layer.parameters((1, 1)).items()}
    table = layer.vectors(ops, p)
    for index, word in enumerate(words):
        for company in ([word], [word, "quite-another-word"], [word, *words]):
            found = replace(layer, symbols=company).vectors(ops, p)
            np.testing.assert_array_equal(found[0], table[index])


def test_a_character_embedding_takes_ids():
    with pytest.raises(ShapeError, match=r"CharacterEmbedding takes ids \(streams, steps\), got an input with 3 axes; it can only be the first layer"):
        CharacterEmbedding(["a"]).output((4, 2, 5))


def test_the_shapes_of_the_papers():
    """Filters and parameters of the small model of Kim et al. 2016 (5.3 million with a vocabulary of 10,000), and how far a tcn of Bai et al. 2018 sees."""
    kim = build(ModelConfig(architecture="char-cnn", vocabulary_size=10_000), symbols=["word"] * 10_000)
    assert kim.layers[0].output((1, 1)) == (1, 1, 525) and 5.0e6 < sum(np.prod(shape) for shape in kim.layout.values()) < 5.6e6
    tcn = build(ModelConfig(architecture="tcn", vocabulary_size=100, kernel=3))
    spans = [(layer.kernel_size - 1) * layer.dilation_rate for block in tcn.layers for layer in walked(block) if isinstance(layer, Conv1D)]
    assert spans == [2, 2, 4, 4, 8, 8]
    sha = build(ModelConfig(architecture="sha-rnn", vocabulary_size=205, tied=True))
    assert [any(isinstance(layer, SingleHeadAttention) for layer in walked(block)) for block in sha.layers if isinstance(block, Add)] == [
        False, False, True, False, False]
    assert 53e6 < sum(np.prod(shape) for shape in sha.layout.values()) < 56e6  # 54 million in the paper, with v folded into one vector 52


def walked(layer):
    yield layer
    for inner in layer.within().values():
        yield from walked(inner)


@pytest.mark.parametrize(("options", "message"), [
    ({"architecture": "char-cnn"}, "architecture='char-cnn' spells words, so it needs tokenizer='word'; tokenizer is 'char'"),
    ({"architecture": "char-cnn", "tokenizer": "word", "tied": True}, "tied is True, but architecture='char-cnn' has no matrix of embeddings"),
    ({"architecture": "tcn", "body": [Dense(3)]}, "architecture is 'tcn', but a body was given; leave one of the two out"),
    ({"architecture": "tnc"}, "architecture is 'tnc', expected one of 'rnn'.*did you mean 'tcn'"), ({"kernel": 0}, "kernel is 0, expected a whole number"),
    ({"body": [Conv1D(3, 2)]}, "sees later steps, which a language model is to predict"),
])  # fmt: skip
def test_what_does_not_fit_together(options, message):
    with pytest.raises(ConfigError, match=message):
        LanguageModel(**options)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"symbols": ()}, "symbols is empty"), ({"symbols": ("a", 3)}, "symbols has 3, expected words"), ({"symbols": "abc"}, "symbols is 'abc', expected the words"),
    ({"widths": ()}, "widths is empty"), ({"widths": (0,)}, "a width is 0"), ({"size": 0}, "size is 0"), ({"filters": 0}, "filters is 0"),
    ({"highways": -1}, "highways is -1"), ({"longest": 0}, "longest is 0"), ({"most_filters": 0}, "most_filters is 0"), ({"widths": 3}, "widths is 3, expected numbers"),
])  # fmt: skip
def test_wrong_arguments_of_a_character_embedding(arguments, message):
    with pytest.raises(ConfigError, match=f"CharacterEmbedding: {message}"):
        CharacterEmbedding(**{"symbols": ("a", "b")} | arguments)
