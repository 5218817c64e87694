"""Fuzzing: a stranger's file is read as what it is or refused with a LanguageModelError; nothing else happens.

Each case has a number, which is the seed of all that is done to it. In an empty folder, with tests/ and the package on
PYTHONPATH::

    python -m fuzz models --cases 10000
    python -m fuzz corpora --cases 2000
    python -m fuzz models --cases 1 --first 4711      the case of that number again

The last line of the output holds the figures as JSON; above it stands each failure, with its number and traceback. All cases
together may take a gigabyte, none may hang, leave a file or show a warning that is not about training. If the process dies, the
file of the case is still there.
"""

import argparse
import contextlib
import copy
import faulthandler
import gzip
import io
import json
import os
import random
import struct
import time
import traceback
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from checks import HANG
from models import LINES, as_read, words_of

from numba_rnnlm import LanguageModel, Sequential, language_model
from numba_rnnlm.config import TextConfig
from numba_rnnlm.errors import CorpusError, LanguageModelError
from numba_rnnlm.layers import GRU, LSTM, Dense, Embedding, SimpleRNN
from numba_rnnlm.storage import read_about
from numba_rnnlm.text import ByteTokenizer, learn_tokenizer, read_corpus

MEMORY = 10**9  # bytes that all cases together may take
ABOUT_TEXT = ("the run in ", "the training so far ", "the corpus has ", " has symbols that are not in the model's vocabulary ",
              " carriage returns ", " has many bytes that are zero", " characters long on average", " not in the model's vocabulary: ")  # what may be warned of
RUN = {"epochs": 1, "streams": 2, "steps": 5, "verbose": 0}
SMALL = {"hidden": 3, "embedding": 2, "layers": 1, "threads": 1, "seed": 1}
TEXT = "to be or not to be\n" * 2

Random = random.Random


# Bytes


def flip_bits(random: Random, data: bytes) -> bytes:
    spoiled = bytearray(data)
    for _ in range(random.choice((1, 1, 3, 30)) if data else 0):
        spoiled[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(spoiled)


def change_bytes(random: Random, data: bytes) -> bytes:
    start, stop = _slice(random, data)
    return data[:start] + random.choice((random.randbytes(stop - start), bytes(stop - start))) + data[stop:]


def truncate(random: Random, data: bytes) -> bytes:
    return data[: random.randint(0, len(data))]


def insert(random: Random, data: bytes) -> bytes:
    start, _ = _slice(random, data)
    return data[:start] + random.randbytes(random.choice((1, 4, 100))) + data[start:]


def duplicate(random: Random, data: bytes) -> bytes:
    start, stop = _slice(random, data)
    return data[:stop] + data[start:]


def remove(random: Random, data: bytes) -> bytes:
    start, stop = _slice(random, data)
    return data[:start] + data[stop:]


def exchange(random: Random, data: bytes) -> bytes:
    a, b, c, d = sorted(random.randint(0, len(data)) for _ in range(4))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _slice(random: Random, data: bytes) -> tuple[int, int]:
    start = random.randint(0, len(data))
    return start, min(len(data), start + random.choice((1, 2, 8, 100, 1000)))


def spoil_zip_headers(random: Random, data: bytes) -> bytes:
    """Some number in a header of the archive is an extreme one."""
    spoiled = bytearray(data)
    for _ in range(random.choice((1, 1, 2))):
        headers = [place for place in range(len(data)) if data[place : place + 2] == b"PK"]
        width = random.choice((2, 4, 8))
        place = random.choice(headers or [0]) + random.randint(4, 46)
        value = random.choice((0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1, len(data)))
        spoiled[place : place + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")
    return bytes(spoiled)


BYTES = (flip_bits, change_bytes, truncate, insert, duplicate, remove, exchange)


# Model files


class Member(NamedTuple):
    """Of a zip archive; its header may say something else than what is there."""

    name: bytes
    data: bytes
    method: int = zipfile.ZIP_STORED
    size: int | None = None


class Base(NamedTuple):
    """A valid file, and how the training continues that wrote it, if it is a checkpoint."""

    load: Callable[[str], Any]
    data: bytes
    members: list[Member]
    resume: Callable[[str], Any] | None = None


def models() -> list[Base]:
    """A small file of every kind."""
    options: list[dict[str, Any]] = [
        {}, {"tokenizer": "word", "cell": "gru", "tied": True}, {"tokenizer": "byte", "hidden": 2, "cell": "tanh"},
        {"tokenizer": None, "vocabulary_size": 5, "layers": 2, "dropout": 0.5},
    ]  # fmt: skip
    bases = [_base(load_language_model, LanguageModel(**SMALL | option).fit(_corpus(option), **RUN).save) for option in options]
    bases += [_checkpoint(valid) for valid in (None, TEXT)]
    ids, y = np.arange(20).reshape(4, 5) % 4, np.arange(4)
    for optimizer, x, layers in (
        ("adam", ids, [Embedding(4, 2), LSTM(3), Dense(4, "softmax")]),
        ("rmsprop", ids[..., None] / 4, [SimpleRNN(2, True), GRU(2), Dense(4, "softmax")]),
    ):
        model = Sequential(layers, threads=1)
        model.compile(optimizer, "sparse_categorical_crossentropy", ["accuracy"])
        model.fit(x, y, batch_size=2, verbose=0)
        bases.append(_base(load_sequential, model.save))
    return bases


def _corpus(option: dict[str, Any]) -> Any:
    return TEXT if option.get("tokenizer", "char") else [0, 1, 2, 3, 4] * 10


def _base(load: Callable[[str], Any], save: Callable[[str], Any], resume: Callable[[str], Any] | None = None) -> Base:
    save("base.npz")
    with open("base.npz", "rb") as file:
        data = file.read()
    os.unlink("base.npz")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [Member(name.encode(), archive.read(name)) for name in archive.namelist()]
    return Base(load, data, members, resume)


def _checkpoint(valid: str | None) -> Base:
    """As it stands amidst an epoch."""
    written: list[Base] = []

    def write(path: str, kind: str, about: Any, groups: Any) -> None:
        written.append(_base(load_language_model, lambda path: write_model(path, kind, about, groups), resume))

    def resume(path: str) -> Any:
        return LanguageModel(**SMALL).fit(TEXT, valid, resume=path, **RUN)

    write_model = language_model.write_model
    with mock.patch.object(language_model, "write_model", write):
        LanguageModel(**SMALL).fit(TEXT, valid, checkpoint="a", checkpoint_every=1e-9, **RUN)
    return written[2]


def load_language_model(path: str) -> Any:
    return LanguageModel.load(path, threads=1)


def load_sequential(path: str) -> Any:
    return Sequential.load(path, threads=1)


def packed(members: list[Member]) -> bytes:
    """A zip archive that is sound but for what its members are."""
    body, directory = bytearray(), bytearray()
    for name, data, method, size in members:
        known = struct.pack("<HHHHHIIIHH", 20, 0, method, 0, 33, zlib.crc32(data), len(data),
                            len(data) if size is None else size, len(name), 0)  # fmt: skip
        directory += b"PK\1\2\x14\0" + known + struct.pack("<HHHII", 0, 0, 0, 0, len(body)) + name
        body += b"PK\3\4" + known + name + data
    count = len(members)
    return bytes(body + directory) + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, len(directory), len(body), 0)


def spoil_about(random: Random, members: list[Member]) -> None:
    """Something in the JSON header is another value, gone, or there as well."""
    about = json.loads(members[0].data[128:])
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        places = list(_places(about))
        if not places:
            break
        inside, key = random.choice(places)
        action = random.choice(("change", "change", "change", "copy", "remove", "add"))
        if action == "change":
            inside[key] = _value(random)
        elif action == "copy":
            other, place = random.choice(places)
            inside[key] = copy.deepcopy(other[place])
        elif action == "remove":
            del inside[key]
        elif isinstance(inside, dict):
            inside[random.choice(("", "x", "backend", "resume", "weights", f"{key} "))] = _value(random)
        else:
            inside.append(_value(random))
    text = json.dumps(about).replace('"deep"', _deep(random)).encode()
    members[0] = Member(b"about.npy", npy("|u1", f"({len(text)},)", text))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _places(value[key])


def _value(random: Random) -> Any:
    return copy.deepcopy(random.choice((
        None, True, False, -1, 0, 1, 2, 3, 10, 1000, 2**31, 2**53, 10**18, 2**63, 2**64, 10**400, -0.5, 0.5, 1.5, 1e-320, 1e308,
        float("nan"), float("inf"), "", "x", "x" * 9999, "\ud800", "a\0b", "lstm", "gru", "byte", "Dense", "adam", "good",
        [], {}, [[]], [None], [0.5], {"x": 1}, [1] * 1000, "deep",
    )))  # fmt: skip


def _deep(random: Random) -> str:
    depth = random.choice((3, 100, random.randint(700, 1000), 100_000))
    return "[" * depth + "]" * depth


def npy(descr: str, shape: str, data: bytes, fortran: object = False, version: int = 1) -> bytes:
    header = f"{{'descr': {descr!r}, 'fortran_order': {fortran}, 'shape': {shape}, }}".ljust(117) + "\n"
    length = len(header).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes((version, 0)) + length + header.encode() + data


def spoil_array(random: Random, members: list[Member]) -> None:
    """An array has another shape, dtype or number in it."""
    index = random.randrange(len(members))
    array = np.load(io.BytesIO(members[index].data))
    descr, shape, fortran, version, data = array.dtype.str, str(array.shape), False, 1, array.tobytes()
    action = random.choice(("shape", "dtype", "descr", "number", "version", "text"))
    if action == "shape":
        shape = random.choice((
            "()", "(0,)", "(1,)", "(-1,)", "(-5, -5)", "(10**9,)", "(9999999999,)", "(0, 9999999999999999999)", "(1, 1, 1)",
            "(1" + ", 1" * 40 + ")", "(2, 2L)", "(True,)", "(3.0,)", "[3]", "(0x3,)", "(١,)", "(" * 300 + ")" * 300,
            "-" * 5000 + "1", "None", str((array.size,)), str(array.shape[::-1]), "(" + "9" * 5000 + ",)",
        ))  # fmt: skip
        fortran = random.choice((False, True))
    elif action == "dtype":
        kind = random.choice((">f4", "<f2", "<f8", ">f8", "<i4", "<i8", "|b1", "<c8", "<f16", "<U1", "|S3", "<M8[s]"))
        array = array.astype("i8").astype(kind) if "M8" in kind else array.astype(kind)
        descr, data = array.dtype.str, array.tobytes()
    elif action == "descr":
        descr = random.choice(("|O", "O", "<f3", "f4", "float32", "(2,)f4", "f4,f4", "", "|V4", "<f4 ", "a4", "object", "\0",
                               "<U0", "|V0", "<f4" * 3000, "\\d", "é"))  # fmt: skip
    elif action == "number" and array.dtype.kind == "f":
        array = array.astype(random.choice(("<f4", "<f4", "<f8")))
        extreme = (np.nan, np.inf, -np.inf, 1e38, 3e38, -3e38, 1e-45) + ((1e39, 1e300, -1e308) if array.itemsize == 8 else ())
        array.reshape(-1)[random.randrange(array.size)] = random.choice(extreme)
        if random.random() < 0.3:
            array[:] = random.choice(extreme)
        descr, data = array.dtype.str, array.tobytes()
    elif action == "version":
        version = random.choice((0, 2, 3, 4, 255))
        fortran = random.choice((False, True))
    else:
        shape = random.choice((f"{shape} # x", f"{shape}, 'x': 1", f"{shape}, 'shape': (1,)", "0or 1", "1if 1else 2", "().x"))
    spoiled = npy(descr, shape, data, fortran, version)
    if random.random() < 0.2:
        spoiled = spoiled[:10] + flip_bits(random, spoiled[10:128]) + spoiled[128:]
    members[index] = members[index]._replace(data=spoiled)


def spoil_members(random: Random, members: list[Member]) -> None:
    """A member is gone, elsewhere, there twice, compressed, or has another name."""
    index, other = random.randrange(len(members)), random.randrange(len(members))
    member = members[index]
    action = random.choice(("rename", "drop", "swap", "twice", "compress", "bomb", "size", "bytes", "many"))
    if action == "rename":
        name = random.choice((
            b"../../x.npy", b"/etc/x.npy", b"a\\b.npy", b"C:\\x.npy", b"weights/../x.npy", b"x", b"", b".npy", b"weights/.npy", b"/",
            b"weights/\xff\xfe.npy", b"weights/a\0b.npy", b"weights//x.npy", b"moments/0/x.npy", b"good/x.npy",
            b"state/\xc2\xb2/x.npy", member.name.upper(), member.name + b".npy", b"x" * 60000 + b".npy", b"about.npy",
        ))  # fmt: skip
        members[index] = member._replace(name=name)
    elif action == "drop":
        del members[index]
    elif action == "swap":
        members[index], members[other] = member._replace(data=members[other].data), members[other]._replace(data=member.data)
    elif action == "twice":
        members.append(members[other])
    elif action == "compress":
        squeezed = zlib.compress(member.data, wbits=-15)
        members[index] = Member(member.name, squeezed, zipfile.ZIP_DEFLATED, len(member.data))
    elif action == "bomb":
        members[index] = Member(member.name, bomb(), random.choice((0, 8, 8, 8, 12, 14, 99)), random.choice((None, 128 + 2 * MEMORY)))
    elif action == "size":
        members[index] = member._replace(size=random.choice((0, 1, len(member.data) - 1, len(member.data) + 1, 2**32 - 1)))
    elif action == "bytes":
        members[index] = member._replace(data=random.choice(BYTES)(random, member.data))
    else:
        members += [Member(b"weights/%d.npy" % number, b"") for number in range(1000)]


@cache
def bomb() -> bytes:
    """An array that takes twice the memory, as a stream of deflate that takes two megabytes."""
    squeeze = zlib.compressobj(wbits=-15)
    header = squeeze.compress(npy("<f4", f"({2 * MEMORY // 4},)", b"")) + squeeze.flush(zlib.Z_FULL_FLUSH)
    piece = squeeze.compress(bytes(MEMORY // 100)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    return header + piece * 200 + squeeze.flush()


STRUCTURED = (
    (spoil_about,), (spoil_about,), (spoil_about,), (spoil_array,), (spoil_members,), (spoil_about, spoil_array),
    (spoil_about, spoil_members), (spoil_array, spoil_members),
)  # fmt: skip


def model_case(random: Random, bases: list[Base], path: str) -> bool:
    """Spoil a model file and read it; whether it was read."""
    base = random.choice(bases)
    data = base.data
    if random.random() < 0.6:
        members = list(base.members)
        for spoil in random.choice(STRUCTURED):
            spoil(random, members)
        data = packed(members)
    if data == base.data or random.random() < 0.05:
        data = random.choice((*BYTES, spoil_zip_headers, spoil_zip_headers))(random, data)
    with open(path, "wb") as file:
        file.write(data)
    try:
        if base.resume is not None and random.random() < 0.5:
            model = base.resume(path)
        else:
            other = random.choice((load_language_model, load_sequential, read_about))
            model = (other if random.random() < 0.1 else base.load)(path)
        use(random, model)
    finally:
        os.unlink(path)
    return True


def use(random: Random, model: Any) -> None:
    """What was read can be worked with."""
    if isinstance(model, Sequential):
        inputs = (2, 3) if isinstance(model.layers[0], Embedding) else (2, 3, model._features)
        outputs = model.predict(np.zeros(inputs))
        assert (outputs.shape[0], outputs.shape[-1]) == (2, model.layers[-1].units)
        if model._compiled is not None and random.random() < 0.1:
            model.fit(np.zeros(inputs), np.zeros(2), epochs=1, verbose=0)
    elif isinstance(model, LanguageModel):
        text: Any = "to be\n" if model.tokenizer_ else [0, 1, 0]
        assert isinstance(model.score(text), float)
        assert len(model.generate("" if model.tokenizer_ else [0], 3, seed=1)) <= 30_000
        if random.random() < 0.02:
            model.fit(TEXT if model.tokenizer_ else [0, 1, 0] * 9, **RUN)
    else:
        assert isinstance(model, dict)


# Corpora


def corpora() -> dict[str, LanguageModel]:
    """A small model of each tokenizer."""
    return {name: LanguageModel(tokenizer=name, **SMALL).fit(TEXT, **RUN) for name in ("char", "word", "byte")}


TEXTS = (
    LINES, LINES * 30, LINES.replace("\n", "\r\n"), LINES.replace("\n", " "), "", " ", "\n", "\n\n\n", " \t\r\n\f\v" * 3, "\r", "a",
    "né à ü ß\nİı ﬁ\n", "你好，世界\n再见\n", "שלום עולם\n\u202eمرحبا\u202c\n", "👩🏽‍🚀 🏳️‍🌈 🇩🇪\n", "e\u0301\u0323\u0300" * 9 + "\n",
    "a\0b\n\0", "\ufeffbom \ufeff\n", "a\u2028b\u2029c\x85d\x1ce\x0bf\xa0g\u3000h\n", "x" * 20_000, "ab " * 9000, "\U0010ffff\uffff\n",
)  # fmt: skip


def corpus_bytes(random: Random) -> bytes:
    text = random.choice(TEXTS) + random.choice(("", "", random.choice(TEXTS)))
    data = text.encode(random.choice(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "utf-7")))
    if random.random() < 0.1:
        data = random.randbytes(random.choice((1, 10, 1000)))
    for _ in range(random.choice((0, 0, 1, 1, 2))):
        place = random.randint(0, len(data))
        odd = (b"\x80", b"\xff", b"\0", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xe4\xb8", b"\r\n",
               b"\xfe\xff", b" ", b"\x1a")  # fmt: skip
        change = random.choice((*BYTES, None, None, None))
        data = change(random, data) if change else data[:place] + random.choice(odd) + data[place:]
    return data


def corpus_case(random: Random, models: dict[str, LanguageModel], path: str) -> bool:
    """Read a spoiled text file with each tokenizer; whether one could be read at all."""
    data = corpus_bytes(random)
    if random.random() < 0.3:
        path += ".gz"
        data = gzip.compress(data, 1) + random.choice((b"", b"", b"\0\0", b"x", gzip.compress(b"more\n")))
        data = random.choice(BYTES)(random, data) if random.random() < 0.5 else data
    with open(path, "wb") as file:
        file.write(data)
    try:
        found = [_read(random, path, name, models[name]) for name in models]
    finally:
        os.unlink(path)
    return any(found)


def _read(random: Random, path: str, name: str, model: LanguageModel) -> bool:
    text = expected(path, name)
    try:
        tokenizer = learn_tokenizer(path, TextConfig(name))
        corpus = read_corpus(path, tokenizer)
    except CorpusError:
        assert not text, f"{name}: refused"
        return False
    assert text, f"{name}: read what has nothing to read"
    assert corpus.unknown == 0
    if isinstance(text, bytes):
        assert corpus.ids.tobytes() == text and isinstance(tokenizer, ByteTokenizer)
    else:
        assert (corpus.characters, corpus.bytes) == (len(text), len(text.encode()))
        if name == "word":  # of white space only line ends come back
            text = "\n".join(" ".join(words_of(line)) for line in text.split("\n"))
        assert tokenizer.decode(corpus.ids) == text
    if random.random() < 0.2 and len(corpus.ids) > 1:
        model = random.choice((LanguageModel(tokenizer=name, **SMALL), copy.deepcopy(model)))
        steps = max(1, (len(corpus.ids) - 1) // 8)  # one update, or few
        try:
            model.fit(path, epochs=1, streams=8, steps=min(steps, 100), verbose=0)
            assert np.isfinite(model.evaluate(path).nats)
        except CorpusError as error:
            assert "expected at least 2" in str(error)
    return True


def expected(path: str, name: str) -> bytes | str | None:
    """What the file holds for this tokenizer; empty or None if it has to be refused."""
    try:
        with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
            data = file.read()
        text = as_read(data if name == "byte" else data.decode(), name)
    except (OSError, EOFError, ValueError, zlib.error):
        return None
    return text if name != "word" or words_of(text) or "\n" in text else None


def line_case(random: Random, models: dict[str, LanguageModel], path: str) -> bool:
    """Learn, read and score a text file of one line of 100 MB: of many words, or of one."""
    many, one = "word " * 20_000, "w" * 100_000
    for piece, name, tokens in ((many, "char", 10**8), (many, "byte", 10**8), (many, "word", 2 * 10**7), (one, "word", 1)):
        with open(path, "w", encoding="ascii") as file:
            file.writelines([piece] * 1000)
        try:
            corpus = read_corpus(path, learn_tokenizer(path, TextConfig(name)))
        finally:
            os.unlink(path)
        assert (len(corpus.ids), corpus.bytes, corpus.unknown) == (tokens, 10**8, 0)
        assert np.isfinite(models[name].score(piece))
    return True


# All cases


def attempt(case: Callable[[Random, Any, str], bool], prepared: Any, number: int, seen: list[str]) -> str:
    """Run one case; → "read" or "refused". Whatever else happens is raised."""
    seen.clear()
    before = os.listdir()
    faulthandler.dump_traceback_later(HANG, exit=True)
    try:
        outcome = "read" if case(Random(number), prepared, f"case-{number}") else "refused"
    except LanguageModelError as error:
        outcome, cause = "refused", error
        while cause := cause.__cause__ or cause.__context__:  # type: ignore[assignment]
            assert not isinstance(cause, MemoryError), "the memory is exhausted"
        assert "\n" not in str(error).replace("\\n", ""), "the message has several lines"
    assert os.listdir() == before, "files were left"
    odd = [message for message in seen if not any(known in message for known in ABOUT_TEXT)]
    assert not odd, f"warnings were shown: {odd}"
    return outcome


def limit_memory() -> None:
    """At what is used now, and MEMORY more; where the system can."""
    with contextlib.suppress(ImportError, OSError):
        import resource  # not on Windows

        with open("/proc/self/statm", encoding="ascii") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("kind", choices=("models", "corpora", "line"))
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    options = parser.parse_args()
    make, run = {"models": (models, model_case), "corpora": (corpora, corpus_case), "line": (corpora, line_case)}[options.kind]
    prepared: Any = make()
    bomb()
    seen: list[str] = []
    warnings.simplefilter("always")
    warnings.showwarning = lambda message, *rest, **named: seen.append(f"{type(message).__name__}: {message}")
    limit_memory()
    started, figures = time.perf_counter(), Counter(read=0, refused=0, crashes=0)
    for number in range(options.first, options.first + options.cases):
        try:
            figures[attempt(run, prepared, number, seen)] += 1
        except Exception:
            figures["crashes"] += 1
            print(f"case {number}:\n{traceback.format_exc()}")
    faulthandler.cancel_dump_traceback_later()
    seconds = round(time.perf_counter() - started, 1)
    print(json.dumps({"kind": options.kind, "cases": options.cases, **figures, "seconds": seconds}))


if __name__ == "__main__":
    main()
