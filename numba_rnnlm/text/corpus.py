"""Turns a text source or an array into ids, piece by piece, so a corpus can be larger than RAM."""

import codecs
import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from ..config import TextConfig
from ..errors import ConfigError, CorpusError, expect_number
from ..reports import warn
from . import hints, mapped, sources
from .cleaning import with_line_ends
from .sources import Source, Text, open_source
from .tokenizers import ByteTokenizer, CharTokenizer, Tokenizer, WordTokenizer, utf8
from .unknown import Unknown, UnknownCounter
from .vocabulary import expect_ids

LONGEST_WORD = 2**24  # characters; a word must fit in memory


class Counts(NamedTuple):
    """The size of part of a text: code points and UTF-8 bytes (None for ids), the number of ``<unk>`` ids, and what they stand for."""

    characters: int | None
    bytes: int | None
    unknown: int
    missing: Unknown

    def known(self) -> "Counts":
        """Subtract the characters and bytes of unknown symbols; ``unknown`` and ``missing`` stay the same."""
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
        (``numpy.memmap``) if they take more than 16 MiB. With ``bos``, a newline precedes the text.
    characters, bytes
        Length of the text in Unicode code points and in UTF-8 bytes; None if the source was ids.
    unknown
        Number of ids that are ``<unk>``.
    name
        Path of the file, ``"text"``, ``"lines"``, ``"ids"``, …
    returns
        Number of ``"\\r"`` in the source.
    scored
        Counts of the part that a model predicts, everything after the first id: the whole text with ``bos``, otherwise
        all but its first token.
    missing
        The part of the text that is ``<unk>``.
    explained
        Whether a warning has already explained the unknown symbols by an encoding or a Unicode normal form.
    """

    ids: np.ndarray
    characters: int | None
    bytes: int | None
    unknown: int
    name: str
    returns: int
    scored: Counts
    missing: Unknown
    explained: bool = False

    def digest(self) -> str:
        """SHA-256 of the ids as hexadecimal digits; identifies the text."""
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
        A text from any source in :mod:`numba_rnnlm.text.sources`, in UTF-8 (the byte tokenizer accepts any bytes);
        ``tokenizer.line_ends`` decides how its line endings are read. Or ids: a 1-D array or list of integers.
    tokenizer
        From :func:`learn_tokenizer`; None if ``source`` is ids without a tokenizer.
    vocabulary_size
        Number of symbols; required if ``tokenizer`` is None.
    bos
        Put a newline in front of the text.

    Warns
    -----
    UserWarning
        Symbols are unknown because the text is in another encoding or Unicode normal form, or it looks like UTF-16.

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
    source = open_source(source)
    if bos and not isinstance(source, Text):
        raise ConfigError("bos=True puts a newline in front of a text, but the corpus is ids, which are used unchanged; "
                          "leave bos out and put an id of your own in front of them.")
    if tokenizer is None:
        if isinstance(source, Text):
            raise CorpusError("Text was given with tokenizer=None, which accepts ids only (numpy.load reads them from a "
                              "file). Choose byte, char or word.")
        if vocabulary_size is None:
            raise ConfigError("vocabulary_size is None, expected the number of symbols: ids have no tokenizer to count them.")
        expect_number("vocabulary_size", vocabulary_size, 1, 2**31 - 1, whole=True)
        return _read_ids(source, vocabulary_size, unknown=None)
    if vocabulary_size not in (None, tokenizer.size):
        raise ConfigError(f"vocabulary_size is {vocabulary_size}, but the tokenizer has {tokenizer.size} symbols.")
    if isinstance(source, Text):
        return _read_text(source, tokenizer, bos)
    return _read_ids(source, tokenizer.size, tokenizer.unknown)


def learn_tokenizer(source: Source, config: TextConfig) -> Tokenizer:
    r"""Make the tokenizer that ``config`` describes, with a vocabulary learned from ``source`` (see :func:`read_corpus`).

    Raises
    ------
    CorpusError
        ``source`` cannot be read, is not UTF-8, is empty, or is ids.
    ConfigError
        ``config.tokenizer`` is None.

    Examples
    --------
    >>> learn_tokenizer("a rose\nis a rose\n", TextConfig(tokenizer="word")).vocabulary.symbols
    ('<unk>', '<eos>', 'a', 'rose', 'is')
    """
    source = open_source(source)
    if config.tokenizer is None:
        raise ConfigError("tokenizer is None, expected byte, char or word: a vocabulary can be learned from text only.")
    if not isinstance(source, Text) and not len(source):
        raise CorpusError("The corpus is empty, expected some text.")
    if not isinstance(source, Text):
        raise CorpusError(
            "A vocabulary is learned from text, but the source is ids. Set tokenizer=None and vocabulary_size."
        )
    if config.tokenizer == "byte":
        return ByteTokenizer(config.line_ends or "keep")
    line_ends = config.line_ends or "lf"
    kind = CharTokenizer if config.tokenizer == "char" else WordTokenizer
    counts = kind.count(_symbols(with_line_ends(source.pieces(), line_ends), source, config.tokenizer))
    if not counts:
        raise _empty(source)
    if kind is WordTokenizer and (hint := hints.of_words(counts)):
        warn(f"{source.name!r}: {hint}")
    return kind.of_counts(counts, config.min_count, config.max_vocabulary, line_ends)


def _read_text(text: Text, tokenizer: Tokenizer, bos: bool) -> Corpus:
    reading = _Reading(text, tokenizer)
    front = [np.array([tokenizer.line_end])] if bos else []
    ids = _collect(chain(front, reading.ids()), tokenizer.size)
    if ids.size == len(front):
        raise _empty(text)
    if reading.hint:
        warn(f"{text.name!r} {reading.hint}")
    missing, scored_missing = reading.unknown.all(), reading.unknown.scored(bos)
    first_characters, first_bytes = (0, 0) if bos else reading.first
    scored = Counts(reading.characters - first_characters, reading.bytes - first_bytes, scored_missing.tokens, scored_missing)
    return Corpus(ids, reading.characters, reading.bytes, missing.tokens, text.name, reading.returns, scored, missing, bool(reading.hint))


def _read_ids(source: Any, size: int, unknown: int | None) -> Corpus:
    ids = expect_ids(source, size)
    if not ids.size:
        raise CorpusError("ids is empty, expected at least one id.")
    if ids.dtype == _compact(size):
        ids = ids.view()  # not a copy: the array may be larger than RAM
        ids.flags.writeable = False
    else:
        ids = _collect(mapped.pieces(ids), size)
    found = _count(ids, unknown)
    scored = found - int(ids[0] == unknown)
    return Corpus(ids, None, None, found, "ids", 0, Counts(None, None, scored, Unknown(scored)), Unknown(found))


def _empty(text: Text) -> CorpusError:
    return CorpusError(f"{text.name!r} contains no symbols, expected some text.")


def _symbols(pieces: Iterable[bytes], text: Text, tokenizer: str) -> Iterator[str]:
    """Decode a text into pieces that are not empty and split no symbol."""
    decoded = _decoded(pieces, text)
    return _whole_words(decoded, text.name) if tokenizer == "word" else decoded


def _decoded(pieces: Iterable[bytes], text: Text) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")(text.errors)
    try:
        for piece in pieces:
            if decoded := decoder.decode(piece):
                yield decoded
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise sources.not_utf8(text) from None


def _whole_words(pieces: Iterable[str], name: str) -> Iterator[str]:
    """Cut the text at white space only. Raises :class:`CorpusError` at a "word" that would fill the memory."""
    pending: list[str] = []
    for piece in pieces:
        end = 1 + max(map(piece.rfind, " \n\t\v\f\r"))
        if end:
            yield "".join(pending) + piece[:end]
            pending.clear()
        if end < len(piece):
            pending.append(piece[end:])
            if sum(map(len, pending)) > LONGEST_WORD:
                raise CorpusError(f"{name!r} has more than {LONGEST_WORD:,} characters without white space, which would be one word; use "
                                  "tokenizer='char' or tokenizer='byte'.")
    if pending:
        yield "".join(pending)


class _Reading:
    """Encodes a text, and counts its characters, bytes and unknown symbols on the way."""

    def __init__(self, text: Text, tokenizer: Tokenizer) -> None:
        self.text, self.tokenizer = text, tokenizer
        self.characters = self.bytes = self.returns = 0
        self.unknown = UnknownCounter(tokenizer)
        self.first = 0, 0  # characters and bytes up to the end of the first symbol
        self.hint, self.suspected = "", False
        self.piece: str | bytes = ""  # the last one

    def ids(self) -> Iterator[np.ndarray]:
        for ids in self.unknown.encode(self._measured()):
            if self.unknown.symbols and not self.suspected:
                self.suspected = True
                if hint := hints.of_unknown(self.piece, self.tokenizer):
                    self.hint = f"has symbols that are not in the model's vocabulary: {hint}"
            yield ids

    def _measured(self) -> Iterator[str | bytes]:
        tokenizer, before_first = self.tokenizer, True
        for piece in self._pieces():
            data = utf8(piece)
            if before_first:
                first = tokenizer.first(piece)
                before_first, begin = first is None, data if first is None else first
                self.first = self.characters + _characters(begin), self.bytes + len(begin)
            self.bytes += len(data)
            self.characters += len(piece) if isinstance(piece, str) else _characters(piece)
            self.piece = piece
            yield piece

    def _pieces(self) -> Iterator[str | bytes]:
        pieces = with_line_ends(self._raw(), self.tokenizer.line_ends)
        return pieces if self.tokenizer.name == "byte" else _symbols(pieces, self.text, self.tokenizer.name)

    def _raw(self) -> Iterator[bytes]:
        for number, piece in enumerate(self.text.pieces()):
            if number == 0 and not self.text.start and (hint := hints.of_zeros(piece)):
                self.hint = f"has many bytes that are zero. {hint}"
            if b"\r" in piece:  # `in` is faster than `count`
                self.returns += piece.count(b"\r")
            yield piece


def _characters(data: bytes) -> int:
    """How many characters begin in these UTF-8 bytes: every byte counts except continuation bytes."""
    return len(data) if data.isascii() else int(np.count_nonzero(np.frombuffer(data, np.uint8) & 0xC0 != 0x80))


def _compact(size: int) -> np.dtype:
    """The smallest integer type for a vocabulary of this size."""
    return np.dtype(np.uint8 if size <= 2**8 else np.uint16 if size <= 2**16 else np.int32)


def _collect(arrays: Iterable[np.ndarray], size: int) -> np.ndarray:
    """Join many arrays into a read-only one, in memory or in a temporary file that is deleted with the array."""
    dtype = _compact(size)
    with tempfile.SpooledTemporaryFile(sources.MEMORY_BYTES) as file:
        for array in arrays:
            file.write(array.astype(dtype).data)
        if file.tell() > sources.MEMORY_BYTES:
            file.flush()
            return np.memmap(file, dtype, "r")
        file.seek(0)
        return np.frombuffer(file.read(), dtype)


def _count(ids: np.ndarray, id: int | None) -> int:
    return 0 if id is None else sum(int(np.count_nonzero(part == id)) for part in mapped.pieces(ids))
