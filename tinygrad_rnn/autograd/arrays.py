"""Rows on whole arrays: what they compute, and what shapes they give.

A shape rule takes the shapes of the inputs and the attributes, and returns the shape of the result or raises
ValueError with a message that names the shapes and, where it can, the fix.
"""

import builtins
import math
from typing import Any

import numpy as np
from numba import config

from ..kernels import masked_softmax as attended
from ..kernels.batch_norm import moments as moments
from ..kernels.convolution import Taps
from ..kernels.matmul import matmul as packed_matmul
from ..kernels.pool import staggered
from ..kernels.scatter import add_rows
from ..kernels.squares import sum_of_squares as sum_of_squares
from .primitive import Shape
from .sums import summed

Dims = tuple[int, ...]

quiet = np.errstate(over="ignore", invalid="ignore", divide="ignore")  # inf - inf is NaN, and no more need be said
_LARGE = 1 << 14  # elements of a result that is worth memory that was used before


# ---- Reductions ------------------------------------------------------------------------------------------------------


@quiet
def sum(x: np.ndarray, dim: Dims, keepdim: bool) -> np.ndarray:
    return summed(x, dim, keepdim)


def summed_shape(x: Shape, dim: Dims, keepdim: bool) -> Shape:
    return tuple(1 if i in dim else n for i, n in enumerate(x) if keepdim or i not in dim)


def extreme_shape(x: Shape, dim: Dims, keepdim: bool) -> Shape:
    if any(x[i] == 0 for i in dim):
        raise ValueError(f"shape {list(x)} has nothing along dim {dim} to take an extreme of")
    return summed_shape(x, dim, keepdim)


@quiet
def cumsum(x: np.ndarray, dim: int) -> np.ndarray:
    total = x.astype(np.float64 if x.dtype.kind == "f" else np.int64)
    np.add.accumulate(total, dim, out=total)  # twice as fast as where NumPy turns numbers into another dtype meanwhile
    return total.astype(x.dtype, copy=False) if x.dtype.kind == "f" else total


def softmax(x: np.ndarray, dim: int) -> np.ndarray:
    return _by_row(lambda x: attended.masked_softmax(x, 0, form=attended.PLAIN), dim, x)


def log_softmax(x: np.ndarray, dim: int) -> np.ndarray:
    return _by_row(lambda x: attended.masked_softmax(x, 0, form=attended.LOG), dim, x)


def softmax_gradient(dy: np.ndarray, y: np.ndarray, dim: int) -> tuple[np.ndarray]:
    return (_by_row(lambda dy, y: attended.gradient(dy, y, 1), dim, dy, y),)


def log_softmax_gradient(dy: np.ndarray, y: np.ndarray, dim: int) -> tuple[np.ndarray]:
    return (_by_row(attended.gradient_of_log, dim, dy, y),)


def _by_row(kernel: Any, dim: int, *arrays: np.ndarray) -> np.ndarray:
    """What a kernel makes of rows along `dim`."""
    if dim == arrays[0].ndim - 1:
        return kernel(*arrays)
    return kernel(*[x.swapaxes(dim, -1) for x in arrays]).swapaxes(dim, -1)


def masked(x: Shape, bias: Shape, scale: float, causal: bool) -> Shape:
    if len(x) < 2:
        raise ValueError(f"expected scores [..., queries, keys], got {list(x)} and a bias of shape {list(bias)}")
    return expanded(bias, x)


def same_shape(x: Shape, **attributes: Any) -> Shape:
    return x


# ---- Integers, where NumPy's answer for booleans is not PyTorch's ----------------------------------------------------


@quiet
def cast(x: Any, dtype: Any) -> np.ndarray:
    """In another dtype; what is too large becomes infinite, as in PyTorch, without a word from NumPy."""
    return np.array(x, dtype)


def whole_square(x: np.ndarray) -> np.ndarray:
    return x.astype(np.int64) if x.dtype.kind == "b" else x * x


def whole_power(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    y = np.power(a, b)
    return y.astype(np.bool_) if y.dtype == np.int8 and np.result_type(a, b) == np.bool_ else y


def whole_relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


# ---- Products --------------------------------------------------------------------------------------------------------


def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.ndim == 2 == b.ndim and a.shape[1] == b.shape[0]:
        shape, dtype = (a.shape[0], b.shape[1]), a.dtype
        return packed_matmul(a, b, np.empty(shape, dtype) if shape[0] * shape[1] < _LARGE else staggered(shape, dtype))
    if a.shape[-1] != b.shape[-2]:
        raise ValueError("inner dimensions differ")  # the shape rule says it better
    return packed_matmul(a, b)


def product_shape(a: Shape, b: Shape) -> Shape:
    if a[-1] != b[-2]:
        hint = "; did you mean b.T?" if a[-1] == b[-1] else "; did you mean a.T?" if a[-2] == b[-2] else ""
        raise ValueError(f"inner dimensions differ: a is {list(a)}, b is {list(b)}{hint}")
    try:
        return (*np.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1])
    except ValueError:
        raise ValueError(f"batch dimensions do not broadcast: a is {list(a)}, b is {list(b)}") from None


def convolved(x: Shape, weight: Shape, stride: int, dilation: int, before: int, after: int) -> Shape:
    if len(x) != 3 or len(weight) != 3 or x[1] != weight[1] or not weight[2]:
        raise ValueError(f"expected [B, C, L] and a weight of shape [O, C, k > 0], got {list(x)} and {list(weight)}")
    taps = Taps(x[2], weight[2], stride, dilation, before, after)
    if taps.windows < 1:
        raise ValueError(
            f"x {list(x)}, padded by {before} and {after}, has fewer steps than the {taps.reach + 1} over which a "
            f"weight {list(weight)} reaches"
        )
    return x[0], weight[0], taps.windows


def input_of(g: Shape, weight: Shape, length: int, **taps: int) -> Shape:
    return g[0], weight[1], length


def weight_of(g: Shape, x: Shape, size: int, **taps: int) -> Shape:
    return g[1], x[1], size


def row_by_row(x: Shape, weight: Shape, bias: Shape, dim: tuple[int, ...], eps: float) -> Shape:
    return x[: dim[0]] + expanded(weight, expanded(bias, x[dim[0] :]))


def by_channel(x: Shape, weight: Shape, bias: Shape, eps: float, found: Any) -> Shape:
    expanded(weight, expanded(bias, (x[1], *[1] * (len(x) - 2))))
    return x


# ---- Shapes ----------------------------------------------------------------------------------------------------------


def along(dim: int, at: Any) -> tuple[Any, ...]:
    """The index that takes `at` in dimension `dim`, and all of those before it."""
    return (slice(None),) * dim + (at,)


def between(dim: int, start: int | None, end: int | None, step: int | None = None) -> tuple[Any, ...]:
    """The index that takes the elements from `start` to `end` in dimension `dim`."""
    return along(dim, slice(start, end, step))


def reshaped(x: Shape, shape: Shape) -> Shape:
    if math.prod(x) != math.prod(shape):
        raise ValueError(f"shape {list(x)} has {math.prod(x)} elements and {list(shape)} has {math.prod(shape)}")
    return shape


def expanded(x: Shape, shape: Shape) -> Shape:
    if len(x) > len(shape) or any(n not in (1, m) for n, m in zip(reversed(x), reversed(shape))):
        raise ValueError(f"shape {list(x)} cannot be expanded to {list(shape)}: only sizes of 1 can be repeated")
    return shape


def summed_to(x: Shape, shape: Shape) -> Shape:
    expanded(shape, x)
    return shape


def indexed(x: Shape, at: Any) -> Shape:
    try:
        return np.broadcast_to(np.empty((), np.bool_), x)[at].shape
    except IndexError as error:
        raise IndexError(f"shape {list(x)}: {error}") from None


def add_to_slice(total: np.ndarray, dy: np.ndarray, at: Any) -> None:
    """total[at] += dy for ints and slices."""
    view = total[at]
    if view.__class__ is np.ndarray:
        view += dy
    else:  # a single element
        total[at] += dy


def slice_scatter(x: np.ndarray, shape: Shape, at: Any) -> np.ndarray:
    total = np.zeros(shape, x.dtype)
    total[at] = x
    return total


def add_to_elements(total: np.ndarray, dy: np.ndarray, at: Any) -> None:
    """total[at] += dy for arrays, where an element that is named twice receives both."""
    if len(at) == 1 and total.ndim > 1 and at[0].dtype.kind in "iu" and dy.size:
        _add_to_rows(total, dy.reshape(-1, *total.shape[1:]), at[0].reshape(-1))
    else:
        np.add.at(total, at, dy)


def _add_to_rows(total: np.ndarray, dy: np.ndarray, rows: np.ndarray) -> None:
    """The same for whole rows, many times as fast."""
    rows = rows.astype(np.int64, copy=False)  # a size need not fit into an index's own dtype
    rows = np.where(rows < 0, rows + len(total), rows)
    if total.dtype in (np.float32, np.float64) and total.flags.c_contiguous and not config.DISABLE_JIT:
        add_rows(total.reshape(len(total), -1), rows, np.ascontiguousarray(dy, total.dtype).reshape(len(dy), -1))
    else:
        np.add.at(total, rows, dy)


def index_add(x: np.ndarray, shape: Shape, at: Any) -> np.ndarray:
    total = np.zeros(shape, x.dtype)
    add_to_elements(total, x, at)
    return total


def joined(*xs: Shape, dim: int) -> Shape:
    first = xs[0]
    for x in xs[1:]:
        if len(x) != len(first) or any(n != m for i, (n, m) in enumerate(zip(x, first)) if i != dim):
            raise ValueError(f"shapes {list(first)} and {list(x)} must agree in all dimensions but dim={dim}")
    return (*first[:dim], builtins.sum(x[dim] for x in xs), *first[dim + 1 :])
