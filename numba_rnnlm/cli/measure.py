"""``numba-rnnlm eval`` and ``numba-rnnlm score``."""

import json
import sys
from math import isfinite
from typing import Any

import numpy as np

from ..config import WEIGHTS
from ..errors import CorpusError, warn
from ..scoring import log_probabilities
from ..text import Tokenizer, hints
from .files import load, show_table, texts_of, tokenizer_of
from .flags import Arguments, add_command, machine_flags, model_argument, text_arguments


def add_eval(commands: Any) -> None:
    command = add_command(
        commands, "eval", evaluate, "measure how well a model predicts a text",
        "Measure how well a model predicts a text: perplexity, bits per character and per byte. Every token but the "
        "first counts,\nline ends included (with --bos the first one too, as in score); a symbol that the model does not know "
        "is scored as\n<unk>. The text is read as a whole: unlike score, eval does not start again with each line.",
        """examples:
  numba-rnnlm eval model.npz test.txt
  numba-rnnlm eval model.npz test.txt.gz --json
  cat test-*.txt | numba-rnnlm eval model.npz -
  numba-rnnlm eval model.npz test.txt --weights int8    what generate --weights int8 costs""",
    )
    model_argument(command)
    text_arguments(command, "corpus", "CORPUS", "text to measure on")
    command.add_argument("--weights", choices=WEIGHTS, default="float32",
                         help="int8: how well the rounded weights do that generate --weights int8 reads (default: float32)")
    command.add_argument("--bos", action="store_true",
                         help="the text follows a line end, so that its first token counts too, as in score (default: no)")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    machine_flags(command)


def add_score(commands: Any) -> None:
    command = add_command(
        commands, "score", score, "log-probability of each line of a text",
        "Print the log-probability of each line, in nats: the line alone, after a line end, its own line end included.\n"
        "So exp(-score / tokens) is the perplexity that eval --bos finds for a file with this line alone.",
        """examples:
  numba-rnnlm score model.npz sentences.txt
  echo 'to be or not to be' | numba-rnnlm score model.npz --per-token
  numba-rnnlm score model.npz candidates.txt --normalize | paste - candidates.txt | sort -g""",
    )
    model_argument(command)
    text_arguments(command, "file", "FILE", "lines, on standard input if left out", nargs="*")
    kind = command.add_mutually_exclusive_group()
    kind.add_argument("--per-token", action="store_true",
                      help="a line for each token: token, log-probability and 1 if it is not in the vocabulary, "
                           "between tabs; an empty line after each sentence")
    kind.add_argument("--normalize", action="store_true", help="divide by the number of tokens")
    command.add_argument("--json", action="store_true", help="print one JSON object a line; its tokens are the text that is complete with each of them")
    machine_flags(command)


def evaluate(args: Arguments) -> None:
    found = load(args, args.model).evaluate(texts_of(args, args.corpus), args.weights, args.bos)
    if args.json:
        values: dict[str, float | None] = {
            "perplexity": found.perplexity if isfinite(found.perplexity) else None,  # JSON knows no infinity
            "nats_per_token": found.nats_per_token, "bits_per_token": found.bits_per_token,
            "bits_per_character": found.bits_per_character, "bits_per_byte": found.bits_per_byte,
            "tokens": found.tokens, "oov": found.oov, "characters": found.characters, "bytes": found.bytes, "bos": found.bos,
        }
        print(json.dumps(values))
        return
    show_table({
        "perplexity": f"{found.perplexity:.4f}",
        "nats/token": f"{found.nats_per_token:.4f}",
        "bits/character": decimals(found.bits_per_character, 4),
        "bits/byte": f"{found.bits_per_byte:.4f}",
        "tokens" + " after the first" * (not found.bos): f"{found.tokens:,}",
        "out of vocabulary": f"{found.oov:,}",
    })


def decimals(value: float | None, digits: int) -> str:
    return "no" if value is None else f"{value:.{digits}f}"


def score(args: Arguments) -> None:
    model = load(args, args.model)
    tokenizer = tokenizer_of(model)
    end = np.array([tokenizer.line_end], np.int32)
    number, hinted = 0, False
    text = texts_of(args, args.file or ["-"], again=False)
    for lines in text.lines(tokenizer.line_ends):
        rows = []
        for line in lines:
            number += 1
            try:
                rows.append(np.concatenate([end, tokenizer.encode(line), end]))
            except CorpusError as error:
                raise CorpusError(f"line {number}: {error}") from error
            if not hinted and (rows[-1] == tokenizer.unknown).any():
                hinted = True
                if hint := hints.of_unknown(line, tokenizer):
                    warn(f"line {number} has symbols that are not in the model's vocabulary: {hint}")
        for line, row, scores in zip(lines, rows, log_probabilities(model.network_, rows), strict=True):
            print(_answer(args, tokenizer, line, row[1:], scores))
        sys.stdout.flush()
    if not number:
        source = text.name if text.name == "standard input" else repr(text.name)
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
