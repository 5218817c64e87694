"""Sequential: Keras's conventions, compared with Keras, with NumPy, and with itself."""

import contextlib
import copy
import io
import json
import pickle
import re
import signal
import sys
import warnings
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from checks import examples
from hypothesis import given
from hypothesis import strategies as st
from own_layers import Mirror

from numba_rnnlm import LanguageModel, Sequential, cli, layers, progress, suggestions
from numba_rnnlm.callbacks import CSVLogger, EarlyStopping, LambdaCallback, ModelCheckpoint
from numba_rnnlm.errors import (
    ConfigError,
    DivergenceError,
    ModelFileError,
    NotFittedError,
    ShapeError,
    VocabularyError,
)
from numba_rnnlm.formats.native import open_model, write_model
from numba_rnnlm.layers import GRU, LSTM, Concat, Dense, Dropout, Embedding, Layer, Recurrent, Residual, SimpleRNN
from numba_rnnlm.layers.description import describe as describe_layer
from numba_rnnlm.optimizers import OPTIMIZERS, SGD, Adam, RMSprop, describe
from numba_rnnlm.training import clock
from numba_rnnlm.training.checkpoints import Checkpoints
from numba_rnnlm.training.loop import Trainer

V, T, N = 6, 5, 24  # symbols, steps, examples

RNG = np.random.default_rng(7)
X = RNG.integers(V, size=(N, T))
LAST = (X[:, 0] * 5 + 1) % V  # the next symbol depends on the first one
EACH = (X + 1) % V  # a target for every step


def stack(*middle, top=None, **options):
    return Sequential([Embedding(V, 8), *middle, top or Dense(V, "softmax")], **options)


def compiled(*middle, loss="sparse_categorical_crossentropy", optimizer="adam", top=None, **options):
    model = stack(*(middle or (LSTM(10),)), top=top, **options)
    model.compile(loss=loss, optimizer=optimizer, metrics=["accuracy"])
    return model


def one_hot(ids, size=V):
    return np.eye(size)[ids]


def same(one, other):
    assert len(one) == len(other)
    assert all(a.tobytes() == b.tobytes() and a.shape == b.shape for a, b in zip(one, other, strict=True))


# Learning

LISTING = """
model = Sequential()
model.add(Embedding(vocab_size, embedding_dim, input_length=max_length))
model.add(LSTM(128, return_sequences=True))
model.add(LSTM(64))
model.add(Dense(vocab_size, activation='softmax'))
model.compile(loss='categorical_crossentropy', optimizer='adam', metrics=['accuracy'])
model.fit(x_train, y_train, epochs=10, batch_size=64)
"""


def test_a_program_written_for_keras_runs_unchanged_and_learns(capsys):
    x = np.random.default_rng(0).integers(V, size=(1000, T))
    names = {
        "Sequential": Sequential, "Embedding": Embedding, "LSTM": LSTM, "Dense": Dense,
        "vocab_size": V, "embedding_dim": 16, "max_length": T,
        "x_train": x.astype(float), "y_train": one_hot((x[:, 0] + 1) % V),
    }
    exec(LISTING, names)
    history = names["model"].history
    assert history.epoch == list(range(10))
    assert set(history.history) == {"loss", "accuracy"}
    assert history.history["accuracy"][-1] > 0.9
    assert capsys.readouterr().out.count("Epoch 10/10") == 1


@pytest.mark.parametrize("layer", [SimpleRNN(24), SimpleRNN(24, activation="relu"), GRU(24), LSTM(24)], ids=str)
def test_every_cell_learns_to_remember_the_first_symbol(layer):
    x = np.random.default_rng(1).integers(3, size=(120, 4))
    model = Sequential([Embedding(3, 8), layer, Dense(3, "softmax")])
    model.compile(loss="sparse_categorical_crossentropy", optimizer=Adam(0.01), metrics=["accuracy"])
    history = model.fit(x, (x[:, 0] + 1) % 3, epochs=30, batch_size=20, verbose=0)
    assert history.history["accuracy"][-1] > 0.9
    assert model.evaluate(x, (x[:, 0] + 1) % 3)[1] > 0.9


def test_a_model_with_a_target_for_every_step_learns():
    previous = np.concatenate([np.zeros((N, 1), int), X[:, :-1]], axis=1)
    model = compiled(GRU(24, return_sequences=True), optimizer=Adam(0.02))
    assert model.fit(X, previous, epochs=60, batch_size=8, verbose=0).history["accuracy"][-1] > 0.9
    assert model.predict(X).shape == (N, T, V)
    assert (model.predict(X).argmax(-1) == previous).mean() > 0.9


def test_sigmoid_with_binary_crossentropy_learns():
    model = compiled(LSTM(12), loss="binary_crossentropy", optimizer=Adam(0.02), top=Dense(1, "sigmoid"))
    y = X[:, 0] < 3
    assert model.fit(X, y.astype(int), epochs=40, batch_size=8, verbose=0).history["accuracy"][-1] > 0.9
    assert ((model.predict(X)[:, 0] > 0.5) == y).mean() > 0.9


# Targets

@pytest.mark.parametrize("each", [False, True], ids=["once a sequence", "after every step"])
def test_one_hot_rows_and_ids_are_equivalent_targets(each):
    ids = EACH if each else LAST
    runs = []
    for loss, y in (
        ("categorical_crossentropy", one_hot(ids)),
        ("categorical_crossentropy", one_hot(ids).astype(np.int8).tolist()),
        ("categorical_crossentropy", one_hot(ids).astype(bool)),
        ("sparse_categorical_crossentropy", ids),
        ("sparse_categorical_crossentropy", ids[..., np.newaxis].astype(np.float32)),
    ):
        model = compiled(LSTM(6, return_sequences=each), loss=loss)
        history = model.fit(X, y, epochs=2, batch_size=7, verbose=0)
        runs.append((history.history, model.get_weights()))
    for history, weights in runs[1:]:
        assert history == runs[0][0]
        same(weights, runs[0][1])


@pytest.mark.parametrize("each", [False, True], ids=["once a sequence", "after every step"])
def test_targets_for_one_sigmoid_may_omit_the_last_axis(each):
    y = (X if each else X[:, 0]) % 2
    model = compiled(LSTM(6, return_sequences=each), loss="binary_crossentropy", top=Dense(1, "sigmoid"))
    assert model.evaluate(X, y) == model.evaluate(X, y[..., np.newaxis].astype(float))


def test_loss_and_accuracy_follow_from_the_predictions():
    """Computed in NumPy from predict."""
    rows = np.arange(N)
    model = compiled()
    p = model.predict(X).astype(np.float64)
    loss, accuracy = model.evaluate(X, LAST, batch_size=7)
    assert loss == pytest.approx(-np.log(p[rows, LAST]).mean(), rel=1e-6)
    assert accuracy == pytest.approx((p.argmax(-1) == LAST).mean())

    soft = RNG.random((N, T, 3)).round(1)
    soft[:, :, 0] = soft[:, :, 0] > 0.5
    for units in (1, 3):
        model = compiled(LSTM(6, return_sequences=True), loss="binary_crossentropy", top=Dense(units, "sigmoid"))
        model.compile(loss="binary_crossentropy", metrics=["accuracy", "binary_accuracy"])
        model.set_weights([np.random.default_rng(2).normal(size=w.shape) for w in model.get_weights()])
        p, y = model.predict(X).astype(np.float64), soft[:, :, :units]
        loss, accuracy, binary = model.evaluate(X, y, batch_size=7)
        assert loss == pytest.approx(-(y * np.log(p) + (1 - y) * np.log(1 - p)).mean(), rel=1e-5)
        assert binary == pytest.approx(((p > 0.5) == y).mean())
        assert accuracy == pytest.approx(binary if units == 1 else (p.argmax(-1) == y.argmax(-1)).mean())


def test_evaluate_returns_the_same_as_keras():
    model = compiled()
    loss, accuracy = model.evaluate(X, LAST)
    assert model.evaluate(X, LAST, return_dict=True) == {"loss": loss, "accuracy": accuracy}
    model.compile(loss="sparse_categorical_crossentropy")
    assert model.evaluate(X, LAST) == loss
    assert list(model.fit(X, LAST, verbose=0).history) == ["loss"]


# Training

@pytest.mark.parametrize("batch_size", [1, 5, 7, N, 100])
def test_the_loss_of_an_epoch_is_the_mean_over_examples(batch_size):
    model = compiled(optimizer=SGD(learning_rate=0.0))
    history = model.fit(X, LAST, batch_size=batch_size, verbose=0).history
    loss, accuracy = model.evaluate(X, LAST)
    assert history["loss"][0] == pytest.approx(loss, rel=1e-6)
    assert history["accuracy"][0] == pytest.approx(accuracy)


def test_reported_values_are_from_before_the_update():
    model = compiled(optimizer=SGD(1.0))
    before = model.evaluate(X, LAST, batch_size=N)
    history = model.fit(X, LAST, batch_size=N, verbose=0, shuffle=False).history
    assert before == [history["loss"][0], history["accuracy"][0]]
    assert model.evaluate(X, LAST) != before


def test_gradients_are_means_over_the_batch():
    one, two = compiled(optimizer=SGD(0.5)), compiled(optimizer=SGD(0.5))
    one.fit(X, LAST, batch_size=N, verbose=0)
    two.fit(np.tile(X, (2, 1)), np.tile(LAST, 2), batch_size=2 * N, verbose=0)
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_computing_accuracy_does_not_change_training():
    with_accuracy, without = compiled(), compiled()
    without.compile(loss="sparse_categorical_crossentropy", optimizer="adam")
    for model in (with_accuracy, without):
        model.fit(X, LAST, epochs=2, verbose=0)
    same(with_accuracy.get_weights(), without.get_weights())


def test_batches_cover_every_example_once():
    """With one symbol per example, the embedding rows that change tell which examples were seen."""
    x, y = np.arange(9)[:, np.newaxis], np.zeros(9, int)
    model = Sequential([Embedding(10, 3), LSTM(3), Dense(2, "softmax")])
    model.compile(loss="sparse_categorical_crossentropy", optimizer="sgd")
    before = model.get_weights()[0]
    model.fit(x, y, batch_size=4, verbose=0)
    moved = (model.get_weights()[0] != before).any(1)
    assert moved.tolist() == [True] * 9 + [False]


def test_validation_split_takes_the_last_examples():
    split, given_ = compiled(), compiled()
    one = split.fit(X, LAST, epochs=2, validation_split=0.25, verbose=0)
    two = given_.fit(X[:18], LAST[:18], epochs=2, validation_data=(X[18:], LAST[18:]), verbose=0)
    assert list(one.history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert one.history == two.history
    same(split.get_weights(), given_.get_weights())
    loss, accuracy = split.evaluate(X[18:], LAST[18:])
    assert (one.history["val_loss"][-1], one.history["val_accuracy"][-1]) == (loss, accuracy)


def test_fitting_in_two_parts_equals_fitting_in_one():
    whole, parts = compiled(Dropout(0.3), LSTM(6)), compiled(Dropout(0.3), LSTM(6))
    history = whole.fit(X, LAST, epochs=4, batch_size=7, verbose=0).history
    first = parts.fit(X, LAST, epochs=3, batch_size=7, verbose=0)
    second = parts.fit(X, LAST, epochs=4, initial_epoch=3, batch_size=7, verbose=0)
    assert second.epoch == [3]
    assert first.history["loss"] + second.history["loss"] == history["loss"]
    same(whole.get_weights(), parts.get_weights())


def test_compiling_again_resets_the_optimiser():
    kept, reset = compiled(optimizer="rmsprop"), compiled(optimizer="rmsprop")
    for model in (kept, reset):
        model.fit(X, LAST, verbose=0)
    same(kept.get_weights(), reset.get_weights())
    reset.compile(loss="sparse_categorical_crossentropy", optimizer="rmsprop", metrics=["accuracy"])
    for model in (kept, reset):
        model.fit(X, LAST, verbose=0)
    assert (kept.get_weights()[0] != reset.get_weights()[0]).any()


def test_the_seed_determines_weights_order_and_masks():
    def train(seed, shuffle=True):
        model = compiled(Dropout(0.5), LSTM(6), seed=seed)
        start = model.get_weights()
        model.fit(X, LAST, batch_size=7, verbose=0, shuffle=shuffle)
        return start, model.get_weights()

    one, two, other, unshuffled = train(3), train(3), train(4), train(3, shuffle=False)
    same(one[0], two[0])
    same(one[1], two[1])
    assert (one[0][0] != other[0][0]).any()
    same(one[0], unshuffled[0])
    assert (one[1][0] != unshuffled[1][0]).any()


def test_each_epoch_has_its_own_order():
    first, second = compiled(), compiled()
    first.fit(X, LAST, batch_size=7, epochs=1, verbose=0)
    second.fit(X, LAST, batch_size=7, epochs=2, initial_epoch=1, verbose=0)
    assert (first.get_weights()[0] != second.get_weights()[0]).any()


def test_each_update_has_its_own_masks():
    model = compiled(LSTM(6), Dropout(0.5), optimizer=SGD(0.0))
    losses = model.fit(X, LAST, batch_size=N, epochs=5, verbose=0, shuffle=False).history["loss"]
    assert len(set(losses)) == 5
    assert model.evaluate(X, LAST) == model.evaluate(X, LAST)  # no masks


@pytest.mark.usefixtures("every_thread")
@pytest.mark.parametrize("layer", [SimpleRNN, GRU, LSTM])
def test_weights_do_not_depend_on_the_number_of_threads(layer):
    def train(threads):
        model = compiled(layer(7, return_sequences=True), Dropout(0.2), layer(5), threads=threads)
        model.fit(X, LAST, epochs=2, batch_size=7, verbose=0)
        return [*model.get_weights(), model.predict(X)]

    one = train(1)
    same(one, train(2))
    same(one, train(3))


def test_divergence_restores_the_last_complete_epoch():
    model = compiled()
    ends = []

    def explode(epoch, logs):
        if epoch == 2:
            model.set_weights([np.full_like(weight, 3e38) for weight in model.get_weights()])

    watch = LambdaCallback(on_epoch_begin=explode, on_epoch_end=lambda epoch, logs: ends.append(model.get_weights()))
    with pytest.raises(DivergenceError, match=r"epoch 3.*learning rate below 0\.001"):
        model.fit(X, LAST, epochs=5, verbose=0, callbacks=[watch])
    assert len(ends) == 2
    same(model.get_weights(), ends[-1])
    fresh = compiled()
    fresh.set_weights(ends[-1])
    for one in (model, fresh):  # the optimiser is reset
        one.fit(X, LAST, verbose=0)
    same(model.get_weights(), fresh.get_weights())


def test_a_loss_that_is_not_finite_is_detected_even_if_its_gradient_is():
    model = compiled()
    weights = model.get_weights()
    weights[-1][:] = np.where(np.arange(V) == LAST[0], -3e38, 3e38)
    model.set_weights(weights)
    with pytest.raises(DivergenceError, match="epoch 1, after 0 updates: the loss is not finite"):
        model.fit(X, LAST, verbose=0)
    same(model.get_weights(), weights)


def test_weights_that_are_not_finite_are_detected_at_once():
    class Wild(SGD):
        def hyper(self, step, rate):
            return 1.0, 0.0, 1e300

    model = compiled(optimizer=Wild())
    start = model.get_weights()
    with warnings.catch_warnings(), pytest.raises(DivergenceError, match=r"epoch 1, after \d+ updates: weight '.*' is not finite"):
        warnings.simplefilter("ignore")  # the rate is beyond float32
        model.fit(X, LAST, batch_size=N, verbose=0)
    same(model.get_weights(), start)


def test_ctrl_c_closes_the_epoch_and_returns(capsys):
    """With one symbol per example, the embedding rows that change tell how many examples were seen."""
    x, y = np.arange(9)[:, np.newaxis], np.zeros(9, int)
    model = Sequential([Embedding(9, 3), LSTM(3), Dense(2, "softmax")])
    model.compile(loss="sparse_categorical_crossentropy", optimizer="sgd")
    handler, before = signal.getsignal(signal.SIGINT), []

    def interrupt(epoch, logs):
        if epoch == 1:
            before.append(model.get_weights()[0])
            signal.raise_signal(signal.SIGINT)

    history = model.fit(x, y, epochs=9, batch_size=4, verbose=2, validation_data=(x, y),
                        callbacks=[LambdaCallback(on_epoch_begin=interrupt)], on_interrupt="return")
    assert history.epoch == [0, 1]
    assert len(history.history["val_loss"]) == 2
    assert (model.get_weights()[0] != before[0]).any(1).sum() == 4
    assert signal.getsignal(signal.SIGINT) is handler
    first, second, last = capsys.readouterr().out.splitlines()[-3:]
    assert first.startswith("Epoch 1/9 - ") and "batches" not in first and second.startswith("Epoch 2/9 - 1/3 batches - ") and "stopped: interrupted" in last


def test_a_signal_before_the_first_update_ends_the_training_too():
    model, called = compiled(), []
    watching = LambdaCallback(on_train_begin=lambda logs: signal.raise_signal(signal.SIGINT), on_epoch_begin=lambda epoch, logs: called.append(epoch),
                              on_train_end=lambda logs: called.append("end"))
    before = model.get_weights()
    assert model.fit(X, LAST, verbose=0, callbacks=[watching], on_interrupt="return").epoch == []
    assert called == ["end"]
    np.testing.assert_equal(model.get_weights(), before)
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, LAST, verbose=0, callbacks=[watching])
    assert called == ["end", "end"]


# Inputs

IDS = [X.tolist(), X.astype(np.uint8), X.astype(np.uint64), X.astype(float), np.asfortranarray(X), tuple(map(tuple, X))]


@pytest.mark.parametrize("x", IDS, ids=lambda x: f"{type(x).__name__} {getattr(x, 'dtype', '')}")
def test_ids_may_have_any_integer_type(x):
    model = compiled()
    assert model.predict(x).tobytes() == model.predict(X).tobytes()


@pytest.mark.parametrize("batch_size", [1, 5, N])
@pytest.mark.parametrize("each", [False, True])
def test_predictions_do_not_depend_on_the_batch(batch_size, each):
    model = stack(GRU(6, return_sequences=each))
    whole = model.predict(X)
    assert whole.dtype == np.float32
    assert whole.shape == ((N, T, V) if each else (N, V))
    assert model.predict(X, batch_size=batch_size).tobytes() == whole.tobytes()
    order = np.random.default_rng(0).permutation(N)
    assert model.predict(X[order]).tobytes() == whole[order].tobytes()
    np.testing.assert_allclose(whole.sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("each", [False, True])
def test_vectors_need_no_embedding(each):
    """One-hot vectors into W are equivalent to ids with an identity embedding."""
    ids = Sequential([Embedding(V, V), LSTM(7, return_sequences=each), Dense(V, "softmax")])
    vectors = Sequential([LSTM(7, return_sequences=each), Dense(V, "softmax")])
    vectors.build((None, None, V))
    ids.set_weights([np.eye(V), *vectors.get_weights()])
    np.testing.assert_allclose(vectors.predict(one_hot(X)), ids.predict(X), atol=1e-6)
    vectors.compile(loss="sparse_categorical_crossentropy", optimizer="adam")
    ids.compile(loss="sparse_categorical_crossentropy", optimizer="adam")
    y = EACH if each else LAST
    assert vectors.evaluate(one_hot(X), y) == pytest.approx(ids.evaluate(X, y), rel=1e-6)


def test_fit_determines_the_size_of_the_vectors():
    model = Sequential([SimpleRNN(4), Dense(V, "softmax")])
    model.compile(loss="sparse_categorical_crossentropy", optimizer="adam")
    with pytest.raises(NotFittedError, match=r"build\(\(None, None, features\)\)"):
        model.summary()
    assert np.isfinite(model.evaluate(one_hot(X).tolist(), LAST))
    assert model.get_weights()[0].shape == (V, 4)
    with pytest.raises(ShapeError, match=rf"expected vectors \(examples, steps, {V}\)"):
        model.predict(np.zeros((2, 3, V + 1)))
    with pytest.raises(ShapeError, match="input_shape"):
        model.build((None, None, V + 1))


def test_a_failed_call_does_not_fix_the_size_of_the_vectors():
    model = Sequential([LSTM(2), Dense(2, "softmax")])
    model.compile(loss="sparse_categorical_crossentropy")
    x, y = np.zeros((4, 3, 5)), np.zeros(4, int)
    for call in (lambda: model.fit(x, y[1:]), lambda: model.fit(x, y + 2), lambda: model.evaluate(x, y[1:]),
                 lambda: model.fit(x, y, validation_data=(x[:, :, 1:], y)), lambda: model.fit(x, y, validation_split=0.99)):
        with pytest.raises((ShapeError, VocabularyError, ConfigError)):
            call()
    assert model.predict(np.zeros((1, 3, 4))).shape == (1, 2)


def test_every_example_starts_from_a_zero_state():
    model = stack(LSTM(5))
    once = model.predict(X[:1])
    assert model.predict(np.concatenate([X[:1]] * 3), batch_size=1).tobytes() == once.tobytes() * 3


# Keras

@pytest.fixture(scope="module")
def keras():
    with np.load(Path(__file__).parent / "data" / "golden_keras.npz", allow_pickle=False) as file:
        return {key.removeprefix("model/"): file[key] for key in file.files if key.startswith("model/")}


def keras_model(keras, backend, optimizer):
    model = Sequential(
        [Embedding(11, 5), LSTM(6, return_sequences=True), LSTM(4), Dense(11, activation="softmax")], backend=backend
    )
    model.set_weights([keras[f"weights/{index}"] for index in range(9)])
    model.compile(optimizer=optimizer, loss="categorical_crossentropy")
    return model


@pytest.mark.parametrize(("backend", "tolerance"), [("reference", 1e-12), ("cpu", 1e-6)])
def test_predictions_and_loss_agree_with_keras(keras, backend, tolerance):
    model = keras_model(keras, backend, "adam")
    np.testing.assert_allclose(model.predict(keras["ids"]), keras["predictions"], rtol=0, atol=tolerance)
    assert abs(model.evaluate(keras["ids"], keras["targets"]) - keras["loss"]) < tolerance


@pytest.mark.parametrize(("backend", "tolerance"), [("reference", 1e-12), ("cpu", 1e-6)])
def test_a_step_of_adam_agrees_with_keras(keras, backend, tolerance):
    """Keras computes the corrections from betas rounded to float32, which the first step here takes into account.

    With TensorFlow, Keras's embedding differs where an id occurs more than once: TensorFlow passes the gradient of each
    occurrence to Keras, which sums their squares rather than squaring their sum.
    """
    rate, beta_1, beta_2, epsilon = (
        float(keras[f"adam/{name}"]) for name in ("learning_rate", "beta_1", "beta_2", "epsilon")
    )
    rounded_1, rounded_2 = float(np.float32(beta_1)), float(np.float32(beta_2))
    rate *= np.sqrt((1 - rounded_2) / (1 - beta_2)) * (1 - beta_1) / (1 - rounded_1)
    model = keras_model(keras, backend, Adam(rate, epsilon=epsilon))
    history = model.fit(keras["ids"], keras["targets"], verbose=0)
    assert abs(history.history["loss"][0] - keras["loss"]) < tolerance
    updated = model.get_weights()
    once = np.bincount(keras["ids"].reshape(-1), minlength=11) <= 1
    assert 3 <= once.sum() < 11
    np.testing.assert_allclose(updated[0][once], keras["updated/0"][once], rtol=0, atol=tolerance)
    for index in range(1, 9):
        np.testing.assert_allclose(updated[index], keras[f"updated/{index}"], rtol=0, atol=tolerance)


def keras_gru(x, kernel, recurrent_kernel, bias):
    """GRU(reset_after=True) in NumPy, following Keras's documentation."""
    def sigmoid(a):
        return 1 / (1 + np.exp(-a))

    h = np.zeros((len(x), len(recurrent_kernel)))
    for t in range(x.shape[1]):
        from_x = np.split(x[:, t] @ kernel + bias[0], 3, axis=1)
        from_h = np.split(h @ recurrent_kernel + bias[1], 3, axis=1)
        z, r = sigmoid(from_x[0] + from_h[0]), sigmoid(from_x[1] + from_h[1])
        h = z * h + (1 - z) * np.tanh(from_x[2] + r * from_h[2])
    return h


def test_the_weights_of_a_gru_have_keras_layout():
    random = np.random.default_rng(4)
    weights = [random.normal(size=shape) for shape in ((3, 12), (4, 12), (2, 12))]
    x = random.normal(size=(5, 6, 3))
    model = Sequential([GRU(4)], backend="reference")
    model.build((None, None, 3))
    model.set_weights(weights)
    np.testing.assert_allclose(model.predict(x), keras_gru(x, *weights), atol=1e-12)
    np.testing.assert_allclose(keras_gru(x, *model.get_weights()), keras_gru(x, *weights), atol=1e-12)


LAYERS = st.sampled_from([
    SimpleRNN(3, return_sequences=True), GRU(4, return_sequences=True), LSTM(2, return_sequences=True),
    Recurrent(3, True, "sigmoid"), Dense(5, "tanh"), Dense(3, use_bias=False), Dropout(0.5),
])


@given(st.lists(LAYERS, max_size=4), st.booleans(), st.integers(0, 2**32))
def test_get_weights_and_set_weights_round_trip(middle, tied, seed):
    top = Dense(V, "softmax", tied=True) if tied else Dense(V, "softmax")
    model = Sequential([Embedding(V, 4), *middle, *([Dense(4)] if tied else []), top])
    shapes = [weight.shape for weight in model.get_weights()]
    assert model.count_params() == sum(int(np.prod(shape)) for shape in shapes)
    random = np.random.default_rng(seed)
    model.set_weights([random.normal(size=shape) for shape in shapes])
    out, predictions = model.get_weights(), model.predict(X)
    assert [weight.shape for weight in out] == shapes
    model.set_weights([np.zeros(shape) for shape in shapes])
    assert (model.predict(X) != predictions).any()
    model.set_weights(out)
    same(model.get_weights(), out)
    assert model.predict(X).tobytes() == predictions.tobytes()


def test_weights_have_keras_shapes():
    model = Sequential([
        Embedding(9, 5), SimpleRNN(3, return_sequences=True), GRU(4, return_sequences=True), LSTM(2), Dense(7, "softmax"),
    ])
    assert [weight.shape for weight in model.get_weights()] == [
        (9, 5), (5, 3), (3, 3), (3,), (3, 12), (4, 12), (2, 12), (4, 8), (2, 8), (8,), (2, 7), (7,),
    ]
    for weight in model.get_weights():
        weight[...] = 0
    assert model.get_weights()[0].any()  # they are copies


# Stacking layers

def test_summary(capsys):
    model = Sequential([
        Embedding(1000, 64, input_length=T), LSTM(128, return_sequences=True), Dropout(0.2), LSTM(64), Dense(V, "softmax")
    ])
    model.summary()
    lines = capsys.readouterr().out.splitlines()
    cells = [line.replace("(", " (").split() for line in lines]
    assert lines[0] == 'Model: "sequential"'
    assert ["embedding", "(Embedding)", "(None,", "5,", "64)", "64,000"] in cells
    assert ["lstm", "(LSTM)", "(None,", "5,", "128)", "98,816"] in cells
    assert ["dropout", "(Dropout)", "(None,", "5,", "128)", "0"] in cells
    assert ["lstm_1", "(LSTM)", "(None,", "64)", "49,408"] in cells
    assert ["dense", "(Dense)", "(None,", "6)", "390"] in cells
    assert lines[-1] == f"Total params: {64_000 + 98_816 + 49_408 + 390:,}"
    stack(GRU(3, return_sequences=True)).summary()
    assert "(None, None, 3)" in capsys.readouterr().out


def test_remaining_layers_keep_their_weights():
    model = compiled()
    model.fit(X, LAST, verbose=0)
    trained = model.get_weights()
    assert model.pop() == Dense(V, "softmax")
    assert model.layers == [Embedding(V, 8), LSTM(10)]
    model.add(Dense(V, "softmax"))
    same(model.get_weights()[:4], trained[:4])
    assert (model.get_weights()[4] != trained[4]).any()
    assert np.isfinite(model.fit(X, LAST, verbose=0).history["loss"][0])


def test_a_layer_that_does_not_fit_is_rejected_by_add():
    model = stack(LSTM(4))
    for layer, error in ((LSTM(4), ShapeError), (Embedding(3, 3), ShapeError), (Dense(7, tied=True), ConfigError)):
        with pytest.raises(error):
            model.add(layer)
    assert model.layers == [Embedding(V, 8), LSTM(4), Dense(V, "softmax")]
    vectors = Sequential([LSTM(4)])  # whose size is not known yet
    for layer, error in ((GRU(4), ShapeError), (Embedding(3, 3), ShapeError), (Dense(7, tied=True), ConfigError)):
        with pytest.raises(error):
            vectors.add(layer)
    assert vectors.layers == [LSTM(4)]
    with pytest.raises(ConfigError, match=r"numba_rnnlm\.layers"):
        model.add(Dense)


def test_the_input_can_change_between_vectors_and_ids():
    model = Sequential([LSTM(3)])
    model.build((None, None, 4))
    model.pop()
    assert model.layers == []
    model.add(LSTM(3))
    assert model.predict(np.zeros((1, 2, 7))).shape == (1, 3)


# Output

def test_verbose_2_shows_one_line_per_epoch(capsys):
    compiled().fit(X, LAST, epochs=2, verbose=2, validation_split=0.25)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    words = [part.split(":")[0] for part in lines[1].split(" - ")]
    assert words == ["Epoch 2/2", words[1], "loss", "accuracy", "val_loss", "val_accuracy"]
    assert words[1].endswith("s")


def test_verbose_1_shows_a_live_line_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(progress, "EVERY", 0)
    monkeypatch.setenv("COLUMNS", "200")
    model = compiled()
    model.fit(X, LAST, epochs=2, batch_size=7)
    shown = terminal.getvalue()
    assert "Epoch 1/2 - 1/4 batches - loss: " in shown
    assert "Epoch 2/2 - 4/4 batches - loss: " in shown
    assert shown.count("left") == 8
    now, step = SimpleNamespace(seconds=0.0), Trainer._step
    monkeypatch.setattr(clock, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    monkeypatch.setattr(Trainer, "_step", lambda self, group: (step(self, group), vars(now).update(seconds=now.seconds + 2)))
    terminal.truncate(0)
    model.fit(X, LAST, initial_epoch=2, epochs=4, batch_size=8)  # six batches of two seconds
    assert re.findall("([0-9:]+) left", terminal.getvalue()) == ["0:10", "0:08", "0:06", "0:04", "0:02", "0:00"]
    model.evaluate(X, LAST, batch_size=7, verbose=1)
    model.predict(X, batch_size=7, verbose=1)
    assert terminal.getvalue().count("21/24 examples") == 2


def test_verbose_0_shows_nothing(capsys):
    model = compiled()
    model.fit(X, LAST, verbose=0)
    model.evaluate(X, LAST)
    model.predict(X)
    assert capsys.readouterr().out == ""


# Resuming


class Stopped(Exception):
    """An exception that the library does not know."""


def learner(metrics=("accuracy",)):
    model = Sequential([Embedding(V, 5), Dropout(0.3), GRU(6), Dense(V, "softmax")], seed=3, threads=1)
    model.compile("adam", "sparse_categorical_crossentropy", list(metrics))
    return model


@pytest.mark.parametrize("earlier", [False, True])
@examples(6)
@given(
    stops=st.lists(st.integers(0, 11), min_size=1, max_size=3).map(sorted), gap=st.integers(1, 3), accumulate=st.integers(1, 2),
    options=st.fixed_dictionaries({
        "schedule": st.sampled_from(["constant", "linear", "plateau"]), "validation_split": st.sampled_from([0.0, 0.25]),
        "patience": st.sampled_from([None, 1]), "not_finite": st.sampled_from(["stop", "skip"]), "shuffle": st.booleans(),
    }),
)
def test_a_stopped_training_resumes_to_the_same_bytes(tmp_path_factory, earlier, stops, gap, accumulate, options):
    folder, options = tmp_path_factory.mktemp("run"), {**options, "epochs": 3, "batch_size": 5, "accumulate": accumulate, "verbose": 0}
    path, step, calls = folder / "run.npz", Trainer._step, count(1)

    def begun():
        model = learner()
        if earlier:
            model.fit(X, LAST, epochs=1, verbose=0)
        return model

    def result(model, history):
        model.save(folder / "result.npz")
        return (folder / "result.npz").read_bytes(), history.epoch, history.history

    whole = begun()
    want = result(whole, whole.fit(X, LAST, **options))
    for stop in [*stops, None]:
        left, model = count(stop or 0, -1), begun()

        def stepping(self, group):
            if stop is not None and next(left) <= 0:  # noqa: B023
                raise Stopped
            step(self, group)

        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "the run .* had ended")
            patch.setattr(Checkpoints, "due", lambda self: next(calls) % gap == 0)
            patch.setattr(Trainer, "_step", stepping)
            with contextlib.suppress(Stopped):
                history = model.fit(X, LAST, checkpoint=path, resume=path, **options)
    assert result(model, history) == want
    assert sorted(entry.name for entry in folder.iterdir()) == ["result.npz", "run.npz"]
    assert Sequential.load(path).predict(X).tobytes() == model.predict(X).tobytes()


def test_a_run_is_resumed_with_its_own_examples_and_settings_only(tmp_path):
    path = tmp_path / "run.npz"
    learner().fit(X, LAST, epochs=1, verbose=0, checkpoint=path)
    for change, error, message in (
        (lambda: learner().fit(X, LAST[::-1].copy(), epochs=1, resume=path), ConfigError, "the examples are not those of the run in"),
        (lambda: learner().fit(X, LAST, epochs=1, batch_size=7, resume=path), ConfigError, "batch_size is 7, but the run in .* has 32"),
        (lambda: learner(()).fit(X, LAST, epochs=1, resume=path), ConfigError, r"compiled\['metrics'\] is .*, but the run in"),
        (lambda: learner().fit(X, LAST, epochs=1, patience=3, resume=path), ConfigError, "patience is 3, but the run in .* was started without it;"),
        (lambda: learner().fit(X, LAST, epochs=1, checkpoint=tmp_path / "run.keras"), ConfigError, "the file is not one of Keras's"),
        (lambda: learner().fit(X, LAST, epochs=1, resume=tmp_path / "none.npz"), ModelFileError, "no model file|No such file"),
        (lambda: LanguageModel(hidden=4).fit("to be\n" * 50, epochs=1, resume=path), ModelFileError, "holds a 'sequential', expected a 'language_model'; load it in Python, with Sequential.load"),
    ):
        with pytest.raises(error, match=message):
            change()
    with pytest.warns(UserWarning, match="had ended"):
        learner().fit(X, LAST, epochs=1, verbose=0, resume=path)
    model = learner()
    history = model.fit(X, LAST, epochs=3, verbose=0, resume=path)
    assert history.epoch == [0, 1, 2]
    assert [*history.history] == [*learner().fit(X, LAST, epochs=1, verbose=0).history] == ["loss", "accuracy"]
    with pytest.raises(ModelFileError):
        model.fit(X, LAST, epochs=1, resume=tmp_path / "none.npz")
    assert model.history is history


def test_language_models_have_callbacks_as_sequential_has(tmp_path):
    calls, text = [], "to be or not to be\n" * 30
    model = LanguageModel(hidden=8, layers=1, embedding=4, seed=1)
    watch = LambdaCallback(on_train_begin=lambda logs: calls.append("begin"), on_epoch_end=lambda epoch, logs: calls.append((epoch, sorted(logs))),
                           on_train_end=lambda logs: calls.append("end"))
    stop = EarlyStopping("val_loss", patience=2, restore_best_weights=True)
    model.fit(text, text, epochs=4, streams=4, steps=10, learning_rate=1e-3, verbose=0,
              callbacks=[watch, stop, ModelCheckpoint(tmp_path / "{epoch}.npz"), CSVLogger(tmp_path / "log.csv")])
    assert calls == ["begin", *((epoch, ["loss", "val_loss"]) for epoch in range(4)), "end"]
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 5
    assert LanguageModel.load(tmp_path / "4.npz").history_["epoch"] == [1, 2, 3, 4]
    model.fit(text, epochs=9, streams=4, steps=10, verbose=0, callbacks=LambdaCallback(on_epoch_end=lambda epoch, logs: setattr(model, "stop_training", epoch == 1)))
    assert model.history_["epoch"][-1] == 6
    weights = model.get_weights()
    model.set_weights([0 * array for array in weights])
    assert not any(array.any() for array in model.get_weights())
    with pytest.raises(ShapeError, match=f"weights has 1 arrays, expected {len(weights)}"):
        model.set_weights(weights[:1])


# Saving and loading

def test_a_gradient_that_is_not_finite_is_named(monkeypatch):
    model = compiled()
    model.fit(X, LAST, verbose=0)
    network, before = model._build(), model.get_weights()
    train = network.differentiate

    def spoiled(*arguments):
        losses = train(*arguments)
        network.gradients["lstm/U"][0, 0] = np.nan
        return losses

    monkeypatch.setattr(network, "differentiate", spoiled)
    with pytest.raises(DivergenceError, match=r"the gradient is not finite \(NaN or infinity in the gradients of 'lstm/U'\)"):
        model.fit(X, LAST, verbose=0)
    same(model.get_weights(), before)


def test_an_embedding_accepts_ids_only():
    with pytest.raises(ShapeError, match=r"Embedding takes ids \(streams, steps\), got an input with 3 axes; it can only be the"):
        Embedding(5, 2).output((4, 3, 2))


def test_save_and_load_give_the_same_model(tmp_path):
    model = Sequential(
        [Embedding(np.int64(V), 8), Dropout(0.1), SimpleRNN(5, True, activation="relu"), GRU(4, return_sequences=True),
         LSTM(6, forget_bias=0.5), Dense(8, "tanh"), Dense(V, "softmax", use_bias=False, tied=True)], seed=5,
    )
    model.compile(RMSprop(0.01, rho=0.8, clipnorm=1.0), "sparse_categorical_crossentropy", ["accuracy"])
    model.fit(X, LAST, epochs=2, verbose=0)
    model.save(tmp_path / "model.npz")
    loaded = Sequential.load(tmp_path / "model.npz")
    assert loaded.layers == model.layers
    assert loaded.predict(X).tobytes() == model.predict(X).tobytes()
    assert loaded.evaluate(X, LAST) == model.evaluate(X, LAST)
    for one in (model, loaded):
        one.fit(X, LAST, verbose=0)
    same(loaded.get_weights(), model.get_weights())


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, SGD(0.1, momentum=0.9), Adam(amsgrad=True), RMSprop(centered=True)], ids=str)
def test_saving_and_loading_during_training_gives_the_same_bytes(tmp_path, optimizer):
    def fresh():
        model = Sequential([Embedding(V, 5), Dropout(0.3), LSTM(4), Dense(V, "softmax")], seed=2)
        model.compile(optimizer, "sparse_categorical_crossentropy")
        return model

    whole, part = fresh(), fresh()
    whole.fit(X, LAST, batch_size=3, epochs=5, verbose=0)
    part.fit(X, LAST, batch_size=3, epochs=2, verbose=0)
    part.save(tmp_path / "part.npz")
    rest = Sequential.load(tmp_path / "part.npz")
    rest.fit(X, LAST, batch_size=3, initial_epoch=2, epochs=5, verbose=0)
    for name, model in (("whole", whole), ("rest", rest)):
        model.save(tmp_path / name)
    assert (tmp_path / "rest").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize(("rounding", "number"), [
    ("cuda, tf32, NVIDIA A100-SXM4-40GB with 108 multiprocessors", 1), ("cpu, float32", 0), (None, 0), ("missing", 0), (3, "damaged"),
])  # fmt: skip
def test_continuing_on_another_device_causes_one_warning(tmp_path, rounding, number):
    """Reading the weights only causes no warning."""
    path, model = tmp_path / "model.npz", compiled()
    model.fit(X, LAST, verbose=0)
    model.save(path)
    with open_model(path) as file:
        about = {key: value for key, value in file.about.items() if key not in ("format", "version", "kind")}
        groups = {group: file.group(group).items() for group in file.groups}
    assert about.pop("rounding") == "cpu, float32"
    write_model(path, "sequential", about | ({} if rounding == "missing" else {"rounding": rounding}), groups)
    if number == "damaged":
        with pytest.raises(ModelFileError, match=r"do not fit together \(the rounding is 3\)"):
            Sequential.load(path)
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = Sequential.load(path)
        loaded.save(path)
        loaded = Sequential.load(path)
        loaded.evaluate(X, LAST)
        assert not caught
        for _ in range(2):
            loaded.fit(X, LAST, verbose=0)
    words = f"the training so far was computed on {rounding!r} and continues on 'cpu, float32': "
    assert [(str(each.message).startswith(words), each.filename) for each in caught] == [(True, __file__)] * number


def test_the_moments_can_be_left_out(tmp_path):
    model = compiled()
    model.fit(X, LAST, verbose=0)
    model.save(tmp_path / "all")
    model.save(tmp_path / "weights", include_optimizer=False)
    assert (tmp_path / "all").stat().st_size > 2 * (tmp_path / "weights").stat().st_size
    same(Sequential.load(tmp_path / "weights").get_weights(), model.get_weights())


def test_a_training_without_updates_does_not_change_the_file(tmp_path):
    model = compiled()
    model.save(tmp_path / "before")
    model.fit(X, LAST, epochs=0, verbose=0)
    model.save(tmp_path / "after")
    Sequential.load(tmp_path / "after").save(tmp_path / "again")
    assert (tmp_path / "before").read_bytes() == (tmp_path / "after").read_bytes() == (tmp_path / "again").read_bytes()


def test_an_uncompiled_model_of_vectors_can_be_saved(tmp_path):
    model = Sequential([LSTM(3), Dense(2)])
    with pytest.raises(NotFittedError):
        model.save(tmp_path / "model.npz")
    model.build((None, None, 4))
    model.save(tmp_path / "model.npz")
    loaded = Sequential.load(tmp_path / "model.npz", backend="reference")
    x = np.random.default_rng(0).normal(size=(2, 3, 4))
    np.testing.assert_allclose(loaded.predict(x), model.predict(x), atol=1e-6)
    with pytest.raises(NotFittedError, match="compile"):
        loaded.fit(x, [0, 1])


@dataclass(frozen=True)
class Mine(SGD):
    """A custom optimiser."""

    halved: bool = True

    def hyper(self, step, rate):
        return super().hyper(step, rate / 2 if self.halved else rate)


def test_a_custom_optimiser_continues_from_a_file(tmp_path):
    path = tmp_path / "model.npz"
    model = compiled(optimizer=Mine(0.1, momentum=0.5))
    model.fit(X, LAST, verbose=0)
    model.save(path)
    with pytest.raises(ModelFileError, match=r"model.npz': the optimizer is 'Mine', a custom class, .*custom_objects=\{name: class\}"):
        Sequential.load(path)
    with pytest.raises(ConfigError, match=r"custom_objects is \[.*\], expected a mapping of names to classes of layers or optimizers"):
        Sequential.load(path, custom_objects=[Mine])
    bare = Sequential.load(path, compile=False)
    same(bare.get_weights(), model.get_weights())
    with pytest.raises(NotFittedError, match="call compile"):
        bare.fit(X, LAST)
    again = Sequential.load(path, custom_objects={"Mine": Mine})
    for one in (model, again):
        one.fit(X, LAST, verbose=0, initial_epoch=1, epochs=3)
    same(again.get_weights(), model.get_weights())


def test_a_gru_file_with_one_bias_per_gate_continues(tmp_path):
    path = tmp_path / "model.npz"
    model = compiled(GRU(6))
    model.fit(X, LAST, verbose=0)
    weights = model.get_weights()
    weights[3][1, :12] = 0  # as if the second row had never been trained
    model.set_weights(weights)
    model.save(path)
    with np.load(path) as file:
        about = json.loads(file["about"].tobytes())
        groups = {group: {} for group in ("weights", "moments/0", "moments/1")}
        for key in file.files:
            if key != "about":
                group = next(group for group in groups if key.startswith(f"{group}/"))
                groups[group][key.removeprefix(f"{group}/")] = file[key][:4] if key.endswith("gru/b") else file[key]
    about = {key: about[key] for key in about if key not in ("format", "version", "kind")}
    write_model(path, "sequential", about, {group: arrays.items() for group, arrays in groups.items()})
    again = Sequential.load(path)
    same(again.get_weights(), model.get_weights())
    for one in (model, again):
        one.fit(X, LAST, verbose=0, initial_epoch=1, epochs=3)
    same(again.get_weights(), model.get_weights())


def test_a_file_of_another_kind_is_rejected(tmp_path):
    path = tmp_path / "model.npz"
    LanguageModel(tokenizer=None, vocabulary_size=3, hidden=2, layers=1, embedding=2).save(path)
    with pytest.raises(ModelFileError, match=r"LanguageModel\.load"):
        Sequential.load(path)
    path.unlink()
    compiled().save(path)
    with pytest.raises(ModelFileError, match=r"Sequential\.load"):
        LanguageModel.load(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelFileError, match="damaged"):
        Sequential.load(path)
    with pytest.raises(ModelFileError, match="no model file"):
        Sequential.load(tmp_path / "missing.npz")
    with pytest.raises(ConfigError, match="backend"):
        Sequential.load(path, backend="abacus")


CHANGES = {
    "no class": lambda about: about["layers"][1].pop("class"),
    "a class that is a list": lambda about: about["layers"][1].update({"class": []}),
    "an unknown field": lambda about: about["layers"][1].update(colour=3),
    "a wrong number": lambda about: about["layers"][1].update(units="ten"),
    "another number": lambda about: about["layers"][1].update(units=11),
    "a number too large for any memory": lambda about: about["layers"][0].update(input_dim=2**31 - 1, output_dim=10**9),
    "a layer too many": lambda about: about["layers"].append(about["layers"][1]),
    "no layer": lambda about: about["layers"].clear(),
    "text for layers": lambda about: about.update(layers="LSTM"),
    "no layers": lambda about: about.pop("layers"),
    "no seed": lambda about: about.pop("seed"),
    "a seed below zero": lambda about: about.update(seed=-1),
    "vectors of no size": lambda about: about.update(features=0),
    "an unknown loss": lambda about: about["compiled"].update(loss="hinge"),
    "a loss of another activation": lambda about: about["compiled"].update(loss="binary_crossentropy"),
    "an unknown optimiser": lambda about: about["compiled"]["optimizer"].update({"class": "ftrl"}),
    "no optimiser": lambda about: about["compiled"].pop("optimizer"),
    "text for compiled": lambda about: about.update(compiled="adam"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_inconsistent_file_is_rejected(tmp_path, change):
    path = tmp_path / "model.npz"
    compiled().save(path)
    with np.load(path) as file:
        about = json.loads(file["about"].tobytes())
        weights = {key.removeprefix("weights/"): file[key] for key in file.files if key != "about"}
    CHANGES[change](about)
    write_model(path, "sequential", {key: about[key] for key in about if key not in ("format", "version", "kind")}, {"weights": weights.items()})
    with pytest.raises(ModelFileError, match="do not fit together"):
        Sequential.load(path)


@dataclass(frozen=True)
class Gain(Layer):
    """y = gain · x, element by element, implemented with existing verbs: x times a diagonal matrix."""

    start: float = 1.0

    def parameters(self, shape):
        return {"gain": (shape[-1], shape[-1])}

    def activations(self, shape, training):
        return {"y": shape} | ({"dx": shape} if training else {})

    def initialize(self, shape, random):
        return {"gain": self.start * np.eye(shape[-1])}

    def forward(self, ops, run, x):
        ops.project(x, run.p["gain"], None, run.a["y"])
        return run.a["y"]

    def backward(self, ops, run, x, dy):
        ops.project_backward(x, run.p["gain"], dy, run.a["dx"], run.g["gain"], None, add=run.adds(ops, "gain"))
        return run.a["dx"]


def test_a_custom_layer_is_saved_and_loaded_with_all_its_weights(tmp_path, capsys):
    path, layers = tmp_path / "model.npz", (Residual([Gain(0.5), Concat([Dense(2), [LSTM(3, return_sequences=True), Gain()]])]), GRU(4), Gain())
    model = Sequential([Embedding(V, 5), *layers, Dense(V, activation="softmax")], seed=1)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(X, LAST, epochs=2, verbose=0)
    assert [array.shape for array in model.get_weights()] == [
        (V, 5), (5, 5), (5, 2), (2,), (5, 12), (3, 12), (12,), (3, 3), (5, 12), (4, 12), (2, 12), (4, 4), (4, V), (V,)]
    model.summary()
    assert "residual (Residual)" in (printed := capsys.readouterr().out) and f"Total params: {model.count_params():,}" in printed
    other = Sequential(model.layers, seed=2)
    other.set_weights(model.get_weights())
    same(other.predict(X), model.predict(X))
    model.save(path)
    assert cli.main(["info", str(path)]) == 0
    assert "Residual(layers=[Gain(start=0.5), Concat(branches=[[Dense(" in capsys.readouterr().out
    with pytest.raises(ModelFileError, match=r"has a layer of the class 'Gain', which is not known here; load it in Python, with custom_objects="):
        Sequential.load(path)
    loaded = Sequential.load(path, custom_objects={"Gain": Gain})
    assert loaded.layers == model.layers
    same(loaded.get_weights(), model.get_weights())
    for each in (model, loaded):
        each.fit(X, LAST, epochs=1, verbose=0)
    same(loaded.get_weights(), model.get_weights())


def test_a_language_model_with_a_body_of_layers(tmp_path, capsys):
    path, text = tmp_path / "model.npz", "to be or not to be\n" * 30
    body = [LSTM(6, return_sequences=True), Residual([Gain(0.5), Dropout(0.2), GRU(6, return_sequences=True)]), Concat([Dense(3, "tanh"), Dense(2)])]
    options = {"streams": 4, "steps": 10, "verbose": 0}
    for tied in (False, True):
        model = LanguageModel(body=body, embedding=4, tied=tied, seed=1).fit(text, epochs=2, **options)
        model.save(path)
        with pytest.raises(ModelFileError, match="has a layer of the class 'Gain', which is not known here"):
            LanguageModel.load(path)
        loaded = LanguageModel.load(path, custom_objects={"Gain": Gain})
        assert loaded.get_params()["body"] == list(body)
        for call in (lambda one: one.generate("to be", 20, seed=1), lambda one: one.score("to be"), lambda one: one.perplexity(text)):
            assert call(loaded) == call(model)
        assert len(model.generate("to", 5, seed=1)) == 5
    model.fit(text + "xyz\n", epochs=1, extend_vocabulary=True, **options)
    assert model.score("xyz") < 0
    plain = LanguageModel(body=[Recurrent(8, True), Dropout(0.1)], embedding=4, seed=1).fit(text, epochs=1, **options)
    plain.save(tmp_path / "plain.npz")
    assert cli.main(["info", str(tmp_path / "plain.npz")]) == 0 and "Recurrent(cell='lstm', forget_bias=1.0, return_sequences=True, units=8), Dropout(rate=0.1)\n" in capsys.readouterr().out
    same = LanguageModel(hidden=8, layers=1, embedding=4, seed=1).fit(text, epochs=1, **options)
    assert sorted(array.shape for array in plain.get_weights()) == sorted(array.shape for array in same.get_weights())
    checkpoint = tmp_path / "run.npz"
    LanguageModel(body=body[:1], embedding=4).fit(text, epochs=1, schedule="constant", checkpoint=checkpoint, **options)
    with pytest.raises(ConfigError, match="body is left out, but the run in"):
        LanguageModel(embedding=4).fit(text, epochs=2, schedule="constant", resume=checkpoint, **options)
    assert LanguageModel(body=body[:1], embedding=4).fit(text, epochs=2, schedule="constant", resume=checkpoint, **options).history_["epoch"] == [1, 2]
    settings, training = LanguageModel.settings_of_run(checkpoint)
    assert settings["body"] == body[:1] and training["epochs"] == 1 and LanguageModel(**settings).get_params()["body"] is settings["body"]
    (tmp_path / "text.txt").write_text(text)
    command = ["train", str(tmp_path / "text.txt"), "--resume", str(checkpoint), "--epochs", "3", "--out", str(tmp_path / "out.npz"), "--verbose", "0"]
    assert cli.main(command) == 0
    assert LanguageModel.load(tmp_path / "out.npz").history_["epoch"] == [1, 2, 3]
    checkpoint.unlink()
    LanguageModel(body=body, embedding=4).fit(text, epochs=1, schedule="constant", checkpoint=checkpoint, **options)
    assert cli.main(command) == 1
    assert "a layer of the class 'Gain', which is not known here; load it in Python, with custom_objects=" in capsys.readouterr().err


def test_wrong_bodies_are_refused():
    for body, error, message in (
        ([LSTM(5)], ShapeError, "the body of a language model returns a vector for every step, so its last recurrent layer needs return_sequences=True"),
        ([LSTM(5), LSTM(5)], ShapeError, "return_sequences=True"), ([3], ConfigError, r"body has 3, expected layers .* such as LSTM\(64"),
        (LSTM(5), ConfigError, "body is LSTM.*expected a list of layers"), ([Embedding(3, 4)], ShapeError, "it can only be the first layer"),
        ([Residual(Mirror())], ConfigError, r"Residual\(.*Mirror\(.* sees later steps, which a language model is to predict"),
    ):
        with pytest.raises(error, match=message):
            LanguageModel(body=body)


@pytest.mark.parametrize("copies", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copy", "deepcopy", "pickle"])
def test_a_copy_continues_like_the_model(copies):
    model = compiled(LSTM(6), Dropout(0.5))
    model.fit(X, LAST, epochs=2, batch_size=7, verbose=0)
    other = copies(model)
    same(other.get_weights(), model.get_weights())
    assert other.history.history == model.history.history
    runs = [each.fit(X, LAST, initial_epoch=2, epochs=4, batch_size=7, verbose=0).history for each in (model, other)]
    assert runs[0] == runs[1]
    same(other.get_weights(), model.get_weights())
    model.fit(X, LAST, verbose=0)
    assert (other.predict(X) != model.predict(X)).any()


@pytest.mark.parametrize("name", ["k.h5", "k.keras", "K.H5"])
def test_keras_suffixes_are_rejected(tmp_path, name):
    with pytest.raises(ConfigError, match=r"k\.\w+', expected a name such as 'model\.npz'|K\.H5"):
        compiled().save(tmp_path / name)
    assert not list(tmp_path.iterdir())


# Keras's arguments

RECURRENT = {
    "use_bias": (True, False), "kernel_initializer": ("glorot_uniform", "zeros"),
    "recurrent_initializer": ("orthogonal", "zeros"), "bias_initializer": ("zeros", "ones"), "dropout": (0.0, 0.2),
    "recurrent_dropout": (0.0, 0.2), "return_state": (False, True), "go_backwards": (False, True),
    "stateful": (False, True), "unroll": (False, True), "name": (None, "first"), "trainable": (True, False),
}
GATED = RECURRENT | {"activation": ("tanh", "relu"), "recurrent_activation": ("sigmoid", "hard_sigmoid")}
DENSE = {name: RECURRENT[name] for name in ("name", "trainable", "kernel_initializer", "bias_initializer")}
TAKEN = [
    (LSTM, (3,), GATED | {"unit_forget_bias": (True, False)}), (GRU, (3,), GATED | {"reset_after": (True, False)}),
    (SimpleRNN, (3,), RECURRENT), (Recurrent, (3,), RECURRENT), (Dense, (3,), DENSE),
    (Dropout, (0.5,), {"name": (None, "a"), "noise_shape": (None, (1, 2)), "seed": (None, 1)}),
    (Embedding, (3, 4), {"name": (None, "a"), "mask_zero": (False, True), "input_shape": (None, (5,)),
                         "embeddings_initializer": ("uniform", "zeros")}),
    *((kind, (), {"use_ema": (False, True), "gradient_accumulation_steps": (None, 2)}) for kind in OPTIMIZERS.values()),
]


@pytest.mark.parametrize(("kind", "values", "options"), TAKEN)
def test_keras_arguments_accept_their_defaults_only(kind, values, options):
    assert kind(*values, **{name: usual for name, (usual, _) in options.items()}) == kind(*values)
    for name, (usual, other) in options.items():
        with pytest.raises(ConfigError) as error:
            kind(*values, **{name: other})
        assert str(error.value).startswith(f"{kind.__name__}: {name} is {other!r}, expected {usual!r}; ")
    with pytest.raises(ConfigError, match=f"{kind.__name__} has no argument 'wrong', expected some of "):
        kind(*values, wrong=None)


def test_a_subclass_of_a_keras_optimizer_accepts_defaults_only_too():
    @dataclass(frozen=True)
    class Mine(Adam):
        part: float = 0.5

    assert Mine(use_ema=False, name="first") == Mine()
    with pytest.raises(ConfigError, match="Mine: use_ema is True, expected False; the weights are not averaged"):
        Mine(use_ema=True)


def test_arguments_with_one_allowed_value_are_neither_shown_nor_saved():
    layer = LSTM(3, dropout=0, name=None, trainable=True)
    assert repr(layer) == "LSTM(units=3, return_sequences=False, cell='lstm', forget_bias=1.0)"
    assert describe_layer(layer) == {"class": "LSTM", "units": 3, "return_sequences": False, "cell": "lstm", "forget_bias": 1.0}
    assert type(layer.dropout) is float  # the argument is not stored
    limits = dict.fromkeys(("weight_decay", "clipnorm", "clipvalue", "global_clipnorm"))
    assert describe(SGD(name="first", use_ema=False)) == {"class": "sgd", "learning_rate": 0.01, **limits, "momentum": 0.0, "nesterov": False}


@pytest.mark.parametrize("kind", OPTIMIZERS.values())
def test_the_old_name_of_the_learning_rate_suggests_the_new_one(kind):
    with pytest.raises(ConfigError, match=f"{kind.__name__} has no argument 'lr'; did you mean 'learning_rate'"):
        kind(lr=0.1)


@pytest.mark.parametrize("first", [
    LSTM(4, input_shape=(T, 3)), GRU(4, input_shape=[None, 3]), SimpleRNN(4, input_dim=3),
    Dense(4, input_dim=3, input_shape=(None, 3)), Dropout(0.5, input_shape=(T, 3)),
], ids=lambda layer: type(layer).__name__)  # fmt: skip
def test_the_first_layer_may_specify_the_size_of_the_vectors(first, tmp_path):
    model = Sequential([first, Dense(2, "softmax")])
    built = Sequential([replace(first, input_shape=None, input_dim=None), Dense(2, "softmax")])
    with pytest.raises(NotFittedError, match=r"input_shape=\(None, features\)"):
        built.get_weights()
    built.build((None, None, 3))
    same(model.get_weights(), built.get_weights())
    with pytest.raises(ShapeError, match=r"expected vectors \(examples, steps, 3\)"):
        model.predict(np.zeros((2, T, 4)))
    model.save(tmp_path / "model.npz")
    same(Sequential.load(tmp_path / "model.npz").get_weights(), built.get_weights())


@pytest.mark.parametrize(("options", "message"), [
    ({"input_shape": (3,)}, r"input_shape is \(3,\), expected \(steps or None, features\)"),
    ({"input_shape": 3}, "input_shape is 3"), ({"input_shape": (None, None)}, "features of input_shape is None"),
    ({"input_shape": (0, 3)}, "steps of input_shape is 0"), ({"input_dim": 0}, "LSTM: input_dim is 0"),
    ({"input_shape": (None, 3), "input_dim": 4}, "give one of the two"),
])
def test_invalid_sizes_of_vectors_are_rejected(options, message):
    with pytest.raises(ConfigError, match=message):
        LSTM(4, **options)


def test_a_rejected_first_layer_has_no_effect():
    model = Sequential()
    with pytest.raises(ConfigError, match="tied Dense"):
        model.add(Dense(4, tied=True, input_dim=3))
    model.add(LSTM(4))
    model.build((None, None, 5))
    assert model.get_weights()[0].shape == (5, 16)


def test_equivalent_ways_to_specify_common_options():
    listed, plain = compiled(), compiled()
    plain.compile(loss="sparse_categorical_crossentropy", optimizer="adam", metrics="accuracy", jit_compile="auto")
    one = listed.fit(X, LAST, verbose=1)
    other = plain.fit(X, LAST, verbose="auto", sample_weight=None, class_weight=None, steps_per_epoch=None)
    assert one.history == other.history
    assert listed.evaluate(X, LAST) == plain.evaluate(X, LAST, verbose="auto", steps=None)
    np.testing.assert_array_equal(listed.predict(X), plain.predict(X, verbose="auto", callbacks=None))


def test_bools_are_accepted_as_numbers():
    x, y = RNG.random((N, T, 3)) > 0.5, X[:, 0] > 2
    losses = []
    for kind in (bool, int, float):
        model = Sequential([LSTM(4), Dense(1, "sigmoid")])
        model.compile(loss="binary_crossentropy")
        losses.append(model.fit(x.astype(kind), y.astype(kind), verbose=0).history)
    assert losses[0] == losses[1] == losses[2]
    ids = compiled(top=Dense(2, "softmax"))
    np.testing.assert_array_equal(ids.predict(X > 2), ids.predict((X > 2) * 1))
    assert ids.evaluate(X, y) == ids.evaluate(X, y * 1)


def test_the_repr_of_a_model_shows_its_layers():
    model = Sequential([Embedding(V, 8, mask_zero=False), SimpleRNN(4, activation="relu"), Dropout(0.5), Dense(V, "softmax")])
    text = ("Sequential([Embedding(6, 8), SimpleRNN(4, activation='relu'), Dropout(0.5), "
            "Dense(6, activation='softmax')])")
    assert repr(model) == text
    assert eval(text).layers == model.layers
    assert repr(Sequential()) == "Sequential([])"


# Errors

def put(array, place, value):
    array = np.array(array, dtype=float)
    array[place] = value
    return array


MISTAKES = {
    "x has one axis": (lambda m: m.predict(X[0]), ShapeError, r"x has shape \(5,\), expected ids \(examples, steps\)"),
    "x has three axes": (lambda m: m.predict(one_hot(X)), ShapeError, r"expected ids \(examples, steps\)"),
    "no examples": (lambda m: m.fit(X[:0], LAST[:0]), ShapeError, "empty"),
    "no steps": (lambda m: m.fit(X[:, :0], LAST), ShapeError, "empty"),
    "nothing": (lambda m: m.fit([], []), ShapeError, r"x has shape \(0,\)"),
    "ragged x": (lambda m: m.predict([[1, 2], [1]]), ShapeError, "different length.*padding"),
    "text": (lambda m: m.predict([["a", "b"]]), ShapeError, "array of numbers"),
    "complex x": (lambda m: m.predict(X + 0j), ShapeError, "array of numbers"),
    "half an id": (lambda m: m.predict(put(X, (2, 3), 1.5)), ShapeError, r"x\[2, 3\] is 1\.5, expected a whole number"),
    "NaN for an id": (lambda m: m.predict(put(X, (2, 3), np.nan)), ShapeError, r"x\[2, 3\] is nan"),
    "infinity for an id": (lambda m: m.predict(put(X, (0, 0), np.inf)), ShapeError, r"x\[0, 0\] is inf"),
    "an id too large": (lambda m: m.predict(put(X, (4, 1), V)), VocabularyError, r"x\[4, 1\] is 6.*from 0 to 5"),
    "an id below zero": (lambda m: m.predict(put(X, (4, 1), -1)), VocabularyError, r"x\[4, 1\] is -1"),
    "a huge id": (lambda m: m.predict(X.astype(np.uint64) + 2**63), VocabularyError, r"x\[0, 0\] is \d{19}"),
    "targets too few": (lambda m: m.fit(X, LAST[1:]), ShapeError, "target for each of the 24 examples"),
    "one target": (lambda m: m.fit(X, 3), ShapeError, "target for each of the 24 examples"),
    "one-hot for ids": (lambda m: m.fit(X, one_hot(LAST)), ShapeError, "loss='categorical_crossentropy'"),
    "targets for each step": (lambda m: m.fit(X, EACH), ShapeError, "has one output for each sequence; return_sequences"),
    "a target too large": (lambda m: m.fit(X, put(LAST, 3, V)), VocabularyError, r"y\[3\] is 6.*units of the last layer"),
    "NaN for a target": (lambda m: m.fit(X, put(LAST, 3, np.nan)), ShapeError, r"y\[3\] is nan"),
    "bad validation x": (lambda m: m.fit(X, LAST, validation_data=(X + V, LAST)), VocabularyError, r"validation x\[0, 0\]"),
    "bad validation y": (lambda m: m.fit(X, LAST, validation_data=(X, LAST + V)), VocabularyError, r"validation y\[0\]"),
    "no pair": (lambda m: m.fit(X, LAST, validation_data=X), ConfigError, r"expected \(x, y\)"),
    "nothing left": (lambda m: m.fit(X, LAST, validation_split=1.0), ConfigError, "0 examples to train on"),
    "nothing held out": (lambda m: m.fit(X[:1], LAST[:1], validation_split=1e-20), ConfigError, "0 to validate on"),
    "split below zero": (lambda m: m.fit(X, LAST, validation_split=-0.1), ConfigError, "validation_split"),
    "epochs below zero": (lambda m: m.fit(X, LAST, epochs=-1), ConfigError, "epochs is -1"),
    "half an epoch": (lambda m: m.fit(X, LAST, epochs=0.5), ConfigError, "whole number"),
    "first epoch below zero": (lambda m: m.fit(X, LAST, initial_epoch=-1), ConfigError, "initial_epoch"),
    "empty batches": (lambda m: m.fit(X, LAST, batch_size=0), ConfigError, "batch_size"),
    "empty batches to evaluate": (lambda m: m.evaluate(X, LAST, batch_size=0), ConfigError, "batch_size"),
    "empty batches to predict": (lambda m: m.predict(X, batch_size=0), ConfigError, "batch_size"),
    "verbose": (lambda m: m.fit(X, LAST, verbose=3), ConfigError, "verbose is 3"),
    "a callback that is none": (lambda m: m.fit(X, LAST, callbacks=[print]), ConfigError, "callbacks holds"),
    "no loss": (lambda m: m.compile(), ConfigError, "loss is None, expected one of 'categorical_crossentropy'"),
    "unknown loss": (lambda m: m.compile(loss="mse"), ConfigError, "loss is 'mse'"),
    "unknown metric": (
        lambda m: m.compile(loss="categorical_crossentropy", metrics=["auc"]), ConfigError, "metrics is 'auc'"),
    "weights of examples": (
        lambda m: m.fit(X, LAST, sample_weight=np.ones(N)), ConfigError, "fit: sample_weight is .*counts the same"),
    "weights of classes": (lambda m: m.fit(X, LAST, class_weight={0: 2}), ConfigError, "every class counts the same"),
    "steps of an epoch": (lambda m: m.fit(X, LAST, steps_per_epoch=3), ConfigError, "expected None; .*batch_size"),
    "unknown to fit": (lambda m: m.fit(X, LAST, nb_epoch=3), ConfigError, "fit has no argument 'nb_epoch'; did you mean 'epochs'"),
    "unknown to compile": (lambda m: m.compile(los=""), ConfigError, "compile has no argument 'los'; did you mean 'loss'"),
    "unknown to evaluate": (lambda m: m.evaluate(X, LAST, batch=3), ConfigError, "evaluate has no argument 'batch'"),
    "callbacks of predict": (lambda m: m.predict(X, callbacks=[]), ConfigError, "only fit calls callbacks"),
    "unknown optimiser": (lambda m: m.compile("ftrl", "categorical_crossentropy"), ConfigError, "optimizer is 'ftrl'"),
    "a metric of sigmoid units": (
        lambda m: m.compile(loss="categorical_crossentropy", metrics=["binary_accuracy"]), ConfigError,
        "metric 'binary_accuracy' is of a last layer with activation='sigmoid', this one has 'softmax'; expected 'accuracy'"),
    "softmax for sigmoid": (
        lambda m: m.compile(loss="binary_crossentropy"), ConfigError, r"needs a last layer Dense\(.*'sigmoid'"),
    "weights too few": (lambda m: m.set_weights(m.get_weights()[1:]), ShapeError, "5 arrays, expected 6"),
    "a weight of another shape": (
        lambda m: m.set_weights([w.T for w in m.get_weights()]), ShapeError, r"weights\[0\] is \(8, 6\), expected \(6, 8\)"),
    "NaN for a weight": (
        lambda m: m.set_weights([w * np.nan for w in m.get_weights()]), ShapeError, r"weights\[0\]\[0, 0\] is nan"),
    "a weight too large": (
        lambda m: m.set_weights([w.astype(float) * 0 + 1e300 for w in m.get_weights()]), ShapeError, "finite.*float32"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_raise_readable_errors(mistake):
    make, error, message = MISTAKES[mistake]
    model = compiled()
    before = model.get_weights()
    with pytest.raises(error, match=message):
        make(model)
    same(model.get_weights(), before)


def test_the_error_names_a_row_that_is_not_one_hot():
    model = compiled(loss="categorical_crossentropy")
    one = one_hot(1)
    for row in (0 * one, 0 * one + 1, 0 * one + 1 / V, 2 * one, -one, one + 0.5 * one_hot(0), put(one, 1, np.nan),
                put(one, 0, np.nan), put(one, 1, np.inf)):
        with pytest.raises(ShapeError, match=r"y\[4\] is not one-hot"):
            model.fit(X, put(one_hot(LAST), 4, row))
    with pytest.raises(ShapeError, match="sparse_categorical_crossentropy"):
        model.fit(X, LAST)
    with pytest.raises(ShapeError, match=r"y has shape \(24, 5\), expected \(24, 6\)"):
        model.fit(X, one_hot(LAST)[:, 1:])
    model = compiled(LSTM(4, return_sequences=True), loss="categorical_crossentropy")
    with pytest.raises(ShapeError, match=r"y\[2, 1\] is not one-hot"):
        model.fit(X, put(one_hot(EACH), (2, 1), 0))
    with pytest.raises(ShapeError, match="has one output for every step"):
        model.fit(X, one_hot(LAST))


def test_the_error_names_a_number_outside_its_range():
    model = compiled(loss="binary_crossentropy", top=Dense(2, "sigmoid"))
    y = np.full((N, 2), 0.5)
    for value in (-0.1, 1.1, 7, np.nan, np.inf):
        with pytest.raises(ShapeError, match=r"y\[3, 1\] is .*expected a"):
            model.fit(X, put(y, (3, 1), value))
    vectors = Sequential([LSTM(2), Dense(2, "sigmoid")])
    vectors.compile(loss="binary_crossentropy")
    x = np.zeros((N, T, 3))
    for value in (np.nan, -np.inf, 1e300):
        with pytest.raises(ShapeError, match=r"x\[1, 2, 0\] is .*finite"):
            vectors.fit(put(x, (1, 2, 0), value), y)
    with pytest.raises(ShapeError, match=r"the first layer is not an Embedding\. If these are ids, add an Embedding"):
        Sequential([LSTM(2)]).predict(X)


def test_sequences_of_another_length_than_specified_are_rejected():
    model = Sequential([Embedding(V, 3, input_length=T + 1), LSTM(2), Dense(V, "softmax")])
    model.compile(loss="sparse_categorical_crossentropy")
    for ask in (lambda: model.predict(X), lambda: model.fit(X, LAST), lambda: model.evaluate(X, LAST)):
        with pytest.raises(ShapeError, match="5 steps, expected input_length=6"):
            ask()


def test_errors_say_what_to_call_first():
    model = Sequential()
    for ask in (lambda: model.predict(X), model.summary, model.get_weights, model.pop, lambda: model.build((None, 5))):
        with pytest.raises(ConfigError, match="no layers"):
            ask()
    model = stack(LSTM(3))
    for ask in (lambda: model.fit(X, LAST), lambda: model.evaluate(X, LAST)):
        with pytest.raises(NotFittedError, match=r"compile\("):
            ask()
    model = Sequential()
    model.compile(loss="categorical_crossentropy")
    model.add(Embedding(V, 3))
    model.add(LSTM(3))
    with pytest.raises(ConfigError, match=r"needs a last layer Dense.*the last layer is LSTM"):
        model.fit(X, one_hot(LAST))
    model.add(Dense(V))
    with pytest.raises(ConfigError, match="activation='softmax'"):
        model.fit(X, one_hot(LAST))


@pytest.mark.parametrize(("options", "message"), [
    ({"seed": -1}, "seed is -1"), ({"seed": 0.5}, "seed"), ({"backend": "abacus"}, "backend is 'abacus'"),
    ({"threads": 0}, "threads"), ({"layers": [LSTM]}, "numba_rnnlm.layers"),
])
def test_invalid_models_are_rejected(options, message):
    with pytest.raises(ConfigError, match=message):
        Sequential(**options)


def test_missing_keras_layers_raise_an_error_with_an_alternative():
    assert not set(suggestions.LAYERS) & set(vars(layers))
    for name, instead in suggestions.LAYERS.items():
        with pytest.raises(ImportError) as caught:
            exec(f"from numba_rnnlm.layers import {name}", {})
        assert str(caught.value) == f"numba_rnnlm.layers has no {name}; {instead}."
    with pytest.raises(AttributeError, match=r"module 'numba_rnnlm.layers' has no attribute 'Lstm'"):
        layers.Lstm  # noqa: B018
