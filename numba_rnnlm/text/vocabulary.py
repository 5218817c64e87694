"""Symbols and their ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import numpy as np

from ..errors import ShapeError, VocabularyError, as_array, shown
from . import mapped

UNKNOWN = "<unk>"


@dataclass(frozen=True, repr=False)
class Vocabulary:
    """A fixed list of distinct symbols. The id of a symbol is its index in the list; ``<unk>`` has id 0.

    Raises
    ------
    VocabularyError
        A symbol is not a str or occurs twice, or the first one is not ``<unk>``.

    Examples
    --------
    >>> vocabulary = Vocabulary(["<unk>", "the", "cat"])
    >>> vocabulary.index("cat"), vocabulary.index("dog"), "dog" in vocabulary
    (2, 0, False)
    """

    symbols: Sequence[str]
    _ids: dict[str, int] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "symbols", tuple(self.symbols))
        for index, symbol in enumerate(self.symbols):
            if not isinstance(symbol, str):
                raise VocabularyError(f"symbols[{index}] is {symbol!r}, expected a str.")
        if self.symbols[:1] != (UNKNOWN,):
            raise VocabularyError(f"symbols begins with {list(self.symbols[:1])}, expected {UNKNOWN!r} first.")
        object.__setattr__(self, "_ids", {symbol: index for index, symbol in enumerate(self.symbols)})
        if len(self._ids) < len(self.symbols):
            index, symbol = next((i, s) for i, s in enumerate(self.symbols) if self._ids[s] != i)
            raise VocabularyError(
                f"symbols[{index}] and symbols[{self._ids[symbol]}] are both {symbol!r}, expected distinct symbols."
            )

    @classmethod
    def learn(
        cls, counts: Mapping[str, int], reserved: Sequence[str], min_count: int = 1, maximum: int | None = None
    ) -> "Vocabulary":
        """The reserved symbols in their order, then the others by decreasing frequency, ties by code point.

        Parameters
        ----------
        counts
            Number of occurrences of each symbol.
        reserved
            Symbols that every vocabulary contains, ``<unk>`` first.
        min_count
            Leave out symbols that occur less often.
        maximum
            Maximum size of the vocabulary, reserved symbols included.

        Examples
        --------
        >>> Vocabulary.learn({"b": 2, "a": 2, "c": 5, "d": 1}, reserved=["<unk>"], min_count=2).symbols
        ('<unk>', 'c', 'a', 'b')
        """
        fixed = set(reserved)
        seen = [symbol for symbol, count in counts.items() if count >= min_count and symbol not in fixed]
        seen.sort(key=lambda symbol: (-counts[symbol], symbol))
        most = None if maximum is None else max(maximum - len(reserved), 0)
        return cls([*reserved, *seen[:most]])

    def __len__(self) -> int:
        return len(self.symbols)

    def __contains__(self, symbol: object) -> bool:
        return symbol in self._ids

    def __repr__(self) -> str:
        return f"<Vocabulary of {len(self)} symbols>"

    def index(self, symbol: str) -> int:
        """The id of ``symbol``, or 0 (``<unk>``) if it is not in the vocabulary."""
        return self._ids.get(symbol, 0)

    def indices(self, symbols: Sequence[str]) -> np.ndarray:
        """The ids (int32) of many symbols; faster than calling :meth:`index` for each."""
        return np.fromiter(map(self._ids.get, symbols, repeat(0)), np.int32, len(symbols))


def expect_id(id: int, size: int) -> None:
    """Raise :class:`VocabularyError` unless ``id`` is in [0, size)."""
    if not 0 <= id < size:
        raise VocabularyError(f"id is {id}, expected 0 to {size - 1}: the vocabulary has {size} symbols.")


def expect_ids(ids: Any, size: int, name: str = "ids") -> np.ndarray:
    """Return ``ids`` as a 1-D integer array, without a copy if it already is one.

    Raises
    ------
    ShapeError
        ``ids`` is not 1-D or has elements that are not integers.
    VocabularyError
        An id is outside [0, size).
    """
    try:
        array = as_array(name, ids)
    except ShapeError:
        raise
    except Exception:  # rows of different lengths, or an object whose own conversion fails
        raise ShapeError(f"{name} is {shown(ids)}, expected a 1-D array of integers.") from None
    if array.ndim == 0 and array.dtype.kind not in "biuf":
        raise ShapeError(f"{name} is {shown(ids)}, expected a 1-D array of integers; pass text as a str.")
    if array.ndim != 1:
        raise ShapeError(
            f"{name} has type {type(ids).__name__} and shape {array.shape}, expected a 1-D array of integers. "
            "Flatten an array, select one column of a table, or pass text as a str."
        )
    if array.size == 0:
        return array.astype(np.int32)
    if array.dtype.kind not in "iu":
        raise ShapeError(f"{name} has dtype {array.dtype}, expected integers such as int32.")
    if isinstance(ids, (list, tuple)) and not {bool, np.bool_}.isdisjoint(map(type, ids)):  # NumPy would convert them to integers
        raise ShapeError(f"{name} contains a bool, expected integers.")
    start = 0
    for piece in mapped.pieces(array):
        if piece.min() < 0 or piece.max() >= size:
            place = int(np.argmax((piece < 0) | (piece >= size)))
            raise VocabularyError(
                f"{name}[{start + place}] is {piece[place]}, expected 0 to {size - 1}: the vocabulary has {size} symbols."
            )
        start += len(piece)
    return array
