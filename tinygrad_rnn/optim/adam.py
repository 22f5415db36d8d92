"""Adam and AdamW: steps of about lr in every direction, however steep."""

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from .optimizer import GRADIENT, Optimizer, Rule

# The moments start at zero and are too small by 1 - beta^t after t steps. The paper divides both by that; dividing the
# two numbers step_size and 1/v_scale instead saves every element two divisions (end of its section 2).
MOMENTS = {
    "g": GRADIENT,
    "m": "beta1 * m + one_minus_beta1 * g",
    "v": "beta2 * v + one_minus_beta2 * g * g",
}
ADAM = Rule("adam", "p m v", {
    **MOMENTS,
    "p": "shrink * p - step_size * m / (sqrt(v) * v_scale + eps)",
})
AMSGRAD = Rule("adam_amsgrad", "p m v v_max", {
    **MOMENTS,
    "v_max": "maximum(v_max, v)",
    "p": "shrink * p - step_size * m / (sqrt(v_max) * v_scale + eps)",
})


class Adam(Optimizer):
    """Adam: momentum divided by the root of the mean square of the gradient.

        >>> import tinygrad_rnn as tg
        >>> p = tg.nn.Parameter([1.0, -2.0])
        >>> optimizer = tg.optim.Adam([p], lr=0.1)
        >>> (p**4).sum().backward()
        >>> optimizer.step()
        >>> [round(x, 4) for x in p.tolist()]  # the first step moves by lr, however long the gradient is
        [0.9, -1.9]

        g <- dL/dp + weight_decay * p
        m <- beta1 * m + (1 - beta1) * g
        v <- beta2 * v + (1 - beta2) * g^2
        p <- p - lr * m_hat / (sqrt(v_hat) + eps),   m_hat = m / (1 - beta1^t),  v_hat = v / (1 - beta2^t)

    Here weight decay is part of the gradient (the L2 penalty), so it is divided by sqrt(v_hat) too: weights with
    steep gradients decay less. `AdamW` decays all alike.

    Args:
        params: tensors, or dicts of "params" and options for groups of them.
        lr: learning rate, about the length of a step in each direction.
        betas: how much of m and v stays from step to step.
        eps: keeps a step finite where v is zero.
        weight_decay: adds the gradient of `weight_decay/2 * |p|^2`.
        amsgrad: divide by the largest v so far, so that no step size grows again (Reddi et al., 2018).
        maximize: climb.

    Attributes:
        decoupled_weight_decay: whether weight_decay shrinks p itself, as that of `AdamW` does.

    Raises:
        ValueError: a negative lr, eps or weight_decay, or a beta outside [0, 1).

    Sources: Kingma, Ba, "Adam: a method for stochastic optimization", 2015, algorithm 1; Reddi, Kale, Kumar, "On the
    convergence of Adam and beyond", 2018. As in PyTorch, AMSGrad corrects the bias after taking the maximum.
    """

    decoupled_weight_decay: ClassVar[bool] = False
    complete: ClassVar[tuple[str, ...]] = ("step", "exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad,
                                      maximize=maximize))

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        self._fractions(group, "betas")

    def update(self, p: np.ndarray, g: np.ndarray, state: dict[str, Any], group: dict[str, Any]) -> None:
        t = state["step"] = state.get("step", 0) + 1
        beta1, beta2 = group["betas"]
        m, v = self.remembered(state, p, "exp_avg", "exp_avg_sq")
        operands = dict(
            p=p, m=m, v=v, beta1=beta1, one_minus_beta1=1 - beta1, beta2=beta2, one_minus_beta2=1 - beta2,
            step_size=group["lr"] / (1 - beta1**t), v_scale=1 / (1 - beta2**t) ** 0.5, eps=group["eps"],
            shrink=1, **self.gradient_operands(g, group),
        )
        if self.decoupled_weight_decay:
            operands |= dict(shrink=1 - group["lr"] * group["weight_decay"], weight_decay=0)
        if group["amsgrad"]:
            (v_max,) = self.remembered(state, p, "max_exp_avg_sq")
            AMSGRAD(v_max=v_max, **operands)
        else:
            ADAM(**operands)


class AdamW(Adam):
    """Adam with weight decay beside the gradient instead of in it.

        >>> import tinygrad_rnn as tg
        >>> p = tg.nn.Parameter([1.0])
        >>> optimizer = tg.optim.AdamW([p], lr=0.1, weight_decay=0.5)
        >>> p.grad = tg.tensor([0.0])
        >>> optimizer.step()
        >>> round(p.item(), 4)  # the decay alone: p - lr * weight_decay * p
        0.95

        p <- p - lr * weight_decay * p
        p <- p - lr * m_hat / (sqrt(v_hat) + eps)

    m_hat and v_hat are those of `Adam` for the bare gradient. Every weight decays by the same fraction at a step,
    which for `Adam` it does not. As in PyTorch that fraction is lr * weight_decay: a smaller lr decays less.

    Arguments and errors as for `Adam`; the default of weight_decay is 0.01.

    Source: Loshchilov, Hutter, "Decoupled weight decay regularization", 2019, algorithm 2.
    """

    decoupled_weight_decay = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)
