"""Large arrays used again: the pages of a fresh one cost about as much as the arithmetic on it.

What is given out lies in a block of memory. The block is remembered, and given out again once nobody refers to it.
That is read off its reference count, which views raise too, so nothing that a user still holds is ever overwritten.

All threads share the blocks. Who looks at one takes it off its queue first, so two threads never look at the same one,
and there is no lock that a forked child might find taken. Blocks of similar sizes are in one queue, four sizes to an
octave, so that a batch which is a little longer than the last one finds its memory.

Remembered blocks are bounded by bytes: by LIMIT, and by twice what was in use at once. Whoever needs more gets the rest
from the system, and gives it back to the system: past C's allocator, which would keep much of it, once per thread.
"""

import contextlib
import itertools
import math
import mmap
from collections import deque
from operator import attrgetter, mul
from sys import getrefcount
from typing import Any

import numpy as np

LIMIT = 60 << 20  # bytes of all blocks that are remembered
PATIENCE = 1024  # arrays later, a block that is in use all the time may be forgotten
PAGE = 1 << 12  # bytes, as many as make a round through the places of a first-level cache, or half a round
SMALL = 2 * PAGE  # bytes of an array, for which the system's allocator is fast enough
APART = 5 * 64  # of the beginnings of arrays in their pages: by and by they are at every line
MAPPED, HUGE = 1 << 20, 4 << 20  # bytes from which memory is asked for by the page, and by the huge page as NumPy does
TRIES = 32  # blocks of a queue that are looked at for one array


def cache_aligned(size: int) -> np.ndarray:
    """`size` bytes of zeros that begin with a cache line, and are no block."""
    array = np.zeros(size + 64, np.uint8)
    start = -array.ctypes.data % 64
    return array[start : start + size]


class Block:
    """Memory for one array at a time.

    Attributes:
        memory: which no one but arrays refers to.
        start: where in it they begin.
        queue: where the block is remembered, if it is.
        used, last: how many bytes the last array had, and its number.
    """

    __slots__ = ("last", "memory", "queue", "start", "used")

    def __init__(self, size: int, queue: "deque[Block] | None" = None) -> None:
        self.memory, self.queue = _from_the_system(size), queue
        self.start = (next(_turns) * APART - self.memory.ctypes.data) % PAGE
        self.used = self.last = 0


def _from_the_system(size: int) -> np.ndarray:
    if size >= MAPPED and hasattr(mmap, "MAP_ANONYMOUS"):
        with contextlib.suppress(OSError):  # NumPy says what there is to say about a lack of memory
            pages = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            if size >= HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
                with contextlib.suppress(OSError):  # a system without
                    pages.madvise(mmap.MADV_HUGEPAGE)
            return np.frombuffer(pages, np.uint8)
    return np.empty(size, np.uint8)


_turns, _numbers = itertools.count(), itertools.count()
_unused = Block(PAGE)
_FREE = getrefcount(_unused.memory)  # how many refer to the memory of a block, if no array does


def _size_class(size: int) -> int:
    """The number of the queue whose blocks have at least so many bytes, and at most a quarter more."""
    octave = (size - 1).bit_length() - 3
    return 4 * octave + (size - 1 >> octave) - FIRST


FIRST = 40  # so that the queue of number 0 has the smallest blocks that there are
_CAPACITIES = [5 + k % 4 << k // 4 + FIRST // 4 - 1 for k in range(_size_class(LIMIT))]
_queues: list[deque[Block]] = [deque() for _ in _CAPACITIES]


class _Use:
    """What is known about the use of all blocks.

    Attributes:
        most: bytes that were in use at once, as far as anybody looked.
        crowded: how many new blocks will not be remembered, since just now there was no room for one.
    """

    most = crowded = 0


def empty_aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """An array of undefined contents, as `np.empty`, that begins with a cache line; written before, if one is free.

    It begins somewhere else in its page than others do. A loop that goes through many arrays side by side would find
    them in the same few places of the first-level cache, if all began at the same place of a page, as the system's
    allocator has it with large ones.
    """
    size = math.prod(shape) * dtype.itemsize
    kind = _size_class(size + PAGE)
    block = _free(kind) or _new(kind, size)
    array = np.ndarray(shape, dtype.type, block.memory, block.start)  # with the dtype that all arrays share
    if block.queue is not None:
        block.used, block.last = size, next(_numbers)
        block.queue.append(block)  # now that it is in use
    return array


def staggered(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """The same, if it is not SMALL."""
    return (np.empty if math.prod(shape) * dtype.itemsize <= SMALL else empty_aligned)(shape, dtype)


def staggered_zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """The same, as `np.zeros`."""
    if math.prod(shape) * dtype.itemsize <= SMALL:
        return np.zeros(shape, dtype)
    array = empty_aligned(shape, dtype)
    array.fill(0)
    return array


def held() -> int:
    """The bytes of all blocks that are remembered."""
    return sum(map(mul, map(len, _queues), _CAPACITIES))


def _free(kind: int) -> Block | None:
    """A block that nobody uses, taken off its queue: of this kind, or of one up to twice as large."""
    for queue in _queues[kind : kind + 4]:
        for _ in range(min(len(queue), TRIES)):
            try:
                block = queue.popleft()
            except IndexError:  # another thread was faster
                break
            if getrefcount(block.memory) == _FREE:
                return block
            queue.append(block)
    return None


def _new(kind: int, size: int) -> Block:
    if kind < len(_queues) and _room_for(_CAPACITIES[kind], size):
        return Block(_CAPACITIES[kind], _queues[kind])
    return Block(size + PAGE)


def _room_for(capacity: int, size: int) -> bool:
    """Whether one more block may be remembered; others are forgotten for it, those first that were used longest ago."""
    if _Use.crowded:
        _Use.crowded -= 1
        return False
    if held() + capacity <= min(LIMIT, 2 * _Use.most):
        return True
    free, in_use = _look_at_all()
    _Use.most = max(_Use.most, size + sum(block.used for block in in_use))
    bound, now, age = min(LIMIT, 2 * _Use.most), next(_numbers), attrgetter("last")
    stale = [block for block in in_use if now - block.last > PATIENCE]
    too_much = held() + capacity - bound
    if too_much > 0:
        for block in sorted(free, key=age) + sorted(stale, key=age):
            assert block.queue is not None  # since it was found in one
            with contextlib.suppress(ValueError):  # another thread took it
                block.queue.remove(block)
                too_much -= len(block.memory)
            if too_much <= -bound // 8:  # room for more than this one: to look at all costs much
                break
    _Use.crowded = (len(free) + len(in_use)) // 4 if too_much > 0 else 0
    return too_much <= 0


def _look_at_all() -> tuple[list[Block], list[Block]]:
    """The blocks that are free and those that are in use."""
    free: list[Block] = []
    in_use: list[Block] = []
    for queue in _queues:
        for _ in range(len(queue)):
            with contextlib.suppress(IndexError):  # another thread was faster
                block = queue.popleft()
                (free if getrefcount(block.memory) == _FREE else in_use).append(block)
                queue.append(block)
    return free, in_use
