"""Compile the kernels of a training before its clock starts."""

import numpy as np

from ..errors import ShapeError
from ..network import Graph, Network
from ..rules import Rule

MOST_STEPS = 1 << 20  # where the search for a sequence that is long enough ends


def compile_kernels(network: Network, rule: Rule) -> None:
    """Make every kernel of a training step and of a validation ready, on batches too small to matter and without changing
    a weight.

    So no time limit and no speed counts the compiler.
    """
    graph, ops = network.graph, network.ops
    for streams in (2, 1):  # a few rows, as the end of a text may be, go through kernels of their own
        shape = graph.input(graph.steps or _enough(graph), streams)
        output = graph.output(shape)
        x = ops.upload(np.zeros(shape, np.int32 if graph.takes_ids else np.float32))
        rows = int(np.prod(output[:-1]))
        targets = ops.upload(np.zeros(rows, np.int32) if graph.head.targets == "ids" else np.zeros((rows, output[-1]), np.float32))
        if streams > 1:
            network.differentiate(x, targets, network.state(streams), 0.0, 0)
        else:
            network.losses(x, targets, network.state(streams))
    ops.norm(network.gradients.flat)
    p, g, m = ops.empty((16,)), ops.empty((16,)), ops.empty((rule.moments, 16))
    for array in (p, g, m):
        ops.fill(array, 0)
    ops.update(rule, p, g, m, np.ones(2 + len(rule.hyper)))


def _enough(graph: Graph) -> int:
    """A few steps, but no fewer than the layers need, some of which may see many at once."""
    steps = 3
    while True:
        try:
            graph.output(graph.input(steps, 1))
            return steps
        except ShapeError:
            if steps > MOST_STEPS:
                raise
            steps *= 2
