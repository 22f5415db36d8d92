"""Matrix products in machine code, on several threads: called from `matmul` and from generated kernels.

What is written here cuts products into parts, of which `macro_kernel` writes the machine code, and looks into the
arrays that the interpreter hands over.
"""

import ctypes
import functools
from typing import Any, NamedTuple

import numpy as np
from llvmlite import binding, ir

from .assembler import I8, I32, I64, Function, Int, Library
from .macro_kernel import ACCUMULATE, MATRICES, narrow, of_arguments, write_part
from .macro_kernel import WORKSPACE_BYTES as WORKSPACE_BYTES
from .team import JOB_BYTES, PLACED, STARTED, team, write_share, write_work
from .vector import HOST, MR, ROW_BYTES, Matrix, Vectors

RELEASE = 1 << 18  # multiply-adds for which the interpreter's lock is released
ONE_THREAD = 2_000_000  # multiply-adds below which a second thread does not pay: some 20 to 40 microseconds

ANYWAY = 4  # a flag of an entry: without the helpers that there should be
REFUSED, WANTS_HELPERS = 0, 2  # what it may return besides 1


class Products(NamedTuple):
    """The machine code for one dtype."""

    library: Library  # multiply, product, fill_panels, copy, sum_rows for compiled code: see `_write_multiply` etc.
    entry: Any  # entry(a, b, c, flags, workspace) -> whether c (+)= a @ b has been done: see `_write_entry`


@functools.cache
def products(dtype: str) -> Products:
    binding.add_symbol(symbol("team", "address"), team.address)
    library = Library(lambda: _module(dtype), f"products_{dtype}", (HOST, PLACED, object.__basicsize__))
    for function in "multiply", "product", "fill_panels", "copy", "sum_rows":
        binding.add_symbol(symbol(function, dtype), library.address(function))
    entry = _builtin("entry", library.address("entry"), (np.ndarray, np.dtype(dtype)))
    return Products(library, entry)


def _module(dtype: str) -> Any:
    write_part(module := ir.Module(f"products_{dtype}"), dtype)
    chunk, share = _write_chunk(module, dtype), write_share(module, write_work(module))
    _write_entry(module, dtype, _write_spread(module, dtype, chunk, share))
    _write_product(module, dtype)
    return module


def symbol(function: str, dtype: str) -> str:
    """By which compiled code finds a function when it is linked: it may have been compiled in another process."""
    return f"tinygrad_rnn_{function}_{dtype}"


def _write_product(module: Any, dtype: str) -> None:
    """product(A, B, C, M, N, K, accumulate, workspace, threads): C[M, N] (+)= A[M, K] @ B[K, N] for any strides.

    On so many threads, if they have been started and the work is worth it. If M or N is not above zero, nothing is
    done; K below zero is zero; no threads, and fewer, are one.
    """
    f = Function(module, "product", [*MATRICES, "M", "N", "K", "accumulate", "workspace", "threads"])
    (A, B, C), (M, N, K, accumulate, workspace, threads) = of_arguments(f)
    flags = f.pick(accumulate != 0, ACCUMULATE, 0) | narrow(f, N, dtype)
    one = [1, 0, 0, 0]  # matrix, and steps to further ones
    f.call("spread", *A, *B, *C, M, N, K, flags, *one, workspace, threads, ONE_THREAD)
    f.give()


def _team(f: Function) -> Int:
    """The address of the team: linked, since what is kept on the disk must be the same in every process."""
    name = symbol("team", "address")
    place = f.module.globals.get(name) or ir.GlobalVariable(f.module, I8, name)
    return Int(f.builder, f.builder.ptrtoint(place, I64))


# ---- From Python -----------------------------------------------------------------------------------------------------

# The fields of an array object, in bytes from its beginning: NumPy promises that they stay where they are.
_HEAD = object.__basicsize__
_TYPE, _DATA, _NDIM, _SHAPE, _STRIDES, _DTYPE, _FLAGS = (_HEAD + n for n in (-8, 0, 8, 16, 24, 40, 48))
_WRITEABLE = 0x400


class _Array:
    """An array argument of the function that is being written, with its last two axes and one before."""

    def __init__(self, f: Function, size: int, address: Int) -> None:
        self.f, self.address, self.size = f, address, size
        self.ndim = f.read(address + _NDIM, I32)
        shape, strides = f.read(address + _SHAPE), f.read(address + _STRIDES)
        axis = lambda where, n: f.read(where + 8 * n)
        last = self.ndim - 1
        self.rows, self.cols = axis(shape, last - 1), axis(shape, last)
        self.row, self.col = axis(strides, last - 1), axis(strides, last)
        several = self.ndim > 2
        first = f.pick(several, 0, last)  # not read beyond the end where there is no third axis
        self.count = f.pick(several, axis(shape, first), 1)
        self.step = f.pick(several, axis(strides, first), 0)
        self.data = f.read(address + _DATA)

    def ends(self) -> tuple[Int, Int]:
        """The lowest address of an element and the one after the highest."""
        f, low, high = self.f, self.data, self.data + self.size
        for count, step in (self.count, self.step), (self.rows, self.row), (self.cols, self.col):
            way = (count - 1) * step
            low, high = low + f.least(way, 0), high + f.most(way, 0)
        return low, high


# What a chunk is told, a number each.
_JOB = [
    *MATRICES, "M", "N", "K", "flags", "count", "a_step", "b_step", "c_step", "axis", "length", "unit", "tiles",
]  # fmt: skip
_STACK, _COLUMNS, _ROWS = range(3)  # the axis that is cut


def _write_chunk(module: Any, dtype: str) -> Function:
    """chunk(job, i, workspace): compute part `i` of the products that `job` describes.

    A job of no tiles, or of tiles of no length, is nothing to do; so are products of counts that are not above zero.
    """
    f = Function(module, "chunk", ["job", "i", "workspace"])
    job, i, workspace = f.arguments
    told = {name: f.read(job + 8 * n) for n, name in enumerate(_JOB)}
    f.need(told["tiles"], told["unit"])
    fields = [told[name] for name in MATRICES]
    A, B, C = (Matrix(*fields[n : n + 3]) for n in (0, 3, 6))
    start = lambda n: told["length"] * n // told["tiles"] // told["unit"] * told["unit"]
    low, high = start(i), f.pick(i + 1 == told["tiles"], told["length"], start(i + 1))
    ranges = [  # begin at 0 where the axis is not cut
        (f.pick(told["axis"] == axis, low, 0), f.pick(told["axis"] == axis, high, told[name]))
        for axis, name in ((_STACK, "count"), (_COLUMNS, "N"), (_ROWS, "M"))
    ]
    (first, last), (j, j_end), (i, i_end) = ranges
    A, B, C = A.rest(i, 0), B.rest(0, j), C.rest(i, j)
    with f.loop(first, last) as n:
        moved = [x._replace(data=x.data + told[step] * n) for x, step in zip((A, B, C), ("a_step", "b_step", "c_step"))]
        f.call("part", *moved[0], *moved[1], *moved[2], i_end - i, j_end - j, told["K"], told["flags"], workspace)
    f.give()
    return f


def _write_spread(module: Any, dtype: str, chunk: Function, share: Function) -> Function:
    """spread(A, B, C, M, N, K, flags, count, a_step, b_step, c_step, workspace, threads, one_thread).

    So many products, in parts, which the team shares: on `threads` of them at most, from `one_thread` multiply-adds on.
    If M, N or count is not above zero, nothing is done; no threads, and fewer, are one; so are multiply-adds.
    """
    steps = ["count", "a_step", "b_step", "c_step"]
    names = [*MATRICES, "M", "N", "K", "flags", *steps, "workspace", "threads", "one_thread"]
    f = Function(module, "spread", names, local=True)
    (A, B, C), (M, N, K, flags, count, a_step, b_step, c_step, workspace, threads, one_thread) = of_arguments(f)
    team = _team(f)
    f.need(M, N, count)
    width, one_thread = ROW_BYTES // Vectors(f, dtype).size, f.most(one_thread, 1)
    work, started = M * N * count * f.most(K, 0), f.read(team + STARTED)
    several = (work >= one_thread) & (threads > 1)
    # A few parts for each thread: small ones balance better, and cost more.
    tiles = f.pick(several, threads * f.least(4, work // (32 * one_thread) + 1), 1)
    by_stack = count >= tiles
    by_columns = N // width >= M // MR
    axis = f.pick(by_stack, _STACK, f.pick(by_columns, _COLUMNS, _ROWS))
    length = f.pick(by_stack, count, f.pick(by_columns, N, M))
    unit = f.pick(by_stack, 1, f.pick(by_columns, width, MR))
    tiles = f.most(1, f.least(tiles, length // unit))
    job = f.stack(JOB_BYTES)
    told = [*A, *B, *C, M, N, K, flags, count, a_step, b_step, c_step, axis, length, unit, tiles]
    for n, number in enumerate(told):
        f.write(job + 8 * n, number)
    alone, helpers = f.variable(tiles), f.least(f.least(threads, tiles) - 1, started)
    with f.when((tiles > 1) & (helpers > 0)):
        shared = f.call(share, team, helpers, tiles, f.address_of(chunk), job, workspace)
        alone.set(f.pick(shared == 1, 0, tiles))
    with f.loop(0, alone.get()) as i:
        f.call(chunk, job, i, workspace)
    f.give()
    return f


def _write_entry(module: Any, dtype: str, spread: Function) -> Function:
    """entry(a, b, c, flags, workspace, threads, one_thread) -> 1 if c (+)= a @ b has been done, else why it has not.

    It is called by the interpreter with its objects, `self` being (np.ndarray, the dtype). It
    refuses, before anything is changed, what is no array of the dtype with two axes or three (the first for stacks of
    matrices), what does not fit, and a `c` that is read-only or may overlap an operand. The number of `threads` counts
    from `one_thread` multiply-adds on. No threads, and fewer, are one; so are multiply-adds.
    """
    f = Function(module, "entry", ["self", "arguments", "count"], gives=I64)
    v, (known, arguments, _) = Vectors(f, dtype), f.arguments
    array_type, element = (f.read(known + tuple.__basicsize__ + 8 * n) for n in range(2))
    objects = [f.read(arguments + 8 * n) for n in range(7)]
    refuse = f.builder.append_basic_block()

    def require(condition: Int) -> None:
        go_on = f.builder.append_basic_block()
        f.builder.cbranch(condition.value, go_on, refuse)
        f.builder.position_at_end(go_on)

    for x in objects[:3]:
        require(f.read(x + _TYPE) == array_type)
        ndim = f.read(x + _NDIM, I32)
        require((f.read(x + _DTYPE) == element) & ((ndim == 2) | (ndim == 3)))
    a, b, c = (_Array(f, v.size, x) for x in objects[:3])
    flags, workspace, threads, one_thread = (f.call("PyLong_AsLongLong", x) for x in objects[3:])
    one_thread, M, K, N = f.most(one_thread, 1), a.rows, a.cols, c.cols
    require((f.read(objects[2] + _FLAGS, I32) & _WRITEABLE) != 0)
    require((c.rows == M) & (b.rows == K) & (b.cols == N) & (a.ndim == c.ndim) & (b.ndim == c.ndim))
    require((a.count == c.count) & (b.count == c.count))
    low, high = c.ends()
    for x_low, x_high in a.ends(), b.ends():
        require((K == 0) | (x_high <= low) | (high <= x_low) | (M * N * c.count == 0))

    work = M * N * c.count * K
    flags = flags | narrow(f, N, dtype)
    several = (work >= one_thread) & (threads > 1)
    started = f.read(_team(f) + STARTED)
    with f.when(several & (started < threads - 1) & ((flags & ANYWAY) == 0)):
        f.give(f.call("PyLong_FromLongLong", WANTS_HELPERS))
    release, state = work >= RELEASE, f.variable(0)
    with f.when(release):
        state.set(f.call("PyEval_SaveThread"))
    fields = [y for x in (a, b, c) for y in (x.data, x.row, x.col)]
    f.call(spread, *fields, M, N, K, flags, c.count, a.step, b.step, c.step, workspace, threads, one_thread)
    with f.when(release):
        f.call("PyEval_RestoreThread", state.get())
    f.give(f.call("PyLong_FromLongLong", 1))
    f.builder.position_at_end(refuse)
    f.give(f.call("PyLong_FromLongLong", REFUSED))
    return f


class _MethodDef(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p), ("function", ctypes.c_void_p), ("flags", ctypes.c_int), ("doc", ctypes.c_char_p),
    )  # fmt: skip


_METH_FASTCALL = 0x80


def _builtin(name: str, address: int, known: tuple[Any, ...]) -> Any:
    """A C function of (PyObject *self, PyObject **arguments, Py_ssize_t count) for Python; `known` is its self."""
    definition = _MethodDef(name.encode(), address, _METH_FASTCALL, None)
    # The builtin refers to it, and may outlive all modules: a thread that the end of the process stops still holds it.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(definition))
    new = ctypes.pythonapi.PyCFunction_NewEx
    new.argtypes, new.restype = [ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p], ctypes.py_object
    return new(ctypes.addressof(definition), known, None)
