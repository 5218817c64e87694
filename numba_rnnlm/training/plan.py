"""What is chosen where epochs, streams or steps are left out: from the number of tokens alone, so the same on every machine.

With r = √tokens there are 50 steps (r, if that is less), r / 40 streams (1 to 100) and 10 epochs: fewer above a million tokens (10,000 / r, at
least 1), which keeps the time in bounds, and more below 2,500 (500 / r), which makes 500 updates. A text 100 times as long has 10 times as many
updates an epoch, of 10 times as many tokens.

Why so: what a short text lacks is updates, and a small gradient of a few hundred tokens serves a young model as well as one of 2,500. But updates
cannot be had from more epochs: on held-out text up to 100 KB, by character, byte and word, 5 epochs learned clearly less than 10, and 20 gained
little or lost, for by then the text is learned by heart. At 10 the last epoch is about as good as the best, with or without validation.
``python -m benchmarks.defaults`` compares this with settings that do not look at the text.
"""

from math import isqrt

from ..config import TrainingConfig
from ..errors import plain

STEPS = 50  # long enough for a sentence; more cost memory and updates
TOKENS = 1.25  # tokens of an update, in units of √tokens
MOST_STREAMS = 100
EPOCHS = 10
LONG, SHORT = 1000, 50  # √tokens of the texts above and below which it is another number of epochs
FEW = 1000  # updates: a run of fewer gets a note

OPEN = ("epochs", "streams", "steps")  # the fields that may be left out


class Plan(TrainingConfig):
    """A training in which nothing is left open."""

    epochs: int
    streams: int
    steps: int


def plan(config: TrainingConfig, tokens: int) -> Plan:
    """The training that ``config`` means for a text of ``tokens`` tokens; what it gives itself stays as it is.

    Examples
    --------
    >>> chosen = plan(TrainingConfig(), tokens=1_000_000)
    >>> chosen.epochs, chosen.streams, chosen.steps
    (10, 25, 50)
    >>> plan(TrainingConfig(steps=25, epochs=3), tokens=1_000_000).streams
    50
    """
    root = max(1, isqrt(tokens))
    steps = config.steps or min(STEPS, root)
    streams = config.streams or min(max(1, int(TOKENS * root) // steps), MOST_STREAMS)
    epochs = config.epochs or max(EPOCHS * SHORT // root, min(EPOCHS, EPOCHS * LONG // root), 1)
    return Plan(**{**config.to_dict(), "epochs": epochs, "streams": streams, "steps": steps})


def told(config: TrainingConfig, chosen: Plan, tokens: int, updates: int) -> list[str]:
    """Lines for the user: the plan, and a note where its updates are few."""
    left_open = [name for name in OPEN if getattr(config, name) is None]
    by = f" ({', '.join(left_open)} chosen from the size of the text)" if left_open else ""
    rows = f"streams {chosen.streams}, steps {chosen.steps}"
    if config.max_seconds is None:
        lines = [f"{tokens:,} tokens: epochs {chosen.epochs}, {rows}, {updates:,} updates{by}"]
    else:
        lines = [f"{tokens:,} tokens: {plain(config.max_seconds)} seconds, at most {chosen.epochs:,} epochs, {rows}{by}"]
    if updates < FEW and len(left_open) == len(OPEN):
        lines.append(f"note: only {updates:,} updates, because the text is short; a good model usually needs a few thousand")
    elif updates < FEW:
        lines.append(f"note: only {updates:,} update{'s' * (updates != 1)}; a good model usually needs a few thousand: give more epochs, or fewer streams or steps")
    return lines
