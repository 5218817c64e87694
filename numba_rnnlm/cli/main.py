"""The program ``numba-rnnlm``: parses arguments, runs a command, and turns errors into messages and exit codes."""

import argparse
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import TextIO

from .. import __version__, display
from ..errors import ConfigError, LanguageModelError
from ..reports import PATIENCE, is_terminal, put, report
from . import demo, generate, info, measure, streams, train, warmup
from .exits import BROKEN_PIPE, DONE, ERROR, SIGNAL, USAGE, Ended
from .flags import Arguments, Parser, with_flags
from .output import set_encodings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; ``arguments`` default to those of the process.

    Returns
    -------
    int
        The exit code: see :mod:`numba_rnnlm.cli.exits`.
    """
    streams.open_missing()
    set_encodings()
    with warnings.catch_warnings():
        warnings.showwarning = show_warning
        try:
            return run(arguments)
        except BrokenPipeError:  # the reader of the output has closed the pipe
            return BROKEN_PIPE
        except KeyboardInterrupt as stop:
            if is_terminal(sys.stdout):  # the cursor may be at the end of an unfinished line
                report("\n")
            notify("interrupted" + f", {stop}" * bool(stop.args))
            return SIGNAL + getattr(stop, "number", signal.SIGINT)
        except Ended as end:
            notify(f"error: {with_flags(str(end))}")
            return end.code
        except (LanguageModelError, OSError, MemoryError) as error:
            notify(f"error: {with_flags(describe(error))}")
            return USAGE if isinstance(error, ConfigError) else ERROR
        finally:
            streams.discard_unwritten()


def run(arguments: Sequence[str] | None) -> int:
    try:
        words = sys.argv[1:] if arguments is None else arguments
        args = parser().parse_args(words, argparse.Namespace(words=words))
        code = args.run(args) or DONE
    except SystemExit as stop:  # argparse has printed the help, the version or an error
        args, code = Arguments(), stop.code if isinstance(stop.code, int) else DONE
    if not getattr(args, "only_reports", False):
        getattr(sys.stdout, "flush", int)()  # raises if some data could not be written
    return code


def describe(error: BaseException) -> str:
    """The message of an error; an OSError without a file name is most likely about standard output."""
    if isinstance(error, OSError) and not isinstance(error, LanguageModelError) and error.filename is None:
        problem = streams.problem_of_output()
        if problem:
            return f"cannot write to standard output: {problem}"
    return str(error) or type(error).__name__


def notify(text: str) -> None:
    put(sys.stderr, f"numba-rnnlm: {display.message(text)}\n", PATIENCE)


def show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int,
    file: TextIO | None = None, line: str | None = None,
) -> None:
    notify(f"warning: {with_flags(str(message))}")


def parser() -> argparse.ArgumentParser:
    """The parser of all commands with their flags."""
    whole = Parser(
        prog="numba-rnnlm", allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train, evaluate and sample from recurrent neural network language models.",
        epilog="""examples:
  numba-rnnlm demo                                      train and generate within a minute; downloads nothing
  numba-rnnlm train book.txt --valid rest.txt           writes model.npz
  numba-rnnlm generate model.npz 'It was '
  numba-rnnlm COMMAND --help                            help for one command

exit codes of every command:
  0    success
  1    an error, described on standard error
  2    wrong usage: an argument is missing, unknown or invalid, or two contradict each other
  3    training stopped early (it diverged, or validation failed); what it had learned is saved
  128 + the number of the signal that ended the command: 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP; if training had begun, the model
       is saved. 141: the reader of the output closed the pipe""",
    )
    whole.add_argument("--version", action="version", version=f"numba-rnnlm {__version__}")
    whole.set_defaults(run=lambda args: whole.print_help())  # without a command
    commands = whole.add_subparsers(metavar="COMMAND")
    for add in (train.add, measure.add_eval, measure.add_score, generate.add, info.add, warmup.add, demo.add):
        add(commands)
    return whole
