"""All commands as one program: its parser, its exit codes, how it reports errors and warnings."""

import argparse
import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TextIO

from .. import __version__
from ..errors import LanguageModelError
from . import demo, generate, info, measure, train, warmup
from .flags import Parser, with_flags


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; ``arguments`` default to those of the process.

    Returns
    -------
    int
        The exit code: 0 fine; 1 an error, told on standard error; 2 wrong usage; 130 interrupted; 141 whoever
        read the output has gone.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without some character must not stop us
    with warnings.catch_warnings():
        warnings.showwarning = show_warning
        try:
            code = run(arguments)
            sys.stdout.flush()
            return code
        except BrokenPipeError:
            # Python flushes once more on its way out; that must not complain either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except KeyboardInterrupt as stop:
            if sys.stdout.isatty():  # the cursor stands behind a line that is not complete
                print()
            print("numba-rnnlm: interrupted" + f", {stop}" * bool(stop.args), file=sys.stderr)
            return 130
        except (LanguageModelError, OSError, MemoryError) as error:
            print(f"numba-rnnlm: error: {with_flags(str(error))}", file=sys.stderr)
            return 1


def run(arguments: Sequence[str] | None) -> int:
    try:
        args = parser().parse_args(arguments)
        args.run(args)
    except SystemExit as stop:  # argparse has printed the help, the version or what is wrong
        return stop.code if isinstance(stop.code, int) else 0
    return 0


def show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int,
    file: TextIO | None = None, line: str | None = None,
) -> None:
    print(f"numba-rnnlm: warning: {with_flags(str(message))}", file=sys.stderr)


def parser() -> argparse.ArgumentParser:
    """All commands with all their flags."""
    whole = Parser(
        prog="numba-rnnlm", allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Recurrent neural network language models: train on a text, measure, score, write.",
        epilog="""examples:
  numba-rnnlm demo                                      the whole job in a minute, nothing is downloaded
  numba-rnnlm train book.txt --valid rest.txt           writes model.npz
  numba-rnnlm generate model.npz 'It was '
  numba-rnnlm COMMAND --help                            everything about one command""",
    )
    whole.add_argument("--version", action="version", version=f"numba-rnnlm {__version__}")
    whole.set_defaults(run=lambda args: whole.print_help())  # without a command
    commands = whole.add_subparsers(metavar="COMMAND")
    for add in (train.add, measure.add_eval, measure.add_score, generate.add, info.add, warmup.add, demo.add):
        add(commands)
    return whole
