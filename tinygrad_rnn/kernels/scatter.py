"""Rows added to the rows of a table that indices name: the gradient of an embedding."""

import functools
from typing import Any

import numpy as np

from .outline import compiled, read, written_to


def _kernels(real: Any, over_rows: Any) -> Any:
    @over_rows(read(real, 2), read(np.int64, 1), written_to(real, 1))
    def add(i, W, row, places, table):
        for j in range(W):
            table[places[i] * W + j] += row[j]

    return add


def add_rows(table: np.ndarray, places: np.ndarray, rows: np.ndarray) -> None:
    """table[places[i]] += rows[i] for every i, one after the other: [N, E], [M] and [M, E], contiguous.

    Raises:
        IndexError: a place is none of the table.
        ValueError: the shapes do not fit.
    """
    if rows.shape != (len(places), table.shape[1]):
        raise ValueError(f"add_rows: {list(rows.shape)} for {len(places)} places in a table {list(table.shape)}")
    if places.size and not (0 <= places.min() and places.max() < len(table)):
        raise IndexError(f"index {places.max()} is out of bounds for {len(table)} rows")
    _compiled(table.dtype)(rows, places, table.reshape(-1))


_compiled = functools.cache(functools.partial(compiled, "scatter", _kernels))
