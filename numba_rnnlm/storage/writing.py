"""Files that replace another one in one piece, the room that they need, and what killed writers have left.

A file is written under a temporary name beside its target, ``.numba_rnnlm-<host>-<random>``, and renamed when it is complete and on the
disk. Its writer holds a lock on it (``flock``); so another process can tell what is being written from what a killed process
has left, and removes the latter when it writes to the same folder. A forked child closes the files that its parent has locked.
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
ABANDONED = 3600.0  # seconds without a write, after which the unlocked file of another host is a killed process's
UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.ENOLCK)
_locked: weakref.WeakSet[BinaryIO] = weakref.WeakSet()  # files on which this process may hold a lock
ADVICE = "Nothing that was there has changed; choose a folder that exists, can be written and has room."


@contextlib.contextmanager
def replacing(name: str) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of ``name`` at the end of the ``with``; after an error it is removed.

    The new file has the owner, the mode and the extended attributes of the old one, as far as this process may give them, and a link stays
    a link. Of several hard links to the old file only this name gets the new one.

    Raises
    ------
    ModelFileError
        If the folder is missing, read-only or full, or what is at ``name`` is not to be replaced: see :func:`expect_replaceable`.
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
            if os.name != "posix":  # an open file cannot be renamed there; elsewhere its lock tells that it is no leftover
                file.close()
            os.replace(temporary, target)
        _sync_folder(folder)
    except ModelFileError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ModelFileError(f"cannot write {name!r}: {getattr(error, 'strerror', None) or error}. {ADVICE}") from error


def expect_replaceable(name: str) -> None:
    """Raise :class:`ModelFileError` where a model must not replace what exists at ``name``.

    That is a folder, a pipe or a device, and a link that somebody else has put into a folder which everybody may write, such as ``/tmp``.
    """
    if os.path.isdir(name):
        raise ModelFileError(f"cannot write {name!r}: it is a directory; give the name of a file, such as model.npz.")
    try:
        found = os.stat(name)
    except (OSError, ValueError) as error:  # the file does not exist yet, or writing it will report why not
        if getattr(error, "errno", 0) == errno.ELOOP:  # os.path.realpath returns the link itself, and the link would be replaced
            raise ModelFileError(f"cannot write {name!r}: it is a link that leads back to itself; give another name.") from error
        found = None
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise ModelFileError(f"cannot write {name!r}: it is a pipe or a device, which a model would replace; give the name of a file.")
    if os.path.islink(name) and _is_strangers(name):
        raise ModelFileError(f"cannot write {name!r}: it is a link of another user in a folder that everybody may write; give another name.")


def _make_alike(descriptor: int, target: str) -> None:
    """Give an open file the owner, the mode and the extended attributes (so its access lists) of another, as far as possible."""
    old = os.stat(target)
    mode = stat.S_IMODE(old.st_mode)
    for user, group in ((old.st_uid, -1), (-1, old.st_gid)):
        with contextlib.suppress(OSError):  # only the superuser may give files away
            os.fchown(descriptor, user, group)
    if os.fstat(descriptor).st_gid != old.st_gid:  # what the old group might do, another one must not
        mode &= ~stat.S_IRWXG
    with contextlib.suppress(OSError):  # a file system without modes
        os.fchmod(descriptor, mode)
    with contextlib.suppress(OSError, AttributeError):  # a file system, or a system, without them
        for name in os.listxattr(target):
            with contextlib.suppress(OSError):  # one that only the superuser may set
                os.setxattr(descriptor, name, os.getxattr(target, name))


def _is_strangers(link: str) -> bool:
    """What Linux calls protected_symlinks, for a link that is resolved here and not by the system."""
    if not hasattr(os, "geteuid"):
        return False
    owner, folder = os.lstat(link).st_uid, os.stat(os.path.dirname(os.path.abspath(link)))
    shared = folder.st_mode & stat.S_ISVTX and folder.st_mode & stat.S_IWOTH
    return bool(shared) and owner not in (os.geteuid(), folder.st_uid)


def expect_room(files: Iterable[tuple[str, int]]) -> None:
    """Raise :class:`ModelFileError` unless files of these names and sizes in bytes can be written now, all of them.

    The bytes are reserved in temporary files, where the system can do that: so a quota and a limit of the process count too.
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
                    f"cannot write {name!r}, for which {amount(size)} are needed: {getattr(error, 'strerror', None) or error}. "
                    "Choose a folder that exists, can be written and has room."
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
    """Remove the temporary files of writers that were killed; ``own``, new and in the same folder, tells what time it is there.

    A file is removed only if nobody has locked it. Where locks do not reach other hosts, one of theirs must also be old.
    """
    with contextlib.suppress(OSError):
        now = os.fstat(own.fileno()).st_mtime
        for entry in os.scandir(folder):
            if entry.name.startswith(PREFIX) and entry.is_file(follow_symlinks=False) and entry.inode() != os.fstat(own.fileno()).st_ino:
                _remove_leftover(entry.path, now)


def _remove_leftover(path: str, now: float) -> None:
    with contextlib.suppress(OSError), open(path, "rb+") as file:  # OSError: it is gone or not ours
        if not lock(file):
            return
        found, named = os.fstat(file.fileno()), os.lstat(path)
        here = os.path.basename(path).startswith(f"{PREFIX}{_host()}-")
        if os.path.samestat(found, named) and (here or now - found.st_mtime > ABANDONED):
            os.unlink(path)


@contextlib.contextmanager
def _temporary(folder: str, mode: int) -> Iterator[tuple[str, BinaryIO]]:
    """Name and file of a new one, locked where the system can; removed at the end unless it has another name then."""
    path, process = "", os.getpid()
    with contextlib.ExitStack() as opened:
        try:
            while True:
                path = os.path.join(folder, f"{PREFIX}{_host()}-{secrets.token_hex(8)}")
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
                file = opened.enter_context(open(os.open(path, flags, mode), "w+b"))
                if lock(file) is not False and is_named(path, file):
                    break  # else another process took it for a leftover in this very moment
            yield path, file
        finally:
            try:
                _discard(path, process)
            except BaseException:  # a signal arrived before the file was removed
                _discard(path, process)
                raise


def _discard(path: str, process: int) -> None:
    """Remove a temporary file that this process made; in a forked child it is the parent's."""
    if os.getpid() == process:
        with contextlib.suppress(OSError, ValueError):  # it was renamed, or never created
            os.unlink(path)


def lock(file: BinaryIO) -> bool | None:
    """Lock an open file; → False if somebody else has, None where files cannot be locked."""
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
    """A lock belongs to an open file, which a forked child shares: it would outlive the parent."""
    for file in [*_locked]:
        getattr(file, "raw", file).close()  # not the buffer, which would write what the parent is writing
    _locked.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_locked)


def is_named(path: str, file: BinaryIO) -> bool:
    """Whether this open file is still the one of this name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _sync_folder(folder: str) -> None:
    """Make the renaming itself survive a power cut, where the system can."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):  # the model is in its place already
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
