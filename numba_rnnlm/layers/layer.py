"""The contract of a layer: tables of shapes, two verbs, and answers to what others may ask of it. Nothing is stored on a layer."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from ..backends.ops import Array, Ops, Shape
from ..portable import stream_key

Arrays = Mapping[str, Array]


class Run:
    """The arrays that a layer works with in one pass, by their short names.

    Parameters
    ----------
    p, g
        Weights and their gradients.
    a
        Activations, and the gradients that backward returns.

    Attributes
    ----------
    m
        State ("memory") carried from segment to segment.
    key
        Of the random numbers of this layer in this step; None when not training.
    memo
        What ``forward`` notes for ``backward``, other than arrays.
    """

    def __init__(self, p: Arrays, g: Arrays, a: Arrays, written: set[int] | None = None) -> None:
        self.p, self.g, self.a = p, g, a
        self.m: Arrays = {}
        self.key: int | None = None
        self.memo: dict[str, Any] = {}
        self.written = set() if written is None else written  # gradients of this step, by identity; one set for all layers of a network
        self._parts: dict[str, Run] = {}
        self._state: Arrays | None = None  # the state of the whole run, from which m was taken

    def part(self, name: str) -> "Run":
        """The arrays of the layer of this name within this one."""
        if name not in self._parts:
            self._parts[name] = Run(below(self.p, name), below(self.g, name), below(self.a, name), self.written)
        return self._parts[name]

    def begin(self, name: str, index: int) -> "Run":
        """:meth:`part` at the start of a pass: with its state, and as number ``index`` with random numbers of its own."""
        part = self.part(name)
        if part._state is not self.m:  # mostly it is the state of the step before
            part._state, part.m = self.m, below(self.m, name)
        part.key = None if self.key is None else stream_key(self.key, index)
        return part

    def adds(self, ops: Ops, *names: str) -> bool:
        """Whether the gradients of these weights are to be added to. The first layer that writes one in a step sets it, every later one adds.

        Those that are the first to be written beside others that are not are filled with zeros.
        """
        gradients = {id(self.g[name]): self.g[name] for name in names if name in self.g}
        adds = not self.written.isdisjoint(gradients)
        if adds:
            for key in gradients.keys() - self.written:
                ops.fill(gradients[key], 0)
        self.written.update(gradients)
        return adds


class Head:
    """What a loss asks of the last layer: to make scores out of vectors, and all else that depends on the vocabulary. It works with that layer's :class:`~.layer.Run`, on M = T·N vectors x (…, D).

    Attributes
    ----------
    symbols
        V, the number of scores of a vector.
    targets
        "ids" (M), of which -1 is not counted, or "numbers" (M, V).
    """

    symbols: int
    targets: ClassVar[str]

    def loss_activations(self, shape: Shape, training: bool) -> dict[str, Shape]:
        """Names and shapes of the arrays that ``losses`` and, when training, ``losses_backward`` write, for x of this shape."""
        return {"dx": shape} if training else {}

    def losses(self, ops: Ops, run: Run, x: Array, targets: Array, out: Array) -> None:
        """out (M) ← the loss of each vector, in nats"""
        raise NotImplementedError(f"{type(self).__name__} has no method losses(ops, run, x, targets, out)")

    def losses_backward(self, ops: Ops, run: Run, x: Array, targets: Array, scale: float, out: Array) -> Array:
        """The same, and the gradients of scale · Σ losses; → dx"""
        raise NotImplementedError(f"{type(self).__name__} has no method losses_backward(ops, run, x, targets, scale, out)")

    def scores(self, ops: Ops, run: Run, x: Array, out: Array) -> None:
        """out (…, V) ← logits, for drawing and for accuracy"""
        raise NotImplementedError(f"{type(self).__name__} has no method scores(ops, run, x, out)")


class Layer:
    """What the library may ask of a layer. ``shape`` is always the shape of the layer's input.

    (T, N) ids, (T, N, D) a sequence of vectors, or (N, D) one vector a stream. A layer is a frozen dataclass; it overrides what it has.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Twice(Layer):
    ...     def activations(self, shape, training):
    ...         return {"y": shape}
    ...     def forward(self, ops, run, x):
    ...         ops.copy(x, run.a["y"])
    ...         ops.add(x, run.a["y"])
    ...         return run.a["y"]
    ...     def backward(self, ops, run, x, dy):
    ...         ops.add(dy, dy)
    ...         return dy
    >>> Twice().output((20, 32, 64)), Twice().parameters((20, 32, 64))
    ((20, 32, 64), {})
    """

    # Tables

    def output(self, shape: Shape) -> Shape:
        """Shape of the output."""
        return shape

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        """Names and shapes of the weights; T and N do not matter."""
        return {}

    def state(self, shape: Shape) -> dict[str, Shape]:
        """Names and shapes of what is carried from one segment to the next; the first axis is the stream."""
        return {}

    def activations(self, shape: Shape, training: bool) -> dict[str, Shape]:
        """Names and shapes of the arrays that the verbs write."""
        return {}

    def initialize(self, shape: Shape, random: np.random.Generator) -> dict[str, np.ndarray]:
        """Starting values of the weights, float64."""
        return {}

    # Verbs

    def forward(self, ops: Ops, run: Run, x: Array) -> Array:
        """x → y"""
        raise NotImplementedError(f"{type(self).__name__} has no method forward(ops, run, x)")

    def backward(self, ops: Ops, run: Run, x: Array, dy: Array) -> Array | None:
        """dy → dx (None where the input is ids); run.g ← gradients of the weights. May overwrite dy.

        A gradient is set or added to, as :meth:`Run.adds` says.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method backward(ops, run, x, dy)")

    # Answers

    @property
    def kind(self) -> str:
        """The layer's name in files and summaries; of several of one kind, the later ones are numbered."""
        return type(self).__name__.lower()

    @property
    def ids(self) -> int | None:
        """Of a layer that takes ids, and so can only be the first one: how many there are. None if it takes vectors."""
        return None

    @property
    def steps(self) -> int | None:
        """T, if the layer takes sequences of one length only."""
        return None

    @property
    def causal(self) -> bool:
        """Whether no output depends on later steps, so that the layer works in a language model, and in a stream step by step."""
        return all(layer.causal for layer in self.within().values())

    @property
    def why_not_causal(self) -> str:
        """What a language model says of a layer that is not causal."""
        inner = next((layer for layer in self.within().values() if not layer.causal), None)
        return inner.why_not_causal if inner is not None else "sees later steps, which a language model is to predict; use it in a Sequential"

    @property
    def flattens(self) -> bool:
        """Whether the size of the output vectors depends on T, so that all sequences must have the same length."""
        return any(layer.flattens for layer in self.within().values())

    def within(self) -> Mapping[str, "Layer"]:
        """The layers that this one is made of, by what the names of their weights begin with."""
        return {}

    def matrices(self) -> tuple[str, ...]:
        """The names of the weights that are factors of matrix products: these are rounded to int8."""
        return ()

    def ties(self, shape: Shape) -> dict[str, Shape]:
        """Names of weights that are the first layer's table instead of the layer's own, and the shape (V, D) that the table must have."""
        return {}

    def table(self, shape: Shape) -> Shape | None:
        """(V, D) of a layer whose outputs are rows of its weight ``W`` (V, D), looked up by ids of this shape; None of any other."""
        return None

    def vectors(self, ops: Ops, p: Arrays) -> Array | None:
        """The vectors (V, D) of all ids, of a layer whose output at a place depends on the id there and on nothing else; None of any other.

        They are computed once for each version of the weights, and looked up wherever nothing is learned.
        """
        return None

    def over(self, lower: "Layer", names: tuple[str, str], shape: Shape) -> "Layer | None":
        """A layer that does the work of ``lower``, whose input has this shape, and of this one above it, if that is cheaper.

        ``names`` are those of both: the arrays of the new layer are named as theirs.
        """
        return None

    def head(self) -> Head | None:
        """The layer as the last one under a loss, if it can be that."""
        return None


def below(arrays: Arrays, name: str) -> dict[str, Array]:
    """The arrays of the layer of this name, by their short names.

    Examples
    --------
    >>> below({"lstm/W": 1, "lstm/b": 2, "lstm_1/W": 3}, "lstm")
    {'W': 1, 'b': 2}
    """
    start = f"{name}/"
    return {key[len(start) :]: array for key, array in arrays.items() if key.startswith(start)}


def above(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The opposite of :func:`below`: the values by names that begin with the layer's."""
    return {f"{name}/{key}": value for key, value in values.items()}


def walk(layers: Iterable[Layer]) -> Iterator[Layer]:
    """These layers and all within them."""
    for layer in layers:
        yield layer
        yield from walk(layer.within().values())
