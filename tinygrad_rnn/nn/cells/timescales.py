"""Cells of which a part is slow on purpose."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...autograd.creation import zeros
from ...autograd.pointwise import eq, floor, sigmoid, tanh, where
from ...autograd.shapes import cat, split
from ...autograd.tensor import Tensor
from .. import init
from ..cell import Cell
from ..functional import linear
from ..layers import empty
from .catalogue import listed
from .gated import GatedCell
from .options import number, refuse, whole


@listed("s' = 0.05 B x + 0.95 s, h' = sigmoid(P s' + A x + R h)", "Mikolov et al., 2014")
class SCRNCell(Cell):
    """The structurally constrained network: a simple cell beside a context that drifts slowly (Mikolov et al., 2014).

        >>> import tinygrad_rnn as tg
        >>> tg.nn.cells.SCRNCell(3, 4, context_size=2)(tg.ones(5, 3)).shape  # both parts side by side
        (5, 6)

        s' = (1 - alpha) * B x + alpha * s
        h' = sigmoid(P s' + A x + R h)

    The paper's output layer sees both, so that the state, and the output, is [h, s], of H + C numbers: a
    `Linear(H + C, ...)` after it is the paper's `U h + V s`.

    Args:
        context_size: C, the number of slow units.
        alpha: how slow they are.

    Attributes:
        weight_A, weight_B: [H, I] and [C, I].
        weight_P, weight_R: [H, C] and [H, H].
    """

    def __init__(
        self, input_size: int, hidden_size: int, context_size: int = 40, alpha: float = 0.95, *, dtype: Any = None
    ) -> None:
        number(self, "between 0 and 1", alpha=alpha)
        whole(self, least=0, context_size=context_size)
        self.input_size: int = input_size
        self.hidden_size, self.context_size, self.alpha = hidden_size, context_size, alpha
        self.weight_A = empty(hidden_size, input_size, dtype=dtype)
        self.weight_B = empty(context_size, input_size, dtype=dtype)
        self.weight_P = empty(hidden_size, context_size, dtype=dtype)
        self.weight_R = empty(hidden_size, hidden_size, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew from U(-1 / sqrt(H), 1 / sqrt(H))."""
        self._refuse_computed()
        bound = 1 / math.sqrt(self.hidden_size) if self.hidden_size else 0.0
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def initial_state(self, batch_size: int) -> Tensor:
        """Zeros, [B, H + C]."""
        return zeros(batch_size, self.hidden_size + self.context_size, dtype=self.weight_A.dtype)

    def step(self, x: Tensor, hs: Tensor) -> Tensor:
        widths = [self.hidden_size, self.context_size]
        h, s = split(self.masked(hs), widths, -1)[0], split(hs, widths, -1)[1]
        s = (1 - self.alpha) * self.candidate(linear(x, self.weight_B)) + self.alpha * s
        h = sigmoid(linear(s, self.weight_P) + linear(x, self.weight_A) + linear(h, self.weight_R))
        return cat([h, s], -1)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, context_size={self.context_size}, alpha={self.alpha}"


@listed(
    "h' = tanh(W x + U h + b) where the period divides t",
    "Koutnik et al., 2014",
    lambda I, H: ClockworkRNNCell(I, H, periods=(1, 2, 4, 8)[: max(H, 1)]),  # a unit each, at least
)
class ClockworkRNNCell(GatedCell):
    """The clockwork RNN: modules of a simple cell that tick at different rates (Koutnik et al., 2014).

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.cells.ClockworkRNNCell(3, 4, periods=(1, 2))
        >>> h, clock = cell(tg.ones(5, 3))
        >>> h.shape, clock[0].item()
        ((5, 4), 1.0)

        h' = tanh(W_ih x + W_hh h + b) in modules whose period divides the clock, else h
        clock' = clock + 1

    A module sees those of its own period and of longer ones: W_hh is upper triangular in blocks. All modules tick at
    the first step, as the clock starts at 0. It is a state [B, 1], so that a sequence can be cut in pieces. All
    parameters start from N(0, 0.1^2).

    Args:
        periods: one for each module, rising; the modules share the H units as equally as they can be shared.

    Attributes:
        weight_hh: [H, H], of which only the blocks on and above the diagonal are read; the others start as zeros.
    """

    gates = "h"
    period: Tensor  # of each unit
    seen: Tensor  # 1 where the unit of the row sees that of the column

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        periods: Sequence[int] = (1, 2, 4, 8),
        *,
        dtype: Any = None,
    ) -> None:
        self.periods = tuple(periods)
        for each in self.periods:
            number(self, "finite", periods=each)
        rising = all(a < b for a, b in zip(self.periods, self.periods[1:]))
        if not self.periods or self.periods[0] < 1 or not rising:
            refuse(self, "periods", "positive and rise", self.periods)
        if len(self.periods) > hidden_size:
            raise ValueError(
                f"ClockworkRNNCell: {len(self.periods)} modules cannot share {hidden_size} units: give fewer periods"
            )
        sizes = [len(part) for part in np.array_split(range(hidden_size), len(self.periods))]
        period = np.repeat(np.array(self.periods, np.float32 if dtype is None else dtype), sizes)
        self.register_buffer("period", Tensor(period), persistent=False)
        self.register_buffer("seen", Tensor((period[:, None] <= period).astype(period.dtype)), persistent=False)
        super().__init__(input_size, hidden_size, bias, dtype=dtype)

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        self._refuse_computed()
        for parameter in self.parameters():
            init.normal_(parameter, 0, 0.1)
        self.weight_hh.numpy()[...] *= self.seen.numpy()

    def initial_state(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """Zeros; the clock stands at 0."""
        dtype = self.weight_ih.dtype
        return zeros(batch_size, self.hidden_size, dtype=dtype), zeros(batch_size, 1, dtype=dtype)

    def step(self, x: Tensor, h: Tensor, clock: Tensor) -> tuple[Tensor, Tensor]:
        n = tanh(linear(x, self.weight_ih, self.bias) + linear(self.masked(h), self.weight_hh * self.seen))
        ticks = eq(floor(clock / self.period) * self.period, clock)
        h = where(ticks, self.candidate(n), h)
        return h, clock + 1

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, periods={self.periods}"
