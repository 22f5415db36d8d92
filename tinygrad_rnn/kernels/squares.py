"""The sum of the squares of a large array in float64, one pass over it: what the norm of gradients waits for."""

import functools
from typing import Any

import numpy as np
from numba import config

from .outline import compiled, read, written_to


def _kernels(real: Any, over_rows: Any) -> Any:
    @over_rows(read(real, 2), written_to(np.float64, 1))
    def sum_squares(i, W, x, total):
        found = np.float64(0)
        for k in range(W):
            found += np.float64(x[k]) * np.float64(x[k])
        total[i] = found

    return sum_squares


LARGE = 1 << 15  # elements from which a pass over memory costs more than NumPy's calls


def sum_of_squares(x: np.ndarray) -> float:
    """sum x^2 in float64, whatever the dtype of x; inf where it is out of range, NaN where x has any."""
    flat = np.ascontiguousarray(x).reshape(-1)
    if flat.size >= LARGE and flat.dtype in (np.float32, np.float64) and not config.DISABLE_JIT:
        _compiled(flat.dtype)(flat[np.newaxis], total := np.empty(1))
        return float(total[0])
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        wide = flat.astype(np.float64)
        return float(wide @ wide)


_compiled = functools.cache(functools.partial(compiled, "squares", _kernels))
