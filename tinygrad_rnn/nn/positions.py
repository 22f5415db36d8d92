"""Where things stand, for attention, which would not know: sinusoids that are added, a bias for distance, rotations."""

import functools
import math
from typing import Any

import numpy as np

from ..autograd.operands import as_array, floating
from ..autograd.primitive import FLOAT32
from ..autograd.shapes import cat, stack
from ..autograd.tensor import Tensor


def sinusoidal_positions(length: int, size: int, base: float = 10000.0, *, dtype: Any = None) -> Tensor:
    """`y[p, 2 i] = sin(p / base^(2 i / size))`, `y[p, 2 i + 1] = cos` of the same: to be added to embeddings.

        >>> import tinygrad_rnn as tg
        >>> tg.nn.functional.sinusoidal_positions(3, 2)
        tensor([[ 0.    ,  1.    ],
                [ 0.8415,  0.5403],
                [ 0.9093, -0.4161]])

    Shapes: -> [length, size]. The product of two rows depends on the distance of their positions alone.

    Raises:
        ValueError: length is negative, or size is not positive.

    Vaswani et al., "Attention is all you need", 2017, section 3.5; sines and cosines alternate, as there.
    """
    if length < 0 or size < 1:
        raise ValueError(f"sinusoidal_positions: expected a length and a size, got {length} and {size}")
    room = 1 << max(int(length) - 1, 0).bit_length()  # a shorter table is the beginning of a longer one
    return Tensor(_sinusoids(room, int(size), float(base), np.dtype(dtype or FLOAT32))[: int(length)].copy())


@functools.lru_cache(16)  # of lengths that are powers of two: what is kept does not grow with how many there are
def _sinusoids(length: int, size: int, base: float, dtype: Any) -> np.ndarray:
    angles = np.arange(length)[:, None] * base ** (-(np.arange(size) // 2 * 2) / size)
    return np.where(np.arange(size) % 2, np.cos(angles), np.sin(angles)).astype(dtype)


def alibi_bias(heads: int, queries: int, keys: int | None = None, *, dtype: Any = None) -> Tensor:
    """`y[h, i, j] = -m_h |i - j|`, to be added to scores: the farther away, the less is seen.

        >>> import tinygrad_rnn as tg
        >>> tg.nn.functional.alibi_bias(2, 2, 3)
        tensor([[[-0.    , -0.0625, -0.125 ],
                 [-0.0625, -0.    , -0.0625]],
        <BLANKLINE>
                [[-0.    , -0.0039, -0.0078],
                 [-0.0039, -0.    , -0.0039]]])

    The slopes are m_h = 2^(-8 h / n), h = 1 ... n, for a number n of heads that is a power of two; for another one
    those of the power below, and then every second one of the power above, as the authors have it. Query i and key i
    stand at the same place, as under the causal mask of `scaled_dot_product_attention`.

    Shapes: -> [heads, queries, keys]; as many keys as queries unless given. It is an `attn_mask` for queries
    [N, heads, L, E].

    Raises:
        ValueError: heads is not positive.

    Press, Smith and Lewis, "Train short, test long: attention with linear biases", 2022.
    """
    if heads < 1:
        raise ValueError(f"alibi_bias: expected at least one head, got {heads}")
    apart = np.abs(np.arange(queries)[:, None] - np.arange(queries if keys is None else keys))
    return Tensor((-slopes(heads)[:, None, None] * apart).astype(dtype or FLOAT32))


def slopes(heads: int) -> np.ndarray:
    """The slopes m of ALiBi's heads.

    >>> slopes(4).tolist()
    [0.25, 0.0625, 0.015625, 0.00390625]
    >>> slopes(3).tolist()
    [0.0625, 0.00390625, 0.25]
    """
    power = 2 ** int(math.log2(heads))
    of = lambda n: 2.0 ** (-8 * np.arange(1, n + 1) / n)
    return np.concatenate([of(power), of(2 * power)[::2][: heads - power]])


def rotary_positions(input: Any, positions: Any = None, base: float = 10000.0, pairs: str = "halves") -> Tensor:
    """Each pair of numbers turned by an angle that grows with the position: `p base^(-2 i / E)` for pair i.

        >>> import numpy as np
        >>> import tinygrad_rnn as tg
        >>> tg.nn.functional.rotary_positions(tg.tensor([[1.0, 0.0], [1.0, 0.0]]))  # turned by 0 and by 1 radian
        tensor([[1.    , 0.    ],
                [0.5403, 0.8415]])

    Applied to queries and keys before their product, which then depends on distances alone:
    `<R_m q, R_n k> = <q, R_(n - m) k>`.

    Shapes: [..., L, E] -> [..., L, E], E even.

    Args:
        positions: of the L vectors, [L], or what broadcasts to [..., L]; 0 to L - 1 unless given.
        pairs: "halves": number i and number i + E / 2 are a pair, as in GPT-NeoX and LLaMA; "adjacent": numbers 2 i and
            2 i + 1, as in the paper and GPT-J. Weights that were trained with one have to be permuted for the other.

    Raises:
        ValueError: E is odd, or `pairs` is neither.

    Su et al., "RoFormer: enhanced transformer with rotary position embedding", 2021.
    """
    x = floating(input)
    if pairs not in ("halves", "adjacent"):
        raise ValueError(f"rotary_positions: pairs must be 'halves' or 'adjacent', not {pairs!r}")
    if x.ndim < 2 or x.shape[-1] % 2:
        raise ValueError(f"rotary_positions: expected [..., L, E] with an even E, got shape {list(x.shape)}")
    half = x.shape[-1] // 2
    places = np.arange(x.shape[-2]) if positions is None else as_array(positions)
    angles = places[..., None] * float(base) ** (-np.arange(half) / max(half, 1))
    cos, sin = np.cos(angles).astype(x.dtype), np.sin(angles).astype(x.dtype)
    a, b = (x[..., :half], x[..., half:]) if pairs == "halves" else (x[..., ::2], x[..., 1::2])
    turned = a * cos - b * sin, b * cos + a * sin
    return cat(turned, -1) if pairs == "halves" else stack(turned, -1).reshape(*x.shape)
