"""Cells of elapsed time: how long it was since the step before is a second input, `layer((x, elapsed))`.

elapsed [T, B, 1] stands beside x [T, B, I], in whichever direction a layer reads: one that reads from the end wants the
time to the step after in its place. Without it each step takes 1. Layers, stacks, single steps, lengths and recordings
take both inputs; what asks a cell for one x, such as `VariationalDropout(input=...)`, refuses two.
"""

import math
from typing import Any

import numpy as np

from ...autograd.creation import zeros
from ...autograd.pointwise import abs, exp, floor, le, sigmoid, softplus, tanh, where
from ...autograd.shapes import chunk, unsqueeze
from ...autograd.tensor import Tensor
from .. import init
from ..cell import Cell
from ..functional import linear
from ..layers import Linear, empty
from ..module import Parameter
from .catalogue import listed
from .lstm_variants import PeepholeLSTMCell
from .options import number, refuse, whole, word

ONE = 1.0  # unit of time, which a step takes where nobody says how long


def with_time(cell: Cell, x: Any) -> tuple[Tensor, Any]:
    """What arrives at a step, and the time since the step before: [B, 1], or 1 where x comes alone.

    Raises:
        ValueError: it is not two inputs, or one of them has another width.
    """
    if not isinstance(x, tuple):
        return x, ONE
    name, shapes = type(cell).__name__, [list(each.shape) for each in x]
    if len(x) != 2 or shapes[1][-1] != 1:
        raise ValueError(f"{name}: expected x, or (x, elapsed) with elapsed [B, 1]; got {len(x)} inputs, {shapes}")
    if shapes[0][-1] != cell.input_size:
        raise ValueError(f"{name}: expected inputs of {cell.input_size} features, got {shapes[0][-1]}")
    return x


@listed("h' = (1 - t) f + t g, t = sigmoid(a elapsed + b)", "Hasani et al., 2022")
class CfCCell(Cell):
    """CfC: a liquid cell in closed form, a gate of time between two targets (Hasani et al., 2022).

        >>> import tinygrad_rnn as tg
        >>> layer = tg.nn.Recurrent(tg.nn.cells.CfCCell(3, 4))
        >>> y, h = layer((tg.ones(7, 5, 3), tg.rand(7, 5, 1)))  # each step with the time since the one before
        >>> y.shape, layer(tg.ones(7, 5, 3))[0].shape  # without one, each step takes 1
        ((7, 5, 4), (7, 5, 4))

        s = backbone(x, h)                                   layers of 1.7159 tanh(0.666 (W s + b))
        f, g, a, b = W s + b
        t = sigmoid(a elapsed + b)
        h' = (1 - t) * tanh(f) + t * tanh(g)                 mode="default"
        h' = tanh(f) + t * tanh(g)                           mode="no_gate"
        h' = A - A exp(-elapsed (|w| + |f|)) f               mode="pure", the solution itself, which has f alone

    Signs are those of the authors' code (mlech26l/ncps): in the paper t is the sigmoid of -a elapsed. Weights start
    from Xavier's uniform distribution, w and A among them, biases as those of `Linear`. That is what the PyTorch code
    does; in the others w is 0 and A is 1 at first, and as the slope of |w| is 0 there, w stays at 0.

    Shapes: x [B, I], or (x, elapsed) with elapsed [B, 1]; h [B, H].

    Args:
        units: U, the width of each layer of the backbone.
        layers: how many it has; without one f, g, a and b see x and h themselves.
        mode: "default", "no_gate" or "pure".

    Raises:
        ValueError: there is no such mode, or units or layers are no possible number; when called, x or elapsed is of
            another width.

    Attributes:
        weight_ih, weight_hh: what sees x and h: the first layer of the backbone, [U, I] and [U, H], or the heads.
        bias: its bias, [U] or that of the heads, or None.
        backbone: further layers, a list.
        heads: f, g, a and b (f alone if pure), 4H rows or H; None where weight_ih and weight_hh are theirs.
        weight_tau, weight_A: w and A, [H], if pure.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        units: int = 128,
        layers: int = 1,
        mode: str = "default",
        *,
        dtype: Any = None,
    ) -> None:
        word(self, "default", "no_gate", "pure", mode=mode)
        whole(self, units=units)
        whole(self, least=0, layers=layers)
        self.input_size: int = input_size
        self.hidden_size, self.units, self.layers, self.mode = hidden_size, units, layers, mode
        rows = hidden_size * (1 if mode == "pure" else 4)
        first = units if layers else rows
        self.weight_ih = empty(first, input_size, dtype=dtype)
        self.weight_hh = empty(first, hidden_size, dtype=dtype)
        self.bias = empty(first, dtype=dtype) if bias else None
        self.backbone = [Linear(units, units, bias, dtype=dtype) for _ in range(layers - 1)]
        self.heads = Linear(units, rows, bias, dtype=dtype) if layers else None
        if mode == "pure":
            self.weight_tau, self.weight_A = empty(hidden_size, dtype=dtype), empty(hidden_size, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        self._refuse_computed()
        width, H = self.input_size + self.hidden_size, self.hidden_size
        for layer in [*self.backbone, *([self.heads] if self.heads else [])]:
            layer.reset_parameters()  # for the biases
            _xavier(layer.weight, self.units, H if layer is self.heads else self.units)
        for weight in (self.weight_ih, self.weight_hh):
            _xavier(weight, width, self.units if self.layers else H)
        if self.bias is not None:
            bound = 1 / math.sqrt(width) if width else 0.0
            init.uniform_(self.bias, -bound, bound)
        if self.mode == "pure":
            for weight in (self.weight_tau, self.weight_A):
                _xavier(weight, H, 1)  # rows of one there

    def step(self, x: Any, h: Tensor) -> Tensor:
        x, elapsed = with_time(self, x)
        s = linear(x, self.weight_ih, self.bias) + linear(h, self.weight_hh)
        for layer in [*self.backbone, *([self.heads] if self.heads else [])]:
            s = layer(1.7159 * tanh(0.666 * s))
        if self.mode == "pure":
            A = self.weight_A
            return A - A * exp(-elapsed * (abs(self.weight_tau) + abs(s))) * s
        f, g, *rate = chunk(s, 4, -1)
        t = sigmoid(rate[0] * elapsed + rate[1])
        return (1 - t if self.mode == "default" else 1) * tanh(f) + t * tanh(g)

    def extra_repr(self) -> str:
        bias = "" if self.bias is not None else ", bias=False"
        mode = "" if self.mode == "default" else f", mode={self.mode!r}"
        return f"{self.input_size}, {self.hidden_size}{bias}, units={self.units}, layers={self.layers}{mode}"


def _xavier(weight: Tensor, fan_in: int, fan_out: int) -> None:
    bound = math.sqrt(6 / max(fan_in + fan_out, 1))
    init.uniform_(weight, -bound, bound)


@listed("c dv/dt = g (E_leak - v) + sum w sigmoid(...) (E - v)", "Hasani et al., 2021")
class LTCCell(Cell):
    """LTC: neurons of which synapses change the time constants, a "liquid" cell (Hasani et al., 2021).

        >>> import tinygrad_rnn as tg
        >>> layer = tg.nn.Recurrent(tg.nn.cells.LTCCell(3, 4))
        >>> y, v = layer((tg.ones(7, 5, 3), tg.rand(7, 5, 1)))  # each step with the time since the one before
        >>> y.shape, layer(tg.ones(7, 5, 3))[0].shape  # without one, each step takes 1
        ((7, 5, 4), (7, 5, 4))

        c dv_j/dt = g_j (e_j - v_j) + sum_i G_ij(v_i) (E_ij - v_j) + sum_k S_kj(x_k) (F_kj - v_j)
        G_ij(v_i) = w_ij sigmoid(sigma_ij (v_i - mu_ij)), and S alike of a x + b

    It is solved in `unfolds` steps of dt = elapsed / unfolds, each of which takes the slopes of conductances as they
    stand and v as it will be (the paper's fused solver):

        v' = (c v + dt (g e + sum G E + sum S F)) / (c + dt (g + sum G + sum S))

    As in the authors' code (mlech26l/ncps): c, g and both w go through softplus, 1e-8 is added to the sum of
    conductances, and all are drawn from there: g and w from U(0.001, 1), e from U(-0.2, 0.2), c from U(0.4, 0.6), sigma
    from U(3, 8), mu from U(0.3, 0.8); E and F are -1 with probability 1/3, else 1; a is 1, b is 0. All neurons are
    connected and all are outputs, without the code's affine map of them: a `Linear` is one. Both sides of the fraction
    are multiplied by dt here, so that no time (elapsed 0) changes nothing.

    Shapes: x [B, I], or (x, elapsed) with elapsed [B, 1]; v [B, H].

    Args:
        bias: whether there is b.
        unfolds: how many steps of the solver one of the cell has.

    Raises:
        ValueError: unfolds is not positive; when called, x or elapsed is of another width.

    Attributes:
        gleak, vleak, cm: g, e and c, [H].
        w, mu, sigma, erev: of the synapses between neurons, E the last, [H, H]: from the row's to the column's.
        sensory_w, sensory_mu, sensory_sigma, sensory_erev: of those from inputs, F the last, [I, H].
        weight_x, bias_x: a and b, [I].
        ranges: from which those of the synapses are drawn.
    """

    gleak: Parameter
    vleak: Parameter
    cm: Parameter
    ranges = {"w": (0.001, 1.0), "mu": (0.3, 0.8), "sigma": (3.0, 8.0), "erev": (0.0, 1.0)}

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, unfolds: int = 6, *, dtype: Any = None
    ) -> None:
        whole(self, unfolds=unfolds)
        self.input_size: int = input_size
        self.hidden_size, self.unfolds = hidden_size, unfolds
        for name in ("gleak", "vleak", "cm"):
            setattr(self, name, empty(hidden_size, dtype=dtype))
        for prefix, rows in (("", hidden_size), ("sensory_", input_size)):
            for name in self.ranges:
                setattr(self, prefix + name, empty(rows, hidden_size, dtype=dtype))
        self.weight_x = empty(input_size, dtype=dtype)
        self.bias_x = empty(input_size, dtype=dtype) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        self._refuse_computed()
        ranges = {"gleak": (0.001, 1.0), "vleak": (-0.2, 0.2), "cm": (0.4, 0.6), "weight_x": (1, 1), "bias_x": (0, 0)}
        for name, parameter in self.named_parameters():
            low, high = {**ranges, **self.ranges}[name.removeprefix("sensory_")]
            init.uniform_(parameter, low, high)
            if name.endswith("erev"):
                drawn = parameter.numpy()
                drawn[...] = (drawn >= 1 / 3) * 2 - 1

    def _synapses(self, v: Tensor, kind: str) -> tuple[Tensor, Tensor]:
        """What comes through those of a kind: the sums of conductances times potentials, and of conductances."""
        w, mu, sigma, E = (getattr(self, kind + name) for name in ("w", "mu", "sigma", "erev"))
        G = softplus(w) * sigmoid(sigma * (unsqueeze(v, -1) - mu))  # [B, from, to]
        return (G * E).sum(-2), G.sum(-2)

    def step(self, x: Any, v: Tensor) -> Tensor:
        x, elapsed = with_time(self, x)
        x = x * self.weight_x if self.bias_x is None else x * self.weight_x + self.bias_x
        SF, S = self._synapses(x, "sensory_")
        c, g, dt = softplus(self.cm), softplus(self.gleak), elapsed / self.unfolds
        for _ in range(self.unfolds):
            GE, G = self._synapses(self.masked(v), "")
            v = (c * v + dt * (g * self.vleak + GE + SF)) / (c + dt * (g + G + S + 1e-8))
        return v

    def extra_repr(self) -> str:
        bias = "" if self.bias_x is not None else ", bias=False"
        return f"{self.input_size}, {self.hidden_size}{bias}, unfolds={self.unfolds}"


@listed(
    "c' = k (f c + i g) + (1 - k) c, k open for a part of a period",
    "Neil et al., 2016",
    lambda I, H: PhasedLSTMCell(I, H, periods=(0.0, 3.0), ratio=0.5),  # for steps of 1: else few would ever open
)
class PhasedLSTMCell(PeepholeLSTMCell):
    """The Phased LSTM: an oscillating gate of time opens each unit for a short part of its period (Neil et al., 2016).

        >>> import tinygrad_rnn as tg
        >>> layer = tg.nn.Recurrent(tg.nn.cells.PhasedLSTMCell(3, 4))
        >>> y, (h, c, time) = layer((tg.ones(7, 5, 3), tg.full((7, 5, 1), 0.5)))  # time since the step before
        >>> y.shape, time[0].item()
        ((7, 5, 4), 3.5)

        time' = time + elapsed
        phi = ((time' + s) mod |tau|) / |tau|
        k = 2 phi / r  where phi <= r / 2,  2 - 2 phi / r  where phi <= r,  else leak * phi
        h', c' = k * lstm(x, h, c) + (1 - k) * (h, c)

    The LSTM inside is `PeepholeLSTMCell`, whose output gate sees the memory before k mixes it. Time is a state [B, 1]
    that starts at 0: for time stamps, elapsed is their differences, the first one that of the first step. Without
    elapsed, each step takes 1. The leak is for training; in evaluation closed is closed. A phase has as many digits
    less as time / tau has before the point: of a float32 cell's seven, few are left after millions of periods.

    As in the authors' code (dannyneil/public_plstm): all weights, peepholes included, start from N(0, 0.1^2), the bias
    of f at 2, the others at 0, and r is not learned. Periods start as in the paper, exp(U(a, b)), and s from U(0, tau).
    The defaults suit long recordings with many steps in a period. Where steps take 1, as in sequences without times,
    let units be open for longer: the list's cell has periods=(0, 3) and ratio=0.5.

    Shapes: x [B, I], or (x, elapsed) with elapsed [B, 1]; h and c [B, H], time [B, 1].

    Args:
        periods: a and b, the logarithms of the shortest and of the longest period; (0, 8) by default.
        ratio: r, the part of its period for which a unit is open.
        leak: the slope of what gets through a closed gate in training.

    Raises:
        ValueError: periods are not two numbers or fall, ratio is not in (0, 1], or leak is negative; when called, x or
            elapsed is of another width.

    Attributes:
        weight_ih, weight_hh, bias, peephole: as of `PeepholeLSTMCell`.
        period, shift: tau and s, [H].
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        periods: tuple[float, float] = (0.0, 8.0),
        ratio: float = 0.05,
        leak: float = 0.001,
        *,
        dtype: Any = None,
    ) -> None:
        number(self, "above 0 and at most 1", ratio=ratio)
        number(self, "at least 0", leak=leak)
        pair: Any = periods  # whatever was given
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            refuse(self, "periods", "two logarithms", pair)
        for logarithm in pair:
            number(self, "finite", periods=logarithm)
        if periods[0] > periods[1]:
            raise ValueError(f"PhasedLSTMCell: periods must not fall, as {periods} do")
        self.periods, self.ratio, self.leak = (float(periods[0]), float(periods[1])), ratio, leak
        self.period, self.shift = empty(hidden_size, dtype=dtype), empty(hidden_size, dtype=dtype)
        super().__init__(input_size, hidden_size, bias, dtype=dtype)

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        self._refuse_computed()
        for parameter in self.parameters():
            init.normal_(parameter, 0, 0.1)
        if self.bias is not None:
            init.zeros_(self.bias).numpy()[self.hidden_size : 2 * self.hidden_size] = 2
        init.uniform_(self.period, *self.periods)
        self.period.numpy()[...] = np.exp(self.period.numpy())
        init.uniform_(self.shift).numpy()[...] *= self.period.numpy()

    def initial_state(self, batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Zeros; no time has passed."""
        shapes, dtype = [self.hidden_size, self.hidden_size, 1], self.weight_ih.dtype
        h, c, time = (zeros(batch_size, n, dtype=dtype) for n in shapes)
        return h, c, time

    def step(self, x: Any, h: Tensor, c: Tensor, time: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        x, elapsed = with_time(self, x)
        time = time + elapsed
        k = self.openness(time)
        h_new, c_new = super().step(x, h, c)
        return k * h_new + (1 - k) * h, k * c_new + (1 - k) * c, time

    def openness(self, time: Tensor) -> Tensor:
        """k at a time [B, 1]."""
        turns = (time + self.shift) / abs(self.period)
        phi, r = turns - floor(turns), self.ratio
        closed = self.leak * phi if self.training else 0 * phi
        return where(le(phi, r / 2), 2 * phi / r, where(le(phi, r), 2 - 2 * phi / r, closed))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, periods={self.periods}, ratio={self.ratio}, leak={self.leak}"
