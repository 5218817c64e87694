"""Layers in model files: what a file can hold, what is refused before anything is trained, and names that cannot collide."""

import json
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numba_rnnlm import Cell, ConfigError, LanguageModel, ModelFileError, Sequential, cells, cli
from numba_rnnlm.layers import GRU, LAYERS, LSTM, Dense, Dropout, Embedding, Layer, Recurrent, Residual
from numba_rnnlm.layers.chain import Chain
from numba_rnnlm.layers.description import MOST_LAYERS, cells_named, cells_within, describe, rebuild, rebuild_all
from numba_rnnlm.network import Graph

TEXT = "to be or not to be\n" * 10
FIT: dict[str, Any] = {"epochs": 1, "streams": 2, "steps": 10, "verbose": 0}


@dataclass(frozen=True)
class Holder(Layer):
    """A layer that passes its input on, with any arguments."""

    value: Any = None
    cell: Any = None
    hidden: float = field(default=1.0, repr=False, compare=False)

    def forward(self, ops, run, x):
        return x

    def backward(self, ops, run, x, dy):
        return dy


@dataclass(frozen=True)
class Two(Layer):
    """y = x (V + W), with names of weights that end alike."""

    def parameters(self, shape):
        return {"left/W": (shape[-1], shape[-1]), "right/W": (shape[-1], shape[-1])}

    def initialize(self, shape, random):
        return {name: random.normal(size=size) for name, size in self.parameters(shape).items()}

    def activations(self, shape, training):
        return {"y": shape} | ({"dx": shape, "more": shape} if training else {})

    def forward(self, ops, run, x):
        ops.project(x, run.p["left/W"], None, run.a["y"])
        ops.project(x, run.p["right/W"], None, run.a["y"], add=True)
        return run.a["y"]

    def backward(self, ops, run, x, dy):
        for name, out in (("left/W", "dx"), ("right/W", "more")):
            ops.project_backward(x, run.p[name], dy, run.a[out], run.g[name], None, add=run.adds(ops, name))
        ops.add(run.a["more"], run.a["dx"])
        return run.a["dx"]


LEAKY = Cell("leaky", {"h": "xh"}, ("h",), lambda z, prev: np.tanh(z[:1]), cells.TANH.forward, cells.TANH.backward)

arguments = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
    | st.sampled_from([LEAKY, cells.LSTM, GRU(3), Recurrent(2, cell=LEAKY), Residual([Dense(2)])]),
    lambda items: st.lists(items, max_size=3).map(tuple), max_leaves=6,
)


@given(value=arguments, cell=arguments, hidden=st.floats(-9, 9))
def test_arguments_survive_a_file(value, cell, hidden):
    layer = Holder(value, cell, hidden)
    told = json.loads(json.dumps(describe(layer), allow_nan=False))
    again = rebuild(told, {**LAYERS, "Holder": Holder}, {"leaky": LEAKY})
    assert again == layer and again.hidden == hidden
    assert {one.name for one in cells_within([layer])} <= {*cells_named(told, {**LAYERS, "Holder": Holder})}
    assert rebuild_all("file", [told], {"Holder": Holder}, {"leaky": LEAKY}) == [layer]


@pytest.mark.parametrize(("given", "plain"), [(np.int64(3), 3), (np.float32(0.5), 0.5), (np.bool_(True), True), ([1, [2]], (1, (2,)))])
def test_numpy_scalars_become_plain_and_lists_tuples(given, plain):
    again = rebuild(describe(Holder(given)), {"Holder": Holder}, {})
    assert again.value == plain and type(again.value) is type(plain)


def test_a_text_that_is_called_cell_is_no_cell(tmp_path):
    path, model = tmp_path / "model.npz", LanguageModel(hidden=4, layers=1, embedding=3, body=[LSTM(4, return_sequences=True), Holder(cell="grid")])
    model.fit(TEXT, **FIT).save(path)
    again = LanguageModel.load(path, custom_objects={"Holder": Holder})
    assert again.get_params()["body"][1] == Holder(cell="grid") and again.score("to be") == model.score("to be")


def test_a_cell_in_any_argument_is_recognised(tmp_path, capsys):
    path, layer = tmp_path / "model.npz", Holder((1, LEAKY))
    model = Sequential([Embedding(4, 3), layer, GRU(2), Dense(4, "softmax")], seed=1)
    model.save(path)
    assert cli.main(["info", str(path)]) == 0 and "Holder(hidden=1.0, value=[1, 'leaky'])" in capsys.readouterr().out
    with pytest.raises(ModelFileError, match="uses the custom cell 'leaky', which is not known here"):
        Sequential.load(path, custom_objects={"Holder": Holder})
    assert Sequential.load(path, custom_objects={"Holder": Holder}, cells=[LEAKY]).layers[1].value[1] is LEAKY
    assert Sequential.load(path, custom_objects={"Holder": Holder, "leaky": LEAKY}).layers[1].value[1] is LEAKY
    other = replace(LEAKY, forward=cells.RELU.forward)
    with pytest.raises(ConfigError, match="two cells named 'leaky'"):
        Sequential([Embedding(4, 3), layer, Holder(other), GRU(2), Dense(4, "softmax")]).save(path)


# What is refused before anything is trained


class Plain(Layer):
    """Not a dataclass."""


LIKE_OURS = dataclass(frozen=True)(type("Dropout", (Holder,), {"__annotations__": {}}))


@pytest.mark.parametrize(("layer", "message"), [
    (LIKE_OURS(), r"the class .*\.Dropout has the name of a layer of the library, .*give the class another name"),
    (Residual([LIKE_OURS()]), "has the name of a layer of the library"),
    (Plain(), "the class .*Plain is no frozen dataclass, .*write @dataclass"),
    (Holder(np.ones(3)), "Holder: value is .*, which a model file cannot hold: an argument of a layer is a finite number"),
    (Holder({"a": 1}), "Holder: value is .*, which a model file cannot hold"),
    (Holder({1}), "Holder: value is .*, which a model file cannot hold"),
    (Holder(b"x"), "Holder: value is .*, which a model file cannot hold"),
    (Holder((1, np.tanh)), "Holder: value is .*, which a model file cannot hold"),
    (Holder(cell=float("nan")), "Holder: cell is nan, which a model file cannot hold"),
    (Holder(np.float32(np.inf)), "Holder: value is inf, which a model file cannot hold"),
    (Residual([Dropout(0.1)] * MOST_LAYERS), r"the model has 1,00\d layers, expected at most 1,000"),
])  # fmt: skip
def test_layers_that_a_file_cannot_hold_are_refused_at_once(layer, message):
    with pytest.raises(ConfigError, match=message):
        LanguageModel(body=[layer])
    with pytest.raises(ConfigError, match=message):
        Sequential([Embedding(4, 3), layer])
    model = Sequential([Embedding(4, 3)])
    with pytest.raises(ConfigError, match=message):
        model.add(layer)
    assert model.layers == [Embedding(4, 3)]


@pytest.mark.parametrize("name", ["..", "../W", "a/../W", "/W", "W/", "a\\W", "a\0", "", "W" * 501, "a//W"])
def test_names_that_a_file_cannot_hold_are_refused(name):
    @dataclass(frozen=True)
    class Named(Holder):
        def parameters(self, shape):
            return {name: (1,)}

    @dataclass(frozen=True)
    class Stateful(Holder):
        def state(self, shape):
            return {name: (shape[-2], 1)}

    for layer in (Named(), Stateful()):
        with pytest.raises(ConfigError, match=r"a layer has an array named .*, expected letters, digits"):
            Graph([Embedding(4, 3), layer])


@pytest.mark.parametrize("given", [[Holder], {"Holder": int}, {"Holder": 3}, {"Holder": Holder()}, {3: Holder}, "Holder", np.ones(2)])
def test_custom_objects_are_classes_by_name(tmp_path, given):
    path = tmp_path / "model.npz"
    for model in (LanguageModel(hidden=4, layers=1, embedding=3).fit(TEXT, **FIT), Sequential([Embedding(4, 3), GRU(2), Dense(4, "softmax")])):
        path.unlink(missing_ok=True)
        model.save(path)
        with pytest.raises(ConfigError, match=r"custom_objects (is|has) .*, expected a mapping of names to classes of layers or optimizers, or to cells, such as"):
            type(model).load(path, custom_objects=given)


# Names


class GRU_1(Holder):
    """Its kind is that of a second GRU."""


class Gru(Holder):
    """Its kind is that of a GRU."""


@given(st.lists(st.sampled_from([GRU(3, True), GRU_1(), Gru(), Dense(3), LSTM(3, True)]), min_size=1, max_size=7))
def test_no_two_layers_have_one_name(layers):
    names = Chain(tuple(layers)).names
    assert len(set(names)) == len(layers)
    assert all(name.startswith(layer.kind) for name, layer in zip(names, layers, strict=True))


def test_a_layer_named_like_a_numbered_one_has_weights_of_its_own():
    layers = [GRU(3, True), GRU(3, True), GRU_1()]
    assert Chain(tuple(layers)).names == ("gru", "gru_1", "gru_1_1")
    assert Chain((GRU_1(), *layers[:2])).names == ("gru_1", "gru", "gru_2")


def test_all_weights_come_and_go_whatever_their_names():
    x = np.arange(40).reshape(8, 5) % 4
    model = Sequential([Embedding(4, 3), Two(), GRU(2), Dense(4, "softmax")], seed=1)
    weights = model.get_weights()
    assert [array.shape for array in weights] == [(4, 3), (3, 3), (3, 3), (3, 6), (2, 6), (2, 6), (2, 4), (4,)]
    assert model.count_params() == sum(array.size for array in weights)
    other = Sequential(model.layers, seed=2)
    other.set_weights(weights)
    np.testing.assert_array_equal(other.predict(x), model.predict(x))
