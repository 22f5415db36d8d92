"""Products with a packed right operand, as compiled kernels call them, from Python."""

import ctypes
from typing import NamedTuple

import numpy as np
from numba import config

from tinygrad_rnn.kernels.products import products
from tinygrad_rnn.kernels.vector import ROW_BYTES


class Packed(NamedTuple):
    """The right operand [K, N] of a product, cut into panels with contiguous rows: `panels` is [panels, K, width]."""

    panels: np.ndarray
    shape: tuple[int, int]


def call(dtype, name, *numbers):
    """Call a function of machine code with integers, and with arrays of two axes, which are a Matrix each."""
    given = [int(n) for x in numbers for n in ((x.ctypes.data, *x.strides) if isinstance(x, np.ndarray) else (x,))]
    address = products(np.dtype(dtype).name).library.address(name)
    ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * len(given))(address)(*given)


def fill(b, panels):
    """Pack b into such panels."""
    call(b.dtype, "fill_panels", b, panels.ctypes.data, panels.strides[1], panels.strides[0], *b.shape)


def pack(b):
    K, N = b.shape
    if config.DISABLE_JIT:
        return Packed(b, b.shape)  # there are no panels then
    width = ROW_BYTES // b.dtype.itemsize
    panels = np.empty((-(-N // width), K, width), b.dtype)
    fill(b, panels)
    return Packed(panels, b.shape)


def matmul_packed(a, packed, out=None, accumulate=False):
    """out (+)= a @ b, where `packed` is `pack(b)`."""
    panels, (K, N) = packed
    c = np.empty((len(a), N), a.dtype) if out is None else out
    if config.DISABLE_JIT:
        c[...] = c + a @ panels if accumulate else a @ panels
    else:
        places = panels.ctypes.data, panels.strides[1], panels.strides[0]
        call(a.dtype, "multiply", a, *places, c, len(a), N, K, accumulate)
    return c
