"""Where the rows of a batch of sequences lie in memory: step after step, and only those that are still running.

A kernel sees a sequence as a matrix with one row for each step of each sequence:

    [T, B, W] with lengths 2, 3, 1:     step 0, sequences 1 0 2     (the longest first, so that those which are still
                                        step 1, sequences 1 0        running at a step are the first ones)
                                        step 2, sequence  1

What is padding is never read, computed or multiplied. A state has the same rows after `B` more, its initial values.
"""

import functools
from typing import Any, NamedTuple

import numpy as np

from ..autograd import table


class Rows(NamedTuple):
    """The layout of B sequences of at most T steps.

    Attributes:
        T, B: steps of the longest sequence, sequences.
        total: the number of rows: B * T, or the sum of the lengths.
        starts: [T + 2], of a state: its value before step t begins at row starts[t], that after it at starts[t + 1].
        padded: the steps of the user's arrays, [padded, B, W].
        flipped: whether these are read from their last step.
        lengths: [B] of the sequences in the order of their rows, longest first; None if all have T steps.
        order: [B], the numbers of the sequences in that order.
        places: [total], for each row its place t * B + b in a padded [T, B, W].
        sequences: [total], for each row the row of its sequence among the B of a step.
        drawn: [total], for each row the same counted in the order of computing, which random numbers follow.
    """

    T: int
    B: int
    total: int
    starts: np.ndarray
    padded: int
    flipped: bool = False
    lengths: np.ndarray | None = None
    order: np.ndarray | None = None
    places: np.ndarray | None = None
    sequences: np.ndarray | None = None
    drawn: np.ndarray | None = None

    # ---- Into this layout and back: arrays, or tensors on the tape ---------------------------------------------------

    def gathered(self, x: Any) -> Any:
        """The rows of x [T, B, W]: [total, W]."""
        x = table.flip(x, 0) if self.flipped else x
        flat = x.reshape((self.padded * self.B, x.shape[2]))
        return flat if self.places is None else table.index(flat, at=(self.places,))

    def scattered(self, x: Any) -> Any:
        """[total, W] as [T, B, W], zero where a sequence has ended."""
        shape = (self.padded * self.B, x.shape[1])
        flat = x if self.places is None else table.index_add(x, shape=shape, at=(self.places,))
        padded = flat.reshape((self.padded, self.B, x.shape[1]))
        return table.flip(padded, 0) if self.flipped else padded

    def ordered(self, x: Any) -> Any:
        """[B, W] in the order of rows."""
        return x if self.order is None else table.index(x, at=(self.order,))

    def unordered(self, x: Any) -> Any:
        """[B, W] in the order of the user's sequences."""
        return x if self.order is None else table.index(x, at=(np.argsort(self.order),))

    # ---- For kernels -------------------------------------------------------------------------------------------------

    def repeated(self, x: np.ndarray) -> np.ndarray:
        """A value for each sequence, [B, W], as one for each row: [total, W]."""
        if self.sequences is None:
            return np.broadcast_to(x, (self.T, *x.shape)).reshape(self.total, x.shape[1])
        return x[self.sequences]

    def lengths_of_all(self) -> np.ndarray | int:
        """[B], or one number if it is the same for all."""
        return self.T if self.lengths is None else self.lengths

    def before(self, state: np.ndarray) -> np.ndarray:
        """[total, W], the values of a state before each step, from those [B + total, W] before and after."""
        if self.lengths is None:
            return state[: self.total]
        return state[np.repeat(self.starts[: self.T], np.diff(self.starts[1:])) + self.sequences]

    def summed(self, x: np.ndarray) -> np.ndarray:
        """[total, W] summed over the steps of each sequence: [B, W]."""
        total = np.zeros((self.B, x.shape[1]), x.dtype)
        for first, n in zip(np.cumsum([0, *(running := np.diff(self.starts[1:]))]), running):
            total[:n] += x[first : first + n]
        return total

    def place_of_last(self, keep: int) -> Any:
        """Of arrays [keep, B, W] that hold one step after the other, over and over: where each sequence ends."""
        return self.T % keep if self.lengths is None else (self.lengths % keep, np.arange(self.B))

    @property
    def ends(self) -> np.ndarray:
        """[B], the row of a state where each sequence has its final value."""
        row = np.arange(self.B)
        return self.starts[self.T] + row if self.lengths is None else self.starts[self.lengths] + row

    def cut(self, chunks: int) -> list[int]:
        """The bounds of `chunks` ranges of sequences with about the same work."""
        if self.lengths is None:
            return [self.B * i // chunks for i in range(chunks + 1)]
        work = np.cumsum(self.lengths)
        inner = np.searchsorted(work, work[-1] * np.arange(1, chunks) / chunks)
        return [0, *(int(i) for i in inner), self.B]


@functools.lru_cache(maxsize=64)
def full_rows(T: int, B: int, reverse: bool = False) -> Rows:
    """The layout of B sequences of T steps each, read from their end if `reverse`."""
    starts = B * np.arange(T + 2)
    starts.flags.writeable = False
    return Rows(T, B, T * B, starts, T, reverse)


def ragged_rows(T: int, lengths: np.ndarray, reverse: bool) -> Rows:
    """The layout of sequences of given lengths in [T, B, W], each read from its own end if `reverse`."""
    B, steps = len(lengths), int(lengths.max(initial=0))
    order = np.argsort(-lengths, kind="stable")
    ordered = lengths[order]
    t, b = np.nonzero(np.arange(steps)[:, None] < ordered)
    starts = np.cumsum([0, B, *np.bincount(t, minlength=steps)])
    at = ordered[b] - 1 - t if reverse else t
    drawn = T - 1 - at if reverse else at
    return Rows(steps, B, len(t), starts, T, False, ordered, order, at * B + order[b], b, drawn * B + order[b])
