"""The kernel of the backward pass: its loop, and the epilogue, which has the gradients of all that the loop read.

A product of the loop, `left @ W`, has its gradient with respect to W there: one product over all steps. So has one of
the prologue. A vector has a sum over rows, the input a product with the transposed weights.
"""

import math
from typing import Any

from ..autograd import table
from .equations import indented
from .kernel import (
    BEGIN,
    END,
    LOOP,
    STEP,
    Arena,
    Argument,
    Forward,
    Kernel,
    matrix_of,
    product,
    sequence_array,
    side_by_side,
    turned,
    words_in,
)
from .print import for_each_vector, moved, packed_weights, shifted
from .program import Value, first_column_of, sizes_of
from .schedule import Memory


class Backward(Kernel):
    """The kernel of the backward pass.

    Attributes:
        d: the arguments of the forward kernel that have gradients -> their names.
        watched: the numbers of the states whose values at all steps it reads as the forward kernel's results.
    """

    def __init__(self, scan: Any, forward: Forward) -> None:
        super().__init__(scan, "backward")
        self.forward = forward
        self.written: set[Argument] = set()  # those to whose gradients something has been
        never = lambda x: x.kind == "constant" or x in self.program.noise or x.dtype.kind != "f"
        self.d = {a: self.names.new(f"d{a.name}") for a in forward.arguments if not never(a.value)}
        self.zeroed: set[Argument] = set()  # those whose gradients begin with zeros
        self.before: dict[str, str] = {}
        self.finals: list[str] = []  # the gradients of the final states
        self._read()
        self._prepare()
        steps = "for t in range(last - 1, first - 1, -1):"
        self.write(LOOP, steps, *indented([*STEP, *indented(self.body)]))
        self._finish()
        self.zeroed |= self.d.keys() - self.written
        words = self.words()
        self.watched = [k for k, state in enumerate(forward.whole) if state.name in words]
        self.source = self._source()

    def _read(self) -> None:
        """The arguments that the loop reads."""
        program, words = self.program, words_in(self.body)
        for value in (*program.sequences, *program.constants, *program.vectors):
            if value not in program.hoisted and sequence_array(value) in words:
                self.argument(value)

    def _prepare(self) -> None:
        """What lies in the arena, and what it begins with."""
        program, scan = self.program, self.scan
        for carry in program.gradient.carries:
            self._begin(carry)
        for name, width in scan.sum_widths.items():
            self.arena.add(name, "B", width)
            self.write(BEGIN, f"clear({name})")
        for place in scan.stashes.values():
            if place.array not in scan.overwritten:
                self.arena.add(place.array, "total", place.width)
        for name, width in self.block.buffers.items():
            self.arena.add(name, "B", width)
        products = {f"{value.name}_weights_T": value for value in program.products}
        for value in program.backward:
            if value.row is table.matmul:
                self.pack(packed_weights(value), products[value.inputs[1].name], transposed=True)

    def _finish(self) -> None:
        """The epilogue."""
        program, gradient = self.program, self.program.gradient
        self._sequences()
        self._vectors()
        for value, d in gradient.products.items():
            self._weights(value, self._left(value.inputs[0]), self.scan.stash_places[d])
        for value in program.sequences:
            if value in program.hoisted and value in gradient.sequences:
                self._hoisted(value, self.scan.stash_places[gradient.sequences[value]])
        for state, carry in zip(program.states, gradient.carries):
            a = self._of(state)
            self._into(a, [f"copy({carry.name}, {self.d[a]}, B, {self.size(state.width)})"])

    def _source(self) -> str:
        """The text of the function."""
        scan, size = self.scan, self.size
        over, entries = {there: name for name, there in scan.overwritten.items()}, scan.residuals.entries
        residuals = Arena("residuals", [(over.get(name, name), rows, row) for name, rows, row in entries])
        carved = [*residuals.text(size, self.words()), *self.arena.text(size, self.words())]
        watched = [self.forward.whole[k].name for k in self.watched]
        others = [*watched, *(dy.name for dy in self.program.gradient.dys), *self.finals, *self.d.values()]
        comments = {
            BEGIN: "the weights of products in the loop, packed",
            LOOP: "the loop over time, from the last step to the first, for sequences [lo, hi)",
            END: "the epilogue: one product for each product, one sum for each vector, of all steps at once",
        }
        return self.text([*others, "residuals", "arena"], watched, carved, comments)

    def _begin(self, carry: Value) -> None:
        """The gradient of a state, of `keep` steps at a time, begins with that of its final values, if one arrives.

        It may begin at any of these steps: whatever step is a sequence's last one, none has been there before.
        """
        name, final = carry.name, self.names.new(f"{carry.name}_last")
        self.finals.append(final)
        self.arena.add(name, "keep * B", carry.width)
        target = shifted(name, "t * B", "0")
        self.write(
            BEGIN, f"clear({name})", f"for t in range(keep if len({final}) else 0):",
            f"    copy({final}, {target}, B, {self.size(carry.width)})",
        )  # fmt: skip

    # ---- Gradients of arguments --------------------------------------------------------------------------------------

    def _adds(self, argument: Argument, whole: bool = True) -> bool:
        """Whether what comes next is added to its gradient: to what is there or, as a mere part of it, to zeros."""
        if argument in self.written or whole:
            return argument in self.written
        self.zeroed.add(argument)
        return True

    def _into(self, argument: Argument, lines: list[str]) -> None:
        """Write what its gradient gets, if it has one and where that is wanted."""
        if argument in self.d:
            self.written.add(argument)
            self.write(END, f"if len({self.d[argument]}):", *indented(lines))

    def _of(self, value: Value, role: str = "") -> Argument:
        return self.forward.known[value, role or self.scan.role_of(value)]

    def _at(self, place: Memory, suffix: str = "", first: str = "") -> str:
        """The matrix of what the loop left at a place, or from another column on; `.T` for it transposed."""
        first = first or self.size(place.first)
        return shifted(place.array + suffix, *((first, "0") if suffix else ("0", first)))

    def _sequences(self) -> None:
        """The gradients of what the loop reads step by step, or for each sequence."""
        gradient, size = self.program.gradient, self.size
        for value in (*self.program.sequences, *self.program.constants):
            if value in self.program.hoisted or value not in gradient.sequences:
                continue
            d, W, argument = gradient.sequences[value], size(value.width), self._of(value)
            if argument not in self.d:
                continue
            assert argument not in self.written, "the gradients of products are added to these, not these to them"
            dx, each_step = self.d[argument], value not in self.program.constants
            added_up = not each_step and d in self.scan.sums
            place = self.scan.sums[d] if added_up else self.scan.stash_places[d]
            if each_step or added_up:
                rows = "total" if each_step else "B"
                self._into(argument, [f"copy({self._at(place)}, {dx}, {rows}, {W})"])
            else:
                self._adds(argument, whole=False)
                element = f"{place.array}[starts[t + 1] - B + row, {place.first} + j]"
                self._into(argument, [
                    "for t in range(T):", "    for row in range(starts[t + 2] - starts[t + 1]):",
                    f"        for j in range({W}):", f"            {dx}[row, j] += {element}",
                ])  # fmt: skip

    def _vectors(self) -> None:
        """One sum over rows for each part of a vector."""
        size = self.size
        vectors: dict[Value, list[Any]] = {}
        for vector, *part in self.scan.vector_sums:
            vectors.setdefault(vector, []).append(part)
        for vector, parts in vectors.items():
            argument = self._of(vector)
            if argument not in self.d:
                continue
            ends = [first + place.width for first, place in parts]
            whole = [0, *ends] == [*(first for first, _ in parts), math.prod(vector.shape)]
            self._adds(argument, whole)
            lines, dv = [], self.d[argument]
            for first, place in parts:
                rows, W = "B" if place.array in self.scan.sum_widths else "total", size(place.width)
                if whole:
                    lines.append(f"sum_rows({self._at(place)}, {dv}, {size(first)}, {rows}, {W})")
                else:
                    element = f"{place.array}[row, {size(place.first)} + j]"
                    lines += [f"for row in range({rows}):", f"    for j in range({W}):",
                              f"        {dv}[{size(first)} + j] += {element}"]  # fmt: skip
            self._into(argument, lines)

    def _weights(self, value: Value, left: tuple[str, str, str], d: Memory) -> None:
        """One product for the gradients of all weights of a product, left @ dy; for each vector of a row, one more."""
        size, parts = self.size, side_by_side(value.inputs[1:])
        several, _, N = map(size, sizes_of(value))
        views = [matrix_of(part, size) for part in parts]
        arguments = [self._of(view.leaf, "matrix") for view in views]

        def product_into(target: str, columns: int, add: bool, transposed: bool = False) -> list[str]:
            """left @ dy, with so many columns of dy."""
            (array, i, j), M, W = left, self.terms(value), size(columns)
            i, first = moved(i, M, several), moved(size(d.first), N, several)
            a, dy = shifted(array, i, j), self._at(d, first=first)
            if transposed:
                a, dy, M, W = self._at(d, ".T", first), shifted(turned(array), j, i), W, M
            adds = add or (several != "1" and "each > 0")
            return for_each_vector(several, product(a, dy, target, M, W, "total", adds))

        together = len(parts) > 1 and len(set(arguments)) == len(arguments) and not any(v.cut for v in views)
        if together and all(x in self.d and not self._adds(x) for x in arguments):
            whole, start = self.weights_for(value, "d"), 0
            some = " + ".join(f"len({self.d[x]})" for x in arguments)
            self.write(END, f"if {some}:", *indented(product_into(whole, value.shape[-1], False)))
            for part, view, argument in zip(parts, views, arguments):
                dw, W = self.d[argument], size(part.shape[1])
                self.written.add(argument)
                shape, source = (f"len({dw}), {W}", shifted(whole, "0", size(start)))
                if view.suffix:
                    shape, source = f"len({dw}), {self.terms(value)}", shifted(f"{whole}.T", size(start), "0")
                self.write(END, f"    copy({source}, {dw}, {shape})")
                start += part.shape[1]
            return
        for part, view, argument in zip(parts, views, arguments):
            if argument in self.d:
                dw, W, add = self.d[argument], part.shape[1], self._adds(argument, not view.cut)
                by_rows = view.suffix == ".T"  # of the result, so that threads can share them well
                self._into(argument, product_into(dw if by_rows else dw + view.suffix, W, add, by_rows))
            d = d._replace(first=d.first + part.shape[1])

    def _hoisted(self, value: Value, d: Memory) -> None:
        """The gradients of a product of the prologue."""
        size, x = self.size, value.inputs[0]
        left, column = first_column_of(x)
        rows = self._of(left)
        if rows in self.d:
            weights, copies = self.joined(value)
            factors, target = (self._at(d), turned(weights)), shifted(self.d[rows], "0", size(column))
            add = self._adds(rows, x.width == left.width)
            self._into(rows, [*copies, product(*factors, target, "total", self.terms(value), size(value.width), add)])
        self._weights(value, (f"{self.argument(left)}.T", size(column), "0"), d)

    def _left(self, value: Value) -> tuple[str, str, str]:
        """The left operand of a product of the loop at every step, transposed: an array, and where it begins."""
        (value, first), program = first_column_of(value), self.program
        name, row, column = f"{value.name}_saved", "0", self.size(first)
        assert value not in program.sequences, "a product of what the loop does not compute is in the loop"
        if value in program.states:
            name = self._before(value)
        elif value in program.outputs:  # the values after steps begin behind the initial ones
            name, row = program.states[program.outputs.index(value)].name, "B"
        return f"{name}.T", column, row

    def _before(self, state: Value) -> str:
        """The array of a state before each step."""
        name = state.name
        if name not in self.before:
            before = self.before[name] = self.names.new(f"{name}_before")
            together = self.scratch(f"{name}_together", "ragged", state.width)
            source, target = shifted(name, "starts[t]", "0"), shifted(together, "starts[t + 1] - B", "0")
            self.write(
                END, f"{before} = {name} if total == T * B else {together}  # the state before each step",
                "if total < T * B:  # some have ended", "    for t in range(T):",
                f"        copy({source}, {target}, starts[t + 2] - starts[t + 1], {self.size(state.width)})",
            )  # fmt: skip
        return self.before[name]
