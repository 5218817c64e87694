"""A lock on a checkpoint or a model: a second job that would write the same file learns which process does."""

import contextlib
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

from ..errors import ModelFileError
from ..paths import real_path
from . import writing


class Held(ModelFileError):
    """Another process, or another thread of this one, holds the lock."""


@contextlib.contextmanager
def locked(path: str, what: str = "checkpoint") -> Iterator[None]:
    """Hold ``<path>.lock`` within the ``with``, a file that names host, process and time; it is removed at the end.

    The file is locked with ``flock``, so that it is free at once when its holder was killed, on whatever host; a child that its holder has
    forked does not hold it. Where files cannot be locked, its being there is the lock, and that of a process of this host which no longer
    runs is taken over.

    ``what`` names the kind of file in errors.

    Raises
    ------
    Held
        If another process, or another thread of this one, holds it.
    ModelFileError
        If the folder cannot be written, or a file of that name is no lock.
    """
    try:
        name = f"{real_path(path)}.lock"
        file = _take(path, what, name)
    except ModelFileError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ModelFileError(f"cannot write {path!r}: {getattr(error, 'strerror', None) or error}. {writing.ADVICE}") from error
    try:
        yield
    finally:
        if os.name != "posix":  # an open file cannot be removed there
            file.close()
        with contextlib.suppress(OSError, ValueError):  # ValueError: it is closed, in a forked child
            if os.name != "posix" or writing.is_named(name, file):
                os.unlink(name)
        file.close()


def _take(path: str, what: str, name: str) -> BinaryIO:
    """The lock file, open and ours."""
    flags = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    while True:
        with contextlib.ExitStack() as opened:
            try:
                descriptor, new = os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o666), True
            except FileExistsError:
                try:
                    descriptor, new = os.open(name, flags), False
                except FileNotFoundError:  # its holder has just removed it
                    continue
            file = opened.enter_context(open(descriptor, "rb+", 0))
            if not new and not _is_lock(file):
                raise ModelFileError(f"the lock of the {what} {path!r} would be {name!r}, which exists and is no lock; it is left as it is. Give the "
                                     f"{what} another name, or move that file.")
            locked = writing.lock(file)
            if locked is False or (locked is None and not new and not _is_stale(_owner(file))):
                raise _held(path, what, name, _owner(file))
            if locked is None and not new:
                if writing.is_named(name, file):  # else somebody else has taken it over
                    os.unlink(name)  # and whoever makes it again holds it
                file.close()
            elif writing.is_named(name, file):  # else its holder removed it between opening and locking
                _sign(file)
                opened.pop_all()
                return file


def _is_lock(file: BinaryIO) -> bool:
    """Whether a file is empty, as the lock of a process that was killed at once, or signed."""
    status = os.fstat(file.fileno())
    return stat.S_ISREG(status.st_mode) and (status.st_size == 0 or {"host", "process", "since"} <= _owner(file).keys())


def _sign(file: BinaryIO) -> None:
    owner = {"host": socket.gethostname(), "process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}
    file.seek(0)
    file.write(json.dumps(owner).encode() + b"\n")
    file.truncate()
    file.flush()


def _owner(file: BinaryIO) -> dict[str, Any]:
    """Who has signed; nothing if the file does not tell."""
    try:
        file.seek(0)
        owner = json.loads(file.read(1000))
    except (OSError, ValueError, RecursionError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _held(path: str, what: str, name: str, owner: dict[str, Any]) -> Held:
    who = "another process"
    if owner:
        who = f"process {owner.get('process')!s:.20} on host {ascii(owner.get('host'))[:80]}, since {owner.get('since')!s:.40}"
    return Held(f"the {what} {path!r} is being written by {who}. Wait for it, stop it, or give this run another {what}. If "
                f"that process no longer runs, delete {name!r}.")


def _is_stale(owner: dict[str, Any]) -> bool:
    """Whether the process that has signed certainly runs no more."""
    process = owner.get("process")
    if owner.get("host") != socket.gethostname() or os.name == "nt" or not isinstance(process, int) or process <= 0:
        return False  # Windows would end a process that is asked with a signal
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):  # OverflowError: no process has such a number
        return True
    except OSError:  # it belongs to another user
        return False
    return False
