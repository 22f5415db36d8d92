"""The phases of a step as Numba source that reads like the step.

A `Block` is one direction of a planned step: lines, the places in memory where some of them are found, and those where
others must be put. It becomes the body of a loop over time, which calls products and row functions in turn, and the row
functions, which hold the maths:

    multiply(...)                          # h_weight_hh_T[row] = h[old + row] @ weight_hh_T
    for row in range(lo, top):
        forward_1(H, x_weight_ih_T[now + row][0:H], ..., c[old + row], c[new + row], h[new + row])

Rows of the batch never meet, so the loop can be given any range of them, and each thread gets one for all steps.
Sequences may end at different steps: `top` is where the rows that are still running end, see `rows`. `kernel` has the
rest of the function in which the loop stands.
"""

import ast
import bisect
import functools
import math
import re
import textwrap
from collections.abc import Callable, Iterable
from typing import Any

from ..autograd import table
from ..autograd.primitive import ElementwisePrimitive
from .names import IMPORTS, Names
from .plan import Memory
from .trace import Line, Number, _columns, is_view, shown

MAX_LINE = 120
PANEL = "PANEL = ROW_BYTES // {}  # the width of a panel of packed weights"
MOST_NODES = 240  # of an expression in one statement: Python reads nested ones only so far
MOST_OPERATIONS = 40  # in an equation for the reader

Level = tuple[int, int]
Loop = tuple[int, list[Line]]  # over how many columns, and what gets a name there: the rest is part of its expression
_MOVES = (table.matmul, table.part, table.cat)  # lines that are not computed by a row function


class Block:
    """One direction of a step.

    Args:
        name: "forward" or "backward": the first part of the row functions' names.
        lines: to compute, in an order in which they can be.
        places: where values that are not computed here are found.
        stores: where computed values go.
        weights: product line -> the name of its packed right operand.
        sizes: names of widths.
        origin: line -> the forward line it is the gradient of, for comments.
        towards: line -> the forward line it is a part of the gradient of.
        sums: line -> where its values are added up over all steps.
    """

    def __init__(
        self,
        name: str,
        lines: list[Line],
        places: dict[Line, Memory],
        stores: dict[Line, list[Memory]],
        weights: dict[Line, str],
        sizes: dict[int, str],
        origin: dict[Line, Line],
        towards: dict[Line, Line],
        sums: dict[Line, Memory],
    ) -> None:
        self.name, self.places, self.weights, self.sizes = name, dict(places), weights, sizes
        self.stores = {line: list(memories) for line, memories in stores.items()}
        self.origin, self.towards, self.sums = origin, towards, sums
        self.lines = list(lines)
        self.inside = set(self.lines)
        self.names = {x.name for line in lines for x in (line, *lines_in(line))}
        self.buffers: dict[str, int] = {}
        self.adds_to: set[Line] = set()  # products that add to what their memory holds
        self.same: dict[Line, Line] = {}  # a sum -> the product that adds to the rest of it
        self.functions: set[str] = set()
        self.levels: dict[Line, Level] = {}
        self.equations = Equations()
        self.row_functions: list[str] = []
        self.numbers: dict[str, float] = {}  # arguments that are no arrays
        self.notes: list[str] = []  # on what arrays hold, for the reader
        self.phases: list[tuple[str, list[Loop]]] = []  # what a driver calls, in order, and the loops in there
        self._place_concatenations()
        self._place_products()
        self.stored_in: dict[Memory, list[Line]] = {}
        for line, memories in self.stores.items():
            for memory in memories:
                self.stored_in.setdefault(memory, []).append(line)
        for line in self.lines:
            self.levels[line] = self._level(line)
        self._sink()
        self._place_what_leaves_its_loop()

    # ---- Where values live -------------------------------------------------------------------------------------------

    def memory(self, line: Line) -> Memory | None:
        """Where the value of a line can be read, if it is in memory at all."""
        if line.row is table.part and line not in self.places:
            base = self.memory(line.inputs[0])
            first, last = _columns(line.inputs[0], line.attributes["at"])
            return None if base is None else base._replace(first=base.first + first, width=last - first)
        if line in self.places:
            return self.places[line]
        return self.stores[line][0] if line in self.stores else None

    def _buffer(self, line: Line) -> Memory:
        """New memory for a line: one row for each row of the batch."""
        name = f"{line.name}_buffer"
        self.buffers[name] = line.width
        return Memory(name, "row", 0, line.width)

    def _ensure_memory(self, line: Line) -> None:
        if self.memory(line) is None:
            base = line.inputs[0] if line.row is table.part else line
            self.stores.setdefault(base, []).append(self._buffer(base))

    def _place_products(self) -> None:
        """Give products and their left operands memory; where x + product is wanted there, let the product add to x."""
        uses, position = readers_of(self.lines), {line: i for i, line in enumerate(self.lines)}
        for line in [line for line in self.lines if line.row is table.matmul]:
            self._ensure_memory(line.inputs[0])
            users = uses.get(line, [])
            target = self.stores.get(line)
            total = users[0] if len(users) == 1 and users[0].row is table.add else None
            if target is None and total in self.stores and total not in self.sums:  # whose terms a loop needs
                (other,) = [y for y in total.inputs if y is not line] or [None]
                if (
                    isinstance(other, Line)
                    and other.shape == total.shape == line.shape
                    and other.row not in (table.matmul, table.cat)
                    and (other not in self.inside or (uses[other] == [total] and other not in self.stores))
                    and not _depends(other, line, position)
                ):
                    home = self.stores.pop(total)
                    self.stores.setdefault(other, []).insert(0, home[0])
                    self.places[line] = self.places[total] = home[0]
                    if home[1:]:
                        self.stores[line] = home
                    self.adds_to.add(line)
                    self.same[total] = line
                    self.inside.discard(total)
                    continue
            self.places[line] = target[0] if target else self._buffer(line)
        self.lines = [line for line in self.lines if line in self.inside]

    def _place_concatenations(self) -> None:
        """A concatenation is memory that its pieces are written to."""
        for line in reversed(self.lines):
            if line.row is table.cat:
                self._ensure_memory(line)
                start = 0
                for home in self.stores[line]:
                    start = home.first
                    for piece in line.inputs:
                        self.stores.setdefault(piece, []).append(home._replace(first=start, width=piece.width))
                        start += piece.width
                self.places[line] = self.stores.pop(line)[0]

    # ---- When values are computed ------------------------------------------------------------------------------------

    def _level(self, line: Line) -> Level:
        """(phase, loop within the phase) in which a line is computed or, for a product, can first be read."""
        if line.row is table.matmul:
            waits_for = [self._level_of(line.inputs[0])]
            if line in self.adds_to:
                waits_for += [self._level_of(y) for y in self.stored_in[self.places[line]] if y is not line]
            return max(phase for phase, _ in waits_for) + 1, 0
        reads = [self._readable(line, y) for y in line.inputs if isinstance(y, Line)]
        return max(reads, default=(0, 0))

    def _level_of(self, line: Line) -> Level:
        line = self.same.get(line, line)
        if line in self.inside:
            return self.levels[line] if line in self.levels else self._level(line)
        return self._level_of(line.inputs[0]) if line.row is table.part else (0, 0)

    def _readable(self, line: Line, y: Line) -> Level:
        """The level at which `line` can read `y`: that of y, or the next loop if y must be complete."""
        phase, loop = self._level_of(y)
        base = y.inputs[0] if y.row is table.part else y
        base = self.same.get(base, base)
        if base not in self.inside or base.row is table.matmul:
            return phase, loop
        other_width = y.width != 1 and self._loop_width(line) != y.width
        complete = _reduces(base) or base.row is table.cat or base is not y or other_width
        return (phase, loop + 1) if complete and line.row is not table.cat else (phase, loop)

    def copied(self) -> list[Line]:
        """The lines whose values are copied to a place in memory from another one, rather than computed there."""
        return [line for line in self.stores if line not in self.inside or line.row is table.part]

    def copy_level(self, line: Line) -> Level:
        """The level at which a value can be copied: that of a part, when all of what it is taken from is there."""
        return self._readable(line, line)

    def _loop_width(self, line: Line) -> int:
        return line.inputs[0].width if _reduces(line) else line.width

    def _sink(self) -> None:
        """Move lines down to the first loop that reads them, where that saves them a place in memory."""
        readers = readers_of(self.lines)
        can_move: set[Line] = set()
        for line in self.lines:
            placed = line in self.stores or line in self.places or line in self.sums
            # Columns that are copied are read from memory.
            copied = any(y.row is table.part and y in self.stores for y in readers.get(line, ()))
            if isinstance(line.row, ElementwisePrimitive) and not placed and not copied:
                inputs = [y for y in line.inputs if isinstance(y, Line) and y in self.inside and self.memory(y) is None]
                if all(y in can_move for y in inputs):
                    can_move.add(line)
        for line in reversed(self.lines):
            if line in readers and line in can_move:
                self.levels[line] = max(self.levels[line], min(self.levels[reader] for reader in readers[line]))

    def _place_what_leaves_its_loop(self) -> None:
        for line in self.lines:
            for y in line.inputs:
                if not isinstance(y, Line) or y not in self.inside or self.memory(y) is not None:
                    continue
                same_loop = self.levels[y] == self.levels[line] and self._loop_width(y) == self._loop_width(line)
                scalar = y.width == 1 and self.levels[y][0] == self.levels[line][0]
                if not same_loop and not scalar and line.row is not table.cat:
                    self.stores.setdefault(y, []).append(self._buffer(y))

    # ---- Source ------------------------------------------------------------------------------------------------------

    def size(self, n: int) -> str:
        """A width or column as text, in terms of the named sizes."""
        return in_sizes(n, self.sizes)

    def loop(self) -> tuple[list[str], list[str]]:
        """The body of the loop over time, and the names of its arrays in order; the row functions lie beside it."""
        assert self.inside.issuperset(self.sums), "a line that no loop computes cannot be summed there"
        body: list[str] = []
        arrays: dict[str, None] = {}
        copies = {line: self.stores[line] for line in self.copied()}
        products = [line for line in self.stores if line.row is table.matmul and line in self.inside]
        copies |= {line: self.stores[line][1:] for line in products if self.stores[line][1:]}
        last = max([phase for phase, _ in self.levels.values()], default=0)
        phases: list[tuple[list[Line], list[Line], dict[Line, list[Memory]]]] = [([], [], {}) for _ in range(last + 1)]
        for line in self.lines:
            multiplied, maths, _ = phases[self.levels[line][0]]
            if line.row is table.matmul:
                multiplied.append(line)
            elif line.row not in _MOVES:
                maths.append(line)
        for line, places in copies.items():
            phases[self.copy_level(line)[0]][2][line] = places
        for multiplied, maths, copied in phases:
            for line in multiplied:
                self.phases.append(("multiply", [(line.width, [line])]))
                body += self._product_call(line, arrays)
            call = self._row_function(maths, copied, arrays)
            if call:
                body += ["for row in range(lo, top):", f"    {call}"]
        return body, list(arrays)

    def _product_call(self, line: Line, arrays: dict[str, None]) -> list[str]:
        left, result, weights = self.memory(line.inputs[0]), self.places[line], self.weights[line]
        assert left is not None
        arrays |= dict.fromkeys([left.array, weights, result.array])
        rows = lambda m: f"shift(matrix({m.array}), {m.where.removesuffix('row')}lo, {self.size(m.first)})"
        n, k = self.size(line.width), self.size(line.inputs[0].width)
        sign = "+=" if line in self.adds_to else "="
        return [
            f"# {result.array}[{result.where}] {sign} {left.array}[{left.where}] @ {weights}",
            f"multiply({rows(left)}, panels({weights}), {rows(result)}, top - lo, {n}, {k}, {line in self.adds_to})",
        ]

    def _row_function(self, lines: list[Line], copies: dict[Line, list[Memory]], arrays: dict[str, None]) -> str:
        """Emit the function of one phase; returns the call."""
        if not lines and not copies:
            return ""
        row = _RowFunction(self, lines, copies)
        text = row.text(f"{self.name}_{len(self.row_functions) + 1}")
        self.row_functions.append(text)
        self.phases.append((f"{self.name}_{len(self.row_functions)}", row.loops))
        self.functions |= row.functions
        arrays |= dict.fromkeys(memory.array for memory in row.arguments.values())
        actual = []
        for memory in row.arguments.values():
            index = f"{memory.where}, {self.size(memory.first)}" if memory.where else f"{self.size(memory.first)},"
            actual.append(f"at({memory.array}, ({index}))")
        self.numbers |= row.numbers
        given = ", ".join([*self.sizes.values(), *row.numbers, *actual])
        return f"{self.name}_{len(self.row_functions)}({given})"


class _RowFunction:
    """The maths of one phase for one row of the batch: scalars, and loops over columns."""

    def __init__(self, block: Block, lines: list[Line], copies: dict[Line, list[Memory]]) -> None:
        self.block, self.lines, self.copies = block, lines, copies
        self.unions: list[Memory] = []  # places that are passed as one, since columns of theirs are read or written
        self._write()
        if self._overlap():  # the compiler could not be told that arguments are distinct
            self.unions = self._united()
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
        block = self.block
        loops: dict[tuple[int, int], tuple[list[Line], list[Line]]] = {}
        for x in self.lines:
            loops.setdefault((block.levels[x][1], block._loop_width(x)), ([], []))[0].append(x)
        for x in self.copies:
            loops.setdefault((block.copy_level(x)[1], x.width), ([], []))[1].append(x)
        loop_of = {x: number for number, (lines, _) in loops.items() for x in lines}
        self.leaving = {  # read by another loop than the one that computes it
            y for x in self.lines for y in x.inputs if isinstance(y, Line) and loop_of.get(y) != loop_of[x]
        }
        for (_, width), (lines, copies) in sorted(loops.items(), key=lambda each: each[0]):
            self._loop(width, lines, copies)

    def text(self, name: str) -> str:
        """The source of the function."""
        flags = "REDUCE" if any(_reduces(x) for x in self.lines) else "JIT"
        parameters = ", ".join([*self.block.sizes.values(), *self.numbers, *self.arguments])
        lines = ["distinct()", *self.body]
        text = wrapped(
            f"# One row: {', '.join(dict.fromkeys(x.name for _, results in self.loops for x in results))}.", ""
        )
        text += f"@njit(**{flags})\n" + wrapped(f"def {name}({parameters}):", "")
        return text + "".join(wrapped(x, "    ") for x in lines)

    def _overlap(self) -> bool:
        """Whether two arguments share columns."""
        return any(len(places) > 1 for _, places in self._together())

    def _united(self) -> list[Memory]:
        """The smallest places that share no columns and hold all arguments that do."""
        return [union for union, places in self._together() if len(places) > 1]

    def _together(self) -> list[tuple[Memory, list[Memory]]]:
        """Arguments that share columns, directly or by way of others, with the smallest place that holds them."""
        found: list[tuple[Memory, list[Memory]]] = []
        for place in sorted(self.arguments.values()):
            if found and found[-1][0].overlaps(place):
                union, places = found[-1]
                end = max(union.first + union.width, place.first + place.width)
                found[-1] = union._replace(width=end - union.first), [*places, place]
            else:
                found.append((place, [place]))
        return found

    def _loop(self, width: int, lines: list[Line], copies: list[Line]) -> None:
        """One loop over `width` columns; statements without a loop if it is 1."""
        block = self.block
        group = set(lines)
        users: dict[Line, int] = {}
        for x in lines:
            for y in x.inputs:
                if isinstance(y, Line):
                    users[y] = users.get(y, 0) + 1
        written = {memory: x for x in lines for memory in block.stores.get(x, [])}
        read_first: dict[Line, tuple[str, Memory]] = {}  # what somebody else reads than the line that takes its place
        ancestors = functools.cache(lambda line: reached([line], lambda x: x.inputs if x in group else ()))
        for x in lines:
            for y in x.inputs:
                memory = block.memory(y) if isinstance(y, Line) and y not in group else None
                if memory in written and x not in ancestors(written[memory]):
                    read_first[y] = (f"{y.name}_j" if y.name in self.arguments else y.name, memory)
        inlined: dict[Line, ast.expr] = {}
        before: list[str] = []
        inside: list[str] = []
        results: list[Line] = []
        self.loops.append((width, results))

        def operand(y: Any) -> ast.expr:
            if not isinstance(y, Line):
                return self._constant(y)
            if y in inlined:
                return inlined[y]
            if y.kind == "zeros":
                return _parse("real(0)")
            if y in group or (y in block.inside and y.width == 1 and block.memory(y) is None):
                return _parse(y.name)
            if y in self.lines and y.width == 1:
                return _parse(y.name)
            if y in read_first:
                return _parse(read_first[y][0])
            memory = block.memory(y)
            assert memory is not None, f"{y!r} is nowhere"
            return _parse(self._element(y.name, memory, y.width))

        for x in lines:
            comment = ""
            if x in block.origin:
                comment = f"  # gradient of: {block.equations.describe(block.origin[x])}"
            elif x in block.towards:
                comment = f"  # a part of the gradient of {block.towards[x].name}"
            if _reduces(x) and width != 1:
                results.append(x)
                value = ast.unparse(operand(x.inputs[0]))
                if x.row is table.sum:
                    before.append(f"{x.name} = real(0){comment}")
                    inside.append(f"{x.name} += {value}")
                else:
                    sign = ">" if x.row is table.amax else "<"
                    before.append(f"{x.name} = real({'-' if sign == '>' else ''}1e400){comment}")
                    inside.append(f"{x.name} = {value} if {value} {sign} {x.name} or {value} != {value} else {x.name}")
                continue
            expression = self._expression(x, operand)
            stores = block.stores.get(x, [])
            named = x.named or any(x in which for which in (self.leaving, block.origin, block.sums))
            if users.get(x, 0) == 1 and not named and not stores and _count(expression) <= MOST_NODES:
                inlined[x] = expression
                continue
            results.append(x)
            inside.append(f"{x.name} = {ast.unparse(expression)}{comment}")
            for i, memory in enumerate(stores):
                place = self._element(f"{x.name}_out" + (f"_{i + 1}" if i else ""), memory, width)
                inside.append(f"{place} = {x.name}")
            if x in block.sums:
                inside.append(f"{self._element(f'{x.name}_sum', block.sums[x], width)} += {x.name}")
        after = [
            f"{self._element(f'{x.name}_out', memory, 1)} = {x.name}"
            for x in lines
            if _reduces(x) and width != 1
            for memory in block.stores.get(x, [])
        ]
        after += [
            f"{self._element(f'{x.name}_sum', block.sums[x], 1)} += {x.name}"
            for x in lines
            if _reduces(x) and width != 1 and x in block.sums
        ]
        for x in copies:
            for i, memory in enumerate(self.copies[x]):
                place = self._element(f"{x.name}_copy" + (f"_{i + 1}" if i else ""), memory, width)
                inside.append(f"{place} = {ast.unparse(operand(x))}")
            results.append(x)
        self.body += before
        inside[:0] = [
            f"{name} = {self._element(name, memory, width)}  # {written[memory].name} will take its place"
            for name, memory in read_first.values()
        ]
        if width != 1 and inside:
            inside = [f"for j in range({block.size(width)}):", *(f"    {x}" for x in inside)]
        self.body += inside + after

    def _element(self, name: str, memory: Memory, width: int) -> str:
        """An element of a place in memory, at column j unless there is but one."""
        union = self._union_of(memory)
        if union is not None:
            start = memory.first - union.first
            terms = [self.block.size(start)] * (start > 0) + ["j"] * (width != 1)
            return f"{self._argument(name, union)}[{' + '.join(terms) or 0}]"
        return f"{self._argument(name, memory)}[{'j' if width != 1 else '0'}]"

    def _constant(self, x: Any) -> ast.expr:
        """A number: as it stands in the step, or by the name of an argument."""
        if isinstance(x, Number):
            self.numbers[x.name] = x
        return _parse(f"real({x.name if isinstance(x, Number) else _number(x)})")

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

    def _expression(self, x: Line, operand: Callable[[Any], ast.expr]) -> ast.expr:
        """The formula of a line's row with its operands in place of the names."""
        row = x.row
        assert row is not None
        values = {name: operand(y) for name, y in zip(row.inputs, x.inputs)}
        if isinstance(row, ElementwisePrimitive):
            values |= {name: self._constant(value) for name, value in x.attributes.items()}
            formula = row.formula
        else:  # repeated or cast, or a reduction of one element
            formula = "real(x)" if row is table.cast else "x"
            values = {"x": operand(x.inputs[0])}
        functions = self.functions

        class Fill(ast.NodeTransformer):
            def visit_Name(self, node: ast.Name) -> ast.AST:
                return values.get(node.id, node)

            def visit_Call(self, node: ast.Call) -> ast.AST:
                assert isinstance(node.func, ast.Name)
                if node.func.id != "real":
                    functions.add(node.func.id)
                node.args = [self.visit(argument) for argument in node.args]
                return node

            def visit_Constant(self, node: ast.Constant) -> ast.AST:
                return _parse(f"real({node.value!r})")

        return Fill().visit(_parse(formula))


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
        "from numba import njit",
        "",
        *([f"from {kernels}.{maths} import f as real"] if "real(" in text else []),
        *imported(f"{kernels}.{maths}", functions),
        *(line for room, names in IMPORTS.items() for line in imported(f"{kernels}.{room}", names)),
        *([f"from {kernels}.vector import ROW_BYTES", "", PANEL.format(bits // 8)] if "PANEL" in words else []),
        "",
        text,
    ]
    return "\n".join(lines)


def in_sizes(n: int, sizes: dict[int, str]) -> str:
    """A width or column as text, in terms of sizes that have names."""
    if n in sizes:
        return sizes[n]
    for unit, name in sizes.items():
        if unit > 1 and n and n % unit == 0:
            return f"{n // unit} * {name}"
    return str(n)


def wrapped(line: str, indent: str) -> str:
    """A line of code or a comment, broken between arguments or words where it would be too long, with its end."""
    code, mark, comment = line.partition("# ")
    indent += line[: len(line) - len(line.lstrip())]
    width = MAX_LINE - len(indent)
    if mark and (not code.strip() or len(line.strip()) > width):  # a long comment goes above
        lines = [f"# {words}" for words in textwrap.wrap(comment, width - 2)]
        lines += [code.strip()] if code.strip() else []
        return "".join(f"{indent}{each}\n" for each in lines)
    if len(line.strip()) <= width:
        return f"{indent}{line.strip()}\n"
    depth, glued = 0, ""
    for before, sign in zip(" " + line.strip(), line.strip()):
        depth += (sign in "([{") - (sign in ")]}")
        glued += "\0" if sign == " " and not (depth == 1 and before == ",") else sign
    pieces = textwrap.wrap(glued, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return "".join(f"{indent}{piece}\n" for piece in pieces).replace("\0", " ")


def _parse(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def _number(x: Any) -> str:
    """A Python number as the shortest text that is it."""
    if x != x:
        return "float('nan')"
    if abs(x) == math.inf:
        return "1e400" if x > 0 else "-1e400"
    return str(int(x)) if x == int(x) and abs(x) < 1e9 and not (x == 0 and math.copysign(1, x) < 0) else repr(float(x))


def index_text(i: Any) -> str:
    """An element of an index as it is written in brackets."""
    if isinstance(i, slice):
        ends = [i.start, i.stop, *([i.step] if i.step else [])]
        return ":".join("" if n is None else str(n) for n in ends)
    return "..." if i is ... else repr(i)


def reached(lines: Iterable[Line], further: Callable[[Line], Iterable[Any]]) -> set[Line]:
    """The lines, and all others that one comes to from them, `further` by `further`."""
    found, ahead = set(lines), list(lines)
    while ahead:
        fresh = {y for y in further(ahead.pop()) if isinstance(y, Line) and y not in found}
        found |= fresh
        ahead += fresh
    return found


def readers_of(lines: Iterable[Line]) -> dict[Line, list[Line]]:
    """For each line that is read, by which of `lines`: once for each time."""
    found: dict[Line, list[Line]] = {}
    for line in lines:
        for y in line.inputs:
            if isinstance(y, Line):
                found.setdefault(y, []).append(line)
    return found


def _depends(line: Line, on: Line, position: dict[Line, int]) -> bool:
    """Whether a line is made of another one; who comes before that is not, and need not be looked at."""
    after = lambda x: position.get(x, -1) >= position[on]
    return after(line) and on in reached([line], lambda x: filter(after, lines_in(x)))


def lines_in(line: Line) -> list[Line]:
    """The operands of a line that are lines."""
    return [y for y in line.inputs if isinstance(y, Line)]


def _count(expression: ast.expr) -> int:
    """The number of nodes of an expression, those that it holds several times counted as often."""
    return sum(1 for _ in ast.walk(expression))


def _reduces(line: Line) -> bool:
    return line.row in (table.sum, table.amax, table.amin)


_OPERATORS = {"add": ast.Add, "sub": ast.Sub, "mul": ast.Mult, "div": ast.Div, "matmul": ast.MatMult}


class Equations:
    """Lines as equations, with what has no name worth telling written out, unless that would be long."""

    def __init__(self) -> None:
        self.lengths: dict[Line, int] = {}  # of the lines that can be written out: of how many operations they then are

    def describe(self, line: Line) -> str:
        """A line as an equation."""
        return f"{line.name} = {ast.unparse(_equation(line, self.has_name))}" if line.row else line.name

    def has_name(self, line: Line) -> bool:
        """Whether a line has an equation of its own, and its name in those of others."""
        ahead = [line]
        while ahead:
            x = ahead[-1]
            further = [y for y in lines_in(x) if y.row and y.nameless and y not in self.lengths]
            if x in self.lengths or not (x.row and x.nameless):
                ahead.pop()
            elif further:
                ahead += further
            else:
                inner = (self.lengths[y] for y in lines_in(x) if y.row and y.nameless)
                self.lengths[ahead.pop()] = 1 + sum(n for n in inner if n <= MOST_OPERATIONS)
        return self.lengths.get(line, math.inf) > MOST_OPERATIONS


def _equation(line: Line, has_name: Callable[[Line], bool]) -> ast.expr:
    def operand(x: Any) -> ast.expr:
        if isinstance(x, Line):
            return _parse(x.name) if has_name(x) else _equation(x, has_name)
        return _parse(x.name if isinstance(x, Number) else _number(x))

    row = line.row
    assert row is not None
    operands = [operand(x) for x in line.inputs]
    if row is table.part:
        at = [index_text(i) for i in line.attributes["at"]]
        if is_view(line.inputs[0], line.attributes["at"]):
            at[-1] = "{}:{}".format(*_columns(line.inputs[0], line.attributes["at"]))
        whole = ast.unparse(operands[0])
        return _parse(f"{f'({whole})' if isinstance(operands[0], ast.BinOp) else whole}[{', '.join(at)}]")
    if row is table.permute:
        return ast.Attribute(operands[0], "T")
    if row is table.neg:
        return ast.UnaryOp(ast.USub(), operands[0])
    if row is table.matmul and isinstance(operands[0], ast.BinOp):
        operands[0] = ast.Name(f"({ast.unparse(operands[0])})")  # nobody remembers that * and @ bind alike
    if row is table.matmul and line.inputs[1].row is table.cat:  # joined before the loop
        operands[1:] = map(operand, line.inputs[1].inputs)
    if row is table.matmul and len(operands) > 2:
        return ast.BinOp(operands[0], ast.MatMult(), ast.List(operands[1:]))
    if row.name in _OPERATORS and len(operands) == 2:
        return ast.BinOp(operands[0], _OPERATORS[row.name](), operands[1])
    attributes = [ast.keyword(name, _parse(shown(value))) for name, value in line.attributes.items()]
    return ast.Call(ast.Name(row.name), operands, attributes)
