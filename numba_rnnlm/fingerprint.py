"""Digests of code, which are equal only if the functions and the constants that they use are equal.

An object that cannot be compared across processes makes the digest unique to this process, so that no cached code is found by it.
"""

import enum
import hashlib
import os
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

ONLY_HERE = f"process {os.urandom(8).hex()}"  # represents an object that another process cannot recognise
_LIBRARIES = {"builtins", "math", "numpy", "numba", "llvmlite"}  # identified by their versions, not by their code
_PLAIN = {type(None), type(...), bool, int, float, complex, str, bytes}


def of_function(function: Any, known: str = "") -> str:
    """The digest of a function compiled by Numba, including all functions and constants that it uses, from any module.

    Functions of the module named ``known`` are identified by name only; cover them with :func:`of_modules`. The result contains
    :data:`ONLY_HERE` if the function uses an object that cannot be compared, or one that may be implemented elsewhere.

    Examples
    --------
    >>> from numba import njit
    >>> of_function(njit(lambda x: x + 1)) == of_function(njit(lambda x: x + 1)) != of_function(njit(lambda x: x + 2))
    True
    """
    parts = list(_Walk(True, known).parts(function))
    return _digest(parts) + f" {ONLY_HERE}" * (ONLY_HERE in parts)


def of_body(function: Any) -> str:
    """The digest of a function's own code and closure, which distinguishes functions of the same name."""
    return _digest(_Walk(False).parts(function))


def of_modules(modules: Iterable[ModuleType]) -> str:
    """The digest of all code in these modules. Compute it right after importing them, because it is read from their files."""
    found: list[str] = []
    for module in modules:
        loader: Any = module.__spec__ and module.__spec__.loader
        found += _Walk(False).parts((module.__name__, loader.get_code(module.__name__)))
    return _digest(found)


def _digest(parts: Iterable[str]) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part.encode("utf-8", "surrogatepass") + b"\0")
    return found.hexdigest()[:24]


class _Walk:
    """Visits values and everything that they consist of, each function once.

    Parameters
    ----------
    follow
        Whether to visit the globals that functions use.
    known
        A module whose functions are identified by name only.
    """

    def __init__(self, follow: bool, known: str = "") -> None:
        self.follow, self.known = follow, known
        self.seen: set[int] = set()

    def parts(self, value: Any, names: frozenset[str] = frozenset()) -> Iterator[str]:
        """Yield the parts of a value; for a module, the parts of the attributes in ``names``."""
        kind = type(value)
        if kind in _PLAIN:
            yield f"{kind.__name__} {value!r}"
        elif isinstance(value, enum.Enum):
            yield value.name
            yield from self.parts(kind)
        elif isinstance(value, enum.EnumMeta):
            yield value.__qualname__
            members: dict[str, Any] = dict(value.__members__)
            yield from self.parts({name: member.value for name, member in members.items()})
        elif isinstance(value, type) and issubclass(value, tuple) and hasattr(value, "_fields"):
            yield f"{value.__qualname__} {value._fields}"
            yield from self.parts(dict(getattr(value, "_field_defaults", ())))
        elif isinstance(value, (tuple, list)):
            yield f"{kind.__qualname__} {getattr(kind, '_fields', '')} of {len(value)}"
            for element in value:
                yield from self.parts(element, names)
        elif kind in (set, frozenset):
            yield from sorted(" ".join(self.parts(element)) for element in value)
        elif kind is dict:
            for key in sorted(value, key=repr):
                yield repr(key)
                yield from self.parts(value[key], names)
        elif kind is np.ndarray:
            yield f"{value.dtype} {value.shape} {hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}"
        elif isinstance(value, CodeType):
            yield f"{value.co_code.hex()} {value.co_names} {value.co_varnames} {value.co_freevars} {value.co_cellvars} {value.co_flags}"
            yield from self.parts(value.co_consts)
        elif isinstance(value, ModuleType):
            yield from self.attributes(value, names)
        elif isinstance(value, FunctionType):
            yield f"{value.__module__} {value.__qualname__}"
            if not self.follow:
                yield from self.function(value)
            elif value.__module__ != self.known and not _is_librarys(value):
                yield ONLY_HERE  # Numba runs an overload in its place, which cannot be inspected here
        elif hasattr(value, "py_func"):
            yield f"{kind.__qualname__} {value.py_func.__module__} {value.py_func.__qualname__}"
            yield from self.parts(dict(value.targetoptions))
            if not getattr(value, "_can_compile", True):  # compiled for explicit signatures only
                yield repr(value.nopython_signatures)
            if value.py_func.__module__ != self.known:
                yield from self.function(value.py_func)
        elif not self.follow and hasattr(value, "_defn"):  # an intrinsic
            yield from self.parts(value._defn)
        elif _is_librarys(value if isinstance(value, type) or callable(value) else kind):
            text = repr(value) if not callable(value) or isinstance(value, type) else f"{value.__module__} {value.__name__}"
            yield ONLY_HERE if " at 0x" in text else text
        else:
            yield ONLY_HERE

    def attributes(self, module: ModuleType, names: frozenset[str]) -> Iterator[str]:
        yield module.__name__
        if not _is_librarys(module) and module.__name__ != self.known and id(module) not in self.seen:
            self.seen.add(id(module))
            for name in sorted(names & vars(module).keys()):
                yield name
                yield from self.parts(vars(module)[name], names)

    def function(self, function: FunctionType) -> Iterator[str]:
        if id(function) in self.seen:
            return
        self.seen.add(id(function))
        names = _names(function.__code__)
        yield from self.parts((function.__code__, function.__defaults__, function.__kwdefaults__), names)
        yield from self.parts(dict(zip(function.__code__.co_freevars, map(_content, function.__closure__ or ()), strict=True)), names)
        if self.follow:
            yield from self.parts({name: function.__globals__[name] for name in names & function.__globals__.keys()}, names)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not bound yet
        return None


def _is_librarys(value: Any) -> bool:
    name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    return str(name).partition(".")[0] in _LIBRARIES


def _names(code: CodeType) -> frozenset[str]:
    """All names that the code of a function, or of a function nested in it, looks up."""
    inner = (const for const in code.co_consts if isinstance(const, CodeType))
    return frozenset(code.co_names).union(*map(_names, inner))
