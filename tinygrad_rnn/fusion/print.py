"""Print: a schedule as source that reads like the step, which `kernels.writer` compiles.

It becomes the body of a loop over time, which calls products and row functions in turn, and the row functions, which
hold the maths:

    multiply(h[old + lo:], ...)            # h_weight_hh_T[row] = h[old + row] @ weight_hh_T
    for row in range(lo, top):
        forward_1(H, x_weight_ih_T[now + row, :], ..., c[old + row, :], c[new + row, :], h[new + row, :])

Rows of the batch never meet, so the loop can be given any range of them, and each thread gets one for all steps.
Sequences may end at different steps: `top` is where the rows that are still running end, see `rows`. `kernel` has the
rest of the function in which the loop stands.
"""

import ast
import bisect
import functools
import math
import re
from collections.abc import Callable
from typing import Any

from ..autograd import table
from ..autograd.primitive import ElementwisePrimitive, Shape
from ..kernels.elementwise import scalar_code
from .equations import Equations, in_sizes, number_text, parse, wrapped
from .names import IMPORTS, Names
from .nest import Nest, aligned, aligned_without
from .program import Gradient, Number, Value, base_of, reached, readers_of, sizes_of
from .schedule import Loops, Memory, Schedule, read_as, reduces, shape_of
from .views import strides_of

PANEL = "PANEL = ROW_BYTES // {}  # the width of a panel of packed weights"
MOST_NODES = 240  # of an expression in one statement: Python reads nested ones only so far

_scalar_code = functools.cache(scalar_code)

Loop = tuple[Shape, list[Value]]  # over which elements, and what gets a name there: the rest is part of its expression


class Block:
    """The loop of one direction, on its way to text.

    Args:
        name: "forward" or "backward": that of the kernel, and the first part of the row functions' names.
        schedule: what is computed when, and where.
        sizes: names of widths.
        gradient: for comments.
        notes: on what arrays hold, for the reader.
    """

    def __init__(
        self, name: str, schedule: Schedule, sizes: dict[int, str], gradient: Gradient, notes: list[str]
    ) -> None:
        self.name, self.schedule, self.sizes, self.notes = name, schedule, sizes, notes
        self.origin, self.towards = gradient.origin, gradient.towards
        self.buffers = schedule.buffers
        self.names = {x.name for value in schedule.values for x in (value, *value.operands)}
        self.functions: set[str] = set()
        self.equations = Equations()
        self.row_functions: list[str] = []
        self.numbers: dict[str, float] = {}  # arguments that are no arrays
        self.phases: list[tuple[str, list[Loop]]] = []  # what is called, in order, and the loops in there

    def size(self, n: int) -> str:
        """A width or column as text, in terms of the named sizes."""
        return in_sizes(n, self.sizes)

    def loop(self) -> list[str]:
        """The body of the loop over time; the row functions lie beside it."""
        body: list[str] = []
        for products, loops in self.schedule.phases:
            for product in products:
                self.phases.append(("multiply", [((product.width,), [product])]))
                body += self._product_call(product)
            if loops:
                body += ["for row in range(lo, top):", f"    {self._row_function(loops)}"]
        return body

    def _product_call(self, product: Value) -> list[str]:
        schedule, weights, adds = self.schedule, packed_weights(product), product in self.schedule.adds_to
        left, result = schedule.memory(product.inputs[0]), schedule.places[product]
        assert left is not None and left.view is None and result.view is None, "a product is of neighbouring columns"
        several, k, n = map(self.size, sizes_of(product))
        at = lambda m, n: shifted(m.array, f"{m.where.removesuffix('row')}lo", moved(self.size(m.first), n, several))
        call = f"multiply({at(left, k)}, {weights}, {at(result, n)}, top - lo, {n}, {k}, {adds})"
        comment = f"# {result.array}[{result.where}] {'+=' if adds else '='} {left.array}[{left.where}] @ {weights}"
        return [comment, *for_each_vector(several, call)]

    def _row_function(self, loops: Loops) -> str:
        """Emit the function of one phase; returns the call."""
        function = RowFunction(self, loops)
        name = f"{self.name}_{len(self.row_functions) + 1}"
        self.row_functions.append(function.text(name))
        self.phases.append((name, function.loops))
        self.functions |= function.functions
        self.numbers |= function.numbers
        actual = []
        for memory in function.arguments.values():
            row, first = f"{memory.where}, " if memory.where else "", self.size(memory.first) if memory.first else ""
            actual.append(f"{memory.array}[{row}{first}:]")
        return f"{name}({', '.join([*self.sizes.values(), *function.numbers, *actual])})"


def for_each_vector(several: str, line: str) -> list[str]:
    """A line that is done for each of several vectors of a row, `each` being its number."""
    return [line] if several == "1" else [f"for each in range({several}):", f"    {line}"]


def shifted(array: str, i: str, j: str) -> str:
    """A matrix from element [i, j] on."""
    if j == "0":
        return array if i == "0" else f"{array}[{i}:]"
    return f"{array}[{'' if i == '0' else i}:, {j}:]"


def moved(first: str, width: str, several: str) -> str:
    """Where such a vector begins."""
    if several == "1":
        return first
    return f"each * {width}" if first == "0" else f"{first} + each * {width}"


def packed_weights(product: Value) -> str:
    """The name of the array that has the right operand of a product of the loop."""
    right = product.inputs[1]
    return f"{right.name if right.kind == 'weights' else product.name}_packed"


class RowFunction:
    """The maths of one phase for one row of the batch: scalars, and loops over columns."""

    def __init__(self, block: Block, loops: Loops) -> None:
        self.block, self.schedule, self._loops = block, block.schedule, loops
        self.values = {value: None for values, _ in loops.values() for value in values}
        loop_of = {value: number for number, (values, _) in loops.items() for value in values}
        # Read by another loop than the one that computes it.
        read = lambda x: map(base_of, x.operands)
        self.leaving = {y for x in self.values for y in read(x) if loop_of.get(y) != loop_of[x]}
        self.unions: list[Memory] = []  # places that are passed as one, since columns of theirs are read or written
        self._write()
        overlapping = [union for union, places in self._together() if len(places) > 1]
        if overlapping:  # the compiler could not be told that arguments are distinct
            self.unions = overlapping
            self._write()

    def _write(self) -> None:
        """Emit the loops."""
        self.arguments: dict[str, Memory] = {}
        self.passed: dict[Memory, str] = {}  # the other way round
        self.names = Names(given=self.block.names)
        self.functions: set[str] = set()
        self.body: list[str] = []
        self.loops: list[Loop] = []
        self.numbers: dict[str, float] = {}  # arguments
        for (_, shape), (values, copies) in self._loops.items():
            self.body += _Statements(self, shape, values, copies).lines()

    def text(self, name: str) -> str:
        """The source of the function."""
        flags = '"reassoc"' if any(map(reduces, self.values)) else ""  # or a sum would not be vector code
        parameters = ", ".join([*self.block.sizes.values(), *self.numbers, *self.arguments])
        computed = dict.fromkeys(x.name for _, results in self.loops for x in results)
        text = wrapped(f"# One row: {', '.join(computed)}.", "") + f"@row_function({flags})\n"
        text += wrapped(f"def {name}({parameters}):", "")
        return text + "".join(wrapped(x, "    ") for x in self.body)

    def _together(self) -> list[tuple[Memory, list[Memory]]]:
        """Arguments that share columns, directly or by way of others, with the smallest place that holds them."""
        found: list[tuple[Memory, list[Memory]]] = []
        for place in sorted(self.arguments.values(), key=lambda place: place[:4]):
            if found and found[-1][0].overlaps(place):
                union, places = found[-1]
                end = max(union.first + union.width, place.first + place.width)
                found[-1] = union._replace(width=end - union.first), [*places, place]
            else:
                found.append((place, [place]))
        return found

    # ---- Elements and formulas ---------------------------------------------------------------------------------------

    def place(self, name: str, memory: Memory) -> tuple[str, int]:
        """The parameter that has a place in memory, and where the place begins there."""
        flat = memory._replace(view=None)
        union = self._union_of(flat) or flat
        start = 0 if memory.view is None else memory.view.first
        return self._argument(name, union), start + memory.first - union.first

    def constant(self, x: Any) -> ast.expr:
        """A number: as it stands in the step, or by the name of an argument."""
        if isinstance(x, Number):
            self.numbers[x.name] = x
        return parse(f"real({x.name if isinstance(x, Number) else number_text(x)})")

    def _union_of(self, memory: Memory) -> Memory | None:
        """The last union that does not begin after a place; unions share no columns."""
        at = bisect.bisect_right(self.unions, (memory.array, memory.where, memory.first, math.inf))
        return self.unions[at - 1] if at and self.unions[at - 1].overlaps(memory) else None

    def _argument(self, name: str, memory: Memory) -> str:
        """The parameter that stands for a place in memory; the same place is passed once."""
        if memory in self.passed:
            return self.passed[memory]
        while name in self.arguments:
            name = self.names.new(name)
        self.arguments[name], self.passed[memory] = memory, name
        return name

    def expression(self, x: Value, operand: Callable[[Any], ast.expr]) -> ast.expr:
        """The formula of a value's row with its operands in place of the names."""
        row = x.row
        assert row is not None
        values = {name: operand(y) for name, y in zip(row.inputs, x.inputs)}
        if isinstance(row, ElementwisePrimitive):
            values |= {name: self.constant(value) for name, value in x.attributes.items()}
            formula, functions = _scalar_code(row.formula)
            self.functions |= functions
        else:  # repeated or cast, or a reduction of one element
            formula = "f(x)" if row is table.cast else "x"
            values = {"x": operand(x.inputs[0])}
        values["f"] = ast.Name("real")  # which turns into the dtype of the kernel

        class Fill(ast.NodeTransformer):
            def visit_Name(self, node: ast.Name) -> ast.AST:
                return values.get(node.id, node)

        return Fill().visit(parse(formula))


class _Statements:
    """One loop over the elements of a `shape`; statements without a loop if there is one alone."""

    def __init__(self, row: RowFunction, shape: Shape, values: list[Value], copies: dict[Value, list[Memory]]) -> None:
        self.row, self.values, self.copies = row, values, copies
        self.block, self.schedule = row.block, row.schedule
        self.group = set(values)
        self.users = readers_of(values)
        self.inlined: dict[Value, ast.expr] = {}
        self.nest = Nest(shape, self.block.size)
        self.before: list[str] = []
        self.inside: list[str] = []
        self.after: list[str] = []
        # What somebody else reads than the value that takes its place is read before.
        self.written = {memory: x for x in values for memory in self.schedule.stores.get(x, [])}
        self.read_first: dict[Value, tuple[str, Memory]] = {}
        ancestors = functools.cache(lambda x: reached([x], lambda y: y.inputs if y in self.group else ()))
        for x in values:
            for y in map(read_as, x.operands):
                memory = None if y in self.group else self.schedule.memory(y)
                if memory in self.written and x not in ancestors(self.written[memory]):
                    self.read_first[y] = (f"{y.name}_j" if y.name in row.arguments else y.name, memory)

    def lines(self) -> list[str]:
        """The text."""
        for x in self.values:
            if x.row is table.cumsum:
                self._running_sum(x)
            elif reduces(x) and self.nest.shape != (1,):
                self._reduction(x)
            else:
                self._maths(x)
        for x, places in self.copies.items():
            targets = [self.element(f"{x.name}_copy", memory, x) for memory in places]
            self.inside += [f"{target} = {ast.unparse(self._operand(x, x))}" for target in targets]
        self.row.loops.append((self.nest.shape, [x for x in (*self.values, *self.copies) if x not in self.inlined]))
        first = [
            f"{name} = {self.element(name, memory, y)}  # {self.written[memory].name} will take its place"
            for y, (name, memory) in self.read_first.items()
        ]
        return [*self.before, *self.nest.lines([*first, *self.inside]), *self.after]

    def element(
        self, name: str, memory: Memory, x: Value, like: Value | None = None, nest: Nest | None = None
    ) -> str:
        """The element of a place in memory that has x, in a loop over the elements of `like`."""
        nest, argument_and_start = nest or self.nest, self.row.place(name, memory)
        strides = memory.view.strides if memory.view else strides_of(x.inner)
        return nest.element(*argument_and_start, aligned(x.inner, strides, (like or x).inner))

    def _maths(self, x: Value) -> None:
        """A statement, or a part of the only one that reads it."""
        expression = self.row.expression(x, lambda y: self._operand(y, x))
        places = self.schedule.stores.get(x, [])
        named = x.named or any(x in which for which in (self.row.leaving, self.block.origin, self.schedule.sums))
        if len(self.users.get(x, ())) == 1 and not named and not places and _count(expression) <= MOST_NODES:
            self.inlined[x] = expression
            return
        self.inside.append(f"{x.name} = {ast.unparse(expression)}{self._comment(x)}")
        self.inside += self._put(x, x.name, places)

    def _reduction(self, x: Value) -> None:
        """A sum or an extreme over the loop, of one element in a variable, of more in memory."""
        (of,), places, comment = x.inputs, self.schedule.stores.get(x, []), self._comment(x)
        value, start, total, one = ast.unparse(self._operand(of, of)), "real(0)", x.name, x.width == 1
        value = f"real({value})" if of.dtype.kind == "b" else value
        if not one:
            total = self.nest.element(*self.row.place(f"{x.name}_out", places[0]), aligned_without(x, of))
        if x.row is table.sum:
            self.inside.append(f"{total} += {value}{'' if one else comment}")
        else:
            sign = ">" if x.row is table.amax else "<"
            start = f"real({'-' if sign == '>' else ''}1e400)"
            if not value.isidentifier():
                self.inside.append(f"{x.name}_j = {value}")
                value = f"{x.name}_j"
            self.inside.append(f"{total} = {value} if {value} {sign} {total} or {value} != {value} else {total}")
        before, after = (Nest(shape_of(x), self.block.size) for _ in range(2))
        whole = lambda nest: x.name if one else self.element(f"{x.name}_out", places[0], x, nest=nest)
        self.before += before.lines([f"{whole(before)} = {start}{comment if one else ''}"])
        self.after += after.lines(self._put(x, whole(after), places if one else places[1:], after))

    def _running_sum(self, x: Value) -> None:
        """Each element is added to the one before it, which is in memory."""
        place, *rest = self.schedule.stores[x]
        (argument, start), dim = self.row.place(f"{x.name}_out", place), x.attributes["dim"] - 1
        along = tuple([int(i == dim) for i in range(len(x.inner))])
        j = self.nest.index(aligned(x.inner, along, x.inner))
        strides = place.view.strides if place.view else strides_of(x.inner)
        steps = aligned(x.inner, strides, x.inner)
        now, ago = (self.nest.element(argument, start - step, steps) for step in (0, strides[dim]))
        self.inside.append(f"{now} = {ast.unparse(self._operand(x.inputs[0], x))}{self._comment(x)}")
        self.inside += [f"if {j} > 0:", f"    {now} += {ago}"]
        self.inside += self._put(x, now, rest)

    def _put(self, x: Value, text: str, places: list[Memory], nest: Nest | None = None) -> list[str]:
        """Statements that copy an element of a value to places in memory, and add it to the sum over all steps."""
        copies = [f"{self.element(f'{x.name}_out', memory, x, nest=nest)} = {text}" for memory in places]
        if x not in self.schedule.sums:
            return copies
        return [*copies, f"{self.element(f'{x.name}_sum', self.schedule.sums[x], x, nest=nest)} += {text}"]

    def _comment(self, x: Value) -> str:
        if x in self.block.origin:
            return f"  # gradient of: {self.block.equations.describe(self.block.origin[x])}"
        return f"  # a part of the gradient of {self.block.towards[x].name}" if x in self.block.towards else ""

    def _operand(self, y: Any, reader: Value) -> ast.expr:
        """What stands for an operand in an expression."""
        if not isinstance(y, Value):
            return self.row.constant(y)
        y = read_as(y)
        if y in self.inlined:
            return self.inlined[y]
        if y.kind == "zeros":
            return parse("real(0)")
        memory = self.schedule.memory(y)
        scalar = y.width == 1 and (y in self.row.values or (y in self.schedule.inside and memory is None))
        if y in self.group or scalar:
            return parse(y.name)
        if y in self.read_first:
            return parse(self.read_first[y][0])
        assert memory is not None, f"{y!r} is nowhere"
        return parse(self.element(y.name, memory, y, reader))


def _count(expression: ast.expr) -> int:
    """The number of nodes of an expression, those that it holds several times counted as often."""
    return sum(1 for _ in ast.walk(expression))


def module(title: str, text: str, bits: int, functions: set[str]) -> str:
    """Generated functions with their imports; `functions` are those of `maths` that they may call."""
    words = set(re.findall(r"\w+", text))

    def imported(room: str, names: set[str]) -> list[str]:
        used = sorted(names & words)
        return [f"from {room} import {', '.join(used)}"] if used else []

    kernels, maths = "tinygrad_rnn.kernels", f"maths{bits}"
    lines = [
        f'"""{title}: generated from its step."""',
        "",
        *([f"from {kernels}.{maths} import f as real"] if "real(" in text else []),
        *imported(f"{kernels}.{maths}", functions),
        *(line for room, names in IMPORTS.items() for line in imported(f"{kernels}.{room}", names)),
        *([f"from {kernels}.vector import ROW_BYTES", "", PANEL.format(bits // 8)] if "PANEL" in words else []),
        "",
        text,
    ]
    return "\n".join(lines)
