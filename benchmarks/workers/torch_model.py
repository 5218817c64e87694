"""The language model as PyTorch users write it. Imports nothing but torch, so that programs start as fast as theirs."""

from typing import Any

import torch
from torch import nn


def recurrent(cell: str, inputs: int, hidden: int, layers: int) -> nn.Module:
    kind = {"lstm": nn.LSTM, "gru": nn.GRU}.get(cell, nn.RNN)
    options = {} if cell in ("lstm", "gru") else {"nonlinearity": cell}
    return kind(inputs, hidden, layers, **options)


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


def backward(model: nn.Module, optimizer: torch.optim.Optimizer, inputs: torch.Tensor, targets: torch.Tensor, state: Any) -> Any:
    """Loss and gradients of one segment (T, N); returns the loss and the state for the next segment."""
    optimizer.zero_grad(set_to_none=True)
    logits, state = model(inputs, state)
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss.backward()
    return loss.item(), detach(state)


def update(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    optimizer.step()


@torch.inference_mode()
def write(model: nn.Module, ids: torch.Tensor, length: int, temperature: float) -> torch.Tensor:
    """Ids (T, N) sampled after ids (1, N)."""
    state, written = None, []
    for _ in range(length):
        logits, state = model(ids, state)
        if temperature == 0:
            ids = logits[-1].argmax(-1)[None]
        else:
            ids = torch.multinomial(torch.softmax(logits[-1] / temperature, -1), 1).T
        written.append(ids)
    return torch.cat(written)
