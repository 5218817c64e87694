"""Checks of the source: modules import only modules below them, and float32 functions contain no float64 literals."""

import ast
import sys
from pathlib import Path

import pytest

import numba_rnnlm

PACKAGE = "numba_rnnlm"
ROOT = Path(numba_rnnlm.__file__).parent

# A module may import only modules listed before it, from options and errors up to the front ends.
ORDER = """
display suggestions errors memory arguments arena paths reports fingerprint interrupts progress config portable activations rules
cells.cell cells.gru cells.indrnn cells.lstm cells.mingru cells.minlstm cells.qrnn cells.simple cells.sru cells
text.cleaning text.mapped text.packed text.streams text.vocabulary text.tokenizers text.hints text.sources text.unknown text.corpus
text
storage.writing storage.lock storage formats formats.native
backends.cache backends.compiling backends.ops backends backends.convolution backends.quantisation backends.reference backends.complex_step
backends.inspection
backends.cpu.atomics backends.cpu.kernels backends.cpu.processors backends.cpu.simd backends.cpu.host backends.cpu.sleeping
backends.cpu.sums backends.cpu.workspace backends.cpu.team backends.cpu.norms backends.cpu.lookup backends.cpu.losses backends.cpu.packing
backends.cpu.pointwise backends.cpu.sampling backends.cpu.threads backends.cpu.attention backends.cpu.linear backends.cpu.convolution backends.cpu.recurrence backends.cpu.recording backends.cpu.program backends.cpu.instructions backends.cpu.decoding
backends.cpu.update backends.cpu
backends.cuda.device backends.cuda.driver backends.cuda.arrays backends.cuda.kept backends.cuda.simulator backends.cuda.intrinsics
backends.cuda.launch backends.cuda.linear backends.cuda.lookup backends.cuda.losses backends.cuda.norms backends.cuda.pointwise backends.cuda.pooling backends.cuda.recurrence
backends.cuda.attention backends.cuda.sampling backends.cuda.update backends.cuda
layers.initializers layers.layer layers.chain layers.heads layers.options layers.windows layers.attention layers.convolution layers.dense layers.dropout
layers.embedding layers.pooling layers.recurrent layers.qrnn layers.norms layers.positions layers.pointwise layers.wrappers layers.characters layers layers.description
recognition
network.graph network.passes network.state network.vectors network.network network
formats.maps formats.keras
optimizers.optimizer optimizers.keras optimizers.pytorch optimizers
model_files
checking.comparing checking.cases checking.layer checking.cell checking
training training.history training.log training.plan training.position training.checkpoints training.clock training.schedules
training.task training.streams training.updater training.warmup training.loop training.reports
decoding.choice decoding.verbs decoding.write decoding
scoring runs states
keras keras.arrays keras.compiled keras.examples
callbacks
language_model.architecture language_model.extension language_model.contents language_model.evaluating language_model.sentences
language_model.prompts language_model.files language_model.fitting language_model.language_model language_model
keras.sequential __init__ demo
cli.exits cli.flags cli.body cli.destination cli.demo cli.drawing cli.files cli.info cli.measure cli.output cli.streams cli.generate cli.train cli.warmup
cli.main cli
__main__
""".split()  # noqa: SIM905
LOW = [("text",), ("storage", "formats.native")]  # may import neither cells nor backends, only one another and modules listed before "portable"
BACKENDS = (f"{PACKAGE}.backends.cpu", f"{PACKAGE}.backends.cuda", f"{PACKAGE}.backends.reference")


def name_of(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {name_of(path): path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("*.py"))}
PACKAGES = {name_of(path) for path in ROOT.rglob("__init__.py")}

every_module = pytest.mark.parametrize("module", SOURCES)


def imports(module, source):
    """Absolute names of everything that is imported anywhere in ``source``, including names in from-imports."""
    package = module if module in PACKAGES else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: -node.level + 1 or None] if node.level else []
            yield from (".".join([*base, *filter(None, [node.module]), alias.name]) for alias in node.names)


def within(name, *packages):
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def in_group(name, group):
    return within(name, *(f"{PACKAGE}.{package}" for package in group))


def module_of(name):
    """The module of this package that contains ``name``."""
    while name not in SOURCES:
        name = name.rpartition(".")[0]
    return name


def place(module):
    """The position of a module in ORDER."""
    return ORDER.index(module.partition(".")[2] or "__init__")


def arrows_up(module, source):
    """Imports of modules that are listed after this one, or that it must not import."""
    low = next((group for group in LOW if in_group(module, group)), ())
    for name in imports(module, source):
        if not within(name, PACKAGE) or (found := module_of(name)) == module:
            continue
        beyond = low and not in_group(found, low) and place(found) >= place(f"{PACKAGE}.portable")
        if place(found) > place(module) or beyond:
            yield f"{module} imports {name}"


def strangers(module, source):
    """Imports of other packages that this module must not use."""
    inside = within(module, f"{PACKAGE}.backends")
    known = {PACKAGE, "numpy", *sys.stdlib_module_names}
    if inside or module == f"{PACKAGE}.portable":
        known |= {"numba", "llvmlite"}
    cuda = within(module, *(f"{PACKAGE}.backends.cuda.{part}" for part in ("device", "intrinsics", "simulator")))
    if within(module, f"{PACKAGE}.backends.cuda.simulator"):
        known |= {"greenlet"}
    for name in imports(module, source):
        machine = within(name, *BACKENDS) and not inside
        if name.split(".")[0] not in known or machine or (within(name, "numba.cuda") and not cuda):
            yield f"{module} imports {name}"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "numba.cuda" and not cuda:
            yield f"{module} uses numba.cuda"


def bare_floats(source):
    """Lines of float literals in @portable functions that are not converted immediately, as in T(0.5) or type(x)(-0.5)."""
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
    """Whether this is ``type(x)``, ``np.uint64`` or similar."""
    return (isinstance(function, ast.Call) and ast.unparse(function.func) == "type") or (
        isinstance(function, ast.Attribute) and ast.unparse(function.value) == "np" and function.attr[-1].isdigit()
    )


def test_every_module_is_listed():
    assert sorted(ORDER) == sorted(module.partition(".")[2] or "__init__" for module in SOURCES)


@every_module
def test_imports_point_down(module):
    assert not list(arrows_up(module, SOURCES[module]))


@every_module
def test_imports_of_other_packages(module):
    assert not list(strangers(module, SOURCES[module]))


@every_module
def test_no_bare_float_in_a_portable_function(module):
    assert not list(bare_floats(SOURCES[module]))


# The checks themselves can fail


@pytest.mark.parametrize(("module", "line"), [
    ("errors", "from .cells import CELLS"),
    ("portable", "def f():\n    from . import backends"),
    ("cells.gru", "from ..backends import Ops"),
    ("cells", "from ..rules import SGD\nimport numba_rnnlm.network"),
    ("backends.cpu.simd", "from ...layers import Dense"),
    ("layers.dense", "from ..training.loop import Trainer"),
    ("text.corpus", "from ..portable import stream_key"),
    ("text", "from ..storage import checkpoint"),
    ("formats.native", "from ..network import Graph"),
    ("formats.native", "from .. import text"),
    ("training.loop", "from ..keras.examples import ExampleTask"),
    ("scoring", "from . import __version__"),
    ("network.graph", "import numba_rnnlm"),
])  # fmt: skip
def test_imports_that_point_up_are_detected(module, line):
    assert len(list(arrows_up(f"{PACKAGE}.{module}", line))) == 1


@pytest.mark.parametrize(("module", "line"), [
    ("errors", "import scipy"),
    ("network.graph", "from scipy.special import expit"),
    ("network.graph", "import numba"),
    ("layers.dense", "from numba import njit"),
    ("cells.gru", "from llvmlite import ir"),
    ("network.graph", "from ..backends.cpu import Backend"),
    ("language_model.contents", "from ..backends import reference"),
    ("layers.dense", "from ..backends.cpu.simd import ROWS"),
    ("backends.cpu.simd", "from numba import cuda"),
    ("backends.cpu.simd", "import numba.cuda"),
    ("backends.cuda.linear", "from numba import cuda"),
    ("backends.cuda.linear", "import greenlet"),
    ("portable", "from numba.cuda import jit"),
    ("portable", "import numba\nnumba.cuda.jit"),
    ("training", "def f():\n    import torch"),
])  # fmt: skip
def test_imports_of_forbidden_packages_are_detected(module, line):
    assert len(list(strangers(f"{PACKAGE}.{module}", line))) == 1


@pytest.mark.parametrize("body", [
    "x * 0.5", "T(0.5 * x)", "max(x, 0.0)", "-1.0 + x", "math.exp(0.5)", "np.sqrt(2.0)", "type(x)(T(1) + 0.5)", "1e3 * x"
])  # fmt: skip
def test_bare_floats_are_detected(body):
    assert list(bare_floats(f"@portable\ndef f(x):\n    T = type(x)\n    return {body}")) == [4]
    assert not list(bare_floats(f"def f(x):\n    return {body}"))


@pytest.mark.parametrize("body", ["T(0.5) * x", "type(x)(-0.5)", "np.float32(0.5)", "x[0] + T(1)", "np.uint64(1.0)"])
def test_converted_floats_are_allowed(body):
    assert not list(bare_floats(f"@portable\ndef f(x):\n    return {body}"))
