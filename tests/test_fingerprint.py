"""Digests of functions: equal for equal code in any process, different for any difference that code can have."""

import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import numba_rnnlm
from numba_rnnlm import fingerprint, portable
from numba_rnnlm.cells import CELLS
from numba_rnnlm.fingerprint import ONLY_HERE, of_body, of_function, of_modules

BASE = """
import helpers, math
import numpy as np
scale = 2.0
table = np.arange(3.0)
names = frozenset({"a", "b", "c"})
def inner(x):
    return x + 1
def outer(offset):
    def function(x, more=5, *, last=7):
        total = offset
        for j in range(3):
            total += inner(x) * scale + helpers.bias(x) + table[j] + math.tanh(x) + [k + 1 for k in range(2)][0]
        return total if x in names else last + more
    return function
function = outer(1)
"""
HELPERS = """
def bias(x):
    return x - 1
"""
EDITS = [
    ("scale = 2.0", "scale = 2"), ("np.arange(3.0)", "np.arange(4.0)"), ("np.arange(3.0)", "np.arange(3)"), ("return x + 1", "return x + 2"),
    ("outer(1)", "outer(2)"), ("more=5", "more=6"), ("last=7", "last=8"), ("range(3)", "range(4)"), ("tanh", "sinh"), ("[k + 1 for", "[k + 2 for"),
    ('"c"', '"d"'), ("else last + more", "else last - more"), ("x - 1", "x - 2"),
]  # fmt: skip


def build(base=BASE, helpers=HELPERS):
    module = types.ModuleType("helpers")
    exec(helpers, vars(module))
    scope = {"__name__": "edited", "helpers": module}
    exec(base.replace("import helpers, math", "import math"), scope)
    return scope["function"]


def test_equal_code_has_equal_digests():
    assert of_function(build()) == of_function(build())
    assert of_body(build()) == of_body(build())
    assert ONLY_HERE not in of_function(build())


@pytest.mark.parametrize("edit", EDITS, ids=str)
def test_every_edit_is_seen(edit):
    assert edit[0] in BASE + HELPERS
    assert of_function(build(BASE.replace(*edit), HELPERS.replace(*edit))) != of_function(build())


def test_moving_a_function_in_its_file_changes_nothing():
    assert of_function(build("\n\n# a comment\n" + BASE)) == of_function(build())


def test_a_body_is_the_code_and_what_it_closes_over():
    for edit in EDITS:
        seen = edit[0] in ("outer(1)", "more=5", "last=7", "range(3)", "tanh", "[k + 1 for", "else last + more")
        assert (of_body(build(BASE.replace(*edit), HELPERS.replace(*edit))) != of_body(build())) is seen, edit


def test_an_object_without_a_value_is_known_to_this_process_only():
    scope = {"__name__": "edited", "thing": object()}
    exec("def function(x):\n    return thing", scope)
    assert ONLY_HERE in of_function(scope["function"])


def test_modules(monkeypatch):
    first, second = types.ModuleType("one"), types.ModuleType("one")
    for module, number in ((first, 1), (second, 2)):
        exec(f"import os, threading\nlock = threading.Lock()\ndef setting(name, environment=os.environ):\n    return {number}\nclass Thing:\n    def method(self):\n        return {number}", vars(module))
    before = of_modules(first)
    assert before == of_modules(first) != of_modules(second)
    monkeypatch.setenv("A_SETTING", "of this shell")
    assert of_modules(first) == before
    assert of_modules(portable) != of_modules(fingerprint)


def test_functions_that_refer_to_themselves():
    scope = {"__name__": "edited"}
    exec("def function(x):\n    return function(x - 1) if x else other(x)\ndef other(x):\n    return function(x)", scope)
    assert of_function(scope["function"]) == of_function(scope["function"])


def test_each_process_finds_the_same_digests():
    """Whatever the order of its sets, with or without what Python caches of the sources."""
    program = """
from numba_rnnlm import portable
from numba_rnnlm.backends.cpu import kernels
from numba_rnnlm.cells import CELLS
from numba_rnnlm.fingerprint import of_modules
print(of_modules(*kernels.MODULES), *(cell.key for cell in CELLS.values()))
"""
    home = Path(numba_rnnlm.__file__).parents[1]
    told = {
        subprocess.run([sys.executable, *flags, "-c", program], env={"PYTHONHASHSEED": seed, "PATH": ""}, cwd=home, check=True,
                       capture_output=True, text=True).stdout
        for seed, flags in (("1", []), ("2", ["-B", "-X", "pycache_prefix=/nowhere"]))
    }  # fmt: skip
    (line,) = told
    assert len(set(line.split())) == 1 + len(CELLS)


def test_arrays_count_by_their_elements():
    large = np.zeros(10_000)
    scopes = [{"__name__": "edited", "table": large}, {"__name__": "edited", "table": large.copy()}]
    scopes[1]["table"][5000] = 1e-9
    for scope in scopes:
        exec("def function(x):\n    return table[x]", scope)
    assert of_function(scopes[0]["function"]) != of_function(scopes[1]["function"])
