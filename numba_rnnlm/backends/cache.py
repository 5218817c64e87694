"""Where compiled kernels are stored, and what is read back from there.

A file holds one kernel. Its name contains a digest of everything that the kernel is made from, and it begins with a digest of
its name and the rest. So whatever other processes, full disks or strangers do in the folder, what is read is what was stored under
that name, or nothing. Files are written beside their place and renamed into it: there is no lock and no index.

Kernels are code. Only files are read that belong to the user or to root and that nobody else may write.
"""

import contextlib
import hashlib
import os
import re
import shutil
import stat
import sys
import time
from functools import cached_property
from itertools import count
from pathlib import Path

from numba import config

from ..reports import warn

KEPT_VERSIONS = 4  # folders of other versions of the library, or for other processors, that stay; older ones are removed
ABANDONED = 3600.0  # seconds after which a file that was never finished is removed
_DIGEST = hashlib.sha256().digest_size


def cache_folder() -> Path | None:
    """The folder for kernels of every version: below NUMBA_CACHE_DIR, or among the user's caches; None without a home.

    It is not beside the source, where Numba would put it: an installer does not remove what it did not write, and Python would
    import a folder that is left over as if it were the package.
    """
    if config.CACHE_DIR:  # type: ignore[attr-defined]
        return Path(os.path.abspath(config.CACHE_DIR), "numba_rnnlm")  # type: ignore[attr-defined]
    return _user_folder()


def problem_of(version: str = "") -> str:
    """Why kernels cannot be stored in :func:`cache_folder`, or in its folder for a version; empty if they can."""
    base = cache_folder()
    if base is None:
        return "this user has no home folder"
    if why := _why_not_trusted(base / version):
        return f"{str(base)!r} is not used, because {why}"
    if why := _why_not_writable(base / version):
        return f"{str(base)!r} cannot be written ({why})"
    return ""


def _user_folder() -> Path | None:
    home = os.path.expanduser("~")
    if not os.path.isabs(home):
        return None
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or os.path.join(home, "AppData", "Local")
    elif sys.platform == "darwin":
        base = os.path.join(home, "Library", "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME", "")
        if not os.path.isabs(base):  # the XDG specification: a relative path is ignored
            base = os.path.join(home, ".cache")
    return Path(base, "numba_rnnlm")


class Store:
    """The stored kernels of one version of the library on one kind of processor.

    Parameters
    ----------
    version
        A word, a hyphen and a digest, for example ``"cpu-0123abcd"``. Each version has a folder of its own.
    """

    def __init__(self, version: str) -> None:
        self.version = version
        self.failure = ""  # why something could not be stored; empty as long as everything could
        self._numbers = count()

    @cached_property
    def problem(self) -> str:
        """Why the first choice of a folder is not used, or only read; empty if it is used."""
        return problem_of(self.version)

    @cached_property
    def _folders(self) -> list[Path]:
        """Where to look, in order. The user's own folder comes second if the first choice cannot be read or written."""
        choices = [cache_folder()] + ([_user_folder()] if self.problem else [])
        return [folder / self.version for folder in dict.fromkeys(choices)
                if folder is not None and not _why_not_trusted(folder / self.version)]  # fmt: skip

    @property
    def writable(self) -> Path | None:
        """Where kernels are stored; None if every process has to compile its own."""
        return next((folder for folder in self._folders if not _why_not_writable(folder)), None)

    def about(self) -> str:
        """Where kernels are read and stored, or why they are not, for people to read."""
        filled = [folder for folder in self._folders if folder.is_dir() and folder != self.writable]
        told = [f"read from {folder}" for folder in filled]
        told += [f"stored in {self.writable}"] if self.writable else ["not stored: every process compiles those that are missing"]
        return ", ".join(told) + (f" ({self.problem})" if self.problem else "")

    def load(self, name: str) -> bytes | None:
        """What :meth:`save` stored under this name, or None if it is missing or damaged."""
        for folder in self._folders:
            try:
                with open(folder / name, "rb") as file:
                    content = b"" if _trust(os.fstat(file.fileno())) else file.read()
            except OSError:
                continue
            if content[:_DIGEST] == _digest(name, content[_DIGEST:]):
                return content[_DIGEST:]
        return None

    def save(self, name: str, body: bytes) -> None:
        """Store it for other processes. Where that fails, this process has it nevertheless, and one warning says why."""
        folder = self.writable
        try:
            if folder is None:
                raise OSError(0, self.problem)
            if not os.path.isdir(folder):
                for missing in (*reversed([path for path in folder.parents if not os.path.isdir(path)]), folder):
                    missing.mkdir(mode=0o755, exist_ok=True)  # whatever the umask: others do not write here
                self._sweep(folder)
            self._write(folder / name, _digest(name, body) + body)
        except OSError as error:
            self._warn(self.problem or f"{str(folder)!r} cannot be written ({error.strerror})")

    def _write(self, path: Path, content: bytes) -> None:
        part = path.with_name(f"{path.name}.{os.getpid()}-{next(self._numbers)}.part")
        try:
            with open(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o644), "wb") as file:
                file.write(content)
            os.replace(part, path)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink()
            raise

    def _sweep(self, folder: Path) -> None:
        """A new version: remove the folders of the oldest ones, and what was never finished."""
        kind = self.version.partition("-")[0]
        with contextlib.suppress(OSError):  # another process does the same
            versions = [path for path in folder.parent.iterdir() if re.fullmatch(rf"{kind}-[0-9a-f]+", path.name)]
            versions.sort(key=lambda path: path.stat().st_mtime, reverse=True)
            for path in versions[KEPT_VERSIONS + 1 :]:
                shutil.rmtree(path, ignore_errors=True)
            for path in folder.parent.glob(f"{kind}-*/*.part"):
                if time.time() - path.stat().st_mtime > ABANDONED:
                    path.unlink()

    def _warn(self, problem: str) -> None:
        if not self.failure:
            self.failure = problem
            warn(f"compiled kernels are not stored: {problem}. Every process compiles those that are missing; to avoid "
                 "that, set NUMBA_CACHE_DIR to a folder that you can write.", RuntimeWarning)  # fmt: skip



def _digest(name: str, body: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\0" + body).digest()


def _why_not_trusted(folder: Path) -> str:
    try:
        return _trust(folder.stat())
    except (FileNotFoundError, NotADirectoryError):
        return ""  # whether it can be made is another question
    except OSError as error:
        return f"it cannot be read ({error.strerror})"


def _trust(found: os.stat_result) -> str:
    """Empty if a file or folder belongs to the user or to root and nobody else may write it; else why not."""
    if not hasattr(os, "geteuid"):  # Windows, where a user's folders are the user's alone
        return ""
    if found.st_uid not in (0, os.geteuid()):
        return f"it belongs to user {found.st_uid}, and not to root or to you, user {os.geteuid()}"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others can write it (mode {stat.S_IMODE(found.st_mode):o})"
    return ""


def _why_not_writable(folder: Path) -> str:
    existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not os.path.isdir(existing):
        return f"{str(existing)!r} is no folder"
    return "" if os.access(existing, os.W_OK | os.X_OK) else "permission denied, or a read-only file system"
