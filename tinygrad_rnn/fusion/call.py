"""A call of a compiled cell, written out: what is computed before the loop over time, and what the kernel is given.

A step of a small layer is a few dozen microseconds of arithmetic, and to go through lists and dictionaries of what
there is to do would take as long again. So that is done once, and leaves a function behind, such as

    def inference(rows, x, weight_ih, bias_ih, h_first):
        x = rows.gathered(x)
        weight_ih_T = asarray(permute(weight_ih, dims=(1, 0)))
        ...
        for piece, first in pieces(rows, 512):
            x_weight_ih_T = asarray(matmul(x_piece, weight_ih_T))
            launch(piece, (piece.starts, 32, h, ...))
"""

import keyword
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..kernels.matmul import pack
from ..kernels.pool import empty
from .prelude import Prelude
from .rows import Rows, full_rows
from .scan import Scan
from .trace import Line, sized

# What is computed before the loop at a time, where nobody needs it afterwards: as much as stays in the cache, and rows
# enough for the preparations of a product.
PIECE_BYTES, PIECE_ROWS = 1 << 21, 1 << 10


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


class Call:
    """The text of a call, and the function that it is.

        forward(rows, *leaves, *drawn) -> values, record, named
        inference(rows, *leaves, *drawn) -> named

    The arguments are arrays as the user gave them. What is returned: the values of leaves and of the lines before the
    loop; what `Prelude.backward` wants to know; the arrays of the kernel by name, of which the states are [B + total,
    width] with their initial values first. After `inference`, which keeps nothing for a gradient, those after the first
    are [2, B, width]: the values after an even and after an odd number of steps.

    Args:
        scan, prelude: what runs in the loop and before it.
        leaves, drawn: inputs, parameters, initial states; random numbers, in the order of rows.
        adjoints: for each line of the prelude that of its operation, or None; None for inference.
    """

    def __init__(
        self, scan: Scan, prelude: Prelude, leaves: list[Line], drawn: list[Line], adjoints: list[Any] | None
    ) -> None:
        self.scan, self.prelude, self.plan = scan, prelude, scan.plan
        self.direction = "inference" if adjoints is None else "forward"
        self.text: list[str] = []
        self.known: dict[str, Any] = {
            "asarray": np.asarray, "ascontiguousarray": np.ascontiguousarray, "concatenate": np.concatenate,
            "empty": empty, "pack": pack, "sized": sized, "pieces": pieces, "dtype": scan.dtype,
            "launch": scan.launcher(self.direction),
        }  # fmt: skip
        self.known |= {step.row.name: step.row.forward for step in prelude.steps}
        self.taken = {*self.known, "rows", "piece", "first", "total", "B"}
        self.names: dict[Any, str] = {}  # of lines, and of the kernel's arrays
        arguments = [self._name(line, line.name + "_first" * (line.kind == "state")) for line in leaves]
        arguments += [self._name(line, line.name) for line in drawn]
        for line in leaves:
            if line.kind == "input":
                self._write(f"{self.names[line]} = rows.gathered({self.names[line]})")
            elif line.per_row:
                self._write(f"{self.names[line]} = rows.ordered({self.names[line]})")
        self._write("B, total = rows.B, rows.total")
        if adjoints is None:
            self._inference([*[line for line in leaves if line.kind == "input"], *drawn])
        else:
            self._forward([*leaves, *drawn], adjoints)
        source = f"def {self.direction}(rows, {', '.join(arguments)}):\n" + "".join(f"    {line}\n" for line in self.text)
        exec(compile(source, f"<a call of {scan.title}>", "exec"), self.known)
        self.source, self.function = source, self.known[self.direction]

    # ---- Names and text ----------------------------------------------------------------------------------------------

    def _name(self, key: Any, wanted: str) -> str:
        """A variable for a line or an array of the kernel."""
        while wanted in self.taken or keyword.iskeyword(wanted):
            wanted += "_"
        self.taken.add(wanted)
        self.names[key] = wanted
        return wanted

    def _constant(self, value: Any, name: str) -> str:
        """A value as text: a plain number or tuple of them as it is written, anything else by a name."""
        if isinstance(value, (bool, int)) or (isinstance(value, tuple) and all(type(n) is int for n in value)):
            return repr(value)
        name = self._name(object(), name)
        self.known[name] = value
        return name

    def _write(self, line: str, indent: int = 0) -> None:
        self.text.append("    " * indent + line)

    # ---- What is computed before the loop ----------------------------------------------------------------------------

    def _step(self, step: Any, rows: str, adjoint: Any = None, indent: int = 0) -> str:
        """Write a line of the prelude; returns what is to be recorded of it."""
        operands = []
        for i, x in enumerate(step.inputs):
            operand = self.names[x] if i in step.sources else self._constant(x, "number")
            operands.append(f"{rows}.repeated({operand})" if i in step.repeated else operand)
        if step.of_batch:
            attributes = self._constant(step.line.attributes, "attributes")
            operands.append(f"**sized({attributes}, {rows}.{'total' if step.timed else 'B'})")
        else:
            operands += [f"{name}={self._constant(value, name)}" for name, value in step.line.attributes.items()]
        y = self._name(step.line, step.line.name)
        self._write(f"{y} = asarray({step.row.name}({', '.join(operands)}))", indent)
        if adjoint is None:
            return ""
        save = self._constant(adjoint.save, f"saved_of_{step.row.name}")
        shapes = ", ".join(f"{operands[i]}.shape" for i in adjoint.wanted)
        place = f"{self._constant(step, 'step')}, {self._constant(adjoint, 'adjoint')}"
        return f"({place}, {save}({', '.join([y, *operands])}), [{shapes}])"

    # ---- What the kernel is given ------------------------------------------------------------------------------------

    def _weights(self) -> None:
        """What it reads at every step."""
        for line in self.plan.constants:
            self._write(f"{self.names[line]} = ascontiguousarray({self.names[line]})")
            self.names[line.name] = self.names[line]
        for line in self.plan.vectors:
            self._write(f"{self.names[line]} = ascontiguousarray({self.names[line]}).reshape(-1)")
            self.names[line.name] = self.names[line]
        for product in self.plan.products:
            weights = [self.names[w] for w in product.weights]
            joined = weights[0] if len(weights) == 1 else f"concatenate([{', '.join(weights)}], axis=1)"
            array = self.scan.weights[product.result]
            self._write(f"{self._name(array, array)} = pack({joined}).panels")
        for name, width in self.scan.buffers[self.direction].items():
            self._write(f"{self._name(name, name)} = empty((B, {width}), dtype)")

    def _states(self) -> None:
        for k, state in enumerate(self.plan.states):
            array = self._name(state.name, state.name)
            if self.direction == "forward" or k == 0:
                self._write(f"{array} = empty((B + total, {state.width}), dtype)")
                self._write(f"{array}[:B] = {self.names[state]}")
            else:
                self._write(f"{array} = empty((2, B, {state.width}), dtype)")
                self._write(f"{array}[0] = {self.names[state]}")

    def _launch(self, rows: str, indent: int = 0) -> None:
        """What it reads step by step, what it writes, and the kernel."""
        for line in self.plan.sequences:
            name = f"{line.name}_in" if line.kind == "input" else line.name
            self._write(f"{self.names[line]} = ascontiguousarray({self.names[line]})", indent)
            self.names[name] = self.names[line]
        arrays = self.scan.arrays[self.direction]
        for name in arrays:
            if name not in self.names:
                shape = f"({rows}.total, {self.scan.widths[name]})"
                self._write(f"{self._name(name, name)} = empty({shape}, dtype)", indent)
        given = [self.names[name] for name in arrays]
        if self.direction == "inference":
            output = self.plan.states[0].name
            given[arrays.index(output)] += f"[first : first + B + {rows}.total]"
        arguments = ", ".join([f"{rows}.starts", *map(str, self.scan.sizes), *given])
        self._write(f"launch({rows}, ({arguments}))", indent)

    def _forward(self, leaves: list[Line], adjoints: list[Any]) -> None:
        record = [self._step(step, "rows", adjoint) for step, adjoint in zip(self.prelude.steps, adjoints)]
        self._write(f"record = [{', '.join(filter(None, record))}]")
        lines = [*leaves, *[step.line for step in self.prelude.steps]]
        keys = self._constant(lines, "lines")
        self._write(f"values = dict(zip({keys}, ({', '.join(self.names[line] for line in lines)},)))")
        self._weights()
        self._states()
        self._launch("rows")
        named = ", ".join(f"{name!r}: {self.names[name]}" for name in self.scan.arrays["forward"])
        self._write(f"return values, record, {{{named}}}")

    def _inference(self, timed: list[Line]) -> None:
        for step in self.prelude.once:
            self._step(step, "rows")
        self._weights()
        self._states()
        row_bytes = sum(step.line.width for step in self.prelude.timed) * self.scan.dtype.itemsize
        self._write(f"for piece, first in pieces(rows, {row_bytes}):")
        for line in timed:
            whole = self.names[line]
            part = self._name(line, f"{whole}_piece")
            self._write(f"{part} = {whole}[first : first + piece.total]", 1)
        for step in self.prelude.timed:
            self._step(step, "piece", indent=1)
        self._launch("piece", 1)
        named = ", ".join(f"{state.name!r}: {self.names[state.name]}" for state in self.plan.states)
        self._write(f"return {{{named}}}")
