"""Sparse autoencoders: many features of which few are active, to say what the units of a network mean.

A state x [D] is written as a sum of few of N directions. Five ways to keep them few, one class:

    kind         z                               loss
    "topk"       the k largest of relu(a)        E, and a 32nd of how badly dead latents explain what is left over
    "jumprelu"   a where a > theta, else 0       E + sparsity * mean number of active latents
    "l1"         relu(a)                         E + sparsity * mean sum of z |d|, d being the latent's direction
    "kl"         sigmoid(a)                      |x^ - x|^2 / 2 + decay |W|^2 / 2 + sparsity * sum KL(rho || mean z)
    "linear"     a                               E: with N < D it finds what PCA finds

where a = W_e (x - b_d) + b_e, x^ = W_d z + b_d, and E = mean |x^ - x|^2 / D, of states that `normalise` has brought to
mean 0 and mean square 1: so E is the share of the variance that is left over, in every batch by the same measure.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from ..autograd.operands import ask, floating
from ..autograd.pointwise import exp, relu, sigmoid, softplus, straight_through, where
from ..autograd.reductions import logsumexp
from ..autograd.tape import no_grad, note_change
from ..autograd.tensor import Tensor
from .functional import linear, matmul
from .module import Module, Parameter

KINDS = ("topk", "jumprelu", "l1", "kl", "linear")
SPARSITY = {"kl": 3.0, "jumprelu": 1e-3, "l1": 1e-3}  # of the others nothing keeps latents silent but what they are
ROWS = 4096  # that are measured at a time


class SparseMetrics(NamedTuple):
    """How well a sparse autoencoder does on some states.

    Attributes:
        l0: how many latents are active in a state, on average: not 0, or for "kl" above a half.
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
        kind: "topk", "jumprelu", "l1", "kl" or "linear": E below is mean |x^ - x|^2 / D of normalised states,
            a = W_e (x - b_d) + b_e, x^ = W_d z + b_d.

            - "topk": z = the k largest of relu(a); loss E + AuxK / 32, AuxK being how badly dead latents explain what
              is left over, as a share of it.
            - "jumprelu": z = a where a > theta, else 0; loss E + sparsity * mean number of active latents.
            - "l1": z = relu(a); loss E + sparsity * mean sum of z |d|, d being the latent's column of weight_d. Who
              writes |x^ - x|^2 in place of E has D times this sparsity.
            - "kl": z = sigmoid(a); loss mean |x^ - x|^2 / 2 + decay |W|^2 / 2 + sparsity * sum KL(rho || mean z), means
              over the batch, which must be large.
            - "linear": z = a; loss E.
        k: of "topk": how many latents are active.
        sparsity: of "jumprelu", "l1", "kl": the weight of what keeps latents silent; by default 3 for "kl", else 1e-3.
        rho: of "kl": the mean activation that is aimed at.
        decay: of "kl": the weight of |W|^2 / 2.
        bandwidth: of "jumprelu": thresholds learn from latents that are nearer to them than half of this. The
            default is to states of norm sqrt(D) what the paper's 0.001 is to its states of norm 1, with D = 2304.
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

    Raises:
        ValueError: if a number is out of its range, or says something that this kind does not listen to.
    """

    mean: Any
    scale: Any
    silent: Any

    def __init__(
        self, input_size: int, latents: int, kind: str = "topk", *, k: int = 32, sparsity: float | None = None,
        rho: float = 0.05, decay: float = 1e-4, bandwidth: float = 0.05, auxiliary: int | None = None,
        dead_after: int = 100_000, dtype: Any = None,
    ) -> None:  # fmt: skip
        if kind not in KINDS:
            raise ValueError(f"SparseAutoencoder: kind must be one of {', '.join(KINDS)}, not {kind!r}")
        counts = dict(input_size=input_size, latents=latents, k=k, dead_after=dead_after)
        for name, count in counts.items():
            if not isinstance(count, (int, np.integer)) or count < 1:
                raise ValueError(f"SparseAutoencoder: {name} must be a whole number from 1, not {count!r}")
        if kind == "topk" and k > latents:
            raise ValueError(f"SparseAutoencoder: k must be in 1 to {latents}, the number of latents, not {k}")
        self.input_size, self.latents, self.kind, self.k, self.dead_after = input_size, latents, kind, k, dead_after
        self.sparsity = SPARSITY.get(kind, 0.0) if sparsity is None else sparsity
        self.rho, self.decay, self.bandwidth = rho, decay, bandwidth
        self.auxiliary = min(input_size // 2 if auxiliary is None else auxiliary, latents)
        self._check(sparsity, auxiliary)
        numbers = lambda *shape: np.zeros(shape, np.float32 if dtype is None else dtype)
        self.weight_e, self.bias_e = Parameter(numbers(latents, input_size)), Parameter(numbers(latents))
        self.weight_d, self.bias_d = Parameter(numbers(input_size, latents)), Parameter(numbers(input_size))
        self.log_threshold = Parameter(numbers(latents)) if kind == "jumprelu" else None
        self.register_buffer("mean", Tensor(numbers(input_size)))
        self.register_buffer("scale", Tensor(np.ones_like(numbers())))
        self.register_buffer("silent", Tensor(np.zeros(latents, np.int64)))
        self.reset_parameters()

    def _check(self, sparsity: float | None, auxiliary: int | None) -> None:
        """Numbers must be in their ranges, and what is said must matter."""
        wrong = {
            "sparsity must be at least 0": self.sparsity >= 0, "rho must be between 0 and 1": 0 < self.rho < 1,
            "decay must be at least 0": self.decay >= 0, "bandwidth must be above 0": self.bandwidth > 0,
            "auxiliary must be a whole number from 0": self.auxiliary >= 0 and self.auxiliary == int(self.auxiliary),
        }  # fmt: skip
        said = {"sparsity": (sparsity, (*SPARSITY,)), "auxiliary": (auxiliary, ("topk",))}
        for message, is_right in wrong.items():
            if not is_right:
                raise ValueError(f"SparseAutoencoder: {message}, not {getattr(self, message.split()[0])}")
        for name, (value, kinds) in said.items():
            if value is not None and self.kind not in kinds:
                raise ValueError(
                    f"SparseAutoencoder: {name} is of {' and '.join(map(repr, kinds))}; {self.kind!r} has no use for it"
                )

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
        x = self._rows(states)
        if not np.isfinite(x).all():
            raise ValueError("SparseAutoencoder.normalise: among the states are numbers that are not finite")
        self.mean.data[...] = x.mean(0, np.float64)
        scale = math.sqrt(np.mean(np.square(x - self.mean.data), dtype=np.float64))
        is_rounding = scale <= float(np.finfo(self.mean.dtype).eps * np.abs(self.mean.data).max(initial=0))
        self.scale.data[...] = 1.0 if is_rounding else scale  # of states that are all the same
        return self

    def _rows(self, x: Any) -> np.ndarray:
        """States [..., D] as rows, of which there must be one."""
        rows = self._states(x).reshape(-1, self.input_size)
        if not len(rows):
            raise ValueError("SparseAutoencoder: there are no states")
        return rows

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
        # W_e (x - b_d) + b_e, without a product as large as W_e x on the way back to b_d
        return linear(x, self.weight_e, self.bias_e - matmul(self.weight_e, self.bias_d))

    def _sum(self, z: Tensor) -> Tensor:
        return linear(z, self.weight_d, self.bias_d)

    def _latents(self, a: Tensor) -> Tensor:
        if self.kind == "topk":
            return _largest(a, self.k)
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
        x = (Tensor(self._rows(x)) - self.mean) / self.scale
        a = self._before(x)
        z, active = self._jump(a) if self.kind == "jumprelu" else (self._latents(a), None)
        left = self._sum(z) - x
        if self.training:
            self._listen(z.data)
        if self.kind == "kl":
            return left.square().sum(-1).mean() / 2 + self._kept_small(a)
        loss = left.square().mean()
        if active is not None:
            return loss + self.sparsity * active.sum(-1).mean()
        if self.kind == "l1":
            return loss + self.sparsity * (z * self.weight_d.square().sum(0).sqrt()).sum(-1).mean()
        return loss + self._auxiliary(a, left) / 32 if self.kind == "topk" else loss

    def _kept_small(self, a: Tensor) -> Tensor:
        # logarithms of means of sigmoid(a) and of 1 - sigmoid(a), finite where all of a batch are 0 or 1 to rounding
        on, off = (logsumexp(-softplus(b, threshold=40.0), 0) - math.log(len(a)) for b in (-a, a))
        rho = self.rho
        divergence = rho * (math.log(rho) - on) + (1 - rho) * (math.log(1 - rho) - off)
        weights = self.weight_e.square().sum() + self.weight_d.square().sum()
        return self.decay / 2 * weights + self.sparsity * divergence.sum()

    def _auxiliary(self, a: Tensor, left: Tensor) -> Tensor | float:
        """How badly the dead latents explain what the others leave over: a gradient for latents that get none."""
        dead = np.flatnonzero(self.silent.data >= self.dead_after)
        count = min(self.auxiliary, len(dead))
        if not count:
            return 0.0
        alone, rest = _largest(a[:, dead], count), left.detach()
        return (linear(alone, self.weight_d[:, dead]) + rest).square().mean() / max(float(rest.square().mean()), 1e-12)

    def _active(self, z: np.ndarray) -> np.ndarray:
        """Which latents are; a sigmoid is, says Ng, where it is near to 1."""
        return z > 0.5 if self.kind == "kl" else z != 0

    def _listen(self, z: np.ndarray) -> None:
        silent = self.silent.data
        silent += len(z)
        silent[self._active(z).any(0)] = 0

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
            along = np.einsum("dn,dn->n", gradient, columns) / np.maximum(np.square(columns).sum(0), 1e-24)
            self.weight_d.grad = Tensor(gradient - columns * along)

    def constrain_(self) -> None:
        """Divide the decoder's columns by their norms."""
        with no_grad():
            self.weight_d.data /= np.maximum(np.sqrt(np.square(self.weight_d.data).sum(0)), 1e-12)
        note_change([self.weight_d])

    # ---- How well it does --------------------------------------------------------------------------------------------

    def metrics(self, x: Any) -> SparseMetrics:
        """Of states x [..., D]: active latents, variance left over, dead latents."""
        states = self._rows(x)
        left, spread, active, ever = 0.0, 0.0, 0, np.zeros(self.latents, bool)
        middle = states.mean(0, np.float64)
        for start in range(0, len(states), ROWS):
            piece = states[start : start + ROWS]
            with no_grad():
                near, z = self(piece)
            is_active = self._active(z.data)
            active += int(np.count_nonzero(is_active))
            ever |= is_active.any(0)
            left += float(np.square(near.data - piece, dtype=np.float64).sum())
            spread += float(np.square(piece - middle).sum())
        return SparseMetrics(active / len(states), left / max(spread, 1e-300), float(1 - ever.mean()))

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


def _largest(a: Tensor, k: int) -> Tensor:
    """What is positive among the k largest of each row, else 0; of equal ones it takes any."""
    ask(a)
    numbers, count = a.data, a.shape[-1]
    least = np.partition(numbers, count - k, -1)[..., count - k, None]
    keep = ~(numbers < np.maximum(least, np.finfo(numbers.dtype).tiny))  # so that NaN stays what it is
    more = np.count_nonzero(keep, -1) > k
    if more.any():
        rows = numbers[more]
        places = np.argpartition(rows, count - k, -1)[..., count - k :]
        keep[more] = False
        chosen = np.zeros_like(rows, bool)
        np.put_along_axis(chosen, places, True, -1)
        keep[more] = chosen & ~(rows <= 0)
    return where(keep, a, 0.0)
