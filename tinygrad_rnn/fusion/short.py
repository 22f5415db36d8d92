"""Short calls, all of them machine code: memory, and what comes before and after the loop.

A step of a small layer takes a microsecond, and Python five to prepare it. So where little but products stands between
the loop and the leaves, the module of each kernel gets one more function beside the loop, such as

    def short_call(B, T, starts, room, H, x, weight_ih, bias_ih, weight_hh, bias_hh, h_first, h, x_weight_ih_T, ...):
        weight_ih_T = weight_ih.T
        product(matrix(x), matrix(weight_ih_T), matrix(x_weight_ih_T), T * B, H, x.shape[1], room)
        ...
        forward(0, B, T, starts, H, h, h_weight_hh_T_packed, h_weight_hh_T_buffer, x_weight_ih_T, bias_ih, bias_hh)
        copy(shift(matrix(h), T * B, 0), matrix(h_last), B, H)

which computes what `call.Forward` and `call.Backward` have Python do, to the same bits. Python is left with making
arrays. Inference, a step of which may be over sooner than that, makes those in machine code that do not outlive the
call; to have the others made there as well would take longer to compile than it saves.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from ..autograd import table
from ..kernels.matmul import room
from ..kernels.vector import ROW_BYTES
from .call import Prelude, Step, _Function
from .emit import in_sizes, index_text, wrapped
from .rows import Rows
from .scan import Scan, sequence_array
from .trace import Line

WORK = 1_000_000  # multiply-adds before the loop up to which a call is short: some ten microseconds
LEAVES = ("input", "state", "parameter", "constant")
Made = TypeVar("Made")


class NotShort(Exception):
    """There is more around the loop than a short call can do."""


def if_short(make: Callable[..., Made], *arguments: Any) -> Made | None:
    """What is made of the arguments; None if that is `NotShort`."""
    try:
        return make(*arguments)
    except NotShort:
        return None


class _Short(_Function):
    """A function that makes arrays, and the kernel that does the rest.

    Attributes:
        given: the arrays that the kernel gets.
        body: its lines.
        weights: how many numbers the leaves have that are no sequences.
    """

    def __init__(self, scan: Scan, prelude: Prelude, direction: str) -> None:
        super().__init__(scan, direction)
        simple = all(line.kind in LEAVES and len(line.shape) in (1, 2) for line in prelude.leaves)
        flat = all(len(line.shape) == 1 or line in prelude.leaves for line in self.plan.vectors)
        if not (simple and flat) or prelude.drawn or self.plan.constants:
            raise NotShort
        self.prelude = prelude
        self.weights = sum(math.prod(line.shape) for line in prelude.leaves if not line.per_row)
        self.known |= dict(launch=self._launch, room=room, empty=np.empty, zeros=np.zeros)
        self.taken |= {"T", "starts", *scan.sizes.values()}
        self.given: list[str] = []
        self.body: list[str] = []

    def fits(self, rows: Rows) -> bool:
        """Whether a call is short."""
        return 0 < rows.total * self.weights <= WORK and type(rows) is Rows

    def _launch(self, B: int, T: int, *others: Any) -> None:
        kernel = self.known["launch"] = self.scan.kernel(f"short {self.direction}", (0, 0, *others))
        kernel(B, T, *others)  # without this function from the next call on

    def width(self, n: int) -> str:
        """A width as the kernel calls it."""
        return in_sizes(n, self.scan.sizes)

    def give(self, array: str) -> str:
        """Hand an array of Python's to the kernel."""
        if array not in self.given:
            self.given.append(array)
        return array

    def result(self, name: str, shape: str, make: str = "empty") -> str:
        """A new one, made by Python."""
        array = self.name(name, name)
        self.write(f"{array} = {make}(({shape}), dtype)")
        return self.give(array)

    def inner(self, name: str, shape: str, kernels: str) -> str:
        """A new one that does not outlive the call, with its shape in numbers and as the kernel knows it."""
        if self.direction != "inference":
            return self.result(name, shape)
        array = self.name(name, name)
        self.body.append(f"{array} = empty(({kernels}), {self.given[0]}.dtype)")
        return array

    def inner_rows(self, name: str, timed: bool, width: int) -> str:
        """One with rows for all steps, or for one."""
        rows, kernels = ("total", "T * B") if timed else ("B", "B")
        return self.inner(name, f"{rows}, {width}", f"{kernels}, {self.width(width)}")

    def joined(self, name: str, matrices: list[str], lines: Sequence[Line]) -> str:
        """The only one of some matrices, or all of them side by side in a new one."""
        if len(matrices) == 1:
            return matrices[0]
        rows, width, first = f"{matrices[0]}.shape[0]", sum(line.width for line in lines), 0
        whole = self.inner(name, f"{lines[0].shape[0]}, {width}", f"{rows}, {self.width(width)}")
        for matrix, line in zip(matrices, lines):
            place = _from(whole, "0", self.width(first))
            self.body.append(f"copy(matrix({matrix}), {place}, {rows}, {self.width(line.width)})")
            first += line.width
        return whole

    def pack(self, name: str, weights: str, K: int, N: int) -> str:
        """The weights of a product in the loop, packed."""
        columns, depth, count = ROW_BYTES // self.scan.dtype.itemsize, self.width(K), self.width(N)
        known = f"({count} + {columns - 1}) // {columns}, {depth}, {columns}"
        array = self.inner(name, f"{-(-N // columns)}, {K}, {columns}", known)
        self.body.append(f"fill_panels(matrix({weights}), panels({array}), {depth}, {count})")
        return array

    def loop(self, arrays: dict[str, str], *options: str) -> None:
        """The kernel's line for the loop, with some of its arrays and those that nobody else reads."""
        scan, direction = self.scan, self.direction
        for name in scan.arrays[direction]:
            if name not in arrays:
                width = scan.buffers[direction].get(name)
                arrays[name] = self.inner_rows(name, width is None, scan.widths[name] if width is None else width)
        passed = ", ".join([*options, *scan.sizes.values(), *(arrays[name] for name in scan.arrays[direction])])
        self.body.append(f"{'backward' if direction == 'backward' else 'forward'}(0, B, T, starts, {passed})")

    def launch_kernel(self) -> None:
        """The line that calls the kernel; its text goes to the others, unless it is there."""
        scan = self.scan
        self.write(f"launch(B, rows.T, rows.starts, room.address, {', '.join([*map(str, scan.sizes), *self.given])})")
        if "def short_call" not in scan.texts[self.direction]:
            arguments = ", ".join(["B, T, starts, room", *scan.sizes.values(), *self.given])
            head = "\n\n# A short call: the loop and all around it.\n@njit(cache=CACHE, **JIT)\n"
            head += wrapped(f"def short_call({arguments}):", "")
            scan.add(self.direction, head + "".join(wrapped(line, "    ") for line in self.body))


class ShortForward(_Short):
    """The function of a short call: products, transposes, cuts and concatenations of matrices may come before its loop.

        inference_call(rows, *leaves) -> what `Forward` returns in inference
        forward_call(rows, *leaves) -> every, finals, *kept

    Every and finals are those of `Forward`; kept are the leaves but for the states, and `scan.kept_arrays`.
    """

    def __init__(self, scan: Scan, prelude: Prelude, direction: str) -> None:
        super().__init__(scan, prelude, direction)
        plan, names, training = self.plan, self.names, direction == "forward"
        leaves = [self.name(line, line.name + "_first" * (line.kind == "state")) for line in prelude.leaves]
        self.given += leaves
        self.arrays: dict[str, str] = {}  # of the loop
        self._leaves()
        self.whole = plan.states if training else plan.states[:1]  # the states that are kept for all steps
        for state in self.whole:
            self.arrays[state.name] = self.result(state.name, f"B + total, {state.width}")
        for step in prelude.steps:
            self._step(step)
        for line in (*plan.sequences, *plan.vectors):
            self.arrays.setdefault(sequence_array(line), names[line])
        if training:
            for name in scan.kept_arrays:
                self.arrays[name] = self.arrays.get(name) or self.result(name, f"total, {scan.widths[name]}")
        self._weights()
        ends = [self._begin(state) for state in plan.states]
        self.loop(self.arrays)
        finals = [self.result(f"{state.name}_last", f"B, {state.width}") for state in plan.states]
        for state, end, final in zip(plan.states, ends, finals):
            self._copy(end, f"matrix({final})", state)
        self.launch_kernel()
        every = [f"rows.scattered({self.arrays[state.name]}[B:])" for state in self.whole]
        last = ", ".join(finals)
        if training:
            kept = [names[line] for line in prelude.leaves if line.kind != "state"]
            kept += [self.arrays[name] for name in scan.kept_arrays]
            self.write(f"return [{', '.join(every[: len(plan.gradient.dys)])}], [{last}], {', '.join(kept)}")
        else:
            self.write(f"return {every[0]}, {last}")
        self.finish(["rows", *leaves])

    def _leaves(self) -> None:
        """The leaves as the kernel reads them."""
        for line in self.prelude.leaves:
            if line.kind == "input":
                self.write(f"{self.names[line]} = ascontiguousarray(rows.gathered({self.names[line]}))")
        for line in self.plan.vectors:
            if len(line.shape) > 1:
                self.arrays[line.name] = self.give(self.name(line.name, line.name))
                self.write(f"{self.arrays[line.name]} = ascontiguousarray({self.names[line]}).reshape(-1)")
        self.write("B, total = rows.B, rows.total")

    def _weights(self) -> None:
        """Those of the products in the loop, packed."""
        for product in self.plan.products:
            matrices, packed = [self.names[w] for w in product.weights], self.scan.weights[product.result]
            weights = self.joined(f"{product.result.name}_weights", matrices, product.weights)
            self.arrays[packed] = self.pack(packed, weights, product.left.width, product.result.width)

    def _begin(self, state: Line) -> str:
        """The initial values of a state; returns where its final ones will be."""
        name = state.name
        if state not in self.whole:
            self.arrays[name] = self.inner(name, "", f"2, B, {self.width(state.width)}")
        array = self.arrays[name]
        self._copy(f"matrix({self.names[state]})", f"matrix({array}{'' if state in self.whole else '[0]'})", state)
        return f"shift(matrix({array}), T * B, 0)" if state in self.whole else f"matrix({array}[T % 2])"

    def _step(self, step: Step) -> None:
        """A line before the loop."""
        if not _is_simple(step):
            raise NotShort
        operands, line = [self.names[x] for x in step.inputs], step.line
        if step.row is table.matmul:
            (a, b), N = operands, self.width(line.width)
            rows = "T * B" if step.timed else f"{a}.shape[0]"
            y = self.inner(line.name, f"{'total' if step.timed else line.shape[0]}, {line.width}", f"{rows}, {N}")
            self.names[line] = y
            self.body.append(f"product(matrix({a}), matrix({b}), matrix({y}), {rows}, {N}, {a}.shape[1], room)")
            return
        if step.row is table.cat:
            self.names[line] = self.joined(line.name, operands, step.inputs)
            return
        taken = ".T" if step.row is table.permute else f"[{', '.join(map(index_text, line.attributes['at']))}]"
        self.body.append(f"{self.name(line, line.name)} = {operands[0]}{taken}")

    def _copy(self, source: str, target: str, state: Line) -> None:
        self.body.append(f"copy({source}, {target}, B, {self.width(state.width)})")


class ShortBackward(_Short):
    """The function of the way back, if nothing but products of inputs with parameters came before the loop.

        backward_call(rows, keep, retain, *kept, *dys, *dfinals) -> the gradients of some leaves

    Args (of the function):
        keep: 2.
        kept: what the forward call returned.
        retain, dys, dfinals: see `Backward`.

    Args:
        places: of the leaves whose gradients are returned. The kernel, which is one for all choices, gets empty arrays
            for the others.
    """

    def __init__(self, scan: Scan, prelude: Prelude, places: Iterable[int]) -> None:
        super().__init__(scan, prelude, "backward")
        plan, gradient, names = self.plan, self.plan.gradient, self.names
        self.wanted = [prelude.leaves[i] for i in places]
        self.found: dict[Line, str] = {}  # the gradients of leaves
        self.turned = {step.line: step.inputs[0] for step in prelude.steps if step.row is table.permute}
        self.parts = {step.line: step.inputs for step in prelude.steps if step.row is table.cat}
        self.known |= dict(no_matrix=np.empty((0, 0), scan.dtype), no_vector=np.empty(0, scan.dtype))
        fixed = ["rows", "keep", "retain"]
        self.taken |= {*fixed, *self.known}
        kept = [self.name(line, line.name) for line in prelude.leaves if line.kind != "state"]
        kept += [self.name(name, name) for name in scan.kept_arrays]
        dys = [self.name(line.name, line.name) for line in gradient.dys]
        finals = [self.name(object(), f"{carry.name}_last") for carry in gradient.carries]
        self.write("B, total = rows.B, rows.total")
        self.arrived(dys, finals)
        self.overwritten()
        self.given += dys

        for name, width in scan.sum_widths.items():
            self.result(name, f"B, {width}", "zeros")
        for name in scan.stashes.values():
            if name not in scan.overwritten:
                self.result(name, f"total, {scan.widths[name]}")
        arrays = {name: self.give(names[name]) for name in scan.arrays["backward"] if name in names}
        for name, k in scan.transposed.items():
            product = plan.products[k]
            matrices = [self._weights_of(w) for w in product.weights]
            weights = _transposed(self.joined(f"{product.result.name}_weights", matrices, product.weights))
            arrays[name] = self.pack(name, weights, product.result.width, product.left.width)
        self.loop(arrays, "2")
        self._vectors()
        for product, d in gradient.products:
            width = product.left.width
            self._weights(product.weights, self._left(product.left), self._stash(d), width, self.width(width))
        for step in prelude.steps:
            self._step(step)
        if any(line.kind == "input" and line in gradient.sequences for line in plan.sequences):
            raise NotShort
        for state, carry in zip(plan.states, gradient.carries):
            self.found[state] = f"{names[carry.name]}[0].copy()"
        self.launch_kernel()
        self.write(f"return [{', '.join(map(self._as_given, self.wanted))}]")
        self.finish([*fixed, *kept, *dys, *finals])

    def _weights_of(self, line: Line) -> str:
        """A matrix of parameters: one of them, its transpose, or several side by side."""
        if line in self.parts and line not in self.names:
            parts = self.parts[line]
            self.names[line] = self.joined(line.name, [self._weights_of(part) for part in parts], parts)
        if line in self.parts:
            return self.names[line]
        leaf = self.turned.get(line, line)
        if leaf.kind != "parameter":
            raise NotShort
        return self.give(self.names[leaf]) + ".T" * (line in self.turned)

    def _gradient(self, line: Line, shape: str, as_given: str) -> str:
        """An array for the gradient of a leaf, or of its transpose; `as_given` is what makes it the leaf's own."""
        leaf = self.turned.get(line, line)
        if leaf in self.found or leaf not in self.prelude.leaves:
            raise NotShort
        array = self.name(object(), f"d{line.name}")
        nothing = "no_vector" if shape.endswith(",") else "no_matrix"
        self.write(f"{array} = {f'empty(({shape}), dtype)' if leaf in self.wanted else nothing}")
        self.found[leaf] = as_given.format(array)
        return self.give(array)

    def _if_wanted(self, arrays: list[str], *lines: str) -> None:
        """Lines for arrays that may be empty."""
        self.body.append(f"if {' + '.join(f'len({array})' for array in arrays)}:")
        self.body += [f"    {line}" for line in lines]

    def _vectors(self) -> None:
        """One sum over rows for each part of a vector."""
        for vector, sums in itertools.groupby(self.scan.vector_sums, lambda each: each[0]):
            size, parts = math.prod(vector.shape), list(sums)
            ends = [first + width for _, first, _, _, width in parts]
            if [0, *ends] != [*(first for _, first, _, _, _ in parts), size]:
                raise NotShort  # nothing arrives at some of it
            as_given = "{}" if vector.shape == (size,) else f"{{}}.reshape({vector.shape})"
            dv = self._gradient(vector, f"{size},", as_given)
            lines = []
            for _, first, name, start, width in parts:
                rows = "B" if name in self.scan.sum_widths else "T * B"
                summed = _from(self.give(self.names[name]), "0", self.width(start))
                lines.append(f"sum_rows({summed}, {dv}, {self.width(first)}, {rows}, {self.width(width)})")
            self._if_wanted([dv], *lines)

    def _stash(self, line: Line) -> str:
        """The gradient that the loop leaves of a line, at every step."""
        name, first = self.scan.stash_places[line]
        return _from(self.give(self.names[name]), "0", self.width(first))

    def _weights(self, weights: Sequence[Line], left: str, dy: str, rows: int, known_rows: str) -> None:
        """One product for the gradients of all weights of a product: left @ dy."""
        parts = [part for line in weights for part in self.parts.get(line, [line])]
        shapes = [str(part.shape)[1:-1] for part in parts]
        arrays = [self._gradient(x, n, "{}.T" if x in self.turned else "{}") for x, n in zip(parts, shapes)]
        N, first = sum(part.width for part in parts), 0
        whole = arrays[0] if len(arrays) == 1 else self.result(f"d{weights[0].name}_and_others", f"{rows}, {N}")
        lines = [f"product({left}, {dy}, matrix({whole}), {known_rows}, {self.width(N)}, T * B, room)"]
        for array, part in zip(arrays, parts if len(arrays) > 1 else ()):
            place = _from(whole, "0", self.width(first))
            lines.append(f"copy({place}, matrix({array}), len({array}), {self.width(part.width)})")
            first += part.width
        self._if_wanted(arrays, *lines)

    def _left(self, line: Line) -> str:
        """The left operand of a product at every step, transposed."""
        first = 0
        while line.row is table.part:
            cut = line.attributes["at"][-1]
            if not isinstance(cut, slice) or cut.step is not None:
                raise NotShort
            first, line = first + (cut.start or 0), line.inputs[0]
        array = self.give(self.names[self.array_of(line)])
        after = line in self.plan.outputs and line not in self.plan.states
        return _from(f"{array}.T", self.width(first), "B" if after else "0")

    def _step(self, step: Step) -> None:
        """The gradients of the operands of a product before the loop."""
        if not _is_simple(step) or step.row is table.part:
            raise NotShort
        if step.row is not table.matmul:
            if any(x not in self.prelude.leaves and x not in self.turned for x in step.inputs):
                raise NotShort
            return
        x, w = step.inputs
        if x.kind != "input" or step.line not in self.plan.sequences:
            raise NotShort
        if step.line in self.plan.gradient.sequences:
            dy, weights = self._stash(self.plan.gradient.sequences[step.line]), self._weights_of(w)
            dx = self._gradient(x, f"total, {x.width}", "ascontiguousarray(rows.scattered({}))")
            features = f"{self.give(self.names[x])}.shape[1]"
            w_T, N = f"matrix({_transposed(weights)})", self.width(w.width)
            self._if_wanted([dx], f"product({dy}, {w_T}, matrix({dx}), T * B, {features}, {N}, room)")
            self._weights([w], f"matrix({self.names[x]}.T)", dy, x.width, features)

    def _as_given(self, leaf: Line) -> str:
        """The gradient of a leaf, laid out as its value was given."""
        shape = f"(rows.padded, B, {leaf.width})" if leaf.kind == "input" else leaf.shape
        return self.found.get(leaf) or f"zeros({shape}, dtype)"


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


def _transposed(matrix: str) -> str:
    return matrix.removesuffix(".T") if matrix.endswith(".T") else f"{matrix}.T"


def _from(array: str, i: str, j: str) -> str:
    """The matrix of an array from element [i, j] on."""
    return f"matrix({array})" if i == j == "0" else f"shift(matrix({array}), {i}, {j})"
