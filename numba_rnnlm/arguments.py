"""Calls that are wrong become sentences: arguments that are missing, unknown, or that other libraries have and that leave no choice here."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from .errors import ConfigError, shown
from .suggestions import argument_meant

P = ParamSpec("P")
R = TypeVar("R")
Kind = TypeVar("Kind")
Only = tuple[object, str]  # the value that is taken, ... for any, and what to do instead of giving another


def only(options: dict[str, Only], name: str | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function take each of these keywords with one value only.

    Every other keyword that it does not know is a :class:`ConfigError` too, with what it takes; and so is an argument that is missing.

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
    >>> layer()
    Traceback (most recent call last):
    numba_rnnlm.errors.ConfigError: layer: missing a required argument: 'units'.
    """

    def extend(function: Callable[P, R]) -> Callable[P, R]:
        owner, signature = name or function.__name__, inspect.signature(function)
        taken = [parameter for parameter in signature.parameters if parameter not in ("self", "cls")]
        anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())

        @wraps(function)
        def checked(*args: P.args, **keywords: P.kwargs) -> R:
            for key in [] if anything else [key for key in keywords if key not in taken]:
                value = keywords.pop(key)
                if key not in options:
                    meant = argument_meant(key, taken)
                    raise ConfigError(f"{owner} has no argument {key!r}" + (
                        f"; did you mean {meant!r}?" if meant else f", expected some of {', '.join(taken)}."))
                expected, instead = options[key]
                plain = isinstance(value, (str, int, float))  # an array would answer == with an array
                if expected is not ... and value is not expected and not (plain and value == expected):
                    raise ConfigError(f"{owner}: {key} is {shown(value)}, expected {expected!r}; {instead}.")
            try:
                signature.bind(*args, **keywords)
            except TypeError as error:
                raise ConfigError(f"{owner}: {error}.") from None
            return function(*args, **keywords)

        return checked

    return extend


def only_options(**options: Only) -> Callable[[type[Kind]], type[Kind]]:
    """:func:`only`, for the arguments of a class."""

    def extend(kind: type[Kind]) -> type[Kind]:
        kind.__init__ = only(options, kind.__name__)(kind.__init__)  # type: ignore[method-assign]
        return kind

    return extend


def checked_calls(kind: type[Kind]) -> type[Kind]:
    """Let every public method of a class, and its constructor, check its arguments as :func:`only` does."""
    for name, method in list(vars(kind).items()):
        owner = kind.__name__ if name == "__init__" else f"{kind.__name__}.{name}"
        if name.startswith("_") and name != "__init__":
            continue
        checked: Any = None
        if inspect.isfunction(method):
            checked = only({}, owner)(method)
        elif isinstance(method, classmethod):
            checked = classmethod(only({}, owner)(method.__func__))
        if checked is not None:
            setattr(kind, name, checked)
    return kind
