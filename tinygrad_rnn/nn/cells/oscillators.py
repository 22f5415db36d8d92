"""Cells that are a step of a differential equation: oscillators, and a system that neither grows nor fades."""

import math
from typing import Any

from ...autograd.creation import eye
from ...autograd.pointwise import sigmoid, tanh
from ...autograd.shapes import chunk
from ...autograd.tensor import Tensor
from .. import init
from ..functional import linear
from ..layers import empty
from .catalogue import listed
from .gated import GatedCell
from .options import number


@listed("z' = z + dt (tanh(W y + U z + V x + b) - g y - e z)", "Rusch and Mishra, 2021")
class CoRNNCell(GatedCell):
    """coRNN: units are damped oscillators that drive each other (Rusch and Mishra, "Coupled oscillatory RNN", 2021).

        >>> import tinygrad_rnn as tg
        >>> y, z = tg.nn.cells.CoRNNCell(3, 4)(tg.ones(5, 3))
        >>> y.shape, z.shape
        ((5, 4), (5, 4))

        z' = z + dt (tanh(W_ih x + W_hh y + W_zh z + b) - gamma y - epsilon z)
        y' = y + dt z'

    y is the place of an oscillator, z its velocity. Both damping and force see the old z, as in the authors' code
    (tk-rusch/coRNN); the paper also has a version with the damping at z'. All parameters start from
    U(-1 / sqrt(I + 2H), 1 / sqrt(I + 2H)), those of one linear layer over x, z and y there.

    The defaults are those of the authors' sequential MNIST. They have dt 0.076, gamma 0.4, epsilon 8 for its permuted
    version, and dt 0.06, gamma 66, epsilon 15 for the adding problem. Without weights the map is stable where
    dt epsilon < 2 and dt^2 gamma < 4 - 2 dt epsilon.

    Shapes: x [B, I], y and z [B, H]; the output is y.

    Args:
        dt: the step of time.
        gamma: the stiffness, the square of a frequency.
        epsilon: the damping.

    Raises:
        ValueError: dt is not positive, or gamma or epsilon is negative.

    Attributes:
        weight_ih: V of the paper, [H, I].
        weight_hh: W, which sees y, [H, H].
        weight_zh: the other W, which sees z, [H, H].
        bias: b, [H], or None.
    """

    gates = "z"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        dt: float = 0.042,
        gamma: float = 2.7,
        epsilon: float = 4.7,
        *,
        dtype: Any = None,
    ) -> None:
        number(self, dt=dt)
        number(self, "at least 0", gamma=gamma, epsilon=epsilon)
        self.dt, self.gamma, self.epsilon = dt, gamma, epsilon
        self.weight_zh = empty(hidden_size, hidden_size, dtype=dtype)
        super().__init__(input_size, hidden_size, bias, dtype=dtype)

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        self._refuse_computed()
        width = self.input_size + 2 * self.hidden_size
        bound = 1 / math.sqrt(width) if width else 0.0
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def step(self, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        (a,) = self.preactivations(x, y)
        force = self.candidate(tanh(a + linear(z, self.weight_zh)))
        z = z + self.dt * (force - self.gamma * y - self.epsilon * z)
        y = y + self.dt * z
        return y, z

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, dt={self.dt}, gamma={self.gamma}, epsilon={self.epsilon}"


@listed("z' = z - dt s (tanh(w y + V x + b) + a y), y' = y + dt s z'", "Rusch and Mishra, 2021", recurrent=False)
class UnICORNNCell(GatedCell):
    """UnICORNN: oscillators without damping or coupling, each with a clock of its own (Rusch and Mishra, 2021).

        >>> import tinygrad_rnn as tg
        >>> y, z = tg.nn.cells.UnICORNNCell(3, 4)(tg.ones(5, 3))
        >>> y.shape, z.shape
        ((5, 4), (5, 4))

        z' = z - dt sigmoid(c) (tanh(w * y + W_ih x + b) + alpha y)
        y' = y + dt sigmoid(c) z'

    It is a symplectic Euler step of a Hamiltonian system: volume in the space of (y, z) stays the same, and a step can
    be undone. Oscillators meet in the next layer. The start is that of the authors' code (tk-rusch/unicornn): w from
    U(0, 1), c from U(-0.1, 0.1), W_ih from U(-m, m) with m = sqrt(6 / (65 I)), b at zero. The defaults are those of
    their permuted sequential MNIST.

    Shapes: x [B, I], y and z [B, H]; the output is y.

    Args:
        dt: the longest step of time.
        alpha: the stiffness that all units have in common.

    Raises:
        ValueError: dt is not positive, or alpha is negative.

    Attributes:
        weight_ih: V of the paper, [H, I].
        weight_w: w, [H].
        weight_c: c, [H].
        bias: b, [H], or None.

    Source: "UnICORNN: A recurrent model for learning very long time dependencies".
    """

    gates = "z"
    recurrent = False

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        dt: float = 0.19,
        alpha: float = 30.65,
        *,
        dtype: Any = None,
    ) -> None:
        number(self, dt=dt)
        number(self, "at least 0", alpha=alpha)
        self.dt, self.alpha = dt, alpha
        self.weight_w, self.weight_c = empty(hidden_size, dtype=dtype), empty(hidden_size, dtype=dtype)
        super().__init__(input_size, hidden_size, bias, dtype=dtype)

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        self._refuse_computed()
        init.uniform_(self.weight_w)
        init.uniform_(self.weight_c, -0.1, 0.1)
        bound = math.sqrt(6 / (65 * self.input_size)) if self.input_size else 0.0
        init.uniform_(self.weight_ih, -bound, bound)
        if self.bias is not None:
            init.zeros_(self.bias)

    def step(self, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        dt = self.dt * sigmoid(self.weight_c)
        force = self.candidate(tanh(self.weight_w * self.masked(y) + linear(x, self.weight_ih, self.bias)))
        z = z - dt * (force + self.alpha * y)
        y = y + dt * z
        return y, z

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, dt={self.dt}, alpha={self.alpha}"


@listed("h' = h + e tanh((W - W^T - g 1) h + V x + b)", "Chang et al., 2019")
class AntisymmetricRNNCell(GatedCell):
    """AntisymmetricRNN: an Euler step of a system whose signals neither grow nor fade (Chang et al., 2019).

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.cells.AntisymmetricRNNCell(3, 4, gamma=0.25)
        >>> A = cell.antisymmetric()
        >>> (A + A.T).numpy().diagonal().tolist()
        [-0.5, -0.5, -0.5, -0.5]

        A = W - W^T - gamma 1
        h' = h + epsilon tanh(A h + V x + b)

    All eigenvalues of A have the real part -gamma. gamma keeps the Euler step stable: it only is where
    epsilon |lambda|^2 is below 2 gamma for each eigenvalue lambda. W starts from N(0, scale^2 / H), V from
    N(0, 1 / I), b at zero.

    Shapes: x [B, I], h [B, H].

    Args:
        epsilon: the step of time.
        gamma: the diffusion.
        scale: the paper's sigma_w.

    Raises:
        ValueError: epsilon or scale is not positive, or gamma is negative.

    Attributes:
        weight_ih: V, [H, I].
        weight_hh: W, [H, H], of which the antisymmetric part counts.
        bias: b, [H], or None.
    """

    gates = "h"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        epsilon: float = 0.01,
        gamma: float = 0.01,
        scale: float = 1.0,
        *,
        dtype: Any = None,
    ) -> None:
        number(self, epsilon=epsilon, scale=scale)
        number(self, "at least 0", gamma=gamma)
        self.epsilon, self.gamma, self.scale = epsilon, gamma, scale
        super().__init__(input_size, hidden_size, bias, dtype=dtype)
        self.weight_hh = empty(hidden_size, hidden_size, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        self._refuse_computed()
        init.normal_(self.weight_ih, 0, 1 / math.sqrt(max(self.input_size, 1)))
        init.normal_(self.weight_hh, 0, self.scale / math.sqrt(max(self.hidden_size, 1)))
        if self.bias is not None:
            init.zeros_(self.bias)

    def antisymmetric(self) -> Tensor:
        """A, [H, H]."""
        W = self.weight_hh
        return W - W.T - self.gamma * eye(self.hidden_size, dtype=W.dtype)

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        a = linear(self.masked(h), self.antisymmetric()) + linear(x, self.weight_ih, self.bias)
        return h + self.epsilon * self.candidate(tanh(a))

    def extra_repr(self) -> str:
        scale = "" if self.scale == 1 else f", scale={self.scale}"
        return f"{super().extra_repr()}, epsilon={self.epsilon}, gamma={self.gamma}{scale}"


@listed("h' = h + e z tanh((W - W^T - g 1) h + V x + b)", "Chang et al., 2019")
class GatedAntisymmetricRNNCell(AntisymmetricRNNCell):
    """The AntisymmetricRNN with a gate for its input, which shares the matrix (Chang et al., 2019).

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.cells.GatedAntisymmetricRNNCell(3, 4)
        >>> cell.weight_ih.shape, cell.weight_hh.shape
        ((8, 3), (4, 4))

        A = W - W^T - gamma 1
        z = sigmoid(A h + V_z x + b_z)
        h' = h + epsilon z * tanh(A h + V_h x + b_h)

    Arguments, shapes and how it starts are as for `AntisymmetricRNNCell`.

    Attributes:
        weight_ih: V_z and V_h, [2H, I].
        weight_hh: W, [H, H].
        bias: b_z and b_h, [2H], or None.
    """

    gates = "zh"

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        a = linear(self.masked(h), self.antisymmetric())
        x_z, x_h = chunk(linear(x, self.weight_ih, self.bias), 2, -1)
        z = sigmoid(a + x_z)
        return h + self.epsilon * z * self.candidate(tanh(a + x_h))
