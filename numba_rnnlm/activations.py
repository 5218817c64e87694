"""Activation functions of layers and their derivatives, element by element."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .portable import Rows, drelu, dsigmoid, dtanh, portable, relu, sigmoid, tanh


@dataclass(frozen=True, eq=False)
class Activation(Rows):
    """A function of one number.

    Attributes
    ----------
    value
        x → y
    slope
        The derivative as a function of the output y, or of the input x where ``of_input``.
    of_input
        Whether the derivative cannot be computed from the output, because two inputs may have one output.
    """

    name: str
    value: Callable[..., Any]
    slope: Callable[..., Any]
    of_input: bool = False

    def rows(self) -> dict[str, Callable[..., None]]:
        return {"value": self.value, "slope": self.slope}


@portable
def _silu(x):
    return x * sigmoid(x)


@portable
def _dsilu(x):
    y = sigmoid(x)
    return y + x * dsigmoid(y)


@portable
def _gelu_sigmoid(x):
    return x * sigmoid(type(x)(1.702) * x)


@portable
def _dgelu_sigmoid(x):
    T = type(x)
    y = sigmoid(T(1.702) * x)
    return y + T(1.702) * x * dsigmoid(y)


@portable
def _gelu_tanh(x):
    T = type(x)
    return T(0.5) * x * (T(1) + tanh(T(0.7978845608028654) * x * (T(1) + T(0.044715) * x * x)))


@portable
def _dgelu_tanh(x):
    T = type(x)
    y = tanh(T(0.7978845608028654) * x * (T(1) + T(0.044715) * x * x))
    return T(0.5) * (T(1) + y) + T(0.3989422804014327) * x * dtanh(y) * (T(1) + T(0.134145) * x * x)


POINTWISE: dict[str, Activation] = {
    "sigmoid": Activation("sigmoid", sigmoid, dsigmoid),
    "tanh": Activation("tanh", tanh, dtanh),
    "relu": Activation("relu", relu, drelu),
    "silu": Activation("silu", _silu, _dsilu, of_input=True),  # also called swish
    "gelu_tanh": Activation("gelu_tanh", _gelu_tanh, _dgelu_tanh, of_input=True),  # Keras's and PyTorch's approximation by tanh
    "gelu_sigmoid": Activation("gelu_sigmoid", _gelu_sigmoid, _dgelu_sigmoid, of_input=True),  # that of Hendrycks and Gimpel 2016 by a sigmoid
}


def needs_input(name: str | None) -> bool:
    """Whether the gradient of the activation of this name needs its input, not only its output.

    Examples
    --------
    >>> needs_input("silu"), needs_input("tanh"), needs_input(None)
    (True, False, False)
    """
    return name in POINTWISE and POINTWISE[name].of_input
