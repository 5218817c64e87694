"""Sentences and prompts as ids, and the scores of sentences."""

from collections.abc import Sequence
from itertools import compress
from typing import Any

import numpy as np

from ..config import UnknownConfig
from ..errors import ConfigError, ShapeError, expect_flag
from ..reports import warn
from ..scoring import TokenScore, judge, log_probabilities
from ..states import TextState, continued, expect_state
from ..text import Sentence, clean, encode_sentence, expect_ids, hints, sentences
from .contents import Contents
from .evaluating import IDS_HAVE_NO_CHARACTERS


def listed(contents: Contents, given: Any) -> tuple[bool, Sequence[Any]]:
    """Whether these are many sentences; and each sentence, as text or ids."""
    return sentences(given, contents.tokenizer.line_ends if contents.tokenizer else "keep")


def encoded(contents: Contents, sentence: Any, bos: bool, eos: bool, policy: UnknownConfig | None = None) -> Sentence:
    """A sentence as ids."""
    contents.expect_vocabulary()
    tokenizer = contents.tokenizer
    if not isinstance(sentence, str | bytes):
        if policy and policy.unknown == "penalize":
            raise ConfigError(IDS_HAVE_NO_CHARACTERS)
        ids = as_ids(contents, "sentence", sentence)
        return Sentence(ids, np.zeros(len(ids), bool) if tokenizer is None else ids == tokenizer.unknown)
    if tokenizer is None:
        raise ShapeError("the model has no tokenizer: give an array of ids instead of text.")
    text = clean(sentence, tokenizer.line_ends)
    if eos:
        text = text.removesuffix("\n") if isinstance(text, str) else text.removesuffix(b"\n")
    return encode_sentence(tokenizer, text, bos, eos)


def as_ids(contents: Contents, name: str, ids: Any) -> np.ndarray:
    """Ids that the model has, at least one, as int32. Raises :class:`ShapeError` otherwise."""
    if isinstance(ids, (list, tuple)) and any(isinstance(one, str) for one in ids):
        raise ShapeError(f"{name} is a {type(ids).__name__} of str, expected one text, or one array of ids.")
    array = expect_ids(ids, contents.network.graph.head.symbols, name)
    if array.size == 0:
        raise ShapeError(f"{name} is empty, expected at least one id.")
    return array.astype(np.int32)


def scores(
    contents: Contents, sentence: Any, bos: bool, eos: bool, policy: UnknownConfig, state: TextState | None
) -> tuple[bool, list[Sentence], bool, list[np.ndarray]]:
    """Compute the log-probabilities of sentences.

    Returns
    -------
    many, rows, explained, scores
        Whether there are many sentences; the sentences as ids; whether a warning has explained their unknown symbols; and the
        log-probability of each id but the first of a sentence.
    """
    expect_flag("bos", bos)
    expect_flag("eos", eos)
    many, texts = listed(contents, sentence)
    start = None
    if state is not None:
        if not bos:
            raise ConfigError("bos=False leaves out the first token, but behind a state it is scored; leave bos out.")
        expect_state(state, contents.network, "float32")
        start = continued(many, texts, state).streams
    rows, explained = _rows(contents, texts, bos, eos, policy)
    if start is not None:
        rows = [row.behind(id) for row, id in zip(rows, start.ids.tolist(), strict=True)]
    return many, rows, explained, log_probabilities(contents.network, [row.ids for row in rows], start)


def token_scores(contents: Contents, row: Sentence, scores: np.ndarray, policy: UnknownConfig) -> list[TokenScore]:
    """The tokens of a sentence that count, with their scores."""
    scores, counted = judge(scores, row.unknown[1:], row.spelled[1:], policy)
    tokens: list[str | int] = row.ids.tolist()
    if contents.tokenizer is not None and row.symbols is not None:
        tokens = [*row.named([contents.tokenizer.symbol(id) for id in row.ids.tolist()])]
    return [TokenScore(*found) for found in zip(compress(tokens[1:], counted), scores.tolist(), row.unknown[1:][counted].tolist(), strict=True)]


def _rows(contents: Contents, texts: Sequence[Any], bos: bool, eos: bool, policy: UnknownConfig) -> tuple[list[Sentence], bool]:
    """Each sentence as ids; and whether a warning has explained unknown symbols."""
    known: dict[Any, Sentence] = {}  # equal texts are encoded once

    def row(one: Any) -> Sentence:
        if not isinstance(one, str | bytes):
            return encoded(contents, one, bos, eos, policy)
        key = type(one), one
        if key not in known:
            known[key] = encoded(contents, one, bos, eos, policy)
        return known[key]

    rows, hint = [row(one) for one in texts], ""
    if contents.tokenizer is not None:
        strange = (one for one, row in zip(texts, rows, strict=True) if row.missing)
        if hint := hints.of_unknown(next(strange, ""), contents.tokenizer):
            warn(f"symbols are not in the model's vocabulary: {hint}")
    return rows, bool(hint)
