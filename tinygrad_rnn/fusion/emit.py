"""The phases of a step as Numba source that reads like the step.

A `Block` is one direction of a planned step: lines, the places in memory where some of them are found, and those where
others must be put. It becomes a driver, which runs over time and calls products and row functions in turn, and the row
functions, which hold the maths:

    def forward(lo, hi, T, starts, H, ...):
        for t in range(T):
            old, new = ...                         # where the states before and after this step begin
            multiply(...)                          # h_weight_hh_T[row] = h[old + row] @ weight_hh_T
            for row in range(lo, top):
                forward_1(H, x_weight_ih_T[now + row][0:H], ..., c[old + row], c[new + row], h[new + row])

Rows of the batch never meet, so a driver can be given any range of them, and each thread gets one for the whole loop.
Sequences may end at different steps: `top` is where the rows that are still running end, see `rows`.
"""

import ast
import math
import re
import textwrap
from collections.abc import Callable
from typing import Any

from ..autograd import table
from ..autograd.primitive import ElementwisePrimitive
from .plan import Memory
from .trace import Line, _columns, is_view, shown

STEP = [
    "old, new = starts[t], starts[t + 1]  # where the states before and after this step begin",
    "now, top = new - starts[1], min(hi, starts[t + 2] - new)  # where it is in sequences; the end of running rows",
]
MAX_LINE = 120
MOST_INLINE = 30  # arguments of a driver that Numba can inline: Python passes more of them another way

Level = tuple[int, int]
Loop = tuple[int, list[Line]]  # over how many columns, and what gets a name there: the rest is part of its expression
_MOVES = (table.matmul, table.part, table.cat)  # lines that are not computed by a row function


class Block:
    """One direction of a step.

    Args:
        name: "forward" or "backward": of the driver, and the first part of the row functions' names.
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
        self.buffers: dict[str, int] = {}
        self.adds_to: set[Line] = set()  # products that add to what their memory holds
        self.same: dict[Line, Line] = {}  # a sum -> the product that adds to the rest of it
        self.functions: set[str] = set()
        self.levels: dict[Line, Level] = {}
        self.row_functions: list[str] = []
        self.notes: list[str] = []  # on what arrays hold, for the reader
        self.phases: list[tuple[str, list[Loop]]] = []  # what a driver calls, in order, and the loops in there
        self._place_concatenations()
        self._place_products()
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
        uses: dict[Line, list[Line]] = {}
        for line in self.lines:
            for y in line.inputs:
                if isinstance(y, Line):
                    uses.setdefault(y, []).append(line)
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
                    and not self._depends(other, line)
                ):
                    home = self.stores.pop(total)
                    self.stores.setdefault(other, []).insert(0, home[0])
                    self.places[line] = self.places[total] = home[0]
                    if home[1:]:
                        self.stores[line] = home
                    self.adds_to.add(line)
                    self.same[total] = line
                    self.inside.discard(total)
                    self.lines.remove(total)
                    continue
            self.places[line] = target[0] if target else self._buffer(line)

    def _depends(self, line: Line, on: Line) -> bool:
        ahead, seen = [line], {line}
        while ahead:
            for y in ahead.pop().inputs:
                if y is on:
                    return True
                if isinstance(y, Line) and y not in seen:
                    seen.add(y)
                    ahead.append(y)
        return False

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
                home = self.places[line]
                waits_for += [self._level_of(y) for y, homes in self.stores.items() if y is not line and home in homes]
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

    def _loop_width(self, line: Line) -> int:
        return line.inputs[0].width if _reduces(line) else line.width

    def _sink(self) -> None:
        """Move lines down to the first loop that reads them, where that saves them a place in memory."""
        readers: dict[Line, list[Line]] = {}
        for line in self.lines:
            for y in line.inputs:
                if isinstance(y, Line):
                    readers.setdefault(y, []).append(line)

        def can_move(line: Line) -> bool:
            if not isinstance(line.row, ElementwisePrimitive) or line in self.stores or line in self.places:
                return False
            if line in self.sums or any(y.row is table.part and y in self.stores for y in readers.get(line, ())):
                return False  # columns that are copied are read from memory
            inputs = [y for y in line.inputs if isinstance(y, Line) and y in self.inside and self.memory(y) is None]
            return all(can_move(y) for y in inputs)

        for line in reversed(self.lines):
            if line in readers and can_move(line):
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

    def driver(self, descending: bool) -> tuple[str, list[str]]:
        """The function over time, with the row functions before it, and the names of its arrays in order."""
        assert self.inside.issuperset(self.sums), "a line that no loop computes cannot be summed there"
        body: list[str] = []
        arrays: dict[str, None] = {}
        copies = {
            line: places for line, places in self.stores.items() if line not in self.inside or line.row is table.part
        }
        products = [line for line in self.stores if line.row is table.matmul and line in self.inside]
        copies |= {line: self.stores[line][1:] for line in products if self.stores[line][1:]}
        last = max([phase for phase, _ in self.levels.values()], default=0)
        for phase in range(last + 1):
            for line in self.lines:
                if line.row is table.matmul and self.levels[line][0] == phase:
                    self.phases.append(("multiply", [(line.width, [line])]))
                    body += self._product_call(line, arrays)
            maths = [x for x in self.lines if self.levels[x][0] == phase and x.row not in _MOVES]
            call = self._row_function(
                maths, {x: places for x, places in copies.items() if self._level_of(x)[0] == phase}, arrays
            )
            if call:
                body += ["for row in range(lo, top):", f"    {call}"]
        steps = "range(T - 1, -1, -1)" if descending else "range(T)"
        keep = ["keep"] if self.name == "backward" else []
        parameters = ["lo", "hi", "T", "starts", *keep, *self.sizes.values(), *arrays]
        inline = 'inline="always", ' if len(parameters) <= MOST_INLINE else ""
        text = "# The loop over time, for rows [lo, hi) of the batch.\n"
        text += "".join(wrapped(f"# {note}", "") for note in self.notes)
        text += f"@njit(cache=CACHE, {inline}**JIT)\n" + wrapped(f"def {self.name}({', '.join(parameters)}):", "")
        text += f"    for t in {steps}:\n" + "".join(wrapped(line, " " * 8) for line in [*STEP, *body])
        return "\n\n".join([*self.row_functions, text]), list(arrays)

    def _product_call(self, line: Line, arrays: dict[str, None]) -> list[str]:
        left, result, weights = self.memory(line.inputs[0]), self.places[line], self.weights[line]
        assert left is not None
        arrays |= dict.fromkeys([left.array, weights, result.array])
        rows = lambda m: f"shift(matrix({m.array}{_time(m.where)}), {_offset(m.where)}lo, {self.size(m.first)})"
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
        sizes = list(self.sizes.values())
        return f"{self.name}_{len(self.row_functions)}({', '.join([*sizes, *actual])})"


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
        self.functions: set[str] = set()
        self.body: list[str] = []
        self.loops: list[Loop] = []
        block = self.block
        loops = {(block.levels[x][1], block._loop_width(x)) for x in self.lines}
        loops |= {(block._level_of(x)[1], x.width) for x in self.copies}
        for loop, width in sorted(loops):
            self._loop(
                width,
                [x for x in self.lines if (block.levels[x][1], block._loop_width(x)) == (loop, width)],
                [x for x in self.copies if (block._level_of(x)[1], x.width) == (loop, width)],
            )

    def text(self, name: str) -> str:
        """The source of the function."""
        flags = "REDUCE" if any(_reduces(x) for x in self.lines) else "JIT"
        parameters = ", ".join([*self.block.sizes.values(), *self.arguments])
        lines = ["distinct()", *self.body]
        text = wrapped(
            f"# One row: {', '.join(dict.fromkeys(x.name for _, results in self.loops for x in results))}.", ""
        )
        text += f"@njit(**{flags})\n" + wrapped(f"def {name}({parameters}):", "")
        return text + "".join(wrapped(x, "    ") for x in lines)

    def _overlap(self) -> bool:
        """Whether two arguments share columns."""
        places = list(self.arguments.values())
        return any(a.overlaps(b) for i, a in enumerate(places) for b in places[:i])

    def _united(self) -> list[Memory]:
        """The smallest places that share no columns and hold all arguments that do."""
        unions: list[Memory] = []
        for place in self.arguments.values():
            for other in [other for other in unions if place.overlaps(other)]:
                unions.remove(other)
                first, end = min(place.first, other.first), max(place.first + place.width, other.first + other.width)
                place = place._replace(first=first, width=end - first)
            unions.append(place)
        return [union for union in unions if union not in self.arguments.values() or self._is_shared(union)]

    def _is_shared(self, union: Memory) -> bool:
        return sum(union.overlaps(place) for place in self.arguments.values()) > 1

    def _loop(self, width: int, lines: list[Line], copies: list[Line]) -> None:
        """One loop over `width` columns; statements without a loop if it is 1."""
        block = self.block
        group = set(lines)
        users: dict[Line, int] = {}
        for x in lines:
            for y in x.inputs:
                if isinstance(y, Line):
                    users[y] = users.get(y, 0) + 1
        later = {y for x in self.lines if x not in group for y in x.inputs if isinstance(y, Line)}
        written = {memory: x for x in lines for memory in block.stores.get(x, [])}
        read_first: dict[Line, tuple[str, Memory]] = {}  # what somebody else reads than the line that takes its place
        for x in lines:
            for y in x.inputs:
                memory = block.memory(y) if isinstance(y, Line) and y not in group else None
                if memory in written and not leads_to(x, written[memory], group):
                    read_first[y] = (f"{y.name}_j" if y.name in self.arguments else y.name, memory)
        inlined: dict[Line, ast.expr] = {}
        before: list[str] = []
        inside: list[str] = []
        results: list[Line] = []
        self.loops.append((width, results))

        def operand(y: Any) -> ast.expr:
            if not isinstance(y, Line):
                return _parse(f"real({_number(y)})")
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
                comment = f"  # gradient of: {describe(block.origin[x])}"
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
            if users.get(x, 0) == 1 and not x.named and not stores and not {x} & (later | {*block.origin, *block.sums}):
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
        for union in self.unions:
            if union.overlaps(memory):
                start = memory.first - union.first
                terms = [self.block.size(start)] * (start > 0) + ["j"] * (width != 1)
                return f"{self._argument(name, union)}[{' + '.join(terms) or 0}]"
        return f"{self._argument(name, memory)}[{'j' if width != 1 else '0'}]"

    def _argument(self, name: str, memory: Memory) -> str:
        """The parameter that stands for a place in memory; the same place is passed once."""
        for known, place in self.arguments.items():
            if place == memory:
                return known
        while name in self.arguments:
            name += "_"
        self.arguments[name] = memory
        return name

    def _expression(self, x: Line, operand: Callable[[Any], ast.expr]) -> ast.expr:
        """The formula of a line's row with its operands in place of the names."""
        row = x.row
        assert row is not None
        values = {name: operand(y) for name, y in zip(row.inputs, x.inputs)}
        if isinstance(row, ElementwisePrimitive):
            values |= {name: _parse(f"real({_number(value)})") for name, value in x.attributes.items()}
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

    def imported(room: str, names: set[str]) -> list[str]:
        used = sorted(name for name in names if re.search(rf"\b{name}\b", text))
        return [f"from {room} import {', '.join(used)}"] if used else []

    kernels, maths = "tinygrad_rnn.kernels", f"maths{bits}"
    lines = [
        f'"""{title}: generated from its step."""',
        "",
        "from numba import njit",
        *imported("numpy", {"empty"}),
        "",
        *([f"from {kernels}.{maths} import f as real"] if "real(" in text else []),
        *imported(f"{kernels}.{maths}", functions),
        *imported(
            f"{kernels}.matmul",
            {"copy", "fill_panels", "matrix", "multiply", "panels", "product", "shift", "sum_rows"},
        ),
        *imported(f"{kernels}.memory", {"JIT", "REDUCE", "at", "distinct"}),
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


def _time(index: str) -> str:
    """The part of a row's index that says when."""
    return f"[{index.rpartition(',')[0]}]" if "," in index else ""


def _offset(index: str) -> str:
    """What is added to the row in an index."""
    return index.rpartition(",")[2].strip().removesuffix("row")


def leads_to(line: Line, result: Line, within: set[Line] | None = None) -> bool:
    """Whether a line is one of those that `result` is computed from, or is `result` itself.

    Args:
        within: look only at what these are computed from: the rest has been computed before.
    """
    ahead, seen = [result], set()
    while ahead:
        x = ahead.pop()
        if x is line:
            return True
        if x not in seen and (within is None or x in within):
            seen.add(x)
            ahead += [y for y in x.inputs if isinstance(y, Line)]
    return False


def _reduces(line: Line) -> bool:
    return line.row in (table.sum, table.amax, table.amin)


_OPERATORS = {"add": ast.Add, "sub": ast.Sub, "mul": ast.Mult, "div": ast.Div, "matmul": ast.MatMult}


def describe(line: Line) -> str:
    """A line as an equation, with what has no name worth telling written out."""
    return f"{line.name} = {ast.unparse(_equation(line))}" if line.row else line.name


def _equation(line: Line) -> ast.expr:
    def operand(x: Any) -> ast.expr:
        if isinstance(x, Line):
            return _equation(x) if x.row and x.nameless else _parse(x.name)
        return _parse(_number(x))

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
