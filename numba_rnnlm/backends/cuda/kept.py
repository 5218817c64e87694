"""Machine code of kernels on disk, for the next process: a file's name is a digest of what the kernel is made of."""

import hashlib
import inspect
import os
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from ... import fingerprint, portable
from ..cache import cache_folder

# What all kernels here are written in, as it is when they are loaded: an edit later is for the next process.
SOURCES = "".join(path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("*.py")))


class Code(NamedTuple):
    """A compiled kernel."""

    entry: str  # its name in the binary
    cubin: bytes


def load(function: Callable[..., None], takes: Any, capability: Any) -> Code | None:
    """The code that :func:`store` kept, or None if there is none that is whole."""
    try:
        digest, entry, cubin = _path(function, takes, capability).read_bytes().split(b"\n", 2)
        found = Code(entry.decode(), cubin)
    except (OSError, ValueError):
        return None
    return found if _digest(found) == digest else None


def store(code: Code, function: Callable[..., None], takes: Any, capability: Any) -> None:
    """Keep it; where nothing can be written, each process compiles anew, and nothing else changes."""
    path = _path(function, takes, capability)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")  # two processes may write at once: the later one wins, whole
        part.write_bytes(b"\n".join([_digest(code), code.entry.encode(), code.cubin]))
        os.replace(part, path)
    except OSError:
        pass


def _digest(code: Code) -> bytes:
    return hashlib.sha256(code.entry.encode() + b"\n" + code.cubin).hexdigest().encode()


def _path(function: Callable[..., None], takes: Any, capability: Any) -> Path:
    made_of = "\n".join([_toolchain(), SOURCES, fingerprint.of_modules(portable), repr(capability), repr(takes), *_ingredients(function)])
    digest = hashlib.sha256(made_of.encode()).hexdigest()[:24]
    return (cache_folder() or Path(os.devnull)) / "cuda" / f"{function.__name__}-{digest}.cubin"  # without a home, nowhere


@cache
def _toolchain() -> str:
    found = []
    for package in ("numba", "numba-cuda", "llvmlite", "nvidia-nvvm", "nvidia-nvjitlink", "cuda-toolkit"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    settings = sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith(("NUMBA_CUDA", "NUMBA_OPT")))
    return " ".join(found + settings)


def _ingredients(function: Any) -> list[str]:
    """A kernel's own constants, and the cell or rule that it was made for, wherever that is written."""
    function = getattr(function, "py_func", function)
    if not function.__module__.startswith(__package__):
        return [fingerprint.of_function(function, portable.__name__)]
    parts = [function.__qualname__]
    for name, value in sorted(inspect.getclosurevars(function).nonlocals.items()):
        callable_ = hasattr(value, "py_func") or inspect.isfunction(value)
        parts += [name, *_ingredients(value)] if callable_ else [f"{name}={value!r}"]
    return parts
