"""Views: elements of a row in another order, number or shape, read from where they lie.

    q[B, 1, N] = reshape(k[B, N]),  C[:, 0:2, ::2],  C.mT,  q.expand(B, D, N)

A row of any inner shape lies in memory as its elements one after the other. What an operation that only moves elements
makes of it needs no memory of its own: element j of the view is at `first + sum(j * strides)`, so loops read it there.
A reshape of what does not lie in order is none; such a value is copied first, see `Builder`.
"""

from typing import Any, NamedTuple

import numpy as np

from ..autograd import table
from ..autograd.primitive import Primitive, Shape


class View(NamedTuple):
    """The elements of a row that a view has: where the first one is, and how far the next one is in each dimension."""

    first: int
    shape: Shape
    strides: tuple[int, ...]

    @property
    def is_dense(self) -> bool:
        """Whether the elements lie one after the other, in their order."""
        return all(n == 1 or s == dense for n, s, dense in zip(self.shape, self.strides, strides_of(self.shape)))

    @property
    def span(self) -> tuple[int, int]:
        """The lowest column that it has, and the one after the highest."""
        ends = [(n - 1) * s for n, s in zip(self.shape, self.strides) if n]
        return self.first + sum(min(e, 0) for e in ends), self.first + sum(max(e, 0) for e in ends) + 1


def strides_of(shape: Shape) -> tuple[int, ...]:
    """How far elements are apart in each dimension if they lie one after the other."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))


Step = tuple[Primitive, dict[str, Any]]  # of rows of a batch: attributes speak of the batch's dimension first


def view_through(inner: Shape, steps: list[Step]) -> View | None:
    """What is seen of a row through views on views, the first one first; None if elements would have to move.

    NumPy knows how it does that with arrays.
    """
    whole = seen = np.empty(inner, np.int8)
    for row, attributes in steps:
        if row is table.slice:
            seen = seen[attributes["at"][1:]]
        elif row is table.permute:
            seen = seen.transpose([dim - 1 for dim in attributes["dims"][1:]])
        elif row is table.expand:
            seen = np.broadcast_to(seen, attributes["shape"][1:])
        else:
            moved = seen.reshape(attributes["shape"][1:])
            if moved.size and not np.may_share_memory(moved, whole):
                return None
            seen = moved
    first = seen.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
    return View(first if seen.size else 0, seen.shape, seen.strides)
