"""Fast sums over an array in a fixed order: the same bits on every processor, whatever its vector length.

Element j belongs to lane j % LANES, each lane is one chain in the order of j, and the lanes are added in pairs. If the compiler chose the
order, it would depend on the processor. LLVM splits a vector of LANES elements into as many registers as it needs.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.extending import intrinsic

LANES = 32

_i32, _i64 = ir.IntType(32), ir.IntType(64)
_vectors = {types.float32: ir.VectorType(ir.FloatType(), LANES), types.float64: ir.VectorType(ir.DoubleType(), LANES)}
_numbers = ir.Constant(ir.VectorType(_i64, LANES), list(range(LANES)))

Builder = Any
Value = Any


def _splat(builder: Builder, scalar: Value) -> Value:
    kind = ir.VectorType(scalar.type, LANES)
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(_i32, 0))
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(_i32, LANES), [0] * LANES))


def _call(builder: Builder, name: str, result: ir.Type, *arguments: Value) -> Value:
    module = builder.module
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(module.globals.get(name) or ir.Function(module, kind, name), arguments)


def _fold(step: Callable[..., Value], join: Callable[..., Value], start: float, twin: Callable[..., Any], wide: bool) -> Any:
    """A reduction of one array, two arrays of equal length, or an array and a number, to one number.

    ``step(builder, type of totals, totals, *LANES elements of each argument)`` returns the next LANES totals; ``join`` combines two
    totals. With ``wide``, totals are float64. ``twin`` replaces the reduction under NUMBA_DISABLE_JIT.
    """

    def codegen(context: Any, builder: Builder, signature: Any, args: Any) -> Value:
        kinds = signature.args
        arrays = {index: context.make_array(kind)(context, builder, args[index])
                  for index, kind in enumerate(kinds) if isinstance(kind, types.Array)}  # fmt: skip
        element, total = _vectors[kinds[0].dtype], _vectors[signature.return_type]
        size, align = builder.extract_value(arrays[0].shape, 0), kinds[0].dtype.bitwidth // 8
        first = ir.Constant(total, [start] * LANES)

        def pointer(index: int, at: Value) -> Value:
            return builder.bitcast(builder.gep(arrays[index].data, [at]), element.as_pointer())

        def elements(load: Callable[[Value], Value], at: Value) -> list[Value]:
            return [load(pointer(index, at)) if index in arrays else _splat(builder, value) for index, value in enumerate(args)]

        def load(place: Value) -> Value:
            loaded = builder.load(place)
            loaded.align = align
            return loaded

        before, body, after = builder.block, builder.append_basic_block("lanes"), builder.append_basic_block("rest")
        whole = builder.and_(size, ir.Constant(_i64, -LANES))
        builder.cbranch(builder.icmp_signed(">", whole, ir.Constant(_i64, 0)), body, after)
        builder.position_at_end(body)
        index, running = builder.phi(_i64), builder.phi(total)
        stepped = step(builder, total, running, *elements(load, index))
        following = builder.add(index, ir.Constant(_i64, LANES))
        for phi, begins, goes_on in ((index, ir.Constant(_i64, 0), following), (running, first, stepped)):
            phi.add_incoming(begins, before)
            phi.add_incoming(goes_on, body)
        builder.cbranch(builder.icmp_signed("<", following, whole), body, after)
        builder.position_at_end(after)
        sums = builder.phi(total)
        sums.add_incoming(first, before)
        sums.add_incoming(stepped, body)
        inside = builder.icmp_signed("<", _numbers, _splat(builder, builder.sub(size, whole)))
        masked = f"llvm.masked.load.v{LANES}f{8 * align}.p0"
        rest = elements(lambda place: _call(builder, masked, element, place, ir.Constant(_i32, align), inside,
                                            ir.Constant(element, None)), whole)
        sums = builder.select(inside, step(builder, total, sums, *rest), sums)
        width = LANES
        while width > 1:
            width //= 2
            lower, upper = (ir.Constant(ir.VectorType(_i32, width), list(range(at, at + width))) for at in (0, width))
            sums = join(builder, *(builder.shuffle_vector(sums, ir.Constant(sums.type, ir.Undefined), half) for half in (lower, upper)))
        return builder.extract_element(sums, ir.Constant(_i32, 0))

    @intrinsic
    def one(typingctx, x):
        return (types.float64 if wide else x.dtype)(x), codegen

    @intrinsic
    def two(typingctx, x, y):
        return (types.float64 if wide else x.dtype)(x, y), codegen

    if config.DISABLE_JIT:  # type: ignore[attr-defined]
        return twin
    return one if twin.__code__.co_argcount == 1 else two


def _add(builder: Builder, x: Value, y: Value) -> Value:
    return builder.fadd(x, y)


def _larger(builder: Builder, x: Value, y: Value) -> Value:
    return builder.select(builder.fcmp_ordered(">", x, y), x, y)


def _multiply_add(builder: Builder, x: Value, y: Value, z: Value) -> Value:
    return _call(builder, f"llvm.fmuladd.v{LANES}{'f32' if x.type == _vectors[types.float32] else 'f64'}", x.type, x, y, z)


def _squared_difference(builder: Builder, x: Value, y: Value, z: Value) -> Value:
    difference = builder.fsub(x, y)
    return _multiply_add(builder, difference, difference, z)


def _widened(builder: Builder, x: Value, total: ir.Type) -> Value:
    return x if x.type == total else builder.fpext(x, total)


def _step_wide(builder: Builder, kind: ir.Type, total: Value, x: Value) -> Value:
    return builder.fadd(total, _widened(builder, x, kind))


def _step_squares(builder: Builder, kind: ir.Type, total: Value, x: Value) -> Value:
    x = _widened(builder, x, kind)
    return _multiply_add(builder, x, x, total)


def _step_above(builder: Builder, kind: ir.Type, total: Value, x: Value, least: Value) -> Value:
    kept = builder.fcmp_ordered(">=", x, least)
    return builder.fadd(total, _widened(builder, builder.select(kept, x, ir.Constant(x.type, None)), kind))


# Reductions of arrays x, y of equal length.
total = _fold(lambda b, kind, total, x: b.fadd(total, x), _add, 0.0, lambda x: x.sum(), False)
spread = _fold(lambda b, kind, total, x, mean: _squared_difference(b, x, mean, total), _add, 0.0, lambda x, mean: np.square(x - mean).sum(), False)
dot = _fold(lambda b, kind, total, x, y: _multiply_add(b, x, y, total), _add, 0.0, lambda x, y: (x * y).sum(), False)
largest = _fold(lambda b, kind, total, x: _larger(b, total, x), _larger, -np.inf, lambda x: x.max(), False)
# In float64 for any x; ``above`` sums the elements that are at least a given number.
wide_total = _fold(_step_wide, _add, 0.0, lambda x: x.sum(dtype=np.float64), True)
squares = _fold(_step_squares, _add, 0.0, lambda x: np.square(x, dtype=np.float64).sum(), True)
above = _fold(_step_above, _add, 0.0, lambda x, least: x[x >= least].sum(dtype=np.float64), True)
