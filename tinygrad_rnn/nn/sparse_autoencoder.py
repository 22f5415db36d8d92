"""Sparse autoencoders: many features of which few are active, to say what the units of a network mean.

A state x [D] is written as a sum of few of N directions. Five ways to keep them few, one class:

    kind         z                               loss
    "topk"       the k largest of relu(a)        E, and a 32nd of how badly dead latents explain what is left over
    "jumprelu"   a where a > theta, else 0       E + sparsity * mean number of active latents
    "l1"         relu(a)                         E + sparsity * mean sum of z |d|, d being the latent's direction
    "kl"         sigmoid(a)                      |x^ - x|^2 / 2 + decay |W|^2 / 2 + sparsity * sum KL(rho || mean z)
    "linear"     a                               E: with N < D it finds what PCA finds

where a = W_e (x - b_d) + b_e, x^ = W_d z + b_d, and E = mean |x^ - x|^2 / mean |x - mean x|^2.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from ..autograd.operands import ask, floating
from ..autograd.pointwise import exp, log, relu, sigmoid, straight_through
from ..autograd.tape import no_grad, note_change
from ..autograd.tensor import Tensor
from .functional import linear
from .module import Module, Parameter

KINDS = ("topk", "jumprelu", "l1", "kl", "linear")


class SparseMetrics(NamedTuple):
    """How well a sparse autoencoder does on some states.

    Attributes:
        l0: how many latents are active in a state, on average.
        unexplained: the fraction of the variance that is left over, |x^ - x|^2 / |x - mean|^2.
        dead: the share of latents that are active in none of the states.
    """

    l0: float
    unexplained: float
    dead: float


class SparseAutoencoder(Module):
    """States as sums of few of many directions.

        >>> import tinygrad_rnn as tg
        >>> _ = tg.manual_seed(0)
        >>> states = tg.randn(1000, 8).numpy()
        >>> sae = tg.nn.SparseAutoencoder(8, 32, k=3).normalise(states)
        >>> optimiser = sae.watch(tg.optim.Adam(sae.parameters(), lr=1e-2))
        >>> for _ in range(100):
        ...     optimiser.zero_grad()
        ...     sae.loss(states).backward()
        ...     _ = optimiser.step()
        >>> sae(states)[1].shape, sae.metrics(states).l0, sae.metrics(states).unexplained < 0.5
        ((1000, 32), 3.0, True)

    Shapes: x [..., D] -> (x^ [..., D], z [..., N]).

    Args:
        latents: N.
        kind: "topk", "jumprelu", "l1", "kl" or "linear"; see the module's docstring.
        k: of "topk": how many latents are active.
        sparsity: the weight of what keeps latents silent; by default 3 for "kl", 1e-3 for others.
        rho: of "kl": the mean activation that is aimed at.
        decay: of "kl": the weight of |W|^2 / 2.
        bandwidth: of "jumprelu": how near to its threshold a latent must be to move it.
        auxiliary: of "topk": how many dead latents explain what is left over; by default D / 2.
        dead_after: a latent is dead that was not active in so many states.

    Attributes:
        weight_e, bias_e: the encoder, [N, D] and [N].
        weight_d, bias_d: the decoder, [D, N] and [D]. But for "kl", the columns of weight_d have norm 1: see `watch`.
        log_threshold: of "jumprelu": log theta, [N].
        mean, scale: what `normalise` found: the autoencoder sees (x - mean) / scale.
        silent: for each latent, the number of states since it was active.

    Sources: "kl": Ng, "Sparse autoencoder", CS294A lecture notes, 2011. "l1": Bricken et al., "Towards
    monosemanticity", 2023. "topk": Makhzani and Frey, "k-sparse autoencoders", 2013; Gao et al., "Scaling and
    evaluating sparse autoencoders", 2024. "jumprelu": Rajamanoharan et al., "Jumping ahead", 2024. "linear": Baldi and
    Hornik, 1989.
    """

    mean: Any
    scale: Any
    silent: Any

    def __init__(
        self, input_size: int, latents: int, kind: str = "topk", *, k: int = 32, sparsity: float | None = None,
        rho: float = 0.05, decay: float = 1e-4, bandwidth: float = 1e-3, auxiliary: int | None = None,
        dead_after: int = 100_000, dtype: Any = None,
    ) -> None:  # fmt: skip
        if kind not in KINDS:
            raise ValueError(f"SparseAutoencoder: kind must be one of {', '.join(KINDS)}, not {kind!r}")
        if kind == "topk" and not 0 < k <= latents:
            raise ValueError(f"SparseAutoencoder: k must be in 1 to {latents}, the number of latents, not {k}")
        self.input_size, self.latents, self.kind, self.k = input_size, latents, kind, k
        self.sparsity = (3.0 if kind == "kl" else 1e-3) if sparsity is None else sparsity
        self.rho, self.decay, self.bandwidth, self.dead_after = rho, decay, bandwidth, dead_after
        self.auxiliary = min(input_size // 2 if auxiliary is None else auxiliary, latents)
        numbers = lambda *shape: np.zeros(shape, np.float32 if dtype is None else dtype)
        self.weight_e, self.bias_e = Parameter(numbers(latents, input_size)), Parameter(numbers(latents))
        self.weight_d, self.bias_d = Parameter(numbers(input_size, latents)), Parameter(numbers(input_size))
        self.log_threshold = Parameter(numbers(latents)) if kind == "jumprelu" else None
        self.register_buffer("mean", Tensor(numbers(input_size)))
        self.register_buffer("scale", Tensor(np.ones_like(numbers())))
        self.register_buffer("silent", Tensor(np.zeros(latents, np.int64)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Directions drawn at random, of norm 1; the encoder is the decoder's transpose, biases are zeros."""
        from . import init

        init.normal_(self.weight_d)
        self.constrain_()
        if self.kind == "kl":
            bound = math.sqrt(6 / (self.input_size + self.latents))
            init.uniform_(self.weight_d, -bound, bound)
        self.weight_e.data[...] = self.weight_d.data.T
        self.bias_e.data[...], self.bias_d.data[...], self.silent.data[...] = 0, 0, 0
        if self.log_threshold is not None:
            self.log_threshold.data[...] = math.log(0.1)

    def normalise(self, states: Any) -> "SparseAutoencoder":
        """Subtract the mean of these states [..., D] and divide by their root mean square; returns itself.

        Means that are large beside the deviations leave most latents dead; states of LSTMs have such.
        """
        x = self._states(states).reshape(-1, self.input_size)
        self.mean.data[...] = x.mean(0, np.float64)
        self.scale.data[...] = math.sqrt(np.mean(np.square(x - self.mean.data), dtype=np.float64)) or 1.0
        return self

    def _states(self, x: Any) -> np.ndarray:
        array: np.ndarray = floating(x).data
        if array.shape[-1:] != (self.input_size,):
            raise ValueError(
                f"SparseAutoencoder: expected states [..., {self.input_size}], got shape {list(array.shape)}"
            )
        return array

    # ---- What it computes --------------------------------------------------------------------------------------------

    def encode(self, x: Any) -> Tensor:
        """The activations z [..., N] of states x [..., D]."""
        self._states(x)
        return self._latents(self._before((floating(x) - self.mean) / self.scale))

    def decode(self, z: Any) -> Tensor:
        """The states x^ [..., D] that activations z [..., N] stand for."""
        return self._sum(floating(z)) * self.scale + self.mean

    def forward(self, x: Any) -> tuple[Tensor, Tensor]:
        z = self.encode(x)
        return self.decode(z), z

    def _before(self, x: Tensor) -> Tensor:
        return linear(x - self.bias_d, self.weight_e, self.bias_e)

    def _sum(self, z: Tensor) -> Tensor:
        return linear(z, self.weight_d, self.bias_d)

    def _latents(self, a: Tensor) -> Tensor:
        if self.kind == "topk":
            return relu(a) * _largest(a, self.k)
        if self.kind == "jumprelu":
            return self._jump(a)[0]
        return {"l1": relu, "kl": sigmoid, "linear": lambda a: a}[self.kind](a)

    def _jump(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """The activations and how many there are, whose derivatives by the thresholds are those of a window's mean."""
        assert self.log_threshold is not None
        threshold = exp(self.log_threshold)
        is_on = (a > threshold).to(a.dtype)
        near = (abs(a.detach() - threshold.detach()) < self.bandwidth / 2).to(a.dtype) / self.bandwidth
        z = straight_through(a * is_on, a * is_on - near * threshold.detach() * threshold)
        return z, straight_through(is_on, -near * threshold)

    # ---- How it is trained -------------------------------------------------------------------------------------------

    def loss(self, x: Any) -> Tensor:
        """What training makes small, for states x [..., D]; while training it counts how long latents are silent."""
        self._states(x)
        x = ((floating(x) - self.mean) / self.scale).reshape(-1, self.input_size).detach()
        a = self._before(x)
        z, active = self._jump(a) if self.kind == "jumprelu" else (self._latents(a), None)
        left = self._sum(z) - x
        if self.training:
            self._listen(z.data)
        if self.kind == "kl":
            return left.square().sum(-1).mean() / 2 + self._kept_small(z)
        loss = left.square().mean() / _variance(x)
        if active is not None:
            return loss + self.sparsity * active.sum(-1).mean()
        if self.kind == "l1":
            return loss + self.sparsity * (z * self.weight_d.square().sum(0).sqrt()).sum(-1).mean()
        return loss + self._auxiliary(a, left) / 32 if self.kind == "topk" else loss

    def _kept_small(self, z: Tensor) -> Tensor:
        rho, mean = self.rho, z.mean(0)
        divergence = rho * (math.log(rho) - log(mean)) + (1 - rho) * (math.log(1 - rho) - log(1 - mean))
        weights = self.weight_e.square().sum() + self.weight_d.square().sum()
        return self.decay / 2 * weights + self.sparsity * divergence.sum()

    def _auxiliary(self, a: Tensor, left: Tensor) -> Tensor | float:
        """How badly the dead latents explain what the others leave over: a gradient for latents that get none."""
        dead = self.silent.data >= self.dead_after
        count = min(self.auxiliary, int(dead.sum()))
        if not count:
            return 0.0
        alone = relu(a) * _largest(a, count, dead)
        rest = left.detach()
        return (linear(alone, self.weight_d) + rest).square().mean() / max(float(rest.square().mean()), 1e-12)

    def _listen(self, z: np.ndarray) -> None:
        silent = self.silent.data
        silent += len(z)
        silent[(z != 0).any(0)] = 0

    def watch(self, optimizer: Any) -> Any:
        """Keep the decoder's columns at norm 1 at every step of this optimiser, which is returned.

        Before a step the part of the gradient along each column is taken out, after it the columns are divided by their
        norms. "kl" is not constrained, but by its decay.
        """
        if self.kind != "kl":
            optimizer.register_step_pre_hook(lambda *_: self.project_gradient_())
            optimizer.register_step_post_hook(lambda *_: self.constrain_())
        return optimizer

    def project_gradient_(self) -> None:
        """Take out of the decoder's gradient what would change the norms of its columns."""
        if self.weight_d.grad is not None:
            gradient, columns = self.weight_d.grad.data, self.weight_d.data
            self.weight_d.grad = Tensor(gradient - columns * (gradient * columns).sum(0))

    def constrain_(self) -> None:
        """Divide the decoder's columns by their norms."""
        with no_grad():
            self.weight_d.data /= np.maximum(np.sqrt(np.square(self.weight_d.data).sum(0)), 1e-12)
        note_change([self.weight_d])

    # ---- How well it does --------------------------------------------------------------------------------------------

    def metrics(self, x: Any) -> SparseMetrics:
        """Of states x [..., D]: active latents, variance left over, dead latents."""
        states = self._states(x).reshape(-1, self.input_size)
        with no_grad():
            near, z = self(states)
        is_active = z.data != 0
        left, spread = (np.square(v, dtype=np.float64).sum() for v in (near.data - states, states - states.mean(0)))
        return SparseMetrics(
            float(is_active.sum(-1).mean()), float(left / max(spread, 1e-300)), float(1 - is_active.any(0).mean())
        )

    def extra_repr(self) -> str:
        k = f", k={self.k}" if self.kind == "topk" else ""
        return f"{self.input_size}, {self.latents}, kind={self.kind!r}{k}"


def loss_recovered(model: float, autoencoder: float, zero: float) -> float:
    """The share of a model's loss that is kept where x^ stands in place of x: (zero - autoencoder) / (zero - model).

        >>> loss_recovered(model=1.0, autoencoder=1.25, zero=2.0)
        0.75

    Args:
        model, autoencoder, zero: the loss with x itself, with x^ and with zeros in its place.
    """
    return (zero - autoencoder) / (zero - model)


def _largest(a: Tensor, k: int, among: np.ndarray | None = None) -> Tensor:
    """1 where a number is among the k largest of its row, of those latents that `among` names; else 0."""
    ask(a)
    numbers = a.data if among is None else np.where(among, a.data, -np.inf)
    mask = np.zeros_like(a.data)
    np.put_along_axis(mask, np.argpartition(numbers, -k, -1)[..., -k:], 1, -1)
    return Tensor(mask)


def _variance(x: Tensor) -> float:
    return max(float(np.mean(np.square(x.data - x.data.mean(0)), dtype=np.float64)), 1e-12)
