"""GRUs that differ from PyTorch's: in where the reset gate acts, in what z keeps, in what is normalised or left out."""

from typing import Any

from ...autograd.operands import as_tensor
from ...autograd.pointwise import relu, sigmoid, tanh
from ...autograd.shapes import chunk, split
from ...autograd.tensor import Tensor
from .. import init
from ..functional import linear
from ..layers import LayerNorm
from .catalogue import listed
from .classic import TorchCell
from .gated import GatedCell


@listed("n = tanh(W x + U (r h)), h' = (1 - z) n + z h", "Cho et al., 2014")
class GRUVariantCell(TorchCell):
    """The gated recurrent unit in all four ways in which it is written (Cho et al., 2014; Chung et al., 2014).

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.cells.GRUVariantCell(3, 4, reset="before", keeps="old")
        >>> cell(tg.ones(5, 3)).shape
        (5, 4)

        r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
        z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
        n = tanh(W_in x + b_in + W_hn (r * h) + b_hn)       reset="before": Cho et al., ONNX's default
        n = tanh(W_in x + b_in + r * (W_hn h + b_hn))       reset="after": PyTorch, cuDNN, Keras
        h' = (1 - z) * n + z * h                            keeps="old": Cho et al., PyTorch, Keras, ONNX
        h' = z * n + (1 - z) * h                            keeps="new": Chung et al., Lasagne, DyNet

    Parameters are those of `GRUCell`, gate order r z n. With other signs of W_iz, b_iz, W_hz and b_hz the other `keeps`
    computes the same; between the two kinds of reset no weights transfer.

    Args:
        reset: whether the reset gate acts "before" the recurrent product or "after" it.
        keeps: whether z is the share of the "old" state or of the "new" one.
    """

    gates = "rzn"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        reset: str = "before",
        keeps: str = "old",
        *,
        dtype: Any = None,
    ) -> None:
        if reset not in ("before", "after"):
            raise ValueError(f"GRUVariantCell: reset must be 'before' or 'after', not {reset!r}")
        if keeps not in ("old", "new"):
            raise ValueError(f"GRUVariantCell: keeps must be 'old' or 'new', not {keeps!r}")
        super().__init__(input_size, hidden_size, bias, dtype=dtype)
        self.reset, self.keeps = reset, keeps

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        rows = [2 * self.hidden_size, self.hidden_size]
        W_rz, W_n = split(self.weight_hh, rows)
        b_rz, b_n = (None, None) if self.bias_hh is None else split(self.bias_hh, rows)
        x_rz, x_n = split(linear(x, self.weight_ih, self.bias_ih), rows, -1)
        seen = self.masked(h)
        r, z = chunk(sigmoid(x_rz + linear(seen, W_rz, b_rz)), 2, -1)
        before = self.reset == "before"
        n = self.candidate(tanh(x_n + (linear(r * seen, W_n, b_n) if before else r * linear(seen, W_n, b_n))))
        return (1 - z) * n + z * h if self.keeps == "old" else z * n + (1 - z) * h

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, reset={self.reset!r}, keeps={self.keeps!r}"


@listed("a GRU of LN(W x) and LN(U h), h' = (1 - z) h + z n", "Ba et al., 2016")
class LayerNormGRUCell(GatedCell):
    """A GRU with layer normalisation (Ba, Kiros and Hinton, 2016).

        >>> import tinygrad_rnn as tg
        >>> tg.nn.cells.LayerNormGRUCell(3, 4)(tg.ones(5, 3)).shape
        (5, 4)

        r, z = sigmoid(LN(W_irz x) + LN(W_hrz h))
        n = tanh(LN(W_in x) + r * LN(W_hn h))
        h' = (1 - z) * h + z * n

    z keeps the NEW state. r and z are normalised together. Gains start as ones, shifts, the only biases, as zeros.

    Attributes:
        norm_ih, norm_hh: LayerNorm of 2H values, for r and z.
        norm_in, norm_hn: LayerNorm of H values, for n.
    """

    gates = "rzn"
    biases = ()

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, *, dtype: Any = None) -> None:
        super().__init__(input_size, hidden_size, bias, dtype=dtype)
        self.norm_ih = LayerNorm(2 * hidden_size, bias=bias, dtype=dtype)
        self.norm_hh = LayerNorm(2 * hidden_size, bias=bias, dtype=dtype)
        self.norm_in = LayerNorm(hidden_size, bias=bias, dtype=dtype)
        self.norm_hn = LayerNorm(hidden_size, bias=bias, dtype=dtype)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        *x_rz, x_n = chunk(linear(x, self.weight_ih), 3, -1)
        *h_rz, h_n = chunk(linear(self.masked(h), self.weight_hh), 3, -1)
        r, z = (sigmoid(a + b) for a, b in zip(_together(self.norm_ih, *x_rz), _together(self.norm_hh, *h_rz)))
        n = self.candidate(tanh(self.norm_in(x_n) + r * self.norm_hn(h_n)))
        return (1 - z) * h + z * n


def _together(norm: LayerNorm, a: Tensor, b: Tensor) -> list[Tensor]:
    """The halves of `norm(cat([a, b], -1))`, which reads them as they are: a kernel has no other use for the whole."""
    mean = 0.5 * (a.mean(-1, keepdim=True) + b.mean(-1, keepdim=True))
    a, b = a - mean, b - mean
    variance = 0.5 * (a.square().mean(-1, keepdim=True) + b.square().mean(-1, keepdim=True))
    weights = chunk(as_tensor(norm.weight), 2)
    scaled = [v * (variance + norm.eps).rsqrt() * weight for v, weight in zip((a, b), weights)]
    return scaled if norm.bias is None else [v + bias for v, bias in zip(scaled, chunk(norm.bias, 2))]


@listed("h' = z h + (1 - z) relu(W x + U h + b)", "Ravanelli et al., 2018")
class LiGRUCell(GatedCell):
    """The light GRU: no reset gate, and a ReLU in place of the tanh (Ravanelli et al., 2018).

        >>> import tinygrad_rnn as tg
        >>> h = tg.nn.cells.LiGRUCell(3, 4)(tg.randn(5, 3))
        >>> bool((h >= 0).all())
        True

        z, n = W_ih x + W_hh h + b
        h' = sigmoid(z) * h + (1 - sigmoid(z)) * relu(n)

    The paper normalises W_ih x over the batch, which keeps the ReLU from running away; this cell leaves that out and
    has a bias in its place. Input weights start after Glorot, each recurrent block orthogonal, biases at zero.
    """

    gates = "zn"

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        self._refuse_computed()
        init.xavier_uniform_(self.weight_ih)
        for block in chunk(self.weight_hh.detach(), 2):
            init.orthogonal_(block)
        if self.bias is not None:
            init.zeros_(self.bias)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        z, n = self.preactivations(x, h)
        z = sigmoid(z)
        return z * h + (1 - z) * self.candidate(relu(n))
