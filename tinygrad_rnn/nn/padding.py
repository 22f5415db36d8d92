"""Padding: a border around the last dimensions."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..autograd import table
from ..autograd.arrays import along
from ..autograd.operands import as_tensor, sizes
from ..autograd.pointwise import where
from ..autograd.shapes import narrow
from ..autograd.tensor import Tensor


def pad(input: Any, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """A border around the last dimensions; negative widths cut.

        >>> import tinygrad_rnn as tg
        >>> tg.pad(tg.tensor([1.0, 2.0]), (1, 2))
        tensor([0., 1., 2., 0., 0.])

    Args:
        pad: (before, after) of the last dimension, then of the one before it, and so on.
        mode: "constant" (`value`, 0 by default), "reflect" (without the edge), "replicate" or "circular".

    Raises:
        ValueError: an odd number of widths, more than there are dimensions, or wider than the mode can fill.
    """
    x = as_tensor(input)
    widths = sizes("pad", (tuple(pad),))
    if len(widths) % 2 or len(widths) // 2 > x.data.ndim:
        raise ValueError(f"pad: {len(widths)} widths do not fit a tensor of shape {list(x.shape)}: two a dimension")
    borders = [(x.data.ndim - 1 - i, widths[2 * i], widths[2 * i + 1]) for i in range(len(widths) // 2)]
    if mode == "constant":
        return _pad_with_value(x, borders, value)
    if mode not in ("reflect", "replicate", "circular"):
        raise ValueError(f"pad: mode must be 'constant', 'reflect', 'replicate' or 'circular', not {mode!r}")
    if value:
        raise ValueError(f"pad: mode {mode!r} takes no value")
    for dim, before, after in borders:
        n = x.data.shape[dim]
        limit = {"reflect": n - 1, "replicate": math.inf if n else 0, "circular": n}[mode]
        if max(before, after) > limit or n + before + after < 0:
            raise ValueError(f"pad: widths {(before, after)} are out of reach of mode {mode!r} for size {n}")
        if mode == "circular":  # what is cut does not come round again
            x = narrow(x, dim, max(-before, 0), n - max(-before, 0) + min(after, 0))
            before, after, n = max(before, 0), max(after, 0), x.data.shape[dim]
        places = np.arange(-before, n + after)
        if mode == "reflect":
            places = n - 1 - np.abs(n - 1 - np.abs(places))
        places = np.clip(places, 0, n - 1) if mode == "replicate" else places % max(n, 1)
        x = table.index(x, at=along(dim, places))
    return x


def _pad_with_value(x: Tensor, borders: list[tuple[int, int, int]], value: float | None) -> Tensor:
    shape = list(x.data.shape)
    taken, inner = [slice(None)] * x.data.ndim, [slice(None)] * x.data.ndim
    for dim, before, after in borders:
        n, shape[dim] = shape[dim], shape[dim] + before + after
        if shape[dim] < 0:
            raise ValueError(f"pad: cutting {(before, after)} leaves less than nothing of shape {list(x.shape)}")
        taken[dim] = slice(max(-before, 0), n - max(-after, 0))
        inner[dim] = slice(max(before, 0), shape[dim] - max(after, 0))
    padded = table.slice_scatter(table.slice(x, at=tuple(taken)), shape=tuple(shape), at=tuple(inner))
    if not value:
        return padded
    border = np.ones(shape, np.bool_)
    border[tuple(inner)] = False
    return where(border, value, padded)
