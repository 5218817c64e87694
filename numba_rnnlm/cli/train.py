"""``numba-rnnlm train``."""

import argparse
import os
import shlex
from itertools import combinations
from pathlib import Path
from typing import Any

from ..config import CheckpointConfig, ModelConfig, TextConfig, TrainingConfig
from ..display import amount
from ..errors import DivergenceError, ModelFileError, TrainingError
from ..interrupts import Interrupted, Interrupts
from ..language_model import LanguageModel
from ..paths import same_file
from ..reports import report
from .body import EXAMPLE, read_body
from .destination import OUT, Destination, expect_writable, free_names
from .exits import STOPPED_EARLY, Ended
from .files import load, texts_of, tokenizer_of
from .flags import (
    Arguments,
    add_command,
    backend_flags,
    backend_options,
    config_flags,
    flag,
    given,
    name,
    path,
    quoted,
    text_arguments,
)
from .measure import decimals

VALIDATION_SPLIT = 0.05  # the fraction of the text to hold out without --valid


def add(commands: Any) -> None:
    command = add_command(
        commands, "train", run, "train a model on a text",
        "Train a model on a text and save it. Ctrl-C (and SIGTERM, SIGHUP, SIGXCPU, SIGUSR1) stops training early and saves what was\n"
        "learned; the exit code is then 128 + the number of the signal. numba-rnnlm --help lists all exit codes.",
        """examples:
  numba-rnnlm train book.txt --valid rest.txt
  numba-rnnlm train books/ more.txt.gz --encoding cp1252      without --valid, the last 5 % (if at least 100 bytes) are held out
  zcat news-*.gz | numba-rnnlm train - --tokenizer word
  numba-rnnlm train book.txt --cell gru --hidden 256 --layers 1 --epochs 20 --out book.npz
  numba-rnnlm train ptb.train.txt --valid ptb.valid.txt --tokenizer word --max-seconds 1h30m --validate-every 500 --log ptb.csv
  numba-rnnlm train book.txt --embedding 128 --body layers.json
  numba-rnnlm train more.txt --from book.npz --out more.npz --learning-rate 0.001
  numba-rnnlm train book.txt --checkpoint run.npz --checkpoint-every 10min
  numba-rnnlm train book.txt --checkpoint run.npz --resume run.npz      continues after a stop; the settings are in run.npz""",
    )
    text_arguments(command, "corpus", "CORPUS", "text to train on")
    command.add_argument("--valid", action="append", type=name, metavar="FILE",
                         help="validation text, a file or a folder (repeat --valid for several): evaluated after each epoch; training returns "
                              "the weights of the best epoch")
    command.add_argument("--out", type=path, metavar="FILE",
                         help="where to save the model; replaces only a model of the same text, and only if training is complete: otherwise "
                              "the model is saved next to it, as model-2.npz (default: model.npz, or model-2.npz and so on if that exists)")
    command.add_argument("--overwrite", action="store_true",
                         help="replace the model in --out, or the finished run in --checkpoint, even if it was trained on another text")
    command.add_argument("--from", dest="start", type=path, metavar="MODEL",
                         help="start from the weights of a saved model, with its model and text settings (ignored with --resume, whose "
                              "checkpoint has its own weights)")
    command.set_defaults(only_reports=True)
    group = command.add_argument_group("model")
    config_flags(group, ModelConfig, leave_out=["vocabulary_size"])
    group.add_argument("--body", type=path, default=argparse.SUPPRESS, metavar="FILE",
                       help="a JSON file with the layers between the embedding and the output layer, in place of --layers recurrent ones: a list such "
                            f"as {EXAMPLE}; layers and their arguments are those of numba_rnnlm.layers in Python, nested ones too")
    config_flags(command.add_argument_group("text"), TextConfig)
    config_flags(command.add_argument_group("training"), TrainingConfig, defaults={"validation_split": f"{VALIDATION_SPLIT} without --valid"})
    config_flags(command.add_argument_group("checkpoints"), CheckpointConfig)
    group = backend_flags(command)
    group.add_argument("--seed", type=int, default=argparse.SUPPRESS, metavar="N",
                         help="seed of the initial weights and of dropout; the same seed gives the same model (default: 0)")


def run(args: Arguments) -> None:
    training, keeping = given(args, TrainingConfig), CheckpointConfig(**given(args, CheckpointConfig))
    settings = given(args, ModelConfig) | given(args, TextConfig)
    settings |= {name: getattr(args, name) for name in ("seed", "body") if hasattr(args, name)}
    if args.start is not None and settings:
        args.usage_error(f"{flag(next(iter(settings)))} cannot be changed with --from: the saved model determines it.")
    if "body" in settings:
        settings["body"] = read_body(settings["body"])
    texts = [*args.corpus, *(args.valid or [])]
    once = [Path("/dev/stdin" if text == "-" else text) for text in texts if text == "-" or not (Path(text).is_file() or Path(text).is_dir())]
    if twice := next((path for path, other in combinations(once, 2) if same_file(path, other)), None):
        args.usage_error(f"{'standard input, -,' if str(twice) == '/dev/stdin' else twice} is named twice, but can be read only once")
    out = next(free_names(OUT, avoid=keeping.checkpoint)) if args.out is None else args.out
    others = [*(("CORPUS", text) for text in args.corpus), *(("--valid", text) for text in args.valid or [])]
    expect_writable(out, others)
    if keeping.checkpoint is not None:
        expect_writable(Path(keeping.checkpoint), [*others, ("--out", out)], "--checkpoint")
    if keeping.resume is not None and not keeping.begins:  # omitted flags default to the run's settings; given flags must match them
        if not os.path.exists(keeping.resume):
            missing = quoted(keeping.resume)
            raise ModelFileError(f"there is no checkpoint {keeping.resume!r} to resume from; --checkpoint {missing} --resume {missing} starts a run, and "
                                 "continues it when the command is repeated.")
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
    model = load(args, args.start) if from_saved else LanguageModel(**backend_options(args) | settings)
    epochs, failure, saved = len(model.history_["epoch"]), None, False
    with Destination(args.out, args.overwrite, keeping, model, config.max_seconds is not None) as destination:
        try:
            with Interrupts("return", notice=config.verbose > 0) as interrupts:
                try:
                    model.fit_config(corpus, valid, config, keeping, interrupts=interrupts, prepare=destination.prepare)
                except (DivergenceError, TrainingError) as error:
                    if isinstance(error, DivergenceError) and len(model.history_["epoch"]) == epochs:  # nothing was learned
                        raise
                    failure = error
                destination.save(cut_short=failure is not None or interrupts.is_set())
                saved = True
                if config.verbose and failure is None:
                    report_training(model, args, destination, resuming(args, keeping.checkpoint) if interrupts.is_set() else "")
        except Interrupted as stop:  # before training began, or by a second signal
            has_checkpoint = keeping.checkpoint is not None and Path(keeping.checkpoint).exists()
            nothing = "nothing was saved" + f" but {keeping.checkpoint!r}" * has_checkpoint
            raise Interrupted(stop.number, f"the {destination.outcome}" if saved else nothing) from None
    if failure is not None:
        raise Ended(STOPPED_EARLY, f"{failure} The {destination.outcome}.") from failure
    if interrupts.number:
        raise Interrupted(interrupts.number, f"the {destination.outcome}")


def resuming(args: Arguments, checkpoint: str | None) -> str:
    """The command that resumes this training from its checkpoint; empty if there is no checkpoint."""
    if checkpoint is None or not os.path.exists(checkpoint):
        return ""
    words, resume = list(args.words), getattr(args, "resume", None)
    if not same_file(resume, checkpoint):
        end = words.index("--") if "--" in words else len(words)
        words[end:end] = ["--resume", checkpoint]
    return shlex.join(["numba-rnnlm", *words])


def report_training(model: LanguageModel, args: Arguments, destination: Destination, resume: str) -> None:
    out, byte = destination.out, tokenizer_of(model).name == "byte"
    report(f"{destination.verb} {out} ({amount(out.stat().st_size)}): {model.parameter_count:,} weights, {model.network_.graph.head.symbols:,} symbols\n")
    if (best := model.validation_) is not None:
        bits = f"{best.bits_per_byte:.3f} bits/byte" if byte else f"{decimals(best.bits_per_character, 3)} bits/character"
        report(f"best validation loss {best.nats_per_token:.4f} nats/token, perplexity {best.perplexity:.2f}, {bits}"
               + ("" if args.valid else " on the end of the text, which was held out; --validation-split 0 trains on all of it") + "\n")
    elif model.history_["loss"]:  # empty if max_seconds elapsed before the first update
        loss = model.history_["loss"][-1]
        report(f"training loss {loss:.4f} nats/token; add --valid FILE to evaluate on unseen text too\n")
    valid = " ".join(map(quoted, args.valid or ["FILE"]))
    commands = [resume, f"numba-rnnlm generate {quoted(out)} --prompt TEXT", f"numba-rnnlm eval {quoted(out)} {valid}"]
    report("next:\n" + "".join(f"  {command}\n" for command in commands if command))
