"""``numba-rnnlm demo``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import demo
from ..errors import expect_number
from .exits import DONE, SIGNAL
from .files import expect_replaceable, expect_writable
from .flags import Arguments, add_command, machine_flags, machine_of, path


def add(commands: Any) -> None:
    command = add_command(
        commands, "demo", run, "train, measure and write on Python's own documentation, in a minute",
        "Train a character model on the documentation that Python carries, measure it on a held-out part, write a "
        "sample\nand save the model. Nothing is downloaded.",
        """examples:
  numba-rnnlm demo
  numba-rnnlm demo --seconds 10 --out demo.npz""",
    )
    command.add_argument("--seconds", type=float, default=60.0, metavar="X",
                         help="how long to train; compiling comes on top, the first time (default: 60)")
    command.add_argument("--out", type=path, default=Path("numba_rnnlm_demo.npz"), metavar="FILE",
                         help="where to save the model (default: numba_rnnlm_demo.npz)")
    command.set_defaults(only_reports=True)
    command.add_argument("--overwrite", action="store_true", help="replace the model in --out, even if it is of another text")
    machine_flags(command)


def run(args: Arguments) -> int:
    expect_number("seconds", args.seconds, 0, open_low=True)
    expect_writable(args.out)

    def prepare(about: Mapping[str, Any]) -> tuple[Path, float]:
        if not args.overwrite:
            expect_replaceable(args.out, about)
        return args.out, 0.0

    number = demo.run(args.out, args.seconds, prepare, args.overwrite, **machine_of(args))
    return SIGNAL + number if number else DONE
