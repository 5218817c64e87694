"""The files of a language model: saved, loaded, and how large they will be."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import backends, cells, model_files, runs
from ..cells import Cell
from ..formats.native import model_bytes, write_model
from ..layers import Layer
from ..model_files import Custom, Loaded
from ..network import Network
from ..text import Tokenizer
from ..training.history import COLUMNS, History, read_history
from ..training.loop import Trainer
from .contents import BackendOptions, Contents

NUMBER_BYTES = 25  # maximum size of a number in the header of a file


def save(contents: Contents, path: str | os.PathLike[str], replace_run: bool) -> None:
    """See :meth:`LanguageModel.save <numba_rnnlm.LanguageModel.save>`."""
    network = contents.network
    if not replace_run:
        runs.expect_ended(path, "language_model")
    write_model(path, "language_model", contents.about(), {
        "weights": ((name, network.ops.download(array)) for name, array in network.parameters.items())
    })


def read(
    path: str | os.PathLike[str], options: BackendOptions, cell: Cell | None, custom_objects: Mapping[str, type[Layer] | Cell] | None
) -> Loaded:
    """Read a file; for the arguments see :meth:`LanguageModel.load <numba_rnnlm.LanguageModel.load>`."""
    custom = model_files.custom_in(custom_objects)
    return model_files.load(path, "language_model", options.ops(), [] if cell is None else [cell], custom, lambda file: [runs.model_group(file)])


def settings_of_run(checkpoint: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """See :meth:`LanguageModel.settings_of_run <numba_rnnlm.LanguageModel.settings_of_run>`."""
    run = runs.read_run(checkpoint)
    with model_files.fitting(run.name):
        cells.held(run.model["cell"])
    layers = model_files.load(checkpoint, "language_model", backends.get("reference"), [], Custom({}, {}), lambda file: []).layers
    return {**run.model, "body": layers}, run.training


def arguments(saved: Loaded) -> dict[str, Any]:
    """The constructor's arguments in a file."""
    config = saved.about["config"]
    return {**config, "cell": saved.cells.get(config["cell"], config["cell"]), "body": saved.layers}


def restore(contents: Contents, saved: Loaded) -> None:
    """Give contents with the settings of a file what was learned."""
    (weights,) = saved.groups.values()
    contents.tokenizer, contents.built, contents.history = rebuilt(contents, saved.about, weights, saved.name)
    contents.about_training = {key: saved.about[key] for key in ("texts", "training") if key in saved.about}


def rebuilt(
    contents: Contents, about: Mapping[str, Any], weights: dict[str, np.ndarray], name: str
) -> tuple[Tokenizer | None, Network, History]:
    """Tokenizer, network and history of a file that has the same settings as these contents."""
    with model_files.fitting(name):
        table, symbols = weights.get("embedding/W"), (about["tokenizer"] or {}).get("symbols")
        if table is not None and isinstance(symbols, list) and table.shape[:1] != (len(symbols),):
            raise ValueError(f"the vocabulary has {len(symbols):,} symbols, and the embedding has the shape {table.shape}")
        tokenizer = None if about["tokenizer"] is None else Tokenizer.from_dict(about["tokenizer"])
        for setting, value in (("tokenizer", getattr(tokenizer, "name", None)), ("line_ends", getattr(tokenizer, "line_ends", None))):
            if getattr(contents.text, setting) not in ((value,) if setting == "tokenizer" else (value, None)):
                raise ValueError(f"{setting} is {getattr(contents.text, setting)!r} in its configuration and {value!r} in its tokenizer")
        return tokenizer, contents.new_network(tokenizer, weights), read_history(about.get("history"))


def sizes(trainer: Trainer, tokenizer: Tokenizer | None, out: str | None, checkpoint: str | None) -> list[tuple[str, int]]:
    """The files that a training and its caller will write, and the maximum number of bytes that each needs."""
    parameters = trainer.network.parameters
    about = {"tokenizer": tokenizer.to_dict() if tokenizer else None}
    history = NUMBER_BYTES * len(COLUMNS) * min(trainer.epochs, 10_000)

    def bytes_of(groups: int, others: int = 0) -> int:
        weights = (groups * parameters.layout.size + others) * trainer.network.ops.dtype.itemsize
        return model_bytes("language_model", about, (groups + 1) * len(parameters), weights + history)

    files = [] if out is None else [(out, bytes_of(1))]
    if checkpoint is not None:  # a new checkpoint is written next to the previous one
        size = bytes_of(2 + trainer.updater.optimizer.rule.moments, trainer.network.graph.state(trainer.task.streams).size)
        files.append((checkpoint, size if os.path.exists(checkpoint) else 2 * size))
    return files
