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
from types import SimpleNamespace
from typing import Any

import numpy as np

from .outline import compiled, read, written_to
from .values import inlined, summed


def _kernels(real: Any, over_rows: Any) -> SimpleNamespace:
    rows, row, made, total = read(real, 2), read(real, 1), written_to(real, 2), written_to(real, 1)

    @inlined
    def less(x, m, c):
        return (x - m) - c

    @summed
    def sums(W, x, m, zero):
        p, q = zero, zero
        for j in range(W):
            p += less(x[j], m, real(0))
            q += less(x[j], m, real(0)) * less(x[j], m, real(0))
        count = np.float64(W)
        return p / count, q / count

    @inlined
    def moments(W, x, eps):
        m = real(sums(W, x, real(0), real(0))[0])
        rest, v = sums(W, x, m, real(0))
        c, s = real(rest), v - rest * rest
        if not (v > 1e-30 and v < 1e30 and 100.0 * rest * rest < v):
            mean = sums(W, x, np.float64(0), np.float64(0))[0]
            m, c, s = real(mean), real(mean - real(mean)), sums(W, x, mean, np.float64(0))[1]
        return m, c, real(np.float64(1) / np.sqrt(s + eps))

    @over_rows(rows, row, row, np.float64, made)
    def forward(i, W, x, weight, bias, eps, y):
        m, c, r = moments(W, x, eps)
        for j in range(W):
            y[j] = less(x[j], m, c) * r * weight[j] + bias[j]

    @over_rows(rows, rows, row, np.float64, made, total, total)
    def backward(i, W, dy, x, weight, eps, dx, dweight, dbias):
        m, c, r = moments(W, x, eps)
        p, q = real(0), real(0)
        for j in range(W):
            p += dy[j] * weight[j]
            q += dy[j] * weight[j] * (less(x[j], m, c) * r)
        p, q = real(p / np.float64(W)), real(q / np.float64(W))
        for j in range(W):
            n = less(x[j], m, c) * r
            dx[j] = r * (dy[j] * weight[j] - p - n * q)
            dweight[j] += dy[j] * n
            dbias[j] += dy[j]

    return SimpleNamespace(forward=forward, backward=backward)


_compiled = functools.cache(functools.partial(compiled, "layer_norm", _kernels))
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
