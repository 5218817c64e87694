"""Digests of functions: equal for equal code in any process, different for any difference in the code."""

import importlib
import os
import subprocess
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest
from numba import njit

import numba_rnnlm
from numba_rnnlm import fingerprint, portable
from numba_rnnlm.cells import CELLS
from numba_rnnlm.fingerprint import ONLY_HERE, of_body, of_function, of_modules

BASE = """
import math
from collections import namedtuple
from enum import IntEnum
import numpy as np
from numba import njit
class Gain(IntEnum):
    HIGH = 2
Options = namedtuple("Options", "first, second")
options = Options(1.0, 2.0)
scale = 2.0
table = np.arange(3.0)
names = frozenset({"a", "b", "c"})
@njit
def inner(x):
    return x + 1
@njit("float32(float32)")
def typed(x):
    return x
def outer(offset):
    def function(x, more=5, *, last=7):
        total = offset
        for j in range(3):
            total += typed(x) + Gain.HIGH.value + options.first + helpers.constants.GAIN
            total += inner(x) * scale + helpers.bias(x) + table[j] + math.tanh(x) + [k + 1 for k in range(2)][0]
        return total if x in names else last + more
    return function
function = outer(1)
"""
HELPERS = """
import types
from numba import njit
constants = types.ModuleType("constants")
constants.GAIN = 1.5
@njit
def bias(x):
    return x - 1
"""
EDITS = [
    ("scale = 2.0", "scale = 2"), ("np.arange(3.0)", "np.arange(4.0)"), ("np.arange(3.0)", "np.arange(3)"), ("return x + 1", "return x + 2"),
    ("outer(1)", "outer(2)"), ("more=5", "more=6"), ("last=7", "last=8"), ("range(3)", "range(4)"), ("tanh", "sinh"), ("[k + 1 for", "[k + 2 for"),
    ("HIGH = 2", "HIGH = 3"), ("first, second", "second, first"), ("float32(float32)", "int64(int64)"), ("GAIN = 1.5", "GAIN = 2.5"),
    ("@njit\ndef inner", "@njit(fastmath=True)\ndef inner"), ('"c"', '"d"'), ("else last + more", "else last - more"), ("x - 1", "x - 2"),
]  # fmt: skip


def build(base=BASE, helpers=HELPERS):
    module = types.ModuleType("helpers")
    exec(helpers, vars(module))
    scope = {"__name__": "edited", "helpers": module}
    exec(base, scope)
    return njit(scope["function"])


def test_equal_code_has_equal_digests():
    assert of_function(build()) == of_function(build())
    assert of_body(build()) == of_body(build())
    assert ONLY_HERE not in of_function(build())


@pytest.mark.parametrize("edit", EDITS, ids=str)
def test_every_edit_changes_the_digest(edit):
    assert edit[0] in BASE + HELPERS
    assert of_function(build(BASE.replace(*edit), HELPERS.replace(*edit))) != of_function(build())


def test_moving_a_function_does_not_change_its_digest():
    assert of_function(build("\n\n# a comment\n" + BASE)) == of_function(build())


def test_of_body_covers_the_code_and_the_closure():
    for edit in EDITS:
        differs = edit[0] in ("outer(1)", "more=5", "last=7", "range(3)", "tanh", "[k + 1 for", "else last + more")
        assert (of_body(build(BASE.replace(*edit), HELPERS.replace(*edit))) != of_body(build())) is differs, edit


def test_an_object_that_cannot_be_compared_makes_the_digest_unique():
    for thing in (object(), sys.intern, lambda x: x, {1, object()}, [threading.Lock()], Path, np.zeros(1).view(type("Own", (np.ndarray,), {}))):
        scope = {"__name__": "edited", "thing": thing}
        exec("def function(x):\n    return thing", scope)
        assert ONLY_HERE in of_function(njit(scope["function"])), thing


def test_modules(tmp_path, monkeypatch):
    """All code in a module's file counts, including constants and classes."""
    monkeypatch.syspath_prepend(tmp_path)
    first = "table = [1, {'a': 2}]\nclass Layout:\n    first, second = 1, 2\ndef function(x):\n    return x\n"
    digests = []
    for number, text in enumerate((first, first, first.replace("2}", "3}"), first.replace("first, second", "second, first"),
                                   first.replace("return x", "return -x"))):  # fmt: skip
        (tmp_path / "edited.py").write_text(text)
        os.utime(tmp_path / "edited.py", (number, number))
        sys.modules.pop("edited", None)
        digests.append(of_modules([importlib.import_module("edited")]))
    assert digests[0] == digests[1] and len(set(digests)) == 4
    assert of_modules([portable]) == portable.CODE != of_modules([fingerprint])


def test_functions_that_refer_to_themselves():
    scope = {"__name__": "edited"}
    exec("from numba import njit\n@njit\ndef function(x):\n    return function(x - 1) if x else other(x)\n"
         "@njit\ndef other(x):\n    return function(x)", scope)
    assert ONLY_HERE not in of_function(scope["function"])
    assert of_function(scope["function"]) == of_function(scope["function"])


def test_every_process_computes_the_same_digests():
    """Independent of the order of sets, and of whether Python has cached the bytecode."""
    program = """
from numba_rnnlm import portable
from numba_rnnlm.backends.cpu import kernels
from numba_rnnlm.cells import CELLS
print("-".join(kernels.CODE), *(cell.key for cell in CELLS.values()))
"""
    home = Path(numba_rnnlm.__file__).parents[1]
    lines = {
        subprocess.run([sys.executable, *flags, "-c", program], env={"PYTHONHASHSEED": seed, "PATH": ""}, cwd=home, check=True,
                       capture_output=True, text=True).stdout
        for seed, flags in (("1", []), ("2", ["-B", "-X", "pycache_prefix=/nowhere"]))
    }  # fmt: skip
    (line,) = lines
    assert len(set(line.split())) == 1 + len(CELLS)


def test_arrays_are_compared_by_their_elements():
    large = np.zeros(10_000)
    scopes = [{"__name__": "edited", "table": large}, {"__name__": "edited", "table": large.copy()}]
    scopes[1]["table"][5000] = 1e-9
    for scope in scopes:
        exec("def function(x):\n    return table[x]", scope)
    assert len({of_function(njit(scope["function"])) for scope in scopes}) == 2
