"""Channels brought to mean 0 and variance 1 over a batch, scaled and shifted: forward and backward.

Of a channel of x [N, C, ...], with its mean m, its variance v and r = 1 / sqrt(v + eps), n = (x - m) r, and
y = n weight + bias. With g = dy weight, dx = r (g - mean(g) - n mean(g n)); dweight is the sum of dy n, and dbias that
of dy. Kernels take x as a matrix of N rows, and a number of a channel as a row of its own, in which it stands in each
column of that channel: so all loops run over neighbours. Sums are in float64.
"""

import functools
import math
from typing import Any

import numpy as np

from . import cache

SOURCE = '''\
from numba import njit, types
from tinygrad_rnn.kernels.intrinsics import KERNEL
X, MADE = (types.Array(types.{dtype}, 2, "C", readonly=given) for given in (True, False))
SUM = types.Array(types.float64, 1, "C")
@njit(types.void(X, X, SUM, SUM), cache=CACHE, **KERNEL)
def moments(x, first, p, q):
    for i in range(x.shape[0]):
        for k in range(x.shape[1]):
            d = types.float64(x[i, k]) - first[0, k]
            p[k] += d
            q[k] += d * d
@njit(types.void(X, X, MADE), cache=CACHE, **KERNEL)
def forward(x, of, y):
    for i in range(x.shape[0]):
        for k in range(x.shape[1]):
            y[i, k] = ((x[i, k] - of[0, k]) - of[1, k]) * of[2, k] * of[3, k] + of[4, k]
@njit(types.void(X, X, X, SUM, SUM), cache=CACHE, **KERNEL)
def sums(dy, x, of, p, q):
    for i in range(x.shape[0]):
        for k in range(x.shape[1]):
            p[k] += dy[i, k]
            q[k] += dy[i, k] * (((x[i, k] - of[0, k]) - of[1, k]) * of[2, k])
@njit(types.void(X, X, X, MADE), cache=CACHE, **KERNEL)
def backward(dy, x, of, dx):
    for i in range(x.shape[0]):
        for k in range(x.shape[1]):
            n = ((x[i, k] - of[0, k]) - of[1, k]) * of[2, k]
            dx[i, k] = of[2, k] * (dy[i, k] * of[3, k] - of[4, k] - n * of[5, k])
'''

_compiled = functools.cache(lambda dtype: cache.load(SOURCE.format(dtype=dtype.name), f"batch_norm_{dtype.name}"))


def moments(x: np.ndarray) -> np.ndarray:
    """[2, C, 1...]: mean and (biased) variance of each channel of x [N, C, ...], in float64."""
    at: Any = (0, slice(None), *[slice(1)] * (x.ndim - 2))
    first = x[at] if x.size else 0
    p, q = _sums(x, _compiled(x.dtype).moments, _rows(x), _columns(x, first)) / _count(x)
    return np.array((first + p, q - p * p))


def batch_norm(x: np.ndarray, weight: Any, bias: Any, eps: float, found: Any = None) -> np.ndarray:
    """y for x [N, C, ...]; weight and bias are [C, 1...], or numbers; `found` is what `moments` found, if known."""
    y = np.empty(x.shape, x.dtype)
    _compiled(x.dtype).forward(_rows(x), _columns(x, *_normal(x, eps, found), weight, bias), _rows(y))
    return y


def gradients(dy: np.ndarray, x: np.ndarray, eps: float, found: Any = None, weight: Any = 1) -> Any:
    """dx, dweight and dbias."""
    dx, operands, kernels = np.empty(x.shape, x.dtype), (_rows(dy), _rows(x)), _compiled(x.dtype)
    normal = _normal(x, eps, found)
    p, q = _sums(x, kernels.sums, *operands, _columns(x, *normal))
    share = weight / _count(x)
    kernels.backward(*operands, _columns(x, *normal, weight, p * share, q * share), _rows(dx))
    return dx, q.astype(x.dtype), p.astype(x.dtype)


def _rows(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).reshape(len(x), math.prod(x.shape[1:]))


def _count(x: np.ndarray) -> int:
    return max(x.size // max(x.shape[1], 1), 1)


def _normal(x: np.ndarray, eps: float, found: Any) -> tuple[Any, ...]:
    """For each channel its mean, what the dtype cuts off from that, and r."""
    mean, variance = moments(x) if found is None else found
    return mean, mean - mean.astype(x.dtype), 1 / np.sqrt(variance + eps)


def _columns(x: np.ndarray, *channels: Any) -> np.ndarray:
    """Numbers of channels, each in all columns of its channel."""
    columns = np.empty((len(channels), *x.shape[1:]), x.dtype)
    for row, numbers in zip(columns, channels):
        row[...] = numbers
    return _rows(columns)


def _sums(x: np.ndarray, kernel: Any, *operands: np.ndarray) -> np.ndarray:
    """Two sums of each channel, of those of its columns."""
    sums = np.zeros((2, *x.shape[1:]))
    kernel(*operands, *_rows(sums))
    return sums if sums.ndim == 2 else np.add.reduce(sums, tuple(range(2, sums.ndim)), keepdims=True)
