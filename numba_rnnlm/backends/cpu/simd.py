"""A register tile of C += A B in LLVM vectors, and the packing of B that feeds it.

The tile keeps ``ROWS`` × ``VECTORS`` vectors of sums in registers, takes one line of a panel of B and one
element of each row of A per step, and touches C once: that reaches the processor's limit for fused
multiply-adds at any size. B is packed into panels of ``VECTORS`` vectors; the last panel is as many vectors
wide as it needs, zero-padded, and C is masked there.

Every element of C is one chain of fused multiply-adds in the order of k, whatever the tile: results do not
depend on how rows and columns were cut among tiles and threads.
"""

from typing import Any

from llvmlite import binding, ir
from numba import config, types
from numba.extending import intrinsic, overload

from .kernels import kernel

_FEATURES = binding.get_host_cpu_features()
VECTOR_BYTES = 64 if _FEATURES.get("avx512f") else 32 if _FEATURES.get("avx2") else 16
ROWS, VECTORS = (5, 4) if VECTOR_BYTES == 64 else (4, 2) if VECTOR_BYTES == 32 else (4, 4)

_i8, _i32, _i64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)


def _element(array: types.Array) -> ir.Type:
    return ir.DoubleType() if array.dtype == types.float64 else ir.FloatType()


def lanes(array: Any) -> int:
    """Elements of an array in one vector register."""
    return VECTOR_BYTES // int(array.itemsize)


@overload(lanes)
def _lanes(array):
    count = VECTOR_BYTES // (array.dtype.bitwidth // 8)
    return lambda array: count


def _make_tile(rows: int, vectors: int) -> Any:
    def codegen(context, builder, signature, args):
        element = _element(signature.args[0])
        count = VECTOR_BYTES // (8 if element == ir.DoubleType() else 4)
        vector = ir.VectorType(element, count)
        bits = ir.VectorType(ir.IntType(1), count)
        letter = "f64" if element == ir.DoubleType() else "f32"

        def data(position):
            return context.make_array(signature.args[position])(context, builder, args[position]).data

        def const(value):
            return ir.Constant(_i64, value)

        def at(base, *offsets):
            for offset in offsets:
                base = builder.gep(base, [offset])
            return base

        def splat(scalar, kind):
            one = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(_i32, 0))
            zeros = ir.Constant(ir.VectorType(_i32, count), [0] * count)
            return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)

        def function(name, result, arguments):
            module = builder.module
            return module.globals.get(name) or ir.Function(module, ir.FunctionType(result, arguments), name)

        _, ia, row_stride, step_stride, _, ib, k, _, ic, ldc, width = args
        a, b, c = at(data(0), ia), at(data(4), ib), at(data(7), ic)
        pointer = vector.as_pointer()
        fma = function(f"llvm.fma.v{count}{letter}", vector, [vector] * 3)
        lane = ir.Constant(ir.VectorType(_i64, count), list(range(count)))
        mask = builder.icmp_signed("<", lane, splat(width, ir.VectorType(_i64, count)))
        load = function(f"llvm.masked.load.v{count}{letter}.p0", vector, [pointer, _i32, bits, vector])
        store = function(f"llvm.masked.store.v{count}{letter}.p0", ir.VoidType(), [vector, pointer, _i32, bits])
        align = 8 if element == ir.DoubleType() else 4

        grid = [(r, v) for r in range(rows) for v in range(vectors)]
        out = {(r, v): builder.bitcast(at(c, builder.mul(const(r), ldc), const(v * count)), pointer) for r, v in grid}
        sums = {}
        for r, v in grid:
            if v == vectors - 1:
                sums[r, v] = builder.call(load, [out[r, v], ir.Constant(_i32, align), mask, ir.Constant(vector, None)])
            else:
                sums[r, v] = builder.load(out[r, v])
                sums[r, v].align = align
        lines = [at(a, builder.mul(const(r), row_stride)) for r in range(rows)]
        before, loop, after = builder.block, builder.append_basic_block("k"), builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        index = builder.phi(_i64)
        index.add_incoming(const(0), before)
        totals = {cell: builder.phi(vector) for cell in grid}
        line = at(b, builder.mul(index, const(vectors * count)))
        columns = []
        for v in range(vectors):
            column = builder.load(builder.bitcast(at(line, const(v * count)), pointer))
            column.align = align
            columns.append(column)
        step = builder.mul(index, step_stride)
        for r in range(rows):
            scalar = splat(builder.load(at(lines[r], step)), vector)
            for v in range(vectors):
                total = builder.call(fma, [scalar, columns[v], totals[r, v]])
                totals[r, v].add_incoming(sums[r, v], before)
                totals[r, v].add_incoming(total, loop)
                sums[r, v] = total
        following = builder.add(index, const(1))
        index.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, k), loop, after)
        builder.position_at_end(after)
        for r, v in grid:
            if v == vectors - 1:
                builder.call(store, [sums[r, v], out[r, v], ir.Constant(_i32, align), mask])
            else:
                builder.store(sums[r, v], out[r, v]).align = align
        return context.get_dummy_value()

    @intrinsic
    def tile(typingctx, a, ia, row_stride, step_stride, b, ib, k, c, ic, ldc, width):
        n = types.intp
        return types.void(a, n, n, n, b, n, n, c, n, n, n), codegen

    def twin(a, ia, row_stride, step_stride, b, ib, k, c, ic, ldc, width):  # with the compiler off
        panel = vectors * lanes(a)
        columns = panel - lanes(a) + width
        for r in range(rows):
            left = a[ia + r * row_stride :][: (k - 1) * step_stride + 1 : step_stride]
            c[ic + r * ldc : ic + r * ldc + columns] += left @ b[ib : ib + k * panel].reshape(k, panel)[:, :columns]

    return twin if config.DISABLE_JIT else tile  # type: ignore[attr-defined]


def _make_row_of_tiles(vectors: int) -> Any:
    """All rows of C against one panel: full tiles, then one tile of what is left."""
    tile1, tile2, tile3, tile4 = (_make_tile(rows, vectors) for rows in (1, 2, 3, 4))
    full = _make_tile(ROWS, vectors)

    def rows_of_tiles(a, ia, row_stride, step_stride, m, b, ib, k, c, ic, ldc, width):
        i = 0
        while i + ROWS <= m:
            full(a, ia + i * row_stride, row_stride, step_stride, b, ib, k, c, ic + i * ldc, ldc, width)
            i += ROWS
        rest = m - i
        ia += i * row_stride
        ic += i * ldc
        if rest == 1:
            tile1(a, ia, row_stride, step_stride, b, ib, k, c, ic, ldc, width)
        elif rest == 2:
            tile2(a, ia, row_stride, step_stride, b, ib, k, c, ic, ldc, width)
        elif rest == 3:
            tile3(a, ia, row_stride, step_stride, b, ib, k, c, ic, ldc, width)
        elif rest == 4:
            tile4(a, ia, row_stride, step_stride, b, ib, k, c, ic, ldc, width)

    return kernel(rows_of_tiles)


_panel1, _panel2, _panel3, _panel4 = (_make_row_of_tiles(vectors) for vectors in (1, 2, 3, 4))


@kernel
def multiply_panel(vectors, a, ia, row_stride, step_stride, m, b, ib, k, c, ic, ldc, width):
    """c[:m, :] += a[:m, :k] b for one packed panel of ``vectors`` vectors, ``width`` lanes of the last one used."""
    if vectors == 4:
        _panel4(a, ia, row_stride, step_stride, m, b, ib, k, c, ic, ldc, width)
    elif vectors == 3:
        _panel3(a, ia, row_stride, step_stride, m, b, ib, k, c, ic, ldc, width)
    elif vectors == 2:
        _panel2(a, ia, row_stride, step_stride, m, b, ib, k, c, ic, ldc, width)
    else:
        _panel1(a, ia, row_stride, step_stride, m, b, ib, k, c, ic, ldc, width)


# Inner loops run over slices from zero: an index that might be negative would have to wrap around, and a loop
# that checks for that does not vectorise.


@kernel
def pack_panel(b, ib, step_stride, column_stride, k, columns, packed, ip):
    """Copy b[:k, :columns] to packed[ip:], each line padded with zeros to whole vectors; → vectors a line."""
    count = lanes(packed)
    vectors = (columns + count - 1) // count
    panel = vectors * count
    if column_stride == 1:
        for i in range(k):
            source = b[ib + i * step_stride : ib + i * step_stride + columns]
            line = packed[ip + i * panel : ip + (i + 1) * panel]
            for j in range(columns):
                line[j] = source[j]
            for j in range(columns, panel):
                line[j] = 0
    else:  # a transposed matrix: blocks of 16 steps, so that both sides stay in the first-level cache
        for first in range(0, k, 16):
            steps = min(16, k - first)
            block = packed[ip + first * panel : ip + (first + steps) * panel]
            for j in range(columns):
                start = ib + first * step_stride + j * column_stride
                source = b[start : start + steps]
                for i in range(steps):
                    block[i * panel + j] = source[i]
            for j in range(columns, panel):
                for i in range(steps):
                    block[i * panel + j] = 0
    return vectors


@kernel
def pack(b, ib, step_stride, column_stride, k, n, packed, first, last):
    """Pack panels [first, last) of b (k, n), each at ``panel index · k · VECTORS · lanes`` of ``packed``."""
    width = VECTORS * lanes(packed)
    for p in range(first, last):
        columns = min(width, n - p * width)
        pack_panel(b, ib + p * width * column_stride, step_stride, column_stride, k, columns, packed, p * k * width)


@kernel
def accumulate(a, ia, row_stride, m, packed, k, n, c, ic, ldc):
    """c[:m, :n] += a[:m, :k] B, with all of B (k, n) packed by :func:`pack`."""
    count = lanes(packed)
    width = VECTORS * count
    for p in range((n + width - 1) // width):
        columns = min(width, n - p * width)
        vectors = (columns + count - 1) // count
        multiply_panel(vectors, a, ia, row_stride, 1, m, packed, p * k * width, k, c, ic + p * width, ldc,
                       columns - (vectors - 1) * count)


@kernel
def accumulate_unpacked(a, ia, row_stride, m, b, ib, ldb, k, n, c, ic, ldc):
    """c[:m, :n] += a[:m, :k] b[:k, :n] for a few rows, where packing b would cost more than the product."""
    for i in range(m):
        row = a[ia + i * row_stride : ia + i * row_stride + k]
        out = c[ic + i * ldc : ic + i * ldc + n]
        whole = k - k % 4
        for s in range(0, whole, 4):  # four lines of b for one pass over c, still one chain in the order of k
            x0, x1, x2, x3 = row[s], row[s + 1], row[s + 2], row[s + 3]
            start = ib + s * ldb
            b0, b1 = b[start : start + n], b[start + ldb : start + ldb + n]
            b2, b3 = b[start + 2 * ldb : start + 2 * ldb + n], b[start + 3 * ldb : start + 3 * ldb + n]
            for j in range(n):
                total = out[j]
                total += x0 * b0[j]
                total += x1 * b1[j]
                total += x2 * b2[j]
                total += x3 * b3[j]
                out[j] = total
        for s in range(whole, k):
            x = row[s]
            line = b[ib + s * ldb : ib + s * ldb + n]
            for j in range(n):
                out[j] += x * line[j]


@kernel
def accumulate_transposed(a, ia, row_stride, m, b, ib, ldb, k, n, c, ic, ldc):
    """c[:m, :n] += a[:m, :k] b[:n, :k]ᵀ for a few rows: four dot products at a time, each one chain."""
    for i in range(m):
        row = a[ia + i * row_stride : ia + i * row_stride + k]
        out = c[ic + i * ldc : ic + i * ldc + n]
        whole = n - n % 4
        for j in range(0, whole, 4):
            start = ib + j * ldb
            b0, b1 = b[start : start + k], b[start + ldb : start + ldb + k]
            b2, b3 = b[start + 2 * ldb : start + 2 * ldb + k], b[start + 3 * ldb : start + 3 * ldb + k]
            t0, t1, t2, t3 = out[j], out[j + 1], out[j + 2], out[j + 3]
            for s in range(k):
                x = row[s]
                t0 += x * b0[s]
                t1 += x * b1[s]
                t2 += x * b2[s]
                t3 += x * b3[s]
            out[j], out[j + 1], out[j + 2], out[j + 3] = t0, t1, t2, t3
        for j in range(whole, n):
            line = b[ib + j * ldb : ib + j * ldb + k]
            total = out[j]
            for s in range(k):
                total += row[s] * line[s]
            out[j] = total
