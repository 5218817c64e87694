"""The command line: ``numba-rnnlm train | eval | score | generate | info | warmup | demo``.

Every field of a configuration is a flag of the same name, with its help, choices and default.
"""

import argparse
import io
import json
import os
import platform
import re
import shlex
import sys
import tempfile
import time
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import fields
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TextIO

import numpy as np

from . import __version__, backends, demo
from .backends.cache import cache_folder, problem_of
from .backends.compiling import notice
from .cells import CELLS
from .config import OPTIMIZERS, WEIGHTS, CheckpointConfig, ModelConfig, SamplingConfig, TextConfig, TrainingConfig
from .errors import (
    BackendError,
    ConfigError,
    CorpusError,
    DivergenceError,
    LanguageModelError,
    ModelFileError,
    VocabularyError,
    expect_number,
)
from .language_model import MACHINE, LanguageModel
from .progress import duration
from .runs import Run, read_run
from .scoring import log_probabilities
from .storage import open_model, read_about
from .text import Tokenizer

CHUNK = 2**20  # bytes of the lines to score that are read at once
METAVARS = {int: "N", float: "X", str: "NAME", "checkpoint": "FILE", "checkpoint_every": "TIME", "resume": "FILE"}
SHOWN_SYMBOLS = 20
WARMUP_SYMBOLS = 100
CONFIGS = (ModelConfig, TextConfig, TrainingConfig, SamplingConfig)
OPTIONS = {item.name for config in (*CONFIGS, CheckpointConfig) for item in fields(config)} | {
    *MACHINE, "unknown", "samples", "seconds", "valid"
}
OPTION = "|".join(sorted(OPTIONS))
SETTING = re.compile(rf"""(?<![^\s(])({OPTION})=(['"]?)([\w.+-]*\w)\2""")  # name='value' of a sentence
SUBJECT = re.compile(rf"\A({OPTION})(?= is )")

Arguments = argparse.Namespace


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
        warnings.showwarning = _show_warning
        try:
            code = _run(arguments)
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
            print(f"numba-rnnlm: error: {_with_flags(str(error))}", file=sys.stderr)
            return 1


def _run(arguments: Sequence[str] | None) -> int:
    try:
        args = parser().parse_args(arguments)
        args.run(args)
    except SystemExit as stop:  # argparse has printed the help, the version or what is wrong
        return stop.code if isinstance(stop.code, int) else 0
    return 0


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int,
    file: TextIO | None = None, line: str | None = None,
) -> None:
    print(f"numba-rnnlm: warning: {_with_flags(str(message))}", file=sys.stderr)


def _with_flags(message: str) -> str:
    """A sentence of the library with its arguments as they are typed here: ``--cell gru`` for ``cell='gru'``."""
    message = SUBJECT.sub(lambda found: _flag(found[1]), message)
    return SETTING.sub(lambda found: f"{_flag(found[1])} {found[3]}", message)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


# flags


class _Parser(argparse.ArgumentParser):
    """Tells wrong usage in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message.rstrip('.')}; see {self.prog} --help\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, rest = super().parse_known_args(args, namespace)
        if rest:  # told here, the command is named; by parse_args only the program would be
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return found, rest


def parser() -> argparse.ArgumentParser:
    """All commands with all their flags."""
    whole = _Parser(
        prog="numba-rnnlm", allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Recurrent neural network language models: train on a text, measure, score, write.",
        epilog="""examples:
  numba-rnnlm demo                                      the whole job in a minute, nothing is downloaded
  numba-rnnlm train book.txt --valid rest.txt           writes model.npz
  numba-rnnlm generate model.npz 'It was '
  numba-rnnlm COMMAND --help                            everything about one command""",
    )
    whole.add_argument("--version", action="version", version=f"numba-rnnlm {__version__}")
    commands = whole.add_subparsers(metavar="COMMAND", required=True)
    _train_flags(_command(
        commands, "train", _train, "train a model on a text",
        "Train a model on a text and save it. Ctrl-C ends the training early and saves what was learned.",
        """examples:
  numba-rnnlm train book.txt --valid rest.txt
  numba-rnnlm train book.txt --cell gru --hidden 256 --layers 1 --epochs 20 --out book.npz
  numba-rnnlm train ptb.train.txt --valid ptb.valid.txt --tokenizer word --max-seconds 600
  numba-rnnlm train more.txt --from book.npz --out more.npz --learning-rate 0.001
  numba-rnnlm train book.txt --checkpoint run.npz --checkpoint-every 10min
  numba-rnnlm train book.txt --checkpoint run.npz --resume run.npz      after it was stopped: the settings are in run.npz""",
    ))
    _eval_flags(_command(
        commands, "eval", _eval, "measure how well a model predicts a text",
        "Measure how well a model predicts a text: perplexity, bits per character and per byte. Every token but the "
        "first counts,\nline ends included (with --bos the first one too, as in score); a symbol that the model does not know "
        "is scored as\n<unk>. The text is read as a whole: unlike score, eval does not start again with each line.",
        """examples:
  numba-rnnlm eval model.npz test.txt
  numba-rnnlm eval model.npz test.txt.gz --json
  numba-rnnlm eval model.npz test.txt --weights int8    what generate --weights int8 costs""",
    ))
    _score_flags(_command(
        commands, "score", _score, "log-probability of each line of a text",
        "Print the log-probability of each line, in nats: the line alone, after a line end, its own line end included.\n"
        "So exp(-score / tokens) is the perplexity that eval --bos finds for a file with this line alone.",
        """examples:
  numba-rnnlm score model.npz sentences.txt
  echo 'to be or not to be' | numba-rnnlm score model.npz --per-token
  numba-rnnlm score model.npz candidates.txt --normalize | paste - candidates.txt | sort -g""",
    ))
    _generate_flags(_command(
        commands, "generate", _generate, "continue a text",
        "Write the prompt and what the model continues it with, as it is drawn.",
        """examples:
  numba-rnnlm generate model.npz 'It was ' --length 500 --temperature 0.7
  numba-rnnlm generate model.npz --prompt 'It was ' --seed 1 --samples 3
  numba-rnnlm generate model.npz --prompt - < beginning.txt
  numba-rnnlm generate large.npz 'It was ' --weights int8""",
    ))
    info = _command(
        commands, "info", _info, "what a model file holds, or what this machine offers",
        "Without a model: versions, processor, threads, backends. With one: its configuration, size, vocabulary and "
        "training.",
        """examples:
  numba-rnnlm info
  numba-rnnlm info model.npz""",
    )
    info.add_argument("model", type=Path, nargs="?", metavar="MODEL", help="a model file")
    _warmup_flags(_command(
        commands, "warmup", _warmup, "compile ahead of time",
        "Compile all kernels that train, eval, score and generate need, and keep them on disk: no later process has to\n"
        "wait. Otherwise they are compiled, and kept, when they are first needed. They serve this kind of processor, this\n"
        "version of Numba and this installation of numba_rnnlm. On a GPU some depend on the sizes of the model: those of\n"
        "train's default sizes are compiled. NUMBA_CACHE_DIR names another folder to keep them in.",
        """examples:
  numba-rnnlm warmup                                    all cells, a minute or two
  numba-rnnlm warmup --cells lstm --optimizers all
  numba-rnnlm warmup --cells lstm gru --precision bf16""",
    ))
    _demo_flags(_command(
        commands, "demo", _demo, "train, measure and write on Python's own documentation, in a minute",
        "Train a character model on the documentation that Python carries, measure it on a held-out part, write a "
        "sample\nand save the model. Nothing is downloaded.",
        """examples:
  numba-rnnlm demo
  numba-rnnlm demo --seconds 10 --out demo.npz""",
    ))
    return whole


def _command(commands: Any, name: str, run: Any, help: str, description: str, epilog: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=help, description=description, epilog=epilog, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run, usage_error=command.error)
    return command


def _train_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("corpus", type=Path, metavar="CORPUS", help="text to train on, in UTF-8; may be a .gz")
    command.add_argument("--valid", type=Path, metavar="FILE",
                         help="held-out text: measured after each epoch, the weights of the best one are kept")
    command.add_argument("--out", type=Path, default=Path("model.npz"), metavar="FILE",
                         help="where to save the model (default: model.npz); a model there is replaced, nothing else is")
    command.add_argument("--from", dest="start", type=Path, metavar="MODEL",
                         help="go on from the weights of a saved model; its model and text flags stay as they were (with --resume, which "
                              "has weights of its own, it does not count)")
    _config_flags(command.add_argument_group("model"), ModelConfig, leave_out=["vocabulary_size"])
    _config_flags(command.add_argument_group("text"), TextConfig)
    _config_flags(command.add_argument_group("training"), TrainingConfig)
    _config_flags(command.add_argument_group("checkpoints"), CheckpointConfig)
    machine = _machine_flags(command)
    machine.add_argument("--seed", type=int, default=argparse.SUPPRESS, metavar="N",
                         help="of the starting weights and the dropout; same seed, same model (default: 0)")


def _eval_flags(command: argparse.ArgumentParser) -> None:
    _model_argument(command)
    command.add_argument("corpus", type=Path, metavar="CORPUS", help="text to measure on, in UTF-8; may be a .gz")
    command.add_argument("--weights", choices=WEIGHTS, default="float32",
                         help="int8: how well the rounded weights do that generate --weights int8 reads (default: float32)")
    command.add_argument("--bos", action="store_true",
                         help="the text follows a line end, so that its first token counts too, as in score (default: no)")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    _machine_flags(command)


def _score_flags(command: argparse.ArgumentParser) -> None:
    _model_argument(command)
    command.add_argument("file", nargs="?", default="-", metavar="FILE",
                         help="lines in UTF-8, for byte models of any bytes, that end with \\n or \\r\\n; standard input "
                              "if left out or -")
    kind = command.add_mutually_exclusive_group()
    kind.add_argument("--per-token", action="store_true",
                      help="a line for each token: token, log-probability and 1 if it is not in the vocabulary, "
                           "between tabs; an empty line after each sentence")
    kind.add_argument("--normalize", action="store_true", help="divide by the number of tokens")
    command.add_argument("--json", action="store_true", help="print one JSON object a line; its tokens are the text that is complete with each of them")
    _machine_flags(command)


def _generate_flags(command: argparse.ArgumentParser) -> None:
    _model_argument(command)
    command.add_argument("prompt", nargs="?", metavar="PROMPT",
                         help="text to continue, right behind MODEL; - reads it from standard input, its line ends "
                              "included; left out, the model starts a new line")
    command.add_argument("--prompt", dest="prompt_flag", metavar="TEXT", help="the same as PROMPT, in any place")
    _config_flags(command.add_argument_group("sampling"), SamplingConfig)
    command.add_argument("--samples", type=int, default=1, metavar="N",
                         help="write this many side by side, with the seeds seed, seed + 1, ..., and an empty line between "
                              "them; shown when all are written (default: 1)")
    command.add_argument("--unknown", choices=("error", "unk"), default="error",
                         help="a symbol of the prompt that the model does not know is an error, or read as <unk> "
                              "(default: error)")
    _machine_flags(command)


def _demo_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--seconds", type=float, default=60.0, metavar="X",
                         help="how long to train; compiling comes on top, the first time (default: 60)")
    command.add_argument("--out", type=Path, default=Path("numba_rnnlm_demo.npz"), metavar="FILE",
                         help="where to save the model (default: numba_rnnlm_demo.npz)")
    _machine_flags(command)


def _warmup_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS), metavar="CELL",
                         help=f"for models with these cells: {', '.join(CELLS)} (default: all)")
    command.add_argument("--optimizers", nargs="+", choices=(*OPTIMIZERS, "all"), default=["adam"], metavar="NAME",
                         help=f"for training with these: {', '.join(OPTIMIZERS)}, or all (default: adam)")
    _machine_flags(command)


def _model_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument("model", type=Path, metavar="MODEL", help="a model file, as train writes it")


def _machine_flags(command: argparse.ArgumentParser) -> Any:
    group = command.add_argument_group("machine")
    group.add_argument("--backend", choices=backends.BACKENDS, default="auto",
                       help="where to compute; auto is the fastest that runs here (default: auto)")
    group.add_argument("--threads", type=int, metavar="N",
                       help="of the cpu backend; the results do not depend on it (default: all processors, or "
                            "NUMBA_RNNLM_NUM_THREADS)")
    group.add_argument("--precision", choices=backends.PRECISIONS,
                       help="of the factors of matrix products; faster are bf16, for cuda and for processors with AVX512_BF16, and "
                            "tf32, for cuda (default: float32)")
    return group


def _config_flags(group: Any, config: type, leave_out: Collection[str] = ()) -> None:
    """A flag for each field. One that is not given leaves no trace in the namespace: see :func:`_given`."""
    for item in fields(config):
        if item.name in leave_out:
            continue
        flag = _flag(item.name)
        kind = item.metadata["type"] or type(item.default)
        help, choices = item.metadata["help"].replace("%", "%%"), item.metadata["choices"]
        if item.name == "cell":  # registered cells are for Python only
            help, choices = "recurrent cell", tuple(CELLS)
        if kind is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS,
                               help=f"{help} (default: {'yes' if item.default else 'no'})")
        else:
            shown = "" if item.default is None else f" (default: {item.default})"
            group.add_argument(flag, type=kind, choices=choices, default=argparse.SUPPRESS, help=help + shown,
                               metavar=None if choices else METAVARS.get(item.name, METAVARS[kind]))


def _given(args: Arguments, config: type) -> dict[str, Any]:
    """The fields of a configuration whose flags were given."""
    return {item.name: getattr(args, item.name) for item in fields(config) if hasattr(args, item.name)}


# commands


def _train(args: Arguments) -> None:
    training, keeping = _given(args, TrainingConfig), CheckpointConfig(**_given(args, CheckpointConfig))
    given = _given(args, ModelConfig) | _given(args, TextConfig)
    if hasattr(args, "seed"):
        given["seed"] = args.seed
    if args.start is not None and given:
        args.usage_error(f"{_flag(next(iter(given)))} cannot be changed with --from: the saved model has its own.")
    _expect_writable(args.out, [args.corpus, args.valid])
    if keeping.checkpoint is not None:
        _expect_writable(Path(keeping.checkpoint), [args.corpus, args.valid, args.out], "--checkpoint")
    if keeping.resume is not None and not keeping.begins:  # what is not given is as it was; what is given must be
        model_settings, run_settings = LanguageModel.settings_of_run(keeping.resume)
        if args.precision is not None:
            given["precision"] = args.precision
        given, training = model_settings | given, run_settings | training
    config = TrainingConfig(**training)
    verb = "replaced" if args.out.exists() else "saved"
    from_saved = args.start is not None and (keeping.resume is None or keeping.begins)
    model = _load(args, args.start) if from_saved else LanguageModel(**_machine(args) | given)
    epochs, failure = len(model.history_["epoch"]), None
    try:
        model.fit_config(args.corpus, args.valid, config, keeping)
    except DivergenceError as error:
        if len(model.history_["epoch"]) == epochs:  # nothing was learned
            raise
        failure = error
    except KeyboardInterrupt:  # the first one ends the training, this is the second
        kept = keeping.checkpoint is not None and Path(keeping.checkpoint).exists()
        raise KeyboardInterrupt("nothing was saved" + f" but {keeping.checkpoint!r}" * kept) from None
    model.save(args.out)
    if config.verbose:
        _tell_trained(model, args, verb)
    if failure is not None:
        raise DivergenceError(f"{failure} The restored weights are saved in {str(args.out)!r}.") from failure


def _tell_trained(model: LanguageModel, args: Arguments, verb: str) -> None:
    size = model.network_.model.head.units
    print(f"{verb} {args.out} ({_size(args.out)}): {model.parameter_count:,} weights, {size:,} symbols")
    if args.valid is not None:
        best = model.evaluate(args.valid)
        print(f"best validation loss {best.nats_per_token:.4f} nats/token, perplexity {best.perplexity:.2f}, "
              f"{_decimals(best.bits_per_character, 3)} bits/character")
    elif model.history_["loss"]:  # none if max_seconds was over before the first update
        loss = model.history_["loss"][-1]
        print(f"training loss {loss:.4f} nats/token; with --valid FILE also measured on text that it has not seen")
    out, valid = (shlex.quote(str(path)) for path in (args.out, args.valid or "FILE"))
    print(f"next:\n  numba-rnnlm generate {out} --prompt TEXT\n  numba-rnnlm eval {out} {valid}")


def _eval(args: Arguments) -> None:
    found = _load(args, args.model).evaluate(args.corpus, args.weights, args.bos)
    if args.json:
        values: dict[str, float | None] = {
            "perplexity": found.perplexity if isfinite(found.perplexity) else None,  # JSON knows no infinity
            "nats_per_token": found.nats_per_token, "bits_per_token": found.bits_per_token,
            "bits_per_character": found.bits_per_character, "bits_per_byte": found.bits_per_byte,
            "tokens": found.tokens, "oov": found.oov, "characters": found.characters, "bytes": found.bytes, "bos": found.bos,
        }
        print(json.dumps(values))
        return
    _table({
        "perplexity": f"{found.perplexity:.4f}",
        "nats/token": f"{found.nats_per_token:.4f}",
        "bits/character": _decimals(found.bits_per_character, 4),
        "bits/byte": f"{found.bits_per_byte:.4f}",
        "tokens" + " after the first" * (not found.bos): f"{found.tokens:,}",
        "out of vocabulary": f"{found.oov:,}",
    })


def _decimals(value: float | None, digits: int) -> str:
    return "no" if value is None else f"{value:.{digits}f}"


def _score(args: Arguments) -> None:
    model = _load(args, args.model)
    tokenizer = _tokenizer(model)
    end = np.array([tokenizer.line_end], np.int32)
    number = 0
    with _opened(args.file) as file:
        for lines in _arriving_lines(file):
            lines, rows = [line.removesuffix(b"\r") for line in lines], []
            for line in lines:
                number += 1
                try:
                    rows.append(np.concatenate([end, tokenizer.encode(line), end]))
                except CorpusError as error:
                    raise CorpusError(f"line {number}: {error}") from error
            for line, row, scores in zip(lines, rows, log_probabilities(model.network_, rows), strict=True):
                print(_answer(args, tokenizer, line, row[1:], scores))
            sys.stdout.flush()
    if not number:
        source = "standard input" if args.file == "-" else repr(args.file)
        raise CorpusError(f"{source} is empty, expected at least one line to score.")


def _answer(args: Arguments, tokenizer: Tokenizer, line: bytes, ids: np.ndarray, scores: np.ndarray) -> str:
    """What is printed for one line."""
    oov = ids == tokenizer.unknown
    total = float(scores.mean() if args.normalize else scores.sum())
    if args.json:
        values: dict[str, Any] = {
            "log_probability": total, "tokens": len(ids), "oov": int(oov.sum())
        }
        if args.per_token:
            tokens = _tokens(tokenizer, line, ids, printable=False)
            values["scores"] = list(zip(tokens, scores.tolist(), oov.tolist(), strict=True))
        return json.dumps(values)
    if args.per_token:
        tokens = _tokens(tokenizer, line, ids, printable=True)
        return "".join(f"{token}\t{score:.6f}\t{unknown:d}\n"
                       for token, score, unknown in zip(tokens, scores, oov, strict=True))
    return f"{total:.6f}"


def _tokens(tokenizer: Tokenizer, line: bytes, ids: np.ndarray, printable: bool) -> list[str]:
    """The tokens by their printable names, or the text that is complete with each; unknown ones as the line has them."""
    if printable:
        tokens = [tokenizer.symbol(id) for id in ids.tolist()]
    else:
        decoder = tokenizer.stream_decoder()
        tokens = [decoder(id).removeprefix(tokenizer.separator) for id in ids.tolist()]
    unknown = tokenizer.unknown_symbols(line.decode("utf-8", "replace"))
    places = np.flatnonzero(ids == tokenizer.unknown)
    if len(places) == len(unknown):  # else the line holds a literal <unk>
        for place, (_, symbol) in zip(places, unknown, strict=True):
            tokens[place] = repr(symbol)[1:-1] if printable and not symbol.isprintable() else symbol
    return tokens


def _generate(args: Arguments) -> None:
    expect_number("samples", args.samples, 1, whole=True)
    options = _given(args, SamplingConfig)
    if args.samples > 1 and options.get("temperature") == 0:
        args.usage_error("--samples with --temperature 0 writes the same text each time; leave one of them out")
    if args.prompt is not None and args.prompt_flag is not None:
        args.usage_error("the prompt is given twice, as PROMPT and with --prompt; leave one of them out")
    prompt = _prompt(args.prompt or args.prompt_flag or "")
    model = _load(args, args.model)
    if args.samples > 1:
        texts = model.generate([prompt] * args.samples, **options, unknown=args.unknown)
        print("\n\n".join(prompt + text for text in texts))
        return
    pieces = model.stream(prompt, **options, unknown=args.unknown)
    print(prompt, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print(flush=True)


def _info(args: Arguments) -> None:
    if args.model is None:
        _table({
            "numba-rnnlm": __version__,
            "Python": platform.python_version(),
            "NumPy": version("numpy"),
            "Numba": f"{version('numba')} (llvmlite {version('llvmlite')})",
            "threads": backends.get("cpu").threads,
            "backends": ", ".join(backends.available()),
            **backends.about(),
        })
        return
    if read_about(args.model).get("kind") == "sequential":
        _table(_about_sequential(args.model))
        return
    model = LanguageModel.load(args.model, backend="cpu")
    rows = {"file": f"{args.model} ({_size(args.model)})", "weights": f"{model.parameter_count:,}"}
    if "run" in read_about(args.model):
        rows |= _about_run(read_run(args.model))
    if (tokenizer := model.tokenizer_) is not None:
        first = " ".join(f"'{tokenizer.symbol(id)}'" for id in range(min(SHOWN_SYMBOLS, tokenizer.size)))
        rows["vocabulary"] = f"{tokenizer.size:,} symbols: {first}{' ...' * (tokenizer.size > SHOWN_SYMBOLS)}"
    if model.history_["epoch"]:
        last = {column: values[-1] for column, values in model.history_.items()}
        rows["epochs trained"] = f"{last['epoch']:.0f}"
        rows["last epoch"] = f"loss {last['loss']:.4f} nats/token"
        if isfinite(last["valid_loss"]):
            rows["last epoch"] += f", validation loss {last['valid_loss']:.4f}"
    # Nothing of the machine: a file does not depend on it.
    _table(rows | {name: value for name, value in model.get_params().items()
                   if name not in MACHINE and value is not None})


def _about_run(run: Run) -> dict[str, str]:
    """Where the training of a checkpoint stood."""
    at = run.at
    which = "the best epoch so far" if run.about["run"]["model"] == "good" else "the latest"
    optimizer = run.training.get("optimizer")
    own = isinstance(optimizer, dict) and optimizer.get("own")
    resume = f"fit(..., optimizer=..., resume={run.name!r}) in Python" if own else f"train CORPUS --resume {run.name}"
    return {
        "checkpoint": f"{run.place}; {at.updates:,} updates in {duration(at.seconds)}",
        **({"computed on": str(run.rounding)} if run.rounding else {}),
        "optimizer": _as_call(optimizer) if isinstance(optimizer, dict) else str(optimizer),
        "its model": f"{which}; {resume} continues the training" if not at.ended else which,
    }


def _about_sequential(path: Path) -> dict[str, str]:
    with open_model(path) as file:
        about, weights = file.about, file.group("weights")
    rows = {"file": f"{path} ({_size(path)})", "weights": f"{sum(array.size for array in weights.values()):,}"}
    try:
        for number, layer in enumerate(about["layers"], 1):
            rows[f"layer {number}"] = _as_call(layer)
        if (compiled := about["compiled"]) is not None:
            rows |= {"optimizer": _as_call(compiled["optimizer"]), "loss": compiled["loss"]}
            if compiled["metrics"]:
                rows["metrics"] = ", ".join(compiled["metrics"])
        rows["seed"] = str(about["seed"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(f"{str(path)!r} is damaged: its parts do not fit together.") from error
    return rows


def _as_call(thing: dict[str, Any]) -> str:
    """A layer or an optimizer as it is written in Python."""
    options = ", ".join(f"{name}={value!r}" for name, value in thing.items() if name not in ("class", "own", "rule") and value is not None)
    return f"{thing['class']}({options})"


def _warmup(args: Arguments) -> None:
    started = time.monotonic()
    machine = _machine(args)
    backend = backends.get(machine.pop("backend"), **machine).name
    folder = _expect_kernel_folder(backend)
    names = OPTIMIZERS if "all" in args.optimizers else args.optimizers
    configs = [TrainingConfig(epochs=1, optimizer=name, verbose=0) for name in names]
    if "sgd" in names:  # with momentum it is another kernel
        configs.append(TrainingConfig(epochs=1, optimizer="sgd", momentum=0.9, verbose=0))
    for cell in args.cells:
        print(f"{cell}: training, measuring, scoring and generating on {backend} ...", end=" ", file=sys.stderr, flush=True)
        begun = time.monotonic()
        _use(cell, configs, WEIGHTS if backend == "cpu" else WEIGHTS[:1], _machine(args))
        print(f"{time.monotonic() - begun:.1f} s", file=sys.stderr, flush=True)
    print(f"kernels are stored in {folder}; {time.monotonic() - started:.1f} s")


def _use(cell: str, configs: Sequence[TrainingConfig], weights: Sequence[str], machine: dict[str, Any]) -> None:
    """All that compiles a kernel, once, on models to throw away, of the default size: a GPU's kernels depend on it."""
    ids = np.arange(2 * configs[0].streams * configs[0].steps) % WARMUP_SYMBOLS
    for tied in (False, True):
        model = LanguageModel(cell, dropout=0.5, tied=tied, tokenizer=None, vocabulary_size=WARMUP_SYMBOLS, **machine)
        for config in configs:
            model.fit_config(ids, ids, config)
        model.score([ids[:2], ids[:20]])
        for kind in weights:
            model.evaluate(ids, kind)
            model.generate([ids[:1], ids[:20]], length=3, seed=0, weights=kind)


def _expect_kernel_folder(backend: str) -> str:
    """The folder for compiled kernels; a problem with it is found before minutes are spent on them."""
    if backend == "reference":
        raise BackendError("nothing was compiled: the backend reference has no kernels; choose another --backend.")
    if backends.COMPILER_IS_OFF:
        raise BackendError("nothing was compiled: NUMBA_DISABLE_JIT is set; unset it.")
    if problem := problem_of():
        raise BackendError(f"nothing was compiled, because it could not be stored: {problem}; set NUMBA_CACHE_DIR to a folder "
                           "that you can write.")
    notice.silence()
    return str(cache_folder())


def _demo(args: Arguments) -> None:
    expect_number("seconds", args.seconds, 0, open_low=True)
    _expect_writable(args.out)
    demo.run(args.out, args.seconds, **_machine(args))


# what they share


def _machine(args: Arguments) -> dict[str, Any]:
    return {"backend": args.backend, "threads": args.threads, "precision": args.precision or "float32"}


def _load(args: Arguments, path: Path) -> LanguageModel:
    """A saved model that knows text."""
    model = LanguageModel.load(path, **_machine(args))
    _tokenizer(model)
    return model


def _tokenizer(model: LanguageModel) -> Tokenizer:
    if model.tokenizer_ is None:
        raise ConfigError("the model was trained on ids and has no tokenizer, the command line reads text; "
                          "use LanguageModel.load in Python.")
    return model.tokenizer_


def _expect_writable(out: Path, sources: Sequence[Path | None] = (), flag: str = "--out") -> None:
    """Find out before the training, not after it, that the model cannot be saved."""
    for source in sources:
        if source is not None and (out == source or (source.exists() and out.exists() and out.samefile(source))):
            raise ModelFileError(f"{flag} is {str(out)!r}, which is another file of this command; give it a name of its own.")
    if out.is_dir():
        raise ModelFileError(f"{flag} is {str(out)!r}, a folder; expected the name of a file, such as model.npz.")
    if out.exists():
        try:
            read_about(out)
        except ModelFileError as error:
            raise ModelFileError(f"{flag} is {str(out)!r}, a file that is there and is not a model of this numba_rnnlm; "
                                 "it is not overwritten. Give the model another name.") from error
    try:
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise ModelFileError(f"cannot write {str(out)!r}: {error.strerror}. "
                             "Choose a folder that exists and can be written.") from error


def _opened(name: str) -> Any:
    if name == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return open(name, "rb")
    except OSError as error:
        raise CorpusError(f"cannot read {name!r}: {error.strerror}.") from error


def _arriving_lines(file: BinaryIO) -> Iterator[list[bytes]]:
    """The lines that are there, without waiting for more: a slow pipe gets its answers promptly."""
    rest = b""
    while chunk := file.read1(CHUNK):  # type: ignore[attr-defined]
        *lines, rest = (rest + chunk).split(b"\n")
        yield lines
    if rest:
        yield [rest]


def _prompt(text: str) -> str:
    """The prompt, which ``-`` reads from standard input."""
    try:
        if text == "-":
            return sys.stdin.buffer.read().decode("utf-8")
        text.encode("utf-8")
    except UnicodeError as error:
        raise VocabularyError(f"the prompt is not UTF-8: {error}.") from error
    return text


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.2f} MB"


def _table(rows: dict[str, Any]) -> None:
    width = max(map(len, rows)) + 2
    for name, value in rows.items():
        print(f"{name:{width}}{value}")
