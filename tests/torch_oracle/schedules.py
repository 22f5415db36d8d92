"""Learning rates under a schedule as plain data, and how tinygrad_rnn makes them. No PyTorch here."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

import numpy as np

import tinygrad_rnn as tg
from torch_oracle.cases import Tolerance

TOLERANCE = Tolerance(1e-12, 1e-14, 0.0)

CYCLED = ("momentum", "betas")  # options that OneCycleLR changes beside the learning rate


@dataclass
class ScheduleCase:
    """`schedules` are pairs of a name and options, all stepped together; "schedulers" among the options are pairs too.

    `metrics[t]` is what step t is given, or None. From step `reload_at` on new objects go on from the old ones' states.
    """

    optimiser: str
    groups: list[dict]
    schedules: list[tuple]
    metrics: list = field(default_factory=list)
    reload_at: int = -1

    def __str__(self) -> str:
        return f"{self.optimiser}, {self.groups}: {self.schedules}"


def make(library, schedules, optimiser) -> list:
    """The schedules of a case, in PyTorch or here."""
    made = []
    for name, options in schedules:
        if "schedulers" in options:
            options = {**options, "schedulers": make(library, options["schedulers"], optimiser)}
        made.append(getattr(library, name)(optimiser, **options))
    return made


def readings(optimiser, schedulers) -> np.ndarray:
    """Learning rates and momenta of all groups, and what the schedules say the rates are."""
    groups = optimiser.param_groups
    momenta = [np.ravel(group[name])[0] for group in groups for name in CYCLED if name in group]
    return np.array([*(group["lr"] for group in groups), *momenta, *(lr for s in schedulers for lr in s.get_last_lr())])


def advance(scheduler, metric) -> None:
    if metric is None:
        scheduler.step()
    else:
        scheduler.step(metric)


def begin(case: ScheduleCase):
    parameters = [tg.tensor([0.0], requires_grad=True) for _ in case.groups]
    groups = [{"params": [p], **group} for p, group in zip(parameters, case.groups)]
    optimiser = getattr(tg.optim, case.optimiser)(groups)
    return optimiser, make(tg.optim.lr_scheduler, case.schedules, optimiser)


def resume(case: ScheduleCase, state: dict, states: list[dict]):
    """New objects with these state dicts: the optimiser's and those of the schedules, from here or from PyTorch."""
    optimiser, schedulers = begin(case)
    optimiser.load_state_dict(state)
    for scheduler, its in zip(schedulers, states, strict=True):
        scheduler.load_state_dict(its)
    return optimiser, schedulers


def go_on(optimiser, schedulers, metrics) -> list[np.ndarray]:
    """What can be read off after each step."""
    trace = []
    for metric in metrics:
        for scheduler in schedulers:
            advance(scheduler, metric)
        trace.append(readings(optimiser, schedulers))
    return trace


def run(case: ScheduleCase) -> list[np.ndarray]:
    """What can be read off before the first step and after each."""
    optimiser, schedulers = begin(case)
    trace, middle = [readings(optimiser, schedulers)], max(case.reload_at, 0)
    trace += go_on(optimiser, schedulers, case.metrics[:middle])
    if middle:
        states = json.loads(json.dumps([s.state_dict() for s in schedulers]))
        optimiser, schedulers = resume(case, optimiser.state_dict(), states)
    return trace + go_on(optimiser, schedulers, case.metrics[middle:])


def steps(number: int) -> list:
    return [None] * number


TWO = [{"lr": 0.1}, {"lr": 3.0}]
NOISE = np.random.default_rng(0)
FALLING = [float(x) for x in np.exp(-np.arange(60) / 12) + 0.05 * NOISE.standard_normal(60)]
FRACTIONS = [float(x) for x in [0, 0.25, 0.5, 1, 1.75, 3, 7.5, 2, 2.5, 30, 31.5, 90.25, 4]]

# Every schedule with every option, alone, multiplied with another and one after the other.
SCHEDULES = [
    ScheduleCase("SGD", TWO, [("StepLR", {"step_size": 3})], steps(12)),
    ScheduleCase("SGD", TWO, [("StepLR", {"step_size": 4, "gamma": 0.7})], steps(12), 4),
    ScheduleCase("Adam", TWO, [("MultiStepLR", {"milestones": [7, 2, 4, 4], "gamma": 0.3})], steps(10), 5),
    ScheduleCase("Adam", TWO, [("MultiStepLR", {"milestones": [0, 3]})], steps(5)),
    ScheduleCase("SGD", TWO, [("ExponentialLR", {"gamma": 0.93})], steps(10), 3),
    ScheduleCase("SGD", TWO, [("ConstantLR", {})], steps(8), 5),
    ScheduleCase("SGD", TWO, [("ConstantLR", {"factor": 0.25, "total_iters": 1})], steps(4)),
    ScheduleCase("SGD", TWO, [("LinearLR", {})], steps(8), 2),
    ScheduleCase("SGD", TWO, [("LinearLR", {"start_factor": 0.01, "end_factor": 0.6, "total_iters": 7})], steps(9)),
    ScheduleCase("SGD", TWO, [("LinearLR", {"start_factor": 1.0, "end_factor": 0.0, "total_iters": 4})], steps(6)),
    ScheduleCase("SGD", TWO, [("CosineAnnealingLR", {"T_max": 8})], steps(40), 13),
    ScheduleCase("SGD", TWO, [("CosineAnnealingLR", {"T_max": 5, "eta_min": 0.05})], steps(25), 5),
    ScheduleCase("SGD", TWO, [("CosineAnnealingLR", {"T_max": 1})], steps(5)),
    ScheduleCase("SGD", TWO, [("CosineAnnealingWarmRestarts", {"T_0": 4})], steps(14), 6),
    ScheduleCase("SGD", TWO, [("CosineAnnealingWarmRestarts", {"T_0": 2, "T_mult": 2, "eta_min": 0.02})], steps(20), 7),
    ScheduleCase("SGD", TWO, [("CosineAnnealingWarmRestarts", {"T_0": 3, "T_mult": 2})], FRACTIONS),
    ScheduleCase("SGD", TWO, [("CosineAnnealingWarmRestarts", {"T_0": 3, "eta_min": 0.01})], FRACTIONS),
    ScheduleCase("SGD", [{"lr": 0.1, "momentum": 0.9}], [("OneCycleLR", {"max_lr": 1.0, "total_steps": 20})],
                 steps(20), 8),
    ScheduleCase("Adam", TWO, [("OneCycleLR", {"max_lr": [0.5, 2.0], "epochs": 3, "steps_per_epoch": 5,
                                               "pct_start": 0.4, "anneal_strategy": "linear", "three_phase": True})],
                 steps(15), 7),
    ScheduleCase("AdamW", TWO, [("OneCycleLR", {"max_lr": 1.0, "total_steps": 11, "base_momentum": [0.8, 0.7],
                                                "max_momentum": 0.9, "div_factor": 10.0, "final_div_factor": 5.0,
                                                "three_phase": True})], steps(11)),
    ScheduleCase("Adagrad", TWO, [("OneCycleLR", {"max_lr": 1.0, "total_steps": 9, "cycle_momentum": False})],
                 steps(9), 2),
    ScheduleCase("SGD", TWO, [("ReduceLROnPlateau", {"patience": 2, "factor": 0.5})], FALLING, 20),
    ScheduleCase("SGD", TWO, [("ReduceLROnPlateau", {"patience": 0, "threshold": 0.02, "threshold_mode": "abs",
                                                     "cooldown": 2, "min_lr": [0.001, 0.5], "factor": 0.3})],
                 FALLING, 31),
    ScheduleCase("SGD", TWO, [("ReduceLROnPlateau", {"mode": "max", "patience": 1, "threshold": 0.1, "eps": 0.03})],
                 [-x for x in FALLING]),
    ScheduleCase("SGD", TWO, [("ReduceLROnPlateau", {"mode": "max", "patience": 3, "threshold_mode": "abs"})],
                 [1.0 - x if i % 9 else math.nan for i, x in enumerate(FALLING)]),
    ScheduleCase("SGD", TWO, [("LinearLR", {"total_iters": 3}), ("ExponentialLR", {"gamma": 0.9})], steps(7), 4),
    ScheduleCase("SGD", TWO, [("StepLR", {"step_size": 2, "gamma": 0.5}), ("CosineAnnealingLR", {"T_max": 4})],
                 steps(9), 3),
    ScheduleCase("SGD", TWO, [("SequentialLR", {"milestones": [4], "schedulers": [
        ("LinearLR", {"start_factor": 0.1, "total_iters": 4}), ("CosineAnnealingLR", {"T_max": 6})]})], steps(14), 6),
    ScheduleCase("SGD", TWO, [("SequentialLR", {"milestones": [2, 5], "schedulers": [
        ("ConstantLR", {"factor": 0.1, "total_iters": 9}), ("CosineAnnealingWarmRestarts", {"T_0": 2}),
        ("ExponentialLR", {"gamma": 0.5})]})], steps(9), 2),
    ScheduleCase("SGD", [{"lr": 0.1, "momentum": 0.9}], [("SequentialLR", {"milestones": [3], "schedulers": [
        ("LinearLR", {"total_iters": 3}), ("OneCycleLR", {"max_lr": 2.0, "total_steps": 8})]})], steps(10), 5),
]  # fmt: skip
