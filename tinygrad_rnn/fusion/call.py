"""A call of a compiled cell, and the way back through it, written out: what happens around the loop over time.

A step of a small layer is a few dozen microseconds of arithmetic, and to go through lists and dictionaries of what
there is to do would take as long again. So that is done once, and leaves functions behind, such as

    def inference_call(rows, x, weight_ih, bias_ih, weight_hh, h_first):
        ...
        for piece, first in rows.pieces(512):
            x_weight_ih_T = matmul(x[first : first + piece.total], weight_ih_T)
            launch(piece, piece.starts, 32, h, ...)

What comes before the loop is a small tape whose shape is known in advance: its lines run through the same rows of the
table and the same rules as on the tape of `autograd`, and back in reverse order.
"""

import ast
import itertools
import keyword
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..autograd import table
from ..autograd.primitive import Adjoint, ElementwiseAdjoint, names_in, on_arrays
from ..autograd.tape import unbroadcast
from ..kernels.matmul import panels_of
from ..kernels.pool import staggered, staggered_zeros
from .adjoint import Product
from .emit import wrapped
from .scan import Scan, sequence_array
from .trace import Line, sized

# ---- What the functions call -----------------------------------------------------------------------------------------


def fitted(dx: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The gradient of an operand that may have been repeated."""
    return dx if dx.shape == shape else unbroadcast(dx, shape)


def sum_rows(x: np.ndarray) -> np.ndarray:
    """[N, W] -> [W]."""
    return np.add.reduce(x, axis=0)


def apart(*gradients: np.ndarray) -> list[np.ndarray]:
    """Gradients in memory of their own: not that of another one, nor a part of a larger array, nor read backwards."""
    taken, found = set(), []
    for dx in gradients:
        owner = dx if dx.base is None else dx.base
        if id(owner) in taken or owner.size != dx.size or not dx.flags.forc:
            dx = dx.copy("K")
        taken.add(id(owner))
        found.append(dx)
    return found


FUNCTIONS: dict[str, Any] = dict(
    apart=apart, asarray=np.asarray, ascontiguousarray=np.ascontiguousarray, concatenate=np.concatenate,
    empty=staggered, fitted=fitted, sized=sized, sum_rows=sum_rows, zeros=staggered_zeros,
)  # fmt: skip
RULES = on_arrays(table.matmul.names)  # what the rules of all rows call


# ---- Lines before the loop -------------------------------------------------------------------------------------------


class Step:
    """A line that does not depend on the states.

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


def is_text(adjoint: Adjoint) -> bool:
    """Whether the rules of an adjoint are written out where they are needed; others are a kernel for all gradients."""
    of_value = "y" in adjoint.saves or any(f"{x}_dtype" in adjoint.saves for x in adjoint.primitive.inputs)
    return not (isinstance(adjoint, ElementwiseAdjoint) or of_value)


class _Renamed(ast.NodeTransformer):
    """A rule with other names; the order of axes that undoes another one is found at once.

    Args:
        matrices: whether all operands are, so that to swap their last axes is to transpose them.
    """

    def __init__(self, meant: dict[str, str], matrices: bool) -> None:
        self.meant, self.matrices = meant, matrices

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.parse(self.meant.get(node.id, node.id), mode="eval").body

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        text = ast.unparse(node)
        if names_in(text) == {"inverse"}:
            text = repr(eval(text, dict(RULES)))
        elif self.matrices and (text.startswith("mT(") or text.endswith("dims=(1, 0))")):
            text = f"{ast.unparse(node.args[0])}.T"
        return ast.parse(text, mode="eval").body


# ---- Text ------------------------------------------------------------------------------------------------------------


class _Function:
    """A Python function on its way from text to code.

    Attributes:
        known: what it may call.
        names: the variables of lines, and of the kernel's arrays by their names.
        source, function: it.
    """

    source: str
    function: Callable[..., Any]

    def __init__(self, scan: Scan, direction: str) -> None:
        self.scan, self.plan, self.direction = scan, scan.plan, direction
        self.known = RULES | FUNCTIONS | dict(panels_of=panels_of, dtype=scan.dtype, launch=scan.launcher(direction))
        self.taken = {*self.known, "rows", "piece", "first", "total", "B"}
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

    def finish(self, arguments: Iterable[str]) -> None:
        """Compile it."""
        head = wrapped(f"def {self.direction}_call({', '.join(arguments)}):", "")
        self.source = head + "".join(wrapped(line, "    ") for line in self.text)
        exec(compile(self.source, f"<{self.direction} call of {self.scan.title}>", "exec"), self.known)
        self.function = self.known[f"{self.direction}_call"]

    def side_by_side(self, product: Product) -> str:
        """The weights of a product, joined."""
        weights = [self.names[w] for w in product.weights]
        return weights[0] if len(weights) == 1 else f"concatenate([{', '.join(weights)}], axis=1)"

    # ---- On the way back ---------------------------------------------------------------------------------------------

    def arrived(self, dys: list[str], finals: list[str]) -> None:
        """The gradients of the states as the kernel reads them, from those that arrive: these may be None."""
        for line, dy in zip(self.plan.gradient.dys, dys):
            given = f"ascontiguousarray(rows.gathered({dy}))"
            self.write(f"{dy} = zeros((total, {line.width}), dtype) if {dy} is None else {given}")
        for carry, final in zip(self.plan.gradient.carries, finals):
            d = self.name(carry.name, carry.name)
            self.write(f"{d} = zeros((keep, B, {carry.width}), dtype)")
            self.write(f"if {final} is not None:")
            self.write(f"{d}[rows.last(keep)] = rows.ordered({final})", 1)

    def overwritten(self) -> None:
        """The gradients that take the place of what the forward kernel kept, which is named already."""
        for name, over in self.scan.overwritten.items():
            there = self.names[over]
            self.write(f"{self.name(name, name)} = {there}.copy() if retain else {there}")

    def array_of(self, line: Line) -> str:
        """The array of the forward kernel that has the values of a line at every step."""
        if line.row is table.part:
            return self.array_of(line.inputs[0])
        if line in self.plan.outputs and line not in self.plan.states:  # such as h, handed on as the next state
            return self.plan.states[self.plan.outputs.index(line)].name
        if line in self.plan.states or line in self.plan.sequences:
            return sequence_array(line)
        return f"{line.name}_saved"

    # ---- The kernel --------------------------------------------------------------------------------------------------

    def launch(self, rows: str, options: list[str], arrays: dict[str, str], indent: int = 0) -> None:
        """Memory for what the kernel writes and has no name yet, and the kernel; `arrays` are called otherwise."""
        for name in self.scan.arrays[self.direction]:
            if name not in self.names:
                width = self.scan.buffers[self.direction].get(name)
                shape = f"({rows}.total, {self.scan.widths[name]})" if width is None else f"(B, {width})"
                self.write(f"{self.name(name, name)} = empty({shape}, dtype)", indent)
        given = [arrays.get(name, self.names[name]) for name in self.scan.arrays[self.direction]]
        arguments = ", ".join([f"{rows}.starts", *options, *map(str, self.scan.sizes), *given])
        self.write(f"launch({rows}, {arguments})", indent)


def _mapping(entries: Iterable[tuple[str, str]]) -> str:
    return "{" + ", ".join(f'"{name}": {variable}' for name, variable in entries) + "}"


class Forward(_Function):
    """The function of a call.

        forward_call(rows, *leaves, *drawn) -> every, finals, values, saved, named
        inference_call(rows, *leaves, *drawn) -> the first of `every`, *finals

    The arguments and the first results are arrays as the user has them: the values after each step of the states
    that are watched, which is the first one in inference, and the final values of all. Then, for the gradient: the
    values of leaves and of the lines before the loop by name; what kernels for gradients of these want to know; the
    arrays of the kernel by name, of which the states are [B + total, width] with their initial values first.

    Inference, where nobody looks at them again, has [2, B, width] for each state but the first: its values after an
    even and after an odd number of steps.

    Args:
        adjoints: for each step of the prelude that of its operation, or None; None for inference.
    """

    def __init__(self, scan: Scan, prelude: Prelude, adjoints: list[Any] | None) -> None:
        super().__init__(scan, "inference" if adjoints is None else "forward")
        self.prelude = prelude
        arguments = [self.name(line, line.name + "_first" * (line.kind == "state")) for line in prelude.leaves]
        arguments += [self.name(line, line.name) for line in prelude.drawn]
        self.write("B, total = rows.B, rows.total")
        for line in prelude.leaves:
            x = self.names[line]
            if line.kind == "input":
                self.write(f"{x} = rows.gathered({x})")
            elif line.per_row:
                self.write(f"{x} = rows.ordered({x})")
        if adjoints is None:
            self._inference()
        else:
            self._forward(adjoints)
        self.finish(["rows", *arguments])

    def _forward(self, adjoints: list[Any]) -> None:
        if self.prelude.steps:
            self.write("# Before the loop, for all steps at once.")
        saved = [self._step(step, "rows", adjoint) for step, adjoint in zip(self.prelude.steps, adjoints)]
        self.write(f"saved = [{', '.join(filter(None, saved))}]")
        lines = [*self.prelude.leaves, *self.prelude.drawn, *[step.line for step in self.prelude.steps]]
        self.write(f"values = {_mapping((line.name, self.names[line]) for line in lines)}")
        self._constants()
        self._sequences()
        self.launch("rows", [], {})
        self.write(f"named = {_mapping((name, self.names[name]) for name in self.scan.kept_arrays)}")
        self.write(f"return {self._results()}, values, saved, named")

    def _results(self) -> str:
        """The values after each step of the states that are watched; the final ones of all."""
        arrays = [self.names[state.name] for state in self.plan.states]
        inference = self.direction == "inference"
        watched, finals = len(self.plan.gradient.dys), [f"rows.final({x})" for x in arrays]
        if inference:
            watched, finals[1:] = 1, [f"rows.unordered({x}[rows.last(2)])" for x in arrays[1:]]
        every = [f"rows.scattered({x}[B:])" for x in arrays[:watched]]
        return ", ".join([*every, *finals]) if inference else f"[{', '.join(every)}], [{', '.join(finals)}]"

    def _inference(self) -> None:
        steps = self.prelude.steps
        for step in steps:
            if not step.timed:
                self._step(step, "rows")
        self._constants()
        row_bytes = sum(step.line.width for step in steps if step.timed) * self.scan.dtype.itemsize
        self.write(f"for piece, first in rows.pieces({row_bytes}):")
        for line in [*[line for line in self.prelude.leaves if line.kind == "input"], *self.prelude.drawn]:
            whole = self.names[line]
            piece = f"{whole} if piece is rows else {whole}[first : first + piece.total]"
            self.write(f"{self.name(line, f'{whole}_piece')} = {piece}", 1)
        for step in steps:
            if step.timed:
                self._step(step, "piece", indent=1)
        self._sequences(1)
        output = self.plan.states[0].name
        whole = self.names[output]
        here = self.name(object(), f"{whole}_piece")
        self.write(f"{here} = {whole} if piece is rows else {whole}[first : first + B + piece.total]", 1)
        self.launch("piece", [], {output: here}, 1)
        self.write(f"return {self._results()}")

    def _step(self, step: Step, rows: str, adjoint: Any = None, indent: int = 0) -> str:
        """Write a line of the prelude; returns what its adjoint saves."""
        operands = []
        for i, x in enumerate(step.inputs):
            operand = self.names[x] if i in step.sources else self.constant(x, "number")
            operands.append(f"{rows}.repeated({operand})" if i in step.repeated else operand)
        attributes, count = step.line.attributes, f"{rows}.total" if step.timed else "B"
        if sized(attributes, 0) is not attributes:
            operands.append(f"**sized({self.constant(attributes, 'attributes')}, {count})")
        else:
            operands += [f"{name}={self.constant(value, name)}" for name, value in attributes.items()]
        y, value = self.name(step.line, step.line.name), f"{step.row.name}({', '.join(operands)})"
        if step.row is table.permute and step.line.attributes["dims"] == (1, 0):
            value = f"{operands[0]}.T"
        self.write(f"{y} = {value if step.line.shape else f'asarray({value})'}", indent)  # NumPy gives scalars
        if adjoint is None or is_text(adjoint):
            return ""
        return f"{self.constant(adjoint.save, f'save_{y}')}({', '.join([y, *operands])})"

    def _constants(self) -> None:
        """What the kernel reads at every step, and memory for the states."""
        self.write("# For the loop: what it reads, and what it writes.")
        for line in [*self.plan.constants, *self.plan.vectors]:
            x = self.names[line]
            if line.per_row or len(line.shape) == 1:
                self.names[line.name] = x
                self.write(f"{x} = ascontiguousarray({x})")
            else:  # under another name: it may be a matrix of a product as well
                self.write(f"{self.name(line.name, line.name)} = ascontiguousarray({x}).reshape(-1)")
        for product in self.plan.products:
            name = self.scan.weights[product.result]
            self.write(f"{self.name(name, name)} = panels_of({self.side_by_side(product)})")
        for k, state in enumerate(self.plan.states):
            array, first = self.name(state.name, state.name), self.names[state]
            whole = self.direction == "forward" or k == 0
            self.write(f"{array} = empty(({'B + total' if whole else '2, B'}, {state.width}), dtype)")
            self.write(f"{array}[{':B' if whole else '0'}] = {first}")

    def _sequences(self, indent: int = 0) -> None:
        """What it reads step by step."""
        for line in self.plan.sequences:
            x = self.names[sequence_array(line)] = self.names[line]
            if line.row is not table.matmul:
                self.write(f"{x} = ascontiguousarray({x})", indent)


class Backward(_Function):
    """The function that goes back through a call.

        backward_call(rows, keep, retain, values, saved, named, *dys, *dfinals) -> the gradients of some leaves

    Args (of the function):
        keep: of how many steps the gradients of the states are kept, at least 2.
        retain: leave what the forward kernel kept as it is, for another time.
        values, saved, named: what the forward call returned.
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
        self.d: dict[Line, str] = {}  # the variables of gradients ...
        self.fresh: set[str] = set()  # ... and those of them that are arrays which nothing else refers to
        options = ["rows", "keep", "retain", "values", "saved", "named"]
        self.taken.update(options)
        dys = [self.name(line.name, line.name) for line in self.plan.gradient.dys]
        finals = [self.name(object(), f"{carry.name}_last") for carry in self.plan.gradient.carries]
        self.write("B, total = rows.B, rows.total")
        self._before_the_loop(dys, finals)
        self.launch("rows", ["keep"], {})
        self._after_the_loop()
        self._back_through(prelude.steps, adjoints)
        wanted = [prelude.leaves[i] for i in places]
        given = {leaf: self._as_given(leaf) for leaf in wanted}
        shared = [leaf for leaf in wanted if given[leaf] not in self.fresh]
        if shared and not recorded:
            names = [self.d.get(leaf) or self.name(object(), f"d{leaf.name}") for leaf in shared]
            ours = ", ".join(names) + "," * (len(names) == 1)
            self.write(f"{ours} = apart({', '.join(given[leaf] for leaf in shared)})")
            given |= dict(zip(shared, names))
        result = f"[{', '.join(given.values())}]"
        if recorded:  # who looks at the arrays keeps them
            before = _mapping((step.line.name, self.d[step.line]) for step in prelude.steps if step.line in self.d)
            everything = _mapping((key, variable) for key, variable in self.names.items() if isinstance(key, str))
            copies = ", ".join(f"{dx}.copy()" for dx in given.values())
            result = f"[{copies}], {before}, named | {everything}"
        self.write(f"return {result}")
        self.finish([*options, *dys, *finals])

    def _before_the_loop(self, dys: list[str], finals: list[str]) -> None:
        """What the kernel reads."""
        scan, gradient = self.scan, self.plan.gradient
        self.arrived(dys, finals)
        for name, width in scan.sum_widths.items():
            self.write(f"{self.name(name, name)} = zeros((B, {width}), dtype)")
        products = [p for p, _ in gradient.products if not self.needing.isdisjoint(p.weights)]
        wanted = {*scan.arrays["backward"], *scan.overwritten.values(), *(self.array_of(p.left) for p in products)}
        for name in scan.kept_arrays:
            if name in wanted:
                self.write(f'{self.name(name, name)} = named["{name}"]')
        self.overwritten()
        for name, k in scan.transposed.items():
            for weight in self.plan.products[k].weights:
                self._value(weight)
            self.write(f"{self.name(name, name)} = panels_of({self.side_by_side(self.plan.products[k])}.T)")

    def _after_the_loop(self) -> None:
        """The gradients of what the kernel read."""
        self.write("# After the loop: one product for each product in it, one sum for each vector.")
        plan, gradient, needing = self.plan, self.plan.gradient, self.needing
        for line in [*plan.sequences, *plan.constants]:
            if line in needing and line in gradient.sequences:
                stash = self._stash(gradient.sequences[line])
                self._add(line, stash if line in plan.sequences else f"rows.summed({stash})")
        self._vectors()
        for product, d in gradient.products:
            if not needing.isdisjoint(product.weights):
                self._weights(product, f"matmul({self._left(product.left)}.T, {self._stash(d)})")
        for state, carry in zip(plan.states, gradient.carries):
            self._add(state, f"{self.names[carry.name]}[0]")
        if not self.recorded:  # large arrays may be used again for what follows
            self.write("if not retain:")
            self.write("named.clear()", 1)
            self.write(f"del ({', '.join(name for key, name in self.names.items() if isinstance(key, str))})")

    def _vectors(self) -> None:
        """Their parts are sums over the rows of arrays; those of a whole sequence serve all vectors that share it."""
        totals: dict[str, str] = {}
        for vector, sums in itertools.groupby(self.scan.vector_sums, lambda each: each[0]):
            if vector not in self.needing:
                continue
            parts: list[tuple[int, int, str]] = []  # first column, the one after the last, what is there
            for _, first, name, start, width in sums:
                if name not in totals:
                    totals[name] = self.name(object(), f"{name}_over_rows")
                    self.write(f"{totals[name]} = sum_rows({self.names[name]})")
                parts.append((first, first + width, f"{totals[name]}[{start} : {start + width}]"))
            size = math.prod(vector.shape)
            if [0, *(end for _, end, _ in parts)] == [*(first for first, _, _ in parts), size]:
                whole = parts[0][2] if len(parts) == 1 else f"concatenate([{', '.join(part for _, _, part in parts)}])"
                self._add(vector, whole if vector.shape == (size,) else f"{whole}.reshape({vector.shape})")
                continue
            self._add(vector, f"zeros({vector.shape}, dtype)")
            for first, end, part in parts:
                self.write(f"{self.d[vector]}.reshape(-1)[{first} : {end}] += {part}")

    def _weights(self, product: Product, dw: str) -> None:
        """The gradient of weights side by side is cut into theirs."""
        if len(product.lines) == 1:
            self._add(product.weights[0], dw)
            self.fresh.add(self.d[product.weights[0]])
            return
        whole, first = self.name(object(), f"d{product.result.name}_weights"), 0
        self.write(f"{whole} = {dw}")
        for weights, line in zip(product.weights, product.lines):
            self._add(weights, f"{whole}[:, {first} : {first + line.width}]")
            first += line.width

    def _back_through(self, steps: list[Step], adjoints: list[Any]) -> None:
        """From the gradients of lines before the loop to those of the leaves."""
        if steps:
            self.write("# What came before the loop, backwards.")
        kernels = [step for step, adjoint in zip(steps, adjoints) if adjoint is not None and not is_text(adjoint)]
        for step, adjoint in reversed(list(zip(steps, adjoints))):
            if adjoint is None or step.line not in self.d:
                continue
            dy, found = self.d[step.line], [self.name(object(), f"d{step.inputs[i].name}") for i in adjoint.wanted]
            if is_text(adjoint):
                meant = self._meant(step, {name for text in adjoint.texts for name in names_in(text)}) | {"dy": dy}
                everything = dict.fromkeys(range(len(step.inputs)), "_") | dict(zip(adjoint.wanted, found))
                targets = [", ".join(everything.values())] if step.row.variadic else found  # one rule for all inputs
                rename = _Renamed(meant, all(len(x.shape) == 2 for x in step.inputs if isinstance(x, Line)))
                for target, text in zip(targets, adjoint.texts):
                    self.write(f"{target} = {ast.unparse(rename.visit(ast.parse(text, mode='eval').body))}")
            else:
                kernel = self.constant(adjoint.gradients, f"gradients_of_{step.line.name}")
                several = ", ".join(found) + "," * (len(found) == 1)
                self.write(f"{several} = {kernel}({dy}, saved[{kernels.index(step)}])")
            if step.row is table.matmul or (step.row is table.permute and dy in self.fresh):
                self.fresh.update(found)
            for i, dx in zip(adjoint.wanted, found):
                x, of_shape = step.inputs[i], step.row in (table.matmul, table.permute, table.cat)
                if (x.shape != step.line.shape and not of_shape) or i in step.repeated:
                    self.write(f"{dx} = fitted({dx}, {self._shape(step, i)})")
                if i in step.repeated:
                    self.write(f"{dx} = rows.summed({dx})")
                if x in self.d:
                    self.write(f"{self.d[x]} = {self.d[x]} + {dx}")
                else:
                    self.d[x] = dx
            if not self.recorded:
                self.write(f"del {dy}")

    # ---- Values and gradients by name --------------------------------------------------------------------------------

    def _value(self, line: Line) -> str:
        """The value of a line before the loop, or of a leaf."""
        if line not in self.names:
            self.write(f'{self.name(line, line.name)} = values["{line.name}"]')
        return self.names[line]

    def _shape(self, step: Step, i: int) -> str:
        """The shape of an operand of a line."""
        x = step.inputs[i]
        count = "total" if step.timed else "B"
        return f"({', '.join([count, *map(str, x.shape[1:])])},)" if x.per_row else str(x.shape)

    def _meant(self, step: Step, names: set[str]) -> dict[str, str]:
        """What the names in a rule stand for."""
        meant = {name: self.constant(value, name) for name, value in step.line.attributes.items() if name in names}
        if "shapes" in names:
            meant["shapes"] = f"[{', '.join(self._shape(step, i) for i in range(len(step.inputs)))}]"
        for i, (name, x) in enumerate(zip(step.row.inputs, step.inputs)):
            if f"{name}_shape" in names:
                meant[f"{name}_shape"] = self._shape(step, i)
            if name in names:
                value = self._value(x) if i in step.sources else self.constant(x, "number")
                meant[name] = f"rows.repeated({value})" if i in step.repeated else value
        return meant

    def _left(self, line: Line) -> str:
        """The left operand of a product at every step."""
        if line.row is table.part:
            return f"{self._left(line.inputs[0])}[:, {self.constant(line.attributes['at'][-1], 'at')}]"
        array = self.names[self.array_of(line)]
        if line in self.plan.states:
            return f"rows.before({array})"
        return f"{array}[B:]" if line in self.plan.outputs else array

    def _stash(self, line: Line) -> str:
        """The gradient that the kernel left of a line, at every step."""
        name, first = self.scan.stash_places[line]
        whole = self.scan.widths[name] == line.width
        return self.names[name] if whole else f"{self.names[name]}[:, {first} : {first + line.width}]"

    def _add(self, x: Line, dx: str) -> None:
        """Write: dx is the gradient of x, or a part of it."""
        if x in self.d:
            self.write(f"{self.d[x]} = {self.d[x]} + {dx}")
        else:
            self.d[x] = self.name(object(), f"d{x.name}{'_first' * (x.kind == 'state')}")
            self.write(f"{self.d[x]} = {dx}")

    def _as_given(self, leaf: Line) -> str:
        """The gradient of a leaf, laid out as its value was given."""
        if leaf not in self.d:
            shape = f"(rows.padded, B, {leaf.width})" if leaf.kind == "input" else f"(B, {leaf.width})"
            return f"zeros({shape if leaf.per_row else leaf.shape}, dtype)"
        if leaf.kind == "input":
            return f"rows.scattered({self.d[leaf]})"
        return f"rows.unordered({self.d[leaf]})" if leaf.per_row else self.d[leaf]
