"""Whether gradients are the slopes."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..autograd import table
from ..autograd.gradcheck import GradcheckError, gradcheck
from .lines import line_of_step
from .subject import Found, Subject, weighted, words


def check_gradients(s: Subject) -> Found:
    """Gradients agree with finite differences, on both engines; what `straight_through` decides does not move."""
    for engine in s.engines:
        hx = tuple(state.requires_grad_() for state in s.hx())
        x = s.x().requires_grad_()
        run = lambda e, x=x, hx=hx: lambda _: weighted(s.run(e, x, hx))
        wrong: dict[str, str] = {}
        for name, p in {"x": x, **dict(zip(s.cell.state_names, hx)), **s.learned()}.items():
            try:
                gradcheck(decided_once(run(engine), run("never")), [p])
            except GradcheckError as error:
                told = re.search(r"backward gives .*", str(error))
                wrong[name] = told[0] if told else str(error)
        if wrong:
            name = next((name for name in wrong if name in s.learned()), next(iter(wrong)))
            meant = "skip=['gradients'] where that is meant, or where a step begins on a kink, such as relu's at 0"
            yield f"the gradient of {', '.join(wrong)} is not the slope ({words(engine)}; of {name}, {wrong[name]}); " \
                f"{meant}", line_of_gradient(s, list(wrong))  # fmt: skip
            return


class decided_once:
    """A function for `gradcheck`: `run`, in which what `straight_through` decides at the first call stays decided.

    A decision has no slope, and `straight_through(hard, soft)` promises that of `soft` at what was decided. So from the
    second call on its value is `soft`, plus what `hard` was beyond it at the first. That is done on the tape, where
    `on_tape` computes the same; where nothing is decided, `run` is simply run.
    """

    def __init__(self, run: Callable[..., Any], on_tape: Callable[..., Any]) -> None:
        self.run, self.on_tape, self.first = run, on_tape, True
        self.beyond: list[np.ndarray] = []

    def __call__(self, *inputs: Any) -> Any:
        if self.first:
            self.first = False
            with instead(self.keep):
                self.on_tape(*inputs)
        elif self.beyond:
            known = iter(self.beyond)
            with instead(lambda hard, soft: soft + next(known)):
                return self.on_tape(*inputs)
        return self.run(*inputs)

    def keep(self, hard: Any, soft: Any) -> Any:
        numbers = lambda value: np.asarray(getattr(value, "data", value))
        self.beyond.append(numbers(hard) - numbers(soft))
        return soft + self.beyond[-1]


@contextmanager
def instead(straight_through: Callable[..., Any]) -> Iterator[None]:
    """While it lasts, another function is the table's `straight_through`."""
    real, rows = table.straight_through, vars(table)
    try:
        rows["straight_through"] = straight_through
        yield
    finally:
        rows["straight_through"] = real


def line_of_gradient(s: Subject, names: list[str]) -> str:
    """The line of the step that cuts a gradient; else one that reads what has the wrong one."""
    cuts = r"detach|no_grad|\.numpy\(|\.data\b|clip_gradient|straight_through|np\."
    own = [rf"self\.{re.escape(name)}\b" if name in s.learned() else rf"\b{re.escape(name)}\b" for name in names]
    patterns = [*(rf"(?=.*({cuts}))(?=.*{name})" for name in own), cuts, *own]
    definition = line_of_step(s.cell)
    found = (line_of_step(s.cell, pattern) for pattern in patterns)
    return next((line for line in found if line != definition), definition)
