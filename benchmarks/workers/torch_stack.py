"""A stack of our layers in PyTorch, step by step: each layer keeps what the next step needs, as users write it for generation."""

from collections.abc import Callable, Mapping
from math import sqrt
from typing import Any

import torch
from torch import nn
from torch.nn import functional

Tensors = Mapping[str, torch.Tensor]
Step = Callable[[torch.Tensor], torch.Tensor]

ACTIVATIONS: dict[str | None, Step] = {
    None: lambda x: x, "relu": torch.relu, "tanh": torch.tanh, "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_sigmoid": lambda x: x * torch.sigmoid(1.702 * x),
}


def below(weights: Tensors, name: str) -> dict[str, torch.Tensor]:
    return {key[len(name) + 1 :]: value for key, value in weights.items() if key.startswith(f"{name}/")}


def kept(held: dict[str, torch.Tensor], name: str, x: torch.Tensor, window: int) -> torch.Tensor:
    """The last ``window`` values of x (N, …) along the second axis, including this one."""
    found = torch.cat([held[name], x[:, None]], 1) if name in held else x[:, None]
    held[name] = found = found[:, -window:]
    return found


def loaded(module: nn.Module, **weights: torch.Tensor) -> nn.Module:
    """A module with these weights."""
    module.load_state_dict(weights)
    return module


def linear(W: torch.Tensor, b: torch.Tensor) -> nn.Module:
    return loaded(nn.Linear(*W.shape), weight=W.T, bias=b)


def norm(layer: Any, w: Tensors, features: int) -> Step:
    if "beta" in w:
        return loaded(nn.LayerNorm(features, layer.epsilon), weight=w["gamma"], bias=w["beta"])
    return loaded(nn.RMSNorm(features, layer.epsilon), weight=w["gamma"])


def recurrent(layer: Any, w: Tensors, features: int) -> Step:
    held: dict[str, torch.Tensor] = {}
    cell, W, b = layer.cell, w["W"], w["b"].reshape(-1)
    if cell == "lstm":
        rnn = loaded(nn.LSTM(features, layer.units), weight_ih_l0=W.T, weight_hh_l0=w["U"].T, bias_ih_l0=b, bias_hh_l0=torch.zeros_like(b))
        state: Any = None

        def lstm(x: torch.Tensor) -> torch.Tensor:
            nonlocal state
            y, state = rnn(x[None], state)
            return y[0]

        return lstm
    if cell == "mingru":
        sums = linear(W, b)

        def mingru(x: torch.Tensor) -> torch.Tensor:
            z, candidate = sums(x).chunk(2, -1)
            h = held.get("h", torch.zeros_like(candidate))
            held["h"] = torch.lerp(h, candidate, torch.sigmoid(z))
            return held["h"]

        return mingru
    if cell == "sru":
        sums, rest, v = linear(W, b[: 3 * layer.units]), b[3 * layer.units :], w["w"]

        def sru(x: torch.Tensor) -> torch.Tensor:
            candidate, f, r = sums(x).chunk(3, -1)
            c = held.get("c", torch.zeros_like(f))
            f, r = torch.sigmoid(f + v[0] * c), torch.sigmoid(r + v[1] * c)
            held["c"] = torch.lerp(candidate, c, f)
            return torch.lerp(x + rest, held["c"], r)

        return sru
    assert cell == "qrnn"
    sums = linear(torch.cat([w["V"], W]), b)

    def qrnn(x: torch.Tensor) -> torch.Tensor:
        before = held.get("x", torch.zeros_like(x))
        n, f, o = sums(torch.cat([before, x], -1)).chunk(3, -1)
        f, held["x"] = torch.sigmoid(f), x
        held["c"] = torch.lerp(torch.tanh(n), held.get("c", torch.zeros_like(f)), f)
        return torch.sigmoid(o) * held["c"]

    return qrnn


def convolution(layer: Any, w: Tensors, features: int) -> Step:
    held: dict[str, torch.Tensor] = {}
    span, act = (layer.kernel_size - 1) * layer.dilation_rate, ACTIVATIONS[layer.activation]
    conv = loaded(nn.Conv1d(features, layer.filters, layer.kernel_size, dilation=layer.dilation_rate), weight=w["W"].permute(2, 1, 0), bias=w["b"])

    def step(x: torch.Tensor) -> torch.Tensor:
        before = held.get("x", torch.zeros(len(x), features, span))
        seen = torch.cat([before, x[:, :, None]], 2)
        held["x"] = seen[:, :, 1:]
        return act(conv(seen)[:, :, 0])

    return step


def heads(layer: Any, w: Tensors, features: int) -> Step:
    held: dict[str, torch.Tensor] = {}
    A, K = layer.num_heads, layer.key_dim
    inner = linear(torch.cat([w["Wq"], w["Wk"], w["Wv"]], 1), torch.cat([w["bq"], w["bk"], w["bv"]]))
    outer = linear(w["Wo"], w["bo"])

    def step(x: torch.Tensor) -> torch.Tensor:
        q, k, v = inner(x).unflatten(-1, (3, A, K)).unbind(1)
        k, v = kept(held, "k", k, layer.window), kept(held, "v", v, layer.window)
        y = functional.scaled_dot_product_attention(q[:, :, None], k.transpose(1, 2), v.transpose(1, 2))
        return outer(y[:, :, 0].flatten(1))

    return step


def one_head(layer: Any, w: Tensors, features: int) -> Step:
    held: dict[str, torch.Tensor] = {}
    gates = torch.sigmoid(w["s"])
    c, f = (gates[2] @ w["Wv"] + w["bv"]).chunk(2)
    value, query = torch.sigmoid(f) * torch.tanh(c), gates[0] * gates[1]
    queries = nn.Sequential(linear(w["Wq"], w["bq"]), norm(layer, w, features))

    def step(x: torch.Tensor) -> torch.Tensor:
        q = query * queries(x)
        seen = kept(held, "x", x, layer.window)
        y = functional.scaled_dot_product_attention(q[:, None], seen, seen, scale=1 / sqrt(features))
        return value * y[:, 0]

    return step


def feed_forward(layer: Any, w: Tensors, features: int) -> Step:
    wide, act = linear(w["W"], w["b"]), ACTIVATIONS[layer.activation]
    if layer.fold:
        return lambda x: act(wide(x)).unflatten(-1, (-1, features)).sum(1)
    back = linear(w["V"], w["c"])
    return lambda x: back(act(wide(x)))


def residual(layer: Any, w: Tensors, features: int) -> Step:
    inner = chain(layer.chain, w, features)
    return lambda x: x + inner(x)


def branches(layer: Any, w: Tensors, features: int) -> Step:
    first, second = (chain(inner, below(w, name), features) for name, inner in layer.chains.items())
    return lambda x: first(x) + second(x)


STEPS: dict[str, Callable[[Any, Tensors, int], Step]] = {
    "LayerNormalization": norm, "RMSNormalization": norm, "Recurrent": recurrent, "QRNN": recurrent, "Conv1D": convolution,
    "MultiHeadAttention": heads, "SingleHeadAttention": one_head, "FeedForward": feed_forward, "Residual": residual, "Add": branches,
    "Activation": lambda layer, w, features: ACTIVATIONS[layer.activation],
}


def chain(layers: Any, w: Tensors, features: int) -> Step:
    """The layers of one of our chains, one behind the other."""
    steps = [STEPS[type(layer).__name__](layer, below(w, name), shape[-1]) for name, layer, shape in layers.inputs((1, 1, features))]

    def step(x: torch.Tensor) -> torch.Tensor:
        for each in steps:
            x = each(x)
        return x

    return step
