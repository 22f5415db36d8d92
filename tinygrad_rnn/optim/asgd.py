"""Averaged gradient descent: the mean of the last weights is better than the last weights (Polyak, Juditsky, 1992).

`ASGD` is PyTorch's, which averages from a step that is known beforehand. `NTASGD` is gradient descent that starts to
average by itself, when the validation loss stops improving.
"""

import contextlib
import math
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import numpy as np

from ..autograd.tape import note_change
from .optimizer import GRADIENT, Optimizer, Rule
from .sgd import DESCENT

STEP = {"g": GRADIENT, "p": "shrink * p - eta * g"}
ASGD_COPY = Rule("asgd_copy", "p ax", {**STEP, "ax": "p"})  # while mu is 1
ASGD_MEAN = Rule("asgd_mean", "p ax", {**STEP, "ax": "ax + mu * (p - ax)"})
AVERAGED = Rule("sgd_averaged", "p ax", {
    "g": GRADIENT,
    "p": "p - lr * g",
    "ax": "ax + mu * (p - ax)",
})


class ASGD(Optimizer):
    """Averaged stochastic gradient descent, as PyTorch has it.

        >>> import tinygrad_rnn as tg
        >>> p = tg.nn.Parameter([1.0])
        >>> optimizer = tg.optim.ASGD([p], lr=0.5, lambd=0.0)
        >>> p.grad = tg.tensor([1.0])
        >>> optimizer.step()
        >>> p.item(), "ax" in optimizer.state[p]  # the running average
        (0.5, True)

        g   <- dL/dp + weight_decay * p
        p   <- (1 - lambd * eta) * p - eta * g
        ax  <- ax + mu * (p - ax)
        eta <- lr / (1 + lambd * lr * t)^alpha      (eta = lr at the first step)
        mu  <- 1 / max(1, t - t0)                   (mu = 1 at the first step)

    eta and mu are for the step that follows, so a change of lr acts one step late. The averages `ax` are in `state`,
    and nothing puts them into the parameters: that is up to you.

    Args:
        params: tensors, or dicts of "params" and options for groups of them.
        lr: learning rate to begin with.
        lambd: how much p decays; with 0 eta stays lr.
        alpha: how fast eta falls.
        t0: the number of the step from which ax is a mean; before, it is a copy of p.
        weight_decay: adds the gradient of `weight_decay/2 * |p|^2`.
        maximize: climb.

    Raises:
        ValueError: a negative lr, lambd, alpha, t0 or weight_decay.

    Source: Polyak, Juditsky, "Acceleration of stochastic approximation by averaging", 1992. PyTorch keeps eta and mu in
    the default dtype; here they are Python floats.
    """

    numbers: ClassVar[tuple[str, ...]] = ("step", "eta", "mu")
    complete: ClassVar[tuple[str, ...]] = ("step", "eta", "mu", "ax")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, dict(lr=lr, lambd=lambd, alpha=alpha, t0=t0, weight_decay=weight_decay,
                                      maximize=maximize))

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        self._at_least_zero(group, "lambd", "alpha", "t0")

    def update(self, p: np.ndarray, g: np.ndarray, state: dict[str, Any], group: dict[str, Any]) -> None:
        lr, lambd = group["lr"], group["lambd"]
        t = state["step"] = state.get("step", 0) + 1
        eta, mu = state.get("eta", lr), state.get("mu", 1.0)
        (ax,) = self.remembered(state, p, "ax")
        rule = ASGD_COPY if mu == 1 else ASGD_MEAN
        rule(p=p, ax=ax, shrink=1 - lambd * eta, eta=eta, mu=mu, **self.gradient_operands(g, group))
        state["eta"] = lr / (1 + lambd * lr * t) ** group["alpha"]
        state["mu"] = 1 / max(1, t - group["t0"])


class NTASGD(Optimizer):
    """Gradient descent that averages its weights from when the validation loss has stopped improving.

        >>> import tinygrad_rnn as tg
        >>> p = tg.nn.Parameter([1.0])
        >>> optimizer = tg.optim.NTASGD([p], lr=0.5)
        >>> p.grad = tg.tensor([1.0])
        >>> optimizer.step()
        >>> p.item()
        0.5

        p  <- p - lr * (dL/dp + weight_decay * p)
        ax <- the mean of p now, at the trigger, and of every p since           (after the trigger only)

    The trigger is non-monotonic: it waits until a loss is worse than the best of those that are more than n checks
    old, so that one bad check does not set it off.

        optimizer = tg.optim.NTASGD(model.parameters(), lr=30, n=5)
        for epoch in range(epochs):
            train(model, optimizer)              # zero_grad, backward, step
            with optimizer.averaged():           # the means, once there are any; then the weights are put back
                loss = evaluate(model)
            optimizer.observe(loss)

    Args:
        params: tensors, or dicts of "params" and options for groups of them.
        lr: learning rate, the same before and after the trigger; large ones gain most from averaging.
        n: the non-monotone interval: how many checks without improvement are waited for.
        weight_decay: adds the gradient of `weight_decay/2 * |p|^2`.
        maximize: climb. The losses given to `observe` are better where they are smaller in any case.

    Attributes:
        averaging: whether it has begun. It and the losses so far are kept in `param_groups`, and saved with them.

    Raises:
        ValueError: a negative lr or weight_decay, or n is no whole number or below 1.

    Source: Merity, Keskar, Socher, "Regularizing and optimizing LSTM language models", 2018, algorithm 1. The trigger
    is that of the authors' code: v > min(logs[:-n]), v being the newest loss and not yet in the logs.
    """

    numbers: ClassVar[tuple[str, ...]] = ("averaged",)
    complete: ClassVar[tuple[str, ...]] = ("averaged", "ax")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        n: int = 5,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
    ) -> None:
        self._swapped = False
        super().__init__(params, dict(lr=lr, n=n, weight_decay=weight_decay, maximize=maximize, averaging=False,
                                      logs=()))

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        if not (group["n"] >= 1 and group["n"] == int(group["n"])):
            raise ValueError(f"NTASGD: n must be a whole number above 0, got {group['n']}")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As for every optimiser; a group that comes later takes part in the averaging as the others do."""
        shared = {k: self.param_groups[0][k] for k in ("averaging", "logs")} if self.param_groups else {}
        super().add_param_group({**param_group, **shared})

    @property
    def averaging(self) -> bool:
        """Whether the averaging has started."""
        return bool(self.param_groups[0]["averaging"])

    def observe(self, loss: float) -> bool:
        """Take note of a validation loss; may start the averaging.

        Args:
            loss: a number, smaller being better. NaN counts as no improvement.

        Returns:
            Whether the weights are being averaged from now on.
        """
        first, loss = self.param_groups[0], float(loss)
        logs, n = tuple(first["logs"]), int(first["n"])
        old = [v for v in logs[:-n] if not math.isnan(v)]
        averaging = self.averaging or (len(logs) > n and not loss <= min(old, default=math.inf))
        for group in self.param_groups:
            group.update(logs=(*logs, loss), averaging=averaging)
        return averaging

    def swap(self) -> None:
        """Exchange weights and means, where there are means; a second call puts them back."""
        for p in self._params():
            if "ax" in (state := self.state.get(p, {})):
                kept, (ax,) = p.data.copy(), self.remembered(state, p.data, "ax")
                p.data[...] = ax
                ax[...] = kept
                note_change([p])
        self._swapped = not self._swapped

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the parameters are the means, to evaluate or save them; afterwards they are again what they were."""
        self._refuse_if_swapped("averaged")
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def step(self, closure: Any = None) -> Any:
        """As for every optimiser; not while the means are in the parameters.

        Raises:
            RuntimeError: inside `averaged()`, or between two calls of `swap()`.
        """
        self._refuse_if_swapped("step")
        return super().step(closure)

    def state_dict(self) -> dict[str, Any]:
        """As for every optimiser; not while the means are in the parameters."""
        self._refuse_if_swapped("state_dict")
        return super().state_dict()

    def _refuse_if_swapped(self, what: str) -> None:
        if self._swapped:
            raise RuntimeError(
                f"NTASGD.{what}: the means are in the parameters; leave averaged(), or call swap() again, first"
            )

    def update(self, p: np.ndarray, g: np.ndarray, state: dict[str, Any], group: dict[str, Any]) -> None:
        operands = dict(p=p, lr=group["lr"], **self.gradient_operands(g, group))
        if not group["averaging"]:
            DESCENT(**operands)
            return
        if "ax" not in state:
            state.update(ax=p.copy(), averaged=1)
        (ax,) = self.remembered(state, p, "ax")
        state["averaged"] += 1
        AVERAGED(ax=ax, mu=1 / state["averaged"], **operands)
