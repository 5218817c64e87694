"""Waiting for a counter to grow: spinning first, which reacts at once, then asleep until another thread wakes this one.

All of it is compiled, so a waiting thread does not need the GIL. Sleeping uses a futex on Linux and its equivalents on macOS
(from 14.4) and Windows, looked up by name; without one, the thread polls with short naps.
"""

import platform
import sys
import time
from typing import Any

from llvmlite import binding, ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from .atomics import add, call, exchange, pause, pointer, read
from .kernels import kernel

LOOKS = 32  # polls between two readings of the clock
NAP = 50_000  # nanoseconds between polls on systems without a futex

_FUTEX = {"x86_64": 202, "aarch64": 98, "riscv64": 98, "ppc64le": 221, "s390x": 238}.get(platform.machine())
_WAIT, _WAKE = 128, 129  # FUTEX_WAIT and FUTEX_WAKE, for threads of one process
_MONOTONIC = 1  # CLOCK_MONOTONIC of Linux
_UPTIME = 8  # CLOCK_UPTIME_RAW of macOS

_i32, _i64, _void = ir.IntType(32), ir.IntType(64), ir.VoidType()
_i64_pointer, _bytes = _i64.as_pointer(), ir.IntType(8).as_pointer()


def _has(name: str) -> bool:
    return binding.address_of_symbol(name) is not None


if sys.platform == "win32":
    for _library in ("kernel32.dll", "api-ms-win-core-synch-l1-2-0.dll"):
        binding.load_library_permanently(_library)


@intrinsic
def _clock(typingctx):
    """Nanoseconds of a monotonic clock."""

    def codegen(context, builder, signature, args):
        if sys.platform == "darwin":
            return call(builder, "clock_gettime_nsec_np", _i64, ir.Constant(_i32, _UPTIME))
        # In the function's entry block: an alloca inside a loop would take more of the stack each time.
        spaces = [cgutils.alloca_once(builder, ir.ArrayType(_i64, 2)) for _ in range(2)]
        parts = [builder.bitcast(space, _i64_pointer) for space in spaces]
        if sys.platform == "win32":
            call(builder, "QueryPerformanceCounter", _i32, parts[0])
            call(builder, "QueryPerformanceFrequency", _i32, parts[1])
            billion = ir.Constant(_i64, 10**9)
            ticks, rate = (builder.load(part) for part in parts)
            whole = builder.mul(builder.sdiv(ticks, rate), billion)
            return builder.add(whole, builder.sdiv(builder.mul(builder.srem(ticks, rate), billion), rate))
        call(builder, "clock_gettime", _i32, ir.Constant(_i32, _MONOTONIC), parts[0])
        seconds, rest = (builder.load(builder.gep(parts[0], [ir.Constant(_i64, place)])) for place in (0, 1))
        return builder.add(builder.mul(seconds, ir.Constant(_i64, 10**9)), rest)

    return types.int64(), codegen


def _futex(builder: Any, *arguments: Any) -> None:
    module = builder.module
    kind = ir.FunctionType(_i64, [_i64], var_arg=True)
    function = module.globals.get("syscall") or ir.Function(module, kind, "syscall")
    builder.call(function, [ir.Constant(_i64, _FUTEX), *arguments])


@intrinsic
def _sleep(typingctx, counters, index, value):
    """Sleep until woken through counters[index]; return at once if it is not ``value``. May also wake up spuriously.

    Only the lower 32 bits are compared.
    """

    def codegen(context, builder, signature, args):
        address = pointer(context, builder, signature, args)
        low = builder.trunc(args[2], _i32)
        if sys.platform == "linux" and _FUTEX:
            _futex(builder, address, ir.Constant(_i64, _WAIT), builder.zext(low, _i64), ir.Constant(_i64_pointer, None))
        elif sys.platform == "darwin" and _has("os_sync_wait_on_address"):
            call(builder, "os_sync_wait_on_address", _i32, builder.bitcast(address, _bytes), builder.zext(low, _i64),
                 ir.Constant(_i64, 4), ir.Constant(_i32, 0))
        elif sys.platform == "win32" and _has("WaitOnAddress"):
            expected = cgutils.alloca_once(builder, _i64)
            builder.store(args[2], expected)
            call(builder, "WaitOnAddress", _i32, builder.bitcast(address, _bytes), builder.bitcast(expected, _bytes),
                 ir.Constant(_i64, 4), ir.Constant(_i32, -1))
        elif sys.platform == "win32":
            call(builder, "Sleep", _void, ir.Constant(_i32, 1))
        else:
            call(builder, "usleep", _i32, ir.Constant(_i32, NAP // 1000))
        return context.get_dummy_value()

    return types.void(counters, types.intp, types.int64), codegen


@intrinsic
def _wake(typingctx, counters, index, count):
    """Wake at most ``count`` threads that sleep on counters[index]."""

    def codegen(context, builder, signature, args):
        address = pointer(context, builder, signature, args)
        if sys.platform == "linux" and _FUTEX:
            _futex(builder, address, ir.Constant(_i64, _WAKE), args[2])
        elif sys.platform == "darwin" and _has("os_sync_wake_by_address_all"):
            call(builder, "os_sync_wake_by_address_all", _i32, builder.bitcast(address, _bytes), ir.Constant(_i64, 4),
                 ir.Constant(_i32, 0))
        elif sys.platform == "win32" and _has("WakeByAddressAll"):
            call(builder, "WakeByAddressAll", _void, builder.bitcast(address, _bytes))
        return context.get_dummy_value()

    return types.void(counters, types.intp, types.int64), codegen


def _clock_in_python() -> int:
    return time.perf_counter_ns()


def _sleep_in_python(counters: Any, index: int, value: int) -> None:
    time.sleep(NAP * 1e-9)


def _wake_in_python(counters: Any, index: int, count: int) -> None:
    pass


_compiled: tuple[Any, ...] = (_clock, _sleep, _wake)
_plain = _clock_in_python, _sleep_in_python, _wake_in_python
clock, sleep, wake = _plain if config.DISABLE_JIT else _compiled  # type: ignore[attr-defined]


# A counter that threads wait for is followed by the number of threads asleep on it.

_SLEEPERS = 1
_ALL = 1 << 30


@kernel
def advance(counters, index, value):
    """counters[index] = value, and wake all who wait for it."""
    exchange(counters, index, value)
    if read(counters, index + _SLEEPERS):
        wake(counters, index, _ALL)


@kernel
def increase(counters, index, value):
    """counters[index] += value, and wake all who wait for it; returns the previous value."""
    before = add(counters, index, value)
    if read(counters, index + _SLEEPERS):
        wake(counters, index, _ALL)
    return before


@kernel
def look(counters, index, least, patience):
    """Spin until counters[index] >= least, for at most ``patience`` nanoseconds; returns whether it is."""
    if read(counters, index) >= least:
        return True
    last = clock() + patience
    looks = 0
    while looks % LOOKS or clock() < last:
        if read(counters, index) >= least:
            return True
        looks += 1
        pause()
    return False


@kernel
def await_least(counters, index, least, patience):
    """Spin for ``patience`` nanoseconds, then sleep, until counters[index] >= least; returns it."""
    if not look(counters, index, least, patience):
        add(counters, index + _SLEEPERS, 1)
        now = read(counters, index)
        while now < least:
            sleep(counters, index, now)
            now = read(counters, index)
        add(counters, index + _SLEEPERS, -1)
    return read(counters, index)
