"""Convolution over time as products of shifted rows on the register tile, and pooling over time."""

from .kernels import kernel
from .linear import STEPS, TALL
from .packing import factors, lines, pack_panel
from .simd import VECTORS, lanes, multiply_panel
from .team import parallel

DEEP = 128  # rows multiplied at once where a sum runs over them: their panel stays in L1


@parallel
def shifted_products(part, bounds, taps, a, lda, k, b, b_tap, b_group, b_step, b_column, n, groups, bias, c, ldc, panels, pairs):
    """c[r] = bias + Σ over taps (tap, first, last, shift) with first <= r < last of a[r + shift] b[tap], for groups of k columns of a
    and n of c.

    The part's bounds are rows of c and columns of each group. Its row of ``panels`` holds a packed panel of b for each tap, that of
    ``pairs`` rounded elements of a. All products of a few rows are added while these are in cache. Each sum is one chain, in the
    order of the taps.
    """
    r0, r1, c0, c1 = bounds[part, 0], bounds[part, 1], bounds[part, 2], bounds[part, 3]
    packed, scratch = panels[part], pairs[part]
    count = lanes(c)
    for g in range(groups):
        for j in range(c0, c1, VECTORS * count):
            columns = min(VECTORS * count, c1 - j)
            vectors = (columns + count - 1) // count
            panel, mask = lines(k, packed) * vectors * count, columns - (vectors - 1) * count
            for i in range(len(taps)):
                pack_panel(b, taps[i, 0] * b_tap + g * b_group + j * b_column, b_step, b_column, k, columns, packed, i * panel)
            for top in range(r0, r1, TALL):
                bottom = min(r1, top + TALL)
                _start(c, top * ldc + g * n + j, ldc, bottom - top, columns, bias, g * n + j)
                for i in range(len(taps)):
                    first, last = max(top, taps[i, 1]), min(bottom, taps[i, 2])
                    if first < last:
                        left, il, left_row, left_step, steps = factors(
                            a, (first + taps[i, 3]) * lda + g * k, lda, 1, last - first, k, packed, scratch)
                        out = first * ldc + g * n + j
                        multiply_panel(vectors, left, il, left_row, left_step, last - first, packed, i * panel, steps,
                                       c, out, ldc, c, out, ldc, mask)


@kernel
def _start(c, ic, ldc, rows, columns, bias, first):
    """Rows of c ← the bias from ``first`` on, or zero if it is empty."""
    for i in range(rows):
        row = c[ic + i * ldc : ic + i * ldc + columns]
        if bias.size:
            source = bias[first : first + columns]
            for j in range(columns):
                row[j] = source[j]
        else:
            for j in range(columns):
                row[j] = 0


@parallel
def shifted_gradients(part, bounds, taps, a, lda, k, b, ldb, n, groups, rows, c, c_tap, panels, pairs, sums, add):
    """c[tap] ← or += Σ over rows r of b with first <= r < last of a[r + shift]ᵀ b[r], for groups of k columns of a and n of b.

    The part's bounds are rows and columns of each c[tap]. Rows of b are packed once for all taps. Sums are chains of STEPS rows, in the
    part's row of ``sums``, that are added up.
    """
    d0, d1, c0, c1 = bounds[part, 0], bounds[part, 1], bounds[part, 2], bounds[part, 3]
    packed, scratch, chains = panels[part], pairs[part], sums[part]
    count = lanes(c)
    height = d1 - d0
    for g in range(groups):
        for j in range(c0, c1, VECTORS * count):
            columns = min(VECTORS * count, c1 - j)
            vectors = (columns + count - 1) // count
            width, mask = vectors * count, columns - (vectors - 1) * count
            for block in range(0, max(rows, 1), STEPS):
                own = chains[: len(taps) * height * width]
                own[:] = 0
                for top in range(block, min(rows, block + STEPS), DEEP):
                    bottom = min(rows, top + DEEP)
                    begin, end = top, top  # the rows that are packed
                    for i in range(len(taps)):
                        first, last = max(top, taps[i, 1]), min(bottom, taps[i, 2])
                        if first < last:
                            if first != begin or last != end:
                                pack_panel(b, first * ldb + g * n + j, ldb, 1, last - first, columns, packed, 0)
                                begin, end = first, last
                            left, il, left_row, left_step, steps = factors(
                                a, (first + taps[i, 3]) * lda + g * k + d0, 1, lda, height, last - first, packed, scratch)
                            at = i * height * width
                            multiply_panel(vectors, left, il, left_row, left_step, height, packed, 0, steps,
                                           own, at, width, own, at, width, mask)
                for i in range(len(taps)):
                    for d in range(height):
                        out = taps[i, 0] * c_tap + (d0 + d) * groups * n + g * n + j
                        line, row = own[(i * height + d) * width : (i * height + d) * width + columns], c[out : out + columns]
                        if add or block > 0:
                            for column in range(columns):
                                row[column] += line[column]
                        else:
                            for column in range(columns):
                                row[column] = line[column]


@parallel
def pool(part, bounds, x, out, mean, size, stride, before, scratch):
    """out[t] ← the mean or the largest of x[t·stride - before], …, for matrices x and out. The part's bounds are rows of out and columns;
    its row of ``scratch`` has room for its columns in float64, so that long means lose nothing."""
    r0, r1, c0, c1 = bounds[part, 0], bounds[part, 1], bounds[part, 2], bounds[part, 3]
    total = scratch[part, : c1 - c0]
    for t in range(r0, r1):
        first, last = max(t * stride - before, 0), min(t * stride - before + size, len(x))
        row = out[t, c0:c1]
        if first >= last:
            row[:] = 0
        elif mean:
            total[:] = 0
            for s in range(first, last):
                step = x[s, c0:c1]
                for j in range(row.size):
                    total[j] += step[j]
            for j in range(row.size):
                row[j] = total[j] / (last - first)
        else:
            for s in range(first, last):
                step = x[s, c0:c1]
                for j in range(row.size):
                    if s == first or step[j] > row[j] or step[j] != step[j]:  # NaN wins
                        row[j] = step[j]


@parallel
def pool_backward(part, bounds, x, out, dout, dx, mean, size, stride, before, scratch):
    """dx ← gradient of x. The part's bounds are columns; its row of ``scratch`` holds what the maxima still have to give away."""
    c0, c1 = bounds[part, 0], bounds[part, 1]
    rest = scratch[part, : c1 - c0]
    for s in range(len(x)):
        dx[s, c0:c1] = 0
    for t in range(len(out)):
        first, last = max(t * stride - before, 0), min(t * stride - before + size, len(x))
        largest, gradient = out[t, c0:c1], dout[t, c0:c1]
        for j in range(rest.size):
            rest[j] = gradient[j] / (last - first) if mean else gradient[j]
        for s in range(first, last):
            step, target = x[s, c0:c1], dx[s, c0:c1]
            for j in range(rest.size):
                given = mean or step[j] == largest[j] or step[j] != step[j]
                target[j] += rest[j] if given else 0
                rest[j] = 0 if given and not mean else rest[j]
