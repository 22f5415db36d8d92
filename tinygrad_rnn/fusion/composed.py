"""Rows of any rank: operations that are made of views, elementwise maths and sums before a program sees them.

    a @ b                         sum(a[B, M, K, 1] * b[B, 1, K, N], dim=2)         where each row has its own b
    a[B, L, M, K] @ W             a[B, L * M, K] @ W                                where all rows have one
    W @ b[B, K, N]                (b.mT @ W.T).mT                                   likewise
    x[:, 0], x[..., None]         a slice, read in another shape
    x[:, [2, 0, 1]]               cat(x[:, 2:3], x[:, 0:2])    where a list, or a mask, picks columns
    0, then y[:, 2:4] = x         cat(0, x, 0)
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd import table
from ..autograd.arrays import between
from ..autograd.primitive import Primitive, Shape
from ..autograd.tape import user_line
from .program import Value
from .refusal import Unfusable
from .soundness import takes_all_rows

LARGE = 256  # numbers of a matrix from which it pays to turn what it is multiplied with
MOST_PIECES = 64  # of an index: as many values are computed


def product(build: Any, a: Any, b: Any) -> Value | None:
    """Products within rows, at each step; those with one matrix for all stay what they are, but for dimensions."""
    if len(a.shape) == 2 == len(b.shape) or not (a.timed or b.timed):
        return None
    if len(b.shape) == 2 and not b.per_row:
        return _with_weights(build, a, b)
    if len(a.shape) == 2 and not a.per_row and len(b.shape) > 2 and math.prod(a.shape) >= LARGE:
        turned = lambda x: build.apply(table.permute, x, dims=(*range(n := len(x.shape) - 2), n + 1, n))
        return turned(build.apply(table.matmul, turned(b), turned(a)))
    one = b.shape[-1] == 1  # column, so that a is read as it is, by the loop that computes it
    left = a if one else build.apply(table.reshape, a, shape=(*a.shape, 1))
    right = build.apply(table.reshape, b, shape=(*b.shape[:-2], 1, *b.shape[-2 : -1 if one else None]))
    every = build.apply(table.mul, left, right)
    return build.apply(table.sum, every, dim=(len(every.shape) - 2 + one,), keepdim=one)


def _with_weights(build: Any, a: Value, b: Value) -> Value | None:
    """Of a row that has several vectors to multiply those in one dimension, of a row that has one none."""
    *vectors, K = a.inner
    several = math.prod(vectors)
    shape = (a.shape[0], *([several] if several != 1 else []), K)
    if shape == a.shape:
        return None
    y = build.apply(table.matmul, build.apply(table.reshape, a, shape=shape), b)
    return build.apply(table.reshape, y, shape=(*a.shape[:-1], b.shape[1]))


def slice_(build: Any, x: Value, at: Any) -> Value | None:
    """An index of ints, slices, None and `...`: slices of all dimensions, in another shape."""
    shape = table.slice.shape(x.shape, at=at)
    taken = [i for i in at if i is not None]
    front = taken.index(...) if ... in taken else len(taken)
    behind = taken[front + 1 :]
    taken = [*taken[:front], *[slice(None)] * (len(x.shape) - front - len(behind)), *behind]
    assert takes_all_rows(taken, x.shape), "rows are picked"
    one = lambda i, n: slice(i % n, i % n + 1) if isinstance(i, int) else i
    slices = (slice(None), *(one(i, n) for i, n in zip(taken[1:], x.shape[1:])))
    if slices == at:
        return None
    y = x if all(i == slice(None) for i in slices) else build.apply(table.slice, x, at=slices)
    return y if shape == y.shape else build.apply(table.reshape, y, shape=shape)


def slice_scatter(build: Any, x: Value, shape: Shape, at: Any) -> Value:
    """Zeros around what is put there, dimension by dimension, the last one first."""
    for dim in reversed(range(1, len(shape))):
        wanted = range(shape[dim])[at[dim]]
        if wanted.step < 0:
            x, wanted = build.apply(table.slice, x, at=between(dim, None, None, -1)), wanted[::-1]
        if wanted.step > 1:
            x = _spaced(build, x, dim, wanted, shape[dim])
        first = wanted.start if wanted else 0
        widths = first, shape[dim] - first - x.shape[dim]
        before, after = [[build.zeros(_with(x.shape, dim, n), x.dtype)] * (n > 0) for n in widths]
        around = [*before, *[x] * (x.shape[dim] > 0), *after]
        x = build.apply(table.cat, *around, dim=dim) if len(around) > 1 else around[0]
    return x


def _spaced(build: Any, x: Value, dim: int, wanted: range, size: int) -> Value:
    """The elements of one dimension with zeros behind each, as far as there is room."""
    apart = build.apply(table.reshape, x, shape=(*x.shape[: dim + 1], 1, *x.shape[dim + 1 :]))
    gaps = build.zeros(_with(apart.shape, dim + 1, wanted.step - 1), x.dtype)
    apart = build.apply(table.cat, apart, gaps, dim=dim + 1)
    x = build.apply(table.reshape, apart, shape=_with(x.shape, dim, len(wanted) * wanted.step))
    room = size - wanted.start
    return build.apply(table.slice, x, at=between(dim, 0, room)) if x.shape[dim] > room else x


def _with(shape: Shape, dim: int, n: int) -> Shape:
    """A shape with another size in one dimension."""
    return (*shape[:dim], n, *shape[dim + 1 :])


def index(build: Any, x: Value, at: Any) -> Value | None:
    """An index with one array, of whole numbers or a mask: its runs, one after the other.

    Raises:
        Unfusable: it has too many.
    """
    places = [dim for dim, i in enumerate(at) if isinstance(i, np.ndarray)]
    simple = len(places) == 1 and all(isinstance(i, slice) for i in at[: places[0]]) and len(at) == places[0] + 1
    if simple and at[-1].dtype.kind == "b" and at[-1].ndim == 1:
        at = (*at[:-1], np.flatnonzero(at[-1]))
    if not simple or at[-1].dtype.kind == "b" or at[-1].ndim == 0 or not takes_all_rows(at, x.shape) or not at[-1].size:
        return None
    (dim,) = places
    wanted = [int(i) % x.shape[dim] for i in at[-1].ravel()]
    runs: list[list[int]] = []
    for i in wanted:
        run = runs[-1] if runs else [i]
        step = i - run[-1] if len(run) == 1 else run[1] - run[0]
        if step and i - run[-1] == step:
            run.append(i)
        else:
            runs.append([i])
    if len(runs) > MOST_PIECES:
        raise Unfusable(
            f"an index with {len(runs)} runs of columns: let the columns of a weight have that order ({user_line()})"
        )
    x = build.apply(table.slice, x, at=at[:-1]) if any(i != slice(None) for i in at[:-1]) else x
    pieces = [build.apply(table.slice, x, at=between(dim, *_ends(run))) for run in runs]
    y = build.apply(table.cat, *pieces, dim=dim)
    shape = (*x.shape[:dim], *at[-1].shape, *x.shape[dim + 1 :])
    return y if shape == y.shape else build.apply(table.reshape, y, shape=shape)


def _ends(run: list[int]) -> tuple[int, int | None, int]:
    """A run of numbers as a slice."""
    step = run[1] - run[0] if len(run) > 1 else 1
    end = run[-1] + (1 if step > 0 else -1)
    return run[0], None if end < 0 else end, step


def sum_to(build: Any, x: Value, shape: Shape) -> Value | None:
    """A sum over the dimensions that are one or absent."""
    new = len(x.shape) - len(shape)
    dims = tuple(i for i, n in enumerate(x.shape) if i and (i < new or shape[i - new] != n))
    if new and shape[:1] != x.shape[:1]:
        return None
    y = build.apply(table.sum, x, dim=dims, keepdim=True) if dims else x
    return y if y.shape == shape else build.apply(table.reshape, y, shape=shape)


def reduction(row: Primitive, build: Any, x: Value, dim: tuple[int, ...], keepdim: bool) -> Value | None:
    """A reduction without the dimensions of one element, which are only dropped."""
    several = tuple(d for d in dim if x.shape[d] != 1)
    if several == dim:
        return None
    y = build.apply(row, x, dim=several, keepdim=True) if several else x
    return build.apply(table.reshape, y, shape=row.shape(x.shape, dim=dim, keepdim=keepdim))


def cumsum(build: Any, x: Value, dim: int) -> Value | None:
    """Of a single element that element."""
    return x if x.shape[dim] == 1 else None


RULES: dict[Primitive, Callable[..., Value | None]] = {
    table.matmul: product, table.slice: slice_, table.slice_scatter: slice_scatter, table.index: index,
    table.sum_to: sum_to, table.cumsum: cumsum,
    **{row: functools.partial(reduction, row) for row in (table.sum, table.amax, table.amin)},
}  # fmt: skip
