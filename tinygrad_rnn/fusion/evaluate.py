"""A program on the tape: for one step, or for the rows of all steps at once."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..autograd import table, tape
from ..autograd.products import matmul
from ..autograd.shapes import cat, split
from .program import Program, Value, needed_for, run_value
from .rows import Rows, full_rows


def evaluate(values: Iterable[Value], known: dict[Value, Any], rows: Rows) -> None:
    """Add the values to those that are known: of each step [total, ...], of each sequence [B, ...], or of all."""
    for value in values:
        if value.row is None or value in known:
            continue
        operands = [known[x] if isinstance(x, Value) else x for x in value.inputs]
        if value.timed:
            for i, x in enumerate(value.inputs):
                if isinstance(x, Value) and x.rate == "sequence":
                    operands[i] = rows.repeated(operands[i])
        how = matmul if value.row is table.matmul else value.row  # one product of many with the same matrix
        known[value] = run_value(value, operands, rows.total if value.timed else rows.B, how)


def as_rows(leaf: Value, x: Any, rows: Rows) -> Any:
    """What a user gave for a leaf, in the order of rows: arrays, or tensors on the tape."""
    if leaf.kind == "input":
        return rows.gathered(x)
    return rows.ordered(x) if leaf.per_row else x


def step_by_step(
    program: Program, watched: int, known: dict[Value, Any], rows: Rows
) -> tuple[list[list[Any]], Sequence[Any]]:
    """The values of the watched states after each step, [running, ...] each, and the final ones of all.

    Args:
        known: what a step is made of, for all steps, and the initial states.
    """
    inside = needed_for(program.outputs, known.__contains__)
    values = [value for value in program.values if value in inside]
    running = np.diff(rows.starts[1:]).tolist()
    steps = {value: split(x, running) for value, x in known.items() if value.timed and value.kind != "state"}
    states = [known[state] for state in program.states]
    every: list[list[Any]] = [[] for _ in range(watched)]
    for t, n in enumerate(running):
        of_running = lambda x, n=n: x if n == rows.B else x[:n]
        at_step = {value: of_running(x) if value.rate == "sequence" else x for value, x in known.items()}
        at_step |= {value: xs[t] for value, xs in steps.items()}
        at_step |= {state: of_running(x) for state, x in zip(program.states, states)}
        evaluate(values, at_step, full_rows(1, n))
        new = [at_step[output] for output in program.outputs]
        for seen, state in zip(every, new):
            seen.append(state)
        states = [x if n == rows.B else cat([x, old[n:]]) for x, old in zip(new, states)]
    return every, states


def tensor(x: np.ndarray, wants_gradient: bool = False) -> Any:
    """An array as a leaf of the tape."""
    made = tape.Value.tensor(x)
    return made.requires_grad_(True) if wants_gradient else made
