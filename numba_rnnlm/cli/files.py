"""Loads models and texts for the commands, and prints tables."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..display import one_line
from ..errors import CorpusError, ModelFileError
from ..formats.native import read_about
from ..language_model import LanguageModel
from ..text import Files, Text, Tokenizer
from .flags import Arguments, backend_options, quoted


def load(args: Arguments, path: Path) -> LanguageModel:
    """Load a model that has a tokenizer."""
    try:
        model = LanguageModel.load(path, **backend_options(args))
    except ModelFileError as error:
        others = [*getattr(args, "corpus", []), *getattr(args, "file", []), getattr(args, "prompt", None)]
        if args.command != "train" and (found := next(filter(_is_model, others), None)) and not _is_model(path):
            raise ModelFileError(f"{error} Give the model first: numba-rnnlm {args.command} {quoted(found)} {quoted(path)}") from error
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
        raise ModelFileError("the model was trained on ids and has no tokenizer, so the command line cannot use it; "
                             "use LanguageModel.load in Python.")
    return model.tokenizer_


def texts_of(args: Arguments, paths: Sequence[str], again: bool = True) -> Text:
    """Open these files as one text. With ``again=False`` it can be read only once, and a pipe yields its data as it arrives."""
    try:
        return Files(paths, args.encoding).open(again)
    except CorpusError as error:
        if not (texts := [path for path in paths if " " in path and not os.path.exists(path)]):
            raise
        raise CorpusError(f"{error} To pass a text itself, write: echo {shlex.quote(texts[0])} | numba-rnnlm {args.command} ... -") from error


def show_table(rows: dict[str, Any]) -> None:
    width = max(map(len, rows)) + 2
    for name, value in rows.items():
        print(one_line(f"{name:{width}}{value}"))
