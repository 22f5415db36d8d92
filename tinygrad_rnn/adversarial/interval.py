"""Interval: where every number of an array can lie, and what becomes of that under arithmetic."""

from collections.abc import Callable
from typing import Any

import numpy as np

from .ball import AUTO, Ball, exactly
from .slopes import numbers_of


class Interval:
    """Arrays between which the numbers of another one lie, each independently of the others; float64.

        >>> import numpy as np
        >>> a = Interval(np.array([-1.0, 0.0]), np.array([2.0, 1.0]))
        >>> (a * a).lower, (a * a).upper
        (array([-2.,  0.]), array([4., 1.]))

    That a number is the same on both sides of a product is not known: so intervals are sound, and loose.

    Attributes:
        lower, upper: arrays of one shape.

    Raises:
        ValueError: shapes differ, a bound is NaN, or lower is above upper.
    """

    __slots__ = ("lower", "upper")

    def __init__(self, lower: Any, upper: Any) -> None:
        self.lower, self.upper = (exactly(each).astype(np.float64) for each in (lower, upper))
        if self.lower.shape != self.upper.shape:
            raise ValueError(f"Interval: lower is {list(self.lower.shape)}, upper {list(self.upper.shape)}")
        if not (self.lower <= self.upper).all():
            raise ValueError("Interval: lower must be below upper, and neither NaN")

    @classmethod
    def around(
        cls, x: Any, epsilon: float, *, mask: Any = None, lengths: Any = None, bounds: Any = None, batch_dim: Any = AUTO
    ) -> "Interval":
        """All that an attack with the same arguments and norm=inf may make of x; see `fgsm`.

        >>> Interval.around([[0.5, 1.0]], 0.25, bounds=(0, 1))
        Interval([[0.25 0.75]], [[0.75 1.  ]])
        """
        data = numbers_of("Interval.around", exactly(x)).astype(np.float64)
        ball = Ball(
            "Interval.around", data, epsilon, np.inf, mask=mask, lengths=lengths, batch_dim=batch_dim, bounds=bounds
        )
        far = np.full(data.shape, ball.epsilon)
        return cls(ball.at(ball.project(-far)), ball.at(ball.project(far)))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of both arrays."""
        return self.lower.shape

    def __len__(self) -> int:
        return len(self.lower)

    def __repr__(self) -> str:
        text = ", ".join(str(each) for each in (self.lower, self.upper))
        return f"Interval({text})"

    def both(self, function: Callable[[np.ndarray], np.ndarray]) -> "Interval":
        """A function that never falls, or one that moves numbers without a change: of each bound by itself."""
        return Interval(function(self.lower), function(self.upper))

    def __getitem__(self, index: Any) -> "Interval":
        return self.both(lambda a: a[index])

    def __add__(self, other: "Interval") -> "Interval":
        return Interval(self.lower + other.lower, self.upper + other.upper)

    def __mul__(self, other: "Interval") -> "Interval":
        corners = [a * b for a in (self.lower, self.upper) for b in (other.lower, other.upper)]
        return Interval(np.minimum.reduce(corners), np.maximum.reduce(corners))

    def linear(self, weight: Any, bias: Any = None) -> "Interval":
        """`x W^T + b`, exactly: from the middle m and the radius r, `m W^T + b -+ r |W|^T`."""
        W = exactly(weight).astype(np.float64)
        middle, radius = 0.5 * (self.lower + self.upper) @ W.T, 0.5 * (self.upper - self.lower) @ np.abs(W.T)
        if bias is not None:
            middle = middle + exactly(bias).astype(np.float64)
        return Interval(middle - radius, middle + radius)

    def tanh(self) -> "Interval":
        """Hyperbolic tangent."""
        return self.both(np.tanh)

    def relu(self) -> "Interval":
        """`max(x, 0)`."""
        return self.both(lambda a: np.maximum(a, 0))

    def sigmoid(self) -> "Interval":
        """The logistic function."""
        return self.both(lambda a: 0.5 + 0.5 * np.tanh(0.5 * a))

    def mix(self, old: "Interval", new: "Interval") -> "Interval":
        """`z old + (1 - z) new` for z within [0, 1]: monotone in both, and linear in z, so exact from two corners."""
        low, high = (
            [z * a + (1 - z) * b for z in (self.lower, self.upper)]
            for a, b in ((old.lower, new.lower), (old.upper, new.upper))
        )
        return Interval(np.minimum(*low), np.maximum(*high))

    def where(self, condition: np.ndarray, other: "Interval") -> "Interval":
        """These where the condition holds, the others elsewhere."""
        return Interval(np.where(condition, self.lower, other.lower), np.where(condition, self.upper, other.upper))

    @staticmethod
    def join(function: Callable[[list[np.ndarray]], np.ndarray], parts: "list[Interval]") -> "Interval":
        """What makes one array of several, such as `np.stack`, applied to both bounds."""
        return Interval(function([p.lower for p in parts]), function([p.upper for p in parts]))

    @classmethod
    def point(cls, x: Any) -> "Interval":
        """Numbers that are known."""
        return cls(x, x)
