"""Texts are read, and symbols drawn behind them, some steps at a time."""

import time
from collections.abc import Iterator, Sequence

import numpy as np

from ..backends.ops import Decoder, Streams
from ..config import SamplingConfig
from ..errors import BackendError, GenerationError
from ..memory import enough_memory
from ..network import Network
from . import verbs
from .choice import choice_of

GROWTH = 8  # of the steps at once, while they are faster than that
PROMPTLY = 0.01  # seconds that pass at most, about, before what was drawn is handed out


def decoder_of(network: Network, weights: str) -> Decoder:
    """What reads and writes with these weights: the backend's own decoder, or the verbs. Raises :class:`BackendError` if neither can."""
    found = network.decoder(weights)
    if found is None and weights != "float32":
        raise BackendError(f'weights is {weights!r}, which needs backend="cpu" in float32.')
    return found or verbs.Decoder(network)


def fresh(texts: Sequence[np.ndarray]) -> tuple[Streams, list[np.ndarray]]:
    """Streams that have read the first symbol of each text, and the rest of the texts."""
    return Streams({}, np.array([text[0] for text in texts], np.int32), np.ones(len(texts), np.int64)), [text[1:] for text in texts]


def read(network: Network, texts: Sequence[np.ndarray], weights: str = "float32", start: Streams | None = None) -> Streams:
    """Where streams are when each has read its text: from ``start`` on, or from nothing, where no text may be empty.

    Texts of different lengths are read in one batch; each ends as it would alone.
    """
    streams, texts = fresh(texts) if start is None else (start, list(texts))
    if not streams.state:
        streams = streams._replace(state={name: np.zeros(shape, network.ops.dtype) for name, shape in network.graph.state(len(texts)).items()})
    if not any(map(len, texts)):
        return streams
    decoder = decoder_of(network, weights)
    lengths = np.array([len(text) for text in texts], np.int64)
    order = np.argsort(-lengths, kind="stable")  # the longest first, so that those that have ended are the last
    reading, row, ended = streams.take(order), 0, []
    while len(reading.ids):
        end = int(lengths[order[len(reading.ids) - 1]])
        if end > row:
            reading = _read(network, decoder, reading, np.stack([texts[n][row:end] for n in order[: len(reading.ids)]], 1))
        left = np.arange(len(reading.ids)) < (lengths > end).sum()
        ended.append(reading.take(~left))
        reading, row = reading.take(left), end
    return Streams.joined(ended[::-1]).take(np.argsort(order))


def _read(network: Network, decoder: Decoder, streams: Streams, ids: np.ndarray) -> Streams:
    """Where the streams are when they have read ids (T, N): by the verbs, which read many steps at once, if they leave the same bits."""
    decoding = (verbs.Decoder(network) if decoder.exact else decoder).start(streams)
    decoding.read(ids)
    return decoding.streams()


def following(network: Network, streams: Streams, weights: str) -> np.ndarray:
    """log p (N, V) of every symbol that may follow, float64."""
    scores = np.asarray(network.ops.download(decoder_of(network, weights).start(streams).scores()), np.float64)
    scores = scores - scores.max(1, keepdims=True)
    return np.asarray(scores - np.log(np.exp(scores).sum(1, keepdims=True)))


def written(
    network: Network, streams: Streams, texts: Sequence[np.ndarray], config: SamplingConfig, seeds: Sequence[int], banned: Sequence[int] = ()
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (row, ids (T, N)), some rows at a time: what each stream reads and then writes, from that row on.

    Streams with a longer text go on reading it while others write. Each is what it would be alone. It ends when all
    have ``config.length`` ids more.

    Raises
    ------
    GenerationError
        If the weights have changed since the call: one text is never of two models.
    """
    return _of_one_version(network, network.version, _written(network, streams, texts, config, seeds, banned))


def _of_one_version(network: Network, version: int, pieces: Iterator[tuple[int, np.ndarray]]) -> Iterator[tuple[int, np.ndarray]]:
    with enough_memory("generation"):  # the caller may request the next piece long after its call
        for piece in pieces:
            if network.version != version:
                raise GenerationError("the weights of the model have changed since this text was begun; begin again, or train a copy, "
                                      "copy.deepcopy(model), while this model generates.")
            yield piece


def _written(
    network: Network, streams: Streams, texts: Sequence[np.ndarray], config: SamplingConfig, seeds: Sequence[int], banned: Sequence[int]
) -> Iterator[tuple[int, np.ndarray]]:
    lengths = [len(text) for text in texts]
    known = np.full((max(lengths), len(texts)), -1, np.int32)
    for stream, text in enumerate(texts):
        known[: len(text), stream] = text
    decoder, row = decoder_of(network, config.weights), 0
    if decoder.exact and min(lengths):  # the steps that all texts have are read in one pass, which is faster
        row = min(lengths)
        streams = _read(network, decoder, streams, known[:row])
    decoding, choice, numbers = decoder.start(streams), choice_of(config, banned), np.array(seeds, np.uint64)
    steps, end = 1, max(lengths) + config.length
    while row < end:
        begun = time.perf_counter()
        given = np.full((min(steps, end - row), len(texts)), -1, np.int32)
        here = known[row : row + len(given)]
        given[: len(here)] = here
        yield row, decoding.draw(given, choice, numbers)
        row += len(given)
        if time.perf_counter() - begun < PROMPTLY:  # the reader's time counts too
            steps *= GROWTH
        else:
            steps = max(1, steps // GROWTH)


def generate(
    network: Network, text: np.ndarray, config: SamplingConfig, seed: int, banned: Sequence[int] = (), start: Streams | None = None
) -> Iterator[int]:
    """Yield ``config.length`` ids that follow ``text``; those in ``banned`` are never drawn. The text is read behind ``start``, if there is one;
    otherwise it has at least one id."""
    streams, (rest,) = fresh([text]) if start is None else (start, [text])
    pieces = written(network, streams, [rest], config, [seed], banned)
    return (id for row, ids in pieces for id in ids[max(0, len(rest) - row) :, 0].tolist())


def generate_batch(
    network: Network, texts: Sequence[np.ndarray], config: SamplingConfig, seeds: Sequence[int], banned: Sequence[int] = (),
    start: Streams | None = None,
) -> list[np.ndarray]:
    """For each text the ids that follow it, as :func:`generate` alone gives them with its seed and its stream of ``start``."""
    if not texts or config.length == 0:
        return [np.empty(0, np.int32) for _ in texts]
    streams, rests = fresh(texts) if start is None else (start, list(texts))
    rows, pieces = zip(*written(network, streams, rests, config, seeds, banned), strict=True)
    ids = np.concatenate(pieces)
    firsts = [len(rest) - rows[0] for rest in rests]
    return [ids[first : first + config.length, stream].copy() for stream, first in enumerate(firsts)]
