"""Sums over any axes, whose error hardly grows with how much is summed.

NumPy sums what is contiguous in halves, and rows one after the other: a mean of a million float32 numbers of about 100
came out as 101.4. Here rows are summed in blocks, and the sums of blocks in blocks.
"""

import numpy as np

ROWS = 256  # of a block


def summed(x: np.ndarray, axes: tuple[int, ...], keepdims: bool = False) -> np.ndarray:
    """The sum over some axes; integers and booleans as int64."""
    if x.dtype.kind != "f":
        return np.add.reduce(x, axes, np.int64, None, keepdims)  # type: ignore[call-overload]
    for axis in axes:
        if x.shape[axis] > ROWS and not (x.flags.c_contiguous and set(axes).issuperset(range(axis, x.ndim))):
            x = _in_blocks(x, axis)
    return np.add.reduce(x, axes, None, None, keepdims)  # type: ignore[call-overload]


def _in_blocks(x: np.ndarray, axis: int) -> np.ndarray:
    """At most ROWS numbers along an axis that have the same sum."""
    front = (slice(None),) * axis
    while (n := x.shape[axis]) > ROWS:
        blocks, rest = divmod(n, ROWS)
        whole, behind = x[(*front, slice(n - rest))], x[(*front, slice(n - rest, None))]
        x = np.add.reduce(whole.reshape(*x.shape[:axis], blocks, ROWS, *x.shape[axis + 1 :]), axis + 1)
        if rest:
            x[(*front, slice(1))] += np.add.reduce(behind, axis, keepdims=True)
    return x
