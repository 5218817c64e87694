"""Tests of the GPU kernels beyond the common tests of backends. Run on a device, or on Numba's CUDA simulator at small sizes."""

import contextlib
import ctypes
import importlib
import os
import subprocess
import sys
import warnings
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import strategies
from checks import ROUNDS, TOLERANCE, assert_close, assert_same_bits, call, error
from hypothesis import given
from hypothesis import strategies as st
from own_cells import EVERY
from strategies import floats, unwritten

from numba_rnnlm import LanguageModel, Sequential, backends, memory
from numba_rnnlm.backends import SIMULATED
from numba_rnnlm.cells import CELLS
from numba_rnnlm.checking.cases import Case
from numba_rnnlm.config import ModelConfig
from numba_rnnlm.errors import BackendError, ConfigError, DivergenceError, ShapeError
from numba_rnnlm.language_model.architecture import build
from numba_rnnlm.layers import GRU, LSTM, Conv1D, Dense, Embedding, Flatten
from numba_rnnlm.memory import Space
from numba_rnnlm.network import Network
from numba_rnnlm.optimizers.pytorch import Adam
from numba_rnnlm.portable import stream_key
from numba_rnnlm.rules import ADAM, SGD
from numba_rnnlm.training import loop
from numba_rnnlm.training.updater import Updater

pytestmark = pytest.mark.device

REFERENCE = backends.get("reference")
LOST = {"float32": 1e-5, "tf32": 4e-3, "bf16": 3e-2}  # the factors of products are rounded to 24, 11 and 8 bits
small = st.integers(1, 20)


@pytest.fixture(scope="module")
def cuda():
    """The backend module; imported here so that collecting these tests does not need CUDA."""
    from numba_rnnlm.backends import cuda

    return cuda


@pytest.fixture(scope="module", params=["tf32", "bf16"])
def rounding(request):
    """The device at each precision that rounds the factors of products."""
    return backends.get("cuda", precision=request.param)


def random_call(verb, **drawn):
    """Random arguments of ``verb`` with fixed sizes."""
    random = np.random.default_rng(sum(drawn.values()))
    if verb == "project":
        M, D, K = drawn["M"], drawn["D"], drawn["K"]
        return {"x": floats(random, M, D), "W": floats(random, D, K), "b": floats(random, K), "out": unwritten(M, K)}
    cell, T, N, H = EVERY[list(EVERY)[drawn["cell"]]], drawn["T"], drawn["N"], drawn["H"]
    first, last = cell.window("h")
    s = unwritten(T + 1, N, len(cell.states), H)
    s[0] = floats(random, *s.shape[1:])
    arguments = {
        "cell": cell, "U": floats(random, H, (last - first) * H) / np.sqrt(H), "z": floats(random, T, N, len(cell.gates), H),
        "s": s, "dy": floats(random, T, N, H), "d": floats(random, *s.shape[1:]),
        "dU": np.zeros((H, (last - first) * H)),
    }  # fmt: skip
    if cell.weights:
        arguments |= {"w": floats(random, len(cell.weights), H), "dw": unwritten(len(cell.weights), H)}
    return arguments if first < last else arguments | {"U": None, "dU": None}


# Arrays


@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=4), data=st.data())
def test_views_agree_with_numpy(shape, data):
    ops = backends.get("cuda")
    want = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    got = ops.upload(want)
    for _ in range(2):
        index = tuple(
            data.draw(st.one_of(*[st.integers(-n, n - 1)] * (n > 0), st.builds(slice, st.integers(0, n), st.integers(0, n))))
            for n in want.shape[: data.draw(st.integers(0, want.ndim))]
        )
        if index and want.ndim:
            want, got = want[index], got[index]
        assert got.shape == want.shape
        np.testing.assert_array_equal(ops.download(got), want)


@pytest.mark.parametrize("index", [
    np.s_[:, 1:3], np.s_[:, :, 1], np.s_[1:, :, 2, :3], np.s_[:, 1, 1:, 2:4], np.s_[1:, 1:, 1:, 1:, 1:], np.s_[:, 2, :, 3, 1]
])  # fmt: skip
def test_copies_between_strided_arrays(index):
    ops = backends.get("cuda")
    want = np.arange(2 * 3 * 4 * 5 * 2, dtype=np.float32).reshape(2, 3, 4, 5, 2)
    array = ops.upload(want)
    np.testing.assert_array_equal(ops.download(array[index]), want[index])
    ops.copy(ops.upload(-want[index]), array[index])
    want[index] *= -1
    np.testing.assert_array_equal(ops.download(array), want)


def test_reshape_and_unsupported_views():
    ops = backends.get("cuda")
    array = ops.upload(np.arange(24.0).reshape(2, 3, 4))
    np.testing.assert_array_equal(ops.download(array.swapaxes(0, 1)), np.arange(24).reshape(2, 3, 4).swapaxes(0, 1))
    assert array.reshape(-1, 4).shape == (6, 4)
    assert array[1].reshape((4, 3)).shape == (4, 3)
    with pytest.raises(ShapeError, match="cannot be seen as"):
        array[:, 0].reshape(-1)
    with pytest.raises(ShapeError, match="cannot be seen as"):
        array.reshape(5, 5)
    with pytest.raises(ShapeError, match="step 1, not 2"):
        array[::2]
    with pytest.raises(IndexError, match="out of bounds"):
        array[2]
    with pytest.raises(TypeError, match=r"ops\.download"):
        np.asarray(array)


@pytest.mark.parametrize("layer", [Conv1D(2, 2, padding="causal"), Flatten()])
def test_a_layer_that_exchanges_axes(layer):
    """The state of a convolution has the streams first, as has the result of Flatten."""
    case = Case(layer, (3, 2, 2), np.random.default_rng(0))
    assert_close(case.backward(backends.get("cuda")), case.backward(REFERENCE), TOLERANCE["float32"])


def test_float64_is_rejected():
    with pytest.raises(ConfigError, match="expects 'float32'"):
        backends.get("cuda", np.float64)


# Precision


@pytest.mark.parametrize("verb", ["project", "project_backward", "cross_entropy_backward"])
@given(data=st.data())
def test_products_lose_no_more_precision_than_their_factors(rounding, verb, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strategies, "sizes", small)
        arguments = data.draw(strategies.VERBS[verb]())
    assert_close(call(rounding, verb, arguments), call(REFERENCE, verb, arguments), LOST[rounding.precision])


@pytest.mark.parametrize("cell", ["tanh", "lstm", "gru"])
def test_the_time_loop_loses_no_more_precision_than_its_factors(rounding, cell):
    arguments = random_call("recur_backward", cell=list(CELLS).index(cell), T=2, N=3, H=19)
    got, want = (call(ops, "recur_backward", arguments) for ops in (rounding, REFERENCE))
    assert_close(got, want, 3 * LOST[rounding.precision])  # two steps, forward and backward


def test_lower_precision_gives_different_numbers():
    arguments = random_call("project", M=5, D=9, K=7)
    exact, tf32, bf16 = (call(backends.get("cuda", precision=name), "project", arguments)["out"] for name in LOST)
    want = call(REFERENCE, "project", arguments)["out"]
    assert error(exact, want) < 1e-6 < error(tf32, want) < error(bf16, want)


# Partitions of the time loop


PARTITIONS = (16, 1), (16, 2), (8, 1), (8, 2), (0, 0)
# One cell of each kind: kernels of cells with the same gates, states and weights differ in their rows only, which the tests of the verbs run.
KINDS = {(len(cell.gates), len(cell.states), cell.weights): number for number, cell in enumerate(EVERY.values()) if cell.window("h")[1]}


@pytest.mark.parametrize(("cell", "partition", "ending"), [
    (cell, partition, ending) for i, cell in enumerate(KINDS.values()) for j, partition in enumerate(PARTITIONS)
    for ending in ((False, True) if ROUNDS > 1 or not SIMULATED else (bool((i + j) % 2),))  # simulated: all pairs, half of the triples
])  # fmt: skip
def test_every_partition_agrees_with_the_reference(cuda, monkeypatch, cell, partition, ending):
    """Several groups of streams and slices of units; 0 units means step by step."""
    units, tiles = partition
    H = units + 5
    monkeypatch.setattr(cuda.recurrence, "SHAPES", ((units, tiles),) if units else ())
    monkeypatch.setattr(cuda, "_plans", {})
    arguments = random_call("recur_backward", cell=cell, T=3, N=35 if tiles == 2 else 18, H=H)
    if ending:
        arguments["lengths"] = np.arange(arguments["z"].shape[1]) % 4
    plan = backends.get("cuda")._plan(arguments["cell"], arguments["z"].shape[1], H, True, ending)
    assert (plan.units, plan.tiles, plan.groups) == (units, tiles, 2 if units else 0)
    got = call(backends.get("cuda"), "recur_backward", arguments)
    assert_close(got, call(REFERENCE, "recur_backward", arguments), TOLERANCE["float32"])


@pytest.mark.parametrize("cell", ["sru", "peephole"])
def test_gradients_of_a_cells_weights_over_many_steps(cuda, cell, monkeypatch):
    """More than one chain of them."""
    if SIMULATED:  # a compiled kernel would contain the number
        monkeypatch.setattr(cuda.recurrence, "CHAIN", 5)
    steps = cuda.recurrence.CHAIN + 2
    arguments = random_call("recur_backward", cell=list(EVERY).index(cell), T=steps, N=2, H=3)
    arguments |= {"lengths": np.array([steps, steps - 1]), "w": arguments["w"] / 4}
    got, want = (call(ops, "recur_backward", arguments) for ops in (backends.get("cuda"), REFERENCE))
    assert_close(got, want, TOLERANCE["float32"])
    again = call(backends.get("cuda"), "recur_backward", arguments | {"dw": got["dw"].astype(np.float64), "add": True})
    assert_close({"dw": again["dw"]}, {"dw": 2 * want["dw"]}, TOLERANCE["float32"])


def test_a_scan_is_one_launch(cuda):
    assert set(backends.get("cuda").explain(EVERY["mingru"], 20, 200).values()) == {
        "a scan: one launch, in which each thread runs all steps of one unit of one stream"}


def test_a_size_that_does_not_fit_runs_step_by_step(cuda):
    ops = backends.get("cuda")
    lstm = CELLS["lstm"]
    assert ops.explain(lstm, 20, 200)["forward"].startswith("persistent: 26 blocks")
    for reason in ops.explain(lstm, 20, 5000).values():
        assert reason.startswith("step by step: not even ")


# Partitions of products


@pytest.mark.parametrize(("M", "D", "K"), [(130, 40, 129), (3, 300, 5), (70, 33, 64)])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("processors", [1, 500])
def test_every_partition_of_a_product(cuda, monkeypatch, M, D, K, wide, processors):
    """Small and wide tiles; with many processors, the inner dimension is split into parts that are summed."""
    monkeypatch.setattr(cuda.linear, "processors", lambda: processors)
    pick = cuda.linear.pick
    monkeypatch.setattr(cuda.linear, "pick", lambda precision, a, b, _: pick(precision, a, b, wide))
    arguments = random_call("project", M=M, D=D, K=K)
    got = call(backends.get("cuda"), "project", arguments)
    assert_close(got, call(REFERENCE, "project", arguments), TOLERANCE["float32"])


@pytest.mark.parametrize(("transposed", "processors"), [(False, 1), (True, 1), (False, 3)])
def test_a_long_product_is_summed_in_pieces(cuda, monkeypatch, transposed, processors):
    """Forward with a bias, and gradients that are set; in pieces of 3 times 64 steps, or of 64."""
    monkeypatch.setattr(cuda.linear, "processors", lambda: processors)
    monkeypatch.setattr(cuda.linear, "LONGEST", 64)
    monkeypatch.setattr(cuda.linear, "LEAST", 64)
    random = np.random.default_rng(processors)
    shape = (7, 200) if transposed else (200, 7)
    forward = {"x": floats(random, 5, 200), "W": floats(random, *shape), "b": floats(random, 7), "out": unwritten(5, 7), "transposed": transposed}
    got, want = (call(ops, "project", forward) for ops in (backends.get("cuda"), REFERENCE))
    assert_close(got, want, TOLERANCE["float32"])
    shape = (7, 4) if transposed else (4, 7)
    backward = {"x": floats(random, 200, 4), "W": floats(random, *shape), "dout": floats(random, 200, 7), "dx": unwritten(200, 4),
                "dW": unwritten(*shape), "db": unwritten(7), "transposed": transposed}  # fmt: skip
    got, want = (call(ops, "project_backward", backward) for ops in (backends.get("cuda"), REFERENCE))
    assert_close(got, want, TOLERANCE["float32"])


def test_a_bias_gradient_over_many_rows_is_accurate(cuda):
    """Equal rows are the hardest case, because rounding errors of a chain accumulate in one direction. One chain per lane loses 1e-5, these lose 1.4e-7."""
    rows = 40_000
    ops, each = backends.get("cuda"), np.float32(0.1)
    c, db = ops.upload(np.full((rows, 2), each)), ops.empty((2,))
    cuda.linear.add_rows(1, cuda.linear.COLUMNS * cuda.linear.LANES, c, rows, 2, db, False)
    np.testing.assert_allclose(ops.download(db), rows * np.float64(each), rtol=5e-7)


@pytest.mark.parametrize("columns", [600, 5000])
def test_binary_losses_of_many_columns(columns):
    """More columns than one chain of a lane has terms, for a warp and for a block."""
    random = np.random.default_rng(columns)
    arguments = {"logits": 4 * floats(random, 2, columns), "targets": random.integers(0, 2, (2, columns)).astype(np.float64), "scale": 0.5,
                 "losses": unwritten(2)}  # fmt: skip
    got, want = (call(ops, "binary_cross_entropy_backward", arguments) for ops in (backends.get("cuda"), REFERENCE))
    assert_close(got, want, TOLERANCE["float32"])


@pytest.mark.parametrize("columns", [30, 1030])
def test_rows_of_logits_for_a_warp_and_for_a_block(columns):
    random = np.random.default_rng(columns)
    arguments = {
        "x": floats(random, 3, 4), "W": floats(random, 4, columns), "b": floats(random, columns),
        "targets": np.array([columns - 1, -1, 7]), "scale": 0.5, "losses": unwritten(3), "dx": unwritten(3, 4),
        "dW": np.zeros((4, columns)), "db": np.zeros(columns),
    }  # fmt: skip
    got, want = (call(ops, "cross_entropy_backward", arguments) for ops in (backends.get("cuda"), REFERENCE))
    assert_close(got, want, TOLERANCE["float32"])
    x = {"activation": "softmax", "x": floats(random, 3, columns)}
    got, want = (call(ops, "activate", x) for ops in (backends.get("cuda"), REFERENCE))
    assert_close(got, want, TOLERANCE["float32"])


@pytest.mark.parametrize("symbols", [5, 400])
def test_sparse_gradients_by_id_and_by_position(symbols):
    random = np.random.default_rng(symbols)
    arguments = {
        "ids": random.integers(0, symbols, (10, 30)), "rows": floats(random, 10, 30, 20),
        "table": floats(random, symbols, 20),
    }  # fmt: skip
    got, want = (call(ops, "scatter_add", arguments) for ops in (backends.get("cuda"), REFERENCE))
    assert_close(got, want, TOLERANCE["float32"])


def test_zero_steps_change_nothing():
    ops = backends.get("cuda")
    arguments = random_call("recur_backward", cell=list(CELLS).index("lstm"), T=1, N=3, H=4)
    arguments |= {name: arguments[name][:0] for name in ("z", "dy")} | {"s": arguments["s"][:1]}
    got = call(ops, "recur_backward", arguments)
    np.testing.assert_array_equal(got["d"], arguments["d"].astype(np.float32))
    assert not got["dU"].any()


def test_nan_survives_rounding(rounding):
    """All bits of the device's own NaN are ones: rounding by an addition would overflow it to zero."""
    patterns = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7FC00000, 0xFFC00000, 0x7F800001], np.uint32).view(np.float32)
    wanted = [False, True, True, True, True, True, False]
    x = np.ones((7, 20), np.float32)
    x[1:6, 2] = patterns
    out = rounding.empty((7, 5))
    rounding.project(rounding.upload(x), rounding.upload(np.ones((20, 5), np.float32)), None, out)
    assert np.isnan(rounding.download(out)).any(1).tolist() == wanted
    arguments = random_call("recur_backward", cell=list(CELLS).index("tanh"), T=2, N=7, H=4)
    s, z = arguments["s"].astype(np.float32), rounding.upload(arguments["z"])
    s[0, 1:6, 0, 2] = patterns
    states = rounding.upload(s)
    rounding.recur(arguments["cell"], rounding.upload(arguments["U"]), z, states)
    assert np.isnan(rounding.download(states)[1]).any((1, 2)).tolist() == wanted


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_propagates_nan(name):
    """A NaN in the pre-activation of one gate, unit and stream makes the state of that unit NaN, and nothing else."""
    ops, cell = backends.get("cuda"), CELLS[name]
    gates, H = len(cell.gates), 4
    z = np.ones((1, gates + 1, gates, H), np.float32)
    z[0, range(gates), range(gates), 2] = np.nan
    s = ops.upload(np.ones((2, gates + 1, len(cell.states), H)))
    first, last = cell.window("h")
    U = ops.upload(np.zeros((H, (last - first) * H))) if first < last else None
    ops.recur(cell, U, ops.upload(z), s, ops.upload(np.ones((len(cell.weights), H))) if cell.weights else None)
    found = np.isnan(ops.download(s)[1]).any(1)
    assert found.any(1).tolist() == [True] * gates + [False]
    assert found.any(0).tolist() == [False, False, True, False]


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu", "softmax"])
def test_an_activation_propagates_nan(activation):
    ops = backends.get("cuda")
    x = ops.upload(np.array([[1, 2], [np.nan, 3]]))
    ops.activate(activation, x)
    assert np.isnan(ops.download(x)).any(1).tolist() == [False, True]


# Devices with fewer resources


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_less_shared_memory_gives_the_same_bits(cuda, monkeypatch, precision):
    """Wide tiles of three stages need more than the 99 KB of many devices."""
    pick, shared = cuda.linear.pick, []

    def noted(precision, a, b, _):
        shared.append(pick(precision, a, b, True).shared)
        return pick(precision, a, b, True)

    monkeypatch.setattr(cuda.linear, "pick", noted)
    arguments, results = random_call("project", M=5, D=100, K=6), []
    for limit in (227 << 10, 99 << 10):
        monkeypatch.setattr(cuda.linear, "shared_limit", lambda limit=limit: limit)
        results.append(call(backends.get("cuda", precision=precision), "project", arguments))
    assert_same_bits(*results)
    assert shared[0] > 99 << 10 >= shared[1]


def test_more_rows_than_a_launch_allows(cuda, monkeypatch):
    arguments = random_call("project", M=150, D=3, K=4)
    want = call(backends.get("cuda"), "project", arguments)
    monkeypatch.setattr(cuda.linear, "MOST", 1)
    assert_same_bits(call(backends.get("cuda"), "project", arguments), want)


def test_a_time_loop_runs_step_by_step_if_its_launch_is_refused(cuda, monkeypatch):
    """If processes share a device, fewer blocks run concurrently than its properties promise."""

    class Refused:
        def resident(self, *_):
            return 100

        def __call__(self, *_, **__):
            raise cuda.driver.problem(720, "launching")

    monkeypatch.setattr(cuda, "_plans", {})
    ops, arguments = backends.get("cuda"), random_call("recur_backward", cell=list(CELLS).index("gru"), T=2, N=3, H=5)
    want = call(REFERENCE, "recur_backward", arguments)
    for kernel in ("forward_kernel", "backward_kernel"):
        monkeypatch.setattr(cuda.recurrence, kernel, lambda *_: Refused())
    with pytest.warns(RuntimeWarning, match="3 streams and 5 units runs step by step instead"):
        got = call(ops, "recur_backward", arguments)
    assert_close(got, want, TOLERANCE["float32"])
    assert all(reason.startswith("step by step: a launch was refused") for reason in ops.explain(arguments["cell"], 3, 5).values())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(ops, "recur_backward", arguments)  # does not try the refused launch again


@pytest.mark.parametrize(("code", "words"), [
    (2, "no memory left for this; reduce"), (700, "a kernel failed before it.*Start the process again"),
    (719, "a kernel failed before it.*Start the process again"), (720, "this failed: "), (1, "this failed: "),
])  # fmt: skip
def test_errors_of_the_driver(cuda, code, words):
    error = cuda.driver.problem(code, "this")
    assert isinstance(error, BackendError)
    assert isinstance(error, cuda.driver.Refused) is (code == 720)
    with pytest.raises(BackendError, match=words):
        cuda.driver.check(code, "this")
    cuda.driver.check(0, "this")


def test_a_forked_process_gets_an_error(cuda, monkeypatch):
    monkeypatch.setitem(cuda.device._fork, "forked", True)
    with pytest.raises(BackendError, match=r"forked.*spawn"), cuda.driver.current():
        pass


def test_ids_outside_a_table(cuda):
    """Arrays of other libraries are not checked first, so kernels must not read or write out of bounds."""
    ops = backends.get("cuda")
    whole = ops.upload(np.arange(24.0).reshape(6, 4))
    table, ids, out = whole[1:4], ops.upload(np.array([2, 3, -1, 10**9])), ops.empty((4, 4))
    ops.gather(table, ids, out)
    assert np.isnan(ops.download(out)).any(1).tolist() == [False, True, True, True]
    ops.scatter_add(ids, ops.upload(np.ones((4, 4))), table)
    want = np.arange(24.0).reshape(6, 4)
    want[3] += 1
    np.testing.assert_array_equal(ops.download(whole), want)
    losses = ops.empty((3,))
    ops.cross_entropy(ops.upload(np.ones((3, 4))), ops.upload(np.ones((4, 5))), None, ops.upload(np.array([4, 5, 10**9])), losses)
    assert np.isnan(ops.download(losses)).tolist() == [False, True, True]


def test_gradients_of_zero_rows_are_zero():
    ops = backends.get("cuda")
    W, none = ops.upload(np.ones((4, 5))), ops.empty((0, 4))
    ops.project(none, W, None, ops.empty((0, 5)))
    for transposed in (False, True):
        gradients = dW, db = ops.upload(np.ones((4, 5))), ops.upload(np.ones(4 if transposed else 5))
        x, out = (ops.empty((0, size)) for size in ((5, 4) if transposed else (4, 5)))
        ops.project_backward(x, W, out, x, dW, db, transposed=transposed)
        assert not any(ops.download(gradient).any() for gradient in gradients)
    gradients = dW, db = ops.upload(np.ones((4, 5))), ops.upload(np.ones(5))
    ops.cross_entropy_backward(none, W, db, ops.upload(np.zeros(0, int)), 1.0, ops.empty((0,)), none, dW, db)
    assert not any(ops.download(gradient).any() for gradient in gradients)


# Asynchronous updates


@pytest.mark.parametrize("rule", [SGD, ADAM], ids=lambda rule: rule.name)
@pytest.mark.parametrize("clip", [0.5, 1e9])
def test_an_asynchronous_update_equals_a_synchronous_one(rule, clip):
    random, ops = np.random.default_rng(1), backends.get("cuda")
    p, g, losses = random.normal(size=300), random.normal(size=300), random.uniform(size=40)
    m, h = random.uniform(size=(rule.moments, 300)), np.array([1, np.inf, *[0.5] * len(rule.hyper)])
    norm = ops.norm(ops.upload(g))
    now, queued = ({"p": ops.upload(p), "m": ops.upload(m)} for _ in range(2))
    ops.update(rule, g=ops.upload(g), h=np.array([min(1, clip / norm), *h[1:]]), **now)
    outcome = ops.update_if_finite(rule, g=ops.upload(g), h=h, clip=clip, losses=ops.upload(losses), **queued)
    each, found = outcome()
    assert found == norm
    np.testing.assert_array_equal(each, losses.astype(np.float32))
    assert_same_bits(*({name: ops.download(array) for name, array in arrays.items()} for arrays in (now, queued)))


@pytest.mark.parametrize("where", ["gradient", "losses"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_changes_nothing_and_stops_later_updates(where, value):
    ops = backends.get("cuda")
    p, m, h = ops.upload(np.ones(300)), ops.empty((0, 300)), np.array([1, np.inf, 1, 0, 0.1])
    arrays = {"gradient": np.ones(300), "losses": np.ones(20)}
    good = {name: ops.upload(array) for name, array in arrays.items()}
    arrays[where][7] = value
    bad = {name: ops.upload(array) for name, array in arrays.items()}
    outcomes = [ops.update_if_finite(SGD, p, given["gradient"], m, h, 1e9, given["losses"]) for given in (good, bad, good)]
    each, norm = outcomes[0]()
    assert np.isfinite(each).all() and norm == pytest.approx(np.sqrt(300))
    each, norm = outcomes[1]()
    assert not (np.isfinite(each).all() and np.isfinite(norm))
    np.testing.assert_array_equal(ops.download(p), np.float32(1) - np.float32(0.1))
    ops.update_if_finite(SGD, p, good["gradient"], m, h, 1e9, good["losses"])()
    assert ops.download(p)[0] < 0.85  # training continues


def test_training_skips_the_same_updates_on_every_backend(capsys):
    """On a device, a loss that is not finite is noticed one update late; the later update is repeated from a fresh state."""
    skipped = []
    for backend in ("cuda", "cpu"):
        model = LanguageModel(cell="relu", hidden=5, layers=1, embedding=3, seed=1, backend=backend)
        with contextlib.suppress(DivergenceError):
            model.fit("to be or not to be\n" * 2, epochs=1, streams=2, steps=4, optimizer="sgd", learning_rate=1e6, clip_norm=0,
                      schedule="constant", not_finite="skip", verbose=1)
        skipped.append([line for line in "".join(capsys.readouterr()).splitlines() if "skipped" in line])
    assert skipped[0] == skipped[1] != []


def test_every_run_computes_the_same_bits():
    arguments = random_call("recur_backward", cell=list(CELLS).index("lstm"), T=3, N=5, H=20)
    got = call(backends.get("cuda"), "recur_backward", arguments)
    assert_same_bits(call(backends.get("cuda"), "recur_backward", arguments), got)


# Whole trainings


def train(network, updater, state, text, steps):
    """Losses of ``steps`` updates, each on the next segment of ``text`` (steps, T, N)."""
    ops, losses = network.ops, []
    for step in steps:
        x, y = text[step]
        found = network.differentiate(ops.upload(x), ops.upload(y.reshape(-1)), state, 1 / y.size, stream_key(7, step))
        losses.append(float(ops.download(found).mean()))
        updater.update()
    return losses


def switched(config, text, names):
    """Losses of a training in several parts, each on the named backend; weights, moments and state are handed over."""
    model = build(config)
    random = np.random.default_rng(3)
    weights = {name: random.uniform(-0.3, 0.3, shape) for name, shape in model.layout.items()}
    moments = state = None
    losses, length, steps = [], len(text) // len(names), 0
    for number, name in enumerate(names):
        network = Network(model, backends.get(name), weights)
        updater = Updater(network, Adam(learning_rate=0.1, clip_norm=1.0))
        memory = network.state(text[0][0].shape[1])
        updater.steps = steps
        if number:
            network.ops.copy(network.ops.upload(moments), updater.moments)
            network.ops.copy(network.ops.upload(state), memory.flat)
        losses += train(network, updater, memory, text, range(number * length, (number + 1) * length))
        weights, steps = network.weights(), updater.steps
        moments, state = network.ops.download(updater.moments), network.ops.download(memory.flat)
    return np.array(losses)


def text_for(steps, streams, length, vocabulary):
    """Segments of a text with a rule to learn."""
    ids = (np.arange(steps * length + 1)[:, np.newaxis] * np.arange(1, streams + 1) % vocabulary).astype(np.int32)
    return [
        (ids[t : t + length], ids[t + 1 : t + length + 1]) for t in range(0, steps * length, length)
    ]


def test_training_continues_on_another_backend():
    config = ModelConfig("gru", hidden=4, layers=1, embedding=3, dropout=0.2, vocabulary_size=5)
    text = text_for(20, 2, 2, 5)
    got, want = switched(config, text, ["cuda", "cpu", "cuda", "cpu"]), switched(config, text, ["cpu"])
    assert error(got, want) <= 1e-4
    assert want[-5:].mean() < 0.9 * want[:5].mean()


def test_language_model_on_the_device(tmp_path):
    text = "to be or not to be\n" * 2
    options = {"hidden": 6, "layers": 1, "embedding": 4, "seed": 1}
    fit = {"epochs": 1, "streams": 2, "steps": 5, "verbose": 0}
    model = LanguageModel(backend="cuda", **options).fit(text, text[:19], **fit)
    other = LanguageModel(backend="cpu", **options).fit(text, text[:19], **fit)
    assert error(model.history_["valid_loss"], other.history_["valid_loss"]) <= 1e-4
    assert model.generate("to", length=3, temperature=0) == other.generate("to", length=3, temperature=0)
    model.save(tmp_path / "model.npz")
    loaded = LanguageModel.load(tmp_path / "model.npz", backend="cuda", precision="tf32")
    assert loaded.get_params()["precision"] == "tf32"
    assert error(loaded.score("not to"), other.score("not to")) <= 1e-3


def test_sequential_on_the_device():
    x = np.arange(24).reshape(4, 6) % 4
    losses = []
    for backend in ("cuda", "cpu"):
        model = Sequential(
            [Embedding(4, 3), LSTM(5, return_sequences=True), GRU(4), Dense(4, activation="softmax")], backend=backend
        )
        model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(x, (x[:, -1] + 1) % 4, epochs=1, batch_size=4, verbose=0)
        losses.append(model.evaluate(x, (x[:, -1] + 1) % 4, verbose=0)[0])
    assert error(*losses) <= 1e-4


# Memory


def needed(model, steps, streams, moments):
    """The number of bytes that a training needs."""
    return 4 * ((3 + moments) * model.layout.size + model.activations((steps, streams), "train").size)


@pytest.fixture
def device_memory(cuda, monkeypatch):
    """A function that sets the number of free bytes on the device."""

    def limit(count):
        monkeypatch.setattr(cuda.launch, "memory", lambda held: Space(count + held, "the device has {} free for it"))

    return limit


def test_a_training_that_does_not_fit_on_the_device(device_memory, monkeypatch):
    """It is rejected before a kernel is compiled, however much memory the host has."""
    monkeypatch.setattr(memory, "_memory", lambda: 1e6)
    text, options = np.arange(100) % 5, {"epochs": 1, "streams": 2, "steps": 40, "verbose": 0}
    ids = {"hidden": 150, "layers": 1, "embedding": 4, "vocabulary_size": 5, "tokenizer": None}
    model = LanguageModel(backend="cuda", **ids)
    need = needed(build(ModelConfig(hidden=150, layers=1, embedding=4, vocabulary_size=5)), 40, 2, 2)
    assert need > 1e6
    trained = []
    monkeypatch.setattr(loop.Trainer, "run", lambda self: trained.append(self.network.held))
    device_memory(need - 1)
    with pytest.raises(ConfigError, match=r"this training \(5 times the 0\.1 million weights, and the activations of 2 streams × 40 "
                                          r"steps\) would take 0\.0 GB, the device has 0\.0 GB free for it; reduce the streams"):
        model.fit(text, **options)
    assert not trained
    device_memory(need)
    model.fit(text, **options)
    device_memory(need - 4 * trained[0])  # the model's own arrays are already on the device
    model.fit(text, **options)
    device_memory(need - 4 * trained[0] - 1)
    with pytest.raises(ConfigError, match="the device has"):
        model.fit(text, **options)
    assert len(trained) == 2


def test_weights_and_activations_that_do_not_fit_on_the_device(cuda, device_memory):
    model, ops = build(ModelConfig("tanh", hidden=4, layers=1, embedding=3, vocabulary_size=5)), backends.get("cuda")
    weights = model.initialize(1)
    device_memory(4 * model.layout.size - 1)
    with pytest.raises(ConfigError, match=r"the weights of this model would take .*the device has .* reduce the units"):
        Network(model, ops, weights)
    device_memory(1 << 30)
    network = Network(model, ops, weights)
    x = ops.upload(np.zeros((1, 2), int))
    network.predict(x, network.state(2))
    first = weakref.ref(network._buffers.memory.memory)
    device_memory(100)
    network.predict(x, network.state(2))
    with pytest.raises(ConfigError, match=r"the activations of 30 streams × 2 steps would take .*the device has"):
        network.predict(ops.upload(np.zeros((2, 30), int)), network.state(30))
    assert first() is None  # created before the larger one was requested


def test_free_memory_on_the_device(cuda, monkeypatch):
    """Includes everything that is no longer used: spare pieces, garbage in reference cycles, and what Numba would free later."""
    released, waiting = [], [3, 4]
    context = SimpleNamespace(deallocations=waiting, get_memory_info=lambda: SimpleNamespace(free=1000 - sum(waiting)))
    monkeypatch.setattr(cuda.driver, "current", contextlib.nullcontext)
    monkeypatch.setattr(cuda.driver, "cuda", SimpleNamespace(current_context=lambda: context))
    monkeypatch.setattr(cuda.driver, "release", released.append)
    monkeypatch.setattr(cuda.launch, "SIMULATED", False)
    monkeypatch.setattr(cuda.launch.Memory, "spare", {8: [1, 2], 16: [3]})

    class Cycle:
        def __init__(self):
            self.me = self

    garbage = weakref.ref(Cycle())
    space = cuda.launch.memory(24)
    assert (space.bytes, waiting, sorted(released), garbage()) == (1024, [], [1, 2, 3], None)


# Dependence of the results on the device


def test_moving_a_training_to_another_device_causes_one_warning(tmp_path, monkeypatch):
    text, options = "to be or not to be\n" * 4, {"epochs": 1, "streams": 2, "steps": 5, "verbose": 0, "checkpoint_every": 1e-6}
    path, step, stops, seen = tmp_path / "run.npz", loop.Trainer._step, [], []

    def stopping(self, *arguments):
        if self.at.batch == len(stops):
            raise KeyboardInterrupt
        step(self, *arguments)

    monkeypatch.setattr(loop.Trainer, "_step", stopping)
    monkeypatch.setattr(loop, "compile_kernels", lambda *_: None)
    for backend in ("cpu", "cpu", "cuda", "cpu"):
        stops.append(backend)
        model = LanguageModel(hidden=3, layers=1, embedding=2, seed=1, backend=backend)
        with pytest.raises(KeyboardInterrupt), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.fit(text, checkpoint=path, resume=path, **options)
        seen.append([str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)])
    here = backends.get("cuda").rounding()
    assert [len(each) for each in seen] == [0, 0, 1, 1]
    for (message,), (was, now) in zip(seen[2:], (("cpu, float32", here), (here, "cpu, float32")), strict=True):
        assert message.startswith(f"the training so far was computed on {was!r} and continues on {now!r}: the result is as valid, but")


def test_the_name_of_a_device_has_what_the_bits_depend_on(cuda, monkeypatch):
    names = {backends.get("cuda", precision=precision).rounding() for precision in LOST}
    assert len(names) == 3
    monkeypatch.setattr(cuda.launch, "SIMULATED", False)
    monkeypatch.setattr(cuda.driver, "name", lambda: "NVIDIA H100 PCIe")
    monkeypatch.setattr(cuda.driver, "attribute", {"MULTIPROCESSOR_COUNT": 114}.get)
    assert backends.get("cuda", precision="tf32").rounding() == "cuda, tf32, NVIDIA H100 PCIe with 114 multiprocessors"


@pytest.mark.parametrize(("hidden", "kernels"), [(20, {"forward", "backward"}), (5000, {"forward", "backward"})])
def test_register_spills_are_reported(cuda, monkeypatch, hidden, kernels):
    """For a loop in one launch, and for one that runs step by step."""
    ops, lstm, asked = backends.get("cuda"), CELLS["lstm"], []
    assert not any("registers" in reason for reason in ops.explain(lstm, 20, hidden).values())
    monkeypatch.setattr(cuda.launch.Kernel, "spilled", lambda self: asked.append(self.name) or 96)
    reasons = ops.explain(lstm, 20, hidden)
    assert set(reasons) == set(asked) == kernels
    assert all(reason.endswith("; slowed down: 96 bytes a thread do not fit into registers") for reason in reasons.values())


# The soak test


@pytest.fixture
def soak():
    return importlib.import_module("benchmarks.soak")


def test_the_soak_runs(soak, capsys):
    soak.main(["--small", "--rounds", "1"])
    assert "1 rounds, 1 time loops, no errors" in capsys.readouterr().out


@pytest.mark.parametrize(("fault", "words"), [
    ("none", None), ("rounding", "s differs from the reference by 1.0e-"), ("NaN", "z differs from the reference by nan"),
    ("bits", "tanh .* the bits differ from the first time"), ("models", "model 1 of two, seed 0: the bits differ from the first time"),
    ("memory", "left 400 bytes of arrays"), ("the device's memory", "200 MB less free memory"),
])  # fmt: skip
def test_the_soak_finds_errors(soak, monkeypatch, fault, words):
    """With substitutes for a device: the reference, and two models that do not train."""
    compute, calls, left, free = soak.forward_and_backward, [], [], iter([3e8, 1e8 if fault == "the device's memory" else 3e8])

    def loop(ops, cell, given):
        found = compute(REFERENCE, cell, given)
        if ops.name == "cuda":
            calls.append(cell)
            if fault in ("rounding", "NaN", "bits"):
                array = found["s" if fault == "rounding" else "z"].reshape(-1)
                index, value = {"rounding": (abs(array).argmax(), 1.1), "NaN": (0, np.nan), "bits": (0, 1 + 1e-9 * len(calls))}[fault]
                array[index] *= value
            if fault == "memory":
                left.append(backends.get("cuda").empty((100,)))
        return found

    def train(which, seed, small):
        numbers = [0.0 if len(list(which)) == 1 or fault != "models" else index for index in which]
        return iter([{"W": np.array(number)} for number in numbers])

    monkeypatch.setattr(soak, "forward_and_backward", loop)
    monkeypatch.setattr(soak, "train", train)
    monkeypatch.setattr(soak, "free_memory", lambda: next(free))
    monkeypatch.setattr(soak, "draw", lambda seed, number, small: iter([("tanh", CELLS["tanh"], "float32", (3, 4, 5))]))
    arguments = ["--rounds", "6"]
    if words is None:
        soak.main(arguments)
        assert len(calls) == 6
    else:
        with pytest.raises(soak.Wrong, match=words):
            soak.main(arguments)


# On a real device, at sizes that would take days on the simulator


@pytest.mark.gpu
@pytest.mark.parametrize("precision", LOST)
@pytest.mark.parametrize("cell", range(len(CELLS)), ids=list(CELLS))
@pytest.mark.parametrize(("T", "N", "H"), [(35, 20, 200), (20, 20, 650), (50, 64, 512), (9, 1, 1024), (6, 130, 1024), (40, 7, 65)])
def test_large_time_loops(precision, cell, T, N, H):
    arguments = random_call("recur_backward", cell=cell, T=T, N=N, H=H)
    if list(CELLS)[cell] == "relu":
        arguments["U"] *= 0.5  # avoids units whose activity is decided by rounding
        arguments["z"] += 0.5
    got, want = (
        call(ops, "recur_backward", arguments)
        for ops in (backends.get("cuda", precision=precision), backends.get("cpu", threads=None))
    )
    if list(CELLS)[cell] != "relu" or precision == "float32":
        assert_close(got, want, 30 * LOST[precision] if precision != "float32" else 1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", LOST)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("M", "D", "K"), [(700, 650, 10000), (2500, 512, 65), (64, 1024, 4096), (1, 300, 5000), (4097, 129, 33)])
def test_large_products(precision, transposed, M, D, K):
    arguments = random_call("project", M=M, D=D, K=K) | {"transposed": transposed}
    if transposed:
        arguments["W"] = np.ascontiguousarray(arguments["W"].T)
    got, want = (call(ops, "project", arguments) for ops in (backends.get("cuda", precision=precision), backends.get("cpu")))
    assert_close(got, want, LOST[precision])
    backward = {name: value for name, value in arguments.items() if name in ("x", "W", "transposed")} | {
        "dout": want["out"].astype(np.float64), "dx": unwritten(M, D), "dW": np.zeros(arguments["W"].shape),
        "db": np.zeros(K),
    }  # fmt: skip
    got, want = (
        call(ops, "project_backward", backward) for ops in (backends.get("cuda", precision=precision), backends.get("cpu"))
    )
    assert_close(got, want, 2 * LOST[precision])


@pytest.mark.gpu
def test_blocks_synchronise_a_hundred_thousand_times():
    """A barrier that fails once in a million times would show as a wrong number, or as a run that never ends."""
    ops = backends.get("cuda")
    arguments = random_call("recur_backward", cell=list(CELLS).index("tanh"), T=2000, N=20, H=200)
    want = call(ops, "recur_backward", arguments)
    for _ in range(24):
        assert_same_bits(call(ops, "recur_backward", arguments), want)


@pytest.mark.gpu
@pytest.mark.parametrize("tied", [False, True])
def test_a_real_training_continues_on_another_backend(tied):
    config = ModelConfig("lstm", hidden=100, layers=2, embedding=100, dropout=0.3, tied=tied, vocabulary_size=2000)
    text = text_for(100, 16, 10, 2000)
    got, want = switched(config, text, ["cuda", "cpu", "cuda", "cpu"]), switched(config, text, ["cpu"])
    assert error(got, want) <= 2e-3


@pytest.mark.gpu
def test_arrays_of_other_libraries_are_used_in_place():
    ops = backends.get("cuda")
    mine = ops.upload(np.arange(6.0).reshape(2, 3))

    class Producer:
        __cuda_array_interface__ = mine.__cuda_array_interface__

    seen = ops.upload(Producer())
    ops.fill(mine, 3)
    assert (ops.download(seen) == 3).all()
    assert seen.address == mine.address


@pytest.mark.gpu
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu"])
def test_gates_are_bit_identical_to_the_cpus(activation):
    bits = np.arange(0, 2**32, 1021, np.uint64).astype(np.uint32).view(np.float32)
    x = bits[np.isfinite(bits)][np.newaxis]
    got, want = ({"x": call(backends.get(name), "activate", {"activation": activation, "x": x})["x"]} for name in ("cuda", "cpu"))
    assert_same_bits(got, want)


@pytest.mark.gpu
def test_unsupported_foreign_arrays():
    ops = backends.get("cuda")
    mine = ops.upload(np.arange(6.0))

    def producer(**about):
        return type("Producer", (), {"__cuda_array_interface__": {**mine.__cuda_array_interface__, **about}})()

    for about in ({"typestr": ">f4"}, {"mask": mine}, {"data": (mine.address + 2, False)}):
        with pytest.raises(BackendError, match="byte-swapped, masked or not aligned"):
            ops.upload(producer(**about))
    with pytest.raises(BackendError, match="is on device"):
        ops.upload(producer(data=(np.zeros(6).ctypes.data, False)))


@pytest.mark.gpu
def test_the_backend_waits_for_another_librarys_stream(cuda):
    """PyTorch does not name its stream, and its streams do not wait for the default one."""
    torch = pytest.importorskip("torch", reason="no other library to take arrays from")
    there, ops = torch.zeros(1000, device="cuda"), backends.get("cuda")
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(10**8)
        there.fill_(7)
    assert (ops.download(ops.upload(there)) == 7).all()


@pytest.mark.gpu
def test_another_context_remains_current(cuda):
    """As if another library had made another device current."""
    ops, library = backends.get("cuda"), cuda.driver._library()
    x = ops.upload(np.ones(100))
    new, here = ctypes.c_void_p(), ctypes.c_void_p()
    assert library.cuCtxCreate_v2(ctypes.byref(new), 0, cuda.driver.number()) == 0
    try:
        more = ops.upload(np.ones(100))
        ops.copy(x, more)
        assert ops.norm(more) == ops.norm(x) == 10
        library.cuCtxGetCurrent(ctypes.byref(here))
        assert here.value == new.value
    finally:
        library.cuCtxDestroy_v2(new)


ROOT = Path(__file__).parent.parent
ENDINGS = {
    "an invalid address": ("""
good, bad = ops.upload(np.zeros(8)), ops.upload(np.zeros(8))[:4]
bad.packed = (0, 0, 4, 4, 8, 4, 4)
ops.activate("tanh", bad)
for work in (lambda: ops.download(good), lambda: ops.empty((10,)), lambda: ops.upload(np.ones(3))):
    attempt(work)
""", ["a kernel failed before it in this process"] * 3),
    "an endless wait": ("""
from numba_rnnlm.backends.cuda import intrinsics, launch
intrinsics.PATIENCE = 1000
def waits(x, i):
    intrinsics.wait_for(x, i, 1)
counts = cuda.DeviceArray.new((1,), np.dtype(np.uint32))
ops.fill(counts, 0)
launch.Kernel(waits, (launch.COUNTS, launch.INT))(1, 32, counts, 0)
attempt(lambda: ops.download(counts))
""", ["a kernel failed before it in this process"]),
    "a fork": ("""
import os
x = ops.upload(np.ones(3))
if os.fork() == 0:
    attempt(lambda: ops.upload(np.ones(3)))
    attempt(lambda: ops.norm(x))
    print(backends.about()["cuda"], flush=True)
    del x
    os._exit(0)
os.wait()
attempt(lambda: ops.norm(x))
""", ["forked from one that had used the GPU"] * 3 + ["nothing was raised"]),
}  # fmt: skip


@pytest.mark.gpu
@pytest.mark.parametrize("name", ENDINGS)
def test_after_a_failure_every_call_raises(name, tmp_path):
    """Each failure happens in a separate process."""
    code, words = ENDINGS[name]
    file = tmp_path / "program.py"
    file.write_text(f"""
import numpy as np
from numba_rnnlm import backends
from numba_rnnlm.backends import cuda
from numba_rnnlm.errors import BackendError
def attempt(work):
    try:
        work()
        print("nothing was raised", flush=True)
    except BackendError as error:
        print(error, flush=True)
ops = backends.get("cuda")
{code}""")
    done = subprocess.run([sys.executable, "-W", "ignore", file], capture_output=True, text=True, check=False, cwd=ROOT,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})
    lines = done.stdout.splitlines()
    assert len(lines) == len(words), done
    assert all(word in line for word, line in zip(words, lines, strict=True)), done


@pytest.mark.gpu
def test_numbers_beyond_float32_are_rejected():
    ops = backends.get("cuda")
    with pytest.raises(BackendError, match="beyond float32"):
        ops.update(SGD, ops.empty((4,)), ops.empty((4,)), ops.empty((0, 4)), np.array([1e39, 1, 1, 0, 1]))


@pytest.mark.gpu
def test_a_time_loop_runs_step_by_step_on_an_overcommitted_device(cuda, monkeypatch):
    """The device claims to have four times its real number of multiprocessors."""
    monkeypatch.setattr(cuda, "_plans", {})
    monkeypatch.setattr(cuda.launch, "processors", lambda: 4 * cuda.driver.attribute("MULTIPROCESSOR_COUNT"))
    arguments = random_call("recur_backward", cell=list(CELLS).index("lstm"), T=2, N=260, H=512)
    with pytest.warns(RuntimeWarning, match="too many blocks"):
        got = call(backends.get("cuda"), "recur_backward", arguments)
    assert_close(got, call(backends.get("cpu"), "recur_backward", arguments), 1e-4)
