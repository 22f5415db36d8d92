"""fgsm and pgd: the nearby input that raises a loss most, by one step of gradient ascent or by several."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd.operands import is_whole
from ..autograd.tensor import Tensor
from .ball import AUTO, Ball, check_size
from .slopes import numbers_of, slope, standing_still, value


def fgsm(
    loss: Callable[[Tensor], Any], x: Any, epsilon: float, *, norm: float = math.inf, mask: Any = None,
    lengths: Any = None, bounds: Any = None, batch_dim: Any = AUTO, model: Any = None,
) -> Tensor:  # fmt: skip
    """The fast gradient sign method (Goodfellow, Shlens and Szegedy, 2015): one step as far as is allowed.

        norm=inf:  x + epsilon sign(g)           norm=2:  x + epsilon g / ||g||_2           g = d loss / dx

    The 2-norm goes over all numbers of one sequence: time and features. For a loss that is linear in x no other change
    of this norm raises it more: by epsilon ||g||_1, or by epsilon ||g||_2.

        >>> import tinygrad_rnn as tg
        >>> model, y = tg.nn.GRU(3, 4), [0, 2]
        >>> loss = lambda x: tg.cross_entropy(model(x)[0][-1], y, reduction="none")
        >>> x = tg.randn(7, 2, 3)
        >>> worse = tg.adversarial.fgsm(loss, x, 0.1)
        >>> worse.shape, bool((worse - x).abs().max() <= 0.1001)
        ((7, 2, 3), True)

    The modules that `loss` names are in eval mode meanwhile, and their parameters get no gradients. Epsilon is in the
    units of x, and there are no bounds unless they are given: clamping to [0, 1], which some attacks do unasked, is an
    attack of its own on data that is not made of pixels.

    Args:
        loss: a function of x alone that returns the loss to be raised: one number, or one for each sequence, [B]. For
            an attack that wants a certain answer, minus its loss.
        x: floats, usually [T, B, I]. It is not changed.
        epsilon: the largest norm of the change of a sequence.
        norm: inf or 2.
        mask: where x may be changed, booleans or 0 and 1, of the shape of x, or without its last dimension; sizes of 1
            are repeated.
        lengths: [B] integers; what lies beyond the end of a sequence is not changed.
        bounds: (low, high), what the result is kept within; either may be None, or an array that broadcasts to x.
        batch_dim: the dimension of x that counts sequences; None if x is one sequence. "auto": 1, as recurrent layers
            have it, or 0 if a module that `loss` names has batch_first. An x of one or two dimensions has no usual
            one: there it must be given, unless it does not matter.
        model: modules that `loss` calls without naming them, to be in eval mode meanwhile.

    Returns:
        A tensor like x, a leaf without a gradient.

    Raises:
        TypeError: x is not made of floats, an argument is of the wrong kind, or loss returns no tensor.
        ValueError: shapes do not fit, a number is out of range, or x is out of bounds.
        RuntimeError: the loss does not depend on x, or it or its gradient is not finite.
    """
    who = "fgsm"
    data = numbers_of(who, x)
    allowed = dict(mask=mask, lengths=lengths, batch_dim=batch_dim, bounds=bounds)
    ball, r = one_step(who, loss, data, epsilon, norm, model, allowed)
    return Tensor(ball.at(r))


def one_step(
    who: str, loss: Callable[[Tensor], Any], data: np.ndarray, epsilon: float, norm: float, model: Any,
    allowed: dict[str, Any],
) -> tuple[Ball, np.ndarray]:  # fmt: skip
    """Which changes are allowed, and the one that goes as far as it may where the loss rises most steeply."""
    with standing_still(loss, model) as batch_first:
        ball = Ball(who, data, epsilon, norm, batch_first=batch_first, **allowed)
        _, g = slope(who, loss, data)
    return ball, ball.project(data.dtype.type(ball.epsilon) * ball.unit(g))


def pgd(
    loss: Callable[[Tensor], Any], x: Any, epsilon: float, steps: int = 10, step_size: float | None = None, *,
    norm: float = math.inf, random_start: bool = True, restarts: int = 1, mask: Any = None, lengths: Any = None,
    bounds: Any = None, batch_dim: Any = AUTO, model: Any = None,
) -> Tensor:  # fmt: skip
    """Projected gradient ascent (Madry et al., 2018): small steps within the ball, from a random point of it.

        d = P(d + step_size sign(g))        norm=2:  d = P(d + step_size g / ||g||_2)        g = d loss / dx at x + d

    P leads back to the nearest change that is allowed. Without `random_start` this is the basic iterative method
    (Kurakin et al., 2017), and with one step of its default size `fgsm`.

    What is returned is the worst that was seen, starts and ends included: where the loss gives a value for each
    sequence, the worst of each one, over all restarts; where it gives one number, the worst batch.

        >>> import tinygrad_rnn as tg
        >>> model, y = tg.nn.LSTM(3, 4), [0, 2]
        >>> loss = lambda x: tg.cross_entropy(model(x, lengths=[7, 4])[1][0][-1], y, reduction="none")
        >>> x = tg.randn(7, 2, 3)
        >>> worse = tg.adversarial.pgd(loss, x, 0.5, steps=5, norm=2, lengths=[7, 4])
        >>> bool((worse[4:, 1] == x[4:, 1]).all()), bool((loss(worse) > loss(x)).all())
        (True, True)

    Args:
        loss, x, epsilon, norm, mask, lengths, bounds, batch_dim, model: as for `fgsm`.
        steps: how often the gradient is taken. Test with more than training had.
        step_size: how far each step goes, 2.5 epsilon / steps by default: enough to cross the ball.
        random_start: begin anywhere in the ball; numbers come from `tg.manual_seed`. Otherwise at x.
        restarts: how many times to begin anew.

    Returns, Raises: as for `fgsm`; and ValueError if there are restarts without a random start, which would be alike.
    """
    who = "pgd"
    data = numbers_of(who, x)
    for name, count in (("steps", steps), ("restarts", restarts)):
        if not is_whole(count):
            raise TypeError(f"{who}: {name} must be an integer, not {count!r}")
        if count < 1:
            raise ValueError(f"{who}: {name} must be positive, not {count}")
    if restarts > 1 and not random_start:
        raise ValueError(f"{who}: {restarts} restarts are all alike without random_start")
    with standing_still(loss, model) as batch_first:
        ball = Ball(
            who, data, epsilon, norm,
            mask=mask, lengths=lengths, batch_dim=batch_dim, batch_first=batch_first, bounds=bounds,
        )  # fmt: skip
        size = 2.5 * ball.epsilon / steps if step_size is None else check_size(who, "step_size", step_size)
        stride, worst = data.dtype.type(size), _Worst(ball)
        for _ in range(restarts):
            d = ball.start() if random_start else np.zeros_like(data)
            for _ in range(steps):
                here = ball.at(d)
                values, g = slope(who, loss, here)
                worst.look(values, here)
                d = ball.project(d + stride * ball.unit(g))
            here = ball.at(d)
            worst.look(value(who, loss, here), here)
    return Tensor(worst.x)


class _Worst:
    """The inputs with the largest losses that were seen.

    Attributes:
        x: those inputs.
    """

    def __init__(self, ball: Ball) -> None:
        self.ball, self.x = ball, ball.x.copy()
        self.values: np.ndarray | None = None

    def look(self, values: np.ndarray, x: np.ndarray) -> None:
        """Keep what is worse than all before."""
        new = values if values.ndim == 0 else self.ball.of_each(values)
        worse = np.full(new.shape, True) if self.values is None else new > self.values
        self.values = new.copy() if self.values is None else np.where(worse, new, self.values)
        self.x = np.where(worse, x, self.x)
