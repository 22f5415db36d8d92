"""A cell compiled: what is computed before the loop, the loop, and what can be told of both."""

import weakref
from typing import Any

import numpy as np

from ..autograd import table
from ..autograd.creation import get_rng_state, set_rng_state
from ..autograd.shapes import flip
from ..autograd.tape import no_grad
from ..autograd.tensor import Tensor
from .plan import Plan, make_plan
from .rows import Rows, full_rows, ragged_rows
from .scan import Scan
from .trace import BATCH, Line, Unfusable, check_other_batch, sized, trace_step

States = tuple[Tensor, ...]


class Sequence:
    """What a cell is run over.

    Args:
        x: [T, B, I], or a tuple of inputs [T, B, ...] that a step gets as a tuple.
        states: the initial ones.
        reverse: start at the end.
        lengths: [B], of the sequences; None if all have T steps.
        watched: of how many states, from the first, the values at every step are wanted.
    """

    def __init__(
        self, x: Any, states: States, reverse: bool = False, lengths: np.ndarray | None = None, watched: int = 1
    ) -> None:
        self.several = isinstance(x, tuple)
        self.inputs: States = x if self.several else (x,)
        self.T: int = self.inputs[0].shape[0]
        self.B: int = self.inputs[0].shape[1]
        self.states, self.reverse, self.lengths, self.watched = states, reverse, lengths, watched

    @property
    def kind(self) -> Any:
        """What a compiled cell depends on."""
        widths = [(x.shape[2], x.dtype.char) for x in self.inputs]
        return (self.several, self.watched, *widths, *[(s.shape[1:], s.dtype.char) for s in self.states])


class FusedCell:
    """A cell for inputs and states of given widths and dtype, run by two kernels.

    Raises (when made):
        Unfusable: the step cannot be a kernel; the message says why.
    """

    def __init__(self, cell: Any, sequence: Sequence) -> None:
        dtype = sequence.inputs[0].dtype
        if any(x.dtype != dtype for x in (*sequence.inputs, *sequence.states)) or dtype.kind != "f":
            raise Unfusable("the inputs and all states must be floats of one dtype")
        if any(s.ndim != 2 for s in sequence.states):
            raise Unfusable("states must be [B, H]")
        inputs = [((BATCH, x.shape[2]), dtype) for x in sequence.inputs]
        states = [(name, (BATCH, s.shape[1]), dtype) for name, s in zip(cell.state_names, sequence.states)]
        trace, outputs = trace_step(cell, inputs, states, not sequence.several)
        as_traced = list(map(repr, trace.lines))
        self.given, self.drawn = trace.given, trace.drawn
        self.inputs = [line for line in trace.lines if line.kind == "input"][: len(inputs)]
        self.plan: Plan = make_plan(trace, outputs, sequence.watched)
        check_other_batch(as_traced, cell, inputs, states, not sequence.several)
        self.scan = Scan(self.plan, type(cell).__name__)

    def __call__(self, sequence: Sequence, given: dict[Any, dict[str, Tensor]]) -> tuple[States, States]:
        """The values after each step of the states that are watched, [T, B, H], and the final values of all."""
        T, B, reverse, lengths, states = sequence.T, sequence.B, sequence.reverse, sequence.lengths, sequence.states
        rows = full_rows(T, B) if lengths is None else ragged_rows(T, lengths, reverse)
        values: dict[Line, Any] = {}
        for line, x in zip(self.inputs, sequence.inputs):
            values[line] = rows.gathered(flip(x, 0) if reverse and lengths is None else x)
        held = [tensor for named in given.values() for tensor in named.values()]
        values |= {x: rows.ordered(tensor) if x.per_row else tensor for x, tensor in zip(self.given, held)}
        values |= self._draw(rows, T)
        plan = self.plan
        value = lambda line: _evaluate(line, rows, values, plan.timed)
        as_tensor = lambda v: v if isinstance(v, Tensor) else Tensor(np.asarray(v))
        sequences = [value(line) for line in plan.sequences]
        constants = [value(line) for line in plan.constants]
        vectors = [as_tensor(value(line)) for line in plan.vectors]
        weights = [[as_tensor(value(line)) for line in product.weights] for product in plan.products]
        every, finals = self.scan(sequences, constants, vectors, weights, tuple(map(rows.ordered, states)), rows)
        padded = [rows.scattered(values, T) for values in every]
        if reverse and lengths is None:
            padded = [flip(y, 0) for y in padded]
        return tuple(padded), tuple(map(rows.unordered, finals))

    def _draw(self, rows: Rows, T: int) -> dict[Line, Tensor]:
        """Random numbers for all T steps, in the order in which the tape would draw them: step by step."""
        if len(self.drawn) == 1:  # numbers are drawn one by one: all at once are the same
            ((line, source),) = self.drawn
            found = {line: [source((T * rows.B, line.width))]}
        else:
            found = {line: [] for line, _ in self.drawn}
            for _ in range(T if self.drawn else 0):
                for line, source in self.drawn:
                    found[line].append(source((rows.B, line.width)))
        every = {line: np.concatenate(parts) if len(parts) > 1 else parts[0] for line, parts in found.items()}
        return {line: Tensor(x if rows.drawn is None else x[rows.drawn]) for line, x in every.items()}


def _evaluate(line: Line, rows: Rows, values: dict[Line, Any], timed: set[Line]) -> Any:
    """What a line that comes before the loop stands for: for each row of each step if it is `timed`, else once."""
    if line not in values:
        if line.row is None:
            values[line] = line.value
        else:
            operands = [_evaluate(y, rows, values, timed) if isinstance(y, Line) else y for y in line.inputs]
            if line in timed:
                operands = [
                    rows.repeated(v) if isinstance(y, Line) and y.per_row and y not in timed else v
                    for y, v in zip(line.inputs, operands)
                ]
            if line.row is table.matmul and len(operands) > 2:  # joined: weights side by side
                operands = [operands[0], table.cat(*operands[1:], dim=1)]
            values[line] = line.row(*operands, **sized(line.attributes, rows.total if line in timed else rows.B))
    return values[line]


class _Compiled:
    """A compiled cell, or the reason why there is none, and the attributes that it was traced with."""

    def __init__(self, cell: Any, sequence: Sequence) -> None:
        self.attributes = _attributes(cell)
        self.fused: FusedCell | None = None
        self.reason = ""
        random_state = get_rng_state()  # a step that draws numbers must find the same ones on the tape
        try:
            with no_grad():
                self.fused = FusedCell(cell, sequence)
        except Unfusable as error:
            self.reason = str(error)
        except Exception as error:  # whatever the user's code raises: the tape will raise it again, in its own words
            self.reason = f"step could not be traced: {error}"
        finally:
            set_rng_state(random_state)

    def holds(self, cell: Any) -> bool:
        """Whether the cell's attributes are the objects they were: a step may branch on any of them."""
        now = _attributes(cell)
        return len(now) == len(self.attributes) and all(a is b for a, b in zip(now, self.attributes))


VARIANTS = 8  # of a cell that are remembered for inputs of one kind, such as one for training and one for evaluation
_compiled: "weakref.WeakKeyDictionary[Any, dict[Any, list[_Compiled]]]" = weakref.WeakKeyDictionary()


def _attributes(cell: Any) -> list[Any]:
    """All that the modules hold, with what is in lists and dictionaries: these may change and stay what they are."""
    found = [value for module in cell.modules() for value in vars(module).values()]
    opened = set()
    for value in found:  # which grows on the way
        if isinstance(value, (list, tuple, set, dict)) and id(value) not in opened:
            opened.add(id(value))
            found += [*value, *value.values()] if isinstance(value, dict) else value
    return found


def fused_cell(cell: Any, sequence: Sequence) -> FusedCell:
    """The compiled cell for a sequence like this, from an earlier call if nothing has changed.

    Raises:
        Unfusable: with the reason.
    """
    known = _compiled.setdefault(cell, {}).setdefault(sequence.kind, [])
    for compiled in known:
        if compiled.holds(cell):
            break
    else:
        compiled = _Compiled(cell, sequence)
        known[:] = [compiled, *known[: VARIANTS - 1]]
    if compiled.fused is None:
        raise Unfusable(compiled.reason)
    return compiled.fused


def last_fused_cell(cell: Any) -> FusedCell | None:
    """The compiled cell of the last call that needed a new one; None if there was no call since the cell changed.

    Raises:
        Unfusable: there was one, and it could not be compiled.
    """
    for known in reversed(_compiled.get(cell, {}).values()):
        for compiled in known:
            if compiled.holds(cell):
                if compiled.fused is None:
                    raise Unfusable(compiled.reason)
                return compiled.fused
    return None
