"""Every backend has every verb of Ops, and every verb computes what the reference computes."""

import inspect
from itertools import pairwise, product

import direct
import needs
import numpy as np
import pytest
import strategies
from checks import TOLERANCE, assert_close, assert_same_bits, call, error, from_python, run_python
from hypothesis import assume, given
from hypothesis import strategies as st
from llvmlite import binding
from own_cells import EVERY
from strategies import VERBS, floats, many, unwritten

from numba_rnnlm import backends
from numba_rnnlm.backends import cpu as cpu_backend
from numba_rnnlm.backends.cpu import host, packing, simd
from numba_rnnlm.backends.cpu.kernels import store
from numba_rnnlm.backends.cpu.linear import STEPS
from numba_rnnlm.backends.ops import ACTIVATIONS, Ops
from numba_rnnlm.cells import CELLS
from numba_rnnlm.errors import BackendError, ConfigError

pytestmark = pytest.mark.usefixtures("every_thread")

pack_panel = from_python(packing.pack_panel)
REFERENCE = backends.get("reference")
SIGNATURES = {name: inspect.signature(verb) for name, verb in vars(Ops).items() if not name.startswith("_")}
OTHERS = {"rounding", "memory", "empty", "upload", "download", "choose", "decoder"}  # tested separately


def on(ops, threads):
    """The same backend with another number of threads."""
    return backends.get(ops.name, ops.dtype, threads, getattr(ops, "precision", "float32"))


# The interface


def test_every_verb_is_drawn():
    assert set(VERBS) | OTHERS == set(SIGNATURES)


@pytest.mark.parametrize("verb", SIGNATURES)
def test_signature(ops, verb):
    theirs = list(inspect.signature(getattr(type(ops), verb)).parameters.values())
    ours = list(SIGNATURES[verb].parameters.values())
    assert [(p.name, p.kind, p.default) for p in theirs] == [(p.name, p.kind, p.default) for p in ours]


def test_attributes(ops):
    assert ops.name in backends.BACKENDS
    assert ops.dtype in (np.float32, np.float64)
    assert ops.threads >= 1


def test_auto_is_float32():
    ops = backends.get()
    assert ops.name in backends.available()
    assert ops.dtype == np.float32


def test_unknown_backends_and_dtypes_are_refused():
    with pytest.raises(ConfigError, match=r"backend is 'tpu', expected one of 'auto'"):
        backends.get("tpu")
    for name in set(backends.BACKENDS) - set(backends.available()) - {"auto"}:
        with pytest.raises(BackendError, match='use backend="cpu"'):
            backends.get(name)
    with pytest.raises(ConfigError, match=r"dtype is <class 'numpy.float16'>, expected float32 or float64"):
        backends.get("cpu", np.float16)
    with pytest.raises(ConfigError, match="threads is 0"):
        backends.get("cpu", threads=0)


def test_a_missing_driver_is_reported(monkeypatch):
    def nothing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(backends, "SIMULATED", False)
    monkeypatch.setattr(backends.ctypes, "CDLL", nothing)
    monkeypatch.setattr(backends, "_cuda_problem", backends._cuda_problem.__wrapped__)
    with pytest.raises(BackendError, match=r'needs an NVIDIA GPU and its driver.* use backend="cpu"'):
        backends.get("cuda")
    assert backends.available() == ("cpu", "reference")
    assert backends.get("auto").name == "cpu"
    assert backends.about()["cuda"].startswith("needs an NVIDIA GPU and its driver")


def test_precisions_that_the_backend_lacks_are_refused():
    with pytest.raises(ConfigError, match="precision is 'float16', expected one of 'float32', 'tf32', 'bf16'"):
        backends.get("cpu", precision="float16")
    with pytest.raises(BackendError, match='precision is "tf32", which needs a GPU; backend="cpu" accepts'):
        backends.get("cpu", precision="tf32")
    for precision in ("tf32", "bf16"):
        with pytest.raises(BackendError, match=f"precision is '{precision}'; backend=\"reference\" rounds nothing"):
            backends.get("reference", precision=precision)


@pytest.mark.parametrize(("size", "has", "text"), [
    (64, True, "vectors of 512 bits, with AVX512_BF16 for precision bf16"),
    (32, False, "vectors of 256 bits, without AVX512_BF16 for precision bf16"),
])  # fmt: skip
def test_the_description_of_the_processor(monkeypatch, size, has, text):
    monkeypatch.setattr(simd, "VECTOR_BYTES", size)
    monkeypatch.setattr(simd, "HAS_BF16", has)
    found = backends.about()
    assert found["processor"] == f"{binding.get_host_cpu_name()}, {text}"
    assert found["kernel cache"] == store().about()
    monkeypatch.setattr(host, "COMPILER_IS_OFF", True)
    assert backends.about()["kernel cache"] == "none: Numba's compiler is off"


@given(st.lists(strategies.few, max_size=3).map(tuple))
def test_empty(ops, shape):
    array = ops.empty(shape)
    assert (array.shape, array.dtype) == (shape, ops.dtype)


def test_empty_is_aligned(cpu):
    assert all(cpu.empty((size,)).ctypes.data % 64 == 0 for size in range(1, 70))


@given(strategies.generators, strategies.sizes)
def test_upload_and_download(ops, random, size):
    array, ids = floats(random, size, 2), random.integers(0, 9, size)
    assert ops.upload(ids).dtype == np.int32
    assert ops.upload(array).dtype == ops.dtype
    back = ops.download(ops.upload(array))
    np.testing.assert_array_equal(back, array)
    kept = ops.upload(array)
    ops.download(kept)[:] = 0
    np.testing.assert_array_equal(ops.download(kept), array)


# Every verb


@pytest.mark.parametrize("verb", sorted(set(VERBS) - {"recur_backward"}))
@given(data=st.data(), threads=strategies.threads)
def test_verb_matches_the_reference(compiled, verb, data, threads):
    arguments = data.draw(VERBS[verb]())
    got = call(on(compiled, threads), verb, arguments)
    assert_close(got, call(REFERENCE, verb, arguments), TOLERANCE[compiled.dtype.name])


@pytest.mark.parametrize("verb", direct.VERBS)
@given(data=st.data())
def test_verb_matches_its_definition(ops, verb, data):
    """This includes the reference's verbs."""
    arguments = data.draw(VERBS[verb]())
    got, want = call(ops, verb, arguments), direct.VERBS[verb](**arguments)
    assert_close({name: got[name] for name in want}, want, TOLERANCE[ops.dtype.name])


@pytest.mark.parametrize("cell", EVERY.values(), ids=EVERY)
@given(data=st.data(), threads=strategies.threads)
def test_backpropagation_through_time_matches_the_reference(compiled, cell, data, threads):
    arguments = data.draw(strategies.recur_backward(st.just(cell)))
    sums = arguments["z"].copy()
    REFERENCE.recur(cell, arguments["U"], sums, arguments["s"].copy(), arguments["w"], arguments["lengths"])
    assume(abs(sums).min() > 1e-5)  # closer to ReLU's kink, rounding decides the side
    got = call(on(compiled, threads), "recur_backward", arguments)
    assert_close(got, call(REFERENCE, "recur_backward", arguments), TOLERANCE[compiled.dtype.name])


@pytest.mark.parametrize("verb", VERBS)
@given(data=st.data())
def test_verb_gives_the_same_bits_on_any_number_of_threads(cpu, verb, data):
    arguments = data.draw(VERBS[verb]())
    want = call(on(cpu, 1), verb, arguments)
    for threads in (2, 3):
        assert_same_bits(call(on(cpu, threads), verb, arguments), want)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@given(arguments=strategies.activate())
def test_every_activation(compiled, activation, arguments):
    arguments |= {"activation": activation}
    assert_close(call(compiled, "activate", arguments), call(REFERENCE, "activate", arguments), TOLERANCE[compiled.dtype.name])


# Lookup


@given(strategies.scatter_add())
def test_scatter_add_adds_in_the_order_of_the_ids(cpu, arguments):
    want = arguments["table"].astype(cpu.dtype)
    rows = arguments["rows"].astype(cpu.dtype).reshape(-1, want.shape[1])
    for index, row in zip(arguments["ids"].reshape(-1), rows, strict=True):
        want[index] += row
    np.testing.assert_array_equal(call(cpu, "scatter_add", arguments)["table"], want)


# Linear


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("rows", "inner", "columns"), [
    (7, STEPS, 33), (3, STEPS + 1, 70), (130, 2 * STEPS + 88, 40), (2 * STEPS + 1, 9, STEPS + 3)
])  # fmt: skip
def test_products_of_more_steps_than_are_packed_at_once(compiled, rows, inner, columns, transposed):
    random = np.random.default_rng(inner)
    x, dout = floats(random, rows, inner), floats(random, rows, columns)
    W = floats(random, *((columns, inner) if transposed else (inner, columns)))
    forward = {"x": x, "W": W, "b": floats(random, columns), "out": floats(random, rows, columns)}
    backward = {"x": x, "W": W, "dout": dout, "dx": unwritten(rows, inner), "dW": floats(random, *W.shape), "db": None}
    for (verb, arguments), add in product((("project", forward), ("project_backward", backward)), (False, True)):
        arguments |= {"transposed": transposed, "add": add}
        got = call(compiled, verb, arguments)
        assert_close(got, call(REFERENCE, verb, arguments), TOLERANCE[compiled.dtype.name])
        for threads in (1, 3):
            assert_same_bits(call(on(compiled, threads), verb, arguments), got)


@given(arguments=strategies.project(), threads=strategies.threads)
def test_a_row_of_a_product_does_not_depend_on_the_others(cpu, arguments, threads):
    whole = call(on(cpu, threads), "project", arguments)["out"]
    for i in range(len(whole)):
        alone = arguments | {"x": arguments["x"][i : i + 1], "out": arguments["out"][i : i + 1]}
        np.testing.assert_array_equal(call(cpu, "project", alone)["out"][0], whole[i])


@given(arguments=strategies.project())
def test_a_product_writes_nothing_past_its_output(cpu, arguments):
    M, F = arguments.pop("out").shape
    memory = cpu.upload(np.full(M * F + 100, -0.0))  # adding anything, even zero, clears the sign
    arrays = {name: value if value is None else cpu.upload(value) for name, value in arguments.items() if name in "xWb"}
    cpu.project(**arguments | arrays | {"x": abs(arrays["x"])}, out=memory[: M * F].reshape(M, F))
    assert np.signbit(memory[M * F :]).all()


def rows_of(verb, first, last):
    """Name → index of rows ``first`` … ``last`` - 1, for each argument with an axis of rows."""
    axes = {"project_backward": {"x": 0, "dout": 0, "dx": 0}, "cross_entropy_backward": {"x": 0, "targets": 0, "losses": 0, "dx": 0},
            "recur_backward": {"z": 1, "s": 1, "dy": 1, "d": 0, "lengths": 0}}[verb]  # fmt: skip
    return {name: (slice(None),) * axis + (slice(first, last),) for name, axis in axes.items()}


@pytest.mark.parametrize(("verb", "rows", "gradients"), [
    ("project_backward", "x", ("dW", "db")), ("cross_entropy_backward", "x", ("dW", "db")), ("recur_backward", "d", ("dU", "dw")),
])  # fmt: skip
@given(data=st.data(), threads=strategies.threads)
def test_gradients_of_parts_add_up(compiled, verb, rows, gradients, data, threads):
    """Rows, or streams, are split into parts; each part adds to the gradients so far, and the first sets or adds, as drawn."""
    arguments = data.draw(VERBS[verb](SMOOTH) if verb == "recur_backward" else VERBS[verb]())
    borders = sorted({0, len(arguments[rows]), *data.draw(st.lists(st.integers(0, len(arguments[rows])), max_size=3))})
    want, found = call(REFERENCE, verb, arguments), dict(arguments)
    for part in pairwise(borders):
        cut = {name: found[name] if found[name] is None else found[name][where] for name, where in rows_of(verb, *part).items()}
        found |= {name: value for name, value in call(on(compiled, threads), verb, found | cut).items() if name in gradients} | {"add": True}
    names = [name for name in gradients if arguments[name] is not None]
    assert_close({name: found[name] for name in names}, {name: want[name] for name in names}, TOLERANCE[compiled.dtype.name])


# Rounded factors

LOST = 2e-2  # by rounding to 8 significant bits
PRODUCTS = ("project", "project_backward", "convolve", "convolve_backward", "recur", "recur_backward", "cross_entropy", "cross_entropy_backward")
SMOOTH = st.sampled_from([CELLS[name] for name in ("tanh", "sigmoid", "lstm", "gru")])  # rounding crosses ReLU's kink


@pytest.fixture(params=[pytest.param("bf16", marks=needs.bf16)], scope="module")
def rounding(request):
    """The CPU in the precision that rounds factors."""
    return backends.get("cpu", np.float32, 2, request.param)


def draw_product(data, verb):
    return data.draw(VERBS[verb](SMOOTH) if "recur" in verb else VERBS[verb]())


def round_to_bfloat16(x):
    """Rounded to 8 significant bits, ties to even, from the definition: x is rounded in units of the last place."""
    with np.errstate(over="ignore", invalid="ignore"):
        x = np.asarray(x, np.float64)
        _, exponent = np.frexp(x)
        unit = np.exp2(np.maximum(exponent - 8.0, -133))
        return np.where(np.isfinite(x), np.rint(x / unit) * unit, x).astype(np.float32)


@given(st.lists(st.integers(0, 2**32 - 1), max_size=50))
def test_rounding_to_bfloat16(bits):
    special = [0, 0x80000000, 0x7F800000, 0xFF800000, 0x7F7FFFFF, 0xFF7F8000, 1, 0x80007FFF, 0x00008000, 0x00018000,
               0x3F808000, 0x3F818000, 0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFF8000]  # fmt: skip
    x = np.array([*special, *bits], np.uint32).view(np.float32)
    got = np.array([packing._bfloat16(value) for value in x], np.uint32)
    assert (got < 2**16).all()
    back, want = (got << 16).view(np.float32), round_to_bfloat16(x)
    np.testing.assert_array_equal(back, want)  # NaN equals NaN
    assert (np.signbit(back) == np.signbit(want))[~np.isnan(want)].all()


@pytest.mark.parametrize("verb", PRODUCTS)
@given(data=st.data(), threads=strategies.threads)
def test_products_lose_no_more_than_their_factors(rounding, verb, data, threads):
    arguments = draw_product(data, verb)
    got, want = call(on(rounding, threads), verb, arguments), call(REFERENCE, verb, arguments)
    if "dU" in want:  # a sum over up to 350 rows, which may cancel: its error grows with the root of their number
        rows = np.prod(arguments["z"].shape[:2])
        got["dU"], want["dU"] = got["dU"] / np.sqrt(rows), want["dU"] / np.sqrt(rows)
    assert_close(got, want, LOST)


@pytest.mark.parametrize("verb", PRODUCTS)
@given(data=st.data())
def test_products_give_the_same_bits_on_any_number_of_threads(rounding, verb, data):
    arguments = draw_product(data, verb)
    want = call(on(rounding, 1), verb, arguments)
    for threads in (2, 3):
        assert_same_bits(call(on(rounding, threads), verb, arguments), want)


@pytest.mark.parametrize("verb", ["project", "project_backward", "convolve", "convolve_backward"])
@given(data=st.data(), inner=st.sampled_from([None, STEPS - 1, STEPS + 1, 2 * STEPS + 3]))
def test_only_the_factors_of_products_are_rounded(rounding, verb, data, inner):
    """Sums and biases are not."""
    arguments = data.draw(VERBS[verb]())
    if inner and verb == "project":  # more steps than are packed at once
        random, W = data.draw(strategies.generators), arguments["W"]
        arguments["x"] = floats(random, len(arguments["x"]), inner)
        arguments["W"] = floats(random, *((len(W), inner) if arguments["transposed"] else (inner, W.shape[1])))
    got, rounded = call(rounding, verb, arguments), dict(arguments)
    for name in {"x", "W", "dout"} & set(arguments):
        rounded[name] = round_to_bfloat16(arguments[name]).astype(np.float64)
    want = call(REFERENCE, verb, rounded)
    if verb.endswith("backward"):
        want["db"] = call(REFERENCE, verb, arguments).get("db")  # a sum, not a product
        got.setdefault("db", None)
        if want["db"] is None:
            del want["db"], got["db"]
    outputs = {"out", "dx", "dW", "db"} & set(want)
    assert_close({key: got[key] for key in outputs}, {key: want[key] for key in outputs}, TOLERANCE["float32"])


@given(arguments=strategies.project(), threads=strategies.threads)
def test_a_row_of_a_rounded_product_does_not_depend_on_the_others(rounding, arguments, threads):
    whole = call(on(rounding, threads), "project", arguments)["out"]
    for i in range(len(whole)):
        alone = arguments | {"x": arguments["x"][i : i + 1], "out": arguments["out"][i : i + 1]}
        np.testing.assert_array_equal(call(rounding, "project", alone)["out"][0], whole[i])


def test_bf16_needs_float32_and_a_processor_with_avx512_bf16(monkeypatch):
    message = 'precision is "bf16", which needs float32 weights and a processor with AVX512_BF16'
    with pytest.raises(BackendError, match=message):
        backends.get("cpu", np.float64, precision="bf16")
    monkeypatch.setattr(simd, "HAS_BF16", False)
    with pytest.raises(BackendError, match=message):
        backends.get("cpu", precision="bf16")


@pytest.mark.parametrize("packed_as", ["float32", "float64", "int32"])
@pytest.mark.parametrize("transposed", [False, True])
@given(data=st.data(), random=strategies.generators, k=st.integers(1, 70), more=strategies.few, ib=strategies.few,
       ip=strategies.few)
def test_pack_panel(packed_as, transposed, data, random, k, more, ib, ip):
    packed_as = np.dtype(packed_as)
    real = np.dtype("float32") if packed_as == np.int32 else packed_as
    lanes = simd.VECTOR_BYTES // packed_as.itemsize
    columns = data.draw(st.integers(1, simd.VECTORS * lanes))
    B = floats(random, k, columns).astype(real)
    distance = (k if transposed else columns) + more
    around = np.full(ib + distance * (columns if transposed else k) + 3, np.nan, real)
    lines = around[ib : ib + distance * (columns if transposed else k)].reshape(-1, distance)
    lines[:, : distance - more] = B.T if transposed else B

    vectors = -(-columns // lanes)
    height = -(-k // 2) if packed_as == np.int32 else k
    packed = np.full(ip + height * vectors * lanes + 5, -7, packed_as)
    strides = (1, distance) if transposed else (distance, 1)
    assert pack_panel(around, ib, *strides, k, columns, packed, ip) == vectors

    want = np.zeros((height, vectors * lanes), packed_as)
    if packed_as == np.int32:
        upper = round_to_bfloat16(np.concatenate([B, np.zeros((1, columns), real)])).view(np.uint32) >> 16
        for s in range(height):
            want[s, :columns] = (upper[2 * s] | upper[2 * s + 1] << 16).view(np.int32)
    else:
        want[:, :columns] = B
    np.testing.assert_array_equal(packed[ip:-5].reshape(want.shape), want)
    assert (packed[:ip] == -7).all() and (packed[-5:] == -7).all()


# Time


def recur(ops, arguments, **changes):
    """All arrays after forward and backward."""
    return call(ops, "recur_backward", arguments | changes)


@given(arguments=strategies.recur_backward(), random=strategies.generators, threads=strategies.threads)
def test_streams_are_independent(cpu, arguments, random, threads):
    order = random.permutation(arguments["z"].shape[1])
    names = [name for name in ("z", "s", "dy") if arguments[name] is not None]
    moved = {name: arguments[name][:, order] for name in names} | {"d": arguments["d"][order]}
    if arguments["lengths"] is not None:
        moved["lengths"] = arguments["lengths"][order]
    got, want = recur(on(cpu, threads), arguments, **moved), recur(cpu, arguments)
    for name in names:
        np.testing.assert_array_equal(got[name], want[name][:, order], name)
    np.testing.assert_array_equal(got["d"], want["d"][order])


@given(arguments=strategies.recur_backward(), threads=strategies.threads, data=st.data())
def test_a_sequence_may_be_cut_into_segments(cpu, arguments, threads, data):
    whole, ops = recur(cpu, arguments), on(cpu, threads)
    z, s, dy, lengths = (arguments[name] for name in ("z", "s", "dy", "lengths"))
    assume(len(z) > 1)
    cut = data.draw(st.integers(1, len(z) - 1))
    dys = (None, None) if dy is None else (dy[:cut], dy[cut:])
    ends = (None, None) if lengths is None else (np.minimum(lengths, cut), np.maximum(lengths - cut, 0))
    early = {"z": z[:cut], "s": s[: cut + 1], "dy": dys[0], "lengths": ends[0]}
    state = recur(ops, arguments, **early)["s"][-1:]
    second = recur(ops, arguments, z=z[cut:], s=np.concatenate([state, s[cut + 1 :]]), dy=dys[1], lengths=ends[1])
    first = recur(ops, arguments, **early, d=second["d"])  # its final state is the second's initial one
    assert_same_bits(
        {"z": np.concatenate([first["z"], second["z"]]), "s": np.concatenate([first["s"], second["s"][1:]])}
        | {"d": first["d"]},
        {name: whole[name] for name in ("z", "s", "d")},
    )


@given(arguments=strategies.recur(), data=st.data())
def test_states_do_not_depend_on_later_steps(cpu, arguments, data):
    t = data.draw(st.integers(0, len(arguments["z"]) - 1))
    assume(arguments["lengths"] is None or (arguments["lengths"] > t).any())
    other = arguments["z"].copy()
    other[t:] += 10
    got, want = (call(cpu, "recur", arguments | {"z": z})["s"] for z in (other, arguments["z"]))
    np.testing.assert_array_equal(got[: t + 1], want[: t + 1])
    assert (got[t + 1] != want[t + 1]).any()


@given(arguments=strategies.recur_backward(), data=st.data())
def test_gradients_do_not_depend_on_earlier_outputs(cpu, arguments, data):
    T, N, _, H = arguments["z"].shape
    t, dy = data.draw(st.integers(0, T - 1)), np.zeros((T, N, H))
    other = dy.copy()
    other[: t + 1] = 1
    got, want = (recur(cpu, arguments, dy=x)["z"] for x in (other, dy))
    np.testing.assert_array_equal(got[t + 1 :], want[t + 1 :])


@given(strategies.recur_backward())
def test_no_dy_is_a_dy_of_zeros(cpu, arguments):
    T, N, _, H = arguments["z"].shape
    got, want = (recur(cpu, arguments, dy=dy) for dy in (None, np.zeros((T, N, H))))
    del want["dy"]
    assert_same_bits(got, want)


@given(strategies.recur_backward())
def test_a_stream_that_has_ended_keeps_its_states(ops, arguments):
    """The only gradients from later steps are those of its outputs, which add up."""
    T, N = arguments["z"].shape[:2]
    lengths = np.random.default_rng(0).integers(0, T + 1, N) if arguments["lengths"] is None else arguments["lengths"]
    ended = np.arange(T)[:, np.newaxis] >= lengths
    arguments["z"][ended] = np.nan  # must not be read
    got = recur(ops, arguments, lengths=lengths)
    np.testing.assert_array_equal(got["s"][1:][ended], got["s"][:-1][ended])
    assert not got["z"][ended].any()
    assert all(np.isfinite(got[name]).all() for name in ("z", "s", "d"))
    for length in np.unique(lengths):
        some = lengths == length
        short = {name: arguments[name][: length + extra, some] for name, extra in (("z", 0), ("s", 1))}
        d, dy = arguments["d"][some], arguments["dy"]
        if dy is not None:
            d[:, 0] += dy[length:, some].sum(0)
            short["dy"] = dy[:length, some]
        want = recur(REFERENCE, arguments, lengths=None, d=d, **short)
        here = {"z": got["z"][:length, some], "s": got["s"][: length + 1, some], "d": got["d"][some]}
        assert_close(here, {name: want[name] for name in here}, TOLERANCE[ops.dtype.name])


@pytest.mark.parametrize("cell", ["sru", "peephole"])
@given(random=strategies.generators, T=st.integers(60, 140), N=strategies.threads, threads=strategies.threads)
def test_gradients_of_a_cells_weights_over_many_steps(cpu, cell, random, T, N, threads):
    """They are summed in several chains per stream, which do not depend on the number of threads."""
    cell, H = EVERY[cell], 5
    s = unwritten(T + 1, N, len(cell.states), H)
    s[0] = floats(random, N, len(cell.states), H)
    U, dU = (floats(random, H, 4 * H) / 8, unwritten(H, 4 * H)) if cell.window("h")[1] else (None, None)
    arguments = {"cell": cell, "U": U, "z": floats(random, T, N, len(cell.gates), H), "s": s, "dy": floats(random, T, N, H), "d": s[0], "dU": dU,
                 "w": floats(random, len(cell.weights), H) / 2, "dw": unwritten(len(cell.weights), H), "lengths": random.integers(0, T + 1, N)}  # fmt: skip
    got, want = call(on(cpu, threads), "recur_backward", arguments), call(REFERENCE, "recur_backward", arguments)
    assert_close({"dw": got["dw"]}, {"dw": want["dw"]}, TOLERANCE[cpu.dtype.name])
    assert_same_bits(call(on(cpu, 1), "recur_backward", arguments), got)


@given(strategies.recur_backward())
def test_lengths_that_end_nothing_change_nothing(ops, arguments):
    T, N = arguments["z"].shape[:2]
    got, want = (recur(ops, arguments, lengths=lengths) for lengths in (np.full(N, T), None))
    del got["lengths"]
    assert_same_bits(got, want)


# Pointwise and loss

HUGE = st.sampled_from([1e4, 1e10, 1e38, 3e38])


@given(arguments=strategies.activate(), size=HUGE, random=strategies.generators)
def test_softmax_of_any_finite_logits(ops, arguments, size, random):
    logits = 16 * arguments["x"]
    some = random.random(logits.shape) < 0.2
    logits[some] = random.choice([-size, size], some.sum())
    with np.errstate(over="ignore"):
        softmax = call(ops, "activate", {"activation": "softmax", "x": logits})["x"]
    assert softmax.min() >= 0
    np.testing.assert_allclose(softmax.sum(-1), 1, rtol=0, atol=TOLERANCE[ops.dtype.name])


@given(strategies.activate())
def test_softmax_is_its_definition(ops, arguments):
    want = {"x": np.array([direct.probabilities(row) for row in arguments["x"]])}
    assert_close(call(ops, "activate", arguments | {"activation": "softmax"}), want, TOLERANCE[ops.dtype.name])


@pytest.mark.parametrize("size", [1e4, 1e10, 1e38])
@pytest.mark.parametrize("target", [0, 1, 2])
def test_losses_of_huge_logits(ops, size, target):
    logits = np.array([[-size, 0, size]])
    one = {"x": logits, "W": np.eye(3), "b": None, "targets": np.array([target]), "scale": 1.0, "losses": unwritten(1)}
    got = call(ops, "cross_entropy_backward", one | {"dx": unwritten(1, 3), "dW": np.zeros((3, 3)), "db": None})
    assert error(got["losses"] / size, [2 - target]) <= 1e-6
    assert error(got["dx"], [np.eye(3)[2] - np.eye(3)[target]]) <= 1e-6
    wanted = np.eye(3)[[target]]
    binary = {"logits": logits, "targets": wanted, "scale": 3.0, "losses": unwritten(1)}
    got = call(ops, "binary_cross_entropy_backward", binary)
    want = (np.maximum(logits, 0) - logits * wanted + [0, np.log(2), 0]).mean() / size
    assert error(got["losses"] / size, [want]) <= 1e-6
    assert error(got["logits"], [[0, 0.5, 1]] - wanted) <= 1e-6


@given(arguments=strategies.cross_entropy_backward(), limit=st.integers(1, 500))
def test_losses_do_not_depend_on_how_many_logits_exist_at_once(cpu, arguments, limit):
    whole = call(cpu, "cross_entropy_backward", arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_backend, "LOGITS", limit)
        assert_same_bits(call(cpu, "cross_entropy_backward", arguments), whole)


@given(arguments=strategies.cross_entropy_backward())
def test_rows_without_a_target_have_no_loss_and_no_gradient(ops, arguments):
    got = call(ops, "cross_entropy_backward", arguments | {"targets": np.full_like(arguments["targets"], -1), "add": False})
    assert not got["losses"].any()
    assert not got["dx"].any()
    assert not got["dW"].any()


@given(arguments=strategies.cross_entropy_backward())
def test_the_loss_is_the_same_with_and_without_gradients(cpu, arguments):
    forward = {name: value for name, value in arguments.items() if name not in ("scale", "dx", "dW", "db", "add")}
    got, want = call(cpu, "cross_entropy", forward), call(cpu, "cross_entropy_backward", arguments)
    assert error(got["losses"], want["losses"]) <= TOLERANCE[cpu.dtype.name]


# Dropout


@given(key=strategies.keys, rate=st.floats(0, 0.999), random=strategies.generators, size=strategies.sizes)
def test_dropout_drops_the_same_elements_on_every_backend_and_backward(compiled, key, rate, random, size):
    x = 2 + random.random((size, 3))
    y, want = (machine.upload(unwritten(size, 3)) for machine in (compiled, REFERENCE))
    compiled.dropout(compiled.upload(x), y, rate, key)
    REFERENCE.dropout(x, want, rate, key)
    kept = compiled.download(y) != 0
    np.testing.assert_array_equal(kept, want != 0)
    dy = compiled.upload(np.ones((size, 3)))
    compiled.dropout(dy, dy, rate, key)  # in place, as the backward pass does
    np.testing.assert_array_equal(compiled.download(dy) != 0, kept)


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.5, 0.9, 0.999])
@given(key=strategies.keys)
def test_dropout_keeps_its_share_of_elements(ops, rate, key):
    size = many(100_000)
    x = ops.upload(np.ones(size))
    ops.dropout(x, x, rate, key)
    y = ops.download(x)
    assert set(np.unique(y)) <= {ops.dtype.type(0), ops.dtype.type(1 / (1 - rate))}
    assert abs((y > 0).mean() - (1 - rate)) <= 6 * np.sqrt(rate * (1 - rate) / size)


# Update


@given(data=st.data(), bad=st.sampled_from([np.nan, np.inf, -np.inf]), threads=strategies.threads)
def test_norm_propagates_nan_and_infinity(ops, data, bad, threads):
    x = data.draw(strategies.norm())["x"]
    x[data.draw(st.integers(0, len(x) - 1))] = bad
    got = on(ops, threads).norm(ops.upload(x))
    assert np.isnan(got) if np.isnan(bad) else got == np.inf


def test_norm_does_not_overflow(ops):
    x = np.full(many(50_000), 1e30)
    assert error(ops.norm(ops.upload(x)) / np.linalg.norm(x), 1) <= 1e-6


@pytest.mark.parametrize("rule", strategies.RULES.values(), ids=strategies.RULES.keys())
@given(arguments=strategies.update(), random=strategies.generators, threads=strategies.threads)
def test_every_rule(compiled, rule, arguments, random, threads):
    size = arguments["p"].size
    arguments |= strategies.rule_arguments(random, rule, size, *arguments["h"][:2])
    got = call(on(compiled, threads), "update", arguments)
    assert_close(got, call(REFERENCE, "update", arguments), TOLERANCE[compiled.dtype.name])


# Narrower vectors

NARROW = """
import numpy as np
from numba_rnnlm import backends
from numba_rnnlm.backends.cpu import decoding, simd, threads
from numba_rnnlm.cells import CELLS
from numba_rnnlm.config import ModelConfig, SamplingConfig
from numba_rnnlm.decoding import generate_batch
from numba_rnnlm.language_model.architecture import build
from numba_rnnlm.network import Network

assert simd.VECTOR_BYTES == {width}, simd.VECTOR_BYTES
assert not simd.HAS_BF16
threads.WORTHWHILE = decoding.SHARE = 1
decoding.WARM = decoding.SHORT = 0
random = np.random.default_rng(0)
ops, reference = backends.get("cpu", threads=2), backends.get("reference")

def floats(*shape):
    return random.standard_normal(shape, np.float32)

def close(got, want):
    assert abs(got - want).max() <= 1e-5 * max(1, abs(want).max()), abs(got - want).max()

for m, k, n in ((1, 7, 5), (5, 3, 17), (13, 33, 1), (7, 530, 70), (20, 31, 131)):
    for transposed in (False, True):
        x, W, b, dout = floats(m, k), floats(*((n, k) if transposed else (k, n))), floats(n), floats(m, n)
        right, out, dx, dW = W.T if transposed else W, ops.empty((m, n)), ops.empty((m, k)), ops.empty(W.shape)
        ops.project(x, W, b, out, transposed=transposed)
        close(out, x.astype(float) @ right + b)
        ops.project_backward(x, W, dout, dx, dW, None, transposed=transposed)
        close(dx, dout.astype(float) @ right.T)
        close(dW, dout.T.astype(float) @ x if transposed else x.T.astype(float) @ dout)

cell, T, N, H = CELLS["lstm"], 4, 7, 19
start = [floats(H, 4 * H) / 4, floats(T, N, 4, H), floats(T + 1, N, 2, H), floats(T, N, H), floats(N, 2, H), floats(H, 4 * H)]
found = []
for machine in (ops, reference):
    U, z, s, dy, d, dU = (machine.upload(array.copy()) for array in start)
    machine.recur(cell, U, z, s)
    machine.recur_backward(cell, U, z, s, dy, d, dU)
    found.append((z, s, d, dU))
for got, want in zip(*found):
    close(got, want)

model = build(ModelConfig(vocabulary_size=37, hidden=21, embedding=10, layers=2))
network = Network(model, ops, {{name: floats(*shape) / 2 for name, shape in model.layout.items()}})
prompts, config = [np.array([1, 2, 3]), np.array([4])], SamplingConfig(20, temperature=0)
for rows in (37, 0):
    decoding.TABLE_ROWS = rows
    network.set_weights(network.weights())
    got = [generate_batch(network, prompts, config, [1, 2])]
    got += [generate_batch(network.rounded(), prompts, config, [1, 2])]
    ops.decoder, own = lambda *arguments: None, ops.decoder
    want = [generate_batch(network, prompts, config, [1, 2])]
    ops.decoder = own
    assert [ids.tolist() for ids in got[0]] == [ids.tolist() for ids in want[0]]
int8 = SamplingConfig(20, temperature=0, weights="int8")
near = generate_batch(network, prompts, int8, [1, 2])
assert [ids[:5].tolist() for ids in near] == [ids[:5].tolist() for ids in got[1]]
"""


def test_processors_with_narrower_vectors(tmp_path):
    """16-byte vectors without fused multiply-adds. test_kernel_cache checks that AVX2 computes the bits of AVX-512."""
    run_python(NARROW.format(width=16), NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="", NUMBA_CACHE_DIR=str(tmp_path),
               NUMBA_RNNLM_NUM_THREADS="2")  # fmt: skip
