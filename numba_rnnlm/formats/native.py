"""Stores named arrays and a header in one ``.npz`` file: written atomically, and read without trusting anything in it.

The member ``about`` is JSON in UTF-8 bytes: format, version, kind, and what the caller adds. Every other member is one float array named
``<group>/<name>``, such as ``weights/lstm/U``. Members are uncompressed, each with its CRC-32.
``numpy.load(path, allow_pickle=False)`` reads the file.

Reading takes time and memory proportional to the file size: the directory is at most half of the file, no member claims more bytes than
the file has, and the header has no more values than a model of that size needs (:func:`_expect_modest`).

Files written by ``numpy.savez`` can be read too: floats of 16, 32 or 64 bits, in either byte order, in C or Fortran order. For any other
kind of array, reading raises an error that names it.
"""

import contextlib
import io
import json
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from math import isfinite, prod
from typing import Any, BinaryIO, Literal

import numpy as np

from ..display import clean
from ..errors import ModelFileError, expect_path, shown
from ..paths import is_empty, regular
from ..storage import writing

FORMAT = "numba_rnnlm"
VERSION = 2  # version of new files; this and all earlier versions can be read
STARTS = (b"PK\x03\x04", b"PK\x05\x06")  # first bytes of a zip archive with members, and of an empty one
NPY_START = b"\x93NUMPY\x01\x00"
# Exactly as NumPy writes it. NumPy itself accepts far more: anything that Python can parse, with warnings.
NPY_HEADER = re.compile(rb"\{'descr': (.*), 'fortran_order': (True|False), 'shape': \(([\d, ]*)\), \} *\n")
READ = re.compile(rb"'(\|u1|[<>]f[248])'")  # accepted dtypes: bytes for the header, floats for weights
CHUNK = 2**20  # elements to check at a time
MEMBER_BYTES = 1024  # overhead of a member: its own header and its entries in the archive
GROUP = re.compile(r"(weights|good|state|streams|moments/[0-9]{1,2})/(.+)", re.DOTALL)  # names of the array members
FINITE = ("weights", "good")  # groups that must be finite; states and moments may have overflowed
MOST_MEMBERS = 20_000  # a checkpoint of 1,000 layers has some 13,000
LONGEST_NAME = 1000  # characters in the name of a member
DEEPEST = 32  # levels of nested lists and objects in a header; our own have 5
SMALL = 2**17  # bytes; a directory of this size is always accepted
# The JSON tokens that tell how many values a text has: a string, including the colon after a key; an opening bracket or brace; a comma.
# An unterminated string ends with the text, and the quantifiers are possessive, so any text takes one pass.
TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?+(?:\s*+:)?+|\[|\{|,', re.DOTALL)
# Upper bounds on the memory of the Python object for each token, by its last byte: key, string, list, object, and a number before a comma.
TOKEN_BYTES = {ord(":"): 180, ord('"'): 44, ord("["): 90, ord("{"): 240, ord(","): 40}
HEADER_BYTES = 6, 2**20  # memory limit for all values of a header: a multiple of the file size, plus a constant

Path = str | os.PathLike[str]
Arrays = Iterable[tuple[str, np.ndarray]]


def write_model(path: Path, kind: str, about: Mapping[str, Any], groups: Mapping[str, Arrays]) -> None:
    """Write a model file; an existing file at ``path`` stays intact until the new one is complete.

    Parameters
    ----------
    path
        Path of the file.
    kind, about
        The kind of model, and further header entries: values that JSON can represent.
    groups
        Group → pairs of a name and an array, consumed one at a time, so that only one array needs to be in memory.

    Raises
    ------
    ModelFileError
        The folder is missing, read-only or full; ``path`` is not a path of a file; it names an existing file that is not a model (left
        unchanged); or an array contains numbers that a model file may not have.
    """
    name = file_name(path)
    header = _header(kind, about)
    expect_replaceable(name, kind)
    with writing.replacing(name) as file, _new_archive(file) as archive:
        _write_member(archive, "about", np.frombuffer(header, np.uint8))
        for group, arrays in groups.items():
            for key, array in arrays:
                if not _fits(array, group in FINITE):
                    raise ModelFileError(f"cannot write {name!r}: {group}/{key} contains NaN, infinity or numbers beyond float32, which a model "
                                         "file may not have. An existing file was not changed.")
                _write_member(archive, f"{group}/{key}", array)


def model_bytes(kind: str, about: Mapping[str, Any], members: int, weights: int) -> int:
    """Upper bound on the size of the file that :func:`write_model` writes for ``members`` arrays of ``weights`` bytes in total."""
    return len(_header(kind, about)) + weights + (1 + members) * MEMBER_BYTES


def _header(kind: str, about: Mapping[str, Any]) -> bytes:
    header = {"format": FORMAT, "version": VERSION, "kind": kind, **about}
    return json.dumps(header, sort_keys=True, allow_nan=False).encode("utf-8")


@contextlib.contextmanager
def _new_archive(file: BinaryIO) -> Iterator[zipfile.ZipFile]:
    """A new archive in a file; after an error it is not completed, for which zipfile would raise an error of its own, now and when it is deleted."""
    archive = zipfile.ZipFile(file, "w")
    try:
        yield archive
        archive.close()
    except BaseException:
        archive.fp = None
        raise


def _write_member(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    # ZipInfo defaults to a fixed date in 1980, so equal arrays give equal bytes.
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
        np.lib.format.write_array(member, array, allow_pickle=False)


class ModelFile:
    """An open model file whose header has been read and checked.

    Attributes
    ----------
    name
        Path of the file.
    about
        The header.
    """

    def __init__(self, name: str, file: "_Watched") -> None:
        self.name = name
        size = os.fstat(file.fileno()).st_size
        file.most = max(size // 2, SMALL)  # zipfile reads the whole directory at once, and each entry takes much memory
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
        """The arrays of a group by name: floats within the range of float32, and finite for the groups in :data:`FINITE`.

        They are converted to C order and native byte order.
        """
        return {key.removeprefix(f"{name}/"): self._weights(key, name in FINITE) for key in self._groups.get(name, ())}

    def _weights(self, key: str, finite: bool) -> np.ndarray:
        array = self._array(key)
        if array.dtype.kind != "f":
            raise self._foreign(key, array.dtype.str)
        if not _fits(array, finite):
            raise ModelFileError(f"{self.name!r} is damaged: {key!r} contains numbers that are not finite.")
        return array

    def _array(self, key: str) -> np.ndarray:
        """Read one member; never allocates more memory than the file has bytes."""
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
                    array = np.frombuffer(file.read(), dtype).reshape(shape, order=order)  # reading to the end checks the CRC-32
                    return np.require(array, dtype.newbyteorder("="), "C")
        raise ModelFileError(f"{self.name!r} is damaged: {key!r} does not match its own header.")

    def _foreign(self, key: str, kind: str) -> ModelFileError:
        """The error for an array of a dtype that model files may not have."""
        if kind == "'|O'":
            return ModelFileError(f"{self.name!r} contains Python objects in {key!r}, which are pickled; a pickle can run any code, so "
                                  "it is not read. Save plain arrays of float32.")
        shown = ascii(kind.strip("'")[:100])[1:-1]
        return ModelFileError(f"{self.name!r} contains an array of type {shown} in {key!r}, expected floats of 16, 32 or 64 bits. If these "
                              "are weights, convert them with array.astype(numpy.float32) and save them again.")


def _opened(name: str) -> io.FileIO:
    try:
        return open(name, "rb", 0, opener=regular)
    except OSError as error:
        raise ModelFileError(f"cannot read {name!r}: {error.strerror}.") from error


@contextlib.contextmanager
def open_model(path: Path) -> Iterator[ModelFile]:
    """Open a model file for reading; any failure within the ``with`` becomes a :class:`ModelFileError`.

    Raises
    ------
    ModelFileError
        The file is missing, cannot be opened, is truncated, damaged, not a model or of a newer version; or ``path`` is not a path.
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
        raise ModelFileError(f"{name!r} cannot be read: not enough memory. Close other programs, or raise the memory limit of this "
                             "process.") from error
    except Exception as error:  # damaged bytes make zipfile, NumPy and json raise nearly anything
        raise ModelFileError(
            f"{name!r} cannot be read as a numba_rnnlm model: it is damaged, truncated, or not a model file."
        ) from clean(error)


def read_about(path: Path) -> dict[str, Any]:
    """Read the header of a file but not its arrays. Raises the same errors as :func:`open_model`."""
    with open_model(path) as file:
        return file.about


class _Watched(io.BufferedReader):
    """A file that rejects reads of more than ``most`` bytes, unless that is None."""

    most: int | None = None

    def read(self, size: int | None = -1, /) -> bytes:
        if self.most is not None and size is not None and size > self.most:
            raise ValueError("the directory is larger than the members that it lists")
        return super().read(size)


def expect_replaceable(path: Path, kind: str) -> None:
    """Raise :class:`ModelFileError` if ``path`` holds something that a file of this kind must not replace.

    Only files of this kind that this version can read and empty files may be replaced; not a folder, a pipe, a text, another archive, a
    damaged file, or one that cannot be opened.
    """
    name = file_name(path)
    writing.expect_replaceable(name)
    try:
        exists = os.path.isfile(name) and not is_empty(name)
    except (OSError, ValueError):  # writing will report the reason
        return
    if exists:
        try:
            found = read_about(name).get("kind")
        except ModelFileError as error:
            if isinstance(error.__cause__, OSError | MemoryError):  # it may be an intact model
                reason = getattr(error.__cause__, "strerror", None) or "not enough memory"
                raise ModelFileError(f"cannot write {name!r}: the file exists, and checking whether it is a model failed: {reason}.") from error
            raise ModelFileError(f"cannot write {name!r}: the existing file is not a model that this numba_rnnlm can read, and is not "
                                 "overwritten; choose another name, or delete it.") from error
        if found != kind:
            raise ModelFileError(f"cannot write {name!r}: it is a file of the kind {shown(found)}, and is not replaced by a {kind!r}; choose another name, "
                                 "or delete it.")


def _checked_members(name: str, archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The members by name, after checking their names and that their sizes add up to no more than ``size``, that of the file."""
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
                "can fill the memory. If you trust it, load its arrays with numpy.load and save them with numpy.savez."
            )
        members[key] = member
    if sum(member.file_size for member in members.values()) > size:
        raise ModelFileError(f"{name!r} is damaged: its members overlap.")
    return members


def _group(name: str, key: str) -> str:
    """The group of a member. Raises :class:`ModelFileError` if models have no such group."""
    found = GROUP.fullmatch(key)
    if found is None:
        raise ModelFileError(f"{name!r} is not a numba_rnnlm model: it has a member {key + '.npy'!r}.")
    return found[1]


def _expect_modest(name: str, data: memoryview, size: int) -> None:
    """Raise :class:`ModelFileError` if the Python objects for this JSON would take more memory than the file size justifies.

    A real model has weights for every symbol of its vocabulary, so its header is only part of the file, and the numbers of its history
    have several digits. Malicious headers are unlike that: ``[]`` takes 3 bytes in a file and 64 in memory.
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
    """Raise :class:`ModelFileError` if a header is nested too deeply: Python copies, pickles and compares recursively."""
    level = [about]
    for _ in range(DEEPEST):
        level = [value for one in level for value in (one.values() if isinstance(one, dict) else one) if isinstance(value, dict | list)]
        if not level:
            return
    raise ModelFileError(f"{name!r} is damaged: its header is nested more than {DEEPEST} levels deep.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Parse a JSON object, rejecting duplicate keys: parsers differ in which one they use."""
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("an object has a duplicate key")
    return values


def _finite(text: str) -> float:
    """Parse a JSON number; JSON has neither NaN nor infinity, although Python's parser accepts both."""
    number = float(text)
    if not isfinite(number):
        raise ValueError(f"{text:.20} is not a JSON number")
    return number


def _fits(array: np.ndarray, finite: bool) -> bool:
    """Whether every number is in the range of float32 (NaN and infinity are allowed); with ``finite``, every number must be finite."""
    flat = array.reshape(-1)
    for start in range(0, flat.size, CHUNK):
        piece = flat[start : start + CHUNK]
        with np.errstate(all="ignore"):
            fits = np.isfinite(piece.astype(np.float32, copy=False))
        if not (fits if finite else fits | ~np.isfinite(piece)).all():
            return False
    return True


def file_name(path: Any) -> str:
    """A path as a str. Raises :class:`ModelFileError` if it is not a path."""
    return expect_path("path", path, "model.npz", ModelFileError)


def _check_header(name: str, about: Any) -> None:
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ModelFileError(f"{name!r} is not a numba_rnnlm model.")
    version = about.get("version")
    if type(version) is not int or version < 1:
        raise ModelFileError(f"{name!r} has format version {version!r}, expected a positive integer.")
    if version > VERSION:
        raise ModelFileError(
            f"{name!r} has format version {version}; this numba_rnnlm reads up to {VERSION}. "
            "Upgrade with: pip install --upgrade numba-rnnlm"
        )
