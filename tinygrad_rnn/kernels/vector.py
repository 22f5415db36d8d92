"""Vector registers in machine code: which ones this machine has, and the loops that must stay inside them.

Everything here writes its instructions into a `machine.Function`. LLVM vectorises simple loops by itself, but it does
not keep a block of a matrix product in registers; `tile`, which does, is where nearly all of the time of a matrix
product goes.

A matrix in memory is a `Matrix`: an address and two strides in bytes. Nothing here checks bounds. Counts of zero and
below are nothing to do; sums over none are zero.
"""

import ctypes
import functools
import os
import re
import time
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir

from .machine import Function, Int, Library
from .processor import assembly


class Registers(NamedTuple):
    """What the machine has, and the block of C that it keeps in registers: `rows` rows of `vectors` vectors.

    The block's accumulators must leave room for `vectors` vectors of B and one broadcast element of A; they should be
    at least 8, so that two fused multiply-adds a cycle can be under way for four cycles.
    """

    name: str
    bytes: int
    rows: int
    vectors: int
    fma: bool  # without the instruction, LLVM would call a slow library function for it


KINDS = {
    kind.name: kind
    for kind in (
        Registers("avx512", 64, 8, 2, True),  # 32 registers
        Registers("avx2", 32, 6, 2, True),  # 16
        Registers("avx", 32, 4, 2, False),  # 16, one of them for the product
        Registers("sse2", 16, 4, 2, False),  # 16, likewise
        Registers("neon", 16, 8, 2, True),  # 32
        Registers("generic", 16, 4, 1, False),  # perhaps no vectors at all: LLVM then takes them apart
    )
}


# A kind is known by how x * y + z of 64 bytes is computed. A list of features would not say: names imply some of them.
_SIXTEEN_FLOATS = """
define <16 x float> @f(<16 x float> %x, <16 x float> %y, <16 x float> %z) {
  %product = fmul contract <16 x float> %x, %y
  %sum = fadd contract <16 x float> %product, %z
  ret <16 x float> %sum
}"""
_SIGNS = {"avx512": "zmm", "avx2": r"vfn?m\S+ps\s.*ymm", "avx": "ymm", "sse2": r"mulps\s.*xmm", "neon": r"fmla\S*\s+v"}


def _host() -> Registers:
    """The widest kind that the `processor` has, or the one named by $TINYGRAD_RNN_VECTORS (slower, for tests)."""
    if chosen := os.environ.get("TINYGRAD_RNN_VECTORS"):
        if chosen not in KINDS:
            raise ValueError(f"TINYGRAD_RNN_VECTORS is {chosen!r}, expected one of {', '.join(KINDS)}")
        return KINDS[chosen]
    code = assembly(_SIXTEEN_FLOATS)
    return KINDS[next((name for name, sign in _SIGNS.items() if re.search(sign, code)), "generic")]


HOST = _host()
ROWS, VECTORS = HOST.rows, HOST.vectors  # of the block of C
HALF_ROWS = ROWS // 2
WIDE = 4 * VECTORS  # vectors of a single row that fill the registers likewise
CHAINS = 4  # that do so for a row of VECTORS vectors
ROW_BYTES = VECTORS * HOST.bytes  # of the block of C, and of the panel of B that it is computed from
BLOCK_BYTES = ROWS * ROW_BYTES


class Matrix(NamedTuple):
    """Where a matrix lies: element [i, j] is `i * row + j * col` bytes (of either sign) after `data`, an address."""

    data: Any
    row: Any
    col: Any

    def rest(self, i: Any, j: Any) -> "Matrix":
        """The rest of the matrix from element [i, j] on."""
        return Matrix(self.data + self.row * i + self.col * j, self.row, self.col)

    def transposed(self) -> "Matrix":
        return Matrix(self.data, self.col, self.row)


class Vectors:
    """Writes loads, stores and arithmetic on vectors of one element type. Addresses need no alignment."""

    def __init__(self, f: Function, dtype: str, lanes: int = 0) -> None:
        self.f, self.builder = f, f.builder
        self.element = ir.FloatType() if dtype == "float32" else ir.DoubleType()
        self.name, self.size = ("f32", 4) if dtype == "float32" else ("f64", 8)
        self.lanes = lanes or HOST.bytes // self.size
        self.vector = ir.VectorType(self.element, self.lanes)
        self.zero = ir.Constant(self.vector, None)
        self.undefined = ir.Constant(self.vector, ir.Undefined)
        self.mask = ir.VectorType(ir.IntType(1), self.lanes)

    def load(self, address: Int, kind: Any = None) -> Any:
        return self.builder.load(self.f.pointer(address, kind or self.vector), align=1)

    def store(self, value: Any, address: Int) -> None:
        self.builder.store(value, self.f.pointer(address, value.type), align=1)

    def copy(self, source: Int, target: Int) -> None:
        """Copy a single element."""
        self.store(self.load(source, self.element), target)

    def first_lanes(self, n: Int) -> Any:
        """A mask that is true in the first `n` lanes: in none of them if n is zero or below."""
        numbers = ir.Constant(ir.VectorType(ir.IntType(64), self.lanes), list(range(self.lanes)))
        return self.builder.icmp_signed("<", numbers, self._repeat(n.value, numbers.type))

    def load_where(self, mask: Any, address: Int) -> Any:
        """A vector, zero where the mask is false: that memory is not touched."""
        pointer = self.f.pointer(address, self.vector)
        kinds = [pointer.type, ir.IntType(32), self.mask, self.vector]
        load = self._intrinsic(f"llvm.masked.load.v{self.lanes}{self.name}.p0", self.vector, kinds)
        return self.builder.call(load, [pointer, ir.Constant(kinds[1], 1), mask, self.zero])

    def store_where(self, mask: Any, value: Any, address: Int) -> None:
        pointer = self.f.pointer(address, self.vector)
        kinds = [self.vector, pointer.type, ir.IntType(32), self.mask]
        store = self._intrinsic(f"llvm.masked.store.v{self.lanes}{self.name}.p0", ir.VoidType(), kinds)
        self.builder.call(store, [value, pointer, ir.Constant(kinds[2], 1), mask])

    def _intrinsic(self, name: str, result: Any, kinds: list[Any]) -> Any:
        known = self.f.module.globals.get(name)
        return known if known is not None else ir.Function(self.f.module, ir.FunctionType(result, kinds), name)

    def variable(self) -> Any:
        """A vector variable, zero whenever this place is passed. LLVM keeps it in a register."""
        with self.builder.goto_entry_block():
            place = self.builder.alloca(self.vector)
        self.builder.store(self.zero, place)
        return place

    def value(self, variable: Any) -> Any:
        return self.builder.load(variable)

    def add(self, x: Any, y: Any) -> Any:
        return self.builder.fadd(x, y)

    def broadcast(self, scalar: Any) -> Any:
        return self._repeat(scalar, self.vector)

    def _repeat(self, scalar: Any, kind: Any) -> Any:
        undefined = ir.Constant(kind, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
        return self.shuffle(first, undefined, [0] * self.lanes)

    def shuffle(self, x: Any, y: Any, lanes: list[int]) -> Any:
        return self.builder.shuffle_vector(
            x, y, ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), lanes)
        )

    def prefetch(self, address: Int) -> None:
        """Fetch the cache line of an address that will be written. No address faults."""
        pointer = self.f.pointer(address, ir.IntType(8))
        kinds = [pointer.type] + [ir.IntType(32)] * 3
        to_write, keep_close, data = (ir.Constant(ir.IntType(32), n) for n in (1, 3, 1))
        prefetch = self._intrinsic("llvm.prefetch.p0", ir.VoidType(), kinds)
        self.builder.call(prefetch, [pointer, to_write, keep_close, data])

    def multiply_add(self, x: Any, y: Any, variable: Any) -> None:
        """variable += x * y."""
        if HOST.fma:
            fma = self._intrinsic(f"llvm.fma.v{self.lanes}{self.name}", self.vector, [self.vector] * 3)
            total = self.builder.call(fma, [x, y, self.value(variable)])
        else:
            total = self.builder.fadd(self.value(variable), self.builder.fmul(x, y))
        self.builder.store(total, variable)

    def sums(self, vectors: list[Any]) -> list[Any]:
        """The sums over the lanes of each of the vectors. Every round adds neighbours, of two vectors at a time."""
        totals = []
        for start in range(0, len(vectors), self.lanes):
            batch = vectors[start : start + self.lanes]
            left = batch + [self.zero] * (self.lanes - len(batch))
            while len(left) > 1:
                left = [self._neighbours(x, y) for x, y in zip(left[::2], left[1::2])]
            totals += [
                self.builder.extract_element(left[0], ir.Constant(ir.IntType(32), i)) for i in range(len(batch))
            ]
        return totals

    def _neighbours(self, x: Any, y: Any) -> Any:
        even, odd = (self.shuffle(x, y, list(range(first, 2 * self.lanes, 2))) for first in (0, 1))
        return self.builder.fadd(even, odd)


def tile(
    v: Vectors, rows: int, vectors: int, live: Any, A: Matrix, B: Matrix, C: Matrix, cols: Any, K: Int, add: Int
) -> None:
    """C (+)= A[rows, K] @ B[K, vectors * lanes] with C in registers meanwhile: K outer products, each a fused
    multiply-add per vector of C.

    Args:
        rows, vectors: of the block. The registers must hold their product, and `vectors` more.
        live, cols: the rows of A and the columns of C that exist; nothing is done unless both are above zero. The last
            row is computed, and written, in place of those that do not; nothing is read or written in place of the
            columns that do not.
        B: rows of panels, VECTORS contiguous vectors each; `col` leads from one panel to the next.
        C: its rows are contiguous.
        add: add to C; otherwise it is overwritten, whatever it held.
    """
    f = v.f
    with f.when((f.number(live) > 0) & (f.number(cols) > 0)):
        row = [f.least(i, f.number(live) - 1) if i else f.number(0) for i in range(rows)]
        a_rows = [A.data + A.row * i for i in row]
        b_columns = [B.data + B.col * (j // VECTORS) + j % VECTORS * HOST.bytes for j in range(vectors)]
        c_blocks = {(i, j): C.data + C.row * row[i] + j * HOST.bytes for i in range(rows) for j in range(vectors)}
        sums = {place: v.variable() for place in c_blocks}
        for address in c_blocks.values():
            v.prefetch(address)
        with f.loop(0, K) as k:
            b_k = [v.load(b + B.row * k) for b in b_columns]
            for i in range(rows):
                a_ik = v.broadcast(v.load(a_rows[i] + A.col * k, v.element))
                for j in range(vectors):
                    v.multiply_add(a_ik, b_k[j], sums[i, j])

        def deliver(load: Any, store: Any) -> None:
            with f.when(add):  # all rows before any is written: one may stand for others
                for (i, j), address in c_blocks.items():
                    v.builder.store(v.add(load(j, address), v.value(sums[i, j])), sums[i, j])
            for (i, j), address in c_blocks.items():
                store(j, v.value(sums[i, j]), address)

        with f.either(f.number(cols) >= vectors * v.lanes) as (whole, part):
            with whole:
                deliver(lambda j, address: v.load(address), lambda j, value, address: v.store(value, address))
            with part:
                masks = [v.first_lanes(f.number(cols) - j * v.lanes) for j in range(vectors)]
                deliver(
                    lambda j, address: v.load_where(masks[j], address),
                    lambda j, value, address: v.store_where(masks[j], value, address),
                )


def chained_row(v: Vectors, A: Matrix, B: Matrix, C: Matrix, cols: Int, K: Int, chain: Int, add: Int) -> None:
    """C (+)= A[1, K] @ B[K, cols], the first CHAINS chains along k side by side: the bits of one `tile` after another.

    Args:
        cols: at most those of a panel; nothing is done unless they are above zero.
        K: what is left of it; there may be fewer chains, and less of the last.
        chain: how many multiply-adds it has.
    """
    f, vectors = v.f, range(VECTORS)
    with f.when(cols > 0):
        left = [f.most(0, f.least(chain, K - chain * c)) for c in range(CHAINS)]
        rows = [(A.rest(0, chain * c), B.rest(chain * c, 0)) for c in range(CHAINS)]
        sums = [[v.variable() for _ in vectors] for _ in range(CHAINS)]

        def go(k: Int, c: int) -> None:
            a, b = rows[c]
            a_k = v.broadcast(v.load(a.rest(0, k).data, v.element))
            for j in vectors:
                v.multiply_add(a_k, v.load(b.rest(k, 0).data + j * HOST.bytes), sums[c][j])

        with f.loop(0, left[-1]) as k:
            for c in range(CHAINS):
                go(k, c)
        for c in range(CHAINS - 1):
            with f.loop(left[-1], left[c]) as k:
                go(k, c)
        for j in vectors:
            mask, address = v.first_lanes(cols - j * v.lanes), C.data + j * HOST.bytes
            with f.when(add):
                v.builder.store(v.add(v.load_where(mask, address), v.value(sums[0][j])), sums[0][j])
            for c in range(1, CHAINS):
                with f.when(left[c] > 0):
                    v.builder.store(v.add(v.value(sums[0][j]), v.value(sums[c][j])), sums[0][j])
            v.store_where(mask, v.value(sums[0][j]), address)


def inner_products(v: Vectors, rows: int, live: Int, A: Matrix, x: Matrix, y: Matrix, K: Int, add: Int) -> None:
    """y[i] (+)= sum over k of A[i, k] x[k] for the `live` rows of a block: A and x are contiguous along k.

    The lanes hold partial sums over k, so the order of summation differs from `tile`.

    Args:
        rows: the most that `live` may be; nothing is done unless that is above zero.
        x, y: a Matrix of one row.
    """
    f = v.f
    single, K = Vectors(f, {4: "float32", 8: "float64"}[v.size], lanes=1), f.most(K, 0)
    with f.when(live > 0):
        a_rows = [A.data + A.row * f.least(i, live - 1) for i in range(rows)]
        sums, tails = ([vectors.variable() for _ in range(rows)] for vectors in (v, single))
        whole = K // v.lanes * v.lanes
        for vectors, totals, start, stop in (v, sums, 0, whole), (single, tails, whole, K):
            with f.loop(start, stop, vectors.lanes) as k:
                x_k = vectors.load(x.data + k * v.size)
                for i in range(rows):
                    vectors.multiply_add(vectors.load(a_rows[i] + k * v.size), x_k, totals[i])
        totals = v.sums([v.value(z) for z in sums])
        for i, tail in enumerate(single.sums([single.value(z) for z in tails])):
            total, address = v.add(totals[i], tail), y.data + y.col * i
            with f.when(live > i):
                before = v.load(address, v.element)
                v.store(v.builder.select(add.value, v.add(before, total), total), address)


def transpose_square(v: Vectors, source: Matrix, target: Matrix) -> None:
    """target[j, i] = source[i, j] for a square of lanes x lanes elements; the rows of both are contiguous.

    Log2(lanes) rounds exchange the off-diagonal quarters of 2 x 2, then 4 x 4, ... squares.
    """
    lanes = range(v.lanes)
    rows = [v.load(source.data + source.row * i) for i in lanes]
    step = 1
    while step < v.lanes:
        upper = [v.lanes + i - step if i & step else i for i in lanes]
        lower = [v.lanes + i if i & step else i + step for i in lanes]
        for i in lanes:
            if not i & step:
                pair = rows[i], rows[i + step]
                rows[i], rows[i + step] = v.shuffle(*pair, upper), v.shuffle(*pair, lower)
        step *= 2
    for i in lanes:
        v.store(rows[i], target.data + target.row * i)


@functools.cache
def _peak_kernel(dtype: str) -> Any:
    """Machine code for some rounds of ROWS * VECTORS multiply-adds that wait for nothing but themselves."""
    f = Function(ir.Module("peak"), "rounds", ["times", "result"])
    v, (times, result) = Vectors(f, dtype), f.arguments
    sums = [v.variable() for _ in range(ROWS * VECTORS)]
    factor = v.load(result)
    with f.loop(0, times):
        for x in sums:
            v.multiply_add(factor, factor, x)
    for x in sums:
        v.store(v.add(v.load(result), v.value(x)), result)
    f.give()
    return ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)(Library(f.module).address("rounds"))


def measure_fma_peak(dtype: Any, rounds: int = 20) -> float:
    """The best rate of multiply-adds on one core now, in operations (two for each multiply-add) a second."""
    dtype, times = np.dtype(dtype), 200_000
    kernel, result, seconds = _peak_kernel(dtype.name), np.zeros(HOST.bytes, np.uint8), []
    kernel(1, result.ctypes.data)
    for _ in range(rounds):
        start = time.perf_counter()
        kernel(times, result.ctypes.data)
        seconds.append(time.perf_counter() - start)
    return 2 * ROWS * VECTORS * HOST.bytes // dtype.itemsize * times / min(seconds)
