"""Arguments that several layers share: Keras arguments with only one accepted value, and the input size of a first layer."""

from dataclasses import KW_ONLY, dataclass, fields
from typing import Annotated, Literal

from ..arguments import Only, hidden
from ..errors import ConfigError, expect_number, shown, take_plain_values
from .layer import Layer

__all__ = ["Glorot", "KerasLayer", "TakesVectors", "Zeros"]

WEIGHTS = Only("use set_weights() for other starting weights")
Glorot = Annotated[Literal["glorot_uniform"], WEIGHTS]
Zeros = Annotated[Literal["zeros"], WEIGHTS]


@dataclass(frozen=True)
class KerasLayer(Layer):
    """The Keras arguments that every layer accepts."""

    _: KW_ONLY
    name: Annotated[None, Only("layers are named after their kind, as summary() shows")] = hidden(None)
    trainable: Annotated[Literal[True], Only("all layers learn")] = hidden(True)


@dataclass(frozen=True)
class TakesVectors(KerasLayer):
    """A layer that may be the first one, with vectors as its input.

    Parameters
    ----------
    input_shape
        (steps or None, features) of the vectors that go into the first layer, so that the features are known before
        there are data. The steps are not checked.
    input_dim
        The features alone.
    """

    _: KW_ONLY  # hidden, because they are ignored unless the layer is first
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
    def input_steps(self) -> int | None:
        """Length of the sequences, if given."""
        return None if self.input_shape is None else self.input_shape[0]

    @property
    def input_features(self) -> int | None:
        """Size of the input vectors, if given."""
        return self.input_dim if self.input_shape is None else self.input_shape[1]
