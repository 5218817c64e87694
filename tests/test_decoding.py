"""The CPU decoder gives bit-identical results to the network's verbs; with int8, to those of the network with rounded weights."""

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import needs
import numpy as np
import pytest
import strategies
from checks import HANG, run_python
from hypothesis import given
from hypothesis import strategies as st
from models import trained, untrained
from own_cells import IND_RNN, PEEPHOLE
from own_layers import Trace
from strategies import floats

from numba_rnnlm import backends
from numba_rnnlm.backends.cpu import decoding
from numba_rnnlm.backends.cpu.threads import Pool
from numba_rnnlm.backends.ops import Choice, Streams
from numba_rnnlm.config import SamplingConfig
from numba_rnnlm.decoding import generate, generate_batch, verbs, write
from numba_rnnlm.decoding.choice import uniform
from numba_rnnlm.errors import BackendError
from numba_rnnlm.layers import (
    GRU,
    LSTM,
    QRNN,
    Activation,
    Add,
    AdditiveAttention,
    Attention,
    AttentionPooling,
    Concat,
    Conv1D,
    Dense,
    Dropout,
    Embedding,
    FeedForward,
    Highway,
    Layer,
    LayerNormalization,
    MultiHeadAttention,
    PositionEmbedding,
    Recurrent,
    Residual,
    RMSNormalization,
    SimpleRNN,
    SingleHeadAttention,
    SinusoidalPosition,
    heads,
)
from numba_rnnlm.network import Graph, Network
from numba_rnnlm.optimizers import SGD
from numba_rnnlm.training.updater import Updater

pytestmark = pytest.mark.usefixtures("every_thread", "all_share")

KINDS = ("float32", "int8")
kinds_of_cells = pytest.mark.parametrize("cell", ["tanh", "lstm", "gru", "mingru", "sru"])  # the decoder compiles for 2 s with each
some_cells = pytest.mark.parametrize("cell", ["tanh", "lstm", "gru"])  # with different slots for input and state
every_kind = pytest.mark.parametrize("kind", KINDS)

units = st.integers(1, 140)  # from fewer units than threads to several blocks of units per thread
streams = st.integers(1, 9)
draws = st.fixed_dictionaries({
    "temperature": st.sampled_from([0.0, 0.5, 1.0, 3.0]), "top_k": st.integers(0, 5), "top_p": st.sampled_from([0.7, 1.0]),
})  # fmt: skip


FOREVER = HANG * 10**9  # nanoseconds


@pytest.fixture(scope="module")
def all_share():
    """Share even the smallest model among all threads from the first symbol on, even if that is slower."""
    with patched(decoding, BYTES=1, WORK=1, WARM=0, SHORT=0, READY=(FOREVER, FOREVER), PATIENCE=FOREVER, CAUTION=0):
        yield


@contextmanager
def patched(module, **values):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setattr(module, name, value)
        yield


def looked_up(model, yes):
    """Choose whether the first layer's projections are precomputed."""
    return patched(decoding, TABLE_ROWS=model.layers[0].input_dim - (not yes))


@st.composite
def models(draw, cell, tied=None):
    """Draw any stack that a decoder supports."""
    V, D = draw(st.integers(2, 70)), draw(st.integers(1, 40))
    tied = draw(st.booleans()) if tied is None else tied
    sizes = st.just(D) | units
    layers = [Embedding(V, D)]
    if draw(st.integers(0, 4)) == 0:
        layers.append(Dense(draw(sizes)))
    for _ in range(draw(st.integers(1, 3))):
        layers += [Dropout(0.5)] * draw(st.integers(0, 1)) + [Recurrent(draw(sizes), True, cell)]
    if (tied and layers[-1].units != D) or draw(st.integers(0, 4)) == 0:
        layers.append(Dense(D, draw(st.sampled_from([None, "linear"])), draw(st.booleans())))
    return Graph([*layers, Dense(V, "softmax", draw(st.booleans()), tied=tied)])


def draw_weights(model, random):
    return {name: floats(random, *shape) / np.sqrt(shape[0]) for name, shape in model.layout.items()}


def network_of(model, weights, threads=1):
    return Network(model, backends.get("cpu", threads=threads), weights)


def draw_streams(network, count, random, symbols=None):
    """Streams in any states, or at the beginning of a text."""
    state = {name: (floats(random, *array.shape) / 2).astype(np.float32) for name, array in network.state(count).items()}
    state |= {name: random.integers(0, 400, array.shape).astype(np.float32) for name, array in state.items() if name.endswith(("/held", "/read"))}
    ids = random.integers(0, symbols or network.graph.layers[0].input_dim, count).astype(np.int32)
    return Streams(random.choice([state, {}]), ids, 7 + np.arange(count))


def draw_choice(data, vocabulary):
    banned = data.draw(st.sets(st.integers(0, vocabulary - 1), max_size=min(2, vocabulary - 1)))
    return Choice(**data.draw(draws), banned=np.array(sorted(banned), np.int64))


def some_seeds(count):
    return np.arange(count, dtype=np.uint64)


def assert_same_streams(got, want, tolerance=0):
    np.testing.assert_array_equal(got.ids, want.ids, strict=True)
    np.testing.assert_array_equal(got.positions, want.positions, strict=True)
    assert got.state.keys() == want.state.keys()
    for name in want.state:
        np.testing.assert_allclose(got.state[name], want.state[name], rtol=0, atol=tolerance, strict=True)


# The verbs


@kinds_of_cells
@given(data=st.data(), random=strategies.generators, threads=strategies.threads, N=streams, T=st.integers(1, 9))
def test_generated_ids_and_state_equal_those_of_the_verbs(cell, data, random, threads, N, T):
    model = data.draw(models(cell))
    V = model.layers[0].input_dim
    network = network_of(model, draw_weights(model, random), threads)
    streams, choice, seeds = draw_streams(network, N, random), draw_choice(data, V), random.integers(0, 2**64, N, np.uint64)
    given = np.where(random.random((T, N)) < 0.5, -1, random.integers(0, V, (T, N))).astype(np.int32)

    expected = verbs.Decoder(network).start(streams)
    want = [(expected.draw(row[np.newaxis], choice, seeds)[0], expected.streams(), expected.scores().copy()) for row in given]
    with looked_up(model, data.draw(st.booleans())), patched(decoding, BYTES=data.draw(st.sampled_from([1, 2**60]))):
        decoder = network.decoder("float32")
        assert isinstance(decoder, decoding.Decoder) and decoder.exact
        cuts = sorted(data.draw(st.sets(st.integers(1, T), max_size=3)) | {T})
        start, going = 0, decoder.start(streams)
        for cut in cuts:
            written = going.draw(given[start:cut], choice, seeds)
            np.testing.assert_array_equal(written, np.stack([ids for ids, _, _ in want[start:cut]]))
            assert_same_streams(going.streams(), want[cut - 1][1])
            if data.draw(st.booleans()):
                np.testing.assert_array_equal(going.scores(), want[cut - 1][2], strict=True)
                assert_same_streams(going.streams(), want[cut - 1][1])
            start = cut
        whole = decoder.start(streams).draw(given, choice, seeds)
    np.testing.assert_array_equal(whole, np.stack([ids for ids, _, _ in want]))


@every_kind
@some_cells
@given(data=st.data(), random=strategies.generators, threads=strategies.threads, N=streams)
def test_streams_may_be_taken_anywhere(cell, kind, data, random, threads, N):
    """Also with more or fewer threads than before, which have other blocks of units; known scores are kept."""
    model = data.draw(models(cell))
    V = model.layers[0].input_dim
    network = network_of(model, draw_weights(model, random), threads)
    with looked_up(model, data.draw(st.booleans())), patched(decoding, BYTES=2**60, WORK=data.draw(st.sampled_from([1, 2**60]))):
        going = network.decoder(kind).start(draw_streams(network, N, random))
        for _ in range(3):
            nothing = np.full((2, len(going.ids)), -1, np.int32)
            going.draw(nothing[: data.draw(st.integers(0, 2))], Choice(), some_seeds(len(going.ids)))
            wanted, rows = network.decoder(kind).start(going.streams()), random.integers(0, len(going.ids), data.draw(streams))
            if data.draw(st.booleans()):
                going.scores()
                going.draw(nothing[:0], Choice(), some_seeds(len(going.ids)))
            going.take(rows)
            np.testing.assert_array_equal(going.streams().ids, wanted.streams().ids[rows])
            np.testing.assert_array_equal(going.scores(), wanted.scores()[rows])
            ids = random.integers(0, V, (2, len(rows))).astype(np.int32)
            going.read(ids)
            wanted = network.decoder(kind).start(wanted.streams().take(rows))
            wanted.read(ids)
            assert_same_streams(going.streams(), wanted.streams())


@kinds_of_cells
@given(data=st.data(), random=strategies.generators, threads=strategies.threads)
def test_a_prompt_is_read_like_by_the_verbs(cell, data, random, threads):
    model = data.draw(models(cell))
    V = model.layers[0].input_dim
    network = network_of(model, draw_weights(model, random), threads)
    prompts = [random.integers(0, V, size) for size in random.integers(1, 9, data.draw(streams))]
    config = SamplingConfig(length=data.draw(st.integers(0, 9)), temperature=0)
    seeds = range(len(prompts))
    with looked_up(model, data.draw(st.booleans())), patched(verbs, STEPS=data.draw(st.integers(1, 9))):
        got = generate_batch(network, prompts, config, seeds)
    with patched(backends.cpu.Backend, decoder=lambda *arguments: None):
        want = generate_batch(network_of(model, network.weights()), prompts, config, seeds)
    assert [ids.tolist() for ids in got] == [ids.tolist() for ids in want]


@pytest.mark.parametrize(("symbols", "yes"), [(decoding.TABLE_ROWS, True), (decoding.TABLE_ROWS + 1, False)])
def test_projections_are_precomputed_for_small_vocabularies_only(symbols, yes):
    model = Graph([Embedding(symbols, 3), LSTM(2, return_sequences=True), Dense(symbols, "softmax")])
    network = network_of(model, draw_weights(model, np.random.default_rng(0)))
    assert (network.decoder("float32").table.size > 0) == yes
    prompt, config = np.array([symbols - 1, 0]), SamplingConfig(length=5)
    written = [*prompt, *generate(network, prompt, config, seed=1)]
    with patched(backends.cpu.Backend, decoder=lambda *arguments: None):
        assert written == [*prompt, *generate(network_of(model, network.weights()), prompt, config, seed=1)]


# One text


@every_kind
@some_cells
@given(data=st.data(), random=strategies.generators, threads=strategies.threads)
def test_each_stream_is_independent_of_the_others(cell, kind, data, random, threads):
    model = data.draw(models(cell))
    V = model.layers[0].input_dim
    network = network_of(model, draw_weights(model, random), threads)
    prompts = [random.integers(0, V, size) for size in random.integers(1, 9, data.draw(streams))]
    config = SamplingConfig(length=data.draw(st.integers(0, 9)), weights=kind, **data.draw(draws))
    seeds, banned = random.integers(0, 2**63, len(prompts)).tolist(), draw_choice(data, V).banned
    with looked_up(model, data.draw(st.booleans())):
        together = generate_batch(network, prompts, config, seeds, banned)
        alone = [list(generate(network, prompt, config, seed, banned)) for prompt, seed in zip(prompts, seeds, strict=True)]
    assert [ids.tolist() for ids in together] == alone
    assert {len(ids) for ids in alone} == {config.length}
    assert not set(banned).intersection(*alone)


@every_kind
@some_cells
@given(data=st.data(), random=strategies.generators, threads=strategies.threads, lengths=st.tuples(*[st.integers(0, 9)] * 2))
def test_generating_in_two_calls_gives_the_same_ids(cell, kind, data, random, threads, lengths):
    model, chosen = data.draw(models(cell)), data.draw(draws)
    network = network_of(model, draw_weights(model, random), threads)
    text = random.integers(0, model.layers[0].input_dim, data.draw(st.integers(1, 9))).tolist()

    def resume(text, length):
        config = SamplingConfig(length=length, weights=kind, **chosen)
        return [*text, *generate(network, np.array(text), config, seed=5)]

    with looked_up(model, data.draw(st.booleans())):
        assert resume(resume(text, lengths[0]), lengths[1]) == resume(text, sum(lengths))


@every_kind
@pytest.mark.parametrize("promptly", [0, float("inf")])
def test_the_interval_of_delivery_does_not_change_the_ids(kind, promptly):
    model = trained("char")
    want = model.generate("to be", 100, seed=1, weights=kind)
    with patched(write, PROMPTLY=promptly):
        assert model.generate("to be", 100, seed=1, weights=kind) == want


@every_kind
def test_texts_of_one_decoder_do_not_affect_each_other(kind):
    model = Graph([Embedding(11, 6), Recurrent(9, True, "gru"), Dense(11, "softmax")])
    network, config = network_of(model, draw_weights(model, np.random.default_rng(0)), 2), SamplingConfig(30, weights=kind)
    jobs = [(np.arange(1, 2 + seed), seed) for seed in range(3)]
    want = [list(generate(network, prompt, config, seed)) for prompt, seed in jobs]
    with patched(write, PROMPTLY=0):  # one at a time
        turns = zip(*(generate(network, prompt, config, seed) for prompt, seed in jobs), strict=True)
        assert [list(ids) for ids in zip(*turns, strict=True)] == want


@every_kind
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_several_python_threads_generate_independently(kind, threads):
    model = Graph([Embedding(11, 6), Recurrent(9, True, "gru"), Dense(11, "softmax")])
    weights = draw_weights(model, np.random.default_rng(0))
    config = SamplingConfig(50, weights=kind)
    jobs = [(np.arange(1, 2 + seed % 4), seed) for seed in range(8)]

    def write(network, some):
        return {seed: list(generate(network, prompt, config, seed)) for prompt, seed in some}

    want, found, network = write(network_of(model, weights), jobs), {}, network_of(model, weights, threads)
    network.decoder(kind)
    writers = [
        threading.Thread(target=lambda some: found.update(write(network, some)), args=(jobs[first::4],), daemon=True)
        for first in range(4)
    ]
    with patched(decoding, READY=(0, 100_000)):  # otherwise two leaders with one worker each would wait FOREVER for each other's
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(HANG)
    assert not any(writer.is_alive() for writer in writers), "they wait for one another"
    assert found == want


@every_kind
@some_cells
@given(data=st.data(), random=strategies.generators, N=streams, patience=st.sampled_from([-FOREVER, 0, 2000]))
def test_a_gang_that_ends_at_any_step_gives_the_same_bits(cell, kind, data, random, N, patience):
    """The leader never waits: in each call, it continues alone after any step that the others have not completed."""
    model = data.draw(models(cell))
    weights, found = draw_weights(model, random), []
    streams, given = draw_streams(network_of(model, weights), N, random), np.full((13, N), -1, np.int32)
    for threads, cuts in ((1, [13]), (2, range(1, 14)), (3, [1, 4, 13])):
        network = network_of(model, weights, threads)
        with patched(decoding, PATIENCE=patience):
            going, start, ids = network.decoder(kind).start(streams), 0, []
            for cut in cuts:
                ids += going.draw(given[start:cut], Choice(), some_seeds(N)).tolist()
                start = cut
        found.append((ids, going.scores().tobytes()))
    assert found[0] == found[1] == found[2]


@needs.idle_class
def test_a_worker_without_a_processor_delays_nobody():
    """The pool's worker runs only when its processor is idle, and busy processes always use it."""
    model = Graph([Embedding(11, 40), LSTM(140, return_sequences=True), Dense(11, "softmax")])
    weights = draw_weights(model, np.random.default_rng(0))
    want = list(generate(network_of(model, weights), np.array([1]), SamplingConfig(3000), seed=1))
    with ExitStack() as stack:
        stack.enter_context(patched(decoding, PATIENCE=50_000, READY=(10**7, 10**7)))
        pool = Pool(2)
        stack.enter_context(patched(backends.cpu, _pool=lambda threads: pool))
        network = network_of(model, weights, 2)
        next(generate(network, np.array([1]), SamplingConfig(1), seed=1))
        for worker in pool._workers:
            os.sched_setscheduler(worker.native_id, os.SCHED_IDLE, os.sched_param(0))
        for _ in range(os.cpu_count() or 1):
            busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(busy.wait)
            stack.callback(busy.kill)
        assert list(generate(network, np.array([1]), SamplingConfig(3000), seed=1)) == want


def test_a_gang_without_a_speed_up_is_suspended():
    """Two threads have a few units each, so they spend more time synchronising than multiplying."""
    model = Graph([Embedding(11, 4), *[LSTM(2, return_sequences=True)] * 3, Dense(11, "softmax")])
    with patched(decoding, WARM=2, CAUTION=50):
        network = network_of(model, draw_weights(model, np.random.default_rng(0)), 2)
        list(generate(network, np.array([1]), SamplingConfig(20_000), seed=1))
        measured = network.decoder("float32").measured[1]
    assert measured[decoding.ALONE] > 0
    assert measured[decoding.TIMED] > 10_000
    assert measured[decoding.LOST] > 0


# Weights


def predictions(network, kind, ids=((1,), (2,), (0,))):
    """The decoder's scores after a few symbols (T, N)."""
    first, *rest = np.array(ids, np.int32)
    going = network.decoder(kind).start(Streams(network.state(len(first)).arrays(), first, np.ones(len(first), np.int64)))
    going.read(np.array(rest, np.int32).reshape(-1, len(first)))
    return going.scores().copy()


@every_kind
def test_changed_weights_are_read(kind):
    model, random = Graph([Embedding(9, 6), LSTM(7, return_sequences=True), Dense(9, "softmax")]), np.random.default_rng(0)
    network, seen = network_of(model, draw_weights(model, random)), []

    def check():
        seen.append(predictions(network, kind))
        np.testing.assert_array_equal(seen[-1], predictions(network_of(model, network.weights()), kind))
        assert network.decoder(kind) is network.decoder(kind)  # created once

    check()
    network.set_weights(draw_weights(model, random))
    check()
    x = random.integers(0, 9, (4, 2)).astype(np.int32)
    updater = Updater(network, SGD(0.5))
    for _ in range(2):
        network.differentiate(x, x.reshape(-1), network.state(2), 1.0, 0)
        updater.update()
        check()
    assert len({array.tobytes() for array in seen}) == len(seen)
    network.losses(x, x.reshape(-1), network.state(2))
    decoders = [network.decoder(each) for each in KINDS]
    assert [network.decoder(each) for each in KINDS] == decoders


@some_cells
@pytest.mark.parametrize("tied", [False, True])
@given(data=st.data(), random=strategies.generators, threads=strategies.threads, N=streams, T=st.integers(1, 6))
def test_int8_is_nearly_the_rounded_network(cell, tied, data, random, threads, N, T):
    model = data.draw(models(cell, tied))
    weights = draw_weights(model, random)
    for array in weights.values():
        array *= random.choice([1e-3, 1, 1, 1, 0], array.shape[-1])  # every column has its own scale; some are zero
    ids = random.integers(0, model.layers[0].input_dim, (T, N)).astype(np.int32)
    with looked_up(model, data.draw(st.booleans())):
        got = predictions(network_of(model, weights, threads), "int8", ids)
    if tied:  # the decoder rounds the matrix where it is the output, not where it is looked up
        head = model.layers[-1]
        model = Graph([*model.layers[:-1], Dense(head.units, "softmax", head.use_bias)])
        weights |= {f"{model.names[-1]}/W": weights["embedding/W"].T}
    rounded = network_of(model, weights).rounded()
    want = rounded.scores(ids, rounded.state(N))
    assert abs(got - want).max() <= 1e-4 * abs(want).max()


@some_cells
@given(data=st.data(), random=strategies.generators, N=streams)
def test_int8_gives_the_same_bits_on_any_number_of_threads(cell, data, random, N):
    model = data.draw(models(cell))
    weights, found = draw_weights(model, random), []
    streams, given = draw_streams(network_of(model, weights), N, random), np.full((4, N), -1, np.int32)
    for threads in (1, 2, 3):
        going = network_of(model, weights, threads).decoder("int8").start(streams)
        found.append((going.draw(given, Choice(), some_seeds(N)).tolist(), going.scores().tobytes()))
    assert found[0] == found[1] == found[2]


@some_cells
@given(random=strategies.generators, H=st.integers(2, 140), data=st.data())
def test_int8_columns_are_independent(cell, random, H, data):
    """The output is the state, and the gates of a unit are its own columns, so only that unit's logit may change."""
    model = Graph([Embedding(H, 5), Recurrent(H, True, cell), Dense(H, "softmax", use_bias=False)])
    weights, unit = draw_weights(model, random) | {"dense/W": np.eye(H)}, data.draw(st.integers(0, H - 1))
    streams = draw_streams(network_of(model, weights), 1, random)
    others, found = np.arange(H) != unit, []
    for scale in (1, 100):
        for name in (f"{cell}/W", f"{cell}/U", "dense/W"):
            weights[name][:, unit::H] *= scale
        found.append(network_of(model, weights).decoder("int8").start(streams).scores()[0].copy())
    np.testing.assert_array_equal(found[0][others], found[1][others])
    assert found[0][unit] != found[1][unit]


@pytest.mark.parametrize("tied", [False, True])
def test_evaluate_measures_the_rounded_weights(tied):
    model = untrained(tokenizer=None, vocabulary_size=11, tied=tied)
    ids = np.arange(400) ** 2 % 11
    rounded = untrained(tokenizer=None, vocabulary_size=11, tied=tied)
    rounded.network_.set_weights(model.network_.rounded().weights())
    assert model.evaluate(ids, weights="int8") == rounded.evaluate(ids)
    assert model.evaluate(ids, weights="int8") != model.evaluate(ids) == model.evaluate(ids, weights="float32")


# Any layers


class Bare(heads.Softmax):
    """A head whose scores are computed with more than verbs."""

    def scores(self, ops, run, x, out):
        ops.copy(ops.upload(ops.download(x)), x)
        super().scores(ops, run, x, out)


@dataclass(frozen=True)
class Scored(Dense):
    def head(self):
        return Bare(self.units)


@dataclass(frozen=True)
class Downloaded(Layer):
    """y = x; it cannot be recorded."""

    def activations(self, shape, training):
        return {"y": shape}

    def forward(self, ops, run, x):
        ops.copy(ops.upload(ops.download(x)), run.a["y"])
        return run.a["y"]


@dataclass(frozen=True)
class DownloadedTrace(Trace):
    """A state of its own, by verbs that cannot be recorded."""

    def forward(self, ops, run, x):
        return super().forward(ops, run, ops.upload(ops.download(x)))


@dataclass(frozen=True)
class Unrounded(Dense):
    """Its matrix is not one of those that are rounded to int8."""

    def matrices(self):
        return ()


@dataclass(frozen=True)
class Shifted(Layer):
    """y = x + a W, where the array of a W holds something else in the end."""

    def parameters(self, shape):
        return {"a": (1, shape[-1]), "W": (shape[-1], shape[-1])}

    def activations(self, shape, training):
        return {"y": shape, "v": (1, shape[-1])}

    def forward(self, ops, run, x):
        y, v = run.a["y"], run.a["v"]
        ops.project(run.p["a"], run.p["W"], None, v)
        ops.copy(x, y)
        for n in range(x.shape[1]):
            for t in range(len(x)):
                ops.add(v, y[t, n : n + 1])
        ops.add(x[0, :1], v)
        return y

    def matrices(self):
        return ("W",)


@dataclass(frozen=True)
class Twice(Layer):
    """y = x + 1 + 2, by way of arrays that hold one constant after the other."""

    def activations(self, shape, training):
        return {"y": shape, "one": shape[1:], "other": shape[1:]}

    def forward(self, ops, run, x):
        y, one, other = (run.a[name] for name in ("y", "one", "other"))
        ops.copy(x, y)
        for t in range(len(x)):
            for value in (1, 2):
                ops.fill(one, value)
                ops.copy(one, other)
                ops.add(other, y[t])
        return y


@dataclass(frozen=True)
class InNumPy(Downloaded):
    def forward(self, ops, run, x):
        return x * 2 - x


@dataclass(frozen=True)
class Begun(Layer):
    """y = x + s; s is 0 in the first step of a stream, and 1 from then on."""

    def state(self, shape):
        return {"s": shape[1:]}

    def activations(self, shape, training):
        return {"y": shape, "one": shape[1:]}

    def forward(self, ops, run, x):
        ops.copy(x, run.a["y"])
        for y in run.a["y"]:
            ops.add(run.m["s"], y)
            ops.fill(run.a["one"], 1)
            ops.copy(run.a["one"], run.m["s"])
            ops.fill(run.a["one"], 2)
        return run.a["y"]


STACKS = {  # name → (layers between an embedding of D features and a softmax, which of those after the table are recorded)
    "two cells": (lambda D, H: [LSTM(H, return_sequences=True), GRU(D, return_sequences=True)], [1, 1, 1]),
    "three cells": (lambda D, H: [LSTM(H, True), Dropout(0.5), GRU(D, True), Dense(H), SimpleRNN(D, True)], [1, 1, 1, 1, 1, 1]),
    "cells with weights, and without U": (lambda D, H: [
        Recurrent(H, True, PEEPHOLE), LSTM(D, True), Recurrent(H, True, "mingru"), Recurrent(D, True, IND_RNN)], [1, 1, 1, 1, 1]),
    "a scan first": (lambda D, H: [Recurrent(H, True, IND_RNN), Recurrent(D, True, PEEPHOLE)], [1, 1, 1]),
    "a scan below a head by verbs": (lambda D, H: [Recurrent(H, True, "mingru")], [1, 0]),
    "no cell": (lambda D, H: [], [1]),
    "the last state only": (lambda D, H: [GRU(H, True), LSTM(D), Dense(H, "relu")], [1, 1, 1, 1]),
    "a residual below": (lambda D, H: [Residual([Dense(H, "tanh"), Dense(D)]), LSTM(H, True)], [1, 1, 1]),
    "a state of its own between": (lambda D, H: [LSTM(H, True), Trace(), GRU(D, True)], [1, 1, 1, 1]),
    "a constant in a state": (lambda D, H: [Begun(), LSTM(H, True)], [1, 1, 1]),
    "a branch below the head": (lambda D, H: [GRU(H, True), Concat([LSTM(D, True), [Dense(H, "tanh"), Dense(2)]])], [1, 1, 1]),
    "by verbs between": (lambda D, H: [LSTM(H, True), DownloadedTrace(), GRU(D, True)], [1, 0, 1, 1]),
    "by verbs below the head": (lambda D, H: [GRU(H, True), Downloaded()], [1, 0, 1]),
    "constants in turn": (lambda D, H: [Twice(), GRU(H, True), Twice()], [1, 1, 1, 1]),
    "a product of a weight": (lambda D, H: [Shifted(), GRU(H, True)], [0, 1, 1]),
    "NumPy between": (lambda D, H: [GRU(H, True), InNumPy(), Unrounded(D)], [1, 0, 1, 1]),
    "verbs only": (lambda D, H: [Downloaded(), DownloadedTrace()], [0, 0, 1]),
    "ids by verbs": (lambda D, H: [LSTM(H, True)], [0, 1, 1]),
    "a head by verbs": (lambda D, H: [LSTM(H, True)], [1, 0]),
    "skips": (lambda D, H: [Recurrent(D, True, "sru"), QRNN(H, True), Highway("tanh"), QRNN(D, True, window=1)], [1, 1, 1, 1, 1]),
    "norms": (lambda D, H: [LayerNormalization(), Dense(H, "gelu_tanh"), RMSNormalization(), FeedForward(2 * H, fold=True), Activation("softmax"),
                            LayerNormalization(scale=False, center=False)], [1] * 7),
    "convolutions": (lambda D, H: [Conv1D(2 * H, 3, padding="causal", dilation_rate=2, groups=2, activation="relu") if D % 2 == 0 else Conv1D(
        H, 3, padding="causal"), Residual([Conv1D(D, 2, padding="causal"), Dense(2 * H if D % 2 == 0 else H)]), Conv1D(D, 1)], [1, 1, 1, 1]),
}
ATTENTIONS = {  # sums over keys are in another order than in the verbs
    "heads": (lambda D, H: [MultiHeadAttention(3, 4, 5, use_causal_mask=True, window=7), GRU(H, True)], [1, 1, 1]),
    "many keys": (lambda D, H: [MultiHeadAttention(1, 5, use_causal_mask=True, window=300), SingleHeadAttention(window=300)], [1, 1, 1]),
    "rotary": (lambda D, H: [MultiHeadAttention(2, 4, use_causal_mask=True, window=3, rotary=True)], [1, 1]),
    "one head": (lambda D, H: [PositionEmbedding(5), Add([LayerNormalization(), SingleHeadAttention(window=4)]), LSTM(H, True)], [1, 1, 1, 1]),
    "of inputs": (lambda D, H: [SinusoidalPosition(), Attention(use_causal_mask=True, window=5), AdditiveAttention(use_causal_mask=True, window=2),
                                Attention(True, "concat", use_causal_mask=True, window=3)], [1] * 5),
    "a window of one": (lambda D, H: [MultiHeadAttention(2, 4, use_causal_mask=True, window=1)], [1, 1]),
    "the mean so far": (lambda D, H: [Residual(AttentionPooling(return_sequences=True)), GRU(H, True)], [1, 1, 1]),
}
every_stack = pytest.mark.parametrize("name", STACKS | ATTENTIONS)


def draw_stack(data, name):
    V, D, H = data.draw(st.integers(2, 40)), data.draw(st.integers(1, 40)), data.draw(units)
    layers, recorded = (STACKS | ATTENTIONS)[name]
    first = Concat([Embedding(V, D), [Embedding(V, 3), GRU(2, return_sequences=True)]]) if name == "ids by verbs" else Embedding(V, D)
    last = Scored(V) if name.endswith("a head by verbs") else Dense(V, "softmax", data.draw(st.booleans()))
    return Graph([first, *layers(D, H), last]), V, [bool(each) for each in recorded]


@every_stack
@given(data=st.data(), random=strategies.generators, threads=strategies.threads, N=streams)
def test_any_layers_compute_what_the_verbs_compute(name, data, random, threads, N):
    model, V, recorded = draw_stack(data, name)
    network = network_of(model, draw_weights(model, random), threads)
    decoder = network.decoder("float32")
    assert decoder.recorded == recorded
    tolerance = 1e-5 if name in ATTENTIONS else 0
    start, choice = draw_streams(network, N, random, V), draw_choice(data, V)
    got, want = decoder.start(start), verbs.Decoder(network).start(start)
    for _ in range(3):
        action = data.draw(st.sampled_from(["draw", "read", "scores", "take"]))
        if action == "draw":
            given = np.where(random.random((5, len(got.ids))) < 0.5, -1, random.integers(0, V, (5, len(got.ids)))).astype(np.int32)
            seeds = random.integers(0, 2**64, len(got.ids), np.uint64)
            if name in ATTENTIONS:  # scores that differ in their last bits may be drawn from differently
                given = random.integers(0, V, given.shape).astype(np.int32)
            np.testing.assert_array_equal(got.draw(given, choice, seeds), want.draw(given, choice, seeds))
        elif action == "read":
            ids = random.integers(0, V, (3, len(got.ids))).astype(np.int32)
            got.read(ids)
            want.read(ids)
        elif action == "take":
            rows = random.integers(0, len(got.ids), data.draw(streams))
            got.take(rows)
            want.take(rows)
        else:
            np.testing.assert_allclose(got.scores(), want.scores(), rtol=0, atol=tolerance)
        assert_same_streams(got.streams(), want.streams(), tolerance)
    np.testing.assert_allclose(got.scores(), want.scores(), rtol=0, atol=tolerance)


@every_stack
@given(data=st.data(), random=strategies.generators, N=streams, T=st.integers(1, 6))
def test_any_layers_in_int8_are_nearly_the_rounded_network(name, data, random, N, T):
    model, V, _ = draw_stack(data, name)
    network, ids = network_of(model, draw_weights(model, random)), random.integers(0, V, (T, N)).astype(np.int32)
    rounded = network.rounded()
    want = rounded.scores(ids, rounded.state(N))
    assert abs(predictions(network, "int8", ids) - want).max() <= 1e-4 * max(1, abs(want).max())
    exact = any(isinstance(layer, Unrounded) for layer in model.layers)  # it is run by the verbs
    assert network.decoder("int8").recorded.count(False) == network.decoder("float32").recorded.count(False) + exact


@every_kind
@every_stack
def test_any_layers_generate_the_same_on_any_number_of_threads(name, kind):
    layers, _ = (STACKS | ATTENTIONS)[name]
    model = Graph([Embedding(9, 40), *layers(40, 100), Dense(9, "softmax")])
    weights = draw_weights(model, np.random.default_rng(0))
    prompts, config, texts = [np.array([1, 2, 3]), np.array([4])], SamplingConfig(20, weights=kind), set()
    for threads in (1, 2, 3):
        texts.add(str([ids.tolist() for ids in generate_batch(network_of(model, weights, threads), prompts, config, [1, 2])]))
    assert len(texts) == 1


def test_threads_record_one_after_the_other():
    """All numbers of streams share the constants, so two of them must not be recorded at the same time."""
    graph = Graph([Embedding(9, 6), MultiHeadAttention(2, 4, use_causal_mask=True, window=3, rotary=True), Dense(9, "softmax")])
    decoder, build, active, most = network_of(graph, draw_weights(graph, np.random.default_rng(0))).decoder("float32"), decoding.build, [], []

    def slowly(*arguments):
        active.append(arguments)
        most.append(len(active))
        time.sleep(0.02)
        found = build(*arguments)
        active.pop()
        return found

    threads = [threading.Thread(target=decoder.program, args=(count,)) for count in (2, 3, 4)]
    with patched(decoding, build=slowly):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(HANG)
    assert most == [1, 1, 1]


def test_weights_are_held_once():
    """The constants hold no matrix, because the decoder packs those, and a table only once for all numbers of streams."""
    V, D = 2000, 64
    graph = Graph([Embedding(V, D), SinusoidalPosition(longest=1000), Conv1D(D, 3, padding="causal"), LSTM(D, True), Dense(V, "softmax")])
    decoder = network_of(graph, draw_weights(graph, np.random.default_rng(0))).decoder("float32")
    for streams in (1, 2, 5):
        decoder.program(streams)
    assert decoder.constants.flat.size == 1000 * D + D + 4 * D + V


@pytest.mark.parametrize("name", ["two cells", "skips", "convolutions", *ATTENTIONS])
def test_a_long_text_is_that_of_full_passes(name):
    """2,000 symbols, far beyond every window: each is the most probable one behind the whole text before it, read from the beginning."""
    V, D, count = 23, 6, 2000
    layers, _ = (STACKS | ATTENTIONS)[name]
    graph = Graph([Embedding(V, D), *layers(D, 10), Dense(V, "softmax")])
    for seed in range(100):  # most weights soon repeat one symbol
        network = network_of(graph, {key: 3 * array for key, array in draw_weights(graph, np.random.default_rng(seed)).items()}, 2)
        text = np.array([1, *generate(network, np.array([1]), SamplingConfig(count, temperature=0), seed=0)], np.int32)
        if len(set(text[-100:].tolist())) > 4:
            break
    else:
        raise AssertionError("all texts end in few symbols")

    def expect(place, probabilities):
        best = np.sort(probabilities)[-2:]
        assert probabilities[text[place]] == best[1] or best[1] - best[0] < 1e-5 * best[1], place

    for place, probabilities in enumerate(network.predict(text[:-1, np.newaxis], network.state(1))[:, 0].copy(), 1):
        expect(place, probabilities)
    for place in range(1, count, 97):  # and really one pass for each
        expect(place, network.predict(text[:place, np.newaxis], network.state(1))[-1, 0])


@pytest.mark.parametrize(("name", "dtype"), [("reference", None), ("cpu", np.float64)])
def test_models_without_a_decoder_generate_by_verbs(name, dtype):
    model = Graph([Embedding(9, 4), LSTM(5, return_sequences=True), Dense(9, "softmax")])
    network = Network(model, backends.get(name, dtype), draw_weights(model, np.random.default_rng(0)))
    assert network.decoder("float32") is None
    prompts = [np.array([1, 2, 3]), np.array([4])]
    written = generate_batch(network, prompts, SamplingConfig(20, temperature=0.7), [1, 2])
    for prompt, ids, seed in zip(prompts, written, (1, 2), strict=True):
        state, text = network.state(1), [*prompt]
        for position in range(1, len(prompt) + 20):
            scores = network.scores(network.ops.upload(np.array([[text[position - 1]]])), state)
            if position == len(text):
                drawn = network.ops.upload(np.array([-1]))
                network.ops.choose(scores, Choice(0.7), uniform(np.array([seed], np.uint64), np.array([position])), drawn)
                text += network.ops.download(drawn).tolist()
        assert text == [*prompt, *ids]
    with pytest.raises(BackendError, match="weights is 'int8', which"):
        generate_batch(network, prompts, SamplingConfig(20, weights="int8"), [1, 2])


def test_int8_is_rejected_by_other_backends():
    model = untrained(backend="reference", tokenizer=None, vocabulary_size=11)
    with pytest.raises(BackendError, match="weights is 'int8', which needs backend=\"cpu\" in float32"):
        model.generate([1], weights="int8")


# With the compiler disabled

PLAIN = """
import json
import numpy as np
from numba_rnnlm import backends
from numba_rnnlm.backends.cpu import decoding
from numba_rnnlm.config import ModelConfig, SamplingConfig
from numba_rnnlm.decoding import generate_batch
from numba_rnnlm.language_model.architecture import build
from numba_rnnlm.network import Network
decoding.BYTES, decoding.WARM, decoding.SHORT, decoding.READY = 1, 0, 0, (10**10, 10**10)
model = build(ModelConfig(vocabulary_size=9, hidden=7, embedding=5, layers=2, cell="gru"))
random = np.random.default_rng(0)
weights = {name: random.standard_normal(shape) / 2 for name, shape in model.layout.items()}
network = Network(model, backends.get("cpu", threads=2), weights)
prompts, found = [np.array([1, 2]), np.array([3])], []
for kind in ("float32", "int8"):
    for rows in (0, 9):
        decoding.TABLE_ROWS = rows
        network.set_weights(weights)
        for options in ({}, {"top_k": 3, "top_p": 0.9, "temperature": 0.8}, {"temperature": 0}):
            config = SamplingConfig(5, weights=kind, **options)
            found.append([ids.tolist() for ids in generate_batch(network, prompts, config, [1, 2], [4])])
"""


def test_with_the_compiler_off():
    compiled = {}
    with patched(decoding, TABLE_ROWS=0):  # changed by the program
        exec(PLAIN, compiled)
    assert len({json.dumps(ids) for ids in compiled["found"]}) > 2
    run_python(PLAIN + f"assert found == {compiled['found']}, found", NUMBA_DISABLE_JIT="1", PYTHONWARNINGS="ignore")
