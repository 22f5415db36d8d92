"""Cells whose state is a matrix, which keys write values into and queries read: attention that need not look back.

All their products with weights are of the input, so the compiler takes them out of the loop over time.
"""

import math
from collections.abc import Sequence
from typing import Any

from ...autograd.creation import zeros
from ...autograd.pointwise import abs, exp, maximum, sigmoid, silu, softplus
from ...autograd.products import einsum
from ...autograd.shapes import split
from ...autograd.tensor import Tensor
from .. import init
from ..cell import Cell
from ..functional import linear
from ..layers import empty
from .catalogue import listed


class MatrixCell(Cell):
    """Queries, keys and values of some heads, and what else comes of x: one product.

    All start from U(-1 / sqrt(I), 1 / sqrt(I)), as `nn.Linear` does.

    Attributes:
        heads: how many there are; each has its part of the outputs, H / heads of them.
        key_size: K, of a head.
        weight_ih: the rows of W_q and W_k (heads * K each), of W_v (H) and of what the class names, in this order.
        bias: as many, or None.
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool, heads: int, key_size: int | None, more: Sequence[int] = (),
        *, dtype: Any = None,
    ) -> None:  # fmt: skip
        name = type(self).__name__
        if heads < 1 or hidden_size % heads:
            raise ValueError(f"{name}: heads must divide hidden_size {hidden_size}, not be {heads}")
        if key_size is not None and key_size < 1:
            raise ValueError(f"{name}: key_size must be positive, not {key_size}")
        self.input_size, self.hidden_size = input_size, hidden_size
        self.heads, self.value_size = heads, hidden_size // heads
        self.key_size = self.value_size if key_size is None else key_size
        self.sizes = (heads * self.key_size, heads * self.key_size, hidden_size, *more)
        self.weight_ih = empty(sum(self.sizes), input_size, dtype=dtype)
        self.bias = empty(sum(self.sizes), dtype=dtype) if bias else None

    def reset_parameters(self) -> None:
        """Draw all parameters anew, as they were drawn to begin with."""
        self._refuse_computed()
        bound = 1 / math.sqrt(self.input_size) if self.input_size else 0.0
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def of_heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """The parts of `W_ih x + b`, [B, heads, n] each."""
        parts = split(linear(x, self.weight_ih, self.bias), self.sizes, -1)
        return tuple(part.reshape(x.shape[0], self.heads, -1) for part in parts)

    def state_shapes(self) -> list[tuple[int, ...]]:
        """Of all states but the first, without the batch."""
        return [(self.heads, self.value_size, self.key_size)]

    def initial_state(self, batch_size: int) -> tuple[Tensor, ...]:
        shapes = [(self.hidden_size,), *self.state_shapes()]
        return tuple([zeros(batch_size, *shape, dtype=self.weight_ih.dtype) for shape in shapes])

    def extra_repr(self) -> str:
        said = [f"{self.input_size}, {self.hidden_size}", *(["bias=False"] if self.bias is None else [])]
        said += [f"heads={self.heads}"] if self.heads > 1 else []
        return ", ".join(said + ([f"key_size={self.key_size}"] if self.key_size != self.value_size else []))


@listed("C' = f C + i v k^T, h' = o (C' q) / max(|n' q|, 1)", "Beck et al., 2024", recurrent=False)
class MLSTMCell(MatrixCell):
    """mLSTM: an LSTM whose memory is a matrix, with exponential gates, and no recurrent weights (Beck et al., 2024).

        >>> import tinygrad_rnn as tg
        >>> h, C, n, m = tg.nn.cells.MLSTMCell(3, 8, heads=2)(tg.ones(5, 3))
        >>> h.shape, C.shape, n.shape, m.shape
        ((5, 8), (5, 2, 4, 4), (5, 2, 4), (5, 2, 1))

        q, k, v, o, i, f = W_ih x + b           k is divided by sqrt(K) then
        m' = max(log sigmoid(f) + m, i)         C and n are meant to be exp(m) times as large
        i', f' = exp(i - m'), exp(log sigmoid(f) + m - m')
        C' = f' C + i' v k^T                    for each head
        n' = f' n + i' k
        h' = sigmoid(o) * C' q / (max(|n' q|, exp(-m')) + 1e-6)

    h is output alone. Each head has one input and one forget gate. As the authors' code has it (NX-AI/xlstm,
    `recurrent_step_stabilized_simple`), 1e-6 is added below the fraction; the paper's equations have the gates read x
    and the outputs be gated, which that code leaves to what is around it. Weights of the gates i and f start at zero,
    biases of f at 3 to 6 (3 with one head), those of i from N(0, 0.1), as there.

    Args:
        heads: they divide H.
        key_size: K, that of queries and keys of a head; H / heads by default.

    Attributes:
        weight_ih: the rows of W_q, W_k (heads * K each), W_v, W_o (H each), W_i, W_f (heads each), [..., I].
        bias: as many, or None.

    Raises:
        ValueError: heads do not divide H, or key_size is not positive.

    Source: Beck, Poeppel, Spanring et al., "xLSTM: Extended long short-term memory", 2024, equations 19 to 27.
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, heads: int = 1, key_size: int | None = None, *,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        more = (hidden_size, heads, heads)
        super().__init__(input_size, hidden_size, bias, heads, key_size, more, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        super().reset_parameters()
        heads = self.heads
        self.weight_ih.numpy()[-2 * heads :] = 0
        if self.bias is not None:
            last = self.bias.numpy()[-2 * heads :]
            last[:heads] = init.normal_(zeros(heads), 0, 0.1).numpy()
            last[heads:] = [3 + 3 * head / max(heads - 1, 1) for head in range(heads)]

    def state_shapes(self) -> list[tuple[int, ...]]:
        return [*super().state_shapes(), (self.heads, self.key_size), (self.heads, 1)]

    def step(self, x: Tensor, h: Tensor, C: Tensor, n: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        q, k, v, o, log_i, f = self.of_heads(x)
        k, v, log_f = k / math.sqrt(self.key_size), self.candidate(v), -softplus(-f)
        m_new = maximum(log_f + m, log_i)
        i, f = exp(log_i - m_new), exp(log_f + m - m_new)
        C = f[..., None] * C + i[..., None] * v[..., :, None] * k[..., None, :]
        n = f * n + i * k
        size = maximum(abs((n * q).sum(-1, keepdim=True)), exp(-m_new)) + 1e-6
        h = sigmoid(o) * einsum("bhvk,bhk->bhv", C, q) / size
        return h.flatten(1), C, n, m_new


@listed("S' = S + beta (v - S k) k^T, h' = S' q", "Yang et al., 2024", recurrent=False)
class DeltaNetCell(MatrixCell):
    """DeltaNet: what a key finds in the memory is moved towards its value (Schlag et al., 2021; Yang et al., 2024).

        >>> import tinygrad_rnn as tg
        >>> h, S = tg.nn.cells.DeltaNetCell(3, 8)(tg.ones(5, 3))
        >>> h.shape, S.shape
        ((5, 8), (5, 1, 8, 8))

        q, k, v, beta = W_ih x + b
        q, k = silu(q) / |silu(q)|, silu(k) / |silu(k)|
        S' = S + sigmoid(beta) (v - S k) k^T    for each head
        h' = S' q

    h is output alone. With beta at one a key forgets what it stood for and no other key does, if it is orthogonal to
    them. Queries and keys go through SiLU and have length one, as Yang et al. have it; 1e-6 is added to the squared
    length. Their code (fla-org/flash-linear-attention) divides q by sqrt(K) besides, which the norm that follows there
    undoes: here is neither.

    Args:
        heads: they divide H.
        key_size: K, that of queries and keys of a head; H / heads by default.

    Attributes:
        weight_ih: the rows of W_q, W_k (heads * K each), W_v (H), W_beta (heads), [..., I].
        bias: as many, or None.

    Raises:
        ValueError: heads do not divide H, or key_size is not positive.

    Source: Schlag, Irie, Schmidhuber, "Linear transformers are secretly fast weight programmers", 2021; Yang, Wang,
    Zhang, Shen, Kim, "Parallelizing linear transformers with the delta rule over sequence length", 2024.
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, heads: int = 1, key_size: int | None = None, *,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(input_size, hidden_size, bias, heads, key_size, (heads,), dtype=dtype)
        self.reset_parameters()

    def step(self, x: Tensor, h: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v, beta = self.of_heads(x)
        q, k = _of_length_one(silu(q)), _of_length_one(silu(k))
        u = self.candidate(sigmoid(beta) * (v - einsum("bhvk,bhk->bhv", S, k)))
        S = S + u[..., :, None] * k[..., None, :]
        return einsum("bhvk,bhk->bhv", S, q).flatten(1), S


def _of_length_one(a: Tensor) -> Tensor:
    return a / ((a * a).sum(-1, keepdim=True) + 1e-6).sqrt()
