"""Kernels whose outline goes from Python's syntax tree straight to machine code: counts, addresses, loops and calls.

    @njit(**ROW)
    def halved(W, x, y):                      # formulas are Numba's
        for j in range(W):
            y[j] = x[j] / 2

    @kernel()
    def forward(lo, hi, x, y):                # what stands around them is not
        for row in range(lo, hi):
            halved(x.shape[1], x[row, 0:], y[row, 0:])

Numba infers types, rewrites and lowers each call and index of a function, which takes most of the time to compile one
that does nothing else. An outline needs none of it, because all is known when it is written: numbers are integers, and
arrays are an address with a shape and strides. These may stand in one, and nothing else:

    a, b = 2 * n, len(x)                      names, which keep their value where loops and branches begin
    for t in range(n - 1, -1, -1):            steps are constants
    if n & 2 and not share(ranges, 2):        no else
    a if n < b else b                         of numbers, and of arrays
    x[i:, j:], x[i, j:], x.T                  the rest of an array from an element on
    starts[t + 1], dx[row, j] += x[row, j]    elements
    halved(n, 0.5, x[row, 0:])                functions of Numba's, which get integers, floats and addresses
    copy(x, y, m, n)                          what is written at once: functions of Python that get the `Function` first
"""

import ast
import contextlib
import functools
import inspect
import operator
import textwrap
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, NoReturn

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.dispatcher import Dispatcher
from numba.extending import intrinsic

from .assembler import I64, Function, Int
from .intrinsics import KERNEL

_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod, ast.BitAnd: operator.and_, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.Eq: operator.eq, ast.NotEq: operator.ne,
}  # fmt: skip


class Array(NamedTuple):
    """Where an array lies: the address of its first element, and strides in bytes; the type of elements is Numba's."""

    element: Any
    data: Int
    shape: tuple[Int, ...]
    strides: tuple[Int, ...]

    @property
    def T(self) -> "Array":
        return self._replace(shape=self.shape[::-1], strides=self.strides[::-1])


class Float(NamedTuple):
    """A number that is none of the integers: LLVM's value and Numba's type."""

    value: Any
    type: Any


def size_of(element: Any) -> int:
    """The bytes of an element."""
    return int(element.bitwidth) // 8


def contiguous(element: Any, data: Int, shape: tuple[Int, ...]) -> tuple[Array, Int]:
    """An array whose elements lie side by side; and how many bytes it has."""
    strides: list[Any] = []
    size: Any = size_of(element)
    for n in reversed(shape):
        strides.insert(0, size)
        size = n * size
    return Array(element, data, shape, tuple(strides)), size


def kernel(**options: Any) -> Callable[[Any], Any]:
    """A decorator for the outline of a kernel; the options are `numba.njit`'s."""

    def decorate(function: Any) -> Any:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
        assert isinstance(tree, ast.FunctionDef)
        names = ", ".join(argument.arg for argument in tree.args.args)
        # Numba reads this one, and finds it on the disk by the file and the line of the other.
        text = "\n" * (function.__code__.co_firstlineno - 1) + f"def {tree.name}({names}):\n    outline({names})"
        outline = _outline(tree, function.__globals__ | inspect.getclosurevars(function).nonlocals)
        scope = {"__name__": function.__module__, "outline": outline}
        exec(compile(text, function.__code__.co_filename, "exec"), scope)
        return numba.njit(**KERNEL, **options)(scope[tree.name])

    return decorate


def _outline(tree: ast.FunctionDef, scope: dict[str, Any]) -> Any:
    """What the function does, as an intrinsic of the same parameters."""
    names = [argument.arg for argument in tree.args.args]

    def typed(typingctx: Any, *arguments: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            f = Function.inside(builder)
            given = (_given(f, context, kind, x) for kind, x in zip(signature.args, args))
            _Writer(f, context, typingctx, scope, dict(zip(names, given))).write(tree.body)
            return context.get_dummy_value()

        return types.void(*map(types.unliteral, arguments)), codegen

    typed.__name__, parameters = tree.name, ["typingctx", *names]
    usual = inspect.Parameter.POSITIONAL_OR_KEYWORD
    typed.__signature__ = inspect.Signature([inspect.Parameter(x, usual) for x in parameters])  # type: ignore[attr-defined]
    return intrinsic(typed)


def _given(f: Function, context: Any, kind: Any, x: Any) -> Any:
    """An argument. Numba's own helper for arrays makes a copy on the stack, which LLVM has to remove again."""
    if isinstance(kind, (types.Integer, types.Boolean)):
        return Int(f.builder, getattr(f.builder, "sext" if isinstance(kind, types.Integer) else "zext")(x, I64))
    if not isinstance(kind, types.Array):
        return Float(x, kind)
    data, *places = (context.data_model_manager[kind].get(f.builder, x, name) for name in ("data", "shape", "strides"))
    shape, strides = (tuple(Int(f.builder, n) for n in cgutils.unpack_tuple(f.builder, place)) for place in places)
    return Array(kind.dtype, Int(f.builder, f.builder.ptrtoint(data, I64)), shape, strides)


class _Writer:
    """Writes the instructions of statements.

    Args:
        scope: what names mean that are none of the function's own.
        names: what those mean.
    """

    def __init__(self, f: Function, context: Any, typing: Any, scope: dict[str, Any], names: dict[str, Any]) -> None:
        self.f, self.context, self.typing, self.scope, self.names = f, context, typing, scope, names
        self.fixed: frozenset[str] = frozenset()  # names that were given a meaning outside of the block

    # ---- Statements --------------------------------------------------------------------------------------------------

    def write(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            write = getattr(self, f"_{type(statement).__name__}", None)
            if write is None:
                self._refuse(statement)
            write(statement)

    def _refuse(self, node: ast.AST) -> NoReturn:
        raise NotImplementedError(f"an outline has no place for `{ast.unparse(node)}`: see kernels.outline")

    @contextlib.contextmanager
    def _block(self) -> Iterator[None]:
        """Names that are given a meaning inside have none behind it; others keep theirs."""
        before = self.names, self.fixed
        self.names, self.fixed = dict(self.names), frozenset(self.names) - {"_"}
        yield
        self.names, self.fixed = before

    def _bind(self, node: Any, value: Any) -> None:
        if not isinstance(node, ast.Name) or node.id in self.fixed:
            self._refuse(node)
        self.names[node.id] = value

    def _Assign(self, node: ast.Assign) -> None:
        value, (target,) = self.value(node.value), node.targets
        if isinstance(target, ast.Tuple):
            for each, part in zip(target.elts, value, strict=True):
                self._bind(each, part)
        else:
            self._bind(target, value)

    def _AugAssign(self, node: ast.AugAssign) -> None:
        if not isinstance(node.op, ast.Add) or not isinstance(node.target, ast.Subscript):
            self._refuse(node)
        place, more = self._at(node.target), self.value(node.value)
        address = self._pointer(place)
        self.f.builder.store(self.f.builder.fadd(self.f.builder.load(address), more.value), address)

    def _For(self, node: ast.For) -> None:
        if not isinstance(node.iter, ast.Call) or ast.unparse(node.iter.func) != "range" or node.orelse:
            self._refuse(node)
        ends = [self.value(n) for n in node.iter.args]
        first, last, step = (0, *ends, 1) if len(ends) == 1 else (*ends, 1)[:3]
        if not isinstance(step, int) or abs(step) != 1:
            self._refuse(node)
        with self.f.loop(0, (last - first) * step) as i, self._block():
            self._bind(node.target, first + i * step)
            self.write(node.body)

    def _If(self, node: ast.If) -> None:
        tests = node.test.values if isinstance(node.test, ast.BoolOp) else [node.test]
        if node.orelse or (isinstance(node.test, ast.BoolOp) and not isinstance(node.test.op, ast.And)):
            self._refuse(node)
        with contextlib.ExitStack() as stack:
            for test in tests:  # the next one only if this one holds
                stack.enter_context(self.f.when(self._truth(test)))
            stack.enter_context(self._block())
            self.write(node.body)

    def _Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring
            self.value(node.value)

    # ---- Expressions -------------------------------------------------------------------------------------------------

    def value(self, node: ast.expr) -> Any:
        """What an expression means: an integer (of Python's, if it is known), an `Array`, a `Float`, or several."""
        if isinstance(node, ast.Name) and node.id in self.names:
            return self.names[node.id]
        if isinstance(node, ast.Name) and isinstance(self.scope.get(node.id), int):
            return self.scope[node.id]
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, bool)):
            return int(node.value)
        if isinstance(node, ast.Tuple):
            return tuple(map(self.value, node.elts))
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](self.value(node.left), self.value(node.right))
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _OPERATORS:
            truth = _OPERATORS[type(node.ops[0])](self.value(node.left), self.value(node.comparators[0]))
            return int(truth) if isinstance(truth, bool) else truth
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return ~self._truth(node.operand)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return 0 - self.value(node.operand)
        if isinstance(node, ast.IfExp):
            return self._pick(self._truth(node.test), self.value(node.body), self.value(node.orelse))
        if isinstance(node, ast.Attribute) and node.attr in ("T", "shape"):
            return getattr(self.value(node.value), node.attr)
        if isinstance(node, ast.Subscript):
            place = self._at(node)
            return self._load(place) if isinstance(place, Array) and not place.shape else place
        if isinstance(node, ast.Call) and not node.keywords:
            return self._call(node, [self.value(x) for x in node.args])
        self._refuse(node)

    def _truth(self, node: ast.expr) -> Int:
        value = self.f.number(self.value(node))
        return value if value.value.type == ir.IntType(1) else value != 0

    def _pick(self, condition: Int, a: Any, b: Any) -> Any:
        if not isinstance(a, Array):
            return self.f.pick(condition, a, b)
        pick = functools.partial(self.f.pick, condition)
        shape, strides = (tuple(map(pick, *pair)) for pair in ((a.shape, b.shape), (a.strides, b.strides)))
        return Array(a.element, pick(a.data, b.data), shape, strides)

    def _at(self, node: ast.Subscript) -> Any:
        """What is behind an index: the rest of an array, without the dimensions of which one element is taken."""
        whole, at = self.value(node.value), node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if not isinstance(whole, Array):
            return whole[self.value(at[0])]
        data, dims = whole.data, []
        for i, n, stride in zip(at, whole.shape, whole.strides):
            if isinstance(i, ast.Slice) and i.step is None:
                first = self.value(i.lower) if i.lower else 0
                dims.append(((self.value(i.upper) if i.upper else n) - first, stride))
            else:
                first = self.value(i)
            data = data + first * stride
        dims += zip(whole.shape[len(at) :], whole.strides[len(at) :])
        return Array(whole.element, data, tuple(n for n, _ in dims), tuple(stride for _, stride in dims))

    def _pointer(self, place: Array) -> Any:
        return self.f.pointer(place.data, self.context.get_data_type(place.element))

    def _load(self, place: Array) -> Any:
        x = self.f.builder.load(self._pointer(place))
        return Int(self.f.builder, x) if isinstance(place.element, types.Integer) else Float(x, place.element)

    def _call(self, node: ast.Call, arguments: list[Any]) -> Any:
        name = ast.unparse(node.func)
        if name == "len":
            return arguments[0].shape[0]
        function = self.scope.get(name)
        if isinstance(function, Dispatcher):
            return self._call_compiled(function, arguments)
        if not callable(function):
            self._refuse(node)
        return function(self.f, *arguments)

    def _call_compiled(self, function: Any, arguments: list[Any]) -> None:
        kinds, values = zip(*map(self._as_numba_has_it, arguments))
        callee = self.typing.resolve_value_type(function)
        call = callee.get_call_type(self.typing, kinds, {})
        self.context.get_function(callee, call)(self.f.builder, values)

    def _as_numba_has_it(self, x: Any) -> tuple[Any, Any]:
        """The type and the value of an argument: of an array the address, as a pointer that can be indexed."""
        if isinstance(x, Float):
            return x.type, x.value
        if not isinstance(x, Array):
            return types.int64, self.f.number(x).value
        place = self._pointer(x)
        # LLVM is not told how the place moves from row to row: to look for the cheapest way to move twenty of them at
        # once takes it a sixth of the time that the kernel takes to compile, and saves nothing.
        opaque = ir.InlineAsm(ir.FunctionType(place.type, [place.type]), "", "=r,0", False)
        return types.CPointer(x.element), self.f.builder.call(opaque, [place])
