"""Where everything lies in memory, for the kernels of a planned step.

Every value that leaves its loop gets a place: an argument of the kernel, or a part of the arena of a call (`kernel`).
Gradients that are read after the loop lie in sequences, one for all that are the same or parts of it; `reuse` says
which of these may take the place of values that nobody reads any more.
"""

import itertools
from collections.abc import Iterable

from ..autograd import table
from .emit import Block, in_sizes
from .kernel import columns_of, side_by_side, view_of
from .names import Names
from .plan import Memory, Plan, _base, _read, made_of
from .reuse import gradients_in_place, kept_in_place, readers, spare_afterwards
from .trace import Line


class Allocation:
    """The places of a planned step.

    Args:
        leaves: what the cell is given and what it holds, in order.
        noise: those of them that are drawn at each call.

    Attributes:
        operands: the lines that kernels are given, leaves and lines that the tape computes before; and their `roles`.
        outside: those lines, and what they are made of, in order.
        never: leaves that have no gradient.
        residuals: forward values that the backward kernel reads, besides the states.
        kept: where they are, and the states that nobody watches, in the arena of the forward kernel: see `Arena`.
        kept_in: those that lie in place of hoisted products.
        overwritten: array of gradients -> of these values, whose place they take.
        transposed: packed transposed weights of the backward kernel -> the number of the product.
    """

    def __init__(self, plan: Plan, leaves: list[Line], noise: Iterable[Line] = ()) -> None:
        self.plan, self.noise = plan, set(noise)
        self.never = self.noise | {line for line in leaves if line.kind == "constant"}
        self.dtype = plan.states[0].dtype
        self.sizes = self._size_names()
        self.residuals = list(plan.saved)
        self.transposed: dict[str, int] = {}
        transposed = {f"{product.result.name}_weights_T": k for k, product in enumerate(plan.products)}
        for line in plan.backward:
            if line.row is table.matmul:
                name = line.inputs[1].name
                self.transposed[f"{name}_packed"] = transposed[name]
        self.weights = {p.result: f"{p.result.name}_packed" for p in plan.products}
        self.kept_in: dict[Line, Memory] = {}
        self.overwritten: dict[str, str] = {}
        self._gradient_memory()
        self.vector_sums = self._joined_vectors()
        self.widths = {f"{x.name}_saved": x.width for x in plan.forward}
        self.widths |= {name: line.width for line, name in self.stashes.items()}
        self.inputs = {line for line in leaves if line.kind == "input" and line not in self.noise}
        self._find_operands(leaves)
        self.blocks = {direction: self._block(direction) for direction in ("forward", "inference", "backward")}
        watched, kept = len(plan.gradient.dys), [x for x in self.residuals if x not in self.kept_in]
        self.kept: list[tuple[str, str, tuple[int, ...]]] = [
            *((state.name, "B + total", (state.width,)) for state in plan.states[watched:]),
            *((line.name, "total", (line.width,)) for line in plan.hoisted),
            *((f"{line.name}_saved", "total", (line.width,)) for line in kept),
        ]
        arguments = [x for x in self.operands if self.roles[x] != ["matrix"]]
        lines = [*plan.states, *plan.vectors, *plan.constants, *plan.gradient.dys, *plan.gradient.carries]
        self.array_names = {
            *(x.name for x in lines), *map(self.argument_name, arguments), *map(sequence_array, plan.sequences),
            *(name for name, _, _ in self.kept), *self.stashes.values(), *self.sum_widths, *self.transposed,
            *self.weights.values(),
        }  # fmt: skip

    def size(self, n: int) -> str:
        """A width or column as text, in terms of the named sizes."""
        return in_sizes(n, self.sizes)

    def _size_names(self) -> dict[int, str]:
        names: dict[int, str] = {}
        for state in self.plan.states:
            if state.width not in names and state.width > 1:
                names[state.width] = "H" if not names else f"H_{len(names) + 1}"
        return names

    def _find_operands(self, leaves: list[Line]) -> None:
        plan = self.plan
        roles: dict[Line, list[str]] = {}

        def give(line: Line, role: str) -> None:
            if role not in roles.setdefault(line, []):
                roles[line].append(role)

        for line in plan.sequences:
            if line not in plan.hoisted:
                give(line, "rows")
        for line in plan.hoisted:
            give(columns_of(line.inputs[0])[0], "rows")
        for line in plan.constants:
            give(line, "each")
        for line in plan.vectors:
            give(line, "vector")
        weights = [w for product in plan.products for w in product.weights]
        for line in side_by_side([*(line.inputs[1] for line in plan.hoisted), *weights]):
            give(view_of(line).leaf, "matrix")
        computed = [line for line in made_of(roles) if line.kind == "operation"]
        self.outside = computed
        self.operands = [line for line in leaves if line in roles] + [line for line in computed if line in roles]
        assert len(self.operands) == len(roles), "a kernel reads what is no leaf"
        self.roles = roles

    def by_steps(self, line: Line, role: str) -> str:
        """The role of an argument: what the user gives is read as it lies."""
        return "steps" if role == "rows" and line in self.inputs else role

    def argument_name(self, line: Line) -> str:
        """The name of an argument that the loop may read."""
        return sequence_array(line)

    def array_of(self, line: Line) -> str:
        """The array of the forward kernel that has the values of a line at every step."""
        if line in self.plan.states or line in self.plan.sequences:  # even if it is a new value of a state as well
            return sequence_array(line)
        if line in self.plan.outputs:
            return self.plan.states[self.plan.outputs.index(line)].name
        return f"{line.name}_saved"

    def _gradient_memory(self) -> None:
        """Name the sequences that the backward kernel writes: one for all that have the same gradient or parts of it.

        Sets `stashes`, line -> its sequence, and `stash_places`, line -> (sequence, first column). What vectors want
        is summed over time on the way, a row for each sequence, so that the sum does not depend on threads: `sums`,
        line -> (array, first column), and `vectors`, (vector, first column, line) with concatenations taken apart.
        """
        gradient = self.plan.gradient
        self.stashes: dict[Line, str] = {}
        names = Names()
        self.stash_places: dict[Line, tuple[str, int]] = {}
        kept = [*gradient.sequences.values(), *(g for _, g in gradient.products)]
        self.vectors: list[tuple[Line, int, Line]] = []
        ahead = list(reversed(gradient.vectors))
        while ahead:
            vector, first, d = ahead.pop()
            if d.row is table.cat:
                ahead += [(vector, first + start, x) for x, start in _pieces(d)][::-1]
            elif d.kind != "zeros":
                self.vectors.append((vector, first, d))
        wholes = {piece: (whole, start) for whole in kept for piece, start in _pieces(whole)}
        self.sums: dict[Line, tuple[str, int]] = {}
        self.sum_widths: dict[str, int] = {}
        for _, _, d in self.vectors:
            if d.kind == "operation" and d.row not in (table.matmul, table.part):
                whole, start = wholes.get(d, (d, 0))
                self.sums[d] = f"{whole.name}_sum", start
                self.sum_widths[f"{whole.name}_sum"] = whole.width
        kept += [d for _, _, d in self.vectors if d not in self.sums]
        for line in sorted(kept, key=lambda line: line.row is not table.cat):  # wholes before their parts
            if line in self.stash_places:
                continue
            name = f"{line.name}_all" if line.kind == "operation" else f"d_{len(self.stashes)}_all"
            name = names.new(name)
            self.stashes[line] = name
            self.stash_places[line] = name, 0
            for piece, start in _pieces(line):
                self.stash_places.setdefault(piece, (name, start))

    def _joined_vectors(self) -> list[tuple[Line, int, str, int, int]]:
        """(vector, first column, array, its first column, width): what is summed over the rows of arrays.

        Neighbouring columns of a vector that come from neighbouring columns of an array are taken together.
        """
        joined: list[tuple[Line, int, str, int, int]] = []
        for vector, first, d in sorted(self.vectors, key=lambda each: (each[0].name, each[1])):
            name, start = self.sums[d] if d in self.sums else self.stash_places[d]
            width = d.width
            if joined:
                known, known_first, known_name, known_start, known_width = joined[-1]
                ends = known, known_first + known_width, known_name, known_start + known_width
                if ends == (vector, first, name, start):
                    joined.pop()
                    first, start, width = known_first, known_start, known_width + width
            joined.append((vector, first, name, start, width))
        return joined

    def _block(self, direction: str) -> Block:
        plan = self.plan
        here = "here + row" if direction == "inference" else "now + row"
        places = {
            x: Memory(sequence_array(x), here if x in plan.hoisted else "now + row", 0, x.width) for x in plan.sequences
        }
        places |= {x: Memory(x.name, "row", 0, x.width) for x in plan.constants}
        places |= {v: Memory(v.name, "", 0, v.width) for v in plan.vectors}
        ends = []
        for k, state in enumerate(plan.states):
            brief = direction == "inference" and k > 0  # nobody looks at its values but the next step
            old, new = ("t % 2 * B + row", "(t + 1) % 2 * B + row") if brief else ("old + row", "new + row")
            places[state] = Memory(state.name, old, 0, state.width)
            ends.append(Memory(state.name, new, 0, state.width))
        stores: dict[Line, list[Memory]] = {}
        put = lambda line, memory: stores.setdefault(line, []).append(memory)
        if direction == "backward":
            lines, origin, towards = plan.backward, plan.gradient.origin, plan.gradient.towards
            weights = {line: f"{line.inputs[1].name}_packed" for line in lines if line.row is table.matmul}
            for line, end in zip(plan.outputs, ends):
                places.setdefault(line, end)
            places |= {x: Memory(f"{x.name}_saved", "now + row", 0, x.width) for x in plan.saved}
            places |= {dy: Memory(dy.name, "now + row", 0, dy.width) for dy in plan.gradient.dys}
            for carry, gradient in zip(plan.gradient.carries, plan.gradient.states):
                places[carry] = Memory(carry.name, "(t + 1) % keep * B + row", 0, carry.width)
                zero = Line(f"{carry.name}_zero", "zeros", carry.shape, carry.dtype)
                put(gradient or zero, Memory(carry.name, "t % keep * B + row", 0, carry.width))
            for line, name in self.stashes.items():
                put(line, Memory(name, "now + row", 0, line.width))
        else:
            lines, origin, towards = plan.forward, {}, {}
            weights = self.weights
            for line, end in zip(plan.outputs, ends):
                put(line, end)
            if direction == "forward":
                for line in plan.saved:
                    put(line, Memory(f"{line.name}_saved", "now + row", 0, line.width))
                for product in plan.products:
                    left = _base(product.left)
                    if left not in places and left not in plan.outputs and left not in self.residuals:
                        put(left, Memory(f"{left.name}_saved", "now + row", 0, left.width))
                        self.residuals.append(left)
        sums = {x: Memory(name, "row", start, x.width) for x, (name, start) in self.sums.items()}
        make = lambda: Block(
            "backward" if direction == "backward" else "forward",
            lines,
            places,
            stores,
            weights,
            self.sizes,
            origin,
            towards,
            sums if direction == "backward" else {},
        )
        block = make()
        if direction == "forward":
            self.kept_in = kept_in_place(block, plan)
            for line, memory in self.kept_in.items():
                stores[line] = [memory, *(m for m in stores[line] if m.array != f"{line.name}_saved")]
            block = make() if self.kept_in else block
            block.notes = _notes(self.kept_in, "after its step")
        elif direction == "backward":
            kept = self.kept_in | spare_afterwards(block, plan, self.kept_in)
            places |= self._overwrite(block, kept)
            block = make() if kept else block
            read = {y for line in plan.backward for y in _read(line)}
            shared = [x for x in kept if x in self.kept_in or places[x].array in self.overwritten]
            block.notes = _notes({line: places[line] for line in shared if line in read}, "before its step")
        return block

    def _overwrite(self, block: Block, kept: dict[Line, Memory]) -> dict[Line, Memory]:
        """Let gradients take the place of values that nobody reads after them; where the values are then."""
        left, everybody = kept, readers(block)
        widths = self.widths | {sequence_array(x): x.width for x in self.plan.sequences}
        for whole, name in self.stashes.items():
            as_wide = {line: memory for line, memory in left.items() if widths[memory.array] == whole.width}
            array = gradients_in_place(block, as_wide, dict(_pieces(whole)) or {whole: 0}, everybody)
            if array is not None:
                self.overwritten[name] = array
                left = {line: memory for line, memory in left.items() if memory.array != array}
        name_of = {array: name for name, array in self.overwritten.items()}
        return {line: m._replace(array=name_of.get(m.array, m.array)) for line, m in kept.items()}


def sequence_array(line: Line) -> str:
    """The name of the array that has a sequence, which is not that of the input at one step."""
    return f"{line.name}_in" if line.kind == "input" else line.name


def _pieces(whole: Line) -> list[tuple[Line, int]]:
    """The lines that a concatenation puts side by side, with their first columns; none for any other line."""
    if whole.row is not table.cat:
        return []
    return list(zip(whole.inputs, itertools.accumulate((x.width for x in whole.inputs), initial=0)))


def _notes(kept: dict[Line, Memory], when: str) -> list[str]:
    """What an array holds besides what its name says."""
    arrays: dict[str, list[str]] = {}
    for line, memory in kept.items():
        arrays.setdefault(memory.array, []).append(line.name)
    return [f"{array} holds, {when}: {', '.join(names)}." for array, names in arrays.items()]
