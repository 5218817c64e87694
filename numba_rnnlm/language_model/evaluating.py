"""Evaluates a language model on a corpus, and warns of symbols that are not in its vocabulary."""

import time
from collections.abc import Callable
from itertools import islice
from math import ceil

from ..config import WEIGHTS, TextConfig, UnknownConfig
from ..errors import ConfigError, CorpusError, expect_flag, expect_one_of
from ..network import Network
from ..reports import warn
from ..scoring import Evaluation, total_loss, without
from ..text import Corpus, Source, Tokenizer, Unknown, most_frequent, read_corpus, segments
from .contents import Contents

EVALUATION_STREAMS = 20  # evaluated in one batch, for speed; a corpus of fewer than 2,000 tokens is one stream
EVALUATION_STEPS = 64  # steps per forward pass; each stream first reads as many tokens again, so that it does not start cold
SAMPLE = 0.01  # fraction of a time limit that may be spent on estimating how long an evaluation takes
MARGIN = 1.2  # factor by which an evaluation may take longer than its estimate
MANY_UNKNOWN = 0.01  # fraction of unknown tokens above which to warn
MANY_WHERE_CUT = 0.2  # the same if min_count or max_vocabulary has reduced the vocabulary on purpose

ADVICE = {  # what to do about unknown symbols
    "training": "<unk> is easy to predict, so the loss says little; extend_vocabulary=True gives them rows of their own.",
    "learning": "<unk> is easy to predict, so the loss says little; a smaller min_count or a larger max_vocabulary keeps more of them.",
    "validation": "<unk> may be easier to predict than they are; to compare models, evaluate with unknown='exclude' or unknown='penalize'.",
    "scoring": "<unk> may be more probable than they are; unknown='exclude' leaves them out, and unknown='penalize' adds what spelling them "
               "would cost.",
}
IDS_HAVE_NO_CHARACTERS = "unknown='penalize' counts the characters of unknown symbols, but ids have none; give text, or unknown='exclude'."


def read(contents: Contents, source: Source, tokenizer: Tokenizer | None, bos: bool = False) -> Corpus:
    """A corpus as ids of this tokenizer's vocabulary."""
    return read_corpus(source, tokenizer, None if tokenizer else contents.config.vocabulary_size, bos)


def evaluate(contents: Contents, source: Source, weights: str, bos: bool, policy: UnknownConfig) -> Evaluation:
    """See :meth:`LanguageModel.evaluate <numba_rnnlm.LanguageModel.evaluate>`."""
    expect_one_of("weights", weights, WEIGHTS)
    expect_flag("bos", bos)
    network = contents.network if weights == "float32" else contents.network.rounded()
    corpus = read(contents, source, contents.tokenizer, bos)
    if policy.unknown == "penalize" and corpus.characters is None:
        raise ConfigError(IDS_HAVE_NO_CHARACTERS)
    if policy.excludes and corpus.scored.unknown == len(corpus.ids) - 1:
        raise CorpusError(f"all that is scored of {corpus.name} is not in the vocabulary, and unknown='exclude' leaves it out.")
    if policy.unknown == "count" and not corpus.explained:
        tell_unknown(contents.text, corpus.name, corpus.scored.missing, len(corpus.ids) - 1, ADVICE["scoring"])
    return evaluator(network, corpus, contents.tokenizer, bos, policy)()


def evaluator(
    network: Network, corpus: Corpus, tokenizer: Tokenizer | None, bos: bool = False, policy: UnknownConfig | None = None
) -> Callable[[], Evaluation]:
    """A function that evaluates the present weights of a network. Raises :class:`CorpusError` if the corpus is too short."""
    streams = _streams(corpus)
    policy = policy or UnknownConfig()
    scored = corpus.scored.known() if policy.excludes else corpus.scored

    def run() -> Evaluation:
        batches = segments(corpus.ids, streams, EVALUATION_STEPS, warm=EVALUATION_STEPS)
        if policy.excludes and tokenizer is not None and tokenizer.unknown is not None:
            batches = without(batches, tokenizer.unknown)
        nats, tokens = total_loss(network, batches)
        nats += policy.nats_per_character * scored.missing.spelled
        return Evaluation(nats, tokens, scored.unknown, scored.characters, scored.bytes, bos, policy.unknown)

    segments(corpus.ids, streams, EVALUATION_STEPS)  # raises now, not after the first epoch, if the corpus is too short
    return run


def foresee(network: Network, corpus: Corpus, limit: float) -> float:
    """Estimate the seconds that evaluating a corpus takes, by a part of it that takes a small fraction of ``limit``."""
    streams = _streams(corpus)
    total_loss(network, islice(segments(corpus.ids, streams, EVALUATION_STEPS), 1))  # not timed: starts the threads, and may compile a kernel
    batches = segments(corpus.ids, streams, EVALUATION_STEPS)
    started, taken, done = time.monotonic(), 0.0, 0
    while taken < SAMPLE * limit and total_loss(network, islice(batches, 1))[1]:
        done, taken = done + 1, time.monotonic() - started
    count = ceil(len(corpus.ids) / (streams * EVALUATION_STEPS)) + 1  # the streams read some tokens twice
    return MARGIN * taken * count / max(done, 1)


def tell_unknown(text: TextConfig, name: str, missing: Unknown, tokens: int, advice: str, explained: bool = False) -> str:
    """Warn of symbols outside the vocabulary if there are many and no warning has explained them; otherwise return the sentence."""
    if not missing.symbols:
        return ""
    part = missing.missing / tokens
    told = (f"{name} has symbols that are not in the model's vocabulary and count as <unk>: {missing.missing:,} of {tokens:,} "
            f"({100 * part:.3g}%), {most_frequent(missing.symbols)}")
    is_cut = text.min_count > 1 or text.max_vocabulary is not None
    if explained or part <= (MANY_WHERE_CUT if is_cut else MANY_UNKNOWN):
        return told
    warn(f"{told}. {advice}".strip())
    return ""


def _streams(corpus: Corpus) -> int:
    return max(1, min(EVALUATION_STREAMS, len(corpus.ids) // 2000))
