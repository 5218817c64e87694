"""The disk cache of compiled kernels.

Each file holds one kernel. Its name contains a digest of everything the kernel is made from, and it starts with a digest of its
name and content. So whatever other processes, full disks or strangers do to the folder, a load returns what was saved under
that name, or nothing. Files are written under a temporary name and renamed: no lock and no index are needed.

Kernels are code: only files that belong to the user or to root, and that nobody else can write to, are loaded.
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

KEPT_VERSIONS = 4  # folders kept of other library versions or processors; older ones are removed
ABANDONED = 3600.0  # seconds after which an unfinished file is removed
_DIGEST = hashlib.sha256().digest_size


def cache_folder() -> Path | None:
    """The folder for kernels of all versions: below NUMBA_CACHE_DIR or in the user's cache folder; None without a home.

    It is not next to the source, Numba's default: an uninstaller would leave it behind, and Python would import the leftover
    folder as the package.
    """
    if config.CACHE_DIR:  # type: ignore[attr-defined]
        return Path(os.path.abspath(config.CACHE_DIR), "numba_rnnlm")  # type: ignore[attr-defined]
    return _user_folder()


def problem_of(version: str = "") -> str:
    """Why kernels cannot be stored in :func:`cache_folder`, or in its subfolder for a version; empty if they can."""
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
        if not os.path.isabs(base):  # the XDG specification says to ignore relative paths
            base = os.path.join(home, ".cache")
    return Path(base, "numba_rnnlm")


class Store:
    """The stored kernels of one version of the library on one kind of processor.

    Parameters
    ----------
    version
        A word, a hyphen and a digest, for example ``"cpu-0123abcd"``. Each version has its own folder.
    """

    def __init__(self, version: str) -> None:
        self.version = version
        self.failure = ""  # why the first failed save failed; empty if all succeeded
        self._numbers = count()

    @cached_property
    def problem(self) -> str:
        """Why the preferred folder is not used, or only read from; empty if it is used."""
        return problem_of(self.version)

    @cached_property
    def _folders(self) -> list[Path]:
        """Folders to search, in order. The user's own folder is the second if the preferred one cannot be read or written."""
        choices = [cache_folder()] + ([_user_folder()] if self.problem else [])
        return [folder / self.version for folder in dict.fromkeys(choices)
                if folder is not None and not _why_not_trusted(folder / self.version)]  # fmt: skip

    @property
    def writable(self) -> Path | None:
        """The folder to save to; None if every process has to compile its own kernels."""
        return next((folder for folder in self._folders if not _why_not_writable(folder)), None)

    def about(self) -> str:
        """A sentence for the user: where kernels are loaded from and saved, or why not."""
        filled = [folder for folder in self._folders if folder.is_dir() and folder != self.writable]
        told = [f"read from {folder}" for folder in filled]
        told += [f"stored in {self.writable}"] if self.writable else ["not stored: every process compiles those that are missing"]
        return ", ".join(told) + (f" ({self.problem})" if self.problem else "")

    def load(self, name: str) -> bytes | None:
        """The content saved under this name, or None if it is missing or damaged."""
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
        """Store a kernel for other processes. A failure is only a warning, once: this process has the kernel anyway."""
        folder = self.writable
        try:
            if folder is None:
                raise OSError(0, self.problem)
            if not os.path.isdir(folder):
                for missing in (*reversed([path for path in folder.parents if not os.path.isdir(path)]), folder):
                    missing.mkdir(mode=0o755, exist_ok=True)  # others must not write here, whatever the umask allows
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
        """Remove the oldest versions and unfinished files; called when a new version is first saved."""
        kind = self.version.partition("-")[0]
        with contextlib.suppress(OSError):  # another process may be doing the same
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
                 "that, set NUMBA_CACHE_DIR to a folder that you can write to.", RuntimeWarning)  # fmt: skip


def _digest(name: str, body: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\0" + body).digest()


def _why_not_trusted(folder: Path) -> str:
    try:
        return _trust(folder.stat())
    except (FileNotFoundError, NotADirectoryError):
        return ""  # _why_not_writable tells whether it can be created
    except OSError as error:
        return f"it cannot be read ({error.strerror})"


def _trust(found: os.stat_result) -> str:
    """Why a file or folder is not trusted; empty if it belongs to the user or to root and nobody else can write to it."""
    if not hasattr(os, "geteuid"):  # Windows, where a user's folders are private
        return ""
    if found.st_uid not in (0, os.geteuid()):
        return f"it belongs to user {found.st_uid}, not to root or to you (user {os.geteuid()})"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others can write to it (mode {stat.S_IMODE(found.st_mode):o})"
    return ""


def _why_not_writable(folder: Path) -> str:
    existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not os.path.isdir(existing):
        return f"{str(existing)!r} is not a folder"
    return "" if os.access(existing, os.W_OK | os.X_OK) else "permission denied, or a read-only file system"
