"""How probable a model finds a text: totals over a corpus, and single tokens of sentences.

*What is scored.* A model predicts a token from those before it, so a token is scored if something stands before it. Nothing
stands before the first token of a text, unless a line end is put there: that is ``bos``, for "beginning of sentence".

* A corpus (``evaluate``, ``perplexity``) is one long text, and ``bos`` is False by default: all tokens but the first are scored,
  as in the published perplexities of Penn Treebank and WikiText and in PyTorch's word_language_model.
* A sentence (``score``, ``full_scores``) follows a line end and is followed by one: ``bos`` and ``eos`` are True by default, and all
  tokens of the sentence and the line end behind it are scored, as in KenLM.

Everything that is counted, tokens, characters, bytes and unknown ones, is counted over what is scored. So a sentence with a line end
behind it has one perplexity: ``perplexity(s + "\\n", bos=True)`` is ``exp(-score(s) / len(full_scores(s)))``. The lines of a corpus
are not separate sentences: the model keeps its state from line to line.

*Unknown symbols.* A symbol outside the vocabulary is read as ``<unk>``, and ``<unk>`` is often easier to predict than the symbol would be,
so that a sentence of unknown words may seem more probable than a good one. ``unknown`` says what then counts
(:class:`~numba_rnnlm.config.UnknownConfig`):

* "count": log p(``<unk>``), as of any token; ``oov`` tells how many there are.
* "exclude": nothing. These tokens, with the characters and bytes that they stand for, are left out; the model still reads them.
  What is left is comparable between texts, not between models whose vocabularies differ.
* "penalize": log p(``<unk>``) minus ``penalty`` nats for each character, about what spelling the symbol would cost. So models with
  different vocabularies can be compared.

The word ``<unk>`` in a text, as in Penn Treebank, counts as unknown too, but has no characters to pay for.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import exp, inf, log
from typing import NamedTuple

import numpy as np

from .config import UnknownConfig
from .network import Network

SENTENCES = 64  # long sentences scored in one batch
SHORTEST = 8  # steps; a batch of shorter sentences has as many tokens as one of this length
TREATED = {"count": "", "exclude": " left out", "penalize": " penalized"}  # unknown tokens
STEPS = 64  # the longest stretch computed at once: memory does not grow with the length of a sentence


class TokenScore(NamedTuple):
    """One token of a sentence."""

    token: str | int
    log_probability: float  # nats
    oov: bool  # out of vocabulary: scored as <unk>


def judge(scores: np.ndarray, unknown: np.ndarray, spelled: np.ndarray, config: UnknownConfig) -> tuple[np.ndarray, np.ndarray]:
    """What a configuration makes of the log-probabilities of tokens.

    Parameters
    ----------
    scores, unknown, spelled
        (n,): log p in nats; which are ``<unk>``; of how many characters the symbol has in whose place it stands.

    Returns
    -------
    scores, counted
        The scores (m,) of the tokens that count, and which these are, (n,).

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
    """How well a model predicts a text. What is scored and counted: see :mod:`numba_rnnlm.scoring`.

    Attributes
    ----------
    nats
        Total negative log-probability.
    tokens
        Scored tokens, line ends included: all but the first, which nothing precedes, or with ``bos`` all; without those that
        ``unknown="exclude"`` leaves out.
    oov
        How many tokens are not in the vocabulary.
    characters, bytes
        Of the text that they stand for; None where the corpus was ids. White space belongs to the word behind it. A character
        of which the byte tokenizer has not scored the first byte is not counted.
    bos
        Whether the text followed a line end, so that its first token is scored too.
    unknown
        What was done with tokens that are not in the vocabulary: "count", "exclude" or "penalize".
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
        """Total bits over the characters that were scored: comparable between tokenisers."""
        return self.nats / log(2) / self.characters if self.characters else None

    @property
    def bits_per_byte(self) -> float | None:
        """Total bits over the bytes that were scored: comparable between tokenisers and alphabets."""
        return self.nats / log(2) / self.bytes if self.bytes else None


def without(batches: Iterable[tuple[np.ndarray, np.ndarray]], id: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The batches with targets of -1 in place of ``id``: it is read, but not scored."""
    for inputs, targets in batches:
        yield inputs, np.where(targets == id, -1, targets)


def total_loss(network: Network, batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[float, int]:
    """(total nats, tokens counted) over consecutive (inputs, targets), each (T, N); targets of -1 are not counted."""
    ops, nats, count, state = network.ops, 0.0, 0, None
    for inputs, targets in batches:
        state = state or network.state(inputs.shape[1])
        losses = network.losses(ops.upload(inputs), ops.upload(targets.reshape(-1)), state)
        nats += float(ops.download(losses).sum(dtype=np.float64))
        count += int((targets >= 0).sum())
    return nats, count


def log_probabilities(network: Network, sentences: Sequence[np.ndarray]) -> list[np.ndarray]:
    """For each sentence of ids, the log-probability in nats of every id but the first, given those before it.

    Sentences of different length are computed in one batch; none sees another, and the result does not
    depend on their company or order. An array that is given several times is computed once.
    """
    places = {id(sentence): place for place, sentence in enumerate(sentences)}
    found = [np.empty(0)] * len(sentences)
    order = sorted((index for index in places.values() if len(sentences[index]) > 1), key=lambda index: len(sentences[index]))
    while order:
        longest = len(sentences[order[-1]]) - 1
        width = SENTENCES * STEPS // min(max(longest, SHORTEST), STEPS)
        group = order[: -width - 1 : -1]  # the longest first
        del order[-width:]
        for index, scores in zip(group, _batch(network, [sentences[index] for index in group]), strict=True):
            found[index] = scores
    return [found[places[id(sentence)]] for sentence in sentences]


def _batch(network: Network, sentences: list[np.ndarray]) -> list[np.ndarray]:
    """The log-probabilities of sentences of two ids or more, the longest first."""
    ops, streams, state = network.ops, len(sentences), network.state(len(sentences))
    found = [np.empty(len(sentence) - 1) for sentence in sentences]
    for start in range(0, len(sentences[0]) - 1, STEPS):
        left = sum(len(sentence) - 1 > start for sentence in sentences[:streams])
        if 2 * left <= streams:  # drop the sentences that have ended; only by halves, because each width allocates its own buffers
            narrow = network.state(left)
            for name in narrow:
                ops.copy(state[name][:left], narrow[name])
            streams, state = left, narrow
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
