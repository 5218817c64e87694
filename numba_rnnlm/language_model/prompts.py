"""Prompts and states, from which a model generates; and what it generates, as text, bytes or ids."""

import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..backends.ops import Streams
from ..config import SamplingConfig
from ..decoding import generate
from ..errors import ConfigError, ShapeError, VocabularyError, expect_flag, expect_one_of
from ..states import Beginning, TextState, continued, expect_state, nothing_behind, tail_of
from ..text import Tokenizer, as_text, clean, hints
from .contents import Contents
from .sentences import as_ids, encoded, listed


def behind(contents: Contents, text: Any, state: TextState | None) -> tuple[bool, Sequence[Any]]:
    """:func:`~.sentences.listed`; but the default, an empty text, stands for one text behind each of the texts of a ``state``."""
    many, texts = listed(contents, text)
    if isinstance(state, TextState) and state.many and not many and isinstance(texts[0], str) and not texts[0]:
        return True, [""] * len(state)
    return many, texts


def begin(
    contents: Contents, many: bool, texts: Sequence[Any], state: TextState | None, weights: str, unknown: str, as_bytes: bool = False
) -> tuple[bool, list[Beginning], Streams | None]:
    """Whether there are many texts; what is to be read of each; and what they continue."""
    expect_one_of("unknown", unknown, ("error", "unk"))
    expect_flag("as_bytes", as_bytes)
    if as_bytes and contents.tokenizer is None:
        raise ConfigError("as_bytes=True returns bytes, but the model has no tokenizer and knows ids only; leave it out.")
    if state is None:
        return many, [_beginning(contents, one, _prompt(contents, one, unknown)) for one in texts], None
    expect_state(state, contents.network, weights)
    state, begun = continued(many, texts, state), []
    for number, one in enumerate(texts):
        if isinstance(one, str | bytes) and not one and (isinstance(one, str) or contents.tokenizer is not None):
            nothing = nothing_behind(state, number)
            begun.append(nothing if isinstance(one, str) else nothing._replace(kind="bytes"))
        else:
            begun.append(_beginning(contents, one, _prompt(contents, one, unknown, bos=False), state.tails[number]))
    return many, begun, state.streams


def following(contents: Contents, begun: Beginning, config: SamplingConfig, start: Streams | None) -> Iterator[int]:
    """The ids that follow one text."""
    seed = secrets.randbits(63) if config.seed is None else int(config.seed)
    return generate(contents.network, begun.ids, config, seed, banned(contents), start)


def banned(contents: Contents) -> tuple[int, ...]:
    """Ids that are never generated."""
    tokenizer = contents.tokenizer
    return () if tokenizer is None or tokenizer.unknown is None else (tokenizer.unknown,)


def pieces(tokenizer: Tokenizer | None, ids: Iterator[int], begun: Beginning, as_bytes: bool) -> Iterator[Any]:
    """What follows a text, as pieces of text or bytes, or the ids themselves."""
    kind = _kind(begun, as_bytes)
    if kind is None or tokenizer is None:
        yield from ids
        return
    text = tokenizer.stream_decoder()
    decoder: Callable[[int], Any] = text if kind is str else tokenizer.byte_decoder()
    for id in begun.tail[begun.tail >= 0].tolist():  # so that the first word knows whether a space comes before it
        decoder(id)
    space = tokenizer.separator if begun.spaced else ""
    for id in ids:
        piece = decoder(id)
        if space:  # the text already ends in it
            piece = piece.removeprefix(space if kind is str else space.encode())
            space = ""
        if piece:
            yield piece
    if rest := text.flush():
        yield rest


def joined(tokenizer: Tokenizer | None, ids: Iterator[int], begun: Beginning, as_bytes: bool) -> Any:
    """:func:`pieces` in one piece."""
    kind, found = _kind(begun, as_bytes), list(pieces(tokenizer, ids, begun, as_bytes))
    return np.array(found, np.int32) if kind is None else kind().join(found)


def _prompt(contents: Contents, prompt: Any, unknown: str, bos: bool = True) -> np.ndarray:
    """The ids of a prompt; with ``bos`` at least one."""
    contents.expect_vocabulary()
    tokenizer = contents.tokenizer
    if not isinstance(prompt, str | bytes):
        return as_ids(contents, "prompt", prompt)
    if tokenizer is None:
        raise ShapeError("the model has no tokenizer: the prompt must be an array of ids, such as np.array([0]).")
    if isinstance(prompt, bytes) and tokenizer.name == "byte":
        return encoded(contents, prompt, bos, eos=False).ids
    text = clean(as_text(prompt, "The prompt"), tokenizer.line_ends)
    if unknown == "error" and (missing := next(tokenizer.unknown_symbols(text), None)):
        position, symbol = missing
        hint = hints.of_unknown(text, tokenizer)
        raise VocabularyError(
            f"the prompt has {symbol!r} at position {position}, which the training text does not have; "
            + (hint if hint else "leave it out, or give unknown='unk' to read it as <unk>.")
        )
    return encoded(contents, text, bos, eos=False).ids


def _beginning(contents: Contents, text: Any, ids: np.ndarray, *before: np.ndarray) -> Beginning:
    kind = "str" if isinstance(text, str) else "bytes" if isinstance(text, bytes) else "ids"
    return Beginning(ids, tail_of(*before, ids), kind, contents.tokenizer is not None and _ends_in_space(contents.tokenizer, text))


def _kind(begun: Beginning, as_bytes: bool) -> type | None:
    """What follows a text: bytes, a str, or None for ids."""
    return bytes if as_bytes else {"str": str, "bytes": bytes}.get(begun.kind)


def _ends_in_space(tokenizer: Tokenizer, prompt: Any) -> bool:
    """Whether a text ends in white space, so that the next word needs none in front."""
    if not isinstance(prompt, str | bytes) or tokenizer.name == "byte":
        return False
    return tokenizer.white_space_at_end(as_text(prompt)) != ""
