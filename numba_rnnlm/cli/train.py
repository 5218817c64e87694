"""``numba-rnnlm train``."""

import argparse
import contextlib
import os
import shlex
import tempfile
from pathlib import Path
from typing import Any

from ..config import CheckpointConfig, ModelConfig, TextConfig, TrainingConfig
from ..errors import DivergenceError, ModelFileError, TrainingError
from ..interrupts import Interrupted, Interrupts
from ..language_model import LanguageModel
from ..paths import same_file
from ..reports import report
from ..runs import expect_ended
from .exits import ERROR, STOPPED_EARLY, Ended
from .files import expect_writable, load, size
from .flags import Arguments, add_command, config_flags, flag, given, machine_flags, machine_of
from .measure import decimals


def add(commands: Any) -> None:
    command = add_command(
        commands, "train", run, "train a model on a text",
        "Train a model on a text and save it. Ctrl-C (and SIGTERM, SIGHUP, SIGXCPU, SIGUSR1) ends the training early and saves what\n"
        "was learned; the exit code is then 128 + the signal's number. numba-rnnlm --help lists all exit codes.",
        """examples:
  numba-rnnlm train book.txt --valid rest.txt
  numba-rnnlm train book.txt --cell gru --hidden 256 --layers 1 --epochs 20 --out book.npz
  numba-rnnlm train ptb.train.txt --valid ptb.valid.txt --tokenizer word --max-seconds 600
  numba-rnnlm train more.txt --from book.npz --out more.npz --learning-rate 0.001
  numba-rnnlm train book.txt --checkpoint run.npz --checkpoint-every 10min
  numba-rnnlm train book.txt --checkpoint run.npz --resume run.npz      after it was stopped: the settings are in run.npz""",
    )
    command.add_argument("corpus", type=Path, metavar="CORPUS", help="text to train on, in UTF-8; may be a .gz")
    command.add_argument("--valid", type=Path, metavar="FILE",
                         help="held-out text: measured after each epoch, the weights of the best one are kept")
    command.add_argument("--out", type=Path, default=Path("model.npz"), metavar="FILE",
                         help="where to save the model (default: model.npz); a model there is replaced, nothing else is")
    command.add_argument("--from", dest="start", type=Path, metavar="MODEL",
                         help="go on from the weights of a saved model; its model and text flags stay as they were (with --resume, which "
                              "has weights of its own, it does not count)")
    command.set_defaults(only_reports=True)
    config_flags(command.add_argument_group("model"), ModelConfig, leave_out=["vocabulary_size"])
    config_flags(command.add_argument_group("text"), TextConfig)
    config_flags(command.add_argument_group("training"), TrainingConfig)
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
    expect_writable(args.out, [args.corpus, args.valid])
    if not same_file(args.out, keeping.resume):
        expect_ended(args.out)
    if keeping.checkpoint is not None:
        expect_writable(Path(keeping.checkpoint), [args.corpus, args.valid, args.out], "--checkpoint")
    if keeping.resume is not None and not keeping.begins:  # what is not given is as it was; what is given must be
        model_settings, run_settings = LanguageModel.settings_of_run(keeping.resume)
        if args.precision is not None:
            settings["precision"] = args.precision
        settings, training = model_settings | settings, run_settings | training
    config = TrainingConfig(**training)
    verb = "replaced" if args.out.exists() else "saved"
    from_saved = args.start is not None and (keeping.resume is None or keeping.begins)
    model = load(args, args.start) if from_saved else LanguageModel(**machine_of(args) | settings)
    epochs, failure, saved = len(model.history_["epoch"]), None, False
    try:
        with Interrupts("return", notice=config.verbose > 0) as interrupts:
            try:
                model.fit_config(args.corpus, args.valid, config, keeping, interrupts=interrupts, out=args.out)
            except (DivergenceError, TrainingError) as error:
                if isinstance(error, DivergenceError) and len(model.history_["epoch"]) == epochs:  # nothing was learned
                    raise
                failure = error
            save(model, args.out, keeping.checkpoint)
            saved = True
            if config.verbose and failure is None:
                tell_trained(model, args, verb)
    except Interrupted as stop:  # before the training began, or by a second signal
        kept = keeping.checkpoint is not None and Path(keeping.checkpoint).exists()
        what = f"the model is saved in {str(args.out)!r}" if saved else "nothing was saved" + f" but {keeping.checkpoint!r}" * kept
        raise Interrupted(stop.number, what) from None
    if failure is not None:
        raise Ended(STOPPED_EARLY, f"{failure} The model is saved in {str(args.out)!r}.") from failure
    if interrupts.number:
        raise Interrupted(interrupts.number, f"the model is saved in {str(args.out)!r}")


def save(model: LanguageModel, out: Path, checkpoint: str | None) -> None:
    """Save what a training has come to, elsewhere if need be.

    Raises
    ------
    Ended
        It could not be saved in ``out``; where it is instead.
    """
    try:
        try:
            model.save(out)
        except ModelFileError:  # a network's file system may have been away for a moment
            model.save(out)
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
            raise Ended(ERROR, f"{error} The training is kept in {checkpoint!r}: --resume {checkpoint} writes the model from it.") from error
        raise


def tell_trained(model: LanguageModel, args: Arguments, verb: str) -> None:
    symbols = model.network_.model.head.units
    report(f"{verb} {args.out} ({size(args.out)}): {model.parameter_count:,} weights, {symbols:,} symbols\n")
    if args.valid is not None:
        best = model.evaluate(args.valid)
        report(f"best validation loss {best.nats_per_token:.4f} nats/token, perplexity {best.perplexity:.2f}, "
              f"{decimals(best.bits_per_character, 3)} bits/character\n")
    elif model.history_["loss"]:  # none if max_seconds was over before the first update
        loss = model.history_["loss"][-1]
        report(f"training loss {loss:.4f} nats/token; with --valid FILE also measured on text that it has not seen\n")
    out, valid = (shlex.quote(str(path)) for path in (args.out, args.valid or "FILE"))
    report(f"next:\n  numba-rnnlm generate {out} --prompt TEXT\n  numba-rnnlm eval {out} {valid}\n")
