"""Splits a corpus into parallel streams and reads them segment by segment."""

from collections.abc import Iterator

import numpy as np

from ..errors import CorpusError, expect_number, expect_shape
from . import mapped

IGNORED = -1  # a target that is not scored


def segments(
    ids: np.ndarray, streams: int, steps: int, warm: int = 0, first: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the inputs and targets of all steps; every token but the first is predicted exactly once.

    The n - 1 targets are split into N contiguous streams of equal length; column i of a segment continues
    column i of the previous segment. Streams that reach the end of the corpus early have input 0 and target -1.

    Parameters
    ----------
    ids
        (n,) integers.
    streams
        N, the number of parallel streams.
    steps
        T, the number of rows in a segment; the last segment may have fewer.
    warm
        Number of tokens from the end of the previous stream that every stream but the first reads without scoring them
        (target -1), so that its state has seen the text before its first prediction. For evaluation.
    first
        Index of the first segment to yield.

    Yields
    ------
    inputs, targets
        (T, N) int32 each; ignore positions with target -1.

    Raises
    ------
    CorpusError
        The corpus has fewer than two tokens.

    Examples
    --------
    >>> for inputs, targets in segments(np.array([1, 2, 3, 4, 5]), streams=2, steps=10):
    ...     print(inputs.T, targets.T)
    [[1 2]
     [3 4]] [[2 3]
     [4 5]]
    """
    expect_shape("ids", ids.shape, ("n",))
    expect_number("steps", steps, 1, whole=True)
    expect_number("warm", warm, 0, whole=True)
    scored = _stream_length(len(ids), streams, warm)
    return _segments(ids, streams, steps, warm, scored, first)


def _segments(
    ids: np.ndarray, streams: int, steps: int, warm: int, scored: int, first: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    targets, stream = len(ids) - 1, np.arange(streams)
    rows = min(scored + warm, targets)
    size = steps * max(1, mapped.READ // (4 * streams * steps))  # rows to read at a time
    for start in range(first * steps, rows, steps):
        if start % size == 0 or start == first * steps:
            begin = start - start % size
            block = _columns(ids, stream * scored + begin, min(size, rows - begin) + 1)
        row = np.arange(start, min(start + steps, rows))[:, None]
        is_inside = stream * scored + row < targets
        is_scored = is_inside & ((stream == 0) | (row >= warm))
        read = block[start % size :][: len(row) + 1]
        yield np.where(is_inside, read[:-1], 0), np.where(is_scored, read[1:], IGNORED)


def _columns(ids: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """Column i holds ``length`` ids from starts[i] on, padded with 0. Of a mapped file, only one column's pages are in memory."""
    columns = np.zeros((length, len(starts)), np.int32)
    for column, start in enumerate(starts.tolist()):
        piece = ids[start : start + length]
        columns[: len(piece), column] = piece
        mapped.give_back(piece)
    return columns


def _stream_length(tokens: int, streams: int, warm: int = 0) -> int:
    """How many targets every stream but the first scores; the first scores ``warm`` more."""
    expect_number("streams", streams, 1, whole=True)
    if tokens < 2:
        counted = "1 token" if tokens == 1 else f"{tokens} tokens"
        raise CorpusError(f"The corpus has {counted}, expected at least 2: the first token is not predicted.")
    return max(-(-(tokens - 1 - warm) // streams), 0)


def segments_per_epoch(tokens: int, streams: int, steps: int) -> int:
    """How many segments :func:`segments` yields for ``tokens`` ids, with ``warm=0``.

    Examples
    --------
    >>> segments_per_epoch(tokens=1001, streams=10, steps=30)
    4
    """
    expect_number("steps", steps, 1, whole=True)
    return -(-_stream_length(tokens, streams) // steps)


def streams_that_fit(tokens: int, streams: int, steps: int) -> int:
    """The largest number of streams, up to ``streams``, that have ``steps`` targets each on average, but at least 1.

    Examples
    --------
    >>> streams_that_fit(tokens=1001, streams=50, steps=100)
    10
    """
    return max(1, min(streams, (tokens - 1) // steps))
