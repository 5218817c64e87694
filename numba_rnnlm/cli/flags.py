"""The command-line flags. Each field of a configuration becomes a flag with the same name, help, choices and default."""

import argparse
import os
import re
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from .. import backends, display
from ..backends.ops import PRECISIONS
from ..cells import CELLS
from ..config import CheckpointConfig, ModelConfig, SamplingConfig, TextConfig, TrainingConfig, UnknownConfig
from ..errors import shown
from ..language_model import BackendOptions
from ..reports import put
from ..suggestions import flag_meant, value_meant
from .exits import USAGE

METAVARS = {int: "N", float: "X", str: "NAME", "checkpoint": "FILE", "checkpoint_every": "TIME", "resume": "FILE", "log": "FILE",
            "max_seconds": "TIME"}
CONFIGS = (ModelConfig, TextConfig, TrainingConfig, SamplingConfig, UnknownConfig)
OPTIONS = {item.name for config in (*CONFIGS, CheckpointConfig) for item in fields(config)} | {
    *BackendOptions._fields, "encoding", "samples", "seconds", "valid"
}
OPTIONS -= {"window"}  # in errors it is mostly the argument of a layer
OPTION = "|".join(sorted(OPTIONS))
SETTING = re.compile(rf"""(?<![^\s(])({OPTION})=(['"]?)([\w.+-]*\w)\2""")  # name='value' within a sentence
WITHOUT_VALUE = re.compile(r"argument (--[\w-]+): expected one argument")
CALL = re.compile(r"[A-Za-z_]\w*\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\)")  # Python code such as LSTM(units=3), also with calls inside calls
SUBJECT = re.compile(rf"\A({OPTION})(?= is )")

Arguments = argparse.Namespace


class Parser(argparse.ArgumentParser):
    """Reports wrong usage in one line, and accepts the arguments of a command in any order."""

    mixing = False

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.register("type", int, whole_number)
        self.register("type", float, number)

    def error(self, message: str) -> NoReturn:
        message = display.message(message)
        if found := WITHOUT_VALUE.match(message):
            message += f"; write a value that begins with - as {found[1]}=-VALUE"
        message = f"{message} See" if message.endswith("?") else f"{message.rstrip('.')}; see"
        self.exit(USAGE, f"{self.prog}: error: {message} {self.prog} --help\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is sys.stdout and file is not None:
            file.write(message)  # argparse would ignore a failure to write the help; main reports it
        else:
            put(sys.stderr, message)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self.mixing:  # parse_known_intermixed_args calls this method for the options, then for the rest
            return super().parse_known_args(args, namespace)
        has_commands = any(action.nargs == argparse.PARSER for action in self._actions)
        self.mixing = True
        try:
            found, rest = (super().parse_known_args if has_commands else super().parse_known_intermixed_args)(args, namespace)
        except AttributeError as error:  # raised inside argparse if Ctrl-C interrupts parse_known_intermixed_args
            raise error.__context__ if isinstance(error.__context__, KeyboardInterrupt) else error from None
        finally:
            self.mixing = False
        if rest:  # report it here, where the command is known; parse_args would name the program only
            self.error(f"unrecognized arguments: {' '.join(rest)}{self._flags_meant(rest) or self._values_meant(rest)}")
        return found, rest

    def _flags_meant(self, unknown: Sequence[str]) -> str:
        flags = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
        pairs = {word.split("=")[0]: flag_meant(word, flags) for word in unknown if word.startswith("-")}
        found = [(word, flag) for word, flag in pairs.items() if flag]
        if len(found) == 1:
            return f"; did you mean {found[0][1]}?"
        return f"; did you mean {', '.join(f'{flag} for {word}' for word, flag in found)}?" if found else ""

    def _values_meant(self, unknown: Sequence[str]) -> str:
        """A hint how to write a value that looks like a flag."""
        found = next((word for word in unknown if re.match("-[^-]", word)), None)
        if found is not None and os.path.exists(found):
            return f"; write the file as {quoted(found)}"
        takes_prompt = any("--prompt" in action.option_strings for action in self._actions)
        return f"; write a prompt that begins with - as {shlex.quote(f'--prompt={found}')}" if found is not None and takes_prompt else ""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            if meant := value_meant(str(value), map(str, action.choices or ())):
                error.message += f"; did you mean {meant}?"
            raise


def whole_number(text: str) -> int:
    """Parse the value of an argument of type int."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"it is {shown(text)}, expected a whole number such as 100") from None


def number(text: str) -> float:
    """Parse the value of an argument of type float."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"it is {shown(text)}, expected a number such as 0.5 or 1e-3") from None


def path(text: str) -> Path:
    """Parse the value of an argument that is a path."""
    return Path(name(text))


def name(text: str) -> str:
    """Parse the value of an argument that names a file or standard input."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty, expected the name of a file")
    return text


def quoted(path: str | Path) -> str:
    """Quote a path for a shell so that it does not look like a flag."""
    return shlex.quote(os.path.join(".", path) if str(path).startswith("-") else str(path))


def add_command(commands: Any, name: str, run: Any, help: str, description: str, epilog: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=help, description=description, epilog=epilog, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run, command=name, usage_error=command.error)
    return command


def model_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", type=path, metavar="MODEL", help="a model file written by train")


def text_arguments(command: argparse.ArgumentParser, argument: str, metavar: str, help: str, **options: Any) -> None:
    """Add the arguments that :class:`~numba_rnnlm.text.Files` needs: files and their encoding."""
    command.add_argument(argument, **{"nargs": "+"} | options, type=name, metavar=metavar,
                         help=f"{help}: files, folders (all files in them), or - for standard input; gzip, bzip2, xz and zstd files are "
                              "decompressed")
    command.add_argument("--encoding", default="utf-8", metavar="NAME", help="encoding of the text (default: utf-8)")


def backend_flags(command: argparse.ArgumentParser) -> Any:
    group = command.add_argument_group("backend")
    group.add_argument("--backend", type=str.lower, choices=backends.BACKENDS, default="auto",
                       help="backend to compute with; auto chooses the fastest one available (default: auto)")
    group.add_argument("--threads", type=int, metavar="N",
                       help="threads of the cpu backend; results do not depend on their number (default: all processors, or "
                            "NUMBA_RNNLM_NUM_THREADS)")
    group.add_argument("--precision", type=str.lower, choices=PRECISIONS,
                       help="precision of the factors of matrix products; faster choices are bf16 (cuda, and processors with AVX512_BF16) "
                            "and tf32 (cuda) (default: float32)")
    return group


def config_flags(group: Any, config: type, leave_out: Collection[str] = (), defaults: Mapping[str, str] | None = None) -> None:
    """Add a flag for each field. A flag that is not given sets no attribute (see :func:`given`). ``defaults`` replace those of the fields
    in the help."""
    for item in fields(config):
        if item.name in leave_out:
            continue
        option = flag(item.name)
        kind = item.metadata["type"] or type(item.default)
        help, choices = item.metadata["help"].replace("%", "%%"), item.metadata["choices"]
        if item.name == "cell":  # registered cells are available in Python only
            help, choices = "recurrent cell", tuple(CELLS)
        if kind is bool:
            group.add_argument(option, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS,
                               help=f"{help} (default: {'yes' if item.default else 'no'})")
        else:
            default = (defaults or {}).get(item.name, item.default)
            shown = "" if default is None else f" (default: {default})"
            group.add_argument(option, type=str.lower if choices else kind, choices=choices, default=argparse.SUPPRESS, help=help + shown,
                               metavar=None if choices else METAVARS.get(item.name, METAVARS[kind]))


def given(args: Arguments, config: type) -> dict[str, Any]:
    """The fields of a configuration whose flags were given, with their values."""
    return {item.name: getattr(args, item.name) for item in fields(config) if hasattr(args, item.name)}


def backend_options(args: Arguments) -> dict[str, Any]:
    return {"backend": args.backend, "threads": args.threads, "precision": args.precision or "float32"}


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def with_flags(message: str) -> str:
    """Replace Python arguments in a message by the corresponding flags: ``cell='gru'`` becomes ``--cell gru``. Calls are left as they are."""
    message, calls = SUBJECT.sub(lambda found: flag(found[1]), message), []

    def aside(found: re.Match[str]) -> str:
        calls.append(found[0])
        return f"\0{len(calls) - 1}\0"

    message = SETTING.sub(lambda found: flag(found[1]) + ("" if found[3] == "True" else f" {found[3]}"), CALL.sub(aside, message))
    return re.sub(r"\0(\d+)\0", lambda found: calls[int(found[1])], message)
