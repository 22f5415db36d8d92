"""Convolutions over time, and their gradients, as products of matrices.

A sequence with its channels last, [L, C], holds the window of k steps that begins at step l as k C numbers in a row.
The matrix of all windows is therefore a view, whose rows overlap, and nothing is copied k times. Sequences of a batch
lie one behind the other, with zeros between them: one product does for all, and the rows where two sequences meet are
left out of the result, or meet zeros. Where taps are apart (dilation), each is a product of its own, added to the sum.

    y[b, o, n] = sum over c, i of weight[o, c, i] x[b, c, n stride + i dilation - before]

The three functions are bilinear in their arrays, and each one's gradients are the other two.
"""

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from .matmul import matmul


class Taps(NamedTuple):
    """Where a kernel of `size` steps reads: `before` and `after` are zeros around a sequence of `length` steps."""

    length: int
    size: int
    stride: int
    dilation: int
    before: int
    after: int

    @property
    def reach(self) -> int:
        """From the first tap of a window to its last one."""
        return self.dilation * (self.size - 1)

    @property
    def windows(self) -> int:
        """The number of steps of the result."""
        return (self.length + self.before + self.after - self.reach - 1) // self.stride + 1

    @property
    def rows(self) -> int:
        """How many strides apart two sequences begin: no window of one that counts reaches the next."""
        needed = max(self.length + self.before, self.windows * self.stride + self.reach)
        return -(-needed // self.stride)


def correlate(x: np.ndarray, weight: np.ndarray, stride: int, dilation: int, before: int, after: int) -> np.ndarray:
    """y [B, O, N], of x [B, C, L] and weight [O, C, k]."""
    taps = Taps(x.shape[2], weight.shape[2], stride, dilation, before, after)
    if taps.windows < 1:
        raise ValueError("the kernel is longer than the sequence")  # the row's shape rule says it better
    steps = _in_a_row(x, taps.rows * stride, before, behind=taps.reach + stride)
    y = np.empty((x.shape[0] * taps.rows, weight.shape[0]), x.dtype)
    _sum_of_taps(steps, np.ascontiguousarray(weight.transpose(2, 1, 0)), y, stride, dilation)
    return _sequences(y, taps.rows, 0, taps.windows)


def correlate_input(
    g: np.ndarray, weight: np.ndarray, length: int, stride: int, dilation: int, before: int, after: int
) -> np.ndarray:
    """dx [B, C, L], of dy = g [B, O, N]; a transposed convolution."""
    taps, batch = Taps(length, weight.shape[2], stride, dilation, before, after), g.shape[0]
    if stride == 1:  # a convolution with the taps from back to front
        steps = _in_a_row(g, taps.rows, 0, ahead=taps.reach)
        dx = np.empty((batch * taps.rows, weight.shape[1]), g.dtype)
        _sum_of_taps(steps, np.ascontiguousarray(weight.transpose(2, 0, 1)[::-1]), dx, 1, dilation)
    else:
        dx = np.zeros((batch * taps.rows * stride + taps.reach, weight.shape[1]), g.dtype)
        steps = _in_a_row(g, taps.rows, 0)
        for i in range(taps.size):
            matmul(steps, weight[:, :, i], dx[i * dilation :][: len(steps) * stride : stride], accumulate=True)
        dx = dx[: len(steps) * stride]
    return _sequences(dx, taps.rows * stride, before, length)


def correlate_weight(
    g: np.ndarray, x: np.ndarray, size: int, stride: int, dilation: int, before: int, after: int
) -> np.ndarray:
    """dweight [O, C, k], of dy = g [B, O, N] and x [B, C, L]."""
    taps = Taps(x.shape[2], size, stride, dilation, before, after)
    steps = _in_a_row(x, taps.rows * stride, before, behind=taps.reach + stride)
    dy = _in_a_row(g, taps.rows, 0)
    if dilation == 1 or size == 1:
        found = matmul(_windows(steps, len(dy), size, stride).T, dy)
    else:
        found = np.concatenate([matmul(steps[i * dilation :][: len(dy) * stride : stride].T, dy) for i in range(size)])
    return np.ascontiguousarray(found.reshape(size, x.shape[1], g.shape[1]).transpose(2, 1, 0))


def _in_a_row(x: np.ndarray, apart: int, before: int, ahead: int = 0, behind: int = 0) -> np.ndarray:
    """[B, C, L] as [ahead + B apart + behind, C]: step l of sequence b is row ahead + b apart + before + l."""
    batch, channels, length = x.shape
    steps = np.zeros((ahead + batch * apart + behind, channels), x.dtype)
    body = steps[ahead : ahead + batch * apart].reshape(batch, apart, channels)
    body[:, before : before + length] = x.transpose(0, 2, 1)
    return steps


def _sequences(steps: np.ndarray, apart: int, first: int, length: int) -> np.ndarray:
    """Back from steps in a row to [B, C, length]."""
    body = steps.reshape(len(steps) // apart, apart, steps.shape[1])
    return np.ascontiguousarray(body[:, first : first + length].transpose(0, 2, 1))


def _windows(steps: np.ndarray, count: int, size: int, stride: int) -> np.ndarray:
    """The windows of neighbouring steps, [count, size C]: a view."""
    item, channels = steps.itemsize, steps.shape[1]
    return as_strided(steps, (count, size * channels), (stride * channels * item, item), writeable=False)


def _sum_of_taps(steps: np.ndarray, weight: np.ndarray, y: np.ndarray, stride: int, dilation: int) -> None:
    """y[n] = sum over i of steps[n stride + i dilation] @ weight[i]."""
    size, channels, _ = weight.shape
    if dilation == 1 or size == 1:
        matmul(_windows(steps, len(y), size, stride), weight.reshape(size * channels, weight.shape[2]), y)
        return
    for i in range(size):
        matmul(steps[i * dilation :][: len(y) * stride : stride], weight[i], y, accumulate=i > 0)
