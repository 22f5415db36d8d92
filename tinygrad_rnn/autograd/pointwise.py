"""Functions of one element at a time: arithmetic, activations, comparisons.

All of them broadcast their arguments, accept tensors, NumPy arrays and numbers, and keep PyTorch's names.
"""

import math
from collections.abc import Callable
from numbers import Number
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from . import table
from .eager import binary, unary
from .operands import aligned, as_array, as_tensor, ask, floating, named, unrecorded
from .primitive import ElementwisePrimitive
from .tape import Value, mode

if TYPE_CHECKING:
    from .tensor import Tensor

# ---- One operand -----------------------------------------------------------------------------------------------------


def _unary(row: ElementwisePrimitive, shown: str, convert: Callable[[Any], Any] = floating) -> Any:
    """The function of a row, with a docstring read off it, and what it makes of two numbers."""
    meaning = f"`{row.equation}` for every element x of input, of any shape.\n\nIts gradient: `dx = {row.rules['dx']}`."
    example = f"tg.tensor({[0.25, 1.0] if convert is floating else [-1.5, 2.0]}) -> tensor([{shown}])"
    return named(row.name, meaning, unary(row, lambda input: row(convert(input))), example)


exp, expm1 = _unary(table.exp, "1.284 , 2.7183"), _unary(table.expm1, "0.284 , 1.7183")
log, log1p = _unary(table.log, "-1.3863,  0.    "), _unary(table.log1p, "0.2231, 0.6931")
sqrt, rsqrt, reciprocal = map(_unary, (table.sqrt, table.rsqrt, table.reciprocal), ("0.5, 1. ", "2., 1.", "4., 1."))
sin, cos = _unary(table.sin, "0.2474, 0.8415"), _unary(table.cos, "0.9689, 0.5403")
erf, silu = _unary(table.erf, "0.2763, 0.8427"), _unary(table.silu, "0.1405, 0.7311")
tanh, sigmoid = _unary(table.tanh, "0.2449, 0.7616"), _unary(table.sigmoid, "0.5622, 0.7311")


# These take integers as they are.
neg, abs = _unary(table.neg, " 1.5, -2. ", as_tensor), _unary(table.abs, "1.5, 2. ", as_tensor)
sign, square = _unary(table.sign, "-1.,  1.", as_tensor), _unary(table.square, "2.25, 4.  ", as_tensor)
relu, floor = _unary(table.relu, "0., 2.", as_tensor), _unary(table.floor, "-2.,  2.", as_tensor)


def leaky_relu(input: Any, negative_slope: Any = 0.01) -> "Tensor":
    """`x if x > 0 else negative_slope * x` for every element x.

        >>> import tinygrad_rnn as tg
        >>> tg.leaky_relu(tg.tensor([-1.0, 2.0]), 0.1)
        tensor([-0.1,  2. ])
    """
    if isinstance(negative_slope, Value):  # it may be learned (He et al., 2015)
        return where(input > 0, input, negative_slope * input)
    return table.leaky_relu(floating(input), negative_slope=negative_slope)


def elu(input: Any, alpha: Any = 1.0) -> "Tensor":
    """`x if x > 0 else alpha * (exp(x) - 1)` for every element x (Clevert et al., 2016).

        >>> import tinygrad_rnn as tg
        >>> tg.elu(tg.tensor([-1.0, 0.0, 2.0]))
        tensor([-0.6321,  0.    ,  2.    ])
    """
    if isinstance(alpha, Value):
        return where(input > 0, input, alpha * expm1(minimum(input, 0)))
    return table.elu(floating(input), alpha=alpha)


def softplus(input: Any, beta: float = 1.0, threshold: float = 20.0) -> "Tensor":
    """`log(1 + exp(beta * x)) / beta`, and x itself where `beta * x > threshold`.

        >>> import tinygrad_rnn as tg
        >>> tg.softplus(tg.tensor([0.0, 100.0]))
        tensor([  0.6931, 100.    ])
    """
    x = floating(input)
    scaled = x if beta == 1 else beta * x
    smooth = table.softplus(scaled)
    return where(scaled > threshold, x, smooth if beta == 1 else smooth / beta)


def gelu(input: Any, approximate: str = "none") -> "Tensor":
    """`x * P(X <= x)` for a standard normal X, or its tanh approximation (Hendrycks and Gimpel, 2016).

        >>> import tinygrad_rnn as tg
        >>> tg.gelu(tg.tensor([-1.0, 0.0, 1.0]))
        tensor([-0.1587,  0.    ,  0.8413])

    Args:
        approximate: "none", or "tanh" for `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`.
    """
    x = floating(input)
    if approximate == "none":
        return table.gelu(x)
    if approximate != "tanh":
        raise ValueError(f"gelu: approximate must be 'none' or 'tanh', not {approximate!r}")
    return table.gelu_tanh(x)


# ---- Two operands and more -------------------------------------------------------------------------------------------


def _binary(row: ElementwisePrimitive, meaning: str, shown: str) -> "Callable[[Any, Any], Tensor]":
    example = f"tg.tensor([1.0, 5.0]), tg.tensor([3.0, 2.0]) -> tensor({shown})"
    return named(row.name, meaning, binary(row, lambda input, other: row(*aligned(row.name, input, other))), example)


def _ratio(input: Any, other: Any) -> "Tensor":
    return table.div(*(floating(x) if isinstance(x, Value) else x for x in aligned("div", input, other)))


_add, _sub = _binary(table.add, "`a + b`.\n", "[4., 7.]"), _binary(table.sub, "`a - b`.\n", "[-2.,  3.]")
mul, _div = _binary(table.mul, "`input * other`.\n", "[ 3., 10.]"), binary(table.div, _ratio)
maximum = _binary(table.maximum, "The larger of two; NaN if either is. Ties share the gradient equally.\n", "[3., 5.]")
minimum = _binary(table.minimum, "The smaller of two; NaN if either is. Ties share the gradient equally.\n", "[1., 2.]")


def add(input: Any, other: Any, *, alpha: float = 1) -> "Tensor":
    """`input + alpha * other`.

        >>> import tinygrad_rnn as tg
        >>> tg.add(tg.tensor([1.0, 2.0]), tg.tensor([10.0, 20.0]), alpha=2)
        tensor([21., 42.])
    """
    a, b = (input, other) if alpha == 1 else aligned("add", input, other)  # multiplied in the dtype of the result
    return _add(a, b if alpha == 1 else b * alpha)


def sub(input: Any, other: Any, *, alpha: float = 1) -> "Tensor":
    """`input - alpha * other`.

        >>> import tinygrad_rnn as tg
        >>> tg.sub(tg.tensor([5.0, 7.0]), 1, alpha=2)
        tensor([3., 5.])
    """
    a, b = (input, other) if alpha == 1 else aligned("sub", input, other)
    return _sub(a, b if alpha == 1 else b * alpha)


def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> "Tensor":
    """`input / other`; with `rounding_mode` "floor" or "trunc" rounded, and then with a gradient of 0.

        >>> import tinygrad_rnn as tg
        >>> tg.div(tg.tensor([7.0, -7.0]), 2, rounding_mode="floor")
        tensor([ 3., -4.])
    """
    if rounding_mode is None:
        return _div(input, other)
    a, b = _divisible("div", input, other)
    down = table.floor_divide(a, b)
    if rounding_mode == "floor":
        return down
    if rounding_mode == "trunc":  # of floats the quotient: 1 / 0.1 is 10, and its floor 9, by what 1 leaves over
        y, up = _ratio(a, b).detach(), (down < 0) & (down * b != a)
        return where(True, floor(abs(y)) * sign(y) if down.dtype.kind == "f" else down + up, down)  # gradients of 0
    raise ValueError(f"div: rounding_mode must be None, 'floor' or 'trunc', not {rounding_mode!r}")


def pow(input: Any, exponent: Any) -> "Tensor":
    """`input ** exponent`. The gradient at `0 ** 0` is 0.

        >>> import tinygrad_rnn as tg
        >>> tg.pow(tg.tensor([1.0, 2.0, 3.0]), 3)
        tensor([ 1.,  8., 27.])
    """
    a, b = aligned("pow", input, exponent)
    if isinstance(b, (int, float)) and b == 2:
        return square(a)
    if isinstance(b, (int, float)) and b == 0 and a.data.dtype.kind == "f":
        return where(True, 1, a)  # 1 everywhere, with a gradient of 0
    return table.pow(a, b)


def clamp(input: Any, min: Any = None, max: Any = None) -> "Tensor":
    """`minimum(maximum(input, min), max)`; where min > max the result is max.

        >>> import tinygrad_rnn as tg
        >>> x = tg.tensor([-2.0, 0.5, 2.0], requires_grad=True)
        >>> tg.clamp(x, -1, 1).sum().backward()
        >>> x.grad
        tensor([0., 1., 0.])

    The gradient passes where `min <= input <= max`, both ends included.
    """
    if min is None and max is None:
        raise ValueError("clamp: at least one of min and max must be given")
    low, high = -np.inf if min is None else min, np.inf if max is None else max
    x = as_tensor(input)
    if x.data.dtype.kind in "iu" and not isinstance(min, float) and not isinstance(max, float):
        bounded = x if min is None else maximum(x, min)
        return bounded if max is None else minimum(bounded, max)
    return table.clamp(*aligned("clamp", x, low, high))


def clip_gradient(input: Any, value: float) -> "Tensor":
    """The input itself; its gradient is clipped to `[-value, value]`, element by element, in the backward pass.

        >>> import tinygrad_rnn as tg
        >>> x = tg.tensor([1.0, 1.0], requires_grad=True)
        >>> (tg.clip_gradient(x, 0.5) * tg.tensor([10.0, 0.1])).sum().backward()
        >>> x.grad
        tensor([0.5, 0.1])

        y = x        dx = min(max(dy, -value), value)

    In the `step` of a cell it keeps gradients from exploding inside the loop over time, where they arise, rather than
    after it: `a = tg.clip_gradient(x @ self.W + h @ self.U, 10.0)`. NaN stays NaN. What is behind it gets no true
    derivative: gradients that were clipped do not agree with finite differences, nor do second ones.

    Raises:
        ValueError: `value` is negative or NaN.

    Source: Graves, "Generating sequences with recurrent neural networks", 2013, section 2.1.
    """
    if not value >= 0:
        raise ValueError(f"clip_gradient: value must be at least 0, got {value}")
    return table.clip_gradient(floating(input), limit=float(value))


def straight_through(hard: Any, soft: Any) -> "Tensor":
    """The value of `hard` with the gradient of `soft`: what is decided is used, and what would decide softly learns.

        >>> import tinygrad_rnn as tg
        >>> v = tg.tensor([-1.0, 0.5, 2.0], requires_grad=True)
        >>> bit = tg.straight_through(v > 0, tg.sigmoid(v))  # a binary neuron
        >>> bit
        tensor([0., 1., 1.], grad_fn=straight_through)
        >>> bit.sum().backward()
        >>> v.grad
        tensor([0.1966, 0.235 , 0.105 ])

        y = hard        dhard = 0, dsoft = dy

    Args:
        hard: what comes out, such as a rounded or a thresholded value; truth values become 0 and 1.
        soft: where gradients go, unchanged; of any shape that broadcasts with hard's.

    Like every gradient that is no derivative, it does not agree with finite differences. Second derivatives are those
    of `soft`.

    Source: Bengio, Léonard and Courville, "Estimating or propagating gradients through stochastic neurons for
    conditional computation", 2013.
    """
    both = (floating(x) if isinstance(x, Value) else x for x in aligned("straight_through", hard, soft))
    return table.straight_through(*both)


def where(condition: Any, input: Any, other: Any) -> "Tensor":
    """`input` where the condition holds, else `other`.

        >>> import tinygrad_rnn as tg
        >>> x = tg.tensor([-1.0, 2.0])
        >>> tg.where(x > 0, x, 0.1 * x)
        tensor([-0.1,  2. ])
    """
    a, b = aligned("where", input, other)
    if not (isinstance(a, Value) or isinstance(b, Value)):
        a = as_tensor(a)
    is_mask = isinstance(condition, Value) and condition.data.dtype == np.bool_
    return table.where(condition if is_mask else mask("where", condition), a, b)


def masked_fill(input: Any, mask: Any, value: Any) -> "Tensor":
    """`value` where the mask holds, else `input`.

        >>> import tinygrad_rnn as tg
        >>> tg.masked_fill(tg.tensor([1.0, 2.0]), tg.tensor([False, True]), -9)
        tensor([ 1., -9.])
    """
    scalar = np.asarray(value.data if isinstance(value, Value) else value)
    if scalar.dtype.kind not in "biuf" or scalar.ndim:
        raise TypeError(f"masked_fill: value must be a real number or a 0-d tensor, not {value!r}")
    of_truths = isinstance(value, (int, float)) and getattr(input, "dtype", None) == np.bool_
    return where(mask, bool(value) if of_truths else value, input)


def mask(name: str, condition: Any) -> np.ndarray:
    """A boolean array from a boolean tensor, array or number."""
    ask(condition, "compare it with something, such as mask != 0")
    array = condition.data if isinstance(condition, Value) else np.asarray(condition)
    if array.dtype.kind not in "bu":
        raise TypeError(f"{name}: the condition must be boolean, not {array.dtype}; compare it with something first")
    return array.astype(np.bool_, copy=False)


def floor_divide(input: Any, other: Any) -> "Tensor":
    """`input // other`, rounded down, integers as integers. It has no gradient, as in PyTorch."""
    return table.floor_divide(*_divisible("//", input, other)).detach()


def remainder(input: Any, other: Any) -> "Tensor":
    """`input % other`, of the sign of `other`: `input - (input // other) * other`, and so are its gradients."""
    return table.remainder(*_divisible("%", input, other))


def divmod(input: Any, other: Any) -> "tuple[Tensor, Tensor]":
    """`input // other` and `input % other`."""
    return floor_divide(input, other), remainder(input, other)


def _divisible(sign: str, input: Any, other: Any) -> Any:
    a, b = aligned(sign, input, other)
    if mode.tracer is None and np.result_type(*map(as_array, (a, b))).kind != "f" and not np.all(as_array(b)):
        raise ZeroDivisionError(f"{sign}: integers are not divided by zero")
    return a, b


# ---- Comparisons and tests: boolean results, no gradient -------------------------------------------------------------


def _comparison(row: ElementwisePrimitive) -> "Callable[[Any, Any], Tensor]":
    example = f"tg.tensor([0, 2]), tg.tensor([2, 2]) -> {cast(Any, row).integer([0, 2], [2, 2])!r}"
    meaning, example = f"A boolean tensor: `{row.equation}` for every element.\n", example.replace("array", "tensor")
    return named(row.name, meaning, lambda input, other: row(*aligned(row.name, input, other)), example)


COMPARED = (Value, int, float, np.ndarray, np.generic, list, tuple, Number)  # the rest is equal to no tensor
eq, ne, lt, le, gt, ge = map(_comparison, (table.eq, table.ne, table.lt, table.le, table.gt, table.ge))
logical_and, logical_or = _comparison(table.logical_and), _comparison(table.logical_or)


def logical_not(input: Any) -> "Tensor":
    """A boolean tensor: whether an element is zero or False.

        >>> import tinygrad_rnn as tg
        >>> tg.logical_not(tg.tensor([True, False]))
        tensor([False,  True])
    """
    return table.logical_not(as_tensor(input))


def _bitwise(symbol: str, ufunc: np.ufunc, row: Any) -> "Callable[..., Tensor]":
    """The operator of a row for booleans, of the bits of integers."""

    def function(*inputs: Any) -> "Tensor":
        operands = aligned(symbol, *inputs)
        kinds = {x.data.dtype.kind if isinstance(x, Value) else np.asarray(x).dtype.kind for x in operands}
        if "f" in kinds:
            raise TypeError(f"{symbol} is for integers and booleans, not for floats: compare them first")
        return row(*operands) if kinds == {"b"} else unrecorded(ufunc, *operands)

    return named(ufunc.__name__, f"`{symbol}`: of booleans logical, of integers bit by bit.", function)


bitwise_and = _bitwise("&", np.bitwise_and, table.logical_and)
bitwise_or = _bitwise("|", np.bitwise_or, table.logical_or)
bitwise_xor = _bitwise("^", np.bitwise_xor, table.ne)
bitwise_not = _bitwise("~", np.invert, table.logical_not)


def isnan(input: Any) -> "Tensor":
    """A boolean tensor: whether an element is not a number.

        >>> import tinygrad_rnn as tg
        >>> tg.isnan(tg.tensor([1.0, float("inf"), float("nan")]))
        tensor([False, False,  True])
    """
    x = as_tensor(input)
    return table.ne(x, x)


def isinf(input: Any) -> "Tensor":
    """A boolean tensor: whether an element is infinite.

        >>> import tinygrad_rnn as tg
        >>> tg.isinf(tg.tensor([1.0, float("inf"), float("nan")]))
        tensor([False,  True, False])
    """
    return table.eq(table.abs(as_tensor(input).detach()), math.inf)


def isfinite(input: Any) -> "Tensor":
    """A boolean tensor: whether an element is a number, and not infinite.

        >>> import tinygrad_rnn as tg
        >>> tg.isfinite(tg.tensor([1.0, float("inf"), float("nan")]))
        tensor([ True, False, False])
    """
    return table.lt(table.abs(as_tensor(input).detach()), math.inf)
