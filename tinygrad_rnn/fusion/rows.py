"""Where the rows of a batch of sequences lie in memory: step after step, and only those that are still running.

A kernel sees a sequence as a matrix with one row for each step of each sequence:

    [T, B, W] with lengths 2, 3, 1:     step 0, sequences 1 0 2     (the longest first, so that those which are still
                                        step 1, sequences 1 0        running at a step are the first ones)
                                        step 2, sequence  1

What is padding is never read, computed or multiplied. A state has the same rows after `B` more, its initial values.
"""

import functools
from typing import Any

import numpy as np

from ..autograd import table

TILE_BYTES, TILE_ROWS = 1 << 21, 1 << 10  # as much as stays in the cache, and rows enough to prepare a product for


class Rows:
    """The layout of B sequences of T steps each.

    Attributes:
        T, B: steps, of the longest sequence if they differ; sequences.
        total: the number of rows, of all steps.
        starts: [T + 2], of a state: its value before step t begins at row starts[t], that after it at starts[t + 1].
        padded: the steps of the user's arrays, [padded, B, W].
        flipped: whether these are read from their last step.
        kind: what functions of a sequence may depend on besides its sizes.
    """

    ragged = False  # whether sequences differ in length

    def __init__(self, T: int, B: int, flipped: bool = False) -> None:
        self.T, self.B, self.total, self.padded, self.flipped = T, B, T * B, T, flipped
        self.kind = "reversed" if flipped else "whole"
        self.starts = B * np.arange(T + 2)
        self.starts.flags.writeable = False

    # ---- Into this layout and back: arrays, or tensors on the tape ---------------------------------------------------

    def gathered(self, x: Any) -> Any:
        """The rows of x [padded, B, ...]: [total, ...]."""
        x = table.flip(x, 0) if self.flipped else x
        return x.reshape((self.total, *x.shape[2:]))

    def scattered(self, x: Any) -> Any:
        """[total, ...] as [padded, B, ...], zero where a sequence has ended."""
        x = x.reshape((self.T, self.B, *x.shape[1:]))
        return table.flip(x, 0) if self.flipped else x

    def after(self, states: Any) -> Any:
        """The values after each step, [padded, B, W], from those of a kernel, [1 + T, B, W], that begin before them."""
        return table.flip(states[1:], 0) if self.flipped else states[1:]

    def ordered(self, x: Any) -> Any:
        """[B, ...] in the order of rows."""
        return x

    def unordered(self, x: Any) -> Any:
        """[B, ...] in the order of the user's sequences."""
        return x

    # ---- For kernels -------------------------------------------------------------------------------------------------

    def repeated(self, x: Any) -> Any:
        """A value for each sequence, [B, ...], as one for each row, [total, ...]: arrays, or tensors on the tape."""
        whole = table.expand(x.reshape((1, *x.shape)), shape=(self.T, *x.shape))
        return whole.reshape((self.total, *x.shape[1:]))

    def before(self, state: np.ndarray) -> np.ndarray:
        """[total, W], the values of a state before each step, from those [B + total, W] before and after."""
        return state[: self.total]

    def running(self, x: np.ndarray) -> np.ndarray:
        """[T, B, W] with rows for the sequences that have ended, as [total, W] without."""
        return x.reshape(self.total, x.shape[2])

    def drawn(self, x: np.ndarray) -> np.ndarray:
        """[padded * B, W], numbers drawn for one step after the other in the order of computing, as [total, W]."""
        return x

    def counts(self, tile: int = 0, keep: int = 0, I: int = 0) -> dict[str, int]:
        """How many rows the arrays of an arena have, by the words for that; see `kernel.Arena`."""
        total, B = self.total, self.B
        return {
            "1": 1, "B": B, "2 * B": 2 * B, "total": total, "B + total": B + total, "tile": tile, "keep * B": keep * B,
            "I": I, "ragged": total if total < self.T * B else 0,  # if some sequences end earlier
        }  # fmt: skip

    def cut(self, chunks: int) -> list[int]:
        """The bounds of `chunks` ranges of sequences with about the same work."""
        return [self.B * i // chunks for i in range(chunks + 1)]

    def tile(self, row_bytes: int) -> int:
        """How many steps to take at a time, of which something is computed before the loop that nobody needs after it.

        Then it stays in the cache until the loop reads it, and a long sequence takes no more memory than its result.
        """
        if self.total <= TILE_ROWS or not row_bytes:
            return max(self.T, 1)
        return max(TILE_BYTES // row_bytes, TILE_ROWS) // max(self.B, 1) + 1


class RaggedRows(Rows):
    """The layout of sequences of given lengths in [padded, B, W], each read from its own end if `flipped`."""

    ragged = True

    def __init__(self, padded: int, lengths: np.ndarray, flipped: bool) -> None:
        B, T = len(lengths), int(lengths.max(initial=0))
        self.kind = "ragged, reversed" if flipped else "ragged"
        self.order = np.argsort(-lengths, kind="stable")  # [B], the numbers of the sequences in the order of rows
        self.lengths = lengths[self.order]
        t, b = np.nonzero(np.arange(T)[:, None] < self.lengths)  # [total], of each row its step and sequence
        self.steps, self.sequences = t, b
        self.T, self.B, self.total, self.padded, self.flipped = T, B, len(t), padded, flipped
        self.starts = np.cumsum([0, B, *np.bincount(t, minlength=T)])
        self.starts.flags.writeable = False  # like that of `Rows`: another type would be another kernel
        at = self.lengths[b] - 1 - t if flipped else t
        self.places = at * B + self.order[b]  # [total], of each row its place t * B + b in the user's array

    def gathered(self, x: Any) -> Any:
        return table.index(x.reshape((self.padded * self.B, *x.shape[2:])), at=(self.places,))

    def scattered(self, x: Any) -> Any:
        inner = x.shape[1:]
        x = table.index_add(x, shape=(self.padded * self.B, *inner), at=(self.places,))
        return x.reshape((self.padded, self.B, *inner))

    def after(self, states: Any) -> Any:
        return self.scattered(states[0, self.B :])

    def ordered(self, x: Any) -> Any:
        return table.index(x, at=(self.order,))

    def unordered(self, x: Any) -> Any:
        return table.index(x, at=(np.argsort(self.order),))

    def repeated(self, x: Any) -> Any:
        return table.index(x, at=(self.sequences,))

    def before(self, state: np.ndarray) -> np.ndarray:
        return state[self.starts[self.steps] + self.sequences]

    def running(self, x: np.ndarray) -> np.ndarray:
        return x[self.steps, self.sequences]

    def drawn(self, x: np.ndarray) -> np.ndarray:
        step, sequence = np.divmod(self.places, self.B)
        return x[(self.padded - 1 - step if self.flipped else step) * self.B + sequence]

    def cut(self, chunks: int) -> list[int]:
        work = np.cumsum(self.lengths)
        inner = np.searchsorted(work, self.total * np.arange(1, chunks) / chunks)
        return [0, *(int(i) for i in inner), self.B]


full_rows = functools.lru_cache(maxsize=64)(Rows)
