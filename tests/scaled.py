"""Small models with weights up to 10⁸ times larger than usual, the same for PyTorch (data/record_scaled.py) and for us (test_scaled.py).

A model is one recurrent layer on vectors, followed by softmax cross-entropy of x V + c. Uses NumPy only.
"""

import numpy as np

SCALES = 1.0, 1e2, 1e4, 1e8
SLOTS = {"tanh": (1, 1, 1), "relu": (1, 1, 1), "sigmoid": (1, 1, 1), "lstm": (4, 4, 4), "gru": (3, 3, 4)}  # of W, of U, of b
QUANTITIES = "loss", "x", "W", "U", "b", "V", "c"  # the losses of all rows, and the gradients of their mean
CASES = 31
STEPS, STREAMS, INPUTS, HIDDEN, VOCABULARY = 6, 4, 5, 16, 9

Case = dict[str, np.ndarray]


def draw(cell: str, scale: float, number: int) -> Case:
    """Draw weights in our layout, inputs and targets: float64 numbers that float32 represents exactly."""
    rng = np.random.default_rng([number, *map(ord, cell)])
    w, u, b = SLOTS[cell]
    shapes = {"W": (INPUTS, w * HIDDEN), "U": (HIDDEN, u * HIDDEN), "b": (b, HIDDEN), "V": (HIDDEN, VOCABULARY), "c": (VOCABULARY,)}
    weights = {name: scale * rng.normal(0, 0.5, shape) for name, shape in shapes.items()}
    case = weights | {"x": rng.normal(0, 1, (STEPS, STREAMS, INPUTS))}
    return {name: array.astype(np.float32).astype(np.float64) for name, array in case.items()} | {
        "targets": rng.integers(0, VOCABULARY, STEPS * STREAMS)}  # fmt: skip


def error(got: np.ndarray, want: np.ndarray) -> float:
    """The maximum difference relative to the largest element; infinite if a number is not finite, or if all should be zero and are not."""
    off = abs(got.astype(np.float64) - want).max() if np.isfinite(got).all() else np.inf
    return 0.0 if off == 0 else float(off / abs(want).max()) if want.any() else np.inf
