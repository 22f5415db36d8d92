"""Schedules along a cosine: once, over and over, or one rise and one fall. They are found in `lr_scheduler`."""

import math
from collections.abc import Sequence
from typing import Any

from .optimizer import Optimizer
from .scheduler import LRScheduler, at_least, between_0_and_1, checked, for_each_group


class CosineAnnealingLR(LRScheduler):
    """From base_lr down to `eta_min` along half a cosine of `T_max` epochs, then up and down again.

        >>> import tinygrad_rnn as tg
        >>> optimizer = tg.optim.SGD(tg.nn.Linear(2, 2).parameters(), lr=1.0)
        >>> scheduler = tg.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
        >>> [scheduler.step() or round(scheduler.get_last_lr()[0], 3) for _ in range(4)]
        [0.854, 0.5, 0.146, 0.0]

        lr = eta_min + (base_lr - eta_min) * (1 + cos(pi * epoch / T_max)) / 2

    computed from the last lr, so that what others have multiplied it with lasts.

    Raises:
        ValueError: T_max is below 1.

    Source: Loshchilov, Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017, without the restarts.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        at_least(self, 1, T_max=T_max)
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer)

    def next_lr(self, lr: float, base_lr: float) -> float:
        epoch, span = self.last_epoch, self.T_max
        if epoch == 0:
            return lr
        if (epoch - 1 - span) % (2 * span) == 0:  # up from eta_min, where the ratio below is 0 / 0
            return lr + (base_lr - self.eta_min) * (1 - math.cos(math.pi / span)) / 2
        ratio = (1 + math.cos(math.pi * epoch / span)) / (1 + math.cos(math.pi * (epoch - 1) / span))
        return ratio * (lr - self.eta_min) + self.eta_min


class CosineAnnealingWarmRestarts(LRScheduler):
    """Half cosines from base_lr down to `eta_min`, each followed by a jump back up and `T_mult` times as long.

        >>> import tinygrad_rnn as tg
        >>> optimizer = tg.optim.SGD(tg.nn.Linear(2, 2).parameters(), lr=1.0)
        >>> scheduler = tg.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=2)
        >>> [scheduler.step() or round(scheduler.get_last_lr()[0], 3) for _ in range(4)]
        [0.5, 1.0, 0.5, 1.0]

        lr = eta_min + (base_lr - eta_min) * (1 + cos(pi * T_cur / T_i)) / 2

    T_cur being the epochs since the last restart, T_i those between restarts: T_0, T_0 * T_mult, ...

    Raises:
        ValueError: T_0 or T_mult is no whole number or below 1.

    Source: Loshchilov, Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017, equation 5.
    """

    def __init__(self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0) -> None:
        for name, value in (("T_0", T_0), ("T_mult", T_mult)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"CosineAnnealingWarmRestarts: {name} must be a whole number above 0, got {value}")
        self.T_0, self.T_mult, self.eta_min = T_0, T_mult, eta_min
        self.T_i, self.T_cur = T_0, 0.0
        super().__init__(optimizer)

    def next_lr(self, lr: float, base_lr: float) -> float:
        return self.eta_min + (base_lr - self.eta_min) * (1 + math.cos(math.pi * self.T_cur / self.T_i)) / 2

    def step(self, epoch: float | None = None) -> None:
        """Go on to the next epoch, or to the given one, which may be a fraction: `scheduler.step(epoch + i / n)`."""
        self._check_groups()
        if epoch is None:
            epoch = self.last_epoch + 1
            self.T_cur += 1
            if self.T_cur >= self.T_i:
                self.T_cur -= self.T_i
                self.T_i *= self.T_mult
        else:
            if not 0 <= epoch < math.inf:
                raise ValueError(f"CosineAnnealingWarmRestarts: epoch must be at least 0 and finite, got {epoch}")
            self.T_cur, self.T_i = epoch, self.T_0
            if self.T_mult == 1:
                self.T_cur %= self.T_0
            while self.T_cur >= self.T_i:
                self.T_cur -= self.T_i
                self.T_i *= self.T_mult
        self.last_epoch = math.floor(epoch)
        self._write(self.get_lr())

    def restart(self, lrs: Sequence[float] | None = None) -> None:
        self.T_i, self.T_cur = self.T_0, 0.0
        super().restart(lrs)


class OneCycleLR(LRScheduler):
    """One rise to `max_lr` and one long fall, with the momentum going the other way; a step for every batch.

        >>> import tinygrad_rnn as tg
        >>> optimizer = tg.optim.SGD(tg.nn.Linear(2, 2).parameters(), lr=1.0, momentum=0.9)
        >>> scheduler = tg.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=5, pct_start=0.5)
        >>> [scheduler.step() or round(scheduler.get_last_lr()[0], 3) for _ in range(4)]
        [0.76, 0.905, 0.345, 0.0]

    From max_lr / div_factor up to max_lr in the first `pct_start` of all steps, then down to
    max_lr / div_factor / final_div_factor; with three phases down to where it began as steeply as it rose, and then to
    that end. The momentum, or beta1, goes from max_momentum to base_momentum and back.

    Args:
        max_lr: the highest learning rate, or one for each group.
        total_steps: how often `step()` will be called, or epochs * steps_per_epoch.
        pct_start: the part of all steps in which the rate rises.
        anneal_strategy: "cos" or "linear".
        cycle_momentum: whether "momentum" or "betas" of the optimiser is changed too.
        base_momentum, max_momentum: its limits, or one for each group.
        three_phase: fall in two phases.

    Raises:
        ValueError: an argument makes no sense, the optimiser has no momentum to cycle, or too many steps.

    Source: Smith, Topin, "Super-convergence: very fast training of neural networks using large learning rates", 2019;
    the two phases are fastai's.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
    ) -> None:
        groups = checked(self, optimizer).param_groups
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError("OneCycleLR: give total_steps, or epochs and steps_per_epoch")
            at_least(self, 1, epochs=epochs, steps_per_epoch=steps_per_epoch)
            total_steps = epochs * steps_per_epoch
        at_least(self, 1, total_steps=total_steps)
        between_0_and_1(self, pct_start=pct_start)
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"OneCycleLR: anneal_strategy must be 'cos' or 'linear', got {anneal_strategy!r}")
        if not (div_factor > 0 and final_div_factor > 0):
            raise ValueError(f"OneCycleLR: the factors must be above 0, got {div_factor} and {final_div_factor}")
        highest = for_each_group(self, groups, "max_lr", max_lr)
        momenta = [for_each_group(self, groups, "max_momentum", max_momentum),
                   for_each_group(self, groups, "base_momentum", base_momentum)]
        use_beta1 = "betas" in optimizer.defaults
        if cycle_momentum and not use_beta1 and "momentum" not in optimizer.defaults:
            raise ValueError(
                f"OneCycleLR: {type(optimizer).__name__} has neither momentum nor betas; pass cycle_momentum=False"
            )
        self.total_steps, self._anneal_func_type, self.cycle_momentum = total_steps, anneal_strategy, cycle_momentum
        self._schedule_phases = _phases(float(pct_start * total_steps), total_steps, three_phase)
        if cycle_momentum:
            self.use_beta1 = use_beta1
        for group, lr, most, least in zip(groups, highest, *momenta):
            group.update(initial_lr=lr / div_factor, max_lr=lr, min_lr=lr / div_factor / final_div_factor)
            if cycle_momentum:
                group.update(max_momentum=most, base_momentum=least)
        super().__init__(optimizer)

    def step(self) -> None:
        """Go on to the next step.

        Raises:
            ValueError: all steps have been made.
        """
        if self.last_epoch >= self.total_steps:
            raise ValueError(f"OneCycleLR: step() was called more than total_steps = {self.total_steps} times")
        super().step()

    def get_lr(self) -> list[float]:
        start = 0.0
        for phase in self._schedule_phases:
            end = phase["end_step"]
            if self.last_epoch <= end or phase is self._schedule_phases[-1]:
                break
            start = end
        done = (self.last_epoch - start) / (end - start) if end != start else 1.0
        for group in self.optimizer.param_groups:
            if self.cycle_momentum:
                momentum = self._between(group[phase["start_momentum"]], group[phase["end_momentum"]], done)
                group.update({"betas": (momentum, *group["betas"][1:])} if self.use_beta1 else {"momentum": momentum})
        return [self._between(g[phase["start_lr"]], g[phase["end_lr"]], done) for g in self.optimizer.param_groups]

    def _between(self, start: float, end: float, done: float) -> float:
        if self._anneal_func_type == "cos":
            return end + (start - end) / 2 * (math.cos(math.pi * done) + 1)
        return (end - start) * done + start


def _phases(rising: float, total_steps: int, three_phase: bool) -> list[dict[str, Any]]:
    """OneCycleLR's phases, by the names of the options of a group that they go between."""

    def phase(end_step: float, start_lr: str, end_lr: str, start_momentum: str, end_momentum: str) -> dict[str, Any]:
        return dict(end_step=end_step, start_lr=start_lr, end_lr=end_lr, start_momentum=start_momentum + "_momentum",
                    end_momentum=end_momentum + "_momentum")

    up = phase(rising - 1, "initial_lr", "max_lr", "max", "base")
    if not three_phase:
        return [up, phase(total_steps - 1, "max_lr", "min_lr", "base", "max")]
    return [up, phase(2 * rising - 2, "max_lr", "initial_lr", "base", "max"),
            phase(total_steps - 1, "initial_lr", "min_lr", "max", "max")]
