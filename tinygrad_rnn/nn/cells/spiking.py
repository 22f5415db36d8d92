"""Cells that decide: units that spike or do not, weights of which only the sign is used.

A decision has no gradient. Each of these learns by another one in its place, a surrogate, which `straight_through`
carries: see `spike` and `signs`.
"""

import math
from typing import Any

import numpy as np

from ...autograd.pointwise import abs as magnitude
from ...autograd.pointwise import clamp, sigmoid, straight_through, tanh, where
from ...autograd.shapes import cat, chunk
from ...autograd.tensor import Tensor
from .. import init
from ..functional import linear
from .catalogue import listed
from .classic import GRUCell
from .gated import GatedCell
from .options import number


def spike(u: Tensor, dampening: float) -> Tensor:
    """1 where u > 0, else 0, with the gradient `dampening * max(0, 1 - |u|)` (Bellec et al., 2018).

    >>> import tinygrad_rnn as tg
    >>> u = tg.tensor([-2.0, -0.5, 0.25], requires_grad=True)
    >>> spike(u, 0.4).sum().backward()
    >>> spike(u, 0.4).tolist(), u.grad
    ([0.0, 0.0, 1.0], tensor([0. , 0.2, 0.3]))
    """
    near = clamp(u, -1, 1)
    return straight_through(u > 0, dampening * (near - 0.5 * near * magnitude(near)))


class SpikingCell(GatedCell):
    """What cells of spiking units share: a potential that leaks, and a threshold. See `LIFCell` for arguments."""

    gates = "i"
    others: Tensor  # 0 on the diagonal: no unit reads itself

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = False, tau: float = 20.0, threshold: float = 0.03,
        dampening: float = 0.3, *, dtype: Any = None,
    ) -> None:  # fmt: skip
        self.tau, self.threshold, self.dampening = tau, threshold, dampening
        number(self, tau=tau, threshold=threshold)
        number(self, "at least 0", dampening=dampening)
        others = 1 - np.eye(hidden_size, dtype=np.float32 if dtype is None else dtype)
        self.register_buffer("others", Tensor(others), persistent=False)
        super().__init__(input_size, hidden_size, bias, dtype=dtype)

    def reset_parameters(self) -> None:
        """Draw weights anew from N(0, 1 / I) and N(0, 1 / H); a bias starts at zero."""
        self._refuse_computed()
        for weight in (self.weight_ih, self.weight_hh):
            init.normal_(weight, 0, 1 / math.sqrt(max(weight.shape[1], 1)))
        if self.bias is not None:
            init.zeros_(self.bias)

    def potential(self, x: Tensor, z: Tensor, v: Tensor) -> Tensor:
        """Where it leaks to: less what it spent on a spike, more by what flows in."""
        keeps = math.exp(-1 / self.tau)
        i = linear(x, self.weight_ih, self.bias) + linear(self.masked(z), self.weight_hh * self.others)
        return keeps * v + (1 - keeps) * self.candidate(i) - self.threshold * z

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, tau={self.tau:g}, threshold={self.threshold:g}"


@listed("v' = a v + (1-a) (W x + U z) - threshold z, z' = v' > threshold", "Bellec et al., 2018")
class LIFCell(SpikingCell):
    """Leaky integrate-and-fire units, which send spikes and learn by a surrogate gradient (Bellec et al., 2018).

        >>> import tinygrad_rnn as tg
        >>> z, v = tg.nn.cells.LIFCell(3, 4)(tg.ones(5, 3))
        >>> z.shape, bool(((z == 0) | (z == 1)).all()), bool(((v > 0.03) == (z == 1)).all())
        ((5, 4), True, True)

        v' = a * v + (1 - a) * (W_ih x + W_hh z + b) - threshold * z,    a = exp(-1 / tau)
        z' = 1 where v' > threshold, else 0

    z is the output. A potential v leaks to 0 within tau steps; a spike costs it the threshold, one step later. Where
    gradients are asked for, z' has that of `dampening * max(0, 1 - |v' / threshold - 1|)`, which is no derivative, and
    so finite differences do not agree: see `tg.straight_through`. No unit reads its own spikes: the diagonal of W_hh
    counts as 0. Weights start from N(0, 1 / I) and N(0, 1 / H). Recurrent dropout drops what flows in.

    These are the equations and the numbers of the authors' later code (IGITUGraz/eligibility_propagation, `LightLIF`;
    the threshold is that of its `LightALIF`, 0.03, where `LightLIF` has 0.615).
    That of the paper (IGITUGraz/LSNN-official) compares the OLD v with the threshold, so that spikes come a step later,
    and has delays and refractory times.

    Args:
        bias: whether there is b; the authors have none.
        tau: of the potential, in steps.
        threshold: from which units spike.
        dampening: of the gradient.

    Raises:
        ValueError: tau or the threshold is not positive, or the dampening is negative.
    """

    def step(self, x: Tensor, z: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        v = self.potential(x, z, v)
        z = spike((v - self.threshold) / self.threshold, self.dampening)
        return z, v


@listed("LIF; b' = r b + (1-r) z, z' = v' > threshold + beta b'", "Bellec et al., 2018")
class ALIFCell(SpikingCell):
    """Spiking units that tire: each spike raises the unit's threshold, for long (Bellec et al., 2018).

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.cells.ALIFCell(3, 4, tau_adaptation=100)
        >>> z, v, b = cell(tg.ones(5, 3))
        >>> [state.shape for state in cell(tg.ones(5, 3), (z, v, b))]
        [(5, 4), (5, 4), (5, 4)]

        b' = r * b + (1 - r) * z,    r = exp(-1 / tau_adaptation)
        v' = a * v + (1 - a) * (W_ih x + W_hh z + b_i) - threshold * z,    a = exp(-1 / tau)
        z' = 1 where v' > threshold + beta * b', else 0

    b remembers over hundreds of steps who has spiked, where v forgets within tens. The surrogate gradient is that of
    `LIFCell`, with the raised threshold in the place of the other, and it flows through both: `dampening * max(0, 1 -
    |v' / (threshold + beta b') - 1|)`. The equations are those of the authors' later code again (`LightALIF`), in which
    a spike costs v the threshold without b; in the paper it costs the raised one.

    Args:
        tau_adaptation: of the threshold, in steps: about as long as something is to be remembered.
        beta: how far b raises the threshold.

    Raises:
        ValueError: tau, tau_adaptation or the threshold is not positive, or beta or the dampening is negative.
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = False, tau: float = 20.0, threshold: float = 0.03,
        dampening: float = 0.3, tau_adaptation: float = 200.0, beta: float = 1.6, *, dtype: Any = None,
    ) -> None:  # fmt: skip
        self.tau_adaptation, self.beta = tau_adaptation, beta
        number(self, tau_adaptation=tau_adaptation)
        number(self, "at least 0", beta=beta)
        super().__init__(input_size, hidden_size, bias, tau, threshold, dampening, dtype=dtype)

    def step(self, x: Tensor, z: Tensor, v: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        keeps = math.exp(-1 / self.tau_adaptation)
        v = self.potential(x, z, v)
        b = keeps * b + (1 - keeps) * z
        threshold = self.threshold + self.beta * b
        z = spike((v - threshold) / threshold, self.dampening)
        return z, v, b

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, tau_adaptation={self.tau_adaptation:g}, beta={self.beta:g}"


def signs(weight: Tensor, gates: int) -> Tensor:
    """The mean magnitude of each gate's matrix with the sign of each weight, +1 for 0; its gradient is the weight's.

    >>> import tinygrad_rnn as tg
    >>> W = tg.tensor([[0.5, -1.5], [0.0, 8.0]], requires_grad=True)
    >>> signs(W, 2)  # two gates, of one row each
    tensor([[ 1., -1.],
            [ 4.,  4.]], grad_fn=cat)
    """
    sizes = [magnitude(W).mean() for W in chunk(weight, gates)]
    return cat([straight_through(where(W >= 0, s, -s), W) for W, s in zip(chunk(weight, gates), sizes)])


@listed("GRU with W = mean |W| sign(W), U likewise", "Hou et al., 2017")
class BinaryGRUCell(GRUCell):
    """A GRU of whose weights only signs and a scale for each matrix are used (Hou, Yao and Kwok, 2017).

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.cells.BinaryGRUCell(3, 4)
        >>> cell(tg.ones(5, 3)).shape, cell.weight_hh.shape
        ((5, 4), (12, 4))

        W_b = mean |W| * sign(W)    for each of W_ir, W_iz, W_in, W_hr, W_hz, W_hn
        r = sigmoid(W_b,ir x + b_ir + W_b,hr h + b_hr)
        z = sigmoid(W_b,iz x + b_iz + W_b,hz h + b_hz)
        n = tanh(W_b,in x + b_in + r * (W_b,hn h + b_hn))
        h' = (1 - z) * n + z * h

    Weights are learned in full: the gradient of W_b goes to W unchanged (straight-through), so that small steps add up
    until a sign turns. For use, a bit each and six scales are enough. The authors binarise an LSTM's matrices one by
    one, as here; this is their case of equal curvatures, the binary-weight network of Rastegari et al. (2016), with 0
    counted as positive, as their code (houlu369/Loss-aware-Binarization) does. They also keep weights in [-1, 1] after
    each update, as Courbariaux et al. (2016) do; that is for who updates them. Biases are not binarised.
    """

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        W, U = signs(self.weight_ih, 3), signs(self.weight_hh, 3)
        x_r, x_z, x_n = chunk(linear(x, W, self.bias_ih), 3, -1)
        h_r, h_z, h_n = chunk(linear(self.masked(h), U, self.bias_hh), 3, -1)
        r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
        n = self.candidate(tanh(x_n + r * h_n))
        return (1 - z) * n + z * h
