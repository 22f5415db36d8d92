"""Ball: which changes of sequences are allowed, and the steepest of them."""

import math
from typing import Any

import numpy as np

from ..autograd.creation import generator
from ..autograd.operands import as_array, is_whole
from ..autograd.tape import Value
from ..nn.recurrent import check_lengths

AUTO = "auto"


class Ball:
    """The changes d of x whose norm, over the whole of one sequence, is at most epsilon.

        norm=inf:  |d| <= epsilon for every number          norm=2:  sum d^2 over time and features <= epsilon^2

    All of it is NumPy: what an attack does between two gradients. Norms are taken in float64, after division by the
    largest number, so that gradients of 1e-30 have a direction too.

    Args:
        who: the function that is called, for messages.
        x: what is changed, an array of floats.
        epsilon: how far, a number that is not negative.
        norm: inf or 2.
        mask: where x may be changed, of the shape of x or one that broadcasts to it, or without its last dimension.
        lengths: [B] integers: steps beyond the end of a sequence are not changed.
        batch_dim: the dimension that counts sequences; None: x is one sequence; "auto": 0 if `batch_first`, else 1, for
            three dimensions or more; with fewer it is left open until it matters.
        batch_first: see there.
        bounds: (low, high), numbers or arrays that broadcast to x, or None for either: what x + d must stay within.
    """

    def __init__(
        self, who: str, x: np.ndarray, epsilon: float, norm: float, *, mask: Any = None, lengths: Any = None,
        batch_dim: Any = AUTO, batch_first: bool = False, bounds: Any = None,
    ) -> None:  # fmt: skip
        self.who, self.x = who, x
        self.epsilon = check_size(who, "epsilon", epsilon)
        if norm not in (math.inf, 2) or isinstance(norm, bool):
            raise ValueError(f"{who}: norm must be inf or 2, not {norm!r}")
        self.norm = norm
        self.batch_dim = self._check_batch_dim(batch_dim, batch_first)
        self.free = self._free(mask, lengths)
        self.low, self.high = self._check_bounds(bounds)

    # ---- What an attack asks for -------------------------------------------------------------------------------------

    def unit(self, g: np.ndarray) -> np.ndarray:
        """The direction of norm 1 along which g rises fastest: its sign, or g divided by its 2-norm; 0 where g is."""
        g = g if self.free is None else np.where(self.free, g, 0)
        if self.norm == math.inf:
            return np.sign(g)
        g = g.astype(np.float64)
        largest = np.abs(g).max(self._inside, keepdims=True, initial=0)
        g = g / np.where(largest > 0, largest, 1)
        length = np.sqrt(np.square(g).sum(self._inside, keepdims=True))
        return (g / np.where(length > 0, length, 1)).astype(self.x.dtype)

    def project(self, d: np.ndarray) -> np.ndarray:
        """The nearest allowed change."""
        if self.norm == math.inf:
            d = np.clip(d, -self.epsilon, self.epsilon)
        else:
            length = np.sqrt(np.square(d, dtype=np.float64).sum(self._inside, keepdims=True))
            scale = np.where(length > self.epsilon, self.epsilon / np.where(length > 0, length, 1), 1)
            d = (d * scale).astype(self.x.dtype)
        if self.low is not None or self.high is not None:
            bounded = np.clip(self.x + d, self.low, self.high) - self.x
            d = bounded if self.free is None else np.where(self.free, bounded, 0)
        return d.astype(self.x.dtype, copy=False)

    def start(self) -> np.ndarray:
        """A change drawn uniformly from all that are allowed, but for bounds, onto which it is then projected."""
        rng, shape = generator(), self.x.shape
        if self.norm == math.inf:
            d = self._masked(rng.uniform(-self.epsilon, self.epsilon, shape))
        else:
            d = self.unit(rng.standard_normal(shape).astype(self.x.dtype))
            free = np.ones(shape) if self.free is None else np.broadcast_to(self.free, shape)
            count = np.maximum(free.sum(self._inside, keepdims=True, dtype=np.float64), 1)
            d = d * (self.epsilon * rng.random(count.shape) ** (1 / count))
        return self.project(d.astype(self.x.dtype))

    def at(self, d: np.ndarray) -> np.ndarray:
        """x + d; where nothing is free, the very numbers of x."""
        moved = (self.x + d).astype(self.x.dtype, copy=False)
        if self.low is not None or self.high is not None:  # which a rounding of the sum may have passed
            moved = np.clip(moved, self.low, self.high).astype(self.x.dtype, copy=False)
        return moved if self.free is None else np.where(self.free, moved, self.x)

    def of_each(self, values: np.ndarray) -> np.ndarray:
        """One value for each sequence, [B], as an array that broadcasts to x."""
        if self.batch_dim is None and self._open and values.size in self.x.shape:
            if self.x.shape.count(values.size) > 1:
                raise ValueError(
                    f"{self.who}: x is {list(self.x.shape)} and there are {values.size} losses: say which dimension "
                    "counts sequences, batch_dim=0 or 1"
                )
            self.batch_dim = self.x.shape.index(values.size)
        B = 1 if self.batch_dim is None else self.x.shape[self.batch_dim]
        if values.size != B:
            where = "x is one sequence" if self.batch_dim is None else f"dimension {self.batch_dim} of x counts {B}"
            raise ValueError(
                f"{self.who}: the loss returned {values.size} values, but {where}: return one number, or one for each "
                "sequence (reduction='none'), and say where they are in x with batch_dim"
            )
        return values.reshape([n if i == self.batch_dim else 1 for i, n in enumerate(self.x.shape)])

    # ---- What it was given -------------------------------------------------------------------------------------------

    @property
    def _inside(self) -> tuple[int, ...]:
        """The dimensions of one sequence."""
        return tuple(i for i in range(self.x.ndim) if i != self.batch_dim)

    def _masked(self, d: np.ndarray) -> np.ndarray:
        return d if self.free is None else np.where(self.free, d, 0)

    def _check_batch_dim(self, batch_dim: Any, batch_first: bool) -> int | None:
        shape, ndim = list(self.x.shape), self.x.ndim
        self._open = batch_dim == AUTO and ndim < 3
        if self._open:
            if self.norm == 2 and ndim:
                raise ValueError(
                    f"{self.who}: x is {shape}: say over which numbers a 2-norm goes: batch_dim=0 or 1 for the "
                    "dimension that counts sequences, None if x is one sequence"
                )
            return None
        if batch_dim is None:
            return None
        if batch_dim == AUTO:
            return 0 if batch_first else 1
        if not is_whole(batch_dim):
            raise TypeError(f"{self.who}: batch_dim must be an integer, None or 'auto', not {batch_dim!r}")
        if not -ndim <= batch_dim < ndim:
            raise ValueError(f"{self.who}: batch_dim={batch_dim} is no dimension of x, {shape}")
        return int(batch_dim) % ndim

    def _free(self, mask: Any, lengths: Any) -> np.ndarray | None:
        """Where x may be changed, in the shape of x or one that broadcasts to it; None: everywhere."""
        free = None if mask is None else self._check_mask(mask)
        if lengths is None:
            return free
        if self.x.ndim < 3 or self.batch_dim not in (0, 1):
            raise ValueError(f"{self.who}: lengths need an x of [T, B, ...] or [B, T, ...], not {list(self.x.shape)}")
        T, B = self.x.shape[1 - self.batch_dim], self.x.shape[self.batch_dim]
        ends = check_lengths(self.who, lengths, T, B)
        within = np.arange(T)[:, None] < ends  # [T, B]
        within = within.T if self.batch_dim == 0 else within
        within = within.reshape(*within.shape, *[1] * (self.x.ndim - 2))
        return within if free is None else within & free

    def _check_mask(self, mask: Any) -> np.ndarray:
        free = as_array(mask)
        if not ((free == 0) | (free == 1)).all():
            raise ValueError(f"{self.who}: mask must be of booleans, or of 0 and 1")
        free = free.astype(bool)
        free = free[..., None] if free.ndim == self.x.ndim - 1 else free
        if free.ndim != self.x.ndim or any(n not in (1, m) for n, m in zip(free.shape, self.x.shape)):
            raise ValueError(
                f"{self.who}: mask has shape {list(np.shape(as_array(mask)))}, expected that of x, "
                f"{list(self.x.shape)}, or one without the last dimension"
            )
        return free

    def _check_bounds(self, bounds: Any) -> tuple[Any, Any]:
        if bounds is None:
            return None, None
        if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
            raise ValueError(f"{self.who}: bounds must be (low, high), with None where there is none, not {bounds!r}")
        low, high = (None if each is None else exactly(each).astype(self.x.dtype) for each in bounds)
        for name, each in (("low", low), ("high", high)):
            try:
                fits = each is None or np.broadcast_shapes(each.shape, self.x.shape) == self.x.shape
            except ValueError:
                fits = False
            if not fits or (each is not None and np.isnan(each).any()):
                raise ValueError(f"{self.who}: {name} of bounds must be numbers that broadcast to {list(self.x.shape)}")
        outside = np.zeros(self.x.shape, bool)
        for broken in (low is not None and self.x < low, high is not None and self.x > high):
            outside |= broken
        if (outside if self.free is None else outside & self.free).any():
            raise ValueError(f"{self.who}: x itself is out of bounds: no change of at most epsilon brings it back")
        return low, high


def check_size(who: str, name: str, value: Any) -> float:
    """A finite number that is not negative.

    Raises:
        ValueError: it is another one.
        TypeError: it is none.
    """
    array = exactly(value)
    if array.ndim or array.dtype.kind not in "iuf":
        raise TypeError(f"{who}: {name} must be a number, not {value!r}")
    if not 0 <= float(array) < math.inf:
        raise ValueError(f"{who}: {name} must be finite and not negative, not {value}")
    return float(array)


def exactly(value: Any) -> np.ndarray:
    """An array of what was given: numbers of Python's are float64, where a tensor of them would be float32."""
    return value.data if isinstance(value, Value) else np.asarray(value)
