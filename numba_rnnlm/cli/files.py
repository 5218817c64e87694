"""What the commands read, write and show."""

import os
import secrets
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

from .. import storage
from ..display import one_line
from ..errors import ConfigError, ModelFileError
from ..language_model import LanguageModel
from ..paths import same_file
from ..runs import corpus_of, run_of, same_corpus, same_training
from ..storage import read_about
from ..text import Files, Text, Tokenizer
from .flags import Arguments, machine_of, typed


def load(args: Arguments, path: Path) -> LanguageModel:
    """A saved model that knows text."""
    try:
        model = LanguageModel.load(path, **machine_of(args))
    except ModelFileError as error:
        others = [*getattr(args, "corpus", []), *getattr(args, "file", []), getattr(args, "prompt", None)]
        if args.command != "train" and (found := next(filter(_is_model, others), None)) and not _is_model(path):
            raise ModelFileError(f"{error} The model comes first: numba-rnnlm {args.command} {typed(found)} {typed(path)}") from error
        raise
    tokenizer_of(model)
    return model


def _is_model(path: str | Path | None) -> bool:
    try:
        return bool(path) and path != "-" and read_about(str(path)) is not None
    except ModelFileError:
        return False


def tokenizer_of(model: LanguageModel) -> Tokenizer:
    if model.tokenizer_ is None:
        raise ModelFileError("the model was trained on ids and has no tokenizer, the command line reads text; "
                          "use LanguageModel.load in Python.")
    return model.tokenizer_


def expect_writable(out: Path, sources: Sequence[Path | None] = (), flag: str = "--out") -> None:
    """Find out before the training, not after it, that the model cannot be saved."""
    for source in sources:
        if same_file(out, source):
            raise ConfigError(f"{flag} is {str(out)!r}, which is another file of this command; give it a name of its own.")
    try:
        storage.expect_replaceable(out)
    except ModelFileError as error:
        raise ModelFileError(f"{flag}: {error}") from error
    try:
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise ModelFileError(f"cannot write {str(out)!r}: {error.strerror}. "
                             "Choose a folder that exists and can be written.") from error


def expect_replaceable(out: Path, about: Mapping[str, Any], flag: str = "--out") -> None:
    """Raise :class:`ModelFileError` where a model with this header would replace one of another text, or the checkpoint of an unfinished run."""
    if not out.exists() or out.stat().st_size == 0:
        return
    there = read_about(out)
    what = "a model of another text" if corpus_of(there) != corpus_of(about) else "a model with another vocabulary"
    if "run" in there and not run_of(str(out), there).at.ended:
        what = "the checkpoint of a run that has not ended"
    elif same_corpus(there, about):
        return
    elif corpus_of(there) is None:
        what = "a model that does not tell on which text it was trained"
    raise ModelFileError(f"{flag} is {str(out)!r}, {what}; it is not replaced. Give another name, or --overwrite.")


def free_name(path: Path, about: Mapping[str, Any] | None = None, avoid: str | None = None) -> Path:
    """The first of model.npz, model-2.npz, … that does not exist; or, with the header of a resumed run, that the same run has written."""
    def is_free(name: Path) -> bool:
        if same_file(name, avoid):
            return False
        return not os.path.lexists(name) or (about is not None and _of_the_same_run(name, about))

    return next(filter(is_free, chain([path], (path.with_stem(f"{path.stem}-{number}") for number in count(2)))))


def _of_the_same_run(path: Path, about: Mapping[str, Any]) -> bool:
    try:
        there = read_about(path)
    except ModelFileError:
        return False
    return "run" not in there and same_training(there, about)


def saving_seconds(model: LanguageModel, out: Path) -> float:
    """How long it takes to save a model beside ``out``: tried out."""
    trial, started = out.parent / f".numba_rnnlm-{secrets.token_hex(8)}", time.monotonic()
    try:
        model.save(trial)
    finally:
        trial.unlink(missing_ok=True)
    return time.monotonic() - started


def texts_of(args: Arguments, paths: Sequence[str], again: bool = True) -> Text:
    """The text in these files; unless it has to be read ``again``, what arrives on a pipe is handed out as it comes."""
    return Files(paths, args.encoding).open(again)


def size(path: Path) -> str:
    return megabytes(path.stat().st_size)


def megabytes(count: int) -> str:
    return f"{count / 1e6:.2f} MB"


def show_table(rows: dict[str, Any]) -> None:
    width = max(map(len, rows)) + 2
    for name, value in rows.items():
        print(one_line(f"{name:{width}}{value}"))
