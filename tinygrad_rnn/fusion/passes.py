"""The passes in their order, from a traced step to what `allocate` gives memory."""

from collections.abc import Callable
from functools import partial

from .hoist import hoist
from .join import join
from .program import Program
from .rematerialise import lower, rematerialise
from .simplify import simplify
from .transpose import transpose

PASSES = ("trace", "simplify", "hoist", "join", "transpose", "rematerialise", "lower")


def compiled(traced: Program, watched: int = 1) -> dict[str, Program]:
    """The program after each pass.

    Args:
        watched: of how many states, from the first, the values at every step are seen from outside.

    Raises:
        Unfusable: an operation has no place in a kernel.
    """
    passes: tuple[Callable[[Program], Program], ...]
    passes = simplify, hoist, join, partial(transpose, watched=watched), rematerialise, lower
    after = {"trace": traced}
    for name, run in zip(PASSES[1:], passes):
        traced = after[name] = run(traced)
    return after
