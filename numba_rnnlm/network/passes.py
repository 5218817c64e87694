"""The arrays of one shape of input, and the layers at work on them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from ..arena import Arena, Layout
from ..backends.ops import Array, Ops, Shape
from ..layers.layer import Arrays, Head, Layer, Run, above, below
from .graph import Graph, Mode


class Pass:
    """A graph on an input of one shape.

    Parameters
    ----------
    graph, ops
        The layers and their backend.
    parameters, gradients
        Arrays by name; the gradients are empty unless ``mode`` is "train".
    shape, mode
        Of the input; what is computed.
    buffer
        Memory for so many elements, and what they are for.
    """

    def __init__(
        self, graph: Graph, ops: Ops, parameters: Arrays, gradients: Arrays, shape: Shape, mode: Mode, buffer: Callable[[int, str], Array]
    ) -> None:
        self.graph, self.ops = graph, ops
        layout = graph.activations(shape, mode)
        activations = Arena(layout, buffer(layout.size, f"the activations of {shape[1]} streams × {shape[0]} steps"))
        size = graph.body.output(shape)
        results: dict[str, Shape] = {}
        if mode == "score":
            results["scores"] = (size[-2], graph.head.symbols)
        elif mode in ("loss", "train"):
            results["losses"] = (prod(size[:-1]),)
        found = Layout(results)
        self.results = Arena(found, ops.empty((found.size,)))
        self.run = Run(parameters, gradients, activations)
        self.last = self.run.part(graph.names[-1])
        self.chain = graph.chain if mode == "predict" else graph.body

    def forward(self, x: Array, state: Arrays, key: int | None) -> Array:
        """x → the output of the last layer, or in other modes than "predict" of the one before it. The state moves on."""
        self.run.m, self.run.key = state, key
        return self.chain.forward(self.ops, self.run, x)

    def begin_gradients(self, add: bool) -> None:
        """The next gradients are set, or with ``add`` added to what is there."""
        self.run.written.clear()
        if add:
            self.run.written.update(map(id, self.run.g.values()))

    def backward(self, x: Array, dy: Array) -> None:
        """Gradients of all weights below the head, from that of its input."""
        self.chain.backward(self.ops, self.run, x, dy)


@dataclass(frozen=True, eq=False)
class Step:
    """A layer as a decoder sees it: see :class:`numba_rnnlm.backends.ops.Step`.

    Parameters
    ----------
    layer, name
        The layer and its name.
    parameters
        Its weights, by their short names.
    rounded
        The same with rounded matrices.
    shape
        Of the input of one step of one stream.
    """

    layer: Layer
    name: str
    parameters: Arrays
    rounded: Callable[[], Arrays]
    shape: Shape

    @property
    def inputs(self) -> int:
        return self.shape[-1] if self.layer.ids is None else 0

    @property
    def units(self) -> int:
        return self.layer.output(self.shape)[-1]

    @property
    def states(self) -> Mapping[str, Shape]:
        return {name: shape[1:] for name, shape in above(self.name, self.layer.state(self.shape)).items()}

    @property
    def matrices(self) -> Sequence[Array]:
        return [self.parameters[key] for key in self.layer.matrices()]

    def start(self, ops: Ops, streams: int, state: Mapping[str, Array], rounded: bool = False) -> Callable[[Array], Array]:
        shape = (streams, self.inputs) if self.inputs and len(self.shape) == 2 else (1, streams, *self.shape[2:])
        layout = Layout(self.layer.activations(shape, False))
        run = Run(self.rounded() if rounded else self.parameters, {}, Arena(layout, ops.empty((layout.size,))))
        run.m = below(state, self.name)
        return lambda x: self.layer.forward(ops, run, x.reshape(shape))


@dataclass(frozen=True)
class Scores(Layer):
    """What a head makes of vectors, as a layer; ``of_layer`` is the one that the head belongs to."""

    of: Head
    of_layer: Layer

    def output(self, shape: Shape) -> Shape:
        return (*shape[:-1], self.of.symbols)

    def activations(self, shape: Shape, training: bool) -> dict[str, Shape]:
        return {"scores": self.output(shape)}

    def matrices(self) -> tuple[str, ...]:
        return self.of_layer.matrices()

    def forward(self, ops: Ops, run: Run, x: Array) -> Array:
        self.of.scores(ops, run, x, run.a["scores"])
        return run.a["scores"]
