"""Loops over the elements of a row: as few as the strides of what they read and write allow, the best one innermost.

    for j1 in range(D):                     a value of shape [D, N], made of [D, 1] and [1, N]
        for j in range(N):
            y[j1 * N + j] = a[j1] * b[j]

Dimensions become one where every array goes on through both in even steps, so whatever lies in order is one loop.
Whose elements most arrays have side by side is the innermost dimension: LLVM makes vectors of it.
"""

import re
from collections.abc import Callable

from ..autograd.primitive import Shape
from .equations import indented
from .program import Value
from .views import strides_of

Strides = tuple[int, ...]


def aligned(inner: Shape, strides: Strides, like: Shape) -> Strides:
    """The strides of a value in a loop over the elements of another one that it is broadcast to: no step where it has
    one for all, and none for the dimensions of one element, which loops do not have."""
    steps = [0] * (len(like) - len(inner)) + [s if n != 1 else 0 for n, s in zip(inner, strides)]
    return tuple(s for s, n in zip(steps[len(steps) - len(like) :], like) if n != 1) or (0,)


def aligned_without(total: Value, of: Value) -> Strides:
    """The strides of a reduction in the loop over the elements that it is of."""
    gone = {dim - 1 for dim in total.attributes["dim"]}
    kept = [1 if i in gone else n for i, n in enumerate(of.inner)]
    strides = iter(strides_of(tuple(n for i, n in enumerate(of.inner) if i not in gone)))
    every = [0 if i in gone else next(strides) for i in range(len(of.inner))]
    return aligned(tuple(kept), tuple(every), of.inner)


class Nest:
    """The loops over a shape, which are known once all is that they read and write.

    Args:
        shape: without dimensions of one element; (1,) for no loop.
        size: a width as text.
    """

    def __init__(self, shape: Shape, size: Callable[[int], str]) -> None:
        self.shape, self.size = shape, size
        self._accesses: list[tuple[int, Strides]] = []  # where each begins

    def element(self, array: str, start: int, strides: Strides) -> str:
        """An element of an array, as text that `lines` completes."""
        self._accesses.append((start, strides))
        return f"{array}[_at_{len(self._accesses) - 1}]"

    def index(self, along: Strides) -> str:
        """The number of an element along one dimension, likewise."""
        self._accesses.append((0, along))
        return f"_at_{len(self._accesses) - 1}"

    def lines(self, inside: list[str]) -> list[str]:
        """The loops around statements."""
        dims = self._dims() if self.shape != (1,) else []
        names = [f"j{len(dims) - 1 - i or ''}" for i in range(len(dims))]

        def complete(match: re.Match[str]) -> str:
            start, strides = self._accesses[int(match[1])]
            terms = [self.size(start)] if start else []
            for name, (_, members) in zip(names, dims):
                step = strides[members[-1]]
                if step:
                    terms.append(name if step == 1 else f"{name} * {self.size(step) if step > 0 else step}")
            return " + ".join(terms) or "0"

        text = [re.sub(r"\b_at_(\d+)\b", complete, line) for line in inside]
        if not text:
            return []
        for name, (n, _) in reversed(list(zip(names, dims))):
            text = [f"for {name} in range({self.size(n)}):", *indented(text)]
        return text

    def _dims(self) -> list[tuple[int, list[int]]]:
        """The loops, the outermost first: how many rounds, and which dimensions they are, the last one in full."""
        ragged = lambda dim: sum(strides[dim] not in (0, 1) for _, strides in self._accesses)
        order = list(range(len(self.shape)))
        innermost = min(reversed(order), key=ragged)
        order.remove(innermost)
        merged: list[tuple[int, list[int]]] = []
        for dim in [*order, innermost]:
            n = self.shape[dim]
            if merged:
                whole, members = merged[-1]
                if all(strides[members[-1]] == n * strides[dim] for _, strides in self._accesses):
                    merged[-1] = whole * n, [*members, dim]
                    continue
            merged.append((n, [dim]))
        return merged
