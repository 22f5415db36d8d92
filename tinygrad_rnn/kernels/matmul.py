"""Matrix products: C = A @ B or C += A @ B, for float32 and float64 arrays of any shape and strides.

    matmul(a, b)                     # as NumPy's, with `out=` and `accumulate=`

How they are computed is the matter of `products`. Results do not depend on the number of threads, nor (unless the
operands are a row and columns that are contiguous) on the other rows of a batch, to the last bit.

Inside compiled code:

    from tinygrad_rnn.kernels.matmul import matrix, multiply, panels, shift

    @njit(**JIT)
    def some_rows(h, packed, y, lo, hi, N, K):    # arrays h [M, K], y [M, N]; packed [panels, K, width] from b
        multiply(shift(matrix(h), lo, 0), panels(packed), shift(matrix(y), lo, 0), hi - lo, N, K, True)  # y += h @ b

    multiply(A, B, C, M, N, K, accumulate)        # C[M, N] (+)= A[M, K] @ B[K, N], where B is packed
    product(A, B, C, M, N, K, accumulate, workspace, threads)     # the same for any B, on so many threads of the team
    fill_panels(B, panels, K, N)                  # pack B[K, N]: `panels` are those of an array [panels, K, width],
                                                  # the width being ROW_BYTES; columns that do not exist are zeros
    copy(A, C, M, N)                              # C[M, N] = A[M, N]; the rows of C are contiguous
    sum_rows(A, y, first, M, N)                   # array y[first : first + N] = the sum of the rows of A[M, N], which
                                                  # are contiguous, one after the other

A and C are Matrix tuples of any strides; C must not overlap the operands. Without `accumulate`, C is overwritten,
whatever it held. The workspace is that of the thread, `workspace.address`; threads that have not been started are not
waited for. The bits are those of `matmul`; no memory is allocated; a few hundred rows at a time
keep A in the cache. None of these is compiled into its callers: they call one copy, which is made in a tenth of a
second when the first of them is compiled. Whoever loads them from the disk calls `products` before.

A thread whose rows have all ended may ask for fewer than no rows. For each of these, counts of rows and columns that
are not above zero are nothing to do, and a product over K <= 0 is zero.
"""

# Intrinsics are called without their first parameter, Numba's typing context; mypy does not know.
# mypy: disable-error-code="call-arg,unreachable,var-annotated"

import ctypes
import inspect
import math
import threading
from typing import Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from .assembler import I64
from .intrinsics import place_of
from .macro_kernel import ACCUMULATE, WORKSPACE_BYTES
from .pool import cache_aligned
from .products import ANYWAY, ONE_THREAD, REFUSED, WANTS_HELPERS, products, symbol
from .team import team
from .threads import get_num_threads, set_num_threads
from .vector import Matrix

__all__ = [
    "Matrix", "copy", "fill_panels", "get_num_threads", "matmul", "matrix", "multiply", "panels", "product",
    "set_num_threads", "shift", "sum_rows",
]  # fmt: skip


# ---- Inside compiled code --------------------------------------------------------------------------------------------


def _view(array: Any, row: int, col: int) -> Any:
    """The Matrix of an array with the strides of its axes `row` and `col`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data, _, strides = place_of(context, builder, array, args[0])
        return context.make_tuple(builder, signature.return_type, [data, strides[row], strides[col]])

    kind = types.NamedTuple([types.CPointer(array.dtype), types.int64, types.int64], Matrix)
    return kind(array), codegen


@intrinsic
def matrix(typingctx: Any, array: Any) -> Any:
    """The Matrix of a 2-d array."""
    return _view(array, 0, 1)


@intrinsic
def panels(typingctx: Any, array: Any) -> Any:
    """A packed operand [panels, K, width] as a Matrix whose columns are its panels."""
    return _view(array, 1, 0)


@intrinsic
def shift(typingctx: Any, x: Any, i: Any, j: Any) -> Any:
    """The rest of the matrix from element [i, j] on."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data, row, col = cgutils.unpack_tuple(builder, args[0], 3)
        offset = builder.add(builder.mul(args[1], row), builder.mul(args[2], col))
        return builder.insert_value(args[0], cgutils.pointer_add(builder, data, offset), 0)

    return x(x, types.int64, types.int64), codegen


def _of_products(function: str, parameters: str) -> Any:
    """What compiled code calls of `products`, for the dtype of the first parameter."""

    def typed(typingctx: Any, *arguments: Any) -> Any:
        kinds = [x if isinstance(x, (types.NamedTuple, types.Array)) else types.int64 for x in arguments]
        dtype = kinds[0].types[0].dtype.name

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            numbers = []
            for kind, x in zip(kinds, args):
                if isinstance(kind, types.Array):
                    x = place_of(context, builder, kind, x)[0]
                fields = cgutils.unpack_tuple(builder, x, 3) if isinstance(kind, types.NamedTuple) else [x]
                numbers += [builder.ptrtoint(z, I64) if isinstance(z.type, ir.PointerType) else z for z in fields]
            products(dtype)  # here, where an error or Ctrl-C ends what is under way
            kind = ir.FunctionType(ir.VoidType(), [I64] * len(numbers))
            builder.call(cgutils.get_or_insert_function(builder.module, kind, symbol(function, dtype)), numbers)
            return context.get_dummy_value()

        return types.void(*kinds), codegen

    typed.__name__, names = function, ["typingctx", *parameters.split()]
    usual = inspect.Parameter.POSITIONAL_OR_KEYWORD
    typed.__signature__ = inspect.Signature([inspect.Parameter(x, usual) for x in names])  # type: ignore[attr-defined]
    return intrinsic(typed)


multiply = _of_products("multiply", "A B C M N K accumulate")
product = _of_products("product", "A B C M N K accumulate workspace threads")
fill_panels = _of_products("fill_panels", "B panels K N")
copy = _of_products("copy", "A C M N")
sum_rows = _of_products("sum_rows", "A y first M N")


# ---- From Python -----------------------------------------------------------------------------------------------------

def _interpreted(a, b, c, flags, *others):
    """The entry in NumPy, for NUMBA_DISABLE_JIT=1: summed in another order, so the last bits differ."""
    alike = a.dtype == b.dtype == c.dtype and a.ndim == b.ndim == c.ndim and c.flags.writeable
    fits = b.shape[:-1] == (*a.shape[:-2], a.shape[-1]) and c.shape == a.shape[:-1] + b.shape[-1:]
    if not alike or not fits or any(np.may_share_memory(c, x) for x in (a, b)):
        return REFUSED
    c[...] = c + np.matmul(a, b) if flags & ACCUMULATE else np.matmul(a, b)
    return 1


class _Entries(dict[np.dtype[Any], Any]):
    """dtype -> the entry of its `products`, or the interpreted one, made at the first use of the dtype."""

    def __missing__(self, dtype: np.dtype[Any]) -> Any:
        if dtype not in (np.float32, np.float64) or not dtype.isnative:
            raise TypeError(f"matmul: expected float32 or float64 arrays, got {dtype}")
        self[dtype] = found = _interpreted if config.DISABLE_JIT else products(dtype.name).entry
        return found


_entries = _Entries()
_spare: list[np.ndarray] = []  # workspaces of threads that have ended


class _Lease:
    """A workspace until the thread ends. None is ever freed: at the end of the process one may still be written to."""

    def __init__(self) -> None:
        self.spare = _spare  # at the end of the process the name is gone before the last thread
        try:
            self.array = self.spare.pop()
        except IndexError:
            self.array = cache_aligned(WORKSPACE_BYTES)
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.array))

    def __del__(self) -> None:
        self.spare.append(self.array)


class _Workspace(threading.local):
    """Memory of a thread for copies of parts of the operands, kept: fresh pages would cost as much as the product.

    Attributes:
        address: of its WORKSPACE_BYTES.
    """

    def __init__(self) -> None:
        self.lease = _Lease()
        self.address = self.lease.array.ctypes.data


workspace = _Workspace()


def matmul(a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None, accumulate: bool = False) -> np.ndarray:
    """out (+)= a @ b.

    Args:
        a, b: [..., M, K] and [..., K, N] of the same dtype, float32 or float64, of any strides. Batch dimensions
            broadcast like NumPy's.
        out: [..., M, N], of any strides; it may overlap the operands. By default a new array.
        accumulate: add the product to `out` instead of overwriting it.

    Raises:
        TypeError: the dtypes differ or are neither float32 nor float64.
        ValueError: the shapes do not fit, or `accumulate` without `out`.
    """
    c = out
    if out is None and not accumulate and a.ndim == 2 == b.ndim:
        c = np.empty((a.shape[0], b.shape[1]), a.dtype)
    # The entry refuses what is not simple, which costs it less than it would cost Python to look.
    if c is not None and _done(a, b, c, accumulate):
        return c
    if b.dtype != a.dtype:
        raise TypeError(f"matmul(a, b): dtypes differ: a is {a.dtype}, b is {b.dtype}")
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise ValueError(f"matmul(a, b): inner dimensions differ: a is {list(a.shape)}, b is {list(b.shape)}")
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2]) if a.ndim > 2 or b.ndim > 2 else ()
    a, b = _plain(a), _plain(b)
    out, c = _target(out, (*batch, a.shape[-2], b.shape[-1]), a.dtype, accumulate, a, b)
    if c.size:
        _run_stacks(a, b, c, batch, accumulate)
    if c is not out:
        out[...] = c
    return out


def _plain(x: np.ndarray) -> np.ndarray:
    """The array as the entry takes it: of no subclass, with the dtype that all arrays share."""
    return np.asarray(x).view(np.dtype(x.dtype.name))


def _target(
    out: np.ndarray | None, shape: tuple[int, ...], dtype: np.dtype[Any], accumulate: bool, *operands: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The array of the result, and one to write to that overlaps no operand: the same one if possible."""
    if out is None:
        if accumulate:
            raise ValueError("matmul(a, b, accumulate=True): there is nothing to add to without `out`")
        out = np.empty(shape, dtype)
        return out, out
    if out.shape != shape or out.dtype != dtype or not out.flags.writeable:
        raise ValueError(
            f"matmul(a, b, out): expected a writable array {list(shape)} of {dtype}, "
            f"got {list(out.shape)} of {out.dtype}"
        )
    if any(np.may_share_memory(out, x) for x in operands):
        return out, out.copy() if accumulate else np.empty(shape, dtype)
    return out, _plain(out)


def _run_stacks(a: np.ndarray, b: np.ndarray, c: np.ndarray, batch: tuple[int, ...], accumulate: bool) -> None:
    """c (+)= a @ b for every index into the batch dimensions."""
    if batch and b.ndim == 2 and a.flags.c_contiguous and c.flags.c_contiguous:  # one product over all rows
        rows = math.prod(a.shape[:-1])
        a, c, batch = a.reshape(rows, a.shape[-1]), c.reshape(rows, c.shape[-1]), ()
    if not batch:
        _run(a, b, c, accumulate)
        return
    a, b = (np.broadcast_to(x, batch + x.shape[-2:]) for x in (a, b))
    for i in np.ndindex(batch[:-1]):
        _run(a[i], b[i], c[i], accumulate)


def _run(a: np.ndarray, b: np.ndarray, c: np.ndarray, flags: int) -> None:
    done = _done(a, b, c, flags)
    assert done, "a product that has been checked was refused"


def _done(a: np.ndarray, b: np.ndarray, c: np.ndarray, flags: int) -> bool:
    """c (+)= a @ b, on several threads if the work is worth it; false if `products.entry` refuses."""
    entry, n = _entries[a.dtype], get_num_threads()
    done = entry(a, b, c, flags, workspace.address, n, ONE_THREAD)
    if done == WANTS_HELPERS:
        team.start(n - 1, WORKSPACE_BYTES)
        done = entry(a, b, c, flags | ANYWAY, workspace.address, n, ONE_THREAD)
    return bool(done)
