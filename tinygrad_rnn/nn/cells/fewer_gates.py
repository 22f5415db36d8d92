"""Cells that leave out gates, or what gates and candidates see, of a GRU or an LSTM."""

from typing import Any

import numpy as np

from ...autograd.pointwise import relu, sigmoid, tanh
from ...autograd.shapes import chunk
from ...autograd.tensor import Tensor
from .. import init
from ..functional import linear
from ..layers import empty
from ..module import Parameter
from .catalogue import listed
from .gated import GatedCell
from .options import number, word


class _ForgetfulCell(GatedCell):
    """A forget gate and a candidate, the gate more open for what is new by beta; its bias starts at 1, or by chrono.

    Attributes:
        beta: by how much.
        t_max: the longest dependency that is expected, or None.
    """

    gates = "fn"

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, beta: float = 1.0, t_max: float | None = None, *,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        number(self, "finite", beta=beta)
        if t_max is not None:
            number(self, "above 1, or None", t_max=t_max)
        self.beta, self.t_max = beta, t_max
        super().__init__(input_size, hidden_size, bias, dtype=dtype)

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        super().reset_parameters()
        if self.bias is not None:
            init.zeros_(self.bias)
            forget, _ = chunk(self.bias.detach(), 2)
            init.ones_(forget) if self.t_max is None else init.uniform_(forget, 1.0, self.t_max)
            if self.t_max is not None:
                np.log(forget.numpy(), out=forget.numpy())

    def extra_repr(self) -> str:
        t_max = "" if self.t_max is None else f", t_max={self.t_max}"
        return f"{super().extra_repr()}, beta={self.beta}{t_max}"


@listed("h' = sigm(s) h + (1 - sigm(s - 1)) tanh(W x + U h + b)", "van der Westhuizen and Lasenby, 2018")
class JANETCell(_ForgetfulCell):
    """JANET: an LSTM of which only the forget gate is left (van der Westhuizen and Lasenby, 2018).

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.cells.JANETCell(3, 4)
        >>> sum(p.numel() for p in cell.parameters())  # half of an LSTM: 2 H (I + H + 1)
        64

        s, n = W_ih x + W_hh h + b
        h' = sigmoid(s) * h + (1 - sigmoid(s - beta)) * tanh(n)

    The memory is the output. With beta = 0 it is `UGRNNCell`; beta lets in somewhat more than is forgotten. As in its
    authors' code the biases start at 1 for s and 0 for n; or, given t_max, those of s at log(U(1, t_max)), so that
    gates remember for up to t_max steps (chrono initialisation, Tallec and Ollivier, 2018).

    Args:
        beta: 1 in the paper.
        t_max: the longest dependency that is expected, above 1, for the start of the bias.

    Raises:
        ValueError: t_max is 1 or less, or beta no finite number.
    """

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        s, n = self.preactivations(x, h)
        return sigmoid(s) * h + (1 - sigmoid(s - self.beta)) * self.candidate(tanh(n))


@listed("h' = tanh(sigm(s) h + (1 - sigm(s - 1)) tanh(W x + b))", "Turkoglu et al., 2021")
class STARCell(_ForgetfulCell):
    """STAR, a cell to be stacked: one gate, a candidate of the input alone, a tanh around all (Turkoglu et al., 2021).

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.cells.STARCell(3, 4)
        >>> sum(p.numel() for p in cell.parameters())  # 2 H (I + 1) + H H
        48

        s, n = W_ih x + b,  s = s + W_hh h
        h' = tanh(sigmoid(s) * h + (1 - sigmoid(s - beta)) * tanh(n))

    This is what its authors' code computes, after JANET's. The paper has beta = 0, and calls 1 - sigmoid(s) the gate k:
    it lets in the NEW state. Matrices start orthogonal, biases at 1 for s and 0 for n; or, given t_max, those of s at
    log(U(1, t_max)). The code always has t_max = 784, the length of its sequences.

    Args:
        beta: 1 in the code.
        t_max: the longest dependency that is expected, above 1, for the start of the bias.

    Attributes:
        weight_hh: [H, H], of the gate.

    Raises:
        ValueError: t_max is 1 or less, or beta no finite number.
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, beta: float = 1.0, t_max: float | None = None, *,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(input_size, hidden_size, bias, beta, t_max, dtype=dtype)
        self.weight_hh = empty(hidden_size, hidden_size, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        super().reset_parameters()
        for block in (*chunk(self.weight_ih.detach(), 2), self.weight_hh):
            init.orthogonal_(block)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        s, n = chunk(linear(x, self.weight_ih, self.bias), 2, -1)
        s = s + linear(self.masked(h), self.weight_hh)
        return tanh(sigmoid(s) * h + (1 - sigmoid(s - self.beta)) * self.candidate(tanh(n)))


@listed("h' = (1 - z) h + z tanh(W x)", "Ye et al., 2024")
class LightRUCell(GatedCell):
    """The light recurrent unit: one gate, and a candidate of the input alone (Ye et al., 2024).

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.cells.LightRUCell(3, 4)
        >>> sum(p.numel() for p in cell.parameters())  # 2 H I + H H + H
        44

        z = sigmoid(W_iz x + W_hh h + b)
        h' = (1 - z) * h + z * tanh(W_in x)

    z is the paper's f. It is called a forget gate there, but lets in the NEW state. The candidate has no bias.

    Attributes:
        weight_ih: of z and n, [2H, I].
        weight_hh, bias: of z, [H, H] and [H].
    """

    gates = "z"

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, *, dtype: Any = None) -> None:
        super().__init__(input_size, hidden_size, bias, dtype=dtype)
        self.weight_ih = empty(2 * hidden_size, input_size, dtype=dtype)
        self.reset_parameters()

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        z, n = chunk(linear(x, self.weight_ih), 2, -1)
        z = sigmoid(z + linear(self.masked(h), self.weight_hh, self.bias))
        return (1 - z) * h + z * self.candidate(tanh(n))


@listed("h' = sigm(p + q) p + sigm(p - q) h, p = W x, q = U h", "Zhang et al., 2018")
class ATRCell(GatedCell):
    """ATR: two gates, a sum and a difference of the same two products, and no further weights (Zhang et al., 2018).

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.cells.ATRCell(3, 4)
        >>> sum(p.numel() for p in cell.parameters())  # H (I + H + 2)
        36

        p = W_ih x + b_ih,  q = W_hh h + b_hh
        h' = sigmoid(p + q) * p + sigmoid(p - q) * h

    Addition-subtraction twin-gated: where one gate opens by q, the other closes. The paper's equations have no biases,
    one of its authors' two codes has these. All parameters start from U(-0.08, 0.08), as there.

    Attributes:
        weight_ih, weight_hh: [H, I] and [H, H].
        bias_ih, bias_hh: [H], or None.
    """

    gates = "p"
    biases = ("bias_ih", "bias_hh")

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        self._refuse_computed()
        for parameter in self.parameters():
            init.uniform_(parameter, -0.08, 0.08)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        p = linear(x, self.weight_ih, self.bias_ih)
        q = linear(self.masked(h), self.weight_hh, self.bias_hh)
        return sigmoid(p + q) * self.candidate(p) + sigmoid(p - q) * h


@listed("h' = f tanh(h) + i tanh(W x)", "Laurent and von Brecht, 2017")
class CFNCell(GatedCell):
    """The chaos-free network: left alone, its state always goes to zero (Laurent and von Brecht, 2017).

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.cells.CFNCell(3, 4)
        >>> cell.weight_ih.shape, cell.weight_hh.shape, cell.bias.shape
        ((12, 3), (8, 4), (8,))

        f, i = W_ih x + W_hh h + b
        h' = sigmoid(f) * tanh(h) + sigmoid(i) * tanh(W_in x)

    f and i are the paper's theta and eta. The candidate sees the input alone and has no bias, so that without input the
    state shrinks in every element: there are no other attractors. The bias of f starts at 1, that of i at -1.

    Attributes:
        weight_ih: of f, i and the candidate, [3H, I].
        weight_hh, bias: of f and i, [2H, H] and [2H].
    """

    gates = "fi"

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, *, dtype: Any = None) -> None:
        super().__init__(input_size, hidden_size, bias, dtype=dtype)
        self.weight_ih = empty(3 * hidden_size, input_size, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        super().reset_parameters()
        if self.bias is not None:
            for block, value in zip(chunk(self.bias.detach(), 2), (1.0, -1.0)):
                init.constant_(block, value)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        x_f, x_i, x_n = chunk(linear(x, self.weight_ih), 3, -1)
        h_f, h_i = chunk(linear(self.masked(h), self.weight_hh, self.bias), 2, -1)
        return sigmoid(x_f + h_f) * tanh(h) + sigmoid(x_i + h_i) * self.candidate(tanh(x_n))


class _BistableCell(GatedCell):
    """Gates a and c beside a candidate without bias that sees a times its own state; after Glorot, biases zero."""

    gates = "ac"

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, *, dtype: Any = None) -> None:
        super().__init__(input_size, hidden_size, bias, dtype=dtype)
        self.weight_ih = empty(3 * hidden_size, input_size, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        self._refuse_computed()
        for block in chunk(self.weight_ih.detach(), 3):
            init.xavier_uniform_(block)
        if self.bias is not None:
            init.zeros_(self.bias)

    def update(self, x: Tensor, h: Tensor, h_a: Tensor, h_c: Tensor) -> Tensor:
        """The new state, from what the gates see of the old one."""
        x_a, x_c, x_n = chunk(linear(x, self.weight_ih), 3, -1)
        if self.bias is not None:
            b_a, b_c = chunk(self.bias, 2)
            x_a, x_c = x_a + b_a, x_c + b_c
        a, c = 1 + tanh(x_a + h_a), sigmoid(x_c + h_c)
        return c * h + (1 - c) * self.candidate(tanh(x_n + a * h))


@listed("h' = c h + (1 - c) tanh(W x + a h), a = 1 + tanh(.)", "Vecoven et al., 2021", recurrent=False)
class BRCCell(_BistableCell):
    """The bistable recurrent cell: each unit remembers by its own feedback (Vecoven et al., 2021).

        >>> import tinygrad_rnn as tg
        >>> tg.nn.cells.BRCCell(3, 4).weight_v.shape
        (8,)

        a = 1 + tanh(W_ia x + v_a * h + b_a)
        c = sigmoid(W_ic x + v_c * h + b_c)
        h' = c * h + (1 - c) * tanh(W_in x + a * h)

    Where a is above 1 a unit has two stable states, and input makes it fall into one of them. Units see each other in
    the next layer only. Matrices start after Glorot, v at ones, biases at zero, as in the authors' code.

    Attributes:
        weight_ih: of a, c and the candidate, [3H, I].
        weight_v, bias: of a and c, [2H].
    """

    recurrent = False

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, *, dtype: Any = None) -> None:
        self.weight_v = empty(2 * hidden_size, dtype=dtype)
        super().__init__(input_size, hidden_size, bias, dtype=dtype)

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        self._refuse_computed()
        if hasattr(self, "weight_v"):
            init.ones_(self.weight_v)
        super().reset_parameters()

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        (v_a, v_c), seen = chunk(self.weight_v, 2), self.masked(h)
        return self.update(x, h, v_a * seen, v_c * seen)


@listed("h' = c h + (1 - c) tanh(W x + a h), a and c see U h", "Vecoven et al., 2021")
class NBRCCell(_BistableCell):
    """The recurrently neuromodulated bistable cell: BRC whose gates see all units (Vecoven et al., 2021).

        >>> import tinygrad_rnn as tg
        >>> tg.nn.cells.NBRCCell(3, 4).weight_hh.shape
        (8, 4)

        a = 1 + tanh(W_ia x + W_ha h + b_a)
        c = sigmoid(W_ic x + W_hc h + b_c)
        h' = c * h + (1 - c) * tanh(W_in x + a * h)

    As `BRCCell`, but for the two matrices, which start after Glorot as well.

    Attributes:
        weight_ih: of a, c and the candidate, [3H, I].
        weight_hh, bias: of a and c, [2H, H] and [2H].
    """

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        super().reset_parameters()
        for block in chunk(self.weight_hh.detach(), 2):
            init.xavier_uniform_(block)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        h_a, h_c = chunk(linear(self.masked(h), self.weight_hh), 2, -1)
        return self.update(x, h, h_a, h_c)


@listed("h' = g h + (1 - g) tanh(n), y = d x + (1 - d) relu(y)", "Collins et al., 2017")
class IntersectionRNNCell(GatedCell):
    """The intersection RNN, +RNN: one gate for what goes on through time, one for depth (Collins et al., 2017).

        >>> import tinygrad_rnn as tg
        >>> y, h = tg.nn.cells.IntersectionRNNCell(3, 4)(tg.ones(5, 3))
        >>> y.shape, h.shape
        ((5, 4), (5, 4))

        i = x, or W_in x + b_in where I is not H
        g, n, d, y = W_ih i + W_hh h + b
        h' = sigmoid(g) * h + (1 - sigmoid(g)) * tanh(n)
        y' = sigmoid(d) * i + (1 - sigmoid(d)) * relu(y)

    y is output alone; the next layer's i. Made to be stacked: all layers but the first have I = H. After TensorFlow's
    cell, whose authors are the paper's: there too biases start with 1 added for g and d.

    Args:
        nonlinearity: "relu", or "tanh" in its place.

    Attributes:
        weight_ih, weight_hh: of g, n, d and y, [4H, H] both.
        weight_in, bias_in: [H, I] and [H], or None where I = H.

    Raises:
        ValueError: `nonlinearity` is something else.
    """

    gates = "gndy"
    weight_in: Parameter | None
    bias_in: Parameter | None

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "relu", *, dtype: Any = None
    ) -> None:
        word(self, "relu", "tanh", nonlinearity=nonlinearity)
        projected = input_size != hidden_size
        self.nonlinearity = nonlinearity
        self.weight_in = empty(hidden_size, input_size, dtype=dtype) if projected else None
        self.bias_in = empty(hidden_size, dtype=dtype) if projected and bias else None
        super().__init__(hidden_size, hidden_size, bias, dtype=dtype)
        self.input_size = input_size

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        super().reset_parameters()
        if self.bias is not None:
            for gate in chunk(self.bias.detach(), 4)[::2]:
                gate.numpy()[...] += 1

    def step(self, x: Tensor, y: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        i = x if self.weight_in is None else linear(x, self.weight_in, self.bias_in)
        g, n, d, y = self.preactivations(i, h)
        g, d = sigmoid(g), sigmoid(d)
        h = g * h + (1 - g) * self.candidate(tanh(n))
        y = d * i + (1 - d) * (relu(y) if self.nonlinearity == "relu" else tanh(y))
        return y, h

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.nonlinearity == "relu" else f", nonlinearity={self.nonlinearity!r}")
