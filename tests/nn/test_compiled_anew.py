"""A cell that is compiled at every call is slower than its tape: who changes what it reads each time is told."""

import warnings

import numpy as np
import pytest
from fusion.comparing import interpret

import tinygrad_rnn as tg
from tinygrad_rnn.fusion.compile import MOST_ANEW, Variants

I = H = 3


class Annealed(tg.nn.Cell):
    input_size = hidden_size = H

    def __init__(self, heat):
        self.U, self.heat = tg.nn.weight(H, H, dtype=np.float64), heat

    def step(self, x, h):
        return tg.tanh((x + h @ self.U) / self.heat)


@pytest.fixture(autouse=True)
def python(monkeypatch):
    interpret(monkeypatch)


def told(change, calls, heat=1.0):
    """The warnings of so many calls, before each of which something is done to the cell."""
    cell, x = Annealed(heat), tg.ones(2, 2, I, dtype=np.float64)
    layer = tg.nn.Recurrent(cell)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for n in range(calls):
            change(cell, n)
            y, _ = layer(x)
            expected = tg.nn.Recurrent(cell, fused="never")(x)[0]
            np.testing.assert_allclose(y.numpy(), expected.numpy(), rtol=1e-12)
    assert layer._last_fused() is not None and len(Variants.of(cell).compiled) == 1
    return [(str(each.message), each.filename) for each in found]


def halve(cell, n):
    cell.heat = 1 + 0.5**n


def test_what_changes_at_each_call_is_named_once():
    assert told(halve, MOST_ANEW - 1) == []
    ((text, file),) = told(halve, MOST_ANEW + 5)
    assert file == __file__ and f"compiled for each of {MOST_ANEW} calls in a row, since self.heat changed" in text
    assert "let a number be a tensor, self.heat = tg.tensor([number])" in text


def test_the_advice_is_good():
    """Another tensor at each call is no change; nor are numbers that are written to one."""

    def change(cell, n):
        cell.heat = tg.tensor([1 + 0.5**n], dtype=np.float64)

    assert told(change, 2 * MOST_ANEW) == []

    def write(cell, n):
        cell.heat.numpy()[...] = 1 + 0.5**n

    assert told(write, 2 * MOST_ANEW, tg.ones(1, dtype=np.float64)) == []


def test_what_changes_now_and_then_is_not():
    assert told(lambda cell, n: halve(cell, n // 2), 3 * MOST_ANEW) == []


def test_a_number_that_is_set_again_is_no_change():
    """Nor is it worth a new kernel, though Python makes another object of it."""
    made = []

    def change(cell, n):
        cell.heat = float(f"{1.5}")
        made.append(cell)

    assert told(change, 2 * MOST_ANEW) == []
    assert Variants.of(made[0]).anew <= 1
