"""RNN, LSTM and GRU: layers of cells, forwards and backwards in time, with PyTorch's interface.

They compute nothing themselves. Each layer and direction is a `Recurrent` over one of the classic cells, as a user's
cell would be.
"""

import warnings
from collections.abc import Iterator
from typing import Any

from ..autograd.operands import as_tensor
from ..autograd.shapes import cat, squeeze, stack, transpose, unsqueeze
from ..autograd.tensor import Tensor
from .cell import Cell, as_states
from .cells import GRUCell, LSTMCell, ProjectedLSTMCell, RNNCell
from .functional import check_probability, dropout
from .module import Module
from .recurrent import Recurrent


class RecurrentStack(Module):
    """What RNN, LSTM and GRU share.

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
        dtype: float32 by default.

    Raises:
        ValueError: an option is out of range; when called, input or states have the wrong shape.

    Attributes:
        weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0 (and weight_hr_l0): the parameters of the first layer's cell;
            `_l1` ... for further layers, `_l0_reverse` ... for the backward direction.
        fused: which engine runs the cells, see `Recurrent`.
    """

    gates: str

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
        dtype: Any = None,
    ) -> None:
        name = type(self).__name__
        for option, value in (("hidden_size", hidden_size), ("num_layers", num_layers)):
            if not value > 0:
                raise ValueError(f"{name}: {option} must be positive, not {value}")
        check_probability(f"{name}: dropout", dropout)
        if dropout and num_layers == 1:
            warnings.warn(
                f"{name}: dropout={dropout} acts between layers, so with num_layers=1 it does nothing", stacklevel=3
            )
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout, self.bidirectional = bias, batch_first, dropout, bidirectional
        self.proj_size = proj_size
        directions = ("", "_reverse") if bidirectional else ("",)
        self._scans: list[list[Recurrent]] = []
        self._lent: list[tuple[Cell, str, str]] = []  # (cell, its name for a parameter, our name for it)
        for layer in range(num_layers):
            width = len(directions) * (proj_size or hidden_size) if layer else input_size
            self._scans.append([])
            for direction in directions:
                cell = self._make_cell(width, dtype)
                self._scans[-1].append(Recurrent(cell, reverse=direction == "_reverse"))
                for name, parameter in cell.named_parameters():
                    self._lent.append((cell, name, f"{name}_l{layer}{direction}"))
                    setattr(self, self._lent[-1][2], parameter)

    def _make_cell(self, input_size: int, dtype: Any) -> Cell:
        raise NotImplementedError

    def _members(self) -> Iterator[tuple[str, Any]]:
        """The parameters alone, under PyTorch's names: the cells only borrow them."""
        return ((name, value) for name, value in super()._members() if not name.startswith(("_scans.", "_lent.")))

    def reset_parameters(self) -> None:
        """Draw all parameters anew."""
        for cell in self._cells():
            cell.reset_parameters()  # type: ignore[attr-defined]

    @property
    def fused(self) -> str:
        """Which engine runs the cells: "auto", "require" or "never"."""
        return self._scans[0][0].fused

    @fused.setter
    def fused(self, choice: str) -> None:
        for layer in self._scans:
            for scan in layer:
                scan.fused = choice

    def source(self, direction: str = "forward", layer: int = 0) -> str:
        """The source of the compiled kernels of one layer, see `Recurrent.source`; both directions share it."""
        list(self._cells())
        return self._scans[layer][0].source(direction)

    def explain(self) -> str:
        """What the compiler made of the cells of all layers, see `Recurrent.explain`; both directions share it."""
        list(self._cells())
        texts = [layer[0].explain() for layer in self._scans]
        if len(texts) == 1:
            return texts[0]
        return "\n\n".join(f"Layer {number}, {text}" for number, text in enumerate(texts))

    def _cells(self) -> Iterator[Cell]:
        """The cells of all layers and directions, with the parameters that are this module's at the moment."""
        for cell, cells_name, name in self._lent:
            vars(cell)[cells_name] = vars(self)[name]
        return (scan.cell for layer in self._scans for scan in layer)

    def forward(self, input: Any, hx: Any = None) -> tuple[Tensor, Any]:
        """The outputs of the last layer at every step, and the final states of all layers: see the class."""
        x = as_tensor(input)
        batched = self._check_input(x)
        states = None if hx is None else as_states(hx)
        if not batched:
            x = unsqueeze(x, 1)
            states = None if states is None else tuple(unsqueeze(s, 1) for s in states)
        elif self.batch_first:
            x = transpose(x, 0, 1)
        cells = list(self._cells())
        if states is not None:
            self._check_states(states, cells, x.shape[1], batched)

        finals: list[tuple[Tensor, ...]] = []  # by layer and direction
        for number, layer in enumerate(self._scans):
            if number and self.training and self.dropout:
                x = dropout(x, self.dropout)
            outputs = []
            for scan in layer:
                y, final = scan(x, None if states is None else tuple(s[len(finals)] for s in states))
                outputs.append(y)
                finals.append(as_states(final))
            x = cat(outputs, -1) if len(outputs) > 1 else outputs[0]

        last = [stack(each) if len(each) > 1 else unsqueeze(each[0], 0) for each in zip(*finals)]
        if not batched:
            x, last = squeeze(x, 1), [squeeze(s, 1) for s in last]
        elif self.batch_first:
            x = transpose(x, 0, 1)
        return x, tuple(last) if len(last) > 1 else last[0]

    def _check_input(self, x: Tensor) -> bool:
        """Whether the input has a batch dimension."""
        name = type(self).__name__
        if x.ndim not in (2, 3):
            raise ValueError(
                f"{name}: expected an input of 3 dimensions, or 2 without a batch, got {x.ndim} (shape {list(x.shape)})"
            )
        if x.shape[-1] != self.input_size:
            raise ValueError(
                f"{name}: expected {self.input_size} features in the last dimension, got {x.shape[-1]} (shape "
                f"{list(x.shape)})"
            )
        if x.shape[1 if x.ndim == 3 and self.batch_first else 0] == 0:
            raise ValueError(f"{name}: the sequence has no steps (shape {list(x.shape)})")
        return x.ndim == 3

    def _check_states(self, states: tuple[Tensor, ...], cells: list[Cell], batch_size: int, batched: bool) -> None:
        name, names = type(self).__name__, cells[0].state_names
        if len(states) != len(names):
            raise ValueError(
                f"{name}: expected initial state{'s' * (len(names) > 1)} {', '.join(names)}, got {len(states)} of them"
            )
        for state_name, state, pattern in zip(names, states, cells[0].begin(None, batch_size)):
            expected = (len(cells), *pattern.shape)
            if state.shape != expected:
                without = lambda shape: list(shape if batched else (*shape[:1], *shape[2:]))
                raise ValueError(
                    f"{name}: initial state {state_name} has shape {without(state.shape)}, expected "
                    f"{without(expected)}: [num_layers * directions, {'batch, ' if batched else ''}size]"
                )

    def extra_repr(self) -> str:
        defaults = {
            "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False, "proj_size": 0
        }  # fmt: skip
        options = [f"{name}={getattr(self, name)}" for name, value in defaults.items() if getattr(self, name) != value]
        return ", ".join([str(self.input_size), str(self.hidden_size), *options])


class RNN(RecurrentStack):
    """Layers of `RNNCell`: `h' = tanh(W_ih x + b_ih + W_hh h + b_hh)` (Elman, 1990).

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
        dtype: Any = None,
    ) -> None:
        self.nonlinearity = nonlinearity
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype=dtype)

    def _make_cell(self, input_size: int, dtype: Any) -> Cell:
        return RNNCell(input_size, self.hidden_size, self.bias, self.nonlinearity, dtype=dtype)

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity!r}")


class LSTM(RecurrentStack):
    """Layers of `LSTMCell` (Hochreiter and Schmidhuber, 1997; Gers et al., 2000), gate order i f g o.

    `output, (h_n, c_n) = lstm(input, (h_0, c_0))`. Arguments and shapes are those of `RecurrentStack`, PyTorch's.

    Args:
        proj_size: P, if positive: outputs and h are projected to P numbers, see `ProjectedLSTMCell`.
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
        dtype: Any = None,
    ) -> None:
        if proj_size and not 0 < proj_size < hidden_size:
            raise ValueError(f"LSTM: proj_size must be at least 0 and below hidden_size={hidden_size}, not {proj_size}")
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, dtype=dtype
        )

    def _make_cell(self, input_size: int, dtype: Any) -> Cell:
        if self.proj_size:
            return ProjectedLSTMCell(input_size, self.hidden_size, self.proj_size, self.bias, dtype=dtype)
        return LSTMCell(input_size, self.hidden_size, self.bias, dtype=dtype)


class GRU(RecurrentStack):
    """Layers of `GRUCell` (Cho et al., 2014), gate order r z n, "reset after".

    `output, h_n = gru(input, h_0)`. Arguments and shapes are those of `RecurrentStack`, PyTorch's.
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
        dtype: Any = None,
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype=dtype)

    def _make_cell(self, input_size: int, dtype: Any) -> Cell:
        return GRUCell(input_size, self.hidden_size, self.bias, dtype=dtype)
