"""What a training has come to, report by report."""

from collections.abc import Mapping
from math import exp, inf, isfinite, nan
from typing import Any

History = dict[str, list[float]]
Row = Mapping[str, float]  # one report, by columns

COLUMNS = ("epoch", "loss", "perplexity", "valid_loss", "valid_perplexity", "learning_rate", "gradient_norm",
           "tokens", "tokens_per_second", "seconds")
CLOCK_COLUMNS = ("tokens_per_second", "seconds")  # these differ between two equal trainings
MOST_EPOCHS = 2**53  # a float still holds it exactly


def perplexity(nats: float) -> float:
    """exp(nats), infinity where that overflows."""
    return exp(nats) if nats < 700 else inf


def new_history() -> History:
    """An empty history: a list per column, an entry per report."""
    return {column: [] for column in COLUMNS}


def history_about(history: History, clock: bool = False) -> dict[str, list[float | None]]:
    """A history for a file's header; without the ``clock``, so that equal trainings are equal."""
    columns = (column for column in history if clock or column not in CLOCK_COLUMNS)
    return {column: [number(value) for value in history[column]] for column in columns}


def read_history(saved: Any) -> History:
    """A history out of a header, whose columns it takes away; empty if it has none; NaN where a column or a value is left out.

    Raises
    ------
    ValueError
        If it is no table of the columns of a history.
    """
    history = new_history()
    if saved is None or saved == {}:
        return history
    if not isinstance(saved, dict):
        raise ValueError(f"the history is a {type(saved).__name__}, expected columns by their names")
    if foreign := sorted(set(saved) - set(history)):
        raise ValueError(f"the history has a column {foreign[0]!r}, expected some of {', '.join(history)}")
    if "epoch" not in saved:
        raise ValueError("the history has no column 'epoch'")
    for column, values in saved.items():
        if not isinstance(values, list) or len(values) != len(saved["epoch"]):
            raise ValueError(f"column {column!r} of the history is not a list as long as that of the epochs")
        if any(type(value) not in (int, float, type(None)) for value in values):
            raise ValueError(f"column {column!r} of the history holds something other than numbers")
    if not all(isinstance(epoch, (int, float)) and 0 <= epoch <= MOST_EPOCHS for epoch in saved["epoch"]):
        raise ValueError("the epochs of the history are not numbers of epochs")
    left_out = [None] * len(saved["epoch"])
    return {column: [nan if value is None else float(value) for value in saved.pop(column, left_out)] for column in history}


def number(value: float) -> float | None:
    """A number for JSON, which has neither NaN nor infinity."""
    return float(value) if isfinite(value) else None
