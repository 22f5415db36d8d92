"""Rprop: only the sign of the gradient counts, and a step size for every weight learns from it."""

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from .optimizer import Optimizer, Rule

RPROP = Rule("rprop", "p before size", {
    "g": "direction * g",
    "turn": "sign(g) * sign(before)",  # of the two signs: the product of small gradients would be 0
    "size": "minimum(maximum(size * where(turn > 0, grow, where(turn < 0, shrink, 1)), smallest), largest)",
    "before": "where(turn < 0, 0, g)",
    "p": "p - sign(before) * size",
})


class Rprop(Optimizer):
    """Resilient backpropagation: every weight has a step size, which grows while its gradient keeps its sign.

        >>> import tinygrad_rnn as tg
        >>> p = tg.nn.Parameter([1.0])
        >>> optimizer = tg.optim.Rprop([p], lr=0.1)
        >>> for _ in range(2):
        ...     p.grad = tg.tensor([7.0])
        ...     optimizer.step()
        >>> round(p.item(), 4)  # 1 - 0.1 - 1.2 * 0.1
        0.78

        g    <- dL/dp
        size <- size * etas[1] where g and the g before have the same sign, * etas[0] where they have opposite ones
        g    <- 0 where they have opposite signs: no step is taken there, and the next one counts as a fresh start
        p    <- p - sign(g) * size

    It needs gradients of the whole data: the signs of small batches are noise.
    A gradient that is NaN makes its weight NaN, which in PyTorch it does not: there its sign is 0.

    Args:
        params: tensors, or dicts of "params" and options for groups of them.
        lr: the first step size of every weight; changing it later does nothing to weights that have one.
        etas: factors for a gradient that turned and for one that did not.
        step_sizes: the smallest and the largest that a step may become.
        maximize: climb.

    Raises:
        ValueError: a negative lr, or not 0 < etas[0] < 1 < etas[1], or not 0 <= step_sizes[0] <= step_sizes[1].

    Source: Riedmiller, Braun, "A direct adaptive method for faster backpropagation learning: the RPROP algorithm",
    1993; without its return to the weight of before ("Rprop-" with the gradient set to 0), as in PyTorch.
    """

    complete: ClassVar[tuple[str, ...]] = ("step", "prev", "step_size")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, dict(lr=lr, etas=etas, step_sizes=step_sizes, maximize=maximize))

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        shrink, grow = group["etas"]
        if not 0 < shrink < 1 < grow < np.inf:
            raise ValueError(f"Rprop: etas must be a factor in (0, 1) and one above 1, got {group['etas']}")
        smallest, largest = group["step_sizes"]
        if not 0 <= smallest <= largest < np.inf:
            raise ValueError(f"Rprop: step_sizes must be at least 0, finite and in order, got {group['step_sizes']}")

    def update(self, p: np.ndarray, g: np.ndarray, state: dict[str, Any], group: dict[str, Any]) -> None:
        state["step"] = state.get("step", 0) + 1
        if "step_size" not in state:
            state["step_size"] = np.full_like(p, group["lr"])
        before, size = self.remembered(state, p, "prev", "step_size")
        (shrink, grow), (smallest, largest) = group["etas"], group["step_sizes"]
        RPROP(p=p, g=g, before=before, size=size, direction=-1 if group["maximize"] else 1, grow=grow,
              shrink=shrink, smallest=smallest, largest=largest)
