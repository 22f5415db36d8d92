"""One function of machine code for each direction: the loop over time, and all that stands around it.

    def forward(lo, hi, workspace, stages, first, last, threads, ranges, starts, I, H, x, ..., arena):
        c, h_weight_hh_T_packed, ... = carve(arena, ...)  # where everything lies: one arena for a call
        if stages & BEGIN:                              # the first states, and the weights of the loop, packed
        if stages & PROLOGUE:                           # products that need not wait for the loop, of all steps at once
        if stages & LOOP and not share(ranges, LOOP):   # steps [first, last) of sequences [lo, hi)
        if stages & END:                                # the final states; of the backward pass the epilogue

A call does all stages in one go. With several threads, the function calls itself for the loop, once for each range of
sequences; the products before and after it share the helpers by themselves. Inference takes some steps at a time, a
tile, where nobody needs what was computed before its loop: then that stays in the cache.

`I` is the width of the input, whether other sizes are the same or not: layers of a stack share a kernel. The other
arguments are arrays; those that are wanted of the gradients are given memory, the others none: `if len(dW)`.
"""

import math
import re
import textwrap
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ..autograd import table
from ..kernels.arena import spaced_by
from ..kernels.vector import ROW_BYTES
from .equations import MAX_LINE, indented, wrapped
from .names import RESERVED, Names
from .print import Block, packed_weights, shifted
from .program import Value, first_column_of, sizes_of

BEGIN, PROLOGUE, LOOP, END = 1, 2, 4, 8
ALL = BEGIN | PROLOGUE | LOOP | END
PARAMETERS = ["lo", "hi", "workspace", "stages", "first", "last", "threads", "ranges", "starts", "I"]
STEP = [
    "old, new = starts[t], starts[t + 1]  # where the states before and after this step begin",
    "now, top = new - B, starts[t + 2] - new  # where it is in sequences; the end of running rows",
    "top = hi if hi < top else top",
    "if top > lo:  # else all of these rows have ended",
]
SPARE = 96  # numbers that `spaced` adds, at most


class Argument(NamedTuple):
    """An array that a kernel is given.

    Attributes:
        value: whose value it is.
        role: "steps" ([T, B, width], as the user has it), "rows" (the same as [T * B, width]), "each" (for each
            sequence), "first" (the same, of a state), "vector", "matrix".
        name: its own.
    """

    value: Value
    role: str
    name: str


def sequence_array(value: Value) -> str:
    """The name of the array that has a sequence, which is not that of the input at one step."""
    return f"{value.name}_in" if value.kind == "input" else value.name


class Matrix(NamedTuple):
    """A matrix that is another one turned over or cut: `leaf` and what is written behind its name."""

    leaf: Value
    suffix: str

    @property
    def cut(self) -> bool:
        """Whether it is a part."""
        return "[" in self.suffix


def matrix_of(value: Value, size: Callable[[int], str] = str) -> Matrix:
    """What a matrix is a view of, as far as kernels can read views, with `size` for the text of where it is cut."""
    suffix = ""
    while value.row in (table.permute, table.slice) and len(value.shape) == len(value.inputs[0].shape) == 2:
        if value.row is table.permute:
            suffix = ".T" + suffix if value.attributes["dims"] == (1, 0) else suffix
        elif all(isinstance(i, slice) and i.step in (None, 1) for i in value.attributes["at"]):
            ends = [(i.indices(n)[:2], n) for i, n in zip(value.attributes["at"], value.inputs[0].shape)]
            at = (":" if (first, last) == (0, n) else f"{size(first)}:{size(last)}" for (first, last), n in ends)
            suffix = f"[{', '.join(at)}]" + suffix
        else:
            break
        value = value.inputs[0]
    return Matrix(value, suffix.replace(".T.T", ""))


def side_by_side(values: Iterable[Value]) -> list[Value]:
    """The matrices that make one up."""
    found: list[Value] = []
    for value in values:
        together = value.row is table.cat and value.attributes["dim"] in (1, -1) and len(value.shape) == 2
        found += side_by_side(value.inputs) if together else [value]
    return found


class Arena:
    """What lies in the memory of a call: (name, number of rows, what a row has: a width, or a matrix).

    The number of rows is one of the words of `Rows.counts`, or stands there itself.
    """

    def __init__(self, name: str, entries: Iterable[tuple[str, str, tuple[int, ...]]] = ()) -> None:
        self.name, self.entries = name, list(entries)
        self.panels: dict[str, int] = {}  # packed weights, and how many columns they have

    def add(self, name: str, rows: str, *row: int) -> None:
        self.entries.append((name, rows, row))

    def widths(self) -> dict[str, int]:
        """How wide all together is that has so many rows, at most, by the word for these; the rest is one row."""
        found = {"1": SPARE * (1 + len(self.entries))}
        for _, rows, row in self.entries:
            words, n = ("1", int(rows)) if rows.isdigit() else (rows, 1)
            found[words] = found.get(words, 0) + n * math.prod(row)
        return found

    def views(self, array: Any, counts: dict[str, int]) -> dict[str, Any]:
        """The arrays by name, as `carve` makes them."""
        found, place = {}, -array.ctypes.data % 64 // array.itemsize
        for name, rows, row in self.entries:
            n = int(rows) if rows.isdigit() else counts[rows]
            found[name] = array[place : place + n * math.prod(row)].reshape(n, *row)
            place += spaced_by(n * math.prod(row))
        return found

    def text(self, size: Any, used: set[str]) -> list[str]:
        """The lines that find these arrays in the arena."""
        last = max((n for n, (name, _, _) in enumerate(self.entries) if name in used), default=-1)
        names, shapes = [], []
        for name, rows, row in self.entries[: last + 1]:
            shape = [rows, *map(size, row)]
            if name in self.panels:
                shape = [f"({size(self.panels[name])} + PANEL - 1) // PANEL", size(row[0]), "PANEL"]
            names.append(name if name in used else "_")
            shapes.append(f"({', '.join(shape)})")
        if not names:
            return []
        comma = "," if last == 0 else ""
        whole = f"{', '.join(names)}{comma} = carve({self.name}, ({', '.join(shapes)}{comma}))"
        if len(whole) <= MAX_LINE - 4:
            return [whole]
        return ["(", *_filled(names), f") = carve({self.name}, (", *_filled(shapes), "))"]


def _filled(words: list[str]) -> list[str]:
    """Lines of a list, indented, as long as a page has them."""
    text = ", ".join(word.replace(" ", "\0") for word in words) + ","
    lines = textwrap.wrap(text, MAX_LINE - 8, break_long_words=False, break_on_hyphens=False)
    return [line.replace("\0", " ") for line in indented(lines)]


class Kernel:
    """A kernel on its way to text."""

    source: str

    def __init__(self, scan: Any, direction: str) -> None:
        self.scan, self.program, self.direction = scan, scan.program, direction
        self.block: Block = scan.blocks[direction]
        self.body = self.block.loop()
        self.names = Names(RESERVED, given=[*scan.array_names, *self.block.buffers, *self.block.numbers])
        self.arguments: list[Argument] = []
        self.known: dict[tuple[Value, str], Argument] = {}  # the same by value and role
        self.stages: dict[int, list[str]] = {BEGIN: [], PROLOGUE: [], LOOP: [], END: []}
        self.arena = Arena("arena")
        self.size = scan.size

    def write(self, stage: int, *lines: str) -> None:
        self.stages[stage] += lines

    def words(self) -> set[str]:
        """What the lines of all stages name."""
        return words_in(line for lines in self.stages.values() for line in lines)

    def argument(self, value: Value, role: str = "") -> str:
        """The name of an array that the kernel is given."""
        role = role or self.scan.role_of(value)
        if (value, role) in self.known:
            return self.known[value, role].name
        name = sequence_array(value)  # which the loop may read
        if role in ("first", "matrix"):
            name = self.names.new(f"{value.name}_first" if role == "first" else value.name)
        self.known[value, role] = argument = Argument(value, role, name)
        self.arguments.append(argument)
        return name

    def matrix(self, value: Value) -> str:
        """A matrix of parameters, as an array."""
        leaf, suffix = matrix_of(value, self.size)
        return self.argument(leaf, "matrix") + suffix

    def joined(self, product: Value) -> tuple[str, list[str]]:
        """The weights of a product as an array; and the lines that make it, if it is none of the arguments."""
        parts = side_by_side(product.inputs[1:])
        if len(parts) == 1:
            return self.matrix(parts[0]), []
        whole, K, first, copies = self.weights_for(product), self.terms(product), 0, []
        for part in parts:
            target = shifted(whole, "0", self.size(first))
            copies.append(f"copy({self.matrix(part)}, {target}, {K}, {self.size(part.shape[1])})")
            first += part.shape[1]
        return whole, copies

    def terms(self, product: Value) -> str:
        """How long the vectors are that a product multiplies with its weights."""
        left = product.inputs[0]
        return "I" if left is self.program.inputs[0] else self.size(left.shape[-1])

    def weights_for(self, product: Value, prefix: str = "") -> str:
        """A new array as large as the weights of a product."""
        rows = "I" if self.terms(product) == "I" else str(product.inputs[0].shape[-1])
        return self.scratch(f"{prefix}{product.name}_weights", rows, product.shape[-1])

    def scratch(self, name: str, rows: str, width: int) -> str:
        """A new array in the arena."""
        name = self.names.new(name)
        self.arena.add(name, rows, width)
        return name

    def pack(self, name: str, value: Value, transposed: bool = False) -> None:
        """Pack the weights of a product in the loop."""
        weights, copies = self.joined(value)
        (_, K, N), columns = sizes_of(value), ROW_BYTES // self.scan.dtype.itemsize
        if transposed:
            weights, K, N = turned(weights), N, K
        self.arena.add(name, str(-(-N // columns)), K, columns)
        self.arena.panels[name] = N
        self.write(BEGIN, *copies, f"fill_panels({weights}, {name}, {self.size(K)}, {self.size(N)})")

    def text(self, others: list[str], by_steps: list[str], carved: list[str], comments: dict[int, str]) -> str:
        """The source of the function, which has `others` behind its arguments; some are given as [T, B, width]."""
        keep = ["keep"] if self.direction == "backward" else []
        parameters = [*PARAMETERS, *keep, *self.scan.sizes.values(), *self.block.numbers]
        parameters += [*(a.name for a in self.arguments), *others]
        by_steps = [*(a.name for a in self.arguments if a.role == "steps"), *by_steps]
        lines = ["T, B = len(starts) - 2, starts[1]", "total = starts[T + 1] - B"]
        if any(rows == "ragged" for _, rows, _ in self.arena.entries):
            lines.append("ragged = total if total < T * B else 0")
        lines += carved
        lines += [f"{name} = rows_of({name})" for name in by_steps]
        for stage, body in self.stages.items():
            if body:
                alone = f" and not share(ranges, {LOOP})" if stage == LOOP else ""
                lines += [f"if stages & {stage}{alone}:  # {comments[stage]}", *indented(body)]
        head = wrapped(f"def {self.block.name}({', '.join(parameters)}):", "")
        return f"@kernel(cache=CACHE)\n{head}" + "".join(wrapped(line, "    ") for line in lines)


class Forward(Kernel):
    """The kernel of a call, which keeps what the backward pass reads unless it is for inference.

    Attributes:
        whole: the states whose values are results, at all steps.
    """

    def __init__(self, scan: Any, direction: str) -> None:
        super().__init__(scan, direction)
        program, training, size = self.program, direction == "forward", self.size
        self.whole = program.states[: len(program.gradient.dys) if training else 1]
        hoisted = [value for value in program.sequences if value in program.hoisted]
        for value, role in scan.roles:
            self.argument(value, role)
        self.arena.entries += scan.residuals.entries if training else ()
        self.begin()
        for name, width in self.block.buffers.items():
            self.arena.add(name, "B", width)
        for state in [] if training else program.states[1:]:
            self.arena.add(state.name, "2 * B", state.width)
        for value in hoisted:
            weights, copies = self.joined(value)
            self.write(BEGIN, *copies)
            if not training:
                self.arena.add(value.name, "tile", value.width)
            left, column = first_column_of(value.inputs[0])
            a = shifted(self.argument(left), "0" if training else "starts[first + 1] - B", size(column))
            shape = "total" if training else "tile", size(value.width), self.terms(value)
            self.write(PROLOGUE, product(a, weights, value.name, *shape))
        here = [] if training or not hoisted else ["here = new - starts[first + 1]  # where it is in this tile"]
        self.write(LOOP, "for t in range(first, last):", *indented([*STEP, *indented([*here, *self.body])]))
        self.end()
        tile = ["tile = starts[last + 1] - starts[first + 1]"] if hoisted and not training else []
        carved = self.arena.text(size, self.words())
        whole = [state.name for state in self.whole]
        comments = {
            BEGIN: "the initial states; the weights of products in the loop, packed",
            PROLOGUE: "the prologue: products that need not wait for the loop",
            LOOP: "the loop over time, for sequences [lo, hi)",
            END: "the final states: where each sequence ends",
        }
        self.source = self.text([*whole, *self.finals, "arena"], whole, [*tile, *carved], comments)

    def begin(self) -> None:
        """What the loop starts from."""
        for state in self.program.states:
            first = self.argument(state)
            self.write(BEGIN, f"copy({first}, {state.name}, B, {self.size(state.width)})")
        for value in self.program.products:
            self.pack(packed_weights(value), value)

    def end(self) -> None:
        """The final values of the states."""
        self.finals = [self.names.new(f"{state.name}_last") for state in self.program.states]
        lines = []
        for state, final in zip(self.program.states, self.finals):
            brief = self.direction == "inference" and state not in self.whole
            source = shifted(state.name, f"{'t % 2 * B' if brief else 'starts[t]'} + going", "0")
            target = shifted(final, "going", "0")
            lines.append(f"copy({source}, {target}, ending, {self.size(state.width)})")
        self.write(
            END, "for t in range(0 if total < T * B else T, T + 1):",
            "    going = starts[t + 2] - starts[t + 1] if t < T else 0  # how many go on",
            "    ending = starts[t + 1] - starts[t] - going", *indented(lines),
        )  # fmt: skip


def words_in(lines: Iterable[str]) -> set[str]:
    """The words of lines of code, comments aside: among them are the arrays that they name."""
    return set(re.findall(r"\w+", "\n".join(line.partition("#")[0] for line in lines)))


def product(a: str, b: str, result: str, rows: str, columns: str, terms: str, add: Any = False) -> str:
    """A product of matrices, which threads share; added to what is there, or in its place."""
    return f"product({a}, {b}, {result}, {rows}, {columns}, {terms}, {add}, workspace, threads)"


def turned(matrix: str) -> str:
    """A matrix transposed."""
    return matrix.removesuffix(".T") if matrix.endswith(".T") else f"{matrix}.T"
