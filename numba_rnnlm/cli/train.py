"""``numba-rnnlm train``."""

import argparse
import shlex
from math import isfinite
from pathlib import Path
from typing import Any

from ..config import CheckpointConfig, ModelConfig, TextConfig, TrainingConfig
from ..errors import DivergenceError
from ..language_model import LanguageModel
from ..text import Text
from ..training import perplexity
from .files import expect_writable, load, size, texts_of
from .flags import Arguments, add_command, config_flags, flag, given, machine_flags, machine_of, text_arguments
from .measure import decimals

VALIDATION_SPLIT = 0.05  # of the text, without --valid

def add(commands: Any) -> None:
    command = add_command(
        commands, "train", run, "train a model on a text",
        "Train a model on a text and save it. Ctrl-C ends the training early and saves what was learned.",
        """examples:
  numba-rnnlm train book.txt --valid rest.txt
  numba-rnnlm train books/ more.txt.gz --encoding cp1252      without --valid the last 5 % are held out
  zcat news-*.gz | numba-rnnlm train - --tokenizer word
  numba-rnnlm train book.txt --cell gru --hidden 256 --layers 1 --epochs 20 --out book.npz
  numba-rnnlm train ptb.train.txt --valid ptb.valid.txt --tokenizer word --max-seconds 600
  numba-rnnlm train more.txt --from book.npz --out more.npz --learning-rate 0.001
  numba-rnnlm train book.txt --checkpoint run.npz --checkpoint-every 10min
  numba-rnnlm train book.txt --checkpoint run.npz --resume run.npz      after it was stopped: the settings are in run.npz""",
    )
    text_arguments(command, "corpus", "CORPUS", "text to train on")
    command.add_argument("--valid", nargs="+", action="extend", metavar="FILE",
                         help="held-out text, files or folders (name CORPUS before it): measured after each epoch, the weights of the best one are "
                              "kept")
    command.add_argument("--out", type=Path, default=Path("model.npz"), metavar="FILE",
                         help="where to save the model (default: model.npz); a model there is replaced, nothing else is")
    command.add_argument("--from", dest="start", type=Path, metavar="MODEL",
                         help="go on from the weights of a saved model; its model and text flags stay as they were (with --resume, which "
                              "has weights of its own, it does not count)")
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
    if texts.count("-") > 1:
        args.usage_error("standard input, -, is named twice; it can be read once")
    expect_writable(args.out, [Path(text) for text in texts])
    if keeping.checkpoint is not None:
        expect_writable(Path(keeping.checkpoint), [*map(Path, texts), args.out], "--checkpoint")
    if keeping.resume is not None and not keeping.begins:  # what is not given is as it was; what is given must be
        model_settings, run_settings = LanguageModel.settings_of_run(keeping.resume)
        if args.precision is not None:
            settings["precision"] = args.precision
        settings, training = model_settings | settings, run_settings | training
    elif args.valid is None:
        training = {"validation_split": VALIDATION_SPLIT, **training}
    config = TrainingConfig(**training)
    corpus, valid = texts_of(args, args.corpus), None if args.valid is None else texts_of(args, args.valid)
    verb = "replaced" if args.out.exists() else "saved"
    from_saved = args.start is not None and (keeping.resume is None or keeping.begins)
    model = load(args, args.start) if from_saved else LanguageModel(**machine_of(args) | settings)
    epochs, failure = len(model.history_["epoch"]), None
    try:
        model.fit_config(corpus, valid, config, keeping)
    except DivergenceError as error:
        if len(model.history_["epoch"]) == epochs:  # nothing was learned
            raise
        failure = error
    except KeyboardInterrupt:  # the first one ends the training, this is the second
        kept = keeping.checkpoint is not None and Path(keeping.checkpoint).exists()
        raise KeyboardInterrupt("nothing was saved" + f" but {keeping.checkpoint!r}" * kept) from None
    model.save(args.out)
    if config.verbose:
        tell_trained(model, args, verb, valid, epochs)
    if failure is not None:
        raise DivergenceError(f"{failure} The restored weights are saved in {str(args.out)!r}.") from failure


def tell_trained(model: LanguageModel, args: Arguments, verb: str, valid: Text | None, before: int) -> None:
    """What has come of it; ``before`` is how many epochs the model had."""
    symbols = model.network_.model.head.units
    print(f"{verb} {args.out} ({size(args.out)}): {model.parameter_count:,} weights, {symbols:,} symbols")
    held_out = [loss for loss in model.history_["valid_loss"][before:] if isfinite(loss)]
    if valid is not None:
        best = model.evaluate(valid)
        print(f"best validation loss {best.nats_per_token:.4f} nats/token, perplexity {best.perplexity:.2f}, "
              f"{decimals(best.bits_per_character, 3)} bits/character")
    elif held_out:
        print(f"best validation loss {min(held_out):.4f} nats/token, perplexity {perplexity(min(held_out)):.2f}, on the end of the text, which was held "
              "out; --validation-split 0 trains on all of it")
    elif model.history_["loss"]:  # none if max_seconds was over before the first update
        loss = model.history_["loss"][-1]
        print(f"training loss {loss:.4f} nats/token; with --valid FILE also measured on text that it has not seen")
    out, files = shlex.quote(str(args.out)), shlex.join(args.valid or ["FILE"])
    print(f"next:\n  numba-rnnlm generate {out} --prompt TEXT\n  numba-rnnlm eval {out} {files}")
