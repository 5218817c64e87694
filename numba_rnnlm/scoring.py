"""Computes how probable a text is according to a model: totals over a corpus, and scores of single tokens in sentences.

*What is scored.* A model predicts a token from the tokens before it, so a token is scored if another token precedes it. Nothing
precedes the first token of a text, unless ``bos`` (for "beginning of sentence") puts a newline there.

* A corpus (``evaluate``, ``perplexity``) is one long text, and ``bos`` is False by default: all tokens but the first are scored,
  as in the published perplexities of Penn Treebank and WikiText and in PyTorch's word_language_model.
* A sentence (``score``, ``full_scores``) is preceded and followed by a newline: ``bos`` and ``eos`` are True by default, and all
  tokens of the sentence and the newline after it are scored, as in KenLM.

All counts (tokens, characters, bytes, unknown symbols) cover the scored tokens only. Therefore a sentence that ends in a newline has
a consistent perplexity: ``perplexity(s + "\\n", bos=True)`` is ``exp(-score(s) / len(full_scores(s)))``. The lines of a corpus
are not separate sentences: the model keeps its state from line to line.

*Unknown symbols.* A symbol outside the vocabulary is read as ``<unk>``, which is often easier to predict than the symbol itself
would be, so a sentence of unknown words may seem more probable than a good one. ``unknown`` selects how such tokens are scored
(:class:`~numba_rnnlm.config.UnknownConfig`):

* "count": as log p(``<unk>``), like any other token; ``oov`` is their number.
* "exclude": not at all. These tokens, with the characters and bytes that they stand for, are left out; the model still reads them.
  The results are comparable between texts, but not between models with different vocabularies.
* "penalize": as log p(``<unk>``) minus ``penalty`` nats for each character, about the cost of spelling the symbol. This makes
  models with different vocabularies comparable.

The word ``<unk>`` in a text, as in Penn Treebank, counts as unknown too, but has no characters to penalize.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import exp, inf, log
from typing import NamedTuple

import numpy as np

from .backends.ops import Streams
from .config import UnknownConfig
from .network import Network, State

SENTENCES = 64  # long sentences per batch
SHORTEST = 8  # steps; a batch of shorter sentences is sized as if they had this length
TREATED = {"count": "", "exclude": " left out", "penalize": " penalized"}  # how each policy treats unknown tokens
STEPS = 64  # maximum number of steps per forward pass, so that memory does not grow with the length of a sentence


class TokenScore(NamedTuple):
    """One token of a sentence."""

    token: str | int
    log_probability: float  # nats
    oov: bool  # out of vocabulary: scored as <unk>


def judge(scores: np.ndarray, unknown: np.ndarray, spelled: np.ndarray, config: UnknownConfig) -> tuple[np.ndarray, np.ndarray]:
    """Apply a policy for unknown symbols to the log-probabilities of tokens.

    Parameters
    ----------
    scores, unknown, spelled
        (n,) each: log p in nats; whether the token is ``<unk>``; the number of characters of the symbol that it replaces.

    Returns
    -------
    scores, counted
        The scores (m,) of the tokens that count, and the mask (n,) of these tokens.

    Examples
    --------
    >>> scores, unknown, spelled = np.array([-1.0, -0.5]), np.array([False, True]), np.array([0, 3])
    >>> judge(scores, unknown, spelled, UnknownConfig("exclude"))
    (array([-1.]), array([ True, False]))
    >>> judge(scores, unknown, spelled, UnknownConfig("penalize", penalty=2.0))
    (array([-1. , -6.5]), array([ True,  True]))
    """
    if config.excludes:
        return scores[~unknown], ~unknown
    if config.nats_per_character:
        scores = scores - config.nats_per_character * spelled
    return scores, np.full(len(scores), True)


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts a text. See :mod:`numba_rnnlm.scoring` for what is scored and counted.

    Attributes
    ----------
    nats
        Total negative log-probability.
    tokens
        Number of scored tokens, newlines included: all tokens except the first (with ``bos``, all), without those that
        ``unknown="exclude"`` leaves out.
    oov
        Number of tokens that are not in the vocabulary.
    characters, bytes
        Size of the scored text; None if the corpus was ids. White space belongs to the word after it. A character
        whose first byte the byte tokenizer has not scored is not counted.
    bos
        Whether a newline preceded the text, so that its first token is scored too.
    unknown
        The policy for tokens that are not in the vocabulary: "count", "exclude" or "penalize".
    """

    nats: float
    tokens: int
    oov: int = 0
    characters: int | None = None
    bytes: int | None = None
    bos: bool = False
    unknown: str = "count"

    def __str__(self) -> str:
        characters = "" if self.bits_per_character is None else f", {self.bits_per_character:.3f} bits/character"
        return (f"perplexity {self.perplexity:.2f} ({self.nats_per_token:.4f} nats/token{characters}) over "
                f"{self.tokens:,} tokens{'' if self.bos else ' after the first'}, {self.oov:,} not in the vocabulary{TREATED[self.unknown]}")

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.tokens

    @property
    def bits_per_token(self) -> float:
        return self.nats_per_token / log(2)

    @property
    def perplexity(self) -> float:
        """exp(nats per token)."""
        return exp(self.nats_per_token) if self.nats_per_token < 700 else inf

    @property
    def bits_per_character(self) -> float | None:
        """Total bits divided by the number of scored characters: comparable between tokenizers."""
        return self.nats / log(2) / self.characters if self.characters else None

    @property
    def bits_per_byte(self) -> float | None:
        """Total bits divided by the number of scored bytes: comparable between tokenizers and alphabets."""
        return self.nats / log(2) / self.bytes if self.bytes else None


def without(batches: Iterable[tuple[np.ndarray, np.ndarray]], id: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Replace the target ``id`` by -1 in all batches, so that it is read but not scored."""
    for inputs, targets in batches:
        yield inputs, np.where(targets == id, -1, targets)


def total_loss(network: Network, batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[float, int]:
    """(total nats, number of scored tokens) over consecutive batches of (inputs, targets), each (T, N); targets of -1 are not scored."""
    ops, nats, count, state = network.ops, 0.0, 0, None
    for inputs, targets in batches:
        state = network.state(inputs.shape[1]) if state is None else state
        losses = network.losses(ops.upload(inputs), ops.upload(targets.reshape(-1)), state)
        nats += float(ops.download(losses).sum(dtype=np.float64))
        count += int((targets >= 0).sum())
    return nats, count


def log_probabilities(network: Network, sentences: Sequence[np.ndarray], start: Streams | None = None) -> list[np.ndarray]:
    """For each sentence of ids, the log-probability in nats of every id but the first, given the ids before it.

    Sentences of different lengths are computed in one batch; the result for a sentence does not depend on the
    other sentences or their order. An array object that occurs several times is computed once.

    With ``start``, each sentence begins with the last symbol of a stream, and what the stream has read before counts, too.
    """
    keys = [id(sentence) for sentence in sentences] if start is None else [*range(len(sentences))]
    places = {key: place for place, key in enumerate(keys)}
    found = [np.empty(0)] * len(sentences)
    order = sorted((index for index in places.values() if len(sentences[index]) > 1), key=lambda index: len(sentences[index]))
    while order:
        longest = len(sentences[order[-1]]) - 1
        width = SENTENCES * STEPS // min(max(longest, SHORTEST), STEPS)
        group = order[: -width - 1 : -1]  # longest first
        del order[-width:]
        state = network.state(len(group))
        if start is not None:
            network.load(state, start.take(np.array(group)).state)
        for index, scores in zip(group, _batch(network, [sentences[index] for index in group], state), strict=True):
            found[index] = scores
    return [found[places[key]] for key in keys]


def _batch(network: Network, sentences: list[np.ndarray], state: State) -> list[np.ndarray]:
    """The log-probabilities of sentences of at least two ids, sorted from longest to shortest."""
    ops, streams = network.ops, len(sentences)
    found = [np.empty(len(sentence) - 1) for sentence in sentences]
    for start in range(0, len(sentences[0]) - 1, STEPS):
        left = sum(len(sentence) - 1 > start for sentence in sentences[:streams])
        if 2 * left <= streams:  # drop finished sentences, but only when half of them are, because each width allocates its own buffers
            streams, state = left, state.take(np.arange(left))
        pieces = [sentence[start : start + STEPS + 1] for sentence in sentences[:streams]]
        sizes = np.array([len(piece) for piece in pieces])
        inside = np.arange(sizes[0]) < sizes[:, None]
        ids = np.full(inside.shape, -1, np.int32)
        ids[inside] = np.concatenate(pieces)
        inputs, targets = np.maximum(ids[:, :-1].T, 0, order="C"), np.ascontiguousarray(ids[:, 1:].T)
        losses = ops.download(network.losses(ops.upload(inputs), ops.upload(targets.reshape(-1)), state)).reshape(targets.shape)
        scores = -losses.T[inside[:, 1:]].astype(np.float64)
        stops = np.cumsum(sizes[:left] - 1).tolist()
        for one, first, stop in zip(found[:left], [0, *stops[:-1]], stops, strict=True):
            one[start : start + STEPS] = scores[first:stop]
    return found
