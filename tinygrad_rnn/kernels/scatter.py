"""Rows added to the rows of a table that indices name: the gradient of an embedding."""

import functools

import numpy as np

from . import cache

SOURCE = '''\
from numba import njit, types
from tinygrad_rnn.kernels.intrinsics import REDUCE
TABLE, ROWS = (types.Array(types.{dtype}, 2, "C", readonly=given) for given in (False, True))
PLACES = types.Array(types.int64, 1, "C", readonly=True)
@njit(types.void(TABLE, PLACES, ROWS), cache=CACHE, **REDUCE)
def entry(table, places, rows):
    for i in range(places.size):
        for j in range(table.shape[1]):
            table[places[i], j] += rows[i, j]
'''


def add_rows(table: np.ndarray, places: np.ndarray, rows: np.ndarray) -> None:
    """table[places[i]] += rows[i] for every i, one after the other: [N, E] and [M, E] of one dtype, contiguous.

    Raises:
        IndexError: a place is none of the table.
    """
    if places.size and not (0 <= places.min() and places.max() < len(table)):
        raise IndexError(f"index {places.max()} is out of bounds for {len(table)} rows")
    _compiled(table.dtype)(table, places, rows)


_compiled = functools.cache(lambda dtype: cache.load(SOURCE.format(dtype=dtype.name), f"scatter_{dtype.name}").entry)
