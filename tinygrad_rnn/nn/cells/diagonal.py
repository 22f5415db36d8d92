"""Cells without a recurrent product: each element of the state sees only itself.

All their products are of the input, so the compiler takes them out of the loop over time, which is left with a few
operations an element. Mixing the elements is the business of the next layer.
"""

import math
from typing import Any

from ...autograd.creation import zeros
from ...autograd.pointwise import relu, sigmoid, softplus, tanh
from ...autograd.shapes import chunk
from ...autograd.tensor import Tensor
from .. import init
from ..functional import linear
from ..layers import empty
from .catalogue import listed
from .gated import GatedCell


@listed("h' = relu(W x + u h + b)", "Li et al., 2018", recurrent=False)
class IndRNNCell(GatedCell):
    """The independently recurrent network: each unit has one recurrent weight (Li et al., 2018).

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.cells.IndRNNCell(3, 4)
        >>> cell.weight_u.shape, cell(tg.ones(5, 3)).shape
        ((4,), (5, 4))

        h' = relu(W_ih x + u * h + b)

    u starts from U(0, 1), b at zero. For sequences of T steps the paper keeps |u| below 2^(1 / T) by clipping it after
    every update: `cell.weight_u.numpy().clip(-m, m, out=cell.weight_u.numpy())`.

    Args:
        nonlinearity: "relu", or "tanh" in its place.

    Attributes:
        weight_u: u, [H].
    """

    gates = "h"
    recurrent = False

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "relu", *, dtype: Any = None
    ) -> None:
        if nonlinearity not in ("relu", "tanh"):
            raise ValueError(f"IndRNNCell: nonlinearity must be 'relu' or 'tanh', not {nonlinearity!r}")
        self.nonlinearity = nonlinearity
        self.weight_u = empty(hidden_size, dtype=dtype)
        super().__init__(input_size, hidden_size, bias, dtype=dtype)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        super().reset_parameters()
        init.uniform_(self.weight_u)
        if self.bias is not None:
            init.zeros_(self.bias)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        a = linear(x, self.weight_ih, self.bias) + self.weight_u * self.masked(h)
        return relu(a) if self.nonlinearity == "relu" else tanh(a)

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.nonlinearity == "relu" else f", nonlinearity={self.nonlinearity!r}")


@listed("c' = f c + (1 - f) (W x), h' = r c' + (1 - r) x", "Lei et al., 2018", recurrent=False)
class SRUCell(GatedCell):
    """The simple recurrent unit, with a highway from input to output (Lei et al., 2018).

        >>> import tinygrad_rnn as tg
        >>> h, c = tg.nn.cells.SRUCell(4, 4)(tg.ones(5, 4))
        >>> h.shape, c.shape
        ((5, 4), (5, 4))

        f, r = W_f x + v_f * c + b_f,  W_r x + v_r * c + b_r
        c' = sigmoid(f) * c + (1 - sigmoid(f)) * (W x)
        h' = sigmoid(r) * c' + (1 - sigmoid(r)) * x * sqrt(3)

    f and r see the old memory, h is output alone. Where I is not H, a further product W_x x takes the place of x on the
    highway. Everything starts as in the paper: W of variance 1 / I (that of the gates half of it), v of variance 1 / 2,
    biases at zero, for which sqrt(3) keeps the variance from layer to layer.

    Attributes:
        weight_ih: the rows of W, W_f, W_r, and of W_x if there is one, [3H, I] or [4H, I].
        weight_v: v_f and v_r, [2H].
        bias: b_f and b_r, [2H], or None.
    """

    gates = "fr"
    recurrent = False
    highway = math.sqrt(3)  # sqrt(1 + 2 exp(b_r)) with the b_r of the start

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, *, dtype: Any = None) -> None:
        self.weight_v = empty(2 * hidden_size, dtype=dtype)
        super().__init__(input_size, hidden_size, bias, dtype=dtype)
        self.weight_ih = empty((3 + (input_size != hidden_size)) * hidden_size, input_size, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        self._refuse_computed()
        bound, H = math.sqrt(3 / self.input_size) if self.input_size else 0.0, self.hidden_size
        init.uniform_(self.weight_ih, -bound, bound).numpy()[H : 3 * H] *= math.sqrt(0.5)
        init.uniform_(self.weight_v, -math.sqrt(1.5), math.sqrt(1.5))
        if self.bias is not None:
            init.zeros_(self.bias)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        n, x_f, x_r, *rest = chunk(linear(x, self.weight_ih), self.weight_ih.shape[0] // self.hidden_size, -1)
        v_f, v_r = chunk(self.weight_v, 2)
        f, r = x_f + v_f * c, x_r + v_r * c
        if self.bias is not None:
            b_f, b_r = chunk(self.bias, 2)
            f, r = f + b_f, r + b_r
        f, r = sigmoid(f), sigmoid(r)
        c = f * c + (1 - f) * self.candidate(n)
        skip = rest[0] if rest else x
        h = r * c + (1 - r) * skip * self.highway
        return h, c


@listed("c' = f c + (1 - f) tanh(z), h' = o c'", "Bradbury et al., 2017", recurrent=False)
class QRNNCell(GatedCell):
    """The pooling of a quasi-recurrent network over convolutions of its input (Bradbury et al., 2017).

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.cells.QRNNCell(3, 4, window=2)
        >>> cell.state_names
        ('h', 'c', 'previous')

        z, f, o, i = W_ih x[t] + W_previous x[t - 1] + b
        h' = sigmoid(f) * h + (1 - sigmoid(f)) * tanh(z)         pooling="f"
        c' = sigmoid(f) * c + (1 - sigmoid(f)) * tanh(z)         pooling="fo"
        c' = sigmoid(f) * c + sigmoid(i) * tanh(z)               pooling="ifo"
        h' = sigmoid(o) * c'                                     both of these

    With pooling="f" there are z and f only and no c, with "fo" no i. With window=1 there is no x[t - 1]. Before the
    first step x is zero. What a step hands to the next one is not x but its product with W_previous, a state
    [B, 2H to 4H], so that no product is left inside the loop over time.

    Args:
        pooling: "f", "fo" or "ifo".
        window: over how many steps the input is convolved, 1 or 2.

    Attributes:
        weight_ih, weight_previous: [2H, I], [3H, I] or [4H, I].
        bias: [2H], [3H] or [4H], or None.
    """

    recurrent = False

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        pooling: str = "fo",
        window: int = 2,
        *,
        dtype: Any = None,
    ) -> None:
        if pooling not in ("f", "fo", "ifo"):
            raise ValueError(f"QRNNCell: pooling must be 'f', 'fo' or 'ifo', not {pooling!r}")
        if window not in (1, 2):
            raise ValueError(f"QRNNCell: window must be 1 or 2, not {window!r}")
        self.pooling, self.window = pooling, window
        self.gates = "zfoi"[: 1 + len(pooling)]
        super().__init__(input_size, hidden_size, bias, dtype=dtype)
        if window == 2:
            self.weight_previous = empty(*self.weight_ih.shape, dtype=dtype)
            self.reset_parameters()

    @property
    def state_names(self) -> tuple[str, ...]:
        return "h", *("c" * (self.pooling != "f")), *(["previous"] * (self.window == 2))

    def initial_state(self, batch_size: int) -> Any:
        """Zeros: no memory, and no input before the first."""
        width = {"previous": len(self.gates) * self.hidden_size}
        states = tuple(
            zeros(batch_size, width.get(name, self.hidden_size), dtype=self.weight_ih.dtype)
            for name in self.state_names
        )
        return states if len(states) > 1 else states[0]

    def step(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        a = linear(x, self.weight_ih, self.bias) + (states[-1] if self.window == 2 else 0)
        z, f, *o_i = chunk(a, len(self.gates), -1)
        z, f = self.candidate(tanh(z)), sigmoid(f)
        c = f * states[self.pooling != "f"] + (sigmoid(o_i[1]) if self.pooling == "ifo" else 1 - f) * z
        new = (c,) if self.pooling == "f" else (sigmoid(o_i[0]) * c, c)
        return (*new, linear(x, self.weight_previous)) if self.window == 2 else new

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, pooling={self.pooling!r}, window={self.window}"


@listed("h' = (1 - z) h + z (W x + b)", "Feng et al., 2024", recurrent=False)
class MinGRUCell(GatedCell):
    """minGRU: a GRU whose gate and candidate see the input alone (Feng et al., 2024).

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.cells.MinGRUCell(3, 4)
        >>> sum(p.numel() for p in cell.parameters())  # no weights of the state: 2 H (I + 1)
        32

        z, n = W_ih x + b
        h' = (1 - sigmoid(z)) * h + sigmoid(z) * n

    z keeps the NEW state. The paper's other form, for logarithms, passes n through a function that is always positive.
    """

    gates = "zn"
    recurrent = False

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        z, n = chunk(linear(x, self.weight_ih, self.bias), 2, -1)
        z = sigmoid(z)
        return (1 - z) * h + z * self.candidate(n)


@listed("h' = (f h + i (W x + b)) / (f + i)", "Feng et al., 2024", recurrent=False)
class MinLSTMCell(GatedCell):
    """minLSTM: a mean of old and new, weighted by two gates that see the input alone (Feng et al., 2024).

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.cells.MinLSTMCell(3, 4)
        >>> sum(p.numel() for p in cell.parameters())  # no weights of the state: 3 H (I + 1)
        48

        f, i, n = W_ih x + b
        h' = (sigmoid(f) * h + sigmoid(i) * n) / (sigmoid(f) + sigmoid(i))

    The paper's other form, for logarithms, passes n through a function that is always positive.
    """

    gates = "fin"
    recurrent = False

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        f, i, n = chunk(linear(x, self.weight_ih, self.bias), 3, -1)
        # sigmoid(f) / (sigmoid(f) + sigmoid(i)), without a division by two gates that are both closed
        kept = sigmoid(softplus(-i) - softplus(-f))
        return kept * h + (1 - kept) * self.candidate(n)
