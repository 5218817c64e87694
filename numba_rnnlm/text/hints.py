"""Guesses why a text does not fit the tokenizer: another encoding, another Unicode normal form, words without white space."""

import unicodedata
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from .tokenizers import LINE_END, Tokenizer

SAMPLE = 2**18  # characters or bytes to examine
LEAST = 200  # characters or bytes; a smaller sample is not conclusive
PIECE = 1000  # characters to normalise at a time: the cost is quadratic in the length of a run of combining marks
LONG_WORDS = 20  # characters per word on average: above that of any language that puts white space between words
# Where cp1252 differs from latin-1. It leaves five bytes undefined.
TO_BYTES = {ord(character): byte for byte in range(0x80, 0xA0) if (character := bytes([byte]).decode("cp1252", "ignore"))}
TO_POINTS = {byte: point for point, byte in TO_BYTES.items()}


def of_bytes(data: bytes) -> str:
    """Guess the encoding of bytes that are not UTF-8."""
    return _wide(data) or ("It looks like binary data." if b"\0" in data[:SAMPLE] else
                           "It may be cp1252 (Western Europe), cp1251 (Cyrillic), gb18030 (Chinese) or shift_jis (Japanese): if so, give "
                           "encoding='cp1252' or the like (in Python numba_rnnlm.Files(path, 'cp1252')).")


def of_zeros(data: bytes) -> str:
    """Guess the encoding of a text that has too many zero bytes to be UTF-8; empty if it has not."""
    return _wide(data)


def _wide(data: bytes) -> str:
    data = data[:SAMPLE]
    even, odd = data[::2].count(0), data[1::2].count(0)
    if data.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")) or (len(data) >= LEAST and min(even, odd) > len(data) / 5):
        name = "utf-32"
    elif data.startswith((b"\xff\xfe", b"\xfe\xff")):
        name = "utf-16"
    elif len(data) >= LEAST and max(even, odd) > len(data) / 5:
        name = "utf-16-be" if even > odd else "utf-16-le"
    else:
        return ""
    return f"It looks like {name.upper()}: give encoding='{name}' (in Python numba_rnnlm.Files(path, '{name}'))."


def of_unknown(text: str | bytes, tokenizer: Tokenizer) -> str:
    """Explain by encoding or normal form why a text has symbols outside the vocabulary; empty if neither explains it."""
    text = text[:SAMPLE]
    text = text if isinstance(text, str) else text.decode("utf-8", "ignore")
    unknown = _count(tokenizer.unknown_symbols(text))
    for repair, explanation in REPAIRS.items():
        repaired = "\n".join(_try(repair, line) for line in text.split("\n"))
        if _count(tokenizer.unknown_symbols(repaired)) < unknown / 2:
            return explanation
    return ""


def _count(symbols: Iterable[object]) -> int:
    return sum(1 for _ in symbols)


def _try(repair: Callable[[str], str], line: str) -> str:
    try:
        return repair(line)
    except UnicodeError:
        return line


def _not_as_cp1252(line: str) -> str:
    return line.translate(TO_BYTES).encode("latin-1").decode("utf-8")


def _as_cp1252(line: str) -> str:
    return line.encode("utf-8").decode("latin-1").translate(TO_POINTS)


def _normalized(form: Any, line: str) -> str:
    return "".join(unicodedata.normalize(form, line[start : start + PIECE]) for start in range(0, len(line), PIECE))


REPAIRS: dict[Callable[[str], str], str] = {
    _not_as_cp1252: "they look like UTF-8 that was read as cp1252 or latin-1 ('Ã©' for 'é'): read the original as UTF-8.",
    _as_cp1252: "the model's training text looks like UTF-8 that was read as cp1252 or latin-1 ('Ã©' for 'é'): train again on the text read as UTF-8.",
    **{partial(_normalized, form): f"the vocabulary uses another Unicode normal form: convert the text to {form} with unicodedata.normalize({form!r}, text)."
       for form in ("NFC", "NFD", "NFKC")},
}


def of_words(counts: Mapping[str, int]) -> str:
    """Explain why counted words make a poor vocabulary; empty if they make a good one."""
    counts = {word: count for word, count in counts.items() if word != LINE_END}
    words = sum(counts.values())
    mean = sum(len(word) * count for word, count in counts.items()) / max(words, 1)
    if mean <= LONG_WORDS or words * mean < LEAST:
        return ""
    return (f"the words, split at white space, are {mean:.0f} characters long on average, too long for words: Chinese, Japanese and Thai "
            "have no white space between words. Insert it, or use tokenizer='char'.")
