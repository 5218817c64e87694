"""Drawing symbols from a model, one after the other, the state carried along: the cost of each is constant."""

import time
from collections.abc import Iterator, Sequence

import numpy as np

from .backends.ops import Array
from .config import SamplingConfig
from .errors import BackendError, GenerationError
from .memory import enough_memory
from .network import Network
from .portable import stream_key

Written = tuple[int, np.ndarray]

STEPS = 64  # of a prompt that are computed at once
GROWTH = 8  # of the steps at once, while they are faster than that
PROMPTLY = 0.01  # seconds that pass at most, about, before what was drawn is handed out


def uniform(seed: int, position: int) -> float:
    """The random number in [0, 1) for the symbol at ``position`` of a text: the top 53 bits of
    :func:`~numba_rnnlm.portable.stream_key` (seed, position).

    It depends on nothing else, so a text written in two calls equals the same text written in one.
    """
    return (stream_key(seed, position) >> 11) / 2**53


def choose(logits: np.ndarray, config: SamplingConfig, number: float) -> int:
    """The id that ``number`` in [0, 1) picks from the distribution softmax(logits / temperature).

    Parameters
    ----------
    logits
        (V,); -inf is never picked.
    config
        Temperature 0 takes the largest; ``top_k`` and then ``top_p`` narrow the choice.
    number
        Uniform in [0, 1).

    Examples
    --------
    >>> choose(np.log([0.5, 0.3, 0.2]), SamplingConfig(), 0.6)
    1
    """
    logits = np.asarray(logits, np.float64)
    if config.temperature == 0:
        return int(logits.argmax())
    weights = np.exp((logits - logits.max()) / config.temperature)
    if config.top_k or config.top_p < 1:
        order = np.argsort(-logits, kind="stable")  # of equals, the first ids stay
    if config.top_k:
        weights[order[config.top_k :]] = 0
    if config.top_p < 1:
        mass = np.cumsum(weights[order])
        kept = int(np.searchsorted(mass, config.top_p * mass[-1])) + 1
        weights[order[kept:]] = 0
    mass = np.cumsum(weights)
    return int(np.searchsorted(mass, number * mass[-1], side="right"))


class Decoder:
    """What :meth:`numba_rnnlm.backends.ops.Ops.decoder` makes, verb by verb: for machines that have none of their own.

    ``start(states, logits, streams, position)`` sets out: states, (N, S, H) for each recurrent layer, logits (N, V) of the
    symbol at ``position``, or None if none was read yet. ``write`` goes on from there.
    """

    is_exact = True  # it computes just what the verbs do, so they may read the prompt

    def __init__(self, network: Network) -> None:
        self.network = network

    def start(self, states: Sequence[Array], logits: Array | None, streams: int, position: int) -> "Decoder":
        self.state, self.logits, self.position, self.ids = self.network.state(streams), logits, position, None
        for array, state in zip(self.state.values(), states, strict=True):
            self.network.ops.copy(self.network.ops.upload(state), array)
        return self

    def write(
        self, given: np.ndarray, seeds: np.ndarray, temperature: float, top_k: int, top_p: float, banned: np.ndarray
    ) -> np.ndarray:
        """The next ids (T, N): those of ``given`` (T, N), or where that is -1 drawn; stream n draws with seeds[n]."""
        ops, written = self.network.ops, given.copy()
        config = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p)
        for row in written:
            if self.ids is not None:
                self.logits = ops.download(self.network.scores(ops.upload(self.ids), self.state))
            for stream in np.flatnonzero(row < 0):
                assert self.logits is not None  # only what follows a given id is drawn
                logits = self.logits[stream]
                logits[banned] = -np.inf
                row[stream] = choose(logits, config, uniform(int(seeds[stream]), self.position))
            self.position += 1
            self.ids = row[np.newaxis].astype(np.int32)
        return written


def write(
    network: Network, prompts: Sequence[np.ndarray], config: SamplingConfig, seeds: Sequence[int],
    banned: Sequence[int] = (),
) -> Iterator[Written]:
    """Yield (position, ids (T, N)), some steps at a time: the text of every stream from there on, prompts included.

    Streams with a longer prompt go on reading it while others write. Each is what it would be alone. It ends when all
    have ``config.length`` ids more.

    Raises
    ------
    GenerationError
        If the weights have changed since the call: one text is never of two models.
    """
    return _of_one_version(network, network.version, _write(network, prompts, config, seeds, banned))


def _of_one_version(network: Network, version: int, written: Iterator[Written]) -> Iterator[Written]:
    with enough_memory("generation"):  # the caller may request the next piece long after its call
        for piece in written:
            if network.version != version:
                raise GenerationError("the weights of the model have changed since this text was begun; begin again, or train a copy, "
                                      "copy.deepcopy(model), while this model generates.")
            yield piece


def _write(
    network: Network, prompts: Sequence[np.ndarray], config: SamplingConfig, seeds: Sequence[int], banned: Sequence[int]
) -> Iterator[Written]:
    ops, state = network.ops, network.state(len(prompts))
    lengths = [len(prompt) for prompt in prompts]
    known = np.full((max(lengths), len(prompts)), -1, np.int32)
    for stream, prompt in enumerate(prompts):
        known[: len(prompt), stream] = prompt
    decoder = network.decoder(config.weights)
    if decoder is None:
        if config.weights != "float32":
            raise BackendError(f'weights is {config.weights!r}, which needs backend="cpu" in float32 and one kind of cell.')
        decoder = Decoder(network)
    position, logits = 0, None
    if decoder.is_exact:  # what all have is read side by side in time, which is faster
        position = min(lengths)
        for start in range(0, position, STEPS):
            ids = np.ascontiguousarray(known[start : min(start + STEPS, position)])
            logits = network.scores(ops.upload(ids), state)
        logits = ops.download(logits)
    decoding = decoder.start([ops.download(array) for array in state.values()], logits, len(prompts), position)
    numbers, never = np.array(seeds, np.uint64), np.array(banned, np.int64)
    temperature, top_p = float(config.temperature), float(config.top_p)  # of one type: another is another kernel
    steps, end = 1, max(lengths) + config.length
    while position < end:
        begun = time.perf_counter()
        given = np.full((min(steps, end - position), len(prompts)), -1, np.int32)
        prompted = known[position : position + len(given)]
        given[: len(prompted)] = prompted
        yield position, decoding.write(given, numbers, temperature, config.top_k, top_p, never)
        position += len(given)
        if time.perf_counter() - begun < PROMPTLY:  # the reader's time counts too
            steps *= GROWTH
        else:
            steps = max(1, steps // GROWTH)


def generate(
    network: Network, prompt: np.ndarray, config: SamplingConfig, seed: int, banned: Sequence[int] = ()
) -> Iterator[int]:
    """Yield ``config.length`` ids that follow ``prompt`` (at least one id); those in ``banned`` are never drawn."""
    written = write(network, [prompt], config, [seed], banned)
    return (id for position, ids in written for id in ids[max(0, len(prompt) - position) :, 0].tolist())


def generate_batch(
    network: Network, prompts: Sequence[np.ndarray], config: SamplingConfig, seeds: Sequence[int],
    banned: Sequence[int] = (),
) -> list[np.ndarray]:
    """For each prompt the ids that follow it, as :func:`generate` alone gives them with its seed."""
    if not prompts or config.length == 0:
        return [np.empty(0, np.int32) for _ in prompts]
    positions, pieces = zip(*write(network, prompts, config, seeds, banned), strict=True)
    ids = np.concatenate(pieces)
    starts = [len(prompt) - positions[0] for prompt in prompts]
    return [ids[start : start + config.length, stream].copy() for stream, start in enumerate(starts)]
