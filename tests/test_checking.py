"""The checks of a layer or a cell of one's own: each fault that they look for is found, and named in a sentence."""

import math
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np
import pytest
from own_cells import OWN

from numba_rnnlm import cells, layers
from numba_rnnlm.cells import CELLS, Cell
from numba_rnnlm.errors import CheckError, ConfigError
from numba_rnnlm.layers import LSTM, Dense, Embedding, Layer, Residual
from numba_rnnlm.layers.heads import Softmax
from numba_rnnlm.portable import dtanh, exp, portable, tanh


@dataclass(frozen=True)
class Pairs(Layer):
    """y[t] = tanh(x[t] W + x[t-1] V + b)"""

    units: int = 5

    def output(self, shape):
        steps, streams, _ = shape
        return steps, streams, self.units

    def parameters(self, shape):
        return {"W": (shape[-1], self.units), "V": (shape[-1], self.units), "b": (self.units,)}

    def state(self, shape):
        return {"last": shape[1:]}

    def activations(self, shape, training):
        steps, *vectors = shape
        arrays = {"x": (steps + 1, *vectors), "y": self.output(shape)}
        return arrays | ({"dx": shape, "before": shape} if training else {})

    def initialize(self, shape, random):
        return {name: random.normal(0, 0.1, size) for name, size in self.parameters(shape).items()}

    def forward(self, ops, run, x):
        seen, y = run.a["x"], run.a["y"]
        ops.copy(run.m["last"], seen[0])
        ops.copy(x, seen[1:])
        ops.copy(seen[-1], run.m["last"])
        ops.project(x, run.p["W"], run.p["b"], y)
        ops.project(seen[:-1], run.p["V"], None, y, add=True)
        ops.activate("tanh", y)
        return y

    def backward(self, ops, run, x, dy):
        dx, before = run.a["dx"], run.a["before"]
        ops.activate_backward("tanh", run.a["y"], dy)
        ops.project_backward(x, run.p["W"], dy, dx, run.g["W"], run.g["b"], add=run.adds(ops, "W", "b"))
        ops.project_backward(run.a["x"][:-1], run.p["V"], dy, before, run.g["V"], None, add=run.adds(ops, "V"))
        ops.add(before[1:], dx[:-1])
        return dx

    def matrices(self):
        return ("W", "V")


FAULTS = {}


def says(*words, arguments=()):
    """Decorator that registers a faulty layer with parts of the expected error message."""

    def register(kind):
        FAULTS[kind.__name__] = kind(*arguments), words
        return kind

    return register


# Faults of a layer: what it declares


@says("would be loaded from a file as ListArgument(", "(with tuples instead of lists), and nothing else is stored on it.", arguments=(5, [2.0]))
@dataclass(frozen=True)
class ListArgument(Pairs):
    gains: list = field(default_factory=list)


@says("checking that its arguments can be saved raised ConfigError: the class", "NoDataclass is no frozen dataclass")
class NoDataclass(Layer):
    pass


@says("checking that its arguments can be saved raised ConfigError: the class", "MayChange is no frozen dataclass", "a model counts on them to stay the same")
@dataclass
class MayChange(Layer):
    units: int = 5

    def output(self, shape):
        return (*shape[:-1], self.units)


@says("parameters(shape) is {'W': (5, 4)}, but for the shape (0, 1, 4) it is {'W': (0, 4)}. Weights must not depend on the numbers of steps")
class WeightsOfEachStep(Pairs):
    def parameters(self, shape):
        return {"W": (shape[0], shape[-1])}


@says("initialize(shape, random) returns the shapes {'W': (4, 5), 'V': (4, 5)}, expected parameters(shape), {'W': (4, 5), 'V': (4, 5), 'b': (5,)}.")
class NoInitialBias(Pairs):
    def initialize(self, shape, random):
        return {name: np.zeros(size) for name, size in self.parameters(shape).items() if name != "b"}


@says("initialize(shape, random) returns NaN or infinity for 'W', or other values when called again")
class InitialWeightsOfItsOwn(Pairs):
    def initialize(self, shape, random):
        return super().initialize(shape, np.random.default_rng())


@says("state(shape) is {'last': (4,)}, and {'last': (4,)} for no steps, expected equal shapes whose first axis is the 3 streams.")
class OneStateForAllStreams(Pairs):
    def state(self, shape):
        return {"last": (shape[2],)}


@says("state(shape) is {'all': (3, 5)}, and {'all': (3, 0)} for no steps, expected equal shapes")
class StateOfEachStep(Pairs):
    def state(self, shape):
        return {"all": (shape[1], shape[0])}


@says("matrices() has ['U'], expected names of parameters(shape).")
class UnknownMatrix(Pairs):
    def matrices(self):
        return ("W", "U")


# Faults of a layer: what it computes


@says("NoOutput(units=5): output((3, 4)) raised IndexError: tuple index out of range. The traceback shows the line.")
class NoOutput(Pairs):
    def output(self, shape):
        return (*shape[:2], self.units + shape[2])


@says("checking that its output is a function of its input raised KeyError: 'z'. The traceback shows the line. If the layer accepts vectors of one size only, pass")
class ArrayThatIsNotTold(Pairs):
    def forward(self, ops, run, x):
        return run.a["z"]


@says("raised NotImplementedError: NoBackward has no method backward(ops, run, x, dy)")
@dataclass(frozen=True)
class NoBackward(Layer):
    def forward(self, ops, run, x):
        return x


@says("forward returns an array of the shape (1, 3, 4), expected output(shape), (5, 3, 4).")
@dataclass(frozen=True)
class OutputOfAnotherShape(Layer):
    def forward(self, ops, run, x):
        return x[:1]

    def backward(self, ops, run, x, dy):
        return dy


@says("not training, but with the arrays for it: the output is ", "A layer is training if run.key is not None.")
class OutputOfItsArrays(Pairs):
    def forward(self, ops, run, x):
        y = super().forward(ops, run, x)
        if "dx" in run.a:
            ops.add(y, y)
        return y


@says("in a second step with the same key: the output is ", "All random numbers must come from run.key, and every array of run.a must be written before it is read.")
class RandomNumbersOfItsOwn(Pairs):
    keys = count()

    def forward(self, ops, run, x):
        y = super().forward(ops, run, x)
        if run.key is not None:
            ops.dropout(y, y, 0.5, next(self.keys))
        return y


@says("after forward: the input is ", "Write only into run.a, run.g, run.m and dy.")
@dataclass(frozen=True)
class OverwritesItsInputOutsideOfTraining(Layer):
    def forward(self, ops, run, x):
        if run.key is None:
            ops.add(x, x)
        return x

    def backward(self, ops, run, x, dy):
        return dy


@says("after forward and backward: the weight 'W' is ", "Write only into run.a, run.g, run.m and dy.")
class OverwritesItsWeights(Pairs):
    def backward(self, ops, run, x, dy):
        dx = super().backward(ops, run, x, dy)
        ops.fill(run.p["W"], 0)
        return dx


@says("after forward: the input is ", "Write only into run.a, run.g, run.m and dy.")
@dataclass(frozen=True)
class OverwritesItsInput(Layer):
    def forward(self, ops, run, x):
        ops.activate("tanh", x)
        return x

    def backward(self, ops, run, x, dy):
        ops.activate_backward("tanh", x, dy)
        return dy


@says("which has a table(shape) of (7, 5): the output is ", "Only a layer whose outputs are rows of its weight 'W' has a table; others return None.", arguments=(7, 5))
class MoreThanATable(Embedding):
    def forward(self, ops, run, x):
        y = super().forward(ops, run, x)
        ops.add(y, y)
        return y


@says("without the first stream: the output is ", "Streams are different texts: no stream may depend on another.")
class MixesStreams(Pairs):
    def forward(self, ops, run, x):
        y = super().forward(ops, run, x)
        y[:, 1:] += y[:, :1]
        return y


@says("(5, 3, 4), cut into 1 and 4 steps: the output is ", "It depends on later steps", "write causal = False in the class.")
@dataclass(frozen=True)
class Reverse(Layer):
    def output(self, shape):
        return Pairs(shape[-1]).output(shape)

    def activations(self, shape, training):
        return {"y": shape, "dx": shape}

    def forward(self, ops, run, x):
        ops.reverse(x, None, run.a["y"])
        return run.a["y"]

    def backward(self, ops, run, x, dy):
        ops.reverse(dy, None, run.a["dx"])
        return run.a["dx"]


class LooksAhead(Reverse):
    causal = False


@says("(5, 3, 4), cut into 1 and 4 steps: the output has the shape (0, 3, 4), expected (1, 3, 4). It depends on later steps")
@dataclass(frozen=True)
class DropsTheFirstStep(Layer):
    def output(self, shape):
        steps, streams, features = shape
        return steps - 1, streams, features

    def activations(self, shape, training):
        return {"dx": shape}

    def forward(self, ops, run, x):
        return x[1:]

    def backward(self, ops, run, x, dy):
        ops.fill(run.a["dx"], 0)
        ops.copy(dy, run.a["dx"][1:])
        return run.a["dx"]


@says("cut into 1 and 4 steps: the output is ", "What a segment needs of earlier ones belongs into state(shape): forward reads it from run.m")
class ForgetsItsState(Pairs):
    def forward(self, ops, run, x):
        ops.fill(run.m["last"], 0)
        return super().forward(ops, run, x)


@says("cut into 1 and 4 steps: the state 'count' is 3 at [0], expected 2", "belongs into state(shape)")
class CountsSegments(Pairs):
    def state(self, shape):
        return super().state(shape) | {"count": (shape[1],)}

    def forward(self, ops, run, x):
        ops.add(ops.upload(np.ones(x.shape[1])), run.m["count"])
        return super().forward(ops, run, x)


@says("(5, 3, 4), computed together with an Embedding: the output is ", "over(lower, names, shape) returns a layer that must compute", arguments=(5, True))
class MoreThanItsLoop(LSTM):
    def forward(self, ops, run, x):
        y = super().forward(ops, run, x)
        ops.add(y, y)
        return y

    def backward(self, ops, run, x, dy):
        ops.add(dy, dy)
        return super().backward(ops, run, x, dy)


@says("backend 'cpu', generating text: the score of a symbol is ", "call the same verbs whatever the arrays are", arguments=(5, True))
class OfSomeArrays(MoreThanItsLoop):
    def forward(self, ops, run, x):
        return super().forward(ops, run, x) if isinstance(x, np.ndarray) else LSTM.forward(self, ops, run, x)

    def over(self, lower, names, shape):
        return None


# Gradients


@says("backward returns an array of the shape (5, 3, 5), expected the gradient of the input, which has the input's shape.")
class GradientOfAnotherShape(Pairs):
    def backward(self, ops, run, x, dy):
        super().backward(ops, run, x, dy)
        return dy


@says("backward returns None, expected the gradient of the input")
class NoGradientOfTheInput(Pairs):
    def backward(self, ops, run, x, dy):
        super().backward(ops, run, x, dy)


@says("backward returns an array, expected None, since ids have no gradient.", arguments=(7, 5))
class GradientOfIds(Embedding):
    def backward(self, ops, run, x, dy):
        super().backward(ops, run, x, dy)
        return dy


@says("where another layer has written ['W'] in this step: the gradient of the weight 'W' is ", "run.adds(ops, name) says which, and verbs take that")
class GradientsThatAreSet(Pairs):
    def backward(self, ops, run, x, dy):
        run.written.clear()
        return super().backward(ops, run, x, dy)


@says("where another layer has written nothing in this step: the gradient of the weight 'W' is nan at [0, 0], expected ")
class GradientsThatAreAddedTo(Pairs):
    def backward(self, ops, run, x, dy):
        run.written.update(map(id, run.g.values()))
        return super().backward(ops, run, x, dy)


@says("where another layer has written nothing in this step: the gradient of the weight 'unused' is nan at [0], expected 0")
class GradientThatIsNotWritten(Pairs):
    def parameters(self, shape):
        return super().parameters(shape) | {"unused": (3,)}


@says("(5, 3, 4): the gradient of the weight 'V' is ", ", but the derivative of what forward computes is ", "Look at what backward does for it.")
class WrongGradientOfAWeight(Pairs):
    def backward(self, ops, run, x, dy):
        ops.copy(x, run.a["x"][:-1])
        return super().backward(ops, run, x, dy)


@says("(5, 3, 4): the gradient of the input is ", ", but the derivative of what forward computes is ")
class WrongGradientOfTheInput(Pairs):
    def backward(self, ops, run, x, dy):
        dx = super().backward(ops, run, x, dy)
        ops.add(run.a["before"][1:], dx[:-1])
        return dx


@says("the losses of WrongGradientOfTheLosses(", "(5, 3, 4): the gradient of the weight 'W' is ", "but the derivative of what forward computes is ",
      arguments=(5, "softmax"))
class WrongGradientOfTheLosses(Dense):
    def head(self):
        class Unscaled(Softmax):
            def losses_backward(self, ops, run, x, targets, scale, out):
                return super().losses_backward(ops, run, x, targets, 1.0, out)

        return Unscaled(self.units)


# Backends and threads


@says("(5, 3, 4), backend 'cpu': the output is ", "The reference computes something else: compute with verbs of ``ops`` only")
class AnotherBackend(Pairs):
    def forward(self, ops, run, x):
        y = super().forward(ops, run, x)
        if ops.name == "cpu":
            ops.add(y, y)
        return y


@says("(5, 3, 4), not training: the output is nan at [0, 0, 0]. Write every array of run.a before you read it: on this backend they hold NaN")
class ReadsBeforeItWrites(Pairs):
    def forward(self, ops, run, x):
        ops.project(x, run.p["W"], run.p["b"], run.a["y"], add=True)
        return run.a["y"]


@says("(5, 3, 4), training: the gradient of the input is nan at [0, 0, 0]. Write every array of run.a before you read it")
class AddsToAnEmptyGradient(Pairs):
    def backward(self, ops, run, x, dy):
        dx = super().backward(ops, run, x, dy)
        ops.fill(dx, np.nan)
        return dx


@says("(5, 3, 4), on two threads instead of one: the output is ", "Every bit must be the same: compute with verbs of ``ops`` only.")
class AnotherNumberOfThreads(Pairs):
    def forward(self, ops, run, x):
        y = super().forward(ops, run, x)
        if ops.name == "cpu" and ops.threads == 2:
            ops.add(y, y, 1e-6)
        return y


@pytest.mark.parametrize("name", FAULTS)
def test_faults_of_layers_are_reported(name):
    layer, words = FAULTS[name]
    with pytest.raises(CheckError) as caught:
        layers.check(layer)
    text = str(caught.value)
    assert name in text and all(word in text for word in words), text


def test_a_correct_custom_layer_passes(capsys):
    layers.check(Pairs())
    layers.check(LooksAhead())
    assert capsys.readouterr().out == ""
    layers.check(Pairs(), features=3, verbose=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11 and lines[0] == "Pairs: its arguments can be saved"


def test_a_layer_that_accepts_vectors_of_one_size_only():
    with pytest.raises(CheckError, match=r"accepts no input; of the shape \(64, 33\) output says: Residual adds .* pass check\(layer, features=\.\.\.\)"):
        layers.check(Residual(Dense(3)))
    layers.check(Residual(Dense(3)), 3)


def test_wrong_arguments_of_a_check():
    for call, message in (
        (lambda: layers.check(Dense), "layer is <class 'numba_rnnlm.layers.dense.Dense'>, expected a layer such as Dense"),
        (lambda: layers.check(Dense(3), features=0), "features is 0, expected a whole number of at least 1"),
        (lambda: cells.check("lstm"), r"cell is 'lstm', expected a numba_rnnlm\.cells\.Cell"),
    ):
        with pytest.raises(ConfigError, match=message):
            call()


# Faults of a cell

IND_RNN = OWN["ind_rnn"]


@portable
def another_forward(z, prev, next, w, start, stride):
    for j in range(start, next[0].size, stride):
        next[0][j] = tanh(z[0][j] - w[0][j] * prev[0][j])


@portable
def all_columns(z, prev, next, w, start, stride):
    for j in range(next[0].size):
        next[0][j] = tanh(z[0][j] + w[0][j] * prev[0][j])


@portable
def wrong_sum(z, prev, next, d, w, dw, start, stride):
    for j in range(start, next[0].size, stride):
        dw[0][j] += d[0][j] * dtanh(next[0][j]) * prev[0][j]
        z[0][j] = d[0][j]
        d[0][j] *= dtanh(next[0][j]) * w[0][j]


@portable
def wrong_state(z, prev, next, d, w, dw, start, stride):
    for j in range(start, next[0].size, stride):
        z[0][j] = d[0][j] * dtanh(next[0][j])
        dw[0][j] += z[0][j] * prev[0][j]
        d[0][j] = z[0][j]


@portable
def sets_weights(z, prev, next, d, w, dw, start, stride):
    for j in range(start, next[0].size, stride):
        z[0][j] = d[0][j] * dtanh(next[0][j])
        dw[0][j] = z[0][j] * prev[0][j]
        d[0][j] = z[0][j] * w[0][j]


@portable
def neighbour_forward(z, prev, next, start, stride):
    for j in range(start, next[0].size, stride):
        next[0][j] = tanh(z[0][j] + prev[0][j - 1])


@portable
def neighbour_backward(z, prev, next, d, start, stride):
    for j in range(start, next[0].size, stride):
        z[0][j] = d[0][j] * dtanh(next[0][j])
        d[0][j] = z[0][j]


@portable
def rounded_forward(z, prev, next, w, start, stride):
    for j in range(start, next[0].size, stride):
        T = type(z[0][j])
        next[0][j] = tanh((z[0][j] + T(3000) - T(3000)) + w[0][j] * prev[0][j])


@portable
def overflowing_forward(z, prev, next, start, stride):
    u, c, h, h_prev = z[0], z[1], next[0], prev[0]
    for j in range(start, h.size, stride):
        u[j] = exp(u[j]) / (type(u[j])(1) + exp(u[j]))
        h[j] = h_prev[j] + u[j] * (c[j] - h_prev[j])


@portable
def bare_float(z, prev, next, w, start, stride):
    for j in range(start, next[0].size, stride):
        next[0][j] = tanh(1.0 * z[0][j] + w[0][j] * prev[0][j])


@portable
def numpys_tanh(x):
    return np.tanh(x) + np.sqrt(abs(x)) - math.sqrt(abs(x))


@portable
def calls_numpy(z, prev, next, w, start, stride):
    for j in range(start, next[0].size, stride):
        next[0][j] = numpys_tanh(z[0][j] + w[0][j] * prev[0][j])


@portable
def calls_math(z, prev, next, w, start, stride):
    for j in range(start, next[0].size, stride):
        next[0][j] = math.tanh(z[0][j] + w[0][j] * prev[0][j])


def fails(*arguments):
    raise RuntimeError("as it must")


CELLS_WITH_A_FAULT = {
    "equations that fail": (replace(IND_RNN, equations=fails), "checking that its equations return its states raised RuntimeError: as it must."),
    "no states": (replace(IND_RNN, equations=lambda z, prev, w: np.tanh(z + w * prev)[0]),
                  r"equations returns the shape \(3, 7\), expected \(states, streams, units\), \(1, 3, 7\)"),
    "a root of negative numbers": (replace(IND_RNN, equations=lambda z, prev, w: np.sqrt(z + w * prev)),
                                   r"of sums and states of about 1: what equations returns is nan at \[0, \d, \d\]. Look for a division by zero"),
    "another forward": (replace(IND_RNN, forward=another_forward), "run as plain Python: the new state 'h' is .* Compare forward with the equations"),
    "no complex numbers": (replace(IND_RNN, equations=lambda z, prev, w: np.tanh((z + w * prev).real)),
                           "Compare backward with the derivative of the equations, which must also hold for complex numbers: no abs"),
    "wrong gradient of a sum": (replace(IND_RNN, backward=wrong_sum), "run as plain Python: the gradient of the sum of the slot 'a' is "),
    "wrong gradient of a state": (replace(IND_RNN, backward=wrong_state), "the gradient of the previous state 'h' is .* Compare backward"),
    "gradient of the weights set": (replace(IND_RNN, backward=sets_weights), "run as plain Python: the gradient of the weights 'u' is .* Compare backward"),
    "all columns at once": (replace(IND_RNN, forward=all_columns), "with start=0 and stride=2, of columns that are not its own: the new state 'h' is "),
    "another column": (Cell("neighbour", {"a": "x"}, ("h",), lambda z, prev: np.tanh(z + np.roll(prev, 1, -1)), neighbour_forward, neighbour_backward),
                       "with start=0 and stride=2: the new state 'h' is .*, expected "),
    "lost in float32": (replace(IND_RNN, forward=rounded_forward), "backend 'cpu': the new state 'h' is .* Compare forward with the equations"),
    "a bare float": (replace(IND_RNN, forward=bare_float), r"forward computes in float64 in line \d+ of test_checking.py although its arrays are float32"),
    "NumPy's tanh": (replace(IND_RNN, forward=calls_numpy), r"forward calls tanh of NumPy in line \d+ of test_checking.py, whose last bits are others"),
    "math's tanh": (replace(IND_RNN, forward=calls_math), r"forward calls tanh of math in line \d+ of .*numba_rnnlm.portable has exp"),
    "an exponential": (replace(CELLS["mingru"], forward=overflowing_forward), "backend 'cpu': the new state 'h' is not finite for sums and states of about 1000"),
}  # fmt: skip


@pytest.mark.parametrize("fault", CELLS_WITH_A_FAULT)
def test_faults_of_cells_are_reported(fault):
    cell, message = CELLS_WITH_A_FAULT[fault]
    with pytest.raises(CheckError, match=f"<Cell {cell.name!r}>.*{message}") as caught:
        cells.check(cell)
    assert isinstance(caught.value, AssertionError)


def test_a_correct_custom_cell_passes(capsys):
    cells.check(IND_RNN, verbose=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "cell 'ind_rnn': its equations return its states"
    assert len(lines) == 17 and lines[-1] == "Recurrent: any number of threads computes the same bits"
