"""The exceptions that the library raises on purpose, and the argument checks that raise the most common ones.

::

    LanguageModelError
    ├── ConfigError       (ValueError)      a hyperparameter has an invalid value
    ├── ShapeError        (ValueError)      an array has the wrong shape, dtype or range
    ├── CorpusError       (ValueError)      a text cannot be read or is too short
    ├── VocabularyError   (ValueError)      a symbol or id is not in the vocabulary
    ├── BackendError      (RuntimeError)    a backend is not available
    ├── CheckError        (AssertionError)  a layer or a cell of your own does not keep its contract
    ├── NotFittedError    (RuntimeError)    the model has not been trained yet
    ├── DivergenceError   (ArithmeticError) training produced NaN or infinity
    ├── TrainingError     (RuntimeError)    training could not continue; what was learned is preserved
    ├── GenerationError   (RuntimeError)    a model was changed while it generated text
    ├── OutOfMemoryError  (MemoryError)     a call needs more memory than is available
    └── ModelFileError    (OSError)         a model file cannot be read or written

Each message says what was expected, what was given, and what to do.
"""

import os
import reprlib
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .display import message
from .suggestions import value_meant

MOST = 2**53  # default limit for integers: the largest that a float represents exactly
LARGEST, LARGEST_FLOAT32 = sys.float_info.max, 3.4e38
LONGEST_TEXT = 1100  # characters of a str to show in an error
LONGEST_PATH = 4096  # bytes; no system accepts more


class LanguageModelError(Exception):
    """The base class: ``except LanguageModelError`` catches all of these.

    A message may quote an untrusted file, so it is reduced to one line of about 1,000 characters without control characters.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(message(one) if isinstance(one, str) else one for one in args))


class ConfigError(LanguageModelError, ValueError):
    """A hyperparameter has an invalid value, or two contradict each other."""


class ShapeError(LanguageModelError, ValueError):
    """An array has the wrong shape, dtype or values."""


class CorpusError(LanguageModelError, ValueError):
    """A corpus is missing, empty, too short, or not the expected kind of text."""


class VocabularyError(LanguageModelError, ValueError):
    """A symbol or an id is not in the vocabulary."""


class BackendError(LanguageModelError, RuntimeError):
    """The requested backend is not available."""


class CheckError(LanguageModelError, AssertionError):
    """A layer or a cell of your own does not do what the library relies on: see ``layers.check`` and ``cells.check``."""


class NotFittedError(LanguageModelError, RuntimeError):
    """The model must be trained or loaded first."""


class DivergenceError(LanguageModelError, ArithmeticError):
    """Training produced NaN or infinity; the last good weights were restored."""


class TrainingError(LanguageModelError, RuntimeError):
    """Training failed midway, for example because validation ran out of memory. What was learned so far is preserved.

    The original exception is its ``__cause__``.
    """


class GenerationError(LanguageModelError, RuntimeError):
    """The weights of a model were changed while it was generating text."""


class OutOfMemoryError(LanguageModelError, MemoryError):
    """A call needs more memory than this process can get. The original exception is its ``__cause__``."""


class ModelFileError(LanguageModelError, OSError):
    """A model file cannot be read or written. It is an OSError too, so ``except OSError`` catches it."""


class _Shortened(reprlib.Repr):
    """Shortens the ``repr`` of any value enough to be part of a sentence."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 3, 100, 100, 60

    def repr_str(self, value: str, level: int) -> str:
        most = LONGEST_TEXT if level == self.maxlevel else self.maxstring
        text = repr(value[: most + 1])
        return text if len(text) <= most + 2 else f"{text[:100]}...{repr(value[-50:])[1:]}"

    def repr_int(self, value: int, level: int) -> str:
        many = value.bit_length() > 1000  # Python refuses to convert thousands of digits
        return f"a number of about {value.bit_length() * 0.30103:.0f} digits" if many else repr(value)


_shortened = _Shortened()


def shown(value: object) -> str:
    """The ``repr`` of a user's value for an error message: printable, a few lines at most, and it never raises.

    A str may be a path, so it may be longer than other values.

    Examples
    --------
    >>> shown("lstm"), len(shown("x" * 10_000)), shown(10**400)
    ("'lstm'", 154, 'a number of about 400 digits')
    """
    try:
        text = _shortened.repr(value)
    except Exception:  # a user's class may raise anything
        text = f"<{type(value).__name__}>"
    text = " ".join(text.split("\n"))
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[: LONGEST_TEXT + 100])


def plain_value(value: Any) -> Any:
    """Convert a NumPy scalar or 0-D array to a Python value; return anything else, and anything with a mask, unchanged."""
    is_plain = type(value).__module__ == "builtins" or getattr(value, "shape", None) != () or not hasattr(value, "item") or hasattr(value, "mask")
    return value if is_plain else value.item()


def take_plain_values(owner: Any, names: Iterable[str]) -> None:
    """Convert these fields of a frozen dataclass to plain Python values, so that it is equal after saving and loading."""
    for name in names:
        value = getattr(owner, name)
        if (plain := plain_value(value)) is not value:
            object.__setattr__(owner, name, plain)


def take_infinity_as(off: float | None, owner: Any, names: Iterable[str]) -> None:
    """Set those fields of a frozen dataclass that are limits beyond the range of float32 to ``off``: JSON has no infinity."""
    for name in names:
        if isinstance(value := getattr(owner, name), (int, float)) and value > LARGEST_FLOAT32:
            object.__setattr__(owner, name, off)


def expect_one_of(name: str, value: object, choices: Iterable[object]) -> None:
    """Raise :class:`ConfigError` unless ``value`` is among ``choices`` (str, numbers or None)."""
    allowed, value = list(choices), plain_value(value)
    is_plain = isinstance(value, (str, int, float, type(None)))  # comparing an array would give an array
    if not is_plain or value not in allowed:
        listed = ", ".join(repr(choice) for choice in allowed)
        meant = value_meant(value, (choice for choice in allowed if isinstance(choice, str))) if isinstance(value, str) else ""
        raise ConfigError(f"{name} is {shown(value)}, expected one of {listed}" + (f"; did you mean {meant!r}?" if meant else "."))


def expect_flag(name: str, value: object) -> None:
    """Raise :class:`ConfigError` unless ``value`` is True or False."""
    expect_one_of(name, value, (True, False))


def expect_text(name: str, value: object, example: str) -> None:
    """Raise :class:`ConfigError` unless ``value`` is a str that is not empty."""
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{name} is {shown(value)}, expected a str such as {example!r}.")


def expect_kind(name: str, value: object, kind: type | tuple[type, ...], what: str) -> None:
    """Raise :class:`ConfigError` unless ``value`` is an instance of ``kind``, which ``what`` describes in the message."""
    if not isinstance(value, kind):
        raise ConfigError(f"{name} is {shown(value)}, expected {what}.")


def expect_items(name: str, value: Any, what: str) -> list[Any]:
    """The items of a list, a tuple or another ordered collection other than a str. Raises :class:`ConfigError` for anything else."""
    if isinstance(value, (str, bytes, bytearray, memoryview, set, frozenset, dict, type)) or not isinstance(value, Iterable):
        raise ConfigError(f"{name} is {shown(value)}, expected {what}.")
    try:
        return list(value)
    except Exception as error:  # a 0-D array, a generator that fails
        raise ConfigError(f"{name} is {shown(value)}, whose items cannot be read, expected {what}.") from error


def expect_path(name: str, value: Any, example: str = "model.npz", error: type[LanguageModelError] = ConfigError) -> str:
    """A path as a str. Raises ``error`` for a value that is not a valid path on any system."""
    try:
        path = os.fsdecode(value)
        good = 0 < len(os.fsencode(path)) <= LONGEST_PATH and "\0" not in path  # os.fsencode refuses lone surrogates
    except Exception:  # not a path, or a user's class that raises
        good = False
    if not good:
        raise error(f"{name} is {shown(value)}, expected a path such as {example!r}.")
    return path


def plain(value: float) -> str:
    """Format a number as a person would write it.

    Examples
    --------
    >>> plain(10**9), plain(1e6), plain(0.999), plain(1e-7)
    ('1,000,000,000', '1,000,000', '0.999', '1e-07')
    """
    whole = isinstance(value, int) or (value.is_integer() and abs(value) < 1e15)
    return f"{int(value):,}" if whole else f"{value:g}"


def expect_number(
    name: str, value: Any, low: float, high: float = float("inf"), *, whole: bool = False, open_low: bool = False
) -> Any:
    """Return ``value`` as a Python number; raise :class:`ConfigError` unless it is finite and in [low, high], or (low, high] with ``open_low``.

    ``high`` defaults to :data:`MOST` for integers (``whole``) and to the largest float otherwise.
    """
    kind, kinds = ("a whole number", (int,)) if whole else ("a number", (int, float))
    most = high if high != float("inf") else MOST if whole else LARGEST
    value = plain_value(value)
    is_number = isinstance(value, kinds) and not isinstance(value, bool)
    if not is_number or not low <= value <= most or (open_low and value == low):
        bounds = f"above {plain(low)}" if open_low else f"of at least {plain(low)}"
        if high != float("inf") or (is_number and value > most):
            bounds += f" and at most {plain(most)}"
        raise ConfigError(f"{name} is {shown(value)}, expected {kind} {bounds}.")
    return value


def as_array(name: str, values: Any) -> np.ndarray:
    """Convert ``values`` to an array; an array is not copied. Errors raised by NumPy propagate.

    Raises
    ------
    ShapeError
        ``values`` is a masked array or nested lists contain one: NumPy would silently drop the mask.

    Examples
    --------
    >>> as_array("x", [[1, 2], [3, 4]]).shape
    (2, 2)
    >>> as_array("x", [np.ma.masked_equal([1, 2], 2)])
    Traceback (most recent call last):
    numba_rnnlm.errors.ShapeError: x has a mask, which would be lost; pass .compressed() (the unmasked elements) or .filled(value).
    """
    array = np.asarray(values)
    masked: Any = getattr(sys.modules.get("numpy.ma"), "MaskedArray", ())  # NumPy imports numpy.ma on first use
    level, below = [values], array.ndim
    while not any(issubclass(kind, masked) for kind in set(map(type, level))):
        level = [item for one in level if isinstance(one, (list, tuple)) for item in one] if below else []
        below -= 1
        if not level:
            return array
    raise ShapeError(f"{name} has a mask, which would be lost; pass .compressed() (the unmasked elements) or .filled(value).")


def expect_shape(name: str, shape: Sequence[int], expected: Sequence[int | str], help: str = "") -> None:
    """Raise :class:`ShapeError` unless ``shape`` matches ``expected``, in which a letter matches any size."""
    good = len(shape) == len(expected) and all(
        isinstance(want, str) or got == want for got, want in zip(shape, expected, strict=True)
    )
    if not good:
        wanted = "(" + ", ".join(str(want) for want in expected) + ")"
        raise ShapeError(f"{name} is {tuple(shape)}, expected {wanted}. {help}".rstrip())
