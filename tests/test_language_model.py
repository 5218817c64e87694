"""LanguageModel as a whole: it learns, is reproducible, and reports errors."""

import copy
import dataclasses
import gzip
import inspect
import itertools
import pickle
import signal
import threading
import warnings
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from checks import assert_same_bits
from models import LINES, fit, trained, untrained

from numba_rnnlm import LanguageModel, LanguageModelError, cells, language_model
from numba_rnnlm.backends.cpu import threads
from numba_rnnlm.cells import CELLS
from numba_rnnlm.config import SIZES, CheckpointConfig, ModelConfig, SamplingConfig, TextConfig, TrainingConfig
from numba_rnnlm.errors import (
    BackendError,
    ConfigError,
    CorpusError,
    DivergenceError,
    ModelFileError,
    NotFittedError,
    ShapeError,
    VocabularyError,
)
from numba_rnnlm.interrupts import Interrupted
from numba_rnnlm.language_model import evaluating, prompts
from numba_rnnlm.layers import LSTM, Dense, Embedding
from numba_rnnlm.training import loop

# Learning


@pytest.mark.parametrize("cell", list(CELLS))
def test_a_text_is_memorised(cell):
    model = LanguageModel(cell, hidden=64, layers=1, embedding=32, seed=1)
    model.fit(LINES * 8, epochs=250, streams=2, steps=20, verbose=0)
    assert model.history_["loss"][0] > 1
    assert model.history_["loss"][-1] < 0.1
    assert model.generate("to be", length=100, temperature=0) == (LINES * 3)[5:105]


@pytest.mark.parametrize(
    "options",
    [
        {"layers": 3},
        {"dropout": 0.2},
        {"tied": True},
        {"tied": True, "hidden": 6},
        {"initializer": "uniform", "initializer_scale": 0.3},
        {"forget_bias": 0.0},
        {"min_count": 20},
        {"max_vocabulary": 5},
        {"tokenizer": "byte"},
        {"tokenizer": "word"},
    ],
    ids=str,
)
def test_every_option_changes_the_model_and_learns(options):
    model, plain = (fit(untrained(**chosen), epochs=15, learning_rate=0.02) for chosen in (options, {}))
    assert model.history_["loss"][-1] < 0.95 * model.history_["loss"][0]
    assert model.history_["loss"] != plain.history_["loss"]


def test_the_backends_agree():
    histories = [fit(untrained(dropout=0.3, backend=backend)).history_ for backend in ("cpu", "reference")]
    np.testing.assert_allclose(*(history["loss"] for history in histories), rtol=1e-5)
    np.testing.assert_allclose(*(history["gradient_norm"] for history in histories), rtol=1e-5)


def test_the_configuration_determines_the_weights():
    model = trained("char")
    assert sorted(model.network_.weights()) == ["dense/W", "dense/b", "embedding/W", "lstm/U", "lstm/W", "lstm/b"]
    size = model.tokenizer_.size
    assert model.parameter_count == size * 6 + (6 + 12 + 1) * 4 * 12 + (12 + 1) * size
    assert untrained(tokenizer=None, vocabulary_size=9, tied=True).parameter_count == 9 * 6 + 19 * 48 + 12 * 6 + 9


def test_fit_returns_the_model_and_continues():
    model = untrained()
    assert fit(model, epochs=3) is model
    vocabulary = model.tokenizer_
    before, loss = model.network_.weights(), model.history_["loss"][-1]
    fit(model, epochs=1, learning_rate=1e-30)
    assert_same_bits(model.network_.weights(), before)
    assert model.history_["loss"][-1] < loss
    fit(model, "to see\n" * 30)
    assert model.tokenizer_ is vocabulary
    assert model.history_["epoch"] == [1, 2, 3, 4, 5, 6]


def test_validation_restores_the_best_epoch():
    model = fit(untrained(), valid="question to be\n" * 3, epochs=30, learning_rate=0.1, schedule="constant")
    losses = model.history_["valid_loss"]
    assert min(losses) < losses[-1]
    assert model.evaluate("question to be\n" * 3).nats_per_token == min(losses)


# Reproducibility


def data_of(model, path):
    model.save(path)
    return path.read_bytes()


def test_the_same_seed_gives_the_same_file_on_any_number_of_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "WORTHWHILE", 1)
    options = {"hidden": 33, "layers": 2, "dropout": 0.3}
    files = [
        data_of(fit(untrained(**options, threads=number), valid=LINES), tmp_path / "model.npz")
        for number in (1, 2, 3, 1)
    ]
    assert [thread.name for thread in threading.enumerate()].count("numba_rnnlm") >= 3  # one of the second model, two of the third
    assert len(set(files)) == 1
    others = [
        data_of(fit(untrained(**options | change), valid=LINES, **training), tmp_path / "model.npz")
        for change, training in (({"seed": 2}, {}), ({"dropout": 0.31}, {}), ({}, {"learning_rate": 1e-3}))
    ]
    assert len({*files, *others}) == 4


def test_all_sources_of_a_text_give_the_same_model(tmp_path):
    text = LINES * 8
    (tmp_path / "text.txt").write_text(text)
    (tmp_path / "text.gz").write_bytes(gzip.compress(text.encode()))
    sources = (text, tmp_path / "text.txt", str(tmp_path / "text.txt"), tmp_path / "text.gz")
    files = {data_of(fit(untrained(), source), tmp_path / "model.npz") for source in sources}
    assert len(files) == 1
    model = LanguageModel.load(tmp_path / "model.npz")
    ids, size = model.tokenizer_.encode(text), model.tokenizer_.size
    for corpus in (ids, ids.astype(np.int64), ids.astype(np.uint8), ids.tolist()):
        other = fit(untrained(tokenizer=None, vocabulary_size=size), corpus)
        assert_same_bits(other.network_.weights(), model.network_.weights())


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_body_is_returned_as_it_was_given(kind):
    body = kind([LSTM(4, return_sequences=True)])
    model = LanguageModel(body=body, embedding=3)
    assert model.get_params()["body"] is body  # what scikit-learn's clone compares
    assert fit(model).set_params(threads=1, body=kind(body)).get_params()["threads"] == 1
    with pytest.raises(ConfigError, match="body of a trained model cannot change"):
        model.set_params(body=[LSTM(5, return_sequences=True)])


FIRST, OTHER = LINES * 20, "that question is not the question\nto be that\n" * 20
SEEN = [  # first training, second training, what is said to have been learned
    ({}, {"validation_split": 0.2}, "the end of text"),
    ({"valid": OTHER}, {"validation_split": 0.2}, "the end of text"),
    ({"validation_split": 0.3}, {"validation_split": 0.2}, "the end of text"),
    ({"validation_split": 0.2}, {"validation_split": 0.2}, ""),
    ({}, {"corpus": OTHER, "valid": FIRST}, "text"),
    ({"validation_split": 0.2}, {"corpus": OTHER, "valid": FIRST}, "text"),
    ({"valid": OTHER}, {"valid": OTHER}, ""),
    ({}, {"corpus": OTHER, "validation_split": 0.2}, ""),
    ({}, {}, ""),
]


@pytest.mark.parametrize(("first", "second", "name"), SEEN)
@pytest.mark.parametrize("kind", [str, bytes, "a file"])
def test_validating_on_a_text_that_was_learned_causes_a_warning(first, second, name, kind, tmp_path):
    def given(options):
        texts = {"corpus": FIRST, **options}
        return texts | {key: text if kind is str else text.encode() for key, text in texts.items() if isinstance(text, str)}

    fit(model := untrained(tokenizer="byte"), **given(first), epochs=1)
    if kind == "a file":
        model.save(tmp_path / "model.npz")
        model = LanguageModel.load(tmp_path / "model.npz")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(model, **given(second), epochs=1)
    name = name.replace("text", "text" if kind is str else "bytes")
    start = f"{name} is used for validation, but the model's last training has learned from it, at least in part: its loss will be lower"
    assert [str(warning.message)[: len(start)] for warning in caught] == [start] * bool(name)


def test_a_resumed_run_has_not_learned_from_its_validation(tmp_path):
    run = {"checkpoint": tmp_path / "run.npz", "resume": tmp_path / "run.npz", "schedule": "constant"}
    fit(untrained(), FIRST, FIRST, epochs=1, **run)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(untrained(), FIRST, FIRST, epochs=2, **run)


def test_validation_does_not_change_training():
    plain, validated = fit(untrained(dropout=0.3)), fit(untrained(dropout=0.3), valid=LINES)
    assert plain.history_["loss"] == validated.history_["loss"]


def test_the_seed_determines_the_masks_too():
    models = [untrained(tokenizer=None, vocabulary_size=11, dropout=0.5, seed=seed) for seed in (1, 1, 2)]
    start = models[0].network_.weights()
    for model in models:
        model.network_.set_weights(start)
        fit(model, [number**2 % 11 for number in range(400)])
    first, same, other = (model.history_["loss"] for model in models)
    assert first == same != other


def test_the_seed_may_be_a_numpy_integer(tmp_path):
    numbers = {"hidden": np.int64(12), "seed": np.uint8(1), "dropout": np.float32(0.5)}
    files = {data_of(fit(untrained(**options)), tmp_path / "model.npz") for options in (numbers, {"dropout": 0.5})}
    assert len(files) == 1


def test_the_model_stores_the_evaluation_of_its_weights(tmp_path):
    model = untrained()
    assert model.validation_ is None
    for valid in (LINES, "to be that question\n", [1, 2, 3, 2, 1]):
        fit(model, valid=valid, epochs=2)
        found, want = model.validation_, model.evaluate(valid)
        assert found.nats_per_token == min(model.history_["valid_loss"][-2:])
        assert (found.tokens, found.oov, found.characters, found.bytes) == (want.tokens, want.oov, want.characters, want.bytes)
        assert found.nats == pytest.approx(want.nats, rel=1e-12)
    fit(model, epochs=1)
    assert model.validation_ is None  # the weights have changed
    fit(model, valid=LINES, epochs=2, checkpoint=tmp_path / "run.npz")
    again = untrained()
    with pytest.warns(UserWarning, match="had ended"):
        fit(again, valid=LINES, epochs=2, resume=tmp_path / "run.npz")
    assert again.validation_ == model.validation_


@pytest.mark.parametrize("length", [20, 50, 3_000, 40_000])
def test_the_duration_of_a_validation_is_estimated_from_its_beginning(length, monkeypatch):
    """With a fake clock, on which each validated token takes 2 ms, compiling for the first batch takes 9 s, and everything else no time."""
    now = SimpleNamespace(seconds=0.0, compiling=9.0)
    loss = evaluating.total_loss

    def lasting(network, batches):
        nats, tokens = loss(network, batches)
        now.seconds, now.compiling = now.seconds + 0.002 * tokens + now.compiling, 0.0
        return nats, tokens

    monkeypatch.setattr(evaluating, "total_loss", lasting)
    monkeypatch.setattr(evaluating, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    model, corpus = trained("char"), (LINES * 1100)[:length]
    read = evaluating.read(model._contents, corpus, model.tokenizer_)
    found = evaluating.foresee(model.network_, read, limit=500)
    sampled, now.seconds = now.seconds, 0.0
    model.evaluate(corpus)
    assert found > now.seconds
    assert length < 3_000 or found == pytest.approx(1.2 * now.seconds, rel=0.1)
    assert sampled <= 9 + 5 + 2 * 0.002 * 20 * 64


@pytest.mark.parametrize(("call", "words"), [
    (lambda: LanguageModel(hidden_size=3), "LanguageModel has no argument 'hidden_size'; did you mean 'hidden'?"),
    (lambda: LanguageModel(num_layers=3), "LanguageModel has no argument 'num_layers'; did you mean 'layers'?"),
    (lambda: LanguageModel(rnn_type="gru"), "LanguageModel has no argument 'rnn_type'; did you mean 'cell'?"),
    (lambda: LanguageModel().fit(), "LanguageModel.fit: missing a required argument: 'corpus'."),
    (lambda: LanguageModel().fit(LINES, lr=1), "LanguageModel.fit has no argument 'lr'; did you mean 'learning_rate'?"),
    (lambda: LanguageModel().fit(LINES, batch_size=1), "LanguageModel.fit has no argument 'batch_size'; did you mean 'streams'?"),
    (lambda: LanguageModel().fit(LINES, None, 3), "LanguageModel.fit: too many positional arguments."),
    (lambda: LanguageModel().fit(LINES, corpus=LINES), "LanguageModel.fit: multiple values for argument 'corpus'."),
    (lambda: LanguageModel().generate(max_new_tokens=3), "LanguageModel.generate has no argument 'max_new_tokens'; did you mean 'length'?"),
    (lambda: LanguageModel().score(), "LanguageModel.score: missing a required argument: 'sentence'."),
    (lambda: LanguageModel().evaluate(), "LanguageModel.evaluate: missing a required argument: 'corpus'."),
    (lambda: LanguageModel.load(), "LanguageModel.load: missing a required argument: 'path'."),
    (lambda: LanguageModel().save(), "LanguageModel.save: missing a required argument: 'path'."),
    (lambda: LanguageModel().save("m.npz", zzz=1), "LanguageModel.save has no argument 'zzz', expected some of path, replace_run."),
    (lambda: Embedding(3), "Embedding: missing a required argument: 'output_dim'."),
    (lambda: LSTM(), "LSTM: missing a required argument: 'units'."),
    (lambda: Dense(), "Dense: missing a required argument: 'units'."),
], ids=lambda value: value if isinstance(value, str) else "")  # fmt: skip
def test_a_wrong_call_raises_a_readable_error(call, words):
    with pytest.raises(ConfigError) as caught:
        call()
    assert str(caught.value) == words


# Parameters


def defaults(function):
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}


def of_config(*configs):
    return {field.name: field.default for config in configs for field in fields(config)}


def test_the_arguments_are_the_fields_of_the_configs():
    init = defaults(LanguageModel)
    assert init == {**of_config(ModelConfig, TextConfig), "body": None, "backend": "auto", "threads": None, "precision": "float32", "seed": 0}
    assert defaults(LanguageModel.fit) == {
        "self": inspect.Parameter.empty, "corpus": inspect.Parameter.empty, "valid": None,
        **of_config(TrainingConfig, CheckpointConfig), "on_interrupt": "raise", "callbacks": None,
    }  # fmt: skip
    writing = {"self": inspect.Parameter.empty, "prompt": "", **of_config(SamplingConfig), "unknown": "error", "as_bytes": False, "state": None}
    assert defaults(LanguageModel.generate) == defaults(LanguageModel.stream) == writing
    assert list(defaults(LanguageModel.generate)) == list(writing)


def test_fit_passes_every_argument_on(monkeypatch):
    options = {
        "epochs": 3, "streams": 5, "steps": 7, "optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.5,
        "weight_decay": 0.01, "schedule": "plateau", "warmup": 0.2, "decay_factor": 3.0, "decay_after": 6,
        "clip_norm": 2.0, "clip_value": 0.5, "reduction": "sum_time", "accumulate": 2, "patience": 4, "validation_split": 0.2, "validate_every": 8,
        "max_seconds": 9.0, "not_finite": "skip", "extend_vocabulary": True, "verbose": 2,
    }  # fmt: skip
    keeping = {"checkpoint": "run.npz", "checkpoint_every": 3.0, "resume": "old.npz", "log": "log.csv"}
    given = []
    monkeypatch.setattr(LanguageModel, "fit_config", lambda self, *arguments, interrupts, callbacks: given.append((*arguments, callbacks)))
    LanguageModel().fit("corpus", "valid", **options, **keeping, callbacks=["watch"])
    LanguageModel().fit("corpus", checkpoint=Path("run.npz"), resume=b"old.npz")
    plain = CheckpointConfig("run.npz", resume="old.npz")
    assert given == [("corpus", "valid", TrainingConfig(**options), CheckpointConfig(**keeping), None, ["watch"]),
                     ("corpus", None, TrainingConfig(), plain, None, None)]
    assert set(options) == set(of_config(TrainingConfig))
    assert not set(options.items()) & set(of_config(TrainingConfig).items())


@pytest.mark.parametrize("write", [LanguageModel.generate, LanguageModel.stream])
def test_generating_passes_every_argument_on(write, monkeypatch):
    options = {"length": 3, "temperature": 0.5, "top_k": 4, "top_p": 0.9, "seed": 5, "weights": "int8"}
    given = []

    def generate(network, prompt, config, seed, banned, start):
        given.append(config)
        return iter(())

    monkeypatch.setattr(prompts, "generate", generate)
    write(trained("char"), "to", **options)
    assert given == [SamplingConfig(**options)]
    assert set(options) == set(of_config(SamplingConfig))


def test_every_argument_is_documented():
    for function, text in (
        (LanguageModel, LanguageModel.__doc__), (LanguageModel.fit, LanguageModel.fit.__doc__),
        (LanguageModel.generate, LanguageModel.generate.__doc__), (LanguageModel.score, LanguageModel.score.__doc__),
        (LanguageModel.read, LanguageModel.read.__doc__), (LanguageModel.next_token, LanguageModel.next_token.__doc__),
    ):  # fmt: skip
        assert all(name in text for name in defaults(function) if name != "self")


OTHERS = {
    "architecture": "tcn", "kernel": 2, "window": 3, "cell": "gru", "hidden": 7, "layers": 3, "embedding": 5, "dropout": 0.25, "tied": True, "forget_bias": 0.5,
    "initializer": "uniform", "initializer_scale": 0.2, "tokenizer": "word", "min_count": 2, "max_vocabulary": 30, "line_ends": "keep",
    "backend": "reference", "threads": 2, "precision": "float32", "seed": 5,
}  # fmt: skip


def test_parameters_round_trip():
    assert LanguageModel().get_params() == defaults(LanguageModel) | SIZES["rnn"]
    assert LanguageModel(architecture="tcn", layers=5).get_params() == defaults(LanguageModel) | SIZES["tcn"] | {"architecture": "tcn", "layers": 5}
    model = LanguageModel(**OTHERS)
    params = model.get_params()
    assert params == {**OTHERS, "vocabulary_size": None, "body": None}
    assert LanguageModel(**params).get_params() == params
    assert LanguageModel().set_params(**params).get_params() == params
    assert eval(repr(model)).get_params() == params
    assert set(OTHERS) | {"vocabulary_size", "body"} == set(defaults(LanguageModel))


def test_a_changed_parameter_is_used():
    model = fit(untrained(cell="lstm").set_params(cell="gru", hidden=9, seed=4))
    assert_same_bits(model.network_.weights(), fit(untrained(cell="gru", hidden=9, seed=4)).network_.weights())


@pytest.mark.parametrize("params", [{"dropout": 0.5, "seed": -1}, {"cell": "gru", "tokenizer": None}, {"hidden": 9, "threads": 0}], ids=str)
def test_contradictory_parameters_change_nothing(params):
    model = untrained()
    before = model.get_params()
    with pytest.raises(ConfigError):
        model.set_params(**params)
    assert model.get_params() == before
    assert_same_bits(fit(model).network_.weights(), fit(untrained()).network_.weights())


def test_using_a_new_model_does_not_fix_its_parameters():
    """A model of ids draws its weights on first use."""
    options = {"tokenizer": None, "vocabulary_size": 7}
    model = untrained(**options)
    model.score([1, 2, 3])
    model.set_params(hidden=9)
    assert_same_bits(model.network_.weights(), untrained(**options, hidden=9).network_.weights())
    model.network_.set_weights({name: array + 1 for name, array in model.network_.weights().items()})
    with pytest.raises(ConfigError, match="hidden of a trained model cannot change"):
        model.set_params(hidden=8)


def test_a_custom_cell_is_identified_by_its_name():
    assert LanguageModel(CELLS["gru"]).get_params()["cell"] == "gru"


def test_a_trained_model_may_change_its_backend():
    model = fit(untrained())
    score, text = model.score("to be"), model.generate("to", 20, seed=1)
    assert model.set_params(threads=2).score("to be") == score
    assert model.set_params(backend="reference").score("to be") == pytest.approx(score, rel=1e-5)
    assert model.set_params(backend="cpu", threads=None, hidden=12).generate("to", 20, seed=1) == text
    for name, value in OTHERS.items():
        if name not in language_model.BackendOptions._fields:
            with pytest.raises(ConfigError, match=f"{name} of a trained model cannot change; make a new LanguageModel"):
                model.set_params(**{name: value})
    assert model.generate("to", 20, seed=1) == text


# Errors


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"cell": "elman"}, ConfigError, r"cell is 'elman', expected one of 'tanh', .* numba_rnnlm.cells.register"),
        ({"hidden": 0}, ConfigError, "hidden is 0, expected a whole number of at least 1"),
        ({"hidden": 10**10}, ConfigError, "hidden is 10000000000, expected a whole number of at least 1 and at most 1,000,000,000."),
        ({"seed": 2**63}, ConfigError, "expected a whole number of at least 0 and at most 9,223,372,036,854,775,807."),
        ({"dropout": 1}, ConfigError, "dropout is 1, expected a number of at least 0 and at most 0.999"),
        ({"tokenizer": "bpe"}, ConfigError, "tokenizer is 'bpe', expected one of 'byte', 'char', 'word', None"),
        ({"tokenizer": None}, ConfigError, "tokenizer is None, so the corpus is ids: give vocabulary_size"),
        ({"vocabulary_size": 9}, ConfigError, "vocabulary_size is for tokenizer=None only"),
        ({"backend": "cpu", "precision": "tf32"}, BackendError, 'needs a GPU'),
        ({"backend": "gpu"}, ConfigError, "backend is 'gpu', expected one of 'auto', 'cpu'"),
        ({"threads": 0}, ConfigError, "threads is 0, expected a whole number of at least 1"),
        ({"threads": 1.5}, ConfigError, "threads is 1.5"),
        ({"seed": -1}, ConfigError, "seed is -1, expected a whole number of at least 0"),
        ({"seed": None}, ConfigError, "seed is None"),
    ],
    ids=str,
)
def test_invalid_models_are_rejected(options, error, message):
    with pytest.raises(error, match=message):
        LanguageModel(**options)
    with pytest.raises(error, match=message):
        LanguageModel().set_params(**options)


def test_unknown_parameters_are_named():
    with pytest.raises(ConfigError, match="LanguageModel has no parameter 'units'; it has cell, hidden"):
        LanguageModel().set_params(units=3)


@pytest.mark.parametrize("value", ["abc", "0", "-1", "1.5"])
def test_the_variable_for_threads_is_checked(value, monkeypatch):
    monkeypatch.setenv("NUMBA_RNNLM_NUM_THREADS", value)
    with pytest.raises(ConfigError, match=f"NUMBA_RNNLM_NUM_THREADS is '{value}', expected a whole number"):
        LanguageModel()
    assert LanguageModel(threads=1).get_params()["threads"] == 1


def test_the_variable_for_threads_is_used(monkeypatch):
    monkeypatch.setenv("NUMBA_RNNLM_NUM_THREADS", "3")
    assert untrained(tokenizer=None, vocabulary_size=4).network_.ops.threads == 3


@pytest.mark.parametrize("options", [{"epochs": 0}, {"optimizer": "lbfgs"}, {"momentum": 0.9}, {"warmup": 2}], ids=str)
def test_invalid_trainings_are_rejected_before_anything_is_read(options):
    (name,) = options
    with pytest.raises(ConfigError, match=f"^{name} is "):
        untrained().fit("there is no such file", **options)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, r"Cannot read the file '.*missing.txt': No such file or directory"),
        ("", None, "The folder '.*' contains no files, expected some text"),
        ("empty.txt", b"", "empty.txt' contains no symbols, expected some text"),
        ("one.txt", b"x", "has 1 token, expected at least 2"),
        ("latin.txt", b"caf\xe9 au lait\n", r"not UTF-8: the byte at offset 3 is 0xe9. .* tokenizer='byte'"),
        ("broken.gz", b"no gzip", "Cannot read the file '.*broken.gz'"),
    ],
    ids=["missing", "folder", "empty", "one character", "latin-1", "not gzip"],
)
@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["str", "path"])
@pytest.mark.filterwarnings("error")
def test_files_that_cannot_be_trained_on(tmp_path, name, content, message, kind):
    path = kind(tmp_path / name)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=message):
        fit(untrained(), path)
    model = untrained()
    with pytest.raises(CorpusError, match=message):
        fit(model, valid=path)
    assert model.history_["epoch"] == []  # raised immediately
    with pytest.raises(CorpusError, match=message):
        trained("char").perplexity(path)
    with pytest.raises(CorpusError, match=message):
        trained("char").bits_per_character(path)


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e300])
def test_weights_that_are_not_finite_are_refused(number):
    model = trained("char")
    weights = model.get_weights()
    with pytest.raises(ShapeError, match=r"weights\[1\].*expected a finite number of float32"):
        model.set_weights([weights[0], np.full(weights[1].shape, number), *weights[2:]])
    assert all(np.array_equal(*pair) for pair in zip(model.get_weights(), weights, strict=True))


def test_a_fit_without_updates_leaves_the_model_unchanged(monkeypatch):
    model = fit(untrained())
    before = model.tokenizer_, model.network_, model.score("to be"), dict(model._contents.about_training)
    text = "zebra qux the cat sees\n" * 60
    with pytest.raises(ConfigError, match="max_seconds is 1e-09, but a validation alone takes about"):
        fit(model, text, extend_vocabulary=True, max_seconds=1e-9, validation_split=0.3)
    monkeypatch.setattr(loop, "compile_kernels", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(model, text, extend_vocabulary=True)
    assert (model.tokenizer_, model.network_, model.score("to be"), model._contents.about_training) == before
    new = untrained()
    with pytest.raises(ZeroDivisionError):
        fit(new)
    with pytest.raises(NotFittedError):
        new.generate("to")


def spoil(patch, update):
    """Make training diverge at the update of this number, counted from 1."""
    step, calls = loop.Trainer._step, itertools.count(1)

    def spoiling(self, *arguments):
        if next(calls) == update:
            self.network.set_weights({name: np.full(array.shape, 3e38) for name, array in self.network.weights().items()})
        step(self, *arguments)

    patch.setattr(loop.Trainer, "_step", spoiling)


def test_a_training_that_diverges_before_its_first_report_leaves_the_model_unchanged(tmp_path, monkeypatch):
    """Including its texts and settings, by which files are distinguished."""
    model = fit(untrained(), valid=LINES)
    before, measured = data_of(model, tmp_path / "model.npz"), model.validation_
    spoil(monkeypatch, 2)
    with pytest.raises(DivergenceError, match="The weights of before the training are restored"):
        fit(model, "a zebra\n" * 60, extend_vocabulary=True)
    assert data_of(model, tmp_path / "model.npz") == before
    assert model.validation_ == measured
    new = untrained()
    monkeypatch.undo()
    spoil(monkeypatch, 2)
    with pytest.raises(DivergenceError):
        fit(new)
    with pytest.raises(NotFittedError):
        new.generate("to")


def test_ending_a_training_leaves_the_evaluated_weights(monkeypatch):
    """For example a second signal."""
    step, calls = loop.Trainer._step, itertools.count(1)

    def stopping(self, *arguments):
        if next(calls) == 8:
            raise Interrupted(signal.SIGINT)
        step(self, *arguments)

    monkeypatch.setattr(loop.Trainer, "_step", stopping)
    model = untrained()
    with pytest.raises(Interrupted):
        fit(model, valid=LINES)
    assert model.history_["epoch"] == [1]
    assert model.evaluate(LINES).nats_per_token == model.validation_.nats_per_token


@pytest.mark.parametrize("values", [np.full((2, 3), "x"), np.full((2, 3), 1j), np.full((2, 3), None)], ids=["text", "complex", "objects"])
def test_invalid_weights_change_nothing(values):
    network = fit(untrained()).network_
    before = network.weights()
    wrong = {name: array + 1 for name, array in before.items()}
    name = list(wrong)[-1]
    wrong[name] = np.resize(values, wrong[name].shape)
    with pytest.raises(ShapeError, match=f"weight {name!r} is an array of {values.dtype}, expected numbers of float32"):
        network.set_weights(wrong)
    assert_same_bits(network.weights(), before)
    network.set_weights({name: np.round(array).astype(int).tolist() for name, array in before.items()})
    assert_same_bits(network.weights(), {name: np.round(array) for name, array in before.items()})


def test_a_failed_fit_leaves_the_model_unchanged(tmp_path):
    model = untrained()
    text = LINES * 8
    for corpus, valid in ((str(tmp_path / "missing"), None), (text, str(tmp_path / "missing")), ([1, 2], None),
                          ("\n", None), (text, "\n")):
        with pytest.raises(CorpusError):
            fit(model, corpus, valid)
    with pytest.raises(NotFittedError):
        model.score("to be")
    assert model.tokenizer_ is None
    assert model.history_["epoch"] == []


@pytest.mark.parametrize(("tokens", "streams"), [(2, "1 stream"), (16, "1 stream"), (33, "2 streams"), (64, "3 streams")])
def test_a_short_corpus_is_split_into_fewer_streams(tokens, streams):
    model, text = untrained(), (LINES * 2)[: tokens - 1] + "\n"
    with pytest.warns(UserWarning) as caught:
        fit(model, text)
    (warning,) = caught
    assert str(warning.message) == (
        f"the corpus has {tokens} tokens, too few for 4 streams of 16 steps; training on {streams}. "
        "Fewer streams or steps give more updates."
    )
    assert model.history_["tokens"] == [tokens - 1] * 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(untrained(), (LINES * 2)[:64] + "\n")


def test_the_warning_names_the_caller():
    with pytest.warns(UserWarning) as caught:
        untrained().fit(LINES, epochs=1, streams=50, steps=50, verbose=0)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([0.0, 1.0], ShapeError, "ids has dtype float64, expected integers such as int32"),
        ([0, np.nan], ShapeError, "ids has dtype float64"),
        (["a", "b"], CorpusError, "Text was given with tokenizer=None"),
        ([0, "a"], ShapeError, "ids has dtype <U"),
        ([None, "a"], CorpusError, "item 0 of the list is None, expected a line of text"),
        ([True, False], ShapeError, "ids has dtype bool"),
        ([[0, 1], [2, 3]], ShapeError, r"ids has type list and shape \(2, 2\), expected a 1-D array"),
        ([[0, 1], [2]], ShapeError, r"ids is \[\[0, 1\], \[2\]\], expected a 1-D array of integers"),
        (np.array(3), CorpusError, r"The corpus is array\(3\), expected a path, a text, lines of text, or a 1-D array of ids"),
        (7, CorpusError, r"The corpus is 7, expected a path, a text, lines of text, or a 1-D array of ids"),
        (b"bytes\n", CorpusError, "Text was given with tokenizer=None"),
        ([0, 1, 11], VocabularyError, r"ids\[2\] is 11, expected 0 to 10: the vocabulary has 11 symbols"),
        ([0, -1], VocabularyError, r"ids\[1\] is -1, expected 0 to 10"),
        ([], CorpusError, "ids is empty, expected at least one id"),
        ([3], CorpusError, "has 1 token, expected at least 2"),
        ("text\n", CorpusError, "Text was given with tokenizer=None, which accepts ids only"),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("error")
def test_ids_that_cannot_be_trained_on(ids, error, message):
    with pytest.raises(error, match=message):
        fit(untrained(tokenizer=None, vocabulary_size=11), ids)
    with pytest.raises(error, match=message):
        fit(untrained(tokenizer=None, vocabulary_size=11), [1, 2] * 50, valid=ids)
    with pytest.raises(error, match=message):
        trained(None).evaluate(ids)


def test_a_vocabulary_is_not_learned_from_ids():
    with pytest.raises(CorpusError, match=r"the source is ids\. Set tokenizer=None and vocabulary_size"):
        fit(untrained(), [1, 2, 3])
    with pytest.raises(ConfigError, match=r"min_count is 2 with tokenizer=.byte., which always has all 256 bytes"):
        fit(untrained(tokenizer="byte", min_count=2))


QUESTIONS = {
    "score": lambda model: model.score("to be"),
    "full_scores": lambda model: model.full_scores("to be"),
    "evaluate": lambda model: model.evaluate(LINES),
    "perplexity": lambda model: model.perplexity(LINES),
    "bits_per_character": lambda model: model.bits_per_character(LINES),
    "generate": lambda model: model.generate("to"),
    "stream": lambda model: model.stream("to"),
    "save": lambda model: model.save("there is nothing to save.npz"),
    "network_": lambda model: model.network_,
    "parameter_count": lambda model: model.parameter_count,
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_an_untrained_model_raises_not_fitted_error(question):
    with pytest.raises(NotFittedError, match=r"the model has learned nothing yet; call fit, or LanguageModel\.load"):
        QUESTIONS[question](untrained())


@pytest.mark.parametrize("question", [name for name in QUESTIONS if name not in ("save", "network_", "parameter_count")])
def test_a_model_of_ids_rejects_text(question):
    with pytest.raises((ShapeError, CorpusError), match=r"no tokenizer|tokenizer=None"):
        QUESTIONS[question](trained(None))


def test_one_except_catches_all_errors():
    for error in (BackendError, ConfigError, CorpusError, NotFittedError, ShapeError, VocabularyError):
        assert issubclass(error, LanguageModelError)


# Copies and files


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "deepcopy", "pickle"])
def test_a_trained_model_can_be_copied(copied, tmp_path):
    model = trained()
    before, other = data_of(model, tmp_path / "model.npz"), copied(model)
    assert other.generate("to", 20, seed=1) == model.generate("to", 20, seed=np.int64(1))
    fit(other)
    assert other.history_["epoch"] != model.history_["epoch"]
    assert data_of(model, tmp_path / "model.npz") == before


@pytest.mark.parametrize("options", [{"threads": 0}, {"backend": "gpu"}, {"backend": "cpu", "precision": "tf32"}])
def test_an_unavailable_backend_does_not_mean_a_damaged_file(tmp_path, options):
    trained().save(tmp_path / "model.npz")
    with pytest.raises(LanguageModelError, match=r"threads is 0|backend|precision") as caught:
        LanguageModel.load(tmp_path / "model.npz", **options)
    assert not isinstance(caught.value, ModelFileError)


def test_the_error_names_an_unregistered_cell(tmp_path, monkeypatch):
    cell = dataclasses.replace(cells.TANH, name="own")
    monkeypatch.setitem(cells.CELLS, "own", cell)
    fit(untrained(cell=cell)).save(tmp_path / "model.npz")
    monkeypatch.delitem(cells.CELLS, "own")
    with pytest.raises(ModelFileError, match=r"the custom cell 'own'.*register\(cell\) first"):
        LanguageModel.load(tmp_path / "model.npz")


def test_a_text_full_of_unknown_symbols_causes_a_warning():
    model = fit(untrained())
    with pytest.warns(UserWarning, match=r"text has symbols that are not in the model's vocabulary and count as <unk>: 1,200 of 1,200 \(100%\)"):
        fit(model, "龍虎豹" * 400)
