"""NAdam: Adam that looks ahead along its momentum, as Nesterov's does."""

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from .adam import MOMENTS
from .optimizer import Optimizer, Rule

NADAM = Rule("nadam", "p m v", {
    **MOMENTS,
    "size": "sqrt(v) * v_scale + eps",
    "p": "shrink * p - (g_step * g + m_step * m) / size",
})


class NAdam(Optimizer):
    """Adam with Nesterov momentum: the step is taken with the momentum that the next one will have.

        >>> import tinygrad_rnn as tg
        >>> p = tg.nn.Parameter([1.0])
        >>> optimizer = tg.optim.NAdam([p], lr=0.1)
        >>> p.grad = tg.tensor([2.0])
        >>> optimizer.step()
        >>> optimizer.state[p]["step"], p.item() < 1
        (1, True)

        g    <- dL/dp + weight_decay * p
        mu_t  = beta1 * (1 - 0.96^(t * momentum_decay) / 2)
        m    <- beta1 * m + (1 - beta1) * g
        v    <- beta2 * v + (1 - beta2) * g^2
        m_hat = mu_(t+1) * m / (1 - mu_1 ... mu_(t+1)) + (1 - mu_t) * g / (1 - mu_1 ... mu_t)
        p    <- p - lr * m_hat / (sqrt(v_hat) + eps),   v_hat = v / (1 - beta2^t)

    Args:
        params: tensors, or dicts of "params" and options for groups of them.
        lr: learning rate.
        betas: how much of m and v stays from step to step.
        eps: keeps a step finite where v is zero.
        weight_decay: adds the gradient of `weight_decay/2 * |p|^2`, or with `decoupled_weight_decay` shrinks p by
            lr * weight_decay before the step, as `AdamW` does.
        momentum_decay: how fast mu rises from beta1 / 2 to beta1.
        maximize: climb.

    Raises:
        ValueError: a negative lr, eps, weight_decay or momentum_decay, or a beta outside [0, 1).

    Source: Dozat, "Incorporating Nesterov momentum into Adam", 2016. As in PyTorch m gathers with beta1, and mu is in
    the step alone. The product of all mu is a Python float here; PyTorch keeps it in the default dtype.
    """

    numbers: ClassVar[tuple[str, ...]] = ("step", "mu_product")
    complete: ClassVar[tuple[str, ...]] = ("step", "mu_product", "exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay,
                                      momentum_decay=momentum_decay, decoupled_weight_decay=decoupled_weight_decay,
                                      maximize=maximize))

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        self._fractions(group, "betas")
        self._at_least_zero(group, "momentum_decay")

    def update(self, p: np.ndarray, g: np.ndarray, state: dict[str, Any], group: dict[str, Any]) -> None:
        t = state["step"] = state.get("step", 0) + 1
        lr, (beta1, beta2) = group["lr"], group["betas"]
        mu, mu_next = (beta1 * (1 - 0.5 * 0.96 ** (s * group["momentum_decay"])) for s in (t, t + 1))
        product = state["mu_product"] = state.get("mu_product", 1.0) * mu
        m, v = self.remembered(state, p, "exp_avg", "exp_avg_sq")
        operands = dict(
            p=p, m=m, v=v, beta1=beta1, one_minus_beta1=1 - beta1, beta2=beta2, one_minus_beta2=1 - beta2,
            g_step=lr * (1 - mu) / (1 - product), m_step=lr * mu_next / (1 - product * mu_next),
            v_scale=1 / (1 - beta2**t) ** 0.5, eps=group["eps"], shrink=1, **self.gradient_operands(g, group),
        )
        if group["decoupled_weight_decay"]:
            operands |= dict(shrink=1 - lr * group["weight_decay"], weight_decay=0)
        NADAM(**operands)
