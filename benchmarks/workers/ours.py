"""numba_rnnlm's side of the benchmarks."""

from typing import Any

import numpy as np

from benchmarks.harness import serve, timed
from benchmarks.workers.data import batch, weights
from numba_rnnlm import backends
from numba_rnnlm.config import ModelConfig
from numba_rnnlm.model import Network, build
from numba_rnnlm.optimizers import SGD, Updater


class Worker:
    def __call__(self, command: str, **request: Any) -> dict[str, Any]:
        return self.check(**request) if command == "check" else self.run(**request)

    def check(self, cell: str, **shape: int) -> dict[str, Any]:
        self.shape = shape
        config = ModelConfig(cell, shape["hidden"], shape["layers"], shape["embedding"], vocabulary_size=shape["vocabulary"])
        ops = backends.get("cpu")
        self.network = Network(build(config), ops, weights(build(config).layout))
        self.updater = Updater(self.network, SGD(learning_rate=0.1, clipnorm=5.0))
        inputs, targets = batch(shape)
        self.inputs, self.targets = ops.upload(inputs), ops.upload(targets.reshape(-1))
        self.state = self.network.state(shape["streams"])
        losses = self.network.train(self.inputs, self.targets, self.state, 1 / self.targets.size, 0)
        loss, norm = float(losses.mean()), ops.norm(self.network.gradients.flat)
        self.step()
        return {"loss": loss, "gradient_norm": norm, "seconds": timed(self.step)}

    def step(self) -> None:
        losses = self.network.train(self.inputs, self.targets, self.state, 1 / self.targets.size, 0)
        float(losses.sum(dtype=np.float64))
        self.updater.update()

    def run(self, repeat: int) -> dict[str, Any]:
        return {"seconds": timed(self.step, repeat)}


if __name__ == "__main__":
    serve(Worker())
