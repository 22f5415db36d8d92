"""Adadelta: steps as long as recent steps were, whatever the units of the loss."""

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from .optimizer import GRADIENT, Optimizer, Rule

ADADELTA = Rule("adadelta", "p v u", {
    "g": GRADIENT,
    "v": "rho * v + one_minus_rho * g * g",
    "delta": "sqrt(u + eps) / sqrt(v + eps) * g",
    "u": "rho * u + one_minus_rho * delta * delta",
    "p": "p - lr * delta",
})


class Adadelta(Optimizer):
    """The gradient divided by the root of its running mean square, times that of the steps so far.

        >>> import tinygrad_rnn as tg
        >>> p = tg.nn.Parameter([1.0, 1.0])
        >>> optimizer = tg.optim.Adadelta([p])
        >>> p.grad = tg.tensor([1.0, 100.0])
        >>> optimizer.step()
        >>> bool(p[0] > 0.99), bool(abs(p[0] - p[1]) < 1e-4)  # small steps at first, of one length for all
        (True, True)

        g <- dL/dp + weight_decay * p
        v <- rho * v + (1 - rho) * g^2
        d <- sqrt(u + eps) / sqrt(v + eps) * g
        u <- rho * u + (1 - rho) * d^2
        p <- p - lr * d

    The step d has the units of p: scaling the loss changes nothing but the part of eps. It starts at
    sqrt(eps / (1 - rho)) and has to grow from there, so that the first steps are short.

    Args:
        params: tensors, or dicts of "params" and options for groups of them.
        lr: a factor on the step; the paper has none, which is 1.
        rho: how much of u and v stays from step to step.
        eps: where the steps start from.
        weight_decay: adds the gradient of `weight_decay/2 * |p|^2`.
        maximize: climb.

    Raises:
        ValueError: a negative lr, eps or weight_decay, or rho outside [0, 1].

    Source: Zeiler, "ADADELTA: an adaptive learning rate method", 2012, algorithm 1.
    """

    complete: ClassVar[tuple[str, ...]] = ("step", "square_avg", "acc_delta")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, dict(lr=lr, rho=rho, eps=eps, weight_decay=weight_decay, maximize=maximize))

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        if not 0 <= group["rho"] <= 1:
            raise ValueError(f"Adadelta: rho must lie in [0, 1], got {group['rho']}")

    def update(self, p: np.ndarray, g: np.ndarray, state: dict[str, Any], group: dict[str, Any]) -> None:
        state["step"] = state.get("step", 0) + 1
        v, u = self.remembered(state, p, "square_avg", "acc_delta")
        rho = group["rho"]
        ADADELTA(p=p, v=v, u=u, rho=rho, one_minus_rho=1 - rho, eps=group["eps"], lr=group["lr"],
                 **self.gradient_operands(g, group))
