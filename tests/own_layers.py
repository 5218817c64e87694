"""Layers of a user, for tests of what networks do with any layer."""

from dataclasses import dataclass

from numba_rnnlm.layers import Layer


@dataclass(frozen=True)
class Trace(Layer):
    """y_t = x_t + y_{t-1} / 2"""

    def state(self, shape):
        return {"trace": shape[1:]}

    def activations(self, shape, training):
        return {"y": shape}

    def forward(self, ops, run, x):
        for t in range(x.shape[0]):
            ops.copy(x[t], run.a["y"][t])
            ops.add(run.m["trace"], run.a["y"][t], 0.5)
            ops.copy(run.a["y"][t], run.m["trace"])
        return run.a["y"]


@dataclass(frozen=True)
class Mirror(Layer):
    """y_t = x_{T-1-t}"""

    causal = False

    def activations(self, shape, training):
        return {"y": shape, "dx": shape}

    def forward(self, ops, run, x):
        ops.reverse(x, None, run.a["y"])
        return run.a["y"]

    def backward(self, ops, run, x, dy):
        ops.reverse(dy, None, run.a["dx"])
        return run.a["dx"]
