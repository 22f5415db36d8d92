"""Penalties on weights, as terms to add to the loss.

    loss = criterion(model(x), target) + tg.optim.l2_penalty(model.parameters(), 1e-4)

A penalty is part of the loss: it is in the number that is printed, and its gradient is clipped and rescaled with the
rest. With `SGD` and `Adam` the option `weight_decay=w` adds the gradient of `l2_penalty(parameters, w / 2)`, after
clipping. `AdamW` does not: there every weight loses the same fraction lr * weight_decay of itself at each step,
whereas `Adam` divides the penalty's gradient by the root mean square of the whole gradient, penalty included, so that
weights with steep gradients hardly decay.
"""

import functools
import math
import operator
from collections.abc import Callable, Iterable

from ..autograd.pointwise import abs, square
from ..autograd.tensor import Tensor


def l1_penalty(parameters: Tensor | Iterable[Tensor], strength: float) -> Tensor:
    """`strength * sum |p|` over all elements, a differentiable tensor of no dimensions.

    Its gradient is `strength * sign(p)`, the same however small p is, and 0 at 0: weights that the loss does not need
    are driven to zero (Tibshirani, 1996), around which they go on swinging by lr * strength.

    Raises:
        ValueError: `strength` is negative, NaN or infinite, or there are no parameters.
    """
    return _penalty("l1_penalty", parameters, strength, abs)


def l2_penalty(parameters: Tensor | Iterable[Tensor], strength: float) -> Tensor:
    """`strength * sum p^2` over all elements, a differentiable tensor of no dimensions.

    Its gradient is `2 * strength * p`: weights are kept small in proportion to their size (Hoerl, Kennard, 1970). As in
    Keras there is no factor of one half, so `weight_decay=2 * strength` is its like in `SGD` and `Adam`, but not in
    `AdamW`.

    Raises:
        ValueError: `strength` is negative, NaN or infinite, or there are no parameters.
    """
    return _penalty("l2_penalty", parameters, strength, square)


def _penalty(
    name: str, parameters: Tensor | Iterable[Tensor], strength: float, of: Callable[[Tensor], Tensor]
) -> Tensor:
    if not 0 <= strength < math.inf:
        raise ValueError(f"{name}: strength must be at least 0 and finite, got {strength}")
    parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    if not parameters:
        raise ValueError(f"{name}: no parameters; was model.parameters() used up before?")
    return functools.reduce(operator.add, (of(p).sum() for p in parameters)) * strength
