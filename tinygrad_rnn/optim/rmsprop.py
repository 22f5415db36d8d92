"""RMSprop: the gradient divided by its recent size."""

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from .optimizer import GRADIENT, Optimizer, Rule

SIZE =     {"v": "alpha * v + one_minus_alpha * g * g",
            "size": "sqrt(v)"}
SPREAD =   {"v": "alpha * v + one_minus_alpha * g * g",
            "a": "alpha * a + one_minus_alpha * g",
            "size": "sqrt(maximum(v - a * a, 0))"}  # below 0 by rounding, where gradients hardly change
STEP =     {"p": "p - lr * g / (size + eps)"}
MOMENTUM = {"b": "momentum * b + g / (size + eps)",
            "p": "p - lr * b"}

RULES = {  # by (centered, with momentum)
    (False, False): Rule("rmsprop",                   "p v",     {"g": GRADIENT, **SIZE,   **STEP}),
    (False, True):  Rule("rmsprop_momentum",          "p v b",   {"g": GRADIENT, **SIZE,   **MOMENTUM}),
    (True, False):  Rule("rmsprop_centered",          "p v a",   {"g": GRADIENT, **SPREAD, **STEP}),
    (True, True):   Rule("rmsprop_centered_momentum", "p v a b", {"g": GRADIENT, **SPREAD, **MOMENTUM}),
}


class RMSprop(Optimizer):
    """The gradient divided by the root of its running mean square.

        >>> import tinygrad_rnn as tg
        >>> p = tg.nn.Parameter([1.0, 1.0])
        >>> optimizer = tg.optim.RMSprop([p], lr=0.01, alpha=0.75)
        >>> p.grad = tg.tensor([1.0, 100.0])
        >>> optimizer.step()
        >>> [round(x, 4) for x in p.tolist()]  # lr / sqrt(1 - alpha), however long the gradient is
        [0.98, 0.98]

        g <- dL/dp + weight_decay * p
        v <- alpha * v + (1 - alpha) * g^2
        p <- p - lr * g / (sqrt(v) + eps)

    Centered, the divisor is the standard deviation instead: `a <- alpha * a + (1 - alpha) * g` and `sqrt(v - a^2)`,
    taken as 0 where rounding makes v - a^2 negative (PyTorch has NaN there). With momentum the quotient goes through
    `b <- momentum * b + g / (sqrt(v) + eps)` and `p <- p - lr * b`.

    Args:
        params: tensors, or dicts of "params" and options for groups of them.
        lr: learning rate.
        alpha: how much of the mean square stays from step to step.
        eps: keeps a step finite; outside the root, as in PyTorch (TensorFlow has it inside).
        weight_decay: adds the gradient of `weight_decay/2 * |p|^2`.
        momentum: 0 for none.
        centered: divide by the standard deviation (Graves, 2013).
        maximize: climb.

    Raises:
        ValueError: a negative lr, eps, weight_decay or momentum, or alpha outside [0, 1).

    Sources: Tieleman, Hinton, "Lecture 6.5 - rmsprop", Coursera, 2012; Graves, "Generating sequences with recurrent
    neural networks", 2013, equations 38 to 45, for the centered form.
    """

    complete: ClassVar[tuple[str, ...]] = ("step", "square_avg")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, dict(lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum,
                                      centered=centered, maximize=maximize))

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        self._at_least_zero(group, "momentum")
        self._fractions(group, "alpha")

    def update(self, p: np.ndarray, g: np.ndarray, state: dict[str, Any], group: dict[str, Any]) -> None:
        state["step"] = state.get("step", 0) + 1
        alpha, momentum, centered = group["alpha"], group["momentum"], bool(group["centered"])
        (v,) = self.remembered(state, p, "square_avg")
        operands = dict(p=p, v=v, alpha=alpha, one_minus_alpha=1 - alpha, eps=group["eps"], lr=group["lr"],
                        **self.gradient_operands(g, group))
        if centered:
            (operands["a"],) = self.remembered(state, p, "grad_avg")
        if momentum > 0:
            (operands["b"],) = self.remembered(state, p, "momentum_buffer")
            operands["momentum"] = momentum
        RULES[centered, momentum > 0](**operands)
