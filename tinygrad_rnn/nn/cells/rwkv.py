"""RWKV: attention whose weights fade, as a recurrence."""

import math
from typing import Any

import numpy as np

from ...autograd.creation import full, zeros
from ...autograd.pointwise import exp, maximum, sigmoid
from ...autograd.shapes import cat, chunk
from ...autograd.tensor import Tensor
from .. import init
from ..cell import Cell
from ..functional import linear
from ..layers import empty
from ..module import Parameter
from .catalogue import listed


@listed("h' = r sum_s e^(k_s - w (t - s)) v_s / sum_s e^(...)", "Peng et al., 2023", recurrent=False)
class RWKVCell(Cell):
    """The time mixing of RWKV-4: a mean of all values so far, weighted by keys that fade (Peng et al., 2023).

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.cells.RWKVCell(3, 4)
        >>> cell.state_names
        ('h', 'a', 'b', 'p', 'shifted')

        k = W_k (mix_k * x[t] + (1 - mix_k) * x[t - 1]),  v and r the same
        m = max(p, u + k)                                            keeps all exponentials at most 1
        h' = sigmoid(r) * (exp(p - m) * a + exp(u + k - m) * v) / (exp(p - m) * b + exp(u + k - m))
        p' = max(p - exp(decay), k)
        a' = exp(p - exp(decay) - p') * a + exp(k - p') * v
        b' = exp(p - exp(decay) - p') * b + exp(k - p')

    a and b are the sums of the mean, times exp(-p): p is there for the numbers alone, and starts so low that the first
    h' is sigmoid(r) * v. u, the bonus, takes the place of the fading for the present step. Before the first step x is
    zero. What a step hands to the next one is not x but its share of k, v and r, a state [B, 3H], so that no product is
    left inside the loop over time. The block around it is left out: layer norm, W_o (a `Linear` after the cell), and
    the channel mixing. All starts as in its author's code for a first layer: W_k and W_r at zeros, W_v orthogonal, u at
    log 0.3 and half more or less by turns, mix from 0 to 1, decay from -4 (-5 there: twice as slow again) to 3.

    Attributes:
        weight_k, weight_v, weight_r: [H, I].
        mix_k, mix_v, mix_r: the share of the present input, [I].
        decay: the logarithm of what is lost of a key at each step, [H].
        u: what is added to the present key, [H].
    """

    weight_k: Parameter
    weight_v: Parameter
    weight_r: Parameter
    mix_k: Parameter
    mix_v: Parameter
    mix_r: Parameter

    def __init__(self, input_size: int, hidden_size: int, *, dtype: Any = None) -> None:
        self.input_size: int = input_size
        self.hidden_size = hidden_size
        for letter in "kvr":
            setattr(self, f"weight_{letter}", empty(hidden_size, input_size, dtype=dtype))
            setattr(self, f"mix_{letter}", empty(input_size, dtype=dtype))
        self.decay = empty(hidden_size, dtype=dtype)
        self.u = empty(hidden_size, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw W_v anew, and set all others back."""
        self._refuse_computed()
        I, H = self.input_size, self.hidden_size
        init.zeros_(self.weight_k)
        init.zeros_(self.weight_r)
        init.orthogonal_(self.weight_v, max(1.0, math.sqrt(H / I)) if I else 1.0)
        place = np.arange(I) / max(I, 1)
        for mix, power in ((self.mix_k, 1.0), (self.mix_v, 1.0), (self.mix_r, 0.5)):
            init.zeros_(mix).numpy()[...] += (place**power).astype(mix.dtype)
        rise = (np.arange(H) / max(H - 1, 1)) ** 0.7
        init.zeros_(self.decay).numpy()[...] += np.maximum(8 * rise - 5, -4).astype(self.decay.dtype)
        zigzag = 0.5 * ((np.arange(H) + 1) % 3 - 1)
        init.constant_(self.u, math.log(0.3)).numpy()[...] += zigzag.astype(self.u.dtype)

    def initial_state(self, batch_size: int) -> tuple[Tensor, ...]:
        """Zeros: nothing to remember, no input before the first. p is as good as minus infinity."""
        shape, dtype = (batch_size, self.hidden_size), self.decay.dtype
        return (
            *(zeros(*shape, dtype=dtype) for _ in "hab"),
            full(shape, -1e30, dtype),
            zeros(batch_size, 3 * self.hidden_size, dtype=dtype),
        )

    def step(self, x: Tensor, h: Tensor, a: Tensor, b: Tensor, p: Tensor, shifted: Tensor) -> tuple[Tensor, ...]:
        W = cat([self.weight_k, self.weight_v, self.weight_r])
        W_now = cat([self.weight_k * self.mix_k, self.weight_v * self.mix_v, self.weight_r * self.mix_r])
        k, v, r = chunk(linear(x, W_now) + shifted, 3, -1)
        v = self.candidate(v)

        now = self.u + k
        m = maximum(p, now)
        old, new = exp(p - m), exp(now - m)
        h = sigmoid(r) * (old * a + new * v) / (old * b + new)

        faded = p - exp(self.decay)
        p = maximum(faded, k)
        old, new = exp(faded - p), exp(k - p)
        return h, old * a + new * v, old * b + new, p, linear(x, W - W_now)

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}"
