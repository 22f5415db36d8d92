"""No kernel of a whole layer reads or writes outside of its arrays: those of the user, and those made for a call."""

import pytest

from fuzz.guards import *  # noqa: F403  (what a child is told to call)
from kernels.guarded import in_child, needs_guards
from tinygrad_rnn.nn.cells.catalogue import catalogue

pytestmark = needs_guards
NAMES = [row.name for row in catalogue(4, 4)]
COMPILED_ANYWAY = [NAMES.index(name) for name in ("RNNCell", "LSTMCell", "GRUCell")]


def test_classic_cells():
    in_child(__file__, f"check_cells({COMPILED_ANYWAY}, lengths=None)")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_cell(name):
    numbers = [NAMES.index(name)]
    options = "dtypes=('float32', 'float64'), arounds=('bare', 'everything'), threads=(1, 2, 4), seeds=range(4)"
    in_child(__file__, f"check_cells({numbers}, {options})", timeout=900)
