"""Kernels that are written without Numba's front end: an outline of arrays and integers, and functions of rows.

    @row_function()
    def halved(W, rate, x, y):                # a row: addresses and numbers
        for j in range(W):
            y[j] = tanh(x[j]) / real(rate)

    @kernel()
    def forward(lo, hi, x, y):                # the outline
        for i in range(lo, hi):
            halved(x.shape[1], 0.5, x[i, 0:], y[i, 0:])

Numba infers types, rewrites and lowers each call and index of a function, which takes most of the time to compile one:
a second for a kernel that `writer` writes in a twentieth of that. Numba still calls LLVM, keeps the machine code on
the disk and lets Python in, and it compiles the functions of `maths` that call libm.
"""

import inspect
from collections.abc import Callable
from typing import Any

import numba
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .assembler import I8, I64, Function, Int
from .intrinsics import KERNEL
from .values import Array, Float, Row, parameters_of, scope_of, tree_of
from .writer import Writer


def row_function(*flags: str) -> Callable[[Any], Row]:
    """A decorator for the function of a row: with LLVM's flags for its arithmetic, besides "contract"."""
    return lambda function: Row(function, ("contract", *flags))


def kernel(**options: Any) -> Callable[[Any], Any]:
    """A decorator for the outline of a kernel; the options are `numba.njit`'s."""

    def decorate(function: Any) -> Any:
        name, names = function.__name__, ", ".join(parameters_of(function))
        # Numba reads this one, and finds it on the disk by the file and the line of the other.
        text = "\n" * (function.__code__.co_firstlineno - 1) + f"def {name}({names}):\n    outline({names})"
        scope = {"__name__": function.__module__, "outline": _outline(function)}
        exec(compile(text, function.__code__.co_filename, "exec"), scope)
        return numba.njit(**KERNEL, **options)(scope[name])

    return decorate


def _outline(function: Any) -> Any:
    """What the function does, as an intrinsic of the same parameters."""
    names = parameters_of(function)

    def typed(typingctx: Any, *arguments: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            f = Function.inside(builder)
            given = (_given(f, context, kind, x) for kind, x in zip(signature.args, args))
            writer = Writer(f, context, typingctx, scope_of(function), dict(zip(names, given)), ("contract",))
            writer.write(tree_of(function).body)
            return context.get_dummy_value()

        return types.void(*map(types.unliteral, arguments)), codegen

    usual, typed.__name__ = inspect.Parameter.POSITIONAL_OR_KEYWORD, function.__name__
    parameters = [inspect.Parameter(x, usual) for x in ("typingctx", *names)]
    typed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return intrinsic(typed)


def _given(f: Function, context: Any, kind: Any, x: Any) -> Any:
    """An argument. Numba's own helper for arrays makes a copy on the stack, which LLVM has to remove again."""
    if isinstance(kind, (types.Integer, types.Boolean)):
        return Int(f.builder, getattr(f.builder, "sext" if isinstance(kind, types.Integer) else "zext")(x, I64))
    if not isinstance(kind, types.Array):
        return Float(x)
    data, *places = (context.data_model_manager[kind].get(f.builder, x, name) for name in ("data", "shape", "strides"))
    shape, strides = (tuple(Int(f.builder, n) for n in cgutils.unpack_tuple(f.builder, place)) for place in places)
    return Array(kind.dtype, f.builder.bitcast(data, I8.as_pointer()), shape, strides)
