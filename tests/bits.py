"""Checks whether two versions of numba_rnnlm compute the same bits, by SHA-256 digests of small trainings of all kinds.

It imports the package from PYTHONPATH and uses only public functions, so that the same trainings run on older and newer commits. On another
computer the bits may differ::

    cd tests
    PYTHONPATH=../../older python -m bits record older.json
    PYTHONPATH=.. python -m bits record newer.json
    PYTHONPATH=.. python -m bits compare older.json newer.json      # prints the digests that differ; exit status 1 if any do

Each training has several digests. "file" covers everything that it saves, "about/..." the header entries, "weights" and "moments" the
arrays: if "file" differs but "weights" does not, the header has changed and the numbers have not. The other digests cover what the model
generates, predicts and evaluates.
"""

import argparse
import contextlib
import hashlib
import json
import sys
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np

import numba_rnnlm
from numba_rnnlm import BackendError, LanguageModel, Sequential, cells, optimizers
from numba_rnnlm.callbacks import EarlyStopping, LambdaCallback
from numba_rnnlm.layers import GRU, LSTM, Dense, Dropout, Embedding, SimpleRNN

DATA = Path(__file__).parent / "data"
RANDOM = np.random.default_rng(1)


def words(letters):
    """Made-up words of these letters."""
    return ["".join(RANDOM.choice([*letters], length)) for length in RANDOM.integers(1, 8, 150)]


def text(words, lines):
    """Lines of these words, a few of which are frequent."""
    frequency = 1 / np.arange(1, len(words) + 1)
    return "".join(" ".join(RANDOM.choice(words, 8, p=frequency / frequency.sum())) + ".\n" for _ in range(lines))


WORDS = words("abdeiklmnorstuéö")
TEXT, VALID, STRANGE = text(WORDS, 300), text(WORDS, 60), text(words("aeioxyzß"), 100)  # 14 kB, 3 kB, and 4 kB with other letters
IDS = np.cumsum(RANDOM.integers(0, 3, 6000)) % 13

ONE = {"backend": "cpu", "threads": 1}
SMALL = {"hidden": 24, "layers": 2, "embedding": 12, "seed": 3, **ONE}
SHORT = {"epochs": 2, "streams": 8, "steps": 20, "verbose": 0}
LARGE = {"hidden": 150, "embedding": 70, "dropout": 0.2}  # large enough for two threads to share the work
BREAKS = {"valid": VALID, "schedule": "constant", "checkpoint": "run.npz"}

LANGUAGE = {  # name → arguments of the model, and of each call of fit
    "lstm": ({}, {}),
    "gru": ({"cell": "gru", "layers": 3}, {}),
    "tanh": ({"cell": "tanh", "layers": 1}, {}),
    "relu": ({"cell": "relu", "hidden": 21}, {}),
    "sigmoid": ({"cell": "sigmoid"}, {}),
    "a custom cell": ({"cell": replace(cells.get("gru"), name="own")}, {}),
    "words": ({"tokenizer": "word", "min_count": 2, "max_vocabulary": 90}, {"valid": VALID}),
    "bytes": ({"tokenizer": "byte", "cell": "gru"}, {"valid": VALID.encode()}),
    "ids": ({"tokenizer": None, "vocabulary_size": 13}, {"corpus": IDS, "valid": IDS[:500]}),
    "lines kept": ({"line_ends": "keep"}, {"corpus": TEXT.replace("\n", "\r\n")}),
    "dropout": ({"dropout": 0.3, "layers": 3}, {"epochs": 3}),
    "uniform": ({"initializer": "uniform", "initializer_scale": 0.05, "forget_bias": 0.0}, {}),
    "tied": ({"tied": True, "embedding": 24, "dropout": 0.1}, {}),
    "tied by a projection": ({"tied": True, "cell": "gru"}, {"optimizer": "adamw"}),
    "sgd, zaremba": ({}, {"optimizer": "sgd", "schedule": "zaremba", "decay_after": 1, "epochs": 4, "reduction": "sum_time"}),
    "momentum, cosine": ({}, {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.1, "schedule": "cosine"}),
    "rmsprop, plateau": (
        {"cell": "tanh"}, {"optimizer": "rmsprop", "learning_rate": 0.05, "schedule": "plateau", "decay_factor": 3.0, "epochs": 6, "valid": VALID}),
    "adagrad, warm-up": ({}, {"optimizer": "adagrad", "warmup": 0.3, "clip_norm": 0}),
    "adamw, decay": ({"cell": "gru"}, {"optimizer": "adamw", "weight_decay": 0.1, "schedule": "constant"}),
    "adam, clipped": ({}, {"clip_norm": 0.3, "clip_value": 0.01, "weight_decay": 0.01}),
    "PyTorch's RMSprop": ({}, {"optimizer": optimizers.pytorch.RMSprop(1e-3, clip_value=0.02)}),
    "Keras's Nadam": ({}, {"optimizer": optimizers.Nadam(5e-3, clipnorm=0.1), "schedule": "constant"}),
    "patience": ({}, {"learning_rate": 0.3, "schedule": "constant", "epochs": 9, "patience": 1, "valid": VALID}),
    "reports within epochs": (
        {"dropout": 0.1}, {"validation_split": 0.1, "validate_every": 17, "schedule": "plateau", "learning_rate": 0.2}),
    "updates skipped": (
        {"cell": "relu"}, {"optimizer": "sgd", "learning_rate": 3e3, "clip_norm": 0, "not_finite": "skip", "valid": VALID}),
    "lengths chosen": ({}, {"epochs": None, "streams": None, "steps": None, "corpus": VALID}),
    "fitted again": ({"dropout": 0.1}, {}, {"corpus": STRANGE}),
    "vocabulary extended": ({}, {}, {"corpus": STRANGE, "extend_vocabulary": True}),
    "resumed": ({"dropout": 0.2}, BREAKS, {**BREAKS, "epochs": 4, "resume": "run.npz"}),
    "1 thread": (LARGE, {"epochs": 1, "streams": 20}),
    "2 threads": ({**LARGE, "threads": 2}, {"epochs": 1, "streams": 20}),
    "bf16": ({**LARGE, "precision": "bf16"}, {"epochs": 1, "streams": 20}),
    "reference": ({"backend": "reference", "hidden": 6, "dropout": 0.1}, {"corpus": TEXT[:2000], "valid": VALID[:300]}),
}
GENERATED = {  # digest → arguments of generate
    "text": {},
    "text of int8": {"weights": "int8"},
    "text of top k, top p": {"temperature": 1.3, "top_k": 6, "top_p": 0.8},
    "text of temperature 0": {"temperature": 0.0},
}
EVALUATED = {}, {"weights": "int8"}, {"unknown": "exclude"}  # arguments of evaluate

X, VECTORS = RANDOM.integers(0, 11, (90, 12)), RANDOM.normal(0, 1, (90, 12, 5))
SUMS, SIGNS = np.cumsum(X, axis=1) % 3, (VECTORS.mean(axis=1) > 0).astype(int)
LABELS = "sparse_categorical_crossentropy", SUMS[:, -1]
LABELS_OF_STEPS = "sparse_categorical_crossentropy", SUMS
ONE_HOT = "categorical_crossentropy", np.eye(3)[SUMS[:, -1]]
YES_OR_NO = "binary_crossentropy", SIGNS[:, :1]
ORDER, VALIDATED = {"shuffle": False}, {"validation_split": 0.2}
STOPPING = {**VALIDATED, "epochs": 8, "callbacks": [EarlyStopping(patience=1, restore_best_weights=True)]}

SEQUENTIAL = {  # name → layers, optimizer, x, (loss, y), arguments of fit
    "Embedding, LSTM": ([Embedding(11, 6), LSTM(10), Dense(3, "softmax")], "adam", X, LABELS, {}),
    "Embedding, GRU": ([Embedding(11, 6, standard_deviation=0.5), GRU(10), Dense(3, "softmax")], "rmsprop", X, ONE_HOT, ORDER),
    "Embedding, SimpleRNN": ([Embedding(11, 6), SimpleRNN(10, activation="relu"), Dense(3, "softmax")], "sgd", X, ONE_HOT, VALIDATED),
    "three layers, dropout": (
        [Embedding(11, 6), Dropout(0.2), LSTM(9, return_sequences=True), Dropout(0.3), GRU(7, return_sequences=True),
         SimpleRNN(8, return_sequences=True, activation="sigmoid"), Dropout(0.1), Dense(3, "softmax")],
        "nadam", X, LABELS_OF_STEPS, VALIDATED),
    "vectors": ([LSTM(10), Dense(1, "sigmoid")], "adagrad", VECTORS, YES_OR_NO, VALIDATED),
    "vectors, Dense": ([Dense(7), GRU(10), Dropout(0.2), Dense(5, "sigmoid")], "adamw", VECTORS, ("binary_crossentropy", SIGNS), {}),
    "dropped vectors": ([Dropout(0.1), SimpleRNN(10), Dense(1, "sigmoid", use_bias=False)], "adadelta", VECTORS, YES_OR_NO, ORDER),
    "tied": ([Embedding(11, 8), LSTM(8), Dense(11, "softmax", tied=True)], "lion", X, LABELS, {"batch_size": 90}),
    "early stopping": ([Embedding(11, 6), LSTM(10), Dense(3, "softmax")], optimizers.Adam(0.1), X, LABELS, STOPPING),
    "validation data": (
        [Embedding(11, 6), GRU(10), Dense(3, "softmax")], optimizers.SGD(0.1, momentum=0.9, nesterov=True, clipnorm=0.5),
        X, LABELS, {"validation_data": (X[:20], LABELS[1][:20])}),
    "PyTorch's SGD": (
        [Embedding(11, 6), LSTM(10), Dense(3, "softmax")], optimizers.pytorch.SGD(0.2, momentum=0.5, clip_norm=0.2), X, LABELS, {}),
}

# The training data of data/record_files.py for the files of earlier versions
OLD_TEXT = "to be or not to be\nthat is the question\n"
OLD_TRAINING = {"corpus": OLD_TEXT * 4, "valid": OLD_TEXT, "epochs": 3, "streams": 2, "steps": 10, "learning_rate": 0.05,
                "schedule": "plateau", "verbose": 0}
OLD_X = np.arange(40).reshape(8, 5) % 7
OLD_Y = (OLD_X[:, -1] + 1) % 7


def digest(value):
    """Digest of bytes, numbers, texts, arrays and containers of them; all bits of a float count, but not its type."""
    def plain(value):
        return value.hex() if isinstance(value, bytes) else value.tolist()

    data = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True, default=plain).encode()
    return hashlib.sha256(data).hexdigest()


def of_file(model):
    """Digests of the model's file: of the whole, of each header entry, and of each group of arrays."""
    model.save("model.npz")
    groups = {}
    with np.load("model.npz", allow_pickle=False) as file:
        about = json.loads(file["about"].tobytes())
        for group, _, name in (name.partition("/") for name in file.files if name != "about"):
            groups.setdefault(group, {})[name] = file[f"{group}/{name}"]
    parts = {f"about/{entry}": value for entry, value in about.items()} | groups
    return {"file": digest(Path("model.npz").read_bytes()), **{part: digest(value) for part, value in parts.items()}}


def of_language_model(model):
    """Digests of what a model saves, generates and evaluates."""
    if model.tokenizer_ is None:
        corpus, prompts, sentences = IDS, [IDS[5:95], IDS[:1]], [IDS[:2], IDS[:40], IDS[7:200]]
    else:
        corpus, prompts, sentences = TEXT, [TEXT[:90], "", TEXT[7:9]], [*TEXT.splitlines()[:9], "", "of other LETTERS"]
    ways = GENERATED if model.get_params()["backend"] == "cpu" else {"text": {}}  # int8 is supported on the CPU only
    evaluations = [model.evaluate(corpus, **how) for how in EVALUATED] + [model.validation_] * (model.validation_ is not None)
    return {
        **of_file(model),
        **{name: digest(model.generate(prompts[0], 120, seed=1, unknown="unk", **how)) for name, how in ways.items()},
        "texts side by side": digest(model.generate(prompts, 40, seed=1, unknown="unk")),
        "scores": digest([model.score(sentences), model.score(sentences[1], bos=False, eos=False), model.full_scores(sentences)]),
        "evaluations": digest([(one.nats, one.tokens, one.oov, one.characters, one.bytes) for one in evaluations]),
    }


def language_model(options, *fits):
    """Digests of a trained model; None if this computer does not support its precision."""
    try:
        model = LanguageModel(**SMALL | options)
    except BackendError:
        return None
    for fit in fits:
        model.fit(**{"corpus": TEXT} | SHORT | fit)
    return of_language_model(model)


def of_sequential(model, x, y):
    """Digests of what a model saves and predicts."""
    return {**of_file(model), "predictions": digest([model.predict(x), model.evaluate(x, y)])}


def fitted(model, x, y, callbacks=(), **options):
    """The same digests after training, and those of its history and of the arguments of its callbacks."""
    calls_made = []
    calls = [f"on_{what}_{when}" for what in ("train", "epoch", "train_batch") for when in ("begin", "end")]
    noting = LambdaCallback(**{call: lambda *given, call=call: calls_made.append(digest([call, given])) for call in calls})
    history = model.fit(x, y, callbacks=[noting, *callbacks], **{"batch_size": 16, "verbose": 0} | options)
    return {**of_sequential(model, x, y), "history": digest(history.history), "callbacks": digest(calls_made)}


def sequential(layers, optimizer, x, target, options):
    """Digests of a model that is trained, saved, loaded and trained further."""
    loss, y = target
    model = Sequential(layers, seed=3, **ONE)
    model.compile(optimizer, loss, ["accuracy"])
    first = fitted(model, x, y, **{"epochs": 3} | options)
    return first | later(fitted(Sequential.load("model.npz", **ONE), x, y, **options | {"epochs": 5, "initial_epoch": 3}))


def old_file(path):
    """Digests of a file of an earlier version: of the loaded model, and of a training that continues from it."""
    if path.name.startswith("sequential"):
        model = Sequential.load(path, **ONE)
        return of_sequential(model, OLD_X, OLD_Y) | later(fitted(model, OLD_X, OLD_Y, epochs=4, initial_epoch=2))
    model = LanguageModel.load(path, **ONE)
    resume = path if path.name.startswith("checkpoint") else None
    return of_language_model(model) | later(of_language_model(model.fit(**OLD_TRAINING, resume=resume)))


def later(digests):
    """Prefix the names of the digests of a model that was trained further."""
    return {f"{name} later": one for name, one in digests.items()}


def record(path):
    """Write the digests of all trainings to a JSON file."""
    path = Path(path).resolve()
    print(f"numba_rnnlm of {Path(numba_rnnlm.__file__).parent}", file=sys.stderr)
    warnings.simplefilter("ignore")
    jobs = [(f"LanguageModel: {name}", language_model, row) for name, row in LANGUAGE.items()]
    jobs += [(f"Sequential: {name}", sequential, row) for name, row in SEQUENTIAL.items()]
    jobs += [(f"file: {old.name}", old_file, (old,)) for old in sorted(DATA.glob("*_v*.npz"))]
    found = {}
    for name, recorded, row in jobs:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            found[name] = recorded(*row)
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{len(found)} trainings, {sum(map(len, filter(None, found.values())))} digests", file=sys.stderr)
    return 0


def compare(*paths):
    """Print the digests that differ between two records; return 1 if any do."""
    one, other = (json.loads(Path(path).read_text()) for path in paths)
    different = 0
    for name in one | other:
        before, after = one.get(name) or {}, other.get(name) or {}
        if found := [part for part in before | after if before.get(part) != after.get(part)]:
            different += 1
            print(f"{name}: {', '.join(found)}" if before and after else f"{name}: in one record only")
    print(f"{different} of {len(one | other)} trainings differ")
    return int(different > 0)


def main():
    parser = argparse.ArgumentParser(prog="bits", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("record", help=record.__doc__).add_argument("path", metavar="OUT.json")
    two = commands.add_parser("compare", help=compare.__doc__)
    two.add_argument("one", metavar="A.json")
    two.add_argument("other", metavar="B.json")
    given = parser.parse_args()
    return record(given.path) if given.command == "record" else compare(given.one, given.other)


if __name__ == "__main__":
    sys.exit(main())
