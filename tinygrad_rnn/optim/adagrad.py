"""Adagrad: steps that shrink with what a parameter has been through."""

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from .optimizer import GRADIENT, Optimizer, Rule

ADAGRAD = Rule("adagrad", "p s", {
    "g": GRADIENT,
    "s": "s + g * g",
    "p": "p - rate * g / (sqrt(s) + eps)",
})


class Adagrad(Optimizer):
    """The gradient divided by the root of the sum of all its squares.

        >>> import tinygrad_rnn as tg
        >>> p = tg.nn.Parameter([1.0])
        >>> optimizer = tg.optim.Adagrad([p], lr=0.1)
        >>> for _ in range(4):
        ...     p.grad = tg.tensor([2.0])
        ...     optimizer.step()
        >>> round(p.item(), 4)  # 1 - 0.1 (1 + 1 / sqrt(2) + 1 / sqrt(3) + 1 / sqrt(4))
        0.7216

        g <- dL/dp + weight_decay * p
        s <- s + g^2
        p <- p - lr / (1 + (t - 1) * lr_decay) * g / (sqrt(s) + eps)

    Args:
        params: tensors, or dicts of "params" and options for groups of them.
        lr: learning rate.
        lr_decay: how fast the learning rate falls with the number t of the step.
        weight_decay: adds the gradient of `weight_decay/2 * |p|^2`.
        initial_accumulator_value: where s starts, for all groups: as in PyTorch, that of a group's dict is not used.
        eps: keeps the first step finite.
        maximize: climb.

    Raises:
        ValueError: a negative lr, lr_decay, weight_decay, initial_accumulator_value or eps.

    Source: Duchi, Hazan, Singer, "Adaptive subgradient methods for online learning and stochastic optimization", 2011.
    """

    complete: ClassVar[tuple[str, ...]] = ("step", "sum")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, dict(lr=lr, lr_decay=lr_decay, weight_decay=weight_decay,
                                      initial_accumulator_value=initial_accumulator_value, eps=eps, maximize=maximize))

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        self._at_least_zero(group, "lr_decay", "initial_accumulator_value")

    def update(self, p: np.ndarray, g: np.ndarray, state: dict[str, Any], group: dict[str, Any]) -> None:
        if "sum" not in state:
            state["sum"] = np.full_like(p, self.defaults["initial_accumulator_value"])
        t = state["step"] = state.get("step", 0) + 1
        (total,) = self.remembered(state, p, "sum")
        rate = group["lr"] / (1 + (t - 1) * group["lr_decay"])
        ADAGRAD(p=p, s=total, rate=rate, eps=group["eps"], **self.gradient_operands(g, group))
