"""Real processes whose streams are closed or full, whose terminal hangs up, that are suspended, or that share a checkpoint."""

import contextlib
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from checks import HANG, without_notice

import numba_rnnlm
from numba_rnnlm import LanguageModel
from numba_rnnlm.cli import main
from numba_rnnlm.errors import CorpusError, ModelFileError
from numba_rnnlm.storage import expect_room

HOME = os.pathsep.join(filter(None, [str(Path(numba_rnnlm.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
PROGRAM = f"{shlex.quote(sys.executable)} -m numba_rnnlm"
TEXT = "the cat sees the dog\nthe dog sees the cat\n" * 40
SMALL = "--hidden 8 --layers 1 --embedding 4 --streams 4 --steps 10 --threads 1 --validation-split 0"
TRAIN = f"train t.txt {SMALL} --epochs 20 --verbose 2 --out m.npz"
ENDLESS = f"train t.txt {SMALL} --epochs 1000000 --verbose 2 --out m.npz"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a text and m0.npz, the model that TRAIN makes of it."""
    folder = tmp_path_factory.mktemp("surroundings")
    (folder / "t.txt").write_text(TEXT)
    with contextlib.chdir(folder):
        assert main([*TRAIN.replace("m.npz", "m0.npz").replace("--verbose 2", "--verbose 0").split()]) == 0
    return folder


@pytest.fixture(autouse=True)
def _in_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", HOME)
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    for name in os.listdir():
        if name not in ("t.txt", "m0.npz"):
            os.unlink(name)


def shell(line):
    """Run a line in bash with pipefail; return (exit code, standard output, standard error)."""
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, timeout=HANG)
    return done.returncode, done.stdout.decode(), without_notice(done.stderr).decode()


def lost(reason):
    return f"numba_rnnlm: cannot write reports to standard output ({reason}); continuing without them\n"


# Reports that cannot be written


@pytest.mark.parametrize(("streams", "message"), [
    ("| head -n 2", lost("Broken pipe")),
    ("> /dev/full", lost("No space left on device")),
    (">&-", lost("Bad file descriptor")),
    ("2>&-", ""),
    ("> /dev/full 2>&1", ""),
    (">&- 2>&- <&-", ""),
])  # fmt: skip
def test_training_continues_if_reports_cannot_be_written(streams, message):
    code, _, err = shell(f"{PROGRAM} {TRAIN} {streams}")
    assert (code, err) == (0, message)
    assert Path("m.npz").read_bytes() == Path("m0.npz").read_bytes()


def test_a_model_file_never_gets_the_descriptor_of_a_closed_stream():
    """Otherwise output for standard error would be written into it."""
    program = ("import sys; from numba_rnnlm.cli import streams; from numba_rnnlm.reports import put; streams.open_missing(); file = open('x', 'wb');"
               "assert file.fileno() > 2; print(put(sys.stderr, 'lost')); streams.discard_unwritten()")
    code, out, _ = shell(f"{shlex.quote(sys.executable)} -c {shlex.quote(program)} <&- 2>&-")
    assert (code, out, Path("x").read_bytes()) == (0, "Bad file descriptor\n", b"")


def test_training_continues_if_nobody_reads_the_pipe():
    """Fifteen hundred lines do not fit into the pipe."""
    run = start(TRAIN.replace("--epochs 20", "--epochs 1500").replace("--streams 4 --steps 10", "--streams 20 --steps 80"))
    assert run.wait(timeout=HANG) == 0
    assert run.stderr.read().decode() == lost("nobody reads it")
    assert LanguageModel.load("m.npz").history_["epoch"][-1] == 1500


# Data that cannot be written, or read


@pytest.mark.parametrize(("command", "code", "message"), [
    ("score m0.npz <&-", 1, "Cannot read standard input: Bad file descriptor."),
    ("generate m0.npz - <&-", 1, "cannot read the prompt from standard input: Bad file descriptor."),
    ("generate m0.npz > /dev/full", 1, "cannot write to standard output: No space left on device"),
    ("score m0.npz t.txt >&-", 1, "cannot write to standard output: Bad file descriptor"),
    ("--help > /dev/full", 1, "cannot write to standard output: No space left on device"),
    ("generate m0.npz --length 100000 | head -c 9 > /dev/null", 141, ""),
    ("generate m0.npz 2>&-", 0, ""),
    ("train nothing.txt 2> /dev/full", 1, ""),
    ("trian 2>&-", 2, ""),
])  # fmt: skip
def test_data_that_cannot_be_written_is_an_error(command, code, message):
    found, _, err = shell(f"{PROGRAM} {command}")
    assert (found, err) == (code, f"numba-rnnlm: error: {message}\n" if message else "")


# Signals


def start(line, begins=b"epoch 2", **options):
    """Start the command line in its own process, and wait for a line that begins with ``begins``."""
    run = subprocess.Popen([sys.executable, "-m", "numba_rnnlm", *line.split()], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    for shown in run.stdout:
        if shown.startswith(begins):
            return run
    raise AssertionError(run.stderr.read().decode())


def test_a_terminal_that_hangs_up_ends_training_cleanly():
    """Standard output and standard error no longer work then either."""
    child, terminal = pty.fork()
    if not child:
        os.execvpe(sys.executable, [sys.executable, "-m", "numba_rnnlm", *ENDLESS.split(), "--checkpoint", "run.npz"], os.environ)
    seen = b""
    while b"epoch 2" not in seen:
        seen += os.read(terminal, 1000)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGHUP
    assert LanguageModel.load("m.npz").history_["epoch"][-1] >= 2
    assert Path("run.npz").exists() and not Path("run.npz.lock").exists()


def test_under_nohup_a_hangup_is_ignored():
    run = start(ENDLESS.replace("--verbose 2", "--verbose 2 --checkpoint run.npz"),
                preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    run.send_signal(signal.SIGHUP)
    for _ in range(20):
        assert run.stdout.readline().startswith(b"epoch ")
    run.send_signal(signal.SIGTERM)
    run.communicate(timeout=HANG)
    assert run.returncode == 143 and Path("m.npz").exists()


def test_suspending_does_not_change_the_result():
    run = start(TRAIN.replace("--epochs 20", "--epochs 100"))
    for _ in range(3):
        run.send_signal(signal.SIGSTOP)
        time.sleep(0.2)
        run.send_signal(signal.SIGCONT)
        time.sleep(0.05)
    assert run.communicate(timeout=HANG)[1] == b"" and run.returncode == 0
    suspended = Path("m.npz").read_bytes()
    assert main(TRAIN.replace("--epochs 20", "--epochs 100").replace("--verbose 2", "--verbose 0").split()) == 0
    assert Path("m.npz").read_bytes() == suspended


LOOP = """
import os, signal, sys
import numba_rnnlm
def {handler}
for number in range(3):
    model = numba_rnnlm.LanguageModel(hidden=8, layers=1, embedding=4, threads=1)
    try:
        model.fit("t.txt", streams=4, steps=10, epochs=1000000, verbose=2, checkpoint=f"run{{number}}.npz")
    finally:
        print("epochs", len(model.history_["epoch"]), flush=True)
"""


@pytest.mark.parametrize(("number", "handler", "code", "message"), [
    (signal.SIGINT, "_(): pass", -signal.SIGINT, b"KeyboardInterrupt"),  # Python's default for Ctrl-C
    (signal.SIGTERM, "_(): pass", -signal.SIGTERM, b""),
    (signal.SIGUSR1, "_(*a): sys.exit(7)\nsignal.signal(signal.SIGUSR1, _)", 7, b""),  # a handler of the host program
])  # fmt: skip
def test_in_python_the_signal_has_its_usual_effect(number, handler, code, message):
    run = subprocess.Popen([sys.executable, "-c", LOOP.format(handler=handler)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert any(line.startswith(b"epoch 2") for line in run.stdout)
    run.send_signal(number)
    out, err = run.communicate(timeout=HANG)
    assert run.returncode == code and message in err
    if number != signal.SIGTERM:  # SIGTERM ends the process before the finally clause
        assert int(out.split()[-1]) >= 2  # the model kept what it had learned
    assert sorted(Path().glob("run*")) == [Path("run0.npz")]  # the loop did not continue
    assert LanguageModel.load("run0.npz").history_["epoch"]


# Two jobs on one checkpoint


def test_the_error_of_a_second_job_names_the_first():
    first = start(f"{ENDLESS} --checkpoint run.npz --resume run.npz")
    owner = json.loads(Path("run.npz.lock").read_text())
    assert owner["process"] == first.pid
    code, _, err = shell(f"{PROGRAM} {ENDLESS.replace('m.npz', 'm2.npz')} --checkpoint ./run.npz --resume run.npz")
    assert code == 1 and f"is being written by process {first.pid} on host" in err
    assert not Path("m2.npz").exists()
    first.kill()  # leaves a lock without an owner
    first.communicate(timeout=HANG)
    assert Path("run.npz.lock").exists()
    second = start(f"{ENDLESS} --checkpoint run.npz --resume run.npz", b"epoch ")
    second.send_signal(signal.SIGINT)
    second.communicate(timeout=HANG)
    assert second.returncode == 130 and not Path("run.npz.lock").exists()


# Space for the results


def test_a_file_size_limit_is_detected_before_training():
    code, out, err = shell(f"ulimit -f 2; {PROGRAM} {TRAIN}")
    assert (code, out) == (1, "") and re.search(r"cannot write 'm.npz', which needs \d+\.\d kB: File too large\.", err)
    assert not Path("m.npz").exists() and not list(Path().glob(".numba*"))


# A current folder that was removed

LOST = r"cannot resolve '%s': the current folder was removed or cannot be read\. Change to another folder \(cd, os\.chdir\), or give "


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda model: model.fit(TEXT, checkpoint="run.npz", verbose=0), ModelFileError, LOST % r"run\.npz"),
    (lambda model: model.fit(TEXT, checkpoint="run.npz", resume="run.npz", verbose=0), ModelFileError, LOST % r"run\.npz"),
    (lambda model: model.fit(TEXT, log="run.csv", epochs=1, verbose=0), ModelFileError, r"cannot write the log 'run\.csv': No such file"),
    (lambda model: model.fit(TEXT, resume="run.npz", verbose=0), ModelFileError, r"there is no model file 'run\.npz'"),
    (lambda model: model.fit(Path(), verbose=0), CorpusError, LOST % r"\."),
    (lambda model: model.save("model.npz"), ModelFileError, LOST % r"model\.npz"),
    (lambda model: expect_room([("model.npz", 1)]), ModelFileError, LOST % r"model\.npz"),
])  # fmt: skip
def test_the_error_says_that_the_current_folder_was_removed(call, error, message, folder, tmp_path):
    model, away = LanguageModel.load(folder / "m0.npz"), tmp_path / "away"
    away.mkdir()
    with contextlib.chdir(away):
        away.rmdir()
        with pytest.raises(error, match=message):
            call(model)


def test_absolute_paths_need_no_current_folder(folder, tmp_path):
    model, away, files = LanguageModel.load(folder / "m0.npz"), tmp_path / "away", {"checkpoint": tmp_path / "run.npz", "log": tmp_path / "run.csv"}
    away.mkdir()
    with contextlib.chdir(away):
        away.rmdir()
        model.fit(folder / "t.txt", epochs=1, verbose=0, **files)
    assert all(path.exists() for path in files.values())
