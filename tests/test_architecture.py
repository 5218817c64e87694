"""Imports point down, and float32 stays float32: read from the source, whatever modules there are."""

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import numba_rnnlm

PACKAGE = "numba_rnnlm"
ROOT = Path(numba_rnnlm.__file__).parent

STOREYS = (
    {"display", "errors", "memory", "config", "arena", "fingerprint", "paths", "reports", "interrupts", "suggestions", "arguments"},
    {"portable", "cells", "rules"},
    {"text", "storage"},
    {"backends"},
    {"layers", "recognition", "network", "architecture"},
    {"optimizers", "training", "decoding", "scoring", "extension", "progress", "checking"},
    {"language_model", "sequential", "callbacks", "keras", "runs", "cli", "demo", "__init__", "__main__"},
)
STOREY = {room: storey for storey, rooms in enumerate(STOREYS) for room in rooms}
ONLY = {"text": {0}, "storage": {0, 1}}  # these two see less than what is below them
MACHINES = (f"{PACKAGE}.backends.cpu", f"{PACKAGE}.backends.cuda", f"{PACKAGE}.backends.reference")


def name_of(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {name_of(path): path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("*.py"))}
PACKAGES = {name_of(path) for path in ROOT.rglob("__init__.py")}

every_module = pytest.mark.parametrize("module", SOURCES)


def imports(module, source):
    """Absolute names of all that is imported anywhere in ``source``, with the names taken from it."""
    package = module if module in PACKAGES else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: -node.level + 1 or None] if node.level else []
            yield from (".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names)


def within(name, *packages):
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def module_of(name):
    """The module of this package that holds ``name``."""
    while name not in SOURCES:
        name = name.rpartition(".")[0]
    return name


def room(module):
    return module.split(".")[1] if "." in module else "__init__"


def arrows_up(module, source):
    here = room(module)
    seen = ONLY.get(here, range(STOREY[here] + 1))
    for name in imports(module, source):
        if within(name, PACKAGE) and room(module_of(name)) != here and STOREY[room(module_of(name))] not in seen:
            yield f"{module} imports {name}"


def strangers(module, source):
    """Imports of other packages that this module has no business with."""
    inside = within(module, f"{PACKAGE}.backends")
    known = {PACKAGE, "numpy", *sys.stdlib_module_names}
    if inside or module == f"{PACKAGE}.portable":
        known |= {"numba", "llvmlite"}
    cuda = within(module, *(f"{PACKAGE}.backends.cuda.{room}" for room in ("device", "intrinsics", "simulator")))
    if within(module, f"{PACKAGE}.backends.cuda.simulator"):
        known |= {"greenlet"}
    for name in imports(module, source):
        machine = within(name, *MACHINES) and not inside
        if name.split(".")[0] not in known or machine or (within(name, "numba.cuda") and not cuda):
            yield f"{module} imports {name}"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "numba.cuda" and not cuda:
            yield f"{module} uses numba.cuda"


def bare_floats(source):
    """Lines of float literals in @portable functions that are not converted at once: T(0.5), type(x)(-0.5)."""
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef) or "portable" not in map(ast.unparse, function.decorator_list):
            continue
        converted = set()
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and (ast.unparse(node.func) == "T" or is_type(node.func)):
                converted |= {id(value.operand if isinstance(value, ast.UnaryOp) else value) for value in node.args}
        for node in ast.walk(function):
            if isinstance(node, ast.Constant) and isinstance(node.value, float) and id(node) not in converted:
                yield node.lineno


def is_type(function):
    """``type(x)``, ``np.uint64`` and their like."""
    return (isinstance(function, ast.Call) and ast.unparse(function.func) == "type") or (
        isinstance(function, ast.Attribute) and ast.unparse(function.value) == "np" and function.attr[-1].isdigit()
    )


@every_module
def test_every_module_has_a_storey(module):
    assert room(module) in STOREY, f"{module} is new: give it a storey in {Path(__file__).name}"


@every_module
def test_imports_point_down(module):
    assert not list(arrows_up(module, SOURCES[module]))


@every_module
def test_imports_of_other_packages(module):
    assert not list(strangers(module, SOURCES[module]))


@every_module
def test_no_bare_float_in_a_portable_function(module):
    assert not list(bare_floats(SOURCES[module]))


def test_imports_have_no_cycle():
    graph = {
        module: {module_of(name) for name in imports(module, source) if within(name, PACKAGE)} - {module}
        for module, source in SOURCES.items()
    }
    assert len(graph[f"{PACKAGE}.network.network"]) > 3  # the graph is not empty
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


# The rules themselves: what is wrong must be seen


@pytest.mark.parametrize(("module", "line"), [
    ("errors", "from .cells import CELLS"),
    ("portable", "def f():\n    from . import backends"),
    ("cells.gru", "from ..backends import Ops"),
    ("cells", "from ..rules import SGD\nimport numba_rnnlm.network"),
    ("backends.cpu.simd", "from ...layers import Dense"),
    ("layers.dense", "from ..training.loop import Trainer"),
    ("text.corpus", "from ..portable import stream_key"),
    ("text", "from ..storage import checkpoint"),
    ("storage.archive", "from ..network import Graph"),
    ("storage.archive", "from .. import text"),
    ("training.loop", "from ..keras.examples import ExampleTask"),
    ("scoring", "from . import __version__"),
    ("network.graph", "import numba_rnnlm"),
])  # fmt: skip
def test_arrows_up_are_seen(module, line):
    assert len(list(arrows_up(f"{PACKAGE}.{module}", line))) == 1


@pytest.mark.parametrize(("module", "line"), [
    ("errors", "import scipy"),
    ("network.graph", "from scipy.special import expit"),
    ("network.graph", "import numba"),
    ("layers.dense", "from numba import njit"),
    ("cells.gru", "from llvmlite import ir"),
    ("network.graph", "from ..backends.cpu import Backend"),
    ("language_model", "from .backends import reference"),
    ("layers.dense", "from ..backends.cpu.simd import ROWS"),
    ("backends.cpu.simd", "from numba import cuda"),
    ("backends.cpu.simd", "import numba.cuda"),
    ("backends.cuda.linear", "from numba import cuda"),
    ("backends.cuda.linear", "import greenlet"),
    ("portable", "from numba.cuda import jit"),
    ("portable", "import numba\nnumba.cuda.jit"),
    ("training", "def f():\n    import torch"),
])  # fmt: skip
def test_strangers_are_seen(module, line):
    assert len(list(strangers(f"{PACKAGE}.{module}", line))) == 1


@pytest.mark.parametrize("body", [
    "x * 0.5", "T(0.5 * x)", "max(x, 0.0)", "-1.0 + x", "math.exp(0.5)", "np.sqrt(2.0)", "type(x)(T(1) + 0.5)", "1e3 * x"
])  # fmt: skip
def test_bare_floats_are_seen(body):
    assert list(bare_floats(f"@portable\ndef f(x):\n    T = type(x)\n    return {body}")) == [4]
    assert not list(bare_floats(f"def f(x):\n    return {body}"))


@pytest.mark.parametrize("body", ["T(0.5) * x", "type(x)(-0.5)", "np.float32(0.5)", "x[0] + T(1)", "np.uint64(1.0)"])
def test_converted_floats_are_not(body):
    assert not list(bare_floats(f"@portable\ndef f(x):\n    return {body}"))
