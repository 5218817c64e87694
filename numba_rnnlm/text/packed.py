"""Decompresses files, recognised by their first bytes and not by their names."""

import bz2
import gzip
import io
import lzma
from collections.abc import Callable, Iterator
from importlib import import_module
from itertools import chain
from typing import Any

from ..errors import CorpusError

CHUNK = 4 * 2**20  # bytes to read or decompress at a time
STARTS = {  # first bytes → the suffix of a supported format, or the name of an unsupported one
    b"\x1f\x8b\x08": ".gz",
    **{b"BZh%d" % level: ".bz2" for level in range(1, 10)},
    b"\xfd7zXZ\x00": ".xz",
    b"]\x00\x00": ".lzma",
    b"\x28\xb5\x2f\xfd": ".zst",
    b"PK\x03\x04": "a zip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!\x1a\x07": "a rar archive",
    b"\x04\x22\x4d\x18": "compressed by lz4",
    b"LZIP\x01": "compressed by lzip",
}
TAR = slice(257, 262)  # where a tar archive has the bytes "ustar"


class _ZstdFrames:
    """Reads with the package zstandard, whose own reader does not notice that a file is truncated."""

    def __init__(self, file: Any, zstandard: Any) -> None:
        self.file, self.begin = file, zstandard.ZstdDecompressor().decompressobj
        self.frame: Any = None

    def read(self, size: int) -> bytes:
        found = bytearray()
        while len(found) < size and (data := self.file.read(2**10)):  # small reads, because a few bytes may decompress to many
            while data:
                self.frame = self.frame or self.begin()
                found += self.frame.decompress(data)
                data = self.frame.unused_data
                if self.frame.eof:
                    self.frame = None
        if not found and self.frame is not None:
            raise EOFError("Compressed file ended before the end-of-stream marker was reached")
        return bytes(found)


def _zstd(file: Any) -> Any:
    try:
        return import_module("compression.zstd").ZstdFile(file)  # from Python 3.14 on
    except ImportError:
        return _ZstdFrames(file, import_module("zstandard"))


UNPACKERS: dict[str, Callable[[Any], Any]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file), ".bz2": bz2.BZ2File, ".xz": lzma.LZMAFile, ".lzma": lzma.LZMAFile, ".zst": _zstd,
}


class _Chunks(io.RawIOBase):
    """Presents an iterator of bytes as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks, self.rest = chunks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self.rest:
            self.rest = memoryview(next(self.chunks, b""))
        taken = min(len(buffer), len(self.rest))
        buffer[:taken], self.rest = self.rest[:taken], self.rest[taken:]
        return taken


def has_packed_name(name: str) -> bool:
    """Whether the name has the suffix of a compressed file."""
    return name.lower().endswith(tuple(UNPACKERS))


def unpacked(chunks: Iterator[bytes], name: str, expected: bool = False) -> Iterator[bytes]:
    """Yield the chunks of a file, decompressed if it was compressed by gzip, bzip2, xz or zstd.

    Raises
    ------
    CorpusError
        The file is damaged, is in an unsupported format, or is not compressed although ``expected`` is true; or the package
        for zstd is missing.
    """
    chunks = _with_start(chunks)
    start = next(chunks, b"")
    kind = next((kind for first, kind in STARTS.items() if start.startswith(first)), "")
    if kind in UNPACKERS:
        chunks = _unpack(kind, chain([start], chunks), name)
        start = next(chunks, b"")
        kind = ""
    elif start and expected:
        raise CorpusError(f"Cannot read the file {name!r}: its name says that it is compressed, but it does not begin as gzip, bzip2, xz or "
                          "zstd files do. Compress it again, or rename it.")
    if kind or start[TAR] == b"ustar":
        raise CorpusError(f"{name!r} is {kind or 'a tar archive'}, which is not supported; unpack it and pass the files it contains.")
    yield from chain([start], chunks)


def _with_start(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same chunks, the first one just long enough to identify the format: a slow pipe need not deliver more."""
    start = b""
    for chunk in chunks:
        start += chunk
        if not any(first.startswith(start) for first in STARTS):
            break
    yield start
    yield from chunks


def _unpack(suffix: str, chunks: Iterator[bytes], name: str) -> Iterator[bytes]:
    try:
        file = UNPACKERS[suffix](io.BufferedReader(_Chunks(chunks)))
        while chunk := file.read(CHUNK):
            yield chunk
    except CorpusError:
        raise
    except MemoryError as error:
        raise CorpusError(f"Cannot read the file {name!r}: not enough memory to decompress it. Close other programs, or decompress it "
                          "first.") from error
    except ModuleNotFoundError:
        raise CorpusError(f"{name!r} is compressed by zstd, which requires the package zstandard: pip install 'numba-rnnlm[zstd]'. "
                          "Or decompress it first with zstd -d.") from None
    except Exception as error:  # each decompressor raises errors of its own
        raise CorpusError(f"Cannot read the file {name!r}: {error}.") from error
