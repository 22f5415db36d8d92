"""What happened inside a run: every named value of the step, and the gradient that reached it, at every step.

What the kernels kept is taken from their own arrays. The rest is computed again on request, for all steps at once: with
the states before each step and the gradients after it at hand, no step waits for another.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import table
from ..autograd.tape import Value
from .trace import Line, _columns, run_line

if TYPE_CHECKING:
    from .fused import FusedCell, Run
    from .rows import Rows


class Recorded:
    """The values and gradients of one run, by the names that the step gives them.

    A state's name stands for its value after each step. Where sequences have ended there are zeros.
    """

    def __init__(self, fused: "FusedCell", run: "Run") -> None:
        self.fused, self.run, self.plan = fused, run, fused.plan
        self.traced = dict(fused.plan.script)
        self.states = {state.name: output for state, output in zip(self.plan.states, self.plan.outputs)}
        operations = {line.name: line for line, traced in self.traced.items() if traced.row is not None and line.named}
        per_row = {name: line for name, line in operations.items() if line.per_row}
        self.named = {**per_row, **self.states}
        whole = [state.name for state in fused.scan.forward.whole]
        rows, residuals = run.rows, fused.scan.forward.residuals
        self.named_arrays = residuals.views(run.residuals, rows.total, rows.B) | {
            name: x.reshape(-1, x.shape[2]) for name, x in zip(whole, run.every)
        }
        self._values: dict[Line, Any] = {}
        self._gradients: dict[Line, Any] = {}

    def value(self, name: str) -> np.ndarray:
        """[T, B, W]."""
        return np.array(self.run.rows.scattered(self._value(self.named[name])))

    def gradient(self, name: str) -> np.ndarray | None:
        """[T, B, W]; None if the backward pass has not been here, or nothing depends on that value.

        Raises:
            RuntimeError: nobody knows.
        """
        if self.named[name] in self.plan.skipped:
            raise RuntimeError(
                f"parts of {name!r} are taken from what it is made of, so what reaches it as a whole is not known: "
                "look at these parts, or record the layer with fused='never'"
            )
        if self.run.backward is None:
            return None
        d = self._reached(self.named[name])
        if d is None and name in self.states:
            d = self._arrived(list(self.states).index(name))
        if d is None:
            return None
        return np.array(self.run.rows.scattered(np.broadcast_to(d, (self.run.rows.total, self.named[name].width))))

    def _reached(self, line: Line) -> Any:
        """The gradient of a line at each row of each step, or None."""
        gradient = self.plan.gradient
        found = gradient.of.get(line)
        total = None if found is None else self._gradient(found)
        outside = self.run.known.get(line)  # it may be computed in the loop and before it
        if outside is not None and outside.grad is not None:
            before = outside.grad.data
            total = before if total is None else total + before
        if total is None and line in gradient.sequences:
            total = self._gradient(gradient.sequences[line])
        if line.row is table.part:
            part = gradient.of_parts.get(line.inputs[0], {}).get(_columns(line.inputs[0], line.attributes["at"]))
            total = None if part is None else self._gradient(part)
        for (first, last), piece in self.plan.pieces.get(line, {}).items():
            is_part = piece.row is table.part and piece.inputs[0] is line  # then its gradient is in that of the line
            d = None if is_part else self._reached(piece)
            if d is not None:
                total = self._widened(total, line)
                total[:, first:last] += d
        return total

    def _widened(self, total: Any, line: Line) -> np.ndarray:
        """A copy of the sum so far, for further terms."""
        return np.zeros((self.run.rows.total, line.width), line.dtype) if total is None else np.array(total)

    def _value(self, line: Line) -> Any:
        """For each row of each step."""
        if line not in self._values:
            self._values[line] = self._find(line)
        return self._values[line]

    def _find(self, line: Line) -> Any:
        rows, named, plan = self.run.rows, self.named_arrays, self.plan
        if line in plan.outputs:
            return named[plan.states[plan.outputs.index(line)].name][rows.B :]
        if line in plan.states:
            return rows.before(named[line.name])
        if line in self.fused.scan.kept_in:
            array, _, first, width = self.fused.scan.kept_in[line]
            return named[array][:, first : first + width]
        if f"{line.name}_saved" in named:
            return named[f"{line.name}_saved"]
        traced = self.traced.get(line, line)
        if traced.row is None or line in self.run.known:
            known = self.run.known.get(line, line.value)
            value = np.asarray(known.data if isinstance(known, Value) else known)
            if line in self.run.known and line in self.fused.leaves:
                value = as_rows(line, value, rows)
            return rows.repeated(value) if line.per_row and line not in plan.timed else value
        return self._computed(traced, self._value)

    def _computed(self, line: Line, value: Any) -> Any:
        assert line.row is not None
        operands = [value(x) if isinstance(x, Line) else x for x in line.inputs]
        return np.asarray(run_line(line, operands, self.run.rows.total, line.row.forward))

    def _arrived(self, k: int) -> np.ndarray:
        """The gradient of the k-th state after each step: from outside, and from the next step."""
        rows, gradient, named = self.run.rows, self.plan.gradient, self.run.backward
        assert named is not None
        carry = named[gradient.carries[k].name]
        d = rows.running(carry.reshape(rows.T + 1, rows.B, carry.shape[1])[1:])
        return d + named[gradient.dys[k].name] if k < len(gradient.dys) else d

    def _gradient(self, line: Line) -> Any:
        if line not in self._gradients:
            self._gradients[line] = self._find_gradient(line)
        return self._gradients[line]

    def _find_gradient(self, line: Line) -> Any:
        gradient, named, scan = self.plan.gradient, self.run.backward, self.fused.scan
        assert named is not None
        if line in gradient.carries:
            k = gradient.carries.index(line)
            d = self._arrived(k)
            return d - named[gradient.dys[k].name] if k < len(gradient.dys) else d
        if line in gradient.dys:
            return named[line.name]
        if line in scan.stash_places:
            name, first = scan.stash_places[line]
            return named[name][:, first : first + line.width]
        if line.kind == "zeros":
            return np.zeros((self.run.rows.total, line.width), line.dtype)
        if line.kind == "weights":
            k = scan.transposed[f"{line.name}_packed"]
            return np.concatenate([self._value(w) for w in self.plan.products[k].weights], axis=1).T
        if line not in gradient.lines:
            return self._value(line)
        if line.row is table.part:
            return self._gradient(line.inputs[0])[line.attributes["at"]]
        return self._computed(line, self._gradient)


def as_rows(line: Line, x: Any, rows: "Rows") -> Any:
    """What a user gave for a leaf, in the order of rows: arrays, or tensors on the tape."""
    if line.kind == "input":
        return rows.gathered(x)
    return rows.ordered(x) if line.per_row else x
