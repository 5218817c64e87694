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


def _real(path: Path) -> str:
    return os.path.normcase(os.path.realpath(os.fsdecode(path)))
