"""Replaces files atomically, reserves disk space, and removes the leftovers of killed processes.

A file is written next to its target under a temporary name, ``.numba_rnnlm-<host>-<random>``, and renamed once it is complete and synced
to disk. Its writer holds a lock on it (``flock``), so that other processes can distinguish it from the leftover of a killed process;
they remove leftovers when they write to the same folder. A forked child closes the files that its parent has locked.
"""

import contextlib
import errno
import hashlib
import os
import secrets
import socket
import stat
import weakref
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from ..display import amount
from ..errors import ModelFileError
from ..paths import real_path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PREFIX = ".numba_rnnlm-"
ABANDONED = 3600.0  # seconds without a write after which an unlocked file from another host counts as a leftover
UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.ENOLCK)
_locked: weakref.WeakSet[BinaryIO] = weakref.WeakSet()  # files that this process may have locked
ADVICE = "Existing files were not changed; choose a folder that exists, is writable and has enough space."


@contextlib.contextmanager
def replacing(name: str) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces ``name`` at the end of the ``with``; after an error it is removed.

    The new file gets the owner, mode and extended attributes of the old one as far as this process is permitted to set them. A symbolic
    link remains a link to the new file; other hard links keep the old file.

    Raises
    ------
    ModelFileError
        The folder is missing, read-only or full, or ``name`` must not be replaced (see :func:`expect_replaceable`).
    """
    expect_replaceable(name)
    try:
        target = real_path(name)
        folder = os.path.dirname(target)
        replaces = os.path.exists(target)
        with _temporary(folder, 0o600 if replaces else 0o666) as (temporary, file):
            remove_leftovers(folder, file)
            yield file
            file.flush()
            if replaces and os.name == "posix":
                _make_alike(file.fileno(), target)
            os.fsync(file.fileno())
            if os.name != "posix":  # an open file cannot be renamed there; on POSIX, its lock must last until it is renamed
                file.close()
            os.replace(temporary, target)
        _sync_folder(folder)
    except ModelFileError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ModelFileError(f"cannot write {name!r}: {getattr(error, 'strerror', None) or error}. {ADVICE}") from error


def expect_replaceable(name: str) -> None:
    """Raise :class:`ModelFileError` if ``name`` is something that no file may replace.

    That is a folder, a pipe, a device, or a link that another user has put into a world-writable folder such as ``/tmp``.
    """
    if os.path.isdir(name):
        raise ModelFileError(f"cannot write {name!r}: it is a directory; give the name of a file such as model.npz.")
    try:
        found = os.stat(name)
    except (OSError, ValueError) as error:  # the file does not exist yet, or writing it will report why not
        if getattr(error, "errno", 0) == errno.ELOOP:  # os.path.realpath returns the link itself, and the link would be replaced
            raise ModelFileError(f"cannot write {name!r}: it is a link to itself; give another name.") from error
        found = None
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise ModelFileError(f"cannot write {name!r}: it is a pipe or a device, which a model would replace; give the name of a file.")
    if os.path.islink(name) and _is_foreign(name):
        raise ModelFileError(f"cannot write {name!r}: it is another user's link in a world-writable folder; give another name.")


def _make_alike(descriptor: int, target: str) -> None:
    """Copy owner, mode and extended attributes (including access lists) of ``target`` to an open file, as far as permitted."""
    old = os.stat(target)
    mode = stat.S_IMODE(old.st_mode)
    for user, group in ((old.st_uid, -1), (-1, old.st_gid)):
        with contextlib.suppress(OSError):  # only root may give files away
            os.fchown(descriptor, user, group)
    if os.fstat(descriptor).st_gid != old.st_gid:  # do not extend the rights of the old group to another one
        mode &= ~stat.S_IRWXG
    with contextlib.suppress(OSError):  # a file system without modes
        os.fchmod(descriptor, mode)
    with contextlib.suppress(OSError, AttributeError):  # the file system or the platform does not have them
        for name in os.listxattr(target):
            with contextlib.suppress(OSError):  # only root may set it
                os.setxattr(descriptor, name, os.getxattr(target, name))


def _is_foreign(link: str) -> bool:
    """Apply the rule of Linux's ``protected_symlinks``, because we resolve the link ourselves."""
    if not hasattr(os, "geteuid"):
        return False
    owner, folder = os.lstat(link).st_uid, os.stat(os.path.dirname(os.path.abspath(link)))
    shared = folder.st_mode & stat.S_ISVTX and folder.st_mode & stat.S_IWOTH
    return bool(shared) and owner not in (os.geteuid(), folder.st_uid)


def expect_room(files: Iterable[tuple[str, int]]) -> None:
    """Raise :class:`ModelFileError` unless all files of these names and sizes in bytes could be written now.

    Where the system supports it, the bytes are reserved in temporary files, so that quotas and process limits count too.
    """
    with contextlib.ExitStack() as reserved:
        for name, size in files:
            try:
                folder = os.path.dirname(real_path(name))
                _, file = reserved.enter_context(_temporary(folder, 0o600))
                remove_leftovers(folder, file)
                _reserve(file.fileno(), size)
            except ModelFileError:
                raise
            except (OSError, ValueError) as error:
                raise ModelFileError(
                    f"cannot write {name!r}, which needs {amount(size)}: {getattr(error, 'strerror', None) or error}. "
                    "Choose a folder that exists, is writable and has enough space."
                ) from error


def _reserve(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
            return
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
    if hasattr(os, "fstatvfs"):
        free = os.fstatvfs(descriptor)
        if free.f_bavail * free.f_frsize < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def remove_leftovers(folder: str, own: BinaryIO) -> None:
    """Remove the temporary files of killed processes; ``own``, a new file in the same folder, gives the file system's current time.

    A file is removed only if it is not locked. Since locks may not work across hosts, files from other hosts must also be old.
    """
    with contextlib.suppress(OSError):
        now = os.fstat(own.fileno()).st_mtime
        for entry in os.scandir(folder):
            if entry.name.startswith(PREFIX) and entry.is_file(follow_symlinks=False) and entry.inode() != os.fstat(own.fileno()).st_ino:
                _remove_leftover(entry.path, now)


def _remove_leftover(path: str, now: float) -> None:
    with contextlib.suppress(OSError), open(path, "rb+") as file:  # OSError: it no longer exists or is not ours
        if not lock(file):
            return
        found, named = os.fstat(file.fileno()), os.lstat(path)
        here = os.path.basename(path).startswith(f"{PREFIX}{_host()}-")
        if os.path.samestat(found, named) and (here or now - found.st_mtime > ABANDONED):
            os.unlink(path)


@contextlib.contextmanager
def _temporary(folder: str, mode: int) -> Iterator[tuple[str, BinaryIO]]:
    """Create a temporary file, locked where the system supports it; yield its path and file, and remove it at the end unless renamed."""
    path, process = "", os.getpid()
    with contextlib.ExitStack() as opened:
        try:
            while True:
                path = os.path.join(folder, f"{PREFIX}{_host()}-{secrets.token_hex(8)}")
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
                file = opened.enter_context(open(os.open(path, flags, mode), "w+b"))
                if lock(file) is not False and is_named(path, file):
                    break  # else another process has just mistaken it for a leftover
            yield path, file
        finally:
            try:
                _discard(path, process)
            except BaseException:  # a signal interrupted the removal
                _discard(path, process)
                raise


def _discard(path: str, process: int) -> None:
    """Remove a temporary file, unless this is a forked child, where the file belongs to the parent."""
    if os.getpid() == process:
        with contextlib.suppress(OSError, ValueError):  # it was renamed, or never created
            os.unlink(path)


def lock(file: BinaryIO) -> bool | None:
    """Lock an open file. Returns False if another process or file object holds the lock, None if the file system has no locks."""
    if fcntl is None:
        return None
    _locked.add(file)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return None
        if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
            raise
        return False
    return True


def _close_locked() -> None:
    """Close locked files in a forked child: it shares the parent's open files, so the locks would outlive the parent."""
    for file in [*_locked]:
        getattr(file, "raw", file).close()  # closing the buffer would flush the parent's unwritten data
    _locked.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_locked)


def is_named(path: str, file: BinaryIO) -> bool:
    """Whether ``path`` still names this open file."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _sync_folder(folder: str) -> None:
    """Make the rename survive a power failure, where the system supports it."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):  # the new file is already in place
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
