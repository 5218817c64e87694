"""What the commands read, write and show."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ConfigError, ModelFileError
from ..language_model import LanguageModel
from ..storage import read_about
from ..text import Files, Text, Tokenizer
from .flags import Arguments, machine_of


def load(args: Arguments, path: Path) -> LanguageModel:
    """A saved model that knows text."""
    model = LanguageModel.load(path, **machine_of(args))
    tokenizer_of(model)
    return model


def tokenizer_of(model: LanguageModel) -> Tokenizer:
    if model.tokenizer_ is None:
        raise ConfigError("the model was trained on ids and has no tokenizer, the command line reads text; "
                          "use LanguageModel.load in Python.")
    return model.tokenizer_


def expect_writable(out: Path, sources: Sequence[Path | None] = (), flag: str = "--out") -> None:
    """Find out before the training, not after it, that the model cannot be saved."""
    for source in sources:
        if source is not None and (out == source or (source.exists() and out.exists() and out.samefile(source))):
            raise ModelFileError(f"{flag} is {str(out)!r}, which is another file of this command; give it a name of its own.")
    if out.is_dir():
        raise ModelFileError(f"{flag} is {str(out)!r}, a folder; expected the name of a file, such as model.npz.")
    if out.exists():
        try:
            read_about(out)
        except ModelFileError as error:
            raise ModelFileError(f"{flag} is {str(out)!r}, a file that is there and is not a model of this numba_rnnlm; "
                                 "it is not overwritten. Give the model another name.") from error
    try:
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise ModelFileError(f"cannot write {str(out)!r}: {error.strerror}. "
                             "Choose a folder that exists and can be written.") from error


def texts_of(args: Arguments, paths: Sequence[str], again: bool = True) -> Text:
    """The text in these files; unless it has to be read ``again``, what arrives on a pipe is handed out as it comes."""
    return Files(paths, args.encoding).open(again)


def size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.2f} MB"


def show_table(rows: dict[str, Any]) -> None:
    width = max(map(len, rows)) + 2
    for name, value in rows.items():
        print(f"{name:{width}}{value}")
