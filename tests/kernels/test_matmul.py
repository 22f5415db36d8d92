"""Matrix products: right to the rounding, the same bits however they are cut, never a byte out of bounds."""

import functools
import itertools
import os
import pickle
import platform
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numba import config

from kernels.guarded import guarded, in_child, needs_guards
from kernels.packed import matmul_packed, pack
from tinygrad_rnn.kernels import macro_kernel, products, threads, vector
from tinygrad_rnn.kernels import matmul as module
from tinygrad_rnn.kernels import team as team_module
from tinygrad_rnn.kernels.matmul import copy, fill_panels, matmul, multiply
from tinygrad_rnn.kernels.matmul import product as in_kernel
from tinygrad_rnn.kernels.matmul import sum_rows as add_up
from tinygrad_rnn.kernels.outline import kernel
from tinygrad_rnn.kernels.team import team

compiled = pytest.mark.skipif(bool(config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT=1: nothing is compiled")

DTYPES = [np.float32, np.float64]
WIDER = {np.float32: np.float64, np.float64: np.longdouble}
# Shapes [M, K] @ [K, N] that take every way through the code: rows, columns, thin, ragged, deep and empty ones.
SHAPES = [
    (1, 1, 1), (1, 70, 300), (300, 70, 1), (1, 70, 3), (2, 3, 4), (4, 40, 64), (5, 33, 47), (8, 257, 130), (9, 9, 9),
    (13, 600, 37), (33, 20, 31), (64, 64, 64), (131, 300, 129), (270, 260, 70), (3, 0, 5), (1, 0, 4), (0, 3, 4),
    (4, 3, 0), (1, 5000, 2),
]  # fmt: skip


def random(rng, *shape, dtype=np.float32):
    return rng.standard_normal(shape).astype(dtype)


def as_c(x):
    return x.copy()


def as_fortran(x):
    return x.swapaxes(-1, -2).copy().swapaxes(-1, -2)


def as_slice(x):
    room = np.full((*x.shape[:-2], 2 * x.shape[-2] + 1, 3 * x.shape[-1] + 1), np.nan, x.dtype)
    view = room[..., 1::2, 1::3]
    view[...] = x
    return view


def as_backwards(x):
    view = np.empty_like(x)[..., ::-1, ::-1]
    view[...] = x
    return view


def as_columns_of_more(x):
    room = np.full((*x.shape[:-1], x.shape[-1] + 5), np.nan, x.dtype)
    view = room[..., 2 : 2 + x.shape[-1]]
    view[...] = x
    return view


def as_misaligned(x):
    view = np.empty(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


LAYOUTS = [as_c, as_fortran, as_slice, as_backwards, as_columns_of_more, as_misaligned]


class Expected:
    """a @ b in wider arithmetic, and the bound on the error of a sum in any order."""

    def __init__(self, a, b):
        wide = WIDER[a.dtype.type]
        self.dtype, self.terms = a.dtype, a.shape[-1] + 2
        self.product = np.matmul(a.astype(wide), b.astype(wide))
        self.size = np.matmul(abs(a).astype(wide), abs(b).astype(wide))

    def check(self, result, before=0):
        assert result.dtype == self.dtype and result.shape == self.product.shape
        bound = self.terms * np.finfo(self.dtype).eps * (self.size + abs(before))
        assert (abs(result - self.product - before) <= bound).all()


sizes = st.one_of(st.integers(0, 40), st.sampled_from([63, 64, 65, 127, 128, 129, 255, 256, 257, 300, 520]))


@settings(max_examples=150)
@given(
    st.tuples(sizes, sizes, sizes), st.sampled_from(DTYPES), st.tuples(*[st.sampled_from(LAYOUTS)] * 3),
    st.integers(0, 2**32 - 1),
)  # fmt: skip
@example((8, 3, 32), np.float32, (as_c, as_c, as_fortran), 0)
def test_products_of_any_shape_and_strides(shape, dtype, layouts, seed):
    M, K, N = shape
    assume(M * N * K < 5_000_000)
    rng = np.random.default_rng(seed)
    lay_a, lay_b, lay_c = layouts
    a, b = lay_a(random(rng, M, K, dtype=dtype)), lay_b(random(rng, K, N, dtype=dtype))
    c = random(rng, M, N, dtype=dtype)
    expected, fresh, packed = Expected(a, b), matmul(a, b), pack(b)
    expected.check(fresh)
    expected.check(matmul_packed(a, packed))
    out = lay_c(np.full_like(c, np.nan))
    assert matmul(a, b, out) is out
    assert np.array_equal(out, fresh)  # also: what `out` held is forgotten
    expected.check(matmul(a, b, lay_c(c), accumulate=True), before=c)
    expected.check(matmul_packed(a, packed, lay_c(c), accumulate=True), before=c)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_way_through_the_code(shape, dtype):
    M, K, N = shape
    rng = np.random.default_rng(0)
    a, b = random(rng, M, K, dtype=dtype), random(rng, K, N, dtype=dtype)
    expected = Expected(a, b)
    for lay_a, lay_b in itertools.product(LAYOUTS, LAYOUTS):
        expected.check(matmul(lay_a(a), lay_b(b)))
    for lay in LAYOUTS:
        expected.check(matmul_packed(lay(a), pack(lay(b))))


@pytest.mark.parametrize(
    ("batch_a", "batch_b"),
    [
        ((5,), (5,)), ((5,), ()), ((), (5,)), ((2, 1, 3), (4, 3)), ((2, 1), (1, 3)), ((0,), (1,)), ((1, 1), ()),
        ((7,), (1,)),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("dtype", DTYPES)
def test_batches_broadcast(batch_a, batch_b, dtype):
    rng = np.random.default_rng(1)
    a, b = random(rng, *batch_a, 9, 17, dtype=dtype), random(rng, *batch_b, 17, 35, dtype=dtype)
    expected = Expected(a, b)
    for lay in LAYOUTS:
        y = matmul(lay(a), lay(b))
        expected.check(y)
        out = lay(np.full_like(y, np.nan))
        assert matmul(a, b, out) is out
        expected.check(out)
        expected.check(matmul(a, b, out, accumulate=True), before=y)


def test_operands_may_repeat_one_element():
    rng = np.random.default_rng(2)
    a, b = np.broadcast_to(random(rng, 1, 20), (30, 20)), np.broadcast_to(random(rng, 20, 1), (20, 70))
    Expected(a, b).check(matmul(a, b))
    Expected(b.T, a.T).check(matmul(b.T, a.T))
    one = np.broadcast_to(np.float32(0.5), (40, 40))
    assert (matmul(one, one) == 10).all() and (matmul_packed(one, pack(one)) == 10).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [s for s in SHAPES if s[1]], ids=str)
@pytest.mark.filterwarnings("ignore:invalid value encountered in matmul")
def test_nan_and_infinity_go_where_they_belong(shape, dtype):
    M, K, N = shape
    rng = np.random.default_rng(3)
    for poison in (np.nan, np.inf, -np.inf):
        for other in (1.0, 0.0):  # zero times infinity is not a number
            for lay_a, lay_b in ((as_c, as_c), (as_fortran, as_fortran), (as_c, as_fortran)):
                a, b = lay_a(abs(random(rng, M, K, dtype=dtype))), lay_b(abs(random(rng, K, N, dtype=dtype)))
                a[M // 2 : M // 2 + 1, K // 3] = poison
                b[K // 3] = other
                expected = np.matmul(a, b)
                finite = np.isfinite(expected)
                for y in (matmul(a, b), matmul_packed(a, pack(b)), matmul(b.T, a.T).T):
                    assert np.array_equal(np.isfinite(y), finite)
                    assert np.array_equal(y[~finite], expected[~finite], equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_dtype_may_be_a_copy_of_numpys_own(dtype):
    """As it is after unpickling."""
    rng = np.random.default_rng(4)
    a, b = random(rng, 5, 4, dtype=dtype), random(rng, 4, 3, dtype=dtype)
    expected = matmul(a, b)
    copied = pickle.loads(pickle.dumps(a))
    assert copied.dtype == a.dtype and np.array_equal(matmul(copied, b), expected)
    out = pickle.loads(pickle.dumps(np.zeros((5, 3), dtype)))
    for x in (a, copied):
        assert matmul(x, b, out) is out and np.array_equal(out, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_out_may_overlap_the_operands(dtype):
    rng = np.random.default_rng(4)
    a, b = random(rng, 40, 40, dtype=dtype), random(rng, 40, 40, dtype=dtype)
    product, total = matmul(a, b), matmul(a, b, a.copy(), accumulate=True)
    for target in (lambda a, b: a, lambda a, b: b):
        x, y = a.copy(), b.copy()
        out = target(x, y)
        assert matmul(x, y, out) is out and np.array_equal(out, product)
    x = a.copy()
    assert np.array_equal(matmul(x, b, x, accumulate=True), total)
    x = a.copy()
    assert np.array_equal(matmul(x, b, x.T), product)
    room = random(rng, 50, 40, dtype=dtype)
    first, last = room[:40], room[10:]
    expected = matmul(first, b)
    assert np.array_equal(matmul(first, b, last), expected)


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_does_not_depend_on_the_rows_beside_it(dtype):
    rng = np.random.default_rng(5)
    a, b = random(rng, 150, 700, dtype=dtype), random(rng, 700, 200, dtype=dtype)
    y = matmul(a, b)
    packed = pack(b)
    for rows in (slice(0, 1), slice(3, 5), slice(7, 12), slice(100, 109), slice(140, 150)):
        assert np.array_equal(matmul(a[rows], b), y[rows])
        assert np.array_equal(matmul_packed(a[rows], packed), y[rows])
        assert np.array_equal(matmul(as_fortran(a)[rows], as_slice(b)), y[rows])
    for columns in (slice(30, 100), slice(64, 200)):
        assert np.array_equal(matmul(a, b[:, columns]), y[:, columns])


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_of_few_columns_does_not_depend_on_the_rows_beside_it(dtype):
    """A single row of one panel takes several chains along k at a time: the same ones that several rows have."""
    rng = np.random.default_rng(8)
    for K, N in itertools.product((1, 15, 127, 128, 129, 130, 131, 255, 256, 257, 600), (2, 5, 15, 16, 17, 31, 32, 33)):
        a, b, c = random(rng, 13, K, dtype=dtype), random(rng, K, N, dtype=dtype), random(rng, 13, N, dtype=dtype)
        packed = pack(b)
        y, total = matmul_packed(a, packed), matmul_packed(a, packed, c.copy(), accumulate=True)
        assert np.array_equal(matmul(a, b), y)
        np.testing.assert_allclose(y, a.astype(np.float64) @ b, rtol=0, atol=K * np.finfo(dtype).eps * 10)
        for rows in (slice(0, 1), slice(12, 13), slice(3, 5), slice(2, 11)):
            assert np.array_equal(matmul(a[rows], b), y[rows])
            assert np.array_equal(matmul_packed(a[rows], packed), y[rows])
            assert np.array_equal(matmul_packed(as_fortran(a)[rows], packed), y[rows])
            assert np.array_equal(matmul_packed(a[rows], packed, c[rows].copy(), accumulate=True), total[rows])
            wide = np.full((rows.stop - rows.start, N + 3), 7, dtype)
            assert np.array_equal(matmul_packed(a[rows], packed, wide[:, :N]), y[rows]) and (wide[:, N:] == 7).all()
            turned = np.zeros((N, rows.stop - rows.start), dtype).T
            assert np.array_equal(matmul_packed(a[rows], packed, turned), y[rows])
            assert np.array_equal(matmul(a[rows], b, turned), y[rows])


def test_arrays_of_other_kinds(tmp_path):
    """What the entry refuses because it does not know it: subclasses, and dtypes that are equal but not the same."""
    rng = np.random.default_rng(12)
    a, b = random(rng, 6, 30), random(rng, 30, 40)
    expected = matmul(a, b)
    mapped = np.memmap(tmp_path / "a", np.float32, "w+", shape=a.shape)
    mapped[...] = a
    marked = b.view(np.dtype(np.float32, metadata={"unit": "m"}))
    assert marked.dtype is not b.dtype
    out = np.zeros((6, 40), np.float32).view(np.memmap)
    for x, y in ((mapped, b), (a, marked), (mapped, marked)):
        assert np.array_equal(matmul(x, y), expected)
        assert matmul(x, y, out) is out and np.array_equal(out, expected)
    stack = np.stack([a, a])
    assert np.array_equal(matmul(stack, marked), np.stack([expected, expected]))


def test_errors_name_what_is_wrong():
    a, b = np.ones((3, 4), np.float32), np.ones((4, 5), np.float32)
    with pytest.raises(TypeError, match="dtypes differ: a is float32, b is float64"):
        matmul(a, b.astype(np.float64))
    with pytest.raises(TypeError, match="expected float32 or float64 arrays, got int64"):
        matmul(np.ones((2, 2), np.int64), np.ones((2, 2), np.int64))
    with pytest.raises(TypeError, match=r"got [<>]f4"):
        matmul(a.astype(a.dtype.newbyteorder()), b.astype(b.dtype.newbyteorder()))
    with pytest.raises(ValueError, match=r"inner dimensions differ: a is \[3, 4\], b is \[3, 4\]"):
        matmul(a, a)
    with pytest.raises(ValueError, match=r"inner dimensions differ: a is \[4\]"):
        matmul(a[0], b)
    with pytest.raises(ValueError, match="nothing to add to"):
        matmul(a, b, accumulate=True)
    read_only = np.ones((3, 5), np.float32)
    read_only.flags.writeable = False
    for out in (np.ones((3, 4), np.float32), np.ones((3, 5)), read_only):
        with pytest.raises(ValueError, match=r"expected a writable array \[3, 5\] of float32"):
            matmul(a, b, out)


# ---- Memory ----------------------------------------------------------------------------------------------------------


def touch_the_fences():
    """What `test_no_access_out_of_bounds` does in a process of its own, because a stray access ends the process."""
    rng = np.random.default_rng(6)
    for dtype in DTYPES:
        for M, K, N in [s for s in SHAPES if 0 not in s]:
            for end in ("after", "before"):
                for flip_a, flip_b, flip_c in np.ndindex(2, 2, 2):
                    a = random(rng, *((K, M) if flip_a else (M, K)), dtype=dtype)
                    b = random(rng, *((N, K) if flip_b else (K, N)), dtype=dtype)
                    c = np.zeros((N, M) if flip_c else (M, N), dtype)
                    a, b, c = (guarded(x, end) for x in (a, b, c))
                    a, b, c = (x.T if flip else x for x, flip in ((a, flip_a), (b, flip_b), (c, flip_c)))
                    packed = pack(b)
                    packed = packed._replace(panels=guarded(packed.panels, end))
                    for accumulate in (False, True):
                        matmul(a, b, c, accumulate)
                        matmul_packed(a, packed, c, accumulate)
    print("never out of bounds")


@compiled
@needs_guards
def test_no_access_out_of_bounds():
    assert run_python("touch_the_fences()") == "never out of bounds"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_nothing_is_written_beside_out(shape, dtype):
    M, K, N = shape
    rng = np.random.default_rng(7)
    a, b = random(rng, M, K, dtype=dtype), random(rng, K, N, dtype=dtype)
    for step in (1, 2):
        room = np.full((step * M + 7, step * N + 99), 77, dtype)
        inside = np.zeros(room.shape, bool)
        window = slice(3, 3 + step * M, step), slice(40, 40 + step * N, step)
        inside[window] = True
        matmul(a, b, room[window])
        matmul_packed(a, pack(b), room[window], accumulate=True)
        assert (room[~inside] == 77).all()


run_python = functools.partial(in_child, __file__)


# ---- Vectors ---------------------------------------------------------------------------------------------------------


def multiply_with_other_registers():
    """For a kind of processor that may be narrower than this one."""
    rng = np.random.default_rng(11)
    for (M, K, N), dtype in itertools.product(SHAPES, DTYPES):
        a, b = random(rng, M, K, dtype=dtype), random(rng, K, N, dtype=dtype)
        expected = Expected(a, b)
        for lay_a, lay_b in itertools.product((as_c, as_fortran, as_slice), repeat=2):
            expected.check(matmul(lay_a(a), lay_b(b)))
    print(vector.HOST.name)


@compiled
@pytest.mark.parametrize("some", [slice(0, None, 2), pytest.param(slice(1, None, 2), marks=pytest.mark.slow)], ids=str)
def test_every_kind_of_registers_computes_the_same(some):
    others = [name for name in vector.KINDS if name != vector.HOST.name][some]
    reports = {}

    def check(names):
        for name in names:
            reports[name] = run_python("multiply_with_other_registers()", TINYGRAD_RNN_VECTORS=name)

    halves = [threading.Thread(target=check, args=(others[i::2],)) for i in range(2)]
    for half in halves:
        half.start()
    for half in halves:
        half.join()
    assert reports == {name: name for name in others}


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the processors are those of x86")
@pytest.mark.parametrize(
    ("name", "features", "kind"),
    [
        ("x86-64-v4", "+prefer-256-bit", "avx512"), ("znver4", "", "avx512"), ("x86-64", "+avx512f", "avx512"),
        ("x86-64-v4", "-avx512f", "avx2"), ("haswell", "", "avx2"), ("x86-64", "+avx2,+fma", "avx2"),
        ("haswell", "-fma", "avx"), ("sandybridge", "", "avx"), ("haswell", "-avx", "sse2"), ("generic", "", "sse2"),
    ],
)  # fmt: skip
def test_registers_are_those_of_the_processor_that_is_named(name, features, kind, monkeypatch):
    """Also where it is the name that says what there is, or one feature that takes others along or away."""
    monkeypatch.delenv("TINYGRAD_RNN_VECTORS", raising=False)
    monkeypatch.setattr(config, "CPU_NAME", name)
    monkeypatch.setattr(config, "CPU_FEATURES", features)
    assert vector._host().name == kind


def test_an_unknown_kind_of_registers_is_an_error(monkeypatch):
    monkeypatch.setenv("TINYGRAD_RNN_VECTORS", "mmx")
    with pytest.raises(ValueError, match="'mmx', expected one of avx512, avx2"):
        vector._host()


@pytest.mark.parametrize("kind", vector.KINDS.values(), ids=lambda kind: kind.name)
def test_a_block_fits_in_the_registers(kind):
    registers = {"avx512": 32, "neon": 32}.get(kind.name, 16)
    spare = 0 if kind.fma else 1  # for the product, before it is added
    assert kind.rows * kind.vectors + kind.vectors + 1 + spare <= registers
    assert macro_kernel.MC % vector.MR == 0


@compiled
@pytest.mark.skipif(vector.HOST.name not in ("avx512", "avx2"), reason="knows the instructions of x86 only")
def test_the_inner_loop_is_made_of_vector_instructions():
    """The loops over k of a whole block: multiply-adds in every accumulator, and no sum that is kept in memory."""
    loops = products.products("float32").library.assembly().split("\n.LBB")
    register = {"avx512": "zmm", "avx2": "ymm"}[vector.HOST.name]
    fused = [[line for line in loop.splitlines() if re.search(rf"vfmadd.*ps.*%{register}", line)] for loop in loops]
    for unroll in (macro_kernel.UNROLL_PANELS, macro_kernel.UNROLL_ROWS):
        blocks = [loop for loop, found in zip(loops, fused) if len(found) == unroll * vector.MR * vector.VECTORS]
        assert blocks and not any(re.search(rf"vmovups\s+%{register}\d+, ", block) for block in blocks)


# ---- Inside compiled code --------------------------------------------------------------------------------------------


@functools.cache
def caller():
    """A kernel that uses `multiply`, on some rows of arrays."""

    @kernel()
    def some_rows(a, b, c, lo, hi, accumulate):
        multiply(a[lo:], b, c[lo:], hi - lo, c.shape[1], a.shape[1], accumulate)

    return some_rows


@compiled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 40, 200), (7, 65, 130), (33, 300, 70), (4, 0, 9)], ids=str)
def test_multiply_inside_compiled_code(shape, dtype):
    some_rows = caller()
    M, K, N = shape
    rng = np.random.default_rng(8)
    a, b = np.empty((2 * M, 3 * K), dtype)[::2, ::3], random(rng, K, N, dtype=dtype)
    a[...] = random(rng, M, K, dtype=dtype)
    packed = pack(b)
    for columns in (N, 2 * N):
        c = np.full((M, columns), np.nan, dtype)[:, :: columns // N]
        for lo, hi in ((0, M // 3), (M // 3, M)):
            some_rows(a, packed.panels, c, lo, hi, False)
        assert np.array_equal(c, matmul_packed(a, packed))
        before = c.copy()
        some_rows(a, packed.panels, c, 0, M, True)
        assert np.array_equal(c, matmul_packed(a, packed, before, accumulate=True))


def multiply_before_anything_is_packed():
    """`multiply` is made when it is first called, which may be in code without the interpreter's lock."""
    some_rows = caller()
    a, c = np.eye(5, dtype=np.float32), np.empty((5, 3), np.float32)
    b = np.zeros((1, 5, vector.ROW_BYTES // 4), np.float32)
    b[0, :, :3] = np.arange(15).reshape(5, 3)
    before = products.products.cache_info().misses
    some_rows(a, b, c, 0, 5, False)
    print(before, products.products.cache_info().misses, np.array_equal(c, b[0, :, :3]))


@compiled
def test_multiply_is_made_when_it_is_called():
    assert run_python("multiply_before_anything_is_packed()") == "0 1 True"


@compiled
def test_without_a_writable_folder():
    line = "from tinygrad_rnn.kernels import cache; cache._directory = lambda: None; a = np.eye(9, dtype=np.float32)"
    assert run_python(f"{line}; print((matmul(a, a) == a).all())") == "True"


def multiply_in_python():
    """A few of the tests above, where NUMBA_DISABLE_JIT is set."""
    for dtype in DTYPES:
        test_every_way_through_the_code((13, 60, 37), dtype)
        test_every_way_through_the_code((3, 0, 5), dtype)
        test_batches_broadcast((2, 1), (3,), dtype)
    print(config.DISABLE_JIT)


def test_without_a_compiler():
    assert run_python("multiply_in_python()", NUMBA_DISABLE_JIT="1") == "1"


# ---- Threads ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def four_threads(monkeypatch):
    """Four threads whatever the machine has, and threads for every product, however small."""
    monkeypatch.setattr(config, "NUMBA_NUM_THREADS", 4)
    monkeypatch.setattr(threads, "_num_threads", 0)
    monkeypatch.setattr(module, "ONE_THREAD", 1)


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*SHAPES, (1, 300, 2000), (2000, 300, 1), (2000, 40, 10), (64, 64, 1000)], ids=str)
def test_bits_do_not_depend_on_the_number_of_threads(shape, dtype):
    M, K, N = shape
    rng = np.random.default_rng(9)
    for lay_a, lay_b in ((as_c, as_c), (as_fortran, as_c), (as_c, as_fortran)):
        a, b = lay_a(random(rng, M, K, dtype=dtype)), lay_b(random(rng, K, N, dtype=dtype))
        batch_a = lay_a(random(rng, 5, M, K, dtype=dtype))
        results = []
        for n in (1, 2, 3, 4):
            threads.set_num_threads(n)
            results.append((matmul(a, b), matmul(batch_a, b)))
        for other in results[1:]:
            assert all(np.array_equal(x, y) for x, y in zip(results[0], other))


@compiled
@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize("count", [150, pytest.param(1000, marks=pytest.mark.slow)])
def test_bits_of_products_at_random_do_not_depend_on_the_number_of_threads(count, monkeypatch):
    """Narrow ones, which have shorter chains, ragged last pieces, results by columns, what is added to: all of them."""
    monkeypatch.setattr(config, "NUMBA_NUM_THREADS", 9)
    rng = np.random.default_rng(14)
    for n in range(count):
        dtype = DTYPES[n % 2]
        panel = vector.ROW_BYTES // np.dtype(dtype).itemsize
        M = rng.choice([1, 2, vector.MR + 1, rng.integers(1, 40), rng.integers(1, 400)])
        N = rng.choice([1, panel, panel + 1, 3 * panel + 1, rng.integers(1, panel), rng.integers(1, 400)])
        K = rng.choice([1, 127, 128, 129, 256, 257, rng.integers(1, 300), rng.integers(1, 1100)])
        lay_a, lay_b, lay_c = (LAYOUTS[k] for k in rng.integers(len(LAYOUTS), size=3))
        a, b = lay_a(random(rng, M, K, dtype=dtype)), lay_b(random(rng, K, N, dtype=dtype))
        c, add = random(rng, M, N, dtype=dtype), bool(n // 2 % 2)
        results = []
        for several in (1, int(rng.integers(2, 10)), int(rng.integers(2, 10))):
            threads.set_num_threads(several)
            results.append(matmul(a, b, lay_c(c), add))
        for other in results[1:]:
            assert np.array_equal(results[0], other), (M, K, N, dtype, lay_a, lay_b, lay_c, add)


@pytest.mark.usefixtures("four_threads")
def test_several_python_threads_may_multiply_at_once():
    rng = np.random.default_rng(10)
    a, b = random(rng, 200, 100), random(rng, 100, 300)
    expected = matmul(a, b)
    with ThreadPoolExecutor(5) as callers:
        same = callers.map(lambda _: all(np.array_equal(matmul(a, b), expected) for _ in range(30)), range(5))
        assert all(same)


def product_and_its_value(n=150):
    rng = np.random.default_rng(13)
    a, b = random(rng, n, n), random(rng, n, n)
    threads.set_num_threads(1)
    expected = matmul(a, b)
    threads.set_num_threads(4)
    return a, b, expected


def parked():
    """Which helpers are."""
    return [team._read(team_module.FIRST_HELPER + 64 * k) == 1 for k in range(len(team.helpers))]


def until_helpers_park():
    deadline = time.monotonic() + 30
    while not all(parked()):
        assert time.monotonic() < deadline
        time.sleep(0.001)


@compiled
@pytest.mark.usefixtures("four_threads")
def test_products_do_not_wait_for_helpers_that_never_come(monkeypatch):
    a, b, expected = product_and_its_value()
    monkeypatch.setattr(team_module, "team", crew := team_module.Team())
    monkeypatch.setattr(module, "team", crew)
    products.products.cache_clear()  # machine code of this team
    monkeypatch.setattr(module, "_entries", module._Entries())
    monkeypatch.setattr(products, "team", crew)
    monkeypatch.setattr(team_module, "_serve", lambda *arguments: None)  # started, and gone
    for _ in range(3):
        assert np.array_equal(matmul(a, b), expected)
    assert len(crew.helpers) == 3 and not any(helper.is_alive() for helper in crew.helpers)
    products.products.cache_clear()


@compiled
@pytest.mark.usefixtures("four_threads")
def test_products_without_helpers(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    a, b, expected = product_and_its_value()
    team.stop()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert np.array_equal(matmul(a, b), expected) and not team.helpers
    monkeypatch.undo()


@compiled
@pytest.mark.usefixtures("four_threads")
def test_helpers_sleep_soon_after_a_product_and_wake_for_the_next():
    a, b, expected = product_and_its_value()
    for _ in range(5):
        assert np.array_equal(matmul(a, b), expected)
        until_helpers_park()
        before = time.process_time()
        time.sleep(0.02)
        assert all(parked()) and time.process_time() - before < 0.02


@compiled
@pytest.mark.skipif(not team_module.PLACED, reason="the system places threads as it likes")
@pytest.mark.usefixtures("four_threads")
def test_helpers_are_woken_on_other_processors_than_the_callers():
    a, b, expected = product_and_its_value()
    everywhere = os.sched_getaffinity(0)
    assert np.array_equal(matmul(a, b), expected)
    try:
        for here in sorted(everywhere)[:3]:
            os.sched_setaffinity(0, {here})
            for k, helper in enumerate(team.helpers):  # as if just started: where they are may be {here}, see below
                os.sched_setaffinity(helper.native_id, everywhere)
                team._write(team_module.FIRST_HELPER + 64 * k + team_module.AVOIDED, 0)
            until_helpers_park()
            assert np.array_equal(matmul(a, b), expected)
            for helper in team.helpers:
                assert os.sched_getaffinity(helper.native_id) == (everywhere - {here} or everywhere)
    finally:
        os.sched_setaffinity(0, everywhere)


@compiled
@pytest.mark.skipif(not team_module.PLACED, reason="the system places threads as it likes")
@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize("who", ["all threads", "a helper"])
def test_helpers_stay_where_somebody_else_has_put_them(who):
    """As `taskset -a -p` does: whatever was set after they started is not undone."""
    a, b, expected = product_and_its_value()
    everywhere = os.sched_getaffinity(0)
    team.stop()
    assert np.array_equal(matmul(a, b), expected)
    try:
        for there in [*sorted(everywhere)[:2]] * 2:
            for before in sorted(everywhere)[:2]:  # where they were sent from here may be where they are put
                os.sched_setaffinity(0, {before})
                until_helpers_park()
                assert np.array_equal(matmul(a, b), expected)
                put = team.helpers if who == "all threads" else team.helpers[:1]
                for helper in put:
                    os.sched_setaffinity(helper.native_id, {there})
                for here in [there] if who == "all threads" else sorted(everywhere)[:3]:
                    os.sched_setaffinity(0, {here})
                    until_helpers_park()
                    assert np.array_equal(matmul(a, b), expected)
                    assert [os.sched_getaffinity(helper.native_id) for helper in put] == [{there}] * len(put)
    finally:
        os.sched_setaffinity(0, everywhere)
        team.stop()  # others start where they may be


@pytest.mark.skipif(not team_module.PLACED, reason="the system places threads as it likes")
def test_processors_beyond_what_a_set_has_room_for(monkeypatch):
    """There threads stay where they are: `PROCESSORS`, one less than the sets, is 0."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 8 * team_module.SET_BYTES})
    assert len(team_module._sets_without_one()) == 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 8 * team_module.SET_BYTES - 1})
    assert len(team_module._sets_without_one()) == 8 * team_module.SET_BYTES + 1


@compiled
@pytest.mark.usefixtures("four_threads")
def test_a_stopped_team_starts_again():
    a, b, expected = product_and_its_value()
    for _ in range(3):
        assert np.array_equal(matmul(a, b), expected)
        helpers = list(team.helpers)
        assert len(helpers) == 3 and all(helper.is_alive() for helper in helpers)
        team.stop()
        assert not any(helper.is_alive() for helper in helpers) and not team.helpers


def multiply_until_the_end():
    """The process ends while another thread multiplies, and while helpers look for work."""
    config.NUMBA_NUM_THREADS, module.ONE_THREAD = 4, 1
    a = np.eye(300, dtype=np.float32)

    def forever():
        while True:
            matmul(a, a)

    threading.Thread(target=forever, daemon=True).start()
    for _ in range(100):
        matmul(a, a)
    print("ended")


def test_threads_hand_their_rooms_on():
    def work():
        matmul(np.eye(4), np.eye(4))
        rooms.append(module.workspace.address)

    rooms = []
    for _ in range(3):
        worker = threading.Thread(target=work)
        worker.start()
        worker.join()
    assert len(set(rooms)) == 1 and rooms[0] != module.workspace.address


@compiled
def test_the_process_may_end_at_any_time():
    assert run_python("multiply_until_the_end()") == "ended"


def multiply_in_a_forked_child():
    """Threads before and after a fork, in the parent and in the child."""
    config.NUMBA_NUM_THREADS, module.ONE_THREAD = 4, 1
    a = np.eye(300, dtype=np.float32)
    helpers = 0 if config.DISABLE_JIT else 3
    assert np.array_equal(matmul(a, a), a) and len(team.helpers) == helpers
    child = os.fork()
    if child == 0:
        forgotten = not team.helpers
        works = np.array_equal(matmul(a, a), a) and len(team.helpers) == helpers
        os._exit(0 if forgotten and works else 1)
    _, status = os.waitpid(child, 0)
    assert np.array_equal(matmul(a, a), a)
    print(status)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_threads_work_after_a_fork():
    assert run_python("multiply_in_a_forked_child()") == "0"


@pytest.mark.usefixtures("four_threads")
def test_the_number_of_threads():
    assert threads.get_num_threads() == 4
    threads.set_num_threads(2)
    assert threads.get_num_threads() == 2
    threads.set_num_threads(np.int64(3))
    assert threads.get_num_threads() == 3
    for n in (0, -1, 5):
        with pytest.raises(ValueError, match=rf"set_num_threads\({n}\): expected 1 to 4; .* set NUMBA_NUM_THREADS"):
            threads.set_num_threads(n)
    for n in (1.0, "2", None, True):
        with pytest.raises(TypeError, match="must be an integer"):
            threads.set_num_threads(n)
    assert threads.get_num_threads() == 3


@pytest.mark.skipif(bool(config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT=1: nothing is compiled")
@pytest.mark.parametrize("dtype", DTYPES)
def test_compiled_code_finds_the_same_products_panels_copies_and_sums(dtype):
    @kernel()
    def copy_into(a, c):
        copy(a, c[1:], a.shape[0], a.shape[1])

    def copied(a):
        copy_into(a, c := np.zeros((len(a) + 2, a.shape[1] + 1), a.dtype))
        return c

    @kernel()
    def product_into(a, b, c, room, threads, twice):
        in_kernel(a, b, c, len(a), b.shape[1], len(b), False, room, threads)
        if twice:
            in_kernel(a, b, c, len(a), b.shape[1], len(b), True, room, threads)

    def product(a, b, room, threads, twice):
        product_into(a, b, c := np.zeros((len(a), b.shape[1] + 1), a.dtype), room, threads, int(twice))
        return c

    @kernel()
    def pack_into(b, panels):
        fill_panels(b, panels, b.shape[0], b.shape[1])

    def packed(b, like):
        pack_into(b, panels := np.full_like(like, 7))
        return panels

    @kernel()
    def sum_into(a, y, count):
        add_up(a, y, 1, count, a.shape[1])

    def sum_rows(a, count):
        sum_into(a, y := np.full(a.shape[1] + 2, 7, a.dtype), count)
        return y

    rng = np.random.default_rng(6)
    module.team.start(2, products.WORKSPACE_BYTES)
    for M, K, N in ((1, 1, 1), (1, 32, 96), (3, 5, 7), (33, 300, 70), (150, 200, 170)):
        a, w = random(rng, M, K, dtype=dtype), random(rng, N, K, dtype=dtype)
        for x, b in ((a, w.T), (np.asfortranarray(a), w.T), (a, w.T.copy())):
            for count in (0, 1, 3):
                c = product(x, b, module.workspace.address, count, False)
                assert np.array_equal(c[:, :-1], matmul(x, b)) and not c[:, -1].any()
                c = product(x, b, module.workspace.address, count, True)
                assert np.array_equal(c[:, :-1], matmul(x, b, matmul(x, b), True)) and not c[:, -1].any()
            assert np.array_equal(packed(b, pack(b).panels), pack(b).panels)
            c = copied(x)
            assert np.array_equal(c[1:-1, :-1], x) and not c[0].any() and not c[-1].any() and not c[:, -1].any()
        y = sum_rows(a, M)
        assert np.array_equal(y[1:-1], np.add.reduce(a, axis=0)) and y[0] == y[-1] == 7
        assert (sum_rows(a, 0) == 7).all()  # no rows: nothing is written
