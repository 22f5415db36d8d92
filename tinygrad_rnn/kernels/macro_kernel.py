"""Matrix products on one thread, in machine code of one dtype, and what is copied for them.

Loops around a micro-kernel of MR x NR (Goto and van de Geijn, "Anatomy of high-performance matrix multiplication",
2008), where NR is the width of a panel, ROW_BYTES:

    for k in range(0, K, KC):              # KC rows of a panel of B fit in the first-level cache
        for i in range(0, M, MC):          # copy A to panels of MR rows, unless its rows are contiguous: MC rows of it
            for j in range(0, N, NC):      #                                          fit in the second-level cache
                                           # copy B to panels, whose rows are contiguous
                for panel in NC columns:   # `multiply_rows` or `multiply_panels`
                    for rows in MC rows:
                        micro_kernel       # a block of C is held in registers while k runs

A transposed operand costs nothing but another way to copy it. What would be read only once is not copied at all. While
a micro-kernel runs, it fetches what will be copied next to the second-level cache: 2 % of a product of large operands.

Every element of C is the same sum in the same order - chains of at most KC multiply-adds along k, the chains added one
by one - wherever it lies and however rows and columns are cut. So results do not depend on the number of threads, nor
on the other rows of a batch, to the last bit. (Products of a row and a column that are both contiguous along k are
summed lane by lane: there they depend on the shape, but not on threads.) Where C has but one panel of columns, a chain
is a quarter of K up to KC: a single row of C is then a few vectors, and the processor, which can add to each only when
the addition before is over, would stand still most of the time if it had no other chain to go on with.

Counts may be zero or below, as they are for a thread whose rows have all ended: less than one row or column is nothing
to do, and a product over K <= 0 is zero. So do all functions here see it, each for itself.
"""

from typing import Any

import numpy as np

from .assembler import Function, Int
from .vector import (
    BLOCK_BYTES,
    CHAINS,
    HALF_MR,
    LINE,
    MR,
    ROW_BYTES,
    VECTORS,
    WIDE,
    Matrix,
    Shape,
    Vectors,
    inner_products,
    micro_kernel,
    transpose_square,
)  # fmt: skip

KC = 256  # rows of a panel of B, which then fits in the first-level cache
SHORTEST = 32  # multiply-adds for which it pays to load and store a block of C once more
MC_BYTES = 1 << 19  # of A in panels, half of a second-level cache of 1 MB ...
MC = 256 // MR * MR  # ... and rows of A that are read where they lie
PANELS = 4  # of B that are copied side by side; NC is their width
LENGTH = 4096  # of a vector that fits in the first-level cache
A_BYTES = MC_BYTES + MC_BYTES // (KC * MR * 4) * LINE  # of the workspace, with a line more for each panel:
B_BYTES = PANELS * (KC * ROW_BYTES + LINE)  # else the same row of all panels would fall in the same set of the cache
WORKSPACE_BYTES = A_BYTES + B_BYTES
UNROLL_PANELS, UNROLL_ROWS = 4, 8  # rows of A take more registers, which must be loaded again between
NEAR = 1 << 16  # bytes of B that are read again for every few rows of A without harm
ACCUMULATE, NARROW = 1, 2  # flags: the last says what `narrow` says of the whole of a product

MATRICES = [f"{matrix}_{field}" for matrix in "abc" for field in Matrix._fields]


def write_part(module: Any, dtype: str) -> None:
    """Write all functions of this file: `part`, and what it calls."""
    _write_copy(module, dtype)
    _write_fill(module, dtype, "fill_panels", ROW_BYTES // np.dtype(dtype).itemsize)
    _write_fill(module, dtype, "fill_rows", MR, local=True)
    for padded in False, True:
        _write_macro_kernel(module, dtype, padded)
    for write in _write_multiply, _write_dots, _write_part, _write_sum_rows:
        write(module, dtype)


def of_arguments(f: Function) -> tuple[list[Matrix], list[Int]]:
    """A, B, C and the other arguments of a function whose parameters begin with MATRICES."""
    return [Matrix(*f.arguments[i : i + 3]) for i in (0, 3, 6)], f.arguments[9:]


def _pick(f: Function, condition: Int, x: Matrix, y: Matrix) -> Matrix:
    """`x` if the condition holds, else `y`."""
    return Matrix(*(f.pick(condition, p, q) for p, q in zip(x, y)))


def _cut(f: Function, K: Int, narrow: Int) -> tuple[Int, Int]:
    """The number of rows of B to take at a time, K cut into equal parts of at most KC; and the length of a chain."""
    parts = f.most(1, (K + (KC - 1)) // KC)
    depth = f.most(1, (K + parts - 1) // parts)
    several = narrow & (K >= CHAINS * SHORTEST) & (K <= KC)
    return depth, f.pick(several, (K + (CHAINS - 1)) // CHAINS, depth)


def _write_multiply(module: Any, dtype: str) -> None:
    """multiply(A, B, C, M, N, K, accumulate): C[M, N] (+)= A[M, K] @ B[K, N], where B is packed.

    A and C have any strides; C must not overlap the operands. Without `accumulate`, C is overwritten, whatever it held.
    If M or N is not above zero, nothing is done; K below zero is zero.
    """
    f = Function(module, "multiply", [*MATRICES, "M", "N", "K", "accumulate"])
    (A, B, C), (M, N, K, accumulate) = of_arguments(f)
    f.need(M, N)
    K, size = f.most(K, 0), np.dtype(dtype).itemsize
    depth, chain = _cut(f, K, narrow(f, N, dtype) != 0)
    with f.either(A.col == size) as (in_place, else_on_the_stack):
        with in_place:
            f.call("multiply_rows", *A, *B, *C, M, N, K, accumulate, chain, 0, 0)
        with else_on_the_stack, f.loop(0, f.most(K, 1), depth) as k, f.loop(0, M, MR) as i:
            panel, rows, part = f.stack(KC * MR * size), f.least(MR, M - i), f.least(depth, K - k)
            f.call("fill_rows", *A.rest(i, k).transposed(), panel, 0, 0, part, rows)
            b, c, add = B.rest(k, 0), C.rest(i, 0), accumulate | f.pick(k > 0, 1, 0)
            f.call("multiply_panels", panel, 0, 0, *b, *c, rows, N, part, add, chain, 0, 0)
    f.give()


def _write_macro_kernel(module: Any, dtype: str, padded: bool) -> None:
    """multiply_rows(A, B, C, M, N, K, accumulate, chain, ahead, ahead_row): the same, if the rows of A are contiguous;
    multiply_panels(...): if A has been copied to panels of MR rows, `A.col` apart.

    Where the rows of C are not contiguous, blocks are computed on the stack. If M or N is not above zero, nothing is
    done; K below zero is zero; `chain`, the length of one, is at least 1. Rows at address `ahead`, and so many bytes
    apart, will be needed next: by default (0) those after each panel.
    """
    names = [*MATRICES, "M", "N", "K", "accumulate", "chain", "ahead", "ahead_row"]
    f = Function(module, "multiply_panels" if padded else "multiply_rows", names, local=True)
    (A, B, C), (M, N, K, accumulate, chain, ahead, ahead_row) = of_arguments(f)
    f.need(M, N)
    K, v = f.most(K, 0), Vectors(f, dtype)
    width, unroll = ROW_BYTES // v.size, UNROLL_PANELS if padded else UNROLL_ROWS
    below = A.col if padded else A.row * MR  # from one block of rows to the next
    A = Matrix(A.data, f.number(v.size), f.number(MR * v.size)) if padded else A._replace(col=f.number(v.size))
    wide = f.number(0) if padded else _write_one_row(v, A, B, C, M, N, K, accumulate, chain)
    # Where all of B stays close at hand, C is written in the order of its rows.
    blocks, columns = (M + (MR - 1)) // MR, (N - wide + (width - 1)) // width
    rowwise = K * N * v.size <= NEAR
    outer, inner = f.pick(rowwise, blocks, columns), f.pick(rowwise, columns, blocks)
    with f.loop(0, outer) as far, f.loop(0, f.most(K, 1), chain) as k, f.loop(0, inner) as near:
        block, j = f.pick(rowwise, far, near), f.pick(rowwise, near, far) * width + wide
        a, b, c = A.rest(0, k), B.rest(k, j // width), C.rest(block * MR, j)
        a, part = a._replace(data=a.data + below * block), f.least(chain, K - k)
        # The first blocks of rows fetch all rows of what comes next.
        step = f.pick(block < unroll, f.pick(ahead == 0, B.row, ahead_row), 0)
        start = f.pick(ahead == 0, b.data + B.row * part, ahead + j * v.size) + step * (block * (part // unroll))
        _write_block(
            v, a, b, c, f.least(MR, M - block * MR), f.least(width, N - j), part,
            (accumulate != 0) | (k > 0), padded, (start, step),
        )  # fmt: skip
    f.give()


def _write_one_row(
    v: Vectors, A: Matrix, B: Matrix, C: Matrix, M: Int, N: Int, K: Int, accumulate: Int, chain: Int
) -> Int:
    """The same where M is 1, by micro-kernels for one row; the number of columns that are then done."""
    f, width, one = v.f, ROW_BYTES // v.size, (M == 1) & (C.col == v.size)
    with f.when(one & (N <= width) & (chain < K)):
        with f.loop(0, K, chain * CHAINS) as k:
            operands, add = (A.rest(0, k), B.rest(k, 0), C, N, K - k), (accumulate != 0) | (k > 0)
            micro_kernel(v, Shape(1, VECTORS, CHAINS), 1, *operands, add, chain)
        f.give()
    wide = f.pick(one, N // (4 * width) * (4 * width), 0)
    with f.loop(0, wide, 4 * width) as j, f.loop(0, f.most(K, 1), chain) as k:
        part, add = f.least(chain, K - k), (accumulate != 0) | (k > 0)
        micro_kernel(v, Shape(1, WIDE), 1, A.rest(0, k), B.rest(k, j // width), C.rest(0, j), 4 * width, part, add)
    return wide


def _write_block(
    v: Vectors, A: Matrix, B: Matrix, C: Matrix, live: Int, cols: Int, K: Int, add: Int, padded: bool, ahead: Any
) -> None:
    """C[live, cols] (+)= A @ B for one block, by the micro-kernel that suits it. C has any strides."""
    f, size, contiguous = v.f, v.size, C.col == v.size
    spare = Matrix(f.stack(BLOCK_BYTES), ROW_BYTES, size)
    target = Matrix(f.pick(contiguous, C.data, spare.data), f.pick(contiguous, C.row, ROW_BYTES), size)
    operands = live, A, B, target, cols, K, add & contiguous
    if padded:
        micro_kernel(v, Shape(MR, VECTORS), *operands, unroll=UNROLL_PANELS, padded=True, ahead=ahead)
    else:
        with f.either(live <= HALF_MR) as (low, high):
            with low:
                micro_kernel(v, Shape(HALF_MR, VECTORS), *operands, unroll=UNROLL_ROWS // 2)
            with high, f.either((cols * 2 <= ROW_BYTES // size) & (VECTORS > 1)) as (narrow, wide_enough):
                with narrow:
                    micro_kernel(v, Shape(MR, 1), *operands)
                with wide_enough:
                    micro_kernel(v, Shape(MR, VECTORS), *operands, unroll=UNROLL_ROWS, ahead=ahead)
    with f.when(~contiguous), f.loop(0, live) as r, f.loop(0, cols) as s:
        place, total = C.rest(r, s).data, v.load(spare.rest(r, s).data, v.element)
        with f.either(add) as (more, first):
            with more:
                v.store(v.add(v.load(place, v.element), total), place)
            with first:
                v.store(total, place)


def _write_copy(module: Any, dtype: str) -> None:
    """copy(source, target, M, N): target[M, N] = source[M, N], where the rows of `target` are contiguous.

    If M or N is not above zero, nothing is done.
    """
    f = Function(module, "copy", [*MATRICES[:6], "M", "N"])
    source, target = Matrix(*f.arguments[:3]), Matrix(*f.arguments[3:6])
    M, N = f.arguments[6:]
    f.need(M, N)
    v = Vectors(f, dtype)
    by_rows, by_squares = source.col == v.size, (source.col != v.size) & (source.row == v.size)
    columns = N // v.lanes * v.lanes
    with f.loop(0, f.pick(by_rows, M, 0)) as i, f.loop(0, columns, v.lanes) as j:
        v.store(v.load(source.rest(i, j).data), target.rest(i, j).data)
    squares = f.pick(by_squares, M // v.lanes * v.lanes, 0)
    # Down one stripe after the other: so the processor sees few rows that it should fetch ahead.
    with f.loop(0, f.pick(squares > 0, columns, 0), v.lanes) as j, f.loop(0, squares, v.lanes) as i:
        transpose_square(v, source.rest(i, j).transposed(), target.rest(i, j))
    rows = f.pick(by_rows, M, squares)  # of the part that has been copied by vectors
    with f.loop(0, M) as i, f.loop(f.pick(i < rows, columns, 0), N) as j:
        v.copy(source.rest(i, j).data, target.rest(i, j).data)
    f.give()


def _write_fill(module: Any, dtype: str, name: str, width: int, local: bool = False) -> None:
    """fill_panels(B, panels, K, N): copy B[K, N] to panels of `width` columns, `K` contiguous rows each.

    Of the Matrix `panels`, `col` leads from one to the next.
    There are zeros where the last one has no columns: garbage may be slow to multiply. If K or N is not above zero,
    nothing is done. (`fill_rows` does so with A transposed, whose rows are then the columns of panels.)
    """
    f = Function(module, name, [*MATRICES[:6], "K", "N"], local)
    B, (panels, _, step), (K, N) = Matrix(*f.arguments[:3]), f.arguments[3:6], f.arguments[6:]
    f.need(K, N)
    v = Vectors(f, dtype, width)
    row = width * v.size
    # Rows that are contiguous are read through several panels, for the sake of the processor's look-ahead.
    whole = f.pick(B.col == v.size, N // width, 0)
    several = whole // PANELS * PANELS
    for first, last, count in (0, several, PANELS), (several, whole, 1):
        with f.loop(first, last, count) as start, f.loop(0, K) as k:
            for n in range(count):
                v.store(v.load(B.rest(k, (start + n) * width).data), panels + step * (start + n) + k * row)
    with f.loop(whole * width, N, width) as j:
        panel = Matrix(panels + step * (j // width), f.number(row), f.number(v.size))
        with f.when(N - j < width), f.loop(0, K) as k:
            v.store(v.zero, panel.data + k * row)
        f.call("copy", *B.rest(0, j), *panel, K, f.least(width, N - j))
    f.give()


def _write_sum_rows(module: Any, dtype: str) -> None:
    """sum_rows(A, y, first, M, N): y[first : first + N] = the sum of the rows of A[M, N], one after the other.

    Both are contiguous along N. If M or N is not above zero, nothing is done: y stays as it is.
    """
    f = Function(module, "sum_rows", [*MATRICES[:3], "y", "first", "M", "N"])
    A, (y, first, M, N) = Matrix(*f.arguments[:3]), f.arguments[3:]
    f.need(M, N)
    v, single = Vectors(f, dtype), Vectors(f, dtype, lanes=1)
    whole = N // v.lanes * v.lanes
    for vectors, start, stop in (v, 0, whole), (single, whole, N):
        with f.loop(start, stop, vectors.lanes) as j:
            total, column = vectors.variable(), A.rest(0, j)
            vectors.builder.store(vectors.load(column.data), total)
            with f.loop(1, M) as i:
                vectors.increase(total, vectors.load(column.rest(i, 0).data))
            vectors.store(vectors.value(total), y + (first + j) * v.size)
    f.give()


def narrow(f: Function, N: Int, dtype: str) -> Int:
    """The flag of a product that has no more columns than a panel."""
    return f.pick(N <= ROW_BYTES // np.dtype(dtype).itemsize, NARROW, 0)


def _write_dots(module: Any, dtype: str) -> None:
    """dots(A, B, C, M, N, K, accumulate, workspace): C[1, N] (+)= A[1, K] @ B[K, N]; the columns of B are contiguous.

    `M` is not looked at. If N is not above zero, nothing is done; K below zero is zero.
    """
    f = Function(module, "dots", [*MATRICES, "M", "N", "K", "accumulate", "workspace"], local=True)
    (A, B, C), (_, N, K, accumulate, workspace) = of_arguments(f)
    f.need(N)
    v, K = Vectors(f, dtype), f.most(K, 0)
    copied, x = A.col != v.size, Matrix(workspace, f.number(0), f.number(v.size))
    with f.loop(0, f.most(K, 1), LENGTH) as k:
        part, add = f.least(LENGTH, K - k), (accumulate != 0) | (k > 0)
        with f.when(copied):
            f.call("copy", *A.rest(0, k), *x, 1, part)
        with f.loop(0, N, MR) as j:
            columns = B.rest(k, j).transposed()
            x_k = _pick(f, copied, x, A.rest(0, k))
            inner_products(v, MR, f.least(MR, N - j), columns, x_k, C.rest(0, j), part, add)
    f.give()


def _write_part(module: Any, dtype: str) -> None:
    """part(A, B, C, M, N, K, flags, workspace): C[M, N] (+)= A[M, K] @ B[K, N] for any strides.

    `workspace` is the address of WORKSPACE_BYTES. This may be a part of the rows and columns of a product, and the flag
    NARROW says what `narrow` says of all of it. If M or N is not above zero, nothing is done; K below zero is zero.
    """
    f = Function(module, "part", [*MATRICES, "M", "N", "K", "flags", "workspace"], local=True)
    size = np.dtype(dtype).itemsize
    (A, B, C), (M, N, K, flags, workspace) = of_arguments(f)
    f.need(M, N)
    K = f.most(K, 0)
    width, (depth, chain) = ROW_BYTES // size, _cut(f, K, (flags & NARROW) != 0)
    accumulate = flags & ACCUMULATE

    def turn(condition: Int) -> None:  # C.T = B.T @ A.T
        nonlocal A, B, C, M, N
        A, B, C = (_pick(f, condition, x.transposed(), y) for x, y in ((B, A), (A, B), (C, C)))
        M, N = f.pick(condition, N, M), f.pick(condition, M, N)

    turn(N == 1)
    with f.when((M == 1) & (B.row == size)):  # both operands are contiguous along k, or can be made so
        f.call("dots", *A, *B, *C, M, N, K, accumulate, workspace)
        f.give()
    turn((C.col != size) & (C.row == size) & (M > 1))  # so that C is written by rows

    a_panels = Matrix(workspace, f.number(MR * size), f.number(KC * MR * size + LINE))
    b_panels = Matrix(workspace + A_BYTES, f.number(ROW_BYTES), f.number(KC * ROW_BYTES + LINE))
    copied = A.col != size
    direct = (M <= MR) & (B.col == size)  # a copy of B would be read only once
    ready = f.pick(direct, N // width * width, 0)  # columns of B that need no copy
    rows = f.pick(copied, MC_BYTES // (KC * size) // MR * MR, M)
    with f.loop(0, f.most(K, 1), depth) as k, f.loop(0, M, rows) as i:
        height, part, add = f.least(rows, M - i), f.least(depth, K - k), accumulate | f.pick(k > 0, 1, 0)

        def multiply(j: Any, cols: Int, b: Matrix, *ahead: Any) -> None:
            """Columns j : j + cols of these rows."""
            with f.either(copied) as (panels, in_place):
                with panels:
                    a, c = a_panels, C.rest(i, j)
                    f.call("multiply_panels", *a, *b, *c, height, cols, part, add, chain, *ahead)
                with in_place, f.loop(0, height, MC) as n:
                    a, c, some = A.rest(n, k), C.rest(n, j), f.least(MC, height - n)
                    f.call("multiply_rows", *a, *b, *c, some, cols, part, add, chain, *ahead)

        with f.when(copied):
            f.call("fill_rows", *A.rest(i, k).transposed(), *a_panels, part, height)
        with f.when(ready > 0):
            multiply(0, ready, Matrix(B.rest(k, 0).data, B.row, f.number(ROW_BYTES)), 0, 0)
        with f.loop(ready, N, PANELS * width) as j:
            cols = f.least(PANELS * width, N - j)
            f.call("fill_panels", *B.rest(k, j), *b_panels, part, cols)
            more = N - j > PANELS * width
            ahead = B.rest(f.pick(more, k, k + depth), f.pick(more, j + PANELS * width, ready))
            wanted = (B.col == size) & (more | (k + depth < K))
            multiply(j, cols, b_panels, f.pick(wanted, ahead.data, 0), ahead.row)
    f.give()
