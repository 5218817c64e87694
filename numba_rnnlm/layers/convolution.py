"""Convolution over time."""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Literal

import numpy as np

from ..activations import needs_input
from ..arguments import Only, checked, hidden
from ..backends.ops import ACTIVATIONS, Array, Ops, Shape
from ..errors import ConfigError, ShapeError, expect_flag, expect_number, expect_one_of
from .layer import Run
from .options import Glorot, TakesVectors, Zeros
from .windows import Windows


@checked
@dataclass(frozen=True)
class Conv1D(TakesVectors):
    """Convolution over time: each output sees ``kernel_size`` steps, ``dilation_rate`` steps apart (van den Oord et al. 2016).

    ::

        y_t = g(b + Σ_k x_{t·strides + k·dilation_rate - before} W_k)

    Steps outside of the sequence count as zero. Weights: ``W`` (kernel_size, D / groups, filters), ``b`` (filters). With causal padding
    and strides=1, a stream is read in segments as if it were read at once; its state are the last inputs ``x`` (N, span - 1, D), where
    span = (kernel_size - 1)·dilation_rate + 1.

    Parameters
    ----------
    filters
        Size of the output.
    kernel_size
        How many steps an output sees.
    strides
        Steps from one output to the next.
    padding
        "valid": only outputs that see no step outside of the sequence, T - span + 1 of them. "same": T, each in the middle of what it
        sees. "causal": T, each at the end of what it sees. With strides, every strides-th of them.
    dilation_rate
        Distance of the steps that an output sees. Either it or strides must be 1.
    groups
        Cut the input features and the filters into so many parts; the filters of a part see the features of that part.
    activation
        None or "linear", "softmax", "sigmoid", "tanh", "relu", "silu", "gelu_tanh" or "gelu_sigmoid".
    use_bias
        Add b.
    input_shape, input_dim
        On the first layer: (steps or None, features) of the vectors, or the features alone.

    Examples
    --------
    >>> Conv1D(128, 3).output((20, 32, 64)), Conv1D(128, 3, padding="causal", dilation_rate=4).output((20, 32, 64))
    ((18, 32, 128), (20, 32, 128))
    >>> Conv1D(128, 5, groups=2).parameters((20, 32, 64))
    {'W': (5, 32, 128), 'b': (128,)}
    """

    filters: int
    kernel_size: int
    strides: int = 1
    padding: str = "valid"
    _: KW_ONLY
    data_format: Annotated[Literal["channels_last"], Only("vectors are the last axis")] = hidden("channels_last")
    dilation_rate: int = 1
    groups: int = 1
    activation: str | None = None
    use_bias: bool = True
    kernel_initializer: Glorot = hidden("glorot_uniform")
    bias_initializer: Zeros = hidden("zeros")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("filters", "kernel_size", "strides", "dilation_rate", "groups"):
            expect_number(f"Conv1D: {name}", getattr(self, name), 1, 2**31 - 1, whole=True)
        expect_one_of("Conv1D: padding", self.padding, ("valid", "same", "causal"))
        expect_one_of("Conv1D: activation", self.activation, (None, *ACTIVATIONS))
        expect_flag("Conv1D: use_bias", self.use_bias)
        if self.filters % self.groups:
            raise ConfigError(f"Conv1D: groups is {self.groups}, expected a divisor of the {self.filters} filters.")
        if self.strides > 1 and self.dilation_rate > 1:
            raise ConfigError(f"Conv1D: strides is {self.strides} and dilation_rate is {self.dilation_rate}; one of them must be 1, as in Keras.")

    @property
    def windows(self) -> Windows:
        """What the outputs see; a stream begins with the inputs before it instead of with zeros."""
        span = (self.kernel_size - 1) * self.dilation_rate + 1
        return Windows(span, self.strides, "valid" if self._streams else self.padding)

    @property
    def _streams(self) -> bool:
        return self.padding == "causal" and self.strides == 1

    @property
    def _carried(self) -> int:
        """How many inputs before a segment its outputs see."""
        return self.windows.span - 1 if self._streams else 0

    def output(self, shape: Shape) -> Shape:
        if len(shape) != 3:
            raise ShapeError(f"Conv1D takes sequences of vectors, got an input with {len(shape)} axes; a recurrent layer in front of it needs "
                             "return_sequences=True.")
        steps, streams, features = shape
        if features % self.groups:
            raise ShapeError(f"Conv1D gets {features} features, expected a multiple of groups, {self.groups}.")
        return self.windows.outputs(steps + self._carried if steps else 0, "Conv1D"), streams, self.filters

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        return {"W": (self.kernel_size, shape[-1] // self.groups, self.filters)} | ({"b": (self.filters,)} if self.use_bias else {})

    def state(self, shape: Shape) -> dict[str, Shape]:
        return {"x": (shape[1], self._carried, shape[2])} if self._carried else {}

    def activations(self, shape: Shape, training: bool) -> dict[str, Shape]:
        seen, size = (shape[0] + self._carried, *shape[1:]), self.output(shape)
        found = {"y": size} | ({"x": seen} if self._carried else {}) | ({"dx": seen} if training else {})
        return found | ({"z": size} if training and needs_input(self.activation) else {})

    def initialize(self, shape: Shape, random: np.random.Generator) -> dict[str, np.ndarray]:
        shapes = self.parameters(shape)
        limit = np.sqrt(6 / (self.kernel_size * (shapes["W"][1] + self.filters)))
        return {name: random.uniform(-limit, limit, size) if name == "W" else np.zeros(size) for name, size in shapes.items()}

    def forward(self, ops: Ops, run: Run, x: Array) -> Array:
        y, seen = run.a["y"], x
        if self._carried:
            seen, before = run.a["x"], run.m["x"].swapaxes(0, 1)
            ops.copy(before, seen[: self._carried])
            ops.copy(x, seen[self._carried :])
            ops.copy(seen[len(x) :], before)
        ops.convolve(seen, run.p["W"], run.p.get("b"), y, *self._how(x))
        if "z" in run.a:
            ops.copy(y, run.a["z"])
        ops.activate(self.activation or "linear", y)
        return y

    def backward(self, ops: Ops, run: Run, x: Array, dy: Array) -> Array:
        dx, seen = run.a["dx"], run.a["x"] if self._carried else x
        ops.activate_backward(self.activation or "linear", run.a["z" if needs_input(self.activation) else "y"], dy)
        ops.convolve_backward(seen, run.p["W"], dy, dx, run.g["W"], run.g.get("b"), *self._how(x), add=run.adds(ops, "W", "b"))
        return dx[self._carried :]

    def _how(self, x: Array) -> tuple[int, int, int, int]:
        """Stride, dilation, steps before the sequence, groups."""
        return self.strides, self.dilation_rate, self.windows.before(len(x)), self.groups

    @property
    def causal(self) -> bool:
        return self.strides == 1 and (self.padding == "causal" or self.kernel_size == 1)

    def matrices(self) -> tuple[str, ...]:
        return ("W",)
