"""Gradient descent, with and without momentum."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from .optimizer import GRADIENT, Optimizer, Rule

DESCENT = Rule("sgd", "p", {
    "g": GRADIENT,
    "p": "p - lr * g",
})
MOMENTUM = Rule("sgd_momentum", "p b", {
    "g": GRADIENT,
    "b": "momentum * b + one_minus_dampening * g",
    "p": "p - lr * where(nesterov != 0, g + momentum * b, b)",
})


class SGD(Optimizer):
    """Gradient descent with optional momentum.

        >>> import tinygrad_rnn as tg
        >>> p = tg.nn.Parameter([1.0, 2.0])
        >>> optimizer = tg.optim.SGD([p], lr=0.25)
        >>> (p * p).sum().backward()
        >>> optimizer.step()
        >>> p.tolist()  # p - lr * 2 p
        [0.5, 1.0]

        g <- dL/dp + weight_decay * p
        b <- momentum * b + (1 - dampening) * g      (b = g at the first step)
        p <- p - lr * b,  or p - lr * (g + momentum * b) with nesterov

    As in PyTorch, and unlike Sutskever et al., the learning rate scales the step and not what the buffer b gathers:
    a change of lr acts at once.

    Args:
        params: tensors, or dicts of "params" and options for groups of them.
        lr: learning rate.
        momentum: 0 for plain descent, which keeps no state.
        dampening: how much of each new gradient the momentum does without.
        weight_decay: adds the gradient of `weight_decay/2 * |p|^2`.
        nesterov: take the gradient's step from where the momentum leads; needs a momentum and no dampening.
        maximize: climb.

    Raises:
        ValueError: a negative lr, momentum or weight_decay; nesterov without momentum or with dampening.

    Source: Sutskever, Martens, Dahl, Hinton, "On the importance of initialization and momentum in deep learning", 2013.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, dict(lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay,
                                      nesterov=nesterov, maximize=maximize))

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        self._at_least_zero(group, "momentum")
        if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
            raise ValueError("SGD: nesterov needs a momentum and no dampening")

    def update(self, p: np.ndarray, g: np.ndarray, state: dict[str, Any], group: dict[str, Any]) -> None:
        operands = dict(p=p, lr=group["lr"], **self.gradient_operands(g, group))
        if group["momentum"] == 0:
            DESCENT(**operands)
            return
        fresh = 1 - group["dampening"] if "momentum_buffer" in state else 1
        (b,) = self.remembered(state, p, "momentum_buffer")
        MOMENTUM(b=b, momentum=group["momentum"], one_minus_dampening=fresh, nesterov=group["nesterov"], **operands)
