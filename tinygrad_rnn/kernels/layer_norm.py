"""Rows brought to mean 0 and variance 1, scaled and shifted: forward and backward in one pass each.

Of a row x, with its mean m and r = 1 / sqrt(mean((x - m)^2) + eps), n = (x - m) r, and y = n weight + bias. With
g = dy weight, dx = r (g - mean(g) - n mean(g n)); dweight is the sum of dy n over the rows, and dbias that of dy. A
dozen of NumPy's calls would do the same for ten times the time, if there are few small rows.

A row's numbers are summed in their own dtype, which is twice as fast as in float64. What rounding does to their mean m,
the mean c of x - m makes up for. Unless squares leave the dtype, or rounding is all that there is (numbers that are
large and nearly equal): such a row is summed again, in float64.
"""

import functools
import math
from typing import Any

import numpy as np

from . import cache

SOURCE = '''\
from math import sqrt
from numba import njit, types
from numpy import {dtype} as real, float64
from tinygrad_rnn.kernels.intrinsics import REDUCE, ROW as INLINE, ROW_SUMS
ROWS, MADE, ROW, SUM = (types.Array(types.{dtype}, n, "C", readonly=given) for n in (2, 1) for given in (True, False))
@njit(_nrt=False, **INLINE)
def less(x, m, c):
    return (x - m) - c
@njit(_nrt=False, forceinline=True, **ROW_SUMS)
def sums(x, m):
    p = q = real(0)
    for j in range(x.size):
        p += less(x[j], m, real(0))
        q += less(x[j], m, real(0)) * less(x[j], m, real(0))
    return p / max(x.size, 1), q / max(x.size, 1)
@njit(_nrt=False, forceinline=True, **ROW_SUMS)
def moments(x, eps):
    m = real(sums(x, real(0))[0])
    c, v = sums(x, m)
    if 1e-30 < v < 1e30 and 100 * c * c < v:
        return m, real(c), real(1 / sqrt(v - c * c + eps))
    mean = sums(x, float64(0))[0]
    return real(mean), real(mean - real(mean)), real(1 / sqrt(sums(x, mean)[1] + eps))
@njit(types.void(ROWS, ROW, ROW, types.float64, MADE), cache=CACHE, _nrt=False, **REDUCE)
def forward(x, weight, bias, eps, y):
    for i in range(x.shape[0]):
        m, c, r = moments(x[i], eps)
        for j in range(x.shape[1]):
            y[i, j] = less(x[i, j], m, c) * r * weight[j] + bias[j]
@njit(types.void(ROWS, ROWS, ROW, types.float64, MADE, SUM, SUM), cache=CACHE, _nrt=False, **REDUCE)
def backward(dy, x, weight, eps, dx, dweight, dbias):
    for i in range(x.shape[0]):
        m, c, r = moments(x[i], eps)
        p = q = real(0)
        for j in range(x.shape[1]):
            p += dy[i, j] * weight[j]
            q += dy[i, j] * weight[j] * (less(x[i, j], m, c) * r)
        p, q = real(p / x.shape[1]), real(q / x.shape[1])
        for j in range(x.shape[1]):
            n = less(x[i, j], m, c) * r
            dx[i, j] = r * (dy[i, j] * weight[j] - p - n * q)
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
