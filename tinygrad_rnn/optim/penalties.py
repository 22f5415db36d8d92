"""Penalties on weights and on activations, as terms to add to the loss.

    loss = criterion(model(x), target) + tg.optim.l2_penalty(model.parameters(), 1e-4)

A penalty is part of the loss: it is in the number that is printed, and its gradient is clipped and rescaled with the
rest. With `SGD` and `Adam` the option `weight_decay=w` adds the gradient of `l2_penalty(parameters, w / 2)`, after
clipping. `AdamW` does not: there every weight loses the same fraction lr * weight_decay of itself at each step,
whereas `Adam` divides the penalty's gradient by the root mean square of the whole gradient, penalty included, so that
weights with steep gradients hardly decay.

Recurrent layers have two penalties of their own, on what they put out (Merity, McCann, Socher, 2017):

    y, state = lstm(x)
    dropped = dropout(y)
    loss = criterion(decoder(dropped), target)
    loss = loss + activation_penalty(dropped, alpha=2.0) + temporal_activation_penalty(y, beta=1.0)
"""

import functools
import math
import operator
from collections.abc import Callable, Iterable

from ..autograd.operands import one_dim
from ..autograd.pointwise import abs, square
from ..autograd.tensor import Tensor


def l1_penalty(parameters: Tensor | Iterable[Tensor], strength: float) -> Tensor:
    """`strength * sum |p|` over all elements, a differentiable tensor of no dimensions.

        >>> import tinygrad_rnn as tg
        >>> p = tg.nn.Parameter([3.0, -4.0])
        >>> tg.optim.l1_penalty([p], 0.5).item()
        3.5

    Its gradient is `strength * sign(p)`, the same however small p is, and 0 at 0: weights that the loss does not need
    are driven to zero (Tibshirani, 1996), around which they go on swinging by lr * strength.

    Raises:
        ValueError: `strength` is negative, NaN or infinite, or there are no parameters.
    """
    return _penalty("l1_penalty", parameters, strength, abs)


def l2_penalty(parameters: Tensor | Iterable[Tensor], strength: float) -> Tensor:
    """`strength * sum p^2` over all elements, a differentiable tensor of no dimensions.

        >>> import tinygrad_rnn as tg
        >>> p = tg.nn.Parameter([3.0, -4.0])
        >>> tg.optim.l2_penalty([p], 0.5).item()
        12.5

    Its gradient is `2 * strength * p`: weights are kept small in proportion to their size (Hoerl, Kennard, 1970). As in
    Keras there is no factor of one half, so `weight_decay=2 * strength` is its like in `SGD` and `Adam`, but not in
    `AdamW`.

    Raises:
        ValueError: `strength` is negative, NaN or infinite, or there are no parameters.
    """
    return _penalty("l2_penalty", parameters, strength, square)


def elastic_net_penalty(parameters: Tensor | Iterable[Tensor], l1: float, l2: float) -> Tensor:
    """`l1 * sum |p| + l2 * sum p^2` over all elements, a differentiable tensor of no dimensions.

        >>> import tinygrad_rnn as tg
        >>> p = tg.nn.Parameter([3.0, -4.0])
        >>> tg.optim.elastic_net_penalty([p], l1=1.0, l2=0.5).item()  # 7 + 12.5
        19.5

    The second term spreads what the first would give to one of several weights that are alike (Zou, Hastie, 2005).

    Raises:
        ValueError: a strength is negative, NaN or infinite, or there are no parameters.
    """
    _check_strength("elastic_net_penalty", l1=l1, l2=l2)
    both = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    return _penalty("elastic_net_penalty", both, l1, abs) + _penalty("elastic_net_penalty", both, l2, square)


def activation_penalty(h: Tensor, alpha: float) -> Tensor:
    """AR, activation regularization: `alpha * mean h^2`, a differentiable tensor of no dimensions.

        >>> import tinygrad_rnn as tg
        >>> tg.optim.activation_penalty(tg.tensor([1.0, 3.0]), 2.0).item()  # 2 (1 + 9) / 2
        10.0

    Keeps activations small. The paper takes the output of the last recurrent layer as the next one sees it, after
    dropout, so that what was dropped is not penalised.

    Args:
        h: activations of any shape, such as [T, B, H].
        alpha: the strength; 2 in Merity, Keskar, Socher, 2018.

    Raises:
        ValueError: `alpha` is negative, NaN or infinite, or h is empty.

    Source: Merity, McCann, Socher, "Revisiting activation regularization for language RNNs", 2017. The paper writes a
    norm; this is the mean square of the authors' code.
    """
    _check_strength("activation_penalty", alpha=alpha)
    if not h.numel():
        raise ValueError(f"activation_penalty: there are no activations in a tensor of shape {list(h.shape)}")
    return square(h).mean() * alpha


def temporal_activation_penalty(h: Tensor, beta: float, dim: int = 0) -> Tensor:
    """TAR, temporal activation regularization: `beta * mean (h[t + 1] - h[t])^2`, a tensor of no dimensions.

        >>> import tinygrad_rnn as tg
        >>> h = tg.tensor([[0.0], [1.0], [3.0]])
        >>> tg.optim.temporal_activation_penalty(h, 2.0).item()  # 2 (1 + 4) / 2
        5.0

    Keeps a state from changing more than it has to, step by step. The paper takes the output of the last recurrent
    layer before dropout, which would be a change at every step.

    Args:
        h: the output of a recurrent layer, [T, B, H].
        beta: the strength; 1 in Merity, Keskar, Socher, 2018.
        dim: the dimension of time; 1 for batch_first.

    Returns:
        The penalty; 0 for a single step, which has nothing to differ from.

    Raises:
        ValueError: `beta` is negative, NaN or infinite, or h is empty.
        IndexError: h has no such dimension.

    Source: Merity, McCann, Socher, "Revisiting activation regularization for language RNNs", 2017. The paper writes a
    norm; this is the mean square over all changes of the authors' code.
    """
    _check_strength("temporal_activation_penalty", beta=beta)
    dim = one_dim("temporal_activation_penalty", dim, h.ndim)
    if not h.ndim or not h.numel():
        raise ValueError(f"temporal_activation_penalty: there are no steps in a tensor of shape {list(h.shape)}")
    if h.shape[dim] == 1:
        return (h * 0).sum()
    ahead = (slice(None),) * dim
    return square(h[(*ahead, slice(1, None))] - h[(*ahead, slice(None, -1))]).mean() * beta


def _check_strength(name: str, **strengths: float) -> None:
    for what, strength in strengths.items():
        if not 0 <= strength < math.inf:
            raise ValueError(f"{name}: {what} must be at least 0 and finite, got {strength}")


def _penalty(
    name: str, parameters: Tensor | Iterable[Tensor], strength: float, of: Callable[[Tensor], Tensor]
) -> Tensor:
    _check_strength(name, strength=strength)
    parameters = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    if not parameters:
        raise ValueError(f"{name}: no parameters; was model.parameters() used up before?")
    return functools.reduce(operator.add, (of(p).sum() for p in parameters)) * strength
