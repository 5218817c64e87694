"""Kernels compiled to machine code (SASS) without a device or its driver: what they use, and which instructions."""

import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

INSTALL = 'pip install "numba-cuda[cu13]" nvidia-cuda-nvdisasm'
OPCODE = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", re.MULTILINE)
FLOAT64 = re.compile(r"D(ADD|MUL|FMA|SETP|MNMX|MMA)|.*\.F64|MUFU\..*64")
LOCAL = re.compile(r"LDL|STL")


@dataclass(frozen=True)
class MachineCode:
    """What the assembler says of one kernel, and how often each opcode, with its modifiers, occurs in it.

    All but the registers, which are a thread's, are in bytes: a thread's stack and spills, a block's shared memory.
    """

    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    shared: int
    opcodes: Counter[str]

    def __getitem__(self, pattern: str | re.Pattern[str]) -> dict[str, int]:
        """The opcodes that begin with the pattern."""
        return {opcode: count for opcode, count in self.opcodes.items() if re.match(pattern, opcode)}


def compile_kernel(kernel: Any, capability: tuple[int, int]) -> MachineCode:
    """Compile a ``Kernel`` as its first launch on a device of this compute capability would."""
    from numba.cuda import dispatcher

    with _device(capability):
        compiled = dispatcher._Kernel(kernel.dispatcher.py_func, kernel.signature(), **kernel.dispatcher.targetoptions)
        library = compiled._codelibrary
        cubin = library.get_cubin().code
        (log,) = library._linkerinfo_cache.values()
    name = re.escape(compiled.entry_name)
    said = re.search(
        rf"Function properties for {name}\n.* (\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\n"
        r".*Used (\d+) registers(?:.* (\d+) bytes smem)?", log)  # fmt: skip
    assert said, f"the assembler says nothing of {kernel.name}:\n{log}"
    stack, stores, loads, registers, shared = (int(number or 0) for number in said.groups())
    return MachineCode(registers, stack, stores, loads, shared, _opcodes(cubin, compiled.entry_name))


@contextmanager
def _device(capability: tuple[int, int]) -> Iterator[None]:
    """Pretend to Numba that there is such a device, and let its linker ask the assembler for the numbers."""
    from numba.cuda import codegen, dispatcher
    from numba.cuda.cudadrv.driver import _Linker

    device = SimpleNamespace(compute_capability=capability)
    devices = SimpleNamespace(get_context=lambda: SimpleNamespace(device=device))
    options = _Linker._get_linker_options

    def verbose(linker: Any, ptx: bool) -> Any:
        return replace(options(linker, ptx), verbose=True, ptxas_options=["-v"])

    with (
        mock.patch.object(dispatcher, "get_current_device", lambda: device),
        mock.patch.object(codegen, "devices", devices),
        mock.patch.object(_Linker, "_get_linker_options", verbose),
    ):
        yield


def _opcodes(cubin: bytes, entry: str) -> Counter[str]:
    """The opcodes of one function; what is linked to it, such as NVIDIA's device runtime, lies in other sections."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.cubin")
        file.write_bytes(cubin)
        done = subprocess.run([_nvdisasm(), "-c", file], capture_output=True, text=True, check=True)
    _, *sections = re.split(r"^\s*\.section\s+\.text\.", done.stdout, flags=re.MULTILINE)
    (own,) = [section for section in sections if re.match(re.escape(entry) + r"\W", section)]
    opcodes = Counter(OPCODE.findall(own))
    assert "EXIT" in opcodes, f"no instructions of {entry} in the listing:\n{done.stdout[:1000]}"
    return opcodes


def _nvdisasm() -> str:
    spec = importlib.util.find_spec("nvidia")
    folders = spec.submodule_search_locations if spec and spec.submodule_search_locations else ()
    wheel = (shutil.which("nvdisasm", path=str(Path(folder, "cu13", "bin"))) for folder in folders)
    found = shutil.which("nvdisasm") or next(filter(None, wheel), None)
    if found is None:
        raise FileNotFoundError(f"nvdisasm is neither on the path nor among the installed packages; {INSTALL}")
    return found
