"""Linear systems as cells: two of complex numbers on a diagonal, and one that keeps a window of the past.

A complex state is two real vectors, its real and its imaginary part.
"""

import math
from typing import Any

import numpy as np

from ...autograd.creation import zeros
from ...autograd.pointwise import cos, exp, expm1, sin, tanh
from ...autograd.shapes import cat, chunk
from ...autograd.tensor import Tensor
from .. import init
from ..cell import Cell
from ..functional import linear
from ..layers import empty
from ..module import Parameter
from .catalogue import listed
from .options import number, whole

TRUNCATED = 0.87962566103423978  # the deviation of N(0, 1) on condition that it is in [-2, 2]


class DiagonalCell(Cell):
    """A diagonal linear system of complex numbers: a subclass says what its eigenvalues and inputs are.

        s' = lambda s + B x
        y' = scale Re(C s') + D x

    D is [H] where I = H, as the authors have it, and [H, I] where x has another width than y.

    Attributes:
        B_re, B_im: [N, I].
        C_re, C_im: [H, N].
        D: [H], or [H, I] where I is not H.
    """

    input_size: int
    scale = 1.0

    def __init__(self, input_size: int, hidden_size: int, state_size: int | None, dtype: Any) -> None:
        N = hidden_size if state_size is None else state_size
        whole(self, state_size=N)
        self.input_size, self.hidden_size, self.state_size = input_size, hidden_size, N
        self.B_re, self.B_im = empty(N, input_size, dtype=dtype), empty(N, input_size, dtype=dtype)
        self.C_re, self.C_im = empty(hidden_size, N, dtype=dtype), empty(hidden_size, N, dtype=dtype)
        self.D = empty(*[hidden_size] if input_size == hidden_size else [hidden_size, input_size], dtype=dtype)

    def initial_state(self, batch_size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Zeros: y [B, H], and both parts of s, [B, N]."""
        shapes, dtype = [self.hidden_size, self.state_size, self.state_size], self.D.dtype
        y, re, im = (zeros(batch_size, n, dtype=dtype) for n in shapes)
        return y, re, im

    def discrete(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Real and imaginary parts of lambda [N] and of what multiplies x, [N, I]."""
        raise NotImplementedError

    def step(self, x: Tensor, y: Tensor, re: Tensor, im: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        l_re, l_im, B_re, B_im = self.discrete()
        u_re, u_im = chunk(self.candidate(linear(x, cat([B_re, B_im]))), 2, -1)
        re, im = l_re * re - l_im * im + u_re, l_re * im + l_im * re + u_im
        skip = self.D * x if self.D.ndim == 1 else linear(x, self.D)
        y = self.scale * (linear(re, self.C_re) - linear(im, self.C_im)) + skip
        return y, re, im

    def _reset_skip(self) -> None:
        init.normal_(self.D, 0, 1 if self.D.ndim == 1 else 1 / math.sqrt(max(self.input_size, 1)))

    def extra_repr(self) -> str:
        state_size = "" if self.state_size == self.hidden_size else f", state_size={self.state_size}"
        return f"{self.input_size}, {self.hidden_size}{state_size}"


@listed("s' = lambda s + gamma B x, y' = Re(C s') + D x", "Orvieto et al., 2023")
class LRUCell(DiagonalCell):
    """The linear recurrent unit: a diagonal of complex numbers below 1, without a nonlinearity (Orvieto et al., 2023).

        >>> import tinygrad_rnn as tg
        >>> y, re, im = tg.nn.cells.LRUCell(3, 4, state_size=8)(tg.ones(5, 3))
        >>> y.shape, re.shape, im.shape
        ((5, 4), (5, 8), (5, 8))

        lambda = exp(-exp(nu) + i exp(theta))
        s' = lambda s + exp(gamma) * (B x)
        y' = Re(C s') + D x

    |lambda| is below 1 whatever nu is. It starts uniform on the ring r_min <= |lambda| <= r_max with phases up to
    max_phase, gamma at log sqrt(1 - |lambda|^2), so that s has the variance of B x. The entries of B are N(0, 1 / (2I))
    in each part, those of C N(0, 1 / N), D is N(0, 1), as in NicolasZucchet/minimal-LRU. There D is a vector; here it
    is a matrix of variance 1 / I where I is not H. What nonlinearity there is stands in layers in between.

    Shapes: x [B, I], y [B, H], real and imaginary part of s [B, N]; the output is y.

    Args:
        state_size: N, how many complex numbers there are; H by default.
        r_min, r_max: where |lambda| starts.
        max_phase: up to which angle.

    Raises:
        ValueError: state_size is not positive, or not 0 <= r_min < r_max <= 1, or max_phase is not positive.

    Attributes:
        nu_log, theta_log, gamma_log: nu, theta and gamma, [N].
        B_re, B_im: [N, I].
        C_re, C_im: [H, N].
        D: [H], or [H, I] where I is not H.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        state_size: int | None = None,
        r_min: float = 0.0,
        r_max: float = 1.0,
        max_phase: float = 6.28,
        *,
        dtype: Any = None,
    ) -> None:
        number(self, "between 0 and 1", r_min=r_min, r_max=r_max)
        if not r_min < r_max:
            raise ValueError(f"LRUCell: expected 0 <= r_min < r_max <= 1, not r_min={r_min} and r_max={r_max}")
        number(self, max_phase=max_phase)
        super().__init__(input_size, hidden_size, state_size, dtype)
        self.r_min, self.r_max, self.max_phase = r_min, r_max, max_phase
        for name in ("nu_log", "theta_log", "gamma_log"):
            setattr(self, name, empty(self.state_size, dtype=dtype))
        self.reset_parameters()

    nu_log: Parameter
    theta_log: Parameter
    gamma_log: Parameter

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        self._refuse_computed()
        u = _above_zero(self.state_size) * (self.r_max**2 - self.r_min**2) + self.r_min**2  # |lambda|^2
        self.nu_log.numpy()[...] = np.log(-0.5 * np.log(u))
        self.gamma_log.numpy()[...] = 0.5 * np.log1p(-u)
        self.theta_log.numpy()[...] = np.log(self.max_phase * _above_zero(self.state_size))
        for B in (self.B_re, self.B_im):
            init.normal_(B, 0, 1 / math.sqrt(2 * max(self.input_size, 1)))
        for C in (self.C_re, self.C_im):
            init.normal_(C, 0, 1 / math.sqrt(self.state_size))
        self._reset_skip()

    def discrete(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Real and imaginary parts of lambda [N] and of exp(gamma) B, [N, I]."""
        r, angle, gamma = exp(-exp(self.nu_log)), exp(self.theta_log), exp(self.gamma_log).unsqueeze(-1)
        return r * cos(angle), r * sin(angle), gamma * self.B_re, gamma * self.B_im

    def extra_repr(self) -> str:
        defaults = {"r_min": 0.0, "r_max": 1.0, "max_phase": 6.28}
        changed = [f", {n}={getattr(self, n)}" for n, default in defaults.items() if getattr(self, n) != default]
        return super().extra_repr() + "".join(changed)


def _above_zero(n: int) -> np.ndarray:
    """Numbers from U(0, 1), of which a logarithm and that of what is missing to 1 exist."""
    drawn = init.uniform_(Tensor(np.zeros(n))).numpy()
    return np.clip(drawn, 2.0**-24, 1 - 2.0**-24)


@listed("s' = e^(l dt) s + (e^(l dt) - 1) / l B x, y' = 2 Re(C s')", "Smith et al., 2023")
class S5Cell(DiagonalCell):
    """S5: a continuous linear system, held between samples, whose diagonal starts as HiPPO's (Smith et al., 2023).

        >>> import tinygrad_rnn as tg
        >>> y, re, im = tg.nn.cells.S5Cell(3, 4, state_size=8)(tg.ones(5, 3))
        >>> y.shape, re.shape, im.shape
        ((5, 4), (5, 8), (5, 8))

        ds/dt = lambda s + B x, y = 2 Re(C s) + D x; with dt = exp(log_step) and x held for dt:
        s' = exp(lambda dt) s + (exp(lambda dt) - 1) / lambda * (B x)
        y' = 2 Re(C s') + D x

    Each of the N numbers stands for itself and its conjugate. lambda starts as eigenvalues of the normal part of
    HiPPO-LegS, in `blocks` copies, B and C as real and complex normal matrices in their basis, log_step from
    U(log dt_min, log dt_max), D from N(0, 1), as in lindermanlab/S5: its defaults are these, but for 8 blocks. (There
    B's variance is 1 / (2N), whatever I is, for the names of its dimensions are swapped.) There D is a vector; here it
    is a matrix of variance 1 / I where I is not H. Nothing keeps the real part of lambda below 0 while it is trained,
    as there by default.

    Shapes: x [B, I], y [B, H], real and imaginary part of s [B, N]; the output is y.

    Args:
        state_size: N, the number of pairs, half of the authors' state size; H by default.
        blocks: in how many blocks of HiPPO's matrix they start.
        dt_min, dt_max: where the steps of time start.

    Raises:
        ValueError: state_size is not positive, blocks do not divide it, or not 0 < dt_min <= dt_max.

    Attributes:
        lambda_re, lambda_im: [N].
        log_step: [N].
        B_re, B_im: [N, I].
        C_re, C_im: [H, N].
        D: [H], or [H, I] where I is not H.
    """

    scale = 2.0
    lambda_re: Parameter
    lambda_im: Parameter
    log_step: Parameter

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        state_size: int | None = None,
        blocks: int = 1,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        *,
        dtype: Any = None,
    ) -> None:
        number(self, "at least 0", dt_min=dt_min, dt_max=dt_max)
        if not 0 < dt_min <= dt_max:
            raise ValueError(f"S5Cell: expected 0 < dt_min <= dt_max, not dt_min={dt_min} and dt_max={dt_max}")
        super().__init__(input_size, hidden_size, state_size, dtype)
        whole(self, least=0, blocks=blocks)
        if blocks == 0 or self.state_size % blocks:
            raise ValueError(f"S5Cell: blocks must divide state_size {self.state_size}, which {blocks} does not")
        self.blocks, self.dt_min, self.dt_max = blocks, dt_min, dt_max
        for name in ("lambda_re", "lambda_im", "log_step"):
            setattr(self, name, empty(self.state_size, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        self._refuse_computed()
        N, H = self.state_size, self.hidden_size
        eigenvalues, basis = hippo(N // self.blocks)
        basis = np.kron(np.eye(self.blocks), basis)  # V, [2N, N]
        eigenvalues = np.tile(eigenvalues, self.blocks)
        self.lambda_re.numpy()[...], self.lambda_im.numpy()[...] = eigenvalues.real, eigenvalues.imag
        draw = lambda *shape: _truncated(Tensor(np.zeros(shape)), 1 / math.sqrt(2 * N)).numpy()
        B = basis.conj().T @ draw(2 * N, self.input_size)
        C = (draw(H, 2 * N) + 1j * draw(H, 2 * N)) @ basis
        self.B_re.numpy()[...], self.B_im.numpy()[...] = B.real, B.imag
        self.C_re.numpy()[...], self.C_im.numpy()[...] = C.real, C.imag
        init.uniform_(self.log_step, math.log(self.dt_min), math.log(self.dt_max))
        self._reset_skip()

    def discrete(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Real and imaginary parts of exp(lambda dt) [N] and of (exp(lambda dt) - 1) / lambda B, [N, I]."""
        a, b, dt = self.lambda_re, self.lambda_im, exp(self.log_step)
        r, half = exp(a * dt), sin(0.5 * b * dt)
        l_re, l_im = r * cos(b * dt), r * sin(b * dt)
        gained = expm1(a * dt) * cos(b * dt) - 2 * half * half  # l_re - 1, of which nothing cancels
        over = 1 / (a * a + b * b)
        g_re = ((gained * a + l_im * b) * over).unsqueeze(-1)
        g_im = ((l_im * a - gained * b) * over).unsqueeze(-1)
        return l_re, l_im, g_re * self.B_re - g_im * self.B_im, g_re * self.B_im + g_im * self.B_re

    def extra_repr(self) -> str:
        blocks = "" if self.blocks == 1 else f", blocks={self.blocks}"
        return f"{super().extra_repr()}{blocks}, dt_min={self.dt_min}, dt_max={self.dt_max}"


def hippo(pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Half of the eigenvalues of the normal part of HiPPO-LegS [2N, 2N], of each pair one, and their vectors [2N, N].

    Each vector's first entry is real and positive: libraries of linear algebra leave that phase open.
    """
    n = np.arange(2 * pairs)
    P = np.sqrt(n + 0.5)
    S = 2 * np.outer(P, P)  # of HiPPO's matrix -(tril(S) - diag(n)) with P P^T added: -1/2 on the diagonal
    S = -(np.tril(S) - np.diag(n)) + S / 2
    imaginary, V = np.linalg.eigh(S * -1j)
    V = V[:, :pairs]
    V = V * (np.abs(V[0]) / V[0])
    return np.mean(np.diagonal(S)) + 1j * imaginary[:pairs], V


def _truncated(tensor: Tensor, std: float) -> Tensor:
    """A normal distribution of this deviation without its tails, as JAX and Keras draw it."""
    std = std / TRUNCATED
    return init.trunc_normal_(tensor, 0, std, -2 * std, 2 * std)


@listed("m' = A m + B (e x + e h + e m), h' = tanh(W x + U h + V m')", "Voelker et al., 2019")
class LMUCell(Cell):
    """The Legendre memory unit: a window of the past as polynomials, and a simple cell that reads it (Voelker et al.).

        >>> import tinygrad_rnn as tg
        >>> h, m = tg.nn.cells.LMUCell(3, 4, order=6, theta=20)(tg.ones(5, 3))
        >>> h.shape, m.shape
        ((5, 4), (5, 6))

        u = e_x x + e_h h + e_m m
        m' = A m + B u
        h' = tanh(W_x x + W_h h + W_m m')

    m holds the coefficients of the last theta numbers u in Legendre polynomials: u of r theta steps ago is about
    sum_i m_i P_i(2 r - 1). A and B are not learned: with a_ij = (2i + 1) (-1 if i < j else (-1)^(i - j + 1)) and
    b_i = (2i + 1) (-1)^i, they are the system dm/dt = (a m + b u) / theta, held between steps of 1 (ZOH). As in the
    authors' first code (the history of nengo/keras-lmu): e_x and e_h start from LeCun's uniform distribution, e_m at
    0, all W from Xavier's normal one without its tails, and there is no bias.

    Shapes: x [B, I], h [B, H], m [B, order]; the output is h.

    Args:
        order: how many polynomials there are.
        theta: how many steps the window has; it should be longer than order / 2.

    Raises:
        ValueError: order or theta is not positive.

    Attributes:
        encoder_x, encoder_h, encoder_m: e_x, e_h and e_m, [1, I], [1, H] and [1, order].
        kernel_x, kernel_h, kernel_m: W_x, W_h and W_m, [H, I], [H, H] and [H, order].

    Source: Voelker, Kajic and Eliasmith, "Legendre memory units", 2019.
    """

    A: Tensor
    B: Tensor
    encoder_x: Parameter
    encoder_h: Parameter
    encoder_m: Parameter
    kernel_x: Parameter
    kernel_h: Parameter
    kernel_m: Parameter

    def __init__(
        self, input_size: int, hidden_size: int, order: int = 16, theta: float = 100.0, *, dtype: Any = None
    ) -> None:
        whole(self, order=order)
        number(self, theta=theta)
        self.input_size: int = input_size
        self.hidden_size, self.order, self.theta = hidden_size, order, theta
        A, B = legendre_delay(order, theta)
        kind = np.float32 if dtype is None else dtype
        self.register_buffer("A", Tensor(A.astype(kind)), persistent=False)
        self.register_buffer("B", Tensor(B.astype(kind)), persistent=False)
        for name, width in {"x": input_size, "h": hidden_size, "m": order}.items():
            setattr(self, f"encoder_{name}", empty(1, width, dtype=dtype))
            setattr(self, f"kernel_{name}", empty(hidden_size, width, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        self._refuse_computed()
        for encoder in (self.encoder_x, self.encoder_h):
            bound = math.sqrt(3 / max(encoder.shape[1], 1))
            init.uniform_(encoder, -bound, bound)
        init.zeros_(self.encoder_m)
        for kernel in (self.kernel_x, self.kernel_h, self.kernel_m):
            _truncated(kernel, math.sqrt(2 / max(sum(kernel.shape), 1)))

    def initial_state(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """Zeros: h [B, H] and m [B, order]."""
        dtype = self.kernel_x.dtype
        return zeros(batch_size, self.hidden_size, dtype=dtype), zeros(batch_size, self.order, dtype=dtype)

    def step(self, x: Tensor, h: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
        u = linear(x, self.encoder_x) + linear(h, self.encoder_h) + linear(m, self.encoder_m)
        m = linear(m, self.A) + self.candidate(u) * self.B
        h = tanh(linear(x, self.kernel_x) + linear(h, self.kernel_h) + linear(m, self.kernel_m))
        return h, m

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, order={self.order}, theta={self.theta}"


def legendre_delay(order: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """A [order, order] and B [order] of a window of theta steps."""
    i, j = np.arange(order)[:, None], np.arange(order)
    a = (2 * i + 1) * np.where(i < j, -1.0, (-1.0) ** (i - j + 1))
    b = (2 * i + 1) * (-1.0) ** i
    system = np.zeros((order + 1, order + 1))
    system[:order] = np.hstack([a, b]) / theta  # d(m, u)/dt with u held: its exponential is both in one
    held = exponential(system)
    return held[:order, :order], held[:order, order]


def exponential(a: np.ndarray) -> np.ndarray:
    """That of a matrix: its Taylor series where that converges at once, squared as often as it was halved."""
    halvings = max(0, math.ceil(math.log2(max(np.abs(a).sum(1).max(), 1e-30))) + 2)
    a = a / 2**halvings
    total = term = np.eye(len(a))
    for n in range(1, 15):  # 0.25^15 / 15! is below 1e-21
        term = term @ a / n
        total = total + term
    for _ in range(halvings):
        total = total @ total
    return total
