"""From a file, a text or an array to ids, in pieces: a corpus may be larger than the memory."""

import codecs
import gzip
import hashlib
import os
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple, TypeGuard

import numpy as np

from ..config import TextConfig
from ..errors import ConfigError, CorpusError, expect_number
from . import mapped
from .tokenizers import ByteTokenizer, CharTokenizer, Tokenizer, WordTokenizer, not_utf8, utf8
from .unknown import Unknown, UnknownCounter
from .vocabulary import expect_ids

CHUNK = 4 * 2**20  # bytes of a file or characters of a str that are handled at once
MEMORY_BYTES = 16 * 2**20  # ids that take more are kept in a temporary file
LONGEST_PATH = 1024  # characters; a longer str is text

Source = str | os.PathLike[str] | np.ndarray | Sequence[int]


class Counts(NamedTuple):
    """Part of a text: code points, bytes of UTF-8 (None for ids), ids that are ``<unk>``, and what these are."""

    characters: int | None
    bytes: int | None
    unknown: int
    missing: Unknown

    def known(self) -> "Counts":
        """Without what is ``<unk>``; how much that is stays."""
        if self.characters is None or self.bytes is None:
            return self
        return self._replace(characters=self.characters - self.missing.characters, bytes=self.bytes - self.missing.bytes)


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text as ids.

    Attributes
    ----------
    ids
        (n,), read-only; uint8, uint16 or int32, the smallest that holds the vocabulary. On disk
        (``numpy.memmap``) if they take more than 16 MiB. With ``bos`` the first one is a line end in front of the text.
    characters, bytes
        Length of the text in Unicode code points and in UTF-8 bytes; None if it came as ids.
    unknown
        How many ids are ``<unk>``.
    name
        Path of the file, ``"text"`` or ``"ids"``.
    scored
        What stands behind the first id, which is the part that a model can be asked to predict: all of the text with
        ``bos``, otherwise the text without its first token.
    missing
        The part of the text that is ``<unk>``.
    """

    ids: np.ndarray
    characters: int | None
    bytes: int | None
    unknown: int
    name: str
    scored: Counts
    missing: Unknown

    def digest(self) -> str:
        """SHA-256 of the ids, in hexadecimal digits: what tells one text from another."""
        digest = hashlib.sha256()
        for piece in mapped.pieces(self.ids):
            digest.update(np.ascontiguousarray(piece).data)
        return digest.hexdigest()


def read_corpus(
    source: Source, tokenizer: Tokenizer | None, vocabulary_size: int | None = None, bos: bool = False
) -> Corpus:
    r"""Read a corpus and turn it into ids.

    Parameters
    ----------
    source
        A path: a file in UTF-8 (any bytes with the byte tokenizer), unpacked if its name ends in ``.gz``. A
        byte order mark at its start is dropped, but kept by the byte tokenizer. Line ends are not translated.
        A str: the text itself if it contains ``"\n"`` or has more than 1,024 characters, otherwise a path.
        A 1-D array or list of integers: ids.
    tokenizer
        From :func:`learn_tokenizer`; None if ``source`` is ids that no tokenizer stands behind.
    vocabulary_size
        Number of symbols; needed if ``tokenizer`` is None.
    bos
        Put a line end in front of the text.

    Raises
    ------
    CorpusError
        ``source`` cannot be read, is not UTF-8, is empty, or is text without a tokenizer.
    VocabularyError, ShapeError
        An id is outside the vocabulary; the ids are not 1-D or not integers.
    ConfigError
        ``vocabulary_size`` is missing or contradicts the tokenizer; ``bos`` with ids.

    Examples
    --------
    >>> read_corpus("a rose\nis a rose\n", ByteTokenizer()).ids[:6]
    array([ 97,  32, 114, 111, 115, 101], dtype=uint8)
    >>> read_corpus([3, 1, 2], None, vocabulary_size=4).ids
    array([3, 1, 2], dtype=uint8)
    """
    if bos and not isinstance(source, str | os.PathLike):
        raise ConfigError("bos=True puts a line end in front of a text, but the corpus is ids, which are read as they are; "
                          "leave bos out and put an id of your own in front of them.")
    if tokenizer is None:
        if isinstance(source, str | os.PathLike):
            raise CorpusError("Text was given with tokenizer=None, which takes ids only (numpy.load reads them from a "
                              "file). Choose byte, char or word.")
        if vocabulary_size is None:
            raise ConfigError("vocabulary_size is None, expected the number of symbols: ids come without a tokenizer.")
        expect_number("vocabulary_size", vocabulary_size, 1, 2**31 - 1, whole=True)
        return _read_ids(source, vocabulary_size, unknown=None)
    if vocabulary_size not in (None, tokenizer.size):
        raise ConfigError(f"vocabulary_size is {vocabulary_size}, but the tokenizer has {tokenizer.size} symbols.")
    if isinstance(source, str | os.PathLike):
        return _read_text(source, tokenizer, bos)
    return _read_ids(source, tokenizer.size, tokenizer.unknown)


def learn_tokenizer(source: Source, config: TextConfig) -> Tokenizer:
    r"""The tokenizer that ``config`` asks for, with the vocabulary of ``source`` (see :func:`read_corpus`).

    Raises
    ------
    CorpusError
        ``source`` cannot be read, is not UTF-8, is empty, or is ids.
    ConfigError
        ``config.tokenizer`` is None, or a byte vocabulary should be cut.

    Examples
    --------
    >>> learn_tokenizer("a rose\nis a rose\n", TextConfig(tokenizer="word")).vocabulary.symbols
    ('<unk>', '<eos>', 'a', 'rose', 'is')
    """
    _expect_source(source)
    if config.tokenizer is None:
        raise ConfigError("tokenizer is None, expected byte, char or word: a vocabulary is learned from text only.")
    if not isinstance(source, str | os.PathLike):
        raise CorpusError(
            "A vocabulary is learned from text, but the source is ids. Set tokenizer=None and vocabulary_size."
        )
    if config.tokenizer == "byte":
        if config.min_count > 1 or config.max_vocabulary is not None:
            raise ConfigError("min_count or max_vocabulary is set, but the byte tokenizer always has all 256 bytes.")
        return ByteTokenizer()
    pieces = _text_pieces(source, config.tokenizer)
    first = next(pieces, None)
    if first is None:
        raise _empty(source)
    learn = {"char": CharTokenizer.learn, "word": WordTokenizer.learn}[config.tokenizer]
    return learn(chain([first], pieces), config.min_count, config.max_vocabulary)


def _expect_source(source: object) -> None:
    if isinstance(source, str | os.PathLike | np.ndarray):
        return
    if isinstance(source, Sequence) and not isinstance(source, bytes) and not any(isinstance(x, str) for x in source):
        return
    raise CorpusError(f"The corpus is {_described(source)}, expected a path, a text (a str) or a 1-D array of ids.")


def _described(source: object) -> str:
    kind = type(source).__name__
    return f"a {kind} of str" if isinstance(source, list | tuple) else f"of type {kind}"


def _read_text(source: str | os.PathLike[str], tokenizer: Tokenizer, bos: bool) -> Corpus:
    pieces: Iterable[str | bytes]
    if tokenizer.name == "byte" and not _is_text(source):
        pieces = _file_chunks(source)
    else:
        pieces = _text_pieces(source, tokenizer.name)
    length, counter = _Length(tokenizer), UnknownCounter(tokenizer)
    front = [np.array([tokenizer.line_end])] if bos else []
    ids = _collect(chain(front, counter.encode(length.measure(pieces))), tokenizer.size)
    if ids.size == len(front):
        raise _empty(source)
    missing, scored_missing = counter.all(), counter.scored(bos)
    first_characters, first_bytes = (0, 0) if bos else length.first
    scored = Counts(length.characters - first_characters, length.bytes - first_bytes, scored_missing.tokens,
                    scored_missing)
    return Corpus(ids, length.characters, length.bytes, missing.tokens, _name(source), scored, missing)


def _read_ids(source: np.ndarray | Sequence[int], size: int, unknown: int | None) -> Corpus:
    ids = expect_ids(source, size)
    if not ids.size:
        raise CorpusError("ids is empty, expected at least one id.")
    if ids.dtype == _compact(size):
        ids = ids.view()  # not a copy: it may be larger than the memory
        ids.flags.writeable = False
    else:
        ids = _collect(mapped.pieces(ids), size)
    found = _count(ids, unknown)
    scored = found - int(ids[0] == unknown)
    return Corpus(ids, None, None, found, "ids", Counts(None, None, scored, Unknown(scored)), Unknown(found))


def _is_text(source: str | os.PathLike[str]) -> TypeGuard[str]:
    return isinstance(source, str) and ("\n" in source or len(source) > LONGEST_PATH)


def _name(source: str | os.PathLike[str]) -> str:
    return "text" if _is_text(source) else os.fsdecode(source)


def _empty(source: str | os.PathLike[str]) -> CorpusError:
    return CorpusError(f"{_name(source)!r} holds no symbols, expected some text.")


def _slices(text: str) -> Iterator[str]:
    return (text[start : start + CHUNK] for start in range(0, len(text), CHUNK))


def _text_pieces(source: str | os.PathLike[str], tokenizer: str) -> Iterator[str]:
    """The text of a source in pieces, none of them empty, that split no symbol."""
    pieces = _slices(source) if _is_text(source) else _decoded(_file_chunks(source), os.fsdecode(source))
    return _whole_words(pieces) if tokenizer == "word" else pieces


def _file_chunks(path: str | os.PathLike[str]) -> Iterator[bytes]:
    name = os.fsdecode(path)
    try:
        with gzip.open(name) if name.endswith(".gz") else open(name, "rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except (OSError, EOFError, ValueError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        message = f"Cannot read the file {name!r}: {reason}."
        if isinstance(path, str):
            message += (
                f" A str of at most {LONGEST_PATH:,} characters without a line end is a path; if it is meant to be "
                "text, end it with '\\n'."
            )
        raise CorpusError(message) from error


def _decoded(chunks: Iterable[bytes], name: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    position = 0  # of the chunk in the file
    at_start = True
    for chunk in chain(chunks, [b""]):
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            # The decoder had kept the beginning of a character from the chunks before.
            offset = position + len(chunk) - len(error.object) + error.start
            raise not_utf8(repr(name), offset, error.object[error.start]) from None
        position += len(chunk)
        if at_start and text:
            text, at_start = text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}"), False  # the byte order mark
        if text:
            yield text


def _whole_words(pieces: Iterable[str]) -> Iterator[str]:
    """The same text, cut after white space only."""
    kept: list[str] = []
    for piece in pieces:
        last = "" if piece[-1].isspace() else piece.rsplit(maxsplit=1)[-1]
        if len(last) < len(piece):
            yield "".join(kept) + piece[: len(piece) - len(last)]
            kept.clear()
        if last:
            kept.append(last)
    if kept:
        yield "".join(kept)


class _Length:
    """Length of a text that passes by, and of its beginning up to the end of the first symbol."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.characters = self.bytes = 0
        self.first = 0, 0  # characters and bytes

    def measure(self, pieces: Iterable[str | bytes]) -> Iterator[str | bytes]:
        before_first = True
        for piece in pieces:
            data = utf8(piece)
            if before_first:
                first = self.tokenizer.first(piece)
                before_first, begin = first is None, data if first is None else first
                self.first = self.characters + _characters(begin), self.bytes + len(begin)
            self.bytes += len(data)
            self.characters += _characters(data)
            yield piece


def _characters(data: bytes) -> int:
    """How many characters begin in bytes of UTF-8: all but the continuation bytes."""
    return int(np.count_nonzero(np.frombuffer(data, np.uint8) & 0xC0 != 0x80))


def _compact(size: int) -> np.dtype:
    """The smallest integers for a vocabulary."""
    return np.dtype(np.uint8 if size <= 2**8 else np.uint16 if size <= 2**16 else np.int32)


def _collect(arrays: Iterable[np.ndarray], size: int) -> np.ndarray:
    """One read-only array out of many: in memory, or in a temporary file that goes when the array goes."""
    dtype = _compact(size)
    with tempfile.SpooledTemporaryFile(MEMORY_BYTES) as file:
        for array in arrays:
            file.write(array.astype(dtype).data)
        if file.tell() > MEMORY_BYTES:
            file.flush()
            return np.memmap(file, dtype, "r")
        file.seek(0)
        return np.frombuffer(file.read(), dtype)


def _count(ids: np.ndarray, id: int | None) -> int:
    return 0 if id is None else sum(int(np.count_nonzero(part == id)) for part in mapped.pieces(ids))
