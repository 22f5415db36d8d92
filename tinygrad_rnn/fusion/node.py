"""A run of a compiled cell as it stands on the tape: several outputs, and the gradients that are wanted."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from ..autograd.tape import Node
from .kernel import Argument
from .program import Program, Value, reached
from .rows import Rows
from .scan import MOST_LAYOUTS, BackwardLayout, Scan


class Cotangents:
    """The gradients of a scan's several outputs, on their way through a tape whose values have one."""

    shape: tuple[()] = ()
    base = None

    def __init__(self, parts: dict[int, Any]) -> None:
        self.parts = parts

    def __add__(self, other: "Cotangents") -> "Cotangents":
        both = dict(self.parts)
        for k, gradient in other.parts.items():
            both[k] = both[k] + gradient if k in both else gradient
        return Cotangents(both)

    __iadd__ = __add__


class Output:
    """The tape's operation between a scan and its k-th output."""

    name = "scan"
    fresh = False
    scatter = None

    def __init__(self, k: int) -> None:
        self.k = k

    def gradients(self, dy: Any, saved: tuple[Any, ...]) -> list[Any]:
        return [Cotangents({self.k: dy})]

    def rewrap(self, node: Node) -> tuple[Any, ...]:
        return ()


class Way(NamedTuple):  # a tuple, so that it is found by one
    """How a compiled cell is called: which leaves need a gradient, and whether somebody looks at what is inside."""

    needs: tuple[bool, ...]
    recorded: bool

    def __str__(self) -> str:
        if self.recorded:
            return "training, recorded"
        return "training" if True in self.needs else "inference"


INFERENCE = Way((), False)


class Mask:
    """The gradient mask of a call: what follows from which operands of the node need a gradient.

    Args:
        operands: of the node.
        needs: which of them do.

    Attributes:
        places: their positions.
        wanted: for each gradient that the kernel has, whether it is computed.
        gradients: (which of the kernel's, to which of `places` it belongs, the value and role of the argument if
            its gradient is not laid out as it is).
        as_found: the first of these in the order of `places`, if they are what is asked for: one for each, laid out so.
        outputs: of the states that are watched, at every step, and of all at the end, those that depend on one of them:
            final values are the initial ones of a sequence without steps.
    """

    def __init__(
        self, program: Program, watched: int, scan: Scan, operands: list[Value], needs: tuple[bool, ...]
    ) -> None:
        self.places = [i for i, need in enumerate(needs) if need]
        place = {operands[i]: k for k, i in enumerate(self.places)}
        n = len(program.states)
        depending = [not reached_from(program, [k], n).isdisjoint(place) for k in range(n)]
        at_last = [d or state in place for d, state in zip(depending, program.states)]
        every = depending[:watched]
        self.outputs = [Output(k) if r else None for k, r in enumerate(every + at_last)]
        self.wanted = tuple(argument.value in place for argument in scan.backward.d)
        self.gradients = [
            (i, place[argument.value], argument.value, _role(argument))
            for i, argument in enumerate(scan.backward.d) if argument.value in place
        ]  # fmt: skip
        order = sorted(self.gradients, key=lambda each: each[1])
        one_for_each = [(k, role) for _, k, _, role in order] == [(k, None) for k in range(len(self.places))]
        self.as_found = [i for i, *_ in order] if one_for_each else None
        self._layouts: dict[tuple[Rows, int], BackwardLayout] = {}
        self.program, self.watched, self._place = program, watched, place
        self._unreached: dict[Any, list[int]] = {}

    def unreached(self, arrived: tuple[int, ...], rows: Rows) -> list[int]:
        """Which of `places` no gradient of these outputs reaches: they get none, rather than zeros."""
        key = arrived, rows.padded, rows.ragged
        found = self._unreached.get(key)
        if found is None:
            last = {k - self.watched for k in arrived if k >= self.watched}
            states = last.union(k for k in arrived if k < self.watched)
            kept = {self.program.states[k] for k in last} if rows.ragged else None
            others = set(self.program.values) - reached_from(self.program, states, rows.padded, kept)
            found = [k for value, k in self._place.items() if value in others]
            if len(self._unreached) >= MOST_LAYOUTS:
                self._unreached.clear()
            self._unreached[key] = found
        return found

    def layout(self, scan: Scan, rows: Rows, keep: int) -> BackwardLayout:
        """How the backward pass is done; remembered if it may come again."""
        found = self._layouts.get((rows, keep))
        if found is None:
            found = scan.backward_layout(self.wanted, rows, keep)
            if not rows.ragged:
                if len(self._layouts) >= MOST_LAYOUTS:
                    self._layouts.clear()
                self._layouts[rows, keep] = found
        return found


def _role(argument: Argument) -> str | None:
    """The role of an argument whose gradient is not laid out as it is itself."""
    as_it_is = argument.role == "matrix" or (argument.role == "vector" and len(argument.value.shape) == 1)
    return None if as_it_is else argument.role


def reached_from(
    program: Program, states: Iterable[int], steps: int, kept: Iterable[Value] | None = None
) -> set[Value]:
    """The values that gradients of the new values of these states reach, in so many steps.

    Args:
        kept: where sequences may end, and keep their states from then on: the states whose final values are meant.
    """
    found, values = set(kept or ()), {program.outputs[k] for k in states}
    for _ in range(steps):
        inside = reached(values, lambda value: differentiated(value) if value.row is not None else ())
        found |= inside
        on = inside if kept is None else found
        before, values = values, {new for state, new in zip(program.states, program.outputs) if state in on}
        if values == before:
            break
    return found


def differentiated(value: Value) -> list[Value]:
    """The operands that a gradient of the value reaches."""
    assert value.row is not None
    places = tuple(i for i, x in enumerate(value.inputs) if isinstance(x, Value))
    return [value.inputs[i] for i in value.row.adjoint(places).wanted]


class Run:
    """One run of a compiled cell: what its gradient needs.

    Attributes:
        rows: the layout of the batch.
        arrays: the arguments of the forward kernel.
        every: the values of the states that are watched, [1 + T, B, width] with the initial ones first.
        residuals: what the forward kernel left for the backward one.
        mask: for which gradients.
        recorded: whether somebody will look at what is inside: nothing is overwritten then.
        leaves, noise: if so, copies of the arrays of leaves as they were given, and what was drawn.
        needs: if so, which of these leaves need a gradient.
        arrived: if so, the gradients of states that the backward kernel found, and carried from step to step.
    """

    leaves: list[np.ndarray]
    needs: list[bool]
    noise: list[np.ndarray]
    arrived: list[np.ndarray] | None = None

    def __init__(
        self, rows: Rows, arrays: list[Any], every: list[Any], residuals: Any, mask: Mask, recorded: bool
    ) -> None:
        self.rows, self.arrays, self.every, self.residuals = rows, arrays, every, residuals
        self.mask, self.recorded = mask, recorded
