"""Writing files next to other processes: reserving space, removing leftovers of killed processes, and locking a checkpoint."""

import errno
import gc
import json
import os
import re
import signal
import socket
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import needs
import pytest
from checks import file_state
from models import LINES, fit, trained, untrained

import numba_rnnlm
from numba_rnnlm.config import TrainingConfig
from numba_rnnlm.errors import ModelFileError
from numba_rnnlm.language_model import Prepared, fitting
from numba_rnnlm.storage import locked, writing


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.npz"


# Reserving space, and leftovers


def test_space_is_reserved_before_training(path, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", fail)
        model = untrained()
        with pytest.raises(ModelFileError) as caught:
            fit(model, checkpoint=path)
    assert re.fullmatch(r"cannot write '.*model.npz', which needs \d+\.\d kB: No space left on device\. Choose a folder that exists, "
                        "is writable and has enough space.", str(caught.value))
    assert model.tokenizer_ is None and os.listdir(path.parent) == []


def test_files_fit_into_the_reserved_space(path, monkeypatch):
    sizes = {}
    monkeypatch.setattr(fitting, "expect_room", lambda files: sizes.update(files))
    for cell, layers, tied in (("lstm", 1, False), ("gru", 2, True)):
        model = fit(untrained(cell=cell, layers=layers, tied=tied), checkpoint=path, epochs=3)
        assert 2 * path.stat().st_size <= sizes[str(path)] <= 5 * path.stat().st_size
        path.unlink()
        model.fit_config(LINES, None, TrainingConfig(epochs=1, verbose=0, streams=2, steps=4), prepare=lambda about: Prepared(path))
        model.save(path)
        assert path.stat().st_size <= sizes[str(path)] <= 4 * path.stat().st_size
        path.unlink()


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL])
def test_free_space_is_checked_if_it_cannot_be_reserved(code, path, monkeypatch):
    def unsupported(*arguments):
        raise OSError(code, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    writing.expect_room([(str(path), 1000)])
    with pytest.raises(ModelFileError, match="No space left on device"):
        writing.expect_room([(str(path), 1 << 60)])


WRITER = """
import os, sys, time
from numba_rnnlm.storage import writing
with writing.replacing(sys.argv[1]) as file:
    file.write(bytes(1000))
    file.flush()
    print("writing", flush=True)
    time.sleep(600)
"""


def test_leftovers_of_killed_processes_are_removed_and_nothing_else(path, monkeypatch):
    run = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, cwd=Path(numba_rnnlm.__file__).parents[1])
    assert run.stdout.readline() == b"writing\n"
    (left,) = os.listdir(path.parent)
    trained("char").save(path)
    assert sorted(os.listdir(path.parent)) == sorted([left, "model.npz"])  # the other process is still writing it
    run.kill()
    run.communicate()
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(socket, "gethostname", lambda: "elsewhere")
        trained("char").save(path)
    assert left in os.listdir(path.parent)  # another host may still be writing it, because locks may not work across hosts
    others = [".numba_rnnlm-00000000-0123456789abcdef", ".numba_rnnlm-0123456789abcdef", "numba_rnnlm-1", ".numba_rnnlm-folder"]
    for name in others[:3]:
        (path.parent / name).touch()
    (path.parent / others[3]).mkdir()
    trained("char").save(path)
    assert sorted(os.listdir(path.parent)) == sorted([*others, "model.npz"])  # another host may be writing the others
    for name in others[:3]:
        os.utime(path.parent / name, (0, 0))
    trained("char").save(path)
    assert sorted(os.listdir(path.parent)) == sorted([*others[2:], "model.npz"])


def test_threads_do_not_remove_each_others_files(tmp_path):
    model = trained("char")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: [model.save(tmp_path / f"{number}.npz") for _ in range(10)], range(8)))
    assert sorted(os.listdir(tmp_path)) == [f"{number}.npz" for number in range(8)]


def test_a_signal_leaves_no_file_behind(path, monkeypatch):
    unlink = os.unlink

    def interrupted(name):
        monkeypatch.setattr(os, "unlink", unlink)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "unlink", interrupted)
    with pytest.raises(KeyboardInterrupt):
        writing.expect_room([(str(path), 1000)])
    assert os.listdir(path.parent) == []


# The lock


HOLDER = """
import sys, time
from numba_rnnlm.storage import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(params=["flock", "by name"])
def locking(request, monkeypatch):
    """With locks, and as on a file system without them."""
    if request.param == "by name":
        monkeypatch.setattr(writing, "lock", lambda file: None)
    return request.param


def test_only_one_can_hold_a_lock(locking, path):
    name = f"{path}.lock"
    with locked(str(path)):
        owner = json.loads(Path(name).read_text())
        assert (owner["host"], owner["process"]) == (socket.gethostname(), os.getpid())
        with pytest.raises(ModelFileError) as caught, locked(os.path.join(path.parent, ".", path.name)):
            raise AssertionError("two hold the lock")
        assert f"is being written by process {os.getpid()} on host {socket.gethostname()!r}, since {owner['since']}. Wait" in str(caught.value)
        assert ("delete" in str(caught.value)) == (locking == "by name")  # a lock of the operating system never outlives its process
        assert json.loads(Path(name).read_text()) == owner
    assert os.listdir(path.parent) == []
    with locked(str(path)):
        pass


def test_a_link_and_its_target_share_a_lock(locking, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with locked(str(tmp_path / "link")), pytest.raises(ModelFileError, match="is being written by"), locked(str(tmp_path / "target")):
        raise AssertionError("two hold the lock")


def test_killing_a_process_frees_its_lock(locking, path, monkeypatch):
    run = subprocess.Popen([sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE, cwd=Path(numba_rnnlm.__file__).parents[1])
    assert run.stdout.readline() == b"held\n"
    with pytest.raises(ModelFileError, match=f"is being written by process {run.pid} on"), locked(str(path)):
        raise AssertionError("two hold the lock")
    run.kill()
    run.communicate()
    assert os.listdir(path.parent) == ["model.npz.lock"]
    with locked(str(path)):
        pass
    assert os.listdir(path.parent) == []


FORKER = """
import os, sys, time
from numba_rnnlm.storage import locked, writing
with locked(sys.argv[1]), writing.replacing(sys.argv[1]) as file:
    file.write(b"not flushed yet")
    if os.fork() == 0:
        sys.exit()
    os.wait()
    if os.fork() == 0:
        print(os.getpid(), flush=True)  # printed by the child, so the fork is complete
    time.sleep(600)
"""


@needs.fork
def test_a_forked_child_does_not_inherit_files_and_locks(path):
    run = subprocess.Popen([sys.executable, "-c", FORKER, path], stdout=subprocess.PIPE, cwd=Path(numba_rnnlm.__file__).parents[1])
    child = int(run.stdout.readline())
    try:
        left, lock = sorted(os.listdir(path.parent))  # one child has exited through the with statements
        assert left.startswith(writing.PREFIX) and lock == "model.npz.lock" and (path.parent / left).stat().st_size == 0
        with pytest.raises(ModelFileError, match=f"is being written by process {run.pid} on"), locked(str(path)):
            raise AssertionError("two hold the lock")
        run.kill()
        run.wait()
        with locked(str(path)), writing.replacing(str(path)):  # the other child is still alive
            pass
        assert os.listdir(path.parent) == ["model.npz"]
        os.kill(child, 0)
    finally:
        run.kill()
        os.kill(child, signal.SIGKILL)
        run.communicate()


@pytest.mark.parametrize(("process", "stale"), [(2**31 - 1, True), (2**40, True), (10**400, True), (0, False), (-1, False), (True, False), (1.5, False)], ids=lambda value: f"{value!s:.12}")
def test_without_flock_the_process_id_tells_whether_a_lock_is_stale(process, stale, path, monkeypatch):
    monkeypatch.setattr(writing, "lock", lambda file: None)
    owner = {"host": socket.gethostname(), "process": process, "since": "2026-01-01 00:00:00 +0000"}
    Path(f"{path}.lock").write_text(json.dumps(owner))
    if stale:
        with locked(str(path)):
            assert json.loads(Path(f"{path}.lock").read_text())["process"] == os.getpid()
        assert os.listdir(path.parent) == []
        return
    message = re.escape(f"is being written by process {process!s:.20} on host {socket.gethostname()!r}, since 2026")
    with pytest.raises(ModelFileError, match=message), locked(str(path)):
        raise AssertionError("the lock was taken over")


def test_a_held_lock_is_respected_even_if_its_signer_is_dead(path):
    with open(f"{path}.lock", "w+b") as file:
        file.write(json.dumps({"host": socket.gethostname(), "process": 2**31 - 1, "since": ""}).encode())
        file.flush()
        assert writing.lock(file)
        with pytest.raises(ModelFileError, match="is being written by"), locked(str(path)):
            raise AssertionError("two hold the lock")


@pytest.mark.parametrize("content", [b"", b'{"host": "elsewhere", "process": 1, "since": ""}', b'{"host": 5, "process": "x", "since": 1}'])
def test_without_flock_a_lock_of_an_unknown_process_is_respected(content, path, monkeypatch):
    monkeypatch.setattr(writing, "lock", lambda file: None)
    Path(f"{path}.lock").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"is being written by .*This file system has no locks: if that process no longer runs, delete '.*model.npz.lock'"), locked(str(path)):
        raise AssertionError("the lock was taken over")
    monkeypatch.undo()
    with locked(str(path)):  # with flock, the lock is known to be free
        pass


@pytest.mark.parametrize("kind", ["pins", "{", "[1]", "[" * 1000, '{"pins": 3}', "\xff" * 9999, "pipe", "link"])
def test_a_file_that_is_not_a_lock_is_left_unchanged(kind, path, tmp_path):
    lock, other = tmp_path / "model.npz.lock", tmp_path / "mine.txt"
    other.write_text("pins")
    if kind == "pipe":
        os.mkfifo(lock)
    elif kind == "link":
        lock.symlink_to(other)
    else:
        lock.write_text(kind)
    before = file_state(lock)
    words = "Too many levels of symbolic links" if kind == "link" else "model.npz.lock', but that file exists and is not a lock. Give the"
    with pytest.raises(ModelFileError, match=words), locked(str(path)):
        pass
    assert file_state(lock) == before and other.read_text() == "pins"


def test_a_lock_that_cannot_be_created(tmp_path):
    for place in ("missing/run.npz", "a\0b"):
        with pytest.raises(ModelFileError, match=r"cannot write .*Existing files were not changed"), locked(str(tmp_path / place)):
            raise AssertionError("the lock was created")


def test_a_lock_that_disappears_while_it_is_taken_is_created_again(path, monkeypatch):
    lock, name = writing.lock, Path(f"{path}.lock")

    def released(file):
        monkeypatch.setattr(writing, "lock", lock)
        name.unlink()  # as if the previous holder had just finished
        return lock(file)

    name.touch()
    monkeypatch.setattr(writing, "lock", released)
    with locked(str(path)):
        assert json.loads(name.read_text())["process"] == os.getpid()


def test_many_threads_take_turns_holding_a_lock(path):
    held, most, turns = [], [], []

    def work(number):
        while True:
            try:
                with locked(str(path)):
                    held.append(number)
                    most.append(len(held))
                    held.remove(number)
                    turns.append(number)
                    return
            except ModelFileError as error:
                assert "is being written by" in str(error)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(40)))
    assert sorted(turns) == list(range(40)) and set(most) == {1} and os.listdir(path.parent) == []


def test_an_interrupt_while_an_array_is_closed_remains_an_interrupt(path, monkeypatch):
    """zipfile would then raise a ValueError, because it cannot close the archive, and report another when that is deleted."""
    def close(self):
        raise KeyboardInterrupt

    trained("char").save(path)
    before = path.read_bytes()
    monkeypatch.setattr(zipfile._ZipWriteFile, "close", close)
    ignored = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    with pytest.raises(KeyboardInterrupt):
        trained("char").save(path)
    gc.collect()
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name] and not ignored
