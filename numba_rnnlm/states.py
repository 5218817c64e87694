"""What a language model has read: the state of each text, to continue from as often as one likes, in this process or another."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, NamedTuple, Self

import numpy as np

from .arguments import checked_calls
from .backends.ops import Streams
from .config import WEIGHTS
from .errors import ConfigError, ShapeError, expect_items, expect_kind, expect_number, expect_one_of
from .formats.native import expect_replaceable, write_model
from .model_files import fitting, open_kind
from .network import Network

TAIL = 4  # symbols that decide how the next one is shown: a character has at most four bytes
KINDS = ("str", "bytes", "ids")  # what follows a text is given as what the text was
MOST = 2**53  # a float holds every whole number up to here


class Beginning(NamedTuple):
    """What is read before symbols are generated.

    Attributes
    ----------
    ids
        The symbols to read.
    tail
        The last :data:`TAIL` symbols of all that has then been read; -1 in front where there were fewer.
    kind
        One of :data:`KINDS`.
    spaced
        Whether the text has ended in white space that belongs to the next word.
    """

    ids: np.ndarray
    tail: np.ndarray
    kind: str
    spaced: bool


def tail_of(*ids: np.ndarray) -> np.ndarray:
    """The last :data:`TAIL` of all these ids, with -1 in front where there are fewer."""
    return np.concatenate([np.full(TAIL, -1, np.int32), *ids])[-TAIL:]


@checked_calls
@dataclass(frozen=True, eq=False, repr=False)
class TextState:
    """What a :class:`~numba_rnnlm.LanguageModel` has read: one text, or many in a batch. :meth:`LanguageModel.read` returns it.

    It is a value: nothing that a model does with it changes it. It belongs to the weights that have read the texts; any other weights
    refuse it, those of the same model after more training too.

    Examples
    --------
    >>> from numba_rnnlm import LanguageModel
    >>> model = LanguageModel(hidden=16, layers=1, embedding=8, seed=1)
    >>> model = model.fit("to be or not to be\\n" * 20, epochs=3, streams=4, steps=10, verbose=0)
    >>> state = model.read("to be ")
    >>> model.generate(state=state, length=10, seed=1) == model.generate("to be ", length=10, seed=1)
    True
    >>> state, model.read(["to be", "or not"]).positions
    (<TextState of 1 text>, array([6, 7]))
    """

    streams: Streams
    tails: np.ndarray
    kinds: tuple[str, ...]
    spaced: np.ndarray
    many: bool
    weights: str
    digest: str

    def __len__(self) -> int:
        return len(self.kinds)

    def __repr__(self) -> str:
        return f"<TextState of {len(self)} text{'s' * (len(self) != 1)}>"

    @property
    def positions(self) -> np.ndarray:
        """How many symbols of each text have been read, the line end in front of it included."""
        return self.streams.positions.copy()

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The numbers that the layers carry on, by name; the first axis is the text. They have not seen the last symbol of each text yet."""
        return {name: array.copy() for name, array in self.streams.state.items()}

    def copy(self) -> Self:
        """The same state, in arrays of its own."""
        return replace(self, streams=self.streams.take(np.arange(len(self))), tails=self.tails.copy(), spaced=self.spaced.copy())

    def take(self, rows: int | Sequence[int] | np.ndarray) -> Self:
        """The state of one of the texts, by its number; or of several, by a list of numbers, in which one may occur several times.

        Examples
        --------
        >>> from numba_rnnlm import LanguageModel
        >>> model = LanguageModel(hidden=4, layers=1, embedding=3, tokenizer=None, vocabulary_size=5, seed=1)
        >>> state = model.read([[1, 2], [3]])
        >>> state.take(0), state.take([0, 1, 1]).positions
        (<TextState of 1 text>, array([2, 1, 1]))
        """
        many = not isinstance(rows, Integral)
        given = expect_items("rows", rows.tolist() if isinstance(rows, np.ndarray) else rows, "a number, or numbers such as [0, 0, 1]") if many else [rows]
        chosen = [expect_number("the number of a text", row, 0, max(len(self) - 1, 0), whole=True) for row in given]
        at = np.array(chosen, np.int64)
        return replace(self, streams=self.streams.take(at), tails=self.tails[at], kinds=tuple(self.kinds[row] for row in chosen),
                       spaced=self.spaced[at], many=many)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to a file, from which :meth:`load` in another process continues to the same bits.

        Raises
        ------
        ModelFileError
            If the file cannot be written, or something other than a state has this name.
        """
        expect_replaceable(path, "state")
        numbers = {"tails": self.tails, "positions": self.streams.positions, "spaced": self.spaced,
                   "kinds": np.array([KINDS.index(kind) for kind in self.kinds])}
        write_model(path, "state", {"weights": self.weights, "digest": self.digest, "many": self.many}, {
            "state": self.streams.state.items(), "streams": ((name, array.astype(np.float64)) for name, array in numbers.items())})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """The state that :meth:`save` wrote, for a model with the same weights.

        Raises
        ------
        ModelFileError
            If the file is missing, damaged, or not a state.
        """
        with open_kind(path, "state") as file:
            name, about = file.name, file.about
            state, numbers = file.group("state"), file.group("streams")
        with fitting(name):
            count = len(numbers["kinds"])
            tails = _whole("tails", numbers["tails"], (count, TAIL), -1, 2**31 - 1).astype(np.int32)
            positions = _whole("positions", numbers["positions"], (count,), 1, MOST)
            kinds = tuple(KINDS[kind] for kind in _whole("kinds", numbers["kinds"], (count,), 0, len(KINDS) - 1).tolist())
            spaced = _whole("spaced", numbers["spaced"], (count,), 0, 1).astype(bool)
            expect_one_of("weights", about["weights"], WEIGHTS)
            if type(about["many"]) is not bool or (count != 1 and not about["many"]) or not isinstance(about["digest"], str):
                raise ValueError(f"many is {about['many']!r}, for {count} texts, and the digest {about['digest']!r}")
            known = tails >= 0
            if any(array.shape[:1] != (count,) for array in state.values()) or not known[:, -1].all() or (known[:, :-1] & ~known[:, 1:]).any():
                raise ValueError("its arrays are not those of the same texts")
            return cls(Streams(state, tails[:, -1].copy(), positions), tails, kinds, spaced, about["many"], about["weights"], about["digest"])


def state_after(read: Sequence[Beginning], streams: Streams, many: bool, weights: str, digest: str) -> TextState:
    """The state of streams that have read these texts with these weights."""
    tails = np.array([one.tail for one in read], np.int32).reshape(-1, TAIL)
    return TextState(streams, tails, tuple(one.kind for one in read), np.array([one.spaced for one in read], bool), many, weights, digest)


def nothing_behind(state: TextState, number: int) -> Beginning:
    """A text that continues one of the state by nothing."""
    return Beginning(np.empty(0, np.int32), state.tails[number], state.kinds[number], bool(state.spaced[number]))


def expect_state(state: Any, network: Network, weights: str) -> None:
    """Raise :class:`ConfigError` unless this is a state of texts that these weights of the network, "float32" or "int8", have read."""
    expect_kind("state", state, TextState, "what model.read or TextState.load returned")
    shapes = {name: array.shape for name, array in state.streams.state.items()}
    fits = shapes == dict(network.graph.state(len(state))) and state.tails.max(initial=0) < network.graph.head.symbols
    if state.digest != network.digest() or not fits:
        raise ConfigError("the state belongs to other weights than the model's: another model has read it, or the model has been trained since. "
                          "Read the text again with this model.")
    if state.weights != weights:
        raise ConfigError(f"the state was read with weights={state.weights!r}, which are other numbers than those of weights={weights!r}; use the "
                          "former, or read the text again with the latter.")


def continued(many: bool, texts: Sequence[Any], state: TextState) -> TextState:
    """The states that these texts continue. Raises :class:`ShapeError` if the state is neither of one text nor of as many."""
    if state.many and (not many or len(texts) != len(state)):
        raise ShapeError(f"the state is of {len(state)} texts, and {len(texts) if many else 'one'} came to continue them; give a list with one for each, or "
                         "state.take(n), the state of one of them.")
    return state if state.many else state.take([0] * len(texts))


def _whole(name: str, array: np.ndarray, shape: tuple[int, ...], low: int, high: int) -> np.ndarray:
    """An array of whole numbers of this shape within these limits, as int64. Raises ValueError if it is anything else."""
    if array.shape != shape or not ((array >= low) & (array <= high) & (array == np.floor(array))).all():
        raise ValueError(f"{name} are not {shape} whole numbers from {low} to {high}")
    return array.astype(np.int64)
