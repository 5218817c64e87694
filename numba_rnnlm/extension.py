"""A trained model whose vocabulary grows: rows for new symbols in the embedding and the output layer.

Before the next update, the new symbols and ``<unk>`` share the probability that ``<unk>`` had, all alike, so every other symbol is just as
probable as it was.
"""

from collections.abc import Mapping
from math import log

import numpy as np

from .network import Graph


def extended(
    graph: Graph, weights: Mapping[str, np.ndarray], initial: Mapping[str, np.ndarray], unknown: int
) -> dict[str, np.ndarray]:
    """The weights of a language model for ``graph``, which is the same but for a larger vocabulary.

    Parameters
    ----------
    graph
        With the symbols that are new behind the others.
    weights
        By name, of the smaller vocabulary.
    initial
        Starting weights of ``graph``, which new rows of the embedding are taken from. Where the output layer is tied to the
        embedding, they are copies of the row of ``<unk>``, as output layers' are.
    unknown
        The id of ``<unk>``.
    """
    embedding, head = f"{graph.names[0]}/W", graph.names[-1]
    size = len(weights[embedding])
    new = graph.layout[embedding][0] - size
    tied = f"{head}/W" not in graph.layout
    found = dict(weights)
    rows = np.repeat(weights[embedding][[unknown]], new, 0) if tied else initial[embedding][size:]
    found[embedding] = np.concatenate([weights[embedding], rows.astype(weights[embedding].dtype)])
    if not tied:
        columns = np.repeat(weights[f"{head}/W"][:, [unknown]], new, 1)
        found[f"{head}/W"] = np.concatenate([weights[f"{head}/W"], columns], 1)
    bias = np.append(weights[f"{head}/b"], np.repeat(weights[f"{head}/b"][unknown], new))
    bias[[unknown, *range(size, size + new)]] -= log(1 + new)
    found[f"{head}/b"] = bias
    return found
