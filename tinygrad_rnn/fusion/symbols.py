"""What a step computes with while it is traced: tensors that have a shape and a dtype, and no numbers."""

import sys
from typing import Any, NoReturn

import numpy as np

from ..autograd import tape
from ..autograd.primitive import Shape
from ..autograd.tape import mode, ours
from ..autograd.tensor import Tensor
from .program import Value
from .refusal import Unfusable
from .watched import guarded


class Shadow(np.ndarray):
    """An array that has a shape and a dtype, and refuses to show its numbers."""

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        if mode.tracer is None:
            raise Unfusable("a tensor that step had left behind has no numbers: return it as a state")
        mode.tracer.refuse_numbers(self)
        raise AssertionError("refused")

    __array_ufunc__ = __array_function__ = _refuse
    __bool__ = __float__ = __int__ = __index__ = __iter__ = __getitem__ = _refuse
    item = tolist = astype = sum = max = min = any = all = argmax = argmin = copy = __array__ = _refuse

    @staticmethod
    def of(shape: Shape, dtype: np.dtype) -> "Shadow":
        return np.ndarray.__new__(Shadow, shape, dtype, bytes(8), 0, (0,) * len(shape))  # one number for all


class Symbol(Tensor):
    """A tensor that stands for a value. The user sees no array, and the size of the batch as a `Batch`.

    Attributes:
        value: what it stands for.
        trace: of which it is; None for the rules of gradients, which may see the size of the batch.
    """

    __slots__ = ("trace", "value")

    def __init__(self, value: Value, trace: Any = None) -> None:
        vars(tape.Value)["data"].__set__(self, Shadow.of(value.shape, value.dtype))
        self.node = None
        self.value, self.trace = value, trace

    data, grad, node = guarded("data"), guarded("grad"), guarded("node")

    @property
    def _has_rows(self) -> bool:
        return self.trace is not None and self.value.per_row

    @property
    def shape(self) -> Any:
        return (self.trace.size, *self.value.shape[1:]) if self._has_rows else self.value.shape

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> int:
        if self._has_rows:
            self.trace.refuse("step computes with the size of the batch", "write h.shape[1], the width of a row")
        return super().numel()

    def __len__(self) -> int:
        if self._has_rows:
            lead = "write h.shape[0], which may go into shapes"
            self.trace.refuse("step asks for the number of rows in the batch by len", lead)
        return super().__len__()

    def __iter__(self) -> Any:
        if self._has_rows:
            lead = "leave the loop out, an operation is done for each row"
            self.trace.refuse("step walks over the rows of the batch", lead)
        return super().__iter__()

    def __repr__(self) -> str:
        if mode.tracer is not None and not ours(sys._getframe(1)):
            mode.tracer.refuse_numbers(self)
        return f"Symbol({self.value!r})"


def values_returned(returned: Any, states: list[Symbol], where: str, trace: Any) -> list[Value]:
    """The values that a step returned."""
    new = returned if isinstance(returned, (tuple, list)) else (returned,)
    names = ", ".join(state.value.name for state in states)
    outputs = []
    for state, symbol in zip(states, new):
        name = state.value.name
        if not isinstance(symbol, Symbol) or symbol.trace is not trace:
            raise Unfusable(f"step returns a {name} that depends on no input: write {name} * 0 + it ({where})")
        value = symbol.value
        if value.shape != state.value.shape or not value.per_row:
            raise Unfusable(
                f"step returns {value.name} of shape {list(value.shape)} as {name}, which came in as "
                f"{list(state.value.shape)}: return all states in the shapes they came in with ({value.where or where})"
            )
        if value.dtype != state.value.dtype:
            raise Unfusable(
                f"step returns {value.name} in {value.dtype} as {name}, which came in as {state.value.dtype}: write "
                f"{value.name}.to({name}.dtype) ({value.where or where})"
            )
        outputs.append(value)
    if len(outputs) != len(states) or len(new) != len(outputs):
        raise Unfusable(f"step returns {len(new)} states and takes {len(states)}: return {names} ({where})")
    return outputs
