"""Decoding by the verbs of any backend: a step is a forward pass of the network."""

import numpy as np

from ..backends import ops
from ..network import Network, State
from .choice import uniform

STEPS = 64  # known symbols that are read in one pass


class Decoder:
    """See :class:`numba_rnnlm.backends.ops.Decoder`."""

    exact = True

    def __init__(self, network: Network) -> None:
        self.network = network

    def start(self, streams: ops.Streams) -> "Decoding":
        return Decoding(self.network, streams)


class Decoding:
    """See :class:`numba_rnnlm.backends.ops.Decoding`."""

    def __init__(self, network: Network, streams: ops.Streams) -> None:
        self.network, self.ops, self.positions = network, network.ops, streams.positions
        self.state = network.state(len(streams.ids))
        if streams.state:
            network.load(self.state, streams.state)
        self.last = self.ops.upload(streams.ids[np.newaxis])
        self._seen: tuple[State, ops.Array] | None = None  # once the network has seen the last symbols: its state before that, and the scores

    def read(self, ids: np.ndarray) -> None:
        if len(ids):
            known = np.concatenate([self.ops.download(self.last), ids]) if self._seen is None else ids
            for start in range(0, len(known) - 1, STEPS):
                self.network.read(self.ops.upload(known[start : min(start + STEPS, len(known) - 1)]), self.state)
            self._follow(self.ops.upload(known[-1:]), len(ids))

    def scores(self) -> ops.Array:
        if self._seen is None:
            before = self.state.copy()
            found = self.network.scores(self.last, self.state)
            scores = self.ops.empty(found.shape)
            self.ops.copy(found, scores)  # others may use the network before these are drawn from
            self._seen = before, scores
        return self._seen[1]

    def draw(self, given: np.ndarray, choice: ops.Choice, seeds: np.ndarray) -> np.ndarray:
        ids = self.ops.upload(given.astype(np.int32))
        for t, row in enumerate(given):
            if (row < 0).any():
                scores = self.network.scores(self.last, self.state) if self._seen is None else self._seen[1]
                self.ops.choose(scores, choice, uniform(seeds, self.positions), ids[t])
            elif self._seen is None:
                self.network.read(self.last, self.state)
            self._follow(ids[t : t + 1], 1)
        return self.ops.download(ids)

    def _follow(self, last: ops.Array, count: int) -> None:
        """These symbols (1, N), the last of so many, have been read, and the network has seen all before them."""
        self.last, self._seen, self.positions = last, None, self.positions + count

    def take(self, rows: np.ndarray) -> None:
        self.state, self.positions = self.state.take(rows), self.positions[rows]
        self.last = self.ops.upload(self.ops.download(self.last)[:, rows])
        if self._seen is not None:
            before, found = self._seen
            scores = self.ops.empty((len(rows), found.shape[1]))
            self.ops.gather(found, self.ops.upload(rows), scores)
            self._seen = before.take(rows), scores

    def streams(self) -> ops.Streams:
        before = self.state if self._seen is None else self._seen[0]
        return ops.Streams(before.arrays(), self.ops.download(self.last)[0], self.positions)
