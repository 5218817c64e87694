"""The work that a text takes, for the worst shapes of texts.

Calls of functions are counted, and more for a method of a long str or bytes, which copies it or looks through it: what joins the pieces of a text
again and again takes few calls. Each text is also read in many small pieces. (:mod:`growth` has all other kinds of files.)
"""

import bz2
import contextlib
import gzip
import lzma
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import zstandard

from numba_rnnlm.errors import LanguageModelError
from numba_rnnlm.text import packed

from . import corpora

LARGEST = 4.5  # by how much more work may be done for a text of four times the size: 4 times is linear, 16 times quadratic
SIZES = (100, 400)
LEAST = 1000  # calls, which are made for any text
SHARE = 10  # characters of a str or bytes whose method is called that count as one call more
PIECES = {"whole": packed.CHUNK, "in pieces": 64}  # bytes that are read of a text at once
ALIKE = {"startswith", "endswith"}  # methods that do not look at the whole

MARK = b"\xef\xbb\xbf"
TEXTS: dict[str, Callable[[int], bytes]] = {
    "marks behind a line end": lambda size: b"a\n" + MARK * 2 * size + b"a\n", "marks at the start": lambda size: MARK * 2 * size + b"a\n",
    "marked lines": lambda size: (MARK + b"a\n") * size, "returns": lambda size: b"a" + b"\r" * size, "lines": lambda size: b"to be\n" * size,
    "spaces": lambda size: b"a" + b" " * 20 * size + b"new\n", "a line": lambda size: b"a" * 20 * size, "a line of words": lambda size: b"to be " * 3 * size,
    "a word of marks": lambda size: b"e" + "\u0301\u0323".encode() * 5 * size + b"\n",
    "unknown characters": lambda size: "".join(chr(0x4E00 + number) for number in range(size)).encode() + b"\n",
    "unknown words": lambda size: b"".join(b"w%03d " % number for number in range(size)) + b"\n",
    "zeros": lambda size: b"\0" * 20 * size + b"\n", "halves of characters": lambda size: b"a" * 20 * size + b"\xff",
    "members of .gz": lambda size: gzip.compress(b"a\n") * size, "streams of .bz2": lambda size: bz2.compress(b"a\n") * size,
    "streams of .xz": lambda size: lzma.compress(b"a\n") * size, "frames of .zst": lambda size: zstandard.compress(b"a\n") * size,
    "empty frames of .zst": lambda size: zstandard.compress(b"") * size,
}  # fmt: skip


def ways() -> Iterator[tuple[str, Callable[[int], int]]]:
    """A name, and what counts the work for a text of a size, in the current folder."""
    models = corpora.models()

    def measured(text: Callable[[int], bytes], chunk: int, read: Callable[[Path], Any], size: int) -> int:
        path = Path("text.txt")
        path.write_bytes(text(size))
        return work(chunk, partial(read, path))

    def folder(size: int) -> int:
        os.makedirs("texts", exist_ok=True)
        for number in range(size):
            Path("texts", str(number)).write_bytes(b"to be\n")
        return work(packed.CHUNK, partial(models["char"].evaluate, Path("texts")))

    for name, text in TEXTS.items():
        for pieces, chunk in PIECES.items():
            yield f"{name} {pieces}, evaluated", partial(measured, text, chunk, models["word"].evaluate)
            yield f"{name} {pieces}, scored", partial(measured, text, chunk, models["char"].score)
    yield "files in a folder, evaluated", folder


def work(chunk: int, do: Callable[[], Any]) -> int:
    """How much is done the second time: what a process does once does not count."""
    count = 0

    def note(frame: Any, event: str, function: Any) -> None:
        nonlocal count
        if event == "call":
            count += 1
        elif event == "c_call":
            owner = getattr(function, "__self__", None)
            is_long = type(owner) in (str, bytes, bytearray) and function.__name__ not in ALIKE
            count += 1 + (len(owner) // SHARE if is_long else 0)

    with mock.patch.object(packed, "CHUNK", chunk), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for profile in (None, note):
            sys.setprofile(profile)
            with contextlib.suppress(LanguageModelError):
                do()
            sys.setprofile(None)
    return count


def growth(count: Callable[[int], int]) -> float:
    """How many times as much is done with the larger text."""
    small, large = map(count, SIZES)
    return large / max(small, LEAST)
