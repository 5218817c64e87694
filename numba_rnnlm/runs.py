"""What the file of a language model says of its training, and of a checkpoint: where it stood, and what it needs to go on."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any, NamedTuple

import numpy as np

from .backends.ops import PRECISIONS, Ops
from .config import ModelConfig, TextConfig, TrainingConfig, expect_vocabulary
from .errors import ConfigError, CorpusError, ModelFileError, expect_number, expect_one_of, plain
from .formats.native import ModelFile, expect_replaceable, file_name, read_about
from .layers import Layer
from .model_files import KINDS, expect_kind_of_file, fitting, open_kind
from .recognition import differences
from .training.plan import OPEN
from .training.position import Position, read_position
from .training.schedules import can_be_extended

MODEL_SETTINGS = {**ModelConfig().to_dict(), **TextConfig().to_dict(), "seed": 0, "body": None, "precision": "float32"}
EXTENSIBLE = ("epochs", "max_seconds")  # settings that a resumed run may change, where its schedule allows


class SavedRun(NamedTuple):
    """A checkpoint, read.

    Attributes
    ----------
    name
        Of the file.
    about
        Its header.
    model, training
        The arguments of the model and of ``fit``.
    at
        Where the training stood.
    texts
        corpus, valid → SHA-256 of the ids, None if there is none.
    rounding
        What the last bits of its numbers depend on (:meth:`numba_rnnlm.backends.ops.Ops.rounding`); None in older files.
    groups
        Group → arrays by name.
    """

    name: str
    about: dict[str, Any]
    model: dict[str, Any]
    training: dict[str, Any]
    at: Position
    texts: dict[str, str | None]
    rounding: Any
    groups: dict[str, dict[str, np.ndarray]]

    def group(self, name: str) -> dict[str, np.ndarray]:
        """The arrays of a group."""
        if name not in self.groups:
            raise ModelFileError(f"{self.name!r} is damaged: it has no arrays {name!r}.")
        return self.groups[name]

    def completed(self, config: TrainingConfig) -> TrainingConfig:
        """``config``, with what it leaves open as it is in this run."""
        with fitting(self.name):
            return replace(config, **{name: self.training[name] for name in OPEN if getattr(config, name) is None})

    def expect_settings(self, model: Mapping[str, Any], training: TrainingConfig) -> None:
        """Raise :class:`ConfigError` unless the run has these settings."""
        for here, there in ((model, self.model), ({**training.to_dict(), "verbose": None}, {**self.training, "verbose": None})):
            for name, value in here.items():
                if value != there.get(name) and not (name in EXTENSIBLE and self._extended(name, value, training)):
                    what, ours, its = _first_difference(name, value, there.get(name))
                    raise ConfigError(f"{what} is {_shown(ours)}, but the run in {self.name!r} {_has(its)}; a run "
                                      "continues with the settings that it began with. To change them, train on from its weights: "
                                      "load it and fit, or train --from.")

    def expect_cells(self, ops: Ops, layers: Iterable[Layer]) -> None:
        """Raise :class:`ConfigError` unless the cells of your own in these layers are those of the run, forward and backward."""
        with fitting(self.name):
            differs = differences(ops, layers, self.about.get("cells", {}), gradients=True)
        for name, how in differs.items():
            raise ConfigError(f"the cell {name!r} is not the one of the run in {self.name!r}: {how}. A run continues with the cell that it began "
                              "with. To train on from its weights with this one, load it, "
                              f"{KINDS[self.about['kind']].with_cell.format(cell='...')}, and fit.")

    def _extended(self, name: str, value: Any, training: TrainingConfig) -> bool:
        """That the run may have another ``epochs`` or ``max_seconds``. Raises :class:`ConfigError` where it may not."""
        had, done = _has(self.training.get(name)), self.at.epoch - (self.at.batch == 0)
        if not can_be_extended(training.schedule, training.warmup):
            plan = f"{training.schedule} schedule" + f" with a warmup of {plain(training.warmup)}" * bool(training.warmup)
            raise ConfigError(f"{name} is {_shown(value)}, but the run in {self.name!r} {had}, for which its {plan} was planned; only a "
                              "constant, plateau or zaremba schedule without warmup can be extended. To train on from its weights: load it "
                              f"and fit, or train --from {self.name!r} --epochs N --out NEW.npz.")
        if name == "epochs" and value < done:
            raise ConfigError(f"epochs is {value}, but the run in {self.name!r} is in epoch {done} already; give {done} or more.")
        return True

    def extended(self, training: TrainingConfig) -> bool:
        """Whether this training would end elsewhere than the run."""
        return any(getattr(training, name) != self.training.get(name) for name in EXTENSIBLE)

    def expect_texts(self, texts: Mapping[str, str | None]) -> None:
        """Raise :class:`CorpusError` unless the run has read these texts."""
        for name, digest in texts.items():
            if digest != self.texts.get(name):
                kind = "was given" if digest is None else "has none" if self.texts.get(name) is None else "is another"
                told = {"was given": f"the run in {self.name!r} has a {name} text and none was given here",
                        "has none": f"the run in {self.name!r} has no {name} text and one was given here",
                        "is another": f"the {name} text is not that of the run in {self.name!r}"}[kind]
                raise CorpusError(f"{told}; a run continues with the texts that it began with.")

    @property
    def place(self) -> str:
        """Where the training stood, in words."""
        if self.at.ended:
            return f"ended: {self.at.ended}"
        return f"epoch {self.at.epoch} of {self.training['epochs']}, {self.at.batch} batches into it"


def read_run(path: str | os.PathLike[str], kind: str = "language_model") -> SavedRun:
    """A checkpoint of a model of this kind. Raises :class:`ModelFileError` if there is none, or it is damaged."""
    with open_kind(path, kind) as file:
        run = run_of(file.name, file.about)
        return run._replace(groups={group: file.group(group) for group in file.groups})


def run_of(name: str, about: dict[str, Any]) -> SavedRun:
    """The checkpoint with this header, without its arrays. Raises as :func:`read_run`."""
    if "run" not in about:
        raise ModelFileError(f"{name!r} is a model, but no checkpoint: it does not say where its training stood. To train on "
                             "from its weights, load it and fit, or train --from.")
    with fitting(name):
        run = about["run"]
        # Settings that an older file does not have are as they always were: the defaults.
        training = {**TrainingConfig().to_dict(), **run["config"]}
        strange = set(training) - set(TrainingConfig().to_dict())
        if about.get("kind") == "sequential":
            model = {key: about[key] for key in ("layers", "seed", "compiled")} | dict(run["batches"])
        else:
            expect_kind_of_file("language_model", name, about)
            model = {**MODEL_SETTINGS, **about["config"], "precision": run["precision"]}
            strange |= set(model) - set(MODEL_SETTINGS)
        if strange:
            raise ValueError(f"it has settings that are not known here: {', '.join(sorted(strange))}")
        if about.get("kind") == "language_model":
            expect_settings(model)
        TrainingConfig(**training)
        if run["model"] not in ("weights", "good"):
            raise ValueError(f"the model of the run is {run['model']!r}")
        return SavedRun(name, about, model, training, read_position(run["position"]), dict(run["texts"]), run.get("rounding"), {})


def expect_settings(model: Mapping[str, Any]) -> None:
    """Raise :class:`ConfigError` unless these are possible arguments of a model; whether its cell is known is not asked."""
    for config in (ModelConfig, TextConfig):
        config(**{item.name: model[item.name] for item in fields(config)})
    expect_vocabulary(model["tokenizer"], model["vocabulary_size"])
    expect_number("seed", model["seed"], 0, 2**63 - 1, whole=True)
    expect_one_of("precision", model["precision"], PRECISIONS)


def expect_no_run(path: str | os.PathLike[str], kind: str) -> None:
    """Raise :class:`ModelFileError` where a checkpoint of a model of this kind would take the place of a model, or of a run that has not ended."""
    if not os.path.exists(path):
        return
    if "run" not in read_about(path):
        raise ModelFileError(f"{os.fsdecode(path)!r} is a model file; a checkpoint would take its place. Give the checkpoint a name of its own.")
    expect_ended(path, kind)


def expect_ended(path: str | os.PathLike[str], kind: str) -> None:
    """Raise :class:`ModelFileError` where a model would take the place of anything but a model of its kind, or of a run that has not ended."""
    expect_replaceable(path, kind)
    name = file_name(path)
    if not os.path.isfile(name) or not os.path.getsize(name) or "run" not in (about := read_about(name)):
        return
    if not (run := run_of(name, about)).at.ended:
        raise ModelFileError(f"{name!r} is the checkpoint of a run that has not ended ({run.place}); continue with "
                             f"resume={name!r}, or delete it.")


def settings(config: TrainingConfig) -> dict[str, Any]:
    """What a file says of a training. An option that came later than the format is left out where it has no effect."""
    return {name: value for name, value in config.to_dict().items() if name != "verbose" and (name, value) != ("accumulate", 1)}


def same_training(about: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two headers are of one model, trained on the same texts with the same settings; if the schedule can be extended, those in
    :data:`EXTENSIBLE` may differ."""
    def parts(header: Mapping[str, Any]) -> list[Any]:
        training = header.get("training")
        if isinstance(training, dict) and can_be_extended(training.get("schedule", ""), training.get("warmup", 0)):
            training = {name: value for name, value in training.items() if name not in EXTENSIBLE}
        return [header.get("config"), header.get("texts"), header.get("tokenizer"), training]

    return None not in parts(about)[:2] and parts(about) == parts(other)


def same_corpus(about: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two headers are of models that were last trained on the same text with the same vocabulary; False if one does not tell."""
    corpus = corpus_of(about)
    return corpus is not None and corpus == corpus_of(other) and about.get("tokenizer") == other.get("tokenizer")


def corpus_of(about: Mapping[str, Any]) -> str | None:
    """The digest of the text that a model was last trained on, held-out part included, out of its header; None if that does not tell."""
    for part in (about, about.get("run")):
        if isinstance(part, dict) and isinstance(part.get("texts"), dict):
            found = part["texts"].get("whole", part["texts"].get("corpus"))
            return found if isinstance(found, str) else None
    return None


def model_group(file: ModelFile) -> str:
    """The group of the model's weights: a checkpoint also has those that are being trained. Raises as :func:`run_of`."""
    return str(run_of(file.name, file.about).about["run"]["model"]) if "run" in file.about else "weights"


def _shown(value: Any) -> str:
    return "left out" if value is None else repr(value)


def _has(value: Any) -> str:
    return "was started without it" if value is None else f"has {value!r}"


def _first_difference(name: str, here: Any, there: Any) -> tuple[str, Any, Any]:
    """The first place where two values differ, such as optimizer['learning_rate'], and what each has there."""
    if isinstance(here, Mapping) and isinstance(there, Mapping):
        key = next(key for key in (*here, *there) if here.get(key) != there.get(key))
        return _first_difference(f"{name}[{key!r}]", here.get(key), there.get(key))
    if isinstance(here, list) and isinstance(there, list) and len(here) == len(there):
        index = next(index for index, pair in enumerate(zip(here, there, strict=True)) if pair[0] != pair[1])
        return _first_difference(f"{name}[{index}]", here[index], there[index])
    return name, here, there
