"""The classic cells as kernels and on the tape, to 1e-12 in float64, at sizes that fit neither vectors nor blocks."""

import numpy as np
import pytest

import tinygrad_rnn as tg
from fusion.comparing import assert_close, results

SIZES = [1, 2, 3, 7, 16, 33, 64]
CELLS = {"rnn": tg.nn.RNNCell, "lstm": tg.nn.LSTMCell, "gru": tg.nn.GRUCell}


def pairs(a):
    """T, B, I, H for one T, so that over all T every two sizes meet in every two of the four places."""
    n = len(SIZES)
    return [(SIZES[a], SIZES[b], SIZES[(a + b) % n], SIZES[(a + 2 * b) % n]) for b in range(n)]


def test_every_two_sizes_meet():
    rows = np.array([row for a in range(len(SIZES)) for row in pairs(a)])
    for i in range(4):
        for j in range(i):
            assert len(np.unique(rows[:, [i, j]], axis=0)) == len(SIZES) ** 2


def agree(name, T, B, I, H):
    tg.manual_seed(0)
    cell = CELLS[name](I, H, dtype=np.float64)
    fused, tape = (results(cell, (T, B, I), engine) for engine in ("require", "never"))
    assert_close(fused, tape)


@pytest.mark.slow  # a kernel is compiled for every number of inputs: a minute
@pytest.mark.parametrize("number", range(len(SIZES)), ids=lambda number: f"T={SIZES[number]}")
@pytest.mark.parametrize("name", CELLS)
def test_classic_cells_agree_to_twelve_digits(name, number):
    for sizes in pairs(number):
        agree(name, *sizes)


@pytest.mark.parametrize(
    ("name", "I"),
    [("gru", 1), *(pytest.param(*other, marks=pytest.mark.slow) for other in (("rnn", 7), ("lstm", 7), ("gru", 33)))],
)
def test_classic_cells_of_one_number_of_inputs_agree(name, I):
    """Each size in each of the other places: kernels that are compiled once, and once more for one hidden unit."""
    for number in range(len(SIZES)):
        T, B, _, H = pairs(number)[number - 1]
        agree(name, T, B, I, H)
