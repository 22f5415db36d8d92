"""The passes in their order, from a traced step to what `allocate` gives memory."""

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
    after = {"trace": traced}
    after["simplify"] = simplify(traced)
    after["hoist"] = hoist(after["simplify"])
    after["join"] = join(after["hoist"])
    after["transpose"] = transpose(after["join"], watched)
    after["rematerialise"] = rematerialise(after["transpose"])
    after["lower"] = lower(after["rematerialise"])
    return after
