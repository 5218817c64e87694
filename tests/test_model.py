"""Layers, models and networks: every gradient is the derivative of the forward pass."""

from concurrent.futures import ThreadPoolExecutor
from math import prod

import numpy as np
import pytest
import strategies
from checks import STEP, TOLERANCE, ComplexStep, assert_adjoint, assert_close, assert_same_bits, error, run_python
from hypothesis import given
from hypothesis import strategies as st
from strategies import floats

from numba_rnnlm import backends, layers
from numba_rnnlm.arena import ALIGNMENT, Arena, Layout
from numba_rnnlm.backends import SIMULATED
from numba_rnnlm.backends.ops import ACTIVATIONS
from numba_rnnlm.cells import CELLS
from numba_rnnlm.checking.cases import KEY, Case
from numba_rnnlm.checking.layer import adds, gradients
from numba_rnnlm.config import ModelConfig
from numba_rnnlm.errors import ConfigError, ShapeError
from numba_rnnlm.language_model.architecture import build, initial_weights
from numba_rnnlm.layers import (
    GRU,
    LSTM,
    QRNN,
    Activation,
    Add,
    AveragePooling1D,
    Concat,
    Conv1D,
    Dense,
    Dropout,
    Embedding,
    FeedForward,
    Flatten,
    GlobalAveragePooling1D,
    GlobalMaxPooling1D,
    Highway,
    LayerNormalization,
    MaxPooling1D,
    MultiHeadAttention,
    PositionEmbedding,
    Recurrent,
    Residual,
    RMSNormalization,
    SimpleRNN,
)
from numba_rnnlm.layers.chain import Chain
from numba_rnnlm.network import Graph, Network
from numba_rnnlm.network.network import KEPT_PASSES

pytestmark = pytest.mark.usefixtures("every_thread")

COMPLEX = ComplexStep()
V = 7  # vocabulary size

small = st.integers(1, 9)


def config(**changes):
    return ModelConfig(**{"vocabulary_size": V, "hidden": 6, "embedding": 5, "layers": 1} | changes)


MODELS = {
    **{cell: build(config(cell=cell)) for cell in CELLS},
    "stack": build(config(layers=3, cell="gru")),
    "dropout": build(config(layers=2, dropout=0.4)),
    "tied": build(config(embedding=6, tied=True)),
    "tied, projected": build(config(tied=True, dropout=0.3)),
    "last state": Graph([Embedding(V, 4), LSTM(5, return_sequences=True), GRU(6), Dense(V, "softmax")]),
    "on vectors": Graph([Dropout(0.2), SimpleRNN(6, return_sequences=True), Dense(V, "softmax")], features=3),
    "dense": Graph([Dense(8, "tanh"), Dense(8, "relu", use_bias=False), Dense(V, "softmax")], features=4),
    "softmax inside": Graph([Dense(6, "softmax"), Dense(6, "sigmoid"), Dense(V, "softmax", False)], features=4),
    "residual": Graph([Embedding(V, 5), Residual([Dense(4), LSTM(5, return_sequences=True)]), Residual(Dense(5, "tanh")), Dense(V, "softmax")]),
    "branches": Graph([Concat([Embedding(V, 3), [Embedding(V, 2), GRU(4, return_sequences=True)]]),
                       Concat([LSTM(3), [Dense(4, "relu"), Concat([SimpleRNN(2), GRU(2)])]]), Dense(V, "softmax")]),
    "sum": Graph([Embedding(V, 5), Add([LayerNormalization(), [Dense(5, "tanh"), Dense(5)], GRU(5, True)]), Dense(V, "softmax")]),
    "nested": Graph([Residual([Concat([Dense(1), LSTM(2, return_sequences=True)]), Residual(GRU(3, return_sequences=True))]), Dense(2, "sigmoid")], 3),
    "tied twice": Graph([Embedding(V, 5), LSTM(5, return_sequences=True), Dense(V, tied=True), Dense(5, "tanh"), Dense(V, "softmax", tied=True)]),
    "norms": Graph([Embedding(V, 6), LayerNormalization(), Residual([RMSNormalization(), FeedForward(12, "silu"), FeedForward(12, "relu", fold=True)]),
                    Highway("tanh"), Dense(6, "gelu_tanh"), Activation("gelu_sigmoid"), LayerNormalization(center=False), Dense(V, "softmax")]),
    "scans": Graph([Embedding(V, 5), QRNN(5, True), Recurrent(5, True, "sru"), QRNN(4, window=1), Dense(V, "softmax")]),
    "causal convolutions": Graph([Embedding(V, 4), Residual(Conv1D(4, 3, padding="causal", groups=2)), Conv1D(5, 2, padding="causal", dilation_rate=2,
                                  activation="tanh"), LSTM(4, return_sequences=True), Dense(V, "softmax")]),
    "convolutions": Graph([Conv1D(6, 2, padding="same", activation="sigmoid"), MaxPooling1D(2, 1, "same"), Conv1D(4, 3, 2, "causal"), GlobalAveragePooling1D(),
                           Dense(V, "softmax")], features=3),
    **({} if SIMULATED else {  # it would take minutes there: see test_attention
        "attention": Graph([Embedding(V, 4), PositionEmbedding(3), Residual(MultiHeadAttention(2, 2, use_causal_mask=True, window=3)),
                            Dense(V, "softmax")])}),
    "sigmoid head": Graph([LSTM(6, return_sequences=True), Dense(4, "sigmoid")], features=3),
    "sigmoid head on the last state": Graph([Embedding(V, 4), SimpleRNN(6, activation="relu"), Dense(3, "sigmoid")]),
}
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def draw_weights(model, random):
    return {name: floats(random, *shape) / 2 for name, shape in model.layout.items()}


def draw_batch(model, random, T, N, masked=True):
    """x and targets, some of which are -1 if ``masked``."""
    x = random.integers(0, V, (T, N)) if model.takes_ids else floats(random, T, N, model.features)
    rows = prod(model.output(x.shape)[:-1])
    if model.head.targets == "numbers":
        return x, random.integers(0, 2, (rows, model.head.symbols)).astype(np.float64)
    return x, random.integers(-1 if masked else 0, V, rows)


def train(ops, model, weights, x, targets, scale=1.0, key=0):
    """Losses, and gradients by name."""
    network = Network(model, ops, weights)
    losses = network.differentiate(ops.upload(x), ops.upload(targets), network.state(x.shape[1]), scale, key)
    gradients = {name: ops.download(array) for name, array in network.gradients.items()}
    return ops.download(losses), gradients


# Layers

LAYERS = {
    "embedding": Embedding(V, 5),
    "dropout": Dropout(0.4),
    **{f"dense, {activation}": Dense(5, activation) for activation in ACTIVATIONS},
    "dense without bias": Dense(5, use_bias=False),
    **{f"{cell}, sequences": Recurrent(6, return_sequences=True, cell=cell) for cell in CELLS},
    **{f"{cell}, last": Recurrent(6, cell=cell) for cell in ("tanh", "lstm", "sru")},
    "residual": Residual([Dense(4, "tanh"), Dropout(0.4), Dense(3)]),
    "valid convolution": Conv1D(5, 1, 2),
    "causal convolution": Conv1D(6, 3, padding="causal", dilation_rate=2, activation="tanh"),
    "centred convolution": Conv1D(6, 4, 2, "same", use_bias=False),
    "pooling": MaxPooling1D(3, 2, "same"),
    "means": AveragePooling1D(3, 1, "same"),
    "global maximum": GlobalMaxPooling1D(),
    "global mean": GlobalAveragePooling1D(),
    "flatten": Flatten(),
    "concat": Concat([Dense(2), [Dropout(0.3), LSTM(3, return_sequences=True)], Dropout(0.5)]),
}


every_layer = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)


def draw_case(layer, random, T, N, D):
    return Case(layer, (T, N) if layer.ids else (T, N, 3 if isinstance(layer, Residual) else D), random)


@every_layer
@given(random=strategies.generators, T=small, N=small, D=small)
def test_backward_of_a_layer_is_the_adjoint_of_forward(ops, layer, random, T, N, D):
    case, tolerance = draw_case(layer, random, T, N, D), TOLERANCE[ops.dtype.name]
    got, want = (case.forward(each, training=True, key=KEY) for each in (ops, COMPLEX))
    assert got["the output"].shape == layer.output(case.shape)
    assert_close(got, {name: array.real for name, array in want.items()}, tolerance)
    gradients(case, ops, tolerance)


@every_layer
@given(random=strategies.generators, T=small, N=small)
def test_gradients_are_set_or_added_to(ops, layer, random, T, N):
    """They are added to if another layer has written them in the same step."""
    adds(draw_case(layer, random, T, N, 3), ops, 10 * TOLERANCE[ops.dtype.name])


@pytest.mark.parametrize("name", [name for name in LAYERS if "sequences" not in name])  # test_cells checks these with their cells
def test_built_in_layers_pass_the_check(name):
    layers.check(LAYERS[name], 3 if name == "residual" else None)


def test_wrong_layers_are_refused():
    for make, message in (
        (lambda: Dense(0), "Dense: units is 0"),
        (lambda: Dense(3, "swish"), "Dense: activation is 'swish', expected one of None, 'linear'"),
        (lambda: Dropout(1), "Dropout: rate is 1"),
        (lambda: Embedding(0, 3), "Embedding: input_dim is 0"),
        (lambda: Embedding(3, 2.5), "Embedding: output_dim is 2.5"),
        (lambda: LSTM(-1), "LSTM: units is -1"),
        (lambda: GRU(3, return_sequences="yes"), "GRU: return_sequences is 'yes'"),
        (lambda: SimpleRNN(3, activation="selu"), "SimpleRNN: activation is 'selu'"),
        (lambda: Recurrent(3, cell="lstn"), "cell is 'lstn'"),
        (lambda: Residual([]), r"Residual: layers is empty, expected layers such as \[Dense\(64\)\]"),
        (lambda: Residual([Dense(3), 4]), "Residual: layers has 4, expected layers"),
        (lambda: Concat([]), "Concat: branches is empty"),
        (lambda: Concat([Dense(3), []]), r"branches\[1\] is empty"),
    ):
        with pytest.raises(ConfigError, match=message):
            make()


def test_wrong_inputs_of_layers_are_refused():
    for make, message in (
        (lambda: Graph([LSTM(3), LSTM(3)], features=2), "return_sequences=True"),
        (lambda: Graph([Dense(3), Embedding(3, 2)], features=2), "it can only be the first layer"),
        (lambda: Graph([Embedding(3, 2, input_length=5)]).output((4, 1)), "have 4 steps, expected input_length=5"),
        (lambda: Dense(3).output((2,)), "got an input with 1 axes"),
        (lambda: Residual(Dense(3)).output((4, 2, 5)), r"adds its input of \(steps, streams, 5\) to what its layers make of it, \(steps, streams, 3\)"),
        (lambda: Residual(LSTM(5)).output((4, 2, 5)), r"\(streams, 5\); expected the same shape"),
        (lambda: Residual(Embedding(3, 5)).output((4, 2)), "put the Embedding in front of it"),
        (lambda: Concat([LSTM(5), GRU(5, True)]).output((4, 2, 5)), "expected shapes that differ in their features only"),
        (lambda: Add([Dense(5), LSTM(3, True)]).output((4, 2, 5)), r"branches of an Add return \(steps, streams, 5\), \(steps, streams, 3\), expected equal shapes"),
        (lambda: FeedForward(12, fold=True).output((4, 2, 5)), "units is 12, expected a multiple of the 5 features of the input"),
        (lambda: Concat([Embedding(3, 5), Embedding(4, 5)]).output((4, 2)), "must all take vectors, or ids of one vocabulary"),
    ):
        with pytest.raises(ShapeError, match=message):
            make()


# Models


@every_model
@given(random=strategies.generators, T=small, N=small, scale=st.sampled_from([1.0, 0.25]))
def test_gradients_are_the_derivative_of_the_losses(ops, model, random, T, N, scale):
    weights, (x, targets) = draw_weights(model, random), draw_batch(model, random, T, N)
    directions = {name: floats(random, *array.shape) for name, array in weights.items()}
    moved = {name: weights[name] + 1j * STEP * directions[name] for name in weights}
    network = Network(model, COMPLEX, moved)
    want = network.differentiate(COMPLEX.upload(x), COMPLEX.upload(targets), network.state(N), scale, key=5)
    losses, gradients = train(ops, model, weights, x, targets, scale, key=5)
    tolerance = 2 * TOLERANCE[ops.dtype.name]
    assert error(losses, want.real) <= tolerance
    names = list(weights)
    assert_adjoint(
        np.array(scale), want.imag / STEP, [directions[name] for name in names], [gradients[name] for name in names],
        tolerance,
    )  # fmt: skip


@every_model
@given(random=strategies.generators, T=small, N=small)
def test_a_model_gives_the_same_bits_on_any_number_of_threads(cpu, model, random, T, N):
    weights, batch = draw_weights(model, random), draw_batch(model, random, T, N)
    (want_losses, want), *others = (
        train(backends.get("cpu", cpu.dtype, threads), model, weights, *batch) for threads in (1, 2, 3)
    )
    for losses, found in others:
        np.testing.assert_array_equal(losses, want_losses)
        assert_same_bits(found, want)


def streams_of(model, x, targets, some):
    """Select streams of a batch; the rows of targets are (T·N), or (N) if only the last state is used."""
    rows = targets.reshape(-1, x.shape[1], *targets.shape[1:])[:, some]
    return x[:, some], rows.reshape(-1, *targets.shape[1:])


@every_model
@given(random=strategies.generators, T=small, N=st.integers(2, 9))
def test_gradients_of_streams_add_up(cpu, model, random, T, N):
    if any(isinstance(layer, Dropout) for layer in model.layers):
        model = Graph([layer for layer in model.layers if not isinstance(layer, Dropout)], features=model.features)
    weights, (x, targets) = draw_weights(model, random), draw_batch(model, random, T, N)
    _, want = train(cpu, model, weights, x, targets)
    parts = [train(cpu, model, weights, *streams_of(model, x, targets, some))[1] for some in ([0], slice(1, None))]
    total = {name: parts[0][name] + parts[1][name] for name in want}
    assert_close(total, want, 2 * TOLERANCE[cpu.dtype.name])


@pytest.mark.parametrize("model", [model for model in MODELS.values() if model.chain.causal], ids=[name for name in MODELS if MODELS[name].chain.causal])
@given(random=strategies.generators, N=small, T=st.integers(2, 9), data=st.data())
def test_a_sequence_may_be_cut_into_segments(cpu, model, random, N, T, data):
    weights, (x, _) = draw_weights(model, random), draw_batch(model, random, T, N)
    network, x = Network(model, cpu, weights), cpu.upload(x)
    whole, state = network.state(N), network.state(N)
    want = network.predict(x, whole).copy()
    cut = data.draw(st.integers(1, T - 1))
    first = network.predict(x[:cut], state).copy()
    second = network.predict(x[cut:], state)
    if want.ndim == 3:
        np.testing.assert_array_equal(np.concatenate([first, second]), want)
    else:
        np.testing.assert_array_equal(second, want)
    np.testing.assert_array_equal(state.flat, whole.flat)


@every_model
@given(random=strategies.generators, N=small, T=small)
def test_losses_and_predictions_come_from_the_same_logits(ops, model, random, N, T):
    weights, (x, targets) = draw_weights(model, random), draw_batch(model, random, T, N)
    network, x, tolerance = Network(model, ops, weights), ops.upload(x), TOLERANCE[ops.dtype.name]
    out = ops.empty(model.output(x.shape))
    losses = ops.download(network.losses(x, ops.upload(targets), network.state(N), scores=out))
    logits = ops.download(out).astype(np.float64).reshape(-1, model.head.symbols)
    if model.head.targets == "numbers":
        want = (np.logaddexp(0, logits) - logits * targets).mean(-1)
    else:
        wanted = logits[np.arange(len(targets)), targets]
        want = np.where(targets >= 0, np.logaddexp.reduce(logits, -1) - wanted, 0)
    assert error(losses, want) <= tolerance
    ops.activate("softmax" if model.head.targets == "ids" else "sigmoid", out)
    assert error(ops.download(network.predict(x, network.state(N))), ops.download(out)) <= tolerance


@pytest.mark.parametrize("name", [*CELLS, "stack", "dropout", "tied", "tied, projected"])
@given(random=strategies.generators, N=small, T=small)
def test_scores_are_those_after_the_last_step(ops, name, random, N, T):
    model = MODELS[name]
    network, (x, _) = Network(model, ops, draw_weights(model, random)), draw_batch(model, random, T, N)
    x, state, other = ops.upload(x), network.state(N), network.state(N)
    logits = network.scores(x, state)
    assert logits.shape == (N, V)
    ops.activate("softmax", logits)
    want = ops.download(network.predict(x, other))[-1]
    assert error(ops.download(logits), want) <= TOLERANCE[ops.dtype.name]
    np.testing.assert_array_equal(ops.download(state.flat), ops.download(other.flat))


@pytest.mark.parametrize("name", ["lstm", "gru", "tied", "last state"])
@given(random=strategies.generators, N=small, T=small)
def test_targets_of_minus_one_have_no_gradient(cpu, name, random, N, T):
    model = MODELS[name]
    weights, (x, targets) = draw_weights(model, random), draw_batch(model, random, T, N, masked=False)
    some = random.random(targets.shape) < 0.5
    losses, want = train(cpu, model, weights, x, targets)
    parts = [train(cpu, model, weights, x, np.where(mask, targets, -1)) for mask in (some, ~some)]
    assert error(parts[0][0] + parts[1][0], losses) == 0
    assert not parts[0][0][~some].any()
    total = {key: parts[0][1][key] + parts[1][1][key] for key in want}
    assert_close(total, want, 2 * TOLERANCE[cpu.dtype.name])
    _, nothing = train(cpu, model, weights, x, np.full_like(targets, -1))
    assert not any(array.any() for array in nothing.values())


@pytest.mark.parametrize("hidden", [5, 6])  # without and with a projection
@given(random=strategies.generators, N=small, T=small)
def test_a_tied_matrix_is_one_matrix_used_twice(ops, hidden, random, N, T):
    tied = build(config(hidden=hidden, tied=True))
    head = tied.names[-1]
    untied = Graph([*tied.layers[:-1], Dense(V, "softmax")])
    assert f"{head}/W" not in tied.layout
    weights, (x, targets) = draw_weights(tied, random), draw_batch(tied, random, T, N)
    copied = weights | {f"{head}/W": weights["embedding/W"].T}
    losses, gradients = train(ops, tied, weights, x, targets)
    want_losses, want = train(ops, untied, copied, x, targets)
    want["embedding/W"] = want["embedding/W"] + want.pop(f"{head}/W").T
    assert error(losses, want_losses) <= TOLERANCE[ops.dtype.name]
    assert_close(gradients, want, TOLERANCE[ops.dtype.name])


# Projecting the table instead of the looked-up vectors


class Eager(Graph):
    """The same layers, but ids are always looked up before the projection."""

    def __init__(self, layers, features=None):
        super().__init__(layers, features)
        self.chain, self.body = (Chain(chain.layers, joins=False) for chain in (self.chain, self.body))


@pytest.mark.parametrize("name", [*CELLS, "stack", "last state", "sigmoid head on the last state"])
@given(random=strategies.generators, T=small, N=small, used=st.integers(1, V))
def test_projecting_the_table_changes_no_results(ops, name, random, T, N, used):
    late = MODELS[name]
    eager = Eager(late.layers)
    weights, (x, targets) = draw_weights(late, random), draw_batch(late, random, T, N)
    x %= used  # the other symbols get no gradient
    shapes = late.activations((T, N), "train")
    assert f"{late.names[1]}/table" in shapes if 2 * V <= T * N else "embedding/y" in shapes
    found = []
    for model in (late, eager):
        network = Network(model, ops, weights)
        here, wanted, state = ops.upload(x), ops.upload(targets), network.state(N)
        ops.copy(ops.upload(np.ones(state.flat.shape)), state.flat)
        forward = {"y": ops.download(network.predict(here, state)), "state": ops.download(state.flat)}
        forward["losses"] = ops.download(network.losses(here, wanted, state))
        backward = {}
        for time in ("first", "second"):  # the buffers must not carry anything over
            backward[f"{time} losses"] = ops.download(network.differentiate(here, wanted, network.state(N), 0.5, 0))
            backward |= {f"{time} {key}": ops.download(array) for key, array in network.gradients.items()}
        found.append((forward, backward))
    (forward, backward), (want_forward, want_backward) = found
    if ops.name == "reference":  # NumPy's products depend on the number of rows
        assert_close(forward, want_forward, TOLERANCE[ops.dtype.name])
    else:
        assert_same_bits(forward, want_forward)
    assert_close(backward, want_backward, TOLERANCE[ops.dtype.name])
    assert not backward["first embedding/W"][used:].any()


@given(random=strategies.generators, T=small, N=st.integers(2, 9))
def test_segments_with_and_without_a_projected_table_give_the_same_bits(cpu, random, T, N):
    """Short segments are looked up before the projection, long ones after it."""
    model = MODELS["lstm"]
    network = Network(model, cpu, draw_weights(model, random))
    x = cpu.upload(random.integers(0, V, (T + 2 * V, N)))
    whole, parts = network.state(N), network.state(N)
    want = network.predict(x, whole).copy()
    got = [network.predict(x[t : t + 1], parts).copy() for t in range(T)] + [network.predict(x[T:], parts).copy()]
    np.testing.assert_array_equal(np.concatenate(got), want)
    np.testing.assert_array_equal(parts.flat, whole.flat)


@pytest.mark.parametrize("name", ["tied", "tied, projected", "dropout", "on vectors", "dense"])
def test_models_that_do_not_project_the_table(name):
    model = MODELS[name]
    for mode in ("loss", "train"):
        shape = model.input(50, 50)
        assert dict(model.activations(shape, mode)) == dict(Eager(model.layers, model.features).activations(shape, mode))


@pytest.mark.parametrize("name", ["dropout", "tied, projected", "on vectors"])
@given(random=strategies.generators, key=strategies.keys)
def test_dropout_depends_on_the_key_and_only_happens_in_training(ops, name, random, key):
    model = MODELS[name]
    weights, (x, targets) = draw_weights(model, random), draw_batch(model, random, 5, 8, masked=False)
    one, same, other = (train(ops, model, weights, x, targets, key=each) for each in (key, key, key ^ 1))
    np.testing.assert_array_equal(one[0], same[0])
    assert_same_bits(one[1], same[1])
    assert (one[0] != other[0]).any()
    plain = Graph([layer for layer in model.layers if not isinstance(layer, Dropout)], features=model.features)
    losses = []
    for each in (model, plain):
        named = dict(zip(each.layout, weights.values(), strict=True))
        network = Network(each, ops, named)
        losses.append(ops.download(network.losses(ops.upload(x), ops.upload(targets), network.state(8))))
    np.testing.assert_array_equal(*losses)


@pytest.mark.parametrize("name", [*CELLS, "tied"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_non_finite_weight_makes_the_gradient_norm_non_finite(cpu, name, bad):
    model, random = MODELS[name], np.random.default_rng(0)
    weights, (x, targets) = draw_weights(model, random), draw_batch(model, random, 4, 5)
    for key, value in weights.items():
        if bad == np.inf and key.endswith("/b"):
            continue  # a unit with an infinite bias is always on
        broken = value.copy()
        broken.reshape(-1)[x[0, 0] * value.shape[-1] if key == "embedding/W" else 0] = bad
        network = Network(model, cpu, weights | {key: broken})
        with np.errstate(invalid="ignore"):
            network.differentiate(cpu.upload(x), cpu.upload(targets), network.state(5), 1.0, 0)
        assert not np.isfinite(cpu.norm(network.gradients.flat)), key


@given(key=strategies.keys)
def test_each_layer_draws_its_own_mask(ops, key):
    model = Graph([Embedding(V, 8), Dropout(0.5), Dropout(0.5), Dense(V, "softmax")])
    weights = {name: np.ones(shape) for name, shape in model.layout.items()}
    network = Network(model, ops, weights)
    x = ops.upload(np.arange(1000).reshape(20, 50) % V)
    network.differentiate(x, ops.upload(np.zeros(1000, np.int32)), network.state(50), 1.0, key)
    used = ops.download(network.gradients["dense/W"])[:, 0] / ops.download(network.gradients["dense/b"])[0]
    kept = used.mean() / 4  # a 1 that both layers keep becomes 4
    assert abs(kept - 0.25) <= 6 * np.sqrt(0.25 * 0.75 / 8000)


def test_gaps_between_gradients_stay_zero(ops):
    model, random = MODELS["lstm"], np.random.default_rng(0)
    network = Network(model, ops, draw_weights(model, random))
    x, targets = draw_batch(model, random, 4, 5)
    network.differentiate(ops.upload(x), ops.upload(targets), network.state(5), 1.0, 0)
    for arena in (network.gradients, network.parameters):
        used = np.zeros(model.layout.size, bool)
        for name, start in model.layout.offsets.items():
            used[start : start + prod(model.layout[name])] = True
        assert not ops.download(arena.flat)[~used].any()
        assert ops.download(arena.flat)[used].any()


@given(random=strategies.generators)
def test_passes_of_many_shapes_do_not_affect_each_other(cpu, random):
    model = MODELS["gru"]
    network = Network(model, cpu, draw_weights(model, random))
    batches = [draw_batch(model, random, T, N)[0] for T in (1, *range(3, 30)) for N in (1, 2, 3)]
    assert len(batches) > KEPT_PASSES
    want = [network.predict(cpu.upload(x), network.state(x.shape[1])).copy() for x in batches]
    for i in random.integers(0, len(batches), 30):
        x = cpu.upload(batches[i])
        np.testing.assert_array_equal(network.predict(x, network.state(x.shape[1])), want[i])


def test_with_the_compiler_off():
    run_python("""
import numpy as np
from numba_rnnlm import backends
from numba_rnnlm.config import ModelConfig
from numba_rnnlm.language_model.architecture import build, initial_weights
from numba_rnnlm.network import Network
config = ModelConfig(vocabulary_size=7, hidden=6, embedding=5, dropout=0.5)
model = build(config)
weights = initial_weights(model, config, 0)
x = np.random.default_rng(0).integers(0, 7, (4, 6))
gradients = []
for name in ("cpu", "reference"):
    ops = backends.get(name, np.float64)
    network = Network(model, ops, weights)
    network.differentiate(ops.upload(x), ops.upload(x.reshape(-1)), network.state(6), 1.0, 0)
    gradients.append(network.gradients.flat)
assert gradients[0].any()
np.testing.assert_allclose(*gradients, rtol=1e-10, atol=1e-14)
""", NUMBA_DISABLE_JIT="1", PYTHONWARNINGS="ignore")  # fmt: skip


def test_python_threads_do_not_affect_each_other(cpu):
    model, random = MODELS["stack"], np.random.default_rng(0)
    network = Network(model, cpu, draw_weights(model, random))
    batches = [cpu.upload(draw_batch(model, random, 9, 8)[0]) for _ in range(4)]
    want = [network.predict(x, network.state(8)).copy() for x in batches]

    def wrong(i):
        return [i for _ in range(50) if (network.predict(batches[i], network.state(8)) != want[i]).any()]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(wrong, range(4))) == [[]] * 4


# Models and networks: names, shapes, errors


@pytest.mark.parametrize("cell", CELLS)
@given(data=st.data())
def test_build(ops, cell, data):
    chosen = ModelConfig(
        cell=cell,
        hidden=data.draw(small),
        layers=data.draw(st.integers(1, 3)),
        embedding=data.draw(small),
        dropout=data.draw(st.sampled_from([0.0, 0.5])),
        tied=data.draw(st.booleans()),
        vocabulary_size=data.draw(st.integers(2, 70)),
        initializer=data.draw(st.sampled_from(["glorot", "uniform"])),
    )
    model = build(chosen)
    assert len(set(model.names)) == len(model.names)
    assert model.names.count(cell) == 1
    assert sum(isinstance(layer, Recurrent) for layer in model.layers) == chosen.layers
    assert sum(isinstance(layer, Dropout) for layer in model.layers) == (chosen.layers + 1) * (chosen.dropout > 0)
    network = Network(model, ops, initial_weights(model, chosen, 0))
    x = ops.upload(np.arange(6).reshape(2, 3) % chosen.vocabulary_size)
    p = ops.download(network.predict(x, network.state(3)))
    assert p.shape == model.output((2, 3)) == (2, 3, chosen.vocabulary_size)
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-5)


def test_repeated_names_are_numbered():
    model = Graph([LSTM(2, return_sequences=True), LSTM(2, return_sequences=True), GRU(2), Dense(2), Dense(2)], 3)
    assert model.names == ("lstm", "lstm_1", "gru", "dense", "dense_1")


@pytest.mark.parametrize("cell", CELLS)
def test_initial_weights(cell):
    chosen = ModelConfig(cell=cell, vocabulary_size=50, hidden=20, embedding=30, layers=2)
    model = build(chosen)
    weights, same, other = (initial_weights(model, chosen, seed) for seed in (1, 1, 2))
    assert {name: array.shape for name, array in weights.items()} == dict(model.layout)
    assert_same_bits(weights, same)
    assert (weights["embedding/W"] != other["embedding/W"]).all()
    assert 0.9 < abs(weights["dense/W"]).max() / np.sqrt(6 / (20 + 50)) <= 1
    assert not weights["dense/b"].any()
    for name in (cell, f"{cell}_1"):
        if (U := weights.get(f"{name}/U")) is not None:
            small, large = sorted(U.shape)
            product = U @ U.T if U.shape[0] == small else U.T @ U
            blocks = [U[:, i : i + 20] for i in range(0, large, 20)]
            orthogonal = [np.allclose(block.T @ block, np.eye(20)) for block in blocks]
            assert all(orthogonal) or np.allclose(product, np.eye(small))
        b = dict(zip(CELLS[cell].gates, weights[f"{name}/b"], strict=True))
        assert all((bias == (slot == "f")).all() for slot, bias in b.items())


def test_initial_embedding():
    weights = Embedding(50, 30).initialize((0, 1), np.random.default_rng(0))
    assert 0.049 < abs(weights["W"]).max() <= 0.05
    for tied, deviation in ((False, 1.0), (True, 0.1)):
        weights = build(config(vocabulary_size=50, embedding=30, tied=tied)).initialize(0)
        assert weights["embedding/W"].std() == pytest.approx(deviation, rel=0.1)


def test_uniform_initial_weights():
    chosen = config(initializer="uniform", initializer_scale=0.25, hidden=64)
    weights = initial_weights(build(chosen), chosen, 0)
    largest = {name: abs(array).max() for name, array in weights.items() if array.size > 100}
    assert all(0.2 < value <= 0.25 for value in largest.values())
    assert len(largest) == 4


def test_wrong_models_are_refused():
    for make, message in (
        (lambda: Graph([]), "the model has no layers"),
        (lambda: Graph([Dense(3)]), "size of the input vectors"),
        (lambda: Graph([LSTM(4), Dense(3, tied=True)], features=4), r"needs an Embedding\(3, 4\) as the first layer"),
        (lambda: Graph([Embedding(9, 4), LSTM(4), Dense(8, tied=True)]), r"needs an Embedding\(8, 4\)"),
        (lambda: Graph([Embedding(9, 4), LSTM(5), Dense(9, tied=True)]), r"needs an Embedding\(9, 5\)"),
        (lambda: Graph([Embedding(9, 4), LSTM(5)]).head, r"the last layer is LSTM\(.*; to train, end the model"),
        (lambda: Graph([Dense(3, "relu")], features=2).head, r"the last layer is Dense\(units=3, activation='relu', .*\); to train"),
        (lambda: build(ModelConfig()), "vocabulary_size is not known"),
    ):
        with pytest.raises(ConfigError, match=message):
            make()


def test_wrong_weights_are_refused(ops):
    model = MODELS["lstm"]
    weights = draw_weights(model, np.random.default_rng(0))
    network = Network(model, ops, weights)
    for wrong, message in (
        ({name: array for name, array in weights.items() if name != "lstm/U"}, "see 'lstm/U'"),
        (weights | {"lstm/V": np.zeros(3)}, "see 'lstm/V'"),
        (weights | {"lstm/b": np.zeros((3, 6))}, r"weight 'lstm/b' is \(3, 6\), expected \(4, 6\)"),
        (weights | {"lstm/b": np.zeros(24)}, r"weight 'lstm/b' is \(24,\), expected \(4, 6\)"),
    ):
        with pytest.raises(ShapeError, match=message):
            network.set_weights(wrong)
        with pytest.raises(ShapeError, match=message):
            Network(model, ops, wrong)
    assert_close(network.weights(), weights, 0)  # unchanged


@every_model
def test_weights_and_a_fresh_state(ops, model):
    weights = draw_weights(model, np.random.default_rng(0))
    network = Network(model, ops, weights)
    assert_close(network.weights(), weights, 0)
    for array in network.weights().values():
        array += 1  # a copy
    assert_close(network.weights(), weights, 0)
    state = network.state(3)
    assert all(array.shape[0] == 3 for array in state.values())
    assert not ops.download(state.flat).any()


def test_keras_names_are_the_layers():
    assert set(layers.__all__) >= {"Dense", "Dropout", "Embedding", "GRU", "LSTM", "SimpleRNN"}
    assert [SimpleRNN(3).cell, LSTM(3).cell, GRU(3).cell] == ["tanh", "lstm", "gru"]


# Layouts and arenas

names = st.lists(st.from_regex(r"[a-z]{1,3}(_1)?/[a-zA-Z]{1,2}", fullmatch=True), unique=True, max_size=8)
shapes = st.lists(st.integers(0, 9), max_size=3).map(tuple)
tables = names.flatmap(lambda keys: st.fixed_dictionaries(dict.fromkeys(keys, shapes)))


@given(tables)
def test_arrays_of_an_arena_are_aligned_and_do_not_overlap(table):
    layout = Layout(table)
    assert dict(layout) == table
    assert len(layout) == len(table)
    assert all(start % ALIGNMENT == 0 for start in (*layout.offsets.values(), layout.size))
    arena = Arena(layout, np.zeros(layout.size))
    assert list(arena) == list(table)
    for array in arena.values():
        array += 1
    for name, array in arena.items():
        assert array.shape == table[name]
        assert (array == 1).all()  # no other array overlaps it
        assert np.shares_memory(array, arena.flat) == (array.size > 0)
    assert arena.flat.sum() == sum(prod(shape) for shape in table.values())


@given(tables)
def test_scope(table):
    arena = Arena(layout := Layout(table), np.zeros(layout.size))
    for prefix in {name.split("/")[0] for name in table} | {"", "zzzz"}:
        scope = arena.scope(prefix)
        assert {f"{prefix}/{short}" for short in scope} == {name for name in table if name.split("/")[0] == prefix}
        assert all(array is arena[f"{prefix}/{short}"] for short, array in scope.items())
