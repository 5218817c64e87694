"""Marks for tests that need something not every computer has; these are the only reasons to skip a test."""

import os
import sys

import numpy as np
import pytest
from llvmlite import binding

HOST = {name for name, found in binding.get_host_cpu_features().items() if found}
AVX2 = ("sse2", "sse3", "ssse3", "sse4.1", "sse4.2", "popcnt", "avx", "avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe")
REASONS = {"no other library to take arrays from"}  # test_cuda skips for this one when it has a GPU


def _mark(found: bool, reason: str) -> pytest.MarkDecorator:
    REASONS.add(reason)
    return pytest.mark.skipif(not found, reason=reason)


HAS_AVX2 = set(AVX2) <= HOST
avx2 = _mark(HAS_AVX2, "the processor has no AVX2")
bf16 = _mark("avx512bf16" in HOST, "the processor has no AVX512_BF16")
data = _mark("NUMBA_RNNLM_DATA" in os.environ, "NUMBA_RNNLM_DATA does not name a folder of real texts")
fork = _mark(hasattr(os, "fork"), "the system has no fork")
idle_class = _mark(hasattr(os, "SCHED_IDLE"), "the system has no scheduling class for idle processes")
linux = _mark(sys.platform == "linux", "only Linux reports the memory of a process and its peak")
long_double = _mark(np.finfo(np.longdouble).nmant >= 60, "the platform has no longer float to compare with")
root = _mark(hasattr(os, "geteuid") and os.geteuid() == 0, "only root can become another user and give files away")
