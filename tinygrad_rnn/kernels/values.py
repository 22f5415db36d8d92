"""What names mean in a kernel that is being written: arrays, numbers, and functions by their syntax trees."""

import ast
import builtins
import dataclasses
import functools
import inspect
import operator
import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir

from .assembler import I8, I32, I64, Function, Int

FLOATS = {np.float32: ir.FloatType(), np.float64: ir.DoubleType()}
INTEGERS = {np.int32: I32, np.int64: I64}
IN_MEMORY = {np.dtype(kind): llvm for kind, llvm in (FLOATS | INTEGERS | {np.bool_: I8}).items()}
LLVM: dict[Any, str] = {  # which it has itself; of these it calls libm: sin, cos, pow
    abs: "fabs", np.sqrt: "sqrt", np.floor: "floor", np.copysign: "copysign", np.sin: "sin", np.cos: "cos",
    np.power: "pow",
}  # fmt: skip
# Of integers, and of floats: where the sign is not LLVM's, its name.
OPERATORS: dict[type, tuple[Callable[[Any, Any], Any], str]] = {
    ast.Add: (operator.add, "fadd"), ast.Sub: (operator.sub, "fsub"), ast.Mult: (operator.mul, "fmul"),
    ast.Div: (operator.truediv, "fdiv"), ast.FloorDiv: (operator.floordiv, ""), ast.Mod: (operator.mod, ""),
    ast.BitAnd: (operator.and_, ""), ast.BitOr: (operator.or_, ""), ast.Eq: (operator.eq, "=="),
    ast.NotEq: (operator.ne, "!="), ast.Lt: (operator.lt, "<"), ast.LtE: (operator.le, "<="),
    ast.Gt: (operator.gt, ">"), ast.GtE: (operator.ge, ">="), ast.LShift: (operator.lshift, ""),
    ast.RShift: (operator.rshift, ""), ast.BitXor: (operator.xor, ""),
}  # fmt: skip
OF_TRUTHS = ast.BitAnd, ast.BitOr, ast.BitXor, ast.cmpop
OF_POSITIVE = ast.FloorDiv, ast.Mod, ast.LShift
Rule = Callable[..., Any]


def inlined(rule: Rule) -> Rule:
    """A function of numbers that is written in place, statement by statement, where it is called."""
    rule.inlined = ()  # type: ignore[attr-defined]
    return rule


def summed(rule: Rule) -> Rule:
    """The same, with sums in whatever order is fast."""
    rule.inlined = ("reassoc",)  # type: ignore[attr-defined]
    return rule


def written(by: Rule) -> Callable[[Rule], Rule]:
    """A decorator for a function of a number whose instructions are those that `by` gives, for LLVM's builder and x."""

    def decorate(rule: Rule) -> Rule:
        rule.write = by  # type: ignore[attr-defined]
        return rule

    return decorate


class Array(NamedTuple):
    """Where an array lies: the dtype, LLVM's address of the first element, and strides in bytes.

    Of a row the shape is not known.
    """

    dtype: np.dtype[Any]
    data: Any
    shape: tuple[Any, ...]
    strides: tuple[Any, ...]

    @property
    def T(self) -> "Array":
        return self._replace(shape=self.shape[::-1], strides=self.strides[::-1])

    def address(self, f: Function) -> Int:
        return Int(f.builder, f.builder.ptrtoint(self.data, I64))

    def moved(self, f: Function, offset: Any) -> "Array":
        """The same so many bytes further."""
        return self._replace(data=f.builder.gep(self.data, [f.number(offset).value]))


@dataclasses.dataclass(frozen=True)
class Float:
    """LLVM's value of a number that is no integer."""

    value: Any


def contiguous(dtype: np.dtype[Any], data: Any, shape: tuple[Any, ...]) -> tuple[Array, Any]:
    """An array whose elements lie side by side; and how many bytes it has."""
    strides: list[Any] = []
    size: Any = dtype.itemsize
    for n in reversed(shape):
        strides.insert(0, size)
        size = n * size
    return Array(dtype, data, shape, tuple(strides)), size


class Row(NamedTuple):
    """A function that kernels call for a row.

    Arrays that it is given have one dimension, their elements lie side by side, and none overlaps another one.
    """

    function: Any
    flags: tuple[str, ...]
    unrolls: bool = False

    def __call__(self, *arguments: Any) -> None:
        self.function(*arguments)


@functools.cache
def tree_of(function: Any) -> Any:
    """The syntax tree of a function, or of a lambda that stands in a line of its own."""
    text = textwrap.dedent(inspect.getsource(function))
    if function.__code__.co_name != "<lambda>":
        return ast.parse(text).body[0]
    return next(node for node in ast.walk(ast.parse(f"dict({text}\n)")) if isinstance(node, ast.Lambda))


def scope_of(function: Any) -> dict[str, Any]:
    """What names mean that are none of the function's own."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or ())
    return function.__globals__ | {name: cell.cell_contents for name, cell in cells}


def meaning_of(node: ast.expr, scope: dict[str, Any]) -> Any:
    """What a name means that is none of a function's own, or an attribute of it; None for nothing."""
    if isinstance(node, ast.Attribute):
        return getattr(meaning_of(node.value, scope), node.attr, None)
    return scope.get(node.id, getattr(builtins, node.id, None)) if isinstance(node, ast.Name) else None


def parameters_of(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def number_of(f: Function, x: Any) -> Any:
    return Int(f.builder, x) if isinstance(x.type, ir.IntType) else Float(x)


def may_fail(tree: ast.AST, scope: dict[str, Any]) -> bool:
    """Whether this does what is not to be done where a condition says so: read, divide integers, call somebody."""
    calls = (meaning_of(node.func, scope) for node in ast.walk(tree) if isinstance(node, ast.Call))
    guarded = any(isinstance(node, (ast.Subscript, ast.FloorDiv, ast.Mod)) for node in ast.walk(tree))
    return guarded or not all(x in _HARMLESS or hasattr(x, "write") or _never_fails(x) for x in calls)


_HARMLESS = {*FLOATS, *INTEGERS, *LLVM}


@functools.cache
def _never_fails(rule: Any) -> bool:
    return hasattr(rule, "inlined") and not may_fail(tree_of(rule), scope_of(rule))
