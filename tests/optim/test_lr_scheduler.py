"""Schedules: their formulas, how they go together, that they go on where they were, and what they refuse.

PyTorch's numbers for each of them are replayed in tests/test_reference.py.
"""

import copy
import json
import math
from collections import Counter

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.optim import SGD, Adagrad, Adam
from tinygrad_rnn.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)


def optimiser_of(kind=SGD, lrs=(0.5, 2.0), **options):
    return kind([{"params": [tg.tensor([1.0], requires_grad=True)], "lr": lr} for lr in lrs], **options)


def rates(scheduler, steps):
    """The learning rates of the first group at epoch 0, 1, ..."""
    found = [scheduler.optimizer.param_groups[0]["lr"]]
    for _ in range(steps):
        scheduler.step()
        found.append(scheduler.optimizer.param_groups[0]["lr"])
        assert scheduler.get_last_lr() == [group["lr"] for group in scheduler.optimizer.param_groups]
    return found


def warm_up_and_fall(optimiser):
    return SequentialLR(
        optimiser, [LinearLR(optimiser, 0.1, total_iters=3), CosineAnnealingLR(optimiser, 4)], milestones=[3]
    )


# ---- What the docstrings say -----------------------------------------------------------------------------------------

EPOCHS = np.arange(25)
CLOSED = [  # what a schedule is from lr = 0.5, by the epoch
    (StepLR, (4, 0.5), 0.5 * 0.5 ** (EPOCHS // 4)),
    (MultiStepLR, ([3, 9, 9], 0.5), 0.5 * 0.5 ** np.select([EPOCHS < 3, EPOCHS < 9], [0, 1], 3)),
    (ExponentialLR, (0.9,), 0.5 * 0.9**EPOCHS),
    (ConstantLR, (0.2, 6), np.where(EPOCHS < 6, 0.1, 0.5)),
    (ConstantLR, (0.0, 6), np.where(EPOCHS < 6, 0.0, 0.5)),
    (LinearLR, (0.1, 0.8, 7), 0.5 * (0.1 + 0.7 * np.minimum(EPOCHS, 7) / 7)),
    (CosineAnnealingLR, (6, 0.1), 0.1 + 0.2 * (1 + np.cos(np.pi * EPOCHS / 6))),
    (CosineAnnealingWarmRestarts, (6, 1, 0.1), 0.1 + 0.2 * (1 + np.cos(np.pi * (EPOCHS % 6) / 6))),
    (CosineAnnealingWarmRestarts, (8, 3, 0.1), 0.1 + 0.2 * (1 + np.cos(np.pi * np.where(EPOCHS < 8, EPOCHS / 8,
                                                                                        (EPOCHS - 8) / 24)))),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "arguments", "expected"), CLOSED, ids=[f"{k.__name__}{a}" for k, a, _ in CLOSED])
def test_closed_form(kind, arguments, expected):
    np.testing.assert_allclose(rates(kind(optimiser_of(), *arguments), 24), expected, rtol=1e-12, atol=1e-15)


def test_one_cycle_goes_up_and_down_while_the_momentum_goes_down_and_up():
    optimiser = optimiser_of(Adam)
    scheduler = OneCycleLR(optimiser, [1.0, 4.0], total_steps=100, div_factor=10, final_div_factor=100)
    first, momenta = rates(scheduler, 0), [optimiser.param_groups[1]["betas"][0]]
    for _ in range(99):
        first += rates(scheduler, 1)[1:]
        momenta.append(optimiser.param_groups[1]["betas"][0])
    np.testing.assert_allclose([first[0], max(first), first[-1]], [0.1, 1, 0.001], rtol=1e-12)
    assert momenta[0] == momenta[-1] == 0.95 and min(momenta) == pytest.approx(0.85)
    assert np.argmax(first) == np.argmin(momenta) == 29
    assert (np.diff(first[:30]) > 0).all() and (np.diff(first[30:]) < 0).all()
    assert optimiser.param_groups[1]["betas"][1] == 0.999


def test_step_after_step_changes_what_the_optimiser_does():
    optimiser = optimiser_of(lrs=[1.0])
    scheduler, p = ExponentialLR(optimiser, 0.5), optimiser.param_groups[0]["params"][0]
    for _ in range(3):
        p.grad = tg.tensor([1.0])
        optimiser.step()
        scheduler.step()
    assert p.item() == 1 - (1 + 0.5 + 0.25)


# ---- Together --------------------------------------------------------------------------------------------------------


def test_two_schedules_of_one_optimiser_multiply_and_a_change_by_hand_lasts():
    optimiser = optimiser_of()
    schedulers = [LinearLR(optimiser, 0.5, total_iters=2), ExponentialLR(optimiser, 0.9)]
    assert optimiser.param_groups[0]["initial_lr"] == 0.5 and optimiser.param_groups[0]["lr"] == 0.25
    for scheduler in schedulers * 3:
        scheduler.step()
    np.testing.assert_allclose([g["lr"] for g in optimiser.param_groups], [0.5 * 0.9**3, 2 * 0.9**3], rtol=1e-12)
    optimiser.param_groups[1]["lr"] = 10.0
    schedulers[1].step()
    assert optimiser.param_groups[1]["lr"] == 9.0


def test_sequence_of_sequences():
    optimiser = optimiser_of()
    inner = SequentialLR(optimiser, [ConstantLR(optimiser, 0.5, 9), ExponentialLR(optimiser, 0.5)], [2])
    outer = SequentialLR(optimiser, [ConstantLR(optimiser, 0.1, 9), inner], [2])
    np.testing.assert_allclose(rates(outer, 6), [0.05, 0.05, 0.25, 0.25, 0.5, 0.25, 0.125], rtol=1e-12)
    np.testing.assert_allclose(rates(outer, 2)[1:], [0.0625, 0.03125], rtol=1e-12)


def test_a_sequence_of_one_schedule_is_that_schedule():
    alone, sequence = optimiser_of(), optimiser_of()
    assert rates(SequentialLR(sequence, [ExponentialLR(sequence, 0.5)], []), 3) == rates(ExponentialLR(alone, 0.5), 3)


def test_plateau():
    optimiser = optimiser_of()
    scheduler = ReduceLROnPlateau(optimiser, patience=1, factor=0.5, cooldown=1, min_lr=[0.2, 0.0])
    found = []
    for loss in (1.0, 0.9, 0.9, tg.tensor(0.9), math.nan, 0.95, 0.95, 0.5, math.nan, math.nan):
        scheduler.step(loss)
        found.append(optimiser.param_groups[0]["lr"])
    #        best      bad  reduced; cooling; bad  reduced: best      bad  reduced
    assert found == [0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.2, 0.2, 0.2, 0.2]
    assert scheduler.get_last_lr() == [0.2, 2.0 / 8]


# ---- State -----------------------------------------------------------------------------------------------------------

MAKERS = {
    "step": lambda o: StepLR(o, 2),
    "multi": lambda o: MultiStepLR(o, [1, 5, 8]),
    "restarts": lambda o: CosineAnnealingWarmRestarts(o, 2, 2),
    "cycle": lambda o: OneCycleLR(o, 1.0, total_steps=20),
    "sequence": warm_up_and_fall,
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_new_one_goes_on_from_json(name):
    optimiser, other = optimiser_of(momentum=0.5), optimiser_of(momentum=0.5)
    scheduler, second = MAKERS[name](optimiser), MAKERS[name](other)
    rates(scheduler, 4)
    saved = json.loads(json.dumps(scheduler.state_dict()))
    other.load_state_dict(optimiser.state_dict())
    second.load_state_dict(saved)
    assert second.get_last_lr() == scheduler.get_last_lr() and second.last_epoch == 4
    assert rates(second, 9) == rates(scheduler, 9)
    assert saved == json.loads(json.dumps(saved)) and saved["last_epoch"] == 4, "what was loaded is not shared"


def test_plateau_goes_on_from_json():
    optimiser, other = optimiser_of(), optimiser_of()
    scheduler, second = ReduceLROnPlateau(optimiser, patience=2), ReduceLROnPlateau(other, patience=7)
    for _ in range(3):
        scheduler.step(1.0)
    second.load_state_dict(json.loads(json.dumps(scheduler.state_dict())))
    scheduler.step(1.0)
    second.step(1.0)
    assert [g["lr"] for g in other.param_groups] == [g["lr"] for g in optimiser.param_groups] == [0.05, 0.2]


def test_a_plateau_of_other_groups_changes_nothing():
    scheduler = ReduceLROnPlateau(optimiser_of(), min_lr=[0.2, 0.1])
    state, before = scheduler.state_dict(), scheduler.state_dict()
    state["min_lrs"].pop()
    with pytest.raises(ValueError, match="ReduceLROnPlateau: min_lrs of the state is for 1 groups, not for 2"):
        scheduler.load_state_dict(state)
    assert scheduler.state_dict() == before


def test_pytorchs_state_is_understood():
    """It has a Counter of milestones, and entries that are unknown here."""
    scheduler = MultiStepLR(optimiser_of(), [1])
    theirs = {**scheduler.state_dict(), "milestones": Counter([4, 2, 4]), "_step_count": 3, "_is_initial": False}
    scheduler.load_state_dict(theirs)
    assert scheduler.milestones == [2, 4, 4] and "_step_count" not in vars(scheduler)


@pytest.mark.parametrize(
    ("message", "spoil"),
    [("StepLR: the state lacks gamma; is it that of another schedule", lambda s: s.pop("gamma")),
     ("StepLR: base_lrs of the state is for 1 groups, not for 2", lambda s: s["base_lrs"].pop()),
     ("StepLR: _last_lr of the state is for 3 groups, not for 2", lambda s: s["_last_lr"].append(1.0))],
)
def test_a_state_that_does_not_fit_changes_nothing(message, spoil):
    scheduler = StepLR(optimiser_of(), 2)
    state = scheduler.state_dict()
    scheduler.step()
    spoil(state)
    before = copy.deepcopy(scheduler.state_dict())
    with pytest.raises(ValueError, match=message):
        scheduler.load_state_dict(state)
    assert scheduler.state_dict() == before


def test_a_state_of_another_sequence_changes_nothing():
    optimiser = optimiser_of()
    scheduler, longer = warm_up_and_fall(optimiser), warm_up_and_fall(optimiser)
    before = scheduler.state_dict()
    longer._schedulers.append(StepLR(optimiser, 1))
    with pytest.raises(ValueError, match="the state is of 3 schedules, not of 2"):
        scheduler.load_state_dict(longer.state_dict())
    spoiled = {**before, "last_epoch": 9, "_schedulers": [before["_schedulers"][0], {}]}
    with pytest.raises(ValueError, match="CosineAnnealingLR: the state lacks T_max"):
        scheduler.load_state_dict(spoiled)
    assert scheduler.state_dict() == before


@pytest.mark.parametrize("name", MAKERS)
def test_in_a_checkpoint(tmp_path, name):
    path, runs = tmp_path / "run.safetensors", []
    for _ in range(2):
        optimiser = optimiser_of(momentum=0.5)
        runs.append((optimiser, MAKERS[name](optimiser)))
    (optimiser, scheduler), (other, second) = runs
    rates(scheduler, 4)
    tg.save_checkpoint(path, optimizer=optimiser, scheduler=scheduler)
    tg.load_checkpoint(path, optimizer=other, scheduler=second)
    assert rates(second, 9) == rates(scheduler, 9)


def test_a_checkpoint_without_this_schedule_changes_nothing(tmp_path):
    path, optimiser = tmp_path / "run.safetensors", optimiser_of()
    scheduler = ExponentialLR(optimiser, 0.5)
    tg.save_checkpoint(path, optimizer=optimiser)
    scheduler.step()
    with pytest.raises(tg.CheckpointError, match="it holds no schedule"):
        tg.load_checkpoint(path, optimizer=optimiser, scheduler=scheduler)
    tg.save_checkpoint(path, optimizer=optimiser, scheduler=StepLR(optimiser_of(), 3, gamma=0.5))
    scheduler.step()
    before = scheduler.state_dict()
    with pytest.raises(tg.CheckpointError, match="it holds the state of StepLR, not of ExponentialLR"):
        tg.load_checkpoint(path, optimizer=optimiser, scheduler=scheduler)
    assert scheduler.state_dict() == before and optimiser.param_groups[0]["lr"] == 0.125


# ---- Refusals --------------------------------------------------------------------------------------------------------

REFUSED = [
    (lambda o: StepLR(o, 0), "StepLR: step_size must be at least 1 and finite, got 0"),
    (lambda o: StepLR(o, 1, -1.0), "StepLR: gamma must be at least 0"),
    (lambda o: MultiStepLR(o, [3, -1]), r"MultiStepLR: milestones\[0\] must be at least 0 and finite, got -1"),
    (lambda o: ExponentialLR(o, math.nan), "ExponentialLR: gamma must be at least 0"),
    (lambda o: ExponentialLR(o, math.inf), "ExponentialLR: gamma must be at least 0 and finite, got inf"),
    (lambda o: ConstantLR(o, 1.1), r"ConstantLR: factor must lie in \[0, 1\], got 1.1"),
    (lambda o: ConstantLR(o, total_iters=0), "ConstantLR: total_iters must be at least 1"),
    (lambda o: LinearLR(o, 0.0), "LinearLR: start_factor must be above 0"),
    (lambda o: LinearLR(o, end_factor=2.0), r"LinearLR: end_factor must lie in \[0, 1\]"),
    (lambda o: LinearLR(o, total_iters=0), "LinearLR: total_iters must be at least 1"),
    (lambda o: CosineAnnealingLR(o, 0), "CosineAnnealingLR: T_max must be at least 1"),
    (lambda o: CosineAnnealingWarmRestarts(o, 0), "T_0 must be a whole number above 0, got 0"),
    (lambda o: CosineAnnealingWarmRestarts(o, 1, 1.5), "T_mult must be a whole number above 0, got 1.5"),
    (lambda o: OneCycleLR(o, 1.0), "give total_steps, or epochs and steps_per_epoch"),
    (lambda o: OneCycleLR(o, 1.0, total_steps=0), "total_steps must be at least 1"),
    (lambda o: OneCycleLR(o, 1.0, epochs=1, steps_per_epoch=0), "steps_per_epoch must be at least 1"),
    (lambda o: OneCycleLR(o, [1.0], total_steps=9), "max_lr has 1 values for 2 groups"),
    (lambda o: OneCycleLR(o, [1.0, -1.0], total_steps=9), "max_lr must be at least 0 and finite, got -1.0"),
    (lambda o: OneCycleLR(o, 1.0, total_steps=9, pct_start=2.0), r"pct_start must lie in \[0, 1\]"),
    (lambda o: OneCycleLR(o, 1.0, total_steps=9, anneal_strategy="exp"), "must be 'cos' or 'linear', got 'exp'"),
    (lambda o: OneCycleLR(o, 1.0, total_steps=9, div_factor=0.0), "the factors must be above 0"),
    (lambda o: ReduceLROnPlateau(o, mode="low"), "mode must be 'min' or 'max', got 'low'"),
    (lambda o: ReduceLROnPlateau(o, factor=1.0), r"factor must lie in \[0, 1\), got 1.0"),
    (lambda o: ReduceLROnPlateau(o, patience=-1), "patience must be at least 0"),
    (lambda o: ReduceLROnPlateau(o, threshold_mode="much"), "threshold_mode must be 'rel' or 'abs'"),
    (lambda o: ReduceLROnPlateau(o, min_lr=[0.0] * 3), "min_lr has 3 values for 2 groups"),
    (lambda o: SequentialLR(o, [], []), "got 0 schedules and 0 milestones"),
    (lambda o: SequentialLR(o, [StepLR(o, 1)], [3]), "got 1 schedules and 1 milestones"),
    (lambda o: SequentialLR(o, [StepLR(o, 1), StepLR(o, 1)], [0]), r"must be positive and increasing, got \[0\]"),
    (lambda o: SequentialLR(o, [StepLR(o, 1)] * 3, [3, 3]), r"must be positive and increasing, got \[3, 3\]"),
    (lambda o: SequentialLR(o, [StepLR(optimiser_of(), 1)], []), r"schedulers\[0\], StepLR, has another optimizer"),
    (lambda o: SequentialLR(o, [ReduceLROnPlateau(o)], []), "is a ReduceLROnPlateau, whose step needs a metric"),
]


@pytest.mark.parametrize(("make", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_arguments_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make(optimiser_of(momentum=0.5))


def test_what_is_no_optimiser_and_no_schedule():
    for make in (lambda o: StepLR(o, 1), ReduceLROnPlateau, lambda o: OneCycleLR(o, 1.0, 9),
                 lambda o: SequentialLR(o, [], [])):
        with pytest.raises(TypeError, match="expected an Optimizer, got a list"):
            make([])
    with pytest.raises(TypeError, match=r"schedulers\[0\] is no schedule but a str"):
        SequentialLR(optimiser_of(), ["StepLR"], [])
    with pytest.raises(NotImplementedError, match="LRScheduler must define next_lr"):
        LRScheduler(optimiser_of())


def test_what_is_asked_of_a_schedule_that_it_cannot_do():
    optimiser = optimiser_of(Adagrad)
    with pytest.raises(ValueError, match="Adagrad has neither momentum nor betas; pass cycle_momentum=False"):
        OneCycleLR(optimiser, 1.0, total_steps=2)
    scheduler = OneCycleLR(optimiser, 1.0, total_steps=2, cycle_momentum=False)
    rates(scheduler, 2)
    before = scheduler.state_dict()
    with pytest.raises(ValueError, match="called more than total_steps = 2 times"):
        scheduler.step()
    assert scheduler.state_dict() == before
    with pytest.raises(ValueError, match="epoch must be at least 0 and finite, got -1"):
        CosineAnnealingWarmRestarts(optimiser, 2).step(-1)
    with pytest.raises(NotImplementedError, match="make a new one"):
        ReduceLROnPlateau(optimiser).restart()


@pytest.mark.parametrize("make", [MAKERS["step"], MAKERS["restarts"], MAKERS["sequence"]])
def test_groups_that_came_later(make):
    optimiser = optimiser_of()
    scheduler, plateau = make(optimiser), ReduceLROnPlateau(optimiser)
    optimiser.add_param_group({"params": [tg.tensor([1.0], requires_grad=True)], "lr": 7.0})
    before = scheduler.state_dict()
    with pytest.raises(ValueError, match="the optimizer has 3 groups, and had 2 when the schedule was made"):
        scheduler.step()
    with pytest.raises(ValueError, match="the optimizer has 3 groups, and had 2 when the schedule was made"):
        plateau.step(1.0)
    assert scheduler.state_dict() == before


def test_repr():
    assert repr(StepLR(optimiser_of(lrs=[0.5]), 3)) == "StepLR(step_size=3, gamma=0.1)  # epoch 0: [0.5]"
