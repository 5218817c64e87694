"""Measures the time and memory that reading a file takes, for the worst cases of every kind of file that the library reads.

With tests/ and the package on PYTHONPATH::

    python -m growth                          every case at 1, 4 and 16 MB
    python -m growth 1 --only layers --all    cases with this in their names, and every way to read them

Each line shows a case at one size: processor seconds per MB, peak memory as a multiple of the file size (of Python and NumPy, measured by
tracemalloc; of the process, measured by the system), and the outcome. If there are several ways to read a file, such as ``load`` and
``info``, the maxima are shown. :mod:`test_growth` measures the same cases at small sizes, by counting.
"""

import argparse
import bz2
import contextlib
import gc
import gzip
import io
import json
import lzma
import os
import struct
import sys
import tempfile
import time
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import count, islice, product
from pathlib import Path
from typing import Any

import numpy as np
from models import LINES, fit, untrained

from numba_rnnlm import LanguageModel, Sequential
from numba_rnnlm.cli import main as command
from numba_rnnlm.config import TextConfig
from numba_rnnlm.errors import LanguageModelError
from numba_rnnlm.layers import LSTM, Dense, Embedding
from numba_rnnlm.storage import locked
from numba_rnnlm.text import learn_tokenizer, read_corpus
from numba_rnnlm.training.history import COLUMNS
from numba_rnnlm.training.log import FIELDS, Log

MB = 10**6
Reader = Callable[[str], Any]
SMALL = {"hidden": 1, "embedding": 1, "layers": 1, "threads": 1, "seed": 1}
CORPUS = "to be or not to be\n" * 4
RUN = {"epochs": 1, "streams": 2, "steps": 5, "verbose": 0}


# Archives


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array)
    return file.getvalue()


def archive(members: Iterable[tuple[str, bytes]], shared: bool = False) -> bytes:
    """Make a zip archive; with ``shared``, all directory entries refer to the bytes of the first member."""
    body, directory, number = bytearray(), bytearray(), 0
    for name, data in members:
        known = struct.pack("<HHHHHIIIHH", 20, 0x800, 0, 0, 33, zlib.crc32(data), len(data), len(data), len(name.encode()), 0)
        directory += b"PK\1\2\x14\0" + known + struct.pack("<HHHII", 0, 0, 0, 0, 0 if shared and number else len(body)) + name.encode()
        if not (shared and number):
            body += b"PK\3\4" + known + name.encode() + data
        number += 1
    end = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, number, number, len(directory), len(body))
    end += struct.pack("<IIQI", 0x07064B50, 0, len(body) + len(directory), 1)
    return bytes(body + directory) + end + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)


@cache
def base(kind: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Header and members of a small file: ``kind`` is the tokenizer of a language model, "checkpoint" or "sequential"."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "m.npz")
        if kind == "sequential":
            model = Sequential([Embedding(4, 1), LSTM(1), Dense(4, "softmax")], threads=1)
            model.compile("adam", "sparse_categorical_crossentropy")
            model.fit(np.arange(20).reshape(4, 5) % 4, np.arange(4), verbose=0)
            model.save(path)
        elif kind == "checkpoint":
            fit(LanguageModel(**SMALL), CORPUS, checkpoint=path, **RUN)
        elif kind == "None":
            fit(LanguageModel(tokenizer=None, vocabulary_size=9, **SMALL), [1, 2, 3, 4] * 20, **RUN).save(path)
        else:
            fit(LanguageModel(tokenizer=kind, **SMALL), CORPUS, **RUN).save(path)
        with zipfile.ZipFile(path) as file:
            members = {name: file.read(name) for name in file.namelist()}
    return json.loads(members.pop("about.npy")[128:]), members


def model(kind: str, about: bytes | dict[str, Any] | None = None, members: Iterable[tuple[str, bytes]] = (), shared: bool = False) -> bytes:
    """The small file with another header, and with members added or replaced."""
    header, own = base(kind)
    header = header if about is None else about
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    return archive([("about.npy", npy(np.frombuffer(data, np.uint8))), *(own | dict(members)).items()], shared)


def with_extra(kind: str, extra: bytes) -> bytes:
    """The small file with an additional key in its header."""
    return model(kind, json.dumps(base(kind)[0]).encode()[:-1] + b', "more": ' + extra + b"}")


def repeated(piece: bytes, size: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    return opening + b",".join([piece] * (size // (len(piece) + 1))) + closing


def numbered(template: str, size: int) -> list[str]:
    """Format ``template`` with 0, 1, … until the results, each with two bytes of overhead, have this size."""
    step = len(json.dumps(template.format(size // (len(template) + 4)))) + 2
    return [template.format(number) for number in range(size // step)]


def characters(number: int) -> list[str]:
    """Distinct characters, those with the shortest encoding first."""
    points = (point for point in count(0x100) if not 0xD800 <= point < 0xE000)
    return [chr(point) for point in islice(points, number) if point < 0x110000]


def vocabulary(kind: str, symbols: list[str], rows: bool = False) -> bytes:
    """A language model with this vocabulary; ``rows`` adds weights of matching size."""
    about, members = json.loads(json.dumps(base(kind)[0])), {}
    about["tokenizer"]["symbols"] = about["tokenizer"]["symbols"][:2] + symbols
    size = len(symbols) + 2
    if rows:
        members = {"weights/embedding/W.npy": npy(np.ones((size, 1), np.float32)), "weights/dense/W.npy": npy(np.ones((1, size), np.float32)),
                   "weights/dense/b.npy": npy(np.ones(size, np.float32))}
    return model(kind, json.dumps(about, ensure_ascii=False).encode("utf-8", "surrogatepass"), members.items())


def history(kind: str, value: Any, size: int) -> bytes:
    about = dict(base(kind)[0])
    rows = size // len(COLUMNS) // (len(json.dumps(value)) + 2)
    return model(kind, about | {"history": {column: [value] * rows for column in COLUMNS}})


def layers(extra: list[dict[str, Any]], **changes: Any) -> bytes:
    about = dict(base("sequential")[0])
    first, *rest = about["layers"]
    return model("sequential", about | {"layers": [first, *extra, *rest]} | changes)


def deep(size: int) -> bytes:
    """A valid Sequential with as many recurrent layers as fit, at most a thousand."""
    number = min(size // 3000 + 1, 997)
    made = Sequential([Embedding(4, 1), *(LSTM(1, return_sequences=True) for _ in range(number)), Dense(4, "softmax")], threads=1)
    return saved(made)


def saved(made: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        made.save(os.path.join(folder, "m.npz"))
        return Path(folder, "m.npz").read_bytes()


def wide(kind: str, dtype: str, order: str, size: int) -> bytes:
    """A language model with one large matrix of this dtype and memory order."""
    units = max(1, size // np.dtype(dtype).itemsize // 9)
    about = base("byte")[0]
    about = about | {"config": about["config"] | {"hidden": 1, "embedding": 9 * units // 256 + 1, "tied": False}}
    columns = 9 * units // 256 + 1
    arrays = {"embedding/W": (256, columns), "lstm/W": (columns, 4), "lstm/U": (1, 4), "lstm/b": (4, 1), "dense/W": (1, 256), "dense/b": (256,)}
    return model("byte", about, {f"weights/{name}.npy": npy(np.ones(shape, dtype, order)) for name, shape in arrays.items()}.items())


def many(template: str, size: int, array: np.ndarray | None = None, shared: bool = False, kind: str = "char") -> bytes:
    data = npy(np.zeros(0, np.float32) if array is None else array)
    each = (0 if shared else 30 + len(template) + 4 + len(data)) + 46 + len(template) + 4
    return model(kind, None, ((template.format(number), data) for number in range(size // each)), shared)


def axes(size: int) -> bytes:
    return many("weights/a{}.npy", size, np.zeros((1,) * 30, np.float32))


FILES: dict[str, Callable[[int], bytes]] = {
    "header: [0, 0, ...]": lambda size: with_extra("char", repeated(b"0", size)),
    "header: [1000, ...]": lambda size: with_extra("char", repeated(b"1000", size)),
    "header: [[], [], ...]": lambda size: with_extra("char", repeated(b"[]", size)),
    "header: [[0], [0], ...]": lambda size: with_extra("char", repeated(b"[0]", size)),
    'header: [{"": 0}, ...]': lambda size: with_extra("char", repeated(b'{"":0}', size)),
    "header: [{}, {}, ...]": lambda size: with_extra("sequential", repeated(b"{}", size)),
    'header: ["ab", ...]': lambda size: with_extra("char", repeated(b'"ab"', size)),
    "header: [x, x, ...] beyond Latin-1": lambda size: with_extra("char", repeated('"\u4e00"'.encode(), size)),
    "header: [[[...]]]": lambda size: with_extra("char", b"[" * (size // 2) + b"]" * (size // 2)),
    "header: [[[...": lambda size: with_extra("char", b"[" * size),
    "header: many keys": lambda size: with_extra("char", json.dumps(dict.fromkeys(numbered("{}", size * 2 // 3), 0), separators=(",", ":")).encode()),
    "header: one key repeated": lambda size: with_extra("char", repeated(b'"a":0', size, b"{", b"}")),
    "header: long string, one emoji": lambda size: with_extra("char", '"{}\N{GRINNING FACE}"'.format("a" * size).encode()),
    "header: long string, one escape": lambda size: with_extra("char", b'"\\ud83d\\ude00' + b"a" * size + b'"'),
    "header: escaped quotes, unterminated": lambda size: with_extra("char", b'"' + b'\\"' * (size // 2)),
    "header: a number of many digits": lambda size: with_extra("char", b"1" * size),
    "header: a fraction of many digits": lambda size: with_extra("char", b"0." + b"1" * size),
    "header: white space": lambda size: with_extra("char", b" " * size + b"0"),
    "header: strings and white space": lambda size: with_extra("char", repeated(b'""' + b" " * 100, size)),
    "vocabulary: characters, no rows": lambda size: vocabulary("char", characters(size // 6)),
    "vocabulary: characters": lambda size: vocabulary("char", characters(size // 19), rows=True),
    "vocabulary: words, no rows": lambda size: vocabulary("word", numbered("{}", size)),
    "vocabulary: words": lambda size: vocabulary("word", numbered("{}", size // 2), rows=True),
    "vocabulary: words beyond Latin-1": lambda size: vocabulary("word", numbered("\u4e00{}", size // 2), rows=True),
    "vocabulary: one long word": lambda size: vocabulary("word", ["\N{GRINNING FACE}" + "a" * size] + ["a"] * 7),
    "vocabulary: long words": lambda size: vocabulary("word", numbered("x" * 1000 + "{}", size)),
    "history: null": lambda size: history("char", None, size),
    "history: whole numbers": lambda size: history("char", 1000, size),
    "history: numbers": lambda size: history("char", 1.25, size),
    "cells": lambda size: model("char", base("char")[0] | {"cells": {name: {"slots": []} for name in numbered("cell{}", size // 3)}}),
    "layers: Dropout": lambda size: layers([{"class": "Dropout", "rate": 0.0}] * (size // 37)),
    "layers: custom cells": lambda size: layers([{"class": "Recurrent", "units": 1, "cell": name} for name in numbered("c{}", size // 8)]),
    "layers: one with many arguments": lambda size: layers([{"class": "LSTM"} | dict.fromkeys(numbered("a{}", size), 0)]),
    "layers: valid": deep,
    "metrics": lambda size: layers([], compiled=base("sequential")[0]["compiled"] | {"metrics": ["accuracy"] * (size // 12)}),
    "members: empty arrays": lambda size: many("weights/a{}.npy", size),
    "members: one shared local header": lambda size: many("weights/a{}.npy", size, shared=True),
    "members: long names, shared": lambda size: many("weights/" + "\u4e00" * 300 + "{}.npy", size, shared=True),
    "members: groups": lambda size: many("g{}/x.npy", size),
    "members: moments": lambda size: many("moments/0/{}.npy", size, kind="checkpoint"),
    "members: moments of a Sequential": lambda size: many("moments/0/{}.npy", size, kind="sequential"),
    "members: 30 axes": axes,
    "weights: float16": lambda size: wide("byte", "<f2", "C", size),
    "weights: float32, Fortran": lambda size: wide("byte", "<f4", "F", size),
    "weights: float64, big-endian": lambda size: wide("byte", ">f8", "C", size),
}


def silent(read: Callable[[], Any]) -> Any:
    err = io.StringIO()
    with open(os.devnull, "w", encoding="utf-8") as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = read()
    if isinstance(result, int) and result:
        raise LanguageModelError(err.getvalue())
    return None


READERS: dict[str, Reader] = {
    "load": lambda path: LanguageModel.load(path, threads=1),
    "Sequential.load": lambda path: Sequential.load(path, threads=1),
    "Sequential.load, compile=False": lambda path: Sequential.load(path, threads=1, compile=False),
    "info": lambda path: silent(lambda: command(["info", path])),
    "info --json": lambda path: silent(lambda: command(["info", path, "--json"])),
    "resume": lambda path: LanguageModel(**SMALL).fit(CORPUS, resume=path, **RUN),
    "resume, other settings": lambda path: LanguageModel(**SMALL).fit(CORPUS, resume=path, **RUN | {"steps": 7}),
    "overwrite by checkpoint": lambda path: LanguageModel(**SMALL).fit(CORPUS, checkpoint=path, **RUN),
    "overwrite by save": lambda path: untrained(**SMALL | {"tokenizer": None, "vocabulary_size": 2}).save(path),
}
READERS_OF = {  # beginning of the name of a case → its readers; other readers take the same code path as one of these
    "members: moments": ("resume", "resume, other settings", "overwrite by checkpoint", "Sequential.load"),
    "members": ("load", "Sequential.load, compile=False"), "header": ("load", "overwrite by save"), "vocabulary": ("load", "info --json"),
    "history": ("load", "info --json"), "cells": ("load",), "layers": ("Sequential.load", "Sequential.load, compile=False", "info"),
    "metrics": ("Sequential.load", "info"), "weights": ("load", "info"),
}


# Texts, logs, locks, prompts


def lines(size: int) -> bytes:
    return b"to be or not to be\n" * (size // 19)


def different_words(size: int) -> bytes:
    return " ".join(numbered("{}", size)).encode()


TEXTS: dict[str, Callable[[int], bytes]] = {
    "lines": lines,
    "short lines": lambda size: b"a\n" * (size // 2),
    "newlines": lambda size: b"\n" * size,
    "different short lines": lambda size: "".join(f"{a}{b}{c}\n" for a, b, c in islice(product(characters(200), repeat=3), size // 7)).encode(),
    "short lines and a long one": lambda size: b"a\n" * (size // 4) + b"a" * (size // 2),
    "carriage returns": lambda size: b"\r" * size,
    "one line": lambda size: b"to be or " * (size // 9),
    "one word": lambda size: b"a" * size,
    "one word with an emoji": lambda size: b"a" * size + "\N{GRINNING FACE}".encode(),
    "many symbols": lambda size: ("".join(characters(min(size // 3, 10**6))) * 16).encode()[:size].decode("utf-8", "ignore").encode(),
    "many different words": different_words,
    "one character per word": lambda size: b"a " * (size // 2),
    "invalid at the end": lambda size: lines(size) + b"\xff",
}
SCORED = ("newlines", "different short lines", "short lines and a long one")  # worst cases for score; training on them is like training on others
PACKINGS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
with contextlib.suppress(ImportError):
    import zstandard

    PACKINGS[".zst"] = zstandard.ZstdCompressor().compress


def read_text(tokenizer: str) -> Reader:
    return lambda path: read_corpus(Path(path), learn_tokenizer(Path(path), TextConfig(tokenizer)))


@cache
def known(tokenizer: str) -> LanguageModel:
    return fit(untrained(hidden=3, embedding=2, tokenizer=tokenizer, threads=1), LINES * 8, epochs=1)


KNOWN = tempfile.TemporaryDirectory()


@cache
def known_file(tokenizer: str) -> str:
    path = os.path.join(KNOWN.name, f"{tokenizer}.npz")
    known(tokenizer).save(path)
    return path


class Ready(Exception):
    """The texts have been read, and training would begin."""


def extend(path: str) -> None:
    model = fit(untrained(hidden=1, embedding=1, tokenizer="word", threads=1), LINES * 8, epochs=1)

    def prepare(about: Any) -> Any:
        raise Ready

    from numba_rnnlm.config import TrainingConfig

    with contextlib.suppress(Ready):
        model.fit_config(Path(path), None, TrainingConfig(extend_vocabulary=True, verbose=0, streams=1, steps=5), prepare=prepare)


def of_text(path: str) -> str:
    return Path(path).read_text(encoding="utf-8", errors="replace")


LOG_ROW = dict.fromkeys(FIELDS, 1)
LOGS: dict[str, Callable[[int], bytes]] = {
    "log.csv: short rows": lambda size: (",".join(FIELDS) + "\n").encode() + "".join(f",{number},1,1\n" for number in range(size // 12)).encode(),
    "log.csv: one long row": lambda size: (",".join(FIELDS) + "\n").encode() + b"1," * (size // 2),
    "log.csv: one long field": lambda size: (",".join(FIELDS) + "\n").encode() + b'"' + b"1\n" * (size // 2),
    "log.jsonl: short rows": lambda size: (json.dumps(LOG_ROW) + "\n").encode() + "".join(
        f'{{"updates":{number},"a":0}}\n' for number in range(size // 25)).encode(),
    "log.jsonl: one long row": lambda size: (json.dumps(LOG_ROW) + "\n").encode() + repeated(b"[]", size),
}


def lock(path: str) -> None:
    with locked(path.removesuffix(".lock")):
        pass


class Case(dict[str, Any]):
    """name; suffix of the file; make: function from size to bytes; readers by name; slow: whether the network computes too."""


def cases() -> Iterator[Case]:
    for name, make in FILES.items():
        chosen = next(readers for begin, readers in READERS_OF.items() if name.startswith(begin))
        yield Case(name=name, suffix=".npz", make=make, readers={reader: READERS[reader] for reader in chosen})
    for name, make in TEXTS.items():
        for suffix, pack in PACKINGS.items():
            if (suffix and name != "lines") or name in SCORED:
                continue
            kinds = ("char",) if suffix else ("char", "word")  # bytes are read like characters, without decoding
            yield Case(name=f"text{suffix}: {name}", suffix=suffix, make=make, pack=pack, readers={f"train, {kind}": read_text(kind) for kind in kinds})
    for name in ("many different words", "one word with an emoji"):
        yield Case(name=f"--extend-vocabulary: {name}", suffix=".txt", make=TEXTS[name], readers={"fit": extend})
    for name, make in LOGS.items():
        yield Case(name=name, suffix=Path(name.partition(":")[0]).suffix, make=make, readers={"resume": lambda path: Log(path, resumed=True)})
    yield Case(name="lock: not a lock", suffix=".npz.lock", make=lambda size: b"[" * size, readers={"lock": lock})
    for name in ("many symbols", "many different words"):
        prompts = {f"{kind}, unknown={unknown!r}": (lambda path, kind=kind, unknown=unknown: known(kind).generate(of_text(path), 1, unknown=unknown))
                   for kind in ("char", "word") for unknown in ("error", "unk")}
        yield Case(name=f"prompt: {name}", suffix=".txt", make=TEXTS[name], readers=prompts, slow=True)
    yield Case(name="score: one line", suffix=".txt", make=TEXTS["one line"], slow=True, readers={
        kind: (lambda path, kind=kind: silent(lambda: known(kind).score(of_text(path)))) for kind in ("char", "word")})
    for name in ("short lines", *SCORED):
        yield Case(name=f"score: {name}", suffix=".txt", make=TEXTS[name], slow=True, readers={
            kind: (lambda path, kind=kind: silent(lambda: command(["score", known_file(kind), path, "--threads", "1"]))) for kind in ("char", "word")})


# Measuring


def outcome(read: Reader, path: str) -> str:
    try:
        read(path)
    except LanguageModelError as error:
        return f"rejected, {len(str(error))} characters"
    return "read"


def python_peak(read: Reader, path: str) -> int:
    """Peak of the memory of Python and NumPy during reading, in bytes."""
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        outcome(read, path)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def process_peak(read: Reader, path: str) -> tuple[float, int, str]:
    """(seconds, peak of the memory of the process during reading in bytes, outcome)."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, started = _resident("VmRSS"), time.process_time()  # excludes the time of other programs
    result = outcome(read, path)
    seconds = time.process_time() - started
    return seconds, _resident("VmHWM") - before, result


def _resident(name: str) -> int:
    found = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(found.split()[1])


@contextlib.contextmanager
def written(case: Case, size: int, folder: str) -> Iterator[tuple[str, int]]:
    """Write the file of a case; yields its path and its size (of a compressed text, the uncompressed size)."""
    path = os.path.join(folder, "file" + case["suffix"])
    data = case["make"](size)
    Path(path).write_bytes(case.get("pack", bytes)(data))
    try:
        yield path, len(data)
    finally:
        for left in os.listdir(folder):
            os.unlink(os.path.join(folder, left))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("sizes", nargs="*", type=float, default=[1, 4, 16], metavar="MB")
    parser.add_argument("--only", default="")
    parser.add_argument("--all", action="store_true", help="print a line for each way to read a file")
    args = parser.parse_args()
    print(f"{'case':44}{'MB':>5}  {'s/MB':>7}{'peak':>7}{'rss':>7}  slowest or largest reader, outcome")
    warm: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        for case in cases():
            if args.only not in case["name"]:
                continue
            for megabytes in args.sizes:
                rows = []
                for name, read in case["readers"].items():
                    with written(case, int(megabytes * MB), folder) as (path, size):
                        data = Path(path).read_bytes()
                        if name not in warm:  # loads modules and kernels
                            outcome(read, path)
                            Path(path).write_bytes(data)
                            warm.add(name)
                        seconds, resident, result = process_peak(read, path)
                        Path(path).write_bytes(data)
                        rows.append((seconds / size * MB, python_peak(read, path) / size, resident / size, name, result))
                for row in rows if args.all else [tuple(max(row[i] for row in rows) for i in range(3)) + max(rows)[3:]]:
                    print(f"{case['name']:44}{megabytes:5g}  {row[0]:7.3f}{row[1]:7.1f}{row[2]:7.1f}  {row[3]}: {row[4]}", flush=True)


if __name__ == "__main__":
    sys.setrecursionlimit(1000)
    main()
