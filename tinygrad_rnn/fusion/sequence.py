"""What a cell is run over."""

from typing import Any

from ..autograd.tensor import Tensor
from ..kernels.locks import lazy
from .rows import RaggedRows, Rows, full_rows

States = tuple[Tensor, ...]


class Sequence:
    """What a cell is run over.

    Args:
        x: [T, B, I], or a tuple of inputs [T, B, ...] that a step gets as a tuple.
        states: the initial ones.
        reverse: start at the end.
        lengths: [B], of the sequences; None if all have T steps.
        watched: of how many states, from the first, the values at every step are wanted.
        values: [B, ...] each, what step takes by name, the same at every step.
    """

    def __init__(
        self, x: Any, states: States, reverse: bool = False, lengths: Any = None, watched: int = 1, values: Any = None
    ) -> None:
        self.several = isinstance(x, tuple)
        self.inputs: States = x if self.several else (x,)
        self.T: int = self.inputs[0].shape[0]
        self.B: int = self.inputs[0].shape[1]
        self.states, self.reverse, self.lengths, self.watched = states, reverse, lengths, watched
        self.values: dict[str, Tensor] = values or {}

    @lazy
    def rows(self) -> Rows:
        """The layout of the batch."""
        if self.lengths is None:
            return full_rows(self.T, self.B, self.reverse)
        return RaggedRows(self.T, self.lengths, self.reverse)

    @property
    def kind(self) -> Any:
        """What a compiled cell depends on."""
        inputs, each = [x.data for x in self.inputs], [x.data for x in (*self.states, *self.values.values())]
        kinds = [(x.shape[2:], x.dtype.char) for x in inputs] + [(x.shape[1:], x.dtype.char) for x in each]
        return (self.several, self.watched, *kinds, *self.values)
