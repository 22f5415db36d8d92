"""Memory that serves twice: large arrays cost as much to go through as the arithmetic on them.

    forward      what is kept for the backward pass takes the place of the hoisted product it was computed from,
    backward     and its gradient then takes its own place: x @ W, the gates, the gradients of the gates in one array.

A value may take a place once nobody will read what was there: in an earlier loop over columns, or in the same loop,
which reads an element before it writes it.
"""

from typing import NamedTuple

from ..autograd import table
from ..autograd.primitive import ElementwisePrimitive
from .emit import Block, lines_in, reached, readers_of
from .plan import Memory, Plan, _base, _read
from .trace import Line, _columns, is_view


class Reader(NamedTuple):
    """A line that reads columns [first, last) of an array, and when; see `_order`."""

    line: Line
    first: int
    last: int
    order: tuple[int, ...]

    def is_done(self, first: int, last: int, order: tuple[int, ...]) -> bool:
        """Whether it has read what it wants of columns [first, last) when these are written.

        A loop may read the very element that it writes, but not one that an earlier or later round writes.
        """
        return self.order < order or (self.order == order and (self.first, self.last) == (first, last))


def kept_in_place(block: Block, plan: Plan) -> dict[Line, Memory]:
    """Places in sequences for what the forward kernel keeps."""
    needed_again = {y for line in plan.backward for y in _read(line)}
    needed_after = _needed_after(plan)
    found: dict[Line, Memory] = {}
    free = block.inside - needed_after
    saved = [x for x in plan.saved if isinstance(x.row, ElementwisePrimitive) and x in free]
    everybody, users = readers(block), readers_of(block.lines)
    for sequence in _sequences_of_our_own(plan):
        if sequence in needed_again or sequence in block.stores or sequence in plan.outputs:
            continue
        theirs = everybody.get(sequence, [])
        for first, last in sorted({(r.first, r.last) for r in theirs}):
            overlapping = [r for r in theirs if r.first < last and first < r.last]
            place = block.places[sequence]._replace(first=first, width=last - first)
            if any(place.overlaps(memory) for memory in found.values()):
                continue
            fitting = [x for x in saved if x.width == last - first and x not in found]
            fitting = [x for x in fitting if all(r.is_done(first, last, _order(block, x)) for r in overlapping)]
            # By choice a value that was computed from what was there: the gate i in place of its pre-activation.
            made_of_it = reached([r.line for r in overlapping], lambda x: users.get(x, ()))
            for line in sorted(fitting, key=lambda x: x not in made_of_it)[:1]:
                found[line] = place
    return found


def spare_afterwards(block: Block, plan: Plan, kept: dict[Line, Memory]) -> dict[Line, Memory]:
    """What nobody reads after the backward kernel; besides what is `kept` in place."""
    candidates = [*_sequences_of_our_own(plan), *plan.saved]
    taken, needed = {memory.array for memory in kept.values()}, _needed_after(plan)
    found = {line: block.places[line] for line in candidates if line in block.places and line not in kept}
    return {line: m for line, m in found.items() if line not in needed and m.array not in taken}


def _sequences_of_our_own(plan: Plan) -> list[Line]:
    """Sequences that were computed before the loop and that only the loop reads."""
    return list(plan.hoisted)


def _needed_after(plan: Plan) -> set[Line]:
    """What is read after the loop, for the gradients of weights."""
    return {_base(product.left) for product in plan.products}


def gradients_in_place(
    block: Block, kept: dict[Line, Memory], stashed: dict[Line, int], everybody: dict[Line, list[Reader]]
) -> str | None:
    """The array in which the gradients `stashed` (line -> its first column) may be kept, if there is one.

    Args:
        kept: values that the backward kernel reads, and where: in arrays as wide as that of the gradients.
        everybody: the `readers` of the block.
    """
    for name in dict.fromkeys(memory.array for memory in kept.values()):
        values = {line: memory for line, memory in kept.items() if memory.array == name}
        if all(_may_take(block, line, first, values, everybody) for line, first in stashed.items()):
            return name
    return None


def _may_take(
    block: Block, line: Line, first: int, values: dict[Line, Memory], everybody: dict[Line, list[Reader]]
) -> bool:
    """Whether a gradient may be written over the values in its columns."""
    if not isinstance(line.row, ElementwisePrimitive) or line not in block.inside:
        return False
    for value, memory in values.items():
        if memory.overlaps(memory._replace(first=first, width=line.width)):
            same_columns = (memory.first, memory.width) == (first, line.width)
            for reader in everybody.get(value, ()):
                if not same_columns or not reader.is_done(0, value.width, _order(block, line)):
                    return False
    return True


def readers(block: Block) -> dict[Line, list[Reader]]:
    """Who reads the lines that a block finds in memory, directly or through their parts."""
    found: dict[Line, list[Reader]] = {}

    def add(line: Line, y: Line, order: tuple[int, ...]) -> None:
        found.setdefault(y, []).append(Reader(line, 0, y.width, order))
        if y.row is table.part and is_view(y.inputs[0], y.attributes["at"]):
            source = y.inputs[0]
            found.setdefault(source, []).append(Reader(line, *_columns(source, y.attributes["at"]), order))

    for line in block.lines:
        for y in () if line.row is table.part else lines_in(line):
            add(line, y, _order(block, line))
    for line in block.copied():
        add(line, line, (*block.copy_level(line), line.width, 1))  # at the end of its loop
    return found


def _order(block: Block, line: Line) -> tuple[int, ...]:
    """When the loop runs that computes a line: phase, loop in the phase, and loops of one kind by width.

    The products of a phase come before its loops.
    """
    return (*block.levels[line], 0 if line.row is table.matmul else block._loop_width(line), 0)
