"""Counts of zero and below are nothing to do in all machine code: nothing is read, and nothing written."""

import ctypes
import itertools

import numpy as np
import pytest
from llvmlite import ir
from numba import config

from kernels.guarded import guarded, in_child, needs_guards, untouched
from tinygrad_rnn.kernels import matmul as module
from tinygrad_rnn.kernels import products, team, vector
from tinygrad_rnn.kernels.assembler import Function, Library
from tinygrad_rnn.kernels.elementwise import Elementwise
from tinygrad_rnn.kernels.inner_loop import inner_loop
from tinygrad_rnn.kernels.matmul import copy, fill_panels, multiply, product, sum_rows
from tinygrad_rnn.kernels.outline import kernel
from tinygrad_rnn.kernels.sharing import ranges_of, share
from tinygrad_rnn.kernels.vector import Matrix, Shape, Vectors

pytestmark = [
    needs_guards, pytest.mark.skipif(bool(config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT=1: nothing is compiled"),
]  # fmt: skip

DTYPES = ["float32", "float64"]
NONE = [0, -1, -vector.MR, -17, -257, -(1 << 40), -(1 << 62)]
SOME = [1, vector.MR + 1, 300]
LAYOUTS = [(4000, 8), (8, 4000), (16, 4000), (4, 4000), (0, 0), (-8, -4000)]  # strides of rows and columns, in bytes


def nowhere():
    """An address at which nothing can be read or written."""
    return guarded(np.zeros(0)).ctypes.data


def function(dtype, name):
    """A function of machine code of `products`, called with integers."""
    parameters = {"multiply": 13, "product": 15, "fill_panels": 8, "copy": 8, "sum_rows": 7}[name]
    return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * parameters)(products.products(dtype).library.address(name))


def empty_products():
    """No rows or columns: no operand is there, nor the result, nor the workspace."""
    void = nowhere()
    for dtype, name in itertools.product(DTYPES, ["multiply", "product"]):
        call = function(dtype, name)
        for few, some, K in itertools.product(NONE, SOME, SOME + NONE):
            for M, N in (few, some), (some, few), (few, few):
                for a, b, c in itertools.product(LAYOUTS, LAYOUTS[:4], LAYOUTS):
                    for accumulate in (0, 1):
                        last = () if name == "multiply" else (void, 2)
                        call(void, *a, void, *b, void, *c, M, N, K, accumulate, *last)
    print("nothing")


def products_over_nothing():
    """K of zero and below: the result is zero, or what it was; the operands are not there."""
    void, room = nowhere(), module.workspace.address
    for dtype, name in itertools.product(DTYPES, ["multiply", "product"]):
        call, size = function(dtype, name), np.dtype(dtype).itemsize
        for K, M, N in itertools.product(NONE, [1, 2, vector.MR + 1], [1, 5, 37, 200]):
            rows, turned, wide = np.zeros((M, N), dtype), np.zeros((N, M), dtype), np.zeros((2 * M, 3 * N), dtype)
            for c in (rows, turned.T, rows[::-1, ::-1], wide[::2, ::3]):
                for end, accumulate in itertools.product(("after", "before"), (0, 1)):
                    y = guarded(c, end)
                    last = () if name == "multiply" else (room, 2)
                    for a, b in itertools.product([(size, 8), (40, size), (40, 40)], repeat=2):
                        y[...] = 7
                        call(void, *a, void, *b, y.ctypes.data, *y.strides, M, N, K, accumulate, *last)
                        assert (y == (7 if accumulate else 0)).all() and untouched(y)
    print("zeros")


def empty_copies_and_sums():
    void = nowhere()
    for dtype in DTYPES:
        size = np.dtype(dtype).itemsize
        copy, fill, total = (function(dtype, name) for name in ("copy", "fill_panels", "sum_rows"))
        for few, some in itertools.product(NONE, SOME + NONE):
            for M, N in (few, some), (some, few):
                for strides in [*LAYOUTS, (4000, size), (size, 4000)]:
                    copy(void, *strides, void, 4000, size, M, N)
                    fill(void, *strides, void, 128, 4096, M, N)
                total(void, 4000, size, void, 0, M, N)
    print("nothing")


def yes(v):
    return v.f.number(0) == 0


def pieces_of_registers():
    """The loops in registers, which are written into functions: each in one of its own."""
    void = nowhere()
    for dtype in DTYPES:
        built = ir.Module(f"pieces_{dtype}")
        size = np.dtype(dtype).itemsize

        def write(name, body, built=built, dtype=dtype):
            f = Function(built, name, ["address", "live", "cols", "K"])
            address, *counts = f.arguments
            matrix = Matrix(address, f.number(4000), f.number(np.dtype(dtype).itemsize))
            body(Vectors(f, dtype), matrix, *counts)
            f.give()

        write("micro_kernel", lambda v, m, live, cols, K: vector.micro_kernel(
            v, Shape(vector.MR, vector.VECTORS), live, m, m, m, cols, K, yes(v)))  # fmt: skip
        write("chained", lambda v, m, chain, cols, K: vector.micro_kernel(
            v, Shape(1, vector.VECTORS, vector.CHAINS), 1, m, m, m, cols, K, yes(v), chain))  # fmt: skip
        write("inner_products", lambda v, m, live, cols, K: vector.inner_products(
            v, vector.MR, live, m, m, m, K, yes(v)))  # fmt: skip
        library = Library(built)
        tile, row, inner = (
            ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 4)(library.address(name))
            for name in ("micro_kernel", "chained", "inner_products")
        )
        for few, some, K in itertools.product(NONE, SOME, SOME + NONE):
            tile(void, few, some, K)
            tile(void, some, few, K)
            inner(void, few, 0, K)
            row(void, 9, few, K)
        block = np.full((vector.MR, vector.ROW_BYTES // size), 7, dtype)
        for K in NONE:  # added to: 7 stays
            y = guarded(block)
            at = y.ctypes.data
            row(at, 9, block.shape[1], K)
            tile(at, 1, block.shape[1], K)
            inner(at, 1, 0, K)
            assert (y == 7).all() and untouched(y)
    print("nothing")


def empty_loops():
    """The loop that NumPy calls, and what it calls."""
    void = nowhere()
    for dtype in DTYPES:
        f = Elementwise("counted", "x y", {"z": "x * y"})
        getattr(f, dtype)
        compute, about = next((kept[0], kept[1]) for kept in reversed(elementwise_kept()) if kept[-1][0] == b"counted")
        size = np.dtype(dtype).itemsize
        loop = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4)(inner_loop(size))
        call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(compute.address)
        operands = (ctypes.c_void_p * 3)(void, void, void)
        for count in NONE:
            call(ctypes.addressof(operands), count)
            length = (ctypes.c_int64 * 1)(count)
            for step in size, 0, -size, 40:
                steps = (ctypes.c_int64 * 3)(size, step, size)
                loop(*map(ctypes.addressof, (operands, length, steps, about)))
    print("nothing")


def elementwise_kept():
    from tinygrad_rnn.kernels import elementwise

    return elementwise._keep_alive


def empty_jobs():
    """Jobs without chunks, teams without helpers."""
    void = nowhere()
    share = ctypes.CFUNCTYPE(*[ctypes.c_int64] * 7)(team.team.share)
    done = []
    chunk = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(lambda job, i, room: done.append(i))
    job = (ctypes.c_int64 * (team.JOB_BYTES // 8))()
    address = ctypes.cast(chunk, ctypes.c_void_p).value
    for helpers, count in itertools.product([2, *NONE], NONE):
        assert share(team.team.address, helpers, count, void, void, void) == 1
    team.team._write(team.BUSY, team.TAKEN)  # whoever has it: there is nothing to wait for
    assert share(team.team.address, 2, 0, void, void, void) == 1
    team.team._write(team.BUSY, team.FREE)
    for helpers in NONE:
        assert share(team.team.address, helpers, 3, address, ctypes.addressof(job), void) == 1
        assert sorted(done) == [0, 1, 2]
        done.clear()
    machine = team._machine()
    for few in NONE:
        machine["wait"](few)
        machine["stop"](team.team.address, few)
        team.team._write(team.STOP, 0)
        team.team.start(few, 0)
    assert not team.team.helpers
    for dtype in DTYPES:  # a part of a product of which there are no parts
        a = np.zeros((1, 1), dtype)
        module.matmul(a, a)
    print("nothing")


def ranges_of_no_rows():
    @kernel()
    def add_one(lo, hi, workspace, ranges, one, x):
        if not share(ranges, 1):
            for i in range(lo, hi):
                x[i] += one[0]

    x, one = np.zeros(4), np.ones(1)
    for bounds in ([], [0], [3], [2, 2], [2, 2, 2, 2], [3, 1], [4, 0, 0]):
        add_one(0, 0, 0, ranges_of(bounds).ctypes.data, one, x)
        assert not x.any()
    add_one(0, 4, 0, ranges_of([0, 2, 2, 4]).ctypes.data, one, x)
    assert (x == 1).all()
    print("nothing")


def outlines_with_no_counts():
    """As the code of a thread calls them whose rows have all ended."""
    for dtype in DTYPES:
        @kernel()
        def call(A, B, C, panels, y, room, M, N, K):
            multiply(A, panels, C, M, N, K, True)
            multiply(A, panels, C, M, N, K, False)
            product(A, B, C, M, N, K, False, room, 1)
            product(A, B, C, M, N, K, True, room, 3)
            fill_panels(B, panels, M, N)
            copy(A, C, M, N)
            sum_rows(A, y, 0, M, N)

        nothing = [guarded(np.zeros(shape, dtype)) for shape in ((0, 5), (5, 0), (0, 0), (0, 5, 16), (0,))]
        for few, some in itertools.product(NONE, SOME):
            for M, N, K in (few, some, some), (some, few, some), (few, few, few):
                call(*nothing, module.workspace.address, M, N, K)
    print("nothing")


def entries_with_few_threads():
    """The entry for Python, with numbers of threads and of multiply-adds that nobody should give."""
    rng = np.random.default_rng(0)
    for dtype in DTYPES:
        entry = products.products(dtype).entry
        a, b = rng.standard_normal((40, 30)).astype(dtype), rng.standard_normal((30, 50)).astype(dtype)
        for threads, least in itertools.product([*NONE, 1, 3], [*NONE, 1]):
            c = guarded(np.full((40, 50), np.nan, dtype))
            assert entry(a, b, c, products.ANYWAY, module.workspace.address, threads, least) == 1
            np.testing.assert_allclose(c, a @ b, atol=1e-4)
            for shape in ((0, 30, 50), (40, 0, 50), (40, 30, 0), (0, 0, 0)):
                M, K, N = shape
                x, y, z = (guarded(np.full(s, 3, dtype)) for s in ((M, K), (K, N), (M, N)))
                assert entry(x, y, z, products.ANYWAY, module.workspace.address, threads, least) == 1
                assert not z.any()
    print("as one")


@pytest.mark.parametrize(
    "children",
    [  # those of one process
        {"empty_products": "nothing", "products_over_nothing": "zeros", "empty_copies_and_sums": "nothing",
         "pieces_of_registers": "nothing"},
        {"empty_jobs": "nothing"},
        {"empty_loops": "nothing", "ranges_of_no_rows": "nothing", "outlines_with_no_counts": "nothing",
         "entries_with_few_threads": "as one"},
    ],
    ids=list,
)  # fmt: skip
def test_counts_of_zero_and_below(children):
    printed = in_child(__file__, "\n".join(f"{child}()" for child in children))
    assert printed.splitlines() == list(children.values())


def test_parts_of_a_product_that_has_none():
    """A job of no pieces, or of pieces of no length, would divide by zero."""
    for dtype in DTYPES:
        chunk = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(products.products(dtype).library.address("chunk"))
        for pieces, unit in itertools.product([*NONE, 1], NONE):
            job = (ctypes.c_int64 * len(products._JOB))()
            job[products._JOB.index("tiles")], job[products._JOB.index("unit")] = pieces, unit
            chunk(ctypes.addressof(job), 0, 0)
            job[products._JOB.index("tiles")], job[products._JOB.index("unit")] = unit, pieces
            chunk(ctypes.addressof(job), 0, 0)
