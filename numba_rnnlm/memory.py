"""How much memory there is, and the refusal of what cannot fit into it."""

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

from .errors import ConfigError, OutOfMemoryError

CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # Linux, versions 2 and 1


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


@contextlib.contextmanager
def enough_memory(call: str) -> Iterator[None]:
    """Within ``with``, a :class:`MemoryError` becomes an :class:`OutOfMemoryError` that names the call, and how much NumPy asked for."""
    try:
        yield
    except MemoryError as error:
        cause = error.__cause__ if isinstance(error, OutOfMemoryError) else error  # a nested call may have wrapped it already
        what = f": {cause}" if str(cause) else ""
        raise OutOfMemoryError(f"{call} needs more memory than this process can get{what}. Give it less at once, close other programs, or raise this "
                               "process's limit of memory.") from cause


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
