"""What Sequential.compile is told: optimizer, loss, metrics."""

from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError
from ..layers import Layer
from ..optimizers import Optimizer

LOSSES = {  # → the activation of the last layer that each belongs to
    "categorical_crossentropy": "softmax",
    "sparse_categorical_crossentropy": "softmax",
    "binary_crossentropy": "sigmoid",
}
TARGETS = {"softmax": "ids", "sigmoid": "numbers"}  # of the head
METRICS = {"accuracy": None, "acc": None, "binary_accuracy": "sigmoid"}  # → the activation that some of them need


@dataclass(frozen=True)
class Compiled:
    """What Sequential.compile was told."""

    optimizer: Optimizer
    loss: str
    metrics: tuple[str, ...]

    def check(self, last: Layer) -> None:
        """Raise :class:`ConfigError` unless the loss belongs to this last layer."""
        activation, head = LOSSES[self.loss], last.head()
        if head is None or head.targets != TARGETS[activation]:
            raise ConfigError(f"loss={self.loss!r} needs a last layer Dense(..., activation={activation!r}), "
                              f"the last layer is {last!r}.")
        for metric in self.metrics:
            if METRICS[metric] not in (None, activation):
                raise ConfigError(f"metric {metric!r} is of a last layer with activation={METRICS[metric]!r}, this one has "
                                  f"{activation!r}; expected 'accuracy'.")


def hits(metric: str, logits: np.ndarray, targets: np.ndarray) -> float:
    """The sum of a metric over all rows of logits (M, F); targets are ids (M), or numbers (M, F)."""
    if targets.dtype.kind == "i":
        return float((logits.argmax(-1) == targets).sum())
    if metric == "binary_accuracy" or logits.shape[-1] == 1:  # a probability above 1/2 is a logit above 0
        return float(((logits > 0) == targets).mean(-1).sum())
    return float((logits.argmax(-1) == targets.argmax(-1)).sum())
