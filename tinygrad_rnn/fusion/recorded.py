"""What happened inside a run: every named value of the step, and the gradient that reached it, at every step.

With the states before each step at hand, no step waits for another: the program runs on the tape, once for the rows of
all steps. With the gradients that the kernels carried from step to step, so does its backward pass. What the kernels
saved is taken from there.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd.tape import enable_grad, set_mode
from ..autograd.tensor import grad
from ..kernels.locks import lazy
from .evaluate import as_rows, evaluate, tensor
from .program import Program, Value
from .rows import full_rows

if TYPE_CHECKING:
    from .fused import FusedCell
    from .node import Run


def in_words(step: Program, others: Iterable[str] = ()) -> dict[str, Value]:
    """The values that a step makes, by what the user calls them; of several, and besides others, the first alone."""
    words = step.names.words
    named = {x.name: x for x in step.values if x.row is not None and x.named and x.per_row}
    first = {words[name]: name for name in reversed(words) if name in named and words[name] not in others}
    return {words[name] if first.get(words[name]) == name else name: x for name, x in named.items()}


class Recorded:
    """The values and gradients of one run, by the names that the step gives them.

    A state's name stands for its value after each step. Where sequences have ended there are zeros.
    """

    def __init__(self, fused: "FusedCell", run: "Run") -> None:
        self.fused, self.run, self.rows = fused, run, run.rows
        self.step = fused.stages["trace"]
        self.states = {self.step.names.words[state.name]: k for k, state in enumerate(self.step.states)}
        others = dict(zip(fused.by_name, self.step.given)) | dict(zip(self.states, self.step.outputs))
        self.named = in_words(self.step, others) | others
        scan = fused.scan
        self.saved = scan.residuals.views(run.residuals, run.rows.counts())
        every = (x.reshape(-1, x.shape[2]) for x in run.every)
        self.saved |= {state.name: x for state, x in zip(scan.forward.whole, every)}

    def value(self, name: str) -> np.ndarray:
        """[T, B, ...]."""
        value = self.named[name]
        return np.array(self.rows.scattered(self._value(name, value).reshape(self.rows.total, *value.inner)))

    def gradient(self, name: str) -> np.ndarray | None:
        """[T, B, ...]; None if the backward pass has not been here, or nothing depends on that value."""
        found = None if self.run.arrived is None else self._gradients[name]
        if found is None:
            return None
        return np.array(self.rows.scattered(np.broadcast_to(found, (self.rows.total, *self.named[name].inner))))

    def _value(self, name: str, value: Value) -> np.ndarray:
        """For each row of each step: what the kernels have of it, or what the tape makes of the states."""
        if name in self.states:
            return self.after(self.states[name])
        for kept, (array, _, first, width, _) in self.fused.scan.kept_in.items():
            if kept.name == value.name:
                return self.saved[array][:, first : first + width]
        saved = self.saved.get(f"{value.name}_saved")
        return np.asarray(self._known[value].data) if saved is None else saved

    def after(self, k: int) -> np.ndarray:
        """The k-th state after each step, of which the kernels tell."""
        return self.saved[self.step.states[k].name][self.rows.B :]

    @lazy
    def _known(self) -> dict[Any, Any]:
        """All values of the step, as tensors."""
        fused, rows = self.fused, self.rows
        wanting = {leaf for leaf, need in zip(fused.leaves, self.run.needs) if need}
        known = {leaf: as_rows(leaf, x, rows) for leaf, x in zip(fused.leaves, self.run.leaves)}
        known |= dict(zip(fused.noise, self.run.noise))
        known |= {leaf: rows.repeated(x) for leaf, x in known.items() if leaf.rate == "sequence"}
        before = {state: rows.before(self.saved[state.name]) for state in self.step.states}
        known |= {state: x.reshape(len(x), *state.inner) for state, x in before.items()}
        known = {leaf: tensor(x, leaf in wanting or leaf.kind == "state") for leaf, x in known.items()}
        with enable_grad(), set_mode("tracer", None):
            evaluate(self.step.values, known, full_rows(1, self.rows.total))
        return known

    @lazy
    def _gradients(self) -> dict[str, np.ndarray | None]:
        """What reached each named value at each row: from outside, from the next step, and from other values."""
        return self.reached(self.named)

    def reached(self, names: Iterable[str]) -> dict[str, np.ndarray | None]:
        """The same for some values, by the last backward pass that there was."""
        pairs = [(self._known[x], self._arrived(k)) for k, x in enumerate(self.step.outputs)]
        outputs, arrived = zip(*((x, dy) for x, dy in pairs if x.requires_grad))
        values = {name: self._known[self.named[name]] for name in names}
        wanting = {name: x for name, x in values.items() if x.requires_grad}
        with set_mode("tracer", None):
            found = grad(list(outputs), list(wanting.values()), list(arrived), retain_graph=True, allow_unused=True)
        handed_on = {n: k for n, k in self.states.items() if n in values and self.step.outputs[k].kind == "state"}
        all_found = dict(zip(wanting, found)) | {name: self._arrived(k) for name, k in handed_on.items()}
        return dict.fromkeys(values) | {name: None if dx is None else dx.data for name, dx in all_found.items()}

    def _arrived(self, k: int) -> Any:
        """The gradient of the k-th state after each step."""
        assert self.run.arrived is not None
        watched, rows = len(self.fused.program.gradient.dys), self.rows
        carry = self.run.arrived[watched + k]
        d = rows.running(carry[: (rows.T + 1) * rows.B].reshape(rows.T + 1, rows.B, carry.shape[1])[1:])
        d = d + self.run.arrived[k] if k < watched else d
        return tensor(d.reshape(len(d), *self.step.states[k].inner))
