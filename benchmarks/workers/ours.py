"""The worker for numba_rnnlm."""

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.harness import Task, serve
from benchmarks.workers import data, limits
from benchmarks.workers.requests import Requests
from numba_rnnlm import backends
from numba_rnnlm.config import ModelConfig, SamplingConfig
from numba_rnnlm.decoding import generate, generate_batch
from numba_rnnlm.keras.arrays import Examples
from numba_rnnlm.keras.examples import batch_of
from numba_rnnlm.language_model.architecture import build
from numba_rnnlm.layers import LAYERS, Recurrent, Run
from numba_rnnlm.network import Graph, Network
from numba_rnnlm.optimizers import Adam
from numba_rnnlm.optimizers.pytorch import SGD
from numba_rnnlm.scoring import STEPS, log_probabilities
from numba_rnnlm.training.updater import Updater


def language_model(backend: str, precision: str, cell: str, shape: dict[str, int]) -> Network:
    config = ModelConfig(cell, shape["hidden"], shape["layers"], shape["embedding"], vocabulary_size=shape["vocabulary"])
    model = build(config)
    return Network(model, backends.get(backend, precision=precision), data.weights(model.layout))


class OnCpu:
    """A task that never has to wait for a device."""

    def wait(self) -> None:
        pass


class Training:
    """Training steps of a language model."""

    def __init__(self, backend: str, precision: str, cell: str, **shape: int) -> None:
        self.network = language_model(backend, precision, cell, shape)
        self.ops = ops = self.network.ops
        self.updater = Updater(self.network, SGD(learning_rate=0.1, clip_norm=5.0))
        self.issued: deque[Callable[[], tuple[float, float]]] = deque()
        inputs, targets = data.batch(shape)
        self.inputs, self.targets = ops.upload(inputs), ops.upload(targets.reshape(-1))
        self.state = self.network.state(shape["streams"])
        losses = self.network.differentiate(self.inputs, self.targets, self.state, 1 / self.targets.size, 0)
        norm = ops.norm(self.network.gradients.flat)
        self.figures = {"loss": float(ops.download(losses).mean()), "gradient_norm": norm}

    def step(self) -> None:
        """One update; as in ``fit``, a GPU's loss is fetched one update late."""
        losses = self.network.differentiate(self.inputs, self.targets, self.state, 1 / self.targets.size, 0)
        self.issued.append(self.updater.start(losses))
        if len(self.issued) > self.updater.behind:
            self.issued.popleft()()

    def wait(self) -> None:
        while self.issued:
            self.issued.popleft()()
        self.ops.norm(self.network.parameters.flat[:1])

    def roof(self) -> dict[str, float]:
        return {"gflops": limits.multiply_adds(self.ops.threads) / 1e9}


class Layer:
    """One recurrent layer with as many inputs as units: the forward pass, and with ``backward`` all gradients."""

    def __init__(
        self, backend: str, precision: str, cell: str, streams: int, steps: int, hidden: int, backward: bool
    ) -> None:
        self.ops = ops = backends.get(backend, precision=precision)
        self.layer, self.backward = Recurrent(hidden, True, cell), backward
        shape = (steps, streams, hidden)
        given = data.layer(shape, self.layer.parameters(shape))
        self.x, self.dy = ops.upload(given["x"]), ops.upload(given["dy"])
        self.run = Run(
            {name: ops.upload(given[name]) for name in "WUb"}, {name: ops.empty(given[name].shape) for name in "WUb"},
            {name: ops.empty(size) for name, size in self.layer.activations(shape, True).items()},
        )  # fmt: skip
        self.run.m = {"s": ops.upload(np.zeros(self.layer.state(shape)["s"]))}
        y = self.layer.forward(ops, self.run, self.x)
        self.figures = {"output": float(np.linalg.norm(ops.download(y)))}
        self.zero = ops.upload(np.zeros(self.layer.state(shape)["s"]))
        if backward:
            self.step()
            self.figures["gradient_norm"] = ops.norm(self.run.a["dx"].reshape(-1))

    def step(self) -> None:
        self.ops.copy(self.zero, self.run.m["s"])
        self.layer.forward(self.ops, self.run, self.x)
        if self.backward:
            self.run.written.clear()
            self.layer.backward(self.ops, self.run, self.x, self.dy)

    def wait(self) -> None:
        self.ops.norm(self.run.m["s"].reshape(-1)[:1])


class One(OnCpu):
    """One layer of any kind on the CPU: the forward pass and all gradients."""

    def __init__(self, kind: str, shape: list[int], arguments: dict[str, Any]) -> None:
        self.ops, self.layer = backends.get("cpu"), LAYERS[kind](**arguments)
        streams, steps, features = shape
        size = (steps, streams, features)
        given = data.one(size, self.layer.output(size), self.layer.parameters(size))
        self.x, self.dy = given.pop("x"), given.pop("dy")
        self.run = Run(given, {name: self.ops.empty(weight.shape) for name, weight in given.items()},
                       {name: self.ops.empty(size) for name, size in self.layer.activations(size, True).items()})
        self.run.key = 0
        self.run.m = {name: np.zeros(size, np.float32) for name, size in self.layer.state(size).items()}
        y, dx = self.step()
        self.figures = {"output": float(np.linalg.norm(y)), "gradient of x": float(np.linalg.norm(dx))}
        self.figures |= {f"gradient of {name}": float(np.linalg.norm(gradient)) for name, gradient in self.run.g.items()}

    def step(self) -> tuple[np.ndarray, np.ndarray]:
        self.run.written.clear()
        y = self.layer.forward(self.ops, self.run, self.x)
        dx = self.layer.backward(self.ops, self.run, self.x, self.dy)
        return y, dx


class Reading(OnCpu):
    """One layer of any kind on the CPU, without gradients, over sequences in pieces as they are scored. Their inputs are those of the first piece."""

    def __init__(self, kind: str, shape: list[int], arguments: dict[str, Any]) -> None:
        (self.streams, self.steps, features), graph = shape, Graph([LAYERS[kind](**arguments)], shape[-1])
        self.network = Network(graph, backends.get("cpu"), data.weights(graph.layout))
        size = (min(STEPS, self.steps), self.streams, features)
        self.x = data.one(size, (), {})["x"]
        self.figures = {"output": self.step()}

    def step(self) -> float:
        state = self.network.state(self.streams)
        for start in range(0, self.steps, STEPS):
            y = self.network.predict(self.x[: self.steps - start], state)
        return float(np.linalg.norm(y))


class Listing(OnCpu):
    """What ``Sequential.fit`` does for one batch."""

    def __init__(self, backend: str) -> None:
        model = Graph(data.listing())
        self.network = Network(model, backends.get(backend), data.weights(model.layout))
        self.updater = Updater(self.network, Adam())
        self.batch = batch_of(model, Examples(*data.examples()))
        self.figures = {f"loss of step {number}": self.step() for number in range(3)}

    def step(self) -> float:
        network, batch = self.network, self.batch
        x, targets = (network.ops.upload(array) for array in (batch.x, batch.targets))
        losses = network.differentiate(x, targets, network.state(batch.x.shape[1]), 1 / batch.rows, 0)
        loss, _ = self.updater.start(losses)()
        return loss / batch.rows


class Generation(OnCpu, Requests):
    """Generation of ``streams`` texts of ``steps`` symbols each."""

    def __init__(self, backend: str, weights: str, cell: str, **shape: int) -> None:
        self.shape, self.figures = shape, dict[str, float]()
        self.options = {} if weights == "float32" else {"weights": weights}
        self.network = language_model(backend, "float32", cell, shape)
        self.prompts = data.prompts(shape["vocabulary"], shape["streams"])

    def write(self, **options: float) -> list[np.ndarray]:
        config = SamplingConfig(**options, **self.options)  # type: ignore[arg-type]
        prompts = list(self.prompts[:, None])
        if len(prompts) == 1:
            return [np.fromiter(generate(self.network, prompts[0], config, 1), np.int32)]
        return generate_batch(self.network, prompts, config, range(len(prompts)))

    def request(self, length: int) -> None:
        self.write(length=length)

    def step(self) -> None:
        self.request(self.shape["steps"])

    def greedy(self, length: int) -> dict[str, Any]:
        """The most probable ids (streams, length), and the margin of each one's logit over the second largest."""
        ids = np.stack(self.write(length=length, temperature=0))
        state, margins = self.network.state(len(ids)), []
        for row in np.concatenate([self.prompts[:, None], ids[:, :-1]], 1).T:
            second, first = np.partition(self.network.scores(row[None].copy(), state), -2)[:, -2:].T
            margins.append(first - second)
        return {"ids": ids.tolist(), "margins": np.stack(margins, 1).tolist()}

    def floor(self, size: int) -> dict[str, float]:
        return {"seconds": limits.read(self.network.ops.threads, size)}


class Stacked(Generation):
    """The same with the layers of a stack."""

    def __init__(self, backend: str, weights: str, vocabulary: int, embedding: int, body: list[dict[str, Any]], streams: int, steps: int) -> None:
        self.shape, self.figures = {"steps": steps}, dict[str, float]()
        self.options = {} if weights == "float32" else {"weights": weights}
        graph = data.stack(vocabulary, embedding, body)
        self.network = Network(graph, backends.get(backend), data.weights(graph.layout))
        self.prompts = data.prompts(vocabulary, streams)


class Scoring(OnCpu):
    """Scoring of ``sentences`` sentences."""

    def __init__(self, backend: str, sentences: int, cell: str, **shape: int) -> None:
        self.network = language_model(backend, "float32", cell, shape)
        self.sentences = data.sentences(shape["vocabulary"], sentences)
        totals = np.array([found.sum() for found in self.step()])
        self.figures = {"total": float(totals.sum()), "norm": float(np.linalg.norm(totals))}

    def step(self) -> list[np.ndarray]:
        return log_probabilities(self.network, self.sentences)


TASKS: dict[str, Callable[..., Task]] = {
    "training": Training, "layer": Layer, "one": One, "reading": Reading, "listing": Listing, "generation": Generation, "stacked": Stacked,
    "scoring": Scoring,
}  # fmt: skip

if __name__ == "__main__":
    serve(TASKS)
