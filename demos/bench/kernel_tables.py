"""`bench kernels`: products, functions of many elements, and the tape, beside NumPy and PyTorch."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
from maths import lstm
from pairs import Group, Row, Settings, forget, installed, leaves, random
from peak import measure_fma_peak

import tinygrad_rnn as tg
from tinygrad_rnn.autograd.table import TABLE
from tinygrad_rnn.kernels.matmul import fill_panels, matmul, multiply
from tinygrad_rnn.kernels.outline import kernel
from tinygrad_rnn.kernels.vector import ROW_BYTES

PRODUCTS = [(1, 64, 256), (32, 128, 512), (1000, 37, 65), (256, 256, 256), (64, 512, 2048), (1024, 1024, 1024)]
PACKED = [(B, H, 4 * H) for H in (128, 256, 512) for B in (32, 64)]
SIZES = [10**3, 10**4, 10**5, 10**6]
STEPS = [(B, H) for H in (32, 128, 256) for B in (1, 8, 32)]


@kernel()
def pack(b, place):
    fill_panels(b, place, b.shape[0], b.shape[1])


@kernel()
def multiply_packed(a, packed, c):
    """As generated kernels do it."""
    multiply(a, packed, c, a.shape[0], c.shape[1], a.shape[1], False)


def kernel_groups(settings: Settings) -> Iterator[Group]:
    """Products, functions of many elements, and the tape."""
    rounds = 1 if settings.smoke else 20
    peaks = {dtype: settings.threads * measure_fma_peak(dtype, rounds) for dtype in ("float32", "float64")}
    print(", ".join(f"multiply-adds in {dtype} reach {peak / 1e9:.0f} GFLOP/s" for dtype, peak in peaks.items()))
    for dtype, peak in peaks.items():
        rows = (product(s, dtype, peak) for s in settings.some(PRODUCTS, (1, 8, 16)))
        yield Group(f"matmul (M, K, N), {dtype}", "NumPy @", rows, target=(0.8, 1.0))
    rows = (product(s, "float32", peaks["float32"], True) for s in settings.some(PACKED, (2, 8, 32)))
    yield Group("matmul, right operand prepacked", "NumPy @", rows, target=(1.2, 1.4))
    functions = (
        elementwise(name, n, dtype)
        for name in ("tanh", "sigmoid", "exp")
        for dtype in ("float32", "float64")
        for n in settings.some(SIZES, 10)
    )
    yield Group("functions of n elements", "NumPy ufuncs", functions, target=(0.9, 1.2))
    torch = installed("torch")
    if torch is None:
        print("\nPyTorch is not installed: the tape is not compared with it.")
        return
    torch.set_num_threads(settings.threads)
    yield Group("forward and backward on the tape", "PyTorch eager", [chain_row(torch)], target=(1.0, 1.0))
    steps = (step_row(torch, B, H) for B, H in settings.some(STEPS, (1, 4)))
    yield Group("LSTM step, forward and backward (B, H)", "PyTorch eager", steps, target=(0.8, 1.0))


def product(size: tuple[int, int, int], dtype: str, peak: float, packed: bool = False) -> Row:
    """A product into existing memory; `peak` is that of the dtype."""
    M, K, N = size
    a, b = random(M, K, dtype=dtype), random(K, N, dtype=dtype)
    c, d = np.empty((M, N), dtype), np.empty((M, N), dtype)
    if packed:
        width = ROW_BYTES // b.itemsize
        place = np.empty((-(-N // width), K, width), dtype)
        pack(b, place)
        ours = lambda: multiply_packed(a, place, c)
    else:
        ours = lambda: matmul(a, b, out=c)
    return Row(f"{M}, {K}, {N}", ours, lambda: np.matmul(a, b, out=d), 2 * M * K * N, peak)


def elementwise(name: str, n: int, dtype: str) -> Row:
    """A function of n elements into existing memory."""
    row: Any = TABLE[name]
    kernel = getattr(row.kernel, dtype)
    x = 20 * random(n, dtype=dtype)
    y, z = np.empty_like(x), np.empty_like(x)

    def logistic():
        np.negative(x, out=z)
        np.exp(z, out=z)
        np.add(z, 1, out=z)
        np.divide(1, z, out=z)

    function = getattr(np, name, None)
    rival = (lambda: function(x, out=z)) if function else logistic
    return Row(f"{name}, {n}, {dtype}", lambda: kernel(x, out=y), rival)


def chain_row(torch: Any) -> Row:
    """50 operations on 4 x 4 elements: what a call costs beside its arithmetic."""

    def chain(lib):
        x, w, b = tensors = leaves(lib, random(4, 4), random(4, 4), random(4, 4))

        def run():
            y = x
            for _ in range(10):
                y = lib.tanh(y)
                y = y * w
                y = y + b
                y = lib.sigmoid(y)
                y = y - b
            y.sum().backward()
            forget(tensors)

        return run

    return Row("50 operations on 4 x 4", chain(tg), chain(torch))


def step_row(torch: Any, B: int, H: int) -> Row:
    """One step of an LSTM, the same code for both."""

    def step(lib):
        arrays = random(B, H), random(B, H), random(B, H), random(H, 4 * H), random(H, 4 * H), random(4 * H)
        x, h, c, W, U, b = tensors = leaves(lib, *arrays)

        def run():
            y, s = lstm(lib, SimpleNamespace(W=W, U=U, b=b), x, h, c)
            (y + s).sum().backward()
            forget(tensors)

        return run

    return Row(f"{B}, {H}", step(tg), step(torch))
