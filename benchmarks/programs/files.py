"""The files that programs read: a model in each contestant's format, and a corpus of ids."""

import argparse
from pathlib import Path

import numpy as np

from benchmarks.harness import OURS, program
from benchmarks.shapes import Row

CHUNK = 1 << 22  # ids drawn at once


def save_models(folder: Path, row: Row, options: argparse.Namespace) -> dict[str, Path]:
    """Save one model with the same weights for all; returns contestant → file."""
    sizes = (row.cell, *row.shape[:4])
    files = {OURS: folder / "model.npz"} | {peer: folder / f"model.{peer}" for peer in options.peer}
    program(OURS, options, "save", files[OURS], *sizes)
    for peer in options.peer:
        program(peer, options, "save", files[peer], files[OURS], *sizes)
    return files


def save_corpus(path: Path, row: Row, tokens: int) -> Path:
    """Save at least this many random ids, in whole segments, in the type in which numba_rnnlm stores them."""
    shape, random = row.shape, np.random.default_rng(7)
    count = -(-tokens // (shape.streams * shape.steps)) * shape.streams * shape.steps + 1
    kind = np.uint8 if shape.vocabulary <= 2**8 else np.uint16 if shape.vocabulary <= 2**16 else np.int32
    ids = np.lib.format.open_memmap(path, "w+", kind, (count,))
    for first in range(0, count, CHUNK):
        last = min(count, first + CHUNK)
        ids[first:last] = random.integers(0, shape.vocabulary, last - first)
    ids.flush()
    return path
