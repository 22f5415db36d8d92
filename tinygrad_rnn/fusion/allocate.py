"""Where everything lies in memory, for the kernels of a program.

Every value that leaves its loop gets a place: an argument of the kernel, or a part of the arena of a call (`kernel`).
Gradients that are read after the loop lie in sequences, one for all that are the same or parts of it; `reuse` says
which of these may take the place of values that nobody reads any more.
"""

import collections
import itertools

from ..autograd import table
from .equations import in_sizes
from .kernel import Arena, matrix_of, sequence_array, side_by_side
from .names import Names
from .print import Block, packed_weights
from .program import Program, Value, is_view, leaf, made_of, sources_of, view_of
from .reuse import gradients_in_place, kept_in_place, readers, spare_afterwards
from .schedule import Memory, Schedule, Stores, whole


class Allocation:
    """The places of a program.

    Attributes:
        operands: the values that kernels are given, leaves and values that the tape computes before.
        roles: each with its roles as an argument, see `Argument`.
        outside: those values, and what they are made of, in order.
        kept_in: residuals that lie in place of hoisted products.
        residuals: the others, these products, and states that nobody watches: what the arena of the forward kernel
            begins with, and the backward kernel finds there.
        overwritten: array of gradients -> of these values, whose place they take.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.dtype = program.states[0].dtype
        self.sizes = self._size_names()
        self.kept_in: dict[Value, Memory] = {}
        self.overwritten: dict[str, str] = {}
        self.vector_sums = _joined(self._gradient_memory())
        self._find_operands()
        self.blocks = {direction: self._block(direction) for direction in ("forward", "inference", "backward")}
        watched, kept = len(program.gradient.dys), [x for x in program.residuals if x not in self.kept_in]
        self.residuals = Arena("residuals", [
            *((state.name, "B + total", (state.width,)) for state in program.states[watched:]),
            *((value.name, "total", (value.width,)) for value in program.hoisted),
            *((f"{value.name}_saved", "total", (value.width,)) for value in kept),
        ])  # fmt: skip
        gradient, products = program.gradient, [x for x in (*program.loop, *program.backward) if x.row is table.matmul]
        self.array_names = {
            *(x.name for x in (*program.states, *gradient.dys, *gradient.carries)), *map(packed_weights, products),
            *(sequence_array(x) for x, role in self.roles if role != "matrix"),
            *(name for name, _, _ in self.residuals.entries), *self.sum_widths,
            *(memory.array for memory in self.stashes.values()),
        }  # fmt: skip

    def size(self, n: int) -> str:
        """A width or column as text, in terms of the named sizes."""
        return in_sizes(n, self.sizes)

    def _size_names(self) -> dict[int, str]:
        lengths = [x.inner[0] for x in self.program.given if len(x.inner) > 1]  # which often differ from call to call
        sizes = dict.fromkeys(n for n in [*(state.width for state in self.program.states), *lengths] if n > 1)
        return {n: f"H_{i}" if i > 1 else "H" for i, n in enumerate(sizes, 1)}

    def _find_operands(self) -> None:
        program = self.program
        leaves = (*program.inputs, *program.given, *program.held, *program.noise)
        read = [value for value in program.sequences if value not in program.hoisted]
        read += [view_of(value.inputs[0])[0] for value in program.hoisted]
        read += [*program.constants, *program.vectors]
        weights = [w for product in (*program.hoisted, *program.products) for w in product.inputs[1:]]
        matrices = [matrix_of(value).leaf for value in side_by_side(weights)]
        roles: dict[Value, dict[str, None]] = {}
        for value, role in [*((x, self.role_of(x)) for x in read), *((x, "matrix") for x in matrices)]:
            roles.setdefault(value, {})[role] = None
        self.outside = [value for value in made_of(roles) if value.kind == "operation"]
        self.operands = [value for value in (*leaves, *self.outside) if value in roles]
        assert len(self.operands) == len(roles), "a kernel reads what is no leaf"
        self.roles = [(value, role) for value in self.operands for role in roles[value]]

    def role_of(self, value: Value) -> str:
        """The role of an argument that is no matrix."""
        if value.kind == "state":
            return "first"
        if value.timed:  # what the user gives is read as it lies
            return "steps" if value in self.program.inputs else "rows"
        return "each" if value.per_row else "vector"

    def _gradient_memory(self) -> list[tuple[Value, int, Memory]]:
        """Name the arrays that the backward kernel writes: one for all that have the same gradient or parts of it.

        Sets `stashes` and `stash_places`: where gradients are kept, for all steps. What vectors want is summed over
        time on the way, a row for each sequence, so that the sum does not depend on threads: `sums`.

        Returns:
            (vector, first column, where what is summed over the rows lies).
        """
        gradient = self.program.gradient
        computed = lambda d: d.kind == "operation" and d.row not in (table.matmul, table.cat) and not is_view(d)
        added_up = {x: d for x, d in gradient.sequences.items() if x in self.program.constants and computed(d)}
        kept = [d for x, d in gradient.sequences.items() if x not in added_up] + [*gradient.products.values()]
        vectors = [each for each in gradient.vectors if each[2].kind != "zeros"]
        wholes = {piece: (joined, start) for joined in kept for piece, start in _pieces(joined)}
        self.sums: dict[Value, Memory] = {}
        self.sum_widths: dict[str, int] = {}
        for d in [*(d for _, _, d in vectors), *added_up.values()]:
            if computed(d):
                joined, start = wholes.get(d, (d, 0))
                self.sums[d] = Memory(f"{joined.name}_sum", "row", start, d.width)
                self.sum_widths[f"{joined.name}_sum"] = joined.width
        kept += [d for _, _, d in vectors if d not in self.sums]
        self.stashes: dict[Value, Memory] = {}
        self.stash_places: dict[Value, Memory] = {}  # the same, and those of parts
        names = Names()
        for value in sorted(kept, key=lambda value: value.row is not table.cat):  # wholes before their parts
            if value not in self.stash_places:
                name = f"{value.name}_all" if value.kind == "operation" else f"d_{len(self.stashes)}_all"
                self.stashes[value] = memory = whole(value, array=names.new(name))
                for part, start in [(value, 0), *_pieces(value)]:
                    self.stash_places.setdefault(part, memory._replace(first=start, width=part.width))
        return [(vector, first, self.sums.get(d) or self.stash_places[d]) for vector, first, d in vectors]

    def _block(self, direction: str) -> Block:
        """The loop of a direction, with the memory that serves twice."""
        program, backward = self.program, direction == "backward"
        places, stores = self._backward_memory() if backward else self._forward_memory(direction)
        values = list(program.backward if backward else program.loop)
        sums = self.sums if backward else {}
        schedule, notes = Schedule(values, places, stores, sums), []
        if direction == "forward":
            self.kept_in = kept_in_place(schedule, program)
            for value, memory in self.kept_in.items():
                stores[value] = [memory, *(m for m in stores[value] if m.array != f"{value.name}_saved")]
            notes = _notes(self.kept_in, "after its step")
            schedule = Schedule(values, places, stores, sums) if self.kept_in else schedule
        elif backward:
            kept = self.kept_in | spare_afterwards(schedule, program, self.kept_in)
            places |= self._overwrite(schedule, kept)
            read = {y for value in program.backward for y in sources_of(value)}
            shared = [x for x in kept if x in self.kept_in or places[x].array in self.overwritten]
            notes = _notes({value: places[value] for value in shared if value in read}, "before its step")
            schedule = Schedule(values, places, stores, sums) if kept else schedule
        return Block("backward" if backward else "forward", schedule, self.sizes, program.gradient, notes)

    def _given_memory(self, direction: str) -> tuple[dict[Value, Memory], list[Memory]]:
        """Where leaves are found, and where the new values of states are."""
        program, places = self.program, {x: whole(x, array=sequence_array(x)) for x in self.program.sequences}
        if direction == "inference":
            places |= {x: whole(x, "here + row") for x in program.hoisted}
        places |= {x: whole(x, "row") for x in program.constants} | {x: whole(x, "") for x in program.vectors}
        ends = []
        for k, state in enumerate(program.states):
            brief = direction == "inference" and k > 0  # nobody looks at its values but the next step
            old, new = ("t % 2 * B + row", "(t + 1) % 2 * B + row") if brief else ("old + row", "new + row")
            places[state] = whole(state, old)
            ends.append(whole(state, new))
        return places, ends

    def _forward_memory(self, direction: str) -> tuple[dict[Value, Memory], Stores]:
        stores: Stores = collections.defaultdict(list)
        places, ends = self._given_memory(direction)
        for output, end in zip(self.program.outputs, ends):
            stores[output].append(end)
        for value in self.program.residuals if direction == "forward" else ():
            stores[value].append(whole(value, array=f"{value.name}_saved"))
        return places, stores

    def _backward_memory(self) -> tuple[dict[Value, Memory], Stores]:
        program, gradient = self.program, self.program.gradient
        stores: Stores = collections.defaultdict(list)
        places, ends = self._given_memory("backward")
        for output, end in zip(program.outputs, ends):
            places.setdefault(output, end)
        again = set(program.backward)
        saved = [x for x in program.residuals if x not in again]
        places |= {x: whole(x, array=f"{x.name}_saved") for x in saved} | {dy: whole(dy) for dy in gradient.dys}
        for carry, d in zip(gradient.carries, gradient.states):
            places[carry] = whole(carry, "(t + 1) % keep * B + row")
            zero = leaf(f"{carry.name}_zero", "zeros", carry.shape, carry.dtype)
            stores[d or zero].append(whole(carry, "t % keep * B + row"))
        for d, memory in self.stashes.items():
            stores[d].append(memory)
        return places, stores

    def _overwrite(self, schedule: Schedule, kept: dict[Value, Memory]) -> dict[Value, Memory]:
        """Let gradients take the place of values that nobody reads after them; where the values are then."""
        left, everybody = kept, readers(schedule)
        widths = {f"{x.name}_saved": x.width for x in self.program.residuals}
        widths |= {x.name: x.width for x in self.program.hoisted}
        for d, (name, *_) in self.stashes.items():
            as_wide = {value: memory for value, memory in left.items() if widths[memory.array] == d.width}
            array = gradients_in_place(schedule, as_wide, dict(_pieces(d)) or {d: 0}, everybody)
            if array is not None:
                self.overwritten[name] = array
                left = {value: memory for value, memory in left.items() if memory.array != array}
        name_of = {array: name for name, array in self.overwritten.items()}
        return {value: m._replace(array=name_of.get(m.array, m.array)) for value, m in kept.items()}


def _joined(parts: list[tuple[Value, int, Memory]]) -> list[tuple[Value, int, Memory]]:
    """Neighbouring columns of a vector that come from neighbouring columns of an array, taken together."""
    joined: list[tuple[Value, int, Memory]] = []
    for vector, first, place in sorted(parts, key=lambda each: (each[0].name, each[1])):
        if joined:
            known, start, before = joined[-1]
            end = known, start + before.width, before.array, before.first + before.width
            if end == (vector, first, place.array, place.first):
                joined.pop()
                first, place = start, before._replace(width=before.width + place.width)
        joined.append((vector, first, place))
    return joined


def _pieces(whole: Value) -> list[tuple[Value, int]]:
    """The values that a concatenation puts side by side, with their first columns; none for any other value."""
    if whole.row is not table.cat or whole.attributes["dim"] != 1:
        return []
    return list(zip(whole.inputs, itertools.accumulate((x.width for x in whole.inputs), initial=0)))


def _notes(kept: dict[Value, Memory], when: str) -> list[str]:
    """What an array holds besides what its name says."""
    arrays: dict[str, list[str]] = {}
    for value, memory in kept.items():
        arrays.setdefault(memory.array, []).append(value.name)
    return [f"{array} holds, {when}: {', '.join(names)}." for array, names in arrays.items()]
