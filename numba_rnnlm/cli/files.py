"""What the commands read and show."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..display import one_line
from ..errors import ModelFileError
from ..language_model import LanguageModel
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


def texts_of(args: Arguments, paths: Sequence[str], again: bool = True) -> Text:
    """The text in these files; unless it has to be read ``again``, what arrives on a pipe is handed out as it comes."""
    return Files(paths, args.encoding).open(again)


def show_table(rows: dict[str, Any]) -> None:
    width = max(map(len, rows)) + 2
    for name, value in rows.items():
        print(one_line(f"{name:{width}}{value}"))
