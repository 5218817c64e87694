"""What every optimiser is: a rule, and the numbers that the rule gets at each update."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from math import inf
from numbers import Real
from typing import Any, NamedTuple

from ..errors import ConfigError, expect_flag, expect_number, shown, take_plain_values
from ..rules import Rule

MOST = 0.999999  # A momentum or a decay stays below 1, where no new gradient would count.

LARGE = 1e6  # A rate or an ε beyond it would leave the range of float32 somewhere.


class Limits(NamedTuple):
    """How a gradient is clipped before the rule sees it; None or 0 is off.

    Attributes
    ----------
    whole
        The whole gradient is scaled down to this norm.
    each
        The gradient of each variable is scaled down to this norm.
    element
        Each element is cut at this size.
    """

    whole: float | None = None
    each: float | None = None
    element: float | None = None


@dataclass(frozen=True)
class Optimizer(ABC):
    """An optimiser: a frozen dataclass of its numbers. Write your own by a ``rule`` and its ``hyper``.

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
        for field in ("momentum", "rho", "beta_1", "beta_2"):  # an optimiser has some of these
            expect_number(field, getattr(self, field, 0), 0, MOST)
        for field in ("nesterov", "centered", "amsgrad"):
            expect_flag(field, getattr(self, field, False))
        for field in ("epsilon", "initial_accumulator_value"):
            expect_number(field, getattr(self, field, 0), 0, LARGE)

    @property
    def name(self) -> str | None:
        """What reports call it."""
        return type(self).__name__

    @property
    @abstractmethod
    def rule(self) -> Rule:
        """The update of one element."""

    @abstractmethod
    def hyper(self, step: int, rate: float) -> tuple[float, ...]:
        """The rule's numbers at update ``step`` = 1, 2, … and this learning rate: a value for each of ``rule.hyper``."""

    @property
    def limits(self) -> Limits:
        """How the gradient is clipped."""
        return Limits()

    @property
    def start(self) -> float:
        """What the moments begin at."""
        return 0.0


def expect_optimizer(optimizer: Optimizer) -> None:
    """Raise :class:`~numba_rnnlm.errors.ConfigError` unless what a class of a user's gives can be used."""
    name = type(optimizer).__name__
    if not isinstance(optimizer.rule, Rule):
        raise ConfigError(f"{name}.rule is {shown(optimizer.rule)}, expected one of numba_rnnlm.rules such as rules.SGD.")
    if not isinstance(optimizer.limits, Limits):
        raise ConfigError(f"{name}.limits is {shown(optimizer.limits)}, expected numba_rnnlm.optimizers.Limits(...).")
    expect_not_negative(optimizer.limits, *Limits._fields)
    numbers_of(optimizer, 1, optimizer.learning_rate)


def numbers_of(optimizer: Optimizer, step: int, rate: float) -> tuple[float, ...]:
    """``hyper``, checked: a kernel would read behind the end of too few numbers."""
    numbers, wanted = optimizer.hyper(step, rate), optimizer.rule.hyper
    if not isinstance(numbers, (tuple, list)) or len(numbers) != len(wanted) or not all(isinstance(number, Real) for number in numbers):
        raise ConfigError(f"{type(optimizer).__name__}.hyper gave {shown(numbers)}, expected {len(wanted)} numbers: {', '.join(wanted)}.")
    return tuple(numbers)


def expect_not_negative(owner: Any, *names: str, high: float = inf) -> None:
    """Raise :class:`~numba_rnnlm.errors.ConfigError` unless each of these fields is None or a number of at least 0."""
    for name in names:
        if getattr(owner, name) is not None:
            expect_number(name, getattr(owner, name), 0, high)
