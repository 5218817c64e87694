"""LanguageModel: the constructor's arguments, the methods, and what they promise."""

import copy
import os
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from .. import cells, model_files
from ..arguments import checked_calls
from ..callbacks import Callback, Stoppable, read_callbacks
from ..cells import Cell
from ..config import (
    OPTIMIZERS,
    WEIGHTS,
    CheckpointConfig,
    Sampling,
    SamplingConfig,
    TrainingConfig,
    UnknownConfig,
    filled,
)
from ..decoding import following, generate_batch, read
from ..errors import (
    ConfigError,
    GenerationError,
    ShapeError,
    expect_items,
    expect_kind,
    expect_number,
    expect_one_of,
    shown,
)
from ..interrupts import Interrupts
from ..keras.arrays import read_numbers
from ..layers import Layer
from ..network import Network
from ..optimizers import Optimizer, describe
from ..scoring import Evaluation, TokenScore, judge
from ..states import TextState, expect_state, state_after
from ..text import Bytes, Ids, ManyTexts, OneText, Source, StoredTexts, Tokenizer, Unknown
from ..training.history import History
from . import evaluating, files, fitting, prompts, sentences
from .contents import BackendOptions, new_contents
from .fitting import Prepare


@checked_calls
class LanguageModel(Stoppable):
    """A recurrent neural network language model.

    Parameters
    ----------
    cell
        "lstm", "gru", "tanh", "relu", "sigmoid", or your own :class:`~numba_rnnlm.cells.Cell`.
    hidden, layers, embedding
        Units per recurrent layer (filters per convolution), number of such layers, size of a symbol's vector; by default 128, 2, 64, in another
        architecture than "rnn" those of the small model in its paper.
    architecture
        What is between embedding and output. "rnn": recurrent layers. "char-cnn": the same on vectors computed from the characters of each
        word, for ``tokenizer="word"`` (Kim et al. 2016; ``embedding`` is the size of a character's vector). "tcn": residual blocks of
        dilated causal convolutions (Bai et al. 2018; ``cell`` has no effect). "sha-rnn": recurrent layers, each with a feed-forward network, and
        the last but one with a head of attention (Merity 2019).
    kernel, window
        Steps that each convolution of a "tcn" sees; steps that the attention of a "sha-rnn" sees (in the paper 5,000).
    dropout
        Fraction of the values dropped between layers during training.
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
        "lf": ``"\\r\\n"`` and ``"\\r"`` are read as ``"\\n"`` in every text, sentence and prompt; "keep": they are left unchanged. By
        default "lf" for characters and words, "keep" for bytes.
    body
        Layers of :mod:`numba_rnnlm.layers`, or your own, between the embedding and the output layer, instead of ``layers`` recurrent
        ones; they receive and return a vector for every step. ``architecture``, ``cell``, ``hidden``, ``layers``, ``dropout`` and ``forget_bias``
        then have no effect.
    backend
        "auto", "cpu", "cuda" (an NVIDIA GPU) or "reference"; see :func:`numba_rnnlm.backends.get`.
    threads
        By default NUMBA_RNNLM_NUM_THREADS, or all processors that this process may use. Results do not depend on it.
    precision
        Precision of the factors of matrix products: "float32"; or "bf16", which is faster (on "cuda", and on processors with AVX512_BF16);
        or on "cuda" "tf32".
    seed
        Seed of the initial weights and the dropout masks. The same seed gives the same model, bit for bit.

    Attributes
    ----------
    history_
        Column → one value per report, the last of each epoch at its end: epoch, loss, perplexity, valid_loss, valid_perplexity,
        tokens_per_second, seconds, …
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

    file_kind: ClassVar[str] = "language_model"

    def __init__(
        self,
        cell: str | Cell = "lstm",
        hidden: int | None = None,
        layers: int | None = None,
        embedding: int | None = None,
        *,
        architecture: str = "rnn",
        kernel: int = 3,
        window: int = 1024,
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
        self._contents = new_contents(locals())

    @property
    def tokenizer_(self) -> Tokenizer | None:
        """The tokenizer with its vocabulary; None before training, and for ids."""
        return self._contents.tokenizer

    @property
    def network_(self) -> Network:
        """The layers with their weights; ``network_.weights()`` returns these by name."""
        return self._contents.network

    @property
    def history_(self) -> History:
        """Column → one value per report: epoch, loss, perplexity, valid_loss, …"""
        return self._contents.history

    @property
    def validation_(self) -> Evaluation | None:
        """The evaluation of these weights on the ``valid`` of the last ``fit``; None without one."""
        return self._contents.validation

    # parameters, as in scikit-learn

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments; ``body`` is the very object that was given, as scikit-learn's ``clone`` requires."""
        return {**self._contents.arguments(), "body": self._contents.given_body}

    def set_params(self, **params: Any) -> Self:
        """Change constructor arguments; of a trained model only ``backend``, ``threads`` and ``precision``."""
        merged = {**self.get_params(), **params}
        unknown = sorted(set(params) - set(self.get_params()))
        if unknown:
            raise ConfigError(f"LanguageModel has no parameter {unknown[0]!r}; it has {', '.join(self.get_params())}.")
        self._contents.expect_not_training()
        contents, is_untrained = self._contents, self._contents.is_untrained()
        if not is_untrained and cells.held(merged["cell"]) != contents.cell:
            raise ConfigError("cell of a trained model cannot change; make a new LanguageModel.")
        other = type(self)(**merged)._contents  # if that is impossible, nothing has changed
        if is_untrained:
            self._contents = other
            return self
        fixed = [name for name, value in other.arguments().items()
                 if value != contents.arguments()[name] and name not in BackendOptions._fields]
        if fixed:
            raise ConfigError(f"{fixed[0]} of a trained model cannot change; make a new LanguageModel.")
        network = contents.network
        contents.options, contents.ops = other.options, other.ops
        contents.built = Network(network.graph, contents.ops, network.weights())
        return self

    def __copy__(self) -> Self:
        return copy.deepcopy(self)  # so that a copy never trains the weights of its origin

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.get_params().items())
        return f"LanguageModel({shown})"

    def get_weights(self) -> list[np.ndarray]:
        """Copies of all weights, in the order of the layers; ``network_.weights()`` has them by name."""
        return list(self.network_.weights().values())

    def set_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Overwrite all weights by arrays as :meth:`get_weights` returns them.

        Raises
        ------
        ShapeError
            If the number of arrays or a shape differs, or a number is not finite.
        """
        names, weights = list(self.network_.parameters), expect_items("weights", weights, "a list of arrays, as get_weights() gives")
        if len(weights) != len(names):
            raise ShapeError(f"weights has {len(weights)} arrays, expected {len(names)}, as get_weights() gives.")
        arrays = [read_numbers(f"weights[{index}]", array, self.network_.ops.dtype) for index, array in enumerate(weights)]
        self.network_.set_weights(dict(zip(names, arrays, strict=True)))
        self._contents.validation = None  # it was of other weights

    # training

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
        """Train on a corpus, starting from the current weights: those of the seed, or after an earlier ``fit`` the trained ones.

        Ctrl-C, SIGTERM, SIGHUP and other signals end the training cleanly (:mod:`numba_rnnlm.interrupts`): the epoch is closed
        and the best weights are kept. Then the signal has its usual effect, such as ``KeyboardInterrupt``; see
        ``on_interrupt``. With a checkpoint, a run that was stopped in any way continues with ``resume`` and ends with the same
        bytes as an uninterrupted run.

        Parameters
        ----------
        corpus, valid
            A path (of a file or a folder), a text (a str with a line end in it, or bytes), lines of text, an open file, or an array of ids:
            see :mod:`numba_rnnlm.text.sources`. With ``valid``, each epoch is validated and the weights of the best one are kept.
        epochs, streams, steps
            Passes over the corpus; parallel streams that it is cut into; time steps between updates. By default chosen from the number of
            tokens (:func:`numba_rnnlm.training.plan.plan`), or those of the resumed run.
        optimizer, learning_rate, momentum, weight_decay
            "sgd", "rmsprop", "adagrad", "adam" or "adamw", as PyTorch defines them, by default with a rate that suits the cell. Or an object of
            :mod:`numba_rnnlm.optimizers` or of your own class, which then determines rate, momentum, decay and clipping.
        schedule, warmup, decay_factor, decay_after
            "constant", "linear", "cosine", "plateau" or "zaremba": see :class:`~numba_rnnlm.config.TrainingConfig`.
        clip_norm, clip_value
            Clip the gradient's norm (by default at 1, or at ``steps`` with "sum_time"), or each of its elements; 0 disables it.
        reduction
            The loss to differentiate: "mean" over tokens, or "sum_time", summed over the steps and averaged over the streams, as published
            recipes do (Zaremba et al. 2014).
        accumulate
            Number of batches whose gradients are summed before each update: like ``accumulate`` times as many streams, without more memory.
        patience
            Stop after this many epochs (with ``validate_every``, reports) without improvement.
        validation_split
            Without ``valid``: fraction of the corpus, at its end, to hold out for validation. Neither the weights nor the vocabulary are
            learned from it. If the text is too short, all of it is trained on, with a warning.
        validate_every
            Report after this many updates too, not only at the end of an epoch: validate, and add a row to ``history_`` whose epoch is a
            fraction. The best weights, ``patience`` and the plateau schedule follow these reports.
        max_seconds
            End cleanly within this time, in seconds or as "90s", "45min", "1h30m". It includes the last validation and checkpoint, whose
            time is measured and reserved, but not compiling. Linear and cosine schedules then run over it.
        not_finite
            If the loss or a gradient is NaN or infinite: "stop", with the last good weights; or "skip" the update, reset the streams and
            halve the learning rate. The second skip in a row and all further ones also restore the last good weights; after more than 10
            in a row training stops.
        extend_vocabulary
            When fitting again: add symbols of ``corpus`` that are not in the vocabulary to it, as far as ``min_count`` and
            ``max_vocabulary`` allow, with rows of their own in the embedding and the output layer. Until the first update they share
            the probability of ``<unk>``, so that all other symbols keep theirs. By default they count as ``<unk>``, and a warning says
            how many there are.
        verbose
            0 silent, 1 live progress, 2 one line per epoch.
        checkpoint, checkpoint_every
            A file for the complete state of the training, and how often to write it: "30s", "5min", "2h" or a number of seconds. It is also
            written before the first update, and when training ends or a signal ends it. It is a model file too, and is replaced
            atomically. If it cannot be written (a full disk), training warns and continues with the previous one in place;
            if the first one cannot be written, ``fit`` raises an error and trains nothing. The checkpoint of another run that has not ended is
            never replaced. During training, ``<checkpoint>.lock`` keeps other jobs away.
        resume
            A checkpoint to resume from. Texts and settings must be those of the run that wrote it. The result has the same bytes on the
            same backend and the same model of GPU; elsewhere a warning says that the last bits differ. If that run had already finished,
            you get its model and a warning. If it is the same file as ``checkpoint`` and does not exist yet, a new run starts, so that one
            command works for the first job and for every restart. With the schedules "constant", "plateau" and "zaremba" and without
            warmup, ``epochs`` and ``max_seconds`` may differ from those of the run, even if it has ended; ``max_seconds`` counts from the
            beginning of the run.
        log
            A file to append a row to for each report, with the time of day: a table if its name ends in ".csv", JSON lines if it ends in
            ".jsonl", ".ndjson" or ".json". A row that cannot be written is lost with a warning.
        callbacks
            See :mod:`numba_rnnlm.callbacks`: they are called with "loss" and, if there is a validation, "val_loss". A resumed run calls
            them from where it continues. With ``valid``, the best weights are restored at the end, also over weights that a callback has set.
        on_interrupt
            After a signal has ended the training: "raise" it again, so that it has its usual effect; or "return".

        Raises
        ------
        ConfigError
            If a setting is impossible, differs from that of the resumed run, or asks for more than fits into memory.
        CorpusError
            If the corpus is missing, empty, too short or not text; or not that of the resumed run.
        DivergenceError
            If training runs into NaN; the last good weights are kept.
        TrainingError
            If a validation fails, or memory runs out during training; what was learned is kept.
        ModelFileError
            If the checkpoint to resume from is missing or damaged; or the checkpoint cannot be written, or another job is writing it.
        """
        given = locals()
        made = optimizer if isinstance(optimizer, Optimizer) else None
        if made is None:
            expect_one_of("optimizer", optimizer, OPTIMIZERS)
        config = filled(TrainingConfig, {**given, "optimizer": describe(made) if made else optimizer})
        keeping = filled(CheckpointConfig, given)
        return self.fit_config(corpus, valid, config, keeping, made, interrupts=Interrupts(on_interrupt, notice=config.verbose > 0),
                               callbacks=callbacks)

    def fit_config(
        self, corpus: Source, valid: Source | None, config: TrainingConfig, keeping: CheckpointConfig | None = None,
        optimizer: Optimizer | None = None, interrupts: Interrupts | None = None, prepare: Prepare | None = None,
        callbacks: Sequence[Callback] | Callback | None = None,
    ) -> Self:
        """:meth:`fit` with its options in two objects, and with the optimiser as an object or None.

        Parameters
        ----------
        interrupts
            Notes the signals that end the training. A caller that has entered it already can save the model before they take effect.
        prepare
            Called with the header of the model's future file when the texts have been read and training is about to begin. If it raises,
            nothing is trained.
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
        fitting.fit(self._contents, self, corpus, valid, config, keeping, optimizer, interrupts, prepare, called)
        return self

    @staticmethod
    def settings_of_run(checkpoint: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The arguments of the model and of ``fit`` of the run that wrote a checkpoint.

        Raises
        ------
        ModelFileError
            If it is no checkpoint, or its model has a cell or a layer that is not part of the library and not registered.
        """
        return files.settings_of_run(checkpoint)

    # evaluating and scoring

    def evaluate(
        self, corpus: Source, weights: str = "float32", bos: bool = False, unknown: str = "count", penalty: float | None = None
    ) -> Evaluation:
        """How well the model predicts a corpus: perplexity, bits per character and byte, tokens counted.

        Every token but the first counts once, line ends included. A symbol that is not in the vocabulary is scored as ``<unk>`` and counted
        in ``oov``; more than 1 % of them raise a warning. A corpus of 4,000 tokens or more is split into up to 20 streams, each of
        which first reads the 64 tokens before its own, so that it does not start cold.

        Parameters
        ----------
        corpus
            As in :meth:`fit`.
        weights
            "int8": evaluate the rounded weights with which :meth:`generate` computes then.
        bos
            Put a line end in front of the corpus, so that its first token counts too, as in :meth:`score`
            (see :mod:`numba_rnnlm.scoring`). For text only.
        unknown, penalty
            Symbols that are not in the vocabulary: "count" them as ``<unk>``; "exclude" them from nats, tokens, characters and bytes;
            or "penalize" each of their characters by ``penalty`` nats (by default log 100), in addition to ``<unk>``.

        Raises
        ------
        CorpusError
            If nothing is left to evaluate.

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
        return evaluating.evaluate(self._contents, corpus, weights, bos, UnknownConfig(unknown, penalty))

    def perplexity(self, corpus: Source, bos: bool = False, unknown: str = "count", penalty: float | None = None) -> float:
        """exp of the mean negative log-probability per token. The first token counts only with ``bos``; see :meth:`evaluate`."""
        return self.evaluate(corpus, bos=bos, unknown=unknown, penalty=penalty).perplexity

    def bits_per_character(self, corpus: Source, bos: bool = False, unknown: str = "count", penalty: float | None = None) -> float:
        """Bits per character of the text, whatever the tokenizer; see :meth:`evaluate`."""
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
            A str, bytes, or a 1-D array of ids. Many are a list, a column or any iterable of these, or the lines of an open file or a
            ``Path``: they are scored in batches, each as if it were alone.
        bos
            Put a line end in front of the sentence; otherwise its first token is not counted (see :mod:`numba_rnnlm.scoring`).
        eos
            Count the line end behind the sentence; it is added unless the sentence ends in one. Nothing is added to ids.
        unknown, penalty
            How a symbol that is not in the vocabulary is scored: "count", as log p(``<unk>``), with a warning if these are more than 1 % of
            the tokens; "exclude", not at all; "penalize", ``penalty`` nats less per character. See :meth:`evaluate`.
        state
            What the sentence follows, from :meth:`read`, instead of a line end: all its tokens count. Many sentences can follow the state
            of one text; a state of many texts needs as many sentences.

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
        many, rows, explained, scores = sentences.scores(self._contents, sentence, bos, eos, policy, state)
        if policy.unknown == "count" and not explained and (symbols := Counter(symbol for row in rows for symbol in row.missing)):
            tokens = sum(len(row.ids) - 1 for row in rows)
            evaluating.tell_unknown(self._contents.text, "what is scored", Unknown(symbols=symbols), max(tokens, 1), evaluating.ADVICE["scoring"])
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
        """(token, log_probability in nats, oov) of each token that :meth:`score` counts; of many sentences a list of these.

        The log-probabilities sum to the score. A token that is not in the vocabulary is shown as in the sentence, and scored as ``<unk>``;
        for ``unknown``, ``penalty`` and ``state`` see :meth:`score`.
        """
        policy = UnknownConfig(unknown, penalty)
        many, rows, _, scores = sentences.scores(self._contents, sentence, bos, eos, policy, state)
        found = [sentences.token_scores(self._contents, row, one, policy) for row, one in zip(rows, scores, strict=True)]
        return found if many else found[0]

    # reading

    def read(self, text: OneText | ManyTexts = "", state: TextState | None = None, *, weights: str = "float32", unknown: str = "error") -> TextState:
        """Read a text, or many in one batch, and return the state of the model: a :class:`~numba_rnnlm.states.TextState`.

        :meth:`generate`, :meth:`stream`, :meth:`score`, :meth:`full_scores` and :meth:`next_token` continue from it as often as you like,
        without reading the text again.

        Parameters
        ----------
        text
            Like the prompt of :meth:`generate`, the beginning of a line.
        state
            What to continue, instead of beginning a line; it is not changed. A word ends where a text ends: "to" and "day" are two words.
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
        many, begun, start = prompts.begin(self._contents, *prompts.behind(self._contents, text, state), state, weights, unknown)
        network, version = self.network_, self.network_.version
        streams, digest = read(network, [one.ids for one in begun], weights, start), network.digest()
        if network.version != version:
            raise GenerationError("the weights of the model have changed while it was reading; read again, or train a copy, copy.deepcopy(model).")
        return state_after(begun, streams, many, weights, digest)

    def next_token(self, state: TextState, k: int = 10) -> list[Any]:
        """The ``k`` most probable symbols after a ``state``, most probable first: pairs of a symbol and its log-probability in nats.

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

    # generating

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
        """Continue a prompt by ``length`` symbols; or each of a list of prompts, in one batch.

        Parameters
        ----------
        prompt
            Text, which the model reads as the beginning of a line; bytes, of any kind for the byte tokenizer, otherwise in UTF-8; or an
            array of ids; or many of these, as in :meth:`score`.
        length
            Number of symbols to generate: characters, words or bytes.
        temperature
            Below 1 more conservative, above 1 more random; 0 always chooses the most probable symbol.
        top_k, top_p
            Draw only from the k most probable symbols; only from the most probable symbols whose probabilities add up to p.
        seed
            The same seed generates the same text, also if it is generated in several calls. The prompts of a list have the seeds seed,
            seed + 1, …, and each is continued as if it were alone.
        weights
            "float32", or "int8": matrices of 8-bit integers with a scale per column, which take a quarter of the memory, are faster for
            large models, and change the probabilities slightly.
        unknown
            What to do with a symbol of the prompt that is not in the vocabulary: raise an "error", or read it as ``<unk>`` ("unk").
        as_bytes
            Return bytes, whatever the prompt is: those of a byte model unchanged, otherwise UTF-8.
        state
            What to continue, from :meth:`read`; it is not changed. The prompt, if there is one, is read after it. The result is the same as
            for a prompt with everything that was read. Many prompts can follow the state of one text; of many texts, each is continued:
            ``state.take([0, 0, 0])`` gives one text three continuations.

        Returns
        -------
        str, bytes or numpy.ndarray, or a list of these
            The continuation, without the prompt: text for a text, bytes for bytes, ids for ids. ``<unk>`` is never generated. Text of a byte
            model has U+FFFD where its bytes are not UTF-8.

        Examples
        --------
        >>> model = LanguageModel(hidden=16, layers=1, embedding=8, tokenizer="byte", seed=1)
        >>> model = model.fit("to be or not to be\\n" * 20, epochs=3, streams=4, steps=10, verbose=0)
        >>> len(model.generate(b"to be", length=10, seed=1)), len(model.generate("to be", length=10, seed=1, as_bytes=True))
        (10, 10)
        """
        config = SamplingConfig(length, temperature, top_k, top_p, seed, weights)
        contents, tokenizer = self._contents, self.tokenizer_
        many, begun, start = prompts.begin(contents, *prompts.behind(contents, prompt, state), state, weights, unknown, as_bytes)
        if not many:
            return prompts.joined(tokenizer, prompts.following(contents, begun[0], config, start), begun[0], as_bytes)
        seed = secrets.randbits(62) if seed is None else int(seed)
        generated = generate_batch(
            self.network_, [one.ids for one in begun], config, range(seed, seed + len(begun)), prompts.banned(contents), start)
        return [prompts.joined(tokenizer, iter(ids.tolist()), one, as_bytes) for one, ids in zip(begun, generated, strict=True)]

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
        """Like :meth:`generate` of one prompt, but yield each piece of text or bytes (or each id) as soon as it is drawn.

        Raises
        ------
        GenerationError
            If the weights of the model change before the text is complete.
        """
        config = SamplingConfig(length, temperature, top_k, top_p, seed, weights)
        prompt = bytes(prompt) if isinstance(prompt, bytearray | memoryview) else prompt
        _, (begun,), start = prompts.begin(self._contents, False, [prompt], state, weights, unknown, as_bytes)
        return prompts.pieces(self.tokenizer_, prompts.following(self._contents, begun, config, start), begun, as_bytes)

    # saving and loading

    def save(self, path: str | os.PathLike[str], *, replace_run: bool = False) -> None:
        """Write the whole model to one file: weights, vocabulary, configuration, history.

        The same training writes the same bytes. Therefore the history is saved without times: it is loaded with NaN for
        tokens_per_second and seconds.

        Parameters
        ----------
        path
            The file. Only a model that can be read, or an empty file, is replaced.
        replace_run
            Replace even the checkpoint of a run that has not ended.

        Raises
        ------
        ModelFileError
            If the file cannot be written or must not be replaced, or the weights contain NaN, infinity or numbers beyond float32. An existing
            file is left unchanged.
        """
        expect_one_of("replace_run", replace_run, (False, True))
        files.save(self._contents, path, replace_run)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], backend: str = "auto", threads: int | None = None, precision: str = "float32",
        cell: Cell | None = None, custom_objects: Mapping[str, type[Layer] | Cell] | None = None,
    ) -> Self:
        """The model that :meth:`save` wrote.

        Parameters
        ----------
        path
            The file.
        backend, threads, precision
            As in :class:`LanguageModel`.
        cell
            For a model with your own cell: use this one, even if it computes something else than the cell of this name that the model was
            trained with.
        custom_objects
            Your own cells, and your own classes of layers in the ``body``, by name: the file only names them, and nothing is imported. A cell
            that is not given must be registered. A cell that does not compute what the model was trained with is refused.

        Raises
        ------
        ModelFileError
            If the file is missing, damaged, not a language model, or from a newer version; or its cell is unknown, or computes something
            else.
        """
        saved = files.read(path, BackendOptions(backend, threads, precision), cell, custom_objects)
        with model_files.fitting(saved.name):
            model = cls(**files.arguments(saved), backend=backend, threads=threads, precision=precision)
        files.restore(model._contents, saved)
        return model

    @property
    def parameter_count(self) -> int:
        """Number of weights."""
        return sum(int(np.prod(shape)) for shape in self.network_.graph.layout.values())
