"""Valid model files of every kind, and the operations on a damaged one."""

import copy
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from numba_rnnlm import LanguageModel, Sequential, TextState, cells, rules
from numba_rnnlm.errors import ConfigError, DivergenceError, LanguageModelError, ModelFileError
from numba_rnnlm.formats.native import read_about
from numba_rnnlm.language_model import fitting
from numba_rnnlm.layers import GRU, LSTM, Dense, Dropout, Embedding, SimpleRNN
from numba_rnnlm.optimizers import Optimizer, pytorch
from numba_rnnlm.training.history import CLOCK_COLUMNS
from numba_rnnlm.training.log import FIELDS

from . import damage
from .archives import (
    Member,
    Random,
    add_members,
    bomb,
    members_of,
    packed,
    spoil_array,
    spoil_members,
    spoil_zip_headers,
)
from .conduct import Case
from .headers import ODD, spoil_header

DATA = Path(__file__).parents[1] / "data"
TEXT = "to be or not to be\n" * 2
FROZEN_TEXT = "to be or not to be\nthat is the question\n"  # text and settings of the files of older versions
FROZEN = {"epochs": 3, "streams": 2, "steps": 10, "learning_rate": 0.05, "schedule": "plateau", "verbose": 0}
RUN = {"epochs": 1, "streams": 2, "steps": 5, "verbose": 0}
SMALL = {"hidden": 3, "embedding": 2, "layers": 1, "threads": 1, "seed": 1}
BACKEND = {"backend": "cpu", "threads": 1, "precision": "float32"}
OWN = replace(cells.TANH, name="own")


@dataclass(frozen=True)
class Half(Optimizer):
    """A custom optimiser."""

    learning_rate: float = 0.5
    part: float = 0.5

    @property
    def rule(self) -> rules.Rule:
        return rules.SGD

    def hyper(self, step: int, rate: float) -> tuple[float, ...]:
        return (1.0, 0.0, self.part * rate)


class Base(NamedTuple):
    """A valid file.

    Attributes
    ----------
    load
        Functions that load it.
    fit
        For a checkpoint, a function that runs the training that wrote it, with further arguments.
    """

    data: bytes
    members: list[Member]
    load: tuple[Callable[[str], Any], ...]
    fit: Callable[..., Any] | None = None


# Valid files


def bases() -> list[Base]:
    """A small file of every kind."""
    cells.register(OWN)
    options: list[dict[str, Any]] = [
        {}, {"tokenizer": "word", "cell": "gru", "tied": True}, {"tokenizer": "byte", "hidden": 2, "cell": "tanh"}, {"cell": OWN},
        {"tokenizer": None, "vocabulary_size": 5, "layers": 2, "dropout": 0.5},
    ]  # fmt: skip
    found = [_base(LanguageModel(**SMALL | option).fit(_corpus(option), **RUN).save, LANGUAGE_MODEL) for option in options]
    found += [_checkpoint({}, None), _checkpoint({}, TEXT), _checkpoint({"cell": OWN, "tokenizer": "word"}, None, optimizer=Half())]
    for version in (1, 2):
        data = {kind: (DATA / f"{kind}_v{version}.npz").read_bytes() for kind in ("model", "checkpoint", "sequential")}
        found += [Base(data["model"], members_of(data["model"]), LANGUAGE_MODEL),
                  Base(data["checkpoint"], members_of(data["checkpoint"]), LANGUAGE_MODEL, _fit_frozen),
                  Base(data["sequential"], members_of(data["sequential"]), SEQUENTIAL)]
    ids, y = np.arange(20).reshape(4, 5) % 4, np.arange(4)
    for optimizer, x, layers in (
        ("adam", ids, [Embedding(4, 2), LSTM(3), Dense(4, "softmax")]),
        (Half(), ids, [Embedding(4, 3), Dropout(0.1), GRU(3), Dense(4, "softmax", tied=True)]),
        ("rmsprop", ids[..., None] / 4, [SimpleRNN(2, True), GRU(2), Dense(4, "softmax")]),
        (pytorch.AdamW(clip_norm=1.0), ids[..., None] / 4, [Dense(2, "tanh"), LSTM(2), Dense(4, "softmax")]),
    ):
        model = Sequential(layers, threads=1)
        model.compile(optimizer, "sparse_categorical_crossentropy", ["accuracy"])
        model.fit(x, y, batch_size=2, verbose=0)
        found.append(_base(model.save, SEQUENTIAL))
    found += [_base(_model().read(texts, weights=weights).save, (TextState.load,))
              for texts, weights in (("to be", "float32"), (["to", "be or", ""], "float32"), ([b"to"], "int8"))]
    bomb()
    return found


def _corpus(option: dict[str, Any]) -> Any:
    return TEXT if option.get("tokenizer", "char") else [0, 1, 2, 3, 4] * 10


def _base(save: Callable[[str], Any], load: tuple[Callable[[str], Any], ...], fit: Callable[..., Any] | None = None) -> Base:
    save("base.npz")
    data = Path("base.npz").read_bytes()
    os.unlink("base.npz")
    return Base(data, members_of(data), load, fit)


def _checkpoint(options: dict[str, Any], valid: str | None, **more: Any) -> Base:
    """A checkpoint from the middle of an epoch. Times are replaced by constants, so that a number always means the same case."""
    written: list[Base] = []

    def fit(**arguments: Any) -> Any:
        return LanguageModel(**SMALL | options).fit(TEXT, valid, **{**RUN, **more, **arguments})

    def write(path: str, kind: str, about: Any, groups: Any) -> None:
        about = copy.deepcopy(about)
        about["run"]["position"] |= {"seconds": 2.5, "epoch_seconds": 1.5}
        about["history"] |= {column: [1.25] * len(about["history"][column]) for column in CLOCK_COLUMNS}
        written.append(_base(lambda path: write_model(path, kind, about, groups), LANGUAGE_MODEL, fit))

    write_model = fitting.write_model
    with mock.patch.object(fitting, "write_model", write):
        fit(checkpoint="a", checkpoint_every=1e-9)
    return written[2]


def _fit_frozen(**arguments: Any) -> Any:
    model = LanguageModel("lstm", hidden=4, layers=1, embedding=3, dropout=0.1, seed=1, backend="cpu", threads=1)
    return model.fit(FROZEN_TEXT * 4, FROZEN_TEXT, **FROZEN | arguments)


def load_language_model(path: str) -> Any:
    return LanguageModel.load(path, threads=1)


def load_sequential(path: str) -> Any:
    return Sequential.load(path, threads=1)


LANGUAGE_MODEL = (load_language_model, load_language_model, load_language_model, lambda path: LanguageModel.load(path, threads=1, cell=OWN))
SEQUENTIAL = (load_sequential, lambda path: Sequential.load(path, threads=1, compile=False),
              lambda path: Sequential.load(path, threads=1, custom_objects={"Half": Half}),
              lambda path: Sequential.load(path, threads=1, custom_objects={"Half": Half}, cells=[OWN]))  # fmt: skip


# Cases

STRUCTURED = ("header", "header", "header", "array", "members", "header array", "header members", "array members", "header many", "many")


def spoiled(random: Random, base: Base, others: list[Base]) -> bytes:
    """A damaged copy of ``base``."""
    members = list(base.members)
    if random.random() < 0.7:
        for part in random.choice(STRUCTURED).split():
            if part == "header":
                spoil_header(random, members, [other.members for other in others])
            else:
                {"array": spoil_array, "members": spoil_members, "many": add_members}[part](random, members)
        data = packed(members, random.choice((b"", b"", b"", b"\x1b[2J", b"PK\5\6" + bytes(18), bytes(60_000))))
    else:
        data = base.data
    if data == base.data or random.random() < 0.1:
        data = random.choice((damage.spoil, damage.spoil, spoil_zip_headers))(random, data)
    return data


def model_case(case: Case, bases: list[Base]) -> bool:
    """Damage a file and use it; return whether that was possible."""
    random = case.random
    if random.random() < 0.05:
        return companion_case(case, bases)
    base = random.choice(bases)
    data = spoiled(random, base, bases)
    path = case.put("\x1b[2Jmodel\u202e.npz" if random.random() < 0.02 else "model.npz", data)
    draw = random.random()
    try:
        if draw < 0.15:
            return ask(case, path)
        if draw < 0.2:
            return overwrite(case, path, base)
        if base.fit is not None and draw < 0.6:
            use(case, base.fit(resume=path))
        else:
            load = random.choice((load_language_model, load_sequential, read_about) if random.random() < 0.1 else base.load)
            use(case, load(path))
    finally:
        if draw >= 0.2 or draw < 0.15:
            assert Path(path).read_bytes() == data, "reading has changed the file"
    return True


def use(case: Case, model: Any) -> None:
    """Check that a loaded model can be used."""
    random = case.random
    if isinstance(model, dict):
        return
    case.messages.append(repr(model)[:1000])
    if isinstance(model, TextState):
        assert len(_model().generate(state=model, length=3, weights=model.weights)) == (len(model) if model.many else 3)
        assert _model().read("to", model.take(0), weights=model.weights).positions.tolist() == [model.positions[0] + 2]
        return
    if isinstance(model, Sequential):
        inputs = (2, 3) if isinstance(model.layers[0], Embedding) else (2, 3, model._features)
        outputs = model.predict(np.zeros(inputs))
        assert (outputs.shape[0], outputs.shape[-1]) == (2, model.layers[-1].units)
        if model._compiled is not None and random.random() < 0.1:
            model.fit(np.zeros(inputs), np.zeros(outputs.shape[:-1]), epochs=1, verbose=0)
    else:
        settings, tokenizer = model.get_params(), model.tokenizer_
        assert settings["tokenizer"] == (tokenizer and tokenizer.name), "the tokenizer is not the one of the settings"
        text: Any = "to be\n" if tokenizer else [0, 1, 0]
        assert isinstance(model.score(text), float)
        assert len(model.generate("" if tokenizer else [0], 3, seed=1)) <= 3_000_000
        if random.random() < 0.02:
            model.fit(TEXT if tokenizer else [0, 1, 0] * 9, **RUN)
    if random.random() < 0.1:
        case.files.add("again.npz")
        model.save("again.npz")
        if isinstance(model, LanguageModel):
            again = load_language_model("again.npz")
            theirs, ours = (model.get_params() | BACKEND for model in (again, model))
            assert again.tokenizer_ == model.tokenizer_ and theirs == ours, "another model was saved"
        else:
            again = Sequential.load("again.npz", threads=1, custom_objects={"Half": Half}, cells=[])
            assert repr(again) == repr(model), "another model was saved"
        assert [array.tobytes() for array in _weights(again)] == [array.tobytes() for array in _weights(model)], "other weights were saved"


def _weights(model: Any) -> list[np.ndarray]:
    return model.get_weights() if isinstance(model, Sequential) else list(model.network_.weights().values())


def ask(case: Case, path: str) -> bool:
    """Run a command on the file."""
    random = case.random
    lines = case.put("lines.txt", TEXT.encode() + "né\x1b[2J\x9b \u202e x\n".encode())
    backend = ["--threads", "1", "--backend", "cpu"]
    training = ["--epochs", "1", "--streams", "2", "--steps", "5", "--verbose", random.choice("02"), "--validation-split", "0", *backend]
    command = random.choice((
        ["info", path], ["info", path], ["info", path], ["info", path, "--json"], ["generate", path, "--length", "9", "--seed", "1", *backend],
        ["generate", path, "--length", "99", "--seed", "1", "--temperature", "3", *backend],
        ["generate", path, "to be \x1b[2J", "--length", "9", "--unknown", "unk", "--samples", "2", "--seed", "1", *backend],
        ["generate", path, "--weights", "int8", "--length", "3", "--seed", "1", *backend],
        ["score", path, lines, *backend], ["score", path, lines, "--per-token", *backend], ["score", path, lines, "--per-token", "--json", *backend],
        ["score", path, "-", "--unknown", "exclude", *backend], ["eval", path, lines, *backend], ["eval", path, lines, "--json", "--bos", *backend],
        ["train", lines, "--out", path, *training], ["train", lines, "--from", path, "--out", "new.npz", *training],
        ["train", lines, "--resume", path, "--out", "new.npz", *backend, "--verbose", "2"],
        ["train", lines, "--checkpoint", "new.npz", "--resume", path, "--out", "out.npz", *backend, "--verbose", "0"],
    ))  # fmt: skip
    case.files |= {"new.npz", "out.npz"}
    return case.run(*command, stdin=TEXT.encode())


def overwrite(case: Case, path: str, base: Base) -> bool:
    """Train or save to the file: it is either replaced by a complete one or unchanged."""
    random, data = case.random, Path(path).read_bytes()
    action = random.choice(("save", "checkpoint", "checkpoint", "both"))
    try:
        if action == "save":
            _model().save(path)
        elif action == "checkpoint" or base.fit is None:
            LanguageModel(**SMALL).fit(TEXT, checkpoint=path, **RUN)
        else:
            base.fit(checkpoint=path, resume=path)
    except DivergenceError:  # raised after a valid checkpoint was written
        load_language_model(path)
        raise
    except LanguageModelError as error:
        assert Path(path).read_bytes() == data, "the file has changed"
        if action == "save":
            assert isinstance(error, ModelFileError)
        raise
    load_language_model(path)
    return True


_saved: list[LanguageModel] = []


def _model() -> LanguageModel:
    if not _saved:
        _saved.append(LanguageModel(**SMALL).fit(TEXT, **RUN))
    return _saved[0]


LOCKS = (
    {"host": "\x1b[2J", "process": "\x1b[2J" * 99, "since": "\u202e" * 9999}, {"host": None, "process": 2**70, "since": []},
    {"host": "x", "process": -1, "since": "now"}, {"host": "x" * 900, "process": 1, "since": 1}, {"host": "x"}, [], None, "x", 1,
)  # fmt: skip


def companion_case(case: Case, bases: list[Base]) -> bool:
    """Train with another damaged file: the lock of a checkpoint, or a log to append to."""
    random = case.random
    if random.random() < 0.4:
        data = json.dumps(random.choice(LOCKS)).encode() + random.choice((b"\n", b"", b"\n" * 2000))
        data = random.choice((data, data, damage.spoil(random, data), b"", bytes(9)))
        case.put("run.npz.lock", data)
        case.files.add("run.npz")
        LanguageModel(**SMALL).fit(TEXT, checkpoint="run.npz", **RUN)
        return True
    name = random.choice(("log.csv", "log.jsonl"))
    table = name == "log.csv"
    row = {"time": "2026-01-01T00:00:00+00:00", "updates": 3, "epoch": 1, "loss": 2.5}
    values = {field: row.get(field) for field in FIELDS}
    lines = [",".join(FIELDS) + "\n"] * table + [
        ",".join("" if value is None else str(value) for value in values.values()) + "\n" if table else json.dumps(values) + "\n"] * 3
    odd = random.choice(ODD).encode("utf-8", "surrogatepass")
    data = "".join(lines).encode()
    data = random.choice((
        damage.spoil(random, data), damage.spoil(random, data), data + odd, odd + data, data.replace(b"epoch", odd), data.replace(b",", odd + b","),
        data.replace(b"2.5", b"2.5" * 50_000), data + b'"' * 3, data + b"x" * 200_000, data + b"," * 100_000, data + b"[" * 100_000, data + b"\0",
        b"", b"\n", data.replace(b"\n", b"\r\n"), data.replace(b"\n", b"\r"), data.replace(b"\n", b""), data.decode().encode("utf-16"),
    ))  # fmt: skip
    case.put(name, data)
    fitted = [base for base in bases if base.fit is not None]
    base = random.choice(fitted)
    try:
        if random.random() < 0.7 and base.fit is not None:
            base.fit(resume=case.put("run.npz", base.data), log=name)
        else:
            LanguageModel(**SMALL).fit(TEXT, log=name, **RUN)
    except ConfigError:
        assert Path(name).read_bytes() == data, "the log has changed"
        raise
    assert Path(name).read_bytes().startswith(data), "rows of the log are missing"
    return True
