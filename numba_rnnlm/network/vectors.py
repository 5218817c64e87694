"""Vectors of all ids, of a first layer that computes them: looked up wherever nothing is learned."""

import threading

from ..backends.ops import Array, Ops
from ..layers import Embedding
from ..layers.layer import Arrays, Layer, below
from .graph import Graph


class Vectors:
    """The vectors of a network's first layer, computed once for each version of the weights.

    Parameters
    ----------
    graph, ops
        The layers and their backend.
    parameters
        All weights by name.

    Attributes
    ----------
    graph
        The layers with an embedding in place of the first one.
    parameters
        Its weights.
    """

    def __init__(self, graph: Graph, ops: Ops, parameters: Arrays) -> None:
        name, self.layer, self.ops = graph.names[0], graph.layers[0], ops
        assert self.layer.ids is not None
        size = self.layer.output((1, 1))[-1]
        self.graph = Graph([Embedding(self.layer.ids, size), *graph.layers[1:]])
        self.weights = below(parameters, name)
        self.table: Array = ops.empty((self.layer.ids, size))
        self.parameters = {f"{self.graph.names[0]}/W": self.table}
        self.parameters |= {key: array for key, array in parameters.items() if not key.startswith(f"{name}/")}
        self.version = -1
        self._lock = threading.Lock()

    def update(self, version: int) -> None:
        """The vectors for the present weights, which have this version."""
        with self._lock:
            if self.version != version:
                found = self.layer.vectors(self.ops, self.weights)
                assert found is not None
                self.ops.copy(found, self.table)  # passes hold the array
                self.version = version


def computes_vectors(layer: Layer) -> bool:
    """Whether a first layer computes the vectors of its ids, other than an embedding, whose weight they are."""
    return layer.table((1, 1)) is None and type(layer).vectors is not Layer.vectors
