"""Large arrays used again: the pages of a fresh one cost about as much as the arithmetic on it.

What is given out is remembered, and given out again once nobody else refers to it. That is read off its reference
count, which views of it raise too, so nothing that a user still holds is ever overwritten.
"""

import itertools
import math
import threading
from sys import getrefcount
from typing import Any

import numpy as np

SMALL = 1 << 16  # bytes: below this the system's allocator is fast enough
PATIENCE = 256  # calls after which an array that nobody has asked for is given back to the system
PAGE = 1 << 12  # bytes, as many as make a round through the places of a first-level cache, or half a round
APART = 5 * 64  # of the beginnings of arrays in their pages: by and by they are at every line


class _Made:
    """An array, where the part of it begins that is given out, that part if it is the same one each time, and the call
    that last gave it out.
    """

    __slots__ = ("array", "last", "part", "start")
    part: np.ndarray

    def __init__(self, array: np.ndarray, start: int, last: int) -> None:
        self.array, self.start, self.last = array, start, last


class _Pool(threading.local):
    """What one thread has made, by kind and size."""

    def __init__(self) -> None:
        self.made: dict[Any, list[_Made]] = {}
        self.calls = 0


_pool = _Pool()
_REFERENCES_WHEN_FREE = 2  # what was made, getrefcount's argument
_turns = itertools.count()


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """An array of undefined contents, as `np.empty`; written before, if it is large and one like it is free."""
    if math.prod(shape) * dtype.itemsize < SMALL:
        return np.empty(shape, dtype)
    made = _free((shape, dtype.char)) or _remember((shape, dtype.char), np.empty(shape, dtype))
    return made.array if made.array.shape == shape and made.array.flags.carray else np.empty(shape, dtype)


def empty_lines(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """The same, of any size, beginning with a cache line: to look for one takes longer than to find one here."""
    pool, key = _pool.__dict__, ("lines", shape, dtype)
    pool["calls"] += 1
    for made in pool["made"].get(key, ()):
        if getrefcount(made.part) == _REFERENCES_WHEN_FREE and getrefcount(made.array) == _REFERENCES_WHEN_FREE + 1:
            made.last = pool["calls"]
            return made.part
    size = math.prod(shape) * dtype.itemsize
    made = _remember(key, np.empty(size + PAGE, np.uint8), place=0)
    made.part = np.ndarray(shape, dtype.type, made.array, made.start)
    return made.part


def staggered(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """The same, beginning somewhere else in its page than others do, if it is larger than two.

    A loop that goes through many arrays side by side would find them in the same few places of the first-level cache,
    if all began at the same place of a page, as the system's allocator has it with large ones.
    """
    size = math.prod(shape) * dtype.itemsize
    if size <= 2 * PAGE:
        return np.empty(shape, dtype)
    made = _free(size) or _remember(size, np.empty(size + PAGE, np.uint8), place=next(_turns) * APART)
    return np.ndarray(shape, dtype.type, made.array, made.start)


def staggered_zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """The same, as `np.zeros`."""
    if math.prod(shape) * dtype.itemsize <= 2 * PAGE:
        return np.zeros(shape, dtype)
    array = staggered(shape, dtype)
    array.fill(0)
    return array


def _free(key: Any) -> _Made | None:
    """What was made for this key and is free."""
    _pool.calls += 1
    for made in _pool.made.get(key, ()):
        if getrefcount(made.array) == _REFERENCES_WHEN_FREE:
            made.last = _pool.calls
            return made
    return None


def _remember(key: Any, array: np.ndarray, place: int | None = None) -> _Made:
    """A new array; with a `place`, the part of it is given out that begins there in a page."""
    for known in list(_pool.made):
        _pool.made[known] = [made for made in _pool.made[known] if _pool.calls - made.last < PATIENCE]
        if not _pool.made[known]:
            del _pool.made[known]
    made = _Made(array, 0 if place is None else (place - array.ctypes.data) % PAGE, _pool.calls)
    _pool.made.setdefault(key, []).append(made)
    return made
