"""Runs numba_rnnlm in its own process: python -m benchmarks.programs.ours nothing | import | token … | train … | layer …"""

from math import ceil
from typing import Any

from benchmarks.programs.answer import main

AT_LEAST = 0.3  # seconds of timed steps of a layer


def nothing() -> dict[str, Any]:
    """Start the interpreter only."""
    return {}


def imported() -> dict[str, Any]:
    import numba_rnnlm

    return {"module": numba_rnnlm.__name__}


def save(path: str, cell: str, vocabulary: int, embedding: int, hidden: int, layers: int) -> dict[str, Any]:
    """Save a model for the other commands."""
    from numba_rnnlm import LanguageModel

    LanguageModel(cell, hidden, layers, embedding, vocabulary_size=vocabulary, tokenizer=None, backend="cpu").save(path)
    return {}


def token(path: str) -> dict[str, Any]:
    """The most probable id after a 0."""
    from numba_rnnlm import LanguageModel

    return {"id": int(LanguageModel.load(path, backend="cpu").generate([0], length=1, temperature=0)[0])}


def train(path: str, corpus: str, streams: int, steps: int, updates: int) -> dict[str, Any]:
    """Train like ``LanguageModel.fit`` but stop after ``updates`` updates; returns their mean loss."""
    from itertools import islice

    import numpy as np

    from numba_rnnlm import LanguageModel
    from numba_rnnlm.config import TrainingConfig
    from numba_rnnlm.text import read_corpus
    from numba_rnnlm.training.loop import Trainer, Watcher
    from numba_rnnlm.training.streams import StreamTask, make_optimizer
    from numba_rnnlm.training.updater import Updater

    class First(StreamTask):
        """The first updates of an epoch."""

        def batches(self, epoch: int, first: int) -> Any:
            return islice(super().batches(epoch, first), updates)

    class Loss(Watcher):
        def report(self, trainer: Any, row: Any, improved: bool) -> None:
            self.loss = row["loss"]

    model = LanguageModel.load(path, backend="cpu")
    ids = read_corpus(np.load(corpus, mmap_mode="r"), None, model.get_params()["vocabulary_size"]).ids
    config = TrainingConfig(1, streams, steps, "sgd", learning_rate=0.1, schedule="constant", clip_norm=5.0, verbose=0)
    optimizer, watcher = make_optimizer(config, model.get_params()["cell"]), Loss()
    Trainer(model.network_, First(ids, config, 0), Updater(model.network_, optimizer), 1, config, watchers=[watcher]).run()
    return {"loss": watcher.loss}


def layer(task: str, kind: str, arguments: str, streams: int, steps: int, features: int) -> dict[str, Any]:
    """Seconds of a step of one layer: of "one", a training step, or of "reading", both tasks of the worker."""
    import json

    from benchmarks.harness import timed
    from benchmarks.workers.ours import TASKS

    work = TASKS[task](kind=kind, shape=[streams, steps, features], arguments=json.loads(arguments))  # does one step
    seconds = timed(work.step, 1, work.wait)
    if seconds < AT_LEAST:
        seconds = timed(work.step, ceil(AT_LEAST / seconds), work.wait)
    return {"seconds": seconds}


if __name__ == "__main__":
    main({"nothing": nothing, "import": imported, "save": save, "token": token, "train": train, "layer": layer})
