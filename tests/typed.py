"""A user's program for type checkers: the listings of the documents, the return types of all calls, and wrong calls.

mypy checks it in strict mode, where an unnecessary ``type: ignore`` is an error. ``test_typed.py`` runs :func:`texts`, :func:`ids`,
:func:`examples` and the calls in ``REFUSED``, and compares the returned values with each ``assert_type``.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

from numba_rnnlm import (
    Cell,
    ConfigError,
    Evaluation,
    Files,
    LanguageModel,
    LanguageModelError,
    ModelFileError,
    Sequential,
    TextState,
    TokenScore,
    cells,
    rules,
)
from numba_rnnlm.callbacks import Callback, CSVLogger, EarlyStopping, History, LambdaCallback, Logs, ModelCheckpoint
from numba_rnnlm.layers import (
    GRU,
    LSTM,
    Conv1D,
    Dense,
    Dropout,
    Embedding,
    FeedForward,
    Layer,
    LayerNormalization,
    Recurrent,
    Residual,
    SimpleRNN,
    SingleHeadAttention,
)
from numba_rnnlm.optimizers import SGD, Adam, AdamW, Optimizer, pytorch
from numba_rnnlm.portable import portable

Floats = NDArray[np.float64]
Drawn = NDArray[np.int32]  # ids


# Listings of README and docs


def readme() -> None:
    model = LanguageModel(cell="lstm", hidden=128, layers=2, embedding=64, tokenizer="char", seed=1)
    model.fit("corpus.txt", valid="valid.txt")

    model.perplexity("test.txt")
    model.score("a sentence")
    model.generate("ROMEO:", length=200, temperature=0.8, seed=1)
    for piece in model.stream("ROMEO:", length=200):
        print(piece, end="", flush=True)
    model.generate(["ROMEO:", "JULIET:"], length=200, weights="int8")
    model.save("model.npz")
    model = LanguageModel.load("model.npz")

    model.fit("corpus.txt", valid="valid.txt", epochs=10, checkpoint="run.npz", checkpoint_every="10min", resume="run.npz")


def keras(vocab_size: int, embedding_dim: int, max_length: int, x_train: Drawn, y_train: Floats) -> None:
    model = Sequential()
    model.add(Embedding(vocab_size, embedding_dim, input_length=max_length))
    model.add(LSTM(128, return_sequences=True))
    model.add(LSTM(64))
    model.add(Dense(vocab_size, activation='softmax'))
    model.compile(loss='categorical_crossentropy', optimizer='adam', metrics=['accuracy'])
    model.fit(x_train, y_train, epochs=10, batch_size=64)


def layers() -> None:
    block = [Residual([LayerNormalization(), Recurrent(128, True, cell="mingru")]), Residual([LayerNormalization(), FeedForward(512)])]
    model = LanguageModel(embedding=128, body=block * 3)
    model.network_.graph.names[0].upper()


def attention_layers() -> None:
    attention = Residual([LayerNormalization(), SingleHeadAttention(window=500, dropout=0.1)])
    model = LanguageModel(embedding=128, body=[LSTM(128, return_sequences=True), attention, LSTM(128, return_sequences=True)])
    model.network_.graph.names[0].upper()


def serving() -> None:
    model = LanguageModel.load("model.npz")
    prompts = ["to be", "or not", "to be"]
    with ThreadPoolExecutor(8) as clients:
        texts = list(clients.map(lambda prompt: model.generate(prompt, length=100), prompts))
    print(texts)


def states() -> None:
    model = LanguageModel.load("model.npz")
    state = model.read("ROMEO:\n")

    text = model.generate(state=state, length=100, seed=1)
    for piece in model.stream(state=state, length=100):
        print(piece, end="", flush=True)

    longer = model.read("Is the day so young?\n", state=state)
    branch = model.generate("But soft", length=50, state=longer)

    score = model.score("Is the day so young?", state=state)
    tokens = model.full_scores("Is the day so young?", eos=False, state=state)
    best = max(["day", "night", "knight"], key=lambda word: model.score(word, eos=False, state=state))
    likely = model.next_token(state, k=5)

    states = model.read(["ROMEO:\n", "JULIET:\n"])
    texts = model.generate(state=states, length=100, seed=1)
    scores = model.score(["Ay me!", "I take thee at thy word"], state=states)
    romeo, both = states.take(0), states.take([1, 0, 0])
    three = model.generate(state=state.take([0, 0, 0]), length=100, seed=1)
    answers = model.generate(["Nay, ", "Ay, "], length=50, state=state, seed=1)

    state.save("state.npz")
    state = TextState.load("state.npz")
    print(text, branch, score, tokens, best, likely, texts, scores, romeo, both, three, answers)


def file_format() -> None:
    with np.load("model.npz", allow_pickle=False) as file:
        about = json.loads(bytes(file["about"]))
        embedding = file["weights/embedding/W"]
    print(about["kind"], about["config"]["cell"], embedding.shape)

    with np.load("model.npz", allow_pickle=False) as file:
        arrays: dict[str, Any] = dict(file)
    arrays["weights/dense/b"][0] -= 1.0
    np.savez("changed.npz", **arrays)
    model = LanguageModel.load("changed.npz")
    print(model)


# Return types


def texts(model: LanguageModel, path: Path, flag: bool) -> None:
    """A model of text, and a file with lines that it knows."""
    one, many = model.full_scores("to be"), model.full_scores(["to be", "or not"])
    assert_type(one, list[TokenScore])
    assert_type(many, list[list[TokenScore]])
    assert_type(one[0].token, str | int)
    assert_type(one[0].log_probability, float)

    assert_type(model.score("to be", bos=False, eos=False, unknown="penalize", penalty=2.0), float)
    assert_type(model.score(b"to be"), float)
    assert_type(model.score([1, 2]), float)
    assert_type(model.score(np.array([1, 2], np.int64)), float)
    assert_type(model.score([np.int32(1), np.int32(2)]), float)
    assert_type(model.score(["to be", "or not"]), Floats)
    assert_type(model.score(("to be", b"or not", [1, 2])), Floats)
    assert_type(model.score(text for text in ("to be", "or not")), Floats)
    assert_type(model.score([[1, 2], [3]]), Floats)
    assert_type(model.score(path), Floats)
    assert_type(model.score([path, path]), Floats)
    assert_type(model.score(Files(path, encoding="ascii")), Floats)
    assert_type(model.score(StringIO("to be\n")), Floats)
    column: NDArray[np.str_] = np.array(["to be", "or not"])
    assert_type(model.score(column), Floats)

    assert_type(model.generate(), str)
    assert_type(model.generate("to", 3, 0.5, top_k=5, top_p=0.9, seed=1, weights="int8", unknown="unk"), str)
    assert_type(model.generate("to", length=3, as_bytes=True), bytes)
    assert_type(model.generate(b"to", length=3), bytes)
    assert_type(model.generate(bytearray(b"to"), length=3, as_bytes=flag), bytes)
    assert_type(model.generate([1, 2], length=3), Drawn)
    assert_type(model.generate([1, 2], length=3, as_bytes=True), bytes)
    assert_type(model.generate("to", length=3, as_bytes=flag), Any)
    assert_type(model.generate(["to", "be"], length=3), list[str])
    assert_type(model.generate(StringIO("to\nbe\n"), length=3), list[str])
    assert_type(model.generate(column, length=3), list[str])
    assert_type(model.generate([b"to", b"be"], length=3), list[bytes])
    assert_type(model.generate(BytesIO(b"to\nbe\n"), length=3), list[bytes])
    assert_type(model.generate(path, length=3), list[bytes])
    assert_type(model.generate([path], length=3), list[bytes])
    assert_type(model.generate([[1], [2, 3]], length=3), list[Drawn])
    assert_type(model.generate(("to", b"be", [1]), length=3, as_bytes=True), list[bytes])

    assert_type(model.stream("to", 3, 0.5, top_k=5, top_p=0.9, seed=1, weights="int8", unknown="unk"), Iterator[str])
    assert_type(model.stream(b"to", length=3), Iterator[bytes])
    assert_type(model.stream("to", length=3, as_bytes=True), Iterator[bytes])
    assert_type(model.stream([1, 2], length=3), Iterator[int])

    state = model.read("to", unknown="unk")
    assert_type(state, TextState)
    assert_type(model.read(["to", "be"], state, weights="float32"), TextState)
    assert_type(model.read(path), TextState)
    assert_type(state.copy(), TextState)
    assert_type(state.take(0), TextState)
    assert_type(state.take([0, 0]), TextState)
    assert_type(len(state), int)
    assert_type(state.positions, np.ndarray)
    assert_type(state.arrays, dict[str, np.ndarray])
    assert_type(model.generate(state=state, length=3), Any)
    assert_type(model.generate("be", 3, state=state, top_k=5, as_bytes=True), Any)
    assert_type(model.stream("be", 3, state=state), Iterator[Any])
    assert_type(model.score("be", state=state), float)
    assert_type(model.score(["be", "not"], eos=False, state=state), Floats)
    assert_type(model.full_scores("be", state=state), list[TokenScore])
    assert_type(model.full_scores(["be"], state=state), list[list[TokenScore]])
    assert_type(model.next_token(state), list[Any])
    assert_type(model.next_token(state, k=3), list[Any])
    state.save(path.with_suffix(".state.npz"))
    assert_type(TextState.load(path.with_suffix(".state.npz")), TextState)

    measured = model.evaluate(path, weights="int8", bos=True, unknown="exclude")
    assert_type(measured, Evaluation)
    assert_type(measured.perplexity, float)
    assert_type(measured.bits_per_character, float | None)
    assert_type(model.perplexity("to be\n"), float)
    assert_type(model.bits_per_character("to be\n"), float)
    assert_type(model.parameter_count, int)
    assert_type(model.history_, dict[str, list[float]])
    assert_type(model.validation_, Evaluation | None)
    assert_type(model.get_params(), dict[str, Any])
    assert_type(model.set_params(threads=1), LanguageModel)
    assert_type(model.network_.weights(), dict[str, np.ndarray])

    model.save(path.with_suffix(".npz"))
    assert_type(LanguageModel.load(path.with_suffix(".npz"), backend="cpu", threads=1), LanguageModel)
    try:
        LanguageModel.load("missing.npz")
    except ModelFileError as error:
        assert_type(error.filename, Any)
    except LanguageModelError:
        raise


def ids(model: LanguageModel) -> None:
    """A model of ids."""
    assert_type(model.fit(np.arange(20) % 5, epochs=1, optimizer=pytorch.Adam(1e-3, clip_norm=1.0), verbose=0), LanguageModel)
    assert_type(model.score(np.zeros(3, np.int32)), float)
    assert_type(model.score([np.zeros(3, np.int32), np.ones(2, np.int32)]), Floats)
    assert_type(model.generate(range(3), length=2), Drawn)
    assert_type(model.generate([np.zeros(3, np.int32)], length=2), list[Drawn])


def examples(path: Path, flag: bool) -> None:
    """A Sequential, with all Keras arguments that have one allowed value."""
    stack: list[Layer] = [
        Embedding(4, 3, name=None, trainable=True, mask_zero=False, embeddings_initializer="uniform", input_shape=None),
        SimpleRNN(3, return_sequences=True, activation="relu", use_bias=True, dropout=0.0, recurrent_dropout=0),
        GRU(3, True, activation="tanh", recurrent_activation="sigmoid", reset_after=True, return_state=False),
        Dropout(0.5, noise_shape=None, seed=None),
        Conv1D(3, 2, 1, "same", data_format="channels_last", kernel_initializer="glorot_uniform", bias_initializer="zeros"),
        LSTM(3, kernel_initializer="glorot_uniform", recurrent_initializer="orthogonal", bias_initializer="zeros", go_backwards=False,
             stateful=False, unroll=False, unit_forget_bias=True),
        Dense(4, "softmax", name=None, trainable=True, kernel_initializer="glorot_uniform", bias_initializer="zeros"),
    ]
    model = Sequential(stack, seed=1)
    model.compile(
        AdamW(0.01, name="mine", clipnorm=1.0, use_ema=False, ema_momentum=0.99, ema_overwrite_frequency=None, loss_scale_factor=None,
              gradient_accumulation_steps=None),
        "sparse_categorical_crossentropy", loss_weights=None, weighted_metrics=None, run_eagerly=False, steps_per_execution=1,
        jit_compile="auto",
    )
    x = np.arange(20).reshape(5, 4) % 4
    watching = [
        EarlyStopping("loss", patience=2, baseline=None, start_from_epoch=0), LambdaCallback(on_epoch_end=lambda epoch, logs: None), Watch(),
        ModelCheckpoint(path, monitor="loss", save_weights_only=False, save_freq="epoch", initial_value_threshold=None),
    ]
    history = model.fit(
        x, x[:, 0], epochs=1, verbose=0, callbacks=watching, sample_weight=None, class_weight=None, steps_per_epoch=None,
        validation_steps=None, validation_batch_size=None, validation_freq=1,
    )
    assert_type(history, History)
    assert_type(history.history, dict[str, list[float]])
    assert_type(model.evaluate(x, x[:, 0], sample_weight=None, steps=None, callbacks=None), float | list[float])
    assert_type(model.evaluate(x, x[:, 0], return_dict=True), dict[str, float])
    assert_type(model.evaluate(x, x[:, 0], return_dict=flag), float | list[float] | dict[str, float])
    assert_type(model.predict(x, steps=None, callbacks=None), np.ndarray)
    assert_type(model.get_weights(), list[np.ndarray])
    assert_type(model.layers, list[Layer])
    model.save(path)
    assert_type(Sequential.load(path), Sequential)
    mine = Sequential(stack, backend="reference")
    mine.compile(Halved(0.5), "sparse_categorical_crossentropy", "accuracy")
    mine.fit(x, x[:, 0], verbose=0)
    mine.save(path)
    assert_type(Sequential.load(path, custom_objects={"Halved": Halved}), Sequential)


# User-defined classes


class Watch(Callback):
    """A callback."""

    def on_epoch_end(self, epoch: int, logs: Logs) -> None:
        self.model.stop_training = logs["loss"] < 0.5


@dataclass(frozen=True)
class Halved(Optimizer):
    """An optimiser."""

    learning_rate: float = 0.1

    @property
    def rule(self) -> rules.Rule:
        return rules.SGD

    def hyper(self, step: int, rate: float) -> tuple[float, ...]:
        return (1.0, 0.0, rate / 2)


def equations(z: np.ndarray, prev: np.ndarray) -> np.ndarray:
    """The equations of a cell: h' = x + h."""
    return z


@portable
def forward(z: np.ndarray, prev: np.ndarray, next: np.ndarray, start: int, stride: int) -> None:
    for j in range(start, z.shape[1], stride):
        next[0, j] = z[0, j]


@portable
def backward(z: np.ndarray, prev: np.ndarray, next: np.ndarray, d: np.ndarray, start: int, stride: int) -> None:
    for j in range(start, z.shape[1], stride):
        z[0, j] = d[0, j]
        d[0, j] = type(d[0, j])(0)


def own_cell() -> None:
    plain = Cell("plain", {"a": "xh"}, ("h",), equations, forward, backward)
    assert_type(cells.register(plain), Cell)
    assert_type(LanguageModel(plain, hidden=3), LanguageModel)
    assert_type(Recurrent(3, cell=plain).cell, str | Cell)
    del cells.CELLS["plain"]


# Calls that type checkers and the library reject

REFUSED: list[Callable[[], object]] = [
    lambda: LanguageModel(hiden=3),  # type: ignore[call-arg]
    lambda: LanguageModel(hidden="3"),  # type: ignore[arg-type]
    lambda: LanguageModel().fit(),  # type: ignore[call-arg]
    lambda: LanguageModel().fit("to be\n", batch_size=3),  # type: ignore[call-arg]
    lambda: LanguageModel.load("model.npz", device="cpu"),  # type: ignore[call-arg]
    lambda: LanguageModel(tokenizer=None, vocabulary_size=3).score(3),  # type: ignore[call-overload]
    lambda: LanguageModel(tokenizer=None, vocabulary_size=3).generate([0], max_length=3),  # type: ignore[call-overload]
    lambda: LanguageModel(tokenizer=None, vocabulary_size=3).generate([0], 3, 1.0, 5),  # type: ignore[call-overload]
    lambda: LanguageModel(tokenizer=None, vocabulary_size=3).stream([0], as_bytes="yes"),  # type: ignore[call-overload]
    lambda: Sequential([3]),  # type: ignore[list-item]
    lambda: Sequential(name="mine"),  # type: ignore[arg-type]
    lambda: Sequential().save("model.npz", overwrite=True),  # type: ignore[call-arg]
    lambda: CSVLogger(filename="log.csv"),  # type: ignore[call-arg]
    lambda: LSTM(),  # type: ignore[call-arg]
    lambda: LSTM(3, True, "lstm", 1.0, None),  # type: ignore[call-arg]
    lambda: LSTM(3, stateful=True),  # type: ignore[arg-type]
    lambda: LSTM(3, dropout="0.5"),  # type: ignore[arg-type]
    lambda: LSTM(3, reset_after=True),  # type: ignore[call-arg]
    lambda: SimpleRNN(3, recurrent_activation="sigmoid"),  # type: ignore[call-arg]
    lambda: Dense(3, kernel_initializer="zeros"),  # type: ignore[arg-type]
    lambda: Adam(lr=0.1),  # type: ignore[call-arg]
    lambda: SGD(use_ema=True),  # type: ignore[arg-type]
    lambda: EarlyStopping(baseline=0.5),  # type: ignore[arg-type]
    lambda: Sequential().compile("adam", run_eagerly=True),  # type: ignore[arg-type]
    lambda: Sequential().fit([[0]], [0], sample_weight=[1.0]),  # type: ignore[arg-type]
    lambda: Sequential().fit([[0]], [0], nb_epoch=3),  # type: ignore[call-arg]
    lambda: Sequential().predict([[0]], steps=3),  # type: ignore[arg-type]
    lambda: Sequential().evaluate([[0]], [0], steps=3),  # type: ignore[call-overload]
    lambda: Cell("mine"),  # type: ignore[call-arg]
]  # fmt: skip


def names_of_errors(error: ConfigError) -> tuple[LanguageModelError, ValueError]:
    """Errors of the library are also built-in exceptions."""
    return error, error
