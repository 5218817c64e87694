"""Every cell that is registered: its rows are its equations and their derivative, on every machine."""

import dataclasses

import numpy as np
import pytest
import strategies
from checks import TOLERANCE, assert_adjoint, assert_close, call, slope
from hypothesis import given
from hypothesis import strategies as st
from strategies import floats, unwritten

from numba_rnnlm import backends, cells
from numba_rnnlm.cells import CELLS, Cell
from numba_rnnlm.errors import ConfigError
from numba_rnnlm.layers import Dense, Recurrent
from numba_rnnlm.model import Model, Network
from numba_rnnlm.portable import portable, tanh

pytestmark = pytest.mark.usefixtures("every_thread")

every_cell = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)


def step(ops, cell, z, prev, d):
    """One step of N streams without a matrix: next, and the gradients of z and prev. z (N, G, H); prev, d (N, S, H)."""
    N, _, H = z.shape
    first, last = cell.window("h")
    U = np.zeros((H, (last - first) * H))
    after = call(ops, "recur_backward", {
        "cell": cell, "U": U, "z": z[np.newaxis], "s": np.stack([prev, unwritten(*prev.shape)]),
        "dy": np.zeros((0, N, H)), "d": d, "dU": U,
    })  # fmt: skip
    return {"next": after["s"][1], "dz": after["z"][0], "dprev": after["d"]}


def slots(rows):
    """(N, G, H) ↔ (G, N, H), as the equations take them."""
    return np.swapaxes(rows, 0, 1)


def specification(cell, z, prev, d):
    """The same from the equations alone, element by element of z and prev."""
    points = [slots(z), slots(prev)]

    def gradient(which, row):
        directions = [np.zeros_like(point) for point in points]
        directions[which][row] = 1
        return (slope(cell.equations, points, directions) * slots(d)).sum(0)

    dz, dprev = (np.stack([gradient(which, row) for row in range(len(points[which]))]) for which in (0, 1))
    return {"next": slots(cell.equations(*points)), "dz": slots(dz), "dprev": slots(dprev)}


def draw_step(random, cell, N, H, scale=1.0):
    S = len(cell.states)
    return scale * floats(random, N, len(cell.gates), H), floats(random, N, S, H), floats(random, N, S, H)


@every_cell
@given(random=strategies.generators, N=strategies.few, H=strategies.sizes, scale=st.sampled_from([1, 4]))
def test_rows_are_the_equations(ops, cell, random, N, H, scale):
    arrays = draw_step(random, cell, N + 1, H, scale)
    assert_close(step(ops, cell, *arrays), specification(cell, *arrays), TOLERANCE[ops.dtype.name])


@every_cell
@given(random=strategies.generators, H=strategies.sizes)
def test_backward_is_the_adjoint_of_forward(ops, cell, random, H):
    z, prev, d = draw_step(random, cell, 2, H)
    v, w, _ = draw_step(random, cell, 2, H)
    after = step(ops, cell, z, prev, d)
    forward = slope(cell.equations, [slots(z), slots(prev)], [slots(v), slots(w)])
    assert_adjoint(slots(d), forward, [v, w], [after["dz"], after["dprev"]], TOLERANCE[ops.dtype.name])


@every_cell
@given(random=strategies.generators, H=st.integers(1, 9), stride=st.integers(1, 4))
def test_an_element_reads_and_writes_its_own_column_only(cell, random, H, stride):
    z, prev, d = (rows[0] for rows in draw_step(random, cell, 1, H))
    start = random.integers(0, stride)
    mine = np.arange(H) % stride == start
    seen = [np.where(mine, array, np.nan) for array in (z, prev, unwritten(*prev.shape), d)]  # others are poison
    with np.errstate(all="raise"):
        cell.forward.py_func(*seen[:3], start, stride)
        cell.backward.py_func(*seen, start, stride)
    want = specification(cell, z[np.newaxis], prev[np.newaxis], d[np.newaxis])
    got = {"next": seen[2], "dz": seen[0], "dprev": seen[3]}
    for name, array in got.items():
        assert np.isnan(array[:, ~mine]).all()
        np.testing.assert_allclose(array[:, mine], want[name][0][:, mine], rtol=1e-12, atol=1e-14)


@every_cell
@given(random=strategies.generators, H=strategies.sizes)
def test_states_stay_finite(ops, cell, random, H):
    def extreme(*shape):
        return random.choice([-1, 1], shape) * 10 ** random.uniform(-30, 30, shape)

    S = len(cell.states)
    z, prev = extreme(2, len(cell.gates), H).astype(np.float32), extreme(2, S, H).astype(np.float32)
    after = step(ops, cell, z, prev, np.zeros((2, S, H)))
    assert np.isfinite(after["next"]).all()


@every_cell
def test_windows_hold_the_slots_that_see_input_and_state(cell):
    for letter in "xh":
        first, last = cell.window(letter)
        assert [letter in source for source in cell.gates.values()] == [
            first <= index < last for index in range(len(cell.gates))
        ]


# A cell of one's own


def leaky_equations(z, prev):
    a, _ = z
    _, c = prev
    c = 0.75 * c + 0.25 * np.tanh(a)
    return np.stack([np.tanh(c + z[1]), c])


@portable
def leaky_forward(z, prev, next, start, stride):
    a, o, h, c, c_prev = z[0], z[1], next[0], next[1], prev[1]
    for j in range(start, h.size, stride):
        T = type(a[j])
        a[j] = tanh(a[j])
        c[j] = T(0.75) * c_prev[j] + T(0.25) * a[j]
        h[j] = tanh(c[j] + o[j])


@portable
def leaky_backward(z, prev, next, d, start, stride):
    a, o, h, dh, dc = z[0], z[1], next[0], d[0], d[1]
    for j in range(start, dh.size, stride):
        T = type(a[j])
        o[j] = dh[j] * (T(1) - h[j] * h[j])
        total = dc[j] + o[j]
        a[j] = T(0.25) * total * (T(1) - a[j] * a[j])
        dh[j], dc[j] = T(0), T(0.75) * total


@portable
def leakier_forward(z, prev, next, start, stride):
    a, o, h, c, c_prev = z[0], z[1], next[0], next[1], prev[1]
    for j in range(start, h.size, stride):
        T = type(a[j])
        a[j] = tanh(a[j])
        c[j] = T(0.5) * c_prev[j] + T(0.5) * a[j]
        h[j] = tanh(c[j] + o[j])


def leaky(forward=leaky_forward):
    return Cell("leaky", {"a": "xh", "o": "x"}, ("h", "c"), leaky_equations, forward, leaky_backward)


@pytest.fixture
def registered():
    yield cells.register(leaky())
    del CELLS["leaky"]


def test_a_cell_of_ones_own_is_its_equations(ops):
    cell, random = leaky(), np.random.default_rng(0)
    arrays = draw_step(random, cell, 3, 21)
    assert_close(step(ops, cell, *arrays), specification(cell, *arrays), TOLERANCE[ops.dtype.name])


def test_a_cell_of_ones_own_trains_in_a_model(ops, registered):
    assert cells.get("leaky") is registered
    model = Model([Recurrent(7, cell="leaky"), Dense(3, "softmax")], features=5)
    assert model.names == ("leaky", "dense")
    random = np.random.default_rng(0)
    x, targets, weights = floats(random, 4, 6, 5), random.integers(0, 3, 6), model.initialize(0)
    losses, gradients = [], []
    for machine in (ops, backends.get("reference")):
        network = Network(model, machine, weights)
        losses.append(network.train(machine.upload(x), machine.upload(targets), network.state(6), 1.0, 0).copy())
        gradients.append({name: machine.download(array) for name, array in network.gradients.items()})
    assert_close({"losses": losses[0]}, {"losses": losses[1]}, TOLERANCE[ops.dtype.name])
    assert_close(*gradients, TOLERANCE[ops.dtype.name])


def test_the_key_of_a_cell_changes_with_its_source():
    assert leaky().key == leaky().key
    assert leaky().key != leaky(leakier_forward).key
    assert len({cell.key for cell in CELLS.values()}) == len(CELLS)
    assert leaky().key.startswith("leaky:")


def test_an_edited_cell_never_runs_stale_machine_code(cpu):
    arrays = draw_step(np.random.default_rng(0), leaky(), 1, 5)
    before, after = (step(cpu, leaky(forward), *arrays)["next"] for forward in (leaky_forward, leakier_forward))
    assert (before != after).all()
    np.testing.assert_array_equal(step(cpu, leaky(), *arrays)["next"], before)


def test_impossible_cells_are_refused(registered):
    again = leaky()
    assert cells.register(again) is cells.get("leaky") is again  # a notebook's cell is run again
    assert cells.register(registered) is cells.get("leaky") is registered
    with pytest.raises(ConfigError, match="'lstm' is part of the library"):
        cells.register(dataclasses.replace(registered, name="lstm"))
    with pytest.raises(ConfigError, match=r"cell is 'lstn', expected one of 'tanh'.*register\(cell\)"):
        cells.get("lstn")
    for gates, message in (
        ({"a": "xz"}, "slot 'a' sees 'xz'"),
        ({"a": "x", "b": "h", "c": "x"}, "slots that see 'x' must be neighbours"),
        ({"a": "h", "b": "x", "c": "h"}, "slots that see 'h' must be neighbours"),
        ({"a": "x"}, "slots that see 'h' must be neighbours"),
        ({}, "slots that see 'x' must be neighbours"),
    ):
        with pytest.raises(ConfigError, match=message):
            Cell("odd", gates, ("h",), leaky_equations, leaky_forward, leaky_backward)
