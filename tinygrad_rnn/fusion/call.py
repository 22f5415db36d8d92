"""A call of a compiled cell, and the way back through it, written out: what happens around the loop over time.

A step of a small layer is a few dozen microseconds of arithmetic, and to go through lists and dictionaries of what
there is to do would take as long again. So that is done once, and leaves functions behind, such as

    def inference(rows, x, weight_ih, bias_ih, h_first):
        x = rows.gathered(x)
        weight_ih_T = permute(weight_ih, dims=(1, 0))
        ...
        for piece, first in pieces(rows, 512):
            x_weight_ih_T = matmul(x[first : first + piece.total], weight_ih_T)
            launch(piece, (piece.starts, 32, h, ...))

What comes before the loop is a small tape whose shape is known in advance: its lines run through the same rows of the
table and the same rules as on the tape of `autograd`, and back in reverse order.
"""

import keyword
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from ..autograd import table
from ..autograd.tape import unbroadcast
from ..kernels.matmul import matmul, pack
from ..kernels.pool import empty
from .adjoint import Product
from .rows import Rows, full_rows
from .scan import Scan
from .trace import Line, sized

# What is computed before the loop at a time, where nobody needs it afterwards: as much as stays in the cache, and rows
# enough for the preparations of a product.
PIECE_BYTES, PIECE_ROWS = 1 << 21, 1 << 10


# ---- What the functions call -----------------------------------------------------------------------------------------


def pieces(rows: Rows, row_bytes: int) -> Iterator[tuple[Rows, int]]:
    """A sequence cut into the rows of some steps each, an even number of them but for the last: with their first row.

    What is computed for a piece before its loop stays in the cache until the loop reads it, and a long sequence takes
    no more memory than its result.
    """
    steps = max(PIECE_BYTES // max(row_bytes, 1), PIECE_ROWS) // max(rows.B, 1) // 2 * 2 + 2
    if rows.lengths is not None or steps >= rows.T:
        yield rows, 0
        return
    for start in range(0, rows.T, steps):
        yield full_rows(min(steps, rows.T - start), rows.B), start * rows.B


def fitted(dx: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The gradient of an operand that may have been repeated."""
    return dx if dx.shape == shape else unbroadcast(dx, shape)


def apart(gradients: list[np.ndarray]) -> list[np.ndarray]:
    """Gradients of which no two are one array: the tape would give it to both leaves. It copies views."""
    if len(set(map(id, gradients))) < len(gradients):
        return [dx if all(dx is not other for other in gradients[:i]) else dx[...] for i, dx in enumerate(gradients)]
    return gradients


HELPERS: dict[str, Any] = dict(
    apart=apart, asarray=np.asarray, ascontiguousarray=np.ascontiguousarray, concatenate=np.concatenate, empty=empty,
    fitted=fitted, matmul_into=matmul, pack=pack, pieces=pieces, sized=sized, sum_rows=lambda x: np.add.reduce(x, axis=0),
    zeros=np.zeros,
)  # fmt: skip


# ---- Lines before the loop -------------------------------------------------------------------------------------------


class Step:
    """A line that does not depend on the states, and what need not be found out at every call.

    Attributes:
        timed: whether it has a row for each row of each step.
        sources: the positions of operands that are lines.
        repeated: of those that have one row for each sequence, where the line has one for each step as well.
    """

    def __init__(self, line: Line, timed: set[Line]) -> None:
        assert line.row is not None
        self.line, self.row, self.inputs, self.timed = line, line.row, line.inputs, line in timed
        self.sources = [i for i, x in enumerate(line.inputs) if isinstance(x, Line)]
        per_sequence = [i for i in self.sources if line.inputs[i].per_row and line.inputs[i] not in timed]
        self.repeated = per_sequence if self.timed else []


class Prelude:
    """The lines before the loop in the order of computing, and which of them take part in a gradient.

    Attributes:
        steps: the lines.
        leaves: inputs, values that hold for a sequence, parameters, constants and initial states.
        drawn: random numbers.
    """

    def __init__(self, scan: Scan, leaves: list[Line], drawn: list[Line]) -> None:
        self.steps = [Step(line, scan.plan.timed) for line in scan.plan.before]
        self.leaves, self.drawn = leaves, drawn

    def adjoints(self, wanted: Iterable[Line]) -> tuple[set[Line], list[Any]]:
        """The lines that depend on the leaves `wanted`, these included; and for each step its adjoint, or None."""
        needing, found = set(wanted), []
        for step in self.steps:
            adjoint = step.row.adjoint(tuple(i for i in step.sources if step.inputs[i] in needing))
            found.append(adjoint if adjoint.wanted else None)
            if adjoint.wanted:
                needing.add(step.line)
        return needing, found


# ---- Text ------------------------------------------------------------------------------------------------------------


class _Function:
    """A Python function on its way from text to code.

    Attributes:
        known: what it may call.
        names: the variables of lines, and of the kernel's arrays by their names.
    """

    def __init__(self, scan: Scan, direction: str) -> None:
        self.scan, self.plan, self.direction = scan, scan.plan, direction
        self.known = HELPERS | {"pack": pack, "dtype": scan.dtype, "launch": scan.launcher(direction)}
        self.taken = {*self.known, *table.TABLE, "rows", "piece", "first", "total", "B"}
        self.names: dict[Any, str] = {}
        self.text: list[str] = []

    def name(self, key: Any, wanted: str) -> str:
        """A new variable for a line or an array of the kernel."""
        while wanted in self.taken or keyword.iskeyword(wanted):
            wanted += "_"
        self.taken.add(wanted)
        self.names[key] = wanted
        return wanted

    def constant(self, value: Any, name: str) -> str:
        """A value as text: a plain number or a tuple of them as it is written, anything else by a name."""
        if isinstance(value, (bool, int)) or (isinstance(value, tuple) and all(type(n) is int for n in value)):
            return repr(value)
        name = self.name(object(), name)
        self.known[name] = value
        return name

    def write(self, line: str, indent: int = 0) -> None:
        self.text.append("    " * indent + line)

    def finish(self, arguments: Iterable[str]) -> Callable[..., Any]:
        """The function."""
        self.source = f"def {self.direction}({', '.join(arguments)}):\n" + "".join(
            f"    {line}\n" for line in self.text
        )
        exec(compile(self.source, f"<{self.direction} call of {self.scan.title}>", "exec"), self.known)
        return self.known[self.direction]

    def side_by_side(self, product: Product) -> str:
        """The weights of a product, joined."""
        weights = [self.names[w] for w in product.weights]
        return weights[0] if len(weights) == 1 else f"concatenate([{', '.join(weights)}], axis=1)"

    def memory(self, rows: str, indent: int = 0) -> None:
        """What the kernel writes and has no name yet."""
        for name, width in self.scan.buffers[self.direction].items():
            if name not in self.names:
                self.write(f"{self.name(name, name)} = empty((B, {width}), dtype)", indent)
        for name in self.scan.arrays[self.direction]:
            if name not in self.names:
                self.write(f"{self.name(name, name)} = empty(({rows}.total, {self.scan.widths[name]}), dtype)", indent)


class Forward(_Function):
    """The function of a call.

        forward(rows, *leaves, *drawn) -> values, saved, named
        inference(rows, *leaves, *drawn) -> named

    The arguments are arrays as the user gave them. What is returned: the values of leaves and of the lines before the
    loop; what the adjoints of these saved; the arrays of the kernel by name, of which the states are [B + total, width]
    with their initial values first. After `inference`, which keeps nothing for a gradient, those after the first are
    [2, B, width]: the values after an even and after an odd number of steps.

    Args:
        adjoints: for each step of the prelude that of its operation, or None; None for inference.
    """

    def __init__(self, scan: Scan, prelude: Prelude, adjoints: list[Any] | None) -> None:
        super().__init__(scan, "inference" if adjoints is None else "forward")
        self.prelude = prelude
        self.known |= {step.row.name: step.row.forward for step in prelude.steps}
        arguments = [self.name(line, line.name + "_first" * (line.kind == "state")) for line in prelude.leaves]
        arguments += [self.name(line, line.name) for line in prelude.drawn]
        for line in prelude.leaves:
            x = self.names[line]
            if line.kind == "input":
                self.write(f"{x} = rows.gathered({x})")
            elif line.per_row:
                self.write(f"{x} = rows.ordered({x})")
        self.write("B, total = rows.B, rows.total")
        if adjoints is None:
            self._inference()
        else:
            self._forward(adjoints)
        self.function = self.finish(["rows", *arguments])

    def _step(self, step: Step, rows: str, adjoint: Any = None, indent: int = 0) -> str:
        """Write a line of the prelude; returns what its adjoint saves."""
        operands = []
        for i, x in enumerate(step.inputs):
            operand = self.names[x] if i in step.sources else self.constant(x, "number")
            operands.append(f"{rows}.repeated({operand})" if i in step.repeated else operand)
        attributes = step.line.attributes
        if sized(attributes, 0) is not attributes:
            operands.append(
                f"**sized({self.constant(attributes, 'attributes')}, {rows}.{'total' if step.timed else 'B'})"
            )
        else:
            operands += [f"{name}={self.constant(value, name)}" for name, value in attributes.items()]
        y = self.name(step.line, step.line.name)
        self.write(f"{y} = asarray({step.row.name}({', '.join(operands)}))", indent)
        return f"{self.constant(adjoint.save, f'save_{y}')}({', '.join([y, *operands])})" if adjoint else ""

    def _forward(self, adjoints: list[Any]) -> None:
        saved = [self._step(step, "rows", adjoint) for step, adjoint in zip(self.prelude.steps, adjoints)]
        self.write(f"saved = [{', '.join(filter(None, saved))}]")
        lines = [*self.prelude.leaves, *self.prelude.drawn, *[step.line for step in self.prelude.steps]]
        values = ", ".join(self.names[line] for line in lines)
        self.write(f"values = dict(zip({self.constant(lines, 'lines')}, [{values}]))")
        self._constants()
        self._run("rows")
        named = ", ".join(f"{name!r}: {self.names[name]}" for name in self.scan.kept_arrays)
        self.write(f"return values, saved, {{{named}}}")

    def _inference(self) -> None:
        steps = self.prelude.steps
        for step in steps:
            if not step.timed:
                self._step(step, "rows")
        self._constants()
        row_bytes = sum(step.line.width for step in steps if step.timed) * self.scan.dtype.itemsize
        self.write(f"for piece, first in pieces(rows, {row_bytes}):")
        for line in [*[line for line in self.prelude.leaves if line.kind == "input"], *self.prelude.drawn]:
            whole = self.names[line]
            self.write(f"{self.name(line, f'{whole}_piece')} = {whole}[first : first + piece.total]", 1)
        for step in steps:
            if step.timed:
                self._step(step, "piece", indent=1)
        self._run("piece", 1)
        named = ", ".join(f"{state.name!r}: {self.names[state.name]}" for state in self.plan.states)
        self.write(f"return {{{named}}}")

    def _constants(self) -> None:
        """What the kernel reads at every step, and memory for the states."""
        for line in [*self.plan.constants, *self.plan.vectors]:
            x = self.names[line.name] = self.names[line]
            self.write(f"{x} = ascontiguousarray({x}){'' if line.per_row else '.reshape(-1)'}")
        for product in self.plan.products:
            name = self.scan.weights[product.result]
            self.write(f"{self.name(name, name)} = pack({self.side_by_side(product)}).panels")
        for k, state in enumerate(self.plan.states):
            array, first = self.name(state.name, state.name), self.names[state]
            whole = self.direction == "forward" or k == 0
            self.write(f"{array} = empty(({'B + total' if whole else '2, B'}, {state.width}), dtype)")
            self.write(f"{array}[{':B' if whole else '0'}] = {first}")

    def _run(self, rows: str, indent: int = 0) -> None:
        """What the kernel reads step by step, what it writes, and the kernel."""
        for line in self.plan.sequences:
            x = self.names[f"{line.name}_in" if line.kind == "input" else line.name] = self.names[line]
            self.write(f"{x} = ascontiguousarray({x})", indent)
        self.memory(rows, indent)
        arrays = dict(zip(self.scan.arrays[self.direction], map(self.names.get, self.scan.arrays[self.direction])))
        if self.direction == "inference":
            arrays[self.plan.states[0].name] = (
                f"{self.names[self.plan.states[0].name]}[first : first + B + piece.total]"
            )
        arguments = ", ".join([f"{rows}.starts", *map(str, self.scan.sizes), *map(str, arrays.values())])
        self.write(f"launch({rows}, ({arguments}))", indent)


class Backward(_Function):
    """The function that goes back through a call.

        backward(rows, keep, retain, values, saved, named, *dys, *dfinals, run) -> the gradients of some leaves

    Args (of the function):
        keep: of how many steps the gradients of the states are kept, at least 2.
        retain: leave what the forward kernel kept as it is, for another time.
        values, saved, named: what `forward` returned.
        dys: the gradients of the states that are watched, [T, B, width]; None for zero.
        dfinals: of the final values of all states, [B, width]; likewise.

    Args:
        places: of the leaves whose gradients are returned.
        needing, adjoints: see `Prelude.adjoints`.
        recorded: whether it returns, besides, the gradients of the lines before the loop, and all arrays by name.
    """

    def __init__(
        self, scan: Scan, prelude: Prelude, places: list[int], needing: set[Line], adjoints: list[Any], recorded: bool
    ) -> None:
        super().__init__(scan, "backward")
        self.needing, self.recorded = needing, recorded
        self.d: dict[Line, str] = {}  # the variables of gradients
        gradient = self.plan.gradient
        for name in ("keep", "retain", "values", "saved", "named"):
            self.taken.add(name)
        self.write("B, total = rows.B, rows.total")
        dys = [self.name(line.name, line.name) for line in gradient.dys]
        finals = [self.name(object(), f"{carry.name}_last") for carry in gradient.carries]
        self._before_the_loop(dys, finals)
        self.memory("rows")
        arrays = ", ".join(self.names[name] for name in scan.arrays["backward"])
        self.write(f"launch(rows, (rows.starts, keep, {', '.join([*map(str, scan.sizes), arrays])}))")
        self._after_the_loop()
        self._back_through(prelude.steps, adjoints)
        found = [self._as_given(prelude.leaves[i]) for i in places]
        result = f"apart([{', '.join(found)}])"
        if recorded:
            before = ", ".join(
                f"{self.constant(s.line, 'line')}: {self.d[s.line]}" for s in prelude.steps if s.line in self.d
            )
            everything = ", ".join(
                f"{name!r}: {variable}" for name, variable in self.names.items() if isinstance(name, str)
            )
            result += f", {{{before}}}, {{**named, {everything}}}"
        self.write(f"return {result}")
        self.function = self.finish(["rows", "keep", "retain", "values", "saved", "named", *dys, *finals])

    def _before_the_loop(self, dys: list[str], finals: list[str]) -> None:
        scan, gradient = self.scan, self.plan.gradient
        for line, dy in zip(gradient.dys, dys):
            given = f"ascontiguousarray(rows.gathered({dy}))"
            self.write(f"{dy} = zeros((total, {line.width}), dtype) if {dy} is None else {given}")
        for carry, final in zip(gradient.carries, finals):
            d = self.name(carry.name, carry.name)
            self.write(f"{d} = zeros((keep, B, {carry.width}), dtype)")
            self.write(f"if {final} is not None:")
            self.write(f"{d}[rows.place_of_last(keep)] = rows.ordered({final})", 1)
        for name, width in scan.sum_widths.items():
            self.write(f"{self.name(name, name)} = zeros((B, {width}), dtype)")
        wanted = {*scan.arrays["backward"], *scan.overwritten.values(), *self._lefts()}
        for name in scan.kept_arrays:
            if name in wanted:
                self.write(f"{self.name(name, name)} = named[{name!r}]")
        for name, over in scan.overwritten.items():
            there = self.names[over]
            self.write(f"{self.name(name, name)} = {there}.copy() if retain else {there}")
        for weight in dict.fromkeys(w for k in scan.transposed.values() for w in self.plan.products[k].weights):
            self.write(f"{self.name(weight, weight.name)} = values[{self.constant(weight, 'line')}]")
        for name, k in scan.transposed.items():
            self.write(f"{self.name(name, name)} = pack({self.side_by_side(self.plan.products[k])}.T).panels")

    def _lefts(self) -> set[str]:
        """The arrays that have the left operands of the products whose weights get gradients."""
        products = [p for p, _ in self.plan.gradient.products if not self.needing.isdisjoint(p.weights)]
        return {self._array_of(product.left) for product in products}

    def _array_of(self, line: Line) -> str:
        """The array of the forward kernel that has the values of a line at every step."""
        if line.row is table.part:
            return self._array_of(line.inputs[0])
        if line in self.plan.outputs:
            return self.plan.states[self.plan.outputs.index(line)].name
        if line in self.plan.states or line in self.plan.sequences:
            return f"{line.name}_in" if line.kind == "input" else line.name
        return f"{line.name}_saved"

    def _left(self, line: Line) -> str:
        """The left operand of a product at every step."""
        if line.row is table.part:
            return f"{self._left(line.inputs[0])}[:, {self.constant(line.attributes['at'][-1], 'at')}]"
        array = self.names[self._array_of(line)]
        if line in self.plan.states:
            return f"rows.before({array})"
        return f"{array}[B:]" if line in self.plan.outputs else array

    def _add(self, x: Line, dx: str) -> None:
        """Write: dx is the gradient of x, or a part of it."""
        if x in self.d:
            self.write(f"{self.d[x]} = {self.d[x]} + {dx}")
        else:
            self.d[x] = self.name(object(), f"d{x.name}")
            self.write(f"{self.d[x]} = {dx}")

    def _stash(self, line: Line) -> str:
        """The gradient that the kernel left of a line, at every step."""
        name, first = self.scan.stash_places[line]
        whole = self.scan.widths[name] == line.width
        return self.names[name] if whole else f"{self.names[name]}[:, {first}:{first + line.width}]"

    def _after_the_loop(self) -> None:
        """The gradients of what the kernel read."""
        plan, gradient, needing = self.plan, self.plan.gradient, self.needing
        for line in [*plan.sequences, *plan.constants]:
            if line in needing and line in gradient.sequences:
                stash = self._stash(gradient.sequences[line])
                self._add(line, stash if line in plan.sequences else f"rows.summed({stash})")
        totals: dict[str, str] = {}
        for vector, first, name, start, width in self.scan.vector_sums:
            if vector in needing:
                if name not in totals:  # that of a whole sequence serves all vectors that share it
                    totals[name] = self.name(object(), f"{name}_total")
                    self.write(f"{totals[name]} = sum_rows({self.names[name]})")
                part = f"{totals[name]}[{start}:{start + width}]"
                if width == math.prod(vector.shape):
                    self._add(vector, f"{part}.reshape({vector.shape})")
                    continue
                if vector not in self.d:
                    self._add(vector, f"zeros({vector.shape}, dtype)")
                self.write(f"{self.d[vector]}.reshape(-1)[{first}:{first + width}] += {part}")
        for product, d in gradient.products:
            if not needing.isdisjoint(product.weights):
                dw, shape = (
                    self.name(object(), f"d{product.result.name}_weights"),
                    (product.left.width, product.result.width),
                )
                self.write(f"{dw} = matmul_into({self._left(product.left)}.T, {self._stash(d)}, empty({shape}, dtype))")
                first = 0
                for weights, line in zip(product.weights, product.lines):
                    self._add(weights, dw if len(product.lines) == 1 else f"{dw}[:, {first}:{first + line.width}]")
                    first += line.width
        for state, carry in zip(plan.states, gradient.carries):
            self._add(state, f"{self.names[carry.name]}[0]")
        if not self.recorded:  # large arrays may be used again for what follows
            gone = [variable for name, variable in self.names.items() if isinstance(name, str)]
            self.write("if not retain:")
            self.write("named.clear()", 1)
            self.write(f"del {', '.join(gone)}")

    def _back_through(self, steps: list[Step], adjoints: list[Any]) -> None:
        """From the gradients of lines before the loop to those of the leaves."""
        order = [step.line for step, adjoint in zip(steps, adjoints) if adjoint is not None]
        for step, adjoint in reversed(list(zip(steps, adjoints))):
            if adjoint is None or step.line not in self.d:
                continue
            dy, found = self.d[step.line], [self.name(object(), f"d{step.inputs[i].name}") for i in adjoint.wanted]
            rule = self.constant(adjoint.gradients, f"gradients_of_{step.line.name}")
            self.write(f"{', '.join(found)}, = {rule}({dy}, saved[{order.index(step.line)}])")
            for i, dx in zip(adjoint.wanted, found):
                x = step.inputs[i]
                if x.shape != step.line.shape or i in step.repeated:
                    count = "total" if step.timed else "B"
                    shape = f"({count}, {', '.join(map(str, x.shape[1:]))})" if x.per_row else str(x.shape)
                    self.write(f"{dx} = fitted({dx}, {shape})")
                if i in step.repeated:
                    self.write(f"{dx} = rows.summed({dx})")
                if x in self.d:
                    self.write(f"{self.d[x]} = {self.d[x]} + {dx}")
                else:
                    self.d[x] = dx
            if not self.recorded:
                self.write(f"del {dy}")

    def _as_given(self, leaf: Line) -> str:
        """The gradient of a leaf as the user gave it."""
        if leaf.kind == "input":
            return (
                f"rows.scattered({self.d[leaf]})" if leaf in self.d else f"zeros((rows.padded, B, {leaf.width}), dtype)"
            )
        if leaf in self.d:
            return f"rows.unordered({self.d[leaf]})" if leaf.per_row else self.d[leaf]
        return f"zeros({f'(B, {leaf.width})' if leaf.per_row else leaf.shape}, dtype)"
