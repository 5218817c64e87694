"""The reports of a language model's training: a history, lines, a log."""

from math import nan

from ..progress import Progress, duration
from .history import COLUMNS, History, Row, perplexity
from .log import Log
from .loop import Trainer, Watcher


class Reports(Watcher):
    """Notes each report in a history and a log, shows it, and a live line between reports.

    Parameters
    ----------
    history
        Gets a row for each report.
    progress
        Where lines are shown.
    log
        A file of reports, or None.
    """

    def __init__(self, history: History, progress: Progress, log: Log | None = None) -> None:
        self.history, self.progress, self.log = history, progress, log

    def end_batch(self, trainer: Trainer) -> None:
        if self.progress.due():
            self.progress.show(_live(trainer))

    def report(self, trainer: Trainer, row: Row, improved: bool) -> None:
        named = columns(row)
        for column, value in named.items():
            self.history[column].append(value)
        self.progress.line(_line(trainer, named, improved))
        if self.log is not None:
            self.log.write({**named, "updates": row["updates"]})

    def note(self, trainer: Trainer, text: str) -> None:
        self.progress.line(text)

    def end(self, trainer: Trainer) -> None:
        if trainer.stopped:
            self.progress.line(f"stopped: {trainer.stopped}{trainer.outcome()}")


def columns(row: Row) -> dict[str, float]:
    """A report by the columns of a history; NaN where nothing was measured."""
    found = {**row, "perplexity": perplexity(row["loss"])}
    if "val_loss" in row:
        found |= {"valid_loss": row["val_loss"], "valid_perplexity": perplexity(row["val_loss"])}
    return {column: found.get(column, nan) for column in COLUMNS}


def _live(trainer: Trainer) -> str:
    at, epochs, limit = trainer.at, trainer.epochs, trainer.config.max_seconds
    part = at.batch / trainer.task.batches_per_epoch
    left = at.seconds / max(1e-9, at.epoch - 1 + part) * (epochs - at.epoch + 1 - part)
    if limit is not None:
        left = min(left, limit - at.seconds)
    loss = at.nats / max(at.tokens, 1)
    return (f"{_numbered(trainer, at.epoch)}  {part:4.0%}  loss {loss:.4f}  perplexity {_brief(perplexity(loss))}  "
            f"{at.tokens / max(at.epoch_seconds, 1e-9):,.0f} tokens/s  {duration(left)} left")


def _line(trainer: Trainer, row: Row, improved: bool) -> str:
    text = f"{_numbered(trainer, row['epoch'] - trainer.at.trained)}  loss {row['loss']:.4f}  perplexity {_brief(row['perplexity'])}"
    if trainer.task.measures:
        text += f"  valid loss {row['valid_loss']:.4f}  perplexity {_brief(row['valid_perplexity'])}"
        text += " *" if improved else "  "
    return f"{text}  {row['tokens_per_second']:,.0f} tokens/s  {row['seconds']:.1f} s"


def _numbered(trainer: Trainer, epoch: float) -> str:
    number = f"epoch {epoch:.{2 * (epoch % 1 > 0)}f}"
    return number if trainer.config.max_seconds else f"{number}/{trainer.epochs}"


def _brief(value: float) -> str:
    """A perplexity for a line: that of a diverging training may have a hundred digits."""
    return f"{value:.2f}" if value < 1e7 else f"{value:.3g}"
