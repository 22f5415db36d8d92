"""Results do not depend on the number of threads, to the last bit: outputs, states, gradients."""

import numpy as np
import pytest
from covering import NAMES, covering

from fuzz.fuzzing import applied
from fuzz.guards import AROUND, SIZES, results
from fuzz.steps import KNOWN
from tinygrad_rnn.nn.cells.catalogue import ROWS


def check(name, dtype, around, I, H, T, B, lengths, reverse=False):
    """The bits of one thread, for two to four."""
    make = lambda: AROUND[around](ROWS[NAMES.index(name)][0](I, H))
    options = dtype, T, B, I, lengths, reverse, True, None
    with applied(["threads"], 1):
        expected = results(make, *options)
    for threads in (2, 3, 4):
        with applied(["threads"], threads):
            for ours, theirs in zip(results(make, *options), expected, strict=True):
                np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", pytest.param("GRUCell", marks=pytest.mark.slow)])
def test_classic_cells(name):
    check(name, np.float32, "bare", 5, 17, 3, 9, None)


@pytest.mark.skipif("lengths on threads" in KNOWN, reason="ends the process for now")
@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", pytest.param("GRUCell", marks=pytest.mark.slow)])
def test_classic_cells_with_lengths(name):
    check(name, np.float32, "bare", 5, 17, 4, 9, np.array([4, 0, 1, 1, 0, 2, 1, 1, 0]))


# Cells that stand for all as they are; of wrappers and float64, whose code they share, each takes every third, others.
CALLS = [(name, np.float32, "bare") for name in covering(1)]
CALLS += [(name, np.float32, "everything") for name in covering(2)[::3]]
CALLS += [(name, np.float64, "bare") for name in covering(3)[1::3]]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dtype", "around"), CALLS)
def test_cells_that_stand_for_all(name, dtype, around):
    random = np.random.default_rng(NAMES.index(name))
    for n in range(2):
        I, H = SIZES[random.integers(len(SIZES))]
        T, B = int(random.integers(1, 6)), int(random.integers(2, 14))
        lengths = None if "lengths on threads" in KNOWN or n % 2 else random.integers(0, T + 1, B)
        check(name, dtype, around, I, max(H, 4), T, B, lengths, reverse=n == 1)
