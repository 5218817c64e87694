"""A model in one ``.npz`` file: no pickle, readable with ``numpy.load(path, allow_pickle=False)``.

Members: ``about``, JSON in UTF-8 bytes (format, version, kind, configuration, vocabulary, history); and one
float array per weight, named ``weights/<layer>/<weight>``.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..errors import ModelFileError

FORMAT = "numba_rnnlm"
VERSION = 1
ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")  # of an archive with members, of an empty one

Path = str | os.PathLike[str]


def write_model(path: Path, kind: str, about: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> None:
    """Write a model file; whatever was at ``path`` stays whole until the new file is complete.

    Raises
    ------
    ModelFileError
        If the folder is missing, read-only or full, or ``path`` is no path of a file; an older file is untouched.
    """
    name = _file_name(path)
    if os.path.isdir(name):
        raise ModelFileError(f"cannot write {name!r}: it is a directory; give the name of a file, such as model.npz.")
    header = json.dumps({"format": FORMAT, "version": VERSION, "kind": kind, **about}, sort_keys=True)
    members = {"about": np.frombuffer(header.encode("utf-8"), np.uint8)}
    members |= {f"weights/{name}": array for name, array in weights.items()}
    folder = os.path.dirname(os.path.abspath(name))
    temporary = ""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".numba_rnnlm-", delete=False) as file:
            temporary = file.name
            np.savez(file, **members)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, name)
        _sync_folder(folder)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ModelFileError(
            f"cannot write {name!r}: {getattr(error, 'strerror', None) or error}. Nothing that was there has changed; "
            "choose a folder that exists, can be written and has room."
        ) from error
    finally:
        with contextlib.suppress(FileNotFoundError):  # it has become the model, or was never made
            os.unlink(temporary)


def read_model(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(about, weights) of a model file.

    Raises
    ------
    ModelFileError
        If it is missing, truncated, damaged, not a model, or from a newer version; or ``path`` is no path.
    """
    name = _file_name(path)
    with _opened(name) as (about, file):
        prefix = "weights/"
        weights = {key.removeprefix(prefix): file[key] for key in file.files if key.startswith(prefix)}
    for key, array in weights.items():
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise ModelFileError(f"{name!r} is damaged: weight {key!r} holds something other than finite numbers.")
    return about, weights


def read_about(path: Path) -> dict[str, Any]:
    """What a model file says about itself; the weights are not read. Raises as :func:`read_model`."""
    with _opened(_file_name(path)) as (about, _):
        return about


def _file_name(path: Any) -> str:
    try:
        return os.fsdecode(path)
    except TypeError:
        raise ModelFileError(f"path is {path!r}, expected a path such as 'model.npz'.") from None


@contextlib.contextmanager
def _opened(name: str) -> Iterator[tuple[dict[str, Any], Any]]:
    """(about, archive) of a model file; whatever goes wrong while the archive is read is a ModelFileError."""
    if os.path.isdir(name):
        raise ModelFileError(f"{name!r} is a directory, expected a model file.")
    if not os.path.isfile(name):
        raise ModelFileError(f"there is no model file {name!r}.")
    try:
        with open(name, "rb") as start:
            # NumPy would take anything else for a pickle, and advise to load it.
            if start.read(4) not in ZIP_STARTS:
                raise ModelFileError(f"{name!r} is not a numba_rnnlm model file: it is not a zip archive.")
    except PermissionError as error:
        raise ModelFileError(f"cannot read {name!r}: {error.strerror}.") from error
    try:
        with np.load(name, allow_pickle=False) as file:
            if "about" not in file.files:
                raise ModelFileError(f"{name!r} is not a numba_rnnlm model: it has no member 'about'.")
            about = json.loads(file["about"].tobytes().decode("utf-8"))
            _check_header(name, about)
            yield about, file
    except ModelFileError:
        raise
    except Exception as error:  # damaged bytes make zipfile, NumPy and json raise nearly anything
        raise ModelFileError(
            f"{name!r} cannot be read as a numba_rnnlm model: it is damaged, truncated or another kind of file."
        ) from error


def _check_header(name: str, about: Any) -> None:
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ModelFileError(f"{name!r} is not a numba_rnnlm model.")
    version = about.get("version")
    if not isinstance(version, int) or version < 1:
        raise ModelFileError(f"{name!r} has format version {version!r}, expected a whole number from 1.")
    if version > VERSION:
        raise ModelFileError(
            f"{name!r} has format version {version}; this numba_rnnlm reads up to {VERSION}. "
            "Upgrade with: pip install --upgrade numba-rnnlm"
        )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: str) -> None:
    """Make the renaming itself survive a power cut, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # the model is in its place already
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
