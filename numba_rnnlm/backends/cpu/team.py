"""Handing a kernel's parts to threads that are already awake: a microsecond, where waking one up takes fifty.

A *job* is a kernel and its arguments; its parts are numbered. Whoever is free takes the next part: the workers, which look for
open jobs for a while before they sleep, and the thread that opened the job. So a job always ends, even if no worker
comes, and results do not depend on who takes which part. Python and its lock have no share in this.
"""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.extending import intrinsic

from .atomics import LINE, add, exchange, offer, pause, read, write
from .kernels import kernel
from .workspace import aligned

SLOTS = 8  # jobs that can be open at once; whoever finds no free slot works alone
PATIENCE = 2000  # looks, some 30 microseconds, before the processor is offered to another thread
ROUNDS = 0 if config.DISABLE_JIT else 6  # type: ignore[attr-defined]  # of these before a worker sleeps, 0.3 milliseconds

# A slot: how many parts there are and which is the next in one number, so that both are seen at once; what to call, and on
# lines of their own how many parts are done and who holds the slot.
_NEXT, _RUNNER, _DATA, _DONE, _HELD = 0, 1, 2, LINE, 2 * LINE
_SLOT = 3 * LINE
GANG = SLOTS * _SLOT  # one more slot, for jobs whose parts wait for one another
_END = GANG + _SLOT
_PARTS = 32  # bits of a number for the next part

_i64 = ir.IntType(64)


def new_board() -> np.ndarray:
    """All slots, free."""
    board = aligned((_END,), np.int64)
    board[:] = 0
    return board


def slot(number: int) -> int:
    """Where a slot begins on the board."""
    return number % SLOTS * _SLOT


def _make_job(function: Any) -> Any:
    @intrinsic
    def job(typingctx, bounds, first, rest):
        """Addresses of what runs a part of function(part, bounds, first, *rest), and of the arguments, on the stack."""
        kinds = (types.intp, bounds, first, *rest.types)
        callee = typingctx.resolve_function_type(types.Dispatcher(function), kinds, {})

        def codegen(context, builder, signature, values):
            given = [*values[:2], *(builder.extract_value(values[2], index) for index in range(len(rest.types)))]
            given = [context.cast(builder, value, have, want)
                     for value, have, want in zip(given, kinds[1:], callee.args[1:], strict=True)]  # fmt: skip
            shape = ir.LiteralStructType([value.type for value in given])
            data = builder.alloca(shape)
            for index, value in enumerate(given):
                builder.store(value, _field(builder, data, index))

            module = builder.module
            name = module.get_unique_name("run_part")
            runner = ir.Function(module, ir.FunctionType(ir.VoidType(), [_i64, _i64]), name)
            runner.linkage = "internal"
            inner = ir.IRBuilder(runner.append_basic_block())
            address, part = runner.args
            kept = inner.inttoptr(address, shape.as_pointer())
            loaded = [inner.load(_field(inner, kept, index)) for index in range(len(given))]
            declared = context.declare_function(module, function.described[callee.args])
            context.call_conv.call_function(inner, declared, callee.return_type, callee.args, [part, *loaded])
            inner.ret_void()
            addresses = [builder.ptrtoint(runner, _i64), builder.ptrtoint(data, _i64)]
            return context.make_tuple(builder, signature.return_type, addresses)

        return types.UniTuple(types.int64, 2)(bounds, first, rest), codegen

    return job


def _field(builder: Any, struct: Any, index: int) -> Any:
    return builder.gep(struct, [ir.Constant(ir.IntType(32), 0), ir.Constant(ir.IntType(32), index)])


@intrinsic
def _run(typingctx, runner, data, part):
    """Run one part of a job."""

    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(ir.VoidType(), [_i64, _i64])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@kernel
def _take(board, slot):
    """The next part of the job in this slot, or -1."""
    state = read(board, slot + _NEXT)
    if (state & ((1 << _PARTS) - 1)) >= state >> _PARTS:
        return -1
    state = add(board, slot + _NEXT, 1)
    part = state & ((1 << _PARTS) - 1)
    return part if part < state >> _PARTS else -1


@kernel
def _open(board, slot, parts, runner, data):
    """Let the workers help with a job, and return when it is done."""
    write(board, slot + _RUNNER, runner)
    write(board, slot + _DATA, data)
    write(board, slot + _DONE, 0)
    write(board, slot + _NEXT, parts << _PARTS)
    own = 0
    part = _take(board, slot)
    while part >= 0:
        _run(runner, data, part)
        own += 1
        part = _take(board, slot)
    looks = 0
    while read(board, slot + _DONE) < parts - own:
        looks += 1
        if looks % PATIENCE == 0:
            offer()
        pause()
    write(board, slot + _NEXT, 0)
    write(board, slot + _HELD, 0)


@kernel
def serve(board, rounds):
    """A worker: take parts of whatever job is open, until there was none for so many rounds of looking."""
    looks = 0
    while looks < rounds * PATIENCE:
        for slot in range(0, _END, _SLOT):
            part = _take(board, slot)
            while part >= 0:
                _run(read(board, slot + _RUNNER), read(board, slot + _DATA), part)
                add(board, slot + _DONE, 1)
                looks = 0
                part = _take(board, slot)
        looks += 1
        if looks % PATIENCE == 0:
            offer()
        pause()


@kernel(linked=True)
def _share(board, slot, parts, runner, data):
    if parts > 1 and exchange(board, slot + _HELD, 1) == 0:
        _open(board, slot, parts, runner, data)
    else:
        for part in range(parts):
            _run(runner, data, part)


def _run_in_python(slot: int, part: Callable[..., None], bounds: np.ndarray, args: tuple[Any, ...]) -> None:
    calls = [threading.Thread(target=part, args=(index, bounds, *args)) for index in range(1, len(bounds))]
    for call in calls:
        call.start()
        if slot != GANG:
            call.join()
    part(0, bounds, *args)
    for call in calls:
        call.join()


def parallel(function: Callable[..., Any]) -> Any:
    """A kernel in parts: ``function(part, bounds, *args)`` becomes ``function(board, slot, bounds, *args)``, which runs them all.

    ``bounds`` has a line for each part, and says what belongs to it.
    """
    part = kernel(function, linked=True)
    if config.DISABLE_JIT:  # type: ignore[attr-defined]
        return lambda board, slot, bounds, *args: _run_in_python(slot, part, bounds, args)
    # Not a closure: Numba knows those on disk only by what they close over, which is another object in each process.
    name = function.__name__
    # A cell or a rule comes first: among *rest, Numba would take long to see what the others are.
    source = f"""def {name}(board, slot, bounds, first, *rest):
    runner, data = {name}_job(bounds, first, rest)
    share(board, slot, bounds.shape[0], runner, data)"""
    scope = function.__globals__ | {f"{name}_job": _make_job(part), "share": _share}
    exec(compile(source, function.__code__.co_filename, "exec"), scope)
    together = scope[name]
    together.__doc__ = function.__doc__
    return kernel(together)
