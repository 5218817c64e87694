"""Layers made of layers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from ..arguments import checked
from ..backends.ops import Array, Ops, Shape
from ..errors import ConfigError, ShapeError, expect_items, shown
from .chain import Chain
from .layer import Layer, Run, above
from .options import KerasLayer


def expect_layers(name: str, given: Any, what: str) -> tuple[Layer, ...]:
    """Several layers as a tuple. Raises :class:`ConfigError` where something else is given, or nothing."""
    layers = tuple(expect_items(name, [given] if isinstance(given, Layer) else given, what))
    for layer in layers:
        if not isinstance(layer, Layer):
            raise ConfigError(f"{name} has {shown(layer)}, expected {what}.")
    if not layers:
        raise ConfigError(f"{name} is empty, expected {what}.")
    return layers


@checked
@dataclass(frozen=True)
class Residual(KerasLayer):
    """y = x + f(x), where f is a stack of layers whose output has the shape of their input (He et al. 2016).

    Parameters
    ----------
    layers
        One layer, or several, one behind the other.

    Examples
    --------
    >>> from numba_rnnlm.layers import LSTM, Residual
    >>> Residual([LSTM(64, return_sequences=True)]).parameters((20, 32, 64))["lstm/U"]
    (64, 256)
    """

    layers: Layer | Sequence[Layer]

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", expect_layers("Residual: layers", self.layers, "layers such as [Dense(64)]"))

    @cached_property
    def chain(self) -> Chain:
        """f"""
        assert not isinstance(self.layers, Layer)
        return Chain(tuple(self.layers))

    def output(self, shape: Shape) -> Shape:
        if self.chain.ids is not None:
            raise ShapeError("Residual adds its input, so it takes vectors; put the Embedding in front of it.")
        if (inner := self.chain.output(shape)) != shape:
            raise ShapeError(f"Residual adds its input of {_named(shape)} to what its layers make of it, {_named(inner)}; expected the same shape.")
        return shape

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        return self.chain.parameters(shape)

    def state(self, shape: Shape) -> dict[str, Shape]:
        return self.chain.state(shape)

    def activations(self, shape: Shape, training: bool) -> dict[str, Shape]:
        return {"y": shape} | ({"dx": shape} if training else {}) | self.chain.activations(shape, training)

    def initialize(self, shape: Shape, random: np.random.Generator) -> dict[str, np.ndarray]:
        return self.chain.initialize(shape, random)

    def forward(self, ops: Ops, run: Run, x: Array) -> Array:
        y = run.a["y"]
        ops.copy(self.chain.forward(ops, run, x), y)
        ops.add(x, y)
        return y

    def backward(self, ops: Ops, run: Run, x: Array, dy: Array) -> Array:
        dx = run.a["dx"]
        ops.copy(dy, dx)  # the layers may overwrite dy
        inner = self.chain.backward(ops, run, x, dy)
        assert inner is not None  # which only a layer of ids returns
        ops.add(inner, dx)
        return dx

    def within(self) -> Mapping[str, Layer]:
        return self.chain.within()

    def matrices(self) -> tuple[str, ...]:
        return self.chain.matrices()

    def ties(self, shape: Shape) -> dict[str, Shape]:
        return self.chain.ties(shape)


@dataclass(frozen=True)
class Branches(KerasLayer):
    """Several stacks of layers on the same input."""

    branches: Sequence[Layer | Sequence[Layer]]

    def __post_init__(self) -> None:
        name, what = type(self).__name__, "branches such as [LSTM(32), [Dense(16), GRU(8)]]"
        branches = expect_items(f"{name}: branches", self.branches, what)
        if not branches:
            raise ConfigError(f"{name}: branches is empty, expected {what}.")
        object.__setattr__(self, "branches", tuple(expect_layers(f"{name}: branches[{index}]", branch, "layers such as [Dense(16), GRU(8)]")
                                                   for index, branch in enumerate(branches)))

    @cached_property
    def chains(self) -> dict[str, Chain]:
        """The branches by their names, which are their numbers."""
        return {str(index): Chain(tuple(branch)) for index, branch in enumerate(self.branches) if not isinstance(branch, Layer)}

    def outputs(self, shape: Shape) -> list[Shape]:
        """Shapes of the branches' outputs."""
        if len({chain.ids for chain in self.chains.values()}) > 1:
            raise ShapeError(f"the branches of {_an(type(self).__name__)} must all take vectors, or ids of one vocabulary.")
        return [chain.output(shape) for chain in self.chains.values()]

    def put(self, ops: Ops, part: Array, y: Array, first: int) -> None:
        """Write the output of one branch into y, behind the ``first`` features of the branches before it."""
        raise NotImplementedError

    def taken(self, dy: Array, first: int, last: int) -> Array:
        """The gradient of the output of a branch that has written those features."""
        raise NotImplementedError

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        return _merged((name, chain.parameters(shape)) for name, chain in self.chains.items())

    def state(self, shape: Shape) -> dict[str, Shape]:
        return _merged((name, chain.state(shape)) for name, chain in self.chains.items())

    def activations(self, shape: Shape, training: bool) -> dict[str, Shape]:
        found = {"y": self.output(shape)} | _merged((name, chain.activations(shape, training)) for name, chain in self.chains.items())
        if training:
            found |= {f"{name}/dy": chain.output(shape) for name, chain in self.chains.items()}
            found |= {} if self.ids else {"dx": shape}
        return found

    def initialize(self, shape: Shape, random: np.random.Generator) -> dict[str, np.ndarray]:
        return _merged((name, chain.initialize(shape, random)) for name, chain in self.chains.items())

    def forward(self, ops: Ops, run: Run, x: Array) -> Array:
        y, first = run.a["y"], 0
        ends = run.memo["ends"] = [0]
        for index, (name, chain) in enumerate(self.chains.items()):
            part = chain.forward(ops, run.begin(name, index), x)
            self.put(ops, part, y, first)
            ends.append(first := first + part.shape[-1])
        return y

    def backward(self, ops: Ops, run: Run, x: Array, dy: Array) -> Array | None:
        dx = run.a.get("dx")
        if dx is not None:
            ops.fill(dx, 0)
        for (name, chain), (first, last) in zip(self.chains.items(), pairwise(run.memo["ends"]), strict=True):
            part = run.part(name)
            ops.copy(self.taken(dy, first, last), part.a["dy"])
            inner = chain.backward(ops, part, x, part.a["dy"])
            if dx is not None:
                ops.add(inner, dx)
        return dx

    @property
    def ids(self) -> int | None:
        return next(iter(self.chains.values())).ids

    @property
    def steps(self) -> int | None:
        return next((chain.steps for chain in self.chains.values() if chain.steps is not None), None)

    def within(self) -> Mapping[str, Layer]:
        return self.chains

    def matrices(self) -> tuple[str, ...]:
        return tuple(f"{name}/{key}" for name, chain in self.chains.items() for key in chain.matrices())

    def ties(self, shape: Shape) -> dict[str, Shape]:
        return _merged((name, chain.ties(shape)) for name, chain in self.chains.items())


@checked
@dataclass(frozen=True)
class Concat(Branches):
    """Several stacks of layers on the same input; their outputs, one beside the other.

    Parameters
    ----------
    branches
        Each a layer, or several, one behind the other.

    Examples
    --------
    >>> from numba_rnnlm.layers import GRU, LSTM, Concat, Dense
    >>> both = Concat([LSTM(32), [Dense(16, "tanh"), GRU(8)]])
    >>> both.output((20, 5, 64)), list(both.parameters((20, 5, 64)))[:4]
    ((5, 40), ['0/lstm/W', '0/lstm/U', '0/lstm/b', '1/dense/W'])
    """

    def output(self, shape: Shape) -> Shape:
        outputs = self.outputs(shape)
        if len({output[:-1] for output in outputs}) > 1:
            raise ShapeError(f"the branches of a Concat return {', '.join(map(_named, outputs))}, expected shapes that differ in their features only.")
        return (*outputs[0][:-1], sum(output[-1] for output in outputs))

    def put(self, ops: Ops, part: Array, y: Array, first: int) -> None:
        ops.copy(part, _columns(y, slice(first, first + part.shape[-1])))

    def taken(self, dy: Array, first: int, last: int) -> Array:
        return _columns(dy, slice(first, last))


@checked
@dataclass(frozen=True)
class Add(Branches):
    """Several stacks of layers on the same input; the sum of their outputs.

    Parameters
    ----------
    branches
        Each a layer, or several, one behind the other.

    Examples
    --------
    >>> from numba_rnnlm.layers import GRU, LSTM, Add, Dense
    >>> Add([LSTM(32), [Dense(16, "tanh"), GRU(32)]]).output((20, 5, 64))
    (5, 32)
    """

    def output(self, shape: Shape) -> Shape:
        outputs = self.outputs(shape)
        if len(set(outputs)) > 1:
            raise ShapeError(f"the branches of an Add return {', '.join(map(_named, outputs))}, expected equal shapes.")
        return outputs[0]

    def put(self, ops: Ops, part: Array, y: Array, first: int) -> None:
        if first:
            ops.add(part, y)
        else:
            ops.copy(part, y)

    def taken(self, dy: Array, first: int, last: int) -> Array:
        return dy


def _merged(tables: Iterable[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    return {key: value for name, table in tables for key, value in above(name, table).items()}


def _columns(array: Array, columns: slice) -> Array:
    return array[:, :, columns] if array.ndim == 3 else array[:, columns]


def _named(shape: Shape) -> str:
    return f"({', '.join(['steps', 'streams', str(shape[-1])][-len(shape):])})"


def _an(name: str) -> str:
    return f"an {name}" if name[0] in "AEIOU" else f"a {name}"
