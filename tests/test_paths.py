"""The library neither opens nor writes pipes, devices and other special files, wherever their names come from."""

import builtins
import os
import socket
from types import SimpleNamespace

import needs
import numpy as np
import pytest
from checks import file_state
from models import fit, trained, untrained

from numba_rnnlm import LanguageModel, Sequential
from numba_rnnlm.callbacks import CSVLogger, ModelCheckpoint
from numba_rnnlm.errors import LanguageModelError, ModelFileError
from numba_rnnlm.layers import LSTM, Dense, Embedding
from numba_rnnlm.paths import is_empty, regular, same_file
from numba_rnnlm.training.log import Log

IDS = np.zeros((4, 3), int)


@pytest.fixture(scope="module")
def model():
    model = Sequential([Embedding(4, 2), LSTM(2), Dense(4, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def writers(model, path):
    """Every way to make the library write to a path of the caller's choice."""
    return {
        "log=": lambda: fit(untrained(), log=path),
        "CSVLogger": lambda: model.fit(IDS, IDS[:, 0], verbose=0, callbacks=CSVLogger(path)),
        "CSVLogger, append": lambda: model.fit(IDS, IDS[:, 0], verbose=0, callbacks=CSVLogger(path, append=True)),
        "ModelCheckpoint": lambda: model.fit(IDS, IDS[:, 0], verbose=0, callbacks=ModelCheckpoint(path)),
        "checkpoint=": lambda: fit(untrained(), checkpoint=path),
        "LanguageModel.save": lambda: trained("char").save(path),
        "Sequential.save": lambda: model.save(path),
    }


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_special_files_are_not_opened(kind, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if kind == "pipe":
        os.mkfifo("it")
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind("it")
    begin = Log("link.csv").begin  # the link is created after Log has checked the path
    os.symlink("/dev/ptmx" if kind == "device" else "it", "link.csv")

    def guarded(open):  # opening a pipe would block forever
        def opening(name, *arguments, **options):
            assert options.get("opener") is regular or isinstance(name, int) or not same_file(name, "link.csv")
            return open(name, *arguments, **options)
        return opening

    readers = {
        "load": lambda: LanguageModel.load("link.csv"),
        "Sequential.load": lambda: Sequential.load("link.csv"),
        "resume=": lambda: fit(untrained(), resume="link.csv"),
        "resume= and checkpoint=": lambda: fit(untrained(), resume="link.csv", checkpoint="link.csv"),
        "log= of a resumed run": lambda: Log("link.csv", resumed=True),
        "Log.begin": begin,
    }
    monkeypatch.setattr(builtins, "open", guarded(open))
    monkeypatch.setattr(os, "open", guarded(os.open))
    for name, act in {**writers(model, "link.csv"), **readers}.items():
        with pytest.raises(ModelFileError, match=r"(read|write) .*: it is a pipe(, a device or a socket| or a device)"):
            raise AssertionError(f"{name} returned {act()}")
    assert sorted(os.listdir()) == ["it"] * (kind != "device") + ["link.csv"]


def test_a_file_that_is_replaced_while_it_is_opened(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "log").touch()
    real = os.stat(tmp_path / "log")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="it is a pipe, a device or a socket, expected a file"):
        patch.setattr(os, "stat", lambda name: real)
        regular(str(tmp_path / "pipe"), os.O_RDONLY)
    with open(tmp_path / "log", opener=regular) as file:
        assert os.get_blocking(file.fileno()) and not os.get_inheritable(file.fileno())


@needs.linux
def test_files_in_proc_and_sys_do_not_count_as_empty(tmp_path):
    (tmp_path / "empty").touch()
    assert is_empty(tmp_path / "empty")
    for name in ("/proc/self/clear_refs", "/proc/sys/kernel/hostname", "/proc/self/mountinfo"):
        assert os.stat(name).st_size == 0 and not is_empty(name)
    for name in (folder.path for folder in os.scandir("/sys/kernel") if folder.is_file(follow_symlinks=False)):
        assert not is_empty(name)


@pytest.mark.parametrize("name", ["log.csv", "log.jsonl"])
def test_files_that_only_seem_empty_are_left_unchanged(name, model, tmp_path, monkeypatch):
    path = tmp_path / name
    path.touch()
    before = file_state(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda file: SimpleNamespace(f_blocks=0))  # like /proc
        for way, act in writers(model, path).items():
            with pytest.raises(LanguageModelError, match=r"is not a (log|training log|model|numba_rnnlm model)"):
                raise AssertionError(f"{way} returned {act()}")
        assert file_state(path) == before and os.listdir(tmp_path) == [name]
    for way, act in writers(model, path).items():
        if way != "checkpoint=":
            path.write_bytes(b"")  # like a file made by mktemp
            act()
            assert path.stat().st_size, way
