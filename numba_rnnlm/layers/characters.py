"""Words as what they are spelled: vectors computed from characters (Kim et al. 2016)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from ..arena import Arena, Layout
from ..arguments import checked
from ..backends.ops import Array, Ops, Shape
from ..errors import ConfigError, ShapeError, expect_items, expect_number, shown
from .chain import Chain
from .convolution import Conv1D
from .embedding import Embedding
from .layer import Arrays, Run
from .options import KerasLayer
from .pointwise import Highway
from .pooling import GlobalMaxPooling1D
from .wrappers import Concat

AT_ONCE = 1024  # words whose vectors are computed in one pass when all of them are
BEGIN, END, PADDING, CHARACTERS = range(256, 260)  # behind the bytes


@checked
@dataclass(frozen=True)
class CharacterEmbedding(KerasLayer):
    """Turn ids (T, N) of words into vectors (T, N, D) computed from their characters, the bytes of UTF-8 (Kim et al. 2016).

    ::

        x = the vectors of the word's characters, between a begin and an end, then padding
        y = max over the places of tanh(convolutions of x), of several widths, one beside the other
        then highway layers

    Only the distinct words of a batch are computed; where nothing is learned, those of the whole vocabulary once for each version of the weights.
    The weights do not depend on the vocabulary, so words that are added later have vectors too.

    Parameters
    ----------
    symbols
        The words (V), in the order of their ids.
    size
        Size of a character's vector.
    widths
        Characters that the filters of each kind see.
    filters, most_filters
        A width of w has ``filters`` · w filters, at most ``most_filters``.
    highways
        Number of highway layers.
    longest
        Longer words are cut off behind so many bytes.

    Examples
    --------
    >>> layer = CharacterEmbedding(("the", "cat", "cats"), size=4, widths=(1, 2), filters=3)
    >>> layer.output((20, 32)), layer.parameters((20, 32))["embedding/W"]
    ((20, 32, 9), (259, 4))
    """

    symbols: Sequence[str]
    size: int = 15
    widths: Sequence[int] = (1, 2, 3, 4, 5, 6)
    filters: int = 25
    most_filters: int = 200
    highways: int = 1
    longest: int = 65

    def __post_init__(self) -> None:
        name = type(self).__name__
        symbols = expect_items(f"{name}: symbols", self.symbols, "the words of the vocabulary")
        if not symbols:
            raise ConfigError(f"{name}: symbols is empty, expected the words of the vocabulary.")
        for symbol in symbols:
            if not isinstance(symbol, str):
                raise ConfigError(f"{name}: symbols has {shown(symbol)}, expected words (str).")
        widths = expect_items(f"{name}: widths", self.widths, "numbers of characters such as (1, 2, 3)")
        if not widths:
            raise ConfigError(f"{name}: widths is empty, expected numbers of characters such as (1, 2, 3).")
        for width in widths:
            expect_number(f"{name}: a width", width, 1, 1000, whole=True)
        for field, least, most in (("size", 1, 2**31 - 1), ("filters", 1, 2**31 - 1), ("most_filters", 1, 2**31 - 1), ("highways", 0, 100), ("longest", 1, 10**6)):
            expect_number(f"{name}: {field}", getattr(self, field), least, most, whole=True)
        object.__setattr__(self, "symbols", tuple(symbols))
        object.__setattr__(self, "widths", tuple(map(int, widths)))

    @property
    def kind(self) -> str:
        return "characters"

    @cached_property
    def spelling(self) -> np.ndarray:
        """The bytes (L, V) of each word between BEGIN and END, int32, and behind that PADDING: enough for a window of each width, so that
        more of it changes nothing."""
        words = [word.encode("utf-8", "surrogatepass")[: self.longest] for word in self.symbols]
        found = np.full((max(map(len, words)) + 2 + max(self.widths), len(words)), PADDING, np.int32)
        for column, word in enumerate(words):
            found[: len(word) + 2, column] = [BEGIN, *word, END]
        return found

    def spelled(self, words: np.ndarray) -> np.ndarray:
        """The bytes of these words, with as much padding as the longest of them needs."""
        found = self.spelling[:, words]
        return found[: int((found != PADDING).sum(0).max()) + max(self.widths)]

    @cached_property
    def chain(self) -> Chain:
        """The layers that turn characters (L, U) of U words into vectors (U, D)."""
        convolutions = Concat([[Conv1D(min(self.filters * width, self.most_filters), width, activation="tanh"), GlobalMaxPooling1D()]
                               for width in self.widths])
        return Chain((Embedding(CHARACTERS, self.size), convolutions, *[Highway() for _ in range(self.highways)]))

    def output(self, shape: Shape) -> Shape:
        if len(shape) != 2:
            raise ShapeError(f"CharacterEmbedding takes ids (streams, steps), got an input with {len(shape)} axes; it can only be the first layer.")
        return (*shape, self.chain.output((len(self.spelling), 1))[-1])

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        return self.chain.parameters((len(self.spelling), 1))

    def activations(self, shape: Shape, training: bool) -> dict[str, Shape]:
        words, size = min(len(self.symbols), prod(shape)), self.output(shape)
        found = {"y": size, "inner": (self._layout((len(self.spelling), words), training).size,)}
        return found | {"gradients": (words, size[-1])} if training else found

    def initialize(self, shape: Shape, random: np.random.Generator) -> dict[str, np.ndarray]:
        return self.chain.initialize((len(self.spelling), 1), random)

    def forward(self, ops: Ops, run: Run, x: Array) -> Array:
        words, places = np.unique(ops.download(x), return_inverse=True)
        spelled = self.spelled(words)
        run.memo |= {"words": ops.upload(spelled), "places": ops.upload(places.reshape(x.shape))}
        run.memo["inner"] = self._inner(run.p, run.g, run.a["inner"], spelled.shape, "gradients" in run.a, run.written)
        ops.gather(self.chain.forward(ops, run.memo["inner"], run.memo["words"]), run.memo["places"], run.a["y"])
        return run.a["y"]

    def backward(self, ops: Ops, run: Run, x: Array, dy: Array) -> None:
        gradients = run.a["gradients"][: run.memo["words"].shape[1]]
        ops.fill(gradients, 0)
        ops.scatter_add(run.memo["places"], dy, gradients)
        self.chain.backward(ops, run.memo["inner"], run.memo["words"], gradients)

    def vectors(self, ops: Ops, p: Arrays) -> Array:
        count = len(self.symbols)
        found = ops.empty((count, self.output((1, 1))[-1]))
        buffer = ops.empty((self._layout((len(self.spelling), min(count, AT_ONCE)), False).size,))
        for first in range(0, count, AT_ONCE):
            words = self.spelled(np.arange(first, min(count, first + AT_ONCE)))
            ops.copy(self.chain.forward(ops, self._inner(p, {}, buffer, words.shape, False), ops.upload(words)), found[first : first + words.shape[1]])
        return found

    def _layout(self, shape: Shape, training: bool) -> Layout:
        return Layout(self.chain.activations(shape, training))

    def _inner(self, p: Arrays, g: Arrays, buffer: Array, shape: Shape, training: bool, written: set[int] | None = None) -> Run:
        """The arrays of the inner layers for so many characters of so many words."""
        layout = self._layout(shape, training)
        return Run(p, g, Arena(layout, buffer[: layout.size]), written)

    @property
    def causal(self) -> bool:
        return True  # what is seen at once are the characters of one word

    @property
    def ids(self) -> int:
        return len(self.symbols)

    def matrices(self) -> tuple[str, ...]:
        return self.chain.matrices()
