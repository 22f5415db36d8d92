"""Recurrent: a cell run over a sequence."""

from typing import Any

from ..autograd.operands import as_tensor
from ..autograd.shapes import stack, unbind
from ..autograd.tensor import Tensor
from .cell import Cell, States
from .module import Module

FUSED = ("auto", "require", "never")


class Recurrent(Module):
    """A cell applied to one element of a sequence after the other: `s[t] = step(x[t], s[t - 1])`.

        y, state = Recurrent(cell)(x)               # x [T, B, I] -> y [T, B, H], the first state after every step
        y, state = Recurrent(cell)(x, state)        # start from given states instead of cell.initial_state(B)

    Args:
        cell: what happens at each step.
        reverse: start at the end, `s[t] = step(x[t], s[t + 1])`; y[t] still belongs to x[t].
        fused: "auto" compiles the cell into fused kernels where it can be and else runs it on the tape, "require"
            raises where it cannot, "never" always runs it on the tape. Can be set at any time.

    Raises (when called):
        ValueError: x is not [T, B, I] with T > 0, or states do not fit the cell.
        NotImplementedError: fused is "require", and the cell cannot be compiled.
    """

    def __init__(self, cell: Cell, reverse: bool = False, fused: str = "auto") -> None:
        if not isinstance(cell, Cell):
            raise TypeError(f"Recurrent: expected a Cell, got {type(cell).__name__}")
        self.cell, self.reverse, self.fused = cell, reverse, fused

    @property
    def fused(self) -> str:
        """Which engine runs the cell: "auto", "require" or "never"."""
        return self._fused

    @fused.setter
    def fused(self, choice: str) -> None:
        if choice not in FUSED:
            raise ValueError(f"fused must be 'auto', 'require' or 'never', not {choice!r}")
        self._fused = choice

    def forward(self, x: Any, hx: Any = None) -> tuple[Tensor, Any]:
        """The outputs of all steps, and the final state (a tuple if there are several)."""
        x = as_tensor(x)
        if x.ndim != 3 or x.shape[0] == 0:
            raise ValueError(
                f"Recurrent({type(self.cell).__name__}): expected x of shape [T, B, I] with T > 0, got {list(x.shape)}"
            )
        self.cell.check_width(x)
        states = self.cell.begin(hx, x.shape[1])
        y, states = self._run(x, states)
        return y, states if len(states) > 1 else states[0]

    def _run(self, x: Tensor, states: States) -> tuple[Tensor, States]:
        """Choose the engine."""
        if self.fused == "require":
            raise NotImplementedError(f"Recurrent({type(self.cell).__name__}): there is no compiler for cells yet")
        return run_on_tape(self.cell, x, states, self.reverse)

    def extra_repr(self) -> str:
        options = {"reverse": (self.reverse, False), "fused": (self.fused, "auto")}
        return ", ".join(f"{name}={value!r}" for name, (value, default) in options.items() if value != default)


def run_on_tape(cell: Cell, x: Tensor, states: States, reverse: bool) -> tuple[Tensor, States]:
    """Run a cell step by step, every operation recorded: the specification of what fused kernels compute."""
    outputs = []
    for x_t in reversed(unbind(x)) if reverse else unbind(x):
        states = cell.advance(x_t, states)
        outputs.append(states[0])
    return stack(outputs[::-1] if reverse else outputs), states
