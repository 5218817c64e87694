"""Wrong calls: whatever is given for one parameter of a public call, the call works, and so does what comes of it, or it raises an error
of the library at once: a sentence of some lines, and not one of Python's own messages."""

import copy
import dataclasses
import inspect
import json
import re
import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from numba_rnnlm import LanguageModel, Sequential, backends, callbacks, cells, layers, optimizers, text
from numba_rnnlm.config import CheckpointConfig, ModelConfig, SamplingConfig, TextConfig, TrainingConfig, UnknownConfig
from numba_rnnlm.errors import DivergenceError, LanguageModelError
from numba_rnnlm.interrupts import Interrupts
from numba_rnnlm.schedules import Schedule

LONGEST = 2000  # characters of an error
RAW = re.compile(  # what Python and NumPy say
    r"object (is|has|of|cannot)|' object\b|unsupported operand|not supported between|has no attribute|positional argument|NoneType|must be (a |an )?(str|int|"
    r"real|integer|sequence|\d)|not iterable|unhashable|truth value|embedded null|codec can't|too large to convert|invalid literal|argument must|"
    r"could not convert|not subscriptable|not callable|out of range float|JSON (compliant|serial)|Traceback|setting an array element|inhomogeneous|hostile")


class Hostile:
    """Raises whatever is asked of it."""

    def _raise(self, *arguments):
        raise RuntimeError("hostile")

    __repr__ = __str__ = __eq__ = __bool__ = __len__ = __iter__ = __index__ = __float__ = __int__ = __fspath__ = __array__ = _raise
    __hash__ = __call__ = __getitem__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = _raise


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
    """A model of one's own."""
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
    """Train, save, load: the loaded model is the same."""
    y = x if model.predict(x).ndim == 3 else x[:, 0]
    model.fit(x, y, verbose=0)
    model.save("sequential.npz")
    loaded = Sequential.load("sequential.npz", threads=1)
    assert loaded.layers == model.layers
    np.testing.assert_array_equal(loaded.predict(x), model.predict(x))


def use_layer(layer):
    if isinstance(layer, layers.Embedding):
        first, middle = layer, [layers.LSTM(2)]
    elif isinstance(layer, layers.Dense) and layer.tied:
        first, middle = layers.Embedding(layer.units, 2), [layers.LSTM(2), layer]
    else:
        first, middle = layers.Embedding(4, 2), [layer]
    model = Sequential([first, *middle, layers.Dense(4, "softmax")], threads=1)
    model.compile("sgd", "sparse_categorical_crossentropy", ["accuracy"])
    model.summary()
    use_sequential(model, X[:, : getattr(first, "input_length", None)] % first.input_dim)


def use_optimizer(optimizer):
    model = sequential()
    model.compile(optimizer, "sparse_categorical_crossentropy")
    use_sequential(model)
    assert Sequential.load("sequential.npz", threads=1)._compiled.optimizer == optimizer
    Path("optimizer.npz").unlink(missing_ok=True)
    fit(trained(), optimizer=optimizer, checkpoint="optimizer.npz")


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
    assert loaded.get_params() == {**model.get_params(), "threads": 1, "backend": "auto", "precision": "float32"}
    assert repr(loaded.network_.weights()) == repr(model.network_.weights())


def use_config(made):
    """Written and read back, it is equal."""
    assert type(made).from_dict(json.loads(json.dumps(made.to_dict(), allow_nan=False))) == made


def use_cell(cell):
    language_model(cell=cell)


@dataclasses.dataclass
class Call:
    """A public callable, arguments that it works with, and what is done with its result."""

    name: str
    make: Callable[[], tuple[Callable[..., Any], Mapping[str, Any]]]
    use: Callable[[Any], Any] = lambda result: None
    errors_later: bool = False  # whether using the result may be refused: a file may still be made
    only: tuple[str, ...] = ()  # these parameters; otherwise all

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
OF_LAYER = {"Embedding": (4, 2), "Dense": (3,), "Dropout": (0.5,)}
OF_CALLBACK = {"CSVLogger": {"path": "log.csv"}, "ModelCheckpoint": {"filepath": "saved.npz"}, "History": {}, "EarlyStopping": {}, "LambdaCallback": {}, "Callback": {}}


def fitted():
    """``fit`` with a checkpoint, of which nothing is left when it is called again."""
    for name in ("checkpoint.npz", "x"):
        Path(name).unlink(missing_ok=True)
    model = trained()

    @wraps(model.fit)
    def refused_before_training(**given):
        before = copy.deepcopy(model.history_)
        try:
            return model.fit(**given)
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
    of_model("set_params", use=lambda model: model.score("to be")),
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


OWN_CODE = re.compile("corpus|valid|sentence|prompt|source|paths|prepare|on_.*")  # parameters whose objects may raise errors of their own


def fault(parameter, run, *arguments, late=False) -> str:
    """What is wrong with how a call fails; empty if it does not, or by an error that is as it should be."""
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
    """An own current folder, with a folder and a file in it."""
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("file").write_text(TEXT)
    known = dict(cells.CELLS)
    yield tmp_path
    cells.CELLS.clear()
    cells.CELLS.update(known)


@pytest.mark.parametrize("call", CALLS, ids=[call.name for call in CALLS])
def test_a_call_works_or_says_in_a_sentence_why_not(call, folder, capsys):
    faults, made = [], [None]
    for parameter in call.only or call.parameters():
        for name, value in POOL.items():
            if made:  # the call before has worked, and may have changed something
                function, given = call.make()
                made.clear()
            arguments = {**given, parameter: value()}
            if wrong := fault(parameter, lambda function, arguments: made.append(function(**arguments)), function, arguments):
                faults.append(f"{call.name}({parameter}={name}): {wrong}")
            elif made and (wrong := fault(parameter, call.use, made[0], late=not call.errors_later)):
                faults.append(f"{call.name}({parameter}={name}), then: {wrong}")
    assert not faults, "\n" + "\n".join(faults)
