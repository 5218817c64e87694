"""Wrong calls: for any value of any parameter of a public function, either the call and everything done with its result works, or it raises
an error of the library immediately: a message of a few lines that is not one of Python's own."""

import copy
import dataclasses
import gc
import inspect
import json
import re
import resource
import tempfile
import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import needs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numba_rnnlm import LanguageModel, Sequential, backends, callbacks, cells, config, layers, optimizers, text
from numba_rnnlm.config import CheckpointConfig, ModelConfig, SamplingConfig, TextConfig, TrainingConfig, UnknownConfig
from numba_rnnlm.errors import ConfigError, DivergenceError, LanguageModelError, OutOfMemoryError, ShapeError
from numba_rnnlm.formats.native import read_about, write_model
from numba_rnnlm.interrupts import Interrupts
from numba_rnnlm.network import Network
from numba_rnnlm.optimizers import pytorch
from numba_rnnlm.training.schedules import Schedule

LONGEST = 2000  # characters of an error
RAW = re.compile(  # messages of Python and NumPy
    r"object (is|has|of type|cannot)|' object\b|unsupported operand|not supported between|has no attribute|positional argument|NoneType|must be (a |an )?(str|int|"
    r"real|integer|sequence|\d)|not iterable|unhashable|truth value|embedded null|codec can't|too large to convert|invalid literal|argument must|"
    r"could not convert|not subscriptable|not callable|out of range float|JSON (compliant|serial)|Traceback|setting an array element|inhomogeneous|hostile")


class Hostile:
    """Raises an error for every operation."""

    def _raise(self, *arguments):
        raise RuntimeError("hostile")

    __repr__ = __str__ = __eq__ = __bool__ = __len__ = __iter__ = __index__ = __float__ = __int__ = __fspath__ = __array__ = _raise
    __hash__ = __call__ = __getitem__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = _raise


class Arrayed:
    """An object that can only be converted to an array."""

    def __array__(self, *rest, **given):
        return np.arange(400) % 4


class Numbered:
    """A path-like object whose path is a number."""

    def __fspath__(self):
        return 3


POOL: dict[str, Callable[[], Any]] = {
    "None": lambda: None, "True": lambda: True, "nan": lambda: float("nan"), "inf": lambda: float("inf"), "-inf": lambda: -float("inf"),
    "-1": lambda: -1, "0": lambda: 0, "1": lambda: 1, "0.5": lambda: 0.5, "10**400": lambda: 10**400, "2**62": lambda: 2**62, "1e308": lambda: 1e308,
    "10**5000": lambda: 10**5000, "1j": lambda: 1j, "''": lambda: "", "'x'": lambda: "x", "'LSTM'": lambda: "LSTM", "a NUL": lambda: "a\0b",
    "a surrogate": lambda: "\ud800", "an escape": lambda: "\x1b[2J", "10,000 characters": lambda: "x" * 10_000, "bytes": lambda: b"x", "NUL bytes": lambda: b"\0",
    "bytearray": lambda: bytearray(b"x"), "memoryview": lambda: memoryview(b"x"), "an object": object, "a hostile object": Hostile,
    "a function": lambda: lambda *rest: None, "a class": lambda: Hostile, "[]": list, "[None]": lambda: [None], "['x']": lambda: ["x"],
    "[10**400]": lambda: [10**400], "()": tuple, "(1, 2)": lambda: (1, 2), "{}": dict, "{1: 2}": lambda: {1: 2}, "a set": lambda: {1, "x"},
    "an empty array": lambda: np.array([]), "an array": lambda: np.array([1, 2]), "0-d": lambda: np.array(1), "2-d": lambda: np.ones((2, 2)),
    "float32 nan": lambda: np.float32("nan"), "int8": lambda: np.int8(1), "array of str": lambda: np.array("x"), "array of objects": lambda: np.array([object(), None]),
    "datetime": lambda: np.datetime64("2020-01-01"), "a generator": lambda: (number for number in [1, "x"]), "a folder": lambda: "folder",
    "a Path": lambda: Path("folder"), "a file": lambda: open("file", encoding="utf-8"),  # noqa: SIM115 (somebody else reads it)
    "a nested list": lambda: [[[]], [[1]]],
}  # fmt: skip

IDS = np.arange(24) % 4
TEXT = "to be or not to be\n" * 8
X, Y = IDS.reshape(8, 3), IDS.reshape(8, 3)[:, 0]


def language_model(**options):
    return LanguageModel(**{"hidden": 2, "layers": 1, "embedding": 2, "threads": 1} | options)


def fit(model, corpus=TEXT, valid=None, **options):
    return model.fit(corpus, valid, **{"epochs": 1, "streams": 2, "steps": 40, "verbose": 0} | options)


TRAINED = {}


def trained(tokenizer="char"):
    """A model that a test may change."""
    if tokenizer not in TRAINED:
        TRAINED[tokenizer] = (fit(language_model(tokenizer=tokenizer)) if tokenizer else
                              fit(language_model(tokenizer=None, vocabulary_size=4), IDS, steps=8))
    return copy.deepcopy(TRAINED[tokenizer])


def sequential(*middle, compiled=True, **options):
    model = Sequential([layers.Embedding(4, 2), *(middle or [layers.LSTM(2)]), layers.Dense(4, "softmax")], threads=1, **options)
    if compiled:
        model.compile("sgd", "sparse_categorical_crossentropy", ["accuracy"])
    return model


def use_sequential(model, x=X):
    """Train, save and load: the loaded model is the same."""
    outputs = model.predict(x)
    y = x[:, : outputs.shape[1]] if outputs.ndim == 3 else x[:, 0]
    model.fit(x, y, verbose=0)
    model.save("sequential.npz")
    loaded = Sequential.load("sequential.npz", threads=1)
    assert loaded.layers == model.layers
    np.testing.assert_array_equal(loaded.predict(x), model.predict(x))


def use_layer(layer):
    if isinstance(layer, FIRST):
        first, middle = layer, [layers.LSTM(2)]
    elif isinstance(layer, layers.Dense) and layer.tied:
        first, middle = layers.Embedding(layer.units, 2), [layers.LSTM(2), layer]
    else:
        first, middle = layers.Embedding(4, 2, input_length=3 if layer.flattens else None), [layer]
        if len(steps := layer.output((3, 8, 2))) == 3 and steps[0] != 3:
            middle.append(layers.LSTM(2))  # for one output for each sequence
    model = Sequential([first, *middle, layers.Dense(4, "softmax")], threads=1)
    model.compile("sgd", "sparse_categorical_crossentropy", ["accuracy"])
    model.summary()
    use_sequential(model, X[:, : getattr(first, "input_length", None)] % first.ids)


USED = set()


def use_optimizer(optimizer):
    if repr(optimizer) in USED:  # already tested; compared by repr, because True == 1, although saving may fail for only one of them
        return
    model = sequential()
    model.compile(optimizer, "sparse_categorical_crossentropy")
    use_sequential(model)
    assert Sequential.load("sequential.npz", threads=1)._compiled.optimizer == optimizer
    Path("optimizer.npz").unlink(missing_ok=True)
    fit(trained(), optimizer=optimizer, checkpoint="optimizer.npz")
    USED.add(repr(optimizer))


def use_callback(callback):
    model = sequential()
    try:
        model.fit(X, Y, epochs=2, verbose=0, callbacks=[callback], validation_split=0.5)
    except LanguageModelError as error:
        assert not model._updater.steps, "too late"
        assert len(str(error)) < LONGEST


def use_language_model(model):
    vocabulary = model.get_params()["vocabulary_size"]
    corpus = TEXT if vocabulary is None else np.arange(24) % 2
    fit(model, corpus, **({} if vocabulary is None else {"steps": 8}), checkpoint="checkpoint.npz")
    use_trained(model)
    Path("checkpoint.npz").unlink()


def use_trained(model):
    model.save("model.npz")
    loaded = LanguageModel.load("model.npz", threads=1)
    params = model.get_params()
    body = None if params["body"] is None else list(params["body"])  # a file does not tell a tuple
    assert loaded.get_params() == {**params, "body": body, "threads": 1, "backend": "auto", "precision": "float32"}
    assert repr(loaded.network_.weights()) == repr(model.network_.weights())


def use_config(made):
    """It is equal after saving and loading."""
    assert type(made)(**json.loads(json.dumps(made.to_dict(), allow_nan=False))) == made


def use_cell(cell):
    language_model(cell=cell)


@dataclasses.dataclass
class Call:
    """A public callable, arguments that it accepts, and what to do with its result."""

    name: str
    make: Callable[[], tuple[Callable[..., Any], Mapping[str, Any]]]
    use: Callable[[Any], Any] = lambda result: None
    errors_later: bool = False  # whether using the result may raise an error
    only: tuple[str, ...] = ()  # the parameters to test; all by default

    def parameters(self):
        function, _ = self.make()
        found = list(inspect.signature(function).parameters.values())
        return [one.name for one in found if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]


def method_of(model, name, **given):
    return lambda: (getattr(model(), name), given)


def of_model(method, use=lambda result: None, **given):
    """A method of a trained language model."""
    return Call(f"LanguageModel.{method}", method_of(trained, method, **given), use)


CELL = {"name": "own", "gates": {"a": "xh"}, "states": ("h",), "equations": cells.TANH.equations, "forward": cells.TANH.forward, "backward": cells.TANH.backward}
FIRST = layers.Embedding, layers.CharacterEmbedding  # layers that take ids
OF_LAYER = {"Embedding": (4, 2), "Conv1D": (3, 2), "CharacterEmbedding": (("a", "bc"),), "Dense": (3,), "Dropout": (0.5,), "Activation": ("relu",), "LayerNormalization": (), "RMSNormalization": (), "Highway": (), "MultiHeadAttention": (2, 3),
            **dict.fromkeys(("GlobalMaxPooling1D", "GlobalAveragePooling1D", "Flatten", "SingleHeadAttention", "Attention", "AdditiveAttention", "AttentionPooling", "SinusoidalPosition"), ())}
OF_CALLBACK = {"CSVLogger": {"path": "log.csv"}, "ModelCheckpoint": {"filepath": "saved.npz"}, "History": {}, "EarlyStopping": {}, "LambdaCallback": {}, "Callback": {}}


def refused_without_change(model):
    def set_params(*rest, **given):
        before = model.get_params()
        try:
            return model.set_params(*rest, **given)
        except LanguageModelError:
            assert model.get_params() == before
            raise

    return set_params


def fitted():
    """``fit`` with a checkpoint, which is removed before each call."""
    for name in ("checkpoint.npz", "x"):
        Path(name).unlink(missing_ok=True)
    model = trained()

    @wraps(model.fit)
    def refused_before_training(*rest, **given):
        before = copy.deepcopy(model.history_)
        try:
            return model.fit(*rest, **given)
        except LanguageModelError as error:
            assert isinstance(error, DivergenceError) or repr(model.history_) == repr(before)
            raise

    return refused_before_training, {"corpus": TEXT, "valid": None, "epochs": 1, "streams": 2, "steps": 40, "verbose": 0, "checkpoint": "checkpoint.npz"}


CALLS = [
    Call("LanguageModel", lambda: (LanguageModel, {"hidden": 2, "layers": 1, "embedding": 2, "threads": 1}), use_language_model),
    Call("LanguageModel of ids", lambda: (LanguageModel, {"hidden": 2, "layers": 1, "embedding": 2, "threads": 1, "tokenizer": None, "vocabulary_size": 4}),
         use_language_model),
    Call("LanguageModel.fit", fitted, use_trained),
    Call("LanguageModel.fit of sgd", lambda: (fitted()[0], fitted()[1] | {"optimizer": "sgd"}), use_trained, only=("momentum",)),
    Call("LanguageModel.fit_config", lambda: (trained().fit_config, {
        "corpus": TEXT, "valid": None, "config": TrainingConfig(epochs=1, streams=2, steps=40, verbose=0)}), use_trained),
    of_model("evaluate", corpus=TEXT), of_model("perplexity", corpus=TEXT), of_model("bits_per_character", corpus=TEXT),
    of_model("score", sentence="to be"), of_model("full_scores", sentence="to be"), of_model("generate", prompt="to", length=2),
    of_model("stream", use=list, prompt="to", length=2), of_model("save", path="saved.npz"), of_model("get_params"),
    *(Call(f"LanguageModel.set_params {state}", lambda make=make: (refused_without_change(make()), {}), use, only=tuple(LanguageModel().get_params()))
      for state, make, use in [("trained", trained, lambda model: model.score("to be")), ("untrained", language_model, use_language_model)]),
    *(Call(f"LanguageModel.{name} of ids", method_of(lambda: trained(None), name, **given), use or (lambda result: None)) for name, use, given in [
        ("evaluate", None, {"corpus": IDS}), ("score", None, {"sentence": IDS}), ("generate", None, {"prompt": IDS, "length": 2}), ("fit", None, {"corpus": IDS, "epochs": 1, "steps": 8, "verbose": 0}),
        ("full_scores", None, {"sentence": IDS}),
    ]),
    Call("LanguageModel.load", lambda: (trained().save("saved.npz"), (LanguageModel.load, {"path": "saved.npz", "threads": 1}))[1], lambda model: model.score("to be")),
    Call("LanguageModel.settings_of_run", lambda: (fitted()[0](**fitted()[1]), (LanguageModel.settings_of_run, {"checkpoint": "checkpoint.npz"}))[1]),
    Call("Sequential", lambda: (Sequential, {"threads": 1, "layers": [layers.Embedding(4, 2), layers.Dense(4, "softmax")]}), lambda model: model.layers and model.summary()),
    *(Call(f"Sequential.{name}", method_of(sequential, name, **given), use or (lambda result: None)) for name, use, given in [
        ("add", None, {"layer": layers.Dense(4, "softmax")}), ("build", None, {"input_shape": (None, None)}),
        ("compile", None, {"optimizer": "sgd", "loss": "sparse_categorical_crossentropy"}),
        ("set_weights", None, {"weights": sequential().get_weights()}), ("fit", None, {"x": X, "y": Y, "verbose": 0}),
        ("evaluate", None, {"x": X, "y": Y}), ("predict", None, {"x": X}), ("save", None, {"path": "saved.npz"}),
        *((name, None, {}) for name in ("pop", "summary", "count_params", "get_weights")),
    ]),
    Call("Sequential.build of vectors", method_of(lambda: Sequential([layers.Dense(2)], threads=1), "build", input_shape=(None, None, 3))),
    *(Call(f"Sequential.{name} of vectors", method_of(
        lambda: Sequential([layers.LSTM(2, input_dim=2), layers.Dense(1, "sigmoid")], threads=1), name, **given)) for name, given in [("predict", {"x": np.ones((2, 3, 2))})]),
    Call("Sequential.load", lambda: (sequential().save("saved.npz"), (Sequential.load, {"path": "saved.npz", "threads": 1}))[1], lambda model: model.predict(X)),
    *(Call(f"layers.{name}", lambda kind=kind, name=name: (kind, dict(zip(inspect.signature(kind).parameters, OF_LAYER.get(name, (2,)), strict=False))), use_layer)
      for name, kind in layers.LAYERS.items()),
    *(Call(f"optimizers.{name}", lambda kind=kind: (kind, {}), use_optimizer) for name, kind in optimizers.KNOWN.items()),
    Call("optimizers.get", lambda: (optimizers.get, {"optimizer": "sgd"}), use_optimizer),
    Call("optimizers.Limits", lambda: (optimizers.Limits, {})),
    *(Call(f"callbacks.{name}", lambda kind=kind, given=given: (kind, given), use_callback) for name, given in OF_CALLBACK.items()
      for kind in [getattr(callbacks, name)]),
    Call("cells.Cell", lambda: (cells.Cell, CELL), use_cell), Call("cells.register", lambda: (cells.register, {"cell": cells.Cell(**CELL)})),
    Call("cells.get", lambda: (cells.get, {"cell": "lstm"})),
    Call("backends.get", lambda: (backends.get, {"threads": 1}), lambda ops: ops.download(ops.upload(np.ones(1)))),
    Call("schedules.Schedule", lambda: (Schedule, {"config": TrainingConfig(), "base": 1.0}), lambda schedule: schedule.rate(0.5)),
    Call("text.Files", lambda: (text.Files, {"paths": "file"}), lambda files: files.open(), errors_later=True),
    Call("text.split", lambda: (text.split, {"source": TEXT * 9, "part": 0.5})),
    Call("Interrupts", lambda: (Interrupts, {})),
    *(Call(f"config.{kind.__name__}", lambda kind=kind: (kind, {}), use_config)
      for kind in (ModelConfig, TextConfig, TrainingConfig, CheckpointConfig, UnknownConfig, SamplingConfig)),
]  # fmt: skip


OWN_CODE = re.compile("corpus|valid|sentence|prompt|source|paths|prepare|on_.*")  # parameters whose objects may raise their own errors


def fault(parameter, run, *arguments, late=False) -> str:
    """What is wrong with how a call fails; empty if it works or raises an acceptable error."""
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run(*arguments)

    except LanguageModelError as error:
        words = str(error)
        if len(words) > LONGEST:
            return f"{len(words)} characters: {words[:100]}"
        if found := RAW.search(words):
            return f"{found[0]!r} in {words[:300]}"
        if not words.replace("\n", "").isprintable():
            return f"not printable: {words[:300]!r}"
        if late and "would take" not in words and not isinstance(error, DivergenceError):
            return f"only later: {type(error).__name__}: {words[:300]}"
        return ""
    except Exception as error:
        if OWN_CODE.fullmatch(parameter) and ("hostile" in str(error) or "Hostile" in str(error)):
            return ""
        return f"{type(error).__name__}: {str(error)[:200]}"
    for one in caught:
        if one.category not in (UserWarning, ResourceWarning) or len(str(one.message)) > LONGEST:
            return f"{one.category.__name__}: {str(one.message)[:200]}"
    return ""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Change to a new folder that contains a folder and a file."""
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("file").write_text(TEXT)
    known = dict(cells.CELLS)
    yield tmp_path
    cells.CELLS.clear()
    cells.CELLS.update(known)


@pytest.mark.parametrize("call", CALLS, ids=[call.name for call in CALLS])
def test_a_call_works_or_raises_a_readable_error(call, folder, capsys):
    faults, made = [], [None]
    for parameter in call.only or call.parameters():
        for name, value in POOL.items():
            if made:  # the previous call worked, and may have changed something
                function, given = call.make()
                made.clear()
            arguments = {**given, parameter: value()}
            if wrong := fault(parameter, lambda function, arguments: made.append(function(**arguments)), function, arguments):
                faults.append(f"{call.name}({parameter}={name}): {wrong}")
            elif made and (wrong := fault(parameter, call.use, made[0], late=not call.errors_later)):
                faults.append(f"{call.name}({parameter}={name}), then: {wrong}")
    assert not faults, "\n" + "\n".join(faults)


UNCHECKED = {  # callables whose wrong arguments raise Python's own errors
    "callbacks.Callback": "has no constructor, which would hide that of another base class",
    "cells.get": "called in every pass, so it must be fast", "optimizers.Limits": "a plain tuple",
}


@pytest.mark.parametrize("call", [call for call in CALLS if call.name not in UNCHECKED], ids=lambda call: call.name)
def test_the_error_names_unknown_missing_and_surplus_arguments(call, folder):
    function, given = call.make()
    if not any(one.kind is one.VAR_KEYWORD for one in inspect.signature(function).parameters.values()):
        with pytest.raises(ConfigError, match=r"\w has no argument 'no_such', expected (none|some of [\w, ]+)\.$"):
            function(**given, no_such=1)
    needed = [one.name for one in inspect.signature(function).parameters.values() if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD]
    for name in needed:
        with pytest.raises(ConfigError, match=rf"\w: missing a required argument: '{name}'\.$"):
            function(**{key: value for key, value in given.items() if key != name})
    with pytest.raises(ConfigError, match=r"\w: too many positional arguments\.$"):
        function(*[None] * 50)


# Whatever the constructors accept can be saved and loaded.

MADE = {
    **{kind.__name__: (kind, {}) for kind in (ModelConfig, TextConfig, TrainingConfig, CheckpointConfig, UnknownConfig, SamplingConfig)},
    **{f"optimizers.{name}": (kind, {}) for name, kind in optimizers.KNOWN.items()},
    **{f"layers.{name}": (kind, dict(zip(inspect.signature(kind).parameters, OF_LAYER.get(name, (2,)), strict=False))) for name, kind in layers.LAYERS.items()},
}
NUMBERS = st.sampled_from([float("inf"), 1e308, 1e39]) | st.floats() | st.integers(-2, 2**64) | st.floats(0, 1) | st.integers(1, 20)
WORDS = st.sampled_from([*config.SCHEDULES, *config.OPTIMIZERS, *config.TOKENIZERS, *cells.BUILT_IN, "linear", "softmax", "1h30m", "5min", "run.csv", "keep", "skip",
                         "sum_time", "uniform", "int8", "penalize", "exclude"])
VALUES = st.just(10**400) | st.none() | st.booleans() | WORDS | NUMBERS | NUMBERS.map(np.float64) | st.floats(width=32).map(np.float32) | st.floats(0, 1).map(np.array)


@pytest.mark.parametrize("name", MADE)
@given(data=st.data())
@settings(max_examples=60)  # most examples are rejected
def test_whatever_a_constructor_accepts_can_be_saved_and_loaded(name, data):
    kind, needed = MADE[name]
    names = [one.name for one in dataclasses.fields(kind) if one.init and one.repr]
    arguments = {name: data.draw(VALUES) for name in data.draw(st.lists(st.sampled_from(names or ["name"]), min_size=1, max_size=2, unique=True))}
    try:
        made = kind(**{**needed, **arguments})
    except ConfigError:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.npz"
        if isinstance(made, optimizers.Optimizer):
            write_model(path, "test", {"made": optimizers.describe(made)}, {})
            again = optimizers.rebuild(read_about(path)["made"], {}, "")
        elif name.startswith("layers"):
            if max(getattr(made, size, None) or 0 for size in ("units", "input_dim", "output_dim", "size", "filters", "kernel_size", "longest", "highways")) > 10_000:
                return  # takes too much memory for a test
            first = made if isinstance(made, FIRST) else layers.Embedding(getattr(made, "units", 4), 2, input_length=3 if made.flattens else None)
            middle = [layers.LSTM(2)] if isinstance(made, layers.Dense) else [] if first is made else [layers.LSTM(2, return_sequences=True)]
            model = Sequential([first, *middle, *[made][: first is not made]], threads=1)
            model.save(path)
            again = Sequential.load(path, threads=1).layers[0 if first is made else -1]
        else:
            write_model(path, "test", {"made": made.to_dict()}, {})
            again = kind(**read_about(path)["made"])
    assert again == made


@pytest.mark.parametrize("name", ["clip_norm", "clip_value"])
def test_an_infinite_limit_is_none(name, folder):
    off = fit(trained(), **{name: 0.0}, checkpoint="off.npz")
    infinite = fit(trained(), **{name: float("inf")}, checkpoint="infinite.npz")
    off.save("off.npz")
    infinite.save("infinite.npz")
    assert Path("off.npz").read_bytes() == Path("infinite.npz").read_bytes()
    assert optimizers.Adam(clipnorm=float("inf")) == optimizers.Adam() and pytorch.SGD(clip_norm=np.float32("inf")) == pytorch.SGD()
    assert optimizers.Adam(global_clipnorm=10**400) == optimizers.Adam(clipvalue=1e300) == optimizers.Adam()


def test_a_schedule_with_endless_divisions_can_be_saved():
    schedule = Schedule(TrainingConfig(schedule="plateau", decay_factor=1e6), 1.0)
    for _ in range(1000):
        schedule.judge(improved=False)
    assert schedule.divisor == 1e300 and schedule.rate(0.5) < 1e-290


def test_nan_in_the_history_can_be_saved(folder):
    model = trained()
    model.history_["valid_loss"][-1] = float("inf")
    model.history_["gradient_norm"][-1] = float("nan")
    model.save("nan.npz")
    loaded = LanguageModel.load("nan.npz").history_
    assert np.isnan([loaded["valid_loss"][-1], loaded["gradient_norm"][-1]]).all() and loaded["loss"] == model.history_["loss"]
    logger = callbacks.CSVLogger("log.csv")
    logger.on_train_begin({})
    logger.on_epoch_end(0, {"loss": float("nan"), "val_loss": float("inf")})
    assert Path("log.csv").read_text().splitlines() == ["epoch,loss,val_loss", "0,nan,inf"]


# Some of the messages, one of each kind.


@pytest.mark.parametrize(("call", "message"), [
    (lambda: fit(trained(), checkpoint=5), r"checkpoint is 5, expected a path such as 'run\.npz'\."),
    (lambda: fit(trained(), log="a\0.csv"), r"log is 'a\\x00\.csv', expected a path such as 'run\.csv'\."),
    (lambda: fit(trained(), on_interrupt=np.array([])), r"on_interrupt is array\(\[\], dtype=float64\), expected one of 'raise', 'return'\."),
    (lambda: fit(trained(), decay_factor=float("inf")), r"decay_factor is inf, expected a number above 1 and at most 1,000,000\."),
    (lambda: fit(trained(), epochs=10**400), r"epochs is a number of about 400 digits, expected a whole number of at least 1 and at most 9,007,199,254,740,992\."),
    (lambda: trained().fit_config(TEXT, None, 5), r"config is 5, expected a TrainingConfig\."),
    (lambda: trained().fit_config(TEXT, None, TrainingConfig(), prepare=5), r"prepare is 5, expected a function\."),
    (lambda: trained().fit_config(TEXT, None, TrainingConfig(epochs=1, verbose=0), prepare=lambda about: 5), r"what prepare gave is 5, expected a Prepared\."),
    (lambda: TrainingConfig(optimizer={1: 2}), r"optimizer is \{1: 2\}, expected a name, or the result of numba_rnnlm\.optimizers\.describe"),
    (lambda: language_model(tied=np.array([1, 2])), r"tied is array\(\[1, 2\]\), expected one of True, False\."),
    (lambda: language_model(cell="LSTM"), r"cell is 'LSTM', expected .*; did you mean 'lstm'\?"),
    (lambda: language_model(tokenizer="Words"), r"tokenizer is 'Words', expected .*; did you mean 'word'\?"),
    (lambda: language_model(tokenizer="byte", max_vocabulary=9), r"max_vocabulary is 9 with tokenizer='byte', which always has all 256 bytes"),
    (lambda: Sequential(name="mine"), r"Sequential: name is 'mine', expected None; a model is known by its file\."),
    (lambda: Sequential(5), r"layers is 5, expected a list of layers\."),
    (lambda: Sequential("LSTM"), r"layers is 'LSTM', expected a list of layers\."),
    (lambda: Sequential(np.array(5)), r"layers is array\(5\), whose items cannot be read, expected a list of layers\."),
    (lambda: sequential().set_weights(5), r"weights is 5, expected a list of arrays"),
    (lambda: sequential().build(5), r"input_shape is 5, expected a tuple such as \(None, None, 3\)\."),
    (lambda: sequential().build((1, 2, 3)), r"input_shape is \(1, 2, 3\), expected \(None, steps or None\), ids for the Embedding\."),
    (lambda: sequential().compile("sgd", "binary_crossentropy", 5), r"metrics is 5, expected a list of names\."),
    (lambda: sequential().fit(X, Y, callbacks=5), r"callbacks is 5, expected objects of numba_rnnlm\.callbacks\."),
    (lambda: sequential().fit(X, Y, shuffle="yes"), r"shuffle is 'yes', expected one of True, False\."),
    (lambda: sequential().predict(Hostile()), r"x is <Hostile instance at 0x\w+>, which NumPy cannot convert to an array"),
    (lambda: sequential().save(None), r"path is None, expected a path such as 'model\.npz'\."),
    (lambda: layers.LSTM(3, forget_bias=float("nan")), r"LSTM: forget_bias is nan, expected a number of at least -100 and at most 100\."),
    (lambda: layers.LSTM(3, cell="gru"), r"LSTM: cell is 'gru', expected 'lstm'; Recurrent\(units, cell=\.\.\.\) takes any cell\."),
    (lambda: layers.GRU(3, cell=cells.Cell(**CELL)), r"GRU: cell is 'own', expected 'gru'"),
    (lambda: layers.Dense(3, tied="no"), r"Dense: tied is 'no', expected one of True, False\."),
    (lambda: layers.Embedding(3, 2, standard_deviation=float("inf")), r"standard_deviation is inf, expected a number above 0 and at most 1,000\."),
    (lambda: cells.register("x"), r"cell is 'x', expected a numba_rnnlm\.cells\.Cell\."),
    (lambda: cells.Cell(**CELL | {"gates": ["a"]}), r"cell 'own': gates is \['a'\], expected slots and what they see"),
    (lambda: cells.Cell(**CELL | {"gates": {"a": 5}}), r"cell 'own': slot 'a' sees 5, expected 'x', 'h', 'xh' or '='\."),
    (lambda: cells.Cell(**CELL | {"gates": {5: "xh"}}), r"cell 'own': a slot of gates is 5, expected a str such as 'a'\."),
    (lambda: cells.Cell(**CELL | {"states": ()}), r"cell 'own': states is empty, expected names such as \('h',\)\."),
    (lambda: cells.Cell(**CELL | {"equations": 5}), r"cell 'own': equations is 5, expected a function\."),
    (lambda: backends.get("cpu", "float16"), r"dtype is 'float16', expected float32 or float64\."),
    (lambda: backends.get("reference", threads=0), r"threads is 0, expected a whole number of at least 1 and at most 1,024\."),
    (lambda: callbacks.CSVLogger(None), r"path is None, expected a path such as 'log\.csv'\."),
    (lambda: callbacks.CSVLogger("log.csv", "||"), r"separator is '\|\|', expected one character such as ',' or ';'\."),
    (lambda: callbacks.CSVLogger("log.csv", '"'), r"separator is '\"', which has a special meaning in a CSV file"),
    (lambda: callbacks.ModelCheckpoint("{loss.x}"), r"filepath is '\{loss\.x\}'; in braces it may name epoch, values such as val_loss\."),
    (lambda: callbacks.LambdaCallback(on_epoch_end=5), r"on_epoch_end is 5, expected a function of epoch and logs\."),
    (lambda: callbacks.LambdaCallback(on_epoch_end=lambda epoch: 5), r"on_epoch_end is a function of \(epoch\), expected one of epoch and logs\."),
    (lambda: callbacks.EarlyStopping(5), r"monitor is 5, expected a str such as 'val_loss'\."),
    (lambda: text.Files("a\0b").open(), r"the path of a text is 'a\\x00b', expected a path such as 'corpus\.txt'\."),
    (lambda: fit(trained(), Numbered()), r"the path of a text is <\S*Numbered .*>, expected a path such as 'corpus\.txt'\."),
    (lambda: trained().score(Numbered()), r"the path of a text is <\S*Numbered .*>, expected a path"),
    (lambda: LanguageModel().fit(np.int64(3)), r"The corpus is np\.int64\(3\), expected a path, a text, lines of text, or a 1-D array of ids\."),
    (lambda: LanguageModel().fit(Arrayed()), r"A vocabulary is learned from text, but the source is ids\."),
    (lambda: LanguageModel().fit(np.array(3)), r"The corpus is array\(3\), expected a path, a text"),
    (lambda: trained(None).score([1, True]), r"sentence contains a bool, expected integers\."),
    (lambda: fit(trained(None), [True, *IDS]), r"ids contains a bool, expected integers\."),
    (lambda: setattr(sequential(), "stop_training", np.array([1, 2])), r"stop_training is array\(\[1, 2\]\), expected one of True, False\."),
    (lambda: sequential().fit(X, Y, verbose=np.ma.masked), r"verbose is masked, expected one of 'auto', 0, 1, 2\."),
    (lambda: trained().score(5.5), r"sentence has type float and shape \(\), expected a 1-D array of integers\."),
    (lambda: trained().score(object()), r"sentence is <object object at 0x\w+>, expected a 1-D array of integers; pass text as a str\."),
    (lambda: trained().score(np.array([[0], [1]])), r"sentence has type ndarray and shape \(2, 1\), expected a 1-D array of integers\."),
])  # fmt: skip
def test_messages(call, message, folder):
    with pytest.raises(LanguageModelError, match=message):
        call()


def test_a_corpus_may_be_any_object_with_an_array():
    assert fit(trained(None), Arrayed(), validation_split=0.25, steps=8).validation_.tokens == 99


MASKED = np.ma.masked_equal(IDS, 3)
ROWS = MASKED.reshape(8, 3)


@pytest.mark.parametrize("call", [
    lambda: fit(trained(None), MASKED), lambda: fit(trained(None), IDS, MASKED), lambda: trained(None).evaluate(MASKED), lambda: fit(language_model(), ROWS[:, 0].astype(str)),
    lambda: trained(None).score(MASKED), lambda: trained(None).score([IDS, MASKED]), lambda: trained().score(np.ma.array(["to", "be"], mask=[0, 1])),
    lambda: trained(None).generate(MASKED), lambda: next(trained(None).stream([1, np.ma.masked])),
    lambda: sequential().fit(ROWS, Y), lambda: sequential().fit(X, ROWS[:, 0]), lambda: sequential().evaluate(list(ROWS), Y), lambda: sequential().predict([list(row) for row in ROWS]),
    lambda: sequential().fit(X, Y, validation_data=(X, ROWS[:, 0])), lambda: (model := sequential()).set_weights([*map(np.ma.array, model.get_weights())]),
    lambda: (network := trained().network_).set_weights({name: np.ma.array(values) for name, values in network.weights().items()}),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:.*converting a masked element")
def test_a_mask_is_not_dropped(call, folder):
    with pytest.raises(ShapeError, match=r"has a mask, which would be lost; pass \.compressed\(\) \(the unmasked elements\) or \.filled\(value\)\.$"):
        call()


@needs.linux
@pytest.mark.parametrize(("name", "call"), [
    ("LanguageModel.fit", lambda: fit(language_model(tokenizer=None, vocabulary_size=4, hidden=2000, initializer="uniform"), IDS, steps=8)),
    ("LanguageModel.score", lambda: trained(None).score(np.broadcast_to(np.uint8(1), 50_000_000))),
    ("LanguageModel.generate", lambda: trained(None).generate([np.broadcast_to(np.int32(1), 500_000), *[[1]] * 100], 2)),
    ("Sequential.predict", lambda: sequential().predict(np.broadcast_to(np.uint8(1), (100_000_000, 5)))),
])  # fmt: skip
def test_the_error_says_how_much_memory_was_needed(name, call):
    trained(None)
    gc.collect()  # otherwise the call would collect this garbage
    limits, used = resource.getrlimit(resource.RLIMIT_AS), int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 50 * 2**20, limits[1]))
    try:
        with pytest.raises(MemoryError) as caught:
            call()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert type(caught.value) is OutOfMemoryError
    assert re.fullmatch(rf"{name} needs more memory than this process can get: Unable to allocate [\d.]+ MiB for an array with shape .*\. Pass less data at a time, "
                        r"close other programs, or raise the memory limit of this process\.", str(caught.value))


def test_generating_text_may_run_out_of_memory(monkeypatch):
    def fail(*arguments):
        raise MemoryError

    model = trained()
    stream = model.stream("to", 2)
    monkeypatch.setattr(Network, "decoder", fail)
    for call, name in ((lambda: next(stream), "generation"), (lambda: model.generate("to", 2), r"LanguageModel\.generate")):
        with pytest.raises(OutOfMemoryError, match=f"^{name} needs more memory than this process can get. Pass"):
            call()


@pytest.mark.parametrize(("callback", "message"), [
    (lambda: callbacks.EarlyStopping(), "EarlyStopping watches 'val_loss', but this training measures loss, accuracy"),
    (lambda: callbacks.ModelCheckpoint("m.npz", save_best_only=True), "ModelCheckpoint watches 'val_loss', but this training measures loss, accuracy"),
    (lambda: callbacks.ModelCheckpoint("{val_loss}.npz"), r"filepath is '\{val_loss\}.npz'; in braces it may name epoch, loss, accuracy\."),
])  # fmt: skip
def test_a_callback_that_monitors_an_unmeasured_value_is_an_error_before_training(callback, message, folder):
    model = sequential()
    before = model.get_weights()
    with pytest.raises(ConfigError, match=message):
        model.fit(X, Y, verbose=0, callbacks=[callback()])
    np.testing.assert_equal(model.get_weights(), before)
    model.fit(X, Y, verbose=0, callbacks=[callback()], validation_split=0.5)


def test_every_callback_is_called():
    public = {name for name, kind in vars(callbacks).items() if isinstance(kind, type) and issubclass(kind, callbacks.Callback) and name[0] != "_"}
    assert public == set(OF_CALLBACK)
