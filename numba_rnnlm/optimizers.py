"""Optimisers: a rule, its numbers, and the update of all weights at once."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite, sqrt
from typing import Any, ClassVar

import numpy as np

from . import rules
from .arena import Arena
from .backends import Array
from .errors import ConfigError, DivergenceError, expect_number, expect_one_of
from .layers.options import Only, only_options
from .model import Network
from .rules import Rule

# What Keras's optimisers also take.
COMMON: dict[str, Only] = {
    "name": (None, "optimisers have no names of their own"),
    "global_clipnorm": (None, "clipnorm is that of the whole gradient here"),
    "use_ema": (False, "the weights are not averaged"),
}
AMSGRAD: Only = (False, "AMSGrad is not there")

# Rates at which each cell trains without tuning, for the mean loss per token and clip_norm=1.
# A plain tanh or ReLU network explodes where an LSTM is still comfortable.
DEFAULT_RATES = {
    "sgd": {"lstm": 6.0, "gru": 4.0, "tanh": 1.0, "relu": 0.3, "sigmoid": 8.0},
    "rmsprop": {"lstm": 3e-3, "gru": 2e-3, "tanh": 1e-3, "relu": 5e-4, "sigmoid": 2e-3},
    "adagrad": {"lstm": 8e-2, "gru": 5e-2, "tanh": 1.5e-2, "relu": 1e-2, "sigmoid": 4e-2},
    "adam": {"lstm": 4e-3, "gru": 3e-3, "tanh": 2e-3, "relu": 1e-3, "sigmoid": 4e-3},
}
DEFAULT_RATES["adamw"] = DEFAULT_RATES["adam"]


def default_rate(optimizer: str, cell: str) -> float:
    """The learning rate used when none is given; a cell of your own gets the most careful one."""
    rates = DEFAULT_RATES[optimizer]
    return rates.get(cell, min(rates.values()))


@dataclass(frozen=True)
class Optimizer(ABC):
    """What all optimisers share.

    Parameters
    ----------
    learning_rate
        Step size.
    weight_decay
        L2 penalty, added to the gradient (:class:`AdamW`: decoupled from it).
    clipnorm
        Scale the whole gradient down to this norm; None or 0 is off.
    clipvalue
        Cut each element of the gradient at this size; None or 0 is off.
    """

    learning_rate: float = 0.01
    weight_decay: float = 0.0
    clipnorm: float | None = None
    clipvalue: float | None = None
    name: ClassVar[str]

    def __post_init__(self) -> None:
        expect_number("learning_rate", self.learning_rate, 0)
        expect_number("weight_decay", self.weight_decay, 0)
        for field in ("clipnorm", "clipvalue"):
            if getattr(self, field) is not None:
                expect_number(field, getattr(self, field), 0)
        for field in ("momentum", "rho", "beta_1", "beta_2"):  # of those that have one; at 1 nothing new would count
            expect_number(field, getattr(self, field, 0), 0, 0.999999)
        expect_number("epsilon", getattr(self, "epsilon", 0), 0)

    @property
    @abstractmethod
    def rule(self) -> Rule:
        """The update of one element."""

    @abstractmethod
    def hyper(self, step: int, rate: float) -> tuple[float, ...]:
        """The rule's numbers at update ``step`` = 1, 2, … and this learning rate."""


@only_options(**COMMON, nesterov=(False, "momentum is the plain one"))
@dataclass(frozen=True)
class SGD(Optimizer):
    """p ← p - rate · v,  v ← momentum · v + g.

    Examples
    --------
    >>> SGD(learning_rate=0.1, momentum=0.9).rule.moments
    1
    """

    momentum: float = 0.0
    name: ClassVar[str] = "sgd"

    @property
    def rule(self) -> Rule:
        return rules.MOMENTUM if self.momentum else rules.SGD

    def hyper(self, step: int, rate: float) -> tuple[float, ...]:
        return (rate, self.weight_decay, self.momentum) if self.momentum else (rate, self.weight_decay)


@only_options(
    **COMMON, momentum=(0.0, "SGD has momentum"), centered=(False, "the gradient's mean is not taken off")
)
@dataclass(frozen=True)
class RMSprop(Optimizer):
    """p ← p - rate · g / (√v + ε),  v ← ρ v + (1 - ρ) g² (Tieleman and Hinton 2012)."""

    learning_rate: float = 1e-3
    rho: float = 0.9
    epsilon: float = 1e-7
    name: ClassVar[str] = "rmsprop"

    @property
    def rule(self) -> Rule:
        return rules.RMSPROP

    def hyper(self, step: int, rate: float) -> tuple[float, ...]:
        return (rate, self.weight_decay, self.rho, self.epsilon)


@only_options(**COMMON)
@dataclass(frozen=True)
class Adagrad(Optimizer):
    """p ← p - rate · g / (√v + ε),  v ← v + g² (Duchi, Hazan, Singer 2011)."""

    epsilon: float = 1e-7
    name: ClassVar[str] = "adagrad"

    @property
    def rule(self) -> Rule:
        return rules.ADAGRAD

    def hyper(self, step: int, rate: float) -> tuple[float, ...]:
        return (rate, self.weight_decay, self.epsilon)


@only_options(**COMMON, amsgrad=AMSGRAD)
@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam (Kingma and Ba 2015), bias-corrected, ε outside the root as in PyTorch.

    Examples
    --------
    >>> Adam(learning_rate=1e-3, clipnorm=1.0).rule.name
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
        corrected = rate / (1 - self.beta_1**step)
        root = 1 / sqrt(1 - self.beta_2**step)
        shrink, decay = (1 - rate * self.weight_decay, 0.0) if self.decoupled else (1.0, self.weight_decay)
        return (corrected, shrink, decay, self.beta_1, self.beta_2, root, self.epsilon)


@only_options(**COMMON, amsgrad=AMSGRAD)
@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    weight_decay: float = 0.01
    name: ClassVar[str] = "adamw"
    decoupled: ClassVar[bool] = True


OPTIMIZERS: dict[str, type[Optimizer]] = {kind.name: kind for kind in (SGD, RMSprop, Adagrad, Adam, AdamW)}


def get(optimizer: str | Optimizer) -> Optimizer:
    """An optimiser by its name, with its defaults; or the one given."""
    if isinstance(optimizer, Optimizer):
        return optimizer
    if not isinstance(optimizer, str):
        raise ConfigError(f"optimizer is {optimizer!r}, expected a name such as 'adam', or for example "
                          "numba_rnnlm.optimizers.Adam(learning_rate=1e-3).")
    expect_one_of("optimizer", optimizer.lower(), OPTIMIZERS)
    return OPTIMIZERS[optimizer.lower()]()


class Updater:
    """Moves all weights of a network by an optimiser: clip, then one pass over the flat buffers.

    Parameters
    ----------
    network
        Its ``gradients`` are read, its ``parameters`` are changed.
    optimizer
        The rule and its numbers.
    """

    def __init__(self, network: Network, optimizer: Optimizer) -> None:
        self.network, self.optimizer, self.steps = network, optimizer, 0
        self.rounding: str | None = network.ops.rounding()  # of the updates so far; None: not known
        self.moments = network.ops.empty((optimizer.rule.moments, network.parameters.flat.shape[0]))
        if optimizer.rule.moments:
            network.ops.fill(self.moments, 0)

    def resume(self, steps: int, rounding: Any) -> None:
        """Count on from so many updates; ``rounding`` is what :meth:`~numba_rnnlm.backends.Ops.rounding` said where they were
        made, or None if nothing is known of that.

        Raises
        ------
        ValueError
            If it is no text.
        """
        if rounding is not None and not isinstance(rounding, str):
            raise ValueError(f"the rounding is {rounding!r}")
        self.steps, self.rounding = steps, rounding

    def begin(self) -> None:
        """From here on updates are made on this backend; warn if others were made on one that rounds differently."""
        here = self.network.ops.rounding()
        if self.steps and self.rounding not in (None, here):
            warnings.warn(f"the training so far was computed on {self.rounding!r} and continues on {here!r}: the result is as valid, but "
                          "its last bits differ from those of a training that stayed on one of them.", stacklevel=5)
        self.rounding = here

    def arenas(self) -> dict[str, Arena]:
        """The moments by the names of the weights: moments/0, moments/1, …"""
        layout = self.network.model.layout
        return {f"moments/{index}": Arena(layout, self.moments[index]) for index in range(self.moments.shape[0])}

    def update(self, rate: float | None = None) -> float:
        """Change the weights by their gradients; → the norm of the gradient before clipping.

        Raises
        ------
        DivergenceError
            If the gradient holds NaN or infinity; the weights are then unchanged.
        """
        ops, optimizer = self.network.ops, self.optimizer
        gradients = self.network.gradients.flat
        norm = _finite_norm(ops.norm(gradients))
        self.steps += 1
        scale = min(1.0, optimizer.clipnorm / norm) if optimizer.clipnorm and norm > 0 else 1.0
        numbers = optimizer.hyper(self.steps, optimizer.learning_rate if rate is None else rate)
        h = np.array([scale, optimizer.clipvalue or inf, *numbers])
        ops.update(optimizer.rule, self.network.parameters.flat, gradients, self.moments, h)
        self.network.version += 1
        return norm

    @property
    def behind(self) -> int:
        """How many updates a training may start before it asks what the first of them came to."""
        return 0  # one where there is a queue, once updates that are lost now and then on the simulator are understood

    @property
    def _queue(self) -> Any:
        return getattr(self.network.ops, "update_if_finite", None)

    def start(self, losses: Array, rate: float | None = None) -> Callable[[], tuple[float, float]]:
        """:meth:`update`, if the ``losses`` are finite, too. → what does it, and returns their sum and the norm.

        On a device the update is on its way at once, and the function waits for it. One that is not finite changes nothing,
        nor does any that was started after it, until its function has raised.

        Raises
        ------
        DivergenceError
            By the function: if the losses or the gradient hold NaN or infinity; the weights are then unchanged.
        """
        ops, optimizer = self.network.ops, self.optimizer
        if self._queue is None:
            return lambda: (_finite_sum(ops.download(losses)), self.update(rate))
        self.steps += 1
        numbers = optimizer.hyper(self.steps, optimizer.learning_rate if rate is None else rate)
        h = np.array([1.0, optimizer.clipvalue or inf, *numbers])
        outcome = self._queue(optimizer.rule, self.network.parameters.flat, self.network.gradients.flat, self.moments, h,
                              optimizer.clipnorm or inf, losses)
        self.network.version += 1

        def result() -> tuple[float, float]:
            each, norm = outcome()
            return _finite_sum(each), _finite_norm(norm)

        return result


def _finite_norm(norm: float) -> float:
    if not isfinite(norm):
        raise DivergenceError("the gradient is not finite")
    return norm


def _finite_sum(losses: np.ndarray) -> float:
    total = float(losses.sum(dtype=np.float64))
    if not isfinite(total):
        raise DivergenceError("the loss is not finite")
    return total


