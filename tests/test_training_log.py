"""The log of a training has one row per report, is appended to, and never stops the training."""

import csv
import errno
import json
import os
import subprocess
import sys
import warnings
from datetime import datetime, timedelta
from math import inf, nan
from pathlib import Path

import pytest
from checks import HANG
from models import LINES, fit, untrained

import numba_rnnlm
from numba_rnnlm.cli import main
from numba_rnnlm.errors import ConfigError, ModelFileError
from numba_rnnlm.training.history import COLUMNS
from numba_rnnlm.training.log import FIELDS, Log

ROW = {name: float(number) for number, name in enumerate(("updates", *COLUMNS), 1)} | {"loss": 1.25, "valid_loss": nan, "perplexity": inf}
NAMES = ("log.csv", "log.jsonl", "LOG.CSV", "log.json", "log.ndjson")
HOME = os.pathsep.join(filter(None, [str(Path(numba_rnnlm.__file__).parents[1]), os.environ.get("PYTHONPATH")]))


def rows(path):
    """Read a log as dicts: numbers as floats, None for missing values."""
    with open(path, encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file)) if str(path).lower().endswith(".csv") else [json.loads(line) for line in file]
    return [{name: value if name == "time" else None if value in ("", None) else float(value) for name, value in row.items()} for row in found]


def written(path, *reports, **options):
    log = Log(str(path), **options)
    log.begin()
    for report in reports:
        log.write(report)
    return rows(path)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_for_each_report(name, tmp_path):
    path = tmp_path / name
    before = datetime.now().astimezone() - timedelta(seconds=1)
    model = fit(untrained(), valid=LINES, epochs=2, validate_every=2, log=path)
    found = rows(path)
    for column in COLUMNS:
        assert [row[column] for row in found] == pytest.approx(model.history_[column])
    assert [row["updates"] for row in found] == [2, 4, 5, 7, 9, 10]
    assert all(tuple(row) == FIELDS for row in found)
    times = [datetime.fromisoformat(row["time"]) for row in found]  # includes the time zone, so it is unambiguous on any computer
    assert times == sorted(times) and before <= times[0] and times[-1] <= datetime.now().astimezone()


@pytest.mark.parametrize("name", NAMES)
def test_missing_values_are_empty(name, tmp_path):
    (row,) = written(tmp_path / name, ROW)
    assert row["loss"] == 1.25 and row["updates"] == 1 and row["valid_loss"] is None and row["perplexity"] is None
    assert "1," in (tmp_path / name).read_text() and "1.0" not in (tmp_path / name).read_text()


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_appended_to_an_existing_log(name, tmp_path):
    path = tmp_path / name
    first = fit(untrained(), epochs=2, log=path)
    data = path.read_bytes()
    fit(first, epochs=1, log=path)  # the training continues
    fit(untrained(), epochs=1, log=path)  # another training
    assert path.read_bytes().startswith(data)
    assert [row["epoch"] for row in rows(path)] == [1, 2, 3, 1]


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_does_not_log_reports_twice(name, tmp_path):
    later = ROW | {"updates": 9.0}
    written(tmp_path / name, ROW, later)
    assert [row["updates"] for row in written(tmp_path / name, later, ROW | {"updates": 10.0}, resumed=True)] == [1, 9, 10]
    assert len(written(tmp_path / name, later)) == 4


@pytest.mark.parametrize(("name", "data"), [
    ("log.csv", b"name,price\nshoe,3\n"), ("log.csv", b"the cat sees the dog\n"), ("log.csv", b"\xff\xfe\0"), ("log.csv", b"time,updates"),
    ("log.json", b'{"name": "shoe"}\n'), ("log.jsonl", b"[1, 2]\n"), ("log.jsonl", b"PK\x03\x04"), ("log.ndjson", b"\n"), ("log.json", b"3\n"),
])  # fmt: skip
def test_a_file_that_is_not_a_log_is_left_unchanged(name, data, tmp_path):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"log is '.*', but this file exists and is not a training log, so nothing is appended to it; give"):
        fit(untrained(), log=path)
    assert path.read_bytes() == data


@pytest.mark.parametrize("name", ["missing/log.csv", "file/log.jsonl"])
def test_a_log_that_cannot_be_written_is_an_error_before_training(name, tmp_path):
    (tmp_path / "file").write_text("")
    model = untrained()
    with pytest.raises(ModelFileError, match=r"cannot write the log '.*': .*\. Choose a folder that exists and is writable\."):
        fit(model, log=f"{tmp_path}/{name}")
    assert model.history_["epoch"] == []


def test_a_log_must_have_its_own_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("texts").mkdir()
    Path("texts/a.txt").write_text(LINES)
    model = untrained()
    for options, words in (
        ({"log": "run.json", "checkpoint": "run.json"}, "log is 'run.json', the file of checkpoint, too; give the log a name of its own"),
        ({"log": "texts/log.csv"}, "log is 'texts/log.csv', which is or would become part of the text 'texts/a.txt'; put it elsewhere"),
        ({"checkpoint": "texts/run"}, "checkpoint is 'texts/run', which is or would become part of the text"),
        ({"log": 5}, "log is 5, expected a path such as 'run.csv'"),
    ):
        with pytest.raises(ConfigError, match=words):
            fit(model, Path("texts"), **options)
    assert os.listdir("texts") == ["a.txt"]

def test_a_log_must_not_be_the_model_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text(LINES)
    small = ["train", "t.txt", "--hidden", "4", "--layers", "1", "--embedding", "4", "--streams", "2", "--steps", "9", "--epochs", "1", "--verbose", "0"]
    assert main([*small, "--log", "m.json", "--out", "m.json"]) == 2
    assert "--log is 'm.json', where the model is to be saved" in capsys.readouterr().err


def test_a_log_that_cannot_be_read(tmp_path):
    (tmp_path / "log.csv").mkdir()
    with pytest.raises(ModelFileError, match=r"cannot read the log '.*log\.csv': Is a directory\."):
        fit(untrained(), log=tmp_path / "log.csv")


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl"])
@pytest.mark.parametrize("fault", ["open", "write", "short"])
def test_a_row_that_cannot_be_written_is_dropped(name, fault, tmp_path, monkeypatch):
    path, model = tmp_path / name, untrained()
    log = Log(str(path))
    log.begin()
    log.write(ROW)

    class Full:
        """A file on a full disk: the second half of a row finds no space."""

        def __init__(self, *arguments, **options):
            if fault == "open":
                raise OSError(errno.EMFILE, "Too many open files")
            self.file = open(*arguments, **options)  # noqa: SIM115

        def __enter__(self):
            return self

        def __exit__(self, *error):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            written = self.file.write(data[: len(data) // 2])
            if fault == "short":
                return written
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.warns(UserWarning, match=r"a report could not be written to the log '.*', training continues: "):
        patch.setattr("numba_rnnlm.training.log.open", Full, raising=False)
        log.write(ROW | {"updates": 2.0})
    log.write(ROW | {"updates": 3.0})
    assert [row["updates"] for row in rows(path)] == [1, 3]
    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        begin = Log.begin
        patch.setattr(Log, "begin", lambda self: (begin(self), patch.setattr("numba_rnnlm.training.log.open", Full, raising=False)))
        fit(model, epochs=2, log=path)
    assert model.history_["epoch"] == [1, 2]
    assert [row["updates"] for row in rows(path)] == [1, 3]


def test_a_log_that_was_moved_away_is_started_again(tmp_path):
    path = tmp_path / "log.csv"
    log = Log(str(path))
    log.begin()
    log.write(ROW)
    path.rename(tmp_path / "old.csv")
    log.write(ROW)
    assert rows(path) == rows(tmp_path / "old.csv")


def test_killing_and_resuming_a_run_yields_one_log(tmp_path):
    (tmp_path / "text.txt").write_text(LINES * 100)
    command = [sys.executable, "-m", "numba_rnnlm", "train", "text.txt", "--hidden", "12", "--layers", "1", "--streams", "4", "--steps", "16",
               "--epochs", "6", "--validate-every", "20", "--verbose", "0", "--backend", "cpu", "--out", "model.npz"]
    environment = {**os.environ, "PYTHONPATH": HOME}
    subprocess.run([*command, "--log", "whole.jsonl"], cwd=tmp_path, env=environment, check=True, timeout=HANG)
    whole, path = (tmp_path / "model.npz").read_bytes(), tmp_path / "log.jsonl"
    kills = 0
    resumable = ["--log", "log.jsonl", "--checkpoint", "run.npz", "--resume", "run.npz", "--checkpoint-every", "0.01s"]
    for reports in (3, 8, 13, None):
        run = subprocess.Popen([*command, *resumable], cwd=tmp_path, env=environment)
        while run.poll() is None and reports is not None:
            if path.exists() and path.read_bytes().count(b"\n") >= reports:
                run.kill()
                kills += 1
                break
        assert run.wait(timeout=HANG) in (0, -9)
    assert kills >= 1 and (tmp_path / "model.npz").read_bytes() == whole
    same = ("updates", "epoch", "loss", "tokens", "gradient_norm", "learning_rate")
    logs = [[[row[name] for name in same] for row in rows(tmp_path / name)] for name in ("whole.jsonl", "log.jsonl")]
    assert logs[0] == logs[1]
