"""Layers of self-attention: their contract, Keras's and PyTorch's numbers, streams, and errors."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from checks import TOLERANCE, assert_close, error
from hypothesis import given
from hypothesis import strategies as st
from strategies import floats, generators

from numba_rnnlm import LanguageModel, Sequential, backends, layers
from numba_rnnlm.backends import SIMULATED
from numba_rnnlm.backends.ops import Ops
from numba_rnnlm.checking.cases import Case
from numba_rnnlm.errors import ConfigError, ShapeError
from numba_rnnlm.formats.keras import from_keras, to_keras
from numba_rnnlm.layers import (
    LSTM,
    AdditiveAttention,
    Attention,
    AttentionPooling,
    Dense,
    Embedding,
    LayerNormalization,
    MultiHeadAttention,
    PositionEmbedding,
    Residual,
    SingleHeadAttention,
    SinusoidalPosition,
)
from numba_rnnlm.layers.layer import Run
from numba_rnnlm.network import Graph, Network

V, WINDOW = 5, 4

STREAMING = {
    "heads": MultiHeadAttention(2, 3, use_causal_mask=True, window=WINDOW),
    "rotary": MultiHeadAttention(2, 4, 3, 0.2, False, rotary=True, use_causal_mask=True, window=9),
    "one step": MultiHeadAttention(1, 2, use_causal_mask=True, window=1),
    "single": SingleHeadAttention(window=WINDOW, dropout=0.1),
    "dot": Attention(use_causal_mask=True, window=3),
    "scaled": Attention(True, use_causal_mask=True, window=3),
    "concat": Attention(True, "concat", use_causal_mask=True, window=WINDOW, dropout=0.2),
    "additive": AdditiveAttention(False, use_causal_mask=True, window=WINDOW),
    "pooling": AttentionPooling(return_sequences=True),
    "learned positions": PositionEmbedding(15),
    "sinusoids": SinusoidalPosition(100, longest=25),
}
OTHERS = {
    "heads": MultiHeadAttention(2, 3, 5, dropout=0.3),
    "rotary": MultiHeadAttention(1, 4, rotary=True, use_causal_mask=True),
    "single": SingleHeadAttention(),
    "dot": Attention(dropout=0.2),
    "scaled": Attention(True, use_causal_mask=True),
    "concat": Attention(score_mode="concat"),
    "additive": AdditiveAttention(),
    "pooling": AttentionPooling(),
}
EVERY = {f"{name}, streaming": layer for name, layer in STREAMING.items()} | OTHERS


@pytest.mark.parametrize("layer", EVERY.values(), ids=EVERY)
def test_every_layer_passes_the_checks(layer):
    if SIMULATED:  # there, the checks of test_backends are enough
        return
    products = isinstance(layer, Attention) and layer.use_scale and layer.score_mode == "dot"
    # With many features each step sees hardly any step but itself, and what is left of the gradient of ``scale``, one number, are rounding errors.
    layers.check(layer, features=4 if products else None)


@pytest.mark.parametrize("name", ["heads", "single", "concat", "pooling"])
def test_every_backend_computes_the_same(compiled, name):
    """With a carried state, dropout and rotation, also on the simulator, where the checks of layers take too long."""
    layer = {"heads": MultiHeadAttention(2, 2, 3, 0.3, rotary=True, use_causal_mask=True, window=3), "single": SingleHeadAttention(window=4),
             "concat": Attention(True, "concat", use_causal_mask=True, window=3), "pooling": AttentionPooling(True)}[name]
    case = Case(layer, (3, 2, 4), np.random.default_rng(7))
    assert_close(case.backward(compiled), case.backward(backends.get("reference")), TOLERANCE[compiled.dtype.name])


# Other libraries

GOLDEN = {
    "keras": MultiHeadAttention(2, 4, 3),
    "keras_causal": MultiHeadAttention(2, 4, 3, use_bias=False, use_causal_mask=True),
    "keras_window": MultiHeadAttention(2, 4, 3, use_causal_mask=True, window=3),
    "attention": Attention(),
    "additive": AdditiveAttention(),
    "additive_causal": AdditiveAttention(use_causal_mask=True),
    "torch": MultiHeadAttention(2, 3),
    "torch_causal": MultiHeadAttention(2, 3, use_causal_mask=True),
    "scaled": Attention(True),
    "scaled_causal": Attention(True, use_causal_mask=True),
    "concat": Attention(score_mode="concat"),
    "scaled_concat_causal": Attention(True, "concat", use_causal_mask=True),
}
LIMITS = {"float64": 1e-12, "float32": 5e-6}


def recorded(case: str) -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "data" / "golden_attention.npz", allow_pickle=False) as file:
        return {key.removeprefix(f"{case}/"): file[key] for key in file if key.startswith(f"{case}/")}


def numbered(golden: dict[str, np.ndarray], name: str) -> list[np.ndarray]:
    return [golden[f"{name}/{index}"] for index in range(sum(key.startswith(name) for key in golden))]


@pytest.mark.parametrize(("backend", "dtype"), [("reference", np.float64), ("cpu", np.float64), ("cpu", np.float32)])
@pytest.mark.parametrize("case", GOLDEN)
def test_keras_and_pytorch_compute_the_same(case, backend, dtype):
    ops, layer, golden = backends.get(backend, dtype), GOLDEN[case], recorded(case)
    shape = golden["x"].shape
    weights = from_keras(layer, layer.parameters(shape), numbered(golden, "weights"))
    run = Run({name: ops.upload(array) for name, array in weights.items()}, {name: ops.empty(array.shape) for name, array in weights.items()},
              {name: ops.empty(size) for name, size in layer.activations(shape, True).items()})  # fmt: skip
    run.m, run.key = {name: ops.upload(np.zeros(size)) for name, size in layer.state(shape).items()}, 0
    x = ops.upload(golden["x"])
    got = {"y": ops.download(layer.forward(ops, run, x)), "dx": ops.download(layer.backward(ops, run, x, ops.upload(golden["dy"])))}
    for name, array in got.items():
        assert error(array, golden[name]) <= LIMITS[ops.dtype.name], name
    gradients = to_keras(layer, {name: ops.download(array) for name, array in run.g.items()})
    for index, (found, wanted) in enumerate(zip(gradients, numbered(golden, "gradients"), strict=True)):
        assert error(found, wanted) <= LIMITS[ops.dtype.name], index


def test_weights_have_kerass_shapes_in_kerass_order():
    model = Sequential([MultiHeadAttention(2, 4, 3, input_shape=(None, 6)), Attention(True, "concat"), AttentionPooling(), Dense(1, "sigmoid")])
    weights = model.get_weights()
    assert [array.shape for array in weights[:10]] == [(6, 2, 4), (2, 4), (6, 2, 4), (2, 4), (6, 2, 3), (2, 3), (2, 3, 6), (6,), (), ()]
    assert weights[8:10] == [1, 1]
    model.set_weights([array + 1 for array in weights])
    for got, start in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(got, start + 1)


# Streams


def network(ops: Ops, layer, random: np.random.Generator) -> Network:
    graph = Graph([Embedding(V, 5), Residual([LayerNormalization(), layer]), Dense(V, "softmax")])
    return Network(graph, ops, {name: floats(random, *shape) / 2 for name, shape in graph.layout.items()})


@pytest.mark.parametrize("layer", STREAMING.values(), ids=STREAMING)
@given(random=generators, cuts=st.lists(st.integers(0, 30), max_size=4))
def test_a_stream_in_pieces_is_the_stream_at_once(cpu, layer, random, cuts):
    """Also if its streams have read different numbers of steps before."""
    own, ids = network(cpu, layer, random), random.integers(0, V, (30, 3))
    older, younger = own.state(3), own.state(3)
    own.read(cpu.upload(ids[:7]), older)
    own.read(cpu.upload(ids[:2]), younger)
    start = older.copy()
    for name, array in start.items():  # the second stream has read less than the others
        cpu.copy(younger[name][1:2], array[1:2])
    whole = start.copy()
    want = cpu.download(own.predict(cpu.upload(ids), whole))
    borders = sorted({0, len(ids), *(cut for cut in cuts if cut < len(ids))})
    got = [cpu.download(own.predict(cpu.upload(ids[first:last]), start)) for first, last in pairwise(borders)]
    assert error(np.concatenate(got), want) <= TOLERANCE[cpu.dtype.name]
    assert error(cpu.download(start.flat), cpu.download(whole.flat)) <= TOLERANCE[cpu.dtype.name]


@given(random=generators, size=st.sampled_from([1e-3, 1, 100]), cuts=st.lists(st.integers(1, 39), max_size=6))
def test_pooling_gives_the_mean_of_all_steps_so_far(cpu, random, size, cuts):
    """However a stream is cut, however large and far from each other its scores are, and if all of them are far below zero."""
    layer, (T, N, D), shift = AttentionPooling(return_sequences=True), (40, 3, 5), size * random.choice([-5, 0, 5])
    W, x = floats(random, D, 1), floats(random, T, N, D)
    x += (size * floats(random, T, N, 1) + shift - x @ W) * W.T / (W**2).sum()  # scores of this size
    x = x.astype(cpu.dtype).astype(float)
    scores = x @ W
    weights = [np.exp(scores[: t + 1] - scores[: t + 1].max(0)) for t in range(T)]
    want = np.stack([(w * x[: t + 1]).sum(0) / w.sum(0) for t, w in enumerate(weights)])
    state = {name: cpu.upload(np.zeros(shape)) for name, shape in layer.state(x.shape).items()}
    got = []
    for first, last in pairwise(sorted({0, T, *cuts})):
        piece = x[first:last]
        run = Run({"W": cpu.upload(W)}, {}, {name: cpu.empty(shape) for name, shape in layer.activations(piece.shape, False).items()})
        run.m = state
        got.append(cpu.download(layer.forward(cpu, run, cpu.upload(piece))))
    assert error(np.concatenate(got), want) <= TOLERANCE[cpu.dtype.name]


def test_what_a_window_forgets_does_not_matter(cpu):
    random = np.random.default_rng(5)
    own, ids = network(cpu, STREAMING["heads"], random), random.integers(0, V, (20, 2))
    state, fresh = own.state(2), own.state(2)
    own.read(cpu.upload(ids[: -WINDOW]), state)
    late = [own.predict(cpu.upload(ids[-WINDOW:]), each).copy()[-1] for each in (state, fresh)]
    assert error(*late) <= TOLERANCE[cpu.dtype.name]
    assert error(*(own.predict(cpu.upload(ids[-1:]), each).copy()[-1] for each in (own.state(2), state))) > 1e-3


def test_sinusoids_are_those_of_the_paper(ops):
    x, layer = np.zeros((8, 2, 6)), SinusoidalPosition()
    run = Run({}, {}, {name: ops.empty(size) for name, size in layer.activations(x.shape, False).items()})
    run.m = {"read": ops.upload(np.array([0.0, 3.0]))}
    y = ops.download(layer.forward(ops, run, ops.upload(x)))
    for n, start in enumerate((0, 3)):
        for t, i in np.ndindex(8, 3):
            angle = (start + t) / 10_000 ** (2 * i / 6)
            assert error(y[t, n, 2 * i : 2 * i + 2], [np.sin(angle), np.cos(angle)]) <= TOLERANCE[ops.dtype.name]
    np.testing.assert_array_equal(ops.download(run.m["read"]), [8, 11])


def test_generation_equals_forward_passes():
    model = LanguageModel(embedding=8, body=[LSTM(8, return_sequences=True), Residual([LayerNormalization(), SingleHeadAttention(window=9)]),
                                             Residual(MultiHeadAttention(2, 4, rotary=True, use_causal_mask=True, window=5)),
                                             Residual(AttentionPooling(return_sequences=True))], threads=1)  # fmt: skip
    model.fit("abcab bca cab\n" * 50, epochs=1, streams=2, steps=10, verbose=0)
    got = model.generate("ab", length=60, temperature=0)
    text = "ab"
    for _ in range(60):
        text += model.next_token(model.read(text), k=1)[0][0]
    assert got == text.removeprefix("ab")


# Numbers


@pytest.mark.parametrize("scale", [1e-3, 1, 30])
def test_large_scores_do_not_overflow(cpu, scale):
    random = np.random.default_rng(0)
    q, k, v = (cpu.upload(scale * floats(random, 200, 2, 6)) for _ in range(3))
    out, sums = cpu.empty((200, 2, 6)), cpu.empty((200, 2, 2))
    cpu.attend(q, k, v, out, sums, 2, 1.0, True)
    assert np.isfinite(out).all() and np.isfinite(sums).all()
    np.testing.assert_array_equal(out[0], v[0])  # the first query sees one key


def test_a_query_that_sees_nothing_gives_zeros(ops):
    random = np.random.default_rng(0)
    q, k, v, dout = (ops.upload(floats(random, steps, 2, 4)) for steps in (5, 2, 2, 5))
    out, sums, dq, dk, dv = ops.empty((5, 2, 4)), ops.empty((5, 2, 1)), ops.empty((5, 2, 4)), ops.empty((2, 2, 4)), ops.empty((2, 2, 4))
    ops.attend(q, k, v, out, sums, causal=True)
    ops.attend_backward(q, k, v, out, sums, dout, dq, dk, dv, causal=True)
    assert not ops.download(out)[:3].any() and not ops.download(dq)[:3].any()
    assert ops.download(out)[3:].all() and ops.download(dk).all()


# Errors


@pytest.mark.parametrize(("make", "message"), [
    (lambda: MultiHeadAttention(2, 4, use_causal_mask=True, window=0), "MultiHeadAttention: window is 0, expected a whole number of at least 1"),
    (lambda: SingleHeadAttention(window=2**24 + 1), "SingleHeadAttention: window is 16777217, expected .* at most 16,777,216"),
    (lambda: Attention(window=5), "Attention: window is 5, but without use_causal_mask=True every step sees the whole sequence; give both or neither"),
    (lambda: MultiHeadAttention(2, 3, rotary=True), "key_dim is 3, expected an even number, because rotary=True rotates pairs"),
    (lambda: PositionEmbedding(0), "PositionEmbedding: sequence_length is 0"), (lambda: SinusoidalPosition(longest=0), "SinusoidalPosition: longest is 0"),
    (lambda: MultiHeadAttention(0, 3), "num_heads is 0"), (lambda: MultiHeadAttention(2, 3, dropout=1.0), "dropout is 1.0"),
    (lambda: MultiHeadAttention(2, 3, output_shape=5), "put a Dense layer behind it"),
    (lambda: MultiHeadAttention(2, 3, use_causal_mask=True, sliding_window=5),
     r"MultiHeadAttention has no argument 'sliding_window'; did you mean 'window'\?"),
    (lambda: Attention(use_scale=2), "Attention: use_scale is 2, expected one of True, False"),
    (lambda: Attention(score_mode="add"), "Attention: score_mode is 'add', expected one of 'dot', 'concat'"),
    (lambda: LanguageModel(body=[MultiHeadAttention(2, 4)]), r"sees later steps, .* give it use_causal_mask=True and a window, as in window=128\."),
    (lambda: LanguageModel(body=[Residual(MultiHeadAttention(2, 4, use_causal_mask=True))]),
     r"Residual\(.*sees all earlier steps, more than a stream can carry; say how many it is to see, as in window=128\."),
    (lambda: LanguageModel(body=[AttentionPooling()]), "gives one vector for the whole sequence; return_sequences=True gives the mean of the steps so far"),
    (lambda: AttentionPooling(return_sequences="yes"), "AttentionPooling: return_sequences is 'yes', expected one of True, False"),
])  # fmt: skip
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("layer", [MultiHeadAttention(2, 4), AttentionPooling(), PositionEmbedding(5)], ids=repr)
def test_vectors_that_are_no_sequence_are_refused(layer):
    with pytest.raises(ShapeError, match=r"takes sequences of vectors, got an input with 2 axes; .* return_sequences=True"):
        Sequential([LSTM(4, input_dim=3), layer, Dense(1, "sigmoid")]).build()
