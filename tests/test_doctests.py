"""The examples in docstrings are correct."""

import doctest
import importlib
import pkgutil

import pytest

import numba_rnnlm

MODULES = ["numba_rnnlm"] + [
    module.name
    for module in pkgutil.walk_packages(numba_rnnlm.__path__, "numba_rnnlm.")
    if not module.name.endswith(("__main__", "cuda.simulator"))  # importing these has side effects
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    examples = sum(len(test.examples) for name in MODULES for test in finder.find(importlib.import_module(name)))
    assert examples > 50
