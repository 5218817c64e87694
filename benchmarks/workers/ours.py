"""numba_rnnlm's side of the benchmarks."""

from typing import Any

import numpy as np

from benchmarks.harness import serve, timed
from benchmarks.workers.data import batch, layer, weights
from numba_rnnlm import backends
from numba_rnnlm.cells import CELLS
from numba_rnnlm.config import ModelConfig
from numba_rnnlm.layers import Recurrent, Run
from numba_rnnlm.model import Network, build
from numba_rnnlm.optimizers import SGD, Updater


class Training:
    """Steps of a language model's training."""

    def __init__(self, backend: str, precision: str, cell: str, **shape: int) -> None:
        self.ops = ops = backends.get(backend, precision=precision)
        config = ModelConfig(cell, shape["hidden"], shape["layers"], shape["embedding"], vocabulary_size=shape["vocabulary"])
        self.network = Network(build(config), ops, weights(build(config).layout))
        self.updater = Updater(self.network, SGD(learning_rate=0.1, clipnorm=5.0))
        inputs, targets = batch(shape)
        self.inputs, self.targets = ops.upload(inputs), ops.upload(targets.reshape(-1))
        self.state = self.network.state(shape["streams"])
        losses = self.network.train(self.inputs, self.targets, self.state, 1 / self.targets.size, 0)
        norm = ops.norm(self.network.gradients.flat)
        self.figures = {"loss": float(ops.download(losses).mean()), "gradient_norm": norm}

    def step(self) -> None:
        losses = self.network.train(self.inputs, self.targets, self.state, 1 / self.targets.size, 0)
        float(self.ops.download(losses).sum(dtype=np.float64))
        self.updater.update()

    def wait(self) -> None:
        self.ops.norm(self.network.parameters.flat[:1])


class Layer:
    """One recurrent layer, as many inputs as units: forward, and with ``backward`` all gradients."""

    def __init__(
        self, backend: str, precision: str, cell: str, streams: int, steps: int, hidden: int, backward: bool
    ) -> None:
        self.ops = ops = backends.get(backend, precision=precision)
        self.layer, self.backward = Recurrent(hidden, True, cell), backward
        shape = (steps, streams, hidden)
        given = layer(shape, self.layer.parameters(shape))
        self.x, self.dy = ops.upload(given["x"]), ops.upload(given["dy"])
        self.run = Run(
            {name: ops.upload(given[name]) for name in "WUb"}, {name: ops.upload(0 * given[name]) for name in "WUb"},
            {"s": ops.upload(np.zeros(self.layer.state(shape)["s"]))},
            {name: ops.empty(size) for name, size in self.layer.activations(shape, True).items()},
        )  # fmt: skip
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
            for gradient in self.run.g.values():
                self.ops.fill(gradient, 0)
            self.layer.backward(self.ops, self.run, self.x, self.dy)

    def wait(self) -> None:
        self.ops.norm(self.run.m["s"].reshape(-1)[:1])


class Worker:
    def __call__(self, command: str, **request: Any) -> dict[str, Any]:
        return self.check(**request) if command == "check" else self.run(**request)

    def check(self, task: str, **request: Any) -> dict[str, Any]:
        assert request["cell"] in CELLS
        self.task = {"training": Training, "layer": Layer}[task](**request)
        self.task.step()
        return self.task.figures | self.run(3)

    def run(self, repeat: int) -> dict[str, Any]:
        return {"seconds": timed(self.task.step, repeat, self.task.wait)}


if __name__ == "__main__":
    serve(Worker())
