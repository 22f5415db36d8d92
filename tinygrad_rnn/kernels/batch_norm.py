"""Channels brought to mean 0 and variance 1 over a batch, scaled and shifted: forward and backward.

Of a channel of x [N, C, L], with its mean m, its variance v and r = 1 / sqrt(v + eps), n = (x - m) r, and
y = n weight + bias. With g = dy weight, dx = r (g - mean(g) - n mean(g n)); dweight is the sum of dy n, and dbias that
of dy. Means are summed in float64. [N, C] is taken as [1, C, N], so that loops run over neighbours.
"""

import functools
from typing import Any

import numpy as np

from . import cache

SOURCE = '''\
from math import sqrt
from numba import njit, types
from numpy import {dtype} as real
from tinygrad_rnn.kernels.intrinsics import REDUCE
X, MADE = (types.Array(types.{dtype}, 3, "C", readonly=given) for given in (True, False))
CHANNELS, SUMS = (types.Array(types.{dtype}, 1, "C", readonly=given) for given in (True, False))
MOMENTS = types.Array(types.float64, 2, "C")
@njit(types.void(X, MOMENTS), cache=CACHE, **REDUCE)
def moments(x, found):
    count = max(x.shape[0] * x.shape[2], 1)
    for c in range(x.shape[1]):
        m = v = 0.0
        for i in range(x.shape[0]):
            for j in range(x.shape[2]):
                m += x[i, c, j]
        m = m / count
        for i in range(x.shape[0]):
            for j in range(x.shape[2]):
                v += (x[i, c, j] - m) * (x[i, c, j] - m)
        found[0, c], found[1, c] = m, v / count
@njit(types.void(X, CHANNELS, CHANNELS, types.float64, MOMENTS, MADE), cache=CACHE, **REDUCE)
def forward(x, weight, bias, eps, found, y):
    for i in range(x.shape[0]):
        for c in range(x.shape[1]):
            m, r = found[0, c], real(1 / sqrt(found[1, c] + eps))
            for j in range(x.shape[2]):
                y[i, c, j] = real(x[i, c, j] - m) * r * weight[c] + bias[c]
@njit(types.void(X, X, CHANNELS, types.float64, MOMENTS, MADE, SUMS, SUMS), cache=CACHE, **REDUCE)
def backward(dy, x, weight, eps, found, dx, dweight, dbias):
    count = max(x.shape[0] * x.shape[2], 1)
    for c in range(x.shape[1]):
        m, r = found[0, c], real(1 / sqrt(found[1, c] + eps))
        p = q = 0.0
        for i in range(x.shape[0]):
            for j in range(x.shape[2]):
                p += dy[i, c, j]
                q += dy[i, c, j] * (real(x[i, c, j] - m) * r)
        dweight[c], dbias[c] = q, p
        g, h = real(p * weight[c] / count), real(q * weight[c] / count)
        for i in range(x.shape[0]):
            for j in range(x.shape[2]):
                dx[i, c, j] = r * (dy[i, c, j] * weight[c] - g - real(x[i, c, j] - m) * r * h)
'''

_compiled = functools.cache(lambda dtype: cache.load(SOURCE.format(dtype=dtype.name), f"batch_norm_{dtype.name}"))


def moments(x: np.ndarray) -> np.ndarray:
    """[2, C]: mean and (biased) variance of each channel of x [N, C, L], in float64."""
    found = np.empty((2, x.shape[1]))
    _compiled(x.dtype).moments(_turned(x), found)
    return found


def batch_norm(x: np.ndarray, weight: Any, bias: Any, eps: float) -> np.ndarray:
    """y for x [N, C, L]; weight and bias are [C, 1]."""
    turned = _turned(x)
    y = np.empty(turned.shape, x.dtype)
    _compiled(x.dtype).forward(turned, _channels(weight, x), _channels(bias, x), eps, moments(x), y)
    return _back(y, x)


def gradients(dy: np.ndarray, x: np.ndarray, eps: float, weight: Any = 1) -> Any:
    """dx, dweight and dbias."""
    turned, (dweight, dbias) = _turned(x), np.empty((2, x.shape[1], 1), x.dtype)
    dx, sums = np.empty(turned.shape, x.dtype), (dweight.reshape(-1), dbias.reshape(-1))
    _compiled(x.dtype).backward(_turned(dy), turned, _channels(weight, x), eps, moments(x), dx, *sums)
    return _back(dx, x), dweight, dbias


def _turned(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(2, 1, 0) if x.shape[2] == 1 else x)


def _back(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(y.transpose(2, 1, 0)) if x.shape[2] == 1 else y


def _channels(value: Any, x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.broadcast_to(value, (x.shape[1], 1)), x.dtype).reshape(-1)
