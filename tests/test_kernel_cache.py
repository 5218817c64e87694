"""The kernel cache gives the right code and the same bits, whatever other processes, full disks, editors and other users do to the folder."""

import dataclasses
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import zipfile
from pathlib import Path

import needs
import pytest
from checks import HANG, ROUNDS
from hypothesis import given
from hypothesis import strategies as st
from numba import config

import numba_rnnlm
from numba_rnnlm.backends import cache
from numba_rnnlm.backends.cpu import packing
from numba_rnnlm.cells import CELLS

HOME = Path(numba_rnnlm.__file__).parents[1]

TRAIN = """
import hashlib, os, sys, warnings
from numba.core import event
from numba_rnnlm import LanguageModel
from numba_rnnlm.backends.cpu import host

text = "the cat sees the dog\\nthe dog sees 12 cats\\n" * 20
with event.install_recorder("numba:compile") as record:
    model = LanguageModel(sys.argv[1], hidden=21, layers=2, embedding=11, dropout=0.2, seed=1, backend="cpu", threads=2)
    model.fit(text, text[:50], epochs=2, streams=5, steps=12, optimizer="adam", verbose=0)
    results = [model.score(text[:30])]
    if sys.argv[2:]:
        results += [model.generate("the", length=40, seed=1, top_k=5, top_p=0.9), model.generate("the", length=20, seed=1, weights="int8")]
weights = b"".join(array.tobytes() for _, array in sorted(model.network_.weights().items()))
compiled = [begun for _, begun in record.buffer if begun.is_start]
print(hashlib.sha256(weights + repr(results).encode()).hexdigest(), len(compiled))
"""
# One or two kernels: enough to see which folder is used.
SMALL = """
import os, sys
import numpy as np
from numba.core import event
from numba_rnnlm.backends.cpu.kernels import kernel
from numba_rnnlm.portable import tanh

@kernel
def inner(x):
    x[0] = tanh(x[0])

@kernel(entry=True)
def outer(x):
    inner(x)
    x[1] += x[0]

x = np.array([0.5, 2], np.float32)
with event.install_recorder("numba:compile") as record:
    outer(x)
print(x.tobytes().hex(), sum(begun.is_start for _, begun in record.buffer))
"""
# A process forked before anything is compiled runs and prints first; the other one must load what it has stored. Saves an import.
TWICE = SMALL.replace("with event", "child = os.fork()\nif child:\n    os.waitpid(child, 0)\nwith event").replace(
    "print(", "assert not (child and record.buffer)\nif not child: print(")
# Processes compile for shorter vectors, so that one test can compare their results with those of the processor's own vectors.
SHORTER = {"NUMBA_CPU_NAME": "x86-64-v3", "NUMBA_CPU_FEATURES": ",".join(f"+{name}" for name in needs.AVX2)} if needs.HAS_AVX2 else {}
OWN = dict.fromkeys(SHORTER)  # unset

WARMUP = """
from numba_rnnlm.cli import main
assert main(["warmup", "--cells", "tanh", "--backend", "cpu"]) == 0
"""
COMMANDS = """
import sys
from numba.core import event
from numba_rnnlm.cli import main
with event.install_recorder("numba:compile") as record:
    for command in sys.stdin.read().splitlines():
        assert main([*command.split(), "--backend", "cpu"]) == 0, command
print(sorted({begun.data["dispatcher"].py_func.__name__ for _, begun in record.buffer}), file=sys.stderr)
"""
EVERYTHING = """
train text.txt --valid held_out.txt --cell tanh --hidden 24 --dropout 0.5 --epochs 2 --out tied.npz --tied --tokenizer word
train text.txt --valid held_out.txt --cell tanh --hidden 72 --layers 3 --epochs 1 --out deep.npz --clip-value 1
train text.txt --cell tanh --streams 1 --steps 3 --max-seconds 1 --out one.npz --reduction sum_time
train text.txt --from deep.npz --epochs 1 --out deep.npz
eval deep.npz text.txt
eval tied.npz held_out.txt --weights int8
score deep.npz text.txt --per-token
generate deep.npz the --top-k 3 --top-p 0.9 --length 20
generate deep.npz --temperature 0
generate deep.npz the --weights int8
generate tied.npz the --samples 3
generate tied.npz --samples 2 --weights int8
""".strip()
OPENED = """
import sys
sys.addaudithook(lambda event, found: event == "open" and print(found[0], file=sys.stderr))
"""


@dataclasses.dataclass
class Ran:
    """The output of a process: a digest of its results, the number of functions it compiled, and its standard error."""

    code: int
    bits: str
    compiled: int
    errors: str


def start(program, *arguments, folder=None, path=HOME, **options):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_CPU")} | SHORTER
    environment |= {"PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "always::RuntimeWarning"}
    environment |= options.pop("environment", {})
    if folder is not None:
        environment["NUMBA_CACHE_DIR"] = str(folder)
    environment = {name: value for name, value in environment.items() if value is not None}
    return subprocess.Popen([sys.executable, "-c", program, *arguments], env=environment, text=True, stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **{"cwd": "/"} | options)  # fmt: skip


def finish(process):
    out, errors = process.communicate(timeout=HANG)
    bits, compiled = out.split() or ("", "-1")
    return Ran(process.returncode, bits, int(compiled), errors)


def run(program, *arguments, **options):
    ran = finish(start(program, *arguments, **options))
    assert ran.code == 0, ran.errors
    return ran


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def kernels(folder):
    return sorted((folder / "numba_rnnlm").glob("cpu-*/*"))


@pytest.fixture(scope="module")
def warm(tmp_path_factory):
    """A folder with the kernels of a warmup for tanh networks, what the warmup told, and what the same process trained after it."""
    folder = tmp_path_factory.mktemp("warm")
    process = start(WARMUP + TRAIN, "tanh", folder=folder)
    out, errors = process.communicate(timeout=HANG)
    assert process.returncode == 0, errors
    told, trained = out.splitlines()
    bits, compiled = trained.split()
    return folder, told, Ran(0, bits, int(compiled), errors)


@pytest.fixture(scope="module")
def filled(warm):
    """This folder, and the output of the training in the process that compiled it."""
    return warm[0], warm[2]


@pytest.fixture(scope="module")
def loaded(filled):
    """The names of the kernels that the training loads; the folder also has those that were compiled as parts of others."""
    ran = run(OPENED + TRAIN, "tanh", folder=filled[0])
    assert (ran.bits, ran.compiled) == (filled[1].bits, 0)
    names = {Path(path).name for path in ran.errors.splitlines()}
    return [path.name for path in kernels(filled[0]) if path.name in names]


@pytest.fixture
def copied(filled, tmp_path):
    """A copy of this folder."""
    return Path(shutil.copytree(filled[0], tmp_path / "copied"))


# The same bits


def test_loaded_kernels_compute_the_same_as_compiled_ones(filled):
    folder, cold = filled
    before = files(folder)
    assert len(before) > 50
    assert run(TRAIN, "tanh", folder=folder) == Ran(0, cold.bits, 0, "")
    assert files(folder) == before  # no useless files are written


@needs.avx2
def test_shorter_vectors_give_the_same_bits(warm):
    shorter = run(TRAIN, "tanh", "generate", folder=warm[0])
    assert shorter.bits == run(TRAIN, "tanh", "generate", environment=OWN).bits and shorter.compiled == 0


def test_nothing_is_compiled_after_a_warmup(warm, tmp_path):
    folder, told, trained = warm
    assert told.startswith(f"kernels are cached in {folder / 'numba_rnnlm'}; ") and told.endswith(" s")
    assert trained.errors.startswith("tanh: ") and trained.errors.endswith(" s\n") and trained.errors.count("\n") == 1
    assert trained.compiled == 0
    cached = files(folder)
    assert len(cached) > 50
    (tmp_path / "text.txt").write_text("the cat sees the dog\nthe dog sees the cat\n" * 40)
    (tmp_path / "held_out.txt").write_text("the dog sees the dog\nthe cow sees the cat\n")
    process = start(COMMANDS, folder=folder, cwd=tmp_path)
    _, shown = process.communicate(EVERYTHING, timeout=HANG)
    assert process.returncode == 0 and shown.splitlines()[-1] == "[]", shown
    assert files(folder) == cached


def test_half_of_the_kernels_loaded(filled, loaded, copied):
    """Compiled code calls cached code and vice versa, in any combination."""
    for round in range(ROUNDS):
        for path in random.Random(round).sample([path for path in kernels(copied) if path.name in loaded], len(loaded) // 2):
            path.unlink()
        mixed = run(TRAIN, "tanh", folder=copied)
        assert mixed.bits == filled[1].bits and mixed.compiled > 0
    assert run(TRAIN, "tanh", folder=copied).compiled == 0


FACTORY = """
import os, sys
import numpy as np
from numba_rnnlm.backends.cpu.kernels import kernel

def make(number, linked):
    def inner(x):
        x[0] += number
    inner = kernel(inner, linked=linked)
    def outer(x):
        inner(x)
        x[0] *= 10
    return kernel(outer, entry=True)

for order in sys.argv[1:]:
    if os.fork():  # before anything is compiled
        assert os.wait()[1] == 0
        continue
    x = np.zeros(1)
    for which in order:
        make(int(which), int(which) % 2 == 0)(x)
    print(int(x[0]), flush=True)
    os._exit(0)
"""


def test_functions_with_the_same_name_are_never_confused(tmp_path):
    """The compiler numbers functions in order, so two functions made by one factory and cached by two processes have the same name."""
    orders = ("1", "3", "2", "4", "13", "3124", "4231")
    process = start(FACTORY, *orders, folder=tmp_path)
    found, errors = process.communicate(timeout=HANG)
    assert process.returncode == 0, errors
    want = []
    for order in orders:
        want.append(0)
        for digit in order:
            want[-1] = (want[-1] + int(digit)) * 10
    assert [int(number) for number in found.split()] == want


# Concurrent processes


def test_cells_compiled_concurrently_keep_their_own_code(filled, tmp_path):
    cells = ("tanh", "gru", "relu", "sigmoid")[: 4 if ROUNDS > 1 else 2]
    alone = {}
    for cell in cells:
        folder = shutil.copytree(filled[0], tmp_path / cell)
        alone[cell] = run(TRAIN, cell, folder=folder).bits
    assert len(set(alone.values())) == len(cells)
    for round in range(ROUNDS):
        together = Path(shutil.copytree(filled[0], tmp_path / f"together{round}"))
        for path in kernels(together):
            if path.name.startswith(("recur", "_recurrent", "_step")):
                path.unlink()
        processes = {cell: start(TRAIN, cell, folder=together) for cell in cells}
        assert {cell: finish(process).bits for cell, process in processes.items()} == alone
        for cell in cells:
            after = run(TRAIN, cell, folder=together)
            assert after.bits == alone[cell] and after.compiled == 0


def test_a_process_killed_while_compiling(filled, loaded, copied):
    drawn = random.Random(ROUNDS)
    for _ in range(2 * ROUNDS):
        for path in drawn.sample([path for path in kernels(copied) if path.name in loaded], 10):
            path.unlink()
        lacking = len(kernels(copied))
        process = start(TRAIN, "tanh", folder=copied)
        while process.poll() is None and len(kernels(copied)) == lacking:  # until it has stored a kernel
            time.sleep(0.001)
        time.sleep(drawn.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    after = run(TRAIN, "tanh", folder=copied)
    assert after.bits == filled[1].bits and after.compiled > 0
    assert run(TRAIN, "tanh", folder=copied).compiled == 0


# Damaged files and unusable folders


def damage(paths, how):
    """Damage each file in this way."""
    contents = [path.read_bytes() for path in paths]
    for number, (path, content) in enumerate(zip(paths, contents, strict=True)):
        middle = len(content) // 2
        if how == "emptied":
            path.write_bytes(b"")
        elif how == "cut":
            path.write_bytes(content[: (number * 37) % len(content)])
        elif how == "scrambled":
            path.write_bytes(content[:middle] + bytes(64) + content[middle + 64 :])
        elif how == "foreign":
            path.write_bytes(b"\x80\x04\x8c\x05posix" + content)
        elif how == "exchanged":
            path.write_bytes(contents[number - 1])
        elif how == "folders":
            path.unlink()
            path.mkdir()


def test_damaged_files_are_replaced(filled, loaded, copied):
    ways, paths = ("emptied", "cut", "scrambled", "foreign", "exchanged"), [path for path in kernels(copied) if path.name in loaded]
    for number, how in enumerate(ways):
        damage(paths[number :: 2 * len(ways)], how)
    after = run(TRAIN, "tanh", folder=copied)
    assert after.bits == filled[1].bits and after.compiled >= 3 * len(ways)
    assert run(TRAIN, "tanh", folder=copied) == Ran(0, filled[1].bits, 0, "")


def test_a_failure_to_store_is_reported_once(filled, copied, tmp_path):
    def no_large_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    for path in kernels(copied):
        if path.name.startswith("dropout"):
            path.unlink()
    lacking = files(copied)
    ran = run(TRAIN, "tanh", folder=copied, preexec_fn=no_large_files)
    assert ran.bits == filled[1].bits and 0 < ran.compiled < 20
    assert ran.errors.count("kernels are not stored:") == 1 and "File too large" in ran.errors
    assert files(copied) == lacking  # no partial file is left
    damage([path for path in kernels(copied) if path.name.startswith("fill")], "folders")
    assert run(TRAIN, "tanh", folder=copied).errors.count("kernels are not stored:") == 1


def test_a_folder_that_vanishes(tmp_path):
    vanishing = SMALL.replace("    outer(x)\nprint", "    import shutil; shutil.rmtree(sys.argv[1], ignore_errors=True); outer(x)\nprint")
    assert vanishing != SMALL
    first = run(SMALL, folder=tmp_path / "here")
    gone = run(vanishing, str(tmp_path / "here"), folder=tmp_path / "here")
    assert gone.bits == first.bits and "kernels are not stored:" not in gone.errors
    assert run(SMALL, folder=tmp_path / "here").compiled == 0


ANOTHER = 54321  # an unused user id
# Modules that a process imports late may be readable by root only, like pytest's folders, so import the compiler first.
AS_ANOTHER = f"""from numba import njit
njit(lambda x: x[0])(np.ones(1))
os.setgid({ANOTHER}); os.setuid({ANOTHER})
with event"""


@pytest.fixture
def open_folder():
    """A folder that every user may enter; pytest's folders are private."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@needs.root
def test_another_user_reads_the_cache_of_root(open_folder):
    own = open_folder / "own"
    own.mkdir()
    os.chown(own, ANOTHER, ANOTHER)
    as_another = SMALL.replace("with event", AS_ANOTHER)
    first = run(SMALL, folder=open_folder / "roots")
    assert first.compiled > 0
    homeless = {"HOME": "/nowhere", "XDG_CACHE_HOME": ""}
    read = run(as_another, folder=open_folder / "roots", environment=homeless)
    assert read == Ran(0, first.bits, 0, "")
    for path in kernels(open_folder / "roots"):
        if path.name.startswith("outer"):
            path.unlink()
    left = files(open_folder / "roots")
    lacking = run(as_another, folder=open_folder / "roots", environment=homeless)
    assert lacking.bits == first.bits and 0 < lacking.compiled < first.compiled
    assert lacking.errors.count("kernels are not stored:") == 1 and "permission denied" in lacking.errors
    for compiled in (lacking.compiled, 0):  # missing kernels are stored in the user's own home
        again = run(as_another, folder=open_folder / "roots", environment={"HOME": str(own), "XDG_CACHE_HOME": ""})
        assert (again.bits, again.compiled) == (first.bits, compiled) and "kernels are not stored:" not in again.errors
    assert files(open_folder / "roots") == left


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder with the kernels of SMALL, and the output of the process that compiled them."""
    folder = tmp_path_factory.mktemp("small")
    return folder, run(SMALL, folder=folder)


@pytest.mark.parametrize("whose", [pytest.param("another", marks=needs.root), "file", "folder"])
def test_files_that_others_own_or_can_write_are_not_used(small, tmp_path, whose):
    first, folder = small[1], Path(shutil.copytree(small[0], tmp_path / "kernels"))
    for path in {"another": (folder / "numba_rnnlm").rglob("*"), "file": kernels(folder), "folder": [kernels(folder)[0].parent]}[whose]:
        if whose == "another":
            os.chown(path, ANOTHER, ANOTHER)
        else:
            path.chmod(path.stat().st_mode | 0o020)
    home = {"HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": ""}
    ran = run(TWICE if whose == "another" else SMALL, folder=folder, environment=home)  # stored in the user's own cache
    assert ran.bits == first.bits and ran.compiled == first.compiled
    if whose == "another":
        out = subprocess.run([sys.executable, "-m", "numba_rnnlm", "info"], capture_output=True, text=True, check=True, cwd=HOME,
                             env=os.environ | home | SHORTER | {"NUMBA_CACHE_DIR": str(folder)}).stdout  # fmt: skip
        assert f"it belongs to user {ANOTHER}, not to root or to you" in out and f"stored in {tmp_path / 'home'}" in out


# The cache folder


def test_the_folder_in_the_users_cache(tmp_path):
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for settings, place in (
        ({"XDG_CACHE_HOME": ""}, home / ".cache"),
        ({"XDG_CACHE_HOME": "relative"}, home / ".cache"),  # ignored according to the specification
        ({"XDG_CACHE_HOME": str(elsewhere)}, elsewhere),
        ({"NUMBA_CACHE_DIR": str(elsewhere / "more")}, elsewhere / "more"),
    ):
        environment = {"HOME": str(home), "NUMBA_CACHE_DIR": ""} | settings
        assert run(TWICE, environment=environment).compiled > 0, settings
        assert kernels(place), settings
        shutil.rmtree(place)


# Changed sources


@pytest.fixture
def package(tmp_path):
    """A copy of the library that can be edited."""
    return Path(shutil.copytree(HOME / "numba_rnnlm", tmp_path / "site" / "numba_rnnlm", ignore=shutil.ignore_patterns("__pycache__")))


def test_edited_sources_are_compiled_again_and_old_versions_removed(package, tmp_path):
    folder, sources = tmp_path / "kernels", files(package)
    first = run(SMALL, folder=folder, path=package.parent)
    assert files(package) == sources  # nothing is stored next to them
    (version,) = (folder / "numba_rnnlm").iterdir()
    for number in range(2 * cache.KEPT_VERSIONS):
        old = version.with_name(f"cpu-{number:016x}")
        old.mkdir()
        os.utime(old, (number, number))
    unrelated = version.with_name("cuda-0")
    unrelated.mkdir()
    source = package / "portable.py"
    text = source.read_text()
    edited = text.replace("y = quotient(t, t + T(2))", "y = quotient(t, t + T(3))")
    assert edited != text
    source.write_text(edited)
    second = run(SMALL, folder=folder, path=package.parent)
    assert second.bits != first.bits and second.compiled == first.compiled
    versions = set((folder / "numba_rnnlm").iterdir())
    assert version in versions and unrelated in versions and len(versions) == cache.KEPT_VERSIONS + 2
    source.write_text(text)
    assert run(SMALL, folder=folder, path=package.parent) == Ran(0, first.bits, 0, "")


UNNOTICED = """
import importlib
from pathlib import Path
from numba_rnnlm.backends import cpu
sources, unnoticed = sorted(Path(cpu.__file__).parent.glob("[!_]*.py")), []
for source in sources:
    before = cpu.kernels.CODE[-1]
    source.write_text(source.read_text() + "MORE = 1\\n")
    importlib.reload(cpu)
    unnoticed += [source.name] if cpu.kernels.CODE[-1] == before else []
print(",".join(unnoticed), len(sources))
"""


def test_kernels_depend_on_the_code_of_every_module_they_may_contain(package):
    """Kernels of other modules contain code of simd and packing, for example; host has no kernels."""
    found = run(UNNOTICED, path=package.parent)
    assert found.bits == "host.py" and found.compiled == len(list((package / "backends" / "cpu").glob("[!_]*.py")))


@pytest.mark.parametrize("form", ["without sources", "zipped"])
def test_programs_without_source_files(package, tmp_path, form):
    site = package.parent
    if form == "zipped":
        with zipfile.ZipFile(tmp_path / "site.zip", "w") as archive:
            for path in package.rglob("*.py"):
                archive.write(path, path.relative_to(site))
        site = tmp_path / "site.zip"
    else:
        subprocess.run([sys.executable, "-m", "compileall", "-q", "-b", package], check=True)
        for path in package.rglob("*.py"):
            path.unlink()
    assert run(TWICE, folder=tmp_path / "kernels", path=site).compiled > 0


CELL = """
import hashlib, os, sys, threading, time
import numpy as np
from numba.core import event
from numba_rnnlm import backends
from numba_rnnlm.cells import Cell
from numba_rnnlm.portable import portable, tanh

gain = {gain}

@portable
def forward(z, prev, next, start, stride):
    for j in range(start, next.shape[1], stride):
        z[0, j] = tanh(z[0, j]) * gain[0]
        next[0, j] = z[0, j]

@portable
def backward(z, prev, next, d, start, stride):
    for j in range(start, next.shape[1], stride):
        z[0, j] = d[0, j] * gain[0]
        d[0, j] = 0

cell = Cell("typed", dict(a="xh"), ("h",), lambda z, prev: np.tanh(z), forward, backward)
ops, H = backends.get("cpu", threads=1), 9

def filled(*shape):
    return np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)

U, z, s = filled(H, H), filled(3, 2, 1, H), filled(4, 2, 1, H)

def recur():
    ops.recur(cell, U, z, s)

def recur_backward():
    ops.recur_backward(cell, U, z, s, filled(3, 2, H), filled(2, 1, H), np.empty((H, H), np.float32))

with event.install_recorder("numba:compile") as record:
    recur()
{then}
print(hashlib.sha256(s.tobytes() + z.tobytes()).hexdigest(), sum(begun.is_start for _, begun in record.buffer))
"""


def typed(gain, then="recur_backward()"):
    """A program with a custom cell, which multiplies by the first element of ``gain``."""
    return CELL.format(gain=gain, then=then)


def test_a_cell_defined_at_a_prompt(copied):
    """Its code is not in a file, but another process recognises it nevertheless."""
    ran = [run(typed(gain, ""), folder=copied) for gain in ("(np.float32(1),)", "(np.float32(2),)") * 2]
    assert [each.compiled > 0 for each in ran] == [True, True, False, False]
    assert ran[0].bits == ran[2].bits != ran[1].bits == ran[3].bits


def test_code_with_a_changed_constant_is_not_stored(copied):
    gain = "np.array([1], np.float32)"
    alone = Path(shutil.copytree(copied, copied.with_name("alone")))
    changed = run(typed(gain, "gain[:] = 50\nrecur_backward()"), folder=copied)  # the compiler turns gain into a constant
    plain = run(typed(gain), folder=copied)
    assert plain.bits == run(typed(gain), folder=alone).bits != changed.bits


def test_code_that_refers_to_an_array_is_not_stored(copied):
    """The code would contain its address."""
    program = typed("np.arange(1, 9, dtype=np.float32)[::2]", "")
    assert len({run(program, folder=copied).bits for _ in range(2)}) == 1


def test_a_fork_while_another_thread_compiles(copied):
    forking = """
compiling = threading.Thread(target=recur_backward)
compiling.start()
while not record.buffer[begun:]:
    time.sleep(0.001)
child = os.fork()
if not child:
    recur_backward()
    os._exit(7)
compiling.join()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""
    both = typed("np.array([1], np.float32)").replace("    recur()\n", "    recur()\n    begun = len(record.buffer)\n" + textwrap.indent(forking, "    "))
    assert run(both, folder=copied).compiled > 0


# Messages


def test_a_wait_for_the_compiler_is_reported_once(tmp_path):
    at_once = "from numba_rnnlm.backends import compiling\ncompiling.LATE = 0\n"  # even if the compiler is fast
    errors = run(at_once + SMALL, folder=tmp_path / "kernels").errors
    assert errors.count("compiling kernels") == 1 and str(tmp_path / "kernels" / "numba_rnnlm") in errors and "warmup" in errors
    (tmp_path / "file").write_text("")
    homeless = {"HOME": str(tmp_path / "file"), "XDG_CACHE_HOME": "", "NUMBA_CACHE_DIR": ""}
    errors = run(at_once + SMALL, environment=homeless).errors
    assert errors.count("compiling kernels") == 1 and "in every process" in errors
    assert errors.count("kernels are not stored:") == errors.count("set NUMBA_CACHE_DIR to a folder") == 1


# The store itself

NAMES = st.text("abcdefgh-_0123456789", min_size=1, max_size=20)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    return cache.Store("cpu-0")


def test_the_store_returns_what_was_saved_or_nothing(store, tmp_path):
    @given(st.dictionaries(NAMES, st.binary(max_size=100), min_size=1), st.randoms())
    def check(bodies, draw):
        for name, body in bodies.items():
            store.save(name, body)
        for name, body in bodies.items():
            assert store.load(name) == body
        name = draw.choice(sorted(bodies))
        path = store.writable / name
        whole = path.read_bytes()
        at = draw.randrange(len(whole))
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 1 << draw.randrange(8)]) + whole[at + 1 :], whole + b"x"):
            path.write_bytes(damaged)
            assert store.load(name) is None
        (store.writable / "other").write_bytes(whole)
        assert store.load("other") is None
        store.save(name, bodies[name])
        assert store.load(name) == bodies[name]

    check()


def test_every_built_in_cell_has_a_stable_key():
    assert all(len(cell.key.partition(":")[2]) == 16 for cell in CELLS.values())


def test_functions_for_kernels_only_are_not_called_from_python():
    with pytest.raises(TypeError, match=r"pack_panel is called by kernels only; .*@kernel\(entry=True\)"):
        packing.pack_panel(1)
