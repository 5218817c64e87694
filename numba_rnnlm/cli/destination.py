"""Chooses where a command saves the model that it has trained, without losing what exists there."""

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

from .. import storage
from ..config import CheckpointConfig
from ..errors import ConfigError, ModelFileError
from ..language_model import LanguageModel, Prepared
from ..paths import is_empty, same_file
from ..runs import corpus_of, fitting, run_of, same_corpus, same_training
from ..storage import Held, locked, read_about
from ..training.history import read_history
from .exits import ERROR, Ended
from .flags import flag, typed

OUT = Path("model.npz")
VOCABULARY = ("tokenizer", "min_count", "max_vocabulary", "line_ends")  # settings that determine the vocabulary

Ours = Callable[[Mapping[str, Any]], bool]  # answers whether a model with this header may be replaced


class Destination:
    """The name of a model: chosen and locked before the training, and saved to after it.

    A training that was cut short does not replace a model, unless that is an earlier state of the same run.

    Parameters
    ----------
    out
        The name that was given; None for :data:`OUT`, or the first of model-2.npz, model-3.npz, … that is free.
    overwrite
        Replace whatever model has the name that was given.
    keeping
        The checkpoints of the training.
    model
        What is trained.
    is_timed
        Saving belongs to a limited time, so find out how long it takes.

    Attributes
    ----------
    out
        The name.
    verb
        "saved", or "replaced" if a model had that name.
    spared
        The name of a model that was not replaced because the training was cut short.

    Raises
    ------
    ModelFileError
        On entering, if another process is writing a model to the name that was given.
    """

    def __init__(self, out: Path | None, overwrite: bool, keeping: CheckpointConfig, model: LanguageModel, is_timed: bool = False) -> None:
        self.given, self.overwrite, self.keeping, self.model, self.is_timed = out is not None, overwrite, keeping, model, is_timed
        self.resumed = keeping.resume is not None and not keeping.begins
        self.out, self.verb, self.spared = OUT if out is None else out, "saved", ""
        self._replaces = False  # whether the default name holds a model that the same run has written
        self._about: Mapping[str, Any] = {}
        self._locks = ExitStack()

    def __enter__(self) -> Self:
        if self.given:
            self._locks.enter_context(locked(str(self.out), "model"))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._locks.close()

    def prepare(self, about: Mapping[str, Any]) -> Prepared:
        """Choose the name, or refuse the one that was given, when the texts have been read and before the training.

        ``about`` is the header of the model's file.
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
            If it could not be saved under its name; the message says where it is instead.
        """
        try:
            try:
                self._save(cut_short)
            except ModelFileError:  # a network's file system may have been away for a moment
                self._save(cut_short)
        except ModelFileError as error:
            checkpoint = self.keeping.checkpoint
            for folder in (lambda: Path(checkpoint or self.out).parent, Path.cwd, Path.home, tempfile.gettempdir):
                with contextlib.suppress(OSError, RuntimeError):  # no current folder, no home (RuntimeError), no folder for temporary files
                    file, name = tempfile.mkstemp(".npz", f"{self.out.stem}-", folder())
                    os.close(file)
                    try:
                        self.model.save(name)
                    except ModelFileError:
                        os.unlink(name)
                        continue
                    raise Ended(ERROR, f"{error} The model is saved in {name!r} instead.") from error
            if checkpoint is not None:
                raise Ended(ERROR, f"{error} The training is kept in {checkpoint!r}: --resume {typed(checkpoint)} writes the model from it.") from error
            raise

    @property
    def told(self) -> str:
        """Where the model is saved, in words."""
        spared = f"; {self.spared!r} stays as it was, because only a complete training replaces a model" if self.spared else ""
        return f"model is saved in {str(self.out)!r}{spared}"

    def _save(self, cut_short: bool) -> None:
        if not self._is_ours(cut_short):
            name = self._claim(self.out, self._is_earlier if self.resumed else None)
            self.spared, self.out = str(self.out) if self.given or self._replaces else "", name
        self.verb = "replaced" if self.out.exists() else "saved"
        self.model.save(self.out, replace_run=self.overwrite or same_file(self.out, self.keeping.resume))

    def _is_ours(self, cut_short: bool) -> bool:
        """Whether the model may be saved under the name that was chosen before the training."""
        if not self.given and not self._replaces:
            return not os.path.lexists(self.out)  # another program may have taken a default name in the meantime
        return not cut_short or self.overwrite or _is_empty(self.out) or (self.resumed and _holds(self.out, self._is_earlier))

    def _is_of_this_run(self, there: Mapping[str, Any]) -> bool:
        return "run" not in there and same_training(there, self._about)

    def _is_earlier(self, there: Mapping[str, Any]) -> bool:
        """Whether a model is of this run and has not seen more of the text than what would replace it."""
        with fitting("the model"):
            return self._is_of_this_run(there) and read_history(dict(there["history"]))["epoch"][-1:] <= self.model.history_["epoch"][-1:]

    def _claim(self, path: Path, ours: Ours | None) -> Path:
        """Lock the first free name of model.npz, model-2.npz, …: the file does not exist or is one of ours, and no process is writing it."""
        for name in free_names(path, ours, self.keeping.checkpoint):
            with ExitStack() as lock:
                try:
                    lock.enter_context(locked(str(name), "model"))
                except Held:
                    continue
                if _is_free(name, ours):  # the previous holder of the lock may have just written it
                    self._locks.enter_context(lock.pop_all())
                    return name
        raise AssertionError("there is always another name")


def expect_writable(out: Path, others: Iterable[tuple[str, str | Path]] = (), name: str = "--out") -> None:
    """Raise an error before the training, not after it, if a file cannot be saved.

    ``others`` are the other files of the command, each with the flag or argument that names it; ``out`` must be none of them.
    """
    for role, other in others:
        if same_file(out, other):
            link = f", a link to {os.path.realpath(out)!r}" if out.is_symlink() else ""
            raise ConfigError(f"{name} is {str(out)!r}{link}, and {role} is the same file; give it a name of its own.")
    try:
        storage.expect_replaceable(out)
    except ModelFileError as error:
        raise ModelFileError(f"{name}: {error}") from error
    try:
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise ModelFileError(f"cannot write {str(out)!r}: {error.strerror}. "
                             "Choose a folder that exists and can be written.") from error


def expect_replaceable(out: Path, about: Mapping[str, Any], name: str = "--out") -> None:
    """Raise :class:`ModelFileError` where a model with this header would replace one of another text, or the checkpoint of an unfinished run."""
    if _is_empty(out):
        return
    there = read_about(out)
    if "run" in there and not run_of(str(out), there).at.ended:
        what = "the checkpoint of a run that has not ended"
    elif same_corpus(there, about):
        return
    elif corpus_of(there) is None:
        what = "a model that does not tell on which text it was trained"
    elif corpus_of(there) != corpus_of(about):
        what = "a model of another text"
    else:
        what = f"a model of the same text with another vocabulary ({_vocabularies(str(out), there, about)})"
    raise ModelFileError(f"{name} is {str(out)!r}, {what}; it is not replaced. Give another name, or --overwrite.")


def _vocabularies(name: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Why two models of one text have different vocabularies."""
    def held_out(about: Mapping[str, Any]) -> str:
        split = about["training"]["validation_split"]
        return f"{100 * split:.3g}% of the text" if split else "nothing"

    with fitting(name):
        told = [f"{flag(name)} {there['config'][name]} there, {here['config'][name]} here" for name in VOCABULARY
                if there["config"][name] != here["config"][name]]
        if held_out(there) != held_out(here):
            told.append(f"held out from it: {held_out(there)} there, {held_out(here)} here, which --valid and --validation-split decide")
    return "; ".join(told) or "with other symbols, from a model that was trained before"


def free_names(path: Path, ours: Ours | None = None, avoid: str | None = None) -> Iterator[Path]:
    """Yield the free names of model.npz, model-2.npz, …: files that do not exist or are models of ours. The file to ``avoid`` is skipped."""
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
    """Whether replacing this file loses nothing: it does not exist, or is empty."""
    return not path.exists() or is_empty(path)


def saving_seconds(model: LanguageModel, out: Path) -> float:
    """Measure how many seconds it takes to save a model in the folder of ``out``."""
    trial, started = out.parent / f".numba_rnnlm-{secrets.token_hex(8)}", time.monotonic()
    try:
        model.save(trial)
    finally:
        trial.unlink(missing_ok=True)
    return time.monotonic() - started
