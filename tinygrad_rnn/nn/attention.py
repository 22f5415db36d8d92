"""Who looks at whom: masks, and the softmax of scores under them."""

import math
from typing import Any

import numpy as np

from ..autograd import table
from ..autograd.operands import as_array, as_tensor
from ..autograd.pointwise import exp, where
from ..autograd.products import matmul
from ..autograd.reductions import amax
from ..autograd.tape import mode
from ..autograd.tensor import Tensor


def weights(query: Tensor, key: Tensor, bias: Any = 0, causal: bool = False, scale: float | None = None) -> Tensor:
    """`softmax(scale q k^T + bias)`: how much of each key each query takes, rows of sum 1.

        >>> import numpy as np
        >>> import tinygrad_rnn as tg
        >>> q, k = tg.zeros(2, 3), tg.ones(2, 3)
        >>> weights(q, k, causal=True)
        tensor([[1. , 0. ],
                [0.5, 0.5]])
        >>> weights(q, k, bias_of(np.array([[False, True], [False, False]]), np.float32))  # nothing left: zeros
        tensor([[0., 1.],
                [0., 0.]])

    Shapes: query [..., L, E], key [..., S, E], bias broadcasts to [..., L, S] -> [..., L, S].

    Args:
        bias: is added to the scores; minus infinity hides a key.
        causal: query i sees the keys 0 to i, also where there are more keys than queries (the mask is aligned at the
            top left).
        scale: 1 / sqrt(E) unless given.

    Raises:
        ValueError: the shapes do not fit.
    """
    scale = 1 / math.sqrt(max(query.shape[-1], 1)) if scale is None else float(scale)
    scores = matmul(query, key.transpose(-2, -1))
    if mode.tracer is None:
        return table.masked_softmax(scores, bias, scale=scale, causal=bool(causal))
    z = scores * scale + bias  # a step is compiled from sums and products
    if causal:
        z = z + causal_bias(z.shape[-2], z.shape[-1], z.dtype)
    largest = amax(z.detach(), -1, keepdim=True)
    e = exp(z - where(largest > -math.inf, largest, 0))
    total = e.sum(-1, keepdim=True)
    return e / where(total == 0, 1, total)


def bias_of(mask: Any, dtype: Any, hides: bool = False, what: str = "attn_mask") -> Any:
    """What a mask adds to scores: 0 or minus infinity for truth values; floats as they are.

        >>> import numpy as np
        >>> bias_of(np.array([True, False]), np.float32)
        array([  0., -inf], dtype=float32)

    Args:
        hides: whether True means that a key is hidden, as in `MultiheadAttention`, rather than seen.

    Raises:
        TypeError: it holds integers, which could mean either.
    """
    kind = as_tensor(mask).dtype.kind
    if kind == "b":
        return np.where(as_array(mask) != hides, 0, -np.inf).astype(dtype)
    if kind != "f":
        which = "hides a key" if hides else "lets a key be seen"
        raise TypeError(f"{what}: expected truth values (True {which}) or floats (which are added), got integers")
    return as_tensor(mask).to(dtype)


def repeated_heads(name: str, x: Tensor, query: Tensor) -> Tensor:
    """Keys or values [..., groups, S, E] with each head several times in a row, as many as the query has.

    Raises:
        ValueError: the groups do not divide the query's heads.
    """
    heads, groups = (t.shape[-3] if t.ndim > 2 else 0 for t in (query, x))
    if not groups or heads % groups:
        raise ValueError(f"{name}: {groups} heads of keys and values do not divide {heads} of queries")
    shape = (*x.shape[:-2], heads // groups, *x.shape[-2:])
    return x.unsqueeze(-3).expand(*shape).reshape(*x.shape[:-3], heads, *x.shape[-2:])


def check_mask(name: str, bias: Any, shape: tuple[int, ...], what: str = "attn_mask") -> None:
    """Raise ValueError unless the bias can be repeated to the shape of the scores."""
    given = tuple(bias.shape)
    if len(given) > len(shape) or any(n not in (1, m) for n, m in zip(given[::-1], shape[::-1])):
        raise ValueError(f"{name}: {what} has shape {list(given)}, which does not fit scores of shape {list(shape)}")


def check_shapes(name: str, query: Tensor, key: Tensor, value: Tensor, bias: Any) -> None:
    """Raise ValueError unless what stands before the last two sizes broadcasts, and the bias to the scores."""
    try:
        batch = np.broadcast_shapes(query.shape[:-2], key.shape[:-2])
        np.broadcast_shapes(batch, value.shape[:-2])
    except ValueError:
        shown = ", ".join(str(list(x.shape)) for x in (query, key, value))
        raise ValueError(f"{name}: the first sizes of {shown} do not broadcast together") from None
    if np.ndim(bias):
        check_mask(name, bias, (*batch, query.shape[-2], key.shape[-2]))


def causal_bias(queries: int, keys: int, dtype: Any) -> np.ndarray:
    """The causal mask as numbers to add: 0 for the keys 0 to i of query i, minus infinity for the others.

    >>> import numpy as np
    >>> causal_bias(2, 3, np.float32)
    array([[  0., -inf, -inf],
           [  0.,   0., -inf]], dtype=float32)
    """
    bias = np.zeros((queries, keys), dtype)
    bias[~np.tri(queries, keys, dtype=bool)] = -np.inf
    return bias
