"""Named arrays and a header in one ``.npz`` file: written in one piece, and nothing believed when it is read.

Members: ``about``, JSON in UTF-8 bytes (format, version, kind, and what the writer adds); and one float array each, named
``<group>/<name>``, as ``weights/lstm/U``. They are stored as they are, not compressed, each with its CRC-32, so nothing
that is read takes more memory than a few times the bytes of the file. ``numpy.load(path, allow_pickle=False)`` reads it.

Files that ``numpy.savez`` wrote are read too: floats of 16, 32 or 64 bits, in either byte order and in C's or Fortran's order. Every
other kind of array is refused by an error that names it.
"""

import contextlib
import json
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import Any, Literal

import numpy as np

from ..errors import ModelFileError, expect_path
from .writing import STARTS, replacing

FORMAT = "numba_rnnlm"
VERSION = 2  # of the files written; all from 1 on are read
NPY_START = b"\x93NUMPY\x01\x00"
# As NumPy writes it. NumPy itself reads far more: whatever Python can parse, and with warnings.
NPY_HEADER = re.compile(rb"\{'descr': (.*), 'fortran_order': (True|False), 'shape': \(([\d, ]*)\), \} *\n")
READ = re.compile(rb"'(\|u1|[<>]f[248])'")  # bytes of the header, and weights
CHUNK = 2**20  # elements that are looked at at once
MEMBER_BYTES = 1024  # of a member, beside its array: its own header and its entries in the archive
LARGEST_HEADER = 256 * 2**20  # bytes of JSON; parsed, it takes several times as many

Path = str | os.PathLike[str]
Arrays = Iterable[tuple[str, np.ndarray]]


def write_model(path: Path, kind: str, about: Mapping[str, Any], groups: Mapping[str, Arrays]) -> None:
    """Write a file; whatever was at ``path`` stays whole until the new file is complete.

    Parameters
    ----------
    path
        Where to.
    kind, about
        What it is, and what else the header says: plain values for JSON.
    groups
        Group → pairs of a name and an array. They are taken one by one: no more than one needs to be in memory.

    Raises
    ------
    ModelFileError
        If the folder is missing, read-only or full, ``path`` is no path of a file, or what is there is not a model; it stays as it is.
    """
    name = _file_name(path)
    header = _header(kind, about)
    with replacing(name) as file, zipfile.ZipFile(file, "w") as archive:
        _write_member(archive, "about", np.frombuffer(header, np.uint8))
        for group, arrays in groups.items():
            for key, array in arrays:
                _write_member(archive, f"{group}/{key}", array)


def model_bytes(kind: str, about: Mapping[str, Any], members: int, weights: int) -> int:
    """At most how many bytes a file of :func:`write_model` has with so many arrays, of so many bytes together."""
    return len(_header(kind, about)) + weights + (1 + members) * MEMBER_BYTES


def _header(kind: str, about: Mapping[str, Any]) -> bytes:
    header = {"format": FORMAT, "version": VERSION, "kind": kind, **about}
    return json.dumps(header, sort_keys=True, allow_nan=False).encode("utf-8")


def _write_member(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    # ZipInfo has a date of its own, 1980: equal arrays are equal bytes.
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
        np.lib.format.write_array(member, array, allow_pickle=False)


class ModelFile:
    """An open file, its header read and checked.

    Attributes
    ----------
    name
        Of the file.
    about
        The header.
    """

    def __init__(self, name: str, archive: zipfile.ZipFile) -> None:
        self.name, self._archive = name, archive
        self._members = _checked_members(name, archive)
        if "about" not in self._members:
            raise ModelFileError(f"{name!r} is not a numba_rnnlm model: it has no member 'about'.")
        if self._members["about"].file_size > LARGEST_HEADER:
            raise ModelFileError(f"{name!r} is damaged: its header is larger than any vocabulary.")
        self.about: dict[str, Any] = json.loads(self._array("about").tobytes().decode("utf-8"))
        _check_header(name, self.about)

    @property
    def groups(self) -> list[str]:
        """The groups of arrays; the name of one may have a slash in it, as ``moments/0``."""
        found = (key.split("/") for key in self._members if "/" in key)
        return list(dict.fromkeys("/".join(parts[: 1 + parts[1].isdigit()]) for parts in found))

    def group(self, name: str, finite: bool = True) -> dict[str, np.ndarray]:
        """The arrays of a group, by their names: floats that float32 can hold, and if ``finite`` neither NaN nor infinite.

        In C's order and the byte order of this machine, whatever they are in the file.
        """
        prefix = f"{name}/"
        arrays = {key.removeprefix(prefix): self._array(key) for key in self._members if key.startswith(prefix)}
        for key, array in arrays.items():
            if array.dtype.kind != "f":
                raise self._foreign(f"{prefix}{key}", array.dtype.str)
            if not _fits(array, finite):
                raise ModelFileError(f"{self.name!r} is damaged: weight {key!r} holds something other than finite numbers.")
        return arrays

    def _array(self, key: str) -> np.ndarray:
        """One member; no byte is set aside for it that the file does not have."""
        member = self._members[key]
        with self._archive.open(member) as file:
            start = file.read(len(NPY_START) + 2)
            header = NPY_HEADER.fullmatch(file.read(int.from_bytes(start[-2:], "little")))
            if start.startswith(NPY_START) and header is not None:
                if not READ.fullmatch(header[1]):
                    raise self._foreign(key, header[1].decode("ascii", "replace"))
                dtype, shape = np.dtype(header[1][1:-1].decode()), tuple(map(int, re.findall(rb"\d+", header[3])))
                if prod(shape) * dtype.itemsize == member.file_size - file.tell():
                    order: Literal["F", "C"] = "F" if header[2] == b"True" else "C"
                    array = np.frombuffer(file.read(), dtype).reshape(shape, order=order)  # to the end, so the CRC-32 is compared
                    return np.require(array, dtype.newbyteorder("="), "C")
        raise ModelFileError(f"{self.name!r} is damaged: {key!r} is not the array that it says it is.")

    def _foreign(self, key: str, kind: str) -> ModelFileError:
        """The error for an array of a kind that no model has."""
        if kind == "'|O'":
            return ModelFileError(f"{self.name!r} holds Python objects as {key!r}: they are pickled, and a pickle can run any code, so "
                                  "it is not read. Save plain arrays of float32.")
        shown = ascii(kind.strip("'")[:100])[1:-1]
        return ModelFileError(f"{self.name!r} holds an array of type {shown} as {key!r}, expected floats of 16, 32 or 64 bits. If they "
                              "are weights, convert them, array.astype(numpy.float32), and save them again.")


@contextlib.contextmanager
def open_model(path: Path) -> Iterator[ModelFile]:
    """A file, open for reading; whatever goes wrong while it is read is a :class:`ModelFileError`.

    Raises
    ------
    ModelFileError
        If it is missing, truncated, damaged, not a model, or from a newer version; or ``path`` is no path.
    """
    name = _file_name(path)
    if os.path.isdir(name):
        raise ModelFileError(f"{name!r} is a directory, expected a model file.")
    if not os.path.isfile(name):
        raise ModelFileError(f"there is no model file {name!r}.")
    try:
        with open(name, "rb") as file:
            if file.read(4) not in STARTS:
                raise ModelFileError(f"{name!r} is not a numba_rnnlm model file: it is not a zip archive.")
            with zipfile.ZipFile(file) as archive:
                yield ModelFile(name, archive)
    except ModelFileError:
        raise
    except PermissionError as error:
        raise ModelFileError(f"cannot read {name!r}: {error.strerror}.") from error
    except Exception as error:  # damaged bytes make zipfile, NumPy and json raise nearly anything
        raise ModelFileError(
            f"{name!r} cannot be read as a numba_rnnlm model: it is damaged, truncated or another kind of file."
        ) from error


def read_about(path: Path) -> dict[str, Any]:
    """What a file says about itself; its arrays are not read. Raises as :func:`open_model`."""
    with open_model(path) as file:
        return file.about


def _checked_members(name: str, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The members by their names, none of which is more than it takes in the file."""
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        key = member.filename.removesuffix(".npy")
        if key in members or key == member.filename or key.startswith("/") or ".." in key.split("/") or "\\" in key:
            raise ModelFileError(f"{name!r} is not a numba_rnnlm model: it has a member {member.filename!r}.")
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise ModelFileError(
                f"{name!r} has a compressed member, {member.filename!r}: compressed files are not read, because a small one "
                "can fill any memory. If you trust it, load its arrays with numpy.load and write them with numpy.savez."
            )
        members[key] = member
    if sum(member.file_size for member in members.values()) > os.path.getsize(name):
        raise ModelFileError(f"{name!r} is damaged: its members overlap.")
    return members


def _fits(array: np.ndarray, finite: bool) -> bool:
    """Whether all of it are numbers of float32, as models have them; with ``finite`` neither NaN nor infinity."""
    flat = array.reshape(-1)
    for start in range(0, flat.size, CHUNK):
        piece = flat[start : start + CHUNK]
        with np.errstate(all="ignore"):
            fits = np.isfinite(piece.astype(np.float32, copy=False))
        if not (fits if finite else fits | ~np.isfinite(piece)).all():
            return False
    return True


def _file_name(path: Any) -> str:
    return expect_path("path", path, "model.npz", ModelFileError)


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
