"""Every source yields the same text: files, pipes, compressed files, lines, columns; with any byte order marks and line endings."""

import bz2
import codecs
import gzip
import io
import lzma
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import unicodedata
import warnings
import zipfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import zstandard
from checks import HANG
from hypothesis import example, given
from hypothesis import strategies as st
from models import as_read, fit, trained, untrained

import numba_rnnlm
from numba_rnnlm import LanguageModel
from numba_rnnlm.cli import main
from numba_rnnlm.config import TextConfig
from numba_rnnlm.errors import ConfigError, CorpusError, ShapeError, VocabularyError
from numba_rnnlm.text import (
    ByteTokenizer,
    Files,
    Tokenizer,
    cleaning,
    corpus,
    hints,
    learn_tokenizer,
    open_source,
    packed,
    read_corpus,
    sentences,
    sources,
    split,
)

TOKENIZERS = ("char", "word", "byte")
TEXT = "the cat sees the dog\nthe dog sees the cat\n" * 40
SMALL = ["--hidden", "8", "--layers", "1", "--embedding", "4", "--streams", "4", "--steps", "10", "--epochs", "2", "--verbose", "0",
         "--backend", "cpu", "--validation-split", "0"]
HOME = os.pathsep.join(filter(None, [str(Path(numba_rnnlm.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
pytestmark = [pytest.mark.filterwarnings("ignore:.* carriage returns "), pytest.mark.filterwarnings("ignore:.* not in the model's vocabulary")]


class Column:
    """A column like pandas's: indexed by label, and convertible to an array."""

    def __init__(self, values):
        self.values = np.array(values, object)

    def __array__(self, dtype=None, copy=None):
        return self.values

    def __getitem__(self, label):
        raise KeyError(label)


def lines_of(text):
    return text.removesuffix("\n").split("\n")


@contextmanager
def served(path, data):
    """Make a FIFO at ``path`` that delivers ``data`` once."""
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: Path(path).write_bytes(data), daemon=True)
    writer.start()
    yield path
    writer.join(HANG)


FORMS = {  # name → function of text and folder that makes a source of the text
    "str": lambda text, folder: text,
    "bytes": lambda text, folder: text.encode(),
    "bytearray": lambda text, folder: bytearray(text.encode()),
    "path": lambda text, folder: file(folder, "t.txt", text.encode()),
    "name": lambda text, folder: str(file(folder, "t.txt", text.encode())),
    "gz": lambda text, folder: file(folder, "t.txt.gz", gzip.compress(text.encode())),
    "gz without a suffix": lambda text, folder: file(folder, "t", gzip.compress(text.encode())),
    "gz, two members": lambda text, folder: file(folder, "t.gz", b"".join(gzip.compress(half.encode()) for half in halves(text))),
    "bz2": lambda text, folder: file(folder, "t.txt.bz2", bz2.compress(text.encode())),
    "xz": lambda text, folder: file(folder, "t.txt.xz", lzma.compress(text.encode())),
    "lzma": lambda text, folder: file(folder, "t.txt.lzma", lzma.compress(text.encode(), lzma.FORMAT_ALONE)),
    "zst": lambda text, folder: file(folder, "t.txt.zst", b"".join(zstandard.compress(half.encode()) for half in halves(text))),
    "open": lambda text, folder: file(folder, "t.txt", text.encode()).open("rb"),
    "open as text": lambda text, folder: file(folder, "t.txt", text.encode()).open(encoding="utf-8", newline=""),
    "open gz": lambda text, folder: gzip.GzipFile(file(folder, "t.txt.gz", gzip.compress(text.encode()))),
    "open, packed": lambda text, folder: io.BytesIO(bz2.compress(text.encode())),
    "from the current position": lambda text, folder: sought(io.BytesIO(b"header\n" + text.encode()), 7),
    "StringIO": lambda text, folder: io.StringIO(text, newline=""),
    "list": lambda text, folder: lines_of(text),
    "tuple with newlines": lambda text, folder: tuple(text.splitlines(keepends=True)),
    "list of bytes": lambda text, folder: [line.encode() for line in lines_of(text)],
    "generator": lambda text, folder: (line for line in lines_of(text)),
    "map": lambda text, folder: map(str, lines_of(text)),
    "array": lambda text, folder: np.array(lines_of(text)),
    "array of bytes": lambda text, folder: np.array([line.encode() for line in lines_of(text)]),
    "array of objects": lambda text, folder: np.array(lines_of(text), object),
    "column": lambda text, folder: Column(lines_of(text)),
    "a mark": lambda text, folder: file(folder, "t.txt", codecs.BOM_UTF8 + text.encode()),
    "a mark in a list": lambda text, folder: ["\ufeff" + line if not number else line for number, line in enumerate(lines_of(text))],
    "a mark in each of two files": lambda text, folder: [
        file(folder, f"{number}.txt", codecs.BOM_UTF8 + half.encode()) for number, half in enumerate(halves(text))],
    "joined by cat": lambda text, folder: file(folder, "t.txt", b"".join(codecs.BOM_UTF8 + half.encode() for half in halves(text))),
    "two files, the first without a final newline": lambda text, folder: [
        file(folder, f"{number}.txt", half.removesuffix("\n" * (not number)).encode()) for number, half in enumerate(halves(text))],
    "a generator of paths": lambda text, folder: (file(folder, f"{number}", half.encode()) for number, half in enumerate(halves(text))),
    "a folder": lambda text, folder: two_folders(folder, text),
    "UTF-16": lambda text, folder: Files(file(folder, "t.txt", text.encode("utf-16")), "utf-16"),
    "UTF-16 without a mark": lambda text, folder: Files(file(folder, "t.txt", text.encode("utf-16-be")), "utf-16-be"),
    "CRLF": lambda text, folder: file(folder, "t.txt", text.replace("\n", "\r\n").encode()),
    "CR": lambda text, folder: text.replace("\n", "\r").encode(),
    "CRLF, a list": lambda text, folder: text.replace("\n", "\r\n").splitlines(keepends=True),
    "CRLF, gz, a mark": lambda text, folder: file(folder, "t", gzip.compress(codecs.BOM_UTF8 + text.replace("\n", "\r\n").encode())),
}  # fmt: skip


def file(folder, name, data):
    (Path(folder) / name).parent.mkdir(exist_ok=True)
    (Path(folder) / name).write_bytes(data)
    return Path(folder) / name


def halves(text):
    """The first half of the lines, and the second."""
    lines = text.splitlines(keepends=True)
    return "".join(lines[: len(lines) // 2]), "".join(lines[len(lines) // 2 :])


def sought(opened, place):
    opened.seek(place)
    return opened


def two_folders(folder, text):
    first, second = halves(text)
    file(folder, "texts/.hidden", b"not this")
    file(folder, "texts/a", first.encode())
    file(folder, "texts/b/b.gz", gzip.compress(second.encode()))
    return Path(folder) / "texts"


@cache
def model_of(tokenizer):
    return fit(untrained(hidden=5, embedding=3, tokenizer=tokenizer, line_ends="lf"), TEXT)


clean_texts = st.lists(st.text(st.sampled_from("the catdog é中😀\u00a0\t,"), max_size=12).filter(str.strip), min_size=2, max_size=6).map(
    lambda lines: "\n".join(lines) + "\n")


# All sources yield the same text


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@given(text=clean_texts, chunk=st.integers(1, 50))
def test_all_sources_yield_the_same_text(tokenizer, text, chunk):
    model, config = model_of(tokenizer), TextConfig(tokenizer, line_ends="lf")
    want = learn_tokenizer(text, config)
    ids, found, scores = read_corpus(text, want).ids.tolist(), model.evaluate(text, unknown="count"), model.score(lines_of(text))
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(packed, "CHUNK", chunk)
        for name, form in FORMS.items():
            with tempfile.TemporaryDirectory() as folder:
                opened = open_source(form(text, folder))
                assert learn_tokenizer(opened, config) == want, name
                assert read_corpus(opened, want).ids.tolist() == ids, name
                assert model.evaluate(opened) == found, name
            if name not in ("str", "bytes", "bytearray", "name", "CR"):  # score reads these as one sentence
                with tempfile.TemporaryDirectory() as folder:
                    assert model.score(form(text, folder)).tolist() == scores.tolist(), name


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_training_and_validation_do_not_depend_on_the_kind_of_source(tokenizer, tmp_path):
    text = TEXT + "né 中\n"
    weights, numbers = set(), set()
    for number, form in enumerate(FORMS.values()):
        (tmp_path / str(number)).mkdir()
        model = fit(untrained(hidden=3, embedding=2, tokenizer=tokenizer, line_ends="lf"), form(text, tmp_path / str(number)), epochs=1,
                    valid=form(text, tmp_path / str(number)))
        weights.add(b"".join(array.tobytes() for array in model.network_.weights().values()))
        numbers.add(model.history_["valid_loss"][0])
    assert len(weights) == len(numbers) == 1


COMMAND_LINE = {  # name → function of the data that makes files, arguments and standard input for it
    "file": lambda data: ({"t.txt": data}, ["t.txt"], b""),
    "gz": lambda data: ({"t.txt.gz": gzip.compress(data)}, ["t.txt.gz"], b""),
    "xz on a pipe": lambda data: ({}, ["-"], lzma.compress(data)),
    "pipe": lambda data: ({}, ["-"], data),
    "two files": lambda data: ({"a": data[: data.index(b"\n")], "b": data[data.index(b"\n") + 1 :]}, ["a", "b"], b""),
    "a file and a pipe": lambda data: ({"a": data[: data.index(b"\n")]}, ["a", "-"], data[data.index(b"\n") + 1 :]),
    "folder": lambda data: ({"x/a": data[: data.index(b"\n")], "x/b/c": data[data.index(b"\n") + 1 :]}, ["x"], b""),
    "CRLF": lambda data: ({"t.txt": data.replace(b"\n", b"\r\n")}, ["t.txt"], b""),
    "CR, a mark": lambda data: ({"t.txt": codecs.BOM_UTF8 + data.replace(b"\n", b"\r")}, ["t.txt"], b""),
    "UTF-16": lambda data: ({"t.txt": data.decode().encode("utf-16")}, ["t.txt", "--encoding", "utf-16"], b""),
}  # fmt: skip


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_every_command_reads_all_sources_alike(tokenizer, tmp_path, capsys, monkeypatch):
    model_of(tokenizer).save(tmp_path / "model.npz")
    text, answers = TEXT + "the né\n", set()
    for number, (name, form) in enumerate(COMMAND_LINE.items()):
        files, arguments, data = form(text.encode())
        for path, content in files.items():
            (tmp_path / str(number) / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / str(number) / path).write_bytes(content)
        (tmp_path / str(number)).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / str(number))
        outputs = []
        for begin, end in ((["train", "--from"], ["--out", "out.npz", *SMALL[6:]]), (["eval"], ["--json"]), (["score"], ["--json"])):
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
            assert main([*begin, "../model.npz", *arguments, *end]) == 0
            outputs.append(capsys.readouterr().out)
        answers.add((*outputs, Path("out.npz").read_bytes()))
        assert len(answers) == 1, name


# Shell scripts, in real processes

SHELL = """
set -e
cd {0}
run() {{ {1} -m numba_rnnlm "$@"; }}
printf 'the cat sees the dog\\nthe dog sees the cat\\n%.0s' {{1..40}} > t.txt
S="{2}"
"""


def shell(folder, script):
    start = SHELL.format(folder, sys.executable, " ".join(SMALL))
    done = subprocess.run(["bash", "-c", start + script], capture_output=True, timeout=HANG, env={**os.environ, "PYTHONPATH": HOME})
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().splitlines(), done.stderr.decode()


def test_shell_pipes_are_read_once(tmp_path):
    _, err = shell(tmp_path, """
        cat t.txt t.txt > both.txt; mkfifo pipe
        run train both.txt --valid <(head t.txt) $S --out file.npz
        run train <(cat t.txt t.txt) --valid <(head t.txt) $S --out substituted.npz
        (cat t.txt t.txt > pipe) & run train pipe --valid <(head t.txt) $S --out fifo.npz
        cat t.txt t.txt | run train /dev/stdin --valid <(head t.txt) $S --out stdin.npz
        sed 's/$/\\r/' both.txt | gzip | run train - --valid <(head t.txt) $S --out compressed.npz
    """)
    assert len({(tmp_path / f"{name}.npz").read_bytes() for name in ("file", "substituted", "fifo", "stdin", "compressed")}) == 1
    assert err.count("has 160 carriage returns (\\r): the line ends \\r\\n and \\r are read as \\n") == 1


# Files


@pytest.mark.parametrize(("name", "data", "message"), [
    ("t.zip", b"PK\x03\x04", "is a zip archive, which is not supported; unpack it"), ("t", b"7z\xbc\xaf\x27\x1c", "is a 7z archive"),
    ("t.lz4", b"\x04\x22\x4d\x18", "is compressed by lz4"),
    ("t.gz", b"the cat\n", "its name says that it is compressed, but it does not begin as gzip"), ("t.zst", b"\x1f", "does not begin as"),
    ("t.gz", gzip.compress(TEXT.encode())[:-10], "ended before"), ("t.bz2", bz2.compress(TEXT.encode())[:-10], "ended before"),
    ("t.xz", lzma.compress(TEXT.encode())[:-10], "ended before"), ("t.zst", zstandard.compress(TEXT.encode())[:-10], "ended before"),
    ("t.gz", gzip.compress(TEXT.encode())[:20] + b"\xff" * 30, "Cannot read the file"),
    ("t", b"\x28\xb5\x2f\xfd" + b"\xff" * 30, "Cannot read the file"),
], ids=lambda value: value if isinstance(value, str) else len(value))
@pytest.mark.parametrize("tokenizer", ["byte", "char"])
def test_compressed_files_that_cannot_be_read(name, data, message, tokenizer, tmp_path):
    with pytest.raises(CorpusError, match=message) as caught:
        trained(tokenizer).evaluate(file(tmp_path, name, data + b"more than a few bytes of it" * (len(data) < 8)))
    assert repr(str(tmp_path / name)) in str(caught.value)


def test_decompressing_a_file_without_enough_memory(tmp_path, monkeypatch):
    class Greedy(lzma.LZMAFile):
        def read(self, size=-1):
            raise MemoryError

    monkeypatch.setitem(packed.UNPACKERS, ".xz", Greedy)
    with pytest.raises(CorpusError, match=r"t.xz': not enough memory to decompress it. Close other programs, or decompress it first"):
        trained("char").evaluate(file(tmp_path, "t.xz", lzma.compress(TEXT.encode())))


def test_compressed_archives_are_rejected(tmp_path):
    file(tmp_path, "t.txt", TEXT.encode())
    with tarfile.open(tmp_path / "t.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "t.txt", "t.txt")
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.write(tmp_path / "t.txt")
    for name, kind in (("t.tar.gz", "a tar archive"), ("t.zip", "a zip archive")):
        with pytest.raises(CorpusError, match=kind):
            trained("byte").evaluate(tmp_path / name)


def test_zstd_without_its_package(tmp_path, monkeypatch):
    path = file(tmp_path, "t.zst", zstandard.compress(TEXT.encode()))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    with pytest.raises(CorpusError, match=r"pip install 'numba-rnnlm\[zstd\]'"):
        trained("char").evaluate(path)


def test_a_decompression_bomb_takes_little_memory(tmp_path):
    path = file(tmp_path, "t.zst", zstandard.compress(bytes(10**8)))
    assert len(path.read_bytes()) < 20_000
    assert max(map(len, open_source(path).pieces())) < 60 * 2**20


def test_folders(tmp_path):
    for name in ("b", "a/z", "a/.git/x", "a.txt", ".hidden"):
        path = tmp_path / "texts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n")
    os.mkfifo(tmp_path / "texts" / "pipe")  # opening it would block forever
    (tmp_path / "texts" / "loop").symlink_to(tmp_path / "texts")
    assert b"".join(open_source(tmp_path / "texts").pieces()) == b"a/z\na.txt\nb\n"
    (tmp_path / "texts" / "lost").symlink_to("nowhere")
    with pytest.raises(CorpusError, match="lost': No such file"):
        open_source(tmp_path / "texts")
    (tmp_path / "empty" / ".x").mkdir(parents=True)
    with pytest.raises(CorpusError, match="empty' contains no files"):
        open_source(tmp_path / "empty")


def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    def walk(name, onerror, followlinks):
        onerror(PermissionError(13, "Permission denied", name))

    monkeypatch.setattr(os, "walk", walk)
    with pytest.raises(CorpusError, match="Permission denied"):
        open_source(tmp_path)


@pytest.mark.parametrize(("opened", "message"), [
    (lambda path: path.open("ab"), "not readable|read"), (lambda path: closed(path.open("rb")), "closed file"),
    (lambda path: path.open(encoding="ascii"), "can't decode byte 0xc3"), (lambda path: io.TextIOWrapper(io.BytesIO(b"\xff"), "utf-8"), "decode"),
])
def test_open_files_that_cannot_be_read(opened, message, tmp_path):
    with pytest.raises(CorpusError, match=message):
        open_source(opened(file(tmp_path, "t.txt", "né\n".encode())))


def closed(opened):
    opened.close()
    return opened


def test_a_non_blocking_pipe_is_rejected():
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.write(writing, b"the cat\n")
    with open(reading, "rb") as pipe, pytest.raises(CorpusError, match="it is in non-blocking mode"):
        open_source(pipe)
    os.close(writing)


def test_no_disk_space_for_a_copy(monkeypatch):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "SpooledTemporaryFile", lambda size: Full())
    with pytest.raises(CorpusError, match=r"Cannot write the temporary copy .*: No space left on device\. Set TMPDIR to a folder"):
        open_source(iter(["the cat"]))


def test_closed_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(CorpusError, match="standard input is closed"):
        Files("-").open()


def test_an_empty_source_is_rejected():
    used = iter(["to be"])
    list(used)
    with pytest.raises(CorpusError, match="yields no lines, expected some text; a generator can be read only once"):
        fit(untrained(), used)
    with pytest.raises(CorpusError, match="The corpus is empty, expected some text"):
        fit(untrained(), [])
    with pytest.raises(CorpusError, match=r"item 0 of the list is \['to', 'be'\], expected a line of text"):
        fit(untrained(), [["to", "be"], ["or", "not"]])


@pytest.mark.filterwarnings("ignore:the run in .* had ended")
def test_models_may_be_stored_beside_the_text(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text(TEXT)
    alone = fit(untrained(), folder)
    first = fit(untrained(), folder, checkpoint=folder / "run.npz")
    first.save(folder / "model.npz")
    (folder / "run.npz.lock").write_text("{}")
    again = fit(untrained(), folder, resume=folder / "run.npz")
    assert alone.tokenizer_ == first.tokenizer_ == again.tokenizer_ and b"".join(open_source(folder).pieces()) == TEXT.encode()


@pytest.mark.parametrize("paths", [[], 5, b"t.txt", ["t.txt", None], [b"t.txt"]])
def test_files_accepts_paths_only(paths):
    with pytest.raises(ConfigError, match=r"paths is .*, expected a path or a list of paths"):
        Files(paths)


def test_a_pipe_cannot_serve_as_two_texts(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    for texts in (["pipe", "--valid", "./pipe"], ["pipe", "pipe"], ["-", "--valid", "/dev/stdin"]):
        assert main(["train", *texts]) == 2
        assert " named twice, but can be read only once" in capsys.readouterr().err


def test_standard_input_cannot_serve_as_two_texts(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "-", "--valid", "-"]) == 2
    assert "standard input, -, is named twice" in capsys.readouterr().err


# Encodings


@pytest.mark.parametrize("encoding", ["no such", "base64", "", None, 3])
def test_unknown_encodings_are_rejected(encoding):
    with pytest.raises(ConfigError, match=r"encoding is .*, expected one that Python knows"):
        Files("t.txt", encoding)


@pytest.mark.parametrize(("data", "message"), [
    ("the né\n".encode("utf-16"), "It looks like UTF-16: give encoding='utf-16'"), ("né\n".encode("utf-32"), "encoding='utf-32'"),
    (("é" + "the cat\n" * 40).encode("latin-1"), "It may be cp1252"), (b"\xff\x00\x01", "It looks like binary data"),
    (b"\xe9" + ("the cat\n" * 40).encode("utf-16-le"), "encoding='utf-16-be'"),
    (("the cat\n" * 40 + "é").encode("utf-32-le"), "It looks like UTF-32: give encoding='utf-32'"),
])
def test_the_error_suggests_an_encoding(data, message, tmp_path, capsys):
    path = file(tmp_path, "t.txt", data)
    with pytest.raises(CorpusError, match="is not UTF-8: the byte at offset") as caught:
        trained("char").evaluate(path)
    assert message in str(caught.value)
    trained("char").save(tmp_path / "m.npz")
    assert main(["eval", str(tmp_path / "m.npz"), str(path)]) == 1
    assert message.replace("encoding='", "--encoding ").rstrip("'") in capsys.readouterr().err


def test_a_text_that_is_not_in_the_given_encoding(tmp_path):
    with pytest.raises(CorpusError, match=r"t.txt' is not in the encoding 'utf-16-le': .*truncated"):
        read_corpus(Files(file(tmp_path, "t.txt", b"abc"), "utf-16-le"), ByteTokenizer())


def test_zero_bytes_cause_a_warning(tmp_path):
    for tokenizer in ("byte", "char"):
        with pytest.warns(UserWarning, match="has many bytes that are zero. It looks like UTF-16-LE"):
            learned = learn_tokenizer("a\n", TextConfig(tokenizer))
            read_corpus(file(tmp_path, "t.txt", TEXT.encode("utf-16-le")), learned)


def test_a_text_that_changes_while_it_is_read(tmp_path):
    path, contents = tmp_path / "t.txt", iter([b"\xff", b"good\n"])

    def read():
        yield next(contents)

    text = sources.Text(str(path), [sources.Part(str(path), read)])
    with pytest.raises(CorpusError, match="is not UTF-8, or changed while it was being read"):
        learn_tokenizer(text, TextConfig())


# Byte order marks and line endings


@given(st.lists(st.sampled_from([b"\xef", b"\xbb", b"\xbf", b"\xef\xbb\xbf", b"\r", b"\n", b"a", "中".encode()]), max_size=12),
       st.integers(1, 16))
@example([b"\xef\xbb\xbf", b"\xef\xbb\xbf", b"a", b"\r", b"\n", b"\xef\xbb\xbf", b"\xef", b"\xbb"], 1)
@example([b"abcdefgh", b"\xef\xbb\xbf", b"\n", b"\xef\xbb\xbf", b"a"], 8)  # a mark to keep at the start of a piece, and one to remove
@example([b"\xef", b"\n", b"\xef\xbb\xbf", b"a"], 16)  # the first byte of a mark, then a whole one
def test_marks_and_line_endings_do_not_depend_on_the_pieces(parts, size):
    data = b"".join(parts)
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    assert b"".join(cleaning.without_marks(pieces)) == as_read(data, "byte") == cleaning.clean(data, "keep")
    assert b"".join(cleaning.with_line_ends(pieces, "lf")) == data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cleaning, "FEW", 1)
        assert b"".join(cleaning.without_marks(pieces)) == as_read(data, "byte")


@given(parts=st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\n\n", b"\r"])), size=st.integers(1, 9))
def test_lines_do_not_depend_on_the_pieces(parts, size):
    data = b"".join(parts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "CHUNK", size)
        patch.setattr(sources, "SLICE", 3)
        patch.setattr(sources, "LINES", 2)
        batches = list(open_source(data).lines("keep"))
    assert all(0 < len(lines) <= 2 for lines in batches)
    found = [line for lines in batches for line in lines]
    assert found == (data + b"\n" * (not data.endswith(b"\n"))).split(b"\n")[:-1] * (data != b"")


@given(st.text(st.sampled_from("\ufeff\r\na中"), max_size=12))
def test_a_str_is_cleaned_like_bytes(text):
    for rule in ("lf", "keep"):
        assert cleaning.clean(text, rule).encode() == cleaning.clean(text.encode(), rule)


def test_a_mark_at_the_start_of_a_line_is_never_a_symbol():
    model = trained("char")
    assert model.score("\ufeffto be") == model.score("to be") == model.score(["\ufeffto be", "or"])[0]
    assert model.generate("\ufeffto be", 5, seed=1) == model.generate("to be", 5, seed=1)
    assert "\ufeff" not in learn_tokenizer("to be\n\ufeffor not\n", TextConfig()).vocabulary
    assert "\ufeff" in learn_tokenizer("to \ufeffbe\n", TextConfig()).vocabulary  # inside a line it is a symbol


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_the_rule_for_line_endings_is_saved_with_the_model(tokenizer, tmp_path):
    crlf = TEXT.replace("\n", "\r\n")
    for rule in ("lf", "keep"):
        model = fit(untrained(hidden=3, embedding=2, tokenizer=tokenizer, line_ends=rule), crlf)
        model.save(tmp_path / "m.npz")
        loaded = LanguageModel.load(tmp_path / "m.npz")
        assert loaded.tokenizer_ == model.tokenizer_ and loaded.tokenizer_.line_ends == rule
        same = loaded.evaluate(crlf) == loaded.evaluate(TEXT)
        assert same == (rule == "lf") or tokenizer == "word"  # to the word tokenizer, \r is white space
        assert (loaded.score("a\r\nb") == loaded.score("a\nb")) == (rule == "lf") or tokenizer == "word"


def test_carriage_returns_cause_one_warning():
    crlf = TEXT.replace("\n", "\r\n")
    for tokenizer, message in (("char", "are read as"), ("byte", "they are kept, as symbols")):
        with pytest.warns(UserWarning, match=rf"text has 80 carriage returns \(\\r\): .*{message}") as caught:
            fit(untrained(tokenizer=tokenizer), crlf, crlf)
        assert len(caught) == 1 and caught[0].filename.endswith("models.py")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(untrained(line_ends="lf"), crlf)
        fit(untrained(), TEXT)


def test_version_1_tokenizers_read_text_as_before():
    words = Tokenizer.from_dict({"name": "word", "symbols": ["<unk>", "<eos>", "a", "b"]})
    assert words.encode("a\u00a0b\x1fa").tolist() == [2, 3, 2] and list(words.unknown_symbols("a\u00a0c")) == [(2, "c")]
    assert words.first("\u00a0a\u00a0b") == "\u00a0a".encode()
    assert (words.line_ends, Tokenizer.from_dict(words.to_dict())) == ("lf", words)
    char = [Tokenizer.from_dict({"name": "char", "symbols": ["<unk>", "\n", *more]}).line_ends for more in ("a", "\r")]
    assert char == ["lf", "keep"] and Tokenizer.from_dict({"name": "byte"}).line_ends == "keep"
    for damaged in ({"name": "byte", "line_ends": "crlf"}, {"name": "word", "symbols": ["<unk>", "<eos>"], "white_space": ["ascii"]}):
        with pytest.raises(VocabularyError, match=r"The tokenizer's \w+ is .*, expected"):
            Tokenizer.from_dict(damaged)


# Lines, columns, sentences


@pytest.mark.parametrize(("source", "message"), [
    (3, "The corpus is 3, expected a path"), (None, "The corpus is None, "), ({"a": 1}, "The corpus is {'a': 1}, "), ({"a", "b"}, "a set, which has no order"),
    (["a", None], "item 1 of the list is None, expected a line of text \\(str or bytes\\)"), ([float("nan"), "a"], "item 0 of the list is nan"),
    (Column(["a", float("nan")]), "item 1 of the Column is nan"), (np.array(["a", 3], object), "item 1 of the ndarray is 3"),
    (np.array([["a"], ["b"]]), r"has type ndarray and shape \(2, 1\), expected one column"), (iter(["a", 1]), "item 1 of the list_iterator is 1"),
    ([Path(__file__), "a"], "item 1 of the list is 'a', expected a path"), ([["a", "b"], "c"], r"item 0 of the list is \['a', 'b'\]"),
])
def test_sources_that_are_not_text(source, message):
    with pytest.raises(CorpusError, match=message):
        learn_tokenizer(source, TextConfig())


def test_sentences_come_from_any_source(tmp_path):
    model, lines = trained("char"), ["to be", "or not", "to"]
    want = model.score(lines)
    data = "\n".join(lines).encode()
    for many in (np.array(lines), Column(lines), iter(lines), [line.encode() for line in lines], [line + "\r\n" for line in lines],
                 io.BytesIO(data), io.StringIO(data.decode()), file(tmp_path, "t", data), [tmp_path / "t"], Files(tmp_path / "t"),
                 [bytearray(line.encode()) for line in lines], file(tmp_path, "t.gz", gzip.compress(data))):
        assert model.score(many).tolist() == want.tolist()
    assert [sum(score.log_probability for score in scores) for scores in model.full_scores(iter(lines))] == pytest.approx(want.tolist())
    generated = model.generate(lines, 5, seed=1)
    assert model.generate(np.array(lines), 5, seed=1) == model.generate(io.StringIO(data.decode()), 5, seed=1) == generated
    assert model.generate(io.BytesIO(data), 5, seed=1) == model.generate(tmp_path / "t", 5, seed=1) == [text.encode() for text in generated]
    assert sentences(io.StringIO("a\ud800\r\nb"), "lf") == (True, ["a\ud800", "b"])
    assert model.score(b"to be") == model.score("to be") == model.score(bytearray(b"to be\n")) == want[0]
    assert sentences(range(3), "lf") == (False, [range(3)]) and sentences(np.array([1, 2]), "lf")[0] is False
    assert model.score(iter([1, 2, 3])) == model.score([1, 2, 3])
    for wrong in ({"to": 1}, {"to"}, None, 2.5):
        with pytest.raises(ShapeError):
            model.score(wrong)
    with pytest.raises(ShapeError, match="sentence 1 is nan, expected a str, bytes, or an array of ids"):
        model.score(Column(["to", float("nan")]))


def test_file_names_read_as_text_cause_a_warning(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("t.txt", "u.txt"):
        Path(name).write_text("to be\nor not\n")
    model = trained("char")
    for call, message in (
        (lambda: model.score("t.txt"), r"'t.txt' is read as text, but a file of that name exists; pass pathlib.Path\('t.txt'\)"),
        (lambda: model.score(["t.txt", "u.txt"]), "file names such as 't.txt' are read as sentences"),
        (lambda: model.generate("t.txt", unknown="unk"), "is read as text"),
        (lambda: open_source(["t.txt", "u.txt"]), "the strings of the list are read as lines of text, but 't.txt' is the name of a file"),
        (lambda: open_source(iter(["t.txt", "u.txt"])), "but 't.txt' is the name of a file"),
        (lambda: open_source("t.txt\n"), r"'t.txt\\n' is read as text, because it contains a newline"),
    ):
        with pytest.warns(UserWarning, match=message):
            call()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(model.score(Path("t.txt"))) == 2
        open_source(["t.txt", "and more"])
        open_source("t.txt")


# Splitting off validation text


@given(st.text(st.sampled_from("ab \r\n中"), min_size=300, max_size=600), st.floats(0.05, 0.95), st.integers(1, 200))
def test_a_text_is_split_at_the_end_of_a_line(text, part, near):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "NEAR", near)
        front, back = split(text + "\n", part)
    data = [b"".join(half.pieces()) for half in (front, back) if half is not None]
    assert b"".join(data) == (text + "\n").encode()
    if back is not None:
        assert min(map(len, data)) >= sources.LEAST
        assert not (data[0].endswith(b"\r") and data[1].startswith(b"\n"))
        assert data[1].decode()  # no character is split
        assert abs(len(data[1]) - part * sum(map(len, data))) <= near + 4
        target = len(text.encode()) + 1 - round((len(text.encode()) + 1) * part)
        if b"\n" in (text + "\n").encode()[max(0, target - near) : target]:
            assert data[0].endswith((b"\n", b"\r"))


def test_a_text_without_newlines_is_split_at_white_space_or_between_characters():
    for text, end in (("word " * 200, " "), ("中" * 400, "中"), ("a" * 2000, "a")):
        front, back = split(text.encode(), 0.25)
        pieces = [b"".join(half.pieces()).decode() for half in (front, back)]
        assert "".join(pieces) == text and pieces[0].endswith(end) and len(pieces[1]) / len(text) == pytest.approx(0.25, abs=0.01)


def test_split_searches_64_kb_for_a_newline():
    line = b"a line of some words " * 2900
    front, back = split(line[:-1] + b"\n" + line, 0.25)
    assert b"".join(front.pieces()) == line[:-1] + b"\n" and b"".join(back.pieces()) == line


@pytest.mark.parametrize("source", [
    TEXT, TEXT.encode(), TEXT.split("\n")[:-1], io.StringIO(TEXT), gzip.compress(TEXT.encode()),
], ids=["str", "bytes", "list", "file", "gz"])
def test_the_end_of_a_text_is_held_out(source, tmp_path):
    if isinstance(source, bytes) and source[:2] == b"\x1f\x8b":
        source = file(tmp_path, "t.gz", source)
    front, back = TEXT[: -42 * 4], TEXT[-42 * 4 :]
    model = fit(untrained(), source, validation_split=0.1)
    same = fit(untrained(), front, back)
    assert model.history_["valid_loss"] == same.history_["valid_loss"] and model.tokenizer_ == same.tokenizer_


def test_the_end_of_ids_is_held_out():
    ids = np.arange(1000) ** 2 % 11
    for given_ids in (ids, ids.tolist()):
        model = fit(untrained(tokenizer=None, vocabulary_size=11), given_ids, validation_split=0.2)
        assert model.history_["valid_loss"] == fit(untrained(tokenizer=None, vocabulary_size=11), ids[:800], ids[800:]).history_["valid_loss"]
    with pytest.warns(UserWarning, match="ids is too short to hold out 20% of it; it is trained on as a whole"):
        fit(untrained(tokenizer=None, vocabulary_size=11), ids[:300], validation_split=0.2)


def test_the_vocabulary_ignores_the_text_held_out():
    model = fit(untrained(), TEXT + "z" * 150 + "\n", validation_split=0.1)
    assert "z" not in model.tokenizer_.vocabulary


def test_validation_split_and_validation_text_exclude_each_other():
    with pytest.raises(ConfigError, match=r"validation_split is 0\.1, but a text to validate on is given, too; leave one of them out"):
        fit(untrained(), TEXT, TEXT, validation_split=0.1)


def test_train_holds_out_the_end_by_default(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text(TEXT * 3)
    small = SMALL[:-2]
    small[small.index("--verbose") + 1] = "2"
    assert main(["train", "t.txt", *small, "--out", "m.npz"]) == 0
    assert "perplexity" in (out := capsys.readouterr().out) and "the end of the text" in out
    assert np.isfinite(LanguageModel.load("m.npz").history_["valid_loss"]).all()
    assert main(["train", "t.txt", *small, "--validation-split", "0", "--out", "whole.npz"]) == 0
    assert not np.isfinite(LanguageModel.load("whole.npz").history_["valid_loss"]).any()


# Hints


def test_a_warning_explains_why_a_text_does_not_fit_the_vocabulary():
    composed = "déjà vu à l'été, café naïf\n" * 20
    decomposed = unicodedata.normalize("NFD", composed)
    garbled = composed.encode().decode("cp1252", "replace")
    models = {text: fit(untrained(hidden=3, embedding=2), text) for text in (composed, decomposed, garbled)}
    for learned, read, message in (
        (composed, garbled, "look like UTF-8 that was read as cp1252"), (garbled, composed, "the model's training text looks like"),
        (composed, decomposed, "convert the text to NFC"), (decomposed, composed, "convert the text to NFD"),
        (TEXT, "ｔｈｅ ｃａｔ\n" * 5, "convert the text to NFKC"),
    ):
        model = models.get(learned) or fit(untrained(hidden=3, embedding=2), learned)
        for call in (model.evaluate, model.score, lambda text, model=model: model.score([text])):
            with pytest.warns(UserWarning) as caught:
                call(read)
            assert [message in str(warning.message) for warning in caught] == [True], (message, [str(warning.message) for warning in caught])
        with pytest.raises(VocabularyError, match=message):
            model.generate(read)
    words = fit(untrained(hidden=3, embedding=2, tokenizer="word"), composed)
    with pytest.warns(UserWarning, match="convert the text to NFC"):
        words.evaluate(decomposed)


def test_guessing_is_linear_in_the_number_of_combining_marks(monkeypatch):
    """Normalising is quadratic in the length of a run of marks: 2**18 took a minute for each form."""
    seen = []
    normalize = unicodedata.normalize
    monkeypatch.setattr(hints.unicodedata, "normalize", lambda form, text: seen.append(len(text)) or normalize(form, text))
    assert hints.of_unknown("e" + "\u0301\u0323" * 5_000, trained("char").tokenizer_) == ""
    assert (max(seen), sum(seen)) == (1000, 3 * 10_001)


def test_no_guess_for_text_that_is_merely_different():
    model = trained("char")
    assert hints.of_unknown("zebra, quiz; 中文 ñ", model.tokenizer_) == "" == hints.of_unknown("to be", model.tokenizer_)
    assert hints.of_bytes(b"\xe9t\xe9").startswith("It may be")
    assert hints.of_zeros(TEXT.encode()) == "" == hints.of_zeros(b"")


def test_one_cause_gives_one_warning_per_training():
    composed = "déjà vu à l'été, café naïf\n" * 20
    def model():
        return fit(untrained(hidden=3, embedding=2), composed)

    for again in (lambda: fit(model(), unicodedata.normalize("NFD", composed)), lambda: fit(model(), composed, unicodedata.normalize("NFD", composed))):
        with pytest.warns(UserWarning) as caught:
            again()
        assert ["convert the text to NFC" in str(warning.message) for warning in caught] == [True]


def test_a_word_does_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(corpus, "LONGEST_WORD", 3_000_000)
    line = b"a" * 2_500_000 + b" b\n"
    assert learn_tokenizer(line * 2, TextConfig("word")).size == 4
    message = "'bytes' has more than 3,000,000 characters without white space, which would be one word; use tokenizer='char' or"
    with pytest.raises(CorpusError, match=message):
        learn_tokenizer(b"a" * 10_000_000, TextConfig("word"))
    with pytest.raises(CorpusError, match=message):
        fit(untrained(tokenizer="word")).evaluate(b"b " + b"a" * 10_000_000)


@pytest.mark.parametrize("text", ["红楼梦是中国古典小说的高峰之一也是世界文学的经典\n" * 20, "ACGT" * 500 + "\n"])
def test_words_without_white_space_between_them_cause_a_warning(text):
    with pytest.warns(UserWarning, match=r"characters long on average, too long for words.*tokenizer='char'"):
        learn_tokenizer(text, TextConfig("word"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learn_tokenizer(TEXT, TextConfig("word"))


def test_score_and_eval_print_the_hint(tmp_path, capsys, monkeypatch):
    composed = "déjà vu à l'été, café naïf\n" * 20
    fit(untrained(hidden=3, embedding=2), composed).save(tmp_path / "m.npz")
    path = file(tmp_path, "t.txt", unicodedata.normalize("NFD", composed).encode())
    for command in ("score", "eval"):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            assert main([command, str(tmp_path / "m.npz"), str(path)]) == 0
        assert capsys.readouterr().err.count("convert the text to NFC") == 1
