"""Arguments that Keras has and that leave no choice here."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from reprlib import repr as shorten
from typing import ParamSpec, TypeVar

from ..errors import ConfigError, expect_number

P = ParamSpec("P")
R = TypeVar("R")
Kind = TypeVar("Kind")
Only = tuple[object, str]  # the value that is taken, ... for any, and what to do instead of giving another


def only(options: dict[str, Only], name: str | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function take each of these keywords with one value only.

    Every other keyword that it does not know is a :class:`ConfigError` too, with what it takes.

    Examples
    --------
    >>> @only({"dropout": (0.0, "use a Dropout layer")})
    ... def layer(units):
    ...     return units
    >>> layer(5, dropout=0.0)
    5
    >>> layer(5, dropout=0.5)
    Traceback (most recent call last):
    numba_rnnlm.errors.ConfigError: layer: dropout is 0.5, expected 0.0; use a Dropout layer.
    """

    def extend(function: Callable[P, R]) -> Callable[P, R]:
        owner = name or function.__name__
        taken = [parameter for parameter in inspect.signature(function).parameters if parameter != "self"]

        @wraps(function)
        def checked(*args: P.args, **keywords: P.kwargs) -> R:
            for key in [key for key in keywords if key not in taken]:
                value = keywords.pop(key)
                if key not in options:
                    raise ConfigError(f"{owner} has no argument {key!r}, expected some of {', '.join(taken)}.")
                expected, instead = options[key]
                plain = isinstance(value, (str, int, float))  # an array would answer == with an array
                if expected is not ... and value is not expected and not (plain and value == expected):
                    raise ConfigError(f"{owner}: {key} is {shorten(value)}, expected {expected!r}; {instead}.")
            return function(*args, **keywords)

        return checked

    return extend


def only_options(**options: Only) -> Callable[[type[Kind]], type[Kind]]:
    """:func:`only`, for the arguments of a dataclass."""

    def extend(kind: type[Kind]) -> type[Kind]:
        kind.__init__ = only(options, kind.__name__)(kind.__init__)  # type: ignore[method-assign]
        return kind

    return extend


@dataclass(frozen=True)
class TakesVectors:
    """A layer that may come first, without an Embedding in front of it.

    Parameters
    ----------
    input_shape
        (steps or None, features) of the vectors that go into the first layer; the features are then known before
        any data is. The steps are not checked.
    input_dim
        The features alone.
    """

    # No part of what the layer is: elsewhere than in front they say nothing.
    input_shape: tuple[int | None, ...] | None = field(default=None, kw_only=True, repr=False, compare=False)
    input_dim: int | None = field(default=None, kw_only=True, repr=False, compare=False)

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.input_shape is not None:
            if not isinstance(self.input_shape, (tuple, list)) or len(self.input_shape) != 2:
                raise ConfigError(f"{name}: input_shape is {self.input_shape!r}, expected (steps or None, features).")
            if self.input_dim not in (None, self.input_shape[1]):
                raise ConfigError(f"{name}: input_dim is {self.input_dim!r}, expected the features of input_shape, "
                                  f"{self.input_shape[1]!r}; give one of the two.")
            if self.input_shape[0] is not None:
                expect_number(f"{name}: steps of input_shape", self.input_shape[0], 1, whole=True)
            expect_number(f"{name}: features of input_shape", self.input_shape[1], 1, whole=True)
        if self.input_dim is not None:
            expect_number(f"{name}: input_dim", self.input_dim, 1, whole=True)

    @property
    def input_features(self) -> int | None:
        """Size of the input vectors, if it was said."""
        return self.input_dim if self.input_shape is None else self.input_shape[1]


NAME: Only = (None, "layers are named after their kind, as summary() shows")
TRAINABLE: Only = (True, "all layers learn")
GLOROT: Only = ("glorot_uniform", "set_weights() takes other starting weights")
ZEROS: Only = ("zeros", "set_weights() takes other starting weights")
