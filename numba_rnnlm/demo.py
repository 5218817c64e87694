"""The whole job on a text that every CPython carries: train, measure, write, save; nothing is downloaded."""

import os
import shlex
import time
from typing import Any

from .config import TrainingConfig
from .errors import CorpusError, plain
from .interrupts import Interrupts
from .language_model import LanguageModel, Prepare
from .reports import report

HELD_OUT = 0.05  # part of the text that the model never sees
PROMPT = "The function "
STREAMS, STEPS = 32, 50


def documentation() -> tuple[str, str]:
    """(training text, held-out text): Python's documentation of its language, as ``help()`` shows it, without tables.

    Some topics repeat others; each paragraph is kept once, so that nothing held out was trained on.

    Raises
    ------
    CorpusError
        If this Python was built without its documentation.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise CorpusError(
            "this Python was built without its documentation (the module pydoc_data.topics), the text of the demo; "
            "use a text of your own: numba-rnnlm train FILE"
        ) from error
    lines = "\n\n".join(topics[name] for name in sorted(topics)).splitlines()
    prose = "\n".join(line.rstrip() for line in lines if not _in_table(line))
    paragraphs = filter(None, (paragraph.strip("\n") for paragraph in prose.split("\n\n")))
    text = "\n\n".join(dict.fromkeys(paragraphs)) + "\n"
    border = text.rindex("\n", 0, round(len(text) * (1 - HELD_OUT))) + 1
    return text[:border], text[border:]


def _in_table(line: str) -> bool:
    """Tables, grammars and rules: a model writes them as rows of bars and dashes, which nobody wants to read."""
    return any(mark in line for mark in ("|", "---", "===")) or 2 * line.count(" ") > len(line)


def run(
    out: str | os.PathLike[str], seconds: float, prepare: Prepare | None = None, replace_run: bool = False, **machine: Any
) -> int:
    """Train for ``seconds`` on the documentation, say how well it went, and save the model to ``out``.

    For ``prepare`` see :meth:`LanguageModel.fit_config`, for ``replace_run`` :meth:`LanguageModel.save`. ``machine`` is backend, threads and precision, as :class:`LanguageModel` takes
    them. → The number of the signal that ended the training early, 0 if there was none.
    """
    config = TrainingConfig(epochs=1000, streams=STREAMS, steps=STEPS, learning_rate=8e-3, max_seconds=seconds)
    training, held_out = documentation()
    model = _model(machine)
    report(f"text: Python's own documentation, {len(training):,} characters to train on, {len(held_out):,} held out\n")
    report(f"kernels ready after {_warm_up(_model(machine), training[: STREAMS * STEPS + 1]):.0f} s\n")
    report(f"training an LSTM for {plain(seconds)} seconds; Ctrl-C ends it early\n")
    with Interrupts("return", notice=True) as interrupts:
        model.fit_config(training, held_out, config, interrupts=interrupts, prepare=prepare)
        verb = "replaced" if os.path.exists(out) else "saved"
        model.save(out, replace_run=replace_run)

        if (measured := model.validation_) is not None:  # else it was interrupted before the first validation
            report(f"\nheld out: {measured.bits_per_character:.3f} bits/character, perplexity {measured.perplexity:.2f}\n")
        report(f"\na sample at temperature 0.7:\n\n{PROMPT}")
        for piece in model.stream(PROMPT, length=400, temperature=0.7, seed=1, unknown="unk"):
            report(piece)
    name = shlex.quote(os.fsdecode(out))
    report(f"\n\n{verb} {name} with {model.parameter_count:,} weights; next:\n"
           f"  numba-rnnlm generate {name} --prompt 'A class '\n"
           f"  numba-rnnlm eval {name} FILE\n"
           "  numba-rnnlm train FILE        on a text of your own\n")
    return interrupts.number


def _model(machine: dict[str, Any]) -> LanguageModel:
    return LanguageModel("lstm", hidden=256, layers=1, embedding=64, seed=1, **machine)


def _warm_up(model: LanguageModel, text: str) -> float:
    """Everything once, in small, on a model to throw away; → the seconds that it took."""
    started = time.monotonic()
    model.fit(text, text, epochs=1, streams=STREAMS, steps=STEPS, verbose=0)
    model.generate(length=2)
    return time.monotonic() - started
