"""An arena: many arrays in one, which outlines of kernels carve out of it; and what else they do with arrays."""

from numba.core import cgutils

from .assembler import Function, Int
from .values import Array, contiguous

LINE, STAGGER = 16, 80  # numbers: 64 bytes of float32


def spaced_by(count: int) -> int:
    """How far behind an array of `count` numbers the next one of its arena begins.

    At a cache line, and not at the same place of a page where this one began: see `pool.empty_aligned`.
    """
    return (count + LINE - 1 & -LINE) + STAGGER


def carve(f: Function, arena: Array, shapes: tuple[tuple[Int, ...], ...]) -> list[Array]:
    """The arrays of these shapes that lie in an arena, one after the other from a cache line on: see `spaced_by`."""
    width, found = arena.dtype.itemsize, []
    start = arena.moved(f, (0 - arena.address(f)) & 63 & -width)
    for shape in shapes:
        array, size = contiguous(arena.dtype, start.data, shape)
        found.append(array)
        start = start.moved(f, (size + (LINE - 1) * width & -LINE * width) + STAGGER * width)
    return found


def rows_of(f: Function, array: Array) -> Array:
    """A contiguous array [T, B, W] as [T * B, W]."""
    T, B, W = array.shape
    return contiguous(array.dtype, array.data, (T * B, W))[0]


def clear(f: Function, array: Array) -> None:
    """Make a contiguous array zero."""
    cgutils.memset(f.builder, array.data, (array.shape[0] * array.strides[0]).value, 0)
