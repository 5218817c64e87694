"""Every error that the library raises on purpose, and the checks that raise the common ones.

::

    LanguageModelError
    ├── ConfigError       (ValueError)      an impossible hyperparameter
    ├── ShapeError        (ValueError)      an array of the wrong shape, dtype or range
    ├── CorpusError       (ValueError)      a text that cannot be read or is too short
    ├── VocabularyError   (ValueError)      a symbol or id that the model does not know
    ├── BackendError      (RuntimeError)    a machine that is not there
    ├── NotFittedError    (RuntimeError)    a question to a model that has learned nothing
    ├── DivergenceError   (ArithmeticError) training ran into NaN or infinity
    ├── TrainingError     (RuntimeError)    training could not continue; what was learned is kept
    ├── GenerationError   (RuntimeError)    a model was changed while it generated text
    └── ModelFileError    (OSError)         a model file that cannot be read or written

Each message says what was expected, what came, and what to do.
"""

import contextlib
import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from .display import message

CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # Linux, versions 2 and 1


class LanguageModelError(Exception):
    """The base class: ``except LanguageModelError`` catches everything below.

    A message may quote a stranger's file: it is one line without control characters, of some 1,000 characters at most.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(message(one) if isinstance(one, str) else one for one in args))


class ConfigError(LanguageModelError, ValueError):
    """A hyperparameter is impossible, or two contradict each other."""


class ShapeError(LanguageModelError, ValueError):
    """An array has the wrong shape, dtype or values."""


class CorpusError(LanguageModelError, ValueError):
    """A corpus is missing, empty, too short, or not the text it should be."""


class VocabularyError(LanguageModelError, ValueError):
    """A symbol or an id is not in the vocabulary."""


class BackendError(LanguageModelError, RuntimeError):
    """The machine asked for is not available here."""


class NotFittedError(LanguageModelError, RuntimeError):
    """The model must be trained or loaded first."""


class DivergenceError(LanguageModelError, ArithmeticError):
    """Training produced NaN or infinity; the last good weights were restored."""


class TrainingError(LanguageModelError, RuntimeError):
    """Something failed in the middle of a training, such as memory for its validation. What was learned is kept.

    The failure itself is its ``__cause__``.
    """


class GenerationError(LanguageModelError, RuntimeError):
    """The weights of a model were changed while a text was generated with them."""


class ModelFileError(LanguageModelError, OSError):
    """A model file cannot be read or written."""


def expect_one_of(name: str, value: object, choices: Iterable[object]) -> None:
    """Raise :class:`ConfigError` unless ``value`` is among ``choices``."""
    allowed = list(choices)
    if value not in allowed:
        listed = ", ".join(repr(choice) for choice in allowed)
        raise ConfigError(f"{name} is {value!r}, expected one of {listed}.")


def plain(value: float) -> str:
    """A number as it is written by hand.

    Examples
    --------
    >>> plain(10**9), plain(1e6), plain(0.999), plain(1e-7)
    ('1,000,000,000', '1,000,000', '0.999', '1e-07')
    """
    whole = isinstance(value, int) or (value.is_integer() and abs(value) < 1e15)
    return f"{int(value):,}" if whole else f"{value:g}"


def expect_number(
    name: str, value: Any, low: float, high: float = float("inf"), *, whole: bool = False, open_low: bool = False
) -> None:
    """Raise :class:`ConfigError` unless ``value`` is a number in [low, high] (``open_low``: (low, high])."""
    kinds = (int,) if whole else (int, float)
    kind = "a whole number" if whole else "a number"
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        value = value.item()
    good = isinstance(value, kinds) and not isinstance(value, bool) and bool(low <= value <= high)
    if not good or (open_low and value == low):
        bounds = f"above {plain(low)}" if open_low else f"at least {plain(low)}"
        if high != float("inf"):
            bounds += f" and at most {plain(high)}"
        raise ConfigError(f"{name} is {value!r}, expected {kind} {bounds}.")


def expect_shape(name: str, shape: Sequence[int], expected: Sequence[int | str], help: str = "") -> None:
    """Raise :class:`ShapeError` unless ``shape`` matches; a letter in ``expected`` matches any size."""
    good = len(shape) == len(expected) and all(
        isinstance(want, str) or got == want for got, want in zip(shape, expected, strict=True)
    )
    if not good:
        wanted = "(" + ", ".join(str(want) for want in expected) + ")"
        raise ShapeError(f"{name} is {tuple(shape)}, expected {wanted}. {help}".rstrip())


class Space(NamedTuple):
    """Memory for arrays: how many bytes, infinity where nothing tells, and a sentence with a place for their number."""

    bytes: float
    words: str


def expect_memory(elements: int, what: str, reduce: str, element_bytes: int = 4, space: Space | None = None) -> None:
    """Raise :class:`ConfigError` if ``elements`` numbers do not fit into this space; by default :func:`host_memory`."""
    space = space or host_memory()
    elements = min(elements, 10**30)  # a hostile number may be larger than any float
    if elements * element_bytes > space.bytes:
        has = space.words.format(_gigabytes(space.bytes))
        raise ConfigError(f"{what} would take {_gigabytes(elements * element_bytes)}, {has}; reduce {reduce}.")


def host_memory() -> Space:
    """What this process may use of the memory that Python's own objects are in."""
    return Space(_memory(), "this machine has {}")


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:,.{0 if count >= 1e10 else 1}f} GB"


def _memory() -> float:
    """Bytes that this process may use: of the machine, or of its container; infinity where nothing tells."""
    found = [float("inf")]
    with contextlib.suppress(AttributeError, ValueError, OSError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no such limits
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        found.append(float("inf") if limit == resource.RLIM_INFINITY else limit)
    for path in CONTAINER_LIMITS:
        with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:  # ValueError: "max", no limit
            found.append(int(file.read()))
    return min(found)
