"""``numba-rnnlm train``."""

import argparse
import contextlib
import os
import tempfile
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from ..config import CheckpointConfig, ModelConfig, TextConfig, TrainingConfig
from ..errors import DivergenceError, ModelFileError, TrainingError
from ..interrupts import Interrupted, Interrupts
from ..language_model import LanguageModel
from ..paths import same_file
from ..reports import report
from .exits import ERROR, STOPPED_EARLY, Ended
from .files import expect_replaceable, expect_writable, free_name, load, saving_seconds, size, texts_of
from .flags import (
    Arguments,
    add_command,
    config_flags,
    flag,
    given,
    machine_flags,
    machine_of,
    name,
    path,
    text_arguments,
    typed,
)
from .measure import decimals

OUT = Path("model.npz")
VALIDATION_SPLIT = 0.05  # the part that is held out if --valid is not given


def add(commands: Any) -> None:
    command = add_command(
        commands, "train", run, "train a model on a text",
        "Train a model on a text and save it. Ctrl-C (and SIGTERM, SIGHUP, SIGXCPU, SIGUSR1) ends the training early and saves what\n"
        "was learned; the exit code is then 128 + the signal's number. numba-rnnlm --help lists all exit codes.",
        """examples:
  numba-rnnlm train book.txt --valid rest.txt
  numba-rnnlm train books/ more.txt.gz --encoding cp1252      without --valid the last 5 % are held out
  zcat news-*.gz | numba-rnnlm train - --tokenizer word
  numba-rnnlm train book.txt --cell gru --hidden 256 --layers 1 --epochs 20 --out book.npz
  numba-rnnlm train ptb.train.txt --valid ptb.valid.txt --tokenizer word --max-seconds 1h30m --validate-every 500 --log ptb.csv
  numba-rnnlm train more.txt --from book.npz --out more.npz --learning-rate 0.001
  numba-rnnlm train book.txt --checkpoint run.npz --checkpoint-every 10min
  numba-rnnlm train book.txt --checkpoint run.npz --resume run.npz      after it was stopped: the settings are in run.npz""",
    )
    text_arguments(command, "corpus", "CORPUS", "text to train on")
    command.add_argument("--valid", action="append", type=name, metavar="FILE",
                         help="held-out text, a file or a folder, or several of them, each behind a --valid of its own: measured after each epoch, the "
                              "weights of the best one are kept")
    command.add_argument("--out", type=path, metavar="FILE",
                         help="where to save the model; a model of the same text is replaced, nothing else (default: model.npz, or model-2.npz "
                              "and so on if that exists)")
    command.add_argument("--overwrite", action="store_true",
                         help="replace the model in --out, or the finished run in --checkpoint, even if it is of another text")
    command.add_argument("--from", dest="start", type=path, metavar="MODEL",
                         help="start from the weights of a saved model; its model and text flags stay as they were (with --resume, which "
                              "has weights of its own, it does not count)")
    command.set_defaults(only_reports=True)
    config_flags(command.add_argument_group("model"), ModelConfig, leave_out=["vocabulary_size"])
    config_flags(command.add_argument_group("text"), TextConfig)
    config_flags(command.add_argument_group("training"), TrainingConfig, defaults={"validation_split": f"{VALIDATION_SPLIT} without --valid"})
    config_flags(command.add_argument_group("checkpoints"), CheckpointConfig)
    machine = machine_flags(command)
    machine.add_argument("--seed", type=int, default=argparse.SUPPRESS, metavar="N",
                         help="of the starting weights and the dropout; same seed, same model (default: 0)")


def run(args: Arguments) -> None:
    training, keeping = given(args, TrainingConfig), CheckpointConfig(**given(args, CheckpointConfig))
    settings = given(args, ModelConfig) | given(args, TextConfig)
    if hasattr(args, "seed"):
        settings["seed"] = args.seed
    if args.start is not None and settings:
        args.usage_error(f"{flag(next(iter(settings)))} cannot be changed with --from: the saved model has its own.")
    texts = [*args.corpus, *(args.valid or [])]
    once = [Path("/dev/stdin" if text == "-" else text) for text in texts if text == "-" or not (Path(text).is_file() or Path(text).is_dir())]
    if twice := next((path for path, other in combinations(once, 2) if same_file(path, other)), None):
        args.usage_error(f"{'standard input, -,' if str(twice) == '/dev/stdin' else twice} is named twice; it can be read once")
    out = free_name(OUT, avoid=keeping.checkpoint) if args.out is None else args.out
    expect_writable(out, [Path(text) for text in texts])
    if keeping.checkpoint is not None:
        expect_writable(Path(keeping.checkpoint), [*map(Path, texts), out], "--checkpoint")
    if keeping.resume is not None and not keeping.begins:  # what is not given is as it was; what is given must be
        model_settings, run_settings = LanguageModel.settings_of_run(keeping.resume)
        if args.precision is not None:
            settings["precision"] = args.precision
        split = {} if args.valid is None else {"validation_split": 0.0}
        settings, training = model_settings | settings, run_settings | split | training
    elif args.valid is None:
        training = {"validation_split": VALIDATION_SPLIT, **training}
    config = TrainingConfig(**training)
    corpus, valid = texts_of(args, args.corpus), None if args.valid is None else texts_of(args, args.valid)
    from_saved = args.start is not None and (keeping.resume is None or keeping.begins)
    model = load(args, args.start) if from_saved else LanguageModel(**machine_of(args) | settings)
    where = Destination(args, config, keeping, model)
    epochs, failure, saved = len(model.history_["epoch"]), None, False
    try:
        with Interrupts("return", notice=config.verbose > 0) as interrupts:
            try:
                model.fit_config(corpus, valid, config, keeping, interrupts=interrupts, prepare=where.prepare)
            except (DivergenceError, TrainingError) as error:
                if isinstance(error, DivergenceError) and len(model.history_["epoch"]) == epochs:  # nothing was learned
                    raise
                failure = error
            out, verb = where.settle()
            save(model, out, keeping.checkpoint, args.overwrite or same_file(out, keeping.resume))
            saved = True
            if config.verbose and failure is None:
                tell_trained(model, args, out, verb)
    except Interrupted as stop:  # before the training began, or by a second signal
        kept = keeping.checkpoint is not None and Path(keeping.checkpoint).exists()
        what = f"the model is saved in {str(out)!r}" if saved else "nothing was saved" + f" but {keeping.checkpoint!r}" * kept
        raise Interrupted(stop.number, what) from None
    if failure is not None:
        raise Ended(STOPPED_EARLY, f"{failure} The model is saved in {str(out)!r}.") from failure
    if interrupts.number:
        raise Interrupted(interrupts.number, f"the model is saved in {str(out)!r}")


def save(model: LanguageModel, out: Path, checkpoint: str | None, replace_run: bool) -> None:
    """Save what a training has come to, elsewhere if need be; ``replace_run`` as in :meth:`LanguageModel.save`.

    Raises
    ------
    Ended
        It could not be saved in ``out``; where it is instead.
    """
    try:
        try:
            model.save(out, replace_run=replace_run)
        except ModelFileError:  # a network's file system may have been away for a moment
            model.save(out, replace_run=replace_run)
    except ModelFileError as error:
        for folder in (Path(checkpoint or out).parent, Path.cwd(), Path.home(), Path(tempfile.gettempdir())):
            with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: there is no home
                file, name = tempfile.mkstemp(".npz", f"{out.stem}-", folder)
                os.close(file)
                try:
                    model.save(name)
                except ModelFileError:
                    os.unlink(name)
                    continue
                raise Ended(ERROR, f"{error} The model is saved in {name!r} instead.") from error
        if checkpoint is not None:
            raise Ended(ERROR, f"{error} The training is kept in {checkpoint!r}: --resume {typed(checkpoint)} writes the model from it.") from error
        raise


class Destination:
    """Where the model of a training is saved, so that nothing is overwritten that should stay.

    Parameters
    ----------
    args, config, keeping, model
        Of the training.
    """

    def __init__(self, args: Arguments, config: TrainingConfig, keeping: CheckpointConfig, model: LanguageModel) -> None:
        self.args, self.config, self.keeping, self.model = args, config, keeping, model
        self.resumed = keeping.resume is not None and not keeping.begins
        self.out = OUT if args.out is None else args.out
        self.replaces = False

    def prepare(self, about: Mapping[str, Any]) -> tuple[Path, float]:
        """Choose the name, or refuse the one that was given, when the texts have been read and before the training.

        ``about`` is the header of the model's file; → the name, and how many seconds saving takes, if that is to be known.
        """
        checkpoint = self.keeping.checkpoint
        if not self.args.overwrite:
            if self.args.out is not None and not same_file(self.out, self.keeping.resume):
                expect_replaceable(self.out, about)
            if checkpoint is not None and not self.resumed:
                expect_replaceable(Path(checkpoint), about, "--checkpoint")
        if self.args.out is None:
            self.out = free_name(OUT, about if self.resumed else None, checkpoint)
            if self.out != OUT and self.config.verbose:
                report(f"{OUT} exists: the model will be saved as {self.out}\n")
        self.replaces = self.out.exists()
        return self.out, 0.0 if self.config.max_seconds is None else saving_seconds(self.model, self.out)

    def settle(self) -> tuple[Path, str]:
        """The name, and "saved" or "replaced". A default name that another program has taken in the meantime is not used."""
        if self.args.out is None and not self.replaces:
            self.out = free_name(OUT, avoid=self.keeping.checkpoint)
        return self.out, "replaced" if self.out.exists() else "saved"


def tell_trained(model: LanguageModel, args: Arguments, out: Path, verb: str) -> None:
    symbols = model.network_.model.head.units
    report(f"{verb} {out} ({size(out)}): {model.parameter_count:,} weights, {symbols:,} symbols\n")
    if (best := model.validation_) is not None:
        report(f"best validation loss {best.nats_per_token:.4f} nats/token, perplexity {best.perplexity:.2f}, "
               f"{decimals(best.bits_per_character, 3)} bits/character"
               + ("" if args.valid else ", on the end of the text, which was held out; --validation-split 0 trains on all of it") + "\n")
    elif model.history_["loss"]:  # none if max_seconds was over before the first update
        loss = model.history_["loss"][-1]
        report(f"training loss {loss:.4f} nats/token; with --valid FILE also measured on text that it has not seen\n")
    valid = " ".join(map(typed, args.valid or ["FILE"]))
    report(f"next:\n  numba-rnnlm generate {typed(out)} --prompt TEXT\n  numba-rnnlm eval {typed(out)} {valid}\n")
