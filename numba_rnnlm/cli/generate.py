"""``numba-rnnlm generate``."""

import os
from typing import Any

from ..config import SamplingConfig
from ..errors import CorpusError, expect_number
from ..text import as_text
from .files import load, tokenizer_of
from .flags import Arguments, add_command, backend_flags, config_flags, given, model_argument
from .output import Writer
from .streams import standard_input


def add(commands: Any) -> None:
    command = add_command(
        commands, "generate", run, "continue a text",
        "Print the prompt and the model's continuation while it is being generated: as UTF-8, or for a byte model as the bytes themselves\n"
        "(without a final newline, except on a terminal).",
        """examples:
  numba-rnnlm generate model.npz 'It was ' --length 500 --temperature 0.7
  numba-rnnlm generate model.npz --prompt 'It was ' --seed 1 --samples 3
  numba-rnnlm generate model.npz --prompt - < beginning.txt
  numba-rnnlm generate large.npz 'It was ' --weights int8""",
    )
    model_argument(command)
    command.add_argument("prompt", nargs="?", metavar="PROMPT",
                         help="text to continue (for byte models, any bytes); - reads it from standard input, newlines "
                              "included; without a prompt, the model starts a new line")
    command.add_argument("--prompt", dest="prompt_flag", metavar="TEXT", help="the same as PROMPT")
    config_flags(command.add_argument_group("sampling"), SamplingConfig)
    command.add_argument("--samples", type=int, default=1, metavar="N",
                         help="generate this many samples in one batch, with the seeds seed, seed + 1, ..., and print them when all are "
                              "complete, separated by empty lines (default: 1)")
    command.add_argument("--unknown", type=str.lower, choices=("error", "unk"), default="error",
                         help="for symbols of the prompt that the model does not know: error rejects the prompt, unk reads them as <unk> "
                              "(default: error)")
    backend_flags(command)


def run(args: Arguments) -> None:
    expect_number("samples", args.samples, 1, whole=True)
    options = given(args, SamplingConfig)
    if args.samples > 1 and options.get("temperature") == 0:
        args.usage_error("with --temperature 0, all --samples are the same text; leave one of them out")
    if args.prompt is not None and args.prompt_flag is not None:
        args.usage_error("the prompt is given twice, as PROMPT and with --prompt; leave one of them out")
    model = load(args, args.model)
    is_of_bytes = tokenizer_of(model).name == "byte"
    prompt = read_prompt(args.prompt or args.prompt_flag or "", is_of_bytes)
    writer = Writer()
    if args.samples > 1:
        texts = model.generate([prompt] * args.samples, **options, unknown=args.unknown)
        between: Any = b"\n\n" if is_of_bytes else "\n\n"
        writer.write(between.join(prompt + text for text in texts))
    else:
        pieces = model.stream(prompt, **options, unknown=args.unknown)
        writer.write(prompt)
        for piece in pieces:
            writer.write(piece)
    writer.end(type(prompt))


def read_prompt(text: str, is_of_bytes: bool) -> str | bytes:
    """The prompt as text, or as bytes for a byte model; ``-`` reads it from standard input."""
    try:
        data = standard_input().read() if text == "-" else encoded(text)
    except OSError as error:
        raise CorpusError(f"cannot read the prompt from standard input: {error.strerror}.") from error
    return data if is_of_bytes else as_text(data, "the prompt")


def encoded(text: str) -> bytes:
    """An argument in UTF-8, or its original bytes if they are not valid text in the locale's encoding."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return os.fsencode(text)
