"""What names mean in a kernel that is being written: arrays, numbers, and functions by their syntax trees."""

import ast
import builtins
import dataclasses
import functools
import inspect
import textwrap
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.core.dispatcher import Dispatcher

from .assembler import I32, I64, Function, Int

FLOATS = {np.float32: ir.FloatType(), np.float64: ir.DoubleType()}
INTEGERS = {np.int32: I32, np.int64: I64}
LLVM = {abs: "fabs", np.sqrt: "sqrt", np.floor: "floor", np.copysign: "copysign"}  # which it has itself


class Array(NamedTuple):
    """Where an array lies: LLVM's address of its first element, and strides in bytes; the type of elements is Numba's.

    Of a row the shape is not known.
    """

    element: Any
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


def size_of(element: Any) -> int:
    """The bytes of an element; a truth has one."""
    return int(getattr(element, "bitwidth", 8)) // 8


def contiguous(element: Any, data: Any, shape: tuple[Any, ...]) -> tuple[Array, Any]:
    """An array whose elements lie side by side; and how many bytes it has."""
    strides: list[Any] = []
    size: Any = size_of(element)
    for n in reversed(shape):
        strides.insert(0, size)
        size = n * size
    return Array(element, data, shape, tuple(strides)), size


class Row(NamedTuple):
    """A function that kernels call for a row: none of the addresses that it is given overlaps another one."""

    function: Any
    flags: tuple[str, ...]


def tree_of(function: Any) -> Any:
    """The syntax tree of a function, or of a lambda that stands in a line of its own."""
    text = textwrap.dedent(inspect.getsource(function))
    if function.__code__.co_name != "<lambda>":
        return ast.parse(text).body[0]
    return next(node for node in ast.walk(ast.parse(f"dict({text}\n)")) if isinstance(node, ast.Lambda))


def scope_of(function: Any) -> dict[str, Any]:
    """What names mean that are none of the function's own."""
    found = inspect.getclosurevars(function).nonlocals
    return function.__globals__ | found if found else function.__globals__


@functools.cache
def rule_of(function: Any) -> tuple[ast.FunctionDef | ast.Lambda, dict[str, Any]] | None:
    """The syntax tree of a formula that Numba compiles, and its scope; none if it calls what nobody here can write."""
    try:
        tree, scope = tree_of(function), scope_of(function)
    except OSError:  # its source is not there
        return None
    calls = (meaning_of(node.func, scope) for node in ast.walk(tree) if isinstance(node, ast.Call))
    known = {*FLOATS, *INTEGERS, *LLVM}
    gives = isinstance(tree, ast.Lambda) or isinstance(tree.body[-1], ast.Return)
    written = gives and all(isinstance(x, Dispatcher) or hasattr(x, "write") or x in known for x in calls)
    return (tree, scope) if written and not any(isinstance(node, ast.Pow) for node in ast.walk(tree)) else None


def meaning_of(node: ast.expr, scope: dict[str, Any]) -> Any:
    """What a name means that is none of a function's own, or an attribute of it; None for nothing."""
    if isinstance(node, ast.Attribute):
        return getattr(meaning_of(node.value, scope), node.attr, None)
    return scope.get(node.id, getattr(builtins, node.id, None)) if isinstance(node, ast.Name) else None


def parameters_of(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def number_of(f: Function, x: Any) -> Any:
    return Int(f.builder, x) if isinstance(x.type, ir.IntType) else Float(x)
