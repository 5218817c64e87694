"""``numba-rnnlm generate``."""

import sys
from typing import Any

from ..config import SamplingConfig
from ..errors import VocabularyError, expect_number
from .files import load
from .flags import Arguments, add_command, config_flags, given, machine_flags, model_argument


def add(commands: Any) -> None:
    command = add_command(
        commands, "generate", run, "continue a text",
        "Write the prompt and what the model continues it with, as it is drawn.",
        """examples:
  numba-rnnlm generate model.npz 'It was ' --length 500 --temperature 0.7
  numba-rnnlm generate model.npz --prompt 'It was ' --seed 1 --samples 3
  numba-rnnlm generate model.npz --prompt - < beginning.txt
  numba-rnnlm generate large.npz 'It was ' --weights int8""",
    )
    model_argument(command)
    command.add_argument("prompt", nargs="?", metavar="PROMPT",
                         help="text to continue, right behind MODEL; - reads it from standard input, its line ends "
                              "included; left out, the model starts a new line")
    command.add_argument("--prompt", dest="prompt_flag", metavar="TEXT", help="the same as PROMPT, in any place")
    config_flags(command.add_argument_group("sampling"), SamplingConfig)
    command.add_argument("--samples", type=int, default=1, metavar="N",
                         help="write this many side by side, with the seeds seed, seed + 1, ..., and an empty line between "
                              "them; shown when all are written (default: 1)")
    command.add_argument("--unknown", type=str.lower, choices=("error", "unk"), default="error",
                         help="a symbol of the prompt that the model does not know is an error, or read as <unk> "
                              "(default: error)")
    machine_flags(command)


def run(args: Arguments) -> None:
    expect_number("samples", args.samples, 1, whole=True)
    options = given(args, SamplingConfig)
    if args.samples > 1 and options.get("temperature") == 0:
        args.usage_error("--samples with --temperature 0 writes the same text each time; leave one of them out")
    if args.prompt is not None and args.prompt_flag is not None:
        args.usage_error("the prompt is given twice, as PROMPT and with --prompt; leave one of them out")
    prompt = read_prompt(args.prompt or args.prompt_flag or "")
    model = load(args, args.model)
    if args.samples > 1:
        texts = model.generate([prompt] * args.samples, **options, unknown=args.unknown)
        print("\n\n".join(prompt + text for text in texts))
        return
    pieces = model.stream(prompt, **options, unknown=args.unknown)
    print(prompt, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print(flush=True)


def read_prompt(text: str) -> str:
    """The prompt, which ``-`` reads from standard input."""
    try:
        if text == "-":
            return sys.stdin.buffer.read().decode("utf-8")
        text.encode("utf-8")
    except UnicodeError as error:
        raise VocabularyError(f"the prompt is not UTF-8: {error}.") from error
    return text
