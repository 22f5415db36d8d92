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
        assert said.startswith(f"{kind.__name__}: {name} must be "), f"{kind.__name__}({name}={value!r}): {said}"


@pytest.mark.parametrize("bad", [0.5, 2.5, -1])
def test_counts_are_whole_numbers(bad):
    counts = [(kind, name) for kind, name in OPTIONS if isinstance(usual(kind, name)[1], int) or "size" in name]
    assert len(counts) > 25
    for kind, name in counts:
        with pytest.raises(ValueError, match=rf"{kind.__name__}: {name} must be .*not {bad}"):
            made(kind, name, bad)


@pytest.mark.parametrize("kind", [row.cell for row in ROWS])
def test_bias_and_dtype_reach_every_parameter(kind):
    options = inspect.signature(kind).parameters
    given = {name: value for name, value in (("bias", False), ("dtype", np.float64)) if name in options}
    for name, p in kind(I, H, **usual(kind, "input_size")[0], **given).named_parameters():
        assert "dtype" not in given or p.dtype == np.float64, name
        assert "bias" not in given or "bias" not in name


def test_a_number_of_numpy_is_a_number():
    cell = tg.nn.cells.CoRNNCell(I, H, dt=np.float32(0.5), gamma=np.float64(2))
    assert cell.dt == 0.5 and tg.nn.cells.RHNCell(I, H, depth=np.int64(2)).depth == 2


@pytest.mark.parametrize("H", [1, 2, 3, 7])
def test_the_list_is_made_at_any_size(H):
    table = tg.nn.cells.list(1, H)
    assert len(table) == len(ROWS) and all(row.parameters > 0 for row in table)


NARROW = {"ClockworkRNNCell", "SRUCell", "LRUCell", "S5Cell"}  # which want a unit


@pytest.mark.parametrize(("B", "I", "H"), [(0, 3, 4), (2, 0, 4), (2, 3, 0)], ids=["batch", "inputs", "units"])
def test_nothing_is_no_trouble(B, I, H):
    """An empty batch, no input and no unit give as little, with gradients."""
    for entry in tg.nn.cells.catalogue.ROWS:
        if H == 0 and entry.cell.__name__ in NARROW:
            continue
        layer = tg.nn.Recurrent(entry.make(I, H), fused="never")
        x = tg.zeros(3, B, I, requires_grad=True)
        y, _ = layer(x, **{name: tg.ones(B, *shape) for name, shape in entry.values(I, H).items()})
        y.sum().backward()
        assert y.shape[:2] == (3, B) and np.isfinite(y.numpy()).all(), entry.cell.__name__
        assert x.grad.shape == x.shape, entry.cell.__name__
