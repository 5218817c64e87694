"""Converts text to ids and back; the symbols are bytes, characters (Unicode code points) or words."""

import codecs
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress, repeat
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np

from ..errors import CorpusError, VocabularyError
from .vocabulary import UNKNOWN, Vocabulary, expect_id, expect_ids

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
LINE_END = "<eos>"


class _WhiteSpace(NamedTuple):
    """Patterns for one definition of white space."""

    word: re.Pattern[str]
    spaced: re.Pattern[str]
    """White space, and the word or newline that follows it."""
    space: re.Pattern[str]


WHITE_SPACE = {
    "ascii": _WhiteSpace(re.compile(r"[^ \t\n\v\f\r]+"), re.compile(r"([ \t\v\f\r]*)(\n|[^ \t\n\v\f\r]+)"), re.compile(r"[ \t\v\f\r]*")),
    "unicode": _WhiteSpace(re.compile(r"\S+"), re.compile(r"([^\S\n]*)(\n|\S+)"), re.compile(r"[^\S\n]*")),
}


class StreamDecoder(Protocol):
    """Decodes ids one at a time; the joined pieces equal ``decode`` of all the ids."""

    def __call__(self, id: int) -> str:
        """The text that this id completes; may be empty."""
        ...

    def flush(self) -> str:
        """The remaining text at the end."""
        ...


class Tokenizer(ABC):
    """The common interface of the three tokenizers."""

    name: ClassVar[str]
    """``"byte"``, ``"char"`` or ``"word"``."""
    unknown: ClassVar[int | None]
    """The id of ``<unk>``, which replaces every symbol outside the vocabulary; None if no symbol can be unknown."""
    line_end: ClassVar[int]
    """The id of the newline."""
    separator: ClassVar[str]
    """The text between two decoded symbols."""
    line_ends: str
    """How sources are read: "lf" turns ``"\\r\\n"`` and ``"\\r"`` into ``"\\n"``, "keep" does not. :meth:`encode` does not apply it."""

    @property
    @abstractmethod
    def size(self) -> int:
        """The number of symbols in the vocabulary."""

    @abstractmethod
    def __contains__(self, symbol: object) -> bool:
        """Whether the vocabulary has this symbol."""

    @abstractmethod
    def encode(self, text: str | bytes) -> np.ndarray:
        """The ids of ``text``, int32. Bytes must be UTF-8 (otherwise :class:`CorpusError`); the byte tokenizer accepts any."""

    @abstractmethod
    def first(self, text: str | bytes) -> bytes | None:
        """The text up to the end of its first symbol, in UTF-8; None if it has none."""

    @abstractmethod
    def stream_decoder(self) -> StreamDecoder:
        """A decoder that accepts one id at a time, to print text while it is being generated."""

    @abstractmethod
    def symbol(self, id: int) -> str:
        """A printable name for one symbol."""

    @abstractmethod
    def unknown_symbols(self, text: str) -> Iterator[tuple[int, str]]:
        """The symbols of ``text`` that are not in the vocabulary, each with its character position."""

    @abstractmethod
    def read_as_unknown(self, text: str, ids: np.ndarray) -> tuple[Sequence[str], str]:
        """The symbols of ``text`` that are ``<unk>`` in its ``ids``, in order, and all the white space before them."""

    def white_space_at_end(self, text: str) -> str:
        """The white space at the end of ``text``, which belongs to the next symbol."""
        return ""

    def byte_decoder(self) -> Callable[[int], bytes]:
        """A decoder that accepts one id at a time and returns bytes: the bytes themselves for the byte tokenizer, otherwise UTF-8."""
        decoder = self.stream_decoder()
        return lambda id: utf8(decoder(id))

    def extended(self, counts: Mapping[str, int], min_count: int = 1, maximum: int | None = None) -> "Tokenizer":
        """A tokenizer with the symbols of ``counts`` added, chosen as in ``learn``; existing symbols keep their ids."""
        return self

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """A description for :meth:`from_dict` that can be written as JSON."""

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Tokenizer":
        """Rebuild the tokenizer that :meth:`to_dict` described.

        Raises
        ------
        VocabularyError
            ``values`` is not a description that ``to_dict`` returns.
        """
        if not isinstance(values, Mapping):
            raise VocabularyError(f"The tokenizer is {values!r}, expected a dict with its name.")
        name, symbols, keys = values.get("name"), values.get("symbols"), set(values)
        # Version 1 files have neither line_ends nor white_space.
        if name == "byte" and keys <= {"name", "line_ends"}:
            return ByteTokenizer(values.get("line_ends", "keep"))
        if isinstance(symbols, list) and name == "char" and keys <= {"name", "symbols", "line_ends"}:
            return CharTokenizer(Vocabulary(symbols), values.get("line_ends", "keep" if "\r" in symbols else "lf"))
        if isinstance(symbols, list) and name == "word" and keys <= {"name", "symbols", "line_ends", "white_space"}:
            return WordTokenizer(Vocabulary(symbols), values.get("line_ends", "lf"), values.get("white_space", "unicode"))
        raise VocabularyError(
            f"The tokenizer has the keys {sorted(map(str, values))} and the name {values.get('name')!r}, expected "
            "the name 'byte', 'char' or 'word', a list of symbols for the latter two, and line_ends."
        )

    def __post_init__(self) -> None:
        _expect("line_ends", self.line_ends, ("lf", "keep"))

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of 1-D ``ids``."""
        decoder = self.stream_decoder()
        return "".join(map(decoder, expect_ids(ids, self.size).tolist())) + decoder.flush()


@dataclass(frozen=True)
class ByteTokenizer(Tokenizer):
    """One symbol for each of the 256 bytes: it can encode any text and any file, and nothing is unknown.

    Invalid UTF-8 is decoded as U+FFFD; a lone surrogate is encoded as three bytes.

    Examples
    --------
    >>> tokenizer = ByteTokenizer()
    >>> tokenizer.encode("né")
    array([110, 195, 169], dtype=int32)
    >>> decoder = tokenizer.stream_decoder()
    >>> decoder(110), decoder(195), decoder(169)
    ('n', '', 'é')
    """

    line_ends: str = "keep"
    name = "byte"
    unknown = None
    line_end = ord("\n")
    separator = ""

    @property
    def size(self) -> int:
        return 256

    def __contains__(self, symbol: object) -> bool:
        return True

    def encode(self, text: str | bytes) -> np.ndarray:
        return np.frombuffer(utf8(text), np.uint8).astype(np.int32)

    def first(self, text: str | bytes) -> bytes | None:
        return utf8(text[:1])[:1] or None

    def stream_decoder(self) -> StreamDecoder:
        return _ByteDecoder()

    def symbol(self, id: int) -> str:
        expect_id(id, self.size)
        return repr(bytes((id,)))[2:-1]

    def unknown_symbols(self, text: str) -> Iterator[tuple[int, str]]:
        return iter(())

    def read_as_unknown(self, text: str, ids: np.ndarray) -> tuple[Sequence[str], str]:
        return "", ""

    def byte_decoder(self) -> Callable[[int], bytes]:
        return lambda id: bytes((id,))

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "line_ends": self.line_ends}


@dataclass(frozen=True)
class _VocabularyTokenizer(Tokenizer):
    """Characters or words: a vocabulary learned from text, in which ``<unk>`` is id 0 and the newline id 1."""

    vocabulary: Vocabulary
    line_ends: str = "lf"
    unknown = 0
    line_end = 1
    reserved: ClassVar[tuple[str, str]]

    def __post_init__(self) -> None:
        super().__post_init__()
        symbols = tuple(self.vocabulary.symbols)
        if symbols[:2] != self.reserved:
            raise VocabularyError(
                f"The symbols of a {self.name} vocabulary begin with {list(symbols[:2])}, expected "
                f"{list(self.reserved)}."
            )
        for symbol in symbols[2:]:
            if not self._is_symbol(symbol):
                raise VocabularyError(f"The {self.name} vocabulary contains {symbol!r}, expected symbols of one {self.name} each.")

    @staticmethod
    @abstractmethod
    def _is_symbol(symbol: str) -> bool: ...

    @staticmethod
    @abstractmethod
    def count(pieces: Iterable[str]) -> Counter[str]:
        """How often each symbol occurs in the pieces of a text."""

    @classmethod
    def learn(cls, pieces: Iterable[str], min_count: int = 1, maximum: int | None = None, line_ends: str = "lf") -> Self:
        """Learn the vocabulary of a text, given in pieces that split no symbol."""
        return cls.of_counts(cls.count(pieces), min_count, maximum, line_ends)

    @classmethod
    def of_counts(cls, counts: Counter[str], min_count: int = 1, maximum: int | None = None, line_ends: str = "lf") -> Self:
        """Make a tokenizer from the number of occurrences of each symbol."""
        return cls(Vocabulary.learn(counts, cls.reserved, min_count, maximum), line_ends)

    def extended(self, counts: Mapping[str, int], min_count: int = 1, maximum: int | None = None) -> Self:
        return replace(self, vocabulary=Vocabulary.learn(counts, self.vocabulary.symbols, min_count, maximum))

    @property
    def size(self) -> int:
        return len(self.vocabulary)

    def __contains__(self, symbol: object) -> bool:
        return symbol in self.vocabulary

    def symbol(self, id: int) -> str:
        expect_id(id, self.size)
        symbol = self.vocabulary.symbols[id]
        return symbol if symbol.isprintable() else repr(symbol)[1:-1]

    def to_dict(self) -> dict[str, Any]:
        # A list of symbols, not one long str: JSON would merge two adjacent surrogates into one character.
        return {"name": self.name, "symbols": list(self.vocabulary.symbols), "line_ends": self.line_ends}


@dataclass(frozen=True)
class CharTokenizer(_VocabularyTokenizer):
    """Unicode code points; ``<unk>`` is decoded as U+FFFD.

    Examples
    --------
    >>> tokenizer = CharTokenizer.learn(["hello"])
    >>> tokenizer.vocabulary.symbols
    ('<unk>', '\\n', 'l', 'e', 'h', 'o')
    >>> tokenizer.encode("hero")
    array([4, 3, 0, 5], dtype=int32)
    """

    name = "char"
    separator = ""
    reserved = (UNKNOWN, "\n")

    @staticmethod
    def _is_symbol(symbol: str) -> bool:
        return len(symbol) == 1

    @staticmethod
    def count(pieces: Iterable[str]) -> Counter[str]:
        counts: Counter[str] = Counter()
        for piece in pieces:
            histogram = np.bincount(_code_points(piece))
            counts.update({chr(point): int(histogram[point]) for point in np.flatnonzero(histogram).tolist()})
        return counts

    @cached_property
    def _table(self) -> np.ndarray:
        """Code point → id. The last entry, one past the highest known code point, is 0 and serves all higher ones."""
        points = [ord(symbol) for symbol in self.vocabulary.symbols[1:]]
        table = np.zeros(max(points) + 2, np.int32)
        table[points] = np.arange(1, self.size)
        return table

    def encode(self, text: str | bytes) -> np.ndarray:
        return self._table.take(_code_points(as_text(text)), mode="clip")

    def first(self, text: str | bytes) -> bytes | None:
        return utf8(as_text(text)[:1]) or None

    def stream_decoder(self) -> StreamDecoder:
        return _SymbolDecoder((REPLACEMENT, *self.vocabulary.symbols[1:]), self.separator)

    def unknown_symbols(self, text: str) -> Iterator[tuple[int, str]]:
        return ((int(position), text[position]) for position in np.flatnonzero(self.encode(text) == 0))

    def read_as_unknown(self, text: str, ids: np.ndarray) -> tuple[Sequence[str], str]:
        return _code_points(text)[ids == self.unknown].tobytes().decode("utf-32-le", "surrogatepass"), ""


@dataclass(frozen=True)
class WordTokenizer(_VocabularyTokenizer):
    r"""Words separated by white space; the newline ``"\n"`` is ``<eos>``.

    White space is ASCII only: space, ``\t``, ``\n``, ``\v``, ``\f`` and ``\r``. A no-break space is part of a word, except in version 1
    files, which use Unicode's white space (``white_space="unicode"``).

    The words ``<unk>`` and ``<eos>`` in a text are read as the symbols. Decoding puts one space between words, but none
    before or after a newline.

    Examples
    --------
    >>> tokenizer = WordTokenizer.learn(["the cat\nthe dog\n"])
    >>> tokenizer.encode("the cow\n")
    array([2, 0, 1], dtype=int32)
    >>> tokenizer.decode([2, 0, 1, 4])
    'the <unk>\ndog'
    """

    white_space: str = "ascii"
    name = "word"
    separator = " "
    reserved = (UNKNOWN, LINE_END)

    def __post_init__(self) -> None:
        super().__post_init__()
        _expect("white_space", self.white_space, tuple(WHITE_SPACE))

    @staticmethod
    def _is_symbol(symbol: str) -> bool:
        return WHITE_SPACE["ascii"].word.fullmatch(symbol) is not None

    @staticmethod
    def count(pieces: Iterable[str]) -> Counter[str]:
        counts: Counter[bytes] = Counter()
        for piece in pieces:
            counts.update(_words(piece))
        return Counter({word.decode("utf-8", "surrogatepass"): count for word, count in counts.items()})

    @cached_property
    def _ids(self) -> dict[bytes, int]:
        return {utf8(symbol): id for id, symbol in enumerate(self.vocabulary.symbols)}

    def encode(self, text: str | bytes) -> np.ndarray:
        text = as_text(text)
        if self.white_space == "unicode":
            return self.vocabulary.indices(text.replace("\n", f" {LINE_END} ").split())
        words = _words(text)
        return np.fromiter(map(self._ids.get, words, repeat(0)), np.int32, len(words))

    def first(self, text: str | bytes) -> bytes | None:
        found = WHITE_SPACE[self.white_space].spaced.match(as_text(text))
        return utf8(found.group()) if found else None

    def stream_decoder(self) -> StreamDecoder:
        return _SymbolDecoder((UNKNOWN, "\n", *self.vocabulary.symbols[2:]), self.separator)

    def unknown_symbols(self, text: str) -> Iterator[tuple[int, str]]:
        words = ((match.start(), match.group()) for match in WHITE_SPACE[self.white_space].word.finditer(text))
        return ((position, word) for position, word in words if word not in self.vocabulary)

    def read_as_unknown(self, text: str, ids: np.ndarray) -> tuple[Sequence[str], str]:
        unknown = ids == self.unknown
        if self.white_space == "unicode":
            found = list(compress(WHITE_SPACE[self.white_space].spaced.findall(text), unknown.tolist()))
            return [word for _, word in found], "".join(space for space, _ in found)
        data = utf8(text)  # three times faster than testing every word if few of many are unknown
        starts, ends = _bounds(data)
        spaces = (starts - np.concatenate([[0], ends[:-1]]))[unknown]
        words = (data[start:end] for start, end in zip(starts[unknown].tolist(), ends[unknown].tolist(), strict=True))
        return [word.decode("utf-8", "surrogatepass") for word in words], " " * int(spaces.sum())

    def white_space_at_end(self, text: str) -> str:
        found = WHITE_SPACE[self.white_space].space.match(text[::-1])
        return text[len(text) - found.end() :] if found else ""

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "white_space": self.white_space}


class _ByteDecoder:
    def __init__(self) -> None:
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def __call__(self, id: int) -> str:
        expect_id(id, 256)
        return self.decoder.decode(bytes((id,)))

    def flush(self) -> str:
        return self.decoder.decode(b"", final=True)


class _SymbolDecoder:
    def __init__(self, texts: Sequence[str], separator: str) -> None:
        self.texts, self.separator = texts, separator
        self.previous = "\n"

    def __call__(self, id: int) -> str:
        expect_id(id, len(self.texts))
        text = self.texts[id]
        gap = "" if "\n" in (self.previous, text) else self.separator
        self.previous = text
        return gap + text

    def flush(self) -> str:
        return ""


def utf8(text: str | bytes) -> bytes:
    """Encode any str, lone surrogates included."""
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")


def as_text(text: str | bytes, name: str = "The text") -> str:
    """Decode bytes; a str is returned unchanged. Raises :class:`CorpusError`, which calls the text ``name``, if it is not UTF-8."""
    if isinstance(text, str):
        return text
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(f"{name} is not UTF-8: the byte at offset {error.start} is 0x{text[error.start]:02x}. Convert it to UTF-8, or "
                          "use a model with tokenizer='byte'.") from None


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _words(text: str) -> list[bytes]:
    return utf8(text).replace(b"\n", f" {LINE_END} ".encode()).split()  # bytes.split splits at ASCII white space only


def _bounds(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The byte offsets at which the words and newlines of a text begin and end."""
    codes = np.frombuffer(data, np.uint8)
    line_end = codes == ord("\n")
    inside = ~((codes == ord(" ")) | ((codes >= ord("\t")) & (codes <= ord("\r"))))
    starts, ends = inside.copy(), inside.copy()
    starts[1:] &= ~inside[:-1]
    ends[:-1] &= ~inside[1:]
    return np.flatnonzero(starts | line_end), np.flatnonzero(ends | line_end) + 1


def _expect(name: str, value: Any, choices: Sequence[str]) -> None:
    if value not in choices:
        raise VocabularyError(f"The tokenizer's {name} is {value!r}, expected {' or '.join(map(repr, choices))}.")
