"""Whether a step did the same when it was traced again: what counts, or differs from time to time, must be a state."""

from typing import Any

import numpy as np

from ..autograd import tape
from .keys import key_of
from .program import Program, Value
from .refusal import Unfusable


def compare(program: Program, again: Program) -> None:
    """Whether a step does the same for batches of two sizes, and each time it runs.

    Raises:
        Unfusable: it does not.
    """
    for value, other in zip(program.values, again.values):
        where = f"({value.where or other.where or 'in step'})"
        if value.held is not other.held and value.held is not None and _content(value) != _content(other):
            raise Unfusable(
                "step makes another constant each time it runs: draw numbers by tg.rand(h.shape), and let what counts "
                f"or changes be a state {where}"
            )
        if _signature(value) != _signature(other):
            numbers = lambda x: [y for y in x.inputs if not isinstance(y, Value)]
            what = "step does not do the same each time it runs, or computes with the size of the batch"
            lead = "let what counts or changes be a state"
            if value.row is other.row and list(map(key_of, numbers(value))) != list(map(key_of, numbers(other))):
                what = "step computes with another number each time it runs, or with the size of the batch"
            raise Unfusable(f"{what}: {lead} {where}")
    if len(program.values) != len(again.values):
        longer = max(program.values, again.values, key=len)
        where = longer[min(len(program.values), len(again.values))].where or "in step"
        raise Unfusable(f"step does not do the same each time it runs: let what it decides by be a state ({where})")
    if [x.name for x in program.outputs] != [x.name for x in again.outputs]:
        raise Unfusable("step does not return the same each time it runs: let what it decides by be a state")


def _content(value: Value) -> Any:
    return key_of(value.held.data if isinstance(value.held, tape.Value) else np.asarray(value.held))


def _signature(value: Value) -> Any:
    """All that a value says."""
    operands = [x.name if isinstance(x, Value) else key_of(x) for x in value.inputs]
    return value.name, value.kind, value.row, value.shape, value.dtype, value.rate, operands, key_of(value.attributes)
