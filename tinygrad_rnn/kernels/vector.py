"""Vector registers in machine code: which ones this machine has, and the loops that must stay inside them.

Everything here writes its instructions into a `assembler.Function`. LLVM vectorises simple loops by itself, but it does
not keep a block of a matrix product in registers; `micro_kernel`, which does, is where nearly all of the time of a
product goes.

A matrix in memory is a `Matrix`: an address and two strides in bytes. Nothing here checks bounds. Counts of zero and
below are nothing to do; sums over none are zero.
"""

import os
import re
from typing import Any, NamedTuple

from llvmlite import ir

from .assembler import I8, I32, I64, VOID, Function, Int
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
MR, VECTORS = HOST.rows, HOST.vectors  # of the block of C
HALF_MR = MR // 2
WIDE = 4 * VECTORS  # vectors of a single row that fill the registers likewise
CHAINS = 4  # of a row of VECTORS vectors, that do so
LINE = 64  # bytes of a cache line
ROW_BYTES = VECTORS * HOST.bytes  # of the block of C, and of the panel of B that it is computed from
BLOCK_BYTES = MR * ROW_BYTES


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

    def load(self, address: Int, kind: Any = None) -> Any:
        return self.builder.load(self.f.pointer(address, kind or self.vector), align=1)

    def store(self, value: Any, address: Int) -> None:
        self.builder.store(value, self.f.pointer(address, value.type), align=1)

    def copy(self, source: Int, target: Int) -> None:
        """Copy a single element."""
        self.store(self.load(source, self.element), target)

    def first_lanes(self, n: Int) -> Any:
        """A mask that is true in the first `n` lanes: in none of them if n is zero or below."""
        numbers = ir.Constant(ir.VectorType(I64, self.lanes), list(range(self.lanes)))
        return self.builder.icmp_signed("<", numbers, self._repeat(n.value, numbers.type))

    def load_where(self, mask: Any, address: Int) -> Any:
        """A vector, zero where the mask is false: that memory is not touched."""
        name, pointer = f"llvm.masked.load.v{self.lanes}{self.name}.p0", self.f.pointer(address, self.vector)
        return self.f.intrinsic(name, self.vector, pointer, I32(1), mask, self.zero)

    def store_where(self, mask: Any, value: Any, address: Int) -> None:
        name, pointer = f"llvm.masked.store.v{self.lanes}{self.name}.p0", self.f.pointer(address, self.vector)
        self.f.intrinsic(name, VOID, value, pointer, I32(1), mask)

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

    def increase(self, variable: Any, x: Any) -> None:
        """variable += x."""
        self.builder.store(self.add(x, self.value(variable)), variable)

    def broadcast(self, scalar: Any) -> Any:
        return self._repeat(scalar, self.vector)

    def _repeat(self, scalar: Any, kind: Any) -> Any:
        undefined = ir.Constant(kind, ir.Undefined)
        return self.shuffle(self.builder.insert_element(undefined, scalar, I32(0)), undefined, [0] * self.lanes)

    def shuffle(self, x: Any, y: Any, lanes: list[int]) -> Any:
        return self.builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, self.lanes), lanes))

    def prefetch(self, address: Int, to_write: bool = False) -> None:
        """Fetch a cache line: to the first level if it is to be written soon, else to the second. No address faults."""
        hints = map(I32, (int(to_write), 3 if to_write else 2, 1))
        self.f.intrinsic("llvm.prefetch.p0", VOID, self.f.pointer(address, I8), *hints)

    def multiply_add(self, x: Any, y: Any, variable: Any) -> None:
        """variable += x * y."""
        if HOST.fma:
            name = f"llvm.fma.v{self.lanes}{self.name}"
            self.builder.store(self.f.intrinsic(name, self.vector, x, y, self.value(variable)), variable)
        else:
            self.increase(variable, self.builder.fmul(x, y))

    def sums(self, vectors: list[Any]) -> list[Any]:
        """The sums over the lanes of each of the vectors. Every round adds neighbours, of two vectors at a time."""
        totals = []
        for start in range(0, len(vectors), self.lanes):
            batch = vectors[start : start + self.lanes]
            left = batch + [self.zero] * (self.lanes - len(batch))
            while len(left) > 1:
                left = [self._neighbours(x, y) for x, y in zip(left[::2], left[1::2])]
            totals += [self.builder.extract_element(left[0], I32(i)) for i in range(len(batch))]
        return totals

    def _neighbours(self, x: Any, y: Any) -> Any:
        even, odd = (self.shuffle(x, y, list(range(first, 2 * self.lanes, 2))) for first in (0, 1))
        return self.builder.fadd(even, odd)


class Shape(NamedTuple):
    """Of a micro-kernel: `rows` rows of `vectors` vectors of C, summed in so many `chains` along k side by side."""

    rows: int
    vectors: int
    chains: int = 1


def micro_kernel(
    v: Vectors, shape: Shape, live: Any, A: Matrix, B: Matrix, C: Matrix, cols: Any, K: Int, add: Int,
    chain: Any = 0, unroll: int = 1, padded: bool = False, ahead: tuple[Int, Int] | None = None,
) -> None:  # fmt: skip
    """C (+)= A[rows, K] @ B[K, vectors * lanes] with C in registers meanwhile: K outer products, each a fused
    multiply-add per vector of C.

    Args:
        shape: the registers must hold that block of C, once for each chain, and `vectors` more.
        live, cols: the rows of A and the columns of C that exist; nothing is done unless both are above zero. In place
            of the rows that do not, the last one is computed, or what is there if A is `padded`; nothing is read or
            written in place of the columns that do not.
        B: rows of panels, VECTORS contiguous vectors each; `col` leads from one panel to the next.
        C: its rows are contiguous.
        add: add to C; otherwise it is overwritten, whatever it held.
        chain: the length of each chain, if there are several. K may be less than all of them: then the last ones are
            shorter, or empty. The bits are those of one chain after the other.
        unroll: how many outer products there are between two looks for the end.
        padded: A can be read in place of the rows that do not exist.
        ahead: an address and a distance. As many bytes as a row of B has are fetched to the second-level cache there,
            and again at that distance, for every `unroll` outer products.
    """
    (rows, vectors, chains), f = shape, v.f
    with f.when((f.number(live) > 0) & (f.number(cols) > 0)):
        there = [f.least(i, f.number(live) - 1) if i else f.number(0) for i in range(rows)]
        block = {(i, j): C.rest(there[i], 0).data + j * HOST.bytes for i in range(rows) for j in range(vectors)}
        for address in block.values():
            v.prefetch(address, to_write=True)
        a = [[A.rest(i if padded else there[i], chain * c).data for i in range(rows)] for c in range(chains)]
        column = lambda c, j: B.rest(chain * c, j // VECTORS).data + j % VECTORS * HOST.bytes
        b = [[column(c, j) for j in range(vectors)] for c in range(chains)]
        sums = [{place: v.variable() for place in block} for _ in range(chains)]
        lengths = [f.most(0, f.least(chain, K - chain * c)) for c in range(chains)] if chains > 1 else [f.most(K, 0)]

        def outer_product(c: int, k: Int, more: int = 0) -> None:
            b_k = [v.load(first + B.row * k + B.row * more) for first in b[c]]
            for i in range(rows):
                a_ik = v.broadcast(v.load(a[c][i] + A.col * k + A.col * more, v.element))
                for j in range(vectors):
                    v.multiply_add(a_ik, b_k[j], sums[c][i, j])

        rounds, (start, distance) = lengths[-1] // unroll, ahead or (f.number(0), f.number(0))
        with f.loop(0, rounds) as n:
            for line in range(0, vectors * HOST.bytes, LINE) if ahead else ():
                v.prefetch(start + distance * n + line)
            for more in range(unroll):
                for c in range(chains):
                    outer_product(c, n * unroll, more)
        for c in range(chains if unroll > 1 else chains - 1):
            with f.loop(rounds * unroll, lengths[c]) as k:
                outer_product(c, k)
        _deliver(v, block, sums, lengths, cols, add)


def _deliver(v: Vectors, block: dict[Any, Int], sums: list[Any], lengths: list[Int], cols: Any, add: Int) -> None:
    """C (+)= the sums of a block, chain by chain, without columns that do not exist."""
    f, vectors = v.f, 1 + max(j for _, j in block)

    def deliver(load: Any, store: Any) -> None:
        with f.when(add):  # all rows before any is written: one may stand for others
            for (i, j), address in block.items():
                v.increase(sums[0][i, j], load(j, address))
        for chain, length in zip(sums[1:], lengths[1:]):
            with f.when(length > 0):
                for place, total in chain.items():
                    v.increase(sums[0][place], v.value(total))
        for (i, j), address in reversed(block.items()):  # so what stands for others is written before the last row
            store(j, v.value(sums[0][i, j]), address)

    with f.either(f.number(cols) >= vectors * v.lanes) as (whole, part):
        with whole:
            deliver(lambda j, address: v.load(address), lambda j, value, address: v.store(value, address))
        with part:
            masks = [v.first_lanes(f.number(cols) - j * v.lanes) for j in range(vectors)]
            deliver(
                lambda j, address: v.load_where(masks[j], address),
                lambda j, value, address: v.store_where(masks[j], value, address),
            )


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
