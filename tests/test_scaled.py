"""Saturated units: weights × 1 to 10⁸, and float32 is as near to float64 as PyTorch's float32 is."""

import json
from pathlib import Path

import numpy as np
import pytest
from scaled import CASES, HIDDEN, QUANTITIES, SCALES, SLOTS, STEPS, STREAMS, Case, draw, error

from numba_rnnlm import backends, cells
from numba_rnnlm.backends import Ops

PYTORCH = json.loads((Path(__file__).parent / "data" / "scaled_pytorch.json").read_text())


def compute(ops: Ops, name: str, case: Case) -> Case:
    """The losses and all gradients of their mean, by the verbs that a network's training calls."""
    cell, rows = cells.get(name), STEPS * STREAMS
    first = cell.window("x")[0] * HIDDEN
    here = {key: ops.upload(array) for key, array in case.items()}
    x, W, U, b, V, c, targets = (here[key] for key in ("x", "W", "U", "b", "V", "c", "targets"))
    z, s = ops.empty((STEPS, STREAMS, len(cell.gates), HIDDEN)), ops.empty((STEPS + 1, STREAMS, len(cell.states), HIDDEN))
    y, dy, losses = ops.empty((rows, HIDDEN)), ops.empty((rows, HIDDEN)), ops.empty((rows,))
    gradients = {key: ops.empty(here[key].shape) for key in "xWUbVc"}
    d = ops.empty((STREAMS, len(cell.states), HIDDEN))
    ops.fill(s, 0)
    ops.fill(d, 0)
    sums = z.reshape(rows, len(cell.gates) * HIDDEN)
    ops.project(x.reshape(rows, -1), W, b.reshape(-1), sums, first=first)
    ops.recur(cell, U, z, s)
    ops.copy(s[1:, :, 0], y.reshape(STEPS, STREAMS, HIDDEN))
    ops.cross_entropy_backward(y, V, c, targets, 1 / rows, losses, dy, gradients["V"], gradients["c"])
    ops.recur_backward(cell, U, z, s, dy.reshape(STEPS, STREAMS, HIDDEN), d, gradients["U"])
    ops.project_backward(x.reshape(rows, -1), W, sums, gradients["x"].reshape(rows, -1), gradients["W"], gradients["b"].reshape(-1), first=first)
    return {key: ops.download(array) for key, array in (gradients | {"loss": losses}).items()}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", SLOTS)
def test_float32_is_as_near_to_float64_as_pytorch_is(name: str, scale: float) -> None:
    """The median over the cases, of the losses and of every gradient. Where PyTorch overflows, so may we."""
    cpu, reference = backends.get("cpu", np.float32), backends.get("reference")
    errors = []
    for number in range(CASES):
        case = draw(name, scale, number)
        with np.errstate(over="ignore", invalid="ignore"):
            got, want = compute(cpu, name, case), compute(reference, name, case)
        errors.append([error(got[quantity], want[quantity]) for quantity in QUANTITIES])
    for quantity, ours in zip(QUANTITIES, np.median(errors, 0), strict=True):
        theirs = PYTORCH[name][f"{scale:g}"][quantity][0]
        assert ours <= 2 * theirs, f"{quantity} is off by {ours:.1e}, PyTorch's by {theirs:.1e}"
