"""A cell compiled: what is computed before the loop, the loop, and what can be told of both."""

import weakref
from typing import Any

import numpy as np

from ..autograd import table
from ..autograd.creation import get_rng_state, set_rng_state
from ..autograd.shapes import flip, reshape
from ..autograd.tensor import Tensor
from .plan import Plan, make_plan
from .rows import full_rows, ragged_rows
from .scan import Scan
from .trace import BATCH, Line, Unfusable, sized, trace_step


class FusedCell:
    """A cell for inputs and states of given widths and dtype, run by two kernels.

    Raises (when made):
        Unfusable: the step cannot be a kernel; the message says why.
    """

    def __init__(self, cell: Any, x: Tensor, states: tuple[Tensor, ...]) -> None:
        dtype = x.dtype
        if dtype.kind != "f" or any(s.dtype != dtype or s.ndim != 2 for s in states):
            raise Unfusable("the input and all states must be floats of one dtype, states [B, H]")
        kinds = [(name, (BATCH, s.shape[1]), dtype) for name, s in zip(cell.state_names, states)]
        trace, outputs = trace_step(cell, ((BATCH, x.shape[-1]), dtype), kinds)
        self.plan: Plan = make_plan(trace, outputs)
        self.scan = Scan(self.plan, type(cell).__name__)

    def __call__(
        self, x: Tensor, states: tuple[Tensor, ...], reverse: bool, lengths: np.ndarray | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The first state after each step [T, B, H], and the final states."""
        T, B, width = x.shape
        if lengths is not None:
            layout = ragged_rows(T, lengths, reverse)
            rows = table.index(reshape(x, (T * B, width)), at=(layout.places,))
            states = tuple(table.index(state, at=(layout.order,)) for state in states)
        else:
            layout = full_rows(T, B)
            rows = reshape(flip(x, 0) if reverse else x, (T * B, width))
        plan = self.plan
        values: dict[Line, Any] = {}
        value = lambda line: _evaluate(line, rows, values)
        as_tensor = lambda v: v if isinstance(v, Tensor) else Tensor(np.asarray(v))
        sequences = [value(line) for line in plan.sequences]
        vectors = [as_tensor(value(line)) for line in plan.vectors]
        weights = [[as_tensor(value(line)) for line in product.weights] for product in plan.products]
        (y,), finals = self.scan(sequences, vectors, weights, states, layout)
        if lengths is None:
            y = reshape(y, (T, B, y.shape[1]))
            return (flip(y, 0) if reverse else y), tuple(finals)
        y = reshape(table.index_add(y, shape=(T * B, y.shape[1]), at=(layout.places,)), (T, B, y.shape[1]))
        back = np.argsort(layout.order)
        return y, tuple(table.index(final, at=(back,)) for final in finals)


def _evaluate(line: Line, x: Tensor, values: dict[Line, Any]) -> Any:
    """What a line that comes before the loop stands for, with x [T * B, I] as the input."""
    if line not in values:
        if line.kind == "input":
            values[line] = x
        elif line.row is None:
            values[line] = line.value
        else:
            operands = [_evaluate(y, x, values) if isinstance(y, Line) else y for y in line.inputs]
            if line.row is table.matmul and len(operands) > 2:  # joined: weights side by side
                operands = [operands[0], table.cat(*operands[1:], dim=1)]
            values[line] = line.row(*operands, **sized(line.attributes, x.shape[0]))
    return values[line]


class _Compiled:
    """A compiled cell, or the reason why there is none, and the attributes that it was traced with."""

    def __init__(self, cell: Any, x: Tensor, states: tuple[Tensor, ...]) -> None:
        self.attributes = _attributes(cell)
        self.fused: FusedCell | None = None
        self.reason = ""
        random_state = get_rng_state()  # a step that draws numbers must find the same ones on the tape
        try:
            self.fused = FusedCell(cell, x, states)
            if get_rng_state() != random_state:
                self.fused, self.reason = None, "step draws random numbers"
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


_compiled: "weakref.WeakKeyDictionary[Any, dict[Any, _Compiled]]" = weakref.WeakKeyDictionary()


def _attributes(cell: Any) -> list[Any]:
    """All that the modules hold, with what is in lists and dictionaries: these may change and stay what they are."""
    found = [value for module in cell.modules() for value in vars(module).values()]
    opened = set()
    for value in found:  # which grows on the way
        if isinstance(value, (list, tuple, set, dict)) and id(value) not in opened:
            opened.add(id(value))
            found += [*value, *value.values()] if isinstance(value, dict) else value
    return found


def fused_cell(cell: Any, x: Tensor, states: tuple[Tensor, ...]) -> FusedCell:
    """The compiled cell for inputs like x and states like these, from the last call if nothing has changed.

    Raises:
        Unfusable: with the reason.
    """
    kind = (x.shape[-1], x.dtype.char, *[(s.shape[1:], s.dtype.char) for s in states])
    known = _compiled.setdefault(cell, {})
    if kind not in known or not known[kind].holds(cell):
        known[kind] = _Compiled(cell, x, states)
    if known[kind].fused is None:
        raise Unfusable(known[kind].reason)
    return known[kind].fused  # type: ignore[return-value]


def last_fused_cell(cell: Any) -> FusedCell | None:
    """The compiled cell of the last call that needed a new one; None if there was no call since the cell changed.

    Raises:
        Unfusable: there was one, and it could not be compiled.
    """
    for compiled in reversed(_compiled.get(cell, {}).values()):
        if compiled.holds(cell):
            if compiled.fused is None:
                raise Unfusable(compiled.reason)
            return compiled.fused
    return None
