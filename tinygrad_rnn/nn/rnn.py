"""RNN, LSTM and GRU: stacks of the classic cells, with PyTorch's interface, names of parameters and numbers."""

from collections.abc import Iterable
from typing import Any, ClassVar

from ..fusion.compile import clock
from .cell import Cell
from .cells import GRUCell, LSTMCell, ProjectedLSTMCell, RNNCell
from .functional import check_positive
from .module import Module
from .stacked import Stack


class RecurrentStack(Stack):
    """What RNN, LSTM and GRU share: a `Stack` of classic cells whose parameters have PyTorch's names.

    D is 2 if bidirectional, else 1; O is the size of a cell's output: H, or proj_size for a projected LSTM.

    Shapes:
        input: [T, B, I], or [B, T, I] if batch_first, or [T, I] without a batch.
        hx: each state [num_layers * D, B, its size], or without B if the input has none; zeros by default. The
            directions of a layer follow each other. batch_first does not apply to states.
        output: like the input, with D * O features: the last layer's outputs, forward direction first.
        final states: like hx; those of the backward direction come from t = 0.

    Args:
        input_size: I, the number of features of the input.
        hidden_size: H, the size of the states.
        num_layers: each layer after the first reads the outputs of the one before.
        bias: whether there are biases.
        batch_first: whether input and output are [B, T, ...].
        dropout: while training, the probability with which the elements that pass from layer to layer are dropped.
        bidirectional: whether each layer has a second cell that reads the sequence from its end.
        variational: whether one such mask holds for all steps of a sequence; not in PyTorch.
        dtype: float32 by default.

    Args (when called):
        input, hx: see above.
        lengths: [B] integers, in place of PyTorch's packed sequences; see `Stack`.
        return_states: also return the values of all states after every step; see `Stack`.

    Raises:
        ValueError: an option is out of range; when called, input, states or lengths do not fit.
        TypeError: lengths are no integers.

    Attributes:
        weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0 (and weight_hr_l0): the parameters of the first layer's cell;
            `_l1` ... for further layers, `_l0_reverse` ... for the backward direction.
        fused: which engine runs the cells, see `Recurrent`.
        recurrent_dropout: of an LSTM or a GRU, see `Cell.candidate`.
        gates: a letter for each block of H rows of the weights, in their order.
    """

    __slots__ = ("_prepared",)  # when the cells last got what is this module's: the clock's time
    gates: str
    recurrent_dropout: float

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        variational: bool = False,
        dtype: Any = None,
    ) -> None:
        for option, size in (("input_size", input_size), ("hidden_size", hidden_size)):
            check_positive(f"{type(self).__name__}: {option}", size)
        self.hidden_size, self.bias, self.proj_size = hidden_size, bias, proj_size
        super().__init__(
            lambda width: self._make_cell(width, dtype),
            input_size,
            num_layers,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            variational=variational,
        )
        lent: list[tuple[Cell, str, str]] = []  # (cell, its name for a parameter, our name for it)
        for layer, scans in enumerate(self._scans):
            for scan in scans:
                for name, parameter in scan.cell.named_parameters():
                    lent.append((scan.cell, name, f"{name}_l{layer}{'_reverse' * scan.reverse}"))
                    setattr(self, lent[-1][2], parameter)
        self._prepared: Any = None
        self._lent = lent
        self._prepare()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        self._prepare()  # who has got hold of a cell sees it at once

    def _make_cell(self, input_size: int, dtype: Any) -> Cell:
        raise NotImplementedError

    _apart: ClassVar[tuple[str, ...]] = ("_scans", "_lent")

    def _members(self) -> Iterable[tuple[str, Any]]:
        """The parameters alone, under PyTorch's names: the cells only borrow them."""
        return Module._members(self)

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        self._prepare()
        for cell in self.cells:
            cell.reset_parameters()  # type: ignore[attr-defined]

    def _prepare(self) -> None:
        """Give the cells the parameters, the mode and the recurrent dropout that are this module's at the moment."""
        own, now = vars(self), clock.now
        if "_lent" not in own or self._prepared is now:
            return
        for cell, cells_name, name in self._lent:
            vars(cell)[cells_name] = own[name]
        for layer in self._scans:
            for scan in layer:
                cell = scan.cell
                if cell.training is not self.training:
                    cell.train(self.training)
                if "recurrent_dropout" in own and cell.recurrent_dropout is not self.recurrent_dropout:
                    cell.recurrent_dropout = self.recurrent_dropout
        object.__setattr__(self, "_prepared", now)

    def extra_repr(self) -> str:
        names = ["num_layers", "bias", "batch_first", "dropout", "bidirectional", "proj_size", "variational"]
        return ", ".join([str(self.input_size), str(self.hidden_size), *self._options(*names, "recurrent_dropout")])


class RNN(RecurrentStack):
    """Layers of `RNNCell`: `h' = tanh(W_ih x + b_ih + W_hh h + b_hh)` (Elman, 1990).

        >>> import tinygrad_rnn as tg
        >>> y, h = tg.nn.RNN(28, 64)(tg.ones(7, 5, 28))
        >>> y.shape, h.shape
        ((7, 5, 64), (1, 5, 64))

    `output, h_n = rnn(input, h_0)`. Arguments and shapes are those of `RecurrentStack`, PyTorch's.

    Args:
        nonlinearity: "tanh", or "relu" in its place.
    """

    gates = RNNCell.gates

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        variational: bool = False,
        dtype: Any = None,
    ) -> None:
        self.nonlinearity = nonlinearity
        options = dict(variational=variational, dtype=dtype)
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, **options)

    def _make_cell(self, input_size: int, dtype: Any) -> Cell:
        return RNNCell(input_size, self.hidden_size, self.bias, self.nonlinearity, dtype=dtype)

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity!r}")


class LSTM(RecurrentStack):
    """Layers of `LSTMCell` (Hochreiter and Schmidhuber, 1997; Gers et al., 2000), gate order i f g o.

        >>> import tinygrad_rnn as tg
        >>> layer = tg.nn.LSTM(28, 64)
        >>> y, (h, c) = layer(tg.ones(7, 5, 28))
        >>> y.shape, h.shape, c.shape
        ((7, 5, 64), (1, 5, 64), (1, 5, 64))
        >>> sum(p.numel() for p in layer.parameters())  # 4 H (I + H + 2)
        24064

    `output, (h_n, c_n) = lstm(input, (h_0, c_0))`. Arguments and shapes are those of `RecurrentStack`, PyTorch's.

    Args:
        proj_size: P, if positive: outputs and h are projected to P numbers, see `ProjectedLSTMCell`.
        recurrent_dropout: while training, the probability with which elements of tanh(g) are dropped at each step, see
            `Cell.candidate`; not in PyTorch.
    """

    gates = LSTMCell.gates

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        variational: bool = False,
        recurrent_dropout: float = 0.0,
        dtype: Any = None,
    ) -> None:
        if proj_size and not 0 < proj_size < hidden_size:
            raise ValueError(f"LSTM: proj_size must be at least 0 and below hidden_size={hidden_size}, not {proj_size}")
        self.recurrent_dropout = recurrent_dropout
        options = dict(variational=variational, dtype=dtype)
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, **options
        )

    def _make_cell(self, input_size: int, dtype: Any) -> Cell:
        if self.proj_size:
            return ProjectedLSTMCell(input_size, self.hidden_size, self.proj_size, self.bias, dtype=dtype)
        return LSTMCell(input_size, self.hidden_size, self.bias, dtype=dtype)


class GRU(RecurrentStack):
    """Layers of `GRUCell` (Cho et al., 2014), gate order r z n, "reset after".

        >>> import tinygrad_rnn as tg
        >>> y, h = tg.nn.GRU(28, 64, num_layers=2, bidirectional=True)(tg.ones(7, 5, 28), lengths=[7, 2, 4, 7, 1])
        >>> y.shape, h.shape
        ((7, 5, 128), (4, 5, 64))

    `output, h_n = gru(input, h_0)`. Arguments and shapes are those of `RecurrentStack`, PyTorch's.

    Args:
        recurrent_dropout: while training, the probability with which elements of n are dropped at each step, see
            `Cell.candidate`; not in PyTorch.
    """

    gates = GRUCell.gates

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        variational: bool = False,
        recurrent_dropout: float = 0.0,
        dtype: Any = None,
    ) -> None:
        self.recurrent_dropout = recurrent_dropout
        options = dict(variational=variational, dtype=dtype)
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, **options)

    def _make_cell(self, input_size: int, dtype: Any) -> Cell:
        return GRUCell(input_size, self.hidden_size, self.bias, dtype=dtype)
