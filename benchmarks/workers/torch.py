"""The worker for PyTorch."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from benchmarks.harness import serve
from benchmarks.workers import data
from benchmarks.workers.requests import Requests
from benchmarks.workers.torch_model import LanguageModel, backward, recurrent, update, write
from benchmarks.workers.torch_stack import chain, linear
from numba_rnnlm.config import ModelConfig
from numba_rnnlm.language_model.architecture import build
from numba_rnnlm.layers import LAYERS, Recurrent
from numba_rnnlm.layers.chain import Chain
from numba_rnnlm.network import Graph


def parameters(cell: str, hidden: int, layer: int, W: np.ndarray, U: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
    """Our weights of a layer, with PyTorch's names and layout."""
    bias, zero = b.reshape(-1), np.zeros(b.size, np.float32)
    if cell == "gru":  # our slots are m r u n; W covers r u n, U covers m r u
        U = np.concatenate([U[:, hidden:], U[:, :hidden]], axis=1)
        bias = b[1:].reshape(-1)
        zero = np.concatenate([np.zeros(2 * hidden, np.float32), b[0]])
    return {f"weight_ih_l{layer}": W.T, f"weight_hh_l{layer}": U.T, f"bias_ih_l{layer}": bias, f"bias_hh_l{layer}": zero}


def tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(np.ascontiguousarray(value)) for name, value in arrays.items()}


def transplanted(cell: str, shape: Mapping[str, int], weights: Mapping[str, np.ndarray] | None = None) -> LanguageModel:
    """The language model with our weights, by default the same as in all benchmarks."""
    vocabulary, embedding, hidden, layers = (shape[key] for key in ("vocabulary", "embedding", "hidden", "layers"))
    if weights is None:
        weights = data.weights(build(ModelConfig(cell, hidden, layers, embedding, vocabulary_size=vocabulary)).layout)
    new = {"embedding.weight": weights["embedding/W"], "output.weight": weights["dense/W"].T, "output.bias": weights["dense/b"]}
    for number in range(layers):
        scope = cell if number == 0 else f"{cell}_{number}"
        found = parameters(cell, hidden, number, *(weights[f"{scope}/{key}"] for key in "WUb"))
        new |= {f"rnn.{name}": value for name, value in found.items()}
    model = LanguageModel(cell, vocabulary, embedding, hidden, layers)
    model.load_state_dict(tensors(new))
    return model


def set_precision(precision: str) -> None:
    """Allow products to round their factors to TF32 if ``precision`` is "tf32"."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"


class OnCpu:
    """A task that never has to wait for a device."""

    def wait(self) -> None:
        pass


class Training:
    def __init__(self, backend: str, precision: str, cell: str, **shape: int) -> None:
        device, hidden = "cuda" if backend == "cuda" else "cpu", shape["hidden"]
        set_precision(precision)
        self.model = transplanted(cell, shape).to(device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        inputs, targets = data.batch(shape)
        self.inputs, self.targets = torch.tensor(inputs).long().to(device), torch.tensor(targets).long().to(device)
        self.state = None
        loss = self.backward()
        # PyTorch has two biases where the equations have one; their gradients are equal, so only one is counted.
        counted = [
            value.grad[2 * hidden :] if name.startswith("rnn.bias_hh") else value.grad  # a GRU's b_hn is a bias of its own
            for name, value in self.model.named_parameters()
            if cell == "gru" or not name.startswith("rnn.bias_hh")
        ]
        norm = float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(part) for part in counted])))
        self.figures = {"loss": loss, "gradient_norm": norm}

    def backward(self) -> float:
        loss, self.state = backward(self.model, self.optimizer, self.inputs, self.targets, self.state)
        return float(loss)

    def step(self) -> None:
        self.backward()
        update(self.model, self.optimizer)

    def wait(self) -> None:
        if self.inputs.is_cuda:
            torch.cuda.synchronize()


class Layer:
    def __init__(
        self, backend: str, precision: str, cell: str, streams: int, steps: int, hidden: int, backward: bool
    ) -> None:
        device, kind = "cuda" if backend == "cuda" else "cpu", torch.float16 if precision == "fp16" else torch.float32
        set_precision(precision)
        shape = (steps, streams, hidden)
        given = data.layer(shape, Recurrent(hidden, True, cell).parameters(shape))
        self.rnn = recurrent(cell, hidden, hidden, 1)
        self.rnn.load_state_dict(tensors(parameters(cell, hidden, 0, *(given[name] for name in "WUb"))))
        self.rnn.to(device, kind)
        self.x = torch.tensor(given["x"]).to(device, kind).requires_grad_(backward)
        self.dy, self.backward = torch.tensor(given["dy"]).to(device, kind), backward
        with torch.no_grad():
            self.figures = {"output": float(torch.linalg.vector_norm(self.rnn(self.x)[0].float()))}
        if backward:
            self.step()
            self.figures["gradient_norm"] = float(torch.linalg.vector_norm(self.x.grad.float()))

    def step(self) -> None:
        if not self.backward:
            with torch.no_grad():
                self.rnn(self.x)
            return
        self.x.grad = None
        self.rnn.zero_grad(set_to_none=True)
        self.rnn(self.x)[0].backward(self.dy)

    def wait(self) -> None:
        if self.x.is_cuda:
            torch.cuda.synchronize()


class Conv1D(nn.Module):
    """Our convolution in PyTorch's layout (streams, features, steps)."""

    def __init__(self, weights: Mapping[str, np.ndarray], padding: str = "valid", dilation_rate: int = 1, strides: int = 1, **ours: Any) -> None:
        super().__init__()
        K, D, F = weights["W"].shape
        groups = ours.get("groups", 1)
        self.conv = nn.Conv1d(D * groups, F, K, strides, dilation=dilation_rate, groups=groups)
        self.conv.load_state_dict(tensors({"weight": weights["W"].transpose(2, 1, 0), "bias": weights["b"]}))
        self.before = (K - 1) * dilation_rate if padding == "causal" else 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(nn.functional.pad(x, (self.before, 0)) if self.before else x)

    def gradients(self) -> dict[str, Any]:
        return {"W": self.conv.weight.grad, "b": self.conv.bias.grad}


class MultiHeadAttention(nn.Module):
    """Our self-attention, causal and without biases, in PyTorch's layout (streams, steps, features)."""

    def __init__(self, weights: Mapping[str, np.ndarray], num_heads: int, **ours: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(weights["Wq"].shape[0], num_heads, bias=False, batch_first=True)
        own = {"in_proj_weight": np.concatenate([weights[f"W{name}"].T for name in "qkv"]), "out_proj.weight": weights["Wo"].T}
        self.attention.load_state_dict(tensors(own))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        y: torch.Tensor = self.attention(x, x, x, attn_mask=mask, need_weights=False, is_causal=True)[0]
        return y

    def gradients(self) -> dict[str, Any]:
        parts = self.attention.in_proj_weight.grad.chunk(3)
        return {f"W{name}": part for name, part in zip("qkv", parts, strict=True)} | {"Wo": self.attention.out_proj.weight.grad}


MODULES = {  # our class → the module that computes the same, and where its axes are in (steps, streams, features)
    "Conv1D": (Conv1D, (1, 2, 0)), "MultiHeadAttention": (MultiHeadAttention, (1, 0, 2)),
}


class One(OnCpu):
    """One layer of any kind: the forward pass and all gradients."""

    def __init__(self, kind: str, shape: list[int], arguments: dict[str, Any]) -> None:
        streams, steps, features = shape
        size, layer = (steps, streams, features), LAYERS[kind](**arguments)
        given = data.one(size, layer.output(size), layer.parameters(size))
        x, dy = given.pop("x"), given.pop("dy")
        module, axes = MODULES[kind]
        self.module = module(given, **arguments)
        self.x = torch.tensor(x.transpose(axes).copy(), requires_grad=True)
        self.dy = torch.tensor(dy.transpose(axes).copy())
        self.figures = {"output": float(torch.linalg.vector_norm(self.step()))}
        self.figures |= {f"gradient of {name}": float(torch.linalg.vector_norm(array))
                         for name, array in (self.module.gradients() | {"x": self.x.grad}).items()}  # fmt: skip

    def step(self) -> torch.Tensor:
        self.x.grad = None
        self.module.zero_grad(set_to_none=True)
        y: torch.Tensor = self.module(self.x)
        y.backward(self.dy)
        return y.detach()


class ListingModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        size = data.LISTING
        self.embedding = nn.Embedding(size["vocabulary"], size["embedding"])
        self.first = nn.LSTM(size["embedding"], size["first"], batch_first=True)
        self.second = nn.LSTM(size["first"], size["second"], batch_first=True)
        self.output = nn.Linear(size["second"], size["vocabulary"])

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.output(self.second(self.first(self.embedding(inputs))[0])[0][:, -1])


class Listing(OnCpu):
    def __init__(self, backend: str) -> None:
        size, ours = data.LISTING, data.weights(Graph(data.listing()).layout)
        new = {"embedding.weight": ours["embedding/W"], "output.weight": ours["dense/W"].T, "output.bias": ours["dense/b"]}
        for part, name in (("first", "lstm"), ("second", "lstm_1")):
            found = parameters("lstm", size[part], 0, *(ours[f"{name}/{key}"] for key in "WUb"))
            new |= {f"{part}.{key}": value for key, value in found.items()}
        self.model = ListingModel()
        self.model.load_state_dict(tensors(new))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3)
        self.inputs, self.targets = (torch.tensor(array).long() for array in data.examples())
        self.figures = {f"loss of step {number}": self.step() for number in range(3)}

    def step(self) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(self.model(self.inputs), self.targets)
        loss.backward()
        self.optimizer.step()
        return float(loss.item())


class Generation(OnCpu, Requests):
    def __init__(self, backend: str, weights: str, cell: str, **shape: int) -> None:
        self.shape, self.figures = shape, dict[str, float]()
        self.model = transplanted(cell, shape)
        self.prompts = torch.tensor(data.prompts(shape["vocabulary"], shape["streams"])).long()[None]

    def request(self, length: int) -> None:
        write(self.model, self.prompts, length, 1.0)

    def step(self) -> None:
        self.request(self.shape["steps"])

    def greedy(self, length: int) -> dict[str, Any]:
        return {"ids": write(self.model, self.prompts, length, 0).T.tolist()}


class Stacked(OnCpu):
    """Generation with the layers of a stack."""

    def __init__(self, backend: str, weights: str, vocabulary: int, embedding: int, body: list[dict[str, Any]], streams: int, steps: int) -> None:
        self.graph = data.stack(vocabulary, embedding, body)
        self.weights = tensors(data.weights(self.graph.layout))
        self.steps, self.figures = steps, dict[str, float]()
        self.prompts = torch.tensor(data.prompts(vocabulary, streams)).long()
        self.size = embedding

    @torch.inference_mode()
    def write(self, length: int, temperature: float) -> torch.Tensor:
        step, ids, written = chain(Chain(self.graph.layers[1:-1]), self.weights, self.size), self.prompts, []
        embedding, output = nn.Embedding.from_pretrained(self.weights["embedding/W"]), linear(self.weights["dense/W"], self.weights["dense/b"])
        for _ in range(length):
            logits = output(step(embedding(ids)))
            ids = logits.argmax(-1) if temperature == 0 else torch.multinomial(torch.softmax(logits / temperature, -1), 1)[:, 0]
            written.append(ids)
        return torch.stack(written, 1)

    def step(self) -> None:
        self.write(self.steps, 1.0)

    def greedy(self, length: int) -> dict[str, Any]:
        return {"ids": self.write(length, 0).tolist()}


class Scoring(OnCpu):
    SENTENCES = 64  # batch size; sentences in a batch have about the same length

    def __init__(self, backend: str, sentences: int, cell: str, **shape: int) -> None:
        self.model = transplanted(cell, shape)
        self.sentences = [torch.tensor(ids).long() for ids in data.sentences(shape["vocabulary"], sentences)]
        totals = self.step().double()
        self.figures = {"total": float(totals.sum()), "norm": float(torch.linalg.vector_norm(totals))}

    @torch.inference_mode()
    def step(self) -> torch.Tensor:
        totals = torch.empty(len(self.sentences))
        order = sorted(range(len(self.sentences)), key=lambda index: len(self.sentences[index]))
        for first in range(0, len(order), self.SENTENCES):
            group = order[first : first + self.SENTENCES]
            ids = pad_sequence([self.sentences[index] for index in group], padding_value=-1)
            inputs, targets = ids[:-1].clamp(min=0), ids[1:]
            logits, _ = self.model(inputs, None)
            losses = nn.functional.cross_entropy(
                logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="none"
            )
            totals[group] = -losses.reshape(targets.shape).sum(0)
        return totals


if __name__ == "__main__":
    if "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    serve({"training": Training, "layer": Layer, "one": One, "listing": Listing, "generation": Generation, "stacked": Stacked, "scoring": Scoring})
