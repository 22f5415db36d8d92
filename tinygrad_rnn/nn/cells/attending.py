"""Cells that look at vectors which are given for the whole sequence, such as the states of an encoder."""

import math
from typing import Any

from ...autograd.pointwise import sigmoid, tanh, where
from ...autograd.products import einsum
from ...autograd.reductions import softmax
from ...autograd.shapes import cat, chunk
from ...autograd.tensor import Tensor
from .. import init
from ..cell import Cell
from ..functional import linear
from ..layers import empty
from .catalogue import Shapes, listed
from .options import number, whole, word

FAR = -1e30  # the score of what is not to be looked at, before a softmax


def five_vectors(input_size: int, hidden_size: int) -> Shapes:
    """A memory to try a cell with: [5, H]."""
    return {"memory": (5, hidden_size)}


def check_given(cell: Cell, name: str, vectors: Tensor, width: int, mask: Tensor | None = None) -> None:
    """Refuse vectors that are not [B, S, width], and a mask that is not [B, S].

    Raises:
        ValueError: it is so.
    """
    kind, shape = type(cell).__name__, list(vectors.shape)
    if len(shape) != 3 or shape[2] != width:
        raise ValueError(f"{kind}: {name} must be [B, S, {width}], B first, not {shape}")
    if mask is not None and list(mask.shape) != shape[:2]:
        raise ValueError(f"{kind}: mask must be [B, S], a number for each vector of {shape}, not {list(mask.shape)}")


def attention(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Weights [B, S] of a mean: those of scores [B, S] where the mask is not 0, all 0 if it is 0 everywhere."""
    if mask is None:
        return softmax(scores, -1)
    seen = mask != 0
    return where(seen, softmax(where(seen, scores, FAR), -1), 0.0)


def drawn_by_width(cell: Cell) -> None:
    """Draw all parameters from U(-1 / sqrt(H), 1 / sqrt(H))."""
    cell._refuse_computed()
    bound = 1 / math.sqrt(cell.hidden_size) if cell.hidden_size else 0.0
    for parameter in cell.parameters():
        init.uniform_(parameter, -bound, bound)


@listed(
    "a = softmax(v tanh(W h + U m_s)), h' = GRU of x, sum a_s m_s",
    "Bahdanau et al., 2015",
    values=five_vectors,
)
class BahdanauCell(Cell):
    """A decoder that looks for what it needs in what was read: additive attention (Bahdanau et al., 2015).

        >>> import tinygrad_rnn as tg
        >>> encoded, _ = tg.nn.GRU(3, 8)(tg.ones(9, 5, 3))
        >>> layer = tg.nn.Recurrent(tg.nn.cells.BahdanauCell(4, 8), fused="never")
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
    fewer vectors: True or 1 for what is there, False or 0 for what is not to be looked at, of any dtype. Where all of a
    row is masked, c is 0. z lets in the NEW state; the reset gate acts before the product. The paper starts from
    `h = tanh(W m)` of the encoder's last state: give it as hx. Weights start from U(-1 / sqrt(H), 1 / sqrt(H)).

    Each new S costs a tenth of a second at its first call, in which the step is traced anew and compared with the tape;
    and a second where that takes other machine code, because S or S M is a multiple of H or because there was no mask
    before. B and T cost nothing. Where S differs from batch to batch, pad the memory to one of a few widths and mask
    what was added: the results are the same.

        >>> wide = tg.cat([encoded, tg.zeros(7, 5, 8)]).transpose(0, 1)  # 9 vectors and 7 that are not there
        >>> mask = tg.arange(16).expand(5, 16) < 9
        >>> bool((layer(tg.ones(6, 5, 4), memory=wide, mask=mask)[0] - y).abs().max() < 1e-6)
        True

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
        ValueError: a size is not positive; when called, memory or mask has another shape.

    Source: Bahdanau, Cho, Bengio, "Neural machine translation by jointly learning to align and translate", 2015,
    appendix A.2.
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, memory_size: int | None = None,
        attention_size: int | None = None, *, dtype: Any = None,
    ) -> None:  # fmt: skip
        for name, size in (("memory_size", memory_size), ("attention_size", attention_size)):
            if size is not None:
                whole(self, **{name: size})
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
        drawn_by_width(self)

    def step(self, x: Tensor, h: Tensor, *, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        check_given(self, "memory", memory, self.memory_size, mask)
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


@listed(
    "a = softmax(h W m_s), y' = tanh(W_c [sum a_s m_s, h'])",
    "Luong et al., 2015",
    values=five_vectors,
)
class DotAttentionCell(Cell):
    """An LSTM whose output is compared with a memory, and goes back in: multiplicative attention (Luong et al., 2015).

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.cells.DotAttentionCell(4, 8)
        >>> y, h, c = cell(tg.ones(5, 4), memory=tg.ones(5, 9, 8))
        >>> y.shape, h.shape, c.shape
        ((5, 8), (5, 8), (5, 8))

        i, f, g, o = W_ih x + W_yh y + W_hh h + b
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(c')
        e_s = h'^T m_s, or h'^T W_a m_s         for each vector m_s of the memory
        alpha = softmax(e)                      `tg.record` has it by this name
        y' = tanh(W_cy [sum_s alpha_s m_s, h'])

    The states are y, which is the output, h and c. Unlike `BahdanauCell` it looks with the NEW state. The memory is
    given to the layer by name, [B, S, M] with B first, and so is `mask`, [B, S], if some sequences have fewer vectors:
    True or 1 for what is there, False or 0 for what is not to be looked at, of any dtype. Feeding y back is the paper's
    "input feeding". Weights start from U(-1 / sqrt(H), 1 / sqrt(H)); the paper's from U(-0.1, 0.1).

    Each new width S of the memory is traced anew at its first call, and sometimes compiled: where it differs from batch
    to batch, pad the memory to one of a few widths and mask what was added, as `BahdanauCell` shows.

    Args:
        score: "dot", which wants M = H, or "general", with a matrix between.
        memory_size: M, the width of the memory; H by default.

    Attributes:
        weight_ih: the rows of i, f, g, o, [4H, I].
        weight_yh, weight_hh: the same, [4H, H] each.
        bias: [4H], or None.
        weight_a: [H, M], or None.
        weight_cy: [H, M + H].

    Raises:
        ValueError: there is no such score, a dot product with vectors of another width, or memory_size is not positive;
            when called, memory or mask has another shape.

    Source: Luong, Pham, Manning, "Effective approaches to attention-based neural machine translation", 2015.
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, score: str = "dot", memory_size: int | None = None,
        *, dtype: Any = None,
    ) -> None:  # fmt: skip
        word(self, "dot", "general", score=score)
        if memory_size is not None:
            whole(self, memory_size=memory_size)
        M, H = hidden_size if memory_size is None else memory_size, hidden_size
        if score == "dot" and M != H:
            raise ValueError(f"DotAttentionCell: score 'dot' wants memory_size {H}, not {M}: use score='general'")
        self.input_size, self.hidden_size, self.memory_size, self.score = input_size, H, M, score
        self.weight_ih = empty(4 * H, input_size, dtype=dtype)
        self.weight_yh, self.weight_hh = empty(4 * H, H, dtype=dtype), empty(4 * H, H, dtype=dtype)
        self.bias = empty(4 * H, dtype=dtype) if bias else None
        self.weight_a = empty(H, M, dtype=dtype) if score == "general" else None
        self.weight_cy = empty(H, M + H, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew, as they were drawn to begin with."""
        drawn_by_width(self)

    def step(
        self, x: Tensor, y: Tensor, h: Tensor, c: Tensor, *, memory: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        check_given(self, "memory", memory, self.memory_size, mask)
        a = linear(x, self.weight_ih, self.bias) + linear(self.masked(y), self.weight_yh) + linear(h, self.weight_hh)
        i, f, g, o = chunk(a, 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * self.candidate(tanh(g))
        h = sigmoid(o) * tanh(c)
        keys = memory if self.weight_a is None else linear(memory, self.weight_a)
        alpha = attention(einsum("bh,bsh->bs", h, keys), mask)
        context = einsum("bs,bsm->bm", alpha, memory)
        return tanh(linear(cat([context, h], -1), self.weight_cy)), h, c

    def extra_repr(self) -> str:
        said = f"{self.input_size}, {self.hidden_size}{'' if self.bias is not None else ', bias=False'}"
        said += f", score={self.score!r}" if self.score != "dot" else ""
        return said + (f", memory_size={self.memory_size}" if self.memory_size != self.hidden_size else "")


@listed("h' = X^T softmax(beta X (h + W x + b))", "Ramsauer et al., 2021")
class HopfieldCell(Cell):
    """A modern Hopfield network: the state is drawn to the stored pattern that it resembles (Ramsauer et al., 2021).

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.cells.HopfieldCell(3, 4, beta=8.0)
        >>> known = tg.eye(4).expand(5, 4, 4)  # four patterns for each sequence, in place of learned ones
        >>> bool((cell(tg.zeros(5, 3), known[:, 1], patterns=known) - known[:, 1]).abs().max() < 0.25)
        True

        q = h + W_ih x + b
        h' = X^T softmax(beta X q)              the rows of X are patterns

    That is one update of the paper, which for patterns that are well apart is all that it takes. The patterns are
    learned, [N, H], or given to the layer by name, `patterns`, [B, N, H] with B first and any N, for each of which
    the step is traced anew. Without input a pattern that is stored stays what it is. The layers of the authors' code
    (ml-jku/hopfield-layers) have norms and projections around this.

    Args:
        stored: N, how many patterns are learned; H by default.
        beta: the larger, the more is retrieved of one pattern and the less of a mean; 1 / sqrt(H) by default, theirs.

    Attributes:
        weight_ih: [H, I].
        bias: [H], or None.
        patterns: X, [N, H], from N(0, 1) at first.

    Raises:
        ValueError: stored or beta is not positive; when called, patterns have another shape.

    Source: Ramsauer, Schaefl, Lehner et al., "Hopfield networks is all you need", 2021, equation 3.
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, stored: int | None = None,
        beta: float | None = None, *, dtype: Any = None,
    ) -> None:  # fmt: skip
        if stored is not None:
            whole(self, stored=stored)
        if beta is not None:
            number(self, beta=beta)
        self.input_size, self.hidden_size = input_size, hidden_size
        self.beta = 1 / math.sqrt(max(hidden_size, 1)) if beta is None else beta
        self.weight_ih = empty(hidden_size, input_size, dtype=dtype)
        self.bias = empty(hidden_size, dtype=dtype) if bias else None
        self.patterns = empty(hidden_size if stored is None else stored, hidden_size, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        drawn_by_width(self)
        init.trunc_normal_(self.patterns, 0, 1, -4, 4)

    def step(self, x: Tensor, h: Tensor, *, patterns: Tensor | None = None) -> Tensor:
        q = self.masked(h) + self.candidate(linear(x, self.weight_ih, self.bias))
        if patterns is None:
            alpha = softmax(self.beta * linear(q, self.patterns), -1)
            return alpha @ self.patterns
        check_given(self, "patterns", patterns, self.hidden_size)
        alpha = softmax(self.beta * einsum("bnh,bh->bn", patterns, q), -1)
        return einsum("bn,bnh->bh", alpha, patterns)

    def extra_repr(self) -> str:
        H, N = self.patterns.shape[1], self.patterns.shape[0]
        said = f"{self.input_size}, {H}{'' if self.bias is not None else ', bias=False'}"
        said += f", stored={N}" if N != H else ""
        return said + (f", beta={self.beta}" if self.beta != 1 / math.sqrt(max(H, 1)) else "")
