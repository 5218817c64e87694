"""Hypothesis strategies: small sizes that leave ragged tiles, numbers from a seed, and calls of every verb.

Numbers are float64 that float32 represents exactly, so that all backends start from the same ones. Outputs
that a verb overwrites start as NaN.
"""

from typing import Any

import direct
import numpy as np
from hypothesis import strategies as st
from own_cells import EVERY

from numba_rnnlm import rules
from numba_rnnlm.backends import SIMULATED, reference
from numba_rnnlm.backends.ops import ACTIVATIONS, POOLS
from numba_rnnlm.checking.comparing import floats
from numba_rnnlm.rules import Rule

RULES = {rule.name: rule for rule in vars(rules).values() if isinstance(rule, Rule)}

Call = dict[str, Any]

sizes = st.integers(1, 40 if SIMULATED else 70)  # the simulator is slow, because it runs one thread at a time
units = st.integers(1, 20 if SIMULATED else 70)  # of a time loop, and its streams: 20 take two blocks of each, as 40 do
few = st.integers(0, 5)
steps = st.integers(1, 5)
threads = st.integers(1, 3)
generators = st.integers(0, 2**32 - 1).map(np.random.default_rng)
cells = st.sampled_from(list(EVERY.values()))
keys = st.integers(0, 2**64 - 1)


def many(size: int) -> int:
    """This size, but no more than the GPU simulator can process in a second."""
    return min(size, 3000) if SIMULATED else size


def unwritten(*shape: int) -> np.ndarray:
    return np.full(shape, np.nan)


def output(random: np.random.Generator, add: bool, *shape: int) -> np.ndarray:
    """An output: numbers if the verb adds to it, NaN if it overwrites it."""
    return floats(random, *shape) if add else unwritten(*shape)


@st.composite
def copy(draw) -> Call:
    shape = draw(sizes), draw(sizes)
    return {"source": floats(draw(generators), *shape), "out": unwritten(*shape)}


@st.composite
def fill(draw) -> Call:
    return {"out": unwritten(draw(sizes), draw(sizes)), "value": draw(st.floats(-1e6, 1e6, width=32))}


@st.composite
def add(draw) -> Call:
    random, rows, columns, first = draw(generators), draw(sizes), draw(sizes), draw(few)
    x, out = draw(st.permutations([floats(random, rows, columns), floats(random, rows, columns + draw(few) + first)]))
    return {"x": x, "out": out, "scale": draw(st.sampled_from([1, -0.5, 3])), "first": first}


@st.composite
def reverse(draw) -> Call:
    random, T, N, F = draw(generators), draw(st.integers(0, 5)), draw(sizes), draw(sizes)
    lengths = draw(st.sampled_from([None, random.integers(0, T + 1, N)]))
    return {"x": floats(random, T, N, F), "lengths": lengths, "out": unwritten(T, N, F)}


@st.composite
def gather(draw) -> Call:
    random, V, D, T, N = draw(generators), draw(sizes), draw(sizes), draw(steps), draw(sizes)
    return {"table": floats(random, V, D), "ids": random.integers(0, V, (T, N)), "out": unwritten(T, N, D)}


@st.composite
def scatter_add(draw) -> Call:
    random, V, D, T, N = draw(generators), draw(sizes), draw(sizes), draw(steps), draw(sizes)
    return {"ids": random.integers(0, V, (T, N)), "rows": floats(random, T, N, D), "table": floats(random, V, D)}


@st.composite
def add_positions(draw) -> Call:
    random, L, D, T, N = draw(generators), draw(sizes), draw(sizes), draw(steps), draw(sizes)
    starts = random.integers(0, 2 * L, N).astype(float)
    starts[0] = draw(st.sampled_from([0.0, 2.0**24]))
    return {"table": floats(random, L, D), "starts": starts, "out": floats(random, T, N, D)}


@st.composite
def add_positions_backward(draw) -> Call:
    call, add = draw(add_positions()), draw(st.booleans())
    return {"dout": call["out"], "starts": call["starts"], "dtable": output(draw(generators), add, *call["table"].shape), "add": add}


@st.composite
def project(draw) -> Call:
    random, M, D, K, first, transposed = (
        draw(generators), draw(sizes), draw(sizes), draw(sizes), draw(few), draw(st.booleans())
    )
    F, add = first + K + draw(few), draw(st.booleans())
    return {
        "x": floats(random, M, D),
        "W": floats(random, *((K, D) if transposed else (D, K))),
        "b": draw(st.sampled_from([None, floats(random, F)])),
        "out": output(random, add, M, F),
        "first": first,
        "transposed": transposed,
        "add": add,
    }


@st.composite
def project_backward(draw) -> Call:
    call = draw(project())
    random, out, b, add = draw(generators), call["out"], call["b"], call["add"]
    return {
        "x": call["x"],
        "W": call["W"],
        "dout": floats(random, *out.shape),
        "dx": draw(st.sampled_from([None, unwritten(*call["x"].shape)])),
        "dW": output(random, add, *call["W"].shape),
        "db": None if b is None else output(random, add, *b.shape),
        "first": call["first"],
        "transposed": call["transposed"],
        "add": add,
    }


@st.composite
def convolve(draw) -> Call:
    random, S, N, K, groups = draw(generators), draw(st.integers(0, 9)), draw(few) + 1, draw(steps), draw(st.integers(1, 3))
    inputs, filters = draw(sizes) // groups + 1, draw(sizes) // groups + 1
    add_bias = draw(st.booleans())
    return {
        "x": floats(random, S, N, groups * inputs),
        "W": floats(random, K, inputs, groups * filters),
        "b": floats(random, groups * filters) if add_bias else None,
        "out": unwritten(draw(st.integers(0, 9)), N, groups * filters),
        "stride": draw(st.integers(1, 3)),
        "dilation": draw(st.integers(1, 3)),
        "before": draw(few),
        "groups": groups,
    }


@st.composite
def convolve_backward(draw) -> Call:
    call, random, add = draw(convolve()), draw(generators), draw(st.booleans())
    x, W, b, out = (call.pop(name) for name in ("x", "W", "b", "out"))
    return {
        "x": x,
        "W": W,
        "dout": floats(random, *out.shape),
        "dx": draw(st.sampled_from([None, unwritten(*x.shape)])),
        "dW": output(random, add, *W.shape),
        "db": None if b is None else output(random, add, *b.shape),
        **call,
        "add": add,
    }


@st.composite
def pool_steps(draw) -> Call:
    """Numbers are rounded to halves, so that several steps have the maximum."""
    random, S, N, D = draw(generators), draw(st.integers(0, 9)), draw(few) + 1, draw(sizes)
    return {
        "x": np.round(floats(random, S, N, D) * 2) / 2,
        "out": unwritten(draw(st.integers(0, 6)), N, D),
        "kind": draw(st.sampled_from(POOLS)),
        "size": draw(st.integers(1, 9)),
        "stride": draw(st.integers(1, 3)),
        "before": draw(few),
    }


@st.composite
def pool_steps_backward(draw) -> Call:
    """Includes the result of ``pool_steps``."""
    call, random = draw(pool_steps()), draw(generators)
    out = direct.pool_steps(**call)["out"].astype(np.float32).astype(np.float64)
    return call | {"out": out, "dout": floats(random, *out.shape), "dx": unwritten(*call["x"].shape)}


@st.composite
def recur(draw, cell=cells) -> Call:
    random, cell, T, N, H = draw(generators), draw(cell), draw(steps), draw(units), draw(units)
    first, last = cell.window("h")
    s = unwritten(T + 1, N, len(cell.states), H)
    s[0] = floats(random, *s.shape[1:])
    U = (floats(random, H, (last - first) * H) / np.sqrt(H)).astype(np.float32).astype(np.float64)
    return {
        "cell": cell,
        "U": U if U.size else None,
        "z": floats(random, T, N, len(cell.gates), H),
        "s": s,
        "w": floats(random, len(cell.weights), H) if cell.weights else None,
        "lengths": draw(st.sampled_from([None, random.integers(0, T + 1, N)])),
    }


@st.composite
def recur_backward(draw, cell=cells) -> Call:
    """Includes the arguments for ``recur``, which has to run first."""
    call, random, add = draw(recur(cell)), draw(generators), draw(st.booleans())
    T, N, _, H = call["z"].shape
    return call | {
        "dy": draw(st.sampled_from([None, floats(random, T, N, H)])),
        "d": floats(random, *call["s"].shape[1:]),
        "dU": None if call["U"] is None else output(random, add, *call["U"].shape),
        "dw": None if call["w"] is None else output(random, add, *call["w"].shape),
        "add": add,
    }


@st.composite
def attend(draw) -> Call:
    """Sizes around the tiles of the CPU, or of the GPU on the simulator."""
    random, heads, N, K, V = draw(generators), draw(st.integers(1, 2)), draw(st.integers(1, 1 if SIMULATED else 3)), draw(sizes), draw(sizes)
    T = draw(st.sampled_from([1, 2, 7, 34] if SIMULATED else [1, 2, 7, 60, 121, 130, 250]))
    S = max(1, T + draw(st.sampled_from([-2, 0, 1, 30 if SIMULATED else 100])))
    causal = draw(st.booleans())
    additive = draw(st.integers(0, 3)) == 0 and many(8000) >= S * T
    return {
        "q": floats(random, T, N, heads * K),
        "k": floats(random, S, N, heads * K),
        "v": floats(random, S, N, heads * V),
        "out": unwritten(T, N, heads * V),
        "sums": unwritten(T, N, heads),
        "heads": heads,
        "scale": draw(st.sampled_from([1.0, 0.125, 0.5])) / np.sqrt(K),
        "causal": causal,
        "window": draw(st.sampled_from([0, 1, 5, 50, 150])) if causal else 0,
        "held": draw(st.sampled_from([None, random.integers(0, 50, N).astype(float)])),
        "w": floats(random, heads * K) if additive else None,
        "rate": draw(st.sampled_from([0.0, 0.0, 0.3])),
        "key": draw(keys),
    }


@st.composite
def attend_backward(draw) -> Call:
    """``out`` and ``sums`` are those of ``attend``, as the reference computes them."""
    call, random, add = draw(attend()), draw(generators), draw(st.booleans())
    reference.Backend().attend(**call)
    w = call["w"]
    return call | {"dout": floats(random, *call["out"].shape), "dq": unwritten(*call["q"].shape), "dk": unwritten(*call["k"].shape),
                   "dv": unwritten(*call["v"].shape), "dw": None if w is None else output(random, add, *w.shape), "add": add}  # fmt: skip


@st.composite
def activate(draw) -> Call:
    return {"activation": draw(st.sampled_from(ACTIVATIONS)), "x": floats(draw(generators), draw(sizes), draw(sizes))}


@st.composite
def multiply(draw) -> Call:
    random, size, add = draw(generators), draw(sizes), draw(st.booleans())
    return {"x": floats(random, size), "y": floats(random, size), "out": output(random, add, size), "add": add}


@st.composite
def normalize(draw) -> Call:
    random, M, F = draw(generators), draw(st.sampled_from([1, 7, 64, 150])), draw(sizes)
    gain, offset = (draw(st.sampled_from([None, floats(random, F)])) for _ in range(2))
    return {"x": floats(random, M, F) + draw(st.sampled_from([0, 3])), "gain": gain, "offset": offset, "epsilon": draw(st.sampled_from([1e-3, 0.5])),
            "centred": draw(st.booleans()), "out": unwritten(M, F), "stats": unwritten(M, 2)}  # fmt: skip


@st.composite
def normalize_backward(draw) -> Call:
    call, random, add = draw(normalize()), draw(generators), draw(st.booleans())
    x, gain, centred, (M, F) = call["x"], call["gain"], call["centred"], call["x"].shape
    mean = x.mean(-1) if centred else np.zeros(M)
    stats = np.stack([mean, 1 / np.sqrt(((x.T - mean) ** 2).mean(0) + call["epsilon"])], 1)
    return {"x": x, "gain": gain, "centred": centred, "stats": stats, "dout": floats(random, M, F), "dx": unwritten(M, F),
            "dgain": None if gain is None else output(random, add, F), "doffset": None if call["offset"] is None else output(random, add, F),
            "add": add}  # fmt: skip


@st.composite
def activate_backward(draw) -> Call:
    call, random = draw(activate()), draw(generators)
    activation, x = call["activation"], call["x"]
    if activation == "softmax":
        y = random.dirichlet(np.ones(x.shape[1]), x.shape[0])
    else:
        y = {"tanh": np.tanh, "relu": lambda x: np.maximum(x, 0), "sigmoid": lambda x: 1 / (1 + np.exp(-x))}.get(activation, np.copy)(x)
    return {"activation": activation, "y": y.astype(np.float32).astype(np.float64), "dy": floats(random, *y.shape)}


@st.composite
def dropout(draw) -> Call:
    shape = draw(sizes), draw(sizes)
    return {
        "x": floats(draw(generators), *shape),
        "out": unwritten(*shape),
        "rate": draw(st.floats(0, 0.999)),
        "key": draw(keys),
    }


@st.composite
def cross_entropy(draw) -> Call:
    random, M, D, V, transposed = draw(generators), draw(sizes), draw(sizes), draw(sizes), draw(st.booleans())
    return {
        "x": floats(random, M, D),
        "W": floats(random, *((V, D) if transposed else (D, V))),
        "b": draw(st.sampled_from([None, floats(random, V)])),
        "targets": random.integers(-1, V, M),
        "losses": unwritten(M),
        "transposed": transposed,
    }


@st.composite
def cross_entropy_backward(draw) -> Call:
    call, random, add = draw(cross_entropy()), draw(generators), draw(st.booleans())
    return call | {
        "scale": draw(st.floats(0.125, 2, width=32)),
        "dx": unwritten(*call["x"].shape),
        "dW": output(random, add, *call["W"].shape),
        "db": None if call["b"] is None else output(random, add, *call["b"].shape),
        "add": add,
    }


@st.composite
def binary_cross_entropy(draw) -> Call:
    random, M, F = draw(generators), draw(sizes), draw(sizes)
    targets = random.integers(0, 2, (M, F)).astype(np.float64)
    return {"logits": 4 * floats(random, M, F), "targets": targets, "losses": unwritten(M)}


@st.composite
def binary_cross_entropy_backward(draw) -> Call:
    return draw(binary_cross_entropy()) | {"scale": draw(st.floats(0.125, 2, width=32))}


@st.composite
def norm(draw) -> Call:
    return {"x": floats(draw(generators), draw(st.one_of(sizes, st.integers(1, many(80_000)))))}


@st.composite
def update(draw) -> Call:
    random, rule, size = draw(generators), draw(st.sampled_from(list(RULES.values()))), draw(st.integers(1, 300))
    scale, limit = draw(st.sampled_from([1, 0.25])), draw(st.sampled_from([0.5, np.inf]))
    return {"p": floats(random, size), "g": floats(random, size), **rule_arguments(random, rule, size, scale, limit)}


def rule_arguments(random: np.random.Generator, rule: Rule, size: int, scale: float, limit: float) -> Call:
    """Possible moments and hyperparameters of a rule: second moments are not negative, and not below the square of the mean."""
    moments = abs(floats(random, rule.moments, size))
    hyper = dict(zip(rule.hyper, random.uniform(0.1, 0.9, len(rule.hyper)).astype(np.float32), strict=True))
    if "centred" in hyper:
        hyper["fresh"] = 1 - hyper["rho"]
        moments[1] = np.sqrt(moments[0]) * random.uniform(-1, 1, size)
    return {"rule": rule, "m": moments, "h": np.array([scale, limit, *hyper.values()])}


VERBS = {
    strategy.__name__: strategy
    for strategy in (
        copy, fill, add, reverse, gather, scatter_add, add_positions, add_positions_backward, project, project_backward, convolve, convolve_backward, pool_steps, pool_steps_backward,
        recur, recur_backward, attend, attend_backward, activate, activate_backward, multiply, normalize, normalize_backward, dropout, cross_entropy,
        cross_entropy_backward, binary_cross_entropy,
        binary_cross_entropy_backward, norm, update,
    )
}  # fmt: skip
