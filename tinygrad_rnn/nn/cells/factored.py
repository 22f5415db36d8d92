"""Cells whose weights are products of thin matrices, or blocks of them: fewer parameters for as many units."""

import math
from collections.abc import Iterable
from typing import Any

from ...autograd.creation import zeros
from ...autograd.pointwise import sigmoid, tanh
from ...autograd.shapes import cat, chunk
from ...autograd.tensor import Tensor
from .. import init
from ..cell import Cell
from ..functional import linear
from ..layers import empty
from ..module import Parameter
from .catalogue import listed
from .options import whole


class _LSTM(Cell):
    """An LSTM, projected or not, but for how its gates come about."""

    hidden_size: int
    proj_size: int
    weight_hr: Parameter | None

    def gates(self, x: Tensor, h: Tensor) -> Iterable[Tensor]:
        """i, f, g and o before their nonlinearities, [B, H] each."""
        raise NotImplementedError

    def reset_parameters(self) -> None:
        """Draw all parameters anew, from U(-1 / sqrt(n), 1 / sqrt(n)) for rows of n numbers; biases are zeros."""
        self._refuse_computed()
        for name, parameter in self.named_parameters():
            bound = 0.0 if name == "bias" or not parameter.shape[-1] else 1 / math.sqrt(parameter.shape[-1])
            init.uniform_(parameter, -bound, bound)

    def initial_state(self, batch_size: int) -> tuple[Tensor, Tensor]:
        outputs, dtype = self.proj_size or self.hidden_size, next(self.parameters()).dtype
        return zeros(batch_size, outputs, dtype=dtype), zeros(batch_size, self.hidden_size, dtype=dtype)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o = self.gates(x, self.masked(h))
        c = sigmoid(f) * c + sigmoid(i) * self.candidate(tanh(g))
        m = sigmoid(o) * tanh(c)
        return (m if self.weight_hr is None else linear(m, self.weight_hr)), c


@listed(
    "an LSTM of W_2 (W_1 [x, h])",
    "Kuchaiev and Ginsburg, 2017",
    lambda I, H: FactorisedLSTMCell(I, H, max(H // 4, 1)),
)
class FactorisedLSTMCell(_LSTM):
    """A projected LSTM whose gates are a product of two thin matrices (Kuchaiev and Ginsburg, 2017).

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.cells.FactorisedLSTMCell(28, 64, rank=8, proj_size=16)
        >>> sum(p.numel() for p in cell.parameters())  # 8 (28 + 16) + 4 64 (8 + 1) + 16 64
        3680

        i, f, g, o = W_2 (W_1 [x, h]) + b
        c' = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h' = P (sigmoid(o) * tanh(c'))

    c is [B, H], h is [B, P]. With `proj_size=0` there is no projection, and h is [B, H]. A rank below
    4 H (I + P) / (4 H + I + P) has fewer parameters than the full matrix.

    Attributes:
        weight_1: [rank, I + P], no bias.
        weight_2: [4H, rank].
        bias: [4H], or None.
        weight_hr: the projection, [P, H], or None.

    Source: Kuchaiev, Ginsburg, "Factorization tricks for LSTM networks", 2017.
    """

    def __init__(
        self, input_size: int, hidden_size: int, rank: int, proj_size: int = 0, bias: bool = True, *, dtype: Any = None
    ) -> None:
        whole(self, rank=rank)
        whole(self, least=0, proj_size=proj_size)
        self.input_size, self.hidden_size, self.rank, self.proj_size = input_size, hidden_size, rank, proj_size
        self.weight_1 = empty(rank, input_size + (proj_size or hidden_size), dtype=dtype)
        self.weight_2 = empty(4 * hidden_size, rank, dtype=dtype)
        self.bias = empty(4 * hidden_size, dtype=dtype) if bias else None
        self.weight_hr = empty(proj_size, hidden_size, dtype=dtype) if proj_size else None
        self.reset_parameters()

    def gates(self, x: Tensor, h: Tensor) -> Iterable[Tensor]:
        W_x, W_h = self.weight_1[:, : self.input_size], self.weight_1[:, self.input_size :]
        return chunk(linear(linear(x, W_x) + linear(h, W_h), self.weight_2, self.bias), 4, -1)

    def extra_repr(self) -> str:
        sizes = f"{self.input_size}, {self.hidden_size}, rank={self.rank}, proj_size={self.proj_size}"
        return sizes if self.bias is not None else f"{sizes}, bias=False"


@listed(
    "LSTMs, each of its part of x and h",
    "Kuchaiev and Ginsburg, 2017",
    lambda I, H: GroupLSTMCell(I, H, 2 - (I % 2 | H % 2)),
)
class GroupLSTMCell(_LSTM):
    """A projected LSTM in groups, each of which sees its part of x and of h (Kuchaiev and Ginsburg, 2017).

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.cells.GroupLSTMCell(28, 64, groups=2, proj_size=16)
        >>> sum(p.numel() for p in cell.parameters())  # 4 64 (28 + 16) / 2 + 4 64 + 16 64
        6912

        i, f, g, o = W_k [x_k, h_k] + b_k        of group k
        c_k' = sigmoid(f) * c_k + sigmoid(i) * tanh(g)
        m_k = sigmoid(o) * tanh(c_k')
        h' = P [m_1, ..., m_n]

    c is [B, H], h is [B, P]; the projection, which is full, is where groups meet. With `proj_size=0` there is none.

    Attributes:
        weight: of the groups, [n, 4H / n, (I + P) / n].
        bias: of the groups, [n, 4H / n], or None.
        weight_hr: the projection, [P, H], or None.

    Raises:
        ValueError: the groups do not divide the sizes.

    Source: Kuchaiev, Ginsburg, "Factorization tricks for LSTM networks", 2017.
    """

    def __init__(
        self, input_size: int, hidden_size: int, groups: int = 2, proj_size: int = 0, bias: bool = True, *,
        dtype: Any = None,
    ) -> None:  # fmt: skip
        output = proj_size or hidden_size
        whole(self, groups=groups)
        whole(self, least=0, proj_size=proj_size)
        if any(n % groups for n in (input_size, hidden_size, output)):
            raise ValueError(
                f"GroupLSTMCell: {groups} groups do not divide {input_size} inputs, {hidden_size} units and {output} "
                "outputs"
            )
        self.input_size, self.hidden_size, self.groups, self.proj_size = input_size, hidden_size, groups, proj_size
        rows, columns = 4 * hidden_size // groups, (input_size + output) // groups
        self.weight = empty(groups, rows, columns, dtype=dtype)
        self.bias = empty(groups, rows, dtype=dtype) if bias else None
        self.weight_hr = empty(proj_size, hidden_size, dtype=dtype) if proj_size else None
        self.reset_parameters()

    def gates(self, x: Tensor, h: Tensor) -> Iterable[Tensor]:
        width, groups = x.shape[-1] // self.groups, []
        for k, (x_k, h_k) in enumerate(zip(chunk(x, self.groups, -1), chunk(h, self.groups, -1))):
            W, b = self.weight[k], None if self.bias is None else self.bias[k]
            groups.append(chunk(linear(x_k, W[:, :width], b) + linear(h_k, W[:, width:]), 4, -1))
        return (cat(gate, -1) for gate in zip(*groups))

    def extra_repr(self) -> str:
        sizes = f"{self.input_size}, {self.hidden_size}, groups={self.groups}, proj_size={self.proj_size}"
        return sizes if self.bias is not None else f"{sizes}, bias=False"


@listed("h' = a tanh(W x + U h + b) + k h", "Kusupati et al., 2018")
class FastRNNCell(Cell):
    """An RNN with a weighted residual connection: two numbers more, and gradients that last (Kusupati et al., 2018).

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.cells.FastRNNCell(28, 64)
        >>> sum(p.numel() for p in cell.parameters()) == 64 * (28 + 64 + 1) + 2
        True

        n = tanh(W x + U h + b)
        h' = sigmoid(alpha) * n + sigmoid(beta) * h

    Args:
        input_rank, hidden_rank: W and U are products of two matrices of this rank; None: they are not.

    Attributes:
        alpha, beta: [1], -3 and 3 to begin with: little is new, most is kept.
        weight_ih, weight_hh: W [H, I] and U [H, H]; or, of a low rank r, weight_ih_1 [r, I] and weight_ih_2 [H, r], ...
        bias: [H], ones to begin with, or None.
        scalars, biases: the names of the parameters that are such, of scalars with what they start from.

    Source: Kusupati et al., "FastGRNN: a fast, accurate, stable and tiny kilobyte sized gated recurrent neural
    network", 2018, and its authors' code, EdgeML.
    """

    scalars: tuple[tuple[str, float], ...] = (("alpha", -3.0), ("beta", 3.0))
    biases: tuple[str, ...] = ("bias",)
    alpha: Parameter
    beta: Parameter
    bias: Parameter | None

    def __init__(
        self, input_size: int, hidden_size: int, input_rank: int | None = None, hidden_rank: int | None = None,
        bias: bool = True, *, dtype: Any = None,
    ) -> None:  # fmt: skip
        self.input_size, self.hidden_size = input_size, hidden_size
        self.input_rank, self.hidden_rank = input_rank, hidden_rank
        for name, rank in (("input_rank", input_rank), ("hidden_rank", hidden_rank)):
            if rank is not None:
                whole(self, **{name: rank})
        for name, columns, rank in (("weight_ih", input_size, input_rank), ("weight_hh", hidden_size, hidden_rank)):
            shapes = {name: (hidden_size, columns)}
            if rank is not None:
                shapes = {f"{name}_1": (rank, columns), f"{name}_2": (hidden_size, rank)}
            for each, shape in shapes.items():
                setattr(self, each, empty(*shape, dtype=dtype))
        for name in self.biases:
            setattr(self, name, empty(hidden_size, dtype=dtype) if bias else None)
        for name, _ in self.scalars:
            setattr(self, name, empty(1, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew: weights from N(0, 0.1^2), biases ones."""
        self._refuse_computed()
        for parameter in self.parameters():
            init.normal_(parameter, 0.0, 0.1)
        for name, value in (*((name, 1.0) for name in self.biases), *self.scalars):
            if getattr(self, name) is not None:
                init.constant_(getattr(self, name), value)

    def preactivation(self, x: Tensor, h: Tensor) -> Tensor:
        """`W x + U h`."""
        W = ["weight_ih"] if self.input_rank is None else ["weight_ih_1", "weight_ih_2"]
        U = ["weight_hh"] if self.hidden_rank is None else ["weight_hh_1", "weight_hh_2"]
        h = self.masked(h)
        for name in W:
            x = linear(x, getattr(self, name))
        for name in U:
            h = linear(h, getattr(self, name))
        return x + h

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        n = self.candidate(tanh(_plus(self.preactivation(x, h), self.bias)))
        return sigmoid(self.alpha) * n + sigmoid(self.beta) * h

    def extra_repr(self) -> str:
        ranks = "" if self.input_rank is None else f", input_rank={self.input_rank}"
        ranks += "" if self.hidden_rank is None else f", hidden_rank={self.hidden_rank}"
        ranks += "" if getattr(self, self.biases[0]) is not None else ", bias=False"
        return f"{self.input_size}, {self.hidden_size}{ranks}"


@listed("h' = z h + (a (1 - z) + k) tanh(W x + U h + b)", "Kusupati et al., 2018")
class FastGRNNCell(FastRNNCell):
    """A gated cell of a few kilobytes: gate and candidate share their matrices (Kusupati et al., 2018).

        >>> import tinygrad_rnn as tg
        >>> cell = tg.nn.cells.FastGRNNCell(28, 64, input_rank=8, hidden_rank=16)
        >>> sum(p.numel() for p in cell.parameters())  # 8 (28 + 64) + 16 (64 + 64) + 2 64 + 2
        2914

        z = sigmoid(W x + U h + b_z)
        n = tanh(W x + U h + b_n)
        h' = z * h + (sigmoid(zeta) * (1 - z) + sigmoid(nu)) * n

    Args:
        input_rank, hidden_rank: W and U are products of two matrices of this rank; None: they are not.

    Attributes:
        zeta, nu: [1], 1 and -4 to begin with.
        bias_z, bias_n: [H], ones to begin with, or None.
        weight_ih, weight_hh: as of `FastRNNCell`.

    Source: Kusupati et al., "FastGRNN: a fast, accurate, stable and tiny kilobyte sized gated recurrent neural
    network", 2018, and its authors' code, EdgeML.
    """

    scalars = (("zeta", 1.0), ("nu", -4.0))
    biases = ("bias_z", "bias_n")
    zeta: Parameter
    nu: Parameter
    bias_z: Parameter | None
    bias_n: Parameter | None

    def step(self, x: Tensor, h: Tensor) -> Tensor:
        a = self.preactivation(x, h)
        z, n = sigmoid(_plus(a, self.bias_z)), self.candidate(tanh(_plus(a, self.bias_n)))
        return z * h + (sigmoid(self.zeta) * (1 - z) + sigmoid(self.nu)) * n


def _plus(a: Tensor, bias: Parameter | None) -> Tensor:
    return a if bias is None else a + bias
