"""Parametrizations that have a name: weight norm, spectral norm, orthogonal matrices.

    >>> import tinygrad_rnn as tg
    >>> from tinygrad_rnn.nn.utils.parametrizations import weight_norm
    >>> cell = weight_norm(tg.nn.LSTMCell(3, 4), "weight_hh")
    >>> [name for name in cell.state_dict() if "hh" in name]
    ['bias_hh', 'parametrizations.weight_hh.original0', 'parametrizations.weight_hh.original1']
    >>> y, state = tg.nn.Recurrent(cell, fused="require")(tg.ones(7, 2, 3))
    >>> y.sum().backward()
    >>> cell.parametrizations.weight_hh.original0.grad.shape
    (16, 1)

Names, arguments and `state_dict` are PyTorch's. See `parametrize` for how they are taken away again.
"""

import math
from typing import TypeVar

import numpy as np

from ...autograd import table
from ...autograd.creation import generator
from ...autograd.pointwise import sqrt
from ...autograd.primitive import Primitive
from ...autograd.shapes import cat, tril, triu
from ...autograd.tape import mode, note_change
from ...autograd.tensor import Tensor
from ..functional import normalize
from ..module import Module
from .parametrize import looking, parameter_of, register_parametrization

__all__ = ["weight_norm", "spectral_norm", "orthogonal"]
__dir__ = __all__.copy  # what a tab completes
M = TypeVar("M", bound=Module)

# ---- Weight norm -----------------------------------------------------------------------------------------------------


class _WeightNorm(Module):
    """`w = g v / |v|`, with a norm for each index of one dimension, or for the whole tensor (dim None or -1)."""

    def __init__(self, dim: int | None) -> None:
        self.dim = -1 if dim is None else dim

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        return v * (g / self._norm(v))

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        return self._norm(weight), weight

    def _norm(self, v: Tensor) -> Tensor:
        if self.dim == -1:
            return sqrt((v * v).sum())
        others = tuple(d for d in range(v.ndim) if d != self.dim)
        return sqrt((v * v).sum(others, keepdim=True)) if others else sqrt(v * v)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


def weight_norm(module: M, name: str = "weight", dim: int | None = 0) -> M:
    """Learn the length and the direction of weights apart; returns the module.

        >>> import tinygrad_rnn as tg
        >>> layer = tg.nn.utils.parametrizations.weight_norm(tg.nn.Linear(3, 2))
        >>> layer.parametrizations.weight.original0.shape, layer.parametrizations.weight.original1.shape
        ((2, 1), (2, 3))

        w = g v / |v|

    g is `original0`, a number for each index of dimension `dim`, such as each output; v is `original1`. Both begin so
    that w is what it was.

    Args:
        name: of the parameter.
        dim: the dimension that keeps its indices apart; None or -1 for one norm of the whole tensor.

    Raises:
        ValueError: there is no such parameter.
        IndexError: it has no such dimension.

    Source: Salimans and Kingma, "Weight normalization: a simple reparameterization to accelerate training of deep
    neural networks", 2016.
    """
    ndim = parameter_of(module, name).ndim
    if dim is not None and not -1 <= dim < ndim:
        raise IndexError(f"weight_norm: dim must be None, -1 (for the whole) or 0 to {ndim - 1}, not {dim}")
    return register_parametrization(module, name, _WeightNorm(dim))


# ---- Spectral norm ---------------------------------------------------------------------------------------------------


class _SpectralNorm(Module):
    """`W / (u^T W v)`, where u and v come nearer to the first singular vectors each time W is asked for in training.

    Attributes:
        _u, _v: buffers.
    """

    _u: Tensor
    _v: Tensor

    def __init__(self, weight: Tensor, n_power_iterations: int, dim: int, eps: float) -> None:
        self.dim, self.eps, self.n_power_iterations = dim, eps, n_power_iterations
        if weight.ndim > 1:
            matrix = self._matrix(weight).data
            for name, size in zip(("_u", "_v"), matrix.shape):
                drawn = generator().standard_normal(size).astype(matrix.dtype)
                self.register_buffer(name, Tensor(self._unit(drawn)))
            self._come_nearer(matrix, 15)

    def forward(self, weight: Tensor) -> Tensor:
        if weight.ndim == 1:
            return normalize(weight, dim=0, eps=self.eps)
        matrix = self._matrix(weight)
        if self.training and mode.grad and not looking.get():
            self._come_nearer(matrix.data, self.n_power_iterations)
        u, v = Tensor(self._u.data.copy()), Tensor(self._v.data.copy())  # gradients go through sigma, not through these
        return weight / ((matrix @ v) * u).sum()

    def _matrix(self, weight: Tensor) -> Tensor:
        dims = [self.dim, *(d for d in range(weight.ndim) if d != self.dim)]
        return weight.permute(*dims).reshape(weight.shape[self.dim], -1)

    def _come_nearer(self, matrix: np.ndarray, iterations: int) -> None:
        u, v = self._u.data, self._v.data
        for _ in range(iterations):
            u[...] = self._unit(matrix @ v)
            v[...] = self._unit(matrix.T @ u)
        note_change([self._u, self._v])

    def _unit(self, x: np.ndarray) -> np.ndarray:
        return x / max(float(np.linalg.norm(x)), self.eps)

    def extra_repr(self) -> str:
        return f"n_power_iterations={self.n_power_iterations}, dim={self.dim}"


def spectral_norm(
    module: M, name: str = "weight", n_power_iterations: int = 1, eps: float = 1e-12, dim: int | None = None
) -> M:
    """Divide a weight by its largest singular value, so that it makes nothing longer; returns the module.

        >>> import numpy as np
        >>> import tinygrad_rnn as tg
        >>> layer = tg.nn.utils.parametrizations.spectral_norm(tg.nn.Linear(20, 40))
        >>> bool(abs(np.linalg.norm(layer.weight.numpy(), 2) - 1) < 0.2)
        True

        W / sigma,    sigma = u^T W v,    u = W v / |W v|,    v = W^T u / |W^T u|

    The singular value is an estimate from below: u and v are kept, and each time that the weight is read in training
    mode the power method takes a step, though not under `no_grad`, as it does in PyTorch. In a recurrent cell that is
    once for each sequence. Gradients go through sigma, with u and v constant. A weight of more than two dimensions is
    taken as a matrix, a vector is divided by its norm.

    Args:
        name: of the parameter.
        n_power_iterations: steps of the power method each time; there are 15 to begin with.
        eps: the least that a vector is divided by.
        dim: the dimension of the rows of the matrix; 0 by default.

    Raises:
        ValueError: there is no such parameter, or `n_power_iterations` is not positive.
        IndexError: the parameter has no such dimension.

    Source: Miyato, Kataoka, Koyama and Yoshida, "Spectral normalization for generative adversarial networks", 2018.
    """
    weight, dim = parameter_of(module, name), dim or 0
    if n_power_iterations < 1:
        raise ValueError(f"spectral_norm: n_power_iterations must be positive, not {n_power_iterations}")
    if not -weight.ndim <= dim < weight.ndim:
        raise IndexError(f"spectral_norm: dim must be from {-weight.ndim} to {weight.ndim - 1}, not {dim}")
    norm = _SpectralNorm(weight.detach(), n_power_iterations, dim % weight.ndim, eps)
    return register_parametrization(module, name, norm)


# ---- Orthogonal matrices ---------------------------------------------------------------------------------------------

_inverse = Primitive(
    "inverse(x)", "y = x^-1", "[..., N, N] -> [..., N, N]", np.linalg.inv, lambda x: x,
    dx="neg(matmul(mT(y), matmul(dy, mT(y))))",
)  # fmt: skip
_inverse.names = table.matmul.names


def _exponential(A: Tensor) -> Tensor:
    """`1 + A + A^2 / 2 + ...`: the series of A / 2^s, which is below 1, squared s times."""
    largest = float(np.abs(A.data).sum(-1).max(initial=0.0))
    s = math.ceil(math.log2(largest)) if largest > 1 else 0
    one = _identity(A)
    scaled = A * 0.5**s
    series = one
    for k in range(18, 0, -1):  # after which there is 1 / 19!, below what numbers tell apart
        series = one + scaled @ series * (1 / k)
    for _ in range(s):
        series = series @ series
    return series


def _cayley(A: Tensor) -> Tensor:
    one = _identity(A)
    return _inverse(one - 0.5 * A) @ (one + 0.5 * A)


def _reflected(X: Tensor) -> Tensor:
    """The first k columns of a product of reflections `1 - tau v v^T`, v the columns below the diagonal of X [n, k].

    The product is `1 - V T V^T`, where the inverse of T has 1 / tau on its diagonal and those above it of V^T V.
    """
    one = _identity(X)
    V = tril(X, -1) + one
    square = V.mT @ V
    T = _inverse(triu(square, 1) + 0.5 * square * Tensor(np.eye(X.shape[-1], dtype=X.dtype)))
    Q = one - V @ T @ V[..., : X.shape[-1], :].mT
    return Q * Tensor(np.trunc(np.diagonal(X.data, axis1=-2, axis2=-1))[..., None, :])  # signs, which are not learned


def _identity(x: Tensor) -> Tensor:
    return Tensor(np.eye(*x.shape[-2:], dtype=x.dtype))


_MAPS = {"matrix_exp": _exponential, "cayley": _cayley, "householder": _reflected}


class _Orthogonal(Module):
    """The nearest that a map of any matrix comes to an orthogonal one: `base` times that, if there is a base."""

    base: Tensor

    def __init__(self, orthogonal_map: str, use_trivialization: bool) -> None:
        self.orthogonal_map, self.use_trivialization = orthogonal_map, use_trivialization

    def forward(self, X: Tensor) -> Tensor:
        wide = X.shape[-2] < X.shape[-1]
        X = X.mT if wide else X
        n, k = X.shape[-2:]
        if self.orthogonal_map == "householder":
            Q = _reflected(X)
        else:  # of the square matrix
            X = tril(X)
            if n > k:
                X = cat([X, Tensor(np.zeros((*X.shape[:-1], n - k), X.dtype))], -1)
            Q = _MAPS[self.orthogonal_map](X - X.mT)[..., :k]
        if self.use_trivialization:
            Q = self.base @ Q
        return Q.mT if wide else Q

    def right_inverse(self, Q: Tensor) -> Tensor:
        wide = Q.shape[-2] < Q.shape[-1]
        array = Q.data.swapaxes(-1, -2) if wide else Q.data
        if not self.use_trivialization:
            if self.orthogonal_map != "householder":
                raise ValueError(
                    f"orthogonal: {self.orthogonal_map} cannot be given a value without a base: use_trivialization=True"
                )
            packed = _factors(array)
            return Tensor(packed.swapaxes(-1, -2) if wide else packed)
        n, k = array.shape[-2:]
        more = generator().standard_normal((*array.shape[:-2], n, n - k)).astype(array.dtype)
        base = Tensor(_nearest(np.concatenate([array, more], -1)))
        if "base" in vars(self):
            self.base.data[...] = base.data
            note_change([self.base])
        else:
            self.register_buffer("base", base)
        return Tensor(-np.broadcast_to(np.eye(*Q.shape[-2:], dtype=Q.dtype), Q.shape))

    def extra_repr(self) -> str:
        return self.orthogonal_map


def _nearest(A: np.ndarray) -> np.ndarray:
    """A square matrix itself if it is orthogonal, else Q of A = Q R with a positive diagonal of R."""
    n = A.shape[-1]
    if np.allclose(A.swapaxes(-1, -2) @ A, np.eye(n), atol=10 * n * float(np.finfo(A.dtype).eps)):
        return A.copy()
    Q, R = np.linalg.qr(A)
    return Q * _signs(np.diagonal(R, axis1=-2, axis2=-1))[..., None, :]


def _signs(x: np.ndarray) -> np.ndarray:
    """1 or -1, also of 0: a matrix that lacks a rank has zeros on the diagonal of R, and its Q is orthogonal too."""
    return np.where(x < 0, -1, 1).astype(x.dtype)


def _factors(A: np.ndarray) -> np.ndarray:
    """What `_reflected` makes Q of, for A = Q R with a positive diagonal of R."""
    packed, tau = np.linalg.qr(A, mode="raw")
    packed = packed.swapaxes(-1, -2).copy()
    i = np.arange(A.shape[-1])
    packed[..., i, i] = np.where(tau == 0, -1, 1) * _signs(packed[..., i, i])
    return packed


def orthogonal(
    module: M, name: str = "weight", orthogonal_map: str | None = None, *, use_trivialization: bool = True
) -> M:
    """Keep a matrix orthogonal while it is learned: what it multiplies keeps its length; returns the module.

        >>> import numpy as np
        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.utils.parametrizations.orthogonal(tg.nn.RNNCell(3, 8), "weight_hh")
        >>> W = cell.weight_hh.numpy()
        >>> bool(np.abs(W.T @ W - np.eye(8)).max() < 1e-5)
        True

        matrix_exp     Q = B exp(A),                              A = X - X^T of the lower triangle X
        cayley         Q = B (1 - A / 2)^-1 (1 + A / 2)
        householder    Q = B H_1 H_2 ... H_k,                     H_i = 1 - 2 v_i v_i^T / |v_i|^2, v_i from X

    Of a tall matrix the columns are orthonormal, of a wide one the rows. B is a buffer, `base`, and X begins so that
    the rest is the identity: Q begins as the weight if that is orthogonal, else as its Q of a QR decomposition. The
    reflections are multiplied as one product, `1 - V T V^T`. The weights of k gates, [kH, H], are one tall matrix: it
    has orthonormal columns, which does not make that of a gate orthogonal.

    Args:
        name: of the parameter; one of more than two dimensions holds several matrices.
        orthogonal_map: one of the above; by default "matrix_exp" for a square matrix, else "householder".
        use_trivialization: whether there is a base. Without one, only "householder" can begin with a given weight.

    Raises:
        ValueError: there is no such parameter, it is no matrix, or there is no such map; or, without a base, the map
            cannot be given a value.

    Sources: Lezcano-Casado, "Trivializations for gradient-based optimization on manifolds", 2019, whose PyTorch code
    has these names; Helfrich, Willmott and Ye, "Orthogonal recurrent neural networks with scaled Cayley transform",
    2018; Mhammedi et al., "Efficient orthogonal parametrisation of recurrent neural networks using Householder
    reflections", 2017; for T, Joffrain et al., "Accumulating Householder transformations, revisited", 2006.
    """
    weight = parameter_of(module, name)
    if weight.ndim < 2:
        raise ValueError(f"orthogonal: {name} must be a matrix, and has shape {list(weight.shape)}")
    if orthogonal_map is None:
        orthogonal_map = "matrix_exp" if weight.shape[-2] == weight.shape[-1] else "householder"
    if orthogonal_map not in _MAPS:
        raise ValueError(f"orthogonal: orthogonal_map must be one of {', '.join(_MAPS)}, not {orthogonal_map!r}")
    return register_parametrization(module, name, _Orthogonal(orthogonal_map, use_trivialization))
