"""Record scaled_pytorch.npz next to this file: errors of PyTorch in float32 relative to float64, for weights × 1 to 10⁸.

Run by hand, the first line with this package, the second with torch::

    PYTHONPATH=. python tests/data/record_scaled.py exact exact.npz
    python tests/data/record_scaled.py pytorch exact.npz

The float64 results come from the backend "reference", which the test uses too: PyTorch in float64 computes a derivative as 1 - y², which is
zero where y is 1. Keys are "about", the versions, and CELL/SCALE, the errors (cases, quantities); see tests/scaled.py.
"""

import itertools
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from scaled import CASES, HIDDEN, INPUTS, QUANTITIES, SCALES, SLOTS, STEPS, STREAMS, Case, draw, error


def blocks(columns: np.ndarray, *order: int) -> np.ndarray:
    """Reorder the blocks of columns (…, G·H)."""
    parts = np.split(columns, len(order), axis=-1)
    return np.concatenate([parts[index] for index in order], axis=-1)


def to_pytorch(cell: str, W: np.ndarray, U: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
    """Our weights as weight_ih, weight_hh, bias_ih, bias_hh; m r u becomes r u m in U and in b."""
    if cell != "gru":
        return [W.T, U.T, b.reshape(-1), np.zeros(b.size)]
    m, r, u, n = b
    return [W.T, blocks(U, 1, 2, 0).T, np.concatenate([r, u, n]), np.concatenate([0 * r, 0 * u, m])]


def from_pytorch(cell: str, gradients: list[np.ndarray]) -> Case:
    ih, hh, bias, state = gradients
    if cell != "gru":
        return {"W": ih.T, "U": hh.T, "b": bias.reshape(-1, HIDDEN)}
    r, u, n = bias.reshape(3, HIDDEN)
    return {"W": ih.T, "U": blocks(hh.T, 2, 0, 1), "b": np.stack([state[2 * HIDDEN :], r, u, n])}


def pytorch(cell: str, case: Case) -> Case:
    import torch

    layers = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}
    x, V, c = (torch.tensor(case[name], dtype=torch.float32, requires_grad=True) for name in ("x", "V", "c"))
    arrays = to_pytorch(cell, case["W"], case["U"], case["b"])
    weights = [torch.tensor(np.ascontiguousarray(array), dtype=torch.float32) for array in arrays]
    if cell == "sigmoid":  # PyTorch has no layer of it
        ih, hh, bias, _ = weights = [weight.requires_grad_() for weight in weights]
        h, outputs = torch.zeros(STREAMS, HIDDEN), []
        for t in range(STEPS):
            h = torch.sigmoid(torch.nn.functional.linear(x[t], ih, bias) + h @ hh.T)
            outputs.append(h)
        y = torch.stack(outputs)
    else:
        layer = layers[cell](INPUTS, HIDDEN) if cell in layers else torch.nn.RNN(INPUTS, HIDDEN, nonlinearity=cell)
        layer.load_state_dict(dict(zip(dict(layer.named_parameters()), weights, strict=True)))
        weights = list(layer.parameters())
        y, _ = layer(x)
    loss = torch.nn.functional.cross_entropy(y.reshape(-1, HIDDEN) @ V + c, torch.tensor(case["targets"]), reduction="none")
    loss.mean().backward()
    gradients = from_pytorch(cell, [np.zeros(0) if weight.grad is None else weight.grad.numpy() for weight in weights])
    return {"loss": loss.detach().numpy(), "x": x.grad.numpy(), "V": V.grad.numpy(), "c": c.grad.numpy()} | gradients


def record_exact(path: str) -> None:
    from test_scaled import compute

    from numba_rnnlm import backends

    reference, found = backends.get("reference"), {}
    for cell, scale, number in itertools.product(SLOTS, SCALES, range(CASES)):
        want = compute(reference, cell, draw(cell, scale, number))
        found |= {f"{cell}/{scale:g}/{number}/{name}": array for name, array in want.items()}
    np.savez(path, **found)


def record_pytorch(path: str) -> None:
    import torch

    torch.set_num_threads(1)
    record = {"about": np.array([f"torch {torch.__version__}", f"numpy {np.__version__}"])}
    with np.load(path) as exact:
        for cell, scale in itertools.product(SLOTS, SCALES):
            errors = []
            for number in range(CASES):
                got = pytorch(cell, draw(cell, scale, number))
                errors.append([error(got[name], exact[f"{cell}/{scale:g}/{number}/{name}"]) for name in QUANTITIES])
            record[f"{cell}/{scale:g}"] = np.array(errors, np.float32)
    np.savez_compressed(Path(__file__).with_name("scaled_pytorch.npz"), **record)


if __name__ == "__main__":
    {"exact": record_exact, "pytorch": record_pytorch}[sys.argv[1]](sys.argv[2])
