"""A model in one ``.npz`` file: no pickle, readable with ``numpy.load(path, allow_pickle=False)``.

Members: ``about``, JSON in UTF-8 bytes (format, version, kind, configuration, vocabulary, history); and one
float array per weight, named ``weights/<layer>/<weight>``.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import ModelFileError

FORMAT = "numba_rnnlm"
VERSION = 1

Path = str | os.PathLike[str]


def write_model(path: Path, kind: str, about: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> None:
    """Write a model file; whatever was at ``path`` stays whole until the new file is complete.

    Raises
    ------
    ModelFileError
        If the folder is missing, read-only or full; an older file at ``path`` is untouched.
    """
    header = json.dumps({"format": FORMAT, "version": VERSION, "kind": kind, **about}, sort_keys=True)
    members = {"about": np.frombuffer(header.encode("utf-8"), np.uint8)}
    members |= {f"weights/{name}": array for name, array in weights.items()}
    name = os.fsdecode(path)
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
        If it is missing, truncated, damaged, not a model, or from a newer version.
    """
    name = os.fsdecode(path)
    if not os.path.isfile(name):
        raise ModelFileError(f"there is no model file {name!r}.")
    try:
        file = np.load(name, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile) or "about" not in file.files:
            raise ModelFileError(f"{name!r} is not a numba_rnnlm model: it has no member 'about'.")
        with file:
            about = json.loads(file["about"].tobytes().decode("utf-8"))
            _check_header(name, about)
            prefix = "weights/"
            weights = {key.removeprefix(prefix): file[key] for key in file.files if key.startswith(prefix)}
    except ModelFileError:
        raise
    except Exception as error:  # damaged bytes make zipfile, NumPy and json raise nearly anything
        raise ModelFileError(
            f"{name!r} cannot be read as a numba_rnnlm model: it is damaged, truncated or another kind of file "
            f"({error})."
        ) from error
    for key, array in weights.items():
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise ModelFileError(f"{name!r} is damaged: weight {key!r} holds something other than finite numbers.")
    return about, weights


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
