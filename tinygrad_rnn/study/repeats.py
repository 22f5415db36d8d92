"""Where the operations of a tape repeat, as those of a loop over time do.

    >>> repeats("exp mul add mul add mul add sum".split(), [[], [0], [1], [2], [3], [4], [5], [6]])
    Repeat(first=1, period=2, times=3)
"""

from collections.abc import Sequence
from typing import NamedTuple

LONGEST, FEWEST = 300, 3  # operations of a step, and steps


class Repeat(NamedTuple):
    """Operations that come time and again: from `first` on, `times` times as many as `period`."""

    first: int
    period: int
    times: int


def repeats(operations: Sequence[str], parents: Sequence[Sequence[int]]) -> Repeat | None:
    """The longest run of operations that repeats itself at least three times; None if there is none.

    Two operations are alike if they are of one kind, and their operands lie as far behind, where that is within the
    step or the one before it; or, of what is given, are the same.

    Args:
        operations: the name of each; "" for what is given.
        parents: the numbers of the operands of each.
    """
    chosen = [i for i, name in enumerate(operations) if name]
    place = {i: k for k, i in enumerate(chosen)}
    behind = [[place[i] - place[j] if j in place else -1 - j for j in parents[i]] for i in chosen]
    best: Repeat | None = None
    most = 0
    for period in range(1, min(LONGEST, len(chosen) // FEWEST) + 1):
        near = [tuple(d if d < 2 * period else None for d in each) for each in behind]
        alike = [(operations[i], *near[k]) for k, i in enumerate(chosen)]
        run = 0
        for k in range(len(chosen) - period):
            run = run + 1 if alike[k] == alike[k + period] else 0
            times = run // period + 1
            longer = times * period > most or (best is not None and (times * period, period) == (most, best.period))
            if times >= FEWEST and longer:
                most = times * period
                best = Repeat(k + period - most + 1, period, times)
    return best
