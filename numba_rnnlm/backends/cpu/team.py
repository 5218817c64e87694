"""Handing a kernel's parts to threads that are still awake: a microsecond, where waking one takes fifty.

A *job* is a kernel with its arguments; its parts are numbered. Any free thread takes the next part: workers, which poll for
open jobs for a while before they sleep, and the thread that opened the job. So a job always finishes, even if no worker
comes, and results do not depend on which thread takes which part. None of this needs Python or the GIL.

A *gang* is a job whose leader, the thread that opened it, orders one step after another. Workers join whenever they arrive,
do their share of each step, and leave when ordered to: see :func:`join`.
"""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from .atomics import LINE, add, exchange, pause, pointer, read, write
from .kernels import kernel
from .sleeping import LOOKS, advance, await_least, clock, increase, look, sleep, wake
from .workspace import aligned

SLOTS = 8  # jobs that can be open at once; a caller without a free slot works alone
AWAKE = 300_000  # nanoseconds that a worker polls for jobs before it sleeps
PATIENCE = 50_000  # nanoseconds that a thread polls for others to finish before it sleeps
WINDOW = 10_000_000  # nanoseconds of shared jobs after which sharing must have been faster than one thread
CAUTION = 50  # work alone for this many times what sharing has lost, so that at most a fiftieth is lost
MOST_LOST = 1_000_000_000  # nanoseconds; a larger loss means that the process was suspended, and counts as this
CROWDED = 5_000_000  # nanoseconds that callers work alone after they have got in each other's way

# The board starts with the number of calls to the workers, -1 to end them, and the number that sleep. Then, on cache lines of
# their own: the number of threads; the number of callers running a job; and measurements in nanoseconds: time of shared jobs,
# their estimated time on one thread, how long the caller continues alone, and when it decides whether sharing pays off.
_CALLS, _ASLEEP, _THREADS, CALLERS = 0, 1, LINE, 2 * LINE
_SHARED, _SINGLE, _CAUTIOUS, JUDGED = range(3 * LINE, 3 * LINE + 4)
_SLOTS = 4 * LINE
# A slot: the number of parts and the next part in one int64, so that both are read atomically; the function and arguments to
# call; and on cache lines of their own: the number of parts done by others, whether the slot is held, and what a gang needs.
_NEXT, _RUNNER, _DATA, _DONE, _HELD, ORDER, JOINED, ARRIVED, _ARGUMENTS = 0, 1, 2, *(line * LINE for line in range(1, 7))
_SPACE = 48 * LINE  # for the arguments of a gang
_SLOT = _ARGUMENTS + _SPACE
_END = _SLOTS + SLOTS * _SLOT
_PARTS = 32  # bits for the next part in _NEXT
_MEMBERS = 16  # bits for the number of members in an order
LEAVE = (1 << 62) + 1  # the last order; no other order has the same lower 32 bits, which a sleeper compares

_i64 = ir.IntType(64)


def new_board(threads: int) -> np.ndarray:
    """A board with all slots free."""
    board = aligned((_END,), np.int64)
    board[:] = 0
    board[_THREADS], board[JUDGED] = threads, WINDOW
    return board


def close(board: np.ndarray) -> None:
    """Let the workers end."""
    _close(board)


def slot(number: int) -> int:
    """Index on the board where a slot begins."""
    return _SLOTS + number % SLOTS * _SLOT


def _make_job(function: Any, gang: bool) -> Any:
    @intrinsic
    def job(typingctx, bounds, first, rest):
        """(address of a runner of function(part, bounds, first, *rest), address of the arguments on the stack, their size in words)."""
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
            words = -(-context.get_abi_sizeof(shape) // 8)
            assert not gang or words <= _SPACE, f"the arguments take {words} words, the board has space for {_SPACE}"
            found = [builder.ptrtoint(runner, _i64), builder.ptrtoint(data, _i64), ir.Constant(_i64, words)]
            return context.make_tuple(builder, signature.return_type, found)

        return types.UniTuple(types.int64, 3)(bounds, first, rest), codegen

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


@intrinsic
def _keep(typingctx, data, words, board, index):
    """Copy ``words`` words from address ``data`` to board[index]; returns their new address."""

    def codegen(context, builder, signature, args):
        source = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
        place = pointer(context, builder, types.void(*signature.args[2:]), args[2:])
        target = builder.bitcast(place, ir.IntType(8).as_pointer())
        cgutils.raw_memcpy(builder, target, source, args[1], 8)
        return builder.ptrtoint(place, _i64)

    return types.int64(types.int64, types.int64, board, types.intp), codegen


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
    """Offer all parts but the first to the workers."""
    write(board, slot + _RUNNER, runner)
    write(board, slot + _DATA, data)
    exchange(board, slot + _DONE, 0)
    exchange(board, slot + _NEXT, (parts << _PARTS) + 1)
    if read(board, _ASLEEP):
        add(board, _CALLS, 1)
        wake(board, _CALLS, parts - 1)


@kernel
def _hold(board, slot, parts):
    """Whether to share a job; if so, its slot is taken. Counts the caller in any case, until :func:`_finish`."""
    busy = add(board, CALLERS, 1)
    if parts == 1:
        return False
    if busy >= read(board, _THREADS) - 1:  # the other callers will soon be back with more
        write(board, _CAUTIOUS, max(read(board, _CAUTIOUS), CROWDED))
    return read(board, _CAUTIOUS) <= 0 and exchange(board, slot + _HELD, 1) == 0


@kernel
def _finish(board, alone):
    """A caller's job is done; it took ``alone`` nanoseconds if it was not shared although it could be."""
    if alone > 0:
        add(board, _CAUTIOUS, -alone)
    add(board, CALLERS, -1)


@kernel(linked=True)
def _share(board, slot, parts, runner, data):
    """Run all parts, with help from the workers."""
    began, alone = clock(), 0
    if _hold(board, slot, parts):
        _open(board, slot, parts, runner, data)
        own, part = 0, 0
        while part >= 0:
            _run(runner, data, part)
            own += 1
            part = _take(board, slot)
        busy = clock() - began
        await_least(board, slot + _DONE, parts - own, PATIENCE)
        write(board, slot + _NEXT, 0)
        write(board, slot + _HELD, 0)
        _measure(board, clock() - began, busy // own * parts)
    else:
        for part in range(parts):
            _run(runner, data, part)
        if parts > 1:
            alone = clock() - began
    _finish(board, alone)


@kernel
def _measure(board, shared, single):
    """Record a job's time, and its estimated time on one thread: that of the caller's own parts, scaled to all parts.

    Sharing loses when other processes run too: a worker may be preempted while it holds a part, and all wait for it.
    """
    single += add(board, _SINGLE, single)
    shared += add(board, _SHARED, shared)
    if shared > read(board, JUDGED):
        write(board, _SHARED, 0)
        write(board, _SINGLE, 0)
        if single < shared:
            write(board, _CAUTIOUS, CAUTION * min(shared - single, MOST_LOST))


@kernel(linked=True)
def _lead(board, slot, parts, runner, data, words):
    """Run part 0, which leads a gang of those who come, or part -1, which works alone.

    A worker may still join after the work is done. So the arguments are kept on the board, and the slot becomes free only
    when the last member has left.
    """
    began, alone = clock(), 0
    if _hold(board, slot, parts):
        for place in (ORDER, JOINED, ARRIVED):
            exchange(board, slot + place, 0)
        _open(board, slot, parts, runner, _keep(data, words, board, slot + _ARGUMENTS))
        _run(runner, data, 0)
        dismiss(board, slot)
        state = exchange(board, slot + _NEXT, 0)
        others = min(state & ((1 << _PARTS) - 1), parts) - 1
        if add(board, slot + _DONE, -others) == others:
            write(board, slot + _HELD, 0)
    else:
        _run(runner, data, -1)
        if parts > 1:
            alone = clock() - began
    _finish(board, alone)


@kernel(entry=True)
def serve(board):
    """A worker: take parts of any open job, sleep after a while without one, and end when the board is closed."""
    since, looks = clock(), 0
    calls = read(board, _CALLS)
    while calls >= 0:
        found = False
        for slot in range(_SLOTS, _END, _SLOT):
            part = _take(board, slot)
            while part >= 0:
                _run(read(board, slot + _RUNNER), read(board, slot + _DATA), part)
                if increase(board, slot + _DONE, 1) == -1:
                    write(board, slot + _HELD, 0)  # the last member leaves a finished gang
                found = True
                part = _take(board, slot)
        looks += 1
        if found:
            since = clock()
        elif looks % LOOKS == 0 and clock() - since > AWAKE:
            # Count as asleep first, then look once more: a job opened now either sees a sleeper to wake or is seen here.
            add(board, _ASLEEP, 1)
            if not _any_open(board):
                sleep(board, _CALLS, calls)
            add(board, _ASLEEP, -1)
            since = clock()
        pause()
        calls = read(board, _CALLS)


@kernel
def _any_open(board):
    for slot in range(_SLOTS, _END, _SLOT):
        state = read(board, slot + _NEXT)
        if (state & ((1 << _PARTS) - 1)) < state >> _PARTS:
            return True
    return False


@kernel(entry=True)
def _close(board):
    write(board, _CALLS, -1)
    wake(board, _CALLS, 1 << 30)


# Called by the parts of a gang. An order encodes a step and the number of members that share it; orders increase.


@kernel
def join(board, slot):
    """Called by a worker on arrival; returns its number among the members, from 1. The leader is 0."""
    return add(board, slot + JOINED, 1) + 1


@kernel
def follow(board, slot, order):
    """Wait for the order after this one; start with 0."""
    return await_least(board, slot + ORDER, order + 1, PATIENCE)


@kernel
def arrive(board, slot):
    """Called by a worker when it has done its share of a step."""
    increase(board, slot + ARRIVED, 1)


@kernel
def members(board, slot):
    """The current number of members, including the leader."""
    return read(board, slot + JOINED) + 1


@kernel
def give(board, slot, number, count):
    """Order the first ``count`` members to do step ``number``."""
    advance(board, slot + ORDER, ((number + 1) << _MEMBERS) + count)


@kernel
def meaning(order):
    """(step, number of members that share it) of an order."""
    return (order >> _MEMBERS) - 1, order & ((1 << _MEMBERS) - 1)


@kernel
def gather(board, slot, arrivals, patience):
    """Wait for this many arrivals in total; returns the nanoseconds waited, or 0 if they did not exceed ``patience``."""
    since = clock()
    if look(board, slot + ARRIVED, arrivals, patience):
        return 0
    await_least(board, slot + ARRIVED, arrivals, 0)
    return clock() - since


@kernel
def dismiss(board, slot):
    """Order all members to leave, including those who come later."""
    if read(board, slot + ORDER) != LEAVE:
        advance(board, slot + ORDER, LEAVE)


@kernel
def crowded(board):
    """Whether other callers need the processors."""
    return read(board, CALLERS) >= read(board, _THREADS)


def _run_in_python(part: Callable[..., None], bounds: np.ndarray, args: tuple[Any, ...]) -> None:
    for index in range(len(bounds)):
        part(index, bounds, *args)


def _lead_in_python(
    part: Callable[..., None], board: np.ndarray, slot: int, bounds: np.ndarray, args: tuple[Any, ...]
) -> None:
    board[slot + ORDER] = board[slot + JOINED] = board[slot + ARRIVED] = 0
    calls = [threading.Thread(target=part, args=(index, bounds, *args)) for index in range(1, len(bounds))]
    for call in calls:
        call.start()
    part(0 if calls else -1, bounds, *args)
    dismiss(board, slot)
    for call in calls:
        call.join()


def parallel(function: Callable[..., Any] | None = None, *, gang: bool = False) -> Any:
    """A kernel in parts: ``function(part, bounds, *args)`` becomes ``function(board, slot, bounds, *args)``, which runs all parts.

    Row ``part`` of ``bounds`` defines the work of a part. In a ``gang``, only the leader must run: part 0, or -1 if no
    others can join.
    """
    if function is None:
        return lambda function: parallel(function, gang=gang)
    part = kernel(function, linked=True)
    if config.DISABLE_JIT:  # type: ignore[attr-defined]
        if gang:
            return lambda board, slot, bounds, *args: _lead_in_python(part, board, slot, bounds, args)
        return lambda board, slot, bounds, *args: _run_in_python(part, bounds, args)
    # Not a closure: in the cache, Numba identifies closures by what they close over, a different object in each process.
    name = function.__name__
    # The cell or rule is passed first: among *rest it would cost 60 µs per call, because Numba would then ask Python for the
    # type of every argument.
    source = f"""def {name}(board, slot, bounds, first, *rest):
    runner, data, words = {name}_job(bounds, first, rest)
    {"lead(board, slot, bounds.shape[0], runner, data, words)" if gang else
     "share(board, slot, bounds.shape[0], runner, data)"}"""
    scope = function.__globals__ | {f"{name}_job": _make_job(part, gang), "share": _share, "lead": _lead}
    exec(compile(source, function.__code__.co_filename, "exec"), scope)
    together = scope[name]
    together.__doc__ = function.__doc__
    return kernel(together, entry=True)
