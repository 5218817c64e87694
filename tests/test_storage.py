"""Saving and loading preserve a model exactly; loading any other file raises an error that explains why."""

import contextlib
import copy
import errno
import functools
import io
import json
import os
import re
import resource
import stat
import warnings
import zipfile
from pathlib import Path

import needs
import numpy as np
import pytest
from checks import assert_same_bits, file_state
from data import record_files
from hypothesis import given
from hypothesis import strategies as st
from models import LINES, fit, trained, untrained

from numba_rnnlm import LanguageModel, Sequential
from numba_rnnlm.callbacks import ModelCheckpoint
from numba_rnnlm.errors import ConfigError, ModelFileError
from numba_rnnlm.formats import native
from numba_rnnlm.formats.native import open_model, read_about, write_model
from numba_rnnlm.layers import LSTM, Dense, Dropout, Embedding
from numba_rnnlm.optimizers import pytorch

TOKENIZERS = ("char", "word", "byte", None)
SAVED = {}  # a small model file, for tests that damage it


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.npz"


@pytest.fixture(scope="module", autouse=True)
def small_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "model.npz"
    model = fit(untrained(hidden=3, embedding=2), valid=LINES)
    model.save(path)
    SAVED.update(path=path, data=path.read_bytes(), score=model.score("to be"))


def refused(path, message):
    """Assert that loading raises a :class:`ModelFileError` with this message, which names the file."""
    with pytest.raises(ModelFileError, match=message) as caught:
        LanguageModel.load(path)
    assert repr(str(path)) in str(caught.value)
    assert "allow_pickle" not in str(caught.value)
    assert str(caught.value).endswith((".", "numba-rnnlm"))
    assert "\n" not in str(caught.value)


def rewrite(path, about=lambda about: about, members=lambda members: members):
    """Write the small file with a changed header or changed members."""
    with np.load(SAVED["path"]) as file:
        arrays = dict(file)
    header = about(json.loads(arrays.pop("about").tobytes()))
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    np.savez(path, about=np.frombuffer(text, np.uint8), **members(arrays))


# Saving and loading


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_a_loaded_model_predicts_the_same(tokenizer, path):
    model = trained(tokenizer)
    model.save(path)
    loaded = LanguageModel.load(path)
    assert_same_bits(loaded.network_.weights(), model.network_.weights())
    assert loaded.get_params() == model.get_params()
    text, prompt = ([1, 4, 9, 5], [1, 4]) if tokenizer is None else ("to be or not\n", "to be")
    assert loaded.full_scores(text) == model.full_scores(text)
    assert loaded.evaluate(text) == model.evaluate(text)
    assert list(loaded.stream(prompt, 20, seed=1)) == list(model.stream(prompt, 20, seed=1))
    second = path.with_name("second.npz")
    loaded.save(second)
    assert second.read_bytes() == path.read_bytes()


def test_the_history_is_restored_except_for_times(path):
    for valid in (None, LINES):
        model = fit(untrained(), valid=valid)
        model.save(path)
        history = LanguageModel.load(path).history_
        assert list(history) == list(model.history_)
        for column, values in history.items():
            measured = column not in ("tokens_per_second", "seconds")
            np.testing.assert_array_equal(values, model.history_[column] if measured else [np.nan] * 2)
        again = fit(LanguageModel.load(path), epochs=1).history_
        assert again["epoch"] == [1, 2, 3]
        assert {len(values) for values in again.values()} == {3}


@pytest.mark.parametrize("options", [{"tied": True}, {"layers": 2, "dropout": 0.5}, {"cell": "gru"}], ids=str)
def test_models_of_every_architecture(options, path):
    model = fit(untrained(**options))
    model.save(path)
    assert LanguageModel.load(path).score("to be") == model.score("to be")


def test_an_untrained_model_of_ids_can_be_saved(path):
    model = untrained(tokenizer=None, vocabulary_size=5)
    model.save(path)
    assert LanguageModel.load(path).score([1, 2, 3]) == model.score([1, 2, 3])


def test_the_backend_is_chosen_when_loading(path):
    model = trained("char")
    model.save(path)
    other = LanguageModel.load(path, backend="reference", threads=1)
    assert (other.get_params()["backend"], other.get_params()["threads"]) == ("reference", 1)
    assert other.score("to be") == pytest.approx(model.score("to be"), rel=1e-5)


def test_numpy_can_load_the_file_without_pickle(path):
    model = trained("char")
    model.save(path)
    with np.load(path, allow_pickle=False) as file:
        about = json.loads(file["about"].tobytes().decode("utf-8"))
        weights = {name: file[name] for name in file.files if name != "about"}
    assert (about["format"], about["version"], about["kind"]) == ("numba_rnnlm", native.VERSION, "language_model")
    assert about["tokenizer"]["symbols"] == list(model.tokenizer_.vocabulary.symbols)
    assert about["config"]["hidden"] == 12
    assert_same_bits(weights, {f"weights/{name}": array for name, array in model.network_.weights().items()})
    assert {array.dtype for array in weights.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("kind", [str, os.fsencode, lambda path: path], ids=["str", "bytes", "path"])
def test_any_kind_of_path(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ä folder").mkdir()
    for path in (tmp_path / "ä folder" / "no suffix", "here.npz"):
        trained("char").save(kind(path))
        assert LanguageModel.load(kind(path)).score("to be") == trained("char").score("to be")
    assert sorted(os.listdir()) == ["here.npz", "ä folder"]


# Writing


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_default_mode(mask, path):
    before = os.umask(mask)
    try:
        trained("char").save(path)
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("call", ["replace", "fsync"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), PermissionError(13, "Denied")])
def test_a_failed_save_leaves_the_old_model(call, error, path, monkeypatch):
    trained("char").save(path)
    before = path.read_bytes()

    def fail(*arguments):
        raise error

    monkeypatch.setattr(native.os, call, fail)
    with pytest.raises(ModelFileError, match=f"cannot write '.*model.npz': {error.strerror}. Existing files were"):
        trained("word").save(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["model.npz"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_save_leaves_no_temporary_file(error, path, monkeypatch):
    def fail(file, *arguments, **options):
        file.write(b"half of it")
        raise error

    monkeypatch.setattr(native.np.lib.format, "write_array", fail)
    with pytest.raises(error):
        trained("char").save(path)
    assert os.listdir(path.parent) == []


def test_saving_succeeds_if_the_folder_cannot_be_synced(path, monkeypatch):
    synchronise, calls = os.fsync, []

    def only_files(descriptor):
        calls.append(descriptor)
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        synchronise(descriptor)

    monkeypatch.setattr(native.os, "fsync", only_files)
    trained("char").save(path)
    assert len(calls) == 2
    assert LanguageModel.load(path).score("to be") == trained("char").score("to be")


def test_paths_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ModelFileError, match=r"cannot write '.*folder': it is a directory; give the name of a file"):
        trained("char").save(tmp_path / "folder")
    for place in ("missing/model.npz", "file/model.npz"):
        with pytest.raises(ModelFileError, match=r"cannot write .* choose a folder that exists, is writable"):
            trained("char").save(tmp_path / place)
    for place in ("a\0b.npz", "\ud800.npz", "a" * 5000, "", 5, None, [], b"a\0b"):
        for call in (trained("char").save, LanguageModel.load):
            with pytest.raises(ModelFileError, match=r"path is .*, expected a path such as 'model\.npz'\.") as caught:
                call(place)
            assert len(str(caught.value)) < 2000
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "not a folder"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_saving_over_a_model_preserves_its_mode(mode, path):
    trained("char").save(path)
    path.chmod(mode)
    trained("char").save(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_files_that_are_not_models_are_not_overwritten(tmp_path, monkeypatch):
    (tmp_path / "notes").write_text("my notes")
    os.mkfifo(tmp_path / "fifo")
    for name, words in (("notes", "the existing file is not a model that this numba_rnnlm can read, and is not overwritten; choose another name"),
                        ("fifo", "it is a pipe or a device, which a model would replace; give the name of a file.")):
        before = file_state(tmp_path / name)
        with pytest.raises(ModelFileError, match=f"cannot write '.*{name}': {words}"):
            trained("char").save(tmp_path / name)
        assert file_state(tmp_path / name) == before
    (tmp_path / "empty").touch()  # like a new temporary file
    trained("char").save(tmp_path / "empty")
    assert sorted(os.listdir(tmp_path)) == ["empty", "fifo", "notes"]
    assert LanguageModel.load(tmp_path / "empty").score("to be") == trained("char").score("to be")


def test_other_archives_and_damaged_models_are_not_overwritten(path):
    others = {"archive.zip": b"", "damaged.npz": SAVED["data"][:-30], "newer.npz": b""}
    with zipfile.ZipFile(path.parent / "archive.zip", "w") as file:
        file.writestr("photo.jpg", b"x")
    rewrite(path.parent / "newer.npz", about=lambda about: about | {"version": native.VERSION + 1})
    (path.parent / "damaged.npz").write_bytes(others["damaged.npz"])
    model = Sequential([Embedding(4, 2), LSTM(2), Dense(4, "softmax")])
    for name in others:
        before = (path.parent / name).read_bytes()
        for save in (trained("char").save, model.save):
            with pytest.raises(ModelFileError, match=f"cannot write '.*{name}': the existing file is not a model that this numba_rnnlm can read, and is not "
                                                     "overwritten; choose another name, or delete it"):
                save(path.parent / name)
        assert (path.parent / name).read_bytes() == before


def test_the_checkpoint_of_an_unfinished_run_is_not_overwritten(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ended = fit(untrained(), checkpoint="ended.npz")
    with open_model("ended.npz") as file:  # make the same checkpoint unfinished
        about = {name: value for name, value in file.about.items() if name not in ("format", "version", "kind")}
        groups = {group: file.group(group).items() for group in file.groups}
    about["run"]["position"]["ended"] = ""
    write_model("run.npz", "language_model", about, groups)
    before = Path("run.npz").read_bytes()
    words = r"'run.npz' is the checkpoint of a run that has not ended \(epoch .*\); continue with resume='run.npz', or delete it."
    for write in (lambda: ended.save("run.npz"), lambda: fit(untrained(), checkpoint="run.npz"),
                  lambda: fit(untrained(), callbacks=ModelCheckpoint("run.npz"))):
        with pytest.raises(ModelFileError, match=words):
            write()
    with pytest.warns(UserWarning, match="no checkpoint was written, training continues: " + words.replace("run.npz", "run-1.npz")):
        Path("run-1.npz").write_bytes(before)
        fit(untrained(), callbacks=ModelCheckpoint("run-{epoch}.npz"))
    assert Path("run.npz").read_bytes() == before
    with pytest.raises(ConfigError, match=r"replace_run is 1.5, expected one of False, True"):
        ended.save("run.npz", replace_run=1.5)
    ended.save("ended.npz")  # the checkpoint of a finished run is an ordinary model file
    ended.save("run.npz", replace_run=True)
    assert LanguageModel.load("run.npz").score("to be") == ended.score("to be")


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e39])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_weights_that_could_not_be_loaded_are_not_saved(bad, backend, path):
    trained("char").save(path)
    before, sequential = path.read_bytes(), Sequential([Embedding(4, 2), LSTM(2), Dense(4, "softmax")], backend=backend)
    model = LanguageModel.load(path, backend=backend)
    weights = model.network_.weights()
    with np.errstate(over="ignore"):
        weights["lstm/U"][1, 2] = bad
        model.network_.set_weights(weights)
        if beyond_float32 := backend == "reference" and np.isfinite(bad):  # otherwise set_weights itself raises
            sequential.set_weights([np.full_like(array, bad) for array in sequential.get_weights()])
    with pytest.raises(ModelFileError, match=r"cannot write '.*model.npz': weights/lstm/U contains NaN, infinity or numbers beyond float32, which a model "
                                             "file may not have"):
        model.save(path)
    if beyond_float32:
        with pytest.raises(ModelFileError, match="weights/embedding/W contains NaN, infinity or numbers beyond float32"):
            sequential.save(path.with_name("other.npz"))
    assert path.read_bytes() == before and os.listdir(path.parent) == ["model.npz"]


def test_every_weight_is_checked(path, monkeypatch):
    monkeypatch.setattr(native, "CHUNK", 4)
    for place in range(10):
        with pytest.raises(ModelFileError, match="weights/dense/W contains NaN"):
            write_model(path, "sequential", {}, {"weights": [("dense/W", np.where(np.arange(10) == place, np.nan, 1.0).reshape(2, 5))]})


def test_a_state_may_be_infinite_but_not_beyond_float32(path):
    arrays = {"weights": [("dense/W", np.ones((2, 2)))], "state": [("lstm/s", np.array([np.nan, np.inf, 1.0]))]}
    write_model(path, "sequential", {}, arrays)
    with open_model(path) as file:
        np.testing.assert_array_equal(file.group("state")["lstm/s"], [np.nan, np.inf, 1.0])
    with pytest.raises(ModelFileError, match="moments/0/lstm/U contains NaN, infinity or numbers beyond float32"):
        write_model(path, "sequential", {}, {"moments/0": [("lstm/U", np.array([1e39]))]})


def test_overwriting_preserves_owner_group_and_attributes(path, monkeypatch):
    trained("char").save(path)
    given, attributes = [], {}
    old = os.stat_result((*path.stat()[:4], 12345, 23456, *path.stat()[6:]))
    with contextlib.suppress(OSError):  # the file system has no attributes
        os.setxattr(path, "user.note", b"mine")
        attributes["user.note"] = b"mine"
    path.chmod(0o664)
    monkeypatch.setattr(os, "fchown", lambda descriptor, user, group: given.append((user, group)))
    stated = os.stat
    monkeypatch.setattr(os, "stat", lambda name, **options: os.stat_result((stated(name).st_mode, *old[1:])) if name == str(path) else stated(name, **options))
    trained("word").save(path)
    monkeypatch.undo()
    assert given == [(12345, -1), (-1, 23456)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o604  # the group could not be set, so the actual group gets no rights
    assert {name: os.getxattr(path, name) for name in attributes} == attributes


@needs.root
def test_root_preserves_the_owner_of_a_file(path):
    trained("char").save(path)
    path.chmod(0o640)
    os.chown(path, 12345, 23456)
    trained("word").save(path)
    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (12345, 23456, 0o640)


def test_saving_to_a_symbolic_link_replaces_its_target(path, tmp_path):
    trained("char").save(tmp_path / "target.npz")
    (tmp_path / "hard.npz").hardlink_to(tmp_path / "target.npz")
    before = (tmp_path / "hard.npz").read_bytes()
    path.symlink_to("target.npz")
    trained("word").save(path)
    assert path.is_symlink() and LanguageModel.load(tmp_path / "target.npz").tokenizer_.name == "word"
    assert (tmp_path / "hard.npz").read_bytes() == before  # a new file was written, so hard links keep the old one


def test_another_users_link_in_a_world_writable_folder_is_not_followed(tmp_path, monkeypatch):
    (tmp_path / "link.npz").symlink_to(tmp_path / "profile.npz")
    trained("char").save(tmp_path / "link.npz")  # allowed in one's own folder
    before = (tmp_path / "profile.npz").read_bytes()
    tmp_path.chmod(0o1777)
    trained("word").save(tmp_path / "link.npz")  # allowed because the link is one's own
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    folder = os.stat(tmp_path)
    seen = os.stat_result((*folder[:4], 23456, *folder[5:]))
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", lambda path, act=os.stat, **options: seen if path == str(tmp_path) else act(path, **options))
        with pytest.raises(ModelFileError, match=r"link.npz': it is another user's link in a world-writable folder"):
            trained("char").save(tmp_path / "link.npz")
    assert (tmp_path / "profile.npz").read_bytes() != before


@pytest.mark.parametrize("path", [None, 5, 1.5, ["m.npz"], io.BytesIO()], ids=lambda path: type(path).__name__)
def test_values_that_are_not_paths(path):
    for call in (trained("char").save, LanguageModel.load, read_about):
        with pytest.raises(ModelFileError, match=r"path is .*, expected a path such as 'model.npz'"):
            call(path)


# Reading files that are not models


def test_missing_files(tmp_path):
    refused(tmp_path / "missing.npz", "there is no model file")
    refused(tmp_path, "is a directory, expected a model file")


@pytest.mark.parametrize("part", np.linspace(0, 1, 20, endpoint=False))
def test_truncated_files(part, path):
    data = SAVED["data"]
    path.write_bytes(data[: int(part * len(data))])
    refused(path, "is damaged, truncated, or not a model file" if part else "it is not a zip archive")


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), count=st.integers(1, 3))
def test_flipped_bits_are_detected_or_harmless(tmp_path_factory, place, bit, count):
    data = bytearray(SAVED["data"])
    first = int(place * len(data))
    for position in range(first, min(first + count, len(data))):
        data[position] ^= 1 << bit
    path = tmp_path_factory.getbasetemp() / "flipped.npz"
    path.write_bytes(data)
    try:
        model = LanguageModel.load(path)
    except ModelFileError as error:
        assert repr(str(path)) in str(error)
    else:  # the bit belongs to a date or an attribute, not to the model
        assert model.score("to be") == SAVED["score"]


@given(st.binary(max_size=300), st.sampled_from([b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00", b"\x80\x04"]))
def test_arbitrary_bytes(tmp_path_factory, data, start):
    path = tmp_path_factory.getbasetemp() / "other.npz"
    path.write_bytes(start + data)
    refused(path, "is not a numba_rnnlm model|cannot be read as a numba_rnnlm model")


def test_other_numpy_files(path):
    with open(path, "wb") as file:
        np.save(file, np.arange(3))
    refused(path, "is not a numba_rnnlm model file: it is not a zip archive")
    np.savez(path, weights=np.arange(3))
    refused(path, "it has no member 'about'")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("about", "{}")
    refused(path, "is damaged|is not a numba_rnnlm model")


def test_objects_are_not_unpickled(path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(path.parent / "unpickled"),)

    bomb = np.array([Bomb()], object)
    np.savez(path, about=bomb)
    refused(path, "contains Python objects in 'about', which are pickled; a pickle can run any code, so it is not read")
    path.write_text("a text")
    refused(path, "is not a zip archive")
    rewrite(path, members=lambda members: members | {"weights/dense/b": bomb})
    refused(path, "contains Python objects in 'weights/dense/b'")
    assert os.listdir(path.parent) == ["model.npz"]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"\xff\xfe", "is damaged"),
        (b"{", "is damaged"),
        (b"", "is damaged"),
        ([], "is not a numba_rnnlm model"),
        ({}, "is not a numba_rnnlm model"),
        ({"format": "keras"}, "is not a numba_rnnlm model"),
        ({"format": "numba_rnnlm"}, "has format version None, expected a positive integer"),
        ({"format": "numba_rnnlm", "version": "1"}, "has format version '1'"),
        ({"format": "numba_rnnlm", "version": 0}, "has format version 0"),
        (
            {"format": "numba_rnnlm", "version": native.VERSION + 1},
            f"has format version {native.VERSION + 1}; this numba_rnnlm reads up to {native.VERSION}. Upgrade with: pip",
        ),
        ({"format": "numba_rnnlm", "version": 1}, "holds a None, expected a 'language_model'"),
        ({"format": "numba_rnnlm", "version": 1, "kind": "language_model"}, "its parts do not fit together"),
    ],
    ids=str,
)
def test_invalid_headers(header, message, path):
    rewrite(path, about=lambda about: header)
    with pytest.raises(ModelFileError, match=message):
        LanguageModel.load(path)


@pytest.mark.parametrize("key", ["config", "tokenizer", "history"])
@pytest.mark.parametrize("value", ["missing", None, 3, [], {}, {"name": "bpe"}], ids=str)
def test_headers_with_a_damaged_part(key, value, path):
    if (key, value) == ("tokenizer", None):
        value = "none"  # None would be valid: a model of ids
    if key == "history" and value in ("missing", None, {}):
        return  # valid: see test_a_model_without_a_history
    rewrite(path, about=lambda about: {name: part for name, part in (about | {key: value}).items()
                                       if part != "missing" or name != key})
    refused(path, "is damaged: its parts do not fit together")


@pytest.mark.parametrize(
    "change",
    [
        {"hidden": 4}, {"hidden": 0}, {"hidden": "3"}, {"hidden": 10**7}, {"hidden": 10**12}, {"cell": "gru"},
        {"layers": 2}, {"embedding": 3}, {"tied": True}, {"tokenizer": None}, {"tokenizer": "bpe"}, {"seed": -1},
        {"colour": "red"}, {"vocabulary_size": 9}, {"threads": 1},
    ],
    ids=str,
)  # fmt: skip
def test_a_configuration_that_does_not_fit(change, path):
    rewrite(path, about=lambda about: about | {"config": about["config"] | change})
    refused(path, "is damaged: its parts do not fit together")


@pytest.mark.parametrize(("change", "words"), [
    ({"config": {"tokenizer": "word"}}, "tokenizer is 'word' in its configuration and 'char' in its tokenizer"),
    ({"config": {"tokenizer": "byte"}}, "tokenizer is 'byte' in its configuration and 'char' in its tokenizer"),
    ({"config": {"tokenizer": None, "vocabulary_size": 15}}, "tokenizer is None in its configuration and 'char' in its tokenizer"),
    ({"config": {"line_ends": "keep"}}, "line_ends is 'keep' in its configuration and 'lf' in its tokenizer"),
    ({"config": {"vocabulary_size": 15}}, "vocabulary_size is for tokenizer=None only"),
    ({"tokenizer": {"symbols": ["<unk>", "\n", "a"]}}, r"the vocabulary has 3 symbols, and the embedding has the shape \(\d+, 2\)"),
    ({"version": True}, "has format version True, expected a positive integer"),
    ({"run": {"model": "good"}}, "its parts do not fit together"),
], ids=str)  # fmt: skip
def test_parts_that_contradict_each_other(change, words, path):
    def changed(about):
        return about | {key: about[key] | value if isinstance(value, dict) and key in about else value for key, value in change.items()}

    rewrite(path, about=changed)
    refused(path, words)


@pytest.mark.parametrize("change", [
    lambda about, deep: about["config"].update(hidden=deep), lambda about, deep: about.update(training={"epochs": deep}), lambda about, deep: about.update(mine=[1, {"a": deep}]),
])  # fmt: skip
def test_a_deeply_nested_header(change, path):
    """Copying or pickling the header later would recurse once per level."""
    def nested(about, levels):
        change(about, functools.reduce(lambda inner, _: [inner], range(levels), 1))
        return about

    rewrite(path, lambda about: nested(about, 900))
    refused(path, "is damaged: its header is nested more than 32 levels deep")
    rewrite(path, lambda about: nested(about, 20))
    with contextlib.suppress(ModelFileError):
        copy.deepcopy(LanguageModel.load(path))


def test_a_duplicate_key(path):
    rewrite(path, about=lambda about: json.dumps(about).encode()[:-1] + b', "version": 1}')
    refused(path, "is damaged: its header cannot be read .an object has a duplicate key")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400", "-1e999"])
def test_numbers_that_json_does_not_have(number, path):
    rewrite(path, about=lambda about: json.dumps(about).encode()[:-1] + f', "training": {{"x": [{number}]}}}}'.encode())
    refused(path, rf"is damaged: its header cannot be read \({number} is not a JSON number\)")


def test_a_checkpoint_names_one_of_its_models(path):
    fit(untrained(), checkpoint=path)
    with open_model(path) as file:
        about = {name: value for name, value in file.about.items() if name not in ("format", "version", "kind")}
        groups = {group: file.group(group).items() for group in file.groups}
    write_model(path, "language_model", about | {"run": about["run"] | {"model": "state"}}, groups)
    refused(path, "its parts do not fit together .the model of the run is 'state'")


def test_running_out_of_memory_is_not_reported_as_damage(path, monkeypatch):
    path.write_bytes(SAVED["data"])

    def fail(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr(native.np, "frombuffer", fail)
    refused(path, "cannot be read: not enough memory. Close other programs, or raise the memory limit of this process")


def test_a_sequential_with_too_many_layers_or_updates(path):
    model = Sequential([Embedding(4, 2), LSTM(2), Dense(4, "softmax")])
    with pytest.raises(ConfigError, match="the model has 1,001 layers, expected at most 1,000"):
        Sequential([Embedding(4, 2), *[Dropout(0.1)] * 1000])
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(np.zeros((4, 3), int), np.zeros(4, int), verbose=0)
    model.save(path)
    with open_model(path) as file:
        about = {name: value for name, value in file.about.items() if name not in ("format", "version", "kind")}
        groups = {group: file.group(group).items() for group in file.groups}
    for change, words in (({"layers": about["layers"] * 400}, "it has 1,200 layers, expected at most 1,000"),
                          ({"updates": 2**53 + 1}, "updates is 9007199254740993, expected a whole number of at least 0 and at most 9,007,199,254,740,992"),
                          ({"updates": 10**400}, "updates is a number of about 400 digits, expected a whole number")):
        write_model(path, "sequential", about | change, groups)
        with pytest.raises(ModelFileError, match=words) as caught:
            Sequential.load(path)
        assert len(str(caught.value)) <= 1000


@pytest.mark.parametrize("cell", ["elman", 5])
@pytest.mark.parametrize("body", [None, [{"class": "Dropout", "rate": 0.1}]], ids=str)
def test_an_unknown_cell(cell, body, path):
    rewrite(path, about=lambda about: about | {"config": about["config"] | {"cell": cell, "body": body}})
    refused(path, f"uses the custom cell {cell!r}, which is not known here")


def test_a_vocabulary_that_does_not_fit(path):
    def other(symbols):
        return lambda about: about | {"tokenizer": {"name": "char", "symbols": symbols}}

    for symbols in (["<unk>", "\n", "a"], ["a", "b"], ["<unk>", "\n", "a", "a"], ["<unk>", "\n", 3], "<unk>"):
        rewrite(path, about=other(symbols))
        refused(path, "is damaged: its parts do not fit together")


@pytest.mark.parametrize("history", [None, {}, "missing", {"epoch": [], "loss": []}, {"epoch": []}], ids=str)
def test_a_model_without_a_history(history, path):
    rewrite(path, about=lambda about: {name: part for name, part in (about | {"history": history}).items() if part != "missing"})
    model = LanguageModel.load(path)
    assert model.score("to be") == SAVED["score"]
    assert set(map(len, model.history_.values())) == {0}
    assert fit(model, epochs=1).history_["epoch"] == [1]


def test_missing_history_columns_become_nan(path):
    rewrite(path, about=lambda about: about | {"history": {"epoch": [1, 2], "loss": [2.5, None]}})
    history = LanguageModel.load(path).history_
    np.testing.assert_array_equal(history["loss"], [2.5, np.nan])
    assert set(map(len, history.values())) == {2} and np.isnan(history["valid_loss"]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": [1.0]}, "column 'loss' of the history is not a list as long as that of the epochs"),
        ({"epoch": []}, "column '.*' of the history is not a list as long"),
        ({"loss": {"a": 1, "b": 2}}, "column 'loss' of the history is not a list"),
        ({"loss": None}, "column 'loss' of the history is not a list"),
        ({"loss": ["1", "2"]}, "column 'loss' of the history holds something other than numbers"),
        ({"loss": [True, 1]}, "column 'loss' of the history holds something other than numbers"),
        ({"loss": [1, 10**400]}, "its parts do not fit together"),
        ({"epoch": 3}, "its parts do not fit together"),
        ({"epoch": [[], []]}, "column 'epoch' of the history holds something other than numbers"),
        ({"epoch": [1, None]}, "the epochs of the history are not numbers of epochs"),
        ({"epoch": [1, 10**400]}, "the epochs of the history are not numbers of epochs"),
        ({"epoch": [-1, 0]}, "the epochs of the history are not numbers of epochs"),
        ({"accuracy": [1, 2]}, "the history has a column 'accuracy', expected some of epoch, loss"),
        ("no epoch", "the history has no column 'epoch'"),
        ([1], "the history is a list, expected columns by their names"),
    ],
    ids=str,
)  # fmt: skip
def test_a_history_that_does_not_fit(change, message, path):
    def history(about):
        if change == "no epoch":
            return {name: values for name, values in about["history"].items() if name != "epoch"}
        return about["history"] | change if isinstance(change, dict) else change

    rewrite(path, about=lambda about: about | {"history": history(about)})
    refused(path, f"is damaged: its parts do not fit together.*{message}" if "parts" not in message else message)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(bad, path):
    def spoil(members):
        members["weights/lstm/U"][1, 2] = bad
        return members

    rewrite(path, members=spoil)
    refused(path, "is damaged: 'weights/lstm/U' contains numbers that are not finite")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros(3, np.float32), r"weight 'dense/b' is \(3,\), expected \(\d+,\)"),
        (np.zeros((1, 1), np.float32), r"weight 'dense/b' is \(1, 1\)"),
        (np.float32(1), r"weight 'dense/b' is \(\)"),
        (np.zeros(3, np.int64), "contains an array of type <i8 in 'weights/dense/b', expected floats of 16, 32 or 64 bits"),
        (np.zeros(3, np.uint8), r"contains an array of type \|u1 in 'weights/dense/b', expected floats"),
        (np.zeros(3, bool), r"contains an array of type \|b1 in 'weights/dense/b', expected floats"),
        (np.zeros(3, complex), r"type <c16 .* array.astype\(numpy.float32\) and save them again"),
        (np.zeros(3, np.longdouble), "contains an array of type <f16 in 'weights/dense/b'"),
        (np.array(["a"]), "contains an array of type <U1 in 'weights/dense/b'"),
        (np.zeros(3, "V2"), r"contains an array of type \|V2 in 'weights/dense/b'"),  # bfloat16, as other libraries save it
        (np.zeros(3, [("a", "f4"), ("b", "f4")]), r"contains an array of type \[\('a', '<f4'\), \('b', '<f4'\)\] in 'weights/dense/b'"),
        (np.full(3, 1e300), "is damaged: 'weights/dense/b' contains numbers that are not finite"),
        (None, "'dense/b'"),
    ],
    ids=str,
)
def test_weights_that_do_not_fit(value, message, path):
    def change(members):
        del members["weights/dense/b"]
        return members if value is None else members | {"weights/dense/b": value}

    rewrite(path, members=change)
    refused(path, message)


LAYOUTS = {
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "every second element": lambda array: np.repeat(array, 2, axis=-1)[..., ::2],
    "reversed": lambda array: array[..., ::-1].copy()[..., ::-1],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f8", ">f8", "<f2", ">f2"])
def test_weights_saved_by_numpy_are_read_exactly(kind, layout, path):
    with np.load(SAVED["path"]) as file:
        wanted = {name: array.astype(kind) for name, array in file.items() if name != "about"}
    changed = {name: LAYOUTS[layout](array) for name, array in wanted.items()}
    assert any(array.flags.f_contiguous and array.ndim == 2 for array in changed.values()) == (layout == "Fortran")
    rewrite(path, members=lambda members: changed)
    with open_model(path) as file:
        read = file.group("weights")
    for name, array in read.items():
        assert array.flags.c_contiguous and array.dtype.isnative
        np.testing.assert_array_equal(array, wanted[f"weights/{name}"])
    weights = LanguageModel.load(path).network_.weights()
    for name, array in weights.items():
        np.testing.assert_array_equal(array, wanted[f"weights/{name}"].astype(np.float32))
    if "2" not in kind:
        assert LanguageModel.load(path).score("to be") == SAVED["score"]


def test_one_weight_too_many(path):
    rewrite(path, members=lambda members: members | {"weights/dense_1/W": np.zeros(3, np.float32)})
    refused(path, "'dense_1/W'")


def test_a_model_of_another_kind(path):
    write_model(path, "sequential", {"config": {}}, {"weights": [("dense/W", np.zeros((2, 2), np.float32))]})
    refused(path, re.escape("holds a 'sequential', expected a 'language_model'; load it in Python, with Sequential.load."))
    with open_model(path) as file:
        about, weights = file.about, file.group("weights")
    assert about == read_about(path) and about["kind"] == "sequential"
    assert_same_bits(weights, {"dense/W": np.zeros((2, 2), np.float32)})


def test_an_encrypted_member(path):
    data = bytearray(SAVED["data"])
    for header, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(header) + flags] |= 1
    path.write_bytes(data)
    refused(path, "cannot be read as a numba_rnnlm model")


@pytest.mark.parametrize("shape", ["(10**6,)", "(99999999999999,)", "(" + 30 * "9" + ",)", "(-5,)", "(1,", "(8,)"])
def test_an_array_with_an_impossible_shape(shape, path):
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("about.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
    refused(path, "cannot be read as a numba_rnnlm model|is damaged: 'about' does not match its own header")


def test_an_unterminated_header(path):
    rewrite(path, about=lambda about: b"[" * 10_000)
    refused(path, "cannot be read as a numba_rnnlm model")
    rewrite(path, about=lambda about: b"[" * 100_000)
    refused(path, "is damaged: its header has more values than a model of its size needs")


# Malicious archives


@pytest.mark.parametrize("name", ["pictures/a", "moments/x/a", "moments/100/a", "weights", "about/a", "weights/" + "a" * 1001, "moments/\u00b2/a"])
def test_members_that_no_model_has(name, path):
    rewrite(path, members=lambda members: members | {name: np.zeros(1, np.float32)})
    refused(path, f"is not a numba_rnnlm model: it has a member '{name[:20]}")


def test_more_members_than_any_model_has(path, monkeypatch):
    monkeypatch.setattr(native, "MOST_MEMBERS", 4)
    path.write_bytes(SAVED["data"])
    refused(path, r"is not a numba_rnnlm model: it has \d members, more than 4")


@pytest.mark.parametrize("name", ["../../outside.npy", "/etc/outside.npy", "weights\\outside.npy", "weights/dense/b.npy", "notes.txt"])
def test_members_with_other_names(name, path):
    path.write_bytes(SAVED["data"])
    with zipfile.ZipFile(path, "a") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two members with the same name
        file.writestr(name, b"")
    refused(path, f"is not a numba_rnnlm model: it has a member {re.escape(repr(name))}")


def test_a_compressed_file(path):
    with np.load(SAVED["path"]) as file:
        np.savez_compressed(path, **file)
    refused(path, "has a compressed member, '.*': compressed files are not read.* If you trust it, load its arrays with numpy.load and save them "
                  "with numpy.savez")


def test_overlapping_members(path):
    path.write_bytes(SAVED["data"])
    with zipfile.ZipFile(path, "a") as file:
        for number in range(99):
            twin = copy.copy(file.getinfo("weights/lstm/U.npy"))
            twin.filename = f"weights/twin/{number}.npy"
            file.filelist.append(twin)
        file.writestr("weights/last.npy", b"")  # makes zipfile write the directory again
    refused(path, "is damaged: its members overlap")


def test_a_file_without_read_permission(path, monkeypatch):
    def fail(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    path.write_bytes(SAVED["data"])
    monkeypatch.setattr(native, "open", fail, raising=False)  # root may read everything
    refused(path, "cannot read '.*': Permission denied")


# Files of earlier releases

FROZEN = Path(__file__).parent / "data"
VERSIONS = [path.stem.removeprefix("files_v") for path in sorted(FROZEN.glob("files_v*.json"))]


def plain(path, group):
    """A group of arrays as NumPy reads it."""
    with np.load(path, allow_pickle=False) as file:
        return {name.removeprefix(f"{group}/"): file[name] for name in file.files if name.startswith(f"{group}/")}


@pytest.mark.parametrize("version", VERSIONS)
def test_models_of_every_version_can_be_loaded(version):
    wanted = json.loads((FROZEN / f"files_v{version}.json").read_text())
    model = LanguageModel.load(FROZEN / f"model_v{version}.npz")
    assert_same_bits(model.network_.weights(), plain(FROZEN / f"model_v{version}.npz", "weights"))
    assert model.score("to be") == pytest.approx(wanted["score"], rel=1e-6)
    assert model.history_["epoch"] == [1, 2, 3]


@pytest.mark.parametrize("version", VERSIONS)
def test_checkpoints_of_every_version_can_be_resumed(version):
    path = FROZEN / f"checkpoint_v{version}.npz"
    assert_same_bits(LanguageModel.load(path).network_.weights(), plain(path, "good"))
    model = record_files.model().fit(record_files.TEXT * 4, record_files.TEXT, **record_files.TRAINING, resume=path)
    whole = LanguageModel.load(FROZEN / f"model_v{version}.npz")
    assert model.history_["epoch"] == whole.history_["epoch"]
    np.testing.assert_allclose(model.history_["loss"], whole.history_["loss"], rtol=1e-5)  # other processors round differently
    assert model.score("to be") == pytest.approx(whole.score("to be"), rel=1e-4)


@pytest.mark.parametrize("version", VERSIONS)
def test_sequential_models_of_every_version_continue_training(version):
    wanted = json.loads((FROZEN / f"files_v{version}.json").read_text())
    model = Sequential.load(FROZEN / f"sequential_v{version}.npz")
    x, y = record_files.examples()
    np.testing.assert_allclose(model.predict(x)[0], wanted["prediction"], rtol=1e-5)
    model.fit(x, y, initial_epoch=2, epochs=4, verbose=0)
    whole = record_files.sequential()
    if version == "1":
        whole.compile(pytorch.Adam(), "sparse_categorical_crossentropy", ["accuracy"])  # the meaning of "adam" in version 1
    whole.fit(x, y, epochs=4, verbose=0)
    for one, other in zip(model.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_failing_to_open_a_file_does_not_mean_that_it_is_not_a_model(path):
    trained("char").save(path)
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_NOFILE)
    model = LanguageModel.load(path)
    with open(os.devnull) as last:
        resource.setrlimit(resource.RLIMIT_NOFILE, (last.fileno() + 1, limits[1]))
        try:
            with pytest.raises(ModelFileError, match=r"^cannot read '.*': Too many open files"):
                LanguageModel.load(path)
            with pytest.raises(ModelFileError, match=r"^cannot write '.*': the file exists, and checking whether it is a model failed: Too many open"):
                model.save(path)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert path.read_bytes() == before
