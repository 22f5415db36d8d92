"""The sum of the squares of a large array in float64, one pass over it: what the norm of gradients waits for."""

import functools

import numpy as np
from numba import config

from . import cache

SOURCE = '''\
from numba import njit, types
from numpy import float64
from tinygrad_rnn.kernels.intrinsics import REDUCE
@njit(types.float64(types.Array(types.{dtype}, 1, "C", readonly=True)), cache=CACHE, **REDUCE)
def entry(x):
    total = 0.0
    for k in range(x.size):
        total += float64(x[k]) * float64(x[k])
    return total
'''
LARGE = 1 << 15  # elements from which a pass over memory costs more than NumPy's calls


def sum_of_squares(x: np.ndarray) -> float:
    """sum x^2 in float64, whatever the dtype of x; inf where it is out of range, NaN where x has any."""
    flat = np.ascontiguousarray(x).reshape(-1)
    if flat.size >= LARGE and flat.dtype in (np.float32, np.float64) and not config.DISABLE_JIT:
        return _compiled(flat.dtype)(flat)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        wide = flat.astype(np.float64)
        return float(wide @ wide)


_compiled = functools.cache(lambda dtype: cache.load(SOURCE.format(dtype=dtype.name), f"squares_{dtype.name}").entry)
