"""Layers without time: Linear, Embedding, LayerNorm, Dropout, GaussianNoise."""

import math
from typing import Any

import numpy as np

from ..autograd.operands import as_array, sizes
from ..autograd.primitive import FLOAT32
from ..autograd.tensor import Tensor
from . import functional, init
from .module import Module, Parameter


def empty(*shape: int, dtype: Any = None) -> Parameter:
    """A parameter whose values are still to be set. What a layer was made with may be no size: that is told here."""
    if not all(isinstance(n, (int, np.integer)) and n >= 0 for n in shape):
        raise ValueError(f"a layer's sizes are integers of at least 0, but a parameter of it would be {list(shape)}")
    return Parameter(np.zeros(shape, FLOAT32 if dtype is None else dtype))


class Linear(Module):
    """`y = x W^T + b`, with W and b from U(-1 / sqrt(in_features), 1 / sqrt(in_features)) to begin with.

        >>> import tinygrad_rnn as tg
        >>> layer = tg.nn.Linear(3, 4)
        >>> layer(tg.ones(7, 5, 3)).shape, layer.weight.shape, layer.bias.shape
        ((7, 5, 4), (4, 3), (4,))

    Shapes: x [..., in_features] -> [..., out_features].

    Attributes:
        weight: W, [out_features, in_features].
        bias: b, [out_features], or None.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, dtype: Any = None) -> None:
        self.in_features, self.out_features = in_features, out_features
        self.weight = empty(out_features, in_features, dtype=dtype)
        self.bias = empty(out_features, dtype=dtype) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        self._refuse_computed()
        bound = 1 / math.sqrt(self.in_features) if self.in_features else 0.0
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def forward(self, input: Any) -> Tensor:
        return functional.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Embedding(Module):
    """A table of vectors, looked up by integers: [...] -> [..., embedding_dim]. Starts from N(0, 1).

        >>> import tinygrad_rnn as tg
        >>> vectors = tg.nn.Embedding(100, 8)
        >>> vectors(tg.tensor([[1, 2, 3], [4, 5, 6]])).shape
        (2, 3, 8)

    Args:
        padding_idx: a row that starts as zeros and gets no gradient; negative ones are counted from the end.
        dropout: while training, the probability of a row to be 0 throughout a call, wherever it is named; the other
            rows are divided by 1 - dropout (Gal, Ghahramani, 2016; Merity, Keskar, Socher, 2018).

    Attributes:
        weight: the table, [num_embeddings, embedding_dim].
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        dropout: float = 0.0,
        dtype: Any = None,
    ) -> None:
        functional.check_below_one("Embedding: dropout", dropout, "would erase every word")
        self.dropout = dropout
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        if padding_idx is not None:
            padding_idx = functional.row_number("Embedding", padding_idx, num_embeddings)
        self.padding_idx = padding_idx
        self.weight = empty(num_embeddings, embedding_dim, dtype=dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the vectors anew."""
        self._refuse_computed()
        init.normal_(self.weight)
        if self.padding_idx is not None:
            self.weight.numpy()[self.padding_idx] = 0

    @classmethod
    def from_pretrained(cls, embeddings: Any, freeze: bool = True, padding_idx: int | None = None) -> "Embedding":
        """An Embedding with a copy of the given table, [num_embeddings, embedding_dim], learned unless `freeze`."""
        table = as_array(embeddings)
        if table.ndim != 2:
            raise ValueError(f"Embedding: the table must be 2-d, got shape {list(table.shape)}")
        module = cls(table.shape[0], table.shape[1], padding_idx, dtype=table.dtype)
        module.weight = Parameter(table, requires_grad=not freeze)
        return module

    def forward(self, input: Any) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        return functional.embedding(input, self.weight, self.padding_idx, dropout=dropout)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        dropout = f", dropout={self.dropout}" if self.dropout else ""
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}{dropout}"


class LayerNorm(Module):
    """`y = (x - mean) / sqrt(var + eps) * weight + bias` over the last dimensions (Ba et al., 2016).

        >>> import tinygrad_rnn as tg
        >>> tg.nn.LayerNorm(2)(tg.tensor([[1.0, 3.0], [10.0, 30.0]]))
        tensor([[-1.,  1.],
                [-1.,  1.]], grad_fn=layer_norm)

    Args:
        normalized_shape: the sizes of those dimensions; a single int for the last one.
        elementwise_affine: whether there are a weight and a bias at all.
        bias: whether there is a bias.

    Attributes:
        weight: ones to begin with, [*normalized_shape], or None.
        bias: zeros to begin with, [*normalized_shape], or None.
    """

    def __init__(
        self,
        normalized_shape: Any,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: Any = None,
    ) -> None:
        self.normalized_shape = sizes("LayerNorm", (normalized_shape,))
        self.eps, self.elementwise_affine = eps, elementwise_affine
        self.weight = empty(*self.normalized_shape, dtype=dtype) if elementwise_affine else None
        self.bias = empty(*self.normalized_shape, dtype=dtype) if elementwise_affine and bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Back to ones and zeros."""
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, input: Any) -> Tensor:
        return functional.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{list(self.normalized_shape)}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class Dropout(Module):
    """While training, each element is 0 with probability p, else divided by 1 - p (Srivastava et al., 2014).

        >>> import tinygrad_rnn as tg
        >>> drop = tg.nn.Dropout(0.5)
        >>> drop.eval()(tg.ones(3))
        tensor([1., 1., 1.])
        >>> sorted(set(drop.train()(tg.ones(1000)).tolist()))
        [0.0, 2.0]
    """

    def __init__(self, p: float = 0.5) -> None:
        functional.check_probability("Dropout", p)
        self.p = p

    def forward(self, input: Any) -> Tensor:
        return functional.dropout(input, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class GaussianNoise(Module):
    """While training, a number from N(0, std^2) is added to each element (Poole et al., 2014).

        >>> import tinygrad_rnn as tg
        >>> noise = tg.nn.GaussianNoise(0.1)
        >>> noise.eval()(tg.ones(3))
        tensor([1., 1., 1.])

    Between recurrent layers or on their input it makes what they compute depend less on details.

    Raises:
        ValueError: std is negative, NaN or infinite.
    """

    def __init__(self, std: float = 0.1) -> None:
        functional.check_deviation("GaussianNoise", std)
        self.std = std

    def forward(self, input: Any) -> Tensor:
        return functional.gaussian_noise(input, self.std, self.training)

    def extra_repr(self) -> str:
        return f"std={self.std}"
