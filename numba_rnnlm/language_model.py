"""LanguageModel: train on a text, measure, score, write, save."""

import os
import secrets
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from math import inf
from typing import Any, Self, TypeVar

import numpy as np

from . import backends, cells, runs
from .cells import Cell
from .config import OPTIMIZERS, WEIGHTS, CheckpointConfig, ModelConfig, SamplingConfig, TextConfig, TrainingConfig
from .errors import (
    ConfigError,
    ModelFileError,
    NotFittedError,
    ShapeError,
    VocabularyError,
    expect_number,
    expect_one_of,
    plain,
    warn,
)
from .generation import generate, generate_batch
from .model import Network, build, initial_weights
from .optimizers import Optimizer, describe
from .recognition import cells_of_file, difference, records
from .scoring import Evaluation, TokenScore, log_probabilities, total_loss
from .storage import open_model, write_model
from .text import (
    Corpus,
    Source,
    Tokenizer,
    clean,
    expect_ids,
    hints,
    learn_tokenizer,
    open_source,
    read_corpus,
    segments,
    segments_per_epoch,
    sentences,
    split,
    streams_that_fit,
)
from .training import Checkpoints, History, Position, Trainer, make_optimizer, new_history

EVALUATION_STREAMS = 20  # side by side, for speed; a text of fewer than 2,000 tokens is one stream
MANY_UNKNOWN = 0.2  # of a text: more than that is worth a warning
EVALUATION_STEPS = 64  # tokens at once; each stream first re-reads as many, so that it starts warm

Ids = np.ndarray | Sequence[int]
Config = TypeVar("Config", ModelConfig, TextConfig, TrainingConfig, CheckpointConfig)

LOAD = "LanguageModel.load(path, cell={cell})"
MACHINE = ("backend", "threads", "precision")  # where and how it is computed: no part of the model


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
        Column → one value per epoch: loss, perplexity, valid_loss, valid_perplexity, tokens_per_second, seconds, …
    tokenizer_
        The tokenizer with its vocabulary; None for ids.

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
        if tokenizer is None and vocabulary_size is None:
            raise ConfigError("tokenizer is None, so the corpus is ids: give vocabulary_size, "
                              "the number of different ids.")
        if tokenizer is not None and vocabulary_size is not None:
            raise ConfigError("vocabulary_size goes with tokenizer=None; with a tokenizer the text decides it "
                              "(max_vocabulary limits it).")
        expect_number("seed", seed, 0, 2**63 - 1, whole=True)
        self._seed = int(seed)
        self._set_machine(backend, threads, precision)
        self._network: Network | None = None
        self.tokenizer_: Tokenizer | None = None
        self.history_: History = new_history()

    # scikit-learn's manners

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**self._config.to_dict(), "cell": self._cell, **self._text.to_dict(), "backend": self._backend, "threads": self._threads,
                "precision": self._precision, "seed": self._seed}

    def set_params(self, **params: Any) -> Self:
        """Change constructor arguments; of a trained model only ``backend``, ``threads`` and ``precision``."""
        merged = {**self.get_params(), **params}
        unknown = sorted(set(params) - set(self.get_params()))
        if unknown:
            raise ConfigError(f"LanguageModel has no parameter {unknown[0]!r}; it has {', '.join(self.get_params())}.")
        if self._network is None:
            self.__init__(**merged)  # type: ignore[misc]
            return self
        merged["cell"] = cells.held(merged["cell"])
        changed = [name for name, value in merged.items() if value != self.get_params()[name]]
        fixed = [name for name in changed if name not in MACHINE]
        if fixed:
            raise ConfigError(f"{fixed[0]} of a trained model cannot change; make a new LanguageModel.")
        weights = self._network.weights()
        self._set_machine(*(merged[name] for name in MACHINE))
        self._network = Network(self._network.model, self._ops, weights)
        return self

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.get_params().items())
        return f"LanguageModel({shown})"

    def _set_machine(self, backend: str, threads: int | None, precision: str) -> None:
        self._ops = backends.get(backend, threads=threads, precision=precision)
        self._backend, self._threads, self._precision = backend, threads, precision

    # learning

    def fit(
        self,
        corpus: Source,
        valid: Source | None = None,
        *,
        epochs: int = 10,
        streams: int = 50,
        steps: int = 50,
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
        patience: int | None = None,
        validation_split: float = 0.0,
        max_seconds: float | None = None,
        not_finite: str = "stop",
        verbose: int = 1,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: str | float = "5min",
        resume: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Train on a corpus, from the current weights: a new model's come from its seed, fitting again goes on.

        Ctrl-C ends the training cleanly: the epoch is closed, the best weights are kept, ``fit`` returns. With a
        checkpoint, a run that was stopped in any way goes on with ``resume`` and ends in the same bytes as if nothing had
        stopped it.

        Parameters
        ----------
        corpus, valid
            A path (of a file or a folder), a text (a str with a line end in it, or bytes), lines of text, an open file, or an array of ids:
            see :mod:`numba_rnnlm.text.sources`. With ``valid``, each epoch is validated and the weights of the best one are kept.
        epochs, streams, steps
            Passes over the corpus; parallel streams it is cut into; time steps between updates.
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
        patience
            Stop after this many epochs without improvement.
        validation_split
            Without ``valid``: the part of the corpus, at its end, that is held out to validate. It is not trained on, and the vocabulary is
            not learned from it. A text too short for it is trained on as a whole, with a warning.
        max_seconds
            End cleanly within this time; linear and cosine schedules then run over it.
        not_finite
            When the loss or a gradient is NaN or infinite: "stop", with the last good weights; or "skip" the update, let
            the streams begin anew and halve the learning rate; from the second in a row on, the last good weights are back
            too, and more than 10 in a row stop.
        verbose
            0 silent, 1 live progress, 2 one line an epoch.
        checkpoint, checkpoint_every
            A file for the whole state of the training, and how often it is written: "30s", "5min", "2h" or a number of
            seconds; also before the first update, and when the training ends, or Ctrl-C or SIGTERM ends it. It is a model
            file too, and replaced in one piece. If it cannot be written (a full disk), the one before stays, a warning says
            so and training goes on. The checkpoint of another run that has not ended is not replaced.
        resume
            A checkpoint to go on from. Texts and settings must be those of the run that wrote it; the bytes are the same on
            the same backend and, of GPUs, the same model; elsewhere a warning says that the last bits differ. If that run had ended, a warning says so, and the model is what it had come to. If it is the same file as ``checkpoint`` and not
            there yet, the run begins: one command serves for the first job and for all that follow.

        Raises
        ------
        ConfigError
            If a setting is impossible, is not that of the resumed run, or what it asks for does not fit into memory.
        CorpusError
            If the corpus is missing, empty, too short or not text; or not the one of the resumed run.
        DivergenceError
            If training runs into NaN; the last good weights are kept.
        ModelFileError
            If there is no checkpoint to resume from, or it is damaged.
        """
        given = locals()
        made = optimizer if isinstance(optimizer, Optimizer) else None
        if made is None:
            expect_one_of("optimizer", optimizer, OPTIMIZERS)
        config = _filled(TrainingConfig, {**given, "optimizer": describe(made) if made else optimizer})
        paths = {name: None if given[name] is None else os.fsdecode(given[name]) for name in ("checkpoint", "resume")}
        keeping = _filled(CheckpointConfig, {**given, **paths})
        return self.fit_config(corpus, valid, config, keeping, made)

    def fit_config(
        self, corpus: Source, valid: Source | None, config: TrainingConfig, keeping: CheckpointConfig | None = None,
        optimizer: Optimizer | None = None,
    ) -> Self:
        """:meth:`fit` with its options in two objects, and the optimiser if that is an object, too."""
        keeping = keeping or CheckpointConfig()
        saved = None
        if keeping.checkpoint is not None and keeping.checkpoint != keeping.resume:
            runs.expect_no_run(keeping.checkpoint)
        beginning = f"there is no {keeping.resume} yet: this is the beginning of the run" if keeping.begins else ""
        if keeping.resume is not None and not beginning:
            saved = runs.read_run(keeping.resume)
            saved.expect_settings({**self._settings(), "precision": self._precision}, config)
        settings = runs.settings(config)
        tokenizer, network, history = self.tokenizer_, self._network, self.history_
        if saved is not None:
            self._expect_cell(saved)
            tokenizer, network, history = self._rebuilt(saved.about, saved.group("weights"), saved.name)
        corpus = open_source(corpus)
        if valid is not None and config.validation_split and saved is None:
            raise ConfigError(f"validation_split is {config.validation_split}, but a text to validate on is given, too; leave one of them out.")
        if valid is None and config.validation_split:
            corpus, valid = split(corpus, config.validation_split)
        if saved is None and tokenizer is None and self._text.tokenizer is not None:
            tokenizer = learn_tokenizer(corpus, self._text)
        read = self._read(corpus, tokenizer)
        held_out = None if valid is None else self._read(valid, tokenizer)
        ids = read.ids
        fitting = streams_that_fit(len(ids), config.streams, config.steps)
        batches = segments_per_epoch(len(ids), fitting, config.steps)
        if config.validation_split and held_out is None and saved is None:
            warn(f"{read.name} is too short to hold out {config.validation_split:.0%} of it; it is trained on as a whole, without validation.")
        if read.returns and tokenizer is not None and self._text.line_ends is None and saved is None:
            warn(f"{read.name} has {read.returns:,} carriage returns (\\r): " + (
                "the line ends \\r\\n and \\r are read as \\n, here and wherever the model reads a text; line_ends='keep' keeps them."
                if tokenizer.line_ends == "lf" else "they are kept, as symbols; with line_ends='lf' the line ends \\r\\n and \\r are read as \\n."))
        if fitting < config.streams:
            warnings.warn(
                f"the corpus has {len(ids):,} tokens, too few for {config.streams} streams of {config.steps} steps; "
                f"training on {fitting} {'stream' if fitting == 1 else 'streams'}. Fewer streams or steps give more updates.",
                stacklevel=3,
            )
            config = TrainingConfig(**{**config.to_dict(), "streams": fitting})
        with nullcontext() if saved is None else runs.fitting(saved.name):
            optimizer = optimizer or make_optimizer(config, self._config.cell)
        model = network.model if network else build(self._model_config(tokenizer), self._cell)
        model.expect_memory_for_training(self._ops, config.steps, config.streams, optimizer.rule.moments, network.held if network else 0)
        network = network or self._build(tokenizer)
        validation = None if held_out is None else self._evaluator(network, held_out)
        for text in (read, held_out):
            if text is not None and text.unknown > MANY_UNKNOWN * len(text.ids):
                warnings.warn(
                    f"{text.unknown / len(text.ids):.0%} of the symbols of {text.name} are not in the model's vocabulary "
                    "and count as <unk>, which is easy to predict: the loss says little. The vocabulary is that of the "
                    "first training text.", stacklevel=3,
                )
        trainer = Trainer(
            network, config, optimizer,
            lambda first: segments(ids, config.streams, config.steps, first=first),
            batches,
            None if validation is None else lambda: validation().nats_per_token,
            self._seed, history,
        )
        texts: dict[str, str | None] = {}
        if saved is not None or keeping.checkpoint is not None:
            texts = {"corpus": read.digest(), "valid": None if held_out is None else held_out.digest()}
        if saved is not None:
            saved.expect_texts(texts)
            with runs.fitting(saved.name):
                trainer.resume(saved.at, saved.group, saved.rounding)
            beginning = f"going on from {saved.name}: {saved.place}; {saved.at.updates:,} updates so far"
            if saved.at.ended:
                warnings.warn(f"the run in {saved.name!r} had ended ({saved.at.ended}); nothing was left to do. Its model can be "
                              "trained on from its weights: load it and fit, or train --from.", stacklevel=3)
        if keeping.checkpoint is not None:
            trainer.checkpoints = self._checkpoints(keeping, trainer, settings, texts)
        self.tokenizer_, self._network, self.history_ = tokenizer, network, history
        trainer.progress.line(f"optimizer {optimizer.name or type(optimizer).__name__}, learning rate {plain(optimizer.learning_rate)}, "
                              f"schedule {config.schedule}")
        if beginning:
            trainer.progress.line(beginning)
        trainer.run()
        return self

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
        return run.model, run.training

    def _checkpoints(
        self, keeping: CheckpointConfig, trainer: Trainer, settings: Mapping[str, Any], texts: Mapping[str, str | None]
    ) -> Checkpoints:
        path = keeping.checkpoint
        assert path is not None

        def write(at: Position, groups: Mapping[str, Iterable[tuple[str, np.ndarray]]]) -> None:
            measured = trainer.validate is not None and at.best < inf
            run = {"config": settings, "precision": self._precision, "rounding": trainer.updater.rounding, "texts": texts,
                   "position": runs.position_about(at), "model": "good" if measured else "weights"}
            history = runs.history_about(trainer.history, clock=True)
            try:
                write_model(path, "language_model", {**self._about(gradients=True), "history": history, "run": run}, groups)
            except ModelFileError as error:
                warnings.warn(f"no checkpoint was written, training goes on: {error}", stacklevel=2)

        return Checkpoints(write, keeping.every)

    def _read(self, source: Source, tokenizer: Tokenizer | None, bos: bool = False) -> Corpus:
        return read_corpus(source, tokenizer, None if tokenizer else self._config.vocabulary_size, bos)

    def _model_config(self, tokenizer: Tokenizer | None) -> ModelConfig:
        """With the size of the vocabulary."""
        size = tokenizer.size if tokenizer else self._config.vocabulary_size
        return ModelConfig(**{**self._config.to_dict(), "vocabulary_size": size})

    def _build(self, tokenizer: Tokenizer | None, weights: dict[str, np.ndarray] | None = None) -> Network:
        config = self._model_config(tokenizer)
        model = build(config, self._cell)
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

    def evaluate(self, corpus: Source, weights: str = "float32", bos: bool = False) -> Evaluation:
        """How well the model predicts a corpus: perplexity, bits per character and byte, tokens counted.

        Every token but the first counts once, line ends included; a symbol that is not in the vocabulary is
        scored as ``<unk>`` and counted in ``oov``. A corpus of 4,000 tokens or more is read as up to 20 streams side by side,
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
        expect_one_of("bos", bos, (False, True))
        network = self.network_ if weights == "float32" else self.network_.rounded()
        return self._evaluator(network, self._read(corpus, self.tokenizer_, bos), bos)()

    def _evaluator(self, network: Network, corpus: Corpus, bos: bool = False) -> Callable[[], Evaluation]:
        streams = max(1, min(EVALUATION_STREAMS, len(corpus.ids) // 2000))

        def run() -> Evaluation:
            batches = segments(corpus.ids, streams, EVALUATION_STEPS, warm=EVALUATION_STEPS)
            nats, tokens = total_loss(network, batches)
            return Evaluation(nats, tokens, corpus.scored.unknown, corpus.scored.characters, corpus.scored.bytes, bos)

        segments(corpus.ids, streams, EVALUATION_STEPS)  # says now, not after an epoch, that a text is too short
        return run

    def perplexity(self, corpus: Source, bos: bool = False) -> float:
        """exp of the mean negative log-probability of a token. The first one is not counted unless ``bos``; see :meth:`evaluate`."""
        return self.evaluate(corpus, bos=bos).perplexity

    def bits_per_character(self, corpus: Source, bos: bool = False) -> float:
        """Bits the model needs for a character of the text, whatever its tokenizer; see :meth:`evaluate`."""
        found = self.evaluate(corpus, bos=bos)
        if found.characters is None:
            raise ShapeError("a corpus of ids has no characters; see evaluate(...).bits_per_token.")
        if found.bits_per_character is None:
            raise ShapeError("no character begins in the bytes that are scored; see evaluate(...).bits_per_byte.")
        return found.bits_per_character

    def score(self, sentence: Any, bos: bool = True, eos: bool = True) -> Any:
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

        Examples
        --------
        >>> model = LanguageModel(hidden=16, layers=1, embedding=8, seed=1)
        >>> model = model.fit("to be or not to be\\n" * 20, epochs=3, streams=4, steps=10, verbose=0)
        >>> model.score(["to be", "not to be\\n"]).shape
        (2,)
        >>> model.score("to be") == model.score(b"to be\\r\\n")
        True
        """
        many, texts = self._sentences(sentence)
        rows = self._rows(texts, bos, eos)
        totals = np.array([scores.sum() for scores in log_probabilities(self.network_, rows)])
        return totals if many else float(totals[0])

    def full_scores(self, sentence: Any, bos: bool = True, eos: bool = True) -> Any:
        """(token, log_probability in nats, oov) of each token that :meth:`score` counts; or a list of them for each of many sentences.

        A token that is not in the vocabulary is shown as it stands in the sentence, and scored as ``<unk>``.
        """
        many, texts = self._sentences(sentence)
        rows = self._rows(texts, bos, eos)
        found = [self._token_scores(*one) for one in zip(texts, rows, log_probabilities(self.network_, rows), strict=True)]
        return found if many else found[0]

    def _token_scores(self, sentence: Any, ids: np.ndarray, scores: np.ndarray) -> list[TokenScore]:
        tokenizer = self.tokenizer_
        tokens: list[str | int] = ids.tolist()
        if tokenizer is not None and isinstance(sentence, str | bytes):
            tokens = [tokenizer.symbol(id) for id in ids.tolist()]
            text = sentence if isinstance(sentence, str) else sentence.decode("utf-8", "replace")
            unknown = [symbol for _, symbol in tokenizer.unknown_symbols(clean(text, tokenizer.line_ends))]
            places = np.flatnonzero(ids == tokenizer.unknown)
            if len(places) == len(unknown):  # else the sentence holds a literal <unk>
                for place, symbol in zip(places, unknown, strict=True):
                    tokens[place] = symbol
        oov = np.zeros(len(ids), bool) if tokenizer is None else ids == tokenizer.unknown
        return [TokenScore(*row) for row in zip(tokens[1:], scores.tolist(), oov[1:].tolist(), strict=True)]

    def _sentences(self, given: Any) -> tuple[bool, Sequence[Any]]:
        """Whether these are many sentences, and each of them: text or ids."""
        return sentences(given, self.tokenizer_.line_ends if self.tokenizer_ else "keep")

    def _rows(self, texts: Sequence[Any], bos: bool, eos: bool) -> list[np.ndarray]:
        """The ids of each sentence."""
        rows = [self._sentence(one, bos, eos) for one in texts]
        if (tokenizer := self.tokenizer_) is not None and tokenizer.unknown is not None:
            strange = (one for one, ids in zip(texts, rows, strict=True) if isinstance(one, str | bytes) and (ids == tokenizer.unknown).any())
            if hint := hints.of_unknown(next(strange, ""), tokenizer):
                warn(f"symbols are not in the model's vocabulary: {hint}")
        return rows

    def _sentence(self, sentence: Any, bos: bool, eos: bool) -> np.ndarray:
        network, tokenizer = self.network_, self.tokenizer_
        if not isinstance(sentence, str | bytes):
            return self._ids("sentence", sentence, network)
        if tokenizer is None:
            raise ShapeError("the model has no tokenizer: give an array of ids instead of text.")
        text = clean(sentence, tokenizer.line_ends)
        if eos:
            text = text.removesuffix("\n") if isinstance(text, str) else text.removesuffix(b"\n")
        end = np.array([tokenizer.line_end], np.int32)
        return np.concatenate([end[: int(bos)], tokenizer.encode(text), end[: int(eos)]])

    @staticmethod
    def _ids(name: str, ids: Any, network: Network) -> np.ndarray:
        if isinstance(ids, (list, tuple)) and any(isinstance(one, str) for one in ids):
            raise ShapeError(f"{name} is a {type(ids).__name__} of str, expected one text, or one array of ids.")
        array = expect_ids(ids, network.model.head.units, name)
        if array.size == 0:
            raise ShapeError(f"{name} is empty, expected at least one id.")
        return array.astype(np.int32)

    # writing

    def generate(
        self, prompt: Any = "", length: int = 200, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0,
        seed: int | None = None, weights: str = "float32", unknown: str = "error",
    ) -> Any:
        """Continue a prompt by ``length`` symbols; or each of a list of prompts, side by side.

        Parameters
        ----------
        prompt
            Text (str or bytes), which the model reads as the beginning of a line; or an array of ids; or many of these, as in :meth:`score`.
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

        Returns
        -------
        str or numpy.ndarray, or a list of these
            The continuation, without the prompt: text for a text, ids for ids. ``<unk>`` is never written.
        """
        many, texts = self._sentences(prompt)
        if not many:
            pieces = list(self.stream(texts[0], length, temperature, top_k, top_p, seed, weights, unknown))
            return "".join(pieces) if isinstance(texts[0], str | bytes) else np.array(pieces, np.int32)
        config = SamplingConfig(length, temperature, top_k, top_p, seed, weights)
        expect_one_of("unknown", unknown, ("error", "unk"))
        prompts = [self._prompt(one, unknown) for one in texts]
        seed = secrets.randbits(62) if seed is None else int(seed)
        written = generate_batch(self.network_, prompts, config, range(seed, seed + len(prompts)), self._banned())
        return [
            "".join(self._pieces(iter(ids.tolist()), self.tokenizer_, before[1:])) if isinstance(one, str | bytes) else ids
            for one, before, ids in zip(texts, prompts, written, strict=True)
        ]

    def stream(
        self, prompt: Any = "", length: int = 200, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0,
        seed: int | None = None, weights: str = "float32", unknown: str = "error",
    ) -> Iterator[Any]:
        """As :meth:`generate` of one prompt, but yields each piece of text (or each id) as soon as it is drawn."""
        config = SamplingConfig(length, temperature, top_k, top_p, seed, weights)
        expect_one_of("unknown", unknown, ("error", "unk"))
        seed = secrets.randbits(63) if seed is None else int(seed)
        before = self._prompt(prompt, unknown)
        ids = generate(self.network_, before, config, seed, self._banned())
        return self._pieces(ids, self.tokenizer_, before[1:]) if isinstance(prompt, str | bytes) else ids

    def _banned(self) -> tuple[int, ...]:
        """Ids that are never written."""
        tokenizer = self.tokenizer_
        return () if tokenizer is None or tokenizer.unknown is None else (tokenizer.unknown,)

    def _prompt(self, prompt: Any, unknown: str) -> np.ndarray:
        """The ids of a prompt, at least one."""
        network, tokenizer = self.network_, self.tokenizer_
        if not isinstance(prompt, str | bytes):
            return self._ids("prompt", prompt, network)
        if tokenizer is None:
            raise ShapeError("the model has no tokenizer: the prompt must be an array of ids, such as np.array([0]).")
        ids = self._sentence(prompt, bos=True, eos=False)  # says so, if it is not UTF-8
        text = prompt if isinstance(prompt, str) else prompt.decode("utf-8", "replace")
        missing = tokenizer.unknown_symbols(clean(text, tokenizer.line_ends))
        if missing and unknown == "error":
            position, symbol = missing[0]
            hint = hints.of_unknown(text, tokenizer)
            raise VocabularyError(
                f"the prompt has {symbol!r} at position {position}, which the training text does not have; "
                + (hint if hint else "leave it out, or give unknown='unk' to read it as <unk>.")
            )
        return ids

    @staticmethod
    def _pieces(ids: Iterator[int], tokenizer: Tokenizer | None, prompt: np.ndarray) -> Iterator[str]:
        assert tokenizer is not None  # or the prompt would not be text
        decoder = tokenizer.stream_decoder()
        for id in prompt:  # so that the first word knows whether a space comes before it
            decoder(int(id))
        for id in ids:
            if piece := decoder(id):
                yield piece
        if rest := decoder.flush():
            yield rest

    # keeping

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything the model is to one file: weights, vocabulary, configuration, history.

        The same training writes the same bytes, so the history goes without what the clock said: it comes
        back with NaN for tokens_per_second and seconds.
        """
        network = self.network_
        write_model(path, "language_model", self._about(), {
            "weights": ((name, network.ops.download(array)) for name, array in network.parameters.items())
        })

    def _settings(self) -> dict[str, Any]:
        return {**self._config.to_dict(), **self._text.to_dict(), "seed": self._seed}

    def _about(self, gradients: bool = False) -> dict[str, Any]:
        """All but the weights, as plain values; of a cell of one's own also what it computes, with ``gradients`` also backwards."""
        about = {
            "config": self._settings(),
            "tokenizer": None if self.tokenizer_ is None else self.tokenizer_.to_dict(),
            "history": runs.history_about(self.history_),
        }
        own = records(self._ops, self.network_.model.layers, gradients)
        return {**about, "cells": own} if own else about

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], backend: str = "auto", threads: int | None = None, precision: str = "float32",
        cell: Cell | None = None,
    ) -> "LanguageModel":
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

        Raises
        ------
        ModelFileError
            If the file is missing, damaged, not a language model, or from a newer version; or its cell is not known here, or
            is another one.
        """
        with open_model(path) as file:
            about, weights, name = file.about, file.group(runs.model_group(file)), file.name
        runs.expect_language_model(name, about)
        ops = backends.get(backend, threads=threads, precision=precision)  # what is wrong with the machine is not the file's fault
        with runs.fitting(name):
            config = dict(about["config"])
            if isinstance(config["cell"], str):
                found = cells_of_file(name, about, [config["cell"]], [] if cell is None else [cell], ops, LOAD)
                config["cell"] = found.get(config["cell"], config["cell"])
            model = cls(**config, backend=backend, threads=threads, precision=precision)
        model.tokenizer_, model._network, model.history_ = model._rebuilt(about, weights, name)
        return model

    def _rebuilt(
        self, about: Mapping[str, Any], weights: dict[str, np.ndarray], name: str
    ) -> tuple[Tokenizer | None, Network, History]:
        """Tokenizer, weights and history of a file of this model's configuration."""
        with runs.fitting(name):
            tokenizer = None if about["tokenizer"] is None else Tokenizer.from_dict(about["tokenizer"])
            return tokenizer, self._build(tokenizer, weights), runs.read_history(about.get("history"))

    @property
    def parameter_count(self) -> int:
        """Number of weights."""
        return sum(int(np.prod(shape)) for shape in self.network_.model.layout.values())


def _filled(config: type[Config], given: Mapping[str, Any]) -> Config:
    """A configuration whose fields are the arguments of the same names."""
    return config(**{item.name: given[item.name] for item in fields(config)})
