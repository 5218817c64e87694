"""Counts and names the symbols of a text that are not in the vocabulary."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from .tokenizers import Tokenizer, utf8
from .vocabulary import UNKNOWN

SHOWN = 5  # symbols to name in a message
LONGEST = 20  # characters of a symbol to show in a message


@dataclass(frozen=True)
class Unknown:
    """The part of a text that is read as ``<unk>``.

    Attributes
    ----------
    tokens
        Number of ids that are ``<unk>``: symbols outside the vocabulary, and the word ``<unk>`` in the text itself.
    symbols
        Symbol outside the vocabulary → number of occurrences; None if the source is ids.
    characters, bytes
        Size of these tokens in the text, including the white space before a word.
    """

    tokens: int = 0
    symbols: Mapping[str, int] | None = None
    characters: int = 0
    bytes: int = 0

    @property
    def missing(self) -> int:
        """The number of tokens that are symbols outside the vocabulary."""
        return sum((self.symbols or {}).values())

    @property
    def spelled(self) -> int:
        """The number of characters in the symbols outside the vocabulary."""
        return sum(len(symbol) * count for symbol, count in (self.symbols or {}).items())

    def without(self, first: "Unknown") -> "Unknown":
        """Subtract ``first``, the counts of the first token."""
        symbols = None if self.symbols is None else Counter(self.symbols) - Counter(first.symbols)
        return Unknown(self.tokens - first.tokens, symbols, self.characters - first.characters, self.bytes - first.bytes)


@dataclass
class UnknownCounter:
    """Counts the symbols that are read as ``<unk>`` while a text is encoded.

    Examples
    --------
    >>> from numba_rnnlm.text import WordTokenizer
    >>> counter = UnknownCounter(WordTokenizer.learn(["the cat"]))
    >>> [ids.tolist() for ids in counter.encode(["the cow  ", "sees <unk>"])]
    [[3, 0], [0, 0]]
    >>> counter.all().tokens, counter.all().symbols, counter.all().characters
    (3, Counter({'cow': 1, 'sees': 1}), 16)
    """

    tokenizer: Tokenizer
    symbols: Counter[str] = field(default_factory=Counter)
    characters: int = 0
    size: int = 0
    """Bytes of the unknown symbols."""
    first: Unknown = Unknown()
    """Counts of the first token of the text, if it is unknown."""

    def encode(self, pieces: Iterable[str | bytes]) -> Iterator[np.ndarray]:
        """Encode the pieces of a text, which split no symbol."""
        at_start = True
        space: list[str] = []  # in front of the next token
        for piece in pieces:
            ids = self.tokenizer.encode(piece)
            if isinstance(piece, str):  # bytes come from the byte tokenizer, to which nothing is unknown
                if (ids == self.tokenizer.unknown).any():
                    text = "".join((*space, piece))
                    self._count(text, ids)
                    if at_start and ids[0] == self.tokenizer.unknown:
                        self.first = _first(self.tokenizer, text, ids)
                if len(ids):
                    space.clear()
                space.append(self.tokenizer.white_space_at_end(piece))
            at_start = at_start and not len(ids)
            yield ids

    def _count(self, text: str, ids: np.ndarray) -> None:
        symbols, space = self.tokenizer.read_as_unknown(text, ids)
        whole = "".join(symbols) + space
        self.symbols.update(symbols)
        self.characters += len(whole)
        self.size += len(utf8(whole))

    def all(self) -> Unknown:
        """The counts of the whole text."""
        return _unknown(self.symbols, self.characters, self.size)

    def scored(self, bos: bool) -> Unknown:
        """The counts of the scored part: without the first token, unless ``bos``."""
        return self.all() if bos else self.all().without(self.first)


def _first(tokenizer: Tokenizer, text: str, ids: np.ndarray) -> Unknown:
    symbols, _ = tokenizer.read_as_unknown(text, np.where(np.arange(len(ids)) == 0, ids, -1))
    begin = tokenizer.first(text) or b""
    return _unknown(Counter(symbols), len(begin.decode("utf-8", "surrogatepass")), len(begin))


def _unknown(symbols: Counter[str], characters: int, size: int) -> Unknown:
    known = Counter({symbol: count for symbol, count in symbols.items() if symbol != UNKNOWN})
    return Unknown(symbols.total(), known, characters, size)


class Sentence(NamedTuple):
    """A sentence as ids.

    Attributes
    ----------
    ids
        (n,) int32.
    unknown
        (n,) bool: which ids are ``<unk>``.
    symbols
        The symbols of the text that became ``<unk>``, in order; None if the sentence was given as ids.
    """

    ids: np.ndarray
    unknown: np.ndarray
    symbols: Sequence[str] | None = None

    @property
    def spelled(self) -> np.ndarray:
        """(n,) int32: the number of characters of each symbol outside the vocabulary; 0 elsewhere, also for a word ``<unk>``."""
        lengths = np.zeros(len(self.ids), np.int32)
        if self.symbols:
            lengths[self.unknown] = [0 if symbol == UNKNOWN else len(symbol) for symbol in self.symbols]
        return lengths

    @property
    def missing(self) -> list[str]:
        """The symbols that are not in the vocabulary."""
        return [symbol for symbol in self.symbols or () if symbol != UNKNOWN]

    def behind(self, id: int) -> "Sentence":
        """The sentence with ``id`` in front of it; of a text, which has a line end there, instead of that."""
        if self.symbols is None:
            return Sentence(np.concatenate([[id], self.ids]).astype(np.int32), np.concatenate([[False], self.unknown]))
        return self._replace(ids=np.concatenate([[id], self.ids[1:]]).astype(np.int32))

    def named(self, names: Sequence[str]) -> list[str]:
        """The ``names`` (n) of the ids, with every ``<unk>`` replaced by its symbol in the text."""
        named = list(names)
        for place, symbol in zip(np.flatnonzero(self.unknown).tolist(), self.symbols or (), strict=self.symbols is not None):
            named[place] = symbol
        return named


def encode_sentence(tokenizer: Tokenizer, text: str | bytes, bos: bool = True, eos: bool = True) -> Sentence:
    """Encode a text, with a newline before it (``bos``) and after it (``eos``).

    Examples
    --------
    >>> from numba_rnnlm.text import WordTokenizer
    >>> sentence = encode_sentence(WordTokenizer.learn(["the cat"]), "the cow")
    >>> sentence.ids, sentence.symbols, sentence.spelled
    (array([1, 3, 0, 1], dtype=int32), ['cow'], array([0, 0, 3, 0], dtype=int32))
    """
    ids = tokenizer.encode(text)
    whole = np.full(len(ids) + bos + eos, tokenizer.line_end, np.int32)
    whole[int(bos) : int(bos) + len(ids)] = ids
    unknown = whole == tokenizer.unknown
    symbols: Sequence[str] = []
    if np.count_nonzero(unknown):
        symbols, _ = tokenizer.read_as_unknown(text if isinstance(text, str) else text.decode("utf-8"), ids)
    return Sentence(whole, unknown, symbols)


def most_frequent(symbols: Mapping[str, int]) -> str:
    """List the most frequent symbols for a message: ``'x' (12 times), 'y' (3 times) and 8 more``.

    Examples
    --------
    >>> most_frequent({"cow": 1, "zebra": 12})
    "'zebra' (12 times), 'cow' (once)"
    """
    ranked = sorted(symbols.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{symbol[:LONGEST]!r}{'...' * (len(symbol) > LONGEST)} ({'once' if count == 1 else f'{count:,} times'})" for symbol, count in ranked[:SHOWN])
    return shown + (f" and {len(ranked) - SHOWN:,} more" if len(ranked) > SHOWN else "")
