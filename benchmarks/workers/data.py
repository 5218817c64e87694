"""Weights, batches, prompts and sentences, the same for every contestant."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from numba_rnnlm.layers import LAYERS, LSTM, Dense, Embedding, Layer
from numba_rnnlm.layers.description import rebuild
from numba_rnnlm.network import Graph

LISTING = {"vocabulary": 2000, "embedding": 64, "first": 128, "second": 64, "examples": 64, "steps": 32}


def weights(layout: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Weights uniform in ±0.1, including recurrent biases; float32, in numba_rnnlm's layout."""
    random = np.random.default_rng(1)
    return {name: random.uniform(-0.1, 0.1, shape).astype(np.float32) for name, shape in layout.items()}


def batch(shape: Mapping[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets, (T, N) ids."""
    random = np.random.default_rng(2)
    ids = random.integers(0, shape["vocabulary"], (shape["steps"] + 1, shape["streams"]), dtype=np.int32)
    return ids[:-1], ids[1:]


def layer(shape: tuple[int, int, int], parameters: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Weights of one recurrent layer, its input x and the gradient dy of its output, both of ``shape``."""
    random = np.random.default_rng(3)
    found = {name: random.standard_normal(size, np.float32) / np.float32(size[0] ** 0.5) for name, size in parameters.items()}
    return found | {name: random.standard_normal(shape, np.float32) for name in ("x", "dy")}


def one(
    shape: tuple[int, ...], output: tuple[int, ...], parameters: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """Weights of one layer by our names, its input x and the gradient dy of its output."""
    random = np.random.default_rng(6)
    found = {name: random.standard_normal(size, np.float32) * np.float32(0.1) for name, size in parameters.items()}
    return found | {"x": random.standard_normal(shape, np.float32), "dy": random.standard_normal(output, np.float32)}


def listing() -> list[Layer]:
    """The layers of the Keras listing."""
    size = LISTING
    return [Embedding(size["vocabulary"], size["embedding"]), LSTM(size["first"], return_sequences=True),
            LSTM(size["second"]), Dense(size["vocabulary"], activation="softmax")]


def stack(vocabulary: int, embedding: int, body: list[dict[str, Any]]) -> Graph:
    """The language model with these layers between embedding and softmax."""
    return Graph([Embedding(vocabulary, embedding), *(rebuild(layer, LAYERS, {}) for layer in body), Dense(vocabulary, "softmax")])


def examples() -> tuple[np.ndarray, np.ndarray]:
    """One batch of the listing: ids (examples, steps), and the id that follows each."""
    random = np.random.default_rng(4)
    ids = random.integers(0, LISTING["vocabulary"], (LISTING["examples"], LISTING["steps"] + 1), dtype=np.int32)
    return ids[:, :-1], ids[:, -1]


def prompts(vocabulary: int, streams: int) -> np.ndarray:
    """One id for each stream."""
    return np.arange(streams, dtype=np.int32) % vocabulary


def sentences(vocabulary: int, count: int) -> list[np.ndarray]:
    """Sentences of 5 to 60 ids."""
    random = np.random.default_rng(5)
    return [random.integers(0, vocabulary, length, dtype=np.int32) for length in random.integers(5, 61, count)]
