"""Kernels at the sizes of real models, and with more elements than 32 bits can count."""

from itertools import count

import numpy as np
import pytest
from checks import TOLERANCE, assert_close, call
from direct import random_bits
from own_cells import LOOPS
from strategies import RULES, floats, rule_arguments, unwritten

from numba_rnnlm import backends
from numba_rnnlm.backends.cpu import LOGITS, linear, update
from numba_rnnlm.backends.cpu.linear import STEPS, Matrix
from numba_rnnlm.backends.cpu.sums import LANES
from numba_rnnlm.backends.ops import Choice
from numba_rnnlm.cells import CELLS
from numba_rnnlm.config import ModelConfig, SamplingConfig
from numba_rnnlm.decoding import generate_batch
from numba_rnnlm.language_model.architecture import build
from numba_rnnlm.network import Network

REFERENCE = backends.get("reference")


# The sizes of real models


def rounding(ops):
    """The relative rounding error of one operation."""
    return float(np.finfo(ops.dtype).eps) / 2


@pytest.mark.parametrize(("symbols", "transposed", "level"), [(10_000, False, False), (50_000, True, False), (50_000, False, True)])
def test_losses_over_large_vocabularies(cpu, symbols, transposed, level):
    """More logits than exist at a time. Errors are within the bound for roundings that all go in the same direction, in sums that are split
    into lanes and blocks.

    With a ``level`` bias, all roundings do go in the same direction: a single float32 chain would exceed the bound ten times.
    """
    random, rows, inputs, unit = np.random.default_rng(symbols), 5 * LOGITS // symbols // 4, 5, rounding(cpu)
    targets = random.integers(-1, symbols, rows)
    targets[[0, 1, 2, -1]] = 0, symbols - 1, -1, symbols - 1
    W, b = (np.zeros((inputs, symbols)), np.r_[0, np.full(symbols - 1, -0.3)]) if level else (floats(random, inputs, symbols), floats(random, symbols))
    arguments = {"x": floats(random, rows, inputs), "W": np.ascontiguousarray(W.T) if transposed else W, "b": b, "targets": targets,
                 "scale": 1.0, "losses": unwritten(rows), "dx": unwritten(rows, inputs), "dW": unwritten(*(W.T if transposed else W).shape),
                 "db": unwritten(symbols), "transposed": transposed}  # fmt: skip
    got, want = (call(ops, "cross_entropy_backward", arguments) for ops in (cpu, REFERENCE))

    logits = arguments["x"] @ W + b
    lost = 2 * (inputs + 1) * unit * (abs(arguments["x"]) @ abs(W) + abs(b)).max() + (symbols / LANES + 16) * unit  # bound for the error of a probability
    dz = np.exp(logits - logits.max(1, keepdims=True))
    dz /= dz.sum(1, keepdims=True)
    dz[np.arange(rows), targets] += 1
    dz[targets < 0] = 0
    assert (got["losses"][targets < 0] == 0).all()
    assert (abs(got["losses"] - want["losses"]) <= lost + 4 * unit * want["losses"]).all()
    summed = lost + (STEPS + symbols / STEPS) * unit
    assert (abs(got["dx"] - want["dx"]) <= summed * (dz @ abs(W.T))).all()
    assert (abs(got["db"] - want["db"]) <= (lost + 4 * unit) * dz.sum(0)).all()
    dW, wanted = (found["dW"].T if transposed else found["dW"] for found in (got, want))
    assert (abs(dW - wanted) <= (lost + (STEPS + rows / STEPS) * unit) * (abs(arguments["x"]).T @ dz)).all()


@pytest.mark.parametrize("hidden", [650, 1024])
@pytest.mark.parametrize("cell", LOOPS.values(), ids=LOOPS)
def test_time_loops_of_many_units(cpu, cell, hidden):
    random, T, N, (first, last) = np.random.default_rng(0), 2, 6, cell.window("h")  # no sum of these is within rounding of ReLU's kink
    s = unwritten(T + 1, N, len(cell.states), hidden)
    s[0] = floats(random, N, len(cell.states), hidden) / 2
    arguments = {"cell": cell, "U": floats(random, hidden, (last - first) * hidden) / 32, "z": floats(random, T, N, len(cell.gates), hidden),
                 "s": s, "dy": floats(random, T, N, hidden), "d": floats(random, *s.shape[1:])}  # fmt: skip
    arguments["dU"] = unwritten(*arguments["U"].shape)
    got, want = (call(ops, "recur_backward", arguments) for ops in (cpu, REFERENCE))
    assert_close(got, want, TOLERANCE[cpu.dtype.name])


@pytest.mark.parametrize(("rows", "inputs", "units"), [(700, 650, 2600), (23, 650, 10_000)])
def test_products_of_real_models(cpu, rows, inputs, units):
    random, unit = np.random.default_rng(0), rounding(cpu)
    x, W, b, dout = floats(random, rows, inputs), floats(random, inputs, units), floats(random, units), floats(random, rows, units)
    out = call(cpu, "project", {"x": x, "W": W, "b": b, "out": unwritten(rows, units)})["out"]
    back = call(cpu, "project_backward", {"x": x, "W": W, "dout": dout, "dx": unwritten(rows, inputs), "dW": unwritten(inputs, units), "db": None})
    assert (abs(out - x @ W - b) <= (inputs + 1) * unit * (abs(x) @ abs(W) + abs(b))).all()
    assert (abs(back["dx"] - dout @ W.T) <= (STEPS + units / STEPS) * unit * (abs(dout) @ abs(W.T))).all()
    assert (abs(back["dW"] - x.T @ dout) <= (STEPS + rows / STEPS) * unit * (abs(x.T) @ abs(dout))).all()


@pytest.mark.parametrize("choice", [Choice(), Choice(top_k=40), Choice(top_p=0.9), Choice(0.7, 9999, 0.5)], ids=lambda choice: str(choice[:3]))
def test_drawing_from_a_large_vocabulary(cpu, choice):
    """The same as the reference, except for numbers that are closer to a border than float32 resolves."""
    random, symbols, choice = np.random.default_rng(0), 50_000, choice._replace(banned=np.array([0, 49_999]))
    row = np.round(64 * random.standard_normal(symbols)) / 16  # equal, or different in float32 too
    numbers = np.array([0.0, *random.random(20), 1 - 2**-53])
    near = np.clip(numbers + np.array([[-1e-6], [0], [1e-6]]), 0, 1 - 2**-53)
    found = picked(cpu, row, choice, numbers)
    wanted = picked(REFERENCE, row, choice, near.reshape(-1)).reshape(near.shape)
    assert (found == wanted).any(0).all()


def picked(ops, row, choice, numbers):
    """The ids that these numbers pick from a row of scores."""
    ids = ops.upload(np.full(len(numbers), -1))
    ops.choose(ops.upload(np.tile(row, (len(numbers), 1))), choice, numbers, ids)
    return ops.download(ids)


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_generating_with_a_large_vocabulary(monkeypatch, weights):
    """The decoder generates the same as one forward pass per symbol."""
    model, random, ops = build(ModelConfig(vocabulary_size=50_000, hidden=24, embedding=12)), np.random.default_rng(0), backends.get("cpu", threads=2)
    network = Network(model, ops, {name: floats(random, *shape) / 3 for name, shape in model.layout.items()})
    prompts, config = [np.array([49_999, 0]), np.array([25_000])], SamplingConfig(6, weights=weights, temperature=0.5)
    got = generate_batch(network, prompts, config, [1, 2])
    monkeypatch.setattr(type(ops), "decoder", lambda *arguments: None)
    exact = network if weights == "float32" else network.rounded()
    want = generate_batch(exact, prompts, SamplingConfig(6, temperature=0.5), [1, 2])
    assert [ids.tolist() for ids in got] == [ids.tolist() for ids in want]


# More elements than 32 bits can count

SIZE = 22  # elements, rows or streams to process, all of them beyond the limit
edges = pytest.mark.parametrize("edge", [2**31, 2**32], ids=["signed", "unsigned"])  # where a 32-bit index would wrap around


@pytest.fixture
def far(tmp_path):
    """A function that makes arrays of any size, which take memory and disk space only where they are accessed."""
    numbers = count()

    def make(shape, dtype=np.float32):
        with open(tmp_path / str(next(numbers)), "wb") as file:
            file.truncate(int(np.prod(shape)) * np.dtype(dtype).itemsize)
        return np.asarray(np.memmap(file.name, dtype, "r+", shape=shape))

    return make


@pytest.fixture
def only_the_end(monkeypatch):
    monkeypatch.setattr(backends.cpu, "cut", lambda size, parts, unit=1: np.array([[max(0, size - SIZE), size]]))


VERBS = {  # name → the call, and the shapes of the rows in its arguments
    "fill": (lambda ops, out: ops.fill(out, 1.5), [()]),
    "add": (lambda ops, x, out: ops.add(x, out, 0.5), [(), ()]),
    "tanh": (lambda ops, x: ops.activate("tanh", x), [()]),
    "relu_backward": (lambda ops, y, dy: ops.activate_backward("relu", y, dy), [(), ()]),
    "softmax": (lambda ops, x: ops.activate("softmax", x), [(50,)]),
    "softmax_backward": (lambda ops, y, dy: ops.activate_backward("softmax", y, dy), [(50,), (50,)]),
    "cross_entropy": (lambda ops, x, ids, losses: ops._cross_entropy_rows(x, ids, losses, 1.0, True), [(50,), "ids", ()]),
    "binary_cross_entropy": (lambda ops, x, wanted, losses: ops.binary_cross_entropy_backward(x, wanted, 1.0, losses), [(50,), (50,), ()]),
    "gather": (lambda ops, ids, out: ops.gather(np.arange(2500, dtype=np.float32).reshape(50, 50), ids, out), ["ids", (50,)]),
    "sum of squares": (lambda ops, x, sums: ops._elementwise(update.sum_of_squares, len(sums), x.reshape(-1), sums), [(update.BLOCK,), "sums"]),
}  # fmt: skip


@edges
@pytest.mark.parametrize("name", VERBS)
def test_verbs_beyond_the_limit(far, only_the_end, edge, name):
    verb, rows = VERBS[name]
    ops, random, near, away = backends.get("cpu"), np.random.default_rng(0), [], []
    size = edge // max(int(np.prod(row)) for row in rows if isinstance(row, tuple)) + SIZE + 1
    for row in rows:
        dtype, shape = {"ids": (np.int32, ()), "sums": (np.float64, ())}.get(row, (np.float32, row))
        near.append(random.integers(0, 50, SIZE, np.int32) if row == "ids" else floats(random, SIZE, *shape).astype(dtype))
        away.append(far((size, *shape), dtype))
        away[-1][-SIZE:] = near[-1]
    verb(ops, *away)
    verb(ops, *near)
    for got, want in zip(away, near, strict=True):
        np.testing.assert_array_equal(got[-SIZE:], want)


@edges
def test_dropout_beyond_the_limit(far, only_the_end, edge):
    x, key = far((edge + SIZE,)), 12345
    x[-SIZE:] = 1
    backends.get("cpu").dropout(x, x, 0.5, key)
    assert x[-SIZE:].tolist() == [2 * (random_bits(key, index) >> 63) for index in range(x.size - SIZE, x.size)]


@edges
def test_updates_beyond_the_limit(far, only_the_end, edge):
    """Moments are stored after one another: the second moment begins after the size of the weights."""
    ops, random, rule = backends.get("cpu"), np.random.default_rng(0), RULES["adam"]
    p, g, m = (far((*shape, edge + SIZE)) for shape in ((), (), (2,)))
    given = rule_arguments(random, rule, SIZE, 1, np.inf)
    near = [floats(random, SIZE).astype(np.float32), floats(random, SIZE).astype(np.float32), given["m"].astype(np.float32)]
    for array, part in zip((p, g, m), near, strict=True):
        array[..., -SIZE:] = part
    ops.update(rule, p, g, m, given["h"])
    ops.update(rule, *near, given["h"])
    for got, want in zip((p, m), (near[0], near[2]), strict=True):
        np.testing.assert_array_equal(got[..., -SIZE:], want)


@edges
def test_rows_of_a_table_beyond_the_limit(far, edge):
    ops, columns = backends.get("cpu"), 2**15
    table = far((edge // columns + 2, columns))
    ids = np.array([[0, len(table) - 1, 1, len(table) - 2]], np.int32)
    rows = np.arange(ids.size * columns, dtype=np.float32).reshape(*ids.shape, columns)
    ops.scatter_add(ids, rows, table)
    out = np.empty_like(rows)
    ops.gather(table, ids, out)
    np.testing.assert_array_equal(out, rows)


@edges
@pytest.mark.parametrize("cell", [CELLS["tanh"], CELLS["lstm"]], ids=["tanh", "lstm"])
def test_streams_beyond_the_limit(far, only_the_end, monkeypatch, edge, cell):
    ops, random, hidden, (first, last) = backends.get("cpu"), np.random.default_rng(0), 13, cell.window("h")
    gates, states, streams, away, near = len(cell.gates), len(cell.states), edge // hidden + SIZE + 1, {}, {}
    for name, shape in {"z": (1, 0, gates, hidden), "s": (2, 0, states, hidden), "dy": (1, 0, hidden), "d": (0, states, hidden)}.items():
        away[name], part = far([size or streams for size in shape]), floats(random, *[size or SIZE for size in shape])
        near[name] = part.astype(np.float32)
        away[name].swapaxes(0, shape.index(0))[-SIZE:] = near[name].swapaxes(0, shape.index(0))
    U, dU = floats(random, hidden, (last - first) * hidden).astype(np.float32), np.empty((hidden, (last - first) * hidden), np.float32)
    monkeypatch.setattr(ops, "_multiply", lambda *arguments, **options: None)  # the gradient of U would be a product over all streams
    for arrays in (away, near):
        ops.recur(cell, U, arrays["z"], arrays["s"])
        ops.recur_backward(cell, U, *(arrays[name] for name in ("z", "s", "dy", "d")), dU)
    for name in ("z", "s"):
        np.testing.assert_array_equal(away[name][:, -SIZE:], near[name])
    np.testing.assert_array_equal(away["d"][-SIZE:], near["d"])


@edges
@pytest.mark.parametrize("in_blocks", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("rows", [3, 9])  # each has its own kernels
def test_products_of_windows_beyond_the_limit(far, edge, rows, transposed, in_blocks):
    ops, random, inner, columns, away = backends.get("cpu"), np.random.default_rng(0), 5, 6, edge // 2 + 3
    sides = {"a": (rows, inner), "b": (columns, inner) if transposed else (inner, columns), "c": (rows, columns)}
    flat = {name: far((shape[0] * away,)) for name, shape in sides.items()}
    near = {name: random.integers(-9, 9, shape).astype(np.float32) for name, shape in sides.items()}
    windows = {name: flat[name].reshape(-1, away)[:, 7 : 7 + shape[1]] for name, shape in sides.items()}
    for name, window in windows.items():
        window[:] = near[name]
    a, b, c = (Matrix(flat[name], 7, *shape, away, 1) for name, shape in sides.items())
    linear.multiply(ops.pool, ops.workspace, a, b.T if transposed else b, c, in_blocks=in_blocks)
    np.testing.assert_array_equal(windows["c"], near["c"] + near["a"] @ (near["b"].T if transposed else near["b"]))
