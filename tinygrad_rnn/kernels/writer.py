"""Python's syntax tree -> LLVM's instructions: loops, addresses, calls and maths, of which all types are known.

Integers have 64 bits, what is read from an array has its type, and a constant the type of what it meets. These may
stand in a function, and nothing else:

    a, b = 2 * n, len(x)                      names; arrays keep theirs; neither side of n // m and n % m is negative
    for t in range(n - 1, -1, -1):            steps are 1 or -1
    if n & 2 and not share(ranges, 2):        no else; what follows `and` and `or` is done if Python does it
    a if n < b else b                         of numbers, and of arrays
    x[i:, j:], x[i, j:], x.T                  the rest of an array from an element on; no index is negative,
                                              and no slice begins or ends behind the array
    starts[t + 1], y[j] = x[j], y[j] += x[j]  elements
    real(2), real(n)                          a number as an element, `real` being NumPy's type
    halved(n, real(0.5), x[i, 0:]), tanh(x)   a row, or a function that is written in place, like those of `maths`
    copy(x, y, m, n)                          what is written at once: functions of Python with a `Function` first, `f`
"""

import ast
import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from types import FunctionType
from typing import Any, NoReturn

import numpy as np
from llvmlite import ir

from . import values
from .assembler import I8, I64, VOID, Function, Int, ask_for_full_width
from .values import FLOATS, IN_MEMORY, INTEGERS, LLVM, Array, Float, Row, number_of

TRUTH, TRUTHS = ir.IntType(1), np.dtype(bool)


def _is_not(node: ast.expr) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)


class Writer:
    """Writes the instructions of statements.

    Args:
        function: whose statements they are, which knows what names mean that are none of its own.
        given: the arguments by name.
        flags: LLVM's, of arithmetic, besides "contract".

    Attributes:
        names: arrays as they are, of numbers the places on the stack where they lie.
        kernel: LLVM's function of the outline, which has all others inside it in the end.
    """

    def __init__(self, f: Function, function: Any, given: dict[str, Any], flags: Sequence[str] = ()) -> None:
        self.f, self.builder, self.kernel, self.flags = f, f.builder, f.function, ("contract", *flags)
        self.scope = values.scope_of(function)
        self.own = function.__code__.co_varnames  # none of these is the module's, wherever it stands
        self.names: dict[str, Any] = {}
        self.outside: frozenset[str] = frozenset()  # names that meant something where the block begins
        self.rows: dict[Any, Any] = {}  # functions of rows that have been written
        for name, value in given.items():
            self._bind(ast.Name(name), value)

    # ---- Statements --------------------------------------------------------------------------------------------------

    def write(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            write = getattr(self, f"_{type(statement).__name__}", self._refuse)
            write(statement)

    def result(self, tree: Any) -> Any:
        """What a function returns at its end."""
        if isinstance(tree, ast.Lambda):
            return self.value(tree.body)
        *statements, last = tree.body
        self.write(statements)
        return self.value(last.value) if isinstance(last, ast.Return) and last.value else self._refuse(last)

    def numbers(self, tree: Any, kind: Any) -> list[Any]:
        """The same as LLVM's values of one type of floats."""
        found = self.result(tree)
        return [self._cast(x, kind) for x in (found if isinstance(found, tuple) else (found,))]

    def _refuse(self, node: ast.AST) -> NoReturn:
        raise NotImplementedError(f"a kernel has no place for `{ast.unparse(node)}`: see kernels.writer")

    @contextlib.contextmanager
    def _block(self) -> Iterator[None]:
        """Names that are new inside mean nothing behind it."""
        before = self.names, self.outside
        self.names, self.outside = dict(self.names), frozenset(self.names)
        yield
        self.names, self.outside = before

    def _bind(self, node: ast.expr, value: Any) -> None:
        if not isinstance(node, ast.Name):
            self._refuse(node)
        known = self.names.get(node.id)
        if isinstance(value, tuple):
            if node.id in self.outside:
                self._refuse(node)
            self.names[node.id] = value
            return
        value = self._plain(value)
        if not isinstance(known, ir.AllocaInstr):
            with self.builder.goto_entry_block():
                known = self.names[node.id] = self.builder.alloca(value.type)
        if known.allocated_type != value.type:
            self._refuse(node)
        self.builder.store(value, known)

    def _plain(self, x: Any) -> Any:
        """LLVM's value of a number."""
        if isinstance(x, (Float, Int)):
            return x.value
        return self._constant(x, ir.DoubleType() if isinstance(x, float) else I64)

    def _constant(self, x: Any, kind: Any) -> Any:
        """LLVM's value of a number of Python's, in a type that has it."""
        of_integers = isinstance(kind, ir.IntType)
        if isinstance(x, float) == of_integers or (of_integers and not -1 << kind.width - 1 <= x < 1 << kind.width - 1):
            self._refuse(ast.Constant(x))
        return kind(x)

    def _alike(self, node: ast.AST, a: Any, b: Any) -> tuple[Any, Any]:
        """LLVM's values of two numbers, of one type."""
        typed = next((x.value.type for x in (a, b) if isinstance(x, (Float, Int))), None)
        if typed is None or (isinstance(a, (Float, Int)) and isinstance(b, (Float, Int))):
            x, y = self._plain(a), self._plain(b)
        else:
            x, y = (n.value if isinstance(n, (Float, Int)) else self._constant(n, typed) for n in (a, b))
        return (x, y) if x.type == y.type else self._refuse(node)

    def _Assign(self, node: ast.Assign) -> None:
        value, (target,) = self.value(node.value), node.targets
        several = zip(target.elts, value, strict=True) if isinstance(target, ast.Tuple) else [(target, value)]
        for each, part in several:
            if isinstance(part, float):  # Python's, which has no type of its own: `real(0.5)` has one
                self._refuse(node)
            if isinstance(each, ast.Subscript):
                self._store(each, part)
            else:
                self._bind(each, part)

    def _AugAssign(self, node: ast.AugAssign) -> None:
        self._Assign(ast.Assign([node.target], ast.BinOp(node.target, node.op, node.value)))

    def _For(self, node: ast.For) -> None:
        call = node.iter
        if not isinstance(call, ast.Call) or self._meaning_of(call) is not range or len(call.args) > 3 or node.orelse:
            self._refuse(node)
        ends = [self.value(n) for n in call.args]
        first, last, step = (0, *ends, 1) if len(ends) == 1 else (*ends, 1)[:3]
        if not isinstance(step, int) or abs(step) != 1:
            self._refuse(node)
        with self.f.loop(0, (last - first) * step) as i, self._block():
            self._bind(node.target, first + i * step)
            self.write(node.body)

    def _If(self, node: ast.If) -> None:
        if node.orelse:
            self._refuse(node)
        with self.f.when(self._truth(node.test)), self._block():
            self.write(node.body)

    def _Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring
            self.value(node.value)

    # ---- Expressions -------------------------------------------------------------------------------------------------

    def value(self, node: ast.expr) -> Any:
        """What an expression means: a number (of Python's, if it is known), an `Array`, or several."""
        return getattr(self, f"_value_of_{type(node).__name__}", self._refuse)(node)

    def _value_of_Name(self, node: ast.Name) -> Any:
        if node.id in self.names:
            found = self.names[node.id]
            return number_of(self.f, self.builder.load(found)) if isinstance(found, ir.AllocaInstr) else found
        found = None if node.id in self.own else self.scope.get(node.id)
        if isinstance(found, (np.float32, np.float64)):
            return Float(FLOATS[type(found)](float(found)))
        if isinstance(found, (np.int32, np.int64)):
            return Int(self.builder, INTEGERS[type(found)](int(found)))
        return int(found) if isinstance(found, int) else self._refuse(node)

    def _value_of_Constant(self, node: ast.Constant) -> Any:
        if not isinstance(node.value, (int, float)):
            self._refuse(node)
        return int(node.value) if isinstance(node.value, bool) else node.value

    def _value_of_Tuple(self, node: ast.Tuple) -> Any:
        return tuple(map(self.value, node.elts))

    def _value_of_BinOp(self, node: ast.BinOp) -> Any:
        return self._binary(node, node.op, node.left, node.right)

    def _value_of_Compare(self, node: ast.Compare) -> Any:
        if len(node.ops) != 1:
            self._refuse(node)
        return self._binary(node, node.ops[0], node.left, node.comparators[0])

    def _binary(self, node: ast.expr, sign: Any, left: ast.expr, right: ast.expr) -> Any:
        integers, floats = values.OPERATORS.get(type(sign), (None, ""))
        a, b = self.value(left), self.value(right)
        if integers is None or any(isinstance(x, tuple) for x in (a, b)):
            self._refuse(node)
        if not isinstance(a, Float) and not isinstance(b, Float):
            x, _ = self._alike(node, a, b)
            negative = isinstance(sign, values.OF_POSITIVE) and any(isinstance(n, int) and n < 0 for n in (a, b))
            counted = x.type == TRUTH and not isinstance(sign, values.OF_TRUTHS)
            if isinstance(sign, ast.Div) or negative or counted:
                self._refuse(node)
            if x.type == TRUTH and isinstance(node, ast.Compare):  # LLVM's truth is -1
                a, b = (Int(self.builder, self.builder.zext(n.value, I64)) for n in (a, b))
            found = integers(a, b)
            return int(found) if isinstance(found, bool) else found
        if not floats or any(isinstance(x, (Int, int)) and not self._is_truth(x) for x in (a, b)):
            self._refuse(node)
        kinds = [x.value.type for x in (a, b) if isinstance(x, Float)]  # constants and truths take the other's
        wider = ir.DoubleType() if ir.DoubleType() in kinds else ir.FloatType()
        x, y = self._cast(a, wider), self._cast(b, wider)
        if isinstance(node, ast.BinOp):
            return Float(getattr(self.builder, floats)(x, y, flags=self.flags))
        compare = self.builder.fcmp_unordered if floats == "!=" else self.builder.fcmp_ordered  # as NaN wants it
        return Int(self.builder, compare(floats, x, y, flags=self.flags))

    def _value_of_UnaryOp(self, node: ast.UnaryOp) -> Any:
        if isinstance(node.op, ast.Not):
            return ~self._truth(node.operand)
        x = self.value(node.operand)
        if not isinstance(node.op, ast.USub) or self._is_truth(x) or isinstance(x, tuple):
            self._refuse(node)
        return Float(self.builder.fneg(x.value)) if isinstance(x, Float) else -x if isinstance(x, float) else 0 - x

    def _value_of_BoolOp(self, node: ast.BoolOp) -> Any:
        for x in node.values:  # of numbers, Python gives one of them
            if not isinstance(x, (ast.Compare, ast.BoolOp)) and not _is_not(x):
                self._refuse(node)
        return self._truth(node)

    def _value_of_IfExp(self, node: ast.IfExp) -> Any:
        one, other = (functools.partial(self.value, x) for x in (node.body, node.orelse))
        return self._choose(node.test, one, other, node.body, node.orelse)

    def _choose(self, test: ast.expr, one: Callable[[], Any], other: Callable[[], Any], *nodes: ast.expr) -> Any:
        """One value if the test holds, else the other; if anything in the nodes may fail, the other is not computed."""
        condition = self._truth(test).value
        if not any(values.may_fail(node, self.scope) for node in nodes):
            return self._merged(test, one(), other(), functools.partial(self.builder.select, condition))
        found: list[Any] = []
        blocks: list[Any] = []
        with self.builder.if_else(condition) as places:
            for place, side in zip(places, (one, other)):
                with place:
                    found.append(side())
                    blocks.append(self.builder.block)

        def whichever(*sides: Any) -> Any:
            phi = self.builder.phi(sides[0].type)
            for x, block in zip(sides, blocks):
                phi.add_incoming(x, block)
            return phi

        return self._merged(test, found[0], found[1], whichever)

    def _value_of_Attribute(self, node: ast.Attribute) -> Any:
        found = getattr(self.value(node.value), node.attr) if node.attr in ("T", "shape") else (None,)
        return self._refuse(node) if any(n is None for n in found) else found

    def _value_of_Subscript(self, node: ast.Subscript) -> Any:
        place = self._at(node)
        if not isinstance(place, Array) or place.strides:
            return place
        x = self.builder.load(self._pointer(place))
        return number_of(self.f, self.builder.trunc(x, TRUTH) if place.dtype == TRUTHS else x)

    def _value_of_Call(self, node: ast.Call) -> Any:
        found: Any = self._meaning_of(node)
        if node.keywords or found is None:
            self._refuse(node)
        if found is float and isinstance(node.args[0], ast.Constant):
            return float(node.args[0].value)  # type: ignore[arg-type]
        arguments = [self.value(x) for x in node.args]
        if found is len and isinstance(arguments[0], Array) and arguments[0].shape[0] is not None:
            return arguments[0].shape[0]
        if found in FLOATS or found in INTEGERS:
            if len(arguments) != 1 or isinstance(arguments[0], tuple):
                self._refuse(node)
            return self._cast_to(arguments[0], found)
        if isinstance(found, Row) or hasattr(found, "inlined"):
            if any(isinstance(x, float) for x in arguments):  # Python's, which would have a type of its own inside
                self._refuse(node)
            rows = [x for x in arguments if isinstance(x, Array)]
            if isinstance(found, Row) and any(x.strides != (x.dtype.itemsize,) for x in rows):
                self._refuse(node)
            return (self.call_row if isinstance(found, Row) else self._write_in_place)(found, arguments)
        if isinstance(found, FunctionType) and found.__code__.co_varnames[:1] == ("f",):
            return found(self.f, *arguments)
        if any(isinstance(x, tuple) for x in arguments):
            self._refuse(node)
        plain = list(map(self._plain, arguments))
        if hasattr(found, "write"):
            return number_of(self.f, found.write(self.builder, *plain))
        kind, *others = {x.type for x in plain}
        if not (found in LLVM or found is np.fmod) or others or kind not in FLOATS.values():
            self._refuse(node)
        if found is np.fmod:
            return Float(self.builder.frem(*plain))
        width = 32 if kind == ir.FloatType() else 64
        return Float(self.f.intrinsic(f"llvm.{LLVM[found]}.f{width}", kind, *plain))

    def _is_truth(self, x: Any) -> bool:
        return isinstance(x, Int) and x.value.type == TRUTH

    def _truth(self, node: ast.expr) -> Int:
        if isinstance(node, ast.BoolOp):
            first, *others = node.values
            rest = ast.BoolOp(node.op, others) if others[1:] else others[0]
            sides = functools.partial(self._truth, rest), lambda: Int(self.builder, TRUTH(isinstance(node.op, ast.Or)))
            one, other = sides if isinstance(node.op, ast.And) else sides[::-1]
            return self._choose(first, one, other, rest)
        value = self.value(node)
        if isinstance(value, Float):
            return Int(self.builder, self.builder.fcmp_unordered("!=", value.value, value.value.type(0)))
        if not isinstance(value, (int, Int)):
            self._refuse(node)
        number = self.f.number(value)
        return number if self._is_truth(number) else number != 0

    def _cast(self, x: Any, kind: Any) -> Any:
        """LLVM's value of a number as a float."""
        if isinstance(x, (int, float)):
            return kind(x)
        if isinstance(x, Int):
            return (self.builder.uitofp if self._is_truth(x) else self.builder.sitofp)(x.value, kind)
        if x.value.type == kind:
            return x.value
        return (self.builder.fptrunc if kind == ir.FloatType() else self.builder.fpext)(x.value, kind)

    def _cast_to(self, x: Any, dtype: Any) -> Any:
        """A number of a type of NumPy's."""
        if dtype in FLOATS:
            return Float(self._cast(x, FLOATS[dtype]))
        kind = INTEGERS[dtype]
        if not isinstance(x, Int):
            return Int(self.builder, self._constant(getattr(x, "value", x), kind))
        how = "zext" if self._is_truth(x) else "trunc" if kind.width < x.value.type.width else "sext"
        return Int(self.builder, getattr(self.builder, how)(x.value, kind))

    def _merged(self, node: ast.expr, a: Any, b: Any, how: Callable[[Any, Any], Any]) -> Any:
        """Two numbers or arrays as one."""
        merged = lambda x, y: number_of(self.f, how(*self._alike(node, x, y)))
        if not isinstance(a, Array) and not isinstance(b, Array):
            return merged(a, b)
        if not isinstance(a, Array) or not isinstance(b, Array) or (a.dtype, len(a.shape)) != (b.dtype, len(b.shape)):
            self._refuse(node)
        shape, strides = tuple(map(merged, a.shape, b.shape)), tuple(map(merged, a.strides, b.strides))
        return Array(a.dtype, how(a.data, b.data), shape, strides)

    # ---- Arrays and calls --------------------------------------------------------------------------------------------

    def _at(self, node: ast.Subscript) -> Any:
        """What is behind an index: the rest of an array, without the dimensions of which one element is taken."""
        whole, at = self.value(node.value), node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if not isinstance(whole, Array):
            return whole[self.value(at[0])]
        if len(at) > len(whole.shape):
            self._refuse(node)
        offset, dims = 0, []
        for i, n, stride in zip(at, whole.shape, whole.strides):
            if not isinstance(i, ast.Slice):
                first = self.value(i)
            elif i.step is None:
                first, last = self.value(i.lower) if i.lower else 0, self.value(i.upper) if i.upper else n
                if isinstance(last, int) and last < 0:
                    self._refuse(node)
                dims.append((None if last is None else last - first, stride))
            else:
                self._refuse(node)
            if self._is_truth(first) or (isinstance(first, int) and first < 0):  # which Python counts from the end
                self._refuse(node)
            offset = offset + first * stride
        dims += zip(whole.shape[len(at) :], whole.strides[len(at) :])
        shape, strides = (tuple(each) for each in zip(*dims)) if dims else ((), ())
        return whole._replace(shape=shape, strides=strides).moved(self.f, offset)

    def _pointer(self, place: Array) -> Any:
        return self.builder.bitcast(place.data, IN_MEMORY[place.dtype].as_pointer())

    def _store(self, node: ast.Subscript, x: Any) -> None:
        place = self._at(node)
        if not isinstance(place, Array) or place.strides or isinstance(x, tuple):
            self._refuse(node)
        pointer = self._pointer(place)
        kind = pointer.type.pointee
        value = x.value if isinstance(x, Int) else self._constant(x, kind) if isinstance(x, int) else None
        if place.dtype.type in FLOATS:
            value = self._cast(x, kind)
        self.builder.store(value if value is not None and value.type == kind else self._refuse(node), pointer)

    def call_row(self, row: Row, arguments: list[Any]) -> None:
        """Call a function of the same module, which is written when it is called first."""
        given = [self._start(x) if isinstance(x, Array) else self._plain(x) for x in arguments]
        kinds = tuple(x.dtype if isinstance(x, Array) else None for x in arguments), tuple(x.type for x in given)
        if (row, kinds) not in self.rows:
            self.rows[row, kinds] = self._row(row, *kinds)
        self.builder.call(self.rows[row, kinds], given)

    def _row(self, row: Row, dtypes: tuple[Any, ...], kinds: tuple[Any, ...]) -> Any:
        """LLVM's function of a row, of numbers and of arrays of these dtypes."""
        tree, module = values.tree_of(row.function), self.f.module
        made = ir.Function(module, ir.FunctionType(VOID, kinds), module.get_unique_name(tree.name))
        made.linkage = "internal"
        made.attributes.add("alwaysinline")
        f, names = Function.inside(ir.IRBuilder(made.append_basic_block()), row.unrolls), {}
        for name, x, dtype in zip(values.parameters_of(row.function), made.args, dtypes, strict=True):
            if dtype:
                x.add_attribute("noalias")
                names[name] = Array(dtype, f.builder.bitcast(x, I8.as_pointer()), (None,), (dtype.itemsize,))
            else:
                names[name] = number_of(f, x)
        self._inside(f, row.function, names, row.flags).write(tree.body)
        f.give()
        return made

    def _inside(self, f: Function, function: Any, given: dict[str, Any], flags: Sequence[str] = ()) -> "Writer":
        """A writer for a function that this one calls."""
        writer = Writer(f, function, given, flags)
        writer.kernel = self.kernel
        return writer

    def _meaning_of(self, call: ast.Call) -> Any:
        """What is called; None if that is a name of the function's own."""
        name = call.func.value if isinstance(call.func, ast.Attribute) else call.func
        return None if getattr(name, "id", "") in self.own else values.meaning_of(call.func, self.scope)

    def _write_in_place(self, rule: Any, arguments: list[Any]) -> Any:
        if hasattr(rule, "wide"):
            ask_for_full_width(self.kernel)
        given = dict(zip(values.parameters_of(rule), arguments, strict=True))
        return self._inside(self.f, rule, given, rule.inlined).result(values.tree_of(rule))

    def _start(self, x: Array) -> Any:
        """The address of an array, as a pointer that can be indexed."""
        place = self._pointer(x)
        # LLVM is not told how the place moves from row to row: to look for the cheapest way to move twenty of them at
        # once takes it a sixth of the time that the kernel takes to compile, and saves nothing.
        opaque = ir.InlineAsm(ir.FunctionType(place.type, [place.type]), "", "=r,0", False)
        return self.builder.call(opaque, [place])
