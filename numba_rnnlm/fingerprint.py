"""Digests of code as it was loaded: two are equal exactly if the functions and the constants in them are.

They come from functions in memory, never from files, so programs without source files have them too, and editing a file that
is already imported changes nothing.
"""

import hashlib
import os
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

ONLY_HERE = f"process {os.urandom(8).hex()}"  # stands for an object that another process cannot recognise
_LIBRARIES = {"builtins", "math", "numpy", "numba", "llvmlite"}  # known by their versions, not by their code
_WRAPPED = "py_func", "_defn", "__wrapped__", "func", "fget", "__func__"  # what dispatchers, intrinsics, caches … hold
_PLAIN = type(None), type(...), bool, int, float, complex, str, bytes


def of_function(function: Any, known: str = "") -> str:
    """A digest of a function and of all the functions and constants that it uses, wherever they are written.

    Functions of the module named ``known`` count by their names alone: cover them with :func:`of_modules`. The digest contains
    :data:`ONLY_HERE` if something is used that has no value to compare.

    Examples
    --------
    >>> of_function(lambda x: x + 1) == of_function(lambda x: x + 1) != of_function(lambda x: x + 2)
    True
    """
    parts = list(_Walk(True, known).parts(function))
    text = _digest(parts)
    return f"{text} {ONLY_HERE}" if ONLY_HERE in parts else text


def of_body(function: Any) -> str:
    """A digest of a function's own code and of what it closes over: tells apart functions of one name."""
    return _digest(_Walk(False).parts(function))


def of_modules(*modules: ModuleType) -> str:
    """A digest of every function, class and constant that these modules define."""
    walk = _Walk(False)
    return _digest(part for module in modules for part in walk.module(module))


def _digest(parts: Any) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part.encode("utf-8", "surrogatepass") + b"\0")
    return found.hexdigest()[:24]


class _Walk:
    """Visits values and what they are made of, each function and class once.

    Parameters
    ----------
    follow
        Whether to visit the globals that functions use.
    known
        A module whose functions are only named.
    """

    def __init__(self, follow: bool, known: str = "") -> None:
        self.follow, self.known = follow, known
        self.seen: set[int] = set()

    def module(self, module: ModuleType) -> Iterator[str]:
        for name, value in sorted(vars(module).items()):
            own = getattr(value, "__module__", None) == module.__name__
            if not name.startswith("__") and (own or isinstance(value, (*_PLAIN, tuple, frozenset, np.ndarray))):
                yield name
                yield from (part for part in self.parts(value) if part != ONLY_HERE)  # a lock, a pool: no code

    def parts(self, value: Any) -> Iterator[str]:
        if isinstance(value, _PLAIN):
            yield f"{type(value).__name__} {value!r}"
        elif isinstance(value, (tuple, list)):
            yield f"{len(value)} values"
            for element in value:
                yield from self.parts(element)
        elif isinstance(value, (set, frozenset)):
            yield from sorted(repr(element) for element in value)
        elif isinstance(value, dict):
            for key in sorted(value, key=repr):
                yield repr(key)
                yield from self.parts(value[key])
        elif isinstance(value, np.ndarray):
            yield f"{value.dtype} {value.shape} {hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}"
        elif isinstance(value, CodeType):
            yield f"{value.co_code.hex()} {value.co_names} {value.co_varnames} {value.co_freevars} {value.co_flags}"
            yield from self.parts(value.co_consts)
        elif isinstance(value, ModuleType):
            yield value.__name__
        else:
            name = getattr(value, "__qualname__", type(value).__qualname__)
            yield f"{getattr(value, '__module__', '')} {name}"
            if id(value) not in self.seen:
                self.seen.add(id(value))
                yield from self.inside(value)

    def inside(self, value: Any) -> Iterator[str]:
        module = str(getattr(value, "__module__", "")).partition(".")[0]
        if isinstance(value, FunctionType):
            if module not in _LIBRARIES and value.__module__ != self.known:
                yield from self.function(value)
        elif isinstance(value, type):
            if module not in _LIBRARIES:
                yield from self.parts({name: part for name, part in vars(value).items() if isinstance(part, FunctionType)
                                       or type(part).__name__ in ("property", "cached_property", "staticmethod", "classmethod")})
        elif wrapped := [getattr(value, name) for name in _WRAPPED if hasattr(value, name)]:
            yield from self.parts(getattr(value, "targetoptions", None))
            yield from self.parts(wrapped[0])
        elif type(value).__module__.partition(".")[0] not in _LIBRARIES:
            yield ONLY_HERE  # its text may say nothing of it, or all of the environment
        elif not callable(value):
            yield ONLY_HERE if " at 0x" in repr(value) else repr(value)

    def function(self, function: FunctionType) -> Iterator[str]:
        yield from self.parts((function.__code__, function.__defaults__, function.__kwdefaults__))
        closed_over = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        yield from self.parts({name: cell.cell_contents for name, cell in closed_over})
        if self.follow:
            for name in sorted(_names(function.__code__)):
                value = function.__globals__.get(name)
                if isinstance(value, ModuleType) and value.__name__.partition(".")[0] not in _LIBRARIES:
                    for attribute in sorted(_names(function.__code__) & set(vars(value))):
                        yield attribute
                        yield from self.parts(vars(value)[attribute])
                elif name in function.__globals__:
                    yield name
                    yield from self.parts(value)


def _names(code: CodeType) -> set[str]:
    """All names that a function's code, or a function inside it, looks up."""
    inner = (const for const in code.co_consts if isinstance(const, CodeType))
    return set(code.co_names).union(*map(_names, inner))
