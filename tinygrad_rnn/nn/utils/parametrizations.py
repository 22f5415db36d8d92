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

from typing import TypeVar

from ...autograd.pointwise import sqrt
from ...autograd.tensor import Tensor
from ..module import Module
from .parametrize import parameter_of, register_parametrization

M = TypeVar("M", bound=Module)


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
