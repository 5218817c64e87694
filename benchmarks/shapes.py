"""The models that are measured, and the arithmetic that they need."""

from typing import NamedTuple

GATES = {"lstm": 4, "gru": 3, "tanh": 1, "relu": 1}


class Shape(NamedTuple):
    """Vocabulary, embedding, hidden units, layers, streams, steps."""

    vocabulary: int
    embedding: int
    hidden: int
    layers: int
    streams: int
    steps: int

    def flops(self, cell: str) -> float:
        """Of one training step: 6 per multiply-add of the recurrent and output matrices and per token."""
        inputs = self.embedding + self.hidden * (self.layers - 1)
        recurrent = GATES[cell] * self.hidden * (inputs + self.hidden * self.layers)
        return 6.0 * (recurrent + self.hidden * self.vocabulary) * self.streams * self.steps


SHAPES = {
    "tiny": Shape(65, 16, 64, 1, 16, 32),
    "char": Shape(65, 64, 128, 2, 50, 50),
    "char512": Shape(65, 64, 512, 2, 50, 50),
    "zaremba-small": Shape(10_000, 200, 200, 2, 20, 20),
    "zaremba-medium": Shape(10_000, 650, 650, 2, 20, 35),
}
