"""State space models: differential equations of many numbers for each channel, solved for a step of time."""

import math
from typing import Any

import numpy as np

from ...autograd.creation import generator, zeros
from ...autograd.pointwise import cos, exp, expm1, silu, sin, softplus
from ...autograd.products import einsum
from ...autograd.shapes import cat, chunk, split
from ...autograd.tensor import Tensor
from .. import init
from ..cell import Cell
from ..functional import linear
from ..layers import empty
from ..module import Parameter
from .catalogue import listed
from .options import refuse, whole


def _steps(number: int, low: float, high: float) -> np.ndarray:
    """Lengths of a step, uniform in their logarithm."""
    return np.exp(generator().uniform(math.log(low), math.log(high), number))


@listed("s' = exp(A dt) s + (exp(A dt) - 1) / A u, h' = 2 Re C s'", "Gu et al., 2022", recurrent=False)
class S4DCell(Cell):
    """S4D: N / 2 damped oscillations for each channel, which see nothing of each other (Gu et al., 2022).

        >>> import tinygrad_rnn as tg
        >>> h, re, im = tg.nn.cells.S4DCell(3, 4, state_size=16)(tg.ones(5, 3))
        >>> h.shape, re.shape, im.shape
        ((5, 4), (5, 4, 8), (5, 4, 8))

        u = W_ih x + b                          the channels
        s' = exp(A dt) s + (exp(A dt) - 1) / A u
        h' = 2 Re sum_n C_n s'_n + D u

    Complex numbers are held as two: s = re + i im, A = -exp(log_a) + i frequency. h is output alone. It is what a
    convolution with 2 Re(C (exp(A dt) - 1) / A exp(A dt k)) computes, by a zero-order hold; A is -1/2 + pi i n at first
    (S4D-Lin), dt from 0.001 to 0.1, as in the authors' code (state-spaces/s4, s4d.py), whose nonlinearity and mixing
    layer behind this are left to layers; what maps x to channels is ours.

    Args:
        state_size: N, even: N / 2 complex numbers and their conjugates, which the factor of 2 stands for.

    Attributes:
        weight_ih: [H, I].
        bias: [H], or None.
        log_dt: [H].
        log_a: [H, N / 2].
        frequency: [H, N / 2].
        C: real and imaginary parts, [2, H, N / 2].
        D: [H].

    Raises:
        ValueError: state_size is not even and positive.

    Source: Gu, Gupta, Goel, Re, "On the parameterization and initialization of diagonal state space models", 2022.
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, state_size: int = 64, *, dtype: Any = None
    ) -> None:
        whole(self, least=0, state_size=state_size)
        if state_size == 0 or state_size % 2:
            refuse(self, "state_size", "even and positive", state_size)
        self.input_size, self.hidden_size, self.state_size = input_size, hidden_size, state_size
        shape = hidden_size, state_size // 2
        self.weight_ih = empty(hidden_size, input_size, dtype=dtype)
        self.bias = empty(hidden_size, dtype=dtype) if bias else None
        self.log_dt = empty(hidden_size, dtype=dtype)
        self.log_a, self.frequency = empty(*shape, dtype=dtype), empty(*shape, dtype=dtype)
        self.C, self.D = empty(2, *shape, dtype=dtype), empty(hidden_size, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        self._refuse_computed()
        bound = 1 / math.sqrt(self.input_size) if self.input_size else 0.0
        init.uniform_(self.weight_ih, -bound, bound)
        if self.bias is not None:
            init.uniform_(self.bias, -bound, bound)
        self.log_dt.numpy()[...] = np.log(_steps(self.hidden_size, 0.001, 0.1))
        init.constant_(self.log_a, math.log(0.5))
        self.frequency.numpy()[...] = math.pi * np.arange(self.state_size // 2)
        init.trunc_normal_(self.C, 0, math.sqrt(0.5), -4, 4)
        init.trunc_normal_(self.D, 0, 1, -4, 4)

    def initial_state(self, batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
        shape, dtype = self.log_a.shape, self.log_a.dtype
        still = zeros(batch_size, *shape, dtype=dtype)
        return zeros(batch_size, self.hidden_size, dtype=dtype), still, zeros(batch_size, *shape, dtype=dtype)

    def step(self, x: Tensor, h: Tensor, re: Tensor, im: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dt, a = exp(self.log_dt)[:, None], -exp(self.log_a)
        r, w = a * dt, self.frequency * dt
        size, half = exp(r), sin(0.5 * w)
        f, g = size * cos(w), size * sin(w)  # exp(A dt) = f + i g
        e = expm1(r) * cos(w) - 2 * half * half  # f - 1, of which nothing cancels
        total = a * a + self.frequency * self.frequency
        b, c = (e * a + g * self.frequency) / total, (g * a - e * self.frequency) / total
        u = linear(x, self.weight_ih, self.bias)
        n = self.candidate(u)
        re, im = f * re - g * im + b * n[:, :, None], f * im + g * re + c * n[:, :, None]
        return 2 * (self.C[0] * re - self.C[1] * im).sum(-1) + self.D * u, re, im

    def extra_repr(self) -> str:
        said = f"{self.input_size}, {self.hidden_size}{'' if self.bias is not None else ', bias=False'}"
        return said + (f", state_size={self.state_size}" if self.state_size != 64 else "")


@listed("s' = exp(A dt) s + dt B u, h' = W_o (silu(z) (C s' + D u))", "Gu and Dao, 2023")
class MambaCell(Cell):
    """Mamba: a state space model whose steps, inputs and outputs the input decides on (Gu and Dao, 2023).

        >>> import tinygrad_rnn as tg
        >>> h, tail, s = tg.nn.cells.MambaCell(3, 4)(tg.ones(5, 3))
        >>> h.shape, tail.shape, s.shape
        ((5, 4), (5, 8, 3), (5, 8, 16))

        v, z = W_ih x                           E channels each
        u = silu(conv(tail, v) + b_conv)        over this v and those of the steps before, each channel by itself
        t, B, C = W_u u                         R, N and N numbers
        dt = softplus(W_dt t + b_dt)
        s' = exp(A dt) s + dt B u               for each channel, A = -exp(log_a)
        h' = W_ho (silu(z) * (C s' + D u))

    h is output alone. `tail` has the last channels of v. The equations are those of the authors' code
    (state-spaces/mamba, `selective_scan_ref` and the module's `step`), which has dt B where the paper's zero-order hold
    has (exp(A dt) - 1) / A B; so do starts: A is -(1 ... N), dt 0.001 to 0.1, D 1.

    Args:
        state_size: N.
        window: how many steps the convolution sees, its own among them.
        expand: E / H.
        rank: R; H / 16, rounded up, by default.

    Attributes:
        weight_ih: the rows of v and z, [2E, I].
        weight_conv: [E, window], the last column for this step.
        shift_conv: b_conv, [E].
        weight_u: the rows of t, B and C, [R + 2N, E].
        weight_dt: [E, R].
        shift_dt: b_dt, [E].
        log_a: [E, N].
        D: [E].
        weight_ho: [H, E].

    Raises:
        ValueError: an option is not positive, or window is below 2.

    Source: Gu, Dao, "Mamba: Linear-time sequence modeling with selective state spaces", 2023.
    """

    def __init__(
        self, input_size: int, hidden_size: int, state_size: int = 16, window: int = 4, expand: int = 2,
        rank: int | None = None, *, dtype: Any = None,
    ) -> None:  # fmt: skip
        rank = max(-(-hidden_size // 16), 1) if rank is None else rank
        whole(self, state_size=state_size, expand=expand, rank=rank)
        whole(self, least=2, window=window)
        self.input_size, self.hidden_size, self.state_size = input_size, hidden_size, state_size
        self.window, self.expand, self.rank, E = window, expand, rank, expand * hidden_size
        new = lambda *shape: empty(*shape, dtype=dtype)
        self.weight_ih, self.weight_ho = new(2 * E, input_size), new(hidden_size, E)
        self.weight_conv, self.shift_conv = new(E, window), new(E)
        self.weight_u = new(rank + 2 * state_size, E)
        self.weight_dt, self.shift_dt = new(E, rank), new(E)
        self.log_a, self.D = new(E, state_size), new(E)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        self._refuse_computed()

        def uniform(parameter: Parameter, size: int) -> None:
            bound = 1 / math.sqrt(size) if size else 0.0
            init.uniform_(parameter, -bound, bound)

        for parameter in (self.weight_ih, self.weight_ho, self.weight_conv, self.weight_u, self.weight_dt):
            uniform(parameter, parameter.shape[1])
        uniform(self.shift_conv, self.window)
        dt = _steps(self.shift_dt.shape[0], 0.001, 0.1)
        self.shift_dt.numpy()[...] = dt + np.log(-np.expm1(-dt))  # whose softplus it is
        self.log_a.numpy()[...] = np.log(np.arange(1, self.state_size + 1))
        init.ones_(self.D)

    def initial_state(self, batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
        E, dtype = self.D.shape[0], self.D.dtype
        shapes = ((self.hidden_size,), (E, self.window - 1), (E, self.state_size))
        h, tail, s = (zeros(batch_size, *shape, dtype=dtype) for shape in shapes)
        return h, tail, s

    def step(self, x: Tensor, h: Tensor, tail: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        v, z = chunk(linear(x, self.weight_ih), 2, -1)
        seen = cat([tail, v[:, :, None]], -1)
        u = silu((seen * self.weight_conv).sum(-1) + self.shift_conv)
        t, B, C = split(linear(u, self.weight_u), (self.rank, self.state_size, self.state_size), -1)
        dt = softplus(linear(t, self.weight_dt, self.shift_dt))
        n = self.candidate(dt * u)
        s = exp(dt[:, :, None] * -exp(self.log_a)) * s + n[:, :, None] * B[:, None, :]
        y = einsum("ben,bn->be", s, C) + self.D * u
        return linear(silu(z) * y, self.weight_ho), seen[:, :, 1:], s

    def extra_repr(self) -> str:
        rank = max(-(-self.hidden_size // 16), 1)
        options = {
            "state_size": (self.state_size, 16), "window": (self.window, 4), "expand": (self.expand, 2),
            "rank": (self.rank, rank),
        }  # fmt: skip
        said = [f"{name}={value}" for name, (value, usual) in options.items() if value != usual]
        return ", ".join([f"{self.input_size}, {self.hidden_size}", *said])
