"""The table of primitives: every operation that the library can differentiate, one row each.

Read a row aloud: "tanh of x is tanh(x); given dy, the gradient of the result, that of x is dy * (1 - y * y)". The
names that rules may use are explained in `primitive`. From these rows come eager execution, the tape, derivatives of
derivatives, the gradient checks in the tests and `python -m tinygrad_rnn ops`; what is not here is composed of what
is, in `functions`.
"""

import builtins
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..kernels.matmul import matmul as packed_matmul
from .primitive import ElementwisePrimitive, Primitive, Shape, broadcast_shape
from .tape import unbroadcast

TABLE: dict[str, Primitive] = {}


def scalar(signature: str, formula: str, **rest: Any) -> ElementwisePrimitive:
    """Add a row that is a formula over scalars."""
    row = ElementwisePrimitive(signature, formula, **rest)
    TABLE[row.name] = row
    return row


def tensor(signature: str, forward: Any, equation: str, **rest: Any) -> Primitive:
    """Add a row that works on whole arrays."""
    row = Primitive(signature, forward, equation, **rest)
    TABLE[row.name] = row
    return row


# fmt: off

# ---- Arithmetic ------------------------------------------------------------------------------------------------------
add = scalar("add(a, b)", "a + b", da="dy",      db="dy",                                 onnx="Add", integer=np.add)
sub = scalar("sub(a, b)", "a - b", da="dy",      db="-dy",                                onnx="Sub", integer=np.subtract)
mul = scalar("mul(a, b)", "a * b", da="dy * b",  db="dy * a",                             onnx="Mul", integer=np.multiply)
div = scalar("div(a, b)", "a / b", da="dy / b",  db="-dy * y / b",                        onnx="Div")
pow = scalar("pow(a, b)", "pow(a, b)",
             da="where(b == 0, 0, dy * b * pow(a, b - 1))",
             db="where((a == 0) & (b >= 0), 0, dy * y * log(a))",                         onnx="Pow", integer=np.power)
neg = scalar("neg(x)",        "-x",            dx="-dy",                                  onnx="Neg", integer=np.negative)
square = scalar("square(x)",  "x * x",         dx="dy * 2 * x",                           integer=np.square)
reciprocal = scalar("reciprocal(x)", "1 / x",  dx="-dy * y * y",                          onnx="Reciprocal")
abs = scalar("abs(x)",        "abs(x)",        dx="where(x > 0, dy, where(x < 0, -dy, 0))",                         onnx="Abs", integer=np.abs)
sign = scalar("sign(x)",      "sign(x)",       dx="0 * dy",                               onnx="Sign", integer=np.sign)
floor = scalar("floor(x)",    "floor(x)",      dx="0 * dy",                               onnx="Floor", integer=np.positive)

# ---- Exponentials, roots and waves -----------------------------------------------------------------------------------
exp = scalar("exp(x)",        "exp(x)",        dx="dy * y",                               onnx="Exp")
expm1 = scalar("expm1(x)",    "expm1(x)",      dx="dy * (y + 1)")
log = scalar("log(x)",        "log(x)",        dx="dy / x",                               onnx="Log")
log1p = scalar("log1p(x)",    "log1p(x)",      dx="dy / (1 + x)")
sqrt = scalar("sqrt(x)",      "sqrt(x)",       dx="dy / (2 * y)",                         onnx="Sqrt")
rsqrt = scalar("rsqrt(x)",    "1 / sqrt(x)",   dx="-0.5 * dy * y * y * y")
sin = scalar("sin(x)",        "sin(x)",        dx="dy * cos(x)",                          onnx="Sin")
cos = scalar("cos(x)",        "cos(x)",        dx="-dy * sin(x)",                         onnx="Cos")
erf = scalar("erf(x)",        "erf(x)",        dx="dy * 1.1283791670955126 * exp(-x * x)", onnx="Erf")
phi = scalar("phi(x)",        "phi(x)",        dx="dy * 0.3989422804014327 * exp(-0.5 * x * x)")

# ---- Activations -----------------------------------------------------------------------------------------------------
tanh = scalar("tanh(x)",      "tanh(x)",       dx="dy * (1 - y * y)",                     onnx="Tanh")
sigmoid = scalar("sigmoid(x)", "sigmoid(x)",   dx="dy * y * (1 - y)",                     onnx="Sigmoid")
relu = scalar("relu(x)",      "where(x <= 0, 0, x)", dx="where(y <= 0, 0, dy)",           onnx="Relu")
silu = scalar("silu(x)",      "silu(x)",       dx="dy * sigmoid(x) * (1 + x * (1 - sigmoid(x)))")
gelu = scalar("gelu(x)",      "gelu(x)",       dx="dy * (phi(x) + x * 0.3989422804014327 * exp(-0.5 * x * x))",
              onnx="Gelu")
gelu_tanh = scalar("gelu_tanh(x)", "gelu_tanh(x)",
                   dx="dy * (sigmoid(1.5957691216057308 * x * (1 + 0.044715 * x * x)) + x * (1 - square(tanh("
                      "0.7978845608028654 * x * (1 + 0.044715 * x * x)))) * 0.3989422804014327 * (1 + 0.134145 * x * x))")
leaky_relu = scalar("leaky_relu(x, *, negative_slope)", "where(x > 0, x, negative_slope * x)",
                    dx="where(x > 0, dy, negative_slope * dy)",                           onnx="LeakyRelu")
elu = scalar("elu(x, *, alpha)", "where(x > 0, x, alpha * expm1(x))",
             dx="where(x > 0, dy, dy * alpha * exp(minimum(x, 0)))",                      onnx="Elu")
softplus = scalar("softplus(x)", "softplus(x)", dx="dy * sigmoid(x)",                     onnx="Softplus")

# ---- Choices: ties share the gradient equally ------------------------------------------------------------------------
where = scalar("where(c, a, b)", "where(c != 0, a, b)",
               da="where(c, dy, 0)",    db="where(c, 0, dy)",                             onnx="Where", integer=np.where)
maximum = scalar("maximum(a, b)", "maximum(a, b)",
                 da="where(a < b, 0, where(a == b, 0.5 * dy, dy))",
                 db="where(b < a, 0, where(a == b, 0.5 * dy, dy))",                       onnx="Max", integer=np.maximum)
minimum = scalar("minimum(a, b)", "minimum(a, b)",
                 da="where(a > b, 0, where(a == b, 0.5 * dy, dy))",
                 db="where(b > a, 0, where(a == b, 0.5 * dy, dy))",                       onnx="Min", integer=np.minimum)
clamp = scalar("clamp(x, low, high)", "minimum(maximum(x, low), high)",
               dx="where((x >= low) & (x <= high), dy, 0)",
               dlow="where((x < low) & (low < high), dy, 0)",
               dhigh="where((x > high) | (high < low), dy, 0)",                           onnx="Clip")

# fmt: on


# ---- What rows on whole arrays compute and what shapes they give -----------------------------------------------------
# Attributes arrive normalised: `dim` is a tuple of non-negative ints where a row reduces, one int elsewhere.


def kept(dy: Any, x_shape: Shape, dim: tuple[int, ...]) -> Any:
    """A reduced value with its dimensions put back as ones, to be aligned with x again."""
    return reshape(dy, shape=tuple(1 if i in dim else n for i, n in enumerate(x_shape)))


def tied(x: Any, y: Any, dim: tuple[int, ...]) -> Any:
    """Each element's share of a gradient that goes to all maxima equally: 1 / number of ties, or 0."""
    ties = cast(x == y, dtype=x.dtype)
    return ties / sum(ties, dim=dim, keepdim=True)


def flip(x: Any, dim: int) -> Any:
    return index(x, at=(slice(None),) * dim + (slice(None, None, -1),))


def mT(x: Any) -> Any:
    """The matrices in the last two dimensions, transposed."""
    return permute(x, dims=(*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


def inverse(dims: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argsort(dims))


def part(dy: Any, shapes: Sequence[Shape], i: int, dim: int) -> Any:
    """The part of a concatenation that came from input i."""
    start = builtins.sum(shape[dim] for shape in shapes[:i])
    return index(dy, at=(slice(None),) * dim + (slice(start, start + shapes[i][dim]),))


def _reduced_shape(x: Shape, dim: tuple[int, ...], keepdim: bool) -> Shape:
    if any(x[i] == 0 for i in dim):
        raise ValueError(f"the reduced dimension of shape {list(x)} is empty and this reduction has no identity")
    return _summed_shape(x, dim, keepdim)


def _summed_shape(x: Shape, dim: tuple[int, ...], keepdim: bool) -> Shape:
    return tuple(1 if i in dim else n for i, n in enumerate(x) if keepdim or i not in dim)


def _same_shape(x: Shape, **attributes: Any) -> Shape:
    return x


def _reshaped(x: Shape, shape: Shape) -> Shape:
    if math.prod(x) != math.prod(shape):
        raise ValueError(
            f"a value of shape {list(x)} with {math.prod(x)} elements cannot become {list(shape)} "
            f"with {math.prod(shape)}"
        )
    return shape


def _expanded(x: Shape, shape: Shape) -> Shape:
    aligned = shape[len(shape) - len(x) :] if len(x) <= len(shape) else ()
    if len(x) > len(shape) or any(n not in (1, m) for n, m in zip(x, aligned)):
        raise ValueError(f"shape {list(x)} cannot be expanded to {list(shape)}: only sizes of 1 can be repeated")
    return shape


def _summed_to(x: Shape, shape: Shape) -> Shape:
    _expanded(shape, x)
    return shape


def _indexed(x: Shape, at: Any) -> Shape:
    try:
        return np.broadcast_to(np.empty((), np.bool_), x)[at].shape
    except IndexError as error:
        raise ValueError(f"cannot index shape {list(x)}: {error}") from None


def _concatenated(*xs: Shape, dim: int) -> Shape:
    first = xs[0]
    for x in xs[1:]:
        if len(x) != len(first) or any(n != m for i, (n, m) in enumerate(zip(x, first)) if i != dim):
            raise ValueError(
                f"shapes {list(first)} and {list(x)} must agree in all dimensions but dim={dim}, along which they are "
                "joined"
            )
    return (*first[:dim], builtins.sum(x[dim] for x in xs), *first[dim + 1 :])


def _product_shape(a: Shape, b: Shape) -> Shape:
    if a[-1] != b[-2]:
        hint = "; did you mean b.T?" if a[-1] == b[-1] else "; did you mean a.T?" if a[-2] == b[-2] else ""
        raise ValueError(f"inner dimensions differ: a is {list(a)}, b is {list(b)}{hint}")
    return (*broadcast_shape(a[:-2], b[:-2]), a[-2], b[-1])


_quiet = np.errstate(over="ignore", invalid="ignore")  # inf - inf is NaN, and no more needs to be said


@_quiet
def _sum(x: np.ndarray, dim: tuple[int, ...], keepdim: bool) -> np.ndarray:
    return np.add.reduce(x, axis=dim, keepdims=keepdim)


@_quiet
def _cumsum(x: np.ndarray, dim: int) -> np.ndarray:
    return np.add.accumulate(x, axis=dim)


def _softmax(x: np.ndarray, dim: int) -> np.ndarray:
    e = exp(_below_maximum(x, dim))
    return e / np.add.reduce(e, axis=dim, keepdims=True)


def _log_softmax(x: np.ndarray, dim: int) -> np.ndarray:
    shifted = _below_maximum(x, dim)
    return shifted - log(np.add.reduce(exp(shifted), axis=dim, keepdims=True))


@_quiet
def _below_maximum(x: np.ndarray, dim: int) -> np.ndarray:
    """x minus its maximum, so that no exponential overflows."""
    return x - np.maximum.reduce(x, axis=dim, keepdims=True, initial=-np.inf)


def _scatter(total: np.ndarray, dy: np.ndarray, at: Any) -> None:
    """total[at] += dy, where an element that is named twice receives both."""
    if all(isinstance(i, (int, slice, type(None), type(...))) for i in at):
        total[at] += dy
    else:
        np.add.at(total, at, dy)


def _index_add(dy: np.ndarray, shape: Shape, at: Any) -> np.ndarray:
    total = np.zeros(shape, dy.dtype)
    _scatter(total, dy, at)
    return total


def _matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.shape[-1] != b.shape[-2]:
        raise ValueError
    return packed_matmul(a, b)


# fmt: off

# ---- Reductions ------------------------------------------------------------------------------------------------------
sum = tensor("sum(x, *, dim, keepdim)", _sum,
             "y = sum of x over dim", shape=_summed_shape, onnx="ReduceSum",
             gradients=dict(dx="expand(kept(dy, x_shape, dim), shape=x_shape)"))
amax = tensor("amax(x, *, dim, keepdim)", lambda x, dim, keepdim: np.maximum.reduce(x, axis=dim, keepdims=keepdim),
              "y = largest x over dim", shape=_reduced_shape, onnx="ReduceMax",
              gradients=dict(dx="kept(dy, x_shape, dim) * tied(x, kept(y, x_shape, dim), dim)"))
amin = tensor("amin(x, *, dim, keepdim)", lambda x, dim, keepdim: np.minimum.reduce(x, axis=dim, keepdims=keepdim),
              "y = smallest x over dim", shape=_reduced_shape, onnx="ReduceMin",
              gradients=dict(dx="kept(dy, x_shape, dim) * tied(x, kept(y, x_shape, dim), dim)"))
cumsum = tensor("cumsum(x, *, dim)", _cumsum,
                "y[i] = x[0] + ... + x[i] along dim", shape=_same_shape, onnx="CumSum",
                gradients=dict(dx="flip(cumsum(flip(dy, dim), dim=dim), dim)"))
softmax = tensor("softmax(x, *, dim)", _softmax, "y = exp(x) / sum(exp(x)) along dim", shape=_same_shape, onnx="Softmax",
                 gradients=dict(dx="y * (dy - sum(dy * y, dim=(dim,), keepdim=True))"))
log_softmax = tensor("log_softmax(x, *, dim)", _log_softmax, "y = x - log(sum(exp(x))) along dim", shape=_same_shape,
                     onnx="LogSoftmax", gradients=dict(dx="dy - exp(y) * sum(dy, dim=(dim,), keepdim=True)"))

# ---- Products --------------------------------------------------------------------------------------------------------
matmul = tensor("matmul(a, b)", _matmul, "y[..., i, j] = sum_k a[..., i, k] b[..., k, j]", shape=_product_shape,
                onnx="MatMul", gradients=dict(da="matmul(dy, mT(b))", db="matmul(mT(a), dy)"))

# ---- Shapes: nothing is computed, only moved -------------------------------------------------------------------------
reshape = tensor("reshape(x, *, shape)", lambda x, shape: x.reshape(shape), "y = x in rows of another length",
                 shape=_reshaped, onnx="Reshape", gradients=dict(dx="reshape(dy, shape=x_shape)"))
permute = tensor("permute(x, *, dims)", lambda x, dims: x.transpose(dims), "y[i_dims] = x[i]",
                 shape=lambda x, dims: tuple(x[i] for i in dims), onnx="Transpose",
                 gradients=dict(dx="permute(dy, dims=inverse(dims))"))
expand = tensor("expand(x, *, shape)", lambda x, shape: np.broadcast_to(x, shape), "y = x repeated to shape",
                shape=_expanded, onnx="Expand", gradients=dict(dx="sum_to(dy, shape=x_shape)"))
sum_to = tensor("sum_to(x, *, shape)", unbroadcast, "y = x summed where shape has ones", shape=_summed_to,
                gradients=dict(dx="expand(dy, shape=x_shape)"))
index = tensor("index(x, *, at)", lambda x, at: x[at], "y = x[at]", shape=_indexed, onnx="GatherND",
               gradients=dict(dx="index_add(dy, shape=x_shape, at=at)"), scatter=_scatter)
index_add = tensor("index_add(x, *, shape, at)", _index_add, "y = 0; y[at] += x", shape=lambda x, shape, at: shape,
                   onnx="ScatterND", gradients=dict(dx="index(dy, at=at)"))
cat = tensor("cat(*xs, dim)", lambda *xs, dim: np.concatenate(xs, axis=dim), "y = xs one after the other along dim",
             shape=_concatenated, onnx="Concat", gradients=dict(dxs="part(dy, shapes, i, dim)"))
cast = tensor("cast(x, *, dtype)", lambda x, dtype: x.astype(dtype), "y = x in another dtype", shape=_same_shape,
              onnx="Cast", gradients=dict(dx="cast(dy, dtype=x_dtype)"))

# fmt: on

for _row in TABLE.values():
    _row.names = {**TABLE, "kept": kept, "tied": tied, "flip": flip, "mT": mT, "inverse": inverse, "part": part}
