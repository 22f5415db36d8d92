"""A cell whose units choose at every step how long that step is."""

from typing import Any

from ...autograd.pointwise import sigmoid, tanh
from ...autograd.shapes import chunk, split
from ...autograd.tensor import Tensor
from ..functional import linear
from .catalogue import listed
from .gated import GatedCell
from .options import number


@listed("z' = (1-r) z + r tanh(W x + U y), y' = (1-s) y + s tanh(V z')", "Rusch et al., 2022")
class LEMCell(GatedCell):
    """Long expressive memory: two states, each on time steps of its own choice (Rusch et al., 2022).

        >>> import tinygrad_rnn as tg
        >>> y, z = tg.nn.cells.LEMCell(3, 4, dt=0.1)(tg.ones(5, 3))
        >>> y.shape, bool((abs(z) <= 0.1).all())  # one step of at most dt, from 0
        ((5, 4), True)

        r = dt * sigmoid(W_ir x + W_hr y + b_r)
        s = dt * sigmoid(W_is x + W_hs y + b_s)
        z' = (1 - r) * z + r * tanh(W_iz x + W_hz y + b_z)
        y' = (1 - s) * y + s * tanh(W_iy x + W_hy z' + b_y)

    This is an implicit-explicit step of two differential equations, z' = sigmoid(.) (tanh(.) - z) and the same of y,
    whose time scales the gates are. With a small dt both states hardly move, and gradients reach far back.

    y is the output. It sees the NEW z, in the paper and in its authors' code (tk-rusch/LEM), which also has a bias
    beside each matrix; only their sums count, and here they are one. Recurrent dropout drops what goes into z.

    Args:
        dt: the longest step, positive; the authors' are 1 by default, and for long sequences small.

    Attributes:
        weight_hh: [4H, H]: the last H rows, W_hy, read z', the others y.

    Raises:
        ValueError: dt is not positive.
    """

    gates = "rszy"

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, dt: float = 1.0, *, dtype: Any = None
    ) -> None:
        number(self, dt=dt)
        self.dt = dt
        super().__init__(input_size, hidden_size, bias, dtype=dtype)

    def step(self, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        H = self.hidden_size
        W, W_y = split(self.weight_hh, [3 * H, H])
        x_rsz, x_y = split(linear(x, self.weight_ih, self.bias), [3 * H, H], -1)
        r, s, n = chunk(x_rsz + linear(self.masked(y), W), 3, -1)
        r, s = self.dt * sigmoid(r), self.dt * sigmoid(s)
        z = (1 - r) * z + r * self.candidate(tanh(n))
        y = (1 - s) * y + s * tanh(x_y + linear(z, W_y))
        return y, z

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.dt == 1 else f", dt={self.dt}")
