"""Shapes of files, each with a size, and the work that they take at two sizes.

What is linear in the size of a file is four times as much in one of four times the size, what is quadratic sixteen times. Work is counted,
not timed: one for each call of a function, and more for a method of a long str or bytes, which copies it or looks through it.
"""

import bz2
import contextlib
import gzip
import io
import json
import lzma
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import zstandard

from numba_rnnlm import cli
from numba_rnnlm.errors import LanguageModelError
from numba_rnnlm.storage import read_about
from numba_rnnlm.text import packed

from . import archives, corpora, model_files
from .archives import Member, npy
from .headers import header_of, with_header

LARGEST = 4.5  # by how much more work may be done for a file of four times the size: 4 times is linear, 16 times quadratic
SIZES = (100, 400)
LEAST = 1000  # calls
SHARE = 10  # characters of a str or bytes whose method is called that count as one call more
CHUNKS = {"": packed.CHUNK, " in pieces": 64}  # bytes that are read of a text at once: so a small one has many pieces
ALIKE = {"startswith", "endswith", "__len__"}  # methods that do not look at the whole


class Work:
    """Counts what runs within the ``with``."""

    def __enter__(self) -> "Work":
        self.calls = 0
        sys.setprofile(self._note)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)

    def _note(self, frame: Any, event: str, function: Any) -> None:
        if event == "call":
            self.calls += 1
        elif event == "c_call":
            owner = getattr(function, "__self__", None)
            long = type(owner) in (str, bytes, bytearray) and function.__name__ not in ALIKE
            self.calls += 1 + (len(owner) // SHARE if long else 0)


EMPTY = npy("<f4", "(0,)", b"")

# Model files: name → what is done with the header and the members of a file, and its size

Spoil = Callable[[dict[str, Any], list[Member], int], None]


def _into(*keys: str) -> Callable[[Callable[[int], Any]], Spoil]:
    def within(value: Callable[[int], Any]) -> Spoil:
        def spoil(about: dict[str, Any], members: list[Member], size: int) -> None:
            inside: Any = about
            for key in keys[:-1]:
                inside = inside[key]
            inside[keys[-1]] = value(size)

        return spoil

    return within


def _text(size: int) -> str:
    return "x" * (100 * size)


def _layers(layer: dict[str, Any]) -> Spoil:
    def spoil(about: dict[str, Any], members: list[Member], size: int) -> None:
        about["layers"][1:1] = [layer] * size

    return spoil


def _members(name: bytes, data: bytes = b"") -> Spoil:
    def spoil(about: dict[str, Any], members: list[Member], size: int) -> None:
        members += [Member(name % number, data) for number in range(size)]

    return spoil


def _columns(about: dict[str, Any], members: list[Member], size: int) -> None:
    about["history"] = {column: [1.0] * size for column in about["history"]}


def _symbols(about: dict[str, Any], members: list[Member], size: int) -> None:
    """With a matrix for them, so that the file is sound."""
    symbols = about["tokenizer"]["symbols"]
    more = [chr(0x4E00 + number) for number in range(size)]
    about["tokenizer"]["symbols"] = symbols + more
    for index, member in enumerate(members):
        if member.name not in (b"about.npy", b"weights/lstm/U.npy", b"weights/lstm/W.npy", b"weights/lstm/b.npy"):
            array = np.load(io.BytesIO(member.data))
            axis = array.shape.index(len(symbols))
            wide = [(0, size if number == axis else 0) for number in range(array.ndim)]
            array = np.pad(array, wide)
            members[index] = member._replace(data=npy("<f4", str(array.shape), array.tobytes()))


def _names(size: int) -> dict[str, int]:
    return {f"name {number}": number for number in range(size)}


LANGUAGE_MODELS: dict[str, Spoil] = {
    "symbols": _symbols, "rows of the history": _columns, "columns of the history": _into("history")(_names), "settings": _into("config")(_names),
    "keys of the tokenizer": _into("tokenizer")(_names), "characters of the kind": _into("kind")(_text), "keys of the header": lambda about, members, size: about.update(_names(size)),
    "characters of a setting": _into("config", "cell")(_text), "lists": _into("texts")(lambda size: [[]] * size), "empty members": _members(b"weights/%d.npy"),
    "arrays": _members(b"weights/%d.npy", EMPTY), "groups": _members(b"g%d/x.npy", EMPTY), "moments": _members(b"moments/%d/x.npy", EMPTY),
    "members without a group": _members(b"%d.npy", EMPTY), "characters of a name": lambda about, members, size: members.append(Member(b"w" * (30 * size), b"")),
    "nesting": _into("texts")(lambda size: _nested(size)), "cells": _into("cells")(_names),
}  # fmt: skip
CHECKPOINTS: dict[str, Spoil] = {
    "arrays of the state": _members(b"state/%d.npy", EMPTY), "settings of the training": _into("run", "config")(_names),
    "characters of the end": _into("run", "position", "ended")(_text), "keys of the position": _into("run", "position")(_names), "texts": _into("run", "texts")(_names),
    "moments of a checkpoint": _members(b"moments/%d/x.npy", EMPTY),
}  # fmt: skip
SEQUENTIALS: dict[str, Spoil] = {
    "layers without weights": _layers({"class": "Dropout", "rate": 0.0}), "layers": _layers({"class": "Recurrent", "units": 1, "return_sequences": True}),
    "arguments of a layer": lambda about, members, size: about["layers"][0].update(_names(size)), "metrics": _into("compiled", "metrics")(lambda size: ["accuracy"] * size),
    "numbers of the optimizer": _into("compiled", "optimizer")(_names), "characters of a class": lambda about, members, size: about["layers"][0].update({"class": _text(size)}),
    "groups of moments": _members(b"moments/%d/x.npy", EMPTY), "groups of a sequential": _members(b"g%d/x.npy", EMPTY),
}  # fmt: skip


def _nested(size: int) -> Any:
    value: Any = []
    for _ in range(min(size, 500)):
        value = [value]
    return value


# Texts: name → what the file holds

MARK = b"\xef\xbb\xbf"
TEXTS: dict[str, Callable[[int], bytes]] = {
    "marks behind a line end": lambda size: b"a\n" + MARK * 2 * size + b"a\n", "marks at the start": lambda size: MARK * 2 * size + b"a\n",
    "marked lines": lambda size: (MARK + b"a\n") * size, "returns": lambda size: b"a" + b"\r" * size, "lines": lambda size: b"to be\n" * size,
    "spaces": lambda size: b"a" + b" " * 20 * size + b"new\n", "a line": lambda size: b"a" * 20 * size, "a line of words": lambda size: b"to be " * 3 * size,
    "a word of marks": lambda size: b"e" + "\u0301\u0323".encode() * 5 * size + b"\n",
    "unknown characters": lambda size: "".join(chr(0x4E00 + number) for number in range(size)).encode() + b"\n",
    "unknown words": lambda size: b"".join(b"w%d " % number for number in range(size)) + b"\n",
    "zeros": lambda size: b"\0" * 20 * size + b"\n", "halves of characters": lambda size: b"a" * 20 * size + b"\xff",
    "members of .gz": lambda size: gzip.compress(b"a\n") * size, "streams of .bz2": lambda size: bz2.compress(b"a\n") * size,
    "streams of .xz": lambda size: lzma.compress(b"a\n") * size, "frames of .zst": lambda size: zstandard.compress(b"a\n") * size,
    "empty frames of .zst": lambda size: zstandard.compress(b"") * size,
}  # fmt: skip


def shapes() -> Iterator[tuple[str, Callable[[int], tuple[str, Callable[[], Any]]]]]:
    """Name and what makes the file of a size in the current folder: its name, and what is to be done with it."""
    bases = model_files.bases()
    checkpoint = next(base for base in bases if base.fit is not None)
    sequential = next(base for base in bases if base.load is model_files.SEQUENTIAL and b"optimizer" in base.members[0].data)
    assert checkpoint.fit is not None
    model, sequential_load, fit = model_files.load_language_model, model_files.load_sequential, checkpoint.fit

    def maker(base: model_files.Base, spoil: Spoil) -> Callable[[int], str]:
        def make(size: int) -> str:
            members = list(base.members)
            about = header_of(members)
            spoil(about, members, size)
            members[0] = with_header(json.dumps(about).encode())
            Path("model.npz").write_bytes(archives.packed(members))
            return "model.npz"

        return make

    def shape(make: Callable[[int], str], do: Callable[[str], Any]) -> Callable[[int], tuple[str, Callable[[], Any]]]:
        def made(size: int) -> tuple[str, Callable[[], Any]]:
            path = make(size)
            return path, lambda: do(path)

        return made

    def info(path: str) -> None:
        cli.main(["info", path])

    for names, base, ways in (
        (LANGUAGE_MODELS, bases[0], {"load": model, "header": read_about, "info": info}),
        (CHECKPOINTS, checkpoint, {"load": model, "resume": lambda path: fit(resume=path), "checkpoint": lambda path: fit(checkpoint=path), "info": info}),
        (SEQUENTIALS, sequential, {"load": sequential_load, "info": info}),
    ):
        for name, spoil in names.items():
            for way, do in ways.items():
                yield f"{name}: {way}", shape(maker(base, spoil), do)

    trained = corpora.models()

    def written(text: Callable[[int], bytes]) -> Callable[[int], str]:
        def write(size: int) -> str:
            Path("text.txt").write_bytes(text(size))
            return "text.txt"

        return write

    def measured(path: str, chunk: int, tokenizer: str, way: str) -> None:
        with mock.patch.object(packed, "CHUNK", chunk):
            getattr(trained[tokenizer], way)(Path(path))

    for name, text in TEXTS.items():
        for pieces, chunk in CHUNKS.items():
            for way, tokenizer in (("evaluate", "word"), ("score", "char")):
                yield f"{name}{pieces}: {way}, {tokenizer}", shape(written(text), partial(measured, chunk=chunk, tokenizer=tokenizer, way=way))

    def folder(size: int) -> str:
        os.makedirs("texts", exist_ok=True)
        for number in range(size):
            Path("texts", str(number)).write_bytes(b"to be\n")
        return "texts"

    yield "files in a folder: evaluate", shape(folder, partial(measured, chunk=packed.CHUNK, tokenizer="char", way="evaluate"))


def work_of(make: Callable[[int], tuple[str, Callable[[], Any]]], size: int) -> int:
    """How much is done with a file of this size, the second time: what a process does once does not count."""
    _, do = make(size)
    for _ in range(2):
        with quiet(), Work() as work:
            do()
    return work.calls


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What is said is not shown; that a file is refused is one way to deal with it."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(LanguageModelError):
        warnings.simplefilter("ignore")
        yield


def growth(make: Callable[[int], tuple[str, Callable[[], Any]]]) -> float:
    """How many times as much is done with the larger file; what is done in any case does not count."""
    small, large = (work_of(make, size) for size in SIZES)
    return large / max(small, LEAST)


def main() -> int:
    """Print each shape with its growth, and the time that the larger file takes; → how many grow too fast."""
    found = 0
    for name, make in shapes():
        grown, (path, do) = growth(make), make(SIZES[-1])
        started = time.process_time()
        with quiet():
            do()
        print(f"{name:55} {grown:5.1f} times the work, {time.process_time() - started:.3f} s for {os.path.getsize(path):,} bytes"
              + ", too fast" * (grown > LARGEST), flush=True)
        found += grown > LARGEST
    return found
