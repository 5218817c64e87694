"""Reading any file takes time and memory linear in its size: measures each worst case of :mod:`growth` at two sizes, by counting.

Time is measured by function calls rather than seconds, and memory by the difference between the two files. ``python -m growth`` measures
files of many megabytes.
"""

import cProfile
import gc
import os
from pathlib import Path

import pytest
from growth import cases, outcome, python_peak, written

from numba_rnnlm.formats import native
from numba_rnnlm.text import sources

SMALL = int(os.environ.get("NUMBA_RNNLM_GROWTH_BYTES", 15_000))  # bytes in the smaller file
TIMES = 4  # how many times larger the larger file is
FEW = 15_000  # calls; if reading the smaller file takes fewer, larger files are used
MEMORY = 10  # allowed bytes of memory per byte of a model file
# The same for texts, which are read in pieces of 4 MB: bytes per piece, and per different word or symbol.
TEXT_MEMORY = {"score: one line": 30, "score": 15, "different words": 90, "many symbols": 70, "carriage returns": 60, "short lines": 60, "text": 30, "--extend": 30, "prompt": 60, "log": 20}
SLOW = 5  # how many times smaller the texts are that the network reads
SLACK = 300_000  # bytes; for buffers and tables that double

ALLOWED = 16 * SMALL  # bytes that a header may take beyond its multiple of the file size: fewer than for real files, so that small files are as conclusive

CASES = {(case["name"], name): (case, read) for case in cases() for name, read in case["readers"].items()}


@pytest.fixture(scope="module", autouse=True)
def _freeze_other_garbage():
    """Exclude objects of earlier tests from the garbage collection at each measurement."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()  # gc.get_objects does not return frozen objects


def calls(read, path):
    """The number of functions that reading a file calls, in Python and in C, and the outcome."""
    profile = cProfile.Profile()
    profile.enable()
    try:
        result = outcome(read, path)
    finally:
        profile.disable()
    return sum(entry.callcount for entry in profile.getstats()), result


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "reader"), CASES, ids=[f"{name} by {reader}" for name, reader in CASES])
def test_reading_is_linear_in_time_and_memory(name, reader, tmp_path, monkeypatch):
    monkeypatch.setattr(native, "HEADER_BYTES", (native.HEADER_BYTES[0], ALLOWED))
    monkeypatch.setattr(sources, "LINES", 100)  # lines per batch: scaled down with the size of the files
    case, read = CASES[name, reader]
    least = SMALL // SLOW if "slow" in case else SMALL

    def measured(size):
        with written(case, size, tmp_path) as (path, bytes_):
            data = Path(path).read_bytes()
            outcome(read, path)  # loads modules and kernels
            Path(path).write_bytes(data)
            number, result = calls(read, path)
            Path(path).write_bytes(data)
            return bytes_, number, python_peak(read, path), result

    found = [measured(least), measured(TIMES * least)]
    if found[0][1] < FEW:  # constant costs would hide the growth
        found = [found[1], measured(TIMES**2 * least)]
    (small, few, little, _), (large, many, much, result) = found
    growth = large / small
    assert many <= 1.2 * growth * few + 3000, (found, "calls")
    times = next((times for part, times in TEXT_MEMORY.items() if part in name), MEMORY)
    assert much - little <= times * (large - small) + SLACK, (found, "memory")
    assert "characters" not in result or int(result.split()[1]) <= 1000
