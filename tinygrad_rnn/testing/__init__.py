"""Whether a cell keeps the contract of `nn.Cell`: `check_cell(MyCell(3, 4))` tries all of it and reports every failure.

    >>> import tinygrad_rnn as tg
    >>> print(tg.testing.check_cell(tg.nn.GRUCell(3, 4), only=["signature", "states", "rows", "gradients"]))
    GRUCell: 4 checks passed
        passed: signature, states, rows, gradients

What fails is told all at once, each with the line to mend:

    >>> class Forgets(tg.nn.RNNCell):
    ...     def step(self, x, h):
    ...         return super().step(x, h.detach())
    >>> report = tg.testing.check_cell(Forgets(3, 4), only=["signature", "states", "gradients"], raises=False)
    >>> [failure.check for failure in report.failures]
    ['gradients']

In a test file of your own, one test a check:

    @tg.testing.parametrize_with_checks([lambda: MyCell(3, 4)])
    def test_my_cell(make, check):
        tg.testing.check_cell(make(), only=[check])

In reading order: `report` (what is told), `lines` (of which line), `subject` (a cell while it is tried); the checks:
`steps`, `sequences`, `slopes`, `engines`, `copies`, `changes`; and `check`, which runs them all.
"""

from .check import CHECKS, check_cell, parametrize_with_checks
from .report import CellCheckError, CellReport, Failure
from .subject import Subject
