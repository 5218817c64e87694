"""Measures the work that reading takes for the worst cases of texts.

Work is the number of function calls. A method of a long str or bytes counts more, because it copies or searches the whole object: joining the
pieces of a text repeatedly takes few calls. Each text is also read in many small pieces. (:mod:`growth` has all other kinds of files.)
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

LARGEST = 4.5  # allowed factor of work for a text of four times the size: 4 is linear, 16 quadratic
SIZES = (100, 400)
LEAST = 1000  # calls made for any text
SHARE = 10  # characters of a str or bytes that count as one more call of its method
PIECES = {"whole": packed.CHUNK, "in pieces": 64}  # bytes of a text to read at a time
CONSTANT = {"startswith", "endswith"}  # methods that do not read the whole object

MARK = b"\xef\xbb\xbf"
TEXTS: dict[str, Callable[[int], bytes]] = {
    "marks after a newline": lambda size: b"a\n" + MARK * 2 * size + b"a\n", "marks at the start": lambda size: MARK * 2 * size + b"a\n",
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
    """Yield names, and functions that measure the work for a text of a given size in the current folder."""
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
    """The work of the second call, which excludes what a process does only once."""
    count = 0

    def note(frame: Any, event: str, function: Any) -> None:
        nonlocal count
        if event == "call":
            count += 1
        elif event == "c_call":
            owner = getattr(function, "__self__", None)
            is_long = type(owner) in (str, bytes, bytearray) and function.__name__ not in CONSTANT
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
    """The factor of work between the larger and the smaller text."""
    small, large = map(count, SIZES)
    return large / max(small, LEAST)
