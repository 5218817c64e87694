"""Draws a network as text: a line for each layer, with the sizes of its vectors and the number of its weights."""

from collections.abc import Iterator
from math import prod

from ..backends.ops import Shape
from ..layers import Layer
from ..layers.chain import Chain
from ..network import Graph


def drawn(graph: Graph) -> list[str]:
    """The lines.

    Examples
    --------
    >>> from numba_rnnlm.layers import LSTM, Dense, Embedding, LayerNormalization, Residual
    >>> print("\\n".join(drawn(Graph([Embedding(50, 8), Residual([LayerNormalization(), LSTM(8, True)]), Dense(50, "softmax")]))))
    embedding              ids → 8   400
    residual                 8 → 8   560
    ├ layernormalization     8 → 8    16
    └ lstm                   8 → 8   544
    dense                   8 → 50   450
    """
    rows = list(_rows(graph.chain, graph.input(graph.steps or 0, 1), ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [f"{name:{widths[0]}}   {sizes:>{widths[1]}}   {count:>{widths[2]}}".rstrip() for name, sizes, count in rows]


def _rows(chain: Chain, shape: Shape, indent: str) -> Iterator[tuple[str, str, str]]:
    """(name, sizes of the vectors, number of weights) of the layers, and below each of the layers within it."""
    layers = chain.inputs(shape)
    for number, (name, layer, size) in enumerate(layers, 1):
        branch = "" if not indent else "└ " if number == len(layers) else "├ "
        yield _row(layer, f"{indent[2:]}{branch}{name}", size)
        within, deeper = list(layer.within().values()), (indent or "  ") + ("" if not indent else "  " if number == len(layers) else "│ ")
        if within and all(isinstance(inner, Chain) for inner in within):  # branches
            for branch_number, inner in enumerate(within):
                yield f"{deeper[2:]}{'└ ' if inner is within[-1] else '├ '}{branch_number}", "", ""
                if isinstance(inner, Chain):
                    yield from _rows(inner, size, deeper + ("  " if inner is within[-1] else "│ "))
        elif within:
            yield from _rows(Chain(tuple(within)), size, deeper)


def _row(layer: Layer, name: str, shape: Shape) -> tuple[str, str, str]:
    count = sum(map(prod, layer.parameters(shape).values()))
    return name, f"{shape[-1] if layer.ids is None else 'ids'} → {layer.output(shape)[-1]}", f"{count:,}" if count else ""
