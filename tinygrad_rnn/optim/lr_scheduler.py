"""Schedules: learning rates that change while training, with PyTorch's names and numbers.

    scheduler = tg.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
    for epoch in range(100):
        for batch in batches:
            ...
            optimizer.step()
        scheduler.step()       # after optimizer.step(), or the first learning rate is never used

A schedule writes to `optimizer.param_groups[i]["lr"]` when it is made, which is epoch 0, and at every `step()`. An
"epoch" is a call of `step()`, be it once for each pass over the data or once for each batch. As in PyTorch, most
compute the new rate from the last one, so that several schedules of one optimiser multiply, and a rate that was set by
hand lasts. To go on from an earlier run, make optimiser and schedule as before and then load the state of both;
PyTorch's argument `last_epoch` does not exist here.
"""

import copy
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..nn.advice import told
from .optimizer import Optimizer

__all__ = [
    "LRScheduler", "StepLR", "MultiStepLR", "ConstantLR", "LinearLR", "ExponentialLR", "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts", "OneCycleLR", "ReduceLROnPlateau", "SequentialLR",
]  # fmt: skip
__dir__ = __all__.copy  # what a tab completes
if not TYPE_CHECKING:  # for which every name would be there
    __getattr__ = told(__name__)


class LRScheduler:
    """Base of all schedules. A subclass defines `next_lr`; its attributes are its state.

        >>> from tinygrad_rnn import nn, optim
        >>> class Halve(LRScheduler):
        ...     def next_lr(self, lr, base_lr):
        ...         return lr / 2 if self.last_epoch else lr
        >>> optimizer = optim.SGD(nn.Linear(2, 2).parameters(), lr=8.0)
        >>> scheduler = Halve(optimizer)
        >>> scheduler.step()
        >>> scheduler.get_last_lr()
        [4.0]

    Args:
        optimizer: whose learning rates are scheduled. What they were when its first schedule was made is kept in its
            groups, as "initial_lr".

    Attributes:
        last_epoch: the epoch that the learning rates are for.
        base_lrs: the learning rates that the schedule starts from, one for each group.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = _checked(self, optimizer)
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = 0
        self._write(self.get_lr())

    def __repr__(self) -> str:
        hidden = ("optimizer", "base_lrs", "last_epoch")
        options = ", ".join(f"{k}={v}" for k, v in vars(self).items() if k not in hidden and not k.startswith("_"))
        return f"{type(self).__name__}({options})  # epoch {self.last_epoch}: {self.get_last_lr()}"

    def next_lr(self, lr: float, base_lr: float) -> float:
        """The learning rate of a group at `last_epoch`, from that of the epoch before."""
        raise NotImplementedError(f"{type(self).__name__} must define next_lr(lr, base_lr)")

    def get_lr(self) -> list[float]:
        """The learning rates at `last_epoch`, from those in the optimiser; `get_last_lr` says what these are."""
        groups = self.optimizer.param_groups
        return [self.next_lr(group["lr"], base) for group, base in zip(groups, self.base_lrs)]

    def get_last_lr(self) -> list[float]:
        """The learning rates as this schedule last set them, one for each group."""
        return list(self._last_lr)

    def step(self) -> None:
        """Go on to the next epoch.

        Raises:
            ValueError: the optimiser has other groups than when the schedule was made.
        """
        self._check_groups()
        self.last_epoch += 1
        self._write(self.get_lr())

    def restart(self, lrs: Sequence[float] | None = None) -> None:
        """Back to epoch 0, from the given learning rates or from `base_lrs`: what `SequentialLR` does to the next."""
        self._check_groups()
        self.last_epoch = 0
        for group, lr in zip(self.optimizer.param_groups, self.base_lrs if lrs is None else lrs):
            group["lr"] = lr
        self._write(self.get_lr())

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimiser, by the names of PyTorch's state, in numbers, texts, lists and dicts.

        The learning rates of now are in the optimiser's state, which has to be saved too.
        """
        return copy.deepcopy({name: value for name, value in vars(self).items() if name != "optimizer"})

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from what `state_dict()` returned, here or in PyTorch.

        Raises:
            ValueError: the state is not that of such a schedule, which then stays as it was.
        """
        self.take(self.read_state_dict(state_dict))

    def take(self, state: dict[str, Any]) -> None:
        """Set what `read_state_dict` returned."""
        vars(self).update(state)

    def read_state_dict(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """The attributes that `load_state_dict` would set: all checks, and no change."""
        name, own = type(self).__name__, self.state_dict()
        missing = [key for key in own if key not in state_dict]
        if missing:
            raise ValueError(f"{name}: the state lacks {', '.join(missing)}; is it that of another schedule?")
        state = {key: copy.deepcopy(state_dict[key]) for key in own}
        for key, value in own.items():
            if isinstance(value, (int, float)) and not isinstance(state[key], (int, float)):
                raise ValueError(f"{name}: {key} of the state is no number: {state[key]!r}")
        for key in ("base_lrs", "_last_lr", "min_lrs"):
            if key in own and len(state[key]) != len(own[key]):
                raise ValueError(f"{name}: {key} of the state is for {len(state[key])} groups, not for {len(own[key])}")
        return state

    def _check_groups(self) -> None:
        groups = len(self.optimizer.param_groups)
        if groups != len(self.base_lrs):
            raise ValueError(
                f"{type(self).__name__}: the optimizer has {groups} groups, and had {len(self.base_lrs)} when the "
                "schedule was made; make it anew after add_param_group"
            )

    def _write(self, lrs: list[float]) -> None:
        for group, lr in zip(self.optimizer.param_groups, lrs):
            group["lr"] = lr
        self._last_lr = list(lrs)


# ---- Steps and ramps -------------------------------------------------------------------------------------------------


class StepLR(LRScheduler):
    """lr <- gamma * lr every `step_size` epochs.

        >>> import tinygrad_rnn as tg
        >>> optimizer = tg.optim.SGD(tg.nn.Linear(2, 2).parameters(), lr=1.0)
        >>> scheduler = tg.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
        >>> [scheduler.step() or scheduler.get_last_lr()[0] for _ in range(4)]
        [1.0, 0.5, 0.5, 0.25]

    Raises:
        ValueError: step_size is below 1, or gamma negative.
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        _at_least(self, 1, step_size=step_size)
        _at_least(self, 0, gamma=gamma)
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer)

    def next_lr(self, lr: float, base_lr: float) -> float:
        return lr * self.gamma if self.last_epoch and self.last_epoch % self.step_size == 0 else lr


class MultiStepLR(LRScheduler):
    """lr <- gamma * lr at each of the milestones, numbers of epochs; one that is named twice counts twice.

        >>> import tinygrad_rnn as tg
        >>> optimizer = tg.optim.SGD(tg.nn.Linear(2, 2).parameters(), lr=1.0)
        >>> scheduler = tg.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[2, 3], gamma=0.5)
        >>> [scheduler.step() or scheduler.get_last_lr()[0] for _ in range(4)]
        [1.0, 0.5, 0.25, 0.25]

    Raises:
        ValueError: a milestone or gamma is negative.
    """

    def __init__(self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1) -> None:
        self.milestones, self.gamma = sorted(milestones), gamma
        _at_least(self, 0, gamma=gamma, **{f"milestones[{i}]": m for i, m in enumerate(self.milestones)})
        super().__init__(optimizer)

    def next_lr(self, lr: float, base_lr: float) -> float:
        return lr * self.gamma ** self.milestones.count(self.last_epoch)

    def read_state_dict(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        state = super().read_state_dict(state_dict)
        if isinstance(state["milestones"], Mapping):  # PyTorch counts them: {epoch: how often}
            state["milestones"] = sorted(epoch for epoch, n in state["milestones"].items() for _ in range(n))
        return state


class ExponentialLR(LRScheduler):
    """lr <- gamma * lr at every epoch.

        >>> import tinygrad_rnn as tg
        >>> optimizer = tg.optim.SGD(tg.nn.Linear(2, 2).parameters(), lr=1.0)
        >>> scheduler = tg.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
        >>> [scheduler.step() or scheduler.get_last_lr()[0] for _ in range(3)]
        [0.5, 0.25, 0.125]

    Raises:
        ValueError: gamma is negative.
    """

    def __init__(self, optimizer: Optimizer, gamma: float) -> None:
        _at_least(self, 0, gamma=gamma)
        self.gamma = gamma
        super().__init__(optimizer)

    def next_lr(self, lr: float, base_lr: float) -> float:
        return lr * self.gamma if self.last_epoch else lr


class ConstantLR(LRScheduler):
    """lr = factor * base_lr until epoch `total_iters`, then base_lr.

        >>> import tinygrad_rnn as tg
        >>> optimizer = tg.optim.SGD(tg.nn.Linear(2, 2).parameters(), lr=1.0)
        >>> scheduler = tg.optim.lr_scheduler.ConstantLR(optimizer, factor=0.5, total_iters=2)
        >>> [scheduler.step() or scheduler.get_last_lr()[0] for _ in range(3)]
        [0.5, 1.0, 1.0]

    Raises:
        ValueError: factor is not in [0, 1], or total_iters below 1.
    """

    def __init__(self, optimizer: Optimizer, factor: float = 1.0 / 3, total_iters: int = 5) -> None:
        _between_0_and_1(self, factor=factor)
        _at_least(self, 1, total_iters=total_iters)
        self.factor, self.total_iters = factor, total_iters
        super().__init__(optimizer)

    def next_lr(self, lr: float, base_lr: float) -> float:
        if self.last_epoch == 0:
            return lr * self.factor
        if self.last_epoch != self.total_iters:
            return lr
        return lr * (1.0 / self.factor) if self.factor else base_lr


class LinearLR(LRScheduler):
    """lr = base_lr times a factor that goes linearly from `start_factor` to `end_factor` in `total_iters` epochs.

        >>> import tinygrad_rnn as tg
        >>> optimizer = tg.optim.SGD(tg.nn.Linear(2, 2).parameters(), lr=1.0)
        >>> scheduler = tg.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.5, total_iters=2)
        >>> [scheduler.step() or round(scheduler.get_last_lr()[0], 3) for _ in range(3)]
        [0.75, 1.0, 1.0]

    The usual warm-up: a first step of an adaptive optimiser knows little about the size of gradients.

    Raises:
        ValueError: start_factor is not in (0, 1], end_factor not in [0, 1], or total_iters below 1.
    """

    def __init__(
        self, optimizer: Optimizer, start_factor: float = 1.0 / 3, end_factor: float = 1.0, total_iters: int = 5
    ) -> None:
        _between_0_and_1(self, start_factor=start_factor, end_factor=end_factor)
        if start_factor == 0:
            raise ValueError("LinearLR: start_factor must be above 0: later rates are multiples of the first")
        _at_least(self, 1, total_iters=total_iters)
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer)

    def next_lr(self, lr: float, base_lr: float) -> float:
        if self.last_epoch == 0:
            return lr * self.start_factor
        if self.last_epoch > self.total_iters:
            return lr
        rise = self.end_factor - self.start_factor
        return lr * (1 + rise / (self.total_iters * self.start_factor + (self.last_epoch - 1) * rise))


# ---- Cosines ---------------------------------------------------------------------------------------------------------


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
        _at_least(self, 1, T_max=T_max)
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
        groups = _checked(self, optimizer).param_groups
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError("OneCycleLR: give total_steps, or epochs and steps_per_epoch")
            _at_least(self, 1, epochs=epochs, steps_per_epoch=steps_per_epoch)
            total_steps = epochs * steps_per_epoch
        _at_least(self, 1, total_steps=total_steps)
        _between_0_and_1(self, pct_start=pct_start)
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"OneCycleLR: anneal_strategy must be 'cos' or 'linear', got {anneal_strategy!r}")
        if not (div_factor > 0 and final_div_factor > 0):
            raise ValueError(f"OneCycleLR: the factors must be above 0, got {div_factor} and {final_div_factor}")
        highest = _for_each_group(self, groups, "max_lr", max_lr)
        momenta = [_for_each_group(self, groups, "max_momentum", max_momentum),
                   _for_each_group(self, groups, "base_momentum", base_momentum)]
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


# ---- One after the other, and by what happens ------------------------------------------------------------------------


class SequentialLR(LRScheduler):
    """One schedule after the other: the next one starts at epoch 0 of its own where the milestone says.

        >>> import tinygrad_rnn as tg
        >>> from tinygrad_rnn.optim.lr_scheduler import ExponentialLR, LinearLR, SequentialLR
        >>> optimizer = tg.optim.SGD(tg.nn.Linear(2, 2).parameters(), lr=1.0)
        >>> warm_up = LinearLR(optimizer, start_factor=0.5, total_iters=2)
        >>> scheduler = SequentialLR(optimizer, [warm_up, ExponentialLR(optimizer, 0.5)], milestones=[2])
        >>> [scheduler.step() or round(scheduler.get_last_lr()[0], 3) for _ in range(4)]
        [0.75, 1.0, 0.5, 0.25]

        warm_up = LinearLR(optimizer, start_factor=0.1, total_iters=10)
        fall = CosineAnnealingLR(optimizer, T_max=90)
        scheduler = SequentialLR(optimizer, [warm_up, fall], milestones=[10])

    Raises:
        TypeError: something in `schedulers` is no schedule.
        ValueError: there are none, or one belongs to another optimiser or is a ReduceLROnPlateau; or the milestones are
            not one fewer, positive and increasing.
    """

    def __init__(self, optimizer: Optimizer, schedulers: list[LRScheduler], milestones: list[int]) -> None:
        self.optimizer = _checked(self, optimizer)
        for i, scheduler in enumerate(schedulers):
            if not isinstance(scheduler, LRScheduler):
                raise TypeError(f"SequentialLR: schedulers[{i}] is no schedule but a {type(scheduler).__name__}")
            if isinstance(scheduler, ReduceLROnPlateau):
                raise ValueError(f"SequentialLR: schedulers[{i}] is a ReduceLROnPlateau, whose step needs a metric")
            if scheduler.optimizer is not optimizer:
                raise ValueError(f"SequentialLR: schedulers[{i}], {type(scheduler).__name__}, has another optimizer")
        if not schedulers or len(milestones) != len(schedulers) - 1:
            raise ValueError(
                f"SequentialLR: got {len(schedulers)} schedules and {len(milestones)} milestones; expected at least "
                "one schedule, and one milestone fewer"
            )
        if any(late <= early for early, late in zip([0, *milestones], milestones)):
            raise ValueError(f"SequentialLR: milestones must be positive and increasing, got {list(milestones)}")
        self._schedulers, self._milestones = list(schedulers), list(milestones)
        self.restart()

    def get_lr(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]  # whatever the schedule whose turn it is has set

    def step(self) -> None:
        i = bisect_right(self._milestones, self.last_epoch + 1)
        if i and self._milestones[i - 1] == self.last_epoch + 1:
            self._schedulers[i].restart()
        else:
            self._schedulers[i].step()
        self.last_epoch += 1
        self._write(self.get_lr())

    def restart(self, lrs: Sequence[float] | None = None) -> None:
        self.last_epoch = 0
        if lrs is None:  # not the first schedule's own base_lrs: a OneCycleLR among them has set others
            lrs = [group.get("initial_lr", group["lr"]) for group in self.optimizer.param_groups]
        self._schedulers[0].restart(lrs)
        self._write(self.get_lr())

    def state_dict(self) -> dict[str, Any]:
        state = {k: copy.deepcopy(v) for k, v in vars(self).items() if k not in ("optimizer", "_schedulers")}
        return {**state, "_schedulers": [scheduler.state_dict() for scheduler in self._schedulers]}

    def take(self, state: dict[str, Any]) -> None:
        for scheduler, its in zip(self._schedulers, state.pop("_schedulers")):
            scheduler.take(its)
        super().take(state)

    def read_state_dict(self, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        state = super().read_state_dict(state_dict)
        saved = state["_schedulers"]
        if len(saved) != len(self._schedulers):
            raise ValueError(f"SequentialLR: the state is of {len(saved)} schedules, not of {len(self._schedulers)}")
        return {**state, "_schedulers": [s.read_state_dict(its) for s, its in zip(self._schedulers, saved)]}


class ReduceLROnPlateau(LRScheduler):
    """lr <- factor * lr when a metric has not improved for more than `patience` epochs.

        >>> import tinygrad_rnn as tg
        >>> optimizer = tg.optim.SGD(tg.nn.Linear(2, 2).parameters(), lr=1.0)
        >>> scheduler = tg.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1)
        >>> [scheduler.step(loss) or scheduler.get_last_lr()[0] for loss in (3.0, 3.1, 3.2)]
        [1.0, 1.0, 0.1]

        scheduler.step(validation_loss)      # once an epoch

    Args:
        mode: "min" where smaller is better, else "max".
        factor: below 1.
        patience: how many epochs without improvement are let pass; the one after them reduces.
        threshold: an improvement is smaller than this: of `best * (1 - threshold)` ("rel") or `best - threshold`
            ("abs"); with mode "max" by the other sign.
        cooldown: epochs after a reduction in which nothing is counted.
        min_lr: the lowest learning rate, or one for each group.
        eps: a reduction by no more than this is not made.

    NaN is no improvement.

    Raises:
        ValueError: an argument makes no sense.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | list[float] = 0,
        eps: float = 1e-8,
    ) -> None:
        groups = _checked(self, optimizer).param_groups
        if not 0 <= factor < 1:
            raise ValueError(f"ReduceLROnPlateau: factor must lie in [0, 1), got {factor}")
        if mode not in ("min", "max"):
            raise ValueError(f"ReduceLROnPlateau: mode must be 'min' or 'max', got {mode!r}")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"ReduceLROnPlateau: threshold_mode must be 'rel' or 'abs', got {threshold_mode!r}")
        _at_least(self, 0, patience=patience, threshold=threshold, cooldown=cooldown, eps=eps)
        self.optimizer, self.mode, self.factor, self.patience = optimizer, mode, factor, patience
        self.threshold, self.threshold_mode, self.cooldown, self.eps = threshold, threshold_mode, cooldown, eps
        self.min_lrs = _for_each_group(self, groups, "min_lr", min_lr)
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = self.cooldown_counter = self.last_epoch = 0
        self._last_lr = [group["lr"] for group in groups]

    def step(self, metrics: Any) -> None:  # type: ignore[override]
        """Take note of the metric, a number; may reduce the learning rates."""
        current, groups = float(metrics), self.optimizer.param_groups
        if len(groups) != len(self.min_lrs):
            raise ValueError(
                f"ReduceLROnPlateau: the optimizer has {len(groups)} groups, and had {len(self.min_lrs)} when the "
                "schedule was made; make it anew after add_param_group"
            )
        self.last_epoch += 1
        if self._improved(current):
            self.best, self.num_bad_epochs = current, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
            for group, least in zip(groups, self.min_lrs):
                lr = max(group["lr"] * self.factor, least)
                if group["lr"] - lr > self.eps:
                    group["lr"] = lr
        self._last_lr = [group["lr"] for group in groups]

    def _improved(self, current: float) -> bool:
        sign = 1 if self.mode == "max" else -1
        if self.threshold_mode == "rel":
            limit = self.best * (1 + sign * self.threshold)
        else:
            limit = self.best + sign * self.threshold
        return sign * current > sign * limit

    def restart(self, lrs: Sequence[float] | None = None) -> None:
        raise NotImplementedError("ReduceLROnPlateau does not restart: make a new one")


# ---- Checks ----------------------------------------------------------------------------------------------------------


def _checked(scheduler: LRScheduler, optimizer: Any) -> Optimizer:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{type(scheduler).__name__}: expected an Optimizer, got a {type(optimizer).__name__}")
    return optimizer


def _at_least(scheduler: LRScheduler, least: float, **values: float) -> None:
    for name, value in values.items():
        if not least <= value < math.inf:
            raise ValueError(f"{type(scheduler).__name__}: {name} must be at least {least} and finite, got {value}")


def _between_0_and_1(scheduler: LRScheduler, **values: float) -> None:
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{type(scheduler).__name__}: {name} must lie in [0, 1], got {value}")


def _for_each_group(scheduler: LRScheduler, groups: list[dict[str, Any]], name: str, value: Any) -> list[float]:
    """A number for all groups, or a list of one for each, as a list."""
    values = list(value) if isinstance(value, (list, tuple)) else [value] * len(groups)
    if len(values) != len(groups):
        raise ValueError(f"{type(scheduler).__name__}: {name} has {len(values)} values for {len(groups)} groups")
    for each in values:
        _at_least(scheduler, 0, **{name: each})
    return values
