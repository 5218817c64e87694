"""Compares layers with PyTorch, in random configurations: outputs, also of a stream in pieces, and all gradients.

    python -m benchmarks.agreement
    python -m benchmarks.agreement --layers Conv1D --configurations 1000

It runs in an interpreter that has numba_rnnlm and torch. It prints the largest errors, relative to the largest element, and ends with 1 if one of them
exceeds 1e-10 in float64 or 1e-5 in float32.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from numba_rnnlm import backends, layers
from numba_rnnlm.layers import Layer, Run

TOLERANCE = {"float64": 1e-10, "float32": 1e-5}

Theirs = Callable[[Tensor, dict[str, Tensor]], Tensor]  # of x (T, N, D) and the weights by our names
Drawn = tuple[Layer, Theirs]
ACTIVATIONS: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: lambda y: y, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "softmax": lambda y: torch.softmax(y, -1)}


def padded(x: Tensor, span: int, stride: int, padding: str, value: float = 0.0) -> Tensor:
    """x (N, D, T) as Keras pads it."""
    steps = x.shape[2]
    total = {"valid": 0, "causal": span - 1, "same": max((-(-steps // stride) - 1) * stride + span - steps, 0)}[padding]
    left = total if padding == "causal" else total // 2
    return functional.pad(x, (left, total - left), value=value)


def time_last(x: Tensor) -> Tensor:
    return x.permute(1, 2, 0)


def time_first(x: Tensor) -> Tensor:
    return x.permute(2, 0, 1)


def convolution(random: np.random.Generator, features: int) -> Drawn:
    groups = int(random.choice([g for g in range(1, features + 1) if features % g == 0]))
    kernel, stride, dilation = (int(size) for size in random.integers(1, (6, 4, 4)))
    stride, dilation = (stride, 1) if random.random() < 0.5 else (1, dilation)
    padding = str(random.choice(["valid", "same", "causal", "causal"]))
    activation = random.choice([*ACTIVATIONS])
    layer = layers.Conv1D(groups * int(random.integers(1, 20)), kernel, stride, padding, dilation_rate=dilation, groups=groups, activation=activation,
                          use_bias=bool(random.random() < 0.8))
    span = (kernel - 1) * dilation + 1

    def theirs(x: Tensor, w: dict[str, Tensor]) -> Tensor:
        y = functional.conv1d(padded(time_last(x), span, stride, padding), w["W"].permute(2, 1, 0), w.get("b"), stride, dilation=dilation, groups=groups)
        return ACTIVATIONS[activation](time_first(y))

    return layer, theirs


def largest(random: np.random.Generator, features: int) -> Drawn:
    size, stride, padding = int(random.integers(1, 6)), int(random.integers(1, 5)), str(random.choice(["valid", "same"]))
    return layers.MaxPooling1D(size, stride, padding), lambda x, w: time_first(
        functional.max_pool1d(padded(time_last(x), size, stride, padding, -torch.inf), size, stride))


def mean(random: np.random.Generator, features: int) -> Drawn:
    size, stride, padding = int(random.integers(1, 6)), int(random.integers(1, 5)), str(random.choice(["valid", "same"]))

    def theirs(x: Tensor, w: dict[str, Tensor]) -> Tensor:
        sums, counts = (functional.avg_pool1d(padded(time_last(each), size, stride, padding), size, stride) for each in (x, torch.ones_like(x)))
        return time_first(sums / counts)

    return layers.AveragePooling1D(size, stride, padding), theirs


# Time loops, from a state of zeros


def stepped(step: Callable[..., tuple[Tensor, ...]], sums: Tensor, w: Tensor | None, states: int, sequences: bool) -> Tensor:
    """All steps of a cell: ``step(slots, states, w)`` → states; sums (T, N, G, H)."""
    s, found = tuple(torch.zeros_like(sums[0, :, 0]) for _ in range(states)), []
    for z in sums:
        s = step(z.unbind(1), s, w)
        found.append(s[0])
    return torch.stack(found) if sequences else found[-1]


def mingru(z: Any, s: Any, w: Any) -> Any:
    u = torch.sigmoid(z[0])
    return ((1 - u) * s[0] + u * z[1],)


def minlstm(z: Any, s: Any, w: Any) -> Any:
    f, i = torch.sigmoid(z[0]), torch.sigmoid(z[1])
    return ((f * s[0] + i * z[2]) / (f + i),)


def sru(z: Any, s: Any, w: Any) -> Any:
    f, r = torch.sigmoid(z[1] + w[0] * s[1]), torch.sigmoid(z[2] + w[1] * s[1])
    c = f * s[1] + (1 - f) * z[0]
    return r * c + (1 - r) * z[3], c


def qrnn(z: Any, s: Any, w: Any) -> Any:
    f = torch.sigmoid(z[1])
    c = f * s[1] + (1 - f) * torch.tanh(z[0])
    return torch.sigmoid(z[2]) * c, c


def indrnn(z: Any, s: Any, w: Any) -> Any:
    return (torch.relu(z[0] + w[0] * s[0]),)


SCANS = {"mingru": (mingru, 1), "minlstm": (minlstm, 1), "sru": (sru, 2), "qrnn": (qrnn, 2), "indrnn": (indrnn, 1)}


def scan(cell: str) -> Callable[[np.random.Generator, int], Drawn]:
    def draw(random: np.random.Generator, features: int) -> Drawn:
        units = features if random.random() < 0.5 else int(random.integers(1, 25))  # where they are equal, SRU's highway has no matrix
        step, states = SCANS[cell]

        def theirs(x: Tensor, w: dict[str, Tensor]) -> Tensor:
            sums = x @ w["W"]
            if cell == "sru" and features == units:
                sums = torch.cat([sums, x], -1)
            return stepped(step, sums.unflatten(-1, (-1, units)) + w["b"], w.get("w"), states, True)

        return layers.Recurrent(units, True, cell), theirs

    return draw


def quasi(random: np.random.Generator, features: int) -> Drawn:
    units = int(random.integers(1, 25))

    def theirs(x: Tensor, w: dict[str, Tensor]) -> Tensor:
        before = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
        return stepped(qrnn, (x @ w["W"] + before @ w["V"]).unflatten(-1, (3, units)) + w["b"], None, 2, True)

    return layers.QRNN(units, True), theirs


# Layers of each vector


def layer_norm(random: np.random.Generator, features: int) -> Drawn:
    layer = layers.LayerNormalization(float(random.choice([1e-3, 1e-5])), bool(random.integers(2)), bool(random.integers(2)))
    return layer, lambda x, w: functional.layer_norm(x, x.shape[-1:], w.get("gamma"), w.get("beta"), layer.epsilon)


def rms_norm(random: np.random.Generator, features: int) -> Drawn:
    layer = layers.RMSNormalization(float(random.choice([1e-6, 1e-3])))
    return layer, lambda x, w: functional.rms_norm(x, x.shape[-1:], w["gamma"], layer.epsilon)


POINTWISE = {
    "linear": lambda x: x, "relu": functional.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "silu": functional.silu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"), "gelu_sigmoid": lambda x: x * torch.sigmoid(1.702 * x),
}  # fmt: skip


def activation(random: np.random.Generator, features: int) -> Drawn:
    name = str(random.choice([*POINTWISE]))
    return layers.Activation(name), lambda x, w: POINTWISE[name](x)


def highway(random: np.random.Generator, features: int) -> Drawn:
    name = str(random.choice(["tanh", "relu", "sigmoid", "linear"]))

    def theirs(x: Tensor, w: dict[str, Tensor]) -> Tensor:
        t = torch.sigmoid(x @ w["T"] + w["c"])
        return t * POINTWISE[name](x @ w["W"] + w["b"]) + (1 - t) * x

    return layers.Highway(name), theirs


def feed_forward(random: np.random.Generator, features: int) -> Drawn:
    name, fold, units = str(random.choice([*POINTWISE])), bool(random.integers(2)), features * int(random.integers(1, 5))

    def theirs(x: Tensor, w: dict[str, Tensor]) -> Tensor:
        wide = POINTWISE[name](x @ w["W"] + w["b"])
        return wide.unflatten(-1, (-1, features)).sum(-2) if fold else wide @ w["V"] + w["c"]

    return layers.FeedForward(units, name, fold), theirs


FAMILIES: dict[str, Callable[[np.random.Generator, int], Drawn]] = {
    "Conv1D": convolution,
    "MaxPooling1D": largest,
    "AveragePooling1D": mean,
    "GlobalMaxPooling1D": lambda random, features: (layers.GlobalMaxPooling1D(), lambda x, w: x.amax(0)),
    "GlobalAveragePooling1D": lambda random, features: (layers.GlobalAveragePooling1D(), lambda x, w: x.mean(0)),
    **{cell: scan(cell) for cell in SCANS},
    "QRNN": quasi,
    "LayerNormalization": layer_norm,
    "RMSNormalization": rms_norm,
    "Activation": activation,
    "Highway": highway,
    "FeedForward": feed_forward,
    "Flatten": lambda random, features: (layers.Flatten(), lambda x, w: x.transpose(0, 1).flatten(1)),
}


def main() -> None:
    flags = argparse.ArgumentParser(description="Compare layers with PyTorch.", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    flags.add_argument("--layers", nargs="*", default=list(FAMILIES), choices=list(FAMILIES), help="names of layers")
    flags.add_argument("--configurations", type=int, default=200, help="drawn for each layer")
    options = flags.parse_args()
    good = True
    for name in options.layers:
        errors = dict.fromkeys(TOLERANCE, 0.0)
        for number in range(options.configurations):
            for dtype, error in disagreement(name, number).items():
                errors[dtype] = max(errors[dtype], error)
        good &= all(error <= TOLERANCE[dtype] for dtype, error in errors.items())
        print(f"{name:24} {options.configurations} configurations, largest error: float64 {errors['float64']:.1e}, float32 {errors['float32']:.1e}", flush=True)
    sys.exit(not good)


def disagreement(name: str, number: int) -> dict[str, float]:
    """The largest error of one configuration, in each precision."""
    random = np.random.default_rng([number, *name.encode()])
    steps, streams, features = (int(size) for size in random.integers((16, 1, 1), (40, 7, 25)))
    layer, theirs = FAMILIES[name](random, features)
    shape = (steps, streams, features)
    x, dy = exact(random, *shape), exact(random, *layer.output(shape))
    weights = {key: exact(random, *size) * (0.25 if key == "w" else 1) for key, size in layer.parameters(shape).items()}  # else states explode
    given = {"x": x, **weights}
    tensors = {key: torch.tensor(array, requires_grad=True) for key, array in given.items()}
    y = theirs(tensors["x"], tensors)
    y.backward(torch.tensor(dy))
    wanted = {"y": y.detach().numpy()} | {f"gradient of {key}": np.asarray(tensor.grad) for key, tensor in tensors.items()}
    found = {}
    for dtype in TOLERANCE:
        ops = backends.get("cpu", dtype)
        got = computed(ops, layer, x, weights, dy)
        if layer.causal and steps > 1:
            got["in pieces"], wanted["in pieces"] = in_pieces(ops, layer, x, weights, int(random.integers(1, steps))), wanted["y"]
        found[dtype] = max(float(abs(got[key] - wanted[key]).max()) / max(1.0, float(abs(wanted[key]).max())) for key in wanted)
    return found


def exact(random: np.random.Generator, *shape: int) -> np.ndarray:
    """Numbers that float32 represents."""
    return random.standard_normal(shape, np.float32).astype(float)


def prepared(ops: Any, layer: Layer, shape: tuple[int, ...], weights: dict[str, np.ndarray]) -> Run:
    run = Run({key: ops.upload(array.copy()) for key, array in weights.items()}, {key: ops.empty(array.shape) for key, array in weights.items()},
              {key: ops.empty(size) for key, size in layer.activations(shape, True).items()})
    run.m = {key: ops.upload(np.zeros(size)) for key, size in layer.state(shape).items()}
    return run


def computed(ops: Any, layer: Layer, x: np.ndarray, weights: dict[str, np.ndarray], dy: np.ndarray) -> dict[str, np.ndarray]:
    """Our output and gradients."""
    run, source = prepared(ops, layer, x.shape, weights), ops.upload(x.copy())
    y = layer.forward(ops, run, source)
    found = {"y": ops.download(y)}
    found["gradient of x"] = ops.download(layer.backward(ops, run, source, ops.upload(dy.copy())))
    return found | {f"gradient of {key}": ops.download(array) for key, array in run.g.items()}


def in_pieces(ops: Any, layer: Layer, x: np.ndarray, weights: dict[str, np.ndarray], cut: int) -> np.ndarray:
    """Our output of a stream that is read in two pieces."""
    state, parts = prepared(ops, layer, x.shape, weights).m, []
    for piece in (x[:cut], x[cut:]):
        run = prepared(ops, layer, piece.shape, weights)
        run.m = state
        parts.append(ops.download(layer.forward(ops, run, ops.upload(piece.copy()))))
    return np.concatenate(parts)


if __name__ == "__main__":
    main()
