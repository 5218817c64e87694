"""Control characters from untrusted files never reach a terminal, and messages have a maximum length."""

import contextlib
import io
import json
import os
import pty
import re
import subprocess
import sys
import traceback
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
from growth import archive, base, model, npy
from hypothesis import given
from hypothesis import strategies as st
from models import LINES, fit, untrained

import numba_rnnlm
from numba_rnnlm import LanguageModel, Sequential, errors
from numba_rnnlm.cli import main
from numba_rnnlm.display import LONGEST, clean, message, one_line, printable
from numba_rnnlm.errors import LanguageModelError, ModelFileError, NotFittedError
from numba_rnnlm.layers import LSTM, Dense, Embedding
from numba_rnnlm.progress import Progress
from numba_rnnlm.reports import report, warn

BIDIRECTIONAL = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
HOSTILE = "\x1b]0;mine\x07\x1b[2J\x9b31m\x7f\u202e\u2066"
KINDS = ("char", "word", "byte", "None", "checkpoint", "sequential")
HOME = os.pathsep.join(filter(None, [str(Path(numba_rnnlm.__file__).parents[1]), os.environ.get("PYTHONPATH")]))


def controls(text):
    """The characters of a text that must not reach a terminal."""
    return [character for character in text if (unicodedata.category(character) == "Cc" and character not in "\n\t") or character in BIDIRECTIONAL]


class Terminal(io.StringIO):
    """A terminal that records its output."""

    def isatty(self):
        return True


@contextlib.contextmanager
def terminal():
    shown = Terminal()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown), warnings.catch_warnings():
        warnings.simplefilter("always")
        yield shown


# Text


@given(st.text(st.characters(exclude_categories=())))
def test_every_control_character_becomes_an_escape(text):
    assert not controls(printable(text)) and not controls(one_line(text)) and "\n" not in one_line(text)
    assert printable(printable(text)) == printable(text)
    if text.isprintable():
        assert printable(text) == one_line(text) == text
    for character in BIDIRECTIONAL + "\x00\x1b\x7f\x80\x9b\x9f":
        assert printable(character) == repr(character)[1:-1]


@given(st.text(st.characters(exclude_categories=())), st.integers(0, 3000))
def test_messages_have_a_maximum_length(text, number):
    shown = message(text + "x" * number + text)
    assert len(shown) <= LONGEST and message(shown) == shown and not controls(shown) and "\n" not in shown
    if len(one_line(text)) < 200:
        assert shown.startswith(one_line(text)) and shown.endswith(one_line(text))


def test_every_error_is_short_and_has_no_control_characters():
    for kind in filter(lambda value: isinstance(value, type) and issubclass(value, LanguageModelError), vars(errors).values()):
        error = kind(f"a{HOSTILE}\n{'b' * 10**6} and do this.")
        assert len(str(error)) <= LONGEST and not controls(str(error)) and "\n" not in str(error) and str(error).endswith(" and do this.")
        assert kind(*error.args).args == error.args  # as in unpickling


def test_reports_and_warnings_escape_control_characters(capsys):
    with pytest.warns(UserWarning) as caught:
        warn(HOSTILE + "x" * 10**6)
    assert len(str(caught[0].message)) <= LONGEST and not controls(str(caught[0].message))
    report(f"{HOSTILE}\n")
    for verbose in (1, 2):
        Progress(verbose).show(HOSTILE)
        Progress(verbose).line(f"two\n{HOSTILE}")
    out = capsys.readouterr().out
    assert not controls(out) and out.count(printable(HOSTILE)) == 4 and "two\\n" in out
    with terminal() as shown:
        live = Progress(1)
        live.show(HOSTILE)
        live.line("done")
    assert shown.getvalue() == f"\r\x1b[K{printable(HOSTILE)}\r\x1b[Kdone\n"  # these escapes are our own


@pytest.mark.parametrize("call", [
    lambda text: LanguageModel(cell=text), lambda text: LanguageModel(tokenizer=text), lambda text: untrained().set_params(**{text: 1}),
    lambda text: LanguageModel.load(text), lambda text: untrained().fit("a\n", optimizer=text),
    lambda text: untrained().fit("a\n", log=text), lambda text: untrained().fit("a\n", resume=text), lambda text: untrained().fit([text, [1]]),
    lambda text: fit(untrained(tokenizer="word")).generate(text), lambda text: fit(untrained(tokenizer="word")).generate(HOSTILE * 99),
    lambda text: Sequential([text]), lambda text: Sequential.load(text), lambda text: Sequential([Dense(3, activation=text)]),
    lambda text: Sequential([Embedding(3, 2), LSTM(2), Dense(3)]).compile(text), lambda text: Sequential().compile("adam", text),
    lambda text: fit(untrained()).save(text),
])  # fmt: skip
def test_arguments_of_any_length_give_short_errors(call):
    for text in ("x" * 10**6, HOSTILE * 10**5):
        with pytest.raises(LanguageModelError) as caught:
            call(text)
        text = "".join(traceback.format_exception_only(caught.value))
        assert len(str(caught.value)) <= LONGEST and not controls(text)


# Files


def places(value, keys=()):
    """The paths of keys to all keys and strings of a JSON value; yields (keys, whether it is a key)."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield (*keys, key), True
            yield from places(part, (*keys, key))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from places(part, (*keys, index))
    elif isinstance(value, str):
        yield keys, False


def spoiled(about, keys, is_key, hostile):
    """A copy of a header in which one key or string is replaced by a hostile text."""
    about = json.loads(json.dumps(about))
    inside = about
    for key in keys[:-1]:
        inside = inside[key]
    if is_key:
        inside[hostile] = inside.pop(keys[-1])
    else:
        inside[keys[-1]] = hostile
    return about


def commands(kind, path, keys):
    """Calls that read a file of this kind and may show the part of its header at ``keys``."""
    if kind == "sequential":
        return [lambda: Sequential.load(path, threads=1), lambda: Sequential.load(path, threads=1, compile=False),
                lambda: main(["info", path]), lambda: main(["info", path, "--json"]), lambda: LanguageModel.load(path)]
    found = [lambda: LanguageModel.load(path, threads=1), lambda: Sequential.load(path), lambda: main(["info", path]),
             lambda: main(["info", path, "--json"]), lambda: untrained().save(path)]
    if kind == "checkpoint" and keys[0] in ("run", "config"):
        found += [lambda: main(["train", "text.txt", "--resume", path, "--out", "out.npz", "--verbose", "0", "--threads", "1"]),
                  lambda: untrained(hidden=1, embedding=1).fit("to be\n" * 9, checkpoint=path, epochs=1, verbose=0)]
    if kind in ("char", "word", "byte"):
        found += [lambda: main(["generate", path, "to be", "--length", "30", "--seed", "1", "--unknown", "unk"]),
                  lambda: main(["score", path, "text.txt", "--per-token"]), lambda: main(["score", path, "text.txt", "--counts"]),
                  lambda: main(["eval", path, "text.txt"])]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_text_from_a_header_is_escaped(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(LINES)
    about, shown_escapes = base(kind)[0], 0
    for keys, is_key in places(about):
        for hostile in {HOSTILE, "\x9b"} if keys[-2:-1] == ("symbols",) else {HOSTILE}:
            Path("m.npz").write_bytes(model(kind, spoiled(about, keys, is_key, hostile)))
            for call in commands(kind, "m.npz", keys):
                with terminal() as shown:
                    try:
                        call()
                    except LanguageModelError as error:
                        print("".join(traceback.format_exception(error)))
                        assert len(str(error)) <= LONGEST
                assert not controls(shown.getvalue()), (keys, is_key, shown.getvalue())
                shown_escapes += "\\x1b" in shown.getvalue() or "\\x9b" in shown.getvalue() or "\\u001b" in shown.getvalue()
    assert shown_escapes > 10  # the hostile text was actually shown


def test_names_of_members_and_files_are_escaped(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    about, members = base("char")
    header = npy(np.frombuffer(json.dumps(about).encode(), np.uint8))
    for name in (f"weights/{HOSTILE}.npy", f"{HOSTILE}.npy", HOSTILE, f"weights/{'a' * 900}{HOSTILE}.npy"):
        Path("m.npz").write_bytes(archive([("about.npy", header), *members.items(), (name, npy(np.zeros(1, np.float32)))]))
        with pytest.raises(ModelFileError) as caught:
            LanguageModel.load("m.npz")
        assert not controls(str(caught.value)) and len(str(caught.value)) <= LONGEST
    name = HOSTILE.replace("/", "") + ".npz"
    with terminal() as shown:
        assert main(["info", name]) == main(["train", name + ".txt"]) == main(["eval", name, name]) == 1
        Path(name).write_bytes(model("char"))
        Path(name + ".txt").write_text(LINES * 9)
        assert main(["info", name]) == main(["train", name + ".txt", "--out", name, "--overwrite", "--epochs", "1", "--verbose", "2"]) == 0
        with pytest.raises(NotFittedError):
            untrained().save(name)
        fit(untrained(), checkpoint=HOSTILE)
        assert main(["train", name + ".txt", "--checkpoint", HOSTILE, "--out", "out.npz"]) == 1
        assert main([HOSTILE]) == main(["info", "--" + HOSTILE]) == main(["eval", name, "x" * 5000, HOSTILE, "--what"]) == 2
    assert not controls(shown.getvalue()) and shown.getvalue().count("\\x1b]0;mine") > 8 and "x" * 1000 not in shown.getvalue()


HOSTILE_SYMBOLS = ["\x1b", "\x9b", "[", "2", "J", "\x07", "\u202e", "\r", "\t", "a"]


@pytest.fixture(scope="module")
def escaping(tmp_path_factory):
    """A character model that generates control characters, and a text that it generates."""
    path = tmp_path_factory.mktemp("escaping") / "m.npz"
    made = fit(untrained(hidden=3, embedding=2, line_ends="keep"), "".join(HOSTILE_SYMBOLS) * 40 + "\n", epochs=1)
    made.save(path)
    generated = made.generate("a", length=60, seed=1)
    assert len(set(controls(generated))) >= 4
    return str(path), generated


def test_generate_escapes_for_a_terminal_only(escaping, capsys):
    path, generated = escaping
    arguments = ["generate", path, "a", "--length", "60", "--seed", "1"]
    with terminal() as shown:
        assert main(arguments) == 0 and main([*arguments, "--samples", "2"]) == 0
    assert not controls(shown.getvalue()) and shown.getvalue().startswith(printable("a" + generated) + "\n")
    assert main(arguments) == 0
    assert capsys.readouterr().out == "a" + generated + "\n"


def test_a_pseudo_terminal_gets_escapes_and_a_pipe_the_text(escaping):
    path, generated = escaping
    arguments = [sys.executable, "-m", "numba_rnnlm", "generate", path, "a", "--length", "60", "--seed", "1"]
    done = subprocess.run(arguments, env=os.environ | {"PYTHONPATH": HOME}, capture_output=True, check=True)
    assert done.stdout.decode() == "a" + generated + "\n"
    parent, child = pty.openpty()
    with subprocess.Popen(arguments, env=os.environ | {"PYTHONPATH": HOME, "PYTHONIOENCODING": "utf-8"}, stdout=child, stderr=child) as run:
        os.close(child)
        shown = b""
        with contextlib.suppress(OSError):  # Linux raises this when the terminal is closed
            while piece := os.read(parent, 4096):
                shown += piece
    os.close(parent)
    assert run.returncode == 0
    shown = shown.decode().replace("\r\n", "\n")
    assert not controls(shown) and printable("a" + generated) in shown


def test_score_shows_tokens_with_escapes(escaping, tmp_path):
    (tmp_path / "text.txt").write_text("a\x1b[2J\u202ez\x07\n")
    with terminal() as shown:
        assert main(["score", escaping[0], str(tmp_path / "text.txt"), "--per-token"]) == 0
    assert not controls(shown.getvalue()) and re.findall(r"^(\S+)\t", shown.getvalue(), re.MULTILINE)[:2] == ["a", r"\x1b"]


# `info` validates the layers of a Sequential before it shows them


@pytest.mark.parametrize(("change", "words"), [
    ({"layers": [{"class": "no name"}]}, "the class is 'no name'"), ({"layers": [{"class": "Residual", "layers": [{"class": 3}]}]}, "the class is 3"),
    ({"layers": [{"class": "LSTM", "units": {"a": 1}}]}, r"the argument 'units' is \{'a': 1\}"),
    ({"layers": [{"class": "LSTM", "no name": 1}]}, "the argument 'no name' is 1"),
    ({"layers": [{"class": "LSTM", "cell": "x" * 300}]}, "the argument 'cell' is 'xxx"),
    ({"compiled": {"optimizer": {"class": 3}, "loss": "binary_crossentropy", "metrics": []}}, "the class is 3"),
    ({"compiled": {"optimizer": {"class": "Adam"}, "loss": "mse", "metrics": []}}, "loss or metric is 'mse', expected one of"),
    ({"compiled": {"optimizer": {"class": "Adam"}, "loss": "binary_crossentropy", "metrics": ["auc"]}}, "loss or metric is 'auc'"),
    ({"compiled": {"optimizer": ["Adam"]}}, "its parts do not fit together"), ({"compiled": 3}, "its parts do not fit together"),
    ({"seed": "1"}, "seed is '1', expected a whole number"), ({"layers": 3}, "its parts do not fit together"),
], ids=str)  # fmt: skip
def test_info_rejects_invalid_layers(change, words, tmp_path, capsys):
    path = tmp_path / "m.npz"
    path.write_bytes(model("sequential", base("sequential")[0] | change))
    for flags in ([], ["--json"]):
        assert main(["info", str(path), *flags]) == 1
        out, err = capsys.readouterr()
        assert out == "" and re.search(f"is damaged: its parts do not fit together.*{words}|{words}", err)


def test_causes_in_a_traceback_are_escaped_too(tmp_path):
    path = tmp_path / "m.npz"
    about = base("char")[0]
    path.write_bytes(model("char", about | {"config": about["config"] | {HOSTILE: 1}}))
    with pytest.raises(ModelFileError, match=r"has no argument '\\x1b\]0;mine") as caught:
        LanguageModel.load(path)
    assert caught.value.__cause__ is not None
    assert not controls("".join(traceback.format_exception(caught.value)))
    about = base("checkpoint")[0]
    path.write_bytes(model("checkpoint", about | {"run": about["run"] | {"config": about["run"]["config"] | {HOSTILE: 1}}}))
    with pytest.raises(ModelFileError, match=r"it has settings that are not known here: \\x1b\]0;mine") as caught:
        LanguageModel.load(path)
    assert not controls("".join(traceback.format_exception(caught.value)))
    path.write_bytes(model("sequential", {**base("sequential")[0], "layers": [{"class": "LSTM", HOSTILE: 1}]}))
    with pytest.raises(ModelFileError, match=r"its parts do not fit together \(LSTM has no argument '\\x1b\]0;mine") as caught:
        Sequential.load(path)
    assert not controls("".join(traceback.format_exception(caught.value)))


@pytest.mark.parametrize("value", [10**4000, 10**5000, -(10**4299), ["\x1b[2J"], ["x" * 5000], HOSTILE, b"\x9b" * 5000, 3, None, (1, 2)], ids=lambda value: type(value).__name__)
def test_causes_are_short_whatever_they_contain(value):
    text = str(clean(KeyError(value)))
    assert not controls(text) and len(text) <= 2 * LONGEST  # a KeyError doubles the backslashes of a str
    if value in (3, None, (1, 2)):
        assert text == str(KeyError(value))
