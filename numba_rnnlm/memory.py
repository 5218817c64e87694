"""Finds out how much memory is available, and rejects what cannot fit into it."""

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

from .errors import ConfigError, OutOfMemoryError

CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # Linux, versions 2 and 1


class Space(NamedTuple):
    """Memory for arrays: the number of bytes (infinity if unknown), and a phrase with a placeholder for it."""

    bytes: float
    words: str


def expect_memory(elements: int, what: str, reduce: str, element_bytes: int = 4, space: Space | None = None) -> None:
    """Raise :class:`ConfigError` if an array of ``elements`` numbers does not fit into ``space``, by default :func:`host_memory`."""
    space = space or host_memory()
    elements = min(elements, 10**30)  # a number from a malicious file may be too large for a float
    if elements * element_bytes > space.bytes:
        has = space.words.format(_gigabytes(space.bytes))
        raise ConfigError(f"{what} would take {_gigabytes(elements * element_bytes)}, {has}; reduce {reduce}.")


def host_memory() -> Space:
    """The main memory that this process may use."""
    return Space(_memory(), "this machine has {}")


@contextlib.contextmanager
def enough_memory(call: str) -> Iterator[None]:
    """Turn a :class:`MemoryError` within the ``with`` into an :class:`OutOfMemoryError` that names the call and what NumPy asked for."""
    try:
        yield
    except MemoryError as error:
        cause = error.__cause__ if isinstance(error, OutOfMemoryError) else error  # a nested call may already have converted it
        what = f": {cause}" if str(cause) else ""
        raise OutOfMemoryError(f"{call} needs more memory than this process can get{what}. Pass less data at a time, close other programs, or raise "
                               "the memory limit of this process.") from cause


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:,.{0 if count >= 1e10 else 1}f} GB"


def _memory() -> float:
    """The number of bytes that this process may use: of the computer, or within the limits of its container; infinity if unknown."""
    found = [float("inf")]
    with contextlib.suppress(AttributeError, ValueError, OSError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no such limit
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        found.append(float("inf") if limit == resource.RLIM_INFINITY else limit)
    for path in CONTAINER_LIMITS:
        with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:  # ValueError: "max", no limit
            found.append(int(file.read()))
    return min(found)
