"""Compares paths by the files they name, and opens regular files only."""

import contextlib
import errno
import os
import stat

from .errors import LanguageModelError, ModelFileError

Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def same_file(one: Path | None, other: Path | None) -> bool:
    """Whether two paths name the same file, which need not exist; None names no file.

    Examples
    --------
    >>> same_file("run.npz", "./runs/../run.npz"), same_file("run.npz", "other.npz"), same_file(None, None)
    (True, False, False)
    """
    if one is None or other is None:
        return False
    try:
        if os.path.samefile(one, other):
            return True
    except (OSError, ValueError):  # one of them does not exist or is not a valid path
        pass
    try:
        return _real(one) == _real(other)
    except (OSError, ValueError):  # OSError: a relative path in a current folder that was removed
        return False


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a file, which need not exist, is in a folder or one of its subfolders.

    Examples
    --------
    >>> is_inside("texts/a/b.txt", "./texts"), is_inside("texts.txt", "texts")
    (True, False)
    """
    return _real(path).startswith(os.path.join(_real(folder), ""))


def is_empty(file: Path | int) -> bool:
    """Whether a file, given by path or descriptor, is an empty regular file. Raises OSError if it cannot be inspected.

    Files in ``/proc``, ``/sys`` and the like do not count as empty although their size is 0, because writing to one changes the system.
    They are recognised by their file system, which has no blocks.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     is_empty(file.name)
    True
    """
    found = os.stat(file)
    return stat.S_ISREG(found.st_mode) and not found.st_size and (not hasattr(os, "statvfs") or os.statvfs(file).f_blocks > 0)


def regular(name: str, flags: int) -> int:
    """An ``opener`` for :func:`open` that raises OSError for a pipe, a device or a socket, without opening it.

    Opening a pipe waits for its other end, and opening a device can have any effect.

    Examples
    --------
    >>> with open(os.devnull, opener=regular):
    ...     pass
    Traceback (most recent call last):
    OSError: [Errno 22] it is a pipe, a device or a socket, expected a file
    """
    with contextlib.suppress(FileNotFoundError):
        _expect_regular(os.stat(name))
    descriptor = os.open(name, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0), 0o666)
    try:
        _expect_regular(os.fstat(descriptor))  # the path may name another file since the first check
        if hasattr(os, "O_NONBLOCK"):
            os.set_blocking(descriptor, True)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _expect_regular(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):  # open() itself rejects folders
        raise OSError(errno.EINVAL, "it is a pipe, a device or a socket, expected a file")


def real_path(path: Path, error: type[LanguageModelError] = ModelFileError) -> str:
    """The absolute path of a file, which need not exist, with all symbolic links resolved.

    Raises ``error`` for a relative path if the current folder no longer exists, and ValueError for an invalid path.
    """
    name = os.fsdecode(path)
    try:
        return os.path.realpath(name)
    except OSError as cause:  # from os.getcwd; other missing folders raise no error
        raise error(f"cannot resolve {name!r}: the current folder was removed or cannot be read. Change to another folder (cd, os.chdir), or "
                    "give an absolute path.") from cause


def _real(path: Path) -> str:
    return os.path.normcase(real_path(path))
