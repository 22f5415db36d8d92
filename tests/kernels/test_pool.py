"""Memory that is used again: as soon as nobody refers to it, and never before."""

import numpy as np
import pytest

from tinygrad_rnn.kernels import pool

SHAPE, FLOAT32 = (123, 456), np.dtype(np.float32)  # large, and no other test's
KINDS = [pool.empty, pool.empty_lines, pool.staggered, pool.staggered_zeros]


def address(array):
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize("make", KINDS)
def test_what_nobody_holds_is_given_out_again(make):
    array = make(SHAPE, FLOAT32)
    assert array.shape == SHAPE and array.dtype == FLOAT32 and array.flags.carray
    place = address(array)
    array = None
    assert address(make(SHAPE, FLOAT32)) == place


@pytest.mark.parametrize("hold", [lambda x: x, lambda x: x[5:, 3:], lambda x: x.reshape(-1).T, lambda x: memoryview(x)])
@pytest.mark.parametrize("make", KINDS)
def test_what_somebody_holds_is_not(make, hold):
    array = make(SHAPE, FLOAT32)
    array[...] = 7
    kept, array = hold(array), None
    others = [make(SHAPE, FLOAT32) for _ in range(3)]
    for other in others:
        other[...] = 0
    assert (np.asarray(kept) == 7).all()


def test_lines_begin_with_a_line_and_staggered_arrays_at_different_ones():
    arrays = [pool.staggered(SHAPE, FLOAT32) for _ in range(6)]
    places = [address(x) % pool.PAGE for x in arrays]
    assert len(set(places)) == 6
    for place in (*places, address(pool.empty_lines((3, 5), FLOAT32))):
        assert place % 64 == 0


def test_zeros_are_zeros_wherever_they_lie():
    for shape in ((2, 3), SHAPE):
        array = pool.staggered_zeros(shape, FLOAT32)
        array += 1
        array = None
        assert not pool.staggered_zeros(shape, FLOAT32).any()


def test_what_is_not_asked_for_is_given_back():
    pool.empty((77, 1234), FLOAT32)
    assert ((77, 1234), "f") in pool._pool.made
    held = [pool.staggered((100 + i, 100), FLOAT32) for i in range(pool.PATIENCE + 2)]
    assert ((77, 1234), "f") not in pool._pool.made and len(held) > pool.PATIENCE
