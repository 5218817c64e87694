r"""Text sources. Each opens as a :class:`Text`, which yields its bytes in pieces and can be read as often as needed.

=====================================  ============================================================================================
source                                 read as
=====================================  ============================================================================================
``pathlib.Path``, any ``os.PathLike``  a file; or a folder: all its files in sorted order, except hidden files and those ending in
                                       ``.npz`` or ``.lock``, which may be our own
``str``                                the text itself if it contains a newline (``"\n"`` or ``"\r"``) or is longer than 1,024
                                       characters; otherwise a path
``bytes``                              the text itself
an open file                           its contents from the current position; in text mode, decoded by the file
an iterable of paths                   the files, joined
an iterable of str or bytes            lines of text; a newline is added to those without one. NumPy and pandas columns are the same
:class:`Files`                         files in a given encoding, joined
integers                               ids, not text
=====================================  ============================================================================================

Files that begin with the magic bytes of gzip, bzip2, xz or zstd are decompressed. Byte order marks at the start of a text or of a
line are dropped. When files are joined, a newline is added to a file that does not end in one. Sources that can be read only once (a
pipe, an open file, a generator) are copied when they are opened: into memory up to 16 MiB, beyond that into a temporary file.
"""

import codecs
import hashlib
import os
import stat
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import chain
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import checked
from ..errors import ConfigError, CorpusError, ShapeError, as_array, expect_number, expect_path, shown
from ..paths import is_inside, real_path, same_file
from ..reports import warn
from . import hints, packed
from .cleaning import LINE_ENDS, with_line_ends, without_marks
from .tokenizers import utf8

MEMORY_BYTES = 16 * 2**20  # larger copies and id arrays go to a temporary file
LONGEST_PATH = 1024  # characters; a longer str is text
LINES = 4096  # lines to return at a time: the caller may need a thousand bytes for each, however short it is
SLICE = 2**18  # bytes to split into lines at a time
NEAR = 2**16  # bytes to search for a newline before the point where a text is split
STANDARD_INPUT = "standard input"
SKIPPED = (".npz", ".lock")  # ignored in folders: models, checkpoints and their locks may lie beside the text
LEAST = 100  # bytes or ids; a smaller part is not worth holding out

Path = str | os.PathLike[str]
Bytes = bytes | bytearray | memoryview
Source = Any  # see the table above

# The arguments of score and generate, for type checkers: one text, or many
Ids = NDArray[np.integer[Any]] | Sequence[int] | Sequence[np.integer[Any]]
OneText = str | Bytes | Ids


@dataclass(frozen=True, eq=False)
class Part:
    """One file, or another piece of a text: its name, and a function that reads its bytes, in UTF-8, from the beginning."""

    name: str
    read: Callable[[], Iterator[bytes]]


@dataclass(frozen=True, eq=False)
class Text:
    """An open text.

    Attributes
    ----------
    name
        The path of its file, or ``"text"``, ``"lines"``, ``"standard input"``, …
    parts
        The pieces to join.
    errors
        How to decode it: "strict", or "surrogatepass" if it came as str, which may contain lone surrogates.
    folders
        The folders that the files come from.
    start, stop
        The range of bytes, counted without byte order marks, that is this text; ``stop=None`` means up to the end.
    """

    name: str
    parts: Sequence[Part]
    errors: str = "strict"
    folders: Sequence[str] = ()
    start: int = 0
    stop: int | None = None

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes from beginning to end. Each call reads the text again."""
        return self._inside(without_marks(self._joined()))

    def _joined(self) -> Iterator[bytes]:
        last = b"\n"
        for part in self.parts:
            begun = False
            for chunk in filter(None, part.read()):
                if not begun and not last.endswith(LINE_ENDS):
                    yield b"\n"
                yield chunk
                begun, last = True, chunk

    def _inside(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        place = 0
        for piece in pieces:
            inside = piece[max(0, self.start - place) : None if self.stop is None else max(0, self.stop - place)]
            if inside:
                yield inside
            place += len(piece)
            if self.stop is not None and place >= self.stop:
                return

    def digest(self) -> str:
        """SHA-256 of the bytes as hexadecimal digits, independent of the line endings."""
        digest = hashlib.sha256()
        for piece in with_line_ends(self.pieces(), "lf"):
            digest.update(piece)
        return digest.hexdigest()

    def holds(self, path: Path) -> bool:
        """Whether this file is part of the text, or would be if it existed."""
        if any(same_file(part.name, path) for part in self.parts):
            return True
        return not os.fsdecode(path).endswith(SKIPPED) and any(is_inside(path, folder) for folder in self.folders)

    def lines(self, line_ends: str) -> Iterator[list[bytes]]:
        """Yield the lines, without their newlines, in batches as they arrive, so that the caller can keep up with a slow pipe."""
        begun: list[bytes] = []  # the pieces of an unfinished line; joined once, because a line may be as long as the text
        for piece in with_line_ends(self.pieces(), line_ends):
            lines: list[bytes] = []
            for part in _slices(piece, SLICE):
                *ended, rest = part.split(b"\n")
                if ended:
                    ended[0] = b"".join([*begun, ended[0]])
                    begun.clear()
                    lines += ended
                if rest:
                    begun.append(rest)
                whole = len(lines) - len(lines) % LINES
                yield from (lines[start : start + LINES] for start in range(0, whole, LINES))
                del lines[:whole]
            if lines:
                yield lines
        if begun:
            yield [b"".join(begun)]


@checked
@dataclass(frozen=True)
class Files:
    """Files and folders in a given encoding, joined into one text.

    Parameters
    ----------
    paths
        A path, or several; the str ``"-"`` is standard input.
    encoding
        The encoding of all files. Text in an encoding other than UTF-8 is converted to UTF-8, for byte models too.

    Raises
    ------
    ConfigError
        Python does not know the encoding, or ``paths`` is not a path or a list of paths.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     _ = file.write("né\\n".encode("cp1252")), file.flush()
    ...     b"".join(Files(file.name, "cp1252").open().pieces()).decode()
    'né\\n'
    """

    paths: Path | Sequence[Path]
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        one = isinstance(self.paths, str | os.PathLike)
        if not one and not (isinstance(self.paths, Sequence) and self.paths and all(isinstance(path, str | os.PathLike) for path in self.paths)):
            raise ConfigError(f"paths is {shown(self.paths)}, expected a path or a list of paths.")
        try:
            "a".encode(self.encoding)
            codecs.getincrementaldecoder(self.encoding)
        except (LookupError, TypeError, ValueError):
            raise ConfigError(f"encoding is {shown(self.encoding)}, expected one that Python knows, such as 'utf-8', 'utf-16' or "
                              "'cp1252'.") from None

    def open(self, again: bool = True) -> Text:
        """Open the files. With ``again=False`` a pipe is not copied, and the text can be read only once."""
        paths = [self.paths] if isinstance(self.paths, str | os.PathLike) else list(self.paths)
        parts = [part for path in paths
                 for part in (_standard_input(self.encoding, again) if path == "-" else _files(path, self.encoding, again))]
        folders = [os.fsdecode(path) for path in paths if path != "-" and os.path.isdir(path)]
        return Text(parts[0].name + f" and {len(parts) - 1} more" * (len(parts) > 1), parts, folders=folders)


StoredTexts = os.PathLike[str] | Iterable[os.PathLike[str]] | Files  # each line is a text
ManyTexts = Iterable[OneText] | StoredTexts


def open_source(source: Source) -> Text | Any:
    """Open a source as a text that can be read as often as needed; return ids unchanged.

    Raises
    ------
    CorpusError
        The source cannot be read, or is none of the kinds above.
    """
    if isinstance(source, Text):
        return source
    if isinstance(source, Files):
        return source.open()
    if isinstance(source, str):
        return _open_str(source)
    if isinstance(source, os.PathLike):
        return Files(source).open()
    if isinstance(source, Bytes):
        data = bytes(source)
        return Text("bytes", [Part("bytes", lambda: _slices(data, packed.CHUNK))])
    if hasattr(source, "read"):
        return _open_file(source)
    if hasattr(source, "__array__"):
        array = as_array("the corpus", source)
        if array.ndim == 0:
            raise _no_corpus(shown(source))
        if array.dtype.kind not in "OSTU":
            return array
        if array.ndim != 1:
            raise CorpusError(f"The corpus has type {type(source).__name__} and shape {array.shape}, expected one column of text, or a 1-D array "
                              "of ids.")
        return _open_items(array.tolist(), type(source).__name__)
    return _open_items(source, type(source).__name__)


def sentences(source: Source, line_ends: str) -> tuple[bool, Sequence[Any]]:
    """Return whether a source is a collection of sentences, and the list of its sentences (str, bytes or ids).

    A str or bytes is one sentence. A file, open or named by a ``Path``, is a collection of lines: str if it is open in text mode,
    otherwise bytes.

    Raises
    ------
    ShapeError
        A sentence of the collection is neither text nor ids.
    """
    if isinstance(source, str):
        if _names_file(source):
            warn(f"{shown(source)} is read as text, but a file of that name exists; pass pathlib.Path({shown(source)}) to read its lines.")
        return False, [source]
    if isinstance(source, Text | Files | os.PathLike) or hasattr(source, "read"):
        text = open_source(source)
        lines = [line for lines in text.lines(line_ends) for line in lines]
        return True, [str(line, "utf-8", text.errors) for line in lines] if text.errors == "surrogatepass" else lines
    if hasattr(source, "__array__"):
        array = as_array("sentence", source)
        if array.ndim != 1 or array.dtype.kind not in "OSTU":
            return False, [source]
        items: Sequence[Any] = array.tolist()
    elif isinstance(source, Bytes):
        return False, [bytes(source)]
    elif isinstance(source, Mapping | Set) or not isinstance(source, Iterable):
        return False, [source]
    else:
        items = source if isinstance(source, Sequence) else list(source)
    if items and isinstance(items[0], Integral):
        return False, [items]
    if items and all(isinstance(item, os.PathLike) for item in items):
        return sentences(Files(items), line_ends)
    for index, item in enumerate(items):
        if not isinstance(item, str | Bytes | Sequence | np.ndarray):
            raise ShapeError(f"sentence {index} is {shown(item)}, expected a str, bytes, or an array of ids.")
    if items and all(isinstance(item, str) and _names_file(item) for item in items):
        warn(f"file names such as {items[0]!r} are read as sentences; pass pathlib.Path({items[0]!r}) to read the lines of the file.")
    return True, [bytes(item) if isinstance(item, Bytes) else item for item in items]


@checked
def split(source: Source, part: float) -> tuple[Any, Any]:
    """Split a source in two, the second about ``part`` of it; the second is None if there is too little text to hold out.

    A text is split after a newline if possible, else after white space, else between two characters.
    """
    expect_number("part", part, 0, 1)
    part, source = float(part), open_source(source)
    if not isinstance(source, Text):
        size = len(source)
        cut = size - round(size * part)
        return (source[:cut], source[cut:]) if min(cut, size - cut) >= LEAST else (source, None)
    size = sum(map(len, source.pieces()))
    cut = size - round(size * part)
    near = max(0, cut - NEAR)
    window = replace(source, start=source.start + near, stop=source.start + cut)
    cut = near + _last_cut(b"".join(window.pieces()))
    if min(cut, size - cut) < LEAST:
        return source, None
    return replace(source, stop=source.start + cut), replace(source, name=f"the end of {source.name}", start=source.start + cut)


def _last_cut(data: bytes) -> int:
    """The last place in ``data`` where a text may be split."""
    if place := max(data.rfind(b"\n"), data.rfind(b"\r", 0, -1)) + 1:  # a final \r may be half of "\r\n"
        return place
    if place := max(map(data.rfind, (b" ", b"\t", b"\v", b"\f"))) + 1:
        return place
    return max(0, len(data) - 1 - next((back for back, byte in enumerate(reversed(data)) if byte & 0xC0 != 0x80), 0))


def _open_str(source: str) -> Text:
    if "\n" in source or "\r" in source or len(source) > LONGEST_PATH:
        if _names_file(name := source.strip()):
            warn(f"{shown(source)} is read as text, because it contains a newline, but a file of that name exists; "
                 f"pass pathlib.Path({name!r}) to read the file.")
        return Text("text", [Part("text", lambda: map(utf8, _slices(source, packed.CHUNK)))], "surrogatepass")
    try:
        parts = _files(source, "utf-8", again=True)
    except CorpusError as error:
        raise CorpusError(f"{error} A str of at most {LONGEST_PATH:,} characters without a newline is a path; if it is meant to be text, "
                          "end it with '\\n'.") from error
    return Text(source, parts)


def _open_file(file: Any) -> Text:
    name = getattr(file, "name", None)
    name = name if isinstance(name, str) else "an open file"
    try:
        errors = "surrogatepass" if isinstance(file.read(0), str) else "strict"
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from error
    copy = _copied(_file_chunks(file, name))
    return Text(name, [Part(name, lambda: packed.unpacked(copy(), name))], errors)


def _open_items(source: Any, kind: str) -> Text | Any:
    if not isinstance(source, Iterable) or isinstance(source, Mapping | Set):
        raise _no_corpus(shown(source) if not isinstance(source, Set) else f"a {kind}, which has no order")
    items = iter(source)
    first = next(items, None)
    if first is None and not isinstance(source, Sequence):
        raise CorpusError(f"The {kind} yields no lines, expected some text; a generator can be read only once.")
    if isinstance(first, list | tuple) and any(isinstance(word, str | Bytes) for word in first):
        raise _no_line(kind, 0, first)
    items = chain([first], items)
    if isinstance(first, os.PathLike):
        paths = list(items)
        for index, path in enumerate(paths):
            if not isinstance(path, os.PathLike):
                raise CorpusError(f"item {index} of the {kind} is {shown(path)}, expected a path like the first item.")
        return Files(paths).open()
    if not isinstance(first, str | Bytes):
        ids = source if isinstance(source, Sequence) else list(items)
        if not isinstance(first, Integral) and any(isinstance(item, str | Bytes) for item in ids):
            raise _no_line(kind, 0, first)
        return ids
    errors = "surrogatepass" if isinstance(first, str) else "strict"
    if isinstance(source, Sequence):
        suspects = source
        read = lambda: _joined_lines(source, kind)  # noqa: E731
    else:
        suspects = [first]
        read = _copied(_joined_lines(items, kind))
    if all(isinstance(line, str) and _names_file(line) for line in suspects):
        warn(f"the strings of the {kind} are read as lines of text, but {shown(first)} is the name of a file; pass pathlib.Path({shown(first)}) "
             "to read the file.")
    return Text("lines", [Part("lines", read)], errors)


def _no_corpus(what: str) -> CorpusError:
    return CorpusError(f"The corpus is {what}, expected a path, a text, lines of text, or a 1-D array of ids.")


def _joined_lines(lines: Iterable[Any], kind: str) -> Iterator[bytes]:
    """Join lines (str or bytes) into chunks of text, adding missing newlines."""
    block, size = [], 0
    for index, line in enumerate(lines):
        if not isinstance(line, str | Bytes):
            raise _no_line(kind, index, line)
        data = utf8(line) if isinstance(line, str) else bytes(line)
        block.append(data if data.endswith(LINE_ENDS) else data + b"\n")
        size += len(block[-1])
        if size >= packed.CHUNK:
            yield b"".join(block)
            block, size = [], 0
    yield b"".join(block)


def _no_line(kind: str, index: int, item: Any) -> CorpusError:
    return CorpusError(f"item {index} of the {kind} is {shown(item)}, expected a line of text (str or bytes). Leave it out, or replace it by ''.")


def _names_file(text: str) -> bool:
    try:
        return 0 < len(text) <= LONGEST_PATH and os.path.isfile(text)
    except ValueError:  # a NUL, or a lone surrogate
        return False


def _standard_input(encoding: str, again: bool) -> list[Part]:
    name = STANDARD_INPUT
    if sys.stdin is None:
        raise CorpusError("standard input is closed; give the name of a file, or redirect standard input.")
    return [_file_part(name, _file_chunks(getattr(sys.stdin, "buffer", sys.stdin), name), encoding, again)]


def _files(path: Path, encoding: str, again: bool) -> list[Part]:
    """The file at a path, or all files of the folder."""
    name = expect_path("the path of a text", path, "corpus.txt", CorpusError)
    try:
        mode = os.stat(name).st_mode
    except OSError as error:
        raise _unreadable(name, error) from error
    if stat.S_ISDIR(mode):
        if not (inside := _folder(name)):
            raise CorpusError(f"The folder {name!r} contains no files, expected some text.")
        return [part for inner in inside for part in _files(inner, encoding, again)]
    if stat.S_ISREG(mode):
        return [Part(name, lambda: _recoded(packed.unpacked(_path_chunks(name), name, packed.has_packed_name(name)), name, encoding))]
    return [_file_part(name, _path_chunks(name), encoding, again)]


def _folder(name: str) -> list[str]:
    """All files in a folder and its subfolders, sorted, except hidden files and our own."""
    def fail(error: OSError) -> None:
        raise _unreadable(error.filename, error) from error

    found, seen = [], set()
    for folder, folders, files in os.walk(name, onerror=fail, followlinks=True):
        real = real_path(folder, CorpusError)
        folders[:] = [] if real in seen else [inner for inner in folders if not inner.startswith(".")]
        found += [] if real in seen else [os.path.join(folder, file) for file in files if not file.startswith(".") and not file.endswith(SKIPPED)]
        seen.add(real)
    # Skip pipes: opening one would wait for a writer. Keep broken links, so that reading them raises an error.
    return sorted((path for path in found if os.path.isfile(path) or not os.path.exists(path)), key=lambda path: path.split(os.sep))


def _file_part(name: str, chunks: Iterator[bytes], encoding: str, again: bool) -> Part:
    """A part that can be read only once; ``again`` makes a copy so that it can be read repeatedly."""
    read = _copied(chunks) if again else lambda: chunks
    return Part(name, lambda: _recoded(packed.unpacked(read(), name), name, encoding))


def _path_chunks(name: str) -> Iterator[bytes]:
    try:
        with open(name, "rb") as file:
            while chunk := file.read(packed.CHUNK):
                yield chunk
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from error


def _file_chunks(file: Any, name: str) -> Iterator[bytes]:
    """Yield the contents of an open file as they arrive."""
    read = getattr(file, "read1", file.read)
    try:
        if not _is_blocking(file):  # read1 would mistake a pause for the end
            raise BlockingIOError("it is in non-blocking mode")
        while chunk := read(packed.CHUNK):
            yield utf8(chunk)
        if chunk is None:
            raise BlockingIOError("it is in non-blocking mode")
    except (OSError, EOFError, ValueError) as error:
        raise _unreadable(name, error) from error


def _is_blocking(file: Any) -> bool:
    try:
        return os.get_blocking(file.fileno())
    except (AttributeError, OSError):
        return True


def _unreadable(name: str, error: Exception) -> CorpusError:
    what = name if name == STANDARD_INPUT else f"the file {shown(name)}"
    return CorpusError(f"Cannot read {what}: {getattr(error, 'strerror', None) or error}.")


def _slices(text: Any, size: int) -> Iterator[Any]:
    return (text[start : start + size] for start in range(0, len(text), size))


def _copied(chunks: Iterator[bytes]) -> Callable[[], Iterator[bytes]]:
    """Copy the chunks and return a function that reads the copy."""
    file = tempfile.SpooledTemporaryFile(MEMORY_BYTES)  # noqa: SIM115 (closed when the reader is collected)
    for chunk in chunks:
        try:
            file.write(chunk)
        except OSError as error:
            raise CorpusError(f"Cannot write the temporary copy of a text that can be read only once to {tempfile.gettempdir()!r}: "
                              f"{error.strerror}. Set TMPDIR to a folder with more space, or save the text to a file.") from error

    def read() -> Iterator[bytes]:
        place = 0
        while file.seek(place) or True:
            chunk = file.read(packed.CHUNK)
            if not chunk:
                return
            place += len(chunk)
            yield chunk

    weakref.finalize(read, file.close)
    return read


def _recoded(chunks: Iterator[bytes], name: str, encoding: str) -> Iterator[bytes]:
    """Convert the chunks to UTF-8; UTF-8 itself passes through unchecked."""
    if codecs.lookup(encoding).name in ("utf-8", "utf-8-sig"):
        yield from chunks
        return
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        for chunk in chunks:
            yield utf8(decoder.decode(chunk))
        yield utf8(decoder.decode(b"", final=True))
    except UnicodeError as error:
        raise CorpusError(f"{name!r} is not in the encoding {encoding!r}: {error}.") from error


def not_utf8(text: Text) -> CorpusError:
    """The error for a text that is not UTF-8: it names the first invalid byte and a likely encoding."""
    for part in text.parts:
        decoder, place = codecs.getincrementaldecoder("utf-8")(text.errors), 0
        for chunk in chain(filter(None, part.read()), [b""]):
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                # error.object begins with the bytes of an unfinished character from the previous chunk.
                offset = place + len(chunk) - len(error.object) + error.start
                return CorpusError(f"{part.name!r} is not UTF-8: the byte at offset {offset} is 0x{error.object[error.start]:02x}. "
                                   f"{hints.of_bytes(error.object)} Convert it to UTF-8, or read it with tokenizer='byte'.")
            place += len(chunk)
    return CorpusError(f"{text.name!r} is not UTF-8, or changed while it was being read. Convert it to UTF-8, or read it with tokenizer='byte'.")
