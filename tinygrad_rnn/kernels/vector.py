"""Vector registers in compiled code: which ones this machine has, and the loops that must stay inside them.

Everything here is called from functions compiled by Numba and emits its instructions on the spot (an *intrinsic*).
LLVM vectorises simple loops by itself, but it does not keep a block of a matrix product in registers; `tile`, which
does, is where nearly all of the time of a matrix product goes.

A matrix in memory is a `Matrix`: a pointer and two strides in bytes. Nothing here checks bounds, and a pointer keeps
no array alive: the array should be an argument of the compiled function.
"""

# Intrinsics are called without their first parameter, Numba's typing context; mypy does not know.
# mypy: disable-error-code="call-arg,unreachable"

import functools
import os
import time
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import config, njit, types
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

from .memory import JIT


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


def _host() -> Registers:
    """The widest kind that the processor has, or the one named by $TINYGRAD_RNN_VECTORS (slower, for tests)."""
    if chosen := os.environ.get("TINYGRAD_RNN_VECTORS"):
        if chosen not in KINDS:
            raise ValueError(f"TINYGRAD_RNN_VECTORS is {chosen!r}, expected one of {', '.join(KINDS)}")
        return KINDS[chosen]
    flags = config.CPU_FEATURES
    features = set((get_host_cpu_features() if flags is None else flags).split(","))
    for name, needed in {"avx512": "avx512f", "avx2": "fma", "avx": "avx", "sse2": "sse2", "neon": "neon"}.items():
        if f"+{needed}" in features:
            return KINDS[name]
    return KINDS["generic"]


HOST = _host()
ROWS, VECTORS = HOST.rows, HOST.vectors  # of the block of C
HALF_ROWS = ROWS // 2
WIDE = 4 * VECTORS  # vectors of a single row that fill the registers likewise
ROW_BYTES = VECTORS * HOST.bytes  # of the block of C, and of the panel of B that it is computed from
BLOCK_BYTES = ROWS * ROW_BYTES


class Matrix(NamedTuple):
    """Where a matrix lies: element [i, j] is `i * row + j * col` bytes (of either sign) after `data`, a pointer."""

    data: Any
    row: int
    col: int


_i8, _i32, _i64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)


def _matrix_of(element: Any) -> Any:
    return types.NamedTuple([types.CPointer(element), types.int64, types.int64], Matrix)


def _int(n: int) -> Any:
    return ir.Constant(_i64, n)


def _offset(builder: Any, pointer: Any, *terms: tuple[Any, Any]) -> Any:
    """`pointer` moved by the sum of the products in `terms`, in bytes."""
    for count, step in terms:
        pointer = cgutils.pointer_add(builder, pointer, builder.mul(count, step))
    return pointer


class _Emitter:
    """Emits loads, stores and arithmetic on vectors of one element type. Addresses need no alignment."""

    def __init__(self, context: Any, builder: Any, element: Any, lanes: int = 0) -> None:
        self.builder, self.element = builder, context.get_data_type(element)
        self.size = element.bitwidth // 8
        self.lanes = lanes or HOST.bytes // self.size
        self.vector = ir.VectorType(self.element, self.lanes)
        self.zero = ir.Constant(self.vector, None)
        self.undefined = ir.Constant(self.vector, ir.Undefined)

    def load(self, pointer: Any, kind: Any) -> Any:
        return self.builder.load(self.builder.bitcast(pointer, kind.as_pointer()), align=1, typ=kind)

    def store(self, value: Any, pointer: Any) -> None:
        self.builder.store(value, self.builder.bitcast(pointer, value.type.as_pointer()), align=1)

    def variable(self) -> Any:
        """A vector variable, zero whenever this place is passed. LLVM keeps it in a register."""
        place = cgutils.alloca_once(self.builder, self.vector)
        self.builder.store(self.zero, place)
        return place

    def value(self, variable: Any) -> Any:
        return self.builder.load(variable, typ=self.vector)

    def broadcast(self, scalar: Any) -> Any:
        first = self.builder.insert_element(self.undefined, scalar, ir.Constant(_i32, 0))
        return self.shuffle(first, self.undefined, [0] * self.lanes)

    def shuffle(self, x: Any, y: Any, lanes: list[int]) -> Any:
        return self.builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(_i32, self.lanes), lanes))

    def prefetch(self, pointer: Any) -> None:
        """Fetch the cache line of an address that will be written. No address faults."""
        pointer = self.builder.bitcast(pointer, cgutils.voidptr_t)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, _i32, _i32, _i32])
        prefetch = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0")
        to_write, keep_close, data = (ir.Constant(_i32, n) for n in (1, 3, 1))
        self.builder.call(prefetch, [pointer, to_write, keep_close, data])

    def multiply_add(self, x: Any, y: Any, variable: Any) -> None:
        """variable += x * y."""
        if HOST.fma:
            kind = ir.FunctionType(self.vector, [self.vector] * 3)
            fma = cgutils.get_or_insert_function(
                self.builder.module, kind, f"llvm.fma.v{self.lanes}f{self.size * 8}"
            )
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
            totals += [self.builder.extract_element(left[0], ir.Constant(_i32, i)) for i in range(len(batch))]
        return totals

    def _neighbours(self, x: Any, y: Any) -> Any:
        even, odd = (self.shuffle(x, y, list(range(first, 2 * self.lanes, 2))) for first in (0, 1))
        return self.builder.fadd(even, odd)


def _fields(builder: Any, matrix: Any) -> Any:
    return cgutils.unpack_tuple(builder, matrix, 3)


def _view(array: Any, row: int, col: int) -> Any:
    """The Matrix of an array with the strides of its axes `row` and `col`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        view = context.make_array(array)(context, builder, args[0])
        strides = cgutils.unpack_tuple(builder, view.strides, array.ndim)
        return context.make_tuple(builder, signature.return_type, [view.data, strides[row], strides[col]])

    return _matrix_of(array.dtype)(array), codegen


@intrinsic
def matrix(typingctx: Any, array: Any) -> Any:
    """The Matrix of a 2-d array."""
    return _view(array, 0, 1)


@intrinsic
def panels(typingctx: Any, array: Any) -> Any:
    """A packed operand [panels, K, width] as a Matrix whose columns are its panels."""
    return _view(array, 1, 0)


@intrinsic
def matrix_at(typingctx: Any, dtype: Any, address: Any, row: Any, col: Any) -> Any:
    """The `Matrix` of numbers of type `dtype`, such as np.float32, from its address and its strides in bytes."""
    pointer = types.CPointer(dtype.dtype)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = builder.inttoptr(args[1], context.get_value_type(pointer))
        return context.make_tuple(builder, signature.return_type, [data, *args[2:]])

    return _matrix_of(dtype.dtype)(dtype, types.int64, types.int64, types.int64), codegen


@intrinsic
def shift(typingctx: Any, x: Any, i: Any, j: Any) -> Any:
    """The rest of the matrix from element [i, j] on."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data, row, col = _fields(builder, args[0])
        return builder.insert_value(args[0], _offset(builder, data, (args[1], row), (args[2], col)), 0)

    return x(x, types.int64, types.int64), codegen


@intrinsic
def skip(typingctx: Any, x: Any, bytes: Any) -> Any:
    """The matrix of the same strides that lies `bytes` bytes further on."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.insert_value(args[0], _offset(builder, _fields(builder, args[0])[0], (args[1], _int(1))), 0)

    return x(x, types.int64), codegen


@intrinsic
def size_of(typingctx: Any, x: Any) -> Any:
    """Bytes of an element of `x`, a Matrix: a constant."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _int(x.types[0].dtype.bitwidth // 8)

    return types.int64(x), codegen


@intrinsic
def stack_block(typingctx: Any, like: Any) -> Any:
    """A block of ROWS rows on the stack, of the element type of the Matrix `like`; the same one at every pass."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = cgutils.alloca_once(builder, ir.ArrayType(_i8, BLOCK_BYTES))
        place.align = HOST.bytes
        data = builder.bitcast(place, context.get_value_type(like.types[0]))
        fields = [data, _int(ROW_BYTES), _int(like.types[0].dtype.bitwidth // 8)]
        return context.make_tuple(builder, like, fields)

    return like(like), codegen


@intrinsic(prefer_literal=True)
def tile(typingctx: Any, rows: Any, vectors: Any, live: Any, A: Any, B: Any, C: Any, K: Any, accumulate: Any) -> Any:
    """C (+)= A[rows, K] @ B[K, vectors * lanes] with C in registers meanwhile: K outer products, each a fused
    multiply-add per vector of C.

    Args:
        rows, vectors: literal integers; rows * vectors accumulators and `vectors` more must fit in the registers.
        live: the rows of A that exist, 1 to `rows`; the last one is read in place of those that do not.
        B: rows of panels, VECTORS contiguous vectors each; `col` leads from one panel to the next.
        C: its rows are contiguous. All rows and vectors are written.
        accumulate: add to C; otherwise it is overwritten, whatever it held.
    """
    M, V = rows.literal_value, vectors.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        live, K, accumulate = args[2], args[6], args[7]
        (a, a_row, a_col), (b, b_row, b_panel), (c, c_row, _) = (_fields(builder, x) for x in args[3:6])
        emit = _Emitter(context, builder, C.types[0].dtype)
        last = builder.sub(live, _int(1))
        row = lambda i: builder.select(builder.icmp_signed("<", _int(i), last), _int(i), last)
        a_rows = [_offset(builder, a, (row(i), a_row)) if M > 1 else a for i in range(M)]
        b_columns = [
            _offset(builder, b, (_int(v // VECTORS), b_panel), (_int(v % VECTORS), _int(HOST.bytes))) for v in range(V)
        ]
        c_blocks = {
            (i, v): _offset(builder, c, (_int(i), c_row), (_int(v), _int(HOST.bytes)))
            for i in range(M)
            for v in range(V)
        }
        sums = {place: emit.variable() for place in c_blocks}
        for pointer in c_blocks.values():
            emit.prefetch(pointer)
        with cgutils.for_range(builder, K) as loop:
            b_k = [emit.load(_offset(builder, b, (loop.index, b_row)), emit.vector) for b in b_columns]
            for i in range(M):
                a_ik = emit.broadcast(emit.load(_offset(builder, a_rows[i], (loop.index, a_col)), emit.element))
                for v in range(V):
                    emit.multiply_add(a_ik, b_k[v], sums[i, v])
        with builder.if_else(accumulate) as (add, overwrite):
            with add:
                for place, pointer in c_blocks.items():
                    emit.store(builder.fadd(emit.load(pointer, emit.vector), emit.value(sums[place])), pointer)
            with overwrite:
                for place, pointer in c_blocks.items():
                    emit.store(emit.value(sums[place]), pointer)
        return context.get_dummy_value()

    signature = types.void(rows, vectors, types.int64, A, B, C, types.int64, types.boolean)
    return signature, codegen


@intrinsic(prefer_literal=True)
def inner_products(typingctx: Any, rows: Any, live: Any, A: Any, x: Any, y: Any, K: Any, accumulate: Any) -> Any:
    """y[i] (+)= sum over k of A[i, k] x[k] for the `live` rows of a block: A and x are contiguous along k.

    The lanes hold partial sums over k, so the order of summation differs from `tile`.

    Args:
        rows: literal integer, the most that `live` may be.
        x, y: a Matrix of one row.
    """
    M = rows.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        live, K, accumulate = args[1], args[5], args[6]
        (a, a_row, _), (x_0, _, _), (y_0, _, y_col) = (_fields(builder, z) for z in args[2:5])
        emit = _Emitter(context, builder, A.types[0].dtype)
        single = _Emitter(context, builder, A.types[0].dtype, lanes=1)
        last = builder.sub(live, _int(1))
        row = lambda i: builder.select(builder.icmp_signed("<", _int(i), last), _int(i), last)
        a_rows = [_offset(builder, a, (row(i), a_row)) for i in range(M)]
        sums = [emit.variable() for _ in range(M)]
        tails = [single.variable() for _ in range(M)]
        whole = builder.mul(builder.sdiv(K, _int(emit.lanes)), _int(emit.lanes))
        for lane, totals, start, stop in (emit, sums, _int(0), whole), (single, tails, whole, K):
            with cgutils.for_range_slice(builder, start, stop, _int(lane.lanes)) as (k, _):
                at_k = (k, _int(emit.size))
                x_k = lane.load(_offset(builder, x_0, at_k), lane.vector)
                for i in range(M):
                    lane.multiply_add(lane.load(_offset(builder, a_rows[i], at_k), lane.vector), x_k, totals[i])
        totals = emit.sums([emit.value(x) for x in sums])
        for i, tail in enumerate(single.sums([single.value(x) for x in tails])):
            with builder.if_then(builder.icmp_signed("<", _int(i), live)):
                total = builder.fadd(totals[i], tail)
                pointer = _offset(builder, y_0, (_int(i), y_col))
                with builder.if_else(accumulate) as (add, overwrite):
                    with add:
                        emit.store(builder.fadd(emit.load(pointer, emit.element), total), pointer)
                    with overwrite:
                        emit.store(total, pointer)
        return context.get_dummy_value()

    signature = types.void(rows, types.int64, A, x, y, types.int64, types.boolean)
    return signature, codegen


@intrinsic
def copy_vector(typingctx: Any, source: Any, target: Any) -> Any:
    """Copy the first elements of a row, as many as a register holds."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit = _Emitter(context, builder, source.types[0].dtype)
        emit.store(emit.load(_fields(builder, args[0])[0], emit.vector), _fields(builder, args[1])[0])
        return context.get_dummy_value()

    return types.void(source, target), codegen


@intrinsic
def clear_row(typingctx: Any, target: Any) -> Any:
    """Make ROW_BYTES bytes zero."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        cgutils.memset(builder, _fields(builder, args[0])[0], _int(ROW_BYTES), 0)
        return context.get_dummy_value()

    return types.void(target), codegen


@intrinsic
def copy_element(typingctx: Any, source: Any, target: Any) -> Any:
    """target[0, 0] = source[0, 0]."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit = _Emitter(context, builder, source.types[0].dtype)
        emit.store(emit.load(_fields(builder, args[0])[0], emit.element), _fields(builder, args[1])[0])
        return context.get_dummy_value()

    return types.void(source, target), codegen


@intrinsic
def add_element(typingctx: Any, source: Any, target: Any) -> Any:
    """target[0, 0] += source[0, 0]."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit = _Emitter(context, builder, source.types[0].dtype)
        source_0, target_0 = (_fields(builder, x)[0] for x in args)
        total = builder.fadd(emit.load(target_0, emit.element), emit.load(source_0, emit.element))
        emit.store(total, target_0)
        return context.get_dummy_value()

    return types.void(source, target), codegen


@intrinsic
def transpose_square(typingctx: Any, source: Any, target: Any) -> Any:
    """target[j, i] = source[i, j] for a square of lanes x lanes elements; the rows of both are contiguous.

    Log2(lanes) rounds exchange the off-diagonal quarters of 2 x 2, then 4 x 4, ... squares.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (x, x_row, _), (y, y_row, _) = (_fields(builder, z) for z in args)
        emit = _Emitter(context, builder, source.types[0].dtype)
        lanes = range(emit.lanes)
        rows = [emit.load(_offset(builder, x, (_int(i), x_row)), emit.vector) for i in lanes]
        step = 1
        while step < emit.lanes:
            upper = [emit.lanes + i - step if i & step else i for i in lanes]
            lower = [emit.lanes + i if i & step else i + step for i in lanes]
            for i in lanes:
                if not i & step:
                    pair = rows[i], rows[i + step]
                    rows[i], rows[i + step] = emit.shuffle(*pair, upper), emit.shuffle(*pair, lower)
            step *= 2
        for i in lanes:
            emit.store(rows[i], _offset(builder, y, (_int(i), y_row)))
        return context.get_dummy_value()

    return types.void(source, target), codegen


@intrinsic
def _independent_sums(typingctx: Any, like: Any, times: Any) -> Any:
    """`times` rounds of ROWS * VECTORS multiply-adds that wait for nothing but themselves."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        emit = _Emitter(context, builder, like)
        sums = [emit.variable() for _ in range(ROWS * VECTORS)]
        factor = emit.broadcast(args[0])
        with cgutils.for_range(builder, args[1]):
            for x in sums:
                emit.multiply_add(factor, factor, x)
        total = emit.value(sums[0])
        for x in sums[1:]:
            total = builder.fadd(total, emit.value(x))
        return emit.sums([total])[0]

    return like(like, types.int64), codegen


@functools.cache
def _peak_kernel() -> Any:
    return njit(**JIT)(lambda like, times: _independent_sums(like, times))


def measure_fma_peak(dtype: Any, rounds: int = 20) -> float:
    """The best rate of multiply-adds on one core now, in operations (two for each multiply-add) a second."""
    kernel, like, times = _peak_kernel(), np.dtype(dtype).type(0.5), 200_000
    kernel(like, 1)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        kernel(like, times)
        seconds.append(time.perf_counter() - start)
    return 2 * ROWS * VECTORS * HOST.bytes // like.itemsize * times / min(seconds)
