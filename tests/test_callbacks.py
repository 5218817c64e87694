"""Callbacks: called in Keras's order, and each with the documented effect."""

import copy
import csv

import numpy as np
import pytest
from checks import file_state

from numba_rnnlm import LanguageModel, Sequential
from numba_rnnlm.callbacks import Callback, CSVLogger, EarlyStopping, LambdaCallback, ModelCheckpoint
from numba_rnnlm.errors import ConfigError, ModelFileError
from numba_rnnlm.layers import LSTM, Dense, Embedding

X = np.random.default_rng(3).integers(4, size=(20, 3))
Y = X[:, 0]


@pytest.fixture
def model():
    model = Sequential([Embedding(4, 4), LSTM(5), Dense(4, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
    return model


class Scripted(Callback):
    """A fake model that feeds values to one callback; its weights are the number of the epoch."""

    def __init__(self, callback, name, values):
        self.stop_training, self.epoch, self.restored, self.saved = False, None, None, []
        callback.set_model(self)
        callback.on_train_begin({})
        for self.epoch, value in enumerate(values):
            callback.on_epoch_end(self.epoch, {"loss": 0.0, name: value})
            if self.stop_training:
                break
        callback.on_train_end({})

    def get_weights(self):
        return [self.epoch]

    def set_weights(self, weights):
        (self.restored,) = weights

    def save(self, path):
        self.saved.append(path)


def test_callbacks_are_called_in_order(model):
    calls = []

    class Note(Callback):
        def set_model(self, model):
            super().set_model(model)
            calls.append(("model", model))

        def on_train_begin(self, logs=None):
            calls.append(("train begins", dict(logs)))

        def on_train_end(self, logs=None):
            calls.append(("train ends", dict(logs)))

        def on_epoch_begin(self, epoch, logs=None):
            calls.append((f"epoch {epoch} begins", dict(logs)))

        def on_epoch_end(self, epoch, logs=None):
            calls.append((f"epoch {epoch} ends", dict(logs)))

    history = model.fit(X, Y, epochs=2, validation_split=0.2, verbose=0, callbacks=[Note()]).history
    rows = [{name: values[epoch] for name, values in history.items()} for epoch in range(2)]
    assert set(rows[0]) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert calls == [
        ("model", model), ("train begins", {}), ("epoch 0 begins", {}), ("epoch 0 ends", rows[0]),
        ("epoch 1 begins", {}), ("epoch 1 ends", rows[1]), ("train ends", rows[1]),
    ]


@pytest.mark.parametrize("names", [
    ("on_train_batch_begin", "on_train_batch_end"), ("on_batch_begin", "on_batch_end"),
])  # fmt: skip
def test_batch_callbacks_get_the_running_means(model, names):
    calls = []

    def note(name):
        return lambda self, batch, logs=None: calls.append((name, batch, logs))

    kind = type("Note", (Callback,), {name: note(name) for name in names})
    callback = kind()
    history = model.fit(X, Y, epochs=2, batch_size=8, verbose=0, callbacks=[callback]).history
    assert [call[:2] for call in calls] == [(name, batch) for batch in (0, 1, 2) for name in names] * 2
    assert all(logs == {} for name, _, logs in calls if name == names[0])
    for epoch, (*_, logs) in enumerate((calls[5], calls[11])):
        assert logs == {name: values[epoch] for name, values in history.items()}
    assert calls[1][2] != calls[3][2]
    assert callback.params == {"epochs": 2, "steps": 3, "verbose": 0, "metrics": ["loss", "accuracy"]}


def test_the_logs_of_the_first_batch_are_its_own(model):
    before, seen = model.evaluate(X[:8], Y[:8], return_dict=True), []
    model.fit(X, Y, batch_size=8, shuffle=False, verbose=0,
              callbacks=LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(logs)))
    assert seen[0] == pytest.approx(before)


@pytest.mark.parametrize("name", ["on_test_begin", "on_predict_batch_end", "on_epoch_start"])
def test_a_method_that_is_never_called_is_an_error(model, name):
    kind = type("Note", (Callback,), {name: lambda self, logs=None: None})
    before = model.get_weights()
    with pytest.raises(ConfigError, match=f"Note has {name}, which is never called; expected some of .*on_train_begin"):
        model.fit(X, Y, verbose=0, callbacks=[kind()])
    np.testing.assert_array_equal(model.get_weights()[0], before[0])


def test_the_repr_of_a_history_has_the_last_values(model):
    history = model.fit(X, Y, epochs=2, verbose=0)
    loss, accuracy = (history.history[name][-1] for name in ("loss", "accuracy"))
    assert repr(history) == f"<History of 2 epochs, loss: {loss:.4f}, accuracy: {accuracy:.4f}>"


def test_checkpoints_must_not_have_keras_suffixes():
    with pytest.raises(ConfigError, match=r"expected a name such as 'model\.npz'"):
        ModelCheckpoint("{epoch}.keras")


def test_a_callback_can_stop_the_training(model):
    def stop(epoch, logs):
        model.stop_training = epoch == 1

    assert model.fit(X, Y, epochs=9, verbose=0, callbacks=LambdaCallback(on_epoch_end=stop)).epoch == [0, 1]
    assert model.fit(X, Y, epochs=2, verbose=0).epoch == [0, 1]


def test_a_callback_cannot_take_the_model_away_from_its_training(model, tmp_path):
    other = LanguageModel(hidden=4, layers=1, embedding=3, seed=1)
    runs = {
        model: (lambda one, **more: one.fit(X, Y, epochs=2, verbose=0, **more), {
            "fit": lambda one: one.fit(X, Y), "compile": lambda one: one.compile("sgd", "sparse_categorical_crossentropy"),
            "add": lambda one: one.add(Dense(2)), "pop": lambda one: one.pop()}),
        other: (lambda one, **more: one.fit("to be or not to be\n" * 5, epochs=2, streams=2, steps=5, verbose=0, **more), {
            "fit": lambda one: one.fit("to be\n" * 5), "set_params": lambda one: one.set_params(threads=1)}),
    }
    for front_end, (fit, calls) in runs.items():
        want, copies = copy.deepcopy(front_end), []
        fit(want)

        def ask(epoch, logs, fit=fit, calls=calls, front_end=front_end, copies=copies):
            for call in calls.values():
                with pytest.raises(ConfigError, match=r"the model is being trained: .* have to wait until fit has returned"):
                    call(front_end)
            copies.append(copy.deepcopy(front_end))
            fit(copies[-1])
            front_end.save(tmp_path / f"{type(front_end).__name__}.npz")

        fit(front_end, callbacks=LambdaCallback(on_epoch_end=ask))
        assert all(np.array_equal(*pair) for pair in zip(front_end.get_weights(), want.get_weights(), strict=True))
        for call in calls.values():
            call(copies[0])
        fit(front_end)
    with pytest.raises(ZeroDivisionError):
        fit(other, callbacks=LambdaCallback(on_epoch_end=lambda epoch, logs: 1 / 0))
    fit(other)


def test_a_callback_that_does_not_fit_is_an_error_before_anything_is_written(model, tmp_path):
    path, text = tmp_path / "run.npz", "to be or not to be\n" * 5
    other = LanguageModel(hidden=4, layers=1, embedding=3)
    for fit in (lambda **more: model.fit(X, Y, verbose=0, **more), lambda **more: other.fit(text, epochs=1, streams=2, steps=5, verbose=0, **more)):
        with pytest.raises(ConfigError, match="watches 'val_loss', but this training measures"):
            fit(checkpoint=path, callbacks=EarlyStopping())
        assert not path.exists()
        with pytest.raises(ZeroDivisionError):
            fit(checkpoint=path, callbacks=LambdaCallback(on_train_begin=lambda logs: 1 / 0))
        assert not path.exists()
        fit(checkpoint=path, callbacks=EarlyStopping("loss"))
        with pytest.raises(ZeroDivisionError):
            fit(checkpoint=path, callbacks=LambdaCallback(on_train_begin=lambda logs: 1 / 0))
        fit(checkpoint=path)  # the run that had ended is still the one in the file
        path.unlink()


def test_functions_become_a_callback(model):
    calls = []
    model.fit(X, Y, epochs=2, verbose=0, callbacks=[LambdaCallback(
        on_epoch_begin=lambda epoch, logs: calls.append(f"begin {epoch}"),
        on_epoch_end=lambda epoch, logs: calls.append(f"end {epoch}"),
        on_train_begin=lambda logs: calls.append("train"),
        on_train_end=lambda logs: calls.append("done"),
    ), LambdaCallback()])
    assert calls == ["train", "begin 0", "end 0", "begin 1", "end 1", "done"]


@pytest.mark.parametrize(("options", "name", "values", "last", "best"), [
    ({}, "val_loss", [3, 2, 2.5, 1], 2, 1),
    ({}, "val_loss", [3, 3, 1], 1, 0),
    ({"patience": 2}, "val_loss", [3, 4, 2, 3, 3, 1], 4, 2),
    ({"min_delta": 0.5}, "val_loss", [3, 2.4, 2, 1], 2, 1),
    ({"monitor": "accuracy"}, "accuracy", [0.1, 0.3, 0.2, 0.4], 2, 1),
    ({"monitor": "val_acc"}, "val_acc", [0.1, 0.3, 0.2, 0.4], 2, 1),
    ({"monitor": "accuracy", "mode": "min"}, "accuracy", [0.1, 0.3, 0.2], 1, 0),
    ({"mode": "max"}, "val_loss", [1, 2, 3, 4], 3, 3),
    ({}, "val_loss", [3, float("nan"), 1], 1, 0),
])
def test_early_stopping_stops_without_improvement(options, name, values, last, best):
    played = Scripted(EarlyStopping(**options, restore_best_weights=True), name, values)
    assert (played.epoch, played.restored) == (last, best)
    played = Scripted(EarlyStopping(**options), name, values)
    assert (played.epoch, played.restored) == (last, None)


def test_early_stopping_is_reset_at_each_training():
    callback = EarlyStopping(patience=2)
    assert Scripted(callback, "val_loss", [1, 2, 3, 4]).epoch == 2
    assert Scripted(callback, "val_loss", [9, 8, 7, 6]).epoch == 3


def test_early_stopping_restores_the_best_weights(model):
    seen = []

    def spoil(epoch, logs):
        if epoch == 2:
            model.set_weights([-weight for weight in model.get_weights()])

    history = model.fit(X, Y, epochs=9, verbose=0, shuffle=False, batch_size=20, validation_data=(X, Y), callbacks=[
        LambdaCallback(on_epoch_begin=spoil, on_epoch_end=lambda epoch, logs: seen.append(model.get_weights())),
        EarlyStopping(restore_best_weights=True),
    ])
    assert history.epoch == [0, 1, 2]
    for restored, best in zip(model.get_weights(), seen[1], strict=True):
        np.testing.assert_array_equal(restored, best)
    assert model.evaluate(X, Y)[0] == pytest.approx(min(history.history["val_loss"]), rel=1e-6)


@pytest.mark.parametrize("callback", [EarlyStopping(), ModelCheckpoint("unused.npz", save_best_only=True)])
def test_monitoring_an_unmeasured_value_is_an_error(model, callback):
    with pytest.raises(ConfigError, match=r"watches 'val_loss', but this training measures loss, accuracy.*validation_data"):
        model.fit(X, Y, verbose=0, callbacks=[callback])


@pytest.mark.parametrize("options", [{"mode": "best"}, {"patience": -1}, {"patience": 0.5}, {"min_delta": -1}])
def test_invalid_options_are_rejected(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        EarlyStopping(**options)


def test_a_csv_file_has_a_line_for_each_epoch(model, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("epoch;loss\n7;nan\r\n8;-inf\n9;0.5e-0")  # the run was killed while it wrote the last line
    history = model.fit(X, Y, epochs=2, verbose=0, callbacks=[CSVLogger(path, separator=";")]).history
    more = model.fit(X, Y, epochs=3, initial_epoch=2, verbose=0,
                     callbacks=[CSVLogger(path, separator=";", append=True)]).history
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file, delimiter=";"))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert list(rows[0]) == ["epoch", "accuracy", "loss"]
    assert [float(row["loss"]) for row in rows] == history["loss"] + more["loss"]


@pytest.mark.parametrize("append", [False, True])
@pytest.mark.parametrize("there", [b"my notes\n", b"epoch\n", b"epoch;loss\n0;1\n", b"PK\x03\x04", b"epoch,loss!" * 9999, "a model",
                                   b"epoch,loss\n0,1.5\nand a novel\n", b"epoch,text\n1,one\n", b"epoch,loss\n\n" + b"0,1\n" * 9, b"epoch,loss\n" + b"0" * 20_000 + b"x"],
                         ids=lambda there: str(there)[:40])
def test_csv_logger_does_not_overwrite_other_files(model, there, append, tmp_path):
    path = tmp_path / "char.npz"
    if there == "a model":
        model.save(path)
    else:
        path.write_bytes(there)
    before = file_state(path)
    with pytest.raises(ConfigError, match=r"CSVLogger's file is '.*char.npz', which exists and is not a log with the separator ','; it is left unchanged"):
        model.fit(X, Y, verbose=0, callbacks=[CSVLogger(path, append=append)])
    assert file_state(path) == before


def test_a_line_that_cannot_be_written_is_dropped(model, tmp_path, monkeypatch):
    path = tmp_path / "log.csv"

    def spoil(epoch, logs):
        if epoch in (1, 2):  # a folder replaces the file for one epoch
            path.rename(tmp_path / "moved") if epoch == 1 else (path.rmdir(), (tmp_path / "moved").rename(path))
        if epoch == 1:
            path.mkdir()

    with pytest.warns(UserWarning, match=r"CSVLogger lost the line of epoch 1 in '.*log.csv': Is a directory\."):
        model.fit(X, Y, epochs=3, verbose=0, callbacks=[LambdaCallback(on_epoch_begin=spoil), CSVLogger(path)])
    with open(path, newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "2"]


def test_a_log_that_cannot_be_opened_is_an_error_before_training(model, tmp_path):
    before = model.get_weights()[0]
    with pytest.raises(ModelFileError, match=r"CSVLogger cannot write '.*missing/log.csv': No such file or directory\."):
        model.fit(X, Y, verbose=0, callbacks=[CSVLogger(tmp_path / "missing" / "log.csv")])
    np.testing.assert_array_equal(model.get_weights()[0], before)


def test_a_folder_that_cannot_be_written_is_an_error_before_training(model, tmp_path):
    before = model.get_weights()[0]
    with pytest.raises(ModelFileError, match=r"cannot write '.*missing/a model', which needs 960 bytes: No such file or directory"):
        model.fit(X, Y, verbose=0, callbacks=[ModelCheckpoint(tmp_path / "missing" / "m.npz")])
    np.testing.assert_array_equal(model.get_weights()[0], before)


def test_training_continues_if_a_checkpoint_cannot_be_written(model, tmp_path):
    with pytest.warns(UserWarning, match=r"no checkpoint was written, training continues: cannot write '.*m.npz': No such file"):
        assert model.fit(X, Y, epochs=2, verbose=0, callbacks=[ModelCheckpoint(tmp_path / "{epoch}" / "m.npz")]).epoch == [0, 1]


def test_checkpoints_can_be_loaded(model, tmp_path):
    model.fit(X, Y, epochs=2, verbose=0, callbacks=[ModelCheckpoint(tmp_path / "{epoch:02}-{loss:.1f}.npz")])
    first, second = sorted(tmp_path.iterdir())
    assert (first.name[:3], second.name[:3]) == ("01-", "02-")
    np.testing.assert_array_equal(Sequential.load(second).predict(X), model.predict(X))
    assert (Sequential.load(first).predict(X) != model.predict(X)).any()


def test_save_best_only_keeps_the_best_model():
    callback = ModelCheckpoint("{epoch}", save_best_only=True)
    assert Scripted(callback, "val_loss", [3, 4, 2, 2]).saved == ["1", "3"]
    assert Scripted(callback, "val_loss", [5, 1]).saved == ["2"]
    assert Scripted(ModelCheckpoint("{epoch}"), "val_loss", [3, 4]).saved == ["1", "2"]
    with pytest.raises(ConfigError, match="in braces it may name epoch, loss, val_loss"):
        Scripted(ModelCheckpoint("{accuracy}"), "val_loss", [3])
    for path in ("{epoch.x}", "{epoch[0]}", "{0}", "{", "{epoch:q}", "{loss:99999999999}"):
        with pytest.raises(ConfigError, match="in braces it may name epoch, values such as val_loss"):
            ModelCheckpoint(path)


def test_verbose_callbacks_print_messages(capsys):
    Scripted(EarlyStopping(patience=1, verbose=1), "val_loss", [3, 4, 5])
    Scripted(ModelCheckpoint("{epoch}.npz", verbose=1, save_best_only=True), "val_loss", [3, 4])
    assert capsys.readouterr().out.splitlines() == ["Epoch 2: early stopping", "Epoch 1: saved 1.npz"]


def test_unsupported_keras_arguments():
    with pytest.raises(ConfigError, match=r"ModelCheckpoint: save_weights_only is True, expected False; the file"):
        ModelCheckpoint("a.npz", save_weights_only=True)
    with pytest.raises(ConfigError, match=r"EarlyStopping: baseline is 0\.5, expected None"):
        EarlyStopping(baseline=0.5)
    assert ModelCheckpoint(filepath="a.npz", save_weights_only=False, save_freq="epoch").path == "a.npz"


def test_a_checkpoint_over_another_kind_of_file_is_refused_before_anything_is_written(model, tmp_path):
    other = LanguageModel(hidden=4, layers=1, embedding=3).fit("to be or not to be\n" * 5, epochs=1, streams=2, steps=5, verbose=0)
    other.save(tmp_path / "other.npz")
    with pytest.raises(ModelFileError, match="it is a file of the kind 'language_model', and is not replaced by a 'sequential'"):
        model.fit(X, Y, verbose=0, checkpoint=tmp_path / "run.npz", callbacks=ModelCheckpoint(tmp_path / "other.npz"))
    assert not (tmp_path / "run.npz").exists()
