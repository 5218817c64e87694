"""Stateful test of LanguageModel: any operations in any order on several models.

Each model has a recipe: the operations that made it, without anything that must not matter. Whatever else has happened, to this model or to
others, models with the same recipe have the same bits.
"""

import copy
import json
import pickle
import signal
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, precondition, rule
from machines import Stopped, before_update, explore, stop

from numba_rnnlm import LanguageModel
from numba_rnnlm.errors import (
    ConfigError,
    CorpusError,
    GenerationError,
    LanguageModelError,
    ModelFileError,
    NotFittedError,
    ShapeError,
)

TEXTS = ["to be or not to be\n" * 3, "so be it\nbe so\n" * 3]
VALID = "be or not\nto be so\n"
SENTENCES = ["to be", "not\nso", "be to be or not to be"]
MODELS = 4  # maximum number at a time
IDS = 9  # vocabulary size of models without a tokenizer

SETTINGS = {
    "cell": st.sampled_from(["lstm", "gru"]), "tied": st.booleans(), "dropout": st.sampled_from([0.0, 0.4]),
    "seed": st.integers(0, 1),
}
THREADS = st.sampled_from([1, 2])
PARAMS = st.fixed_dictionaries({**SETTINGS, "threads": THREADS, "tokenizer": st.sampled_from(["char", "word", None])})
TRAININGS = st.fixed_dictionaries({
    "epochs": st.integers(1, 2), "valid": st.booleans(), "optimizer": st.sampled_from(["adam", "sgd"]),
    "validate_every": st.sampled_from([None, 2]), "extend_vocabulary": st.booleans(),
})  # fmt: skip
UPDATES = st.integers(0, 8)

Recipe = tuple[Any, ...]


@dataclass
class Known:
    """A model, and what is known about it.

    Attributes
    ----------
    recipe
        The constructor's arguments, and the steps that changed what the model has learned.
    content
        The expected content.
    measured
        Whether the weights are those that the last training has validated.
    """

    model: LanguageModel
    recipe: Recipe
    content: Any = None
    measured: bool = False

    @property
    def is_new(self):
        return len(self.recipe) == 1

    @property
    def is_empty(self):
        """Whether the model has no weights yet."""
        return self.is_new and self.is_of_text

    @property
    def is_of_text(self):
        return self.model.get_params()["tokenizer"] is not None


@dataclass
class Reading:
    """A partially read stream.

    Attributes
    ----------
    expected
        The whole text, generated when the stream was started.
    """

    known: Known
    recipe: Recipe
    pieces: Any
    expected: list[Any]
    done: list[Any] = field(default_factory=list)


def made(params):
    return LanguageModel(hidden=3, layers=1, embedding=3, vocabulary_size=None if params["tokenizer"] else IDS, **params)


def corpus(model, text):
    """A text in the form that the model reads."""
    return text if model.get_params()["tokenizer"] else [ord(symbol) % IDS for symbol in text]


def content(model, is_new):
    """Everything that would be saved, as bits; for a new model, its constructor's arguments."""
    params = {name: value for name, value in model.get_params().items() if name not in ("threads", "backend", "precision")}
    if is_new:
        return params, model.tokenizer_, json.dumps(model.history_)
    weights = {name: array.tobytes() for name, array in model.network_.weights().items()}
    generated = list(model.generate("be" if model.tokenizer_ else [1, 2], 6, seed=0))
    return params, json.dumps(model._contents.about(), sort_keys=True), weights, generated


def train(model, text, options, **others):
    """Train, and return the error that ends the training, or None."""
    valid = corpus(model, VALID) if options["valid"] else None
    options = {name: value for name, value in options.items() if name != "valid"}
    try:
        model.fit(corpus(model, TEXTS[text]), valid, streams=2, steps=5, verbose=0, **options, **others)
    except (LanguageModelError, Stopped) as error:
        return error
    return None


def interrupted(model, text, options, update, then="return"):
    with before_update(update, lambda trainer: signal.raise_signal(signal.SIGINT)):
        return train(model, text, options, on_interrupt=then)


def failing(model, text, options, update, **others):
    with before_update(update, stop):
        return train(model, text, options, **others)


def diverging(model, text, options, update):
    def explode(trainer):
        trainer.network.set_weights({name: np.full(array.shape, 3e38) for name, array in trainer.network.weights().items()})

    with before_update(update, explode):
        return train(model, text, options)


def pickled(model):
    return pickle.loads(pickle.dumps(model))


def cloned(model):
    """Copy like scikit-learn."""
    return type(model)(**model.get_params())


def set_weights(model, seed):
    random = np.random.default_rng(seed)
    model.network_.set_weights({name: random.normal(size=array.shape) for name, array in model.network_.weights().items()})


OPERATIONS = {"fit": train, "interrupted": interrupted, "failing": failing, "diverging": diverging, "weights": set_weights}


def follow(recipe):
    """Make a model by following this recipe only."""
    (_, params), *steps = recipe
    model = made(dict(params))
    for kind, *arguments in steps:
        OPERATIONS[kind](model, *(dict(one) if isinstance(one, tuple) else one for one in arguments))
    return model


def frozen(options):
    return tuple(options.items())


QUESTIONS = {
    "score": lambda model, text: model.score(text),
    "scores": lambda model, text: list(model.score([text, text[:2], text[1:]])),
    "full_scores": lambda model, text: model.full_scores(text),
    "evaluate": lambda model, text: model.evaluate(text),
    "int8": lambda model, text: model.evaluate(text, weights="int8"),
    "generate": lambda model, text: list(model.generate(text, 9, seed=3, unknown="unk")),
    "coldly": lambda model, text: list(model.generate(text, 4, temperature=0.3, top_k=3, seed=1, unknown="unk", weights="int8")),
    "many": lambda model, text: [list(one) for one in model.generate([text, text[:3]], 6, seed=3, unknown="unk")],
    "what it is": lambda model, text: (model.parameter_count, model.history_["epoch"], model.get_params()["cell"]),
}


def answer(model, question):
    """An answer that can be compared, or the error."""
    ask, sentence = question
    try:
        return QUESTIONS[ask](model, corpus(model, sentence))
    except LanguageModelError as error:
        return str(error)


def fit_of(model, **options):
    return model.fit(corpus(model, TEXTS[0]), verbose=0, **options)


def half_possible(model):
    """Some valid settings and an invalid one."""
    return {"dropout": 0.3, "hidden": 5, "vocabulary_size": 3 if model.get_params()["tokenizer"] else None}


def spoiled(model, value):
    """The weights of a model, with the last one damaged."""
    weights = {name: array + 1 for name, array in model.network_.weights().items()}
    name = list(weights)[-1]
    weights[name] = np.full(weights[name].shape, value)
    return weights


WRONG = [
    (ConfigError, lambda model, path: fit_of(model, learning_rate=-1)),
    (ConfigError, lambda model, path: fit_of(model, epochs=0)),
    (ConfigError, lambda model, path: fit_of(model, valid=corpus(model, VALID), validation_split=0.3)),
    (ConfigError, lambda model, path: fit_of(model, max_seconds=1e-9, valid=corpus(model, VALID))),
    (ConfigError, lambda model, path: model.set_params(colour=3)),
    (ConfigError, lambda model, path: model.set_params(threads=0)),
    (ConfigError, lambda model, path: model.set_params(dropout=0.2, seed=-1)),
    (ConfigError, lambda model, path: model.set_params(embedding=4, cell="elman")),
    (ConfigError, lambda model, path: model.set_params(**half_possible(model))),
    (CorpusError, lambda model, path: model.fit(corpus(model, "\n"), verbose=0)),
    (CorpusError, lambda model, path: model.fit(str(path), verbose=0)),
    (CorpusError, lambda model, path: fit_of(model, valid=corpus(model, "\n"))),
    (LanguageModelError, lambda model, path: model.fit([1.5, -3], verbose=0)),
    (CorpusError, lambda model, path: model.evaluate(str(path))),
    (ModelFileError, lambda model, path: fit_of(model, resume=path)),
    (ModelFileError, lambda model, path: fit_of(model, checkpoint=path.parent)),
    (ModelFileError, lambda model, path: fit_of(model, checkpoint=path / "run.npz")),
    (ModelFileError, lambda model, path: model.save(path.parent)),
    (ConfigError, lambda model, path: model.generate(corpus(model, "be"), 5, temperature=-1)),
    (ShapeError, lambda model, path: model.network_.set_weights({})),
    (ShapeError, lambda model, path: model.network_.set_weights(spoiled(model, "x"))),
    (ShapeError, lambda model, path: model.network_.set_weights({**spoiled(model, 1), "embedding/W": np.zeros((1, 1))})),
]


class LanguageModels(RuleBasedStateMachine):
    """Several models, none of which may be affected by operations on another."""

    folder: Any = None

    models = Bundle("models")
    readings = Bundle("readings")

    def __init__(self):
        super().__init__()
        self.known: list[Known] = []
        self.begun: list[Reading] = []
        self.contents: dict[Recipe, Any] = {}
        self.answers: dict[Any, Any] = {}

    def noted(self, known):
        """Check that a new or changed model equals what its recipe makes."""
        if known.recipe not in self.contents:
            self.contents[known.recipe] = content(follow(known.recipe), known.is_new)
        known.content = self.contents[known.recipe]
        assert content(known.model, known.is_new) == known.content
        for reading in self.begun:
            if reading.known is known:
                self.read_on(reading, 5)
        return known

    def add(self, model, recipe, measured=False):
        self.known.append(self.noted(Known(model, recipe, measured=measured)))
        return self.known[-1]

    def changed(self, known, *step, measured=False):
        known.recipe, known.measured = (*known.recipe, step), measured
        self.noted(known)

    @invariant()
    def no_other_model_has_changed(self):
        for known in self.known:
            assert content(known.model, known.is_new) == known.content

    @invariant()
    def what_was_validated_is_what_is_measured(self):
        for known in self.known:
            found = known.model.validation_
            assert (found is not None) == known.measured
            if found is not None:
                assert known.model.evaluate(corpus(known.model, VALID)).nats_per_token == found.nats_per_token

    def has_space(self):
        return len(self.known) < MODELS

    # Making models

    @initialize(target=models, params=PARAMS)
    def first(self, params):
        return self.new_one(params)

    @precondition(has_space)
    @rule(target=models, params=PARAMS)
    def new(self, params):
        return self.new_one(params)

    def new_one(self, params):
        return self.add(made(params), (("new", frozen({name: value for name, value in params.items() if name != "threads"})),))

    @precondition(has_space)
    @rule(target=models, known=models, how=st.sampled_from([copy.copy, copy.deepcopy, pickled, cloned]))
    def copied(self, known, how):
        if how is cloned:
            return self.add(cloned(known.model), known.recipe[:1])
        return self.add(how(known.model), known.recipe, known.measured)

    @precondition(has_space)
    @rule(target=models, known=models, threads=THREADS)
    def saved_and_loaded(self, known, threads):
        one, other = self.folder / "one.npz", self.folder / "other.npz"
        if known.is_empty:
            with pytest.raises(NotFittedError, match="the model has learned nothing yet"):
                known.model.save(one)
            return multiple()
        known.model.save(one)
        known.model.save(other)
        assert one.read_bytes() == other.read_bytes()
        loaded = LanguageModel.load(one, threads=threads)
        loaded.save(other)
        assert one.read_bytes() == other.read_bytes()
        LanguageModel.load(one, backend="reference").save(other)
        LanguageModel.load(other, threads=threads).save(other)
        assert one.read_bytes() == other.read_bytes()
        return self.add(loaded, known.recipe)

    # Changing models

    @rule(known=models, params=st.fixed_dictionaries({}, optional={**SETTINGS, "threads": THREADS}))
    def set_params(self, known, params):
        was = known.model.get_params()
        others = {name: value for name, value in params.items() if name != "threads" and value != was[name]}
        if others and not known.is_new:
            with pytest.raises(ConfigError, match=f"{next(name for name in was if name in others)} of a trained model cannot change"):
                known.model.set_params(**params)
        else:
            assert known.model.set_params(**params) is known.model
            (_, settings), *steps = known.recipe
            known.recipe = (("new", frozen({**dict(settings), **others})), *steps)
            self.noted(known)

    @rule(known=models, text=st.sampled_from([0, 1]), options=TRAININGS)
    def fit(self, known, text, options):
        history = known.model.history_["epoch"]
        epochs = np.ceil(history[-1] if history else 0) + options["epochs"]
        error = train(known.model, text, options)
        if options["extend_vocabulary"] and not known.is_of_text:
            assert str(error) == "extend_vocabulary=True takes new symbols from a text, but the corpus is ids; leave it out."
        else:
            assert error is None and known.model.history_["epoch"][-1] == epochs
            self.changed(known, "fit", text, frozen(options), measured=options["valid"])

    @rule(known=models, text=st.sampled_from([0, 1]), options=TRAININGS, update=UPDATES, threads=THREADS)
    def fit_in_two(self, known, text, options, update, threads):
        """A copy fails during training, and the model itself resumes from its checkpoint."""
        path = self.folder / "run.npz"
        path.unlink(missing_ok=True)
        begins = copy.deepcopy(known.model).set_params(threads=threads)
        error = failing(begins, text, options, update, checkpoint=path, checkpoint_every=1e-6)
        if isinstance(error, LanguageModelError):
            assert not path.exists()
            return
        run = path.read_bytes()
        assert train(known.model, text, options, resume=path) is None
        assert path.read_bytes() == run
        self.changed(known, "fit", text, frozen(options), measured=options["valid"])

    @rule(known=models, text=st.sampled_from([0, 1]), options=TRAININGS, update=UPDATES,
          how=st.sampled_from(["interrupted", "interrupted", "failing", "diverging"]), then=st.sampled_from(["raise", "return"]))
    def end_early(self, known, text, options, update, how, then):
        reports = len(known.model.history_["epoch"])
        try:
            if how == "interrupted":
                error = interrupted(known.model, text, options, update, then)
            else:
                error = OPERATIONS[how](known.model, text, options, update)
        except KeyboardInterrupt:
            assert then == "raise"
            error = None
        reported = len(known.model.history_["epoch"]) > reports
        if error is None or reported or (isinstance(error, Stopped) and update > 0):
            self.changed(known, how, text, frozen(options), update, measured=reported and options["valid"])

    @rule(known=models, seed=st.integers(0, 1))
    def set_weights(self, known, seed):
        if known.is_empty:
            with pytest.raises(NotFittedError):
                set_weights(known.model, seed)
        else:
            set_weights(known.model, seed)
            known.model._contents.validation = None  # belongs to other weights
            self.changed(known, "weights", seed)

    # Errors

    @rule(known=models, number=st.integers(0, len(WRONG) - 1))
    def invalid(self, known, number):
        """Invalid operations change nothing, which the invariants check."""
        kind, call = WRONG[number]
        path = self.folder / "missing.npz"
        path.unlink(missing_ok=True)
        with pytest.raises((kind, NotFittedError) if known.is_empty else kind) as caught:
            call(known.model, path)
        assert str(caught.value)

    # Using models

    @rule(known=models, question=st.tuples(st.sampled_from(list(QUESTIONS)), st.sampled_from(SENTENCES)))
    def ask(self, known, question):
        """An answer depends on the model and the question only, not on earlier operations."""
        if (known.recipe, question) not in self.answers:
            self.answers[known.recipe, question] = answer(follow(known.recipe), question)
        assert answer(known.model, question) == self.answers[known.recipe, question]

    @rule(target=readings, known=models, temperature=st.sampled_from([0.5, 1.0]), seed=st.integers(0, 3), count=st.sampled_from([0, 0, 2]))
    def begin_to_read(self, known, temperature, seed, count):
        if known.is_empty:
            return multiple()
        options = {"length": 300, "temperature": temperature, "seed": seed}
        prompt = "be" if known.is_of_text else np.array([3, 4])
        pieces = known.model.stream(prompt, **options)
        self.begun.append(Reading(known, known.recipe, pieces, list(known.model.generate(prompt, **options))))
        self.read_on(self.begun[-1], count)
        return self.begun[-1]

    @rule(reading=readings, count=st.integers(1, 200))
    def read(self, reading, count):
        self.read_on(reading, count)

    def read_on(self, reading, count):
        """The stream continues unaffected, or raises because its model has changed."""
        try:
            for piece in islice(reading.pieces, count):
                reading.done += list(piece) if isinstance(piece, str) else [piece]
        except GenerationError as error:
            assert str(error).startswith("the weights of the model have changed since this text was begun; begin again")
            assert reading.known.recipe != reading.recipe
        assert reading.done == reading.expected[: len(reading.done)]


def test_models(tmp_path):
    class Here(LanguageModels):
        folder = tmp_path

    explore(Here)
