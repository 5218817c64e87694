"""Saturated units: with weights × 1 to 10⁸, our float32 is as close to float64 as PyTorch's."""

from pathlib import Path

import numpy as np
import pytest
from scaled import CASES, HIDDEN, QUANTITIES, SCALES, SLOTS, STEPS, STREAMS, Case, draw, error

from numba_rnnlm import LanguageModel, backends, cells
from numba_rnnlm.backends.ops import Ops
from numba_rnnlm.errors import DivergenceError

PYTORCH = dict(np.load(Path(__file__).parent / "data" / "scaled_pytorch.npz"))
MOST = 1.7  # allowed multiple of PyTorch's error


def compute(ops: Ops, name: str, case: Case) -> Case:
    """The losses and all gradients of their mean, computed by the verbs that training uses."""
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
def test_float32_is_as_accurate_as_pytorch(name: str, scale: float) -> None:
    """Compares the median ratio of the two errors, for the losses and for every gradient. Where PyTorch overflows, we may too.

    Errors vary by up to 10⁷ between cases, depending on how close to zero the pre-activation of an unsaturated unit is.
    """
    cpu, reference = backends.get("cpu", np.float32), backends.get("reference")
    found = []
    for number in range(CASES):
        case = draw(name, scale, number)
        with np.errstate(over="ignore", invalid="ignore"):
            got, want = compute(cpu, name, case), compute(reference, name, case)
        found.append([error(got[quantity], want[quantity]) for quantity in QUANTITIES])
    errors = np.array(found, np.float32)
    theirs = PYTORCH[f"{name}/{scale:g}"]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(errors == theirs, 1, errors / theirs)
    for quantity, ratio in zip(QUANTITIES, np.median(ratios, 0), strict=True):
        assert ratio <= MOST, f"the error of {quantity} is {ratio:.2f} times PyTorch's"


def trained(name: str, backend: str) -> tuple[str, list[float]]:
    """The outcome and the losses of a training with a huge learning rate, which makes the weights huge."""
    model = LanguageModel(cell=name, hidden=8, layers=1, embedding=4, seed=1, backend=backend)
    with np.errstate(over="ignore", invalid="ignore"):
        try:
            model.fit("hello world\n" * 30, optimizer="sgd", learning_rate=1e4, clip_norm=0, schedule="constant", epochs=3, streams=2, steps=9,
                      verbose=0)  # fmt: skip
        except DivergenceError as error:
            return str(error), []
    return "", model.history_["loss"]


@pytest.mark.parametrize("name", SLOTS)
def test_a_training_with_huge_weights_ends_as_in_float64(name: str) -> None:
    """All trainings continue except that of ReLU, which overflows after the same update."""
    (ours, losses), (want, exact) = (trained(name, backend) for backend in ("cpu", "reference"))
    assert ours == want and bool(want) == (name == "relu")
    assert np.isfinite(losses).all()
    if name != "lstm":  # lstm diverges from float64 in float32; compiled float64 has the losses of the reference
        np.testing.assert_allclose(losses, exact, rtol=1e-6)
