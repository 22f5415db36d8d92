"""LSTMs with something added, tied together or left out. Gates are in the order i f g o where they are all there."""

from typing import Any

from ...autograd.creation import full, zeros
from ...autograd.pointwise import exp, maximum, sigmoid, softplus, tanh
from ...autograd.tensor import Tensor
from ..functional import linear
from ..layers import LayerNorm, empty
from .catalogue import listed
from .gated import GatedCell, chunk


@listed("an LSTM whose i and f see c, whose o sees c'", "Gers et al., 2002")
class PeepholeLSTMCell(GatedCell):
    """An LSTM whose gates see the memory (Gers, Schraudolph and Schmidhuber, 2002).

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.cells.PeepholeLSTMCell(3, 4)
        >>> cell.peephole.shape  # of i, f and o
        (12,)

        i, f, g, o = W_ih x + W_hh h + b
        c' = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * tanh(g)
        h' = sigmoid(o + p_o * c') * tanh(c')

    i and f see the old memory, o the new one, each cell's gates that cell alone: p_i, p_f, p_o are [H]. The tanh of the
    output is that of Greff et al. (2017); the first paper left it out.

    Attributes:
        peephole: p_i, p_f and p_o, [3H].
    """

    gates = "ifgo"

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, *, dtype: Any = None) -> None:
        super().__init__(input_size, hidden_size, bias, dtype=dtype)
        self.peephole = empty(3 * hidden_size, dtype=dtype)
        self.reset_parameters()

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o = self.preactivations(x, h)
        p_i, p_f, p_o = chunk(self.peephole, 3)
        c_new = sigmoid(f + p_f * c) * c + sigmoid(i + p_i * c) * self.candidate(tanh(g))
        h = sigmoid(o + p_o * c_new) * tanh(c_new)
        return h, c_new


@listed("c' = (1 - i) c + i tanh(g)", "Greff et al., 2017")
class CoupledLSTMCell(GatedCell):
    """An LSTM that forgets as much as it writes, known as CIFG (Greff et al., 2017).

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.cells.CoupledLSTMCell(3, 4)
        >>> sum(p.numel() for p in cell.parameters())  # three gates: 3 H (I + H + 1)
        96

        i, g, o = W_ih x + W_hh h + b
        c' = (1 - sigmoid(i)) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(c')

    The paper's variant has peepholes besides.
    """

    gates = "igo"

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, g, o = self.preactivations(x, h)
        i = sigmoid(i)
        c = (1 - i) * c + i * self.candidate(tanh(g))
        h = sigmoid(o) * tanh(c)
        return h, c


@listed("c' = c + i tanh(g)", "Hochreiter and Schmidhuber, 1997")
class NoForgetGateLSTMCell(GatedCell):
    """The LSTM as it was before forget gates (Hochreiter and Schmidhuber, 1997): its memory only ever adds up.

        >>> import tinygrad_rnn as tg
        >>> cell, x = tg.nn.cells.NoForgetGateLSTMCell(3, 4), tg.zeros(5, 3)
        >>> _, c = cell(x, (tg.zeros(5, 4), tg.full((5, 4), 7.0)))
        >>> bool((c > 6).all())  # nothing is forgotten
        True

        i, g, o = W_ih x + W_hh h + b
        c' = c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(c')

    The paper has 2 tanh(g / 2) and tanh(c' / 2), written with logistic functions, and cuts the gradient at the gates.
    """

    gates = "igo"

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, g, o = self.preactivations(x, h)
        c = c + sigmoid(i) * self.candidate(tanh(g))
        h = sigmoid(o) * tanh(c)
        return h, c


@listed("an LSTM of LN(W x) + LN(U h) + b and LN(c')", "Ba et al., 2016")
class LayerNormLSTMCell(GatedCell):
    """An LSTM with layer normalisation (Ba, Kiros and Hinton, 2016).

        >>> import tinygrad_rnn as tg
        >>> h, c = tg.nn.cells.LayerNormLSTMCell(3, 4)(tg.ones(5, 3))
        >>> h.shape, c.shape
        ((5, 4), (5, 4))

        i, f, g, o = LN(W_ih x) + LN(W_hh h) + b
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(LN(c'))

    The first two normalise all four gates together. Gains start as ones, the shifts as zeros.

    Attributes:
        norm_ih, norm_hh: LayerNorm of 4H values.
        norm_c: LayerNorm of the memory, H values.
    """

    gates = "ifgo"

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, *, dtype: Any = None) -> None:
        super().__init__(input_size, hidden_size, bias, dtype=dtype)
        self.norm_ih = LayerNorm(4 * hidden_size, bias=bias, dtype=dtype)
        self.norm_hh = LayerNorm(4 * hidden_size, bias=bias, dtype=dtype)
        self.norm_c = LayerNorm(hidden_size, bias=bias, dtype=dtype)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        a = self.norm_ih(linear(x, self.weight_ih)) + self.norm_hh(linear(self.masked(h), self.weight_hh))
        i, f, g, o = chunk(a if self.bias is None else a + self.bias, 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * self.candidate(tanh(g))
        h = sigmoid(o) * tanh(self.norm_c(c))
        return h, c


@listed("m = (W x) (U h) in place of h in an LSTM", "Krause et al., 2016")
class MultiplicativeLSTMCell(GatedCell):
    """An LSTM whose transition depends on the input (Krause et al., 2016): m takes the place of h.

        >>> import tinygrad_rnn as tg
        >>> h, c = tg.nn.cells.MultiplicativeLSTMCell(3, 4)(tg.ones(5, 3))
        >>> h.shape, c.shape
        ((5, 4), (5, 4))

        m = (W_mx x) * (W_mh h)
        i, f, g, o = W_ih x + W_hh m + b
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(c')

    Attributes:
        weight_mx: [H, I].
        weight_mh: [H, H].
    """

    gates = "ifgo"

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, *, dtype: Any = None) -> None:
        super().__init__(input_size, hidden_size, bias, dtype=dtype)
        self.weight_mx = empty(hidden_size, input_size, dtype=dtype)
        self.weight_mh = empty(hidden_size, hidden_size, dtype=dtype)
        self.reset_parameters()

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        m = linear(x, self.weight_mx) * linear(self.masked(h), self.weight_mh)
        i, f, g, o = self.preactivations(x, m)
        c = sigmoid(f) * c + sigmoid(i) * self.candidate(tanh(g))
        h = sigmoid(o) * tanh(c)
        return h, c


@listed("i = exp(...), c' = f c + i z, n' = f n + i, h' = o c' / n'", "Beck et al., 2024")
class SLSTMCell(GatedCell):
    """sLSTM: an LSTM whose input gate is an exponential, its memory a weighted mean (Beck et al., 2024).

        >>> import tinygrad_rnn as tg
        >>> tg.nn.cells.SLSTMCell(3, 4).state_names
        ('h', 'c', 'n', 'm')

        i, f, z, o = W_ih x + W_hh h + b
        m' = max(log sigmoid(f) + m, i)                          keeps both exponentials at most 1
        i' = exp(i - m'),  f' = exp(log sigmoid(f) + m - m')
        c' = f' * c + i' * tanh(z)
        n' = f' * n + i'
        h' = sigmoid(o) * c' / n'

    m is there for the numbers alone: h does not depend on it. It starts so low that the first step's i' and n' are 1.
    One head; the paper's blocks divide W_hh into several, and add a convolution and normalisation around the cell.

    Args:
        forget: "sigmoid", or "exp" for `f` in place of `log sigmoid(f)`: the paper allows both.
    """

    gates = "ifzo"

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, forget: str = "sigmoid", *, dtype: Any = None
    ) -> None:
        if forget not in ("sigmoid", "exp"):
            raise ValueError(f"SLSTMCell: forget must be 'sigmoid' or 'exp', not {forget!r}")
        super().__init__(input_size, hidden_size, bias, dtype=dtype)
        self.forget = forget

    def initial_state(self, batch_size: int) -> tuple[Tensor, ...]:
        """h, c and n are zeros, m is as good as minus infinity."""
        shape, dtype = (batch_size, self.hidden_size), self.weight_ih.dtype
        return *(zeros(*shape, dtype=dtype) for _ in "hcn"), full(shape, -1e30, dtype)

    def step(self, x: Tensor, h: Tensor, c: Tensor, n: Tensor, m: Tensor) -> tuple[Tensor, ...]:
        i, f, z, o = self.preactivations(x, h)
        kept = m + (f if self.forget == "exp" else -softplus(-f))
        m = maximum(kept, i)
        i, f = exp(i - m), exp(kept - m)
        c = f * c + i * self.candidate(tanh(z))
        n = f * n + i
        h = sigmoid(o) * c / n
        return h, c, n, m

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.forget == "sigmoid" else f", forget={self.forget!r}")
