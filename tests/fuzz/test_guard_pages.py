"""No kernel of a whole layer reads or writes outside of its arrays: those of the user, and those made for a call."""

import pytest
from covering import NAMES, covering
from kernels.guarded import in_child, needs_guards

from fuzz.guards import *  # noqa: F403  (what a child is told to call)
from fuzz.steps import KNOWN

pytestmark = needs_guards
LENGTHS = None if "lengths on threads" in KNOWN else True  # with one thread only, or always
COMPILED_ANYWAY = [NAMES.index(name) for name in ("RNNCell", "LSTMCell", "GRUCell")]


@pytest.mark.slow
def test_classic_cells():
    in_child(__file__, f"check_cells({COMPILED_ANYWAY}, lengths={LENGTHS})")


@pytest.mark.slow
@pytest.mark.parametrize(("turn", "name"), [*enumerate(covering())])
def test_cells_that_stand_for_all(turn, name):
    """As they are; with wrappers around it and in float64, whose code cells share, every third."""
    n, options = NAMES.index(name), f"threads=(1, 4), lengths={LENGTHS}"
    around = ("bare", "everything") if turn % 3 == 0 else ("bare",)
    check = f"check_cells([{n}], arounds={around}, {options})"
    if turn % 3 == 1:
        check += f"\ncheck_cells([{n}], dtypes=('float64',), seeds=(2,), {options})"
    in_child(__file__, check, timeout=900)
