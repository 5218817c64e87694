"""Input and output: UTF-8 whatever the locale, bytes unchanged, one space between words, arguments in any order."""

import codecs
import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checks import HANG, without_notice
from hypothesis import example, given
from hypothesis import strategies as st
from models import fit, trained, untrained

import numba_rnnlm
from numba_rnnlm import LanguageModel
from numba_rnnlm.cli import main, output, parser
from numba_rnnlm.errors import CorpusError, VocabularyError
from numba_rnnlm.text.cleaning import clean

HOME = str(Path(numba_rnnlm.__file__).parents[1])
RUSSIAN = "как хорошо в лесу\nв лесу темно\n"
LATIN_1 = {"PYTHONIOENCODING": "latin-1"}
NO_UTF8 = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("output")
    (folder / "ru.txt").write_text(RUSSIAN, encoding="utf-8")
    fit(untrained(), RUSSIAN * 20, epochs=20, learning_rate=0.02).save(folder / "ru.npz")
    fit(untrained(tokenizer="word"), RUSSIAN * 20).save(folder / "words.npz")
    for tokenizer in ("char", "word", "byte"):
        trained(tokenizer).save(folder / f"{tokenizer}.npz")
    return folder


@pytest.fixture(autouse=True)
def _in_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)


def process(*arguments, data=b"", stdout=subprocess.PIPE, **environment):
    """Run the command line in its own process; return (standard output, standard error)."""
    done = subprocess.run([sys.executable, "-m", "numba_rnnlm", *arguments], input=data, stdout=stdout, stderr=subprocess.PIPE,
                          env={**os.environ, "PYTHONPATH": HOME, **environment}, timeout=HANG, check=True)
    return done.stdout, without_notice(done.stderr)


# Text, in separate processes


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "cp1252"}, {"PYTHONIOENCODING": "ascii:strict"}, NO_UTF8], ids=str)
def test_a_file_gets_utf8_whatever_the_locale(environment, tmp_path):
    with (tmp_path / "out").open("wb") as file:
        process("generate", "ru.npz", "--seed", "1", "--length", "40", stdout=file, **environment)
    text = LanguageModel.load("ru.npz").generate(length=40, seed=1)
    assert (tmp_path / "out").read_bytes() == (text + "\n").encode() and not text.isascii()


def test_pipes_and_standard_error_get_utf8_too():
    out, err = process("score", "words.npz", "--per-token", data="как лось в лесу\n".encode(), **LATIN_1)
    assert [row.split("\t")[0] for row in out.decode().splitlines()] == ["как", "лось", "в", "лесу", "<eos>", ""]
    assert "'лось' (once)" in err.decode()
    out, _ = process("info", "words.npz", **LATIN_1)
    assert "'лесу'" in out.decode()


@pytest.mark.parametrize(("encoding", "shown"), [("utf-8", "лесу"), ("ascii", "\\u043b\\u0435\\u0441\\u0443")])
def test_a_terminal_keeps_its_encoding(encoding, shown):
    parent, child = pty.openpty()
    with os.fdopen(child, "wb") as terminal:
        process("info", "words.npz", stdout=terminal, PYTHONIOENCODING=encoding)
    out = b""
    with os.fdopen(parent, "rb", 0) as file:
        try:
            while piece := file.read(4096):
                out += piece
        except OSError:  # Linux raises this when the other end is closed
            pass
    assert shown in out.decode(encoding)


# Bytes, in separate processes


def test_a_byte_model_outputs_its_bytes(tmp_path):
    bytes_model = LanguageModel.load("byte.npz")
    options = {"length": 200, "seed": 1, "temperature": 3.0}
    flags = [f"--{name}={value}" for name, value in options.items()]
    want = bytes_model.generate(b"\xff", **options)
    assert len(want) == 200
    with pytest.raises(UnicodeDecodeError):
        want.decode()
    with (tmp_path / "out").open("wb") as file:
        process("generate", "byte.npz", b"\xff", *flags, stdout=file, **NO_UTF8)
    assert (tmp_path / "out").read_bytes() == b"\xff" + want
    assert process("generate", *flags, "byte.npz", "--prompt", "-", data=b"\xff")[0] == b"\xff" + want
    samples, _ = process("generate", "byte.npz", "--samples", "2", "--prompt", b"\xff", *flags)
    assert samples == b"\xff" + want + b"\n\n\xff" + bytes_model.generate(b"\xff", **options | {"seed": 2})


# Bytes, in this process


@pytest.mark.parametrize("prompt", ["né", b"n\xc3", b"\xc3\xa9\xff", b"", "to\nbe"])
def test_prompts_of_a_byte_model(prompt, monkeypatch, capsysbinary):
    data = prompt if isinstance(prompt, bytes) else prompt.encode()
    want = data + LanguageModel.load("byte.npz").generate(data, 30, seed=3)
    for typed in (["--prompt", os.fsdecode(data)], [os.fsdecode(data)]):
        assert main(["generate", "byte.npz", "--length", "30", "--seed", "3", *typed]) == 0
        assert capsysbinary.readouterr().out == want
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert main(["generate", "byte.npz", "--length", "30", "--seed", "3", "-"]) == 0
    assert capsysbinary.readouterr().out == want


def test_a_terminal_shows_bytes_as_text(monkeypatch, capsysbinary):
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: True)
    writer = output.Writer()
    for data in (b"n\xc3", b"\xa9\xff", b" \xe4\xb8"):
        writer.write(data)
    writer.end(bytes)
    assert capsysbinary.readouterr().out == "né\ufffd \ufffd\n".encode()


def test_a_stream_without_a_buffer_gets_text(monkeypatch):
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert main(["generate", "byte.npz", os.fsdecode(b"\xff"), "--length", "20", "--seed", "1"]) == 0
    assert sys.stdout.getvalue() == (b"\xff" + LanguageModel.load("byte.npz").generate(b"\xff", 20, seed=1)).decode(errors="replace") + "\n"


@pytest.mark.parametrize(("model", "prompt"), [("char.npz", b"to\xff"), ("word.npz", b"to \xc3")])
def test_other_models_reject_invalid_utf8(model, prompt, monkeypatch, capsys):
    assert main(["generate", model, os.fsdecode(prompt)]) == 1
    assert "error: the prompt is not UTF-8: " in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(prompt)))
    assert main(["generate", model, "--prompt", "-"]) == 1
    assert "error: the prompt is not UTF-8: " in capsys.readouterr().err


# Bytes in Python


@example(prompt=codecs.BOM_UTF8, length=9, seed=0)  # removed from a prompt as from a file
@example(prompt=codecs.BOM_UTF8 * 2 + b"a\n" + codecs.BOM_UTF8, length=9, seed=0)
@given(prompt=st.binary(max_size=8), length=st.integers(0, 12), seed=st.integers(0, 99))
def test_a_byte_model_accepts_and_returns_any_bytes(prompt, length, seed):
    model = trained("byte")
    generated = model.generate(prompt, length, seed=seed, temperature=5.0)
    assert isinstance(generated, bytes) and len(generated) == length
    ids = model.generate(np.frombuffer(b"\n" + clean(prompt, "keep"), np.uint8), length, seed=seed, temperature=5.0)
    assert generated == bytes(ids.tolist())
    assert b"".join(model.stream(prompt, length, seed=seed, temperature=5.0)) == generated
    for same in (bytearray(prompt), memoryview(prompt)):
        assert model.generate(same, length, seed=seed, temperature=5.0) == generated
    assert model.generate([prompt, prompt], length, seed=seed, temperature=5.0)[0] == generated
    text = prompt.decode("utf-8", "ignore")
    assert model.generate(text, length, seed=seed, as_bytes=True) == model.generate(text.encode(), length, seed=seed)
    assert model.generate(text, length, seed=seed) == (text.encode() + model.generate(text.encode(), length, seed=seed)).decode(
        "utf-8", "replace").removeprefix(text)


@pytest.mark.parametrize("tokenizer", ["char", "word"])
def test_text_models_accept_and_return_bytes(tokenizer):
    model = LanguageModel.load({"char": "ru.npz", "word": "words.npz"}[tokenizer])
    want = model.generate("в лесу", 20, seed=1)
    assert model.generate("в лесу".encode(), 20, seed=1) == model.generate("в лесу", 20, seed=1, as_bytes=True) == want.encode()
    assert b"".join(model.stream("в лесу", 20, seed=1, as_bytes=True)) == want.encode()
    ids = model.tokenizer_.encode("\nв лесу")
    assert model.generate(ids, 20, seed=1, as_bytes=True) == want.encode()
    assert model.generate(ids.tolist(), 20, seed=1).dtype == np.int32
    both = model.generate(["в лесу", "в лесу".encode()], 20, seed=1)
    assert [type(one) for one in both] == [str, bytes] and both[0] == want
    assert model.generate(["в лесу", "в лесу"], 20, seed=1, as_bytes=True)[0] == want.encode()
    with pytest.raises(VocabularyError, match="the prompt has 'z"):
        model.generate(b"zz")
    with pytest.raises(CorpusError, match="The prompt is not UTF-8: the byte at offset 0 is 0xff"):
        model.generate(b"\xff")


# One space


@pytest.mark.parametrize(("prompt", "end"), [("to be ", ""), ("to be  ", ""), ("to be\t", ""), ("to be \x0b", ""), ("to be", " "), ("to be\n", ""), (" ", ""), ("", "")])
def test_one_space_separates_prompt_and_continuation(prompt, end, capsys):
    model = LanguageModel.load("word.npz")
    for seed in range(4):
        generated = model.generate(prompt, 3, seed=seed)
        words = model.tokenizer_.decode(model.generate(np.r_[1, model.tokenizer_.encode(prompt)], 3, seed=seed))
        assert generated == ("" if words.startswith("\n") else end) + words
        assert model.generate(prompt.encode(), 3, seed=seed) == generated.encode()
        assert "".join(model.stream(prompt, 3, seed=seed)) == generated
    assert main(["generate", "word.npz", "--length", "3", "--seed", "3", "--prompt", prompt]) == 0
    assert capsys.readouterr().out == prompt + generated + "\n"
    assert main(["generate", "word.npz", "--length", "3", "--seed", "3", "--samples", "2", "--prompt", prompt]) == 0
    assert capsys.readouterr().out.startswith(prompt + generated + "\n\n" + prompt)


@given(length=st.integers(0, 6), more=st.integers(0, 6), seed=st.integers(0, 50), space=st.sampled_from([" ", "  ", "\t"]))
def test_generating_in_two_calls_after_a_space_gives_the_same_text(length, more, seed, space):
    model = trained("word")
    first = "to be" + space + model.generate("to be" + space, length, seed=seed)
    assert first + model.generate(first, more, seed=seed) == "to be" + space + model.generate("to be" + space, length + more, seed=seed)


# Arguments in any order

ORDERS = [
    ["char.npz", "to be", "--length", "5", "--seed", "1"],
    ["--length", "5", "char.npz", "--seed", "1", "to be"],
    ["--length", "5", "--seed", "1", "char.npz", "to be"],
    ["char.npz", "--length=5", "to be", "--seed=1"],
    ["--prompt", "to be", "--length", "5", "char.npz", "--seed", "1"],
    ["--length", "5", "--seed", "1", "--", "char.npz", "to be"],
    ["--length", "5", "char.npz", "--seed", "1", "--", "to be"],
]


@pytest.mark.parametrize("arguments", ORDERS, ids=" ".join)
def test_the_prompt_may_be_anywhere(arguments, capsys):
    assert main(["generate", *arguments]) == 0
    assert capsys.readouterr().out == "to be" + LanguageModel.load("char.npz").generate("to be", 5, seed=1) + "\n"


@pytest.mark.parametrize("arguments", [
    ["score", "--json", "char.npz", "--counts", "a.txt"], ["score", "char.npz", "--unknown", "exclude", "a.txt"],
    ["eval", "--bos", "char.npz", "--json", "a.txt"], ["train", "--hidden", "3", "a.txt", "--tied"], ["info", "char.npz"],
    ["train", "--epochs", "2", "--", "a.txt"], ["train", "--valid", "held.txt", "a.txt", "--valid", "out.txt", "b.txt"], ["generate", "char.npz", "--", "-5 apples"],
], ids=" ".join)
def test_arguments_of_every_command_may_be_in_any_order(arguments):
    args = parser().parse_args(arguments)
    files = [word for word in arguments if word.endswith((".txt", ".npz", "apples"))]
    found = [getattr(args, name, None) or [] for name in ("model", "corpus", "valid", "file", "prompt")]
    found = [str(word) for words in found for word in (words if isinstance(words, list) else [words])]
    assert sorted(found) == sorted(files)


@pytest.mark.parametrize("arguments", [["char.npz", "--length", "5", "to", "be"], ["--length", "5"], ["char.npz", "--lengths", "5"],
                                       ["char.npz", "to", "--prompt", "be"], ["char.npz", "-x"]], ids=" ".join)
def test_wrong_arguments_print_one_line(arguments, capsys):
    assert main(["generate", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("numba-rnnlm generate: error: ") and err.count("\n") == 1
