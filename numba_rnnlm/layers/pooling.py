"""Layers that make fewer steps out of a sequence, or one vector."""

from dataclasses import KW_ONLY, dataclass
from typing import Annotated, ClassVar, Literal

from ..arguments import Only, checked, hidden
from ..backends.ops import Array, Ops, Shape
from ..errors import ShapeError, expect_number, expect_one_of
from .layer import Run
from .options import TakesVectors
from .windows import Windows

Format = Annotated[Literal["channels_last"], Only("vectors are the last axis")]


@dataclass(frozen=True)
class Pooling(TakesVectors):
    """Pooling over windows of steps."""

    pools: ClassVar[str]
    causal: ClassVar[bool] = False  # type: ignore[misc]  # never, whatever the arguments
    _: KW_ONLY
    data_format: Format = hidden("channels_last")

    def _sequence(self, shape: Shape) -> Shape:
        if len(shape) != 3:
            raise ShapeError(f"{type(self).__name__} takes sequences of vectors, got an input with {len(shape)} axes; a recurrent layer in front "
                             "of it needs return_sequences=True.")
        return shape

    def windows(self, steps: int) -> Windows:
        """What each output sees."""
        raise NotImplementedError

    def activations(self, shape: Shape, training: bool) -> dict[str, Shape]:
        return {"y": self.output(shape)} | ({"dx": shape} if training else {})

    def forward(self, ops: Ops, run: Run, x: Array) -> Array:
        ops.pool_steps(x, _steps(run.a["y"]), self.pools, *self._how(x))
        return run.a["y"]

    def backward(self, ops: Ops, run: Run, x: Array, dy: Array) -> Array:
        ops.pool_steps_backward(x, _steps(run.a["y"]), _steps(dy), run.a["dx"], self.pools, *self._how(x))
        return run.a["dx"]

    def _how(self, x: Array) -> tuple[int, int, int]:
        windows = self.windows(len(x))
        return windows.span, windows.stride, windows.before(len(x))


def _steps(y: Array) -> Array:
    """The vectors (N, D) as a sequence of one step."""
    return y if y.ndim == 3 else y.reshape(1, *y.shape)


@dataclass(frozen=True)
class _Windowed(Pooling):
    """Pooling over ``pool_size`` steps."""

    pool_size: int
    strides: int | None = None
    padding: str = "valid"

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        expect_number(f"{name}: pool_size", self.pool_size, 1, 2**31 - 1, whole=True)
        if self.strides is not None:
            expect_number(f"{name}: strides", self.strides, 1, 2**31 - 1, whole=True)
        expect_one_of(f"{name}: padding", self.padding, ("valid", "same"))

    def windows(self, steps: int) -> Windows:
        return Windows(self.pool_size, self.strides or self.pool_size, self.padding)

    def output(self, shape: Shape) -> Shape:
        steps, *rest = self._sequence(shape)
        return (self.windows(steps).outputs(steps, type(self).__name__), *rest)


@checked
@dataclass(frozen=True)
class MaxPooling1D(_Windowed):
    """The largest value of every ``pool_size`` steps, for each feature.

    Parameters
    ----------
    pool_size
        How many steps an output sees.
    strides
        Steps from one output to the next; None: pool_size.
    padding
        "valid": only windows within the sequence. "same": ⌈T / strides⌉ windows; steps that do not exist do not count.
    input_shape, input_dim
        On the first layer: (steps or None, features) of the vectors, or the features alone.

    Examples
    --------
    >>> MaxPooling1D(3).output((20, 32, 64)), MaxPooling1D(3, padding="same").output((20, 32, 64))
    ((6, 32, 64), (7, 32, 64))
    """

    pools: ClassVar[str] = "max"
    pool_size: int = 2


@checked
@dataclass(frozen=True)
class AveragePooling1D(_Windowed):
    """The mean of every ``pool_size`` steps, for each feature; of the steps that exist. See :class:`MaxPooling1D`.

    Examples
    --------
    >>> AveragePooling1D(4, strides=1).output((20, 32, 64))
    (17, 32, 64)
    """

    pools: ClassVar[str] = "mean"


@dataclass(frozen=True)
class _Global(Pooling):
    """Pooling over all steps."""

    _: KW_ONLY
    keepdims: Annotated[Literal[False], Only("each sequence becomes one vector")] = hidden(False)

    def windows(self, steps: int) -> Windows:
        return Windows(max(steps, 1), max(steps, 1), "valid")

    def output(self, shape: Shape) -> Shape:
        return self._sequence(shape)[1:]


@checked
@dataclass(frozen=True)
class GlobalMaxPooling1D(_Global):
    """The largest value of each feature over all steps (Collobert et al. 2011).

    Examples
    --------
    >>> GlobalMaxPooling1D().output((20, 32, 64))
    (32, 64)
    """

    pools: ClassVar[str] = "max"


@checked
@dataclass(frozen=True)
class GlobalAveragePooling1D(_Global):
    """The mean of each feature over all steps.

    Examples
    --------
    >>> GlobalAveragePooling1D().output((20, 32, 64))
    (32, 64)
    """

    pools: ClassVar[str] = "mean"


@checked
@dataclass(frozen=True)
class Flatten(TakesVectors):
    """All vectors of a sequence as one vector (N, T·D), the first step first. Then all sequences must have the same length.

    Examples
    --------
    >>> Flatten().output((20, 32, 64))
    (32, 1280)
    """

    causal: ClassVar[bool] = False  # type: ignore[misc]  # never, whatever the arguments
    flattens: ClassVar[bool] = True  # type: ignore[misc]
    _: KW_ONLY
    data_format: Format = hidden("channels_last")

    def output(self, shape: Shape) -> Shape:
        return (shape[1], shape[0] * shape[2]) if len(shape) == 3 else shape

    def activations(self, shape: Shape, training: bool) -> dict[str, Shape]:
        if len(shape) != 3:
            return {}
        return {"y": self.output(shape)} | ({"dx": shape} if training else {})

    def forward(self, ops: Ops, run: Run, x: Array) -> Array:
        if x.ndim != 3:
            return x
        y, (steps, streams, features) = run.a["y"], x.shape
        ops.copy(x.swapaxes(0, 1), y.reshape(streams, steps, features))
        return y

    def backward(self, ops: Ops, run: Run, x: Array, dy: Array) -> Array:
        if x.ndim != 3:
            return dy
        dx, (steps, streams, features) = run.a["dx"], x.shape
        ops.copy(dy.reshape(streams, steps, features), dx.swapaxes(0, 1))
        return dx
