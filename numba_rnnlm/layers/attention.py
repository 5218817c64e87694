"""Self-attention: each step looks at the steps of its own sequence."""

from dataclasses import KW_ONLY, dataclass
from math import sqrt
from typing import Annotated, Any, Literal

import numpy as np

from ..arguments import Only, checked, hidden
from ..backends.ops import Array, Ops, Shape
from ..errors import ConfigError, ShapeError, expect_flag, expect_number, expect_one_of
from .initializers import glorot
from .layer import Run
from .options import WEIGHTS, Glorot, TakesVectors, Zeros

MOST_STEPS = 2**24  # counted exactly in float32
NO_SCORES = Only("the weights of all steps are never in memory at once")


@dataclass(frozen=True)
class Remembering(TakesVectors):
    """A layer whose steps look at the ``window`` last steps, up to and including their own.

    A stream carries what the next steps will look at, without its gradient (Dai et al. 2019; Merity 2019): the last window - 1 rows of some
    arrays (S, N, F), and how many steps there have been. S = window - 1 + T.
    """

    _: KW_ONLY
    window: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window is not None:
            expect_number(f"{type(self).__name__}: window", self.window, 1, MOST_STEPS, whole=True)

    @property
    def masks(self) -> bool:
        """Whether no step sees later ones."""
        return True

    @property
    def causal(self) -> bool:
        return self.masks and self.window is not None

    @property
    def why_not_causal(self) -> str:
        if self.masks:
            return "sees all earlier steps, more than a stream can carry; say how many it is to see, as in window=128"
        return "sees later steps, which a language model is to predict; give it use_causal_mask=True and a window, as in window=128"

    @property
    def carried(self) -> int:
        """How many steps before a segment its first step sees."""
        return 0 if self.window is None else self.window - 1

    def output(self, shape: Shape) -> Shape:
        if len(shape) != 3:
            raise ShapeError(f"{type(self).__name__} takes sequences of vectors, got an input with {len(shape)} axes; a recurrent layer in front "
                             "of it needs return_sequences=True.")
        return shape

    def memory(self, shape: Shape) -> dict[str, int]:
        """Names and sizes of the rows that a stream carries."""
        return {"x": shape[-1]}

    def state(self, shape: Shape) -> dict[str, Shape]:
        if not self.carried:
            return {}
        return {name: (shape[1], self.carried, size) for name, size in self.memory(shape).items()} | {"held": (shape[1],)}

    def remembered(self, shape: Shape) -> dict[str, Shape]:
        """The activations that :meth:`recall` needs."""
        seen = {name: (self.carried + shape[0], shape[1], size) for name, size in self.memory(shape).items()}
        return seen | (dict.fromkeys(("held", "more"), (shape[1],)) if self.carried else {})

    def recall(self, ops: Ops, run: Run, steps: int) -> Array | None:
        """Put the carried rows in front of those of this segment, and carry the last ones on; → how many there were for each stream."""
        if not self.carried:
            return None
        for name, before in run.m.items():
            if name != "held":
                ops.copy(before.swapaxes(0, 1), run.a[name][: self.carried])
                ops.copy(run.a[name][steps:], before.swapaxes(0, 1))
        ops.copy(run.m["held"], run.a["held"])
        ops.fill(run.a["more"], steps)
        ops.add(run.a["more"], run.m["held"])
        return run.a["held"]

    def how(self, run: Run, dropout: float) -> dict[str, Any]:
        """Arguments of the verbs: what a step sees, and dropout."""
        trains = run.key is not None
        return {"causal": self.masks, "window": self.window or 0, "held": run.a.get("held"), "rate": dropout if trains else 0.0, "key": run.key or 0}


@dataclass(frozen=True)
class SelfAttention(Remembering):
    """Attention that sees the whole sequence, or with ``use_causal_mask`` no later steps."""

    _: KW_ONLY
    use_causal_mask: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        expect_flag(f"{name}: use_causal_mask", self.use_causal_mask)
        if self.window is not None and not self.use_causal_mask:
            raise ConfigError(f"{name}: window is {self.window}, but without use_causal_mask=True every step sees the whole sequence; give both or "
                              "neither.")

    @property
    def masks(self) -> bool:
        return self.use_causal_mask


@checked
@dataclass(frozen=True)
class MultiHeadAttention(SelfAttention):
    """Several attentions side by side, each on its own projection of the input (Vaswani et al. 2017).

    ::

        q, k, v = x Wq + bq, x Wk + bk, x Wv + bv              for each head its columns
        y = softmax(q kᵀ / √key_dim) v Wo + bo                 over the steps that a step sees

    Weights: ``Wq``, ``Wk`` (D, A·K), ``Wv`` (D, A·V), ``Wo`` (A·V, D), and if ``use_bias`` ``bq``, ``bk`` (A·K), ``bv`` (A·V), ``bo`` (D), with A
    heads, K = key_dim and V = value_dim; ``get_weights()`` has Keras's shapes, such as (D, A, K). State, with a window: the last keys ``k`` (N, window - 1, A·K) and values ``v``, and ``held``
    (N), how many steps there have been.

    In Keras, ``use_causal_mask`` is an argument of the call, and ``window`` is called ``sliding_window``. In a language model both must be given.

    Parameters
    ----------
    num_heads
        A.
    key_dim
        K, the size of a head's queries and keys.
    value_dim
        V, the size of its values; None: key_dim.
    dropout
        Part of the softmax's weights that are dropped while training.
    use_bias
        Add the biases.
    rotary
        Rotate pairs of elements of queries and keys by an angle that grows with the step, so that their products depend on the distance
        (Su et al. 2021). Element i and element i + K/2 turn by step · 10000^(-2i/K). It is an option and not a layer in front, because the values
        are not rotated. Since only distances matter, a stream carries no positions for it, and never runs out of them.
    use_causal_mask
        No step sees later ones.
    window
        A step sees this many steps, up to and including its own; None: all earlier ones.
    input_shape, input_dim
        On the first layer: (steps or None, features) of the vectors, or the features alone.

    Examples
    --------
    >>> attention = MultiHeadAttention(4, 16, use_causal_mask=True, window=100)
    >>> attention.parameters((20, 32, 64))["Wq"], attention.state((20, 32, 64))["k"]
    ((64, 64), (32, 99, 64))
    """

    num_heads: int
    key_dim: int
    value_dim: int | None = None
    dropout: float = 0.0
    use_bias: bool = True
    _: KW_ONLY
    rotary: bool = False
    output_shape: Annotated[None, Only("the output has the size of the input; put a Dense layer behind it")] = hidden(None)
    attention_axes: Annotated[None, Only("attention is over the steps")] = hidden(None)
    flash_attention: Annotated[None, Only("it always computes in tiles")] = hidden(None)
    kernel_initializer: Glorot = hidden("glorot_uniform")
    bias_initializer: Zeros = hidden("zeros")
    seed: Annotated[None, Only("the seed of the model decides what is dropped: Sequential(seed=...)")] = hidden(None)
    return_attention_scores: Annotated[Literal[False], NO_SCORES] = hidden(False)

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_number("MultiHeadAttention: num_heads", self.num_heads, 1, 2**20, whole=True)
        expect_number("MultiHeadAttention: key_dim", self.key_dim, 1, 2**20, whole=True)
        if self.value_dim is not None:
            expect_number("MultiHeadAttention: value_dim", self.value_dim, 1, 2**20, whole=True)
        expect_number("MultiHeadAttention: dropout", self.dropout, 0, 0.999)
        expect_flag("MultiHeadAttention: use_bias", self.use_bias)
        expect_flag("MultiHeadAttention: rotary", self.rotary)
        if self.rotary and self.key_dim % 2:
            raise ConfigError(f"MultiHeadAttention: key_dim is {self.key_dim}, expected an even number, because rotary=True rotates pairs of elements.")

    @property
    def sizes(self) -> tuple[int, int]:
        """A·K, A·V"""
        return self.num_heads * self.key_dim, self.num_heads * (self.value_dim or self.key_dim)

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        size, (keys, values) = shape[-1], self.sizes
        columns = {"q": (size, keys), "k": (size, keys), "v": (size, values), "o": (values, size)}
        return {key: both for name, (rows, width) in columns.items()
                for key, both in ((f"W{name}", (rows, width)), (f"b{name}", (width,))) if self.use_bias or key[0] == "W"}  # fmt: skip

    def memory(self, shape: Shape) -> dict[str, int]:
        return dict(zip("kv", self.sizes, strict=True))

    def activations(self, shape: Shape, training: bool) -> dict[str, Shape]:
        rows, seen, (keys, values) = shape[:2], (self.carried + shape[0], shape[1]), self.sizes
        arrays = self.remembered(shape) | {"q": (*rows, keys), "mixed": (*rows, values), "sums": (*rows, self.num_heads), "y": shape}
        if self.rotary:
            arrays |= {"turned": (*seen, keys), "exchanged": (*rows, keys)}
        if training:
            arrays |= {"dmixed": (*rows, values), "dq": (*rows, keys), "dk": (*seen, keys), "dv": (*seen, values), "dx": shape, "part": shape}
        return arrays

    def initialize(self, shape: Shape, random: np.random.Generator) -> dict[str, np.ndarray]:
        return {name: glorot(random, *size) if name in self.matrices() else np.zeros(size) for name, size in self.parameters(shape).items()}

    def forward(self, ops: Ops, run: Run, x: Array) -> Array:
        p, a = run.p, run.a
        for name, out in (("q", a["q"]), ("k", a["k"][self.carried :]), ("v", a["v"][self.carried :])):
            ops.project(x, p[f"W{name}"], p.get(f"b{name}"), out)
        self.recall(ops, run, len(x))
        if self.rotary:
            cosines, sines = self._turns(ops, run, a["k"].shape)
            self._exchange(ops, a["k"], a["turned"])
            ops.multiply(a["turned"], sines, a["turned"])
            ops.multiply(a["k"], cosines, a["turned"], add=True)
            self._exchange(ops, a["q"], a["exchanged"])
            ops.multiply(a["q"], cosines[self.carried :], a["q"])
            ops.multiply(a["exchanged"], sines[self.carried :], a["q"], add=True)
        ops.attend(a["q"], self._keys(run), a["v"], a["mixed"], a["sums"], self.num_heads, 1 / sqrt(self.key_dim), **self.how(run, self.dropout))
        ops.project(a["mixed"], p["Wo"], p.get("bo"), a["y"])
        return a["y"]

    def backward(self, ops: Ops, run: Run, x: Array, dy: Array) -> Array:
        p, a, g, dx, add = run.p, run.a, run.g, run.a["dx"], run.adds(ops, *run.p)
        ops.project_backward(a["mixed"], p["Wo"], dy, a["dmixed"], g["Wo"], g.get("bo"), add=add)
        ops.attend_backward(a["q"], self._keys(run), a["v"], a["mixed"], a["sums"], a["dmixed"], a["dq"], a["dk"], a["dv"], self.num_heads,
                            1 / sqrt(self.key_dim), **self.how(run, self.dropout))
        dk = a["dk"][self.carried :]
        if self.rotary:
            cosines, sines = self._turns(ops, run, a["k"].shape)
            for gradient in (a["dq"], dk):
                self._rotate_back(ops, gradient, cosines[self.carried :], sines[self.carried :], a["turned"][self.carried :], a["q"])
        biases = {name: g.get(f"b{name}") for name in "qkv"}
        if self.use_bias and not self.rotary and not self.carried:
            # All scores of a query grow by q · bk, which changes no weight: the gradient is zero, not noise.
            biases["k"] = None
            if not add:
                ops.fill(g["bk"], 0)
        for name, gradient, out in (("q", a["dq"], dx), ("k", dk, a["part"]), ("v", a["dv"][self.carried :], a["part"])):
            ops.project_backward(x, p[f"W{name}"], gradient, out, g[f"W{name}"], biases[name], add=add)
            if out is not dx:
                ops.add(out, dx)
        return dx

    def _turns(self, ops: Ops, run: Run, shape: Shape) -> tuple[Array, Array]:
        """Cosines, and sines that are negative in the first half of a head, of the angles of all keys (S, N, A·K)."""
        if "turns" not in run.memo:
            half = 10000.0 ** (-np.arange(0, self.key_dim, 2) / self.key_dim)
            angles = np.arange(shape[0])[:, np.newaxis] * half
            both = np.cos(angles), np.sin(angles)
            found = np.concatenate([both[0], both[0]], 1), np.concatenate([-both[1], both[1]], 1)
            run.memo["turns"] = tuple(ops.upload(np.tile(each, (1, shape[1] * self.num_heads)).reshape(shape)) for each in found)
        cosines, sines = run.memo["turns"]
        return cosines, sines

    def _keys(self, run: Run) -> Array:
        """The keys that queries are compared with; those that are carried along are not rotated."""
        return run.a["turned" if self.rotary else "k"]

    def _rotate_back(self, ops: Ops, dx: Array, cosines: Array, sines: Array, turned: Array, scratch: Array) -> None:
        ops.multiply(dx, sines, scratch)
        self._exchange(ops, scratch, turned)
        ops.multiply(dx, cosines, dx)
        ops.add(turned, dx)

    def _exchange(self, ops: Ops, x: Array, out: Array) -> None:
        """out ← x with the halves of each head exchanged."""
        x, out, half = x.reshape(-1, self.key_dim), out.reshape(-1, self.key_dim), self.key_dim // 2
        ops.copy(x[:, half:], out[:, :half])
        ops.copy(x[:, :half], out[:, half:])

    def matrices(self) -> tuple[str, ...]:
        return ("Wq", "Wk", "Wv", "Wo")


@dataclass(frozen=True)
class _OfInputs(SelfAttention):
    """Attention whose queries, keys and values are the inputs themselves."""

    _: KW_ONLY
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_number(f"{type(self).__name__}: dropout", self.dropout, 0, 0.999)

    def activations(self, shape: Shape, training: bool) -> dict[str, Shape]:
        arrays = self.remembered(shape) | {"y": shape, "sums": (*shape[:2], 1)}
        return arrays | ({"dx": shape, "dk": arrays["x"], "dv": arrays["x"]} if training else {})

    def prepare(self, ops: Ops, run: Run) -> None:
        """Compute what :meth:`compared` needs."""

    def compared(self, run: Run, x: Array) -> tuple[Array, Array, Array | None]:
        """Queries, keys, and the weights of additive scores."""
        return x, run.a["x"], None

    def forward(self, ops: Ops, run: Run, x: Array) -> Array:
        y, seen = run.a["y"], run.a["x"]
        ops.copy(x, seen[self.carried :])
        self.recall(ops, run, len(x))
        self.prepare(ops, run)
        q, k, w = self.compared(run, x)
        ops.attend(q, k, seen, y, run.a["sums"], w=w, **self.how(run, self.dropout))
        return y

    def differentiate(self, ops: Ops, run: Run, x: Array, dy: Array, dw: Array | None, add: bool = False) -> None:
        """dx, dk, dv, dw ← gradients of queries, keys, values and weights of additive scores; with ``add``, dw is added to instead."""
        a, (q, k, w) = run.a, self.compared(run, x)
        ops.attend_backward(q, k, a["x"], a["y"], a["sums"], dy, a["dx"], a["dk"], a["dv"], w=w, dw=dw, add=add, **self.how(run, self.dropout))

    def total(self, ops: Ops, run: Run) -> Array:
        """dx, the gradient of queries, plus those of keys and values of the same steps."""
        for name in ("dk", "dv"):
            ops.add(run.a[name][self.carried :], run.a["dx"])
        return run.a["dx"]


@checked
@dataclass(frozen=True)
class Attention(_OfInputs):
    """Attention of the inputs with at most two weights, over the steps that a step sees (Luong et al. 2015).

    ::

        y_t = Σ_s softmax_s(score(x_t, x_s)) x_s
        score(q, k) = scale · q · k                                           score_mode="dot"
        score(q, k) = concat_score_weight · Σ_d tanh(scale · (q_d + k_d))     score_mode="concat"

    As in Keras, the products are not divided by √D. Weights: ``scale`` (1, 1), if ``use_scale``; otherwise it is 1. ``concat_score_weight`` (1, 1), with
    "concat". Both start at 1; in ``get_weights()`` they have Keras's shape, (). State, with a window: the last inputs ``x`` (N, window - 1, D), and
    ``held`` (N). With "concat", the layer computes T² · D hyperbolic tangents, so it is for short sequences or windows.

    Parameters
    ----------
    use_scale
        Learn ``scale``.
    score_mode
        "dot" or "concat".
    dropout
        Part of the softmax's weights that are dropped while training.
    use_causal_mask
        No step sees later ones. In Keras, this is an argument of the call.
    window
        A step sees this many steps, up to and including its own; None: all earlier ones. A language model needs both.
    input_shape, input_dim
        On the first layer: (steps or None, features) of the vectors, or the features alone.

    Examples
    --------
    >>> Attention().output((20, 32, 64))
    (20, 32, 64)
    >>> Attention(use_scale=True, score_mode="concat").parameters((20, 32, 64))
    {'scale': (1, 1), 'concat_score_weight': (1, 1)}
    """

    use_scale: bool = False
    score_mode: str = "dot"
    _: KW_ONLY
    seed: Annotated[None, Only("the seed of the model decides what is dropped: Sequential(seed=...)")] = hidden(None)
    return_attention_scores: Annotated[Literal[False], NO_SCORES] = hidden(False)

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_flag("Attention: use_scale", self.use_scale)
        expect_one_of("Attention: score_mode", self.score_mode, ("dot", "concat"))

    @property
    def _additive(self) -> bool:
        return self.score_mode == "concat"

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        return {name: (1, 1) for name, learned in (("scale", self.use_scale), ("concat_score_weight", self._additive)) if learned}

    def activations(self, shape: Shape, training: bool) -> dict[str, Shape]:
        arrays, vector = super().activations(shape, training), (shape[-1], 1)
        scaled = arrays["x"] if self._additive else shape  # the keys, the last of which are the queries, or the queries alone
        if self.parameters(shape):
            arrays["ones"] = vector
        if self.use_scale:
            arrays |= {"scales": vector, "rows": (*scaled[:2], 1), "all": scaled, "scaled": scaled} | ({"dscales": vector} if training else {})
        if self._additive:
            arrays |= {"w": vector} | ({"dw": vector} if training else {})
        return arrays

    def initialize(self, shape: Shape, random: np.random.Generator) -> dict[str, np.ndarray]:
        return {name: np.ones(size) for name, size in self.parameters(shape).items()}

    def prepare(self, ops: Ops, run: Run) -> None:
        p, a = run.p, run.a
        if p:
            ops.fill(a["ones"], 1)
        if self._additive:
            ops.project(a["ones"], p["concat_score_weight"], None, a["w"])
        if self.use_scale:
            ops.project(a["ones"], p["scale"], None, a["scales"])
            ops.fill(a["rows"], 1)
            ops.project(a["rows"], a["scales"], None, a["all"], transposed=True)
            ops.multiply(a["x"][-len(a["all"]) :], a["all"], a["scaled"])

    def compared(self, run: Run, x: Array) -> tuple[Array, Array, Array | None]:
        a, seen = run.a, run.a["x"]
        if self._additive:
            keys = a["scaled"] if self.use_scale else seen
            return keys[self.carried :], keys, a["w"].reshape(-1)
        return a["scaled"] if self.use_scale else x, seen, None

    def backward(self, ops: Ops, run: Run, x: Array, dy: Array) -> Array:
        p, a, g, dx, add = run.p, run.a, run.g, run.a["dx"], run.adds(ops, *run.p)
        self.differentiate(ops, run, x, dy, a["dw"].reshape(-1) if self._additive else None)
        if self._additive:
            ops.project_backward(a["ones"], p["concat_score_weight"], a["dw"], None, g["concat_score_weight"], None, add=add)
        if self.use_scale:
            gradient = dx
            if self._additive:  # the queries are scaled keys
                gradient = a["dk"]
                ops.add(dx, gradient[self.carried :])
                ops.fill(dx, 0)
            ops.multiply(gradient, a["x"][-len(gradient) :], a["scaled"])  # no longer needed: now the terms of the gradient of scale
            ops.multiply(gradient, a["all"], gradient)
            ops.project_backward(a["rows"], a["scales"], a["scaled"], None, a["dscales"], None, transposed=True)
            ops.project_backward(a["ones"], p["scale"], a["dscales"], None, g["scale"], None, add=add)
        return self.total(ops, run)


@checked
@dataclass(frozen=True)
class AdditiveAttention(_OfInputs):
    """Attention with scores Σ scale ⊙ tanh(q + k) of the inputs, in Keras's form (Bahdanau et al. 2015).

    ::

        y_t = Σ_s softmax_s(Σ_d scale_d tanh(x_td + x_sd)) x_s

    Weights: ``scale`` (D), if ``use_scale``. State, with a window: the last inputs ``x`` (N, window - 1, D), and ``held`` (N).
    It computes T² · D hyperbolic tangents, so it is for short sequences or windows.

    Parameters
    ----------
    use_scale
        Whether the scores have weights; otherwise they are sums.
    dropout
        Part of the softmax's weights that are dropped while training.
    use_causal_mask
        No step sees later ones. In Keras, this is an argument of the call.
    window
        A step sees this many steps, up to and including its own; None: all earlier ones. A language model needs both.
    input_shape, input_dim
        On the first layer: (steps or None, features) of the vectors, or the features alone.

    Examples
    --------
    >>> AdditiveAttention().parameters((20, 32, 64))
    {'scale': (64,)}
    """

    use_scale: bool = True
    _: KW_ONLY
    seed: Annotated[None, Only("the seed of the model decides what is dropped: Sequential(seed=...)")] = hidden(None)
    return_attention_scores: Annotated[Literal[False], NO_SCORES] = hidden(False)

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_flag("AdditiveAttention: use_scale", self.use_scale)

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        return {"scale": shape[-1:]} if self.use_scale else {}

    def activations(self, shape: Shape, training: bool) -> dict[str, Shape]:
        return super().activations(shape, training) | ({} if self.use_scale else {"ones": shape[-1:]})

    def initialize(self, shape: Shape, random: np.random.Generator) -> dict[str, np.ndarray]:
        limit = sqrt(3 / shape[-1])  # as Keras: both fans of a vector are its length
        return {name: random.uniform(-limit, limit, size) for name, size in self.parameters(shape).items()}

    def prepare(self, ops: Ops, run: Run) -> None:
        if not self.use_scale:
            ops.fill(run.a["ones"], 1)

    def compared(self, run: Run, x: Array) -> tuple[Array, Array, Array | None]:
        return x, run.a["x"], run.p["scale"] if self.use_scale else run.a["ones"]

    def backward(self, ops: Ops, run: Run, x: Array, dy: Array) -> Array:
        self.differentiate(ops, run, x, dy, run.g.get("scale"), run.adds(ops, *run.p))
        return self.total(ops, run)


@checked
@dataclass(frozen=True)
class SingleHeadAttention(Remembering):
    """One head without matrices for keys and values, from the SHA-RNN (Merity 2019). No step sees later ones.

    ::

        q = σ(s_q) ⊙ norm(x Wq + bq)        k = σ(s_k) ⊙ x        v = φ(σ(s_v)) ⊙ x
        φ(u) = σ(f) ⊙ tanh(c), [c f] = u Wv + bv
        y = softmax(q kᵀ / √D) v            over the steps that a step sees

    The gates do not depend on the input: each is one vector, which multiplies queries and outputs, so the keys and values are the inputs as
    they are. norm is a layer normalisation. Put it into a Residual, behind a LayerNormalization.

    Weights: ``Wq`` (D, D), ``bq``, ``gamma``, ``beta`` (D) of the norm, ``s`` (3, D) = s_q, s_k, s_v, which start at 0, ``Wv`` (D, 2·D), ``bv`` (2·D).
    State, with a window: the last inputs ``x`` (N, window - 1, D), and ``held`` (N), how many steps there have been.

    Parameters
    ----------
    window
        A step sees this many steps, up to and including its own; None: all earlier ones. A language model needs a number.
    dropout
        Part of the softmax's weights that are dropped while training.
    epsilon
        Of the norm.
    input_shape, input_dim
        On the first layer: (steps or None, features) of the vectors, or the features alone.

    Examples
    --------
    >>> SingleHeadAttention(window=1000).state((20, 32, 64))
    {'x': (32, 999, 64), 'held': (32,)}
    """

    _: KW_ONLY
    dropout: float = 0.0
    epsilon: float = 1e-12
    kernel_initializer: Annotated[Literal["glorot_uniform"], WEIGHTS] = hidden("glorot_uniform")

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_number("SingleHeadAttention: dropout", self.dropout, 0, 0.999)
        expect_number("SingleHeadAttention: epsilon", self.epsilon, 0, 1e6, open_low=True)

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        size = shape[-1]
        return {"Wq": (size, size), "bq": (size,), "gamma": (size,), "beta": (size,), "s": (3, size), "Wv": (size, 2 * size), "bv": (2 * size,)}

    def activations(self, shape: Shape, training: bool) -> dict[str, Shape]:
        rows, size = shape[:2], shape[-1]
        arrays = self.remembered(shape) | dict.fromkeys(("linear", "normal", "q", "mixed", "y", "every_product", "every_gate"), shape)
        arrays |= {"stats": (*rows, 2), "sums": (*rows, 1), "ones": (*rows, 1), "gates": (3, size), "product": (1, size), "phi": (2, size), "gate": (1, size)}
        if training:
            arrays |= {"dx": shape, "dq": shape, "dlinear": shape, "dk": arrays["x"], "dv": arrays["x"],
                       "dgates": (3, size), "dvector": (1, size), "dphi": (2, size), "dproduct": (1, size)}  # fmt: skip
        return arrays

    def initialize(self, shape: Shape, random: np.random.Generator) -> dict[str, np.ndarray]:
        start = {name: glorot(random, *size) if name[0] == "W" else np.zeros(size) for name, size in self.parameters(shape).items()}
        return start | {"gamma": np.ones(shape[-1])}

    def forward(self, ops: Ops, run: Run, x: Array) -> Array:
        p, a = run.p, run.a
        self._open(ops, run)
        ops.project(x, p["Wq"], p["bq"], a["linear"])
        ops.normalize(_rows(a["linear"]), p["gamma"], p["beta"], self.epsilon, True, _rows(a["normal"]), _rows(a["stats"]))
        ops.multiply(a["normal"], a["every_product"], a["q"])
        ops.copy(x, a["x"][self.carried :])
        self.recall(ops, run, len(x))
        ops.attend(a["q"], a["x"], a["x"], a["mixed"], a["sums"], 1, 1 / sqrt(x.shape[-1]), **self.how(run, self.dropout))
        ops.multiply(a["mixed"], a["every_gate"], a["y"])
        return a["y"]

    def _open(self, ops: Ops, run: Run) -> None:
        """gates ← σ(s); product (1, D) ← σ(s_q) ⊙ σ(s_k); phi ← tanh(c), σ(f); gate (1, D) ← φ(σ(s_v)); and both for every step"""
        p, a = run.p, run.a
        gates, phi = a["gates"], a["phi"]
        ops.fill(a["ones"], 1)
        ops.copy(p["s"], gates)
        ops.activate("sigmoid", gates)
        ops.multiply(gates[:1], gates[1:2], a["product"])
        ops.project(gates[2:], p["Wv"], p["bv"], phi.reshape(1, -1))
        ops.activate("tanh", phi[:1])
        ops.activate("sigmoid", phi[1:])
        ops.multiply(phi[:1], phi[1:], a["gate"])
        for vector in ("product", "gate"):
            ops.project(a["ones"], a[vector], None, a[f"every_{vector}"])

    def backward(self, ops: Ops, run: Run, x: Array, dy: Array) -> Array:
        p, a, g, dx, dq, vector, add = run.p, run.a, run.g, run.a["dx"], run.a["dq"], run.a["dvector"], run.adds(ops, *run.p)
        ops.multiply(dy, a["mixed"], dq)
        ops.project_backward(a["ones"], a["gate"], dq, None, vector, None)  # sums over rows: the gradient of the gate
        ops.multiply(dy, a["every_gate"], dy)
        ops.attend_backward(a["q"], a["x"], a["x"], a["mixed"], a["sums"], dy, dq, a["dk"], a["dv"], 1, 1 / sqrt(x.shape[-1]),
                            **self.how(run, self.dropout))
        ops.multiply(dq, a["normal"], dy)
        ops.project_backward(a["ones"], a["product"], dy, None, a["dproduct"], None)
        ops.multiply(dq, a["every_product"], dq)
        ops.normalize_backward(_rows(a["linear"]), p["gamma"], True, _rows(a["stats"]), _rows(dq), _rows(a["dlinear"]), g["gamma"], g["beta"], add=add)
        ops.project_backward(x, p["Wq"], a["dlinear"], dx, g["Wq"], g["bq"], add=add)
        for gradient in (a["dk"], a["dv"]):
            ops.add(gradient[self.carried :], dx)
        self._open_backward(ops, run, vector, add)
        return dx

    def _open_backward(self, ops: Ops, run: Run, dgate: Array, add: bool) -> None:
        p, a, g = run.p, run.a, run.g
        gates, dgates, phi, dphi = a["gates"], a["dgates"], a["phi"], a["dphi"]
        for row, other in ((0, 1), (1, 0)):
            ops.multiply(a["dproduct"], gates[other : other + 1], dgates[row : row + 1])
            ops.multiply(dgate, phi[other : other + 1], dphi[row : row + 1])
        ops.activate_backward("tanh", phi[:1], dphi[:1])
        ops.activate_backward("sigmoid", phi[1:], dphi[1:])
        ops.project_backward(gates[2:], p["Wv"], dphi.reshape(1, -1), dgates[2:], g["Wv"], g["bv"], add=add)
        ops.activate_backward("sigmoid", gates, dgates)
        if add:
            ops.add(dgates, g["s"])
        else:
            ops.copy(dgates, g["s"])

    def matrices(self) -> tuple[str, ...]:
        return ("Wq",)


@checked
@dataclass(frozen=True)
class AttentionPooling(TakesVectors):
    """A weighted mean over all steps (as in textgenrnn; Felbo et al. 2017), or after each step that of the steps so far.

    ::

        y   = Σ_s softmax_s(x_s · w) x_s                       over all steps
        y_t = Σ_s softmax_s(x_s · w) x_s                       over s ≤ t, with return_sequences

    Weights: ``W`` (D, 1). With ``return_sequences``, all that a stream has read before counts as one more step: its value is ``mean`` (N, D), the
    mean so far, and its score ``log`` (N, 1), the logarithm of Σ exp(x · w). These are the state, with ``held`` (N), 1 where there is such a step.
    So a stream needs no window. In float32, the logarithm no longer grows when a step is less than about a millionth of the sum: beyond millions of
    steps, the mean forgets the first ones.

    Parameters
    ----------
    return_sequences
        A mean after every step (T, N, D), which a language model needs, or one for the whole sequence (N, D).
    input_shape, input_dim
        On the first layer: (steps or None, features) of the vectors, or the features alone.

    Examples
    --------
    >>> AttentionPooling().output((20, 32, 64))
    (32, 64)
    >>> AttentionPooling(return_sequences=True).state((20, 32, 64))
    {'mean': (32, 64), 'log': (32, 1), 'held': (32,)}
    """

    return_sequences: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_flag("AttentionPooling: return_sequences", self.return_sequences)

    @property
    def causal(self) -> bool:
        return self.return_sequences

    @property
    def why_not_causal(self) -> str:
        return "gives one vector for the whole sequence; return_sequences=True gives the mean of the steps so far after each step"

    def output(self, shape: Shape) -> Shape:
        if len(shape) != 3:
            raise ShapeError(f"AttentionPooling takes sequences of vectors, got an input with {len(shape)} axes; a recurrent layer in front of it "
                             "needs return_sequences=True.")
        return shape if self.return_sequences else shape[1:]

    def parameters(self, shape: Shape) -> dict[str, Shape]:
        return {"W": (shape[-1], 1)}

    def state(self, shape: Shape) -> dict[str, Shape]:
        return {"mean": shape[1:], "log": (shape[1], 1), "held": (shape[1],)} if self.return_sequences else {}

    def activations(self, shape: Shape, training: bool) -> dict[str, Shape]:
        steps, streams, size = shape
        if self.return_sequences:
            x, scores, one = (steps + 1, streams, size), (steps + 1, streams, 1), (steps, streams, 1)
            arrays: dict[str, Shape] = {"x": x, "scores": scores, "held": (streams,), "ones": one, "y": shape, "sums": one}
            return arrays | ({"dx": shape, "dv": x, "dscores": scores, "dq": one} if training else {})
        arrays = {"ones": (1, streams, 1), "q": (1, streams, size), "y": (streams, size), "sums": (1, streams, 1)}
        return arrays | ({"dq": arrays["q"], "dx": shape, "dv": shape} if training else {})

    def initialize(self, shape: Shape, random: np.random.Generator) -> dict[str, np.ndarray]:
        return {"W": random.uniform(-0.05, 0.05, (shape[-1], 1))}

    def forward(self, ops: Ops, run: Run, x: Array) -> Array:
        a, y = run.a, run.a["y"]
        ops.fill(a["ones"], 1)
        if self.return_sequences:
            self._read(ops, run, x)
        else:
            ops.project(a["ones"], run.p["W"], None, a["q"], transposed=True)
            ops.attend(a["q"], x, x, y.reshape(1, *y.shape), a["sums"])
        return y

    def _read(self, ops: Ops, run: Run, x: Array) -> None:
        """The mean after each step, by queries of 1 and keys that are the scores; what was read before is in front of the segment."""
        a, m = run.a, run.m
        for name, before in (("x", m["mean"]), ("scores", m["log"])):
            ops.copy(before, a[name][0])
        ops.copy(m["held"], a["held"])
        ops.copy(x, a["x"][1:])
        ops.project(x, run.p["W"], None, a["scores"][1:])
        ops.attend(a["ones"], a["scores"], a["x"], a["y"], a["sums"], causal=True, held=a["held"])
        ops.copy(a["y"][-1], m["mean"])
        ops.copy(a["sums"][-1], m["log"])
        ops.fill(m["held"], 1)

    def backward(self, ops: Ops, run: Run, x: Array, dy: Array) -> Array:
        a, y, dx, W, dW, add = run.a, run.a["y"], run.a["dx"], run.p["W"], run.g["W"], run.adds(ops, "W")
        if self.return_sequences:
            ops.attend_backward(a["ones"], a["scores"], a["x"], y, a["sums"], dy, a["dq"], a["dscores"], a["dv"], causal=True, held=a["held"])
            ops.project_backward(x, W, a["dscores"][1:], dx, dW, None, add=add)
            ops.add(a["dv"][1:], dx)
            return dx
        ops.attend_backward(a["q"], x, x, y.reshape(1, *y.shape), a["sums"], dy.reshape(1, *dy.shape), a["dq"], dx, a["dv"])
        ops.add(a["dv"], dx)
        ops.project_backward(a["ones"], W, a["dq"], None, dW, None, transposed=True, add=add)
        return dx

    def matrices(self) -> tuple[str, ...]:
        return ("W",)


def _rows(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1])
