"""The guards guard: what strays from a guarded array ends the process, and what is written beside it is noticed."""

import ctypes
import os
import signal

import numpy as np
import pytest

from kernels.guarded import guarded, in_child, needs_guards, untouched

pytestmark = needs_guards

VIEWS = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.T,
    "reversed": lambda x: x[::-1, ::-1],
    "columns": lambda x: x[:, 2:4],
    "steps": lambda x: x[::2, ::3],
    "repeated": lambda x: np.broadcast_to(x[0], (4, 9)),
    "one": lambda x: np.broadcast_to(x[0, 0], (4, 9)),
    "empty": lambda x: x[:0],
    "scalar": lambda x: x[1, 1, ...],
}


@pytest.mark.parametrize("end", ["after", "before"])
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, bool])
def test_a_copy_has_the_elements_and_strides_of_the_array(view, end, dtype):
    array = VIEWS[view](np.arange(63).reshape(7, 9).astype(dtype))
    copy = guarded(array, end)
    assert np.array_equal(copy, array) and copy.strides == array.strides and copy.dtype == array.dtype
    assert untouched(copy)
    copy[...] = 0
    assert untouched(copy) and not copy.any()


@pytest.mark.parametrize("large", [10, 3000])
def test_what_is_written_beside_is_noticed(large):
    for view in (lambda x: x, lambda x: x[::2], lambda x: x[::-2]):
        copy = guarded(view(np.ones(large, np.float32)), "before")
        high = copy.ctypes.data + max(0, copy.strides[0] * (copy.size - 1))
        beside = ctypes.c_byte.from_address(high + 4)
        before = beside.value
        beside.value = 3
        assert not untouched(copy)
        beside.value = before
        assert untouched(copy)


def how_it_ends(address):
    """The signal that ends a child which reads a byte."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        signal.signal(signal.SIGBUS, signal.SIG_DFL)
        ctypes.c_byte.from_address(address).value  # noqa: B018
        os._exit(0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status := os.waitpid(child, 0)[1]) else 0


def read_beside():
    for view in ("contiguous", "reversed", "transposed", "columns"):
        for size in (1, 9, 41):
            array = VIEWS[view](np.ones((size, 13)))
            for end in ("after", "before"):
                copy = guarded(array, end)
                ways = [(n - 1) * step for n, step in zip(copy.shape, copy.strides)]
                low = copy.ctypes.data + sum(way for way in ways if way < 0)
                high = copy.ctypes.data + sum(way for way in ways if way > 0) + 8
                inside, outside = (high - 1, high) if end == "after" else (low, low - 1)
                assert how_it_ends(inside) == 0 and how_it_ends(outside) in (signal.SIGSEGV, signal.SIGBUS)
    print("all were stopped")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_byte_beside_cannot_be_read():
    assert in_child(__file__, "read_beside()") == "all were stopped"
