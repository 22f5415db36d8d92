"""How fast one core multiplies and adds: what the rates of matrix products are compared with."""

import ctypes
import functools
import time
from typing import Any

import numpy as np
from llvmlite import ir

from tinygrad_rnn.kernels.assembler import Function, Library
from tinygrad_rnn.kernels.vector import HOST, MR, VECTORS, Vectors


@functools.cache
def _peak_kernel(dtype: str) -> Any:
    """Machine code for some rounds of MR * VECTORS multiply-adds that wait for nothing but themselves."""
    f = Function(ir.Module("peak"), "rounds", ["times", "result"])
    v, (times, result) = Vectors(f, dtype), f.arguments
    sums = [v.variable() for _ in range(MR * VECTORS)]
    factor = v.load(result)
    with f.loop(0, times):
        for x in sums:
            v.multiply_add(factor, factor, x)
    for x in sums:
        v.store(v.add(v.load(result), v.value(x)), result)
    f.give()
    return ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)(Library(f.module).address("rounds"))


def measure_fma_peak(dtype: Any, rounds: int = 20) -> float:
    """The best rate of multiply-adds on one core now, in operations (two for each multiply-add) a second."""
    dtype, times = np.dtype(dtype), 200_000
    kernel, result, seconds = _peak_kernel(dtype.name), np.zeros(HOST.bytes, np.uint8), []
    kernel(1, result.ctypes.data)
    for _ in range(rounds):
        start = time.perf_counter()
        kernel(times, result.ctypes.data)
        seconds.append(time.perf_counter() - start)
    return 2 * MR * VECTORS * HOST.bytes // dtype.itemsize * times / min(seconds)
