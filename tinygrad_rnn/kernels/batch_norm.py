"""Channels brought to mean 0 and variance 1 over a batch, scaled and shifted: forward and backward.

Of a channel of x [N, C, ...], with its mean m, its variance v and r = 1 / sqrt(v + eps), n = (x - m) r, and
y = n weight + bias. With g = dy weight, dx = r (g - mean(g) - n mean(g n)); dweight is the sum of dy n, and dbias that
of dy. Kernels take x as a matrix of N rows, and a number of a channel as a row of its own, in which it stands in each
column of that channel: so all loops run over neighbours. These rows lie one after the other, as `of`: the mean, what
the dtype cuts off from it, r, weight and what else there is. Sums are in float64.
"""

import functools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np

from .outline import compiled, read, written_to
from .values import inlined


def _kernels(real: Any, over_rows: Any) -> SimpleNamespace:
    rows, row, made, total = read(real, 2), read(real, 1), written_to(real, 2), written_to(np.float64, 1)

    @inlined
    def normal(x, of, W, k):
        return ((x - of[k]) - of[W + k]) * of[2 * W + k]

    @over_rows(rows, row, total, total)
    def moments(i, W, x, first, p, q):
        for k in range(W):
            d = np.float64(x[k]) - first[k]
            p[k] += d
            q[k] += d * d

    @over_rows(rows, row, made)
    def forward(i, W, x, of, y):
        for k in range(W):
            y[k] = normal(x[k], of, W, k) * of[3 * W + k] + of[4 * W + k]

    @over_rows(rows, rows, row, total, total)
    def sums(i, W, dy, x, of, p, q):
        for k in range(W):
            p[k] += dy[k]
            q[k] += dy[k] * normal(x[k], of, W, k)

    @over_rows(rows, rows, row, made)
    def backward(i, W, dy, x, of, dx):
        for k in range(W):
            rest = dy[k] * of[3 * W + k] - of[4 * W + k] - normal(x[k], of, W, k) * of[5 * W + k]
            dx[k] = of[2 * W + k] * rest

    return SimpleNamespace(moments=moments, forward=forward, sums=sums, backward=backward)


_compiled = functools.cache(functools.partial(compiled, "batch_norm", _kernels))


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
    """Numbers of channels, each in all columns of its channel, one after the other."""
    columns = np.empty((len(channels), *x.shape[1:]), x.dtype)
    for row, numbers in zip(columns, channels):
        row[...] = numbers
    return columns.reshape(-1)


def _sums(x: np.ndarray, kernel: Any, *operands: np.ndarray) -> np.ndarray:
    """Two sums of each channel, of those of its columns."""
    sums = np.zeros((2, *x.shape[1:]))
    kernel(*operands, *_rows(sums))
    return sums if sums.ndim == 2 else np.add.reduce(sums, tuple(range(2, sums.ndim)), keepdims=True)
