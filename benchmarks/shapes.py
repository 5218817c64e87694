"""The models of the benchmarks, and how many operations a token takes."""

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

GATES = {"lstm": 4, "gru": 3, "tanh": 1, "relu": 1}


class Shape(NamedTuple):
    """Vocabulary, embedding, hidden units, layers, streams, steps."""

    vocabulary: int
    embedding: int
    hidden: int
    layers: int
    streams: int
    steps: int

    def multiply_adds(self, cell: str) -> int:
        """Multiply-adds of the forward pass for one token: the number of elements of the recurrent and output matrices."""
        inputs = self.embedding + self.hidden * (self.layers - 1)
        recurrent = GATES[cell] * self.hidden * (inputs + self.hidden * self.layers)
        return recurrent + self.hidden * self.vocabulary

    def flops(self, cell: str) -> float:
        """Floating-point operations of one training step: 6 per multiply-add and token."""
        return 6.0 * self.multiply_adds(cell) * self.streams * self.steps


SHAPES = {
    "tiny": Shape(65, 16, 64, 1, 16, 32),
    "char": Shape(65, 64, 128, 2, 50, 50),
    "char512": Shape(65, 64, 512, 2, 50, 50),
    "zaremba-small": Shape(10_000, 200, 200, 2, 20, 20),
    "zaremba-medium": Shape(10_000, 650, 650, 2, 20, 35),
}


class Row(NamedTuple):
    """One model of a benchmark."""

    name: str
    cell: str
    shape: Shape

    def request(self, task: str, **more: Any) -> dict[str, Any]:
        """The request that makes a worker check and time this model."""
        return {"task": task, "cell": self.cell, **self.shape._asdict(), **more}

    def about(self) -> dict[str, Any]:
        """The description of this model in the result file."""
        return {"row": self.name, "cell": self.cell, "shape": self.shape._asdict()}


def model_flags(flags: argparse.ArgumentParser, rows: Sequence[str] = tuple(SHAPES)) -> None:
    """Add the flags --rows, --shape and --cells."""
    flags.add_argument("--rows", nargs="*", default=list(rows), choices=list(SHAPES), help="named models")
    flags.add_argument("--shape", action="append", default=[],
                       help="another model, in place of the named ones: vocabulary,embedding,hidden,layers,streams,steps; may be repeated")
    flags.add_argument("--cells", nargs="*", default=["lstm"], choices=list(GATES), help="cells, each measured with every model")


def chosen(options: argparse.Namespace) -> list[Row]:
    """The models that the flags select."""
    shapes = {text: Shape(*(int(number) for number in text.split(","))) for text in options.shape}
    shapes = shapes or {name: SHAPES[name] for name in options.rows}
    return [Row(name, cell, shape) for name, shape in shapes.items() for cell in options.cells]
