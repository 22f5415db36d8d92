"""Matrix products: C = A @ B or C += A @ B, for float32 and float64 arrays of any shape and strides.

    matmul(a, b)                     # as NumPy's, with `out=` and `accumulate=`
    packed = pack(b)                 # once ...
    matmul_packed(a, packed)         # ... for many products with the same right operand

Loops around one tile (Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", 2008):

    for k in parts of K:                 # DEPTH rows of a panel of B fit in the first-level cache
        for j in parts of N:             # copy B to panels, ROW_BYTES wide, whose rows are contiguous ...
            for i in parts of M:         # ... and A, unless its rows are contiguous as they are: HEIGHT rows of it
                for panel in part of N:  # `multiply`                       fit in the second-level cache
                    for rows in part of M:
                        tile             # a block of C is held in registers while k runs

A transposed operand costs nothing but another way to copy it. What would be read only once is not copied at all.

Every element of C is the same sum in the same order - chains of at most DEPTH multiply-adds along k, the chains added
one by one - wherever it lies and however rows and columns are cut. So results do not depend on the number of threads,
nor on the other rows of a batch, to the last bit. (Products of a row and a column that are both contiguous along k
are summed lane by lane: there they depend on the shape, but not on threads.)

Inside compiled code:

    from tinygrad_rnn.kernels.matmul import matrix, multiply, panels, shift

    @njit(**JIT)
    def some_rows(h, packed, y, lo, hi, N, K):    # arrays h [M, K], y [M, N]; packed is pack(b).panels
        multiply(shift(matrix(h), lo, 0), panels(packed), shift(matrix(y), lo, 0), hi - lo, N, K, True)  # y += h @ b

`matrix_at(np.float32, address, row, col)` makes a Matrix of a raw address and two strides in bytes. The bits are those
of `matmul_packed`; no memory is allocated; a few hundred rows at a time keep A in the cache.
"""

# Intrinsics are called without their first parameter, Numba's typing context; mypy does not know.
# mypy: disable-error-code="call-arg,unreachable,var-annotated"

import math
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import config, njit
from numpy.lib.stride_tricks import as_strided

from . import cache, threads
from .memory import JIT
from .threads import get_num_threads, set_num_threads
from .vector import (
    HALF_ROWS,
    HOST,
    ROW_BYTES,
    ROWS,
    VECTORS,
    WIDE,
    Matrix,
    add_element,
    clear_row,
    copy_element,
    copy_vector,
    inner_products,
    matrix,
    matrix_at,
    panels,
    shift,
    size_of,
    stack_block,
    tile,
    transpose_square,
)  # fmt: skip

DEPTH = 256  # rows of a panel of B, which then fits in the first-level cache
HEIGHT = 128 // ROWS * ROWS  # rows of A that fit in the second-level cache ...
GROUP = 16  # ... beside this many panels
LENGTH = 4096  # of a vector that fits in the first-level cache
ROOM_BYTES = (HEIGHT * 8 + GROUP * ROW_BYTES) * DEPTH  # for copies of a part of A, float64 at most, and of B
ONE_THREAD = 16_000_000  # multiply-adds below which a second thread does not pay: some 0.2 ms

__all__ = [
    "Matrix", "Packed", "get_num_threads", "matmul", "matmul_packed", "matrix", "matrix_at", "multiply", "pack",
    "panels", "set_num_threads", "shift",
]  # fmt: skip

INNER = JIT | dict(no_cpython_wrapper=True, no_cfunc_wrapper=True)  # called from compiled code only: compiles faster


@njit(inline="always", **INNER)
def depth_of(K):
    """The number of rows of B to take at a time: K cut into equal parts of at most DEPTH."""
    parts = max(1, (K + DEPTH - 1) // DEPTH)
    return max(1, (K + parts - 1) // parts)


@njit(**INNER)
def multiply(A, B, C, M, N, K, accumulate):
    """C[M, N] (+)= A[M, K] @ B[K, N], where B is packed: `panels(pack(b).panels)`.

    A and C are Matrix tuples of any strides; C must not overlap the operands. With accumulate=False, C is overwritten,
    whatever it held. Blocks that stick out of C, or whose rows are not contiguous there, are computed on the stack.
    """
    size = size_of(C)
    width = ROW_BYTES // size
    depth = depth_of(K)
    spare = stack_block(C)
    j = 0
    while j < N:
        cols = min(width, N - j)
        whole = cols == width and C.col == size
        wide = M == 1 and whole and N - j >= 4 * width
        for k in range(0, max(K, 1), depth):
            b, part, add = shift(B, k, j // width), min(depth, K - k), accumulate or k > 0
            for i in range(0, M, ROWS):
                a, c = shift(A, i, k), shift(C, i, j)
                if wide:
                    tile(1, WIDE, 1, a, b, c, part, add)
                    continue
                live = min(ROWS, M - i)
                half = live <= HALF_ROWS
                inside = whole and live == (HALF_ROWS if half else ROWS)
                block = c if inside else spare
                if half:
                    tile(HALF_ROWS, VECTORS, live, a, b, block, part, inside and add)
                else:
                    tile(ROWS, VECTORS, live, a, b, block, part, inside and add)
                if not inside:
                    for r in range(live):
                        for s in range(cols):
                            if add:
                                add_element(shift(spare, r, s), shift(c, r, s))
                            else:
                                copy_element(shift(spare, r, s), shift(c, r, s))
        j += 4 * width if wide else width


@njit(**INNER)
def copy(source, target, M, N):
    """target[M, N] = source[M, N], where the rows of `target` are contiguous and those of `source` anything."""
    size = size_of(source)
    lanes = HOST.bytes // size
    rows = cols = 0  # of the part that is copied by vectors
    if source.col == size:
        rows, cols = M, N // lanes * lanes
        for i in range(rows):
            for j in range(0, cols, lanes):
                copy_vector(shift(source, i, j), shift(target, i, j))
    elif source.row == size:
        rows, cols = M // lanes * lanes, N // lanes * lanes
        flipped = Matrix(source.data, source.col, source.row)
        for i in range(0, rows, lanes):
            for j in range(0, cols, lanes):
                transpose_square(shift(flipped, j, i), shift(target, i, j))
    for i in range(M):
        for j in range(cols if i < rows else 0, N):
            copy_element(shift(source, i, j), shift(target, i, j))


@njit(**INNER)
def fill_panels(B, panels, K, N):
    """Copy B[K, N] to panels, with zeros where the last one has no columns: garbage may be slow to multiply."""
    size = size_of(B)
    width = ROW_BYTES // size
    for j in range(0, N, width):
        panel = Matrix(shift(panels, 0, j // width).data, ROW_BYTES, size)
        if N - j < width:
            for k in range(K):
                clear_row(shift(panel, k, 0))
        copy(shift(B, 0, j), panel, K, min(width, N - j))


@njit(inline="always", **INNER)
def product(A, B, C, M, N, K, accumulate, packed, room, dtype):
    """C[M, N] (+)= A[M, K] @ B[K, N] for matrices of any strides, or B packed. `room` is ROOM_BYTES of memory."""
    size = size_of(C)
    width = ROW_BYTES // size
    room_a = matrix_at(dtype, room, DEPTH * size, size)
    room_b = matrix_at(dtype, room + HEIGHT * DEPTH * size, ROW_BYTES, DEPTH * ROW_BYTES)
    if N == 1 and not packed:  # C.T = B.T @ A.T is a single row
        A, B, C = Matrix(B.data, B.col, B.row), Matrix(A.data, A.col, A.row), Matrix(C.data, C.col, C.row)
        M, N = 1, M
    if M == 1 and B.row == size and not packed:  # both operands are contiguous along k
        for k in range(0, max(K, 1), LENGTH):
            a, part = shift(A, 0, k), min(LENGTH, K - k)
            if A.col != size:
                copy(a, room_a, M, part)
                a = room_a
            for j in range(0, N, ROWS):
                columns = Matrix(shift(B, k, j).data, B.col, B.row)
                inner_products(ROWS, min(ROWS, N - j), columns, a, shift(C, 0, j), part, accumulate or k > 0)
        return
    direct = M <= ROWS and B.col == size  # a copy of B would be read only once
    copy_a = A.col != size and N > width
    depth = depth_of(K)
    for k in range(0, max(K, 1), depth):
        part = min(depth, K - k)
        j = 0
        while j < N:
            if packed:
                b, cols = shift(B, k, 0), N
            elif direct and N - j >= width:
                b, cols = Matrix(shift(B, k, j).data, B.row, ROW_BYTES), N // width * width
            else:
                b, cols = room_b, min(GROUP * width if M > HEIGHT or copy_a else width, N - j)
                fill_panels(shift(B, k, j), room_b, part, cols)
            for i in range(0, M, HEIGHT):
                a, height = shift(A, i, k), min(HEIGHT, M - i)
                if copy_a:
                    copy(a, room_a, height, part)
                    a = room_a
                multiply(a, b, shift(C, i, j), height, cols, part, accumulate or k > 0)
            j += cols


# From here on: Python. Whoever calls has checked the shapes; what is checked again here guards memory.

ENTRIES = '''\
"""From Python into compiled code, for {dtype} and {registers} registers."""

from numba import njit, types
from numpy import {dtype}

from tinygrad_rnn.kernels import matmul
from tinygrad_rnn.kernels.vector import ROW_BYTES, Matrix, matrix, panels, skip

MATRIX, PANELS = types.Array(types.{dtype}, 2, "A"), types.Array(types.{dtype}, 3, "C")
FLAG, INT = types.boolean, types.int64

'''
PRODUCTS = '''
@njit(types.void(MATRIX, MATRIX, MATRIX, FLAG, FLAG, INT, INT, INT, INT, INT), cache=CACHE, **matmul.JIT)
def entry(a, b, c, accumulate, packed, room, count, a_step, b_step, c_step):
    """c (+)= a @ b for 2-d arrays, and for `count` - 1 more of each that lie the given steps further on, in bytes."""
    A, B, C = matrix(a), matrix(b), matrix(c)
    if packed:  # b is [panels, K * width]
        B = Matrix(B.data, ROW_BYTES, B.row)
    (M, N), K = c.shape, a.shape[1]
    for n in range(count):
        a_n, b_n, c_n = skip(A, n * a_step), skip(B, n * b_step), skip(C, n * c_step)
        matmul.product(a_n, b_n, c_n, M, N, K, accumulate, packed, room, {dtype})
'''
FILL = '''
@njit(types.void(MATRIX, PANELS), cache=CACHE, **matmul.JIT)
def entry(b, packed):
    """Copy b[K, N] to packed[panels, K, width]."""
    matmul.fill_panels(matrix(b), panels(packed), *b.shape)
'''


class _Entry(dict[np.dtype[Any], Callable[..., None]]):
    """dtype -> compiled function, made at the first use of the dtype."""

    def __init__(self, name: str, source: str, interpreted: Callable[..., None]) -> None:
        self.name, self.source, self.interpreted = name, source, interpreted
        self.lock = threading.Lock()

    def __missing__(self, dtype: np.dtype[Any]) -> Callable[..., None]:
        if dtype not in (np.float32, np.float64) or not dtype.isnative:
            raise TypeError(f"matmul: expected float32 or float64 arrays, got {dtype}")
        with self.lock:
            self[dtype] = self.interpreted if config.DISABLE_JIT else self._load(dtype)
        return self[dtype]

    def _load(self, dtype: np.dtype[Any]) -> Callable[..., None]:
        source = (ENTRIES + self.source).format(dtype=dtype.name, registers=HOST.name)
        module = cache.load(source, f"{self.name}_{dtype.name}")
        # Not the dispatcher: to find out the types of all arguments takes it longer than a small product.
        (compiled,) = module.entry.overloads.values()
        return compiled.entry_point


def _interpreted_products(a, b, c, accumulate, packed, room, count, a_step, b_step, c_step):
    """NumPy's product, for NUMBA_DISABLE_JIT=1: summed in another order, so the last bits differ."""
    a, b, c = (
        as_strided(x, (count, *x.shape), (step, *x.strides)) for x, step in ((a, a_step), (b, b_step), (c, c_step))
    )
    if packed:
        panels, K, width = b.shape[1], a.shape[2], ROW_BYTES // c.itemsize
        b = b.reshape(panels, K, width).transpose(1, 0, 2).reshape(1, K, panels * width)[:, :, : c.shape[2]]
    product = np.matmul(a, b)
    c[...] = c + product if accumulate else product


def _interpreted_fill(b, packed):
    width = packed.shape[2]
    for j in range(b.shape[1]):
        packed[j // width, :, j % width] = b[:, j]


_products = _Entry("products", PRODUCTS, _interpreted_products)
_fill = _Entry("fill", FILL, _interpreted_fill)


def _lines(size: int) -> np.ndarray:
    """`size` bytes of zeros that begin with a cache line."""
    array = np.zeros(size + 64, np.uint8)
    start = -array.ctypes.data % 64
    return array[start : start + size]


class _Room(threading.local):
    """Memory of a thread for copies of parts of the operands, kept: fresh pages would cost as much as the product."""

    def __init__(self) -> None:
        self.array = _lines(ROOM_BYTES)
        self.address = self.array.ctypes.data


_room = _Room()


class Packed(NamedTuple):
    """The right operand [K, N] of a product, cut into panels with contiguous rows: `panels` is [panels, K, width].

    The last panel is filled up with zeros. In compiled code: `vector.panels(packed.panels)`.
    """

    panels: np.ndarray
    shape: tuple[int, int]


def matmul(a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None, accumulate: bool = False) -> np.ndarray:
    """out (+)= a @ b.

    Args:
        a, b: [..., M, K] and [..., K, N] of the same dtype, float32 or float64, of any strides. Batch dimensions
            broadcast like NumPy's.
        out: [..., M, N], of any strides; it may overlap the operands. By default a new array.
        accumulate: add the product to `out` instead of overwriting it.

    Raises:
        TypeError: the dtypes differ or are neither float32 nor float64.
        ValueError: the shapes do not fit, or `accumulate` without `out`.
    """
    dtype = a.dtype
    if a.ndim == 2 == b.ndim and out is None and b.dtype == dtype and not accumulate:
        (M, K), (rows, N) = a.shape, b.shape
        if rows == K and M * N * K < ONE_THREAD:  # a short cut: the rest would take longer than a small product
            out = np.empty((M, N), dtype)
            _products[dtype](a, b, out, False, False, _room.address, 1, 0, 0, 0)
            return out
    if b.dtype != dtype:
        raise TypeError(f"matmul(a, b): dtypes differ: a is {dtype}, b is {b.dtype}")
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise ValueError(f"matmul(a, b): inner dimensions differ: a is {list(a.shape)}, b is {list(b.shape)}")
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2]) if a.ndim > 2 or b.ndim > 2 else ()
    c = target = _target(out, (*batch, a.shape[-2], b.shape[-1]), dtype, accumulate, a, b)
    if c.size:
        if batch and b.ndim == 2 and a.flags.c_contiguous and c.flags.c_contiguous:  # one product over all rows
            rows = math.prod(a.shape[:-1])
            a, c, batch = a.reshape(rows, b.shape[0]), c.reshape(rows, b.shape[1]), ()
        _run(a, b, c, batch, accumulate, packed=False)
    return _deliver(target, out)


def pack(b: np.ndarray) -> Packed:
    """Prepare `b` [K, N], of any strides, to be the right operand of many products; `pack(w.T)` costs no more.

    Raises:
        TypeError: `b` is neither float32 nor float64.
    """
    K, N = b.shape
    width = ROW_BYTES // b.itemsize
    shape = (-(-N // width), K, width)
    panels = _lines(math.prod(shape) * b.itemsize).view(b.dtype).reshape(shape)
    _fill[b.dtype](b, panels)
    return Packed(panels, (K, N))


def matmul_packed(
    a: np.ndarray, packed: Packed, out: np.ndarray | None = None, accumulate: bool = False
) -> np.ndarray:
    """out (+)= a @ b, where `packed` is `pack(b)` and `a` is [M, K]. For arguments and errors see `matmul`."""
    panels, (K, N) = packed
    if panels.dtype != a.dtype:
        raise TypeError(f"matmul_packed(a, b): dtypes differ: a is {a.dtype}, b is {panels.dtype}")
    if a.ndim != 2 or a.shape[1] != K:
        raise ValueError(f"matmul_packed(a, b): inner dimensions differ: a is {list(a.shape)}, b is {[K, N]}")
    target = _target(out, (a.shape[0], N), a.dtype, accumulate, a)
    if target.size:
        _run(a, panels.reshape(len(panels), K * panels.shape[2]), target, (), accumulate, packed=True)
    return _deliver(target, out)


def _target(
    out: np.ndarray | None, shape: tuple[int, ...], dtype: np.dtype[Any], accumulate: bool, *operands: np.ndarray
) -> np.ndarray:
    """The array to write to: `out`, or one that overlaps no operand."""
    if out is None:
        if accumulate:
            raise ValueError("matmul(a, b, accumulate=True): there is nothing to add to without `out`")
        return np.empty(shape, dtype)
    if out.shape != shape or out.dtype != dtype or not out.flags.writeable:
        raise ValueError(
            f"matmul(a, b, out): expected a writable array {list(shape)} of {dtype}, "
            f"got {list(out.shape)} of {out.dtype}"
        )
    if any(np.may_share_memory(out, x) for x in operands):
        return out.copy() if accumulate else np.empty(shape, dtype)
    return out


def _deliver(target: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    if out is None:
        return target
    if target is not out:
        out[...] = target
    return out


Stack = tuple[np.ndarray, np.ndarray, np.ndarray]  # a, b and c with one batch dimension


def _run(
    a: np.ndarray, b: np.ndarray, c: np.ndarray, batch: tuple[int, ...], accumulate: bool, packed: bool
) -> None:
    """c (+)= a @ b, on several threads if the work is worth it."""
    entry, work = _products[c.dtype], c.size * a.shape[-1]
    if work < ONE_THREAD and not batch:
        entry(a, b, c, accumulate, packed, _room.address, 1, 0, 0, 0)
        return
    stacks = _stacks(a, b, c, batch)
    if parallel := work >= ONE_THREAD and get_num_threads() > 1:
        pieces = get_num_threads() * min(4, 1 + work // (16 * ONE_THREAD))  # small ones balance better, and cost more
        stacks = [part for stack in stacks for part in _cut(stack, -(-pieces // len(stacks)), packed)]

    def task(i: int) -> None:
        a, b, c = stacks[i]
        entry(a[0], b[0], c[0], accumulate, packed, _room.address, len(c), a.strides[0], b.strides[0], c.strides[0])

    if parallel:
        threads.run(task, len(stacks))
    else:
        for i in range(len(stacks)):
            task(i)


def _stacks(a: np.ndarray, b: np.ndarray, c: np.ndarray, batch: tuple[int, ...]) -> list[Stack]:
    """The operands with their last batch dimension, for every index into the others."""
    if not batch:
        return [(a[None], b[None], c[None])]
    a, b = (np.broadcast_to(x, batch + x.shape[-2:]) for x in (a, b))
    return [(a[i], b[i], c[i]) for i in np.ndindex(batch[:-1])]


def _cut(stack: Stack, pieces: int, packed: bool) -> list[Stack]:
    """Cut the batch, the columns or the rows of a product into at most `pieces` parts; never K.

    Columns and rows are cut into whole panels and whole blocks, so that no part is a single row or column of something
    larger: that would be summed in another order.
    """
    a, b, c = stack
    batch, M, N = c.shape
    width = ROW_BYTES // c.itemsize
    if batch >= pieces:
        return [(a[i:j], b[i:j], c[i:j]) for i, j in _ranges(batch, pieces, 1)]
    if N // width >= M // ROWS:
        of_b = (lambda i, j: b[:, i // width : -(-j // width)]) if packed else (lambda i, j: b[:, :, i:j])
        return [(a, of_b(i, j), c[:, :, i:j]) for i, j in _ranges(N, pieces, 4 * width)]
    return [(a[:, i:j], b, c[:, i:j]) for i, j in _ranges(M, pieces, 8 * ROWS)]


def _ranges(n: int, pieces: int, unit: int) -> list[tuple[int, int]]:
    """Cut range(n) into at most `pieces` ranges at multiples of `unit`; only the last one ends elsewhere."""
    pieces = max(1, min(pieces, n // unit))
    starts = [n * i // pieces // unit * unit for i in range(pieces)]
    return list(zip(starts, [*starts[1:], n]))
