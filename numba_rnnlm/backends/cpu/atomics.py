"""Atomic counters, with which threads synchronise without the GIL."""

import threading
import time
from typing import Any

from llvmlite import binding, ir
from numba import config, types
from numba.extending import intrinsic

LINE = 8  # int64 per cache line; values that different threads write go to different lines

_i32, _i64 = ir.IntType(32), ir.IntType(64)


def pointer(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Address of args[0][args[1]]."""
    return builder.gep(context.make_array(signature.args[0])(context, builder, args[0]).data, [args[1]])


def call(builder: Any, name: str, result: ir.Type, *arguments: Any) -> Any:
    """Call an LLVM intrinsic or a function of the process by name."""
    module = builder.module
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(module.globals.get(name) or ir.Function(module, kind, name), arguments)


@intrinsic
def _add(typingctx, counters, index, value):
    """counters[index] += value; returns the previous value."""

    def codegen(context, builder, signature, args):
        return builder.atomic_rmw("add", pointer(context, builder, signature, args), args[2], "seq_cst")

    return types.int64(counters, types.intp, types.int64), codegen


@intrinsic
def _exchange(typingctx, counters, index, value):
    """counters[index] = value; returns the previous value."""

    def codegen(context, builder, signature, args):
        return builder.atomic_rmw("xchg", pointer(context, builder, signature, args), args[2], "seq_cst")

    return types.int64(counters, types.intp, types.int64), codegen


@intrinsic
def _read(typingctx, counters, index):
    """counters[index]; everything its writer wrote before is visible too."""

    def codegen(context, builder, signature, args):
        return builder.load_atomic(pointer(context, builder, signature, args), "seq_cst", 8)

    return types.int64(counters, types.intp), codegen


@intrinsic
def _write(typingctx, counters, index, value):
    """counters[index] = value, ordered after all earlier writes."""

    def codegen(context, builder, signature, args):
        builder.store_atomic(args[2], pointer(context, builder, signature, args), "release", 8)
        return context.get_dummy_value()

    return types.void(counters, types.intp, types.int64), codegen


@intrinsic
def _pause(typingctx):
    """The processor's pause hint for spin loops."""

    def codegen(context, builder, signature, args):
        triple = binding.get_default_triple()
        if triple.startswith("x86_64"):
            call(builder, "llvm.x86.sse2.pause", ir.VoidType())
        elif triple.startswith(("aarch64", "arm64")):
            call(builder, "llvm.aarch64.hint", ir.VoidType(), ir.Constant(_i32, 1))
        return context.get_dummy_value()

    return types.void(), codegen


# The same in plain Python, for NUMBA_DISABLE_JIT.

_lock = threading.Lock()


def _add_in_python(counters: Any, index: int, value: int) -> int:
    with _lock:
        before = int(counters[index])
        counters[index] += value
        return before


def _exchange_in_python(counters: Any, index: int, value: int) -> int:
    with _lock:
        before = int(counters[index])
        counters[index] = value
        return before


def _read_in_python(counters: Any, index: int) -> int:
    return int(counters[index])


def _write_in_python(counters: Any, index: int, value: int) -> None:
    counters[index] = value


def _pause_in_python() -> None:
    time.sleep(0)


_compiled: tuple[Any, ...] = (_add, _exchange, _read, _write, _pause)
_plain = _add_in_python, _exchange_in_python, _read_in_python, _write_in_python, _pause_in_python
add, exchange, read, write, pause = _plain if config.DISABLE_JIT else _compiled  # type: ignore[attr-defined]
