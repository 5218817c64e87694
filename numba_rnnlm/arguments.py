"""Raises readable errors for wrong calls: missing or unknown arguments, arguments of other libraries that have only one allowed value here,
and calls that run out of memory.

An argument with one allowed value is an ordinary parameter, so that type checkers, editors and ``help`` know it. Its default is the allowed
value, and :class:`Only` in its annotation says what to do instead of passing another.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, TypeVar

from .errors import ConfigError, shown
from .memory import enough_memory
from .suggestions import argument_meant

SAVED = "saved"  # in the metadata of a field: whether a model file holds it

Called = TypeVar("Called", bound=Callable[..., Any])
Kind = TypeVar("Kind")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Only:
    """Marks a parameter that accepts its default only, as in ``dropout: Annotated[float, Only("use a Dropout layer")] = 0.0``.

    Parameters
    ----------
    instead
        What to do instead of passing another value.
    """

    instead: str


def only(annotation: object) -> Only | None:
    """The :class:`Only` mark of an annotation, or None."""
    return next((mark for mark in getattr(annotation, "__metadata__", ()) if isinstance(mark, Only)), None)


def hidden(value: Value) -> Value:
    """The default of a dataclass field that is neither shown nor compared nor saved."""
    return field(default=value, repr=False, compare=False, metadata={SAVED: False})


def expect_default(owner: str, name: str, value: object, default: object, mark: Only) -> None:
    """Raise :class:`ConfigError` unless ``value`` is the default."""
    plain = isinstance(value, (str, int, float))  # comparing an array would give an array
    if value is not default and not (plain and value == default):
        raise ConfigError(f"{owner}: {name} is {shown(value)}, expected {default!r}; {mark.instead}.")


def checked(called: Called) -> Called:
    """Make a function, or the constructor of a class, raise :class:`ConfigError` for wrong arguments.

    Wrong arguments are missing ones, unknown ones, and any value but the default for a parameter marked with :class:`Only`.

    Examples
    --------
    >>> from typing import Annotated
    >>> @checked
    ... def layer(units: int, *, dropout: Annotated[float, Only("use a Dropout layer")] = 0.0):
    ...     return units
    >>> layer(5, dropout=0.0)
    5
    >>> layer(5, dropout=0.5)
    Traceback (most recent call last):
    numba_rnnlm.errors.ConfigError: layer: dropout is 0.5, expected 0.0; use a Dropout layer.
    >>> layer(5, unit=1)
    Traceback (most recent call last):
    numba_rnnlm.errors.ConfigError: layer has no argument 'unit'; did you mean 'units'?
    >>> layer()
    Traceback (most recent call last):
    numba_rnnlm.errors.ConfigError: layer: missing a required argument: 'units'.
    """
    if isinstance(called, type):
        called.__init__ = _checked(called.__init__, called.__name__)  # type: ignore[misc]
        return called
    return _checked(called, called.__name__)


def checked_calls(kind: type[Kind]) -> type[Kind]:
    """Apply :func:`checked` to the constructor and all public methods of a class."""
    for name, method in list(vars(kind).items()):
        owner = kind.__name__ if name == "__init__" else f"{kind.__name__}.{name}"
        if name.startswith("_") and name != "__init__":
            continue
        if inspect.isfunction(method):
            setattr(kind, name, _checked(method, owner))
        elif isinstance(method, classmethod | staticmethod):
            setattr(kind, name, type(method)(_checked(method.__func__, owner)))
    return kind


def _checked(function: Called, owner: str) -> Called:
    """Wrap a function so that it checks its arguments; messages call it ``owner``."""
    signature = inspect.signature(function)
    defaults = {name: (parameter.default, mark) for name, parameter in signature.parameters.items() if (mark := only(parameter.annotation))}
    accepted = [name for name in signature.parameters if name not in ("self", "cls", *defaults)]
    accepts_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())

    @wraps(function)
    def call(*args: Any, **keywords: Any) -> Any:
        for name in list(keywords):
            if name in defaults:
                expect_default(owner, name, keywords.pop(name), *defaults[name])
            elif name not in accepted and not accepts_any:
                meant = argument_meant(name, accepted)
                raise ConfigError(f"{owner} has no argument {name!r}" + (
                    f"; did you mean {meant!r}?" if meant else f", expected {'some of ' * bool(accepted)}{', '.join(accepted) or 'none'}."))
        try:
            signature.bind(*args, **keywords)
        except TypeError as error:
            raise ConfigError(f"{owner}: {error}.") from None
        with enough_memory(owner):
            return function(*args, **keywords)

    return call  # type: ignore[return-value]
