"""What is computed once a call, before the loop over time: forwards and backwards, on arrays.

A small tape whose shape is known in advance: the lines run in order, through the same rows of the table and the same
rules as on the tape of `autograd`, and back in reverse order. It spares a training step a node for each of them.
"""

from typing import Any

import numpy as np

from ..autograd.tape import unbroadcast
from .rows import Rows
from .trace import Line, sized

Values = dict[Line, np.ndarray]
Record = list[tuple["_Step", Any, tuple[Any, ...], list[tuple[int, ...]]]]  # its adjoint, what that saved, shapes


class _Step:
    """A line, and what need not be found out at every call.

    Attributes:
        sources: the positions of operands that are lines.
        repeated: of those that have one row for each sequence, where the line has one for each step as well.
        of_batch: whether attributes depend on the number of rows.
    """

    def __init__(self, line: Line, timed: set[Line]) -> None:
        assert line.row is not None
        self.line, self.row, self.inputs, self.timed = line, line.row, line.inputs, line in timed
        self.sources = [i for i, x in enumerate(line.inputs) if isinstance(x, Line)]
        per_sequence = [i for i in self.sources if line.inputs[i].per_row and line.inputs[i] not in timed]
        self.repeated = per_sequence if self.timed else []
        self.of_batch = sized(line.attributes, 0) is not line.attributes


class Prelude:
    """Lines that do not depend on the states, in the order of computing.

    Args:
        lines: all of them.
        timed: those that have a row for each row of each step.
    """

    def __init__(self, lines: list[Line], timed: set[Line]) -> None:
        self.steps = [_Step(line, timed) for line in lines]
        self.once, self.timed = ([step for step in self.steps if step.timed is each] for each in (False, True))

    def adjoints(self, wanted: frozenset[Line]) -> tuple[frozenset[Line], list[Any]]:
        """The lines that depend on the leaves `wanted`, these included; and for each step its adjoint, or None."""
        needing, found = set(wanted), []
        for step in self.steps:
            adjoint = step.row.adjoint(tuple(i for i in step.sources if step.inputs[i] in needing))
            found.append(adjoint if adjoint.wanted else None)
            if adjoint.wanted:
                needing.add(step.line)
        return frozenset(needing), found

    def backward(self, d: Values, record: Record, rows: Rows, passed: Values | None = None) -> None:
        """Carry the gradients `d` of some lines back to the leaves, and add them to it.

        Args:
            passed: gets the gradients of the lines on the way.
        """
        for step, adjoint, saved, shapes in reversed(record):
            dy = d.pop(step.line, None)
            if dy is None:
                continue
            if passed is not None:
                passed[step.line] = dy
            for i, dx, shape in zip(adjoint.wanted, adjoint.gradients(dy, saved), shapes):
                x = step.inputs[i]
                if dx.shape != shape:
                    dx = unbroadcast(dx, shape)
                if i in step.repeated:
                    dx = rows.summed(dx)
                d[x] = d[x] + dx if x in d else dx
