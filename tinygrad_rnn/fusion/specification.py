"""A cell run step by step, operation by operation: the specification of what its kernels compute."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd.pointwise import where
from ..autograd.shapes import stack, unbind
from ..autograd.tape import mode
from ..autograd.tensor import Tensor
from .trace import Locals

if TYPE_CHECKING:
    from .sequence import Sequence

States = tuple[Tensor, ...]


class TapeRecord:
    """The named values of every step on the tape; see `fusion.recorded.Recorded` for what the methods mean."""

    def __init__(self, cell: Any, sequence: "Sequence") -> None:
        self.cell, self.sequence = cell, sequence
        self.parameters = {id(p) for p in cell.parameters()}
        self.named: dict[str, list[Tensor | None]] = {}

    @contextmanager
    def watching(self, t: int, arriving: States, values: dict[str, Tensor]) -> Iterator[Callable[[States], None]]:
        """While step t runs, with these values by name; yields a function to be called with the new states."""
        after: dict[str, Tensor] = {}
        with Locals(self.cell) as variables:
            yield lambda states: after.update(zip(self.cell.state_names, states))
        after, arriving = values | after, (*arriving, *values.values())
        same = lambda a, b: a is b or (a.node is b.node is not None and a.data is b.data)  # as `advance` copies a leaf
        for name, value in variables:
            if isinstance(value, Tensor) and value.ndim and not any(same(value, x) for x in arriving):
                if value.shape[0] == self.sequence.B and id(value) not in self.parameters:
                    after.setdefault(name, value)
        for name, value in after.items():
            if value.node is not None and mode.level:
                value.retain_grad()
            self.named.setdefault(name, [None] * self.sequence.T)[t] = value

    def value(self, name: str) -> np.ndarray:
        """[T, B, ...]."""
        return self.stacked(name, lambda x: x.data)

    def gradient(self, name: str) -> np.ndarray | None:
        """[T, B, ...]; None if nothing has reached it."""
        if all(x is None or x.grad is None for x in self.named[name]):
            return None
        return self.stacked(name, lambda x: np.zeros_like(x.data) if x.grad is None else x.grad.data)

    def stacked(self, name: str, of: Callable[[Tensor], np.ndarray]) -> np.ndarray:
        """What there is of a value at each step, and zeros after the end of a sequence."""
        values = np.stack([of(x) for x in self.named[name] if x is not None])
        if self.sequence.lengths is not None:
            values[np.arange(len(values))[:, None] >= self.sequence.lengths] = 0
        return values


def run_on_tape(
    cell: Any, sequence: "Sequence", record: TapeRecord | None = None, held: Any = None
) -> tuple[States, States]:
    """Run a cell step by step, every operation recorded.

    Args:
        record: is told the named values of every step.
        held: what cells hold for the sequence; their `_values_of_sequence` if it is None.

    Returns:
        The values after each step of the states that are watched, and the final values of all.
    """
    states, lengths = sequence.states, sequence.lengths
    running = None if lengths is None else np.arange(sequence.T)[:, None] < lengths
    going = lambda t, x: running[t].reshape(-1, *[1] * (x.ndim - 1))  # type: ignore[index]  # which sequences are
    steps = [unbind(x if running is None else where(running[..., None], x, 0)) for x in sequence.inputs]
    order = range(sequence.T)[:: -1 if sequence.reverse else 1]
    every: list[list[Tensor]] = [[] for _ in range(sequence.watched)]
    with cell._holding(cell._values_of_sequence(sequence.B) if held is None else held):
        for t in order:
            xs = tuple(x[t] for x in steps)
            x_t = xs if sequence.several else xs[0]
            if record is None:
                new = cell.advance(x_t, states, **sequence.values)
            else:  # of values that hold for all steps each has its own, with its own gradient
                copies = {name: value.clone() for name, value in sequence.values.items()}
                with record.watching(t, (*xs, *states), copies) as returned:
                    new = cell.advance(x_t, states, **copies)
                    before = [state.node for state in states if state.node is not None]
                    new = tuple([x.clone() if any(x.node is node for node in before) else x for x in new])
                    returned(new)
            seen = new[: sequence.watched]
            if running is not None:
                seen = tuple(where(going(t, state), state, 0) for state in seen)
                new = tuple(where(going(t, state), state, old) for state, old in zip(new, states))
            states = new
            for values, state in zip(every, seen):
                values.append(state)
    # Final states are results of their own, as those of kernels are: not the last of `every`, nor what came in.
    return tuple(stack(values[:: -1 if sequence.reverse else 1]) for values in every), tuple(s.clone() for s in states)
