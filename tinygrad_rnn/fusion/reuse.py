"""Memory that serves twice: large arrays cost as much to go through as the arithmetic on them.

    forward      residuals take the place of the hoisted product that they were computed from,
    backward     and its gradient then takes its own place: x @ W, the gates, the gradients of the gates in one array.

A value may take a place once nobody will read what was there: in an earlier loop over columns, or in the same loop,
which reads an element before it writes it.
"""

from typing import Any, NamedTuple

from ..autograd import table
from ..autograd.primitive import ElementwisePrimitive
from .program import Program, Value, is_view, reached, readers_of, sources_of, view_of
from .schedule import Memory, Schedule, loop_shape, shape_of

Order = tuple[Any, ...]


class Reader(NamedTuple):
    """A value that reads columns [first, last) of an array, and when (see `_order`); whether it does so in order."""

    value: Value
    first: int
    last: int
    order: Order
    in_order: bool = True

    def is_done(self, first: int, last: int, order: Order) -> bool:
        """Whether it has read what it wants of columns [first, last) when these are written.

        A loop may read the very element that it writes, but not one that an earlier or later round writes.
        """
        same = self.in_order and (self.first, self.last) == (first, last)
        return self.order < order or (self.order == order and same)


def kept_in_place(schedule: Schedule, program: Program) -> dict[Value, Memory]:
    """Places in sequences for residuals of the forward kernel."""
    needed_again = {y for value in program.backward for y in sources_of(value)}
    found: dict[Value, Memory] = {}
    free = schedule.inside.difference(program.multiplied)
    saved = [x for x in program.residuals if isinstance(x.row, ElementwisePrimitive) and x in free]
    everybody, users = readers(schedule), readers_of(schedule.values)
    for sequence in program.hoisted:  # which only the loop reads
        if sequence in needed_again:
            continue
        theirs = everybody.get(sequence, [])
        for first, last in sorted({(r.first, r.last) for r in theirs}):
            overlapping = [r for r in theirs if r.first < last and first < r.last]
            place = schedule.places[sequence]._replace(first=first, width=last - first)
            if any(place.overlaps(memory) for memory in found.values()):
                continue
            fitting = [x for x in saved if x.width == last - first and x not in found]
            fitting = [x for x in fitting if all(r.is_done(first, last, _order(schedule, x)) for r in overlapping)]
            # By choice a value that was computed from what was there: the gate i in place of its pre-activation.
            made_of_it = reached([r.value for r in overlapping], lambda x: users.get(x, ()))
            for value in sorted(fitting, key=lambda x: x not in made_of_it)[:1]:
                found[value] = place
    return found


def spare_afterwards(schedule: Schedule, program: Program, kept: dict[Value, Memory]) -> dict[Value, Memory]:
    """What nobody reads after the backward kernel; besides what is `kept` in place."""
    candidates = [*program.hoisted, *program.residuals]
    needed = {*program.multiplied, *kept}
    return {value: schedule.places[value] for value in candidates if value in schedule.places and value not in needed}


def gradients_in_place(
    schedule: Schedule, kept: dict[Value, Memory], stashed: dict[Value, int], everybody: dict[Value, list[Reader]]
) -> str | None:
    """The array in which the gradients `stashed` (value -> its first column) may be kept, if there is one.

    Args:
        kept: values that the backward kernel reads, and where: in arrays as wide as that of the gradients.
        everybody: the `readers` of the schedule.
    """
    for name in dict.fromkeys(memory.array for memory in kept.values()):
        values = {value: memory for value, memory in kept.items() if memory.array == name}
        if all(_may_take(schedule, value, first, values, everybody) for value, first in stashed.items()):
            return name
    return None


def _may_take(
    schedule: Schedule, d: Value, first: int, kept: dict[Value, Memory], everybody: dict[Value, list[Reader]]
) -> bool:
    """Whether a gradient may be written over the values in its columns."""
    if not isinstance(d.row, ElementwisePrimitive) or d not in schedule.inside:
        return False
    for value, memory in kept.items():
        if memory.overlaps(memory._replace(first=first, width=d.width)):
            same_columns = (memory.first, memory.width) == (first, d.width)
            for reader in everybody.get(value, ()):
                if not same_columns or not reader.is_done(0, value.width, _order(schedule, d)):
                    return False
    return True


def readers(schedule: Schedule) -> dict[Value, list[Reader]]:
    """Who reads the values that a schedule finds in memory, directly or through their parts."""
    found: dict[Value, list[Reader]] = {}

    def add(value: Value, y: Value, order: Order) -> None:
        found.setdefault(y, []).append(Reader(value, 0, y.width, order))
        if is_view(y):
            source, view = view_of(y)
            found.setdefault(source, []).append(Reader(value, *view.span, order, view.is_dense))

    for value in schedule.values:
        for y in () if is_view(value) else value.operands:
            add(value, y, _order(schedule, value))
    for value in schedule.copied():
        add(value, value, (*schedule.copy_level(value), shape_of(value), 1))  # at the end of its loop
    return found


def _order(schedule: Schedule, value: Value) -> Order:
    """When the loop runs that computes a value: phase, loop in the phase, and loops of one kind by shape.

    The products of a phase come before its loops.
    """
    return (*schedule.levels[value], () if value.row is table.matmul else loop_shape(value), 0)
