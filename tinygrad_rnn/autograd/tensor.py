"""Tensor: the functions of this folder as methods and operators of one class."""

import builtins
import operator
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from . import interchange, pointwise, products, reductions, shapes, table
from .gradients import backward
from .gradients import grad as grad
from .modes import mode, not_traced
from .operands import as_array, as_tensor, dtype_of, is_device
from .tape import Leaf, Node, Value, note_change


def _in_place(symbol: str, function: Callable[[Any, Any], Any]) -> Callable[["Tensor", Any], Any]:
    """`x += y` and its like: writes into a leaf; of anything else Python makes `x = x + y`."""

    def write(self: "Tensor", other: Any) -> Any:
        if not self._is_written_to(f"p {symbol} ..."):
            return NotImplemented
        array, result = self.numpy(), as_array(function(self, other))
        if result.shape != array.shape:
            raise ValueError(f"p {symbol} ...: the result has shape {list(result.shape)}, p has {list(array.shape)}")
        array[...] = result
        note_change([self])
        return self

    return write


def _reflected(function: Callable[[Any, Any], Any]) -> Callable[["Tensor", Any], Any]:
    """For an operator whose right operand is the tensor."""
    return lambda self, other: function(other, self)


class Tensor(Value):
    """A multidimensional array of one dtype that can remember how it was computed.

        >>> import tinygrad_rnn as tg
        >>> x = tg.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
        >>> y = (x * x).sum()
        >>> y.backward()
        >>> y.item(), x.grad.tolist()
        (30.0, [[2.0, 4.0], [6.0, 8.0]])

    Made by `tensor`, `zeros` and the other functions of `creation`, and by operations. `numpy()` is the array itself;
    `backward()` fills in the `grad` of every tensor that was made with `requires_grad=True` and had a part in it.
    """

    __slots__ = ()
    __array_ufunc__, __array_function__ = interchange.array_ufunc, interchange.array_function
    __hash__ = object.__hash__

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if hasattr(type(self), name)]

    # ---- What it is --------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of every dimension."""
        return self.data.shape

    @property
    def dtype(self) -> np.dtype:
        """NumPy's object for the type of its numbers."""
        return self.data.dtype

    @property
    def ndim(self) -> int:
        """How many dimensions there are."""
        return self.data.ndim

    def size(self, dim: int | None = None) -> Any:
        """The shape, or one entry of it."""
        return self.data.shape if dim is None else self.data.shape[dim]

    def dim(self) -> int:
        """The number of dimensions."""
        return self.data.ndim

    def numel(self) -> int:
        """The number of elements."""
        return self.data.size

    def __len__(self) -> int:
        if not self.data.ndim:
            raise TypeError("a 0-d tensor has no length")
        return self.data.shape[0]

    def __iter__(self) -> Iterator["Tensor"]:
        if not self.data.ndim:
            raise TypeError("a 0-d tensor cannot be iterated over: item() is its number")
        return iter(shapes.unbind(self))

    def numpy(self) -> np.ndarray:
        """The array itself, not a copy: writing to it changes the tensor behind the tape's back."""
        if mode.level == 3:
            mode.tracer.refuse_numbers(self)
        return self.data

    def item(self) -> Any:
        """The one element as a Python number."""
        if self.numpy().size != 1:
            shape, lead = list(self.shape), "any(), all(), or take tg.where(it, a, b)"
            raise ValueError(f"a tensor of shape {shape} is no single number; reduce it first: {lead}")
        return self.data.item()

    def tolist(self) -> Any:
        """Nested lists of Python numbers."""
        return self.numpy().tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        array = self.numpy()
        if self.node is not None and mode.grad:
            interchange.refuse_behind(self, sys._getframe(1))
        if copy is False and dtype is not None and np.dtype(dtype) != array.dtype:
            raise ValueError(f"a tensor of {array.dtype} is no array of {np.dtype(dtype)} without copying")
        return np.array(array, dtype=dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> Any:
        """For `from_dlpack` of NumPy, PyTorch and others: the memory itself, like `numpy()`."""
        return self.numpy().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        """Main memory."""
        return self.data.__dlpack_device__()

    def __float__(self) -> builtins.float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self.data.dtype.kind == "f":
            raise TypeError(f"a tensor of {self.data.dtype} is no index or size: only integers are; write int(x)")
        return operator.index(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    def __round__(self, ndigits: int | None = None) -> Any:
        return round(self.item(), ndigits)

    def __repr__(self) -> str:
        text = np.array2string(self.numpy(), separator=", ", precision=4, prefix="tensor(")
        dtype = "" if self.data.dtype.name in ("float32", "int64", "bool") else f", dtype={self.data.dtype.name}"
        origin = ", requires_grad=True" if self.node is not None else ""
        if isinstance(self.node, Node):
            origin = f", grad_fn={self.node.operation.name}"
        return f"tensor({text}{dtype}{origin})"

    def __reduce__(self) -> Any:
        """For `copy.deepcopy` and `pickle`: the data, and whether a gradient is asked for; never a graph."""
        array = self.numpy()
        if isinstance(self.node, Node):
            raise RuntimeError(f"the result of {self.node.operation.name} is part of a graph; copy its detach()")
        return _rebuilt, (type(self), array, self.requires_grad)

    def __format__(self, specification: str) -> str:
        if self.numpy().ndim and specification:
            raise TypeError(f"a tensor of shape {list(self.shape)} is not formatted as a number: reduce it, mean()")
        return format(self.data.item() if self.data.ndim == 0 else str(self), specification)

    def __setitem__(self, index: Any, value: Any) -> None:
        if not self._is_written_to("p[...] = ..."):
            raise TypeError(
                "tensors are not assigned to in place, gradients would be wrong; build a new one with stack, where, "
                "cat or masked_fill, or write to x.numpy() outside any graph"
            )
        self.numpy()[index] = as_array(value)
        note_change([self])

    def _is_written_to(self, what: str) -> bool:
        """Whether a change in place is meant: of a leaf that wants a gradient, or did before it was frozen."""
        if not isinstance(self, Variable) or isinstance(self.node, Node):
            return False
        if mode.grad:
            raise RuntimeError(
                f"{what} would write to a leaf, frozen or not, while operations are recorded; to update it write "
                f"`with tg.no_grad(): {what}`, to compute with it give the result another name: y = p + ..."
            )
        return True

    # ---- Gradients ---------------------------------------------------------------------------------------------------

    @property
    def requires_grad(self) -> bool:
        """Whether operations on this tensor are recorded."""
        not_traced("requires_grad")
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> None:
        self.requires_grad_(wanted)

    def requires_grad_(self, requires_grad: bool = True) -> "Tensor":
        """Ask for a gradient of this tensor, from its next use on; returns itself."""
        if requires_grad or self.node is not None:
            not_traced("requires_grad")
        if isinstance(self.node, Node):
            if not requires_grad:
                raise RuntimeError(f"the result of {self.node.operation.name} is part of a graph; use detach()")
        elif not requires_grad:
            self.node = None
        elif self.node is None:
            if self.data.dtype.kind != "f":
                raise TypeError(f"only tensors of floats have gradients, not {self.data.dtype}: write x.float()")
            self.node = Leaf(self)
            if self.__class__ is Tensor:
                self.__class__ = Variable
        return self

    @property
    def is_leaf(self) -> bool:
        """Whether no recorded operation made it."""
        not_traced("is_leaf")
        return not isinstance(self.node, Node)

    @property
    def grad_fn(self) -> Node | None:
        """The recorded operation that made it."""
        not_traced("grad_fn")
        return self.node if isinstance(self.node, Node) else None

    def detach(self) -> "Tensor":
        """The same data as a constant."""
        if mode.level == 3:
            return table.detach(self)
        return Tensor(self.data)

    def retain_grad(self) -> None:
        """Fill in `grad` in the backward pass although this is the result of an operation."""
        not_traced("retain_grad")
        if self.node is None:
            raise RuntimeError("retain_grad: this tensor needs no gradient")
        self.node.owner = weakref.ref(self)

    def register_hook(self, hook: Any) -> Any:
        """Call `hook(gradient)` when the gradient of this tensor is complete; what it returns replaces it.

        Returns:
            A handle with a method `remove()`.
        """
        not_traced("register_hook")
        if self.node is None:
            raise RuntimeError("register_hook: this tensor needs no gradient")
        return self.node.add_hook(hook)

    def backward(
        self, gradient: Any = None, retain_graph: bool | None = None, create_graph: bool = False, inputs: Any = None
    ) -> None:
        """Add to the `grad` of every leaf the derivative of this tensor with respect to it.

        Args:
            gradient: the derivative of the final result with respect to this tensor; 1 for a tensor of one element.
            retain_graph: keep the residuals of the graph, to walk it again; by default as `create_graph`.
            create_graph: record the pass itself, for derivatives of derivatives.
            inputs: fill in the gradients of these leaves only.

        Raises:
            RuntimeError: nothing was recorded, the graph was walked before, or `gradient` is missing.
        """
        backward([self], [gradient], retain_graph, create_graph, inputs)

    # ---- Operators ---------------------------------------------------------------------------------------------------

    __add__ = __radd__ = pointwise._add
    __mul__ = __rmul__ = pointwise.mul
    __sub__, __rsub__ = pointwise._sub, _reflected(pointwise._sub)
    __truediv__, __rtruediv__ = pointwise._div, _reflected(pointwise._div)
    __pow__, __rpow__ = pointwise.pow, _reflected(pointwise.pow)
    __matmul__, __rmatmul__ = products.matmul, _reflected(products.matmul)
    __floordiv__, __rfloordiv__ = pointwise.floor_divide, _reflected(pointwise.floor_divide)
    __mod__, __rmod__ = pointwise.remainder, _reflected(pointwise.remainder)
    __divmod__, __rdivmod__ = pointwise.divmod, _reflected(pointwise.divmod)
    __neg__, __pos__, __abs__, __invert__ = pointwise.neg, as_tensor, pointwise.abs, pointwise.bitwise_not
    __lt__, __le__, __gt__, __ge__ = pointwise.lt, pointwise.le, pointwise.gt, pointwise.ge
    __and__ = __rand__ = pointwise.bitwise_and
    __or__ = __ror__ = pointwise.bitwise_or
    __xor__ = __rxor__ = pointwise.bitwise_xor
    __getitem__ = shapes.getitem

    __iadd__, __isub__ = _in_place("+=", pointwise._add), _in_place("-=", pointwise._sub)
    __imul__, __itruediv__ = _in_place("*=", pointwise.mul), _in_place("/=", pointwise._div)
    __ipow__, __imatmul__ = _in_place("**=", pointwise.pow), _in_place("@=", products.matmul)
    __ifloordiv__, __imod__ = _in_place("//=", pointwise.floor_divide), _in_place("%=", pointwise.remainder)

    def __eq__(self, other: Any) -> Any:
        return pointwise.eq(self, other) if isinstance(other, pointwise.COMPARED) else NotImplemented

    def __ne__(self, other: Any) -> Any:
        return pointwise.ne(self, other) if isinstance(other, pointwise.COMPARED) else NotImplemented

    # ---- Functions as methods ----------------------------------------------------------------------------------------

    add, sub, mul, div, pow = pointwise.add, pointwise.sub, pointwise.mul, pointwise.div, pointwise.pow
    neg, abs, sign, floor = pointwise.neg, pointwise.abs, pointwise.sign, pointwise.floor
    square, sqrt, rsqrt, reciprocal = pointwise.square, pointwise.sqrt, pointwise.rsqrt, pointwise.reciprocal
    exp, expm1, log, log1p = pointwise.exp, pointwise.expm1, pointwise.log, pointwise.log1p
    sin, cos, erf = pointwise.sin, pointwise.cos, pointwise.erf
    tanh, sigmoid, relu = pointwise.tanh, pointwise.sigmoid, pointwise.relu
    maximum, minimum, clamp = pointwise.maximum, pointwise.minimum, pointwise.clamp
    eq, ne, lt, le = pointwise.eq, pointwise.ne, pointwise.lt, pointwise.le
    gt, ge, masked_fill = pointwise.gt, pointwise.ge, pointwise.masked_fill
    isnan, isinf, isfinite = pointwise.isnan, pointwise.isinf, pointwise.isfinite

    sum, mean, var, std, prod = reductions.sum, reductions.mean, reductions.var, reductions.std, reductions.prod
    amax, amin, argmax, argmin = reductions.amax, reductions.amin, reductions.argmax, reductions.argmin
    all, any, norm, cumsum = reductions.all, reductions.any, reductions.norm, reductions.cumsum
    logsumexp, softmax, log_softmax = reductions.logsumexp, reductions.softmax, reductions.log_softmax

    matmul, mm, bmm = products.matmul, products.mm, products.bmm
    mv, dot, outer = products.mv, products.dot, products.outer

    reshape, view, flatten = shapes.reshape, shapes.reshape, shapes.flatten
    permute, transpose, t = shapes.permute, shapes.transpose, shapes.t
    squeeze, unsqueeze, flip, roll = shapes.squeeze, shapes.unsqueeze, shapes.flip, shapes.roll
    expand, broadcast_to, sum_to_size = shapes.expand, shapes.broadcast_to, shapes.sum_to_size
    split, chunk, unbind, narrow = shapes.split, shapes.chunk, shapes.unbind, shapes.narrow
    index_select, gather, diagonal = shapes.index_select, shapes.gather, shapes.diagonal
    tril, triu, max, min = shapes.tril, shapes.triu, shapes.largest, shapes.smallest

    def where(self, condition: Any, other: Any) -> "Tensor":
        """This tensor where the condition holds, else `other`."""
        return pointwise.where(condition, self, other)

    @property
    def T(self) -> "Tensor":
        """The matrix transposed."""
        if self.data.ndim != 2:
            raise ValueError(f"T is for matrices; this tensor has shape {list(self.shape)}: use mT, or permute")
        return table.permute(self, dims=(1, 0))

    @property
    def mT(self) -> "Tensor":
        """The matrices in the last two dimensions, transposed."""
        return shapes.transpose(self, -2, -1)

    def to(self, dtype: Any) -> "Tensor":
        """In another dtype; itself if it has it already, or if told "cpu". Integers and booleans have no gradient."""
        if is_device(dtype) or self.data.dtype == (wanted := dtype_of(dtype)):
            return self
        return table.cast(self if wanted.kind == "f" else self.detach(), dtype=wanted)

    astype = to

    def cpu(self) -> "Tensor":
        """Itself: tensors are in main memory always."""
        return self

    @property
    def device(self) -> str:
        """Always "cpu"."""
        return "cpu"

    def float(self) -> "Tensor":
        """In float32."""
        return self.to(np.float32)

    def double(self) -> "Tensor":
        """In float64."""
        return self.to(np.float64)

    def long(self) -> "Tensor":
        """In int64."""
        return self.to(np.int64)

    def clone(self) -> "Tensor":
        """A copy that gradients flow through."""
        return table.cast(self, dtype=self.data.dtype)

    def contiguous(self) -> "Tensor":
        """Laid out row by row in memory."""
        return self if self.data.flags.c_contiguous else self.clone()



class Variable(Tensor):
    """A tensor that a gradient was asked for: what is assigned to its attributes is checked.

    Others are made by every operation, where a check of attributes would take as long as the operation.
    """

    __slots__ = ()

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "grad" and value is not None:
            if not isinstance(value, Value):
                got = type(value).__name__
                raise TypeError(f"p.grad = ...: expected a tensor or None, got {got}: write tg.tensor(it)")
            if value.data.shape != self.data.shape:
                shapes = f"{list(self.data.shape)}, not {list(value.data.shape)}"
                raise ValueError(f"p.grad = ...: a gradient has its tensor's shape, {shapes}")
        if name == "data" and hasattr(self, "data"):
            if value is self.data and value.size:  # `p.data -= ...` wrote to it before
                note_change([self])
            self.numpy()  # which a step that is traced may not ask for
            value = value.numpy() if isinstance(value, Tensor) else value
            value = np.asarray(value) if isinstance(value, np.generic) else value  # what NumPy makes of a 0-d array
            if not isinstance(value, np.ndarray) or dtype_of(value.dtype).kind != "f":
                kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
                raise TypeError(f"p.data = ...: expected an array or a tensor of floats, got {kind}")
        _set_attribute(self, name, value)


Variable.__name__ = "Tensor"  # as users call it, and as messages about attributes should
_set_attribute = object.__setattr__


def _rebuilt(kind: type[Tensor], data: np.ndarray, requires_grad: bool) -> Tensor:
    tensor = kind.__new__(kind)
    Value.__init__(tensor, data)
    return tensor.requires_grad_(requires_grad)
