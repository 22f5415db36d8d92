"""Formulas as ufuncs: NumPy's values for every kind of memory, and machine code that works on vectors."""

import ctypes
import platform
import re
import threading
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from numba import config

from tinygrad_rnn.autograd.primitive import ElementwisePrimitive
from tinygrad_rnn.autograd.table import TABLE
from tinygrad_rnn.kernels import cache, vector
from tinygrad_rnn.kernels.elementwise import Elementwise, _ufunc, scalar_code
from tinygrad_rnn.kernels.inner_loop import BLOCK

compiled = pytest.mark.skipif(bool(config.DISABLE_JIT), reason="NUMBA_DISABLE_JIT=1: nothing is compiled")

axpy = Elementwise("axpy", "a x y", {"z": "a * x + y"})
pair = Elementwise("pair", "x y", {"s": "x + y", "d": "x - y"})


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-2, 2, shape)


def same(found, expected):
    """Equal but for the rounding of a product, which a fused multiply-add leaves out; the numbers are below 8."""
    assert found.dtype == expected.dtype and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=8 * np.finfo(found.dtype).eps)


def test_results_are_made_where_none_are_given():
    x, y = numbers(7), numbers(7, seed=1)
    for dtype in (np.float32, np.float64):
        a, b = x.astype(dtype), y.astype(dtype)
        s, d = pair(a, b)
        same(s, a + b)
        same(d, a - b)
        out = np.empty((2, 7), dtype)
        assert pair(a, b, out=(out[0], out[1]))[0] is not None and np.array_equal(out, [s, d])
        same(axpy(dtype(2), a, b), 2 * a + b)


# ---- Values ----------------------------------------------------------------------------------------------------------

SIZES = [0, 1, 3, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK + 7]

VIEWS = {
    "contiguous": lambda n: numbers(n),
    "strided": lambda n: numbers(3 * n)[::3],
    "reversed": lambda n: numbers(n)[::-1],
    "reversed and strided": lambda n: numbers(2 * n)[::-2],
    "a scalar repeated": lambda n: np.broadcast_to(numbers(1), n),
    "between others": lambda n: np.stack([numbers(n), np.full(n, np.nan)], 1)[:, 0],
    "a field of records": lambda n: np.rec.fromarrays([np.ones(n, np.int8), numbers(n)], names="flag,value")["value"],
    "not aligned": lambda n: np.frombuffer(b"?" + numbers(n).tobytes(), np.uint8)[1:].view(np.float64),
    "big-endian": lambda n: numbers(n).astype(">f8"),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("size", SIZES)
def test_one_dimension(size, view):
    """Blocks that are full and blocks that are not, of operands in every kind of memory."""
    x, y = VIEWS[view](size), numbers(size, seed=1)
    same(axpy.float64(2.0, x, y), 2.0 * x + y)
    same(axpy.float64(y, y, x), y * y + x)


@pytest.mark.parametrize("size", SIZES)
def test_float32(size):
    x, y = numbers(size).astype(np.float32), numbers(size, seed=1).astype(np.float32)
    same(axpy.float32(x, x[::-1], y), x * x[::-1] + y)
    same(axpy(np.float32(0.5), x, y), np.float32(0.5) * x + y)


@pytest.mark.parametrize(
    "shapes",
    [
        [(), (), ()],
        [(4, 1), (3,), ()],
        [(2, 3, 4), (4,), (3, 1)],
        [(5, 1, 1), (1, 0, 1), (3,)],
        [(1,), (600, 2), (2,)],
        [(2, 1), (1, 700), (2, 700)],
        [(0,), (1,), ()],
    ],
    ids=str,
)
def test_broadcasting(shapes):
    a, x, y = (numbers(*shape, seed=i) for i, shape in enumerate(shapes))
    same(np.asarray(axpy.float64(a, x, y)), np.asarray(a * x + y))


@pytest.mark.parametrize("order", ["transposed", "Fortran", "reversed", "every other", "repeated rows"])
def test_two_dimensions(order):
    x = {
        "transposed": lambda: numbers(70, 40).T,
        "Fortran": lambda: np.asfortranarray(numbers(40, 70)),
        "reversed": lambda: numbers(40, 70)[::-1, ::-1],
        "every other": lambda: numbers(80, 140)[::2, 1::2],
        "repeated rows": lambda: np.broadcast_to(numbers(70), (40, 70)),
    }[order]()
    y = numbers(40, 70, seed=1)
    same(axpy.float64(x, y, x), x * y + x)
    same(axpy.float64(x, x, x), x * x + x)


@compiled
def test_results_keep_the_order_of_their_operands():
    x = numbers(4, 5).T
    assert axpy.float64(2.0, x, x).flags.f_contiguous


def test_which_dtype_is_computed_in():
    single, double = np.ones(2, np.float32), np.ones(2)
    assert axpy(2, single, single).dtype == axpy(2.5, single, 1).dtype == np.float32
    assert axpy(single, double, 1).dtype == axpy(np.float64(2), single, 1).dtype == np.float64
    assert axpy(np.float16(2), single, np.int16(1)).dtype == np.float32


def test_several_results():
    x, y = numbers(3, BLOCK)[:, ::-1], numbers(BLOCK, seed=1)
    s, d = pair.float64(x, y)
    same(s, x + y)
    same(d, x - y)
    s, d = pair.float64(1.0, 2.0)
    assert (s, d) == (3, -1)


def test_values_in_between_and_new_values_of_operands():
    """Formulas see those before them; `outputs` says which are returned, and in what order."""
    kernel = Elementwise("between", "p g", {"m": "0.5 * p", "p": "p - g * m", "q": "p + m"}, "q p")
    p, g = numbers(7), numbers(7, seed=1)
    q, new = kernel.float64(p, g)
    same(new, p - g * (0.5 * p))
    same(q, new + 0.5 * p)


def test_numbers_in_formulas_do_not_promote():
    kernel = Elementwise("thirds", "x", {"y": "where(x > 1e-3, x / 3, -1)"})
    x = np.array([3, 0, -7, 1e-4], np.float32)
    same(kernel.float32(x), np.array([1, -1, -1, -1], np.float32))
    assert scalar_code("1 - x * tanh(2 * y)") == ("f(1) - x * tanh(f(2) * y)", {"tanh"})


# ---- Where results go ------------------------------------------------------------------------------------------------


def test_out():
    x, y, out = numbers(5, 6), numbers(6, seed=1), np.empty((5, 6))
    assert axpy.float64(2.0, x, y, out=out) is out
    same(out, 2 * x + y)
    strided = np.zeros((5, 12))
    axpy.float64(2.0, x, y, out=strided[:, ::2])
    same(strided[:, ::2], 2 * x + y)
    assert not strided[:, 1::2].any(), "something was written between the elements of out"
    backwards = np.empty((5, 6))
    axpy(2.0, x, y, out=backwards[::-1, ::-1])
    same(backwards[::-1, ::-1], 2 * x + y)


def test_out_of_several_results():
    x, y = numbers(BLOCK + 5), numbers(BLOCK + 5, seed=1)
    s, d = np.empty(BLOCK + 5), np.empty(2 * BLOCK + 10)[::2]
    found = pair.float64(x, y, out=(s, d))
    assert found[0] is s and found[1] is d
    same(s, x + y)
    same(d, x - y)


@pytest.mark.parametrize("size", SIZES)
def test_in_place(size):
    """An operand may be written over: each element is read before it is written, by both results."""
    x, y = numbers(size), numbers(size, seed=1)
    a, b = x.copy(), y.copy()
    axpy.float64(a, b, a, out=a)
    same(a, x * y + x)
    a, b = x.copy(), y.copy()
    pair.float64(a, b, out=(b, a))
    same(b, x + y)
    same(a, x - y)


@pytest.mark.parametrize("shift", [1, -1, 3, BLOCK, -BLOCK])
def test_overlapping_views(shift):
    """Out may share a part of an operand's memory: the result is as if it did not."""
    memory = numbers(3 * BLOCK)
    before = memory.copy()
    first, second = (slice(0, -abs(shift)), slice(abs(shift), None))
    source, target = (first, second) if shift > 0 else (second, first)
    axpy.float64(2.0, memory[source], memory[target], out=memory[target])
    expected = before.copy()
    expected[target] = 2.0 * before[source] + before[target]
    same(memory, expected)


def test_reversed_onto_itself():
    memory = numbers(2 * BLOCK + 3)
    before = memory.copy()
    axpy.float64(1.0, memory[::-1], 0.0, out=memory)
    same(memory, before[::-1])


# ---- One loop for what is contiguous, blocks for the rest ------------------------------------------------------------


@pytest.fixture
def watched():
    """The ufunc y = 2 x, with formulas that note the addresses and the number of elements of each call."""
    calls = []

    @ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_ssize_t), ctypes.c_ssize_t)
    def compute(operands, count):
        calls.append((operands[0], operands[1], count))
        pointers = (ctypes.cast(operands[i], ctypes.POINTER(ctypes.c_double)) for i in range(2))
        x, y = (np.ctypeslib.as_array(pointer, (count,)) for pointer in pointers)
        np.multiply(x, 2, out=y)

    address = ctypes.cast(compute, ctypes.c_void_p).value
    return _ufunc(SimpleNamespace(address=address, alive=compute), "twice", np.float64, 1, 1), calls


PIECES = [(0, BLOCK), (BLOCK, BLOCK), (2 * BLOCK, 7)]  # starts and sizes of the blocks of 2 * BLOCK + 7 elements


@compiled
@pytest.mark.parametrize("x", [numbers(5 * BLOCK), numbers(8, BLOCK), numbers(BLOCK, 8).T], ids=np.shape)
def test_contiguous_operands_are_one_loop(watched, x):
    """Of any number of dimensions, in place and into other memory: no copies, no blocks."""
    twice, calls = watched
    y, before = np.empty_like(x), x.copy()
    twice(x, out=y)
    np.testing.assert_array_equal(y, 2 * before)
    twice(x, out=x)
    np.testing.assert_array_equal(x, y)
    assert calls == [(x.ctypes.data, y.ctypes.data, x.size), (x.ctypes.data, x.ctypes.data, x.size)]


@compiled
def test_strided_and_repeated_operands_go_through_buffers(watched):
    """A buffer for each operand that is not contiguous, one for all blocks; the others are used as they are."""
    twice, calls = watched
    n = 2 * BLOCK + 7
    memory, spaced = numbers(6 * n), np.zeros(2 * n)
    wide, y = memory[: 3 * n], memory[5 * n :]  # what lies side by side is taken for what overlaps
    for x in (wide[::3], wide[::-3], np.broadcast_to(wide[5], n)):
        calls.clear()
        twice(x, out=y)
        np.testing.assert_array_equal(y, 2 * x)
        assert [(place, count) for _, place, count in calls] == [(y.ctypes.data + 8 * at, m) for at, m in PIECES]
        sources = {source for source, _, _ in calls}
        assert len(sources) == 1 and not 0 <= sources.pop() - wide.ctypes.data < wide.nbytes
    calls.clear()
    twice(wide[:n], out=spaced[::2])
    np.testing.assert_array_equal(spaced, np.stack([2 * wide[:n], np.zeros(n)], 1).ravel())
    assert [(source, count) for source, _, count in calls] == [(wide.ctypes.data + 8 * at, m) for at, m in PIECES]


@compiled
def test_a_row_is_repeated_without_copies(watched):
    """Each row of the result is a loop over the one row itself, where it is too wide for NumPy to join a few."""
    twice, calls = watched
    row, y = numbers(9000), np.empty((4, 9000))
    twice(np.broadcast_to(row, y.shape), out=y)
    np.testing.assert_array_equal(y, 2 * np.stack([row] * 4))
    assert calls == [(row.ctypes.data, target.ctypes.data, 9000) for target in y]


@compiled
def test_results_that_follow_their_input_through_memory_are_buffered(watched):
    """NumPy lets a loop read ahead of what it writes; one that works on vectors must not rely on the order."""
    twice, calls = watched
    memory = numbers(BLOCK + 3)
    before = memory.copy()
    twice(memory[3:], out=memory[:-3])
    np.testing.assert_array_equal(memory, [*2 * before[3:], *before[-3:]])
    assert not any(0 <= place - memory.ctypes.data < memory.nbytes for _, place, _ in calls)


@compiled
def test_out_of_the_wrong_shape_or_dtype_is_refused():
    with pytest.raises(ValueError, match="shape"):
        axpy.float64(2.0, np.ones(3), np.ones(3), out=np.empty(4))
    with pytest.raises(TypeError):
        axpy.float64(2.0, np.ones(3), np.ones(3), out=np.empty(3, np.int64))
    with pytest.raises(TypeError):
        axpy.float32(2.0, np.ones(3), np.ones(3, np.float32))  # float64 would lose digits


# ---- Silence ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ["div", "log", "sqrt", "exp", "pow"])
def test_no_warnings_leak(row):
    """Both branches of `where` are computed, so flags say nothing: not even an error state of "raise" sees them."""
    kernel = TABLE[row].kernel
    x = np.array([0.0, -1.0, 1e300, np.inf, np.nan, 800.0, 1e-310])
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        y = kernel.float64(*[x] * len(kernel.inputs))
        assert np.isnan(y).any()
        assert np.add(1.0, 1.0) == 2, "a flag of ours was blamed on NumPy's next operation"


# ---- Compilation -----------------------------------------------------------------------------------------------------


@compiled
def test_a_kernel_is_a_ufunc():
    assert isinstance(pair.float64, np.ufunc) and pair.float64 is pair.float64
    assert (pair.float64.nin, pair.float64.nout, pair.float64.__name__) == (2, 2, "pair")
    assert pair.float64.types == ["dd->dd"]


def test_nothing_is_compiled_before_the_first_call(monkeypatch):
    monkeypatch.setattr(cache, "load", lambda *args: pytest.fail("compiled too early"))
    kernel = Elementwise("never", "x", {"y": "exp(x)"})
    assert "exp(x)" in kernel.source(np.float64)


def test_many_threads_may_ask_for_a_kernel_at_once():
    kernel = Elementwise("asked_at_once", "x", {"y": "x * x + 1"})
    x, barrier, results = numbers(100), threading.Barrier(8), []

    def work():
        barrier.wait()
        results.append(kernel(x))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    for y in results:
        same(y, x * x + 1)


@compiled
def test_the_source_can_be_read():
    text = Elementwise("axpy", "a x y", {"z": "a * x + 1"}).source(np.float32)
    assert '"""axpy(a, x, y), float32: generated from the formula below."""' in text
    assert "def compute(a, x, y):\n    z = a * x + f(1)\n    return z\n" in text


# ---- Vector code -----------------------------------------------------------------------------------------------------

# A block of LLVM's loop vectoriser, and several numbers at a time in it.
VECTOR_LOOP = re.compile(r"^vector\.body[^:\n]*:(.*?)(?=^\S+:|^})", re.MULTILINE | re.DOTALL)
VECTORS = re.compile(r"<\d+ x (?:float|double)>")
# What looks like a vector operation and becomes a call of libm for each element.
LIBM = re.compile(r"@llvm\.(?:sin|cos|tan|pow|exp|exp2|log|log2|log10)\.")

# Formulas that call libm: no rule for these functions was written, as no network's inner loop has them.
SCALAR = {"sin", "sin_gradient", "cos", "cos_gradient", "pow", "pow_gradient"}


def vector_loops(kernel, dtype):
    """The loops over the formulas that were made into vector code, as LLVM's text."""
    module = cache.load(kernel.source(dtype), f"{kernel.name}_{np.dtype(dtype).name}")
    if module.compute.cache_hits:  # the text is kept of what was compiled in this process alone
        module = cache._execute(kernel.source(dtype), "fresh", "<fresh>", cache=False)
    text = module.compute.inspect_llvm()
    assert "vector.memcheck" not in text, "addresses are compared, in case that operands overlap"
    return [body for body in VECTOR_LOOP.findall(text) if VECTORS.search(body) and not LIBM.search(body)]


def kernels():
    """The forward and gradient kernels of every elementwise row."""
    for row in TABLE.values():
        if isinstance(row, ElementwisePrimitive) and row.rules:
            yield row.kernel
            adjoint = row.adjoint(tuple(i for i, name in enumerate(row.inputs) if "d" + name in row.rules))
            if adjoint.kernel.formulas:
                yield adjoint.kernel


@compiled
@pytest.mark.parametrize("kernel", list(kernels()), ids=lambda kernel: kernel.name)
def test_rows_become_vector_code(kernel):
    """Proved by the compiler's output, not by a clock. A new row that calls libm is listed in SCALAR, with a reason."""
    assert bool(vector_loops(kernel, np.float32)) == (kernel.name not in SCALAR)


@compiled
def test_many_operands_and_results_become_vector_code():
    """LLVM need not find out whether fourteen arrays overlap, and give up on it."""
    names = "abcdegh"
    formulas = {f"y{i}": f"tanh({a} * {b}) + sigmoid({a})" for i, (a, b) in enumerate(zip(names, names[::-1]))}
    assert vector_loops(Elementwise("wide", " ".join(names), formulas), np.float32)


@compiled
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the widths are those of x86")
@pytest.mark.parametrize("kernel", [axpy, TABLE["tanh"].kernel], ids=lambda kernel: kernel.name)
def test_vectors_are_as_wide_as_the_machine_allows(kernel):
    assert f"<{vector.HOST.bytes // 4} x float>" in "".join(vector_loops(kernel, np.float32))


@compiled
def test_the_search_for_vector_code_can_fail():
    """Formulas with a loop of their own, as long as each element needs, stay scalar and are found out."""
    kernel = Elementwise("halved", "x", {"y": "x * 0.5"})
    loop = "for _ in range(1000 * whole(x > f(1)) + 2000 * whole(x > f(2))):\n        y = y * y\n    return y"
    serial = kernel.source(np.float64).replace("return y", loop)
    serial = serial.replace("\n\nfrom", "\n\nfrom numpy import int64 as whole\nfrom", 1)
    kernel.source = lambda dtype: serial
    kernel.name = "halved_until_small"
    assert not vector_loops(kernel, np.float64)


def test_the_name_of_the_dtype_is_refused():
    with pytest.raises(ValueError, match="scaled: f: in formulas this is the name of the dtype"):
        Elementwise("scaled", "f x", {"y": "f * x"})
