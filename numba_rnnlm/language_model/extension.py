"""Extends the vocabulary of a trained model by adding rows for new symbols to the embedding and the output layer.

Until the next update, the new symbols and ``<unk>`` share the former probability of ``<unk>`` equally, so the probability of every other
symbol is unchanged.
"""

from collections.abc import Mapping
from math import log

import numpy as np

from ..network import Graph


def extended(
    graph: Graph, weights: Mapping[str, np.ndarray], initial: Mapping[str, np.ndarray], unknown: int
) -> dict[str, np.ndarray]:
    """Convert the weights of a language model to ``graph``, which differs only by a larger vocabulary.

    Parameters
    ----------
    graph
        The larger network; new symbols have the highest ids. If it computes vectors from characters, it has no embedding to extend.
    weights
        The weights of the smaller model, by name.
    initial
        Initial weights of ``graph``, which provide the new rows of the embedding. If the output layer is tied to the embedding,
        the new rows are copies of the row of ``<unk>``, as they are in the output layer.
    unknown
        The id of ``<unk>``.
    """
    embedding, head = f"{graph.names[0]}/W", graph.names[-1]
    size = len(weights[f"{head}/b"])
    new = graph.layout[f"{head}/b"][0] - size
    tied = f"{head}/W" not in graph.layout
    found = dict(weights)
    if embedding in weights:
        rows = np.repeat(weights[embedding][[unknown]], new, 0) if tied else initial[embedding][size:]
        found[embedding] = np.concatenate([weights[embedding], rows.astype(weights[embedding].dtype)])
    if not tied:
        columns = np.repeat(weights[f"{head}/W"][:, [unknown]], new, 1)
        found[f"{head}/W"] = np.concatenate([weights[f"{head}/W"], columns], 1)
    bias = np.append(weights[f"{head}/b"], np.repeat(weights[f"{head}/b"][unknown], new))
    bias[[unknown, *range(size, size + new)]] -= log(1 + new)
    found[f"{head}/b"] = bias
    return found
