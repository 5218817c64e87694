"""Checks of a layer."""

import json
from collections.abc import Callable

import numpy as np

from .. import backends
from ..arguments import checked
from ..backends.ops import Ops, Shape, Streams
from ..errors import CheckError, expect_kind, expect_number, shown
from ..layers import LAYERS, Dense, Embedding, Layer
from ..layers.chain import Chain
from ..layers.description import cells_within, describe, rebuild
from ..layers.layer import above, walk
from ..network import Graph, Network
from .cases import Case, LossCase, Losses, gradient_of
from .comparing import TOLERANCE, calls, compiled, expect_close, expect_finite, floats

SIZES = ((5, 3, 4), (1, 4, 2), (20, 64, 33))  # (steps, streams, features); the last is enough work for two threads
SYMBOLS = 7  # vocabulary size
ADVICE = ("The traceback shows the line. If the layer accepts vectors of one size only, pass check(layer, features=...); if it does not accept such "
          "an input at all, raise ShapeError in output(shape).")
UNWRITTEN = ("Write every array of run.a before you read it: on this backend they hold NaN until then. If that is not the reason, look for a division by "
             "zero, an overflow, or the logarithm or root of a negative number.")
LOCATED = 300  # elements differentiated one by one to locate an error in a gradient


@checked
def check(layer: Layer, features: int | None = None, *, verbose: bool = False) -> None:
    """Check that your own layer satisfies the contract of :class:`~numba_rnnlm.layers.Layer`, on inputs of several sizes.

    Its arguments can be saved; its shapes are as declared; its gradients are the derivatives of its output, and are set or added to as
    :meth:`Run.adds` says; streams do not depend on each other, and a sequence may be cut into segments; it computes the same over an
    embedding, while generating text, on all backends, and on any number of threads. The losses of its
    :meth:`~numba_rnnlm.layers.Layer.head`, if it has one, are checked in the same way.

    Parameters
    ----------
    layer
        A layer of few units: the slow reference backend computes it many times.
    features
        Size of the input vectors, if the layer accepts only one size.
    verbose
        Print a line for each passed check.

    Raises
    ------
    CheckError
        For the first check that fails. The message says what differs, where, by how much, and where to look.

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
        if expect in (segments, generation) and not layer.causal:
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


# The contract of a layer


def saved(case: Case) -> None:
    layer = case.layer
    classes = {type(one).__name__: type(one) for one in walk([layer])}
    cells = {cell.name: cell for cell in cells_within([layer])}
    again = rebuild(json.loads(json.dumps(describe(layer))), {**LAYERS, **classes}, cells)
    if again != layer:
        raise CheckError(f"{shown(layer)} would be loaded from a file as {shown(again)}. A layer is a frozen dataclass; its fields are its "
                         "arguments (with tuples instead of lists), and nothing else is stored on it.")


def shapes(case: Case) -> None:
    layer, shape = case.layer, case.shape
    first = (0, 1, *shape[2:]) if case.sequences else (1, *shape[1:])  # the shape that a model passes before it has an input
    parameters, state, streams = layer.parameters(shape), layer.state(shape), shape[case.sequences]
    if (told := layer.parameters(first)) != parameters:
        raise CheckError(f"{case}: parameters(shape) is {parameters}, but for the shape {first} it is {told}. Weights must not depend on the "
                         "numbers of steps and streams.")
    drawn, again = (layer.initialize(first, np.random.default_rng(0)) for _ in range(2))
    if (sizes := {name: np.shape(array) for name, array in drawn.items()}) != parameters:
        raise CheckError(f"{case}: initialize(shape, random) returns the shapes {sizes}, expected parameters(shape), {parameters}.")
    for name, array in drawn.items():
        if not np.isfinite(array).all() or not np.array_equal(array, again[name]):
            raise CheckError(f"{case}: initialize(shape, random) returns NaN or infinity for {name!r}, or other values when called again with "
                             "an equal generator. All random numbers must come from ``random``.")
    at_rest = layer.state((0, *shape[1:]) if case.sequences else shape)
    if at_rest != state or any(size[:1] != (streams,) for size in state.values()):
        raise CheckError(f"{case}: state(shape) is {state}, and {at_rest} for no steps, expected equal shapes whose first axis is the "
                         f"{streams} streams.")
    if unknown := {*layer.matrices()} - {*parameters, *layer.ties(shape)}:
        raise CheckError(f"{case}: matrices() has {sorted(unknown)}, expected names of parameters(shape).")


def outputs(case: Case) -> None:
    ops, shape = backends.get("reference"), case.shape
    plain, trained = case.forward(ops), case.backward(ops)
    if (got := plain["the output"].shape) != (told := case.layer.output(shape)):
        raise CheckError(f"{case}: forward returns an array of the shape {got}, expected output(shape), {told}.")
    expect_finite(f"{case}, not training", plain, UNWRITTEN)
    expect_finite(f"{case}, training", trained, UNWRITTEN)
    expect_close(f"{case}, not training, but with the arrays for it", case.forward(ops, training=True), plain,
                 "The output must not depend on which arrays there are: write every array of run.a before you read it. A layer is training if "
                 "run.key is not None.")
    expect_close(f"{case}, in a second step with the same key", case.backward(ops), trained,
                 "All random numbers must come from run.key, and every array of run.a must be written before it is read.")
    for what, found in (("forward", case.given_after(ops)), ("forward and backward", trained)):
        expect_close(f"{case}, after {what}", found, case.given(), "Write only into run.a, run.g, run.m and dy.")
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
        where = f"{case}, without {'the other streams' if rows == [0] else 'the first stream'}"
        expect_close(where, case.forward(ops, case.x.take(rows, axis), state), wanted,
                     "Streams are different texts: no stream may depend on another.")


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
                         "It depends on later steps, which a language model is to predict; if yours is for a Sequential, write "
                         "causal = False in the class.")
        expect_close(where, second, {**whole, "the output": y[cut:] if over_time else y},
                     "What a segment needs of earlier ones belongs into state(shape): forward reads it from run.m, and leaves there what the next "
                     "segment needs.")


def over_an_embedding(case: Case) -> None:
    layer, embedding, ids = case.layer, Embedding(SYMBOLS, case.shape[-1]), case.shape[:2]
    if len(case.shape) == 3 and layer.over(embedding, ("lower", "upper"), ids) is not None:
        both = (Case(Chain((embedding, layer), joins), ids, np.random.default_rng(0)) for joins in (True, False))
        joined, apart = (each.backward(backends.get("reference")) for each in both)
        expect_close(f"{case}, computed together with an Embedding", joined, apart,
                     "over(lower, names, shape) returns a layer that must compute what forward and backward compute; return None there.")


def generation(case: Case) -> None:
    layer, shape, head = case.layer, case.shape, case.layer.head()
    odd = layer.ids is not None or layer.steps is not None or {len(shape), len(layer.output(shape))} != {3}
    if odd or (head is None and layer.ties(shape)):
        return  # cannot be used in a LanguageModel
    symbols = SYMBOLS if head is None else head.symbols
    graph = Graph([Embedding(symbols, shape[-1]), layer, *([Dense(SYMBOLS, "softmax")] if head is None else [])])
    weights, ids = above(graph.names[1], case.weights), case.random.integers(0, symbols, shape[:2])
    for ops in compiled():
        network = Network(graph, ops, {name: weights.get(name, array) for name, array in graph.initialize(0).items()})
        state, decoder = network.state(shape[1]), network.decoder("float32")
        if decoder is not None:
            decoding = decoder.start(Streams(state.arrays(), ids[0], np.ones(shape[1], np.int64)))
            decoding.read(ids[1:])
            got, want = (ops.download(scores) for scores in (decoding.scores(), network.scores(ops.upload(ids), state)))
            expect_close(f"{case}, backend {ops.name!r}, generating text", {"the score of a symbol": got}, {"the score of a symbol": want},
                         "For generation, forward runs once, on arrays without numbers, and the verbs that it calls are repeated for each symbol: call "
                         "the same verbs whatever the arrays are.", TOLERANCE[ops.dtype.name])


# The numbers of a layer, or of its losses


def adds(case: Case, ops: Ops | None = None, tolerance: float = TOLERANCE["float64"]) -> None:
    ops = ops or backends.get("reference")
    found = case.backward(ops)
    expect_finite(f"{case}, training", found, UNWRITTEN)
    alone = {name: found[gradient_of(name)] for name in case.weights}
    for written in ([], *([name] for name in alone), [*alone]):
        held = {name: gradient * (3 if name in written else np.nan) for name, gradient in alone.items()}
        wanted = {gradient_of(name): gradient * (4 if name in written else 1) for name, gradient in alone.items()}
        expect_close(f"{case}, where another layer has written {written or 'nothing'} in this step", case.backward(ops, held, written), wanted,
                     "The first layer that writes a gradient sets it, every later one adds to it: run.adds(ops, name) says which, and verbs take "
                     "that as add=.", tolerance)


def gradients(case: Case, ops: Ops | None = None, tolerance: float = TOLERANCE["float64"]) -> None:
    found = case.backward(ops or backends.get("reference"))
    names = {name: gradient_of(name) for name in case.weights} | ({} if case.layer.ids is not None else {"": "the gradient of the input"})
    along = {name: floats(case.random, *found[what].shape) for name, what in names.items()}
    slopes = {name: case.slopes(name, along[name]) for name in names}
    terms = {name: along[name] * found[what] for name, what in names.items()}
    size = sum(np.nansum(abs(array)) for array in (*slopes.values(), *terms.values()))  # size of the terms, to which rounding is relative
    for name, what in names.items():
        if not abs(slopes[name].sum() - terms[name].sum()) <= tolerance * size:  # true for NaN
            place, got, want = _worst(case, name, found[what])
            raise CheckError(f"{case}: {what} is {got:.6g} at {place}, but the derivative of what forward computes is {want:.6g}. Look at what "
                             "backward does for it.")


def _worst(case: Case, name: str, gradient: np.ndarray) -> tuple[list[int], float, float]:
    """(index, gradient, derivative) where they differ most, among at most LOCATED elements."""
    places = case.random.permutation(gradient.size)[:LOCATED]
    directions = (np.reshape(np.arange(gradient.size) == place, gradient.shape).astype(float) for place in places)
    got, want = gradient.flat[places], np.array([case.slopes(name, along).sum() for along in directions])
    worst = np.argmax(np.nan_to_num(abs(got - want), nan=np.inf))
    return [*map(int, np.unravel_index(places[worst], gradient.shape))], got[worst], want[worst]


def same_everywhere(case: Case) -> None:
    wanted = case.backward(backends.get("reference"))
    for ops in compiled():
        expect_close(f"{case}, backend {ops.name!r}", case.backward(ops), wanted, "The reference computes something else: compute with verbs of "
                     "``ops`` only, and write every array before you read it.", TOLERANCE[ops.dtype.name])


def same_on_threads(case: Case) -> None:
    one, two = (case.backward(backends.get("cpu", np.float32, threads)) for threads in (1, 2))
    expect_close(f"{case}, on two threads instead of one", two, one, "Every bit must be the same: compute with verbs of ``ops`` only.", 0)


CONTRACT: dict[str, Callable[[Case], None]] = {
    "its arguments can be saved": saved,
    "its shapes are as declared": shapes,
    "its output is a function of its input": outputs,
    "its streams are independent": streams,
    "a sequence may be cut into segments": segments,
    "over an embedding it computes the same": over_an_embedding,
    "generating text computes the same": generation,
}
NUMBERS: dict[str, Callable[[Case], None]] = {
    "its gradients are set or added to": adds,
    "its gradients are the derivatives of its output": gradients,
    "all backends compute the same": same_everywhere,
    "any number of threads computes the same bits": same_on_threads,
}
