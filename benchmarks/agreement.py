"""Compares layers with PyTorch's, or with the same equations in PyTorch: outputs, states and all gradients, in random configurations.

    python -m benchmarks.agreement
    python -m benchmarks.agreement --layers Conv1D sru --configurations 1000

It runs in an interpreter that has Numba and PyTorch. For each layer it prints the largest difference from PyTorch in float64, relative to the largest
number of its array: of this library in float64 and in float32, and of PyTorch in float32, which shows what is lost where large numbers cancel (as in
the gradient of a norm of two features). It ends with 1 if a difference exceeds 1e-10 in float64, or both 1e-5 and three times PyTorch's in float32.
"""
import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from numba_rnnlm import backends
from numba_rnnlm.checking.cases import Case, gradient_of
from numba_rnnlm.layers import (
    QRNN,
    Activation,
    AdditiveAttention,
    Attention,
    AttentionPooling,
    AveragePooling1D,
    Conv1D,
    FeedForward,
    Flatten,
    GlobalAveragePooling1D,
    GlobalMaxPooling1D,
    Highway,
    Layer,
    LayerNormalization,
    MaxPooling1D,
    MultiHeadAttention,
    Recurrent,
    RMSNormalization,
    SingleHeadAttention,
)

Tensors = dict[str, torch.Tensor]
PLAIN = {"linear": lambda x: x, "relu": functional.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "silu": functional.silu,
         "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"), "gelu_sigmoid": lambda x: x * torch.sigmoid(1.702 * x)}  # fmt: skip
LIMITS = {"float64": 1e-10, "float32": 1e-5}


@dataclass
class Draw:
    """A layer with an input of this shape, and the same computation in PyTorch: (x, weights, state) → output; it replaces the arrays of the state."""

    layer: Layer
    shape: tuple[int, ...]
    peer: Callable[[torch.Tensor, Tensors, Tensors], torch.Tensor]


# Time loops


def stepped(step: Callable[..., tuple[torch.Tensor, ...]], sums: torch.Tensor, w: torch.Tensor | None, state: Tensors, sequences: bool) -> torch.Tensor:
    """All steps of a cell: ``step(slots, states, w)`` → states; sums (T, N, G, H)."""
    s, found = list(state["s"].unbind(1)), []
    for z in sums:
        s = list(step(z.unbind(1), s, w))
        found.append(s[0])
    state["s"] = torch.stack(s, 1)
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


CELLS = {"mingru": mingru, "minlstm": minlstm, "sru": sru, "qrnn": qrnn, "indrnn": indrnn}


def scan(name: str) -> Callable[[np.random.Generator], Draw]:
    def draw(random: np.random.Generator) -> Draw:
        (T, N, D, H), sequences = random.integers(1, [20, 6, 12, 12]), bool(random.integers(2))
        if random.integers(2):
            D = H  # where SRU's highway has no matrix
        layer = Recurrent(int(H), sequences, name)

        def peer(x: torch.Tensor, p: Tensors, state: Tensors) -> torch.Tensor:
            sums = x @ p["W"]
            if name == "sru" and D == H:
                sums = torch.cat([sums, x], -1)
            return stepped(CELLS[name], sums.unflatten(-1, (-1, int(H))) + p["b"], p.get("w"), state, sequences)

        return Draw(layer, (int(T), int(N), int(D)), peer)

    return draw


def quasi(random: np.random.Generator) -> Draw:
    (T, N, D, H), sequences = map(int, random.integers(1, [20, 6, 12, 12])), bool(random.integers(2))

    def peer(x: torch.Tensor, p: Tensors, state: Tensors) -> torch.Tensor:
        before = torch.cat([state["x"][None], x[:-1]])
        state["x"] = x[-1]
        return stepped(qrnn, (x @ p["W"] + before @ p["V"]).unflatten(-1, (3, H)) + p["b"], None, state, sequences)

    return Draw(QRNN(H, sequences), (T, N, D), peer)


# Norms and layers of each vector


def shape_of(random: np.random.Generator, least: int = 1) -> tuple[int, ...]:
    return tuple(map(int, random.integers([1, 1, least], [9, 9, 40])))[random.integers(2) :]


def layer_norm(random: np.random.Generator) -> Draw:
    layer = LayerNormalization(float(random.choice([1e-3, 1e-5])), bool(random.integers(2)), bool(random.integers(2)))
    return Draw(layer, shape_of(random, 2), lambda x, p, state: functional.layer_norm(x, x.shape[-1:], p.get("gamma"), p.get("beta"), layer.epsilon))


def rms_norm(random: np.random.Generator) -> Draw:
    layer = RMSNormalization(float(random.choice([1e-6, 1e-3])))
    return Draw(layer, shape_of(random), lambda x, p, state: functional.rms_norm(x, x.shape[-1:], p["gamma"], layer.epsilon))


def activation(random: np.random.Generator) -> Draw:
    name = str(random.choice([*PLAIN]))
    return Draw(Activation(name), shape_of(random), lambda x, p, state: PLAIN[name](x))


def highway(random: np.random.Generator) -> Draw:
    name = str(random.choice(["tanh", "relu", "sigmoid", "linear"]))

    def peer(x: torch.Tensor, p: Tensors, state: Tensors) -> torch.Tensor:
        t = torch.sigmoid(x @ p["T"] + p["c"])
        return t * PLAIN[name](x @ p["W"] + p["b"]) + (1 - t) * x

    return Draw(Highway(name), shape_of(random), peer)


def feed_forward(random: np.random.Generator) -> Draw:
    name, fold, shape = str(random.choice([*PLAIN])), bool(random.integers(2)), shape_of(random)
    units = int(shape[-1] * random.integers(1, 5))

    def peer(x: torch.Tensor, p: Tensors, state: Tensors) -> torch.Tensor:
        wide = PLAIN[name](x @ p["W"] + p["b"])
        return wide.unflatten(-1, (-1, shape[-1])).sum(-2) if fold else wide @ p["V"] + p["c"]

    return Draw(FeedForward(units, name, fold), shape, peer)


# Attention


def attended(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, layer: Any, held: torch.Tensor | None, score: Any = None) -> torch.Tensor:
    """Σ softmax(scores) values, with q (T, N, A, K), keys (S, N, A, K), values (S, N, A, V)."""
    steps, reach = len(q), len(keys)
    scores = torch.einsum("tnak,snak->tnas", q, keys) if score is None else score(q[:, :, :, None], keys.movedim(0, 2)[None])
    place, key = torch.arange(steps)[:, None] + reach - steps, torch.arange(reach)
    seen = (key <= place) & (key > place - (layer.window or reach)) if layer.masks else torch.ones(steps, reach, dtype=torch.bool)
    seen = seen[:, None, None] & (key >= reach - steps - (0 if held is None else held[:, None, None]))
    return torch.einsum("tnas,snav->tnav", torch.softmax(scores.masked_fill(~seen, -torch.inf), -1), values)


def remembered(state: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    """The rows of the state in front of those of x; the last ones are the new state."""
    if not state:
        return x
    seen = torch.cat([state[name].swapaxes(0, 1), x])
    state[name] = seen[len(x) :].swapaxes(0, 1)
    return seen


def masked(random: np.random.Generator) -> dict[str, Any]:
    return [{}, {"use_causal_mask": True}, {"use_causal_mask": True, "window": int(random.integers(2, 12))}][random.integers(3)]


def sequence(random: np.random.Generator) -> tuple[int, ...]:
    """At least two steps: where a step sees one key only, gradients of the weights are zero, and their errors relative to nothing."""
    return tuple(map(int, random.integers([2, 1, 1], [20, 5, 12])))


def rotated(x: torch.Tensor, start: int) -> torch.Tensor:
    half = x.shape[-1] // 2
    angles = torch.outer(torch.arange(len(x), dtype=torch.float64) + start, 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half))
    pairs = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles).to(x.dtype.to_complex())[:, None, None]
    return torch.cat([pairs.real, pairs.imag], -1)


def heads(random: np.random.Generator) -> Draw:
    A, K, V = map(int, random.integers(1, [5, 9, 9]))
    rotary = bool(random.integers(2)) and K % 2 == 0
    layer = MultiHeadAttention(A, K, V, use_bias=bool(random.integers(2)), rotary=rotary, **masked(random))

    def peer(x: torch.Tensor, p: Tensors, state: Tensors) -> torch.Tensor:
        q, k, v = (x @ p[f"W{name}"] + p.get(f"b{name}", 0) for name in "qkv")
        k, v, held = remembered(state, "k", k), remembered(state, "v", v), state.get("held")
        q, k, v = (each.unflatten(-1, (A, -1)) for each in (q, k, v))
        if rotary:
            q, k = rotated(q, len(k) - len(q)), rotated(k, 0)
        y = attended(q / K**0.5, k, v, layer, held).flatten(-2) @ p["Wo"] + p.get("bo", 0)
        count(state, x)
        return y

    return Draw(layer, sequence(random), peer)


def count(state: Tensors, x: torch.Tensor) -> None:
    if state:
        state["held"] = state["held"] + len(x)


def of_inputs(kind: Any) -> Callable[[np.random.Generator], Draw]:
    def draw(random: np.random.Generator) -> Draw:
        layer = kind(bool(random.integers(2)), **masked(random), **({"score_mode": str(random.choice(["dot", "concat"]))} if kind is Attention else {}))

        def peer(x: torch.Tensor, p: Tensors, state: Tensors) -> torch.Tensor:
            seen, held, scale = remembered(state, "x", x)[:, :, None], state.get("held"), p.get("scale", torch.ones((), dtype=x.dtype))
            score = {
                "additive": lambda q, k: (scale * torch.tanh(q + k)).sum(-1),
                "dot": lambda q, k: (q * k).sum(-1) * scale.squeeze(),
                "concat": lambda q, k: p["concat_score_weight"].squeeze() * torch.tanh(scale.squeeze() * (q + k)).sum(-1),
            }[getattr(layer, "score_mode", "additive")]
            y = attended(x[:, :, None], seen, seen, layer, held, score)[:, :, 0]
            count(state, x)
            return y

        return Draw(layer, sequence(random), peer)

    return draw


def single(random: np.random.Generator) -> Draw:
    layer, shape = SingleHeadAttention(window=[None, int(random.integers(2, 12))][random.integers(2)], epsilon=1e-5), sequence(random)
    shape = (*shape[:2], shape[2] + 1)

    def peer(x: torch.Tensor, p: Tensors, state: Tensors) -> torch.Tensor:
        s, held, seen = torch.sigmoid(p["s"]), state.get("held"), remembered(state, "x", x)
        q = s[0] * functional.layer_norm(x @ p["Wq"] + p["bq"], x.shape[-1:], p["gamma"], p["beta"], 1e-5) / x.shape[-1] ** 0.5
        c, f = (s[2] @ p["Wv"] + p["bv"]).chunk(2)
        y = attended(q[:, :, None], (s[1] * seen)[:, :, None], (torch.sigmoid(f) * torch.tanh(c) * seen)[:, :, None], layer, held)[:, :, 0]
        count(state, x)
        return y

    return Draw(layer, shape, peer)


def pooling(random: np.random.Generator) -> Draw:
    layer = AttentionPooling(bool(random.integers(2)))

    def peer(x: torch.Tensor, p: Tensors, state: Tensors) -> torch.Tensor:
        scores = x @ p["W"]
        if not layer.return_sequences:
            return (torch.softmax(scores, 0) * x).sum(0)
        scores = torch.cat([torch.where(state["held"][:, None] > 0, state["log"], -torch.inf)[None], scores])
        seen = torch.cat([state["mean"][None], x])
        y = torch.stack([(torch.softmax(scores[:t], 0) * seen[:t]).sum(0) for t in range(2, len(seen) + 1)])
        state |= {"mean": y[-1], "log": torch.logsumexp(scores, 0), "held": torch.ones_like(state["held"])}
        return y

    return Draw(layer, sequence(random), peer)


# Convolution and pooling

Drawn = tuple[Layer, Callable[[torch.Tensor, Tensors], torch.Tensor]]  # of x (T, N, D) and the weights
CONVOLUTION_ACTIVATIONS: dict[str | None, Callable[[torch.Tensor], torch.Tensor]] = {
    None: lambda y: y, "softmax": lambda y: torch.softmax(y, -1), **{name: f for name, f in PLAIN.items() if name != "relu"}}


def padded(x: torch.Tensor, span: int, stride: int, padding: str, value: float = 0.0) -> torch.Tensor:
    """x (N, D, T) as Keras pads it."""
    steps = x.shape[2]
    total = {"valid": 0, "causal": span - 1, "same": max((-(-steps // stride) - 1) * stride + span - steps, 0)}[padding]
    left = total if padding == "causal" else total // 2
    return functional.pad(x, (left, total - left), value=value)


def time_last(x: torch.Tensor) -> torch.Tensor:
    return x.permute(1, 2, 0)


def time_first(x: torch.Tensor) -> torch.Tensor:
    return x.permute(2, 0, 1)


def convolution(random: np.random.Generator, features: int) -> Drawn:
    groups = int(random.choice([g for g in range(1, features + 1) if features % g == 0]))
    kernel, stride, dilation = (int(size) for size in random.integers(1, (6, 4, 4)))
    stride, dilation = (stride, 1) if random.random() < 0.5 else (1, dilation)
    padding = str(random.choice(["valid", "same", "causal", "causal"]))
    activation = random.choice([*CONVOLUTION_ACTIVATIONS])
    layer = Conv1D(groups * int(random.integers(1, 20)), kernel, stride, padding, dilation_rate=dilation, groups=groups, activation=activation,
                          use_bias=bool(random.random() < 0.8))
    span = (kernel - 1) * dilation + 1

    def theirs(x: torch.Tensor, w: Tensors) -> torch.Tensor:
        y = functional.conv1d(padded(time_last(x), span, stride, padding), w["W"].permute(2, 1, 0), w.get("b"), stride, dilation=dilation, groups=groups)
        return CONVOLUTION_ACTIVATIONS[activation](time_first(y))

    return layer, theirs


def largest(random: np.random.Generator, features: int) -> Drawn:
    size, stride, padding = int(random.integers(1, 6)), int(random.integers(1, 5)), str(random.choice(["valid", "same"]))
    return MaxPooling1D(size, stride, padding), lambda x, w: time_first(
        functional.max_pool1d(padded(time_last(x), size, stride, padding, -torch.inf), size, stride))


def mean(random: np.random.Generator, features: int) -> Drawn:
    size, stride, padding = int(random.integers(1, 6)), int(random.integers(1, 5)), str(random.choice(["valid", "same"]))

    def theirs(x: torch.Tensor, w: Tensors) -> torch.Tensor:
        sums, counts = (functional.avg_pool1d(padded(time_last(each), size, stride, padding), size, stride) for each in (x, torch.ones_like(x)))
        return time_first(sums / counts)

    return AveragePooling1D(size, stride, padding), theirs


POOLS: dict[str, Callable[[np.random.Generator, int], Drawn]] = {
    "Conv1D": convolution,
    "MaxPooling1D": largest,
    "AveragePooling1D": mean,
    "GlobalMaxPooling1D": lambda random, features: (GlobalMaxPooling1D(), lambda x, w: x.amax(0)),
    "GlobalAveragePooling1D": lambda random, features: (GlobalAveragePooling1D(), lambda x, w: x.mean(0)),
    "Flatten": lambda random, features: (Flatten(), lambda x, w: x.transpose(0, 1).flatten(1)),
}


def over_steps(name: str) -> Callable[[np.random.Generator], Draw]:
    def draw(random: np.random.Generator) -> Draw:
        shape = tuple(map(int, random.integers((16, 1, 1), (40, 7, 25))))
        layer, theirs = POOLS[name](random, shape[-1])

        def peer(x: torch.Tensor, p: Tensors, state: Tensors) -> torch.Tensor:
            if not state:
                return theirs(x, p)
            seen = torch.cat([state["x"].swapaxes(0, 1), x])  # a causal convolution of the whole stream, whose beginning is left out
            state["x"] = seen[len(x) :].swapaxes(0, 1)
            return theirs(seen, p)[-len(x) :]

        return Draw(layer, shape, peer)

    return draw


LAYERS: dict[str, Callable[[np.random.Generator], Draw]] = {
    **{name: over_steps(name) for name in POOLS}, **{name: scan(name) for name in CELLS}, "QRNN, window 2": quasi,
    "LayerNormalization": layer_norm, "RMSNormalization": rms_norm, "Activation": activation, "Highway": highway, "FeedForward": feed_forward,
    "MultiHeadAttention": heads, "Attention": of_inputs(Attention), "AdditiveAttention": of_inputs(AdditiveAttention), "SingleHeadAttention": single,
    "AttentionPooling": pooling,
}


def computed(draw: Draw, case: Case, kind: torch.dtype) -> dict[str, np.ndarray]:
    """PyTorch's results, by the names that a case gives them."""
    x = torch.tensor(case.x, dtype=kind, requires_grad=True)
    weights = {name: torch.tensor(array, dtype=kind, requires_grad=True) for name, array in case.weights.items()}
    state = {name: torch.tensor(array, dtype=kind) for name, array in case.state.items()}
    y = draw.peer(x, weights, state)
    y.backward(torch.tensor(case.dy, dtype=kind))
    found = {"the output": y, "the gradient of the input": x.grad} | {f"the state {name!r}": array for name, array in state.items()}
    found |= {gradient_of(name): torch.zeros_like(array) if array.grad is None else array.grad for name, array in weights.items()}
    return {what: array.detach().numpy() for what, array in found.items()}


def error(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> float:
    """The largest difference, relative to the largest number of its array."""
    return max(float(abs(found[what] - array).max() / max(abs(array).max(), 1e-2)) for what, array in wanted.items())


def main() -> None:
    flags = argparse.ArgumentParser(description="Compare layers with PyTorch.", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    flags.add_argument("--layers", nargs="*", default=list(LAYERS), choices=list(LAYERS), metavar="NAME", help="names of layers and cells")
    flags.add_argument("--configurations", type=int, default=100, help="drawn for each layer")
    options = flags.parse_args()
    good = True
    for name in options.layers:
        random, worst = np.random.default_rng(0), dict.fromkeys([*LIMITS, "PyTorch in float32"], 0.0)
        for _ in range(options.configurations):
            draw = LAYERS[name](random)
            case = Case(draw.layer, draw.shape, random)
            wanted = computed(draw, case, torch.float64)
            found = {kind: case.backward(backends.get("cpu", kind)) for kind in LIMITS} | {"PyTorch in float32": computed(draw, case, torch.float32)}
            worst = {kind: max(worst[kind], error(found[kind], wanted)) for kind in worst}
        good &= all(worst[kind] <= max(limit, 3 * worst["PyTorch in float32"] if kind == "float32" else 0) for kind, limit in LIMITS.items())
        print(f"{name:24} {options.configurations} configurations, largest difference:", ", ".join(f"{kind} {value:.1e}" for kind, value in worst.items()), flush=True)
    sys.exit(not good)


if __name__ == "__main__":
    main()
