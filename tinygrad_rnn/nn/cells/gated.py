"""What cells with gates share: their parameters."""

import math
from typing import Any

from ...autograd.shapes import chunk
from ...autograd.tensor import Tensor
from .. import init
from ..cell import Cell
from ..functional import linear
from ..layers import empty
from ..module import Parameter


class GatedCell(Cell):
    """Weights and biases of k gates, each a block of H rows. All start from U(-1 / sqrt(H), 1 / sqrt(H)).

    Attributes:
        gates: one letter for each block, in their order.
        recurrent: whether there is a weight_hh.
        biases: the names of the biases: one, or PyTorch's two.
        weight_ih: [kH, I].
        weight_hh: [kH, H].
        bias, or bias_ih and bias_hh: [kH], or None.
    """

    gates: str
    recurrent: bool = True
    biases: tuple[str, ...] = ("bias",)
    weight_hh: Parameter
    bias: Parameter | None
    bias_ih: Parameter | None
    bias_hh: Parameter | None

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, *, dtype: Any = None) -> None:
        self.input_size: int = input_size
        self.hidden_size = hidden_size
        rows = len(self.gates) * hidden_size
        self.weight_ih = empty(rows, input_size, dtype=dtype)
        if self.recurrent:
            self.weight_hh = empty(rows, hidden_size, dtype=dtype)
        for name in self.biases:
            setattr(self, name, empty(rows, dtype=dtype) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew, as they were drawn to begin with."""
        self._refuse_computed()
        bound = 1 / math.sqrt(self.hidden_size) if self.hidden_size else 0.0
        for parameter in self.parameters(recurse=False):
            init.uniform_(parameter, -bound, bound)
        for child in self.children():
            child.reset_parameters()  # type: ignore[attr-defined]

    def preactivations(self, x: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        """The k parts of `W_ih x + W_hh h + b`."""
        a = linear(x, self.weight_ih, self.bias) + linear(self.masked(h), self.weight_hh)
        return chunk(a, len(self.gates), -1)

    def extra_repr(self) -> str:
        biases = any("bias" in name for name, _ in self.named_parameters())
        return f"{self.input_size}, {self.hidden_size}{'' if biases else ', bias=False'}"
