"""Recurrent: a cell run over a sequence."""

import warnings
import weakref
from typing import Any

from ..autograd.creation import zeros
from ..autograd.operands import as_tensor
from ..autograd.shapes import stack, unbind
from ..autograd.tape import mode, no_grad
from ..autograd.tensor import Tensor
from ..fusion.compile import FusedCell, fused_cell, last_fused_cell
from ..fusion.explain import explain
from ..fusion.trace import Unfusable
from .cell import Cell, States
from .module import Module

FUSED = ("auto", "require", "never")
DIRECTIONS = ("forward", "backward", "inference")
_warned: "weakref.WeakKeyDictionary[Cell, set[str]]" = weakref.WeakKeyDictionary()


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
        if self.fused == "never" or (mode.anomaly and self.fused == "auto"):  # anomalies are found line by line
            return run_on_tape(self.cell, x, states, self.reverse)
        try:
            fused = fused_cell(self.cell, x, states)
        except Unfusable as error:
            if self.fused == "require":
                raise NotImplementedError(f"{type(self.cell).__name__} cannot be fused: {error}") from None
            results = run_on_tape(self.cell, x, states, self.reverse)
            self._warn(str(error))
            return results
        return fused(x, states, self.reverse)

    # ---- What the compiler made of the cell --------------------------------------------------------------------------

    def source(self, direction: str = "forward") -> str:
        """The source of a compiled kernel: "forward", "backward" or "inference", the forward one that keeps nothing.

        That of the last call; before the first, for inputs of `cell.input_size` features.

        Raises:
            ValueError: there is no such direction, or the width of the inputs is not known yet.
            NotImplementedError: the cell cannot be compiled; the message says why.
        """
        if direction not in DIRECTIONS:
            raise ValueError(f"source: direction must be one of {', '.join(map(repr, DIRECTIONS))}, not {direction!r}")
        try:
            return self._last_fused().scan.sources[direction]
        except Unfusable as error:
            raise NotImplementedError(f"{type(self.cell).__name__} cannot be fused: {error}") from None

    def explain(self) -> str:
        """What the compiler made of the cell, in words: or why it could make nothing of it.

        The traced step, products that left the loop and those that stay, phases, what is kept for the backward pass and
        what is computed again, the work for each step, and where the machine code came from. See `source`.

        Raises:
            ValueError: the width of the inputs is not known yet.
        """
        try:
            return explain(self._last_fused().scan)
        except Unfusable as error:
            return f"{type(self.cell).__name__} runs on the tape, step by step: {error}"

    def _last_fused(self) -> FusedCell:
        """The compiled cell of the last call; before the first, for what the cell says of itself."""
        cell = self.cell
        fused = last_fused_cell(cell)
        if fused is not None:
            return fused
        if cell.input_size is None:
            raise ValueError(
                f"Recurrent({type(cell).__name__}): the width of the inputs is not known yet: call the layer once, or "
                "set cell.input_size"
            )
        with no_grad():
            states = cell.begin(None, 1)
            return fused_cell(cell, zeros(1, 1, cell.input_size, dtype=states[0].dtype), states)

    def _warn(self, reason: str) -> None:
        """Say once why the slow engine runs."""
        told = _warned.setdefault(self.cell, set())
        if reason not in told:
            told.add(reason)
            warnings.warn(
                f"{type(self.cell).__name__} runs on the tape, step by step: {reason}. fused='never' accepts that",
                stacklevel=5,
            )

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
