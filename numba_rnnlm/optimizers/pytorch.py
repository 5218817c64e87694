"""Optimisers with the arithmetic of PyTorch; :class:`~numba_rnnlm.LanguageModel` uses them by name, as published recipes do.

Weight decay is an L2 penalty, except in AdamW. ε is added to the root, not under it. Norm clipping applies to the whole gradient.
"""

from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

from .. import rules
from ..arguments import checked
from ..errors import expect_number, take_infinity_as
from ..rules import Rule
from .optimizer import LARGE, Limits, Optimizer, expect_not_negative

# Learning rates at which each cell trains without tuning, for the mean loss per token and clip_norm=1.
# Plain tanh and ReLU networks diverge at rates that are fine for an LSTM.
DEFAULT_RATES = {
    "sgd": {"lstm": 6.0, "gru": 4.0, "tanh": 1.0, "relu": 0.3, "sigmoid": 8.0, "mingru": 3.0, "minlstm": 3.0, "sru": 4.0, "qrnn": 8.0, "indrnn": 2.0},
    "rmsprop": {"lstm": 3e-3, "gru": 2e-3, "tanh": 1e-3, "relu": 5e-4, "sigmoid": 2e-3, "mingru": 3e-3, "minlstm": 3e-3, "sru": 3e-3, "qrnn": 3e-3, "indrnn": 1e-3},
    "adagrad": {"lstm": 8e-2, "gru": 5e-2, "tanh": 1.5e-2, "relu": 1e-2, "sigmoid": 4e-2, "mingru": 8e-2, "minlstm": 8e-2, "sru": 8e-2, "qrnn": 8e-2, "indrnn": 4e-2},
    "adam": {"lstm": 4e-3, "gru": 3e-3, "tanh": 2e-3, "relu": 1e-3, "sigmoid": 4e-3, "mingru": 4e-3, "minlstm": 4e-3, "sru": 4e-3, "qrnn": 4e-3, "indrnn": 2e-3},
}
DEFAULT_RATES["adamw"] = DEFAULT_RATES["adam"]


def default_rate(optimizer: str, cell: str) -> float:
    """The default learning rate; a custom cell gets the lowest one."""
    rates = DEFAULT_RATES[optimizer]
    return rates.get(cell, min(rates.values()))


@dataclass(frozen=True)
class TorchOptimizer(Optimizer):
    """The base class of these optimisers.

    Parameters
    ----------
    learning_rate
        Step size.
    weight_decay
        L2 penalty, added to the gradient (in :class:`AdamW`: decoupled from it).
    clip_norm
        Scale the whole gradient down to this norm, like ``clip_grad_norm_``; None, 0 or infinity disables it.
    clip_value
        Clip each element of the gradient to this magnitude; None, 0 or infinity disables it.
    """

    weight_decay: float = 0.0
    clip_norm: float | None = None
    clip_value: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        take_infinity_as(None, self, ("clip_norm", "clip_value"))
        expect_not_negative(self, "clip_norm", "clip_value")
        expect_number("weight_decay", self.weight_decay, 0, LARGE)

    @property
    def limits(self) -> Limits:
        return Limits(whole=self.clip_norm, element=self.clip_value)


@checked
@dataclass(frozen=True)
class SGD(TorchOptimizer):
    """p ← p - rate · v,  v ← momentum · v + g; with ``nesterov`` p ← p - rate · (g + momentum · v).

    Examples
    --------
    >>> SGD(learning_rate=0.1, momentum=0.9).rule.moments
    1
    """

    momentum: float = 0.0
    nesterov: bool = False
    name: ClassVar[str] = "sgd"

    @property
    def rule(self) -> Rule:
        return rules.MOMENTUM if self.momentum else rules.SGD

    def hyper(self, step: int, rate: float) -> tuple[float, ...]:
        if not self.momentum:
            return (1.0, self.weight_decay, rate)
        along, ahead = (rate * self.momentum, rate) if self.nesterov else (rate, 0.0)
        return (1.0, self.weight_decay, self.momentum, 1.0, along, ahead)


@checked
@dataclass(frozen=True)
class RMSprop(TorchOptimizer):
    """p ← p - rate · g / (√v + ε),  v ← ρ v + (1 - ρ) g² (Tieleman and Hinton 2012)."""

    learning_rate: float = 1e-3
    rho: float = 0.9
    epsilon: float = 1e-7
    name: ClassVar[str] = "rmsprop"

    @property
    def rule(self) -> Rule:
        return rules.RMSPROP

    def hyper(self, step: int, rate: float) -> tuple[float, ...]:
        return (1.0, self.weight_decay, rate, self.rho, 1 - self.rho, 0.0, self.epsilon)


@checked
@dataclass(frozen=True)
class Adagrad(TorchOptimizer):
    """p ← p - rate · g / (√v + ε),  v ← v + g² (Duchi, Hazan, Singer 2011)."""

    epsilon: float = 1e-7
    name: ClassVar[str] = "adagrad"

    @property
    def rule(self) -> Rule:
        return rules.ADAGRAD

    def hyper(self, step: int, rate: float) -> tuple[float, ...]:
        return (1.0, self.weight_decay, rate, 0.0, self.epsilon)


@checked
@dataclass(frozen=True)
class Adam(TorchOptimizer):
    """Adam (Kingma and Ba 2015); ε is added to the root after bias correction.

    Examples
    --------
    >>> Adam(learning_rate=1e-3, clip_norm=1.0).rule.name
    'adam'
    """

    learning_rate: float = 1e-3
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    name: ClassVar[str] = "adam"
    decoupled: ClassVar[bool] = False

    @property
    def rule(self) -> Rule:
        return rules.ADAM

    def hyper(self, step: int, rate: float) -> tuple[float, ...]:
        shrink, decay = (1 - rate * self.weight_decay, 0.0) if self.decoupled else (1.0, self.weight_decay)
        along, root = rate / (1 - self.beta_1**step), 1 / sqrt(1 - self.beta_2**step)
        return (shrink, decay, self.beta_1, 1 - self.beta_1, self.beta_2, 1 - self.beta_2, along, 0.0, root, self.epsilon)


@checked
@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    weight_decay: float = 0.01
    name: ClassVar[str] = "adamw"
    decoupled: ClassVar[bool] = True


OPTIMIZERS: dict[str, type[TorchOptimizer]] = {kind.name: kind for kind in (SGD, RMSprop, Adagrad, Adam, AdamW)}
