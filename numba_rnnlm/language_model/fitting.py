"""Trains a language model on a corpus, as :meth:`LanguageModel.fit <numba_rnnlm.LanguageModel.fit>` describes."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, inf
from typing import Any, NamedTuple

import numpy as np

from .. import model_files, runs
from ..callbacks import Callback, Called
from ..config import CheckpointConfig, TrainingConfig
from ..errors import ConfigError, DivergenceError, TrainingError, expect_kind, plain
from ..formats.native import write_model
from ..interrupts import Interrupts
from ..network import Network
from ..optimizers import Optimizer
from ..paths import same_file
from ..progress import Progress
from ..reports import warn
from ..scoring import Evaluation
from ..storage import expect_room, locked
from ..text import Corpus, Source, Text, Tokenizer, learn_tokenizer, most_frequent, open_source, split, streams_that_fit
from ..training.checkpoints import Checkpoints
from ..training.history import History, history_about
from ..training.log import Log
from ..training.loop import Trainer
from ..training.plan import Plan, plan, told
from ..training.position import Position
from ..training.reports import Reports
from ..training.streams import StreamTask, make_optimizer
from ..training.updater import Updater
from .architecture import initial_weights
from .contents import Contents
from .evaluating import ADVICE, evaluator, foresee, read, tell_unknown
from .extension import extended
from .files import rebuilt, sizes


class Prepared(NamedTuple):
    """What the caller of :meth:`LanguageModel.fit_config <numba_rnnlm.LanguageModel.fit_config>` will do with the model after the training.

    Attributes
    ----------
    out
        Where it will save the model; ``fit_config`` makes sure that there is room for it.
    seconds
        How much of ``max_seconds`` to reserve for saving.
    notes
        Lines to show before the training.
    """

    out: str | os.PathLike[str]
    seconds: float = 0.0
    notes: Sequence[str] = ()


Prepare = Callable[[Mapping[str, Any]], Prepared]


@dataclass
class Start:
    """What a training starts from: the model so far, and the texts as ids.

    Attributes
    ----------
    added
        A sentence about the symbols that were added to the vocabulary.
    """

    tokenizer: Tokenizer | None
    network: Network | None
    history: History
    corpus: Corpus
    valid: Corpus | None
    added: str


def fit(
    contents: Contents, model: Any, corpus: Source, valid: Source | None, config: TrainingConfig, keeping: CheckpointConfig,
    optimizer: Optimizer | None, interrupts: Interrupts | None, prepare: Prepare | None, callbacks: Sequence[Callback],
) -> None:
    """Train; ``model`` is the front end, which the callbacks see."""
    contents.expect_not_training()
    corpus, valid = open_source(corpus), None if valid is None else open_source(valid)  # before a lock may lie in one of their folders
    _expect_files_of_their_own(keeping, [corpus, valid])
    with ExitStack() as held:
        interrupts = held.enter_context(interrupts or Interrupts(notice=config.verbose > 0))
        if keeping.checkpoint is not None:
            held.enter_context(locked(keeping.checkpoint))
        contents.is_training = True
        held.callback(setattr, contents, "is_training", False)
        _fit(contents, model, corpus, valid, config, keeping, optimizer, interrupts, prepare, callbacks)


def _fit(
    contents: Contents, model: Any, corpus: Source, valid: Source | None, config: TrainingConfig, keeping: CheckpointConfig,
    optimizer: Optimizer | None, interrupts: Interrupts, prepare: Prepare | None, callbacks: Sequence[Callback],
) -> None:
    log = None if keeping.log is None else Log(keeping.log, resumed=keeping.resume is not None)
    saved, config = _run_to_resume(contents, config, keeping)
    start = _read_texts(contents, corpus, valid, config, saved)
    chosen = plan(config, len(start.corpus.ids))
    trainer = _trainer(contents, start, chosen, optimizer, saved, interrupts)
    texts = {"corpus": start.corpus.digest(), "valid": None if start.valid is None else start.valid.digest()}
    whole = corpus.digest() if isinstance(corpus, Text) else "".join(filter(None, texts.values() if config.validation_split else [texts["corpus"]]))
    if saved is not None:
        saved.expect_texts(texts)
        with model_files.fitting(saved.name):
            _expect_reached(saved.at, start.history, trainer.task.batches_per_epoch)
            trainer.resume(saved.at, saved.group, saved.rounding, saved.extended(config))
    settings = runs.settings(chosen)
    if keeping.checkpoint is not None:
        trainer.checkpoints = _checkpoints(contents, keeping, trainer, settings, texts, start.history)
    progress = Progress(config.verbose)
    trainer.watchers = [Reports(start.history, progress, log)]
    if callbacks:
        updates = ceil(trainer.task.batches_per_epoch / chosen.accumulate)
        metrics = ["loss", *(["val_loss"] if trainer.task.measures else [])]
        trainer.watchers.append(Called(model, callbacks, {"epochs": chosen.epochs, "steps": updates, "verbose": config.verbose, "metrics": metrics}))
        model.stop_training = False
    notes = _notes(contents, start, config, chosen, trainer, saved, keeping)
    if start.valid is not None and saved is None and contents.about_training:
        held_out_of = whole if config.validation_split else valid.digest() if isinstance(valid, Text) else texts["valid"]
        _warn_if_seen(contents.about_training, held_out_of, start.valid.name, config.validation_split)
    before, done = vars(contents).copy(), trainer.at.updates
    contents.tokenizer, contents.built, contents.history = start.tokenizer, trainer.network, start.history
    contents.validation, contents.about_training = None, {"texts": {**texts, "whole": whole}, "training": settings}
    try:
        out = None
        if prepare is not None:
            prepared = prepare(contents.about())
            expect_kind("what prepare gave", prepared, Prepared, "a Prepared")
            out, trainer.clock.saving, notes = prepared.out, prepared.seconds, [*prepared.notes, *notes]
            if same_file(os.fsdecode(out), keeping.log):
                raise ConfigError(f"log is {keeping.log!r}, where the model is to be saved; give one of them another name.")
        expect_room(sizes(trainer, start.tokenizer, None if out is None else os.fsdecode(out), keeping.checkpoint))
        if log is not None:
            log.begin()
        for note in notes:
            progress.line(note)
        trainer.run()
    except BaseException as error:
        if _is_lost(error, trainer.at, done):
            vars(contents).update(before)
        raise
    finally:
        if start.valid is not None and trainer.at.best < inf and contents.built is trainer.network:
            scored, tokens = start.valid.scored, len(start.valid.ids) - 1
            contents.validation = Evaluation(trainer.at.best * tokens, tokens, scored.unknown, scored.characters, scored.bytes)


def _run_to_resume(contents: Contents, config: TrainingConfig, keeping: CheckpointConfig) -> tuple[runs.SavedRun | None, TrainingConfig]:
    """The run to resume, if there is one, and the configuration, in which that run determines what is left open."""
    if keeping.checkpoint is not None and not same_file(keeping.checkpoint, keeping.resume):
        runs.expect_no_run(keeping.checkpoint, "language_model")
    if keeping.resume is None or keeping.begins:
        return None, config
    saved = runs.read_run(keeping.resume)
    config = saved.completed(config)
    saved.expect_settings({"body": None, **contents.settings(), "precision": contents.options.precision}, config)
    saved.expect_cells(contents.ops, contents.middle())
    return saved, config


def _read_texts(contents: Contents, corpus: Source, valid: Source | None, config: TrainingConfig, saved: runs.SavedRun | None) -> Start:
    """The texts as ids, and the tokenizer, weights and history that the training starts from."""
    tokenizer, network, history = contents.tokenizer, contents.built, contents.history
    if saved is not None:
        tokenizer, network, history = rebuilt(contents, saved.about, saved.group("weights"), saved.name)
    if valid is not None and config.validation_split and saved is None:
        raise ConfigError(f"validation_split is {config.validation_split}, but a text to validate on is given, too; leave one of them out.")
    if valid is None and config.validation_split:
        corpus, valid = split(corpus, config.validation_split)
    if saved is None and tokenizer is None and contents.text.tokenizer is not None:
        tokenizer = learn_tokenizer(corpus, contents.text)
    known, added = read(contents, corpus, tokenizer), ""
    if config.extend_vocabulary and saved is None:
        tokenizer, network, added = _extended(contents, known, tokenizer, network)
        if added:
            known = read(contents, corpus, tokenizer)
    return Start(tokenizer, network, history, known, None if valid is None else read(contents, valid, tokenizer), added)


def _extended(
    contents: Contents, corpus: Corpus, tokenizer: Tokenizer | None, network: Network | None
) -> tuple[Tokenizer, Network | None, str]:
    """Tokenizer and network with the new symbols of a text, and a sentence about these, empty if there are none."""
    if tokenizer is None or corpus.missing.symbols is None:
        raise ConfigError("extend_vocabulary=True takes new symbols from a text, but the corpus is ids; leave it out.")
    larger = tokenizer.extended(corpus.missing.symbols, contents.text.min_count, contents.text.max_vocabulary)
    if network is None or larger.size == tokenizer.size:
        return tokenizer, network, ""
    graph, unknown = contents.graph(larger), larger.unknown
    assert unknown is not None  # every tokenizer that can grow has <unk>
    weights = extended(graph, network.weights(), initial_weights(graph, contents.sized(larger), contents.seed), unknown)
    new = {symbol: count for symbol, count in corpus.missing.symbols.items() if symbol in larger}
    return larger, Network(graph, contents.ops, weights), (
        f"the vocabulary has grown by {len(new):,} to {larger.size:,} symbols: {most_frequent(new)}")


def _trainer(
    contents: Contents, start: Start, chosen: Plan, optimizer: Optimizer | None, saved: runs.SavedRun | None, interrupts: Interrupts
) -> Trainer:
    """A trainer that is ready to run. Raises :class:`ConfigError` if the training does not fit into memory."""
    ids, valid = start.corpus.ids, start.valid
    chosen = replace(chosen, streams=streams_that_fit(len(ids), chosen.streams, chosen.steps))
    with nullcontext() if saved is None else model_files.fitting(saved.name):
        optimizer = optimizer or make_optimizer(chosen, contents.config.cell)
    network = start.network
    graph = network.graph if network else contents.graph(start.tokenizer)
    graph.expect_memory_for_training(contents.ops, chosen.steps, chosen.streams, optimizer.rule.moments, network.held if network else 0)
    network = network or contents.new_network(start.tokenizer)
    validation = None if valid is None else evaluator(network, valid, start.tokenizer)
    validate = None if validation is None else lambda: validation().nats_per_token
    trained = ceil(start.history["epoch"][-1]) if start.history["epoch"] else 0
    return Trainer(
        network, StreamTask(ids, chosen, contents.seed, validate), Updater(network, optimizer), chosen.epochs, chosen, Position(trained=trained),
        interrupted=interrupts, foresee=None if valid is None else partial(foresee, network, valid),
    )


def _notes(
    contents: Contents, start: Start, config: TrainingConfig, chosen: Plan, trainer: Trainer, saved: runs.SavedRun | None, keeping: CheckpointConfig
) -> list[str]:
    """Lines to report before a training; what needs attention is a warning instead."""
    optimizer, corpus, valid = trainer.updater.optimizer, start.corpus, start.valid
    updates = chosen.epochs * ceil(trainer.task.batches_per_epoch / chosen.accumulate)
    notes = [f"optimizer {optimizer.name}, learning rate {plain(optimizer.learning_rate)}, schedule {chosen.schedule}",
             *told(config, chosen, len(corpus.ids), updates), start.added]
    if (streams := trainer.task.streams) < chosen.streams:
        warn(f"the corpus has {len(corpus.ids):,} tokens, too few for {chosen.streams} streams of {chosen.steps} steps; "
             f"training on {streams} {'stream' if streams == 1 else 'streams'}. Fewer streams or steps give more updates.")
    if valid is not None:
        notes.append(tell_unknown(contents.text, valid.name, valid.missing, len(valid.ids), ADVICE["validation"], valid.explained))
    if saved is not None:
        if trainer.at.ended:
            warn(f"the run in {saved.name!r} had ended ({trainer.at.ended}); nothing was left to do. Its model can be "
                 "trained on from its weights: load it and fit, or train --from.")
        elif saved.at.ended:
            notes.append(f"{saved.name} had ended ({saved.at.ended}), and is continued; {saved.at.updates:,} updates so far")
        else:
            notes.append(f"going on from {saved.name}: {saved.place}; {saved.at.updates:,} updates so far")
        return [*filter(None, notes)]
    advice = "" if config.extend_vocabulary else ADVICE["training" if contents.tokenizer else "learning"]
    notes.append(tell_unknown(contents.text, corpus.name, corpus.missing, len(corpus.ids), advice, corpus.explained))
    if config.validation_split and valid is None:
        warn(f"{corpus.name} is too short to hold out {config.validation_split:.0%} of it; it is trained on as a whole, without validation.")
    if corpus.returns and start.tokenizer is not None and contents.text.line_ends is None:
        warn(f"{corpus.name} has {corpus.returns:,} carriage returns (\\r): " + (
            "the line ends \\r\\n and \\r are read as \\n, here and wherever the model reads a text; line_ends='keep' keeps them."
            if start.tokenizer.line_ends == "lf" else
            "they are kept, as symbols; with line_ends='lf' the line ends \\r\\n and \\r are read as \\n."))
    if keeping.begins:
        notes.append(f"there is no {keeping.resume} yet: this is the beginning of the run")
    return [*filter(None, notes)]


def _warn_if_seen(before: Mapping[str, Any], text: str | None, name: str, split: float) -> None:
    """Warn if the text that is validated on, or of which it is the end, was that of the last training, unless that held out the same part."""
    training = before.get("training")
    holds_out_the_same = split and isinstance(training, dict) and training.get("validation_split") == split
    if runs.corpus_of(before) == text and not holds_out_the_same:
        warn(f"{name} is used for validation, but the model's last training has learned from it, at least in part: its loss will be lower than "
             "that of a new text. Validate on a text that was in no training.")


def _checkpoints(
    contents: Contents, keeping: CheckpointConfig, trainer: Trainer, settings: Mapping[str, Any], texts: Mapping[str, str | None], history: History
) -> Checkpoints:
    path = keeping.checkpoint
    assert path is not None

    def write(at: Position, groups: Mapping[str, Iterable[tuple[str, np.ndarray]]]) -> None:
        run = {"config": settings, "precision": contents.options.precision, "rounding": trainer.updater.rounding, "texts": texts,
               "position": at.about(), "model": "good" if trainer.is_measured() else "weights"}
        write_model(path, "language_model", {**contents.about(gradients=True), "history": history_about(history, clock=True), "run": run}, groups)

    return Checkpoints(write, keeping.every)


def _expect_reached(at: Position, history: History, batches_per_epoch: int) -> None:
    """Raise ValueError unless a training at this position can have this history."""
    last = history["epoch"][-1] if history["epoch"] else 0
    if not at.trained <= ceil(last) or last > at.trained + at.epoch - 1 + at.batch / batches_per_epoch:
        raise ValueError(f"epoch {at.epoch}, batch {at.batch} of {batches_per_epoch}, after {at.trained} earlier epochs, and a history of {last:g} epochs")


def _is_lost(error: BaseException, at: Position, done: int) -> bool:
    """Whether nothing is left of a training that began after ``done`` updates and ended in this error."""
    if isinstance(error, DivergenceError):  # the weights are those of the best report
        return at.best == inf
    return at.updates == done and not isinstance(error, TrainingError)


def _expect_files_of_their_own(keeping: CheckpointConfig, texts: Sequence[Any]) -> None:
    """Raise :class:`ConfigError` if a training would write into what it reads, or one of its files into another."""
    for name, path in (("checkpoint", keeping.checkpoint), ("log", keeping.log)):
        for text in texts:
            if path is not None and isinstance(text, Text) and text.holds(path):
                raise ConfigError(f"{name} is {path!r}, which is or would become part of the text {text.name!r}; put it elsewhere.")
    for name, path in (("checkpoint", keeping.checkpoint), ("resume", keeping.resume)):
        if same_file(keeping.log, path):
            raise ConfigError(f"log is {keeping.log!r}, the file of {name}, too; give the log a name of its own.")
