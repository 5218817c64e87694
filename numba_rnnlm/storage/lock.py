"""Locks a checkpoint or model file; a second job that wants to write it gets an error that names the process holding the lock."""

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
    """Hold the lock file ``<path>.lock`` within the ``with``; it records host, process and time, and is removed at the end.

    The file is locked with ``flock``, so a killed process releases it at once, on any host; forked children do not inherit the lock. On
    file systems without locks, the existence of the file is the lock, and a lock left by a dead process on this host is taken over.

    ``what`` names the kind of file in errors.

    Raises
    ------
    Held
        Another process, or another thread of this one, holds the lock.
    ModelFileError
        The folder is not writable, or a file of that name exists that is not a lock.
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
        with contextlib.suppress(OSError, ValueError):  # ValueError: a forked child has closed it
            if os.name != "posix" or writing.is_named(name, file):
                os.unlink(name)
        file.close()


def _take(path: str, what: str, name: str) -> BinaryIO:
    """Acquire the lock and return its open file."""
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
                raise ModelFileError(f"the lock file of the {what} {path!r} would be {name!r}, but that file exists and is not a lock. Give the "
                                     f"{what} another name, or move that file.")
            locked = writing.lock(file)
            if locked is False or (locked is None and not new and not _is_stale(_owner(file))):
                raise _held(path, what, _owner(file), "" if locked is False else name)
            if locked is None and not new:
                if writing.is_named(name, file):  # else another process has taken it over
                    os.unlink(name)  # the next process to create it, possibly this one, holds the lock
                file.close()
            elif writing.is_named(name, file):  # else its holder removed it between our open and our lock
                _sign(file)
                opened.pop_all()
                return file


def _is_lock(file: BinaryIO) -> bool:
    """Whether a file is a lock: signed, or empty because its process was killed before signing it."""
    status = os.fstat(file.fileno())
    return stat.S_ISREG(status.st_mode) and (status.st_size == 0 or {"host", "process", "since"} <= _owner(file).keys())


def _sign(file: BinaryIO) -> None:
    owner = {"host": socket.gethostname(), "process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S %z")}
    file.seek(0)
    file.write(json.dumps(owner).encode() + b"\n")
    file.truncate()
    file.flush()


def _owner(file: BinaryIO) -> dict[str, Any]:
    """The signature in a lock file; empty if there is none."""
    try:
        file.seek(0)
        owner = json.loads(file.read(1000))
    except (OSError, ValueError, RecursionError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _held(path: str, what: str, owner: dict[str, Any], existing: str) -> Held:
    """The error; ``existing`` is the lock file if its existence is the lock, which then may be left over."""
    who = "another process"
    if owner:
        who = f"process {owner.get('process')!s:.20} on host {ascii(owner.get('host'))[:80]}, since {owner.get('since')!s:.40}"
    advice = f" This file system has no locks: if that process no longer runs, delete {existing!r}." if existing else ""
    return Held(f"the {what} {path!r} is being written by {who}. Wait for it, stop it, or give this run another {what}.{advice}")


def _is_stale(owner: dict[str, Any]) -> bool:
    """Whether the process that signed the lock is certainly gone."""
    process = owner.get("process")
    if owner.get("host") != socket.gethostname() or os.name == "nt" or not isinstance(process, int) or process <= 0:
        return False  # on Windows, os.kill would terminate the process
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):  # OverflowError: the number is too large for a process id
        return True
    except OSError:  # the process belongs to another user
        return False
    return False
