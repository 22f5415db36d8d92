"""Functions that take many elements to one: sums, means, extremes, and what is built of them.

`dim` is an int or a tuple of ints, negative ones counted from the end; None reduces everything.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from . import table
from .arrays import along, summed_shape
from .operands import all_dims, as_tensor, floating, named, one_dim, unrecorded
from .pointwise import log, pow, sqrt, where
from .primitive import Primitive
from .tape import mode

if TYPE_CHECKING:
    from .tensor import Tensor

Dims = int | tuple[int, ...] | list[int] | None


def _as(x: "Tensor", dtype: Any) -> "Tensor":
    return x if dtype is None else x.to(dtype)


def sum(input: Any, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> "Tensor":
    """The sum over `dim`. Integers and booleans are summed as int64.

        >>> import tinygrad_rnn as tg
        >>> tg.sum(tg.tensor([[1.0, 2.0], [3.0, 4.0]]), dim=0)
        tensor([4., 6.])
    """
    x = _as(as_tensor(input), dtype)
    return table.sum(x, dim=all_dims("sum", dim, x.data.ndim), keepdim=keepdim)


def mean(input: Any, dim: Dims = None, keepdim: bool = False, *, dtype: Any = None) -> "Tensor":
    """The sum over `dim` divided by the number of elements; NaN where there are none.

        >>> import tinygrad_rnn as tg
        >>> tg.mean(tg.tensor([[1.0, 2.0], [3.0, 6.0]]), dim=0)
        tensor([2., 4.])
    """
    x = _as(as_tensor(input), dtype)
    if x.data.dtype.kind != "f":
        raise TypeError(f"mean: expected a tensor of floats, got {x.data.dtype}; pass dtype=float32 to convert it")
    dims = all_dims("mean", dim, x.data.ndim)
    return table.sum(x, dim=dims, keepdim=keepdim) / _count(x.data.shape, dims)


def _count(shape: tuple[int, ...], dims: tuple[int, ...]) -> int:
    return math.prod(shape[i] for i in dims)


def var(input: Any, dim: Any = None, *, correction: Any = 1, keepdim: bool = False, unbiased: Any = None) -> "Tensor":
    """`sum((x - mean)^2) / (N - correction)` over `dim`; NaN or inf where the divisor is not positive.

        >>> import tinygrad_rnn as tg
        >>> tg.var(tg.tensor([1.0, 2.0, 3.0])).item(), tg.var(tg.tensor([1.0, 3.0]), correction=0).item()
        (1.0, 1.0)

    Args:
        correction: 1 for the unbiased estimate (Bessel), 0 for the mean square.
        unbiased: PyTorch's older name: True for 1, False for 0.
    """
    x = floating(input)
    if isinstance(dim, bool):  # var(x, False) is PyTorch's var(x, unbiased=False)
        dim, unbiased = None, dim
    correction = 1 if correction is None else correction
    correction = correction if unbiased is None else int(unbiased)
    dims = all_dims("var", dim, x.data.ndim)
    count = _count(x.data.shape, dims)
    mean = table.sum(x, dim=dims, keepdim=True) / count
    squares = table.sum(table.square(x - mean), dim=dims, keepdim=keepdim)
    return squares / max(count - correction, 0)


def std(input: Any, dim: Any = None, *, correction: Any = 1, keepdim: bool = False, unbiased: Any = None) -> "Tensor":
    """The square root of `var`, whose gradient is taken as 0 where all elements are equal.

        >>> import tinygrad_rnn as tg
        >>> tg.std(tg.tensor([1.0, 2.0, 3.0])).item()
        1.0
    """
    return sqrt_or_zero(var(input, dim, correction=correction, keepdim=keepdim, unbiased=unbiased))


def sqrt_or_zero(x: "Tensor") -> "Tensor":
    """sqrt(x) with gradient 0 instead of inf at 0."""
    is_zero = x == 0
    return where(is_zero, x * 0, sqrt(where(is_zero, 1, x)))


def prod(input: Any, dim: int | None = None, keepdim: bool = False, *, dtype: Any = None) -> "Tensor":
    """The product over `dim`, of everything if it is None.

        >>> import tinygrad_rnn as tg
        >>> x = tg.tensor([2.0, 0.0, 3.0], requires_grad=True)
        >>> tg.prod(x).backward()
        >>> x.grad  # right where a factor is zero
        tensor([0., 6., 0.])

    Halves are multiplied with each other until one factor is left, so that no gradient divides by a factor: it is
    right where one or several are zero.
    """
    x = _as(as_tensor(input), dtype)
    shape = x.data.shape
    dims = tuple(range(len(shape))) if dim is None else (one_dim("prod", dim, len(shape)),)
    if x.data.dtype.kind != "f":
        return unrecorded(np.prod, x, axis=dims if shape else (), keepdims=keepdim, dtype=np.int64)
    result = summed_shape(shape, dims, keepdim)
    axis = 0 if dim is None else dims[0]
    if dim is None or not shape:
        x = table.reshape(x, shape=(x.data.size,))
    if x.data.shape[axis] == 0:
        return table.reshape(table.sum(x, dim=(axis,), keepdim=True), shape=result) + 1
    take = lambda x, piece: table.slice(x, at=along(axis, piece))
    while (n := x.data.shape[axis]) > 1:
        product = take(x, slice(0, n // 2)) * take(x, slice(n // 2, n // 2 * 2))
        x = table.cat(product, take(x, slice(n - 1, n)), dim=axis) if n % 2 else product
    return table.reshape(x, shape=result)


def _extreme(row: Primitive, which: str, shown: str) -> "Callable[..., Tensor]":
    def function(input: Any, dim: Dims = (), keepdim: bool = False) -> "Tensor":
        x = as_tensor(input)
        return row(x, dim=all_dims(row.name, dim, x.data.ndim), keepdim=keepdim)

    meaning = f"The {which} element over `dim`; NaN if there is one. Ties share the gradient equally.\n"
    return named(row.name, meaning, function, f"tg.tensor([[1.0, 5.0], [3.0, 2.0]]), 1 -> tensor({shown})")


amax, amin = _extreme(table.amax, "largest", "[5., 3.]"), _extreme(table.amin, "smallest", "[1., 2.]")


def norm(input: Any, p: Any = 2, dim: Dims = None, keepdim: bool = False) -> "Tensor":
    """`sum(|x|^p)^(1/p)` over `dim`; `p` may be inf, and "fro" is 2. At 0 the gradient is 0.

        >>> import tinygrad_rnn as tg
        >>> tg.norm(tg.tensor([3.0, 4.0])).item(), tg.norm(tg.tensor([3.0, 4.0]), 1).item()
        (5.0, 7.0)
    """
    if p in (2, "fro"):
        return sqrt_or_zero(sum(table.square(floating(input)), dim, keepdim))
    x = table.abs(floating(input))
    if p in (math.inf, -math.inf):
        return (amax if p > 0 else amin)(x, dim, keepdim)
    if p == 0:  # how many are not zero
        return sum(where(x == 0, 0 * x, 1), dim, keepdim)
    return pow(sum(pow(x, p), dim, keepdim), 1 / p)


def argmax(input: Any, dim: int | None = None, keepdim: bool = False) -> "Tensor":
    """The position of the largest element, the first of equals; of the flattened tensor if `dim` is None.

        >>> import tinygrad_rnn as tg
        >>> scores = tg.tensor([[0.1, 2.0, 0.3], [5.0, 1.0, 1.0]])
        >>> tg.argmax(scores, dim=1)
        tensor([1, 0])
    """
    return _position(np.argmax, input, dim, keepdim)


def argmin(input: Any, dim: int | None = None, keepdim: bool = False) -> "Tensor":
    """The position of the smallest element, the first of equals; of the flattened tensor if `dim` is None.

        >>> import tinygrad_rnn as tg
        >>> tg.argmin(tg.tensor([3.0, 1.0, 2.0])).item()
        1
    """
    return _position(np.argmin, input, dim, keepdim)


def _position(function: Callable[..., Any], input: Any, dim: int | None, keepdim: bool) -> "Tensor":
    x = as_tensor(input)
    if mode.tracer is not None:
        extreme = f"tg.a{function.__name__[3:]}"  # tg.amax or tg.amin
        lead = f"write {extreme}(h, -1) for the value, and h == {extreme}(h, -1, keepdim=True) for where it is"
        mode.tracer.refuse_numbers(x, lead)
    axis = None if dim is None else one_dim(function.__name__, dim, x.data.ndim)
    if not (x.data.size if axis is None or not x.data.ndim else x.data.shape[axis]):
        raise ValueError(f"{function.__name__}: a tensor of shape {list(x.shape)} has nothing along dim={dim}")
    return unrecorded(function, x, axis=axis if x.data.ndim else None, keepdims=keepdim)


def all(input: Any, dim: Dims = None, keepdim: bool = False) -> "Tensor":
    """Whether all elements over `dim` are nonzero.

        >>> import tinygrad_rnn as tg
        >>> tg.all(tg.tensor([[True, True], [True, False]]), dim=1)
        tensor([ True, False])
    """
    x = as_tensor(input)
    dims = all_dims("all", dim, x.data.ndim)
    if mode.tracer is not None:
        return table.amin(table.ne(x, 0), dim=dims, keepdim=keepdim)
    return unrecorded(np.all, x, axis=dims, keepdims=keepdim)


def any(input: Any, dim: Dims = None, keepdim: bool = False) -> "Tensor":
    """Whether an element over `dim` is nonzero.

        >>> import tinygrad_rnn as tg
        >>> tg.any(tg.tensor([[False, False], [True, False]]), dim=1)
        tensor([False,  True])
    """
    x = as_tensor(input)
    dims = all_dims("any", dim, x.data.ndim)
    if mode.tracer is not None:
        return table.amax(table.ne(x, 0), dim=dims, keepdim=keepdim)
    return unrecorded(np.any, x, axis=dims, keepdims=keepdim)


def logsumexp(input: Any, dim: Dims, keepdim: bool = False) -> "Tensor":
    """`log(sum(exp(x)))` over `dim`, computed as `m + log(sum(exp(x - m)))` with m the maximum: no overflow.

        >>> import tinygrad_rnn as tg
        >>> tg.logsumexp(tg.tensor([1000.0, 1000.0]), 0)  # 1000 + log(2): no overflow
        tensor(1000.6932)
    """
    x = floating(input)
    dims = all_dims("logsumexp", dim, x.data.ndim)
    if _count(x.data.shape, dims) == 0:
        return table.sum(x, dim=dims, keepdim=keepdim) - math.inf
    largest = amax(x.detach(), dims, keepdim=True)
    largest = where(table.abs(largest) < math.inf, largest, 0)
    total = log(table.sum(table.exp(x - largest), dim=dims, keepdim=True)) + largest
    return table.reshape(total, shape=summed_shape(total.data.shape, dims, keepdim))


def cumsum(input: Any, dim: int, *, dtype: Any = None) -> "Tensor":
    """The running sum along `dim`.

        >>> import tinygrad_rnn as tg
        >>> tg.cumsum(tg.tensor([1.0, 2.0, 3.0]), 0)
        tensor([1., 3., 6.])
    """
    x = _as(as_tensor(input), dtype)
    if not x.data.ndim:
        one_dim("cumsum", dim, 0)
        return x if x.data.dtype.kind == "f" else x.to(np.int64)
    return table.cumsum(x, dim=one_dim("cumsum", dim, x.data.ndim))


def softmax(input: Any, dim: int, dtype: Any = None) -> "Tensor":
    """`exp(x) / sum(exp(x))` along `dim`.

        >>> import tinygrad_rnn as tg
        >>> tg.softmax(tg.tensor([[0.0, 0.0], [1.0, -1.0]]), 1)
        tensor([[0.5   , 0.5   ],
                [0.8808, 0.1192]])
    """
    return _normalised(table.softmax, input, dim, dtype)


def log_softmax(input: Any, dim: int, dtype: Any = None) -> "Tensor":
    """`x - log(sum(exp(x)))` along `dim`: the logarithm of `softmax`, without its underflow.

        >>> import tinygrad_rnn as tg
        >>> tg.log_softmax(tg.tensor([0.0, 0.0]), 0)
        tensor([-0.6931, -0.6931])
    """
    return _normalised(table.log_softmax, input, dim, dtype)


def _normalised(row: Primitive, input: Any, dim: int, dtype: Any) -> "Tensor":
    x = _as(floating(input), dtype)
    axis = one_dim(row.name, dim, x.data.ndim)
    if x.data.ndim:
        return row(x, dim=axis)
    return table.reshape(row(table.reshape(x, shape=(1,)), dim=0), shape=())
