"""Compared with PyTorch and Keras, using the float64 vectors that data/record_golden.py recorded from them."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from numba_rnnlm import backends, cells
from numba_rnnlm.backends.ops import Ops
from numba_rnnlm.optimizers import Optimizer
from numba_rnnlm.optimizers.pytorch import SGD, Adagrad, Adam, AdamW, RMSprop

Arrays = dict[str, np.ndarray]
Weights = tuple[np.ndarray, np.ndarray, np.ndarray]  # W (D, g_x·H), U (H, g_h·H), b (G, H)

BACKENDS = [("reference", np.float64), ("cpu", np.float64), ("cpu", np.float32)]

# Maximum errors, relative to the largest element of the array.
TOLERANCE = {"float64": 1e-10, "float32": 1e-4}


def load(framework: str, prefix: str) -> Arrays:
    with np.load(Path(__file__).parent / "data" / f"golden_{framework}.npz", allow_pickle=False) as file:
        return {key.removeprefix(f"{prefix}/"): file[key] for key in file if key.startswith(f"{prefix}/")}


def check(name: str, ours: np.ndarray, theirs: np.ndarray, dtype: np.dtype) -> None:
    assert ours.shape == theirs.shape, name
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    assert error <= TOLERANCE[dtype.name], f"{name}: relative error {error:.1e}"


def blocks(columns: np.ndarray, *order: int) -> np.ndarray:
    """Reorder the G blocks of columns (…, G·H)."""
    parts = np.split(columns, len(order), axis=-1)
    return np.concatenate([parts[index] for index in order], axis=-1)


# Conversion of each framework's weights to ours, and of our gradients to the framework's.


def pytorch(cell: str, theirs: Arrays) -> Weights:
    W, U = theirs["weight_ih_l0"].T, theirs["weight_hh_l0"].T
    b_ih, b_hh = (theirs[key].reshape(-1, U.shape[0]) for key in ("bias_ih_l0", "bias_hh_l0"))
    if cell != "gru":
        return W, U, b_ih + b_hh
    # r z n → W: r u n; U: m r u
    return W, blocks(U, 2, 0, 1), np.stack([b_hh[2], b_ih[0] + b_hh[0], b_ih[1] + b_hh[1], b_ih[2]])


def pytorch_gradients(cell: str, dW: np.ndarray, dU: np.ndarray, db: np.ndarray) -> Arrays:
    db_ih = db_hh = db
    if cell == "gru":
        m, r, u, n = db
        dU = blocks(dU, 1, 2, 0)
        db_ih, db_hh = np.stack([r, u, n]), np.stack([r, u, m])
    return {
        "weight_ih_l0": dW.T,
        "weight_hh_l0": dU.T,
        "bias_ih_l0": db_ih.reshape(-1),
        "bias_hh_l0": db_hh.reshape(-1),
    }


def keras(cell: str, theirs: Arrays) -> Weights:
    W, U, b = theirs["kernel"], theirs["recurrent_kernel"], theirs["bias"]
    if cell != "gru":
        return W, U, b.reshape(-1, U.shape[0])
    # z r h → W: r u n; U: m r u
    b_x, b_h = b.reshape(2, 3, -1)
    return blocks(W, 1, 0, 2), blocks(U, 2, 1, 0), np.stack([b_h[2], b_x[1] + b_h[1], b_x[0] + b_h[0], b_x[2]])


def keras_gradients(cell: str, dW: np.ndarray, dU: np.ndarray, db: np.ndarray) -> Arrays:
    if cell == "gru":
        m, r, u, n = db
        dW, dU = blocks(dW, 1, 0, 2), blocks(dU, 2, 1, 0)
        bias = np.stack([u, r, n, u, r, m]).reshape(2, -1)
    else:
        bias = db.reshape(-1)
    return {"kernel": dW, "recurrent_kernel": dU, "bias": bias}


FRAMEWORKS: dict[str, tuple[Callable[..., Weights], Callable[..., Arrays]]] = {
    "pytorch": (pytorch, pytorch_gradients),
    "keras": (keras, keras_gradients),
}


@pytest.mark.parametrize(("backend", "dtype"), BACKENDS)
@pytest.mark.parametrize("name", ["tanh", "relu", "lstm", "gru"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_layer_agrees_with_the_framework(framework: str, name: str, backend: str, dtype: type) -> None:
    golden = load(framework, name)
    to_ours, to_theirs = FRAMEWORKS[framework]
    ops = backends.get(backend, dtype)
    cell = cells.get(name)
    steps, streams, inputs = golden["x"].shape
    states, _, hidden = golden["initial"].shape
    rows, slots = steps * streams, len(cell.gates)
    first = cell.window("x")[0] * hidden

    W, U, b = (ops.upload(weights) for weights in to_ours(name, golden))
    x = ops.upload(golden["x"])
    z = zeros(ops, steps, streams, slots, hidden)
    s = zeros(ops, steps + 1, streams, states, hidden)
    ops.copy(ops.upload(np.swapaxes(golden["initial"], 0, 1)), s[0])
    ops.project(x.reshape(rows, inputs), W, b.reshape(-1), z.reshape(rows, slots * hidden), first=first)
    ops.recur(cell, U, z, s)
    reached = ops.download(s)
    check("y", reached[1:, :, 0], golden["y"], ops.dtype)
    check("final", np.swapaxes(reached[-1], 0, 1), golden["final"], ops.dtype)

    dy, d = ops.upload(golden["dy"]), ops.upload(np.swapaxes(golden["dfinal"], 0, 1))
    dx, dW, dU, db = (zeros(ops, *array.shape) for array in (x, W, U, b))
    ops.recur_backward(cell, U, z, s, dy, d, dU)
    ops.project_backward(
        x.reshape(rows, inputs), W, z.reshape(rows, slots * hidden), dx.reshape(rows, inputs), dW, db.reshape(-1),
        first=first,
    )
    check("gradient of x", ops.download(dx), golden["grad/x"], ops.dtype)
    check("gradient of the initial state", np.swapaxes(ops.download(d), 0, 1), golden["grad/initial"], ops.dtype)
    for key, gradient in to_theirs(name, *(ops.download(array) for array in (dW, dU, db))).items():
        check(f"gradient of {key}", gradient, golden[f"grad/{key}"], ops.dtype)


def zeros(ops: Ops, *shape: int) -> np.ndarray:
    array = ops.empty(shape)
    ops.fill(array, 0)
    return array


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sgd": SGD,
    "momentum": SGD,
    "rmsprop": RMSprop,
    "adagrad": Adagrad,
    "adam": Adam,
    "adam_l2": Adam,
    "adamw": AdamW,
}


def like_pytorch(kind: type[Optimizer], theirs: Arrays) -> Optimizer:
    """Our optimiser with PyTorch's hyperparameters."""
    names = {"lr": "learning_rate", "alpha": "rho", "eps": "epsilon"}
    ours = {names.get(key, key): float(value) for key, value in theirs.items() if key != "betas"}
    if "betas" in theirs:
        ours["beta_1"], ours["beta_2"] = theirs["betas"].tolist()
    return kind(**{field.name: ours[field.name] for field in fields(kind) if field.name in ours})


@pytest.mark.parametrize(("backend", "dtype"), BACKENDS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_agrees_with_pytorch(name: str, backend: str, dtype: type) -> None:
    golden = load("pytorch", "optimizer")
    ops, optimizer = backends.get(backend, dtype), like_pytorch(OPTIMIZERS[name], load("pytorch", f"optimizer/{name}/hyper"))
    p = ops.upload(golden["start"])
    moments = zeros(ops, optimizer.rule.moments, p.size)
    for step, gradient in enumerate(golden["gradients"], start=1):
        h = np.array([1, np.inf, *optimizer.hyper(step, optimizer.learning_rate)])
        ops.update(optimizer.rule, p, ops.upload(gradient), moments, h)
        check(f"step {step}", ops.download(p), golden[f"{name}/p"][step - 1], ops.dtype)
