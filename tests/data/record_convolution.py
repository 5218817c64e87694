"""Record golden_convolution.npz next to this file: float64 results of PyTorch for the layers of convolution and pooling.

Run by hand, with torch installed::

    PYTHONPATH=. python tests/data/record_convolution.py

Keys, for each number of a layer::

    NUMBER/layer                    the layer, as JSON
    NUMBER/x, NUMBER/dy             (T, N, D) input, gradient of the output
    NUMBER/y                        output
    NUMBER/weight/NAME              our names and layout
    NUMBER/gradient/NAME            gradient of sum(y * dy) with respect to each weight, and to x
"""

import json
from pathlib import Path

import numpy as np
import torch

from benchmarks.agreement import POOLS
from numba_rnnlm.layers.description import describe

KINDS = {"Conv1D": 8, "MaxPooling1D": 3, "AveragePooling1D": 3, "GlobalMaxPooling1D": 1, "GlobalAveragePooling1D": 1, "Flatten": 1}  # configurations of each


def draw(random: np.random.Generator, *shape: int) -> np.ndarray:
    """Normal numbers, rounded to multiples of 1/64, which are exact in float32 and compress well."""
    return np.round(random.normal(0, 0.5, shape) * 64) / 64


def main() -> None:
    record: dict[str, np.ndarray] = {"about": np.array(f"torch {torch.__version__}")}
    random, number = np.random.default_rng(31), 0
    for kind, configurations in KINDS.items():
        for _ in range(configurations):
            layer, theirs = POOLS[kind](random, 4)
            shape = (16, 2, 4)
            given = {"x": draw(random, *shape)} | {name: draw(random, *size) for name, size in layer.parameters(shape).items()}
            tensors = {name: torch.tensor(array, requires_grad=True) for name, array in given.items()}
            y, dy = theirs(tensors["x"], tensors), draw(random, *layer.output(shape))
            y.backward(torch.tensor(dy))
            found = {"layer": np.array(json.dumps(describe(layer))), "x": given["x"], "dy": dy, "y": y.detach().numpy()}
            found |= {f"weight/{name}": array for name, array in given.items() if name != "x"}
            found |= {f"gradient/{name}": tensor.grad.numpy() for name, tensor in tensors.items()}
            record |= {f"{number}/{key}": array for key, array in found.items()}
            number += 1
    np.savez_compressed(Path(__file__).parent / "golden_convolution.npz", **record)


if __name__ == "__main__":
    main()
