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
Record = list[tuple[Line, Any, tuple[Any, ...], list[tuple[int, ...]]]]  # line, its adjoint, what that saved, shapes


class Prelude:
    """Lines that do not depend on the states, in the order of computing.

    Args:
        lines: all of them.
        timed: those that have a row for each row of each step.
    """

    def __init__(self, lines: list[Line], timed: set[Line]) -> None:
        self.lines, self.timed = lines, timed

    def forward(self, values: Values, rows: Rows, needing: set[Line]) -> Record:
        """Compute the lines from `values`, which has the leaves, and add them to it.

        Args:
            needing: the leaves that need a gradient; the lines that depend on them are added.
        """
        record: Record = []
        for line in self.lines:
            assert line.row is not None
            timed = line in self.timed
            operands = [values[x] if isinstance(x, Line) else x for x in line.inputs]
            if timed:
                operands = [rows.repeated(v) if self._once(x) else v for x, v in zip(line.inputs, operands)]
            attributes = sized(line.attributes, rows.total if timed else rows.B)
            values[line] = y = np.asarray(line.row.forward(*operands, **attributes))
            wanted = tuple([i for i, x in enumerate(line.inputs) if isinstance(x, Line) and x in needing])
            if wanted and (adjoint := line.row.adjoint(wanted)).rules:
                needing.add(line)
                saved = adjoint.save(y, *operands, **attributes)
                record.append((line, adjoint, saved, [operands[i].shape for i in adjoint.wanted]))
        return record

    def backward(self, d: Values, record: Record, rows: Rows, passed: Values | None = None) -> None:
        """Carry the gradients `d` of some lines back to the leaves, and add them to it.

        Args:
            passed: gets the gradients of the lines on the way.
        """
        for line, adjoint, saved, shapes in reversed(record):
            dy = d.pop(line, None)
            if dy is None:
                continue
            if passed is not None:
                passed[line] = dy
            for i, dx, shape in zip(adjoint.wanted, adjoint.gradients(dy, saved), shapes):
                x = line.inputs[i]
                if dx.shape != shape:
                    dx = unbroadcast(dx, shape)
                if line in self.timed and self._once(x):
                    dx = rows.summed(dx)
                d[x] = d[x] + dx if x in d else dx

    def _once(self, x: Any) -> bool:
        """Whether an operand has one row for each sequence."""
        return isinstance(x, Line) and x.per_row and x not in self.timed
