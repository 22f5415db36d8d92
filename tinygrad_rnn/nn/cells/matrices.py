"""Cells whose state is a matrix, which keys write values into and queries read: attention that need not look back.

All their products with weights are of the input, so the compiler takes them out of the loop over time.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...autograd.creation import zeros
from ...autograd.pointwise import abs, elu, exp, maximum, minimum, relu, sigmoid, silu, softplus
from ...autograd.products import einsum
from ...autograd.shapes import cat, split
from ...autograd.tensor import Tensor
from .. import init
from ..cell import Cell
from ..functional import layer_norm, linear
from ..layers import empty
from .catalogue import listed
from .options import number, whole

MOST = 80.0  # the exponential of which is still a float32


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
        whole(self, least=0, heads=heads)
        if heads == 0 or hidden_size % heads:
            name = type(self).__name__
            raise ValueError(f"{name}: heads must divide hidden_size {hidden_size}, not be {heads}")
        if key_size is not None:
            whole(self, key_size=key_size)
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
        return tuple(part.reshape(x.shape[0], self.heads, n // self.heads) for part, n in zip(parts, self.sizes))

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
    `recurrent_step_stabilized_simple`), 1e-6 is added below the fraction. Gates are the paper's: i and f read x (q, k
    and v together in that code), and o, which the code has not, gates the output. exp(-m') counts as e^80 at most, so
    that it has a gradient: where m' is below -80, h is next to nothing, but not as much nothing as it should be.
    Weights of the gates i and f start at zero, biases of f at 3 to 6 (3 with one head), those of i with a deviation of
    0.1, as there.

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
        least = exp(minimum(-m_new, MOST))  # inf has no gradient, and h is 0 by then
        size = maximum(abs((n * q).sum(-1, keepdim=True)), least) + 1e-6
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
    undoes: here is neither. It also has values go through SiLU, and all three through a convolution over four steps
    before: v is a plain product here, as in the rule itself.

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


@listed("S' = S + f(k) v^T, h' = S'^T f(q) / f(q) z'", "Katharopoulos et al., 2020", recurrent=False)
class LinearAttentionCell(MatrixCell):
    """Linear attention: a mean over all values so far, of which a matrix is kept (Katharopoulos et al., 2020).

        >>> import tinygrad_rnn as tg
        >>> h, S, z = tg.nn.cells.LinearAttentionCell(3, 8)(tg.ones(5, 3))
        >>> h.shape, S.shape, z.shape
        ((5, 8), (5, 1, 8, 8), (5, 1, 8))

        q, k, v = W_ih x + b
        q, k = elu(q) + 1, elu(k) + 1           positive, in place of the softmax
        S' = S + k v^T                          for each head
        z' = z + k
        h' = S'^T q / (z'^T q + 1e-6)

    h is output alone. Nothing is ever forgotten. The 1e-6 is the authors' code's (idiap/fast-transformers); what the
    paper does with the attention behind it is left to layers.

    Args:
        heads: they divide H.
        key_size: K, that of queries and keys of a head; H / heads by default.

    Attributes:
        weight_ih: the rows of W_q, W_k (heads * K each), W_v (H), [..., I].
        bias: as many, or None.

    Raises:
        ValueError: heads do not divide H, or key_size is not positive.

    Source: Katharopoulos, Vyas, Pappas, Fleuret, "Transformers are RNNs", 2020, equations 16 to 20.
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, heads: int = 1, key_size: int | None = None, *,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(input_size, hidden_size, bias, heads, key_size, dtype=dtype)
        self.reset_parameters()

    def state_shapes(self) -> list[tuple[int, ...]]:
        return [(self.heads, self.key_size, self.value_size), (self.heads, self.key_size)]

    def step(self, x: Tensor, h: Tensor, S: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.of_heads(x)
        q, k, v = elu(q) + 1, elu(k) + 1, self.candidate(v)
        S, z = S + k[..., :, None] * v[..., None, :], z + k
        h = einsum("bhkv,bhk->bhv", S, q) / ((q * z).sum(-1, keepdim=True) + 1e-6)
        return h.flatten(1), S, z


def _some_heads(hidden_size: int) -> int:
    """4, or as many as leave each 4 outputs."""
    return next((n for n in (4, 2) if hidden_size % n == 0 and hidden_size >= 4 * n), 1)


def _of_mean_square_one(a: Tensor, eps: float) -> Tensor:
    return a * ((a * a).mean(-1, keepdim=True) + eps).rsqrt()


@listed("S' = gamma R S + k v^T, h' = W_o (silu(g) norm(S'^T q))", "Sun et al., 2023")
class RetNetCell(MatrixCell):
    """Retention: a memory that turns and fades, each head's at its own rate (Sun et al., 2023).

        >>> import tinygrad_rnn as tg
        >>> h, S = tg.nn.cells.RetNetCell(3, 8, heads=2)(tg.ones(5, 3))
        >>> h.shape, S.shape
        ((5, 8), (5, 2, 4, 4))

        q, k, v, g = W_ih x                     k is divided by sqrt(K) then
        S' = gamma R S + k v^T                  for each head
        h' = W_ho (silu(g) * norm(S'^T q))      norm: each head's part divided by the root of its mean square

    h is output alone. gamma = 1 - 2^(-5 - head). R turns rows j and j + K / 2 of S by an angle, from 1 radian a step to
    1 / 10000: the same as if q and k were turned by as much times their position, as the paper has it, but no position
    has to be known. (With pairs of neighbours there, W_q and W_k have their rows in another order.) The norm and the
    start of the weights are those of the authors' code (microsoft/torchscale), which divides S by a number besides,
    which the norm undoes; the paper has a group norm. There are no biases.

    Args:
        heads: they divide H; 4 by default, or as many as leave each 4 outputs.
        key_size: K, that of queries and keys of a head; H / heads by default.

    Attributes:
        weight_ih: the rows of W_q, W_k (heads * K each), W_v, W_g (H each), [..., I].
        weight_ho: [H, H].

    Raises:
        ValueError: heads do not divide H, or key_size is not positive.

    Source: Sun, Dong, Huang et al., "Retentive network: a successor to transformer for large language models", 2023.
    """

    gamma: Tensor
    cos: Tensor
    sin: Tensor

    def __init__(
        self, input_size: int, hidden_size: int, heads: int | None = None, key_size: int | None = None, *,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        heads = _some_heads(hidden_size) if heads is None else heads
        super().__init__(input_size, hidden_size, False, heads, key_size, (hidden_size,), dtype=dtype)
        self.weight_ho = empty(hidden_size, hidden_size, dtype=dtype)
        pairs, made = self.key_size // 2, self.weight_ih.dtype
        angle = 10000.0 ** -np.linspace(0, 1, pairs)
        for name, array in (
            ("gamma", (1 - 2.0 ** (-5 - np.arange(heads)))[:, None, None]),
            ("cos", np.cos(angle)[:, None]), ("sin", np.sin(angle)[:, None]),
        ):  # fmt: skip
            self.register_buffer(name, Tensor(array.astype(made)), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        self._refuse_computed()
        parts = np.split(self.weight_ih.numpy(), np.cumsum(self.sizes)[:-1])
        for part in parts:
            bound = 2**-2.5 * math.sqrt(6 / max(sum(part.shape), 1))
            part[...] = init.uniform_(zeros(*part.shape, dtype=part.dtype), -bound, bound).numpy()
        init.xavier_uniform_(self.weight_ho, 0.5)

    def state_shapes(self) -> list[tuple[int, ...]]:
        return [(self.heads, self.key_size, self.value_size)]

    def step(self, x: Tensor, h: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v, g = self.of_heads(x)
        k, v = k / math.sqrt(self.key_size), self.candidate(v)
        S = self.gamma * self._turned(S) + k[..., :, None] * v[..., None, :]
        o = _of_mean_square_one(einsum("bhkv,bhk->bhv", S, q), 1e-6)
        return linear((silu(g) * o).flatten(1), self.weight_ho), S

    def _turned(self, S: Tensor) -> Tensor:
        """R S: rows j and j + K / 2 are the parts of a complex number; one row may be left over."""
        re, im, *alone = S.split([n := self.key_size // 2, n, *([1] if self.key_size % 2 else [])], 2)
        return cat([self.cos * re + self.sin * im, self.cos * im - self.sin * re, *alone], 2)

    def extra_repr(self) -> str:
        said = f"{self.input_size}, {self.hidden_size}, heads={self.heads}"
        return said + (f", key_size={self.key_size}" if self.key_size != self.value_size else "")


@listed("S' = diag(a) S + k v^T, h' = W_o (silu(g) norm(S'^T q))", "Yang et al., 2024")
class GLACell(MatrixCell):
    """Gated linear attention: each row of the memory is forgotten at a rate that x decides (Yang et al., 2024).

        >>> import tinygrad_rnn as tg
        >>> h, S = tg.nn.cells.GLACell(3, 8)(tg.ones(5, 3))
        >>> h.shape, S.shape
        ((5, 8), (5, 2, 2, 4))

        q, k, v, g = W_ih x                     q is divided by sqrt(K) then
        a = sigmoid(W_up W_down x + b)^(1 / 16)
        S' = diag(a) S + k v^T                  for each head
        h' = W_ho (silu(g) * w * norm(S'^T q))  norm: each head's part divided by the root of its mean square

    h is output alone. The norm is that of the authors' code (fla-org/flash-linear-attention), where the paper has a
    layer norm; so is the division of q.

    Args:
        bias: whether there is a b.
        heads: they divide H; 4 by default, or as many as leave each 4 outputs.
        key_size: K, that of queries and keys of a head; half of H / heads by default.
        gate_rank: R, the width between W_down and W_up.

    Attributes:
        weight_ih: the rows of W_q, W_k (heads * K each), W_v, W_g (H each), [..., I].
        weight_down: [R, I].
        weight_up: [heads * K, R].
        bias_gate: b, [heads * K], or None.
        weight_norm: w, the same for each head, [H / heads].
        weight_ho: [H, H].

    Raises:
        ValueError: heads do not divide H, or key_size or gate_rank is not positive.

    Source: Yang, Wang, Shen, Panda, Kim, "Gated linear attention transformers with hardware-efficient training", 2024.
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, heads: int | None = None,
        key_size: int | None = None, gate_rank: int = 16, *, dtype: Any = None,
    ) -> None:  # fmt: skip
        heads = _some_heads(hidden_size) if heads is None else heads
        whole(self, least=0, heads=heads)
        whole(self, gate_rank=gate_rank)
        key_size = max(hidden_size // (2 * max(heads, 1)), 1) if key_size is None else key_size
        super().__init__(input_size, hidden_size, False, heads, key_size, (hidden_size,), dtype=dtype)
        self.gate_rank, K = gate_rank, self.heads * self.key_size
        self.weight_down = empty(gate_rank, input_size, dtype=dtype)
        self.weight_up = empty(K, gate_rank, dtype=dtype)
        self.bias_gate = empty(K, dtype=dtype) if bias else None
        self.weight_norm = empty(self.value_size, dtype=dtype)
        self.weight_ho = empty(hidden_size, hidden_size, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew: w as ones, others as `nn.Linear` does."""
        super().reset_parameters()
        for parameter, size in (
            (self.weight_up, self.gate_rank), (self.bias_gate, self.gate_rank), (self.weight_ho, self.hidden_size),
        ):  # fmt: skip
            if parameter is not None:
                bound = 1 / math.sqrt(size) if size else 0.0
                init.uniform_(parameter, -bound, bound)
        init.ones_(self.weight_norm)

    def state_shapes(self) -> list[tuple[int, ...]]:
        return [(self.heads, self.key_size, self.value_size)]

    def step(self, x: Tensor, h: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v, g = self.of_heads(x)
        gate = linear(linear(x, self.weight_down), self.weight_up, self.bias_gate).reshape(*k.shape)
        a = exp(-softplus(-gate) / 16)
        S = a[..., :, None] * S + k[..., :, None] * self.candidate(v)[..., None, :]
        o = _of_mean_square_one(einsum("bhkv,bhk->bhv", S, q / math.sqrt(self.key_size)), 1e-5) * self.weight_norm
        return linear((silu(g) * o).flatten(1), self.weight_ho), S

    def extra_repr(self) -> str:
        said = f"{self.input_size}, {self.hidden_size}, {'bias=False, ' * (self.bias_gate is None)}heads={self.heads}"
        return f"{said}, key_size={self.key_size}" + (f", gate_rank={self.gate_rank}" if self.gate_rank != 16 else "")


@listed("A' = l A + e h h^T, h' = relu(norm(W h + C x + A' h'))", "Ba et al., 2016")
class FastWeightsCell(Cell):
    """Fast weights, which attend to the recent past: outer products of states, fading (Ba et al., 2016).

        >>> import tinygrad_rnn as tg
        >>> h, A = tg.nn.cells.FastWeightsCell(3, 4)(tg.ones(5, 3))
        >>> h.shape, A.shape
        ((5, 4), (5, 4, 4))

        A' = decay A + rate h h^T
        a = W_ih x + W_hh h + b
        h_0 = relu(a)
        h_s = relu(norm(a + A' h_(s - 1)))      for s = 1 to S; norm: a layer norm with its gain and shift
        h' = h_S

    W_hh starts as 0.05 times the identity, like the fast weights of a state that hardly keeps itself; the other weights
    from U(-1 / sqrt(H), 1 / sqrt(H)). The equations are the paper's alone, and follow nobody's code. Schmidhuber's fast
    weights of 1992 are written by keys and values of a second net: see `LinearAttentionCell` and `DeltaNetCell` for
    what became of them.

    Args:
        inner: S, how often a step lets h meet the fast weights.
        decay, rate: between 0 and 1.

    Attributes:
        weight_ih: [H, I].
        weight_hh: [H, H].
        bias: [H], or None.
        norm_weight, norm_shift: [H].

    Raises:
        ValueError: inner is not positive, or decay or rate is not between 0 and 1.

    Source: Ba, Hinton, Mnih, Leibo, Ionescu, "Using fast weights to attend to the recent past", 2016, equations 1 to 5.
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, inner: int = 1, decay: float = 0.95,
        rate: float = 0.5, *, dtype: Any = None,
    ) -> None:  # fmt: skip
        whole(self, inner=inner)
        number(self, "between 0 and 1", decay=decay, rate=rate)
        self.input_size, self.hidden_size = input_size, hidden_size
        self.inner, self.decay, self.rate = inner, decay, rate
        self.weight_ih = empty(hidden_size, input_size, dtype=dtype)
        self.weight_hh = empty(hidden_size, hidden_size, dtype=dtype)
        self.bias = empty(hidden_size, dtype=dtype) if bias else None
        self.norm_weight, self.norm_shift = empty(hidden_size, dtype=dtype), empty(hidden_size, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        self._refuse_computed()
        bound = 1 / math.sqrt(self.hidden_size) if self.hidden_size else 0.0
        init.uniform_(self.weight_ih, -bound, bound)
        init.eye_(self.weight_hh).numpy()[...] *= 0.05
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)
        init.ones_(self.norm_weight)
        init.zeros_(self.norm_shift)

    def initial_state(self, batch_size: int) -> tuple[Tensor, Tensor]:
        H, dtype = self.hidden_size, self.weight_ih.dtype
        return zeros(batch_size, H, dtype=dtype), zeros(batch_size, H, H, dtype=dtype)

    def step(self, x: Tensor, h: Tensor, A: Tensor) -> tuple[Tensor, Tensor]:
        A = self.decay * A + self.rate * self.candidate(h)[:, :, None] * h[:, None, :]
        a = linear(x, self.weight_ih, self.bias) + linear(self.masked(h), self.weight_hh)
        h = relu(a)
        for _ in range(self.inner):
            met = a + einsum("bij,bj->bi", A, h)
            h = relu(layer_norm(met, (self.hidden_size,), self.norm_weight, self.norm_shift))
        return h, A

    def extra_repr(self) -> str:
        said = f"{self.input_size}, {self.hidden_size}{'' if self.bias is not None else ', bias=False'}"
        options = {"inner": (self.inner, 1), "decay": (self.decay, 0.95), "rate": (self.rate, 0.5)}
        return said + "".join(f", {name}={value}" for name, (value, usual) in options.items() if value != usual)
