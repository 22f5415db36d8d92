"""Two cells just as an introductory article lists them in NumPy, its mistakes in running them mended.

Weights are named as there: W_i [I, H] and U_i [H, H] multiply from the right, so `x @ Wi`. They start from N(0, 1)
divided by the square root of their number of rows, biases at zero.
"""

import math
from typing import Any

from ...autograd.pointwise import sigmoid, tanh
from ...autograd.tensor import Tensor
from .. import init
from ..cell import Cell
from ..layers import empty
from ..module import Parameter
from .catalogue import listed


class _ArticleCell(Cell):
    """What the two share."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        self.input_size: int = input_size
        self.hidden_size = hidden_size

    def _gate(self, dtype: Any) -> tuple[Parameter, Parameter, Parameter]:
        """W, U and b of one gate."""
        I, H = self.input_size, self.hidden_size
        return empty(I, H, dtype=dtype), empty(H, H, dtype=dtype), empty(H, dtype=dtype)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        self._refuse_computed()
        for parameter in self.parameters():
            if parameter.ndim == 2:
                init.normal_(parameter, 0, 1 / math.sqrt(max(parameter.shape[0], 1)))
            else:
                init.zeros_(parameter)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}"


@listed("c' = f c + i tanh(g), h' = o tanh(c')", "an article's listing")
class ArticleLSTMCell(_ArticleCell):
    """The article's LSTM.

        >>> import tinygrad_rnn as tg
        >>> h, c = tg.nn.cells.ArticleLSTMCell(3, 4)(tg.ones(5, 3))
        >>> h.shape, c.shape
        ((5, 4), (5, 4))

        i, f, o = sigmoid(x Wi + h Ui + bi), sigmoid(x Wf + h Uf + bf), sigmoid(x Wo + h Uo + bo)
        c' = f * c + i * tanh(x Wc + h Uc + bc)
        h' = o * tanh(c')

    These are the standard equations, those of `LSTMCell`: only the layout of the weights, one bias in place of two and
    how they start differ. The article's own class calls a `sigmoid` that it does not define, never sets the memory that
    it starts from, and returns the last state alone, transposed.
    """

    def __init__(self, input_size: int, hidden_size: int, *, dtype: Any = None) -> None:
        super().__init__(input_size, hidden_size)
        self.Wi, self.Ui, self.bi = self._gate(dtype)
        self.Wf, self.Uf, self.bf = self._gate(dtype)
        self.Wo, self.Uo, self.bo = self._gate(dtype)
        self.Wc, self.Uc, self.bc = self._gate(dtype)
        self.reset_parameters()

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i = sigmoid(x @ self.Wi + h @ self.Ui + self.bi)
        f = sigmoid(x @ self.Wf + h @ self.Uf + self.bf)
        o = sigmoid(x @ self.Wo + h @ self.Uo + self.bo)
        c = f * c + i * self.candidate(tanh(x @ self.Wc + h @ self.Uc + self.bc))
        h = o * tanh(c)
        return h, c


@listed("n = tanh(W x + (1 - zz) (U r)), h' = z n + (1 - z) h", "an article's listing")
class ArticleGRUCell(_ArticleCell):
    """The article's GRU, which is NOT the usual one.

        >>> import tinygrad_rnn as tg
        >>> tg.nn.cells.ArticleGRUCell(3, 4)(tg.ones(5, 3)).shape
        (5, 4)

        z  = sigmoid(x Wr + h Ur + br)
        r  = tanh(x Wh + z * (h Uh + bh))
        zz = sigmoid(x Wz + r Uz + bz)
        n  = tanh(x Wh + (1 - zz) * (r Uh + bh))
        h' = n * z + h * (1 - z)

    In a GRU (`GRUCell`) the reset gate makes one candidate, and another gate that sees h mixes it with the old state.
    Here the first gate z does both, and its candidate r is no result: a second gate and a second candidate are computed
    from it, by the same Wh, Uh and bh. z keeps the NEW state, the opposite of PyTorch.
    """

    def __init__(self, input_size: int, hidden_size: int, *, dtype: Any = None) -> None:
        super().__init__(input_size, hidden_size)
        self.Wr, self.Ur, self.br = self._gate(dtype)
        self.Wz, self.Uz, self.bz = self._gate(dtype)
        self.Wh, self.Uh, self.bh = self._gate(dtype)
        self.reset_parameters()

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        seen = self.masked(h)
        z = sigmoid(x @ self.Wr + seen @ self.Ur + self.br)
        r = tanh(x @ self.Wh + z * (seen @ self.Uh + self.bh))
        zz = sigmoid(x @ self.Wz + r @ self.Uz + self.bz)
        n = self.candidate(tanh(x @ self.Wh + (1 - zz) * (r @ self.Uh + self.bh)))
        return n * z + h * (1 - z)
