"""What all schedules have in common, and how their arguments are checked."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

from .optimizer import Optimizer


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
        self.optimizer = checked(self, optimizer)
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


# ---- Checks ----------------------------------------------------------------------------------------------------------


def checked(scheduler: LRScheduler, optimizer: Any) -> Optimizer:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{type(scheduler).__name__}: expected an Optimizer, got a {type(optimizer).__name__}")
    return optimizer


def at_least(scheduler: LRScheduler, least: float, **values: float) -> None:
    for name, value in values.items():
        if not least <= value < math.inf:
            raise ValueError(f"{type(scheduler).__name__}: {name} must be at least {least} and finite, got {value}")


def between_0_and_1(scheduler: LRScheduler, **values: float) -> None:
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{type(scheduler).__name__}: {name} must lie in [0, 1], got {value}")


def for_each_group(scheduler: LRScheduler, groups: list[dict[str, Any]], name: str, value: Any) -> list[float]:
    """A number for all groups, or a list of one for each, as a list."""
    values = list(value) if isinstance(value, (list, tuple)) else [value] * len(groups)
    if len(values) != len(groups):
        raise ValueError(f"{type(scheduler).__name__}: {name} has {len(values)} values for {len(groups)} groups")
    for each in values:
        at_least(scheduler, 0, **{name: each})
    return values
