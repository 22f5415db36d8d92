"""Large arrays used again: the pages of a fresh one cost about as much as the arithmetic on it.

`empty` remembers the arrays that it made, and gives one out again once nobody else refers to it. That is read off its
reference count, which views of it raise too, so nothing that a user still holds is ever overwritten.
"""

import math
import threading
from collections.abc import Callable
from sys import getrefcount
from typing import Any

import numpy as np

from .memory import lines

SMALL = 1 << 16  # bytes: below this the system's allocator is fast enough
PATIENCE = 256  # calls after which an array that nobody has asked for is given back to the system


class _Pool(threading.local):
    """The arrays of one thread, by shape and dtype, each with the call that last gave it out."""

    def __init__(self) -> None:
        self.arrays: dict[Any, list[tuple[np.ndarray, list[int]]]] = {}
        self.calls = 0


_pool = _Pool()
_REFERENCES_WHEN_FREE = 3  # the tuple in the pool, the loop's variable, getrefcount's argument


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """An array of undefined contents, as `np.empty`; written before, if it is large and one like it is free."""
    if math.prod(shape) * dtype.itemsize < SMALL:
        return np.empty(shape, dtype)
    return _reused((shape, dtype.char), lambda: np.empty(shape, dtype))


def empty_lines(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """The same, of any size, beginning with a cache line: to look for one takes longer than to find one here."""

    def make() -> np.ndarray:
        return lines(math.prod(shape) * dtype.itemsize, np.empty).view(dtype).reshape(shape)

    return _reused((shape, dtype.char, "lines"), make)


def _reused(key: Any, make: Callable[[], np.ndarray]) -> np.ndarray:
    """An array that was made for this key and is free, or another one."""
    _pool.calls = now = _pool.calls + 1
    known = _pool.arrays.get(key, ())
    for array, last in known:
        if getrefcount(array) == _REFERENCES_WHEN_FREE and array.shape == key[0] and array.flags.carray:
            last[0] = now
            return array
    _forget_idle(now)
    array = make()
    _pool.arrays.setdefault(key, []).append((array, [now]))
    return array


def _forget_idle(now: int) -> None:
    for key, known in list(_pool.arrays.items()):
        known[:] = [(array, last) for array, last in known if now - last[0] < PATIENCE]
        if not known:
            del _pool.arrays[key]
