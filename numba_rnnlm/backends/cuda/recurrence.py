"""The time loop, generic over cells: one launch for all steps if the state's matrix fits on the chip.

Persistent kernels: the streams are split into groups, the units into slices. A block keeps a slice's columns of U in
shared memory for all time steps, its eight warps share the inner dimension, and each thread handles one unit of one stream,
whose states stay in registers. Blocks of a group exchange h_t (forward) or their shares of dh_t (backward) through
double-buffered global memory, and synchronise at a barrier once per step.

Stepwise, for sizes that do not fit: one product and one launch of the cell's row per step. A scan, which has no product, is
one launch of the row for all steps.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ...cells import Cell
from .device import SIMULATED, cuda, divided, inline
from .intrinsics import (
    arrive,
    bf16,
    bits,
    load1,
    load4,
    mma_bf16,
    mma_tf32,
    near,
    near4,
    put,
    rounded,
    wait_for,
)
from .launch import COUNTS, FLOATS, INT, INTS, LONG, THREADS, Kernel, cooperative, most_resident, shared_limit

WARPS = THREADS // 32
CHUNK = 16  # inner dimension that a warp processes at once
TILE = 16  # streams in one row of fragments
SHAPES = ((16, 1), (16, 2), (8, 1), (8, 2))  # (units of a slice, rows of fragments of a group); (16, 4) would spill registers
APART = 32  # distance of arrival counters: each has a cache line of 128 bytes to itself
BATCH = 8  # loads of U that a thread keeps in flight
AHEAD = 4  # chunks of the state that a warp keeps in flight
CHAIN = 64  # steps over which gradients of a cell's weights are summed in one chain


class Plan(NamedTuple):
    """How a time loop runs: in ``groups`` × ``slices`` blocks, or step by step (``units`` 0)."""

    units: int  # per slice
    tiles: int  # per group, of 16 streams each
    slices: int
    groups: int
    reason: str
    shared: int = 0  # bytes of shared memory per block

    @property
    def persistent(self) -> bool:
        return self.units > 0

    @property
    def width(self) -> int:
        """Hidden units, padded to whole slices."""
        return self.units * self.slices

    @property
    def streams(self) -> int:
        """Streams, padded to whole groups."""
        return self.groups * self.tiles * TILE


def plan(cell: Cell, streams: int, hidden: int, precision: str, backward: bool, ending: bool = False) -> Plan:
    """The first of SHAPES whose blocks can all run at once, else step by step. ``ending``: streams have lengths."""
    first, last = cell.window("h")
    if first == last:
        return Plan(0, 0, 0, 0, "a scan: one launch, in which each thread runs all steps of one unit of one stream")
    if not cooperative():
        return step_by_step("this device does not support cooperative launches")
    tried = ""
    for units, tiles in SHAPES:
        groups, slices = -(-streams // (tiles * TILE)), -(-hidden // CHUNK) * (CHUNK // units)
        shared = shared_bytes(last - first, units, tiles, slices * units, backward)
        need = groups * slices
        tried = f"{need} blocks of {shared >> 10} KB of shared memory"
        if shared <= shared_limit() and need <= most_resident(shared):  # without compiling
            found = Plan(units, tiles, slices, groups, "", shared)
            room = _room(found, cell, precision, backward, ending)
            if need <= room:
                return found._replace(reason=f"persistent: {tried} run at once, of {room} possible")
    return step_by_step(f"not even {tried} can run at once")


def step_by_step(why: str) -> Plan:
    """The plan of a loop that does not run in one launch."""
    return Plan(0, 0, 0, 0, f"step by step: {why}")


def kernel(plan: Plan, cell: Cell, precision: str, backward: bool, ending: bool = False) -> Kernel:
    """The kernel to launch, for the whole loop or for one step."""
    if not plan.persistent:
        return (backward_rows if backward else forward_rows)(cell, ending)
    make = backward_kernel if backward else forward_kernel
    return make(cell, plan.units, plan.tiles, precision, ending)


def _room(found: Plan, cell: Cell, precision: str, backward: bool, ending: bool) -> int:
    if SIMULATED:  # blocks run one after another, and each step is a launch
        return 1 << 20
    return kernel(found, cell, precision, backward, ending).resident(THREADS, found.shared)


def _forward_step(cell: Cell) -> Any:
    """The cell's forward row for one unit, with one signature whether or not the cell has weights."""
    row = cell.forward

    @inline
    def with_weights(z, prev, next, w):
        row(z, prev, next, w, 0, 1)

    @inline
    def without(z, prev, next, w):
        row(z, prev, next, 0, 1)

    return with_weights if cell.weights else without


def _backward_step(cell: Cell) -> Any:
    """The cell's backward row, likewise; the gradient of w is added to dw."""
    row = cell.backward

    @inline
    def with_weights(z, prev, next, d, w, dw):
        row(z, prev, next, d, w, dw, 0, 1)

    @inline
    def without(z, prev, next, d, w, dw):
        row(z, prev, next, d, 0, 1)

    return with_weights if cell.weights else without


def shared_bytes(slots: int, units: int, tiles: int, width: int, backward: bool) -> int:
    """Shared memory of a block: its part of U, and the sums of eight warps (forward) or the gradients of its slice (backward)."""
    columns = slots * units
    if backward:
        return 4 * (width * (columns + 4) + tiles * TILE * (columns + 4))
    return 4 * (width * (columns + 2) + WARPS * tiles * TILE * (columns + 8))


@inline
def _meet(barrier, group, count):
    """Wait for ``count`` arrivals; all threads of the block must call it."""
    if cuda.threadIdx.x == 0:
        wait_for(barrier, group * APART, count)
    cuda.syncthreads()


@inline
def _announce(barrier, group):
    """Signal that all writes of this block are visible to those who wait for this arrival."""
    cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        arrive(barrier, group * APART)  # a release, which includes what other threads wrote before syncthreads


def _holder(slots, units, stride, tf32):
    """A function that copies a slice's columns of U to the start of shared memory, with row stride ``stride``, zero beyond U."""
    columns = slots * units

    @inline
    def hold(shared, u, width, part, hidden):
        batch = cuda.local.array(BATCH, np.float32)
        for first in range(cuda.threadIdx.x, width * columns, THREADS * BATCH):
            for i in range(BATCH):  # issue all loads before the first store
                k, c = (first + i * THREADS) // columns, (first + i * THREADS) % columns
                unit = part * units + c % units
                batch[i] = np.float32(0)
                if k < hidden and unit < hidden:
                    batch[i] = u[np.int64(k) * slots * hidden + c // units * hidden + unit]
            for i in range(BATCH):
                k, c = (first + i * THREADS) // columns, (first + i * THREADS) % columns
                if k < width:
                    put(shared, k * stride + c, rounded(batch[i]) if tf32 else batch[i])

    return hold


@cache
def forward_kernel(cell: Cell, units: int, tiles: int, precision: str, ending: bool = False) -> Kernel:
    """h_t = cell(z_t + h_{t-1} U) for t in [t0, t1), with U in shared memory. ``ending``: a stream that has ended keeps its states."""
    gates, states, weights = len(cell.gates), len(cell.states), len(cell.weights)
    vectors = max(weights, 1)  # local arrays cannot be empty
    start, stop = cell.window("h")
    slots = stop - start
    columns, stride, sums_stride = slots * units, slots * units + 2, slots * units + 8
    rows = tiles * TILE
    passes = -(-rows * units // THREADS)
    fragments, mine = columns // 8, 4 * tiles
    ahead, depth = (AHEAD, 8) if tiles == 1 else (1, 4)
    row = _forward_step(cell)
    tensor, brain, tf32 = precision != "float32", precision == "bf16", precision == "tf32"
    hold = _holder(slots, units, stride, tf32)

    @inline
    def product_tensor(shared, sums, exchange, base, width, warp, lane):
        """The warp's share of h U, on the tensor cores."""
        acc = cuda.local.array((tiles, fragments, 4), np.float32)
        fa = cuda.local.array((tiles, 8), np.uint32)
        h = cuda.local.array((ahead, tiles, 8), np.float32)
        g, q = lane // 4, lane % 4
        for i in range(tiles):
            for j in range(fragments):
                for e in range(4):
                    acc[i, j, e] = np.float32(0)
        chunks = width // CHUNK
        for first in range(warp, chunks, WARPS * ahead):
            for p in range(ahead):  # issue all loads before the first use
                chunk = first + p * WARPS
                if chunk < chunks:
                    for i in range(tiles):
                        at = base + np.int64(TILE * i + g) * width + chunk * CHUNK + 4 * q
                        a0, a1, a2, a3 = load4(exchange, at)
                        b0, b1, b2, b3 = load4(exchange, at + 8 * width)
                        h[p, i, 0], h[p, i, 1], h[p, i, 2], h[p, i, 3] = a0, a1, a2, a3
                        h[p, i, 4], h[p, i, 5], h[p, i, 6], h[p, i, 7] = b0, b1, b2, b3
            for p in range(ahead):
                chunk = first + p * WARPS
                if chunk < chunks:
                    for i in range(tiles):
                        if brain:
                            fa[i, 0], fa[i, 2] = bf16(h[p, i, 0], h[p, i, 1]), bf16(h[p, i, 2], h[p, i, 3])
                            fa[i, 1], fa[i, 3] = bf16(h[p, i, 4], h[p, i, 5]), bf16(h[p, i, 6], h[p, i, 7])
                        else:
                            for e in range(4):
                                fa[i, 2 * e], fa[i, 2 * e + 1] = bits(h[p, i, e]), bits(h[p, i, e + 4])
                    for j in range(fragments):
                        at = (chunk * CHUNK + 4 * q) * stride + 8 * j + g
                        u0, u1, u2, u3 = near(shared, at), near(shared, at + stride), near(shared, at + 2 * stride), near(shared, at + 3 * stride)
                        for i in range(tiles):
                            d0, d1, d2, d3 = acc[i, j, 0], acc[i, j, 1], acc[i, j, 2], acc[i, j, 3]
                            if brain:
                                d0, d1, d2, d3 = mma_bf16(
                                    fa[i, 0], fa[i, 1], fa[i, 2], fa[i, 3], bf16(u0, u1), bf16(u2, u3), d0, d1, d2, d3)
                            else:
                                d0, d1, d2, d3 = mma_tf32(
                                    fa[i, 0], fa[i, 1], fa[i, 2], fa[i, 3], bits(u0), bits(u1), d0, d1, d2, d3)
                                d0, d1, d2, d3 = mma_tf32(
                                    fa[i, 4], fa[i, 5], fa[i, 6], fa[i, 7], bits(u2), bits(u3), d0, d1, d2, d3)
                            acc[i, j, 0], acc[i, j, 1], acc[i, j, 2], acc[i, j, 3] = d0, d1, d2, d3
        for i in range(tiles):
            for j in range(fragments):
                for e in range(4):
                    at = (warp * rows + TILE * i + g + e // 2 * 8) * sums_stride + 8 * j + 2 * q + e % 2
                    put(shared, sums + at, acc[i, j, e])

    @inline
    def product_float32(shared, sums, exchange, base, width, warp, lane):
        """The same in float32: a lane sums 4 streams and every 8th column."""
        acc = cuda.local.array((mine, fragments), np.float32)
        h = cuda.local.array((mine, depth), np.float32)
        down, right = lane // 8 * 4, lane % 8
        for i in range(mine):
            for j in range(fragments):
                acc[i, j] = np.float32(0)
        for chunk in range(warp, width // CHUNK, WARPS):
            for k in range(0, CHUNK, depth):
                for i in range(mine):
                    for e in range(0, depth, 4):
                        at = base + np.int64(i // 4 * TILE + down + i % 4) * width + chunk * CHUNK + k + e
                        h[i, e], h[i, e + 1], h[i, e + 2], h[i, e + 3] = load4(exchange, at)
                for e in range(depth):
                    at = (chunk * CHUNK + k + e) * stride + right
                    for j in range(fragments):
                        u = near(shared, at + 8 * j)
                        for i in range(mine):
                            acc[i, j] += h[i, e] * u
        for i in range(mine):
            for j in range(fragments):
                at = (warp * rows + i // 4 * TILE + down + i % 4) * sums_stride + 8 * j + right
                put(shared, sums + at, acc[i, j])

    product = product_tensor if tensor else product_float32

    def forward(u, z, s, exchange, barrier, earlier, streams, hidden, t0, t1, together, w, lengths):
        shared = cuda.shared.array(0, np.float32, alignment=16)
        now = cuda.local.array((passes, gates, 1), np.float32)
        memory = cuda.local.array((passes, 2, states, 1), np.float32)
        weight = cuda.local.array((passes, vectors, 1), np.float32)
        end = cuda.local.array(passes, np.int32)
        tid = cuda.threadIdx.x
        part, group, slices = cuda.blockIdx.x, cuda.blockIdx.y, cuda.gridDim.x
        width = slices * units
        padded = cuda.gridDim.y * rows
        sums = width * stride
        hold(shared, u, width, part, hidden)
        for i in range(passes):
            pair = tid + i * THREADS
            r, unit = pair // units, part * units + pair % units
            n = group * rows + r
            if r < rows:
                for k in range(states):
                    memory[i, 0, k, 0] = np.float32(0)
                    if n < streams and unit < hidden:
                        memory[i, 0, k, 0] = s[((np.int64(t0) * streams + n) * states + k) * hidden + unit]
                for k in range(weights):
                    weight[i, k, 0] = w[k * hidden + unit] if unit < hidden else np.float32(0)
                if ending:
                    end[i] = lengths[n] if n < streams else 0
                h = memory[i, 0, 0, 0]
                exchange[(np.int64(t0 % 2) * padded + n) * width + unit] = rounded(h) if tf32 else h
        if together:
            _announce(barrier, group)
        for t in range(t0, t1):
            for i in range(passes):
                pair = tid + i * THREADS
                n, unit = group * rows + pair // units, part * units + pair % units
                for k in range(gates):
                    now[i, k, 0] = np.float32(0)
                    if pair // units < rows and n < streams and unit < hidden:
                        now[i, k, 0] = z[((np.int64(t) * streams + n) * gates + k) * hidden + unit]
            if together:
                _meet(barrier, group, earlier + (t - t0 + 1) * slices)
            else:
                cuda.syncthreads()
            product(shared, sums, exchange, (np.int64(t % 2) * padded + group * rows) * width, width, tid // 32, tid % 32)
            cuda.syncthreads()
            for i in range(passes):
                pair = tid + i * THREADS
                r, c = pair // units, pair % units
                n, unit = group * rows + r, part * units + c
                if r < rows:
                    for k in range(slots):
                        at = sums + r * sums_stride + k * units + c
                        total = near(shared, at)
                        for other in range(1, WARPS):
                            total += near(shared, at + other * rows * sums_stride)
                        now[i, start + k, 0] += total
                    inside = n < streams and unit < hidden
                    if not ending or t < end[i]:
                        row(now[i], memory[i, 0], memory[i, 1], weight[i])
                        for k in range(states):
                            memory[i, 0, k, 0] = memory[i, 1, k, 0]
                    h = memory[i, 0, 0, 0] if inside else np.float32(0)
                    exchange[(np.int64((t + 1) % 2) * padded + n) * width + unit] = rounded(h) if tf32 else h
            if together:
                _announce(barrier, group)
            else:
                cuda.syncthreads()
            for i in range(passes):  # no block waits for these writes
                pair = tid + i * THREADS
                n, unit = group * rows + pair // units, part * units + pair % units
                if pair // units < rows and n < streams and unit < hidden:
                    for k in range(states):
                        s[((np.int64(t + 1) * streams + n) * states + k) * hidden + unit] = memory[i, 0, k, 0]
                    for k in range(gates):
                        z[((np.int64(t) * streams + n) * gates + k) * hidden + unit] = now[i, k, 0]

    takes = (FLOATS, FLOATS, FLOATS, FLOATS, COUNTS, LONG, INT, INT, INT, INT, INT, FLOATS, INTS)
    return Kernel(forward, takes, cooperative=True)


@cache
def backward_kernel(cell: Cell, units: int, tiles: int, precision: str, ending: bool = False) -> Kernel:
    """Backpropagation through steps t1 - 1 … t0 of ``steps``: z becomes the gradient of the sums.

    From the gradients of its slice, a block computes the slice's share of dh of every unit; the owner of a unit adds the shares of
    all slices in a fixed order. Gradients of w are added to dw (⌈steps / CHAIN⌉, N, K, H).
    """
    gates, states, weights = len(cell.gates), len(cell.states), len(cell.weights)
    vectors = max(weights, 1)  # local arrays cannot be empty
    start, stop = cell.window("h")
    slots = stop - start
    columns, stride = slots * units, slots * units + 4
    rows = tiles * TILE
    passes, mine = -(-rows * units // THREADS), 4 * tiles
    row = _backward_step(cell)
    tensor, brain, tf32 = precision != "float32", precision == "bf16", precision == "tf32"
    hold = _holder(slots, units, stride, tf32)

    @inline
    def product_tensor(shared, own, shares, base, width, warp, lane):
        """shares (rows, width) ← dz (rows, columns) Uᵀ; each warp computes every 8th fragment."""
        acc = cuda.local.array((tiles, 4), np.float32)
        g, q = lane // 4, lane % 4
        for j in range(warp, width // 8, WARPS):
            for i in range(tiles):
                for e in range(4):
                    acc[i, e] = np.float32(0)
            for k in range(0, columns, 16):
                at = (8 * j + g) * stride + k + q
                u0, u1 = near(shared, at), near(shared, at + 4)
                u2, u3 = np.float32(0), np.float32(0)
                if k + 8 < columns:
                    u2, u3 = near(shared, at + 8), near(shared, at + 12)
                for i in range(tiles):
                    at = own + (TILE * i + g) * stride + k + q
                    below = at + 8 * stride
                    a0, a1, b0, b1 = near(shared, at), near(shared, at + 4), near(shared, below), near(shared, below + 4)
                    a2, a3, b2, b3 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
                    if k + 8 < columns:
                        a2, a3, b2, b3 = near(shared, at + 8), near(shared, at + 12), near(shared, below + 8), near(shared, below + 12)
                    d0, d1, d2, d3 = acc[i, 0], acc[i, 1], acc[i, 2], acc[i, 3]
                    if brain:
                        d0, d1, d2, d3 = mma_bf16(
                            bf16(a0, a1), bf16(b0, b1), bf16(a2, a3), bf16(b2, b3), bf16(u0, u1), bf16(u2, u3), d0, d1, d2, d3)
                    else:
                        d0, d1, d2, d3 = mma_tf32(bits(a0), bits(b0), bits(a1), bits(b1), bits(u0), bits(u1), d0, d1, d2, d3)
                        if k + 8 < columns:
                            d0, d1, d2, d3 = mma_tf32(
                                bits(a2), bits(b2), bits(a3), bits(b3), bits(u2), bits(u3), d0, d1, d2, d3)
                    acc[i, 0], acc[i, 1], acc[i, 2], acc[i, 3] = d0, d1, d2, d3
            for i in range(tiles):
                for e in range(4):
                    shares[base + np.int64(TILE * i + g + e // 2 * 8) * width + 8 * j + 2 * q + e % 2] = acc[i, e]

    @inline
    def product_float32(shared, own, shares, base, width, warp, lane):
        """The same in float32: a lane sums 4 streams and 2 units."""
        acc = cuda.local.array((mine, 2), np.float32)
        dz = cuda.local.array(4, np.float32)
        v = cuda.local.array((2, 4), np.float32)
        down, right = lane // 8 * 4, lane % 8
        for j in range(warp, width // 16, WARPS):
            for i in range(mine):
                for e in range(2):
                    acc[i, e] = np.float32(0)
            for k in range(0, columns, 4):
                for e in range(2):
                    v[e, 0], v[e, 1], v[e, 2], v[e, 3] = near4(shared, (16 * j + 8 * e + right) * stride + k)
                for i in range(mine):
                    at = own + (i // 4 * TILE + down + i % 4) * stride + k
                    dz[0], dz[1], dz[2], dz[3] = near4(shared, at)
                    for e in range(2):
                        for f in range(4):
                            acc[i, e] += dz[f] * v[e, f]
            for i in range(mine):
                for e in range(2):
                    shares[base + np.int64(i // 4 * TILE + down + i % 4) * width + 16 * j + 8 * e + right] = acc[i, e]

    product = product_tensor if tensor else product_float32

    @inline
    def all_shares(shares, t, groups, group, slices, r, width, unit):
        """The sum of all slices' shares of dh for one unit of one stream."""
        at = ((np.int64(t % 2) * groups + group) * slices * rows + r) * width + unit
        step = rows * width
        total = np.float32(0)
        for _ in range(slices // 8):  # eight loads in flight
            a, b, c, d = load1(shares, at), load1(shares, at + step), load1(shares, at + 2 * step), load1(shares, at + 3 * step)
            at += 4 * step
            e, f, g, h = load1(shares, at), load1(shares, at + step), load1(shares, at + 2 * step), load1(shares, at + 3 * step)
            at += 4 * step
            total += ((a + b) + (c + d)) + ((e + f) + (g + h))
        for _ in range(slices % 8):
            total += load1(shares, at)
            at += step
        return total

    def backward(u, z, s, dy, d, shares, barrier, earlier, streams, hidden, steps, t0, t1, together, w, dw, lengths):
        shared = cuda.shared.array(0, np.float32, alignment=16)
        weight = cuda.local.array((passes, vectors, 1), np.float32)
        slope = cuda.local.array((passes, vectors, 1), np.float32)
        end = cuda.local.array(passes, np.int32)
        now = cuda.local.array((passes, gates, 1), np.float32)
        before = cuda.local.array((passes, states, 1), np.float32)
        after = cuda.local.array((passes, states, 1), np.float32)
        grown = cuda.local.array((passes, states, 1), np.float32)
        tid = cuda.threadIdx.x
        part, group, slices, groups = cuda.blockIdx.x, cuda.blockIdx.y, cuda.gridDim.x, cuda.gridDim.y
        width = slices * units
        own = width * stride
        hold(shared, u, width, part, hidden)
        for i in range(passes):
            pair = tid + i * THREADS
            n, unit = group * rows + pair // units, part * units + pair % units
            for k in range(states):
                grown[i, k, 0] = np.float32(0)
                if pair // units < rows and n < streams and unit < hidden:
                    grown[i, k, 0] = d[(np.int64(n) * states + k) * hidden + unit]
            for k in range(weights):
                weight[i, k, 0] = w[k * hidden + unit] if unit < hidden else np.float32(0)
            if ending:
                end[i] = lengths[n] if n < streams else 0
        for step in range(t1 - t0):
            t = t1 - 1 - step
            for i in range(passes):
                pair = tid + i * THREADS
                n, unit = group * rows + pair // units, part * units + pair % units
                if pair // units < rows and n < streams and unit < hidden:
                    for k in range(gates):
                        now[i, k, 0] = z[((np.int64(t) * streams + n) * gates + k) * hidden + unit]
                    for k in range(states):
                        before[i, k, 0] = s[((np.int64(t) * streams + n) * states + k) * hidden + unit]
                        after[i, k, 0] = s[((np.int64(t + 1) * streams + n) * states + k) * hidden + unit]
                    if dy.size:
                        grown[i, 0, 0] += dy[(np.int64(t) * streams + n) * hidden + unit]
            if together and step > 0:
                _meet(barrier, group, earlier + step * slices)
            for i in range(passes):
                pair = tid + i * THREADS
                r, c = pair // units, pair % units
                n, unit = group * rows + r, part * units + c
                if r < rows:
                    inside = n < streams and unit < hidden
                    if inside:
                        if t + 1 < steps:
                            grown[i, 0, 0] += all_shares(shares, t + 1, groups, group, slices, r, width, unit)
                        for k in range(weights):
                            slope[i, k, 0] = np.float32(0)
                        if not ending or t < end[i]:
                            row(now[i], before[i], after[i], grown[i], weight[i], slope[i])
                        else:
                            for k in range(gates):
                                now[i, k, 0] = np.float32(0)
                    for k in range(slots):
                        dz = now[i, start + k, 0] if inside else np.float32(0)
                        put(shared, own + r * stride + k * units + c, rounded(dz) if tf32 else dz)
            cuda.syncthreads()
            base = ((np.int64(t % 2) * groups + group) * slices + part) * rows * width
            product(shared, own, shares, base, width, tid // 32, tid % 32)
            if together:
                _announce(barrier, group)
            else:
                cuda.syncthreads()
            for i in range(passes):  # no block waits for these writes
                pair = tid + i * THREADS
                n, unit = group * rows + pair // units, part * units + pair % units
                if pair // units < rows and n < streams and unit < hidden:
                    for k in range(gates):
                        z[((np.int64(t) * streams + n) * gates + k) * hidden + unit] = now[i, k, 0]
                    for k in range(weights):
                        dw[((np.int64(t // CHAIN) * streams + n) * weights + k) * hidden + unit] += slope[i, k, 0]
        finish = t1 == t0
        if together:
            _meet(barrier, group, earlier + (t1 - t0) * slices)
            finish = True
        for i in range(passes):
            pair = tid + i * THREADS
            r = pair // units
            n, unit = group * rows + r, part * units + pair % units
            if r < rows and n < streams and unit < hidden:
                if finish:
                    grown[i, 0, 0] += all_shares(shares, t0, groups, group, slices, r, width, unit)
                for k in range(states):
                    d[(np.int64(n) * states + k) * hidden + unit] = grown[i, k, 0]

    takes = (FLOATS, FLOATS, FLOATS, FLOATS, FLOATS, FLOATS, COUNTS, LONG, INT, INT, INT, INT, INT, INT, FLOATS, FLOATS, INTS)
    return Kernel(backward, takes, cooperative=True)


# Stepwise kernels, and the scan


@cache
def forward_rows(cell: Cell, ending: bool = False) -> Kernel:
    """The cell for steps t0 … t1 - 1 of all streams; z already includes the product, so t1 = t0 + 1 except in a scan."""
    gates, states, weights = len(cell.gates), len(cell.states), len(cell.weights)
    vectors = max(weights, 1)  # local arrays cannot be empty
    row = _forward_step(cell)

    def forward(z, s, w, lengths, streams, hidden, t0, t1):
        now = cuda.local.array((gates, 1), np.float32)
        before = cuda.local.array((states, 1), np.float32)
        after = cuda.local.array((states, 1), np.float32)
        weight = cuda.local.array((vectors, 1), np.float32)
        size = streams * hidden
        for e in range(cuda.grid(1), size, cuda.gridsize(1)):
            n, j = divided(e, hidden)
            for k in range(states):
                before[k, 0] = s[((np.int64(t0) * streams + n) * states + k) * hidden + j]
            for k in range(weights):
                weight[k, 0] = w[k * hidden + j]
            for t in range(t0, t1):
                for k in range(gates):
                    now[k, 0] = z[((np.int64(t) * streams + n) * gates + k) * hidden + j]
                if not ending or t < lengths[n]:
                    row(now, before, after, weight)
                    for k in range(states):
                        before[k, 0] = after[k, 0]
                for k in range(gates):
                    z[((np.int64(t) * streams + n) * gates + k) * hidden + j] = now[k, 0]
                for k in range(states):
                    s[((np.int64(t + 1) * streams + n) * states + k) * hidden + j] = before[k, 0]

    return Kernel(forward, (FLOATS, FLOATS, FLOATS, INTS, INT, INT, INT, INT))


@cache
def backward_rows(cell: Cell, ending: bool = False) -> Kernel:
    """The cell's backward pass for steps t1 - 1 … t0, without the product: z becomes the gradient of the sums, d (N, S, H) that of s[t0].

    Gradients of w are added to dw (⌈T / CHAIN⌉, N, K, H).
    """
    gates, states, weights = len(cell.gates), len(cell.states), len(cell.weights)
    vectors = max(weights, 1)  # local arrays cannot be empty
    row = _backward_step(cell)

    def backward(z, s, dy, d, w, dw, lengths, streams, hidden, t0, t1):
        now = cuda.local.array((gates, 1), np.float32)
        before = cuda.local.array((states, 1), np.float32)
        after = cuda.local.array((states, 1), np.float32)
        grown = cuda.local.array((states, 1), np.float32)
        weight = cuda.local.array((vectors, 1), np.float32)
        slope = cuda.local.array((vectors, 1), np.float32)
        size = streams * hidden
        for e in range(cuda.grid(1), size, cuda.gridsize(1)):
            n, j = divided(e, hidden)
            for k in range(states):
                grown[k, 0] = d[(n * states + k) * hidden + j]
            for k in range(weights):
                weight[k, 0] = w[k * hidden + j]
            for t in range(t1 - 1, t0 - 1, -1):
                if dy.size:
                    grown[0, 0] += dy[(np.int64(t) * streams + n) * hidden + j]
                if not ending or t < lengths[n]:
                    for k in range(gates):
                        now[k, 0] = z[((np.int64(t) * streams + n) * gates + k) * hidden + j]
                    for k in range(states):
                        before[k, 0] = s[((np.int64(t) * streams + n) * states + k) * hidden + j]
                        after[k, 0] = s[((np.int64(t + 1) * streams + n) * states + k) * hidden + j]
                    for k in range(weights):
                        slope[k, 0] = np.float32(0)
                    row(now, before, after, grown, weight, slope)
                    for k in range(weights):
                        dw[((np.int64(t // CHAIN) * streams + n) * weights + k) * hidden + j] += slope[k, 0]
                else:
                    for k in range(gates):
                        now[k, 0] = np.float32(0)
                for k in range(gates):
                    z[((np.int64(t) * streams + n) * gates + k) * hidden + j] = now[k, 0]
            for k in range(states):
                d[(n * states + k) * hidden + j] = grown[k, 0]

    return Kernel(backward, (FLOATS, FLOATS, FLOATS, FLOATS, FLOATS, FLOATS, INTS, INT, INT, INT, INT))
