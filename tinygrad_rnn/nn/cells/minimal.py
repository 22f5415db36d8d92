"""Cells with fewer gates or fewer products than a GRU."""

from typing import Any

from ...autograd.pointwise import sigmoid, tanh
from ...autograd.shapes import chunk
from ...autograd.tensor import Tensor
from ..functional import linear
from ..layers import empty
from .catalogue import listed
from .gated import GatedCell


@listed("n = tanh(W x + U (z h) + b), h' = (1 - z) h + z n", "Zhou et al., 2016")
class MGUCell(GatedCell):
    """The minimal gated unit: a GRU with one gate (Zhou et al., 2016).

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.cells.MGUCell(3, 4)
        >>> sum(p.numel() for p in cell.parameters())  # two thirds of a GRU: 2 H (I + H + 1)
        64

        z = sigmoid(W_iz x + W_hz h + b_z)
        n = tanh(W_in x + W_hn (z * h) + b_n)
        h' = (1 - z) * h + z * n

    z is the paper's f. It is called a forget gate there, but lets in the NEW state.
    """

    gates = "zn"

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        x_z, x_n = chunk(linear(x, self.weight_ih, self.bias), 2, -1)
        W_z, W_n = chunk(self.weight_hh, 2)
        seen = self.masked(h)
        z = sigmoid(x_z + linear(seen, W_z))
        n = self.candidate(tanh(x_n + linear(z * seen, W_n)))
        return (1 - z) * h + z * n


@listed("z = tanh(W x + b), h' = u h + (1 - u) z", "Chen, 2017")
class MinimalRNNCell(GatedCell):
    """MinimalRNN: the input is mapped into the state's space, and a gate mixes the two (Chen, 2017).

        >>> import tinygrad_rnn as tg
        >>> tg.nn.cells.MinimalRNNCell(3, 4)(tg.ones(5, 3)).shape
        (5, 4)

        z = tanh(W_ih x + b_z)
        u = sigmoid(W_hh h + W_zh z + b)
        h' = u * h + (1 - u) * z

    Attributes:
        weight_zh: [H, H].
        bias_z: [H], or None.
    """

    gates = "u"

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, *, dtype: Any = None) -> None:
        super().__init__(input_size, hidden_size, bias, dtype=dtype)
        self.weight_zh = empty(hidden_size, hidden_size, dtype=dtype)
        self.bias_z = empty(hidden_size, dtype=dtype) if bias else None
        self.reset_parameters()

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        z = tanh(linear(x, self.weight_ih, self.bias_z))
        u = sigmoid(linear(self.masked(h), self.weight_hh) + linear(z, self.weight_zh, self.bias))
        return u * h + (1 - u) * self.candidate(z)


@listed("h' = g h + (1 - g) tanh(W x + U h + b)", "Collins et al., 2017")
class UGRNNCell(GatedCell):
    """The update gate RNN: a simple cell with a GRU's update gate (Collins, Sohl-Dickstein and Sussillo, 2017).

        >>> import tinygrad_rnn as tg
        >>> tg.nn.cells.UGRNNCell(3, 4)(tg.ones(5, 3)).shape
        (5, 4)

        g, n = W_ih x + W_hh h + b
        h' = sigmoid(g) * h + (1 - sigmoid(g)) * tanh(n)

    g keeps the OLD state; its bias starts with 1 added, so that the first steps remember.
    """

    gates = "gn"

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        super().reset_parameters()
        if self.bias is not None:
            self.bias.numpy()[: self.hidden_size] += 1

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        g, n = self.preactivations(x, h)
        g = sigmoid(g)
        return g * h + (1 - g) * self.candidate(tanh(n))


@listed("c' = f c + i (W x), h' = tanh(c')", "Lee et al., 2017")
class RANCell(GatedCell):
    """The recurrent additive network: its memory is a weighted sum of its inputs (Lee, Levy and Zettlemoyer, 2017).

        >>> import tinygrad_rnn as tg
        >>> h, c = tg.nn.cells.RANCell(3, 4)(tg.ones(5, 3))
        >>> bool((h == c.tanh()).all())
        True

        i, f = W_ih x + W_hh h + b
        c' = sigmoid(f) * c + sigmoid(i) * W_cx x
        h' = tanh(c')

    Args:
        nonlinearity: "tanh", or "identity" for h' = c': the paper has both.

    Attributes:
        weight_cx: [H, I].
    """

    gates = "if"

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh", *, dtype: Any = None
    ) -> None:
        if nonlinearity not in ("tanh", "identity"):
            raise ValueError(f"RANCell: nonlinearity must be 'tanh' or 'identity', not {nonlinearity!r}")
        super().__init__(input_size, hidden_size, bias, dtype=dtype)
        self.nonlinearity = nonlinearity
        self.weight_cx = empty(hidden_size, input_size, dtype=dtype)
        self.reset_parameters()

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f = self.preactivations(x, h)
        c = sigmoid(f) * c + sigmoid(i) * self.candidate(linear(x, self.weight_cx))
        return (tanh(c) if self.nonlinearity == "tanh" else c), c

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity!r}")
