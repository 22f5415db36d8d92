"""Functions that move elements without computing: shapes, joins, slices and indexing.

Results may share memory with their input, as NumPy's views do; nothing in the library writes to a tensor in place.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import pointwise, reductions, table
from .arrays import along
from .operands import BY_ARRAYS, aligned, all_dims, as_array, as_tensor, integers, named, one_dim, sizes
from .pointwise import where
from .tape import Value, mode

if TYPE_CHECKING:
    from .tensor import Tensor


def reshape(input: Any, shape: Any, *more: int) -> "Tensor":
    """The same elements, row by row, in another shape; one size may be -1, which is then computed.

        >>> import tinygrad_rnn as tg
        >>> tg.reshape(tg.arange(6), 2, -1)
        tensor([[0, 1, 2],
                [3, 4, 5]])
    """
    x = as_tensor(input)
    wanted = sizes("reshape", (shape, *more), -1)
    if -1 in wanted:
        rest = math.prod(n for n in wanted if n != -1)
        if wanted.count(-1) > 1 or rest == 0 or x.data.size % rest:
            raise ValueError(f"reshape: cannot infer the -1 in {list(wanted)} for a tensor of shape {list(x.shape)}")
        wanted = tuple(x.data.size // rest if n == -1 else n for n in wanted)
    return x if wanted == x.data.shape else table.reshape(x, shape=wanted)


def flatten(input: Any, start_dim: int = 0, end_dim: int = -1) -> "Tensor":
    """Dimensions start_dim to end_dim (inclusive) as one.

        >>> import tinygrad_rnn as tg
        >>> tg.flatten(tg.ones(2, 3, 4), 1).shape
        (2, 12)
    """
    x = as_tensor(input)
    first, last = one_dim("flatten", start_dim, x.data.ndim), one_dim("flatten", end_dim, x.data.ndim)
    if first > last:
        raise ValueError(f"flatten: start_dim {start_dim} comes after end_dim {end_dim}")
    shape = x.data.shape
    return reshape(x, (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :]))


def permute(input: Any, dims: Any, *more: int) -> "Tensor":
    """Dimensions in another order: `y.shape[i] == x.shape[dims[i]]`.

        >>> import tinygrad_rnn as tg
        >>> tg.permute(tg.ones(2, 3, 4), 2, 0, 1).shape
        (4, 2, 3)
    """
    x = as_tensor(input)
    order = tuple(one_dim("permute", d, x.data.ndim) for d in sizes("permute", (dims, *more)))
    if sorted(order) != list(range(x.data.ndim)):
        raise ValueError(f"permute: dims {order} must name each of the {x.data.ndim} dimensions once")
    return table.permute(x, dims=order)


def transpose(input: Any, dim0: int, dim1: int) -> "Tensor":
    """Two dimensions exchanged.

        >>> import tinygrad_rnn as tg
        >>> tg.transpose(tg.ones(2, 3, 4), 0, 1).shape
        (3, 2, 4)
    """
    x = as_tensor(input)
    order = list(range(x.data.ndim))
    a, b = one_dim("transpose", dim0, x.data.ndim), one_dim("transpose", dim1, x.data.ndim)
    if order:
        order[a], order[b] = order[b], order[a]
    return table.permute(x, dims=tuple(order))


def t(input: Any) -> "Tensor":
    """A matrix transposed; a vector or number itself."""
    x = as_tensor(input)
    if x.data.ndim > 2:
        raise ValueError(f"t: for matrices; this tensor has shape {list(x.shape)}: use mT, or permute")
    return transpose(x, 0, 1) if x.data.ndim == 2 else x


def squeeze(input: Any, dim: int | tuple[int, ...] | None = None) -> "Tensor":
    """Without dimensions of size 1: all of them, or those of `dim` that are.

        >>> import tinygrad_rnn as tg
        >>> tg.squeeze(tg.ones(1, 3, 1)).shape, tg.squeeze(tg.ones(1, 3, 1), 0).shape
        ((3,), (3, 1))
    """
    x = as_tensor(input)
    shape: Any = x.shape
    if dim is None and mode.tracer is not None and mode.tracer.has_rows(x):
        mode.tracer.refuse("squeeze() drops the dimension of a batch of one as well", "write squeeze(-1)")
    dims = range(len(shape)) if dim is None else dim if isinstance(dim, (tuple, list)) else (dim,)
    gone = {one_dim("squeeze", d, len(shape)) for d in dims}
    return reshape(x, tuple(n for i, n in enumerate(shape) if not (i in gone and n == 1)))


def unsqueeze(input: Any, dim: int) -> "Tensor":
    """With a dimension of size 1 inserted at `dim`.

        >>> import tinygrad_rnn as tg
        >>> tg.unsqueeze(tg.ones(2, 3), 1).shape
        (2, 1, 3)
    """
    x = as_tensor(input)
    shape = x.data.shape
    at = one_dim("unsqueeze", dim, len(shape) + 1)
    return table.reshape(x, shape=(*shape[:at], 1, *shape[at:]))


def expand(input: Any, size: Any, *more: int) -> "Tensor":
    """Dimensions of size 1 repeated to `size`, without copying; -1 leaves a size as it is.

        >>> import tinygrad_rnn as tg
        >>> tg.expand(tg.tensor([[1.0], [2.0]]), -1, 3)
        tensor([[1., 1., 1.],
                [2., 2., 2.]])
    """
    x = as_tensor(input)
    wanted = sizes("expand", (size, *more), -1)
    new = len(wanted) - x.data.ndim
    wanted = tuple(x.data.shape[i - new] if n == -1 and i >= new else n for i, n in enumerate(wanted))
    if any(n < 0 for n in wanted):
        raise ValueError(f"expand: a size of -1 keeps a dimension, but shape {list(x.shape)} has none at its place")
    return table.expand(x, shape=wanted)


def broadcast_to(input: Any, shape: Sequence[int]) -> "Tensor":
    """`input` repeated to `shape`, by NumPy's rules of broadcasting.

        >>> import tinygrad_rnn as tg
        >>> tg.broadcast_to(tg.tensor([1.0, 2.0]), (2, 2))
        tensor([[1., 2.],
                [1., 2.]])
    """
    return expand(input, tuple(shape))


def sum_to_size(input: Any, size: Any, *more: int) -> "Tensor":
    """The sum over the dimensions in which `size` is 1 or absent: the adjoint of `expand`."""
    x = as_tensor(input)
    wanted = sizes("sum_to_size", (size, *more), 0)
    return x if wanted == x.data.shape else table.sum_to(x, shape=wanted)


def flip(input: Any, dims: Any, *more: int) -> "Tensor":
    """The order of elements reversed along `dims`.

        >>> import tinygrad_rnn as tg
        >>> tg.flip(tg.tensor([1.0, 2.0, 3.0]), 0)
        tensor([3., 2., 1.])
    """
    x = as_tensor(input)
    wanted = sizes("flip", (dims, *more))
    backwards = all_dims("flip", wanted, x.data.ndim) if wanted else ()
    return table.slice(x, at=tuple([slice(None, None, -1 if i in backwards else None) for i in range(x.data.ndim)]))


def roll(input: Any, shifts: int | tuple[int, ...], dims: int | tuple[int, ...] | None = None) -> "Tensor":
    """Elements moved by `shifts` along `dims`, those that leave at the end entering at the front.

        >>> import tinygrad_rnn as tg
        >>> tg.roll(tg.tensor([1.0, 2.0, 3.0]), 1)
        tensor([3., 1., 2.])
    """
    x = as_tensor(input)
    if dims is None or dims == ():
        return reshape(roll(reshape(x, -1), shifts, 0), x.data.shape) if x.data.size else x
    each_shift = shifts if isinstance(shifts, (tuple, list)) else (shifts,)
    each_dim = dims if isinstance(dims, (tuple, list)) else (dims,)
    if len(each_shift) != len(each_dim):
        raise ValueError(f"roll: {len(each_shift)} shifts for {len(each_dim)} dims")
    for shift, dim in zip(each_shift, each_dim):
        axis = one_dim("roll", dim, x.data.ndim)
        if x.data.ndim and (n := x.data.shape[axis]) and (split := -shift % n):
            x = table.cat(_narrow(x, axis, split, n), _narrow(x, axis, 0, split), dim=axis)
    return x


# ---- Joining and dividing --------------------------------------------------------------------------------------------


def cat(tensors: Sequence[Any], dim: int = 0) -> "Tensor":
    """Tensors one after the other along a dimension that exists.

        >>> import tinygrad_rnn as tg
        >>> tg.cat([tg.ones(2, 3), tg.zeros(1, 3)]).shape
        (3, 3)
    """
    xs = _sequence("cat", tensors)
    ndim = max(dims := [x.data.ndim for x in xs])
    if 0 in dims:
        raise ValueError("cat: 0-d tensors cannot be joined; stack them")
    xs = xs if min(dims) == ndim else [x for x in xs if x.data.shape != (0,)]  # an empty vector joins anything
    return table.cat(*aligned("cat", *xs), dim=one_dim("cat", dim, ndim))


def stack(tensors: Sequence[Any], dim: int = 0) -> "Tensor":
    """Tensors of one shape side by side along a new dimension.

        >>> import tinygrad_rnn as tg
        >>> tg.stack([tg.tensor([1.0, 2.0]), tg.tensor([3.0, 4.0])])
        tensor([[1., 2.],
                [3., 4.]])
    """
    xs = _sequence("stack", tensors)
    for x in xs:
        if x.data.shape != xs[0].data.shape:
            raise ValueError(f"stack: shapes differ: {list(xs[0].shape)} and {list(x.shape)}")
    axis = one_dim("stack", dim, xs[0].data.ndim + 1)
    return table.cat(*aligned("stack", *[unsqueeze(x, axis) for x in xs]), dim=axis)


def _sequence(name: str, tensors: Any) -> list["Tensor"]:
    if not isinstance(tensors, (tuple, list)):
        kind = "Tensor" if isinstance(tensors, Value) else type(tensors).__name__
        raise TypeError(f"{name}: expected a list or tuple of tensors, got {kind}: write {name}([x, y])")
    if not tensors:
        raise ValueError(f"{name}: expected at least one tensor")
    for x in tensors:
        if not (isinstance(x, Value) or isinstance(x, (np.ndarray, np.generic, int, float))):
            raise TypeError(f"{name}: expected tensors, got {type(x).__name__}")
    return [as_tensor(x) for x in tensors]


def split(tensor: Any, split_size_or_sections: int | Sequence[int], dim: int = 0) -> tuple["Tensor", ...]:
    """Slices along `dim`: of the given sizes, or of one size with what is left at the end.

        >>> import tinygrad_rnn as tg
        >>> [part.shape for part in tg.split(tg.ones(5, 2), [3, 2])]
        [(3, 2), (2, 2)]
    """
    x, axis, n = _divided("split", tensor, dim)
    if isinstance(split_size_or_sections, (tuple, list)):
        parts = sizes("split", (split_size_or_sections,))
        if sum(parts) != n or any(size < 0 for size in parts):
            raise ValueError(f"split: sections {list(parts)} do not add up to the size {n} of dim {dim}")
    else:
        (size,) = sizes("split", (split_size_or_sections,))
        if size < 0 or (size == 0 and n > 0):
            raise ValueError(f"split: split_size must be positive, got {size}")
        parts = _equal_parts(n, size)
    return _pieces(x, axis, parts)


def _equal_parts(n: int, size: int) -> tuple[int, ...]:
    """n as parts of one size, and what is left."""
    return tuple([min(size, n - start) for start in range(0, n, size)]) if n else (0,)


def _pieces(x: "Tensor", axis: int, parts: Sequence[int]) -> tuple["Tensor", ...]:
    ends = itertools.accumulate(parts)
    return tuple([_narrow(x, axis, end - size, end) for size, end in zip(parts, ends)])


def _narrow(x: "Tensor", axis: int, start: int, stop: int) -> "Tensor":
    return table.slice(x, at=along(axis, slice(start, stop)))


def narrow(input: Any, dim: int, start: int, length: int) -> "Tensor":
    """`length` elements along `dim`, from `start` on.

        >>> import tinygrad_rnn as tg
        >>> tg.narrow(tg.arange(6), 0, 2, 3)
        tensor([2, 3, 4])
    """
    x, axis, n = _divided("narrow", input, dim)
    first = start + n if start < 0 else start
    if not 0 <= first <= n - length or length < 0:
        raise ValueError(f"narrow: start {start} and length {length} do not fit the size {n} of dim {dim}")
    return _narrow(x, axis, first, first + length)


def chunk(input: Any, chunks: int, dim: int = 0) -> tuple["Tensor", ...]:
    """At most `chunks` slices of equal size along `dim`, the last one smaller.

        >>> import tinygrad_rnn as tg
        >>> [gate.shape for gate in tg.chunk(tg.ones(5, 12), 4, -1)]
        [(5, 3), (5, 3), (5, 3), (5, 3)]
    """
    if chunks < 1:
        raise ValueError(f"chunk: chunks must be positive, got {chunks}")
    x, axis, n = _divided("chunk", input, dim)
    return _pieces(x, axis, _equal_parts(n, -(-n // chunks)) if n else [0] * chunks)


def unbind(input: Any, dim: int = 0) -> tuple["Tensor", ...]:
    """The slices along `dim`, without that dimension. Their gradients are gathered in one array.

        >>> import tinygrad_rnn as tg
        >>> [x_t.shape for x_t in tg.unbind(tg.ones(3, 16, 28))]
        [(16, 28), (16, 28), (16, 28)]
    """
    x, axis, n = _divided("unbind", input, dim)
    return tuple([table.slice(x, at=along(axis, i)) for i in range(n)])


def _divided(name: str, input: Any, dim: int) -> tuple["Tensor", int, int]:
    """A tensor, the dimension along which it is divided, counted from the front, and its size."""
    x = as_tensor(input)
    if not x.data.ndim:
        raise ValueError(f"{name}: a 0-d tensor cannot be divided")
    axis = one_dim(name, dim, x.data.ndim)
    return x, axis, x.data.shape[axis]


# ---- Indexing --------------------------------------------------------------------------------------------------------


def getitem(x: "Tensor", index: Any) -> "Tensor":
    """`x[index]`: ints, slices, None, `...`, boolean masks, integer arrays or tensors of them, as NumPy has it; but
    `x[0, :, [1, 2]]` is `x[0][:, [1, 2]]`, as in PyTorch.

    Gradients of elements that are named several times add up.
    """
    parts = index if isinstance(index, tuple) else (index,)
    at = tuple([i if i.__class__ in _BASIC else _plain(i, x.node is not None) for i in parts])
    if all(i.__class__ in _BASIC for i in at):
        return table.slice(x, at=at)
    places = [k for k, i in enumerate(at) if isinstance(i, (int, np.ndarray))]
    if places and places[-1] - places[0] >= len(places):  # else ints may be taken for arrays
        x, at = _ints_first(x, at)
    return table.index(x, at=at)


def _ints_first(x: "Tensor", at: tuple[Any, ...]) -> tuple["Tensor", tuple[Any, ...]]:
    """What is left of a tensor and an index with arrays once its ints are done, and `...` if it stands for nothing."""
    mask = lambda i: isinstance(i, np.ndarray) and i.dtype.kind == "b"
    dims = lambda i: i.ndim if mask(i) else int(i is not None and i is not ...)
    if sum(map(dims, at)) == x.data.ndim:
        at = tuple([i for i in at if i is not ...])
    if any(isinstance(i, int) for i in at):
        whole = [[slice(None)] * dims(i) if isinstance(i, np.ndarray) else [i] for i in at]
        x = table.slice(x, at=tuple(itertools.chain(*whole)))
        at = tuple([i if isinstance(i, np.ndarray) or i is ... else slice(None) for i in at if not isinstance(i, int)])
    return x, at


_BASIC = (int, slice, type(None), type(...))


def _plain(part: Any, copy: bool) -> Any:
    """One component of an index as NumPy's own kind; a copy if the user must not change it before the backward pass."""
    if isinstance(part, Value):
        part = as_array(part, BY_ARRAYS)
    elif isinstance(part, (list, tuple)):
        part = np.asarray([as_array(i, BY_ARRAYS) if isinstance(i, Value) else i for i in part])
        part = part.astype(np.intp) if part.size == 0 else part
    elif isinstance(part, (bool, np.bool_)):
        return np.asarray(part)
    elif isinstance(part, np.integer):
        return int(part)
    if not isinstance(part, np.ndarray):
        return part
    if part.dtype.kind not in "iub":
        raise IndexError(f"a tensor is indexed by integers, slices and boolean masks, not by {part.dtype}")
    if part.ndim == 0 and part.dtype.kind in "iu":
        return int(part)
    return part.copy() if copy else part


def index_select(input: Any, dim: int, index: Any) -> "Tensor":
    """The slices along `dim` at the positions of a 1-d index.

        >>> import tinygrad_rnn as tg
        >>> tg.index_select(tg.tensor([[1.0, 2.0], [3.0, 4.0]]), 0, tg.tensor([1, 1, 0]))
        tensor([[3., 4.],
                [3., 4.],
                [1., 2.]])
    """
    x, places = as_tensor(input), integers("index_select", index)
    axis = one_dim("index_select", dim, x.data.ndim)
    if places.ndim > 1:
        raise ValueError(f"index_select: index must be 1-d, got shape {list(places.shape)}")
    if not x.data.ndim:
        return reshape(index_select(reshape(x, 1), 0, places), ())
    _in_range("index_select", places, x.data.shape[axis], dim)
    return table.index(x, at=along(axis, np.atleast_1d(places)))


def _in_range(name: str, places: np.ndarray, size: int, dim: int) -> None:
    if places.size and not 0 <= places.min() <= places.max() < size:
        wrong = places.max() if places.min() >= 0 else places.min()
        raise IndexError(f"{name}: index {wrong} is out of range for dim {dim} of size {size}")


def gather(input: Any, dim: int, index: Any) -> "Tensor":
    """`y[i][j][k] = x[i][index[i][j][k]][k]`, for dim 1 of three; index has as many dimensions as x.

        >>> import tinygrad_rnn as tg
        >>> scores = tg.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
        >>> tg.gather(scores, 1, tg.tensor([[2], [0]]))  # a column for each row
        tensor([[3.],
                [4.]])
    """
    x, places = as_tensor(input), integers("gather", index)
    axis = one_dim("gather", dim, x.data.ndim)
    if not x.data.ndim or not places.ndim:
        return reshape(gather(reshape(x, -1), 0, places.reshape(-1)), places.shape)
    if places.ndim != x.data.ndim and places.size:
        raise ValueError(f"gather: index has shape {list(places.shape)}, the input {list(x.shape)}: dimensions differ")
    if not places.size:
        return reshape(table.slice(reshape(x, -1), at=(slice(0, 0),)), places.shape)
    if any(n > m for i, (n, m) in enumerate(zip(places.shape, x.data.shape)) if i != axis):
        raise ValueError(f"gather: index of shape {list(places.shape)} exceeds the input's {list(x.shape)}")
    _in_range("gather", places, x.data.shape[axis], dim)
    grid: list[Any] = list(np.ogrid[tuple(slice(n) for n in places.shape)])
    grid[axis] = places
    return table.index(x, at=tuple(grid))


class Extreme(NamedTuple):
    values: Any
    indices: Any  # of a dimension, and where they are


def _extreme(of_all: Any, position: Any, of_two: Any, which: str, values: str, indices: str) -> Any:
    def function(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
        if dim is None or isinstance(dim, (Value, np.ndarray)):
            return of_all(input) if dim is None else of_two(input, dim)
        places = position(input, dim, keepdim=True)
        found = gather(input, dim, places) if places.data.ndim else as_tensor(input)
        return Extreme(*[x if keepdim else squeeze(x, dim) for x in (found, places)])

    meaning = f"""The {which} element; with `dim`, (values, indices) along it; with a tensor, that of the two.\n
    Of equals along `dim` the first one gets the gradient; without `dim` they share it."""
    shown = f"tg.tensor([[1.0, 5.0], [3.0, 2.0]]), 1 -> Extreme(values=tensor({values}), indices=tensor({indices}))"
    return named(of_all.__name__[1:], meaning, function, shown)


largest = _extreme(reductions.amax, reductions.argmax, pointwise.maximum, "largest", "[5., 3.]", "[1, 0]")
smallest = _extreme(reductions.amin, reductions.argmin, pointwise.minimum, "smallest", "[1., 2.]", "[0, 1]")


def diagonal(input: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> "Tensor":
    """The elements whose index along dim2 is that along dim1 plus offset, along a new last dimension.

        >>> import tinygrad_rnn as tg
        >>> x = tg.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> tg.diagonal(x), tg.diagonal(x, 1)
        (tensor([1., 4.]), tensor([2.]))
    """
    x = as_tensor(input)
    a, b = one_dim("diagonal", dim1, x.data.ndim), one_dim("diagonal", dim2, x.data.ndim)
    (m, n), first, second = (x.data.shape[a], x.data.shape[b]), max(-offset, 0), max(offset, 0)
    start, count = first * n + second, max(min(m - first, n - second), 0)
    rows = permute(x, (*(i for i in range(x.data.ndim) if i not in (a, b)), a, b)).flatten(-2)
    return rows[..., start : start + count * (n + 1) : n + 1]


def tril(input: Any, diagonal: int = 0) -> "Tensor":
    """The elements on and below a diagonal of the last two dimensions, 0 elsewhere.

        >>> import tinygrad_rnn as tg
        >>> tg.tril(tg.ones(3, 3))
        tensor([[1., 0., 0.],
                [1., 1., 0.],
                [1., 1., 1.]])
    """
    return _triangle("tril", input, lambda column, row: column - row <= diagonal)


def triu(input: Any, diagonal: int = 0) -> "Tensor":
    """The elements on and above a diagonal of the last two dimensions, 0 elsewhere.

        >>> import tinygrad_rnn as tg
        >>> tg.triu(tg.ones(2, 2))
        tensor([[1., 1.],
                [0., 1.]])
    """
    return _triangle("triu", input, lambda column, row: column - row >= diagonal)


def _triangle(name: str, input: Any, inside: Callable[[Any, Any], Any]) -> "Tensor":
    x = as_tensor(input)
    if x.data.ndim < 2:
        raise ValueError(f"{name}: expected at least 2 dimensions, got shape {list(x.shape)}")
    row, column = np.ogrid[: x.data.shape[-2], : x.data.shape[-1]]
    return where(inside(column, row), x, False if x.data.dtype.kind == "b" else 0)
