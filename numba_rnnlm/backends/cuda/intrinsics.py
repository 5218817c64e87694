"""Instructions that CUDA Python lacks, each with a Python twin for the simulator.

On the device they are inline PTX. Arrays are flat; indices count elements.

    load1(x, i), load4(x, i)    x[i], or x[i:i+4] in one access, bypassing L1, so that writes of other blocks in this
                                launch are visible
    near(x, i), near4(x, i)     the same from shared memory, without Numba's test for a negative index
    put(x, i, value)            x[i] ← value in shared memory
    copy1(s, i, x, j, n)        start copying x[j] to shared memory s[i], or zero if n is 0
    copy2, copy4(s, i, x, j, n) the same for 2 or 4 elements: n are copied, the rest are zero
    commit()                    make the copies started since the last commit one group
    wait_copies(pending)        wait until at most ``pending`` groups (0, 1 or 2) of this thread are incomplete
    tf32(x)                     bits of x for the tensor cores, which truncate to 10 bits of fraction: half a unit is added
    rounded(x)                  x rounded to TF32, as a float
    bits(x)                     bits of a float
    bf16(low, high)             bits of two numbers rounded to bfloat16
    mma_tf32(a…, b…, c…)        D = A (16, 8) B (8, 8) + C on the tensor cores, by one warp (PTX: mma.m16n8k8)
    mma_bf16(a…, b…, c…)        D = A (16, 16) B (16, 8) + C (mma.m16n8k16)
    add_products(s, x, y)       s[i, j] += x[i] y[j] for all i and j of a thread's own arrays
    arrive(x, i)                x[i] += 1, visible to all blocks after everything this thread has written or seen
    wait_for(x, i, value)       wait until x[i] has reached value, both modulo 2³²; aborts the launch after PATIENCE polls
"""

import numpy as np

from .device import SIMULATED, inline

if SIMULATED:
    from .simulator import exchange

    def load1(x, i):
        return x[i]

    def load4(x, i):
        assert i % 4 == 0, f"load4 of element {i}: not aligned"
        return x[i], x[i + 1], x[i + 2], x[i + 3]

    near, near4 = load1, load4

    def put(x, i, value):
        x[i] = value

    def copy1(s, i, x, j, n):
        s[i] = x[j] if n else 0

    def copy2(s, i, x, j, n, width=2):
        assert i % width == 0 and j % width == 0, f"copy of {width} elements from {j} to {i}: not aligned"
        for k in range(width):
            s[i + k] = x[j + k] if k < n else 0

    def copy4(s, i, x, j, n):
        copy2(s, i, x, j, n, 4)

    def commit():
        pass

    def wait_copies(pending):
        pass

    def bits(x):
        return np.float32(x).view(np.uint32)

    def tf32(x):
        return np.uint32(0x7FC00000 if x != x else int(bits(x)) + 0x1000)

    def rounded(x):
        return np.uint32(tf32(x) & np.uint32(0xFFFFE000)).view(np.float32)

    def bf16(low, high):
        def nearest(x):
            whole = int(bits(x))
            return 0x7FFF if x != x else (whole + 0x7FFF + (whole >> 16 & 1)) >> 16

        return np.uint32(nearest(low) | nearest(high) << 16)

    def _halves(pair):
        whole = int(pair)
        return [np.uint32(half).view(np.float32) for half in (whole << 16 & 0xFFFFFFFF, whole & 0xFFFF0000)]

    def _fragments_product(a, b, c, unpack):
        """This lane's fragment of the product of all lanes' fragments, in the layout that PTX defines."""
        lanes, lane = exchange((a, b))
        if lanes.made is None:
            A, B = [], []
            for group in range(8):  # rows of A, columns of B
                four = lanes[4 * group : 4 * group + 4]
                for low in (0, 1):
                    A.append([value for high in (0, 2) for fa, _ in four for value in unpack(fa[low + high])])
                B.append([value for half in (0, 1) for _, fb in four for value in unpack(fb[half])])
            lanes.made = np.array(A[0::2] + A[1::2], np.float64) @ np.array(B, np.float64).T
        D, group, pair = lanes.made, lane // 4, 2 * (lane % 4)
        found = D[group, pair], D[group, pair + 1], D[group + 8, pair], D[group + 8, pair + 1]
        return tuple(np.float32(x + float(y)) for x, y in zip(found, c, strict=True))

    def mma_tf32(a0, a1, a2, a3, b0, b1, c0, c1, c2, c3):
        return _fragments_product((a0, a1, a2, a3), (b0, b1), (c0, c1, c2, c3), lambda x: [np.uint32(int(x) & 0xFFFFE000).view(np.float32)])

    def mma_bf16(a0, a1, a2, a3, b0, b1, c0, c1, c2, c3):
        return _fragments_product((a0, a1, a2, a3), (b0, b1), (c0, c1, c2, c3), _halves)

    def add_products(s, x, y):
        s += np.multiply.outer(x, y)

    def arrive(x, i):
        x[i] += 1

    def wait_for(x, i, value):
        assert x[i] == value, "this block would wait forever: the simulator runs blocks one after another"

else:
    from llvmlite import ir
    from numba.cuda.extending import intrinsic

    from ... import portable
    from .device import cuda, types

    f32, i32, i64, void = ir.FloatType(), ir.IntType(32), ir.IntType(64), ir.VoidType()
    PATIENCE = 1 << 25  # polls of a counter, about twenty seconds, before the launch fails instead of hanging
    SHARED = 3  # address space of shared memory

    def _asm(builder, result, text, constraints, arguments, side_effect=True):
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        return builder.call(ir.InlineAsm(kind, text, constraints, side_effect=side_effect), arguments)

    def _pointer(context, builder, array_type, array, index):
        return builder.gep(context.make_array(array_type)(context, builder, value=array).data, [index])

    def _address(context, builder, array_type, array, index):
        return builder.ptrtoint(_pointer(context, builder, array_type, array, index), i64)

    def _four(context, builder, signature, text, constraints, arguments, side_effect=True):
        found = _asm(builder, ir.LiteralStructType([f32] * 4), text, constraints, arguments, side_effect)
        return context.make_tuple(builder, signature.return_type, [builder.extract_value(found, k) for k in range(4)])

    @intrinsic
    def load1(typing, x, i):
        signature = types.float32(x, types.int64)

        def code(context, builder, signature, arguments):
            address = _address(context, builder, signature.args[0], *arguments)
            return _asm(builder, f32, "ld.global.cg.f32 $0,[$1];", "=f,l,~{memory}", [address])

        return signature, code

    @intrinsic
    def load4(typing, x, i):
        signature = types.UniTuple(types.float32, 4)(x, types.int64)

        def code(context, builder, signature, arguments):
            address = _address(context, builder, signature.args[0], *arguments)
            return _four(context, builder, signature, "ld.global.cg.v4.f32 {$0,$1,$2,$3},[$4];", "=f,=f,=f,=f,l,~{memory}", [address])

        return signature, code

    def _near_pointer(context, builder, array_type, array, index):
        pointer = context.make_array(array_type)(context, builder, value=array).data
        return builder.gep(builder.addrspacecast(pointer, ir.PointerType(pointer.type.pointee, SHARED)), [index])

    @intrinsic
    def near(typing, x, i):
        def code(context, builder, signature, arguments):
            return builder.load(_near_pointer(context, builder, signature.args[0], *arguments))

        return types.float32(x, types.int32), code

    @intrinsic
    def near4(typing, x, i):
        signature = types.UniTuple(types.float32, 4)(x, types.int32)

        def code(context, builder, signature, arguments):
            pointer = _near_pointer(context, builder, signature.args[0], *arguments)
            found = builder.load(builder.bitcast(pointer, ir.PointerType(ir.VectorType(f32, 4), SHARED)), align=16)
            parts = [builder.extract_element(found, ir.Constant(i32, k)) for k in range(4)]
            return context.make_tuple(builder, signature.return_type, parts)

        return signature, code

    @intrinsic
    def put(typing, x, i, value):
        def code(context, builder, signature, arguments):
            builder.store(arguments[2], _near_pointer(context, builder, signature.args[0], *arguments[:2]))
            return context.get_dummy_value()

        return types.none(x, types.int32, types.float32), code

    def _copy(elements, cache):
        @intrinsic
        def copy(typing, s, i, x, j, n):
            signature = types.none(s, types.int32, x, types.int64, types.int32)

            def code(context, builder, signature, arguments):
                target = builder.ptrtoint(_near_pointer(context, builder, signature.args[0], *arguments[:2]), i32)
                source = _address(context, builder, signature.args[2], *arguments[2:4])
                count = builder.mul(arguments[4], ir.Constant(i32, 4))
                _asm(builder, void, f"cp.async.{cache}.shared.global [$0],[$1],{4 * elements},$2;", "r,l,r,~{memory}",
                     [target, source, count])
                return context.get_dummy_value()

            return signature, code

        return copy

    copy1, copy2, copy4 = _copy(1, "ca"), _copy(2, "ca"), _copy(4, "cg")

    def _statement(text):
        @intrinsic
        def statement(typing):
            def code(context, builder, signature, arguments):
                _asm(builder, void, text, "~{memory}", [])
                return context.get_dummy_value()

            return types.none(), code

        return statement

    commit = _statement("cp.async.commit_group;")
    _wait0, _wait1, _wait2 = (_statement(f"cp.async.wait_group {count};") for count in range(3))

    @inline
    def wait_copies(pending):
        if pending == 0:
            _wait0()
        elif pending == 1:
            _wait1()
        else:
            _wait2()

    HALF, KEPT, QUIET = ir.Constant(i32, 0x1000), ir.Constant(i32, 0xFFFFE000), ir.Constant(i32, 0x7FC00000)

    def _half_up(builder, x):
        nan = builder.fcmp_unordered("uno", x, x)  # adding half a unit would turn the device's NaN, all ones, into 0
        return builder.select(nan, QUIET, builder.add(builder.bitcast(x, i32), HALF))

    @intrinsic
    def bits(typing, x):
        def code(context, builder, signature, arguments):
            return builder.bitcast(arguments[0], i32)

        return types.uint32(types.float32), code

    @intrinsic
    def tf32(typing, x):
        def code(context, builder, signature, arguments):
            return _half_up(builder, arguments[0])

        return types.uint32(types.float32), code

    @intrinsic
    def rounded(typing, x):
        def code(context, builder, signature, arguments):
            return builder.bitcast(builder.and_(_half_up(builder, arguments[0]), KEPT), f32)

        return types.float32(types.float32), code

    @intrinsic
    def bf16(typing, low, high):
        def code(context, builder, signature, arguments):
            return _asm(builder, i32, "cvt.rn.bf16x2.f32 $0,$2,$1;", "=r,f,f", arguments, side_effect=False)

        return types.uint32(types.float32, types.float32), code

    def _mma(shape, kind):
        @intrinsic
        def mma(typing, a0, a1, a2, a3, b0, b1, c0, c1, c2, c3):
            signature = types.UniTuple(types.float32, 4)(*[types.uint32] * 6, *[types.float32] * 4)
            text = (f"mma.sync.aligned.{shape}.row.col.f32.{kind}.{kind}.f32 "
                    "{$0,$1,$2,$3},{$4,$5,$6,$7},{$8,$9},{$10,$11,$12,$13};")

            def code(context, builder, signature, arguments):
                constraints = "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f"
                return _four(context, builder, signature, text, constraints, arguments, side_effect=False)

            return signature, code

        return mma

    mma_tf32, mma_bf16 = _mma("m16n8k8", "tf32"), _mma("m16n8k16", "bf16")

    @intrinsic
    def _reciprocal(typing, x):
        def code(context, builder, signature, arguments):
            return _asm(builder, f32, "rcp.approx.ftz.f32 $0,$1;", "=f,f", arguments, side_effect=False)

        return types.float32(types.float32), code

    @inline
    def _quotient(x, y):
        r = _reciprocal(y)
        r = cuda.fma(cuda.fma(-y, r, np.float32(1)), r, r)
        q = x * r
        return cuda.fma(cuda.fma(-y, q, x), r, q)

    # Numba looks up the device version of a CPU function here. An overload for this target does not override a generic one that the CPU
    # has already compiled.
    setattr(portable.quotient, "_CUDATypingContext__dispatcher", _quotient)  # noqa: B010

    @intrinsic
    def arrive(typing, x, i):
        signature = types.none(x, types.int64)

        def code(context, builder, signature, arguments):
            address = _address(context, builder, signature.args[0], *arguments)
            _asm(builder, void, "red.release.gpu.global.add.u32 [$0],$1;", "l,r,~{memory}", [address, ir.Constant(i32, 1)])
            return context.get_dummy_value()

        return signature, code

    @intrinsic
    def _acquire(typing, x, i):
        signature = types.uint32(x, types.int64)

        def code(context, builder, signature, arguments):
            address = _address(context, builder, signature.args[0], *arguments)
            return _asm(builder, i32, "ld.acquire.gpu.global.u32 $0,[$1];", "=r,l,~{memory}", [address])

        return signature, code

    @inline
    def add_products(s, x, y):
        for i in range(s.shape[0]):
            for j in range(s.shape[1]):
                s[i, j] += x[i] * y[j]

    _trap = _statement("trap;")

    @inline
    def wait_for(x, i, value):
        polls = 0
        while np.int32(_acquire(x, i) - np.uint32(value)) < 0:
            polls += 1
            if polls == PATIENCE:
                _trap()
