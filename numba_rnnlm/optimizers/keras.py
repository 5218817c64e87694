"""Optimisers with the names, defaults and arithmetic of Keras 3, used by :class:`~numba_rnnlm.Sequential`.

Weight decay is decoupled in all of them. ε is added under the root, except in Adam, where it is added to the root before bias correction.
``clipnorm`` clips the gradient of each variable separately, ``global_clipnorm`` the whole gradient.
"""

from dataclasses import KW_ONLY, dataclass, field, fields
from math import sqrt
from typing import Annotated, Literal

import numpy as np

from .. import rules
from ..arguments import Only, checked, expect_default, hidden, only
from ..errors import ConfigError, expect_number, take_infinity_as
from ..rules import Rule
from .optimizer import LARGE, MOST, Limits, Optimizer, expect_not_negative

NOT_AVERAGED = Only("the weights are not averaged")


@dataclass(frozen=True)
class KerasOptimizer(Optimizer):
    """The base class of these optimisers.

    Parameters
    ----------
    learning_rate
        Step size.
    weight_decay
        Each update also multiplies every weight by 1 - rate · weight_decay; None disables it.
    clipnorm
        Scale the gradient of each variable down to this norm; None, 0 or infinity disables it, as for the next two.
    clipvalue
        Clip each element of the gradient to this magnitude.
    global_clipnorm
        Scale the whole gradient down to this norm. At most one of the three may be given.
    """

    learning_rate: float = 0.001
    _: KW_ONLY
    weight_decay: float | None = None
    clipnorm: float | None = None
    clipvalue: float | None = None
    global_clipnorm: float | None = None
    name: str | None = hidden(None)
    use_ema: Annotated[Literal[False], NOT_AVERAGED] = hidden(False)
    ema_momentum: Annotated[float, NOT_AVERAGED] = hidden(0.99)
    ema_overwrite_frequency: Annotated[None, NOT_AVERAGED] = hidden(None)
    loss_scale_factor: Annotated[None, Only("weights and gradients are float32")] = hidden(None)
    gradient_accumulation_steps: Annotated[None, Only("every batch is one update")] = hidden(None)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "name", type(self).__name__.lower())  # ignores the argument
        for item in fields(self):  # a user's subclass has its own constructor, which @checked does not cover
            if mark := only(item.type):
                expect_default(type(self).__name__, item.name, getattr(self, item.name), item.default, mark)
        limits = ("clipnorm", "clipvalue", "global_clipnorm")
        take_infinity_as(None, self, limits)
        expect_not_negative(self, *limits)
        expect_not_negative(self, "weight_decay", high=LARGE)
        given = [f"{name}={getattr(self, name)}" for name in limits if getattr(self, name)]
        if len(given) > 1:
            raise ConfigError(f"{type(self).__name__} got {' and '.join(given)}, expected at most one of them.")

    @property
    def limits(self) -> Limits:
        return Limits(self.global_clipnorm, self.clipnorm, self.clipvalue)

    def shrink(self, rate: float) -> tuple[float, float]:
        """The rule's ``shrink`` for decoupled decay at this rate, and its ``decay`` for an L2 penalty, which is 0."""
        return 1 - rate * (self.weight_decay or 0.0), 0.0


@checked
@dataclass(frozen=True)
class SGD(KerasOptimizer):
    """p ← p + v,  v ← momentum · v - rate · g; with ``nesterov`` p ← p + momentum · v - rate · g.

    Examples
    --------
    >>> SGD(0.1, momentum=0.9, nesterov=True).rule.moments
    1
    """

    learning_rate: float = 0.01
    momentum: float = 0.0
    nesterov: bool = False

    @property
    def rule(self) -> Rule:
        return rules.MOMENTUM if self.momentum else rules.SGD

    def hyper(self, step: int, rate: float) -> tuple[float, ...]:
        if not self.momentum:
            return (*self.shrink(rate), rate)
        along, ahead = (self.momentum, rate) if self.nesterov else (1.0, 0.0)
        return (*self.shrink(rate), self.momentum, rate, along, ahead)


@checked
@dataclass(frozen=True)
class RMSprop(KerasOptimizer):
    """p ← p - rate · g / √(v + ε),  v ← ρ v + (1 - ρ) g² (Tieleman and Hinton 2012).

    ``momentum`` accumulates the steps in a velocity; ``centered`` subtracts the squared mean of the gradient from v.
    """

    rho: float = 0.9
    momentum: float = 0.0
    epsilon: float = 1e-7
    centered: bool = False

    @property
    def rule(self) -> Rule:
        return rules.RMSPROP_CENTRED if self.momentum or self.centered else rules.RMSPROP

    def hyper(self, step: int, rate: float) -> tuple[float, ...]:
        numbers = (*self.shrink(rate), rate, self.rho, 1 - self.rho, self.epsilon)
        if self.momentum or self.centered:
            return (*numbers, self.momentum, float(self.centered))
        return (*numbers, 0.0)


@checked
@dataclass(frozen=True)
class Adagrad(KerasOptimizer):
    """p ← p - rate · g / √(v + ε),  v ← v + g² (Duchi, Hazan, Singer 2011); v starts at ``initial_accumulator_value``."""

    initial_accumulator_value: float = 0.1
    epsilon: float = 1e-7

    @property
    def rule(self) -> Rule:
        return rules.ADAGRAD

    @property
    def start(self) -> float:
        return self.initial_accumulator_value

    def hyper(self, step: int, rate: float) -> tuple[float, ...]:
        return (*self.shrink(rate), rate, self.epsilon, 0.0)


@checked
@dataclass(frozen=True)
class Adadelta(KerasOptimizer):
    """p ← p - rate · d,  d = g √(w + ε) / √(v + ε) with running means v of g² and w of d² (Zeiler 2012)."""

    rho: float = 0.95
    epsilon: float = 1e-7

    @property
    def rule(self) -> Rule:
        return rules.ADADELTA

    def hyper(self, step: int, rate: float) -> tuple[float, ...]:
        return (*self.shrink(rate), rate, self.rho, 1 - self.rho, self.epsilon)


@dataclass(frozen=True)
class _Moments(KerasOptimizer):
    """Base class of optimisers with running means of the gradient and of its square."""

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7

    @property
    def rule(self) -> Rule:
        return rules.ADAM

    @property
    def betas(self) -> tuple[float, ...]:
        """The betas and their complements, as the rule expects them."""
        return (self.beta_1, 1 - self.beta_1, self.beta_2, 1 - self.beta_2)


@checked
@dataclass(frozen=True)
class Adam(_Moments):
    """Adam (Kingma and Ba 2015) in the efficient form at the end of its section 2: ε is added to the root before bias correction.

    Examples
    --------
    >>> Adam(learning_rate=1e-3, clipnorm=1.0).rule.name
    'adam'
    """

    amsgrad: bool = False

    @property
    def rule(self) -> Rule:
        return rules.AMSGRAD if self.amsgrad else rules.ADAM

    def hyper(self, step: int, rate: float) -> tuple[float, ...]:
        along = rate * sqrt(1 - self.beta_2**step) / (1 - self.beta_1**step)
        return (*self.shrink(rate), *self.betas, along, 0.0, 1.0, self.epsilon)


@checked
@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with weight decay (Loshchilov and Hutter 2019)."""

    weight_decay: float | None = field(default=0.004, kw_only=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_number("weight_decay", self.weight_decay, 0, LARGE)


@checked
@dataclass(frozen=True)
class Nadam(_Moments):
    """Adam with Nesterov's momentum (Dozat 2016)."""

    def hyper(self, step: int, rate: float) -> tuple[float, ...]:
        now, then = (self.beta_1 * (1 - 0.5 * 0.96**index) for index in (step, step + 1))
        along = rate * then / (1 - self._product(step + 1))
        ahead = rate * (1 - now) / (1 - self._product(step))
        return (*self.shrink(rate), *self.betas, along, ahead, 1 / sqrt(1 - self.beta_2**step), self.epsilon)

    def _product(self, step: int) -> float:
        """The product of the momenta of the first ``step`` updates."""
        return float(self.beta_1**step * SCHEDULE[min(step, len(SCHEDULE)) - 1])


SCHEDULE = np.cumprod(1 - 0.5 * 0.96 ** np.arange(1, 1000))  # all further factors are 1


@checked
@dataclass(frozen=True)
class Lion(KerasOptimizer):
    """p ← p - rate · sign(β₁ v + (1 - β₁) g),  v ← β₂ v + (1 - β₂) g (Chen et al. 2023)."""

    beta_1: float = 0.9
    beta_2: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_number("beta_1", self.beta_1, 0, MOST, open_low=True)

    @property
    def rule(self) -> Rule:
        return rules.LION

    def hyper(self, step: int, rate: float) -> tuple[float, ...]:
        return (*self.shrink(rate), rate, self.beta_1, 1 - self.beta_1, self.beta_2, 1 - self.beta_2)


OPTIMIZERS: dict[str, type[KerasOptimizer]] = {
    kind.__name__.lower(): kind for kind in (SGD, RMSprop, Adagrad, Adam, AdamW, Adadelta, Nadam, Lion)
}
