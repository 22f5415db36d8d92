"""What options of cells may be: whole numbers, finite numbers, one of some words."""

import math
from numbers import Integral, Real
from typing import Any

from ..cell import Cell


def whole(cell: Cell, least: int = 1, **options: Any) -> None:
    """Refuse options that are no whole numbers or below the least.

    >>> import tinygrad_rnn as tg
    >>> tg.nn.cells.RHNCell(3, 4, depth=2.5)
    Traceback (most recent call last):
    ValueError: RHNCell: depth must be a whole number, not 2.5
    """
    for name, value in options.items():
        if type(value) is bool or not isinstance(value, Integral):
            refuse(cell, name, "a whole number", value)
        if value < least:
            refuse(cell, name, "positive" if least == 1 else f"at least {least}", value)


def number(cell: Cell, what: str = "positive", **options: Any) -> None:
    """Refuse options that are no finite numbers, or not what they must be: a key of `RANGES`, or any finite number.

    >>> import tinygrad_rnn as tg
    >>> tg.nn.cells.LEMCell(3, 4, dt=float("inf"))
    Traceback (most recent call last):
    ValueError: LEMCell: dt must be finite, not inf
    """
    fits = RANGES.get(what, lambda value: value == value)
    for name, value in options.items():
        if type(value) is bool or not isinstance(value, Real):
            refuse(cell, name, "a number", value)
        if not fits(value):
            refuse(cell, name, what, value)
        if math.isinf(value):
            refuse(cell, name, "finite", value)


RANGES = {
    "positive": lambda value: value > 0,
    "at least 0": lambda value: value >= 0,
    "between 0 and 1": lambda value: 0 <= value <= 1,
    "above 0 and at most 1": lambda value: 0 < value <= 1,
    "above 1, or None": lambda value: value > 1,
}


def word(cell: Cell, *words: str, **options: Any) -> None:
    """Refuse options that are none of these words.

    >>> import tinygrad_rnn as tg
    >>> tg.nn.cells.CfCCell(3, 4, mode="gate")
    Traceback (most recent call last):
    ValueError: CfCCell: mode must be 'default', 'no_gate' or 'pure', not 'gate'
    """
    *others, last = map(repr, words)
    for name, value in options.items():
        if value not in words:
            refuse(cell, name, f"{', '.join(others)} or {last}", value)


def refuse(cell: Cell, name: str, what: str, value: Any) -> None:
    """Raise that an option must be something else than what it is."""
    raise ValueError(f"{type(cell).__name__}: {name} must be {what}, not {value!r}")
