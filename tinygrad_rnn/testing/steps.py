"""Whether `step` and `initial_state` say what they take and give, and do it twice alike."""

from typing import Any

import numpy as np

from ..autograd.tape import no_grad
from ..autograd.tensor import Tensor
from ..nn.cell import Cell
from .lines import line_of_error, line_of_step
from .subject import Found, Subject, close, equal, weighted


def check_signature(s: Subject) -> Found:
    """`step` names its states, and what it takes by name is given."""
    if not isinstance(s.cell, Cell):
        yield f"expected a Cell, got {type(s.cell).__name__}: write class MyCell(tg.nn.Cell)", line_of_step(s.cell)
        return
    names, known = s.cell.state_names, s.cell.value_names
    if repeated := {name for name in names if names.count(name) > 1}:
        yield f"two states are called {', '.join(repeated)}", line_of_step(s.cell)
    if missing := [name for name, need in known.items() if need == "required" and name not in s.values]:
        example = ", ".join(f"{name!r}: an array [2, ...]" for name in missing)
        yield f"step takes {', '.join(missing)} by name: call check_cell(cell, values={{{example}}})", \
            line_of_step(s.cell)  # fmt: skip
    if not hasattr(s.cell, "hidden_size") and type(s.cell).initial_state is Cell.initial_state:
        yield "hidden_size is not set: write self.hidden_size = hidden_size in __init__, or override initial_state", \
            line_of_step(s.cell, method="__init__")  # fmt: skip


def check_states(s: Subject) -> Found:
    """`initial_state` and `step` return as many states as there are names, of the same shapes, batch first."""
    s.find_width()
    names, where = s.cell.state_names, line_of_step(s.cell, method="initial_state")
    inner: dict[int, list[Any]] = {}
    for B in (1, s.B, s.B + 3):
        returned = s.cell.initial_state(B)
        states = tuple(returned) if isinstance(returned, (tuple, list)) else (returned,)
        if wrong := [type(state).__name__ for state in states if not isinstance(state, Tensor)]:
            yield f"initial_state({B}) returns {', '.join(wrong)}, not tensors", where
            return
        if len(states) != len(names):
            yield f"initial_state({B}) returns {len(states)} states, step takes {', '.join(names)}", where
            return
        for name, state in zip(names, states):
            if state.shape[:1] != (B,):
                yield f"initial_state({B}) returns {name} of shape {list(state.shape)}, expected [{B}, ...]", where
                return
        inner[B] = [state.shape[1:] for state in states]
    if len({str(shapes) for shapes in inner.values()}) > 1:
        yield "the shapes of initial_state(batch_size) besides the batch depend on batch_size", where
    with no_grad():
        try:
            s.cell(s.x()[0], **s.given())
        except Exception as error:
            yield str(error), line_of_error(error, s.cell)


def check_dtypes(s: Subject) -> Found:
    """float32 comes out where float32 goes in, float64 where float64 does; gradients are like what they belong to."""
    for dtype in (np.float32, np.float64):
        s.convert(dtype)
        with no_grad():
            for name, state in zip(s.cell.state_names, s.cell.begin(None, s.B)):
                if state.dtype != dtype:
                    yield f"initial_state returns {name} in {state.dtype} where the parameters are {np.dtype(dtype)}", \
                        line_of_step(s.cell, method="initial_state")  # fmt: skip
        x = s.x(dtype).requires_grad_()
        results = s.run("never", x, s.hx(dtype))
        for name, result in zip(("y", *s.cell.state_names), results):
            if result.dtype != dtype:
                yield f"{name} comes out in {result.dtype} where all that goes in is {np.dtype(dtype)}: a constant " \
                    "of another dtype is in the step; write tg.tensor(it, dtype=x.dtype), or a Python number", \
                    line_of_step(s.cell, r"float64|float32|np\.|tensor\(")  # fmt: skip
                return
        weighted(results).backward()
        for name, p in {"x": x, **s.learned()}.items():
            if p.grad is not None and p.grad.dtype != dtype:
                yield f"the gradient of {name} is {p.grad.dtype}, and {name} is {np.dtype(dtype)}", line_of_step(s.cell)


def check_repeatable(s: Subject) -> Found:
    """In eval mode two calls give the same, bit by bit, and whether gradients are recorded makes no difference."""
    first, second = s.gradients("never"), s.gradients("never")
    if not equal(first, second):
        s.differs = True
        yield "two calls in eval mode differ: draw noise only where self.training", \
            line_of_step(s.cell, r"rand|dropout|noise|\+=|append|count")  # fmt: skip
        return
    with no_grad():
        plain = [y.data for y in s.run("never", s.x(), s.hx())]
    if not close(plain, first[: len(plain)]):
        yield "results inside no_grad() differ from those that are recorded: step must not ask for the mode", \
            line_of_step(s.cell, r"is_grad_enabled|requires_grad")  # fmt: skip
