"""The disk cache of CUDA kernels: machine code under a digest of everything the kernel is made from."""

import hashlib
import inspect
import os
import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

from ... import fingerprint, portable
from ..cache import Store

CODE = [portable.CODE]  # digests of all code that kernels may contain; the package adds its own


class Code(NamedTuple):
    """A compiled kernel."""

    entry: str  # its name in the binary
    cubin: bytes


@cache
def store() -> Store:
    """The store for this version of the library and the compiler."""
    made_of = " ".join([*CODE, *_toolchain()])
    return Store(f"cuda-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}")


def load(function: Callable[..., None], takes: Any, capability: Any) -> Code | None:
    """The code that :func:`save` stored, or None if it is missing or damaged."""
    body = store().load(_name(function, takes, capability))
    if body is None:
        return None
    entry, cubin = body.split(b"\n", 1)
    return Code(entry.decode(), cubin)


def save(code: Code, function: Callable[..., None], takes: Any, capability: Any) -> None:
    """Store a kernel for other processes."""
    name = _name(function, takes, capability)
    if fingerprint.ONLY_HERE not in name:  # otherwise it would never be found again
        store().save(name, code.entry.encode() + b"\n" + code.cubin)


def _name(function: Callable[..., None], takes: Any, capability: Any) -> str:
    parts = [repr(capability), repr(takes), *_ingredients(function)]
    only_here = fingerprint.ONLY_HERE if any(fingerprint.ONLY_HERE in part for part in parts) else ""
    return f"{function.__name__}-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:24]}{only_here}"


def _toolchain() -> list[str]:
    found = [str(sys.implementation.cache_tag)]
    for package in ("numba", "numba-cuda", "llvmlite", "nvidia-nvvm", "nvidia-nvjitlink", "cuda-toolkit"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return found + sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith(("NUMBA_CUDA", "NUMBA_OPT")))


def _ingredients(function: Any) -> list[str]:
    """Descriptions of a kernel's constants, and of the cell or rule that it was made for, even one defined elsewhere."""
    given, function = function, getattr(function, "py_func", function)
    if not function.__module__.startswith(__package__):
        return [fingerprint.of_function(given, portable.__name__)]
    parts = [function.__qualname__]
    for name, value in sorted(inspect.getclosurevars(function).nonlocals.items()):
        callable_ = hasattr(value, "py_func") or inspect.isfunction(value)
        parts += [name, *_ingredients(value)] if callable_ else [f"{name}={value!r}"]
    return parts
