"""Recurrent: a cell run over a sequence."""

import warnings
from copy import copy
from operator import is_
from typing import Any, Protocol

import numpy as np

from ..autograd.creation import get_rng_state, set_rng_state, zeros
from ..autograd.operands import as_array, as_tensor
from ..autograd.tape import mode, no_grad
from ..autograd.tensor import Tensor
from ..fusion.compile import Compiled, Variants, clock, compiled_cell, fused_cell, last_fused_cell
from ..fusion.explain import explain
from ..fusion.fused import FusedCell
from ..fusion.node import Run
from ..fusion.sequence import Sequence
from ..fusion.specification import TapeRecord, run_on_tape
from ..fusion.stages import at_stage
from ..fusion.trace import Unfusable
from .cell import Cell, States, inputs_of
from .module import Module

FUSED = ("auto", "require", "never")
DIRECTIONS = ("forward", "backward", "inference")


class Recurrent(Module):
    """A cell applied to one element of a sequence after the other: `s[t] = step(x[t], s[t - 1])`.

        >>> import tinygrad_rnn as tg
        >>> layer = tg.nn.Recurrent(tg.nn.GRUCell(3, 8))
        >>> y, h = layer(tg.ones(5, 2, 3), lengths=[5, 2])
        >>> y.shape, h.shape, y[2:, 1].abs().sum().item()  # nothing comes out after the end of a sequence
        ((5, 2, 8), (2, 8), 0.0)

        y, state = Recurrent(cell)(x)               # x [T, B, I] -> y [T, B, H], the first state after every step
        y, state = Recurrent(cell)(x, state)        # start from given states instead of cell.initial_state(B)
        y, state = Recurrent(cell)(x, lengths=[3, 7])           # sequences that end before the longest one
        y, state, every = Recurrent(cell)(x, return_states=True)        # every state after every step as well
        y, state = Recurrent(cell)(x, memory=encoded)           # what step takes by name holds for the whole sequence

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
        values: by name, what `step` takes as keyword-only arguments: tensors [B, ...] with a row for each sequence, the
            same at every step.

    Raises (when made):
        TypeError: the cell is none, or a keyword-only argument of `step` has the name of one of these.

    Raises (when called):
        ValueError: x is not [T, B, I] with T > 0, or states, lengths or values do not fit.
        TypeError: lengths are no integers; a value is missing, unknown or no tensor.
        NotImplementedError: fused is "require", and the cell cannot be compiled.

    A decoder that looks at what an encoder has read, and starts from where it ended:

        >>> import tinygrad_rnn as tg
        >>> class Decoder(tg.nn.Cell):
        ...     def __init__(self, input_size, hidden_size):
        ...         self.input_size, self.hidden_size = input_size, hidden_size
        ...         self.gru = tg.nn.GRUCell(input_size + hidden_size, hidden_size)
        ...
        ...     def step(self, x, h, *, context):  # context [B, H]
        ...         (h,) = self.gru.advance(tg.cat([x, tg.sigmoid(h) * context], -1), (h,))
        ...         return h
        >>> encoded, h = tg.nn.GRU(3, 8)(tg.ones(9, 2, 3))
        >>> y, h = Recurrent(Decoder(4, 8), fused="require")(tg.ones(5, 2, 4), h[0], context=encoded.mean(0))
        >>> y.shape
        (5, 2, 8)
    """

    __slots__ = ("_last",)  # what the last call found out: no attribute of a cell that has a layer within
    _recorder: "Recorder | None" = None  # set by `record`
    _explain_html: Any = None  # set by `pictures`

    def __init__(self, cell: Cell, reverse: bool = False, fused: str = "auto") -> None:
        if not isinstance(cell, Cell):
            raise TypeError(f"Recurrent: expected a Cell, got {type(cell).__name__}")
        cell.value_names  # noqa: B018, which refuses names that calls have for other things
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
        return self.cell, self.reverse, self._fused, self._recorder

    @property
    def _name(self) -> str:
        return f"Recurrent({type(self.cell).__name__})"

    def forward(
        self, x: Any, hx: Any = None, lengths: Any = None, return_states: bool = False, **values: Any
    ) -> Any:
        """The outputs of all steps, and the final state (a tuple if there are several); see the class."""
        several = inputs_of(self, x, (tuple, list))
        xs = several or (as_tensor(x),)
        shapes = [x.data.shape for x in xs]
        T, B = shapes[0][:2] if len(shapes[0]) == 3 else (0, 0)
        if not T or [shape for shape in shapes if len(shape) != 3 or shape[:2] != (T, B)]:
            got = ", ".join(str(list(shape)) for shape in shapes)
            if T:
                raise ValueError(f"{self._name}: expected a further input of shape [{T}, {B}, ...] beside x; got {got}")
            raise ValueError(f"{self._name}: expected x of shape [T, B, I] with T > 0, got {got}")
        if not several:
            self.cell._check_width(xs[0])
        ends = None if lengths is None else check_lengths(self._name, lengths, T, B)
        known = None if hx is None or self._last is None else self._last.zeros_of(self, B)
        states = None if hx is None else self.cell.begin(hx, B, known)
        every, finals = self._run(several or xs[0], states, ends, return_states, values)
        final = finals if len(finals) > 1 else finals[0]
        return (every[0], final, every) if return_states else (every[0], final)

    def _run(
        self, x: Any, states: States | None, lengths: np.ndarray | None, watch_all: bool, values: dict[str, Any]
    ) -> tuple[States, States]:
        """The values after each step of the first state, or of all, and the final values of all.

        What it is given has been checked, but for `values`; `states` may be None for the cell's own.
        """
        last = self._last
        if last is not None and lengths is None:
            try:
                repeated = last.repeated(self, x, states, watch_all, values)
            except Unfusable:  # another way through the cell than that of the calls before is not the tape's
                repeated = None
            if repeated is not None:
                last.served = True
                return repeated
            if last.served:
                Variants.of(self.cell).anew = 0
        B = (x[0] if isinstance(x, tuple) else x).data.shape[1]
        values = self.cell._check_values(values, B)
        if states is None:
            states = self.cell.begin(None, B)
        sequence = Sequence(x, states, self.reverse, lengths, len(states) if watch_all else 1, values)
        if self._recorder is not None:
            self._recorder.over(self.cell, sequence)
        if self.fused == "never" or (mode.anomaly and self.fused == "auto"):  # anomalies are found line by line
            return self._run_on_tape(sequence)
        time, options, recorder = clock.now, self._options, self._recorder
        compiled = compiled_cell(self.cell, sequence)
        try:
            fused = compiled.cell()
            watch = None if recorder is None else lambda run: recorder.fused(fused, run)
            results = fused(sequence, watch)
        except Unfusable as error:
            compiled.refuse(error)
        if compiled.fused is None:  # what step raises from here on has nothing to do with that error
            if self.fused == "require":
                self._try_a_step(sequence)
                raise NotImplementedError(f"{type(self.cell).__name__} cannot be fused: {compiled.reason}")
            results = self._run_on_tape(sequence)
            name = type(self.cell).__name__
            self._warn(f"{name} runs on the tape, step by step: {compiled.reason}. fused='never' accepts that")
            return results
        if compiled.often:
            self._warn(compiled.often)
        if recorder is None and lengths is None and not (sequence.several or fused.owners):
            object.__setattr__(self, "_last", _LastCall(time, options, compiled, sequence))
        return results

    def _run_on_tape(self, sequence: Sequence) -> tuple[States, States]:
        record = None
        if self._recorder is not None:
            sequence = self._reached(sequence)
            record = TapeRecord(self.cell, sequence)
            self._recorder.tape(record)
        return run_on_tape(self.cell, sequence, record)

    def _reached(self, sequence: Sequence) -> Sequence:
        """The same from initial states that gradients reach, where they reach that state at any later step.

        Else nothing would be told of a state whose first values are made of initial states alone.
        """
        if not mode.grad or all(x.node is not None for x in sequence.states):
            return sequence
        x = tuple(x[: len(sequence.states)] for x in sequence.inputs)  # what reaches a state at all has done so by then
        random_state = get_rng_state()
        start = Sequence(x if sequence.several else x[0], sequence.states, values=sequence.values)
        later = run_on_tape(self.cell, start)[1]
        set_rng_state(random_state)
        reached, told = copy(sequence), lambda x, y: x.node is None is not y.node
        reached.states = tuple(
            x.detach().requires_grad_() if told(x, y) else x for x, y in zip(sequence.states, later)
        )
        return reached

    def _try_a_step(self, sequence: Sequence) -> None:
        """Take one step on the tape: what is wrong with it there too is told in the same words."""
        first = tuple(x[:1] for x in sequence.inputs)
        x = first if sequence.several else first[0]
        run_on_tape(self.cell, Sequence(x, sequence.states, values=sequence.values))

    # ---- What the compiler made of the cell --------------------------------------------------------------------------

    def source(self, direction: str = "forward") -> str:
        """The source of a compiled kernel.

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

    def explain(self, stage: str | None = None, html: bool = False) -> str:
        """What the compiler made of the cell, in words: or why it could make nothing of it.

        The traced step, prologue and epilogue, phases, the residuals that are saved for the backward pass and
        what is rematerialised, the work for each step, and where the machine code came from. See `source`.

        Args:
            stage: print the program after this pass instead: "trace", "simplify", "hoist", "join", "transpose",
                "rematerialise", "lower", "allocate" or "print".
            html: the step, its adjoint and its kernels side by side instead, for a notebook: see `study.explain`.

        Raises:
            ValueError: the width of the inputs is not known yet, or there is no such pass.
            NotImplementedError: HTML is asked for, and the cell cannot be compiled.
        """
        if html:
            return self._explain_html()
        try:
            fused = self._last_fused()
            return at_stage(fused.stages, fused.scan, stage) if stage else explain(fused.scan, fused.reports)
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
        required = [name for name, need in cell.value_names.items() if need == "required"]
        if required:
            names = " and ".join(required)
            raise ValueError(f"{self._name}: the shape of {names} is not known yet: call the layer once")
        with no_grad():
            states = cell.begin(None, 1)
            return fused_cell(cell, Sequence(zeros(1, 1, cell.input_size, dtype=states[0].dtype), states))

    def _warn(self, text: str) -> None:
        """Say once why a call is slow."""
        told = Variants.of(self.cell).told
        if text not in told:
            told.add(text)
            warnings.warn(text, stacklevel=5)  # of who called a layer that called `_run`

    def extra_repr(self) -> str:
        options = {"reverse": (self.reverse, False), "fused": (self.fused, "auto")}
        return ", ".join(f"{name}={value!r}" for name, (value, default) in options.items() if value != default)


class _LastCall:
    """What a call has found out, for the next one over a sequence of the same size: a short one is over sooner than
    all of that could be asked again.

    Attributes:
        fused, rows: what ran the cell, and the layout of the batch.
        values: the shapes and dtypes of what was given for the sequence, by name.
        parameters, first: the arrays of those, and their place among the leaves.
        zeros: the initial states, where they are what a `Cell` begins with if it does not say otherwise.
        served: whether another call was like it.
    """

    served = False

    def __init__(self, time: object, options: tuple[Any, ...], compiled: Compiled, sequence: Sequence) -> None:
        self.time, self.options, self.guards, self.fused = time, options, compiled.guards, compiled.cell()
        self.rows, self.watch_all = sequence.rows, sequence.watched > 1
        self.infers = self.fused.infers(self.rows) and not self.watch_all
        self.shape, self.dtype = sequence.inputs[0].shape, sequence.inputs[0].dtype
        self.shapes = [state.shape for state in sequence.states]
        self.values = {name: (x.data.shape, x.data.dtype) for name, x in sequence.values.items()}
        self.parameters, self.first = [each.data for each in self.fused.fixed], 1 + len(self.values)
        cell = options[0]
        self.zeros: States | None = cell.begin(None, sequence.B) if cell._begins_with_zeros(self.fused.fixed) else None

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
        self, layer: Recurrent, x: Any, states: States | None, watch_all: bool, values: dict[str, Any]
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
        if values or self.values:
            given = self._given(values)
            if given is None:
                return None
            tensors = [x, *given, *fused.fixed, *states]
        else:
            tensors = [x, *fused.fixed, *states]
        arrays = [each.data for each in tensors]
        if not all(map(is_, self.parameters, arrays[self.first :])):
            return None
        if level == 0 and self.infers:
            return fused.infer(self.rows, tensors, arrays)
        results = fused.run(self.rows, tensors, arrays)
        if level == 0:
            self.infers = fused.infers(self.rows) and not self.watch_all
        return results

    def _given(self, values: dict[str, Any]) -> Any:
        """The values for the sequence in the order of that call; None if they are others than those."""
        if values.keys() != self.values.keys():
            return None
        for name, kind in self.values.items():
            x = values[name]
            if not isinstance(x, Tensor) or (x.data.shape, x.data.dtype) != kind:
                return None
        return [values[name] for name in self.values]

    def __reduce__(self) -> Any:
        """Copies and pickles of a layer begin without."""
        return type(None), ()


class Recorder(Protocol):
    """Who wants to know what happens inside a layer."""

    def over(self, cell: Cell, sequence: Sequence) -> None:
        """Called before a run."""

    def fused(self, cell: FusedCell, run: Run) -> None:
        """Called with a run of the kernels."""

    def tape(self, record: TapeRecord) -> None:
        """Called with a run on the tape."""


def check_lengths(name: str, lengths: Any, T: int, B: int) -> np.ndarray:
    """The lengths of B sequences of at most T steps as an array.

    Raises:
        TypeError: they are no integers.
        ValueError: there are not B of them, or one is negative or greater than T.
    """
    array = as_array(lengths)
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"{name}: lengths must be integers, not {array.dtype}")
    if array.shape != (B,):
        raise ValueError(f"{name}: lengths has shape {list(array.shape)}, expected one for each sequence: [{B}]")
    wrong = np.flatnonzero((array < 0) | (array > T))
    if wrong.size:
        raise ValueError(f"{name}: lengths[{wrong[0]}] is {array[wrong[0]]}, but x has {T} steps: expected 0 to {T}")
    return array.astype(np.intp)
