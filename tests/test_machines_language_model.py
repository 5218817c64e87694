"""LanguageModel: any operations in any order, on several models.

Beside each model stands its recipe: how it was made, without anything that must not matter. Whatever else has happened, on this model or on
others, a model of the same recipe has the same bits.
"""

import copy
import json
import pickle
import signal
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule
from machines import Stopped, before_update, explore, stop

from numba_rnnlm import LanguageModel
from numba_rnnlm.errors import ConfigError, CorpusError, DivergenceError, GenerationError, LanguageModelError, ModelFileError, NotFittedError, ShapeError

TEXTS = ["to be or not to be\n" * 3, "so be it\nbe so\n" * 3]
VALID = "be or not\nto be so\n"
QUESTIONS = ["to be", "not\nso", "be to be or not to be"]
IDS = 9  # of a model without a tokenizer

SETTINGS = {
    "cell": st.sampled_from(["lstm", "gru"]), "tied": st.booleans(), "dropout": st.sampled_from([0.0, 0.4]),
    "seed": st.integers(0, 1),
}
MACHINES = {"threads": st.sampled_from([1, 2])}
TOKENIZERS = st.sampled_from(["char", "word", None])
TRAININGS = st.fixed_dictionaries({
    "epochs": st.integers(1, 2), "valid": st.booleans(), "optimizer": st.sampled_from(["adam", "sgd"]),
    "validate_every": st.sampled_from([None, 2]), "extend_vocabulary": st.booleans(),
})  # fmt: skip
UPDATES = st.integers(0, 8)

Recipe = tuple[Any, ...]


@dataclass
class Known:
    """A model, and what is known of it.

    Attributes
    ----------
    recipe
        Its constructor's arguments, and the steps that have changed what it has learned.
    content
        What it must be.
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
    def is_of_text(self):
        return self.model.get_params()["tokenizer"] is not None


@dataclass
class Reading:
    """A stream that somebody has begun to read.

    Attributes
    ----------
    expected
        The whole text, generated when the stream was begun.
    """

    known: Known
    recipe: Recipe
    pieces: Any
    expected: list[Any]
    done: list[Any] = field(default_factory=list)


def made(params):
    return LanguageModel(hidden=3, layers=1, embedding=3, vocabulary_size=None if params["tokenizer"] else IDS, **params)


def corpus(model, text):
    """A text as the model reads texts."""
    return text if model.get_params()["tokenizer"] else [ord(symbol) % IDS for symbol in text]


def content(model, is_new):
    """All that would be saved, in bits; of a new model what it was made of."""
    params = {name: value for name, value in model.get_params().items() if name not in ("threads", "backend", "precision")}
    if is_new:
        return params, model.tokenizer_, json.dumps(model.history_)
    weights = {name: array.tobytes() for name, array in model.network_.weights().items()}
    return params, json.dumps(model._about(), sort_keys=True), weights


def train(model, text, options, **others):
    """→ the error that this training ends in, or None."""
    valid = corpus(model, VALID) if options["valid"] else None
    options = {name: value for name, value in options.items() if name != "valid"}
    try:
        model.fit(corpus(model, TEXTS[text]), valid, streams=2, steps=5, verbose=0, **options, **others)
    except (LanguageModelError, Stopped) as error:
        return error
    return None


def interrupted(model, text, options, update, then="return"):
    with before_update(update, lambda: signal.raise_signal(signal.SIGINT)):
        return train(model, text, options, on_interrupt=then)


def thrown_out(model, text, options, update, **others):
    with before_update(update, stop):
        return train(model, text, options, **others)


def diverging(model, text, options):
    return train(model, text, {**options, "optimizer": "sgd"}, learning_rate=1e30, clip_norm=0)


def set_weights(model, seed):
    random = np.random.default_rng(seed)
    model.network_.set_weights({name: random.normal(size=array.shape) for name, array in model.network_.weights().items()})


OPERATIONS = {"fit": train, "interrupted": interrupted, "thrown out": thrown_out, "diverging": diverging, "weights": set_weights}


def follow(recipe):
    """A model made by this recipe, and by nothing else."""
    (_, params), *steps = recipe
    model = made(dict(params))
    for kind, *arguments in steps:
        OPERATIONS[kind](model, *(dict(one) if isinstance(one, tuple) else one for one in arguments))
    return model


def frozen(options):
    return tuple(options.items())


def pick(model, question):
    """What somebody asks of a model: an answer that can be compared."""
    kind, text = question
    text = corpus(model, text)
    answers = {
        "score": lambda: model.score(text, unknown="exclude" if isinstance(text, str) else "count"),
        "scores": lambda: list(model.score([text, text[:2], text[1:]])),
        "full_scores": lambda: model.full_scores(text),
        "evaluate": lambda: model.evaluate(text),
        "int8": lambda: model.evaluate(text, weights="int8"),
        "perplexity": lambda: model.perplexity(text),
        "generate": lambda: list(model.generate(text, 9, seed=3, unknown="unk")),
        "coldly": lambda: list(model.generate(text, 4, temperature=0.3, top_k=3, seed=1, unknown="unk", weights="int8")),
        "many": lambda: [list(one) for one in model.generate([text, text[:3]], 6, seed=3, unknown="unk")],
        "count": lambda: model.parameter_count,
        "repr": lambda: [repr(model)[:0], model.get_params()["cell"]],
    }
    return answers[kind]()


KINDS = ["score", "scores", "full_scores", "evaluate", "int8", "perplexity", "generate", "coldly", "many", "count", "repr"]


class LanguageModels(RuleBasedStateMachine):
    """Several models, none of which may notice what happens to another."""

    folder: Any = None

    models = Bundle("models")
    readings = Bundle("readings")

    def __init__(self):
        super().__init__()
        self.known: list[Known] = []
        self.contents: dict[Recipe, Any] = {}
        self.answers: dict[Any, Any] = {}

    def noted(self, known):
        """A model that has just changed: another one of this recipe was the same."""
        found = content(known.model, known.is_new)
        known.content = self.contents.setdefault(known.recipe, found)
        assert found == known.content
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

    # making

    @rule(target=models, params=st.fixed_dictionaries({**SETTINGS, **MACHINES, "tokenizer": TOKENIZERS}))
    def new(self, params):
        model = made(params)
        del params["threads"]
        return self.add(model, (("new", frozen(params)),))

    @rule(target=models, known=models, how=st.sampled_from([copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))]))
    def copied(self, known, how):
        return self.add(how(known.model), known.recipe, known.measured)

    @rule(target=models, known=models)
    def cloned(self, known):
        """As scikit-learn does it."""
        return self.add(type(known.model)(**known.model.get_params()), known.recipe[:1])

    @rule(target=models, known=models, threads=MACHINES["threads"])
    def saved_and_loaded(self, known, threads):
        one, other = self.folder / "one.npz", self.folder / "other.npz"
        if known.is_new and known.is_of_text:
            with pytest.raises(NotFittedError, match="the model has learned nothing yet"):
                known.model.save(one)
            return multiple()
        known.model.save(one)
        known.model.save(other)
        assert one.read_bytes() == other.read_bytes()
        loaded = LanguageModel.load(one, threads=threads)
        loaded.save(other)
        assert one.read_bytes() == other.read_bytes()
        exact = LanguageModel.load(one, backend="reference")
        exact.save(other)
        LanguageModel.load(other, threads=threads).save(other)
        assert one.read_bytes() == other.read_bytes()
        return self.add(loaded, known.recipe)

    @rule(known=models)
    def made_again(self, known):
        assert content(follow(known.recipe), known.is_new) == known.content

    # changing

    @rule(known=models, params=st.fixed_dictionaries({}, optional={**SETTINGS, **MACHINES}))
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
        before, history = known.model.history_, len(known.model.history_["epoch"])
        last = before["epoch"][-1] if history else 0
        error = train(known.model, text, options)
        if options["extend_vocabulary"] and not known.model.get_params()["tokenizer"]:
            with pytest.raises(ConfigError, match="extend_vocabulary=True takes new symbols from a text, but the corpus is ids"):
                raise error
            return
        assert error is None
        assert known.model.history_["epoch"][-1] == np.ceil(last) + options["epochs"]
        self.changed(known, "fit", text, frozen(options), measured=options["valid"])

    @rule(known=models, text=st.sampled_from([0, 1]), options=TRAININGS, update=UPDATES, other=st.booleans())
    def fit_in_two(self, known, text, options, update, other):
        """A copy is thrown out of the training, and the model itself continues from its checkpoint."""
        path = self.folder / "run.npz"
        path.unlink(missing_ok=True)
        begins = copy.deepcopy(known.model).set_params(threads=2 if other else 1)
        error = thrown_out(begins, text, options, update, checkpoint=path, checkpoint_every=1e-6)
        if isinstance(error, LanguageModelError):
            assert not path.exists()
            return
        run = path.read_bytes()
        LanguageModel.load(path).score(corpus(known.model, "to be"))
        assert train(known.model, text, options, resume=path) is None
        assert path.read_bytes() == run
        self.changed(known, "fit", text, frozen(options), measured=options["valid"])

    @rule(known=models, text=st.sampled_from([0, 1]), options=TRAININGS, update=UPDATES, then=st.sampled_from(["raise", "return"]))
    def interrupted(self, known, text, options, update, then):
        try:
            error = interrupted(known.model, text, options, update, then)
        except KeyboardInterrupt:
            assert then == "raise"
            error = None
        if error is None:
            self.changed(known, "interrupted", text, frozen(options), update, measured=options["valid"])

    @rule(known=models, text=st.sampled_from([0, 1]), options=TRAININGS, update=UPDATES)
    def thrown_out(self, known, text, options, update):
        reports = len(known.model.history_["epoch"])
        error = thrown_out(known.model, text, options, update)
        if isinstance(error, LanguageModelError) or (error and update == 0):  # nothing was trained
            return
        measured = options["valid"] and len(known.model.history_["epoch"]) > reports
        self.changed(known, "thrown out", text, frozen(options), update, measured=measured)

    @rule(known=models, text=st.sampled_from([0, 1]), options=TRAININGS)
    def diverging(self, known, text, options):
        reports = len(known.model.history_["epoch"])
        error = diverging(known.model, text, options)
        assert isinstance(error, DivergenceError | ConfigError)
        if len(known.model.history_["epoch"]) > reports:
            self.changed(known, "diverging", text, frozen(options), measured=options["valid"])

    @rule(known=models, seed=st.integers(0, 1))
    def set_weights(self, known, seed):
        if known.is_new and known.is_of_text:
            with pytest.raises(NotFittedError):
                set_weights(known.model, seed)
        else:
            set_weights(known.model, seed)
            known.model.validation_ = None  # of other weights
            self.changed(known, "weights", seed)

    # failing

    @rule(known=models, data=st.data())
    def refused(self, known, data):
        """What is wrong changes nothing, as the invariants see."""
        model, path = known.model, self.folder / "wrong.npz"
        path.unlink(missing_ok=True)
        text = corpus(model, TEXTS[0])
        fit = partial(model.fit, text, verbose=0)
        calls = [
            (ConfigError, lambda: fit(learning_rate=-1)),
            (ConfigError, lambda: fit(epochs=0)),
            (ConfigError, lambda: fit(text, validation_split=0.3)),
            (ConfigError, lambda: model.set_params(colour=3)),
            (ConfigError, lambda: model.set_params(threads=0)),
            (ConfigError, lambda: model.set_params(dropout=0.2, seed=-1)),
            (ConfigError, lambda: model.set_params(embedding=4, cell="elman")),
            (ConfigError, lambda: model.set_params(dropout=0.3, hidden=5, **(
                {"vocabulary_size": 3} if model.get_params()["tokenizer"] else {"vocabulary_size": None}))),
            (CorpusError, lambda: model.fit(corpus(model, "\n"), verbose=0)),
            (CorpusError, lambda: model.fit(str(path), verbose=0)),
            (CorpusError, lambda: fit(corpus(model, "\n"))),
            (LanguageModelError, lambda: model.fit([1.5, -3], verbose=0)),
            (CorpusError, lambda: model.evaluate(str(path))),
            (ModelFileError, lambda: fit(resume=path)),
            (ModelFileError, lambda: fit(checkpoint=self.folder)),
            (ModelFileError, lambda: fit(checkpoint=path / "run.npz")),
            ((ModelFileError, NotFittedError), lambda: model.save(self.folder)),
            ((ConfigError, NotFittedError), lambda: model.generate(text[:3], 5, temperature=-1)),
            ((ShapeError, NotFittedError), lambda: model.network_.set_weights({})),
            ((ShapeError, NotFittedError), lambda: model.network_.set_weights(spoiled(model, np.zeros((1, 1))))),
            ((ShapeError, NotFittedError), lambda: model.network_.set_weights(spoiled(model, None))),
        ]
        error, call = data.draw(st.sampled_from(calls), label="what")
        with pytest.raises(error):
            call()

    # asking

    @rule(known=models, question=st.tuples(st.sampled_from(KINDS), st.sampled_from(QUESTIONS)))
    def ask(self, known, question):
        """An answer depends on the model and the question, and on nothing that was asked before."""
        try:
            found = pick(known.model, question)
        except LanguageModelError as error:
            found = str(error)
        assert self.answers.setdefault((known.recipe, question), found) == found

    @rule(target=readings, known=models, temperature=st.sampled_from([0.5, 1.0]), seed=st.integers(0, 3))
    def begin_to_read(self, known, temperature, seed):
        if known.is_new and known.is_of_text:
            return multiple()
        options = {"length": 300, "temperature": temperature, "seed": seed}
        prompt = "be" if known.is_of_text else np.array([3, 4])
        return Reading(known, known.recipe, known.model.stream(prompt, **options), list(known.model.generate(prompt, **options)))

    @rule(reading=readings, count=st.integers(1, 20))
    def read_on(self, reading, count):
        """It continues as it would have, or raises because its model has changed."""
        try:
            for piece in islice(reading.pieces, count):
                reading.done += list(piece) if isinstance(piece, str) else [piece]
        except GenerationError as error:
            assert str(error).startswith("the weights of the model have changed since this text was begun; begin again")
            assert reading.known.recipe != reading.recipe
        assert reading.done == reading.expected[: len(reading.done)]


def spoiled(model, value):
    """The weights of a model, the last one of them spoiled."""
    weights = {name: array + 1 for name, array in model.network_.weights().items()}
    name = list(weights)[-1]
    weights[name] = np.full(weights[name].shape, "x") if value is None else value
    return weights


def test_models(tmp_path):
    class Here(LanguageModels):
        folder = tmp_path

    explore(Here)
