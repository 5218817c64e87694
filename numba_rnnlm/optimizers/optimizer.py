"""The base class of optimisers: an update rule, and the numbers that it gets at each update."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from math import inf
from numbers import Real
from typing import Any, NamedTuple

from ..errors import ConfigError, expect_flag, expect_number, shown, take_plain_values
from ..rules import Rule

MOST = 0.999999  # largest momentum or decay; at 1, new gradients would have no effect
LARGE = 1e6  # largest rate or ε; with larger ones some intermediate result would leave the range of float32


class Limits(NamedTuple):
    """How to clip a gradient before the rule is applied; None or 0 disables a limit.

    Attributes
    ----------
    whole
        Scale the whole gradient down to this norm.
    each
        Scale the gradient of each variable down to this norm.
    element
        Clip each element to this magnitude.
    """

    whole: float | None = None
    each: float | None = None
    element: float | None = None


@dataclass(frozen=True)
class Optimizer(ABC):
    """An optimiser: a frozen dataclass of hyperparameters. A custom optimiser defines ``rule`` and ``hyper``.

    Parameters
    ----------
    learning_rate
        Step size.

    Examples
    --------
    >>> from numba_rnnlm import rules
    >>> @dataclass(frozen=True)
    ... class Halved(Optimizer):
    ...     learning_rate: float = 0.1
    ...     @property
    ...     def rule(self):
    ...         return rules.SGD
    ...     def hyper(self, step, rate):
    ...         return (1.0, 0.0, rate / 2)
    >>> Halved().hyper(1, 0.1)
    (1.0, 0.0, 0.05)
    """

    learning_rate: float = 0.01

    def __post_init__(self) -> None:
        take_plain_values(self, (item.name for item in fields(self)))
        expect_number("learning_rate", self.learning_rate, 0, LARGE)
        for field in ("momentum", "rho", "beta_1", "beta_2"):  # each optimiser has some of these
            expect_number(field, getattr(self, field, 0), 0, MOST)
        for field in ("nesterov", "centered", "amsgrad"):
            expect_flag(field, getattr(self, field, False))
        for field in ("epsilon", "initial_accumulator_value"):
            expect_number(field, getattr(self, field, 0), 0, LARGE)

    @property
    def name(self) -> str | None:
        """The name used in reports."""
        return type(self).__name__

    @property
    @abstractmethod
    def rule(self) -> Rule:
        """The update rule."""

    @abstractmethod
    def hyper(self, step: int, rate: float) -> tuple[float, ...]:
        """The numbers for the rule at update ``step`` = 1, 2, … and this learning rate, one for each name in ``rule.hyper``."""

    @property
    def limits(self) -> Limits:
        """How the gradient is clipped."""
        return Limits()

    @property
    def start(self) -> float:
        """The initial value of the moments."""
        return 0.0


def expect_optimizer(optimizer: Optimizer) -> None:
    """Raise :class:`~numba_rnnlm.errors.ConfigError` unless the attributes of an optimiser, possibly of a custom class, are valid."""
    name = type(optimizer).__name__
    if not isinstance(optimizer.rule, Rule):
        raise ConfigError(f"{name}.rule is {shown(optimizer.rule)}, expected one of numba_rnnlm.rules such as rules.SGD.")
    if not isinstance(optimizer.limits, Limits):
        raise ConfigError(f"{name}.limits is {shown(optimizer.limits)}, expected numba_rnnlm.optimizers.Limits(...).")
    expect_not_negative(optimizer.limits, *Limits._fields)
    numbers_of(optimizer, 1, optimizer.learning_rate)


def numbers_of(optimizer: Optimizer, step: int, rate: float) -> tuple[float, ...]:
    """Call ``hyper`` and check its result: with too few numbers, a kernel would read past the end of the array."""
    numbers, wanted = optimizer.hyper(step, rate), optimizer.rule.hyper
    if not isinstance(numbers, (tuple, list)) or len(numbers) != len(wanted) or not all(isinstance(number, Real) for number in numbers):
        raise ConfigError(f"{type(optimizer).__name__}.hyper gave {shown(numbers)}, expected {len(wanted)} numbers: {', '.join(wanted)}.")
    return tuple(numbers)


def expect_not_negative(owner: Any, *names: str, high: float = inf) -> None:
    """Raise :class:`~numba_rnnlm.errors.ConfigError` unless each of these fields is None or a number of at least 0."""
    for name in names:
        if getattr(owner, name) is not None:
            expect_number(name, getattr(owner, name), 0, high)
