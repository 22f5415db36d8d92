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

Steps and ramps, and what is made of other schedules, stand here; `cosines` has those along a cosine.
"""

import copy
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..nn.advice import told
from .cosines import CosineAnnealingLR, CosineAnnealingWarmRestarts, OneCycleLR
from .optimizer import Optimizer
from .scheduler import LRScheduler, at_least, between_0_and_1, checked, for_each_group

__all__ = [
    "LRScheduler", "StepLR", "MultiStepLR", "ConstantLR", "LinearLR", "ExponentialLR", "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts", "OneCycleLR", "ReduceLROnPlateau", "SequentialLR",
]  # fmt: skip
__dir__ = __all__.copy  # what a tab completes
if not TYPE_CHECKING:  # for which every name would be there
    __getattr__ = told(__name__)


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
        at_least(self, 1, step_size=step_size)
        at_least(self, 0, gamma=gamma)
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
        at_least(self, 0, gamma=gamma, **{f"milestones[{i}]": m for i, m in enumerate(self.milestones)})
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
        at_least(self, 0, gamma=gamma)
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
        between_0_and_1(self, factor=factor)
        at_least(self, 1, total_iters=total_iters)
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
        between_0_and_1(self, start_factor=start_factor, end_factor=end_factor)
        if start_factor == 0:
            raise ValueError("LinearLR: start_factor must be above 0: later rates are multiples of the first")
        at_least(self, 1, total_iters=total_iters)
        self.start_factor, self.end_factor, self.total_iters = start_factor, end_factor, total_iters
        super().__init__(optimizer)

    def next_lr(self, lr: float, base_lr: float) -> float:
        if self.last_epoch == 0:
            return lr * self.start_factor
        if self.last_epoch > self.total_iters:
            return lr
        rise = self.end_factor - self.start_factor
        return lr * (1 + rise / (self.total_iters * self.start_factor + (self.last_epoch - 1) * rise))


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
        self.optimizer = checked(self, optimizer)
        for i, scheduler in enumerate(schedulers):
            if not isinstance(scheduler, LRScheduler):
                raise TypeError(f"SequentialLR: schedulers[{i}] is no schedule but a {type(scheduler).__name__}")
            if isinstance(scheduler, ReduceLROnPlateau):
                raise ValueError(f"SequentialLR: schedulers[{i}] is a ReduceLROnPlateau, whose step needs a metric")
            if scheduler.optimizer is not optimizer:
                raise ValueError(f"SequentialLR: schedulers[{i}], {type(scheduler).__name__}, has another optimizer")
        if len(milestones) != len(schedulers) - 1:
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
        epoch = self.last_epoch + 1
        scheduler = self._schedulers[bisect_right(self._milestones, epoch)]
        if epoch in self._milestones:
            scheduler.restart()
        else:
            scheduler.step()
        self.last_epoch = epoch
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
        groups = checked(self, optimizer).param_groups
        if not 0 <= factor < 1:
            raise ValueError(f"ReduceLROnPlateau: factor must lie in [0, 1), got {factor}")
        if mode not in ("min", "max"):
            raise ValueError(f"ReduceLROnPlateau: mode must be 'min' or 'max', got {mode!r}")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"ReduceLROnPlateau: threshold_mode must be 'rel' or 'abs', got {threshold_mode!r}")
        at_least(self, 0, patience=patience, threshold=threshold, cooldown=cooldown, eps=eps)
        self.optimizer, self.mode, self.factor, self.patience = optimizer, mode, factor, patience
        self.threshold, self.threshold_mode, self.cooldown, self.eps = threshold, threshold_mode, cooldown, eps
        self.min_lrs = for_each_group(self, groups, "min_lr", min_lr)
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
