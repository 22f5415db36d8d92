"""No product, copy, sum or formula touches a byte that is not its own: all operands lie beside unreadable pages.

Each case runs with every operand before such a page, then with every one after it; the numbers are right as well, the
bytes between strided elements stay, and products have the bits that they have in memory that is not guarded.
"""

import ctypes
import functools
import itertools

import numpy as np
import pytest
from numba import config

from kernels.guarded import guarded, in_child, needs_guards, untouched
from kernels.packed import Packed, fill, matmul_packed, pack
from tinygrad_rnn.kernels import macro_kernel, matmul, products, threads, vector
from tinygrad_rnn.kernels.elementwise import Elementwise
from tinygrad_rnn.kernels.squares import sum_of_squares

pytestmark = [
    needs_guards, pytest.mark.skipif(bool(config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT=1: nothing is compiled"),
]  # fmt: skip

DTYPES = ["float32", "float64"]
ENDS = ["after", "before"]
ROWS, DEPTH = vector.MR, macro_kernel.KC


def around(*sizes):
    return sorted({n + d for n in sizes for d in (-1, 0, 1) if n + d > 0})


def widths(dtype):
    """Around the registers, a panel, and the panels that are filled together."""
    lanes = vector.HOST.bytes // np.dtype(dtype).itemsize
    panel = vector.ROW_BYTES // np.dtype(dtype).itemsize
    return around(1, lanes, panel, 2 * panel, macro_kernel.PANELS * panel)


# How an operand may lie: each takes a shape and makes zeros of that shape with other strides.
def turned(M, N, dtype): return np.zeros((N, M), dtype).T
def rows(M, N, dtype): return np.zeros((M, N), dtype)
def backwards(M, N, dtype): return np.zeros((M, N), dtype)[::-1, ::-1]
def upside_down(M, N, dtype): return np.zeros((M, N), dtype)[::-1]
def right_to_left(M, N, dtype): return np.zeros((N, M), dtype).T[:, ::-1]
def columns(M, N, dtype): return np.zeros((M, N + 3), dtype)[:, 2 : 2 + N]
def every_other(M, N, dtype): return np.zeros((2 * M, 2 * N), dtype)[::2, ::2]
def turned_columns(M, N, dtype): return np.zeros((N, M + 3), dtype)[:, 1 : 1 + M].T
def one_row(M, N, dtype): return np.broadcast_to(np.zeros((1, N), dtype), (M, N))
def one_column(M, N, dtype): return np.broadcast_to(np.zeros((M, 1), dtype), (M, N))
def one_number(M, N, dtype): return np.broadcast_to(np.zeros((1, 1), dtype), (M, N))


RESULTS = [rows, turned, backwards, upside_down, right_to_left, columns, every_other, turned_columns]
OPERANDS = [*RESULTS, one_row, one_column, one_number]


def placed(lay, values, end):
    """Values at such a place beside a guard; where elements are the same one, those of the first."""
    place = guarded(lay(*values.shape, values.dtype), end)
    for axis, step in enumerate(place.strides):
        if step == 0:
            values = np.broadcast_to(values.take([0], axis), values.shape)
    place[...] = values
    return place


def check(result, a, b, before):
    """That it is before + a @ b, to the bound on the error of a sum in any order, and nothing beside it was written."""
    wide = np.longdouble if a.dtype == np.float64 else np.float64
    product, size = a.astype(wide) @ b.astype(wide), abs(a).astype(wide) @ abs(b).astype(wide)
    bound = (a.shape[1] + 2) * np.finfo(a.dtype).eps * (size + abs(before))
    assert (abs(result - product - before) <= bound).all()
    assert untouched(result)


def one_product(rng, M, K, N, dtype, lays, end):
    """All that multiplies, for operands that lie like this."""
    a, b = (rng.standard_normal(s).astype(dtype) for s in ((M, K), (K, N)))
    a, b = placed(lays[0], a, end), placed(lays[1], b, end)
    old = rng.standard_normal((M, N)).astype(dtype)
    plain, packed = matmul.matmul(a.copy(), b.copy()), pack(b)
    panels = guarded(packed.panels, end)
    panels[...] = 7
    fill(b, panels)
    assert np.array_equal(panels, packed.panels)
    packed = Packed(panels, (K, N))
    for accumulate in (False, True):
        c = placed(lays[2], old if accumulate else np.full_like(old, np.nan), end)
        before = old if accumulate else 0
        matmul.matmul(a, b, c, accumulate)
        check(c, a, b, before)
        if not accumulate and 1 not in (M, N):
            assert np.array_equal(c, plain)
        c[...] = old if accumulate else np.nan
        matmul_packed(a, packed, c, accumulate)
        check(c, a, b, before)
    return c


def sizes_at_random(rng, dtype):
    M = rng.choice([*around(1, ROWS, 2 * ROWS), vector.HALF_MR, 40, macro_kernel.MC + 1])
    K = rng.choice([*range(1, 10), *around(vector.CHAINS * macro_kernel.SHORTEST, DEPTH), 40, 2 * DEPTH + 3])
    N = rng.choice([*widths(dtype), 5, 90])
    return int(M), int(K), int(N)


def products_in_bounds(seed, count):
    """Shapes, strides and dtypes at random, so many of them."""
    rng = np.random.default_rng(seed)
    for n in range(count):
        dtype, end = DTYPES[n % 2], ENDS[n // 2 % 2]
        lays = rng.choice(OPERANDS), rng.choice(OPERANDS), rng.choice(RESULTS)
        threads.set_num_threads(1 + n % 4)
        one_product(rng, *sizes_at_random(rng, dtype), dtype, lays, end)
    print("in bounds")


def products_of_every_shape():
    """Every height and width around the registers, every way to lie, one after the other."""
    rng = np.random.default_rng(0)
    for dtype, end in itertools.product(DTYPES, ENDS):
        for M, N in itertools.product([*around(1, ROWS, 2 * ROWS), vector.HALF_MR], widths(dtype)):
            for K in (1, 3, vector.CHAINS * macro_kernel.SHORTEST + 1, DEPTH + 1):
                for lays in itertools.product((rows, turned, backwards, columns), repeat=2):
                    one_product(rng, M, K, N, dtype, (*lays, RESULTS[(M + N + K) % len(RESULTS)]), end)
        for lays in itertools.product(OPERANDS, OPERANDS, RESULTS):
            for M, K, N in ((1, 20, 35), (ROWS + 1, 9, 33), (ROWS - 1, 70, 1), (2 * ROWS, 5, 100)):
                one_product(rng, M, K, N, dtype, lays, end)
    print("in bounds")


def copies_and_sums():
    """`copy` and `sum_rows` of machine code, and `product`, which works in the workspace of the thread."""
    rng = np.random.default_rng(1)
    for dtype, end in itertools.product(DTYPES, ENDS):
        library = products.products(dtype).library
        copy, total, product = (
            ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * n)(library.address(name))
            for name, n in (("copy", 8), ("sum_rows", 7), ("product", 15))
        )
        lanes = vector.HOST.bytes // np.dtype(dtype).itemsize
        room = guarded(np.zeros(products.WORKSPACE_BYTES, np.uint8), end)
        for M, N in itertools.product(around(1, lanes), around(1, lanes, 2 * lanes)):
            for lay in OPERANDS:
                x = placed(lay, rng.standard_normal((M, N)).astype(dtype), end)
                for target in (rows, columns, upside_down):
                    y = placed(target, np.zeros((M, N), dtype), end)
                    copy(x.ctypes.data, *x.strides, y.ctypes.data, *y.strides, M, N)
                    assert np.array_equal(x, y) and untouched(y)
                w = placed(OPERANDS[M % 8], rng.standard_normal((N, 19)).astype(dtype), end)
                y = placed(RESULTS[N % 8], np.zeros((M, 19), dtype), end)
                fields = (n for z in (x, w, y) for n in (z.ctypes.data, *z.strides))
                product(*fields, M, 19, N, 0, room.ctypes.data, 1)
                check(y, x, w, 0)
            for lay in (rows, columns, upside_down, one_row):
                x = placed(lay, rng.standard_normal((M, N)).astype(dtype), end)
                y = guarded(np.full(N, np.nan, dtype), end)
                total(x.ctypes.data, *x.strides, y.ctypes.data, 0, M, N)
                assert np.array_equal(y, functools.reduce(np.add, x)) and untouched(y)
    print("in bounds")


def formulas_in_bounds(sizes):
    """Formulas of `elementwise` over vectors and matrices that lie in all ways, and sums of squares."""
    rng = np.random.default_rng(2)
    kernel = Elementwise("guarded", "x y", {"s": "x * y + 1", "t": "tanh(x) - y"})
    ways = [
        lambda n: np.zeros(n), lambda n: np.zeros(n)[::-1], lambda n: np.zeros(2 * n)[::2],
        lambda n: np.zeros(3 * n)[::-3], lambda n: np.broadcast_to(np.zeros(1), n),
    ]  # fmt: skip
    for dtype, end, n in itertools.product(DTYPES, ENDS, sizes):
        for i, j in itertools.product(range(len(ways)), repeat=2):
            x, y = (guarded(like(ways[k](n), dtype), end) for k in (i, j))
            for z in (x, y):
                z[...] = rng.standard_normal(n) if z.strides[0] else rng.standard_normal()
            s, t = (guarded(like(ways[k % 4](n), dtype), end) for k in (i + 1, j + 2))
            kernel(x, y, out=(s, t))
            np.testing.assert_allclose(s, x * y + 1, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(t, np.tanh(x) - y, rtol=1e-5, atol=1e-6)
            assert untouched(s) and untouched(t) and untouched(x) and untouched(y)
            if i < 4:
                kernel(x, y, out=(x, t))  # in place
                assert np.array_equal(x, s) and untouched(x)
    for dtype, end, n in itertools.product(DTYPES, ENDS, (1, 7, 1 << 15, (1 << 15) + 5)):
        x = guarded(rng.standard_normal(n).astype(dtype), end)
        np.testing.assert_allclose(sum_of_squares(x), (x.astype(float) ** 2).sum(), rtol=1e-9)
    for dtype, end, (M, N) in itertools.product(DTYPES, ENDS, ((1, 5), (3, 17))):
        for lay, other in itertools.product(OPERANDS, OPERANDS):
            x, y = (placed(z, rng.standard_normal((M, N)).astype(dtype), end) for z in (lay, other))
            s, t = (placed(RESULTS[(M + N + k) % 8], np.zeros((M, N), dtype), end) for k in (0, 1))
            kernel(x, y, out=(s, t))
            np.testing.assert_allclose(s, x * y + 1, rtol=1e-5, atol=1e-6)
            assert untouched(s) and untouched(t)
    print("in bounds")


def like(array, dtype):
    """Zeros of another dtype with strides of as many elements."""
    size = np.dtype(dtype).itemsize
    steps = [step // array.itemsize * size for step in array.strides]
    low = sum((n - 1) * step for n, step in zip(array.shape, steps) if step < 0)
    high = sum((n - 1) * step for n, step in zip(array.shape, steps) if step > 0) + size
    return np.ndarray(array.shape, dtype, np.zeros(high - low, np.uint8), -low, steps)


@pytest.mark.parametrize(
    "code",
    [
        "products_in_bounds(0, 400)", "copies_and_sums()",
        "formulas_in_bounds([1, 7, 33, 513])",
        *(pytest.param(code, marks=pytest.mark.slow) for code in (
            "products_of_every_shape()", "formulas_in_bounds([*range(1, 70), *range(505, 520), 1023, 1025])",
            *(f"products_in_bounds({seed}, 1_000)" for seed in range(1, 3)))),
    ],
)  # fmt: skip
def test_every_byte_is_its_own(code):
    setting = "config.NUMBA_NUM_THREADS, matmul.ONE_THREAD = 4, 1"
    assert in_child(__file__, f"{setting}\n{code}", timeout=3000) == "in bounds"
