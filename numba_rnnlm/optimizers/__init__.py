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

from ..arguments import checked
from ..display import clean
from ..errors import ConfigError, ModelFileError, expect_one_of, plain_value, shown
from . import pytorch
from .keras import OPTIMIZERS, SGD, Adadelta, Adagrad, Adam, AdamW, Lion, Nadam, RMSprop
from .optimizer import Limits, Optimizer, expect_optimizer

__all__ = ["SGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Limits", "Lion", "Nadam", "Optimizer", "RMSprop", "describe",
           "get", "pytorch", "rebuild"]

KNOWN: dict[str, type[Optimizer]] = {**OPTIMIZERS, **{f"pytorch.{name}": kind for name, kind in pytorch.OPTIMIZERS.items()}}


@checked
def get(optimizer: str | Optimizer) -> Optimizer:
    """Keras's optimiser of a name, with its defaults; or the one given."""
    if isinstance(optimizer, Optimizer):
        expect_optimizer(optimizer)
        return optimizer
    if not isinstance(optimizer, str):
        raise ConfigError(f"optimizer is {shown(optimizer)}, expected a name such as 'adam', or for example "
                          "numba_rnnlm.optimizers.Adam(learning_rate=1e-3).")
    expect_one_of("optimizer", optimizer.lower(), OPTIMIZERS)
    return OPTIMIZERS[optimizer.lower()]()


@checked
def describe(optimizer: Optimizer) -> dict[str, Any]:
    """An optimiser as plain values, ready for JSON: its class by name, and its numbers.

    Raises
    ------
    ConfigError
        If an optimiser of your own is more than its class and such values.
    """
    expect_optimizer(optimizer)
    kind = type(optimizer)
    values = {field.name: getattr(optimizer, field.name) for field in fields(optimizer) if field.init and (field.repr or field.compare)}
    numbers = {name: plain_value(value) for name, value in values.items()}
    for name, value in numbers.items():
        if not isinstance(value, (bool, int, float, str, type(None))):
            raise ConfigError(f"{kind.__name__}.{name} is {shown(value)}, which cannot be saved; expected a number, a text or None.")
    names = [name for name, known in KNOWN.items() if known is kind]
    if names:
        return {"class": names[0], **numbers}
    told = {"class": kind.__name__, "own": True, "rule": optimizer.rule.name, **numbers}
    if vars(rebuild(told, {kind.__name__: kind}, "")) != vars(optimizer):
        raise ConfigError(f"{kind.__name__} holds more than its fields, {', '.join(numbers)}, by which it would be rebuilt; make it a frozen "
                          "dataclass with a field for all that it is.")
    return told


def rebuild(told: Mapping[str, Any], own: Mapping[str, type[Optimizer]], instead: str) -> Optimizer:
    """The optimiser that :func:`describe` told of; ``own`` are classes of yours by their names: a file never imports anything.

    Raises
    ------
    ConfigError
        If there is no such optimiser, or it has no such numbers.
    ModelFileError
        If its class is your own and not among them, with what to do ``instead``, or had another rule.
    """
    numbers = {name: value for name, value in told.items() if name not in ("class", "own", "rule")}
    name = told.get("class")
    if told.get("own"):
        return _rebuild_own(name, numbers, told.get("rule"), own, instead)
    if name in pytorch.OPTIMIZERS and "clipnorm" in numbers and "global_clipnorm" not in numbers:  # from a time with PyTorch's only
        numbers |= {"clip_norm": numbers.pop("clipnorm"), "clip_value": numbers.pop("clipvalue", None)}
        name = f"pytorch.{name}"
    expect_one_of("the optimizer's class", name, KNOWN)
    return _made(KNOWN[str(name)], numbers)


def _rebuild_own(name: Any, numbers: dict[str, Any], rule: Any, own: Mapping[str, type[Optimizer]], instead: str) -> Optimizer:
    if name not in own:
        raise ModelFileError(f"the optimizer is {name!r}, a class of your own, which a file names and does not hold; {instead}.")
    if not (isinstance(own[name], type) and issubclass(own[name], Optimizer)):
        raise ConfigError(f"{name!r} is {shown(own[name])}, expected a class of numba_rnnlm.optimizers.Optimizer.")
    made = _made(own[name], numbers)
    if made.rule.name != rule:
        raise ModelFileError(f"the optimizer {name!r} had the rule {rule!r}, the class given has {made.rule.name!r}: another optimiser of that "
                             "name, which cannot continue with its moments.")
    return made


def _made(kind: type[Optimizer], numbers: Mapping[str, Any]) -> Optimizer:
    try:
        return kind(**numbers)
    except TypeError as error:  # other arguments than the fields
        raise ConfigError(f"{kind.__name__} is not made by {', '.join(numbers)}: {error}.") from clean(error)
