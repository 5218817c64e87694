"""Optimisers as objects that hold their hyperparameters.

The classes in this module follow Keras 3 in names, defaults and arithmetic; a name such as ``Sequential.compile("adam")`` refers to
them. The classes in :mod:`numba_rnnlm.optimizers.pytorch` follow PyTorch; ``LanguageModel.fit(optimizer="adam")`` refers to those.
Both methods accept objects of either kind.

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
    """Return the Keras optimiser of a given name with its defaults; an optimiser object is returned unchanged."""
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
    """Describe an optimiser by plain values for JSON: the name of its class, and its hyperparameters.

    Raises
    ------
    ConfigError
        The state of a custom optimiser cannot be described by such values.
    """
    expect_optimizer(optimizer)
    kind = type(optimizer)
    values = {field.name: getattr(optimizer, field.name) for field in fields(optimizer) if field.init and (field.repr or field.compare)}
    numbers = {name: plain_value(value) for name, value in values.items()}
    for name, value in numbers.items():
        if not isinstance(value, (bool, int, float, str, type(None))):
            raise ConfigError(f"{kind.__name__}.{name} is {shown(value)}, which cannot be saved; expected a number, a str or None.")
    names = [name for name, known in KNOWN.items() if known is kind]
    if names:
        return {"class": names[0], **numbers}
    described = {"class": kind.__name__, "own": True, "rule": optimizer.rule.name, **numbers}
    if vars(rebuild(described, {kind.__name__: kind}, "")) != vars(optimizer):
        raise ConfigError(f"{kind.__name__} has attributes besides its fields ({', '.join(numbers)}), so it cannot be rebuilt from them; make it "
                          "a frozen dataclass with a field for each attribute.")
    return described


def rebuild(described: Mapping[str, Any], own: Mapping[str, type[Optimizer]], instead: str) -> Optimizer:
    """Rebuild the optimiser that :func:`describe` described. ``own`` maps names to custom classes: loading a file never imports anything.

    Raises
    ------
    ConfigError
        There is no such optimiser, or it has no such hyperparameters.
    ModelFileError
        A custom class is missing in ``own`` (the message says what to do ``instead``) or has another rule now.
    """
    numbers = {name: value for name, value in described.items() if name not in ("class", "own", "rule")}
    name = described.get("class")
    if described.get("own"):
        return _rebuild_own(name, numbers, described.get("rule"), own, instead)
    if name in pytorch.OPTIMIZERS and "clipnorm" in numbers and "global_clipnorm" not in numbers:  # a file older than the Keras optimisers
        numbers |= {"clip_norm": numbers.pop("clipnorm"), "clip_value": numbers.pop("clipvalue", None)}
        name = f"pytorch.{name}"
    expect_one_of("the optimizer's class", name, KNOWN)
    return _made(KNOWN[str(name)], numbers)


def _rebuild_own(name: Any, numbers: dict[str, Any], rule: Any, own: Mapping[str, type[Optimizer]], instead: str) -> Optimizer:
    if name not in own:
        raise ModelFileError(f"the optimizer is {name!r}, a custom class, which the file names but does not contain; {instead}.")
    if not (isinstance(own[name], type) and issubclass(own[name], Optimizer)):
        raise ConfigError(f"{name!r} is {shown(own[name])}, expected a subclass of numba_rnnlm.optimizers.Optimizer.")
    made = _made(own[name], numbers)
    if made.rule.name != rule:
        raise ModelFileError(f"the optimizer {name!r} had the rule {rule!r}, but the given class has {made.rule.name!r}: it is a different "
                             "optimiser of the same name, which cannot use the saved moments.")
    return made


def _made(kind: type[Optimizer], numbers: Mapping[str, Any]) -> Optimizer:
    try:
        return kind(**numbers)
    except TypeError as error:  # the constructor has other arguments than the fields
        raise ConfigError(f"{kind.__name__} cannot be constructed from {', '.join(numbers)}: {error}.") from clean(error)
