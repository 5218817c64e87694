"""All options of the library, as frozen dataclasses that are validated on construction.

Each field is at once a constructor argument, a command-line flag, a key in the model file and a line of documentation
(``metadata["help"]``).
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from math import log, nan
from typing import Any, TypedDict, TypeVar

from .arguments import checked
from .errors import (
    ConfigError,
    expect_flag,
    expect_number,
    expect_one_of,
    expect_path,
    expect_text,
    plain_value,
    shown,
    take_infinity_as,
    take_plain_values,
)
from .paths import same_file

SCHEDULES = ("constant", "linear", "cosine", "plateau", "zaremba")
OPTIMIZERS = ("sgd", "rmsprop", "adagrad", "adam", "adamw")
REDUCTIONS = ("mean", "sum_time")
TOKENIZERS = ("byte", "char", "word")
LINE_ENDS = ("lf", "keep")
INITIALIZERS = ("glorot", "uniform")
NOT_FINITE = ("stop", "skip")
UNKNOWN = ("count", "exclude", "penalize")
WEIGHTS = ("float32", "int8")
UNITS = {  # seconds → the names of this unit in a duration
    1: ("s", "sec", "secs", "second", "seconds"), 60: ("m", "min", "mins", "minute", "minutes"),
    3600: ("h", "hr", "hrs", "hour", "hours"), 86400: ("d", "day", "days"),
}
SECONDS = {name: seconds for seconds, names in UNITS.items() for name in names}
SIZES = {  # architecture → the sizes that it has by default; but for rnn those of the small models in the papers
    "rnn": {"hidden": 128, "layers": 2, "embedding": 64},
    "char-cnn": {"hidden": 300, "layers": 2, "embedding": 15},
    "tcn": {"hidden": 450, "layers": 3, "embedding": 100},
    "sha-rnn": {"hidden": 1024, "layers": 4, "embedding": 1024},
}
NUMBER = r"\d*\.?\d+(?:e-?\d+)?"  # without a sign
LOGS = (".csv", ".jsonl", ".ndjson", ".json")  # suffixes of a log: a table, or JSON lines

Config = TypeVar("Config")


def _option(default: Any, help: str, choices: Sequence[str] | None = None, type: type | None = None) -> Any:
    return field(default=default, metadata={"help": help, "choices": choices, "type": type})


def _sizes(name: str) -> str:
    """The defaults of a size, for its help."""
    return "default: " + ", ".join(f"{sizes[name]} for {architecture}" for architecture, sizes in SIZES.items())


class _Config:
    def __post_init__(self) -> None:
        take_plain_values(self, (item.name for item in fields(self)))  # type: ignore[arg-type]

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values that JSON can represent."""
        values: dict[str, Any] = asdict(self)  # type: ignore[call-overload]
        return values


def filled(config: type[Config], given: Mapping[str, Any]) -> Config:
    """A configuration whose fields are the arguments with the same names."""
    return config(**{item.name: given[item.name] for item in fields(config)})  # type: ignore[arg-type]


@checked
@dataclass(frozen=True)
class ModelConfig(_Config):
    """The network: an embedding, the layers of an architecture, and a softmax over the vocabulary.

    Sizes that are None become those of the architecture, :data:`SIZES`.
    """

    cell: str = _option("lstm", "recurrent cell: the name of a built-in or a registered one")
    hidden: int = _option(None, f"units in each recurrent layer, or filters of each convolution ({_sizes('hidden')})", type=int)
    layers: int = _option(None, f"number of recurrent layers, or of blocks ({_sizes('layers')})", type=int)
    embedding: int = _option(None, f"size of a symbol's vector, with char-cnn of a character's ({_sizes('embedding')})", type=int)
    architecture: str = _option("rnn", "layers between embedding and output; rnn: recurrent ones; char-cnn: the same, on vectors computed from the "
                                "characters of each word (Kim et al. 2016); tcn: residual blocks of dilated causal convolutions (Bai et al. 2018); sha-rnn: "
                                "recurrent layers with a feed-forward network each, and one with a head of attention (Merity 2019)",
                                tuple(SIZES))
    kernel: int = _option(3, "steps that each convolution of a tcn sees")
    window: int = _option(1024, "steps that the attention of a sha-rnn sees, up to and including its own")
    dropout: float = _option(0.0, "fraction of the values, 0 to 1, dropped between layers during training")
    tied: bool = _option(False, "share the embedding's matrix with the output layer (with a projection if the sizes differ)")
    forget_bias: float = _option(1.0, "initial bias of the LSTM's forget gate")
    initializer: str = _option("glorot", "glorot: as in Keras (orthogonal recurrent matrix), with embeddings of unit scale; "
                               "uniform: all weights within ±initializer_scale, as in Zaremba et al. 2014", INITIALIZERS)
    initializer_scale: float = _option(0.1, "half the width of the uniform initialiser's range")
    vocabulary_size: int | None = _option(None, "number of symbols if the corpus is an array of ids", type=int)

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_one_of("architecture", self.architecture, SIZES)
        for name, size in SIZES[self.architecture].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, size)
        expect_text("cell", self.cell, "lstm")
        for name, most in (("hidden", 10**9), ("layers", 1000), ("embedding", 10**9), ("kernel", 10**6), ("window", 2**24)):
            expect_number(name, getattr(self, name), 1, most, whole=True)
        expect_number("dropout", self.dropout, 0, 0.999)
        expect_flag("tied", self.tied)
        expect_number("forget_bias", self.forget_bias, -100, 100)
        expect_one_of("initializer", self.initializer, INITIALIZERS)
        expect_number("initializer_scale", self.initializer_scale, 0, 10, open_low=True)
        if self.tied and self.architecture == "char-cnn":
            raise ConfigError("tied is True, but architecture='char-cnn' has no matrix of embeddings that the output layer could use; leave one out.")
        if self.vocabulary_size is not None:
            expect_number("vocabulary_size", self.vocabulary_size, 2, 2**31 - 1, whole=True)


@checked
@dataclass(frozen=True)
class TextConfig(_Config):
    """How text is converted to ids."""

    tokenizer: str | None = _option("char", "byte, char (Unicode code points) or word (separated by ASCII white space, which excludes "
                                    "the no-break space; a newline is <eos>)", TOKENIZERS, type=str)
    min_count: int = _option(1, "symbols that occur less often than this in the training text become <unk>")
    max_vocabulary: int | None = _option(None, "maximum size of the vocabulary; the most frequent symbols are kept", type=int)
    line_ends: str | None = _option(None, "lf: read CRLF and CR as LF wherever the model reads text; keep: leave them unchanged; by "
                                    "default, lf for char and word, keep for byte", LINE_ENDS, type=str)

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_one_of("tokenizer", self.tokenizer, (*TOKENIZERS, None))
        expect_number("min_count", self.min_count, 1, whole=True)
        if self.max_vocabulary is not None:
            expect_number("max_vocabulary", self.max_vocabulary, 3, whole=True)
        if self.tokenizer == "byte":
            for name, value, left_out in (("min_count", self.min_count, 1), ("max_vocabulary", self.max_vocabulary, None)):
                if value != left_out:
                    raise ConfigError(f"{name} is {value} with tokenizer='byte', which always has all 256 bytes; leave one of them out.")
        expect_one_of("line_ends", self.line_ends, (*LINE_ENDS, None))


def expect_vocabulary(tokenizer: str | None, vocabulary_size: int | None) -> None:
    """Raise :class:`ConfigError` unless exactly one of the two is given: a tokenizer, which learns a vocabulary, or its size."""
    if tokenizer is None and vocabulary_size is None:
        raise ConfigError("tokenizer is None, so the corpus is ids: give vocabulary_size, the number of different ids.")
    if tokenizer is not None and vocabulary_size is not None:
        raise ConfigError("vocabulary_size is for tokenizer=None only; with a tokenizer the text determines it (max_vocabulary limits it).")


@checked
@dataclass(frozen=True)
class TrainingConfig(_Config):
    """One call of ``fit``: truncated back-propagation through time over parallel streams of the corpus."""

    epochs: int | None = _option(None, "passes over the training text; by default chosen from the size of the text: 10, fewer above a million "
                                 "tokens and more below 2,500", type=int)
    streams: int | None = _option(None, "parallel streams that the text is split into (the batch size); by default chosen from the size of the "
                                  "text so that each update sees 1.25 √tokens tokens, at most 100 streams", type=int)
    steps: int | None = _option(None, "time steps between updates, across which gradients are propagated (BPTT length); the hidden state is "
                                "carried over; by default 50, or fewer for a text below 2,500 tokens", type=int)
    optimizer: str | Mapping[str, Any] = _option("adam", "update rule, as defined by PyTorch", OPTIMIZERS, type=str)
    learning_rate: float | None = _option(None, "step size; by default a rate that suits the cell and the optimizer", type=float)
    momentum: float = _option(0.0, "momentum of sgd, 0 to 1")
    weight_decay: float | None = _option(None, "decoupled weight decay for adamw, L2 penalty for the others; by default "
                                         "0.01 for adamw and 0 for the others", type=float)
    schedule: str = _option("linear", "learning rate over time: constant; linear or cosine decay to zero at the end; "
                            "plateau: divided when validation (else training) stops improving; zaremba: constant for "
                            "decay_after epochs, then divided after each epoch", SCHEDULES)
    warmup: float = _option(0.0, "fraction of the training, 0 to 1, during which the rate rises from zero")
    decay_factor: float = _option(2.0, "divisor of the plateau and zaremba schedules")
    decay_after: int = _option(4, "epochs at the full rate in the zaremba schedule")
    clip_norm: float | None = _option(None, "scale the gradient down to this norm; by default 1 (times the number of steps with "
                                      "reduction sum_time); 0 or inf disables it", type=float)
    clip_value: float | None = _option(None, "clip each element of the gradient to this magnitude; 0 or inf disables it", type=float)
    reduction: str = _option("mean", "the loss to differentiate: mean over tokens, or sum_time: summed over the "
                             "steps and averaged over the streams (the convention of Zaremba et al. 2014)", REDUCTIONS)
    accumulate: int = _option(1, "number of batches whose gradients are summed before each update; equivalent to that many times more streams, without more memory")
    patience: int | None = _option(None, "stop after this many epochs (with validate_every, reports) without a better validation loss "
                                   "(training loss if there is no validation text)", type=int)
    validation_split: float = _option(0.0, "fraction of the training text, 0 to 1, to hold out from its end for validation, if that "
                                     "is at least 100 bytes")
    validate_every: int | None = _option(None, "report and validate after this many updates too, not only at the end of each epoch; the "
                                         "best weights, patience and the plateau schedule follow these reports", type=int)
    max_seconds: float | None = _option(None, "end training cleanly within this time, including the last validation and saving: "
                                              "90s, 45min, 1h30m or a number of seconds", type=str)
    not_finite: str = _option("stop", "what to do when the loss or a gradient is NaN or infinite: stop, with the last good weights; or skip "
                              "the update, reset the streams and halve the learning rate", NOT_FINITE)
    extend_vocabulary: bool = _option(False, "when training a trained model further, add its unknown symbols in the training text to the "
                                      "embedding and the output layer, as far as its min_count and max_vocabulary allow")
    verbose: int = _option(1, "0 silent, 1 live progress, 2 one line per epoch")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epochs", "streams", "steps"):
            if getattr(self, name) is not None:
                expect_number(name, getattr(self, name), 1, whole=True)
        if isinstance(self.optimizer, dict):  # an object, as described by optimizers.describe
            _expect_description("optimizer", self.optimizer)
        else:
            expect_one_of("optimizer", self.optimizer, OPTIMIZERS)
        if self.learning_rate is not None:
            expect_number("learning_rate", self.learning_rate, 0, 1e6, open_low=True)
        expect_number("momentum", self.momentum, 0, 0.9999)
        if self.weight_decay is not None:
            expect_number("weight_decay", self.weight_decay, 0, 1)
        expect_one_of("schedule", self.schedule, SCHEDULES)
        expect_number("warmup", self.warmup, 0, 1)
        expect_number("decay_factor", self.decay_factor, 1, 1e6, open_low=True)
        expect_number("decay_after", self.decay_after, 1, whole=True)
        take_infinity_as(0.0, self, ("clip_norm", "clip_value"))
        for name in ("clip_norm", "clip_value"):
            if getattr(self, name) is not None:
                expect_number(name, getattr(self, name), 0)
        expect_one_of("reduction", self.reduction, REDUCTIONS)
        expect_number("accumulate", self.accumulate, 1, whole=True)
        if self.patience is not None:
            expect_number("patience", self.patience, 1, whole=True)
        expect_number("validation_split", self.validation_split, 0, 0.99)
        if self.validate_every is not None:
            expect_number("validate_every", self.validate_every, 1, whole=True)
        if self.max_seconds is not None:
            object.__setattr__(self, "max_seconds", _seconds("max_seconds", self.max_seconds))
        expect_one_of("not_finite", self.not_finite, NOT_FINITE)
        expect_flag("extend_vocabulary", self.extend_vocabulary)
        expect_one_of("verbose", self.verbose, (0, 1, 2))
        if isinstance(self.optimizer, dict):
            for name in ("learning_rate", "momentum", "weight_decay", "clip_norm", "clip_value"):
                if getattr(self, name):
                    raise ConfigError(f"{name} is {getattr(self, name)} beside an optimizer that is an object; give it to the object.")
        elif self.momentum and self.optimizer != "sgd":
            raise ConfigError(f"momentum is {self.momentum} with optimizer {self.optimizer!r}; only 'sgd' has one.")


@checked
@dataclass(frozen=True)
class CheckpointConfig(_Config):
    """The files that a training writes, so that it can be resumed after it was stopped."""

    checkpoint: str | None = _option(None, "file for the complete state of the training, which is a model file too; replaces only the "
                                     "checkpoint of a finished run", type=str)
    checkpoint_every: str | float = _option("5min", "how often to write the checkpoint: 30s, 5min, 2h or a number of seconds", type=str)
    resume: str | None = _option(None, "resume the training that wrote this checkpoint, with the same texts, as if nothing had stopped it. "
                                 "Omitted settings default to those of the run; epochs and max_seconds may differ if the schedule is "
                                 "constant, plateau or zaremba, without warmup. If this is the file of --checkpoint and does not exist yet, "
                                 "a new run starts", type=str)
    log: str | None = _option(None, "append a row for each report, with the time of day, to this file: a table if its name ends in .csv, JSON "
                              "lines if it ends in .jsonl, .ndjson or .json", type=str)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, example in (("checkpoint", "run.npz"), ("resume", "run.npz"), ("log", "run.csv")):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, expect_path(name, getattr(self, name), example))
        _seconds("checkpoint_every", self.checkpoint_every)
        if self.log is not None and not self.log.lower().endswith(LOGS):
            raise ConfigError(f"log is {shown(self.log)}, expected a file name that ends in .csv for a table, or in .jsonl, .ndjson or .json "
                              "for JSON lines.")
        if self.checkpoint is None and self.checkpoint_every != "5min":
            raise ConfigError(f"checkpoint_every is {self.checkpoint_every!r}, but checkpoint is not set; give the name of a file.")

    @property
    def begins(self) -> bool:
        """Whether the run to resume has yet to begin: it is also the checkpoint to write, and does not exist."""
        return self.resume is not None and same_file(self.resume, self.checkpoint) and not os.path.exists(self.resume)

    @property
    def every(self) -> float:
        """``checkpoint_every`` in seconds."""
        return _seconds("checkpoint_every", self.checkpoint_every)


def _expect_description(name: str, described: Mapping[str, Any]) -> None:
    """Raise :class:`ConfigError` unless this looks like a result of :func:`numba_rnnlm.optimizers.describe`: JSON keys are str."""
    if not all(isinstance(key, str) for key in described) or not isinstance(described.get("class"), str):  # optimizers.rebuild checks the name
        raise ConfigError(f"{name} is {shown(described)}, expected a name, or the result of numba_rnnlm.optimizers.describe(optimizer).")


def _seconds(name: str, value: Any) -> float:
    """Convert a duration such as 0.2, "30s", "5min" or "1h30m" to seconds."""
    value = plain_value(value)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    text, seconds = value.strip().lower() if isinstance(value, str) and len(value) < 100 else "", nan
    if is_number and value < 1e12:
        seconds = float(value)
    if re.fullmatch(NUMBER, text):
        seconds = float(text)
    elif re.fullmatch(rf"(?:{NUMBER}\s*[a-z]+\s*)+", text):
        seconds = sum(float(number) * SECONDS.get(unit, nan) for number, unit in re.findall(rf"({NUMBER})\s*([a-z]+)", text))
    if not 0 < seconds < 1e12:
        raise ConfigError(f"{name} is {shown(value)}, expected a duration such as '30s', '5min', '2h', '1h30m' or a number of seconds above 0.")
    return seconds


@checked
@dataclass(frozen=True)
class UnknownConfig(_Config):
    """How symbols outside the vocabulary are scored."""

    unknown: str = _option("count", "how to score symbols that the model does not know: count scores them as <unk>; exclude leaves them out of "
                           "the result (the model still reads them); penalize scores them as <unk> and adds a penalty per character", UNKNOWN)
    penalty: float | None = _option(None, "with penalize, nats per character of an unknown symbol; by default 4.605 (log 100: one of 100 "
                                    "equally probable characters)", type=float)

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_one_of("unknown", self.unknown, UNKNOWN)
        if self.penalty is not None:
            expect_number("penalty", self.penalty, 0, 1e6)
            if self.unknown != "penalize":
                raise ConfigError(f"penalty is {self.penalty} with unknown={self.unknown!r}; only unknown='penalize' has one.")

    @property
    def excludes(self) -> bool:
        """Whether unknown symbols are left out."""
        return self.unknown == "exclude"

    @property
    def nats_per_character(self) -> float:
        """The cost of each character of an unknown symbol, in addition to that of ``<unk>``."""
        if self.unknown != "penalize":
            return 0.0
        return log(100) if self.penalty is None else float(self.penalty)


@checked
@dataclass(frozen=True)
class SamplingConfig(_Config):
    """How the next symbol is drawn from the model's distribution."""

    length: int = _option(200, "number of symbols to generate")
    temperature: float = _option(1.0, "below 1 more conservative, above 1 more random; 0 always chooses the most probable symbol")
    top_k: int = _option(0, "sample only from the k most probable symbols; 0 disables it")
    top_p: float = _option(1.0, "sample only from the most probable symbols whose probabilities add up to this")
    seed: int | None = _option(None, "the same seed generates the same text; without a seed, every call differs", type=int)
    weights: str = _option("float32", "data type of the matrices during generation: float32, or int8, which takes a quarter of the memory, is "
                           "faster for large models, and changes the probabilities slightly", WEIGHTS)

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_number("length", self.length, 0, 10**9, whole=True)
        expect_number("temperature", self.temperature, 0, 1000)
        expect_number("top_k", self.top_k, 0, whole=True)
        expect_number("top_p", self.top_p, 0, 1, open_low=True)
        expect_one_of("weights", self.weights, WEIGHTS)
        if self.seed is not None:
            expect_number("seed", self.seed, 0, 2**63 - 1, whole=True)


class Sampling(TypedDict, total=False):
    """The arguments that all overloads of ``generate`` and ``stream`` share."""

    top_k: int
    top_p: float
    seed: int | None
    weights: str
    unknown: str
