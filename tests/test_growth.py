"""Time and memory of reading any file are linear in its size: each worst shape of :mod:`growth` at two sizes, by counting.

Not seconds but calls of functions are counted, and of memory only what the larger file takes more than the smaller one. ``python -m growth``
measures files of many megabytes.
"""

import cProfile
import gc
import os
from pathlib import Path

import pytest
from growth import cases, outcome, python_peak, written

from numba_rnnlm.storage import archive
from numba_rnnlm.text import sources

SMALL = int(os.environ.get("NUMBA_RNNLM_GROWTH_BYTES", 15_000))  # bytes of the smaller file
TIMES = 4  # the larger one
FEW = 15_000  # calls: where reading takes fewer, files are larger
MEMORY = 10  # bytes for each byte of a model file
# Of texts, which are read in pieces of 4 MB: of each piece, and of each different word or symbol.
TEXT_MEMORY = {"score: one line": 30, "score": 15, "different words": 90, "many symbols": 70, "carriage returns": 60, "short lines": 60, "text": 30, "--extend": 30, "prompt": 60, "log": 20}
SLOW = 5  # times smaller are the texts that the network reads
SLACK = 300_000  # bytes: buffers and tables that double

ALLOWED = 16 * SMALL  # bytes that a header may take beside its share of the file: fewer than of real files, so that small ones tell as much

CASES = {(case["name"], name): (case, read) for case in cases() for name, read in case["readers"].items()}


@pytest.fixture(scope="module", autouse=True)
def _others_are_not_collected():
    """What the tests before have left is not searched for garbage at each measurement."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()  # what is frozen, gc.get_objects does not find


def calls(read, path):
    """How many functions reading a file calls, in Python and in C."""
    profile = cProfile.Profile()
    profile.enable()
    try:
        told = outcome(read, path)
    finally:
        profile.disable()
    return sum(entry.callcount for entry in profile.getstats()), told


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "reader"), CASES, ids=[f"{name} by {reader}" for name, reader in CASES])
def test_reading_is_linear_in_time_and_memory(name, reader, tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "HEADER_BYTES", (archive.HEADER_BYTES[0], ALLOWED))
    monkeypatch.setattr(sources, "LINES", 100)  # that are known at a time: as few beside a small file as beside a real one
    case, read = CASES[name, reader]
    least = SMALL // SLOW if "slow" in case else SMALL

    def measured(size):
        with written(case, size, tmp_path) as (path, bytes_):
            data = Path(path).read_bytes()
            outcome(read, path)  # modules and kernels are loaded
            Path(path).write_bytes(data)
            number, told = calls(read, path)
            Path(path).write_bytes(data)
            return bytes_, number, python_peak(read, path), told

    found = [measured(least), measured(TIMES * least)]
    if found[0][1] < FEW:  # what grows with the size is hidden by what does not
        found = [found[1], measured(TIMES**2 * least)]
    (small, few, little, _), (large, many, much, told) = found
    growth = large / small
    assert many <= 1.2 * growth * few + 3000, (found, "calls")
    times = next((times for part, times in TEXT_MEMORY.items() if part in name), MEMORY)
    assert much - little <= times * (large - small) + SLACK, (found, "memory")
    assert "characters" not in told or int(told.split()[1]) <= 1000
