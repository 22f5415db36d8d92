"""A short call without gradients, all of it machine code: what comes before the loop too, and memory.

A step of a small layer takes a microsecond, and Python five to prepare it. So where nothing but products comes before
the loop, the module of the inference kernel has one more function beside the loop, such as

    def short_call(B, T, starts, room, H, x, weight_ih, bias_ih, weight_hh, bias_hh, h_first, h, h_last):
        weight_ih_T = weight_ih.T
        x_weight_ih_T = product(x, weight_ih_T, room)
        ...
        forward(0, B, T, starts, H, h, h_weight_hh_T_packed, h_weight_hh_T_buffer, x_weight_ih_T, bias_ih, bias_hh)
        copy(shift(matrix(h), T * B, 0), matrix(h_last), B, H)

which computes what `call.Forward` has Python do, to the same bits.
"""

import math
from typing import Any

import numpy as np

from ..autograd import table
from ..kernels.matmul import room
from .call import Prelude, Step, _Function
from .emit import in_sizes, index_text, wrapped
from .rows import Rows
from .scan import Scan, sequence_array
from .trace import Line

WORK = 1_000_000  # multiply-adds before the loop up to which a call is short: some ten microseconds
LEAVES = ("input", "state", "parameter", "constant")


class Short(_Function):
    """The function of a short call, and its kernel, which it writes beside the one for inference.

        short_call(rows, *leaves) -> what `Forward` returns in inference

    Attributes:
        weights: how many numbers the leaves have that are no sequences.
    """

    def __init__(self, scan: Scan, prelude: Prelude) -> None:
        super().__init__(scan, "short")
        self.known |= dict(launch=self._launch, room=room, empty=np.empty)
        self.taken |= {"T", "room", "starts", "packed", "copy", *scan.sizes.values()}
        self.weights = sum(math.prod(line.shape) for line in prelude.leaves if not line.per_row)
        first = [self.name(line, line.name + "_first" * (line.kind == "state")) for line in prelude.leaves]
        flat = {line: self.name(line.name, line.name) for line in self.plan.vectors if len(line.shape) > 1}
        states = [self.plan.states[0].name, *(f"{state.name}_last" for state in self.plan.states)]
        results = [self.name(object(), name) for name in states]
        given = [*first, *flat.values(), *results]
        scan.add("inference", f"\n\n{self._kernel(prelude, given, results)}")
        for line in prelude.leaves:
            if line.kind == "input":
                self.write(f"{self.names[line]} = ascontiguousarray(rows.gathered({self.names[line]}))")
        for line, name in flat.items():
            self.write(f"{name} = ascontiguousarray({self.names[line]}).reshape(-1)")
        self.write("B = rows.B")
        shapes = ["B + rows.total", *["B"] * len(self.plan.states)]
        widths = [self.plan.states[0].width, *(state.width for state in self.plan.states)]
        for name, rows, width in zip(results, shapes, widths):
            self.write(f"{name} = empty(({rows}, {width}), dtype)")
        self.write(f"launch(B, rows.T, rows.starts, room.address, {', '.join([*map(str, scan.sizes), *given])})")
        self.write(f"return rows.scattered({results[0]}[B:]), {', '.join(results[1:])}")
        self.finish(["rows", *first])

    @staticmethod
    def possible(scan: Scan, prelude: Prelude) -> bool:
        """Whether all that comes before the loop are products of matrices."""
        simple = all(line.kind in LEAVES and len(line.shape) in (1, 2) for line in prelude.leaves)
        flat = all(len(line.shape) == 1 or line in prelude.leaves for line in scan.plan.vectors)
        return simple and flat and not (prelude.drawn or scan.plan.constants) and all(map(_is_simple, prelude.steps))

    def fits(self, rows: Rows) -> bool:
        """Whether a call is short."""
        return 0 < rows.total * self.weights <= WORK and type(rows) is Rows

    def _launch(self, *arguments: Any) -> None:
        kernel = self.known["launch"] = self.scan.kernel("short", arguments)  # no way round from the next call on
        kernel(*arguments)

    def _kernel(self, prelude: Prelude, given: list[str], results: list[str]) -> str:
        """Its source; `given` are its arrays, the last of them those of the results."""
        scan, plan, sizes, text = self.scan, self.plan, self.scan.sizes, []
        output, *last = results
        for step in prelude.steps:
            operands = [self.names[x] for x in step.inputs]
            y = self.name(step.line, step.line.name)
            if step.row is table.matmul:
                text.append(f"{y} = product({', '.join(operands)}, room)")
            elif step.row is table.permute:
                text.append(f"{y} = {operands[0]}.T")
            elif step.row is table.part:
                text.append(f"{y} = {operands[0]}[{', '.join(map(index_text, step.line.attributes['at']))}]")
            else:
                text.append(f"{y} = {_joined(operands)}")
        copied = lambda a, c, state: f"copy({a}, {c}, B, {in_sizes(state.width, sizes)})"
        text.append(copied(f"matrix({self.names[plan.states[0]]})", f"matrix({output})", plan.states[0]))
        arrays = {plan.states[0].name: output}
        for state in plan.states[1:]:
            arrays[state.name] = self.name(state.name, state.name)
            text.append(f"{arrays[state.name]} = empty((2, B, {in_sizes(state.width, sizes)}), {output}.dtype)")
            text.append(copied(f"matrix({self.names[state]})", f"matrix({arrays[state.name]}[0])", state))
        for line in plan.vectors:
            arrays[line.name] = self.names.get(line.name, self.names[line])
        for line in plan.sequences:
            arrays[sequence_array(line)] = self.names[line]
        for product in plan.products:
            arrays[scan.weights[product.result]] = f"packed({_joined([self.names[w] for w in product.weights])})"
        for name in scan.arrays["inference"]:
            if name not in arrays:
                width = scan.buffers["inference"].get(name)
                rows, width = ("T * B", scan.widths[name]) if width is None else ("B", width)
                arrays[name] = f"empty(({rows}, {in_sizes(width, sizes)}), {output}.dtype)"
        passed = ", ".join(["0, B, T, starts", *sizes.values(), *(arrays[name] for name in scan.arrays["inference"])])
        text.append(f"forward({passed})")
        ends = [f"shift(matrix({output}), T * B, 0)", *(f"matrix({arrays[s.name]}[T % 2])" for s in plan.states[1:])]
        text += [copied(end, f"matrix({name})", state) for end, name, state in zip(ends, last, plan.states)]
        arguments = ", ".join(["B, T, starts, room", *sizes.values(), *given])
        head = "# A short call: what comes before the loop, and the loop.\n@njit(cache=CACHE, **JIT)\n"
        head += wrapped(f"def short_call({arguments}):", "")
        return head + "".join(wrapped(line, "    ") for line in text)


def _is_simple(step: Step) -> bool:
    """Whether a line before the loop is a product of matrices, or one transposed, cut out, or made of others."""
    attributes, dims = step.line.attributes, {len(x.shape) for x in step.inputs if isinstance(x, Line)}
    if len(step.sources) < len(step.inputs) or step.repeated:
        return False
    if step.row is table.part:
        return all(isinstance(at, slice) and at.step is None for at in attributes["at"])
    if dims != {2}:
        return False
    if step.row is table.permute:
        return attributes["dims"] == (1, 0)
    return step.row is table.matmul or (step.row is table.cat and attributes["dim"] in (1, -1))


def _joined(matrices: list[str]) -> str:
    """Matrices side by side."""
    return matrices[0] if len(matrices) == 1 else f"concatenate(({', '.join(matrices)}), axis=1)"
