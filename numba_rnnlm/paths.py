"""Paths, compared as files."""

import os

Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def same_file(one: Path | None, other: Path | None) -> bool:
    """Whether two paths name one file, which need not exist; None names none.

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
    except (OSError, ValueError):  # one of them does not exist, or is no path at all
        pass
    try:
        return _real(one) == _real(other)
    except ValueError:
        return False


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a file, which need not exist, is in a folder or in one of its folders.

    Examples
    --------
    >>> is_inside("texts/a/b.txt", "./texts"), is_inside("texts.txt", "texts")
    (True, False)
    """
    return _real(path).startswith(os.path.join(_real(folder), ""))


def _real(path: Path) -> str:
    return os.path.normcase(os.path.realpath(os.fsdecode(path)))
