"""Named arrays and a header in one ``.npz`` file: written in one piece, and nothing believed when it is read.

Members: ``about``, JSON in UTF-8 bytes (format, version, kind, and what the writer adds); and one float array each, named
``<group>/<name>``, as ``weights/lstm/U``. They are stored as they are, not compressed, each with its CRC-32.
``numpy.load(path, allow_pickle=False)`` reads it.

Reading takes time and memory in proportion to the file: the directory is at most half of it, a member is no larger than it is, and
the header has no more values than a model of that size needs (:func:`_expect_modest`).

Files that ``numpy.savez`` wrote are read too: floats of 16, 32 or 64 bits, in either byte order and in C's or Fortran's order. Every
other kind of array is refused by an error that names it.
"""

import contextlib
import io
import json
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from math import isfinite, prod
from typing import Any, Literal

import numpy as np

from ..display import clean
from ..errors import ModelFileError, expect_path
from ..paths import is_empty, regular
from . import writing

FORMAT = "numba_rnnlm"
VERSION = 2  # of the files written; all from 1 on are read
STARTS = (b"PK\x03\x04", b"PK\x05\x06")  # how a zip archive begins, one with members and an empty one
NPY_START = b"\x93NUMPY\x01\x00"
# As NumPy writes it. NumPy itself reads far more: whatever Python can parse, and with warnings.
NPY_HEADER = re.compile(rb"\{'descr': (.*), 'fortran_order': (True|False), 'shape': \(([\d, ]*)\), \} *\n")
READ = re.compile(rb"'(\|u1|[<>]f[248])'")  # bytes of the header, and weights
CHUNK = 2**20  # elements that are looked at at once
MEMBER_BYTES = 1024  # of a member, beside its array: its own header and its entries in the archive
GROUP = re.compile(r"(weights|good|state|moments/[0-9]{1,2})/(.+)", re.DOTALL)  # a member that is not the header
FINITE = ("weights", "good")  # groups whose numbers must be finite; a state or a moment may have run away
MOST_MEMBERS = 20_000  # a checkpoint of 1,000 layers has some 13,000
LONGEST_NAME = 1000  # characters of a member's name
DEEPEST = 32  # levels of lists and objects in a header; those we write have 5
SMALL = 2**17  # bytes: a directory that is never too large
# Of a JSON text what tells how many values it has: a string, with the colon behind a key; the beginning of a list or an object; a comma. A
# string without an end ends with the text, and the quantifiers are possessive: no text takes more than one pass.
TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?+(?:\s*+:)?+|\[|\{|,', re.DOTALL)
# What Python makes of it, at most: of a key, a string, a list, an object, and of a number in front of a comma; a string has a comma, too.
TOKEN_BYTES = {ord(":"): 180, ord('"'): 44, ord("["): 90, ord("{"): 240, ord(","): 40}
HEADER_BYTES = 6, 2**20  # what all values of a header may take: so many times the file, and so many bytes more

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
        If the folder is missing, read-only or full, ``path`` is no path of a file, or a file that is not a model exists; it stays as it is. Or
        if an array holds numbers that reading would refuse.
    """
    name = file_name(path)
    header = _header(kind, about)
    expect_replaceable(name)
    with writing.replacing(name) as file, zipfile.ZipFile(file, "w") as archive:
        _write_member(archive, "about", np.frombuffer(header, np.uint8))
        for group, arrays in groups.items():
            for key, array in arrays:
                if not _fits(array, group in FINITE):
                    raise ModelFileError(f"cannot write {name!r}: {group}/{key} holds NaN, infinity or numbers beyond float32, which no model file "
                                         "may have. Nothing that was there has changed.")
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

    def __init__(self, name: str, file: "_Watched") -> None:
        self.name = name
        size = os.fstat(file.fileno()).st_size
        file.most = max(size // 2, SMALL)  # zipfile reads the directory in one piece, and makes much of each entry
        self._archive = zipfile.ZipFile(file)
        file.most = None
        self._members = _checked_members(name, self._archive, size)
        if "about" not in self._members:
            raise ModelFileError(f"{name!r} is not a numba_rnnlm model: it has no member 'about'.")
        self._groups: dict[str, list[str]] = {}
        for key in self._members:
            if key != "about":
                self._groups.setdefault(_group(name, key), []).append(key)
        header = self._array("about")
        if header.dtype != np.uint8:
            raise self._foreign("about", header.dtype.str)
        _expect_modest(name, header.data, size)
        text = str(header.data, "utf-8")
        del header
        try:
            self.about: dict[str, Any] = json.loads(text, object_pairs_hook=_unique, parse_float=_finite, parse_constant=_finite)
        except ValueError as error:
            raise ModelFileError(f"{name!r} is damaged: its header cannot be read ({error}).") from clean(error)
        _check_header(name, self.about)
        _expect_flat(name, self.about)

    @property
    def groups(self) -> list[str]:
        """The groups of arrays: weights, good, state, moments/0, …"""
        return list(self._groups)

    def group(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of a group, by their names: floats that float32 can hold, and of :data:`FINITE` neither NaN nor infinite.

        In C's order and the byte order of this machine, whatever they are in the file.
        """
        return {key.removeprefix(f"{name}/"): self._weights(key, name in FINITE) for key in self._groups.get(name, ())}

    def _weights(self, key: str, finite: bool) -> np.ndarray:
        array = self._array(key)
        if array.dtype.kind != "f":
            raise self._foreign(key, array.dtype.str)
        if not _fits(array, finite):
            raise ModelFileError(f"{self.name!r} is damaged: {key!r} holds something other than finite numbers.")
        return array

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


def _opened(name: str) -> io.FileIO:
    try:
        return open(name, "rb", 0, opener=regular)
    except OSError as error:
        raise ModelFileError(f"cannot read {name!r}: {error.strerror}.") from error


@contextlib.contextmanager
def open_model(path: Path) -> Iterator[ModelFile]:
    """A file, open for reading; whatever goes wrong while it is read is a :class:`ModelFileError`.

    Raises
    ------
    ModelFileError
        If it is missing, cannot be opened, is truncated, damaged, not a model, or from a newer version; or ``path`` is no path.
    """
    name = file_name(path)
    if os.path.isdir(name):
        raise ModelFileError(f"{name!r} is a directory, expected a model file.")
    if not os.path.exists(name):
        raise ModelFileError(f"there is no model file {name!r}.")
    try:
        with _opened(name) as raw, _Watched(raw) as file:
            if file.read(4) not in STARTS:
                raise ModelFileError(f"{name!r} is not a numba_rnnlm model file: it is not a zip archive.")
            yield ModelFile(name, file)
    except ModelFileError:
        raise
    except MemoryError as error:
        raise ModelFileError(f"{name!r} cannot be read: there is not enough memory for it. Close other programs, or raise this process's limit "
                             "of memory.") from error
    except Exception as error:  # damaged bytes make zipfile, NumPy and json raise nearly anything
        raise ModelFileError(
            f"{name!r} cannot be read as a numba_rnnlm model: it is damaged, truncated or another kind of file."
        ) from clean(error)


def read_about(path: Path) -> dict[str, Any]:
    """What a file says about itself; its arrays are not read. Raises as :func:`open_model`."""
    with open_model(path) as file:
        return file.about


class _Watched(io.BufferedReader):
    """A file of which no more is read at once than ``most`` bytes, if that is not None."""

    most: int | None = None

    def read(self, size: int | None = -1, /) -> bytes:
        if self.most is not None and size is not None and size > self.most:
            raise ValueError("the directory is larger than the members that it lists")
        return super().read(size)


def expect_replaceable(path: Path) -> None:
    """Raise :class:`ModelFileError` where a model must not replace what exists at ``path``.

    That is whatever is not a model that this version reads: a folder, a pipe, a text, another archive, a damaged model, and what cannot be
    opened. An empty file may be replaced.
    """
    name = file_name(path)
    writing.expect_replaceable(name)
    try:
        exists = os.path.isfile(name) and not is_empty(name)
    except (OSError, ValueError):  # the writing itself will say why not
        return
    if exists:
        try:
            read_about(name)
        except ModelFileError as error:
            if isinstance(error.__cause__, OSError | MemoryError):  # it may be a good one
                reason = getattr(error.__cause__, "strerror", None) or "not enough memory"
                raise ModelFileError(f"cannot write {name!r}, which exists and cannot be read to see whether it is a model: {reason}.") from error
            raise ModelFileError(f"cannot write {name!r}: this file is not a model of this numba_rnnlm and is not overwritten; give "
                                 "another name, or delete it.") from error


def _checked_members(name: str, archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The members by their names, none of which is more than it takes in the file, whose size in bytes is ``size``."""
    members: dict[str, zipfile.ZipInfo] = {}
    found = archive.infolist()
    if len(found) > MOST_MEMBERS:
        raise ModelFileError(f"{name!r} is not a numba_rnnlm model: it has {len(found):,} members, more than {MOST_MEMBERS:,}.")
    for member in found:
        key = member.filename.removesuffix(".npy")
        if (key in members or key == member.filename or key.startswith("/") or ".." in key.split("/") or "\\" in key
                or len(key) > LONGEST_NAME):
            raise ModelFileError(f"{name!r} is not a numba_rnnlm model: it has a member {member.filename!r}.")
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise ModelFileError(
                f"{name!r} has a compressed member, {member.filename!r}: compressed files are not read, because a small one "
                "can fill any memory. If you trust it, load its arrays with numpy.load and write them with numpy.savez."
            )
        members[key] = member
    if sum(member.file_size for member in members.values()) > size:
        raise ModelFileError(f"{name!r} is damaged: its members overlap.")
    return members


def _group(name: str, key: str) -> str:
    """The group of a member. Raises :class:`ModelFileError` if no model has such a one."""
    found = GROUP.fullmatch(key)
    if found is None:
        raise ModelFileError(f"{name!r} is not a numba_rnnlm model: it has a member {key + '.npy'!r}.")
    return found[1]


def _expect_modest(name: str, data: memoryview, size: int) -> None:
    """Raise :class:`ModelFileError` if Python's objects for this JSON would take more memory than the file justifies.

    A model has rows of numbers for each symbol of its vocabulary, so that its header is a part of it, and the numbers of its history have
    several digits. What is refused has neither: ``[]`` takes 3 bytes in a file and 64 in memory.
    """
    times, more = HEADER_BYTES
    left = times * size + more
    if left >= max(TOKEN_BYTES.values()) * len(data):
        return
    for token in TOKEN.finditer(data):
        left -= TOKEN_BYTES.get(data[token.end() - 1], 0)
        if left < 0:
            raise ModelFileError(f"{name!r} is damaged: its header has more values than a model of its size needs.")


def _expect_flat(name: str, about: Any) -> None:
    """Raise :class:`ModelFileError` if a header has too many levels: Python copies, pickles and compares recursively."""
    level = [about]
    for _ in range(DEEPEST):
        level = [value for one in level for value in (one.values() if isinstance(one, dict) else one) if isinstance(value, dict | list)]
        if not level:
            return
    raise ModelFileError(f"{name!r} is damaged: its header has lists inside one another, more than {DEEPEST} levels of them.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, in which no key may be there twice: readers differ in which of them they take."""
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("an object has a key twice")
    return values


def _finite(text: str) -> float:
    """A number of JSON, which knows neither NaN nor infinity, though Python reads and makes both."""
    number = float(text)
    if not isfinite(number):
        raise ValueError(f"{text:.20} is no number of JSON")
    return number


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


def file_name(path: Any) -> str:
    """A path as a str. Raises :class:`ModelFileError` if it is none."""
    return expect_path("path", path, "model.npz", ModelFileError)


def _check_header(name: str, about: Any) -> None:
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ModelFileError(f"{name!r} is not a numba_rnnlm model.")
    version = about.get("version")
    if type(version) is not int or version < 1:
        raise ModelFileError(f"{name!r} has format version {version!r}, expected a whole number from 1.")
    if version > VERSION:
        raise ModelFileError(
            f"{name!r} has format version {version}; this numba_rnnlm reads up to {VERSION}. "
            "Upgrade with: pip install --upgrade numba-rnnlm"
        )
