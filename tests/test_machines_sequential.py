"""Stateful test of Sequential: any operations in any order.

The model is compared with an account of it: its layers, the weights of each layer when the optimiser was last reset, and the operations
since then. A new model made from this account has the same bits.
"""

import copy
import pickle
import signal
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from machines import Stopped, explore

from numba_rnnlm import Sequential
from numba_rnnlm.callbacks import LambdaCallback
from numba_rnnlm.errors import (
    ConfigError,
    DivergenceError,
    LanguageModelError,
    ModelFileError,
    NotFittedError,
    ShapeError,
    VocabularyError,
)
from numba_rnnlm.layers import GRU, LSTM, Dense, Dropout, Embedding, Recurrent, SimpleRNN
from numba_rnnlm.optimizers import SGD, Adam

V, T, N = 4, 3, 6  # symbols, steps, examples
LOSS = "sparse_categorical_crossentropy"

RNG = np.random.default_rng(7)
IDS = RNG.integers(V, size=(N, T))
VECTORS = {features: RNG.normal(size=(N, T, features)) for features in (2, 3)}

EMBEDDING = Embedding(V, 2)
TOP = Dense(V, "softmax")
TIED = Dense(V, "softmax", tied=True)
LAYERS = st.sampled_from([
    EMBEDDING, LSTM(2), LSTM(2, return_sequences=True), GRU(3, return_sequences=True), GRU(2), SimpleRNN(2, return_sequences=True),
    Dropout(0.3), Dense(2, "tanh"), TOP, TOP, TIED,
])  # fmt: skip
STACKS = st.sampled_from([
    [EMBEDDING, LSTM(2), TOP], [EMBEDDING, Dropout(0.3), GRU(3, return_sequences=True), TOP], [EMBEDDING, LSTM(2, return_sequences=True), TIED],
    [SimpleRNN(2, return_sequences=True), LSTM(3), TOP], [LSTM(2, input_shape=(None, 3)), Dropout(0.5), TOP], [],
])  # fmt: skip
OPTIMIZERS = st.sampled_from(["rmsprop", "adam", "adagrad", SGD(0.1, momentum=0.9), Adam(0.01, amsgrad=True)])
FITS = st.fixed_dictionaries({"epochs": st.integers(0, 2), "batch_size": st.sampled_from([2, 4]), "shuffle": st.booleans()})


def counted(layers):
    """The number of weight arrays of each layer."""
    of = {Embedding: 1, Dropout: 0}
    return [3 if isinstance(one, Recurrent) else of[type(one)] if type(one) in of else 1 + (not one.tied) for one in layers]


def grouped(layers, weights):
    """The weights grouped by layer."""
    rest = iter(weights)
    return [[next(rest) for _ in range(count)] for count in counted(layers)]


@dataclass
class Account:
    """The expected state of a model.

    Attributes
    ----------
    weights
        Of each layer; None if the seed will draw them.
    since
        Operations since the optimiser was reset: calls of ``fit`` and ``set_weights``.
    """

    seed: int
    layers: tuple[Any, ...] = ()
    features: int | None = None
    weights: list[Any] = field(default_factory=list)
    optimizer: Any = None
    since: list[Any] = field(default_factory=list)

    @property
    def is_sized(self):
        return bool(self.layers) and (self.layers[0] == EMBEDDING or self.features is not None)

    @property
    def can_learn(self):
        return self.optimizer is not None and bool(self.layers) and self.layers[-1] in (TOP, TIED)

    def made(self):
        """Make a new model from this account."""
        model = Sequential(self.layers, seed=self.seed, threads=1)
        if self.layers[0] != EMBEDDING:
            model.build((None, None, self.features))
        drawn = grouped(self.layers, model.get_weights())
        model.set_weights([array for mine, new in zip(self.weights, drawn, strict=True) for array in (new if mine is None else mine)])
        if self.optimizer is not None and self.can_learn:
            model.compile(self.optimizer, LOSS)
        for act in at_one_go(self.since):
            act(model)
        return model

    def begun_again(self, model):
        """The same account with a reset optimiser."""
        weights = grouped(self.layers, model.get_weights()) if self.is_sized and (self.since or None not in self.weights) else self.weights
        return replace(self, weights=weights, since=[])


@dataclass(frozen=True)
class Fit:
    """A call of ``fit``, which may be stopped before a batch, counted over its epochs."""

    first: int
    epochs: int
    batch_size: int
    shuffle: bool
    how: str = "fit"
    batch: int = 0

    def __call__(self, model):
        x, y = data(model.layers, model._features)
        callbacks = LambdaCallback(**{"interrupt": {"on_train_batch_begin": self._at(lambda: signal.raise_signal(signal.SIGINT))},
                                      "fail": {"on_train_batch_begin": self._at(self._fail)}}.get(self.how, {}))
        try:
            return model.fit(x, y, self.batch_size, self.first + self.epochs, 0, callbacks, shuffle=self.shuffle, initial_epoch=self.first,
                             on_interrupt="return", **({"validation_data": (x, y)} if self.how == "validate" else {}))
        except Stopped:
            return None

    def _at(self, act):
        calls = iter(range(1000))
        return lambda batch, logs: act() if next(calls) == self.batch else None

    def _fail(self):
        raise Stopped


@dataclass(frozen=True)
class SetWeights:
    """A call of ``set_weights``."""

    seed: int

    def __call__(self, model):
        random = np.random.default_rng(self.seed)
        model.set_weights([random.normal(size=array.shape) for array in model.get_weights()])


def at_one_go(acts):
    """Merge calls of ``fit`` that continue one another."""
    found: list[Any] = []
    for act in acts:
        last = found[-1] if found else None
        if isinstance(act, Fit) and isinstance(last, Fit) and {act.how, last.how} <= {"fit", "validate"} and (
            act.first == last.first + last.epochs and (act.batch_size, act.shuffle) == (last.batch_size, last.shuffle)):
            found[-1] = replace(last, epochs=last.epochs + act.epochs)
        else:
            found.append(act)
    return found


def data(layers, features):
    """Examples for models with these layers."""
    x = IDS if layers[0] == EMBEDDING else VECTORS[features]
    each = all(layer.return_sequences for layer in layers if isinstance(layer, Recurrent))
    return x, ((IDS + 1) % V if each else IDS[:, 0])


def same(model, other):
    one, two = model.get_weights(), other.get_weights()
    return len(one) == len(two) and all(a.tobytes() == b.tobytes() and a.shape == b.shape for a, b in zip(one, two, strict=True))


def pickled(model):
    return pickle.loads(pickle.dumps(model))


class Stacks(RuleBasedStateMachine):
    """One model, and earlier copies of it, which must not change."""

    folder: Any = None

    def __init__(self):
        super().__init__()
        self.origins: list[Any] = []

    def begin_again(self, **others):
        self.account = replace(self.account.begun_again(self.model), **others)

    def unchanged(self, error, call):
        """Check that the call raises an error and changes nothing."""
        with pytest.raises(error) as caught:
            call()
        assert str(caught.value)
        self.look()

    @initialize(layers=STACKS, seed=st.integers(0, 1), optimizer=OPTIMIZERS, compiled=st.sampled_from([True, True, False]))
    def begin(self, layers, seed, optimizer, compiled):
        self.model, self.account = Sequential(seed=seed, threads=1), Account(seed)
        for layer in layers:
            self.add(layer)
        if compiled:
            self.compile(optimizer)

    def teardown(self):
        self.look()
        for origin, weights in self.origins:
            assert [array.tobytes() for array in origin.get_weights()] == weights

    def look(self):
        """Check everything against the account."""
        model, account = self.model, self.account
        assert model.layers == list(account.layers)
        if not account.is_sized:
            with pytest.raises(NotFittedError if account.layers else ConfigError):
                model.get_weights()
            return
        made = account.made()
        assert same(model, made)
        x, y = data(account.layers, account.features)
        assert model.predict(x).tobytes() == made.predict(x).tobytes()
        if account.can_learn:
            assert model.evaluate(x, y) == made.evaluate(x, y)
        one, other = self.folder / "one.npz", self.folder / "other.npz"
        for each, path in ((model, one), (made, other)):
            each.save(path)
        if account.optimizer is None or account.can_learn:
            assert one.read_bytes() == other.read_bytes()

    # Stacking layers

    @rule(layer=LAYERS, how=st.sampled_from(["add", "exchange", "pop"]))
    def stack(self, layer, how):
        if how != "add":
            self.pop()
        if how != "pop":
            self.add(layer)

    def add(self, layer):
        was = self.account
        try:
            self.begin_again()
            self.model.add(layer)
        except LanguageModelError:
            self.account = was
            self.look()
            return
        features = self.account.features or getattr(layer, "input_features", None)
        self.account = replace(self.account, layers=(*self.account.layers, layer), weights=[*self.account.weights, None], features=features)

    def pop(self):
        if not self.account.layers:
            self.unchanged(ConfigError, self.model.pop)
            return
        self.begin_again()
        assert self.model.pop() == self.account.layers[-1]
        layers, weights = self.account.layers[:-1], self.account.weights[:-1]
        self.account = replace(self.account, layers=layers, weights=weights, features=self.account.features if layers else None)

    @precondition(lambda self: self.account.layers and self.account.layers[0] != EMBEDDING)
    @rule(features=st.sampled_from([2, 3]))
    def build(self, features):
        if self.account.features not in (None, features):
            self.unchanged(ShapeError, lambda: self.model.build((None, None, features)))
            return
        self.model.build((None, None, features))
        self.account = replace(self.account, features=features)

    @precondition(lambda self: self.account.is_sized)
    @rule(seed=st.integers(0, 1))
    def set_weights(self, seed):
        act = SetWeights(seed)
        act(self.model)
        self.account.since = [*self.account.since, act]

    # Training

    @rule(optimizer=OPTIMIZERS)
    def compile(self, optimizer):
        if self.account.layers and self.account.layers[-1] not in (TOP, TIED):
            self.unchanged(ConfigError, lambda: self.model.compile(optimizer, LOSS))
        else:
            self.begin_again(optimizer=optimizer)
            self.model.compile(optimizer, LOSS)

    @rule(options=FITS, continues=st.booleans(), how=st.sampled_from(["fit", "fit", "validate", "interrupt", "fail"]), batch=st.integers(0, 3),
          keep_state=st.booleans())
    def fit(self, options, continues, how, batch, keep_state):
        self.prepare()
        last = self.account.since[-1] if self.account.since else None
        act = Fit(last.first + last.epochs if continues and isinstance(last, Fit) else 0, **options, how=how, batch=batch)
        history = act(self.model)
        if how in ("fit", "validate"):
            assert self.model.history is history and history.epoch == list(range(act.first, act.first + act.epochs))
        self.account.since = [*self.account.since, act]
        if keep_state:
            self.saved_and_loaded(True, True)
        self.look()

    def prepare(self):
        """Do everything that training requires."""
        if not self.account.layers:
            self.add(EMBEDDING)
        if self.account.layers[-1] not in (TOP, TIED):
            self.add(TOP)
        if self.account.optimizer is None:
            self.compile("adam")
        if not self.account.is_sized:
            self.build(3)

    @rule(options=FITS, epoch=st.integers(0, 2))
    def diverge(self, options, epoch):
        """The weights of the last complete epoch are restored, and the optimiser is reset."""
        self.prepare()
        act = Fit(0, **{**options, "epochs": epoch})
        self.account.since = [*self.account.since, act] if epoch else self.account.since
        expected = self.account.made()

        def explode(at, logs):
            if at == epoch:
                weights = [np.full_like(array, 3e38) for array in self.model.get_weights()]
                weights[-1][::2] *= -1  # the bias of the last layer: the loss is infinite whatever the other layers compute
                self.model.set_weights(weights)

        x, y = data(self.account.layers, self.account.features)
        with pytest.raises(DivergenceError, match=f"training diverged in epoch {epoch + 1}"):
            self.model.fit(x, y, options["batch_size"], epoch + 1, 0, LambdaCallback(on_epoch_begin=explode), shuffle=options["shuffle"])
        assert same(self.model, expected)
        self.begin_again()
        self.look()

    # Saving and copying

    @precondition(lambda self: self.account.is_sized)
    @rule(optimizer=st.booleans(), compiled=st.booleans())
    def saved_and_loaded(self, optimizer, compiled):
        if self.account.optimizer is not None and not self.account.can_learn:
            return  # it was compiled for another last layer
        one, other = self.folder / "one.npz", self.folder / "other.npz"
        self.model.save(one, include_optimizer=optimizer)
        self.model.save(other, include_optimizer=optimizer)
        assert one.read_bytes() == other.read_bytes()
        self.origins.append((self.model, [array.tobytes() for array in self.model.get_weights()]))
        if not optimizer or not compiled:
            self.begin_again()
        self.model = Sequential.load(one, threads=1, compile=compiled)
        if compiled:
            self.model.save(other, include_optimizer=optimizer)
            assert one.read_bytes() == other.read_bytes()
        else:
            self.account.optimizer = None
        self.look()

    @rule(how=st.sampled_from([copy.copy, copy.deepcopy, pickled]))
    def copied(self, how):
        if self.account.is_sized:
            self.origins.append((self.model, [array.tobytes() for array in self.model.get_weights()]))
        self.model = how(self.model)

    # Errors

    @rule(number=st.integers(0, 11))
    def invalid(self, number):
        model, missing = self.model, self.folder / "missing.npz"
        x, y = data(self.account.layers or [EMBEDDING], self.account.features or 2)
        calls = [
            lambda: model.add(TOP.units), lambda: model.add(Dense), lambda: model.compile("sgd", "mse"), lambda: model.compile("elman", LOSS),
            lambda: model.fit(x, y[:2], verbose=0), lambda: model.fit(x, y + V, verbose=0), lambda: model.fit(x, y, batch_size=0),
            lambda: model.fit(x, y, verbose=0, validation_data=(x, y[1:])), lambda: model.fit(x, y, verbose=0, validation_split=0.99),
            lambda: model.set_weights([np.zeros(3)]), lambda: model.save(self.folder), lambda: Sequential.load(missing),
        ]  # fmt: skip
        self.unchanged((ConfigError, ShapeError, VocabularyError, NotFittedError, ModelFileError), calls[number])


def test_models(tmp_path):
    class Here(Stacks):
        folder = tmp_path

    explore(Here, operations=20)
