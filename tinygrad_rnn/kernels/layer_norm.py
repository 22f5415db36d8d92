"""Rows brought to mean 0 and variance 1, scaled and shifted: forward and backward in one pass each.

Of a row x, with its mean m and r = 1 / sqrt(mean((x - m)^2) + eps), n = (x - m) r, and y = n weight + bias. With
g = dy weight, dx = r (g - mean(g) - n mean(g n)); dweight is the sum of dy n over the rows, and dbias that of dy. Means
are summed in float64. A dozen of NumPy's calls would do the same for ten times the time, if there are few small rows.
"""

import functools
import math
from typing import Any

import numpy as np

from . import cache

SOURCE = '''\
from math import sqrt
from numba import njit, types
from numpy import {dtype} as real
from tinygrad_rnn.kernels.intrinsics import REDUCE, ROW_SUMS
ROWS, ROW, MADE, SUM = (types.Array(types.{dtype}, n, "C", readonly=given) for given in (True, False) for n in (2, 1))
@njit(**ROW_SUMS)
def moments(x, eps):
    m = v = 0.0
    for j in range(x.size):
        m += x[j]
    m = m / max(x.size, 1)
    for j in range(x.size):
        v += (x[j] - m) * (x[j] - m)
    return m, real(1 / sqrt(v / max(x.size, 1) + eps))
@njit(types.void(ROWS, ROW, ROW, types.float64, MADE), cache=CACHE, **REDUCE)
def forward(x, weight, bias, eps, y):
    for i in range(x.shape[0]):
        m, r = moments(x[i], eps)
        for j in range(x.shape[1]):
            y[i, j] = real(x[i, j] - m) * r * weight[j] + bias[j]
@njit(types.void(ROWS, ROWS, ROW, types.float64, MADE, SUM, SUM), cache=CACHE, **REDUCE)
def backward(dy, x, weight, eps, dx, dweight, dbias):
    for i in range(x.shape[0]):
        m, r = moments(x[i], eps)
        p = q = 0.0
        for j in range(x.shape[1]):
            p += dy[i, j] * weight[j]
            q += dy[i, j] * weight[j] * (real(x[i, j] - m) * r)
        for j in range(x.shape[1]):
            n = real(x[i, j] - m) * r
            dx[i, j] = r * (dy[i, j] * weight[j] - real(p / x.shape[1]) - n * real(q / x.shape[1]))
            dweight[j] += dy[i, j] * n
            dbias[j] += dy[i, j]
'''


_compiled = functools.cache(lambda dtype: cache.load(SOURCE.format(dtype=dtype.name), f"layer_norm_{dtype.name}"))
_full = functools.lru_cache(100)(np.full)  # nobody writes to the arrays


def layer_norm(x: np.ndarray, weight: Any, bias: Any, dim: tuple[int, ...], eps: float) -> np.ndarray:
    """y for x whose last dimensions `dim` are a row; weight and bias are rows, or numbers."""
    y, rows = np.empty(x.shape, x.dtype), _rows(x, dim)
    _compiled(x.dtype).forward(rows, _row(weight, x, dim), _row(bias, x, dim), eps, y.reshape(rows.shape))
    return y


def gradients(dy: np.ndarray, x: np.ndarray, dim: tuple[int, ...], eps: float, weight: Any = 1) -> Any:
    """dx, dweight and dbias, these of the shape of a row."""
    rows, shape = _rows(x, dim), x.shape[dim[0] :]
    dx, dweight, dbias = np.empty(x.shape, x.dtype), np.zeros(shape, x.dtype), np.zeros(shape, x.dtype)
    results = dx.reshape(rows.shape), dweight.reshape(-1), dbias.reshape(-1)
    _compiled(x.dtype).backward(_rows(dy, dim), rows, _row(weight, x, dim), eps, *results)
    if rows.shape[1] == 1:  # of one number nothing is left but the rounding of a product
        dx *= 0
    return dx, dweight, dbias


def _rows(x: np.ndarray, dim: tuple[int, ...]) -> np.ndarray:
    return np.ascontiguousarray(x).reshape(math.prod(x.shape[: dim[0]]), math.prod(x.shape[dim[0] :]))


def _row(value: Any, x: np.ndarray, dim: tuple[int, ...]) -> np.ndarray:
    shape = x.shape[dim[0] :]
    row = value if np.ndim(value) else _full(shape, float(value), x.dtype)
    return np.ascontiguousarray(row if row.shape == shape else np.broadcast_to(row, shape)).reshape(-1)
