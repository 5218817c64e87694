"""What of a text is not in the vocabulary: how much it is, what it stands for, and how a sentence shows it."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from .tokenizers import Tokenizer, utf8
from .vocabulary import UNKNOWN

SHOWN = 5  # symbols that a message names
LONGEST = 20  # characters of a symbol in a message


@dataclass(frozen=True)
class Unknown:
    """The part of a text that is read as ``<unk>``.

    Attributes
    ----------
    tokens
        How many ids are ``<unk>``: symbols outside the vocabulary and the words ``<unk>`` of the text itself.
    symbols
        Symbol outside the vocabulary → how often it occurs. None of ids, which do not tell.
    characters, bytes
        What these tokens stand for in the text, white space in front of a word included.
    """

    tokens: int = 0
    symbols: Mapping[str, int] | None = None
    characters: int = 0
    bytes: int = 0

    @property
    def missing(self) -> int:
        """How many tokens are symbols outside the vocabulary."""
        return sum((self.symbols or {}).values())

    @property
    def spelled(self) -> int:
        """How many characters these have."""
        return sum(len(symbol) * count for symbol, count in (self.symbols or {}).items())

    def without(self, first: "Unknown") -> "Unknown":
        """The rest of a text whose first token is unknown."""
        symbols = None if self.symbols is None else Counter(self.symbols) - Counter(first.symbols)
        return Unknown(self.tokens - first.tokens, symbols, self.characters - first.characters, self.bytes - first.bytes)


@dataclass
class UnknownCounter:
    """Counts what is read as ``<unk>`` while a text is encoded.

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
    """In bytes."""
    first: Unknown = Unknown()
    """The first token of the text, if that is unknown."""

    def encode(self, pieces: Iterable[str | bytes]) -> Iterator[np.ndarray]:
        """The ids of the pieces of a text, which split no symbol."""
        at_start = True
        space: list[str] = []  # in front of the next token
        for piece in pieces:
            ids = self.tokenizer.encode(piece)
            if isinstance(piece, str):  # only the byte tokenizer reads bytes, and it knows all of them
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
        """What was counted."""
        return _unknown(self.symbols, self.characters, self.size)

    def scored(self, bos: bool) -> Unknown:
        """The same without the first token, unless ``bos``."""
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
        (n,), which ids are ``<unk>``.
    symbols
        What the text has in their places. None of ids.
    """

    ids: np.ndarray
    unknown: np.ndarray
    symbols: Sequence[str] | None = None

    @property
    def spelled(self) -> np.ndarray:
        """(n,) int32: the characters of each symbol outside the vocabulary; 0 of the others, and of a word ``<unk>``."""
        lengths = np.zeros(len(self.ids), np.int32)
        if self.symbols:
            lengths[self.unknown] = [0 if symbol == UNKNOWN else len(symbol) for symbol in self.symbols]
        return lengths

    @property
    def missing(self) -> list[str]:
        """The symbols that are not in the vocabulary."""
        return [symbol for symbol in self.symbols or () if symbol != UNKNOWN]

    def named(self, names: Sequence[str]) -> list[str]:
        """``names`` (n) of the ids, with the text's own symbols where the ids are ``<unk>``."""
        named = list(names)
        for place, symbol in zip(np.flatnonzero(self.unknown).tolist(), self.symbols or (), strict=self.symbols is not None):
            named[place] = symbol
        return named


def encode_sentence(tokenizer: Tokenizer, text: str | bytes, bos: bool = True, eos: bool = True) -> Sentence:
    """A text with a line end in front (``bos``) and behind (``eos``).

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
    """The most frequent symbols, for a message: ``'x' (12 times), 'y' (3 times) and 8 more``.

    Examples
    --------
    >>> most_frequent({"cow": 1, "zebra": 12})
    "'zebra' (12 times), 'cow' (once)"
    """
    ranked = sorted(symbols.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{symbol[:LONGEST]!r}{'...' * (len(symbol) > LONGEST)} ({'once' if count == 1 else f'{count:,} times'})" for symbol, count in ranked[:SHOWN])
    return shown + (f" and {len(ranked) - SHOWN:,} more" if len(ranked) > SHOWN else "")
