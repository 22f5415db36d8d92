"""Penalties: their value, their gradient, and what weight_decay has to do with them."""

import numpy as np
import pytest

import tinygrad_rnn as tg
from tinygrad_rnn.optim import SGD, Adam, AdamW, l1_penalty, l2_penalty


def parameters():
    random = np.random.default_rng(0)
    return [tg.tensor(random.standard_normal(shape), requires_grad=True) for shape in [(3, 4), (5,), ()]]


def test_values_and_gradients():
    ps = parameters()
    loss = l1_penalty(ps, 0.1) + l2_penalty(iter(ps), 0.5)
    expected = sum(0.1 * np.abs(p.numpy()).sum() + 0.5 * (p.numpy() ** 2).sum() for p in ps)
    assert loss.shape == () and loss.item() == pytest.approx(expected, rel=1e-12)
    loss.backward()
    for p in ps:
        np.testing.assert_allclose(p.grad.numpy(), 0.1 * np.sign(p.numpy()) + p.numpy(), rtol=1e-12)


def test_a_single_tensor_is_penalised_whole():
    p = tg.tensor(np.array([1.0, -2.0]), requires_grad=True)
    assert l1_penalty(p, 1.0).item() == 3.0 and l2_penalty(p, 1.0).item() == 5.0


def test_both_can_be_differentiated_twice():
    assert tg.gradgradcheck(lambda p: l1_penalty([p], 0.3) + l2_penalty([p], 0.7), [parameters()[0]])


def test_l1_lets_a_zero_be():
    p = tg.tensor([0.0, 2.0], requires_grad=True)
    l1_penalty(p, 0.5).backward()
    np.testing.assert_array_equal(p.grad.numpy(), np.float32([0.0, 0.5]))


@pytest.mark.parametrize(("kind", "same"), [(SGD, True), (Adam, True), (AdamW, False)])
def test_weight_decay_is_twice_the_l2_penalty_except_in_adamw(kind, same):
    def trained(weight_decay, strength):
        p = tg.tensor(np.array([1.0, -2.0, 3.0]), requires_grad=True)
        optimiser = kind([p], lr=0.1, weight_decay=weight_decay)
        for _ in range(10):
            optimiser.zero_grad()
            (p.sin().sum() + l2_penalty([p], strength)).backward()
            optimiser.step()
        return p.numpy()

    assert np.allclose(trained(0.2, 0.0), trained(0.0, 0.1), rtol=1e-10) == same


@pytest.mark.parametrize("penalty", [l1_penalty, l2_penalty])
def test_refusals(penalty):
    for bad in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=f"{penalty.__name__}: strength must be"):
            penalty(parameters(), bad)
    with pytest.raises(ValueError, match=f"{penalty.__name__}: no parameters"):
        penalty([], 1.0)
