"""The table of primitives: every operation that the library can differentiate, one row each.

Read a row aloud: "tanh of x is tanh(x); given dy, the gradient of the result, that of x is dy * (1 - y * y)". The
names that rules may use are explained in `primitive`. From these rows come eager execution, the tape, derivatives of
derivatives, the gradient checks in the tests and `python -m tinygrad_rnn ops`; what is not here is composed of what
is, in `pointwise`, `reductions`, `shapes` and `products`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..kernels import batch_norm as channels
from ..kernels import convolution
from ..kernels import layer_norm as rows
from ..kernels import masked_softmax as attended
from . import arrays
from .primitive import ElementwisePrimitive, Primitive, Shape
from .tape import Value, unbroadcast

TABLE: dict[str, Primitive] = {}


def scalar(signature: str, formula: str, **rest: Any) -> ElementwisePrimitive:
    """Add a row that is a formula over scalars."""
    row = ElementwisePrimitive(signature, formula, **rest)
    TABLE[row.name] = row
    return row


def tensor(signature: str, equation: str, shapes: str, forward: Any, shape: Any, **rest: Any) -> Primitive:
    """Add a row that works on whole arrays. Its attribute `dim` is non-negative: a tuple where dimensions go away."""
    row = Primitive(signature, equation, shapes, forward, shape, **rest)
    TABLE[row.name] = row
    return row


# fmt: off

# ---- Arithmetic ------------------------------------------------------------------------------------------------------
add = scalar("add(a, b)", "a + b",   da="dy",        db="dy",                onnx="Add",   integer=np.add)
sub = scalar("sub(a, b)", "a - b",   da="dy",        db="-dy",               onnx="Sub",   integer=np.subtract)
mul = scalar("mul(a, b)", "a * b",   da="dy * b",    db="dy * a",            onnx="Mul",   integer=np.multiply)
div = scalar("div(a, b)", "a / b",   da="dy / b",    db="-dy * y / b",       onnx="Div")
pow = scalar("pow(a, b)", "pow(a, b)",
             da="where(b == 0, 0, dy * (b * pow(a, b - 1)))",
             db="dy * where((a == 0) & (b >= 0), 0, y * log(a))",            onnx="Pow",   integer=arrays.whole_power)

neg = scalar("neg(x)", "-x",         dx="-dy",                               onnx="Neg",   integer=np.negative)
abs = scalar("abs(x)", "abs(x)",     dx="where(x > 0, dy, where(x < 0, -dy, 0))", onnx="Abs", integer=np.abs)
sign = scalar("sign(x)", "sign(x)",  dx="0 * dy",                            onnx="Sign",  integer=np.sign)
floor = scalar("floor(x)", "floor(x)", dx="0 * dy",                          onnx="Floor", integer=np.positive)
floor_divide = scalar("floor_divide(a, b)", "floor_divide(a, b)", da="0 * dy", db="0 * dy", integer=np.floor_divide)
remainder = scalar("remainder(a, b)", "remainder(a, b)", da="dy", db="-dy * floor_divide(a, b)",
                   onnx="Mod",                                                             integer=np.remainder)
square = scalar("square(x)", "x * x", dx="dy * 2 * x",                                     integer=arrays.whole_square)
reciprocal = scalar("reciprocal(x)", "1 / x", dx="-dy * y * y",              onnx="Reciprocal")

for _of_numpy, _ufunc in ((floor_divide, np.floor_divide), (remainder, np.remainder)):
    _of_numpy.forward = arrays.quiet(_ufunc)  # eagerly NumPy's own, which are as fast

# ---- Exponentials, roots and waves -----------------------------------------------------------------------------------
exp = scalar("exp(x)", "exp(x)",         dx="dy * y",                        onnx="Exp")
log = scalar("log(x)", "log(x)",         dx="dy / x",                        onnx="Log")
expm1 = scalar("expm1(x)", "expm1(x)",   dx="dy * (y + 1)")
log1p = scalar("log1p(x)", "log1p(x)",   dx="dy / (1 + x)")
sqrt = scalar("sqrt(x)", "sqrt(x)",      dx="dy / (2 * y)",                  onnx="Sqrt")
rsqrt = scalar("rsqrt(x)", "1 / sqrt(x)", dx="-0.5 * dy * y * y * y")
sin = scalar("sin(x)", "sin(x)",         dx="dy * cos(x)",                   onnx="Sin")
cos = scalar("cos(x)", "cos(x)",         dx="-dy * sin(x)",                  onnx="Cos")
erf = scalar("erf(x)", "erf(x)",         dx="dy * 1.1283791670955126 * exp(-x * x)", onnx="Erf")
phi = scalar("phi(x)", "phi(x)",         dx="dy * 0.3989422804014327 * exp(-0.5 * x * x)")

# ---- Activations -----------------------------------------------------------------------------------------------------
tanh = scalar("tanh(x)", "tanh(x)",      dx="dy * (1 - y * y)",              onnx="Tanh")
sigmoid = scalar("sigmoid(x)", "sigmoid(x)", dx="dy * y * (1 - y)",          onnx="Sigmoid")
softplus = scalar("softplus(x)", "softplus(x)", dx="dy * sigmoid(x)",        onnx="Softplus")
relu = scalar("relu(x)", "where(x <= 0, 0, x)", dx="where(y <= 0, 0, dy)",   onnx="Relu",
              integer=arrays.whole_relu)
leaky_relu = scalar("leaky_relu(x, *, negative_slope)", "where(x > 0, x, negative_slope * x)",
                    dx="where(x > 0, dy, negative_slope * dy)",              onnx="LeakyRelu")
elu = scalar("elu(x, *, alpha)", "where(x > 0, x, alpha * expm1(x))",
             dx="where(x > 0, dy, dy * alpha * exp(minimum(x, 0)))",         onnx="Elu")
silu = scalar("silu(x)", "silu(x)",
              dx="dy * sigmoid(x) * (1 + x * (1 - sigmoid(x)))")
gelu = scalar("gelu(x)", "gelu(x)",
              dx="dy * (phi(x) + x * 0.3989422804014327 * exp(-0.5 * x * x))", onnx="Gelu")
gelu_tanh = scalar("gelu_tanh(x)", "gelu_tanh(x)",
                   dx="dy * sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x)) * (1 + x * 1.5957691216057308"
                      " * (1 - sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))) * (1 + 0.134145 * x * x))")

# ---- Choices: ties share the gradient equally ------------------------------------------------------------------------
where = scalar("where(c, a, b)", "where(c != 0, a, b)",
               da="where(c, dy, 0)",
               db="where(c, 0, dy)",                                         onnx="Where", integer=np.where)
maximum = scalar("maximum(a, b)", "maximum(a, b)",
                 da="where(a < b, 0, where(a == b, 0.5 * dy, dy))",
                 db="where(b < a, 0, where(a == b, 0.5 * dy, dy))",          onnx="Max",   integer=np.maximum)
minimum = scalar("minimum(a, b)", "minimum(a, b)",
                 da="where(a > b, 0, where(a == b, 0.5 * dy, dy))",
                 db="where(b > a, 0, where(a == b, 0.5 * dy, dy))",          onnx="Min",   integer=np.minimum)
clamp = scalar("clamp(x, low, high)", "minimum(maximum(x, low), high)",
               dx="where((x >= low) & (x <= high), dy, 0)",
               dlow="where((x < low) & (low < high), dy, 0)",
               dhigh="where((x > high) | (high < low), dy, 0)",              onnx="Clip")

# ---- No derivatives, on purpose: they change what flows back ---------------------------------------------------------
clip_gradient = scalar("clip_gradient(x, *, limit)", "x",
                       dx="where(dy > limit, limit, where(dy < -limit, -limit, dy))", onnx="Identity")
straight_through = scalar("straight_through(hard, soft)", "hard", dsoft="dy")
detach = scalar("detach(x)", "x",                                   onnx="Identity",       integer=np.positive)
clip_gradient.linear = False

# ---- Comparisons: truth values have no gradient ----------------------------------------------------------------------
eq = scalar("eq(a, b)", "a == b",                                   onnx="Equal",          integer=np.equal)
ne = scalar("ne(a, b)", "a != b",                                                          integer=np.not_equal)
lt = scalar("lt(a, b)", "a < b",                                    onnx="Less",           integer=np.less)
le = scalar("le(a, b)", "a <= b",                                   onnx="LessOrEqual",    integer=np.less_equal)
gt = scalar("gt(a, b)", "a > b",                                    onnx="Greater",        integer=np.greater)
ge = scalar("ge(a, b)", "a >= b",                                   onnx="GreaterOrEqual", integer=np.greater_equal)
logical_and = scalar("logical_and(a, b)", "(a != 0) & (b != 0)",    onnx="And",            integer=np.logical_and)
logical_or = scalar("logical_or(a, b)", "(a != 0) | (b != 0)",      onnx="Or",             integer=np.logical_or)
logical_not = scalar("logical_not(x)", "x == 0",                    onnx="Not",            integer=np.logical_not)

# ---- Reductions ------------------------------------------------------------------------------------------------------
sum = tensor("sum(x, *, dim, keepdim)", "y = sum of x over dim", "[...] -> [... without dim]",
             arrays.sum, arrays.summed_shape, onnx="ReduceSum",
             dx="spread(dy, x_shape, dim)")
amax = tensor("amax(x, *, dim, keepdim)", "y = largest x over dim", "[...] -> [... without dim]",
              lambda x, dim, keepdim: x.max(dim, keepdims=keepdim), arrays.extreme_shape, onnx="ReduceMax",
              dx="kept(dy, x_shape, dim) * tied(x, kept(y, x_shape, dim), dim)")
amin = tensor("amin(x, *, dim, keepdim)", "y = smallest x over dim", "[...] -> [... without dim]",
              lambda x, dim, keepdim: x.min(dim, keepdims=keepdim), arrays.extreme_shape, onnx="ReduceMin",
              dx="kept(dy, x_shape, dim) * tied(x, kept(y, x_shape, dim), dim)")
cumsum = tensor("cumsum(x, *, dim)", "y[i] = x[0] + ... + x[i] along dim", "[...] -> [...]",
                arrays.cumsum, arrays.same_shape, onnx="CumSum",
                dx="flip(cumsum(flip(dy, dim), dim=dim), dim)")
softmax = tensor("softmax(x, *, dim)", "y = exp(x) / sum(exp(x)) along dim", "[...] -> [...]",
                 arrays.softmax, arrays.same_shape, onnx="Softmax", at_once=arrays.softmax_gradient,
                 dx="y * (dy - sum(dy * y, dim=(dim,), keepdim=True))")
log_softmax = tensor("log_softmax(x, *, dim)", "y = x - log(sum(exp(x))) along dim", "[...] -> [...]",
                     arrays.log_softmax, arrays.same_shape, onnx="LogSoftmax", at_once=arrays.log_softmax_gradient,
                     dx="dy - exp(y) * sum(dy, dim=(dim,), keepdim=True)")
masked_softmax = tensor("masked_softmax(x, bias, *, scale, causal)",
                        "y = softmax of scale x + bias along the last dim; 0 where j > i if causal, or nothing is left",
                        "[..., L, S], [...] -> [..., L, S]", attended.masked_softmax, arrays.masked,
                        dx="softened(dy, y, scale)", dbias="softened(dy, y, 1)")

layer_norm = tensor("layer_norm(x, weight, bias, *, dim, eps)",
                    "y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias over dim, the last ones",
                    "[..., D], [D], [D] -> [..., D]", rows.layer_norm, arrays.row_by_row,
                    onnx="LayerNormalization", at_once=rows.gradients,
                    dx="normal(x, dim, eps, dy * weight)", dweight="dy * normal(x, dim, eps)", dbias="dy")
batch_norm = tensor("batch_norm(x, weight, bias, *, eps, found)", "y = the same over all but C, for each channel",
                    "[N, C, ...], [C, 1...], [C, 1...] -> [N, C, ...]", channels.batch_norm, arrays.by_channel,
                    onnx="BatchNormalization", at_once=channels.gradients,
                    dx="normal(x, (), eps, dy * weight, found)", dweight="dy * normal(x, (), eps)", dbias="dy")

# ---- Products --------------------------------------------------------------------------------------------------------
matmul = tensor("matmul(a, b)", "y[..., i, j] = sum over k of a[..., i, k] b[..., k, j]",
                "[..., M, K], [..., K, N] -> [..., M, N]",
                arrays.matmul, arrays.product_shape, onnx="MatMul",
                da="matmul(dy, mT(b))", db="matmul(mT(a), dy)")
linear = tensor("linear(x, weight, bias)", "y = x weight^T + bias", "[N, I], [O, I], [O] -> [N, O]",
                lambda x, weight, bias: arrays.matmul(x, weight.T) + bias,
                lambda x, weight, bias: arrays.expanded(bias, arrays.product_shape(x, weight[::-1])), onnx="Gemm",
                dx="matmul(dy, weight)", dweight="matmul(mT(dy), x)", dbias="dy")

_TAPS = "stride=stride, dilation=dilation, before=before, after=after"
conv1d = tensor("conv1d(x, weight, *, stride, dilation, before, after)",
                "y[b, o, n] = sum over c, i of weight[o, c, i] x[b, c, n stride + i dilation - before]",
                "[B, C, L], [O, C, K] -> [B, O, N]", convolution.correlate, arrays.convolved, onnx="Conv",
                dx=f"conv1d_input(dy, weight, length=x_shape[2], {_TAPS})",
                dweight=f"conv1d_weight(dy, x, size=weight_shape[2], {_TAPS})")
conv1d_input = tensor("conv1d_input(g, weight, *, length, stride, dilation, before, after)",
                      "y = dx of conv1d, for dy = g", "[B, O, N], [O, C, K] -> [B, C, L]",
                      convolution.correlate_input, arrays.input_of, onnx="ConvTranspose",
                      dg=f"conv1d(dy, weight, {_TAPS})", dweight=f"conv1d_weight(g, dy, size=weight_shape[2], {_TAPS})")
conv1d_weight = tensor("conv1d_weight(g, x, *, size, stride, dilation, before, after)",
                       "y = dweight of conv1d, for dy = g", "[B, O, N], [B, C, L] -> [O, C, K]",
                       convolution.correlate_weight, arrays.weight_of,
                       dg=f"conv1d(x, dy, {_TAPS})", dx=f"conv1d_input(g, dy, length=x_shape[2], {_TAPS})")

# ---- Shapes: nothing is computed, only moved -------------------------------------------------------------------------
reshape = tensor("reshape(x, *, shape)", "y = x, row by row in another shape", "[...] -> shape",
                 lambda x, shape: x.reshape(shape), arrays.reshaped, onnx="Reshape",
                 dx="reshape(dy, shape=x_shape)")
permute = tensor("permute(x, *, dims)", "y = x with dimension dims[i] as its i-th", "[...] -> [... in the order dims]",
                 lambda x, dims: x.transpose(dims), lambda x, dims: tuple(x[i] for i in dims), onnx="Transpose",
                 dx="permute(dy, dims=inverse(dims))")
expand = tensor("expand(x, *, shape)", "y = x repeated to shape", "[...] -> shape",
                lambda x, shape: np.broadcast_to(x, shape), arrays.expanded, onnx="Expand",
                dx="sum_to(dy, shape=x_shape)")
sum_to = tensor("sum_to(x, *, shape)", "y = x summed where shape has ones", "[...] -> shape",
                unbroadcast, arrays.summed_to,
                dx="expand(dy, shape=x_shape)")
slice = tensor("slice(x, *, at)", "y = x[at], at of ints and slices", "[...] -> as NumPy has it",
               lambda x, at: x[at], arrays.indexed, onnx="Slice", scatter=arrays.add_to_slice,
               dx="slice_scatter(dy, shape=x_shape, at=at)")
slice_scatter = tensor("slice_scatter(x, *, shape, at)", "y = 0, then y[at] = x, at of ints and slices",
                       "[...] -> shape", arrays.slice_scatter, lambda x, shape, at: shape,
                       dx="slice(dy, at=at)")
index = tensor("index(x, *, at)", "y = x[at], at with arrays in it", "[...] -> as NumPy has it",
               lambda x, at: x[at], arrays.indexed, onnx="GatherND", scatter=arrays.add_to_elements,
               dx="index_add(dy, shape=x_shape, at=at)")
index_add = tensor("index_add(x, *, shape, at)", "y = 0, then y[at] += x for each element of at", "[...] -> shape",
                   arrays.index_add, lambda x, shape, at: shape, onnx="ScatterND",
                   dx="index(dy, at=at)")
cat = tensor("cat(*xs, dim)", "y = xs one after the other along dim",
             "[..., N1, ...], [..., N2, ...] -> [..., N1 + N2, ...]",
             lambda *xs, dim: np.concatenate(xs, axis=dim), arrays.joined, onnx="Concat",
             dxs="portions(dy, shapes, dim)")
cast = tensor("cast(x, *, dtype)", "y = x in another dtype", "[...] -> [...]", arrays.cast, arrays.same_shape,
              onnx="Cast", dx="cast(dy, dtype=x_dtype)")

# fmt: on

# ---- What rules call besides rows ------------------------------------------------------------------------------------


def kept(dy: Any, x_shape: Shape, dim: tuple[int, ...]) -> Any:
    """A reduced value with its dimensions put back as ones, to be aligned with x again."""
    return reshape(dy, shape=arrays.summed_shape(x_shape, dim, keepdim=True))


def tied(x: Any, y: Any, dim: tuple[int, ...]) -> Any:
    """Each element's share of a gradient that goes to all maxima equally: 1 / number of ties, or 0."""
    ties = cast(x == y, dtype=x.dtype)
    return ties / sum(ties, dim=dim, keepdim=True)


def spread(dy: Any, x_shape: Shape, dim: tuple[int, ...]) -> Any:
    """A gradient of a sum, repeated along what was summed."""
    if isinstance(dy, Value):
        return expand(kept(dy, x_shape, dim), shape=x_shape)
    dx = np.empty(x_shape, dy.dtype)  # in memory of its own: no slower than a view, and free to be added to
    dx[...] = dy.reshape(arrays.summed_shape(x_shape, dim, keepdim=True)) if dy.ndim else dy
    return dx


def normal(x: Any, dim: tuple[int, ...], eps: float, dy: Any = None, found: Any = None) -> Any:
    """x with mean 0 and variance 1 over dim; or, given the gradient of that, the gradient of x.

    No dim: all but that of the channels. What kernels `found` is not made use of: as a number it has no derivative.
    """
    dim = dim or (0, *range(2, x.ndim))
    mean = lambda v: sum(v, dim=dim, keepdim=True) / int(np.prod([x.shape[i] for i in dim]))
    centred = x - mean(x)
    centred = centred - mean(centred)  # what rounding left
    scale = rsqrt(mean(centred * centred) + eps)
    y = centred * scale
    return y if dy is None else scale * (dy - mean(dy) - y * mean(dy * y))


def softened(dy: Any, y: Any, scale: float) -> Any:
    """The gradient of what a softmax along the last dimension is taken of, times scale."""
    if not isinstance(dy, Value):
        return attended.gradient(dy, y, scale)
    return scale * (y * (dy - sum(dy * y, dim=(y.ndim - 1,), keepdim=True)))


def flip(x: Any, dim: int) -> Any:
    """x backwards along dim."""
    return slice(x, at=arrays.between(dim, None, None, -1))


def mT(x: Any) -> Any:
    """The matrices in the last two dimensions, transposed."""
    if isinstance(x, np.ndarray):
        return x.swapaxes(-1, -2)
    return permute(x, dims=(*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


def inverse(dims: tuple[int, ...]) -> tuple[int, ...]:
    """The permutation that undoes another."""
    return tuple(sorted(range(len(dims)), key=dims.__getitem__))


def portions(dy: Any, shapes: Sequence[Shape], dim: int) -> list[Any]:
    """What each input contributed to a concatenation."""
    end = 0
    places = [arrays.between(dim, end, end := end + shape[dim]) for shape in shapes]
    return [dy[at] if isinstance(dy, np.ndarray) else slice(dy, at=at) for at in places]


_HELPERS = (kept, spread, tied, normal, softened, flip, mT, inverse, portions)
for _row in TABLE.values():
    _row.names = TABLE | {helper.__name__: helper for helper in _HELPERS}
