"""Maps of weights to other libraries' arrays: what they can express, in both directions, and that nothing is dropped.

The maps here are PyTorch's, ONNX's and one with the opposite update gate; each is compared with that library's equations in NumPy.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numba_rnnlm import Sequential
from numba_rnnlm.errors import ConfigError, ShapeError
from numba_rnnlm.formats import keras, maps
from numba_rnnlm.formats.maps import Entry
from numba_rnnlm.layers import GRU, LSTM, Concat, Dense, Recurrent, Residual, SimpleRNN

SIZES = st.integers(1, 5)
GRU_BLOCKS = {GRU: "m r u n r' u'", Recurrent: "m r u n"}  # a Recurrent has a single bias for each gate


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def pytorch(layer, names):
    if layer.cell == "gru":
        bias = GRU_BLOCKS[type(layer)]
        second = "r' u' m" if "'" in bias else "r u m"
        return [Entry("weight_ih", "W", "r u n", "r u n", transposed=True), Entry("weight_hh", "U", "m r u", "r u m", transposed=True),
                Entry("bias_ih", "b", bias, "r u n", shape=(-1,)), Entry("bias_hh", "b", bias, second, shape=(-1,))]
    bias = "i f g o" if layer.cell == "lstm" else "all"
    return [Entry("weight_ih", "W", transposed=True), Entry("weight_hh", "U", transposed=True),
            Entry("bias_ih", "b", bias, bias, shape=(-1,)), Entry("bias_hh", "b", bias, bias, shape=(-1,))]


def pytorch_step(layer, arrays, x, state):
    from_x, from_h = x @ arrays["weight_ih"].T + arrays["bias_ih"], state[0] @ arrays["weight_hh"].T + arrays["bias_hh"]
    if layer.cell == "lstm":
        i, f, g, o = np.split(from_x + from_h, 4, axis=-1)
        c = sigmoid(f) * state[1] + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c
    if layer.cell == "tanh":
        return (np.tanh(from_x + from_h),)
    (rx, zx, nx), (rh, zh, nh) = np.split(from_x, 3, axis=-1), np.split(from_h, 3, axis=-1)
    z = sigmoid(zx + zh)
    return ((1 - z) * np.tanh(nx + sigmoid(rx + rh) * nh) + z * state[0],)


def onnx(layer, names):
    if layer.cell == "gru":
        bias = GRU_BLOCKS[type(layer)]
        second = "u' r' m" if "'" in bias else "u r m"
        return [Entry("W", "W", "r u n", "u r n", transposed=True), Entry("R", "U", "m r u", "u r m", transposed=True),
                Entry("B", "b", bias, f"u r n {second}", shape=(1, -1))]
    blocks, order = ("i f g o", "i o f g") if layer.cell == "lstm" else ("all", "all")
    return [Entry("W", "W", blocks, order, transposed=True), Entry("R", "U", blocks, order, transposed=True),
            Entry("B", "b", blocks, f"{order} {order}", shape=(1, -1))]


def onnx_step(layer, arrays, x, state):
    (wb, rb), h = np.split(arrays["B"][0], 2), state[0]
    from_x, from_h = x @ arrays["W"].T + wb, h @ arrays["R"].T + rb
    if layer.cell == "lstm":
        i, o, f, c = np.split(from_x + from_h, 4, axis=-1)
        c = sigmoid(f) * state[1] + sigmoid(i) * np.tanh(c)
        return sigmoid(o) * np.tanh(c), c
    if layer.cell == "tanh":
        return (np.tanh(from_x + from_h),)
    (zx, rx, hx), (zh, rh, hh) = np.split(from_x, 3, axis=-1), np.split(from_h, 3, axis=-1)
    z = sigmoid(zx + zh)
    return ((1 - z) * np.tanh(hx + sigmoid(rx + rh) * hh) + z * h,)


def opposite(layer, names):
    """A GRU whose gate z says how much is new."""
    assert layer.cell == "gru"
    bias = GRU_BLOCKS[type(layer)]
    return [Entry("kernel", "W", "r u n", "-u r n"), Entry("recurrent", "U", "m r u", "-u r m"),
            Entry("bias", "b", bias, "-u r n -u' -r' m -r'" if "'" in bias else "-u r n -u -r m -r", shape=(-1,))]


def opposite_step(layer, arrays, x, state):
    # The bias has r three times, with minus signs for the second and third: their sum counts.
    z, r, n, z_h, r_h, m, r_again = np.split(arrays["bias"], 7)
    from_x, from_h = x @ arrays["kernel"] + np.concatenate([z, r, n]), state[0] @ arrays["recurrent"] + np.concatenate([z_h, -r_h - r_again, m])
    (zx, rx, hx), (zh, rh, hh) = np.split(from_x, 3, axis=-1), np.split(from_h, 3, axis=-1)
    z = sigmoid(zx + zh)
    return (z * np.tanh(hx + sigmoid(rx + rh) * hh) + (1 - z) * state[0],)


LIBRARIES = {"PyTorch": (pytorch, pytorch_step), "ONNX": (onnx, onnx_step), "opposite": (opposite, opposite_step)}
KINDS = {"LSTM": LSTM, "GRU": GRU, "SimpleRNN": SimpleRNN, "gru": lambda units, **options: Recurrent(units, cell="gru", **options)}


@pytest.mark.parametrize(("library", "kind"), [
    (library, kind) for library in LIBRARIES for kind in KINDS if library != "opposite" or kind.lower() == "gru"
])  # fmt: skip
@given(SIZES, SIZES, st.integers(0, 2**32))
def test_a_map_has_the_equations_of_its_library(library, kind, features, units, seed):
    find, step = LIBRARIES[library]
    layer, random = KINDS[kind](units, return_sequences=True), np.random.default_rng(seed)
    model = Sequential([layer], backend="reference")
    model.build((None, None, features))
    network = model._network
    shapes = layer.parameters((1, 1, features))
    for given_ in (False, True):  # our weights there, then theirs here
        ours = {name: random.normal(size=shape) for name, shape in shapes.items()}
        theirs = maps.to_theirs(layer, ours, find)
        if given_:
            theirs = {name: random.normal(size=array.shape) for name, array in theirs.items()}
            ours = maps.from_theirs(layer, shapes, theirs, find)
            assert {name: array.shape for name, array in ours.items()} == shapes
        network.set_weights({f"{network.graph.names[0]}/{name}": array for name, array in ours.items()})
        x = random.normal(size=(2, 4, features))
        state, outputs = (np.zeros((2, units)), np.zeros((2, units))), []
        for at in range(4):
            state = step(layer, theirs, x[:, at], state)
            outputs.append(state[0])
        np.testing.assert_allclose(model.predict(x), np.stack(outputs, 1), rtol=0, atol=1e-12)


@given(SIZES, SIZES, st.sampled_from([*KINDS]), st.sampled_from([*LIBRARIES]), st.integers(0, 2**32))
def test_a_map_reads_what_it_writes(features, units, kind, library, seed):
    layer, random = KINDS[kind](units), np.random.default_rng(seed)
    find = LIBRARIES[library][0] if library != "opposite" or layer.cell == "gru" else pytorch
    shapes = layer.parameters((1, 1, features))
    ours = {name: random.normal(size=shape) for name, shape in shapes.items()}
    found = maps.from_theirs(layer, shapes, maps.to_theirs(layer, ours, find), find)
    assert list(found) == list(shapes)
    for name, array in ours.items():
        np.testing.assert_array_equal(found[name], array)


NESTED = Residual([LSTM(3, return_sequences=True), Concat([Dense(2), [GRU(1, return_sequences=True)]])])


def keras_map(layer, names):
    return next((keras.MAPS[kind] for kind in type(layer).__mro__ if kind in keras.MAPS), [])


def test_layers_within_layers_have_names_of_their_own():
    theirs = maps.to_theirs(NESTED, maps.stand_ins(NESTED.parameters((1, 1, 3))), keras_map)
    assert list(theirs) == ["lstm/kernel", "lstm/recurrent_kernel", "lstm/bias", "concat/0/dense/kernel", "concat/0/dense/bias",
                            "concat/1/gru/kernel", "concat/1/gru/recurrent_kernel", "concat/1/gru/bias"]


def test_nothing_is_dropped():
    layer, shapes = LSTM(2), LSTM(2).parameters((1, 1, 3))
    weights = {name: np.zeros(shape) for name, shape in shapes.items()}
    theirs = maps.to_theirs(layer, weights, pytorch)
    with pytest.raises(ConfigError, match=r"^LSTM has the weights gain, shift, which have no counterpart in the other library\.$"):
        maps.to_theirs(layer, {**weights, "shift": np.zeros(1), "gain": np.zeros(1)}, pytorch)
    with pytest.raises(ConfigError, match="LSTM has the weights gain, which"):
        maps.from_theirs(layer, {**shapes, "gain": (1,)}, theirs, pytorch)
    for wrong in ({**theirs, "weight_hr": np.zeros((1, 2))}, {name: array for name, array in theirs.items() if name != "bias_hh"}):
        with pytest.raises(ShapeError, match=rf"^LSTM has the arrays {', '.join(sorted(wrong))}, expected bias_hh, bias_ih, weight_hh, weight_ih\.$"):
            maps.from_theirs(layer, shapes, wrong, pytorch)
    with pytest.raises(ShapeError, match=r"^LSTM: weight_ih is \(3, 8\), expected \(8, 3\)\."):
        maps.from_theirs(layer, shapes, {**theirs, "weight_ih": theirs["weight_ih"].T}, pytorch)
    shapes = NESTED.parameters((1, 1, 3))
    theirs = maps.to_theirs(NESTED, maps.stand_ins(shapes), keras_map)
    with pytest.raises(ShapeError, match=r"^Residual has the arrays strange/kernel, expected none\.$"):
        maps.from_theirs(NESTED, shapes, {**theirs, "strange/kernel": np.zeros(1)}, keras_map)


class Gained:
    """Adds a weight to those of a layer's class."""

    def parameters(self, shape):
        return super().parameters(shape) | {"gain": (2, 3)}


class GainedGRU(Gained, GRU):
    pass


class GainedDense(Gained, Dense):
    pass


@pytest.mark.parametrize("kind", [GainedGRU, GainedDense])
def test_the_weights_of_a_subclass_are_the_ones_of_its_class_and_its_own(kind):
    base, shapes = kind.__mro__[2], kind(4).parameters((1, 1, 3))
    random = np.random.default_rng(1)
    ours = {name: random.normal(size=shape) for name, shape in shapes.items()}
    theirs = keras.to_keras(kind(4), ours)
    plain = keras.to_keras(base(4), {name: array for name, array in ours.items() if name != "gain"})
    for got, want in zip(theirs, [*plain, ours["gain"]], strict=True):
        np.testing.assert_array_equal(got, want)
    found = keras.from_keras(kind(4), shapes, theirs)
    assert all((found[name] == array).all() for name, array in ours.items()) and found.keys() == ours.keys()
    for wrong in (theirs[1:], [*theirs, ours["gain"]]):
        with pytest.raises(ValueError, match="zip"):
            keras.from_keras(kind(4), shapes, wrong)
