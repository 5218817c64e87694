"""The files of a language model: saved, loaded, and how large they will be."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .. import model_files, runs
from ..cells import Cell
from ..formats.native import model_bytes, open_model, write_model
from ..layers import Layer
from ..layers.description import descriptions, rebuild_all
from ..network import Network
from ..recognition import cells_of_file
from ..text import Tokenizer
from ..training.history import COLUMNS, History, read_history
from ..training.loop import Trainer
from .contents import BackendOptions, Contents

LOAD = "LanguageModel.load(path, cell={cell})"
NUMBER_BYTES = 25  # maximum size of a number in the header of a file


def save(contents: Contents, path: str | os.PathLike[str], replace_run: bool) -> None:
    """See :meth:`LanguageModel.save <numba_rnnlm.LanguageModel.save>`."""
    network = contents.network
    if not replace_run:
        runs.expect_ended(path)
    write_model(path, "language_model", contents.about(), {
        "weights": ((name, network.ops.download(array)) for name, array in network.parameters.items())
    })


class Saved(NamedTuple):
    """A file that was read: the constructor's arguments, the header, the weights and the file's name."""

    arguments: dict[str, Any]
    about: dict[str, Any]
    weights: dict[str, np.ndarray]
    name: str


def read(
    path: str | os.PathLike[str], options: BackendOptions, cell: Cell | None, custom_objects: Mapping[str, type[Layer]] | None
) -> Saved:
    """Read a file; for the arguments see :meth:`LanguageModel.load <numba_rnnlm.LanguageModel.load>`."""
    with open_model(path) as file:
        about, weights, name = file.about, file.group(runs.model_group(file)), file.name
    model_files.expect_kind_of_file("language_model", name, about)
    ops = options.ops()  # outside of "fitting": its errors are not the file's
    with model_files.fitting(name):
        config = dict(about["config"])
        described = list(descriptions(config.get("body") or []))
        if isinstance(config["cell"], str):
            names = [config["cell"], *(one["cell"] for one in described if "cell" in one)]
            found = cells_of_file(name, about, names, [] if cell is None else [cell], ops, LOAD)
            config["cell"] = found.get(config["cell"], config["cell"])
        if config.get("body") is not None:
            config["body"] = rebuild_all(name, config["body"], custom_objects or {}, found)
        return Saved(config | options._asdict(), about, weights, name)


def restore(contents: Contents, saved: Saved) -> None:
    """Give contents with the settings of a file what was learned."""
    contents.tokenizer, contents.built, contents.history = rebuilt(contents, saved.about, saved.weights, saved.name)
    contents.about_training = {key: saved.about[key] for key in ("texts", "training") if key in saved.about}


def rebuilt(
    contents: Contents, about: Mapping[str, Any], weights: dict[str, np.ndarray], name: str
) -> tuple[Tokenizer | None, Network, History]:
    """Tokenizer, network and history of a file that has the same settings as these contents."""
    with model_files.fitting(name):
        rows, symbols = weights["embedding/W"].shape[:1], (about["tokenizer"] or {}).get("symbols")
        if isinstance(symbols, list) and rows != (len(symbols),):
            raise ValueError(f"the vocabulary has {len(symbols):,} symbols, and the embedding has the shape {weights['embedding/W'].shape}")
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
