"""Optimisers, as objects with their numbers.

Those of this module are Keras 3's, by its names, its defaults and its arithmetic; ``Sequential.compile("adam")`` means them.
Those of :mod:`numba_rnnlm.optimizers.pytorch` are PyTorch's; ``LanguageModel.fit(optimizer="adam")`` means them. An object
is what it is in both.

Examples
--------
>>> Adam().epsilon, pytorch.Adam().epsilon
(1e-07, 1e-08)
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from ..errors import ConfigError, ModelFileError, expect_one_of
from . import pytorch
from .keras import OPTIMIZERS, SGD, Adadelta, Adagrad, Adam, AdamW, Lion, Nadam, RMSprop
from .optimizer import Limits, Optimizer
from .updater import Updater

__all__ = ["SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Limits", "Lion", "Nadam", "Optimizer", "RMSprop", "Updater", "describe",
           "get", "pytorch", "rebuild"]

KNOWN: dict[str, type[Optimizer]] = {**OPTIMIZERS, **{f"pytorch.{name}": kind for name, kind in pytorch.OPTIMIZERS.items()}}


def get(optimizer: str | Optimizer) -> Optimizer:
    """Keras's optimiser of a name, with its defaults; or the one given."""
    if isinstance(optimizer, Optimizer):
        return optimizer
    if not isinstance(optimizer, str):
        raise ConfigError(f"optimizer is {optimizer!r}, expected a name such as 'adam', or for example "
                          "numba_rnnlm.optimizers.Adam(learning_rate=1e-3).")
    expect_one_of("optimizer", optimizer.lower(), OPTIMIZERS)
    return OPTIMIZERS[optimizer.lower()]()


def describe(optimizer: Optimizer) -> dict[str, Any]:
    """An optimiser as plain values, ready for JSON: its class by name, and its numbers.

    Raises
    ------
    ConfigError
        If a number of an optimiser of your own is none that JSON has.
    """
    names = [name for name, kind in KNOWN.items() if kind is type(optimizer)]
    told: dict[str, Any] = {"class": names[0]} if names else {"class": type(optimizer).__name__, "own": True}
    for field in fields(optimizer):
        if field.init:
            value = getattr(optimizer, field.name)
            told[field.name] = value.item() if isinstance(value, np.generic) else value
            if not isinstance(told[field.name], (bool, int, float, str, type(None))):
                raise ConfigError(f"{told['class']}.{field.name} is {value!r}, which cannot be saved; expected a number, a text or None.")
    return told


def rebuild(told: Mapping[str, Any], own: Mapping[str, type[Optimizer]], instead: str) -> Optimizer:
    """The optimiser that :func:`describe` told of; ``own`` are classes of yours by their names: a file never imports anything.

    Raises
    ------
    ModelFileError
        If its class is your own and not among them, with what to do ``instead``.
    """
    numbers = {name: value for name, value in told.items() if name not in ("class", "own")}
    name = told["class"]
    if name in pytorch.OPTIMIZERS and "clipnorm" in numbers and "global_clipnorm" not in numbers:  # from a time with PyTorch's only
        numbers |= {"clip_norm": numbers.pop("clipnorm"), "clip_value": numbers.pop("clipvalue")}
        return pytorch.OPTIMIZERS[name](**numbers)
    if not told.get("own"):
        return KNOWN[name](**numbers)
    if name not in own:
        raise ModelFileError(f"the optimizer is {name!r}, a class of your own, which a file names and does not hold; {instead}.")
    if not (isinstance(own[name], type) and issubclass(own[name], Optimizer)):
        raise ConfigError(f"{name!r} is {own[name]!r}, expected a class of numba_rnnlm.optimizers.Optimizer.")
    return own[name](**numbers)
