"""Softmax of rows under a mask, forward and backward in one pass each: what attention pays to whom.

Row i of a matrix x [L, S] becomes exp(z - m) / sum(exp(z - m)), z = scale x + bias, m = max(z). What has a bias of
minus infinity gets 0, and so does, if `causal`, what stands behind the diagonal: row i sees columns 0 to i, whatever S
is. A row of which nothing is left is 0, and its gradient too; NumPy's calls would make it NaN, and take three times as
long. PLAIN softmax makes it NaN, as PyTorch does, and so does its LOG, z - m - log(sum(exp(z - m))).
"""

import functools
import math
from types import SimpleNamespace
from typing import Any

import numpy as np

from . import maths32, maths64
from .maths import reinterpreted
from .outline import compiled, read, written_to
from .values import inlined

PLAIN, LOG = 1, 2


def _kernels(real: Any, over_rows: Any) -> SimpleNamespace:
    rows, made, number, integer = read(real, 2), written_to(real, 2), np.dtype(real), np.int64
    key_type, maths = {4: (np.int32, maths32), 8: (np.int64, maths64)}[number.itemsize]
    bits, from_bits, sign = reinterpreted(key_type), reinterpreted(real), 8 * number.itemsize - 1
    least, most = -(2**sign), 2**sign - 1
    exp, log = maths.exp, maths.log

    @inlined
    def in_order(key):
        """Floats have the order of integers, if those below zero are turned round. Their largest becomes vector code,
        since there is no NaN to think of."""
        return key ^ ((key >> sign) & most)

    @over_rows(rows, read(real, 1), read(integer, 1), real, integer, integer, made)
    def forward(i, W, x, bias, places, scale, period, form, y):
        seen = i % period + 1 if period else W
        n, first, largest = seen if seen < W else W, places[i] * W, key_type(least)
        for j in range(n):
            y[j] = x[j] * scale + bias[first + j]
        for j in range(n):
            key = in_order(bits(y[j]))
            largest = key if key > largest else largest
        m, total = from_bits(in_order(largest)), real(0)
        m = real(0) if n == 0 or (form == 0 and m == real(-1e400)) else m
        for j in range(n):
            y[j] = exp(y[j] - m)
        for j in range(n):
            total += y[j]
        share = real(1) / total if total != real(0) else real(0)
        if form == LOG:
            for j in range(n):
                y[j] = (x[j] * scale - m) - log(total)
        if form != LOG:
            for j in range(n):
                y[j] *= share
        for j in range(n, W):
            y[j] = real(0)

    @over_rows(rows, rows, real, made)
    def backward(i, W, dy, y, scale, dx):
        mean = real(0)
        for j in range(W):
            mean += dy[j] * y[j]
        for j in range(W):
            dx[j] = scale * (y[j] * (dy[j] - mean))

    @over_rows(rows, rows, made)
    def backward_of_log(i, W, dy, y, dx):
        total = real(0)
        for j in range(W):
            total += dy[j]
        for j in range(W):
            dx[j] = dy[j] - exp(y[j]) * total

    return SimpleNamespace(forward=forward, backward=backward, backward_of_log=backward_of_log)


_compiled = functools.cache(functools.partial(compiled, "masked_softmax", _kernels))


def masked_softmax(x: np.ndarray, bias: Any, scale: float = 1, causal: bool = False, form: int = 0) -> np.ndarray:
    """y for x [..., L, S] and a bias that broadcasts to it; PLAIN and LOG take x [..., S]."""
    y, rows = np.empty(x.shape, x.dtype), _rows(x)
    b = np.asarray(bias, x.dtype)
    if b.shape[-1:] != x.shape[-1:]:
        b = np.broadcast_to(b, (*b.shape[:-1], x.shape[-1]))
    period, places = 0 if form else bool(causal) * x.shape[-2], _places(b.shape[:-1], x.shape[:-1])
    b = np.ascontiguousarray(b).reshape(-1)
    _compiled(x.dtype).forward(rows, b, places, scale, period, form, y.reshape(rows.shape))
    return y


def gradient(dy: np.ndarray, y: np.ndarray, scale: float) -> np.ndarray:
    """The gradient of x, given that of y; with a scale of 1 that of the bias."""
    dx, rows = np.empty(y.shape, y.dtype), _rows(y)
    _compiled(y.dtype).backward(_rows(dy), rows, scale, dx.reshape(rows.shape))
    return dx


def gradient_of_log(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The gradient of x, given that of y = log(softmax(x)) along the last dimension."""
    dx, rows = np.empty(y.shape, y.dtype), _rows(y)
    _compiled(y.dtype).backward_of_log(_rows(dy), rows, dx.reshape(rows.shape))
    return dx


def _rows(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).reshape(math.prod(x.shape[:-1]), x.shape[-1])


@functools.lru_cache(16)  # nobody writes to the arrays; more than a few would be much memory where lengths vary
def _places(few: tuple[int, ...], many: tuple[int, ...]) -> np.ndarray:
    """For each row of a large array, which one of the smaller array stands there when this is broadcast."""
    numbered = np.arange(math.prod(few), dtype=np.int64).reshape(few)
    return np.ascontiguousarray(np.broadcast_to(numbered, many)).reshape(-1)
