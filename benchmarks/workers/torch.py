"""PyTorch's side of the benchmarks: the model as its users write it."""

import os
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.harness import serve, timed
from benchmarks.workers.data import batch, layer, weights
from numba_rnnlm import cells
from numba_rnnlm.config import ModelConfig
from numba_rnnlm.layers import Recurrent
from numba_rnnlm.model import build


def recurrent(cell: str, inputs: int, hidden: int, layers: int) -> nn.Module:
    kind = {"lstm": nn.LSTM, "gru": nn.GRU}.get(cell, nn.RNN)
    options = {} if cell in ("lstm", "gru") else {"nonlinearity": cell}
    return kind(inputs, hidden, layers, **options)


def parameters(cell: str, hidden: int, layer: int, W: np.ndarray, U: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
    """Our weights of a layer under PyTorch's names."""
    bias, zero = b.reshape(-1), np.zeros(b.size, np.float32)
    if cell == "gru":  # our slots are m r u n; W covers r u n, U covers m r u
        U = np.concatenate([U[:, hidden:], U[:, :hidden]], axis=1)
        bias = b[1:].reshape(-1)
        zero = np.concatenate([np.zeros(2 * hidden, np.float32), b[0]])
    return {f"weight_ih_l{layer}": W.T, f"weight_hh_l{layer}": U.T, f"bias_ih_l{layer}": bias, f"bias_hh_l{layer}": zero}


def tensors(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(np.ascontiguousarray(value)) for name, value in arrays.items()}


def set_precision(precision: str) -> None:
    """Whether products may round their factors to TF32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"


class LanguageModel(nn.Module):
    def __init__(self, cell: str, vocabulary: int, embedding: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.rnn = recurrent(cell, embedding, hidden, layers)
        self.output = nn.Linear(hidden, vocabulary)

    def forward(self, inputs: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        hidden, state = self.rnn(self.embedding(inputs), state)
        return self.output(hidden), state


def detach(state: Any) -> Any:
    return tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()


class Training:
    def __init__(self, backend: str, precision: str, cell: str, **shape: int) -> None:
        device = "cuda" if backend == "cuda" else "cpu"
        set_precision(precision)
        vocabulary, embedding, hidden, layers = (shape[key] for key in ("vocabulary", "embedding", "hidden", "layers"))
        self.model = LanguageModel(cell, vocabulary, embedding, hidden, layers)
        ours = weights(build(ModelConfig(cell, hidden, layers, embedding, vocabulary_size=vocabulary)).layout)
        new = {"embedding.weight": ours["embedding/W"], "output.weight": ours["dense/W"].T, "output.bias": ours["dense/b"]}
        for number in range(layers):
            scope = cell if number == 0 else f"{cell}_{number}"
            found = parameters(cell, hidden, number, *(ours[f"{scope}/{key}"] for key in "WUb"))
            new |= {f"rnn.{name}": value for name, value in found.items()}
        self.model.load_state_dict(tensors(new))
        self.model.to(device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        inputs, targets = batch(shape)
        self.inputs = torch.tensor(inputs).long().to(device)
        self.targets = torch.tensor(targets).long().reshape(-1).to(device)
        self.state = None
        loss = self.backward()
        # PyTorch has two biases where the equations have one; their gradients are equal and count once.
        counted = [
            value.grad[2 * hidden :] if name.startswith("rnn.bias_hh") else value.grad  # GRU: b_hn stands apart
            for name, value in self.model.named_parameters()
            if cell == "gru" or not name.startswith("rnn.bias_hh")
        ]
        norm = float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(part) for part in counted])))
        self.figures = {"loss": loss, "gradient_norm": norm}

    def backward(self) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        logits, state = self.model(self.inputs, self.state)
        self.state = detach(state)
        loss = nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), self.targets)
        loss.backward()
        return loss.item()

    def step(self) -> None:
        self.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimizer.step()

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
        given = layer(shape, Recurrent(hidden, True, cells.get(cell).name).parameters(shape))
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


class Worker:
    def __call__(self, command: str, **request: Any) -> dict[str, Any]:
        return self.check(**request) if command == "check" else self.run(**request)

    def check(self, task: str, **request: Any) -> dict[str, Any]:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        self.task = {"training": Training, "layer": Layer}[task](**request)
        self.task.step()
        return self.task.figures | self.run(3)

    def run(self, repeat: int) -> dict[str, Any]:
        return {"seconds": timed(self.task.step, repeat, self.task.wait)}


if __name__ == "__main__":
    serve(Worker())
