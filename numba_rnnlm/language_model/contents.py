"""The contents of a language model, which its front end passes to the other modules of this package."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from .. import backends, cells
from ..backends.ops import Ops
from ..cells import Cell
from ..config import ModelConfig, TextConfig, expect_vocabulary, filled
from ..errors import ConfigError, NotFittedError, expect_items, expect_number, plain_value, shown
from ..layers import Layer
from ..layers.description import describe, expect_describable
from ..network import Graph, Network
from ..recognition import records
from ..scoring import Evaluation
from ..text import Tokenizer
from ..training.history import History, history_about, new_history
from .architecture import build, initial_weights


class BackendOptions(NamedTuple):
    """Where and how a model is computed, which is no part of the model: see :func:`numba_rnnlm.backends.get`."""

    backend: str
    threads: int | None
    precision: str

    def ops(self) -> Ops:
        """The backend. Raises :class:`BackendError` or :class:`ConfigError` if it is not available."""
        return backends.get(self.backend, threads=self.threads, precision=self.precision)


@dataclass
class Contents:
    """Everything a language model is.

    Attributes
    ----------
    config, text, cell, body, seed
        The constructor's arguments; ``cell`` is an object if it is a cell of the user.
    given_body
        ``body`` as it was given, if that is a list or a tuple.
    options, ops
        The backend as it was asked for, and the backend.
    tokenizer
        None before training, and for ids.
    built
        The network, None before it is needed; see :attr:`network`.
    history, validation
        Reports of all trainings; the last validation, of the present weights.
    about_training
        What a file says about the last training: "texts" and "training". Empty before the first.
    is_training
        Whether ``fit`` is running. Copies are not being trained.
    """

    config: ModelConfig
    text: TextConfig
    cell: str | Cell
    body: tuple[Layer, ...] | None
    seed: int
    options: BackendOptions
    ops: Ops
    tokenizer: Tokenizer | None = None
    built: Network | None = None
    history: History = field(default_factory=new_history)
    validation: Evaluation | None = None
    about_training: dict[str, Any] = field(default_factory=dict)
    is_training: bool = False
    given_body: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "is_training": False}

    def expect_not_training(self) -> None:
        """Raise :class:`ConfigError` if a callback, or another thread, asks for what would take the model away from a running ``fit``."""
        if self.is_training:
            raise ConfigError("the model is being trained: fit and set_params have to wait until fit has returned; a callback may train a copy, "
                              "copy.deepcopy(model).")

    @property
    def network(self) -> Network:
        """The layers with their weights. Raises :class:`NotFittedError` if the vocabulary is still unknown."""
        self.expect_vocabulary()
        if self.built is None:
            self.built = self.new_network(None)
        return self.built

    def expect_vocabulary(self) -> None:
        """Raise :class:`NotFittedError` unless the vocabulary is known."""
        if self.built is None and self.text.tokenizer is not None:
            raise NotFittedError("the model has learned nothing yet; call fit, or LanguageModel.load.")

    def sized(self, tokenizer: Tokenizer | None) -> ModelConfig:
        """The configuration with the size of this tokenizer's vocabulary."""
        return replace(self.config, vocabulary_size=tokenizer.size) if tokenizer else self.config

    def graph(self, tokenizer: Tokenizer | None) -> Graph:
        """The layers for this tokenizer's vocabulary."""
        symbols = None if tokenizer is None else [tokenizer.symbol(id) for id in range(tokenizer.size)]
        return build(self.sized(tokenizer), self.cell, self.body, symbols)

    def middle(self) -> tuple[Layer, ...]:
        """The layers between the embedding and the output layer, which do not depend on the vocabulary."""
        return build(replace(self.config, vocabulary_size=2), self.cell, self.body).layers[1:-1]

    def new_network(self, tokenizer: Tokenizer | None, weights: dict[str, np.ndarray] | None = None) -> Network:
        """A network with these weights, by default those that the seed gives."""
        graph = self.graph(tokenizer)
        return Network(graph, self.ops, initial_weights(graph, self.sized(tokenizer), self.seed) if weights is None else weights)

    def is_untrained(self) -> bool:
        """Whether the model still has the weights that the seed gives, or none."""
        if self.built is None or self.about_training:
            return self.built is None
        drawn = self.new_network(self.tokenizer).weights()
        return all(np.array_equal(array, drawn[name]) for name, array in self.built.weights().items())

    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**self.config.to_dict(), "cell": self.cell, **self.text.to_dict(), "body": self.body, **self.options._asdict(), "seed": self.seed}

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments that a file keeps, as plain values."""
        body = {} if self.body is None else {"body": [describe(layer) for layer in self.body]}
        return {**self.config.to_dict(), **self.text.to_dict(), "seed": self.seed, **body}

    def about(self, gradients: bool = False) -> dict[str, Any]:
        """The header of a file: everything but the weights, as plain values.

        A cell of the user is recorded by what it computes, with ``gradients`` also backward.
        """
        about = {
            "config": self.settings(),
            "tokenizer": None if self.tokenizer is None else self.tokenizer.to_dict(),
            "history": history_about(self.history),
            **self.about_training,
        }
        own = records(self.ops, self.network.graph.layers, gradients)
        return {**about, "cells": own} if own else about


def new_contents(given: Mapping[str, Any]) -> Contents:
    """The contents of an untrained model with these arguments of the constructor."""
    cell = given["cell"]
    if isinstance(cell, Cell):
        cells.register(cell)
    config = filled(ModelConfig, {**given, "cell": cell.name if isinstance(cell, Cell) else cell})
    cell, text = cells.held(cell), filled(TextConfig, given)
    body = None if given["body"] is None else _body(given["body"], config)
    if config.architecture == "char-cnn" and text.tokenizer != "word":
        raise ConfigError(f"architecture='char-cnn' spells words, so it needs tokenizer='word'; tokenizer is {text.tokenizer!r}.")
    if config.architecture != "rnn" and body is not None:
        raise ConfigError(f"architecture is {config.architecture!r}, but a body was given; leave one of the two out.")
    expect_vocabulary(given["tokenizer"], given["vocabulary_size"])
    seed = expect_number("seed", given["seed"], 0, 2**63 - 1, whole=True)
    options = BackendOptions(*(given[name] for name in BackendOptions._fields))
    return Contents(config, text, cell, body, int(seed), BackendOptions(*map(plain_value, options)), options.ops(), given_body=given["body"] if isinstance(given["body"], list | tuple) else body)


def _body(layers: Any, config: ModelConfig) -> tuple[Layer, ...]:
    """Check the layers of a body. Raises :class:`ConfigError` or :class:`ShapeError` if they do not fit between the embedding and the output."""
    body = tuple(expect_items("body", layers, "a list of layers"))
    for layer in body:
        if not isinstance(layer, Layer):
            raise ConfigError(f"body has {shown(layer)}, expected layers of numba_rnnlm.layers such as LSTM(64, return_sequences=True).")
    expect_describable(body)
    build(replace(config, vocabulary_size=2), None, body)
    return body
