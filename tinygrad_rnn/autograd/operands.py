"""What functions do with their arguments before a row of the table sees them: dtypes, numbers, dimensions."""

import math
import operator
from collections.abc import Callable, Sequence
from numbers import Number
from typing import TYPE_CHECKING, Any

import numpy as np

from . import arrays, table
from .primitive import FLOAT32, FLOAT64
from .tape import Value, mode

if TYPE_CHECKING:
    from .tensor import Tensor


LARGEST = float(np.finfo(np.float32).max)  # of a float32; what is larger becomes infinite


def as_tensor(x: Any) -> "Tensor":
    """x itself if it is a tensor, else a constant. Python floats become float32; NumPy arrays keep their dtype.

        >>> import tinygrad_rnn as tg
        >>> x = tg.tensor([1.0, 2.0])
        >>> tg.as_tensor(x) is x, tg.as_tensor([1, 2]).dtype
        (True, dtype('int64'))
    """
    if isinstance(x, Value):
        return x  # type: ignore[return-value]
    return Value.tensor(as_array(x))


def as_array(x: Any, lead: str = "") -> np.ndarray:
    """The array that a tensor of x would hold: not copied if x is one already. For `lead` see `ask`."""
    if isinstance(x, Value):
        ask(x, lead)
        return x.data
    if isinstance(x, (np.ndarray, np.generic)):
        array = np.asarray(x)
    else:
        try:
            array = np.asarray(x)
        except ValueError as error:
            raise ValueError(f"nested lists must be of equal lengths, and of numbers: {error}") from None
        if array.dtype == FLOAT64 and not _holds_numpy(x):
            array = arrays.cast(array, FLOAT32)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    dtype_of(array.dtype, " (None: is a return missing?)" if x is None else f" ({type(x).__name__})")
    return array


def dtype_of(dtype: Any, source: str = "") -> np.dtype:
    """A dtype that tensors may have, as NumPy's object: the one place where that is asked."""
    if dtype is FLOAT32 or dtype is FLOAT64:
        return dtype
    try:
        found = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"{dtype!r} is no dtype: write tg.float32, tg.float64, tg.int64 or bool") from None
    if found.kind not in "biuf":
        raise TypeError(f"a tensor holds floats, integers or booleans, not {found}{source}")
    if found.kind == "f" and found not in (FLOAT32, FLOAT64):
        raise TypeError(f"a tensor of floats is float32 or float64, not {found}; convert it with astype first")
    if not found.isnative:
        raise TypeError(f"a tensor's numbers are in this machine's byte order, not in that of {found.str!r}")
    return found


def is_device(name: Any) -> bool:
    """Whether this is "cpu", where all tensors are.

    Raises:
        ValueError: it is another device's name.
    """
    if isinstance(name, str) and name.partition(":")[0] in ("cuda", "mps"):
        raise ValueError(f"to({name!r}): there is no GPU in this library, tensors are in main memory always")
    return name == "cpu" if isinstance(name, str) else False


BY_ARRAYS = "index with a list or an array of NumPy's"


def ask(x: Any, lead: str = "") -> None:
    """Before the numbers of a tensor are read: a step that is traced may not, they will be others.

    Args:
        lead: what to write instead.
    """
    if isinstance(x, Value) and mode.tracer is not None:
        mode.tracer.refuse_numbers(x, lead)


def _holds_numpy(x: Any) -> bool:
    """Whether a nested list has NumPy float64 values in it, which keep their dtype."""
    while isinstance(x, (list, tuple)) and x:
        x = x[0]
    return isinstance(x, (np.ndarray, np.generic))


def floating(x: Any) -> "Tensor":
    """x as a tensor of floats; integers and booleans become float32, as in PyTorch."""
    x = as_tensor(x)
    return x if x.data.dtype.kind == "f" else table.cast(x, dtype=FLOAT32)


def aligned(name: str, *operands: Any) -> tuple[Any, ...]:
    """Operands of one dtype: PyTorch's promotion, in which floats win over integers and arrays over 0-d values.

    Python numbers stay numbers, and NumPy's float64 numbers become such: they never change the dtype of a float tensor.
    """
    kinds: set[Any] = set()
    for x in operands:
        if isinstance(x, Value):
            kinds.add(x.data.dtype)
        elif x.__class__ is float:
            if LARGEST < abs(x) < math.inf and all(getattr(y, "dtype", FLOAT32) != FLOAT64 for y in operands):
                return aligned(name, *[x * math.inf if y is x else y for y in operands])
        elif isinstance(x, (np.ndarray, np.generic)):
            if isinstance(x, float) and any(isinstance(y, (Value, np.ndarray)) for y in operands):  # as np.sqrt(2) is
                return aligned(name, *[float(y) if isinstance(y, float) else y for y in operands])
            kinds.add(None)
        elif not isinstance(x, (int, float)):
            hint = ": write tg.tensor([...])" if isinstance(x, (list, tuple)) else ""
            hint = ": write float(x)" if isinstance(x, Number) and not isinstance(x, complex) else hint
            got = ", ".join("Tensor" if isinstance(x, Value) else type(x).__name__ for x in operands)
            raise TypeError(f"{name}: expected tensors, arrays or numbers, got {got}{hint}")
    if len(kinds) == 1 and (FLOAT32 in kinds or FLOAT64 in kinds):
        return operands
    if not kinds:
        operands = tuple(as_tensor(x) for x in operands)
    tensors = [x if isinstance(x, Number) and not isinstance(x, np.generic) else as_tensor(x) for x in operands]
    dtype = common_dtype(tensors)
    return tuple(
        table.cast(x, dtype=dtype) if isinstance(x, Value) and x.data.dtype != dtype else x for x in tensors
    )


def common_dtype(operands: Sequence[Any]) -> np.dtype:
    """The dtype that PyTorch would compute in."""
    for kinds, number, dtype in (("f", float, FLOAT32), ("iu", int, np.dtype(np.int64))):  # the highest kind decides
        found = [x.data for x in operands if isinstance(x, Value) and x.data.dtype.kind in kinds]
        if found:
            return np.result_type(*(x.dtype for x in [x for x in found if x.ndim] or found))
        if any(isinstance(x, number) and not isinstance(x, bool) for x in operands):
            return dtype
    return np.dtype(np.bool_)


def is_whole(x: Any) -> bool:
    """Whether something is a whole number, Python's or NumPy's, rather than a truth value."""
    return isinstance(x, (int, np.integer)) and not isinstance(x, bool)


def one_dim(name: str, dim: Any, ndim: int) -> int:
    """`dim` counted from the front; a 0-d tensor is taken to have one dimension, as in PyTorch."""
    if dim.__class__ is int and 0 <= dim < ndim:
        return dim
    try:
        dim = operator.index(dim)
    except TypeError:
        raise TypeError(f"{name}: dim must be an integer, not {type(dim).__name__}") from None
    size = max(ndim, 1)
    if not -size <= dim < size:
        raise IndexError(f"{name}: dim {dim} is out of range for a tensor of {ndim} dimensions: [{-size}, {size - 1}]")
    return dim % size


def all_dims(name: str, dim: Any, ndim: int) -> tuple[int, ...]:
    """`dim` as a tuple counted from the front: None and () mean every dimension."""
    if dim is None or (isinstance(dim, tuple) and not dim):
        return tuple(range(ndim))
    if not isinstance(dim, (tuple, list)):
        dim = (dim,)
    dims = tuple(one_dim(name, d, ndim) for d in dim)
    if len(set(dims)) < len(dims):
        raise ValueError(f"{name}: dim {tuple(dim)} names a dimension twice")
    return dims if ndim else ()


def sizes(name: str, shape: Sequence[Any], least: float = -math.inf) -> tuple[int, ...]:
    """The numbers of `f(2, 3)` or `f((2, 3))` as a tuple of ints."""
    if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
        shape = shape[0]
    try:
        found = tuple(operator.index(n) for n in shape)
    except TypeError:
        raise TypeError(f"{name}: sizes must be integers, got {tuple(shape)}") from None
    if min(found, default=0) < least:
        raise ValueError(f"{name}: sizes must be at least {least}, got {list(found)}")
    return found


def integers(name: str, x: Any) -> np.ndarray:
    """Index or class-label arguments: an integer array, from NumPy or a tensor."""
    array = as_array(x, BY_ARRAYS)
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"{name}: expected integers, got {array.dtype}")
    return array.astype(np.intp)  # a copy: the user's may be written to before the backward pass


@arrays.quiet
def unrecorded(function: Callable[..., Any], *operands: Any, **options: Any) -> Any:
    """What a function of NumPy's, past the table, makes of tensors; Python numbers leave the dtype alone."""
    found = function(*[as_array(x) if isinstance(x, Value) else x for x in operands], **options)
    return Value.tensor(np.asarray(found))


def named(name: str, meaning: str, function: Any, example: str = "") -> Any:
    """A function that is one of several from one mould, with a name and a docstring of its own.

    Args:
        meaning: a sentence, and where there is an example the end of its line; more may follow.
        example: what it is called with, and what that prints, as "tg.tensor([4.0]) -> tensor([2.])".
    """
    function.__name__ = function.__qualname__ = name
    call, _, shown = example.partition(" -> ")
    lines = f"\n\n    >>> import tinygrad_rnn as tg\n    >>> tg.{name}({call})\n    {shown}\n"
    function.__doc__ = meaning.replace("\n", lines, 1) if example else meaning
    return function
