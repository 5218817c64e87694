"""Every cell's row functions compute its equations and their derivative, on every backend."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest
import strategies
from checks import TOLERANCE, assert_adjoint, assert_close, slope
from hypothesis import given
from hypothesis import strategies as st
from numba.extending import overload
from own_cells import EVERY, OWN
from strategies import floats

from numba_rnnlm import LanguageModel, Sequential, backends, cells
from numba_rnnlm.cells import CELLS, Cell
from numba_rnnlm.checking.cell import Case, columns
from numba_rnnlm.config import SamplingConfig
from numba_rnnlm.decoding import generate_batch
from numba_rnnlm.errors import ConfigError, ModelFileError
from numba_rnnlm.formats.native import open_model, read_about, write_model
from numba_rnnlm.layers import Dense, Recurrent, Residual
from numba_rnnlm.network import Graph, Network
from numba_rnnlm.portable import portable, tanh
from numba_rnnlm.recognition import difference, records, step

pytestmark = pytest.mark.usefixtures("every_thread")

every_cell = pytest.mark.parametrize("cell", EVERY.values(), ids=EVERY)


def slots(rows):
    """(N, G, H) ↔ (G, N, H), the layout of the equations."""
    return np.swapaxes(rows, 0, 1)


def specification(cell, z, prev, w, d):
    """The results of ``step`` from the equations alone, differentiated one row of z, prev and w at a time."""
    points = [slots(z), slots(prev), *cell.with_weights(w)]

    def gradient(which, row):
        directions = [np.zeros_like(point) for point in points]
        directions[which][row] = 1
        return (slope(cell.equations, points, directions) * slots(d)).sum(0)

    dz, dprev, *dw = (np.stack([gradient(which, row) for row in range(len(point))]) for which, point in enumerate(points))
    return {"next": slots(cell.equations(*points)), "z": slots(dz), "d": slots(dprev)} | ({"w": dw[0].sum(1)} if dw else {})


def draw_step(random, cell, N, H, scale=1.0):
    """z, prev, w and d."""
    S = len(cell.states)
    return scale * floats(random, N, len(cell.gates), H), floats(random, N, S, H), floats(random, len(cell.weights), H) / 4, floats(random, N, S, H)


@every_cell
@given(random=strategies.generators, N=strategies.few, H=strategies.sizes, scale=st.sampled_from([1, 4]))
def test_rows_are_the_equations(ops, cell, random, N, H, scale):
    arrays = draw_step(random, cell, N + 1, H, scale)
    assert_close(step(ops, cell, *arrays), specification(cell, *arrays), TOLERANCE[ops.dtype.name])


@every_cell
@given(random=strategies.generators, H=strategies.sizes)
def test_backward_is_the_adjoint_of_forward(ops, cell, random, H):
    z, prev, w, d = draw_step(random, cell, 2, H)
    along_z, along_prev, along_w, _ = draw_step(random, cell, 2, H)
    after = step(ops, cell, z, prev, w, d)
    points, directions = ([slots(x), slots(y), *cell.with_weights(v)] for x, y, v in ((z, prev, w), (along_z, along_prev, along_w)))
    forward = slope(cell.equations, points, directions)
    along = {"z": along_z, "d": along_prev} | ({"w": along_w} if cell.weights else {})
    assert_adjoint(slots(d), forward, list(along.values()), [after[name] for name in along], TOLERANCE[ops.dtype.name])


@every_cell
@given(random=strategies.generators, H=st.integers(1, 9), stride=st.integers(1, 4))
def test_an_element_reads_and_writes_its_own_column_only(cell, random, H, stride):
    columns(Case(cell, H, random), stride)


@every_cell
@given(random=strategies.generators, H=strategies.sizes)
def test_states_stay_finite(ops, cell, random, H):
    def extreme(*shape):
        return random.choice([-1, 1], shape) * 10 ** random.uniform(-30, 30, shape)

    S = len(cell.states)
    z, prev = extreme(2, len(cell.gates), H).astype(np.float32), extreme(2, S, H).astype(np.float32)
    w = random.choice([-1, 1], (len(cell.weights), H))  # a state of 1e30 times 1e30 would overflow float32
    after = step(ops, cell, z, prev, w)
    assert np.isfinite(after["next"]).all()


@every_cell
def test_every_cell_passes_the_check(cell):
    cells.check(cell)


@every_cell
def test_windows_contain_the_slots_that_see_input_and_state(cell):
    for letter in "xh":
        first, last = cell.window(letter)
        assert [letter in source.replace("=", "x") for source in cell.gates.values()] == [
            first <= index < last for index in range(len(cell.gates))
        ]
    assert EVERY["mingru"].window("h") == EVERY["sru"].window("h") == (0, 0)


# A custom cell


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


def test_a_custom_cell_computes_its_equations(ops):
    cell, random = leaky(), np.random.default_rng(0)
    arrays = draw_step(random, cell, 3, 21)
    assert_close(step(ops, cell, *arrays), specification(cell, *arrays), TOLERANCE[ops.dtype.name])


def test_a_custom_cell_trains_in_a_model(compiled, registered):
    assert cells.get("leaky") is registered
    model = Graph([Recurrent(7, cell="leaky"), Dense(3, "softmax")], features=5)
    assert model.names == ("leaky", "dense")
    random = np.random.default_rng(0)
    x, targets, weights = floats(random, 4, 6, 5), random.integers(0, 3, 6), model.initialize(0)
    losses, gradients = [], []
    for machine in (compiled, backends.get("reference")):
        network = Network(model, machine, weights)
        losses.append(machine.download(network.differentiate(machine.upload(x), machine.upload(targets), network.state(6), 1.0, 0)))
        gradients.append({name: machine.download(array) for name, array in network.gradients.items()})
    assert_close({"losses": losses[0]}, {"losses": losses[1]}, TOLERANCE[compiled.dtype.name])
    assert_close(*gradients, TOLERANCE[compiled.dtype.name])


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
    assert cells.register(again) is cells.get("leaky") is again  # as when a notebook's cell is run again
    assert cells.register(registered) is cells.get("leaky") is registered
    with pytest.raises(ConfigError, match="'lstm' is the name of a built-in cell"):
        cells.register(dataclasses.replace(registered, name="lstm"))
    with pytest.raises(ConfigError, match=r"cell is 'lstn', expected one of 'tanh'.*register\(cell\)"):
        cells.get("lstn")
    for gates, message in (
        ({"a": "xz"}, "slot 'a' sees 'xz'"),
        ({"a": "x", "b": "h", "c": "x"}, "slots that see 'x' must be neighbours"),
        ({"a": "h", "b": "x", "c": "h"}, "slots that see 'h' must be neighbours"),
        ({"a": "=", "b": "x"}, "a slot that sees '=' must be the last one that sees the input, and the only one of its kind"),
        ({"a": "=", "b": "="}, "a slot that sees '=' must be the last one"),
        ({"a": "h"}, "no slot sees the input, 'x'; at least one must"),
        ({}, "no slot sees the input, 'x'; at least one must"),
    ):
        with pytest.raises(ConfigError, match=message):
            Cell("odd", gates, ("h",), leaky_equations, leaky_forward, leaky_backward)
    for initial, message in (({"v": (0, 1)}, "initial has 'v', expected names of weights"), ({"u": (0,)}, r"initial 'u' is \[0\], expected \(least, most\)"),
                             ({"u": (1, 0)}, r"initial 'u' is \[1, 0\], expected \(least, most\)"), ({"u": "x"}, "initial 'u' is 'x'"), (3, "initial is 3"),
                             ({"u": (0, np.inf)}, "a limit of initial 'u' is inf, expected a number")):
        with pytest.raises(ConfigError, match=message):
            dataclasses.replace(OWN["ind_rnn"], initial=initial)
    for weights, message in (("u", "cell 'leaky': weights"), ((1,), "cell 'leaky': a name of weights is 1")):
        with pytest.raises(ConfigError, match=message):
            dataclasses.replace(registered, weights=weights)
    for name in ("", "a/b", "..", "a b", None):
        with pytest.raises(ConfigError, match=r"the name of a cell is .*, expected letters, digits, _ and -"):
            dataclasses.replace(registered, name=name)
    for cell in (3, ["lstm"], None):
        with pytest.raises(ConfigError, match="expected one of 'tanh'"):
            cells.get(cell)
    with pytest.raises(ConfigError, match="'gru' is the name of a built-in cell"):
        Recurrent(3, cell=dataclasses.replace(registered, name="gru"))


# Two cells with the same name


@portable
def leaky_backward_twice(z, prev, next, d, start, stride):
    a, o, h, dh, dc = z[0], z[1], next[0], d[0], d[1]
    for j in range(start, dh.size, stride):
        T = type(a[j])
        o[j] = T(2) * dh[j] * (T(1) - h[j] * h[j])
        total = dc[j] + o[j]
        a[j] = T(0.25) * total * (T(1) - a[j] * a[j])
        dh[j], dc[j] = T(0), T(0.75) * total


@portable
def leaky_forward_rewritten(z, prev, next, start, stride):
    """Computes the same numbers, except for rounding, in another way."""
    for unit in range(start, next[0].size, stride):
        T = type(z[0][unit])
        z[0][unit] = tanh(z[0][unit])
        change = T(0.25) * (z[0][unit] - prev[1][unit])
        next[1][unit] = prev[1][unit] + change
        next[0][unit] = tanh(next[1][unit] + z[1][unit])


IDS = [number**2 % 11 for number in range(200)]
def plain(x):
    return x


def own_tanh(x):
    return x


@overload(own_tanh)
def _own_tanh(x):
    return lambda x: x


@portable
def calls_plain(z, prev, next, start, stride):
    for j in range(start, z.shape[1], stride):
        next[0, j] = tanh(plain(z[0, j]))


@portable
def calls_own(z, prev, next, start, stride):
    for j in range(start, z.shape[1], stride):
        next[0, j] = own_tanh(z[0, j])


PORTABLE = "expected .* with the decorator @numba_rnnlm.portable.portable"


@pytest.mark.parametrize(("row", "function", "message"), [
    ("forward", lambda z, prev, next, start, stride: None, f"cell 'leaky': forward is the plain function '<lambda>', {PORTABLE}"),
    ("backward", lambda z, prev, next, d, start, stride: None, f"cell 'leaky': backward is the plain function '<lambda>', {PORTABLE}"),
    ("forward", None, f"cell 'leaky': forward is None, {PORTABLE}"), ("backward", "tanh", f"cell 'leaky': backward is 'tanh', {PORTABLE}"),
    ("forward", np.tanh, f"cell 'leaky': forward is <ufunc 'tanh'>, {PORTABLE}"),
    ("forward", calls_plain, f"cell 'leaky': forward calls the plain function 'plain', {PORTABLE}"),
    ("backward", calls_own, r"cell 'leaky': backward takes \(z, prev, next, start, stride\), expected \(z, prev, next, d, start, stride\)\."),
    ("weights", ("u",), r"cell 'leaky': forward takes \(z, prev, next, start, stride\), expected \(z, prev, next, w, start, stride\)\."),
    ("forward", portable(lambda z, prev, next: None), r"forward takes \(z, prev, next\), expected \(z, prev, next, start, stride\)\."),
])  # fmt: skip
def test_row_functions_that_cannot_be_compiled_are_refused(row, function, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(leaky(), **{row: function})


def test_a_backward_without_the_gradient_of_the_weights_is_refused():
    with pytest.raises(ConfigError, match=r"backward takes \(z, prev, next, d, start, stride\), expected \(z, prev, next, d, w, dw, start, stride\)"):
        dataclasses.replace(OWN["ind_rnn"], backward=leaky_backward)


def test_a_row_function_may_call_a_function_with_an_overload():
    assert dataclasses.replace(leaky(), forward=calls_own).forward is calls_own


def test_missing_arguments_of_a_cell_are_named():
    for parts, part in (({}, "name"), ({"name": "mine"}, "gates"), ({"name": "mine", "gates": {"a": "xh"}, "states": ("h",)}, "equations")):
        with pytest.raises(ConfigError, match=f"Cell: missing a required argument: '{part}'"):
            Cell(**parts)
    with pytest.raises(ConfigError, match="Cell has no argument 'foward'; did you mean 'forward'"):
        Cell(foward=None)


OTHER = "was saved with another cell named 'leaky' than the one that is registered here: from one and the same input, its new state"


def other_leaky():
    return leaky(leakier_forward)


def ids_model(cell):
    return LanguageModel(cell, hidden=6, layers=2, embedding=4, tokenizer=None, vocabulary_size=11, seed=1, backend="cpu")


def stack(cell):
    model = Sequential([Recurrent(5, True, cell=cell), Recurrent(4, cell=cell), Dense(3, "softmax")], backend="cpu", seed=1)
    model.build((None, None, 2))
    return model


VECTORS = np.random.default_rng(0).normal(size=(3, 7, 2))
ASKED = {ids_model: lambda model: model.score(IDS), stack: lambda model: model.predict(VECTORS).tolist()}


@pytest.mark.parametrize("make", ASKED, ids=lambda make: make.__name__)
def test_an_existing_model_keeps_its_cell(make, registered):
    ask = ASKED[make]
    model, untouched = make(registered), make("leaky")
    want = ask(model)
    cells.register(other_leaky())
    other = make("leaky")
    assert ask(other) != want
    assert ask(model) == ask(untouched) == want
    assert ask(copy.deepcopy(model)) == ask(copy.copy(model)) == want
    cells.register(registered)
    assert ask(other) != want


def test_an_untrained_model_keeps_its_cell(registered):
    model = LanguageModel(registered, hidden=6, layers=1, embedding=4, seed=1, backend="cpu")
    cells.register(other_leaky())
    assert model.get_params()["cell"] is registered
    assert repr(model).startswith("LanguageModel(cell=<Cell 'leaky'>")
    model.set_params(hidden=5).fit("to be or not to be\n" * 9, epochs=1, streams=2, steps=5, verbose=0)
    assert model.network_.graph.layers[1].cell is registered
    model.set_params(cell=registered, threads=1)
    with pytest.raises(ConfigError, match="cell of a trained model cannot change"):
        model.set_params(cell=other_leaky())


@pytest.mark.parametrize("make", ASKED, ids=lambda make: make.__name__)
def test_a_file_is_loaded_with_a_cell_that_computes_the_same(make, registered, tmp_path):
    ask, path, model = ASKED[make], tmp_path / "model.npz", make(registered)
    model.save(path)
    want = ask(model)
    assert ask(type(model).load(path)) == want
    for backend in backends.available():
        assert np.array(ask(type(model).load(path, backend=backend))) == pytest.approx(np.array(want), rel=1e-4)
    cells.register(leaky(leaky_forward_rewritten))
    assert leaky(leaky_forward_rewritten).key != registered.key
    assert np.array(ask(type(model).load(path))) == pytest.approx(np.array(want), rel=1e-5)
    cells.register(dataclasses.replace(registered, backward=leaky_backward_twice))  # as when a mistake in it is fixed
    assert ask(type(model).load(path)) == want


@pytest.mark.parametrize("make", ASKED, ids=lambda make: make.__name__)
def test_a_file_is_not_loaded_with_another_cell_of_the_same_name(make, registered, tmp_path):
    ask, path, model = ASKED[make], tmp_path / "model.npz", make(registered)
    model.save(path)
    other = cells.register(other_leaky())
    with pytest.raises(ModelFileError, match=OTHER) as caught:
        type(model).load(path)
    given = {"cell": other} if make is ids_model else {"cells": [other]}
    shown = "LanguageModel.load(path, cell=" if make is ids_model else "Sequential.load(path, cells=["
    assert f"call {shown}cells.get('leaky')" in str(caught.value)
    insisted = type(model).load(path, **given)
    assert ask(insisted) != ask(model)
    insisted.save(path)
    assert ask(type(model).load(path)) == ask(insisted)
    given = {"cell": registered} if make is ids_model else {"cells": [registered]}
    assert ask(type(model).load(path, **given)) == ask(model)
    with pytest.raises(ModelFileError, match="names no cell such as <Cell 'other'>, which was given"):
        cell = dataclasses.replace(registered, name="other")
        type(model).load(path, **({"cell": cell} if make is ids_model else {"cells": [cell]}))
    del CELLS["leaky"]
    with pytest.raises(ModelFileError, match=r"uses the custom cell 'leaky', which is not known here; load it in Python, with custom_objects=\{'leaky': cell\}, or"):
        type(model).load(path)
    assert ask(type(model).load(path, custom_objects={"leaky": other})) == ask(insisted)
    with pytest.raises(ModelFileError, match=OTHER.replace("registered", "given")) as caught:
        type(model).load(path, custom_objects={"leaky": registered})
    assert f"call {shown}cell" in str(caught.value)
    with pytest.raises(ConfigError, match=r"custom_objects has 'mine': <Cell 'leaky'>, expected a cell under its own name"):
        type(model).load(path, custom_objects={"mine": registered})
    cells.register(registered)


def test_slots_and_states_are_compared_first(registered, tmp_path):
    path = tmp_path / "model.npz"
    ids_model(registered).save(path)
    cells.register(dataclasses.replace(registered, gates={"a": "xh", "output": "x"}))
    with pytest.raises(ModelFileError, match=r"its slots are \[\['a', 'xh'\], \['o', 'x'\]\] there and"):
        LanguageModel.load(path)
    cells.register(dataclasses.replace(registered, states=("h", "memory")))
    with pytest.raises(ModelFileError, match=r"its states are \['h', 'c'\] there and \['h', 'memory'\] here"):
        LanguageModel.load(path)


@pytest.mark.parametrize("change", ["no record", "no step", "a short step", "words"])
def test_files_with_a_damaged_record_of_a_cell_are_refused(change, registered, tmp_path):
    path = tmp_path / "model.npz"
    ids_model(registered).save(path)
    with open_model(path) as file:
        about, weights = file.about, file.group("weights")
    record = about["cells"]["leaky"]
    if change == "no record":  # as in older files
        del about["cells"]
    elif change == "no step":
        del record["step"]
    else:
        record["step"] = record["step"][:1] if change == "a short step" else "words"
    about = {name: value for name, value in about.items() if name not in ("format", "version", "kind")}
    write_model(path, "language_model", about, {"weights": weights.items()})
    if change == "no record":
        assert LanguageModel.load(path).score(IDS) == ids_model(registered).score(IDS)
        return
    with pytest.raises(ModelFileError, match="is damaged: its parts do not fit together"):
        LanguageModel.load(path)


def test_files_with_built_in_cells_have_no_record(tmp_path):
    ids_model("gru").save(tmp_path / "model.npz")
    stack("gru").save(tmp_path / "stack.npz")
    assert "cells" not in read_about(tmp_path / "model.npz") | read_about(tmp_path / "stack.npz")


@pytest.mark.parametrize("make", ASKED, ids=lambda make: make.__name__)
def test_a_pickle_is_loaded_with_a_cell_that_computes_the_same(make, registered):
    ask, model = ASKED[make], make(registered)
    want, data = ask(model), pickle.dumps(model)
    assert ask(pickle.loads(data)) == want
    cells.register(other_leaky())
    with pytest.raises(ConfigError, match="the pickled model has another cell named 'leaky' than the one that is registered here"):
        pickle.loads(data)
    del CELLS["leaky"]
    with pytest.raises(ConfigError, match="the pickle uses the cell 'leaky', which is not registered: import the module that defines it"):
        pickle.loads(data)
    cells.register(registered)


def doubled(z, prev):
    return 2 * z[:2] + prev


@pytest.mark.parametrize("change", [{"gates": {"a": "xh", "output": "x"}}, {"states": ("h", "memory")}, {"equations": doubled}], ids=["slots", "states", "equations"])
def test_a_pickled_cell_is_the_one_that_is_registered(change, registered):
    data = pickle.dumps(registered)
    assert pickle.loads(data) is registered and pickle.loads(pickle.dumps(CELLS["lstm"])) is CELLS["lstm"]
    untrained = pickle.dumps(LanguageModel(registered))
    assert pickle.loads(untrained).get_params()["cell"] is registered
    cells.register(dataclasses.replace(registered, **change))
    for pickled in (data, untrained):
        with pytest.raises(ConfigError, match="the pickle was made with another cell named 'leaky' than the one registered now"):
            pickle.loads(pickled)
    broken = cells.register(dataclasses.replace(registered, equations=lambda z, prev: 1 / 0))
    assert pickle.loads(pickle.dumps(broken)) is broken


def test_setting_the_same_cell_changes_nothing(registered):
    model = ids_model(registered).fit(np.tile(IDS, 20), epochs=1, streams=1, steps=5, verbose=0)
    want = model.score(IDS)
    assert model.set_params(cell=registered) is model and model.score(IDS) == want
    assert model.set_params(**model.get_params()).score(IDS) == want
    twin = LanguageModel(**model.get_params())
    assert twin.get_params() == model.get_params() and twin.get_params()["cell"] is registered
    for copied in (copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert copied.score(IDS) == want and copied.get_params()["cell"] is registered
    with pytest.raises(ConfigError, match="cell of a trained model cannot change; make a new LanguageModel"):
        model.set_params(cell="gru")
    with pytest.raises(ConfigError, match="hidden is array"):
        model.set_params(hidden=np.array([1, 2]))
    assert CELLS["leaky"] is registered


def test_a_model_with_two_cells_of_the_same_name_cannot_be_saved(registered, tmp_path):
    model = Sequential([Recurrent(5, True, cell=registered), Recurrent(4, cell=other_leaky()), Dense(3, "softmax")], backend="cpu")
    model.build((None, None, 2))
    assert model.predict(VECTORS).shape == copy.deepcopy(model).predict(VECTORS).shape == (3, 3)
    with pytest.raises(ConfigError, match="the model has two cells named 'leaky', and a file knows a cell by its name"):
        model.save(tmp_path / "model.npz")
    assert not list(tmp_path.iterdir())


def test_a_run_is_resumed_only_with_the_same_cell_forward_and_backward(registered, tmp_path):
    path, options = tmp_path / "run.npz", {"epochs": 2, "streams": 2, "steps": 10, "verbose": 0}
    whole = ids_model(registered).fit(IDS, **options)
    ids_model(registered).fit(IDS, **options, checkpoint=path)
    with pytest.warns(UserWarning, match="had ended"):
        again = ids_model(leaky()).fit(IDS, **options, resume=path)  # another object, the same cell
    assert again.score(IDS) == whole.score(IDS)
    for cell, what in ((other_leaky(), "its new state 'h' is"), (dataclasses.replace(registered, backward=leaky_backward_twice), "its gradient of '")):
        with pytest.raises(ConfigError, match=f"the cell 'leaky' is not the one of the run in '.*': from one and the same input, {what}") as caught:
            ids_model(cell).fit(IDS, **options, resume=path)
        assert "load it, LanguageModel.load(path, cell=...), and fit" in str(caught.value)


def with_body(cell):
    body = [Recurrent(6, True, cell=cell), Residual(Recurrent(6, True, cell="gru"))]
    return LanguageModel(body=body, embedding=4, tokenizer=None, vocabulary_size=11, seed=1, backend="cpu")


def trained_stack(cell, **options):
    model = stack(cell)
    model.compile("adam", "sparse_categorical_crossentropy")
    return model.fit(VECTORS, [0, 1, 2], epochs=2, batch_size=1, verbose=0, **options)


TRAINED = {
    "LanguageModel": lambda cell, **options: with_body(cell).fit(IDS, epochs=2, streams=2, steps=10, verbose=0, **options),
    "Sequential": trained_stack,
}


@pytest.mark.parametrize("kind", TRAINED)
def test_all_cells_of_a_network_are_compared_when_a_run_is_resumed(kind, registered, tmp_path):
    path, train = tmp_path / "run.npz", TRAINED[kind]
    train(registered, checkpoint=path)
    with pytest.warns(UserWarning, match="had ended"):
        train(leaky(), resume=path)
    for cell, what in ((other_leaky(), "its new state 'h' is"), (dataclasses.replace(registered, backward=leaky_backward_twice), "its gradient of '")):
        with pytest.raises(ConfigError, match=f"the cell 'leaky' is not the one of the run in '.*': from one and the same input, {what}") as caught:
            train(cell, resume=path)
        assert f"load it, {kind}.load(path, cell" in str(caught.value)


# Cells without a matrix, or with their own weights

every_own = pytest.mark.parametrize("cell", OWN.values(), ids=OWN)
TEXT = "how much wood would a woodchuck chuck if a woodchuck could chuck wood\n" * 20


@pytest.fixture
def known(cell):
    yield cells.register(cell)
    del CELLS[cell.name]


def names(cell):
    """Names of a layer's weights with this cell."""
    return {"W", "b"} | ({"U"} if cell.window("h")[1] else set()) | ({"w"} if cell.weights else set())


@every_own
def test_a_layer_has_the_weights_that_its_cell_needs(cell):
    layer = Recurrent(16, cell=cell)
    shapes = layer.parameters((5, 2, 3))
    assert set(shapes) == names(cell)
    assert shapes.get("w", (len(cell.weights), 16)) == (len(cell.weights), 16)
    weights = layer.initialize((5, 2, 3), np.random.default_rng(0))
    assert {name: array.shape for name, array in weights.items()} == shapes
    if cell.weights:
        assert 0 < abs(weights["w"]).max() <= np.sqrt(3 / 16)


@every_own
@pytest.mark.parametrize("sequences", [False, True])
@given(random=strategies.generators, T=strategies.steps, N=st.integers(1, 5), threads=strategies.threads)
def test_gradients_of_its_layers_match_the_reference(compiled, cell, sequences, random, T, N, threads):
    model = Graph([Recurrent(7, True, cell=cell), Recurrent(5, sequences, cell=cell), Dense(3, "softmax")], features=4)
    x, targets, weights = floats(random, T, N, 4), random.integers(0, 3, T * N if sequences else N), model.initialize(1)
    losses, gradients = [], []
    for machine in (backends.get(compiled.name, compiled.dtype, threads), backends.get("reference")):
        network = Network(model, machine, weights)
        losses.append(machine.download(network.differentiate(machine.upload(x), machine.upload(targets), network.state(N), 1.0, 0)))
        gradients.append({name: machine.download(array) for name, array in network.gradients.items()})
    assert_close({"losses": losses[0]}, {"losses": losses[1]}, TOLERANCE[compiled.dtype.name])
    assert_close(*gradients, TOLERANCE[compiled.dtype.name])


@every_own
def test_a_language_model_with_it_trains_saves_and_generates(cell, tmp_path, known):
    path, options = tmp_path / "model.npz", {"epochs": 6, "streams": 4, "steps": 20, "learning_rate": 1e-2, "verbose": 0}
    model = LanguageModel(cell, hidden=24, layers=2, embedding=8, seed=1, backend="cpu").fit(TEXT, **options, checkpoint=tmp_path / "run.npz")
    assert model.bits_per_character(TEXT) < 2.5
    assert {name.split("/")[1] for name in model.network_.weights() if name.startswith(cell.name)} == names(cell)
    model.save(path)
    for again in (LanguageModel.load(path), LanguageModel.load(tmp_path / "run.npz"), pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert again.score(TEXT) == model.score(TEXT)
        assert again.generate("how", length=40, seed=2) == model.generate("how", length=40, seed=2)
    assert LanguageModel.load(path, backend="reference").score("how much wood") == pytest.approx(model.score("how much wood"), rel=1e-4)


@every_own
@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_the_decoder_generates_the_same_as_the_verbs(cell, weights, known):
    model = ids_model(cell)
    assert model.network_.decoder("float32") is not None
    exact = Network(model.network_.graph, model.network_.ops, (model.network_ if weights == "float32" else model.network_.rounded()).weights())
    prompts, config = [np.array([1, 2, 3]), np.array([4])], SamplingConfig(20, temperature=0.5)
    got = generate_batch(model.network_, prompts, dataclasses.replace(config, weights=weights), [1, 2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(exact.ops), "decoder", lambda *arguments: None)
        want = generate_batch(exact, prompts, config, [1, 2])
    assert [ids.tolist() for ids in got] == [ids.tolist() for ids in want]


@every_own
def test_weights_in_keras_order(cell):
    model = stack(cell)
    weights = model._build().weights()
    model.set_weights([2 * array for array in model.get_weights()])
    assert all((array == 2 * weights[name]).all() for name, array in model._build().weights().items())
    order = [weights[f"{cell.name}/W"], *([weights[f"{cell.name}/U"]] if "U" in names(cell) else []), *([weights[f"{cell.name}/w"]] if cell.weights else []),
             weights[f"{cell.name}/b"].reshape(-1)]  # fmt: skip
    for got, want in zip(model.get_weights()[: len(order)], order, strict=True):
        np.testing.assert_array_equal(got, 2 * want)


def test_files_distinguish_cells_with_other_weights(tmp_path):
    cell, path = OWN["ind_rnn"], tmp_path / "model.npz"
    cells.register(cell)
    try:
        ids_model(cell).save(path)
        assert LanguageModel.load(path).score(IDS) == ids_model(cell).score(IDS)
        cells.register(dataclasses.replace(cell, weights=("v",)))
        with pytest.raises(ModelFileError, match=r"its weights are \['u'\] there and \['v'\] here"):
            LanguageModel.load(path)
        with pytest.raises(ConfigError, match="the pickle was made with another cell named 'ind_rnn'"):
            pickle.loads(pickle.dumps(cell))
    finally:
        del CELLS["ind_rnn"]


@every_own
def test_records_hold_the_gradient_of_the_weights(cell):
    ops = backends.get("cpu")
    model = Graph([Recurrent(3, cell=cell), Dense(2)], features=2)
    record = records(ops, model.layers, gradients=True)[cell.name]
    assert record.get("weights", []) == list(cell.weights)
    assert len(record["gradients"]) == len(cell.states) + len(cell.gates) + len(cell.weights)
    assert difference(ops, cell, record, gradients=True) == ""
