"""Cells that look at vectors which are given for the whole sequence, such as the states of an encoder."""

import math
from typing import Any

from ...autograd.pointwise import sigmoid, tanh, where
from ...autograd.products import einsum
from ...autograd.reductions import softmax
from ...autograd.shapes import chunk
from ...autograd.tensor import Tensor
from .. import init
from ..cell import Cell
from ..functional import linear
from ..layers import empty
from .catalogue import Shapes, listed

FAR = -1e30  # the score of what is not to be looked at, before a softmax


def five_vectors(input_size: int, hidden_size: int) -> Shapes:
    """A memory to try a cell with: [5, H]."""
    return {"memory": (5, hidden_size)}


def attention(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Weights [B, S] of a mean: those of scores [B, S] where the mask is not 0, all 0 if it is 0 everywhere."""
    if mask is None:
        return softmax(scores, -1)
    seen = mask != 0
    return where(seen, softmax(where(seen, scores, FAR), -1), 0.0)


@listed(
    "a = softmax(v tanh(W h + U m_s)), h' = GRU of x, sum a_s m_s",
    "Bahdanau et al., 2015",
    values=five_vectors,
)
class BahdanauCell(Cell):
    """A decoder that looks for what it needs in what was read: additive attention (Bahdanau et al., 2015).

        >>> import tinygrad_rnn as tg
        >>> encoded, _ = tg.nn.GRU(3, 8)(tg.ones(9, 5, 3))
        >>> layer = tg.nn.Recurrent(tg.nn.cells.BahdanauCell(4, 8))
        >>> with tg.record(layer) as r:
        ...     y, h = layer(tg.ones(6, 5, 4), memory=encoded.transpose(0, 1))
        >>> y.shape, r["alpha"].shape  # how much each step looks at each vector of the memory
        ((6, 5, 8), (6, 5, 9))

        e_s = v^T tanh(W_q h + W_m m_s)         for each vector m_s of the memory
        alpha = softmax(e)
        c = sum_s alpha_s m_s
        z, r = sigmoid(W_ih x + W_hh h + W_ch c + b)
        n = tanh(W_in x + W_hn (r * h) + W_cn c + b_n)
        h' = (1 - z) * h + z * n

    The memory is given to the layer by name, [B, S, M] with B first, and so is `mask`, [B, S], if some sequences have
    fewer vectors: 0 or False for what is not to be looked at. Where all of a row is masked, c is 0. z lets in the NEW
    state; the reset gate acts before the product. The paper starts from `h = tanh(W m)` of the encoder's last state:
    give it as hx. Weights start from U(-1 / sqrt(H), 1 / sqrt(H)).

    Args:
        memory_size: M, the width of the memory; H by default.
        attention_size: A, that of the layer which compares; H by default.

    Attributes:
        weight_ih: the rows of z, r, n, [3H, I].
        weight_hh: the same, [3H, H].
        weight_ch: the same, [3H, M].
        bias: [3H], or None.
        weight_query: W_q, [A, H].
        weight_memory: W_m, [A, M].
        weight_score: v, [A].

    Raises:
        ValueError: a size is not positive.

    Source: Bahdanau, Cho, Bengio, "Neural machine translation by jointly learning to align and translate", 2015,
    appendix A.2.
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, memory_size: int | None = None,
        attention_size: int | None = None, *, dtype: Any = None,
    ) -> None:  # fmt: skip
        for name, size in (("memory_size", memory_size), ("attention_size", attention_size)):
            if size is not None and size < 1:
                raise ValueError(f"BahdanauCell: {name} must be positive, not {size}")
        self.input_size, self.hidden_size = input_size, hidden_size
        self.memory_size, self.attention_size = memory_size or hidden_size, attention_size or hidden_size
        self.weight_ih = empty(3 * hidden_size, input_size, dtype=dtype)
        self.weight_hh = empty(3 * hidden_size, hidden_size, dtype=dtype)
        self.weight_ch = empty(3 * hidden_size, self.memory_size, dtype=dtype)
        self.bias = empty(3 * hidden_size, dtype=dtype) if bias else None
        self.weight_query = empty(self.attention_size, hidden_size, dtype=dtype)
        self.weight_memory = empty(self.attention_size, self.memory_size, dtype=dtype)
        self.weight_score = empty(self.attention_size, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew, as they were drawn to begin with."""
        self._refuse_computed()
        bound = 1 / math.sqrt(self.hidden_size) if self.hidden_size else 0.0
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def step(self, x: Tensor, h: Tensor, *, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        seen, H = self.masked(h), self.hidden_size
        query, keys = linear(seen, self.weight_query), linear(memory, self.weight_memory)
        alpha = attention(linear(tanh(query.unsqueeze(1) + keys), self.weight_score), mask)
        c = einsum("bs,bsm->bm", alpha, memory)
        a = linear(x, self.weight_ih, self.bias) + linear(c, self.weight_ch)
        W_zr, W_n = self.weight_hh[: 2 * H], self.weight_hh[2 * H :]
        z, r = chunk(sigmoid(a[:, : 2 * H] + linear(seen, W_zr)), 2, -1)
        n = self.candidate(tanh(a[:, 2 * H :] + linear(r * seen, W_n)))
        return (1 - z) * h + z * n

    def extra_repr(self) -> str:
        H, said = self.hidden_size, [f"{self.input_size}, {self.hidden_size}"]
        said += [] if self.bias is not None else ["bias=False"]
        more = {"memory_size": self.memory_size, "attention_size": self.attention_size}
        return ", ".join(said + [f"{name}={size}" for name, size in more.items() if size != H])
