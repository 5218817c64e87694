"""Checks of a layer."""

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from .. import backends
from ..arena import Arena, Layout
from ..arguments import checked
from ..backends import complex_step
from ..backends.complex_step import STEP
from ..backends.ops import Array, Ops, Shape
from ..cells import Cell
from ..errors import CheckError, expect_kind, expect_number, shown
from ..layers import LAYERS, Layer, Run
from ..layers.description import describe, rebuild
from ..layers.layer import Head, walk
from .comparing import TOLERANCE, Arrays, calls, compiled, expect_close, floats

SIZES = ((5, 3, 4), (1, 4, 2), (20, 64, 33))  # steps, streams, features; the last one is enough work for two threads
KEY = 1234  # of the random numbers of a step in training
SCALE = 0.5  # of losses
ADVICE = ("The traceback shows the line. If the layer accepts vectors of one size only, pass check(layer, features=...); if it does not accept such "
          "an input at all, raise ShapeError in output(shape).")
LOCATED = 300  # elements of an array that are differentiated one by one, to say where its gradient is wrong


@checked
def check(layer: Layer, features: int | None = None, *, streaming: bool = True, verbose: bool = False) -> None:
    """Check that a layer of your own keeps the contract of :class:`~numba_rnnlm.layers.Layer`, on inputs of several sizes.

    Its arguments can be saved; its shapes are as it says; its gradients are the derivatives of its output, and set or added to as
    :meth:`Run.adds` says; streams do not depend on each other, and a sequence may be cut into segments; all backends compute the same, on any
    number of threads. If it has a :meth:`~numba_rnnlm.layers.Layer.head`, the losses are checked in the same way.

    Parameters
    ----------
    layer
        A layer of few units: the slow reference backend computes it many times.
    features
        Size of the input vectors, if the layer accepts one size only.
    streaming
        False if the layer must see a whole sequence at once. Then it works in a ``Sequential``, but not in a ``LanguageModel``.
    verbose
        Print a line for each check that has passed.

    Raises
    ------
    CheckError
        For the first check that fails. The message says what differs, where, by how much, and what to look at.

    Examples
    --------
    >>> from numba_rnnlm import layers
    >>> layers.check(layers.Dense(5, activation="tanh"))
    """
    expect_kind("layer", layer, Layer, "a layer such as Dense(5)")
    if features is not None:
        expect_number("features", features, 1, whole=True)
    random = np.random.default_rng(0)
    cases = [Case(layer, shape, random) for shape in _shapes(layer, features)]
    losses: list[Case] = [LossCase(Losses(layer), case.shape, random) for case in cases if layer.head() is not None]
    for what, expect in {**CONTRACT, **NUMBERS}.items():
        if expect is segments and not streaming:
            continue
        for case in cases if what in CONTRACT else cases + losses:
            with calls(f"{case}: checking that {what}", ADVICE):
                expect(case)
        if verbose:
            print(f"{type(layer).__name__}: {what}")


def _shapes(layer: Layer, features: int | None) -> list[Shape]:
    """Shapes of inputs that the layer accepts."""
    found: list[Shape] = []
    for steps, streams, size in SIZES:
        ids, steps, size = layer.ids, layer.steps or steps, features or size
        for shape in [(steps, streams)] if ids is not None else [(steps, streams, size), (streams, size)]:
            with calls(f"{shown(layer)}: output({shape})", ADVICE):
                try:
                    layer.output(shape)
                    found.append(shape)
                except ValueError as error:  # ShapeError is one
                    refused = error
    if not found:
        raise CheckError(f"{shown(layer)} accepts no input; of the shape {shape} output says: {refused} (If it accepts vectors of one size only, pass "
                         "check(layer, features=...).)")
    return found


class Case:
    """A layer with numbers to compute with. Backends get copies of them: an upload may share memory with what is uploaded.

    Parameters
    ----------
    layer, shape
        The layer, and the shape of its input.
    random
        Draws all numbers.

    Attributes
    ----------
    x, weights, state, dy
        The input, the weights by name, the state that earlier steps have left, and the gradient of the output.
    sequences
        Whether the first axis of the input is time, and so the second one the streams.
    """

    def __init__(self, layer: Layer, shape: Shape, random: np.random.Generator) -> None:
        self.layer, self.shape, self.random = layer, shape, random
        self.sequences = layer.ids is not None or len(shape) == 3

    def __str__(self) -> str:
        axes = ("steps", "streams", "features") if self.sequences else ("streams", "features")
        return f"{shown(self.layer)}, input ({', '.join(axes[: len(self.shape)])}) = {self.shape}"

    @cached_property
    def x(self) -> np.ndarray:
        return self._draw()

    def _draw(self) -> np.ndarray:
        ids = self.layer.ids
        return floats(self.random, *self.shape) if ids is None else self.random.integers(0, ids, self.shape)

    @cached_property
    def weights(self) -> dict[str, np.ndarray]:
        start = self.layer.initialize(self.shape, self.random)
        sizes = self.layer.parameters(self.shape) | self.layer.ties(self.shape)
        drawn = {name: start.get(name, 0) + floats(self.random, *size) / 4 for name, size in sizes.items()}
        return {name: array.astype(np.float32).astype(np.float64) for name, array in drawn.items()}

    @cached_property
    def state(self) -> dict[str, np.ndarray]:
        fresh = {name: np.zeros(size) for name, size in self.layer.state(self.shape).items()}
        return self.states(self.forward(backends.get("reference"), self._draw(), fresh)) if fresh else {}

    @cached_property
    def dy(self) -> np.ndarray:
        return floats(self.random, *self.layer.output(self.shape))

    def forward(
        self, ops: Ops, x: np.ndarray | None = None, state: Arrays | None = None, weights: Arrays | None = None, training: bool = False,
        key: int | None = None,
    ) -> dict[str, np.ndarray]:
        """The output and the state after it, by what they are."""
        x = self.x if x is None else x
        run = self._run(ops, x.shape, training, weights, state)
        run.key = key
        return self._results(ops, run, self.layer.forward(ops, run, ops.upload(x.copy())))

    def backward(self, ops: Ops, held: Arrays | None = None, written: Collection[str] = ()) -> dict[str, np.ndarray]:
        """All results of a step of training, by what they are.

        Before it, the gradients of the weights hold ``held``; those whose names are in ``written`` have got it from another layer in this step.
        """
        run = self._run(ops, self.shape, True)
        run.key = KEY
        run.g = {name: ops.upload(np.zeros(array.shape) if held is None else held[name].copy()) for name, array in self.weights.items()}
        run.written.update(id(run.g[name]) for name in written)
        x = ops.upload(self.x.copy())
        found = self._results(ops, run, self.layer.forward(ops, run, x))
        dx = self.layer.backward(ops, run, x, ops.upload(self.dy.copy()))
        if self.layer.ids is None:
            if dx is None or tuple(dx.shape) != self.shape:
                raise CheckError(f"{self}: backward returns {'None' if dx is None else f'an array of the shape {tuple(dx.shape)}'}, expected the "
                                 "gradient of the input, which has the input's shape.")
            found["the gradient of the input"] = ops.download(dx)
        elif dx is not None:
            raise CheckError(f"{self}: backward returns an array, expected None, since ids have no gradient.")
        return found | {"the input": ops.download(x)} | {_gradient(name): ops.download(array) for name, array in run.g.items()}

    def slopes(self, of: str, along: np.ndarray) -> np.ndarray:
        """dy times the derivative of the output along a direction of this weight, or of the input, whose name is ""."""
        step, x, weights = 1j * STEP * along, self.x, dict(self.weights)
        if of:
            weights[of] = weights[of] + step
        else:
            x = x + step
        y = self.forward(complex_step.Backend(), x, weights=weights, training=True, key=KEY)["the output"]
        return np.asarray(self.dy * y.imag / STEP)

    def states(self, results: Arrays) -> dict[str, np.ndarray]:
        """The arrays of the state among these results, by their names."""
        return {name: results[f"the state {name!r}"] for name in self.layer.state(self.shape)}

    def _run(self, ops: Ops, shape: Shape, training: bool, weights: Arrays | None = None, state: Arrays | None = None) -> Run:
        layout = Layout(self.layer.activations(shape, training))
        p = {name: ops.upload(array.copy()) for name, array in (self.weights if weights is None else weights).items()}
        run = Run(p, {}, Arena(layout, ops.empty((layout.size,))))
        run.m = {name: ops.upload(array.copy()) for name, array in (self.state if state is None else state).items()}
        return run

    def _results(self, ops: Ops, run: Run, y: Array) -> dict[str, np.ndarray]:
        return {"the output": ops.download(y)} | {f"the state {name!r}": ops.download(array) for name, array in run.m.items()}


@dataclass(frozen=True, repr=False)
class Losses(Layer):
    """The losses of a head as the output of a layer, for targets that depend on the shape of the input alone."""

    layer: Layer

    def __repr__(self) -> str:
        return f"the losses of {self.layer}"

    @property
    def _head(self) -> Head:
        head = self.layer.head()
        assert head is not None
        return head

    def output(self, shape: Shape) -> Shape:
        return (prod(shape[:-1]),)

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        return self.layer.parameters(shape)

    def ties(self, shape: Shape) -> dict[str, Shape]:
        return self.layer.ties(shape)

    def initialize(self, shape: Shape, random: np.random.Generator) -> dict[str, np.ndarray]:
        return self.layer.initialize(shape, random)

    def activations(self, shape: Shape, training: bool) -> dict[str, Shape]:
        return {"losses": self.output(shape)} | self._head.loss_activations(shape, training)

    def forward(self, ops: Ops, run: Run, x: Array) -> Array:
        self._head.losses(ops, run, x, self._targets(ops, x.shape), run.a["losses"])
        return run.a["losses"]

    def backward(self, ops: Ops, run: Run, x: Array, dy: Array) -> Array:
        return self._head.losses_backward(ops, run, x, self._targets(ops, x.shape), SCALE, run.a["losses"])

    def _targets(self, ops: Ops, shape: Shape) -> Array:
        random, vectors, symbols = np.random.default_rng(0), *self.output(shape), self._head.symbols
        numbers = self._head.targets == "numbers"
        return ops.upload(random.integers(0, 2, (vectors, symbols)).astype(float) if numbers else random.integers(-1, symbols, vectors))


class LossCase(Case):
    """A case whose outputs are losses: all count alike."""

    @cached_property
    def dy(self) -> np.ndarray:
        return np.full(self.layer.output(self.shape), SCALE)


# The contract of a layer


def saved(case: Case) -> None:
    layer = case.layer
    classes = {type(one).__name__: type(one) for one in walk([layer])}
    cells = {cell.name: cell for one in walk([layer]) if isinstance(cell := getattr(one, "cell", None), Cell)}
    again = rebuild(json.loads(json.dumps(describe(layer))), {**LAYERS, **classes}, cells)
    if again != layer:
        raise CheckError(f"{shown(layer)} would be loaded from a file as {shown(again)}. A layer is a frozen dataclass; its fields are its arguments, "
                         "and nothing else is stored on it.")


def shapes(case: Case) -> None:
    layer, shape = case.layer, case.shape
    first = (0, 1, *shape[2:]) if case.sequences else (1, *shape[1:])  # a model asks with this one, before it has an input
    parameters, state, streams = layer.parameters(shape), layer.state(shape), shape[case.sequences]
    if (told := layer.parameters(first)) != parameters:
        raise CheckError(f"{case}: parameters(shape) is {parameters}, but for the shape {first} it is {told}. Weights must not depend on the steps and "
                         "the streams.")
    drawn, again = (layer.initialize(first, np.random.default_rng(0)) for _ in range(2))
    if (sizes := {name: np.shape(array) for name, array in drawn.items()}) != parameters:
        raise CheckError(f"{case}: initialize(shape, random) returns the shapes {sizes}, expected parameters(shape), {parameters}.")
    for name, array in drawn.items():
        if not np.isfinite(array).all() or not np.array_equal(array, again[name]):
            raise CheckError(f"{case}: initialize(shape, random) returns NaN or infinity for {name!r}, or other values when called again with an equal "
                             "generator. All random numbers must come from ``random``.")
    at_rest = layer.state((0, *shape[1:]) if case.sequences else shape)
    if at_rest != state or any(size[:1] != (streams,) for size in state.values()):
        raise CheckError(f"{case}: state(shape) is {state}, and {at_rest} for no steps, expected equal shapes whose first axis is the {streams} streams.")
    if unknown := {*layer.matrices()} - {*parameters, *layer.ties(shape)}:
        raise CheckError(f"{case}: matrices() has {sorted(unknown)}, expected names of parameters(shape).")


def outputs(case: Case) -> None:
    ops, shape = backends.get("reference"), case.shape
    plain, trained = case.forward(ops), case.backward(ops)
    if (got := plain["the output"].shape) != (told := case.layer.output(shape)):
        raise CheckError(f"{case}: forward returns an array of the shape {got}, expected output(shape), {told}.")
    expect_close(f"{case}, not training, but with the arrays for it", case.forward(ops, training=True), plain,
                 "The output must not depend on which arrays there are; a layer is training if run.key is not None.")
    expect_close(f"{case}, in a second step with the same key", case.backward(ops), trained, "All random numbers must come from run.key.")
    expect_close(f"{case}, after forward and backward", trained, {"the input": case.x}, "Write only into run.a, run.g, run.m and dy.")
    if (table := case.layer.table(shape)) is not None:
        W = case.weights["W"]
        expect_close(f"{case}, which has a table(shape) of {table}", plain, {"the output": W[case.x]},
                     "Only a layer whose outputs are rows of its weight 'W' has a table; others return None.")


def streams(case: Case) -> None:
    ops, axis = backends.get("reference"), int(case.sequences)
    whole = case.forward(ops)
    for rows in ([0], [*range(1, case.shape[axis])]):
        state = {name: array[rows] for name, array in case.state.items()}
        wanted = {name: array.take(rows, int(name == "the output" and array.ndim == 3)) for name, array in whole.items()}
        expect_close(f"{case}, without {'the other streams' if rows == [0] else 'the first stream'}", case.forward(ops, case.x.take(rows, axis), state),
                     wanted, "Streams are different texts: no stream may depend on another.")


def segments(case: Case) -> None:
    ops, steps = backends.get("reference"), case.shape[0]
    if not case.sequences or case.layer.steps is not None:
        return
    whole = case.forward(ops)
    for cut in sorted({1, steps // 2, steps - 1} - {0, steps}):
        where = f"{case}, cut into {cut} and {steps - cut} steps"
        first = case.forward(ops, case.x[:cut])
        second = case.forward(ops, case.x[cut:], case.states(first))
        y, over_time = whole["the output"], whole["the output"].ndim == 3
        if over_time:
            expect_close(where, first, {"the output": y[:cut]},
                         "It depends on later steps, which a layer of a LanguageModel does not see; if yours is for a Sequential, pass "
                         "check(layer, streaming=False).")
        expect_close(where, second, {**whole, "the output": y[cut:] if over_time else y},
                     "What a segment needs of earlier ones belongs into state(shape): forward reads it from run.m, and leaves there what the next "
                     "segment needs.")


# The numbers of a layer, or of its losses


def adds(case: Case, ops: Ops | None = None, tolerance: float = TOLERANCE["float64"]) -> None:
    ops = ops or backends.get("reference")
    found = case.backward(ops)
    alone = {name: found[_gradient(name)] for name in case.weights}
    for written in ([], *([name] for name in alone), [*alone]):
        held = {name: gradient * (3 if name in written else np.nan) for name, gradient in alone.items()}
        wanted = {_gradient(name): gradient * (4 if name in written else 1) for name, gradient in alone.items()}
        expect_close(f"{case}, where another layer has written {written or 'nothing'} in this step", case.backward(ops, held, written), wanted,
                     "The first layer that writes a gradient sets it, every later one adds to it: run.adds(ops, name) says which, and verbs take "
                     "that as add=.", tolerance)


def gradients(case: Case, ops: Ops | None = None, tolerance: float = TOLERANCE["float64"]) -> None:
    found = case.backward(ops or backends.get("reference"))
    names = {name: _gradient(name) for name in case.weights} | ({} if case.layer.ids is not None else {"": "the gradient of the input"})
    along = {name: floats(case.random, *found[what].shape) for name, what in names.items()}
    slopes = {name: case.slopes(name, along[name]) for name in names}
    terms = {name: along[name] * found[what] for name, what in names.items()}
    size = sum(np.nansum(abs(array)) for array in (*slopes.values(), *terms.values()))
    for name, what in names.items():
        if abs(slopes[name].sum() - terms[name].sum()) <= tolerance * size:  # NaN is not
            continue
        gradient = found[what]
        places = case.random.permutation(gradient.size)[:LOCATED]
        ones = (np.reshape(np.arange(gradient.size) == place, gradient.shape) for place in places)
        wanted = np.array([case.slopes(name, one.astype(float)).sum() for one in ones])
        worst = np.argmax(np.nan_to_num(abs(gradient.flat[places] - wanted), nan=np.inf))
        place = [*map(int, np.unravel_index(places[worst], gradient.shape))]
        raise CheckError(f"{case}: {what} is {gradient.flat[places[worst]]:.6g} at {place}, but the derivative of what forward computes is "
                         f"{wanted[worst]:.6g}. Look at what backward does for it.")


def same_everywhere(case: Case) -> None:
    wanted = case.backward(backends.get("reference"))
    for ops in compiled():
        expect_close(f"{case}, backend {ops.name!r}", case.backward(ops), wanted, "The reference computes something else: compute by verbs of ``ops`` alone, "
                     "and write every array before it is read.", TOLERANCE[ops.dtype.name])


def same_on_threads(case: Case) -> None:
    one, two = (case.backward(backends.get("cpu", np.float32, threads)) for threads in (1, 2))
    expect_close(f"{case}, on two threads instead of one", two, one, "Every bit must be the same: compute by verbs of ``ops`` alone.", 0)


def _gradient(name: str) -> str:
    return f"the gradient of the weight {name!r}"


CONTRACT: dict[str, Callable[[Case], None]] = {
    "its arguments can be saved": saved,
    "its shapes are as told": shapes,
    "its output is a function of its input": outputs,
    "its streams are independent": streams,
    "a sequence may be cut into segments": segments,
}
NUMBERS: dict[str, Callable[[Case], None]] = {
    "its gradients are set or added to": adds,
    "its gradients are the derivatives of its output": gradients,
    "all backends compute the same": same_everywhere,
    "any number of threads computes the same bits": same_on_threads,
}
