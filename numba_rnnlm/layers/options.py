"""Arguments that several layers share: Keras's that leave no choice here, and the size of a first layer's vectors."""

from dataclasses import KW_ONLY, dataclass, fields
from typing import Annotated, Literal

from ..arguments import Only, hidden
from ..errors import ConfigError, expect_number, shown, take_plain_values
from .layer import Layer

__all__ = ["Glorot", "KerasLayer", "TakesVectors", "Zeros"]

WEIGHTS = Only("set_weights() takes other starting weights")
Glorot = Annotated[Literal["glorot_uniform"], WEIGHTS]
Zeros = Annotated[Literal["zeros"], WEIGHTS]


@dataclass(frozen=True)
class KerasLayer(Layer):
    """What every layer takes from Keras."""

    _: KW_ONLY
    name: Annotated[None, Only("layers are named after their kind, as summary() shows")] = hidden(None)
    trainable: Annotated[Literal[True], Only("all layers learn")] = hidden(True)


@dataclass(frozen=True)
class TakesVectors(KerasLayer):
    """A layer that may come first, without an Embedding in front of it.

    Parameters
    ----------
    input_shape
        (steps or None, features) of the vectors that go into the first layer; the features are then known before
        any data is. The steps are not checked.
    input_dim
        The features alone.
    """

    _: KW_ONLY  # hidden: elsewhere than in front they say nothing
    input_shape: tuple[int | None, ...] | None = hidden(None)
    input_dim: int | None = hidden(None)

    def __post_init__(self) -> None:
        take_plain_values(self, (item.name for item in fields(self)))
        name = type(self).__name__
        if self.input_shape is not None:
            if not isinstance(self.input_shape, (tuple, list)) or len(self.input_shape) != 2:
                raise ConfigError(f"{name}: input_shape is {shown(self.input_shape)}, expected (steps or None, features).")
            if self.input_shape[0] is not None:
                expect_number(f"{name}: steps of input_shape", self.input_shape[0], 1, whole=True)
            expect_number(f"{name}: features of input_shape", self.input_shape[1], 1, whole=True)
        if self.input_dim is not None:
            expect_number(f"{name}: input_dim", self.input_dim, 1, whole=True)
            if self.input_shape is not None and self.input_dim != self.input_shape[1]:
                raise ConfigError(f"{name}: input_dim is {self.input_dim}, expected the features of input_shape, {self.input_shape[1]}; give one "
                                  "of the two.")

    @property
    def input_features(self) -> int | None:
        """Size of the input vectors, if it was said."""
        return self.input_dim if self.input_shape is None else self.input_shape[1]
