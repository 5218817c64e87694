"""``numba-rnnlm demo``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import demo
from ..config import CheckpointConfig, TrainingConfig
from ..errors import expect_number, plain
from ..interrupts import Interrupted, Interrupts
from ..language_model import LanguageModel, Prepared
from ..reports import report
from .destination import Destination, expect_writable
from .flags import Arguments, add_command, backend_flags, backend_options, path, quoted

PROMPT = "The function "


def add(commands: Any) -> None:
    command = add_command(
        commands, "demo", run, "train on Python's own documentation for a minute, evaluate, and generate a sample",
        "Train a character model on the documentation bundled with Python, evaluate it on a held-out part, print a "
        "sample\nand save the model. Nothing is downloaded.",
        """examples:
  numba-rnnlm demo
  numba-rnnlm demo --seconds 10 --out demo.npz""",
    )
    command.add_argument("--seconds", type=float, default=60.0, metavar="X",
                         help="how long to train, not counting compilation on the first run (default: 60)")
    command.add_argument("--out", type=path, default=Path("numba_rnnlm_demo.npz"), metavar="FILE",
                         help="where to save the model (default: numba_rnnlm_demo.npz)")
    command.set_defaults(only_reports=True)
    command.add_argument("--overwrite", action="store_true", help="replace the model in --out even if it was trained on another text")
    backend_flags(command)


def run(args: Arguments) -> None:
    expect_number("seconds", args.seconds, 0, open_low=True)
    expect_writable(args.out)
    config = TrainingConfig(epochs=1000, streams=32, steps=50, learning_rate=8e-3, max_seconds=args.seconds)
    training, held_out = demo.documentation()
    model = LanguageModel("lstm", hidden=256, layers=1, embedding=64, seed=1, **backend_options(args))
    with Destination(args.out, args.overwrite, CheckpointConfig(), model, is_timed=True) as destination:
        def prepare(about: Mapping[str, Any]) -> Prepared:
            return destination.prepare(about)._replace(notes=[
                f"text: Python's own documentation, {len(training):,} characters for training, {len(held_out):,} held out",
                f"training an LSTM for {plain(args.seconds)} seconds; press Ctrl-C to stop early"])

        with Interrupts("return", notice=True) as interrupts:
            model.fit_config(training, held_out, config, interrupts=interrupts, prepare=prepare)
            destination.save(cut_short=interrupts.is_set())
            if (measured := model.validation_) is not None:  # None if training was interrupted before the first validation
                report(f"\nheld out: {measured.bits_per_character:.3f} bits/character, perplexity {measured.perplexity:.2f}\n")
            report(f"\nsample at temperature 0.7:\n\n{PROMPT}")
            for piece in model.stream(PROMPT, length=400, temperature=0.7, seed=1, unknown="unk"):
                report(piece)
    name = quoted(destination.out)
    report(f"\n\n{destination.verb} {name} with {model.parameter_count:,} weights; next:\n"
           f"  numba-rnnlm generate {name} --prompt 'A class '\n"
           f"  numba-rnnlm eval {name} FILE\n"
           "  numba-rnnlm train FILE        trains on your own text\n")
    if interrupts.number:
        raise Interrupted(interrupts.number, f"the {destination.outcome}")
