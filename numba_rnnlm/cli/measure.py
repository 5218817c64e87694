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
    config_flags,
    given,
    machine_flags,
    model_argument,
    text_arguments,
    with_flags,
)

OOV = {"count": "", "exclude": ", left out", "penalize": ", penalized"}  # tokens that are not in the vocabulary


def add_eval(commands: Any) -> None:
    command = add_command(
        commands, "eval", evaluate, "measure how well a model predicts a text",
        "Measure how well a model predicts a text: perplexity, bits per character and per byte. Every token but the "
        "first counts,\nline ends included (with --bos the first one too, as in score); a symbol that the model does not know "
        "is scored as\n<unk>, unless --unknown says otherwise. The text is read as a whole: unlike score, eval does not start again with each line.",
        """examples:
  numba-rnnlm eval model.npz test.txt
  numba-rnnlm eval model.npz test.txt.gz --json
  cat test-*.txt | numba-rnnlm eval model.npz -
  numba-rnnlm eval model.npz test.txt --weights int8    what generate --weights int8 costs""",
    )
    model_argument(command)
    text_arguments(command, "corpus", "CORPUS", "text to measure on")
    command.add_argument("--weights", type=str.lower, choices=WEIGHTS, default="float32",
                         help="int8: how well the rounded weights do that generate --weights int8 reads (default: float32)")
    command.add_argument("--bos", action="store_true",
                         help="the text follows a line end, so that its first token counts too, as in score (default: no)")
    command.add_argument("--json", action="store_true", help="print one JSON object")
    config_flags(command.add_argument_group("unknown symbols"), UnknownConfig)
    machine_flags(command)


def add_score(commands: Any) -> None:
    command = add_command(
        commands, "score", score, "log-probability of each line of a text",
        "Print the log-probability of each line, in nats: the line alone, after a line end, its own line end included.\n"
        "So exp(-score / tokens) is the perplexity that eval --bos finds for a file with this line alone. Unknown symbols are scored as <unk>, unless\n"
        "--unknown says otherwise, and a line on standard error tells how many there were.",
        """examples:
  numba-rnnlm score model.npz sentences.txt
  echo 'to be or not to be' | numba-rnnlm score model.npz --per-token
  numba-rnnlm score model.npz candidates.txt --normalize | paste - candidates.txt | sort -g
  numba-rnnlm score model.npz candidates.txt --counts --unknown penalize""",
    )
    model_argument(command)
    text_arguments(command, "file", "FILE", "lines, on standard input if left out", nargs="*")
    kind = command.add_mutually_exclusive_group()
    kind.add_argument("--per-token", action="store_true",
                      help="a line for each token: token, log-probability and 1 if it is not in the vocabulary, "
                           "between tabs; an empty line after each sentence")
    kind.add_argument("--normalize", action="store_true", help="divide by the number of tokens")
    command.add_argument("--counts", action="store_true",
                         help="behind each score, between tabs: the number of tokens it is of, and how many tokens are not in the vocabulary "
                              "(--json always has them)")
    command.add_argument("--json", action="store_true", help="print one JSON object a line; its tokens are the text that is complete with each of them")
    config_flags(command.add_argument_group("unknown symbols"), UnknownConfig)
    machine_flags(command)


def evaluate(args: Arguments) -> None:
    found = load(args, args.model).evaluate(texts_of(args, args.corpus), args.weights, args.bos, **given(args, UnknownConfig))
    if args.json:
        values: dict[str, Any] = {
            "perplexity": found.perplexity if isfinite(found.perplexity) else None,  # JSON knows no infinity
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
        "out of vocabulary" + OOV[found.unknown]: f"{found.oov:,}",
    })


def decimals(value: float | None, digits: int) -> str:
    return "no" if value is None else f"{value:.{digits}f}"


def score(args: Arguments) -> None:
    if args.per_token and args.counts:
        args.usage_error("--counts has a number for each line and --per-token lines for each token; leave one of them out")
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
    if told := tally.told(policy):
        report(f"numba-rnnlm: {with_flags(told)}\n", sys.stderr)


@dataclass
class Tally:
    """What has been scored, and how much of it was not in the vocabulary."""

    lines: int = 0
    tokens: int = 0
    concerned: int = 0
    symbols: Counter[str] = field(default_factory=Counter)
    suspected: bool = False  # whether the first unknown symbol has been looked at for a wrong encoding
    explained: bool = False  # whether that was the reason, and a warning has said so

    def add(self, row: Sentence, times: int) -> None:
        """Count a line that occurred ``times`` times."""
        self.lines += times
        self.tokens += times * (len(row.ids) - 1)
        if missing := row.missing:
            self.concerned += times
            for symbol in missing:
                self.symbols[symbol] += times

    def told(self, policy: UnknownConfig) -> str:
        """A sentence about unknown symbols; empty if there were none."""
        if not self.symbols:
            return ""
        treated = {"count": "were scored as <unk>, which may be more probable than they are", "exclude": "were left out",
                   "penalize": f"were penalized by {policy.nats_per_character:.3f} nats a character"}
        advice = {"count": "; --counts shows how many each line has, unknown='exclude' leaves them out, unknown='penalize' adds what spelling "
                           "them would cost"}
        advised = "" if self.explained else advice.get(policy.unknown, "")
        return (f"tokens that are not in the vocabulary, {self.symbols.total():,} of {self.tokens:,}, in {self.concerned:,} of "
                f"{self.lines:,} lines, {treated[policy.unknown]}: {most_frequent(self.symbols)}{advised}.")


def _answer(args: Arguments, tokenizer: Tokenizer, row: Sentence, scores: np.ndarray, counted: np.ndarray) -> str:
    """What is printed for one line, of whose tokens those that are ``counted`` have ``scores``."""
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
    """The tokens that are counted by their printable names, or the text that is complete with each; unknown ones as the line has them."""
    ids = row.ids.tolist()
    if printable:
        names = row.named([tokenizer.symbol(id) for id in ids])
        names = [name if name.isprintable() else repr(name)[1:-1] for name in names]
    else:
        decoder = tokenizer.stream_decoder()
        decoder(ids[0])
        names = row.named(["", *(decoder(id).removeprefix(tokenizer.separator) for id in ids[1:])])
    return list(compress(names[1:], counted))
