"""Matrix products: C = A @ B or C += A @ B, for float32 and float64 arrays of any shape and strides.

    matmul(a, b)                     # as NumPy's, with `out=` and `accumulate=`

How they are computed is the matter of `products`. Results do not depend on the number of threads, nor (unless the
operands are a row and columns that are contiguous) on the other rows of a batch, to the last bit.

In the outline of a kernel, see `outline`:

    @kernel()
    def some_rows(h, packed, y, lo, hi, N, K):    # arrays h [M, K], y [M, N]; packed [panels, K, width] from b
        multiply(h[lo:], packed, y[lo:], hi - lo, N, K, True)     # y += h @ b

    multiply(A, B, C, M, N, K, accumulate)        # C[M, N] (+)= A[M, K] @ B[K, N], where B is packed
    product(A, B, C, M, N, K, accumulate, workspace, threads)     # the same for any B, on so many threads of the team
    fill_panels(B, panels, K, N)                  # pack B[K, N]: `panels` are those of an array [panels, K, width],
                                                  # the width being ROW_BYTES; columns that do not exist are zeros
    copy(A, C, M, N)                              # C[M, N] = A[M, N]; the rows of C are contiguous
    sum_rows(A, y, first, M, N)                   # array y[first : first + N] = the sum of the rows of A[M, N], which
                                                  # are contiguous, one after the other

A and C have any strides; C must not overlap the operands. Without `accumulate`, C is overwritten,
whatever it held. The workspace is that of the thread, `workspace.address`; threads that have not been started are not
waited for. The bits are those of `matmul`; no memory is allocated; a few hundred rows at a time keep A in the cache.
All kernels call one copy of these, which is made in a tenth of a second when the first of them is compiled. Whoever
loads them from the disk calls `products` before.

A thread whose rows have all ended may ask for fewer than no rows. For each of these, counts of rows and columns that
are not above zero are nothing to do, and a product over K <= 0 is zero.
"""

import ctypes
import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import config

from .assembler import I64, VOID, Function, Int
from .macro_kernel import ACCUMULATE, WORKSPACE_BYTES
from .pool import cache_aligned
from .products import ANYWAY, ONE_THREAD, REFUSED, WANTS_HELPERS, products, symbol
from .team import team
from .threads import get_num_threads, set_num_threads
from .values import Array

__all__ = [
    "copy", "fill_panels", "get_num_threads", "matmul", "multiply", "product", "set_num_threads", "sum_rows",
]  # fmt: skip


# ---- In outlines of kernels ------------------------------------------------------------------------------------------


def _of_products(function: str, parameters: str) -> Callable[..., None]:
    """What outlines of kernels call of `products`, for the dtype of the first parameter."""

    def write(f: Function, *arguments: Any) -> None:
        assert len(arguments) == len(parameters.split()), f"{function}({parameters})"
        numbers: list[Any] = []
        for x in arguments:
            numbers += [x.address(f), *_STRIDES[len(x.shape)](*x.strides)] if isinstance(x, Array) else [x]
        products(dtype := arguments[0].dtype.name)  # here, where an error or Ctrl-C ends what is under way
        f.intrinsic(symbol(function, dtype), VOID, *(_integer(f, x) for x in numbers))

    return write


# Of a vector nobody asks; a packed operand [panels, K, width] is a matrix whose columns are its panels.
_STRIDES: dict[int, Callable[..., Any]] = {1: lambda _: (), 2: lambda row, col: (row, col), 3: lambda i, k, _: (k, i)}


def _integer(f: Function, x: Any) -> Any:
    """LLVM's value of 64 bits for a number or truth."""
    return f.builder.zext(x.value, I64) if isinstance(x, Int) and x.value.type != I64 else f.number(x).value


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
