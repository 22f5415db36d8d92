"""Recurrent: a cell run over a sequence."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import is_
from typing import Any, Protocol

import numpy as np

from ..autograd.creation import zeros
from ..autograd.operands import as_array, as_tensor
from ..autograd.pointwise import where
from ..autograd.shapes import stack, unbind
from ..autograd.tape import mode, no_grad
from ..autograd.tensor import Tensor
from ..fusion.compile import Compiled, Variants, clock, compiled_cell, fused_cell, last_fused_cell
from ..fusion.explain import explain
from ..fusion.fused import FusedCell, Run, Sequence
from ..fusion.trace import Locals, Unfusable
from .cell import Cell, States
from .module import Module, Parameter

FUSED = ("auto", "require", "never")
DIRECTIONS = ("forward", "backward", "inference")


class Recurrent(Module):
    """A cell applied to one element of a sequence after the other: `s[t] = step(x[t], s[t - 1])`.

        y, state = Recurrent(cell)(x)               # x [T, B, I] -> y [T, B, H], the first state after every step
        y, state = Recurrent(cell)(x, state)        # start from given states instead of cell.initial_state(B)
        y, state = Recurrent(cell)(x, lengths=[3, 7])           # sequences that end before the longest one
        y, state, every = Recurrent(cell)(x, return_states=True)        # every state after every step as well

    Args:
        cell: what happens at each step.
        reverse: start at the end, `s[t] = step(x[t], s[t + 1])`; y[t] still belongs to x[t].
        fused: "auto" compiles the cell into fused kernels where it can be and else runs it on the tape, "require"
            raises where it cannot, "never" always runs it on the tape. Can be set at any time.

    Args (when called):
        x: [T, B, I], or a tuple of several inputs [T, B, ...], which `step` then gets as a tuple.
        hx: the initial state, or a tuple of them.
        lengths: [B] integers from 0 to T, in any order. A sequence that has ended keeps its state, and its outputs are
            zero; with `reverse` it is read from its own end. What lies beyond the end is never looked at.
        return_states: also return the values of all states after every step, a tuple of [T, B, ...]; zero beyond
            the end of a sequence.

    Raises (when called):
        ValueError: x is not [T, B, I] with T > 0, or states or lengths do not fit.
        TypeError: lengths are no integers.
        NotImplementedError: fused is "require", and the cell cannot be compiled.
    """

    __slots__ = ("_last",)  # what the last call found out: no attribute of a cell that has a layer within
    recorder: "Recorder | None" = None  # set by `record`

    def __init__(self, cell: Cell, reverse: bool = False, fused: str = "auto") -> None:
        if not isinstance(cell, Cell):
            raise TypeError(f"Recurrent: expected a Cell, got {type(cell).__name__}")
        self.cell, self.reverse, self.fused = cell, reverse, fused
        self._last: _LastCall | None = None

    @property
    def fused(self) -> str:
        """Which engine runs the cell: "auto", "require" or "never"."""
        return self._fused

    @fused.setter
    def fused(self, choice: str) -> None:
        if choice not in FUSED:
            raise ValueError(f"fused must be 'auto', 'require' or 'never', not {choice!r}")
        self._fused = choice

    @property
    def _options(self) -> tuple[Any, ...]:
        """What decides how a call is done."""
        return self.cell, self.reverse, self._fused, self.recorder

    @property
    def _name(self) -> str:
        return f"Recurrent({type(self.cell).__name__})"

    def forward(self, x: Any, hx: Any = None, lengths: Any = None, return_states: bool = False) -> Any:
        """The outputs of all steps, and the final state (a tuple if there are several); see the class."""
        several = isinstance(x, (tuple, list)) and all(isinstance(each, (Tensor, np.ndarray)) for each in x)
        xs = tuple(map(as_tensor, x)) if several else (as_tensor(x),)
        shapes = [x.data.shape for x in xs]
        T, B = shapes[0][:2] if shapes and len(shapes[0]) == 3 else (0, 0)
        if not T or [shape for shape in shapes if len(shape) != 3 or shape[:2] != (T, B)]:
            got = ", ".join(str(list(shape)) for shape in shapes)
            raise ValueError(f"{self._name}: expected x of shape [T, B, I] with T > 0, got {got}")
        if not several:
            self.cell.check_width(xs[0])
        ends = None if lengths is None else check_lengths(self._name, lengths, T, B)
        known = None if hx is None or self._last is None else self._last.zeros_of(self, B)
        states = None if hx is None else self.cell.begin(hx, B, known)
        every, finals = self.run(xs if several else xs[0], states, ends, return_states)
        final = finals if len(finals) > 1 else finals[0]
        return (every[0], final, every) if return_states else (every[0], final)

    def run(self, x: Any, states: States | None, lengths: np.ndarray | None, watch_all: bool) -> tuple[States, States]:
        """The values after each step of the first state, or of all, and the final values of all.

        What it is given has been checked; `states` may be None for the cell's own.
        """
        last = self._last
        if last is not None and lengths is None:
            results = last.repeated(self, x, states, watch_all)
            if results is not None:
                return results
        if states is None:
            states = self.cell.begin(None, (x[0] if isinstance(x, tuple) else x).data.shape[1])
        sequence = Sequence(x, states, self.reverse, lengths, len(states) if watch_all else 1)
        if self.fused == "never" or (mode.anomaly and self.fused == "auto"):  # anomalies are found line by line
            return run_on_tape(self.cell, sequence, self.recorder)
        time, options = clock.now, self._options
        compiled = compiled_cell(self.cell, sequence)
        try:
            fused = compiled.cell()
        except Unfusable as error:
            if self.fused == "require":
                self._try_a_step(sequence)
                raise NotImplementedError(f"{type(self.cell).__name__} cannot be fused: {error}") from None
            results = run_on_tape(self.cell, sequence, self.recorder)
            self._warn(str(error))
            return results
        recorder = self.recorder
        if recorder is not None:
            return fused(sequence.rows, sequence.inputs, states, lambda run: recorder.fused(fused, run))
        if lengths is None and not (sequence.several or fused.given):
            object.__setattr__(self, "_last", _LastCall(time, options, compiled, sequence))
        return fused(sequence.rows, sequence.inputs, states)

    def _try_a_step(self, sequence: Sequence) -> None:
        """Take one step on the tape: what is wrong with it there too is told in the same words."""
        first = tuple(x[:1] for x in sequence.inputs)
        with no_grad():
            run_on_tape(self.cell, Sequence(first if sequence.several else first[0], sequence.states))

    # ---- What the compiler made of the cell --------------------------------------------------------------------------

    def source(self, direction: str = "forward") -> str:
        """The source of a compiled kernel and of what is done around it, once a call.

        "forward", "backward" or "inference", the forward one that keeps nothing.

        That of the last call; before the first, for inputs of `cell.input_size` features.

        Raises:
            ValueError: there is no such direction, or the width of the inputs is not known yet.
            NotImplementedError: the cell cannot be compiled; the message says why.
        """
        if direction not in DIRECTIONS:
            raise ValueError(f"source: direction must be one of {', '.join(map(repr, DIRECTIONS))}, not {direction!r}")
        try:
            return self._last_fused().source(direction)
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
                f"{self._name}: the width of the inputs is not known yet: call the layer once, or "
                "set cell.input_size"
            )
        with no_grad():
            states = cell.begin(None, 1)
            return fused_cell(cell, Sequence(zeros(1, 1, cell.input_size, dtype=states[0].dtype), states))

    def _warn(self, reason: str) -> None:
        """Say once why the slow engine runs."""
        told = Variants.of(self.cell).told
        if reason not in told:
            told.add(reason)
            warnings.warn(
                f"{type(self.cell).__name__} runs on the tape, step by step: {reason}. fused='never' accepts that",
                stacklevel=5,  # of who called a layer that called `run`
            )

    def extra_repr(self) -> str:
        options = {"reverse": (self.reverse, False), "fused": (self.fused, "auto")}
        return ", ".join(f"{name}={value!r}" for name, (value, default) in options.items() if value != default)


class _LastCall:
    """What a call has found out, for the next one over a sequence of the same size: a short one is over sooner than
    all of that could be asked again.

    Attributes:
        fused, rows: what ran the cell, and the layout of the batch.
        zeros: the initial states, where they are what a `Cell` begins with if it does not say otherwise.
    """

    def __init__(self, time: object, options: tuple[Any, ...], compiled: Compiled, sequence: Sequence) -> None:
        self.time, self.options, self.guards, self.fused = time, options, compiled.guards, compiled.cell()
        self.rows, self.watch_all = sequence.rows, sequence.watched > 1
        self.inference = None if self.watch_all else self.fused.inference_function(self.rows)
        self.shape, self.dtype = sequence.inputs[0].shape, sequence.inputs[0].dtype
        self.shapes = [state.shape for state in sequence.states]
        self.parameters = [each.data for each in self.fused.fixed]
        cell = options[0]
        self.zeros: States | None = cell.begin(None, sequence.B) if cell.begins_with_zeros(self.fused.fixed) else None

    def holds(self, layer: Recurrent) -> bool:
        """Whether nothing has changed; whatever is set on a module moves the clock on."""
        now = clock.now
        if now is self.time:
            return self.guards.always is None or self.guards.always()
        if not all(map(is_, layer._options, self.options)) or not self.guards.holds():
            return False
        self.time = now
        return True

    def zeros_of(self, layer: Recurrent, batch_size: int) -> States | None:
        """The initial states of a batch, if they are known and nothing has changed."""
        return self.zeros if self.rows.B == batch_size and self.holds(layer) else None

    def repeated(
        self, layer: Recurrent, x: Any, states: States | None, watch_all: bool
    ) -> tuple[States, States] | None:
        """What the cell returns for a sequence like that one; None if it is not, or something has changed."""
        level = mode.level
        if level > 1 or watch_all != self.watch_all or not self.holds(layer):
            return None
        if type(x) is tuple or x.data.shape != self.shape or x.data.dtype is not self.dtype:
            return None
        if states is None:
            states = self.zeros
            if states is None:
                return None
        else:
            for state, shape in zip(states, self.shapes):
                if state.data.shape != shape or state.data.dtype is not self.dtype:
                    return None
        fused = self.fused
        tensors = [x, *fused.fixed, *states]
        arrays = [each.data for each in tensors]
        if not all(map(is_, self.parameters, arrays[1:])):
            return None
        if level == 0 and self.inference is not None:
            return fused.infer(self.inference, self.rows, arrays)
        return fused.run(self.rows, tensors, arrays)

    def __reduce__(self) -> Any:
        """Copies and pickles of a layer begin without."""
        return type(None), ()


class Recorder(Protocol):
    """Who wants to know what happens inside a layer."""

    def fused(self, cell: FusedCell, run: Run) -> None:
        """Called with a run of the kernels."""

    def tape(self, record: "TapeRecord") -> None:
        """Called with a run on the tape."""


class TapeRecord:
    """The named values of every step on the tape; see `fusion.recorded.Recorded` for what the methods mean."""

    def __init__(self, cell: Cell, sequence: Sequence) -> None:
        self.cell, self.sequence = cell, sequence
        self.named: dict[str, list[Tensor | None]] = {}

    @contextmanager
    def watching(self, t: int, arriving: tuple[Tensor, ...]) -> Iterator[Callable[[States], None]]:
        """While step t runs; yields a function to be called with the new states."""
        after: dict[str, Tensor] = {}
        with Locals(self.cell) as variables:
            yield lambda states: after.update(zip(self.cell.state_names, states))
        for name, value in variables:
            if isinstance(value, Tensor) and value.ndim == 2 and not any(value is x for x in arriving):
                if value.shape[0] == self.sequence.B and not isinstance(value, Parameter):
                    after.setdefault(name, value)
        for name, value in after.items():
            if value.node is not None and mode.level:
                value.retain_grad()
            self.named.setdefault(name, [None] * self.sequence.T)[t] = value

    def value(self, name: str) -> np.ndarray:
        """[T, B, W]."""
        return self._stacked(name, lambda x: x.data)

    def gradient(self, name: str) -> np.ndarray | None:
        """[T, B, W]; None if nothing has reached it."""
        if all(x is None or x.grad is None for x in self.named[name]):
            return None
        return self._stacked(name, lambda x: np.zeros_like(x.data) if x.grad is None else x.grad.data)

    def _stacked(self, name: str, of: Callable[[Tensor], np.ndarray]) -> np.ndarray:
        values = np.stack([of(x) for x in self.named[name] if x is not None])
        if self.sequence.lengths is not None:
            values[np.arange(len(values))[:, None] >= self.sequence.lengths] = 0
        return values


def run_on_tape(cell: Cell, sequence: Sequence, recorder: Recorder | None = None) -> tuple[States, States]:
    """Run a cell step by step, every operation recorded: the specification of what fused kernels compute.

    Returns:
        The values after each step of the states that are watched, and the final values of all.
    """
    states, lengths = sequence.states, sequence.lengths
    running = None if lengths is None else np.arange(sequence.T)[:, None, None] < lengths[:, None]
    steps = [unbind(x if running is None else where(running, x, 0)) for x in sequence.inputs]
    order = range(sequence.T)[:: -1 if sequence.reverse else 1]
    every: list[list[Tensor]] = [[] for _ in range(sequence.watched)]
    record = TapeRecord(cell, sequence)
    if recorder is not None:
        recorder.tape(record)
    with cell.holding(cell.values_of_sequence(sequence.B)):
        for t in order:
            xs = tuple(x[t] for x in steps)
            x_t = xs if sequence.several else xs[0]
            if recorder is None:
                new = cell.advance(x_t, states)
            else:
                with record.watching(t, (*xs, *states)) as returned:
                    new = cell.advance(x_t, states)
                    returned(new)
            seen = new[: sequence.watched]
            if running is not None:
                seen = tuple(where(running[t], state, 0) for state in seen)
                new = tuple(where(running[t], state, old) for state, old in zip(new, states))
            states = new
            for values, state in zip(every, seen):
                values.append(state)
    # Final states are results of their own, as those of kernels are: not the last of `every`, nor what came in.
    return tuple(stack(values[:: -1 if sequence.reverse else 1]) for values in every), tuple(s.clone() for s in states)


def check_lengths(name: str, lengths: Any, T: int, B: int) -> np.ndarray:
    """The lengths of B sequences of at most T steps as an array.

    Raises:
        TypeError: they are no integers.
        ValueError: there are not B of them, or one is negative or greater than T.
    """
    array = as_array(lengths)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: lengths must be integers, not {array.dtype}")
    if array.shape != (B,):
        raise ValueError(f"{name}: lengths has shape {list(array.shape)}, expected one for each sequence: [{B}]")
    wrong = np.flatnonzero((array < 0) | (array > T))
    if wrong.size:
        raise ValueError(f"{name}: lengths[{wrong[0]}] is {array[wrong[0]]}, but x has {T} steps: expected 0 to {T}")
    return array.astype(np.intp)
