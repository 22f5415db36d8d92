"""Softmax of rows under a mask, forward and backward in one pass each: what attention pays to whom.

Row i of a matrix x [L, S] becomes exp(z - m) / sum(exp(z - m)), z = scale x + bias, m = max(z). What has a bias of
minus infinity gets 0, and so does, if `causal`, what stands behind the diagonal: row i sees columns 0 to i, whatever S
is. A row of which nothing is left is 0, and its gradient too; NumPy's calls would make it NaN, and take three times as
long. PLAIN softmax makes it NaN, as PyTorch does, and so does its LOG, z - m - log(sum(exp(z - m))).
"""

import functools
import math
from typing import Any

import numpy as np

from . import cache

SOURCE = '''\
from numba import njit, types
from numpy import {dtype} as real, inf
from tinygrad_rnn.kernels.intrinsics import REDUCE
from tinygrad_rnn.kernels.maths{bits} import exp, log
ROWS = types.Array(types.{dtype}, 2, "C", readonly=True)
MADE, KEYS = (types.Array(kind, 2, "C") for kind in (types.{dtype}, types.int{bits}))
PLACES = types.Array(types.int64, 1, "C", readonly=True)
@njit(types.void(ROWS, ROWS, PLACES, types.{dtype}, *[types.int64] * 2, MADE, KEYS, MADE, KEYS), cache=CACHE, **REDUCE)
def forward(x, bias, places, scale, period, form, y, keys, top, top_key):
    for i in range(x.shape[0]):
        n, b = x.shape[1] if period == 0 else min(i % period + 1, x.shape[1]), places[i]
        for j in range(n):
            y[i, j] = x[i, j] * scale + bias[b, j]
        largest = keys.dtype.type({least})  # floats have the order of integers, if those below zero are turned round:
        for j in range(n):  # a maximum of integers needs no thought of NaN, and becomes vector code
            key = keys[i, j]
            largest = max(largest, key ^ ((key >> {bits} - 1) & {most}))
        top_key[0, 0] = largest ^ ((largest >> {bits} - 1) & {most})
        m = top[0, 0] if n > 0 and (form > 0 or top[0, 0] != -inf) else real(0)
        total = real(0)
        for j in range(n):
            y[i, j] = exp(y[i, j] - m)
        for j in range(n):
            total += y[i, j]
        if form == 2:
            total = log(total)
            for j in range(n):
                y[i, j] = (x[i, j] * scale - m) - total
            continue
        share = 1 / total if total != 0 else real(0)
        for j in range(n):
            y[i, j] *= share
        for j in range(n, x.shape[1]):
            y[i, j] = 0
@njit(types.void(ROWS, ROWS, MADE), cache=CACHE, **REDUCE)
def backward_of_log(dy, y, dx):
    for i in range(y.shape[0]):
        total = real(0)
        for j in range(y.shape[1]):
            total += dy[i, j]
        for j in range(y.shape[1]):
            dx[i, j] = dy[i, j] - exp(y[i, j]) * total
@njit(types.void(ROWS, ROWS, types.{dtype}, MADE), cache=CACHE, **REDUCE)
def backward(dy, y, scale, dx):
    for i in range(y.shape[0]):
        mean = real(0)
        for j in range(y.shape[1]):
            mean += dy[i, j] * y[i, j]
        for j in range(y.shape[1]):
            dx[i, j] = scale * (y[i, j] * (dy[i, j] - mean))
'''


PLAIN, LOG = 1, 2
_quiet = np.errstate(invalid="ignore", over="ignore")  # of NumPy's numbers, where nothing is compiled


@functools.cache
def _compiled(dtype: np.dtype) -> Any:
    bits = 8 * dtype.itemsize
    numbers = dict(dtype=dtype.name, bits=bits, least=-(2 ** (bits - 1)), most=2 ** (bits - 1) - 1)
    return cache.load(SOURCE.format(**numbers), f"masked_softmax_{dtype.name}")


@_quiet
def masked_softmax(x: np.ndarray, bias: Any, scale: float = 1, causal: bool = False, form: int = 0) -> np.ndarray:
    """y for x [..., L, S] and a bias that broadcasts to it; PLAIN and LOG take x [..., S]."""
    y, rows = np.empty(x.shape, x.dtype), _rows(x)
    b = np.asarray(bias, x.dtype)
    if b.shape[-1:] != x.shape[-1:]:
        b = np.broadcast_to(b, (*b.shape[:-1], x.shape[-1]))
    top, made = np.empty((1, 1), x.dtype), y.reshape(rows.shape)
    keys, period = np.dtype(f"i{x.itemsize}"), 0 if form else bool(causal) * x.shape[-2]
    places = _places(b.shape[:-1], x.shape[:-1])
    _compiled(x.dtype).forward(rows, _rows(b), places, scale, period, form, made, made.view(keys), top, top.view(keys))
    return y


@_quiet
def gradient(dy: np.ndarray, y: np.ndarray, scale: float) -> np.ndarray:
    """The gradient of x, given that of y; with a scale of 1 that of the bias."""
    dx, rows = np.empty(y.shape, y.dtype), _rows(y)
    _compiled(y.dtype).backward(_rows(dy), rows, scale, dx.reshape(rows.shape))
    return dx


@_quiet
def gradient_of_log(dy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The gradient of x, given that of y = log(softmax(x)) along the last dimension."""
    dx, rows = np.empty(y.shape, y.dtype), _rows(y)
    _compiled(y.dtype).backward_of_log(_rows(dy), rows, dx.reshape(rows.shape))
    return dx


def _rows(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).reshape(math.prod(x.shape[:-1]), x.shape[-1])


@functools.lru_cache(100)  # nobody writes to the arrays
def _places(few: tuple[int, ...], many: tuple[int, ...]) -> np.ndarray:
    """For each row of a large array, which one of the smaller array stands there when this is broadcast."""
    numbered = np.arange(math.prod(few), dtype=np.int64).reshape(few)
    return np.ascontiguousarray(np.broadcast_to(numbered, many)).reshape(-1)
