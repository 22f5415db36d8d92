"""The classic cells. Parameters, names, gate orders and calls are PyTorch's.

x is [B, I], h is [B, H]; W_ih stacks the input weights of k gates, [kH, I], W_hh the recurrent ones, [kH, H]. There are
two biases where one would do, as in cuDNN. Everything starts from U(-1 / sqrt(H), 1 / sqrt(H)).
"""

from typing import Any

from ...autograd.creation import zeros
from ...autograd.pointwise import relu, sigmoid, tanh
from ...autograd.shapes import chunk
from ...autograd.tensor import Tensor
from .. import init
from ..functional import linear
from ..layers import empty
from .catalogue import listed
from .gated import GatedCell
from .options import number, whole


class TorchCell(GatedCell):
    """A gated cell with two biases."""

    biases = ("bias_ih", "bias_hh")


@listed("h' = tanh(W x + U h + b)", "Elman, 1990")
class RNNCell(TorchCell):
    """The simple recurrent cell (Elman, 1990).

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.RNNCell(3, 4)
        >>> cell(tg.ones(5, 3)).shape, [name for name, _ in cell.named_parameters()]
        ((5, 4), ['weight_ih', 'weight_hh', 'bias_ih', 'bias_hh'])

        h' = tanh(W_ih x + b_ih + W_hh h + b_hh)

    Args:
        nonlinearity: "tanh", or "relu" in its place.
    """

    gates = "h"

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh", *, dtype: Any = None
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"{type(self).__name__}: nonlinearity must be 'tanh' or 'relu', not {nonlinearity!r}")
        super().__init__(input_size, hidden_size, bias, dtype=dtype)
        self.nonlinearity = nonlinearity

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        a = linear(x, self.weight_ih, self.bias_ih) + linear(self.masked(h), self.weight_hh, self.bias_hh)
        return tanh(a) if self.nonlinearity == "tanh" else relu(a)

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity!r}")


@listed("h' = relu(W x + U h + b), U = 1 at first", "Le et al., 2015")
class IRNNCell(RNNCell):
    """A ReLU network that starts as the identity (Le, Jaitly and Hinton, 2015).

        >>> import tinygrad_rnn as tg
        >>> tg.nn.cells.IRNNCell(3, 2).weight_hh.tolist()
        [[1.0, 0.0], [0.0, 1.0]]

        h' = relu(W_ih x + b_ih + W_hh h + b_hh),    W_hh = scale * identity to begin with

    The input weights start from N(0, 0.001^2), the biases at zero.

    Args:
        scale: how much of the state the first steps keep: the paper takes 1, and 0.01 where memory should be short.
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, scale: float = 1.0, *, dtype: Any = None
    ) -> None:
        number(self, "finite", scale=scale)
        self.scale = scale
        super().__init__(input_size, hidden_size, bias, "relu", dtype=dtype)

    def reset_parameters(self) -> None:
        """Back to the identity."""
        self._refuse_computed()
        for parameter in self.parameters():
            init.zeros_(parameter)
        init.normal_(self.weight_ih, 0, 0.001)
        init.eye_(self.weight_hh).numpy()[...] *= self.scale

    def extra_repr(self) -> str:
        return GatedCell.extra_repr(self) + ("" if self.scale == 1 else f", scale={self.scale}")


@listed("c' = f c + i tanh(g), h' = o tanh(c')", "Hochreiter and Schmidhuber, 1997")
class LSTMCell(TorchCell):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997) with forget gates (Gers et al., 2000).

        >>> import tinygrad_rnn as tg
        >>> h, c = tg.nn.LSTMCell(3, 4)(tg.ones(5, 3))
        >>> h.shape, c.shape
        ((5, 4), (5, 4))

        i, f, g, o = W_ih x + b_ih + W_hh h + b_hh
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = sigmoid(o) * tanh(c')

    Gate order i f g o, as in PyTorch (Keras: i f c o; ONNX: i o f c). No forget bias is added (Keras adds 1): see
    `nn.init.forget_gate_bias_`. Called by itself: `h, c = cell(x, (h, c))`.
    """

    gates = "ifgo"

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        a = linear(x, self.weight_ih, self.bias_ih) + linear(self.masked(h), self.weight_hh, self.bias_hh)
        a_i, a_f, a_g, a_o = chunk(a, 4, -1)
        i, f, g, o = sigmoid(a_i), sigmoid(a_f), self.candidate(tanh(a_g)), sigmoid(a_o)
        c = f * c + i * g
        h = o * tanh(c)
        return h, c


@listed("h' = P (o tanh(c'))", "Sak et al., 2014", lambda I, H: ProjectedLSTMCell(I, H, max(H // 2, 1)))
class ProjectedLSTMCell(LSTMCell):
    """An LSTM whose output is projected to P numbers, which is all that the next step sees of it (Sak et al., 2014).

        >>> import tinygrad_rnn as tg
        >>> h, c = tg.nn.ProjectedLSTMCell(3, 8, proj_size=2)(tg.ones(5, 3))
        >>> h.shape, c.shape
        ((5, 2), (5, 8))

        i, f, g, o = W_ih x + b_ih + W_hh h + b_hh
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = W_hr (sigmoid(o) * tanh(c'))

    c is [B, H], h is [B, P], W_hh is [4H, P], W_hr is [P, H].
    """

    def __init__(
        self, input_size: int, hidden_size: int, proj_size: int, bias: bool = True, *, dtype: Any = None
    ) -> None:
        super().__init__(input_size, hidden_size, bias, dtype=dtype)
        whole(self, least=0, proj_size=proj_size)
        self.proj_size = proj_size
        self.weight_hh = empty(4 * hidden_size, proj_size, dtype=dtype)
        self.weight_hr = empty(proj_size, hidden_size, dtype=dtype)
        self.reset_parameters()

    def initial_state(self, batch_size: int) -> tuple[Tensor, Tensor]:
        dtype = self.weight_ih.dtype
        return zeros(batch_size, self.proj_size, dtype=dtype), zeros(batch_size, self.hidden_size, dtype=dtype)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        h, c = super().step(x, h, c)
        return linear(h, self.weight_hr), c

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, proj_size={self.proj_size}"


@listed("n = tanh(W x + r (U h)), h' = (1 - z) n + z h", "Cho et al., 2014")
class GRUCell(TorchCell):
    """The gated recurrent unit (Cho et al., 2014), its reset gate applied after the product ("reset after").

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.GRUCell(3, 4)
        >>> h = cell(tg.ones(5, 3))
        >>> cell(tg.ones(5, 3), h).shape, cell.state_names
        ((5, 4), ('h',))

        r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
        z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
        n = tanh(W_in x + b_in + r * (W_hn h + b_hn))
        h' = (1 - z) * n + z * h

    Gate order r z n, as in PyTorch (Keras and ONNX: z r h). z keeps the OLD state. Cho's first paper and ONNX's default
    have W_hn (r * h) instead ("reset before"): weights do not transfer between the two.
    """

    gates = "rzn"

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        x_r, x_z, x_n = chunk(linear(x, self.weight_ih, self.bias_ih), 3, -1)
        h_r, h_z, h_n = chunk(linear(self.masked(h), self.weight_hh, self.bias_hh), 3, -1)
        r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
        n = self.candidate(tanh(x_n + r * h_n))
        return (1 - z) * n + z * h
