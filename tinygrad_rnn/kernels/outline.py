"""Machine code of functions that `writer` reads: an outline of arrays and integers, functions of rows, and formulas.

    @row_function()
    def halved(W, rate, x, y):                # a row: addresses and numbers
        for j in range(W):
            y[j] = tanh(x[j]) / rate

    @kernel()
    def forward(lo, hi, x, y):                # the outline
        for i in range(lo, hi):
            halved(x.shape[1], real(0.5), x[i, 0:], y[i, 0:])

    @for_each(real)
    def axpy(a, x, y):                        # for each element: see `elementwise`
        return a * x + y

Numba infers types, rewrites and lowers each call and index of a function, which takes most of the time to compile one:
a second for a kernel that `writer` writes in a twentieth of that. Numba still calls LLVM, keeps the machine code on
the disk and lets Python in. With NUMBA_DISABLE_JIT=1 outlines and functions of rows are what Python makes of them.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.numpy_support import as_dtype, from_dtype

from . import cache
from .assembler import I8, I64, Distinct, Function, Int, ask_for_full_width
from .values import FLOATS, IN_MEMORY, Array, Float, Row, parameters_of, tree_of
from .writer import Writer

# What is written makes no arrays: those that it is given are not counted either, which takes time to do and more to
# compile. No number is an error.
OPTIONS = dict(error_model="numpy", nogil=True, _nrt=False)


def row_function(*flags: str) -> Callable[[Any], Any]:
    """A decorator for the function of a row: with LLVM's flags for its arithmetic, besides "contract"."""
    return lambda function: Row(function, flags)


def read(dtype: Any, dimensions: int) -> Any:
    """An argument of a kernel: a contiguous array that is read."""
    return types.Array(from_dtype(np.dtype(dtype)), dimensions, "C", readonly=True)


def written_to(dtype: Any, dimensions: int) -> Any:
    """Likewise, an array that is written to, too."""
    return types.Array(from_dtype(np.dtype(dtype)), dimensions, "C")


def kernel(**options: Any) -> Callable[[Any], Any]:
    """A decorator for the outline of a kernel; the options are `numba.njit`'s."""

    def decorate(function: Any) -> Any:
        names = parameters_of(function)

        def write(f: Function, given: list[Any]) -> None:
            Writer(f, function, dict(zip(names, given))).write(tree_of(function).body)

        made = numba.njit(no_cfunc_wrapper=True, **OPTIONS, **options)
        return function if config.DISABLE_JIT else made(_for_numba(function, names, write))

    return decorate


def over_rows(*arguments: Any, **options: Any) -> Callable[[Any], Any]:
    """A decorator for what is done with row i, of W numbers: (i, W, *arguments), the first of which is a row.

    The kernel is given all but the first two, and matrices in place of rows: arrays that are given as they are, and
    numbers by their dtype, say what they are. Sums are in whatever order is fast.
    """
    kinds = [x if isinstance(x, types.Type) else from_dtype(np.dtype(x)) for x in arguments]

    def decorate(function: Any) -> Any:
        @np.errstate(all="ignore")
        def run(*given: Any) -> None:
            for i in range(len(given[0])):
                function(i, given[0].shape[1], *(x[i] if np.ndim(x) == 2 else x for x in given))

        def write(f: Function, given: list[Any]) -> None:
            writer, (rows, width) = Writer(f, function, {}), given[0].shape
            with f.loop(0, rows) as i:
                of_row = (x.moved(f, i * x.strides[0]) if isinstance(x, Array) and x.strides[1:] else x for x in given)
                writer.call_row(Row(function, ("reassoc",), unrolls=True), [i, width, *of_row])

        made = numba.njit(types.void(*kinds), no_cfunc_wrapper=True, **OPTIONS, **options)
        return run if config.DISABLE_JIT else made(_for_numba(function, parameters_of(function)[2:], write))

    return decorate


def compiled(name: str, make: Callable[..., Any], dtype: np.dtype[Any]) -> Any:
    """`make(real, over_rows)`: kernels for numbers of this dtype, which are kept on the disk."""
    with cache.place_for(f"{name}_{dtype.name}") as keeps:
        return make(dtype.type, functools.partial(over_rows, cache=keeps))


def for_each(real: Any, results: int = 1, **options: Any) -> Callable[[Any], Any]:
    """A decorator for a function of numbers of type `real` that gives so many: (operands, count) is compiled for C.

    The operands are the addresses of the inputs and of the results, `count` elements each, or none if that is zero or
    below. LLVM is told that no element waits for another. So it makes vector code of the loop, however many operands
    there are, without comparing their addresses; and a result may be written over an input that begins at the same
    address.
    """
    signature = types.void(types.CPointer(types.intp), types.intp)

    def decorate(function: Any) -> Any:
        names = parameters_of(function)

        def write(f: Function, given: list[Any]) -> None:
            ask_for_full_width(f.function)
            group, builder, (operands, count) = Distinct(f.module, refers_to_itself=False), f.builder, given
            f.hint = "llvm.loop.parallel_accesses", group
            whole = range(len(names) + results)
            addresses = [builder.load(builder.gep(operands.value, [I64(n)])) for n in whole]
            starts = [builder.inttoptr(x, FLOATS[real].as_pointer()) for x in addresses]
            with f.loop(0, count) as i:
                places = [builder.gep(x, [i.value]) for x in starts]
                numbers = [builder.load(x) for x in places[: len(names)]]
                writer = Writer(f, function, dict(zip(names, map(Float, numbers))))
                found = writer.numbers(tree_of(function), FLOATS[real])
                for access in [*numbers, *map(builder.store, found, places[len(names) :])]:
                    access.set_metadata("llvm.access.group", group)

        return numba.cfunc(signature, **OPTIONS, **options)(_for_numba(function, ["operands", "count"], write))

    return decorate


def _for_numba(function: Any, names: list[str], write: Callable[..., None]) -> Any:
    """A function of these parameters that Numba compiles to what `write` writes.

    Numba reads this one, and finds it on the disk by the file and the line of the other.
    """

    def typed(typingctx: Any, *kinds: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            f = Function.inside(builder)
            write(f, [_given(f, context, kind, x) for kind, x in zip(signature.args, arguments)])
            return context.get_dummy_value()

        return types.void(*map(types.unliteral, kinds)), codegen

    usual, typed.__name__ = inspect.Parameter.POSITIONAL_OR_KEYWORD, function.__name__
    parameters = [inspect.Parameter(x, usual) for x in ("typingctx", *names)]
    typed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    given = ", ".join(names)
    text = "\n" * (function.__code__.co_firstlineno - 1)
    text += f"def {function.__name__}({given}):\n    outline({given})"
    scope = {"__name__": function.__module__, "outline": intrinsic(typed)}
    exec(compile(text, function.__code__.co_filename, "exec"), scope)
    return scope[function.__name__]


def _given(f: Function, context: Any, kind: Any, x: Any) -> Any:
    """An argument. Numba's own helper for arrays makes a copy on the stack, which LLVM has to remove again."""
    if isinstance(kind, (types.Integer, types.Boolean)):
        return Int(f.builder, getattr(f.builder, "sext" if isinstance(kind, types.Integer) else "zext")(x, I64))
    if not isinstance(kind, types.Array):
        return Float(x)
    data, *places = (context.data_model_manager[kind].get(f.builder, x, name) for name in ("data", "shape", "strides"))
    shape, strides = ([Int(f.builder, n) for n in cgutils.unpack_tuple(f.builder, place)] for place in places)
    dtype = as_dtype(kind.dtype)
    if dtype not in IN_MEMORY:
        raise NotImplementedError(f"a kernel has no place for an array of {dtype}: see kernels.writer")
    steps = [*strides[:-1], dtype.itemsize] if kind.layout == "C" else strides
    return Array(dtype, f.builder.bitcast(data, I8.as_pointer()), tuple(shape), tuple(steps))
