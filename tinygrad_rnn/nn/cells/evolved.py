"""Cells that nobody designed: a search over expressions found them."""

from typing import Any

from ...autograd.pointwise import relu, sigmoid, tanh
from ...autograd.shapes import chunk, split
from ...autograd.tensor import Tensor
from .. import init
from ..functional import linear
from ..layers import empty
from .catalogue import listed
from .gated import GatedCell


@listed("z = sigm(W x + b), n = tanh(U (r h) + tanh(x) + b)", "Jozefowicz et al., 2015")
class MUT1Cell(GatedCell):
    """MUT1, a GRU that evolved: z sees the input alone, the candidate the input as it is (Jozefowicz et al., 2015).

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.cells.MUT1Cell(4, 4)
        >>> cell.weight_ih.shape, cell.weight_hh.shape
        ((8, 4), (8, 4))

        z = sigmoid(W_iz x + b_z)
        r = sigmoid(W_ir x + W_hr h + b_r)
        n = tanh(W_hn (r * h) + tanh(x) + b_n)
        h' = z * n + (1 - z) * h

    z lets in the NEW state. The paper's x is as wide as h: where I is not H, W_in x takes its place in n.

    Attributes:
        weight_ih: of z and r, [2H, I]; of n as well, [3H, I], where I is not H.
        weight_hh: of r and n, [2H, H].
        bias: of z, r and n, [3H].
    """

    gates = "zrn"

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, *, dtype: Any = None) -> None:
        super().__init__(input_size, hidden_size, bias, dtype=dtype)
        self.weight_ih = empty((2 + (input_size != hidden_size)) * hidden_size, input_size, dtype=dtype)
        self.weight_hh = empty(2 * hidden_size, hidden_size, dtype=dtype)
        self.reset_parameters()

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        W_r, W_n = chunk(self.weight_hh, 2)
        b_zr, b_n = (None, None) if self.bias is None else split(self.bias, [2 * self.hidden_size, self.hidden_size])
        seen = self.masked(h)
        zr, x_n = _gates_and_input(x, self.weight_ih, 2 * self.hidden_size, b_zr)
        z, r = chunk(zr, 2, -1)
        z, r = sigmoid(z), sigmoid(r + linear(seen, W_r))
        n = self.candidate(tanh(linear(r * seen, W_n, b_n) + tanh(x_n)))
        return z * n + (1 - z) * h


@listed("r = sigm(x + U h + b), n = tanh(U (r h) + W x + b)", "Jozefowicz et al., 2015")
class MUT2Cell(GatedCell):
    """MUT2, a GRU that evolved: the reset gate sees the input as it is (Jozefowicz et al., 2015).

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.cells.MUT2Cell(4, 4)
        >>> cell.weight_ih.shape, cell.weight_hh.shape
        ((8, 4), (12, 4))

        z = sigmoid(W_iz x + W_hz h + b_z)
        r = sigmoid(x + W_hr h + b_r)
        n = tanh(W_hn (r * h) + W_in x + b_n)
        h' = z * n + (1 - z) * h

    z lets in the NEW state. The paper's x is as wide as h: where I is not H, W_ir x takes its place in r.

    Attributes:
        weight_ih: of z and n, [2H, I]; of r as well, [3H, I], where I is not H.
        weight_hh, bias: of z, r and n, [3H, H] and [3H].
    """

    gates = "zrn"

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, *, dtype: Any = None) -> None:
        super().__init__(input_size, hidden_size, bias, dtype=dtype)
        self.weight_ih = empty((2 + (input_size != hidden_size)) * hidden_size, input_size, dtype=dtype)
        self.reset_parameters()

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        rows = [2 * self.hidden_size, self.hidden_size]
        W_zr, W_n = split(self.weight_hh, rows)
        b_zr, b_n = (None, None) if self.bias is None else split(self.bias, rows)
        seen = self.masked(h)
        zn, x_r = _gates_and_input(x, self.weight_ih, rows[0], None)
        x_z, x_n = chunk(zn, 2, -1)
        h_z, h_r = chunk(linear(seen, W_zr, b_zr), 2, -1)
        z, r = sigmoid(x_z + h_z), sigmoid(x_r + h_r)
        n = self.candidate(tanh(x_n + linear(r * seen, W_n, b_n)))
        return z * n + (1 - z) * h


def _gates_and_input(x: Tensor, weight: Tensor, width: int, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """The first products of x, with their bias, and x as wide as a state: its last product where there is one."""
    if 0 < weight.shape[0] == width:
        return linear(x, weight, bias), x
    gates, wide = split(linear(x, weight), [width, weight.shape[0] - width], -1)
    return (gates if bias is None else gates + bias), wide


@listed("a GRU whose z sees tanh(h)", "Jozefowicz et al., 2015")
class MUT3Cell(GatedCell):
    """MUT3, a GRU that evolved: z sees the tanh of the state (Jozefowicz et al., 2015).

        >>> import tinygrad_rnn as tg
        >>> tg.nn.cells.MUT3Cell(3, 4)(tg.ones(5, 3)).shape
        (5, 4)

        z = sigmoid(W_iz x + W_hz tanh(h) + b_z)
        r = sigmoid(W_ir x + W_hr h + b_r)
        n = tanh(W_in x + W_hn (r * h) + b_n)
        h' = z * n + (1 - z) * h

    z lets in the NEW state. But for that tanh it is `GRUVariantCell` with reset="before", keeps="new".
    """

    gates = "zrn"

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        x_z, x_r, x_n = chunk(linear(x, self.weight_ih, self.bias), 3, -1)
        W_z, W_r, W_n = chunk(self.weight_hh, 3)
        seen = self.masked(h)
        z = sigmoid(x_z + linear(tanh(seen), W_z))
        r = sigmoid(x_r + linear(seen, W_r))
        n = self.candidate(tanh(x_n + linear(r * seen, W_n)))
        return z * n + (1 - z) * h


@listed("eight sums and products of W x and U h, in a found tree", "Zoph and Le, 2017")
class NASCell(GatedCell):
    """The cell that neural architecture search found on Penn Treebank (Zoph and Le, 2017).

        >>> import tinygrad_rnn as tg
        >>> h, c = tg.nn.cells.NASCell(3, 4)(tg.ones(5, 3))
        >>> h.shape, c.shape
        ((5, 4), (5, 4))

        x_1, ..., x_8 = W_ih x,  h_1, ..., h_8 = W_hh h + b
        p = tanh(sigmoid(x_1 + h_1) * relu(x_2 + h_2))
        q = tanh(sigmoid(x_3 + h_3) + relu(x_4 * h_4))          the one product of input and state
        u = tanh(tanh(x_5 + h_5) * sigmoid(x_6 + h_6))
        v = sigmoid(tanh(x_7 + h_7) + sigmoid(x_8 + h_8))
        c' = tanh(p + c) * q
        h' = tanh(c' * tanh(u + v))

    After TensorFlow's cell, which is the authors' and the only place where all of it is written down: the paper draws
    the tree. The bias, zeros to begin with, belongs to the state's part, so that the product sees it; TensorFlow leaves
    it out by default. Its projection of the output is left out here: a `Linear` after it.
    """

    gates = "12345678"

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        super().reset_parameters()
        if self.bias is not None:
            init.zeros_(self.bias)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        x_1, x_2, x_3, x_4, x_5, x_6, x_7, x_8 = chunk(linear(x, self.weight_ih), 8, -1)
        h_1, h_2, h_3, h_4, h_5, h_6, h_7, h_8 = chunk(linear(self.masked(h), self.weight_hh, self.bias), 8, -1)
        p = tanh(sigmoid(x_1 + h_1) * relu(x_2 + h_2))
        q = tanh(sigmoid(x_3 + h_3) + relu(x_4 * h_4))
        u = tanh(tanh(x_5 + h_5) * sigmoid(x_6 + h_6))
        v = sigmoid(tanh(x_7 + h_7) + sigmoid(x_8 + h_8))
        c = tanh(self.candidate(p) + c) * q
        h = tanh(c * tanh(u + v))
        return h, c
