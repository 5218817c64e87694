"""PyTorch's side of the benchmarks: the model as its users write it, on the CPU."""

import os
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.harness import serve, timed
from benchmarks.workers.data import batch, weights
from numba_rnnlm.config import ModelConfig
from numba_rnnlm.model import build


class LanguageModel(nn.Module):
    def __init__(self, cell: str, vocabulary: int, embedding: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        kind = {"lstm": nn.LSTM, "gru": nn.GRU}.get(cell, nn.RNN)
        options = {} if cell in ("lstm", "gru") else {"nonlinearity": cell}
        self.rnn = kind(embedding, hidden, layers, **options)
        self.output = nn.Linear(hidden, vocabulary)

    def forward(self, inputs: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        hidden, state = self.rnn(self.embedding(inputs), state)
        return self.output(hidden), state


def detach(state: Any) -> Any:
    return tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()


class Worker:
    def __call__(self, command: str, **request: Any) -> dict[str, Any]:
        return self.check(**request) if command == "check" else self.run(**request)

    def check(self, cell: str, **shape: int) -> dict[str, Any]:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        vocabulary, embedding, hidden, layers = (shape[key] for key in ("vocabulary", "embedding", "hidden", "layers"))
        self.model = LanguageModel(cell, vocabulary, embedding, hidden, layers)
        layout = build(ModelConfig(cell, hidden, layers, embedding, vocabulary_size=vocabulary)).layout
        self.set_weights(cell, layers, hidden, weights(layout))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        inputs, targets = batch(shape)
        self.inputs, self.targets = torch.tensor(inputs).long(), torch.tensor(targets).long().reshape(-1)
        self.state = None
        loss = self.backward()
        # PyTorch has two biases where the equations have one; their gradients are equal and count once.
        counted = [
            value.grad[2 * hidden :] if name.startswith("rnn.bias_hh") else value.grad  # GRU: b_hn stands apart
            for name, value in self.model.named_parameters()
            if cell == "gru" or not name.startswith("rnn.bias_hh")
        ]
        norm = float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(part) for part in counted])))
        self.step()
        return {"loss": loss, "gradient_norm": norm, "seconds": timed(self.step)}

    def set_weights(self, cell: str, layers: int, hidden: int, ours: dict[str, np.ndarray]) -> None:
        new = {"embedding.weight": ours["embedding/W"], "output.weight": ours["dense/W"].T, "output.bias": ours["dense/b"]}
        for layer in range(layers):
            scope = cell if layer == 0 else f"{cell}_{layer}"
            W, U, b = (ours[f"{scope}/{key}"] for key in "WUb")
            bias, zero = b.reshape(-1), np.zeros(b.size, np.float32)
            if cell == "gru":  # our slots are m r u n; W covers r u n, U covers m r u
                U = np.concatenate([U[:, hidden:], U[:, :hidden]], axis=1)
                bias = b[1:].reshape(-1)
                zero = np.concatenate([np.zeros(2 * hidden, np.float32), b[0]])
            new |= {f"rnn.weight_ih_l{layer}": W.T, f"rnn.weight_hh_l{layer}": U.T, f"rnn.bias_ih_l{layer}": bias,
                    f"rnn.bias_hh_l{layer}": zero}
        self.model.load_state_dict({name: torch.tensor(np.ascontiguousarray(value)) for name, value in new.items()})

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

    def run(self, repeat: int) -> dict[str, Any]:
        return {"seconds": timed(self.step, repeat)}


if __name__ == "__main__":
    serve(Worker())
