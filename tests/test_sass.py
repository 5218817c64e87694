"""The machine code of every GPU kernel, checked without a GPU: no spills, no float64, and the expected instructions."""

import gc
import importlib
import inspect
import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import sass
from checks import ROUNDS
from numba import float32, intp
from own_cells import EVERY, OWN
from strategies import RULES

from numba_rnnlm.activations import POINTWISE
from numba_rnnlm.backends.ops import PRECISIONS
from numba_rnnlm.cells import BUILT_IN, CELLS, Cell
from numba_rnnlm.portable import portable, tanh

pytestmark = pytest.mark.sass

AMPERE, ADA, HOPPER, BLACKWELL = (8, 0), (8, 9), (9, 0), (12, 0)
both = pytest.mark.parametrize("capability", [AMPERE, HOPPER], ids="{0[0]}.{0[1]}".format)
# Compute capability → maximum bytes of shared memory per block (CUDA C++ Programming Guide, table of technical
# specifications). On all devices: 65,536 registers per block, 48 KB of shared memory by default.
SHARED = {(8, 0): 163 << 10, (8, 6): 99 << 10, (8, 9): 99 << 10, (9, 0): 227 << 10, (10, 0): 227 << 10, (12, 0): 99 << 10}
REGISTERS, WITHOUT_ASKING = 65_536, 48 << 10
EVERY_PAIR = ROUNDS > 1  # all pairs and triples take minutes more
GROUPS = 12  # one process compiles all kernels of a group
MODULES = ("attention", "linear", "lookup", "losses", "norms", "pointwise", "pooling", "recurrence", "sampling", "update")
# Copies of constants in recurrence and launch, because tests are also collected where importing those fails.
SHAPES = ((16, 1), (16, 2), (8, 1), (8, 2))
STAGES = (3, 2)
WARP, THREADS = 32, 256
THREADS_OF = {"add_rows": 1024}  # kernels whose number of threads is neither THREADS nor their own attribute

TENSOR_CORES = {"float32": set(), "tf32": {"HMMA.1688.F32.TF32"}, "bf16": {"HMMA.16816.F32.BF16"}}
PRODUCTS = {"tensor_product", "float32_product"}
PERSISTENT = {"forward_kernel", "backward_kernel"}


class Case(NamedTuple):
    """A kernel, or its factory with arguments (cells and rules by name), and the device to compile for."""

    capability: tuple[int, int]
    module: str
    name: str
    arguments: tuple[Any, ...] | None = None

    def __str__(self):
        parts = (f"{self.capability[0]}.{self.capability[1]}", f"{self.module}.{self.name}", *(self.arguments or ()))
        return "-".join(map(str, parts))

    @property
    def precision(self):
        return next((argument for argument in self.arguments or () if argument in PRECISIONS), "float32")

    @property
    def kernel(self):
        found = getattr(importlib.import_module(f"numba_rnnlm.backends.cuda.{self.module}"), self.name)
        if self.arguments is None:
            return found
        names = {"recurrence": EVERY, "update": RULES}.get(self.module, {})
        return found(*(names.get(argument, argument) for argument in self.arguments))


def products(capability):
    """Products in every orientation, copy width and precision that the package uses: all pairs of these, and all combinations of three
    if EVERY_PAIR is set.

    Devices with less shared memory per block have fewer tiles in flight for tensor cores, so two such devices are included.
    """
    orientations = (False, False), (True, False), (False, True)
    if SHARED[capability] < 100 << 10:
        yield from (("tensor_product", ("bf16" if capability == ADA else "tf32", *turned, True, 4, STAGES[1])) for turned in orientations)
        return
    for row, turned in enumerate(orientations):
        for column, width in enumerate(((True, 4), (False, 4), *([(True, 2), (True, 1)] if capability == HOPPER else []))):
            for precision in PRECISIONS if EVERY_PAIR else (PRECISIONS[(row + column) % len(PRECISIONS)],):
                if precision == "float32":
                    yield "float32_product", (*turned, *width, STAGES[0])
                else:
                    yield "tensor_product", (precision, *turned, *width, STAGES[0])


def time_loops(capability):
    """Time loops of LSTM and GRU in all shapes and precisions on one architecture (all pairs if EVERY_PAIR is set); the largest shape on
    the other architecture; fewer for the simple cells."""
    hopper = capability == HOPPER
    for cell in ("lstm", "gru"):
        for number, shape in enumerate(SHAPES if hopper else SHAPES[:1]):
            some = PRECISIONS if EVERY_PAIR or number == 0 else PRECISIONS[number % 3 :][:1]
            yield from ((cell, *shape, precision) for precision in some)
    for number, cell in enumerate(("relu", "sigmoid", "tanh") if hopper else ()):
        some = ("float32", "tf32") if EVERY_PAIR else (("float32", "tf32")[number % 2],)
        yield from ((cell, *SHAPES[0], precision) for precision in some)
    if hopper:  # with weights of the cell's own, with streams that end, with both
        yield from (("peephole", *SHAPES[0], "float32"), ("lstm", *SHAPES[1], "tf32", True), ("peephole", *SHAPES[2], "bf16", True))


def cases(capability):
    """(module, name, arguments) of all kernels to compile for a device of this compute capability."""
    hopper = capability == HOPPER
    yield from (("linear", name) for name in ("add_parts", "set_rows", "add_rows"))
    yield from (("attention", name) for name in ("attend", "attend_keys", "attend_queries", "row_products"))
    yield from (("lookup", name) for name in ("gather", "scatter_add", "reverse", "add_positions", "add_positions_backward"))
    yield from (("pointwise", name) for name in ("dropout", "copy", "add", "add_columns", "multiply"))
    yield "norms", "gradients"
    yield from (("pooling", name) for name in ("pool", "pool_backward"))
    yield from (("update", name) for name in ("sum_of_squares", "judge"))
    yield "sampling", "choose"
    yield from (("update", "update", (rule,)) for rule in RULES)
    yield from (("pointwise", name, (f,)) for name in ("activation", "derivative") for f in POINTWISE)
    for width in (WARP, THREADS):
        for name in ("softmax_cross_entropy", "sigmoid_cross_entropy"):
            yield from (("losses", name, (width, flag)) for flag in ((True, False) if hopper else (True,)))
        yield from (("losses", name, (width,)) for name in ("softmax", "softmax_backward"))
        yield from (("norms", name, (width,)) for name in ("normalize", "normalize_backward"))
    yield from (("linear", *product) for product in products(capability))
    yield from (("recurrence", name, loop) for loop in time_loops(capability) for name in sorted(PERSISTENT))
    for cell in sorted(EVERY) if hopper else ("lstm", "gru"):
        yield from (("recurrence", name, (cell, ending)) for name in ("forward_rows", "backward_rows") for ending in ((False, True) if cell in OWN else (False,)))


CASES = [Case(capability, *case) for capability in (HOPPER, AMPERE) for case in cases(capability)]
CASES += [Case(capability, "linear", *product) for capability in (ADA, BLACKWELL) for product in products(capability)]


def compiled(cases):
    """Compile all cases. Numba compiles each kernel once, then the assembler runs for each device."""
    kernels, codes = {}, {}
    for case in cases:
        if case[1:] not in kernels:
            kernels[case[1:]] = sass.front_end(case.kernel, case.capability)
    for capability in {case.capability for case in cases}:
        own = [case for case in cases if case.capability == capability]
        codes |= zip(own, sass.compile_all([kernels[case[1:]] for case in own], capability), strict=True)
    return codes


@pytest.fixture(scope="module")
def codes(request):
    """The machine code of all selected cases, compiled in groups by one process per core."""
    asked = (item.callspec.params.get("case") for item in request.session.items if hasattr(item, "callspec"))
    wanted = {case for case in asked if isinstance(case, Case)}
    kernels = sorted({case[1:] for case in wanted}, key=str)
    # The compiler creates millions of small objects, and garbage collection would take a quarter of the time.
    pool = ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), gc.set_threshold, (100_000, 50, 100))
    codes = {}
    for group in filter(None, (kernels[number::GROUPS] for number in range(GROUPS))):
        cases = [case for case in wanted if case[1:] in group]
        codes |= dict.fromkeys(cases, pool.submit(compiled, cases))
    yield codes
    pool.shutdown(cancel_futures=True)


@pytest.fixture
def code(codes, case):
    return codes[case].result()[case]


def of(*names):
    """Parametrise over the cases with these names, or over all."""
    chosen = [case for case in CASES if not names or case.name in names]
    return pytest.mark.parametrize("case", chosen, ids=str)


@of()
def test_no_kernel_spills_registers(code):
    """Spilled registers are in memory, a hundred times slower. Also checks kernels into which NVIDIA's runtime is linked."""
    assert (code.stack, code.spill_stores, code.spill_loads) == (0, 0, 0)
    assert code[sass.LOCAL] == {}


@of()
def test_registers_and_static_memory_suffice(case, code):
    """On every supported device: the number of registers per block is the same on all."""
    threads = getattr(case.kernel, "threads", THREADS_OF.get(case.name, THREADS))
    assert threads * -(-code.registers // 8) * 8 <= REGISTERS
    assert code.shared <= WITHOUT_ASKING


@pytest.mark.parametrize("capability", SHARED, ids="{0[0]}.{0[1]}".format)
def test_shared_memory_suffices_for_every_product(monkeypatch, capability):
    """Dynamic shared memory is requested at launch, so the compiler does not check it."""
    from numba_rnnlm.backends.cuda import linear

    monkeypatch.setattr(linear, "shared_limit", lambda: SHARED[capability])
    picked = {
        linear.pick(precision, linear.Matrix(data, 0, 8, 8, stride, turned_a), linear.Matrix(data, 0, 8, 8, stride, turned_b), wide)
        for precision in PRECISIONS for turned_a, turned_b in ((False, False), (True, False), (False, True))
        for wide in (False, True) for stride in (8, 6, 5) for data in [SimpleNamespace(address=0)]
    }  # fmt: skip
    assert len(picked) > 40
    assert max(product.shared for product in picked) <= SHARED[capability]


@pytest.mark.parametrize("capability", SHARED, ids="{0[0]}.{0[1]}".format)
def test_shared_memory_suffices_for_every_time_loop(monkeypatch, capability):
    from numba_rnnlm.backends.cuda import recurrence

    monkeypatch.setattr(recurrence, "shared_limit", lambda: SHARED[capability])
    monkeypatch.setattr(recurrence, "cooperative", lambda: True)
    monkeypatch.setattr(recurrence, "most_resident", lambda shared: 132)
    monkeypatch.setattr(recurrence, "_room", lambda *_: 132)
    for cell in (CELLS[name] for name in BUILT_IN):
        slots = cell.window("h")[1] - cell.window("h")[0]
        for hidden in (64, 200, 650, 1024):
            for backward in (False, True):
                plan = recurrence.plan(cell, 20, hidden, "tf32", backward)
                wanted = recurrence.shared_bytes(slots, plan.units, plan.tiles, plan.width, backward)
                assert not plan.persistent or wanted <= SHARED[capability]


@of()
def test_float32_stays_float32(case, code):
    """A single float64 constant makes a loop 2 times slower on the best devices, 64 times on the others."""
    assert bool(code[sass.FLOAT64]) == (case.name in ("sum_of_squares", "judge", "choose")), code[sass.FLOAT64]


@of()
def test_tensor_cores_are_used_exactly_in_the_requested_precision(case, code):
    assert set(code["HMMA"]) == TENSOR_CORES[case.precision]


@of("forward_rows", "backward_rows", "forward_kernel", "backward_kernel", "activation", "derivative", "update")
def test_no_minimum_drops_nan(code):
    """For NaN, the plain minimum instruction returns its other operand; a comparison compiles to FMNMX.NAN."""
    assert set(code["FMNMX"]) <= {"FMNMX.NAN"}


@of(*sorted(PERSISTENT))
def test_the_time_loop_divides_without_a_branch(code):
    """A general exact division calls a function, which starts with a special case for the ends of the float32 range: 0.6 µs per step."""
    assert set(code["MUFU"]) <= {"MUFU.RCP"}


@of(*PRODUCTS)
def test_products_copy_ahead(case, code):
    """Tiles are copied to shared memory without registers; copies of four elements also bypass the L1 cache.

    In float32, tiles whose rows do not run along k are transposed, so these are copied element by element.
    """
    *_, turned_a, turned_b, _, width, _ = case.arguments
    turning = {not turned_a, turned_b} if case.name == "float32_product" else {False}
    tiled = {4: "LDGSTS.E.BYPASS.128.ZFILL", 2: "LDGSTS.E.64.ZFILL", 1: "LDGSTS.E"}
    assert set(code["LDGSTS"]) == {tiled[1 if turns else width] for turns in turning}


@of()
def test_blocks_synchronise_in_the_time_loop_only(case, code):
    """Arriving is a release, waiting an acquire. Nothing else is atomic, so sums have a fixed order."""
    atomic = set(code[r"(REDG?|ATOMG?)\b"])
    assert case.kernel.cooperative == (case.name in PERSISTENT)  # waiting for a block that is not running would never end
    if case.name in PERSISTENT:
        assert atomic <= {"RED.E.ADD.STRONG.GPU", "REDG.E.ADD.STRONG.GPU"} and len(atomic) == 1
        assert code[r"MEMBAR\.\w+\.GPU$"] and code[r"LDG\.E\.STRONG\.GPU$"] and code["CCTL.IVALL"]
    else:
        assert atomic == set()


@both
def test_every_kernel_is_among_the_cases(capability):
    from numba_rnnlm.backends.cuda import launch, linear, losses, recurrence

    def makes_kernels(thing):
        made = inspect.get_annotations(inspect.unwrap(thing)).get("return") if hasattr(thing, "cache_info") else None
        return inspect.isclass(made) and issubclass(made, launch.Kernel)

    modules = {name: importlib.import_module(f"numba_rnnlm.backends.cuda.{name}") for name in MODULES}
    there = {
        (module, name)
        for module in modules
        for name, thing in vars(modules[module]).items()
        if isinstance(thing, launch.Kernel) or makes_kernels(thing)
    }
    assert there == {(case.module, case.name) for case in CASES if case.capability == capability}
    assert (recurrence.SHAPES, linear.STAGES, losses.WARP, launch.THREADS) == (SHAPES, STAGES, WARP, THREADS)


def test_a_cell_with_many_gates_does_not_fit_into_registers():
    """``explain`` reports this: what the assembler calls the stack is called local memory of a thread by the driver."""
    from numba_rnnlm.backends.cuda import recurrence

    @portable
    def forward(z, prev, next, start, stride):
        h = next[0]
        for j in range(start, h.size, stride):
            total = z[0][j]
            for k in range(1, 8):
                total += tanh(z[k][j])
            h[j] = total

    @portable
    def backward(z, prev, next, d, start, stride):
        for j in range(start, next.shape[1], stride):
            z[0][j] = d[0][j]

    cell = Cell("eight_gates", dict.fromkeys("abcdefgh", "xh"), ("h",), forward, forward, backward)
    assert sass.compile_kernel(recurrence.forward_kernel(cell, *SHAPES[0], "float32"), HOPPER).stack > 0


def test_a_gpu_kernel_can_be_compiled_after_a_cpu_kernel():
    """The first compiler must not change the functions that both compilers use."""
    row, arrays = CELLS["lstm"].forward, (float32[:, ::1],) * 3
    row.compile((*arrays, intp, intp))
    case = Case(HOPPER, "recurrence", "forward_rows", ("lstm",))
    assert compiled([case])[case]["MUFU.RCP"]


# The checks above can fail

def compiled_here(function, capability, **options):
    """Compile a kernel of one array and one number."""
    from numba_rnnlm.backends.cuda.launch import FLOATS, INT, Kernel, cuda

    kernel = Kernel(function, (FLOATS, INT))
    kernel.dispatcher = cuda.jit(function, **options)
    return sass.compile_kernel(kernel, capability)


@both
def test_the_check_detects_float64(capability):
    def float64_literal(x, i):
        x[i] = x[i] * 1.1

    def float32_literal(x, i):
        x[i] = x[i] * np.float32(1.1)

    assert compiled_here(float64_literal, capability)[sass.FLOAT64].keys() == {"F2F.F64.F32", "DMUL", "F2F.F32.F64"}
    assert compiled_here(float32_literal, capability)[sass.FLOAT64] == {}


@both
def test_the_check_detects_the_stack(capability):
    from numba import cuda

    def chosen(x, i):
        own = cuda.local.array(300, np.float32)
        for k in range(300):
            own[k] = x[k]
        x[i] = own[i]

    code = compiled_here(chosen, capability)
    assert code.stack >= 300 * 4 and code["LDL"] and code["STL"]


@both
def test_the_check_detects_spills(capability):
    from numba import cuda

    def all_at_once(x, i):
        own = cuda.local.array(32, np.float32)
        for k in range(32):
            own[k] = x[i + k]
        cuda.syncthreads()
        for k in range(32):
            x[i + 2 * k] = own[k] * own[31 - k]

    roomy, tight = compiled_here(all_at_once, capability), compiled_here(all_at_once, capability, max_registers=24)
    assert roomy.registers > tight.registers and roomy.spill_stores == roomy.spill_loads == 0
    assert tight.spill_stores and tight.spill_loads and tight[sass.LOCAL]


@both
def test_the_check_detects_shared_memory(capability):
    from numba_rnnlm.backends.cuda.update import sum_of_squares

    assert sass.compile_kernel(sum_of_squares, capability).shared == THREADS * 8
