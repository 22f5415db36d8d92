"""Functions of tensors that neural networks are made of; with the losses and activations, PyTorch's `functional`."""

import math
import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd import creation, table
from ..autograd.operands import aligned, as_tensor, floating, integers, one_dim, sizes
from ..autograd.pointwise import elu, gelu, leaky_relu, relu, sigmoid, silu, softplus, tanh, where
from ..autograd.products import matmul
from ..autograd.reductions import amax, amin, log_softmax, softmax, sqrt_or_zero
from ..autograd.tape import mode
from ..autograd.tensor import Tensor
from . import attention
from .advice import told
from .batch_norm import batch_norm
from .losses import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    huber_loss,
    kl_div,
    l1_loss,
    mse_loss,
    nll_loss,
    smooth_l1_loss,
)
from .padding import pad
from .positions import alibi_bias, rotary_positions, sinusoidal_positions
from .sliding import adaptive_avg_pool1d, avg_pool1d, conv1d, max_pool1d

__all__ = [
    "linear", "embedding", "layer_norm", "batch_norm", "normalize", "dropout", "gaussian_noise",
    "scaled_dot_product_attention", "sinusoidal_positions", "alibi_bias", "rotary_positions",
    "conv1d", "max_pool1d", "avg_pool1d", "adaptive_avg_pool1d",
    "relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "sigmoid", "tanh", "softmax", "log_softmax", "pad",
    "cross_entropy", "nll_loss", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss",
    "binary_cross_entropy_with_logits", "kl_div",
]  # fmt: skip
__dir__ = __all__.copy  # what a tab completes
if not TYPE_CHECKING:  # for which every name would be there
    __getattr__ = told(__name__)


def linear(input: Any, weight: Any, bias: Any = None) -> Tensor:
    """`y = x W^T + b`.

        >>> import tinygrad_rnn as tg
        >>> tg.linear(tg.ones(5, 3), tg.ones(4, 3), tg.zeros(4)).shape
        (5, 4)

    Shapes: input [..., I], weight [O, I] -> [..., O]; weight [I] -> [...]. bias [O].

    Raises:
        ValueError: the last size of the input is not that of the weight.
    """
    x, w = as_tensor(input), as_tensor(weight)
    if w.ndim not in (1, 2) or not x.ndim or x.shape[-1] != w.shape[-1]:
        raise ValueError(
            f"linear: an input of shape {list(x.shape)} does not fit a weight of shape {list(w.shape)}: "
            "expected [..., in] and [out, in]"
        )
    if mode.tracer is None and x.ndim == 2 == w.ndim and isinstance(bias, Tensor) and bias.shape == w.shape[:1]:
        if x.dtype is w.dtype is bias.dtype:
            return table.linear(x, w, bias)
    y = matmul(x, w.T if w.ndim == 2 else w)
    if bias is not None and (given := np.shape(bias) if not isinstance(bias, Tensor) else bias.shape) != w.shape[:-1]:
        raise ValueError(f"linear: bias has shape {list(given)}, expected {list(w.shape[:-1])}")
    return y if bias is None else y + bias


def embedding(input: Any, weight: Any, padding_idx: int | None = None, *, dropout: float = 0.0) -> Tensor:
    """The rows of `weight` that `input` names: [...] of integers, weight [N, E] -> [..., E].

        >>> import tinygrad_rnn as tg
        >>> table = tg.tensor([[0.0, 0.1], [1.0, 1.1], [2.0, 2.1]])
        >>> tg.embedding(tg.tensor([2, 0]), table)
        tensor([[2. , 2.1],
                [0. , 0.1]])

    Args:
        padding_idx: a row that gets no gradient; negative ones are counted from the end.
        dropout: the probability of a row to be 0 throughout this call, wherever it is named; the other rows are
            divided by 1 - dropout. It drops words, not elements (Gal, Ghahramani, "A theoretically grounded application
            of dropout in recurrent neural networks", 2016, section 4.2). `manual_seed` repeats the mask.

    Raises:
        IndexError: an index is negative or not below N.
        ValueError: the weight is no matrix, padding_idx is out of range, or dropout is not in [0, 1).
    """
    check_below_one("embedding: dropout", dropout, "would erase every word")
    rows, w = integers("embedding", input), as_tensor(weight)
    if w.ndim != 2:
        raise ValueError(f"embedding: weight must be 2-d, [num_embeddings, embedding_dim], got shape {list(w.shape)}")
    n = w.shape[0]
    outside = rows[(rows < 0) | (rows >= n)]
    if outside.size:
        raise IndexError(f"embedding: index {outside[0]} is out of range for {n} embeddings: 0 to {n - 1}")
    y = w[rows]
    if padding_idx is not None:
        is_padding = rows == row_number("embedding", padding_idx, n)
        if is_padding.any():
            y = where(is_padding[..., None], y.detach(), y)
    return y * dropout_mask((n, 1), dropout, w.dtype)[rows] if dropout else y


def row_number(name: str, padding_idx: int, n: int) -> int:
    """padding_idx counted from the front."""
    if not -n <= padding_idx < n:
        raise ValueError(f"{name}: padding_idx {padding_idx} is out of range for {n} embeddings")
    return padding_idx % n


def layer_norm(input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
    """`y = (x - mean) / sqrt(var + eps) * weight + bias`, mean and variance over the last dimensions (Ba et al., 2016).

        >>> import tinygrad_rnn as tg
        >>> tg.layer_norm(tg.tensor([[1.0, 3.0], [10.0, 30.0]]), 2)
        tensor([[-1.,  1.],
                [-1.,  1.]])

    Args:
        normalized_shape: the sizes of those dimensions; weight and bias have this shape.
        eps: keeps the division finite where all x are equal.

    Raises:
        ValueError: the input does not end in `normalized_shape`, or weight or bias is of another shape.
    """
    x, shape = floating(input), sizes("layer_norm", (normalized_shape,))
    if not shape or x.data.shape[-len(shape) :] != shape:
        raise ValueError(f"layer_norm: normalized_shape {list(shape)} is not the end of the input's {list(x.shape)}")
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None and (given := value.shape if isinstance(value, Tensor) else np.shape(value)) != shape:
            raise ValueError(f"layer_norm: {name} has shape {list(given)}, expected {list(shape)}")
    if mode.tracer is None:
        x, w, b = aligned("layer_norm", x, 1 if weight is None else weight, 0 if bias is None else bias)
        rank = x.data.ndim
        return table.layer_norm(x, w, b, dim=tuple(range(rank - len(shape), rank)), eps=eps)
    dims = tuple(range(-len(shape), 0))  # a step is compiled from sums and products
    centred = x - x.mean(dims, keepdim=True)
    y = centred * ((centred * centred).mean(dims, keepdim=True) + eps).rsqrt()
    if weight is not None:
        y = y * weight
    return y if bias is None else y + bias


def normalize(input: Any, p: float = 2.0, dim: Any = 1, eps: float = 1e-12) -> Tensor:
    """`x / max(|x|, eps)`, |x| being the p-norm `(sum |x|^p)^(1/p)` along `dim`.

        >>> import tinygrad_rnn as tg
        >>> tg.normalize(tg.tensor([[3.0, 4.0]]))
        tensor([[0.6, 0.8]])

    p may be negative, 0 (the number of nonzero elements), `inf` and `-inf` (largest and smallest magnitude). Where the
    norm has no derivative the gradient is taken as 0.
    """
    x = floating(input)
    dims = dim if isinstance(dim, (tuple, list)) else (one_dim("normalize", dim, x.ndim),)
    return x / _norm(x, float(p), tuple(dims) if x.ndim else ()).clamp(min=eps)


def _norm(x: Tensor, p: float, dims: tuple[int, ...]) -> Tensor:
    if p == 2:
        return sqrt_or_zero(x.square().sum(dims, keepdim=True))
    if p == 1:
        return x.abs().sum(dims, keepdim=True)
    if p == 0:
        return (x != 0).to(x.dtype).sum(dims, keepdim=True)
    if math.isinf(p):
        return (amax if p > 0 else amin)(x.abs(), dims, keepdim=True)
    is_zero = x == 0
    powers = where(is_zero, 0.0 if p > 0 else math.inf, where(is_zero, 1, x).abs() ** p)
    return powers.sum(dims, keepdim=True) ** (1 / p)


def dropout(input: Any, p: float = 0.5, training: bool = True) -> Tensor:
    """Each element is 0 with probability p, else divided by 1 - p, which keeps its mean (Srivastava et al., 2014).

        >>> import tinygrad_rnn as tg
        >>> y = tg.dropout(tg.ones(1000), 0.5)
        >>> sorted(set(y.tolist())), tg.dropout(tg.ones(2), 0.5, training=False).tolist()
        ([0.0, 2.0], [1.0, 1.0])

    The mask comes from the library's generator: `manual_seed` repeats it.

    Args:
        p: the probability of an element to be dropped.
        training: False returns the input as it is.

    Raises:
        ValueError: p is not in [0, 1].
    """
    x = floating(input)
    check_probability("dropout", p)
    if not training or not p:
        return x
    return x * creation.drawn(lambda shape: dropout_mask(shape, p, x.dtype), x.shape, x.dtype)


def scaled_dot_product_attention(
    query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
    scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """`y = softmax(scale q k^T + mask) v`: for each query, the values of the keys that it resembles.

        >>> import tinygrad_rnn as tg
        >>> q, k, v = tg.zeros(3, 2), tg.zeros(3, 2), tg.tensor([[1.0], [2.0], [6.0]])
        >>> tg.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)  # means of what has been
        tensor([[1. ],
                [1.5],
                [3. ]])

    Shapes: query [..., L, E], key [..., S, E], value [..., S, V] -> [..., L, V]; what stands before broadcasts, and
    mostly is [N, heads].

    Args:
        attn_mask: broadcasts to [..., L, S]. Truth values: True lets a key be seen (in `nn.MultiheadAttention` it hides
            one, as in PyTorch). Floats are added to the scores. A query that sees no key at all gets 0, not NaN.
        dropout_p: the probability of a weight to be dropped, whether or not a model is training.
        is_causal: query i sees the keys 0 to i: the mask is aligned at the top left, as in PyTorch, also where L and S
            differ. (Some libraries align it at the bottom right, where the last query sees the last key.) With an
            attn_mask, which PyTorch refuses beside it, both hold.
        scale: 1 / sqrt(E) unless given.
        enable_gqa: key and value [..., groups, S, E] have fewer heads than the query, each for several in a row.

    Raises:
        ValueError: the shapes do not fit, or dropout_p is not in [0, 1].
        TypeError: attn_mask holds integers.

    Vaswani et al., "Attention is all you need", 2017, section 3.2.
    """
    name = "scaled_dot_product_attention"
    check_probability(f"{name}: dropout_p", dropout_p)
    q, k, v = aligned(name, floating(query), floating(key), floating(value))
    if min(q.ndim, k.ndim, v.ndim) < 2 or q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise ValueError(
            f"{name}: query {list(q.shape)}, key {list(k.shape)} and value {list(v.shape)} do not fit: expected "
            "[..., L, E], [..., S, E] and [..., S, V]"
        )
    if enable_gqa:
        k, v = (attention.repeated_heads(name, x, q) for x in (k, v))
    bias = 0 if attn_mask is None else attention.bias_of(attn_mask, q.dtype, what=f"{name}: attn_mask")
    if mode.tracer is None:  # a step must not look at the size of the batch
        attention.check_shapes(name, q, k, v, bias)
    shares = attention.weights(q, k, bias, is_causal, scale)
    return matmul(dropout(shares, dropout_p) if dropout_p else shares, v)


def gaussian_noise(input: Any, std: float = 0.1, training: bool = True) -> Tensor:
    """`x + n`, every element of n being a number of its own from N(0, std^2) (Poole et al., 2014).

        >>> import tinygrad_rnn as tg
        >>> tg.gaussian_noise(tg.ones(2), 0.1, training=False)
        tensor([1., 1.])

    The noise comes from the library's generator: `manual_seed` repeats it. The gradient passes through unchanged.

    Args:
        std: the standard deviation.
        training: False returns the input as it is.

    Raises:
        ValueError: std is negative, NaN or infinite.
    """
    x = floating(input)
    check_deviation("gaussian_noise", std)
    if not training or not std:
        return x
    normal = lambda shape: creation.generator().standard_normal(shape, dtype=x.dtype)
    return x + std * creation.drawn(normal, x.shape, x.dtype)


def dropout_mask(shape: tuple[int, ...], p: float, dtype: Any) -> np.ndarray:
    """An array of zeros, with probability p, and of 1 / (1 - p)."""
    if p == 1:
        return np.zeros(shape, dtype)
    mask = (creation.generator().random(shape, dtype=np.float32) >= p).astype(dtype)
    mask *= 1 / (1 - p)
    return mask


def check_probability(name: str, p: float) -> None:
    """Raise ValueError unless 0 <= p <= 1."""
    if not 0 <= p <= 1:
        raise ValueError(f"{name}: the probability must be in [0, 1], not {p}")


def check_deviation(name: str, std: float) -> None:
    """Raise ValueError unless 0 <= std < inf."""
    if not 0 <= std < math.inf:
        raise ValueError(f"{name}: the standard deviation must be at least 0 and finite, not {std}")


def check_positive(name: str, n: Any) -> None:
    """Raise TypeError or ValueError unless n is a positive integer."""
    try:
        positive = operator.index(n) > 0
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {n!r}") from None
    if not positive:
        raise ValueError(f"{name} must be positive, not {n}")


def check_below_one(name: str, p: float, why: str) -> None:
    """Raise ValueError unless 0 <= p < 1; `why` says what 1 would do."""
    if not 0 <= p < 1:
        raise ValueError(f"{name}: the probability must be in [0, 1), not {p}{f': 1 {why}' if p == 1 else ''}")
