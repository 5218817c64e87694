"""Chooses the file in which a command saves its trained model, without losing a file that already exists."""

import contextlib
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import chain, count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..config import CheckpointConfig
from ..errors import ConfigError, ModelFileError
from ..formats import native
from ..formats.native import read_about
from ..language_model import LanguageModel, Prepared
from ..model_files import fitting
from ..paths import is_empty, same_file
from ..runs import corpus_of, run_of, same_corpus, same_training
from ..storage import Held, locked
from ..training.history import read_history
from .exits import ERROR, Ended
from .flags import flag, quoted

OUT = Path("model.npz")
VOCABULARY = ("tokenizer", "min_count", "max_vocabulary", "line_ends")  # settings that determine the vocabulary

Ours = Callable[[Mapping[str, Any]], bool]  # tells whether a model with this header may be replaced


class Destination:
    """The file of a model: chosen and locked before training, written after it.

    A training that was cut short does not replace a model, unless that model is an earlier state of the same run.

    Parameters
    ----------
    out
        The given path; None for :data:`OUT`, or the first of model-2.npz, model-3.npz, … that is free.
    overwrite
        Replace whatever model the given path names.
    keeping
        The checkpoint settings of the training.
    model
        The model to train and save.
    is_timed
        The time limit of the training includes saving, so measure how long saving takes.

    Attributes
    ----------
    out
        The path of the file.
    verb
        "saved", or "replaced" if the file was a model.
    preserved
        The path of a model that was not replaced because the training was cut short.

    Raises
    ------
    ModelFileError
        On entering, if another process is writing a model to the given path.
    """

    def __init__(self, out: Path | None, overwrite: bool, keeping: CheckpointConfig, model: LanguageModel, is_timed: bool = False) -> None:
        self.given, self.overwrite, self.keeping, self.model, self.is_timed = out is not None, overwrite, keeping, model, is_timed
        self.resumed = keeping.resume is not None and not keeping.begins
        self.out, self.verb, self.preserved = OUT if out is None else out, "saved", ""
        self._replaces = False  # whether the default path has a model that an earlier part of this run has written
        self._about: Mapping[str, Any] = {}
        self._locks = ExitStack()

    def __enter__(self) -> Self:
        if self.given:
            self._locks.enter_context(locked(str(self.out), "model"))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._locks.close()

    def prepare(self, about: Mapping[str, Any]) -> Prepared:
        """Choose the path, or reject the given one; called after the texts have been read and before training.

        ``about`` is the header of the model file.
        """
        self._about, checkpoint, notes = about, self.keeping.checkpoint, []
        if not self.overwrite:
            if self.given and not same_file(self.out, self.keeping.resume):
                expect_replaceable(self.out, about)
            if checkpoint is not None and not self.resumed:
                expect_replaceable(Path(checkpoint), about, "--checkpoint")
        if not self.given:
            self.out = self._claim(OUT, self._is_of_this_run if self.resumed else None)
            if self.out != OUT:
                notes = [f"{OUT} {'exists' if os.path.lexists(OUT) else 'is being written by another training'}: the model will be saved as {self.out}"]
        self._replaces = self.out.exists()
        return Prepared(self.out, saving_seconds(self.model, self.out) if self.is_timed else 0.0, notes)

    def save(self, cut_short: bool) -> None:
        """Save the model; if that fails, try other folders.

        Raises
        ------
        Ended
            The model could not be saved to its path; the message names the file where it was saved instead.
        """
        try:
            try:
                self._save(cut_short)
            except ModelFileError:  # a network file system may have been unavailable for a moment
                self._save(cut_short)
        except ModelFileError as error:
            checkpoint = self.keeping.checkpoint
            for folder in (lambda: Path(checkpoint or self.out).parent, Path.cwd, Path.home, tempfile.gettempdir):
                with contextlib.suppress(OSError, RuntimeError):  # no current folder, no home folder (RuntimeError), or no temporary folder
                    file, name = tempfile.mkstemp(".npz", f"{self.out.stem}-", folder())
                    os.close(file)
                    try:
                        self.model.save(name)
                    except ModelFileError:
                        os.unlink(name)
                        continue
                    raise Ended(ERROR, f"{error} The model is saved in {name!r} instead.") from error
            if checkpoint is not None:
                raise Ended(ERROR, f"{error} The training is saved in {checkpoint!r}; --resume {quoted(checkpoint)} writes the model from it.") from error
            raise

    @property
    def outcome(self) -> str:
        """A phrase that says where the model is saved."""
        preserved = f"; {self.preserved!r} is unchanged, because only a complete training replaces a model" if self.preserved else ""
        return f"model is saved in {str(self.out)!r}{preserved}"

    def _save(self, cut_short: bool) -> None:
        if not self._is_ours(cut_short):
            name = self._claim(self.out, self._is_earlier if self.resumed else None)
            self.preserved, self.out = str(self.out) if cut_short and (self.given or self._replaces) else "", name
        self.verb = "replaced" if self.out.exists() else "saved"
        self.model.save(self.out, replace_run=self.overwrite or same_file(self.out, self.keeping.resume))

    def _is_ours(self, cut_short: bool) -> bool:
        """Whether the model may be saved to the path that was chosen before training."""
        if not self.given and not self._replaces:
            return not os.path.lexists(self.out)  # another program may have created the file in the meantime
        if not self.given:
            return _holds(self.out, self._is_earlier)
        return not cut_short or self.overwrite or _is_empty(self.out) or (self.resumed and _holds(self.out, self._is_earlier))

    def _is_of_this_run(self, there: Mapping[str, Any]) -> bool:
        return "run" not in there and same_training(there, self._about)

    def _is_earlier(self, there: Mapping[str, Any]) -> bool:
        """Whether a model belongs to this run and was not trained for more epochs than the model that would replace it."""
        with fitting("the model"):
            return self._is_of_this_run(there) and read_history(dict(there["history"]))["epoch"][-1:] <= self.model.history_["epoch"][-1:]

    def _claim(self, path: Path, ours: Ours | None) -> Path:
        """Lock the first free path of model.npz, model-2.npz, …: it does not exist or is a model of ours, and no process is writing it."""
        for name in free_names(path, ours, self.keeping.checkpoint):
            with ExitStack() as lock:
                try:
                    lock.enter_context(locked(str(name), "model"))
                except Held:
                    continue
                if _is_free(name, ours):  # the previous holder of the lock may just have written the file
                    self._locks.enter_context(lock.pop_all())
                    return name
        raise AssertionError("free_names is endless")


def expect_writable(out: Path, others: Iterable[tuple[str, str | Path]] = (), name: str = "--out") -> None:
    """Raise an error before training rather than after it if a file cannot be written.

    ``others`` are the other files of the command, each with the flag or argument that names it; ``out`` must differ from all of them.
    """
    for role, other in others:
        if same_file(out, other):
            link = f", a link to {os.path.realpath(out)!r}" if out.is_symlink() else ""
            raise ConfigError(f"{name} is {str(out)!r}{link}, and {role} is the same file; give it a name of its own.")
    try:
        native.expect_replaceable(out, LanguageModel.file_kind)
    except ModelFileError as error:
        raise ModelFileError(f"{name}: {error}") from error
    try:
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise ModelFileError(f"cannot write {str(out)!r}: {error.strerror}. "
                             "Choose a folder that exists and is writable.") from error


def expect_replaceable(out: Path, about: Mapping[str, Any], name: str = "--out") -> None:
    """Raise :class:`ModelFileError` if a model with this header would replace a model of another text or an unfinished run."""
    if _is_empty(out):
        return
    there = read_about(out)
    if "run" in there and not run_of(str(out), there).at.ended:
        what = "the checkpoint of an unfinished run"
    elif same_corpus(there, about):
        return
    elif corpus_of(there) is None:
        what = "a model that does not record its training text"
    elif corpus_of(there) != corpus_of(about):
        what = "a model of another text"
    else:
        what = f"a model of the same text with another vocabulary ({_vocabularies(str(out), there, about)})"
    raise ModelFileError(f"{name} is {str(out)!r}, {what}; it is not replaced. Give another name, or --overwrite.")


def _vocabularies(name: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Explain why two models of the same text have different vocabularies."""
    def held_out(about: Mapping[str, Any]) -> str:
        split = about["training"]["validation_split"]
        return f"{100 * split:.3g}% of the text" if split else "nothing"

    with fitting(name):
        reasons = [f"{flag(name)} {there['config'][name]} there, {here['config'][name]} here" for name in VOCABULARY
                   if there["config"][name] != here["config"][name]]
        if held_out(there) != held_out(here):
            reasons.append(f"held out: {held_out(there)} there, {held_out(here)} here, because of --valid and --validation-split")
    return "; ".join(reasons) or "it has other symbols, inherited from an earlier model"


def free_names(path: Path, ours: Ours | None = None, avoid: str | None = None) -> Iterator[Path]:
    """Yield the free paths of model.npz, model-2.npz, …: files that do not exist or are models of ours. The path to ``avoid`` is skipped."""
    names = chain([path], (path.with_stem(f"{path.stem}-{number}") for number in count(2)))
    return (name for name in names if not same_file(name, avoid) and _is_free(name, ours))


def _is_free(name: Path, ours: Ours | None) -> bool:
    return not os.path.lexists(name) or (ours is not None and _holds(name, ours))


def _holds(path: Path, ours: Ours) -> bool:
    try:
        return ours(read_about(path))
    except ModelFileError:
        return False


def _is_empty(path: Path) -> bool:
    """Whether this file does not exist or is empty, so that replacing it loses nothing."""
    return not path.exists() or is_empty(path)


def saving_seconds(model: LanguageModel, out: Path) -> float:
    """Measure how many seconds saving a model in the folder of ``out`` takes."""
    trial, started = out.parent / f".numba_rnnlm-{secrets.token_hex(8)}", time.monotonic()
    try:
        model.save(trial)
    finally:
        trial.unlink(missing_ok=True)
    return time.monotonic() - started
