"""Texts and their sources, and the operations on a damaged text."""

import bz2
import codecs
import copy
import gzip
import io
import lzma
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zstandard
from models import LINES, as_read, words_of

from numba_rnnlm import LanguageModel
from numba_rnnlm.config import TextConfig
from numba_rnnlm.errors import CorpusError
from numba_rnnlm.text import ByteTokenizer, Files, Text, learn_tokenizer, open_source, packed, read_corpus, split

from . import damage
from .conduct import Case, Random
from .model_files import RUN, SMALL, TEXT

TEXTS = (
    LINES, LINES * 30, LINES.replace("\n", "\r\n"), LINES.replace("\n", " "), "", " ", "\n", "\n\n\n", " \t\r\n\f\v" * 3, "\r", "a",
    "né à ü ß\nİı ﬁ\n", "你好，世界\n再见\n", "שלום עולם\n\u202eمرحبا\u202c\n", "👩🏽‍🚀 🏳️‍🌈 🇩🇪\n", "e\u0301\u0323\u0300" * 9 + "\n",
    "a\0b\n\0", "\ufeffbom \ufeff\n", "a\u2028b\u2029c\x85d\x1ce\x0bf\xa0g\u3000h\n", "x" * 20_000, "ab " * 9000, "\U0010ffff\uffff\n",
    "\n" + "\ufeff" * 999 + "a", "\ufeff" * 999, "\r" * 999, "\r\n" * 500, "\x1b[2J\x1b]0;x\x07 \x9b31m\n" * 9, "<unk> a <unk>\n", "Ã©tÃ©\n" * 20,
    "e\u0301" * 500, "\u0344" * 500, "word " * 4000 + "\n" * 4000,
)  # fmt: skip
PIECES = (b"\x80", b"\xff", b"\0", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xe4\xb8", b"\r\n", b"\xfe\xff", b" ", b"\x1a",
          b"\x1b[2J", b"\xe2\x80\xae", b"PK\x03\x04", b"\x1f\x8b\x08", b"BZh9", b"\n\xef", b"\n\xef\xbb", b"\r\xef\xbb\xbf\n")  # fmt: skip
ENDS = (b"\r\n", b"\r", b"\n\r", b"\0", b"\x0b", b"\x0c", b"\x85", b"\xc2\x85", b"\xe2\x80\xa8", b"\n\xef\xbb\xbf", b"", b" ", b"\n\n")
ENCODINGS = ("utf-16", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "latin-1", "gb18030", "shift_jis", "utf-7", "utf-8-sig", "ascii", "koi8-r")
PACKINGS: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
    ".gz": (lambda data: gzip.compress(data, 1), lambda data: gzip.GzipFile(fileobj=io.BytesIO(data)).read()),
    ".bz2": (lambda data: bz2.compress(data, 1), lambda data: bz2.BZ2File(io.BytesIO(data)).read()),
    ".xz": (lambda data: lzma.compress(data, preset=0), lambda data: _lzma(data)),
    ".lzma": (lambda data: lzma.compress(data, lzma.FORMAT_ALONE, preset=0), lambda data: _lzma(data)),
    ".zst": (zstandard.ZstdCompressor(level=1).compress, lambda data: _zstd(data)),
}
SHORT = 1000  # characters


class Given(NamedTuple):
    """A text: a function that makes a source of it, and its bytes in UTF-8, or None if it must be rejected.

    Attributes
    ----------
    paths
        The arguments of a command, if the text is in files.
    known
        Whether ``data`` is certain.
    errors
        How to decode the bytes.
    """

    source: Callable[[], Any]
    data: bytes | None
    paths: list[str] | None = None
    encoding: str = "utf-8"
    known: bool = True
    errors: str = "strict"


def models() -> dict[str, LanguageModel]:
    """A small model for each tokenizer; they are also saved next to the folder of the cases."""
    found = {name: LanguageModel(tokenizer=name, **SMALL).fit(TEXT, **RUN) for name in ("char", "word", "byte")}
    for name, model in found.items():
        model.save(f"{name}.npz")
    return found


# Texts


def text_bytes(random: Random) -> bytes:
    """Bytes of a text, not always valid UTF-8."""
    text = random.choice(TEXTS) + random.choice(("", "", random.choice(TEXTS)))
    data = text.encode(random.choice(("utf-8", "utf-8", "utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "utf-7")))
    if random.random() < 0.1:
        data = random.randbytes(random.choice((1, 10, 1000)))
    if random.random() < 0.1:
        data = data.replace(b"\n", random.choice(ENDS))
    for _ in range(random.choice((0, 0, 0, 1, 1, 2))):
        place = random.randint(0, len(data))
        data = damage.spoil(random, data) if random.random() < 0.7 else data[:place] + random.choice(PIECES) + data[place:]
    return data


def stored(random: Random) -> tuple[str, bytes]:
    """The suffix and the contents of a file: often compressed, sometimes damaged."""
    data = text_bytes(random)
    if random.random() < 0.65:
        return random.choice((".txt", ".txt", ".txt", ".txt", "", ".GZ", ".xz")), data
    suffix = random.choice(list(PACKINGS))
    pack = PACKINGS[suffix][0]
    data = pack(data)
    data += random.choice((b"", b"", b"", b"", b"\0\0", b"x", pack(b"more\n"), pack(b""), data[:-1]))
    if random.random() < 0.4:
        data = damage.spoil(random, data)
    return random.choice((suffix, suffix, suffix, ".txt", random.choice(list(PACKINGS)))), data


def read_reference(name: str, data: bytes, encoding: str = "utf-8") -> tuple[bytes | None, bool]:
    """The text of such a file in UTF-8, or None if it must be rejected; and whether that is certain."""
    known = True
    kind = next((kind for start, kind in packed.STARTS.items() if data.startswith(start)), None)
    if kind in PACKINGS:
        try:
            data = PACKINGS[kind][1](data)
        except Exception:
            return None, kind != ".zst"
        known = kind != ".zst"
    elif kind or (data and name.lower().endswith(tuple(PACKINGS))):
        return None, True
    if data[packed.TAR] == b"ustar":
        return None, True
    try:
        return (data if encoding in ("utf-8", "utf-8-sig") else _decoded(data, encoding)), known
    except UnicodeError:
        return None, known


def _decoded(data: bytes, encoding: str) -> bytes:
    # For UTF-16 and UTF-32, incremental decoders require a byte order mark; bytes.decode does not.
    return codecs.getincrementaldecoder(encoding)().decode(data, True).encode("utf-8", "surrogatepass")


def _lzma(data: bytes) -> bytes:
    with lzma.open(io.BytesIO(data)) as file:
        return file.read()


def _zstd(data: bytes) -> bytes:
    return b"".join(zstandard.ZstdDecompressor().read_to_iter(io.BytesIO(data)))


# Sources


def draw(case: Case) -> Given:
    """Draw a text and its source."""
    return case.random.choice((one_file, one_file, one_file, one_file, encoded, folder, several, in_memory, lines, open_file, pipe))(case)


def one_file(case: Case) -> Given:
    suffix, data = stored(case.random)
    name = case.put(f"text{suffix}", data)
    found, known = read_reference(name, data)
    return Given(lambda: case.random.choice((name, Path(name))), found, [name], known=known)


def encoded(case: Case) -> Given:
    random = case.random
    encoding = random.choice(ENCODINGS)
    data = random.choice((random.choice(TEXTS).encode(encoding, "ignore"), text_bytes(random)))
    data = damage.spoil(random, data) if random.random() < 0.3 else data
    if random.random() < 0.2:
        data = gzip.compress(data, 1)
    name = case.put("text.txt", data)
    found, known = read_reference(name, data, encoding)
    return Given(lambda: Files(name, encoding), found, [name], encoding, known)


def several(case: Case) -> Given:
    random = case.random
    names, found, known = [], [], True
    for number in range(random.choice((1, 2, 2, 3, 9))):
        suffix, data = stored(random)
        names.append(case.put(f"text-{number}{suffix}", data))
        part, certain = read_reference(names[-1], data)
        found.append(part)
        known = known and certain
    return Given(lambda: random.choice((Files(names), [Path(name) for name in names])), _joined(found), names, known=known)


def folder(case: Case) -> Given:
    """Files in folders, together with links, pipes and files that are not text."""
    random = case.random
    found: dict[str, bytes | None] = {}
    known = True
    for _ in range(random.choice((0, 1, 2, 3, 5))):
        inside = "/".join(random.choice(("a", "b", ".hidden", "c d", "\x1b[2J")) for _ in range(random.choice((0, 0, 1, 2))))
        suffix, data = stored(random)
        name = random.choice(("one", "two", ".three", "\x1b]0;x\x07", "é\u202e", "line\nend")) + suffix
        path = os.path.normpath(os.path.join("texts", inside, name))
        if os.path.lexists(path):
            continue
        case.put(path, data)
        if not any(part.startswith(".") for part in path.split("/")):
            found[path], certain = read_reference(path, data)
            known = known and certain
    os.makedirs("texts", exist_ok=True)
    if random.random() < 0.3:
        case.put(random.choice(("texts/model.npz", "texts/run.npz.lock", "texts/.npz")), b"PK\3\4")
    if random.random() < 0.2:
        os.symlink(random.choice(("..", ".", "texts", "/nowhere")), "texts/.link")
        case.files.add("texts/.link")
    odd = random.random()
    if odd < 0.15:
        os.symlink(".", "texts/again")
    elif odd < 0.25:
        os.mkfifo("texts/pipe")
        case.files.add("texts/pipe")
    elif odd < 0.35:
        os.symlink("/nowhere", "texts/lost.txt")
        case.files.add("texts/lost.txt")
        found["texts/lost.txt"] = None
    parts = [found[path] for path in sorted(found, key=lambda path: path.split(os.sep))]
    return Given(lambda: Path("texts"), _joined(parts) if parts else None, ["texts"], known=known)


def in_memory(case: Case) -> Given:
    """Bytes, or a str that contains a newline."""
    data = text_bytes(case.random)
    if case.random.random() < 0.5:
        return Given(lambda: case.random.choice((data, bytearray(data), memoryview(data))), data)
    text = data.decode("utf-8", "surrogateescape") + "\n"
    return Given(lambda: text, text.encode("utf-8", "surrogatepass"), errors="surrogatepass")


def lines(case: Case) -> Given:
    random, data = case.random, text_bytes(case.random)
    found: list[Any] = data.split(b"\n")
    errors = "strict"
    if random.random() < 0.5:
        found, errors = [line.decode("utf-8", "surrogateescape") for line in found], "surrogatepass"
    parts = [line.encode("utf-8", "surrogatepass") if isinstance(line, str) else line for line in found]
    whole = b"".join(line if line.endswith((b"\n", b"\r")) else line + b"\n" for line in parts)
    form = random.choice((list, tuple, iter, lambda items: (item for item in items), lambda items: np.array(items, object)))
    return Given(lambda: form(found), whole, errors=errors)


def open_file(case: Case) -> Given:
    random = case.random
    _, data = stored(random)
    if random.random() < 0.5:
        found, known = read_reference("an open file", data)
        return Given(lambda: io.BytesIO(data), found, known=known)
    text = data.decode("utf-8", "replace")
    found, known = read_reference("an open file", text.encode())
    return Given(lambda: io.StringIO(text, newline=""), found, known=known, errors="surrogatepass")


def pipe(case: Case) -> Given:
    """A source that can be read only once."""
    _, data = stored(case.random)
    data = data[:60_000]  # the capacity of a pipe
    found, known = read_reference("a pipe", data)

    def source() -> Any:
        reader, writer = os.pipe()
        os.write(writer, data)
        os.close(writer)
        return os.fdopen(reader, "rb")

    return Given(source, found, known=known)


def _joined(parts: list[bytes | None]) -> bytes | None:
    """Join the contents of files, adding a newline to each that does not end in one and is not the last."""
    whole = b""
    for part in parts:
        if part is None:
            return None
        if part and whole and not whole.endswith((b"\n", b"\r")):
            whole += b"\n"
        whole += part
    return whole


# Cases


def corpus_case(case: Case, models: dict[str, LanguageModel]) -> bool:
    """Read a damaged text with each tokenizer; return whether any succeeded."""
    random = case.random
    given = draw(case)
    if given.paths is not None and random.random() < 0.15:
        return ask(case, given)
    found = []
    for name in models:
        line_ends = random.choice((None, None, None, "lf", "keep"))
        source = given.source()
        try:
            found.append(_read(random, source, given, name, line_ends, models[name]))
        finally:
            if hasattr(source, "close"):
                source.close()
    return any(found)


def _read(random: Random, source: Any, given: Given, name: str, line_ends: str | None, model: LanguageModel) -> bool:
    text = expected(given, name, line_ends)
    try:
        opened = open_source(source)
        assert isinstance(opened, Text)
        tokenizer = learn_tokenizer(opened, TextConfig(name, line_ends=line_ends))
        corpus = read_corpus(opened, tokenizer)
    except CorpusError:
        assert not text or not given.known, f"{name}: a valid text was rejected"
        return False
    assert text or not given.known, f"{name}: an invalid text was read"
    if not given.known:
        return True
    assert corpus.unknown == (words_of(text).count("<unk>") if name == "word" and isinstance(text, str) else 0)
    if isinstance(text, bytes):
        assert corpus.ids.tobytes() == text and isinstance(tokenizer, ByteTokenizer)
    else:
        assert text is not None
        assert (corpus.characters, corpus.bytes) == (len(text), len(text.encode("utf-8", "surrogatepass")))
        if name == "word":  # decoding restores no white space but newlines
            text = "\n".join(" ".join(words_of(line)) for line in text.split("\n"))
        assert (tokenizer.decode(corpus.ids) if len(text) < SHORT else _decode(tokenizer, corpus.ids)) == text
    if random.random() < 0.03 and len(corpus.ids) > 1:
        _work(random, opened, len(corpus.ids), name, model)
    return True


def _decode(tokenizer: Any, ids: np.ndarray) -> str:
    """Like ``tokenizer.decode``, but faster."""
    text = tokenizer.separator.join(map([tokenizer.vocabulary.symbols[0], "\n", *tokenizer.vocabulary.symbols[2:]].__getitem__, ids.tolist()))
    return re.sub(" ?\n ?", "\n", text) if tokenizer.separator else text


def _work(random: Random, text: Text, size: int, name: str, model: LanguageModel) -> None:
    """Split the text, train on it, and evaluate on it."""
    front, back = split(text, 0.3)
    if back is not None:
        assert b"".join(front.pieces()) + b"".join(back.pieces()) == b"".join(text.pieces())
    model = random.choice((LanguageModel(tokenizer=name, **SMALL), copy.deepcopy(model)))
    steps = max(1, (size - 1) // 8)  # one update, or a few
    try:
        model.fit(text, epochs=1, streams=8, steps=min(steps, 100), verbose=0)
        assert np.isfinite(model.evaluate(text).nats)
    except CorpusError as error:
        assert "expected at least 2" in str(error)


def expected(given: Given, name: str, line_ends: str | None) -> bytes | str | None:
    """The text as this tokenizer reads it; empty or None if it must be rejected."""
    if given.data is None:
        return None
    try:
        rule = "byte" if (line_ends or ("keep" if name == "byte" else "lf")) == "keep" else "char"
        text = as_read(given.data if name == "byte" else given.data.decode("utf-8", given.errors), rule)
    except ValueError:
        return None
    return text if name != "word" or words_of(text) or "\n" in text else None


def ask(case: Case, given: Given) -> bool:
    """Run a command on the text."""
    random, paths = case.random, given.paths or []
    backend = ["--threads", "1", "--backend", "cpu"]
    model = f"../{random.choice(('char', 'word', 'byte'))}.npz"
    more = ["--encoding", given.encoding] if given.encoding != "utf-8" else []
    training = ["--out", "out.npz", "--epochs", "1", "--streams", "2", "--steps", "50", "--hidden", "2", "--layers", "1", "--embedding", "2",
                "--verbose", random.choice("02"), "--tokenizer", random.choice(("char", "word", "byte"))]
    case.files.add("out.npz")
    command = random.choice((
        ["eval", model, *paths, *more], ["eval", model, *paths, "--json", "--unknown", "exclude", *more], ["score", model, *paths, *more],
        ["score", model, *paths, "--per-token", *more], ["score", model, *paths, "--json", "--unknown", "penalize", *more],
        ["score", model, "-"], ["train", *paths, *training, *more],
    ))  # fmt: skip
    data = Path(paths[0]).read_bytes() if paths and os.path.isfile(paths[0]) else b""
    return case.run(*command, *backend, stdin=data)


def line_case(case: Case, models: dict[str, LanguageModel]) -> bool:
    """Learn, read and score a file with one line of 100 MB; a file with one word of that size must be rejected."""
    many = "word " * 20_000
    for name, tokens in (("char", 10**8), ("byte", 10**8), ("word", 2 * 10**7)):
        path = _line(case, many)
        corpus = read_corpus(path, learn_tokenizer(path, TextConfig(name)))
        assert (len(corpus.ids), corpus.bytes, corpus.unknown) == (tokens, 10**8, 0)
        assert np.isfinite(models[name].score(many))
    try:
        learn_tokenizer(_line(case, "w" * 100_000), TextConfig("word"))
    except CorpusError:
        return True
    raise AssertionError("a word of 100 MB was accepted")


def _line(case: Case, piece: str) -> str:
    path = case.put("line.txt", b"")
    with open(path, "w", encoding="ascii") as file:
        file.writelines([piece] * 1000)
    return path
