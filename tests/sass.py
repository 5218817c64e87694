"""Compiles kernels to machine code (SASS) without a device or its driver, and reports their resources and instructions."""

import importlib.util
import re
import shutil
import struct
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

INSTALL = 'pip install "numba-cuda[cu13]" nvidia-cuda-nvdisasm'
OPCODE = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", re.MULTILINE)
FLOAT64 = re.compile(r"D(ADD|MUL|FMA|SETP|MNMX|MMA)|.*\.F64|MUFU\..*64")
LOCAL = re.compile(r"LDL|STL")
INSTRUCTION = 16  # bytes


@dataclass(frozen=True)
class MachineCode:
    """The assembler's report on one kernel, and how often each opcode, with its modifiers, occurs in it.

    Registers are per thread; stack and spills are bytes per thread, shared memory is bytes per block.
    """

    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    shared: int
    opcodes: Counter[str]

    def __getitem__(self, pattern: str | re.Pattern[str]) -> dict[str, int]:
        """The opcodes that begin with the pattern, and their counts."""
        return {opcode: count for opcode, count in self.opcodes.items() if re.match(pattern, opcode)}


def front_end(kernel: Any, capability: tuple[int, int]) -> Any:
    """Compile a ``Kernel`` as Numba does before its first launch on a device; :func:`compile_all` finishes it for that device or any other."""
    from numba.cuda import dispatcher

    with _device(capability):
        return dispatcher._Kernel(kernel.dispatcher.py_func, kernel.signature(), **kernel.dispatcher.targetoptions)


def compile_kernel(kernel: Any, capability: tuple[int, int]) -> MachineCode:
    """Compile a ``Kernel`` as its first launch on a device of this compute capability would."""
    (code,) = compile_all([front_end(kernel, capability)], capability)
    return code


def compile_all(kernels: Sequence[Any], capability: tuple[int, int]) -> list[MachineCode]:
    """Compile each kernel that :func:`front_end` has prepared to machine code for one device."""
    with _device(capability):
        cubins = [kernel._codelibrary.get_cubin(capability).code for kernel in kernels]
    functions = [_section(cubin, f".text.{kernel.entry_name}") for kernel, cubin in zip(kernels, cubins, strict=True)]
    logs = [kernel._codelibrary.get_linkerinfo(capability) for kernel in kernels]
    return [
        _parse(kernel.entry_name, log, opcodes)
        for kernel, log, opcodes in zip(kernels, logs, _opcodes(functions, capability), strict=True)
    ]


def _parse(entry: str, log: str, opcodes: Counter[str]) -> MachineCode:
    report = re.search(
        rf"Function properties for {re.escape(entry)}\n.* (\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\n"
        r".*Used (\d+) registers(?:.* (\d+) bytes smem)?", log)  # fmt: skip
    assert report, f"the assembler did not report on {entry}:\n{log}"
    stack, stores, loads, registers, shared = (int(number or 0) for number in report.groups())
    return MachineCode(registers, stack, stores, loads, shared, opcodes)


@contextmanager
def _device(capability: tuple[int, int]) -> Iterator[None]:
    """Make Numba believe that such a device exists, and make its linker ask the assembler for a report."""
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


def _section(cubin: bytes, name: str) -> bytes:
    """A section of a 64-bit ELF object file. Code that is linked to a kernel, such as NVIDIA's device runtime, is in other sections."""
    (table,), (size, count, names) = struct.unpack_from("<Q", cubin, 0x28), struct.unpack_from("<3H", cubin, 0x3A)
    headers = [struct.unpack_from("<2I4Q", cubin, table + size * number) for number in range(count)]
    strings = headers[names][4]
    (found,) = [header for header in headers if cubin.startswith(name.encode() + b"\0", strings + header[0])]
    return cubin[found[4] : found[4] + found[5]]


def _opcodes(functions: Sequence[bytes], capability: tuple[int, int]) -> list[Counter[str]]:
    """The opcodes of each function. Starting the disassembler takes 0.4 s, so it reads all functions at once."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "functions")
        file.write_bytes(b"".join(functions))
        command = [_nvdisasm(), "-b", "SM{}{}".format(*capability), file]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found, sizes = OPCODE.findall(listing), [len(function) // INSTRUCTION for function in functions]
    assert len(found) == sum(sizes), f"{len(found)} opcodes of {sum(sizes)} instructions:\n{listing[:1000]}"
    rest = iter(found)
    counters = [Counter(islice(rest, size)) for size in sizes]
    assert all("EXIT" in opcodes for opcodes in counters), f"a function without an end:\n{listing[:1000]}"
    return counters


def _nvdisasm() -> str:
    spec = importlib.util.find_spec("nvidia")
    folders = spec.submodule_search_locations if spec and spec.submodule_search_locations else ()
    wheel = (shutil.which("nvdisasm", path=str(Path(folder, "cu13", "bin"))) for folder in folders)
    found = shutil.which("nvdisasm") or next(filter(None, wheel), None)
    if found is None:
        raise FileNotFoundError(f"nvdisasm is neither on the path nor among the installed packages; {INSTALL}")
    return found
