"""Where values are made: each once, under a name that tells what it is.

A `Builder` holds the values of a step, or of its gradient, while they are found. What it is asked for twice it makes
once: operations are the same if their operands, numbers and attributes are, bit by bit.
"""

from collections.abc import Iterable
from typing import Any

from ..autograd import table
from ..autograd.primitive import Primitive, Shape
from ..autograd.tape import user_line
from .keys import key_of
from .names import Names
from .program import MOST_OPERATIONS, Value, columns_at, in_place, operation
from .refusal import Unfusable
from .soundness import dtype_of, takes_all_rows

LONGEST_NAME = 80  # of a value that the user gave none: it tells what it is made of
MOST_VALUES = 2_000, 20_000  # of a step, and of its gradient


class Builder:
    """Values in the order in which they are made.

    Args:
        names: where they get theirs.
        most: how many there may be.
        known: values that need not be made again.
    """

    def __init__(self, names: Names, most: int, known: Iterable[Value] = ()) -> None:
        self.names, self.most = names, most
        self.values: list[Value] = []
        self.where = ""  # the line of the user's code that is running
        self._known: dict[Any, Value] = {_key(x.row, x.inputs, x.attributes): x for x in known if x.row is not None}

    def add(self, row: Primitive, inputs: Iterable[Any], attributes: dict[str, Any], shape: Shape) -> Value:
        """The result of an operation: a new value, or the one that is there already and says the same."""
        inputs = tuple(inputs)
        if is_nothing(row, inputs, attributes, shape):
            same: Value = inputs[0]
            return same
        key = _key(row, inputs, attributes)
        if key not in self._known or not row.linear:  # which clips what comes back to each call by itself
            if len(self.values) >= self.most:
                raise too_many(user_line())
            name, dtype = name_of(self.names, row, inputs, attributes), dtype_of(row, [*inputs], attributes)
            self._known[key] = value = operation(name, row, inputs, attributes, shape, dtype, self.where)
            self.values.append(value)
        return self._known[key]


def _key(row: Primitive, inputs: Iterable[Any], attributes: dict[str, Any]) -> Any:
    return (row, *(x if isinstance(x, Value) else key_of(x) for x in inputs), key_of(attributes))


def is_nothing(row: Primitive, inputs: tuple[Any, ...], attributes: dict[str, Any], shape: Shape) -> bool:
    """Whether an operation gives its operand."""
    x = inputs[0]
    if not isinstance(x, Value):
        return False
    if row is table.reshape or (row is table.slice and x.per_row):
        return x.per_row and shape == x.shape
    if row is table.permute:
        return bool(attributes["dims"] == tuple(range(len(x.shape))))
    return row is table.cast and attributes["dtype"] == x.dtype


def plain_slice(shape: Shape, at: Any) -> tuple[Primitive, dict[str, Any]]:
    """An index of ints and slices into rows as an operation: with an entry for each dimension, or as another shape."""
    whole = slice(None)
    if len([i for i in at if i is not None and i is not ...]) > len(shape):
        return table.slice, {"at": at}
    if all(i is None or i is ... or i == whole for i in at):
        return table.reshape, {"shape": table.slice.shape(shape, at=at)}
    if None in at:
        return table.slice, {"at": at}
    front = at.index(...) if ... in at else len(at)
    behind = at[front + 1 :]
    at = (*at[:front], *[whole] * (len(shape) - front - len(behind)), *behind)
    return table.slice, {"at": (whole, *at[1:]) if takes_all_rows(at, shape) else at}


def too_many(where: str) -> Unfusable:
    """Why a step of very many operations is refused."""
    return Unfusable(
        f"step has more than {MOST_OPERATIONS:,} operations, which would take minutes to compile ({where}): write "
        "fewer and wider ones, such as one product for all gates, or spread them over several steps of the sequence"
    )


def name_of(names: Names, row: Primitive, inputs: tuple[Any, ...], attributes: dict[str, Any]) -> str:
    """A new name for the result of an operation, which tells what it is made of unless that would be long."""
    name = _words(row, inputs, attributes)
    return names.new(name if len(name) <= LONGEST_NAME else "v")


def _words(row: Primitive, inputs: tuple[Any, ...], attributes: dict[str, Any]) -> str:
    names = [x.name for x in inputs if isinstance(x, Value)]
    if row is table.permute:
        return f"{names[0]}_T"
    if row is table.matmul:
        return "_".join(names)
    if row is table.mul and len(names) == 2 and len("".join(names)) <= 8:
        return "v" if any(x.nameless for x in inputs) else "_".join(names)
    if row is table.slice and in_place(inputs[0], attributes["at"]):
        first, last = columns_at(inputs[0].shape, attributes["at"])
        return f"{names[0]}_{first // max(last - first, 1)}"
    return f"{row.name}_{names[0]}" if len(inputs) == 1 else "v"


def together(values: Iterable[Value]) -> str:
    """A name for what holds values side by side."""
    names = [value.name for value in values]
    name = "_and_".join(names)
    return name if len(name) <= LONGEST_NAME else f"{names[0]}_and_{len(names) - 1}_others"
