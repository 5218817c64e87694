"""The same weights and the same batch for every contestant."""

from collections.abc import Mapping

import numpy as np


def weights(layout: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Uniform in ±0.1, float32, in the layout of numba_rnnlm; biases of the recurrent layers too."""
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
