"""``numba-rnnlm eval`` and ``numba-rnnlm score``."""

import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from itertools import compress
from math import isfinite
from typing import Any

import numpy as np

from ..config import WEIGHTS, UnknownConfig
from ..errors import CorpusError
from ..reports import report, warn
from ..scoring import judge, log_probabilities
from ..text import Sentence, Tokenizer, encode_sentence, hints, most_frequent
from .files import load, show_table, texts_of, tokenizer_of
from .flags import (
    Arguments,
    add_command,
    backend_flags,
    config_flags,
    given,
    model_argument,
    text_arguments,
    with_flags,
)

OOV = {"count": "", "exclude": ", left out", "penalize": ", penalized"}  # how each policy treats tokens outside the vocabulary


def add_eval(commands: Any) -> None:
    command = add_command(
        commands, "eval", evaluate, "measure how well a model predicts a text",
        "Measure how well a model predicts a text: perplexity, bits per character and per byte. Every token but the first counts,\n"
        "newlines included (with --bos the first one too, as in score). Unknown symbols are scored as <unk>, unless --unknown\n"
        "changes that. The text is read as a whole: unlike score, eval does not start again at each line.",
        """examples:
  numba-rnnlm eval model.npz test.txt
  numba-rnnlm eval model.npz test.txt.gz --json
  cat test-*.txt | numba-rnnlm eval model.npz -
  numba-rnnlm eval model.npz test.txt --weights int8    measures what generate --weights int8 loses""",
    )
    model_argument(command)
    text_arguments(command, "corpus", "CORPUS", "text to evaluate on")
    command.add_argument("--weights", type=str.lower, choices=WEIGHTS, default="float32",
                         help="int8 evaluates with the rounded weights that generate --weights int8 uses (default: float32)")
    command.add_argument("--bos", action="store_true",
                         help="put a newline before the text, so that its first token counts too, as in score (default: no)")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    config_flags(command.add_argument_group("unknown symbols"), UnknownConfig)
    backend_flags(command)


def add_score(commands: Any) -> None:
    command = add_command(
        commands, "score", score, "print the log-probability of each line of a text",
        "Print the log-probability of each line in nats. Each line is scored on its own, preceded by a newline and including its final\n"
        "newline, so exp(-score / tokens) is the perplexity that eval --bos reports for a file with only this line. Unknown symbols are\n"
        "scored as <unk>, unless --unknown changes that; standard error reports how many there were.",
        """examples:
  numba-rnnlm score model.npz sentences.txt
  echo 'to be or not to be' | numba-rnnlm score model.npz --per-token
  numba-rnnlm score model.npz candidates.txt --normalize | paste - candidates.txt | sort -g
  numba-rnnlm score model.npz candidates.txt --counts --unknown penalize""",
    )
    model_argument(command)
    text_arguments(command, "file", "FILE", "lines to score, from standard input by default", nargs="*")
    kind = command.add_mutually_exclusive_group()
    kind.add_argument("--per-token", action="store_true",
                      help="print a line per token: the token, its log-probability, and 1 if it is not in the vocabulary (else 0), "
                           "separated by tabs; an empty line after each sentence")
    kind.add_argument("--normalize", action="store_true", help="divide by the number of tokens")
    command.add_argument("--counts", action="store_true",
                         help="print two more columns, separated by tabs: the number of scored tokens, and how many are not in the vocabulary "
                              "(--json always has them)")
    command.add_argument("--json", action="store_true", help="print one JSON object per line; each token is the text that its id completes")
    config_flags(command.add_argument_group("unknown symbols"), UnknownConfig)
    backend_flags(command)


def evaluate(args: Arguments) -> None:
    found = load(args, args.model).evaluate(texts_of(args, args.corpus), args.weights, args.bos, **given(args, UnknownConfig))
    if args.json:
        values: dict[str, Any] = {
            "perplexity": found.perplexity if isfinite(found.perplexity) else None,  # JSON has no infinity
            "nats_per_token": found.nats_per_token, "bits_per_token": found.bits_per_token,
            "bits_per_character": found.bits_per_character, "bits_per_byte": found.bits_per_byte,
            "tokens": found.tokens, "oov": found.oov, "characters": found.characters, "bytes": found.bytes, "bos": found.bos,
            "unknown": found.unknown,
        }
        print(json.dumps(values))
        return
    show_table({
        "perplexity": f"{found.perplexity:.4f}",
        "nats/token": f"{found.nats_per_token:.4f}",
        "bits/character": decimals(found.bits_per_character, 4),
        "bits/byte": f"{found.bits_per_byte:.4f}",
        "tokens" + " after the first" * (not found.bos): f"{found.tokens:,}",
        "not in the vocabulary" + OOV[found.unknown]: f"{found.oov:,}",
    })


def decimals(value: float | None, digits: int) -> str:
    return "no" if value is None else f"{value:.{digits}f}"


def score(args: Arguments) -> None:
    if args.per_token and args.counts:
        args.usage_error("--counts prints numbers per line, --per-token prints lines per token; leave one of them out")
    policy = UnknownConfig(**given(args, UnknownConfig))
    model = load(args, args.model)
    tokenizer, tally = tokenizer_of(model), Tally()
    text = texts_of(args, args.file or ["-"], again=False)
    for lines in text.lines(tokenizer.line_ends):
        counts, rows = Counter(lines), []  # equal lines have equal scores
        for line in counts:
            try:
                row = encode_sentence(tokenizer, line)
            except CorpusError as error:
                number = tally.lines + 1 + lines.index(line)
                where = text.name if text.name == "standard input" else repr(text.name)
                raise CorpusError(f"{where}, line {number}: {error} {hints.of_bytes(line)}") from error
            rows.append(row)
            if row.missing and not tally.suspected:
                tally.suspected = True
                if hint := hints.of_unknown(line, tokenizer):
                    tally.explained = True
                    warn(f"line {tally.lines + 1 + lines.index(line)} has symbols that are not in the model's vocabulary: {hint}")
        answers = {}
        for (line, times), row, scores in zip(counts.items(), rows, log_probabilities(model.network_, [row.ids for row in rows]), strict=True):
            answers[line] = _answer(args, tokenizer, row, *judge(scores, row.unknown[1:], row.spelled[1:], policy)) + "\n"
            tally.add(row, times)
        sys.stdout.writelines(map(answers.__getitem__, lines))
        sys.stdout.flush()
    if not tally.lines:
        source = text.name if text.name == "standard input" else repr(text.name)
        raise CorpusError(f"{source} is empty, expected at least one line to score.")
    if summary := tally.summary(policy):
        report(f"numba-rnnlm: {with_flags(summary)}\n", sys.stderr)


@dataclass
class Tally:
    """Counts the scored lines and tokens, and the symbols outside the vocabulary."""

    lines: int = 0
    tokens: int = 0
    affected: int = 0  # lines with unknown symbols
    symbols: Counter[str] = field(default_factory=Counter)
    suspected: bool = False  # whether the first line with unknown symbols has been checked for a wrong encoding
    explained: bool = False  # whether a warning has given that as the reason

    def add(self, row: Sentence, times: int) -> None:
        """Count a line that occurred ``times`` times."""
        self.lines += times
        self.tokens += times * (len(row.ids) - 1)
        if missing := row.missing:
            self.affected += times
            for symbol in missing:
                self.symbols[symbol] += times

    def summary(self, policy: UnknownConfig) -> str:
        """A sentence about the unknown symbols; empty if there were none."""
        if not self.symbols:
            return ""
        treated = {"count": "were scored as <unk>, which may be more probable than they are", "exclude": "were left out",
                   "penalize": f"were penalized by {policy.nats_per_character:.3f} nats per character"}
        advice = {"count": "; --counts shows how many each line has, unknown='exclude' leaves them out, unknown='penalize' adds the cost of "
                           "spelling them"}
        advised = "" if self.explained else advice.get(policy.unknown, "")
        return (f"{self.symbols.total():,} of {self.tokens:,} tokens, in {self.affected:,} of {self.lines:,} lines, are not in the vocabulary "
                f"and {treated[policy.unknown]}: {most_frequent(self.symbols)}{advised}.")


def _answer(args: Arguments, tokenizer: Tokenizer, row: Sentence, scores: np.ndarray, counted: np.ndarray) -> str:
    """The output for one line, given the ``scores`` of its ``counted`` tokens."""
    oov, unknown = int(np.count_nonzero(row.unknown[1:])), row.unknown[1:][counted]
    total = float(scores.mean() if args.normalize else scores.sum())
    if args.json:
        values: dict[str, Any] = {"log_probability": total, "tokens": len(scores), "oov": oov}
        if args.per_token:
            tokens = _tokens(tokenizer, row, counted, printable=False)
            values["scores"] = list(zip(tokens, scores.tolist(), unknown.tolist(), strict=True))
        return json.dumps(values)
    if args.per_token:
        tokens = _tokens(tokenizer, row, counted, printable=True)
        return "".join(f"{token}\t{score:.6f}\t{is_unknown:d}\n"
                       for token, score, is_unknown in zip(tokens, scores, unknown, strict=True))
    return f"{total:.6f}" + (f"\t{len(scores)}\t{oov}" if args.counts else "")


def _tokens(tokenizer: Tokenizer, row: Sentence, counted: np.ndarray, printable: bool) -> list[str]:
    """The printable names of the counted tokens, or the text that each id completes; unknown tokens are spelled as in the line."""
    ids = row.ids.tolist()
    if printable:
        names = row.named([tokenizer.symbol(id) for id in ids])
        names = [name if name.isprintable() else repr(name)[1:-1] for name in names]
    else:
        decoder = tokenizer.stream_decoder()
        decoder(ids[0])
        names = row.named(["", *(decoder(id).removeprefix(tokenizer.separator) for id in ids[1:])])
    return list(compress(names[1:], counted))
