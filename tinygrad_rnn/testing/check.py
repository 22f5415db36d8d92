"""`check_cell`: all checks of a cell, and one report."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ..autograd.creation import get_rng_state, set_rng_state
from ..nn.cell import Cell
from ..nn.utils.parametrize import only_looking
from .changes import check_stale, check_threads
from .copies import check_deepcopy, check_pickle, check_state_dict
from .engines import check_compiles, check_engines, check_validation
from .lines import line_of_error, line_of_step
from .report import CellCheckError, CellReport, Failure
from .sequences import check_lengths, check_reverse, check_rows, check_small
from .slopes import check_gradients
from .steps import check_dtypes, check_repeatable, check_signature, check_states
from .subject import Found, Subject, restored

CHECKS: dict[str, Callable[[Subject], Found]] = {
    "signature": check_signature, "states": check_states, "dtypes": check_dtypes, "repeatable": check_repeatable,
    "rows": check_rows, "small": check_small, "lengths": check_lengths, "reverse": check_reverse,
    "gradients": check_gradients, "compiles": check_compiles, "engines": check_engines,
    "validation": check_validation, "deepcopy": check_deepcopy, "pickle": check_pickle,
    "state_dict": check_state_dict, "threads": check_threads, "stale": check_stale,
}  # fmt: skip
FIRST = ("signature", "states")  # without which nothing can be tried


def check_cell(
    cell: Cell, *, input_size: int | None = None, values: dict[str, Any] | None = None,
    only: Iterable[str] | None = None, skip: Iterable[str] = (), raises: bool = True,
) -> CellReport:  # fmt: skip
    """Check a cell against the whole contract, in small sizes, on both engines; the cell is left as it was.

        >>> import tinygrad_rnn as tg
        >>> report = tg.testing.check_cell(tg.nn.RNNCell(3, 2), only=["states", "rows", "lengths"])
        >>> report.passed, report.failures
        (['states', 'rows', 'lengths'], [])

    Args:
        cell: it has the sizes that it is tried with: small ones, such as MyCell(3, 4), take seconds. It is given one
            input: a step of several is tried in a wrapper that gets them side by side and has them apart, with
            `self.cell.advance((x[:, :3], x[:, 3:]), states)`.
        input_size: I, the width of x [T, B, I]; `cell.input_size` by default, or a width that its step takes.
        values: what `step` takes by name, arrays [2, ...] with a row for each of two sequences.
        only, skip: names of `CHECKS`. Skip "gradients" where a gradient is meant to be another one than the slope, as
            that of `clip_gradient`.
        raises: whether to raise where something fails, rather than return the report.

    Raises:
        CellCheckError: something fails: all of it is told at once.
        ValueError: there is no such check.
    """
    names = list(CHECKS if only is None else only)
    for name in [*names, *(skip := set(skip))]:
        if name not in CHECKS:
            raise ValueError(f"check_cell: there is no check {name!r}; there are {', '.join(CHECKS)}")
    names = [name for name in names if name not in skip]
    report = CellReport(type(cell).__name__, [], [], [], [])
    subject, drawn = Subject(cell, input_size, dict(values or {}), report), get_rng_state()
    for name in [*(first for first in FIRST if first not in names), *names]:
        with only_looking():  # or both engines would have another weight where each sequence changes what it is made of
            found = failures_of(subject, name)
        report.failures.extend(found)
        if not found and name in names and name not in report.untried:
            report.passed.append(name)
        if found and (name in FIRST or subject.differs):
            report.notes.append("the other checks need a step that runs, and does so twice alike")
            report.untried.extend(each for each in names if each not in report.passed and each != name)
            break
    set_rng_state(drawn)  # nobody's weights depend on whether a cell was checked
    if report.failures and raises:
        raise CellCheckError(report)
    return report


def failures_of(s: Subject, check: str) -> list[Failure]:
    """What a check finds; an error that it does not expect is a failure as well."""
    found: list[Failure] = []
    with restored(s.cell):
        if isinstance(s.cell, Cell):
            s.cell.eval()
            s.convert(np.float64)
        try:
            for message, *line in CHECKS[check](s):
                found.append(Failure(check, message, line[0] if line else line_of_step(s.cell)))
        except Exception as error:
            found.append(Failure(check, f"{type(error).__name__}: {error}", line_of_error(error, s.cell)))
    return found


def parametrize_with_checks(makers: Sequence[Callable[[], Cell]], only: Iterable[str] | None = None) -> Any:
    """A decorator: a test with arguments `make` and `check`, once for each cell and check.

        >>> import tinygrad_rnn as tg
        >>> mark = tg.testing.parametrize_with_checks([lambda: tg.nn.GRUCell(3, 4)], only=["rows"])
        >>> mark.name, len(mark.args[1])
        ('parametrize', 1)

    Args:
        makers: functions that make a cell.
        only: the names of checks; all of `CHECKS` by default.

    Raises:
        ImportError: pytest is not installed.
    """
    import pytest

    names = list(CHECKS if only is None else only)
    title = lambda make: getattr(make, "__name__", "<lambda>").replace("<lambda>", type(make()).__name__)
    cases = [pytest.param(make, name, id=f"{title(make)}-{name}") for make in makers for name in names]
    return pytest.mark.parametrize(("make", "check"), cases)
