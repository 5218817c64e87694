"""LanguageModel: train on a text, measure, score, write, save."""

import copy
import os
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import compress, islice
from math import ceil, inf
from typing import Any, Literal, NamedTuple, Self, TypeVar, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from . import backends, cells, runs
from .architecture import build, initial_weights
from .arguments import checked_calls
from .backends.ops import Streams
from .callbacks import Callback, Called, read_callbacks
from .cells import Cell
from .config import (
    OPTIMIZERS,
    WEIGHTS,
    CheckpointConfig,
    ModelConfig,
    Sampling,
    SamplingConfig,
    TextConfig,
    TrainingConfig,
    UnknownConfig,
    expect_vocabulary,
)
from .decoding import following, generate, generate_batch, read
from .errors import (
    ConfigError,
    CorpusError,
    DivergenceError,
    GenerationError,
    NotFittedError,
    ShapeError,
    TrainingError,
    VocabularyError,
    expect_flag,
    expect_items,
    expect_kind,
    expect_number,
    expect_one_of,
    plain,
    plain_value,
    shown,
)
from .extension import extended
from .interrupts import Interrupts
from .layers import Layer
from .layers.description import describe as describe_layer
from .layers.description import descriptions, rebuild_all
from .network import Network
from .optimizers import Optimizer, describe
from .paths import same_file
from .progress import Progress
from .recognition import cells_of_file, difference, records
from .reports import warn
from .scoring import Evaluation, TokenScore, judge, log_probabilities, total_loss, without
from .states import Beginning, TextState, continued, expect_state, nothing_behind, state_after, tail_of
from .storage import expect_room, locked, model_bytes, open_model, write_model
from .text import (
    Bytes,
    Corpus,
    Ids,
    ManyTexts,
    OneText,
    Sentence,
    Source,
    StoredTexts,
    Text,
    Tokenizer,
    Unknown,
    as_text,
    clean,
    encode_sentence,
    expect_ids,
    hints,
    learn_tokenizer,
    most_frequent,
    open_source,
    read_corpus,
    segments,
    sentences,
    split,
    streams_that_fit,
)
from .training.checkpoints import Checkpoints
from .training.history import COLUMNS, History, history_about, new_history, read_history
from .training.log import Log
from .training.loop import Trainer
from .training.plan import Plan, plan, told
from .training.position import Position
from .training.reports import Reports
from .training.streams import StreamTask, make_optimizer
from .training.updater import Updater

EVALUATION_STREAMS = 20  # side by side, for speed; a text of fewer than 2,000 tokens is one stream
MANY_UNKNOWN = 0.01  # part of a text: more unknown symbols are worth a warning
MANY_WHERE_CUT = 0.2  # the same for a vocabulary that min_count or max_vocabulary has cut on purpose
NUMBER_BYTES = 25  # the most that a number takes in the header of a file
SAMPLE, MARGIN = 0.01, 1.2  # part of the time in which an evaluation's length is estimated, and what it may take longer
EVALUATION_STEPS = 64  # tokens at once; each stream first re-reads as many, so that it starts warm

ADVICE = {  # what to do about unknown symbols
    "training": "<unk> is easy to predict, so the loss says little; extend_vocabulary=True gives them rows of their own.",
    "learning": "<unk> is easy to predict, so the loss says little; a smaller min_count or a larger max_vocabulary keeps more of them.",
    "validation": "<unk> may be easier to predict than they are; to compare models, evaluate with unknown='exclude' or unknown='penalize'.",
    "scoring": "<unk> may be more probable than they are; unknown='exclude' leaves them out, and unknown='penalize' adds what spelling them "
               "would cost.",
}

Config = TypeVar("Config", ModelConfig, TextConfig, TrainingConfig, CheckpointConfig)

LOAD = "LanguageModel.load(path, cell={cell})"
IDS_HAVE_NO_CHARACTERS = "unknown='penalize' counts the characters of unknown symbols, but ids have none; give text, or unknown='exclude'."
MACHINE = ("backend", "threads", "precision")  # where and how it is computed: no part of the model


class Prepared(NamedTuple):
    """What the caller of :meth:`LanguageModel.fit_config` does with the model after the training.

    Attributes
    ----------
    out
        Where it will save the model; ``fit_config`` sees that there is room for it.
    seconds
        How much of ``max_seconds`` saving takes.
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
        A sentence about symbols that the vocabulary has grown by.
    """

    tokenizer: Tokenizer | None
    network: Network | None
    history: History
    corpus: Corpus
    valid: Corpus | None
    added: str


@checked_calls
class LanguageModel:
    """A recurrent neural network language model.

    Parameters
    ----------
    cell
        "lstm", "gru", "tanh", "relu", "sigmoid", or a :class:`~numba_rnnlm.cells.Cell` of your own.
    hidden, layers, embedding
        Units per recurrent layer, number of such layers, size of a symbol's vector.
    dropout
        Part of the values dropped between layers while training.
    tied
        The output layer uses the embedding's matrix.
    forget_bias
        Initial bias of the LSTM's forget gate.
    initializer, initializer_scale
        "glorot" (as in Keras, with an embedding of unit size), or "uniform" within ±initializer_scale (Zaremba
        et al. 2014).
    vocabulary_size
        With ``tokenizer=None``: the number of different ids.
    tokenizer
        "byte", "char", "word", or None for corpora that are arrays of ids.
    min_count, max_vocabulary
        Rarer symbols, or all but the most frequent ones, become ``<unk>``.
    line_ends
        "lf": ``"\\r\\n"`` and ``"\\r"`` are read as ``"\\n"``, in every text and sentence and prompt; "keep": they stay as they are. Left
        out, "lf" for characters and words and "keep" for bytes.
    body
        Layers of :mod:`numba_rnnlm.layers`, or of your own, between the embedding and the output layer, in place of ``layers`` recurrent
        ones; they take and return a vector for every step. ``cell``, ``hidden``, ``layers``, ``dropout`` and ``forget_bias`` then have no
        effect.
    backend
        "auto", "cpu", "cuda" (an NVIDIA GPU) or "reference"; see :func:`numba_rnnlm.backends.get`.
    threads
        Default: NUMBA_RNNLM_NUM_THREADS, or the processors this process may use. Results do not depend on it.
    precision
        Of the factors of matrix products: "float32", or "bf16", faster (on "cuda", and on processors with AVX512_BF16);
        on "cuda" also "tf32".
    seed
        Of the starting weights and the dropout masks. Same seed, same model, to the bit.

    Attributes
    ----------
    history_
        Column → one value per report, of which each epoch ends with one: epoch, loss, perplexity, valid_loss, valid_perplexity, tokens_per_second, seconds, …
    tokenizer_
        The tokenizer with its vocabulary; None for ids.
    validation_
        An :class:`~numba_rnnlm.scoring.Evaluation` of these weights on the ``valid`` of the last ``fit``; None without one.

    Examples
    --------
    >>> model = LanguageModel(hidden=16, layers=1, embedding=8, seed=1)
    >>> model = model.fit("to be or not to be\\n" * 20, epochs=3, streams=4, steps=10, verbose=0)
    >>> len(model.generate("to be", length=10, seed=1))
    10
    >>> model.perplexity("to be or not to be\\n") < 20
    True
    """

    def __init__(
        self,
        cell: str | Cell = "lstm",
        hidden: int = 128,
        layers: int = 2,
        embedding: int = 64,
        *,
        dropout: float = 0.0,
        tied: bool = False,
        forget_bias: float = 1.0,
        initializer: str = "glorot",
        initializer_scale: float = 0.1,
        vocabulary_size: int | None = None,
        tokenizer: str | None = "char",
        min_count: int = 1,
        max_vocabulary: int | None = None,
        line_ends: str | None = None,
        body: Sequence[Layer] | None = None,
        backend: str = "auto",
        threads: int | None = None,
        precision: str = "float32",
        seed: int = 0,
    ) -> None:
        given = locals()
        if isinstance(cell, Cell):
            cells.register(cell)
        self._config = _filled(ModelConfig, {**given, "cell": cell.name if isinstance(cell, Cell) else cell})
        self._cell = cells.held(cell)
        self._text = _filled(TextConfig, given)
        self._body = None if body is None else _body(body, self._config)
        expect_vocabulary(tokenizer, vocabulary_size)
        expect_number("seed", seed, 0, 2**63 - 1, whole=True)
        self._seed = int(seed)
        self._set_machine(backend, threads, precision)
        self._network: Network | None = None
        self.tokenizer_: Tokenizer | None = None
        self.history_: History = new_history()
        self.validation_: Evaluation | None = None
        self._stop_training = False
        self._learned: dict[str, Any] = {}  # for the header of a file: "texts" and "training" of the last fit

    # scikit-learn's manners

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**self._config.to_dict(), "cell": self._cell, **self._text.to_dict(), "body": self._body, "backend": self._backend, "threads": self._threads,
                "precision": self._precision, "seed": self._seed}

    def set_params(self, **params: Any) -> Self:
        """Change constructor arguments; of a trained model only ``backend``, ``threads`` and ``precision``."""
        merged = {**self.get_params(), **params}
        unknown = sorted(set(params) - set(self.get_params()))
        if unknown:
            raise ConfigError(f"LanguageModel has no parameter {unknown[0]!r}; it has {', '.join(self.get_params())}.")
        network = self._network
        trained = network is not None and not self._is_as_drawn(network)
        if trained and cells.held(merged["cell"]) != self._cell:
            raise ConfigError("cell of a trained model cannot change; make a new LanguageModel.")
        other = type(self)(**merged)  # what it would be: if that is impossible, nothing has changed
        if network is None or not trained:
            vars(self).update(vars(other))
            return self
        fixed = [name for name, value in other.get_params().items() if value != self.get_params()[name] and name not in MACHINE]
        if fixed:
            raise ConfigError(f"{fixed[0]} of a trained model cannot change; make a new LanguageModel.")
        weights = network.weights()
        self._set_machine(*(merged[name] for name in MACHINE))
        self._network = Network(network.graph, self._ops, weights)
        return self

    def _is_as_drawn(self, network: Network) -> bool:
        """Whether nothing has changed the weights that the seed draws: a model of ids draws them when it is first asked for anything."""
        if self._learned:
            return False
        drawn = self._build(self.tokenizer_).weights()
        return all(np.array_equal(array, drawn[name]) for name, array in network.weights().items())

    def __copy__(self) -> Self:
        return copy.deepcopy(self)  # so that a copy never trains the weights of its origin

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.get_params().items())
        return f"LanguageModel({shown})"

    def _set_machine(self, backend: str, threads: int | None, precision: str) -> None:
        self._ops = backends.get(backend, threads=threads, precision=precision)
        self._backend, self._threads, self._precision = plain_value(backend), plain_value(threads), plain_value(precision)

    @property
    def stop_training(self) -> bool:
        """Whether a callback has asked the training to end after this epoch."""
        return self._stop_training

    @stop_training.setter
    def stop_training(self, value: bool) -> None:
        expect_flag("stop_training", value)
        self._stop_training = bool(value)

    def get_weights(self) -> list[np.ndarray]:
        """Copies of all weights, in the order of the layers; ``network_.weights()`` has them by name."""
        return list(self.network_.weights().values())

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Overwrite all weights by arrays as :meth:`get_weights` returns them.

        Raises
        ------
        ShapeError
            If their number or a shape is another.
        """
        names, weights = list(self.network_.parameters), expect_items("weights", weights, "a list of arrays, as get_weights() gives")
        if len(weights) != len(names):
            raise ShapeError(f"weights has {len(weights)} arrays, expected {len(names)}, as get_weights() gives.")
        self.network_.set_weights(dict(zip(names, weights, strict=True)))

    # learning

    def fit(
        self,
        corpus: Source,
        valid: Source | None = None,
        *,
        epochs: int | None = None,
        streams: int | None = None,
        steps: int | None = None,
        optimizer: str | Optimizer = "adam",
        learning_rate: float | None = None,
        momentum: float = 0.0,
        weight_decay: float | None = None,
        schedule: str = "linear",
        warmup: float = 0.0,
        decay_factor: float = 2.0,
        decay_after: int = 4,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        reduction: str = "mean",
        accumulate: int = 1,
        patience: int | None = None,
        validation_split: float = 0.0,
        validate_every: int | None = None,
        max_seconds: float | str | None = None,
        not_finite: str = "stop",
        extend_vocabulary: bool = False,
        verbose: int = 1,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: str | float = "5min",
        resume: str | os.PathLike[str] | None = None,
        log: str | os.PathLike[str] | None = None,
        callbacks: Sequence[Callback] | Callback | None = None,
        on_interrupt: str = "raise",
    ) -> Self:
        """Train on a corpus, from the current weights: a new model's come from its seed, fitting again continues.

        Ctrl-C, SIGTERM, SIGHUP and other signals end the training cleanly (:mod:`numba_rnnlm.interrupts`): the epoch is closed
        and the best weights are kept. Then the signal has its usual consequence, such as ``KeyboardInterrupt``; see
        ``on_interrupt``. With a checkpoint, a run that was stopped in any way continues with ``resume`` and ends in the same
        bytes as if nothing had stopped it.

        Parameters
        ----------
        corpus, valid
            A path (of a file or a folder), a text (a str with a line end in it, or bytes), lines of text, an open file, or an array of ids:
            see :mod:`numba_rnnlm.text.sources`. With ``valid``, each epoch is validated and the weights of the best one are kept.
        epochs, streams, steps
            Passes over the corpus; parallel streams it is cut into; time steps between updates. What is left out is chosen from
            the number of tokens (:func:`numba_rnnlm.plan.plan`), and of a resumed run is as it was.
        optimizer, learning_rate, momentum, weight_decay
            "sgd", "rmsprop", "adagrad", "adam" or "adamw", by PyTorch's rules; without a rate, one that suits the cell. Or an
            object of :mod:`numba_rnnlm.optimizers` or of a class of your own, with all its numbers, its clipping too.
        schedule, warmup, decay_factor, decay_after
            "constant", "linear", "cosine", "plateau" or "zaremba": see :class:`~numba_rnnlm.config.TrainingConfig`.
        clip_norm, clip_value
            Clip the gradient's norm (left out: at 1, or at ``steps`` with "sum_time"), or each of its elements; 0 is
            off.
        reduction
            Of the loss that is differentiated: "mean" over tokens, or "sum_time", summed over the steps and
            averaged over the streams, which published recipes use (Zaremba et al. 2014).
        accumulate
            Batches whose gradients are added up for one update: as ``accumulate`` times as many streams, in the memory of ``streams``.
        patience
            Stop after this many epochs (with ``validate_every``, reports) without improvement.
        validation_split
            Without ``valid``: the part of the corpus, at its end, that is held out to validate. It is not trained on, and the vocabulary is
            not learned from it. A text too short for it is trained on as a whole, with a warning.
        validate_every
            Report after every so many updates of an epoch too, not only at its end: validate, and add a row to ``history_`` whose epoch is
            a fraction. The best weights, ``patience`` and the plateau schedule follow these reports.
        max_seconds
            End cleanly within this time, in seconds or as "90s", "45min", "1h30m". It includes the last validation and checkpoint, whose
            time is measured and reserved, but not compiling. Linear and cosine schedules then run over it.
        not_finite
            When the loss or a gradient is NaN or infinite: "stop", with the last good weights; or "skip" the update, let
            the streams begin anew and halve the learning rate; from the second in a row on, the last good weights are back
            too, and more than 10 in a row stop.
        extend_vocabulary
            Fitting again: symbols of ``corpus`` that are not in the vocabulary are added to it, as far as ``min_count`` and
            ``max_vocabulary`` allow, and get rows of their own in the embedding and the output layer. Until the first update they share
            the probability of ``<unk>``, so that all other symbols keep theirs. Left out, they count as ``<unk>``, and a warning says
            how many there are.
        verbose
            0 silent, 1 live progress, 2 one line an epoch.
        checkpoint, checkpoint_every
            A file for the whole state of the training, and how often it is written: "30s", "5min", "2h" or a number of
            seconds; also before the first update, and when the training ends, or a signal ends it. It is a model
            file too, and replaced in one piece. If it cannot be written (a full disk), the one before stays, a warning says
            so and training continues; if the first one cannot be written, that is an error and nothing is trained. The checkpoint of
            another run that has not ended is not replaced. While the training runs, ``<checkpoint>.lock`` keeps other jobs away.
        resume
            A checkpoint to resume from. Texts and settings must be those of the run that wrote it; the bytes are the same on
            the same backend and, of GPUs, the same model; elsewhere a warning says that the last bits differ. If that run had already finished, you get its model and a warning. If it is the same file as ``checkpoint`` and does
            not exist yet, the run begins: one command serves for the first job and for all that follow. With the schedules "constant",
            "plateau" and "zaremba" and without warmup, ``epochs`` and ``max_seconds`` may be others than those of the run, which may have
            ended; ``max_seconds`` counts from the beginning of the run.
        log
            A file to append a row to for each report, with the time of day: a table if its name ends in ".csv", JSON lines if it ends in
            ".jsonl", ".ndjson" or ".json". A row that cannot be written is lost with a warning.
        callbacks
            See :mod:`numba_rnnlm.callbacks`: they are called with the loss, and the val_loss of a validation. A resumed run calls them
            from where it continues.
        on_interrupt
            After a signal has ended the training: "raise" it again, so that it has its usual consequence; or "return".

        Raises
        ------
        ConfigError
            If a setting is impossible, is not that of the resumed run, or what it asks for does not fit into memory.
        CorpusError
            If the corpus is missing, empty, too short or not text; or not the one of the resumed run.
        DivergenceError
            If training runs into NaN; the last good weights are kept.
        TrainingError
            If a validation fails, or memory runs out in the middle; what was learned is kept.
        ModelFileError
            If there is no checkpoint to resume from, or it is damaged; or the checkpoint cannot be written, or another job
            is writing it.
        """
        given = locals()
        made = optimizer if isinstance(optimizer, Optimizer) else None
        if made is None:
            expect_one_of("optimizer", optimizer, OPTIMIZERS)
        config = _filled(TrainingConfig, {**given, "optimizer": describe(made) if made else optimizer})
        keeping = _filled(CheckpointConfig, given)
        return self.fit_config(corpus, valid, config, keeping, made, interrupts=Interrupts(on_interrupt, notice=config.verbose > 0),
                               callbacks=callbacks)

    def fit_config(
        self, corpus: Source, valid: Source | None, config: TrainingConfig, keeping: CheckpointConfig | None = None,
        optimizer: Optimizer | None = None, interrupts: Interrupts | None = None, prepare: Prepare | None = None,
        callbacks: Sequence[Callback] | Callback | None = None,
    ) -> Self:
        """:meth:`fit` with its options in two objects, and the optimiser if that is an object, too.

        Parameters
        ----------
        interrupts
            Notes the signals that end the training. A caller that has entered it already may save the model before they have
            their consequence.
        prepare
            Called when the texts have been read and the training is about to begin, with the header of the file that the model would be
            saved in. What it raises ends ``fit_config``.
        callbacks
            As in :meth:`fit`.
        """
        called = read_callbacks(callbacks)
        keeping = CheckpointConfig() if keeping is None else keeping
        expect_kind("config", config, TrainingConfig, "a TrainingConfig")
        expect_kind("keeping", keeping, CheckpointConfig, "a CheckpointConfig, or None")
        expect_kind("optimizer", optimizer, (Optimizer, type(None)), "an object of numba_rnnlm.optimizers, or None")
        expect_kind("interrupts", interrupts, (Interrupts, type(None)), "an Interrupts, or None")
        if prepare is not None and not callable(prepare):
            raise ConfigError(f"prepare is {shown(prepare)}, expected a function.")
        corpus, valid = open_source(corpus), None if valid is None else open_source(valid)  # before a lock may lie in one of their folders
        _expect_files_of_their_own(keeping, [corpus, valid])
        with ExitStack() as held:
            interrupts = held.enter_context(interrupts or Interrupts(notice=config.verbose > 0))
            if keeping.checkpoint is not None:
                held.enter_context(locked(keeping.checkpoint))
            return self._fit(corpus, valid, config, keeping, optimizer, interrupts, prepare, called)

    def _fit(
        self, corpus: Source, valid: Source | None, config: TrainingConfig, keeping: CheckpointConfig,
        optimizer: Optimizer | None, interrupts: Interrupts, prepare: Prepare | None, callbacks: Sequence[Callback],
    ) -> Self:
        log = None if keeping.log is None else Log(keeping.log, resumed=keeping.resume is not None)
        saved, config = self._to_resume(config, keeping)
        start = self._read_texts(corpus, valid, config, saved)
        chosen = plan(config, len(start.corpus.ids))
        trainer = self._trainer(start, chosen, optimizer, saved, interrupts)
        texts = {"corpus": start.corpus.digest(), "valid": None if start.valid is None else start.valid.digest()}
        whole = corpus.digest() if isinstance(corpus, Text) else "".join(filter(None, texts.values() if config.validation_split else [texts["corpus"]]))
        if saved is not None:
            saved.expect_texts(texts)
            with runs.fitting(saved.name):
                _expect_reached(saved.at, start.history, trainer.task.batches_per_epoch)
                trainer.resume(saved.at, saved.group, saved.rounding, saved.extended(config))
        settings = runs.settings(chosen)
        if keeping.checkpoint is not None:
            trainer.checkpoints = self._checkpoints(keeping, trainer, settings, texts, start.history)
        progress = Progress(config.verbose)
        trainer.watchers = [Reports(start.history, progress, log)]
        if callbacks:
            updates = ceil(trainer.task.batches_per_epoch / chosen.accumulate)
            metrics = ["loss", *(["val_loss"] if trainer.task.measures else [])]
            trainer.watchers.append(Called(self, callbacks, {"epochs": chosen.epochs, "steps": updates, "verbose": config.verbose, "metrics": metrics}))
            self.stop_training = False
        notes = self._notes(start, config, chosen, trainer, saved, keeping)
        before, done = (self.tokenizer_, self._network, self.history_, self.validation_, self._learned), trainer.at.updates
        self.tokenizer_, self._network, self.history_ = start.tokenizer, trainer.network, start.history
        self.validation_, self._learned = None, {"texts": {**texts, "whole": whole}, "training": settings}
        try:
            out = None
            if prepare is not None:
                prepared = prepare(self._about())
                expect_kind("what prepare gave", prepared, Prepared, "a Prepared")
                out, trainer.clock.saving, notes = prepared.out, prepared.seconds, [*prepared.notes, *notes]
                if same_file(os.fsdecode(out), keeping.log):
                    raise ConfigError(f"log is {keeping.log!r}, where the model is to be saved; give one of them another name.")
            expect_room(self._files(trainer, start.tokenizer, None if out is None else os.fsdecode(out), keeping.checkpoint))
            if log is not None:
                log.begin()
            for note in notes:
                progress.line(note)
            trainer.run()
        except BaseException as error:
            if _is_lost(error, trainer.at, done):
                self.tokenizer_, self._network, self.history_, self.validation_, self._learned = before
            raise
        finally:
            if start.valid is not None and trainer.at.best < inf and self._network is trainer.network:
                scored, tokens = start.valid.scored, len(start.valid.ids) - 1
                self.validation_ = Evaluation(trainer.at.best * tokens, tokens, scored.unknown, scored.characters, scored.bytes)
        return self

    def _to_resume(self, config: TrainingConfig, keeping: CheckpointConfig) -> tuple[runs.Run | None, TrainingConfig]:
        """The run to resume, if there is one, and the configuration with what it leaves open as it is in that run."""
        if keeping.checkpoint is not None and not same_file(keeping.checkpoint, keeping.resume):
            runs.expect_no_run(keeping.checkpoint)
        if keeping.resume is None or keeping.begins:
            return None, config
        saved = runs.read_run(keeping.resume)
        config = saved.completed(config)
        saved.expect_settings({"body": None, **self._settings(), "precision": self._precision}, config)
        self._expect_cell(saved)
        return saved, config

    def _read_texts(self, corpus: Source, valid: Source | None, config: TrainingConfig, saved: runs.Run | None) -> Start:
        """The texts as ids, and the tokenizer, weights and history that the training starts from."""
        tokenizer, network, history = self.tokenizer_, self._network, self.history_
        if saved is not None:
            tokenizer, network, history = self._rebuilt(saved.about, saved.group("weights"), saved.name)
        if valid is not None and config.validation_split and saved is None:
            raise ConfigError(f"validation_split is {config.validation_split}, but a text to validate on is given, too; leave one of them out.")
        if valid is None and config.validation_split:
            corpus, valid = split(corpus, config.validation_split)
        if saved is None and tokenizer is None and self._text.tokenizer is not None:
            tokenizer = learn_tokenizer(corpus, self._text)
        read, added = self._read(corpus, tokenizer), ""
        if config.extend_vocabulary and saved is None:
            tokenizer, network, added = self._extended(read, tokenizer, network)
            if added:
                read = self._read(corpus, tokenizer)
        return Start(tokenizer, network, history, read, None if valid is None else self._read(valid, tokenizer), added)

    def _trainer(
        self, start: Start, chosen: Plan, optimizer: Optimizer | None, saved: runs.Run | None, interrupts: Interrupts
    ) -> Trainer:
        """Ready to run. Raises :class:`ConfigError` if it does not fit into memory."""
        ids = start.corpus.ids
        chosen = replace(chosen, streams=streams_that_fit(len(ids), chosen.streams, chosen.steps))
        with nullcontext() if saved is None else runs.fitting(saved.name):
            optimizer = optimizer or make_optimizer(chosen, self._config.cell)
        network = start.network
        model = network.graph if network else build(self._model_config(start.tokenizer), self._cell, self._body)
        model.expect_memory_for_training(self._ops, chosen.steps, chosen.streams, optimizer.rule.moments, network.held if network else 0)
        network = network or self._build(start.tokenizer)
        validation = None if start.valid is None else self._evaluator(network, start.valid)
        validate = None if validation is None else lambda: validation().nats_per_token
        trained = ceil(start.history["epoch"][-1]) if start.history["epoch"] else 0
        return Trainer(
            network, StreamTask(ids, chosen, self._seed, validate), Updater(network, optimizer), chosen.epochs, chosen, Position(trained),
            interrupted=interrupts, foresee=None if start.valid is None else partial(self._foresee, network, start.valid),
        )

    def _notes(
        self, start: Start, config: TrainingConfig, chosen: Plan, trainer: Trainer, saved: runs.Run | None, keeping: CheckpointConfig
    ) -> list[str]:
        """What there is to say before a training: lines for its reports; what asks for attention is a warning."""
        optimizer, read, held_out = trainer.updater.optimizer, start.corpus, start.valid
        notes = [f"optimizer {optimizer.name}, learning rate {plain(optimizer.learning_rate)}, "
                 f"schedule {chosen.schedule}", *told(config, chosen, len(read.ids), chosen.epochs * ceil(trainer.task.batches_per_epoch / chosen.accumulate)), start.added]
        if (streams := trainer.task.streams) < chosen.streams:
            warn(f"the corpus has {len(read.ids):,} tokens, too few for {chosen.streams} streams of {chosen.steps} steps; "
                 f"training on {streams} {'stream' if streams == 1 else 'streams'}. Fewer streams or steps give more updates.")
        if held_out is not None:
            notes.append(self._tell_unknown(held_out.name, held_out.missing, len(held_out.ids), ADVICE["validation"], held_out.explained))
        if saved is not None:
            if trainer.at.ended:
                warn(f"the run in {saved.name!r} had ended ({trainer.at.ended}); nothing was left to do. Its model can be "
                     "trained on from its weights: load it and fit, or train --from.")
            notes.append(f"going on from {saved.name}: {saved.place}; {saved.at.updates:,} updates so far")
            return [*filter(None, notes)]
        advice = "" if config.extend_vocabulary else ADVICE["training" if self.tokenizer_ else "learning"]
        notes.append(self._tell_unknown(read.name, read.missing, len(read.ids), advice, read.explained))
        if config.validation_split and held_out is None:
            warn(f"{read.name} is too short to hold out {config.validation_split:.0%} of it; it is trained on as a whole, without validation.")
        if read.returns and start.tokenizer is not None and self._text.line_ends is None:
            warn(f"{read.name} has {read.returns:,} carriage returns (\\r): " + (
                "the line ends \\r\\n and \\r are read as \\n, here and wherever the model reads a text; line_ends='keep' keeps them."
                if start.tokenizer.line_ends == "lf" else
                "they are kept, as symbols; with line_ends='lf' the line ends \\r\\n and \\r are read as \\n."))
        if keeping.begins:
            notes.append(f"there is no {keeping.resume} yet: this is the beginning of the run")
        return [*filter(None, notes)]

    def _extended(
        self, read: Corpus, tokenizer: Tokenizer | None, network: Network | None
    ) -> tuple[Tokenizer, Network | None, str]:
        """Tokenizer and network with the new symbols of a text, and a sentence about these, empty if there are none."""
        if tokenizer is None or read.missing.symbols is None:
            raise ConfigError("extend_vocabulary=True takes new symbols from a text, but the corpus is ids; leave it out.")
        larger = tokenizer.extended(read.missing.symbols, self._text.min_count, self._text.max_vocabulary)
        if network is None or larger.size == tokenizer.size:
            return tokenizer, network, ""
        config = self._model_config(larger)
        model = build(config, self._cell, self._body)
        assert larger.unknown is not None  # as of every tokenizer that grows
        weights = extended(model, network.weights(), initial_weights(model, config, self._seed), larger.unknown)
        new = {symbol: count for symbol, count in read.missing.symbols.items() if symbol in larger}
        return larger, Network(model, self._ops, weights), (
            f"the vocabulary has grown by {len(new):,} to {larger.size:,} symbols: {most_frequent(new)}")

    def _tell_unknown(self, name: str, missing: Unknown, tokens: int, advice: str, explained: bool = False) -> str:
        """Warn of symbols that are not in the vocabulary, if they are many and no warning has explained them; otherwise return the sentence."""
        if not missing.symbols:
            return ""
        part = missing.missing / tokens
        told = (f"{name} has symbols that are not in the model's vocabulary and count as <unk>: {missing.missing:,} of {tokens:,} "
                f"({100 * part:.3g}%), {most_frequent(missing.symbols)}")
        is_cut = self._text.min_count > 1 or self._text.max_vocabulary is not None
        if explained or part <= (MANY_WHERE_CUT if is_cut else MANY_UNKNOWN):
            return told
        warn(f"{told}. {advice}".strip())
        return ""

    def _expect_cell(self, saved: runs.Run) -> None:
        """Raise :class:`ConfigError` unless the run was trained with this cell, forward and backward."""
        with runs.fitting(saved.name):
            record = saved.about.get("cells", {}).get(self._config.cell)
            differs = difference(self._ops, cells.get(self._cell), record, gradients=True) if record else ""
        if differs:
            raise ConfigError(f"the cell {self._config.cell!r} is not the one of the run in {saved.name!r}: {differs}. A run continues with the cell "
                              "that it began with. To train on from its weights with this one, load it, "
                              f"{LOAD.format(cell='...')}, and fit.")

    @staticmethod
    def settings_of_run(checkpoint: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The arguments of the model and of ``fit`` of the run that wrote a checkpoint. Raises :class:`ModelFileError`."""
        run = runs.read_run(checkpoint)
        with runs.fitting(run.name):
            cells.held(run.model["cell"])
        return run.model, run.training

    def _checkpoints(
        self, keeping: CheckpointConfig, trainer: Trainer, settings: Mapping[str, Any], texts: Mapping[str, str | None], history: History
    ) -> Checkpoints:
        path = keeping.checkpoint
        assert path is not None

        def write(at: Position, groups: Mapping[str, Iterable[tuple[str, np.ndarray]]]) -> None:
            run = {"config": settings, "precision": self._precision, "rounding": trainer.updater.rounding, "texts": texts,
                   "position": at.about(), "model": "good" if trainer.is_measured() else "weights"}
            write_model(path, "language_model", {**self._about(gradients=True), "history": history_about(history, clock=True), "run": run}, groups)

        return Checkpoints(write, keeping.every)

    def _read(self, source: Source, tokenizer: Tokenizer | None, bos: bool = False) -> Corpus:
        return read_corpus(source, tokenizer, None if tokenizer else self._config.vocabulary_size, bos)

    def _model_config(self, tokenizer: Tokenizer | None) -> ModelConfig:
        """With the size of the vocabulary."""
        size = tokenizer.size if tokenizer else self._config.vocabulary_size
        return ModelConfig(**{**self._config.to_dict(), "vocabulary_size": size})

    def _build(self, tokenizer: Tokenizer | None, weights: dict[str, np.ndarray] | None = None) -> Network:
        config = self._model_config(tokenizer)
        model = build(config, self._cell, self._body)
        return Network(model, self._ops, initial_weights(model, config, self._seed) if weights is None else weights)

    @property
    def network_(self) -> Network:
        """The layers with their numbers; ``network_.weights()`` are the weights by name."""
        if self._network is None:
            if self._text.tokenizer is not None:
                raise NotFittedError("the model has learned nothing yet; call fit, or LanguageModel.load.")
            self._network = self._build(None)
        return self._network

    # measuring

    def evaluate(
        self, corpus: Source, weights: str = "float32", bos: bool = False, unknown: str = "count", penalty: float | None = None
    ) -> Evaluation:
        """How well the model predicts a corpus: perplexity, bits per character and byte, tokens counted.

        Every token but the first counts once, line ends included; a symbol that is not in the vocabulary is
        scored as ``<unk>`` and counted in ``oov``, and more than 1 % of them are worth a warning. A corpus of 4,000 tokens or more is read as up to 20 streams side by side,
        each of which first re-reads the 64 tokens before its own, so that it does not start cold.

        Parameters
        ----------
        corpus
            As in :meth:`fit`.
        weights
            "int8": how well the weights do that :meth:`generate` reads then.
        bos
            The corpus follows a line end, so that its first token counts too, as in :meth:`score`
            (see :mod:`numba_rnnlm.scoring`). For text only.
        unknown, penalty
            Symbols that are not in the vocabulary: "count" them as ``<unk>``; "exclude" them from nats, tokens, characters and bytes;
            or "penalize" each of their characters by ``penalty`` nats, on top of ``<unk>``; left out, log 100.

        Raises
        ------
        CorpusError
            If nothing is left to measure.

        Examples
        --------
        >>> model = LanguageModel(hidden=16, layers=1, embedding=8, seed=1)
        >>> model = model.fit("to be or not to be\\n" * 20, epochs=3, streams=4, steps=10, verbose=0)
        >>> model.evaluate("to be\\n").tokens, model.evaluate("to be\\n", bos=True).tokens
        (5, 6)
        >>> mean = -model.score("to be") / len(model.full_scores("to be"))
        >>> bool(np.isclose(model.perplexity("to be\\n", bos=True), np.exp(mean)))
        True
        """
        expect_one_of("weights", weights, WEIGHTS)
        expect_flag("bos", bos)
        policy = UnknownConfig(unknown, penalty)
        network = self.network_ if weights == "float32" else self.network_.rounded()
        read = self._read(corpus, self.tokenizer_, bos)
        if policy.unknown == "penalize" and read.characters is None:
            raise ConfigError(IDS_HAVE_NO_CHARACTERS)
        if policy.excludes and read.scored.unknown == len(read.ids) - 1:
            raise CorpusError(f"all that is scored of {read.name} is not in the vocabulary, and unknown='exclude' leaves it out.")
        if policy.unknown == "count" and not read.explained:
            self._tell_unknown(read.name, read.scored.missing, len(read.ids) - 1, ADVICE["scoring"])
        return self._evaluator(network, read, bos, policy)()

    def _evaluator(
        self, network: Network, corpus: Corpus, bos: bool = False, policy: UnknownConfig | None = None
    ) -> Callable[[], Evaluation]:
        streams = max(1, min(EVALUATION_STREAMS, len(corpus.ids) // 2000))
        policy = policy or UnknownConfig()
        scored = corpus.scored.known() if policy.excludes else corpus.scored

        def run() -> Evaluation:
            batches = segments(corpus.ids, streams, EVALUATION_STEPS, warm=EVALUATION_STEPS)
            if policy.excludes and self.tokenizer_ is not None and self.tokenizer_.unknown is not None:
                batches = without(batches, self.tokenizer_.unknown)
            nats, tokens = total_loss(network, batches)
            nats += policy.nats_per_character * scored.missing.spelled
            return Evaluation(nats, tokens, scored.unknown, scored.characters, scored.bytes, bos, policy.unknown)

        segments(corpus.ids, streams, EVALUATION_STEPS)  # says now, not after an epoch, that a text is too short
        return run

    @staticmethod
    def _foresee(network: Network, corpus: Corpus, limit: float) -> float:
        """About the seconds that evaluating a corpus will take, from as much of it as takes a small part of ``limit``."""
        streams = max(1, min(EVALUATION_STREAMS, len(corpus.ids) // 2000))
        total_loss(network, islice(segments(corpus.ids, streams, EVALUATION_STEPS), 1))  # untimed: starts the threads, and may compile a kernel
        batches = segments(corpus.ids, streams, EVALUATION_STEPS)
        started, taken, done = time.monotonic(), 0.0, 0
        while taken < SAMPLE * limit and total_loss(network, islice(batches, 1))[1]:
            done, taken = done + 1, time.monotonic() - started
        count = ceil(len(corpus.ids) / (streams * EVALUATION_STEPS)) + 1  # the streams read some tokens twice
        return MARGIN * taken * count / max(done, 1)

    def perplexity(self, corpus: Source, bos: bool = False, unknown: str = "count", penalty: float | None = None) -> float:
        """exp of the mean negative log-probability of a token. The first one is not counted unless ``bos``; see :meth:`evaluate`."""
        return self.evaluate(corpus, bos=bos, unknown=unknown, penalty=penalty).perplexity

    def bits_per_character(self, corpus: Source, bos: bool = False, unknown: str = "count", penalty: float | None = None) -> float:
        """Bits the model needs for a character of the text, whatever its tokenizer; see :meth:`evaluate`."""
        found = self.evaluate(corpus, bos=bos, unknown=unknown, penalty=penalty)
        if found.characters is None:
            raise ShapeError("a corpus of ids has no characters; see evaluate(...).bits_per_token.")
        if found.bits_per_character is None:
            raise ShapeError("no character begins in the bytes that are scored; see evaluate(...).bits_per_byte.")
        return found.bits_per_character

    @overload
    def score(
        self, sentence: OneText, bos: bool = True, eos: bool = True, unknown: str = "count", penalty: float | None = None,
        *, state: TextState | None = None,
    ) -> float: ...

    @overload
    def score(
        self, sentence: ManyTexts, bos: bool = True, eos: bool = True, unknown: str = "count", penalty: float | None = None,
        *, state: TextState | None = None,
    ) -> NDArray[np.float64]: ...

    def score(
        self, sentence: OneText | ManyTexts, bos: bool = True, eos: bool = True, unknown: str = "count", penalty: float | None = None,
        *, state: TextState | None = None,
    ) -> float | NDArray[np.float64]:
        """Total log-probability, in nats, of a sentence; or of each of many.

        Parameters
        ----------
        sentence
            A str, bytes, or a 1-D array of ids. Many are a list, a column, or any iterable of these, or the lines of a file, which is open or
            a ``Path``: they are scored side by side, each as if alone.
        bos
            The sentence follows a line end; otherwise its first token is not counted
            (see :mod:`numba_rnnlm.scoring`).
        eos
            A line end follows the sentence and is counted; it is the one that the sentence ends in, if it does. For ids neither is added.
        unknown, penalty
            What a symbol that is not in the vocabulary counts: "count", log p(``<unk>``), with a warning where these are more than 1 %
            of the tokens; "exclude", nothing; "penalize", ``penalty`` nats less for each of its characters. See :meth:`evaluate`.
        state
            What the sentence follows, from :meth:`read`, instead of a line end: all its tokens count. A state of one text may precede many
            sentences; one of many texts precedes as many sentences.

        Examples
        --------
        >>> model = LanguageModel(hidden=16, layers=1, embedding=8, seed=1)
        >>> model = model.fit("to be or not to be\\n" * 20, epochs=3, streams=4, steps=10, verbose=0)
        >>> model.score(["to be", "not to be\\n"]).shape
        (2,)
        >>> model.score("to be") == model.score(b"to be\\r\\n")
        True
        """
        policy = UnknownConfig(unknown, penalty)
        many, rows, explained, scores = self._scores(sentence, bos, eos, policy, state)
        if policy.unknown == "count" and not explained and (symbols := Counter(symbol for row in rows for symbol in row.missing)):
            tokens = sum(len(row.ids) - 1 for row in rows)
            self._tell_unknown("what is scored", Unknown(symbols=symbols), max(tokens, 1), ADVICE["scoring"])
        totals = np.array([judge(one, row.unknown[1:], row.spelled[1:], policy)[0].sum() for row, one in zip(rows, scores, strict=True)])
        return totals if many else float(totals[0])

    @overload
    def full_scores(
        self, sentence: OneText, bos: bool = True, eos: bool = True, unknown: str = "count", penalty: float | None = None,
        *, state: TextState | None = None,
    ) -> list[TokenScore]: ...

    @overload
    def full_scores(
        self, sentence: ManyTexts, bos: bool = True, eos: bool = True, unknown: str = "count", penalty: float | None = None,
        *, state: TextState | None = None,
    ) -> list[list[TokenScore]]: ...

    def full_scores(
        self, sentence: OneText | ManyTexts, bos: bool = True, eos: bool = True, unknown: str = "count", penalty: float | None = None,
        *, state: TextState | None = None,
    ) -> list[TokenScore] | list[list[TokenScore]]:
        """(token, log_probability in nats, oov) of each token that :meth:`score` counts, whose sum is its result; of many sentences a list of these.

        A token that is not in the vocabulary is shown as the sentence has it, and scored as ``<unk>``; for ``unknown``,
        ``penalty`` and ``state`` see :meth:`score`.
        """
        policy = UnknownConfig(unknown, penalty)
        many, rows, _, scores = self._scores(sentence, bos, eos, policy, state)
        found = [self._token_scores(row, *judge(one, row.unknown[1:], row.spelled[1:], policy)) for row, one in zip(rows, scores, strict=True)]
        return found if many else found[0]

    def _scores(
        self, sentence: Any, bos: bool, eos: bool, policy: UnknownConfig, state: TextState | None
    ) -> tuple[bool, list[Sentence], bool, list[np.ndarray]]:
        """Whether these are many sentences; each as ids; whether a warning has explained unknown symbols; and log p of all ids but the first."""
        expect_flag("bos", bos)
        expect_flag("eos", eos)
        many, texts = self._sentences(sentence)
        start = None
        if state is not None:
            if not bos:
                raise ConfigError("bos=False leaves out the first token, but behind a state it is scored; leave bos out.")
            expect_state(state, self.network_, "float32")
            start = continued(many, texts, state).streams
        rows, explained = self._rows(texts, bos, eos, policy)
        if start is not None:
            rows = [row.behind(id) for row, id in zip(rows, start.ids.tolist(), strict=True)]
        return many, rows, explained, log_probabilities(self.network_, [row.ids for row in rows], start)

    def _token_scores(self, row: Sentence, scores: np.ndarray, counted: np.ndarray) -> list[TokenScore]:
        tokens: list[str | int] = row.ids.tolist()
        if self.tokenizer_ is not None and row.symbols is not None:
            tokens = [*row.named([self.tokenizer_.symbol(id) for id in row.ids.tolist()])]
        return [TokenScore(*found) for found in zip(compress(tokens[1:], counted), scores.tolist(), row.unknown[1:][counted].tolist(), strict=True)]

    def _sentences(self, given: Any) -> tuple[bool, Sequence[Any]]:
        """Whether these are many sentences, and each of them: text or ids."""
        return sentences(given, self.tokenizer_.line_ends if self.tokenizer_ else "keep")

    def _rows(self, texts: Sequence[Any], bos: bool, eos: bool, policy: UnknownConfig) -> tuple[list[Sentence], bool]:
        """Each sentence as ids; and whether a warning has explained unknown symbols."""
        known: dict[Any, Sentence] = {}  # equal texts are encoded once

        def row(one: Any) -> Sentence:
            if not isinstance(one, str | bytes):
                return self._sentence(one, bos, eos, policy)
            key = type(one), one
            if key not in known:
                known[key] = self._sentence(one, bos, eos, policy)
            return known[key]

        rows, hint = [row(one) for one in texts], ""
        if self.tokenizer_ is not None:
            strange = (one for one, row in zip(texts, rows, strict=True) if row.missing)
            if hint := hints.of_unknown(next(strange, ""), self.tokenizer_):
                warn(f"symbols are not in the model's vocabulary: {hint}")
        return rows, bool(hint)

    def _sentence(self, sentence: Any, bos: bool, eos: bool, policy: UnknownConfig | None = None) -> Sentence:
        network, tokenizer = self.network_, self.tokenizer_
        if not isinstance(sentence, str | bytes):
            if policy and policy.unknown == "penalize":
                raise ConfigError(IDS_HAVE_NO_CHARACTERS)
            ids = self._ids("sentence", sentence, network)
            return Sentence(ids, np.zeros(len(ids), bool) if tokenizer is None else ids == tokenizer.unknown)
        if tokenizer is None:
            raise ShapeError("the model has no tokenizer: give an array of ids instead of text.")
        text = clean(sentence, tokenizer.line_ends)
        if eos:
            text = text.removesuffix("\n") if isinstance(text, str) else text.removesuffix(b"\n")
        return encode_sentence(tokenizer, text, bos, eos)

    @staticmethod
    def _ids(name: str, ids: Any, network: Network) -> np.ndarray:
        if isinstance(ids, (list, tuple)) and any(isinstance(one, str) for one in ids):
            raise ShapeError(f"{name} is a {type(ids).__name__} of str, expected one text, or one array of ids.")
        array = expect_ids(ids, network.graph.head.symbols, name)
        if array.size == 0:
            raise ShapeError(f"{name} is empty, expected at least one id.")
        return array.astype(np.int32)

    # reading

    def read(self, text: OneText | ManyTexts = "", state: TextState | None = None, *, weights: str = "float32", unknown: str = "error") -> TextState:
        """Read a text, or many side by side, and return where the model then is: a :class:`~numba_rnnlm.states.TextState`.

        :meth:`generate`, :meth:`stream`, :meth:`score`, :meth:`full_scores` and :meth:`next_token` continue from there, as often as one
        likes, without reading the text again.

        Parameters
        ----------
        text
            As the prompt of :meth:`generate`: the model reads it as the beginning of a line.
        state
            What to continue instead of beginning a line; it stays as it is. A word ends where a text ends: "to" and "day" are two words.
        weights
            "int8" for a state from which :meth:`generate` continues with ``weights="int8"``.
        unknown
            As in :meth:`generate`.

        Examples
        --------
        >>> model = LanguageModel(hidden=16, layers=1, embedding=8, seed=1)
        >>> model = model.fit("to be or not to be\\n" * 20, epochs=3, streams=4, steps=10, verbose=0)
        >>> state = model.read(" or not", state=model.read("to be"))
        >>> model.generate(state=state, length=6, seed=1) == model.generate("to be or not", length=6, seed=1)
        True
        >>> bool(np.isclose(model.score(" to be", state=state), model.score("to be or not to be") - model.score("to be or not", eos=False)))
        True
        """
        expect_one_of("weights", weights, WEIGHTS)
        many, begun, start = self._begin(*self._behind(text, state), state, weights, unknown)
        network, version = self.network_, self.network_.version
        streams, digest = read(network, [one.ids for one in begun], weights, start), network.digest()
        if network.version != version:
            raise GenerationError("the weights of the model have changed while it was reading; read again, or train a copy, copy.deepcopy(model).")
        return state_after(begun, streams, many, weights, digest)

    def next_token(self, state: TextState, k: int = 10) -> list[Any]:
        """The ``k`` most probable symbols behind a ``state``, most probable first: pairs of a symbol and its log-probability in nats.

        Symbols are named as in :meth:`full_scores`. Of a state of many texts, a list for each.

        Examples
        --------
        >>> model = LanguageModel(hidden=16, layers=1, embedding=8, seed=1)
        >>> model = model.fit("to be or not to be\\n" * 20, epochs=9, streams=4, steps=10, verbose=0)
        >>> [token for token, log_probability in model.next_token(model.read("to be or n"), k=2)]
        ['o', 't']
        """
        expect_kind("state", state, TextState, "what model.read or TextState.load returned")
        expect_state(state, self.network_, state.weights)
        k = expect_number("k", k, 1, whole=True)
        name = self.tokenizer_.symbol if self.tokenizer_ else int
        found = [[(name(id), row[id].item()) for id in np.argsort(-row, kind="stable")[:k].tolist()]
                 for row in following(self.network_, state.streams, state.weights)]
        return found if state.many else found[0]

    def _behind(self, text: Any, state: TextState | None) -> tuple[bool, Sequence[Any]]:
        """:meth:`_sentences`; behind a state of many texts the default, an empty one, for each."""
        many, texts = self._sentences(text)
        if isinstance(state, TextState) and state.many and not many and isinstance(texts[0], str) and not texts[0]:
            return True, [""] * len(state)
        return many, texts

    def _begin(
        self, many: bool, texts: Sequence[Any], state: TextState | None, weights: str, unknown: str, as_bytes: bool = False
    ) -> tuple[bool, list[Beginning], Streams | None]:
        """Whether these are many texts; what is to be read of each; and what they continue."""
        expect_one_of("unknown", unknown, ("error", "unk"))
        expect_flag("as_bytes", as_bytes)
        if as_bytes and self.tokenizer_ is None:
            raise ConfigError("as_bytes=True returns bytes, but the model has no tokenizer and knows ids only; leave it out.")
        if state is None:
            return many, [self._beginning(one, self._prompt(one, unknown)) for one in texts], None
        expect_state(state, self.network_, weights)
        state, begun = continued(many, texts, state), []
        for number, one in enumerate(texts):
            if isinstance(one, str) and not one:
                begun.append(nothing_behind(state, number))
            else:
                begun.append(self._beginning(one, self._prompt(one, unknown, bos=False), state.tails[number]))
        return many, begun, state.streams

    def _beginning(self, text: Any, ids: np.ndarray, *before: np.ndarray) -> Beginning:
        kind = "str" if isinstance(text, str) else "bytes" if isinstance(text, bytes) else "ids"
        return Beginning(ids, tail_of(*before, ids), kind, self.tokenizer_ is not None and _ends_in_space(self.tokenizer_, text))

    # writing

    @overload
    def generate(self, prompt: str = "", length: int = 200, temperature: float = 1.0, *, as_bytes: Literal[False] = False, **how: Unpack[Sampling]) -> str: ...
    @overload
    def generate(self, prompt: Bytes, length: int = 200, temperature: float = 1.0, *, as_bytes: bool = False, **how: Unpack[Sampling]) -> bytes: ...
    @overload
    def generate(self, prompt: Ids, length: int = 200, temperature: float = 1.0, *, as_bytes: Literal[False] = False, **how: Unpack[Sampling]) -> NDArray[np.int32]: ...
    @overload
    def generate(self, prompt: OneText = "", length: int = 200, temperature: float = 1.0, *, as_bytes: Literal[True], **how: Unpack[Sampling]) -> bytes: ...
    @overload
    def generate(self, prompt: Iterable[str], length: int = 200, temperature: float = 1.0, *, as_bytes: Literal[False] = False, **how: Unpack[Sampling]) -> list[str]: ...
    @overload
    def generate(self, prompt: Iterable[Bytes] | StoredTexts, length: int = 200, temperature: float = 1.0, *, as_bytes: bool = False, **how: Unpack[Sampling]) -> list[bytes]: ...
    @overload
    def generate(self, prompt: Iterable[Ids], length: int = 200, temperature: float = 1.0, *, as_bytes: Literal[False] = False, **how: Unpack[Sampling]) -> list[NDArray[np.int32]]: ...
    @overload
    def generate(self, prompt: ManyTexts, length: int = 200, temperature: float = 1.0, *, as_bytes: Literal[True], **how: Unpack[Sampling]) -> list[bytes]: ...
    @overload
    def generate(self, prompt: OneText | ManyTexts = "", length: int = 200, temperature: float = 1.0, *, as_bytes: bool = False, state: TextState | None = None, **how: Unpack[Sampling]) -> Any: ...

    def generate(
        self, prompt: OneText | ManyTexts = "", length: int = 200, temperature: float = 1.0, *, top_k: int = 0, top_p: float = 1.0,
        seed: int | None = None, weights: str = "float32", unknown: str = "error", as_bytes: bool = False, state: TextState | None = None,
    ) -> Any:
        """Continue a prompt by ``length`` symbols; or each of a list of prompts, side by side.

        Parameters
        ----------
        prompt
            Text, which the model reads as the beginning of a line; bytes, of any kind for the byte tokenizer, otherwise in UTF-8; or an
            array of ids; or many of these, as in :meth:`score`.
        length
            Symbols to write: characters, words or bytes.
        temperature
            Below 1 safer, above 1 wilder; 0 always takes the most probable symbol.
        top_k, top_p
            Draw only among the k most probable symbols; among the most probable that together reach p.
        seed
            The same seed writes the same text, also when it is written in several calls. The prompts of a list have
            the seeds seed, seed + 1, …, and each is continued as it would be alone.
        weights
            "float32", or "int8": the matrices as whole numbers of 8 bits with a scale for each column, which takes a
            quarter of the time where reading them from memory is what takes time, and changes the probabilities a little.
        unknown
            What to do with a symbol of the prompt that is not in the vocabulary: "error", or "unk": read it
            as ``<unk>``.
        as_bytes
            Return bytes, whatever the prompt is: those of a byte model as they are, otherwise UTF-8.
        state
            What to continue, from :meth:`read`; it stays as it is. The prompt, if there is one, is read behind it. The text is the one that
            generating from all that was read would give. A state of one text may precede many prompts; of many texts, each is continued.

        Returns
        -------
        str, bytes or numpy.ndarray, or a list of these
            The continuation, without the prompt: text for a text, bytes for bytes, ids for ids. ``<unk>`` is never written. Text of a byte
            model has U+FFFD where its bytes are not UTF-8.

        Examples
        --------
        >>> model = LanguageModel(hidden=16, layers=1, embedding=8, tokenizer="byte", seed=1)
        >>> model = model.fit("to be or not to be\\n" * 20, epochs=3, streams=4, steps=10, verbose=0)
        >>> len(model.generate(b"to be", length=10, seed=1)), len(model.generate("to be", length=10, seed=1, as_bytes=True))
        (10, 10)
        """
        config = SamplingConfig(length, temperature, top_k, top_p, seed, weights)
        many, begun, start = self._begin(*self._behind(prompt, state), state, weights, unknown, as_bytes)
        if not many:
            return self._joined(self._following(begun[0], config, start), begun[0], as_bytes)
        seed = secrets.randbits(62) if seed is None else int(seed)
        written = generate_batch(self.network_, [one.ids for one in begun], config, range(seed, seed + len(begun)), self._banned(), start)
        return [self._joined(iter(ids.tolist()), one, as_bytes) for one, ids in zip(begun, written, strict=True)]

    @overload
    def stream(self, prompt: str = "", length: int = 200, temperature: float = 1.0, *, as_bytes: Literal[False] = False, **how: Unpack[Sampling]) -> Iterator[str]: ...
    @overload
    def stream(self, prompt: Bytes, length: int = 200, temperature: float = 1.0, *, as_bytes: bool = False, **how: Unpack[Sampling]) -> Iterator[bytes]: ...
    @overload
    def stream(self, prompt: Ids, length: int = 200, temperature: float = 1.0, *, as_bytes: Literal[False] = False, **how: Unpack[Sampling]) -> Iterator[int]: ...
    @overload
    def stream(self, prompt: OneText = "", length: int = 200, temperature: float = 1.0, *, as_bytes: Literal[True], **how: Unpack[Sampling]) -> Iterator[bytes]: ...
    @overload
    def stream(self, prompt: OneText = "", length: int = 200, temperature: float = 1.0, *, as_bytes: bool = False, state: TextState | None = None, **how: Unpack[Sampling]) -> Iterator[Any]: ...

    def stream(
        self, prompt: OneText = "", length: int = 200, temperature: float = 1.0, *, top_k: int = 0, top_p: float = 1.0,
        seed: int | None = None, weights: str = "float32", unknown: str = "error", as_bytes: bool = False, state: TextState | None = None,
    ) -> Iterator[Any]:
        """As :meth:`generate` of one prompt, but yields each piece of text or bytes (or each id) as soon as it is drawn.

        Raises
        ------
        GenerationError
            If the weights of the model change before the text is complete.
        """
        config = SamplingConfig(length, temperature, top_k, top_p, seed, weights)
        prompt = bytes(prompt) if isinstance(prompt, bytearray | memoryview) else prompt
        _, (begun,), start = self._begin(False, [prompt], state, weights, unknown, as_bytes)
        return self._pieces(self._following(begun, config, start), begun, as_bytes)

    def _following(self, begun: Beginning, config: SamplingConfig, start: Streams | None) -> Iterator[int]:
        """The ids that follow one text."""
        seed = secrets.randbits(63) if config.seed is None else int(config.seed)
        return generate(self.network_, begun.ids, config, seed, self._banned(), start)

    def _banned(self) -> tuple[int, ...]:
        """Ids that are never written."""
        tokenizer = self.tokenizer_
        return () if tokenizer is None or tokenizer.unknown is None else (tokenizer.unknown,)

    def _prompt(self, prompt: Any, unknown: str, bos: bool = True) -> np.ndarray:
        """The ids of a prompt, with ``bos`` at least one."""
        network, tokenizer = self.network_, self.tokenizer_
        if not isinstance(prompt, str | bytes):
            return self._ids("prompt", prompt, network)
        if tokenizer is None:
            raise ShapeError("the model has no tokenizer: the prompt must be an array of ids, such as np.array([0]).")
        if isinstance(prompt, bytes) and tokenizer.name == "byte":
            return self._sentence(prompt, bos, eos=False).ids
        text = clean(as_text(prompt, "The prompt"), tokenizer.line_ends)
        if unknown == "error" and (missing := next(tokenizer.unknown_symbols(text), None)):
            position, symbol = missing
            hint = hints.of_unknown(text, tokenizer)
            raise VocabularyError(
                f"the prompt has {symbol!r} at position {position}, which the training text does not have; "
                + (hint if hint else "leave it out, or give unknown='unk' to read it as <unk>.")
            )
        return self._sentence(text, bos, eos=False).ids

    def _pieces(self, ids: Iterator[int], begun: Beginning, as_bytes: bool) -> Iterator[Any]:
        """What follows a text: pieces of text or bytes, or the ids themselves."""
        kind, tokenizer = _kind(begun, as_bytes), self.tokenizer_
        if kind is None or tokenizer is None:
            yield from ids
            return
        text = tokenizer.stream_decoder()
        decoder: Callable[[int], Any] = text if kind is str else tokenizer.byte_decoder()
        for id in begun.tail[begun.tail >= 0].tolist():  # so that the first word knows whether a space comes before it
            decoder(id)
        space = tokenizer.separator if begun.spaced else ""
        for id in ids:
            piece = decoder(id)
            if space:  # the text has it already
                piece = piece.removeprefix(space if kind is str else space.encode())
                space = ""
            if piece:
                yield piece
        if rest := text.flush():
            yield rest

    def _joined(self, ids: Iterator[int], begun: Beginning, as_bytes: bool) -> Any:
        """The same in one piece."""
        kind, pieces = _kind(begun, as_bytes), list(self._pieces(ids, begun, as_bytes))
        return np.array(pieces, np.int32) if kind is None else kind().join(pieces)

    # keeping

    def save(self, path: str | os.PathLike[str], *, replace_run: bool = False) -> None:
        """Write everything the model is to one file: weights, vocabulary, configuration, history.

        The same training writes the same bytes, so the history goes without what the clock said: it comes
        back with NaN for tokens_per_second and seconds.

        Parameters
        ----------
        path
            The file. Only a model that can be read, or an empty file, is replaced.
        replace_run
            Also replace the checkpoint of a run that has not ended.

        Raises
        ------
        ModelFileError
            If the file cannot be written or is not to be replaced, or the weights hold NaN, infinity or numbers beyond float32. What was
            there stays as it is.
        """
        expect_one_of("replace_run", replace_run, (False, True))
        network = self.network_
        if not replace_run:
            runs.expect_ended(path)
        write_model(path, "language_model", self._about(), {
            "weights": ((name, network.ops.download(array)) for name, array in network.parameters.items())
        })

    @staticmethod
    def _files(trainer: Trainer, tokenizer: Tokenizer | None, out: str | None, checkpoint: str | None) -> list[tuple[str, int]]:
        """The files that a training and its caller will write, and the bytes that each needs at most."""
        parameters = trainer.network.parameters
        about = {"tokenizer": tokenizer.to_dict() if tokenizer else None}
        history = NUMBER_BYTES * len(COLUMNS) * min(trainer.epochs, 10_000)

        def bytes_of(groups: int, others: int = 0) -> int:
            weights = (groups * parameters.layout.size + others) * trainer.network.ops.dtype.itemsize
            return model_bytes("language_model", about, (groups + 1) * len(parameters), weights + history)

        files = [] if out is None else [(out, bytes_of(1))]
        if checkpoint is not None:  # the next one is written beside the one before
            size = bytes_of(2 + trainer.updater.optimizer.rule.moments, trainer.network.graph.state(trainer.task.streams).size)
            files.append((checkpoint, size if os.path.exists(checkpoint) else 2 * size))
        return files

    def _settings(self) -> dict[str, Any]:
        body = {} if self._body is None else {"body": [describe_layer(layer) for layer in self._body]}
        return {**self._config.to_dict(), **self._text.to_dict(), "seed": self._seed, **body}

    def _about(self, gradients: bool = False) -> dict[str, Any]:
        """All but the weights, as plain values; of a cell of one's own also what it computes, with ``gradients`` also backwards."""
        about = {
            "config": self._settings(),
            "tokenizer": None if self.tokenizer_ is None else self.tokenizer_.to_dict(),
            "history": history_about(self.history_),
        }
        about |= self._learned
        own = records(self._ops, self.network_.graph.layers, gradients)
        return {**about, "cells": own} if own else about

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], backend: str = "auto", threads: int | None = None, precision: str = "float32",
        cell: Cell | None = None, custom_objects: Mapping[str, type[Layer]] | None = None,
    ) -> Self:
        """The model that :meth:`save` wrote.

        Parameters
        ----------
        path
            The file.
        backend, threads, precision
            As in :class:`LanguageModel`.
        cell
            Only for a model with a cell of your own: use this one, whatever the cell of the same name computed that the model was
            trained with. Left out, the registered cell is used, and refused if it computes something else.
        custom_objects
            Classes of layers of your own in the ``body``, by their names: the file names such a class and never imports it.

        Raises
        ------
        ModelFileError
            If the file is missing, damaged, not a language model, or from a newer version; or its cell is not known here, or
            is another one.
        """
        with open_model(path) as file:
            about, weights, name = file.about, file.group(runs.model_group(file)), file.name
        runs.expect_file_of("language_model", name, about)
        ops = backends.get(backend, threads=threads, precision=precision)  # what is wrong with the machine is not the file's fault
        with runs.fitting(name):
            config = dict(about["config"])
            described = list(descriptions(config.get("body") or []))
            if isinstance(config["cell"], str):
                names = [config["cell"], *(one["cell"] for one in described if "cell" in one)]
                found = cells_of_file(name, about, names, [] if cell is None else [cell], ops, LOAD)
                config["cell"] = found.get(config["cell"], config["cell"])
            if config.get("body") is not None:
                config["body"] = rebuild_all(name, config["body"], custom_objects or {}, found)
            model = cls(**config, backend=backend, threads=threads, precision=precision)
        model.tokenizer_, model._network, model.history_ = model._rebuilt(about, weights, name)
        model._learned = {key: about[key] for key in ("texts", "training") if key in about}
        return model

    def _rebuilt(
        self, about: Mapping[str, Any], weights: dict[str, np.ndarray], name: str
    ) -> tuple[Tokenizer | None, Network, History]:
        """Tokenizer, weights and history of a file of this model's configuration."""
        with runs.fitting(name):
            rows, symbols = weights["embedding/W"].shape[:1], (about["tokenizer"] or {}).get("symbols")
            if isinstance(symbols, list) and rows != (len(symbols),):
                raise ValueError(f"the vocabulary has {len(symbols):,} symbols, and the embedding has the shape {weights['embedding/W'].shape}")
            tokenizer = None if about["tokenizer"] is None else Tokenizer.from_dict(about["tokenizer"])
            for setting, value in (("tokenizer", getattr(tokenizer, "name", None)), ("line_ends", getattr(tokenizer, "line_ends", None))):
                if getattr(self._text, setting) not in ((value,) if setting == "tokenizer" else (value, None)):
                    raise ValueError(f"{setting} is {getattr(self._text, setting)!r} in its configuration and {value!r} in its tokenizer")
            return tokenizer, self._build(tokenizer, weights), read_history(about.get("history"))

    @property
    def parameter_count(self) -> int:
        """Number of weights."""
        return sum(int(np.prod(shape)) for shape in self.network_.graph.layout.values())


def _body(layers: Any, config: ModelConfig) -> tuple[Layer, ...]:
    """The layers of a body, checked. Raises :class:`ConfigError` or :class:`ShapeError` where they cannot stand between embedding and head."""
    body = tuple(expect_items("body", layers, "a list of layers"))
    for layer in body:
        if not isinstance(layer, Layer):
            raise ConfigError(f"body has {shown(layer)}, expected layers of numba_rnnlm.layers such as LSTM(64, return_sequences=True).")
    build(replace(config, vocabulary_size=2), None, body)
    return body


def _filled(config: type[Config], given: Mapping[str, Any]) -> Config:
    """A configuration whose fields are the arguments of the same names."""
    return config(**{item.name: given[item.name] for item in fields(config)})


def _expect_reached(at: Position, history: History, batches_per_epoch: int) -> None:
    """Raise ValueError unless a training that stands here may have this history."""
    last = history["epoch"][-1] if history["epoch"] else 0
    if not at.trained <= ceil(last) or last > at.trained + at.epoch - 1 + at.batch / batches_per_epoch:
        raise ValueError(f"epoch {at.epoch}, batch {at.batch} of {batches_per_epoch}, after {at.trained} earlier epochs, and a history of {last:g} epochs")


def _is_lost(error: BaseException, at: Position, done: int) -> bool:
    """Whether nothing is left of a training that began after ``done`` updates and ended in this error."""
    if isinstance(error, DivergenceError):  # the weights are those of the best report
        return at.best == inf
    return at.updates == done and not isinstance(error, TrainingError)


def _expect_files_of_their_own(keeping: CheckpointConfig, texts: Sequence[Any]) -> None:
    """Raise :class:`ConfigError` where a training would write into what it reads, or one of its files into another."""
    for name, path in (("checkpoint", keeping.checkpoint), ("log", keeping.log)):
        for text in texts:
            if path is not None and isinstance(text, Text) and text.holds(path):
                raise ConfigError(f"{name} is {path!r}, which is or would become part of the text {text.name!r}; put it elsewhere.")
    for name, path in (("checkpoint", keeping.checkpoint), ("resume", keeping.resume)):
        if same_file(keeping.log, path):
            raise ConfigError(f"log is {keeping.log!r}, the file of {name}, too; give the log a name of its own.")


def _kind(begun: Beginning, as_bytes: bool) -> type | None:
    """What follows a text: bytes, a str, or None for ids."""
    return bytes if as_bytes else {"str": str, "bytes": bytes}.get(begun.kind)


def _ends_in_space(tokenizer: Tokenizer, prompt: Any) -> bool:
    """Whether a text has white space at its end, so that the next word needs none in front."""
    if not isinstance(prompt, str | bytes) or tokenizer.name == "byte":
        return False
    return tokenizer.white_space_at_end(as_text(prompt)) != ""
