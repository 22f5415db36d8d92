"""Where values are made: each once, under a name that tells what it is.

A `Builder` holds the values of a step, or of its gradient, while they are found. What it is asked for twice it makes
once: operations are the same if their operands, numbers and attributes are, bit by bit.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from ..autograd import table
from ..autograd.primitive import Primitive, Shape
from ..autograd.tape import user_line
from . import composed
from .batch import Size
from .keys import key_of
from .names import Names
from .program import MOST_OPERATIONS, Value, columns_of, is_view, leaf, operation, view_of, views_on
from .refusal import Unfusable
from .soundness import dtype_of
from .views import view_through

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

    def apply(self, row: Primitive, *inputs: Any, **attributes: Any) -> Value:
        """The result of an operation, by the shape rule of its row."""
        shapes = [x.shape if isinstance(x, Value) else () for x in inputs]
        return self.add(row, inputs, attributes, row.shape(*shapes, **attributes))

    def add(self, row: Primitive, inputs: Iterable[Any], attributes: dict[str, Any], shape: Shape) -> Value:
        """The result of an operation: a new value, or the one that is there already and says the same."""
        inputs = tuple(inputs)
        rows = any(isinstance(x, Value) and x.per_row for x in inputs)
        if is_nothing(row, inputs, attributes, shape):
            same: Value = inputs[0]
            return same
        if rows and row in composed.RULES:
            made = composed.RULES[row](self, *inputs, **attributes)
            if made is not None:
                return made
        if rows and row in (table.reshape, table.matmul) and self._moves(row, inputs[0], attributes):
            inputs = (self.apply(table.mul, inputs[0], 1.0), *inputs[1:])
        key = _key(row, inputs, attributes)
        if key not in self._known or not row.linear:  # which clips what comes back to each call by itself
            if len(self.values) >= self.most:
                raise too_many(user_line())
            name, dtype = name_of(self.names, row, inputs, attributes), dtype_of(row, [*inputs], attributes)
            rate = "sequence" if row is table.expand and not rows and self.is_batch(shape[0]) else ""
            value = operation(name, row, inputs, attributes, shape, dtype, self.where, rate=rate)
            self._known[key] = value
            self.values.append(value)
        return self._known[key]

    def _moves(self, row: Primitive, x: Value, attributes: dict[str, Any]) -> bool:
        """Whether elements must be put in order first: to be read in another shape, or multiplied by weights."""
        if not x.per_row or not is_view(x):
            return False
        if row is table.matmul:
            return not view_of(x)[1].is_dense
        base, steps = views_on(x)
        return view_through(base.inner, [*steps, (row, attributes)]) is None

    def is_batch(self, n: int) -> bool:
        """Whether a size is that of the batch."""
        return type(n) is Size

    def zeros(self, shape: Shape, dtype: np.dtype) -> Value:
        """Zeros for each sequence."""
        return leaf("zero", "zeros", shape, dtype)


def _key(row: Primitive, inputs: Iterable[Any], attributes: dict[str, Any]) -> Any:
    return (row, *(x if isinstance(x, Value) else key_of(x) for x in inputs), key_of(attributes))


def is_nothing(row: Primitive, inputs: tuple[Any, ...], attributes: dict[str, Any], shape: Shape) -> bool:
    """Whether an operation gives its operand."""
    x = inputs[0]
    if not isinstance(x, Value):
        return False
    if row in (table.reshape, table.expand) or (row is table.slice and x.per_row):
        forwards = lambda i: i is ... or (isinstance(i, slice) and (i.step or 1) > 0)
        whole = row is not table.slice or all(map(forwards, attributes["at"]))
        return x.per_row and whole and shape == x.shape
    if row is table.cat:
        return len(inputs) == 1
    if row is table.permute:
        return bool(attributes["dims"] == tuple(range(len(x.shape))))
    return row is table.cast and attributes["dtype"] == x.dtype


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
    if row is table.slice and (taken := columns_of(inputs[0], attributes["at"])) is not None:
        return f"{names[0]}_{taken[0] // max(taken[1] - taken[0], 1)}"
    return f"{row.name}_{names[0]}" if len(inputs) == 1 else "v"


def together(values: Iterable[Value]) -> str:
    """A name for what holds values side by side."""
    names = [value.name for value in values]
    name = "_and_".join(names)
    return name if len(name) <= LONGEST_NAME else f"{names[0]}_and_{len(names) - 1}_others"
