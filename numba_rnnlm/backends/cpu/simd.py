"""A register tile of C = D + A B in LLVM vectors, and two other things that Numba cannot express: transposing a block in
registers, and prefetching.

The tile keeps ``ROWS`` × ``VECTORS`` vectors of sums in registers, reads one line of a panel of B and one
element of each row of A per step, and touches C once, which reaches the processor's peak rate of fused
multiply-adds at any size. B is packed in panels of ``VECTORS`` vectors (see :mod:`.packing`); the last panel has only as
many vectors as it needs, zero-padded, and C is masked there. The sums start from D: C itself, a bias or zero.

Every element of C is one chain of fused multiply-adds in the order of k, so results do not depend on how rows
and columns are split among tiles and threads.

Factors may be rounded to bfloat16 on processors that multiply it (AVX512_BF16): two neighbours in k share one
int32, and each step of the tile consumes both. Kernels recognise this by the type int32. The sums are float32. B may
also be int8, which the tile converts to floats.
"""

from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import config, types
from numba.extending import intrinsic, overload

from .kernels import kernel


def _features() -> frozenset[str]:
    """Features of the processor that kernels are compiled for: NUMBA_CPU_FEATURES, or the host's."""
    forced = config.CPU_FEATURES  # type: ignore[attr-defined]
    if forced is not None:
        return frozenset(name[1:] for name in forced.split(",") if name.startswith("+"))
    return frozenset(name for name, there in binding.get_host_cpu_features().items() if there)


_FEATURES = _features()
VECTOR_BYTES = 64 if "avx512f" in _FEATURES else 32 if "avx2" in _FEATURES else 16
# They fill the 32 registers of AVX-512 and NEON or the 16 of AVX2 and SSE: sums, one line of B, one element of A.
ROWS, VECTORS = (5, 4) if VECTOR_BYTES == 64 or "neon" in _FEATURES else (6, 2)
HAS_BF16 = VECTOR_BYTES == 64 and "avx512bf16" in _FEATURES
if HAS_BF16:
    binding.initialize_native_asmparser()  # without it, LLVM aborts the process at the first inline assembly

_i8, _i32, _i64, _f32 = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType()


def _element(array: types.Array) -> ir.Type:
    return {types.float64: ir.DoubleType(), types.float32: _f32, types.int32: _i32, types.int8: _i8}[array.dtype]


def lanes(array: Any) -> int:
    """Elements of an array in one vector register."""
    return VECTOR_BYTES // int(array.itemsize)


@overload(lanes)
def _lanes(array):
    count = VECTOR_BYTES // (array.dtype.bitwidth // 8)
    return lambda array: count


def _const(value: int) -> ir.Constant:
    return ir.Constant(_i64, value)


def _at(builder: ir.IRBuilder, base: Any, *offsets: Any) -> Any:
    for offset in offsets:
        base = builder.gep(base, [offset])
    return base


def _data(context: Any, builder: ir.IRBuilder, kind: types.Array, array: Any) -> Any:
    return context.make_array(kind)(context, builder, array).data


def _function(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: list[ir.Type]) -> Any:
    module = builder.module
    return module.globals.get(name) or ir.Function(module, ir.FunctionType(result, arguments), name)


def _splat(builder: ir.IRBuilder, scalar: Any, kind: ir.VectorType) -> Any:
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(_i32, 0))
    zeros = ir.Constant(ir.VectorType(_i32, kind.count), [0] * kind.count)
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)


def _prefetch(builder: ir.IRBuilder, pointer: Any, write: bool) -> None:
    """Prefetch a cache line; any address is allowed, even past the end of an array."""
    byte = _i8.as_pointer()
    ask = _function(builder, "llvm.prefetch.p0", ir.VoidType(), [byte, _i32, _i32, _i32])
    hints = [ir.Constant(_i32, hint) for hint in (int(write), 3, 1)]
    builder.call(ask, [builder.bitcast(pointer, byte), *hints])


def _make_tile(rows: int, vectors: int) -> Any:
    def codegen(context, builder, signature, args):
        factor, element = _element(signature.args[0]), _element(signature.args[10])
        count = VECTOR_BYTES // (8 if element == ir.DoubleType() else 4)
        vector, factors = ir.VectorType(element, count), ir.VectorType(factor, count)
        stored = ir.VectorType(_element(signature.args[4]), count)
        bits = ir.VectorType(ir.IntType(1), count)
        letter = "f64" if element == ir.DoubleType() else "f32"

        _, ia, row_stride, step_stride, _, ib, k, _, start, ldd, _, ic, ldc, width, left = args
        a, b, d, c = (
            _at(builder, _data(context, builder, signature.args[position], args[position]), offset)
            for position, offset in ((0, ia), (4, ib), (7, start), (10, ic))
        )
        pointer = vector.as_pointer()
        lane = ir.Constant(ir.VectorType(_i64, count), list(range(count)))
        mask = builder.icmp_signed("<", lane, _splat(builder, width, ir.VectorType(_i64, count)))
        load = _function(builder, f"llvm.masked.load.v{count}{letter}.p0", vector, [pointer, _i32, bits, vector])
        store = _function(
            builder, f"llvm.masked.store.v{count}{letter}.p0", ir.VoidType(), [vector, pointer, _i32, bits]
        )
        align = 8 if element == ir.DoubleType() else 4
        if factor == _i32:
            pairs = ir.InlineAsm(ir.FunctionType(vector, [vector, factors, factors]), "vdpbf16ps $3, $2, $0", "=v,0,v,v")

            def multiply_add(x, y, total):
                return builder.call(pairs, [total, x, y])
        else:
            fused = _function(builder, f"llvm.fmuladd.v{count}{letter}", vector, [vector] * 3)

            def multiply_add(x, y, total):
                return builder.call(fused, [x, y, total])

        grid = [(r, v) for r in range(rows) for v in range(vectors)]

        def places(base, stride):
            return {
                (r, v): builder.bitcast(
                    _at(builder, base, builder.mul(_const(r), stride), _const(v * count)), pointer) for r, v in grid
            }  # fmt: skip

        out, begin, sums = places(c, ldc), places(d, ldd), {}
        for r, v in grid:
            if v == vectors - 1:
                sums[r, v] = builder.call(load, [begin[r, v], ir.Constant(_i32, align), mask, ir.Constant(vector, None)])
            else:
                sums[r, v] = builder.load(begin[r, v])
                sums[r, v].align = align
        for r in range(rows):  # prefetch C for the tile below, but no rows past this thread's own
            below = builder.select(builder.icmp_signed("<", _const(r), left), _const(rows + r), _const(r))
            for v in range(vectors):
                _prefetch(builder, _at(builder, c, builder.mul(below, ldc), _const(v * count)), write=True)
        lines = [_at(builder, a, builder.mul(_const(r), row_stride)) for r in range(rows)]
        before, loop, after = builder.block, builder.append_basic_block("k"), builder.append_basic_block("done")
        builder.cbranch(builder.icmp_signed(">", k, _const(0)), loop, after)
        builder.position_at_end(loop)
        index = builder.phi(_i64)
        index.add_incoming(_const(0), before)
        totals = {cell: builder.phi(vector) for cell in grid}
        line = _at(builder, b, builder.mul(index, _const(vectors * count)))
        columns = []
        for v in range(vectors):
            column = builder.load(builder.bitcast(_at(builder, line, _const(v * count)), stored.as_pointer()))
            column.align = 1 if stored.element == _i8 else align
            columns.append(builder.sitofp(column, factors) if stored.element == _i8 else column)
        step = builder.mul(index, step_stride)
        results = {}
        for r in range(rows):
            scalar = _splat(builder, builder.load(_at(builder, lines[r], step)), factors)
            for v in range(vectors):
                results[r, v] = multiply_add(scalar, columns[v], totals[r, v])
                totals[r, v].add_incoming(sums[r, v], before)
                totals[r, v].add_incoming(results[r, v], loop)
        following = builder.add(index, _const(1))
        index.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, k), loop, after)
        builder.position_at_end(after)
        for r, v in grid:
            final = builder.phi(vector)
            final.add_incoming(sums[r, v], before)
            final.add_incoming(results[r, v], loop)
            results[r, v] = final
        for r, v in grid:
            if v == vectors - 1:
                builder.call(store, [results[r, v], out[r, v], ir.Constant(_i32, align), mask])
            else:
                builder.store(results[r, v], out[r, v]).align = align
        return context.get_dummy_value()

    @intrinsic
    def tile(typingctx, a, ia, row_stride, step_stride, b, ib, k, d, start, ldd, c, ic, ldc, width, left):
        n = types.intp
        return types.void(a, n, n, n, b, n, n, d, n, n, c, n, n, n, n), codegen

    def twin(a, ia, row_stride, step_stride, b, ib, k, d, start, ldd, c, ic, ldc, width, left):  # for NUMBA_DISABLE_JIT
        panel = vectors * lanes(c)
        columns = panel - lanes(c) + width
        right = b[ib : ib + k * panel].reshape(k, panel)[:, :columns]
        for r in range(rows):
            left = a[ia + r * row_stride :][: max(0, (k - 1) * step_stride + 1) : step_stride]
            begin = d[start + r * ldd : start + r * ldd + columns]
            c[ic + r * ldc : ic + r * ldc + columns] = begin + _twin_product(left, right)

    return twin if config.DISABLE_JIT else tile  # type: ignore[attr-defined]


def _twin_product(left: np.ndarray, right: np.ndarray) -> Any:
    if left.dtype != np.int32:
        return left @ right
    return sum(_half(left, half) @ _half(right, half) for half in (0, 1))


def _half(pairs: np.ndarray, half: int) -> Any:
    return ((pairs.view(np.uint32) >> np.uint32(16 * half)) << np.uint32(16)).view(np.float32)


def _make_prefetch() -> Any:
    def codegen(context, builder, signature, args):
        _prefetch(builder, _at(builder, _data(context, builder, signature.args[0], args[0]), args[1]), write=False)
        return context.get_dummy_value()

    @intrinsic
    def prefetch(typingctx, array, index):
        return types.void(array, types.intp), codegen

    return (lambda array, index: None) if config.DISABLE_JIT else prefetch  # type: ignore[attr-defined]


prefetch = _make_prefetch()


def _make_row_of_tiles(vectors: int) -> Any:
    """A kernel for all rows of C and one panel: full tiles, then one smaller tile for the remaining rows."""
    tile1, tile2, tile3, tile4, tile5 = (_make_tile(rows, vectors) for rows in (1, 2, 3, 4, 5))
    full = _make_tile(ROWS, vectors)

    def rows_of_tiles(a, ia, row_stride, step_stride, m, b, ib, k, d, start, ldd, c, ic, ldc, width):
        i = 0
        while i + ROWS <= m:
            full(a, ia + i * row_stride, row_stride, step_stride, b, ib, k, d, start + i * ldd, ldd, c, ic + i * ldc, ldc,
                 width, m - i - ROWS)
            i += ROWS
        rest = m - i
        ia += i * row_stride
        start += i * ldd
        ic += i * ldc
        if rest == 1:
            tile1(a, ia, row_stride, step_stride, b, ib, k, d, start, ldd, c, ic, ldc, width, 0)
        elif rest == 2:
            tile2(a, ia, row_stride, step_stride, b, ib, k, d, start, ldd, c, ic, ldc, width, 0)
        elif rest == 3:
            tile3(a, ia, row_stride, step_stride, b, ib, k, d, start, ldd, c, ic, ldc, width, 0)
        elif rest == 4:
            tile4(a, ia, row_stride, step_stride, b, ib, k, d, start, ldd, c, ic, ldc, width, 0)
        elif rest == 5:
            tile5(a, ia, row_stride, step_stride, b, ib, k, d, start, ldd, c, ic, ldc, width, 0)

    return kernel(rows_of_tiles)


_panel1, _panel2, _panel3, _panel4 = (_make_row_of_tiles(vectors) for vectors in (1, 2, 3, 4))


@kernel(linked=True)
def multiply_panel(vectors, a, ia, row_stride, step_stride, m, b, ib, k, d, start, ldd, c, ic, ldc, width):
    """c[:m, :] = d[:m, :] + a[:m, :k] b for a packed panel of ``vectors`` vectors; ``width`` lanes of the last vector are used."""
    if vectors == 4:
        _panel4(a, ia, row_stride, step_stride, m, b, ib, k, d, start, ldd, c, ic, ldc, width)
    elif vectors == 3:
        _panel3(a, ia, row_stride, step_stride, m, b, ib, k, d, start, ldd, c, ic, ldc, width)
    elif vectors == 2:
        _panel2(a, ia, row_stride, step_stride, m, b, ib, k, d, start, ldd, c, ic, ldc, width)
    else:
        _panel1(a, ia, row_stride, step_stride, m, b, ib, k, d, start, ldd, c, ic, ldc, width)


def _make_transpose() -> Any:
    def codegen(context, builder, signature, args):
        _, ib, ldb, _, ip, ldp = args
        element = _element(signature.args[0])
        count = VECTOR_BYTES // (8 if element == ir.DoubleType() else 4)
        vector = ir.VectorType(element, count)
        align = VECTOR_BYTES // count
        source = _at(builder, _data(context, builder, signature.args[0], args[0]), ib)
        target = _at(builder, _data(context, builder, signature.args[3], args[3]), ip)

        def place(base, line, stride):
            return builder.bitcast(_at(builder, base, builder.mul(_const(line), stride)), vector.as_pointer())

        lines = []
        for line in range(count):
            lines.append(builder.load(place(source, line, ldb)))
            lines[-1].align = align
        distance = count // 2
        while distance:  # exchange the off-diagonal blocks of this size
            upper = [lane if not lane & distance else count + lane - distance for lane in range(count)]
            lower = [lane + distance if not lane & distance else count + lane for lane in range(count)]
            for line in range(count):
                if not line & distance:
                    first, second = lines[line], lines[line + distance]
                    for where, order in ((line, upper), (line + distance, lower)):
                        mask = ir.Constant(ir.VectorType(_i32, count), order)
                        lines[where] = builder.shuffle_vector(first, second, mask)
            distance //= 2
        for line in range(count):
            builder.store(lines[line], place(target, line, ldp)).align = align
        return context.get_dummy_value()

    @intrinsic
    def transpose(typingctx, b, ib, ldb, packed, ip, ldp):
        n = types.intp
        return types.void(b, n, n, packed, n, n), codegen

    def twin(b, ib, ldb, packed, ip, ldp):
        for line in range(lanes(b)):
            packed[ip + line : ip + line + (lanes(b) - 1) * ldp + 1 : ldp] = b[ib + line * ldb :][: lanes(b)]

    return twin if config.DISABLE_JIT else transpose  # type: ignore[attr-defined]


transpose = _make_transpose()
