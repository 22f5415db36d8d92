"""What a cell cannot be made of is refused by name, whichever cell and option it is."""

import inspect
import math

import numpy as np
import pytest

import tinygrad_rnn as tg

I, H = 4, 8
BASICS = ("input_size", "hidden_size", "bias", "dtype")
ROWS = tg.nn.cells.list(I, H)
OPTIONS = [
    (row.cell, name)
    for row in ROWS
    for name, option in inspect.signature(row.cell).parameters.items()
    if name not in BASICS and option.kind is not inspect.Parameter.VAR_KEYWORD
]


def usual(kind, name):
    """An option as it is where nobody gives it."""
    parameters = inspect.signature(kind).parameters
    wanted = {key: 2 for key, p in parameters.items() if p.default is p.empty and key not in (*BASICS, name)}
    return wanted, parameters[name].default


def made(kind, name, value):
    others, _ = usual(kind, name)
    return kind(I, H, **{**others, name: value})


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, "nonsense", [3], None], ids=str)
def test_nonsense_is_refused_by_name(bad):
    """A cell's constructor says so, rather than a step, or nobody."""
    for kind, name in OPTIONS:
        _, default = usual(kind, name)
        if bad is None and default is None:
            continue
        value = (bad, bad) if isinstance(default, tuple) else bad
        with pytest.raises(ValueError) as caught:
            made(kind, name, value)
        said = str(caught.value)
        assert said.startswith(f"{kind.__name__}: ") and name in said, f"{kind.__name__}({name}={value!r}): {said}"


@pytest.mark.parametrize("bad", [0.5, 2.5, -1])
def test_counts_are_whole_numbers(bad):
    counts = [(kind, name) for kind, name in OPTIONS if isinstance(usual(kind, name)[1], int) or "size" in name]
    assert len(counts) > 25
    for kind, name in counts:
        with pytest.raises(ValueError, match=rf"{kind.__name__}: {name} must be .*not {bad}"):
            made(kind, name, bad)


def test_a_number_of_numpy_is_a_number():
    cell = tg.nn.cells.CoRNNCell(I, H, dt=np.float32(0.5), gamma=np.float64(2))
    assert cell.dt == 0.5 and tg.nn.cells.RHNCell(I, H, depth=np.int64(2)).depth == 2
