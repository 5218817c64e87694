"""Result files of benchmarks are written atomically, only by the command they belong to, and only by complete runs."""

import importlib
import json
import re
import shlex
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import harness, serving, table
from benchmarks.harness import TRACKED

ROOT = Path(__file__).parents[1]
NAMES = sorted({command.split()[0] for command in TRACKED.values()})
BEFORE = "the result of an earlier run"


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    """A folder with all tracked files."""
    folder = tmp_path / "results"
    folder.mkdir()
    for name in TRACKED:
        (folder / f"{name}.json").write_text(BEFORE)
    monkeypatch.setattr(harness, "RESULTS", folder)
    return folder


@pytest.fixture
def python(tmp_path):
    """Make a fake interpreter: a script that prints this and ends with this exit code."""
    def make(words, code):
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\necho {shlex.quote(words)} >&2\nexit {code}\n")
        path.chmod(0o755)
        return path

    return make


def run(monkeypatch, name, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    importlib.import_module(f"benchmarks.{name}").main()


def options_of(monkeypatch, name, *arguments):
    """The options that a benchmark would measure with."""
    class Begun(Exception):
        pass

    def begin(flags, benchmark):
        raise Begun(harness.read(flags, benchmark))

    monkeypatch.setattr(harness, "expect_peer", lambda *arguments: None)
    monkeypatch.setattr(importlib.import_module(f"benchmarks.{name}"), "read", begin)
    with pytest.raises(Begun) as begun:
        run(monkeypatch, name, *arguments)
    return begun.value.args[0]


def untouched(folder):
    return {path.read_text() for path in folder.iterdir()} == {BEFORE} and len(list(folder.iterdir())) == len(TRACKED)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_peer_is_reported_at_once(name, results, python, monkeypatch):
    missing = python("Traceback\nModuleNotFoundError: No module named 'torch'", 1)
    words = f"the peer 'torch' does not run in {missing}: ModuleNotFoundError: No module named 'torch'. Pass an interpreter that has it"
    for peer in (["--peer", "torch"], ["--peer", "torch", "--out", "mine"]):
        with pytest.raises(SystemExit, match=re.escape(words)) as caught:
            run(monkeypatch, name, *peer, "--peer-python", missing)
        assert str(caught.value).endswith("with --peer-python, or leave --peer out. Nothing was measured.")
    assert untouched(results)


def test_an_interpreter_that_does_not_run(results, tmp_path, python, monkeypatch):
    with pytest.raises(SystemExit, match=r"--peer-python is '.*nowhere', which does not run: No such file or directory"):
        run(monkeypatch, "scoring", "--peer", "torch", "--peer-python", tmp_path / "nowhere")
    with pytest.raises(SystemExit, match=r"does not run in .*: it ended with exit status 3"):
        run(monkeypatch, "scoring", "--peer", "torch", "--peer-python", python("", 3))
    assert untouched(results)


def test_a_worker_that_has_ended_is_reported(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/true")
    with pytest.raises(SystemExit, match=r"the worker .* ended; its error is above"), harness.Contestant("torch", 1, "/bin/true") as worker:
        worker.process.wait()
        worker.ask(command="check", padding="x" * 100_000)


@pytest.mark.parametrize("file", TRACKED)
def test_only_its_own_command_writes_a_tracked_file(file, results, monkeypatch, capsys):
    name, *arguments = shlex.split(TRACKED[file])
    out = [] if file == name else ["--out", file]
    options = options_of(monkeypatch, name, *arguments, *out, "--peer-python", "anything")
    assert options.result == results / f"{file}.json"
    harness.write_results(name, options, [{"row": 1}])
    written = json.loads(options.result.read_text())
    assert written["rows"] == [{"row": 1}] and written["benchmark"] == name
    assert {path.name for path in results.iterdir()} == {f"{name}.json" for name in TRACKED}
    options.result.write_text(BEFORE)
    for change in (["--turns", "99"], ["--threads", "1000"], ["--peer", "torch"]):
        changed = options_of(monkeypatch, name, *arguments, *change) if not out else None
        if changed is None:
            with pytest.raises(SystemExit, match=f"--out is '{file}', but these are not its options; only `python -m benchmarks.{TRACKED[file]}`"):
                options_of(monkeypatch, name, *arguments, *change, *out)
            continue
        assert changed.result is None
        assert f"only `python -m benchmarks.{TRACKED[file]}` writes {file}.json; --out NAME" in capsys.readouterr().out
        harness.write_results(name, changed, [{"row": 1}])
        assert "no result file was written" in capsys.readouterr().out
    assert untouched(results)


def test_other_results_are_written_to_out(results, tmp_path, monkeypatch):
    options = options_of(monkeypatch, "scoring", "--rows", "tiny", "--out", "mine")
    harness.write_results("scoring", options, [], ["quota 1"])
    assert json.loads((results / "mine.json").read_text())["missing"] == ["quota 1"]
    options = options_of(monkeypatch, "scoring", "--rows", "tiny", "--out", str(tmp_path / "folder" / "training"))
    harness.write_results("scoring", options, [])
    assert (tmp_path / "folder" / "training.json").exists()
    (results / "mine.json").unlink()
    for benchmark in ("scoring", "listing"):  # the file belongs to another benchmark
        with pytest.raises(SystemExit, match="--out is 'training', but these are not its options"):
            options_of(monkeypatch, benchmark, "--out", "training")
    assert options_of(monkeypatch, "listing", "--peer", "keras", "--peer", "torch").result == results / "listing.json"
    assert untouched(results)


def test_control_groups_are_created_only_if_asked_for(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(serving, "players_of", contextmanager(lambda options, quota: iter([asked.append(quota) or {}])))
    for words, quotas in (((), [None]), (("--situations", "quiet", "quota 1"), [None, "quota 1"]), (("--situations", "quota 0.5"), ["quota 0.5"])):
        run(monkeypatch, "serving", "--out", tmp_path / "found", *words)
        assert asked == quotas
        asked.clear()


def test_an_incomplete_run_writes_no_tracked_file(results, monkeypatch, capsys):
    options = options_of(monkeypatch, "serving", *shlex.split(TRACKED["serving"])[1:])
    harness.write_results("serving", options, [], ["quota 1", "quota 0.5"])
    assert "serving.json was not written: quota 1, quota 0.5 could not be measured here" in capsys.readouterr().out
    assert untouched(results)


def test_a_file_is_replaced_atomically(results, monkeypatch):
    monkeypatch.setattr(harness.os, "replace", lambda *paths: (_ for _ in ()).throw(OSError("the disk is full")))
    with pytest.raises(OSError, match="the disk is full"):
        harness.replace(results / "scoring.json", "half")
    assert untouched(results)


def test_every_tracked_file_has_a_command():
    files = {path.stem for path in (ROOT / "benchmarks" / "results").glob("*.json")}
    assert files == set(TRACKED)
    assert {file for _, files in table.TABLES.values() for file in files} <= set(TRACKED)
    shown = re.findall(r"Measured by `python -m benchmarks\.([^`]*)`", (ROOT / "docs" / "benchmarks.md").read_text())
    assert shown == [TRACKED[name] for name in ("training", "training-bf16", "listing", "scaling", "generation", "generation-stacks", "scoring", "startup", "memory",
                                             "learning-cells")]


@pytest.mark.parametrize("document", table.DOCUMENTS, ids=lambda path: path.name)
def test_tables_show_the_result_files(document):
    text = document.read_text()
    assert "<!-- table: " in text and table.filled(text) == text


def test_every_table_is_in_one_document():
    texts = [path.read_text() for path in table.DOCUMENTS]
    assert all(sum(text.count(f"<!-- table: {name} -->") for text in texts) == 1 for name in table.TABLES)
    assert not set(re.findall("<!-- table: (.*) -->", "".join(texts))) - set(table.TABLES)
