"""Schedule: the values of one direction in phases, and a place in memory for those that leave their loop.

A phase is products, and then a function of one row of the batch: loops over its elements, one after the other where a
reduction ends or the shape changes. A value that only its own loop reads is a local variable there; any other has a
place in memory. A value is computed as late as it can be where that saves it one.
"""

import math
from typing import NamedTuple

from ..autograd import table
from ..autograd.primitive import ElementwisePrimitive, Shape
from .program import Value, base_of, is_view, readers_of, view_of
from .views import View, strides_of

Level = tuple[int, int]  # the phase, and the loop in it


class Memory(NamedTuple):
    """Columns [first, first + width) of the rows of an array.

    Attributes:
        array: its name.
        where: how a row is found, such as "now + row"; empty for a vector that all rows share.
        view: of these columns, the elements that it is about; None for all of them, in order.
    """

    array: str
    where: str
    first: int
    width: int
    view: View | None = None

    def overlaps(self, other: "Memory") -> bool:
        """Whether two places have columns in common."""
        if (self.array, self.where) != (other.array, other.where):
            return False
        return self.first < other.first + other.width and other.first < self.first + self.width

    def seen(self, view: View) -> "Memory":
        """What a view has of its columns."""
        low, high = view.span if math.prod(view.shape) else (view.first, view.first)
        inside = None if view.is_dense else view._replace(first=view.first - low)
        return self._replace(first=self.first + low, width=high - low, view=inside)

    def part(self, inner: Shape, dim: int, first: int, last: int) -> "Memory":
        """What of a place for a value of this inner shape is elements [first, last) of one dimension."""
        view = self.view or View(0, inner, strides_of(inner))
        shape = (*inner[:dim], last - first, *inner[dim + 1 :])
        return self._replace(view=None).seen(View(view.first + first * view.strides[dim], shape, view.strides))


def whole(value: Value, where: str = "now + row", array: str = "") -> Memory:
    """A place for all of a value, in the array of its name unless it is in another."""
    return Memory(array or value.name, where, 0, value.width)


Stores = dict[Value, list[Memory]]
Loops = dict[tuple[int, Shape], tuple[list[Value], Stores]]  # (when, shape) -> what is computed; what is copied where


class Phase(NamedTuple):
    """Products, and loops over the elements of a row."""

    products: list[Value]
    loops: Loops


class Schedule:
    """When and where the values of one direction are computed.

    Args:
        values: to compute, operands before results.
        places: where values that are not computed here are found.
        stores: where computed values go.
        sums: value -> where its values are added up over all steps.

    Attributes:
        buffers: the arrays that only this loop uses -> their widths.
        adds_to: products that add to what their memory holds.
        phases: what happens when.
    """

    def __init__(
        self, values: list[Value], places: dict[Value, Memory], stores: Stores, sums: dict[Value, Memory]
    ) -> None:
        self.places, self.sums = dict(places), sums
        self.stores: Stores = {value: list(memories) for value, memories in stores.items()}
        self.values = list(values)
        self.inside = set(self.values)
        self.buffers: dict[str, int] = {}
        self.adds_to: set[Value] = set()
        self._same: dict[Value, Value] = {}  # a sum -> the product that adds to the rest of it
        self._place_concatenations()
        self._place_sums()
        self._place_products()
        self.levels: dict[Value, Level] = {}
        for value in self.values:
            self.levels[value] = self._level(value)
        self._sink()
        self._place_what_leaves_its_loop()
        assert self.inside.issuperset(sums), "a value that no loop computes cannot be summed there"
        self.phases = self._phases()

    # ---- Where values live -------------------------------------------------------------------------------------------

    def memory(self, value: Value) -> Memory | None:
        """Where a value can be read, if it is in memory at all."""
        if value in self.places:
            return self.places[value]
        if is_view(value):
            base, view = view_of(value)
            whole = self.memory(base)
            return None if whole is None else whole.seen(view)
        return next((m for m in self.stores.get(value, ()) if m.view is None), None)

    def _buffer(self, value: Value) -> Memory:
        """New memory for a value: one row for each row of the batch."""
        memory = whole(value, "row", f"{value.name}_buffer")
        self.buffers[memory.array] = value.width
        return memory

    def _store(self, value: Value) -> None:
        """See to it that a value is in memory."""
        if self.memory(value) is None:
            base = base_of(value)
            self.stores.setdefault(base, []).append(self._buffer(base))

    def _place_concatenations(self) -> None:
        """A concatenation is memory that its pieces are written to."""
        for value in reversed(self.values):
            if value.row is table.cat:
                self._store(value)
                homes, dim, first = self.stores.pop(value), value.attributes["dim"], 0
                for piece in value.inputs:
                    last = first + piece.shape[dim]
                    places = [home.part(value.inner, dim - 1, first, last) for home in homes]
                    self.stores.setdefault(piece, []).extend(places)
                    first = last
                self.places[value] = next(home for home in homes if home.view is None)

    def _place_sums(self) -> None:
        """Reductions and running sums with more than one element are added up in memory."""
        for value in self.values:
            if value.row is table.cumsum or (reduces(value) and value.width != 1):
                self._store(value)
                self.stores[value].sort(key=lambda memory: memory.view is not None)

    def _place_products(self) -> None:
        """Give products and their left operands memory; where x + product is wanted there, let the product add to x."""
        readers = readers_of(self.values)
        for product in [value for value in self.values if value.row is table.matmul]:
            self._store(product.inputs[0])
            homes, found = self.stores.get(product), None
            if homes is None and len(readers.get(product, ())) == 1:
                found = self._sum_of(product, readers)
            if found is None:
                if homes and homes[0].view is not None:  # where its columns are not neighbours
                    homes.insert(0, self._buffer(product))
                self.places[product] = homes[0] if homes else self._buffer(product)
                continue
            total, other = found
            home, *copies = self.stores.pop(total)
            self.stores.setdefault(other, []).insert(0, home)
            self.places[product] = self.places[total] = home
            if copies:
                self.stores[product] = [home, *copies]
            self.adds_to.add(product)
            self._same[total] = product
            self.inside.discard(total)
        self.values = [value for value in self.values if value in self.inside]

    def _sum_of(self, product: Value, readers: dict[Value, list[Value]]) -> tuple[Value, Value] | None:
        """The sum that a product can add itself to, and the rest of it: the sum goes to memory, where the rest can be
        first."""
        (total,) = readers[product]
        if total.row is not table.add or total not in self.stores or total in self.sums:  # whose terms a loop needs
            return None
        (other,) = [y for y in total.inputs if y is not product]
        if not isinstance(other, Value) or not other.shape == total.shape == product.shape:
            return None
        if other.row in (table.matmul, table.cat):
            return None
        if other in self.inside and (readers[other] != [total] or other in self.stores):
            return None
        return total, other

    def _place_what_leaves_its_loop(self) -> None:
        for value in self.values:
            if is_view(value):
                if value in self.stores and read_as(value) is value:  # copied
                    self._store(base_of(value))
                continue
            for y in map(read_as, value.operands):
                base = base_of(y)
                if base in self.inside and not (y is base and self._is_at_hand(y, value)):
                    self._store(base)

    def _is_at_hand(self, y: Value, reader: Value) -> bool:
        """Whether a value that is computed here need not be in memory for this reader."""
        same_loop = self.levels[y] == self.levels[reader] and loop_shape(y) == loop_shape(reader)
        scalar = y.width == 1 and self.levels[y][0] == self.levels[reader][0]
        return same_loop or scalar or reader.row is table.cat

    # ---- When values are computed ------------------------------------------------------------------------------------

    def _level(self, value: Value) -> Level:
        """(phase, loop within the phase) in which a value is computed or, for a product, can first be read."""
        if value.row is table.matmul:
            waits_for = [self._level_of(value.inputs[0])]
            if value in self.adds_to:
                there = [y for y, memories in self.stores.items() if self.places[value] in memories]
                waits_for += [self._level_of(y) for y in there if y is not value]
            return max(phase for phase, _ in waits_for) + 1, 0
        return max((self._readable(value, y) for y in value.operands), default=(0, 0))

    def _level_of(self, value: Value) -> Level:
        value = self._same.get(value, value)
        if value in self.inside:
            return self.levels[value] if value in self.levels else self._level(value)
        return self._level_of(value.inputs[0]) if is_view(value) else (0, 0)

    def _readable(self, reader: Value, y: Value) -> Level:
        """The level at which `reader` can read `y`: that of y, or the next loop if y must be complete."""
        if reader.row is table.cat and is_view(y):
            return self.copy_level(y)
        y = read_as(y)
        phase, loop = self._level_of(y)
        base = base_of(y)
        base = self._same.get(base, base)
        if base not in self.inside or base.row is table.matmul:
            return phase, loop
        other_shape = y.width != 1 and loop_shape(reader) != shape_of(y)
        complete = reduces(base) or base.row in (table.cat, table.cumsum) or base is not y or other_shape
        return (phase, loop + 1) if complete and reader.row is not table.cat else (phase, loop)

    def copied(self) -> dict[Value, list[Memory]]:
        """The values that are copied to places in memory from another one, rather than computed there."""
        copies = {x: places for x, places in self.stores.items() if x not in self.inside or is_view(x)}
        products = {x: places[1:] for x, places in self.stores.items() if x.row is table.matmul and x in self.inside}
        return copies | {x: places for x, places in products.items() if places}

    def copy_level(self, value: Value) -> Level:
        """The level at which a value can be copied: that of a slice, when all of what it is taken from is there."""
        return self._readable(value, value)

    def _sink(self) -> None:
        """Move values down to the first loop that reads them, where that saves them a place in memory."""
        readers = readers_of(self.values)
        can_move: set[Value] = set()
        for value in self.values:
            placed = value in self.stores or value in self.places or value in self.sums
            # Columns that are copied are read from memory.
            copied = any(is_view(y) and y in self.stores for y in readers.get(value, ()))
            if isinstance(value.row, ElementwisePrimitive) and not placed and not copied:
                if all(y in can_move for y in value.operands if y in self.inside and self.memory(y) is None):
                    can_move.add(value)

        def latest(value: Value, reader: Value) -> Level:
            phase, loop = self.levels[reader]
            together = value.width == 1 or shape_of(value) == loop_shape(reader)
            return phase, loop if together else loop - 1

        for value in reversed(self.values):
            if value in readers and value in can_move:
                at = min(latest(value, reader) for reader in readers[value])
                self.levels[value] = max(self.levels[value], at)

    def _phases(self) -> list[Phase]:
        last = max([phase for phase, _ in self.levels.values()], default=0)
        phases = [Phase([], {}) for _ in range(last + 1)]
        for value in self.values:
            phase, loop = self.levels[value]
            if value.row is table.matmul:
                phases[phase].products.append(value)
            elif value.row is not table.cat and not is_view(value):
                phases[phase].loops.setdefault((loop, loop_shape(value)), ([], {}))[0].append(value)
        for value, places in self.copied().items():
            phase, loop = self.copy_level(value)
            phases[phase].loops.setdefault((loop, shape_of(value)), ([], {}))[1][value] = places
        return [Phase(products, dict(sorted(loops.items()))) for products, loops in phases]


def read_as(y: Value) -> Value:
    """What is read of a value: of a view of a single element that element, whatever the shape."""
    base = base_of(y)
    return base if base.width == 1 else y


def reduces(value: Value) -> bool:
    """Whether a value is a reduction of a row."""
    return value.row in (table.sum, table.amax, table.amin)


def loop_shape(value: Value) -> Shape:
    """Over which elements the loop runs that computes a value."""
    return shape_of(value.inputs[0] if reduces(value) else value)


def shape_of(value: Value) -> Shape:
    """The inner shape of a value without dimensions of one element, of which one remains at least."""
    return tuple(n for n in value.inner if n != 1) or (1,)
