"""Runs PyTorch in its own process: python -m benchmarks.programs.torch nothing | import | token … | train …"""

from typing import Any

from benchmarks.programs.answer import main


def nothing() -> dict[str, Any]:
    return {}


def imported() -> dict[str, Any]:
    import torch

    return {"module": torch.__name__}


def save(path: str, ours: str, cell: str, vocabulary: int, embedding: int, hidden: int, layers: int) -> dict[str, Any]:
    """Convert our model file to one of PyTorch's."""
    import torch

    from benchmarks.workers.torch import transplanted
    from numba_rnnlm.formats.native import open_model

    shape = {"vocabulary": vocabulary, "embedding": embedding, "hidden": hidden, "layers": layers}
    with open_model(ours) as file:
        model = transplanted(cell, shape, file.group("weights"))
    torch.save({"arguments": {"cell": cell, **shape}, "weights": model.state_dict()}, path)
    return {}


def load(path: str) -> Any:
    import torch

    from benchmarks.workers.torch_model import LanguageModel

    saved = torch.load(path, weights_only=True)
    model = LanguageModel(**saved["arguments"])
    model.load_state_dict(saved["weights"])
    return model


def token(path: str) -> dict[str, Any]:
    import torch

    from benchmarks.workers.torch_model import write

    return {"id": int(write(load(path), torch.tensor([[0]]), 1, 0))}


def train(path: str, corpus: str, streams: int, steps: int, updates: int) -> dict[str, Any]:
    import numpy as np
    import torch

    from benchmarks.workers.torch_model import backward, update

    model = load(path)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ids = np.load(corpus, mmap_mode="r")  # memory-mapped, like ours
    inputs, targets = ids[:-1].reshape(streams, -1), ids[1:].reshape(streams, -1)
    losses, state = [], None
    for start in range(0, updates * steps, steps):
        x, y = (torch.tensor(part[:, start : start + steps].T.astype(np.int64)) for part in (inputs, targets))
        loss, state = backward(model, optimizer, x, y, state)
        update(model, optimizer)
        losses.append(loss)
    return {"loss": sum(losses) / len(losses)}


if __name__ == "__main__":
    main({"nothing": nothing, "import": imported, "save": save, "token": token, "train": train})
