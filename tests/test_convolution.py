"""Convolution and pooling over time: their layers in both front ends, compared with PyTorch and Keras, and what they refuse."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import strategies
from checks import assert_close, assert_same_bits, call
from hypothesis import given
from hypothesis import strategies as st
from strategies import floats

from numba_rnnlm import LanguageModel, Sequential, backends, layers
from numba_rnnlm.backends.convolution import taps
from numba_rnnlm.backends.cpu.convolution import DEEP
from numba_rnnlm.backends.cpu.linear import STEPS, TALL
from numba_rnnlm.checking.cases import Case
from numba_rnnlm.errors import ConfigError, NotFittedError, ShapeError
from numba_rnnlm.layers import (
    AveragePooling1D,
    Conv1D,
    Dense,
    Embedding,
    Flatten,
    GlobalAveragePooling1D,
    GlobalMaxPooling1D,
    MaxPooling1D,
)
from numba_rnnlm.layers.description import rebuild
from numba_rnnlm.network import Graph, Network

pytestmark = pytest.mark.usefixtures("every_thread")

V = 9  # vocabulary size
paddings = st.sampled_from(["valid", "same", "causal"])


# Verbs


@pytest.mark.parametrize("rows", [1, TALL, TALL + 1, DEEP + 3, STEPS + DEEP + 1])
def test_more_rows_than_are_multiplied_at_once(cpu, rows):
    """Several blocks of rows, and edges within them."""
    random, reference = np.random.default_rng(rows), backends.get("reference")
    arguments = {"x": floats(random, rows, 1, 66), "W": floats(random, 3, 33, 70), "b": floats(random, 70), "out": np.full((rows, 1, 70), np.nan),
                 "dilation": 2, "before": 3, "groups": 2}
    back = {name: arguments[name] for name in ("x", "W", "dilation", "before", "groups")} | {
        "dout": floats(random, rows, 1, 70), "dx": np.full((rows, 1, 66), np.nan), "dW": np.full((3, 33, 70), np.nan), "db": None}
    for verb, given_ in (("convolve", arguments), ("convolve_backward", back)):
        got, want = (call(ops, verb, given_) for ops in (cpu, reference))
        for name in want:
            np.testing.assert_allclose(got[name], want[name], rtol=0, atol=3e-6 * abs(want[name]).max(), err_msg=name)


def test_a_long_mean_is_not_rounded_step_by_step(cpu):
    x = np.full((100_001, 1, 2), 0.1)
    assert call(cpu, "pool_steps", {"x": x, "out": np.zeros((1, 1, 2)), "kind": "mean", "size": len(x), "stride": 1})["out"] == pytest.approx(0.1, rel=1e-7)


@pytest.mark.parametrize("size", [1, 3])
def test_the_gradient_of_a_maximum_goes_to_the_first(ops, size):
    x = np.array([1.0, 2, 2, 2, 0]).reshape(5, 1, 1)
    out = call(ops, "pool_steps", {"x": x, "out": np.zeros((5, 1, 1)), "kind": "max", "size": size, "stride": 1, "before": size // 2})["out"]
    dx = call(ops, "pool_steps_backward", {"x": x, "out": out, "dout": np.arange(5.0).reshape(5, 1, 1) + 1, "dx": x, "kind": "max", "size": size,
                                           "stride": 1, "before": size // 2})["dx"]
    assert dx.ravel().tolist() == ([1, 2, 3, 4, 5] if size == 1 else [0, 6, 4, 5, 0])


def test_a_nan_is_the_maximum(ops):
    x = np.array([1.0, np.nan, 3, 4]).reshape(4, 1, 1)
    given_ = {"x": x, "out": np.zeros((2, 1, 1)), "kind": "max", "size": 2, "stride": 2}
    out = call(ops, "pool_steps", given_)["out"]
    assert np.isnan(out[0]).all() and out[1] == 4
    assert call(ops, "pool_steps_backward", given_ | {"out": out, "dout": np.ones((2, 1, 1)), "dx": x})["dx"].ravel().tolist() == [0, 1, 0, 1]


@given(st.integers(0, 12), st.integers(0, 12), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.integers(0, 9))
def test_taps_are_all_pairs_of_steps_that_exist(steps, outputs, kernel, stride, dilation, before):
    found = {(t, tap.k, (t + tap.shift) * stride + tap.phase) for tap in taps(steps, outputs, kernel, stride, dilation, before)
             for t in range(tap.first, tap.last)}
    assert found == {(t, k, s) for t in range(outputs) for k in range(kernel) if 0 <= (s := t * stride + k * dilation - before) < steps}


# Layers


@pytest.mark.parametrize("layer", [
    Conv1D(3, 3), Conv1D(3, 2, 2, "same", activation="silu"), Conv1D(4, 3, padding="causal", dilation_rate=2), Conv1D(4, 3, 2, "causal"),
    MaxPooling1D(), AveragePooling1D(3, 2, "same"), GlobalMaxPooling1D(), GlobalAveragePooling1D(), Flatten(),
], ids=repr)  # fmt: skip
def test_the_checks_of_a_layer(layer):
    layers.check(layer)


def test_the_checks_of_groups():
    layers.check(Conv1D(6, 2, padding="causal", groups=3), 6)


with np.load(Path(__file__).parent / "data" / "golden_convolution.npz", allow_pickle=False) as file:
    GOLDEN = dict(file)


@pytest.mark.parametrize("number", range(sum(key.endswith("/layer") for key in GOLDEN)))
def test_a_layer_computes_what_pytorch_does(cpu, number):
    """The numbers were recorded by data/record_convolution.py."""
    golden = {key.removeprefix(f"{number}/"): array for key, array in GOLDEN.items() if key.startswith(f"{number}/")}
    case = Case(rebuild(json.loads(str(golden["layer"])), layers.LAYERS, {}), golden["x"].shape, np.random.default_rng(0))
    case.x, case.dy = golden["x"], golden["dy"]
    case.weights = {key.removeprefix("weight/"): array for key, array in golden.items() if key.startswith("weight/")}
    case.state = {name: np.zeros(shape) for name, shape in case.layer.state(case.shape).items()}
    found = case.backward(cpu)
    wanted = {"the output": golden["y"], "the gradient of the input": golden["gradient/x"]}
    wanted |= {f"the gradient of the weight {name!r}": golden[f"gradient/{name}"] for name in case.weights}
    assert_close({name: found[name] for name in wanted}, wanted, {"float32": 1e-5, "float64": 1e-13}[cpu.dtype.name])


@given(steps=st.integers(1, 40), kernel=st.integers(1, 5), stride=st.integers(1, 4), dilation=st.integers(1, 3), padding=paddings)
def test_lengths_and_places_are_those_of_keras(steps, kernel, stride, dilation, padding):
    """Output t is the sum of what a kernel of ones sees of 1, 10, 100, …: by Keras's rules for padding."""
    dilation = 1 if stride > 1 else dilation
    layer, span = Conv1D(1, kernel, stride, padding, dilation_rate=dilation, use_bias=False), (kernel - 1) * dilation + 1
    if padding == "valid" and steps < span:
        with pytest.raises(ShapeError, match=f"Conv1D sees {span} steps at once, but gets a sequence of {steps}"):
            layer.output((steps, 1, 1))
        return
    if padding == "same":
        total = max((-(-steps // stride) - 1) * stride + span - steps, 0)
        left, right = total // 2, total - total // 2
    else:
        left, right = (span - 1) * (padding == "causal"), 0
    case = Case(layer, (steps, 1, 1), np.random.default_rng(0))
    case.weights["W"][:] = 1
    state = {name: np.zeros(shape) for name, shape in layer.state(case.shape).items()}
    got = case.forward(backends.get("reference"), state=state)["the output"].ravel()
    x = np.pad(case.x.ravel(), (left, right))
    want = [x[first : first + span : dilation].sum() for first in range(0, len(x) - span + 1, stride)]
    assert layer.output(case.shape) == (len(want), 1, 1)
    np.testing.assert_allclose(got, want, atol=1e-12)


@given(random=strategies.generators, kernel=st.integers(1, 4), dilation=st.integers(1, 3), cuts=st.sets(st.integers(1, 11)), N=st.integers(1, 6))
def test_a_stream_in_pieces_has_the_bits_of_the_whole(cpu, random, kernel, dilation, cuts, N):
    case = Case(Conv1D(5, kernel, padding="causal", dilation_rate=dilation), (12, N, 3), random)
    whole = case.forward(cpu)
    state, parts = case.state, []
    for first, last in pairwise([0, *sorted(cuts), 12]):
        found = case.forward(cpu, case.x[first:last], state)
        state = case.states(found)
        parts.append(found["the output"])
    assert_same_bits({"the output": np.concatenate(parts), **{f"the state {name!r}": array for name, array in state.items()}}, whole)


def test_a_conv1d_starts_as_in_keras():
    """Glorot and Bengio's limit, with the fans k·D/groups and k·filters."""
    drawn = Conv1D(32, 5, groups=2).initialize((1, 1, 16), np.random.default_rng(0))
    limit = np.sqrt(6 / (5 * 8 + 5 * 32))
    assert 0.99 * limit < abs(drawn["W"]).max() <= limit and not drawn["b"].any()


def test_a_kernel_is_rounded_to_int8_by_filters(cpu):
    graph = Graph([Embedding(V, 4), Conv1D(3, 2, padding="causal"), Dense(V, "softmax")])
    kernel = Network(graph, cpu, graph.initialize(0)).rounded().weights()["conv1d/W"]
    units = kernel / (abs(kernel).max((0, 1)) / 127)
    np.testing.assert_allclose(units, np.rint(units), atol=1e-3)


REFUSED = [
    (lambda: Conv1D(0, 3), "Conv1D: filters is 0, expected"),
    (lambda: Conv1D(4, 0), "Conv1D: kernel_size is 0, expected"),
    (lambda: Conv1D(4, 3, 0), "Conv1D: strides is 0, expected"),
    (lambda: Conv1D(4, 3, padding="full"), "Conv1D: padding is 'full', expected one of 'valid', 'same', 'causal'"),
    (lambda: Conv1D(4, 3, groups=3), "Conv1D: groups is 3, expected a divisor of the 4 filters"),
    (lambda: Conv1D(4, 3, 2, dilation_rate=2), "strides is 2 and dilation_rate is 2; one of them must be 1"),
    (lambda: Conv1D(4, 3, data_format="channels_first"), "vectors are the last axis"),
    (lambda: MaxPooling1D(0), "MaxPooling1D: pool_size is 0, expected"),
    (lambda: AveragePooling1D(2, 0), "AveragePooling1D: strides is 0, expected"),
    (lambda: MaxPooling1D(2, padding="causal"), "MaxPooling1D: padding is 'causal', expected one of 'valid', 'same'"),
    (lambda: GlobalMaxPooling1D(keepdims=True), "each sequence becomes one vector"),
]
REFUSED_SHAPES = [
    (Conv1D(4, 3, groups=2), (9, 1, 3), "Conv1D gets 3 features, expected a multiple of groups, 2"),
    (Conv1D(4, 3), (5, 2), "Conv1D takes sequences of vectors, got an input with 2 axes; a recurrent layer in front of it needs return_sequences=True"),
    (Conv1D(4, 3, dilation_rate=4), (8, 1, 3), "Conv1D sees 9 steps at once, but gets a sequence of 8; pass longer sequences, or padding='same'"),
    (MaxPooling1D(5), (4, 1, 3), "MaxPooling1D sees 5 steps at once, but gets a sequence of 4"),
    (GlobalMaxPooling1D(), (5, 2), "GlobalMaxPooling1D takes sequences of vectors, got an input with 2 axes"),
]


@pytest.mark.parametrize(("make", "words"), REFUSED)
def test_arguments_that_are_refused(make, words):
    with pytest.raises(ConfigError) as refused:
        make()
    assert words in str(refused.value)


@pytest.mark.parametrize(("layer", "shape", "words"), REFUSED_SHAPES)
def test_shapes_that_are_refused(layer, shape, words):
    with pytest.raises(ShapeError) as refused:
        layer.output(shape)
    assert words in str(refused.value)


# Front ends


def test_a_classifier_learns_whether_two_symbols_are_neighbours():
    random = np.random.default_rng(0)
    x = random.integers(0, V, (400, 12))
    y = ((x[:, :-1] == 2) & (x[:, 1:] == 3)).any(1)
    x[200:, 5], x[200:, 6], y[200:] = 2, 3, True
    model = Sequential([Embedding(V, 8), Conv1D(16, 2, activation="relu"), GlobalMaxPooling1D(), Dense(1, "sigmoid")], threads=1)
    model.compile("adam", "binary_crossentropy", ["accuracy"])
    assert model.fit(x, y, epochs=25, verbose=0).history["accuracy"][-1] > 0.97
    assert [array.shape for array in model.get_weights()] == [(V, 8), (2, 8, 16), (16,), (16, 1), (1,)]


def test_outputs_of_fewer_steps_have_as_many_targets(tmp_path, capsys):
    x = np.arange(60).reshape(5, 12) % V
    model = Sequential([Embedding(V, 4), Conv1D(6, 3), AveragePooling1D(2), Dense(V, "softmax")], threads=1)
    model.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
    with pytest.raises(ShapeError, match=r"\(5, 12\)"):
        model.fit(x, x, verbose=0)
    model.fit(x, x[:, :5], verbose=0)
    assert model.predict(x).shape == (5, 5, V) and model.predict(x[:, :9]).shape == (5, 3, V)
    model.save(tmp_path / "model.npz")
    np.testing.assert_array_equal(Sequential.load(tmp_path / "model.npz").predict(x), model.predict(x))
    model.summary()
    assert ["conv1d", "(Conv1D)", "(None,", "None,", "6)", "78"] in [line.split() for line in capsys.readouterr().out.splitlines()]
    other = Sequential(model.layers, seed=1, threads=1)
    other.set_weights(model.get_weights())
    np.testing.assert_array_equal(other.predict(x), model.predict(x))


def test_a_kernel_longer_than_the_warm_up_trains():
    """What is compiled before the training is tried on a few steps."""
    model = Sequential([Embedding(V, 4), Conv1D(6, 11), GlobalMaxPooling1D(), Dense(V, "softmax")], threads=1)
    model.compile("adam", "sparse_categorical_crossentropy")
    assert model.fit(np.zeros((2, 12), int), [1, 2], verbose=0).history["loss"][0] > 0


def test_groups_wait_for_the_size_of_the_vectors():
    model = Sequential([Conv1D(6, 2, groups=3, activation="tanh"), Conv1D(4, 2, groups=2), GlobalMaxPooling1D(), Dense(2, "softmax")], threads=1)
    model.compile("adam", "sparse_categorical_crossentropy")
    with pytest.raises(ShapeError, match="Conv1D gets 4 features, expected a multiple of groups, 3"):
        model.fit(np.ones((2, 5, 4)), [0, 1], verbose=0)
    model.fit(np.ones((2, 5, 9)), [0, 1], verbose=0)
    assert [array.shape for array in model.get_weights()[:3]] == [(2, 3, 6), (6,), (2, 3, 4)]


def flattening(**options):
    return [Embedding(V, 4, **options), Conv1D(6, 3), Flatten(), Dense(V, "softmax")]


def test_flatten_learns_the_length_of_the_sequences(tmp_path, capsys):
    x = np.arange(60).reshape(5, 12) % V
    model = Sequential(flattening(), threads=1)
    with pytest.raises(NotFittedError, match="the length of the sequences is not known yet, and a layer flattens them; call build"):
        model.summary()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, x[:, 0], verbose=0)
    model.summary()
    assert "(None, 60)" in capsys.readouterr().out and model.get_weights()[3].shape == (60, V)
    model.save(tmp_path / "model.npz")
    for same in (model, Sequential.load(tmp_path / "model.npz")):
        np.testing.assert_array_equal(same.predict(x), model.predict(x))
        with pytest.raises(ShapeError, match="the sequences have 11 steps, expected 12: the weights behind the Flatten are for so many"):
            same.predict(x[:, 1:])
        with pytest.raises(ShapeError, match="the sequences have 11 steps, expected 12"):
            same.fit(x[:, 1:], x[:, 0], verbose=0)


@pytest.mark.parametrize("known", [
    lambda: Sequential(flattening(input_length=12), threads=1),
    lambda: Sequential([Conv1D(6, 3, input_shape=(12, 4)), Flatten(), Dense(V)], threads=1),
])  # fmt: skip
def test_the_length_may_be_given_before_there_are_data(known):
    assert known().get_weights()[-2].shape == (60, V)


def test_the_length_may_be_built():
    model = Sequential(flattening(), threads=1)
    model.build((None, 12))
    assert model.get_weights()[-2].shape == (60, V)


def test_flatten_puts_the_steps_one_behind_the_other(ops):
    x = np.arange(24.0).reshape(3, 2, 4)
    found = Case(Flatten(), x.shape, np.random.default_rng(0)).forward(ops, x)["the output"]
    np.testing.assert_array_equal(found, x.swapaxes(0, 1).reshape(2, 12))


@pytest.mark.parametrize("layer", [Conv1D(4, 3, padding="same"), Conv1D(4, 3, 2, "causal"), MaxPooling1D(1), Flatten()], ids=repr)
def test_a_language_model_refuses_what_sees_later_steps(layer):
    with pytest.raises(ConfigError, match=r"sees later steps, which a language model is to predict"):
        LanguageModel(embedding=4, body=[layer])


def test_a_language_model_of_convolutions_writes_what_it_scores():
    """The compiled decoder, step by step, beyond what the convolutions see, against whole forward passes."""
    body = [Conv1D(8, 3, padding="causal", activation="tanh"), Conv1D(8, 2, padding="causal", dilation_rate=3, activation="relu")]
    model = LanguageModel(embedding=6, body=body, tokenizer="char", threads=1)
    model.fit("abcde edcba.\n" * 40, epochs=2, streams=4, steps=10, verbose=0)
    written = model.generate("abc", length=30, temperature=0)
    whole = written if written.startswith("abc") else "abc" + written
    assert len(whole) == 33
    for place in range(3, len(whole)):
        assert model.next_token(model.read(whole[:place]), k=1)[0][0].replace("\\n", "\n") == whole[place]
    assert model.generate("abc", length=30, temperature=0, weights="int8")
