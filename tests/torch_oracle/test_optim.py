"""Optimisers, schedules and gradient clipping: PyTorch's numbers to ten digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tinygrad_rnn as tg
from torch_oracle.cases import compare_all
from torch_oracle.optimisers import TOLERANCE, run
from torch_oracle.schedules import SCHEDULES, go_on, resume
from torch_oracle.schedules import TOLERANCE as LEARNING_RATES
from torch_oracle.schedules import run as run_schedule
from torch_oracle.tally import TALLY
from torch_oracle.torch_modules import OPTIMISERS, ask_optimiser, ask_schedule


@pytest.mark.parametrize("number", range(len(OPTIMISERS)), ids=[f"{n}-{i}" for i, (n, _) in enumerate(OPTIMISERS)])
def test_optimiser(number):
    """50 steps, two groups, some steps without a gradient; a new optimiser midway, from our state or PyTorch's."""
    states: list = []
    case, expected = ask_optimiser(*OPTIMISERS[number], seed=number, states=states)
    for state in (None, states[case.reload_at - 1]):
        for step, (actual, wanted) in enumerate(zip(run(case, state), expected, strict=True)):
            wrong = compare_all(f"{case}, parameter after step {step}", actual, wanted, TOLERANCE)
            assert not wrong, wrong
    TALLY["optimisers"]["compared"] += 1


@pytest.mark.parametrize("case", SCHEDULES, ids=[f"{c.schedules[0][0]}-{i}" for i, c in enumerate(SCHEDULES)])
def test_schedule(case):
    """Learning rates and momenta at every step; new objects go on midway, from our states and from PyTorch's."""
    states: list = []
    expected = ask_schedule(case, states)
    wrong = compare_all(str(case), run_schedule(case), expected, LEARNING_RATES)
    middle = len(case.metrics) // 2
    rest = go_on(*resume(case, *states[middle - 1]), case.metrics[middle:])
    wrong += compare_all(f"{case} from PyTorch's state", rest, expected[middle + 1 :], LEARNING_RATES)
    assert not wrong, wrong
    TALLY["schedules"]["compared"] += 1


GRADIENTS = [np.array([[3.0, -4.0], [1.0, 2.0]]), np.array([12.0, -0.5]), None]


def parameters_with(gradients):
    """Parameters of both libraries that have these gradients."""
    ours = [tg.tensor(np.ones(np.shape(g)), requires_grad=True) for g in gradients]
    terms = [(p * tg.tensor(g)).sum() for p, g in zip(ours, gradients) if g is not None]
    sum(terms[1:], terms[0]).backward()
    theirs = [torch.ones(np.shape(g), dtype=torch.float64, requires_grad=True) for g in gradients]
    for parameter, gradient in zip(theirs, gradients):
        parameter.grad = None if gradient is None else torch.tensor(gradient)
    return ours, theirs


def assert_same_gradients(ours, theirs):
    for p, q in zip(ours, theirs, strict=True):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None:
            np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-12)


@pytest.mark.parametrize("max_norm", [0.5, 1e6], ids=["clips", "is long enough"])
@pytest.mark.parametrize("norm_type", [1, 2, 2.5, float("inf")])
def test_clip_grad_norm(norm_type, max_norm):
    ours, theirs = parameters_with(GRADIENTS)
    total = tg.nn.utils.clip_grad_norm_(ours, max_norm, norm_type=norm_type)
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type=norm_type)
    np.testing.assert_allclose(float(total), float(expected), rtol=1e-12)
    assert_same_gradients(ours, theirs)


def test_clip_grad_norm_of_one_parameter_and_of_none():
    ours, theirs = parameters_with(GRADIENTS[:1])
    assert float(tg.nn.utils.clip_grad_norm_(ours[0], 1.0)) == pytest.approx(np.sqrt(30))
    torch.nn.utils.clip_grad_norm_(theirs[0], 1.0)
    assert_same_gradients(ours, theirs)
    assert float(tg.nn.utils.clip_grad_norm_([], 1.0)) == 0
    assert float(tg.nn.utils.clip_grad_norm_(iter(ours), 10.0)) == pytest.approx(1.0, rel=1e-6), "a generator will do"


@pytest.mark.parametrize("poison", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("norm_type", [1, 2, float("inf")])
def test_clip_grad_norm_refuses_a_gradient_that_is_not_finite(norm_type, poison):
    """One infinite gradient would turn all others into NaN: raise, and leave them as they were, unless told not to."""
    gradients = [GRADIENTS[0], np.array([1.0, poison])]
    ours, theirs = parameters_with(gradients)
    with pytest.raises((RuntimeError, ValueError, FloatingPointError), match="finite"):
        tg.nn.utils.clip_grad_norm_(ours, 1.0, norm_type=norm_type)
    for parameter, gradient in zip(ours, gradients, strict=True):
        np.testing.assert_array_equal(parameter.grad.numpy(), gradient)
    tg.nn.utils.clip_grad_norm_(ours, 1.0, norm_type=norm_type, error_if_nonfinite=False)
    torch.nn.utils.clip_grad_norm_(theirs, 1.0, norm_type=norm_type)
    assert_same_gradients(ours, theirs)


def test_clip_grad_value():
    ours, theirs = parameters_with(GRADIENTS)
    tg.nn.utils.clip_grad_value_(ours, 2.5)
    torch.nn.utils.clip_grad_value_(theirs, 2.5)
    assert_same_gradients(ours, theirs)
